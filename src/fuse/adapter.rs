//! Unpacks requests, answers what is in memory on the spot, spawns the rest and replies from the task.
//!
//! The bodies of requests for bytes, directories and extended attributes are in `io`, `directory` and `attribute`;
//! `tree` tells whom a request is for, and `top` has those for the directory of all buckets.
//!
//! 1. Everything borrowed from the request is owned before the callback returns.
//! 2. A hit (cached block, fresh attribute, xattr probe) never leaves the FUSE thread: the hand-over costs more
//!    than the answer.
//! 3. Every reply has a deadline. A panic in a task drops the reply, which fuser answers with EIO; a panic on the
//!    FUSE thread is caught here for the same answer, because the thread must live on.
//! 4. Reference counts are raised before the reply is sent and lowered synchronously in `forget`.

use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, CopyFileRangeFlags, Errno, FileHandle, FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;
use tracing::debug;

use crate::error::{Error, Kind, Result};
use crate::fs::file::OpenMode;
use crate::fs::setattr::Change;
use crate::fs::{Fh, Fs, Ino};
use crate::key::Name;

use super::io::write_mode;
use super::probe::Probes;
use super::reply::{Refuse, entry_attr, errno, log, of_time, reply_entry, reply_lookup};
use super::through::{self, Through};
use super::tree::{Near, Tree};

/// Largest write the kernel sends at once; more only costs buffers (measured: direct I/O gains nothing past it).
const MAX_WRITE: u32 = 1 << 20;
/// Requests the kernel keeps in flight for read-ahead and asynchronous I/O.
const MAX_BACKGROUND: u16 = 64;

pub struct Adapter {
    pub(super) tree: Tree,
    runtime: Handle,
    pub(super) probes: Arc<Probes>,
    through: Arc<Through>,
}

impl Adapter {
    /// `runtime`: where the tasks run.
    pub fn new(tree: Tree, runtime: Handle) -> Adapter {
        Adapter { tree, runtime, probes: Arc::new(Probes::new()), through: Arc::default() }
    }

    /// Runs `work` on the file system that `ino` is in, in a task under a deadline, and answers with what comes of it.
    pub(super) fn spawn<R: Refuse, T: Send + 'static, W: Future<Output = Result<T>> + Send>(
        &self,
        op: &'static str,
        deadline: Option<Duration>,
        ino: INodeNo,
        reply: R,
        work: impl FnOnce(Arc<Fs>) -> W + Send + 'static,
        done: impl FnOnce(&Arc<Fs>, R, T) + Send + 'static,
    ) {
        let route = self.tree.route(ino);
        let work = async move {
            let fs = route.enter().await?;
            let value = work(fs.clone()).await?;
            Ok((fs, value))
        };
        self.answer(op, deadline, reply, work, |reply, (fs, value)| done(&fs, reply, value));
    }

    /// Runs `work` in a task under a deadline and answers with what comes of it.
    pub(super) fn answer<R: Refuse, T: Send + 'static>(
        &self,
        op: &'static str,
        deadline: Option<Duration>,
        reply: R,
        work: impl Future<Output = Result<T>> + Send + 'static,
        done: impl FnOnce(R, T) + Send + 'static,
    ) {
        self.runtime.spawn(async move {
            let result = match deadline {
                Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
                    Err(Error::new(Kind::Timeout, op).with_fix("is the store reachable? op_timeout sets the limit"))
                }),
                // Moves file data: every request in it has a deadline of its own, the sum depends on the size.
                None => work.await,
            };
            match result {
                Ok(value) => done(reply, value),
                Err(e) => {
                    log(op, &e);
                    reply.refuse(errno(&e));
                }
            }
        });
    }

    /// Deadline of an operation that moves no file data: its requests each keep `op_timeout`, and few follow on
    /// each other.
    pub(super) fn limit(&self) -> Option<Duration> {
        Some(self.tree.op_timeout() * 3)
    }

    /// What is answered on the FUSE thread must not kill it.
    pub(super) fn inline<T>(&self, op: &'static str, f: impl FnOnce() -> Option<Result<T>>) -> Option<Result<T>> {
        catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| Some(Err(Error::new(Kind::Io, format!("{op} panicked")))))
    }

    /// The file system of an inode, if somebody has been there.
    pub(super) fn near(&self, ino: INodeNo) -> Option<Near<'_>> {
        self.tree.near(ino)
    }

    fn name(&self, name: &OsStr) -> Result<Name> {
        Name::parse(name)
    }
}

/// Answers with the errno of a failed argument check, or goes on with the value.
macro_rules! check {
    ($op:literal, $reply:ident, $value:expr) => {
        match $value {
            Ok(value) => value,
            Err(e) => {
                log($op, &e);
                $reply.error(errno(&e));
                return;
            }
        }
    };
}

impl fuser::Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // One by one: adding is all or nothing, and old kernels lack some.
        for flag in [
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_CACHE_SYMLINKS,
            // Spares a getxattr(security.capability) before each write; writes carry the flag instead.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ] {
            if config.add_capabilities(flag).is_err() {
                debug!(?flag, "the kernel lacks a FUSE capability");
            }
        }
        if self.tree.passthrough() {
            self.through.greet(config);
        }
        let _ = config.set_max_write(MAX_WRITE);
        let _ = config.set_max_background(MAX_BACKGROUND);
        let _ = config.set_congestion_threshold(MAX_BACKGROUND * 3 / 4);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if let Some(buckets) = self.tree.top(parent) {
            return self.lookup_bucket(buckets, name, reply);
        }
        let name = check!("lookup", reply, self.name(name));
        let near = self.near(parent);
        let dir = Ino(parent.0);
        let now = || near.as_ref().filter(|_| !name.needs_listing())?.lookup_now(dir, &name).map(Ok);
        match self.inline("lookup", now).zip(near.as_ref()) {
            Some((Ok(answer), fs)) => return reply_lookup(fs, reply, answer),
            Some((Err(e), _)) => {
                log("lookup", &e);
                return reply.error(errno(&e));
            }
            None => {}
        }
        let work = move |fs: Arc<Fs>| async move { fs.lookup(dir, &name).await };
        self.spawn("lookup", self.limit(), parent, reply, work, |fs, reply, found| reply_lookup(fs, reply, found));
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.tree.forget(ino, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let number = Ino(ino.0);
        let now = || match self.near(ino) {
            Some(fs) => fs.getattr_now(number),
            None => self.tree.outside(ino).map(Ok),
        };
        match self.inline("getattr", now) {
            Some(Ok(e)) => reply.attr(&e.ttl, &entry_attr(&e)),
            Some(Err(e)) => {
                log("getattr", &e);
                reply.error(errno(&e));
            }
            None => {
                let work = move |fs: Arc<Fs>| async move { fs.getattr(number).await };
                self.spawn("getattr", self.limit(), ino, reply, work, |_, reply, e| {
                    reply.attr(&e.ttl, &entry_attr(&e));
                });
            }
        }
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change {
            perm: mode.map(|m| (m & 0o7777) as u16),
            uid,
            gid,
            size,
            atime: atime.map(of_time),
            mtime: mtime.map(of_time),
        };
        let number = Ino(ino.0);
        // truncate(2) may have to store a whole file.
        let limit = if size.is_some() { None } else { self.limit() };
        let (fh, pid) = (fh.map(|f| Fh(f.0)), req.pid());
        let work = move |fs: Arc<Fs>| async move {
            if let (Some(fh), Some(_)) = (fh, size) {
                fs.used_by(fh, pid).await;
            }
            fs.setattr(number, fh, change).await
        };
        self.spawn("setattr", limit, ino, reply, work, |_, reply, e| reply.attr(&e.ttl, &entry_attr(&e)));
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let work = move |fs: Arc<Fs>| async move { fs.readlink(Ino(ino.0)).await };
        self.spawn("readlink", self.limit(), ino, reply, work, |_, reply, target| reply.data(target.as_bytes()));
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        let name = check!("mknod", reply, self.name(name));
        let owner = (req.uid(), req.gid());
        let perm = (mode & !umask & 0o7777) as u16;
        let work = move |fs: Arc<Fs>| async move { fs.mknod(Ino(parent.0), &name, mode, perm, owner).await };
        self.spawn("mknod", self.limit(), parent, reply, work, |fs, reply, e| reply_entry(fs, reply, &e));
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        if let Some(buckets) = self.tree.top(parent) {
            return self.make_bucket(buckets, name, reply);
        }
        let name = check!("mkdir", reply, self.name(name));
        let owner = (req.uid(), req.gid());
        let perm = (mode & !umask & 0o7777) as u16;
        let work = move |fs: Arc<Fs>| async move { fs.mkdir(Ino(parent.0), &name, perm, owner).await };
        self.spawn("mkdir", self.limit(), parent, reply, work, |fs, reply, e| reply_entry(fs, reply, &e));
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = check!("unlink", reply, self.name(name));
        let work = move |fs: Arc<Fs>| async move { fs.unlink(Ino(parent.0), &name).await };
        self.spawn("unlink", self.limit(), parent, reply, work, |_, reply, ()| reply.ok());
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if let Some(buckets) = self.tree.top(parent) {
            return self.remove_bucket(buckets, name, reply);
        }
        let name = check!("rmdir", reply, self.name(name));
        let work = move |fs: Arc<Fs>| async move { fs.rmdir(Ino(parent.0), &name).await };
        self.spawn("rmdir", self.limit(), parent, reply, work, |_, reply, ()| reply.ok());
    }

    fn symlink(&self, req: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        let name = check!("symlink", reply, self.name(link_name));
        let Some(target) = target.to_str().map(str::to_owned) else {
            return reply.error(Errno::EINVAL);
        };
        let owner = (req.uid(), req.gid());
        let work = move |fs: Arc<Fs>| async move { fs.symlink(Ino(parent.0), &name, &target, owner).await };
        self.spawn("symlink", self.limit(), parent, reply, work, |fs, reply, e| reply_entry(fs, reply, &e));
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if self.tree.are_apart(parent, newparent) {
            // mv(1) copies and deletes then.
            return reply.error(Errno::EXDEV);
        }
        let from = check!("rename", reply, self.name(name));
        let to = check!("rename", reply, self.name(newname));
        if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let no_replace = flags.contains(RenameFlags::RENAME_NOREPLACE);
        let (old, new) = (Ino(parent.0), Ino(newparent.0));
        let work = move |fs: Arc<Fs>| async move { fs.rename((old, &from), (new, &to), no_replace).await };
        self.spawn("rename", None, parent, reply, work, |_, reply, ()| reply.ok());
    }

    fn link(&self, _req: &Request, _ino: INodeNo, _newparent: INodeNo, _newname: &OsStr, reply: ReplyEntry) {
        // link(2): "the file system does not support hard links".
        reply.error(Errno::EPERM);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (number, pid) = (Ino(ino.0), req.pid());
        let mode = OpenMode::of_flags(flags.0);
        let near = self.near(ino);
        match self.inline("open", || near.as_ref()?.open_now(number, mode)).zip(near.as_ref()) {
            Some((Ok(opened), fs)) => {
                return self.through.reply_opened(fs, &self.runtime, reply, opened, mode.direct);
            }
            Some((Err(e), _)) => {
                log("open", &e);
                return reply.error(errno(&e));
            }
            None => {}
        }
        let work = move |fs: Arc<Fs>| async move {
            let opened = fs.open(number, mode).await?;
            fs.used_by(opened.fh, pid).await;
            Ok(opened)
        };
        let (through, runtime) = (self.through.clone(), self.runtime.clone());
        self.spawn("open", self.limit(), ino, reply, work, move |fs, reply, opened| {
            through.reply_opened(fs, &runtime, reply, opened, mode.direct);
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let name = check!("create", reply, self.name(name));
        let owner = (req.uid(), req.gid());
        let perm = (mode & !umask & 0o7777) as u16;
        let open = OpenMode::of_flags(flags);
        let pid = req.pid();
        let work = move |fs: Arc<Fs>| async move {
            let (entry, opened) = fs.create(Ino(parent.0), &name, perm, owner, open).await?;
            fs.used_by(opened.fh, pid).await;
            Ok((entry, opened))
        };
        let runtime = self.runtime.clone();
        self.spawn("create", self.limit(), parent, reply, work, move |fs, reply, (entry, opened)| {
            // Somebody else had made it, and it is open here.
            if let Err(e) = fs.choose_mode(&opened, false, |_| None) {
                reply.error(errno(&e));
                return through::close(fs, &runtime, opened.fh);
            }
            fs.looked_up(entry.ino);
            let attr = entry_attr(&entry);
            let flags = FopenFlags::FOPEN_KEEP_CACHE;
            reply.created(&entry.ttl, &attr, Generation(0), FileHandle(opened.fh.0), flags);
        });
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.read_file(ino, fh, offset, size, reply);
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.write_file((ino, fh), offset, data, write_mode(req.pid(), write_flags, flags), reply);
    }

    fn flush(&self, req: &Request, ino: INodeNo, fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        self.flush_file(ino, fh, req.pid(), reply);
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.sync_file(ino, fh, reply);
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.release_file(ino, fh, reply);
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.open_directory(ino, reply);
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.list(ino, fh, offset, reply);
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        self.list_plus(ino, fh, offset, reply);
    }

    fn releasedir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        if let Some(buckets) = self.tree.top(ino) {
            buckets.releasedir(Fh(fh.0));
        } else if let Some(fs) = self.near(ino) {
            fs.handles.remove_dir(Fh(fh.0));
        }
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        if self.tree.top(ino).is_some() {
            // A bucket is there, or not, when the call returns.
            return reply.ok();
        }
        let work = move |fs: Arc<Fs>| async move { fs.sync_dir(Ino(ino.0)).await };
        self.spawn("fsyncdir", self.limit(), ino, reply, work, |_, reply, ()| reply.ok());
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        const BLOCK: u32 = 128 << 10;
        let blocks = self.tree.capacity() / u64::from(BLOCK);
        reply.statfs(blocks, blocks, blocks, 1 << 40, 1 << 40, BLOCK, 255, BLOCK);
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.set_attribute(ino, name, value, flags, reply);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.get_attribute(ino, name, size, reply);
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.list_attributes(ino, size, reply);
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove_attribute(ino, name, reply);
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.allocate_file((ino, fh), offset, length, mode, req.pid(), reply);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        // What programs ask to find out whether a file is a terminal.
        reply.error(Errno::ENOTTY);
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks by mode and owner, and stops asking.
        reply.error(Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        if self.tree.are_apart(ino_in, ino_out) {
            return reply.error(Errno::EXDEV);
        }
        self.copy_range(ino_in, (fh_in, offset_in), (fh_out, offset_out), len, (flags, req.pid()), reply);
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        self.seek_file(ino, fh, offset, whence, reply);
    }
}

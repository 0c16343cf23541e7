//! From our types to the kernel's: attributes, entries, errno numbers; and the notifier.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, Notifier, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyWrite,
    ReplyXattr, TimeOrNow,
};
use tracing::{debug, warn};

use crate::error::Error;
use crate::fs::file::Opened;
use crate::fs::{Attr, Entry, FileKind, Fs, Ino, Kernel, Lookup};
use crate::key::Name;

/// Something that can be answered with an errno.
pub(super) trait Refuse: Send + 'static {
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($t:ty),*) => {$(impl Refuse for $t {
        fn refuse(self, errno: Errno) {
            self.error(errno);
        }
    })*};
}

refuse!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyLseek,
    ReplyOpen,
    ReplyWrite,
    ReplyXattr
);

pub(super) fn errno(e: &Error) -> Errno {
    Errno::from_i32(e.errno())
}

/// The one place where failures are logged.
pub(super) fn log(op: &'static str, e: &Error) {
    if e.is_news() {
        warn!(op, errno = e.errno(), "{e}");
    } else {
        debug!(op, errno = e.errno(), "{e}");
    }
}

pub(super) fn to_attr(ino: Ino, attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino.0),
        size: attr.size,
        blocks: attr.size.div_ceil(512),
        atime: attr.atime,
        mtime: attr.mtime,
        ctime: attr.ctime,
        crtime: attr.ctime,
        kind: to_type(attr.kind),
        perm: attr.perm,
        // 1 tells find(1) not to count subdirectories by links.
        nlink: 1,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: 128 << 10,
        flags: 0,
    }
}

pub(super) fn entry_attr(entry: &Entry) -> FileAttr {
    FileAttr { nlink: entry.links, ..to_attr(entry.ino, &entry.attr) }
}

pub(super) fn to_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Dir => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
    }
}

pub(super) fn of_time(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(t) => t,
        TimeOrNow::Now => SystemTime::now(),
    }
}

pub(super) fn reply_entry(fs: &Fs, reply: ReplyEntry, entry: &Entry) {
    fs.looked_up(entry.ino);
    reply.entry(&entry.ttl, &entry_attr(entry), Generation(0));
}

pub(super) fn reply_opened(reply: ReplyOpen, opened: Opened) {
    let mut flags = FopenFlags::empty();
    if opened.keep_pages {
        flags |= FopenFlags::FOPEN_KEEP_CACHE;
    }
    if opened.no_flush {
        flags |= FopenFlags::FOPEN_NOFLUSH;
    }
    reply.opened(FileHandle(opened.fh.0), flags);
}

pub(super) fn reply_lookup(fs: &Fs, reply: ReplyEntry, lookup: Lookup) {
    match lookup {
        Lookup::Found(entry) => reply_entry(fs, reply, &entry),
        Lookup::Absent(ttl) => absent(reply, ttl),
    }
}

/// There is no such name, which is believed for `ttl`.
pub(super) fn absent(reply: ReplyEntry, ttl: Duration) {
    if ttl.is_zero() {
        return reply.error(Errno::ENOENT);
    }
    // Inode 0 is a negative entry: the kernel remembers the absence.
    let now = SystemTime::UNIX_EPOCH;
    let attr = Attr { kind: FileKind::File, size: 0, perm: 0, uid: 0, gid: 0, atime: now, mtime: now, ctime: now };
    reply.entry(&ttl, &to_attr(Ino(0), &attr), Generation(0));
}

pub(super) fn reply_sized(reply: ReplyXattr, size: u32, value: &[u8]) {
    match u32::try_from(value.len()) {
        Ok(len) if size == 0 => reply.size(len),
        Ok(len) if len <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

/// Tells the kernel to drop what it caches.
pub struct KernelNotifier {
    pub notifier: Notifier,
    pub device: String,
}

impl Kernel for KernelNotifier {
    fn invalidate(&self, ino: Ino) {
        let _ = self.notifier.inval_inode(INodeNo(ino.0), 0, 0);
    }

    fn invalidate_entry(&self, parent: Ino, name: &Name) {
        let _ = self.notifier.inval_entry(INodeNo(parent.0), OsStr::from_bytes(name.as_str().as_bytes()));
    }

    fn device(&self) -> &str {
        &self.device
    }
}

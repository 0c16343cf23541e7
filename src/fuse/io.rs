//! Requests that move the bytes of files.
//!
//! 1. A write that fits in memory is copied once, on the FUSE thread, and answered there.
//! 2. Pages of a mapping come back as writes through any handle that may write, also one that appends: they belong at
//!    their offset. Whether a write appends is said by its own flags, because fcntl(2) changes those of the handle.
//! 3. With O_SYNC and O_DSYNC the kernel sends an fsync after each write: there is nothing to do for them here.

use std::sync::Arc;

use bytes::Bytes;
use fuser::{
    CopyFileRangeFlags, Errno, FileHandle, INodeNo, OpenFlags, ReplyData, ReplyEmpty, ReplyLseek, ReplyWrite,
    WriteFlags,
};

use crate::fs::file::WriteMode;
use crate::fs::{Fh, Fs};

use super::adapter::Adapter;
use super::reply::{errno, log};

/// `thread`: who writes; of pages nobody knows.
pub(super) fn write_mode(thread: u32, write: WriteFlags, open: OpenFlags) -> WriteMode {
    let page = write.contains(WriteFlags::FUSE_WRITE_CACHE);
    WriteMode {
        thread: Some(if page { 0 } else { thread }),
        append: !page && open.0 & libc::O_APPEND != 0,
        kill_suid: write.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
    }
}

impl Adapter {
    pub(super) fn read_file(&self, ino: INodeNo, fh: FileHandle, offset: u64, size: u32, reply: ReplyData) {
        let (fh, len) = (Fh(fh.0), size as usize);
        match self.inline("read", || self.near(ino)?.read_now(fh, offset, len)) {
            Some(Ok(data)) => reply.data(&data),
            Some(Err(e)) => {
                log("read", &e);
                reply.error(errno(&e));
            }
            None => {
                let work = move |fs: Arc<Fs>| async move { fs.read(fh, offset, len).await };
                self.spawn("read", self.limit(), ino, reply, work, |_, reply, data: Bytes| reply.data(&data));
            }
        }
    }

    pub(super) fn flush_file(&self, ino: INodeNo, fh: FileHandle, pid: u32, reply: ReplyEmpty) {
        let work = move |fs: Arc<Fs>| async move { fs.flush(Fh(fh.0), pid).await };
        self.spawn("flush", None, ino, reply, work, |_, reply, ()| reply.ok());
    }

    pub(super) fn sync_file(&self, ino: INodeNo, fh: FileHandle, reply: ReplyEmpty) {
        let work = move |fs: Arc<Fs>| async move { fs.fsync(Fh(fh.0)).await };
        self.spawn("fsync", None, ino, reply, work, |_, reply, ()| reply.ok());
    }

    pub(super) fn release_file(&self, ino: INodeNo, fh: FileHandle, reply: ReplyEmpty) {
        // What nobody has entered has no handles.
        let Some(fs) = self.near(ino) else { return reply.error(Errno::EBADF) };
        let closed = fs.close_handle(Fh(fh.0));
        let work = |fs: Arc<Fs>| async move { fs.released(closed?).await };
        self.spawn("release", None, ino, reply, work, |_, reply, ()| reply.ok());
    }

    pub(super) fn allocate_file(
        &self,
        (ino, fh): (INodeNo, FileHandle),
        offset: u64,
        length: u64,
        mode: i32,
        pid: u32,
        reply: ReplyEmpty,
    ) {
        let fh = Fh(fh.0);
        let work = move |fs: Arc<Fs>| async move {
            fs.used_by(fh, pid).await;
            fs.fallocate(fh, offset, length, mode).await
        };
        self.spawn("fallocate", None, ino, reply, work, |_, reply, ()| reply.ok());
    }

    pub(super) fn seek_file(&self, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let hole = match whence {
            libc::SEEK_DATA => false,
            libc::SEEK_HOLE => true,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let work = move |fs: Arc<Fs>| async move { fs.seek(Fh(fh.0), offset, hole).await };
        self.spawn("lseek", self.limit(), ino, reply, work, |_, reply, at: u64| reply.offset(at as i64));
    }

    pub(super) fn write_file(
        &self,
        (ino, fh): (INodeNo, FileHandle),
        offset: u64,
        data: &[u8],
        mode: WriteMode,
        reply: ReplyWrite,
    ) {
        let (fh, len) = (Fh(fh.0), data.len() as u32);
        match self.inline("write", || self.near(ino)?.write_now(fh, offset, data, mode)) {
            Some(Ok(())) => reply.written(len),
            Some(Err(e)) => {
                log("write", &e);
                reply.error(errno(&e));
            }
            None => {
                let data = Bytes::copy_from_slice(data);
                let work = move |fs: Arc<Fs>| async move { fs.write(fh, offset, data, mode).await };
                self.spawn("write", None, ino, reply, work, move |_, reply, ()| reply.written(len));
            }
        }
    }

    pub(super) fn copy_range(
        &self,
        ino: INodeNo,
        from: (FileHandle, u64),
        to: (FileHandle, u64),
        len: u64,
        (flags, pid): (CopyFileRangeFlags, u32),
        reply: ReplyWrite,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        // The answer has 32 bits.
        let len = len.min(u64::from(u32::MAX));
        let (from, to) = ((Fh(from.0.0), from.1), (Fh(to.0.0), to.1));
        let work = move |fs: Arc<Fs>| async move {
            fs.used_by(to.0, pid).await;
            fs.copy_range(from, to, len).await
        };
        self.spawn("copy_file_range", None, ino, reply, work, |_, reply, copied: u64| reply.written(copied as u32));
    }
}

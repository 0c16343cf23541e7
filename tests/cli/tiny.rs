//! The tiny file system: a root with one file.

use std::ffi::OsStr;
use std::time::Duration;

use fuser::{
    FileAttr, FileType, Filesystem, Generation, INodeNo, ReplyAttr, ReplyDirectory, ReplyEntry, Request as Call,
};
use futures_util::future::BoxFuture;
use xosfs::daemon::control::Console;
use xosfs::daemon::status::Status;
use xosfs::daemon::volume::Unstored;

/// A root with one file, whose attributes are all there is to it.
pub struct Tiny;

fn attr(ino: u64) -> FileAttr {
    let time = std::time::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: if ino == 1 { FileType::Directory } else { FileType::RegularFile },
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Tiny {
    fn lookup(&self, _: &Call, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "file" {
            reply.entry(&Duration::ZERO, &attr(2), Generation(0));
        } else {
            reply.error(fuser::Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Call, ino: INodeNo, _: Option<fuser::FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &attr(ino.0));
    }

    fn readdir(&self, _: &Call, _: INodeNo, _: fuser::FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if offset == 0 {
            let _ = reply.add(INodeNo(2), 1, FileType::RegularFile, "file");
        }
        reply.ok();
    }
}

pub struct Still;

impl Console for Still {
    fn status(&self) -> Status {
        Status { endpoint: "tiny state".into(), ..Status::default() }
    }

    fn flush(&self, _: Duration) -> BoxFuture<'static, Unstored> {
        Box::pin(std::future::ready(Vec::new()))
    }

    fn refresh(&self, _: String) -> BoxFuture<'static, xosfs::Result<u64>> {
        Box::pin(std::future::ready(Ok(0)))
    }
}

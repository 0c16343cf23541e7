//! Requests for the directory that holds the buckets.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use fuser::{
    FileHandle, FileType, FopenFlags, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyOpen,
};

use crate::fs::buckets::{Buckets, Shown};
use crate::fs::{Fh, Lookup, ROOT};

use super::adapter::Adapter;
use super::reply::{absent, entry_attr, to_attr};

/// The places before the first bucket: `.` and `..`.
const DOTS: [&str; 2] = [".", ".."];

fn reply_bucket(reply: ReplyEntry, found: Lookup) {
    match found {
        // Nothing is counted: a bucket stays as long as the mount.
        Lookup::Found(e) => reply.entry(&e.ttl, &entry_attr(&e), Generation(0)),
        Lookup::Absent(ttl) => absent(reply, ttl),
    }
}

impl Adapter {
    pub(super) fn lookup_bucket(&self, buckets: &Arc<Buckets>, name: &OsStr, reply: ReplyEntry) {
        if let Some(found) = buckets.lookup_now(name) {
            return reply_bucket(reply, found);
        }
        let (buckets, name) = (buckets.clone(), name.to_owned());
        let work = async move { buckets.lookup(&name).await };
        self.answer("lookup", self.limit(), reply, work, reply_bucket);
    }

    pub(super) fn make_bucket(&self, buckets: &Arc<Buckets>, name: &OsStr, reply: ReplyEntry) {
        let (buckets, name) = (buckets.clone(), name.to_owned());
        let work = async move { buckets.mkdir(&name).await };
        self.answer("mkdir", self.limit(), reply, work, |reply, e| {
            reply.entry(&e.ttl, &entry_attr(&e), Generation(0));
        });
    }

    pub(super) fn remove_bucket(&self, buckets: &Arc<Buckets>, name: &OsStr, reply: ReplyEmpty) {
        let (buckets, name) = (buckets.clone(), name.to_owned());
        let work = async move { buckets.rmdir(&name).await };
        self.answer("rmdir", self.limit(), reply, work, |reply, ()| reply.ok());
    }

    pub(super) fn open_buckets(&self, buckets: &Arc<Buckets>, reply: ReplyOpen) {
        reply.opened(FileHandle(buckets.opendir().0), FopenFlags::empty());
    }

    pub(super) fn list_buckets(&self, buckets: &Arc<Buckets>, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        for (i, dot) in (1..).zip(DOTS).skip(offset as usize) {
            if reply.add(INodeNo(ROOT.0), i, FileType::Directory, dot) {
                return reply.ok();
            }
        }
        let first = offset.saturating_sub(DOTS.len() as u64);
        let buckets = buckets.clone();
        let work = async move { buckets.readdir(Fh(fh.0), first).await };
        self.answer("readdir", self.limit(), reply, work, move |mut reply, shown: Vec<Shown>| {
            for (at, bucket) in (first + DOTS.len() as u64 + 1..).zip(&shown) {
                if reply.add(INodeNo(bucket.entry.ino.0), at, FileType::Directory, &*bucket.name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    pub(super) fn list_buckets_plus(
        &self,
        buckets: &Arc<Buckets>,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let own = to_attr(ROOT, &buckets.top().attr);
        for (i, dot) in (1..).zip(DOTS).skip(offset as usize) {
            // The kernel takes no reference for these two, and no attributes either.
            if reply.add(INodeNo(ROOT.0), i, dot, &Duration::ZERO, &own, Generation(0)) {
                return reply.ok();
            }
        }
        let first = offset.saturating_sub(DOTS.len() as u64);
        let buckets = buckets.clone();
        let work = async move { buckets.readdir(Fh(fh.0), first).await };
        self.answer("readdirplus", self.limit(), reply, work, move |mut reply, shown: Vec<Shown>| {
            for (at, Shown { name, entry }) in (first + DOTS.len() as u64 + 1..).zip(&shown) {
                let attr = entry_attr(entry);
                if reply.add(INodeNo(entry.ino.0), at, &**name, &entry.ttl, &attr, Generation(0)) {
                    break;
                }
            }
            reply.ok();
        });
    }
}

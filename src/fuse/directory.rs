//! Requests that list directories.

use std::sync::Arc;
use std::time::Duration;

use fuser::{
    Errno, FileHandle, FileType, FopenFlags, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus, ReplyOpen,
};

use crate::fs::{Batch, Fh, Fs, Ino};

use super::adapter::Adapter;
use super::reply::{entry_attr, errno, log, to_attr, to_type};
use super::tree::Near;

impl Adapter {
    /// The tree that a directory is in, and the two entries that every listing begins with.
    fn dots(&self, dir: INodeNo) -> Option<(Near<'_>, [(&'static str, Ino); 2])> {
        let fs = self.near(dir)?;
        let parent = self.tree.parent(&fs, Ino(dir.0));
        Some((fs, [(".", Ino(dir.0)), ("..", parent)]))
    }

    pub(super) fn list(&self, dir: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if let Some(buckets) = self.tree.top(dir) {
            return self.list_buckets(buckets, fh, offset, reply);
        }
        let Some((_, dots)) = self.dots(dir) else { return reply.error(Errno::EBADF) };
        let ino = Ino(dir.0);
        for (i, (dot, number)) in dots.into_iter().enumerate() {
            if offset <= i as u64 && reply.add(INodeNo(number.0), i as u64 + 1, FileType::Directory, dot) {
                return reply.ok();
            }
        }
        let work = move |fs: Arc<Fs>| async move { fs.read_directory(Fh(fh.0), offset.saturating_sub(2)).await };
        self.spawn("readdir", self.limit(), dir, reply, work, move |fs, mut reply, batch: Batch| {
            for (i, item) in batch.items.iter().enumerate() {
                let number = fs.ino_of_entry(ino, &item.name, item.kind);
                let next = batch.offset + i as u64 + 3;
                if reply.add(INodeNo(number.0), next, to_type(item.kind), item.name.as_os_str()) {
                    break;
                }
            }
            reply.ok();
        });
    }

    pub(super) fn list_plus(&self, dir: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        if let Some(buckets) = self.tree.top(dir) {
            return self.list_buckets_plus(buckets, fh, offset, reply);
        }
        let Some((fs, dots)) = self.dots(dir) else { return reply.error(Errno::EBADF) };
        let ino = Ino(dir.0);
        for (i, (dot, number)) in dots.into_iter().enumerate() {
            if offset > i as u64 {
                continue;
            }
            // The kernel takes no reference for these two, and no attributes either.
            let attr = match fs.getattr_now(number) {
                Some(Ok(e)) => to_attr(number, &e.attr),
                _ => to_attr(number, &fs.blank_dir()),
            };
            if reply.add(INodeNo(number.0), i as u64 + 1, dot, &Duration::ZERO, &attr, Generation(0)) {
                return reply.ok();
            }
        }
        let work = move |fs: Arc<Fs>| async move { fs.read_directory(Fh(fh.0), offset.saturating_sub(2)).await };
        self.spawn("readdirplus", self.limit(), dir, reply, work, move |fs, mut reply, batch: Batch| {
            for (i, item) in batch.items.iter().enumerate().take(fs.entries_at_once()) {
                let next = batch.offset + i as u64 + 3;
                let Ok(e) = fs.entry_of_item(ino, item, batch.asked) else { continue };
                let attr = entry_attr(&e);
                if reply.add(INodeNo(e.ino.0), next, item.name.as_os_str(), &e.ttl, &attr, Generation(0)) {
                    break;
                }
                fs.looked_up(e.ino);
            }
            reply.ok();
        });
    }

    pub(super) fn open_directory(&self, ino: INodeNo, reply: ReplyOpen) {
        if let Some(buckets) = self.tree.top(ino) {
            return self.open_buckets(buckets, reply);
        }
        match self.inline("opendir", || Some(self.near(ino).filter(|fs| !fs.is_crowded())?.opendir(Ino(ino.0)))) {
            Some(Ok(fh)) => reply.opened(FileHandle(fh.0), FopenFlags::empty()),
            None => {
                let work = move |fs: Arc<Fs>| async move {
                    fs.room_for_names().await;
                    fs.opendir(Ino(ino.0))
                };
                self.spawn("opendir", self.limit(), ino, reply, work, |_, reply, fh| {
                    reply.opened(FileHandle(fh.0), FopenFlags::empty());
                });
            }
            Some(Err(e)) => {
                log("opendir", &e);
                reply.error(errno(&e));
            }
        }
    }
}

//! Changing attributes: chmod, chown, utimens, truncate.
//!
//! Before the commit they ride along with it. After it they cost one self-copy, which waits `attr_delay` so that
//! the chmod, chown and utimens of one `cp -a` are one copy, or travel with the rename that follows.

use std::sync::Arc;
use std::time::SystemTime;

use tracing::error;

use super::attr::FileKind;
use super::file::Need;
use super::handle::Fh;
use super::inode::{Ino, Inode};
use super::{Entry, Fs};
use crate::error::{Kind, Result};

/// What setattr was asked to change.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub perm: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SystemTime>,
    pub mtime: Option<SystemTime>,
}

impl Fs {
    pub async fn setattr(self: &Arc<Self>, ino: Ino, fh: Option<Fh>, change: Change) -> Result<Entry> {
        self.writable()?;
        let inode = self.inodes.get(ino)?;
        inode.changeable()?;
        if let Some(size) = change.size {
            self.truncate(&inode, fh, size).await?;
        }
        let stores = change.perm.is_some() || change.uid.is_some() || change.gid.is_some() || change.mtime.is_some();
        if stores {
            self.learn_attr(&inode).await?;
        }
        let (schedule, carrier) = {
            let mut state = inode.state.lock();
            let before = state.attr.clone();
            let attr = &mut state.attr;
            if let Some(perm) = change.perm {
                attr.perm = perm;
            }
            if change.uid.is_some() || change.gid.is_some() {
                attr.uid = change.uid.unwrap_or(attr.uid);
                attr.gid = change.gid.unwrap_or(attr.gid);
                // chown(2) takes setuid and setgid away from files.
                if attr.kind == FileKind::File && change.perm.is_none() {
                    attr.perm &= !0o4000;
                    if attr.perm & 0o010 != 0 {
                        attr.perm &= !0o2000;
                    }
                }
            }
            if let Some(atime) = change.atime {
                attr.atime = atime;
            }
            if let Some(mtime) = change.mtime {
                attr.mtime = mtime;
            }
            attr.ctime = SystemTime::now();
            let differs = attr.perm != before.perm
                || attr.uid != before.uid
                || attr.gid != before.gid
                || attr.mtime != before.mtime;
            // A time that was set is the marker's, not that of the last name.
            state.touched &= change.mtime.is_none();
            let carried = state.writer.as_ref().is_some_and(|w| w.is_dirty());
            let pending = differs && stores && self.settings.store_attrs && !carried && ino != self.root();
            let schedule = pending && !state.attr_pending;
            state.attr_pending |= pending;
            state.attr_changed |= pending;
            // A commit that is under way carries the old ones: the next one has the news.
            let carrier = state.writer.clone().filter(|_| carried && differs && stores && self.settings.store_attrs);
            if let Some(w) = &carrier {
                let attr = state.attr.clone();
                w.edit_object(&mut |o| attr.store(&mut o.headers.metadata));
            }
            (schedule, carrier)
        };
        if let Some(w) = carrier {
            w.refresh_record().await;
        }
        if schedule {
            self.schedule_attr(&inode);
        }
        Ok(self.entry(&inode))
    }

    /// The metadata the change is applied to has to be known: a chmod must not reset an mtime nobody looked at.
    pub(super) async fn learn_attr(self: &Arc<Self>, inode: &Arc<Inode>) -> Result<()> {
        let told = {
            let state = inode.state.lock();
            state.attr.kind == FileKind::Dir || state.facts.meta.is_some() || !state.stored || state.writer.is_some()
        };
        if !told && self.settings.store_attrs && self.inodes.place(inode.ino).is_some() {
            self.refresh(inode).await?;
        }
        Ok(())
    }

    pub(super) fn schedule_attr(self: &Arc<Self>, inode: &Arc<Inode>) {
        let (fs, inode, delay) = (self.clone(), inode.clone(), self.settings.attr_delay);
        self.inodes.pin(inode.ino);
        self.spawn(async move {
            // At unmount nobody waits for company.
            for _ in 0..20 {
                if fs.stopping.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                tokio::time::sleep(delay / 20).await;
            }
            while let Err(e) = fs.store_attr(&inode).await {
                // Somebody else has the file for long; nobody waits here.
                let waits = e.kind() == Kind::Timeout && inode.state.lock().attr_pending;
                if !waits || fs.stopping.load(std::sync::atomic::Ordering::Relaxed) {
                    error!("attributes were changed here but could not be stored: {e}");
                    break;
                }
            }
            fs.inodes.unpin(inode.ino);
        });
    }

    /// truncate(2) and ftruncate(2). Without a handle the new size is stored before this returns, unless others have
    /// the file open with changes of their own: then it is part of those.
    async fn truncate(self: &Arc<Self>, inode: &Arc<Inode>, fh: Option<Fh>, size: u64) -> Result<()> {
        match inode.kind() {
            FileKind::Dir => return Err(Kind::IsDir.into()),
            FileKind::Symlink => return Err(Kind::Invalid.into()),
            FileKind::File => {}
        }
        if let Some(fh) = fh
            && !self.handles.file(fh)?.write
        {
            return Err(Kind::Invalid.into());
        }
        let writer = self.hold_writer(inode, if size == 0 { Need::Nothing } else { Need::Headers }).await?;
        // A handle without changes may be one that is closed, and whose release comes after this.
        let alone = fh.is_none() && !writer.is_unacknowledged();
        let truncated = writer.truncate(size).await;
        if truncated.is_ok() {
            self.note_write(inode, true, true);
        }
        let stored = if truncated.is_ok() && alone { self.acknowledge(inode).await } else { Ok(()) };
        let released = self.let_go(inode).await;
        truncated.and(stored).and(released)
    }

    /// fallocate(2): plain or KEEP_SIZE reserves nothing that S3 could promise, and sets the size; PUNCH_HOLE and
    /// ZERO_RANGE write zeros. Other modes: [`Kind::Unsupported`] (EOPNOTSUPP).
    pub async fn fallocate(self: &Arc<Self>, fh: Fh, offset: u64, len: u64, mode: i32) -> Result<()> {
        let handle = self.handles.file(fh)?;
        if !handle.write {
            return Err(Kind::BadHandle.into());
        }
        let writer = self.writer(&handle.inode).await?;
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => writer.allocate(offset, len, keep_size).await?,
            libc::FALLOC_FL_PUNCH_HOLE if keep_size => writer.punch(offset, len).await?,
            libc::FALLOC_FL_ZERO_RANGE => {
                writer.punch(offset, len).await?;
                if !keep_size {
                    writer.allocate(offset, len, false).await?;
                }
            }
            _ => return Err(Kind::Unsupported.into()),
        }
        self.note_write(&handle.inode, true, true);
        Ok(())
    }

    /// SEEK_DATA and SEEK_HOLE. Past the end: [`Kind::NoSuchRange`] (ENXIO).
    pub async fn seek(self: &Arc<Self>, fh: Fh, offset: u64, hole: bool) -> Result<u64> {
        let handle = self.handles.file(fh)?;
        let (writer, size) = {
            let state = handle.inode.state.lock();
            (state.writer.clone(), state.current().size)
        };
        if offset >= size {
            return Err(Kind::NoSuchRange.into());
        }
        match (writer, hole) {
            (Some(w), true) => Ok(w.next_hole(offset)),
            (Some(w), false) => w.next_data(offset).ok_or_else(|| Kind::NoSuchRange.into()),
            (None, true) => Ok(size),
            (None, false) => Ok(offset),
        }
    }
}

//! Opened files that the kernel reads from the disk cache by itself, without asking the daemon.
//!
//! 1. The kernel decides for a whole inode: as long as one handle is read through, all of them have to be, and from the
//!    same file; anything else is EIO. So the mode is chosen under the inode's lock, and who cannot have the mode of the
//!    handles that are open gets another inode: the name is given to a new one, and ESTALE has the kernel look it up.
//! 2. The handles on the old inode keep the version they opened. The file they read from is never changed: the cache
//!    removes files and makes new ones.
//! 3. A file that this mount has changed is not read through while it is remembered: who follows a growing file has to
//!    see what is appended.

use std::any::Any;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::Fs;
use super::file::Opened;
use super::handle::FileHandle;
use super::inode::{Inode, State};
use crate::error::{Error, Kind, Result};
use crate::read::Object;

/// What a file is to the kernel while it is read through; ends when dropped.
pub type Backing = Arc<dyn Any + Send + Sync>;

/// Who reads the bytes of an opened file.
pub enum Mode {
    Daemon,
    Kernel(Backing),
}

/// An inode whose handles are read through.
pub(super) struct Through {
    object: Object,
    backing: Backing,
}

/// A handle's part in this.
#[derive(Default)]
pub(super) struct Offer {
    /// The file that the kernel could read.
    file: Mutex<Option<Arc<File>>>,
    taken: AtomicBool,
}

impl Offer {
    pub fn make(&self, file: Option<Arc<File>>) {
        *self.file.lock() = file;
    }

    fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Relaxed)
    }
}

fn same(a: &Object, b: &Object) -> bool {
    // Not every answer of the store names the version.
    a.id.key == b.id.key && a.id.etag == b.id.etag && a.size == b.size
}

fn looked_up_again() -> Error {
    Error::new(Kind::Stale, "open: what is open of it is read another way").quietly()
}

impl State {
    /// What is known of a file, for another inode of its name.
    fn heir(&self) -> State {
        let mut heir = State::new(self.attr.clone(), self.facts.clone(), self.stored);
        heir.confirmed = self.confirmed;
        heir.changed = self.changed;
        heir.written = self.written;
        heir
    }

    /// Whether `object` cannot be opened beside the handles that are open.
    pub(super) fn is_through_another(&self, object: Option<&Object>) -> bool {
        self.through.as_ref().is_some_and(|t| object.is_none_or(|o| !same(&t.object, o)))
    }

    /// The last handle that is read through may be gone. The caller drops the result after the lock.
    #[must_use]
    pub(super) fn end_through(&mut self) -> Option<Through> {
        let open = self.handles.iter().filter_map(std::sync::Weak::upgrade).any(|h| h.offer.is_taken());
        if open { None } else { self.through.take() }
    }
}

impl Fs {
    /// The file to read `object` from, of an inode that may be read through. Never waits.
    pub(super) fn offer(&self, inode: &Inode, object: &Object) -> Option<Arc<File>> {
        if !self.settings.passthrough || inode.state.lock().written {
            return None;
        }
        self.reads.whole(object)
    }

    /// Decides who reads a file that was opened just now, once for each handle. `shareable`: not with O_DIRECT. `back`
    /// makes a file known to the kernel; `None` where that cannot be.
    ///
    /// Errors: [`Kind::Stale`] when the file has to be looked up again, the handle to be closed.
    pub fn choose_mode(
        &self,
        opened: &Opened,
        shareable: bool,
        back: impl FnOnce(&File) -> Option<Backing>,
    ) -> Result<Mode> {
        let handle = self.handles.file(opened.fh)?;
        let file = handle.offer.file.lock().take();
        let reader = handle.reader();
        let object = reader.as_ref().map(|r| r.object());
        let mut state = handle.inode.state.lock();
        if let Some(through) = &state.through {
            if !shareable || state.is_through_another(object) {
                return Err(looked_up_again());
            }
            handle.offer.taken.store(true, Ordering::Relaxed);
            return Ok(Mode::Kernel(through.backing.clone()));
        }
        let alone = |h: &Arc<FileHandle>| Arc::ptr_eq(h, &handle);
        let others = state.handles.iter().filter_map(std::sync::Weak::upgrade).any(|h| !alone(&h));
        let writing = state.writer.is_some() || state.write_handles > 0;
        let (Some(file), Some(object), false) = (file, object, others || writing) else { return Ok(Mode::Daemon) };
        let Some(backing) = back(&file) else { return Ok(Mode::Daemon) };
        state.through = Some(Through { object: object.clone(), backing: backing.clone() });
        // What the kernel reads now does not go into the pages of this inode.
        state.pages = None;
        handle.offer.taken.store(true, Ordering::Relaxed);
        drop(state);
        if let Some(disk) = self.reads.disk() {
            disk.note_through();
        }
        Ok(Mode::Kernel(backing))
    }

    /// Gives the name of a file that is read through to a new inode; the error for the kernel to look it up again.
    /// `ours`: the new one is to be read by the daemon, lest the next open meets the same.
    pub(super) async fn part(self: &Arc<Self>, inode: &Arc<Inode>, ours: bool) -> Error {
        // A change of attributes that waits is stored by the path of its inode.
        if let Err(e) = self.store_attr(inode).await {
            return e;
        }
        let mut heir = inode.state.lock().heir();
        heir.written |= ours;
        self.inodes.succeed(inode.ino, heir);
        looked_up_again()
    }
}

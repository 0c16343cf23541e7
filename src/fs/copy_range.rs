//! copy_file_range(2): bytes go from one open file to another without passing through the kernel.
//!
//! 1. The source is what its handle reads: the version it is bound to, or what is being written here. Of a large range
//!    of a stored version only a note is taken, and the store copies it at the target's commit; everything else is read
//!    and written in the daemon.
//! 2. Such a note is worth nothing once its source has gone. So whatever on this mount replaces, renames or deletes an
//!    object first commits the files that took notes.
//! 3. A program cannot be interrupted while it waits for us, so one call copies a bounded number of bytes; programs
//!    ask again for the rest.
//! 4. An error behind the first bytes is a short copy: the next call meets it again.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tracing::error;

use super::Fs;
use super::file::WriteMode;
use super::handle::{Fh, FileHandle};
use super::inode::Inode;
use crate::error::{Kind, Result};
use crate::read::Object;

/// Bytes read and written at a time.
const CHUNK: usize = 1 << 20;
/// Bytes of one call that go through the daemon's memory.
const CALL_MAX: u64 = 64 << 20;

/// Files whose bytes are partly in other objects until their commit.
#[derive(Default)]
pub(super) struct Borrowers(Mutex<Vec<Weak<Inode>>>);

impl Borrowers {
    fn add(&self, inode: &Arc<Inode>) {
        let mut all = self.0.lock();
        all.retain(|i| i.strong_count() > 0 && !std::ptr::eq(i.as_ptr(), Arc::as_ptr(inode)));
        all.push(Arc::downgrade(inode));
    }
}

impl Fs {
    /// Copies up to `len` bytes; how many it were. 0: the source ends at or before its offset.
    ///
    /// Ranges of one file must not overlap: the kernel has refused that.
    ///
    /// Errors: [`Kind::BadHandle`], those of [`Fs::read`] and [`Fs::write`].
    pub async fn copy_range(self: &Arc<Self>, from: (Fh, u64), to: (Fh, u64), len: u64) -> Result<u64> {
        let (source, target) = (self.handles.file(from.0)?, self.handles.file(to.0)?);
        if !source.read || !target.write {
            return Err(Kind::BadHandle.into());
        }
        if let Some(object) = Self::stored_version(&source)
            && let Some(copied) = self.copy_in_the_store(&object, from.1, &target, to.1, len).await?
        {
            return Ok(copied);
        }
        let mode = WriteMode { append: false, kill_suid: true, thread: None };
        let mut done = 0;
        while done < len.min(CALL_MAX) {
            let want = usize::try_from(len.min(CALL_MAX) - done).unwrap_or(usize::MAX).min(CHUNK);
            let step = async {
                let data = self.read(from.0, from.1 + done, want).await?;
                let copied = data.len();
                if copied > 0 {
                    self.write(to.0, to.1 + done, data, mode).await?;
                }
                Ok(copied)
            };
            match step.await {
                Ok(0) => break,
                // The end as it was: within one file, what is written moves it.
                Ok(copied) if copied < want => {
                    done += copied as u64;
                    break;
                }
                Ok(copied) => done += copied as u64,
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// The object that holds exactly what the handle reads.
    fn stored_version(handle: &FileHandle) -> Option<Object> {
        match handle.reader() {
            Some(reader) => Some(reader.object().clone()),
            None => {
                let writer = handle.inode.state.lock().writer.clone()?;
                if writer.is_dirty() { None } else { writer.base() }
            }
        }
    }

    /// `None`: not worth it, or not possible.
    async fn copy_in_the_store(
        self: &Arc<Self>,
        object: &Object,
        at: u64,
        target: &FileHandle,
        to: u64,
        len: u64,
    ) -> Result<Option<u64>> {
        let limits = &self.writes.settings().limits;
        // Less than a part cannot be copied by itself: its bytes would be fetched at the commit.
        if !limits.part_copy || len.min(object.size.saturating_sub(at)) < limits.min_part {
            return Ok(None);
        }
        // The object of an unlinked file goes at the last close.
        if self.graves.contains(&object.id.key) {
            return Ok(None);
        }
        let writer = self.writer(&target.inode).await?;
        match writer.copy_range(object, at, to, len).await {
            Ok(copied) => {
                self.borrowers.add(&target.inode);
                self.note_write(&target.inode, true, true);
                Ok(Some(copied))
            }
            // The file itself, stored anew meanwhile.
            Err(e) if e.kind() == Kind::Stale => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Stores what was copied from objects that may be about to go. A failure is reported by the close of the file it
    /// concerns. `but`: is being committed by the caller.
    pub(super) async fn settle_copies(self: &Arc<Self>, but: Option<&Arc<Inode>>) {
        // Taken out before the first commit, which comes here again.
        let all = std::mem::take(&mut *self.borrowers.0.lock());
        for inode in all.iter().filter_map(Weak::upgrade) {
            if but.is_some_and(|b| Arc::ptr_eq(b, &inode)) {
                self.borrowers.add(&inode);
                continue;
            }
            let writer = inode.state.lock().writer.clone();
            if writer.is_some_and(|w| w.has_extents())
                && let Err(e) = Box::pin(self.commit(&inode)).await
            {
                error!("bytes copied from a file that is now replaced or deleted are not stored: {e}");
            }
        }
    }
}

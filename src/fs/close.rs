//! The end of writing: commit, flush, fsync, release, and the delete that waited for the last close.
//!
//! 1. close(2) answers for what was written: it stores and reports. What no flush saw is stored by the release, whose
//!    error reaches only the log.
//!    What a flush could not store and reported is not tried again behind the application's back.
//! 2. The writer goes with its last handle, when everything is stored or when the application has been told that it
//!    could not be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, error, warn};

use super::Fs;
use super::attr::Facts;
use super::handle::{Fh, FileHandle};
use super::inode::{Ino, Inode};
use super::kept::Known;
use crate::error::{Kind, Result};
use crate::key::{Key, Name};
use crate::read::Object;
use crate::s3::{ETag, ObjectMeta};
use crate::write::{Committed, Writer};

/// Longest look at the descriptors of a process; a table of thousands takes a millisecond.
const SCAN_PATIENCE: Duration = Duration::from_millis(100);

impl Fs {
    /// Stores what was written; everything this mount shows of the file then refers to the new version.
    pub(super) async fn commit(self: &Arc<Self>, inode: &Arc<Inode>) -> Result<()> {
        let Some(writer) = inode.state.lock().writer.clone() else { return Ok(()) };
        if writer.is_dirty() {
            // The object that is replaced now may be what others have copied from.
            self.settle_copies(Some(inode)).await;
            self.keep_tags_and_acl(inode, &writer).await?;
        }
        if self.settings.store_attrs {
            let attr = inode.state.lock().attr.clone();
            writer.edit_object(&mut |o| attr.store(&mut o.headers.metadata));
        }
        if writer.is_recovered() {
            match self.commit_acknowledged(inode, &writer).await {
                Ok(Some(committed)) => self.committed(inode, &writer, committed),
                Ok(None) => {}
                // It is known now that nothing of it is stored. What was written since may need none of it.
                Err(e) if matches!(e.kind(), Kind::Conflict | Kind::Exists | Kind::Stale) => {
                    debug!("what a former mount had acknowledged cannot be stored by itself: {e}");
                }
                Err(e) => return Err(e),
            }
        }
        let done = writer.commit().await;
        self.catch_up(inode, &writer);
        match done {
            // Stored in the background, and maybe not with all that belongs to it.
            Ok(None) => self.settle_acknowledged(&writer).await,
            Ok(Some(committed)) => {
                let id = committed.object.id.clone();
                self.committed(inode, &writer, committed);
                self.settle(&id.key, &writer.object(), &id.etag).await
            }
            Err(e) => Err(e),
        }
    }

    /// What a read or a write of the file had to store, and what a commit stored before it failed.
    pub(super) fn catch_up(self: &Arc<Self>, inode: &Arc<Inode>, writer: &Arc<Writer>) {
        if let Some(committed) = writer.published() {
            self.committed(inode, writer, committed);
        }
    }

    /// Somebody else's version has the name, ours another one: the handles go on with ours, the name shows theirs.
    fn kept_beside(self: &Arc<Self>, inode: &Arc<Inode>, writer: &Arc<Writer>, ours: &Object) {
        {
            let mut state = inode.state.lock();
            state.stored = true;
            state.attr_pending = false;
            state.wrote = writer.is_dirty();
            state.confirmed = None;
            state.changed = None;
            state.facts.meta = None;
        }
        if let Some((parent, _)) = self.inodes.place(inode.ino) {
            if let Some(name) = Name::of_component(ours.id.key.file_name()) {
                self.listings.touch(parent, &name, true);
            }
            self.inodes.names_changed(parent);
        }
        self.forget_pages(inode);
        self.rebind(inode, ours);
    }

    pub(super) fn committed(self: &Arc<Self>, inode: &Arc<Inode>, writer: &Arc<Writer>, committed: Committed) {
        if committed.beside {
            return self.kept_beside(inode, writer, &committed.object);
        }
        let carried = writer.object();
        let meta = ObjectMeta {
            size: committed.object.size,
            etag: committed.object.id.etag.clone(),
            version: committed.object.id.version.clone(),
            last_modified: committed.stored.last_modified,
            headers: carried.headers.clone(),
            storage_class: carried.storage_class.clone(),
            restore: None,
            tag_count: None,
            sse: carried.sse.clone(),
            sse_kms_key: carried.sse_kms_key.clone(),
        };
        {
            let mut state = inode.state.lock();
            state.facts = Facts::of_meta(&meta);
            state.learn(Known::of_object(&carried));
            state.attr.size = committed.object.size;
            state.stored = true;
            state.written = true;
            (state.attr_pending, state.attr_changed) = (committed.headers_pending, committed.headers_pending);
            if !committed.headers_pending {
                // The writer has carried them since it was made, or since they came.
                state.edits.clear();
            }
            state.wrote = writer.is_dirty();
            let now = Instant::now();
            state.confirmed = Some(now);
            state.changed = Some(now);
            // The kernel's pages are what was written.
            state.pages = Some(committed.object.id.etag.clone());
        }
        if let Some((parent, name)) = self.inodes.place(inode.ino) {
            self.inodes.names_changed(parent);
            self.listings.touch(parent, &name, true);
        }
        if committed.headers_pending {
            self.schedule_attr(inode);
        }
        self.rebind(inode, &committed.object);
    }

    /// Moves the open handles to a version that this mount has made of the same bytes, or of bytes it wrote.
    pub(super) fn rebind(self: &Arc<Self>, inode: &Inode, object: &Object) {
        let (handles, writing) = {
            let state = inode.state.lock();
            (state.handles.clone(), state.writer.is_some())
        };
        for handle in handles.iter().filter_map(std::sync::Weak::upgrade) {
            // With a writer present reads go through it; a reader pinned before it came is out of date.
            handle.set_reader((!writing).then(|| self.reads.reader(object.clone())));
        }
    }

    /// close(2): stores everything, and says so. Called once for each descriptor of the handle, by thread `pid`.
    ///
    /// A process that neither opened the handle nor wrote through it has inherited it, and who did will close it, too.
    ///
    /// A shell's `> file` and dd(1) open a file, duplicate the descriptor and close the first one before a byte is
    /// written: storing the empty file then would cost a request, and destroy the old content before there is a new
    /// one. While nothing was written and the same process has another descriptor, it is left to that one's close.
    pub async fn flush(self: &Arc<Self>, fh: Fh, pid: u32) -> Result<()> {
        let handle = self.handles.file(fh)?;
        if !handle.write {
            return Ok(());
        }
        let closing = handle.users.closing(&self.threads, pid).await;
        if !closing.stores {
            return Ok(());
        }
        if !handle.inode.state.lock().wrote && self.has_other_descriptor(&handle.inode, pid).await {
            return Ok(());
        }
        let result = self.acknowledge(&handle.inode).await;
        match &result {
            Ok(()) => handle.users.stored(&closing),
            Err(_) => self.forget_pages(&handle.inode),
        }
        result
    }

    async fn has_other_descriptor(&self, inode: &Inode, pid: u32) -> bool {
        let Some((_, name)) = self.inodes.place(inode.ino) else { return false };
        // Looking the descriptor up by number would be a request to this very file system, so the path decides.
        let shown = format!("/{name}");
        let (ino, device) = (inode.ino, self.kernel.get().map(|k| k.device().to_owned()));
        let scan = tokio::task::spawn_blocking(move || {
            let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
            entries.flatten().any(|entry| {
                let path = std::fs::read_link(entry.path());
                path.is_ok_and(|p| p.as_os_str().as_encoded_bytes().ends_with(shown.as_bytes()))
                    && is_writer_of(pid, &entry.file_name().to_string_lossy(), ino, device.as_deref())
            })
        });
        // A process closes descriptors in exec(2) while it holds the lock that reading its /proc takes: the scan then
        // waits for the very answer it is made for. Such a descriptor was inherited, so its owner has another one.
        match tokio::time::timeout(SCAN_PATIENCE, scan).await {
            Ok(found) => found.unwrap_or(false),
            Err(_) => true,
        }
    }

    pub async fn fsync(self: &Arc<Self>, fh: Fh) -> Result<()> {
        let handle = self.handles.file(fh)?;
        self.commit(&handle.inode).await?;
        self.store_attr(&handle.inode).await
    }

    /// What the kernel shows is not what is stored.
    fn forget_pages(self: &Arc<Self>, inode: &Inode) {
        inode.state.lock().pages = None;
        self.invalidate(inode.ino);
    }

    /// The last descriptor is closed. Stores what no flush did (NFS, a process that died while mapping); an error
    /// here reaches only the log.
    pub async fn release(self: &Arc<Self>, fh: Fh) -> Result<()> {
        let closed = self.close_handle(fh)?;
        self.released(closed).await
    }

    /// The first half of [`Fs::release`], done before the next call of the kernel is looked at: a file that a program
    /// has closed does not count as open to the unlink that follows, whichever of the two tasks runs first.
    pub fn close_handle(&self, fh: Fh) -> Result<Arc<FileHandle>> {
        let handle = self.handles.remove_file(fh)?;
        let ended = {
            let mut state = handle.inode.state.lock();
            state.handles.retain(|h| !std::ptr::eq(h.as_ptr(), Arc::as_ptr(&handle)));
            state.end_through()
        };
        drop(ended);
        Ok(handle)
    }

    /// The second half.
    pub async fn released(self: &Arc<Self>, handle: Arc<FileHandle>) -> Result<()> {
        let inode = handle.inode.clone();
        let last_writer = {
            let mut state = inode.state.lock();
            if handle.write {
                state.write_handles -= 1;
            }
            handle.write && state.write_handles == 0
        };
        let result = if last_writer { self.close_writer(&inode).await } else { Ok(()) };
        drop(handle);
        self.drop_unlinked(&inode);
        self.bury(&inode).await;
        self.inodes.unpin(inode.ino);
        result
    }

    /// Commits and lets the writer go, unless somebody opened the file for writing meanwhile.
    pub(super) async fn close_writer(self: &Arc<Self>, inode: &Arc<Inode>) -> Result<()> {
        let (result, dropped, stored) = loop {
            let unlinked = self.inodes.place(inode.ino).is_none();
            // Somebody was told that it is not stored, and changed nothing since: it must not appear afterwards. What
            // the journal has was reported as kept.
            let told = inode.state.lock().writer.as_ref().filter(|w| w.backlog().is_none()).and_then(|w| w.told());
            let result = match told {
                _ if unlinked => Ok(()),
                Some(e) => Err(e),
                None => self.acknowledge(inode).await,
            };
            let mut state = inode.state.lock();
            if state.write_handles > 0 {
                break (result, None, state.stored);
            }
            // A truncate by path may have come between the commit and here.
            if result.is_ok() && !unlinked && state.writer.as_ref().is_some_and(|w| w.is_unacknowledged()) {
                continue;
            }
            // What the journal has keeps its writer until it is stored.
            if !unlinked && state.writer.as_ref().is_some_and(|w| w.backlog().is_some()) {
                break (result, None, state.stored);
            }
            // Handles that only read still need its bytes: nothing else has them.
            let dropped = if unlinked { None } else { state.writer.take() };
            break (result, dropped, state.stored);
        };
        let key = self.inodes.key(inode.ino).ok();
        if let Some(writer) = dropped {
            if let Err(e) = &result {
                let (key, lost) = (key.as_ref().map(Key::as_str), writer.size());
                error!(key, "{lost} bytes are not stored, and closed by their last handle: {e}");
                self.abandon(inode, &writer, stored).await;
            } else if let Some(object) = writer.base() {
                self.rebind(inode, &object);
            }
        }
        self.inodes.settle(inode.ino);
        result
    }

    /// The writer of a file without a name goes with its last handle of any kind.
    pub(super) fn drop_unlinked(&self, inode: &Inode) {
        if self.inodes.place(inode.ino).is_some() {
            return;
        }
        let mut state = inode.state.lock();
        if state.write_handles == 0 && !state.handles.iter().any(|h| h.strong_count() > 0) {
            state.writer = None;
        }
    }

    /// What was written is given up: the file is what the store has, or nothing.
    pub(super) async fn abandon(self: &Arc<Self>, inode: &Arc<Inode>, writer: &Writer, stored: bool) {
        // The log has the error; the caller has one of its own.
        let _ = writer.unlink().await;
        if stored {
            // The old object is what there is: forget what was told of the new one.
            let mut state = inode.state.lock();
            state.confirmed = None;
            state.facts.meta = None;
            state.changed = None;
            if let Some(base) = writer.base() {
                state.attr.size = base.size;
            }
        } else if let Some((parent, name)) = self.inodes.place(inode.ino) {
            self.inodes.unlink(inode.ino);
            self.listings.touch(parent, &name, false);
            self.invalidate_entry(parent, &name);
        }
        self.forget_pages(inode);
    }

    /// A new object must not be stored before the delete of the old one has arrived.
    pub(super) async fn wait_for_burial(self: &Arc<Self>, parent: Ino, name: &Name) {
        if let Ok(key) = self.inodes.prefix(parent).and_then(|p| p.file(name)) {
            self.delete_now(&key).await;
            self.graves.settled(&key).await;
        }
    }

    /// The delete that waited for the last close of an unlinked file.
    async fn bury(self: &Arc<Self>, inode: &Arc<Inode>) {
        if self.inodes.place(inode.ino).is_some() {
            return;
        }
        let open = inode.state.lock().handles.iter().any(|h| h.strong_count() > 0);
        let Some(key) = self.inodes.last_key(inode.ino).filter(|_| !open) else { return };
        let etag = inode.state.lock().facts.etag.clone();
        if let Err(e) = self.bury_key(&key, inode.ino, etag).await {
            warn!("an unlinked file could not be deleted at its last close and will show up again: {e}");
        }
    }

    /// Deletes the object `key` with `etag`, when a delete of the file `of` waits for it.
    pub(super) async fn bury_key(&self, key: &Key, of: Ino, etag: Option<ETag>) -> Result<()> {
        let Some(_burial) = self.graves.claim(key, of) else { return Ok(()) };
        match self.s3.head(key, None).await {
            // Somebody else's new object under the old name is not ours to delete.
            Ok(meta) if etag.is_some_and(|e| e != meta.etag) => Ok(()),
            Ok(_) => self.s3.delete(key, None).await,
            Err(e) if e.kind() == Kind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// Whether descriptor `fd` of `pid` was opened for writing, and on this file: other directories and other mounts have
/// files of the same name.
fn is_writer_of(pid: u32, fd: &str, ino: Ino, device: Option<&str>) -> bool {
    let Ok(info) = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")) else { return false };
    let field = |name: &str| info.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    let flags = field("flags:").and_then(|f| i32::from_str_radix(f, 8).ok()).unwrap_or(0);
    // Kernels before 5.14 name no inode.
    let same = field("ino:").is_none_or(|i| i.parse() == Ok(ino.0));
    if flags & libc::O_ACCMODE == libc::O_RDONLY || !same {
        return false;
    }
    let (Some(device), Some(mount)) = (device, field("mnt_id:")) else { return true };
    let Ok(table) = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")) else { return true };
    let found =
        table.lines().map(|l| l.split(' ')).find_map(|mut f| (f.next() == Some(mount)).then(|| f.nth(1)).flatten());
    found.is_none_or(|d| d == device)
}

//! `writeback`: the files that were acknowledged from the journal, on their way to the store.
//!
//! 1. A file that was closed keeps its writer until it is stored: its name resolves, its bytes can be read, a later
//!    open goes on with the same writer. One task a file stores it, so that the order of its versions is kept.
//! 2. A moment passes before anything is sent: programs write a temporary file and rename it, and a file of which
//!    nothing was sent gets its new name without a request.
//! 3. What fails for a reason that may pass is tried again for as long as the mount lives; what the store refuses is
//!    parked, with the reason, until somebody writes to it, asks for another attempt or mounts anew.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tracing::{debug, error, info, warn};

use super::Fs;
use super::attr::{Attr, Facts, FileKind};
use super::inode::{Inode, State};
use crate::error::{Error, Kind, Result};
use crate::key::{Key, Name};
use crate::s3::{ETag, ObjectMeta};
use crate::write::journal::{Pending, PendingState, Replay};
use crate::write::{Acknowledge, Committed, Writer, is_passing};

/// How long a file that was closed waits before it is sent. Longer than a program takes from close to rename, also a
/// slow one; shorter than anybody waits for another machine to see a file.
const SETTLE: Duration = Duration::from_millis(100);
/// Files on their way at a time. Requests have bounds of their own.
const FILES: usize = 64;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(300);
/// Bytes exported at a time.
const CHUNK: usize = 1 << 20;

pub(super) struct Uploads {
    slots: Semaphore,
    /// Somebody wants the next attempts at once.
    pub(super) kick: Notify,
    /// Files of former mounts whose keys have no place in the tree.
    placeless: Mutex<HashMap<u64, Arc<Writer>>>,
}

impl Default for Uploads {
    fn default() -> Self {
        Uploads { slots: Semaphore::new(FILES), kick: Notify::new(), placeless: Mutex::default() }
    }
}

/// What to do after an attempt.
enum After {
    Again,
    End,
}

impl Fs {
    /// Makes what was written safe, in the journal with `writeback`, else at the store.
    pub(super) async fn acknowledge(self: &Arc<Self>, inode: &Arc<Inode>) -> Result<()> {
        let Some(writer) = inode.state.lock().writer.clone() else { return Ok(()) };
        if self.settings.store_attrs {
            let attr = inode.state.lock().attr.clone();
            writer.edit_object(&mut |o| attr.store(&mut o.headers.metadata));
        }
        let done = writer.acknowledge().await;
        self.catch_up(inode, &writer);
        if writer.backlog().is_some() {
            self.upload_later(inode);
        }
        match done? {
            Acknowledge::Nothing => Ok(()),
            Acknowledge::Journaled => {
                let mut state = inode.state.lock();
                state.wrote = writer.is_unacknowledged();
                state.attr_changed = false;
                state.attr_pending = false;
                // As after a commit: the writer carries them.
                state.edits.clear();
                Ok(())
            }
            Acknowledge::Store => self.commit(inode).await,
        }
    }

    /// Stores what was acknowledged, some moments later.
    pub(super) fn upload_later(self: &Arc<Self>, inode: &Arc<Inode>) {
        {
            let mut state = inode.state.lock();
            if let Some(w) = &state.writer {
                w.unpark();
            }
            if std::mem::replace(&mut state.uploading, true) {
                return;
            }
        }
        let (fs, inode) = (self.clone(), inode.clone());
        self.inodes.pin(inode.ino);
        self.spawn(async move {
            fs.rest(SETTLE).await;
            let mut pause = FIRST_PAUSE;
            while let After::Again = fs.upload_once(&inode, &mut pause).await {}
            fs.inodes.unpin(inode.ino);
        });
    }

    /// Waits, unless the mount ends or somebody is in a hurry.
    async fn rest(&self, pause: Duration) {
        let kicked = self.uploads.kick.notified();
        if self.stopping.load(Ordering::Relaxed) {
            return;
        }
        let _ = tokio::time::timeout(pause, kicked).await;
    }

    /// Stores what was acknowledged, and nothing that was written since.
    pub(super) async fn commit_acknowledged(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        writer: &Arc<Writer>,
    ) -> Result<Option<Committed>> {
        // The object that is replaced now may be what others have copied from.
        self.settle_copies(Some(inode)).await;
        self.keep_tags_and_acl(inode, writer).await?;
        let committed = writer.commit_acknowledged().await?;
        if let Err(e) = self.settle_acknowledged(writer).await {
            if let Some(committed) = committed {
                self.committed(inode, writer, committed);
            }
            return Err(e);
        }
        Ok(committed)
    }

    /// Gives an object that was stored in the background what could not be sent with it. Until that is done the file is
    /// pending, so that a failure is tried again, shown and survives a crash as one of the content does.
    pub(super) async fn settle_acknowledged(&self, writer: &Writer) -> Result<()> {
        let Some((stored, object)) = writer.unsettled() else { return Ok(()) };
        self.settle(&stored.id.key, &object, &stored.id.etag).await?;
        writer.settled().await;
        Ok(())
    }

    /// Before the object of a file that has acknowledged content in the journal is given up. Of one that is unlinked while
    /// it is open the object stays until the last close, and after a crash it must not show what was there before that
    /// content. Of one that another file is renamed to the object is replaced, and a change of it could not be stored any
    /// more after a crash. Where the store does not take it, the older object is all there is.
    pub(super) async fn store_before_it_goes(self: &Arc<Self>, inode: &Arc<Inode>, writer: &Arc<Writer>) {
        if !inode.state.lock().stored || writer.backlog().is_none() {
            return;
        }
        match self.commit_acknowledged(inode, writer).await {
            Ok(Some(committed)) => self.committed(inode, writer, committed),
            Ok(None) => {}
            Err(e) => {
                warn!("before it is deleted or replaced; after a crash in between an older content would show: {e}")
            }
        }
    }

    async fn upload_once(self: &Arc<Self>, inode: &Arc<Inode>, pause: &mut Duration) -> After {
        let Ok(slot) = self.uploads.slots.acquire().await else { return After::End };
        let writer = inode.state.lock().writer.clone();
        let Some(writer) = writer.filter(|_| self.inodes.place(inode.ino).is_some()) else {
            inode.state.lock().uploading = false;
            return After::End;
        };
        let done = self.commit_acknowledged(inode, &writer).await;
        drop(slot);
        match done {
            Ok(committed) => {
                if let Some(committed) = committed {
                    self.committed(inode, &writer, committed);
                } else if writer.backlog().is_some() {
                    // It is being deleted.
                    self.rest(SETTLE).await;
                }
                *pause = FIRST_PAUSE;
                self.after_upload(inode, &writer).await
            }
            Err(e) => {
                let again = self.after_failure(&writer, &e, *pause);
                if !again {
                    inode.state.lock().uploading = false;
                    return After::End;
                }
                self.rest(*pause).await;
                *pause = (2 * *pause).min(LAST_PAUSE);
                After::Again
            }
        }
    }

    /// Whether there will be another attempt by itself.
    fn after_failure(&self, writer: &Writer, e: &Error, pause: Duration) -> bool {
        let parked = !is_passing(e.kind());
        writer.note_attempt(parked, e);
        if self.stopping.load(Ordering::Relaxed) {
            return false;
        }
        if parked {
            error!("closed, not stored, and kept in the journal until it is tried again: {e}");
        } else if pause == FIRST_PAUSE {
            warn!("closed and not stored yet; it is tried again: {e}");
        } else {
            debug!("not stored yet: {e}");
        }
        !parked
    }

    /// Lets the writer go, unless there is more to do.
    async fn after_upload(self: &Arc<Self>, inode: &Arc<Inode>, writer: &Arc<Writer>) -> After {
        let object = {
            let mut state = inode.state.lock();
            if writer.backlog().is_some() {
                return After::Again;
            }
            let closed = state.write_handles == 0;
            if closed && writer.is_dirty() {
                // A mode that was set while it was under way.
                None
            } else {
                state.uploading = false;
                let ours = closed && state.writer.as_ref().is_some_and(|w| Arc::ptr_eq(w, writer));
                Some(if ours { state.writer.take() } else { None })
            }
        };
        match object {
            Some(gone) => {
                if let Some(object) = gone.and_then(|w| w.base()) {
                    self.rebind(inode, &object);
                }
                self.inodes.settle(inode.ino);
                After::End
            }
            None => match self.acknowledge(inode).await {
                Ok(()) => After::Again,
                Err(e) => {
                    error!("attributes were changed here but could not be stored: {e}");
                    inode.state.lock().uploading = false;
                    After::End
                }
            },
        }
    }

    /// The files that were acknowledged and are not stored.
    pub fn pending(&self) -> Vec<Pending> {
        let mut all: Vec<Pending> =
            self.backlog().into_iter().map(|(_, writer)| writer).filter_map(|w| shown(&w)).collect();
        all.sort_by_key(|p| p.id);
        all
    }

    fn backlog(&self) -> Vec<(Option<Arc<Inode>>, Arc<Writer>)> {
        let mut found: Vec<_> = self.uploads.placeless.lock().values().map(|w| (None, w.clone())).collect();
        for inode in self.inodes.all() {
            let writer = inode.state.lock().writer.clone();
            if let Some(w) = writer.filter(|w| w.backlog().is_some()) {
                found.push((Some(inode), w));
            }
        }
        found
    }

    fn backlog_of(&self, id: u64) -> Result<(Option<Arc<Inode>>, Arc<Writer>)> {
        let found = self.backlog().into_iter().find(|(_, w)| w.backlog().is_some_and(|b| b.id == id));
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("the journal of this mount has no entry {id}")))
    }

    /// Tries to store these entries now, or all of them. Errors: [`Kind::NotFound`] for an unknown id.
    pub fn retry(self: &Arc<Self>, ids: Option<&[u64]>) -> Result<usize> {
        let mut wanted = Vec::new();
        match ids {
            Some(ids) => {
                for id in ids {
                    wanted.push(self.backlog_of(*id)?);
                }
            }
            None => wanted = self.backlog(),
        }
        let count = wanted.len();
        for (inode, writer) in wanted {
            match inode {
                Some(inode) => self.upload_later(&inode),
                None => {
                    writer.unpark();
                    self.upload_placeless(writer);
                }
            }
        }
        self.uploads.kick.notify_waiters();
        Ok(count)
    }

    /// Writes the content of an entry to `path`, which must not exist.
    pub async fn export(&self, id: u64, path: &Path) -> Result<()> {
        let (_, writer) = self.backlog_of(id)?;
        let trouble = |e: std::io::Error| {
            let kind = if e.kind() == std::io::ErrorKind::AlreadyExists { Kind::Exists } else { Kind::Io };
            Error::new(kind, format!("write {}: {e}", path.display()))
        };
        let mut file = tokio::fs::File::options().create_new(true).write(true).open(path).await.map_err(trouble)?;
        let mut at = 0;
        while at < writer.size() {
            let bytes: Bytes = writer.read(at, CHUNK).await?;
            if bytes.is_empty() {
                break;
            }
            tokio::io::AsyncWriteExt::write_all(&mut file, &bytes).await.map_err(trouble)?;
            at += bytes.len() as u64;
        }
        file.sync_all().await.map_err(trouble)
    }

    /// Gives an entry up: its bytes are lost, and the file is again what the store has. Errors: [`Kind::NotFound`];
    /// [`Kind::Busy`] while the file is open for writing; that of the journal, which then still has it.
    pub async fn discard(self: &Arc<Self>, id: u64) -> Result<()> {
        let (inode, writer) = self.backlog_of(id)?;
        let Some(inode) = inode else {
            writer.unlink().await?;
            self.uploads.placeless.lock().remove(&id);
            return Ok(());
        };
        {
            let mut state = inode.state.lock();
            if state.write_handles > 0 {
                return Err(Error::new(Kind::Busy, "discard a file that is open for writing").with_key(writer.key()));
            }
            // Who opens it now begins anew.
            state.writer = None;
        }
        if let Err(e) = writer.unlink().await {
            writer.revive();
            inode.state.lock().writer.get_or_insert(writer);
            return Err(e);
        }
        let stored = inode.state.lock().stored;
        self.abandon(&inode, &writer, stored).await;
        self.inodes.settle(inode.ino);
        Ok(())
    }

    /// Takes up what a former process left: its files are here again, and on their way to the store.
    pub fn restore(self: &Arc<Self>, mut replay: Replay) {
        for damage in &replay.damage {
            error!("the journal is damaged: {damage}");
        }
        self.writes.abort_orphans(&replay);
        self.restore_deletes(self.writes.gone(&mut replay));
        let writers = self.writes.replay(replay);
        if !writers.is_empty() {
            info!(files = writers.len(), "files that a former mount had acknowledged are being stored");
        }
        for (writer, had_base) in writers {
            let key = writer.key();
            match self.place(&key, &writer, had_base) {
                Some(inode) => self.upload_later(&inode),
                None => {
                    if let Some(b) = writer.backlog() {
                        self.uploads.placeless.lock().insert(b.id, writer.clone());
                    }
                    self.upload_placeless(writer);
                }
            }
        }
    }

    /// The inode of a file that only the journal has; `None` when its key has no place in this tree.
    fn place(self: &Arc<Self>, key: &Key, writer: &Arc<Writer>, had_base: bool) -> Option<Arc<Inode>> {
        let path = key.as_str().strip_prefix(self.settings.root.as_str())?;
        let (dirs, last) = path.rsplit_once('/').map_or((None, path), |(dirs, last)| (Some(dirs), last));
        let mut parent = self.root();
        for component in dirs.into_iter().flat_map(|d| d.split('/')) {
            let name = Name::of_component(component)?;
            let prefix = self.inodes.prefix(parent).ok()?.dir(&name).ok()?;
            let attr = Attr::of_dir(self.mounted, &self.settings.defaults);
            let made = || State::new(attr, Facts::default(), true);
            let kind = Some(FileKind::Dir);
            let dir = self.inodes.remember_kind(parent, &name, prefix.as_str(), kind, made).ok()?;
            // The bucket may have nothing in it yet.
            self.kept.lock().insert(prefix);
            parent = dir.ino;
        }
        let name = Name::of_component(last).filter(|n| !n.is_escaped() && !last.is_empty())?;
        let object = writer.object();
        let tells_access = !object.tags.is_empty() || object.acl.is_some() || object.grants.is_some();
        let base = writer.base();
        let meta = ObjectMeta {
            size: writer.size(),
            etag: base.as_ref().map_or_else(|| ETag::new(""), |b| b.id.etag.clone()),
            version: base.as_ref().and_then(|b| b.id.version.clone()),
            last_modified: writer.backlog().map(|b| b.since),
            headers: object.headers,
            storage_class: object.storage_class,
            restore: None,
            tag_count: None,
            sse: object.sse,
            sse_kms_key: object.sse_kms_key,
        };
        let attr = Attr::of_meta(&meta, false, &self.settings.defaults);
        let facts = if had_base { Facts::of_meta(&meta) } else { Facts::default() };
        let made = || {
            // Whether the store has an object of this name is not known: a delete of one that is not there does no harm.
            let mut state = State::new(attr, facts, true);
            state.writer = Some(writer.clone());
            state.keeps_unasked = had_base && !tells_access;
            state.changed = Some(Instant::now());
            state
        };
        let inode = self.inodes.remember_kind(parent, &name, key.as_str(), Some(FileKind::File), made).ok()?;
        let ours = inode.state.lock().writer.as_ref().is_some_and(|w| Arc::ptr_eq(w, writer));
        ours.then(|| {
            self.name_added(parent, &name);
            inode
        })
    }

    fn upload_placeless(self: &Arc<Self>, writer: Arc<Writer>) {
        let fs = self.clone();
        self.spawn(async move {
            let mut pause = FIRST_PAUSE;
            while let Some(backlog) = writer.backlog().filter(|b| b.state != PendingState::Parked) {
                let done = match writer.commit_acknowledged().await {
                    Ok(_) => fs.settle_acknowledged(&writer).await,
                    Err(e) => Err(e),
                };
                match done {
                    Ok(()) if writer.backlog().is_none() => {
                        fs.uploads.placeless.lock().remove(&backlog.id);
                        break;
                    }
                    Ok(()) => {}
                    Err(e) if fs.after_failure(&writer, &e, pause) => {
                        fs.rest(pause).await;
                        pause = (2 * pause).min(LAST_PAUSE);
                    }
                    Err(_) => break,
                }
            }
        });
    }

    /// No more waiting: the mount ends.
    pub(super) fn hurry(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.uploads.kick.notify_waiters();
    }

    /// What the journal keeps for the next mount, with the reason.
    pub(super) fn left_in_journal(&self) -> Vec<(String, Error)> {
        let left = |w: &Arc<Writer>| {
            let why = w.backlog()?.reason.unwrap_or_else(|| Error::new(Kind::Timeout, "store before unmounting"));
            Some((w.key().to_string(), why.with_fix("it is in the journal: the next mount stores it")))
        };
        self.uploads.placeless.lock().values().filter_map(left).collect()
    }
}

fn shown(writer: &Writer) -> Option<Pending> {
    let b = writer.backlog()?;
    Some(Pending {
        id: b.id,
        key: writer.key().as_str().to_owned(),
        size: b.size,
        since: b.since,
        attempts: b.attempts,
        state: b.state,
        reason: b.reason.as_ref().map(Error::to_string),
    })
}

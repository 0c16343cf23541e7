//! One file that is being written: what its handles share.
//!
//! 1. What is in memory is answered at once, under one short lock (`state`). What has to wait for the disk does so
//!    outside of it, holding `gate`, which keeps other changes out meanwhile; nobody waits for the network there.
//! 2. A commit (`committing`) uploads frozen layers while writes go on above them. Concurrent commits are one.
//! 3. While a new file is streamed, bytes that were sent are no longer here: whoever wants to read or change them makes
//!    the upload complete first and goes on with the result as the base.
//! 4. A failed commit is remembered until one succeeds; what was written stays, so that the next one can. Of a stream that
//!    is the upload with its parts; it is lost only when the store says that the upload is gone.
//! 5. A write that was refused because the store took nothing has to be repeated before anything is stored: an
//!    application that ignores errors must not replace the old object by half of the new one.
//!
//! Lock order: `naming`, `committing`, `journaling`, `gate`, `state`. `state` is never held across an await.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use crate::error::{Error, Kind, Result};
use crate::key::Key;
use crate::read::Object;
use crate::s3::{Condition, NewObject};

use super::layers::Layer;
use super::overlay::{Origin, Piece};
use super::state::{Data, Next, State};
use super::upload::base_error;
use super::{Committed, Writes, staging};

/// How often a read starts anew because a commit replaced the base under it.
const RETRIES: usize = 8;

/// One per inode with a write handle; shared by all its handles.
pub struct Writer {
    pub(super) io: Arc<Writes>,
    pub(super) state: Arc<Mutex<State>>,
    pub(super) gate: tokio::sync::Mutex<()>,
    pub(super) committing: tokio::sync::Mutex<()>,
    /// Held by whoever writes a record of the file to the journal: records are in the order of what they say.
    pub(super) journaling: tokio::sync::Mutex<()>,
    /// Held for reading by commits, for writing by a rename that must not meet one.
    pub(super) naming: tokio::sync::RwLock<()>,
}

/// One buffer of the pieces that are all in memory.
fn join(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.swap_remove(0);
    }
    let mut out = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    for p in &pieces {
        out.extend_from_slice(p);
    }
    out.freeze()
}

impl Writer {
    /// `base` `None`: a new or emptied file, dirty from the start. `object`: the headers that the commit will carry.
    /// `condition`: what the first commit is subject to, whatever `on_conflict` says.
    pub fn new(
        io: Arc<Writes>,
        key: Key,
        base: Option<Object>,
        object: NewObject,
        condition: Condition,
    ) -> Arc<Writer> {
        let size = base.as_ref().map_or(0, |b| b.size);
        let state = State {
            key,
            object,
            condition,
            replaces: Condition::None,
            size,
            expected: 0,
            layers: vec![Layer::new(size)],
            stream: None,
            stuck: None,
            refused: BTreeSet::new(),
            published: None,
            unsettled: None,
            generation: u64::from(base.is_none()),
            stored: 0,
            touched: false,
            failed: None,
            lost: false,
            unlinked: false,
            running: None,
            ended: 0,
            last_frozen: 0,
            acked: None,
            recovered: false,
            id: None,
            serial: 1,
            base,
        };
        Writer::of(io, state)
    }

    pub(super) fn of(io: Arc<Writes>, state: State) -> Arc<Writer> {
        Arc::new(Writer {
            io,
            state: Arc::new(Mutex::new(state)),
            gate: tokio::sync::Mutex::default(),
            committing: tokio::sync::Mutex::default(),
            journaling: tokio::sync::Mutex::default(),
            naming: tokio::sync::RwLock::default(),
        })
    }

    pub fn size(&self) -> u64 {
        self.state.lock().size
    }

    pub fn is_dirty(&self) -> bool {
        let s = self.state.lock();
        s.dirty() && !s.unlinked
    }

    pub fn key(&self) -> Key {
        self.state.lock().key.clone()
    }

    pub fn base(&self) -> Option<Object> {
        self.state.lock().base.clone()
    }

    /// Why the last commit, or the stream, failed; `None` once a later commit succeeded.
    pub fn failed(&self) -> Option<Error> {
        let mut s = self.state.lock();
        let _ = s.check();
        s.failed.clone()
    }

    pub fn object(&self) -> NewObject {
        self.state.lock().object.clone()
    }

    pub(super) async fn gate(&self) -> Result<tokio::sync::MutexGuard<'_, ()>> {
        self.io.patient("another write", self.gate.lock()).await
    }

    /// Takes the bytes if that needs no waiting; copies them once. `None`: call [`Writer::write`].
    pub fn write_now(&self, offset: u64, data: &[u8]) -> Result<Option<()>> {
        let Ok(_gate) = self.gate.try_lock() else { return Ok(None) };
        match self.state.lock().put(&self.io, Some(offset), Data::Borrowed(data))? {
            Next::Done(_) => Ok(Some(())),
            _ => Ok(None),
        }
    }

    /// Errors: [`Kind::TooLarge`] beyond the store's limit, [`Kind::NoSpace`] or [`Kind::Io`] from staging,
    /// [`Kind::Timeout`] when the store takes nothing, and that of a failed stream. A failed write changes nothing.
    pub async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        self.put(Some(offset), data).await.map(|_| ())
    }

    /// Writes at the current end, atomically; the offset used.
    pub async fn append(&self, data: Bytes) -> Result<u64> {
        self.put(None, data).await
    }

    async fn put(&self, at: Option<u64>, data: Bytes) -> Result<u64> {
        loop {
            let next = {
                let _gate = self.gate().await?;
                let next = self.state.lock().put(&self.io, at, Data::Owned(&data))?;
                if let Next::Stage(offset, stage) = next {
                    let (jobs, pages) = stage.split();
                    staging::run(&self.staging_file().await?, jobs).await?;
                    let mut s = self.state.lock();
                    s.top().overlay.finish(offset, &data, pages);
                    s.changed(&self.io, offset..offset + data.len() as u64);
                    return Ok(offset);
                }
                next
            };
            let waited = match next {
                Next::Done(offset) => return Ok(offset),
                Next::Seal | Next::Later | Next::Stage(..) => self.seal().await,
                // That it did not change means that the stream ended: look again.
                Next::Wait(mut moved) => self.io.patient("uploads", moved.changed()).await.map(|_| ()),
            };
            if let Err(e) = waited {
                let mut s = self.state.lock();
                let offset = at.unwrap_or(s.size);
                return Err(s.refuse(offset, e));
            }
        }
    }

    /// The staging file of the top layer. The caller holds the gate, so that the top stays the top.
    async fn staging_file(&self) -> Result<Arc<std::fs::File>> {
        if let Some(file) = self.state.lock().top().overlay.file() {
            return Ok(file.clone());
        }
        let file = staging::open(&self.io.settings.staging_dir).await?;
        self.state.lock().top().overlay.set_file(file.clone());
        Ok(file)
    }

    /// Completes the stream, so that what it sent can be had again.
    pub(super) async fn seal(&self) -> Result<()> {
        if let Some(committed) = self.commit().await? {
            self.state.lock().published = Some(committed);
        }
        Ok(())
    }

    /// What was stored without [`Writer::commit`] having said so; once.
    pub fn published(&self) -> Option<Committed> {
        self.state.lock().published.take()
    }

    /// Overlay over base over zeros; short only at the end of the file.
    pub async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        for _ in 0..RETRIES {
            let (pieces, base) = {
                let s = self.state.lock();
                let end = offset.saturating_add(len as u64).min(s.size);
                (s.pieces(offset.min(end)..end), s.base.clone())
            };
            if pieces.iter().any(|p| matches!(p.from, Origin::Shipped)) {
                self.reach().await?;
                continue;
            }
            if pieces.iter().any(|p| matches!(p.from, Origin::Staged(_))) {
                return self.read_staged(offset, len).await;
            }
            match self.fetch(&pieces, base.as_ref()).await {
                Err(e) if matches!(e.kind(), Kind::Conflict | Kind::Stale) => self.superseded(e, &base).await?,
                done => return done,
            }
        }
        Err(Error::new(Kind::Io, "read: the file changes too fast").with_key(self.key()))
    }

    /// `base` is not in the store any more: `Ok` when it was a commit of ours that replaced it. One whose answer is still
    /// on its way may have done so already.
    async fn superseded(&self, error: Error, base: &Option<Object>) -> Result<()> {
        let running = self.state.lock().running.is_some();
        if running && self.base() == *base {
            let _ended = self.io.patient("the commit that is under way", self.committing.lock()).await?;
        }
        if self.base() == *base && self.is_recovered() {
            self.find_out(base).await;
        }
        if self.base() != *base {
            return Ok(());
        }
        Err(if error.kind() == Kind::Conflict { error.with_kind(Kind::Stale) } else { error })
    }

    /// Makes sent bytes readable, or says why they are not.
    async fn reach(&self) -> Result<()> {
        {
            let mut s = self.state.lock();
            s.check()?;
            if s.unlinked && s.running.is_none() {
                return Err(
                    Error::new(Kind::Stale, "read: the bytes were sent before the file was deleted").with_key(&s.key)
                );
            }
        }
        self.seal().await
    }

    /// Reads with changes kept out, for staged bytes change in place.
    async fn read_staged(&self, offset: u64, len: usize) -> Result<Bytes> {
        for _ in 0..RETRIES {
            let (found, base) = {
                let _gate = self.gate().await?;
                let (pieces, base) = {
                    let s = self.state.lock();
                    let end = offset.saturating_add(len as u64).min(s.size);
                    (s.pieces(offset.min(end)..end), s.base.clone())
                };
                let mut found = Vec::with_capacity(pieces.len());
                for p in pieces {
                    let from = match &p.from {
                        Origin::Staged(file) => Origin::Memory(staging::read(file, p.range.clone()).await?),
                        other => other.clone(),
                    };
                    found.push(Piece { range: p.range, from });
                }
                (found, base)
            };
            if found.iter().any(|p| matches!(p.from, Origin::Shipped)) {
                self.reach().await?;
                continue;
            }
            match self.fetch(&found, base.as_ref()).await {
                Err(e) if matches!(e.kind(), Kind::Conflict | Kind::Stale) => self.superseded(e, &base).await?,
                done => return done,
            }
        }
        Err(Error::new(Kind::Io, "read: the file changes too fast").with_key(self.key()))
    }

    /// Bytes of pieces that are in memory, in the base, or zeros.
    async fn fetch(&self, pieces: &[Piece], base: Option<&Object>) -> Result<Bytes> {
        let mut out = Vec::with_capacity(pieces.len());
        for p in pieces {
            out.push(match (&p.from, base) {
                (Origin::Memory(b), _) => b.clone(),
                (Origin::Zero, _) => BytesMut::zeroed((p.range.end - p.range.start) as usize).freeze(),
                (Origin::Copied(extent), _) => self.io.copied(extent, p.range.end - p.range.start).await?,
                (Origin::Base, Some(object)) => {
                    let bytes =
                        self.io.reads.range(object, p.range.clone()).await.map_err(|e| base_error(e, object))?;
                    if bytes.len() as u64 != p.range.end - p.range.start {
                        return Err(
                            Error::new(Kind::Io, "read: bytes of the base are missing").with_key(&object.id.key)
                        );
                    }
                    bytes
                }
                (Origin::Saved(blob, at), _) => blob.read(*at..at + (p.range.end - p.range.start)).await?,
                _ => return Err(Error::new(Kind::Io, "read: bytes are nowhere").with_key(self.key())),
            });
        }
        Ok(join(out))
    }

    /// As [`Writer::read`], when all of it is in memory.
    pub fn read_now(&self, offset: u64, len: usize) -> Option<Bytes> {
        let pieces = {
            let s = self.state.lock();
            let end = offset.saturating_add(len as u64).min(s.size);
            s.pieces(offset.min(end)..end)
        };
        let mut out = Vec::with_capacity(pieces.len());
        for p in pieces {
            out.push(match p.from {
                Origin::Memory(b) => b,
                Origin::Zero => BytesMut::zeroed((p.range.end - p.range.start) as usize).freeze(),
                _ => return None,
            });
        }
        Some(join(out))
    }

    /// Cuts the file off, or extends it with zeros.
    pub async fn truncate(&self, size: u64) -> Result<()> {
        self.resize(|_| size).await
    }

    async fn resize(&self, to: impl Fn(u64) -> u64) -> Result<()> {
        loop {
            {
                let _gate = self.gate().await?;
                let shrunk = {
                    let mut s = self.state.lock();
                    s.check()?;
                    let size = to(s.size);
                    s.check_size(&self.io, size, 0)?;
                    if size == s.size {
                        return Ok(());
                    }
                    if s.stream.as_ref().is_some_and(|st| size <= st.shipped.start) {
                        // Nothing of what was sent is left: the upload is of no use.
                        s.stream = None;
                        s.top().shipped = 0..0;
                    }
                    if s.stuck.as_ref().is_some_and(|k| size <= k.stream.shipped.start) {
                        s.stuck = None;
                        s.layers.iter_mut().for_each(|l| l.shipped = 0..0);
                    }
                    s.refused.retain(|at| *at < size);
                    let beyond = size..size;
                    let inside = s.stream.as_ref().is_some_and(|st| size < st.shipped.end);
                    if inside || s.must_seal(&self.io, &beyond) {
                        None
                    } else {
                        let smaller = size < s.size;
                        if smaller {
                            s.top().truncate(size);
                        }
                        s.size = size;
                        s.generation += 1;
                        Some(s.top().overlay.file().filter(|_| smaller).cloned().map(|f| (f, size)))
                    }
                };
                match shrunk {
                    Some(Some((file, size))) => {
                        staging::shrink(&file, size).await;
                        return Ok(());
                    }
                    Some(None) => return Ok(()),
                    None => {}
                }
            }
            self.seal().await?;
        }
    }

    /// fallocate: extends the file unless `keep_size`. The store reserves nothing, so this only announces the size.
    pub async fn allocate(&self, offset: u64, len: u64, keep_size: bool) -> Result<()> {
        let end = {
            let mut s = self.state.lock();
            s.check()?;
            let end = s.check_size(&self.io, offset, len)?;
            s.expected = s.expected.max(end);
            end
        };
        if keep_size { Ok(()) } else { self.resize(|size| size.max(end)).await }
    }

    /// Makes a range zeros, within the file.
    pub async fn punch(&self, offset: u64, len: u64) -> Result<()> {
        loop {
            {
                let _gate = self.gate().await?;
                let jobs = {
                    let mut s = self.state.lock();
                    s.check()?;
                    let end = offset.saturating_add(len).min(s.size);
                    let range = offset..end;
                    if range.is_empty() {
                        return Ok(());
                    }
                    (!s.must_seal(&self.io, &range)).then(|| (s.top().overlay.punch_jobs(range.clone()), range))
                };
                if let Some((jobs, range)) = jobs {
                    if !jobs.is_empty() {
                        staging::run(&self.staging_file().await?, jobs).await?;
                    }
                    let mut s = self.state.lock();
                    s.top().overlay.punch(range.clone());
                    s.changed(&self.io, range);
                    return Ok(());
                }
            }
            self.seal().await?;
        }
    }

    /// SEEK_DATA: the first byte at or after `offset` that was stored or written; `None` past the last.
    pub fn next_data(&self, offset: u64) -> Option<u64> {
        self.state.lock().data().next_from(offset)
    }

    /// SEEK_HOLE: the first byte at or after `offset` that is in a hole; the end of the file is one.
    pub fn next_hole(&self, offset: u64) -> u64 {
        let s = self.state.lock();
        if offset >= s.size { offset } else { s.data().end_of(offset).unwrap_or(offset) }
    }

    /// Changes what the next commit carries; false when nothing is dirty. Where everything is acknowledged and nothing
    /// is on its way yet, that is the commit that is to come anyway.
    pub fn edit_object(&self, f: &mut dyn FnMut(&mut NewObject)) -> bool {
        let mut s = self.state.lock();
        if !s.dirty() || s.unlinked {
            return false;
        }
        let before = s.object.clone();
        f(&mut s.object);
        if s.object == before {
            return true;
        }
        let (generation, object, waits) = (s.generation, s.object.clone(), s.running.is_none());
        match s.acked.as_mut().filter(|a| waits && a.generation == generation) {
            Some(acked) => acked.object = object,
            None => s.generation += 1,
        }
        true
    }

    /// Keeps the carried attributes in step after the stored object got them by a copy.
    pub fn replace_object_if_clean(&self, f: &mut dyn FnMut(&mut NewObject)) {
        let mut s = self.state.lock();
        if !s.dirty() {
            f(&mut s.object);
        }
    }

    /// The base was replaced by us with the same bytes.
    pub fn set_base(&self, object: Object) {
        let mut s = self.state.lock();
        if s.base.is_some() {
            s.key = object.id.key.clone();
            let old = s.base.as_ref().map(|b| b.id.clone());
            for layer in &mut s.layers {
                if let Some(old) = &old {
                    layer.overlay.rebase(old, &object);
                }
            }
            s.base = Some(object);
        }
    }

    /// Keeps commits from beginning as long as the answer lives, and waits for the one that runs.
    pub async fn hold_commits(&self) -> Result<tokio::sync::RwLockWriteGuard<'_, ()>> {
        self.io.patient("a commit", self.naming.write()).await
    }

    /// Gives a file another name of which nothing is stored; the caller holds its commits back. Errors: [`Kind::Busy`]
    /// when something is stored, or may be; those of the journal, and then the name is the old one.
    pub async fn rekey(&self, key: Key) -> Result<()> {
        let _journaling = self.io.patient("the journal", self.journaling.lock()).await?;
        let (old, condition, id) = {
            let mut s = self.state.lock();
            if s.base.is_some() || s.touched || s.running.is_some() {
                return Err(Error::new(Kind::Busy, "rename: the file is being stored").with_key(&s.key));
            }
            // A rename replaces what was there.
            let condition = (std::mem::take(&mut s.condition), std::mem::take(&mut s.replaces));
            (std::mem::replace(&mut s.key, key.clone()), condition, s.id)
        };
        let Some((journal, id)) = self.io.journal().zip(id) else { return Ok(()) };
        let written = journal.rekey(id, &key).await;
        if written.is_err() {
            let mut s = self.state.lock();
            (s.key, (s.condition, s.replaces)) = (old, condition);
        }
        written
    }
}

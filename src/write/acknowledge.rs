//! `writeback`: acknowledging from the journal, and storing in the background what was acknowledged.
//!
//! 1. What was acknowledged is a stack of sealed layers. Later writes go above them, so that neither a commit nor a
//!    crash ever publishes a file that is half written: a background commit stores the sealed layers and no more.
//! 2. Layers are folded when they get many: a program that appends a line and closes, ten thousand times while the
//!    store is away, must not make ten thousand of them.
//! 3. The journal is no place for everything: a streamed file, and one for which it has no room, is stored before it
//!    is acknowledged, as without `writeback`.
//! 4. After a crash nobody knows whether the last commit arrived. Where it would fail for that reason, a look at the
//!    object tells: it has the bytes of the first so many layers, or somebody else stored it.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::error::{Error, Kind, Result};
use crate::key::Key;
use crate::read::Object;
use crate::s3::{ETag, NewObject};

use super::journal::{Blob, Gone, INLINE, Journal, Live, PendingState, Replay, Saved};
use super::layers::Layer;
use super::overlay::{Origin, Overlay};
use super::sealing::{LAYERS_MAX, Unsaved};
use super::state::State;
use super::storing::Running;
use super::{Committed, Writer, Writes, commit, conflict, staging};

/// Bytes brought back at a time.
const CHUNK: u64 = 1 << 20;

/// What of a file the journal has and the store has not.
#[derive(Clone)]
pub(super) struct Acknowledged {
    pub generation: u64,
    /// The topmost layer that belongs to it.
    pub serial: Option<u64>,
    pub size: u64,
    pub object: NewObject,
    pub since: SystemTime,
    pub attempts: u32,
    pub state: PendingState,
    pub reason: Option<Error>,
}

/// How a file was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledge {
    /// There was nothing to acknowledge.
    Nothing,
    /// The journal has it; [`Writer::commit_acknowledged`] is to follow.
    Journaled,
    /// The journal does not take it: [`Writer::commit`] has to store it first.
    Store,
}

/// What is known of a file that was acknowledged and is not stored.
#[derive(Clone, Debug)]
pub struct Backlog {
    pub id: u64,
    /// Bytes.
    pub size: u64,
    pub since: SystemTime,
    pub attempts: u32,
    pub state: PendingState,
    pub reason: Option<Error>,
}

/// A record that is about to be written.
struct Draft {
    live: Live,
    fresh: Vec<(Arc<Blob>, Vec<Bytes>)>,
    new_file: bool,
}

impl Writer {
    fn journal(&self) -> Option<&Arc<Journal>> {
        if self.io.settings.writeback { self.io.open_journal() } else { None }
    }

    /// A file that a journal has, as it was acknowledged.
    pub(super) fn replayed(io: Arc<Writes>, live: Live) -> Arc<Writer> {
        let mut layers: Vec<Layer> = live.layers.iter().map(|s| Layer::of_saved(s.clone())).collect();
        let mut born = live.base.as_ref().map_or(0, |b| b.size);
        for (layer, serial) in layers.iter_mut().zip(1..) {
            (layer.born, layer.serial) = (born, serial);
            born = layer.saved.as_ref().map_or(born, |s| s.size);
        }
        let last = layers.len() as u64;
        layers.push(Layer { serial: last + 1, ..Layer::new(live.size) });
        let acked = Acknowledged {
            generation: 1,
            serial: (last > 0).then_some(last),
            size: live.size,
            object: live.object.clone(),
            since: live.since,
            attempts: 0,
            state: PendingState::Queued,
            reason: None,
        };
        let state = State {
            key: live.key,
            object: live.object,
            condition: live.condition,
            replaces: live.replaces,
            size: live.size,
            expected: 0,
            layers,
            stream: None,
            stuck: None,
            refused: BTreeSet::new(),
            published: None,
            unsettled: None,
            generation: 1,
            stored: 0,
            // It may have been sent before the crash.
            touched: true,
            failed: None,
            lost: false,
            unlinked: false,
            running: None,
            acked: Some(acked),
            recovered: true,
            id: Some(live.id),
            serial: last + 2,
            ended: 0,
            last_frozen: 0,
            base: live.base,
        };
        Writer::of(io, state)
    }

    /// With `writeback`, makes everything written so far safe in the journal. Errors: that of a failed stream.
    pub async fn acknowledge(&self) -> Result<Acknowledge> {
        match self.journal() {
            Some(journal) => Ok(self.acknowledge_here(journal).await?.unwrap_or(Acknowledge::Store)),
            None => Ok(Acknowledge::Store),
        }
    }

    /// `None`: the store has to take it.
    async fn acknowledge_here(&self, journal: &Arc<Journal>) -> Result<Option<Acknowledge>> {
        let _journaling = self.io.patient("the journal", self.journaling.lock()).await?;
        let (acked, id, unsaved) = {
            let _gate = self.gate().await?;
            let mut s = self.state.lock();
            s.check()?;
            if s.unlinked || !s.dirty() {
                return Ok(Some(Acknowledge::Nothing));
            }
            if s.acked.as_ref().is_some_and(|a| a.generation == s.generation) {
                return Ok(Some(Acknowledge::Journaled));
            }
            // A record has bytes. What is to be copied from other objects may be gone from them before a replay.
            if s.layers.iter().any(|l| !l.overlay.extents().is_empty()) {
                return Ok(None);
            }
            let held: u64 = s.layers.iter().filter(|l| l.saved.is_none()).map(|l| l.overlay.held()).sum();
            if !journal.has_room(held) {
                return Ok(None);
            }
            s.fold(&self.io);
            if s.layers.len() > 4 * LAYERS_MAX {
                return Ok(None);
            }
            let id = s.id.unwrap_or_else(|| journal.number());
            let Some((acked, unsaved)) = s.seal(id) else { return Ok(None) };
            (acked, id, unsaved)
        };
        match self.write_record(journal, id, &acked, unsaved).await {
            Ok(()) => {
                let mut s = self.state.lock();
                // Where a commit of everything came to its end meanwhile, it waits for us to bring the record in step.
                s.acked = Some(acked);
                let tight = self.io.memory() > self.io.budget.limit() / 4;
                s.evict(tight);
                Ok(Some(Acknowledge::Journaled))
            }
            Err(e) => {
                tracing::warn!("the journal did not take {:?}, so close waits for the store: {e}", self.key());
                Ok(None)
            }
        }
    }

    async fn write_record(
        &self,
        journal: &Arc<Journal>,
        id: u64,
        acked: &Acknowledged,
        unsaved: Vec<Unsaved>,
    ) -> Result<()> {
        let mut fresh = Vec::new();
        let mut files = Vec::new();
        let mut written = Vec::with_capacity(unsaved.len());
        let mut failed = None;
        for layer in unsaved {
            let blob = match self.write_layer(journal, &layer, &mut fresh).await {
                Ok(blob) => blob,
                Err(e) => {
                    failed = Some(e);
                    break;
                }
            };
            if let Some(blob) = blob.as_ref().filter(|b| !fresh.iter().any(|(f, _)| Arc::ptr_eq(f, b))) {
                files.push(blob.clone());
            }
            let ranges = layer.ranges();
            written.push((layer.serial, Arc::new(Saved::new(layer.cut, layer.size, ranges, blob))));
        }
        let result = match failed {
            Some(e) => Err(e),
            None => {
                let live = {
                    let mut s = self.state.lock();
                    for layer in &mut s.layers {
                        if let Some((_, saved)) = written.iter().find(|(serial, _)| *serial == layer.serial) {
                            layer.saved = Some(saved.clone());
                        }
                    }
                    s.live(id, acked)
                };
                // Layers that a commit stored meanwhile are in its object, which the record then has as its base.
                let live = live.ok_or_else(|| Error::new(Kind::Io, "journal: a layer is missing"))?;
                let draft = Draft { live, fresh, new_file: !files.is_empty() };
                journal.save(draft.live, draft.fresh, draft.new_file, true).await
            }
        };
        if result.is_err() {
            let mut s = self.state.lock();
            for layer in &mut s.layers {
                if written.iter().any(|(serial, _)| *serial == layer.serial) {
                    layer.saved = None;
                }
            }
            drop(s);
            files.iter().for_each(|blob| journal.drop_file(blob));
        }
        result
    }

    /// The blob of a layer: bytes that go with the record, or a file.
    async fn write_layer(
        &self,
        journal: &Arc<Journal>,
        layer: &Unsaved,
        fresh: &mut Vec<(Arc<Blob>, Vec<Bytes>)>,
    ) -> Result<Option<Arc<Blob>>> {
        let bytes = layer.bytes();
        if bytes == 0 {
            return Ok(None);
        }
        if bytes <= INLINE {
            let mut pieces = Vec::new();
            for p in &layer.pieces {
                match &p.from {
                    Origin::Memory(b) => pieces.push(b.clone()),
                    Origin::Staged(file) => pieces.push(staging::read(file, p.range.clone()).await?),
                    _ => {}
                }
            }
            let blob = journal.inline(&pieces);
            fresh.push((blob.clone(), pieces));
            return Ok(Some(blob));
        }
        let (journal, pieces) = (journal.clone(), layer.pieces.clone());
        let write = move || {
            journal.write_file(&mut |out| {
                for p in &pieces {
                    match &p.from {
                        Origin::Memory(b) => out(b)?,
                        Origin::Staged(file) => staging::each_chunk(file, p.range.clone(), out)?,
                        _ => {}
                    }
                }
                Ok(())
            })
        };
        staging::blocking("write the journal", write).await.map(Some)
    }

    /// Brings the record in step after a commit. `durable`: waits until it is safe.
    pub(super) async fn settle_record(&self, durable: bool) {
        let Some(journal) = self.io.journal().cloned() else { return };
        if self.state.lock().id.is_none() {
            return;
        }
        let _journaling = match self.io.patient("the journal", self.journaling.lock()).await {
            Ok(held) => held,
            // As below: a replay finds out.
            Err(e) => return tracing::warn!("the journal does not know that {:?} is stored: {e}", self.key()),
        };
        let (id, next) = {
            let mut s = self.state.lock();
            let Some(id) = s.id else { return };
            match s.acked.clone() {
                Some(acked) if acked.generation > s.stored => {
                    // Where a layer is not in the journal (the last record could not be written), the record that
                    // is there stays: what it says of the base is found out when it is replayed.
                    let Some(live) = s.live(id, &acked) else { return };
                    (id, Some(live))
                }
                // The content is stored, but not all that belongs to it.
                Some(_) if s.unsettled == Some(s.stored) => return,
                _ => {
                    s.acked = None;
                    s.id = None;
                    (id, None)
                }
            }
        };
        let written = match next {
            Some(live) => journal.save(live, Vec::new(), false, durable).await,
            None => journal.done(id, durable).await,
        };
        if let Err(e) = written {
            tracing::warn!("the journal does not know that {:?} is stored: {e}", self.key());
        }
    }

    /// The object that a commit in the background stored, and what it still lacks some of: the caller sees to that, and
    /// then calls [`Writer::settled`]. Until then the journal has the file.
    pub fn unsettled(&self) -> Option<(Object, NewObject)> {
        let s = self.state.lock();
        s.unsettled.filter(|g| *g == s.stored)?;
        Some((s.base.clone()?, s.acked.as_ref()?.object.clone()))
    }

    pub async fn settled(&self) {
        self.state.lock().unsettled = None;
        self.settle_record(true).await;
    }

    /// The second half of [`Writer::unlink`]: not after a crash either. Errors, which are in the log as well: after a
    /// crash it may be stored all the same.
    pub async fn forget(&self) -> Result<()> {
        let Some(journal) = self.io.journal().cloned() else { return Ok(()) };
        let forgotten = async {
            let _journaling = self.io.patient("the journal", self.journaling.lock()).await?;
            let id = {
                let mut s = self.state.lock();
                s.acked = None;
                s.id.take()
            };
            let Some(id) = id else { return Ok(()) };
            journal.done(id, true).await
        };
        forgotten.await.map_err(|e: Error| {
            let e = e.with_key(self.key());
            tracing::error!("after a crash a file would be stored although it was deleted: {e}");
            e
        })
    }

    /// Makes the bytes that only the journal has readable from memory and staging: the record is about to end, and
    /// handles are still open.
    pub async fn bring_back(&self) -> Result<()> {
        let _gate = self.gate().await?;
        let evicted: Vec<(u64, Arc<Saved>)> = {
            let s = self.state.lock();
            s.layers.iter().filter(|l| l.evicted).filter_map(|l| Some((l.serial, l.saved.clone()?))).collect()
        };
        for (serial, saved) in evicted {
            let mut overlay = Overlay::default();
            overlay.set_file(staging::open(&self.io.settings.staging_dir).await?);
            let mut pieces = Vec::new();
            saved.set.iter().for_each(|r| saved.pieces(r, &mut pieces));
            for piece in pieces {
                let Origin::Saved(blob, start) = &piece.from else {
                    overlay.punch(piece.range);
                    continue;
                };
                let mut at = piece.range.start;
                while at < piece.range.end {
                    let end = piece.range.end.min(at + CHUNK);
                    let from = start + (at - piece.range.start);
                    let data = blob.read(from..from + (end - at)).await?;
                    let (jobs, pages) = overlay.stage(at, &data, &self.io.rooms, 0).split();
                    if let Some(file) = overlay.file() {
                        staging::run(&file.clone(), jobs).await?;
                    }
                    overlay.finish(at, &data, pages);
                    at = end;
                }
            }
            let mut s = self.state.lock();
            if let Some(layer) = s.layers.iter_mut().find(|l| l.serial == serial && l.evicted) {
                layer.overlay = overlay;
                layer.evicted = false;
            }
        }
        Ok(())
    }

    /// Whether anything was changed that neither the journal nor the store has.
    pub fn is_unacknowledged(&self) -> bool {
        let s = self.state.lock();
        s.dirty() && !s.unlinked && s.acked.as_ref().is_none_or(|a| a.generation != s.generation)
    }

    /// What was acknowledged and is not stored.
    pub fn backlog(&self) -> Option<Backlog> {
        let s = self.state.lock();
        let (a, id) = s.acked.as_ref().zip(s.id)?;
        Some(Backlog {
            id,
            size: a.size,
            since: a.since,
            attempts: a.attempts,
            state: a.state,
            reason: a.reason.clone(),
        })
    }

    /// How the last attempt to store it ended; `parked`: there will be no other by itself.
    pub fn note_attempt(&self, parked: bool, reason: &Error) {
        let mut s = self.state.lock();
        let id = s.id;
        let Some((acked, id)) = s.acked.as_mut().zip(id) else { return };
        acked.attempts += 1;
        acked.state = if parked { PendingState::Parked } else { PendingState::Queued };
        acked.reason = Some(reason.clone());
        if let Some(journal) = self.io.journal() {
            journal.tried(id, acked.attempts, parked, reason);
        }
    }

    /// Puts a parked file back in the queue.
    pub fn unpark(&self) {
        if let Some(a) = self.state.lock().acked.as_mut().filter(|a| a.state == PendingState::Parked) {
            a.state = PendingState::Queued;
        }
    }

    /// Writes down what [`Writer::edit_object`] changed; best effort, as nobody was promised anything.
    pub async fn refresh_record(&self) {
        let Some(journal) = self.journal() else { return };
        let Ok(_journaling) = self.io.patient("the journal", self.journaling.lock()).await else { return };
        let live = {
            let s = self.state.lock();
            s.acked.as_ref().zip(s.id).and_then(|(acked, id)| s.live(id, acked))
        };
        if let Some(live) = live
            && let Err(e) = journal.save(live, Vec::new(), false, false).await
        {
            tracing::debug!("{e}");
        }
    }

    /// Stores what was acknowledged, and nothing that was written later; `None` when there is nothing.
    pub async fn commit_acknowledged(&self) -> Result<Option<Committed>> {
        let _naming = self.io.patient("a rename", self.naming.read()).await?;
        let _committing = self.io.patient("another commit", self.committing.lock()).await?;
        let blobs: Vec<Arc<Blob>> = {
            let s = self.state.lock();
            let n = s.acked.as_ref().map_or(0, |a| s.sealed(a));
            s.layers[..n].iter().filter_map(|l| l.saved.as_ref()?.blob.clone()).collect()
        };
        for blob in blobs {
            blob.check().await.map_err(|e| e.with_key(self.key()))?;
        }
        let Some(job) = self.freeze_acknowledged()? else {
            let stored = {
                let s = self.state.lock();
                !s.unlinked && s.acked.as_ref().is_some_and(|a| a.generation <= s.stored)
            };
            if stored {
                // The journal was not told in time.
                self.settle_record(false).await;
            }
            return Ok(None);
        };
        let mut running = Running::new(self, job);
        let done = commit::store(&self.io, running.job()).await;
        let done = match done {
            Err(e) if matches!(e.kind(), Kind::Conflict | Kind::Exists) => match self.recognise().await {
                Ok(Some(committed)) => Ok(committed),
                Ok(None) => conflict::resolve(&self.io, running.job(), e).await,
                Err(looking) => {
                    tracing::debug!("after {e}: {looking}");
                    Err(if is_passing(looking.kind()) { looking } else { e })
                }
            },
            done => done,
        };
        let done = running.end(done, false, false);
        if done.is_ok() {
            self.state.lock().recovered = false;
            self.settle_record(false).await;
        }
        done.map(Some)
    }

    /// Waits, for as long as a request may take, for the commit that tells what a former mount had stored. It was begun
    /// when this one came.
    pub(super) async fn find_out(&self, base: &Option<Object>) {
        const LOOK: Duration = Duration::from_millis(20);
        let unknown = || {
            let s = self.state.lock();
            let waits = s.acked.as_ref().is_some_and(|a| a.state != PendingState::Parked);
            s.recovered && waits && s.base == *base
        };
        let end = tokio::time::Instant::now() + self.io.settings.patience;
        while unknown() && tokio::time::Instant::now() < end {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether it comes from a former mount, of which nobody knows what it had stored. A commit of what was acknowledged
    /// finds out; one of what was written since could not.
    pub fn is_recovered(&self) -> bool {
        self.state.lock().recovered
    }

    fn freeze_acknowledged(&self) -> Result<Option<commit::Job>> {
        let mut s = self.state.lock();
        s.check()?;
        let Some(acked) = s.acked.clone().filter(|_| !s.unlinked) else { return Ok(None) };
        if acked.generation <= s.stored {
            return Ok(None);
        }
        if let Some(a) = &mut s.acked {
            a.state = PendingState::Uploading;
        }
        let n = s.sealed(&acked);
        let mut job = self.job(&mut s, n, acked.generation, acked.size, acked.object);
        job.background = true;
        Ok(Some(job))
    }
}

impl Writes {
    /// The journal will not bring anything back that was stored before: what it was told of that is on the disk.
    pub async fn settled(&self) {
        if let Some(journal) = self.journal().filter(|_| self.settings.writeback)
            && let Err(e) = journal.barrier().await
        {
            tracing::warn!("{e}");
        }
    }

    /// With `writeback`, the journal remembers that the object of an unlinked name is to be deleted; its number there.
    pub async fn unlinked(&self, key: &Key, etag: &ETag, modified: Option<SystemTime>) -> Option<u64> {
        let journal = if self.settings.writeback { self.open_journal()? } else { return None };
        match journal.unlinked(key, etag, modified).await {
            Ok(id) => Some(id),
            Err(e) => {
                tracing::warn!("the journal did not take the delete of {key:?}, so unlink waits for the store: {e}");
                None
            }
        }
    }

    /// It is deleted, or will not be.
    pub fn deleted(&self, id: u64) {
        if let Some(journal) = self.journal() {
            journal.deleted(id);
        }
    }

    /// What a former process had still to delete. A file that is in the journal replaces what has its name.
    pub fn gone(&self, replay: &mut Replay) -> Vec<Gone> {
        let live: HashSet<&Key> = replay.live.iter().map(|l| &l.key).collect();
        let (replaced, gone) =
            std::mem::take(&mut replay.gone).into_iter().partition::<Vec<Gone>, _>(|g| live.contains(&g.key));
        replaced.iter().for_each(|g| self.deleted(g.id));
        gone
    }

    /// The files that a former process left in the journal, each with whether it is a change of an object.
    pub fn replay(self: &Arc<Self>, replay: Replay) -> Vec<(Arc<Writer>, bool)> {
        let writer = |live: Live| {
            let changes = live.base.is_some();
            (Writer::replayed(self.clone(), live), changes)
        };
        replay.live.into_iter().map(writer).collect()
    }
}

/// Failures that go by themselves: another attempt may succeed with nobody doing anything.
pub fn is_passing(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Unavailable
            | Kind::Timeout
            | Kind::Io
            | Kind::NoMemory
            | Kind::NoSpace
            | Kind::Busy
            | Kind::InProgress
            // The upload, not the file: somebody aborted it.
            | Kind::Stale
    )
}

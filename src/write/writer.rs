//! One file that is being written: what its handles share.
//!
//! 1. What is in memory is answered at once, under one short lock (`state`). What has to wait for the disk does so
//!    outside of it, holding `gate`, which keeps other changes out meanwhile; nobody waits for the network there.
//! 2. A commit (`committing`) uploads frozen layers while writes go on above them. Concurrent commits are one.
//! 3. While a new file is streamed, bytes that were sent are no longer here: whoever wants to read or change them makes
//!    the upload complete first and goes on with the result as the base.
//! 4. A failed commit is remembered until one succeeds; what was written stays, so that the next one can. Only a
//!    failed stream is lost for good, because the bytes it sent are gone.
//!
//! Lock order: `committing`, then `gate`, then `state`. `state` is never held across an await.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result};
use crate::key::Key;
use crate::read::Object;
use crate::s3::{Condition, NewObject};

use super::commit::{self, Job};
use super::layers::{self, Layer};
use super::overlay::{Origin, PAGE, Piece, Stage};
use super::stream::{Layout, Stream};
use super::upload::{Upload, base_error};
use super::{Committed, Writes, staging};

/// How often a read starts anew because a commit replaced the base under it.
const RETRIES: usize = 8;

/// One per inode with a write handle; shared by all its handles.
pub struct Writer {
    io: Arc<Writes>,
    state: Arc<Mutex<State>>,
    gate: tokio::sync::Mutex<()>,
    committing: tokio::sync::Mutex<()>,
}

struct State {
    key: Key,
    base: Option<Object>,
    object: NewObject,
    /// What the next commit is subject to, besides the base.
    condition: Condition,
    size: u64,
    /// The announced size: bytes that `allocate` reserved.
    expected: u64,
    /// Never empty.
    layers: Vec<Layer>,
    stream: Option<Stream>,
    /// Counts changes; dirty while it differs from `stored`.
    generation: u64,
    stored: u64,
    /// A key that something was stored under, or a part sent to, cannot be exchanged.
    touched: bool,
    failed: Option<Error>,
    /// Bytes that were sent and are gone: no commit can succeed any more.
    lost: bool,
    unlinked: bool,
    /// The running commit: what it froze, and how to end it.
    running: Option<(u64, CancellationToken)>,
    /// Commits that ended so far, and what the last one had frozen.
    ended: u64,
    last_frozen: u64,
}

/// What a change needs before it can happen.
enum Next {
    Done(u64),
    /// The disk: the offset, and the work.
    Stage(u64, Stage),
    /// Bytes that can be kept while waiting.
    Later,
    /// The stream to complete.
    Seal,
    /// A part to come to rest.
    Wait(watch::Receiver<u64>),
}

impl State {
    fn base_size(&self) -> u64 {
        self.base.as_ref().map_or(0, |b| b.size)
    }

    fn top(&mut self) -> &mut Layer {
        // Invariant: `layers` is never empty; a commit pushes before it removes.
        self.layers.last_mut().expect("a file has a layer")
    }

    fn dirty(&self) -> bool {
        self.generation != self.stored
    }

    fn pieces(&self, range: Range<u64>) -> Vec<Piece> {
        let mut out = Vec::new();
        layers::collect(&self.layers, self.base_size(), range, &mut out);
        out
    }

    /// A stream that failed ends here; every later change gets its error.
    fn check(&mut self) -> Result<()> {
        if let Some(e) = self.stream.as_ref().and_then(Stream::failed) {
            tracing::error!("the bytes of {:?} written so far are lost: {e}", self.key);
            self.failed = Some(e);
            self.lost = true;
            self.stream = None;
        }
        match &self.failed {
            Some(e) if self.lost => Err(e.clone()),
            _ => Ok(()),
        }
    }

    fn check_size(&self, io: &Writes, offset: u64, len: u64) -> Result<u64> {
        let max = io.settings.limits.max_object.min(i64::MAX as u64);
        offset
            .checked_add(len)
            .filter(|end| *end <= max)
            .ok_or_else(|| Error::new(Kind::TooLarge, format!("write beyond {max} bytes")).with_key(&self.key))
    }

    /// Whether a change of `range` has to wait until the stream is complete.
    fn must_seal(&self, io: &Writes, range: &Range<u64>) -> bool {
        self.stream.as_ref().is_some_and(|s| {
            range.start < s.shipped.end && range.end > s.shipped.start
                // The last part numbers are for the tail.
                || s.next + 1 >= io.settings.limits.max_parts
                // What does not fit into the parts would fail at the end, with everything sent lost.
                || range.end > s.layout.reach(io.settings.limits.max_parts)
        })
    }

    /// Bytes that are written without a gap from the start on.
    fn contiguous(&self) -> u64 {
        let dirty = self.layers.last().map(|l| l.overlay.dirty());
        let from = self.stream.as_ref().map_or(0, |s| s.shipped.end);
        dirty.and_then(|d| d.end_of(from)).unwrap_or(from)
    }

    /// A new file of which nothing is stored, being written in order so far.
    fn may_stream(&self) -> bool {
        let [only] = &self.layers[..] else { return false };
        let dirty = only.overlay.dirty();
        self.base.is_none()
            && !self.lost
            && !self.unlinked
            && (dirty.is_empty() || dirty.len() == 1 && dirty.end_of(0).is_some())
    }

    /// Bytes of memory the top layer may hold.
    fn memory_limit(&self, io: &Writes) -> usize {
        let s = &io.settings;
        if self.stream.is_some() {
            return usize::MAX;
        }
        let below: usize = self.layers[..self.layers.len() - 1].iter().map(|l| l.overlay.memory()).sum();
        let limit = s.memory_per_file.saturating_sub(below);
        if !self.may_stream() {
            return limit;
        }
        let until = s.stream_after.saturating_add(s.limits.part_size).saturating_add(2 * PAGE);
        limit.max(usize::try_from(until).unwrap_or(usize::MAX).min(io.budget.limit() / 4))
    }

    fn put(&mut self, io: &Arc<Writes>, at: Option<u64>, data: Data<'_>) -> Result<Next> {
        self.check()?;
        let offset = at.unwrap_or(self.size);
        let bytes = data.bytes();
        let end = self.check_size(io, offset, bytes.len() as u64)?;
        if bytes.is_empty() {
            return Ok(Next::Done(offset));
        }
        if self.must_seal(io, &(offset..end)) {
            return Ok(Next::Seal);
        }
        // Subscribed before looking: a part that comes to rest in between is not missed.
        let waiting = self.stream.as_ref().map(|s| (s.moved(), s.in_flight()));
        if let Some((moved, n)) = &waiting
            && *n >= io.settings.max_uploads.max(1)
        {
            return Ok(Next::Wait(moved.clone()));
        }
        let limit = self.memory_limit(io);
        if self.top().overlay.write(offset, bytes, &io.rooms, limit) {
            self.changed(io, end);
            return Ok(Next::Done(offset));
        }
        match (waiting, data) {
            (Some((moved, 1..)), _) => Ok(Next::Wait(moved)),
            (_, Data::Owned(data)) => Ok(Next::Stage(offset, self.top().overlay.stage(offset, data, &io.rooms, limit))),
            (_, Data::Borrowed(_)) => Ok(Next::Later),
        }
    }

    /// Counts a change that reaches up to `end`, and sends what is full.
    fn changed(&mut self, io: &Arc<Writes>, end: u64) {
        self.size = self.size.max(end);
        self.generation += 1;
        if self.stream.is_none() {
            self.start_stream(io);
        }
        let contiguous = self.contiguous();
        while let (Some(stream), Some(layer)) = (&mut self.stream, self.layers.last_mut()) {
            let part = stream.shipped.end..stream.shipped.end + stream.layout.size(stream.next);
            if part.end > contiguous || stream.next + 1 >= io.settings.limits.max_parts {
                break;
            }
            let taken = layer.overlay.take(part);
            stream.ship(io, taken);
            layer.shipped = stream.shipped.clone();
        }
    }

    fn start_stream(&mut self, io: &Arc<Writes>) {
        let contiguous = self.contiguous();
        let limits = &io.settings.limits;
        if contiguous < io.settings.stream_after || contiguous <= limits.single_put || self.running.is_some() {
            return;
        }
        if self.layers.len() != 1 || self.base.is_some() || self.unlinked || self.lost {
            return;
        }
        let expected = self.size.max(self.expected);
        let expected = if expected > contiguous { expected } else { 0 };
        let Some(layout) = Layout::new(limits, expected) else { return };
        if contiguous < layout.size(1) + layout.size(2) {
            return;
        }
        let upload = Upload::new(io.clone(), self.key.clone(), self.object.clone());
        self.stream = Some(Stream::new(upload, layout));
        self.touched = true;
    }

    /// Puts an emptied top layer back into the one below, when a commit failed.
    fn thaw(&mut self) {
        while self.layers.len() > 1 && self.layers.last().is_some_and(|l| l.overlay.is_empty()) {
            let cut = self.layers.pop().map_or(0, |l| l.cut);
            self.top().truncate(cut);
        }
    }
}

/// Bytes of a write: still the caller's, or ours to keep while we wait.
#[derive(Clone, Copy)]
enum Data<'a> {
    Borrowed(&'a [u8]),
    Owned(&'a Bytes),
}

impl Data<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Data::Borrowed(b) => b,
            Data::Owned(b) => b,
        }
    }
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
    /// `condition`: what the first commit is subject to.
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
            size,
            expected: 0,
            layers: vec![Layer::new(size)],
            stream: None,
            generation: u64::from(base.is_none()),
            stored: 0,
            touched: false,
            failed: None,
            lost: false,
            unlinked: false,
            running: None,
            ended: 0,
            last_frozen: 0,
            base,
        };
        Arc::new(Writer {
            io,
            state: Arc::new(Mutex::new(state)),
            gate: tokio::sync::Mutex::new(()),
            committing: tokio::sync::Mutex::new(()),
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

    async fn gate(&self) -> Result<tokio::sync::MutexGuard<'_, ()>> {
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
                    s.changed(&self.io, offset + data.len() as u64);
                    return Ok(offset);
                }
                next
            };
            match next {
                Next::Done(offset) => return Ok(offset),
                Next::Seal | Next::Later | Next::Stage(..) => self.seal().await?,
                Next::Wait(mut moved) => {
                    // An error means that the stream ended: look again.
                    let _ = self.io.patient("uploads", moved.changed()).await?;
                }
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
    async fn seal(&self) -> Result<()> {
        self.commit().await.map(|_| ())
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
                // A commit of ours replaced the base meanwhile.
                Err(e) if e.kind() == Kind::Conflict && self.base() != base => {}
                Err(e) if e.kind() == Kind::Conflict => return Err(e.with_kind(Kind::Stale)),
                done => return done,
            }
        }
        Err(Error::new(Kind::Io, "read: the file changes too fast").with_key(self.key()))
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
                Err(e) if e.kind() == Kind::Conflict && self.base() != base => {}
                Err(e) if e.kind() == Kind::Conflict => return Err(e.with_kind(Kind::Stale)),
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
                    s.changed(&self.io, range.end);
                    return Ok(());
                }
            }
            self.seal().await?;
        }
    }

    fn data(s: &State) -> super::ranges::RangeSet {
        let mut data = layers::dirty(&s.layers);
        data.insert(0..layers::visible(&s.layers, s.base_size()));
        data.remove(s.size..u64::MAX);
        data
    }

    /// SEEK_DATA: the first byte at or after `offset` that was stored or written; `None` past the last.
    pub fn next_data(&self, offset: u64) -> Option<u64> {
        Self::data(&self.state.lock()).next_from(offset)
    }

    /// SEEK_HOLE: the first byte at or after `offset` that is in a hole; the end of the file is one.
    pub fn next_hole(&self, offset: u64) -> u64 {
        let s = self.state.lock();
        if offset >= s.size { offset } else { Self::data(&s).end_of(offset).unwrap_or(offset) }
    }

    /// Changes what the next commit carries; false when nothing is dirty.
    pub fn edit_object(&self, f: &mut dyn FnMut(&mut NewObject)) -> bool {
        let mut s = self.state.lock();
        if !s.dirty() || s.unlinked {
            return false;
        }
        f(&mut s.object);
        s.generation += 1;
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
            s.base = Some(object);
        }
    }

    /// Gives a file another name of which nothing is stored. Errors: [`Kind::Busy`] when something is, or is about to be.
    pub fn rekey(&self, key: Key) -> Result<()> {
        let mut s = self.state.lock();
        if s.base.is_some() || s.touched || s.running.is_some() {
            return Err(Error::new(Kind::Busy, "rename: the file is being stored").with_key(&s.key));
        }
        s.key = key;
        // A rename replaces what was there.
        s.condition = Condition::None;
        Ok(())
    }

    /// Stores everything; `None` when nothing was dirty. Concurrent calls are one commit.
    ///
    /// A failure aborts the upload, leaves the old object as it was and is remembered; what was written stays, so that
    /// a later call can succeed, unless the file was streamed.
    pub async fn commit(&self) -> Result<Option<Committed>> {
        let (seen, generation) = {
            let s = self.state.lock();
            (s.ended, s.generation)
        };
        let _committing = self.io.patient("another commit", self.committing.lock()).await?;
        {
            let s = self.state.lock();
            // One ran while we waited, and it had all that we would store: its failure is ours.
            if s.ended != seen
                && s.last_frozen >= generation
                && let Some(e) = &s.failed
            {
                return Err(e.clone());
            }
        }
        let mut last = None;
        // A streamed upload carries the headers of its beginning: if they changed, a second round sets them.
        for _ in 0..2 {
            let Some(job) = self.freeze().await? else { break };
            let stale = job.stream.as_ref().is_some_and(|s| s.upload.object != job.object);
            let frozen = Running { writer: self, ended: false };
            let done = commit::store(&self.io, &job).await;
            last = Some(frozen.end(job, done, stale)?);
            if !stale {
                break;
            }
        }
        Ok(last)
    }

    /// Freezes the layers for a commit; `None` when there is nothing to store.
    async fn freeze(&self) -> Result<Option<Job>> {
        let _gate = self.gate().await?;
        let mut s = self.state.lock();
        if s.unlinked {
            return Ok(None);
        }
        s.check()?;
        if !s.dirty() {
            return Ok(None);
        }
        let stop = CancellationToken::new();
        s.running = Some((s.generation, stop.clone()));
        for layer in &mut s.layers {
            layer.overlay.freeze();
        }
        let (n, size, base) = (s.layers.len(), s.size, s.base_size());
        s.layers.push(Layer::new(size));
        let state = self.state.clone();
        let frozen = move |range: Range<u64>| {
            let mut out = Vec::new();
            // The commit lock is held: the frozen layers stay what and where they are.
            layers::collect(&state.lock().layers[..n], base, range, &mut out);
            out
        };
        s.touched = true;
        Ok(Some(Job {
            key: s.key.clone(),
            base: s.base.clone(),
            visible: layers::visible(&s.layers[..n], base),
            dirty: layers::dirty(&s.layers[..n]),
            size,
            object: s.object.clone(),
            condition: s.condition.clone(),
            stream: s.stream.take(),
            frozen: Arc::new(frozen),
            stop,
        }))
    }

    /// The file was deleted: ends the upload; nothing will be stored any more. Handles go on with what is here.
    ///
    /// When it returns no request of this writer is on its way that could bring the object back, unless `patience`
    /// passed.
    pub async fn unlink(&self) {
        let stop = {
            let mut s = self.state.lock();
            s.unlinked = true;
            s.stream = None;
            s.running.as_ref().map(|(_, stop)| stop.clone())
        };
        if let Some(stop) = stop {
            stop.cancel();
        }
        if let Err(e) = self.io.patient("the last upload", self.committing.lock()).await {
            tracing::warn!("delete of a file that is being stored: {e}");
        }
    }
}

/// A running commit: whichever way its future ends, the state learns of it.
struct Running<'a> {
    writer: &'a Writer,
    ended: bool,
}

impl Running<'_> {
    /// `stale`: the stored object does not carry the headers of `job` yet.
    fn end(mut self, job: Job, done: Result<Committed>, stale: bool) -> Result<Committed> {
        self.ended = true;
        let mut s = self.writer.state.lock();
        let generation = s.running.take().map_or(s.generation, |(g, _)| g);
        s.ended += 1;
        s.last_frozen = generation;
        match done {
            Ok(committed) => {
                // All but the layer that was pushed when the others froze.
                let top = s.layers.pop().unwrap_or_else(|| Layer::new(job.size));
                s.layers.clear();
                s.layers.push(top);
                s.base = Some(committed.object.clone());
                s.condition = Condition::None;
                s.failed = None;
                s.stored = if stale { s.stored } else { generation };
                Ok(committed)
            }
            Err(e) => {
                let e = if e.key().is_none() { e.with_key(&job.key) } else { e };
                if job.stream.is_some() {
                    tracing::error!("the bytes of {:?} written so far are lost: {e}", job.key);
                    s.lost = true;
                }
                s.failed = Some(e.clone());
                s.thaw();
                Err(e)
            }
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let mut s = self.writer.state.lock();
        if let Some((generation, _)) = s.running.take() {
            s.ended += 1;
            s.last_frozen = generation;
        }
        // The job, and a stream in it, went with the future.
        let sent = s.layers.iter().any(|l| !l.shipped.is_empty());
        s.lost |= sent;
        s.failed = Some(Error::new(Kind::Io, "store object: interrupted").with_key(&s.key));
        s.thaw();
    }
}

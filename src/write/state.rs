//! What a file that is being written is at one moment, and which step a change takes next. Nothing here waits.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result};
use crate::key::Key;
use crate::read::Object;
use crate::s3::{Condition, NewObject};

use super::acknowledge::Acknowledged;
use super::layers::{self, Layer};
use super::overlay::{PAGE, Piece, Stage};
use super::ranges::RangeSet;
use super::stream::{Layout, Stream};
use super::upload::Upload;
use super::{Committed, Writes};

pub(super) struct State {
    pub(super) key: Key,
    pub(super) base: Option<Object>,
    pub(super) object: NewObject,
    /// What the next commit is subject to, besides the base: nothing may be there if it was made with O_EXCL.
    pub(super) condition: Condition,
    /// What the name held when the file was made, as far as is known.
    pub(super) replaces: Condition,
    pub(super) size: u64,
    /// The announced size: bytes that `allocate` reserved.
    pub(super) expected: u64,
    /// Never empty.
    pub(super) layers: Vec<Layer>,
    pub(super) stream: Option<Stream>,
    /// The commit of a stream that failed: it comes first in the next one.
    pub(super) stuck: Option<Stuck>,
    /// Where writes began that were refused because the store took nothing: the file is not whole without them.
    pub(super) refused: BTreeSet<u64>,
    /// What was stored while the caller of the commit got an error, or wanted something else.
    pub(super) published: Option<Committed>,
    /// The generation that a commit in the background stored without all of its access control list or tags.
    pub(super) unsettled: Option<u64>,
    /// Counts changes; dirty while it differs from `stored`.
    pub(super) generation: u64,
    pub(super) stored: u64,
    /// A key that something was stored under, or a part sent to, cannot be exchanged.
    pub(super) touched: bool,
    pub(super) failed: Option<Error>,
    /// Bytes that were sent and are gone: no commit can succeed any more.
    pub(super) lost: bool,
    pub(super) unlinked: bool,
    /// The running commit: what it froze, and how to end it.
    pub(super) running: Option<Frozen>,
    /// What the journal has and the store has not.
    pub(super) acked: Option<Acknowledged>,
    /// It comes from the journal of a former mount, and no commit has succeeded since.
    pub(super) recovered: bool,
    /// The journal's number of this file, once it has a record.
    pub(super) id: Option<u64>,
    /// Number of the next layer.
    pub(super) serial: u64,
    /// Commits that ended so far, and what the last one had frozen.
    pub(super) ended: u64,
    pub(super) last_frozen: u64,
}

/// What a running commit is about.
#[derive(Clone)]
pub(super) struct Frozen {
    pub generation: u64,
    /// So many layers, from the lowest.
    pub layers: usize,
    pub stop: CancellationToken,
}

/// A commit of a stream that failed. Its layers stay frozen: what was sent of them is the upload's.
pub(super) struct Stuck {
    /// So many layers, from the lowest; there is always one above them.
    pub layers: usize,
    pub generation: u64,
    pub size: u64,
    pub object: NewObject,
    pub stream: Stream,
}

/// Refused writes that are remembered.
const REFUSED_MAX: usize = 1024;

/// What a change needs before it can happen.
pub(super) enum Next {
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
    pub(super) fn base_size(&self) -> u64 {
        self.base.as_ref().map_or(0, |b| b.size)
    }

    pub(super) fn top(&mut self) -> &mut Layer {
        // Invariant: `layers` is never empty; a commit pushes before it removes.
        self.layers.last_mut().expect("a file has a layer")
    }

    pub(super) fn dirty(&self) -> bool {
        self.generation != self.stored
    }

    /// Puts an empty layer on top: what is below is not written to any more.
    pub(super) fn push_layer(&mut self) {
        let serial = self.serial;
        self.serial += 1;
        self.layers.push(Layer { serial, ..Layer::new(self.size) });
    }

    pub(super) fn pieces(&self, range: Range<u64>) -> Vec<Piece> {
        let mut out = Vec::new();
        layers::collect(&self.layers, self.base_size(), range, &mut out);
        out
    }

    /// A stream whose upload is gone ends here; every later change gets its error.
    pub(super) fn check(&mut self) -> Result<()> {
        if let Some(e) = self.stream.as_ref().and_then(Stream::gone) {
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

    /// A file of which writes were refused is not stored until they are repeated.
    pub(super) fn whole(&self) -> Result<()> {
        if self.refused.is_empty() {
            return Ok(());
        }
        let unknown = || Error::new(Kind::Io, "store object: a write of it was refused").with_key(&self.key);
        Err(self.failed.clone().unwrap_or_else(unknown))
    }

    /// A write at `offset` was refused because the store took nothing.
    pub(super) fn refuse(&mut self, offset: u64, error: Error) -> Error {
        let error = if error.key().is_none() { error.with_key(&self.key) } else { error };
        self.failed = Some(error.clone());
        if self.refused.len() < REFUSED_MAX {
            self.refused.insert(offset);
        }
        error
    }

    pub(super) fn check_size(&self, io: &Writes, offset: u64, len: u64) -> Result<u64> {
        let max = io.settings.limits.max_object.min(i64::MAX as u64);
        offset
            .checked_add(len)
            .filter(|end| *end <= max)
            .ok_or_else(|| Error::new(Kind::TooLarge, format!("write beyond {max} bytes")).with_key(&self.key))
    }

    /// Whether a change of `range` has to wait until the stream is complete.
    pub(super) fn must_seal(&self, io: &Writes, range: &Range<u64>) -> bool {
        self.stream.as_ref().is_some_and(|s| {
            range.start < s.shipped.end && range.end > s.shipped.start
                // The last part numbers are for the tail.
                || s.next + 1 >= io.settings.limits.max_parts
                // What does not fit into the parts would fail at the end, with everything sent lost.
                || range.end > s.layout.reach(io.settings.limits.max_parts)
        })
    }

    /// Bytes that are written without a gap from the start on.
    pub(super) fn contiguous(&self) -> u64 {
        let dirty = self.layers.last().map(|l| l.overlay.dirty());
        let from = self.stream.as_ref().map_or(0, |s| s.shipped.end);
        dirty.and_then(|d| d.end_of(from)).unwrap_or(from)
    }

    /// A new file of which nothing is stored, being written in order so far.
    pub(super) fn may_stream(&self) -> bool {
        let [only] = &self.layers[..] else { return false };
        let dirty = only.overlay.dirty();
        self.base.is_none()
            && !self.lost
            && !self.unlinked
            && only.overlay.extents().is_empty()
            && (dirty.is_empty() || dirty.len() == 1 && dirty.end_of(0).is_some())
    }

    /// Bytes of memory the top layer may hold.
    pub(super) fn memory_limit(&self, io: &Writes) -> usize {
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

    pub(super) fn put(&mut self, io: &Arc<Writes>, at: Option<u64>, data: Data<'_>) -> Result<Next> {
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
        if let Some(Err(e)) = self.stream.as_ref().map(|s| s.go_on(io)) {
            return Err(self.refuse(offset, e));
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
            self.changed(io, offset..end);
            return Ok(Next::Done(offset));
        }
        match (waiting, data) {
            (Some((moved, 1..)), _) => Ok(Next::Wait(moved)),
            (_, Data::Owned(data)) => Ok(Next::Stage(offset, self.top().overlay.stage(offset, data, &io.rooms, limit))),
            (_, Data::Borrowed(_)) => Ok(Next::Later),
        }
    }

    /// What is not a hole.
    pub(super) fn data(&self) -> RangeSet {
        let mut data = layers::dirty(&self.layers);
        data.insert(0..layers::visible(&self.layers, self.base_size()));
        data.remove(self.size..u64::MAX);
        data
    }

    /// Counts a change of `range`, and sends what is full.
    pub(super) fn changed(&mut self, io: &Arc<Writes>, range: Range<u64>) {
        self.size = self.size.max(range.end);
        self.refused.retain(|at| !range.contains(at));
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

    pub(super) fn start_stream(&mut self, io: &Arc<Writes>) {
        let contiguous = self.contiguous();
        let limits = &io.settings.limits;
        if contiguous < io.settings.stream_after || contiguous <= limits.single_put || self.running.is_some() {
            return;
        }
        if self.layers.len() != 1 || self.base.is_some() || self.unlinked || self.lost {
            return;
        }
        // What the store can copy is not sent.
        if !self.top().overlay.extents().is_empty() {
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
    pub(super) fn thaw(&mut self) {
        let frozen = self.stuck.as_ref().map_or(0, |s| s.layers);
        while self.layers.len() > frozen + 1
            && let [.., below, top] = &self.layers[..]
            && top.overlay.is_empty()
            && !below.sealed
        {
            let cut = self.layers.pop().map_or(0, |l| l.cut);
            self.top().truncate(cut);
        }
    }
}

/// Bytes of a write: still the caller's, or ours to keep while we wait.
#[derive(Clone, Copy)]
pub(super) enum Data<'a> {
    Borrowed(&'a [u8]),
    Owned(&'a Bytes),
}

impl Data<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Data::Borrowed(b) => b,
            Data::Owned(b) => b,
        }
    }
}

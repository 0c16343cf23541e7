//! Sealing the layers of a file, and what can be done with sealed ones: recording, folding, giving up their memory.

use std::ops::Range;
use std::time::SystemTime;

use crate::error::Error;

use super::Writes;
use super::acknowledge::Acknowledged;
use super::journal::{Live, PendingState};
use super::layers::Layer;
use super::overlay::{Origin, Overlay, Piece};
use super::state::State;

/// Sealed layers of one file above which they are folded into one.
pub(super) const LAYERS_MAX: usize = 16;
/// Bytes that are folded at most: they are copied in memory and written to the journal again.
const FOLD_MAX: u64 = 4 << 20;

/// What has to be written before a layer is in the journal.
pub(super) struct Unsaved {
    pub serial: u64,
    pub cut: u64,
    pub size: u64,
    pub pieces: Vec<Piece>,
}

impl Unsaved {
    pub fn bytes(&self) -> u64 {
        let held = |p: &&Piece| !matches!(p.from, Origin::Zero);
        self.pieces.iter().filter(held).map(|p| p.range.end - p.range.start).sum()
    }

    /// The ranges, with the offsets that the bytes get in the blob.
    pub fn ranges(&self) -> Vec<(Range<u64>, Option<u64>)> {
        let mut at = 0;
        let mut ranges = Vec::with_capacity(self.pieces.len());
        for p in &self.pieces {
            let zero = matches!(p.from, Origin::Zero);
            push_range(&mut ranges, p.range.clone(), (!zero).then_some(at));
            if !zero {
                at += p.range.end - p.range.start;
            }
        }
        ranges
    }
}

/// Appends a range, joined to the last one where both are one stretch of the blob.
fn push_range(ranges: &mut Vec<(Range<u64>, Option<u64>)>, range: Range<u64>, at: Option<u64>) {
    if let Some((last, from)) = ranges.last_mut().filter(|(l, _)| l.end == range.start) {
        let follows = match (*from, at) {
            (Some(from), Some(at)) => from + (last.end - last.start) == at,
            (from, at) => from == at,
        };
        if follows {
            last.end = range.end;
            return;
        }
    }
    ranges.push((range, at));
}

impl State {
    /// The layers that were acknowledged, from the lowest.
    pub(super) fn sealed(&self, acked: &Acknowledged) -> usize {
        let Some(last) = acked.serial else { return 0 };
        self.layers.iter().take_while(|l| l.serial <= last).count()
    }

    /// Seals what is here. `None`: there is something in it that the journal cannot have.
    pub(super) fn seal(&mut self, id: u64) -> Option<(Acknowledged, Vec<Unsaved>)> {
        if self.stream.is_some() || self.layers.iter().any(|l| !l.shipped.is_empty()) {
            return None;
        }
        let size = self.size;
        if !self.top().is_blank(size) {
            self.push_layer();
        }
        let n = self.layers.len() - 1;
        let ends: Vec<u64> = self.layers[1..].iter().map(|l| l.born).collect();
        let mut unsaved = Vec::new();
        for (layer, size) in self.layers[..n].iter_mut().zip(ends) {
            layer.sealed = true;
            if layer.saved.is_some() {
                continue;
            }
            layer.overlay.freeze();
            let mut pieces = Vec::new();
            for range in layer.overlay.dirty().iter() {
                layer.overlay.pieces(range, &mut pieces);
            }
            if !pieces.iter().all(|p| matches!(p.from, Origin::Memory(_) | Origin::Staged(_) | Origin::Zero)) {
                return None;
            }
            unsaved.push(Unsaved { serial: layer.serial, cut: layer.cut, size, pieces });
        }
        let before = self.acked.as_ref();
        let acked = Acknowledged {
            generation: self.generation,
            serial: self.layers[..n].last().map(|l| l.serial),
            size,
            object: self.object.clone(),
            since: before.map_or_else(SystemTime::now, |a| a.since),
            attempts: 0,
            state: before.map(|a| a.state).filter(|s| *s == PendingState::Uploading).unwrap_or(PendingState::Queued),
            reason: None,
        };
        self.id = Some(id);
        Some((acked, unsaved))
    }

    /// The record of what was acknowledged; `None` when a layer of it is not in the journal.
    pub(super) fn live(&self, id: u64, acked: &Acknowledged) -> Option<Live> {
        let layers = &self.layers[..self.sealed(acked)];
        Some(Live {
            id,
            key: self.key.clone(),
            base: self.base.clone(),
            since: acked.since,
            size: acked.size,
            layers: layers.iter().map(|l| l.saved.clone()).collect::<Option<_>>()?,
            object: acked.object.clone(),
            condition: self.condition.clone(),
            replaces: self.replaces.clone(),
            attempts: acked.attempts,
            parked: acked.state == PendingState::Parked,
            reason: acked.reason.as_ref().map(Error::to_string),
            seq: 0,
            segment: 0,
        })
    }

    /// Folds the sealed layers that no commit is about, where they are many and in memory.
    pub(super) fn fold(&mut self, io: &Writes) {
        let first = self.running.as_ref().map_or(0, |f| f.layers);
        let end = self.acked.as_ref().map_or(0, |a| self.sealed(a));
        if end.saturating_sub(first) < LAYERS_MAX {
            return;
        }
        let layers = &self.layers[first..end];
        let bytes: u64 = layers.iter().flat_map(|l| l.dirty().iter().map(|r| r.end - r.start)).sum();
        if bytes > FOLD_MAX || layers.iter().any(|l| l.evicted || l.overlay.file().is_some()) {
            return;
        }
        let mut folded = Overlay::default();
        let mut cut = u64::MAX;
        for layer in layers {
            folded.truncate(layer.cut);
            cut = cut.min(layer.cut);
            let mut pieces = Vec::new();
            for range in layer.overlay.dirty().iter() {
                layer.overlay.pieces(range, &mut pieces);
            }
            for piece in pieces {
                let taken = match &piece.from {
                    Origin::Memory(bytes) => folded.write(piece.range.start, bytes, &io.rooms, usize::MAX),
                    _ => {
                        folded.punch(piece.range);
                        true
                    }
                };
                if !taken {
                    return;
                }
            }
        }
        folded.freeze();
        let last = &layers[layers.len() - 1];
        let (born, serial) = (layers[0].born, last.serial);
        let layer = Layer { overlay: folded, cut, born, serial, sealed: true, ..Layer::default() };
        self.layers.splice(first..end, [layer]);
    }

    /// Gives the memory and the staging files of layers up that the journal has.
    pub(super) fn evict(&mut self, all: bool) {
        for layer in self.layers.iter_mut().filter(|l| l.sealed && l.saved.is_some() && !l.evicted) {
            if all || layer.overlay.file().is_some() {
                layer.overlay = Overlay::default();
                layer.evicted = true;
            }
        }
    }
}

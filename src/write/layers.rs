//! The stack of written layers over the base: what a byte of the file is now.
//!
//! The lowest layers may be frozen: a commit is uploading them. Writes go to the top. A layer sees what is below it
//! only up to its `cut`, so that truncating never has to touch a frozen layer. When a commit succeeds the layers it
//! uploaded are dropped, for the new base says the same; when it fails they stay where they are.

use std::ops::Range;
use std::sync::Arc;

use super::extents::Extents;
use super::journal::Saved;
use super::overlay::{Origin, Overlay, Piece, push};
use super::ranges::RangeSet;

#[derive(Default)]
pub(super) struct Layer {
    pub overlay: Overlay,
    /// What is below is visible only under this offset.
    pub cut: u64,
    /// Bytes of this layer that an upload has and we no longer do.
    pub shipped: Range<u64>,
    /// Size of the file when the layer was made.
    pub born: u64,
    /// Which layer of its file it is, counted from the first one ever.
    pub serial: u64,
    /// Acknowledged: nothing in it may change any more, whatever becomes of a commit.
    pub sealed: bool,
    /// The same bytes in the journal.
    pub saved: Option<Arc<Saved>>,
    /// The overlay is empty: the bytes are only in the journal.
    pub evicted: bool,
}

impl Layer {
    pub fn new(cut: u64) -> Self {
        Layer { cut, born: cut, ..Layer::default() }
    }

    /// A layer that is in the journal only.
    pub fn of_saved(saved: Arc<Saved>) -> Self {
        Layer { cut: saved.cut, sealed: true, saved: Some(saved), evicted: true, ..Layer::default() }
    }

    /// The bytes that were written.
    pub fn dirty(&self) -> &RangeSet {
        match &self.saved {
            Some(saved) if self.evicted => &saved.set,
            _ => self.overlay.dirty(),
        }
    }

    /// The pieces of a wholly dirty range.
    fn pieces(&self, range: Range<u64>, out: &mut Vec<Piece>) {
        match &self.saved {
            Some(saved) if self.evicted => saved.pieces(range, out),
            _ => self.overlay.pieces(range, out),
        }
    }

    /// Whether it changes nothing, while the file has `size` bytes.
    pub fn is_blank(&self, size: u64) -> bool {
        self.dirty().is_empty() && self.shipped.is_empty() && self.cut == self.born && size == self.born
    }

    pub fn truncate(&mut self, size: u64) {
        self.overlay.truncate(size);
        self.cut = self.cut.min(size);
        self.shipped.end = self.shipped.end.min(size).max(self.shipped.start);
    }
}

fn meet(a: &Range<u64>, b: &Range<u64>) -> Range<u64> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}

/// Where the bytes of `range` are, over a base of `base` bytes.
pub(super) fn collect(layers: &[Layer], base: u64, range: Range<u64>, out: &mut Vec<Piece>) {
    if range.is_empty() {
        return;
    }
    let Some((top, below)) = layers.split_last() else {
        let visible = meet(&range, &(0..base));
        push(out, visible.clone(), Origin::Base);
        push(out, visible.end.max(range.start)..range.end, Origin::Zero);
        return;
    };
    for (part, dirty) in top.dirty().split(range) {
        if dirty {
            top.pieces(part, out);
            continue;
        }
        let gone = meet(&part, &top.shipped);
        let (before, after) = if gone.is_empty() {
            (part.clone(), part.end..part.end)
        } else {
            (part.start..gone.start, gone.end..part.end)
        };
        for (gap, shipped) in [(before, false), (gone, true), (after, false)] {
            if shipped {
                push(out, gap, Origin::Shipped);
                continue;
            }
            let seen = gap.start..gap.end.min(top.cut).max(gap.start);
            collect(below, base, seen.clone(), out);
            push(out, seen.end..gap.end, Origin::Zero);
        }
    }
}

/// Everything that differs from the base, as far as it is written bytes.
pub(super) fn dirty(layers: &[Layer]) -> RangeSet {
    let mut set = RangeSet::new();
    for layer in layers {
        set.remove(layer.cut..u64::MAX);
        set.insert(layer.shipped.clone());
        for r in layer.dirty().iter() {
            set.insert(r);
        }
    }
    set
}

/// What of it is in other objects.
pub(super) fn copied(layers: &[Layer]) -> Extents {
    let mut set = Extents::default();
    for layer in layers {
        set.remove(layer.cut..u64::MAX);
        set.remove(layer.shipped.clone());
        if !set.is_empty() {
            for r in layer.dirty().iter() {
                set.remove(r);
            }
        }
        for (range, extent) in layer.overlay.extents().iter() {
            set.insert(range, extent.clone());
        }
    }
    set
}

/// How much of a base of `base` bytes can still be seen.
pub(super) fn visible(layers: &[Layer], base: u64) -> u64 {
    layers.iter().map(|l| l.cut).fold(base, u64::min)
}

#[cfg(test)]
mod tests {
    use super::super::extents::Extent;
    use super::super::overlay::PAGE;
    use super::super::{Rooms, staging};
    use super::*;
    use crate::budget::Budget;
    use crate::key::Key;
    use crate::read::Object;
    use crate::s3::{ETag, ObjectId};
    use bytes::Bytes;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Op {
        Write(u64, u64, u8),
        Truncate(u64),
        Punch(u64, u64),
        Copy(u64, u64, u64),
        Freeze,
        Commit,
    }

    fn op() -> impl Strategy<Value = Op> {
        let at = || prop_oneof![0..3 * PAGE, PAGE - 20..PAGE + 20, 2 * PAGE - 20..2 * PAGE + 20];
        prop_oneof![
            4 => (at(), prop_oneof![1..100u64, 1..2 * PAGE], any::<u8>()).prop_map(|(o, l, b)| Op::Write(o, l, b)),
            2 => at().prop_map(Op::Truncate),
            2 => (at(), prop_oneof![1..100u64, 1..2 * PAGE]).prop_map(|(o, l)| Op::Punch(o, l)),
            2 => (at(), prop_oneof![1..100u64, 1..2 * PAGE], 0..PAGE).prop_map(|(o, l, s)| Op::Copy(o, l, s)),
            1 => Just(Op::Freeze),
            1 => Just(Op::Commit),
        ]
    }

    /// Byte `i` of the object that is copied from.
    fn elsewhere(i: u64) -> u8 {
        (i % 241) as u8 | 2
    }

    fn source() -> Object {
        let id = ObjectId { key: Key::new("source").unwrap(), etag: ETag::new("e"), version: None };
        Object { id, size: 1 << 30 }
    }

    fn content(layers: &[Layer], base: &[u8], size: u64) -> Vec<u8> {
        let mut pieces = Vec::new();
        collect(layers, base.len() as u64, 0..size, &mut pieces);
        let mut out = Vec::new();
        for p in pieces {
            assert_eq!(p.range.start, out.len() as u64);
            let (s, e) = (p.range.start as usize, p.range.end as usize);
            match p.from {
                Origin::Memory(b) => out.extend_from_slice(&b),
                Origin::Staged(f) => {
                    use std::os::unix::fs::FileExt;
                    let mut b = vec![0; e - s];
                    f.read_exact_at(&mut b, p.range.start).unwrap();
                    out.extend(b);
                }
                Origin::Saved(..) => panic!("nothing was saved"),
                Origin::Base => out.extend_from_slice(&base[s..e]),
                Origin::Copied(x) => out.extend((x.at..x.at + (e - s) as u64).map(elsewhere)),
                Origin::Zero => out.resize(e, 0),
                Origin::Shipped => panic!("nothing was shipped"),
            }
            assert_eq!(out.len(), e);
        }
        assert_eq!(out.len() as u64, size);
        out
    }

    async fn run(base: Vec<u8>, ops: Vec<Op>, memory: usize) {
        let budget = Budget::new(2 * memory);
        let rooms = Rooms { budget: budget.clone(), used: Default::default() };
        let dir = std::env::temp_dir();
        let mut base = base;
        let mut model = base.clone();
        let mut layers = vec![Layer::new(base.len() as u64)];
        for op in ops {
            let size = model.len() as u64;
            let top = layers.last_mut().unwrap();
            match op {
                Op::Write(o, l, b) => {
                    let data = Bytes::from(vec![b; l as usize]);
                    if !top.overlay.write(o, &data, &rooms, usize::MAX) {
                        let stage = top.overlay.stage(o, &data, &rooms, usize::MAX);
                        if top.overlay.file().is_none() {
                            top.overlay.set_file(staging::open(&dir).await.unwrap());
                        }
                        let file = top.overlay.file().unwrap().clone();
                        let (jobs, pages) = stage.split();
                        staging::run(&file, jobs).await.unwrap();
                        top.overlay.finish(o, &data, pages);
                    }
                    let end = (o + l) as usize;
                    if model.len() < end {
                        model.resize(end, 0);
                    }
                    model[o as usize..end].fill(b);
                }
                Op::Truncate(n) => {
                    if n < size {
                        top.truncate(n);
                    }
                    model.resize(n as usize, 0);
                }
                Op::Punch(o, l) => {
                    let r = o.min(size)..(o + l).min(size);
                    if r.is_empty() {
                        continue;
                    }
                    let jobs = top.overlay.punch_jobs(r.clone());
                    if !jobs.is_empty() {
                        staging::run(&top.overlay.file().unwrap().clone(), jobs).await.unwrap();
                    }
                    top.overlay.punch(r.clone());
                    model[r.start as usize..r.end as usize].fill(0);
                }
                Op::Copy(o, l, at) => {
                    top.overlay.map(o..o + l, Extent { source: source(), at });
                    let end = (o + l) as usize;
                    if model.len() < end {
                        model.resize(end, 0);
                    }
                    for i in 0..l {
                        model[(o + i) as usize] = elsewhere(at + i);
                    }
                }
                Op::Freeze => {
                    top.overlay.freeze();
                    layers.push(Layer::new(size));
                }
                Op::Commit => {
                    base = content(&layers, &base, size);
                    layers = vec![Layer::new(size)];
                }
            }
            assert!(content(&layers, &base, model.len() as u64) == model);
            let changed = dirty(&layers);
            let seen = visible(&layers, base.len() as u64);
            for (r, is) in changed.split(0..model.len() as u64) {
                if !is {
                    for i in r {
                        let old = if i < seen { base[i as usize] } else { 0 };
                        assert_eq!(old, model[i as usize], "byte {i} changed and is not dirty");
                    }
                }
            }
            for (range, extent) in copied(&layers).iter() {
                for (i, at) in range.filter(|i| *i < model.len() as u64).zip(extent.at..) {
                    assert_eq!(model[i as usize], elsewhere(at), "byte {i} is not the copied one");
                }
            }
            assert!(rooms.used.load(std::sync::atomic::Ordering::Relaxed) <= memory);
        }
        drop(layers);
        assert_eq!(budget.used(), 0);
        assert_eq!(rooms.used.load(std::sync::atomic::Ordering::Relaxed), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
        #[test]
        fn layers_read_like_a_byte_array(
            base in prop_oneof![0..200usize, 0..3 * PAGE as usize],
            ops in proptest::collection::vec(op(), 1..24),
            memory in prop_oneof![Just(usize::MAX / 4), Just(PAGE as usize + 9000), Just(0usize)],
        ) {
            let base = (0..base).map(|i| (i % 251) as u8 | 1).collect();
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run(base, ops, memory));
        }
    }

    #[test]
    fn a_small_file_holds_little_memory() {
        let rooms = Rooms { budget: Budget::new(1 << 20), used: Default::default() };
        let mut o = Overlay::default();
        assert!(o.write(0, b"hello", &rooms, usize::MAX));
        assert_eq!(o.memory(), 4096);
    }

    #[test]
    fn taken_pages_keep_their_memory_until_they_are_dropped() {
        let rooms = Rooms { budget: Budget::new(1 << 20), used: Default::default() };
        let mut o = Overlay::default();
        assert!(o.write(0, &vec![7; 3 * PAGE as usize], &rooms, usize::MAX));
        let taken = o.take(PAGE..2 * PAGE);
        assert_eq!(o.memory() as u64, 2 * PAGE);
        assert_eq!(rooms.budget.used() as u64, 3 * PAGE);
        assert_eq!(taken.pieces.len(), 1);
        drop(taken);
        assert_eq!(rooms.budget.used() as u64, 2 * PAGE);
        assert_eq!(o.dirty().iter().collect::<Vec<_>>(), vec![0..PAGE, 2 * PAGE..3 * PAGE]);
    }
}

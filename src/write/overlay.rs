//! Written bytes over a sparse store: pages in memory, then pages in a staging file.
//!
//! 1. What counts is the set of dirty ranges: bytes of a page outside of it are never read.
//! 2. A dirty byte without a page is a zero: a punched terabyte costs nothing. A dirty byte in an extent is somewhere
//!    else, whatever its page says.
//! 3. No method here waits or touches the disk. A write that needs the disk is split: [`Overlay::stage`] says what has
//!    to be written there, and after that went well [`Overlay::finish`] makes it count. A failed write leaves what was
//!    there before.
//! 4. A frozen overlay hands out its pages without copying; writing to it again is possible once nobody uploads it.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::extents::{Extent, Extents};
use super::journal::Blob;
use super::ranges::RangeSet;
use super::staging::Job;
use super::{Room, Rooms};
use crate::read::Object;
use crate::s3::ObjectId;

/// Bytes of a page: a block of the read cache, so that written pages become cached blocks as they are.
pub(super) const PAGE: u64 = 128 << 10;
/// First allocation of a page: a small file holds this much and no more.
const FIRST: usize = 4 << 10;

/// Where the bytes of a range are.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    Memory(Bytes),
    /// At the same offset of the file.
    Staged(Arc<File>),
    /// In the journal, at this offset of the blob.
    Saved(Arc<Blob>, u64),
    /// In the base object.
    Base,
    /// In an object that somebody copied from.
    Copied(Extent),
    Zero,
    /// Already sent to an upload that is not complete: nowhere to be read.
    Shipped,
}

#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub range: Range<u64>,
    pub from: Origin,
}

/// Appends a piece, joined to the last one where both come from the same place.
pub(super) fn push(out: &mut Vec<Piece>, range: Range<u64>, from: Origin) {
    if range.is_empty() {
        return;
    }
    if let Some(last) = out.last_mut().filter(|l| l.range.end == range.start) {
        let same = match (&last.from, &from) {
            (Origin::Staged(a), Origin::Staged(b)) => Arc::ptr_eq(a, b),
            (Origin::Saved(a, at), Origin::Saved(b, next)) => {
                Arc::ptr_eq(a, b) && *next == at + (last.range.end - last.range.start)
            }
            (Origin::Copied(a), Origin::Copied(b)) => a.is_continued_by(b, range.start - last.range.start),
            (Origin::Base, Origin::Base) | (Origin::Zero, Origin::Zero) | (Origin::Shipped, Origin::Shipped) => true,
            _ => false,
        };
        if same {
            last.range.end = range.end;
            return;
        }
    }
    out.push(Piece { range, from });
}

enum Buffer {
    Open(BytesMut),
    Frozen(Bytes),
}

impl Buffer {
    fn len(&self) -> usize {
        match self {
            Buffer::Open(b) => b.len(),
            Buffer::Frozen(b) => b.len(),
        }
    }

    fn open(&mut self) -> &mut BytesMut {
        if let Buffer::Frozen(b) = self {
            // Without a copy when nobody else holds the bytes.
            *self = Buffer::Open(BytesMut::from(std::mem::take(b)));
        }
        match self {
            Buffer::Open(b) => b,
            Buffer::Frozen(_) => unreachable!("made open just above"),
        }
    }

    fn freeze(&mut self) -> &Bytes {
        if let Buffer::Open(b) = self {
            *self = Buffer::Frozen(std::mem::take(b).freeze());
        }
        match self {
            Buffer::Frozen(b) => b,
            Buffer::Open(_) => unreachable!("frozen just above"),
        }
    }
}

enum Page {
    Memory { buffer: Buffer, room: Room },
    Staged,
}

/// Pages cut out of an overlay, with the memory they hold.
pub(super) struct Taken {
    pub pieces: Vec<Piece>,
    #[allow(dead_code, reason = "held for its drop: the memory counts until the bytes are stored")]
    pub rooms: Vec<Room>,
}

/// What a write has to do on the disk before it counts.
pub(super) struct Stage {
    pub jobs: Vec<Job>,
    /// Pages that are in the staging file afterwards.
    pages: Vec<u64>,
}

#[derive(Default)]
pub(super) struct Overlay {
    dirty: RangeSet,
    /// Inside `dirty`; what pages hold there is not read.
    extents: Extents,
    pages: BTreeMap<u64, Page>,
    memory: usize,
    file: Option<Arc<File>>,
}

/// The page-wise pieces of a range: page index and bytes of the file.
fn by_page(range: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let index = at / PAGE;
        let piece = at..range.end.min((index + 1) * PAGE);
        at = piece.end;
        Some((index, piece))
    })
}

impl Overlay {
    pub fn dirty(&self) -> &RangeSet {
        &self.dirty
    }

    pub fn is_empty(&self) -> bool {
        self.dirty.is_empty()
    }

    /// Bytes that are held anywhere, rounded up to pages where they are staged.
    pub fn held(&self) -> u64 {
        let held = |page: &Page| match page {
            Page::Memory { buffer, .. } => buffer.len() as u64,
            Page::Staged => PAGE,
        };
        self.pages.values().map(held).sum()
    }

    pub fn extents(&self) -> &Extents {
        &self.extents
    }

    /// Says that the bytes of `range` are those of `extent`.
    pub fn map(&mut self, range: Range<u64>, extent: Extent) {
        let covered: Vec<u64> = self
            .pages
            .range(range.start.div_ceil(PAGE)..)
            .map(|(i, _)| *i)
            .take_while(|i| (i + 1) * PAGE <= range.end)
            .collect();
        for index in covered {
            self.drop_page(index);
        }
        self.extents.insert(range.clone(), extent);
        self.dirty.insert(range);
    }

    /// `old` is now stored as `new`, with the same bytes.
    pub fn rebase(&mut self, old: &ObjectId, new: &Object) {
        self.extents.rebase(old, new);
    }

    /// Makes `range` dirty bytes that are in pages, or zeros.
    fn mark(&mut self, range: Range<u64>) {
        self.extents.remove(range.clone());
        self.dirty.insert(range);
    }

    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        self.memory
    }

    pub fn file(&self) -> Option<&Arc<File>> {
        self.file.as_ref()
    }

    pub fn set_file(&mut self, file: Arc<File>) {
        self.file.get_or_insert(file);
    }

    /// Makes room in memory for the first `end` bytes of the page; false when it is staged or there is no room.
    fn ensure(&mut self, index: u64, end: usize, rooms: &Rooms, limit: usize) -> bool {
        let want = end.next_power_of_two().clamp(FIRST, PAGE as usize);
        let held = self.memory;
        match self.pages.get_mut(&index) {
            Some(Page::Staged) => false,
            Some(Page::Memory { buffer, room }) => {
                let open = buffer.open();
                if open.capacity() < end {
                    let more = want.saturating_sub(room.bytes());
                    if more > 0 {
                        let Some(extra) = (held + more <= limit).then(|| rooms.take(more)).flatten() else {
                            return false;
                        };
                        room.merge(extra);
                        self.memory += more;
                    }
                    let mut larger = BytesMut::with_capacity(want);
                    larger.extend_from_slice(open);
                    *open = larger;
                }
                true
            }
            None => {
                let Some(room) = (held + want <= limit).then(|| rooms.take(want)).flatten() else {
                    return false;
                };
                self.memory += want;
                let buffer = Buffer::Open(BytesMut::with_capacity(want));
                self.pages.insert(index, Page::Memory { buffer, room });
                true
            }
        }
    }

    fn copy_in(&mut self, index: u64, at: u64, bytes: &[u8]) {
        if let Some(Page::Memory { buffer, .. }) = self.pages.get_mut(&index) {
            let start = (at - index * PAGE) as usize;
            let open = buffer.open();
            // Only a gap is filled with zeros: what is written in order touches its memory once.
            if open.len() < start {
                open.resize(start, 0);
            }
            let (over, behind) = bytes.split_at(bytes.len().min(open.len() - start));
            open[start..start + over.len()].copy_from_slice(over);
            open.extend_from_slice(behind);
        }
    }

    /// Takes the bytes if that is possible without the disk and with at most `limit` bytes of memory. False: nothing
    /// changed.
    pub fn write(&mut self, offset: u64, data: &[u8], rooms: &Rooms, limit: usize) -> bool {
        let range = offset..offset + data.len() as u64;
        for (index, piece) in by_page(range.clone()) {
            if !self.ensure(index, (piece.end - index * PAGE) as usize, rooms, limit) {
                return false;
            }
        }
        for (index, piece) in by_page(range.clone()) {
            self.copy_in(index, piece.start, &data[(piece.start - offset) as usize..(piece.end - offset) as usize]);
        }
        self.mark(range);
        true
    }

    /// Splits a write: pages get memory where there is some, the others are to be written to the staging file.
    pub fn stage(&mut self, offset: u64, data: &Bytes, rooms: &Rooms, limit: usize) -> Stage {
        let mut stage = Stage { jobs: Vec::new(), pages: Vec::new() };
        for (index, piece) in by_page(offset..offset + data.len() as u64) {
            let start = index * PAGE;
            if self.ensure(index, (piece.end - start) as usize, rooms, limit) {
                continue;
            }
            match self.pages.get(&index) {
                Some(Page::Memory { buffer, .. }) => {
                    // The page grew out of its memory: it moves to the file as a whole.
                    let bytes = match buffer {
                        Buffer::Open(b) => Bytes::copy_from_slice(b),
                        Buffer::Frozen(b) => b.clone(),
                    };
                    stage.jobs.push(Job::Zeros(start + bytes.len() as u64..start + PAGE));
                    stage.jobs.push(Job::Data { offset: start, bytes });
                    stage.pages.push(index);
                }
                Some(Page::Staged) => {}
                None => {
                    // Dirty bytes without a page are zeros: they must be so in the file, too.
                    if self.dirty.overlaps(&(start..start + PAGE)) {
                        stage.jobs.push(Job::Zeros(start..start + PAGE));
                    }
                    stage.pages.push(index);
                }
            }
            let bytes = data.slice((piece.start - offset) as usize..(piece.end - offset) as usize);
            stage.jobs.push(Job::Data { offset: piece.start, bytes });
        }
        stage
    }

    /// Makes a write count whose `stage` is on the disk. `pages` are those of [`Stage`].
    pub fn finish(&mut self, offset: u64, data: &[u8], pages: Vec<u64>) {
        for index in pages {
            self.drop_page(index);
            self.pages.insert(index, Page::Staged);
        }
        let range = offset..offset + data.len() as u64;
        for (index, piece) in by_page(range.clone()) {
            self.copy_in(index, piece.start, &data[(piece.start - offset) as usize..(piece.end - offset) as usize]);
        }
        self.mark(range);
    }

    fn drop_page(&mut self, index: u64) -> Option<Page> {
        let page = self.pages.remove(&index)?;
        if let Page::Memory { room, .. } = &page {
            self.memory -= room.bytes();
        }
        Some(page)
    }

    /// The staged ranges that have to become zeros on the disk before [`Overlay::punch`].
    pub fn punch_jobs(&self, range: Range<u64>) -> Vec<Job> {
        let whole = |i: u64| range.start <= i * PAGE && range.end >= (i + 1) * PAGE;
        let partial = [range.start / PAGE, (range.end.max(1) - 1) / PAGE];
        by_page(range.clone())
            .filter(|(i, _)| partial.contains(i) && !whole(*i) && matches!(self.pages.get(i), Some(Page::Staged)))
            .map(|(_, piece)| Job::Zeros(piece))
            .collect()
    }

    /// Makes `range` dirty zeros.
    pub fn punch(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let touched: Vec<u64> =
            self.pages.range(range.start / PAGE..=(range.end - 1) / PAGE).map(|(i, _)| *i).collect();
        for index in touched {
            let start = index * PAGE;
            if range.start <= start && range.end >= start + PAGE {
                self.drop_page(index);
            } else if let Some(Page::Memory { buffer, .. }) = self.pages.get_mut(&index) {
                let from = (range.start.max(start) - start) as usize;
                let to = ((range.end - start).min(PAGE) as usize).min(buffer.len());
                if from < to {
                    buffer.open()[from..to].fill(0);
                }
            }
        }
        self.mark(range);
    }

    /// Forgets everything from `size` on.
    pub fn truncate(&mut self, size: u64) {
        self.dirty.remove(size..u64::MAX);
        self.extents.remove(size..u64::MAX);
        let gone: Vec<u64> = self.pages.range(size.div_ceil(PAGE)..).map(|(i, _)| *i).collect();
        for index in gone {
            self.drop_page(index);
        }
    }

    /// From now on pieces share the pages instead of copying them.
    pub fn freeze(&mut self) {
        for page in self.pages.values_mut() {
            if let Page::Memory { buffer, .. } = page {
                buffer.freeze();
            }
        }
    }

    /// The pieces of a wholly dirty range.
    pub fn pieces(&self, range: Range<u64>, out: &mut Vec<Piece>) {
        if self.extents.is_empty() {
            return self.paged(range, out);
        }
        for (part, extent) in self.extents.split(range) {
            match extent {
                Some(extent) => push(out, part, Origin::Copied(extent)),
                None => self.paged(part, out),
            }
        }
    }

    fn paged(&self, range: Range<u64>, out: &mut Vec<Piece>) {
        for (index, piece) in by_page(range) {
            let start = index * PAGE;
            match self.pages.get(&index) {
                None => push(out, piece, Origin::Zero),
                Some(Page::Staged) => match &self.file {
                    Some(file) => push(out, piece, Origin::Staged(file.clone())),
                    None => unreachable!("a staged page has a file"),
                },
                Some(Page::Memory { buffer, .. }) => {
                    let end = piece.end.min(start + buffer.len() as u64).max(piece.start);
                    let inside = (piece.start - start) as usize..(end - start) as usize;
                    if !inside.is_empty() {
                        let bytes = match buffer {
                            Buffer::Open(b) => Bytes::copy_from_slice(&b[inside]),
                            Buffer::Frozen(b) => b.slice(inside),
                        };
                        push(out, piece.start..end, Origin::Memory(bytes));
                    }
                    push(out, end..piece.end, Origin::Zero);
                }
            }
        }
    }

    /// Cuts a wholly dirty range of whole pages out, without copying.
    pub fn take(&mut self, range: Range<u64>) -> Taken {
        debug_assert!(range.start.is_multiple_of(PAGE) && range.end.is_multiple_of(PAGE));
        let indices: Vec<u64> = self.pages.range(range.start / PAGE..range.end / PAGE).map(|(i, _)| *i).collect();
        for index in &indices {
            if let Some(Page::Memory { buffer, .. }) = self.pages.get_mut(index) {
                buffer.freeze();
            }
        }
        let mut taken = Taken { pieces: Vec::new(), rooms: Vec::new() };
        self.pieces(range.clone(), &mut taken.pieces);
        for index in indices {
            if let Some(Page::Memory { room, .. }) = self.drop_page(index) {
                taken.rooms.push(room);
            }
        }
        self.extents.remove(range.clone());
        self.dirty.remove(range);
        taken
    }
}

impl Stage {
    /// Splits into what goes to the disk and what [`Overlay::finish`] wants.
    pub fn split(self) -> (Vec<Job>, Vec<u64>) {
        (self.jobs, self.pages)
    }
}

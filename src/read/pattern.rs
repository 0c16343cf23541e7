//! What one handle's reads look like, and how far to read ahead: pure, no clock and no requests.
//!
//! 1. The kernel sends the pieces of one sequential read out of order, and programs skip a little: an access near the
//!    expected position still counts as sequential ([`SLACK`]).
//! 2. Programs read several places of one file in turn (an index and the data, a container's tracks): each of up to
//!    [`CURSORS`] places has a window of its own. Scattered reads must not push out a streaming cursor.
//! 3. Reading ahead what nobody wants costs money. The window is a few times what was read in sequence, never more,
//!    and scattered reads never open one.
//! 4. Where one GET ends and the next begins depends on the place in the stream and not on when the pieces of a read
//!    came or answers arrived: the same stream takes the same GETs on a busy machine.

use std::ops::Range;

use crate::cache::BLOCK;

/// How far from the expected position an access may start and still be sequential, in bytes. Four requests of the
/// kernel's default read-ahead.
pub const SLACK: u64 = 512 * 1024;
/// First window in bytes.
pub const FIRST_WINDOW: u64 = 512 * 1024;
/// The window is so many times what was read in sequence.
const GROWTH: u64 = 4;
/// Where the first GETs of a stream end, from its start in bytes; later ones end at multiples of the largest GET.
const FIRST_ENDS: [u64; 2] = [1024 * 1024, 3 * 1024 * 1024];
/// Bytes read in sequence before the first window opens: less is a database reading two neighbouring pages.
const EVIDENCE: u64 = 64 * 1024;
/// Places followed at the same time: three streams, and one place left for what may become another.
pub const CURSORS: usize = 4;
/// How far behind a stream bytes stay, for readers that step back; the kernel's own cache has them for longer.
pub const KEPT_BEHIND: u64 = 32 * 1024 * 1024;
/// Bytes given up at a time.
const PASSED_STEP: u64 = 1024 * 1024;
/// A streaming cursor that was not used for so many accesses may be replaced.
const IDLE_ACCESSES: u64 = 64;

/// The bounds of one decision, all in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Size of the object.
    pub size: u64,
    /// Largest window now.
    pub window: u64,
    /// Largest GET.
    pub get: u64,
}

#[derive(Clone, Debug)]
struct Cursor {
    /// Where the next access is expected: the end of the furthest one.
    next: u64,
    /// Everything before this was asked for; a multiple of [`BLOCK`], or the size.
    ahead: u64,
    /// Where GETs are counted from: the sequence began here or a little later.
    start: u64,
    /// Where the sequence began, then up to where [`Pattern::passed`] has told; a multiple of [`BLOCK`].
    behind: u64,
    window: u64,
    /// Bytes read in sequence.
    run: u64,
    /// The access that used it last.
    used: u64,
}

/// What one access means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Which cursor took it; `None` when it is one of many scattered reads.
    cursor: Option<usize>,
    /// Part of a stream: the reader will not come back for these bytes.
    pub streaming: bool,
    /// From here on nothing was asked for: before the access when pieces of a stream came out of order, and then the
    /// piece that is missing is about to come.
    pub from: u64,
}

/// What to fetch for a cursor beyond what was asked for before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    cursor: usize,
    /// Starts at a block; one GET.
    pub range: Range<u64>,
}

/// The places one handle reads at.
#[derive(Debug, Default)]
pub struct Pattern {
    cursors: Vec<Cursor>,
    accesses: u64,
}

impl Pattern {
    /// Notes an access to `offset..end`, `offset < end <= size`.
    pub fn note(&mut self, offset: u64, end: u64) -> Access {
        self.accesses += 1;
        let Some(at) = self.nearest(offset) else {
            let at = self.place(offset, end);
            return Access { cursor: at, streaming: false, from: offset };
        };
        let c = &mut self.cursors[at];
        c.used = self.accesses;
        let asked = c.ahead;
        if end > c.next {
            // Only what is new counts: reading one place again is no sequence, nor are the bytes skipped.
            c.run += end - offset.max(c.next);
            c.next = end;
            if c.run >= EVIDENCE {
                c.window = c.window.max(FIRST_WINDOW).max(c.run.saturating_mul(GROWTH));
            }
            c.ahead = c.ahead.max(round_up(end));
        }
        let streaming = c.window > 0;
        Access { cursor: Some(at), streaming, from: if streaming { offset.min(asked) } else { offset } }
    }

    /// The cursor that an access at `offset` goes on with.
    fn nearest(&self, offset: u64) -> Option<usize> {
        let near = |c: &Cursor| {
            let from = c.next.saturating_sub(SLACK);
            // What is read ahead already is worth following, however far the skip.
            let to = c.next.saturating_add(SLACK).max(if c.window > 0 { c.ahead } else { 0 });
            (from..=to).contains(&offset)
        };
        (0..self.cursors.len())
            .filter(|i| near(&self.cursors[*i]))
            .min_by_key(|i| self.cursors[*i].next.abs_diff(offset))
    }

    /// A new cursor for a place never read; `None` when all are taken by streams.
    fn place(&mut self, offset: u64, end: u64) -> Option<usize> {
        let (ahead, behind) = (round_up(end), round_up(offset));
        // The first piece to arrive need not be the first one of the stream.
        let start = offset / FIRST_ENDS[0] * FIRST_ENDS[0];
        let cursor = Cursor { next: end, ahead, start, behind, window: 0, run: end - offset, used: self.accesses };
        if self.cursors.len() < CURSORS {
            self.cursors.push(cursor);
            return Some(self.cursors.len() - 1);
        }
        let now = self.accesses;
        let oldest = (0..CURSORS).min_by_key(|i| (self.cursors[*i].window > 0, self.cursors[*i].used))?;
        let old = &mut self.cursors[oldest];
        if old.window > 0 && now - old.used < IDLE_ACCESSES {
            return None;
        }
        *old = cursor;
        Some(oldest)
    }

    /// What the cursor of `access` wants now. Small steps are put off until they are worth a GET.
    pub fn wish(&self, access: Access, bounds: Bounds) -> Option<Wish> {
        self.wish_of(access.cursor?, bounds)
    }

    /// What any cursor wants: asked when a GET is finished and there is room for another one.
    pub fn any_wish(&self, bounds: Bounds) -> Option<Wish> {
        (0..self.cursors.len()).filter_map(|i| self.wish_of(i, bounds)).min_by_key(|w| {
            let c = &self.cursors[w.cursor];
            c.ahead.saturating_sub(c.next)
        })
    }

    fn wish_of(&self, cursor: usize, bounds: Bounds) -> Option<Wish> {
        let c = &self.cursors[cursor];
        let window = c.window.min(bounds.window);
        if window < BLOCK as u64 || c.ahead >= bounds.size {
            return None;
        }
        let target = round_up(c.next.saturating_add(window)).min(bounds.size);
        // As large as the share allows while two of them fit into it, and no smaller than the first window.
        let share = (bounds.window / 2).max(FIRST_WINDOW.min(bounds.window));
        let get = (bounds.get.min(share) / BLOCK as u64 * BLOCK as u64).max(BLOCK as u64);
        let end = c.start.saturating_add(get_end(c.ahead.saturating_sub(c.start), get)).min(bounds.size);
        // Whole GETs or none.
        (end <= target).then_some(Wish { cursor, range: c.ahead..end })
    }

    /// What the stream of `access` has left far behind since it was last asked; nothing while the handle has other
    /// streams, which may be on their way there.
    pub fn passed(&mut self, access: Access) -> Option<Range<u64>> {
        let alone = self.cursors.iter().filter(|c| c.window > 0).count() == 1;
        let c = self.cursors.get_mut(access.cursor.filter(|_| access.streaming && alone)?)?;
        let end = c.next.saturating_sub(KEPT_BEHIND) / PASSED_STEP * PASSED_STEP;
        if end < c.behind.saturating_add(PASSED_STEP) {
            return None;
        }
        let passed = c.behind..end;
        c.behind = end;
        Some(passed)
    }

    /// Whether an access at `offset` would go on with a stream.
    pub fn is_streaming_at(&self, offset: u64) -> bool {
        self.nearest(offset).is_some_and(|i| self.cursors[i].window > 0)
    }

    /// The bytes after `access` were asked for up to `end`, along with it.
    pub fn asked_to(&mut self, access: Access, end: u64) {
        if let Some(c) = access.cursor.and_then(|i| self.cursors.get_mut(i)) {
            c.ahead = c.ahead.max(end);
        }
    }

    /// `wish` was asked for up to `end`.
    pub fn asked(&mut self, wish: &Wish, end: u64) {
        let c = &mut self.cursors[wish.cursor];
        c.ahead = c.ahead.max(end);
    }
}

/// Where a GET ends that begins `from` bytes after the start of its stream, counted from there. `get`: the largest one.
fn get_end(from: u64, get: u64) -> u64 {
    FIRST_ENDS.into_iter().find(|end| from < *end && *end < get).unwrap_or((from / get + 1) * get)
}

fn round_up(offset: u64) -> u64 {
    offset.div_ceil(BLOCK as u64).saturating_mul(BLOCK as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;
    const MIB: u64 = 1024 * KIB;
    const GIB: u64 = 1024 * MIB;
    const BOUNDS: Bounds = Bounds { size: GIB, window: 32 * MIB, get: 8 * MIB };

    /// Notes an access and takes every wish; returns what was wished for.
    fn read(p: &mut Pattern, offset: u64, len: u64, bounds: Bounds) -> Vec<Range<u64>> {
        let access = p.note(offset, offset + len);
        let mut gets = Vec::new();
        while let Some(w) = p.wish(access, bounds) {
            assert!(w.range.start < w.range.end && w.range.end <= bounds.size);
            assert!(w.range.end - w.range.start <= bounds.get);
            assert_eq!(w.range.start % BLOCK as u64, 0);
            p.asked(&w, w.range.end);
            gets.push(w.range);
        }
        gets
    }

    fn total(gets: &[Range<u64>]) -> u64 {
        gets.iter().map(|g| g.end - g.start).sum()
    }

    #[test]
    fn a_stream_opens_the_window_step_by_step_and_settles_at_full_gets() {
        let mut p = Pattern::default();
        let mut gets = Vec::new();
        let mut last = 0;
        for offset in (0..256 * MIB).step_by(128 * 1024) {
            let new = read(&mut p, offset, 128 * KIB, BOUNDS);
            if offset == 0 {
                assert!(new.is_empty(), "one access is no sequence");
            }
            gets.extend(new);
            let ahead = gets.last().map_or(0, |g| g.end);
            assert!(ahead.saturating_sub(offset + 128 * KIB) <= 32 * MIB + BLOCK as u64);
            assert!(total(&gets) <= 5 * (offset + 128 * KIB) + MIB, "ahead of the evidence at {offset}");
            last = ahead;
        }
        assert!(last >= 256 * MIB + 24 * MIB);
        assert!(gets.len() <= 256 / 8 + 16, "{}", gets.len());
        assert_eq!(gets.last().map(|g| g.end - g.start), Some(8 * MIB));
        // Without gaps and without repeats.
        assert!(gets.windows(2).all(|w| w[0].end == w[1].start));
    }

    #[test]
    fn the_gets_of_a_stream_do_not_depend_on_the_order_and_the_size_of_its_reads() {
        let ends = |reads: &[(u64, u64)]| {
            let mut p = Pattern::default();
            let mut ends = Vec::new();
            for (offset, len) in reads {
                let access = p.note(*offset, offset + len);
                // What is missed goes along with what is wished for.
                let mut from = access.from;
                while let Some(w) = p.wish(access, BOUNDS) {
                    assert!(from <= w.range.start);
                    from = w.range.end;
                    p.asked(&w, from);
                    ends.push(from);
                }
            }
            ends
        };
        let in_order = |step: u64| (0..64 * MIB).step_by(step as usize).map(|at| (at, step)).collect::<Vec<_>>();
        let expected = ends(&in_order(128 * KIB));
        assert_eq!(expected[..5], [MIB, 3 * MIB, 8 * MIB, 16 * MIB, 24 * MIB]);
        assert_eq!(ends(&in_order(256 * KIB)), expected);
        assert_eq!(ends(&in_order(MIB)), expected[1..]);
        let mut shuffled = in_order(128 * KIB);
        shuffled[2..].chunks_mut(4).for_each(<[_]>::reverse);
        assert_eq!(ends(&shuffled), expected);
        // The second of three pieces came last: it is asked for with the third.
        let mut p = Pattern::default();
        p.note(0, 128 * KIB);
        p.note(128 * KIB, 256 * KIB);
        assert_eq!(p.note(384 * KIB, 512 * KIB).from, 256 * KIB);
    }

    #[test]
    fn scattered_reads_never_read_ahead() {
        let mut p = Pattern::default();
        let mut x = 88172645463325252u64;
        for _ in 0..2000 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            let offset = x % (GIB / 4096) * 4096;
            assert!(read(&mut p, offset, 4096, BOUNDS).is_empty());
        }
    }

    #[test]
    fn reading_one_place_again_is_no_sequence() {
        let mut p = Pattern::default();
        for _ in 0..1000 {
            assert!(read(&mut p, 5 * MIB, 128 * KIB, BOUNDS).is_empty());
        }
    }

    #[test]
    fn disorder_of_the_kernel_is_still_a_sequence() {
        let mut p = Pattern::default();
        let mut gets = Vec::new();
        for group in (0..64 * MIB).step_by(512 * 1024) {
            for piece in [1u64, 0, 3, 2] {
                gets.extend(read(&mut p, group + piece * 128 * KIB, 128 * KIB, BOUNDS));
            }
        }
        assert!(gets.last().unwrap().end >= 88 * MIB, "{:?}", gets.last());
        assert!(gets.windows(2).all(|w| w[0].end == w[1].start));
    }

    #[test]
    fn cursors_stream_side_by_side_and_scattered_reads_do_not_stop_them() {
        let mut p = Pattern::default();
        let mut ends = [0u64; 3];
        for step in 0..256u64 {
            for (i, base) in [0u64, 300 * MIB, 600 * MIB].into_iter().enumerate() {
                for g in read(&mut p, base + step * 128 * KIB, 128 * KIB, BOUNDS) {
                    assert!(g.start >= base && g.start < base + 100 * MIB);
                    ends[i] = g.end - base;
                }
            }
            assert!(read(&mut p, 900 * MIB + (step * 7919 % 100) * MIB, 4096, BOUNDS).is_empty());
        }
        assert!(ends.iter().all(|e| *e >= 56 * MIB), "{ends:?}");
    }

    #[test]
    fn backwards_reads_fetch_only_what_they_read() {
        let mut p = Pattern::default();
        for len in [4 * KIB, 128 * KIB, 1024 * KIB] {
            for offset in (0..64 * MIB / len).rev().map(|n| n * len) {
                assert!(read(&mut p, offset, len, BOUNDS).is_empty(), "{offset}");
            }
        }
    }

    #[test]
    fn a_skip_inside_what_was_read_ahead_goes_on() {
        let mut p = Pattern::default();
        for offset in (0..64 * MIB).step_by(1024 * 1024) {
            read(&mut p, offset, MIB, BOUNDS);
        }
        let access = p.note(80 * MIB, 81 * MIB);
        assert!(access.streaming);
        assert!(p.wish(access, BOUNDS).is_some());
    }

    #[test]
    fn a_small_share_still_reads_ahead_and_stays_small() {
        for window in [BLOCK as u64, 300 * KIB, 700 * KIB] {
            let bounds = Bounds { window, get: MIB, ..BOUNDS };
            let mut p = Pattern::default();
            let mut gets = Vec::new();
            for offset in (0..16 * MIB).step_by(128 * 1024) {
                gets.extend(read(&mut p, offset, 128 * KIB, bounds));
                let ahead = gets.last().map_or(0, |g| g.end);
                assert!(ahead.saturating_sub(offset + 128 * KIB) <= window + BLOCK as u64);
            }
            assert!(gets.last().unwrap().end >= 16 * MIB, "{window}: {:?}", gets.last());
        }
        let bounds = Bounds { window: 1000, ..BOUNDS };
        let mut p = Pattern::default();
        assert!((0..64).all(|n| read(&mut p, n * 128 * KIB, 128 * KIB, bounds).is_empty()));
    }

    #[test]
    fn a_lone_stream_leaves_bytes_behind_once_each() {
        let mut p = Pattern::default();
        let mut at = 7 * MIB;
        for offset in (7 * MIB..256 * MIB).step_by(128 * 1024) {
            let access = p.note(offset, offset + 128 * KIB);
            if let Some(passed) = p.passed(access) {
                assert_eq!((passed.start, passed.end % BLOCK as u64), (at, 0));
                assert!(passed.end + KEPT_BEHIND <= offset + 128 * KIB);
                at = passed.end;
            }
        }
        assert!(at >= 256 * MIB - KEPT_BEHIND - PASSED_STEP, "{at}");
        let mut second = p.note(600 * MIB, 600 * MIB + 128 * KIB);
        assert_eq!(p.passed(second), None, "not a stream yet");
        second = p.note(600 * MIB + 128 * KIB, 602 * MIB);
        assert!(second.streaming);
        let first = p.note(256 * MIB, 300 * MIB);
        assert_eq!((p.passed(first), p.passed(second)), (None, None));
    }

    #[test]
    fn the_end_of_the_object_ends_the_window() {
        let bounds = Bounds { size: 3 * MIB + 17, ..BOUNDS };
        let mut p = Pattern::default();
        let mut end = 0;
        for offset in (0..3 * MIB).step_by(128 * 1024) {
            for g in read(&mut p, offset, 128 * KIB, bounds) {
                end = g.end;
            }
        }
        assert_eq!(end, bounds.size);
        assert_eq!(p.any_wish(bounds), None);
    }
}

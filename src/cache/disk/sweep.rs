//! The thread that walks the directory: to count, to evict, and to check what is whole.
//!
//! 1. There is no table of what is there. A walk keeps the least recently used versions that it met, at most so many,
//!    and gives them up until there is room; it also counts bytes by age. Where the versions that it kept were not enough
//!    the ages tell which others have to go, and a second walk removes them as it meets them. There is no third.
//! 2. Two daemons on one directory both count all of it and both evict. What one removes under the other is open there,
//!    or missed.

use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};

use super::entry::Version;
use super::place::{Found, Place};
use super::{Inner, Slot};
use crate::error::{Error, Kind, Result};

/// Versions that a walk keeps to choose from: some megabytes.
const CANDIDATES: usize = 32_768;
/// Times that a walk tells apart.
const AGES: usize = 32_768;
/// A walk without a reason, for what other daemons did.
const WALK: Duration = Duration::from_secs(600);
/// How often the free space of the file system is looked at.
const LOOK: Duration = Duration::from_secs(30);
/// Uploads that nobody has added to for so long are left-overs.
const LEFT_OVER: Duration = Duration::from_secs(24 * 3600);
/// Versions that wait to be checked.
const CHECKS: usize = 1024;
/// What the writer takes at once, so that it finds room.
const MARGIN: u64 = 8 << 20;
/// Once there is too much, so much of the size is given up at once.
const SHARE: u64 = 16;

#[derive(Default)]
struct Orders {
    /// Make room.
    room: bool,
    checks: VecDeque<Arc<Version>>,
    stop: bool,
}

/// What the thread is told.
#[derive(Default)]
pub(super) struct Sweeper {
    orders: Mutex<Orders>,
    came: Condvar,
}

impl Sweeper {
    pub fn make_room(&self) {
        let mut orders = self.orders.lock();
        if !orders.room {
            orders.room = true;
            self.came.notify_one();
        }
    }

    /// Checks a version if it is whole.
    pub fn check(&self, version: &Arc<Version>) {
        let mut orders = self.orders.lock();
        if orders.checks.len() < CHECKS && !orders.checks.iter().any(|v| v.name == version.name) {
            orders.checks.push_back(version.clone());
            self.came.notify_one();
        }
    }

    pub fn stop(&self) {
        self.orders.lock().stop = true;
        self.came.notify_all();
    }

    fn is_stopped(&self) -> bool {
        self.orders.lock().stop
    }
}

pub(super) fn spawn(inner: &Arc<Inner>) -> Result<()> {
    let inner = inner.clone();
    let thread = std::thread::Builder::new().name("disk-sweep".into()).spawn(move || run(&inner));
    thread.map(drop).map_err(|e| Error::new(Kind::Io, format!("start of the disk cache: {e}")))
}

fn run(inner: &Inner) {
    let mut walked: Option<Instant> = None;
    // A walk that found nothing to give up is not repeated at once.
    let mut in_vain: Option<Instant> = None;
    loop {
        if walked.is_none_or(|at| at.elapsed() > WALK)
            || is_over(inner) && in_vain.is_none_or(|at| at.elapsed() > inner.settings.retry)
        {
            walked = Some(Instant::now());
            in_vain = sweep(inner).then(Instant::now);
        }
        let mut orders = inner.sweeper.orders.lock();
        loop {
            if orders.stop {
                return;
            }
            if let Some(version) = orders.checks.pop_front() {
                drop(orders);
                check(inner, &version);
                break;
            }
            if std::mem::take(&mut orders.room) || inner.sweeper.came.wait_for(&mut orders, LOOK).timed_out() {
                break;
            }
        }
    }
}

/// Whether there is too much.
fn is_over(inner: &Inner) -> bool {
    inner.bytes.load(Ordering::Relaxed) > inner.settings.size
        || inner.place().is_some_and(|place| lacking(inner, &place, 1) > 0)
}

/// Bytes that are missing until `margins` times what the writer wants to find is free beyond the floor.
fn lacking(inner: &Inner, place: &Place, margins: u64) -> u64 {
    let Ok(s) = place.file_system() else { return 0 };
    let margin = MARGIN.min(s.f_blocks * s.f_frsize / SHARE);
    (inner.settings.free + margins * margin).saturating_sub(s.f_bavail * s.f_frsize)
}

struct Candidate {
    used: i64,
    name: String,
    bytes: u64,
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.used == other.used
    }
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    /// The greatest is the one used last.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.used.cmp(&other.used)
    }
}

/// How many bytes were last used when.
struct Ages {
    /// Seconds that count as one time.
    grain: i64,
    bytes: BTreeMap<i64, u64>,
}

impl Default for Ages {
    fn default() -> Ages {
        Ages { grain: 1, bytes: BTreeMap::new() }
    }
}

impl Ages {
    fn add(&mut self, used: i64, bytes: u64) {
        *self.bytes.entry(used.div_euclid(self.grain)).or_default() += bytes;
        while self.bytes.len() > AGES {
            self.grain *= 2;
            for (time, bytes) in std::mem::take(&mut self.bytes) {
                *self.bytes.entry(time.div_euclid(2)).or_default() += bytes;
            }
        }
    }

    /// What was last used before that second is at most `wanted` bytes; and the second from which on nothing has to go.
    fn cut(&self, wanted: u64) -> (i64, i64) {
        let mut older = 0;
        for (time, bytes) in &self.bytes {
            older += bytes;
            if older >= wanted {
                return (time * self.grain, (time + 1) * self.grain);
            }
        }
        (i64::MAX, i64::MAX)
    }
}

/// What a walk found.
#[derive(Default)]
struct Walk {
    bytes: u64,
    ages: Ages,
    /// The least recently used ones, the youngest on top.
    oldest: BinaryHeap<Candidate>,
}

impl Walk {
    fn take(&mut self, found: Found) {
        self.bytes += found.bytes;
        self.ages.add(found.used, found.bytes);
        self.oldest.push(Candidate { used: found.used, name: found.name, bytes: found.bytes });
        if self.oldest.len() > CANDIDATES {
            self.oldest.pop();
        }
    }
}

/// Counts what is there, and makes room. True when there is too much and nothing to give up.
pub(super) fn sweep(inner: &Inner) -> bool {
    let Some(place) = inner.place() else { return false };
    let before = inner.bytes.load(Ordering::Relaxed);
    let mut walk = Walk { bytes: incoming(inner, &place), ..Walk::default() };
    let walked = walk_all(inner, &place, &mut |found| walk.take(found));
    if inner.sweeper.is_stopped() || !walked {
        return false;
    }
    // What came during the walk may be counted twice, until the next one.
    let came = inner.bytes.load(Ordering::Relaxed).saturating_sub(before);
    inner.bytes.store(walk.bytes + came, Ordering::Relaxed);
    inner.counters.walks.fetch_add(1, Ordering::Relaxed);
    if !is_over(inner) {
        return false;
    }
    let size = inner.settings.size;
    let goal = if walk.bytes > size { size - size / SHARE } else { size };
    let wanted = walk.bytes.saturating_sub(goal).max(lacking(inner, &place, 2));
    let full = walk.oldest.len() == CANDIDATES;
    let mut freed = 0;
    for old in walk.oldest.into_sorted_vec() {
        if freed >= wanted || inner.sweeper.is_stopped() {
            break;
        }
        freed += give_up(inner, &place, &old.name, old.bytes);
    }
    if freed < wanted && full {
        // What has gone was the oldest.
        let (before, until) = walk.ages.cut(wanted);
        let mut others = Vec::new();
        walk_all(inner, &place, &mut |found| {
            if found.used < before {
                freed += give_up(inner, &place, &found.name, found.bytes);
            } else if found.used < until && others.len() < CANDIDATES {
                others.push((found.name, found.bytes));
            }
        });
        for (name, bytes) in others {
            if freed >= wanted || inner.sweeper.is_stopped() {
                break;
            }
            freed += give_up(inner, &place, &name, bytes);
        }
    }
    tracing::debug!(freed, wanted, "disk cache: evicted");
    freed < wanted
}

/// Looks at every version; false when that failed.
fn walk_all(inner: &Inner, place: &Place, each: &mut dyn FnMut(Found)) -> bool {
    let walked = place.walk(&mut |found| {
        inner.counters.walked.fetch_add(1, Ordering::Relaxed);
        each(found);
        !inner.sweeper.is_stopped()
    });
    walked.inspect_err(|e| inner.failed("walk", e)).is_ok()
}

/// Removes a version; the bytes that it took.
fn give_up(inner: &Inner, place: &Place, name: &str, bytes: u64) -> u64 {
    inner.close(name);
    inner.remove(place, name);
    inner.removed(bytes);
    inner.counters.evicted.fetch_add(1, Ordering::Relaxed);
    inner.counters.evicted_bytes.fetch_add(bytes, Ordering::Relaxed);
    bytes
}

/// Bytes of what is being uploaded, without what killed daemons left of uploads, which is removed.
fn incoming(inner: &Inner, place: &Place) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
    let mut bytes = 0;
    for found in place.walk_incoming().unwrap_or_default() {
        if now - found.used <= LEFT_OVER.as_secs() as i64 {
            bytes += found.bytes;
        } else if place.remove_incoming(&found.name).is_ok() {
            tracing::debug!(name = found.name, bytes = found.bytes, "disk cache: removed what an upload left");
        }
        if inner.sweeper.is_stopped() {
            break;
        }
    }
    bytes
}

/// Reads what was not read yet of a version that is whole.
fn check(inner: &Inner, version: &Arc<Version>) {
    let Some(entry) = inner.entry_to_check(version).filter(|e| e.is_whole() && !e.is_verified()) else {
        return;
    };
    match entry.verify(&|| !inner.sweeper.is_stopped()) {
        Ok(true) => {
            inner.verified.lock().put(version.name.clone(), entry.inode);
            // Whoever looks next finds this entry, not one of which nothing is known.
            inner.open.lock().get_or_insert(version.name.clone(), || Slot::Open(entry.clone()));
        }
        Ok(false) if inner.sweeper.is_stopped() => {}
        Ok(false) => {
            inner.counters.damaged.fetch_add(1, Ordering::Relaxed);
            inner.note_damage(&format!("a block of {} is not what was written", version.name));
        }
        Err(e) => {
            inner.note_damage(&format!("{}: {e}", version.name));
            inner.queue.forget(version);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_tell_what_has_to_go() {
        let mut ages = Ages::default();
        for second in 0..1000 {
            ages.add(second % 500, 10);
        }
        assert_eq!(ages.cut(20), (0, 1));
        assert_eq!(ages.cut(21), (1, 2));
        assert_eq!(ages.cut(10_000), (499, 500));
        assert_eq!(ages.cut(10_001), (i64::MAX, i64::MAX));
        // Many of them are told apart less exactly, and none is lost.
        for second in 0..100_000 {
            ages.add(-second, 1);
        }
        assert!(ages.bytes.len() <= AGES && ages.grain > 1);
        assert_eq!(ages.bytes.values().sum::<u64>(), 110_000);
        let (before, until) = ages.cut(50_000);
        assert!((-50_010..=-49_990).contains(&before) && until - before == ages.grain, "{before}..{until}");
    }
}

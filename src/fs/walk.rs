//! Whether the files of a directory are opened in an order, and which come next: pure, no clock and no requests.
//!
//! 1. `grep -r`, `cp -r` and `cat *` open one small file after the other, and each costs a round trip. Three of four
//!    neighbours opened are taken for such a walk; several readers that share the work open them a little out of order.
//! 2. What is fetched ahead and not opened was paid for in vain. So a walk starts with one file and doubles as they are
//!    opened, what is passed over halves it, and after some of them nothing is fetched until it was earned again.
//! 3. Nothing is fetched ahead twice by one walk.

use std::sync::Arc;

use super::attr::FileKind;
use super::known::Item;
use crate::key::Name;

/// Entries that are looked at before and after the file that is opened.
pub const BEFORE: usize = 128;
pub const AFTER: usize = 160;
/// Most files fetched ahead of one walk.
pub const WINDOW: usize = 32;
/// Files between one open and the next that still are one walk: eight readers of which one is ten files ahead.
const FAR: usize = 96;
/// Entries behind the furthest open at which a fetched file counts as passed over: by one reader, and by several.
const PASSED: usize = 16;
const PASSED_BY_MANY: usize = 112;
/// Of the last 64 files, so many opened are several readers.
const MANY: u32 = 24;
/// What a file fetched in vain takes from the credit, and how far that goes up and down.
const PRICE: i32 = 4;
const CREDIT: std::ops::RangeInclusive<i32> = -32..=16;

/// What became of an entry that could be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    Started,
    /// It is here already, or not small.
    NotWorth,
    /// Not now: ask again.
    NoRoom,
}

/// How one directory is read in one order.
#[derive(Debug, Default)]
pub struct Walk {
    /// The furthest file opened.
    furthest: Option<Name>,
    /// Bit n: the n-th file before the furthest was opened.
    seen: u128,
    /// Files to have on their way.
    window: usize,
    /// Fetched and not opened so far, in order.
    ahead: Vec<Name>,
    /// Nothing up to here is fetched any more.
    asked_to: Option<Name>,
    credit: i32,
}

fn files(items: &[Arc<Item>]) -> usize {
    items.iter().filter(|i| i.kind != FileKind::Dir).count()
}

fn place(items: &[Arc<Item>], name: &Name) -> Option<usize> {
    items.iter().position(|i| i.name == *name)
}

impl Walk {
    /// Whether anything was opened so far.
    pub fn is_new(&self) -> bool {
        self.furthest.is_none()
    }

    /// Whether the last files were opened in order.
    pub fn goes_on(&self) -> bool {
        self.window > 0
    }

    /// `name` was opened. `items`: what is around it, in the order that is followed. `goes_on`: a walk through other directories
    /// arrived here. `fetch` is called for the files that come next, in order, until it finds no room.
    pub fn opened(
        &mut self,
        items: &[Arc<Item>],
        name: &Name,
        goes_on: bool,
        fetch: &mut dyn FnMut(&Arc<Item>) -> Fetch,
    ) {
        let Some(at) = place(items, name) else { return };
        let hit = self.take(name);
        let was = self.furthest.as_ref().map(|f| place(items, f));
        let furthest = match was {
            None => {
                self.seen = if goes_on { u128::MAX } else { 1 };
                at
            }
            Some(None) => self.jump(at),
            Some(Some(was)) if at > was => match files(&items[was + 1..=at]) {
                steps if steps > FAR => self.jump(at),
                steps => {
                    self.seen = self.seen << steps | 1;
                    at
                }
            },
            Some(Some(was)) => match files(&items[at + 1..=was]) {
                back if back > FAR => self.jump(at),
                back => {
                    self.seen |= 1 << back;
                    was
                }
            },
        };
        if furthest == at {
            self.furthest = Some(name.clone());
        }
        self.pass_over(items, furthest);
        // Several readers leave holes that they fill a moment later: a walk under way needs less than a new one.
        let starts = (self.seen & 0xf).count_ones() >= 3 || self.is_shared();
        if !starts && (self.window == 0 || (self.seen & 0xff).count_ones() < 4) {
            self.window = 0;
            return;
        }
        if self.credit < 0 {
            self.credit += 1;
            self.window = 0;
            return;
        }
        self.window = match self.window {
            0 => 1,
            n if hit => (2 * n).min(WINDOW),
            n => n,
        };
        self.look_ahead(items, furthest, fetch);
    }

    /// Whether `name` had been fetched ahead.
    fn take(&mut self, name: &Name) -> bool {
        let Some(i) = self.ahead.iter().position(|n| n == name) else { return false };
        self.ahead.remove(i);
        self.credit = (self.credit + 1).min(*CREDIT.end());
        true
    }

    /// Another place: what was fetched for the last one is of no use.
    fn jump(&mut self, at: usize) -> usize {
        self.pay(self.ahead.len());
        self.ahead.clear();
        (self.seen, self.window, self.asked_to) = (1, 0, None);
        at
    }

    /// Whether several readers leave holes behind the furthest of them.
    fn is_shared(&self) -> bool {
        (self.seen as u64).count_ones() >= MANY
    }

    fn pass_over(&mut self, items: &[Arc<Item>], furthest: usize) {
        let behind = if self.is_shared() { PASSED_BY_MANY } else { PASSED };
        let passed = |n: &Name| place(items, n).is_none_or(|i| i + behind < furthest);
        let vain = self.ahead.iter().take_while(|n| passed(n)).count();
        self.ahead.drain(..vain);
        self.pay(vain);
    }

    fn pay(&mut self, vain: usize) {
        for _ in 0..vain.min(WINDOW) {
            self.credit = (self.credit - PRICE).max(*CREDIT.start());
            self.window /= 2;
        }
    }

    fn look_ahead(&mut self, items: &[Arc<Item>], furthest: usize, fetch: &mut dyn FnMut(&Arc<Item>) -> Fetch) {
        let asked = self.asked_to.as_ref().and_then(|to| place(items, to));
        let next = items.iter().enumerate().skip(furthest + 1).filter(|(_, i)| i.kind != FileKind::Dir);
        for (at, item) in next.take(self.window) {
            if asked.is_some_and(|to| at <= to) {
                continue;
            }
            match fetch(item) {
                Fetch::NoRoom => return,
                Fetch::Started => self.ahead.push(item.name.clone()),
                Fetch::NotWorth => {}
            }
            self.asked_to = Some(item.name.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    fn listing(count: usize) -> Vec<Arc<Item>> {
        let name = |n| Name::parse(OsStr::new(&format!("{n:05}"))).unwrap();
        (0..count).map(|n| Arc::new(Item { kind: FileKind::File, size: 8192, ..Item::dir(name(n)) })).collect()
    }

    /// Opens the `n`-th of `all`; what is fetched for it.
    fn open(walk: &mut Walk, all: &[Arc<Item>], n: usize) -> Vec<usize> {
        let around = &all[n.saturating_sub(BEFORE)..(n + AFTER).min(all.len())];
        let mut fetched = Vec::new();
        walk.opened(around, &all[n].name, false, &mut |item| {
            fetched.push(item.name.as_str().parse().unwrap());
            Fetch::Started
        });
        fetched
    }

    #[test]
    fn a_walk_is_followed_from_the_third_file_and_nothing_is_fetched_twice() {
        let (all, mut walk) = (listing(1000), Walk::default());
        let mut fetched = Vec::new();
        for n in 0..1000 {
            let new = open(&mut walk, &all, n);
            assert!(n >= 2 || new.is_empty());
            fetched.extend(new);
            assert!(fetched.len() <= n + 1 + WINDOW);
            let ahead = fetched.iter().filter(|f| **f > n).count();
            assert!(ahead <= WINDOW && (n < 10 || ahead >= WINDOW.min(999 - n)), "{ahead} ahead of {n}");
        }
        assert_eq!(fetched, (3..1000).collect::<Vec<_>>());
    }

    #[test]
    fn random_reads_fetch_nothing_ahead() {
        let (all, mut walk) = (listing(1000), Walk::default());
        let mut x = 88172645463325252u64;
        let mut fetched = 0;
        for _ in 0..2000 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            fetched += open(&mut walk, &all, (x % 1000) as usize).len();
        }
        fetched += (0..1000).step_by(3).map(|n| open(&mut walk, &all, n).len()).sum::<usize>();
        assert_eq!(fetched, 0);
    }

    #[test]
    fn readers_that_share_the_work_are_one_walk() {
        let (all, mut walk) = (listing(1000), Walk::default());
        let mut fetched = Vec::new();
        for group in (0..1000).step_by(8) {
            for n in [3, 0, 1, 5, 2, 7, 4, 6] {
                fetched.extend(open(&mut walk, &all, group + n));
            }
        }
        let mut once = fetched.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), fetched.len());
        assert!(fetched.len() > 950, "{}", fetched.len());
    }

    /// Eight readers, each with every eighth file, that get along at different speeds.
    #[test]
    fn readers_that_drift_apart_are_one_walk() {
        for seed in 1..=20_u64 {
            let (all, mut walk) = (listing(1000), Walk::default());
            let (mut x, mut next) = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, [0, 1, 2, 3, 4, 5, 6, 7]);
            let (mut fetched, mut hits) = (Vec::new(), 0);
            while let Some(least) = next.iter().copied().filter(|n| *n < 1000).min() {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                let reader = (x >> 20) as usize % 8;
                let n = next[reader];
                // None is ten files ahead of the last.
                if n >= 1000 || n > least + 80 {
                    continue;
                }
                next[reader] += 8;
                hits += usize::from(fetched.contains(&n));
                fetched.extend(open(&mut walk, &all, n));
            }
            assert!(hits > 700, "seed {seed}: {hits} of 1000 were here");
        }
    }

    #[test]
    fn what_was_fetched_in_vain_has_to_be_earned_again() {
        let (all, mut walk) = (listing(4000), Walk::default());
        // Four in a row, then another place: whoever guesses that it goes on is wrong each time.
        let fetched: usize =
            (0..40).flat_map(|n| (0..4).map(move |k| n * 100 + k)).map(|n| open(&mut walk, &all, n).len()).sum();
        assert!((1..=24).contains(&fetched), "{fetched} files for 160 opened");
    }

    #[test]
    fn no_room_is_asked_again_and_what_is_not_worth_it_is_not() {
        let (all, mut walk) = (listing(100), Walk::default());
        let mut asked = Vec::new();
        for n in 0..20 {
            let mut once = false;
            walk.opened(&all, &all[n].name, false, &mut |item| {
                let number: usize = item.name.as_str().parse().unwrap();
                asked.push(number);
                if number.is_multiple_of(2) {
                    return Fetch::NotWorth;
                }
                match std::mem::replace(&mut once, true) {
                    false => Fetch::Started,
                    true => Fetch::NoRoom,
                }
            });
        }
        let evens = asked.iter().filter(|n| **n % 2 == 0).count();
        let distinct: std::collections::BTreeSet<_> = asked.iter().collect();
        assert_eq!(evens, distinct.iter().filter(|n| **n % 2 == 0).count(), "asked once");
        assert!(distinct.len() < asked.len(), "no room: asked again");
    }

    #[test]
    fn directories_in_between_do_not_count() {
        let mut all = listing(300);
        for (n, item) in all.iter_mut().enumerate() {
            if n % 3 != 0 {
                *item = Arc::new(Item::dir(item.name.clone()));
            }
        }
        let mut walk = Walk::default();
        let fetched: Vec<usize> = (0..300).step_by(3).flat_map(|n| open(&mut walk, &all, n)).collect();
        assert_eq!(fetched, (9..300).step_by(3).collect::<Vec<_>>());
    }

    #[test]
    fn a_walk_that_comes_from_another_directory_goes_on_at_once() {
        let (all, mut walk) = (listing(10), Walk::default());
        assert!(walk.is_new());
        let mut fetched = 0;
        walk.opened(&all, &all[0].name, true, &mut |_| {
            fetched += 1;
            Fetch::Started
        });
        assert_eq!(fetched, 1);
        assert!(!walk.is_new());
    }
}

//! What the trees of one mount share: one bound for what they remember of directories and names, however many buckets
//! are mounted.
//!
//! 1. Inode numbers are of one tree, so that the listings of all of them are in one table, and the one that was not
//!    used for longest goes first, whichever tree it is of.
//! 2. Inodes are in tables of their own. Each tree tells how many it has, and keeps as much of the bound as it has of
//!    all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::burst::Bursts;
use super::inode::Space;
use super::known::Listings;
use super::trim::Crowd;
use crate::budget::Budget;

/// Share of the memory bound for listings that have no end yet.
const SHARE: usize = 8;
/// Names that every tree may have.
const LEAST: usize = 64;

pub struct Shared {
    pub(super) listings: Arc<Listings>,
    pub(super) bursts: Arc<Bursts>,
    crowd: Crowd,
    /// Inodes of all trees, as far as they were told.
    inodes: AtomicUsize,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("inodes", &self.inodes).finish_non_exhaustive()
    }
}

impl Shared {
    /// `ttl`, `negative_ttl`: how long listings and the absence of names are believed.
    pub(super) fn new(ttl: Duration, negative_ttl: Duration, crowd: Crowd, budget: Arc<Budget>) -> Arc<Shared> {
        let room = budget.limit() / SHARE;
        Arc::new(Shared {
            listings: Arc::new(Listings::new(ttl, negative_ttl, budget)),
            bursts: Arc::new(Bursts::new(ttl, room)),
            crowd,
            inodes: AtomicUsize::new(0),
        })
    }
}

/// What one tree has of the names of all.
pub(super) struct Part {
    of: Arc<Shared>,
    inodes: AtomicUsize,
    /// What is left of this tree cannot be forgotten.
    pub in_vain: AtomicBool,
    /// Somebody has to look.
    pub wake: Notify,
}

impl Part {
    /// `space`: the inode numbers of the tree, which another one may have had before.
    pub fn new(of: Arc<Shared>, space: Space) -> Part {
        of.listings.forget_all(|dir| space.has(dir));
        of.bursts.forget_all(|dir| space.has(dir));
        Part { of, inodes: AtomicUsize::new(0), in_vain: AtomicBool::new(false), wake: Notify::new() }
    }

    pub fn crowd(&self) -> &Crowd {
        &self.of.crowd
    }

    /// The tree has so many inodes now. How many all trees have.
    fn tell(&self, inodes: usize) -> usize {
        let before = self.inodes.swap(inodes, Ordering::Relaxed);
        // Wraps where there are fewer than before.
        let more = inodes.wrapping_sub(before);
        self.of.inodes.fetch_add(more, Ordering::Relaxed).wrapping_add(more)
    }

    /// As [`Part::tell`], after a look-up: takes memory for them.
    pub fn grew_to(&self, inodes: usize) {
        if !self.of.crowd.has_room(self.tell(inodes)) {
            self.wake.notify_one();
        }
    }

    /// Gives memory back that the names of all trees do not need.
    pub fn settle(&self, inodes: usize) {
        self.of.crowd.settle(self.tell(inodes));
    }

    /// Whether there are more names than there is memory for, and this tree can do something about it.
    pub fn is_over(&self, inodes: usize) -> bool {
        let Some(room) = self.of.crowd.full_at() else { return false };
        !self.in_vain.load(Ordering::Relaxed) && self.tell(inodes) > room
    }

    /// This tree's part of a bound on all.
    pub fn share(&self, bound: usize) -> usize {
        let mine = self.inodes.load(Ordering::Relaxed);
        let all = self.of.inodes.load(Ordering::Relaxed).max(mine);
        if all <= bound || all == mine {
            return bound;
        }
        let part = bound as u128 * mine as u128 / all as u128;
        usize::try_from(part).unwrap_or(bound).max(LEAST)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.tell(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_keep_to_one_bound() {
        let (long, budget) = (Duration::from_secs(60), Budget::new(64 << 20));
        let shared = Shared::new(long, long, Crowd::new(8192, 8192, budget.clone()), budget.clone());
        let (a, b) = (Part::new(shared.clone(), Space::of_part(7)), Part::new(shared.clone(), Space::of_part(8)));
        a.tell(5000);
        assert_eq!(a.share(1000), 1000, "alone");
        b.tell(15_000);
        assert_eq!((a.share(1000), b.share(1000)), (250, 750));
        assert_eq!((a.share(20_000), b.share(100_000)), (20_000, 100_000), "less than the bound");
        a.tell(10);
        assert_eq!(a.share(1000), LEAST);
        // Memory is that for the names of all.
        a.grew_to(8000);
        b.grew_to(8000);
        assert!(budget.used() > 0 && !a.is_over(8000));
        b.grew_to(50_000);
        assert!(a.is_over(8000) && b.is_over(50_000));
        b.in_vain.store(true, Ordering::Relaxed);
        assert!(!b.is_over(50_000), "nobody waits for what does not happen");
        drop(b);
        assert_eq!(a.share(1), 1);
        a.settle(100);
        assert_eq!(budget.used(), 0);
        drop(a);
        assert_eq!(shared.inodes.load(Ordering::Relaxed), 0);
    }
}

//! What the trees of one mount share: one bound for what they remember of directories and names, however many buckets
//! are mounted.
//!
//! 1. Inode numbers are of one tree, so that the listings of all of them are in one table, and the one that was not
//!    used for longest goes first, whichever tree it is of.
//! 2. Inodes are in tables of their own. Each tree tells how many it has, and keeps as much of the bound as it has of
//!    all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::NAME_BYTES;
use super::burst::Bursts;
use super::known::Listings;
use crate::budget::{Budget, Lease};

/// Share of the memory bound for names, and for listings that have no end yet.
const SHARE: usize = 8;
/// Names that every tree may have.
const LEAST: usize = 64;

pub struct Shared {
    pub(super) listings: Arc<Listings>,
    pub(super) bursts: Arc<Bursts>,
    /// Inodes of all trees, as far as they were told.
    inodes: AtomicUsize,
    _names: Option<Lease>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("inodes", &self.inodes).finish_non_exhaustive()
    }
}

impl Shared {
    /// `ttl`, `negative_ttl`: how long listings and the absence of names are believed; `names`: how many names are
    /// remembered, besides those that are not counted as memory of the budget.
    pub fn new(ttl: Duration, negative_ttl: Duration, names: usize, budget: Arc<Budget>) -> Arc<Shared> {
        // Whatever the settings say: the rest of a small budget is for bytes.
        let lease = budget.spare_lease(names.saturating_mul(NAME_BYTES).min(budget.limit() / SHARE));
        let room = budget.limit() / SHARE;
        Arc::new(Shared {
            listings: Arc::new(Listings::new(ttl, negative_ttl, budget)),
            bursts: Arc::new(Bursts::new(ttl, room)),
            inodes: AtomicUsize::new(0),
            _names: lease,
        })
    }
}

/// What one tree has of the names of all.
pub(super) struct Part {
    of: Arc<Shared>,
    inodes: usize,
}

impl Part {
    pub fn new(of: Arc<Shared>) -> Part {
        Part { of, inodes: 0 }
    }

    /// The tree has so many inodes now.
    pub fn tell(&mut self, inodes: usize) {
        self.of.inodes.fetch_add(inodes, Ordering::Relaxed);
        self.of.inodes.fetch_sub(std::mem::replace(&mut self.inodes, inodes), Ordering::Relaxed);
    }

    /// This tree's part of a bound on all.
    pub fn share(&self, bound: usize) -> usize {
        let all = self.of.inodes.load(Ordering::Relaxed).max(self.inodes);
        if all <= bound || all == self.inodes {
            return bound;
        }
        let part = bound as u128 * self.inodes as u128 / all as u128;
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
        let long = Duration::from_secs(60);
        let shared = Shared::new(long, long, 0, Budget::new(1 << 20));
        let (mut a, mut b) = (Part::new(shared.clone()), Part::new(shared.clone()));
        a.tell(5000);
        assert_eq!(a.share(1000), 1000, "alone");
        b.tell(15_000);
        assert_eq!((a.share(1000), b.share(1000)), (250, 750));
        assert_eq!((a.share(20_000), b.share(100_000)), (20_000, 100_000), "less than the bound");
        a.tell(10);
        assert_eq!(a.share(1000), LEAST);
        drop(b);
        assert_eq!(a.share(1), 1);
        drop(a);
        assert_eq!(shared.inodes.load(Ordering::Relaxed), 0);
    }
}

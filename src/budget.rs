//! The one bound on memory: cached blocks, read-ahead and bytes waiting to be uploaded all take leases here.
//!
//! Cached blocks can be given up at any time, everything else cannot: when a lease does not fit, the budget first
//! asks the registered reclaimer (the block cache) to drop blocks, and only then makes the caller wait.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::error::{Error, Kind, Result};

/// How soon a waiting lease looks for blocks that can be given up by now.
const RETRY: Duration = Duration::from_millis(50);

type Reclaim = Box<dyn Fn(usize) + Send + Sync>;

/// A number of bytes that leases are taken from.
pub struct Budget {
    limit: usize,
    used: Mutex<usize>,
    freed: Notify,
    reclaim: OnceLock<Reclaim>,
}

/// Bytes taken from a [`Budget`]; given back when dropped.
pub struct Lease {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// `limit` in bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Budget { limit, used: Mutex::new(0), freed: Notify::new(), reclaim: OnceLock::new() })
    }

    /// Registers who can give memory up. `reclaim(n)` drops leases worth at least `n` bytes if it holds that many.
    /// It is called without any lock of the budget held.
    pub fn set_reclaim(&self, reclaim: impl Fn(usize) + Send + Sync + 'static) {
        let _ = self.reclaim.set(Box::new(reclaim));
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn used(&self) -> usize {
        *self.used.lock()
    }

    fn take(self: &Arc<Self>, bytes: usize) -> std::result::Result<Lease, usize> {
        let mut used = self.used.lock();
        // A single lease larger than the whole budget is let through when nothing else is held: the alternative is
        // a request that can never be served.
        if *used + bytes <= self.limit || *used == 0 {
            *used += bytes;
            Ok(Lease { budget: self.clone(), bytes })
        } else {
            Err((*used + bytes).saturating_sub(self.limit))
        }
    }

    /// A lease without waiting, after reclaiming cached blocks if need be; `None` when it does not fit.
    pub fn try_lease(self: &Arc<Self>, bytes: usize) -> Option<Lease> {
        match self.take(bytes) {
            Ok(lease) => Some(lease),
            Err(missing) => {
                self.reclaim.get()?(missing);
                self.take(bytes).ok()
            }
        }
    }

    /// A lease without reclaiming anything: for speculative work, which must not push out what somebody read.
    pub fn spare_lease(self: &Arc<Self>, bytes: usize) -> Option<Lease> {
        self.take(bytes).ok()
    }

    /// A lease, waiting up to `patience` for somebody to give memory back; then [`Kind::NoMemory`].
    pub async fn lease(self: &Arc<Self>, bytes: usize, patience: Duration) -> Result<Lease> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Registered before the attempt, so that a release in between is not missed.
            freed.as_mut().enable();
            if let Some(lease) = self.try_lease(bytes) {
                return Ok(lease);
            }
            // Cached blocks that become reclaimable give no notice: look again now and then.
            let again = tokio::time::Instant::now() + RETRY;
            if tokio::time::timeout_at(deadline.min(again), freed).await.is_err() && again >= deadline {
                return Err(
                    Error::new(Kind::NoMemory, format!("wait for {bytes} bytes of memory")).with_fix("raise `memory`")
                );
            }
        }
    }
}

impl Lease {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Splits `bytes` off into a lease of its own.
    pub fn split(&mut self, bytes: usize) -> Lease {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Lease { budget: self.budget.clone(), bytes }
    }

    /// Takes `other` into this lease.
    pub fn merge(&mut self, mut other: Lease) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.bytes > 0 {
            *self.budget.used.lock() -= self.bytes;
            self.budget.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lease_waits_for_memory_and_gives_it_back() {
        let b = Budget::new(100);
        let first = b.try_lease(80).unwrap();
        assert!(b.try_lease(30).is_none());
        let waiter = tokio::spawn({
            let b = b.clone();
            async move { b.lease(30, Duration::from_secs(5)).await.map(|l| l.bytes()) }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert_eq!(waiter.await.unwrap().unwrap(), 30);
        assert_eq!(b.used(), 0);
        let _all = b.try_lease(100).unwrap();
        assert_eq!(b.lease(1, Duration::from_millis(10)).await.err().unwrap().kind(), Kind::NoMemory);
    }

    #[test]
    fn cached_blocks_are_given_up_first() {
        let b = Budget::new(100);
        let held: Arc<Mutex<Vec<Lease>>> = Arc::default();
        held.lock().push(b.try_lease(90).unwrap());
        let h = held.clone();
        b.set_reclaim(move |_| h.lock().clear());
        assert!(b.spare_lease(50).is_none());
        assert!(b.try_lease(50).is_some());
    }
}

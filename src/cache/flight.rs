//! One block being fetched: who fetches it ([`Claim`]) and who waits for it ([`Flight`]).

use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{BlockCache, BlockId, CachedObject};
use crate::error::Error;

/// How the fetch of a block ended.
#[derive(Clone, Debug)]
pub enum Landing {
    /// The bytes, handed over directly: the cache may have given the block up again by the time a waiter runs.
    Ready(Bytes),
    Failed(Error),
    /// Whoever fetched it was cancelled: claim it again.
    Abandoned,
}

#[derive(Default)]
pub(super) struct FlightState {
    landing: Mutex<Option<Landing>>,
    landed: Notify,
}

impl FlightState {
    fn land(&self, landing: Landing) {
        self.landing.lock().get_or_insert(landing);
        self.landed.notify_waiters();
    }
}

/// A block that somebody is fetching.
#[derive(Clone)]
pub struct Flight(pub(super) Arc<FlightState>);

impl Flight {
    /// Waits without a deadline of its own: the caller has one.
    pub async fn wait(&self) -> Landing {
        loop {
            let landed = self.0.landed.notified();
            tokio::pin!(landed);
            // Registered before the look, so that a landing in between is not missed.
            landed.as_mut().enable();
            let landing = self.0.landing.lock().clone();
            if let Some(landing) = landing {
                return landing;
            }
            landed.await;
        }
    }
}

/// The right and the duty to fetch one block. Dropped without an answer, it sets the block free and wakes the waiters.
pub struct Claim {
    pub(super) cache: Weak<BlockCache>,
    pub(super) object: Arc<CachedObject>,
    pub(super) index: u64,
    pub(super) flight: Flight,
    pub(super) landed: bool,
}

impl Claim {
    /// Which block, counted from the start of the object.
    pub fn index(&self) -> u64 {
        self.index
    }

    pub fn flight(&self) -> Flight {
        self.flight.clone()
    }

    /// The whole block: [`super::BLOCK`] bytes, or fewer when it is the last one.
    pub fn fill(mut self, data: Bytes) {
        self.land(Landing::Ready(data));
    }

    pub fn fail(mut self, error: Error) {
        self.land(Landing::Failed(error));
    }

    fn land(&mut self, landing: Landing) {
        self.landed = true;
        if let Some(cache) = self.cache.upgrade() {
            let id = BlockId { object: self.object.tag, index: self.index };
            cache.land(id, &self.object, if let Landing::Ready(data) = &landing { Some(data) } else { None });
        }
        // After the tables: a waiter that is woken and looks again finds the block, or finds it free.
        self.flight.0.land(landing);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.landed {
            self.land(Landing::Abandoned);
        }
    }
}

//! Blocks of objects in memory, shared by all readers, each fetched once.
//!
//! 1. A block belongs to one version of an object ([`ObjectId`]): bytes of two versions can never meet.
//! 2. Many readers want one block at the same time: the first gets a [`Claim`], the others a [`Flight`] to wait for.
//! 3. Memory belongs to the [`Budget`]: each block carries its lease, and the least recently used blocks are given up
//!    whenever anybody's lease does not fit. Blocks being fetched are never given up.
//! 4. The cache knows neither files nor requests: whoever holds a claim fetches the block as it likes.
//! 5. Buckets of one mount share the memory and the order of age, not the names: the same key in two of them is two
//!    objects ([`BlockCache::beside`]).
//!
//! Locks: `tables` and `names` are leaves for short, synchronous sections and are never held together. A lease is
//! never taken under them, because taking one may call back into [`BlockCache::reclaim`].

mod buffer;
pub mod disk;
mod flight;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;

pub use self::buffer::{BLOCK_OVERHEAD, BlockBuffer, block_cost};
use self::flight::FlightState;
pub use self::flight::{Claim, Flight, Landing};
use crate::budget::{Budget, Lease};
use crate::error::Error;
use crate::key::Key;
use crate::s3::ObjectId;

/// Bytes of a block; the last one of an object is shorter. What one uncached random read costs, and what the kernel
/// asks for at once by default.
pub const BLOCK: usize = 128 * 1024;

/// The blocks that hold `bytes`.
pub fn blocks_of(bytes: &Range<u64>) -> Range<u64> {
    bytes.start / BLOCK as u64..bytes.end.div_ceil(BLOCK as u64)
}

/// Length of block `index` of an object of `size` bytes.
pub fn block_len(index: u64, size: u64) -> usize {
    // At most BLOCK, so the cast keeps the value.
    size.saturating_sub(index * BLOCK as u64).min(BLOCK as u64) as usize
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct BlockId {
    object: u64,
    index: u64,
}

/// One version of an object as the cache knows it; lives as long as a reader or a block of it.
pub struct CachedObject {
    tag: u64,
    id: ObjectId,
    /// Set once when the store said that this version is gone.
    stale: OnceLock<Error>,
    /// Open handles that read it.
    readers: AtomicU64,
    cache: Weak<BlockCache>,
}

impl CachedObject {
    pub fn id(&self) -> &ObjectId {
        &self.id
    }

    /// A number that no other version known to this process has or had.
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// Why no byte of this version can be had any more.
    pub fn stale(&self) -> Option<&Error> {
        self.stale.get()
    }

    /// A handle starts to read it.
    pub fn enter(&self) {
        self.readers.fetch_add(1, Ordering::Relaxed);
    }

    /// A handle that [`CachedObject::enter`]ed is closed.
    pub fn leave(&self) {
        self.readers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Handles that read it now.
    pub fn readers(&self) -> u64 {
        self.readers.load(Ordering::Relaxed)
    }
}

impl Drop for CachedObject {
    fn drop(&mut self) {
        if let Some(cache) = self.cache.upgrade() {
            cache.unname(self);
        }
    }
}

struct Ready {
    data: Bytes,
    /// Keeps the name of the version while any block of it is here.
    _object: Arc<CachedObject>,
}

struct Tables {
    /// Bounded by the budget, not by a number.
    ready: LruCache<BlockId, Ready>,
    /// Which blocks of each version are ready: to drop them without walking the whole cache.
    present: HashMap<u64, HashSet<u64>>,
    pending: HashMap<BlockId, Flight>,
    bytes: usize,
}

impl Tables {
    fn new() -> Self {
        Tables { ready: LruCache::unbounded(), present: HashMap::new(), pending: HashMap::new(), bytes: 0 }
    }

    /// The caller drops the result after the lock: a last reference to an object takes another lock.
    #[must_use]
    fn insert(&mut self, id: BlockId, block: Ready) -> Option<Ready> {
        self.bytes += block.data.len();
        self.present.entry(id.object).or_default().insert(id.index);
        let old = self.ready.put(id, block);
        if let Some(old) = &old {
            self.bytes -= old.data.len();
        }
        old
    }

    fn removed(&mut self, id: BlockId, block: &Ready) {
        self.bytes -= block.data.len();
        if let Some(present) = self.present.get_mut(&id.object) {
            present.remove(&id.index);
            if present.is_empty() {
                self.present.remove(&id.object);
            }
        }
    }

    #[must_use]
    fn pop_oldest(&mut self) -> Option<Ready> {
        let (id, block) = self.ready.pop_lru()?;
        self.removed(id, &block);
        Some(block)
    }

    #[must_use]
    fn remove(&mut self, id: BlockId) -> Option<Ready> {
        let block = self.ready.pop(&id)?;
        self.removed(id, &block);
        Some(block)
    }

    #[must_use]
    fn remove_object(&mut self, tag: u64) -> Vec<Ready> {
        let indexes = self.present.remove(&tag).unwrap_or_default();
        let mut gone = Vec::with_capacity(indexes.len());
        for index in indexes {
            if let Some(block) = self.ready.pop(&BlockId { object: tag, index }) {
                self.bytes -= block.data.len();
                gone.push(block);
            }
        }
        gone
    }
}

/// What the cache has of a block.
pub enum Found {
    Ready(Bytes),
    /// Somebody else fetches it.
    Pending(Flight),
    /// The caller fetches it.
    Claimed(Claim),
}

/// How a look at a block changes its age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// Used: it becomes the youngest.
    Young,
    /// Passed by a sequential reader, who will not come back: it keeps its age, so that blocks already read go
    /// before blocks that were read ahead.
    Keep,
}

/// Figures for `status` and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Bytes of ready blocks.
    pub bytes: usize,
    pub blocks: usize,
    /// Blocks being fetched.
    pub pending: usize,
    /// Versions of objects known.
    pub objects: usize,
    /// Blocks found, waited for, and fetched since the start.
    pub hits: u64,
    pub waits: u64,
    pub misses: u64,
    /// Blocks given up to make room.
    pub evicted: u64,
}

#[derive(Default)]
struct Counters {
    hits: AtomicU64,
    waits: AtomicU64,
    misses: AtomicU64,
    evicted: AtomicU64,
}

/// The blocks of all buckets of a mount.
struct Shared {
    budget: Arc<Budget>,
    pool: Arc<buffer::Pool>,
    tables: Mutex<Tables>,
    next_tag: AtomicU64,
    counters: Counters,
}

impl Shared {
    fn reclaim(&self, bytes: usize) {
        let mut freed = 0;
        let mut gone = Vec::new();
        {
            let mut tables = self.tables.lock();
            while freed < bytes {
                let Some(block) = tables.pop_oldest() else { break };
                freed += block_cost(block.data.len());
                gone.push(block);
            }
        }
        self.counters.evicted.fetch_add(gone.len() as u64, Ordering::Relaxed);
    }
}

/// The cached blocks of a bucket, among those of a mount.
pub struct BlockCache {
    me: Weak<BlockCache>,
    shared: Arc<Shared>,
    /// The living versions of each key.
    names: Mutex<HashMap<Key, Vec<Weak<CachedObject>>>>,
}

impl BlockCache {
    /// Registers itself as the one who gives memory up when `budget` is used up.
    pub fn new(budget: Arc<Budget>) -> Arc<BlockCache> {
        let shared = Arc::new(Shared {
            pool: buffer::Pool::new(budget.limit()),
            budget: budget.clone(),
            tables: Mutex::new(Tables::new()),
            next_tag: AtomicU64::new(1),
            counters: Counters::default(),
        });
        let weak = Arc::downgrade(&shared);
        budget.set_reclaim(move |bytes| {
            if let Some(shared) = weak.upgrade() {
                shared.reclaim(bytes);
            }
        });
        BlockCache::over(shared)
    }

    fn over(shared: Arc<Shared>) -> Arc<BlockCache> {
        Arc::new_cyclic(|me| BlockCache { me: me.clone(), shared, names: Mutex::default() })
    }

    /// A cache for another bucket: its blocks are given up in one order with those here, and counted together.
    pub fn beside(&self) -> Arc<BlockCache> {
        BlockCache::over(self.shared.clone())
    }

    pub fn budget(&self) -> &Arc<Budget> {
        &self.shared.budget
    }

    /// The version `id`, known before or new.
    pub fn object(&self, id: &ObjectId) -> Arc<CachedObject> {
        // Declared first, so dropped after the lock: the last reference to a version takes it again.
        let mut others = Vec::new();
        let mut names = self.names.lock();
        let versions = names.entry(id.key.clone()).or_default();
        for object in versions.iter().filter_map(Weak::upgrade) {
            if object.id == *id && object.stale().is_none() {
                return object;
            }
            others.push(object);
        }
        let object = Arc::new(CachedObject {
            tag: self.shared.next_tag.fetch_add(1, Ordering::Relaxed),
            id: id.clone(),
            stale: OnceLock::new(),
            readers: AtomicU64::new(0),
            cache: self.me.clone(),
        });
        versions.push(Arc::downgrade(&object));
        object
    }

    fn unname(&self, object: &CachedObject) {
        let mut names = self.names.lock();
        if let Some(versions) = names.get_mut(&object.id.key) {
            versions.retain(|v| v.strong_count() > 0);
            if versions.is_empty() {
                names.remove(&object.id.key);
            }
        }
    }

    /// Whether the first block of any version of `key` is ready.
    pub fn has_first_block(&self, key: &Key) -> bool {
        let versions: Vec<_> = {
            let names = self.names.lock();
            names.get(key).map(|v| v.iter().filter_map(Weak::upgrade).collect()).unwrap_or_default()
        };
        let tables = self.shared.tables.lock();
        versions.iter().any(|v| tables.ready.contains(&BlockId { object: v.tag, index: 0 }))
    }

    /// The blocks `indexes`, all of them or none: for an answer on the spot.
    pub fn all_ready(&self, object: &CachedObject, indexes: Range<u64>, touch: Touch) -> Option<Vec<Bytes>> {
        let mut tables = self.shared.tables.lock();
        let mut found = Vec::with_capacity((indexes.end - indexes.start) as usize);
        for index in indexes {
            let id = BlockId { object: object.tag, index };
            found.push(tables.ready.peek(&id)?.data.clone());
            if touch == Touch::Young {
                tables.ready.promote(&id);
            }
        }
        drop(tables);
        self.shared.counters.hits.fetch_add(found.len() as u64, Ordering::Relaxed);
        Some(found)
    }

    /// What there is of each of the blocks `indexes`; those that nobody has become the caller's to fetch.
    pub fn find(&self, object: &Arc<CachedObject>, indexes: Range<u64>, touch: Touch) -> Vec<Found> {
        let (mut hits, mut waits, mut misses) = (0, 0, 0);
        let mut found = Vec::with_capacity((indexes.end - indexes.start) as usize);
        {
            let mut tables = self.shared.tables.lock();
            for index in indexes {
                let id = BlockId { object: object.tag, index };
                found.push(if let Some(block) = tables.ready.peek(&id) {
                    let data = block.data.clone();
                    if touch == Touch::Young {
                        tables.ready.promote(&id);
                    }
                    hits += 1;
                    Found::Ready(data)
                } else if let Some(flight) = tables.pending.get(&id) {
                    waits += 1;
                    Found::Pending(flight.clone())
                } else {
                    misses += 1;
                    Found::Claimed(self.claim(&mut tables, object, index))
                });
            }
        }
        self.shared.counters.hits.fetch_add(hits, Ordering::Relaxed);
        self.shared.counters.waits.fetch_add(waits, Ordering::Relaxed);
        self.shared.counters.misses.fetch_add(misses, Ordering::Relaxed);
        found
    }

    /// Claims those of the blocks `indexes` that nobody has and nobody fetches, in ascending order.
    pub fn claim_absent(&self, object: &Arc<CachedObject>, indexes: Range<u64>) -> Vec<Claim> {
        let mut tables = self.shared.tables.lock();
        let mut claims = Vec::new();
        for index in indexes {
            let id = BlockId { object: object.tag, index };
            if !tables.ready.contains(&id) && !tables.pending.contains_key(&id) {
                claims.push(self.claim(&mut tables, object, index));
            }
        }
        drop(tables);
        self.shared.counters.misses.fetch_add(claims.len() as u64, Ordering::Relaxed);
        claims
    }

    fn claim(&self, tables: &mut Tables, object: &Arc<CachedObject>, index: u64) -> Claim {
        let flight = Flight(Arc::new(FlightState::default()));
        tables.pending.insert(BlockId { object: object.tag, index }, flight.clone());
        Claim { cache: self.me.clone(), object: object.clone(), index, flight, landed: false }
    }

    /// The end of a claim: the block is ready with `data`, or free again.
    fn land(&self, id: BlockId, object: &Arc<CachedObject>, data: Option<&Bytes>) {
        let replaced = {
            let mut tables = self.shared.tables.lock();
            tables.pending.remove(&id);
            // Looked at under the lock under which `set_stale` drops the blocks: none slips in after it.
            data.filter(|_| object.stale().is_none())
                .and_then(|data| tables.insert(id, Ready { data: data.clone(), _object: object.clone() }))
        };
        drop(replaced);
    }

    /// A buffer for one block of `len` bytes, accounted by `lease`, which is worth [`block_cost`]`(len)`.
    pub fn buffer(&self, len: usize, lease: Lease) -> BlockBuffer {
        self.shared.pool.take(len, lease)
    }

    /// The store said that this version is gone: its blocks are dropped, and every later read of it fails with `why`.
    pub fn set_stale(&self, object: &CachedObject, why: &Error) {
        let _ = object.stale.set(why.clone());
        let gone = self.shared.tables.lock().remove_object(object.tag);
        drop(gone);
    }

    /// Drops the blocks of all versions of `key`. Fetches under way go on, for the handles that wait for them.
    pub fn forget_key(&self, key: &Key) {
        let versions: Vec<_> = {
            let names = self.names.lock();
            names.get(key).map(|v| v.iter().filter_map(Weak::upgrade).collect()).unwrap_or_default()
        };
        for object in versions {
            let gone = self.shared.tables.lock().remove_object(object.tag);
            drop(gone);
        }
    }

    /// Gives up those of the blocks `indexes` that are ready: their reader will not come back.
    pub fn give_up(&self, object: &CachedObject, indexes: Range<u64>) {
        let gone: Vec<Ready> = {
            let mut tables = self.shared.tables.lock();
            indexes.filter_map(|index| tables.remove(BlockId { object: object.tag, index })).collect()
        };
        self.shared.counters.evicted.fetch_add(gone.len() as u64, Ordering::Relaxed);
    }

    /// Gives up the oldest ready blocks until they are worth `bytes` of the budget or there are none left.
    pub fn reclaim(&self, bytes: usize) {
        self.shared.reclaim(bytes);
    }

    /// Of all buckets that share the memory, but for [`CacheStats::objects`].
    pub fn stats(&self) -> CacheStats {
        let objects = self.names.lock().values().map(Vec::len).sum();
        let tables = self.shared.tables.lock();
        CacheStats {
            bytes: tables.bytes,
            blocks: tables.ready.len(),
            pending: tables.pending.len(),
            objects,
            hits: self.shared.counters.hits.load(Ordering::Relaxed),
            waits: self.shared.counters.waits.load(Ordering::Relaxed),
            misses: self.shared.counters.misses.load(Ordering::Relaxed),
            evicted: self.shared.counters.evicted.load(Ordering::Relaxed),
        }
    }
}

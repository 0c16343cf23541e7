//! Reading objects: which blocks a read needs, which of them have to be fetched, and what to fetch ahead.
//!
//! 1. A read is answered from the block cache; what is missing there becomes ranged GETs of adjacent blocks, in
//!    parallel, each bound to the version that was opened (`If-Match`). Another version is [`Kind::Stale`], for good.
//! 2. Sequential readers are limited by latency unless enough bytes are on their way: each handle has a pattern
//!    that opens a window, and the engine keeps it filled within what all handles together may have in flight.
//! 3. Reading ahead must neither starve reads somebody waits for nor break the memory bound: it never waits, for a
//!    request slot or for memory, and tries again when a GET is done. Reads that are waited for take precedence.
//! 4. Every read ends within `patience`.

mod disk;
mod fetch;
mod pattern;
mod reader;
mod reply;
mod scatter;

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use lru::LruCache;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use self::fetch::{Run, runs};
pub use self::reader::Reader;
use self::reply::Replies;
use self::scatter::{Scatter, Speed};
use crate::budget::Lease;
use crate::cache::disk::DiskCache;
use crate::cache::{
    BLOCK, BlockCache, CachedObject, Claim, Flight, Found, Landing, Touch, block_cost, block_len, blocks_of,
};
use crate::error::{Error, Kind, Result};
use crate::key::Key;
use crate::s3::{ETag, ObjectId, ObjectMeta, S3};

/// Objects up to this many bytes are fetched whole by the first read: one request costs more than the bytes.
const SMALL: u64 = 1024 * 1024;
/// A stream that was not read for this long no longer takes its share of the read-ahead.
const STREAM_IDLE: Duration = Duration::from_secs(5);
/// Streams that share the read-ahead at most; with more of them the shares are too small to matter.
const STREAMS_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// How often a read claims a block anew because whoever fetched it was cancelled.
const CLAIMS_MAX: u32 = 8;

/// One version of an object and its size in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub id: ObjectId,
    pub size: u64,
}

impl Object {
    /// What `meta`, the answer to a HEAD or GET of `key`, describes.
    pub fn of(key: &Key, meta: &ObjectMeta) -> Object {
        Object {
            id: ObjectId { key: key.clone(), etag: meta.etag.clone(), version: meta.version.clone() },
            size: meta.size,
        }
    }
}

#[derive(Clone, Debug)]
pub struct ReadSettings {
    /// Bytes read ahead per handle; 0 turns reading ahead off.
    pub max_readahead: usize,
    /// Bytes per GET.
    pub get_size: usize,
    /// Parallel GETs for reading ahead, over all handles.
    pub max_gets: usize,
    /// Deadline of one read.
    pub patience: Duration,
    /// Looked into before the store is asked, and given what comes from there.
    pub disk: Option<Arc<DiskCache>>,
}

impl Default for ReadSettings {
    fn default() -> Self {
        ReadSettings {
            // As many GETs as there may be.
            max_readahead: 128 * 1024 * 1024,
            // Where the request overhead of stores is below one part in a hundred.
            get_size: 8 * 1024 * 1024,
            max_gets: 16,
            patience: Duration::from_secs(60),
            disk: None,
        }
    }
}

/// The engine, one per bucket of a mount.
pub struct Reads {
    s3: S3,
    cache: Arc<BlockCache>,
    settings: ReadSettings,
    runtime: Handle,
    /// GETs for reading ahead.
    gets: Arc<Semaphore>,
    /// GETs for objects that are fetched whole: fewer, because reads that miss go on meanwhile.
    whole_gets: Arc<Semaphore>,
    /// Blocks being read ahead: they cannot be reclaimed, so they may be only a part of the budget.
    ahead: Arc<Semaphore>,
    /// When each streaming reader was last active.
    streams: Arc<Mutex<LruCache<u64, Instant>>>,
    next_reader: Arc<AtomicU64>,
    speed: Arc<Mutex<Speed>>,
    replies: Arc<Replies>,
    /// The random reads of the versions read last, by their tag.
    scatters: Mutex<LruCache<u64, Scatter>>,
}

/// A block a read is about to use.
enum Slot {
    Ready(Bytes),
    Wait { flight: Flight, own: bool },
}

impl Reads {
    /// Must be called inside a tokio runtime: fetches run there, whoever asks for them.
    pub fn new(s3: S3, cache: Arc<BlockCache>, settings: ReadSettings) -> Arc<Reads> {
        let ahead = (cache.budget().limit() / 2 / BLOCK).clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Reads {
            s3,
            runtime: Handle::current(),
            gets: Arc::new(Semaphore::new(settings.max_gets.min(Semaphore::MAX_PERMITS))),
            whole_gets: Arc::new(Semaphore::new(settings.max_gets.div_ceil(2).min(Semaphore::MAX_PERMITS))),
            ahead: Arc::new(Semaphore::new(ahead)),
            streams: Arc::new(Mutex::new(LruCache::new(STREAMS_MAX))),
            next_reader: Arc::new(AtomicU64::new(1)),
            speed: Arc::default(),
            replies: Arc::default(),
            scatters: Mutex::new(LruCache::new(STREAMS_MAX)),
            cache,
            settings,
        })
    }

    /// The engine for another bucket, within the bounds of this one: what both have under way counts together.
    pub fn beside(&self, s3: S3, cache: Arc<BlockCache>, disk: Option<Arc<DiskCache>>) -> Arc<Reads> {
        Arc::new(Reads {
            s3,
            cache,
            settings: ReadSettings { disk, ..self.settings.clone() },
            runtime: self.runtime.clone(),
            gets: self.gets.clone(),
            whole_gets: self.whole_gets.clone(),
            ahead: self.ahead.clone(),
            streams: self.streams.clone(),
            next_reader: self.next_reader.clone(),
            speed: self.speed.clone(),
            replies: self.replies.clone(),
            scatters: Mutex::new(LruCache::new(STREAMS_MAX)),
        })
    }

    pub fn cache(&self) -> &Arc<BlockCache> {
        &self.cache
    }

    /// Bytes per GET: as set, but never so much that a few GETs take the whole budget. A multiple of [`BLOCK`].
    fn get_size(&self) -> u64 {
        let size = self.settings.get_size.min(self.cache.budget().limit() / 8);
        (size / BLOCK * BLOCK).max(BLOCK) as u64
    }

    /// Bytes that are worth reading ahead of one of so many streams: stores that limit the speed of a connection want many
    /// of them, and where a few fill the line more would only fill the memory.
    fn useful_window(&self, streams: usize) -> u64 {
        let connections = self.speed.lock().connections(self.settings.max_gets as u64, streams as u64);
        connections.max(1) * self.get_size()
    }

    /// One GET without `If-Match` of the first block: what the object is now, with block 0 on its way into the cache.
    /// A HEAD instead when block 0 of a version is cached already (it most likely still is that version), when
    /// memory is short, and after the GET for an empty object.
    pub async fn open_fresh(self: &Arc<Self>, key: &Key, version: Option<&str>) -> Result<ObjectMeta> {
        let deadline = self.settings.patience;
        match tokio::time::timeout(deadline, self.open_now(key, version)).await {
            Ok(meta) => meta,
            Err(_) => Err(Error::new(Kind::Timeout, "open object").with_key(key)),
        }
    }

    async fn open_now(self: &Arc<Self>, key: &Key, version: Option<&str>) -> Result<ObjectMeta> {
        if self.cache.has_first_block(key) {
            return self.s3.head(key, version).await;
        }
        let Some(lease) = self.cache.budget().try_lease(block_cost(BLOCK)) else {
            return self.s3.head(key, version).await;
        };
        match self.first_block(key, version, None, lease).await {
            Err(e) if e.kind() == Kind::Range => self.s3.head(key, version).await,
            done => done,
        }
    }

    /// As [`Reads::open_fresh`], of the version that a listing showed (`etag`; `None`: the listing told none) with `size`
    /// bytes, for somebody who will come for it: waits for no memory.
    ///
    /// Errors: [`Kind::Stale`] when it is another version now, [`Kind::NoMemory`].
    pub async fn open_ahead(self: &Arc<Self>, key: &Key, etag: Option<&ETag>, size: u64) -> Result<ObjectMeta> {
        let look = async {
            if self.cache.has_first_block(key) {
                return self.s3.head(key, None).await;
            }
            let len = if etag.is_some() { size.min(BLOCK as u64) as usize } else { BLOCK };
            match self.cache.budget().try_lease(block_cost(len)) {
                Some(lease) => self.first_block(key, None, etag, lease).await,
                None => Err(Error::new(Kind::NoMemory, "fetch ahead").with_key(key)),
            }
        };
        match tokio::time::timeout(self.settings.patience, look).await {
            Ok(meta) => meta,
            Err(_) => Err(Error::new(Kind::Timeout, "fetch ahead").with_key(key)),
        }
    }

    /// Whether anything may be fetched that nobody has asked for.
    pub fn reads_ahead(&self) -> bool {
        self.settings.max_readahead > 0
    }

    /// One GET of the first block. `lease` is worth that block.
    async fn first_block(
        self: &Arc<Self>,
        key: &Key,
        version: Option<&str>,
        if_match: Option<&ETag>,
        lease: Lease,
    ) -> Result<ObjectMeta> {
        let got = self.s3.get(key, Some(0..BLOCK as u64), if_match, version).await?;
        let meta = got.meta.clone();
        let object = Object::of(key, &meta);
        if meta.size == 0 || got.range != (0..meta.size.min(BLOCK as u64)) {
            return Ok(meta);
        }
        let cached = self.cache.object(&object.id);
        let claims = self.cache.claim_absent(&cached, 0..1);
        if claims.is_empty() {
            return Ok(meta);
        }
        let run = Run { claims };
        // A short block gives the rest of the lease back.
        let lease = { lease }.split(run.cost(object.size));
        self.runtime.spawn(self.clone().fetch(object, cached, run, lease, Some(got)));
        Ok(meta)
    }

    /// Bytes just written by us under a new id: keeps them as cached blocks, as far as spare memory allows.
    /// Only whole blocks are kept: those that `bytes`, which starts at `offset`, covers up to their end.
    pub fn remember(&self, object: &Object, offset: u64, bytes: &Bytes) {
        let end = offset.saturating_add(bytes.len() as u64).min(object.size);
        let first = offset.div_ceil(BLOCK as u64);
        let last = if end == object.size { end.div_ceil(BLOCK as u64) } else { end / BLOCK as u64 };
        if first >= last {
            return;
        }
        let kept = self.kept(object);
        let cached = self.cache.object(&object.id);
        for claim in self.cache.claim_absent(&cached, first..last) {
            let len = block_len(claim.index(), object.size);
            // Inside `bytes`: the block starts at or after `offset` and ends at or before `end`.
            let from = (claim.index() * BLOCK as u64 - offset) as usize;
            // Claims that find no memory are dropped, which sets their blocks free.
            let Some(lease) = self.cache.budget().spare_lease(block_cost(len)) else { return };
            let mut buffer = self.cache.buffer(len, lease);
            buffer.fill(&bytes[from..from + len]);
            let data = buffer.freeze();
            if let Some(kept) = &kept {
                kept.keep(claim.index(), &data);
            }
            claim.fill(data);
        }
    }

    /// One per open handle.
    pub fn reader(self: &Arc<Self>, object: Object) -> Reader {
        Reader::new(self.clone(), object)
    }

    /// `range` of `object` through the cache, without reading ahead. Beyond the end there is nothing.
    pub async fn range(self: &Arc<Self>, object: &Object, range: Range<u64>) -> Result<Bytes> {
        let range = range.start..range.end.min(object.size);
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let cached = self.cache.object(&object.id);
        let mut out = BytesMut::with_capacity((range.end - range.start) as usize);
        let mut at = range.start;
        // Step by step, so that a long range never holds more blocks than one GET.
        let step = self.get_size();
        while at < range.end {
            let end = step_end(at, step).min(range.end);
            let gather = async {
                let (slots, _) = self.demand(object, &cached, blocks_of(&(at..end)), Touch::Keep, None, &mut |task| {
                    self.runtime.spawn(task);
                });
                self.gather(object, &cached, at..end, slots, &mut |data| out.extend_from_slice(data)).await
            };
            match tokio::time::timeout(self.settings.patience, gather).await {
                Ok(done) => done?,
                Err(_) => return Err(Error::new(Kind::Timeout, "read object").with_key(&object.id.key)),
            }
            at = end;
        }
        Ok(out.freeze())
    }

    /// Looks the blocks `indexes` up and starts GETs for the missing ones, together with the absent ones of `extra`
    /// if memory allows; tells whether it did.
    fn demand(
        self: &Arc<Self>,
        object: &Object,
        cached: &Arc<CachedObject>,
        indexes: Range<u64>,
        touch: Touch,
        extra: Option<Range<u64>>,
        spawn: &mut dyn FnMut(Fetch),
    ) -> (Vec<Slot>, bool) {
        let mut claims = Vec::new();
        let slots = self
            .cache
            .find(cached, indexes, touch)
            .into_iter()
            .map(|found| match found {
                Found::Ready(data) => Slot::Ready(data),
                Found::Pending(flight) => Slot::Wait { flight, own: false },
                Found::Claimed(claim) => {
                    let flight = claim.flight();
                    claims.push(claim);
                    Slot::Wait { flight, own: true }
                }
            })
            .collect();
        if claims.is_empty() {
            return (slots, false);
        }
        let mut extra_lease = None;
        if let Some(extra) = extra {
            let more = self.cache.claim_absent(cached, extra);
            let cost = more.iter().map(|c| block_cost(block_len(c.index(), object.size))).sum();
            extra_lease = self.cache.budget().try_lease(cost);
            if extra_lease.is_some() {
                claims.extend(more);
                claims.sort_by_key(Claim::index);
            }
        }
        let with_extra = extra_lease.is_some();
        let runs = runs(claims, self.get_size() / BLOCK as u64);
        let cost: usize = runs.iter().map(|r| r.cost(object.size)).sum();
        let missing = cost - extra_lease.as_ref().map_or(0, Lease::bytes);
        if let Some(mut lease) = self.cache.budget().try_lease(missing) {
            if let Some(extra) = extra_lease {
                lease.merge(extra);
            }
            for run in runs {
                let lease = lease.split(run.cost(object.size));
                spawn(Box::pin(self.clone().fetch(object.clone(), cached.clone(), run, lease, None)));
            }
        } else {
            drop(extra_lease);
            spawn(Box::pin(self.clone().fetch_when_leased(object.clone(), cached.clone(), runs)));
        }
        (slots, with_extra)
    }

    /// Waits for `slots`, the blocks of `range`, in order and gives their bytes to `take`.
    async fn gather(
        self: &Arc<Self>,
        object: &Object,
        cached: &Arc<CachedObject>,
        range: Range<u64>,
        slots: Vec<Slot>,
        take: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<()> {
        for (index, slot) in blocks_of(&range).zip(slots) {
            let data = self.block(object, cached, index, slot).await?;
            take(within(&range, index, &data)?);
        }
        Ok(())
    }

    /// Waits for one block. Somebody else's failure is not ours: it is tried once more in our own name.
    async fn block(
        self: &Arc<Self>,
        object: &Object,
        cached: &Arc<CachedObject>,
        index: u64,
        mut slot: Slot,
    ) -> Result<Bytes> {
        let mut claims = 0;
        let mut failed_once = false;
        loop {
            let (flight, own) = match slot {
                Slot::Ready(data) => return Ok(data),
                Slot::Wait { flight, own } => (flight, own),
            };
            match flight.wait().await {
                Landing::Ready(data) => return Ok(data),
                Landing::Failed(e) => {
                    let passing = matches!(e.kind(), Kind::Unavailable | Kind::Timeout | Kind::Io | Kind::NoMemory);
                    if own || failed_once || !passing {
                        return Err(e);
                    }
                    failed_once = true;
                }
                Landing::Abandoned if claims >= CLAIMS_MAX => {
                    return Err(Error::new(Kind::Unavailable, "read object: cancelled").with_key(&object.id.key));
                }
                Landing::Abandoned => claims += 1,
            }
            if let Some(e) = cached.stale() {
                return Err(e.clone());
            }
            let (mut again, _) = self.demand(object, cached, index..index + 1, Touch::Keep, None, &mut |task| {
                self.runtime.spawn(task);
            });
            slot = match again.pop() {
                Some(slot) => slot,
                None => return Err(Error::new(Kind::Io, "read object: no such block").with_key(&object.id.key)),
            };
        }
    }

    /// How many streams are active, `reader` being one of them.
    fn streaming(&self, reader: u64) -> usize {
        let now = Instant::now();
        let mut streams = self.streams.lock();
        streams.put(reader, now);
        while streams.peek_lru().is_some_and(|(_, used)| now.duration_since(*used) > STREAM_IDLE) {
            streams.pop_lru();
        }
        streams.len().max(1)
    }

    /// Whether an object of `size` bytes may be in memory as a whole, or on the disk.
    fn fits(&self, size: u64) -> bool {
        let on_disk = || self.settings.disk.as_ref().is_some_and(|disk| disk.keeps(size));
        self.settings.max_readahead > 0 && (size <= (self.cache.budget().limit() / 2) as u64 || on_disk())
    }

    /// Bytes to fetch after what a random read misses.
    fn reach(&self, cached: &CachedObject, size: u64) -> u64 {
        if !self.fits(size) {
            return 0;
        }
        let speed = *self.speed.lock();
        self.scatters.lock().peek(&cached.tag()).map_or(0, |s| s.reach(speed))
    }

    /// A random read of `size` bytes at `offset` has waited for so long; whether to fetch the whole object now.
    fn missed(&self, cached: &CachedObject, offset: u64, size: u64, waited: Duration) -> bool {
        let whole = self.speed.lock().cost(size, self.get_size());
        self.scatters.lock().get_or_insert_mut(cached.tag(), Scatter::default).missed(offset, size, waited, whole)
    }

    fn new_reader(&self) -> u64 {
        self.next_reader.fetch_add(1, Ordering::Relaxed)
    }
}

/// A fetch, ready to be spawned.
type Fetch = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where a step of about `step` bytes from `at` ends: at a block.
fn step_end(at: u64, step: u64) -> u64 {
    (at / BLOCK as u64).saturating_mul(BLOCK as u64).saturating_add(step)
}

/// The part of block `index`, whose bytes are `data`, that lies in `range`.
fn within<'a>(range: &Range<u64>, index: u64, data: &'a [u8]) -> Result<&'a [u8]> {
    let part = part_of(range, index);
    data.get(part).ok_or_else(|| Error::new(Kind::Io, "read object: a block is too short"))
}

/// Positions inside block `index` that lie in `range`.
fn part_of(range: &Range<u64>, index: u64) -> Range<usize> {
    let start = index * BLOCK as u64;
    let from = range.start.saturating_sub(start).min(BLOCK as u64) as usize;
    let to = range.end.saturating_sub(start).min(BLOCK as u64) as usize;
    from..to
}

//! One open handle: its pattern, its read-ahead, its two ways to read.
//!
//! Locks: `pattern` is held over the synchronous part of a read (look, claim, spawn), `whole` while GETs of all of the
//! object are started, neither across an await nor inside the other; the cache's and the budget's locks are taken inside.

use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::fetch::runs;
use super::pattern::{Access, Bounds, Pattern, Wish};
use super::{Fetch, Object, Reads, SMALL, Slot, part_of, step_end, within};
use crate::cache::{BLOCK, CachedObject, Touch, blocks_of};
use crate::error::{Error, Kind, Result};

/// Reads up to so many bytes are one step, so that all their GETs are sent at once: the kernel's largest request.
const STEP_MIN: u64 = 1024 * 1024;

/// Reads one version of an object. Dropping it cancels what it was reading ahead.
pub struct Reader {
    inner: Arc<Inner>,
}

struct Inner {
    me: Weak<Inner>,
    reads: Arc<Reads>,
    object: Object,
    cached: Arc<CachedObject>,
    number: u64,
    pattern: Mutex<Pattern>,
    /// Up to where the object was asked for, while all of it is being fetched.
    whole: Mutex<Option<u64>>,
    /// GETs of this handle; aborted with it. Whoever else waits for one of their blocks claims it anew.
    tasks: Mutex<JoinSet<()>>,
}

impl Reader {
    pub(super) fn new(reads: Arc<Reads>, object: Object) -> Reader {
        let cached = reads.cache.object(&object.id);
        cached.enter();
        let inner = Arc::new_cyclic(|me| Inner {
            me: me.clone(),
            cached,
            number: reads.new_reader(),
            reads,
            object,
            pattern: Mutex::default(),
            whole: Mutex::default(),
            tasks: Mutex::default(),
        });
        Reader { inner }
    }

    pub fn object(&self) -> &Object {
        &self.inner.object
    }

    /// Everything asked for, when all of it is in memory. Never waits; also feeds the read-ahead.
    pub fn read_cached(&self, offset: u64, len: usize) -> Option<Bytes> {
        let i = &*self.inner;
        let range = i.clip(offset, len);
        if range.is_empty() {
            return Some(Bytes::new());
        }
        if i.cached.stale().is_some() {
            return None;
        }
        let indexes = blocks_of(&range);
        let mut pattern = i.pattern.lock();
        let streaming = pattern.is_streaming_at(range.start);
        let touch = if streaming { Touch::Keep } else { Touch::Young };
        let mut blocks = i.reads.cache.all_ready(&i.cached, indexes.clone(), touch)?;
        let access = pattern.note(range.start, range.end);
        i.leave_behind(&mut pattern, access);
        i.read_ahead(&mut pattern, Some(access));
        drop(pattern);
        if blocks.len() == 1 {
            let block = blocks.pop()?;
            let part = part_of(&range, indexes.start);
            return (part.end <= block.len()).then(|| block.slice(part));
        }
        let mut out = i.reads.replies.take((range.end - range.start) as usize);
        for (index, block) in indexes.zip(blocks) {
            out.push(within(&range, index, &block).ok()?);
        }
        Some(out.freeze())
    }

    /// Short only at the end of the object.
    ///
    /// Errors: [`Kind::Stale`] when the object is another one now, [`Kind::Timeout`] after `patience`, and what the
    /// store says otherwise.
    pub async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        let i = &*self.inner;
        let range = i.clip(offset, len);
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        if let Some(e) = i.cached.stale() {
            return Err(e.clone());
        }
        match tokio::time::timeout(i.reads.settings.patience, i.read(range)).await {
            Ok(done) => done,
            Err(_) => Err(Error::new(Kind::Timeout, "read object").with_key(&i.object.id.key)),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.cached.leave();
    }
}

impl Inner {
    fn clip(&self, offset: u64, len: usize) -> Range<u64> {
        let end = offset.saturating_add(len as u64).min(self.object.size);
        offset.min(end)..end
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let step = self.reads.get_size().max(STEP_MIN);
        if range.end <= step_end(range.start, step) {
            return self.read_step(range).await;
        }
        // A long read never holds more blocks than one GET; read-ahead keeps the next ones coming.
        let mut out = BytesMut::with_capacity((range.end - range.start) as usize);
        let mut at = range.start;
        while at < range.end {
            let end = step_end(at, step).min(range.end);
            out.extend_from_slice(&self.read_step(at..end).await?);
            at = end;
        }
        Ok(out.freeze())
    }

    async fn read_step(&self, range: Range<u64>) -> Result<Bytes> {
        let begun = Instant::now();
        let (slots, streaming) = self.start(&range);
        let missed = !streaming && slots.iter().any(|slot| matches!(slot, Slot::Wait { .. }));
        let offset = range.start;
        let done = self.finish(range, slots).await;
        if missed && done.is_ok() {
            self.missed(offset, begun.elapsed());
        }
        done
    }

    /// A read that is no part of a stream has waited for the store.
    fn missed(&self, offset: u64, waited: Duration) {
        let size = self.object.size;
        if self.reads.fits(size) && self.reads.missed(&self.cached, offset, size, waited) {
            tracing::debug!(key = %self.object.id.key, size, "read all over: the rest is fetched");
            *self.whole.lock() = Some(0);
            self.fetch_whole();
        }
    }

    /// Goes on with fetching all of the object, as far as slots and memory are free right now.
    fn fetch_whole(&self) {
        let mut whole = self.whole.lock();
        while let Some(start) = *whole {
            let end = (start + self.reads.get_size()).min(self.object.size);
            let asked = if start < end { self.fetch_ahead(start..end, &self.reads.whole_gets) } else { end };
            *whole = (asked < self.object.size).then_some(asked);
            if asked < end {
                return;
            }
        }
    }

    async fn finish(&self, range: Range<u64>, mut slots: Vec<Slot>) -> Result<Bytes> {
        let indexes = blocks_of(&range);
        if slots.len() == 1
            && let Some(slot) = slots.pop()
        {
            let block = self.reads.block(&self.object, &self.cached, indexes.start, slot).await?;
            let part = part_of(&range, indexes.start);
            if part.end > block.len() {
                return Err(Error::new(Kind::Io, "read object: a block is too short").with_key(&self.object.id.key));
            }
            return Ok(block.slice(part));
        }
        let mut out = self.reads.replies.take((range.end - range.start) as usize);
        let mut take = |data: &[u8]| out.push(data);
        self.reads.gather(&self.object, &self.cached, range, slots, &mut take).await?;
        Ok(out.freeze())
    }

    /// The synchronous part of a read: starts the GETs that are needed and those that are wished for. Also tells whether
    /// it is part of a stream.
    fn start(&self, range: &Range<u64>) -> (Vec<Slot>, bool) {
        let indexes = blocks_of(range);
        let blocks = self.object.size.div_ceil(BLOCK as u64);
        let mut pattern = self.pattern.lock();
        let access = pattern.note(range.start, range.end);
        let touch = if access.streaming { Touch::Keep } else { Touch::Young };
        self.leave_behind(&mut pattern, access);
        // Blocks that are missed and blocks that are wished for are neighbours: one GET.
        let mut asked = None;
        let extra = if self.object.size <= SMALL {
            Some(0..blocks)
        } else if access.streaming {
            let wish = self.wish(&pattern, Some(access)).filter(|w| w.range.start == indexes.end * BLOCK as u64);
            asked = wish.map(|w| w.range.end);
            Some(access.from / BLOCK as u64..asked.map_or(indexes.end, |end| end.div_ceil(BLOCK as u64)))
        } else {
            let reach = self.reads.reach(&self.cached, self.object.size) / BLOCK as u64;
            (reach > 0).then(|| indexes.end..(indexes.end + reach).min(blocks))
        };
        let spawn = &mut |task| self.spawn(task);
        let (slots, with_extra) = self.reads.demand(&self.object, &self.cached, indexes, touch, extra, spawn);
        if let Some(end) = asked.filter(|_| with_extra) {
            pattern.asked_to(access, end);
        }
        self.read_ahead(&mut pattern, Some(access));
        drop(pattern);
        self.fetch_whole();
        (slots, access.streaming)
    }

    /// Gives up what a stream has passed: the kernel has it in pages of its own, which it can drop when it needs to,
    /// and memory used a moment ago takes the next bytes faster than memory never used.
    fn leave_behind(&self, pattern: &mut Pattern, access: Access) {
        if self.cached.readers() == 1
            && let Some(passed) = pattern.passed(access)
        {
            self.reads.cache.give_up(&self.cached, blocks_of(&passed));
        }
    }

    fn spawn(&self, task: Fetch) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(task, &self.reads.runtime);
    }

    fn wish(&self, pattern: &Pattern, access: Option<Access>) -> Option<Wish> {
        if access.is_some_and(|a| !a.streaming) || self.reads.settings.max_readahead == 0 {
            return None;
        }
        let streams = self.reads.streaming(self.number);
        let share = self.reads.cache.budget().limit() / 3 / streams;
        let window = (self.reads.settings.max_readahead.min(share) as u64).min(self.reads.useful_window(streams));
        let bounds = Bounds { size: self.object.size, window, get: self.reads.get_size() };
        match access {
            Some(access) => pattern.wish(access, bounds),
            None => pattern.any_wish(bounds),
        }
    }

    /// Starts GETs for what the pattern wishes, as far as slots and memory are free right now.
    fn read_ahead(&self, pattern: &mut Pattern, access: Option<Access>) {
        while let Some(wish) = self.wish(pattern, access) {
            let start = wish.range.start;
            let end = wish.range.end;
            let asked = self.fetch_ahead(start..end, &self.reads.gets);
            if asked > start {
                pattern.asked(&wish, asked);
            }
            if asked < end {
                return;
            }
        }
    }

    /// Starts GETs for the absent blocks of `range`, as many as `slots` has; returns up to where everything is there or on its way.
    fn fetch_ahead(&self, range: Range<u64>, slots: &Arc<Semaphore>) -> u64 {
        let reads = &self.reads;
        let claims = reads.cache.claim_absent(&self.cached, blocks_of(&range));
        for run in runs(claims, reads.get_size() / BLOCK as u64) {
            // Ends the loop when there is no slot or no memory: the remaining claims are dropped, hence free again.
            let here = run.claims.first().map_or(range.end, |c| c.index() * BLOCK as u64);
            let blocks = run.claims.len() as u32;
            let Ok(get) = slots.clone().try_acquire_owned() else { return here };
            let Ok(ahead) = reads.ahead.clone().try_acquire_many_owned(blocks) else { return here };
            let Some(lease) = reads.cache.budget().try_lease(run.cost(self.object.size)) else { return here };
            let fetch = reads.clone().fetch(self.object.clone(), self.cached.clone(), run, lease, None);
            let me = self.me.clone();
            self.spawn(Box::pin(async move {
                fetch.await;
                drop((get, ahead));
                if let Some(me) = me.upgrade() {
                    me.read_ahead(&mut me.pattern.lock(), None);
                    me.fetch_whole();
                }
            }));
        }
        range.end
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("object", &self.inner.object).finish_non_exhaustive()
    }
}

const _: fn() = || {
    fn both<T: Send + Sync>() {}
    both::<Reader>();
    both::<Reads>();
};

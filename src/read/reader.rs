//! One open handle: its pattern, its read-ahead, its two ways to read.
//!
//! Lock: `pattern` is held over the synchronous part of a read (look, claim, spawn), never across an await; the
//! cache's and the budget's locks are taken inside it.

use std::ops::Range;
use std::sync::{Arc, Weak};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
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
        let mut out = BytesMut::with_capacity((range.end - range.start) as usize);
        for (index, block) in indexes.zip(blocks) {
            out.extend_from_slice(within(&range, index, &block).ok()?);
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
        let indexes = blocks_of(&range);
        let mut slots = self.start(&range);
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
        let mut out = BytesMut::with_capacity((range.end - range.start) as usize);
        let mut take = |data: &[u8]| out.extend_from_slice(data);
        self.reads.gather(&self.object, &self.cached, range, slots, &mut take).await?;
        Ok(out.freeze())
    }

    /// The synchronous part of a read: starts the GETs that are needed and those that are wished for.
    fn start(&self, range: &Range<u64>) -> Vec<Slot> {
        let indexes = blocks_of(range);
        let mut pattern = self.pattern.lock();
        let access = pattern.note(range.start, range.end);
        let touch = if access.streaming { Touch::Keep } else { Touch::Young };
        self.leave_behind(&mut pattern, access);
        let mut extra = None;
        if self.object.size <= SMALL {
            extra = Some(0..self.object.size.div_ceil(BLOCK as u64));
        } else if let Some(wish) = self.wish(&pattern, Some(access))
            && wish.range.start == indexes.end * BLOCK as u64
        {
            // Blocks that are missed and blocks that are wished for are neighbours: one GET.
            let end = wish.range.end.min(indexes.start * BLOCK as u64 + wish.get).div_ceil(BLOCK as u64);
            if end > indexes.end {
                extra = Some(indexes.end..end);
            }
        }
        let grown = extra.clone();
        let spawn = &mut |task| self.spawn(task);
        let (slots, with_extra) = self.reads.demand(&self.object, &self.cached, indexes, touch, extra, spawn);
        if let Some(grown) = grown.filter(|_| with_extra) {
            pattern.asked_to(access, (grown.end * BLOCK as u64).min(self.object.size));
        }
        self.read_ahead(&mut pattern, Some(access));
        slots
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
        let share = self.reads.cache.budget().limit() / 3 / self.reads.streaming(self.number);
        let window = self.reads.settings.max_readahead.min(share) as u64;
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
            let end = wish.range.end.min(start + wish.get);
            let asked = self.fetch_ahead(start..end);
            if asked > start {
                pattern.asked(&wish, asked);
            }
            if asked < end {
                return;
            }
        }
    }

    /// Starts GETs for the absent blocks of `range`; returns up to where everything is there or on its way.
    fn fetch_ahead(&self, range: Range<u64>) -> u64 {
        let reads = &self.reads;
        let claims = reads.cache.claim_absent(&self.cached, blocks_of(&range));
        for run in runs(claims, reads.get_size() / BLOCK as u64) {
            // Ends the loop when there is no slot or no memory: the remaining claims are dropped, hence free again.
            let here = run.claims.first().map_or(range.end, |c| c.index() * BLOCK as u64);
            let blocks = run.claims.len() as u32;
            let Ok(get) = reads.gets.clone().try_acquire_owned() else { return here };
            let Ok(ahead) = reads.ahead.clone().try_acquire_many_owned(blocks) else { return here };
            let Some(lease) = reads.cache.budget().try_lease(run.cost(self.object.size)) else { return here };
            let fetch = reads.clone().fetch(self.object.clone(), self.cached.clone(), run, lease, None);
            let me = self.me.clone();
            self.spawn(Box::pin(async move {
                fetch.await;
                drop((get, ahead));
                if let Some(me) = me.upgrade() {
                    me.read_ahead(&mut me.pattern.lock(), None);
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

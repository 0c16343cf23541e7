//! The thread that writes: a bounded queue of blocks, taken in order, neighbours together.
//!
//! What does not fit into the queue is not kept. Blocks in the queue hold their memory, so the queue is a small part of
//! the budget; a store that is faster than the disk fills it and leaves holes, which the next reader fills.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::entry::{Entry, Incoming, Version};
use super::place::SUMS;
use super::{Inner, Slot};
use crate::budget::Lease;
use crate::cache::BLOCK;
use crate::error::{Error, Kind, Result};
use crate::s3::ObjectId;

/// Blocks written in one go: 8 MiB.
const TOGETHER: usize = 64;
/// How often the room on the file system is asked for again.
const ROOM_FOR: Duration = Duration::from_millis(200);
/// Part of the size that may be written on top of it while room is being made, and before it is known what is there.
const TOLERANCE: u64 = 8;
/// How long the first walk is waited for, and how often somebody looks.
const FIRST_WALK: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(10);

struct Block {
    index: u64,
    data: Bytes,
    _lease: Option<Lease>,
}

enum Item {
    Block(Arc<Version>, Block),
    Part(Arc<UploadState>, Block),
    /// An upload is complete, as this version.
    Arrived(Arc<UploadState>, Option<Arc<Version>>),
    Forget(Arc<Version>),
    /// The second has the bytes of the first, which is no more.
    Became(Arc<Version>, Arc<Version>),
}

#[derive(Default)]
struct Waiting {
    items: VecDeque<Item>,
    bytes: usize,
    /// The thread works on what it took.
    busy: bool,
    stop: bool,
}

/// What waits to be written.
pub(super) struct Queue {
    limit: usize,
    waiting: Mutex<Waiting>,
    came: Condvar,
    emptied: Condvar,
}

impl Queue {
    pub fn new(limit: usize) -> Queue {
        Queue { limit, waiting: Mutex::default(), came: Condvar::new(), emptied: Condvar::new() }
    }

    fn push(&self, bytes: usize, item: Item) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.stop || bytes > 0 && waiting.bytes + bytes > self.limit {
            return false;
        }
        waiting.bytes += bytes;
        waiting.items.push_back(item);
        drop(waiting);
        self.came.notify_one();
        true
    }

    pub fn block(&self, version: &Arc<Version>, index: u64, data: Bytes, lease: Option<Lease>) -> bool {
        self.push(data.len(), Item::Block(version.clone(), Block { index, data, _lease: lease }))
    }

    pub fn forget(&self, version: &Arc<Version>) {
        self.push(0, Item::Forget(version.clone()));
    }

    pub fn became(&self, old: &Arc<Version>, new: &Arc<Version>) {
        self.push(0, Item::Became(old.clone(), new.clone()));
    }

    pub fn stop(&self) {
        let mut waiting = self.waiting.lock();
        waiting.stop = true;
        let left = std::mem::take(&mut waiting.items);
        waiting.bytes = 0;
        drop(waiting);
        drop(left);
        self.came.notify_all();
        self.emptied.notify_all();
    }

    pub fn wait_empty(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut waiting = self.waiting.lock();
        while waiting.busy || !waiting.items.is_empty() {
            if self.emptied.wait_until(&mut waiting, deadline).timed_out() {
                return !waiting.busy && waiting.items.is_empty();
            }
        }
        true
    }

    /// The next items: one, or adjacent blocks of a version. `None`: it is over.
    fn next(&self) -> Option<Vec<Item>> {
        let mut waiting = self.waiting.lock();
        waiting.busy = false;
        loop {
            if waiting.stop {
                return None;
            }
            if !waiting.items.is_empty() {
                break;
            }
            self.emptied.notify_all();
            self.came.wait(&mut waiting);
        }
        waiting.busy = true;
        let mut taken: Vec<Item> = waiting.items.pop_front().into_iter().collect();
        while taken.len() < TOGETHER
            && let (Some(last), Some(next)) = (taken.last(), waiting.items.front())
            && is_next(last, next)
        {
            taken.extend(waiting.items.pop_front());
        }
        waiting.bytes -= taken.iter().map(Item::bytes).sum::<usize>();
        Some(taken)
    }
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Item::Block(_, block) | Item::Part(_, block) => block.data.len(),
            Item::Arrived(..) | Item::Forget(_) | Item::Became(..) => 0,
        }
    }
}

fn is_next(item: &Item, next: &Item) -> bool {
    match (item, next) {
        (Item::Block(a, x), Item::Block(b, y)) => a.name == b.name && x.index + 1 == y.index,
        _ => false,
    }
}

/// The file of an upload, made by its first block.
struct UploadState {
    file: Mutex<Option<Arc<Incoming>>>,
}

/// An object that is being uploaded, on its way into the cache. Dropped before it arrived, it is gone.
pub struct Upload {
    inner: Weak<Inner>,
    /// As [`super::DiskSettings::store`].
    store: String,
    state: Arc<UploadState>,
    done: bool,
}

impl Upload {
    pub(super) fn new(inner: &Arc<Inner>, store: &str) -> Upload {
        let state = Arc::new(UploadState { file: Mutex::default() });
        Upload { inner: Arc::downgrade(inner), store: store.to_owned(), state, done: false }
    }

    /// Bytes of the object from `offset` on: the whole blocks among them are kept, and what is behind the last of them
    /// when it is `end`, the end of the object.
    pub fn keep(&self, mut offset: u64, pieces: &[Bytes], end: Option<u64>) {
        let Some(inner) = self.inner.upgrade() else { return };
        // Pieces are put together only where they are ragged.
        let mut open: Vec<u8> = Vec::new();
        let mut skip = offset.next_multiple_of(BLOCK as u64) - offset;
        for piece in pieces {
            let skipped = (skip.min(piece.len() as u64)) as usize;
            skip -= skipped as u64;
            offset += skipped as u64;
            let mut rest = piece.slice(skipped..);
            while !rest.is_empty() {
                if open.is_empty() && rest.len() >= BLOCK {
                    self.block(&inner, offset / BLOCK as u64, rest.split_to(BLOCK));
                    offset += BLOCK as u64;
                    continue;
                }
                let n = rest.len().min(BLOCK - open.len());
                open.extend_from_slice(&rest.split_to(n));
                if open.len() == BLOCK {
                    self.block(&inner, offset / BLOCK as u64, std::mem::take(&mut open).into());
                    offset += BLOCK as u64;
                }
            }
        }
        if !open.is_empty() && end == Some(offset + open.len() as u64) {
            self.block(&inner, offset / BLOCK as u64, open.into());
        }
    }

    fn block(&self, inner: &Inner, index: u64, data: Bytes) {
        // Its memory is the uploader's, who will not wait for the disk.
        let Some(lease) = inner.budget.spare_lease(data.len()) else { return inner.drop_blocks(1) };
        let bytes = data.len();
        if !inner.queue.push(bytes, Item::Part(self.state.clone(), Block { index, data, _lease: Some(lease) })) {
            inner.drop_blocks(1);
        }
    }

    /// The store has it, as `id`.
    pub fn arrived(mut self, id: &ObjectId, size: u64) {
        self.done = true;
        let Some(inner) = self.inner.upgrade() else { return };
        let version = Version::of(&self.store, id, size);
        inner.queue.push(0, Item::Arrived(self.state.clone(), version));
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.done
            && let Some(inner) = self.inner.upgrade()
        {
            inner.queue.push(0, Item::Arrived(self.state.clone(), None));
        }
    }
}

/// A name that no other daemon has given to what comes in.
fn unique() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{}-{number:x}-{:x}", std::process::id(), now.as_nanos())
}

pub(super) fn spawn(inner: &Arc<Inner>) -> Result<()> {
    let inner = inner.clone();
    let work = move || {
        let mut writer = Writer::new(&inner);
        while let Some(items) = inner.queue.next() {
            writer.write(items);
        }
    };
    let thread = std::thread::Builder::new().name("disk-write".into()).spawn(work);
    thread.map(drop).map_err(|e| Error::new(Kind::Io, format!("start of the disk cache: {e}")))
}

pub(super) struct Writer<'a> {
    inner: &'a Inner,
    /// When the room was asked for, and what was left of it then, less what was written since.
    room: Option<(Instant, u64)>,
    /// What is left of the time to wait for the first walk: a small cache is counted in no time.
    patience: Duration,
}

impl<'a> Writer<'a> {
    pub(super) fn new(inner: &'a Inner) -> Writer<'a> {
        Writer { inner, room: None, patience: FIRST_WALK }
    }

    fn write(&mut self, items: Vec<Item>) {
        let inner = self.inner;
        let mut blocks = Vec::new();
        let mut of = None;
        for item in items {
            match item {
                Item::Block(version, block) => {
                    blocks.push(block);
                    of = Some(version);
                }
                Item::Part(upload, block) => self.part(&upload, &block),
                Item::Arrived(upload, version) => self.arrived(&upload, version.as_deref()),
                Item::Became(old, new) => self.became(&old, &new),
                Item::Forget(version) => {
                    let bytes = inner.entry(&version).map_or(0, |entry| entry.bytes());
                    inner.close(&version.name);
                    if let Some(place) = inner.place() {
                        inner.remove(&place, &version.name);
                        inner.removed(bytes);
                    }
                }
            }
        }
        let Some(version) = of else { return };
        let bytes: usize = blocks.iter().map(|b| b.data.len()).sum();
        let count = blocks.len() as u64;
        if !inner.may_write() || !self.has_room(bytes as u64) {
            return inner.drop_blocks(count);
        }
        match self.blocks(&version, &blocks) {
            Ok(true) => {
                inner.counters.written.fetch_add(count, Ordering::Relaxed);
                inner.succeeded();
            }
            Ok(false) => inner.drop_blocks(count),
            Err(e) => {
                inner.drop_blocks(count);
                inner.failed("write", &e);
            }
        }
    }

    /// False: this one is not kept whole, and has its share.
    fn blocks(&mut self, version: &Arc<Version>, blocks: &[Block]) -> std::io::Result<bool> {
        let Some(first) = blocks.first() else { return Ok(true) };
        let entry = self.inner.entry_to_write(version)?;
        let before = entry.bytes();
        let most = self.inner.whole_max();
        if version.size > most && before >= most {
            return Ok(false);
        }
        let data: Vec<Bytes> = blocks.iter().map(|b| b.data.clone()).collect();
        let written = entry.write(first.index, &data);
        self.took(entry.bytes().saturating_sub(before));
        written?;
        if entry.is_whole() && !entry.is_verified() && version.has_sums_file() {
            self.inner.sweeper.check(version);
        }
        Ok(true)
    }

    fn took(&mut self, bytes: u64) {
        self.inner.added(bytes);
        if let Some((_, room)) = &mut self.room {
            *room = room.saturating_sub(bytes);
        }
        if self.inner.bytes.load(Ordering::Relaxed) > self.inner.settings.size {
            self.inner.sweeper.make_room();
        }
    }

    /// Whether `bytes` may be written: within the size, with a little tolerance while room is being made, and leaving
    /// free what has to stay free.
    pub(super) fn has_room(&mut self, bytes: u64) -> bool {
        let inner = self.inner;
        let size = inner.settings.size;
        // Before the first walk is over, the cache may be full of what earlier mounts have left.
        while !inner.is_counted()
            && inner.bytes.load(Ordering::Relaxed) + bytes > size / TOLERANCE
            && !self.patience.is_zero()
        {
            let pause = LOOK.min(self.patience);
            self.patience -= pause;
            std::thread::sleep(pause);
        }
        let most = if inner.is_counted() { size + size / TOLERANCE } else { size / TOLERANCE };
        if inner.bytes.load(Ordering::Relaxed) + bytes > most {
            inner.sweeper.make_room();
            return false;
        }
        if self.room.is_none_or(|(at, _)| at.elapsed() > ROOM_FOR) {
            let Some(place) = inner.place() else { return false };
            self.room = Some((Instant::now(), inner.spare(&place)));
        }
        let room = self.room.is_some_and(|(_, room)| room > bytes);
        if !room {
            inner.sweeper.make_room();
        }
        room
    }

    fn part(&mut self, upload: &UploadState, block: &Block) {
        let inner = self.inner;
        // Larger objects are not taken in.
        let fits = block.index * (BLOCK as u64) < inner.whole_max();
        if !fits || !inner.may_write() || !self.has_room(block.data.len() as u64) {
            return inner.drop_blocks(1);
        }
        let file = || {
            let mut file = upload.file.lock();
            if let Some(file) = &*file {
                return Ok(file.clone());
            }
            let place = inner.place().ok_or(std::io::ErrorKind::NotFound)?;
            let made = Arc::new(Incoming::new(&place, unique())?);
            *file = Some(made.clone());
            std::io::Result::Ok(made)
        };
        match file().and_then(|file| file.write(block.index, &block.data)) {
            Ok(()) => {
                inner.counters.written.fetch_add(1, Ordering::Relaxed);
                self.took(block.data.len() as u64);
                inner.succeeded();
            }
            Err(e) => {
                inner.drop_blocks(1);
                inner.failed("write", &e);
            }
        }
    }

    fn became(&self, old: &Arc<Version>, new: &Version) {
        let inner = self.inner;
        let (Some(entry), Some(place)) = (inner.entry(old), inner.place()) else { return };
        match entry.become_version(&place, new, &unique()) {
            Ok(()) => {
                inner.close(&new.name);
                if entry.is_verified() {
                    inner.verified.lock().put(new.name.clone(), entry.inode);
                }
            }
            Err(e) => inner.failed("rename", &e),
        }
        inner.close(&old.name);
    }

    fn arrived(&self, upload: &UploadState, version: Option<&Version>) {
        let inner = self.inner;
        let Some(file) = upload.file.lock().take() else { return };
        let Some(place) = inner.place() else { return };
        match version.filter(|v| v.size <= inner.whole_max()) {
            Some(version) => match file.arrive(&place, version) {
                Ok(()) => inner.close(&version.name),
                Err(e) => {
                    let _ = place.remove_incoming(&file.name);
                    inner.failed("take in", &e);
                }
            },
            None => {
                inner.removed(file.bytes());
                let _ = place.remove_incoming(&file.name);
            }
        }
    }
}

impl Inner {
    /// Takes a version's files away; they live on for whoever has them open.
    pub(super) fn remove(&self, place: &super::Place, name: &str) {
        for name in [name.to_owned(), format!("{name}{SUMS}")] {
            if let Err(e) = place.remove(&name)
                && e.kind() != std::io::ErrorKind::NotFound
            {
                self.failed("remove", &e);
            }
        }
    }

    /// The entry of a version, for the thread that checks.
    pub(super) fn entry_to_check(&self, version: &Arc<Version>) -> Option<Arc<Entry>> {
        if let Some(Slot::Open(entry)) = self.open.lock().get(&version.name) {
            return Some(entry.clone());
        }
        self.entry(version)
    }
}

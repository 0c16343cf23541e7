//! Blocks of objects on a disk of this machine, so that they outlive memory, the mount and the machine's restart.
//!
//! 1. It only saves requests: whatever is wrong with it (full, slow, broken, gone, read-only, tampered with), reads get
//!    the same bytes from the store, and the log has a line. No block is given out whose sum does not fit.
//! 2. Nobody waits for it: blocks are queued for one writing thread ([`writer`]), and those that find the queue full are
//!    not kept. What is read has a deadline, after which the store is asked.
//! 3. It may hold millions of files and be shared by several daemons, so there is no table of what is there: the name of
//!    a version's file is a hash, and one thread walks the directory now and then to count and to evict ([`sweep`]).
//!
//! Locks are leaves, for short sections without input and output.

mod entry;
mod place;
mod sweep;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::warn;

pub use self::entry::Version;
use self::entry::{Entry, Look};
use self::place::Place;
use self::sweep::Sweeper;
use self::writer::Queue;
pub use self::writer::Upload;
use super::{BlockBuffer, BlockCache, block_cost};
use crate::budget::{Budget, Lease};
use crate::error::{Error, Kind, Result};
use crate::s3::ObjectId;

/// Versions whose files are open, two descriptors each.
const OPEN: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// Versions remembered to be whole and checked.
const VERIFIED: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");
/// How long it is believed that a version is not there: another daemon may bring it.
const ABSENCE: Duration = Duration::from_secs(10);
/// Lines about damage that the log gets at most: one in this time.
const LOG_PAUSE: Duration = Duration::from_secs(60);
/// An object larger than this share of the cache would push out everything else to be thrown out by the next one.
const WHOLE_SHARE: u64 = 4;

/// How a disk cache is set up.
#[derive(Clone, Debug)]
pub struct DiskSettings {
    pub dir: PathBuf,
    /// What tells buckets apart that share the directory: endpoint and bucket.
    pub store: String,
    /// Bytes that files may take.
    pub size: u64,
    /// Bytes of the file system that stay free.
    pub free: u64,
    /// Bytes that wait to be written at most; each holds its lease.
    pub queue: usize,
    /// Pause after a failure of the disk.
    pub retry: Duration,
}

/// Figures for `status` and metrics; counts since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskStats {
    pub dir: PathBuf,
    /// Bytes that all files of the directory take, those of other mounts, too, as far as they are counted by now.
    pub bytes: u64,
    /// Most they may.
    pub limit: u64,
    /// Blocks found, and looked for in vain.
    pub hits: u64,
    pub misses: u64,
    /// Blocks written, and those for which the disk was too slow or too full.
    pub written: u64,
    pub dropped: u64,
    /// Blocks whose sum did not fit.
    pub damaged: u64,
    /// Versions given up to make room, and the bytes they took.
    pub evicted: u64,
    pub evicted_bytes: u64,
    /// Opened files that the kernel reads from here.
    pub through: u64,
    /// Versions that walks have looked at.
    pub walked: u64,
    /// Whether `bytes` is what a walk has counted: not before the first one is over.
    pub counted: bool,
    /// Why it is not used, or not written, at the moment.
    pub trouble: Option<String>,
}

#[derive(Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    written: AtomicU64,
    dropped: AtomicU64,
    damaged: AtomicU64,
    evicted: AtomicU64,
    evicted_bytes: AtomicU64,
    through: AtomicU64,
    walked: AtomicU64,
    walks: AtomicU64,
}

/// The directory and how it fares.
struct Health {
    place: Option<Arc<Place>>,
    /// Not opened again before.
    open_from: Instant,
    /// Not read before: an answer took too long.
    read_from: Instant,
    /// Not written before.
    write_from: Instant,
    /// What the log was told of, until a write succeeds.
    trouble: Option<String>,
}

enum Slot {
    Open(Arc<Entry>),
    Absent(Instant),
}

struct Inner {
    settings: DiskSettings,
    budget: Arc<Budget>,
    health: Mutex<Health>,
    open: Mutex<LruCache<String, Slot>>,
    /// Inode numbers of data files, by name.
    verified: Mutex<LruCache<String, u64>>,
    queue: Queue,
    sweeper: Sweeper,
    /// Bytes on the disk: what the last walk found, and what has changed since.
    bytes: AtomicU64,
    counters: Counters,
    logged: Mutex<Option<Instant>>,
}

/// The disk cache of a bucket. Its threads end when the last one that [shares](DiskCache::beside) them is dropped.
pub struct DiskCache {
    inner: Arc<Inner>,
    /// As [`DiskSettings::store`].
    store: String,
    threads: Arc<Threads>,
}

struct Threads(Arc<Inner>);

impl Drop for Threads {
    fn drop(&mut self) {
        self.0.queue.stop();
        self.0.sweeper.stop();
    }
}

impl DiskCache {
    /// Starts with what is in the directory. A directory that cannot be had now is tried again later.
    ///
    /// Errors: [`Kind::NotPermitted`] when others can get at the directory, [`Kind::NotDir`].
    pub fn start(settings: DiskSettings, budget: Arc<Budget>) -> Result<Arc<DiskCache>> {
        let inner = DiskCache::open(settings, budget)?;
        writer::spawn(&inner)?;
        sweep::spawn(&inner)?;
        let (store, threads) = (inner.settings.store.clone(), Arc::new(Threads(inner.clone())));
        Ok(Arc::new(DiskCache { inner, store, threads }))
    }

    /// Opens the directory and looks at nothing in it: the time until a mount answers does not depend on how much there is.
    fn open(settings: DiskSettings, budget: Arc<Budget>) -> Result<Arc<Inner>> {
        let now = Instant::now();
        let opened = place::open(&settings.dir);
        let mut health = Health { place: None, open_from: now, read_from: now, write_from: now, trouble: None };
        match opened {
            Ok(place) => health.place = Some(Arc::new(place)),
            Err(e) if e.kind() == Kind::Unavailable => {
                warn!("reading without the disk cache until it can be opened: {e}");
                health.trouble = Some(e.to_string());
                health.open_from = now + settings.retry;
                health.write_from = health.open_from;
            }
            Err(e) => return Err(e),
        }
        Ok(Arc::new(Inner {
            queue: Queue::new(settings.queue),
            sweeper: Sweeper::default(),
            settings,
            budget,
            health: Mutex::new(health),
            open: Mutex::new(LruCache::new(OPEN)),
            verified: Mutex::new(LruCache::new(VERIFIED)),
            bytes: AtomicU64::new(0),
            counters: Counters::default(),
            logged: Mutex::new(None),
        }))
    }

    /// The same directory, bounds and figures for another bucket, which `store` names.
    pub fn beside(&self, store: String) -> Arc<DiskCache> {
        Arc::new(DiskCache { inner: self.inner.clone(), store, threads: self.threads.clone() })
    }

    /// How the disk knows an object of `size` bytes. `None`: it is not kept.
    pub fn version(&self, id: &ObjectId, size: u64) -> Option<Arc<Version>> {
        Version::of(&self.store, id, size)
    }

    /// Whether it is worth looking for. Without input and output.
    pub fn may_have(&self, version: &Version) -> bool {
        let now = Instant::now();
        {
            let health = self.inner.health.lock();
            if now < health.read_from || health.place.is_none() && now < health.open_from {
                return false;
            }
        }
        match self.inner.open.lock().peek(&version.name) {
            Some(Slot::Absent(since)) => now.duration_since(*since) > ABSENCE,
            _ => true,
        }
    }

    /// Whether anything of it is there. Waits for the disk.
    pub fn has(&self, version: &Arc<Version>) -> bool {
        self.inner.entry(version).is_some()
    }

    /// The blocks `indexes`, as far as they are there and right, in memory of `lease`, which is worth what they cost; and
    /// what is left of it. Waits for the disk.
    pub fn read(
        &self,
        version: &Arc<Version>,
        indexes: Range<u64>,
        cache: &BlockCache,
        mut lease: Lease,
    ) -> (Vec<Option<Bytes>>, Lease) {
        let count = indexes.end - indexes.start;
        let mut buffer = |len: usize| -> BlockBuffer { cache.buffer(len, lease.split(block_cost(len))) };
        let found = self.inner.read(version, indexes, &mut buffer);
        let found = found.unwrap_or_else(|| (0..count).map(|_| None).collect());
        let hits = found.iter().flatten().count() as u64;
        self.inner.counters.hits.fetch_add(hits, Ordering::Relaxed);
        self.inner.counters.misses.fetch_add(count - hits, Ordering::Relaxed);
        (found, lease)
    }

    /// Has the disk begin to read what will be asked for. Waits for the disk.
    pub fn announce(&self, version: &Arc<Version>, indexes: Range<u64>) {
        if let Some(entry) = self.inner.entry(version) {
            entry.announce(indexes);
        }
    }

    /// Blocks that were looked for where [`DiskCache::may_have`] said that there is nothing.
    pub fn missed(&self, blocks: u64) {
        self.inner.counters.misses.fetch_add(blocks, Ordering::Relaxed);
    }

    /// The disk did not answer in time: it is left alone for a while.
    pub fn is_stuck(&self) {
        let until = Instant::now() + self.inner.settings.retry;
        let mut health = self.inner.health.lock();
        health.read_from = until;
        health.tell("the disk does not answer in time".to_owned(), &self.inner.settings.dir);
    }

    /// Keeps a block, as soon as the disk gets to it, if it gets to it.
    pub fn keep(&self, version: &Arc<Version>, index: u64, data: &Bytes) {
        self.inner.keep(version, index, data.clone(), None);
    }

    /// As [`DiskCache::keep`], of bytes whose memory ends with the call: while they wait they have a lease of their own,
    /// and without one they are not kept.
    pub fn keep_foreign(&self, version: &Arc<Version>, index: u64, data: Bytes) {
        match self.inner.budget.spare_lease(data.len()) {
            Some(lease) => self.inner.keep(version, index, data, Some(lease)),
            None => self.inner.drop_blocks(1),
        }
    }

    /// A version that is being made, part by part. `None` while nothing can be written.
    pub fn upload(&self) -> Option<Upload> {
        self.inner.may_write().then(|| Upload::new(&self.inner, &self.store))
    }

    /// This version is gone from the store.
    pub fn forget(&self, version: &Arc<Version>) {
        self.inner.queue.forget(version);
    }

    /// The store has the bytes of `old` as `new`, and not as `old` any more.
    pub fn became(&self, old: &Arc<Version>, new: &Arc<Version>) {
        if old != new && old.size == new.size {
            self.inner.queue.became(old, new);
        }
    }

    /// The file of an object that is whole, with every block checked by this process; its bytes are the object's. A
    /// version that is whole and unchecked is checked in the background. Without input and output when it is known.
    pub fn whole(&self, version: &Arc<Version>) -> Option<Arc<File>> {
        if !version.has_sums_file() || !self.may_have(version) {
            return None;
        }
        let open = match self.inner.open.lock().get(&version.name) {
            Some(Slot::Open(entry)) => Some(entry.clone()),
            _ => None,
        };
        match open {
            Some(entry) if entry.is_verified() => {
                self.inner.verified.lock().put(version.name.clone(), entry.inode);
                entry.touch();
                Some(entry.data.clone())
            }
            // Opened, and checked if it is whole, by the thread that may wait.
            _ => {
                self.inner.sweeper.check(version);
                None
            }
        }
    }

    /// Whether an object of `size` bytes is kept as a whole, as far as is known now.
    pub fn keeps(&self, size: u64) -> bool {
        size <= self.inner.whole_max() && self.inner.may_write()
    }

    /// The kernel reads an opened file from here.
    pub fn note_through(&self) {
        self.inner.counters.through.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until what was queued is on the disk, at most `patience`. Blocks.
    pub fn flush(&self, patience: Duration) -> bool {
        self.inner.queue.wait_empty(patience)
    }

    pub fn stats(&self) -> DiskStats {
        let c = &self.inner.counters;
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DiskStats {
            dir: self.inner.settings.dir.clone(),
            bytes: of(&self.inner.bytes),
            limit: self.inner.settings.size,
            hits: of(&c.hits),
            misses: of(&c.misses),
            written: of(&c.written),
            dropped: of(&c.dropped),
            damaged: of(&c.damaged),
            evicted: of(&c.evicted),
            evicted_bytes: of(&c.evicted_bytes),
            through: of(&c.through),
            walked: of(&c.walked),
            counted: self.inner.is_counted(),
            trouble: self.inner.health.lock().trouble.clone(),
        }
    }
}

impl std::fmt::Debug for DiskCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskCache").field("dir", &self.inner.settings.dir).finish_non_exhaustive()
    }
}

/// Errors: as [`DiskCache::start`]. What only keeps the directory from being used now is none.
pub fn guard(dir: &Path) -> Result<()> {
    match place::open(dir) {
        Err(e) if e.kind() != Kind::Unavailable => Err(e),
        _ => Ok(()),
    }
}

/// Whether a directory can be a cache: for people who ask before they mount.
///
/// Errors: as [`DiskCache::start`], and [`Kind::Unavailable`] for a directory that cannot be written.
pub fn check(dir: &Path) -> Result<()> {
    let place = place::open(dir)?;
    let name = format!("check-{}", std::process::id());
    let tried = place.incoming(&name).and_then(|_| place.remove_incoming(&name));
    tried.map_err(|e| Error::new(Kind::Unavailable, format!("cache directory {}: {e}", dir.display())))
}

impl Health {
    /// One line for as long as it lasts.
    fn tell(&mut self, what: String, dir: &Path) {
        if self.trouble.is_none() {
            warn!(dir = %dir.display(), "reading without the disk cache for now: {what}");
            self.trouble = Some(what);
        }
    }
}

impl Inner {
    /// The directory, opened again if it is time to.
    fn place(&self) -> Option<Arc<Place>> {
        {
            let mut health = self.health.lock();
            if let Some(place) = &health.place {
                return Some(place.clone());
            }
            let now = Instant::now();
            if now < health.open_from {
                return None;
            }
            health.open_from = now + self.settings.retry;
        }
        let opened = place::open(&self.settings.dir);
        let mut health = self.health.lock();
        match opened {
            Ok(place) => {
                let place = Arc::new(place);
                health.place = Some(place.clone());
                Some(place)
            }
            Err(e) => {
                health.tell(e.to_string(), &self.settings.dir);
                None
            }
        }
    }

    fn may_write(&self) -> bool {
        let now = Instant::now();
        let health = self.health.lock();
        now >= health.write_from && (health.place.is_some() || now >= health.open_from)
    }

    /// A change failed: none is tried for a while.
    fn failed(&self, what: &str, error: &io::Error) {
        let mut health = self.health.lock();
        health.write_from = Instant::now() + self.settings.retry;
        let text = format!("{what}: {error}");
        match error.kind() {
            // Others have filled the disk: giving something up may help.
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                health.tell(text, &self.settings.dir);
                self.sweeper.make_room();
            }
            // Somebody removed the directory.
            io::ErrorKind::NotFound => {
                health.place = None;
                health.open_from = health.write_from;
                health.tell(text, &self.settings.dir);
            }
            _ => health.tell(text, &self.settings.dir),
        }
    }

    fn succeeded(&self) {
        let mut health = self.health.lock();
        if health.trouble.take().is_some() {
            tracing::info!(dir = %self.settings.dir.display(), "the disk cache works again");
        }
    }

    /// The open entry of a version that is there.
    fn entry(&self, version: &Arc<Version>) -> Option<Arc<Entry>> {
        match self.open.lock().get(&version.name) {
            Some(Slot::Open(entry)) => return Some(entry.clone()),
            Some(Slot::Absent(since)) if since.elapsed() <= ABSENCE => return None,
            _ => {}
        }
        let slot = match Entry::open(&*self.place()?, version, false) {
            Ok(entry) => Slot::Open(self.opened(entry)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Slot::Absent(Instant::now()),
            Err(e) => {
                self.note_damage(&format!("{}: {e}", version.name));
                Slot::Absent(Instant::now())
            }
        };
        let entry = match &slot {
            Slot::Open(entry) => Some(entry.clone()),
            Slot::Absent(_) => None,
        };
        self.remember(version, slot);
        entry
    }

    /// The entry of a version, made when there is none.
    fn entry_to_write(&self, version: &Arc<Version>) -> io::Result<Arc<Entry>> {
        let open = match self.open.lock().get(&version.name) {
            Some(Slot::Open(entry)) => Some(entry.clone()),
            _ => None,
        };
        if let Some(entry) = open.filter(|e| e.is_named()) {
            return Ok(entry);
        }
        let place = self.place().ok_or(io::ErrorKind::NotFound)?;
        let entry = self.opened(Entry::open(&place, version, true)?);
        self.remember(version, Slot::Open(entry.clone()));
        Ok(entry)
    }

    fn opened(&self, entry: Entry) -> Arc<Entry> {
        if self.verified.lock().get(&entry.version.name) == Some(&entry.inode) {
            entry.set_verified();
        }
        Arc::new(entry)
    }

    fn remember(&self, version: &Version, slot: Slot) {
        let old = self.open.lock().push(version.name.clone(), slot);
        // Closing files takes its time.
        drop(old);
    }

    fn read(
        &self,
        version: &Arc<Version>,
        indexes: Range<u64>,
        buffer: &mut dyn FnMut(usize) -> BlockBuffer,
    ) -> Option<Vec<Option<Bytes>>> {
        let entry = self.entry(version)?;
        match entry.read(indexes, buffer) {
            Ok(found) => {
                entry.touch();
                let damaged = found.iter().filter(|(look, _)| matches!(look, Look::Damaged)).count();
                if damaged > 0 {
                    self.counters.damaged.fetch_add(damaged as u64, Ordering::Relaxed);
                    self.verified.lock().pop(&version.name);
                    self.note_damage(&format!("{damaged} blocks of {} are not what was written", version.name));
                }
                Some(found.into_iter().map(|(_, block)| block).collect())
            }
            Err(e) => {
                self.counters.damaged.fetch_add(1, Ordering::Relaxed);
                self.note_damage(&format!("{}: {e}", version.name));
                self.queue.forget(version);
                None
            }
        }
    }

    /// A line about something that was read from the store instead.
    fn note_damage(&self, what: &str) {
        let mut logged = self.logged.lock();
        if logged.is_none_or(|at| at.elapsed() > LOG_PAUSE) {
            *logged = Some(Instant::now());
            warn!(dir = %self.settings.dir.display(), "disk cache: {what}; read from the store instead");
        }
    }

    fn keep(&self, version: &Arc<Version>, index: u64, data: Bytes, lease: Option<Lease>) {
        if !self.may_write() || !self.queue.block(version, index, data, lease) {
            self.drop_blocks(1);
        }
    }

    fn drop_blocks(&self, count: u64) {
        self.counters.dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// The largest object that is kept whole, bytes.
    fn whole_max(&self) -> u64 {
        self.settings.size / WHOLE_SHARE
    }

    /// Whether a walk has counted what is there. Until then `bytes` is what came since the start.
    fn is_counted(&self) -> bool {
        self.counters.walks.load(Ordering::Relaxed) > 0
    }

    fn added(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn removed(&self, bytes: u64) {
        let _ = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n.saturating_sub(bytes)));
    }

    /// Lets go of the open file of a version whose name is gone.
    fn close(&self, name: &str) {
        self.verified.lock().pop(name);
        let old = self.open.lock().pop(name);
        drop(old);
    }

    /// Bytes of the file system that may still be taken: above 0 there is room.
    fn spare(&self, place: &Place) -> u64 {
        place.file_system().map_or(0, |s| (s.f_bavail * s.f_frsize).saturating_sub(self.settings.free))
    }
}

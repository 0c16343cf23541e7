//! The directory that holds every bucket of the credentials: each is a tree of its own below it.
//!
//! 1. Looking at all buckets enters none: a bucket gets its tree when somebody goes into it, and keeps it. How a tree is
//!    made is the business of whoever built the mount ([`Maker`]).
//! 2. Nothing but buckets can be there. Their names are few and plain, so what programs look for all day is answered
//!    without a request.
//! 3. A bucket that is not in the listing may be there all the same: somebody else's, or the credentials may not list.
//!    So the listing says what there is, and only the bucket itself what there is not.
//! 4. The inode numbers of a tree are in a part of the numbers that its bucket's name chooses ([`Space`]), the same
//!    after a remount unless two names choose one.
//!
//! Locks are leaves for short, synchronous sections; `asking` is held while a listing is under way.

mod remove;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::BoxFuture;
use lru::LruCache;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle as Runtime;
use tokio::sync::OnceCell;
use tokio_util::task::TaskTracker;

use super::attr::{Attr, Defaults};
use super::{Entry, Fh, Fs, Ino, Kernel, Lookup, ROOT, Space};
use crate::config::source::is_bucket_name;
use crate::error::{Error, Kind, Result};
use crate::key::{Name, stable_hash};
use crate::s3::{ListQuery, S3, check_bucket_name, is_plain_denial};

/// Names that are remembered to be missing.
const ABSENT: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// Entries of one answer to readdir(3): more than the kernel takes at once.
const BATCH: usize = 1024;
/// An absence that old is not believed by whoever makes a bucket.
const JUST_NOW: Duration = Duration::from_secs(1);

/// What a tree is made of.
#[derive(Clone, Debug)]
pub struct Making {
    pub bucket: Arc<str>,
    pub space: Space,
    /// When the bucket was created, as far as it is known.
    pub born: Option<SystemTime>,
}

/// Makes the tree of a bucket. It may wait for the disk and the store.
pub type Maker = Box<dyn Fn(Making) -> BoxFuture<'static, Result<Arc<Fs>>> + Send + Sync>;

/// What the directory of the buckets is told; plain data.
#[derive(Clone, Debug)]
pub struct BucketsSettings {
    pub defaults: Defaults,
    pub read_only: bool,
    /// How long the listing of the buckets, and a bucket, are believed.
    pub metadata_ttl: Duration,
    /// How long the absence of a bucket is believed.
    pub negative_ttl: Duration,
    /// As of [`super::Settings`].
    pub op_timeout: Duration,
    pub capacity: u64,
    pub passthrough: bool,
    pub list_all_xattrs: bool,
}

/// One bucket that was seen.
struct Bucket {
    name: Arc<str>,
    space: Space,
    part: u32,
    fs: OnceCell<Arc<Fs>>,
    known: Mutex<Known>,
    /// It is gone; a bucket of that name that comes back is another one.
    dead: AtomicBool,
}

#[derive(Default)]
struct Known {
    born: Option<SystemTime>,
    /// When the store last said that it is there.
    seen: Option<Instant>,
}

#[derive(Default)]
struct Table {
    parts: HashMap<u32, Arc<Bucket>>,
    names: HashMap<Arc<str>, Arc<Bucket>>,
    /// Of `parts`: kept while the kernel may come back for something in them.
    dead: Vec<u32>,
}

/// An answer to ListBuckets, with what this mount made and removed since it was asked for.
struct Listing {
    asked: Instant,
    born: BTreeMap<Arc<str>, Option<SystemTime>>,
}

/// A bucket as the directory shows it.
#[derive(Clone, Debug)]
pub struct Shown {
    pub name: Arc<str>,
    pub entry: Entry,
}

/// What an open directory shows.
type Snapshot = Arc<Vec<(Arc<str>, Option<SystemTime>)>>;

/// The directory of all buckets.
pub struct Buckets {
    /// Of no bucket: others are made from it.
    s3: S3,
    pub settings: BucketsSettings,
    make: Maker,
    table: RwLock<Table>,
    listing: Mutex<Option<Arc<Listing>>>,
    asking: tokio::sync::Mutex<()>,
    absent: Mutex<LruCache<String, Instant>>,
    /// What this mount made (true) and removed: a listing asked for before does not know of it.
    changes: Mutex<HashMap<Arc<str>, (Instant, bool)>>,
    handles: Mutex<HashMap<u64, Option<Snapshot>>>,
    last_handle: AtomicU64,
    kernel: OnceLock<Arc<dyn Kernel>>,
    runtime: Runtime,
    /// Journals of buckets that are gone, being closed.
    burials: TaskTracker,
    mounted: SystemTime,
    /// The log has been told of buckets that cannot be shown.
    hid: AtomicBool,
}

impl Buckets {
    /// `s3`: a client of no bucket. Must be called inside a tokio runtime.
    pub fn new(s3: S3, settings: BucketsSettings, make: Maker) -> Arc<Buckets> {
        Arc::new(Buckets {
            s3,
            settings,
            make,
            table: RwLock::default(),
            listing: Mutex::new(None),
            asking: tokio::sync::Mutex::new(()),
            absent: Mutex::new(LruCache::new(ABSENT)),
            changes: Mutex::default(),
            handles: Mutex::default(),
            last_handle: AtomicU64::new(0),
            kernel: OnceLock::new(),
            runtime: Runtime::current(),
            burials: TaskTracker::new(),
            mounted: SystemTime::now(),
            hid: AtomicBool::new(false),
        })
    }

    /// The kernel's notifier, once the session exists.
    pub fn set_kernel(&self, kernel: Arc<dyn Kernel>) {
        let _ = self.kernel.set(kernel.clone());
        for (_, fs) in self.all() {
            fs.set_kernel(kernel.clone());
        }
    }

    /// The buckets somebody has been in, by name.
    pub fn all(&self) -> Vec<(Arc<str>, Arc<Fs>)> {
        let table = self.table.read();
        let entered = table.parts.values().filter_map(|b| Some((b, b.fs.get()?)));
        let here = entered.filter(|(b, fs)| !b.dead.load(Ordering::Relaxed) || fs.is_in_use());
        let entered = here.map(|(b, fs)| (b.name.clone(), fs.clone()));
        let mut all: Vec<_> = entered.collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Waits until nothing is left of buckets that are gone, at most `patience`.
    pub async fn settled(&self, patience: Duration) {
        self.burials.close();
        let _ = tokio::time::timeout(patience, self.burials.wait()).await;
        self.burials.reopen();
    }

    /// The tree that a number is in, if it is there already. No lock is held when it returns.
    pub fn entered(&self, ino: Ino) -> Option<Arc<Fs>> {
        self.table.read().parts.get(&Space::part_of(ino))?.fs.get().cloned()
    }

    /// The tree that a number is in, made when nobody has been there.
    ///
    /// Errors: [`Kind::NotPermitted`] ([`Kind::ReadOnly`]) for the directory of the buckets, which only holds buckets;
    /// [`Kind::Stale`]; what keeps the tree from being made.
    pub async fn enter(&self, ino: Ino) -> Result<Arc<Fs>> {
        if ino == ROOT {
            self.writable()?;
            return Err(Error::new(Kind::NotPermitted, "only buckets can be made here, with mkdir").quietly());
        }
        let bucket = self.table.read().parts.get(&Space::part_of(ino)).cloned();
        let bucket = bucket.ok_or_else(|| Error::new(Kind::Stale, "bucket that is not known"))?;
        let making = Making { bucket: bucket.name.clone(), space: bucket.space, born: bucket.known.lock().born };
        let fs = bucket.fs.get_or_try_init(|| (self.make)(making)).await?.clone();
        if let Some(kernel) = self.kernel.get() {
            fs.set_kernel(kernel.clone());
        }
        Ok(fs)
    }

    /// Enters a bucket that nobody asked for, with a tree that is made on the spot, because something waits to be stored
    /// in it.
    pub fn adopt(&self, bucket: &str, make: impl FnOnce(Making) -> Result<Arc<Fs>>) -> Result<()> {
        let bucket = self.slot(bucket, None)?;
        let making = Making { bucket: bucket.name.clone(), space: bucket.space, born: None };
        let _ = bucket.fs.set(make(making)?);
        Ok(())
    }

    fn writable(&self) -> Result<()> {
        if self.settings.read_only { Err(Kind::ReadOnly.into()) } else { Ok(()) }
    }

    /// The directory itself.
    pub fn top(&self) -> Entry {
        let attr = Attr::of_dir(self.mounted, &self.settings.defaults);
        Entry { ino: ROOT, attr, links: 1, ttl: self.settings.metadata_ttl }
    }

    /// The directory itself, and the root of a bucket that nobody has entered.
    pub fn outside(&self, ino: Ino) -> Option<Entry> {
        if ino == ROOT {
            return Some(self.top());
        }
        let bucket = self.table.read().parts.get(&Space::part_of(ino)).cloned()?;
        (bucket.space.root() == ino && bucket.fs.get().is_none())
            .then(|| self.entry(&bucket, self.settings.metadata_ttl))
    }

    fn entry(&self, bucket: &Bucket, ttl: Duration) -> Entry {
        let ino = bucket.space.root();
        if let Some(Ok(entry)) = bucket.fs.get().and_then(|fs| fs.getattr_now(ino)) {
            return Entry { ttl, ..entry };
        }
        let born = bucket.known.lock().born.unwrap_or(self.mounted);
        Entry { ino, attr: Attr::of_dir(born, &self.settings.defaults), links: 1, ttl }
    }

    /// The bucket of that name, with a part of the numbers. Errors: [`Kind::Limit`] when they are used up.
    fn slot(&self, name: &str, born: Option<SystemTime>) -> Result<Arc<Bucket>> {
        let known = self.table.read().names.get(name).cloned();
        if let Some(bucket) = known {
            if let Some(born) = born {
                let first = bucket.known.lock().born.replace(born).is_none();
                if let Some(fs) = bucket.fs.get().filter(|_| first) {
                    fs.set_born(born);
                }
            }
            return Ok(bucket);
        }
        let mut table = self.table.write();
        if let Some(bucket) = table.names.get(name) {
            return Ok(bucket.clone());
        }
        let gone = table.bury();
        for bucket in gone {
            // Closing a journal waits for its disk.
            self.burials.spawn_blocking_on(move || drop(bucket), &self.runtime);
        }
        // The first part is the root's.
        let others = Space::PARTS - 1;
        let first = (stable_hash(name.as_bytes()) % u64::from(others)) as u32;
        let mut parts = (0..others).map(|i| (first + i) % others + 1);
        let part = parts.find(|part| !table.parts.contains_key(part));
        let part = part.ok_or_else(|| Error::new(Kind::Limit, "more buckets than a mount can number"))?;
        let bucket = Arc::new(Bucket {
            name: name.into(),
            space: Space::of_part(part),
            part,
            fs: OnceCell::new(),
            known: Mutex::new(Known { born, seen: None }),
            dead: AtomicBool::new(false),
        });
        table.parts.insert(part, bucket.clone());
        table.names.insert(bucket.name.clone(), bucket.clone());
        Ok(bucket)
    }

    fn named(&self, name: &str) -> Option<Arc<Bucket>> {
        self.table.read().names.get(name).cloned()
    }

    /// The listing and how long it may still be believed.
    fn fresh_listing(&self) -> Option<(Arc<Listing>, Duration)> {
        let listing = self.listing.lock().clone()?;
        let left = self.settings.metadata_ttl.checked_sub(listing.asked.elapsed())?;
        (!left.is_zero()).then_some((listing, left))
    }

    /// What the store lists; one request when the last answer is too old.
    async fn list(&self) -> Result<(Arc<Listing>, Duration)> {
        if let Some(fresh) = self.fresh_listing() {
            return Ok(fresh);
        }
        let _one = self.asking.lock().await;
        if let Some(fresh) = self.fresh_listing() {
            return Ok(fresh);
        }
        let asked = Instant::now();
        let found = self.s3.list_buckets().await?;
        let count = found.len();
        let mut born: BTreeMap<Arc<str>, _> =
            found.into_iter().filter(|b| is_bucket_name(&b.name)).map(|b| (b.name.into(), b.created)).collect();
        if born.len() < count && !self.hid.swap(true, Ordering::Relaxed) {
            tracing::warn!("buckets that have no name for a directory are left out: {}", count - born.len());
        }
        let mut changes = self.changes.lock();
        changes.retain(|_, (at, _)| *at >= asked);
        for (name, (_, made)) in changes.iter() {
            if *made {
                born.entry(name.clone()).or_insert(None);
            } else {
                born.remove(name);
            }
        }
        let listing = Arc::new(Listing { asked, born });
        *self.listing.lock() = Some(listing.clone());
        drop(changes);
        Ok((listing, self.settings.metadata_ttl))
    }

    /// Notes that this mount made or removed a bucket.
    fn changed(&self, name: &Arc<str>, made: bool) {
        let now = Instant::now();
        let mut changes = self.changes.lock();
        changes.insert(name.clone(), (now, made));
        let mut listing = self.listing.lock();
        if let Some(old) = listing.take() {
            let mut born = old.born.clone();
            if made {
                born.insert(name.clone(), Some(SystemTime::now()));
            } else {
                born.remove(name);
            }
            *listing = Some(Arc::new(Listing { asked: old.asked, born }));
        }
        drop((listing, changes));
        let mut absent = self.absent.lock();
        if made {
            absent.pop(&**name);
        } else {
            absent.put(name.to_string(), now);
        }
    }

    /// What memory says of a name.
    pub fn lookup_now(&self, name: &OsStr) -> Option<Lookup> {
        // Nothing else can be a bucket.
        let Some(name) = name.to_str().filter(|n| is_bucket_name(n)) else {
            return Some(Lookup::Absent(self.settings.negative_ttl));
        };
        if let Some((listing, left)) = self.fresh_listing()
            && let Some(born) = listing.born.get(name)
        {
            let bucket = self.slot(name, *born).ok()?;
            return Some(Lookup::Found(self.entry(&bucket, left)));
        }
        if let Some(bucket) = self.named(name) {
            let seen = bucket.known.lock().seen;
            if let Some(left) = seen.and_then(|at| self.settings.metadata_ttl.checked_sub(at.elapsed())) {
                return Some(Lookup::Found(self.entry(&bucket, left)));
            }
        }
        let since = self.absent.lock().get(name).copied()?;
        self.settings.negative_ttl.checked_sub(since.elapsed()).map(Lookup::Absent)
    }

    /// One LIST of one key, when memory does not know. A bucket that may not be listed is there.
    ///
    /// Errors: whatever keeps the store from saying whether it is there.
    pub async fn lookup(&self, name: &OsStr) -> Result<Lookup> {
        if let Some(known) = self.lookup_now(name) {
            return Ok(known);
        }
        match name.to_str() {
            Some(name) => self.ask(name).await,
            None => Ok(Lookup::Absent(self.settings.negative_ttl)),
        }
    }

    async fn ask(&self, name: &str) -> Result<Lookup> {
        let asked = Instant::now();
        let query = ListQuery { prefix: "", delimited: false, from: None, max_keys: Some(1) };
        match self.s3.for_bucket_if_any(name).list(&query).await {
            Ok(_) => {}
            Err(e) if is_plain_denial(&e) => {}
            Err(e) if e.kind() == Kind::NoBucket || e.code() == "InvalidBucketName" => {
                if let Some(bucket) = self.named(name) {
                    self.lost(&bucket);
                }
                self.absent.lock().put(name.to_owned(), asked);
                return Ok(Lookup::Absent(self.settings.negative_ttl));
            }
            Err(e) => return Err(e),
        }
        let bucket = self.slot(name, None)?;
        bucket.known.lock().seen = Some(asked);
        self.absent.lock().pop(name);
        Ok(Lookup::Found(self.entry(&bucket, self.settings.metadata_ttl)))
    }

    pub fn opendir(&self) -> Fh {
        let fh = self.last_handle.fetch_add(1, Ordering::Relaxed) + 1;
        self.handles.lock().insert(fh, None);
        Fh(fh)
    }

    pub fn releasedir(&self, fh: Fh) {
        self.handles.lock().remove(&fh.0);
    }

    /// Directories that are open here.
    pub fn open_handles(&self) -> usize {
        self.handles.lock().len()
    }

    /// Buckets in the order of their names, from the one number `first` on. A handle shows what there was when it was
    /// last read from the start.
    ///
    /// Errors: [`Kind::BadHandle`]; those of the listing, [`Kind::Denied`] where it is not allowed.
    pub async fn readdir(&self, fh: Fh, first: u64) -> Result<Vec<Shown>> {
        let kept = self.handles.lock().get(&fh.0).cloned();
        let kept = kept.ok_or_else(|| Error::new(Kind::BadHandle, "not an open directory"))?;
        let (shown, ttl) = match kept.filter(|_| first > 0) {
            Some(shown) => (shown, self.fresh_listing().map_or(Duration::ZERO, |(_, left)| left)),
            None => {
                let (listing, left) = self.list().await?;
                let shown: Snapshot = Arc::new(listing.born.iter().map(|(n, b)| (n.clone(), *b)).collect());
                if let Some(place) = self.handles.lock().get_mut(&fh.0) {
                    *place = Some(shown.clone());
                }
                (shown, left)
            }
        };
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        let entries = shown.iter().skip(first).take(BATCH).map(|(name, born)| {
            let bucket = self.slot(name, *born)?;
            Ok(Shown { name: name.clone(), entry: self.entry(&bucket, ttl) })
        });
        entries.collect()
    }

    /// Creates a bucket where those of the endpoint are, private: one PUT, and one LIST when it is not known to be
    /// missing.
    ///
    /// Errors: [`Kind::Invalid`] for a name that no store takes, [`Kind::Exists`] also when it is somebody else's.
    pub async fn mkdir(&self, name: &OsStr) -> Result<Entry> {
        self.writable()?;
        let name = name.to_str().ok_or_else(|| Error::new(Kind::BadName, "bucket name that is not UTF-8"))?;
        check_bucket_name(name)?;
        // To create one's own bucket again is no error to some stores.
        let missing = self.absent.lock().get(name).is_some_and(|at| at.elapsed() < JUST_NOW);
        if !missing && let Lookup::Found(_) = self.ask(name).await? {
            return Err(Error::new(Kind::Exists, "create bucket").with_key(name));
        }
        self.s3.for_bucket(name).create_bucket(None, None).await.map_err(|e| e.with_key(name))?;
        tracing::info!(bucket = name, "bucket created");
        let bucket = self.slot(name, Some(SystemTime::now()))?;
        bucket.known.lock().seen = Some(Instant::now());
        self.changed(&bucket.name, true);
        Ok(self.entry(&bucket, self.settings.metadata_ttl))
    }

    /// Forgets what is known at and below `path` (relative to the mount; "" is all of it), as [`Fs::forget_below`].
    pub async fn forget_below(&self, path: &str, limit: Duration) -> Result<usize> {
        let path = path.trim_start_matches('/');
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        *self.listing.lock() = None;
        let of_path: Vec<Arc<Bucket>> = {
            let table = self.table.read();
            table.names.values().filter(|b| first.is_empty() || *b.name == *first).cloned().collect()
        };
        let mut names: Vec<String> = of_path.iter().map(|b| b.name.to_string()).collect();
        if first.is_empty() {
            self.absent.lock().clear();
        } else {
            self.absent.lock().pop(first);
            // The kernel may believe that it is missing.
            names.push(first.to_owned());
        }
        of_path.iter().for_each(|b| b.known.lock().seen = None);
        if let Some(kernel) = self.kernel.get().cloned() {
            let work = self.runtime.spawn_blocking(move || {
                for name in names.iter().filter_map(|n| Name::of_component(n)) {
                    kernel.invalidate_entry(ROOT, &name);
                }
            });
            let done = tokio::time::timeout(limit, work).await;
            done.map_err(|_| Error::new(Kind::Timeout, "tell the kernel what to forget"))?
                .map_err(|_| Error::new(Kind::Io, "tell the kernel: panicked"))?;
        }
        let mut count = of_path.len();
        for fs in of_path.iter().filter_map(|b| b.fs.get()) {
            count += fs.forget_below(rest, limit).await?;
        }
        Ok(count)
    }
}

impl Table {
    /// Lets go of buckets that are gone and of which the kernel has nothing any more.
    fn bury(&mut self) -> Vec<Arc<Bucket>> {
        let (parts, mut gone) = (&mut self.parts, Vec::new());
        self.dead.retain(|part| {
            let in_use = parts.get(part).and_then(|b| b.fs.get()).is_some_and(|fs| fs.is_in_use());
            if !in_use {
                gone.extend(parts.remove(part));
            }
            in_use
        });
        gone
    }
}

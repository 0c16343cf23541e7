//! Complete listings this mount has seen: inside them a lookup needs no request, found or not.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use lru::LruCache;
use parking_lot::Mutex;

use super::attr::FileKind;
use super::inode::Ino;
use crate::budget::{Budget, Lease};
use crate::key::{Key, Name};
use crate::s3::{ETag, Listed};

/// One entry of a directory as a listing shows it.
#[derive(Clone, Debug)]
pub struct Item {
    pub name: Name,
    /// File or Dir: a listing does not tell symbolic links.
    pub kind: FileKind,
    pub size: u64,
    pub etag: Option<ETag>,
    pub last_modified: Option<SystemTime>,
    pub storage_class: Option<Box<str>>,
    /// A directory whose marker is not `name/` (`name_$folder$`).
    pub odd_marker: Option<Key>,
    /// A file that is shown as it was: which version.
    pub version: Option<Arc<str>>,
    /// In `.versions`: the directory is that of a file's versions, not a directory of the bucket.
    pub of_file: bool,
}

impl Item {
    pub fn file(name: Name, listed: &Listed) -> Item {
        Item {
            name,
            kind: FileKind::File,
            size: listed.size,
            etag: listed.etag.clone(),
            last_modified: listed.last_modified,
            // STANDARD is what nearly every object says: absent means the same.
            storage_class: listed.storage_class.as_deref().filter(|c| *c != "STANDARD").map(Into::into),
            odd_marker: None,
            version: listed.version.clone(),
            of_file: false,
        }
    }

    pub fn dir(name: Name) -> Item {
        Item {
            name,
            kind: FileKind::Dir,
            size: 0,
            etag: None,
            last_modified: None,
            storage_class: None,
            odd_marker: None,
            version: None,
            of_file: false,
        }
    }

    /// Bytes that it takes.
    pub(super) fn cost(&self) -> usize {
        ITEM_BYTES + self.name.as_str().len()
    }
}

/// What an entry takes besides its name, bytes.
pub(super) const ITEM_BYTES: usize = 224;
/// Share of the memory bound that listings may take: nobody can claim it back from them.
const SHARE: usize = 8;
/// Entries that a program gets through in half a `metadata_ttl`.
const LASTING: usize = 10_000;
/// Names changed here for which memory is taken at a time.
const TOUCHED: usize = 32;

struct Known {
    /// When the listing was asked for.
    at: Instant,
    /// Sorted by name.
    items: Vec<Arc<Item>>,
    /// Names this mount changed since: true = exists now (ask for its attributes), false = gone.
    touched: HashMap<Name, bool>,
    /// Made because many names were asked for one by one, and not to be shown: see `burst`.
    thin: bool,
    lease: Option<Lease>,
    /// How many changed names memory was taken for, or is being.
    paid: usize,
}

impl Known {
    fn new(at: Instant, items: Vec<Arc<Item>>, thin: bool) -> Known {
        Known { at, items, touched: HashMap::new(), thin, lease: None, paid: 0 }
    }

    /// Bytes that it takes at first.
    fn bytes(&self) -> usize {
        ITEM_BYTES + self.items.iter().map(|i| i.cost()).sum::<usize>()
    }
}

/// What a listing says of a name.
pub enum Answer {
    /// The listing is too old, or there is none.
    Unknown,
    Absent {
        age: Duration,
    },
    Present {
        item: Arc<Item>,
        at: Instant,
        /// Listed to tell what is absent: who asks for a file wants to know more of it.
        thin: bool,
    },
}

/// Tells one listing of a directory, with the changes since, from any other one.
pub type Edition = (Instant, usize);

/// A part of a listing.
pub struct Around {
    /// By name.
    pub items: Vec<Arc<Item>>,
    /// Nothing is listed before them.
    pub from_start: bool,
    pub edition: Edition,
}

/// Bounded by the memory they take together, those of all trees of a mount: numbers of directories are of one tree.
pub struct Listings {
    inner: Mutex<Inner>,
    ttl: Duration,
    /// How long a missing name that was asked for alone is believed to be missing.
    negative_ttl: Duration,
    budget: Arc<Budget>,
}

struct Inner {
    by_dir: LruCache<Ino, Known>,
    bytes: usize,
    /// Names that were asked for one by one and are not there, and when they were asked for.
    missing: LruCache<(Ino, Name), Instant>,
    /// Directories that are being listed, and the names changed here meanwhile.
    watched: LruCache<Ino, HashMap<Name, bool>>,
    /// When this mount last changed a name in these directories, and in any other.
    changed: LruCache<Ino, Instant>,
    changed_others: Option<Instant>,
}

/// How many missing names are remembered.
const MISSING: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// Directories watched at the same time, and changes in each of them.
const WATCHED: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
const WATCHED_NAMES: usize = 10_000;
/// Directories of which the last change is remembered.
const CHANGED: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

impl Inner {
    fn put(&mut self, dir: Ino, known: Known, bytes: usize) -> Option<Known> {
        let old = self.take(dir);
        self.bytes += bytes;
        self.by_dir.put(dir, known);
        old
    }

    fn changed_since(&self, dir: Ino, since: Instant) -> bool {
        self.changed.peek(&dir).copied().max(self.changed_others).is_some_and(|at| at >= since)
    }

    /// Notes a change in the listing of `dir`. `Some`: memory has to be taken for more of them.
    fn touch(&mut self, dir: Ino, name: &Name, exists: bool) -> Option<Instant> {
        let known = self.by_dir.get_mut(&dir)?;
        known.touched.insert(name.clone(), exists);
        (known.touched.len() > known.paid).then(|| {
            known.paid += TOUCHED;
            known.at
        })
    }

    /// To be dropped without the lock.
    fn take(&mut self, dir: Ino) -> Option<Known> {
        let known = self.by_dir.pop(&dir)?;
        self.bytes -= known.lease.as_ref().map_or(0, Lease::bytes);
        Some(known)
    }
}

impl Listings {
    pub fn new(ttl: Duration, negative_ttl: Duration, budget: Arc<Budget>) -> Listings {
        let inner = Inner {
            by_dir: LruCache::unbounded(),
            bytes: 0,
            missing: LruCache::new(MISSING),
            watched: LruCache::new(WATCHED),
            changed: LruCache::new(CHANGED),
            changed_others: None,
        };
        Listings { inner: Mutex::new(inner), ttl, negative_ttl, budget }
    }

    /// `items` are all entries of `dir` as of `at`; unless this mount has changed a name in it since.
    pub fn put(&self, dir: Ino, at: Instant, items: Vec<Arc<Item>>) {
        self.remember(dir, Known::new(at, items, false), false);
    }

    /// As [`Listings::put`], of a directory that was listed before; for the same purpose as then.
    pub fn put_again(&self, dir: Ino, at: Instant, items: Vec<Arc<Item>>) {
        let thin = self.inner.lock().by_dir.peek(&dir).is_some_and(|k| k.thin);
        self.remember(dir, Known::new(at, items, thin), false);
    }

    /// From now on changes of names in `dir` are noted for [`Listings::put_watched`].
    pub fn watch(&self, dir: Ino) {
        self.inner.lock().watched.put(dir, HashMap::new());
    }

    pub fn unwatch(&self, dir: Ino) {
        self.inner.lock().watched.pop(&dir);
    }

    /// As [`Listings::put`], for look-ups, with what was changed here since [`Listings::watch`]. The directories whose
    /// listings, made for look-ups and not old yet, had to go for it; `None` when this one is not remembered.
    pub fn put_watched(&self, dir: Ino, at: Instant, items: Vec<Arc<Item>>) -> Option<Vec<Ino>> {
        self.remember(dir, Known::new(at, items, true), true)
    }

    /// Bytes that a listing may take to be remembered.
    pub fn most_bytes(&self) -> usize {
        self.budget.limit() / SHARE
    }

    /// How many entries can be remembered, about.
    pub fn most(&self) -> usize {
        self.most_bytes() / ITEM_BYTES
    }

    fn remember(&self, dir: Ino, mut known: Known, watched: bool) -> Option<Vec<Ino>> {
        known.items.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let bytes = known.bytes();
        // Before the lock: taking a lease may make others give memory up. Without one it is not remembered.
        known.lease = (bytes <= self.most_bytes()).then(|| self.budget.try_lease(bytes)).flatten();
        let mut gone = Vec::new();
        let mut inner = self.inner.lock();
        // Not before: a change that comes now is noted there, and not in this listing.
        let touched = if watched { inner.watched.pop(&dir) } else { None };
        let wanted = match touched {
            Some(touched) => {
                known.touched = touched;
                true
            }
            None => !watched && !inner.changed_since(dir, known.at),
        };
        // What is there may be newer; and what was changed here since is noted there.
        if !wanted || inner.by_dir.peek(&dir).is_some_and(|k| k.at > known.at) {
            return None;
        }
        if known.lease.is_none() {
            gone.extend(inner.take(dir));
            drop(inner);
            return None;
        }
        gone.extend(inner.put(dir, known, bytes));
        let mut evicted = Vec::new();
        while inner.bytes > self.most_bytes() {
            let Some((other, _)) = inner.by_dir.peek_lru() else { break };
            let other = *other;
            let Some(old) = inner.take(other) else { break };
            if old.thin && old.at.elapsed() < self.ttl {
                evicted.push(other);
            }
            gone.push(old);
        }
        drop(inner);
        Some(evicted)
    }

    /// The store was asked for `name` at `at`, and it is not there. The kernel asks first and creates then: the
    /// second question is spared.
    pub fn missing(&self, dir: Ino, name: &Name, at: Instant) {
        self.inner.lock().missing.put((dir, name.clone()), at);
    }

    pub fn ask(&self, dir: Ino, name: &Name) -> Answer {
        let mut inner = self.inner.lock();
        let missing = inner.missing.peek(&(dir, name.clone())).copied();
        let known = inner.by_dir.get(&dir);
        // A later listing knows better, also one that is old by now.
        let missing = missing.filter(|at| known.is_none_or(|k| k.at < *at)).map(|at| at.elapsed());
        let Some(known) = known.filter(|k| k.at.elapsed() < self.ttl) else {
            return match missing.filter(|age| *age < self.negative_ttl) {
                Some(age) => Answer::Absent { age },
                None => Answer::Unknown,
            };
        };
        let age = known.at.elapsed();
        match known.touched.get(name) {
            Some(true) => return Answer::Unknown,
            Some(false) => return Answer::Absent { age },
            None => {}
        }
        match known.items.binary_search_by(|i| i.name.cmp(name)) {
            Ok(at) => Answer::Present { item: known.items[at].clone(), at: known.at, thin: known.thin },
            Err(_) => Answer::Absent { age },
        }
    }

    /// Whether a fresh listing has a file of that name, so that no directory has it.
    pub fn has_file(&self, dir: Ino, name: &Name) -> bool {
        matches!(self.ask(dir, name), Answer::Present { item, .. } if item.kind != FileKind::Dir)
    }

    /// Every entry, if the listing is fresh, will be for a while, and nothing was changed here since.
    pub fn all(&self, dir: Ino) -> Option<(Instant, Vec<Arc<Item>>)> {
        let mut inner = self.inner.lock();
        let known = inner.by_dir.get(&dir)?;
        // Who reads a directory goes on to its files: entries that are about to grow old would be asked for one by one.
        let lasts = known.items.len() <= LASTING && known.at.elapsed() < self.ttl / 2;
        (lasts && known.touched.is_empty()).then(|| (known.at, known.items.clone()))
    }

    /// The entries around `name`, at most `before` and `after` of them, without those changed here since. However old:
    /// whoever uses them asks for the version that was listed.
    pub fn around(&self, dir: Ino, name: &Name, before: usize, after: usize) -> Option<Around> {
        let inner = self.inner.lock();
        let known = inner.by_dir.peek(&dir)?;
        let at = known.items.binary_search_by(|i| i.name.cmp(name)).ok()?;
        let (from, to) = (at.saturating_sub(before), (at + 1 + after).min(known.items.len()));
        let items = known.items[from..to].iter();
        Some(Around {
            items: items.filter(|i| !known.touched.contains_key(&i.name)).cloned().collect(),
            from_start: from == 0,
            edition: (known.at, known.touched.len()),
        })
    }

    /// Every entry of that edition, if there are at most `most`.
    pub fn edition(&self, dir: Ino, edition: Edition, most: usize) -> Option<Vec<Arc<Item>>> {
        let inner = self.inner.lock();
        let known = inner.by_dir.peek(&dir)?;
        let same = (known.at, known.touched.len()) == edition && known.items.len() <= most;
        same.then(|| known.items.iter().filter(|i| !known.touched.contains_key(&i.name)).cloned().collect())
    }

    /// Whether `dir` was listed before, is out of date and small: listing it again costs less than asking for each
    /// of its names.
    pub fn worth_refreshing(&self, dir: Ino) -> bool {
        const SMALL: usize = 256;
        let inner = self.inner.lock();
        inner.by_dir.peek(&dir).is_some_and(|k| k.at.elapsed() >= self.ttl && k.items.len() + k.touched.len() <= SMALL)
    }

    /// This mount added or removed `name`.
    pub fn touch(&self, dir: Ino, name: &Name, exists: bool) {
        let mut inner = self.inner.lock();
        inner.missing.pop(&(dir, name.clone()));
        if let Some((_, at)) = inner.changed.push(dir, Instant::now()).filter(|(other, _)| *other != dir) {
            inner.changed_others = inner.changed_others.max(Some(at));
        }
        let unpaid = inner.touch(dir, name, exists);
        if let Some(touched) = inner.watched.get_mut(&dir) {
            touched.insert(name.clone(), exists);
            if touched.len() > WATCHED_NAMES {
                inner.watched.pop(&dir);
            }
        }
        drop(inner);
        if let Some(of) = unpaid {
            self.pay(dir, of, TOUCHED * (ITEM_BYTES + name.as_str().len()));
        }
    }

    /// Takes memory for more changed names in the listing of `dir` of that time, or gives the listing up.
    fn pay(&self, dir: Ino, of: Instant, bytes: usize) {
        // Without the lock: others may give memory up.
        let more = self.budget.try_lease(bytes);
        let gone;
        {
            let inner = &mut *self.inner.lock();
            let Some(known) = inner.by_dir.get_mut(&dir).filter(|k| k.at == of) else { return };
            gone = match (more, &mut known.lease) {
                (Some(more), Some(lease)) => {
                    lease.merge(more);
                    inner.bytes += bytes;
                    None
                }
                _ => inner.take(dir),
            };
        }
        drop(gone);
    }

    /// Whether this mount may have changed a name in `dir` after `since`.
    pub fn changed_since(&self, dir: Ino, since: Instant) -> bool {
        self.inner.lock().changed_since(dir, since)
    }

    /// The directories in `dir` when it was last listed, however long that is ago.
    pub fn directories(&self, dir: Ino) -> Option<Vec<Name>> {
        let inner = self.inner.lock();
        let items = &inner.by_dir.peek(&dir)?.items;
        let dirs = items.iter().filter(|i| i.kind == FileKind::Dir && i.odd_marker.is_none());
        Some(dirs.map(|i| i.name.clone()).collect())
    }

    /// How many entries `dir` had when it was last listed, however long that is ago.
    pub fn count(&self, dir: Ino) -> Option<usize> {
        Some(self.inner.lock().by_dir.peek(&dir)?.items.len())
    }

    pub fn forget(&self, dir: Ino) {
        let gone;
        let mut inner = self.inner.lock();
        inner.watched.pop(&dir);
        gone = inner.take(dir);
        let names: Vec<_> = inner.missing.iter().map(|(place, _)| place).filter(|p| p.0 == dir).cloned().collect();
        for name in names {
            inner.missing.pop(&name);
        }
        drop(inner);
        drop(gone);
    }

    /// Nothing is known of the directories that `those` are.
    pub fn forget_all(&self, those: impl Fn(Ino) -> bool) {
        let gone: Vec<Known>;
        {
            let inner = &mut *self.inner.lock();
            let dirs: Vec<Ino> = inner.by_dir.iter().map(|(dir, _)| *dir).filter(|dir| those(*dir)).collect();
            gone = dirs.into_iter().filter_map(|dir| inner.take(dir)).collect();
            let names: Vec<_> = inner.missing.iter().map(|(place, _)| place).filter(|p| those(p.0)).cloned().collect();
            for name in &names {
                inner.missing.pop(name);
            }
            let watched: Vec<Ino> = inner.watched.iter().map(|(dir, _)| *dir).filter(|dir| those(*dir)).collect();
            for dir in &watched {
                inner.watched.pop(dir);
            }
        }
        drop(gone);
    }

    /// Entries of the directories that are `wanted`, and these.
    pub fn entries(&self, wanted: impl Fn(Ino) -> bool) -> usize {
        let inner = self.inner.lock();
        inner.by_dir.iter().filter(|(dir, _)| wanted(**dir)).map(|(_, known)| known.items.len() + 1).sum()
    }
}

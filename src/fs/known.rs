//! Complete listings this mount has seen: inside them a lookup needs no request, found or not.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use lru::LruCache;
use parking_lot::Mutex;

use super::attr::FileKind;
use super::inode::Ino;
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
}

/// Entries that a program gets through in half a `metadata_ttl`.
const LASTING: usize = 10_000;

struct Known {
    /// When the listing was asked for.
    at: Instant,
    /// Sorted by name.
    items: Vec<Arc<Item>>,
    /// Names this mount changed since: true = exists now (ask for its attributes), false = gone.
    touched: HashMap<Name, bool>,
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

/// Bounded by the number of entries they hold together.
pub struct Listings {
    inner: Mutex<Inner>,
    ttl: Duration,
    /// How long a missing name that was asked for alone is believed to be missing.
    negative_ttl: Duration,
    max_entries: usize,
}

struct Inner {
    by_dir: LruCache<Ino, Known>,
    entries: usize,
    /// Names that were asked for one by one and are not there, and when they were asked for.
    missing: LruCache<(Ino, Name), Instant>,
}

/// How many missing names are remembered.
const MISSING: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

impl Listings {
    pub fn new(ttl: Duration, negative_ttl: Duration, max_entries: usize) -> Listings {
        let inner = Inner { by_dir: LruCache::unbounded(), entries: 0, missing: LruCache::new(MISSING) };
        Listings { inner: Mutex::new(inner), ttl, negative_ttl, max_entries }
    }

    /// `items` are all entries of `dir` as of `at`.
    pub fn put(&self, dir: Ino, at: Instant, mut items: Vec<Arc<Item>>) {
        items.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut inner = self.inner.lock();
        let count = items.len() + 1;
        if count > self.max_entries {
            return;
        }
        inner.entries += count;
        if let Some((_, old)) = inner.by_dir.push(dir, Known { at, items, touched: HashMap::new() }) {
            inner.entries -= old.items.len() + 1;
        }
        while inner.entries > self.max_entries {
            let Some((_, old)) = inner.by_dir.pop_lru() else { break };
            inner.entries -= old.items.len() + 1;
        }
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
            Ok(at) => Answer::Present { item: known.items[at].clone(), at: known.at },
            Err(_) => Answer::Absent { age },
        }
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
        if let Some(known) = inner.by_dir.get_mut(&dir) {
            known.touched.insert(name.clone(), exists);
        }
    }

    pub fn forget(&self, dir: Ino) {
        let mut inner = self.inner.lock();
        if let Some(old) = inner.by_dir.pop(&dir) {
            inner.entries -= old.items.len() + 1;
        }
        let names: Vec<_> = inner.missing.iter().map(|(place, _)| place).filter(|p| p.0 == dir).cloned().collect();
        for name in names {
            inner.missing.pop(&name);
        }
    }

    pub fn entries(&self) -> usize {
        self.inner.lock().entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    fn item(name: &str) -> Arc<Item> {
        Arc::new(Item::dir(Name::parse(OsStr::new(name)).unwrap()))
    }

    fn name(text: &str) -> Name {
        Name::parse(OsStr::new(text)).unwrap()
    }

    #[test]
    fn a_listing_answers_for_every_name_until_it_is_old_or_touched() {
        let l = Listings::new(Duration::from_secs(60), Duration::from_secs(60), 100);
        assert!(matches!(l.ask(Ino(5), &name("a")), Answer::Unknown));
        l.put(Ino(5), Instant::now(), vec![item("b"), item("a")]);
        assert!(matches!(l.ask(Ino(5), &name("a")), Answer::Present { .. }));
        assert!(matches!(l.ask(Ino(5), &name("c")), Answer::Absent { .. }));
        assert_eq!(l.all(Ino(5)).unwrap().1.len(), 2);
        l.touch(Ino(5), &name("c"), true);
        l.touch(Ino(5), &name("a"), false);
        assert!(matches!(l.ask(Ino(5), &name("c")), Answer::Unknown));
        assert!(matches!(l.ask(Ino(5), &name("a")), Answer::Absent { .. }));
        assert!(l.all(Ino(5)).is_none());
        let old = Listings::new(Duration::ZERO, Duration::ZERO, 100);
        old.put(Ino(5), Instant::now(), vec![item("a")]);
        assert!(matches!(old.ask(Ino(5), &name("a")), Answer::Unknown));
        assert!(old.worth_refreshing(Ino(5)));
    }

    #[test]
    fn a_missing_name_is_remembered_until_it_is_made_or_a_later_listing_has_it() {
        let l = Listings::new(Duration::from_secs(60), Duration::from_secs(60), 100);
        let absent = |name_: &str| matches!(l.ask(Ino(5), &name(name_)), Answer::Absent { .. });
        for n in ["a", "b", "c"] {
            l.missing(Ino(5), &name(n), Instant::now());
            assert!(absent(n));
        }
        assert!(matches!(l.ask(Ino(6), &name("a")), Answer::Unknown), "in another directory");
        l.touch(Ino(5), &name("a"), true);
        assert!(!absent("a") && absent("b"));
        l.put(Ino(5), Instant::now(), vec![item("b")]);
        assert!(!absent("b") && absent("c"));
        l.forget(Ino(5));
        assert!(!absent("b") && !absent("c"));
        let never = Listings::new(Duration::from_secs(60), Duration::ZERO, 100);
        never.missing(Ino(5), &name("a"), Instant::now());
        assert!(matches!(never.ask(Ino(5), &name("a")), Answer::Unknown));
    }

    #[test]
    fn the_bound_counts_entries_of_all_directories() {
        let l = Listings::new(Duration::from_secs(60), Duration::from_secs(60), 10);
        for dir in 2..20 {
            l.put(Ino(dir), Instant::now(), vec![item("a"), item("b"), item("c")]);
            assert!(l.entries() <= 10);
        }
        l.put(Ino(50), Instant::now(), (0..11).map(|i| item(&i.to_string())).collect());
        assert!(matches!(l.ask(Ino(50), &name("1")), Answer::Unknown));
        l.put(Ino(19), Instant::now(), vec![]);
        let before = l.entries();
        l.forget(Ino(19));
        assert_eq!(l.entries(), before - 1);
    }
}

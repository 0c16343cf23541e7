//! Many names of one directory asked for one by one (untar, `git clone`, `stat` of a list of names): then a listing of
//! the directory costs less than the questions.
//!
//! 1. Each question costs a HEAD and a LIST. The first few are asked as they come; from then on pages of the directory
//!    are listed, never more than there were questions, so that a wrong guess stays cheap. A complete
//!    listing answers for every name, present or absent.
//! 2. A listing does not tell mode, owner and times. Where the files seen so far have some of their own, it answers for
//!    absent names only, and a file that is there is asked for by HEAD alone.
//! 3. A directory that is too large to be listed within `metadata_ttl` is left alone for a while, twice as long each
//!    time.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;

use super::Fs;
use super::attr::{FileKind, is_posix_name};
use super::inode::Ino;
use super::known::Item;
use super::listing::{From, Shown};
use super::page::parse_page;
use crate::budget::{Budget, Lease};
use crate::error::{Kind, Result};
use crate::key::Key;
use crate::s3::ObjectMeta;

/// Directories followed at the same time.
const DIRS: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// Questions that are asked one by one.
const FEW: u32 = 4;
/// Files without attributes of their own after which a listing tells as much as a HEAD.
const PLAIN: u32 = 3;
/// The same of files anywhere in the mount.
const PLAIN_ANYWHERE: u32 = 8;
/// First pause after a directory turned out to be too large, and the longest one.
const PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// The pages of a listing so far.
pub(super) struct Partial {
    asked: Instant,
    items: Vec<Arc<Item>>,
    held: Vec<Arc<Item>>,
    /// What had been unlinked when one of the pages was asked for.
    buried: HashSet<Key>,
    next: Option<From>,
    /// Of the bound on all of them, and of the mount's memory.
    leases: Option<(Lease, Lease)>,
}

impl Partial {
    fn new() -> Partial {
        Partial {
            asked: Instant::now(),
            items: Vec::new(),
            held: Vec::new(),
            buried: HashSet::new(),
            next: None,
            leases: None,
        }
    }

    /// Takes memory for more entries. Errors: [`Kind::NoMemory`].
    fn pay(&mut self, room: &Arc<Budget>, budget: &Arc<Budget>, more: &[Arc<Item>]) -> Result<()> {
        let bytes = more.iter().map(|i| i.cost()).sum();
        let (Some(a), Some(b)) = (room.spare_lease(bytes), budget.try_lease(bytes)) else {
            return Err(Kind::NoMemory.into());
        };
        match &mut self.leases {
            None => self.leases = Some((a, b)),
            Some(of) => {
                of.0.merge(a);
                of.1.merge(b);
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Burst {
    /// When the first of the questions was asked.
    since: Option<Instant>,
    asked: u32,
    pages: u32,
    running: bool,
    parked: Option<Box<Partial>>,
    /// Files in a row that had no attributes of their own.
    plain: u32,
    rest: Option<(Instant, Duration)>,
}

pub(super) struct Bursts {
    dirs: Mutex<LruCache<Ino, Burst>>,
    /// How long a listing is believed.
    ttl: Duration,
    /// Memory for listings that have no end yet.
    room: Arc<Budget>,
    /// Files in a row, wherever, that had no attributes of their own.
    plain: AtomicU32,
}

impl Bursts {
    /// `room`: bytes that the entries of all listings together may take that have no end yet.
    pub fn new(ttl: Duration, room: usize) -> Bursts {
        Bursts { dirs: Mutex::new(LruCache::new(DIRS)), ttl, room: Budget::new(room), plain: AtomicU32::new(0) }
    }

    /// Nothing is known of the directories that `those` are.
    pub fn forget_all(&self, those: impl Fn(Ino) -> bool) {
        let mut dirs = self.dirs.lock();
        let gone: Vec<Ino> = dirs.iter().map(|(dir, _)| *dir).filter(|dir| those(*dir)).collect();
        gone.iter().for_each(|dir| drop(dirs.pop(dir)));
    }

    /// A name of `dir` is about to be asked for. `Some`: list pages first, from the start or from where a listing
    /// stopped, and say how it went.
    fn asks(&self, dir: Ino) -> Option<Option<Box<Partial>>> {
        if self.ttl.is_zero() {
            return None;
        }
        let mut dirs = self.dirs.lock();
        let burst = dirs.get_or_insert_mut(dir, Burst::default);
        if burst.running {
            burst.asked += 1;
            return None;
        }
        if burst.since.is_none_or(|t| t.elapsed() >= self.ttl) {
            // What was listed by then is too old to be completed.
            let (plain, rest) = (burst.plain, burst.rest);
            *burst = Burst { since: Some(Instant::now()), plain, rest, ..Burst::default() };
        }
        burst.asked += 1;
        let resting = burst.rest.is_some_and(|(until, _)| Instant::now() < until);
        if resting || burst.asked <= FEW || burst.pages >= burst.asked {
            return None;
        }
        burst.running = true;
        burst.pages += 1;
        Some(burst.parked.take())
    }

    /// Whether the listing of `dir` under way may ask for one page more.
    fn goes_on(&self, dir: Ino) -> bool {
        let mut dirs = self.dirs.lock();
        let Some(burst) = dirs.get_mut(&dir) else { return false };
        let allowed = burst.pages < burst.asked;
        burst.pages += u32::from(allowed);
        allowed
    }

    /// To go on with after some more questions.
    fn park(&self, dir: Ino, partial: Box<Partial>) {
        if let Some(burst) = self.dirs.lock().get_mut(&dir) {
            burst.running = false;
            burst.parked = Some(partial);
        }
    }

    fn done(&self, dir: Ino) {
        if let Some(burst) = self.dirs.lock().get_mut(&dir) {
            (burst.running, burst.since, burst.rest) = (false, None, None);
        }
    }

    /// Listing `dir` is of no use for now.
    fn rests(&self, dir: Ino) {
        if let Some(burst) = self.dirs.lock().get_mut(&dir) {
            let pause = burst.rest.map_or(PAUSE, |(_, last)| (last * 2).min(LONGEST_PAUSE));
            (burst.running, burst.parked, burst.rest) = (false, None, Some((Instant::now() + pause, pause)));
        }
    }

    /// A file in `dir` was asked for, and this is what it is.
    pub fn saw(&self, dir: Ino, meta: &ObjectMeta) {
        let own = self.saw_somewhere(meta);
        if let Some(burst) = self.dirs.lock().get_mut(&dir) {
            burst.plain = if own { 0 } else { burst.plain.saturating_add(1) };
        }
    }

    /// As [`Bursts::saw`], of a file that nobody looked for by its name. Whether it has attributes of its own.
    pub fn saw_somewhere(&self, meta: &ObjectMeta) -> bool {
        let own = meta.headers.metadata.keys().any(|name| is_posix_name(name));
        let _ = self.plain.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |plain| {
            Some(if own { 0 } else { plain.saturating_add(1) })
        });
        own
    }

    /// Whether files of this mount seem to have no attributes of their own.
    pub fn plain_anywhere(&self) -> bool {
        self.plain.load(Ordering::Relaxed) >= PLAIN_ANYWHERE
    }

    /// Whether a listing tells as much of the files in `dir` as asking for them would.
    pub fn plain(&self, dir: Ino) -> bool {
        self.dirs.lock().peek(&dir).is_some_and(|burst| burst.plain >= PLAIN)
    }
}

impl Fs {
    /// Called before a name of `dir` is asked for by itself. True when the directory was listed instead, so that the
    /// question may have its answer. Requests: none, or one LIST here and others in the background.
    pub(super) async fn list_instead(self: &Arc<Self>, dir: Ino) -> bool {
        match self.bursts.asks(dir) {
            None => false,
            Some(Some(parked)) => {
                self.list_on(dir, parked);
                false
            }
            Some(None) => {
                self.listings.watch(dir);
                let partial = Box::new(Partial::new());
                match self.list_page(dir, partial).await {
                    Ok(None) => true,
                    Ok(Some(partial)) => {
                        if self.bursts.goes_on(dir) {
                            self.list_on(dir, partial);
                        } else {
                            self.bursts.park(dir, partial);
                        }
                        false
                    }
                    Err(e) => {
                        // The question itself will meet with the same, and has its own way to deal with it.
                        tracing::debug!("a directory is not listed: {e}");
                        self.listings.unwatch(dir);
                        self.bursts.rests(dir);
                        false
                    }
                }
            }
        }
    }

    /// Pages in the background, as far as they are worth it.
    fn list_on(self: &Arc<Self>, dir: Ino, mut partial: Box<Partial>) {
        let fs = self.clone();
        self.runtime.spawn(async move {
            loop {
                // Complete only when it is nearly too old to be believed, or larger than what can be remembered.
                let late = partial.asked.elapsed() >= fs.settings.metadata_ttl / 2;
                if late || partial.items.len() > fs.listings.most() {
                    fs.listings.unwatch(dir);
                    return fs.bursts.rests(dir);
                }
                match fs.list_page(dir, partial).await {
                    Ok(None) => return,
                    Ok(Some(more)) if fs.bursts.goes_on(dir) => partial = more,
                    Ok(Some(more)) => return fs.bursts.park(dir, more),
                    Err(e) => {
                        tracing::debug!("a directory is not listed to its end: {e}");
                        fs.listings.unwatch(dir);
                        return fs.bursts.rests(dir);
                    }
                }
            }
        });
    }

    /// One LIST of a small directory; false when it is not small any more.
    pub(super) async fn refresh_listing(self: &Arc<Self>, dir: Ino) -> Result<bool> {
        let asked = Instant::now();
        let prefix = self.inodes.prefix(dir)?;
        let mut graves = self.graves.all();
        let page = match self.page(&prefix, None).await {
            Ok(shown) if shown.next.is_none() => shown.page,
            Ok(_) => {
                self.listings.forget(dir);
                return Ok(false);
            }
            Err(e) if e.kind() == Kind::Denied => return Ok(false),
            Err(e) => return Err(e),
        };
        let mut parsed = parse_page(&prefix, &page, Vec::new(), true, self.settings.hide_odd_keys);
        // What is remembered answers for absent names, too: directories that only this mount keeps are not absent.
        for name in self.kept_below(dir) {
            if !parsed.items.iter().any(|i| i.name == name) {
                parsed.items.push(Arc::new(Item::dir(name)));
            }
        }
        graves.extend(self.graves.all());
        let buried = parsed.items.iter().any(|i| prefix.file(&i.name).is_ok_and(|k| graves.contains(&k)));
        if buried || self.inodes.names_changed_since(dir, asked) {
            return Ok(false);
        }
        self.listings.put_again(dir, asked, parsed.items);
        Ok(true)
    }

    /// One page more; `None` when that was the last and the listing is remembered.
    async fn list_page(self: &Arc<Self>, dir: Ino, mut partial: Box<Partial>) -> Result<Option<Box<Partial>>> {
        let prefix = self.inodes.prefix(dir)?;
        partial.buried.extend(self.graves.all());
        let Shown { page, next, .. } = self.page(&prefix, partial.next.take()).await?;
        partial.buried.extend(self.graves.all());
        let last = next.is_none();
        partial.next = next;
        let held = std::mem::take(&mut partial.held);
        let parsed = parse_page(&prefix, &page, held, last, self.settings.hide_odd_keys);
        partial.held = parsed.held;
        partial.pay(&self.bursts.room, self.reads.cache().budget(), &parsed.items)?;
        partial.items.extend(parsed.items);
        if !last {
            return Ok(Some(partial));
        }
        let listed: HashSet<_> = partial.items.iter().map(|i| i.name.clone()).collect();
        if listed.len() < partial.items.len() {
            // A directory that is there under two markers: `readdir` knows how to merge them.
            return Err(Kind::Unsupported.into());
        }
        // Not there any more for whoever asks here; made again meanwhile, it was noted as changed.
        let Partial { items, buried, .. } = &mut *partial;
        if !buried.is_empty() {
            items.retain(|i| i.kind == FileKind::Dir || !prefix.file(&i.name).is_ok_and(|k| buried.contains(&k)));
        }
        // What is remembered answers for absent names, too: directories that only this mount keeps are not absent.
        let kept = self.kept_below(dir).into_iter().filter(|name| !listed.contains(name));
        partial.items.extend(kept.map(|name| Arc::new(Item::dir(name))));
        // What is remembered has a lease of its own.
        drop(partial.leases.take());
        match self.listings.put_watched(dir, partial.asked, partial.items) {
            Some(evicted) => {
                for other in evicted {
                    // There is not enough memory for all that is asked for: listing them in turn would never end.
                    self.bursts.rests(other);
                }
                self.bursts.done(dir);
            }
            None => self.bursts.rests(dir),
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Name;
    use crate::s3::{ETag, Headers};

    fn meta(metadata: &[(&str, &str)]) -> ObjectMeta {
        ObjectMeta {
            size: 5,
            etag: ETag::new("e"),
            version: None,
            last_modified: None,
            headers: Headers {
                metadata: metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
                ..Headers::default()
            },
            storage_class: None,
            restore: None,
            tag_count: None,
            sse: None,
            sse_kms_key: None,
        }
    }

    fn partial() -> Box<Partial> {
        Box::new(Partial::new())
    }

    #[test]
    fn there_are_no_more_pages_than_questions() {
        let (bursts, dir) = (Bursts::new(Duration::from_secs(60), 1 << 20), Ino(7));
        for _ in 0..FEW {
            assert!(bursts.asks(dir).is_none());
        }
        assert!(matches!(bursts.asks(dir), Some(None)));
        let mut pages = 1;
        for asked in FEW + 2..200 {
            while bursts.goes_on(dir) {
                pages += 1;
            }
            assert!(pages <= asked);
            if bursts.asks(dir).is_none() {
                bursts.park(dir, partial());
            } else {
                pages += 1;
            }
        }
        assert!(pages > 190);
        assert!(Bursts::new(Duration::ZERO, 1 << 20).asks(dir).is_none());
    }

    #[test]
    fn listings_without_an_end_have_a_bound() {
        let (budget, bursts) = (Budget::new(1 << 20), Bursts::new(Duration::from_secs(60), 10_000));
        let page: Vec<_> = (0..20).map(|i| Arc::new(Item::dir(Name::of_component(&i.to_string()).unwrap()))).collect();
        let (mut a, mut b) = (partial(), partial());
        a.pay(&bursts.room, &budget, &page).unwrap();
        b.pay(&bursts.room, &budget, &page).unwrap();
        assert!(budget.used() > 8000 && a.pay(&bursts.room, &budget, &page).is_err());
        drop(b);
        a.pay(&bursts.room, &budget, &page).unwrap();
        drop(a);
        assert_eq!((budget.used(), bursts.room.used()), (0, 0));
    }

    #[test]
    fn a_directory_that_is_too_large_rests() {
        let (bursts, dir) = (Bursts::new(Duration::from_secs(60), 1 << 20), Ino(7));
        let starts = |n: u32| (0..n).filter(|_| bursts.asks(dir).is_some()).count();
        assert_eq!(starts(FEW + 1), 1);
        bursts.rests(dir);
        assert_eq!(starts(1000), 0);
        let pause = || bursts.dirs.lock().peek(&dir).unwrap().rest.unwrap().1;
        assert_eq!(pause(), PAUSE);
        bursts.rests(dir);
        assert_eq!(pause(), 2 * PAUSE);
    }

    #[test]
    fn attributes_of_their_own_make_files_worth_asking_for() {
        let (bursts, dir) = (Bursts::new(Duration::from_secs(60), 1 << 20), Ino(7));
        bursts.asks(dir);
        for _ in 0..PLAIN {
            assert!(!bursts.plain(dir));
            bursts.saw(dir, &meta(&[("note", "x")]));
        }
        assert!(bursts.plain(dir));
        bursts.saw(dir, &meta(&[("mode", "33188")]));
        assert!(!bursts.plain(dir));
    }
}

//! Programs that go through a whole tree (find, du, rsync, rm -r): its directories are listed ahead of them, many at
//! a time, by flat listings (no delimiter).
//!
//! 1. The second directory below one that was listed a moment ago is a walk. Its root is the directory above.
//! 2. What remains is cut at directories whose names are known. Some neighbouring ones, about a page full, make a run:
//!    a flat listing from the first to the last of them. Runs are listed at the same time, lowest keys first.
//! 3. Pages are paid for by pages that were of use: at most twice as many and one are asked for in advance. So a
//!    program that does not enter what lies below (`ls */`) costs one page more than it would have.
//! 4. This only foretells listings. What was not foretold in time is listed by itself; what this mount changed since is
//!    forgotten; what is older than half a `metadata_ttl` is dropped. Its memory is a sixteenth of the budget.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Fs;
use super::flat::{Complete, Flat};
use super::inode::Ino;
use super::known::{ITEM_BYTES, Item};
use super::page::{Parsed, parse_page};
use crate::budget::Lease;
use crate::error::Result;
use crate::key::{Key, Prefix};
use crate::s3::{Continue, ListQuery, Page};

/// Directories whose listings began a moment ago.
const BEGUN: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// Walks at the same time.
const WALKS: usize = 8;
/// Pages asked for and not of use yet, and requests under way, of one walk.
const AHEAD: u64 = 32;
const FLYING: usize = 12;
/// Requests under way of all walks: some connections are left for others.
const ALL_FLYING: usize = 24;
/// Keys of a page, as most stores have it, less some for directories that are larger than others.
const PAGE_KEYS: u64 = 900;
/// A walk that listed nothing for so long has ended.
const IDLE: Duration = Duration::from_secs(30);
/// Directories that a walk knows by name: some to come, and some with what is in them.
const TODO: usize = 20_000;
const LISTED: usize = 1000;

/// Consecutive directories that one flat listing goes through.
struct Run {
    flat: Flat,
    /// Sorted, none inside another; everything in them is listed.
    bounds: Vec<String>,
    /// The prefix that the request names.
    scope: String,
    next: Option<Continue>,
    /// Everything up to this key has been seen.
    position: String,
}

impl Run {
    fn last(&self) -> &str {
        self.bounds.last().map_or("", String::as_str)
    }

    /// The bound that `text` is or is in.
    fn bound_of(&self, text: &str) -> Option<&str> {
        let at = self.bounds.partition_point(|b| b.as_str() <= text).checked_sub(1)?;
        Some(self.bounds[at].as_str()).filter(|b| text.starts_with(b))
    }
}

/// A directory that nobody has asked for yet.
struct Ready {
    asked: Instant,
    parsed: Parsed,
    /// Whether the page has been of use.
    page: Arc<AtomicBool>,
    _share: Share,
}

/// A lease, counted with those of all walks.
struct Share {
    lease: Lease,
    held: Arc<AtomicUsize>,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.held.fetch_sub(self.lease.bytes(), Ordering::Relaxed);
    }
}

/// A request under way: where it began and the last bound of its run.
struct Flight {
    number: u64,
    from: String,
    last: String,
}

#[derive(Default)]
struct Plan {
    /// Directories nobody has begun to list.
    todo: BTreeSet<String>,
    /// Directories that were listed by themselves, and the directories in them.
    listed: HashMap<String, Vec<String>>,
    parked: Vec<Run>,
    flying: Vec<Flight>,
    ready: HashMap<String, Ready>,
    /// Pages asked for, and those of which something was of use.
    asked: u64,
    used: u64,
    /// Keys seen in bounds that are complete, and their number.
    keys: u64,
    bounds: u64,
    /// The farthest directory the program has come to, and how often it went back.
    reach: String,
    back: u32,
    /// Directories in a row that were not foretold.
    missed: u32,
    /// Memory was short: nothing more until what is ready has been taken.
    short: bool,
    /// The store does not answer.
    dead: bool,
}

enum Seen {
    Ready(Box<Ready>),
    /// The flight of this number may bring it.
    Coming(u64),
    Not,
}

impl Plan {
    fn visit(&mut self, dir: &str, freshness: Duration) -> Seen {
        if dir < self.reach.as_str() {
            self.back += 1;
        } else {
            self.reach = dir.to_owned();
        }
        if let Some(ready) = self.ready.remove(dir).filter(|r| r.asked.elapsed() < freshness) {
            if !ready.page.swap(true, Ordering::Relaxed) {
                self.used += 1;
            }
            self.missed = 0;
            return Seen::Ready(Box::new(ready));
        }
        let covers = |f: &&Flight| {
            (f.from.as_str() <= dir || f.from.starts_with(dir)) && (dir <= f.last.as_str() || dir.starts_with(&f.last))
        };
        match self.flying.iter().find(covers) {
            Some(flight) => Seen::Coming(flight.number),
            None => {
                self.todo.remove(dir);
                self.missed += 1;
                Seen::Not
            }
        }
    }

    /// What is left of `bounds` behind `position` is to be done; of a bound that `position` is in, only what is known
    /// of its directories.
    fn requeue(&mut self, bounds: Vec<String>, position: &str) {
        let mut todo = bounds;
        while let Some(bound) = todo.pop() {
            if bound.as_str() > position {
                self.todo.insert(bound);
            } else if position.starts_with(&bound)
                && let Some(inside) = self.listed.get(&bound)
            {
                todo.extend(inside.iter().cloned());
            }
        }
    }

    /// Directory `dir` was listed by itself; how many entries it has, and the directories in it.
    fn was_listed(&mut self, dir: &str, entries: usize, inside: Vec<String>) {
        self.todo.remove(dir);
        if entries as u64 > PAGE_KEYS && inside.is_empty() {
            // A page that brought none such to its end says nothing of the program.
            if self.flying.is_empty() && self.ready.is_empty() {
                self.asked = self.used;
            }
            (self.keys, self.bounds) = (self.keys + entries as u64, self.bounds + 1);
        }
        let begun = |run: &Run| run.position.starts_with(dir);
        // Where a listing is on its way through it, the rest can go faster in several.
        if self.listed.len() >= LISTED {
            self.listed.clear();
        }
        let in_it = self.parked.iter().any(begun) || self.flying.iter().any(|f| f.from.starts_with(dir));
        if in_it || self.parked.iter().any(|r| r.bound_of(dir).is_some()) {
            self.listed.insert(dir.to_owned(), inside);
            let (cut, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.parked).into_iter().partition(begun);
            self.parked = others;
            for run in cut {
                self.park(run);
            }
        } else if !self.flying.iter().any(|f| f.from.as_str() <= dir && dir <= f.last.as_str()) {
            self.todo.extend(inside.into_iter().filter(|d| d.as_str() > self.reach.as_str()));
        } else {
            self.listed.insert(dir.to_owned(), inside);
        }
    }

    /// A run that is not at its end. It keeps the directory it is in; others can take what comes after.
    fn park(&mut self, mut run: Run) {
        let Some(bound) = run.bound_of(&run.position).map(str::to_owned) else {
            // Among files of directories that were listed before.
            return self.requeue(run.bounds, &run.position);
        };
        let mut keeps = bound;
        while let Some(inside) = self.listed.get(&keeps) {
            match inside.iter().find(|d| run.position.starts_with(d.as_str())) {
                Some(deeper) => keeps = deeper.clone(),
                None => return self.requeue(run.bounds, &run.position),
            }
        }
        let bounds = std::mem::take(&mut run.bounds);
        self.requeue(bounds, &run.position);
        run.bounds = vec![keeps];
        self.parked.push(run);
    }

    fn may_ask(&self) -> bool {
        let short = self.short && !self.ready.is_empty();
        let ahead = (2 * self.used + 1).min(AHEAD);
        !self.dead && !short && self.asked - self.used < ahead && self.flying.len() < FLYING
    }

    /// The program is at `from` and goes on to these.
    fn goes_through(&mut self, from: &str, todo: BTreeSet<String>) {
        (self.todo, self.reach) = (todo, from.to_owned());
        (self.back, self.missed) = (0, 0);
        self.parked.clear();
        self.listed.clear();
    }

    /// The next page to ask for, if one may be.
    fn next_run(&mut self, root: &str) -> Option<Run> {
        if !self.may_ask() {
            return None;
        }
        self.short = false;
        if self.back <= 2 {
            // What the program has left behind it will not ask for.
            let reach = self.reach.clone();
            let passed = |run: &Run| run.position < reach;
            let (behind, ahead): (Vec<_>, Vec<_>) = std::mem::take(&mut self.parked).into_iter().partition(passed);
            self.parked = ahead;
            for run in behind {
                self.requeue(run.bounds, &reach);
            }
            while self.todo.first().is_some_and(|d| *d < reach) {
                self.todo.pop_first();
            }
        }
        let parked = (0..self.parked.len()).min_by_key(|i| &self.parked[*i].position);
        if let Some(i) = parked.filter(|i| self.todo.first().is_none_or(|d| self.parked[*i].position < *d)) {
            return Some(self.parked.swap_remove(i));
        }
        let most = match self.keys.checked_div(self.bounds) {
            None => usize::MAX,
            Some(each) => usize::try_from(PAGE_KEYS / each.max(1)).unwrap_or(1).max(1),
        };
        let mut bounds = Vec::new();
        while bounds.len() < most
            && let Some(dir) = self.todo.pop_first()
        {
            bounds.push(dir);
        }
        let first = bounds.first()?.clone();
        let (scope, next) = if bounds.len() == 1 {
            (first.clone(), None)
        } else {
            // All keys in the first directory come after its name alone.
            (root.to_owned(), Some(Continue::After(first.trim_end_matches('/').to_owned())))
        };
        // `//` has nothing before it that could be named.
        let next = next.filter(|n| !matches!(n, Continue::After(key) if key.len() <= root.len()));
        Some(Run { flat: Flat::new(root), bounds, scope, next, position: first })
    }

    /// A page has come; the directories that are complete now.
    fn land(&mut self, mut run: Run, page: Page, asked: Instant) -> Vec<Complete> {
        let mut done = Vec::new();
        let (first, last) = (run.bounds.first().cloned().unwrap_or_default(), run.last().to_owned());
        let mut ended = page.next.is_none();
        let mut keys = 0;
        let passed = |run: &Run, position: &str| run.bounds.partition_point(|b| b.as_str() <= position) as u64;
        let before = passed(&run, &run.position);
        for listed in page.objects {
            if listed.key < first {
                continue;
            }
            if listed.key > last && !listed.key.starts_with(&last) {
                ended = true;
                break;
            }
            run.position.clone_from(&listed.key);
            keys += 1;
            run.flat.push(listed, asked, &mut done);
        }
        // The one it is in counts when it is left.
        self.keys += keys;
        self.bounds += if ended { run.bounds.len() as u64 + 1 - before } else { passed(&run, &run.position) - before };
        run.next = page.next;
        if ended {
            run.flat.finish(&mut done);
        }
        done.retain(|d| run.bound_of(&d.prefix).is_some());
        if !ended {
            self.park(run);
        }
        done
    }
}

struct Walk {
    root: Prefix,
    plan: Mutex<Plan>,
    landed: Notify,
    last: Mutex<Instant>,
}

/// A directory whose listing began.
struct Begun {
    at: Instant,
    /// The last directory in it that was listed, and how many there were.
    last: Option<Ino>,
    inside: u32,
}

struct Inner {
    begun: LruCache<Ino, Begun>,
    walks: Vec<Arc<Walk>>,
}

pub(super) struct Walks {
    inner: Mutex<Inner>,
    /// How long a listing is believed.
    ttl: Duration,
    flights: AtomicU64,
    flying: AtomicUsize,
    /// Bytes that all walks hold.
    held: Arc<AtomicUsize>,
}

impl Walks {
    pub fn new(ttl: Duration) -> Walks {
        let inner = Inner { begun: LruCache::new(BEGUN), walks: Vec::new() };
        Walks {
            inner: Mutex::new(inner),
            ttl,
            flights: AtomicU64::new(0),
            flying: AtomicUsize::new(0),
            held: Arc::default(),
        }
    }

    /// Names have moved.
    pub fn clear(&self) {
        let mut inner = self.inner.lock();
        inner.walks.clear();
        inner.begun.clear();
    }

    /// Notes that `dir` is about to be listed, in the directories `above` it, innermost first; true when the first of
    /// them is being walked through.
    fn begins(&self, dir: Ino, above: &[Ino]) -> bool {
        let mut inner = self.inner.lock();
        let now = Instant::now();
        inner.begun.put(dir, Begun { at: now, last: None, inside: 0 });
        let mut walking = false;
        for (i, ino) in above.iter().enumerate() {
            let Some(begun) = inner.begun.get_mut(ino).filter(|b| b.at.elapsed() < self.ttl) else { break };
            begun.at = now;
            if i == 0 {
                begun.inside += u32::from(begun.last.replace(dir) != Some(dir));
                walking = begun.inside >= 2;
            }
        }
        walking
    }

    /// Drops what nobody will ask for; false when `walk` has ended.
    fn sweep(&self, walk: &Arc<Walk>) -> bool {
        let mut inner = self.inner.lock();
        inner.walks.retain(|w| w.last.lock().elapsed() < IDLE);
        walk.plan.lock().ready.retain(|_, r| r.asked.elapsed() < self.ttl / 2);
        inner.walks.iter().any(|w| Arc::ptr_eq(w, walk))
    }

    /// The walk that `dir` is in.
    fn around(&self, dir: &str) -> Option<Arc<Walk>> {
        let mut inner = self.inner.lock();
        inner.walks.retain(|w| w.last.lock().elapsed() < IDLE);
        let inside = |w: &&Arc<Walk>| dir.len() > w.root.as_str().len() && dir.starts_with(w.root.as_str());
        inner.walks.iter().filter(inside).max_by_key(|w| w.root.as_str().len()).cloned()
    }

    /// `keys`: how many the directory before those to do has, if that is known.
    fn start(&self, root: Prefix, todo: BTreeSet<String>, keys: Option<u64>) -> Arc<Walk> {
        let mut inner = self.inner.lock();
        let mut plan =
            Plan { todo, keys: keys.unwrap_or_default(), bounds: u64::from(keys.is_some()), ..Plan::default() };
        // A walk that has left its root goes on above it.
        inner.walks.retain(|w| {
            let below = w.root.as_str().starts_with(root.as_str());
            if below {
                let used = w.plan.lock().used;
                plan.used += used;
                plan.asked += used;
            }
            !below
        });
        if inner.walks.len() >= WALKS {
            inner.walks.remove(0);
        }
        let walk =
            Arc::new(Walk { root, plan: Mutex::new(plan), landed: Notify::new(), last: Mutex::new(Instant::now()) });
        inner.walks.push(walk.clone());
        walk
    }
}

impl Fs {
    /// Called when a listing of `dir` begins that memory does not have: what was listed ahead of it, and when that was
    /// asked for. Waits for one page at most.
    pub(super) async fn walked(self: &Arc<Self>, dir: Ino, prefix: &Prefix) -> Option<(Instant, Parsed)> {
        if self.trees.ttl.is_zero() || self.settings.as_of.is_some() {
            return None;
        }
        let above: Vec<Ino> =
            std::iter::successors(self.inodes.place(dir), |(at, _)| self.inodes.place(*at)).map(|(at, _)| at).collect();
        let walking = self.trees.begins(dir, &above);
        let walk = match self.trees.around(prefix.as_str()) {
            Some(walk) => walk,
            None if walking => self.start_walk(*above.first()?, prefix)?,
            None => return None,
        };
        *walk.last.lock() = Instant::now();
        let freshness = self.trees.ttl / 2;
        let mut waited = None;
        loop {
            let landed = walk.landed.notified();
            tokio::pin!(landed);
            // Registered before the look, so that a page that lands in between is not missed.
            landed.as_mut().enable();
            let seen = walk.plan.lock().visit(prefix.as_str(), freshness);
            match seen {
                Seen::Ready(ready) => {
                    self.fly(&walk);
                    let Ready { asked, parsed, .. } = *ready;
                    // What this mount did to it since is not in it.
                    let changed =
                        self.listings.changed_since(dir, asked) || self.inodes.names_changed_since(dir, asked);
                    return (!changed).then_some((asked, parsed));
                }
                Seen::Coming(flight) if waited.is_none_or(|w| w == flight) => {
                    waited = Some(flight);
                    landed.await;
                }
                _ => {
                    let lost = walking && {
                        let plan = walk.plan.lock();
                        plan.missed > 2 && plan.may_ask()
                    };
                    if lost && self.inodes.prefix(above[0]).is_ok_and(|root| root == walk.root) {
                        let todo = self.todo(above[0], &walk.root, prefix)?;
                        walk.plan.lock().goes_through(prefix.as_str(), todo);
                    }
                    self.fly(&walk);
                    return None;
                }
            }
        }
    }

    /// The directories in `root` from `from` on, as they were listed.
    fn todo(&self, root: Ino, above: &Prefix, from: &Prefix) -> Option<BTreeSet<String>> {
        let names = self.listings.directories(root)?;
        let mut todo: BTreeSet<String> = names
            .iter()
            .filter_map(|name| above.dir(name).ok())
            .filter(|dir| dir >= from)
            .map(|dir| dir.as_str().to_owned())
            .collect();
        if let Some(end) = todo.iter().nth(TODO).cloned() {
            todo.split_off(&end);
        }
        Some(todo)
    }

    fn start_walk(self: &Arc<Self>, root: Ino, from: &Prefix) -> Option<Arc<Walk>> {
        let above = self.inodes.prefix(root).ok()?;
        let todo = self.todo(root, &above, from)?;
        let names = self.listings.directories(root)?;
        let before = names.iter().rev().find(|n| above.dir(n).is_ok_and(|d| d < *from));
        let before = before.and_then(|name| self.inodes.child(root, name));
        // Of small ones, as many as there may be are tried at once.
        let keys = before.and_then(|inode| self.listings.count(inode.ino)).map(|n| n as u64);
        let keys = keys.filter(|n| *n > PAGE_KEYS / 2);
        let walk = self.trees.start(above, todo, keys);
        self.fly(&walk);
        let (fs, swept, pause) = (Arc::downgrade(self), walk.clone(), self.trees.ttl.min(IDLE));
        self.runtime.spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                if !fs.upgrade().is_some_and(|fs| fs.trees.sweep(&swept)) {
                    return;
                }
            }
        });
        Some(walk)
    }

    /// A directory was listed by itself.
    pub(super) fn walked_past(self: &Arc<Self>, prefix: &Prefix, items: &[Arc<Item>]) {
        let Some(walk) = self.trees.around(prefix.as_str()) else { return };
        let dirs = items.iter().filter(|i| i.kind == super::FileKind::Dir && i.odd_marker.is_none());
        let inside = dirs.filter_map(|i| Some(prefix.dir(&i.name).ok()?.as_str().to_owned())).collect();
        walk.plan.lock().was_listed(prefix.as_str(), items.len(), inside);
        self.fly(&walk);
    }

    /// Asks for as many pages as may be asked for now.
    fn fly(self: &Arc<Self>, walk: &Arc<Walk>) {
        loop {
            let number = self.trees.flights.fetch_add(1, Ordering::Relaxed);
            let mut plan = walk.plan.lock();
            let freshness = self.trees.ttl / 2;
            plan.ready.retain(|_, r| r.asked.elapsed() < freshness);
            if self.trees.flying.load(Ordering::Relaxed) >= ALL_FLYING {
                return;
            }
            let Some(run) = plan.next_run(walk.root.as_str()) else { return };
            self.trees.flying.fetch_add(1, Ordering::Relaxed);
            plan.asked += 1;
            plan.flying.push(Flight { number, from: run.position.clone(), last: run.last().to_owned() });
            drop(plan);
            let (fs, walk) = (self.clone(), walk.clone());
            self.runtime.spawn(async move {
                let asked = Instant::now();
                let mut buried = fs.graves.all();
                let query = ListQuery { prefix: &run.scope, delimited: false, from: run.next.clone(), max_keys: None };
                let page = fs.s3.list(&query).await;
                buried.extend(fs.graves.all());
                fs.trees.flying.fetch_sub(1, Ordering::Relaxed);
                fs.landed(&walk, number, run, page, (asked, &buried));
                walk.landed.notify_waiters();
                if *walk.last.lock() + IDLE > Instant::now() {
                    fs.fly(&walk);
                }
            });
        }
    }

    fn landed(&self, walk: &Walk, number: u64, run: Run, page: Result<Page>, when: (Instant, &HashSet<Key>)) {
        let (asked, buried) = when;
        let page = match page {
            Ok(page) => page,
            Err(e) => {
                tracing::debug!("a tree is not listed ahead of the program: {e}");
                let mut plan = walk.plan.lock();
                plan.dead = true;
                return plan.flying.retain(|f| f.number != number);
            }
        };
        let complete = walk.plan.lock().land(run, page, asked);
        let used = Arc::new(AtomicBool::new(false));
        let mut ready = Vec::with_capacity(complete.len());
        let mut short = false;
        for Complete { prefix: text, asked, page } in complete {
            // A name that cannot be reached.
            let Ok(prefix) = Prefix::of_listed(&text) else { continue };
            if !buried.is_empty() && page.objects.iter().any(|o| Key::new(&o.key).is_ok_and(|k| buried.contains(&k))) {
                continue;
            }
            let parsed = parse_page(&prefix, &page, Vec::new(), true, self.settings.hide_odd_keys);
            let bytes = text.len() + parsed.items.iter().map(|i| ITEM_BYTES + i.name.as_str().len()).sum::<usize>();
            let Some(share) = self.walk_share(bytes) else {
                short = true;
                break;
            };
            ready.push((text, Ready { asked, parsed, page: used.clone(), _share: share }));
        }
        let mut plan = walk.plan.lock();
        plan.short |= short;
        plan.ready.extend(ready);
        plan.flying.retain(|f| f.number != number);
    }

    fn walk_share(&self, bytes: usize) -> Option<Share> {
        let (budget, held) = (self.reads.cache().budget(), &self.trees.held);
        if held.load(Ordering::Relaxed) + bytes > budget.limit() / 16 {
            return None;
        }
        let lease = budget.try_lease(bytes)?;
        held.fetch_add(bytes, Ordering::Relaxed);
        Some(Share { lease, held: held.clone() })
    }
}

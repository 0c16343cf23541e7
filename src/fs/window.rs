//! What an open directory has shown so far, in a bounded part of memory.
//!
//! 1. A position counts entries from the start of the listing and stands for the same name as long as the handle is open:
//!    cookies are positions (telldir, seekdir).
//! 2. Entries came in chunks, a page each. All of them stay while they are as many as a listing may be that is remembered;
//!    with more, the chunks that the reader is not in keep nothing but a hash of each name, and where they were listed.
//! 3. Who seeks back into such a chunk has it listed again. By its hash a name finds its position again; a name that is
//!    gone leaves a hole, which is passed over, and a new one has no position and is not shown.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::Fs;
use super::inode::Ino;
use super::known::Item;
use super::listing::{From, Shown, Source};
use super::page::{end_of, parse_page};
use crate::budget::{Budget, Lease};
use crate::error::Result;
use crate::key::{Name, stable_hash};

/// Chunks around the reader that stay: the kernel asks again for what did not fit into a program's buffer.
const NEAR: usize = 2;
/// The hash of no name.
const HOLE: u64 = 0;
/// What a chunk takes without its entries, bytes.
const CHUNK_BYTES: usize = 512;

/// Where a chunk was listed.
#[derive(Clone)]
pub(super) struct Origin {
    /// `None`: at the start.
    pub from: Option<From>,
    /// What the page before kept back.
    pub held: Vec<Arc<Item>>,
    /// The last key of its page; empty where entries have no order of keys.
    pub until: String,
}

enum Entry {
    /// `None`: the name is gone.
    Here(Vec<Option<Arc<Item>>>),
    Hashes(Box<[u64]>),
}

struct Chunk {
    first: usize,
    /// When its page was asked for.
    asked: Instant,
    /// `None`: only this mount knows it, or others have it in memory, too.
    origin: Option<Origin>,
    entries: Entry,
}

impl Chunk {
    fn len(&self) -> usize {
        match &self.entries {
            Entry::Here(items) => items.len(),
            Entry::Hashes(hashes) => hashes.len(),
        }
    }

    /// Bytes that it takes.
    fn cost(&self) -> usize {
        match &self.entries {
            _ if self.origin.is_none() => 0,
            Entry::Here(items) => CHUNK_BYTES + items.iter().flatten().map(|i| i.cost()).sum::<usize>(),
            Entry::Hashes(hashes) => CHUNK_BYTES + size_of_val::<[u64]>(hashes),
        }
    }

    fn has(&self, name: &Name) -> bool {
        match &self.entries {
            Entry::Here(items) => items.iter().flatten().any(|i| i.name == *name),
            Entry::Hashes(hashes) => hashes.contains(&hash(name)),
        }
    }
}

fn hash(name: &Name) -> u64 {
    stable_hash(name.as_str().as_bytes()).max(HOLE + 1)
}

/// What is at a position.
pub(super) enum Step {
    /// Entries from this position on, and when they were asked for.
    Here(usize, Vec<Arc<Item>>, Instant),
    /// Nothing up to this position.
    Holes(usize),
    /// It has to be listed again.
    Gone(Gone),
    /// Nothing came so far.
    End,
}

/// A chunk that has to be listed again.
pub(super) struct Gone {
    chunk: usize,
    origin: Origin,
    hashes: Box<[u64]>,
}

#[derive(Default)]
pub(super) struct Window {
    chunks: Vec<Chunk>,
    len: usize,
    /// What the chunks take.
    bytes: usize,
    lease: Option<Lease>,
}

impl Window {
    /// Positions so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The next entries, asked for at `asked`.
    pub fn push(&mut self, items: Vec<Arc<Item>>, asked: Instant, origin: Option<Origin>) {
        let entries = Entry::Here(items.into_iter().map(Some).collect());
        let chunk = Chunk { first: self.len, asked, origin, entries };
        self.len += chunk.len();
        self.bytes += chunk.cost();
        if chunk.len() > 0 {
            self.chunks.push(chunk);
        }
    }

    /// Every entry, if all are here.
    pub fn all(&self) -> Option<Vec<Arc<Item>>> {
        let mut all = Vec::with_capacity(self.len);
        for chunk in &self.chunks {
            let Entry::Here(items) = &chunk.entries else { return None };
            all.extend(items.iter().cloned().collect::<Option<Vec<_>>>()?);
        }
        Some(all)
    }

    pub fn has(&self, name: &Name) -> bool {
        self.chunks.iter().any(|chunk| chunk.has(name))
    }

    /// Takes those of `names` away that came so far.
    pub fn strike<T>(&self, names: &mut HashMap<Name, T>) {
        let mut hashes: HashMap<u64, Name> = HashMap::new();
        for chunk in &self.chunks {
            if names.is_empty() {
                return;
            }
            match &chunk.entries {
                Entry::Here(items) => items.iter().flatten().for_each(|i| drop(names.remove(&i.name))),
                Entry::Hashes(all) => {
                    if hashes.is_empty() {
                        hashes = names.keys().map(|n| (hash(n), n.clone())).collect();
                    }
                    all.iter().filter_map(|h| hashes.get(h)).for_each(|n| drop(names.remove(n)));
                }
            }
        }
    }

    fn chunk_of(&self, position: usize) -> Option<usize> {
        self.chunks.partition_point(|c| c.first <= position).checked_sub(1).filter(|_| position < self.len)
    }

    /// At most `most` entries from `position` on.
    pub fn at(&self, position: usize, most: usize) -> Step {
        let Some(index) = self.chunk_of(position) else { return Step::End };
        let chunk = &self.chunks[index];
        let items = match (&chunk.entries, &chunk.origin) {
            (Entry::Here(items), _) => items,
            (Entry::Hashes(hashes), Some(origin)) => {
                return Step::Gone(Gone { chunk: index, origin: origin.clone(), hashes: hashes.clone() });
            }
            (Entry::Hashes(_), None) => return Step::Holes(chunk.first + chunk.len()),
        };
        let end = chunk.first + items.len();
        let Some(start) = (position..end).find(|at| items[at - chunk.first].is_some()) else {
            return Step::Holes(end);
        };
        let found = items[start - chunk.first..].iter().map_while(Option::clone).take(most).collect();
        Step::Here(start, found, chunk.asked)
    }

    /// Puts back what was listed again at `asked`, an entry or a hole for each position of the chunk.
    fn put_back(&mut self, index: usize, entries: Vec<Option<Arc<Item>>>, asked: Instant) {
        let Some(chunk) = self.chunks.get_mut(index).filter(|c| c.len() == entries.len()) else { return };
        self.bytes -= chunk.cost();
        (chunk.entries, chunk.asked) = (Entry::Here(entries), asked);
        self.bytes += chunk.cost();
    }

    /// Keeps to `most` bytes, and to what `budget` gives, around a reader at `position`.
    pub fn fit(&mut self, position: usize, most: usize, budget: &Arc<Budget>) {
        if self.bytes <= most && self.leases(budget) {
            return;
        }
        let reader = self.chunk_of(position).unwrap_or(self.chunks.len());
        for (index, chunk) in self.chunks.iter_mut().enumerate() {
            if index + NEAR >= reader && index <= reader + NEAR || chunk.origin.is_none() {
                continue;
            }
            if let Entry::Here(items) = &chunk.entries {
                let hashes = items.iter().map(|i| i.as_ref().map_or(HOLE, |i| hash(&i.name))).collect();
                self.bytes -= chunk.cost();
                chunk.entries = Entry::Hashes(hashes);
                self.bytes += chunk.cost();
            }
        }
        // What is left is what somebody reads right now.
        self.leases(budget);
    }

    /// Whether the budget has what the chunks take.
    fn leases(&mut self, budget: &Arc<Budget>) -> bool {
        let held = self.lease.as_ref().map_or(0, Lease::bytes);
        if self.bytes <= held {
            if let Some(lease) = &mut self.lease {
                drop(lease.split(held - self.bytes));
            }
            return true;
        }
        let Some(more) = budget.try_lease(self.bytes - held) else { return false };
        match &mut self.lease {
            Some(lease) => lease.merge(more),
            None => self.lease = Some(more),
        }
        true
    }

    /// Chunks of which only hashes are here.
    #[cfg(test)]
    fn gone(&self) -> usize {
        self.chunks.iter().filter(|c| matches!(c.entries, Entry::Hashes(_))).count()
    }
}

/// Gives entries their positions back.
struct Places {
    by_hash: HashMap<u64, Vec<usize>>,
    found: Vec<Option<Arc<Item>>>,
    left: usize,
}

impl Places {
    fn new(hashes: &[u64]) -> Places {
        let mut by_hash: HashMap<u64, Vec<usize>> = HashMap::new();
        for (at, hash) in hashes.iter().enumerate().rev().filter(|(_, hash)| **hash != HOLE) {
            by_hash.entry(*hash).or_default().push(at);
        }
        let left = by_hash.values().map(Vec::len).sum();
        Places { by_hash, found: vec![None; hashes.len()], left }
    }

    fn take(&mut self, item: Arc<Item>) {
        if let Some(at) = self.by_hash.get_mut(&hash(&item.name)).and_then(Vec::pop) {
            self.found[at] = Some(item);
            self.left -= 1;
        }
    }
}

impl Fs {
    /// Lists a chunk again and puts it back. Requests: a page, and more where many names were added in it since.
    pub(super) async fn list_again(
        self: &Arc<Self>,
        dir: Ino,
        source: &Source,
        window: &mut Window,
        gone: Gone,
    ) -> Result<()> {
        let Gone { chunk, origin: Origin { mut from, mut held, until }, hashes } = gone;
        let asked = Instant::now();
        let mut buried = self.graves.all();
        let mut places = Places::new(&hashes);
        while places.left > 0 {
            let Shown { page, versions, next } = self.page_of(source, from.take()).await?;
            let last = next.is_none();
            let over = last || !until.is_empty() && end_of(&page) >= until.as_str();
            let mut items = Vec::new();
            match source {
                Source::Keys(prefix) => {
                    let parsed = parse_page(prefix, &page, held, last, self.settings.hide_odd_keys);
                    items.extend(parsed.items);
                    held = parsed.held;
                }
                Source::Versions(of) => {
                    let mut still_held = Vec::new();
                    self.add_versions(of, versions, &page, (held, last || over), (&mut items, &mut still_held));
                    held = still_held;
                }
            }
            items.into_iter().for_each(|item| places.take(item));
            if over {
                // Then nothing behind it said that it is a directory.
                held.drain(..).for_each(|item| places.take(item));
                break;
            }
            from = next;
        }
        let mut found = places.found;
        if let Source::Keys(prefix) = source {
            buried.extend(self.graves.all());
            let is_buried = |i: &Arc<Item>| prefix.file(&i.name).is_ok_and(|k| buried.contains(&k));
            let here: Vec<usize> = (0..found.len())
                .filter(|at| found[*at].as_ref().is_some_and(|i| buried.is_empty() || !is_buried(i)))
                .collect();
            let items = here.iter().filter_map(|at| found[*at].take()).collect();
            let items = self.tell_links(dir, prefix, items).await;
            found.fill(None);
            for (at, item) in here.into_iter().zip(items) {
                found[at] = Some(item);
            }
        }
        window.put_back(chunk, found, asked);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> Name {
        Name::of_component(&format!("{n:05}")).unwrap()
    }

    fn origin() -> Option<Origin> {
        Some(Origin { from: None, held: Vec::new(), until: "z".into() })
    }

    fn window(chunks: usize) -> Window {
        let mut window = Window::default();
        for chunk in 0..chunks {
            let items = (0..100).map(|n| Arc::new(Item::dir(name(chunk * 100 + n)))).collect();
            window.push(items, Instant::now(), origin());
        }
        window
    }

    #[test]
    fn what_the_reader_has_passed_keeps_its_positions_and_no_more() {
        let budget = Budget::new(1 << 20);
        let mut w = window(20);
        let all = w.bytes;
        w.fit(1950, all, &budget);
        assert_eq!((w.gone(), budget.used()), (0, all));
        assert_eq!(w.all().map(|all| all.len()), Some(2000));
        w.fit(1950, all - 1, &budget);
        assert_eq!((w.gone(), w.len()), (17, 2000));
        assert!(w.bytes < all / 4 && budget.used() == w.bytes);
        assert!(w.all().is_none());
        assert!(w.has(&name(5)) && w.has(&name(1999)) && !w.has(&name(2000)));
        let mut names: HashMap<Name, ()> = [5, 1999, 2000].map(|n| (name(n), ())).into();
        w.strike(&mut names);
        assert_eq!(names.into_keys().collect::<Vec<_>>(), [name(2000)]);
        let Step::Here(1950, items, _) = w.at(1950, 10) else { panic!("the reader's own") };
        assert_eq!((items.len(), &items[0].name), (10, &name(1950)));
        assert!(matches!(w.at(2000, 10), Step::End));
        assert!(matches!(w.at(150, 10), Step::Gone(Gone { chunk: 1, .. })));
        drop(w);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_is_listed_again_finds_its_positions() {
        let budget = Budget::new(1 << 20);
        let mut w = window(20);
        w.fit(1950, 0, &budget);
        let Step::Gone(gone) = w.at(130, 10) else { panic!("given up") };
        let mut places = Places::new(&gone.hashes);
        // 131 is gone, 99 is another chunk's, and one is new.
        for item in (100..200).filter(|n| *n != 131).chain([99, 12_345]) {
            places.take(Arc::new(Item::dir(name(item))));
        }
        assert_eq!(places.left, 1);
        w.put_back(gone.chunk, places.found, Instant::now());
        let Step::Here(130, items, _) = w.at(130, 10) else { panic!("here again") };
        assert_eq!(items.len(), 1);
        let Step::Here(132, items, _) = w.at(131, 1000) else { panic!("a hole is passed over") };
        assert_eq!((items.len(), &items[67].name), (68, &name(199)));
        // A hole stays one.
        w.fit(1950, 0, &budget);
        let Step::Gone(gone) = w.at(130, 10) else { panic!("given up again") };
        assert_eq!((gone.hashes[31], Places::new(&gone.hashes).left), (HOLE, 99));
    }

    #[test]
    fn without_memory_only_what_is_being_read_stays() {
        let budget = Budget::new(1 << 20);
        let _taken = budget.try_lease(budget.limit()).unwrap();
        let mut w = window(20);
        w.fit(1000, usize::MAX, &budget);
        assert_eq!(w.gone(), 15);
        let mut own = Window::default();
        own.push(vec![Arc::new(Item::dir(name(1)))], Instant::now(), None);
        own.fit(0, 0, &budget);
        assert_eq!((own.gone(), own.bytes), (0, 0));
    }
}

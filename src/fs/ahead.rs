//! Small files fetched before they are opened, where a directory is read in the order of its listing; and files opened
//! without leaving the FUSE thread.
//!
//! 1. One GET brings the metadata and the bytes of the version that was listed (`If-Match`): the look-up, the open and
//!    the read that follow ask for nothing. If the object is another one by now, they find out by themselves.
//! 2. Whoever comes while a file is being asked for, ahead or by somebody who opens it, waits for the answer instead of
//!    asking the same. A failure is not shared: who waited asks in its own name.
//! 3. It is speculation: it never waits, for a request or for memory, and takes a part of what there is of both.
//!
//! Lock: `dirs` is taken before the table's and the inodes', `pending` is a leaf.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::Fs;
use super::attr::{FileKind, is_archive_class, is_directory_object};
use super::file::{OpenMode, Opened};
use super::inode::Ino;
use super::known::{Edition, Item};
use super::walk::{AFTER, BEFORE, Fetch, Walk};
use crate::cache::BLOCK;
use crate::error::Error;
use crate::key::{Key, Name};

/// Directories followed at the same time.
const DIRS: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// Files being fetched ahead at the same time: 1,600 files/s at 20 ms, half of the requests there may be.
const PARALLEL: usize = 32;
/// Directories entered in a row at their first file, after which the next one is taken for a part of the same walk.
const DESCENTS: u32 = 4;
/// Files opened in a row that are not sorted by name, after which the other order is looked at; the largest directory
/// that is sorted for it, and how many are kept.
const UNORDERED: u32 = 8;
const SORTED_MOST: usize = 20_000;
const SORTED_DIRS: usize = 4;
/// How soon a directory that was changed is sorted again.
const SORT_AGAIN: Duration = Duration::from_secs(10);
/// How far up a directory tells its ancestors.
const LEVELS: usize = 16;

/// The files of a directory by their inode number: `cp -r` sorts them so, because on a disk they then lie in a row.
#[derive(Default)]
enum ByNumber {
    #[default]
    Unknown,
    /// A task sorts them.
    Sorting(Edition),
    Sorted(Edition, Arc<Vec<(Ino, Arc<Item>)>>),
}

#[derive(Default)]
struct Dir {
    walk: Walk,
    number_walk: Walk,
    by_number: ByNumber,
    /// When they were sorted last.
    sorted: Option<Instant>,
    /// Files opened out of the order of their names, one after the other.
    unordered: u32,
    /// Directories below that were entered at their first file, since one was not.
    descents: u32,
}

pub(super) struct Aheads {
    dirs: Mutex<LruCache<Ino, Dir>>,
    /// Being asked for, until the answer is known.
    pending: Mutex<HashMap<Key, watch::Receiver<()>>>,
    slots: Arc<Semaphore>,
}

impl Aheads {
    pub fn new() -> Aheads {
        let slots = Arc::new(Semaphore::new(PARALLEL));
        Aheads { dirs: Mutex::new(LruCache::new(DIRS)), pending: Mutex::default(), slots }
    }
}

/// The right to ask for a file: while it lives, others wait for what it brings.
pub(super) struct Turn {
    fs: Arc<Fs>,
    key: Key,
    _done: watch::Sender<()>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Before the sender goes, so that nobody who was woken finds it again.
        self.fs.aheads.pending.lock().remove(&self.key);
    }
}

impl Fs {
    /// `name` in `dir` was opened for reading: fetches what will most likely be opened next. Never waits.
    pub(super) fn fetch_next(self: &Arc<Self>, dir: Ino, name: &Name) {
        if self.settings.metadata_ttl.is_zero() || !self.reads.reads_ahead() {
            return;
        }
        let Some(around) = self.listings.around(dir, name, BEFORE, AFTER) else { return };
        let is_first = || {
            let mut files = around.items.iter().filter(|i| i.kind != FileKind::Dir);
            around.from_start && files.next().is_some_and(|first| first.name == *name)
        };
        let goes_on = {
            let new = self.aheads.dirs.lock().get_or_insert_mut(dir, Dir::default).walk.is_new();
            new && self.descended(dir, is_first())
        };
        let mut wanted = Vec::new();
        let mut fetch = |item: &Arc<Item>| {
            let Some(key) = self.worth_fetching(dir, item) else { return Fetch::NotWorth };
            match self.aheads.slots.clone().try_acquire_owned() {
                Ok(slot) => {
                    wanted.push((item.clone(), key, slot));
                    Fetch::Started
                }
                Err(_) => Fetch::NoRoom,
            }
        };
        let mut sort = false;
        {
            let mut dirs = self.aheads.dirs.lock();
            let state = dirs.get_or_insert_mut(dir, Dir::default);
            state.walk.opened(&around.items, name, goes_on, &mut fetch);
            state.unordered = if state.walk.goes_on() { 0 } else { state.unordered.saturating_add(1) };
            if state.unordered >= UNORDERED {
                match &state.by_number {
                    ByNumber::Sorted(edition, files) if *edition == around.edition => {
                        if let Some(items) = self.around_by_number(dir, name, files) {
                            state.number_walk.opened(&items, name, false, &mut fetch);
                        }
                    }
                    ByNumber::Sorting(edition) if *edition == around.edition => {}
                    _ if state.sorted.is_none_or(|t| t.elapsed() > SORT_AGAIN) => {
                        state.by_number = ByNumber::Sorting(around.edition);
                        state.sorted = Some(Instant::now());
                        sort = true;
                    }
                    _ => {}
                }
            }
        }
        if sort {
            let fs = self.clone();
            self.runtime.spawn(async move { fs.sort_by_number(dir, around.edition) });
        }
        for (item, key, slot) in wanted {
            self.start_ahead(dir, item, key, slot);
        }
    }

    fn around_by_number(&self, dir: Ino, name: &Name, files: &[(Ino, Arc<Item>)]) -> Option<Vec<Arc<Item>>> {
        let number = self.inodes.child(dir, name)?.ino;
        let at = files.binary_search_by_key(&number, |(n, _)| *n).ok()?;
        let (from, to) = (at.saturating_sub(BEFORE), (at + 1 + AFTER).min(files.len()));
        Some(files[from..to].iter().map(|(_, item)| item.clone()).collect())
    }

    fn sort_by_number(&self, dir: Ino, edition: Edition) {
        let items = self.listings.edition(dir, edition, SORTED_MOST).unwrap_or_default();
        let files = items.into_iter().filter(|i| i.kind != FileKind::Dir);
        let mut files: Vec<_> = files.map(|i| (self.ino_of_entry(dir, &i.name, i.kind), i)).collect();
        files.sort_unstable_by_key(|(number, _)| *number);
        let mut dirs = self.aheads.dirs.lock();
        if let Some(state) = dirs.get_mut(&dir) {
            state.by_number = ByNumber::Sorted(edition, Arc::new(files));
        }
        let sorted = dirs.iter_mut().filter(|(_, state)| matches!(state.by_number, ByNumber::Sorted(..)));
        sorted.skip(SORTED_DIRS).for_each(|(_, state)| state.by_number = ByNumber::Unknown);
    }

    /// Tells the directories above `dir` that it is entered, at its first file or not; whether it goes on with a walk
    /// through them.
    fn descended(&self, dir: Ino, at_first: bool) -> bool {
        let mut above = Vec::new();
        let mut at = dir;
        while at != self.root() && above.len() < LEVELS {
            let Some((parent, _)) = self.inodes.place(at) else { break };
            above.push(parent);
            at = parent;
        }
        let mut dirs = self.aheads.dirs.lock();
        let mut goes_on = false;
        for parent in above {
            let dir = dirs.get_or_insert_mut(parent, Dir::default);
            goes_on |= at_first && dir.descents >= DESCENTS;
            dir.descents = if at_first { dir.descents.saturating_add(1) } else { 0 };
        }
        goes_on
    }

    /// The key of `item` if fetching it saves somebody a request.
    fn worth_fetching(&self, dir: Ino, item: &Item) -> Option<Key> {
        if item.kind != FileKind::File || !(1..=BLOCK as u64).contains(&item.size) {
            return None;
        }
        // Of a mount of the past: there the version has to be named.
        if item.version.is_some() || item.storage_class.as_deref().is_some_and(is_archive_class) {
            return None;
        }
        let told = self.inodes.child(dir, &item.name).map(|inode| {
            let state = inode.state.lock();
            if state.writer.is_some() || !state.stored || state.attr_pending {
                return None;
            }
            let fresh = state.confirmed.is_some_and(|t| t.elapsed() < self.settings.metadata_ttl);
            Some(fresh && state.facts.meta.is_some())
        });
        let told = match told {
            Some(None) => return None,
            Some(Some(told)) => told,
            None => false,
        };
        let key = self.inodes.prefix(dir).ok()?.file(&item.name).ok()?;
        let here = told && self.reads.cache().has_first_block(&key);
        (!here && !self.aheads.pending.lock().contains_key(&key)).then_some(key)
    }

    fn start_ahead(self: &Arc<Self>, dir: Ino, item: Arc<Item>, key: Key, slot: OwnedSemaphorePermit) {
        let Ok(turn) = self.enter(&key) else { return };
        self.runtime.spawn(async move {
            let _slot = slot;
            if let Err(e) = turn.fs.fetch_ahead(dir, &item, &turn.key).await {
                tracing::debug!(key = %turn.key, error = %e, "not fetched ahead");
            }
        });
    }

    async fn fetch_ahead(self: &Arc<Self>, dir: Ino, item: &Item, key: &Key) -> Result<(), Error> {
        let asked = Instant::now();
        let buried = self.graves.contains(key);
        let meta = self.reads.open_ahead(key, item.etag.as_ref(), item.size).await?;
        let moved = self.inodes.prefix(dir).and_then(|p| p.file(&item.name)).is_ok_and(|now| now != *key);
        let changed = self.inodes.names_changed_since(dir, asked);
        if buried || moved || changed || is_directory_object(meta.size, &meta.headers) {
            return Ok(());
        }
        if let Some(inode) = self.inodes.child(dir, &item.name) {
            let state = inode.state.lock();
            if state.writer.is_some() || !state.stored || state.changed.is_some_and(|c| c >= asked) {
                return Ok(());
            }
        }
        self.absorb_file(dir, &item.name, key, &meta, asked).map(|_| ())
    }

    /// The turn to ask for `key`, or what tells that somebody else's is over.
    fn enter(self: &Arc<Self>, key: &Key) -> Result<Turn, watch::Receiver<()>> {
        let mut pending = self.aheads.pending.lock();
        if let Some(waiting) = pending.get(key) {
            return Err(waiting.clone());
        }
        let (done, waiting) = watch::channel(());
        pending.insert(key.clone(), waiting);
        Ok(Turn { fs: self.clone(), key: key.clone(), _done: done })
    }

    /// Waits while somebody else asks for `key`; the turn to ask next, unless it is somebody else's again. In either case
    /// what was asked for may be known now.
    pub(super) async fn turn(self: &Arc<Self>, key: &Key) -> Option<Turn> {
        match self.enter(key) {
            Ok(turn) => Some(turn),
            Err(mut waiting) => {
                // Ends with an error when the sender goes: nothing is ever sent.
                let _ = waiting.changed().await;
                self.enter(key).ok()
            }
        }
    }

    /// Opens an existing file for reading if that takes no request. `None`: call [`Fs::open`].
    pub fn open_now(self: &Arc<Self>, ino: Ino, mode: OpenMode) -> Option<Result<Opened, Error>> {
        if mode.write || mode.truncate {
            return None;
        }
        let inode = self.inodes.get(ino).ok()?;
        {
            let state = inode.state.lock();
            if state.attr.kind != FileKind::File || state.writer.is_some() {
                return None;
            }
        }
        let (key, _) = self.inodes.target(&inode).ok()?;
        match self.known_object(&inode, &key) {
            Ok(object) => {
                let object = object?;
                if inode.state.lock().is_through_another(Some(&object).filter(|_| !mode.direct)) {
                    return None;
                }
                Some(Ok(self.open_object(&inode, mode, object)))
            }
            Err(e) => Some(Err(e)),
        }
    }
}

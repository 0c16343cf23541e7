//! The inode table: which inode is where in the tree, and what is known of it.
//!
//! 1. The structure (parent, name, children, lookup counts) lives under one lock of the table; what is known of an
//!    inode lives under the inode's own lock. Lock order: table, then inode; neither is ever held across an await.
//! 2. An inode does not store its key: the key is the path from the root. A renamed directory is one changed link,
//!    and every inode below it, open or not, has its new key at once.
//! 3. Inode numbers are a stable hash of the key at the time the inode was made, so that they are the same after a
//!    remount. Two live inodes never share a number: the later one takes the next free. Where several trees are in one
//!    mount, each has numbers of its own ([`Space`]).
//! 4. Inodes the kernel has forgotten are kept, least recently used last, up to a bound: they remember what a HEAD
//!    taught (mode, mtime), which no listing tells.

mod heir;
mod state;

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;

use super::attr::FileKind;
use crate::error::{Error, Kind, Result};
use crate::key::{Key, Name, Prefix, stable_hash};

pub use state::{Inode, Pinned, Role, State};

/// Names that [`Inodes::forgettable`] looks at under one lock.
pub const STEPS: usize = 512;

/// An inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

/// The root of a mount.
pub const ROOT: Ino = Space::WHOLE.root();

/// The numbers that one tree has for its inodes: all of them, or a part where several trees are in one mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    base: u64,
    mask: u64,
}

impl Space {
    /// Bits that tell the parts apart.
    const PART_BITS: u32 = 20;
    /// Parts that there can be; the first is that of [`Space::WHOLE`]'s root.
    pub const PARTS: u32 = 1 << Space::PART_BITS;
    /// Every number there is.
    pub const WHOLE: Space = Space { base: 0, mask: u64::MAX };

    /// `part`: below [`Space::PARTS`].
    pub const fn of_part(part: u32) -> Space {
        let bits = u64::BITS - Space::PART_BITS;
        Space { base: (part as u64) << bits, mask: (1 << bits) - 1 }
    }

    /// The part that a number is in, where the numbers are shared out.
    pub const fn part_of(ino: Ino) -> u32 {
        (ino.0 >> (u64::BITS - Space::PART_BITS)) as u32
    }

    pub const fn root(self) -> Ino {
        Ino(self.base | 1)
    }

    /// Whether a number is one of these.
    pub const fn has(self, ino: Ino) -> bool {
        ino.0 & !self.mask == self.base
    }

    /// The number that the inode of `key` gets, unless another live one has it. Directories hash with their `/`.
    pub fn ino_of(self, key: &str) -> Ino {
        self.number(stable_hash(key.as_bytes()))
    }

    fn after(self, ino: Ino) -> Ino {
        self.number(ino.0.wrapping_add(1))
    }

    fn number(self, any: u64) -> Ino {
        // 0 means "no entry" to the kernel and 1 is the root.
        Ino(self.base | (any & self.mask).max(2))
    }
}

struct Node {
    inode: Arc<Inode>,
    /// `None` for the root and for what has been unlinked.
    place: Option<(Ino, Name)>,
    /// Where it was when it was unlinked, for messages and for the delayed delete.
    last_key: Option<Key>,
    children: HashMap<Name, Ino>,
    /// References of the kernel.
    lookups: u64,
    /// When the kernel last got one.
    shown: Instant,
    /// Whether the kernel has asked for its attributes since.
    asked: bool,
    /// Whether it stands in `Inner::shown`.
    queued: bool,
    /// References of our own (open handles, work in the background).
    pins: u32,
    /// Directory: when this mount last added or removed a name. Listings asked for earlier are not complete.
    names_changed: Option<Instant>,
}

struct Inner {
    space: Space,
    root_prefix: Prefix,
    /// Boxed: a table that grows by half moves and wastes pointers, not nodes.
    nodes: HashMap<Ino, Box<Node>>,
    idle: LruCache<Ino, ()>,
    /// What the kernel knows, about in the order in which it learnt of it.
    shown: VecDeque<Ino>,
    /// How much the kernel knows.
    known: usize,
}

pub struct Inodes {
    space: Space,
    inner: Mutex<Inner>,
}

/// What the way from the root to a directory may lead through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// What is in the bucket now.
    Now,
    /// `.versions`, which is in no key.
    History,
    /// Every name counts.
    Names,
}

impl Inner {
    fn prefix(&self, ino: Ino, way: Way) -> Result<Prefix> {
        let mut names = Vec::new();
        let mut at = ino;
        while at != self.space.root() {
            let node = self.nodes.get(&at).ok_or(Kind::Stale)?;
            let (parent, name) = node.place.as_ref().ok_or_else(|| Error::new(Kind::NotFound, "removed directory"))?;
            match (&node.inode.role, way) {
                (Role::Versions, Way::History) => {}
                (Role::Plain, _) | (_, Way::Names) | (Role::VersionsBelow, Way::History) => names.push(name),
                _ => node.inode.changeable()?,
            }
            at = *parent;
        }
        let mut prefix = self.root_prefix.clone();
        for name in names.into_iter().rev() {
            prefix = prefix.dir(name)?;
        }
        Ok(prefix)
    }

    /// Moves `ino` between busy and idle, and drops what is too long idle.
    fn settle(&mut self, ino: Ino) {
        let Some(node) = self.nodes.get(&ino) else { return };
        let busy = ino == self.space.root() || node.lookups > 0 || node.pins > 0 || !node.children.is_empty() || {
            let state = node.inode.state.lock();
            state.writer.is_some() || state.attr_pending
        };
        if busy {
            self.idle.pop(&ino);
            return;
        }
        if node.place.is_none() {
            self.nodes.remove(&ino);
            self.idle.pop(&ino);
            return;
        }
        if let Some((old, ())) = self.idle.push(ino, ()).filter(|(old, ())| *old != ino) {
            self.evict(old);
        }
    }

    fn evict(&mut self, ino: Ino) {
        let Some(node) = self.nodes.remove(&ino) else { return };
        if let Some((parent, name)) = node.place {
            if let Some(p) = self.nodes.get_mut(&parent)
                && p.children.get(&name) == Some(&ino)
            {
                p.children.remove(&name);
                // Of a directory that stays, what is left of thousands of names is larger than itself.
                if p.children.capacity() > 16 && p.children.len() < p.children.capacity() / 4 {
                    p.children.shrink_to_fit();
                }
            }
            self.settle(parent);
        }
    }
}

impl Inodes {
    /// `remembered`: how many forgotten inodes are kept.
    pub fn new(space: Space, root_prefix: Prefix, root: State, remembered: usize) -> Inodes {
        let inode = Arc::new(Inode {
            ino: space.root(),
            role: Role::Plain,
            state: Mutex::new(root),
            changing: tokio::sync::Mutex::new(()),
        });
        let node = Node {
            inode,
            place: None,
            last_key: None,
            children: HashMap::new(),
            lookups: 1,
            shown: Instant::now(),
            asked: false,
            queued: false,
            pins: 0,
            names_changed: None,
        };
        let remembered = NonZeroUsize::new(remembered.max(1)).unwrap_or(NonZeroUsize::MIN);
        Inodes {
            space,
            inner: Mutex::new(Inner {
                space,
                root_prefix,
                nodes: HashMap::from([(space.root(), Box::new(node))]),
                idle: LruCache::new(remembered),
                shown: VecDeque::new(),
                known: 0,
            }),
        }
    }

    pub fn root(&self) -> Ino {
        self.space.root()
    }

    /// The number that the inode of `key` gets: see [`Space::ino_of`].
    pub fn ino_of(&self, key: &str) -> Ino {
        self.space.ino_of(key)
    }

    /// Errors: [`Kind::Stale`] for a number the kernel should not know.
    pub fn get(&self, ino: Ino) -> Result<Arc<Inode>> {
        let inner = self.inner.lock();
        inner.nodes.get(&ino).map(|n| n.inode.clone()).ok_or_else(|| Error::new(Kind::Stale, "unknown inode"))
    }

    pub fn child(&self, parent: Ino, name: &Name) -> Option<Arc<Inode>> {
        let inner = self.inner.lock();
        let ino = inner.nodes.get(&parent)?.children.get(name)?;
        inner.nodes.get(ino).map(|n| n.inode.clone())
    }

    /// The prefix of a directory. Errors: [`Kind::NotFound`] once it has been removed, [`Kind::ReadOnly`] for one that is
    /// made of versions.
    pub fn prefix(&self, ino: Ino) -> Result<Prefix> {
        self.inner.lock().prefix(ino, Way::Now)
    }

    /// The prefix whose versions a directory shows. Errors: as [`Inodes::prefix`].
    pub fn history_prefix(&self, ino: Ino) -> Result<Prefix> {
        self.inner.lock().prefix(ino, Way::History)
    }

    /// The key whose versions a [`Role::VersionsOf`] shows.
    pub fn history_key(&self, ino: Ino) -> Result<Key> {
        let inner = self.inner.lock();
        let node = inner.nodes.get(&ino).ok_or(Kind::Stale)?;
        let (parent, name) = node.place.as_ref().ok_or_else(|| Error::new(Kind::NotFound, "removed directory"))?;
        inner.prefix(*parent, Way::History)?.file(name)
    }

    /// Where a directory is in the tree, whatever it shows: to make inode numbers of.
    pub fn path(&self, ino: Ino) -> Result<Prefix> {
        self.inner.lock().prefix(ino, Way::Names)
    }

    /// The key of a file that may be changed. Errors: [`Kind::NotFound`] once it has been unlinked, [`Kind::ReadOnly`]
    /// for a version.
    pub fn key(&self, ino: Ino) -> Result<Key> {
        let inner = self.inner.lock();
        let node = inner.nodes.get(&ino).ok_or(Kind::Stale)?;
        node.inode.changeable()?;
        let (parent, name) = node.place.as_ref().ok_or_else(|| Error::new(Kind::NotFound, "unlinked file"))?;
        inner.prefix(*parent, Way::Now)?.file(name)
    }

    /// What requests that read a file name: its key, and the version when it is one. Errors: as [`Inodes::key`], but
    /// for the last.
    pub fn target(&self, inode: &Inode) -> Result<(Key, Option<Arc<str>>)> {
        match &inode.role {
            Role::Version(of) => Ok((of.key.clone(), Some(of.version.clone()))),
            _ => Ok((self.key(inode.ino)?, None)),
        }
    }

    /// The key a file had before it was unlinked.
    pub fn last_key(&self, ino: Ino) -> Option<Key> {
        self.inner.lock().nodes.get(&ino)?.last_key.clone()
    }

    pub fn place(&self, ino: Ino) -> Option<(Ino, Name)> {
        self.inner.lock().nodes.get(&ino)?.place.clone()
    }

    /// Whether it has a name: not once it is unlinked.
    pub fn is_linked(&self, ino: Ino) -> bool {
        ino == self.root() || self.inner.lock().nodes.get(&ino).is_some_and(|n| n.place.is_some())
    }

    /// The inode of `name`, made with `state` when there is none. An existing inode of another kind (a directory
    /// where a file was) is unlinked and replaced: it is another object.
    pub fn remember(
        &self,
        parent: Ino,
        name: &Name,
        hash_key: &str,
        state: impl FnOnce() -> State,
    ) -> Result<Arc<Inode>> {
        self.remember_kind(parent, name, hash_key, None, state)
    }

    /// As [`Inodes::remember`]; an existing inode whose kind is not `kind` is replaced.
    pub fn remember_kind(
        &self,
        parent: Ino,
        name: &Name,
        hash_key: &str,
        kind: Option<FileKind>,
        state: impl FnOnce() -> State,
    ) -> Result<Arc<Inode>> {
        self.remember_as(Role::Plain, parent, name, hash_key, kind, state)
    }

    /// As [`Inodes::remember_kind`]; an existing inode that stands for something else than `role` is replaced.
    pub fn remember_as(
        &self,
        role: Role,
        parent: Ino,
        name: &Name,
        hash_key: &str,
        kind: Option<FileKind>,
        state: impl FnOnce() -> State,
    ) -> Result<Arc<Inode>> {
        let mut inner = self.inner.lock();
        let existing = inner.nodes.get(&parent).ok_or(Kind::Stale)?.children.get(name).copied();
        if let Some(ino) = existing {
            let node = inner.nodes.get(&ino).ok_or(Kind::Stale)?;
            if node.inode.role == role && kind.is_none_or(|k| node.inode.kind() == k) {
                let inode = node.inode.clone();
                if inner.idle.contains(&ino) {
                    inner.idle.promote(&ino);
                }
                return Ok(inode);
            }
            detach(&mut inner, ino);
        }
        let mut ino = self.space.ino_of(hash_key);
        while inner.nodes.contains_key(&ino) {
            ino = self.space.after(ino);
        }
        let inode = Arc::new(Inode { ino, role, state: Mutex::new(state()), changing: tokio::sync::Mutex::new(()) });
        let node = Node {
            inode: inode.clone(),
            place: Some((parent, name.clone())),
            last_key: None,
            children: HashMap::new(),
            lookups: 0,
            shown: Instant::now(),
            asked: false,
            queued: false,
            pins: 0,
            names_changed: None,
        };
        inner.nodes.insert(ino, Box::new(node));
        if let Some(p) = inner.nodes.get_mut(&parent) {
            p.children.insert(name.clone(), ino);
        }
        inner.idle.pop(&parent);
        inner.settle(ino);
        Ok(inode)
    }

    /// Raises the kernel's reference count: call it before the reply that hands the number out. How many inodes there
    /// are.
    pub fn looked_up(&self, ino: Ino) -> usize {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        if let Some(node) = inner.nodes.get_mut(&ino) {
            inner.known += usize::from(node.lookups == 0);
            node.lookups += 1;
            (node.shown, node.asked) = (Instant::now(), false);
            if !std::mem::replace(&mut node.queued, true) {
                inner.shown.push_back(ino);
            }
        }
        inner.idle.pop(&ino);
        if inner.shown.len() > 2 * inner.known + 1024 {
            let nodes = &mut inner.nodes;
            inner.shown.retain(|ino| {
                nodes.get_mut(ino).is_some_and(|n| std::mem::replace(&mut n.queued, n.lookups > 0) && n.queued)
            });
        }
        inner.nodes.len()
    }

    /// Whether this is the first question for the attributes of `ino` since the kernel got its number.
    pub fn is_first_question(&self, ino: Ino) -> bool {
        self.inner.lock().nodes.get_mut(&ino).is_some_and(|node| !std::mem::replace(&mut node.asked, true))
    }

    /// Names that the kernel can be told to forget, oldest first: files that are not in use, of which it has known for
    /// longer than `age`, while it knows of more than `few`; of any age and with cached pages while of more than
    /// `many`. Looks at a number of names; the second value tells whether it makes sense to go on. `told`: how many it
    /// may be about to forget.
    pub fn forgettable(&self, few: usize, many: usize, age: Duration, told: usize) -> (Vec<(Ino, Name)>, bool) {
        let mut inner = self.inner.lock();
        let mut found = Vec::new();
        for _ in 0..STEPS {
            let count = inner.known.saturating_sub(told + found.len());
            if count <= few {
                return (found, false);
            }
            let Some(ino) = inner.shown.pop_front() else { return (found, false) };
            let Some(node) = inner.nodes.get_mut(&ino) else { continue };
            if node.lookups == 0 {
                node.queued = false;
                continue;
            }
            let (old, crowded) = (node.shown.elapsed() >= age, count > many);
            if !old && !crowded {
                inner.shown.push_front(ino);
                return (found, false);
            }
            let in_use = node.pins > 0 || !node.children.is_empty() || {
                let state = node.inode.state.lock();
                state.attr.kind == FileKind::Dir
                    || state.writer.is_some()
                    || state.attr_pending
                    || state.handles.iter().any(|h| h.strong_count() > 0)
                    || (state.pages.is_some() && !crowded)
            };
            // The kernel may use it in a way that is not known here: then its turn comes again.
            inner.shown.push_back(ino);
            if let Some(place) = inner.nodes.get(&ino).and_then(|n| n.place.clone()).filter(|_| !in_use) {
                found.push(place);
            }
        }
        (found, true)
    }

    /// Lets go of inodes that the kernel has forgotten, least recently used first, until there are `most`.
    pub fn remember_at_most(&self, most: usize) {
        let mut inner = self.inner.lock();
        while inner.idle.len() > most {
            let Some((ino, ())) = inner.idle.pop_lru() else { return };
            inner.evict(ino);
        }
    }

    pub fn forget(&self, ino: Ino, count: u64) {
        let mut inner = self.inner.lock();
        let forgotten = inner.nodes.get_mut(&ino).is_some_and(|node| {
            let before = node.lookups;
            node.lookups = before.saturating_sub(count);
            before > 0 && node.lookups == 0
        });
        inner.known = inner.known.saturating_sub(usize::from(forgotten));
        inner.settle(ino);
    }

    pub fn pin(&self, ino: Ino) {
        let mut inner = self.inner.lock();
        if let Some(node) = inner.nodes.get_mut(&ino) {
            node.pins += 1;
        }
        inner.idle.pop(&ino);
    }

    pub fn unpin(&self, ino: Ino) {
        let mut inner = self.inner.lock();
        if let Some(node) = inner.nodes.get_mut(&ino) {
            node.pins = node.pins.saturating_sub(1);
        }
        inner.settle(ino);
    }

    /// Takes `ino` out of the tree; open handles keep it alive. Remembers the key it had.
    pub fn unlink(&self, ino: Ino) {
        let mut inner = self.inner.lock();
        detach(&mut inner, ino);
    }

    /// Moves `ino` to another place, unlinking what was there.
    pub fn rename(&self, ino: Ino, parent: Ino, name: &Name) -> Result<()> {
        let mut inner = self.inner.lock();
        if !inner.nodes.contains_key(&parent) || !inner.nodes.contains_key(&ino) {
            return Err(Kind::Stale.into());
        }
        let there = inner.nodes.get(&parent).and_then(|p| p.children.get(name)).copied();
        if let Some(there) = there.filter(|t| *t != ino) {
            detach(&mut inner, there);
        }
        let old = inner.nodes.get_mut(&ino).and_then(|n| n.place.replace((parent, name.clone())));
        if let Some((old_parent, old_name)) = old
            && let Some(p) = inner.nodes.get_mut(&old_parent)
        {
            p.children.remove(&old_name);
            p.names_changed = Some(Instant::now());
            inner.settle(old_parent);
        }
        if let Some(p) = inner.nodes.get_mut(&parent) {
            p.children.insert(name.clone(), ino);
            p.names_changed = Some(Instant::now());
        }
        inner.idle.pop(&parent);
        Ok(())
    }

    /// Notes that this mount added or removed a name in the directory.
    pub fn names_changed(&self, dir: Ino) {
        if let Some(node) = self.inner.lock().nodes.get_mut(&dir) {
            node.names_changed = Some(Instant::now());
        }
    }

    /// Whether this mount changed the directory's names after `since`.
    pub fn names_changed_since(&self, dir: Ino, since: Instant) -> bool {
        self.inner.lock().nodes.get(&dir).is_none_or(|n| n.names_changed.is_some_and(|t| t >= since))
    }

    /// The inodes this mount knows directly below `dir`.
    pub fn children(&self, dir: Ino) -> Vec<(Name, Arc<Inode>)> {
        let inner = self.inner.lock();
        let Some(node) = inner.nodes.get(&dir) else { return Vec::new() };
        node.children
            .iter()
            .filter_map(|(name, ino)| Some((name.clone(), inner.nodes.get(ino)?.inode.clone())))
            .collect()
    }

    /// Every inode at or below `dir`.
    pub fn subtree(&self, dir: Ino) -> Vec<Arc<Inode>> {
        let inner = self.inner.lock();
        let mut found = Vec::new();
        let mut todo = vec![dir];
        while let Some(ino) = todo.pop() {
            if let Some(node) = inner.nodes.get(&ino) {
                found.push(node.inode.clone());
                todo.extend(node.children.values());
            }
        }
        found
    }

    /// Whether `below` is `dir` or inside it.
    pub fn is_inside(&self, below: Ino, dir: Ino) -> bool {
        let inner = self.inner.lock();
        let mut at = below;
        loop {
            if at == dir {
                return true;
            }
            match inner.nodes.get(&at).and_then(|n| n.place.as_ref()) {
                Some((parent, _)) => at = *parent,
                None => return false,
            }
        }
    }

    pub fn all(&self) -> Vec<Arc<Inode>> {
        self.inner.lock().nodes.values().map(|n| n.inode.clone()).collect()
    }

    /// Lets go of `ino` if nothing holds it any more.
    pub fn settle(&self, ino: Ino) {
        self.inner.lock().settle(ino);
    }

    /// How many inodes the kernel knows.
    pub fn known(&self) -> usize {
        self.inner.lock().known
    }

    /// How many names a directory has memory for.
    #[cfg(test)]
    pub fn room_in(&self, dir: Ino) -> usize {
        self.inner.lock().nodes.get(&dir).map_or(0, |n| n.children.capacity())
    }

    /// (inodes in the table, of them kept only as memory)
    pub fn counts(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        (inner.nodes.len(), inner.idle.len())
    }
}

fn detach(inner: &mut Inner, ino: Ino) {
    let key = inner
        .nodes
        .get(&ino)
        .and_then(|n| n.place.clone())
        .and_then(|(p, name)| inner.prefix(p, Way::Now).ok()?.file(&name).ok());
    let Some(node) = inner.nodes.get_mut(&ino) else { return };
    if let Some((parent, name)) = node.place.take() {
        node.last_key = key;
        if let Some(p) = inner.nodes.get_mut(&parent) {
            p.children.remove(&name);
            p.names_changed = Some(Instant::now());
        }
        inner.settle(parent);
    }
    inner.settle(ino);
}

//! Finding names, and keeping what is known of them in step with the store.
//!
//! 1. A name nobody has listed costs a HEAD of the file and a LIST of the directory at the same time; the directory
//!    wins. Inside a listing that is fresh it costs nothing. Where files are opened as soon as they are found, a GET
//!    of the first block takes the place of the HEAD.
//! 2. Only a real 404 makes a name absent; any other failure is that failure.
//! 3. An answer to a request that was sent before this mount changed the object is old news and is dropped.
//! 4. A listing tells no mode, owner or mtime. What HEAD or GET taught stays as long as the ETag is the same.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use super::attr::{Attr, Facts, FileKind, is_directory_object};
use super::copy::may_be_link;
use super::inode::{Ino, Inode, Role, State};
use super::kept::Known;
use super::known::{Answer, Item};
use super::page::FOLDER_SUFFIX;
use super::{Entry, Fs};
use crate::error::{Error, Kind, Result};
use crate::key::{Key, Name, Prefix};
use crate::s3::{ListQuery, ObjectMeta};

/// The answer to a lookup.
#[derive(Clone, Debug)]
pub enum Lookup {
    Found(Entry),
    /// There is no such name, and the kernel may believe that for so long.
    Absent(Duration),
}

/// What the store says of a name.
pub(super) enum Found {
    Dir { marker: Option<Key>, time: Option<SystemTime> },
    File(Box<ObjectMeta>),
    Nothing,
}

/// Whether two looks at one version found the same of everything a program can change but the access time.
fn same_but_times(a: &Attr, b: &Attr) -> bool {
    (a.kind, a.size, a.perm, a.uid, a.gid, a.mtime) == (b.kind, b.size, b.perm, b.uid, b.gid, b.mtime)
}

impl Fs {
    fn fresh(&self, state: &State) -> Option<Duration> {
        let left = self.settings.metadata_ttl.checked_sub(state.confirmed?.elapsed())?;
        (!left.is_zero()).then_some(left)
    }

    /// How long the kernel may believe what is known of `state`.
    fn ttl(&self, state: &State) -> Duration {
        if state.writer.is_some() || !state.stored {
            // Nobody else can know better than this mount.
            return self.settings.metadata_ttl;
        }
        self.fresh(state).unwrap_or(Duration::ZERO)
    }

    pub(super) fn entry(&self, inode: &Inode) -> Entry {
        let links = u32::from(self.inodes.is_linked(inode.ino));
        let state = inode.state.lock();
        let mut ttl = self.ttl(&state);
        if inode.ino == self.root() {
            ttl = self.settings.metadata_ttl;
        }
        Entry { ino: inode.ino, attr: state.current(), links, ttl }
    }

    /// Whether the inode can be shown without asking.
    fn is_current(&self, inode: &Inode) -> bool {
        let state = inode.state.lock();
        if inode.ino == self.root() || state.writer.is_some() || !state.stored {
            return true;
        }
        // A listing tells nothing of a directory's mode: whoever asks for it by name gets the marker's.
        let told = state.attr.kind != FileKind::Dir || state.marker_told || !self.settings.store_attrs;
        told && self.fresh(&state).is_some()
    }

    /// Whether asking for an entry of `dir` would tell more than a listing made for look-ups.
    fn wants_more(&self, dir: Ino, item: &Item) -> bool {
        item.kind != FileKind::Dir && (!self.bursts.plain(dir) || may_be_link(item.size, item.etag.as_ref()))
    }

    /// What memory says of a name in the bucket.
    pub(super) fn lookup_known(&self, parent: Ino, name: &Name) -> Option<Lookup> {
        if let Some(inode) = self.inodes.child(parent, name)
            && self.is_current(&inode)
        {
            return Some(Lookup::Found(self.entry(&inode)));
        }
        match self.listings.ask(parent, name) {
            Answer::Absent { .. } if self.is_kept(parent, name) => {
                // Emptied on this mount: the bucket does not list it, and it is here all the same.
                let inode = self.absorb_dir(parent, name, None, None, Instant::now(), false).ok()?;
                Some(Lookup::Found(self.entry(&inode)))
            }
            Answer::Absent { age } => {
                // The inode of a name that is absent here would have been current.
                Some(Lookup::Absent(self.settings.negative_ttl.saturating_sub(age)))
            }
            // The listing says less of a file than asking for it would.
            Answer::Present { item, thin: true, .. } if self.wants_more(parent, &item) => None,
            Answer::Present { item, at, .. } => {
                let inode = self.absorb_item(parent, &item, at).ok()?;
                self.is_current(&inode).then(|| Lookup::Found(self.entry(&inode)))
            }
            Answer::Unknown => None,
        }
    }

    /// Requests: none inside a fresh listing; else HEAD and LIST at once (XOS-OBJ-19, XOS-OBJ-01).
    pub async fn lookup(self: &Arc<Self>, parent: Ino, name: &Name) -> Result<Lookup> {
        let name = &match self.resolved_name(parent, name).await {
            Err(e) if e.kind() == Kind::NotFound => return Ok(Lookup::Absent(Duration::ZERO)),
            other => other?,
        };
        if let Some(answer) = self.lookup_now(parent, name) {
            return Ok(answer);
        }
        if self.inodes.get(parent)?.role.is_history() {
            return self.lookup_version(parent, name).await;
        }
        let _turn = match self.inodes.prefix(parent).and_then(|p| p.file(name)) {
            Ok(key) => self.turn(&key).await,
            Err(_) => None,
        };
        if let Some(answer) = self.lookup_now(parent, name) {
            return Ok(answer);
        }
        if self.listings.worth_refreshing(parent)
            && self.refresh_listing(parent).await?
            && let Some(answer) = self.lookup_now(parent, name)
        {
            return Ok(answer);
        }
        if matches!(self.listings.ask(parent, name), Answer::Unknown)
            && self.list_instead(parent).await
            && let Some(answer) = self.lookup_now(parent, name)
        {
            return Ok(answer);
        }
        if let Some(Lookup::Absent(_)) = self.lookup_known(parent, name) {
            return self.lookup_history(parent, name).await;
        }
        if let Some(inode) = self.inodes.child(parent, name).filter(|i| i.kind() == FileKind::Dir) {
            let fresh = self.fresh(&inode.state.lock()).is_some();
            if fresh {
                // Listed a moment ago: only its marker is not known.
                self.learn_marker(&inode).await?;
                return Ok(Lookup::Found(self.entry(&inode)));
            }
        }
        match self.find(parent, name).await? {
            Some(inode) => Ok(Lookup::Found(self.entry(&inode))),
            None => self.lookup_history(parent, name).await,
        }
    }

    /// The inode of `name`, asking the store when memory does not know. `None`: there is no such name.
    pub(super) async fn child(self: &Arc<Self>, parent: Ino, name: &Name) -> Result<Option<Arc<Inode>>> {
        match self.lookup(parent, name).await? {
            Lookup::Found(entry) => Ok(Some(self.inodes.get(entry.ino)?)),
            Lookup::Absent(_) => Ok(None),
        }
    }

    /// As [`Fs::child`], and ENOENT when there is none.
    pub(super) async fn existing(self: &Arc<Self>, parent: Ino, name: &Name) -> Result<Arc<Inode>> {
        self.child(parent, name).await?.ok_or_else(|| Error::new(Kind::NotFound, "look up").with_key(name))
    }

    /// The escape of a too long component, typed by somebody: only the parent's listing knows the component.
    pub(super) async fn resolved_name(self: &Arc<Self>, parent: Ino, name: &Name) -> Result<Name> {
        if !name.needs_listing() {
            return Ok(name.clone());
        }
        let handle = super::DirHandle::new(parent);
        let mut offset = 0;
        loop {
            let batch = self.readdir(&handle, offset).await?;
            if let Some(item) = batch.items.iter().find(|i| i.name == *name) {
                return Ok(item.name.clone());
            }
            if batch.items.is_empty() {
                return Err(Error::new(Kind::NotFound, "look up").with_key(name));
            }
            offset += batch.items.len() as u64;
        }
    }

    /// Asks the store for `name` and brings the table up to date.
    async fn find(self: &Arc<Self>, parent: Ino, name: &Name) -> Result<Option<Arc<Inode>>> {
        let asked = Instant::now();
        let prefix = self.inodes.prefix(parent)?;
        let hint = self.inodes.child(parent, name).map(|i| i.kind());
        // The delete may be done before the answer that does not know of it is here.
        let was_buried = prefix.file(name).is_ok_and(|k| self.graves.contains(&k));
        let listed = self.listings.has_file(parent, name);
        let found = self.ask_store(&prefix, name, hint, listed, self.habits.opens_next(parent)).await?;
        if let Found::File(meta) = &found {
            self.habits.looked_up(parent);
            self.bursts.saw(parent, meta);
        }
        let known = self.inodes.child(parent, name);
        if let Some(inode) = &known {
            // Somebody here opened, created or committed it meanwhile: this mount knows better.
            let state = inode.state.lock();
            if state.writer.is_some() || !state.stored || state.changed.is_some_and(|c| c >= asked) {
                drop(state);
                return Ok(known);
            }
        }
        match found {
            Found::Nothing => {
                if let Some(inode) = known.filter(|i| i.role == Role::Plain) {
                    if inode.kind() == FileKind::Dir && self.kept.lock().contains(&prefix.dir(name)?) {
                        inode.state.lock().confirmed = Some(asked);
                        return Ok(Some(inode));
                    }
                    self.inodes.unlink(inode.ino);
                } else if prefix.dir(name).is_ok_and(|p| self.kept.lock().contains(&p)) {
                    return self.absorb_dir(parent, name, None, None, asked, false).map(Some);
                }
                if !self.inodes.names_changed_since(parent, asked) {
                    self.listings.missing(parent, name, asked);
                }
                Ok(None)
            }
            Found::Dir { marker, time } => {
                let inode = self.absorb_dir(parent, name, marker, time, asked, true)?;
                self.learn_marker(&inode).await?;
                Ok(Some(inode))
            }
            Found::File(meta) => {
                let key = prefix.file(name)?;
                if was_buried || self.graves.contains(&key) {
                    return Ok(None);
                }
                self.absorb_file(parent, name, &key, &meta, asked).map(Some)
            }
        }
    }

    async fn first_below(&self, dir: &Prefix) -> Result<Option<crate::s3::Listed>> {
        if let Some(time) = self.settings.as_of {
            return self.first_of_past(dir.as_str(), time).await;
        }
        let query = ListQuery { prefix: dir.as_str(), delimited: false, from: None, max_keys: Some(1) };
        Ok(self.s3.list(&query).await?.objects.into_iter().next())
    }

    async fn first_look(&self, key: &Key, opens: bool) -> Result<ObjectMeta> {
        let version = self.shown_version(key).await?;
        if opens {
            match self.reads.open_fresh(key, version.as_deref()).await {
                // An archived object, one that may be seen but not read: HEAD decides.
                Err(e) if e.kind() != Kind::NotFound => {}
                done => return done,
            }
        }
        self.head_of(key, version.as_deref()).await
    }

    /// HEAD of the file and LIST of the directory at the same time; of what was a directory only the LIST, because a
    /// directory wins anyway, and of what is listed as a file (`listed`) only the HEAD. `opens`: the file will most likely be opened next, so its first block comes along.
    async fn ask_store(
        &self,
        prefix: &Prefix,
        name: &Name,
        hint: Option<FileKind>,
        listed: bool,
        opens: bool,
    ) -> Result<Found> {
        let file = match prefix.file(name) {
            Ok(key) => Some(key),
            Err(e) if e.kind() == Kind::NotFound => None,
            Err(e) => return Err(e),
        };
        let dir = if listed || name.is_shadowed_file() { None } else { Some(prefix.dir(name)?) };
        let found_dir = |first: crate::s3::Listed| {
            let marker = dir.as_ref().and_then(Prefix::marker).filter(|m| m.as_str() == first.key);
            let time = marker.as_ref().and(first.last_modified);
            Found::Dir { marker, time }
        };
        if hint == Some(FileKind::Dir)
            && let Some(dir) = &dir
            && let Ok(Some(first)) = self.first_below(dir).await
        {
            return Ok(found_dir(first));
        }
        let head = async {
            match &file {
                Some(key) => match self.first_look(key, opens).await {
                    Ok(meta) => Ok(Some(meta)),
                    Err(e) if e.kind() == Kind::NotFound => Ok(None),
                    Err(e) => Err(e),
                },
                None => Ok(None),
            }
        };
        let list = async {
            match &dir {
                Some(dir) => self.first_below(dir).await,
                None => Ok(None),
            }
        };
        let (head, list) = tokio::join!(head, list);
        match list {
            Ok(Some(first)) => return Ok(found_dir(first)),
            Ok(None) => {}
            // Without the right to list, files can still be found one by one.
            Err(e) if e.kind() == Kind::Denied => {
                return match head? {
                    Some(meta) => Ok(Found::File(Box::new(meta))),
                    None if hint == Some(FileKind::Dir) => Err(e),
                    None => Ok(Found::Nothing),
                };
            }
            Err(e) => return Err(e),
        }
        if let Some(meta) = head? {
            if is_directory_object(meta.size, &meta.headers) {
                return Ok(Found::Dir { marker: file, time: meta.last_modified });
            }
            return Ok(Found::File(Box::new(meta)));
        }
        if self.seen_folder_suffix.load(Ordering::Relaxed)
            && let Some(key) = file
        {
            let marker = Key::new(format!("{key}{FOLDER_SUFFIX}"))?;
            match self.head_shown(&marker).await {
                Ok(meta) => return Ok(Found::Dir { marker: Some(marker), time: meta.last_modified }),
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Found::Nothing)
    }

    fn absorb_dir(
        &self,
        parent: Ino,
        name: &Name,
        marker: Option<Key>,
        time: Option<SystemTime>,
        asked: Instant,
        stored: bool,
    ) -> Result<Arc<Inode>> {
        let prefix = self.inodes.prefix(parent)?.dir(name)?;
        let defaults = &self.settings.defaults;
        let fresh = || State::new(Attr::of_dir(time.unwrap_or(self.mounted), defaults), Facts::default(), stored);
        let inode = self.inodes.remember_kind(parent, name, prefix.as_str(), Some(FileKind::Dir), fresh)?;
        let mut state = inode.state.lock();
        if state.changed.is_none_or(|c| c < asked) {
            state.confirmed = Some(asked);
            state.stored = stored;
            state.has_marker = marker.is_some();
            // Seen by a listing of the directory itself: none is an answer too.
            state.marker_told |= marker.is_none();
            state.odd_marker = marker.filter(|m| Some(m) != prefix.marker().as_ref());
        }
        drop(state);
        Ok(inode)
    }

    /// Brings a file's inode in step with a HEAD or GET sent at `asked`.
    pub(super) fn absorb_file(
        &self,
        parent: Ino,
        name: &Name,
        key: &Key,
        meta: &ObjectMeta,
        asked: Instant,
    ) -> Result<Arc<Inode>> {
        self.absorb_as(self.shown_role(key, meta.version.as_ref()), (parent, name), key, meta, asked)
    }

    /// As [`Fs::absorb_file`], for what the inode stands for.
    pub(super) fn absorb_as(
        &self,
        role: Role,
        (parent, name): (Ino, &Name),
        key: &Key,
        meta: &ObjectMeta,
        asked: Instant,
    ) -> Result<Arc<Inode>> {
        let attr = Attr::of_meta(meta, false, &self.settings.defaults);
        // Where a listing showed a link as a file, or the object was replaced by something else, it is another inode.
        let kind = Some(attr.kind);
        let fresh = || State::new(attr, Facts::of_meta(meta), true);
        let inode = self.inodes.remember_as(role, parent, name, key.as_str(), kind, fresh)?;
        self.absorb_meta(&inode, meta, asked);
        Ok(inode)
    }

    /// The part of [`Fs::absorb_file`] for an inode that is already there.
    pub(super) fn absorb_meta(&self, inode: &Inode, meta: &ObjectMeta, asked: Instant) {
        let mut state = inode.state.lock();
        if state.writer.is_some() || state.changed.is_some_and(|c| c >= asked) {
            return;
        }
        let mut attr = Attr::of_meta(meta, state.attr.kind == FileKind::Dir, &self.settings.defaults);
        if attr.kind == FileKind::Dir {
            // The marker is read some time after the name was first shown: to tar that must not be a change.
            attr.ctime = state.attr.ctime;
            if state.touched {
                attr.mtime = attr.mtime.max(state.attr.mtime);
            }
        } else if state.facts.etag.as_ref() == Some(&meta.etag) && same_but_times(&attr, &state.attr) {
            // Nothing happened since; what the store keeps of these two is coarser, or nothing.
            attr.ctime = state.attr.ctime;
            attr.atime = state.attr.atime;
        }
        if attr.kind == state.attr.kind && !state.attr_pending {
            state.attr = attr;
        } else if state.attr_pending {
            // Changed here and not stored yet: only the size can be news.
            state.attr.size = attr.size;
        }
        if state.attr.kind != FileKind::Dir {
            state.facts = Facts::of_meta(meta);
            // Ceph does not count tags in HEAD: only a count of 0 says that there are none.
            if meta.tag_count == Some(0) {
                state.learn(Known { tags: Some(Vec::new()), acl: None });
            }
            state.target = state.target.take().filter(|_| state.facts.etag.as_ref() == Some(&meta.etag));
        } else {
            state.facts.meta = Some(Arc::new(meta.clone()));
        }
        state.confirmed = Some(asked);
        state.stored = true;
    }

    /// The inode of an entry of a listing that was asked for at `asked`.
    pub fn absorb_item(&self, parent: Ino, item: &Item, asked: Instant) -> Result<Arc<Inode>> {
        let dir = self.inodes.get(parent)?;
        if dir.role.is_history() {
            return self.absorb_version(&dir, item, asked);
        }
        if item.kind == FileKind::Dir {
            if let Some(inode) = self.inodes.child(parent, &item.name).filter(|i| i.kind() == FileKind::Dir) {
                let mut state = inode.state.lock();
                if state.changed.is_none_or(|c| c < asked) {
                    state.confirmed = Some(asked);
                    state.stored = true;
                }
                drop(state);
                return Ok(inode);
            }
            let inode =
                self.absorb_dir(parent, &item.name, item.odd_marker.clone(), item.last_modified, asked, true)?;
            // The parent's listing does not show whether there is a marker.
            inode.state.lock().marker_told = false;
            return Ok(inode);
        }
        let prefix = self.inodes.prefix(parent)?;
        let key = prefix.file(&item.name)?;
        let listed = crate::s3::Listed {
            key: String::new(),
            size: item.size,
            etag: item.etag.clone(),
            last_modified: item.last_modified,
            storage_class: item.storage_class.as_deref().map(str::to_owned),
            version: item.version.clone(),
        };
        let mut attr = Attr::of_listed(&listed, &self.settings.defaults);
        if item.kind == FileKind::Symlink {
            attr.kind = FileKind::Symlink;
            attr.perm = 0o777;
        }
        let fresh = || State::new(attr.clone(), Facts::of_listed(&listed), true);
        // A plain listing cannot tell a link from a file: while the object is the same one, what was learnt stays.
        let replaced = self.inodes.child(parent, &item.name).is_some_and(|i| {
            let state = i.state.lock();
            let same = state.facts.etag == item.etag;
            match (state.attr.kind, item.kind) {
                (FileKind::Dir, _) | (FileKind::File, FileKind::Symlink) => true,
                (FileKind::Symlink, FileKind::File) => !same,
                _ => false,
            }
        });
        let kind = replaced.then_some(item.kind);
        let role = self.shown_role(&key, item.version.as_ref());
        let inode = self.inodes.remember_as(role, parent, &item.name, key.as_str(), kind, fresh)?;
        let mut state = inode.state.lock();
        if state.writer.is_some() || !state.stored || state.changed.is_some_and(|c| c >= asked) {
            drop(state);
            return Ok(inode);
        }
        let same = state.facts.etag.is_some() && state.facts.etag == item.etag && state.attr.size == item.size;
        if !same {
            if !state.attr_pending {
                state.attr = attr;
            }
            state.facts = Facts::of_listed(&listed);
            state.target = None;
        } else if state.facts.storage_class.as_deref().unwrap_or("STANDARD")
            != listed.storage_class.as_deref().unwrap_or("STANDARD")
        {
            state.facts.storage_class = listed.storage_class;
            state.facts.meta = None;
        }
        state.confirmed = state.confirmed.max(Some(asked));
        drop(state);
        Ok(inode)
    }

    /// An entry of a directory as readdirplus hands it out. The caller raises the count for accepted entries.
    pub fn entry_of_item(&self, dir: Ino, item: &Item, asked: Instant) -> Result<Entry> {
        if let Some(inode) = self.inodes.child(dir, &item.name) {
            let state = inode.state.lock();
            if state.writer.is_some() || !state.stored {
                drop(state);
                return Ok(self.entry(&inode));
            }
        }
        let inode = self.absorb_item(dir, item, asked)?;
        Ok(self.entry(&inode))
    }

    /// Answers from memory, or not at all. A file of which only a listing is known is asked for: the kernel comes
    /// back within the TTL only when it needs more than the listing had (the execute bit, say).
    pub fn getattr_now(&self, ino: Ino) -> Option<Result<Entry>> {
        let inode = match self.inodes.get(ino) {
            Ok(inode) => inode,
            Err(e) => return Some(Err(e)),
        };
        if ino != self.root() && !inode.role.is_history() {
            let state = inode.state.lock();
            let own = state.writer.is_some() || !state.stored || state.attr_pending;
            let told = match state.attr.kind {
                FileKind::Dir => state.marker_told || !self.settings.store_attrs,
                _ => state.facts.meta.is_some(),
            };
            let fresh = self.fresh(&state).is_some();
            let listed = state.attr.kind == FileKind::File && !told && fresh;
            drop(state);
            if !(own || told && fresh || listed && self.is_asked_again(ino)) {
                return None;
            }
        }
        Some(Ok(self.entry(&inode)))
    }

    /// Requests: none when fresh; one HEAD of a file, one LIST of a directory.
    pub async fn getattr(self: &Arc<Self>, ino: Ino) -> Result<Entry> {
        if let Some(answer) = self.getattr_now(ino) {
            return answer;
        }
        let inode = self.inodes.get(ino)?;
        let Some((parent, name)) = self.inodes.place(ino) else {
            // Unlinked but open: what is known stays true.
            return Ok(self.entry(&inode));
        };
        let asked = Instant::now();
        if inode.kind() == FileKind::Dir {
            if self.fresh(&inode.state.lock()).is_none() {
                // Another machine may have changed it meanwhile.
                inode.state.lock().marker_told = false;
                if self.find(parent, &name).await?.is_none_or(|i| i.ino != ino) {
                    return Err(Error::new(Kind::NotFound, "directory is gone").with_key(&name));
                }
            }
            self.learn_marker(&inode).await?;
            return Ok(self.entry(&inode));
        }
        let (key, version) = self.inodes.target(&inode)?;
        match self.head_of(&key, version.as_deref()).await {
            Ok(meta) => {
                self.bursts.saw_somewhere(&meta);
                let now = self.absorb_as(inode.role.clone(), (parent, &name), &key, &meta, asked)?;
                if now.ino != ino {
                    // It is a link, not the file the listing made it seem: the kernel looks the name up again.
                    self.invalidate_entry(parent, &name);
                    return Err(Error::new(Kind::Stale, "not the kind of file it was").with_key(&key));
                }
            }
            Err(e) if e.kind() == Kind::NotFound => {
                let state = inode.state.lock();
                if state.changed.is_some_and(|c| c >= asked) || state.writer.is_some() {
                    drop(state);
                    return Ok(self.entry(&inode));
                }
                drop(state);
                self.inodes.unlink(ino);
                self.listings.touch(parent, &name, false);
                return Err(e);
            }
            Err(e) => return Err(e),
        }
        Ok(self.entry(&inode))
    }
}

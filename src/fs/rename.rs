//! rename(2): server-side copies, then deletes.
//!
//! 1. S3 has no rename. At any point every object exists under its old or its new name, never under neither: all
//!    copies are made and acknowledged before the first delete.
//! 2. A file that was never committed has no object: it just gets another key, and no request is made.
//! 3. Bytes not yet stored are committed under the old name first; so are pending attributes, which the copy of a
//!    single file carries along instead.
//! 4. A close or an fsync at the same moment must not store anything between the copy and the delete, or behind the
//!    copy: the writers of the file, of what it replaces and of everything in a directory stand still meanwhile
//!    ([`crate::write::Writer::hold_commits`]).
//! 5. Open handles go on: the table moves the inode (and everything below a directory), and the handles are moved
//!    to the new objects.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use tracing::warn;

use super::Fs;
use super::attr::{self, Facts, FileKind};
use super::copy::{Copying, apply_edits};
use super::inode::{Ino, Inode};
use super::kept::Known;
use crate::error::{Error, Kind, Result};
use crate::key::{Key, Name, Prefix};
use crate::read::Object;
use crate::s3::{ListQuery, Listed, ObjectId, Stored};

/// A copy by its key, and what is known of it.
type Copy = (Key, (Stored, Known));
/// An attempt at a copy; `None`: not made, because another had failed.
type Tried = Option<(Key, Result<(Stored, Known)>)>;

/// Objects of a directory copied at a time.
const PARALLEL: usize = 16;

impl Fs {
    /// `no_replace`: RENAME_NOREPLACE.
    ///
    /// Requests for a file: GET of its ACL, one copy, one DELETE. For a directory as many for each object, in
    /// parallel, with one DELETE for 1,000 of them.
    pub async fn rename(self: &Arc<Self>, from: (Ino, &Name), to: (Ino, &Name), no_replace: bool) -> Result<()> {
        self.writable()?;
        if to.1.is_escaped() {
            return Err(Error::new(Kind::BadName, "rename to a name that is an escape").with_key(to.1));
        }
        let source = self.existing(from.0, from.1).await?;
        let target = self.child(to.0, to.1).await?;
        source.changeable()?;
        if let Some(target) = &target {
            if no_replace {
                return Err(Error::new(Kind::Exists, "rename").with_key(to.1));
            }
            target.changeable()?;
            if target.ino == source.ino {
                return Ok(());
            }
            match (source.kind(), target.kind()) {
                (FileKind::Dir, FileKind::Dir) if self.is_empty_dir(target).await? => {}
                (FileKind::Dir, FileKind::Dir) => return Err(Error::new(Kind::NotEmpty, "rename").with_key(to.1)),
                (FileKind::Dir, _) => return Err(Kind::NotDir.into()),
                (_, FileKind::Dir) => return Err(Kind::IsDir.into()),
                _ => {}
            }
        }
        self.settle_copies(None).await;
        if source.kind() == FileKind::Dir {
            if self.inodes.is_inside(to.0, source.ino) {
                return Err(Error::new(Kind::Invalid, "rename a directory into itself").with_key(to.1));
            }
            // Attributes of the directory that is replaced may be on their way to the marker that the new one gets.
            let _changing = match &target {
                Some(target) => Some(self.changing(target).await?),
                None => None,
            };
            self.rename_dir(&source, from, to).await
        } else {
            self.rename_file(&source, target.as_ref(), from, to).await
        }
    }

    async fn rename_file(
        self: &Arc<Self>,
        source: &Arc<Inode>,
        target: Option<&Arc<Inode>>,
        from: (Ino, &Name),
        to: (Ino, &Name),
    ) -> Result<()> {
        let _changing = self.changing(source).await?;
        let old = self.inodes.key(source.ino)?;
        let new = self.inodes.prefix(to.0)?.file(to.1)?;
        // Before the copy: a delete that waits for the last close of what was here must not take what comes here.
        let buried = self.reuse_name(&new).await;
        // What is pending under the target's name must not be stored after what comes here.
        let replaced = target.and_then(|t| t.state.lock().writer.clone());
        let quiet = async || match &replaced {
            Some(w) => w.hold_commits().await.map(Some),
            None => Ok(None),
        };
        let (writer, stored, _) = self.usage(source);
        if let Some(w) = &writer
            && !stored
        {
            let _quiet = quiet().await?;
            // The other file must not go before this one is safe.
            if replaced.as_ref().is_some_and(|r| r.backlog().is_some()) && w.is_unacknowledged() {
                self.acknowledge(source).await?;
            }
            let _held = w.hold_commits().await?;
            if !self.usage(source).1 && w.rekey(new.clone()).await.is_ok() {
                // The target's object stays in the bucket until this file's commit replaces it.
                let replaces = target.is_some_and(|t| t.state.lock().stored) || buried;
                self.moved(source, from, to, target).await?;
                source.state.lock().stored |= replaces;
                return Ok(());
            }
        }
        if writer.is_some() {
            // Also when nothing is dirty: a commit in the background may have stored it and not said so to the journal.
            self.commit(source).await?;
        }
        // The copy replaces what a change in the journal may be a change of.
        if let Some((target, w)) = target.zip(replaced.as_ref()) {
            self.store_before_it_goes(target, w).await;
        }
        self.writes.settled().await;
        let _quiet = quiet().await?;
        let _held = match &writer {
            Some(w) => Some(w.hold_commits().await?),
            None => None,
        };
        let (attr, pending, class) = {
            let state = source.state.lock();
            (state.attr.clone(), state.attr_pending, state.facts.storage_class.clone())
        };
        // A copy drops encryption under a key of its own as it does the class, and gives the object a new time. Where
        // nobody has looked at the file that is not known: the bucket's default and the store's time hold then.
        let meta = self.known_meta(source).filter(|m| {
            pending || m.sse_kms_key.is_some() || self.settings.store_attrs && !attr::has_mtime(&m.headers.metadata)
        });
        let replace = match (meta, pending) {
            (None, false) => None,
            (meta, _) => {
                let meta = match meta {
                    Some(meta) => meta,
                    None => self.refresh(source).await?,
                };
                let mut object = self.headers_carried(&meta);
                let state = source.state.lock();
                if self.settings.store_attrs {
                    if state.attr_changed {
                        attr.store(&mut object.headers.metadata);
                    }
                    attr::keep_mtime(&mut object.headers.metadata, &meta);
                }
                apply_edits(&state.edits, &mut object, &self.settings.provider.tags);
                Some(object)
            }
        };
        let carried = replace.clone();
        let object = match self.stored_object(source, old.clone()) {
            Ok(object) => object,
            Err(_) => {
                self.refresh(source).await?;
                self.stored_object(source, old.clone())?
            }
        };
        let how = || match &replace {
            Some(object) => Copying::Replace(Box::new(object.clone())),
            None => Copying::Keep { class: class.clone() },
        };
        let known = source.state.lock().known(self.settings.metadata_ttl);
        let (stored, known) = match self.copy_object(&object, &new, how(), known).await {
            Err(e) if matches!(e.kind(), Kind::Stale | Kind::NotFound) => {
                // The object is another one than the listing said: rename what is there now.
                self.refresh(source).await.map_err(|_| e)?;
                let object = self.stored_object(source, old.clone())?;
                self.copy_object(&object, &new, how(), Known::default()).await?
            }
            other => other?,
        };
        // Were it to end after the delete, a crash in between would store it over the copy that is all there is.
        if let Some(w) = &replaced {
            w.unlink().await?;
        }
        self.s3.delete(&old, None).await?;
        self.moved(source, from, to, target).await?;
        {
            let mut state = source.state.lock();
            if let (Some(object), Some(meta)) = (carried, state.facts.meta.clone()) {
                let mut meta = (*meta).clone();
                meta.headers = object.headers;
                meta.tag_count = None;
                state.facts = Facts::of_meta(&meta);
            }
            if pending {
                (state.attr_pending, state.attr_changed) = (false, false);
                state.edits.clear();
            }
        }
        if let Ok(from) = self.stored_object(source, old) {
            let id = ObjectId { key: new.clone(), etag: stored.etag.clone(), version: stored.version.clone() };
            self.reads.became(&from, &Object { id, size: from.size });
        }
        self.now_at(source, new, &stored, known);
        Ok(())
    }

    /// The inode's object is now `key` as `stored`; the bytes are the same.
    fn now_at(self: &Arc<Self>, inode: &Arc<Inode>, key: Key, stored: &Stored, known: Known) {
        let (object, writer) = {
            let mut state = inode.state.lock();
            if state.pages == state.facts.etag {
                state.pages = Some(stored.etag.clone());
            }
            state.facts.etag = Some(stored.etag.clone());
            state.facts.version = stored.version.clone();
            state.learn(known);
            if let Some(meta) = state.facts.meta.take() {
                let mut meta = (*meta).clone();
                meta.etag = stored.etag.clone();
                meta.version = stored.version.clone();
                state.facts.meta = Some(Arc::new(meta));
            }
            let now = Instant::now();
            state.confirmed = Some(now);
            state.changed = Some(now);
            let id = ObjectId { key, etag: stored.etag.clone(), version: stored.version.clone() };
            (Object { id, size: state.attr.size }, state.writer.clone())
        };
        if let Some(w) = writer {
            w.set_base(object.clone());
        }
        self.rebind(inode, &object);
    }

    /// Brings the tree and the listings in step after the store has done its part. What was replaced is not stored any
    /// more.
    async fn moved(
        self: &Arc<Self>,
        source: &Arc<Inode>,
        from: (Ino, &Name),
        to: (Ino, &Name),
        target: Option<&Arc<Inode>>,
    ) -> Result<()> {
        self.keep_dir(from.0);
        self.inodes.rename(source.ino, to.0, to.1)?;
        self.name_removed(from.0, from.1);
        self.name_added(to.0, to.1);
        if let Some(target) = target {
            let writer = target.state.lock().writer.clone();
            if let Some(w) = writer {
                // The later record of this name counts after a crash.
                let _ = w.unlink().await;
            }
            self.inodes.settle(target.ino);
        }
        source.state.lock().attr.ctime = std::time::SystemTime::now();
        Ok(())
    }

    async fn rename_dir(self: &Arc<Self>, source: &Arc<Inode>, from: (Ino, &Name), to: (Ino, &Name)) -> Result<()> {
        let old = self.inodes.prefix(source.ino)?;
        let new = self.inodes.prefix(to.0)?.dir(to.1)?;
        // What is only here goes with the inodes: files never committed need no copy, all else is stored first.
        let below = self.inodes.subtree(source.ino);
        let mut fresh = Vec::new();
        for inode in &below {
            let (writer, stored, _) = self.usage(inode);
            if let Some(w) = writer.filter(|w| !stored && w.key().as_str().starts_with(old.as_str())) {
                let key = w.key();
                let new_key = Key::new(format!("{new}{}", &key.as_str()[old.as_str().len()..]))?;
                fresh.push((w, key, new_key));
            } else {
                self.commit(inode).await?;
            }
            self.store_attr(inode).await?;
        }
        // Reads that miss the old objects wait until the handles are moved to the new ones, and no attributes go to markers
        // that are no more. In the order of the inode numbers: directories below one another may be renamed at the same
        // time.
        let mut all: Vec<_> = below.iter().collect();
        all.sort_by_key(|i| i.ino);
        let mut changing = Vec::with_capacity(all.len());
        for inode in all {
            changing.push(self.changing(inode).await?);
        }
        let writers: Vec<_> = below.iter().filter_map(|i| i.state.lock().writer.clone()).collect();
        let mut held = Vec::with_capacity(writers.len());
        for w in &writers {
            held.push(w.hold_commits().await?);
        }
        let mut rekeyed = Vec::new();
        for (w, key, new_key) in fresh {
            // One that was stored after all is listed and copied with the rest.
            if w.rekey(new_key).await.is_ok() {
                rekeyed.push((w, key));
            }
        }
        let done = self.rename_stored(source, &old, &new, from, to, &below).await;
        if done.is_err() {
            for (w, key) in rekeyed {
                if let Err(e) = w.rekey(key).await {
                    warn!("a file that is not stored yet has lost its name: {e}");
                }
            }
        }
        done
    }

    /// The part of the store, and the tree after it. The writers below stand still.
    async fn rename_stored(
        self: &Arc<Self>,
        source: &Arc<Inode>,
        old: &Prefix,
        new: &Prefix,
        from: (Ino, &Name),
        to: (Ino, &Name),
        below: &[Arc<Inode>],
    ) -> Result<()> {
        self.deleted_below(old.as_str()).await?;
        // What was unlinked and is still open stays where its last close deletes it: with the others it would come back.
        let mut objects = self.all_below(old).await?;
        let graves = self.graves.all();
        objects.retain(|o| !Key::new(&o.key).is_ok_and(|key| graves.contains(&key)));
        let copied = self.copy_all(old, new, &objects).await?;
        let target = self.inodes.child(to.0, to.1);
        let odd = source.state.lock().odd_marker.take();
        let mut keys: Vec<Key> = objects.iter().filter_map(|o| Key::new(&o.key).ok()).collect();
        keys.extend(odd);
        if let Some((key, e)) = self.s3.delete_many(&keys).await?.into_iter().next() {
            // Its copy exists: nothing is lost, but the name is there twice.
            warn!(key = %key, "copied, but an old object could not be deleted: {e}");
            return Err(e);
        }
        {
            let mut kept = self.kept.lock();
            let moved: Vec<Prefix> = kept.iter().filter(|p| p.as_str().starts_with(old.as_str())).cloned().collect();
            for p in moved {
                kept.remove(&p);
                if let Ok(p) = Prefix::new(&format!("{new}{}", &p.as_str()[old.as_str().len()..])) {
                    kept.insert(p);
                }
            }
        }
        self.trees.clear();
        let had_nothing = objects.is_empty();
        self.moved(source, from, to, target.as_ref()).await?;
        if let Some(target) = &target {
            self.listings.forget(target.ino);
        }
        if had_nothing {
            self.kept.lock().insert(new.clone());
        }
        let mut copied: HashMap<Key, (Stored, Known)> = copied.into_iter().collect();
        for inode in below {
            self.listings.forget(inode.ino);
            let now = Instant::now();
            inode.state.lock().changed = Some(now);
            if inode.kind() == FileKind::Dir {
                continue;
            }
            if let Ok(key) = self.inodes.key(inode.ino)
                && let Some((stored, known)) = copied.remove(&key)
            {
                self.now_at(inode, key, &stored, known);
            }
        }
        Ok(())
    }

    /// Every object whose key begins with `prefix`, in one flat listing.
    async fn all_below(&self, prefix: &Prefix) -> Result<Vec<Listed>> {
        let mut objects = Vec::new();
        let mut from = None;
        loop {
            let query = ListQuery { prefix: prefix.as_str(), delimited: false, from, max_keys: None };
            let page = self.s3.list(&query).await?;
            objects.extend(page.objects);
            match page.next {
                Some(next) => from = Some(next),
                None => return Ok(objects),
            }
        }
    }

    /// Copies every object to its new key. On a failure the copies made are removed again.
    async fn copy_all(self: &Arc<Self>, old: &Prefix, new: &Prefix, objects: &[Listed]) -> Result<Vec<Copy>> {
        // Before the first copy: a key that cannot be sent, or that would be too long, must not stop it half-way.
        let mut work = Vec::with_capacity(objects.len());
        for o in objects {
            let from = Key::new(&o.key)?;
            let to = Key::new(format!("{new}{}", &o.key[old.as_str().len()..]))?;
            work.push((from, to, o));
        }
        // Copies under way are waited for, also when another has failed: one that is dropped may yet arrive at the
        // store, or leave an upload behind.
        let failed = AtomicBool::new(false);
        let mut copies: Vec<BoxFuture<'_, Tried>> = Vec::with_capacity(work.len());
        for (from, to, o) in work {
            let failed = &failed;
            copies.push(Box::pin(async move {
                if failed.load(Ordering::Relaxed) {
                    return None;
                }
                let copied = self.copy_listed(from, to.clone(), o).await;
                failed.fetch_or(copied.is_err(), Ordering::Relaxed);
                Some((to, copied))
            }));
        }
        let mut copies = stream::iter(copies).buffer_unordered(PARALLEL);
        let mut done = Vec::with_capacity(objects.len());
        let mut keys = Vec::new();
        let mut first = None;
        while let Some(ended) = copies.next().await {
            match ended {
                Some((key, Ok(stored))) => done.push((key, stored)),
                Some((key, Err(e))) => {
                    // Without an answer nobody knows whether the copy was made.
                    if matches!(e.kind(), Kind::Unavailable | Kind::Timeout | Kind::Io) {
                        keys.push(key);
                    }
                    first.get_or_insert(e);
                }
                None => {}
            }
        }
        let Some(e) = first else { return Ok(done) };
        keys.extend(done.into_iter().map(|(key, _)| key));
        if let Err(left) = self.s3.delete_many(&keys).await {
            warn!("copies of a rename that failed are left behind: {left}");
        }
        Err(e)
    }

    async fn copy_listed(self: &Arc<Self>, from: Key, to: Key, listed: &Listed) -> Result<(Stored, Known)> {
        // What was unlinked in the directory that is replaced must not be deleted after this has come.
        self.reuse_name(&to).await;
        let etag = match &listed.etag {
            Some(etag) => etag.clone(),
            None => self.s3.head(&from, None).await?.etag,
        };
        let object = Object { id: ObjectId { key: from.clone(), etag, version: None }, size: listed.size };
        let how = Copying::Keep { class: listed.storage_class.clone() };
        match self.copy_object(&object, &to, how, Known::default()).await {
            Err(e) if e.kind() == Kind::Stale => {
                let meta = self.s3.head(&from, None).await?;
                let id = ObjectId { key: from, etag: meta.etag.clone(), version: meta.version.clone() };
                let object = Object { id, size: meta.size };
                let how = Copying::Keep { class: meta.storage_class };
                self.copy_object(&object, &to, how, Known::default()).await
            }
            other => other,
        }
    }
}

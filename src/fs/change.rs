//! Making and removing names: mkdir, mknod, symlink, unlink, rmdir; and reading links.
//!
//! 1. A name is removed from the store first and from memory after: a failed delete leaves it visible.
//! 2. A file that is open when it is unlinked disappears from this mount at once and from the bucket at its last
//!    close: until then its handles can be read. After a crash in between it is visible again.
//! 3. A directory without a marker object exists while it has entries. One that is emptied here stays, on this
//!    mount, until it is removed here.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;

use super::attr::{Attr, Facts, FileKind};
use super::inode::{Ino, Inode, State};
use super::{Entry, Fs};
use crate::error::{Error, Kind, Result};
use crate::key::{Key, Name};
use crate::s3::{Condition, ListQuery, NewObject, Payload, Stored};

impl Fs {
    async fn must_be_new(self: &Arc<Self>, parent: Ino, name: &Name) -> Result<()> {
        if name.is_escaped() {
            return Err(Error::new(Kind::BadName, "create a name that is an escape").with_key(name));
        }
        self.wait_for_burial(parent, name).await;
        match self.child(parent, name).await? {
            Some(_) => Err(Error::new(Kind::Exists, "create").with_key(name)),
            None => Ok(()),
        }
    }

    /// One PUT of the marker `name/` (S3 has no directories).
    pub async fn mkdir(self: &Arc<Self>, parent: Ino, name: &Name, perm: u16, owner: (u32, u32)) -> Result<Entry> {
        self.writable()?;
        self.must_be_new(parent, name).await?;
        let prefix = self.inodes.prefix(parent)?.dir(name)?;
        let now = SystemTime::now();
        let attr =
            Attr { kind: FileKind::Dir, size: 0, perm, uid: owner.0, gid: owner.1, atime: now, mtime: now, ctime: now };
        let asked = Instant::now();
        // The inode comes after the object: a deadline in between must not leave one that only this mount has.
        if let Some(marker) = prefix.marker() {
            self.send_marker(&marker, &attr).await?;
        }
        let inode = self.inodes.remember_kind(parent, name, prefix.as_str(), Some(FileKind::Dir), || {
            State::new(attr, Facts::default(), true)
        })?;
        self.marker_sent(&inode);
        inode.state.lock().plain_marker = true;
        self.name_added(parent, name);
        // It is empty: names in it need no request for a while.
        self.listings.put(inode.ino, asked, Vec::new());
        Ok(self.entry(&inode))
    }

    /// A regular file, made and stored empty; other kinds have no object: [`Kind::NotPermitted`] (EPERM).
    pub async fn mknod(
        self: &Arc<Self>,
        parent: Ino,
        name: &Name,
        mode: u32,
        perm: u16,
        owner: (u32, u32),
    ) -> Result<Entry> {
        self.writable()?;
        if !matches!(mode & libc::S_IFMT, 0 | libc::S_IFREG) {
            return Err(Error::new(Kind::NotPermitted, "make a device, pipe or socket").with_key(name));
        }
        self.must_be_new(parent, name).await?;
        let inode = self.new_file(parent, name, perm, owner, true).await?;
        let result = self.close_writer(&inode).await;
        result.map(|()| self.entry(&inode))
    }

    /// An object with the target as its body and the link type in its mode, as s3fs writes it.
    ///
    /// Three requests: it is uploaded as the only part of a multipart upload, because its ETag then ends in `-1`,
    /// and that is the one thing a listing shows by which a link can be told from a small file.
    pub async fn symlink(self: &Arc<Self>, parent: Ino, name: &Name, target: &str, owner: (u32, u32)) -> Result<Entry> {
        self.writable()?;
        if !self.settings.store_attrs {
            return Err(Error::new(Kind::Unsupported, "make a symbolic link")
                .with_key(name)
                .with_fix("mount with attrs=store"));
        }
        self.must_be_new(parent, name).await?;
        let key = self.inodes.prefix(parent)?.file(name)?;
        let now = SystemTime::now();
        let attr = Attr {
            kind: FileKind::Symlink,
            size: target.len() as u64,
            perm: 0o777,
            uid: owner.0,
            gid: owner.1,
            atime: now,
            mtime: now,
            ctime: now,
        };
        let mut object = self.object_for("", &attr);
        object.headers.content_type = Some("application/octet-stream".into());
        let body = Payload::from(Bytes::copy_from_slice(target.as_bytes()));
        self.reuse_name(&key).await;
        let stored = self.put_link(&key, body, &object).await?;
        self.settle(&key, &object, &stored.etag).await?;
        let inode = self.inodes.remember_kind(parent, name, key.as_str(), Some(FileKind::Symlink), || {
            State::new(attr, Facts::default(), true)
        })?;
        {
            let mut state = inode.state.lock();
            state.facts.etag = Some(stored.etag);
            state.facts.version = stored.version;
            state.target = Some(target.into());
            let now = Instant::now();
            state.confirmed = Some(now);
            state.changed = Some(now);
        }
        self.name_added(parent, name);
        Ok(self.entry(&inode))
    }

    async fn put_link(&self, key: &Key, body: Payload, object: &NewObject) -> Result<Stored> {
        let (upload, token) = match self.writes.create_upload(key, object).await {
            // Without multipart uploads it is a link all the same, only not recognised in a listing.
            Err(e) if e.kind() == Kind::Unsupported => return self.s3.put(key, body, object, &Condition::None).await,
            other => other?,
        };
        let result = match self.s3.upload_part(key, &upload, 1, body).await {
            Ok(part) => self.s3.complete_upload(key, &upload, &[part], &Condition::None).await,
            Err(e) => Err(e),
        };
        if result.is_err()
            && let Err(e) = self.s3.abort_upload(key, &upload).await
        {
            tracing::warn!("an upload is left behind: {e}");
        } else {
            self.writes.upload_ended(token);
        }
        result
    }

    /// One GET the first time.
    pub async fn readlink(self: &Arc<Self>, ino: Ino) -> Result<Arc<str>> {
        let inode = self.inodes.get(ino)?;
        if inode.kind() != FileKind::Symlink {
            return Err(Kind::Invalid.into());
        }
        if let Some(target) = inode.state.lock().target.clone() {
            return Ok(target);
        }
        let (key, version) = self.inodes.target(&inode)?;
        if inode.state.lock().attr.size > 4096 {
            return Err(Error::new(Kind::Io, "symbolic link with a target longer than a path").with_key(&key));
        }
        let body = self.s3.get(&key, None, None, version.as_deref()).await?.body.collect().await?;
        let target: Arc<str> = std::str::from_utf8(&body)
            .map_err(|_| Error::new(Kind::Io, "symbolic link that is not UTF-8").with_key(&key))?
            .into();
        inode.state.lock().target = Some(target.clone());
        Ok(target)
    }

    /// A directory without a marker would vanish with its last entry.
    pub(super) fn keep_dir(&self, dir: Ino) {
        if dir == self.root() {
            return;
        }
        let marked = self.inodes.get(dir).is_ok_and(|i| i.state.lock().has_marker);
        if !marked && let Ok(prefix) = self.inodes.prefix(dir) {
            self.kept.lock().insert(prefix);
        }
    }

    pub(super) fn name_removed(&self, parent: Ino, name: &Name) {
        self.inodes.names_changed(parent);
        self.listings.touch(parent, name, false);
        self.touch_dir(parent);
    }

    /// One DELETE; none for a file that was never stored (XOS-OBJ-15; XOS-OBJ-17: a missing key is no error to S3,
    /// so the name is looked up first).
    pub async fn unlink(self: &Arc<Self>, parent: Ino, name: &Name) -> Result<()> {
        self.writable()?;
        let inode = self.existing(parent, name).await?;
        if inode.kind() == FileKind::Dir {
            return Err(Kind::IsDir.into());
        }
        inode.changeable()?;
        self.settle_copies(None).await;
        let _changing = self.changing(&inode).await?;
        let key = self.inodes.key(inode.ino)?;
        let (writer, _, open) = self.usage(&inode);
        if let Some(w) = &writer {
            if open {
                self.store_before_it_goes(&inode, w).await;
                w.bring_back().await?;
            }
            // Ends a commit that is under way: only after that is it certain whether there is an object.
            w.stop().await;
        }
        let stored = inode.state.lock().stored || writer.as_ref().is_some_and(|w| w.base().is_some());
        let follows = stored && !open && writer.is_none() && self.delete_later(&inode, &key, parent, name).await;
        if !follows {
            // What was stored before must not be stored again by a replay after the delete.
            self.writes.settled().await;
        }
        if stored && !open && !follows {
            let deleted = self.s3.delete(&key, None).await;
            if let (Err(e), Some(w)) = (&deleted, &writer) {
                tracing::debug!("what was pending of it goes on: {e}");
                w.revive();
                if w.backlog().is_some() {
                    self.upload_later(&inode);
                }
            }
            deleted?;
            self.deletes_allowed.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        if stored && open {
            self.graves.dig(key.clone(), inode.ino);
        }
        // After the object, so that a crash in between leaves the file as it was last, or nothing.
        let forgotten = match &writer {
            Some(w) => w.forget().await,
            None => Ok(()),
        };
        self.keep_dir(parent);
        self.inodes.unlink(inode.ino);
        self.name_removed(parent, name);
        self.inodes.settle(inode.ino);
        forgotten
    }

    /// (writer, whether the store has the object, whether a handle is open)
    pub(super) fn usage(&self, inode: &Inode) -> (Option<Arc<crate::write::Writer>>, bool, bool) {
        let state = inode.state.lock();
        (state.writer.clone(), state.stored, state.handles.iter().any(|h| h.strong_count() > 0))
    }

    /// Whether the store or this mount has anything in the directory besides its marker.
    pub(super) async fn is_empty_dir(self: &Arc<Self>, inode: &Inode) -> Result<bool> {
        let prefix = self.inodes.prefix(inode.ino)?;
        let unstored = |i: &Arc<Inode>| {
            let state = i.state.lock();
            !state.stored || state.writer.as_ref().is_some_and(|w| w.backlog().is_some())
        };
        if self.inodes.children(inode.ino).iter().any(|(_, i)| unstored(i)) || !self.kept_below(inode.ino).is_empty() {
            return Ok(false);
        }
        let graves: Vec<_> =
            self.graves.all().into_iter().filter(|k| k.as_str().starts_with(prefix.as_str())).collect();
        let max_keys = u16::try_from(graves.len() + 2).unwrap_or(1000).min(1000);
        let query = ListQuery { prefix: prefix.as_str(), delimited: false, from: None, max_keys: Some(max_keys) };
        let page = self.s3.list(&query).await?;
        let counts = |k: &str| k != prefix.as_str() && !graves.iter().any(|g| g.as_str() == k);
        Ok(!page.objects.iter().any(|o| counts(&o.key)))
    }

    /// One LIST, and a DELETE of the marker.
    pub async fn rmdir(self: &Arc<Self>, parent: Ino, name: &Name) -> Result<()> {
        self.writable()?;
        let inode = self.existing(parent, name).await?;
        if inode.kind() != FileKind::Dir {
            return Err(Kind::NotDir.into());
        }
        if let Ok(prefix) = self.inodes.prefix(inode.ino) {
            self.deleted_below(prefix.as_str()).await?;
        }
        if !self.is_empty_dir(&inode).await? {
            return Err(Error::new(Kind::NotEmpty, "remove directory").with_key(name));
        }
        self.drop_dir(parent, name, &inode).await
    }

    /// Removes an empty directory.
    pub(super) async fn drop_dir(self: &Arc<Self>, parent: Ino, name: &Name, inode: &Arc<Inode>) -> Result<()> {
        // Its attributes may be on their way to the marker, which would come back.
        let _changing = self.changing(inode).await?;
        let prefix = self.inodes.prefix(inode.ino)?;
        let odd = inode.state.lock().odd_marker.clone();
        // The plain marker may exist unseen: a listing with entries does not tell.
        if let Some(marker) = prefix.marker() {
            self.s3.delete(&marker, None).await?;
        }
        if let Some(odd) = odd {
            self.s3.delete(&odd, None).await?;
        }
        self.keep_dir(parent);
        self.kept.lock().remove(&prefix);
        self.inodes.unlink(inode.ino);
        self.listings.forget(inode.ino);
        self.name_removed(parent, name);
        Ok(())
    }
}

//! Files: open, read, write, flush, fsync, release.
//!
//! 1. A handle opened for reading pins one version of the object. While somebody on this mount has the file open
//!    for writing, all its handles read through the writer instead (read-your-writes, across handles).
//! 2. When this mount itself makes a new version (commit, self-copy, rename), the open handles are moved to it:
//!    only somebody else's version makes a handle stale.
//! 3. There is one writer an inode, shared by its handles. It goes when the last of them is closed and everything
//!    is stored, or when the application has been told that it could not be.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;

use super::attr::{Attr, Facts, FileKind};
use super::copy::apply_edits;
use super::handle::{Fh, FileHandle};
use super::inode::{Ino, Inode, State};
use super::kept::Known;
use super::{Entry, Fs};
use crate::cache::BLOCK;
use crate::error::{Error, Kind, Result};
use crate::key::{Key, Name};
use crate::read::Object;
use crate::s3::{Condition, NewObject, ObjectId, ObjectMeta};
use crate::write::Writer;

/// What open(2) was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenMode {
    pub read: bool,
    pub write: bool,
    pub append: bool,
    pub truncate: bool,
    pub exclusive: bool,
    /// O_DIRECT: not by the kernel's pages.
    pub direct: bool,
}

impl OpenMode {
    /// From the flags of open(2).
    pub fn of_flags(flags: i32) -> OpenMode {
        let access = flags & libc::O_ACCMODE;
        OpenMode {
            read: access != libc::O_WRONLY,
            write: access != libc::O_RDONLY,
            append: flags & libc::O_APPEND != 0,
            truncate: flags & libc::O_TRUNC != 0,
            exclusive: flags & libc::O_EXCL != 0,
            direct: flags & libc::O_DIRECT != 0,
        }
    }
}

/// How bytes of one write(2) are to be taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteMode {
    /// At the end as it then is, not at the offset.
    pub append: bool,
    /// The writer lacks the right to keep setuid and setgid.
    pub kill_suid: bool,
    /// The thread that writes, 0 when nobody knows; `None` when [`Fs::used_by`] has been told.
    pub thread: Option<u32>,
}

/// What a writer needs of the object it starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// The content is replaced.
    Nothing,
    Headers,
    /// Most likely the bytes, too.
    Bytes,
}

/// An open file.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    pub fh: Fh,
    /// The pages the kernel still has belong to the version that was opened.
    pub keep_pages: bool,
    /// close(2) has nothing to report, so it need not ask.
    pub no_flush: bool,
}

impl Fs {
    fn check_archived(&self, facts: &Facts, key: &Key) -> Result<()> {
        if facts.is_archive_class() && facts.is_restored() == Some(false) {
            let class = facts.storage_class.clone().unwrap_or_default();
            // Quoted for a shell: keys have spaces and worse.
            let quoted = key.as_str().replace('\'', r"'\''");
            let bucket = self.s3.bucket();
            let fix = format!(
                "restore it first: xosfs object restore set 's3://{bucket}/{quoted}', or \
                 aws s3api restore-object --bucket {bucket} --key '{quoted}' --restore-request Days=1"
            );
            return Err(Error::new(Kind::Archived, format!("open object of class {class}"))
                .with_key(key)
                .with_fix(fix));
        }
        Ok(())
    }

    fn object_of(state: &State, key: Key) -> Option<Object> {
        let etag = state.facts.etag.clone()?;
        Some(Object { id: ObjectId { key, etag, version: state.facts.version.clone() }, size: state.attr.size })
    }

    /// HEAD, and what it says taken over. The inode is an existing file's.
    pub(super) async fn refresh(&self, inode: &Arc<Inode>) -> Result<Arc<ObjectMeta>> {
        let (key, version) = self.inodes.target(inode)?;
        let asked = Instant::now();
        let meta = self.head_of(&key, version.as_deref()).await?;
        self.absorb_meta(inode, &meta, asked);
        Ok(Arc::new(meta))
    }

    /// As [`Fs::refresh`], with the first block of a file that is no larger.
    async fn refresh_with_bytes(self: &Arc<Self>, inode: &Arc<Inode>) -> Result<Arc<ObjectMeta>> {
        let (small, archived) = {
            let state = inode.state.lock();
            ((1..=BLOCK as u64).contains(&state.attr.size), state.facts.is_archive_class())
        };
        if !small || archived {
            return self.refresh(inode).await;
        }
        let key = self.inodes.key(inode.ino)?;
        let asked = Instant::now();
        let meta = self.reads.open_fresh(&key, None).await?;
        self.absorb_meta(inode, &meta, asked);
        Ok(Arc::new(meta))
    }

    /// Opens an existing file.
    ///
    /// Requests: none for a file whose attributes are fresh; else one GET of its first block. For writing without
    /// O_TRUNC a HEAD, unless one was made before: what the object carries has to survive.
    pub async fn open(self: &Arc<Self>, ino: Ino, mode: OpenMode) -> Result<Opened> {
        let inode = self.inodes.get(ino)?;
        match inode.kind() {
            FileKind::Dir => return Err(Kind::IsDir.into()),
            FileKind::Symlink => return Err(Kind::Loop.into()),
            FileKind::File => {}
        }
        if mode.write || mode.truncate {
            self.writable()?;
            inode.changeable()?;
            let need = match mode {
                OpenMode { truncate: true, .. } => Need::Nothing,
                OpenMode { append: true, .. } | OpenMode { read: true, .. } => Need::Bytes,
                _ => Need::Headers,
            };
            let writer = self.hold_writer(&inode, need).await?;
            if mode.truncate {
                let truncated = writer.truncate(0).await;
                if let Err(e) = truncated {
                    let _ = self.let_go(&inode).await;
                    return Err(e);
                }
                self.note_write(&inode, true, false);
            }
            if mode.write {
                let opened = self.add_handle(&inode, mode, None, false);
                // The handle holds the writer from here on.
                inode.state.lock().write_handles -= 1;
                return Ok(opened);
            }
            self.let_go(&inode).await?;
        }
        if inode.state.lock().writer.is_some() {
            return Ok(self.add_handle(&inode, mode, None, true));
        }
        let object = self.current_object(&inode).await?;
        // Where the disk has its own rules for O_DIRECT, the daemon has none.
        let wanted = Some(&object).filter(|_| !mode.direct);
        if inode.state.lock().is_through_another(wanted) {
            return Err(self.part(&inode, mode.direct).await);
        }
        Ok(self.open_object(&inode, mode, object))
    }

    /// A handle that reads `object`.
    pub(super) fn open_object(self: &Arc<Self>, inode: &Arc<Inode>, mode: OpenMode, object: Object) -> Opened {
        if let Some((parent, name)) = self.inodes.place(inode.ino) {
            self.habits.opened(parent);
            self.fetch_next(parent, &name);
        }
        let offer = if mode.direct { None } else { self.offer(inode, &object) };
        let keep = {
            let mut state = inode.state.lock();
            let keep = state.pages.as_ref() == Some(&object.id.etag);
            state.pages = Some(object.id.etag.clone());
            keep
        };
        let reader = self.reads.reader(object);
        let opened = self.add_handle(inode, mode, Some(reader), keep);
        if let Ok(handle) = self.handles.file(opened.fh) {
            handle.offer.make(offer);
        }
        opened
    }

    /// The version to read, if it is known without asking.
    pub(super) fn known_object(&self, inode: &Inode, key: &Key) -> Result<Option<Object>> {
        let state = inode.state.lock();
        let fresh = state.confirmed.is_some_and(|t| t.elapsed() < self.settings.metadata_ttl)
            || state.attr_pending && state.facts.etag.is_some();
        // A file of one block whose metadata nobody has seen: the GET that reads it also tells whether it is a
        // link. An archived one has to be asked for its state.
        let small = state.attr.size > 0 && state.attr.size <= BLOCK as u64;
        let told = state.facts.meta.is_some() || !small && !state.facts.is_archive_class();
        if !fresh || !told {
            return Ok(None);
        }
        self.check_archived(&state.facts, key)?;
        Ok(Self::object_of(&state, key.clone()))
    }

    /// The version to read: the one in memory when it is fresh, else what a GET of the first block finds.
    async fn current_object(self: &Arc<Self>, inode: &Arc<Inode>) -> Result<Object> {
        let (key, version) = match self.inodes.target(inode) {
            Ok(target) => target,
            // Unlinked, opened again through /proc/PID/fd: the object waits for its last close.
            Err(e) => (self.inodes.last_key(inode.ino).ok_or(e)?, None),
        };
        let version = version.as_deref();
        if let Some(object) = self.known_object(inode, &key)? {
            return Ok(object);
        }
        let _turn = self.turn(&key).await;
        if let Some(object) = self.known_object(inode, &key)? {
            return Ok(object);
        }
        let asked = Instant::now();
        let (archived, known) = {
            let state = inode.state.lock();
            (state.facts.is_archive_class(), Self::object_of(&state, key.clone()))
        };
        let meta = match archived {
            true => self.s3.head(&key, version).await,
            false => self.reads.open_known(&key, version, known).await,
        };
        let meta = match meta {
            Ok(meta) => meta,
            Err(e) if e.kind() == Kind::NotFound => {
                // The name resolves to something else now: let the kernel look it up again.
                if let Some((parent, name)) = self.inodes.place(inode.ino) {
                    self.listings.touch(parent, &name, false);
                    self.inodes.unlink(inode.ino);
                }
                return Err(e.with_kind(Kind::Stale));
            }
            Err(e) => return Err(e),
        };
        if Attr::of_meta(&meta, false, &self.settings.defaults).kind == FileKind::Symlink {
            // A listing showed the link as a file. On ESTALE the kernel looks the path up again and follows it.
            if let Some((parent, name)) = self.inodes.place(inode.ino) {
                self.absorb_as(inode.role.clone(), (parent, &name), &key, &meta, asked)?;
            }
            return Err(Error::new(Kind::Stale, "a symbolic link, not a file").with_key(&key));
        }
        self.absorb_meta(inode, &meta, asked);
        self.check_archived(&Facts::of_meta(&meta), &key)?;
        Ok(Object::of(&key, &meta))
    }

    fn add_handle(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        mode: OpenMode,
        reader: Option<crate::read::Reader>,
        keep_pages: bool,
    ) -> Opened {
        let handle = FileHandle::new(inode.clone(), mode.read, mode.write, reader);
        self.inodes.pin(inode.ino);
        {
            let mut state = inode.state.lock();
            state.handles.retain(|h| h.strong_count() > 0);
            state.handles.push(Arc::downgrade(&handle));
            if mode.write {
                state.write_handles += 1;
            }
        }
        Opened { fh: self.handles.insert_file(handle), keep_pages, no_flush: !mode.write }
    }

    /// The inode's writer for one of its open handles, made when there is none.
    pub(super) async fn writer(self: &Arc<Self>, inode: &Arc<Inode>) -> Result<Arc<Writer>> {
        let writer = self.hold_writer(inode, Need::Headers).await?;
        inode.state.lock().write_handles -= 1;
        Ok(writer)
    }

    /// The inode's writer, made when there is none, and counted as if a handle were open: a close on another thread
    /// cannot take it away between here and the change it is wanted for. The count is given back by [`Fs::let_go`], or
    /// by a handle that takes its place.
    ///
    /// Requests for a file nobody looked at: a HEAD, or a GET of the first block when its bytes are wanted. Tags and ACL
    /// are asked for with it when the content is replaced, else by the first commit.
    pub(super) async fn hold_writer(self: &Arc<Self>, inode: &Arc<Inode>, need: Need) -> Result<Arc<Writer>> {
        loop {
            {
                let mut state = inode.state.lock();
                if let Some(w) = state.writer.clone() {
                    state.write_handles += 1;
                    return Ok(w);
                }
            }
            if inode.state.lock().is_through_another(None) {
                return Err(self.part(inode, true).await);
            }
            // A self-copy that is under way knows of no writer: what one stored meanwhile would be undone by it.
            let _changing = self.changing(inode).await?;
            if inode.state.lock().writer.is_some() {
                continue;
            }
            let key = self.inodes.key(inode.ino)?;
            let told = {
                let state = inode.state.lock();
                let fresh = state.confirmed.is_some_and(|t| t.elapsed() < self.settings.metadata_ttl);
                state.facts.meta.clone().filter(|_| fresh || state.attr_pending)
            };
            let known = inode.state.lock().known(self.settings.metadata_ttl);
            // What replaces everything will be stored; what only might change something may not.
            let asked = async {
                match need {
                    Need::Nothing => {
                        let (tags, acl) = self.tags_and_acl(&key, known).await?;
                        Ok::<_, Error>(Known { tags: Some(tags), acl: Some(acl) })
                    }
                    _ => Ok(known),
                }
            };
            let meta = async {
                match &told {
                    Some(meta) => Ok(meta.clone()),
                    None if need == Need::Bytes => self.refresh_with_bytes(inode).await,
                    None => self.refresh(inode).await,
                }
            };
            let (meta, known) = tokio::join!(meta, asked);
            let (meta, known) = (meta?, known?);
            if need != Need::Nothing {
                self.check_archived(&Facts::of_meta(&meta), &key)?;
            }
            let mut object = self.headers_carried(&meta);
            let mut state = inode.state.lock();
            if state.writer.is_some() || state.through.is_some() {
                continue;
            }
            apply_edits(&state.edits, &mut object, &self.settings.provider.tags);
            state.keeps_unasked = known.tags.is_none() || known.acl.is_none();
            state.learn(known.clone());
            object.tags = known.tags.unwrap_or_default();
            known.acl.unwrap_or_default().put_into(&mut object);
            if self.settings.store_attrs {
                state.attr.store(&mut object.headers.metadata);
            }
            let base = Object {
                id: ObjectId { key: key.clone(), etag: meta.etag.clone(), version: meta.version.clone() },
                size: meta.size,
            };
            let base = (need != Need::Nothing).then_some(base);
            let writer = Writer::new(self.writes.clone(), key, base, object, Condition::None);
            if need == Need::Nothing {
                writer.replacing(Some(meta.etag.clone()));
            }
            state.writer = Some(writer.clone());
            state.write_handles += 1;
            state.written = true;
            // Reads see the writer's bytes from now on, on every handle.
            for handle in state.handles.iter().filter_map(std::sync::Weak::upgrade) {
                handle.set_reader(None);
            }
            return Ok(writer);
        }
    }

    /// Gives the count of [`Fs::hold_writer`] back; stores the file when nobody else has it open for writing.
    pub(super) async fn let_go(self: &Arc<Self>, inode: &Arc<Inode>) -> Result<()> {
        let last = {
            let mut state = inode.state.lock();
            state.write_handles -= 1;
            state.write_handles == 0
        };
        let result = if last { self.close_writer(inode).await } else { Ok(()) };
        self.drop_unlinked(inode);
        result
    }

    /// What a new file of this name carries.
    pub(super) fn object_for(&self, name: &str, attr: &Attr) -> NewObject {
        let mut object = self.settings.new_object.clone();
        if object.headers.content_type.is_none() {
            // XOS-MIM-02, XOS-MIM-03: by the extension of the key, and an explicit fallback.
            object.headers.content_type = Some(mime_guess::from_path(name).first_or_octet_stream().to_string());
        }
        if self.settings.store_attrs {
            attr.store(&mut object.headers.metadata);
        }
        object
    }

    /// Makes a new file and opens it. Nothing is sent before the first commit.
    pub async fn create(
        self: &Arc<Self>,
        parent: Ino,
        name: &Name,
        perm: u16,
        owner: (u32, u32),
        mode: OpenMode,
    ) -> Result<(Entry, Opened)> {
        self.writable()?;
        self.wait_for_burial(parent, name).await;
        if let Some(existing) = self.child(parent, name).await? {
            if mode.exclusive {
                return Err(Error::new(Kind::Exists, "create").with_key(name));
            }
            let opened = self.open(existing.ino, mode).await?;
            return Ok((self.entry(&existing), opened));
        }
        let inode = self.new_file(parent, name, perm, owner, mode.exclusive).await?;
        let opened = self.add_handle(&inode, OpenMode { write: true, ..mode }, None, true);
        Ok((self.entry(&inode), opened))
    }

    /// A file that exists on this mount alone until it is committed.
    pub(super) async fn new_file(
        self: &Arc<Self>,
        parent: Ino,
        name: &Name,
        perm: u16,
        owner: (u32, u32),
        exclusive: bool,
    ) -> Result<Arc<Inode>> {
        if name.is_escaped() {
            return Err(Error::new(Kind::BadName, "create a name that is an escape").with_key(name));
        }
        let key = self.inodes.prefix(parent)?.file(name)?;
        let now = SystemTime::now();
        let attr = Attr {
            kind: FileKind::File,
            size: 0,
            perm,
            uid: owner.0,
            gid: owner.1,
            atime: now,
            mtime: now,
            ctime: now,
        };
        let object = self.object_for(name.as_str(), &attr);
        // A grave here means that the bucket still holds the old object: the commit replaces it.
        let buried = self.reuse_name(&key).await;
        let condition =
            if exclusive && self.settings.conditional && !buried { Condition::Absent } else { Condition::None };
        let writer = Writer::new(self.writes.clone(), key.clone(), None, object, condition);
        if !buried {
            writer.replacing(None);
        }
        let mut made = false;
        let inode = self.inodes.remember_kind(parent, name, key.as_str(), Some(FileKind::File), || {
            made = true;
            let mut state = State::new(attr, Facts::default(), buried);
            state.writer = Some(writer);
            state.written = true;
            state
        })?;
        // Several may have found at the same time that there is no such name.
        if exclusive && !made && inode.state.lock().writer.is_some() {
            return Err(Error::new(Kind::Exists, "create").with_key(name));
        }
        self.name_added(parent, name);
        Ok(inode)
    }

    pub(super) fn name_added(&self, parent: Ino, name: &Name) {
        self.inodes.names_changed(parent);
        self.listings.touch(parent, name, true);
        self.touch_dir(parent);
    }

    /// A change in a directory moves its times, here only: the bucket has no place for them.
    pub(super) fn touch_dir(&self, dir: Ino) {
        if let Ok(inode) = self.inodes.get(dir) {
            let now = SystemTime::now();
            let mut state = inode.state.lock();
            state.attr.mtime = now;
            state.attr.ctime = now;
            state.touched = true;
        }
    }

    /// Answers a read from memory, or not at all.
    pub fn read_now(&self, fh: Fh, offset: u64, len: usize) -> Option<Result<Bytes>> {
        let handle = match self.handles.file(fh) {
            Ok(handle) => handle,
            Err(e) => return Some(Err(e)),
        };
        if let Some(reader) = handle.reader() {
            return reader.read_cached(offset, len).map(Ok);
        }
        let writer = handle.inode.state.lock().writer.clone()?;
        writer.read_now(offset, len).map(Ok)
    }

    /// Up to `len` bytes; short only at the end of the file.
    ///
    /// Errors: [`Kind::Stale`] when somebody replaced the object after this handle was opened.
    pub async fn read(self: &Arc<Self>, fh: Fh, offset: u64, len: usize) -> Result<Bytes> {
        let handle = self.handles.file(fh)?;
        let mut waited = false;
        for _ in 0..4 {
            if let Some(reader) = handle.reader() {
                let answer = reader.read(offset, len).await;
                // This mount made a new version while the read was under way: ask for that one.
                let moved = handle.reader().is_none_or(|now| !Arc::ptr_eq(&now, &reader));
                match answer {
                    Err(e) if moved && is_superseded(&e) => continue,
                    // The store has the new version or name, and its answer is still on the way.
                    Err(e) if !waited && is_superseded(&e) && handle.inode.changing.try_lock().is_err() => {
                        waited = true;
                        drop(self.changing(&handle.inode).await?);
                        continue;
                    }
                    Err(e) if e.kind() == Kind::NotFound => return Err(e.with_kind(Kind::Stale)),
                    other => return other,
                }
            }
            let writer = handle.inode.state.lock().writer.clone();
            match writer {
                Some(w) => match w.read(offset, len).await {
                    Err(e) if !waited && is_superseded(&e) && handle.inode.changing.try_lock().is_err() => {
                        waited = true;
                        drop(self.changing(&handle.inode).await?);
                    }
                    done => return done,
                },
                None => {
                    let object = self.current_object(&handle.inode).await?;
                    handle.set_reader(Some(self.reads.reader(object)));
                }
            }
        }
        Err(Error::new(Kind::Stale, "read a file that keeps changing"))
    }

    /// mtime, ctime and the kill of setuid after a write. `wrote`: bytes, not only a new size.
    pub(super) fn note_write(&self, inode: &Inode, kill_suid: bool, wrote: bool) {
        let now = SystemTime::now();
        let mut state = inode.state.lock();
        state.attr.mtime = now;
        state.attr.ctime = now;
        state.wrote |= wrote;
        if kill_suid {
            state.attr.perm &= !0o4000;
            if state.attr.perm & 0o010 != 0 {
                state.attr.perm &= !0o2000;
            }
        }
        state.changed = Some(Instant::now());
    }

    /// Takes the bytes on the calling thread when that needs no waiting. `None`: call [`Fs::write`].
    pub fn write_now(&self, fh: Fh, offset: u64, data: &[u8], mode: WriteMode) -> Option<Result<()>> {
        let handle = match self.handles.file(fh) {
            Ok(handle) => handle,
            Err(e) => return Some(Err(e)),
        };
        if !handle.write {
            return Some(Err(Kind::BadHandle.into()));
        }
        if mode.append || mode.thread.is_some_and(|t| !handle.users.knows(t)) {
            return None;
        }
        let writer = handle.inode.state.lock().writer.clone()?;
        match writer.write_now(offset, data) {
            Ok(Some(())) => {
                self.note_write(&handle.inode, mode.kill_suid, true);
                Some(Ok(()))
            }
            Ok(None) => None,
            Err(e) => Some(Err(e)),
        }
    }

    pub async fn write(self: &Arc<Self>, fh: Fh, offset: u64, data: Bytes, mode: WriteMode) -> Result<()> {
        let handle = self.handles.file(fh)?;
        if !handle.write {
            return Err(Kind::BadHandle.into());
        }
        if let Some(thread) = mode.thread {
            handle.users.note(&self.threads, thread).await;
        }
        let writer = self.writer(&handle.inode).await?;
        if mode.append {
            writer.append(data).await?;
        } else {
            writer.write(offset, data).await?;
        }
        self.note_write(&handle.inode, mode.kill_suid, true);
        Ok(())
    }
}

/// Whether the version that was read is not there any more.
fn is_superseded(e: &Error) -> bool {
    matches!(e.kind(), Kind::Stale | Kind::NotFound)
}

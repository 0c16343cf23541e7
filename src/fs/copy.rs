//! Server-side copies: what rename and changes of attributes are made of.
//!
//! A copy loses what is not sent along: the ACL always, the storage class unless named, and in parts everything.
//! What the survival table of `docs/SEMANTICS.md` promises is carried over here.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use tracing::{debug, error};

use super::Fs;
use super::attr::{self, Attr, Facts, FileKind};
use super::attribute::Edit;
use super::inode::Inode;
use super::kept::{KeptAcl, Known};
use crate::config::provider::TagLimits;
use crate::error::{Error, Kind, Result};
use crate::key::Key;
use crate::read::Object;
use crate::s3::{Condition, Directive, ETag, NewObject, ObjectId, ObjectMeta, Part, Payload, Source, Stored};

/// Bytes of one part of a copy: well under the gibibyte above which XOS may time out.
const COPY_PART: u64 = 256 << 20;
/// Parts of one object copied at a time.
const COPY_PARALLEL: usize = 8;

/// Longest target of a symbolic link, PATH_MAX.
const LINK_MAX: u64 = 4096;

/// Whether a listing's entry may be a symbolic link: they are uploaded as the only part of a multipart upload, because
/// the ETag of such an object ends in `-1`, which that of a small file hardly ever does. A copy in one request would
/// lose the mark.
pub(super) fn may_be_link(size: u64, etag: Option<&ETag>) -> bool {
    (1..=LINK_MAX).contains(&size) && etag.is_some_and(|e| e.as_str().ends_with("-1"))
}

/// Where headers, metadata and class of a copy come from.
pub(super) enum Copying {
    /// From the source; the class has to be sent along.
    Keep { class: Option<String> },
    /// Given. Tags and ACL of it are not looked at: those are the source's in any case.
    Replace(Box<NewObject>),
}

/// Changes of headers and metadata, one after the other.
pub(super) fn apply_edits(edits: &[Edit], object: &mut NewObject, limits: &TagLimits) {
    for edit in edits {
        // Cannot fail: only tags have limits, and those are not delayed.
        let _ = edit.apply(object, limits);
    }
}

impl Fs {
    /// Copies `from` to `to` (which may be the same key) with everything that belongs to it. Returns also what is known
    /// of the copy's tags and ACL.
    ///
    /// Requests: one copy, a GET of the ACL unless it is `known`, and one of the tags where headers are replaced and the
    /// store drops them then. Above `copy_threshold` the parts, and HEAD and tags
    /// as far as they are not known; one more for an ACL that is no canned one.
    pub(super) async fn copy_object(
        &self,
        from: &Object,
        to: &Key,
        how: Copying,
        known: Known,
    ) -> Result<(Stored, Known)> {
        let source = Source::of(&from.id);
        if from.size > self.settings.copy_threshold || may_be_link(from.size, Some(&from.id.etag)) {
            let object = async {
                match how {
                    Copying::Replace(object) => Ok(*object),
                    Copying::Keep { .. } => {
                        self.s3.head(&from.id.key, None).await.map(|meta| self.headers_carried(&meta))
                    }
                }
            };
            let (object, kept) = tokio::join!(object, self.tags_and_acl(&from.id.key, known));
            let (mut object, (tags, acl)) = (object?, kept?);
            object.tags = tags;
            acl.put_into(&mut object);
            let stored = match self.copy_in_parts(from, to, &source, &object).await {
                // Ceph 16 refuses copies of parts to every session of a role. One request may take long, but does it.
                Err(e)
                    if matches!(e.kind(), Kind::Denied | Kind::Unsupported)
                        && from.size <= self.settings.provider.limits.max_copy =>
                {
                    debug!("no copy in parts: {e}");
                    let directive = Directive::Replace { object: object.clone(), tags: true };
                    let stored = self.s3.copy(&source, to, &directive, &Condition::None).await?;
                    self.s3.settle_copied_tags(to, &object.tags).await?;
                    stored
                }
                done => done?,
            };
            self.settle(to, &object, &stored.etag).await?;
            return Ok((stored, Known::of_object(&object)));
        }
        // Copies keep tags, but not every store's when metadata is replaced.
        let needs_tags = matches!(how, Copying::Replace(_)) && !self.settings.provider.copy_keeps_tags;
        let (tags, acl) = match known.acl {
            _ if needs_tags => self.tags_and_acl(&from.id.key, known).await.map(|(tags, acl)| (Some(tags), acl))?,
            Some(acl) => (known.tags, acl),
            None => (known.tags, self.acl_to_keep(&from.id.key).await?),
        };
        let directive = match how {
            Copying::Keep { class } => {
                Directive::Keep { storage_class: class.filter(|c| c != "STANDARD"), acl: acl.canned() }
            }
            Copying::Replace(object) => {
                let send = tags.clone().filter(|_| needs_tags).unwrap_or_default();
                let replaces = !send.is_empty();
                let object = NewObject { acl: acl.canned(), tags: send, ..*object };
                Directive::Replace { object, tags: replaces }
            }
        };
        let stored = self.s3.copy(&source, to, &directive, &Condition::None).await?;
        if let Directive::Replace { object, tags: true } = &directive {
            self.s3.settle_copied_tags(to, &object.tags).await?;
        }
        if let KeptAcl::Full(list) = &acl {
            let lacking = NewObject { grants: Some(list.clone()), ..NewObject::default() };
            self.settle(to, &lacking, &stored.etag).await?;
        }
        Ok((stored, Known { tags, acl: Some(acl) }))
    }

    /// XOS-MPU-07, XOS-MPU-08: parts of 256 MiB, larger only when 10,000 of them would not do.
    async fn copy_in_parts(&self, from: &Object, to: &Key, source: &Source, object: &NewObject) -> Result<Stored> {
        let part = COPY_PART.max(from.size.div_ceil(10_000));
        let (upload, token) = self.writes.create_upload(to, object).await?;
        let mut copies: Vec<BoxFuture<'_, Result<Part>>> = Vec::new();
        for (start, number) in (0..from.size).step_by(part as usize).zip(1..) {
            let range = start..(start + part).min(from.size);
            let size = range.end - range.start;
            // XOS-MPU-09: a range counts only for sources over 5 MB.
            let range = (size < from.size).then_some(range);
            let copy = self.s3.copy_part(to, &upload, number, source, range, size);
            copies.push(Box::pin(async move {
                let part = copy.await;
                self.writes.progressed();
                part
            }));
        }
        let parts: Vec<Result<Part>> = stream::iter(copies).buffered(COPY_PARALLEL).collect().await;
        let result = match self.parts_of_one_version(from, parts).await {
            Ok(parts) => self.s3.complete_upload(to, &upload, &parts, &Condition::None).await,
            Err(e) => Err(e),
        };
        if result.is_err()
            && let Err(e) = self.s3.abort_upload(to, &upload).await
        {
            error!("an upload is left behind: {e}");
        } else {
            self.writes.upload_ended(token);
        }
        result
    }

    /// Stores that ignore the condition on the source (Ceph 16) could mix two versions: with more than one part the
    /// source is looked at again before anything becomes of them.
    async fn parts_of_one_version(&self, from: &Object, parts: Vec<Result<Part>>) -> Result<Vec<Part>> {
        let parts = parts.into_iter().collect::<Result<Vec<_>>>()?;
        if parts.len() > 1 && from.id.version.is_none() && self.s3.head(&from.id.key, None).await?.etag != from.id.etag
        {
            return Err(Error::new(Kind::Stale, "copy object: it is another version now").with_key(&from.id.key));
        }
        Ok(parts)
    }

    /// The object behind a committed file's inode.
    pub(super) fn stored_object(&self, inode: &Inode, key: Key) -> Result<Object> {
        let state = inode.state.lock();
        let etag =
            state.facts.etag.clone().ok_or_else(|| Error::new(Kind::Io, "object without ETag").with_key(&key))?;
        Ok(Object { id: ObjectId { key, etag, version: state.facts.version.clone() }, size: state.attr.size })
    }

    /// Rewrites the headers and metadata of a committed file by copying it onto itself. The caller holds
    /// `Inode::changing`.
    pub(super) async fn self_copy(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        edit: &(dyn Fn(&mut NewObject) + Send + Sync),
    ) -> Result<()> {
        self.settle_copies(Some(inode)).await;
        // What is stored while the copy is made would be undone by it.
        let writing = inode.state.lock().writer.clone();
        let _held = match &writing {
            Some(w) => Some(w.hold_commits().await?),
            None => None,
        };
        let key = self.inodes.key(inode.ino)?;
        let meta = match self.known_meta(inode) {
            Some(meta) => meta,
            None => self.refresh(inode).await?,
        };
        let mut object = self.headers_carried(&meta);
        edit(&mut object);
        if self.settings.store_attrs {
            // The copy is a new object to the store, but nobody has changed the content.
            attr::keep_mtime(&mut object.headers.metadata, &meta);
        }
        let from = self.stored_object(inode, key.clone())?;
        let known = inode.state.lock().known(self.settings.metadata_ttl);
        let (stored, known) = self.copy_object(&from, &key, Copying::Replace(Box::new(object.clone())), known).await?;
        let id = ObjectId { key, etag: stored.etag.clone(), version: stored.version.clone() };
        let now_object = Object { id, size: from.size };
        let meta = ObjectMeta {
            etag: stored.etag.clone(),
            version: stored.version,
            last_modified: stored.last_modified.or(meta.last_modified),
            headers: object.headers,
            storage_class: object.storage_class,
            tag_count: None,
            ..(*meta).clone()
        };
        {
            let mut state = inode.state.lock();
            // The bytes are the same, so what the kernel has of them stays right.
            if state.pages == state.facts.etag {
                state.pages = Some(stored.etag);
            }
            state.facts = Facts::of_meta(&meta);
            state.learn(known);
            let now = Instant::now();
            state.confirmed = Some(now);
            state.changed = Some(now);
        }
        self.reads.became(&from, &now_object);
        self.rebind(inode, &now_object);
        let writer = inode.state.lock().writer.clone();
        // Unless it has committed something newer meanwhile.
        if let Some(w) = writer.filter(|w| w.base().is_some_and(|b| b.id.etag == from.id.etag)) {
            w.set_base(now_object);
            w.replace_object_if_clean(&mut |o| edit(o));
        }
        Ok(())
    }

    /// Metadata that is known and still believed.
    pub(super) fn known_meta(&self, inode: &Inode) -> Option<Arc<ObjectMeta>> {
        let state = inode.state.lock();
        let fresh = state.confirmed.is_some_and(|t| t.elapsed() < self.settings.metadata_ttl);
        state.facts.meta.clone().filter(|_| fresh)
    }

    /// Stores mode, owner and times that were changed after the commit. Nothing to do is Ok.
    pub(super) async fn store_attr(self: &Arc<Self>, inode: &Arc<Inode>) -> Result<()> {
        if !inode.state.lock().attr_pending {
            return Ok(());
        }
        let _changing = self.changing(inode).await?;
        let (pending, attr, dirty) = {
            let state = inode.state.lock();
            let dirty = state.writer.as_ref().is_some_and(|w| w.is_dirty());
            (state.attr_pending, state.attr.clone(), dirty)
        };
        // A dirty writer carries them with its commit; what was unlinked needs none.
        if !pending || dirty || self.inodes.place(inode.ino).is_none() {
            return Ok(());
        }
        let result = if attr.kind == FileKind::Dir {
            let put = self.put_marker(inode).await;
            inode.state.lock().attr_pending = false;
            put
        } else {
            self.copy_pending(inode, None).await
        };
        if result.is_err() {
            // What this mount shows is not what is stored.
            let mut state = inode.state.lock();
            (state.attr_pending, state.attr_changed) = (false, false);
            state.edits.clear();
            state.confirmed = None;
        }
        self.inodes.settle(inode.ino);
        result
    }

    /// One self-copy of a file with everything that waits for one, and with `extra`. The caller holds
    /// `Inode::changing`.
    pub(super) async fn copy_pending(self: &Arc<Self>, inode: &Arc<Inode>, extra: Option<&Edit>) -> Result<()> {
        let (attr, changed, edits) = {
            let state = inode.state.lock();
            (state.attr.clone(), state.attr_changed, state.edits.clone())
        };
        let store = changed && self.settings.store_attrs;
        let limits = &self.settings.provider.tags;
        let edit = |o: &mut NewObject| {
            if store {
                attr.store(&mut o.headers.metadata);
            }
            apply_edits(&edits, o, limits);
            apply_edits(extra.map_or(&[], std::slice::from_ref), o, limits);
        };
        self.self_copy(inode, &edit).await?;
        let mut state = inode.state.lock();
        // More may have come while the copy was under way. A commit in between took them all.
        let done = edits.len().min(state.edits.len());
        state.edits.drain(..done);
        let differs = state.attr.perm != attr.perm
            || state.attr.uid != attr.uid
            || state.attr.gid != attr.gid
            || state.attr.mtime != attr.mtime;
        state.attr_changed &= differs;
        state.attr_pending = state.attr_changed || !state.edits.is_empty();
        Ok(())
    }

    /// Copies a directory's marker onto itself with `edit`; false when there is none.
    pub(super) async fn copy_marker(
        &self,
        inode: &Inode,
        edit: &(dyn Fn(&mut NewObject) + Send + Sync),
    ) -> Result<bool> {
        let odd = inode.state.lock().odd_marker.clone();
        let Some(marker) = odd.or(self.inodes.prefix(inode.ino)?.marker()) else { return Ok(false) };
        let meta = match self.s3.head(&marker, None).await {
            Ok(meta) => meta,
            Err(e) if e.kind() == Kind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        let mut object = self.headers_carried(&meta);
        edit(&mut object);
        let from = Object::of(&marker, &meta);
        self.copy_object(&from, &marker, Copying::Replace(Box::new(object.clone())), Known::default()).await?;
        self.marker_sent(inode);
        let mut state = inode.state.lock();
        state.plain_marker = false;
        state.facts.meta = Some(Arc::new(ObjectMeta { headers: object.headers, ..meta }));
        Ok(true)
    }

    /// Writes a directory's marker object with its attributes. One that somebody else made, or that got more than that,
    /// keeps what it has.
    pub(super) async fn put_marker(&self, inode: &Inode) -> Result<()> {
        let odd = inode.state.lock().odd_marker.clone();
        let Some(marker) = odd.or(self.inodes.prefix(inode.ino)?.marker()) else { return Ok(()) };
        let (attr, kept) = {
            let state = inode.state.lock();
            (state.attr.clone(), state.has_marker && !state.plain_marker)
        };
        let store = self.settings.store_attrs;
        let edit = |o: &mut NewObject| {
            if store {
                attr.store(&mut o.headers.metadata);
            }
        };
        if kept && self.copy_marker(inode, &edit).await? {
            return Ok(());
        }
        self.send_marker(&marker, &attr).await?;
        self.marker_sent(inode);
        inode.state.lock().plain_marker = true;
        Ok(())
    }

    pub(super) async fn send_marker(&self, marker: &Key, attr: &Attr) -> Result<()> {
        let mut object = self.settings.new_object.clone();
        object.headers.content_type = Some("application/x-directory".into());
        if self.settings.store_attrs {
            attr.store(&mut object.headers.metadata);
        }
        self.s3.put(marker, Payload::default(), &object, &Condition::None).await?;
        Ok(())
    }

    pub(super) fn marker_sent(&self, inode: &Inode) {
        let mut state = inode.state.lock();
        state.stored = true;
        state.has_marker = true;
        state.marker_told = true;
        let now = Instant::now();
        state.confirmed = Some(now);
        state.changed = Some(now);
    }
}

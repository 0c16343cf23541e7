//! Extended attributes: `user.s3.*` is the store's view of the object, any other `user.NAME` its user metadata.
//!
//! 1. Only what is asked for by name costs a request: listxattr never makes one, and nothing of `user.s3.*` is in
//!    it, so that `cp -a`, `rsync -X` and `ls -l` cost none. `security.*`, `system.*` and `trusted.*` are answered
//!    at once.
//! 2. On a file that is not stored yet, everything rides along with the first commit.
//! 3. Tags and ACL have requests of their own. Class, headers and metadata are changed by copying the object onto
//!    itself. Reading, changing and writing a set back is a race in S3 itself; on this mount it is serialised.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Fs;
use super::attr::{FileKind, is_posix_name};
use super::attribute::{
    Attribute, Edit, edit_tag, format_tags, format_versions, get_from_meta, get_uncommitted, invalid,
};
use super::copy::apply_edits;
use super::inode::{Ino, Inode};
use super::kept::{KeptAcl, Known, Tags, edit_writer};
use crate::error::{Error, Kind, Result};
use crate::key::Key;
use crate::s3::grants;
use crate::s3::{Acl, AclChange, Headers, NewObject, ObjectMeta, Presign, PresignMethod, canned_name};

impl Fs {
    /// Names outside `user.`: no object has them, and programs ask for them all day. `ls -l` stops asking for access
    /// lists and capabilities when it is told that there is no such thing here, not only none on this file.
    pub fn getxattr_now(name: &str) -> Option<Error> {
        (!name.starts_with("user.")).then(|| Kind::Unsupported.into())
    }

    /// The object that carries a node's attributes: the file's, or a directory's marker; and which version of it.
    async fn attribute_target(self: &Arc<Self>, inode: &Arc<Inode>) -> Result<(Key, Option<Arc<str>>)> {
        if inode.kind() != FileKind::Dir {
            return self.inodes.target(inode);
        }
        let key = self.marker_key(inode).await?;
        let version = self.shown_version(&key).await?;
        Ok((key, version))
    }

    async fn marker_key(self: &Arc<Self>, inode: &Arc<Inode>) -> Result<Key> {
        let (odd, has) = {
            let state = inode.state.lock();
            (state.odd_marker.clone(), state.has_marker)
        };
        if let Some(odd) = odd {
            return Ok(odd);
        }
        let marker = self.inodes.prefix(inode.ino)?.marker().ok_or(Kind::NoAttribute)?;
        if has {
            return Ok(marker);
        }
        match self.head_shown(&marker).await {
            Ok(_) => {
                inode.state.lock().has_marker = true;
                Ok(marker)
            }
            Err(e) if e.kind() == Kind::NotFound => {
                Err(Error::new(Kind::NoAttribute, "the directory has no marker object").with_key(marker))
            }
            Err(e) => Err(e),
        }
    }

    /// What a file that is not stored as it is now will carry.
    fn uncommitted(&self, inode: &Inode) -> Option<NewObject> {
        let state = inode.state.lock();
        state.writer.as_ref().filter(|w| w.is_dirty()).map(|w| w.object())
    }

    /// Headers and metadata with the changes that wait for their self-copy; `None` when none do.
    fn edited(&self, inode: &Inode, meta: &ObjectMeta) -> Option<NewObject> {
        let state = inode.state.lock();
        if state.edits.is_empty() {
            return None;
        }
        let mut object = self.headers_carried(meta);
        apply_edits(&state.edits, &mut object, &self.settings.provider.tags);
        Some(object)
    }

    async fn meta_of(self: &Arc<Self>, inode: &Arc<Inode>, key: &Key) -> Result<Arc<ObjectMeta>> {
        if let Some(meta) = self.known_meta(inode) {
            return Ok(meta);
        }
        if inode.kind() == FileKind::Dir {
            return Ok(Arc::new(self.head_shown(key).await?));
        }
        self.refresh(inode).await
    }

    /// Runs `request` unless the store turned out before not to support the like.
    async fn if_supported<T>(&self, lacking: &AtomicBool, request: impl Future<Output = Result<T>>) -> Result<T> {
        if lacking.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::Unsupported, "this store lacks it"));
        }
        request.await.inspect_err(|e| {
            if e.kind() == Kind::Unsupported {
                lacking.store(true, Ordering::Relaxed);
            }
        })
    }

    async fn ask_acl(&self, inode: &Inode, key: &Key, version: Option<&str>) -> Result<Acl> {
        let acl = self.if_supported(&self.acl_unsupported, self.s3.object_acl(key, version)).await?;
        inode.state.lock().learn(Known { tags: None, acl: Some(KeptAcl::of(acl.clone())) });
        Ok(acl)
    }

    async fn set_acl(&self, inode: &Inode, key: &Key, change: AclChange) -> Result<()> {
        self.if_supported(&self.acl_unsupported, self.s3.set_object_acl(key, None, &change)).await?;
        let acl = match change {
            AclChange::Canned(name) if name == "private" => KeptAcl::Private,
            AclChange::Canned(name) => KeptAcl::Canned(name),
            AclChange::Full(acl) => KeptAcl::of(acl),
        };
        let writer = {
            let mut state = inode.state.lock();
            state.learn(Known { tags: None, acl: Some(acl.clone()) });
            state.writer.clone()
        };
        // Somebody has the file open for writing: the next commit has to carry it.
        if let Some(w) = writer {
            edit_writer(&w, &mut |object| acl.put_into(object));
        }
        Ok(())
    }

    async fn ask_tags(&self, inode: &Inode, key: &Key, version: Option<&str>) -> Result<Tags> {
        let tags = self.if_supported(&self.tags_unsupported, self.s3.tags(key, version)).await?;
        inode.state.lock().learn(Known { tags: Some(tags.clone()), acl: None });
        Ok(tags)
    }

    /// None are removed: an empty set is not one that every store takes.
    async fn put_tags(&self, inode: &Inode, key: &Key, tags: &Tags) -> Result<()> {
        if tags.is_empty() {
            self.if_supported(&self.tags_unsupported, self.s3.delete_tags(key, None)).await?;
        } else {
            self.if_supported(&self.tags_unsupported, self.s3.set_tags(key, None, tags)).await?;
        }
        let writer = {
            let mut state = inode.state.lock();
            state.learn(Known { tags: Some(tags.clone()), acl: None });
            state.writer.clone()
        };
        if let Some(w) = writer {
            edit_writer(&w, &mut |object| object.tags = tags.clone());
        }
        Ok(())
    }

    /// Before tags or ACL of a file with unstored content are read or changed: what it keeps of the stored one.
    async fn keep_of_dirty(&self, inode: &Arc<Inode>) -> Result<()> {
        let writer = inode.state.lock().writer.clone();
        match writer.filter(|w| w.is_dirty()) {
            Some(w) => self.keep_tags_and_acl(inode, &w).await,
            None => Ok(()),
        }
    }

    /// Requests: one for tags, ACL, owner; one HEAD for the rest unless it is known; none for `uri`.
    ///
    /// Errors: [`Kind::NoAttribute`] (ENODATA), and what the request fails with.
    pub async fn getxattr(self: &Arc<Self>, ino: Ino, name: &str) -> Result<Vec<u8>> {
        let attribute = match Attribute::parse(name) {
            Err(e) if e.kind() == Kind::Unsupported => return Err(Kind::NoAttribute.into()),
            other => other?,
        };
        let inode = self.inodes.get(ino)?;
        let none = || Error::new(Kind::NoAttribute, "no such attribute").with_key(name);
        match (&attribute, ino == self.root()) {
            (Attribute::Bucket(of), true) => return Ok(self.bucket_attribute(*of).await?.into_bytes()),
            (Attribute::Uri, true) => {
                return Ok(format!("s3://{}/{}", self.s3.bucket(), self.settings.root).into_bytes());
            }
            (Attribute::Bucket(_), false) | (_, true) => return Err(none()),
            _ if inode.role.is_history() => return Err(none()),
            _ => {}
        }
        if attribute == Attribute::Uri {
            let key = match inode.kind() {
                FileKind::Dir => self.inodes.prefix(ino)?.to_string(),
                _ => self.inodes.target(&inode)?.0.to_string(),
            };
            return Ok(format!("s3://{}/{key}", self.s3.bucket()).into_bytes());
        }
        if attribute.is_of_tags_or_acl() {
            self.keep_of_dirty(&inode).await?;
        }
        if matches!(attribute, Attribute::Url | Attribute::UrlPut) && inode.kind() != FileKind::Dir {
            let put = attribute == Attribute::UrlPut;
            if put && inode.changeable().is_err() {
                return Err(none());
            }
            let method = if put { PresignMethod::Put } else { PresignMethod::Get };
            let (key, version) = self.inodes.target(&inode)?;
            let version = version.map(|v| v.to_string());
            let what = Presign { expires: self.settings.presign_ttl, version, ..Presign::new(method, key) };
            return Ok(self.s3.presign(&what).await?.url().into());
        }
        if let Some(object) = self.uncommitted(&inode) {
            return get_uncommitted(&attribute, &object).ok_or_else(none);
        }
        let (key, version) = self.attribute_target(&inode).await?;
        let version = version.as_deref();
        let value = match &attribute {
            Attribute::Acl => {
                let acl = self.ask_acl(&inode, &key, version).await?;
                canned_name(&acl).unwrap_or("custom").to_owned()
            }
            Attribute::Grants => grants::format_lines(&self.ask_acl(&inode, &key, version).await?),
            Attribute::AclJson => grants::format_json(&self.ask_acl(&inode, &key, version).await?),
            Attribute::Owner => {
                let acl = self.ask_acl(&inode, &key, version).await?;
                match acl.owner_name.filter(|n| !n.is_empty()) {
                    Some(display) => format!("{} {display}", acl.owner_id),
                    None => acl.owner_id,
                }
            }
            Attribute::Versions => match self.s3.versions_of(&key).await? {
                versions if versions.is_empty() => return Err(none()),
                versions => format_versions(&versions),
            },
            Attribute::Tags => match self.ask_tags(&inode, &key, version).await? {
                tags if tags.is_empty() => return Err(none()),
                tags => format_tags(&tags),
            },
            Attribute::Tag(tag) => {
                let tags = self.ask_tags(&inode, &key, version).await?;
                tags.into_iter().find(|(k, _)| k == tag).map(|(_, v)| v).ok_or_else(none)?
            }
            _ => {
                let meta = self.meta_of(&inode, &key).await?;
                match (&attribute, self.edited(&inode, &meta)) {
                    (Attribute::Header(_) | Attribute::Metadata(_), Some(object)) => {
                        return get_uncommitted(&attribute, &object).ok_or_else(none);
                    }
                    _ => get_from_meta(&attribute, &meta).ok_or_else(none)?,
                }
            }
        };
        Ok(value.into_bytes())
    }

    /// User metadata that is known without a request. With `xattr_list=all` that is not enough: `None`, ask
    /// [`Fs::listxattr`].
    pub fn listxattr_now(&self, ino: Ino) -> Option<Result<Vec<String>>> {
        if self.settings.list_all_xattrs {
            return None;
        }
        Some(self.inodes.get(ino).map(|inode| {
            let names = self.known_headers(&inode).map(|h| h.metadata.into_keys().filter(|n| !is_posix_name(n)));
            names.map_or(Vec::new(), |names| names.map(|n| format!("user.{n}")).collect())
        }))
    }

    fn known_headers(&self, inode: &Inode) -> Option<Headers> {
        if let Some(object) = self.uncommitted(inode) {
            return Some(object.headers);
        }
        let meta = inode.state.lock().facts.meta.clone()?;
        Some(self.edited(inode, &meta).map_or_else(|| meta.headers.clone(), |object| object.headers))
    }

    /// Every attribute that has a value. Requests: HEAD, tags and ACL as far as they are not known.
    pub async fn listxattr(self: &Arc<Self>, ino: Ino) -> Result<Vec<String>> {
        let inode = self.inodes.get(ino)?;
        let mut names = Vec::new();
        for group in Attribute::GROUPS {
            match self.getxattr(ino, &format!("user.s3.{}", group[0])).await {
                Ok(_) => names.extend(group.iter().map(|name| format!("user.s3.{name}"))),
                Err(e) if matches!(e.kind(), Kind::NoAttribute | Kind::Unsupported | Kind::Denied) => {}
                Err(e) => return Err(e),
            }
        }
        let metadata = self.known_headers(&inode).map(|h| h.metadata.into_keys().filter(|n| !is_posix_name(n)));
        names.extend(metadata.into_iter().flatten().map(|n| format!("user.{n}")));
        Ok(names)
    }

    /// `create`, `replace`: XATTR_CREATE, XATTR_REPLACE.
    ///
    /// Errors: [`Kind::Unsupported`] for other namespaces, [`Kind::NotPermitted`] (EPERM) for what only the store
    /// sets, [`Kind::Invalid`] with the reason in the log, [`Kind::Limit`] (ENOSPC) and [`Kind::Range`] for tags.
    pub async fn setxattr(
        self: &Arc<Self>,
        ino: Ino,
        name: &str,
        value: &[u8],
        create: bool,
        replace: bool,
    ) -> Result<()> {
        self.writable()?;
        let attribute = match Attribute::parse(name) {
            Err(e) if e.kind() == Kind::NoAttribute => {
                let known = name.starts_with("user.s3.");
                return Err(e.with_kind(if known { Kind::Unsupported } else { Kind::Invalid }));
            }
            other => other?,
        };
        let value = std::str::from_utf8(value).map_err(|_| invalid("the value is not UTF-8", name))?;
        if create || replace {
            let exists = match self.getxattr(ino, name).await {
                Ok(_) => true,
                Err(e) if e.kind() == Kind::NoAttribute => false,
                Err(e) => return Err(e),
            };
            if create && exists {
                return Err(Kind::Exists.into());
            }
            if replace && !exists {
                return Err(Kind::NoAttribute.into());
            }
        }
        self.change(ino, name, attribute, Some(value.trim_end_matches('\0'))).await
    }

    pub async fn removexattr(self: &Arc<Self>, ino: Ino, name: &str) -> Result<()> {
        self.writable()?;
        let attribute = match Attribute::parse(name) {
            Err(e) if e.kind() == Kind::Unsupported => return Err(Kind::NoAttribute.into()),
            other => other?,
        };
        let unstored = || self.inodes.get(ino).is_ok_and(|inode| self.uncommitted(&inode).is_some());
        // Of a stored file the tags are asked for below, to be written back without this one.
        if matches!(attribute, Attribute::Metadata(_)) || matches!(attribute, Attribute::Tag(_)) && unstored() {
            self.getxattr(ino, name).await?;
        }
        self.change(ino, name, attribute, None).await
    }

    /// Sets (or with `None` removes) one attribute.
    async fn change(self: &Arc<Self>, ino: Ino, name: &str, attribute: Attribute, value: Option<&str>) -> Result<()> {
        let inode = self.inodes.get(ino)?;
        if ino == self.root() {
            return match attribute {
                Attribute::Bucket(of) => self.change_bucket(of, value).await,
                _ => Err(Error::new(Kind::Unsupported, "set on the root of a mount").with_key(name)),
            };
        }
        inode.changeable()?;
        // Checked before anything is sent.
        let edit = Edit::of(&attribute, name, value, self.settings.provider)?;
        let limits = &self.settings.provider.tags;
        let _changing = self.changing(&inode).await?;
        if edit.is_of_tags_or_acl() {
            self.keep_of_dirty(&inode).await?;
        }
        let writer = inode.state.lock().writer.clone();
        if let Some(w) = writer {
            let mut result = Ok(());
            if w.edit_object(&mut |object| result = edit.apply(object, limits)) {
                return result;
            }
        }
        let (key, _) = self.attribute_target(&inode).await.map_err(|e| match e.kind() {
            Kind::NoAttribute => e.with_kind(Kind::Unsupported),
            _ => e,
        })?;
        match &edit {
            Edit::Acl(canned) => self.set_acl(&inode, &key, AclChange::Canned(canned.clone())).await,
            Edit::Grants(wanted) => {
                // The owner element must be the real one.
                let now = self.ask_acl(&inode, &key, None).await?;
                self.set_acl(&inode, &key, AclChange::Full(wanted.onto(now)?)).await
            }
            Edit::Tags(tags) => self.put_tags(&inode, &key, tags).await,
            // XOS-TAG-05: a set is only ever replaced as a whole.
            Edit::Tag(tag, value) => {
                let mut tags = self.ask_tags(&inode, &key, None).await?;
                if value.is_none() && !tags.iter().any(|(k, _)| k == tag) {
                    return Err(Error::new(Kind::NoAttribute, "no such tag").with_key(name));
                }
                edit_tag(&mut tags, tag, value.as_deref(), limits)?;
                self.put_tags(&inode, &key, &tags).await
            }
            Edit::Restore(days, tier) => {
                let request = self.s3.restore_object(&key, None, *days, tier.as_deref());
                self.if_supported(&self.restore_unsupported, request).await?;
                // HEAD tells how far it is.
                inode.state.lock().facts.meta = None;
                Ok(())
            }
            Edit::Class(_) | Edit::Header(..) | Edit::Metadata(..) if inode.kind() == FileKind::Dir => {
                let apply = |object: &mut NewObject| apply_edits(std::slice::from_ref(&edit), object, limits);
                if self.copy_marker(&inode, &apply).await? { Ok(()) } else { Err(Kind::Unsupported.into()) }
            }
            // What is wrong with a class only the store knows, so it is asked at once.
            Edit::Class(_) => self.copy_pending(&inode, Some(&edit)).await,
            Edit::Header(..) | Edit::Metadata(..) => self.delay_edit(&inode, edit).await,
        }
    }

    /// Adds a change of headers or metadata to the self-copy that waits for others. The caller holds
    /// `Inode::changing`.
    async fn delay_edit(self: &Arc<Self>, inode: &Arc<Inode>, edit: Edit) -> Result<()> {
        let key = self.inodes.key(inode.ino)?;
        let meta = self.meta_of(inode, &key).await?;
        let mut object = self.headers_carried(&meta);
        let limits = &self.settings.provider.tags;
        {
            let state = inode.state.lock();
            apply_edits(&state.edits, &mut object, limits);
        }
        edit.apply(&mut object, limits)?;
        let size: usize = object.headers.metadata.iter().map(|(k, v)| k.len() + v.len()).sum();
        if size > self.settings.provider.limits.metadata as usize {
            // Most likely refused: whoever asked has to hear it.
            return self.copy_pending(inode, Some(&edit)).await;
        }
        let (schedule, writer) = {
            let mut state = inode.state.lock();
            state.edits.push(edit.clone());
            state.attr.ctime = std::time::SystemTime::now();
            (!std::mem::replace(&mut state.attr_pending, true), state.writer.clone())
        };
        if let Some(w) = writer {
            // Should it be written to before the copy is made, the commit carries it.
            edit_writer(&w, &mut |object| apply_edits(std::slice::from_ref(&edit), object, limits));
        }
        if schedule {
            self.schedule_attr(inode);
        }
        Ok(())
    }
}

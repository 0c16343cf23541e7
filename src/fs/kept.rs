//! What a rewrite, a copy and a rename keep of the object they replace besides headers and metadata: tags and ACL.
//!
//! 1. Neither comes with HEAD or a listing, and no store keeps them by itself: a PUT drops both, a copy drops the ACL,
//!    a copy in parts drops both. They cost a request each, so what was read or set here is believed for
//!    `metadata_ttl`, and they are asked for at the first commit, not at the open: `touch` does not pay for them.
//! 2. An ACL without a canned name cannot be sent with the object; it is set by a request of its own right after.
//!    Until then the object is private: the failure is on the safe side.
//! 3. Its owner may be another one after a rewrite by somebody else, and a list must name the real owner: then the
//!    grants are put under the new one.
//! 4. Without the right to read them nothing is kept, and the write goes on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::debug;

use super::Fs;
use super::inode::{Inode, State};
use crate::error::{Error, Kind, Result};
use crate::key::Key;
use crate::s3::grants::under_owner;
use crate::s3::{Acl, AclChange, ETag, NewObject, ObjectMeta, canned_name};
use crate::write::Writer;

pub type Tags = Vec<(String, String)>;

/// An access control list, in the form in which a write can keep it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeptAcl {
    /// The owner alone. Nothing is sent for it: stores that block ACLs refuse every request that names one.
    #[default]
    Private,
    Canned(String),
    Full(Acl),
}

impl KeptAcl {
    pub fn of(acl: Acl) -> KeptAcl {
        match canned_name(&acl) {
            Some("private") => KeptAcl::Private,
            Some(name) => KeptAcl::Canned(name.to_owned()),
            None => KeptAcl::Full(acl),
        }
    }

    /// What a write of `object` gives it.
    pub fn of_object(object: &NewObject) -> KeptAcl {
        match (&object.grants, &object.acl) {
            (Some(acl), _) => KeptAcl::Full(acl.clone()),
            (None, Some(name)) if name != "private" => KeptAcl::Canned(name.clone()),
            _ => KeptAcl::Private,
        }
    }

    pub fn put_into(&self, object: &mut NewObject) {
        (object.acl, object.grants) = match self {
            KeptAcl::Private => (None, None),
            KeptAcl::Canned(name) => (Some(name.clone()), None),
            KeptAcl::Full(acl) => (None, Some(acl.clone())),
        };
    }

    pub fn canned(&self) -> Option<String> {
        match self {
            KeptAcl::Canned(name) => Some(name.clone()),
            _ => None,
        }
    }
}

/// What is known, and recently enough.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub tags: Option<Tags>,
    pub acl: Option<KeptAcl>,
}

impl Known {
    /// What a write of `object` leaves behind.
    pub fn of_object(object: &NewObject) -> Known {
        Known { tags: Some(object.tags.clone()), acl: Some(KeptAcl::of_object(object)) }
    }
}

/// What was learnt of one version, and when.
#[derive(Clone, Debug)]
pub struct Learnt {
    etag: ETag,
    tags: Option<(Instant, Tags)>,
    acl: Option<(Instant, KeptAcl)>,
}

impl State {
    pub fn known(&self, ttl: Duration) -> Known {
        let Some(learnt) = self.learnt.as_ref().filter(|l| Some(&l.etag) == self.facts.etag.as_ref()) else {
            return Known::default();
        };
        Known {
            tags: learnt.tags.as_ref().filter(|(t, _)| t.elapsed() < ttl).map(|(_, tags)| tags.clone()),
            acl: learnt.acl.as_ref().filter(|(t, _)| t.elapsed() < ttl).map(|(_, acl)| acl.clone()),
        }
    }

    /// Notes what was learnt of the version in `facts`. What is `None` stays as it is.
    pub fn learn(&mut self, known: Known) {
        let Some(etag) = self.facts.etag.clone() else { return };
        let now = Instant::now();
        let old = self.learnt.take().filter(|l| l.etag == etag);
        let (tags, acl) = old.map_or((None, None), |l| (l.tags, l.acl));
        self.learnt = Some(Box::new(Learnt {
            etag,
            tags: known.tags.map(|tags| (now, tags)).or(tags),
            acl: known.acl.map(|acl| (now, acl)).or(acl),
        }));
    }
}

impl Fs {
    /// The ACL of an object for a write to keep.
    pub(super) async fn acl_to_keep(&self, key: &Key) -> Result<KeptAcl> {
        if self.acl_unsupported.load(Ordering::Relaxed) {
            return Ok(KeptAcl::Private);
        }
        match self.s3.object_acl(key, None).await {
            Ok(acl) => Ok(KeptAcl::of(acl)),
            Err(e) if e.kind() == Kind::Unsupported => {
                self.acl_unsupported.store(true, Ordering::Relaxed);
                Ok(KeptAcl::Private)
            }
            Err(e) if matches!(e.kind(), Kind::Denied | Kind::NotFound) => {
                debug!("the ACL is not kept: {e}");
                Ok(KeptAcl::Private)
            }
            Err(e) => Err(e),
        }
    }

    pub(super) async fn tags_to_keep(&self, key: &Key) -> Result<Tags> {
        if self.tags_unsupported.load(Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        match self.s3.tags(key, None).await {
            Err(e) if e.kind() == Kind::Unsupported => {
                self.tags_unsupported.store(true, Ordering::Relaxed);
                Ok(Vec::new())
            }
            Err(e) if matches!(e.kind(), Kind::Denied | Kind::NotFound | Kind::NoAttribute) => {
                debug!("tags are not kept: {e}");
                Ok(Vec::new())
            }
            other => other,
        }
    }

    /// Tags and ACL of an object; at most two requests, at the same time, for what is not in `known`.
    pub(super) async fn tags_and_acl(&self, key: &Key, known: Known) -> Result<(Tags, KeptAcl)> {
        let tags = async {
            match known.tags {
                Some(tags) => Ok(tags),
                None => self.tags_to_keep(key).await,
            }
        };
        let acl = async {
            match known.acl {
                Some(acl) => Ok(acl),
                None => self.acl_to_keep(key).await,
            }
        };
        let (tags, acl) = tokio::join!(tags, acl);
        Ok((tags?, acl?))
    }

    /// What a write keeps of the headers and metadata of an object. Tags and ACL are added by those who need them.
    pub(super) fn headers_carried(&self, meta: &ObjectMeta) -> NewObject {
        NewObject {
            headers: meta.headers.clone(),
            storage_class: meta.storage_class.clone().filter(|c| c != "STANDARD"),
            sse: meta.sse.clone(),
            sse_kms_key: meta.sse_kms_key.clone(),
            ..NewObject::default()
        }
    }

    /// Completes what the next commit of a rewritten file carries, if that has not been done.
    pub(super) async fn keep_tags_and_acl(&self, inode: &Arc<Inode>, writer: &Arc<Writer>) -> Result<()> {
        let known = {
            let state = inode.state.lock();
            if !state.keeps_unasked {
                return Ok(());
            }
            state.known(self.settings.metadata_ttl)
        };
        let (tags, acl) = self.tags_and_acl(&writer.key(), known).await?;
        let mut state = inode.state.lock();
        if std::mem::take(&mut state.keeps_unasked) {
            state.learn(Known { tags: Some(tags.clone()), acl: Some(acl.clone()) });
            // Another thread may have set them meanwhile, but then it asked first.
            edit_writer(writer, &mut |object| {
                object.tags = tags.clone();
                acl.put_into(object);
            });
        }
        Ok(())
    }

    /// What a stored object still lacks of what `object` says: an ACL without a canned name, and tags that the store
    /// dropped. The bytes are stored; an error here is reported all the same, because access is not what it was.
    pub(super) async fn settle(&self, key: &Key, object: &NewObject, etag: &ETag) -> Result<()> {
        if let Some(acl) = &object.grants {
            self.set_full_acl(key, acl).await.map_err(|e| {
                Error::new(e.kind(), format!("the content is stored, but its access control list is not: {e}"))
                    .with_key(key)
                    .with_fix("set user.s3.acl.grants again")
            })?;
        }
        // Only objects made of parts have such a tag.
        if !object.tags.is_empty() && etag.as_str().contains('-') {
            self.s3.settle_uploaded_tags(key, &object.tags).await?;
        }
        Ok(())
    }

    /// Sets a list that was read from, or meant for, an object that may have another owner now.
    pub(super) async fn set_full_acl(&self, key: &Key, acl: &Acl) -> Result<()> {
        if !acl.owner_id.is_empty() {
            match self.s3.set_object_acl(key, None, &AclChange::Full(acl.clone())).await {
                Err(e) if matches!(e.kind(), Kind::Denied | Kind::Invalid) => {
                    debug!("the list as it was is refused: {e}");
                }
                done => return done,
            }
        }
        let now = self.s3.object_acl(key, None).await?;
        self.s3.set_object_acl(key, None, &AclChange::Full(under_owner(acl, now))).await
    }
}

/// Changes what the next commit carries, dirty or not.
pub(super) fn edit_writer(writer: &Writer, f: &mut dyn FnMut(&mut NewObject)) {
    if !writer.edit_object(f) {
        writer.replace_object_if_clean(f);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::{Grant, Grantee};

    fn user(id: &str, permission: &str) -> Grant {
        Grant { grantee: Grantee::User { id: id.into(), name: None }, permission: permission.into(), delivered: None }
    }

    #[test]
    fn grants_move_under_another_owner() {
        let acl =
            Acl { owner_id: "a".into(), grants: vec![user("a", "FULL_CONTROL"), user("x", "READ")], ..Acl::default() };
        let now = Acl { owner_id: "b".into(), grants: vec![user("b", "FULL_CONTROL")], ..Acl::default() };
        let moved = under_owner(&acl, now.clone());
        assert_eq!(moved.owner_id, "b");
        assert_eq!(moved.grants, [user("b", "FULL_CONTROL"), user("a", "FULL_CONTROL"), user("x", "READ")]);
        // Whoever names the owner decides what the owner gets.
        let own = Acl { grants: vec![user("b", "READ")], ..acl };
        assert_eq!(under_owner(&own, now).grants, [user("b", "READ")]);
    }

    #[test]
    fn a_private_list_sends_nothing() {
        let mut object = NewObject { acl: Some("public-read".into()), ..NewObject::default() };
        KeptAcl::of(Acl { owner_id: "a".into(), grants: vec![user("a", "FULL_CONTROL")], ..Acl::default() })
            .put_into(&mut object);
        assert_eq!((object.acl.clone(), object.grants.clone()), (None, None));
        assert_eq!(KeptAcl::of_object(&object), KeptAcl::Private);
        let full = KeptAcl::of(Acl { owner_id: "a".into(), grants: vec![user("x", "READ")], ..Acl::default() });
        full.put_into(&mut object);
        assert_eq!(KeptAcl::of_object(&object), full);
    }
}

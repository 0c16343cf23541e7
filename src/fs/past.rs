//! The bucket as it was at one moment: a mount with `as_of`.
//!
//! 1. Of each key the newest version that is not later counts, and where that is the mark of a deletion the key was not
//!    there. What is shown is bound to its version, so that it stays what it is.
//! 2. No store lists that. All versions are listed, in the order of keys and newest first within a key, and each key is
//!    decided when the first version that is old enough comes by: however long the history is, one page is in memory.
//! 3. A common prefix says that something is or once was below it. Each is asked for until a key is found that was there;
//!    what came and went later costs pages and shows nothing.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::Fs;
use super::inode::{Inode, Role};
use super::listing::{From, Shown};
use crate::error::{Error, Kind, Result};
use crate::key::{Key, Prefix};
use crate::s3::{Listed, ObjectMeta, ObjectVersion, Page, VersionMarker, VersionQuery};

/// Versions asked for where most likely one of the first will do.
const FEW: u16 = 16;
/// Directories of one page that are asked for at a time.
const PARALLEL: usize = 16;

/// Takes of each key the version that was current at a time.
#[derive(Clone, Debug, Default)]
pub(super) struct Sieve {
    /// The key whose version has been found; its older ones count no more.
    pub decided: Option<String>,
}

/// Where a listing of versions goes on.
#[derive(Clone)]
pub(super) struct Spot {
    pub from: VersionMarker,
    pub sieve: Sieve,
}

impl Sieve {
    /// Whether this version is the object of its key. Versions come in the order of the store.
    fn takes(&mut self, version: &ObjectVersion, time: SystemTime) -> bool {
        if self.decided.as_ref() == Some(&version.key) || version.stored.or(version.last_modified) > Some(time) {
            return false;
        }
        self.decided = Some(version.key.clone());
        !version.deleted
    }
}

pub(super) fn listed(version: ObjectVersion) -> Listed {
    Listed {
        key: version.key,
        size: version.size,
        etag: version.etag,
        last_modified: version.last_modified,
        storage_class: version.storage_class,
        version: Some(version.version),
    }
}

pub(super) fn right(e: Error) -> Error {
    match e.kind() {
        Kind::Denied => e.with_fix("listing what was stored needs s3:ListBucketVersions on the bucket"),
        _ => e,
    }
}

impl Fs {
    /// One page of a directory as it was; it may be empty and not the last.
    ///
    /// Requests: a page of versions, and one or more for each directory in it.
    pub(super) async fn past_page(&self, prefix: &Prefix, spot: Option<Spot>, time: SystemTime) -> Result<Shown> {
        let (from, mut sieve) = spot.map_or_else(Default::default, |spot| (Some(spot.from), spot.sieve));
        let query = VersionQuery { prefix: prefix.as_str(), delimited: true, from, max_keys: None };
        let page = self.s3.list_versions(&query).await.map_err(right)?;
        let objects = page.versions.into_iter().filter(|v| sieve.takes(v, time)).map(listed).collect();
        let asks: Vec<BoxFuture<'_, Result<Option<String>>>> =
            page.prefixes.into_iter().map(|p| Box::pin(self.if_it_was(p, time)) as _).collect();
        let prefixes: Vec<_> = stream::iter(asks).buffered(PARALLEL).try_collect().await?;
        let page_then = Page { objects, prefixes: prefixes.into_iter().flatten().collect(), next: None };
        Ok(Shown {
            page: page_then,
            versions: Vec::new(),
            next: page.next.map(|from| From::Past(Spot { from, sieve })),
        })
    }

    async fn if_it_was(&self, prefix: String, time: SystemTime) -> Result<Option<String>> {
        Ok(self.first_of_past(&prefix, time).await?.map(|_| prefix))
    }

    /// The first object below `prefix` at that time.
    pub(super) async fn first_of_past(&self, prefix: &str, time: SystemTime) -> Result<Option<Listed>> {
        let mut sieve = Sieve::default();
        let mut query = VersionQuery { prefix, max_keys: Some(FEW), ..VersionQuery::default() };
        loop {
            let page = self.s3.list_versions(&query).await.map_err(right)?;
            if let Some(first) = page.versions.into_iter().find(|v| sieve.takes(v, time)) {
                return Ok(Some(listed(first)));
            }
            let Some(next) = page.next else { return Ok(None) };
            query = VersionQuery { from: Some(next), max_keys: None, ..query };
        }
    }

    /// The id of the version that was current. Errors: [`Kind::NotFound`] when there was none.
    async fn version_then(&self, key: &Key, time: SystemTime) -> Result<Arc<str>> {
        let missing = || Error::new(Kind::NotFound, "look up in the past").with_key(key);
        let mut query = VersionQuery { prefix: key.as_str(), max_keys: Some(FEW), ..VersionQuery::default() };
        loop {
            let page = self.s3.list_versions(&query).await.map_err(right)?;
            for version in page.versions {
                // The key itself comes before those that begin with it.
                if version.key != key.as_str() {
                    return Err(missing());
                }
                if version.stored.or(version.last_modified) <= Some(time) {
                    return if version.deleted { Err(missing()) } else { Ok(version.version) };
                }
            }
            let next = page.next.filter(|next| next.key == key.as_str()).ok_or_else(missing)?;
            query = VersionQuery { from: Some(next), max_keys: None, ..query };
        }
    }

    /// Which version the mount shows of a key; `None` of a bucket that is shown as it is.
    pub(super) async fn shown_version(&self, key: &Key) -> Result<Option<Arc<str>>> {
        match self.settings.as_of {
            Some(time) => self.version_then(key, time).await.map(Some),
            None => Ok(None),
        }
    }

    /// HEAD of what the mount shows of a key.
    pub(super) async fn head_shown(&self, key: &Key) -> Result<ObjectMeta> {
        self.head_of(key, self.shown_version(key).await?.as_deref()).await
    }

    /// What the inode of an object stands for that the mount shows.
    pub(super) fn shown_role(&self, key: &Key, version: Option<&Arc<str>>) -> Role {
        match version {
            Some(version) if self.settings.as_of.is_some() => Role::version(key, version),
            _ => Role::Plain,
        }
    }

    /// Mode, owner and mtime of a directory are in its marker's metadata: one HEAD, once an inode and TTL.
    pub(super) async fn learn_marker(self: &Arc<Self>, inode: &Arc<Inode>) -> Result<()> {
        let (odd, told) = {
            let state = inode.state.lock();
            (state.odd_marker.clone(), state.marker_told || state.attr_pending || !state.stored)
        };
        if told || !self.settings.store_attrs {
            return Ok(());
        }
        let asked = Instant::now();
        let Some(marker) = odd.or_else(|| self.inodes.prefix(inode.ino).ok()?.marker()) else { return Ok(()) };
        match self.head_shown(&marker).await {
            Ok(meta) => {
                self.absorb_meta(inode, &meta, asked);
                inode.state.lock().has_marker = true;
            }
            // An implicit directory has none.
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Denied) => {}
            Err(e) => return Err(e),
        }
        inode.state.lock().marker_told = true;
        Ok(())
    }
}

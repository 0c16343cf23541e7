//! What the disk has of an object, asked before the store.
//!
//! The disk is read by tasks that may wait, several blocks at a time, and each time under a deadline: a disk that hangs
//! costs a read that once, and then the store is asked until the disk has had time to recover.

use std::sync::Arc;
use std::time::Duration;

use super::fetch::{Run, runs};
use super::{Object, Reads};
use crate::budget::Lease;
use crate::cache::BLOCK;
use crate::cache::disk::{DiskCache, Upload, Version};
use crate::error::Result;
use crate::key::Key;
use crate::s3::ObjectMeta;

/// Blocks read at a time: 1 MiB.
const TOGETHER: usize = 8;
/// Longest wait for them; a disk that is alive but busy takes tens of milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// A version and the cache that may have it.
#[derive(Clone)]
pub(super) struct Kept {
    disk: Arc<DiskCache>,
    version: Arc<Version>,
}

impl Kept {
    pub fn keep(&self, index: u64, data: &bytes::Bytes) {
        self.disk.keep(&self.version, index, data);
    }
}

impl Reads {
    pub fn disk(&self) -> Option<&Arc<DiskCache>> {
        self.settings.disk.as_ref()
    }

    /// `None`: there is no disk cache, or it does not keep this object.
    pub(super) fn kept(&self, object: &Object) -> Option<Kept> {
        let disk = self.disk()?.clone();
        let version = disk.version(&object.id, object.size)?;
        Some(Kept { disk, version })
    }

    /// Takes in an object while it is uploaded.
    pub fn upload_kept(&self) -> Option<Upload> {
        self.disk()?.upload()
    }

    /// The version is gone from the store.
    pub(super) fn forget_kept(&self, object: &Object) {
        if let Some(kept) = self.kept(object) {
            kept.disk.forget(&kept.version);
        }
    }

    /// The store has the bytes of `old` as `new`, and not as `old` any more.
    pub fn became(&self, old: &Object, new: &Object) {
        if let (Some(old), Some(new)) = (self.kept(old), self.kept(new)) {
            old.disk.became(&old.version, &new.version);
        }
    }

    /// The file with the bytes of `object`, all of them there and checked. Never waits.
    pub fn whole(&self, object: &Object) -> Option<Arc<std::fs::File>> {
        let kept = self.kept(object)?;
        kept.disk.whole(&kept.version)
    }

    /// As [`Reads::open_fresh`], and a HEAD where the disk has bytes of `known`, what the object was when it was last
    /// looked at: most likely it still is that version.
    pub async fn open_known(
        self: &Arc<Self>,
        key: &Key,
        version: Option<&str>,
        known: Option<Object>,
    ) -> Result<ObjectMeta> {
        let kept = known.and_then(|object| self.kept(&object)).filter(|k| k.disk.may_have(&k.version));
        if let Some(kept) = kept {
            let looked = self.runtime.spawn_blocking(move || kept.disk.has(&kept.version));
            if let Ok(Ok(true)) = tokio::time::timeout(PATIENCE, looked).await {
                return self.s3.head(key, version).await;
            }
        }
        self.open_fresh(key, version).await
    }

    /// Fills the claims of `run` that the disk has. What is left to fetch, and memory for it: `lease` was for all.
    ///
    /// Errors: no memory for what is left; its claims have failed.
    pub(super) async fn look_on_disk(
        &self,
        kept: &Kept,
        object: &Object,
        run: Run,
        mut lease: Lease,
    ) -> (Vec<Run>, Lease) {
        let most = self.get_size() / BLOCK as u64;
        if !kept.disk.may_have(&kept.version) {
            kept.disk.missed(run.claims.len() as u64);
            return (vec![run], lease);
        }
        let mut rest = Vec::new();
        let mut claims = run.claims.into_iter();
        let mut announce = claims.len() > TOGETHER;
        loop {
            let batch = Run { claims: claims.by_ref().take(TOGETHER).collect() };
            let (Some(first), Some(last)) = (batch.claims.first(), batch.claims.last()) else { break };
            let indexes = first.index()..last.index() + 1;
            let all = indexes.start..indexes.end + claims.len() as u64;
            let announced = std::mem::take(&mut announce).then_some(all);
            let (kept, cache, part) = (kept.clone(), self.cache.clone(), lease.split(batch.cost(object.size)));
            let disk = kept.disk.clone();
            let work = self.runtime.spawn_blocking(move || {
                if let Some(all) = announced {
                    kept.disk.announce(&kept.version, all);
                }
                kept.disk.read(&kept.version, indexes, &cache, part)
            });
            match tokio::time::timeout(PATIENCE, work).await {
                Ok(Ok((found, left))) => {
                    lease.merge(left);
                    for (claim, data) in batch.claims.into_iter().zip(found) {
                        match data {
                            Some(data) => claim.fill(data),
                            None => rest.push(claim),
                        }
                    }
                }
                _ => {
                    disk.is_stuck();
                    rest.extend(batch.claims);
                    rest.extend(claims);
                    break;
                }
            }
        }
        let rest = runs(rest, most);
        let missing = rest.iter().map(|r| r.cost(object.size)).sum::<usize>().saturating_sub(lease.bytes());
        if missing > 0 {
            // What a damaged or stuck block was leased is still, or no longer, held by its buffer.
            match self.cache.budget().lease(missing, self.settings.patience).await {
                Ok(more) => lease.merge(more),
                Err(e) => {
                    let e = e.with_key(&object.id.key);
                    rest.into_iter().flat_map(|r| r.claims).for_each(|c| c.fail(e.clone()));
                    return (Vec::new(), lease);
                }
            }
        }
        (rest, lease)
    }
}

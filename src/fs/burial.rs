//! With `writeback`, deletes in the background: `unlink` returns when the journal knows, and the objects are deleted many
//! at a time.
//!
//! 1. The name is hidden from then on, also after a crash: the journal has it, and the next mount deletes the object.
//! 2. A delete that is as old as that takes only the object that was unlinked, by ETag and time.
//! 3. Who needs the bucket to agree waits for it: `fsync` and `rmdir` of the directory, a rename of it, a new file of the
//!    name, `xosfs flush`, the end of the mount.
//! 4. The first delete of a mount, and the first after one that was refused, is waited for: keys that may not delete are
//!    told so by the call. What is refused all the same shows up again, in the log, and as the error of the next `fsync`
//!    of the directory.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use tracing::{debug, error, info, warn};

use super::Fs;
use super::graves::{Due, Which};
use super::inode::{Ino, Inode};
use crate::error::{Error, Kind, Result};
use crate::key::{Key, Name};
use crate::write::is_passing;
use crate::write::journal::Gone;

/// How long deletes are collected.
const COLLECT: Duration = Duration::from_millis(30);
/// Keys of a request.
const BATCH: usize = 1000;
/// Deletes that may be due; with more, `unlink` waits for the store.
const DUE_MOST: usize = 20_000;
const PARALLEL: usize = 32;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(60);

impl Fs {
    /// Whether the journal takes the delete of a stored object that nobody has open. Then it follows.
    pub(super) async fn delete_later(self: &Arc<Self>, inode: &Inode, key: &Key, parent: Ino, name: &Name) -> bool {
        if !self.deletes_allowed.load(Ordering::Relaxed) || self.graves.due() >= DUE_MOST {
            return false;
        }
        let (etag, modified) = {
            let state = inode.state.lock();
            (state.facts.etag.clone(), state.facts.meta.as_ref().and_then(|m| m.last_modified))
        };
        let Some(etag) = etag else { return false };
        let Some(id) = self.writes.unlinked(key, &etag, modified).await else { return false };
        let at = SystemTime::now();
        let due = Due { id, etag, modified, at, place: Some((parent, name.clone())), old: false, last: None };
        if self.graves.dig_due(key.clone(), inode.ino, due) {
            self.work_on_deletes();
        }
        true
    }

    /// Takes up what a former mount had still to delete.
    pub(super) fn restore_deletes(self: &Arc<Self>, gone: Vec<Gone>) {
        for g in gone {
            let due =
                Due { id: g.id, etag: g.etag, modified: g.modified, at: g.at, place: None, old: true, last: None };
            if self.graves.dig_due(g.key, Ino(0), due) {
                self.work_on_deletes();
            }
        }
    }

    fn work_on_deletes(self: &Arc<Self>) {
        let fs = self.clone();
        self.spawn(async move {
            let (mut pause, mut told) = (COLLECT, false);
            loop {
                let kick = fs.uploads.kick.notified();
                if !fs.is_stopping() {
                    let _ = tokio::time::timeout(pause, kick).await;
                }
                match fs.delete_due(Which::Below(""), BATCH).await {
                    Ok(0) if fs.graves.rest() => return,
                    // Others are deleting the rest.
                    Ok(0) => fs.graves.quiet("").await,
                    Ok(_) => (pause, told) = (COLLECT, false),
                    // The next mount goes on.
                    Err(_) if fs.is_stopping() => return,
                    Err(e) => {
                        // Once an outage.
                        if !std::mem::replace(&mut told, true) {
                            warn!("unlinked and not deleted in the bucket yet; it is tried again: {e}");
                        }
                        pause = (2 * pause).clamp(FIRST_PAUSE, LAST_PAUSE);
                    }
                }
            }
        });
    }

    /// Deletes some of what is due; how many it were. Errors: the first one.
    async fn delete_due(self: &Arc<Self>, which: Which<'_>, most: usize) -> Result<usize> {
        let mut batch = self.graves.claim_due(which, most);
        let count = batch.keys.len();
        if count == 0 {
            return Ok(0);
        }
        // What was stored before must not be stored again by a replay after the delete.
        self.writes.settled().await;
        let (old, fresh): (Vec<_>, Vec<_>) = batch.keys.iter().cloned().partition(|(_, due)| due.old);
        let keys: Vec<Key> = fresh.into_iter().map(|(key, _)| key).collect();
        let mut failed = match self.s3.delete_many(&keys).await {
            Ok(failed) => failed,
            Err(e) => keys.into_iter().map(|key| (key, e.clone())).collect(),
        };
        let old = old.into_iter().map(|(key, due)| async move {
            let result = self.delete_if_same(&key, &due).await;
            result.err().map(|e| (key, e))
        });
        let old: Vec<BoxFuture<'_, _>> = old.map(|w| Box::pin(w) as _).collect();
        let old = stream::iter(old).buffer_unordered(PARALLEL).filter_map(std::future::ready).collect::<Vec<_>>();
        failed.extend(old.await);
        let failed: HashMap<Key, Error> = failed.into_iter().collect();
        let mut first = None;
        for (key, due) in batch.keys.clone() {
            match failed.get(&key) {
                Some(e) if is_passing(e.kind()) => {
                    batch.put_off(&key, e);
                    first.get_or_insert_with(|| e.clone().with_key(&key));
                }
                None => {
                    batch.end(&key);
                    self.writes.deleted(due.id);
                }
                Some(e) => {
                    batch.end(&key);
                    self.writes.deleted(due.id);
                    self.shows_again(&key, due, e);
                    first.get_or_insert_with(|| e.clone().with_key(&key));
                }
            }
        }
        drop(batch);
        first.map_or(Ok(count), Err)
    }

    /// Deletes an object that was unlinked some time ago, unless there is another one by now.
    async fn delete_if_same(&self, key: &Key, due: &Due) -> Result<()> {
        let meta = match self.s3.head(key, None).await {
            Ok(meta) => meta,
            Err(e) if e.kind() == Kind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        if meta.etag == due.etag && is_same_time(due, meta.last_modified) {
            return self.s3.delete(key, None).await;
        }
        info!(key = key.as_str(), "unlinked here, and not deleted: somebody has stored another object there since");
        Ok(())
    }

    fn shows_again(self: &Arc<Self>, key: &Key, due: Due, e: &Error) {
        error!(
            key = key.as_str(),
            "a file that was deleted shows up again, because the store refuses to delete it: {e}"
        );
        self.deletes_allowed.store(false, Ordering::Relaxed);
        if let Some((parent, name)) = due.place {
            self.graves.failed(parent, e.clone().with_key(key));
            self.inodes.names_changed(parent);
            self.listings.forget(parent);
            self.invalidate_entry(parent, &name);
        }
    }

    /// Waits until everything that was unlinked below `prefix` is deleted. Errors: what is still there.
    pub(super) async fn deleted_below(self: &Arc<Self>, prefix: &str) -> Result<()> {
        if self.graves.due() == 0 {
            return Ok(());
        }
        loop {
            if self.delete_due(Which::Below(prefix), BATCH).await? > 0 {
                continue;
            }
            self.graves.quiet(prefix).await;
            if self.graves.due_below(prefix).is_empty() {
                return Ok(());
            }
        }
    }

    /// fsync(2) of a directory. Errors: names that were removed here, and that the store still has.
    pub async fn sync_dir(self: &Arc<Self>, dir: Ino) -> Result<()> {
        let deleted = match self.inodes.prefix(dir) {
            Ok(prefix) => self.deleted_below(prefix.as_str()).await,
            // A directory of history has nothing to delete.
            Err(_) => Ok(()),
        };
        // Also what was refused just now is told once.
        let refused = self.graves.failure(dir);
        deleted.and(refused.map_or(Ok(()), Err))
    }

    /// A delete that is due is not put off any longer. One that fails goes on being due.
    pub(super) async fn delete_now(self: &Arc<Self>, key: &Key) {
        if self.graves.due() > 0
            && let Err(e) = self.delete_due(Which::One(key), 1).await
        {
            debug!("not deleted yet: {e}");
        }
    }

    /// Before something new comes to `key`: no delete of what was there is under way or begins. Whether the bucket may
    /// still hold the old object, which the new one replaces.
    pub(super) async fn reuse_name(self: &Arc<Self>, key: &Key) -> bool {
        self.delete_now(key).await;
        match self.graves.reuse(key).await {
            None => false,
            Some(due) => {
                if let Some(due) = due {
                    self.writes.deleted(due.id);
                }
                true
            }
        }
    }

    /// What is still to be deleted when the mount ends, for the next one.
    pub(super) fn left_to_delete(&self) -> Vec<(String, Error)> {
        let due = self.still_due(&Error::new(Kind::Timeout, "delete before unmounting")).into_iter();
        due.map(|(key, e)| (key, e.with_fix("the next mount deletes it"))).collect()
    }

    /// Waits for every delete, up to a deadline; what is left.
    pub(super) async fn flush_deletes(self: &Arc<Self>, end: tokio::time::Instant) -> Vec<(String, Error)> {
        let result = tokio::time::timeout_at(end, self.deleted_below("")).await;
        let error = match result {
            Ok(Ok(())) => return Vec::new(),
            Ok(Err(e)) => e,
            Err(_) => Error::new(Kind::Timeout, "delete"),
        };
        self.still_due(&error)
    }

    /// `why`: of those of which nothing else is known.
    fn still_due(&self, why: &Error) -> Vec<(String, Error)> {
        let due = self.graves.due_below("").into_iter();
        due.map(|(key, last)| (key.to_string(), last.unwrap_or_else(|| why.clone()))).collect()
    }
}

/// Whether an object of this time may be the one that was unlinked. HEAD tells whole seconds, listings and answers to
/// copies thousandths; the answer to a PUT has a date that may be later than the object's, and for an object of parts
/// it is the end of an upload whose beginning is the object's time.
fn is_same_time(due: &Due, now: Option<SystemTime>) -> bool {
    let seconds = |t: SystemTime| t.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match (due.modified, now) {
        (Some(then), Some(now)) => seconds(now) <= seconds(then),
        (None, Some(now)) => now <= due.at,
        (_, None) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::ETag;

    #[test]
    fn an_object_is_told_from_a_later_one_of_the_same_content_by_its_time() {
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        let same = |then: Option<SystemTime>, now: Option<SystemTime>| {
            let due =
                Due { id: 1, etag: ETag::new("e"), modified: then, at: at(9_500), place: None, old: true, last: None };
            is_same_time(&due, now)
        };
        assert!(same(Some(at(7_250)), Some(at(7_000))), "a copy answers with thousandths, HEAD without");
        assert!(same(Some(at(8_000)), Some(at(6_000))), "uploaded in parts from 6 to 8");
        assert!(!same(Some(at(7_250)), Some(at(8_000))));
        assert!(same(None, Some(at(9_000))) && !same(None, Some(at(10_000))) && same(None, None));
    }
}

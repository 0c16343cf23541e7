//! Keys that were unlinked here and whose objects are still in the bucket: hidden at once, deleted at the last close of
//! a handle that still reads them, or, with `writeback`, in the background ([`super::burial`]).
//!
//! 1. The delete takes time, and until the store has done it listings still have the key: it stays hidden until then.
//! 2. Meanwhile a new file may get the name. Its object must not be stored before the delete has arrived, or the
//!    delete would take the new one: who makes a name waits for a delete that is under way.
//! 3. Two files that had one name after another may both be open without it: a grave is the file's that was unlinked
//!    last, and only that file's last close deletes the object.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::inode::Ino;
use crate::error::Error;
use crate::key::{Key, Name};
use crate::s3::ETag;

/// Directories for which a refused delete is remembered.
const FAILURES: usize = 1000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Deleting,
}

/// A delete that waits for no close: the journal knows of it.
#[derive(Clone)]
pub(super) struct Due {
    /// Of the journal.
    pub id: u64,
    pub etag: ETag,
    /// The store's time of the object.
    pub modified: Option<SystemTime>,
    pub at: SystemTime,
    /// Where the name was; `None` when a former mount removed it.
    pub place: Option<(Ino, Name)>,
    /// Some time has passed, so that somebody else may have stored another object there.
    pub old: bool,
    /// Why it is not done yet.
    pub last: Option<Error>,
}

struct Grave {
    of: Ino,
    stage: Stage,
    due: Option<Due>,
}

#[derive(Default)]
struct Keys {
    graves: HashMap<Key, Grave>,
    /// How many of them have a `due`.
    due: usize,
    /// A task works on those that are due.
    working: bool,
    /// What the store refused to delete, by directory, until somebody asks.
    failures: HashMap<Ino, Error>,
}

impl Keys {
    fn put(&mut self, key: Key, grave: Grave) {
        self.due += usize::from(grave.due.is_some());
        if let Some(old) = self.graves.insert(key, grave) {
            self.due -= usize::from(old.due.is_some());
        }
    }

    fn remove(&mut self, key: &Key) -> Option<Grave> {
        let grave = self.graves.remove(key)?;
        self.due -= usize::from(grave.due.is_some());
        Some(grave)
    }
}

/// Which of the keys that are due.
#[derive(Clone, Copy)]
pub(super) enum Which<'a> {
    Below(&'a str),
    One(&'a Key),
}

impl Which<'_> {
    fn has(&self, key: &Key) -> bool {
        match self {
            Which::Below(prefix) => key.as_str().starts_with(prefix),
            Which::One(one) => key == *one,
        }
    }
}

#[derive(Default)]
pub(super) struct Graves {
    keys: Mutex<Keys>,
    deleted: Notify,
}

/// The right to delete one key; the key is hidden until this is dropped.
pub(super) struct Burial<'a> {
    graves: &'a Graves,
    key: &'a Key,
}

impl Drop for Burial<'_> {
    fn drop(&mut self) {
        self.graves.keys.lock().remove(self.key);
        self.graves.deleted.notify_waiters();
    }
}

/// The right to delete keys that are due. Those that nothing is said of wait again when this is dropped.
pub(super) struct Batch<'a> {
    graves: &'a Graves,
    pub keys: Vec<(Key, Due)>,
}

impl Batch<'_> {
    /// Not deleted this time; it goes on being due.
    pub fn put_off(&mut self, key: &Key, why: &Error) {
        if let Some(due) = self.graves.keys.lock().graves.get_mut(key).and_then(|g| g.due.as_mut()) {
            due.last = Some(why.clone());
        }
    }

    /// Deleted, or given up: the name shows what the store has.
    pub fn end(&mut self, key: &Key) {
        self.keys.retain(|(k, _)| k != key);
        self.graves.keys.lock().remove(key);
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let mut keys = self.graves.keys.lock();
        for (key, _) in &self.keys {
            if let Some(grave) = keys.graves.get_mut(key) {
                grave.stage = Stage::Waiting;
                if let Some(due) = &mut grave.due {
                    due.old = true;
                }
            }
        }
        drop(keys);
        self.graves.deleted.notify_waiters();
    }
}

impl Graves {
    pub fn dig(&self, key: Key, of: Ino) {
        self.keys.lock().put(key, Grave { of, stage: Stage::Waiting, due: None });
    }

    /// As [`Graves::dig`], for a delete that waits for nothing. Whether somebody has to begin to work on them.
    pub fn dig_due(&self, key: Key, of: Ino, due: Due) -> bool {
        let mut keys = self.keys.lock();
        keys.put(key, Grave { of, stage: Stage::Waiting, due: Some(due) });
        !std::mem::replace(&mut keys.working, true)
    }

    /// Deletes that are due, or under way.
    pub fn due(&self) -> usize {
        self.keys.lock().due
    }

    /// Up to `most` of those that are due.
    pub fn claim_due(&self, which: Which<'_>, most: usize) -> Batch<'_> {
        let mut keys = self.keys.lock();
        let mut claimed = Vec::new();
        for (key, grave) in &mut keys.graves {
            if let Some(due) = grave.due.clone().filter(|_| grave.stage == Stage::Waiting)
                && which.has(key)
            {
                grave.stage = Stage::Deleting;
                claimed.push((key.clone(), due));
                if claimed.len() == most {
                    break;
                }
            }
        }
        Batch { graves: self, keys: claimed }
    }

    /// The keys that are due below `prefix`, and why they are still there, if that was tried.
    pub fn due_below(&self, prefix: &str) -> Vec<(Key, Option<Error>)> {
        let keys = self.keys.lock();
        let below = keys.graves.iter().filter(|(key, _)| key.as_str().starts_with(prefix));
        below.filter_map(|(key, g)| g.due.as_ref().map(|due| (key.clone(), due.last.clone()))).collect()
    }

    /// Whether nothing is due any more: then the task that works on them ends. What somebody else is deleting just now
    /// is still due: it may fail.
    pub fn rest(&self) -> bool {
        let mut keys = self.keys.lock();
        let idle = keys.due == 0;
        keys.working &= !idle;
        idle
    }

    /// Waits until no delete below `prefix` is under way.
    pub async fn quiet(&self, prefix: &str) {
        loop {
            // Made before the look, so that a delete that ends in between is not missed.
            let deleted = self.deleted.notified();
            let busy = |(key, grave): (&Key, &Grave)| {
                grave.stage == Stage::Deleting && grave.due.is_some() && key.as_str().starts_with(prefix)
            };
            if !self.keys.lock().graves.iter().any(busy) {
                return;
            }
            deleted.await;
        }
    }

    /// The store refused to delete something of a directory.
    pub fn failed(&self, dir: Ino, why: Error) {
        let mut keys = self.keys.lock();
        if keys.failures.len() < FAILURES {
            keys.failures.insert(dir, why);
        }
    }

    /// What the store refused since somebody asked last.
    pub fn failure(&self, dir: Ino) -> Option<Error> {
        self.keys.lock().failures.remove(&dir)
    }

    /// The name is used again: waits for a delete that is under way, and from then on none begins. `None`: there is
    /// nothing to delete. Otherwise the bucket still holds the old object, which is now the new file's to replace.
    pub async fn reuse(&self, key: &Key) -> Option<Option<Due>> {
        loop {
            self.settled(key).await;
            let mut keys = self.keys.lock();
            match keys.graves.get(key)?.stage {
                Stage::Waiting => return keys.remove(key).map(|g| g.due),
                // The last close came in between.
                Stage::Deleting => {}
            }
        }
    }

    /// Waits until no delete of `key` is under way; the delete has the deadline of every request.
    pub async fn settled(&self, key: &Key) {
        loop {
            // Made before the look, so that a delete that ends in between is not missed.
            let deleted = self.deleted.notified();
            if self.keys.lock().graves.get(key).is_none_or(|g| g.stage != Stage::Deleting) {
                return;
            }
            deleted.await;
        }
    }

    /// One caller at a time, and none when the name was used again.
    pub fn claim<'a>(&'a self, key: &'a Key, of: Ino) -> Option<Burial<'a>> {
        let mut keys = self.keys.lock();
        let grave = keys.graves.get_mut(key).filter(|g| g.of == of && g.stage == Stage::Waiting && g.due.is_none())?;
        grave.stage = Stage::Deleting;
        Some(Burial { graves: self, key })
    }

    /// The keys whose last close has not come, and whose they were.
    pub fn waiting(&self) -> Vec<(Key, Ino)> {
        let keys = self.keys.lock();
        let waits = |g: &Grave| g.stage == Stage::Waiting && g.due.is_none();
        keys.graves.iter().filter(|(_, g)| waits(g)).map(|(key, g)| (key.clone(), g.of)).collect()
    }

    pub fn contains(&self, key: &Key) -> bool {
        self.keys.lock().graves.contains_key(key)
    }

    /// What a listing that is asked for now must not show.
    pub fn all(&self) -> HashSet<Key> {
        self.keys.lock().graves.keys().cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.keys.lock().graves.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use std::time::Duration;

    #[tokio::test]
    async fn a_key_is_hidden_and_not_reused_while_it_is_being_deleted() {
        let (graves, key) = (Graves::default(), Key::new("a").unwrap());
        graves.dig(key.clone(), Ino(7));
        assert!(graves.claim(&key, Ino(8)).is_none(), "another file that had the name before");
        let burial = graves.claim(&key, Ino(7)).unwrap();
        assert!(graves.claim(&key, Ino(7)).is_none() && graves.contains(&key));
        let patience = Duration::from_millis(20);
        assert!(tokio::time::timeout(patience, graves.settled(&key)).await.is_err());
        assert!(tokio::time::timeout(patience, graves.reuse(&key)).await.is_err());
        let (reused, ()) = tokio::join!(graves.reuse(&key), async { drop(burial) });
        assert!(reused.is_none());
        assert!(!graves.contains(&key) && graves.claim(&key, Ino(7)).is_none());
    }

    #[tokio::test]
    async fn a_name_that_is_used_again_is_not_deleted() {
        let (graves, key) = (Graves::default(), Key::new("a").unwrap());
        graves.dig(key.clone(), Ino(7));
        assert!(graves.reuse(&key).await.is_some() && graves.claim(&key, Ino(7)).is_none() && graves.all().is_empty());
    }

    fn due(id: u64) -> Due {
        let (modified, at) = (None, SystemTime::now());
        Due { id, etag: ETag::new("e"), modified, at, place: None, old: false, last: None }
    }

    #[tokio::test]
    async fn deletes_that_are_due_are_claimed_once_and_wait_again_unless_they_are_done() {
        let graves = Graves::default();
        let (a, b) = (Key::new("d/a").unwrap(), Key::new("d/b").unwrap());
        assert!(graves.dig_due(a.clone(), Ino(7), due(1)), "somebody has to begin");
        assert!(!graves.dig_due(b.clone(), Ino(8), due(2)));
        assert!(graves.claim(&a, Ino(7)).is_none() && graves.waiting().is_empty(), "no close is waited for");
        assert!(graves.claim_due(Which::Below("e/"), 10).keys.is_empty());
        let mut batch = graves.claim_due(Which::Below("d/"), 10);
        assert_eq!(batch.keys.len(), 2);
        assert!(graves.claim_due(Which::Below("d/"), 10).keys.is_empty() && graves.contains(&a));
        let patience = Duration::from_millis(20);
        assert!(tokio::time::timeout(patience, graves.quiet("d/")).await.is_err());
        batch.end(&a);
        drop(batch);
        assert!(!graves.contains(&a) && graves.contains(&b) && !graves.rest());
        graves.quiet("d/").await;
        assert!(graves.due_below("d/").iter().all(|(key, last)| *key == b && last.is_none()));
        let mut again = graves.claim_due(Which::Below(""), 10);
        assert!(again.keys.len() == 1 && again.keys[0].1.old);
        assert!(!graves.rest(), "it may fail, and then somebody has to try again");
        again.put_off(&b, &Error::new(Kind::Busy, "delete"));
        drop(again);
        assert_eq!(graves.due_below("").pop().unwrap().1.unwrap().kind(), Kind::Busy);
        assert_eq!(graves.reuse(&b).await.unwrap().unwrap().id, 2);
        assert!(graves.due() == 0 && graves.rest() && graves.dig_due(a, Ino(7), due(3)));
    }
}

//! Keys that were unlinked here while a handle still reads them: hidden at once, deleted at the last close.
//!
//! 1. The delete takes time, and until the store has done it listings still have the key: it stays hidden until then.
//! 2. Meanwhile a new file may get the name. Its object must not be stored before the delete has arrived, or the
//!    delete would take the new one: who makes a name waits for a delete that is under way.
//! 3. Two files that had one name after another may both be open without it: a grave is the file's that was unlinked
//!    last, and only that file's last close deletes the object.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::inode::Ino;
use crate::key::Key;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Deleting,
}

#[derive(Default)]
pub(super) struct Graves {
    keys: Mutex<HashMap<Key, (Ino, Stage)>>,
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

impl Graves {
    pub fn dig(&self, key: Key, of: Ino) {
        self.keys.lock().insert(key, (of, Stage::Waiting));
    }

    /// The name is used again: waits for a delete that is under way, and from then on none begins. Whether the bucket
    /// still holds the old object, which is now the new file's to replace.
    pub async fn reuse(&self, key: &Key) -> bool {
        loop {
            self.settled(key).await;
            let mut keys = self.keys.lock();
            match keys.get(key) {
                None => return false,
                Some((_, Stage::Waiting)) => return keys.remove(key).is_some(),
                // The last close came in between.
                Some((_, Stage::Deleting)) => {}
            }
        }
    }

    /// Waits until no delete of `key` is under way; the delete has the deadline of every request.
    pub async fn settled(&self, key: &Key) {
        loop {
            // Made before the look, so that a delete that ends in between is not missed.
            let deleted = self.deleted.notified();
            if self.keys.lock().get(key).is_none_or(|(_, stage)| *stage != Stage::Deleting) {
                return;
            }
            deleted.await;
        }
    }

    /// One caller at a time, and none when the name was used again.
    pub fn claim<'a>(&'a self, key: &'a Key, of: Ino) -> Option<Burial<'a>> {
        let mut keys = self.keys.lock();
        let grave = keys.get_mut(key).filter(|g| **g == (of, Stage::Waiting))?;
        grave.1 = Stage::Deleting;
        Some(Burial { graves: self, key })
    }

    /// The keys whose last close has not come, and whose they were.
    pub fn waiting(&self) -> Vec<(Key, Ino)> {
        let keys = self.keys.lock();
        keys.iter()
            .filter(|(_, (_, stage))| *stage == Stage::Waiting)
            .map(|(key, (ino, _))| (key.clone(), *ino))
            .collect()
    }

    pub fn contains(&self, key: &Key) -> bool {
        self.keys.lock().contains_key(key)
    }

    /// What a listing that is asked for now must not show.
    pub fn all(&self) -> HashSet<Key> {
        self.keys.lock().keys().cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.keys.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        assert!(!reused);
        assert!(!graves.contains(&key) && graves.claim(&key, Ino(7)).is_none());
    }

    #[tokio::test]
    async fn a_name_that_is_used_again_is_not_deleted() {
        let (graves, key) = (Graves::default(), Key::new("a").unwrap());
        graves.dig(key.clone(), Ino(7));
        assert!(graves.reuse(&key).await && graves.claim(&key, Ino(7)).is_none() && graves.all().is_empty());
    }
}

//! Another inode for a name whose inode is in use in a way that cannot be changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::{Ino, Inode, Inodes, Node, State, Way};

impl Inodes {
    /// Gives the name of `ino` to a new inode; open handles keep the old one alive, without a name.
    pub fn succeed(&self, ino: Ino, state: State) {
        let mut inner = self.inner.lock();
        let Some(role) = inner.nodes.get(&ino).map(|n| n.inode.role.clone()) else { return };
        let Some((parent, name)) = inner.nodes.get(&ino).and_then(|n| n.place.clone()) else { return };
        let key = inner.prefix(parent, Way::Now).ok().and_then(|p| p.file(&name).ok());
        let mut new = Ino(ino.0.wrapping_add(1).max(2));
        while inner.nodes.contains_key(&new) {
            new = Ino(new.0.wrapping_add(1).max(2));
        }
        let node = Node {
            inode: Arc::new(Inode { ino: new, role, state: Mutex::new(state), changing: tokio::sync::Mutex::new(()) }),
            place: Some((parent, name.clone())),
            last_key: None,
            children: HashMap::new(),
            lookups: 0,
            shown: Instant::now(),
            asked: false,
            queued: false,
            pins: 0,
            names_changed: None,
        };
        inner.nodes.insert(new, Box::new(node));
        if let Some(p) = inner.nodes.get_mut(&parent) {
            p.children.insert(name, new);
        }
        if let Some(old) = inner.nodes.get_mut(&ino) {
            old.place = None;
            old.last_key = key;
        }
        inner.settle(new);
        inner.settle(ino);
    }
}

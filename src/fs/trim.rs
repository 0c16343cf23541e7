//! What the kernel knows by name takes memory here until it forgets, and it forgets only when it is short of memory
//! itself. Programs that go through millions of names would fill the daemon with them.
//!
//! 1. Above a number of names the kernel is told to forget those whose time is over: it would ask for them again in
//!    any case. Above four times as many, and 100,000, of any age.
//! 2. Files only: a directory may be somebody's working directory, and what is forgotten has no path.
//! 3. The bounds are those of all trees of the mount together ([`super::shared`]). With several of them, what the kernel
//!    has forgotten is given up here as well, down to this tree's part of the bound.
//! 4. Telling the kernel waits for whoever changes the directory, and that waits for us: it is done by a thread of its
//!    own that answers nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Fs;
use super::shared::Part;

/// How often somebody looks.
const PAUSE: Duration = Duration::from_millis(250);
/// Names of any age that are left alone: find(1) reads as many of a directory before it looks at the first.
const MANY: usize = 100_000;

impl Fs {
    /// Looks after the number of names until the mount ends.
    pub(super) fn trim_names(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        self.runtime.spawn(async move {
            let Some(mut part) = weak.upgrade().map(|fs| Part::new(fs.shared.clone())) else { return };
            loop {
                tokio::time::sleep(PAUSE).await;
                let Some(fs) = weak.upgrade().filter(|fs| !fs.stopping.load(Ordering::Relaxed)) else { return };
                part.tell(fs.inodes.counts().0);
                let all = fs.settings.remembered.max(1024);
                let (few, many) = (part.share(all), part.share((4 * all).max(MANY)));
                if fs.inodes.known() > few {
                    let fs = fs.clone();
                    let _ = tokio::task::spawn_blocking(move || fs.trim_now(few, many)).await;
                }
                if few < all {
                    fs.inodes.keep_idle(few);
                }
            }
        });
    }

    fn trim_now(&self, few: usize, many: usize) {
        let Some(kernel) = self.kernel.get() else { return };
        let (all, mut told) = (self.inodes.known(), 0);
        loop {
            let (names, more) = self.inodes.forgettable(few, many, self.settings.metadata_ttl, told);
            for (parent, name) in &names {
                kernel.invalidate_entry(*parent, name);
            }
            told += names.len();
            // What the kernel keeps using is not asked for again and again.
            if !more || names.is_empty() || told >= all || self.stopping.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::attr::{Attr, Defaults, Facts, FileKind};
    use crate::fs::inode::{Ino, Inodes, Space, State};
    use crate::key::{Name, Prefix};
    use std::time::SystemTime;

    const LONG: Duration = Duration::from_secs(3600);

    fn state(kind: FileKind) -> State {
        let defaults = Defaults { uid: 0, gid: 0, file_perm: 0o644, dir_perm: 0o755 };
        State::new(Attr { kind, ..Attr::of_dir(SystemTime::now(), &defaults) }, Facts::default(), true)
    }

    /// A table of files `0`, `1`, … that the kernel knows.
    fn table(count: usize) -> (Inodes, Vec<Ino>) {
        let table = Inodes::new(Space::WHOLE, Prefix::root(), state(FileKind::Dir), 10);
        let numbers = (0..count).map(|i| {
            let name = Name::of_component(&i.to_string()).unwrap();
            let ino = table.remember(table.root(), &name, name.as_str(), || state(FileKind::File)).unwrap().ino;
            table.looked_up(ino);
            ino
        });
        let numbers = numbers.collect();
        (table, numbers)
    }

    #[test]
    fn old_names_are_forgotten_down_to_the_bound() {
        let (table, inos) = table(100);
        assert_eq!(table.forgettable(50, 1000, LONG, 0), (vec![], false), "too young");
        assert_eq!(table.forgettable(100, 1000, Duration::ZERO, 0), (vec![], false), "not too many");
        table.pin(inos[1]);
        let (names, more) = table.forgettable(50, 1000, Duration::ZERO, 41);
        let names: Vec<_> = names.iter().map(|(_, n)| n.as_str()).collect();
        assert_eq!((names, more), (vec!["0", "2", "3", "4", "5", "6", "7", "8", "9"], false));
        for ino in &inos[..90] {
            table.forget(*ino, 1);
        }
        // What has been forgotten is passed over.
        assert_eq!(table.forgettable(11, 1000, Duration::ZERO, 0), (vec![], false));
    }

    #[test]
    fn what_is_idle_can_be_given_up() {
        let (table, inos) = table(10);
        for ino in &inos[..6] {
            table.forget(*ino, 1);
        }
        table.keep_idle(2);
        assert_eq!(table.counts(), (1 + 4 + 2, 2));
        assert!(table.get(inos[3]).is_err() && table.get(inos[4]).is_ok(), "the oldest ones");
        table.keep_idle(5);
        assert_eq!(table.counts().1, 2);
    }

    #[test]
    fn far_too_many_names_are_forgotten_at_any_age() {
        let (table, _) = table(100);
        let (names, more) = table.forgettable(10, 40, LONG, 0);
        assert_eq!((names.len(), more), (60, false));
    }
}

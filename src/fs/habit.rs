//! Whether files are opened right after they are looked up: then the look-up's request may as well bring the bytes.
//!
//! 1. `cat *` asks for a name and opens it: with HEAD and then GET each file costs two round trips, with a GET that
//!    answers the look-up one.
//! 2. `stat *` opens nothing: bytes it did not ask for cost money. So it takes several files that were opened before
//!    the look-ups of a directory change, and few that were not to change them back.

use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;

use super::inode::Ino;

/// Directories followed at the same time.
const DIRS: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// Files opened in a row before look-ups bring bytes.
const EVIDENCE: u32 = 4;
/// Where the count ends, so that a change of habit is noticed after as many files.
const MOST: u32 = 8;

pub(super) struct Habits(Mutex<LruCache<Ino, u32>>);

impl Habits {
    pub fn new() -> Habits {
        Habits(Mutex::new(LruCache::new(DIRS)))
    }

    /// A file in `dir` was looked up in the store.
    pub fn looked_up(&self, dir: Ino) {
        let mut dirs = self.0.lock();
        if let Some(count) = dirs.get_mut(&dir) {
            *count = count.saturating_sub(1);
        }
    }

    /// A file in `dir` was opened for reading.
    pub fn opened(&self, dir: Ino) {
        let mut dirs = self.0.lock();
        let count = dirs.get_or_insert_mut(dir, || 0);
        // More than a look-up takes away.
        *count = (*count + 2).min(MOST);
    }

    /// Whether the next file looked up in `dir` will most likely be opened.
    pub fn opens_next(&self, dir: Ino) -> bool {
        self.0.lock().peek(&dir).is_some_and(|count| *count >= EVIDENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_that_opens_is_told_from_one_that_does_not() {
        let habits = Habits::new();
        let dir = Ino(7);
        for _ in 0..100 {
            assert!(!habits.opens_next(dir));
            habits.looked_up(dir);
        }
        let mut asked = 0;
        for _ in 0..10 {
            asked += u32::from(!habits.opens_next(dir));
            habits.looked_up(dir);
            habits.opened(dir);
        }
        assert!(asked <= EVIDENCE, "{asked}");
        assert!(habits.opens_next(dir) && !habits.opens_next(Ino(8)));
        let mut wasted = 0;
        for _ in 0..100 {
            wasted += u32::from(habits.opens_next(dir));
            habits.looked_up(dir);
        }
        assert!(wasted <= MOST - EVIDENCE + 1, "{wasted}");
    }
}

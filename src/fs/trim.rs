//! What the kernel knows by name takes memory here until it forgets, and it forgets only when it is short of memory
//! itself. Programs that go through millions of names would fill the daemon with them.
//!
//! 1. Names take leases of the mount's memory as they come. Above a number of names the kernel is told to forget those
//!    whose time is over: it would ask for them again in any case. Where there is no memory for more, of any age.
//! 2. Files only: a directory may be somebody's working directory, and what is forgotten has no path.
//! 3. The bounds are those of all trees of the mount together ([`super::shared`]).
//! 4. Telling the kernel waits for whoever looks into the directory, and that waits for us: it is done by a thread of its
//!    own that answers nothing.
//! 5. Programs are faster than that. Where there is no memory, the next directory is opened when there is, and a listing
//!    with attributes gives out one entry at a time: between two of them a name of the same directory can go.
//! 6. While the kernel forgets one file it does not believe what it is told of another one, and asks for that again
//!    (Linux 6.14 and later): a HEAD for each would be a price per file. Where files have no attributes of their own
//!    the answer is what it was told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::inode::STEPS;
use super::{Fs, Ino, NAME_BYTES};
use crate::budget::{Budget, Lease};

/// How often somebody looks.
const PAUSE: Duration = Duration::from_millis(250);
/// Share of the memory that names may take which the kernel knows, besides those that are remembered.
const SHARE: usize = 4;
/// Names that memory is taken for at a time.
const STEP: usize = 2048;
/// Longest wait of an opened directory, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(5);
/// What the kernel forgot so long ago is forgotten.
const LATELY: Duration = Duration::from_secs(2);

/// How many names there is memory for.
pub(super) struct Crowd {
    budget: Arc<Budget>,
    /// Names that are not counted, and most that may be.
    free: usize,
    most: usize,
    /// Names that there is memory for now.
    room: AtomicUsize,
    /// There is no more to be had.
    full: AtomicBool,
    lease: Mutex<Option<Lease>>,
    forgot: Mutex<Option<Instant>>,
}

impl Crowd {
    /// `remembered` names that the kernel does not know may be here, too; `free` of all are not counted.
    pub fn new(remembered: usize, free: usize, budget: Arc<Budget>) -> Crowd {
        let free = free.max(1024);
        let most = remembered.max(free) + budget.limit() / SHARE / NAME_BYTES;
        Crowd {
            budget,
            free,
            most,
            room: AtomicUsize::new(free),
            full: AtomicBool::new(false),
            lease: Mutex::default(),
            forgot: Mutex::default(),
        }
    }

    /// There are so many names now. Whether there is memory for them.
    pub fn has_room(&self, names: usize) -> bool {
        while names > self.room.load(Ordering::Relaxed) {
            if !self.take() {
                return false;
            }
        }
        true
    }

    /// Takes memory for more names.
    fn take(&self) -> bool {
        if self.full.load(Ordering::Relaxed) {
            return false;
        }
        let mut lease = self.lease.lock();
        let room = self.room.load(Ordering::Relaxed);
        let more = if room < self.most { self.budget.try_lease(STEP * NAME_BYTES) } else { None };
        let Some(more) = more else {
            self.full.store(true, Ordering::Relaxed);
            return false;
        };
        match &mut *lease {
            Some(lease) => lease.merge(more),
            None => *lease = Some(more),
        }
        self.room.store(room + STEP, Ordering::Relaxed);
        true
    }

    /// Gives memory back that `names` do not need, and looks anew whether there is more.
    pub fn settle(&self, names: usize) {
        let mut held = self.lease.lock();
        let (room, needed) = (self.room.load(Ordering::Relaxed), names + names / 4 + STEP);
        if let Some(lease) = &mut *held
            && room > needed.max(self.free) + STEP
        {
            let steps = (room - needed.max(self.free)) / STEP;
            drop(lease.split(steps * STEP * NAME_BYTES));
            self.room.store(room - steps * STEP, Ordering::Relaxed);
        }
        drop(held);
        self.full.store(false, Ordering::Relaxed);
    }

    /// There is no memory for more names than so many.
    pub fn full_at(&self) -> Option<usize> {
        self.full.load(Ordering::Relaxed).then(|| self.room.load(Ordering::Relaxed))
    }

    /// Most names that there may be.
    pub fn most(&self) -> usize {
        self.full_at().unwrap_or(self.most)
    }

    /// The kernel forgot something. It matters where there are many names.
    pub fn forgot(&self) {
        if self.room.load(Ordering::Relaxed) > self.free {
            *self.forgot.lock() = Some(Instant::now());
        }
    }

    fn forgot_lately(&self) -> bool {
        self.forgot.lock().is_some_and(|at| at.elapsed() < LATELY)
    }
}

impl Fs {
    /// Looks after the number of names until the mount ends.
    pub(super) fn trim_names(self: &Arc<Self>) {
        let (weak, names) = (Arc::downgrade(self), self.names.clone());
        self.runtime.spawn(async move {
            let mut looked = Instant::now();
            loop {
                let _ = tokio::time::timeout(PAUSE, names.wake.notified()).await;
                let Some(fs) = weak.upgrade().filter(|fs| !fs.stopping.load(Ordering::Relaxed)) else { return };
                if looked.elapsed() >= PAUSE {
                    looked = Instant::now();
                    names.settle(fs.inodes.counts().0);
                } else if names.in_vain.load(Ordering::Relaxed) {
                    continue;
                }
                let few = names.share(fs.settings.remembered);
                if fs.inodes.known() > few || fs.inodes.counts().1 > few || fs.is_crowded() {
                    let _ = tokio::task::spawn_blocking(move || fs.trim_now()).await;
                }
            }
        });
    }

    fn trim_now(&self) {
        let Some(kernel) = self.kernel.get() else { return };
        let crowd = self.names.crowd();
        let wanted = self.names.share(self.settings.remembered.max(1024));
        let room = crowd.full_at().map_or(usize::MAX, |room| self.names.share(room) / 3);
        self.inodes.remember_at_most(wanted.min(room));
        let (all, mut told, mut looked) = (self.inodes.known(), 0, 0);
        let many = most_known(self.names.share(crowd.most()), self.inodes.counts().1);
        let few = wanted.min(many);
        loop {
            let (names, more) = self.inodes.forgettable(few, many, self.settings.metadata_ttl, told);
            for (parent, name) in &names {
                kernel.invalidate_entry(*parent, name);
            }
            told += names.len();
            looked += STEPS;
            // What the kernel keeps using is not asked for again and again.
            if !more || looked >= all || self.stopping.load(Ordering::Relaxed) {
                break;
            }
        }
        self.names.in_vain.store(all.saturating_sub(told) > many, Ordering::Relaxed);
    }

    /// Whether the kernel knows more names than there is memory for, and something can be done about it.
    pub fn is_crowded(&self) -> bool {
        // Asked for each directory that is opened, and nearly always in vain.
        self.names.crowd().full_at().is_some() && self.names.is_over(self.inodes.counts().0)
    }

    /// Waits, not for ever, until there is memory for the names of another directory.
    pub async fn room_for_names(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.is_crowded() && Instant::now() < deadline {
            self.names.wake.notify_one();
            tokio::time::sleep(POLL).await;
        }
    }

    /// How many entries with attributes one answer may have.
    pub fn entries_at_once(&self) -> usize {
        if self.is_crowded() { 1 } else { usize::MAX }
    }

    /// Whether the kernel asks for the attributes of a listed file only because it was busy forgetting others, and there
    /// is nothing more to be known.
    pub(super) fn is_asked_again(&self, ino: Ino) -> bool {
        self.names.crowd().forgot_lately() && self.bursts.plain_anywhere() && self.inodes.is_first_question(ino)
    }
}

/// Most names that the kernel may know, of any age, where there may be `most`, and `remembered` it does not know are here
/// as well.
fn most_known(most: usize, remembered: usize) -> usize {
    (most.saturating_sub(remembered) / 4 * 3).max(512)
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
    fn far_too_many_names_are_forgotten_at_any_age() {
        let (table, _) = table(100);
        let (names, more) = table.forgettable(10, 40, LONG, 0);
        assert_eq!((names.len(), more), (60, false));
    }

    #[test]
    fn a_directory_does_not_keep_the_memory_of_names_that_are_forgotten() {
        let (table, inos) = table(10_000);
        assert!(table.room_in(table.root()) >= 10_000);
        for ino in inos {
            table.forget(ino, 1);
        }
        assert_eq!(table.counts(), (11, 10));
        assert!(table.room_in(table.root()) < 100, "{}", table.room_in(table.root()));
    }

    #[test]
    fn only_the_first_question_after_a_look_up_is_asked_again() {
        let (table, inos) = table(2);
        assert_eq!([0, 0, 1].map(|n: usize| table.is_first_question(inos[n])), [true, false, true]);
        table.looked_up(inos[0]);
        assert_eq!([0, 1].map(|n: usize| table.is_first_question(inos[n])), [true, false]);
    }

    #[test]
    fn names_take_memory_as_they_come_and_give_it_back() {
        let budget = Budget::new(64 << 20);
        let crowd = Crowd::new(8192, 8192, budget.clone());
        assert!(crowd.has_room(8192) && budget.used() == 0);
        assert!(crowd.has_room(10_000));
        assert_eq!(budget.used(), STEP * NAME_BYTES);
        // A quarter of the memory on top.
        for names in [24_000, 30_000] {
            assert_eq!((crowd.has_room(names), crowd.most()), (names <= 24_576, 24_576));
        }
        assert_eq!(most_known(crowd.most(), 8192), (24_576 - 8192) / 4 * 3);
        assert_eq!((budget.used(), crowd.full_at()), (budget.limit() / SHARE, Some(24_576)));
        crowd.settle(30_000);
        assert_eq!(budget.used(), budget.limit() / SHARE);
        crowd.settle(100);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn where_others_have_the_memory_there_are_fewer_names() {
        let budget = Budget::new(64 << 20);
        let crowd = Crowd::new(8192, 8192, budget.clone());
        let taken = budget.try_lease(budget.limit() - STEP * NAME_BYTES).unwrap();
        assert!(!crowd.has_room(20_000));
        assert_eq!((budget.used(), crowd.full_at(), crowd.most()), (budget.limit(), Some(8192 + STEP), 8192 + STEP));
        drop(taken);
        crowd.settle(20_000);
        assert!(crowd.has_room(20_000) && crowd.full_at().is_none());
    }

    #[test]
    fn what_the_kernel_forgets_matters_where_there_are_many_names() {
        let crowd = Crowd::new(8192, 8192, Budget::new(64 << 20));
        crowd.forgot();
        assert!(!crowd.forgot_lately());
        assert!(crowd.has_room(9000));
        crowd.forgot();
        assert!(crowd.forgot_lately());
    }

    #[test]
    fn what_is_idle_can_be_given_up() {
        let (table, inos) = table(10);
        for ino in &inos[..6] {
            table.forget(*ino, 1);
        }
        table.remember_at_most(2);
        assert_eq!(table.counts(), (1 + 4 + 2, 2));
        assert!(table.get(inos[3]).is_err() && table.get(inos[4]).is_ok(), "the oldest ones");
        table.remember_at_most(5);
        assert_eq!(table.counts().1, 2);
    }
}

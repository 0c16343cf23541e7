//! Who opened a handle and who wrote through it, so that a close can be told from somebody's who has nothing to do
//! with the file.
//!
//! Whoever starts a program forks. The child has all descriptors of its parent and closes them, at the latest on its
//! way to the new program; each of these closes is a FLUSH, in the middle of the parent's work.
//!
//! 1. The kernel names the thread that asks. Which process it belongs to is in `/proc/TID/status`; a process that lives
//!    on is told from another one of the same number by the time of its start.
//! 2. What cannot be known counts as a user: threads of other pid namespaces, pages of mappings, a `/proc` that hides.
//!    To store once too often costs a request, once too seldom bytes.
//! 3. A process that ends is closed for by a thread of the kernel, which does not say for whom. When all users live it
//!    was for none of them.
//! 4. A process that is about to run another program closes what it inherited while it holds a lock (`exec_update_lock`)
//!    that readers of its `stat`, `exe` and `fd` take: of who closes nothing but `status` may be read, or each waits for
//!    the other. All of it is read outside of the FUSE thread, and not waited for long.

use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;

use super::Fs;
use super::handle::Fh;

/// Longest wait for `/proc`.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the number of a thread stands for the thread that was looked at.
const FRESH: Duration = Duration::from_secs(1);
/// Threads remembered for one handle and for all, and processes of one handle above which it is not worth knowing them.
const THREADS: usize = 32;
const THREADS_IN_ALL: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
const PROCESSES: usize = 64;

/// Flags of a task, as `/proc/PID/stat` shows them (include/linux/sched.h).
const PF_EXITING: u64 = 0x4;
const PF_KTHREAD: u64 = 0x0020_0000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    id: u32,
    /// Clock ticks since the machine started.
    start: u64,
}

/// Whose thread it is that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    /// By number.
    Process(u32),
    Kernel,
    Unknown,
}

/// Whose threads have been looked at lately: a program that makes a thousand files is looked at once a second.
pub struct Threads(Mutex<LruCache<u32, (Process, Instant)>>);

impl Default for Threads {
    fn default() -> Self {
        Threads(Mutex::new(LruCache::new(THREADS_IN_ALL)))
    }
}

impl Threads {
    fn get(&self, thread: u32) -> Option<Process> {
        self.0.lock().get(&thread).filter(|(_, at)| at.elapsed() < FRESH).map(|(process, _)| *process)
    }

    async fn process_of(&self, thread: u32) -> Option<Process> {
        if let Some(process) = self.get(thread) {
            return Some(process);
        }
        let process = look(move || process_of(thread)).await.flatten()?;
        self.0.lock().put(thread, (process, Instant::now()));
        Some(process)
    }
}

#[derive(Default)]
struct Known {
    processes: Vec<Process>,
    /// Threads of these, and when they were looked at.
    threads: Vec<(u32, Instant)>,
    /// There is a user that cannot be told from others.
    unknown: bool,
}

/// The processes that opened a handle or wrote through it.
#[derive(Default)]
pub struct Users(Mutex<Known>);

/// What a close is to do.
pub(super) struct Closing {
    pub stores: bool,
    /// Users that are gone; everything of them is stored once this close has stored.
    gone: Vec<Process>,
}

impl Users {
    /// Whether `thread` is known as one of a user's, so that nothing has to be looked up. 0 is nobody's number.
    pub fn knows(&self, thread: u32) -> bool {
        let mut known = self.0.lock();
        known.unknown |= thread == 0;
        known.unknown || known.threads.iter().any(|(t, at)| *t == thread && at.elapsed() < FRESH)
    }

    /// Takes `thread` down as one of a user's.
    pub async fn note(&self, threads: &Threads, thread: u32) {
        if self.knows(thread) {
            return;
        }
        let process = threads.process_of(thread).await;
        let mut known = self.0.lock();
        let Some(process) = process else {
            known.unknown = true;
            return;
        };
        if !known.processes.contains(&process) {
            known.processes.push(process);
        }
        known.unknown |= known.processes.len() > PROCESSES;
        known.threads.retain(|(t, _)| *t != thread);
        if known.threads.len() == THREADS {
            known.threads.remove(0);
        }
        known.threads.push((thread, Instant::now()));
    }

    /// Whether a close by `thread` has to store.
    pub(super) async fn closing(&self, threads: &Threads, thread: u32) -> Closing {
        let stores = Closing { stores: true, gone: Vec::new() };
        if self.knows(thread) {
            return stores;
        }
        let users = self.0.lock().processes.clone();
        let seen = threads.get(thread);
        if users.is_empty() || seen.is_some_and(|p| users.contains(&p)) {
            return stores;
        }
        look(move || decide(asker(thread), &users, &lives)).await.unwrap_or(stores)
    }

    /// What `closing` was about has been stored.
    pub(super) fn stored(&self, closing: &Closing) {
        if !closing.gone.is_empty() {
            self.0.lock().processes.retain(|p| !closing.gone.contains(p));
        }
    }
}

impl Fs {
    /// `thread` (0: nobody knows) opened the handle or changes something through it; [`Fs::flush`] wants to know.
    pub async fn used_by(&self, fh: Fh, thread: u32) {
        if let Ok(handle) = self.handles.file(fh)
            && handle.write
        {
            handle.users.note(&self.threads, thread).await;
        }
    }
}

fn decide(asker: Asker, users: &[Process], lives: &dyn Fn(Process) -> bool) -> Closing {
    match asker {
        Asker::Unknown => return Closing { stores: true, gone: Vec::new() },
        Asker::Process(id) if users.iter().any(|u| u.id == id) => return Closing { stores: true, gone: Vec::new() },
        Asker::Process(_) | Asker::Kernel => {}
    }
    let gone: Vec<Process> = users.iter().copied().filter(|p| !lives(*p)).collect();
    let stores = if asker == Asker::Kernel { !gone.is_empty() } else { gone.len() == users.len() };
    Closing { stores, gone }
}

/// `None`: it takes too long.
async fn look<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(f)).await.ok()?.ok()
}

/// Whether `/proc` numbers processes as this one does: a container may show that of its host.
fn proc_is_ours() -> bool {
    static OURS: OnceLock<bool> = OnceLock::new();
    *OURS.get_or_init(|| {
        let shown = std::fs::read_link("/proc/self").ok();
        shown.is_some_and(|p| p.as_os_str().to_str() == Some(&std::process::id().to_string()))
    })
}

fn asker(thread: u32) -> Asker {
    if thread == 0 || !proc_is_ours() {
        return Asker::Unknown;
    }
    std::fs::read_to_string(format!("/proc/{thread}/status")).map_or(Asker::Unknown, |s| Asker::parse(&s))
}

impl Asker {
    /// From `/proc/TID/status` (proc_pid_status(5)).
    fn parse(status: &str) -> Asker {
        let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)?.trim().parse::<u32>().ok());
        // Older kernels have no such line; their threads are children of the second process.
        let kernel = field("Kthread:").map_or_else(|| field("PPid:") == Some(2), |is| is == 1);
        match field("Tgid:") {
            Some(_) if kernel => Asker::Kernel,
            Some(id) => Asker::Process(id),
            None => Asker::Unknown,
        }
    }
}

/// `None`: it cannot be told, or is no program.
fn process_of(thread: u32) -> Option<Process> {
    let Asker::Process(id) = asker(thread) else { return None };
    let task = Task::of(id)?;
    (task.flags & PF_KTHREAD == 0).then_some(Process { id, start: task.start })
}

fn lives(process: Process) -> bool {
    Task::of(process.id).is_some_and(|task| {
        task.start == process.start && task.flags & PF_EXITING == 0 && !matches!(task.state, 'Z' | 'X' | 'x')
    })
}

/// What `/proc/PID/stat` says (proc(5)).
#[derive(Debug, PartialEq, Eq)]
struct Task {
    state: char,
    flags: u64,
    start: u64,
}

impl Task {
    fn of(id: u32) -> Option<Task> {
        Task::parse(&std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
    }

    fn parse(stat: &str) -> Option<Task> {
        // The name of the program is the second field and may have anything in it.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse().ok();
        Some(Task { state: fields.first()?.chars().next()?, flags: number(9)?, start: number(22)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(id: u32) -> Process {
        Process { id, start: 7 }
    }

    #[test]
    fn a_stat_line_is_read_behind_the_name() {
        let line = "4711 (a) S 1 (b) R 1 4711 4711 0 -1 4194560 100 0 0 0 0 0 0 0 20 0 1 0 8123 1000 10 0 0";
        assert_eq!(Task::parse(line), Some(Task { state: 'R', flags: 4_194_560, start: 8123 }));
        assert_eq!(Task::parse("4711 (a) R 1 2"), None);
        let own = process_of(std::process::id()).unwrap();
        assert!(own.id == std::process::id() && lives(own));
        assert!(!lives(Process { start: own.start + 1, ..own }), "the number is somebody else's");
    }

    #[test]
    fn threads_of_the_kernel_are_told_from_programs() {
        let new = |kernel: u32| format!("Name:\ta\nTgid:\t70\nPid:\t71\nPPid:\t2\nKthread:\t{kernel}\n");
        assert_eq!(Asker::parse(&new(0)), Asker::Process(70));
        assert_eq!(Asker::parse(&new(1)), Asker::Kernel);
        assert_eq!(Asker::parse("Tgid:\t70\nPid:\t70\nPPid:\t2\n"), Asker::Kernel);
        assert_eq!(Asker::parse("Tgid:\t70\nPid:\t70\nPPid:\t1\n"), Asker::Process(70));
        assert_eq!(Asker::parse(""), Asker::Unknown);
        assert_eq!(asker(0), Asker::Unknown);
        // kthreadd, where it is visible.
        if Task::of(2).is_some_and(|t| t.flags & PF_KTHREAD != 0) {
            assert_eq!(asker(2), Asker::Kernel);
        }
    }

    #[test]
    fn a_thread_is_its_process_s() {
        let own = Asker::Process(std::process::id());
        let seen = std::thread::spawn(|| asker(nix::unistd::gettid().as_raw() as u32)).join().unwrap();
        assert_eq!(seen, own);
    }

    #[test]
    fn a_stranger_s_close_stores_only_when_nobody_else_will() {
        let (opener, writer, stranger) = (process(1), process(2), process(3));
        let users = [opener, writer];
        let stores = |asker, dead: &[Process]| decide(asker, &users, &|p| !dead.contains(&p)).stores;
        for user in users {
            assert!(stores(Asker::Process(user.id), &[]));
        }
        assert!(!stores(Asker::Process(stranger.id), &[]));
        assert!(!stores(Asker::Process(stranger.id), &[opener]));
        assert!(stores(Asker::Process(stranger.id), &[opener, writer]));
        // The number of a user that is gone may be another process's now, and may be its own in its last moments.
        assert!(stores(Asker::Process(opener.id), &[opener]));
        // A process that ended: one of them, or one that only inherited it.
        assert!(stores(Asker::Kernel, &[writer]));
        assert!(!stores(Asker::Kernel, &[]));
        assert!(stores(Asker::Unknown, &[]));
    }

    #[tokio::test]
    async fn who_cannot_be_told_makes_every_close_store() {
        let own = std::process::id();
        let (users, threads) = (Users::default(), Threads::default());
        assert!(users.closing(&threads, own).await.stores, "nobody is known");
        users.note(&threads, own).await;
        assert!(users.knows(own) && users.closing(&threads, own).await.stores);
        // The parent of this process has nothing to do with it.
        let parent = nix::unistd::getppid().as_raw() as u32;
        if matches!(asker(parent), Asker::Process(_)) {
            assert!(!users.closing(&threads, parent).await.stores);
        }
        assert!(users.knows(0), "a page of a mapping");
        assert!(users.closing(&threads, parent).await.stores);
    }

    #[tokio::test]
    async fn users_that_are_gone_are_forgotten_once_their_bytes_are_stored() {
        let own = std::process::id();
        let (users, threads) = (Users::default(), Threads::default());
        users.note(&threads, own).await;
        let dead = Process { id: own, start: 1 };
        users.0.lock().processes.push(dead);
        let Some(parent) = Some(nix::unistd::getppid().as_raw() as u32).filter(|p| *p != 0) else { return };
        let closing = users.closing(&threads, parent).await;
        assert!(!closing.stores && closing.gone == [dead]);
        users.stored(&closing);
        assert_eq!(users.0.lock().processes.len(), 1);
    }
}

//! The write side: what applications wrote, kept until it is stored, and stored with as few requests and bytes as the
//! store's limits allow.
//!
//! 1. A file is a base (the object it started from, or nothing) under a stack of layers of written bytes
//!    ([`layers`]), so that a write arriving while a commit runs survives it, whichever way the commit ends.
//! 2. Only what changed is sent; the store copies the rest ([`plan`]), and what was copied from other objects
//!    ([`extents`]).
//! 3. Nothing replaces the old object before every byte of the new one is at the store and counted ([`commit`]).
//! 4. A large file that is written in order is sent while it is written ([`stream`]), in bounded memory.
//! 5. Memory is leased from the one budget and never more than half of it, so that uploads and reads always find
//!    some; the rest goes to an unlinked file in `staging_dir` ([`staging`]), whose errors are errors of the write.

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::budget::{Budget, Lease};
use crate::error::{Error, Kind, Result};
use crate::read::{Object, Reads};
use crate::s3::{S3, Stored};

mod acknowledge;
mod commit;
mod conflict;
mod copying;
pub mod extents;
pub mod journal;
mod layers;
mod orphans;
mod overlay;
pub mod plan;
pub mod ranges;
mod recognise;
mod sealing;
mod staging;
mod state;
mod storing;
mod stream;
mod upload;
mod writer;

pub use acknowledge::{Acknowledge, Backlog, is_passing};
use journal::Journal;
pub use plan::{Plan, PlannedPart, plan};
pub use writer::Writer;

/// Largest object that counts as small, and how many more of them than of parts may be in flight: so many are still
/// less memory than the parts.
const SMALL: u64 = 1 << 20;
const SMALL_FACTOR: usize = 4;

/// Pause after a journal could not be opened.
const JOURNAL_RETRY: Duration = Duration::from_secs(30);

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What the store allows; every plan keeps to it. Bytes, except `max_parts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Smallest part that is not the last.
    pub min_part: u64,
    /// Largest part, and largest plain PUT.
    pub max_part: u64,
    /// Parts of one upload.
    pub max_parts: u32,
    /// Part size aimed at; grows where `max_parts` asks for it.
    pub part_size: u64,
    /// Largest object.
    pub max_object: u64,
    /// Largest plain PUT we use.
    pub single_put: u64,
    /// Whether the store has UploadPartCopy.
    pub part_copy: bool,
    /// Whether the store wants all parts but the last to be of one size.
    pub equal_parts: bool,
}

impl Default for Limits {
    /// The limits that every store known to us shares.
    fn default() -> Self {
        Limits {
            min_part: 5 * MIB,
            max_part: 5 * GIB,
            max_parts: 10_000,
            part_size: 8 * MIB,
            max_object: 5 << 40,
            single_put: 16 * MIB,
            part_copy: true,
            equal_parts: false,
        }
    }
}

/// What a commit does when somebody else stored a newer version since the file was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnConflict {
    /// The last writer wins, as on any shared directory.
    #[default]
    Overwrite,
    /// The commit fails with [`Kind::Conflict`]; what was written stays with the handles.
    Fail,
    /// Ours is stored beside the other one, under a name that says so.
    KeepBoth,
}

#[derive(Clone, Debug)]
pub struct WriteSettings {
    pub limits: Limits,
    /// Bytes written in order from 0 after which a new file is sent while it is written.
    pub stream_after: u64,
    /// Parts in flight, over all files.
    pub max_uploads: usize,
    /// Directory of the unlinked files that take over when memory is short.
    pub staging_dir: PathBuf,
    /// Bytes of one file kept in memory before staging is used; a file that may yet be streamed keeps more.
    pub memory_per_file: usize,
    /// Longest wait without any progress.
    pub patience: Duration,
    pub on_conflict: OnConflict,
    /// Whether the store honours `If-Match` and `If-None-Match` on writes. Without it a HEAD just before the write
    /// takes their place.
    pub conditional_puts: bool,
    /// Whether it does so in a bucket with versions, too.
    pub conditional_puts_versions: bool,
    /// Remembers uploads that were begun, and with `writeback` what was acknowledged.
    pub journal: Option<Arc<Journal>>,
    /// Whether [`Writer::acknowledge`] returns when the journal has the bytes.
    pub writeback: bool,
    /// Whether copies honour the condition on their source. Without it a HEAD after the copies takes its place.
    pub conditional_copies: bool,
}

impl Default for WriteSettings {
    fn default() -> Self {
        WriteSettings {
            limits: Limits::default(),
            stream_after: 64 * MIB,
            max_uploads: 8,
            staging_dir: std::env::temp_dir(),
            memory_per_file: 32 << 20,
            patience: Duration::from_secs(60),
            on_conflict: OnConflict::default(),
            conditional_puts: true,
            conditional_puts_versions: true,
            journal: None,
            writeback: false,
            conditional_copies: false,
        }
    }
}

/// Opens a journal; `None` where none can be had. Blocks.
pub type OpenJournal = Box<dyn Fn() -> Option<Arc<Journal>> + Send + Sync>;

/// A journal that is opened when there is something to write down.
struct LaterJournal {
    open: OpenJournal,
    opened: OnceLock<Arc<Journal>>,
    /// When it could not be opened.
    failed: Mutex<Option<Instant>>,
}

impl LaterJournal {
    /// Blocks. `None`: it cannot be opened, which is found out again after a while.
    fn open(&self) -> Option<&Arc<Journal>> {
        // Held while it is opened: the others wait for that.
        let mut failed = self.failed.lock();
        if self.opened.get().is_none() && failed.is_none_or(|at| at.elapsed() >= JOURNAL_RETRY) {
            match (self.open)() {
                Some(journal) => drop(self.opened.set(journal)),
                None => *failed = Some(Instant::now()),
            }
        }
        self.opened.get()
    }
}

/// The journal of a bucket that is written [beside](Writes::beside) others.
pub enum Journaling {
    None,
    Open(Arc<Journal>),
    /// Buckets that are only read need none: each costs a thread and some open files.
    Later(OpenJournal),
}

/// What a successful commit made.
#[derive(Clone, Debug)]
pub struct Committed {
    pub object: Object,
    pub stored: Stored,
    /// The bytes are stored, headers that were changed while they were sent are not.
    pub headers_pending: bool,
    /// Somebody else's version has the name of the file: ours is `object`, under another one.
    pub beside: bool,
}

/// The write engine: one per bucket of a mount.
pub struct Writes {
    s3: S3,
    reads: Arc<Reads>,
    budget: Arc<Budget>,
    settings: WriteSettings,
    later: Option<LaterJournal>,
    rooms: Rooms,
    /// Parts in flight.
    uploads: Arc<Semaphore>,
    /// Small objects in flight whose `close` has returned: nobody waits for one of them, so that only many at a time
    /// keep up with who makes them.
    small: Arc<Semaphore>,
    /// Parts being gathered from the base or from staging: each may hold a lease while the block cache wants one for
    /// the same bytes, so there are only as many as fit into the budget together.
    gathers: Arc<Semaphore>,
    /// Requests finished so far: a wait goes on as long as this moves.
    progress: Arc<AtomicU64>,
    /// The store turned out to have no UploadPartCopy.
    no_part_copy: AtomicBool,
    /// Whether the bucket had versions when that was asked for, and whether it was seen to have them.
    has_versions: OnceCell<bool>,
    saw_versions: AtomicBool,
    /// Uploads and aborts that run on their own.
    tasks: TaskTracker,
    runtime: Handle,
}

impl Writes {
    /// Must be called inside the tokio runtime that uploads are to run on.
    pub fn new(s3: S3, reads: Arc<Reads>, budget: Arc<Budget>, settings: WriteSettings) -> Arc<Writes> {
        let uploads = settings.max_uploads.clamp(1, Semaphore::MAX_PERMITS);
        let part = usize::try_from(settings.limits.part_size).unwrap_or(usize::MAX).max(1);
        let gathers = (budget.limit() / part.saturating_mul(8)).clamp(1, uploads);
        Arc::new(Writes {
            rooms: Rooms { budget: budget.clone(), used: Arc::default() },
            s3,
            reads,
            budget,
            settings,
            later: None,
            uploads: Arc::new(Semaphore::new(uploads)),
            small: Arc::new(Semaphore::new(uploads.saturating_mul(SMALL_FACTOR).min(Semaphore::MAX_PERMITS))),
            gathers: Arc::new(Semaphore::new(gathers)),
            progress: Arc::default(),
            no_part_copy: AtomicBool::new(false),
            has_versions: OnceCell::new(),
            saw_versions: AtomicBool::new(false),
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
        })
    }

    /// The engine for another bucket, within the bounds of this one: memory and uploads of both count together.
    /// Without a journal nothing is acknowledged before it is stored.
    pub fn beside(&self, s3: S3, reads: Arc<Reads>, journaling: Journaling) -> Arc<Writes> {
        let (journal, later) = match journaling {
            Journaling::None => (None, None),
            Journaling::Open(journal) => (Some(journal), None),
            Journaling::Later(open) => {
                (None, Some(LaterJournal { open, opened: OnceLock::new(), failed: Mutex::new(None) }))
            }
        };
        Arc::new(Writes {
            s3,
            reads,
            budget: self.budget.clone(),
            settings: WriteSettings { journal, ..self.settings.clone() },
            later,
            rooms: self.rooms.clone(),
            uploads: self.uploads.clone(),
            small: self.small.clone(),
            gathers: self.gathers.clone(),
            progress: self.progress.clone(),
            no_part_copy: AtomicBool::new(false),
            has_versions: OnceCell::new(),
            saw_versions: AtomicBool::new(false),
            tasks: TaskTracker::new(),
            runtime: self.runtime.clone(),
        })
    }

    pub fn settings(&self) -> &WriteSettings {
        &self.settings
    }

    /// The journal, if it is open.
    fn journal(&self) -> Option<&Arc<Journal>> {
        self.settings.journal.as_ref().or_else(|| self.later.as_ref()?.opened.get())
    }

    /// The journal, to write to. The first time may take as long as the disk does.
    pub fn open_journal(&self) -> Option<&Arc<Journal>> {
        let Some(later) = &self.later else { return self.settings.journal.as_ref() };
        later.opened.get().or_else(|| tokio::task::block_in_place(|| later.open()))
    }

    /// The limits as set, less what the store turned out to lack.
    fn limits(&self) -> Limits {
        let limits = self.settings.limits.clone();
        Limits { part_copy: limits.part_copy && !self.no_part_copy.load(Ordering::Relaxed), ..limits }
    }

    /// Bytes of memory that written and not yet stored bytes hold, over all files.
    pub fn memory(&self) -> usize {
        self.rooms.used.load(Ordering::Relaxed)
    }

    /// Waits until uploads that run on their own, and aborts, are through; false when `patience` passed first.
    pub async fn drain(&self, patience: Duration) -> bool {
        self.tasks.close();
        let done = tokio::time::timeout(patience, self.tasks.wait()).await.is_ok();
        self.tasks.reopen();
        done
    }

    /// A request got done: whoever is [patient](Writes::patient) goes on waiting.
    pub fn progressed(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for `f` as long as requests get done; [`Kind::Timeout`] after `patience` without any.
    pub async fn patient<T>(&self, what: &str, f: impl Future<Output = T>) -> Result<T> {
        tokio::pin!(f);
        loop {
            let before = self.progress.load(Ordering::Relaxed);
            if let Ok(done) = tokio::time::timeout(self.settings.patience, &mut f).await {
                return Ok(done);
            }
            if self.progress.load(Ordering::Relaxed) == before {
                return Err(Error::new(Kind::Timeout, format!("wait for {what}")));
            }
        }
    }

    async fn permit(&self, of: &Arc<Semaphore>, what: &str) -> Result<OwnedSemaphorePermit> {
        self.patient(what, of.clone().acquire_owned())
            .await?
            .map_err(|_| Error::new(Kind::Io, format!("wait for {what}: shutting down")))
    }
}

/// Where layers get their memory.
#[derive(Clone)]
struct Rooms {
    budget: Arc<Budget>,
    used: Arc<AtomicUsize>,
}

/// Memory of one page; given back when dropped.
struct Room {
    lease: Lease,
    used: Arc<AtomicUsize>,
}

impl Rooms {
    /// `None` when written bytes would hold more than half of the budget, or the budget is used up.
    fn take(&self, bytes: usize) -> Option<Room> {
        let half = self.budget.limit() / 2;
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |u| u.checked_add(bytes).filter(|n| *n <= half))
            .ok()?;
        match self.budget.try_lease(bytes) {
            Some(lease) => Some(Room { lease, used: self.used.clone() }),
            None => {
                self.used.fetch_sub(bytes, Ordering::Relaxed);
                None
            }
        }
    }
}

impl Room {
    fn bytes(&self) -> usize {
        self.lease.bytes()
    }

    /// Takes `other` into this room.
    fn merge(&mut self, mut other: Room) {
        let bytes = other.lease.bytes();
        self.lease.merge(other.lease.split(bytes));
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.used.fetch_sub(self.lease.bytes(), Ordering::Relaxed);
    }
}

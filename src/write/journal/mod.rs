//! The journal of a mount: what was acknowledged before the store had it, and which uploads were begun.
//!
//! 1. What `close` acknowledged survives `kill -9` and a power failure: bytes and record are on the disk before it
//!    returns ([`log`]: many closers share one fdatasync).
//! 2. A record is the whole of what is pending of one file and replaces the former one, so that replaying is taking
//!    the last record of each file. Bytes are written once: later records refer to where they are ([`blob`]).
//! 3. The journal of a mount is a directory that its process holds by a lock. A process finds those that others of the
//!    same bucket and prefix left, and takes over what is in them.
//! 4. Damage is told and never skipped in silence ([`scan`]).
//!
//! What may happen between two steps, and what a replay makes of it:
//!
//! - Killed before the record is written: `close` did not return; data files without a record are deleted.
//! - Killed while it is written: the torn end of the log is cut off; the same. Where the power failed, that end may be
//!   several records of which later ones reached the disk and earlier ones did not: none was acknowledged, all are cut.
//! - Killed after the record: it is replayed. Layers are immutable once recorded, so it is what `close` promised.
//! - Killed while it is uploaded: nothing is visible before the end of an upload. The upload is aborted, because its
//!   id was written down before the first part; one whose id never arrived is looked for by key and time.
//! - Killed between the store's answer and the record's end: replayed. Without a base this stores the same bytes again.
//!   A change of an object finds another version than its base, and an exclusively created file finds one at all: if
//!   that holds exactly the bytes that were written, it is what was stored before ([`super::acknowledge`]).
//! - Killed between a commit and the record on the new base, with later bytes acknowledged meanwhile: the same look
//!   finds the version that the first layers made, and takes it as the base of the others.
//! - Another machine stored the key meanwhile: where the whole content is here, the last commit wins (as always); a
//!   change of parts of a version that is gone is kept and reported, never merged.
//! - Unlink of an object of which nothing is pending: a record says so, the unlink returns, the delete follows. Killed
//!   in between the record is replayed: the name stays hidden, and the object goes unless it is another one by then.
//! - Unlink of a pending file: nothing more is sent, the object is deleted, the record ends durably, and then the unlink returns. Killed in
//!   between the file is what it was last, or nothing. The other way round it could be what it was before that. When a
//!   handle keeps the object, the record ends at once, for the delete has to wait for the last close.
//! - Rename of a pending file of which nothing was sent: one record gives it the new key, durably. What was pending
//!   under the target ends after that; killed in between, two files have one key, and the later one counts.
//! - Rename of one that has been sent, or of a changed object: it is stored first, and its record ends durably before
//!   the copy is made. What was pending under the target ends durably between the copy and the delete: later, it would
//!   be stored over the copy when that is all there is.
//! - Rename of a file that is still being written over a pending one: it is acknowledged first.
//! - Rename of a directory: each pending file as above, before anything is copied.
//! - Two processes' journals of one bucket are taken over one after the other, in the order of their last records; a
//!   journal that was taken over is renamed before it is deleted, so that it is never taken over twice. Of one key in
//!   several of them the version that was acknowledged last counts, as when two machines store one.

mod blob;
mod directory;
mod log;
#[cfg(test)]
mod log_tests;
mod offline;
mod record;
mod scan;
mod table;
mod takeover;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::SystemTime;

use bytes::Bytes;
use nix::fcntl::Flock;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

pub(in crate::write) use self::blob::{Blob, Saved};
use self::directory::{base, default_limit, free, keep_damaged, lock, make_dir, remove, write_identity};
use self::log::{Change, Counters, Log, Request};
pub use self::offline::{Survey, discard, export, peek, survey};
use self::record::{Crc, Record};
use self::scan::{scan, trouble};
pub use self::table::Gone;
use self::table::Table;
pub(in crate::write) use self::table::{Begun, Live};
use crate::error::{Error, Kind, Result};
use crate::key::{Key, stable_hash};
use crate::s3::ETag;

/// Bytes of one layer that go into the log itself; what is larger gets a file of its own.
pub(in crate::write) const INLINE: u64 = 256 << 10;
/// Files that may be pending: what is known of each is in memory.
const PENDING_MAX: usize = 20_000;
/// Space of the disk that is never taken.
const FLOOR: u64 = 256 << 20;
/// Journals of one bucket at a time: daemons on one machine that serve it.
const NUMBERS: u32 = 1000;

/// Whose journal it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// As given; `None` is AWS.
    pub endpoint: Option<String>,
    pub bucket: String,
    /// Empty, or ending in `/`.
    pub prefix: String,
}

impl Identity {
    fn store(&self) -> &str {
        self.endpoint.as_deref().unwrap_or("").trim_end_matches('/')
    }

    fn hash(&self) -> u64 {
        stable_hash(format!("{}\0{}\0{}", self.store(), self.bucket, self.prefix).as_bytes())
    }

    /// Whether it is of a mount of a whole bucket of the store of `other`.
    pub fn is_bucket_of(&self, other: &Identity) -> bool {
        self.store() == other.store() && self.prefix.is_empty()
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let endpoint = self.endpoint.as_deref().unwrap_or("AWS");
        write!(f, "{}:/{} at {endpoint}", self.bucket, self.prefix)
    }
}

/// Takes bytes one after the other.
pub(in crate::write) type Sink<'a> = dyn FnMut(&[u8]) -> io::Result<()> + 'a;

/// Where a pending file is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PendingState {
    /// Waits for its turn, or for the next attempt.
    Queued,
    Uploading,
    /// The store refused it, and nothing happens until somebody changes that: see the reason.
    Parked,
}

/// A file that was acknowledged and is not stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pending {
    /// Unique over all journals of a machine.
    pub id: u64,
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// When it was first acknowledged.
    pub since: SystemTime,
    pub attempts: u32,
    pub state: PendingState,
    /// Why the last attempt failed, with the fix.
    pub reason: Option<String>,
}

impl From<&Live> for Pending {
    fn from(l: &Live) -> Self {
        Pending {
            id: l.id,
            key: l.key.as_str().to_owned(),
            size: l.size,
            since: l.since,
            attempts: l.attempts,
            state: if l.parked { PendingState::Parked } else { PendingState::Queued },
            reason: l.reason.clone(),
        }
    }
}

/// Where journals are, and how much they may take.
#[derive(Clone, Debug)]
pub struct JournalSettings {
    pub state_dir: PathBuf,
    pub identity: Identity,
    /// Bytes; `None`: 10 % of the disk, at most 8 GiB.
    pub limit: Option<u64>,
    /// Whether to take over what daemons that are gone have left. A tree that is in use already may not: what is left
    /// is older than what is done in it now.
    pub adopt: bool,
}

/// What was found when the journal was opened.
#[derive(Default)]
pub struct Replay {
    pub(in crate::write) live: Vec<Live>,
    pub(in crate::write) uploads: Vec<Begun>,
    pub(in crate::write) gone: Vec<Gone>,
    /// What is lost, a line each.
    pub damage: Vec<String>,
}

impl Replay {
    /// Files that wait for the store.
    pub fn pending(&self) -> Vec<Pending> {
        self.live.iter().map(Pending::from).collect()
    }

    /// Uploads that were left by a process that died.
    pub fn uploads(&self) -> usize {
        self.uploads.len()
    }
}

/// One per mount.
pub struct Journal {
    dir: Arc<PathBuf>,
    table: Arc<Mutex<Table>>,
    counters: Arc<Counters>,
    requests: Mutex<Option<Sender<Request>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    limit: u64,
    /// Held as long as this lives.
    _lock: Flock<File>,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "journal in {}", self.dir.display())
    }
}

/// Numbers of files and uploads, larger than all that were given out on this machine: nobody makes a million in a
/// millisecond. One process has many journals, which is why they share this.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Journal {
    /// Opens the journal of a mount, and takes over what others of the same identity left. Blocks.
    ///
    /// Errors: `state_dir` cannot be written, or holds more journals than there can be daemons.
    pub fn open(settings: &JournalSettings) -> Result<(Arc<Journal>, Replay)> {
        let base = base(&settings.state_dir);
        make_dir(&base)?;
        let hash = settings.identity.hash();
        for number in 0..NUMBERS {
            let dir = base.join(format!("{hash:016x}-{number}"));
            make_dir(&dir)?;
            let Some(lock) = lock(&dir)? else { continue };
            if !settings.adopt && scan(&Arc::new(dir.clone()))?.has_anything() {
                tracing::warn!(
                    "{} was left by another mount of {}: the next one stores what is in it",
                    dir.display(),
                    settings.identity
                );
                continue;
            }
            write_identity(&dir, &settings.identity)?;
            return Journal::begin(dir, lock, settings, hash);
        }
        Err(Error::new(Kind::Busy, format!("{} has too many journals of {}", base.display(), settings.identity)))
    }

    fn begin(dir: PathBuf, lock: Flock<File>, settings: &JournalSettings, hash: u64) -> Result<(Arc<Journal>, Replay)> {
        let dir = Arc::new(dir);
        let mut found = scan(&dir)?;
        for name in &found.strays {
            let _ = fs::remove_file(dir.join(name));
        }
        if !found.damage.is_empty() {
            keep_damaged(&dir);
        }
        found.cut(&dir)?;
        let limit = settings.limit.unwrap_or_else(|| default_limit(&dir));
        let table = Arc::new(Mutex::new(std::mem::take(&mut found.table)));
        let counters = Arc::new(Counters::default());
        let log = Log::new(dir.clone(), table.clone(), counters.clone(), (found.segment, found.seq), limit)
            .map_err(|e| trouble("write in", &dir, &e).with_fix("check the disk of `state_dir`"))?;
        let (requests, queue) = channel();
        let thread = std::thread::Builder::new()
            .name("xosfs-journal".into())
            .spawn(move || log.run(&queue))
            .map_err(|e| Error::new(Kind::Io, format!("start of the journal's thread: {e}")))?;
        let now = record::millis(SystemTime::now());
        let last = {
            let table = table.lock();
            let (live, gone) = (table.live.last_key_value(), table.gone.last_key_value());
            live.map(|(id, _)| *id).max(gone.map(|(id, _)| *id)).unwrap_or(0)
        };
        NEXT.fetch_max((now << 20).max(last + 1), Ordering::Relaxed);
        let journal = Arc::new(Journal {
            dir,
            table,
            counters,
            requests: Mutex::new(Some(requests)),
            thread: Mutex::new(Some(thread)),
            limit,
            _lock: lock,
        });
        let mut replay = Replay { damage: found.damage, ..Replay::default() };
        if settings.adopt {
            journal.adopt_others(&base(&settings.state_dir), hash, &mut replay)?;
        }
        let table = journal.table.lock();
        replay.live = table.live.values().cloned().collect();
        replay.live.sort_by_key(|l| l.seq);
        replay.uploads = table.uploads.values().cloned().collect();
        replay.gone = table.gone.values().cloned().collect();
        drop(table);
        Ok((journal, replay))
    }

    fn data_name(&self) -> String {
        format!("{:016x}.data", self.number())
    }

    fn ask(&self, change: Change, durable: bool, new_file: bool, done: log::Answer) -> Result<()> {
        let request = Request { change, durable, new_file, done };
        let sent = self.requests.lock().as_ref().is_some_and(|r| r.send(request).is_ok());
        if sent { Ok(()) } else { Err(ended()) }
    }

    /// Blocks.
    fn wait(&self, change: Change, durable: bool, new_file: bool) -> Result<()> {
        let (tell, answer) = channel();
        self.ask(change, durable, new_file, Box::new(move |done| drop(tell.send(done))))?;
        answer.recv().map_err(|_| ended())?
    }

    async fn send(&self, change: Change, durable: bool, new_file: bool) -> Result<()> {
        let (tell, answer) = oneshot::channel();
        self.ask(change, durable, new_file, Box::new(move |done| drop(tell.send(done))))?;
        answer.await.map_err(|_| ended())?
    }

    /// Nobody waits for it; an error is in the log already.
    fn post(&self, record: Record) {
        let _ = self.ask(Change::Record(record), false, false, Box::new(drop));
    }

    /// A number for a new file or upload.
    pub(in crate::write) fn number(&self) -> u64 {
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    /// A blob that the next record of its file brings along.
    pub(in crate::write) fn inline(&self, pieces: &[Bytes]) -> Arc<Blob> {
        let mut crc = Crc::new();
        pieces.iter().for_each(|p| crc.update(p));
        let len = pieces.iter().map(|p| p.len() as u64).sum();
        Blob::new(&self.dir, blob::Place::Nowhere, len, crc.value(), true)
    }

    /// Writes a data file and syncs it; blocks. `pieces` hands out the bytes one after the other.
    pub(in crate::write) fn write_file(
        &self,
        pieces: &mut dyn FnMut(&mut Sink<'_>) -> io::Result<()>,
    ) -> io::Result<Arc<Blob>> {
        let name = self.data_name();
        let path = self.dir.join(&name);
        let mut file = File::options().create_new(true).write(true).mode(0o600).open(&path)?;
        let (mut crc, mut len) = (Crc::new(), 0);
        let written = pieces(&mut |bytes| {
            crc.update(bytes);
            len += bytes.len() as u64;
            io::Write::write_all(&mut file, bytes)
        });
        if let Err(e) = written.and_then(|()| file.sync_data()) {
            let _ = fs::remove_file(path);
            return Err(e);
        }
        Ok(Blob::new(&self.dir, blob::Place::File(name), len, crc.value(), true))
    }

    /// Removes a data file that no record names.
    pub(in crate::write) fn drop_file(&self, blob: &Blob) {
        if let blob::Place::File(name) = blob.place() {
            let _ = fs::remove_file(self.dir.join(name));
        }
    }

    /// Replaces what is known of a file. When it returns, that is safe from a power failure if `durable`, and from the
    /// end of this process in any case.
    pub(in crate::write) async fn save(
        &self,
        live: Live,
        fresh: Vec<(Arc<Blob>, Vec<Bytes>)>,
        new_file: bool,
        durable: bool,
    ) -> Result<()> {
        self.send(Change::Pending(Box::new(live), fresh), durable, new_file).await
    }

    /// The file is stored, deleted or not wanted any more.
    pub(in crate::write) async fn done(&self, id: u64, durable: bool) -> Result<()> {
        self.send(Change::Record(Record::Done { id }), durable, false).await
    }

    pub(in crate::write) async fn rekey(&self, id: u64, key: &Key) -> Result<()> {
        let key = key.as_str().to_owned();
        self.send(Change::Record(Record::Rekeyed { id, key }), true, false).await
    }

    /// How an attempt to store it ended; nobody waits for it.
    pub(in crate::write) fn tried(&self, id: u64, attempts: u32, parked: bool, reason: &Error) {
        self.post(Record::Tried { id, attempts, parked, reason: reason.to_string() });
    }

    /// The object of an unlinked name is to be deleted: what [`Journal::deleted`] wants. When it returns, that is safe
    /// from the end of this process, and from a power failure after the next [`Journal::barrier`].
    pub(in crate::write) async fn unlinked(&self, key: &Key, etag: &ETag, modified: Option<SystemTime>) -> Result<u64> {
        let (id, modified) = (self.number(), modified.map(record::millis));
        let (key, etag) = (key.as_str().to_owned(), etag.as_str().to_owned());
        let at = record::millis(SystemTime::now());
        self.send(Change::Record(Record::Unlinked { id, key, etag, modified, at }), false, false).await?;
        Ok(id)
    }

    /// The object is deleted, or not to be deleted any more. Nobody waits for it; records written later follow it.
    pub(in crate::write) fn deleted(&self, id: u64) {
        self.post(Record::Done { id });
    }

    /// Everything that was written so far is safe from a power failure when it returns.
    pub async fn barrier(&self) -> Result<()> {
        self.send(Change::Barrier, true, false).await
    }

    pub(in crate::write) async fn upload_intent(&self, key: &Key) -> Result<u64> {
        let (token, at) = (self.number(), record::millis(SystemTime::now()));
        let key = key.as_str().to_owned();
        self.send(Change::Record(Record::UploadIntent { token, key, at }), false, false).await?;
        Ok(token)
    }

    pub(in crate::write) async fn upload_begun(&self, token: u64, key: &Key, upload: &str) -> Result<()> {
        let (key, upload) = (key.as_str().to_owned(), upload.to_owned());
        let at = record::millis(SystemTime::now());
        self.send(Change::Record(Record::UploadBegun { token, key, upload, at }), false, false).await
    }

    /// Nobody waits for it.
    pub(in crate::write) fn upload_ended(&self, token: u64) {
        self.post(Record::UploadEnded { token });
    }

    /// The uploads of a key that are under way or left: their ids, and whether one without is being created, which
    /// those of `former` processes are not.
    pub(in crate::write) fn uploads_of(&self, key: &Key, former: &HashSet<u64>) -> (Vec<String>, bool) {
        let table = self.table.lock();
        let all = || table.uploads.values().filter(|u| u.key == *key);
        let creating = all().any(|u| u.upload.is_none() && !former.contains(&u.token));
        (all().filter_map(|u| u.upload.clone()).collect(), creating)
    }

    /// Files that are pending.
    pub fn pending(&self) -> Vec<Pending> {
        self.table.lock().live.values().map(Pending::from).collect()
    }

    /// Whether there is room for another record of so many bytes.
    pub(in crate::write) fn has_room(&self, bytes: u64) -> bool {
        let (used, files) = {
            let table = self.table.lock();
            (table.bytes(), table.live.len())
        };
        files < PENDING_MAX
            && used.saturating_add(bytes) <= self.limit
            && free(&self.dir) >= FLOOR.saturating_add(bytes)
    }

    /// Bytes on the disk.
    pub fn bytes(&self) -> u64 {
        self.table.lock().bytes()
    }

    /// How often fdatasync was called on the log.
    pub fn syncs(&self) -> u64 {
        self.counters.syncs.load(Ordering::Relaxed)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Ends the thread, when everything asked for is written. A journal with nothing in it is removed. Blocks.
    pub fn close(&self) {
        self.requests.lock().take();
        let Some(thread) = self.thread.lock().take() else { return };
        let _ = thread.join();
        let table = self.table.lock();
        if table.is_empty() && fs::symlink_metadata(self.dir.join("damaged")).is_err() {
            let _ = remove(&self.dir);
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

impl Blob {
    fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }
}

fn ended() -> Error {
    Error::new(Kind::Io, "journal: it is closed")
}

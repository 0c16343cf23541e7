//! The thread that writes the log.
//!
//! 1. Group commit: what was asked for while the disk was busy goes out together, in one write and one fdatasync, and
//!    is acknowledged together. Records that only have to survive the death of the process wait for no fdatasync.
//! 2. After a failed fdatasync nobody knows what is on the disk: nothing is acknowledged any more, and the writers
//!    wait for the store instead.
//! 3. The log is written over zeros that were synced before: an fdatasync then has no new size and no new blocks to
//!    write down, which costs most of it ([`scan`](super::scan) has how the end is found).
//! 4. Segments go from the oldest on, never out of order: the end of a file in a later segment must not be forgotten
//!    before its beginning in an earlier one. What keeps an old segment alive is written again at the end of the log.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::blob::{Blob, Place, Saved, segment_name};
use super::record::{Record, Stamp, encode};
use super::table::{Live, Table};
use crate::error::{Error, Kind, Result};

/// A segment that is longer is closed: small enough to be read into memory as a whole, large enough that files come
/// and go within one.
pub(super) const SEGMENT: u64 = 16 << 20;
/// Zeros put behind the end at a time, at most. Some hundred small files, and nothing that an idle mount would miss.
const AHEAD: u64 = 1 << 20;
/// The share of the journal's limit that they may take.
const AHEAD_SHARE: u64 = 16;
/// Bytes gathered for one write.
const BATCH: usize = 8 << 20;
/// Segments that may pile up behind an old one before what is alive in that is written again.
const PILE: usize = 4;
/// Longest time that a record which nobody waits for stays without an fdatasync.
const LAZY: Duration = Duration::from_secs(1);

pub(super) enum Change {
    Record(Record),
    /// The blobs that are not written yet, with their bytes.
    Pending(Box<Live>, Vec<(Arc<Blob>, Vec<Bytes>)>),
    /// Nothing but an fdatasync of what was written before.
    Barrier,
}

pub(super) struct Request {
    pub change: Change,
    /// Whether to answer only when it is safe from a power failure.
    pub durable: bool,
    /// Whether a file was made that the record names.
    pub new_file: bool,
    pub done: Answer,
}

/// Is told how it went.
pub(super) type Answer = Box<dyn FnOnce(Result<()>) + Send>;

#[derive(Default)]
pub(super) struct Counters {
    pub syncs: AtomicU64,
    pub writes: AtomicU64,
}

pub(super) struct Log {
    pub dir: Arc<PathBuf>,
    pub table: Arc<Mutex<Table>>,
    pub counters: Arc<Counters>,
    file: File,
    number: u64,
    /// Where the next frame goes.
    len: u64,
    /// Bytes of the file: from `len` on they are zeros.
    filled: u64,
    /// Bytes that the journal may take.
    limit: u64,
    /// The last record that was written, and the last one that is safe from a power failure.
    seq: u64,
    synced: u64,
    /// Of this process: see [`Stamp`].
    epoch: u64,
    broken: Option<Error>,
    unsynced: bool,
}

fn failed(e: &io::Error) -> Error {
    let kind = match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::NoSpace,
        _ => Kind::Io,
    };
    Error::new(kind, format!("write the journal: {e}")).with_fix("check the disk of `state_dir`")
}

fn sync_dir(dir: &std::path::Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn new_segment(dir: &std::path::Path, number: u64) -> io::Result<File> {
    let path = dir.join(segment_name(number));
    let file = File::options().create_new(true).write(true).read(true).mode(0o600).open(path)?;
    sync_dir(dir)?;
    Ok(file)
}

/// What a frame in the batch changes once it is on the disk.
struct Written {
    /// Taken by the one who applies it.
    change: Change,
    seq: u64,
    here: u64,
    done: Answer,
}

impl Log {
    /// Begins a new segment after `segment`. `seq`: the last record there is, which is synced. `limit`: bytes that the
    /// journal may take.
    pub fn new(
        dir: Arc<PathBuf>,
        table: Arc<Mutex<Table>>,
        counters: Arc<Counters>,
        (segment, seq): (u64, u64),
        limit: u64,
    ) -> io::Result<Log> {
        let number = segment + 1;
        let file = new_segment(&dir, number)?;
        table.lock().segments.insert(number, 0);
        let (synced, broken) = (seq, None);
        let (len, filled, unsynced) = (0, 0, false);
        let epoch = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), number);
        let mut log =
            Log { dir, table, counters, file, number, len, filled, limit, seq, synced, epoch, broken, unsynced };
        if let Err(e) = log.drop_segments() {
            tracing::warn!("the journal could not be tidied up: {e}");
        }
        Ok(log)
    }

    /// Until nobody can ask any more.
    pub fn run(mut self, requests: &Receiver<Request>) {
        loop {
            let first = if self.unsynced {
                match requests.recv_timeout(LAZY) {
                    Ok(first) => first,
                    Err(RecvTimeoutError::Timeout) => {
                        let _ = self.sync();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            } else {
                match requests.recv() {
                    Ok(first) => first,
                    Err(_) => break,
                }
            };
            let mut batch = vec![first];
            let mut bytes = batch[0].bytes();
            while bytes < BATCH
                && let Ok(next) = requests.try_recv()
            {
                bytes += next.bytes();
                batch.push(next);
            }
            self.commit(batch);
            if let Err(e) = self.tidy() {
                tracing::warn!("the journal could not be tidied up: {e}");
            }
        }
        let _ = self.sync();
    }

    fn commit(&mut self, batch: Vec<Request>) {
        if let Some(e) = &self.broken {
            for request in batch {
                (request.done)(Err(e.clone()));
            }
            return;
        }
        let durable = batch.iter().any(|r| r.durable);
        let new_file = batch.iter().any(|r| r.new_file);
        let mut out = Vec::new();
        let mut written = Vec::with_capacity(batch.len());
        let mut seq = self.seq;
        for Request { change, done, .. } in batch {
            let start = out.len();
            match frame(&change, self.stamp(seq + 1), &mut out) {
                Ok(inline) => {
                    seq += u64::from(out.len() > start);
                    written.push(Written { change, seq, here: self.len + inline as u64, done });
                }
                Err(e) => {
                    out.truncate(start);
                    done(Err(e));
                }
            }
        }
        match self.append(&out, seq, durable, new_file) {
            Ok(()) => {
                for w in written {
                    self.apply(w.change, w.seq, w.here);
                    (w.done)(Ok(()));
                }
            }
            Err(e) => {
                tracing::error!("{e}");
                for w in written {
                    (w.done)(Err(e.clone()));
                }
            }
        }
    }

    fn stamp(&self, seq: u64) -> Stamp {
        Stamp { seq, synced: self.synced, epoch: self.epoch }
    }

    /// `last`: the number of the last record in `out`.
    fn append(&mut self, out: &[u8], last: u64, durable: bool, new_file: bool) -> Result<()> {
        // Before the record that names it.
        if new_file {
            sync_dir(&self.dir).map_err(|e| failed(&e))?;
        }
        if !out.is_empty() {
            self.counters.writes.fetch_add(1, Ordering::Relaxed);
            if let Err(e) = self.file.write_all_at(out, self.len) {
                let error = failed(&e);
                // A part of it may be there: it must not be found behind the next frame.
                if self.cut().is_err() {
                    self.broken = Some(error.clone());
                }
                return Err(error);
            }
            self.len += out.len() as u64;
            self.seq = last;
            self.unsynced = true;
            if self.len > self.filled {
                self.filled = self.len;
                self.table.lock().segments.insert(self.number, self.filled);
                if durable {
                    self.fill();
                }
            }
        }
        if durable { self.sync() } else { Ok(()) }
    }

    /// Puts zeros behind the end, for the next records to be written over. They go to the disk with the record before
    /// them; where there is no room, the log is appended to.
    fn fill(&mut self) {
        static ZEROS: [u8; 128 << 10] = [0; 128 << 10];
        let free = self.limit.saturating_sub(self.table.lock().bytes());
        let zeros = AHEAD.min(self.limit / AHEAD_SHARE).min(free).min(SEGMENT.saturating_sub(self.len));
        let end = self.len + zeros;
        let mut at = self.len;
        while at < end {
            let n = (end - at).min(ZEROS.len() as u64);
            if let Err(e) = self.file.write_all_at(&ZEROS[..n as usize], at) {
                tracing::debug!("no room for the next records of the journal yet: {e}");
                let _ = self.cut();
                return;
            }
            at += n;
        }
        self.filled = end;
        self.table.lock().segments.insert(self.number, self.filled);
    }

    /// Ends the file where the last frame ends.
    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.len)?;
        self.filled = self.len;
        self.table.lock().segments.insert(self.number, self.len);
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        if !self.unsynced {
            return Ok(());
        }
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        if let Err(e) = self.file.sync_data() {
            let error = failed(&e);
            tracing::error!("{error}; from here on close waits for the store");
            self.broken = Some(error.clone());
            return Err(error);
        }
        self.unsynced = false;
        self.synced = self.seq;
        Ok(())
    }

    fn apply(&mut self, change: Change, seq: u64, here: u64) {
        let gone = match change {
            Change::Barrier => return,
            Change::Pending(mut live, blobs) => {
                let mut at = here;
                for (blob, _) in blobs {
                    blob.move_to(Place::Segment { number: self.number, offset: at });
                    at += blob.len;
                }
                (live.seq, live.segment) = (seq, self.number);
                self.table.lock().put(*live)
            }
            Change::Record(record) => {
                self.table.lock().apply(&self.dir, record, seq, self.number, here).unwrap_or_else(|e| {
                    tracing::error!("journal: {e}");
                    Vec::new()
                })
            }
        };
        for name in gone {
            let _ = fs::remove_file(self.dir.join(name));
        }
    }

    /// Closes a full segment, and lets go of those that nothing needs.
    fn tidy(&mut self) -> Result<()> {
        let idle = {
            let table = self.table.lock();
            table.is_empty() && self.len > SEGMENT / 16
        };
        if self.broken.is_some() || self.len < SEGMENT && !idle {
            return Ok(());
        }
        // What is in it must be safe before anything behind it is.
        self.sync()?;
        self.cut().map_err(|e| failed(&e))?;
        self.file = new_segment(&self.dir, self.number + 1).map_err(|e| failed(&e))?;
        (self.number, self.len, self.filled) = (self.number + 1, 0, 0);
        self.table.lock().segments.insert(self.number, 0);
        self.drop_segments()?;
        let piled = self.table.lock().segments.len();
        if piled > PILE {
            self.move_oldest()?;
            self.drop_segments()?;
        }
        Ok(())
    }

    fn drop_segments(&mut self) -> Result<()> {
        let mut table = self.table.lock();
        let keep = table.oldest_needed().unwrap_or(self.number).min(self.number);
        let gone: Vec<u64> = table.segments.range(..keep).map(|(n, _)| *n).collect();
        for number in gone {
            let path = self.dir.join(segment_name(number));
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(&e)),
                _ => table.segments.remove(&number),
            };
        }
        Ok(())
    }

    /// Writes what is alive in the oldest segment again, unless that is most of it.
    fn move_oldest(&mut self) -> Result<()> {
        let (files, records, worth) = {
            let table = self.table.lock();
            let Some((&oldest, &size)) = table.segments.first_key_value() else { return Ok(()) };
            let (files, records) = table.needing(oldest);
            let alive: u64 = files.iter().map(Live::inline_bytes).sum();
            (files, records, alive < size / 2)
        };
        if !worth {
            return Ok(());
        }
        let mut out = Vec::new();
        let mut moved = Vec::new();
        let mut seq = self.seq;
        for live in files {
            let (blobs, pieces) = inline_of(&live)?;
            let change = Change::Pending(Box::new(live), blobs.into_iter().zip(pieces).collect());
            seq += 1;
            let inline = frame(&change, self.stamp(seq), &mut out)?;
            moved.push((change, seq, self.len + inline as u64));
        }
        for record in records {
            let change = Change::Record(record);
            seq += 1;
            let inline = frame(&change, self.stamp(seq), &mut out)?;
            moved.push((change, seq, self.len + inline as u64));
        }
        self.append(&out, seq, true, false)?;
        for (change, seq, here) in moved {
            self.apply(change, seq, here);
        }
        Ok(())
    }
}

/// Blobs, and the bytes of each.
pub(super) type Inline = (Vec<Arc<Blob>>, Vec<Vec<Bytes>>);

/// The blobs of a file that are in segments, and their bytes.
pub(super) fn inline_of(live: &Live) -> Result<Inline> {
    let (mut blobs, mut pieces) = (Vec::new(), Vec::new());
    for blob in live.layers.iter().filter_map(|l| l.blob.as_ref()) {
        if matches!(blob.place(), Place::Segment { .. }) {
            let bytes = blob.read_blocking(0..blob.len).map_err(|e| failed(&e))?;
            blobs.push(blob.clone());
            pieces.push(vec![Bytes::from(bytes)]);
        }
    }
    Ok((blobs, pieces))
}

/// Appends the frame of a change; where its bytes begin.
fn frame(change: &Change, stamp: Stamp, out: &mut Vec<u8>) -> Result<usize> {
    match change {
        Change::Barrier => Ok(out.len()),
        Change::Record(record) => encode(record, stamp, std::iter::empty(), out),
        Change::Pending(live, blobs) => {
            let here = |layer: &Saved| {
                let blob = layer.blob.as_ref()?;
                let at = blobs.iter().position(|(b, _)| Arc::ptr_eq(b, blob))?;
                Some(blobs[..at].iter().map(|(b, _)| b.len).sum())
            };
            let bytes = blobs.iter().flat_map(|(_, pieces)| pieces.iter().map(|b| &b[..]));
            encode(&live.record(here), stamp, bytes, out)
        }
    }
}

impl Request {
    fn bytes(&self) -> usize {
        match &self.change {
            Change::Pending(_, blobs) => blobs.iter().map(|(b, _)| b.len as usize).sum::<usize>() + 1024,
            _ => 256,
        }
    }
}

//! Reading a journal that another process wrote.
//!
//! 1. The log ends where only zeros follow: they were put there to be written over.
//! 2. What was being written when the power failed was promised to nobody and is cut off. Its sectors may have reached
//!    the disk in any order: a whole frame may stand behind one of which a part is still zeros.
//! 3. Damage anywhere else is told: how many bytes, which records are missing by their numbers, and what is known to
//!    be lost. What follows the damage is found again by the mark of the next frame. Frames say up to where the log was
//!    synced when they were written: what is missing before that was promised, whatever it looks like.

use std::collections::HashSet;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::blob::segment_name;
use super::record::{Frame, MARK_ANY, Stamp, decode};
use super::table::Table;
use crate::error::{Error, Kind, Result};

/// Disks write at least so many bytes wholly or not at all.
const SECTOR: usize = 512;

#[derive(Default)]
pub(super) struct Found {
    pub table: Table,
    /// The highest sequence number and segment number in use.
    pub seq: u64,
    pub segment: u64,
    /// Segments that go on behind their last frame.
    pub tails: Vec<Tail>,
    /// What is lost, a line each.
    pub damage: Vec<String>,
    /// Data files that no record names.
    pub strays: Vec<String>,
}

/// What is behind the last frame of a segment.
pub(super) struct Tail {
    pub number: u64,
    /// Where the last frame ends.
    pub from: u64,
    /// Bytes of a record that was never finished; otherwise they are zeros.
    pub torn: u64,
}

impl Found {
    /// Whether a mount has left something in it.
    pub fn has_anything(&self) -> bool {
        !self.table.is_empty() || !self.damage.is_empty()
    }

    /// Cuts the tails off, and makes what is before them safe from a power failure: it counts as synced from now on.
    pub fn cut(&self, dir: &Path) -> Result<()> {
        for tail in &self.tails {
            let path = dir.join(segment_name(tail.number));
            if tail.torn > 0 {
                let lost = tail.torn;
                tracing::info!("{}: {lost} bytes of a record that was never acknowledged are cut off", path.display());
            }
            let cut = File::options().write(true).open(&path).and_then(|f| f.set_len(tail.from));
            cut.map_err(|e| trouble("cut", &path, &e))?;
        }
        if self.table.segments.contains_key(&self.segment) {
            let path = dir.join(segment_name(self.segment));
            File::open(&path).and_then(|f| f.sync_all()).map_err(|e| trouble("sync", &path, &e))?;
        }
        Ok(())
    }
}

pub(super) fn trouble(what: &str, path: &Path, e: &std::io::Error) -> Error {
    Error::new(Kind::Io, format!("{what} {}: {e}", path.display()))
}

fn segments(dir: &Path) -> Result<(Vec<u64>, Vec<String>)> {
    let (mut numbers, mut data) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir).map_err(|e| trouble("read", dir, &e))? {
        let name = entry.map_err(|e| trouble("read", dir, &e))?.file_name().to_string_lossy().into_owned();
        if let Some(number) = name.strip_suffix(".log").and_then(|n| n.parse().ok()) {
            numbers.push(number);
        } else if name.ends_with(".data") {
            data.push(name);
        }
    }
    numbers.sort_unstable();
    Ok((numbers, data))
}

/// Without the zeros at its end.
fn trimmed(segment: &[u8]) -> usize {
    let zeros = [0; 4096];
    let mut end = segment.len();
    while let Some(rest) = end.checked_sub(zeros.len())
        && segment[rest..end] == zeros
    {
        end = rest;
    }
    segment[..end].iter().rposition(|b| *b != 0).map_or(0, |last| last + 1)
}

/// One segment as it is read.
struct Segment {
    bytes: Vec<u8>,
    /// Where the zeros at its end begin.
    end: usize,
    /// Of its first frame: see [`Stamp`].
    epoch: Option<u64>,
}

impl Segment {
    fn new(bytes: Vec<u8>) -> Segment {
        let epoch = decode(&bytes, 0).map(|f| f.stamp.epoch);
        Segment { end: trimmed(&bytes), bytes, epoch }
    }

    /// The frame that begins at `at`. One that is older than `last`, the one before it, is what a write that failed
    /// left; one of another process is in the content of a file.
    fn frame(&self, at: usize, last: Option<u64>) -> Option<Frame> {
        let frame = decode(&self.bytes, at)?;
        let Stamp { seq, epoch, .. } = frame.stamp;
        (last.is_none_or(|l| seq > l) && self.epoch.is_none_or(|e| e == epoch)).then_some(frame)
    }

    /// The next frame from `from` on, and where it begins.
    fn find(&self, from: usize, last: Option<u64>) -> Option<(usize, Frame)> {
        let mut begins = (from..self.end).filter(|i| self.bytes[*i..].starts_with(&MARK_ANY));
        begins.find_map(|i| Some((i, self.frame(i, last)?)))
    }

    /// Whether a part of these bytes never reached the disk: from some place on, a sector is still the zeros that it was.
    fn is_unwritten(&self, range: Range<usize>) -> bool {
        let mut at = range.start;
        while at < range.end {
            let end = (at / SECTOR + 1) * SECTOR;
            if end <= range.end && self.bytes[at..end].iter().all(|b| *b == 0) {
                return true;
            }
            at = end;
        }
        false
    }

    /// Whether what is missing between the record `last` and `next`, a later one of this segment, was promised to
    /// somebody.
    fn was_synced(&self, last: Option<u64>, next: &Frame) -> bool {
        let first = last.unwrap_or(next.stamp.seq.saturating_sub(2)) + 1;
        let (mut stamp, mut end) = (next.stamp, next.end);
        while stamp.synced < first {
            let Some((_, frame)) = self.find(end, Some(stamp.seq)) else { return false };
            (stamp, end) = (frame.stamp, frame.end);
        }
        true
    }
}

/// Changes nothing.
pub(super) fn scan(dir: &Arc<PathBuf>) -> Result<Found> {
    let mut found = Found::default();
    let (numbers, data) = segments(dir)?;
    found.segment = numbers.last().copied().unwrap_or(0);
    let mut last = None;
    for number in numbers {
        let path = dir.join(segment_name(number));
        let segment = Segment::new(fs::read(&path).map_err(|e| trouble("read", &path, &e))?);
        let mut at = 0;
        while at < segment.end {
            let Some(Frame { stamp, record, bytes, end }) = segment.frame(at, last) else {
                let Some((begin, next)) = segment.find(at + 1, last) else { break };
                let open = number == found.segment && segment.is_unwritten(at..begin);
                if open && !segment.was_synced(last, &next) {
                    break;
                }
                found.damage.push(format!("{}: {} bytes at {at} are damaged", path.display(), begin - at));
                at = begin;
                continue;
            };
            if let Some(last) = last
                && stamp.seq > last + 1
            {
                let first = last + 1;
                found.damage.push(format!("{}: records {first} to {} are missing", path.display(), stamp.seq - 1));
            }
            last = Some(stamp.seq);
            at = end;
            if let Err(lost) = found.table.apply(dir, record, stamp.seq, number, bytes.start) {
                found.damage.push(format!("lost: {lost}"));
            }
        }
        if at < segment.bytes.len() {
            let torn = segment.end.saturating_sub(at) as u64;
            found.tails.push(Tail { number, from: at as u64, torn });
        }
        found.table.segments.insert(number, at as u64);
    }
    found.seq = last.unwrap_or(0);
    found.table.settle_names();
    // Only now: files that earlier records name have gone with these records.
    let missing = |live: &super::Live| {
        let mut blobs = live.layers.iter().filter_map(|l| l.blob.as_ref());
        blobs.find_map(|b| b.is_there().err()).map(|e| (live.id, format!("lost: {}: {e}", live.key)))
    };
    let lost: Vec<(u64, String)> = found.table.live.values().filter_map(missing).collect();
    for (id, what) in lost {
        found.table.take(id);
        found.damage.push(what);
    }
    let named: HashSet<String> = found.table.live.values().flat_map(|l| l.files()).map(|(name, _)| name).collect();
    found.strays = data.into_iter().filter(|name| !named.contains(name)).collect();
    Ok(found)
}

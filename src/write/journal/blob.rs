//! Bytes that are safe on the disk, and which bytes of a file they are.
//!
//! Nothing here is held open: thousands of pending files would be as many descriptors. A file of the journal is
//! opened for each read, and a blob that was moved to another segment meanwhile is looked for again.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::super::overlay::{Origin, Piece, push};
use super::super::ranges::RangeSet;
use super::record::{BlobRecord, Crc, LayerRecord, PlaceRecord};
use crate::error::{Error, Kind, Result};

/// Bytes read at a time where a whole blob is gone through.
const CHUNK: u64 = 1 << 20;

/// Where a blob is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Not written yet.
    Nowhere,
    Segment {
        number: u64,
        offset: u64,
    },
    File(String),
}

/// Bytes of one layer of one file.
pub(in crate::write) struct Blob {
    dir: Arc<PathBuf>,
    place: Mutex<Place>,
    pub(super) len: u64,
    pub(super) crc: u32,
    /// Whether the checksum was compared since the journal was opened; what this process wrote is believed.
    checked: AtomicBool,
}

pub(super) fn segment_name(number: u64) -> String {
    format!("{number:010}.log")
}

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}+{}", self.place.lock(), self.len)
    }
}

impl Blob {
    pub(super) fn new(dir: &Arc<PathBuf>, place: Place, len: u64, crc: u32, checked: bool) -> Arc<Blob> {
        Arc::new(Blob { dir: dir.clone(), place: Mutex::new(place), len, crc, checked: AtomicBool::new(checked) })
    }

    pub(super) fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    pub(super) fn place(&self) -> Place {
        self.place.lock().clone()
    }

    pub(super) fn move_to(&self, place: Place) {
        *self.place.lock() = place;
    }

    fn open(&self) -> io::Result<(File, u64)> {
        loop {
            let place = self.place();
            let (name, offset) = match &place {
                Place::Nowhere => return Err(io::Error::other("bytes that are not written yet")),
                Place::Segment { number, offset } => (segment_name(*number), *offset),
                Place::File(name) => (name.clone(), 0),
            };
            match File::open(self.dir.join(name)) {
                Ok(file) => return Ok((file, offset)),
                // Moved to another segment between the look and here.
                Err(e) if e.kind() == io::ErrorKind::NotFound && self.place() != place => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Whether the file it is in is there and long enough; what is wrong otherwise. Blocks.
    pub(super) fn is_there(&self) -> std::result::Result<(), String> {
        let (name, from) = match self.place() {
            Place::Segment { number, offset } => (segment_name(number), offset),
            Place::File(name) => (name, 0),
            Place::Nowhere => return Err("bytes that were never written".into()),
        };
        let have = std::fs::metadata(self.dir.join(&name)).map_err(|e| format!("{name}: {e}"))?.len();
        if have < from.saturating_add(self.len) { Err(format!("{name} is too short")) } else { Ok(()) }
    }

    /// Blocks.
    pub(super) fn read_blocking(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let (file, start) = self.open()?;
        let mut out = vec![0; (range.end - range.start) as usize];
        file.read_exact_at(&mut out, start + range.start)?;
        Ok(out)
    }

    /// Errors: [`Kind::Conflict`] when the file was stored meanwhile and the bytes are gone: look again.
    pub(in crate::write) async fn read(self: &Arc<Self>, range: Range<u64>) -> Result<bytes::Bytes> {
        let blob = self.clone();
        let done = tokio::task::spawn_blocking(move || blob.read_blocking(range)).await;
        let done = done.unwrap_or_else(|_| Err(io::Error::other("the runtime is shutting down")));
        done.map(bytes::Bytes::from).map_err(|e| {
            let kind = if e.kind() == io::ErrorKind::NotFound { Kind::Conflict } else { Kind::Io };
            Error::new(kind, format!("read the journal: {e}")).with_fix("check the disk of `state_dir`")
        })
    }

    /// Compares the checksum, once; blocks.
    pub(super) fn check_blocking(&self) -> io::Result<()> {
        if self.checked.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (file, start) = self.open()?;
        let mut crc = Crc::new();
        let mut buffer = vec![0; CHUNK.min(self.len) as usize];
        let mut at = 0;
        while at < self.len {
            let n = (self.len - at).min(CHUNK) as usize;
            file.read_exact_at(&mut buffer[..n], start + at)?;
            crc.update(&buffer[..n]);
            at += n as u64;
        }
        if crc.value() != self.crc {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the bytes are damaged"));
        }
        self.checked.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Errors: [`Kind::Io`] when the bytes are not those that were written.
    pub(in crate::write) async fn check(self: &Arc<Self>) -> Result<()> {
        if self.checked.load(Ordering::Relaxed) {
            return Ok(());
        }
        let blob = self.clone();
        let done = tokio::task::spawn_blocking(move || blob.check_blocking()).await;
        let done = done.unwrap_or_else(|_| Err(io::Error::other("the runtime is shutting down")));
        done.map_err(|e| {
            let kind = if e.kind() == io::ErrorKind::InvalidData { Kind::Invalid } else { Kind::Io };
            Error::new(kind, format!("read the journal: {e}"))
                .with_fix("what is left can be looked at with `xosfs journal export`")
        })
    }

    pub(super) fn record(&self, here: Option<u64>) -> BlobRecord {
        let place = match (here, self.place()) {
            (Some(offset), _) => PlaceRecord::Here(offset),
            (None, Place::Segment { number, offset }) => PlaceRecord::Segment(number, offset),
            (None, Place::File(name)) => PlaceRecord::File(name),
            // Invariant: what is not written yet comes with its bytes.
            (None, Place::Nowhere) => PlaceRecord::File(String::new()),
        };
        BlobRecord { place, len: self.len, crc: self.crc }
    }
}

/// A frozen layer as the journal has it.
#[derive(Clone, Debug)]
pub(in crate::write) struct Saved {
    /// What is below is visible only under this offset.
    pub cut: u64,
    /// Size of the file up to and with this layer.
    pub size: u64,
    /// In order; the offset in the blob, or zeros.
    pub ranges: Vec<(Range<u64>, Option<u64>)>,
    pub set: RangeSet,
    pub blob: Option<Arc<Blob>>,
}

impl Saved {
    pub(in crate::write) fn new(
        cut: u64,
        size: u64,
        ranges: Vec<(Range<u64>, Option<u64>)>,
        blob: Option<Arc<Blob>>,
    ) -> Saved {
        let mut set = RangeSet::new();
        for (range, _) in &ranges {
            set.insert(range.clone());
        }
        Saved { cut, size, ranges, set, blob }
    }

    /// The pieces of a range that is wholly in this layer.
    pub(in crate::write) fn pieces(&self, range: Range<u64>, out: &mut Vec<Piece>) {
        let from = self.ranges.partition_point(|(r, _)| r.end <= range.start);
        for (have, offset) in &self.ranges[from..] {
            if have.start >= range.end {
                break;
            }
            let part = have.start.max(range.start)..have.end.min(range.end);
            let origin = match (offset, &self.blob) {
                (Some(offset), Some(blob)) => Origin::Saved(blob.clone(), offset + (part.start - have.start)),
                _ => Origin::Zero,
            };
            push(out, part, origin);
        }
    }

    pub(super) fn record(&self, here: Option<u64>) -> LayerRecord {
        LayerRecord {
            cut: self.cut,
            size: self.size,
            ranges: self.ranges.iter().map(|(r, at)| (r.start, r.end - r.start, *at)).collect(),
            blob: self.blob.as_ref().map(|b| b.record(here)),
        }
    }

    /// `segment`: where the record was found, and where its bytes begin. Errors: what is wrong with it.
    pub(super) fn of_record(
        dir: &Arc<PathBuf>,
        record: &LayerRecord,
        segment: u64,
        here: u64,
    ) -> std::result::Result<Saved, String> {
        let mut blob = None;
        if let Some(b) = &record.blob {
            let (place, checked) = match &b.place {
                // The checksum of the frame covers them.
                PlaceRecord::Here(at) => (Place::Segment { number: segment, offset: here + at }, true),
                PlaceRecord::Segment(number, offset) => (Place::Segment { number: *number, offset: *offset }, false),
                PlaceRecord::File(name) => (Place::File(checked_name(name)?.to_owned()), false),
            };
            blob = Some(Blob::new(dir, place, b.len, b.crc, checked));
        }
        let mut ranges: Vec<(Range<u64>, Option<u64>)> = Vec::with_capacity(record.ranges.len());
        for (start, len, at) in &record.ranges {
            let end = start.checked_add(*len).ok_or("a range beyond all bounds")?;
            let outside = at.is_some_and(|at| blob.as_ref().is_none_or(|b| at.saturating_add(*len) > b.len));
            if outside || ranges.last().is_some_and(|(r, _)| r.end > *start) {
                return Err("ranges that cannot be".into());
            }
            ranges.push((*start..end, *at));
        }
        Ok(Saved::new(record.cut, record.size, ranges, blob))
    }
}

/// A name in the journal's own directory and nowhere else.
fn checked_name(name: &str) -> std::result::Result<&str, String> {
    match Path::new(name).file_name() {
        Some(only) if only == name && name.ends_with(".data") => Ok(name),
        _ => Err(format!("a file name that cannot be: {name:?}")),
    }
}

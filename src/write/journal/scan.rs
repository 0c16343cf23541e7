//! Reading a journal that another process wrote.
//!
//! 1. The last frame of the last segment may be half written: nobody was told that it is safe, so it is cut off.
//! 2. Damage anywhere else is told: how many bytes, which records are missing by their numbers, and what is known to
//!    be lost. What follows the damage is found again by the mark of the next frame.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::blob::segment_name;
use super::record::{HEAD, MARK, decode};
use super::table::Table;
use crate::error::{Error, Kind, Result};

#[derive(Default)]
pub(super) struct Found {
    pub table: Table,
    /// The highest sequence number and segment number in use.
    pub seq: u64,
    pub segment: u64,
    /// Segments whose end is no frame, and where the last one ends.
    pub torn: Vec<(u64, u64)>,
    /// What is lost, a line each.
    pub damage: Vec<String>,
    /// Data files that no record names.
    pub strays: Vec<String>,
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

/// Where the next whole frame begins after the damage at `at`.
fn next_frame(segment: &[u8], at: usize) -> Option<usize> {
    let mark = MARK.to_le_bytes();
    (at + 1..segment.len().saturating_sub(HEAD))
        .find(|i| segment[*i..].starts_with(&mark) && decode(segment, *i).is_some())
}

/// Changes nothing.
pub(super) fn scan(dir: &Arc<PathBuf>) -> Result<Found> {
    let mut found = Found::default();
    let (numbers, data) = segments(dir)?;
    let mut last_seq = None;
    for number in numbers {
        found.segment = number;
        let path = dir.join(segment_name(number));
        let segment = fs::read(&path).map_err(|e| trouble("read", &path, &e))?;
        let mut at = 0;
        while at < segment.len() {
            let Some(frame) = decode(&segment, at) else {
                match next_frame(&segment, at) {
                    Some(next) => {
                        let bytes = next - at;
                        found.damage.push(format!("{}: {bytes} bytes at {at} are damaged", path.display()));
                        at = next;
                        continue;
                    }
                    None => {
                        found.torn.push((number, at as u64));
                        break;
                    }
                }
            };
            if let Some(last) = last_seq
                && frame.seq > last + 1
            {
                let first = last + 1;
                found.damage.push(format!("{}: records {first} to {} are missing", path.display(), frame.seq - 1));
            }
            last_seq = Some(frame.seq);
            at = frame.end;
            let applied = found.table.apply(dir, frame.record, frame.seq, number, frame.bytes.start);
            if let Err(lost) = applied {
                found.damage.push(format!("lost: {lost}"));
            }
        }
        found.table.segments.insert(number, at as u64);
    }
    found.seq = last_seq.unwrap_or(0);
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

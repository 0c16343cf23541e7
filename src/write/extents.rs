//! Ranges of a file whose bytes are in another object: what copy_file_range(2) makes, without a transfer.
//!
//! 1. The source is pinned by its version: when it is replaced before the commit, the commit fails instead of taking
//!    other bytes.
//! 2. A kernel splits one large copy into calls of 2 GiB, a program into calls of any size: neighbours that continue
//!    each other are one extent, so that the store gets few copies.
//! 3. Nobody holds the source: what is acknowledged must not depend on it. Whoever acknowledges a close before the
//!    store has the file (a journal) stores files with extents first, or writes [`ExtentRecord`]s and treats the file
//!    as not acknowledged until the record is committed. [`Extents::records`] and [`Extents::of_records`] are that form.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::key::Key;
use crate::read::Object;
use crate::s3::{ETag, ObjectId};

/// Bytes of an object from an offset on; how many is said by the range they stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    pub source: Object,
    /// Offset in the source, in bytes.
    pub at: u64,
}

impl Extent {
    /// The same place `by` bytes further on.
    fn skip(&self, by: u64) -> Extent {
        Extent { source: self.source.clone(), at: self.at + by }
    }

    /// Whether `next`, which stands `distance` bytes behind, continues this one.
    pub fn is_continued_by(&self, next: &Extent, distance: u64) -> bool {
        self.at + distance == next.at && self.source == next.source
    }
}

/// One extent as a journal keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtentRecord {
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    pub key: String,
    pub etag: String,
    pub version: Option<String>,
    /// Size of the whole source, in bytes.
    pub source_size: u64,
    /// Offset in the source, in bytes.
    pub source_offset: u64,
}

/// Extents by the range of the file they stand for. Invariant: ranges are not empty and do not overlap; neighbours that
/// continue each other are one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extents(BTreeMap<u64, (u64, Extent)>);

impl Extents {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = (Range<u64>, &Extent)> {
        self.0.iter().map(|(start, (end, extent))| (*start..*end, extent))
    }

    /// Puts `extent` in place of whatever `range` holds.
    pub fn insert(&mut self, range: Range<u64>, extent: Extent) {
        if range.is_empty() {
            return;
        }
        self.remove(range.clone());
        let (mut range, mut extent) = (range, extent);
        if let Some((&start, (end, before))) = self.0.range(..range.start).next_back()
            && *end == range.start
            && before.is_continued_by(&extent, range.start - start)
        {
            extent = before.clone();
            range.start = start;
        }
        if let Some((end, after)) = self.0.get(&range.end)
            && extent.is_continued_by(after, range.end - range.start)
        {
            let end = *end;
            self.0.remove(&range.end);
            range.end = end;
        }
        self.0.insert(range.start, (range.end, extent));
    }

    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&start, &(end, _))) = self.0.range(..range.end).next_back() {
            if end <= range.start {
                break;
            }
            // Just found under this key.
            let Some((_, extent)) = self.0.remove(&start) else { break };
            if end > range.end {
                self.0.insert(range.end, (end, extent.skip(range.end - start)));
            }
            if start < range.start {
                self.0.insert(start, (range.start, extent));
            }
        }
    }

    /// Cuts `range` into extents and what is none, in order and without holes.
    pub fn split(&self, range: Range<u64>) -> Vec<(Range<u64>, Option<Extent>)> {
        let mut out = Vec::new();
        if range.is_empty() {
            return out;
        }
        let mut at = range.start;
        let first = self.0.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        for (&start, (end, extent)) in self.0.range(first..range.end) {
            if *end <= at {
                continue;
            }
            if at < start {
                out.push((at..start, None));
                at = start;
            }
            let until = (*end).min(range.end);
            out.push((at..until, Some(extent.skip(at - start))));
            at = until;
        }
        if at < range.end {
            out.push((at..range.end, None));
        }
        out
    }

    /// `old` is now stored as `new`, with the same bytes.
    pub fn rebase(&mut self, old: &ObjectId, new: &Object) {
        for (_, extent) in self.0.values_mut() {
            if extent.source.id == *old {
                extent.source = new.clone();
            }
        }
    }

    /// For a journal.
    pub fn records(&self) -> Vec<ExtentRecord> {
        self.iter()
            .map(|(range, extent)| ExtentRecord {
                offset: range.start,
                len: range.end - range.start,
                key: extent.source.id.key.as_str().to_owned(),
                etag: extent.source.id.etag.as_str().to_owned(),
                version: extent.source.id.version.as_deref().map(str::to_owned),
                source_size: extent.source.size,
                source_offset: extent.at,
            })
            .collect()
    }

    /// What [`Extents::records`] wrote. Errors: a key that is none.
    pub fn of_records(records: &[ExtentRecord]) -> Result<Extents> {
        let mut out = Extents::default();
        for r in records {
            let id = ObjectId {
                key: Key::new(&r.key)?,
                etag: ETag::new(&r.etag),
                version: r.version.as_deref().map(Into::into),
            };
            let source = Object { id, size: r.source_size };
            out.insert(r.offset..r.offset.saturating_add(r.len), Extent { source, at: r.source_offset });
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn object(n: u64) -> Object {
        let id = ObjectId { key: Key::new(format!("k{n}")).unwrap(), etag: ETag::new("e"), version: None };
        Object { id, size: 1000 }
    }

    #[test]
    fn consecutive_copies_are_one_extent() {
        let mut e = Extents::default();
        for i in 0..4 {
            e.insert(100 + i * 10..110 + i * 10, Extent { source: object(1), at: 7 + i * 10 });
        }
        e.insert(90..100, Extent { source: object(1), at: 0 });
        assert_eq!(e.iter().map(|(r, _)| r).collect::<Vec<_>>(), vec![90..100, 100..140]);
        // Filled from the middle: both neighbours are joined.
        e.remove(110..120);
        e.insert(110..120, Extent { source: object(1), at: 17 });
        assert_eq!(e.iter().count(), 2);
    }

    proptest! {
        #[test]
        fn extents_behave_like_an_array_of_places(
            ops in proptest::collection::vec((0u64..4, 0u64..40, 0u64..12, 0u64..30), 1..40),
        ) {
            let mut set = Extents::default();
            let mut model = [None; 64];
            for (source, start, len, at) in ops {
                let r = start..start + len;
                // One in four removes.
                if source == 0 {
                    set.remove(r.clone());
                } else {
                    set.insert(r.clone(), Extent { source: object(source), at });
                }
                for i in r {
                    model[i as usize] = (source > 0).then_some((source, at + i - start));
                }
                let mut seen = Vec::new();
                for (r, extent) in set.split(0..64) {
                    prop_assert!(!r.is_empty() && r.start == seen.len() as u64);
                    for i in r.clone() {
                        let place = |e: &Extent| (e.source.id.key.as_str()[1..].parse().unwrap(), e.at + i - r.start);
                        seen.push(extent.as_ref().map(place));
                    }
                }
                prop_assert_eq!(&seen[..], &model[..]);
                prop_assert_eq!(set.split(5..5), vec![]);
                prop_assert_eq!(&Extents::of_records(&set.records()).unwrap(), &set);
            }
        }
    }
}

//! A set of byte ranges: sorted, disjoint, never touching each other.

use std::collections::BTreeMap;
use std::ops::Range;

/// Half-open ranges of bytes. Invariant: no range is empty, and between two of them is at least one byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet(BTreeMap<u64, u64>);

impl RangeSet {
    pub fn new() -> Self {
        RangeSet::default()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().map(|(s, e)| *s..*e)
    }

    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        // Everything that overlaps or touches is swallowed, from the right to the left.
        while let Some((&s, &e)) = self.0.range(..=end).next_back() {
            if e < start {
                break;
            }
            start = start.min(s);
            end = end.max(e);
            self.0.remove(&s);
        }
        self.0.insert(start, end);
    }

    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&s, &e)) = self.0.range(..range.end).next_back() {
            if e <= range.start {
                break;
            }
            self.0.remove(&s);
            if e > range.end {
                self.0.insert(range.end, e);
            }
            if s < range.start {
                self.0.insert(s, range.start);
            }
        }
    }

    /// Where the range that holds the byte `at` ends.
    pub fn end_of(&self, at: u64) -> Option<u64> {
        let (_, &e) = self.0.range(..=at).next_back()?;
        (e > at).then_some(e)
    }

    /// The first member at or after `at`.
    pub fn next_from(&self, at: u64) -> Option<u64> {
        if self.end_of(at).is_some() {
            return Some(at);
        }
        self.0.range(at..).next().map(|(s, _)| *s)
    }

    pub fn overlaps(&self, range: &Range<u64>) -> bool {
        self.next_from(range.start).is_some_and(|s| s < range.end)
    }

    /// Cuts `range` into members (`true`) and gaps (`false`), in order and without holes.
    pub fn split(&self, range: Range<u64>) -> Vec<(Range<u64>, bool)> {
        let mut out = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let (end, member) = match self.end_of(at) {
                Some(e) => (e.min(range.end), true),
                None => (self.next_from(at).unwrap_or(range.end).min(range.end), false),
            };
            out.push((at..end, member));
            at = end;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_like_a_set_of_bytes(ops in proptest::collection::vec((any::<bool>(), 0u64..40, 0u64..12), 1..40)) {
            let mut set = RangeSet::new();
            let mut model = [false; 64];
            for (add, start, len) in ops {
                let r = start..start + len;
                if add { set.insert(r.clone()) } else { set.remove(r.clone()) }
                model[r.start as usize..r.end as usize].fill(add);
                let mut last = None;
                for r in set.iter() {
                    prop_assert!(r.start < r.end && last.is_none_or(|l| l < r.start));
                    last = Some(r.end);
                }
                let mut seen = Vec::new();
                for (r, member) in set.split(0..64) {
                    seen.extend(r.map(|_| member));
                }
                prop_assert_eq!(&seen[..], &model[..]);
                for at in 0..64u64 {
                    prop_assert_eq!(set.next_from(at), (at..64).find(|i| model[*i as usize]));
                    prop_assert_eq!(set.end_of(at).is_some(), model[at as usize]);
                }
            }
        }
    }
}

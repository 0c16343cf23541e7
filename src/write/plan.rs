//! Which parts store a changed file: a pure function of sizes and ranges.
//!
//! 1. Bytes that the store has (untouched ones of the base, copied ones of other objects) are copied by it (`Copy`),
//!    the rest is sent (`Put`): 4 KiB changed in the middle of 10 GiB send one smallest part.
//! 2. A part that is not the last must not be smaller than `min_part`. A short dirty range therefore takes clean
//!    bytes from its right; clean stretches that would fall below the limit are sent with their neighbours.
//! 3. There are at most `max_parts`. The cheapest ways of getting below come first: larger copies, then larger
//!    parts, then sending ever longer clean stretches.
//! 4. One PUT is used up to `single_put`, unless copying saves half of that: a multipart upload costs at least three
//!    requests more, which take as long as sending some 8 MiB.

use std::ops::Range;

use crate::error::{Error, Kind, Result};

use super::Limits;

/// Larger copies are known to run into time-outs on some stores, so they are made only when `max_parts` forces them.
const COPY_PART: u64 = 1 << 30;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The whole object in one PUT.
    Put,
    /// A multipart upload; consecutive from 0 to the size.
    Parts(Vec<PlannedPart>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlannedPart {
    /// Bytes to send: the overlay over the base over zeros.
    Put(Range<u64>),
    /// Bytes to copy inside the store; they lie in one range of `clean`.
    Copy(Range<u64>),
}

impl PlannedPart {
    pub fn range(&self) -> &Range<u64> {
        let (PlannedPart::Put(r) | PlannedPart::Copy(r)) = self;
        r
    }
}

fn too_large(size: u64) -> Error {
    Error::new(Kind::TooLarge, format!("store {size} bytes as one object"))
}

/// `clean`: what the store can copy, sorted and disjoint, each range from one place of one object; what is beyond
/// `size`, the size of the result, is left out.
///
/// Errors: [`Kind::TooLarge`] when no plan within the limits exists.
pub fn plan(clean: &[Range<u64>], size: u64, limits: &Limits) -> Result<Plan> {
    if size > limits.max_object {
        return Err(too_large(size));
    }
    let single_put = limits.single_put.min(limits.max_part);
    let within = clean.iter().map(|r| r.start.min(size)..r.end.min(size)).filter(|r| limits.part_copy && !r.is_empty());
    let clean: Vec<_> = within.collect();
    let clean_bytes: u64 = clean.iter().map(|r| r.end - r.start).sum();
    if size == 0 || size <= single_put && clean_bytes < single_put / 2 {
        return Ok(Plan::Put);
    }
    let parts = if limits.equal_parts { equal(&clean, size, limits)? } else { free(&clean, size, limits)? };
    let copied: u64 = parts.iter().map(|p| if let PlannedPart::Copy(r) = p { r.end - r.start } else { 0 }).sum();
    if size <= single_put && copied < single_put / 2 {
        return Ok(Plan::Put);
    }
    Ok(Plan::Parts(parts))
}

/// What nobody touched of the first `base` bytes; `dirty` is sorted and disjoint.
pub fn untouched(base: u64, dirty: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut out = Vec::new();
    let mut at = 0;
    for d in dirty {
        let end = d.start.min(base);
        if at < end {
            out.push(at..end);
        }
        at = at.max(d.end);
    }
    if at < base {
        out.push(at..base);
    }
    out
}

/// The smallest part size with which `size` bytes fit into the number of parts.
pub(super) fn least_part(size: u64, limits: &Limits) -> Result<u64> {
    let part = limits.part_size.max(limits.min_part).max(size.div_ceil(u64::from(limits.max_parts.max(1))));
    let part = if size <= limits.max_part { part.min(limits.max_part) } else { part };
    if part > limits.max_part { Err(too_large(size)) } else { Ok(part) }
}

fn equal(clean: &[Range<u64>], size: u64, limits: &Limits) -> Result<Vec<PlannedPart>> {
    let part = least_part(size, limits)?;
    let mut parts = Vec::new();
    let mut clean = clean.iter().peekable();
    let mut at = 0;
    while at < size {
        let range = at..(at + part).min(size);
        while clean.next_if(|c| c.end <= range.start).is_some() {}
        let copy = clean.peek().is_some_and(|c| c.start <= range.start && c.end >= range.end);
        at = range.end;
        parts.push(if copy { PlannedPart::Copy(range) } else { PlannedPart::Put(range) });
    }
    Ok(parts)
}

fn free(clean: &[Range<u64>], size: u64, limits: &Limits) -> Result<Vec<PlannedPart>> {
    let least = least_part(size, limits)?;
    let mut min_copy = limits.min_part.max(1);
    loop {
        let segments = segments(clean, size, limits.min_part, min_copy);
        let larger = [least, least.saturating_mul(2), least.saturating_mul(4)];
        for (copy, put) in [(COPY_PART, larger[0]), (limits.max_part, larger[0])]
            .into_iter()
            .chain(larger[1..].iter().map(|p| (limits.max_part, *p)))
        {
            let put = put.min(limits.max_part);
            let copy = copy.clamp(least, limits.max_part);
            let mut parts = Vec::new();
            for s in &segments {
                match s {
                    PlannedPart::Put(r) => cut(r, put, size, limits, PlannedPart::Put, &mut parts),
                    PlannedPart::Copy(r) => cut(r, copy, size, limits, PlannedPart::Copy, &mut parts),
                }
            }
            if parts.len() <= limits.max_parts as usize {
                return Ok(parts);
            }
        }
        if min_copy >= size {
            // Even one run of sent bytes does not fit: the limits contradict each other.
            return Err(too_large(size));
        }
        min_copy = min_copy.saturating_mul(2);
    }
}

/// Alternating stretches to send and to copy; none but the last is shorter than `min_part`.
fn segments(clean: &[Range<u64>], size: u64, min_part: u64, min_copy: u64) -> Vec<PlannedPart> {
    let mut out = Vec::new();
    let mut at = 0;
    for c in clean {
        // A stretch to send that begins at `at` needs its own `min_part` bytes first.
        let start = if c.start <= at { at } else { c.start.max(at + min_part) };
        if start >= c.end || c.end - start < min_copy {
            continue;
        }
        if at < start {
            out.push(PlannedPart::Put(at..start));
        }
        out.push(PlannedPart::Copy(start..c.end));
        at = c.end;
    }
    if at < size {
        out.push(PlannedPart::Put(at..size));
    }
    out
}

/// Cuts `range` into parts of `part` bytes; a rest below `min_part` goes to its predecessor.
fn cut(
    range: &Range<u64>,
    part: u64,
    size: u64,
    limits: &Limits,
    make: fn(Range<u64>) -> PlannedPart,
    out: &mut Vec<PlannedPart>,
) {
    let mut at = range.start;
    while at < range.end {
        let left = range.end - at;
        let len = if left <= part {
            left
        } else if left - part >= limits.min_part {
            part
        } else if left <= limits.max_part {
            left
        } else if range.end == size {
            part
        } else {
            left.div_ceil(2)
        };
        out.push(make(at..at + len));
        at += len;
    }
}

#[cfg(test)]
// A plan takes a list of ranges, which may well be one.
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::super::ranges::RangeSet;
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn plan(base: Option<u64>, dirty: &[Range<u64>], size: u64, limits: &Limits) -> Result<Plan> {
        super::plan(&untouched(base.unwrap_or(0), dirty), size, limits)
    }

    fn sent(parts: &[PlannedPart]) -> u64 {
        parts.iter().map(|p| if let PlannedPart::Put(r) = p { r.end - r.start } else { 0 }).sum()
    }

    fn parts(p: Plan) -> Vec<PlannedPart> {
        match p {
            Plan::Parts(p) => p,
            Plan::Put => panic!("one PUT"),
        }
    }

    #[test]
    fn a_small_change_of_a_large_object_sends_one_part() {
        let limits = Limits::default();
        for at in [0, 4096, 3 * GIB + 17, 10 * GIB - 4096] {
            let p = parts(plan(Some(10 * GIB), std::slice::from_ref(&(at..at + 4096)), 10 * GIB, &limits).unwrap());
            assert!(sent(&p) <= 16 * MIB, "{} bytes sent", sent(&p));
            assert!(p.len() <= 14, "{} parts", p.len());
        }
        let end = 10 * GIB..10 * GIB + MIB;
        let p = parts(plan(Some(10 * GIB), &[end], 10 * GIB + MIB, &limits).unwrap());
        assert_eq!(sent(&p), MIB);
        assert_eq!(p.len(), 11);
        let equal = Limits { equal_parts: true, ..limits };
        let p = parts(plan(Some(10 * GIB), &[8 * MIB - 10..8 * MIB + 10], 10 * GIB, &equal).unwrap());
        assert!(sent(&p) <= 16 * MIB);
    }

    #[test]
    fn small_files_are_one_put() {
        let limits = Limits::default();
        assert_eq!(plan(None, &[], 0, &limits).unwrap(), Plan::Put);
        assert_eq!(plan(Some(100), &[0..1], 100, &limits).unwrap(), Plan::Put);
        assert_eq!(plan(None, std::slice::from_ref(&(0..16 * MIB)), 16 * MIB, &limits).unwrap(), Plan::Put);
        assert_eq!(plan(Some(6 * MIB), &[5 * MIB..6 * MIB], 6 * MIB, &limits).unwrap(), Plan::Put);
    }

    #[test]
    fn the_largest_object_fits_and_one_byte_more_does_not() {
        let limits = Limits::default();
        let max = limits.max_object;
        let p = parts(plan(None, std::slice::from_ref(&(0..max)), max, &limits).unwrap());
        assert!(p.len() <= 10_000);
        assert_eq!(plan(None, &[], max + 1, &limits).unwrap_err().kind(), Kind::TooLarge);
    }

    #[test]
    fn more_changes_than_parts_still_fit() {
        let limits = Limits::default();
        let dirty: Vec<_> = (0..20_000u64).map(|i| i * 16 * MIB..i * 16 * MIB + 1).collect();
        let size = 20_000 * 16 * MIB;
        assert!(parts(plan(Some(size), &dirty, size, &limits).unwrap()).len() <= 10_000);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
        #[test]
        fn every_byte_comes_from_the_right_place(
            base in proptest::option::of(0u64..400),
            ranges in proptest::collection::vec((0u64..400, 1u64..60), 0..8),
            size in 0u64..420,
            min_part in 1u64..12,
            part_extra in 0u64..12,
            max_extra in 0u64..60,
            max_parts in 1u32..40,
            single_put in 0u64..64,
            part_copy: bool,
            equal_parts: bool,
        ) {
            let limits = Limits {
                min_part,
                max_part: 2 * min_part + part_extra + max_extra,
                max_parts,
                part_size: min_part + part_extra,
                max_object: 400,
                single_put,
                part_copy,
                equal_parts,
            };
            let mut set = RangeSet::new();
            for (s, l) in ranges {
                set.insert(s.min(size)..(s + l).min(size));
            }
            let dirty: Vec<_> = set.iter().collect();
            let planned = match plan(base, &dirty, size, &limits) {
                Ok(Plan::Put) => {
                    prop_assert!(size <= single_put.min(limits.max_part) || size == 0);
                    return Ok(());
                }
                Ok(Plan::Parts(p)) => p,
                Err(e) => {
                    prop_assert_eq!(e.kind(), Kind::TooLarge);
                    prop_assert!(size > 400 || size > limits.max_part * u64::from(max_parts));
                    return Ok(());
                }
            };
            prop_assert!(planned.len() <= max_parts as usize);
            let mut at = 0;
            for (i, p) in planned.iter().enumerate() {
                let r = p.range();
                let (len, last) = (r.end - r.start, i + 1 == planned.len());
                prop_assert_eq!(r.start, at);
                at = r.end;
                prop_assert!(len >= 1 && len <= limits.max_part, "{:?}", planned);
                prop_assert!(last || len >= min_part, "{:?}", planned);
                if let PlannedPart::Copy(r) = p {
                    prop_assert!(part_copy && r.end <= base.unwrap_or(0) && !set.overlaps(r));
                }
                if equal_parts {
                    let first = planned[0].range();
                    let fits = if last { len <= first.end } else { len == first.end };
                    prop_assert!(fits, "{:?}", planned);
                }
            }
            prop_assert_eq!(at, size);
        }
    }

    /// Clean ranges as several sources make them: some touch each other, some have gaps between them.
    fn sources() -> impl Strategy<Value = (Vec<Range<u64>>, u64)> {
        (proptest::collection::vec((0u64..40, 1u64..90), 0..10), 0u64..60).prop_map(|(cuts, tail)| {
            let mut at = 0;
            let mut clean = Vec::new();
            for (gap, len) in cuts {
                // Half of them touch.
                let start = at + gap.saturating_sub(20);
                clean.push(start..start + len);
                at = start + len;
            }
            (clean, at + tail)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]
        /// As few bytes and requests as the limits allow, up to what a smallest part costs on each side of a change.
        #[test]
        fn plans_are_cheap(
            (clean, size) in sources(),
            min_part in 1u64..12,
            part_extra in 0u64..12,
            max_extra in 0u64..60,
            equal_parts: bool,
            part_copy: bool,
        ) {
            let limits = Limits {
                min_part,
                max_part: 2 * min_part + part_extra + max_extra,
                max_parts: 10_000,
                part_size: min_part + part_extra,
                max_object: u64::MAX,
                single_put: 0,
                part_copy,
                equal_parts,
            };
            let planned = match super::plan(&clean, size, &limits).unwrap() {
                Plan::Put => {
                    prop_assert_eq!(size, 0);
                    return Ok(());
                }
                Plan::Parts(p) => p,
            };
            let part = limits.part_size;
            let (sent, n) = (sent(&planned), planned.len() as u64);
            let copied = size - sent;
            for p in &planned {
                if let PlannedPart::Copy(r) = p {
                    // From one place of one object, never across two.
                    prop_assert!(part_copy && clean.iter().any(|c| c.start <= r.start && r.end <= c.end));
                }
            }
            let ranges = clean.len() as u64;
            let bytes: u64 = clean.iter().map(|c| c.end - c.start).sum();
            let changed = size - bytes;
            if !part_copy {
                prop_assert_eq!(sent, size);
                prop_assert!(n <= size.div_ceil(part));
            } else if equal_parts {
                // Only parts that hold an end of a range are sent without need.
                prop_assert!(sent <= changed + 2 * part * (ranges + 1), "{} bytes of {}", sent, changed);
                prop_assert_eq!(n, size.div_ceil(part));
            } else {
                prop_assert!(sent <= changed + 2 * min_part * ranges, "{} bytes of {}", sent, changed);
                let copy = limits.max_part.clamp(part, COPY_PART);
                prop_assert!(n <= 2 * ranges + 1 + sent / part + copied / copy, "{} parts", n);
                for c in &clean {
                    let len = c.end - c.start;
                    let used: u64 = planned
                        .iter()
                        .map(|p| match p {
                            PlannedPart::Copy(r) if c.start <= r.start && r.end <= c.end => r.end - r.start,
                            _ => 0,
                        })
                        .sum();
                    prop_assert!(len < 2 * min_part || used + min_part >= len, "{:?} is sent: {:?}", c, planned);
                }
            }
        }
    }
}

//! Very large directories, listed in several places at the same time.
//!
//! 1. When some pages have shown that a directory is large, the names that are still to come are cut where names like
//!    those seen so far may go on (`img-03` … `img-09` behind `img-02`), and each range is listed by itself.
//! 2. A range is what is greater than its start, up to and including the start of the next: no name is in two of them,
//!    none in between, wherever the cuts are. Pages are handed out in order.
//! 3. A cut costs up to one request more, as the page before it ends early, or for a range where there is nothing: there
//!    are never more than three and one for each eight pages.
//! 4. Pages that wait grow old, and old entries are asked for one by one. For a program that is slow to take them they
//!    are thrown away, and from then on one page is listed after the other.
//! 5. A store that does not begin where it is told to is listed from the start, one page after the other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::select_all;
use tokio::task::JoinHandle;

use super::Fs;
use crate::budget::Lease;
use crate::error::{Error, Kind, Result};
use crate::key::Prefix;
use crate::s3::{Continue, Page};

/// Requests under way at once.
const PARALLEL: usize = 12;
/// Pages that wait for those before them.
const WAITING: usize = 24;
/// Cuts to begin with, and pages that make up for one more.
const CUTS: usize = 3;
const PAGES_PER_CUT: usize = 8;
/// What a page takes, bytes.
const PAGE_BYTES: usize = 384 << 10;

/// Where names may go on behind `last`, in order: at most `most`, all greater than `last` and less than `until`. The
/// names seen so far are from `first` to `last`; `seen` are some of them.
fn cuts(first: &str, last: &str, seen: &[&str], until: Option<&str>, most: usize) -> Vec<String> {
    let common = |a: &str, b: &str| a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let shared = common(first, last);
    let letters: Vec<u8> =
        seen.iter().chain(&[first, last]).filter_map(|name| name.as_bytes().get(shared).copied()).collect();
    let alphabet = alphabet(&letters);
    let at = |p: usize| last.as_bytes().get(p).copied().filter(u8::is_ascii_alphanumeric);
    let level = |p: usize| -> Vec<String> {
        let Some(c) = at(p) else { return Vec::new() };
        let all = alphabet.iter().filter(|d| **d > c).map(|d| format!("{}{}", &last[..p], char::from(*d)));
        all.filter(|cut| until.is_none_or(|u| cut.as_str() < u)).collect()
    };
    let above = match until {
        Some(until) => common(last, until).max(shared.saturating_sub(1)),
        // `0` before more digits, `a` before more letters may be where the order begins, not what all names share.
        None if shared > 0 && at(shared - 1).is_some_and(|c| alphabet.contains(&c)) => shared - 1,
        None => shared,
    };
    // Most where names have been seen to differ, and one where they may.
    // Names that differ in every second one there would make ranges of a few names.
    let mut kinds: Vec<u8> = seen.iter().filter_map(|name| name.as_bytes().get(shared).copied()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let step = kinds.len().max(1);
    let near: Vec<String> = level(shared).into_iter().skip(step - 1).step_by(step).collect();
    let far = if above < shared { level(above) } else { Vec::new() };
    let of_far = usize::from(!far.is_empty() && (most > 1 || near.is_empty()));
    let mut all = spread(near, most - of_far.min(most));
    let of_far = if all.is_empty() { most } else { of_far };
    all.extend(spread(far, of_far));
    if all.is_empty() { spread(level(shared + 1), most) } else { all }
}

/// At most so many, evenly.
fn spread(cuts: Vec<String>, most: usize) -> Vec<String> {
    let most = most.min(cuts.len());
    let mut all: Vec<String> = (1..=most).map(|i| cuts[i * cuts.len() / (most + 1)].clone()).collect();
    all.dedup();
    all
}

/// Digits and letters of the kinds that occur, in order.
fn alphabet(seen: &[u8]) -> Vec<u8> {
    let mut all: Vec<u8> = Vec::new();
    if seen.iter().any(u8::is_ascii_digit) {
        all.extend(b'0'..=b'9');
    }
    for (is, hex, end) in
        [(u8::is_ascii_uppercase as fn(&u8) -> bool, b'A'..=b'F', b'Z'), (u8::is_ascii_lowercase, b'a'..=b'f', b'z')]
    {
        if let Some(greatest) = seen.iter().filter(|c| is(c)).max() {
            // Beside digits few letters are those of hexadecimal numbers.
            let hexadecimal = hex.contains(greatest) && all.contains(&b'0');
            all.extend(if hexadecimal { hex } else { *hex.start()..=end });
        }
    }
    all
}

fn keys(page: &Page) -> impl Iterator<Item = &str> {
    page.objects.iter().map(|o| o.key.as_str()).chain(page.prefixes.iter().map(String::as_str))
}

/// Drops what is greater than `until`; whether the page came to its end or beyond.
fn clip(page: &mut Page, until: &str) -> bool {
    let reached = keys(page).any(|k| k >= until);
    page.objects.retain(|o| o.key.as_str() <= until);
    page.prefixes.retain(|p| p.as_str() <= until);
    reached
}

type Asked = (Instant, JoinHandle<Result<Page>>, Option<Lease>);

struct Range {
    /// Every key in it is greater.
    after: String,
    /// And not greater than this.
    until: Option<String>,
    first: Option<String>,
    last: String,
    task: Option<Asked>,
    next: Option<Continue>,
    /// All of it has come.
    done: bool,
    waiting: VecDeque<(Instant, Page, Option<Lease>)>,
    /// Pages that had something.
    pages: usize,
}

impl Drop for Range {
    fn drop(&mut self) {
        if let Some((_, task, _)) = &self.task {
            task.abort();
        }
    }
}

pub(super) struct Ranges {
    prefix: Prefix,
    ranges: VecDeque<Range>,
    /// Pages that had something, and ranges made by cutting.
    pages: usize,
    cuts: usize,
    /// The program takes less than the store gives.
    slow: bool,
}

/// What comes next of a directory.
pub(super) enum Piece {
    /// A page, when it was asked for, and whether it is the last.
    Page(Instant, Page, bool),
    /// The store did not do what it was told: list it from the start, one page after the other.
    Unfit,
}

impl Ranges {
    /// A directory of which `pages` have come; `first` is its first key and `page` the last page, which is not the end.
    pub fn new(prefix: &Prefix, first: &str, page: &Page, next: &Continue, pages: usize) -> Option<Ranges> {
        let last = keys(page).max()?.to_owned();
        if first >= last.as_str() || keys(page).any(|k| k < first) {
            return None;
        }
        let front = Range {
            after: last.clone(),
            until: None,
            first: Some(first.to_owned()),
            last,
            task: None,
            next: Some(next.clone()),
            done: false,
            waiting: VecDeque::new(),
            pages: 1,
        };
        let mut all = Ranges { prefix: prefix.clone(), ranges: VecDeque::from([front]), pages, cuts: 0, slow: false };
        let seen: Vec<String> = keys(page).map(str::to_owned).collect();
        all.cut(0, &seen, CUTS);
        (all.ranges.len() > 1).then_some(all)
    }

    /// Cuts what is left of a range.
    fn cut(&mut self, index: usize, seen: &[String], most: usize) {
        let base = self.prefix.as_str().len();
        let cuts = {
            let range = &self.ranges[index];
            let first = range.first.as_deref().and_then(|f| f.get(base..));
            let (Some(first), Some(last)) = (first, range.last.get(base..)) else { return };
            let until = range.until.as_deref().and_then(|u| u.get(base..));
            let seen: Vec<&str> = seen.iter().filter_map(|k| k.get(base..)).collect();
            cuts(first, last, &seen, until, most)
        };
        for (i, cut) in cuts.into_iter().enumerate() {
            let after = format!("{}{cut}", self.prefix);
            let left = &mut self.ranges[index + i];
            let until = left.until.replace(after.clone());
            let right = Range {
                next: Some(Continue::After(after.clone())),
                last: after.clone(),
                after,
                until,
                first: None,
                task: None,
                done: false,
                waiting: VecDeque::new(),
                pages: 0,
            };
            self.ranges.insert(index + i + 1, right);
            self.cuts += 1;
        }
    }

    /// Sends what may be sent, the first ranges first.
    pub fn ask(&mut self, fs: &Arc<Fs>) {
        let mut flying = self.ranges.iter().filter(|r| r.task.is_some()).count();
        let mut waiting: usize = self.ranges.iter().map(|r| r.waiting.len()).sum();
        for (i, range) in self.ranges.iter_mut().enumerate() {
            if range.done || range.task.is_some() || flying >= PARALLEL || (self.slow && i > 0) {
                continue;
            }
            let needed = i == 0 && range.waiting.is_empty();
            let lease = if needed { None } else { fs.reads.cache().budget().try_lease(PAGE_BYTES) };
            if !needed && (lease.is_none() || waiting + flying >= WAITING) {
                continue;
            }
            if let Some(next) = range.next.take() {
                range.task = Some((Instant::now(), fs.ask_keys(self.prefix.clone(), next), lease));
                (flying, waiting) = (flying + 1, waiting + 1);
            }
        }
    }

    /// The page that follows. Cancel-safe.
    pub async fn next(&mut self, fs: &Arc<Fs>) -> Result<Piece> {
        loop {
            while self.ranges.len() > 1 && self.ranges[0].done && self.ranges[0].waiting.is_empty() {
                self.ranges.pop_front();
            }
            self.ask(fs);
            let front = &mut self.ranges[0];
            if let Some((asked, page, _)) = front.waiting.pop_front() {
                if asked.elapsed() > fs.settings.metadata_ttl / 4 {
                    self.slow_down();
                }
                let front = &self.ranges[0];
                let last = front.done && front.waiting.is_empty() && self.ranges.len() == 1;
                return Ok(Piece::Page(asked, page, last));
            }
            if front.done {
                // The last range had nothing, which its page would have said.
                return Ok(Piece::Page(Instant::now(), Page::default(), true));
            }
            let flying = self.ranges.iter_mut().enumerate();
            let tasks: Vec<_> = flying
                .filter_map(|(i, r)| r.task.as_mut().map(|(_, task, _)| Box::pin(async move { (i, task.await) })))
                .collect();
            if tasks.is_empty() {
                return Err(Error::new(Kind::Io, "list directory"));
            }
            let ((index, page), _, _) = select_all(tasks).await;
            let Some((asked, _, lease)) = self.ranges[index].task.take() else { continue };
            match page {
                Ok(Ok(page)) => {
                    if !self.land(index, asked, page, lease) {
                        return Ok(Piece::Unfit);
                    }
                }
                _ if index > 0 => self.join(),
                Ok(Err(e)) => return Err(e),
                Err(_) => return Err(Error::new(Kind::Io, "list directory")),
            }
        }
    }

    /// Nothing is listed in advance any more, and what was is thrown away.
    fn slow_down(&mut self) {
        if std::mem::replace(&mut self.slow, true) {
            return;
        }
        self.cuts = usize::MAX;
        for range in self.ranges.iter_mut().skip(1) {
            if let Some((_, task, _)) = range.task.take() {
                task.abort();
            }
            range.waiting.clear();
            range.last.clone_from(&range.after);
            range.next = Some(Continue::After(range.after.clone()));
            range.done = false;
        }
    }

    /// Back to one range: a request went wrong that nobody waited for.
    fn join(&mut self) {
        self.ranges.truncate(1);
        self.cuts = usize::MAX;
        let front = &mut self.ranges[0];
        if let Some(until) = front.until.take().filter(|_| front.done) {
            (front.next, front.done) = (Some(Continue::After(until)), false);
        }
    }

    /// False when the page has what it was told not to have.
    fn land(&mut self, index: usize, asked: Instant, mut page: Page, lease: Option<Lease>) -> bool {
        let range = &mut self.ranges[index];
        if keys(&page).any(|k| k <= range.after.as_str()) {
            return false;
        }
        range.next = page.next.take();
        let reached = range.until.as_deref().is_some_and(|until| clip(&mut page, until));
        range.done = reached || range.next.is_none();
        let Some(last) = keys(&page).max().map(str::to_owned) else { return true };
        if last <= range.last {
            return false;
        }
        range.first.get_or_insert_with(|| keys(&page).min().unwrap_or_default().to_owned());
        range.last = last;
        range.pages += 1;
        self.pages += 1;
        self.ranges[index].waiting.push_back((asked, page, lease));
        self.cut_more();
        true
    }

    /// Cuts the range that seems to have most left, while there are connections to use.
    fn cut_more(&mut self) {
        let open = |r: &Range| !r.done && r.pages > 0;
        let unfinished = self.ranges.iter().filter(|r| !r.done).count();
        let allowed = (CUTS + self.pages / PAGES_PER_CUT).saturating_sub(self.cuts);
        if unfinished >= PARALLEL || allowed == 0 {
            return;
        }
        let Some(index) = (0..self.ranges.len())
            .filter(|i| open(&self.ranges[*i]))
            .max_by_key(|i| (self.ranges[*i].until.is_none(), self.ranges[*i].pages))
        else {
            return;
        };
        let seen: Vec<String> =
            self.ranges[index].waiting.back().map(|(_, p, _)| keys(p).map(str::to_owned).collect()).unwrap_or_default();
        let most = (PARALLEL - unfinished).min(allowed).min(3);
        self.cut(index, &seen, most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::Listed;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn cuts_of(first: &str, last: &str, until: Option<&str>, most: usize) -> Vec<String> {
        cuts(first, last, &[], until, most)
    }

    #[test]
    fn names_are_cut_where_names_like_them_go_on() {
        assert_eq!(cuts_of("f0000", "f2999", None, 9), ["f3", "f4", "f5", "f6", "f7", "f8", "f9"]);
        assert_eq!(cuts_of("f0000", "f2999", None, 3), ["f4", "f6", "f8"]);
        // What may go on with `f1` or end with `f09` is tried in both ways.
        assert_eq!(cuts_of("f00000", "f02999", None, 3), ["f05", "f07", "f5"]);
        assert_eq!(cuts_of("f20000", "f20999", Some("f3"), 9).len(), 9);
        assert_eq!(cuts_of("f20000", "f20999", Some("f6"), 1), ["f25"]);
        assert_eq!(cuts_of("0900", "09ae", Some("2"), 2), ["09d", "0d"]);
        assert_eq!(cuts_of("aardvark", "ably", None, 3), ["ak", "as", "n"]);
        assert_eq!(cuts_of("é1", "é2", None, 2), ["é5", "é7"]);
        assert!(cuts_of("a", "a", None, 3).len() <= 3 && cuts_of("", "", None, 3).is_empty());
    }

    /// A page of a listing of these keys without a delimiter.
    fn page_of(keys: &BTreeSet<String>, from: &Continue, size: usize) -> Page {
        let (Continue::Token(after) | Continue::After(after)) = from;
        let mut rest = keys.range::<String, _>((std::ops::Bound::Excluded(after.clone()), std::ops::Bound::Unbounded));
        let object = |key: &String| Listed {
            key: key.clone(),
            size: 1,
            etag: None,
            last_modified: None,
            storage_class: None,
            version: None,
        };
        let objects: Vec<Listed> = rest.by_ref().take(size).map(object).collect();
        let next = rest.next().and_then(|_| objects.last()).map(|o| Continue::Token(o.key.clone()));
        Page { objects, prefixes: Vec::new(), next }
    }

    /// All keys, by ranges whose pages land in an order that `dice` decides, and how many pages that took.
    fn by_ranges(keys: &BTreeSet<String>, size: usize, mut dice: u64) -> Option<(Vec<String>, usize)> {
        let mut all = Vec::new();
        let mut page = page_of(keys, &Continue::After(String::new()), size);
        let first = page.objects.first()?.key.clone();
        for _ in 0..2 {
            all.extend(page.objects.iter().map(|o| o.key.clone()));
            page = page_of(keys, page.next.as_ref()?, size);
        }
        all.extend(page.objects.iter().map(|o| o.key.clone()));
        let mut ranges = Ranges::new(&Prefix::root(), &first, &page, page.next.as_ref()?, 3)?;
        let mut pages = 3;
        loop {
            let open: Vec<usize> = (0..ranges.ranges.len()).filter(|i| !ranges.ranges[*i].done).collect();
            if open.is_empty() {
                break;
            }
            dice = dice.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let index = open[(dice >> 33) as usize % open.len()];
            let from = ranges.ranges[index].next.take().unwrap();
            pages += 1;
            assert!(ranges.land(index, Instant::now(), page_of(keys, &from, size), None));
        }
        for range in &mut ranges.ranges {
            for (_, page, _) in std::mem::take(&mut range.waiting) {
                all.extend(page.objects.into_iter().map(|o| o.key));
            }
        }
        Some((all, pages))
    }

    proptest! {
        #[test]
        fn no_key_is_lost_or_there_twice(
            keys in proptest::collection::btree_set("[a-c0-9é]{1,4}|f[0-9]{3}|[0-9a-f]{3}", 0..400),
            size in 1_usize..40,
            dice in any::<u64>(),
        ) {
            if let Some((all, pages)) = by_ranges(&keys, size, dice) {
                prop_assert_eq!(all, keys.iter().cloned().collect::<Vec<_>>());
                prop_assert!(pages <= 2 * keys.len().div_ceil(size) + 4 + PARALLEL, "{} pages", pages);
            }
        }
    }

    #[test]
    fn what_waited_for_a_slow_program_is_listed_again() {
        let keys: BTreeSet<String> = (0..1000).map(|i| format!("f{i:03}")).collect();
        let page = page_of(&keys, &Continue::After("f199".into()), 100);
        let mut ranges = Ranges::new(&Prefix::root(), "f000", &page, page.next.as_ref().unwrap(), 3).unwrap();
        let mut shown: Vec<String> = keys.range(..="f299".to_owned()).cloned().collect();
        for index in 0..ranges.ranges.len() {
            let from = ranges.ranges[index].next.take().unwrap();
            assert!(ranges.land(index, Instant::now(), page_of(&keys, &from, 100), None));
        }
        ranges.slow_down();
        assert!(ranges.ranges.iter().skip(1).all(|r| r.waiting.is_empty() && !r.done));
        for index in 0..ranges.ranges.len() {
            while !ranges.ranges[index].done {
                let from = ranges.ranges[index].next.take().unwrap();
                assert!(ranges.land(index, Instant::now(), page_of(&keys, &from, 100), None));
            }
            let pages = std::mem::take(&mut ranges.ranges[index].waiting);
            shown.extend(pages.into_iter().flat_map(|(_, p, _)| p.objects.into_iter().map(|o| o.key)));
        }
        assert_eq!(shown, keys.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_store_that_begins_where_it_likes_is_found_out() {
        let keys: BTreeSet<String> = (0..1000).map(|i| format!("f{i:03}")).collect();
        let page = page_of(&keys, &Continue::After("f199".into()), 100);
        let mut ranges = Ranges::new(&Prefix::root(), "f000", &page, page.next.as_ref().unwrap(), 3).unwrap();
        assert!(ranges.ranges.len() > 2);
        assert!(!ranges.land(1, Instant::now(), page_of(&keys, &Continue::After(String::new()), 100), None));
        assert!(Ranges::new(&Prefix::root(), "f999", &page, page.next.as_ref().unwrap(), 3).is_none(), "not in order");
    }
}

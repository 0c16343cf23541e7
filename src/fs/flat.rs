//! Takes a flat listing (no delimiter) apart into what listings of its directories would have said.
//!
//! Keys come in order. A directory is open from its first key on and complete with the first key that is not in it.

use std::time::Instant;

use crate::s3::{Listed, Page};

/// A directory of which every key has been seen.
#[derive(Debug)]
pub(super) struct Complete {
    /// Ends in `/`.
    pub prefix: String,
    /// When the first of the pages it was in was asked for.
    pub asked: Instant,
    /// As a listing with the delimiter `/` in one page.
    pub page: Page,
}

#[derive(Debug)]
struct Open {
    prefix: String,
    asked: Instant,
    page: Page,
}

/// What is open at one place of a flat listing.
#[derive(Debug)]
pub(super) struct Flat {
    /// Length of the prefix of the directory whose own entries are of no interest: it was listed before.
    root: usize,
    open: Vec<Open>,
}

impl Flat {
    /// `root` is what all keys begin with.
    pub fn new(root: &str) -> Flat {
        Flat { root: root.len(), open: Vec::new() }
    }

    /// The next key, from a page asked for at `asked`; what it completes is added to `done`.
    pub fn push(&mut self, listed: Listed, asked: Instant, done: &mut Vec<Complete>) {
        while self.open.last().is_some_and(|o| !listed.key.starts_with(&o.prefix)) {
            done.extend(self.close());
        }
        let mut at = self.open.last().map_or(self.root, |o| o.prefix.len());
        while let Some(slash) = listed.key.get(at..).and_then(|rest| rest.find('/')) {
            at += slash + 1;
            let prefix = listed.key[..at].to_owned();
            if let Some(parent) = self.open.last_mut() {
                parent.page.prefixes.push(prefix.clone());
            }
            self.open.push(Open { prefix, asked, page: Page::default() });
        }
        if let Some(dir) = self.open.last_mut() {
            dir.page.objects.push(listed);
        }
    }

    /// There are no more keys.
    pub fn finish(&mut self, done: &mut Vec<Complete>) {
        while let Some(complete) = self.close() {
            done.push(complete);
        }
    }

    fn close(&mut self) -> Option<Complete> {
        let Open { prefix, asked, page } = self.open.pop()?;
        Some(Complete { prefix, asked, page })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn listed(key: &str) -> Listed {
        Listed { key: key.into(), size: 1, etag: None, last_modified: None, storage_class: None, version: None }
    }

    type Entries = (Vec<String>, Vec<String>);

    /// What a store says of `prefix` with a delimiter.
    fn delimited(keys: &BTreeSet<String>, prefix: &str) -> Entries {
        let (mut objects, mut prefixes) = (Vec::new(), BTreeSet::new());
        for key in keys.iter().filter(|k| k.starts_with(prefix)) {
            match key[prefix.len()..].find('/') {
                Some(at) => _ = prefixes.insert(key[..prefix.len() + at + 1].to_owned()),
                None => objects.push(key.clone()),
            }
        }
        (objects, prefixes.into_iter().collect())
    }

    fn taken_apart(keys: &BTreeSet<String>, root: &str) -> BTreeMap<String, Entries> {
        let (mut flat, mut done) = (Flat::new(root), Vec::new());
        let asked = Instant::now();
        for key in keys.iter().filter(|k| k.starts_with(root)) {
            flat.push(listed(key), asked, &mut done);
        }
        flat.finish(&mut done);
        assert!(flat.open.is_empty());
        let count = done.len();
        let all: BTreeMap<_, _> = done
            .into_iter()
            .map(|c| (c.prefix, (c.page.objects.into_iter().map(|o| o.key).collect(), c.page.prefixes)))
            .collect();
        assert_eq!(all.len(), count, "a directory came twice");
        all
    }

    #[test]
    fn a_directory_is_as_old_as_its_first_page() {
        let (mut flat, mut done) = (Flat::new(""), Vec::new());
        let first = Instant::now();
        flat.push(listed("a/1"), first, &mut done);
        let second = first + std::time::Duration::from_secs(1);
        flat.push(listed("a/2"), second, &mut done);
        flat.push(listed("a/b/"), second, &mut done);
        assert!(done.is_empty());
        assert_eq!(flat.open.iter().map(|o| o.prefix.as_str()).collect::<Vec<_>>(), ["a/", "a/b/"]);
        flat.push(listed("b"), second, &mut done);
        let seen: Vec<_> = done.iter().map(|c| (c.prefix.as_str(), c.asked)).collect();
        assert_eq!(seen, [("a/b/", second), ("a/", first)]);
    }

    proptest! {
        #[test]
        fn flat_is_delimited(keys in proptest::collection::btree_set("[ab/.-]{1,8}", 0..40), root in "([ab]/){0,2}") {
            let apart = taken_apart(&keys, &root);
            let dirs: BTreeSet<String> = keys
                .iter()
                .filter(|k| k.starts_with(&root))
                .flat_map(|k| k.match_indices('/').map(|(at, _)| k[..=at].to_owned()).collect::<Vec<_>>())
                .filter(|p| p.len() > root.len())
                .collect();
            prop_assert_eq!(apart.keys().cloned().collect::<BTreeSet<_>>(), dirs);
            for (prefix, entries) in apart {
                prop_assert_eq!(entries, delimited(&keys, &prefix), "{}", prefix);
            }
        }
    }
}

//! `.versions`: what was stored in a directory, a directory for each file (`versions=dir`).
//!
//! 1. It is in no listing of its directory, so that nothing that walks a tree walks through its history.
//! 2. Which versions a file has is a listing, and nothing but listings is asked for: the names of versions are their
//!    times and ids.
//! 3. A directory whose files are all deleted is no directory any more. Its history is below the `.versions` of one that
//!    is: `.versions/DIR` is what `DIR/.versions` would be.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;

use super::attr::{Attr, Facts, FileKind};
use super::inode::{Ino, Inode, Role, State};
use super::known::Item;
use super::listing::{From, Shown};
use super::page::parse_page;
use super::past::{Sieve, Spot, listed, right};
use super::{DirHandle, Fs, Lookup};
use crate::error::{Kind, Result};
use crate::key::{Key, Name, Prefix};
use crate::s3::{Listed, ObjectVersion, Page, VersionQuery};

const NAME: &str = ".versions";

/// What a directory of versions shows.
#[derive(Clone)]
pub(super) enum Versions {
    /// The files and directories that have versions below a prefix.
    Below(Prefix),
    /// The versions of one file.
    Of(Key),
}

/// `2026-11-21T10.20.30.000Z ID`: sorts by time, and needs no quotes for the `:` that some programs take for a host.
fn name_of(version: &ObjectVersion) -> Option<Name> {
    let time = version.stored.or(version.last_modified).and_then(|t| Timestamp::try_from(t).ok()).unwrap_or_default();
    Name::of_component(&format!("{} {}", time.strftime("%Y-%m-%dT%H.%M.%S%.3fZ"), version.version))
}

impl Fs {
    pub(super) fn is_versions_dir(&self, name: &Name) -> bool {
        self.settings.versions_dir && name.as_str() == NAME
    }

    /// The `.versions` of a directory. No request.
    pub(super) fn versions_dir(&self, dir: Ino, name: &Name) -> Result<Arc<Inode>> {
        self.history_dir(Role::Versions, dir, name, Instant::now())
    }

    fn history_dir(&self, role: Role, parent: Ino, name: &Name, asked: Instant) -> Result<Arc<Inode>> {
        let mut attr = Attr::of_dir(self.mounted, &self.settings.defaults);
        attr.perm &= !0o222;
        let hash =
            self.inodes.path(parent).and_then(|p| p.dir(name)).map_or_else(|_| name.to_string(), |p| p.to_string());
        let fresh = || State::new(attr, Facts::default(), true);
        let inode = self.inodes.remember_as(role, parent, name, &hash, Some(FileKind::Dir), fresh)?;
        let mut state = inode.state.lock();
        state.marker_told = true;
        state.confirmed = state.confirmed.max(Some(asked));
        drop(state);
        Ok(inode)
    }

    /// The inode of an entry of a directory of versions.
    pub(super) fn absorb_version(&self, dir: &Inode, item: &Item, asked: Instant) -> Result<Arc<Inode>> {
        let Some(version) = item.version.as_ref().filter(|_| dir.role == Role::VersionsOf) else {
            let role = if item.of_file { Role::VersionsOf } else { Role::VersionsBelow };
            return self.history_dir(role, dir.ino, &item.name, asked);
        };
        let role = Role::version(&self.inodes.history_key(dir.ino)?, version);
        let listed = Listed {
            key: String::new(),
            size: item.size,
            etag: item.etag.clone(),
            last_modified: item.last_modified,
            storage_class: item.storage_class.as_deref().map(str::to_owned),
            version: item.version.clone(),
        };
        let path = self.inodes.path(dir.ino).and_then(|p| p.file(&item.name));
        let hash = path.map_or_else(|_| item.name.to_string(), |key| key.to_string());
        let defaults = &self.settings.defaults;
        let fresh = || State::new(Attr::of_listed(&listed, defaults), Facts::of_listed(&listed), true);
        let inode = self.inodes.remember_as(role, dir.ino, &item.name, &hash, None, fresh)?;
        let mut state = inode.state.lock();
        state.confirmed = state.confirmed.max(Some(asked));
        drop(state);
        Ok(inode)
    }

    /// A name in a directory of versions. Requests: two for a file or directory, a listing for a version, none when it
    /// has been listed.
    pub(super) async fn lookup_version(self: &Arc<Self>, dir: Ino, name: &Name) -> Result<Lookup> {
        let absent = Ok(Lookup::Absent(self.settings.negative_ttl));
        if self.inodes.get(dir)?.role == Role::VersionsOf {
            let handle = DirHandle::new(dir);
            let mut offset = 0;
            loop {
                let batch = self.readdir(&handle, offset).await?;
                if let Some(item) = batch.items.iter().find(|i| i.name == *name) {
                    let inode = self.absorb_item(dir, item, batch.asked)?;
                    return Ok(Lookup::Found(self.entry(&inode)));
                }
                if batch.items.is_empty() {
                    return absent;
                }
                offset += batch.items.len() as u64;
            }
        }
        let asked = Instant::now();
        let prefix = self.inodes.history_prefix(dir)?;
        let file = async {
            match prefix.file(name) {
                Ok(key) => Ok(self.first_version(key.as_str()).await?.is_some_and(|v| v.key == key.as_str())),
                Err(e) if e.kind() == Kind::NotFound => Ok(false),
                Err(e) => Err(e),
            }
        };
        let below = async {
            match prefix.dir(name) {
                Ok(below) if !name.is_shadowed_file() => Ok(self.first_version(below.as_str()).await?.is_some()),
                Ok(_) => Ok(false),
                Err(e) if e.kind() == Kind::NotFound => Ok(false),
                Err(e) => Err(e),
            }
        };
        let role = match tokio::join!(file, below) {
            (_, Ok(true)) => Role::VersionsBelow,
            (file, below) => match (file?, below?) {
                (true, _) => Role::VersionsOf,
                _ => return absent,
            },
        };
        let inode = self.history_dir(role, dir, name, asked)?;
        Ok(Lookup::Found(self.entry(&inode)))
    }

    async fn first_version(&self, prefix: &str) -> Result<Option<ObjectVersion>> {
        let query = VersionQuery { prefix, max_keys: Some(1), ..VersionQuery::default() };
        Ok(self.s3.list_versions(&query).await.map_err(right)?.versions.into_iter().next())
    }

    /// One page of a directory of versions: one request.
    pub(super) async fn versions_page(&self, of: &Versions, from: Option<From>) -> Result<Shown> {
        let (from, mut sieve) = match from {
            Some(From::Past(Spot { from, sieve })) => (Some(from), sieve),
            _ => (None, Sieve::default()),
        };
        let (prefix, delimited) = match of {
            Versions::Below(prefix) => (prefix.as_str(), true),
            Versions::Of(key) => (key.as_str(), false),
        };
        let query = VersionQuery { prefix, delimited, from, max_keys: None };
        let page = self.s3.list_versions(&query).await.map_err(right)?;
        let mut shown = Shown { page: Page::default(), versions: Vec::new(), next: None };
        let mut next = page.next;
        match of {
            Versions::Below(_) => {
                // The newest of each key stands for all of them, also when it is the mark of a deletion.
                for version in page.versions {
                    if sieve.decided.as_ref() != Some(&version.key) {
                        sieve.decided = Some(version.key.clone());
                        shown.page.objects.push(listed(version));
                    }
                }
                shown.page.prefixes = page.prefixes;
            }
            Versions::Of(key) => {
                let beyond = page.versions.iter().any(|v| v.key != key.as_str());
                next = next.filter(|next| !beyond && next.key == key.as_str());
                for version in page.versions.into_iter().filter(|v| v.key == key.as_str() && !v.deleted) {
                    if let Some(name) = name_of(&version) {
                        shown.versions.push(Arc::new(Item::file(name, &listed(version))));
                    }
                }
            }
        }
        shown.next = next.map(|from| From::Past(Spot { from, sieve }));
        Ok(shown)
    }

    /// Turns a page into entries.
    pub(super) fn add_versions(
        &self,
        of: &Versions,
        versions: Vec<Arc<Item>>,
        page: &Page,
        (held, last): (Vec<Arc<Item>>, bool),
        (items, still_held): (&mut Vec<Arc<Item>>, &mut Vec<Arc<Item>>),
    ) {
        let Versions::Below(prefix) = of else {
            items.extend(versions);
            return;
        };
        let parsed = parse_page(prefix, page, held, last, self.settings.hide_odd_keys);
        *still_held = parsed.held;
        items.extend(parsed.items.into_iter().map(|item| match item.kind {
            FileKind::Dir => item,
            _ => Arc::new(Item { kind: FileKind::Dir, of_file: true, ..(*item).clone() }),
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_versions_sort_by_time() {
        let version = |millis: i64, id: &str| ObjectVersion {
            key: "k".into(),
            version: id.into(),
            latest: false,
            deleted: false,
            size: 0,
            etag: None,
            last_modified: None,
            stored: Some(Timestamp::from_millisecond(millis).unwrap().into()),
            storage_class: None,
            owner: None,
        };
        let name = |millis, id| name_of(&version(millis, id)).unwrap().to_string();
        assert_eq!(name(1_763_720_430_007, "v.1_a-b"), "2025-11-21T10.20.30.007Z v.1_a-b");
        assert!(name(1_763_720_430_000, "z") < name(1_763_720_430_001, "a"));
    }
}

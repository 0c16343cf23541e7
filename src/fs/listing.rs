//! Reading a directory: pages of a listing become entries in a stable order.
//!
//! 1. A cookie is a position in the handle's own list of entries, which only grows: any earlier cookie stays valid
//!    for the life of the handle (telldir, seekdir), and concurrent changes neither repeat nor lose an entry.
//! 2. Files and common prefixes of one page come apart and are merged. A file `a` and a directory `a/` can be pages
//!    apart (`a`, `a-1`, …, `a/`): a file is held back until the listing has passed `a/`, because the directory wins
//!    and the file is then shown as `a@@file`.
//! 3. The next page is asked for while the current one is being read.
//! 4. What exists only on this mount (files not committed yet, emptied directories) is added at the end.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use tokio::task::JoinHandle;

use super::Fs;
use super::attr::FileKind;
use super::copy::may_be_link;
use super::inode::{Ino, Role};
use super::known::Item;
use super::ranges::{Piece, Ranges};
use crate::error::{Error, Kind, Result};
use crate::key::{Key, Name, Prefix};
use crate::s3::{Continue, ListQuery, Page};

use super::past::Spot;
use super::versions_dir::Versions;

/// Suffix of directory markers that old Hadoop tools write.
pub const FOLDER_SUFFIX: &str = "_$folder$";

/// How many entries that may be links are asked for at a time.
const LINKS_PARALLEL: usize = 16;
/// Pages and entries after which a directory is large.
const LARGE: usize = 3;
const LARGE_ENTRIES: usize = 100;
/// How many entries one call hands out at most: more than a reply of the kernel's usual size can take.
const BATCH: usize = 1024;

pub struct DirHandle {
    pub ino: Ino,
    stream: tokio::sync::Mutex<Stream>,
}

enum Next {
    Start,
    /// Asked for at this time.
    Page(Instant, JoinHandle<Result<Shown>>),
    /// The directory is large.
    Ranges(Box<Ranges>),
    Done,
}

/// What a directory is made of.
#[derive(Clone)]
pub(super) enum Source {
    /// The keys below a prefix.
    Keys(Prefix),
    /// What was stored.
    Versions(Versions),
}

/// Where a listing goes on.
pub(super) enum From {
    Now(Continue),
    Past(Spot),
}

/// One page of a directory as the mount shows it.
pub(super) struct Shown {
    pub page: Page,
    /// The versions of a file, which are entries as they are.
    pub versions: Vec<Arc<Item>>,
    /// `None`: this was the last page.
    pub next: Option<From>,
}

struct Stream {
    next: Next,
    /// When the first page was asked for.
    asked: Instant,
    items: Vec<Arc<Item>>,
    /// From which item on which time of asking counts: in a long listing the first page is old news before the last
    /// one is asked for.
    asked_at: Vec<(usize, Instant)>,
    /// When the last page was asked for.
    page_asked: Instant,
    /// Files that a directory on a later page may still hide.
    held: Vec<Arc<Item>>,
    /// What had been unlinked when one of the pages was asked for.
    buried: HashSet<Key>,
    /// Whether a name was left out or changed, so that the list is not what the bucket holds.
    partial: bool,
    /// The first key, and how many pages have come.
    first_key: String,
    pages: usize,
    /// The store does not begin where it is told to.
    one_by_one: bool,
}

/// Entries from one position of a directory on.
pub struct Batch {
    /// Cookie of the first entry is `offset`, and so on.
    pub offset: u64,
    pub items: Vec<Arc<Item>>,
    /// When the listing behind them was asked for.
    pub asked: Instant,
}

impl DirHandle {
    pub fn new(ino: Ino) -> Arc<DirHandle> {
        Arc::new(DirHandle { ino, stream: tokio::sync::Mutex::new(Stream::new()) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Next::Page(_, task) = &self.next {
            task.abort();
        }
    }
}

impl Stream {
    fn new() -> Stream {
        Stream {
            next: Next::Start,
            asked: Instant::now(),
            items: Vec::new(),
            asked_at: Vec::new(),
            page_asked: Instant::now(),
            held: Vec::new(),
            buried: HashSet::new(),
            partial: false,
            first_key: String::new(),
            pages: 0,
            one_by_one: false,
        }
    }

    /// From the start. A cookie then finds its place again, because the order is that of the keys.
    fn again(&mut self, one_by_one: bool) {
        *self = Stream::new();
        self.one_by_one = one_by_one;
    }

    /// When the listing behind item `index` was asked for, and the end of the items of which the same is true.
    fn segment(&self, index: usize) -> (Instant, usize) {
        let next = self.asked_at.partition_point(|(start, _)| *start <= index);
        let asked = next.checked_sub(1).map_or(self.asked, |i| self.asked_at[i].1);
        (asked, self.asked_at.get(next).map_or(self.items.len(), |(start, _)| *start))
    }
}

/// What one page of a listing of `prefix` says, directories first where both exist.
pub struct Parsed {
    pub items: Vec<Arc<Item>>,
    /// Files whose directory twin could still follow.
    pub held: Vec<Arc<Item>>,
    /// Keys without a name that can be shown.
    pub hidden: usize,
    pub folder_suffix: bool,
}

/// `held`: what the page before kept back. `last`: no page follows.
pub fn parse_page(prefix: &Prefix, page: &Page, held: Vec<Arc<Item>>, last: bool, hide_odd: bool) -> Parsed {
    let base = prefix.as_str();
    let mut hidden = 0;
    let mut folder_suffix = false;
    let mut dirs: Vec<Arc<Item>> = Vec::with_capacity(page.prefixes.len());
    let mut dir_names: HashSet<&str> = HashSet::with_capacity(page.prefixes.len());
    let show = |name: Option<Name>| name.filter(|n| !hide_odd || !n.is_escaped());
    for p in &page.prefixes {
        let component = p.strip_prefix(base).and_then(|c| c.strip_suffix('/')).unwrap_or("");
        match show(Name::of_component(component)) {
            Some(name) => {
                dir_names.insert(component);
                dirs.push(Arc::new(Item::dir(name)));
            }
            None => hidden += 1,
        }
    }
    let mut files: Vec<(&str, Arc<Item>)> = Vec::with_capacity(page.objects.len());
    for o in &page.objects {
        let Some(component) = o.key.strip_prefix(base) else { continue };
        if component.is_empty() {
            // The directory's own marker; only one that holds data is worth a name.
            if o.size > 0
                && let Some(name) = show(Some(Name::of_marker()))
            {
                dirs.push(Arc::new(Item::file(name, o)));
            }
            continue;
        }
        if let Some(dir) = component.strip_suffix(FOLDER_SUFFIX).filter(|d| !d.is_empty() && o.size == 0) {
            folder_suffix = true;
            match (show(Name::of_component(dir)), Key::new(&o.key)) {
                (Some(name), Ok(key)) if !dir_names.contains(dir) => {
                    let mut item = Item::dir(name);
                    item.last_modified = o.last_modified;
                    item.odd_marker = Some(key);
                    dirs.push(Arc::new(item));
                }
                (None, _) => hidden += 1,
                _ => {}
            }
            continue;
        }
        // A key that cannot be sent cannot be read either.
        match show(Name::of_component(component)).filter(|_| Key::new(&o.key).is_ok()) {
            Some(name) => files.push((component, Arc::new(Item::file(name, o)))),
            None => hidden += 1,
        }
    }
    let end = page
        .objects
        .last()
        .map(|o| o.key.as_str())
        .into_iter()
        .chain(page.prefixes.last().map(String::as_str))
        .max()
        .unwrap_or("");
    let mut items = Vec::with_capacity(dirs.len() + files.len() + held.len());
    let mut still_held = Vec::new();
    let shadow = |item: &Arc<Item>, component: &str| -> Option<Arc<Item>> {
        let name = show(Name::of_shadowed(component))?;
        Some(Arc::new(Item { name, ..(**item).clone() }))
    };
    let all_dirs: HashSet<Name> = dirs.iter().filter(|d| d.kind == FileKind::Dir).map(|d| d.name.clone()).collect();
    let held: Vec<(String, Arc<Item>)> = held.into_iter().map(|i| (component_of(prefix, &i.name), i)).collect();
    let all = held.iter().map(|(c, i)| (c.as_str(), i)).chain(files.iter().map(|(c, i)| (*c, i)));
    for (component, item) in all {
        if all_dirs.contains(&item.name) {
            match shadow(item, component) {
                Some(shadowed) => items.push(shadowed),
                None => hidden += 1,
            }
        } else if last || format!("{base}{component}/").as_str() <= end {
            items.push(item.clone());
        } else {
            still_held.push(item.clone());
        }
    }
    items.extend(dirs);
    items.sort_by(|a, b| a.name.cmp(&b.name));
    Parsed { items, held: still_held, hidden, folder_suffix }
}

fn component_of(prefix: &Prefix, name: &Name) -> String {
    prefix.file(name).map(|k| k.as_str()[prefix.as_str().len()..].to_owned()).unwrap_or_default()
}

impl Fs {
    pub(super) async fn page(self: &Arc<Self>, prefix: &Prefix, from: Option<From>) -> Result<Shown> {
        let from = match (self.settings.as_of, from) {
            (None, Some(From::Now(next))) => Some(next),
            (None, _) => None,
            (Some(time), Some(From::Past(spot))) => return self.past_page(prefix, Some(spot), time).await,
            (Some(time), _) => return self.past_page(prefix, None, time).await,
        };
        let query = ListQuery { prefix: prefix.as_str(), delimited: true, from, max_keys: None };
        let mut page = self.s3.list(&query).await.map_err(|e| match e.kind() {
            Kind::Denied => e.with_fix("listing needs s3:ListBucket on the bucket"),
            _ => e,
        })?;
        let next = page.next.take().map(From::Now);
        Ok(Shown { page, versions: Vec::new(), next })
    }

    /// A page of the keys below `prefix` as they are now.
    pub(super) fn ask_keys(self: &Arc<Self>, prefix: Prefix, from: Continue) -> JoinHandle<Result<Page>> {
        let fs = self.clone();
        tokio::spawn(async move {
            let query = ListQuery { prefix: prefix.as_str(), delimited: true, from: Some(from), max_keys: None };
            fs.s3.list(&query).await
        })
    }

    async fn page_of(self: &Arc<Self>, source: &Source, from: Option<From>) -> Result<Shown> {
        match source {
            Source::Keys(prefix) => self.page(prefix, from).await,
            Source::Versions(of) => self.versions_page(of, from).await,
        }
    }

    fn source(&self, dir: Ino) -> Result<Source> {
        match self.inodes.get(dir)?.role {
            Role::Versions | Role::VersionsBelow => {
                Ok(Source::Versions(Versions::Below(self.inodes.history_prefix(dir)?)))
            }
            Role::VersionsOf => Ok(Source::Versions(Versions::Of(self.inodes.history_key(dir)?))),
            _ => Ok(Source::Keys(self.inodes.prefix(dir)?)),
        }
    }

    fn ask_page(self: &Arc<Self>, source: Source, from: Option<From>) -> JoinHandle<Result<Shown>> {
        let fs = self.clone();
        tokio::spawn(async move { fs.page_of(&source, from).await })
    }

    /// Entries of the directory from cookie `offset` (0 is the first after `.` and `..`); empty at the end.
    pub async fn readdir(self: &Arc<Self>, handle: &DirHandle, offset: u64) -> Result<Batch> {
        let mut s = handle.stream.lock().await;
        if offset == 0 && !matches!(s.next, Next::Start) {
            // rewinddir: POSIX wants the directory as it is now.
            *s = Stream::new();
        }
        let from = usize::try_from(offset).map_err(|_| Kind::Invalid)?;
        while s.items.len() <= from && !matches!(s.next, Next::Done) {
            self.more(handle.ino, &mut s).await?;
        }
        let (asked, end) = s.segment(from);
        let end = end.min(s.items.len()).min(from.saturating_add(BATCH));
        let items = s.items.get(from..end).unwrap_or_default().to_vec();
        Ok(Batch { offset, items, asked })
    }

    /// Adds the next page to the stream.
    async fn more(self: &Arc<Self>, dir: Ino, s: &mut Stream) -> Result<()> {
        let mut asked = Instant::now();
        if let Next::Ranges(ranges) = &mut s.next {
            return match ranges.next(self).await {
                Ok(Piece::Page(asked, page, last)) => {
                    let shown = Shown { page, versions: Vec::new(), next: None };
                    self.add_page(dir, s, asked, shown, last).await
                }
                Ok(Piece::Unfit) => {
                    s.again(true);
                    Ok(())
                }
                Err(e) => {
                    s.again(false);
                    Err(e)
                }
            };
        }
        let page = match std::mem::replace(&mut s.next, Next::Start) {
            Next::Ranges(_) => return Ok(()),
            Next::Done => {
                s.next = Next::Done;
                return Ok(());
            }
            Next::Start => {
                if !s.items.is_empty() {
                    // Whoever waited for a page before gave up.
                    s.again(s.one_by_one);
                }
                let source = self.source(dir)?;
                // A history grows by what this mount stores elsewhere.
                let known = matches!(source, Source::Keys(_)).then(|| self.listings.all(dir)).flatten();
                if let Some((asked, items)) = known {
                    s.asked = asked;
                    s.items = items;
                    self.finish(dir, s)?;
                    return Ok(());
                }
                if let Source::Keys(prefix) = &source
                    && let Some((asked, parsed)) = self.walked(dir, prefix).await
                {
                    s.asked = asked;
                    s.next = Next::Done;
                    return self.take_in(dir, prefix, s, asked, parsed).await;
                }
                s.asked = asked;
                s.buried = self.graves.all();
                self.page_of(&source, None).await
            }
            Next::Page(at, task) => {
                asked = at;
                match task.await {
                    Ok(page) => page,
                    Err(_) => Err(Error::new(Kind::Io, "list directory")),
                }
            }
        };
        let Shown { page, versions, next } = page.inspect_err(|_| s.again(s.one_by_one))?;
        let source = self.source(dir)?;
        s.pages += 1;
        if s.pages == 1 {
            s.first_key = page.first_key().to_owned();
        }
        let entries = s.items.len() + s.held.len() + page.objects.len() + page.prefixes.len();
        let large =
            s.pages >= LARGE && entries >= LARGE_ENTRIES && !s.one_by_one && !self.settings.metadata_ttl.is_zero();
        let ranges = match (&source, &next) {
            (Source::Keys(prefix), Some(From::Now(next))) if large => {
                Ranges::new(prefix, &s.first_key, &page, next, s.pages)
            }
            _ => None,
        };
        s.next = match (ranges, next) {
            (Some(mut ranges), _) => {
                ranges.ask(self);
                Next::Ranges(Box::new(ranges))
            }
            (None, Some(next)) => Next::Page(Instant::now(), self.ask_page(source.clone(), Some(next))),
            (None, None) => Next::Done,
        };
        let last = matches!(s.next, Next::Done);
        self.add_page(dir, s, asked, Shown { page, versions, next: None }, last).await
    }

    /// Adds a page that was asked for at `asked`.
    async fn add_page(
        self: &Arc<Self>,
        dir: Ino,
        s: &mut Stream,
        asked: Instant,
        shown: Shown,
        last: bool,
    ) -> Result<()> {
        let Shown { page, versions, .. } = shown;
        let source = self.source(dir)?;
        s.buried.extend(self.graves.all());
        if last {
            s.next = Next::Done;
        }
        let held = std::mem::take(&mut s.held);
        // What was held back is as old as the page it came with.
        let told = if held.is_empty() { asked } else { s.page_asked };
        s.page_asked = asked;
        let prefix = match source {
            Source::Keys(prefix) => prefix,
            Source::Versions(of) => {
                s.asked_at.push((s.items.len(), told));
                self.add_versions(&of, versions, &page, (held, last), (&mut s.items, &mut s.held));
                if last {
                    self.listings.put(dir, s.asked, s.items.clone());
                }
                return Ok(());
            }
        };
        let parsed = parse_page(&prefix, &page, held, last, self.settings.hide_odd_keys);
        self.take_in(dir, &prefix, s, told, parsed).await?;
        if last {
            self.walked_past(&prefix, &s.items);
        }
        Ok(())
    }

    /// Adds what was listed at `told` to the stream, which knows whether that is all.
    async fn take_in(
        self: &Arc<Self>,
        dir: Ino,
        prefix: &Prefix,
        s: &mut Stream,
        told: Instant,
        parsed: Parsed,
    ) -> Result<()> {
        let last = matches!(s.next, Next::Done);
        let first = s.items.len();
        s.asked_at.push((first, told));
        if parsed.hidden > 0 {
            self.note_hidden(prefix, parsed.hidden);
        }
        if parsed.folder_suffix {
            self.seen_folder_suffix.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        s.held = parsed.held;
        let items = self.tell_links(dir, prefix, parsed.items).await;
        for item in items {
            let buried = !s.buried.is_empty() && prefix.file(&item.name).is_ok_and(|k| s.buried.contains(&k));
            let repeated = item.odd_marker.is_some() && s.items.iter().any(|i| i.name == item.name);
            if buried || repeated {
                s.partial |= buried;
                continue;
            }
            s.items.push(item);
        }
        if last {
            if !s.partial && !self.inodes.names_changed_since(dir, s.asked) {
                self.listings.put(dir, s.asked, s.items.clone());
            }
            self.finish(dir, s)?;
        }
        Ok(())
    }

    /// What may be a symbolic link by its ETag is asked for, and nothing else is. What cannot be asked stays a file
    /// until it is opened.
    async fn tell_links(self: &Arc<Self>, dir: Ino, prefix: &Prefix, mut items: Vec<Arc<Item>>) -> Vec<Arc<Item>> {
        let mut asks: Vec<BoxFuture<'_, (usize, bool)>> = Vec::new();
        for (i, item) in items.iter().enumerate() {
            if item.kind == FileKind::File && may_be_link(item.size, item.etag.as_ref()) {
                asks.push(Box::pin(self.is_link(i, dir, prefix, item.clone())));
            }
        }
        let answers: Vec<(usize, bool)> = stream::iter(asks).buffer_unordered(LINKS_PARALLEL).collect().await;
        for (i, link) in answers {
            if link {
                items[i] = Arc::new(Item { kind: FileKind::Symlink, ..(*items[i]).clone() });
            }
        }
        items
    }

    async fn is_link(self: &Arc<Self>, index: usize, dir: Ino, prefix: &Prefix, item: Arc<Item>) -> (usize, bool) {
        if let Some(inode) = self.inodes.child(dir, &item.name) {
            let state = inode.state.lock();
            if state.facts.etag == item.etag && state.facts.etag.is_some() {
                return (index, state.attr.kind == FileKind::Symlink);
            }
        }
        let asked = Instant::now();
        let Ok(key) = prefix.file(&item.name) else { return (index, false) };
        let inode = match self.head_of(&key, item.version.as_deref()).await {
            Ok(meta) => self.absorb_file(dir, &item.name, &key, &meta, asked),
            Err(_) => return (index, false),
        };
        (index, inode.is_ok_and(|i| i.kind() == FileKind::Symlink))
    }

    /// The listing is complete: adds what only this mount knows.
    fn finish(self: &Arc<Self>, dir: Ino, s: &mut Stream) -> Result<()> {
        s.next = Next::Done;
        let listed: HashSet<Name> = s.items.iter().map(|i| i.name.clone()).collect();
        let mut own = Vec::new();
        for (name, inode) in self.inodes.children(dir) {
            if listed.contains(&name) || inode.role != Role::Plain {
                continue;
            }
            let state = inode.state.lock();
            let newer = state.changed.is_some_and(|c| c >= s.asked);
            // As for look-ups. What a commit has stored a moment ago is not said to be newer yet, and has its writer still.
            if !state.stored || newer || state.writer.is_some() {
                let attr = state.current();
                // A directory that is not stored shows only if it was emptied or made here.
                if attr.kind == FileKind::Dir && !newer && !self.is_kept(dir, &name) {
                    continue;
                }
                own.push(Arc::new(Item {
                    name: name.clone(),
                    kind: attr.kind,
                    size: attr.size,
                    etag: None,
                    last_modified: Some(attr.mtime),
                    storage_class: None,
                    odd_marker: None,
                    version: None,
                    of_file: false,
                }));
            }
        }
        let here: HashSet<Name> = own.iter().map(|i| i.name.clone()).collect();
        for name in self.kept_below(dir) {
            if !listed.contains(&name) && !here.contains(&name) {
                own.push(Arc::new(Item::dir(name)));
            }
        }
        own.sort_by(|a, b| a.name.cmp(&b.name));
        // What is only known here is older than nothing this mount did since the start.
        s.asked_at.push((s.items.len(), s.asked));
        s.items.extend(own);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::Listed;

    fn object(key: &str, size: u64) -> Listed {
        Listed { key: key.into(), size, etag: None, last_modified: None, storage_class: None, version: None }
    }

    fn page(objects: &[(&str, u64)], prefixes: &[&str]) -> Page {
        Page {
            objects: objects.iter().map(|(k, s)| object(k, *s)).collect(),
            prefixes: prefixes.iter().map(|p| p.to_string()).collect(),
            next: None,
        }
    }

    fn names(items: &[Arc<Item>]) -> Vec<(&str, FileKind)> {
        items.iter().map(|i| (i.name.as_str(), i.kind)).collect()
    }

    #[test]
    fn a_directory_hides_a_file_of_its_name_which_stays_reachable() {
        let root = Prefix::root();
        let p = parse_page(&root, &page(&[("a", 1), ("b", 2)], &["a/"]), vec![], true, false);
        assert_eq!(names(&p.items), [("a", FileKind::Dir), ("a@@file", FileKind::File), ("b", FileKind::File)]);
        let hidden = parse_page(&root, &page(&[("a", 1)], &["a/"]), vec![], true, true);
        assert_eq!((names(&hidden.items), hidden.hidden), (vec![("a", FileKind::Dir)], 1));
    }

    #[test]
    fn a_file_is_held_back_until_its_directory_can_no_longer_follow() {
        let root = Prefix::root();
        let first = parse_page(&root, &page(&[("a", 1), ("a-1", 1)], &[]), vec![], false, false);
        assert!(first.items.is_empty());
        let second = parse_page(&root, &page(&[("a-2", 1), ("b", 1)], &["a/"]), first.held, true, false);
        assert_eq!(names(&second.items).iter().map(|n| n.0).collect::<Vec<_>>(), ["a", "a-1", "a-2", "a@@file", "b"]);
    }

    #[test]
    fn markers_and_odd_keys_under_a_prefix() {
        let p = Prefix::new("d").unwrap();
        let parsed = parse_page(
            &p,
            &page(&[("d/", 0), ("d/x_$folder$", 0), ("d/f", 3)], &["d//", "d/../", "d/y/"]),
            vec![],
            true,
            false,
        );
        assert_eq!(
            names(&parsed.items),
            [("@@empty", FileKind::Dir), ("f", FileKind::File), ("x", FileKind::Dir), ("y", FileKind::Dir)]
        );
        assert_eq!(parsed.hidden, 1);
        let data = parse_page(&p, &page(&[("d/", 9)], &[]), vec![], true, false);
        assert_eq!(names(&data.items), [("@@marker", FileKind::File)]);
    }
}

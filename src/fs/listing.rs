//! Reading a directory: pages of a listing become entries in a stable order.
//!
//! 1. A cookie is a position in the handle's own list of entries, which only grows: any earlier cookie stays valid
//!    for the life of the handle (telldir, seekdir), and concurrent changes neither repeat nor lose an entry. Of a long
//!    list only a part is in memory ([`super::window`]).
//! 2. Files and common prefixes of one page come apart and are merged. A file `a` and a directory `a/` can be pages
//!    apart (`a`, `a-1`, …, `a/`): a file is held back until the listing has passed `a/`, because the directory wins
//!    and the file is then shown as `a@@file`.
//! 3. The next page is asked for while the current one is being read.
//! 4. What exists only on this mount (files not committed yet, emptied directories) is added at the end.

use std::collections::{HashMap, HashSet};
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
use super::page::{Parsed, end_of, parse_page};
use super::ranges::{Piece, Ranges};
use crate::error::{Error, Kind, Result};
use crate::key::{Key, Name, Prefix};
use crate::s3::{Continue, ListQuery, Page};

use super::past::Spot;
use super::versions_dir::Versions;
use super::window::{Origin, Step, Window};

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
    /// Asked for at this time, and from here on when that is no key.
    Page(Instant, Option<From>, JoinHandle<Result<Shown>>),
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
#[derive(Clone)]
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
    items: Window,
    /// When the last page was asked for.
    page_asked: Instant,
    /// Where the page that came begins, when that is no key, and the last key that came.
    page_from: Option<From>,
    reached: String,
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
        if let Next::Page(_, _, task) = &self.next {
            task.abort();
        }
    }
}

impl Stream {
    fn new() -> Stream {
        Stream {
            next: Next::Start,
            asked: Instant::now(),
            items: Window::default(),
            page_asked: Instant::now(),
            page_from: None,
            reached: String::new(),
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

    pub(super) async fn page_of(self: &Arc<Self>, source: &Source, from: Option<From>) -> Result<Shown> {
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
        let mut from = usize::try_from(offset).map_err(|_| Kind::Invalid)?;
        let (most, budget) = (self.listings.most_bytes(), self.reads.cache().budget());
        loop {
            while s.items.len() <= from && !matches!(s.next, Next::Done) {
                self.more(handle.ino, &mut s).await?;
                s.items.fit(from, most, budget);
            }
            match s.items.at(from, BATCH) {
                Step::Here(at, items, asked) => return Ok(Batch { offset: at as u64, items, asked }),
                Step::End => return Ok(Batch { offset: from as u64, items: Vec::new(), asked: s.asked }),
                Step::Holes(end) => from = end,
                Step::Gone(gone) => {
                    let source = self.source(handle.ino)?;
                    self.list_again(handle.ino, &source, &mut s.items, gone).await?;
                    s.items.fit(from, most, budget);
                }
            }
        }
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
                if s.pages > 0 {
                    // Whoever waited for a page before gave up.
                    s.again(s.one_by_one);
                }
                let source = self.source(dir)?;
                // A history grows by what this mount stores elsewhere.
                let known = matches!(source, Source::Keys(_)).then(|| self.listings.all(dir)).flatten();
                if let Some((asked, items)) = known {
                    s.asked = asked;
                    s.items.push(items, asked, None);
                    self.finish(dir, s)?;
                    return Ok(());
                }
                if let Source::Keys(prefix) = &source
                    && let Some((asked, parsed)) = self.walked(dir, prefix).await
                {
                    s.asked = asked;
                    s.next = Next::Done;
                    let origin = Origin { from: None, held: Vec::new(), until: String::new() };
                    return self.take_in(dir, prefix, s, asked, (parsed, origin)).await;
                }
                s.asked = asked;
                s.buried = self.graves.all();
                self.page_of(&source, None).await
            }
            Next::Page(at, from, task) => {
                (asked, s.page_from) = (at, from);
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
            (None, Some(next)) => {
                let spot = matches!(next, From::Past(_)).then(|| next.clone());
                Next::Page(Instant::now(), spot, self.ask_page(source.clone(), Some(next)))
            }
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
        let after = (!s.reached.is_empty()).then(|| From::Now(Continue::After(s.reached.clone())));
        if s.reached.as_str() < end_of(&page) {
            end_of(&page).clone_into(&mut s.reached);
        }
        let from = s.page_from.take().or(after);
        let origin = Origin { from, held: held.clone(), until: s.reached.clone() };
        let prefix = match source {
            Source::Keys(prefix) => prefix,
            Source::Versions(of) => {
                let mut items = Vec::new();
                self.add_versions(&of, versions, &page, (held, last), (&mut items, &mut s.held));
                s.items.push(items, told, Some(origin));
                if let Some(all) = s.items.all().filter(|_| last) {
                    self.listings.put(dir, s.asked, all);
                }
                return Ok(());
            }
        };
        let parsed = parse_page(&prefix, &page, held, last, self.settings.hide_odd_keys);
        self.take_in(dir, &prefix, s, told, (parsed, origin)).await?;
        if let Some(all) = s.items.all().filter(|_| last) {
            self.walked_past(&prefix, &all);
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
        (parsed, origin): (Parsed, Origin),
    ) -> Result<()> {
        let last = matches!(s.next, Next::Done);
        if parsed.hidden > 0 {
            self.note_hidden(prefix, parsed.hidden);
        }
        if parsed.folder_suffix {
            self.seen_folder_suffix.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        // Who gives up here has lost the page: then the listing begins anew.
        let next = std::mem::replace(&mut s.next, Next::Start);
        let listed = self.tell_links(dir, prefix, parsed.items).await;
        (s.next, s.held) = (next, parsed.held);
        let mut items: Vec<Arc<Item>> = Vec::with_capacity(listed.len());
        for item in listed {
            let buried = !s.buried.is_empty() && prefix.file(&item.name).is_ok_and(|k| s.buried.contains(&k));
            let repeated =
                item.odd_marker.is_some() && (s.items.has(&item.name) || items.iter().any(|i| i.name == item.name));
            if buried || repeated {
                s.partial |= buried;
                continue;
            }
            items.push(item);
        }
        s.items.push(items, told, Some(origin));
        if last {
            let whole = !s.partial && !self.inodes.names_changed_since(dir, s.asked);
            if let Some(all) = s.items.all().filter(|_| whole) {
                self.listings.put(dir, s.asked, all);
            }
            self.finish(dir, s)?;
        }
        Ok(())
    }

    /// What may be a symbolic link by its ETag is asked for, and nothing else is. What cannot be asked stays a file
    /// until it is opened.
    pub(super) async fn tell_links(
        self: &Arc<Self>,
        dir: Ino,
        prefix: &Prefix,
        mut items: Vec<Arc<Item>>,
    ) -> Vec<Arc<Item>> {
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
        let mut own: HashMap<Name, Arc<Item>> = HashMap::new();
        for (name, inode) in self.inodes.children(dir) {
            if inode.role != Role::Plain {
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
                let item = Item {
                    name: name.clone(),
                    kind: attr.kind,
                    size: attr.size,
                    etag: None,
                    last_modified: Some(attr.mtime),
                    storage_class: None,
                    odd_marker: None,
                    version: None,
                    of_file: false,
                };
                own.insert(name, Arc::new(item));
            }
        }
        for name in self.kept_below(dir) {
            own.entry(name.clone()).or_insert_with(|| Arc::new(Item::dir(name)));
        }
        s.items.strike(&mut own);
        let mut own: Vec<Arc<Item>> = own.into_values().collect();
        own.sort_by(|a, b| a.name.cmp(&b.name));
        // What is only known here is older than nothing this mount did since the start.
        s.items.push(own, s.asked, None);
        Ok(())
    }
}

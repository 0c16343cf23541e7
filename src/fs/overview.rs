//! The mount as a whole, for whoever administers it: figures, storing everything now, and forgetting what is known.
//!
//! 1. Figures are asked for while the store is unreachable and the mount is busy: they take short locks one after the
//!    other and send nothing.
//! 2. The kernel remembers names and attributes, too: forgetting tells it, from a thread that may wait for it.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};

use super::inode::Inode;
use super::{Fs, Ino};
use crate::error::{Error, Kind, Result};
use crate::key::Name;
use crate::write::journal::PendingState;

/// Files stored at a time by [`Fs::flush_all`].
const PARALLEL: usize = 16;
/// How often a wait for the journal looks.
const POLL: Duration = Duration::from_millis(20);

/// A file with bytes that are not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirty {
    pub key: String,
    /// Bytes of the whole file.
    pub size: u64,
    /// Why the last attempt to store it failed.
    pub failed: Option<String>,
}

/// What the kernel is to forget: a name in a directory, what it knows of an inode.
struct Stale {
    place: Option<(Ino, Name)>,
    ino: Option<Ino>,
}

/// What the file system holds at this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Open files and directories.
    pub handles: usize,
    /// Known to the kernel or remembered.
    pub inodes: usize,
    /// Of them only remembered.
    pub remembered: usize,
    /// Entries of remembered listings.
    pub listed: usize,
    /// Keys left out since the start because they cannot be shown.
    pub hidden: u64,
    /// Unlinked files that are still open.
    pub unlinked: usize,
    pub dirty: Vec<Dirty>,
    /// Files whose changed attributes wait to be stored.
    pub attributes: usize,
}

impl Fs {
    /// Whether the mount is about to end.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// No request.
    pub fn figures(&self) -> Figures {
        let (inodes, remembered) = self.inodes.counts();
        let mut figures = Figures {
            handles: self.handles.len(),
            inodes,
            remembered,
            listed: self.listings.entries(|dir| self.settings.space.has(dir)),
            hidden: self.hidden.load(Ordering::Relaxed),
            unlinked: self.graves.len(),
            ..Figures::default()
        };
        for inode in self.inodes.all() {
            let (writer, pending) = {
                let state = inode.state.lock();
                (state.writer.clone(), state.attr_pending)
            };
            figures.attributes += usize::from(pending);
            // What the journal has is told by `pending`.
            if let Some(w) = writer.filter(|w| w.is_dirty() && w.backlog().is_none()) {
                let failed = w.failed().map(|e| e.to_string());
                figures.dirty.push(Dirty { key: w.key().to_string(), size: w.size(), failed });
            }
        }
        figures.dirty.sort_by(|a, b| a.key.cmp(&b.key));
        figures
    }

    /// Stores every dirty file and pending attribute, and goes on. Returns what could not be stored within `limit`,
    /// by key.
    pub async fn flush_all(self: &Arc<Self>, limit: Duration) -> Vec<(String, Error)> {
        let end = tokio::time::Instant::now() + limit;
        let work: Vec<Arc<Inode>> = self
            .inodes
            .all()
            .into_iter()
            .filter(|inode| {
                let state = inode.state.lock();
                state.attr_pending || state.writer.as_ref().is_some_and(|w| w.is_dirty())
            })
            .filter(|inode| self.inodes.place(inode.ino).is_some())
            .collect();
        let store = |inode: Arc<Inode>| async move {
            let work = async {
                self.commit(&inode).await?;
                self.store_attr(&inode).await
            };
            let error = match tokio::time::timeout_at(end, work).await {
                Ok(Ok(())) => return None,
                Ok(Err(e)) => e,
                Err(_) => Error::new(Kind::Timeout, "store"),
            };
            let key = match self.inodes.key(inode.ino) {
                Ok(key) => key.to_string(),
                Err(_) => self.inodes.prefix(inode.ino).map(|p| p.to_string()).unwrap_or_default(),
            };
            Some((key, error))
        };
        // What the journal has is on its way already; now without waiting.
        let _ = self.retry(None);
        // Boxed: the type of a stream of nested futures is more than the compiler takes.
        let work: Vec<BoxFuture<'_, _>> = work.into_iter().map(|inode| Box::pin(store(inode)) as _).collect();
        let mut failed: Vec<_> =
            stream::iter(work).buffer_unordered(PARALLEL).filter_map(std::future::ready).collect().await;
        failed.extend(self.flush_deletes(end).await);
        for (key, error) in self.journal_empty(end).await {
            if !failed.iter().any(|(k, _)| *k == key) {
                failed.push((key, error));
            }
        }
        failed.sort_by(|a, b| a.0.cmp(&b.0));
        failed
    }

    /// Waits until the journal holds nothing that is on its way; what is left then, and why.
    async fn journal_empty(&self, end: tokio::time::Instant) -> Vec<(String, Error)> {
        loop {
            let left = self.pending();
            let moving = left.iter().any(|p| p.state != PendingState::Parked);
            if !moving || tokio::time::Instant::now() >= end {
                let error = |why: Option<String>| match why {
                    Some(why) => Error::new(Kind::Unavailable, why),
                    None => Error::new(Kind::Timeout, "store"),
                };
                return left.into_iter().map(|p| (p.key, error(p.reason))).collect();
            }
            tokio::time::sleep(POLL.min(end.saturating_duration_since(tokio::time::Instant::now()))).await;
        }
    }

    /// Forgets listings and attributes at and below `path` (relative to the mount; "" is all of it), so that changes
    /// made elsewhere show at the next look. Returns how many inodes that were. Waits for the kernel until `limit`.
    ///
    /// What is open stays bound to its version, what is not stored stays as it is.
    pub async fn forget_below(self: &Arc<Self>, path: &str, limit: Duration) -> Result<usize> {
        let mut parent = None;
        let mut at = self.root();
        for component in path.split('/').filter(|c| !c.is_empty()) {
            let name = Name::parse(OsStr::new(component))?;
            // What the listing of the directory says of the name is believed otherwise.
            self.listings.forget(at);
            let Some(child) = self.inodes.child(at, &name) else {
                // Never seen: the kernel may believe that it is missing.
                return self.tell_kernel(vec![Stale { place: Some((at, name)), ino: None }], limit).await.map(|()| 0);
            };
            parent = Some(at);
            at = child.ino;
        }
        if let Some(parent) = parent {
            self.listings.forget(parent);
        }
        self.trees.clear();
        let mut stale = Vec::new();
        for inode in self.inodes.subtree(at) {
            self.listings.forget(inode.ino);
            let mut state = inode.state.lock();
            if state.writer.is_some() || !state.stored {
                continue;
            }
            state.confirmed = None;
            state.marker_told = false;
            drop(state);
            stale.push(Stale { place: self.inodes.place(inode.ino), ino: Some(inode.ino) });
        }
        let count = stale.len();
        self.tell_kernel(stale, limit).await.map(|()| count)
    }

    /// Drops names and attributes from the kernel's memory, in a thread: the kernel may wait for a reply of ours.
    async fn tell_kernel(self: &Arc<Self>, stale: Vec<Stale>, limit: Duration) -> Result<()> {
        let fs = self.clone();
        let work = self.runtime.spawn_blocking(move || {
            let Some(kernel) = fs.kernel.get() else { return };
            for Stale { place, ino } in stale {
                if let Some(ino) = ino {
                    kernel.invalidate(ino);
                }
                if let Some((parent, name)) = place {
                    kernel.invalidate_entry(parent, &name);
                }
            }
        });
        match tokio::time::timeout(limit, work).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Error::new(Kind::Io, "tell the kernel: panicked")),
            Err(_) => Err(Error::new(Kind::Timeout, "tell the kernel what to forget")),
        }
    }
}

//! The end: everything this mount still holds goes to the store, or is named.
//!
//! The kernel may take a mount away without a word about its last closes, so what waits for one is done here.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};

use super::Fs;
use super::inode::Inode;
use crate::error::{Error, Kind};

/// Files stored at a time; requests have bounds of their own.
const PARALLEL: usize = 32;

impl Fs {
    /// Stores every dirty file and pending attribute. What could not be stored is returned with its key.
    pub async fn drain(self: &Arc<Self>, deadline: Duration) -> Vec<(String, Error)> {
        self.hurry();
        let end = tokio::time::Instant::now() + deadline;
        let work = self.inodes.all().into_iter().map(|inode| async move { self.drain_one(&inode, end).await });
        // Boxed: the type of a stream of nested futures is more than the compiler takes.
        let work: Vec<futures_util::future::BoxFuture<'_, _>> = work.map(|w| Box::pin(w) as _).collect();
        let mut failed: Vec<_> =
            stream::iter(work).buffer_unordered(PARALLEL).filter_map(|f| async { f }).collect().await;
        self.tasks.close();
        if tokio::time::timeout_at(end, self.tasks.wait()).await.is_err() {
            tracing::warn!("background work was not finished when the mount ended");
        }
        if !self.writes.drain(end.saturating_duration_since(tokio::time::Instant::now())).await {
            tracing::warn!("uploads were not ended when the mount ended");
        }
        failed.extend(self.left_in_journal());
        failed.extend(self.bury_all(end).await);
        failed.extend(self.left_to_delete());
        failed
    }

    /// Deletes the files that were unlinked and whose last close nobody will tell of.
    async fn bury_all(self: &Arc<Self>, end: tokio::time::Instant) -> Vec<(String, Error)> {
        let waiting = self.graves.waiting();
        let work = waiting.into_iter().map(|(key, ino)| async move {
            let etag = self.inodes.get(ino).ok().and_then(|inode| inode.state.lock().facts.etag.clone());
            let error = match tokio::time::timeout_at(end, self.bury_key(&key, ino, etag)).await {
                Ok(Ok(())) => return None,
                Ok(Err(e)) => e,
                Err(_) => Error::new(Kind::Timeout, "delete before unmounting").with_key(&key),
            };
            Some((key.to_string(), error.with_fix("it was deleted while it was open and is still there: delete it")))
        });
        let work: Vec<futures_util::future::BoxFuture<'_, _>> = work.map(|w| Box::pin(w) as _).collect();
        stream::iter(work).buffer_unordered(PARALLEL).filter_map(|f| async { f }).collect().await
    }

    async fn drain_one(self: &Arc<Self>, inode: &Arc<Inode>, end: tokio::time::Instant) -> Option<(String, Error)> {
        let writer = {
            let state = inode.state.lock();
            let dirty = state.writer.clone().filter(|w| w.is_dirty() || w.backlog().is_some());
            if !state.attr_pending && dirty.is_none() {
                return None;
            }
            dirty
        };
        self.inodes.place(inode.ino)?;
        let work = async {
            self.commit(inode).await?;
            self.store_attr(inode).await
        };
        let error = match tokio::time::timeout_at(end, work).await {
            Ok(Ok(())) => return None,
            Ok(Err(e)) => e,
            Err(_) => Error::new(Kind::Timeout, "store before unmounting"),
        };
        if let Some(w) = &writer {
            w.give_up_upload(&error);
        }
        let error = match writer.filter(|w| w.backlog().is_some()) {
            Some(_) => error.with_fix("it is in the journal: the next mount stores it"),
            None => error,
        };
        let key = match self.inodes.key(inode.ino) {
            Ok(key) => key.to_string(),
            Err(_) => self.inodes.prefix(inode.ino).map(|p| p.to_string()).unwrap_or_default(),
        };
        Some((key, error))
    }
}

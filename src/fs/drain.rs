//! The end: everything this mount still holds goes to the store, or is named.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Fs;
use crate::error::Error;

impl Fs {
    /// Stores every dirty file and pending attribute. What could not be stored is returned with its key.
    pub async fn drain(self: &Arc<Self>, deadline: Duration) -> Vec<(String, Error)> {
        self.stopping.store(true, Ordering::Relaxed);
        let mut failed = Vec::new();
        let end = tokio::time::Instant::now() + deadline;
        for inode in self.inodes.all() {
            let key = || match self.inodes.key(inode.ino) {
                Ok(key) => key.to_string(),
                Err(_) => self.inodes.prefix(inode.ino).map(|p| p.to_string()).unwrap_or_default(),
            };
            let has_work = {
                let state = inode.state.lock();
                state.attr_pending || state.writer.as_ref().is_some_and(|w| w.is_dirty())
            };
            if !has_work || self.inodes.place(inode.ino).is_none() {
                continue;
            }
            let work = async {
                self.commit(&inode).await?;
                self.store_attr(&inode).await
            };
            match tokio::time::timeout_at(end, work).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => failed.push((key(), e)),
                Err(_) => failed.push((key(), Error::new(crate::Kind::Timeout, "store before unmounting"))),
            }
        }
        self.tasks.close();
        if tokio::time::timeout_at(end, self.tasks.wait()).await.is_err() {
            tracing::warn!("background work was not finished when the mount ended");
        }
        if !self.writes.drain(end.saturating_duration_since(tokio::time::Instant::now())).await {
            tracing::warn!("uploads were not ended when the mount ended");
        }
        failed
    }
}

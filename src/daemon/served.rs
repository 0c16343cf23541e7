//! A mount while it runs, whether of one bucket or of every bucket: what the control socket, the metrics and the end of
//! the mount ask of it.
//!
//! Keys of a mount of every bucket are told with their bucket: `BUCKET/KEY`, as the path in the mount is.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};

use super::control::Console;
use super::status::{self, Origin, Status};
use super::volume::{Engines, Unstored};
use crate::cache::disk::DiskCache;
use crate::error::{Error, Kind, Result};
use crate::fs::Fs;
use crate::fuse::Tree;

/// For the kernel to forget what it remembers of a tree.
const KERNEL_PATIENCE: Duration = Duration::from_secs(15);

/// The mount as the control socket sees it.
pub struct Served {
    tree: Tree,
    /// Their bounds and counters are those of all buckets.
    engines: Engines,
    origin: Origin,
    metrics: OnceLock<String>,
}

/// How a key is told that is in `bucket`; "" is the only one.
pub(super) fn named(bucket: &str, key: String) -> String {
    if bucket.is_empty() { key } else { format!("{bucket}/{key}") }
}

impl Served {
    pub fn new(tree: Tree, engines: Engines, origin: Origin) -> Served {
        Served { tree, engines, origin, metrics: OnceLock::new() }
    }

    /// The trees that there are, with the names of their buckets; "" is the only one.
    fn all(&self) -> Vec<(Arc<str>, Arc<Fs>)> {
        match &self.tree {
            Tree::One(fs) => vec![("".into(), fs.clone())],
            Tree::Many(buckets) => buckets.all(),
        }
    }

    /// Of all buckets at a time.
    async fn of_all<W: Future<Output = Unstored> + Send>(
        all: Vec<(Arc<str>, Arc<Fs>)>,
        work: impl Fn(Arc<Fs>) -> W,
    ) -> Unstored {
        let work = all.into_iter().map(|(bucket, fs)| {
            let left = work(fs);
            async move { left.await.into_iter().map(|(key, e)| (named(&bucket, key), e)).collect::<Unstored>() }
        });
        join_all(work).await.into_iter().flatten().collect()
    }

    /// Stores everything written so far; says what is left at the deadline.
    pub async fn drain(&self, deadline: Instant) -> Unstored {
        let limit = deadline.saturating_duration_since(Instant::now());
        let unstored = Served::of_all(self.all(), |fs| async move { fs.drain(limit).await }).await;
        if let Tree::Many(buckets) = &self.tree {
            buckets.settled(deadline.saturating_duration_since(Instant::now())).await;
        }
        unstored
    }

    pub fn disk(&self) -> Option<Arc<DiskCache>> {
        self.engines.reads.disk().cloned()
    }

    /// The tree that has a pending file. Errors: [`Kind::NotFound`]; [`Kind::Invalid`] when former mounts have given the
    /// number in two buckets.
    fn holder(&self, id: u64) -> Result<Arc<Fs>> {
        let mut found = self.all().into_iter().filter(|(_, fs)| fs.pending().iter().any(|p| p.id == id));
        match (found.next(), found.next()) {
            (None, _) => Err(Error::new(Kind::NotFound, format!("the journal of this mount has no entry {id}"))),
            (Some((_, fs)), None) => Ok(fs),
            _ => Err(Error::new(Kind::Invalid, format!("two buckets have an entry {id}"))
                .with_fix("mount the one that is meant by itself")),
        }
    }

    fn retry_now(&self, ids: &[u64]) -> Result<u64> {
        if ids.is_empty() {
            return self.all().iter().map(|(_, fs)| fs.retry(None).map(|n| n as u64)).sum();
        }
        // None is tried when one is not there.
        let held = ids.iter().map(|id| Ok((*id, self.holder(*id)?))).collect::<Result<Vec<_>>>()?;
        held.iter().map(|(id, fs)| fs.retry(Some(&[*id])).map(|n| n as u64)).sum()
    }
}

impl Console for Served {
    fn status(&self) -> Status {
        let collected = status::collect(&self.origin, &self.engines, &self.all());
        Status { metrics: self.metrics.get().cloned(), ..collected }
    }

    fn set_metrics(&self, shown: &str) {
        let _ = self.metrics.set(shown.to_owned());
    }

    fn flush(&self, limit: Duration) -> BoxFuture<'static, Unstored> {
        let all = self.all();
        Box::pin(Served::of_all(all, move |fs| async move { fs.flush_all(limit).await }))
    }

    fn refresh(&self, path: String) -> BoxFuture<'static, Result<u64>> {
        let tree = self.tree.clone();
        Box::pin(async move {
            let count = match tree {
                Tree::One(fs) => fs.forget_below(&path, KERNEL_PATIENCE).await?,
                Tree::Many(buckets) => buckets.forget_below(&path, KERNEL_PATIENCE).await?,
            };
            Ok(count as u64)
        })
    }

    fn retry(&self, ids: Vec<u64>) -> BoxFuture<'static, Result<u64>> {
        Box::pin(std::future::ready(self.retry_now(&ids)))
    }

    fn export(&self, id: u64, path: PathBuf) -> BoxFuture<'static, Result<()>> {
        let fs = self.holder(id);
        Box::pin(async move { fs?.export(id, &path).await })
    }

    fn discard(&self, ids: Vec<u64>) -> BoxFuture<'static, Result<u64>> {
        let held: Vec<_> = ids.iter().map(|id| (*id, self.holder(*id))).collect();
        Box::pin(async move {
            let count = held.len() as u64;
            for (id, fs) in held {
                fs?.discard(id).await?;
            }
            Ok(count)
        })
    }
}

//! The end of a bucket.
//!
//! The store refuses to delete a bucket that holds anything. What this mount has not stored yet the store cannot know
//! of, so that is looked for here first.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use super::{Bucket, Buckets};
use crate::config::source::is_bucket_name;
use crate::error::{Error, Kind, Result};
use crate::fs::{FileKind, Fs};
use crate::s3::{ListQuery, S3, VersionQuery};

/// For the last closes and deletes of whoever emptied the bucket a moment ago, which the kernel tells of late.
const PATIENCE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);

impl Fs {
    /// Whether the kernel knows of anything in it besides the root, or has it open.
    pub(super) fn is_in_use(&self) -> bool {
        self.inodes.known() > 0 || !self.handles.is_empty()
    }

    /// The bucket's age is known now; a time that somebody has set since stays.
    pub(super) fn set_born(&self, at: SystemTime) {
        if let Ok(root) = self.inodes.get(self.root()) {
            let attr = &mut root.state.lock().attr;
            for time in [&mut attr.atime, &mut attr.mtime, &mut attr.ctime] {
                if *time == self.mounted {
                    *time = at;
                }
            }
        }
    }

    /// What would be lost with the bucket: files that are being written or are not stored, and deletes that wait.
    ///
    /// Errors: [`Kind::Busy`] for these, [`Kind::NotEmpty`] for directories that only this mount knows of.
    pub(super) fn may_end(&self) -> Result<()> {
        let busy = |what: &str| Err(Error::new(Kind::Busy, format!("delete bucket: {what}")));
        // What was deleted may be lost.
        for inode in self.inodes.all().into_iter().filter(|i| self.inodes.is_linked(i.ino)) {
            let state = inode.state.lock();
            let unstored = state.attr.kind != FileKind::Dir && !state.stored;
            if state.writer.is_some() || state.attr_pending || state.uploading || unstored {
                return busy("a file in it is being written, or is not stored yet");
            }
        }
        if self.graves.len() > 0 {
            return busy("a file in it was deleted and is still open");
        }
        if !self.pending().is_empty() {
            return busy("files in it are in the journal and not stored yet");
        }
        if !self.kept.lock().is_empty() {
            return Err(Error::new(Kind::NotEmpty, "delete bucket: there are directories in it"));
        }
        Ok(())
    }
}

impl Buckets {
    /// Deletes a bucket that is empty: one DELETE.
    ///
    /// Errors: [`Kind::NotEmpty`] while it holds an object, an old version or a delete marker; [`Kind::Busy`] while
    /// something of it is not stored; [`Kind::NotFound`].
    pub async fn rmdir(&self, name: &OsStr) -> Result<()> {
        self.writable()?;
        let Some(name) = name.to_str().filter(|n| is_bucket_name(n)) else { return Err(Kind::NotFound.into()) };
        let bucket = self.named(name);
        if let Some(fs) = bucket.as_ref().and_then(|b| b.fs.get()) {
            // What was deleted with `writeback` may still be there.
            fs.deleted_below("").await?;
            let deadline = Instant::now() + PATIENCE;
            while let Err(e) = fs.may_end() {
                if e.kind() != Kind::Busy || Instant::now() > deadline {
                    return Err(e.with_key(name));
                }
                tokio::time::sleep(POLL).await;
            }
        }
        let s3 = self.s3.for_bucket(name);
        match s3.delete_bucket().await {
            Ok(()) => tracing::info!(bucket = name, "bucket deleted"),
            Err(e) if e.kind() == Kind::NoBucket => {
                self.gone(name, bucket.as_ref());
                return Err(Error::new(Kind::NotFound, "delete bucket").with_key(name));
            }
            Err(e) if e.kind() == Kind::NotEmpty => {
                tell_why(&s3, name).await;
                return Err(e.with_key(name));
            }
            Err(e) => return Err(e.with_key(name)),
        }
        self.gone(name, bucket.as_ref());
        Ok(())
    }

    fn gone(&self, name: &str, bucket: Option<&Arc<Bucket>>) {
        self.changed(&name.into(), false);
        if let Some(bucket) = bucket {
            self.retire(bucket);
        }
    }

    /// A bucket that is known is not there any more. What is not stored stays, with its tree.
    pub(super) fn lost(&self, bucket: &Arc<Bucket>) {
        bucket.known.lock().seen = None;
        if bucket.fs.get().is_none_or(|fs| fs.may_end().is_ok()) {
            self.retire(bucket);
        }
    }

    /// Its name is free for another bucket; its numbers as soon as the kernel has forgotten them.
    fn retire(&self, bucket: &Arc<Bucket>) {
        if bucket.dead.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut table = self.table.write();
        table.names.remove(&bucket.name);
        table.dead.push(bucket.part);
    }
}

/// What keeps a bucket that looks empty, for the log.
async fn tell_why(s3: &S3, name: &str) {
    let query = ListQuery { prefix: "", delimited: false, from: None, max_keys: Some(1) };
    if !s3.list(&query).await.is_ok_and(|page| page.objects.is_empty()) {
        return;
    }
    let versions = s3.list_versions(&VersionQuery { max_keys: Some(1), ..VersionQuery::default() }).await;
    let what = match versions {
        Ok(page) if page.versions.is_empty() => "uploads that were begun",
        Ok(_) => "old versions or delete markers",
        Err(_) => "old versions, delete markers or uploads that were begun",
    };
    tracing::warn!(bucket = name, "not deleted, because it holds {what}: xosfs bucket rm {name} --force-empty");
}

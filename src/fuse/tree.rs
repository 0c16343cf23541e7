//! Which file system a request is for: the one of the mount, or that of a bucket where every bucket is mounted.
//!
//! A plain mount answers from memory without a lock or a reference counted here: [`Near::One`] only borrows.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use fuser::INodeNo;

use crate::error::Result;
use crate::fs::buckets::Buckets;
use crate::fs::{Entry, Fs, Ino, Kernel, ROOT, Space};

/// What is mounted.
#[derive(Clone)]
pub enum Tree {
    /// A bucket, or a part of one.
    One(Arc<Fs>),
    /// Every bucket.
    Many(Arc<Buckets>),
}

/// A file system that is there already.
pub(super) enum Near<'a> {
    One(&'a Arc<Fs>),
    Of(Arc<Fs>),
}

impl Deref for Near<'_> {
    type Target = Arc<Fs>;

    fn deref(&self) -> &Arc<Fs> {
        match self {
            Near::One(fs) => fs,
            Near::Of(fs) => fs,
        }
    }
}

/// Where a request goes.
pub(super) enum Route {
    Ready(Arc<Fs>),
    /// Into a bucket where nobody has been, or to the level of the buckets themselves.
    Into(Arc<Buckets>, Ino),
}

impl Route {
    /// Errors: those of [`Buckets::enter`].
    pub async fn enter(self) -> Result<Arc<Fs>> {
        match self {
            Route::Ready(fs) => Ok(fs),
            Route::Into(buckets, ino) => buckets.enter(ino).await,
        }
    }
}

impl Tree {
    pub(super) fn near(&self, ino: INodeNo) -> Option<Near<'_>> {
        match self {
            Tree::One(fs) => Some(Near::One(fs)),
            Tree::Many(buckets) => buckets.entered(Ino(ino.0)).map(Near::Of),
        }
    }

    pub(super) fn route(&self, ino: INodeNo) -> Route {
        match self {
            Tree::One(fs) => Route::Ready(fs.clone()),
            Tree::Many(buckets) => match buckets.entered(Ino(ino.0)) {
                Some(fs) => Route::Ready(fs),
                None => Route::Into(buckets.clone(), Ino(ino.0)),
            },
        }
    }

    /// The buckets, when `ino` is the directory that holds them.
    pub(super) fn top(&self, ino: INodeNo) -> Option<&Arc<Buckets>> {
        match self {
            Tree::Many(buckets) if Ino(ino.0) == ROOT => Some(buckets),
            _ => None,
        }
    }

    /// What is known of the level of the buckets, and of a bucket where nobody has been.
    pub(super) fn outside(&self, ino: INodeNo) -> Option<Entry> {
        match self {
            Tree::One(_) => None,
            Tree::Many(buckets) => buckets.outside(Ino(ino.0)),
        }
    }

    /// Whether nothing can be moved from the one directory to the other: they are different stores.
    pub(super) fn are_apart(&self, a: INodeNo, b: INodeNo) -> bool {
        match self {
            Tree::One(_) => false,
            Tree::Many(_) => {
                let (a, b) = (Ino(a.0), Ino(b.0));
                a == ROOT || b == ROOT || Space::part_of(a) != Space::part_of(b)
            }
        }
    }

    /// What `..` is.
    pub(super) fn parent(&self, fs: &Fs, ino: Ino) -> Ino {
        match self {
            Tree::Many(_) if ino == fs.root() => ROOT,
            _ => fs.parent(ino),
        }
    }

    pub(super) fn forget(&self, ino: INodeNo, count: u64) {
        match self {
            Tree::One(fs) => fs.forget(Ino(ino.0), count),
            Tree::Many(buckets) => {
                // The root of a bucket stays, known to the kernel or not.
                if let Some(fs) = buckets.entered(Ino(ino.0)).filter(|fs| fs.root() != Ino(ino.0)) {
                    fs.forget(Ino(ino.0), count);
                }
            }
        }
    }

    pub fn set_kernel(&self, kernel: Arc<dyn Kernel>) {
        match self {
            Tree::One(fs) => fs.set_kernel(kernel),
            Tree::Many(buckets) => buckets.set_kernel(kernel),
        }
    }

    pub(super) fn op_timeout(&self) -> Duration {
        match self {
            Tree::One(fs) => fs.settings.op_timeout,
            Tree::Many(buckets) => buckets.settings.op_timeout,
        }
    }

    pub(super) fn capacity(&self) -> u64 {
        match self {
            Tree::One(fs) => fs.settings.capacity,
            Tree::Many(buckets) => buckets.settings.capacity,
        }
    }

    pub(super) fn passthrough(&self) -> bool {
        match self {
            Tree::One(fs) => fs.settings.passthrough,
            Tree::Many(buckets) => buckets.settings.passthrough,
        }
    }

    pub(super) fn lists_all_xattrs(&self) -> bool {
        match self {
            Tree::One(fs) => fs.settings.list_all_xattrs,
            Tree::Many(buckets) => buckets.settings.list_all_xattrs,
        }
    }
}

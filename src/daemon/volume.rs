//! What the daemon drives: the file system as the kernel sees it, and the handles to end it and to look into it.

use std::time::Instant;

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use super::Request;
use crate::error::{Error, Kind, Result};
use crate::fuse::session::{Filesystem, Notifier};
use crate::key::Key;
use crate::s3::S3;

/// What could not be stored, and why.
pub type Unstored = Vec<(Key, Error)>;
/// Stores everything written so far, waiting until the deadline; says what is left. May be called again.
pub type Drain = Box<dyn Fn(Instant) -> BoxFuture<'static, Unstored> + Send + Sync>;

/// A file system ready to be mounted.
pub struct Volume<F> {
    pub filesystem: F,
    /// Called once when the mount is up.
    pub attach: Box<dyn FnOnce(Notifier) + Send>,
    pub drain: Drain,
    /// The state as text, for the log.
    pub dump: Box<dyn Fn() -> String + Send + Sync>,
}

/// Turns options into the settings of each layer and puts the layers together.
pub fn build_fs(request: &Request, s3: S3, runtime: &Handle) -> Result<Volume<impl Filesystem + use<>>> {
    // SEAM: the only thing in this module that is not final. Here `fs::Fs::new` and `fuse::adapter::Adapter::new`
    // are called with what `request.options` says, and `drain` and `dump` become those of the `Fs`.
    let _ = (request, s3, runtime);
    Err::<Volume<Unbuilt>, _>(Error::new(Kind::Unsupported, "this build has no file system"))
}

/// Stands where the adapter will.
struct Unbuilt;

impl Filesystem for Unbuilt {}

//! The options of the disk cache.

use std::path::PathBuf;

use super::options::Passthrough;

/// Of a mount without `cache_dir` none of it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskOptions {
    /// `None`: nothing is kept on the disk.
    pub dir: Option<PathBuf>,
    /// Bytes that the files may take.
    pub size: u64,
    /// Bytes of the file system that stay free.
    pub free: u64,
    pub passthrough: Passthrough,
}

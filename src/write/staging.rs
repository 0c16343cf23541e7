//! The unlinked sparse file that takes written bytes when memory is short.
//!
//! Every call that touches the disk runs on tokio's blocking threads: a slow or failing disk never stops a FUSE
//! thread, and a full one is an error of the write that met it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::error::{Error, Kind, Result};

fn meaning(what: &'static str, e: &io::Error) -> Error {
    let kind = match e.kind() {
        io::ErrorKind::QuotaExceeded => Kind::Quota,
        io::ErrorKind::StorageFull | io::ErrorKind::FileTooLarge => Kind::NoSpace,
        // The directory is gone, or read-only: there is no room either.
        io::ErrorKind::NotFound
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::PermissionDenied => Kind::NoSpace,
        _ => Kind::Io,
    };
    Error::new(kind, format!("{what}: {e}")).with_fix("check `staging_dir` and its disk")
}

pub(super) async fn blocking<T: Send + 'static>(
    what: &'static str,
    f: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(f).await {
        Ok(done) => done.map_err(|e| meaning(what, &e)),
        Err(_) => Err(Error::new(Kind::Io, format!("{what}: the runtime is shutting down"))),
    }
}

/// A new file without a name: it is gone with its last user, whatever happens to the process.
pub(super) async fn open(dir: &Path) -> Result<Arc<File>> {
    let dir = dir.to_owned();
    let open = move || {
        tempfile::tempfile_in(&dir).or_else(|e| match e.kind() {
            // Somebody cleaned up below a running mount.
            io::ErrorKind::NotFound => {
                std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
                tempfile::tempfile_in(&dir)
            }
            _ => Err(e),
        })
    };
    blocking("open staging file", move || open().map(Arc::new)).await
}

/// One write to a staging file.
pub(super) enum Job {
    Data { offset: u64, bytes: Bytes },
    Zeros(Range<u64>),
}

pub(super) async fn run(file: &Arc<File>, jobs: Vec<Job>) -> Result<()> {
    let file = file.clone();
    blocking("write staging file", move || {
        for job in jobs {
            match job {
                Job::Data { offset, bytes } => file.write_all_at(&bytes, offset)?,
                Job::Zeros(range) => {
                    let zeros = [0u8; 16 << 10];
                    let mut at = range.start;
                    while at < range.end {
                        let n = (range.end - at).min(zeros.len() as u64);
                        file.write_all_at(&zeros[..n as usize], at)?;
                        at += n;
                    }
                }
            }
        }
        Ok(())
    })
    .await
}

pub(super) async fn read(file: &Arc<File>, range: Range<u64>) -> Result<Bytes> {
    let file = file.clone();
    blocking("read staging file", move || {
        let mut buffer = BytesMut::zeroed((range.end - range.start) as usize);
        file.read_exact_at(&mut buffer, range.start)?;
        Ok(buffer.freeze())
    })
    .await
}

/// Hands a range out piece by piece; blocks.
pub(super) fn each_chunk(
    file: &File,
    range: Range<u64>,
    out: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; (range.end - range.start).min(1 << 20) as usize];
    let mut at = range.start;
    while at < range.end {
        let n = (range.end - at).min(buffer.len() as u64) as usize;
        file.read_exact_at(&mut buffer[..n], at)?;
        out(&buffer[..n])?;
        at += n as u64;
    }
    Ok(())
}

/// Gives disk space past `size` back; best effort, for the bytes there are no longer part of anything.
pub(super) async fn shrink(file: &Arc<File>, size: u64) {
    let file = file.clone();
    let done = blocking("shrink staging file", move || {
        if file.metadata()?.len() > size {
            file.set_len(size)?;
        }
        Ok(())
    });
    if let Err(e) = done.await {
        tracing::debug!("{e}");
    }
}

/// Gives the disk space of `range` back; best effort.
pub(super) async fn punch(file: &Arc<File>, range: Range<u64>) {
    use nix::fcntl::{FallocateFlags, fallocate};
    let file = file.clone();
    let _ = tokio::task::spawn_blocking(move || {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        // Offsets are below the object limit, which is far below i64::MAX.
        let _ = fallocate(&*file, flags, range.start as i64, (range.end - range.start) as i64);
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_disk_keep_their_meaning() {
        for (errno, kind) in [
            (libc::ENOSPC, Kind::NoSpace),
            (libc::EDQUOT, Kind::Quota),
            (libc::EROFS, Kind::NoSpace),
            (libc::ENOENT, Kind::NoSpace),
            (libc::ENOTDIR, Kind::NoSpace),
            (libc::EACCES, Kind::NoSpace),
            (libc::EFBIG, Kind::NoSpace),
            (libc::EIO, Kind::Io),
        ] {
            assert_eq!(meaning("write", &io::Error::from_raw_os_error(errno)).kind(), kind, "{errno}");
        }
    }
}

//! The directory of a mount before something is mounted there: is it free, dead, taken, or taken by the same?
//!
//! 1. A dead mount (its daemon was killed) answers ENOTCONN to everything, and a stuck one answers nothing. So the
//!    mount table is asked first, and what touches the directory runs in a thread of its own with a deadline.
//! 2. An automount point must not be touched at all: looking into it waits for the very mount that is being made.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::statvfs::statvfs;

use super::mountinfo::{self, Entry};
use super::session;
use crate::error::{Error, Kind, Result};

/// Local directories answer in microseconds; this is for network file systems below the mount point.
const PATIENCE: Duration = Duration::from_secs(10);
/// Dead mounts stacked on each other by a loop that never looked.
const MAX_DEAD: usize = 64;

/// What stands at the directory.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    Free {
        /// Something will be hidden by the mount.
        non_empty: bool,
    },
    /// Our file system with the same source, alive.
    Same(Entry),
}

/// Runs `f` in a thread and gives up on it after the deadline: a thread in an uninterruptible wait cannot be ended.
fn with_deadline<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (send, receive) = mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("target".into())
        .spawn(move || {
            let _ = send.send(f());
        })
        .ok()?;
    receive.recv_timeout(PATIENCE).ok()
}

fn stuck(dir: &Path) -> Error {
    Error::new(Kind::Timeout, format!("{} does not answer within {} s", dir.display(), PATIENCE.as_secs()))
        .with_fix(format!("if a stuck mount is there: xosfs umount --force {}", dir.display()))
}

fn table(error: io::Error) -> Error {
    Error::new(Kind::Io, format!("read /proc/self/mountinfo: {error}")).with_fix("is /proc mounted?")
}

fn is_dead(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED))
}

/// The directory's absolute path without symbolic links, without touching a mount that may be there.
pub fn resolve(dir: &Path) -> Result<PathBuf> {
    let wrong = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => Error::new(Kind::NotFound, format!("mount point {} does not exist", dir.display()))
            .with_fix(format!("create it: mkdir -p {}", dir.display())),
        _ => Error::new(Kind::Invalid, format!("mount point {}: {e}", dir.display())),
    };
    let absolute = std::path::absolute(dir).map_err(wrong)?;
    let by_parent = match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) if name != ".." => {
            let parent = parent.to_owned();
            let found = with_deadline(move || fs::canonicalize(parent)).ok_or_else(|| stuck(dir))?;
            Some(found.map_err(wrong)?.join(name))
        }
        _ => None,
    };
    if let Some(path) = by_parent
        && mountinfo::top_at(&path).map_err(table)?.is_some()
    {
        return Ok(path);
    }
    match with_deadline(move || fs::canonicalize(absolute)).ok_or_else(|| stuck(dir))? {
        Ok(path) => Ok(path),
        // A link to a dead mount.
        Err(e) if is_dead(&e) => fs::read_link(dir).map_err(wrong),
        Err(e) => Err(wrong(e)),
    }
}

/// Whether the mount at a directory has nobody behind it who answers.
pub fn is_abandoned(dir: &Path) -> bool {
    let dir = dir.to_owned();
    match with_deadline(move || statvfs(&dir).map_err(io::Error::from)) {
        Some(Ok(_)) => false,
        Some(Err(e)) => is_dead(&e),
        None => true,
    }
}

/// Looks at a resolved directory, detaches dead mounts from it, and says what is left.
///
/// Errors: [`Kind::Busy`] for a mount of something else, [`Kind::NotDir`], [`Kind::Timeout`].
pub fn prepare(dir: &Path, source: &str) -> Result<Target> {
    for _ in 0..MAX_DEAD {
        let entry = mountinfo::top_at(dir).map_err(table)?;
        if entry.as_ref().is_some_and(Entry::is_autofs) {
            return Ok(Target::Free { non_empty: false });
        }
        let path = dir.to_owned();
        let fuse = entry.as_ref().is_some_and(Entry::is_fuse);
        let looked = with_deadline(move || {
            // Attributes the kernel still has make a dead mount look alive; this it always asks the daemon for.
            if fuse && let Some(e) = statvfs(&path).err().map(io::Error::from).filter(is_dead) {
                return Err(e);
            }
            let meta = fs::metadata(&path)?;
            Ok((meta.is_dir(), meta.is_dir() && fs::read_dir(&path).is_ok_and(|mut d| d.next().is_some())))
        });
        match (looked.ok_or_else(|| stuck(dir))?, entry) {
            (Err(e), Some(entry)) if is_dead(&e) && entry.is_fuse() => {
                tracing::warn!(dir = %dir.display(), source = entry.source, "detaching a dead mount");
                session::unmount_path(dir, true)?;
            }
            (Err(e), _) => return Err(Error::new(Kind::Io, format!("mount point {}: {e}", dir.display()))),
            (Ok(_), Some(entry)) if entry.is_ours() && entry.source == source => return Ok(Target::Same(entry)),
            (Ok(_), Some(entry)) if entry.is_fuse() => {
                let what = format!("{} is busy: {} ({}) is mounted there", dir.display(), entry.source, entry.fs_type);
                return Err(Error::new(Kind::Busy, what).with_fix("unmount it first, or choose another directory"));
            }
            (Ok((false, _)), _) => {
                let what = format!("mount point {} is not a directory", dir.display());
                return Err(Error::new(Kind::NotDir, what).with_fix("name a directory"));
            }
            (Ok((true, non_empty)), _) => return Ok(Target::Free { non_empty }),
        }
    }
    Err(Error::new(Kind::Busy, format!("{} has more than {MAX_DEAD} dead mounts", dir.display()))
        .with_fix("umount -l it"))
}

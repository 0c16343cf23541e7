//! The directory of a journal: its lock, whose it is, and what the disk has room for.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::statvfs::statvfs;

use super::Identity;
use super::scan::trouble;
use crate::error::{Error, Kind, Result};

/// The default bound on what is pending, and the share of the disk it may not exceed.
const LIMIT: u64 = 8 << 30;
const SHARE: u64 = 10;

pub(super) fn base(state_dir: &Path) -> PathBuf {
    state_dir.join("journal")
}

pub(super) fn make_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| trouble("make", dir, &e).with_fix("let the mount write to `state_dir`, or choose another one"))
}

/// The lock of a journal directory; `None` when somebody holds it, or removed it meanwhile.
pub(super) fn lock(dir: &Path) -> Result<Option<Flock<File>>> {
    let path = dir.join("lock");
    let open = File::options().create(true).append(true).mode(0o600).open(&path);
    let file = match open {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(trouble("open", &path, &e).with_fix("let the mount write to `state_dir`")),
    };
    let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { return Ok(None) };
    let same = lock.metadata().is_ok_and(|ours| fs::metadata(&path).is_ok_and(|there| there.ino() == ours.ino()));
    Ok(same.then_some(lock))
}

/// Removes a directory that is locked by us: renamed first, so that nobody ever sees a part of it.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    let gone = dir.with_extension(format!("{}.gone", std::process::id()));
    fs::rename(dir, &gone)?;
    fs::remove_dir_all(gone)
}

pub(super) fn write_identity(dir: &Path, identity: &Identity) -> Result<()> {
    let path = dir.join("identity.json");
    let text = serde_json::to_vec(identity).map_err(|e| Error::new(Kind::Io, format!("journal identity: {e}")))?;
    let mut options = File::options();
    let file = options.create(true).write(true).truncate(true).mode(0o600).open(&path);
    file.and_then(|mut f| io::Write::write_all(&mut f, &text)).map_err(|e| trouble("write", &path, &e))
}

/// Copies (as links) of segments that are damaged, for somebody to look at.
pub(super) fn keep_damaged(dir: &Path) {
    let aside = dir.join("damaged");
    let kept = fs::DirBuilder::new().mode(0o700).create(&aside).and_then(|()| {
        let names: HashSet<_> = fs::read_dir(dir)?.flatten().map(|e| e.file_name()).collect();
        for name in names.iter().filter(|n| n.to_string_lossy().ends_with(".log")) {
            fs::hard_link(dir.join(name), aside.join(name))?;
        }
        Ok(())
    });
    if let Err(e) = kept {
        tracing::warn!("a damaged journal could not be set aside in {}: {e}", aside.display());
    }
}

/// Bytes of the disk that are free for us.
pub(super) fn free(dir: &Path) -> u64 {
    statvfs(dir).map_or(u64::MAX, |s| s.blocks_available().saturating_mul(s.fragment_size()))
}

pub(super) fn default_limit(dir: &Path) -> u64 {
    let disk = statvfs(dir).map_or(u64::MAX, |s| s.blocks().saturating_mul(s.fragment_size()));
    LIMIT.min(disk / SHARE)
}

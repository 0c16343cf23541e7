//! What a daemon leaves on disk for `xosfs umount` and for the next `mount`: who serves a directory, and what of it
//! could not be stored.
//!
//! 1. A process number comes back after a while: the start time of the process goes with it.
//! 2. The record of a daemon that was killed stays; it is replaced by the next one and never believed alone.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::volume::Unstored;
use super::{Request, env};
use crate::config::options::user_cache;
use crate::config::value;
use crate::error::{Error, Kind, Result};
use crate::key::stable_hash;

const POLL: Duration = Duration::from_millis(20);

/// The record of one mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub pid: i32,
    /// In clock ticks since the machine started, as the kernel counts.
    start: u64,
    pub dir: PathBuf,
    pub source: String,
    pub endpoint: Option<String>,
    /// Where its journal is.
    #[serde(default)]
    pub state_dir: Option<PathBuf>,
    /// Seconds.
    pub shutdown_timeout: u64,
    /// Key and reason of what could not be stored; only at the end.
    pub unstored: Vec<(String, String)>,
}

fn base() -> PathBuf {
    if value::caller().0 == 0 {
        return PathBuf::from("/run/xosfs");
    }
    match env("XDG_RUNTIME_DIR").filter(|d| d.starts_with('/')) {
        Some(dir) => PathBuf::from(dir).join("xosfs"),
        None => user_cache(&env).join("run"),
    }
}

fn file_of(dir: &Path, extension: &str) -> PathBuf {
    base().join(format!("{:016x}.{extension}", stable_hash(dir.as_os_str().as_bytes())))
}

fn make_base() -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(base())
}

/// When the process started; `None` when it is gone or only waits to be reaped.
fn start_of(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may have spaces and parentheses itself.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

impl State {
    /// The record of this process serving the request.
    pub fn of(request: &Request) -> State {
        let pid = std::process::id().cast_signed();
        State {
            pid,
            start: start_of(pid).unwrap_or(0),
            dir: request.dir.clone(),
            source: request.source.to_string(),
            endpoint: request.options.endpoint.clone(),
            state_dir: Some(request.options.state(&env)),
            shutdown_timeout: request.options.shutdown_timeout.as_secs(),
            unstored: Vec::new(),
        }
    }

    /// Every record of this user, readable ones only.
    pub fn all() -> Vec<State> {
        let Ok(entries) = fs::read_dir(base()) else { return Vec::new() };
        let mut all: Vec<State> = entries
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "json"))
            .filter_map(|p| serde_json::from_slice(&fs::read(p).ok()?).ok())
            .collect();
        all.sort_by(|a, b| a.dir.cmp(&b.dir));
        all
    }

    /// Where the daemon of this directory listens.
    pub fn socket(&self) -> PathBuf {
        file_of(&self.dir, "sock")
    }

    /// The last record for this directory.
    pub fn read(dir: &Path) -> Option<State> {
        let text = fs::read(file_of(dir, "json")).ok()?;
        serde_json::from_slice(&text).ok().filter(|state: &State| state.dir == dir)
    }

    pub fn write(&self) -> io::Result<()> {
        make_base()?;
        let path = file_of(&self.dir, "json");
        let fresh = path.with_extension(format!("{}.new", self.pid));
        let mut file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(fresh, path)
    }

    pub fn is_alive(&self) -> bool {
        start_of(self.pid) == Some(self.start)
    }

    /// Waits for the process to end; false when it has not within `patience`.
    pub fn wait(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(POLL);
        }
        true
    }

    /// Forgets the mount, unless another process has taken the directory over.
    pub fn remove(&self) {
        if State::read(&self.dir).is_some_and(|s| s.pid == self.pid && s.start == self.start) {
            let _ = fs::remove_file(file_of(&self.dir, "json"));
            // What a daemon that was killed left.
            let _ = fs::remove_file(self.socket());
        }
    }

    /// The end: what could not be stored stays on record, nothing else.
    pub fn finish(&mut self, unstored: &Unstored) {
        if unstored.is_empty() {
            return self.remove();
        }
        self.unstored = unstored.iter().map(|(key, error)| (key.to_string(), error.to_string())).collect();
        if let Err(e) = self.write() {
            tracing::error!("record of what is not stored: {e}");
        }
    }
}

/// The right to look at a directory and to mount on it; given back when dropped.
#[derive(Debug)]
pub struct Claim {
    /// `None` where no lock could be made.
    lock: Option<Flock<File>>,
    path: PathBuf,
}

impl Claim {
    /// Waits up to `patience` for somebody else who is mounting there.
    pub fn take(dir: &Path, patience: Duration) -> Result<Claim> {
        let path = file_of(dir, "lock");
        let deadline = Instant::now() + patience;
        loop {
            let file = make_base().and_then(|()| File::options().create(true).append(true).mode(0o600).open(&path));
            let file = match file {
                Ok(file) => file,
                // A read-only /run: mounting goes on without the protection.
                Err(e) => {
                    tracing::warn!("lock {}: {e}", path.display());
                    return Ok(Claim { lock: None, path });
                }
            };
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                // Who held it before has removed the file: the lock is worth nothing then.
                Ok(lock) if is_at(&lock, &path) => return Ok(Claim { lock: Some(lock), path }),
                Ok(_) => continue,
                Err(_) if Instant::now() < deadline => std::thread::sleep(POLL),
                Err(_) => {
                    let what = format!("somebody else is still mounting on {}", dir.display());
                    return Err(Error::new(Kind::Busy, what).with_fix("wait for it, or end that process"));
                }
            }
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    file.metadata().is_ok_and(|ours| fs::metadata(path).is_ok_and(|there| there.ino() == ours.ino()))
}

impl Drop for Claim {
    fn drop(&mut self) {
        // While the lock is held: whoever waits for it notices that the file is gone and starts over.
        if self.lock.is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_number_and_start() {
        let me = std::process::id().cast_signed();
        assert!(start_of(me).is_some_and(|s| s > 0));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id().cast_signed();
        let start = start_of(pid).unwrap();
        child.kill().unwrap();
        while start_of(pid).is_some() {
            std::thread::sleep(POLL);
        }
        child.wait().unwrap();
        assert!(start > 0);
    }

    #[test]
    fn only_one_may_mount_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Claim::take(dir.path(), Duration::ZERO).unwrap();
        let error = Claim::take(dir.path(), Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
        let path = first.path.clone();
        let waiting = std::thread::spawn({
            let dir = dir.path().to_owned();
            move || Claim::take(&dir, Duration::from_secs(10)).is_ok()
        });
        std::thread::sleep(Duration::from_millis(50));
        drop(first);
        assert!(waiting.join().unwrap());
        assert!(!path.exists());
    }
}

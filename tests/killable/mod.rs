//! Daemons that can be killed, without a kernel, and the store that they share.
//!
//! A daemon here is a file system with a runtime of its own. Killing it ends the runtime with everything that is on its
//! way; the next one starts on a copy of the state directory as it was at that moment, for the locks of this process
//! stay.

// Every test takes what it needs.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use xosfs::Result;
use xosfs::config::credentials::Credentials;
use xosfs::config::{Options, Source};
use xosfs::daemon::{connect, volume};
use xosfs::demo::{Action, Rule, Server};
use xosfs::fs::file::{OpenMode, WriteMode};
use xosfs::fs::{Fh, Fs, Ino, Lookup, ROOT};
use xosfs::key::Name;
use xosfs::s3::S3;
use xosfs::write::journal::Journal;

use crate::common;

pub const BUCKET: &str = "bucket";
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const OWNER: (u32, u32) = (1000, 100);

pub struct World {
    pub server: Server,
    pub temp: TempDir,
    pub states: std::cell::Cell<usize>,
}

pub struct Daemon {
    pub rt: Option<Runtime>,
    pub fs: Arc<Fs>,
    pub journal: Arc<Journal>,
    pub damage: Vec<String>,
}

pub fn world() -> World {
    World {
        server: Server::start_thread(xosfs::demo::Options::with_bucket(BUCKET)).unwrap(),
        temp: common::temp_dir(),
        states: std::cell::Cell::new(0),
    }
}

pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let there = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &there);
        } else {
            fs::copy(entry.path(), there).unwrap();
        }
    }
}

impl World {
    pub fn state(&self) -> PathBuf {
        self.temp.path().join(format!("state-{}", self.states.get()))
    }

    /// The state directory as a process that starts now finds it.
    pub fn snapshot(&self) -> PathBuf {
        let before = self.state();
        self.states.set(self.states.get() + 1);
        copy_dir(&before, &self.state());
        self.state()
    }

    pub fn start_with(&self, state: &Path, options: &str) -> Daemon {
        let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let inside = rt.enter();
        let staging = self.temp.path().join("staging");
        fs::create_dir_all(&staging).unwrap();
        let lists = vec![
            format!("endpoint={},staging_dir={}", self.server.endpoint(), staging.display()),
            format!("retries=0,state_dir={},{options}", state.display()),
        ];
        let source: Source = BUCKET.parse().unwrap();
        let options = Options::load(&lists, false, &|_| None).unwrap();
        let anonymous = Options { anonymous: true, ..options.clone() };
        let mut settings = connect::settings(&anonymous, &source, &|_| None).unwrap();
        let keys = self.server.keys();
        settings.credentials = Credentials::fixed(keys.access_key, keys.secret_key, None);
        let (journal, replay) = volume::open_journal(&options, &source).unwrap().unwrap();
        let damage = replay.damage.clone();
        let fs = volume::build_with(&options, source.prefix, S3::new(settings).unwrap(), Some(journal.clone()));
        fs.restore(replay);
        drop(inside);
        Daemon { rt: Some(rt), fs, journal, damage }
    }

    pub fn start(&self) -> Daemon {
        self.start_with(&self.state(), "writeback")
    }

    /// Ends the process as kill -9 does, and starts the next one.
    pub fn restart(&self, daemon: Daemon) -> Daemon {
        daemon.kill();
        self.start_with(&self.snapshot(), "writeback")
    }

    pub fn get(&self, key: &str) -> Option<Bytes> {
        self.server.store().get(BUCKET, key)
    }

    pub fn no_store(&self) {
        self.server.knobs().fail(Rule::new("PutObject", Action::Drop).always());
        self.server.knobs().fail(Rule::new("CreateMultipartUpload", Action::Drop).always());
    }

    pub fn store_again(&self) {
        self.server.knobs().clear_rules();
    }

    #[track_caller]
    pub fn count(&self, operation: &str) -> usize {
        self.server.log().iter().filter(|r| r.operation == operation).count()
    }
}

pub fn name(text: &str) -> Name {
    Name::parse(OsStr::new(text)).unwrap()
}

impl Daemon {
    pub fn block<T>(&self, work: impl Future<Output = T>) -> T {
        self.rt.as_ref().unwrap().block_on(async { tokio::time::timeout(PATIENCE, work).await.expect("in time") })
    }

    pub fn kill(mut self) {
        self.rt.take().unwrap().shutdown_background();
        // The journal's thread must not tidy up what the copy is made of.
        std::mem::forget(self.fs.clone());
    }

    pub fn find(&self, path: &str) -> Option<Ino> {
        let mut at = ROOT;
        for component in path.split('/') {
            match self.block(self.fs.lookup(at, &name(component))).unwrap() {
                Lookup::Found(entry) => at = entry.ino,
                Lookup::Absent(_) => return None,
            }
        }
        self.fs.looked_up(at);
        Some(at)
    }

    pub fn dir_of<'a>(&self, path: &'a str) -> (Ino, &'a str) {
        match path.rsplit_once('/') {
            Some((dir, last)) => (self.find(dir).unwrap(), last),
            None => (ROOT, path),
        }
    }

    pub fn open(&self, path: &str, flags: i32) -> Result<Fh> {
        let mode = OpenMode::of_flags(flags);
        if let Some(ino) = self.find(path) {
            return Ok(self.block(self.fs.open(ino, mode))?.fh);
        }
        let (dir, last) = self.dir_of(path);
        let (entry, opened) = self.block(self.fs.create(dir, &name(last), 0o644, OWNER, mode))?;
        self.fs.looked_up(entry.ino);
        Ok(opened.fh)
    }

    pub fn put(&self, fh: Fh, offset: u64, bytes: &[u8]) {
        self.block(self.fs.write(fh, offset, Bytes::copy_from_slice(bytes), WriteMode::default())).unwrap();
    }

    pub fn flush(&self, fh: Fh) -> Result<()> {
        self.block(self.fs.flush(fh, std::process::id()))
    }

    pub fn close(&self, fh: Fh) -> Result<()> {
        let done = self.flush(fh);
        let _ = self.block(self.fs.release(fh));
        done
    }

    pub fn try_write(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let fh = self.open(path, libc::O_WRONLY | libc::O_TRUNC)?;
        self.put(fh, 0, bytes);
        self.close(fh)
    }

    #[track_caller]
    pub fn write(&self, path: &str, bytes: &[u8]) {
        self.try_write(path, bytes).unwrap();
    }

    #[track_caller]
    pub fn read(&self, path: &str) -> Vec<u8> {
        let fh = self.open(path, libc::O_RDONLY).unwrap();
        let mut out = Vec::new();
        loop {
            let piece = self.block(self.fs.read(fh, out.len() as u64, 1 << 20)).unwrap();
            if piece.is_empty() {
                break;
            }
            out.extend_from_slice(&piece);
        }
        self.close(fh).unwrap();
        out
    }

    pub fn ls(&self) -> Vec<String> {
        let fh = self.fs.opendir(ROOT).unwrap();
        let mut names: Vec<String> = Vec::new();
        loop {
            let batch = self.block(self.fs.read_directory(fh, names.len() as u64)).unwrap();
            if batch.items.is_empty() {
                break;
            }
            names.extend(batch.items.iter().map(|i| i.name.as_str().to_owned()));
        }
        names.sort();
        names
    }

    pub fn unlink(&self, path: &str) -> Result<()> {
        let (dir, last) = self.dir_of(path);
        self.block(self.fs.unlink(dir, &name(last)))
    }

    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        let ((a, from), (b, to)) = (self.dir_of(from), self.dir_of(to));
        self.block(self.fs.rename((a, &name(from)), (b, &name(to)), false))
    }

    /// On a machine that is slow at the moment the first attempt to store it may come before the rename.
    #[track_caller]
    pub fn write_and_rename(&self, from: &str, bytes: &[u8], to: &str) {
        for _ in 0..50 {
            self.write(from, bytes);
            if self.rename(from, to).is_ok() {
                return;
            }
            self.unlink(from).unwrap();
        }
        panic!("{from} is always sent before it is renamed");
    }

    #[track_caller]
    pub fn settles(&self) {
        common::eventually(PATIENCE, "everything is stored, and the journal knows it", || {
            self.fs.pending().is_empty() && self.journal.pending().is_empty()
        });
    }

    pub fn pending_keys(&self) -> Vec<String> {
        self.fs.pending().into_iter().map(|p| p.key).collect()
    }
}

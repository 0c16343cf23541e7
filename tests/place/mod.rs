//! The real program on an embedded server, and a place to mount it at.
//!
//! 1. A daemon that hangs must not take the tests with it: every command runs with a deadline, files inside a mount
//!    are touched by commands only, and a mount that outlives its test is killed and detached.
//! 2. The program runs as another machine would run it: nothing of the caller's clouds, homes and proxies.
//!
//! What is mounted with which options says each test program in an `impl Place` of its own: `mount_command`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use xosfs::daemon::state::State;
use xosfs::demo::{self as embedded, Server};
use xosfs::fuse::mountinfo;

/// One command.
const DEADLINE: Duration = Duration::from_secs(60);
/// A mount to answer, a daemon to end.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn server() -> Server {
    Server::start_thread(embedded::Options::with_bucket("bucket")).unwrap()
}

/// Asks until it holds.
#[track_caller]
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A command that knows nothing of the caller.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().to_ascii_uppercase();
        if ["AWS_", "OBS_", "RCLONE_", "XOSFS_"].iter().any(|p| text.starts_with(p)) || text.ends_with("_PROXY") {
            command.env_remove(name);
        }
    }
    command.env("HOME", "/nonexistent").env("LC_ALL", "C.UTF-8").env_remove("NOTIFY_SOCKET");
    command.stdin(Stdio::null());
    command
}

pub fn xosfs() -> Command {
    command(env!("CARGO_BIN_EXE_xosfs"))
}

pub fn set_keys(command: &mut Command, server: &Server) {
    let keys = server.keys();
    command.env("AWS_ACCESS_KEY_ID", keys.access_key).env("AWS_SECRET_ACCESS_KEY", keys.secret_key);
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Waits for a process to end, at most so long.
pub fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return Some(status),
            None if Instant::now() >= deadline => return None,
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Runs to the end, or kills it and fails. What it prints goes to files: a daemon may keep a pipe open for ever.
#[track_caller]
pub fn run(command: &mut Command) -> Ran {
    let texts = tempfile::tempdir().unwrap();
    let (out, err) = (texts.path().join("out"), texts.path().join("err"));
    command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let status = wait(&mut child, DEADLINE);
    if status.is_none() {
        let _ = child.kill();
    }
    let ran = Ran {
        code: status.and_then(|s| s.code()),
        out: String::from_utf8_lossy(&fs::read(out).unwrap()).into_owned(),
        err: String::from_utf8_lossy(&fs::read(err).unwrap()).into_owned(),
    };
    assert!(status.is_some(), "no end within {DEADLINE:?}: {:?}: {ran:?}", command.get_args());
    ran
}

/// A script of bash in `dir`, with the program as `$XOSFS`.
#[track_caller]
pub fn sh(dir: &Path, script: &str) -> Ran {
    let mut bash = command("timeout");
    bash.args(["-k", "2", "40", "bash", "-euc"]).arg(format!("cd '{}'\n{script}", dir.display()));
    run(bash.env("XOSFS", env!("CARGO_BIN_EXE_xosfs")))
}

/// A script that has to succeed; what it printed.
#[track_caller]
pub fn ok(dir: &Path, script: &str) -> String {
    let ran = sh(dir, script);
    assert_eq!(ran.code, Some(0), "{script}: {ran:?}");
    ran.out
}

/// A mount point with a place for everything that belongs to it. Whatever is mounted there goes when it is dropped.
pub struct Place {
    /// Removed after the mount.
    pub temp: TempDir,
    pub dir: PathBuf,
}

impl Place {
    pub fn new() -> Place {
        let temp = tempfile::Builder::new().prefix("xosfs-place-").tempdir().unwrap();
        let dir = temp.path().canonicalize().unwrap().join("mnt");
        fs::create_dir(&dir).unwrap();
        Place { temp, dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    #[track_caller]
    pub fn mount(&self, server: &Server, source: &str, more: &str) {
        let ran = run(&mut self.mount_command(server, source, more));
        assert_eq!((ran.code, &*ran.out, &*ran.err), (Some(0), "", ""), "{}", self.log());
    }

    /// The record of a daemon that lives.
    pub fn state(&self) -> Option<State> {
        State::read(&self.dir).filter(State::is_alive)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(state) = self.state() {
            let _ = kill(Pid::from_raw(state.pid), Signal::SIGKILL);
        }
        // Before the directory is removed with what is in it.
        while mountinfo::all().is_ok_and(|all| all.iter().any(|e| e.dir == self.dir && e.is_fuse())) {
            if umount2(&self.dir, MntFlags::MNT_DETACH).is_err() {
                break;
            }
        }
        // What a killed daemon leaves on record, and one that could not store everything.
        if let Some(state) = State::read(&self.dir) {
            state.remove();
        }
        if std::thread::panicking() {
            eprintln!("--- log of the daemon\n{}---", self.log());
        }
    }
}

//! What an administrator asks a running mount, and what is left of one that died: the real program on the embedded
//! server.
//!
//! 1. Every command has a deadline, files inside a mount are touched by commands only, and a mount that outlives its
//!    test is killed and detached.
//! 2. Other mounts of this user may exist while the tests run: what lists all of them is only asked for its own.
#![cfg(feature = "demo")]

mod doctor;
mod figures;
mod journal;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use xosfs::daemon::state::State;
use xosfs::demo::{self as embedded, Server};
use xosfs::fuse::mountinfo;

const DEADLINE: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(30);

fn server() -> Server {
    Server::start_thread(embedded::Options::with_bucket("bucket")).unwrap()
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A command that knows nothing of the caller.
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().to_ascii_uppercase();
        if ["AWS_", "OBS_", "XOSFS_"].iter().any(|p| text.starts_with(p)) || text.ends_with("_PROXY") {
            command.env_remove(name);
        }
    }
    command.env("HOME", "/nonexistent").env("LC_ALL", "C.UTF-8").env_remove("NOTIFY_SOCKET");
    command.stdin(Stdio::null());
    command
}

fn xosfs() -> Command {
    command(env!("CARGO_BIN_EXE_xosfs"))
}

fn set_keys(command: &mut Command, server: &Server) {
    let keys = server.keys();
    command.env("AWS_ACCESS_KEY_ID", keys.access_key).env("AWS_SECRET_ACCESS_KEY", keys.secret_key);
}

/// What a command printed and how it ended.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
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
fn run(command: &mut Command) -> Ran {
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
fn sh(dir: &Path, script: &str) -> Ran {
    let mut bash = command("timeout");
    bash.args(["-k", "2", "40", "bash", "-euc"]).arg(format!("cd '{}'\n{script}", dir.display()));
    run(bash.env("XOSFS", env!("CARGO_BIN_EXE_xosfs")))
}

/// A script that has to succeed; what it printed.
#[track_caller]
fn ok(dir: &Path, script: &str) -> String {
    let ran = sh(dir, script);
    assert_eq!(ran.code, Some(0), "{script}: {ran:?}");
    ran.out
}

/// A mount point. Whatever is mounted there goes when it is dropped.
struct Place {
    /// Removed after the mount.
    temp: TempDir,
    dir: PathBuf,
}

impl Place {
    fn new() -> Place {
        let temp = tempfile::Builder::new().prefix("xosfs-status-").tempdir().unwrap();
        let dir = temp.path().canonicalize().unwrap().join("mnt");
        fs::create_dir(&dir).unwrap();
        Place { temp, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn options(&self, server: &Server, more: &str) -> String {
        let comma = if more.is_empty() { "" } else { "," };
        let path = |name: &str| self.path(name).display().to_string();
        let dirs = format!("staging_dir={},state_dir={},log={}", path("staging"), path("state"), path("log"));
        format!("endpoint={},{dirs}{comma}{more}", server.endpoint())
    }

    fn mount_command(&self, server: &Server, source: &str, more: &str) -> Command {
        let mut mount = xosfs();
        set_keys(&mut mount, server);
        mount.args(["mount", source]).arg(&self.dir).arg("-o").arg(self.options(server, more));
        mount
    }

    #[track_caller]
    fn mount(&self, server: &Server, source: &str, more: &str) {
        let ran = run(&mut self.mount_command(server, source, more));
        assert_eq!((ran.code, &*ran.out, &*ran.err), (Some(0), "", ""), "{}", self.log());
    }

    /// `xosfs COMMAND DIR ARGS…`.
    #[track_caller]
    fn ask(&self, name: &str, args: &[&str]) -> Ran {
        run(xosfs().args(name.split(' ')).arg(&self.dir).args(args))
    }

    /// The figures of this mount.
    #[track_caller]
    fn status(&self) -> Value {
        let ran = self.ask("status", &["--json"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran.json()["mounts"][0].clone()
    }

    #[track_caller]
    fn umount(&self) {
        let ran = self.ask("umount", &[]);
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{}", self.log());
    }

    fn state(&self) -> Option<State> {
        State::read(&self.dir).filter(State::is_alive)
    }

    /// Ends the daemon as a crash would.
    fn crash(&self) {
        let state = self.state().expect("a daemon lives");
        kill(Pid::from_raw(state.pid), Signal::SIGKILL).unwrap();
        assert!(state.wait(PATIENCE));
    }

    fn log(&self) -> String {
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
        if let Some(state) = State::read(&self.dir) {
            let _ = fs::remove_file(state.socket());
            state.remove();
        }
        if std::thread::panicking() {
            eprintln!("--- log of the daemon\n{}---", self.log());
        }
    }
}

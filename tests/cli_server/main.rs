//! The real program on the embedded server: what people type, what mount(8) and a shell do with it, and what is left
//! behind when something is wrong.
//!
//! 1. A daemon that hangs must not take the tests with it: every command runs with a deadline, files inside a mount
//!    are touched by commands only, and a mount that outlives its test is killed and detached.
//! 2. The program runs as another machine would run it: nothing of the caller's clouds, homes and proxies.
#![cfg(feature = "demo")]

mod bad_input;
mod connect;
mod demo;
mod life;
mod system;
mod user;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
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
const PATIENCE: Duration = Duration::from_secs(30);

fn server() -> Server {
    Server::start_thread(embedded::Options::with_bucket("bucket")).unwrap()
}

/// Asks until it holds.
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
        if ["AWS_", "OBS_", "RCLONE_"].iter().any(|p| text.starts_with(p)) || text.ends_with("_PROXY") {
            command.env_remove(name);
        }
    }
    command.env("HOME", "/nonexistent").env("LC_ALL", "C.UTF-8").env_remove("NOTIFY_SOCKET");
    command.stdin(Stdio::null());
    command
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

/// Waits for a process to end, at most so long.
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

/// A script of bash in `dir`.
#[track_caller]
fn sh(dir: &Path, script: &str) -> Ran {
    let mut bash = command("timeout");
    bash.args(["-k", "2", "40", "bash", "-euc"]).arg(format!("cd '{}'\n{script}", dir.display()));
    run(&mut bash)
}

/// A script that has to succeed; what it printed.
#[track_caller]
fn ok(dir: &Path, script: &str) -> String {
    let ran = sh(dir, script);
    assert_eq!(ran.code, Some(0), "{script}: {ran:?}");
    ran.out
}

/// A mount point with a place for everything that belongs to it. Whatever is mounted there goes when it is dropped.
struct Place {
    /// Removed after the mount.
    temp: TempDir,
    dir: PathBuf,
}

impl Place {
    fn new() -> Place {
        let temp = tempfile::Builder::new().prefix("xosfs-cli-").tempdir().unwrap();
        let dir = temp.path().canonicalize().unwrap().join("mnt");
        fs::create_dir(&dir).unwrap();
        Place { temp, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// Options without which nothing works here, and further ones.
    fn options(&self, server: &Server, more: &str) -> String {
        let comma = if more.is_empty() { "" } else { "," };
        let (staging, log) = (self.path("staging"), self.path("log"));
        format!("endpoint={},staging_dir={},log={}{comma}{more}", server.endpoint(), staging.display(), log.display())
    }

    /// `xosfs mount SOURCE DIR -o …`, not run yet.
    fn mount_command(&self, server: &Server, source: &str, more: &str) -> Command {
        let mut mount = command(env!("CARGO_BIN_EXE_xosfs"));
        set_keys(&mut mount, server);
        mount.env("STATE_DIRECTORY", self.path("state"));
        mount.args(["mount", source]).arg(&self.dir).arg("-o").arg(self.options(server, more));
        mount
    }

    #[track_caller]
    fn mount(&self, server: &Server, source: &str, more: &str) {
        let ran = run(&mut self.mount_command(server, source, more));
        assert_eq!((ran.code, &*ran.out, &*ran.err), (Some(0), "", ""), "{}", self.log());
    }

    /// In the foreground, up and answering.
    #[track_caller]
    fn foreground(&self, server: &Server, source: &str, more: &str) -> Child {
        let mut mount = self.mount_command(server, source, more);
        let mut child = mount.arg("--foreground").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        until("the mount answers", || {
            assert_eq!(child.try_wait().unwrap(), None, "{}", self.log());
            self.state().is_some()
        });
        ok(&self.dir, "stat . >/dev/null");
        child
    }

    #[track_caller]
    fn umount(&self) -> Ran {
        run(command(env!("CARGO_BIN_EXE_xosfs")).arg("umount").arg(&self.dir))
    }

    /// The mounts at the directory, as the kernel lists them: source and type.
    fn mounts(&self) -> Vec<(String, String)> {
        let all = mountinfo::all().unwrap();
        all.into_iter().filter(|e| e.dir == self.dir).map(|e| (e.source, e.fs_type)).collect()
    }

    /// The record of a daemon that lives.
    fn state(&self) -> Option<State> {
        State::read(&self.dir).filter(State::is_alive)
    }

    /// Processes that have the directory in their command line.
    fn processes(&self) -> Vec<i32> {
        // pgrep does not list itself; `timeout` would be listed.
        let mut pgrep = command("pgrep");
        pgrep.arg("-f").arg(format!("^xosfs mount .*{}$", self.dir.display()));
        run(&mut pgrep).out.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// Nothing mounted, no process, no record.
    #[track_caller]
    fn assert_clean(&self) {
        assert_eq!(self.mounts(), []);
        assert!(self.state().is_none());
        assert!(self.processes().is_empty(), "{}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The program under another name.
    fn called(&self, name: &str) -> PathBuf {
        let link = self.path(name);
        if !link.exists() {
            symlink(env!("CARGO_BIN_EXE_xosfs"), &link).unwrap();
        }
        link
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(state) = self.state() {
            let _ = kill(Pid::from_raw(state.pid), Signal::SIGKILL);
        }
        // Before the directory is removed with what is in it.
        while self.mounts().iter().any(|(_, fs_type)| fs_type.contains("fuse")) {
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

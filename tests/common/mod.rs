//! What the integration tests share: a server, a mount, an independent client, a shell.
//!
//! `XOSFS_TEST_BIN` names another binary to test than the one just built; `XOSFS_TEST_LOG` sets the daemon's log level.

// Each test target compiles this module and uses its own part of it.
#![allow(dead_code, unused_imports)]

pub mod commands;
mod mount;
pub mod noise;
mod server;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub use mount::{TestMount, is_mounted};
pub use server::TestServer;

/// How long one command may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(420);

pub fn binary() -> PathBuf {
    std::env::var_os("XOSFS_TEST_BIN").map_or_else(|| env!("CARGO_BIN_EXE_xosfs").into(), PathBuf::from)
}

/// The shorter form of the long tests.
pub fn quick() -> bool {
    std::env::var_os("XOSFS_TEST_QUICK").is_some()
}

/// A directory on a real disk, removed when dropped. `/tmp` may be memory.
pub fn temp_dir() -> TempDir {
    tempfile::Builder::new().prefix("xosfs-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Asks until `check` holds.
#[track_caller]
pub fn eventually(within: Duration, what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !check() {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A command that knows nothing of the caller's clouds, proxies, repositories and locale.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut c = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let lower = name.to_lowercase();
        if name.starts_with("AWS_")
            || name.starts_with("GIT_")
            || name.starts_with("RCLONE_")
            || lower.ends_with("_proxy")
        {
            c.env_remove(&name);
        }
    }
    c.env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    c.env("AWS_CONFIG_FILE", "/nonexistent/config").env("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent/credentials");
    c.env("AWS_EC2_METADATA_DISABLED", "true");
    c.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    for role in ["AUTHOR", "COMMITTER"] {
        c.env(format!("GIT_{role}_NAME"), "A Tester").env(format!("GIT_{role}_EMAIL"), "tester@example.com");
    }
    c.stdin(Stdio::null());
    c
}

/// What a program printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn of(output: Output) -> Ran {
        Ran {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a bash script in `dir`, stopping at the first failing command.
pub fn try_sh(dir: &Path, script: &str) -> Ran {
    let output = command("timeout")
        .args(["-k", "5", &COMMAND_DEADLINE.as_secs().to_string(), "bash", "-euo", "pipefail", "-c", script])
        .current_dir(dir)
        .output()
        .unwrap_or_else(|e| panic!("cannot run a shell in {}: {e}", dir.display()));
    Ran::of(output)
}

/// Runs a bash script in `dir` that has to succeed; returns what it printed.
#[track_caller]
pub fn sh(dir: &Path, script: &str) -> String {
    let ran = try_sh(dir, script);
    assert!(ran.code == Some(0), "script failed in {}: {script}\n{}", dir.display(), shown(&ran));
    ran.out
}

/// Runs a bash script in `dir` that has to fail with `message` on stderr.
#[track_caller]
pub fn sh_fails(dir: &Path, script: &str, message: &str) {
    let ran = try_sh(dir, script);
    assert!(ran.code != Some(0), "script succeeded: {script}\n{}", shown(&ran));
    assert!(ran.err.contains(message), "no {message:?} from: {script}\n{}", shown(&ran));
}

fn shown(ran: &Ran) -> String {
    let part = |text: &str| match text.char_indices().nth_back(4000) {
        Some((at, _)) => format!("…{}", &text[at..]),
        None => text.to_owned(),
    };
    format!("exit code {:?}\n--- stdout\n{}\n--- stderr\n{}", ran.code, part(&ran.out), part(&ran.err))
}

/// Both texts have the same lines; says which they do not share.
#[track_caller]
pub fn assert_same_lines(found: &str, expected: &str, what: &str) {
    if found != expected {
        let only = |a: &str, b: &str| -> Vec<String> {
            let b: std::collections::HashSet<&str> = b.lines().collect();
            a.lines().filter(|l| !b.contains(l)).take(20).map(str::to_owned).collect()
        };
        panic!("{what}: found {:#?}, expected {:#?}", only(found, expected), only(expected, found));
    }
}

/// Keeps tests of one process apart. Whoever starts a program forks: the child has all files that other threads have
/// open, until it closes them on its way to the program: a mount finds a file open when another test has closed it.
pub fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

//! Each operation of the manuals as a person meets it: by a command of the program, and through a real mount. Which row
//! of the manuals a test proves stands in `tests/coverage/rows/`.
//!
//! 1. They run on the embedded server, or with `XOSFS_TEST_S3` on a real one; `XOSFS_TEST_ROLE` names a role that its
//!    keys may take. What only one of them has is said where it is used.
//! 2. What one side did is looked at from another: the mount's files by commands, signed URLs by curl, bytes by rclone.
#![cfg(feature = "demo")]

#[path = "../common/mod.rs"]
mod common;

mod commands;
mod mount;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use common::commands::Commands;
use common::{Ran, TestServer, alone, binary, command, temp_dir};
use tempfile::TempDir;

/// A server with a bucket, and a directory for local files.
struct World {
    server: TestServer,
    dir: TempDir,
    /// Every test here starts programs.
    _alone: std::sync::MutexGuard<'static, ()>,
}

impl World {
    fn new() -> World {
        let alone = alone();
        World { server: TestServer::start(), dir: temp_dir(), _alone: alone }
    }

    fn bucket(&self) -> &str {
        &self.server.bucket
    }

    fn uri(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.server.bucket)
    }

    /// A role that the keys may take.
    fn role(&self) -> String {
        match (self.server.embedded_server(), std::env::var("XOSFS_TEST_ROLE")) {
            (Some(_), _) => xosfs::demo::ROLE.to_owned(),
            (None, Ok(role)) => role,
            (None, Err(_)) => "arn:aws:iam:::role/S3Access".to_owned(),
        }
    }

    /// `xosfs ARGS…` in the directory.
    fn command(&self, args: &[&str]) -> Command {
        let mut c = self.server.program_there(120, args);
        c.current_dir(self.dir.path());
        c
    }

    fn run_with(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut c = self.command(args);
        let mut child = c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|s| {
            // A command that ends early reads no further.
            s.spawn(move || stdin.write_all(input).is_ok());
            Ran::of(child.wait_with_output().unwrap())
        })
    }

    /// Stores an object by a command.
    #[track_caller]
    fn put(&self, key: &str, text: &str) {
        let ran = self.run_with(&["cp", "-", &self.uri(key)], text.as_bytes());
        assert_eq!(ran.code, Some(0), "{key}: {ran:?}");
    }

    /// The text of an object by a command.
    #[track_caller]
    fn get(&self, key: &str) -> String {
        self.ok(&["cp", &self.uri(key), "-"])
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.dir.path().join(name), bytes).unwrap();
    }

    /// A client that knows nothing but HTTP: the status, and the body.
    #[track_caller]
    fn curl(&self, args: &[&str]) -> (u16, String) {
        let output = command("curl")
            .args(["-sS", "--max-time", "60", "-w", "\n%{http_code}"])
            .args(args)
            .current_dir(self.dir.path())
            .output()
            .expect("curl is installed (tests/run installs it)");
        assert!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    /// Requests of the embedded server since the last call; `None` on a real one.
    fn requests(&self) -> Option<BTreeMap<String, u64>> {
        let server = self.server.embedded_server()?;
        let counts = server.counts();
        server.clear_log();
        Some(counts)
    }

    /// How often an operation was asked for since the last call is `expected`, where that can be known.
    #[track_caller]
    fn assert_requests(&self, expected: &[(&str, u64)]) {
        if let Some(found) = self.requests() {
            for (operation, times) in expected {
                assert_eq!(found.get(*operation).copied().unwrap_or(0), *times, "{operation}: {found:?}");
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Versions too: what empties the buckets of a real server sees the latest ones only.
        if self.server.embedded_server().is_none() {
            self.run(&["rm", "-r", "--all", "--versions", &format!("s3://{}", self.bucket())]);
        }
    }
}

impl Commands for World {
    fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, b"")
    }

    /// Succeeds, with whatever it has to say about a real server; what it printed.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
        ran.out
    }
}

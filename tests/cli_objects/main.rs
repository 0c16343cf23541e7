//! The commands on objects and buckets, through the program, on the embedded server: what they do, what they print,
//! how they end, and what they say when they are used wrongly.
//!
//! 1. The program runs as on another machine: nothing of the caller's clouds and homes, and no terminal.
//! 2. Every command has a deadline.
#![cfg(feature = "demo")]

mod attributes;
mod buckets;
#[path = "../common/mod.rs"]
mod common;
mod copying;
mod each;
mod lists;
mod mounted;
mod objects;
mod rights;
mod signed;
mod wrong;

use std::path::Path;
use std::time::Duration;

use assert_cmd::Command;
use common::Ran;
use common::commands::Commands;
use tempfile::TempDir;
use xosfs::demo::{self as embedded, Server};

/// One command.
const DEADLINE: Duration = Duration::from_secs(120);

fn server() -> Server {
    Server::start_thread(embedded::Options::with_bucket("bucket")).unwrap()
}

/// A command that knows nothing of the caller.
fn clean(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().to_ascii_uppercase();
        if ["AWS_", "OBS_", "XOSFS_"].iter().any(|p| text.starts_with(p)) || text.ends_with("_PROXY") {
            command.env_remove(name);
        }
    }
    command.env("HOME", "/nonexistent").env("LC_ALL", "C.UTF-8").timeout(DEADLINE);
    command
}

/// A server and a directory for local files.
struct Place {
    server: Server,
    temp: TempDir,
}

impl Place {
    fn new() -> Place {
        Place { server: server(), temp: tempfile::Builder::new().prefix("xosfs-objects-").tempdir().unwrap() }
    }

    fn dir(&self) -> &Path {
        self.temp.path()
    }

    /// `xosfs ARGS…` with keys and endpoint, in the directory.
    fn command(&self, args: &[&str]) -> Command {
        let keys = self.server.keys();
        let mut command = clean(env!("CARGO_BIN_EXE_xosfs"));
        command.env("AWS_ACCESS_KEY_ID", keys.access_key).env("AWS_SECRET_ACCESS_KEY", keys.secret_key);
        command.env("AWS_ENDPOINT_URL", self.server.endpoint()).current_dir(self.dir()).args(args);
        command
    }

    /// Stores an object.
    #[track_caller]
    fn put(&self, key: &str, bytes: impl Into<Vec<u8>>) {
        let mut command = self.command(&["cp", "-", &format!("s3://bucket/{key}")]);
        let ran = ran(command.write_stdin(bytes));
        assert_eq!((ran.code, &*ran.out, &*ran.err), (Some(0), "", ""), "{key}");
    }

    #[track_caller]
    fn get(&self, key: &str) -> Vec<u8> {
        let output = self.command(&["cp", &format!("s3://bucket/{key}"), "-"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{key}: {output:?}");
        output.stdout
    }

    /// All keys below a prefix, sorted.
    #[track_caller]
    fn keys(&self, prefix: &str) -> Vec<String> {
        let lines = self.json_lines(&["ls", "-r", "--json", &format!("s3://bucket/{prefix}")]);
        lines.iter().map(|l| l["key"].as_str().unwrap().to_owned()).collect()
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.dir().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.dir().join(name)).unwrap()
    }

    /// Names in a local directory, hidden ones too.
    fn names(&self, dir: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir().join(dir)).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Requests of a kind since the last call of `clear`.
    fn count(&self, operation: &str) -> u64 {
        self.server.counts().get(operation).copied().unwrap_or(0)
    }

    fn clear(&self) {
        self.server.clear_log();
    }
}

impl Commands for Place {
    fn run(&self, args: &[&str]) -> Ran {
        ran(&mut self.command(args))
    }
}

fn ran(command: &mut Command) -> Ran {
    Ran::of(command.output().unwrap())
}

//! What xosfs writes boto3 reads, and the other way round: by the program, through a mount, and with what either signs
//! for people without keys. On the embedded server, or with `XOSFS_TEST_S3` on a real one.
//!
//! 1. boto3 shares no code with xosfs or with the embedded server; it checks both.
//! 2. It runs in a Python process of the test (`boto.py`): the one of `XOSFS_TEST_PYTHON`, else the one that `tests/run`
//!    makes. Without it the tests fail.
//! 3. Where servers differ in what they answer, the test says which one and why.

#![cfg(feature = "demo")]

#[path = "../common/mod.rs"]
mod common;

mod attributes;
mod buckets;
mod names;
mod sessions;
mod signed;
mod transfers;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::commands::Commands;
use common::{Ran, TestServer, command, temp_dir};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The life of one Python process, in seconds.
const PYTHON_DEADLINE: &str = "300";
/// One command.
const COMMAND_DEADLINE: u32 = 120;

fn python() -> PathBuf {
    if let Some(given) = std::env::var_os("XOSFS_TEST_PYTHON") {
        return given.into();
    }
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_owned();
    let made = target.join("tools/venv/bin/python");
    assert!(
        made.exists(),
        "there is no {}: run tests/run, or set XOSFS_TEST_PYTHON to a Python that has boto3",
        made.display()
    );
    made
}

/// A Python process with boto3.
struct Boto {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Boto {
    fn start(server: &TestServer) -> Boto {
        let mut c = command("timeout");
        c.args(["-k", "5", PYTHON_DEADLINE]).arg(python());
        c.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/boto.py"));
        c.env("INTEROP_ENDPOINT", &server.endpoint).env("INTEROP_REGION", &server.region);
        c.env("INTEROP_ACCESS_KEY", &server.access_key).env("INTEROP_SECRET_KEY", &server.secret_key);
        let mut child = c.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("timeout and Python run");
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Boto { child, to, from }
    }

    fn ask(&mut self, client: &str, call: &str, args: Value) -> Value {
        let line = json!({"client": client, "call": call, "args": args}).to_string();
        writeln!(self.to, "{line}").unwrap_or_else(|e| panic!("{call}: Python has ended: {e}"));
        let mut answer = String::new();
        self.from.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{call} {args}: {answer:?}: {e}"))
    }

    /// A call of a client (`s3`, `s3v2` for the old signature, `sts`) that succeeds.
    #[track_caller]
    fn with(&mut self, client: &str, call: &str, args: Value) -> Value {
        let shown = args.to_string();
        let mut answer = self.ask(client, call, args);
        assert!(answer.get("error").is_none(), "{call} {shown}: {answer}");
        answer["ok"].take()
    }

    #[track_caller]
    fn call(&mut self, call: &str, args: Value) -> Value {
        self.with("s3", call, args)
    }

    /// The error code of a call that fails.
    #[track_caller]
    fn refused(&mut self, call: &str, args: Value) -> String {
        let answer = self.ask("s3", call, args);
        assert!(answer.get("error").is_some(), "{call}: {answer}");
        answer["error"]["code"].as_str().unwrap().to_owned()
    }
}

impl Drop for Boto {
    fn drop(&mut self) {
        // `timeout` passes the signal on.
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.child.id().cast_signed()),
            nix::sys::signal::Signal::SIGTERM,
        );
        let _ = self.child.wait();
    }
}

/// Bytes as `boto.py` takes them.
fn encoded(bytes: impl AsRef<[u8]>) -> Value {
    json!({"base64": BASE64.encode(bytes)})
}

/// Bytes that it gave back.
#[track_caller]
fn decoded(value: &Value) -> Vec<u8> {
    BASE64.decode(value["base64"].as_str().unwrap_or_else(|| panic!("no bytes: {value}"))).unwrap()
}

/// A server with a bucket, Python, and a directory for local files.
struct Place {
    boto: Boto,
    server: TestServer,
    temp: TempDir,
}

impl Place {
    fn new() -> Place {
        let server = TestServer::start();
        Place { boto: Boto::start(&server), server, temp: temp_dir() }
    }

    fn is_embedded(&self) -> bool {
        self.server.embedded_server().is_some()
    }

    fn uri(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.server.bucket)
    }

    /// A call about one object of the bucket.
    #[track_caller]
    fn object(&mut self, call: &str, key: &str, more: Value) -> Value {
        let args = self.args(key, more);
        self.boto.call(call, args)
    }

    /// A call about the bucket.
    #[track_caller]
    fn of_bucket(&mut self, call: &str, more: Value) -> Value {
        let mut args = json!({"Bucket": self.server.bucket});
        args.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        self.boto.call(call, args)
    }

    fn args(&self, key: &str, more: Value) -> Value {
        let mut args = json!({"Bucket": self.server.bucket, "Key": key});
        args.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        args
    }

    fn run_with(&self, args: &[&str], env: &[(&str, &str)]) -> Ran {
        let mut c = self.server.program_there(COMMAND_DEADLINE, args);
        Ran::of(c.envs(env.iter().copied()).current_dir(self.temp.path()).output().unwrap())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.temp.path().join(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.temp.path().join(name)).unwrap()
    }
}

impl Commands for Place {
    /// `xosfs ARGS…` in the directory for local files.
    fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, &[])
    }
}

/// As sets: stores keep no order of tags and grants.
fn sorted(value: &Value) -> Vec<String> {
    let mut all: Vec<String> = value.as_array().unwrap_or(&Vec::new()).iter().map(Value::to_string).collect();
    all.sort();
    all
}

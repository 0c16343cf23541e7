//! A server, and what an independent client sees of it.
//!
//! 1. It is the embedded one, or with `XOSFS_TEST_S3="ENDPOINT ACCESS_KEY SECRET_KEY REGION"` a real one. Each test has a
//!    bucket of its own, so that tests run in parallel and leave nothing behind.
//! 2. What the mount did is judged by a program that shares no code with it: rclone.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{COMMAND_DEADLINE, Ran, binary, command, shown};

/// A server with one bucket that belongs to the test.
pub struct TestServer {
    pub endpoint: String,
    pub access_key: String,
    pub secret_key: String,
    pub region: String,
    pub bucket: String,
    embedded: Option<xosfs::demo::Server>,
    /// Somebody else's, which keeps what is in it.
    foreign: bool,
    /// Further buckets of the test.
    others: Mutex<Vec<String>>,
}

impl TestServer {
    pub fn start() -> TestServer {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let nanos = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        let bucket = format!("xosfs-{}-{nanos}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let Ok(real) = std::env::var("XOSFS_TEST_S3") else {
            return TestServer::embedded(bucket);
        };
        let fields: Vec<_> = real.split_whitespace().collect();
        let [endpoint, access_key, secret_key, region] = fields[..] else {
            panic!("XOSFS_TEST_S3 has to be \"ENDPOINT ACCESS_KEY SECRET_KEY REGION\"");
        };
        let server = TestServer {
            endpoint: endpoint.into(),
            access_key: access_key.into(),
            secret_key: secret_key.into(),
            region: region.into(),
            bucket,
            embedded: None,
            foreign: false,
            others: Mutex::default(),
        };
        server.rclone(&["mkdir", &server.remote("")]);
        server
    }

    /// A server that a test has of its own, and that takes any key.
    pub fn at(endpoint: &str) -> TestServer {
        TestServer {
            endpoint: endpoint.into(),
            access_key: "access".into(),
            secret_key: "secret".into(),
            region: "us-east-1".into(),
            bucket: "bucket".into(),
            embedded: None,
            foreign: true,
            others: Mutex::default(),
        }
    }

    fn embedded(bucket: String) -> TestServer {
        let server = xosfs::demo::Server::start_thread(xosfs::demo::Options {
            buckets: vec![bucket.clone()],
            ..Default::default()
        })
        .expect("the embedded server starts");
        let keys = server.keys();
        TestServer {
            endpoint: server.endpoint(),
            access_key: keys.access_key,
            secret_key: keys.secret_key,
            region: "us-east-1".into(),
            bucket,
            embedded: Some(server),
            foreign: false,
            others: Mutex::default(),
        }
    }

    /// The name of a further bucket of the test, which need not exist.
    pub fn name_of(&self, suffix: &str) -> String {
        let name = format!("{}-{suffix}", self.bucket);
        self.others.lock().unwrap().push(name.clone());
        name
    }

    /// A further bucket.
    #[track_caller]
    pub fn another(&self, suffix: &str) -> String {
        let name = self.name_of(suffix);
        self.rclone(&["mkdir", &format!("store:{name}")]);
        name
    }

    /// The embedded server, for its knobs and its log; `None` when the tests run on a real one.
    pub fn embedded_server(&self) -> Option<&xosfs::demo::Server> {
        self.embedded.as_ref()
    }

    /// Requests served so far by operation; `None` when the tests run on a real server.
    pub fn counts(&self) -> Option<BTreeMap<String, u64>> {
        self.embedded.as_ref().map(|s| s.counts())
    }

    /// Sets the keys in the environment, as a user would.
    pub fn set_env(&self, c: &mut Command) {
        c.env("AWS_ACCESS_KEY_ID", &self.access_key).env("AWS_SECRET_ACCESS_KEY", &self.secret_key);
    }

    /// `xosfs ARGS…` with the keys, and so many seconds to end in.
    pub fn program(&self, seconds: u32, args: &[&str]) -> Command {
        let mut c = command("timeout");
        c.args(["-k", "5", &seconds.to_string()]).arg(binary()).args(args);
        self.set_env(&mut c);
        c
    }

    /// The same, told where the store is.
    pub fn program_there(&self, seconds: u32, args: &[&str]) -> Command {
        let mut c = self.program(seconds, args);
        c.env("AWS_ENDPOINT_URL", &self.endpoint).env("AWS_REGION", &self.region);
        c
    }

    /// How rclone calls a key of the bucket.
    pub fn remote(&self, key: &str) -> String {
        format!("store:{}/{key}", self.bucket)
    }

    pub fn rclone_command(&self) -> Command {
        let mut c = command("timeout");
        c.args(["-k", "5", &COMMAND_DEADLINE.as_secs().to_string(), "rclone", "--quiet", "--retries", "1"]);
        self.set_env(&mut c);
        c.env("RCLONE_CONFIG", "/dev/null");
        for (name, value) in [
            ("TYPE", "s3"),
            ("PROVIDER", "Other"),
            ("ENV_AUTH", "true"),
            ("FORCE_PATH_STYLE", "true"),
            ("NO_CHECK_BUCKET", "true"),
            ("ENDPOINT", &self.endpoint),
            // A LocationConstraint is sent only for AWS; the region is there for the signature.
            ("REGION", &self.region),
        ] {
            c.env(format!("RCLONE_CONFIG_STORE_{name}"), value);
        }
        c
    }

    pub fn try_rclone(&self, args: &[&str]) -> Ran {
        let mut c = self.rclone_command();
        // Making the bucket is the one call that has to look for it.
        if args[0] == "mkdir" {
            c.env("RCLONE_CONFIG_STORE_NO_CHECK_BUCKET", "false");
        }
        let output = c.args(args).output().expect("timeout and rclone are installed (tests/run installs them)");
        Ran::of(output)
    }

    #[track_caller]
    pub fn rclone(&self, args: &[&str]) -> String {
        let ran = self.try_rclone(args);
        assert!(ran.code == Some(0), "rclone {args:?} failed\n{}", shown(&ran));
        ran.out
    }

    /// Stores a local file as an object.
    #[track_caller]
    pub fn upload(&self, file: &Path, key: &str) {
        self.rclone(&["copyto", file.to_str().unwrap(), &self.remote(key)]);
    }

    /// Stores `content` as an object.
    #[track_caller]
    pub fn put(&self, key: &str, content: &[u8]) {
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::write(file.path(), content).unwrap();
        self.upload(file.path(), key);
    }

    /// The content of an object.
    #[track_caller]
    pub fn get(&self, key: &str) -> Vec<u8> {
        let output = self.rclone_command().args(["cat", &self.remote(key)]).output().unwrap();
        assert!(output.status.success(), "rclone cat {key}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Keys of all objects under `prefix`, relative to it, sorted. Markers of directories are not among them.
    #[track_caller]
    pub fn list(&self, prefix: &str) -> Vec<String> {
        let remote = self.remote(prefix);
        let ran = self.try_rclone(&["lsf", "-R", "--files-only", "--fast-list", &remote]);
        if ran.code == Some(3) {
            // rclone's exit code for a directory that does not exist.
            return Vec::new();
        }
        assert!(ran.code == Some(0), "rclone lsf failed\n{}", shown(&ran));
        let mut keys: Vec<String> = ran.out.lines().map(str::to_owned).collect();
        keys.sort();
        keys
    }

    /// SHA-256 of an object, in hex.
    #[track_caller]
    pub fn sha256(&self, key: &str) -> String {
        let out = self.rclone(&["hashsum", "sha256", "--download", &self.remote(key)]);
        out.split_whitespace().next().unwrap_or_else(|| panic!("no hash of {key}")).to_owned()
    }

    /// Every regular file of `dir` is an object under `prefix` with the same bytes, and there is no other object but
    /// those of symbolic links.
    #[track_caller]
    pub fn check_same(&self, dir: &Path, prefix: &str) {
        let mut args =
            vec!["check".to_owned(), "--download".into(), "--skip-links".into(), "--checkers".into(), "4".into()];
        for entry in walkdir::WalkDir::new(dir).into_iter().map(|e| e.unwrap()).filter(|e| e.path_is_symlink()) {
            let name = entry.path().strip_prefix(dir).unwrap().to_str().unwrap();
            args.extend(["--exclude".into(), format!("/{name}")]);
        }
        // What differs, one line each, on stdout.
        args.extend(["--combined".into(), "-".into(), dir.to_str().unwrap().into(), self.remote(prefix)]);
        let ran = self.try_rclone(&args.iter().map(|a| &**a).collect::<Vec<_>>());
        let differing: Vec<&str> = ran.out.lines().filter(|l| !l.starts_with('=')).take(20).collect();
        assert!(ran.code == Some(0), "{} and the bucket differ: {differing:#?}\n{}", dir.display(), ran.err);
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if self.embedded.is_some() || self.foreign {
            return;
        }
        let others = std::mem::take(&mut *self.others.lock().unwrap());
        for bucket in others.iter().chain([&self.bucket]) {
            self.remove_bucket(bucket);
        }
    }
}

impl TestServer {
    /// With everything in it; it may be gone.
    fn remove_bucket(&self, bucket: &str) {
        // Not rclone: it does not see the markers of directories, and a bucket that has some cannot be deleted.
        let host = self.endpoint.split_once("://").map_or(&*self.endpoint, |(_, host)| host);
        let ssl = if self.endpoint.starts_with("https") { "--ssl" } else { "--no-ssl" };
        let mut c = command("timeout");
        self.set_env(&mut c);
        c.args([
            "-k",
            "5",
            "300",
            "s3cmd",
            "--config",
            "/dev/null",
            "--quiet",
            ssl,
            "--host",
            host,
            "--host-bucket",
            host,
        ]);
        c.args(["--region", &self.region, "rb", "--recursive", "--force", &format!("s3://{bucket}")]);
        match c.output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let error = String::from_utf8_lossy(&output.stderr);
                if !error.contains("NoSuchBucket") {
                    eprintln!("bucket {bucket} is left behind: {error}");
                }
            }
            Err(e) => eprintln!("bucket {bucket} is left behind: s3cmd: {e}"),
        }
    }
}

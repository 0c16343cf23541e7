//! What the integration tests share: a server, a mount, an independent client, a shell.
//!
//! 1. The server is the embedded one, or with `XOSFS_TEST_S3="ENDPOINT ACCESS_KEY SECRET_KEY REGION"` a real one.
//!    Each test has a bucket of its own, so that tests run in parallel and leave nothing behind.
//! 2. A daemon that hangs would take the test process with it into an uninterruptible system call. A watchdog thread
//!    therefore kills the daemon when a mount outlives its deadline, and every command runs under `timeout`.
//! 3. What the mount did is judged by a program that shares no code with it: rclone.
//!
//! `XOSFS_TEST_BIN` names another binary to test than the one just built; `XOSFS_TEST_LOG` sets the daemon's log level.

// Each test target compiles this module and uses its own part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long one command may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(420);
/// How long one mount may live.
const MOUNT_DEADLINE: Duration = Duration::from_secs(600);
/// How long a daemon may take until the mount answers, and to end.
const START_DEADLINE: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(60);

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

/// What a shell script printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs a bash script in `dir`, stopping at the first failing command.
pub fn try_sh(dir: &Path, script: &str) -> Ran {
    let output = command("timeout")
        .args(["-k", "5", &COMMAND_DEADLINE.as_secs().to_string(), "bash", "-euo", "pipefail", "-c", script])
        .current_dir(dir)
        .output()
        .unwrap_or_else(|e| panic!("cannot run a shell in {}: {e}", dir.display()));
    Ran {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
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
        Ran {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
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

/// A mount of the server's bucket by the binary, ended when dropped, also by a panic.
pub struct TestMount {
    dir: PathBuf,
    child: Child,
    log: PathBuf,
    /// Tells the watchdog that the mount is over.
    over: Arc<(Mutex<bool>, Condvar)>,
    // Last: removed after everything above.
    _temp: TempDir,
}

impl TestMount {
    #[track_caller]
    pub fn new(server: &TestServer) -> TestMount {
        TestMount::with(server, &[])
    }

    /// With further `-o` options.
    #[track_caller]
    pub fn with(server: &TestServer, options: &[&str]) -> TestMount {
        TestMount::of(server, &server.bucket, options)
    }

    /// Of a part of the bucket, say: `source` is what `xosfs mount` is given.
    #[track_caller]
    pub fn of(server: &TestServer, source: &str, options: &[&str]) -> TestMount {
        TestMount::start(server, source, options, &[])
    }

    /// With variables in the daemon's environment.
    #[track_caller]
    pub fn with_env(server: &TestServer, options: &[&str], env: &[(&str, &str)]) -> TestMount {
        TestMount::start(server, &server.bucket, options, env)
    }

    #[track_caller]
    fn start(server: &TestServer, source: &str, options: &[&str], env: &[(&str, &str)]) -> TestMount {
        let temp = temp_dir();
        let dir = temp.path().join("mnt");
        fs::create_dir(&dir).unwrap();
        let log = temp.path().join("log");
        let mut all = vec![format!("endpoint={}", server.endpoint), format!("region={}", server.region)];
        if let Ok(level) = std::env::var("XOSFS_TEST_LOG") {
            all.push(format!("log_level={level}"));
        }
        all.extend(options.iter().map(|o| (*o).to_owned()));
        let mut c = command(binary());
        server.set_env(&mut c);
        let out = fs::File::create(&log).unwrap();
        c.env("STATE_DIRECTORY", temp.path().join("state")).envs(env.iter().copied());
        c.arg("mount").arg(source).arg(&dir).args(["--foreground", "-o", &all.join(",")]);
        c.stdout(out.try_clone().unwrap()).stderr(out);
        let child = c.spawn().expect("the binary starts");
        let over = watch(child.id());
        let mut mount = TestMount { dir, child, log, over, _temp: temp };
        let deadline = Instant::now() + START_DEADLINE;
        while !is_mounted(&mount.dir) {
            if let Some(status) = mount.child.try_wait().unwrap() {
                panic!("mount ended at once with {status}: {}", mount.log());
            }
            assert!(Instant::now() < deadline, "not mounted within {START_DEADLINE:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        // In the mount table is not yet answering.
        fs::metadata(&mount.dir).expect("the root of a fresh mount");
        mount
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        sh(&self.dir, script)
    }

    /// `xosfs umount`, which has to store everything; the daemon ends with success.
    #[track_caller]
    pub fn umount(mut self) {
        let end = || command(binary()).arg("umount").arg(&self.dir).output().unwrap();
        let mut output = end();
        for _ in 0..20 {
            // A process that another thread of the tests starts has all descriptors for a moment, between fork and exec.
            if output.status.success() || !String::from_utf8_lossy(&output.stderr).contains("is in use") {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            output = end();
        }
        assert!(output.status.success(), "umount: {}", String::from_utf8_lossy(&output.stderr));
        let status = self.wait(STOP_DEADLINE).expect("the daemon ends after umount");
        assert!(status.success(), "the daemon ended with {status}");
        assert!(!is_mounted(&self.dir), "still mounted");
    }

    /// Ends the daemon as a power failure would; the dead mount stays until it is dropped.
    pub fn kill_daemon(&mut self) {
        self.child.kill().unwrap();
        self.wait(STOP_DEADLINE).expect("a killed process ends");
    }

    /// The daemon has been reaped: its number may be another process's from now on.
    fn call_off_watchdog(&self) {
        *self.over.0.lock().unwrap() = true;
        self.over.1.notify_all();
    }

    /// Waits for the daemon to end by itself.
    pub fn wait(&mut self, within: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    self.call_off_watchdog();
                    return Some(status);
                }
                _ if Instant::now() > deadline => return None,
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for TestMount {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Not reaped yet, so the number is still the daemon's.
            let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
            if self.wait(STOP_DEADLINE).is_none() {
                eprintln!("the daemon did not end within {STOP_DEADLINE:?} after SIGTERM");
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        self.call_off_watchdog();
        // The daemon may have died, been killed, or left a mount under another one.
        for _ in 0..3 {
            if !is_mounted(&self.dir) {
                break;
            }
            if umount2(&self.dir, MntFlags::MNT_DETACH).is_err() {
                let _ = Command::new("fusermount3").arg("-uz").arg(&self.dir).status();
            }
        }
        if std::thread::panicking() {
            eprintln!("--- log of the daemon\n{}---", self.log());
        }
    }
}

/// Whether `dir` is a mount point, without asking the file system.
pub fn is_mounted(dir: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let dir = dir.to_string_lossy();
    table.lines().any(|line| line.split(' ').nth(1) == Some(&*dir))
}

/// Kills the unreaped child `pid` when nobody says within the deadline that it is over. A killed daemon fails the calls that
/// wait for it, so the test goes on and reports.
fn watch(pid: u32) -> Arc<(Mutex<bool>, Condvar)> {
    let over: Arc<(Mutex<bool>, Condvar)> = Arc::default();
    let told = over.clone();
    std::thread::spawn(move || {
        let guard = told.0.lock().unwrap();
        let (guard, _) = told.1.wait_timeout_while(guard, MOUNT_DEADLINE, |over| !*over).unwrap();
        if !*guard {
            eprintln!("the mount outlived {MOUNT_DEADLINE:?}: killing its daemon");
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
    });
    over
}

/// Keeps tests of one process apart. Whoever starts a program forks: the child has all files that other threads have
/// open, until it closes them on its way to the program: a mount finds a file open when another test has closed it.
pub fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

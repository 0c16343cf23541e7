//! A mount of the server's bucket by the binary.
//!
//! A daemon that hangs would take the test process with it into an uninterruptible system call. A watchdog thread
//! therefore kills the daemon when a mount outlives its deadline, and every command runs under `timeout`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::server::TestServer;
use super::{binary, command, sh, temp_dir};

/// How long one mount may live.
const MOUNT_DEADLINE: Duration = Duration::from_secs(600);
/// How long a daemon may take until the mount answers, and to end.
const START_DEADLINE: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(60);

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

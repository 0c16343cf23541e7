//! The program as people, mount(8) and systemd meet it: arguments, messages, exit codes; and the life of a mount with
//! a tiny file system instead of a store.
//!
//! A daemon with that file system is this test program started once more: see [`daemon`]. Every mount is taken away
//! when its test ends, however it ends.

mod arguments;
mod life;
mod system;
mod tiny;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tiny::{Still, Tiny};
use xosfs::config::Options;
use xosfs::daemon::report::Report;
use xosfs::daemon::volume::Volume;
use xosfs::daemon::{Outcome, Request, run_with};
use xosfs::error::{Error, Kind};
use xosfs::fuse::{fusermount, mountinfo, session};

const PATIENCE: Duration = Duration::from_secs(20);

/// Not a test by itself: the process that [`Mount::start_with`] starts. Its answer is its exit code.
#[test]
fn daemon() {
    let Ok(dir) = std::env::var("XOSFS_TEST_DIR") else { return };
    let options = std::env::var("XOSFS_TEST_OPTIONS").unwrap_or_default();
    let request = Request {
        source: std::env::var("XOSFS_TEST_SOURCE").unwrap().parse().unwrap(),
        dir: dir.into(),
        options: Options::load(&[options], false, &|_| None).unwrap(),
        background: false,
    };
    let outcome = run_with(&request, &mut Report::foreground(), |_, _, _| {
        Ok(Volume {
            filesystem: Tiny,
            attach: Box::new(|_, _| ()),
            drain: Box::new(|_| {
                let lost = std::env::var("XOSFS_TEST_LOST").ok();
                let unstored = lost.map(|k| (k, Error::new(Kind::Quota, "put object")));
                Box::pin(async move { unstored.into_iter().collect() })
            }),
            console: Arc::new(Still),
        })
    });
    std::process::exit(match outcome {
        Ok(Outcome::AlreadyMounted) => 10,
        Ok(Outcome::Ended(unstored)) => i32::from(!unstored.is_empty()),
        Err(e) => {
            eprintln!("{e}");
            20
        }
    });
}

/// Not a test by itself: stands for `fusermount3`, which takes options and a directory, mounts, and sends the
/// descriptor over the socket on its standard input.
#[test]
fn fusermount3() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::os::fd::{AsFd, AsRawFd};
    let Ok(line) = std::env::var("XOSFS_TEST_FUSERMOUNT") else { return };
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(std::env::var("_FUSE_COMMFD").unwrap(), "0");
    let ["-o", options, "--", dir] = words.as_slice() else { panic!("{words:?}") };
    if options.contains("allow_other") {
        eprintln!("fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf");
        std::process::exit(1);
    }
    assert_eq!(*options, "fsname=b:/p\\,q,subtype=xosfs,nosuid,nodev");
    let dev = fs::File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", dev.as_raw_fd());
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("b:/p,q"), *dir, Some("fuse.xosfs"), flags, Some(data.as_str())).unwrap();
    let fds = [dev.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    let byte = [std::io::IoSlice::new(b"x")];
    sendmsg(std::io::stdin().as_fd(), &byte, &mut ancillary, SendFlags::empty()).unwrap();
    std::process::exit(0);
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A directory and the daemon that serves it.
struct Mount {
    /// Held for its lifetime.
    _temporary: TempDir,
    dir: PathBuf,
    children: Vec<Child>,
}

fn child(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture"]).stdin(Stdio::null()).stdout(Stdio::null());
    command.env_remove("NOTIFY_SOCKET").env("RUST_BACKTRACE", "0");
    command
}

impl Mount {
    fn place() -> Mount {
        Mount::place_named("a mount")
    }

    fn place_named(name: &str) -> Mount {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().canonicalize().unwrap().join(name);
        fs::create_dir(&dir).unwrap();
        Mount { _temporary: temporary, dir, children: Vec::new() }
    }

    fn spawn(&mut self, source: &str, options: &str, set_up: impl FnOnce(&mut Command)) -> &mut Child {
        let mut command = child("daemon");
        command.env("XOSFS_TEST_DIR", &self.dir).env("XOSFS_TEST_SOURCE", source);
        command.env("XOSFS_TEST_OPTIONS", options).stderr(Stdio::piped());
        set_up(&mut command);
        self.children.push(command.spawn().unwrap());
        self.children.last_mut().unwrap()
    }

    fn start_with(source: &str, options: &str, set_up: impl FnOnce(&mut Command)) -> Mount {
        let mut mount = Mount::place();
        mount.spawn(source, options, set_up);
        mount.until_up();
        mount
    }

    fn start(source: &str) -> Mount {
        Mount::start_with(source, "", |_| ())
    }

    fn until_up(&self) {
        until("the mount answers", || self.dir.join("file").exists());
    }

    fn entry(&self) -> Option<mountinfo::Entry> {
        mountinfo::top_at(&self.dir).unwrap()
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = self.children.last().unwrap().id().cast_signed();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
    }

    fn ended(&mut self) -> (ExitStatus, String) {
        let mut child = self.children.pop().unwrap();
        let mut status = None;
        until("the daemon ends", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        let output = child.wait_with_output().unwrap();
        (status.unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        while self.entry().is_some_and(|e| e.is_fuse()) {
            if session::unmount_path(&self.dir, true).is_err() {
                break;
            }
        }
    }
}

/// Exit code and standard error of the program, called by `name`, with nothing but a home in its environment.
fn run_as(name: &str, args: &[&OsStr], env: &[(&str, &str)]) -> (i32, String) {
    let home = tempfile::tempdir().unwrap();
    let program = home.path().join(name);
    symlink(env!("CARGO_BIN_EXE_xosfs"), &program).unwrap();
    let output = assert_cmd::Command::new(program)
        .args(args)
        .env_clear()
        .env("HOME", home.path())
        .env("PATH", std::env::var_os("PATH").unwrap())
        .envs(env.iter().copied())
        .timeout(Duration::from_secs(60))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap_or(-1), said)
}

fn run(args: &[&OsStr]) -> (i32, String) {
    run_as("xosfs", args, &[("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s")])
}

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn os(words: &[OsString]) -> Vec<&OsStr> {
    words.iter().map(OsString::as_os_str).collect()
}

/// Not a test by itself: mounts through the stand-in of [`fusermount3`].
#[test]
fn fusermount_user() {
    let Some(dir) = std::env::var_os("XOSFS_TEST_USER_DIR").map(PathBuf::from) else { return };
    let dir: &Path = &dir;
    let refused = fusermount::mount(dir, "fsname=b,subtype=xosfs,allow_other").unwrap_err().to_string();
    assert!(refused.contains("add the line `user_allow_other` to /etc/fuse.conf"), "{refused}");
    let fd =
        fusermount::mount(dir, &format!("fsname={},subtype=xosfs,nosuid,nodev", fusermount::escape("b:/p,q"))).unwrap();
    let mut session = session::serve(Tiny, fd).unwrap();
    assert!(dir.join("file").exists());
    assert_eq!(mountinfo::top_at(dir).unwrap().unwrap().source, "b:/p,q");
    session::unmount_path(dir, false).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(session.ended()).unwrap();
}

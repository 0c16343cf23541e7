//! The program as people, mount(8) and systemd meet it: arguments, messages, exit codes; and the life of a mount with
//! a tiny file system instead of a store.
//!
//! A daemon with that file system is this test program started once more: see [`daemon`]. Every mount is taken away
//! when its test ends, however it ends.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::{
    FileAttr, FileType, Filesystem, Generation, INodeNo, ReplyAttr, ReplyDirectory, ReplyEntry, Request as Call,
};
use futures_util::future::BoxFuture;
use tempfile::TempDir;
use xosfs::config::Options;
use xosfs::daemon::control::Console;
use xosfs::daemon::report::Report;
use xosfs::daemon::status::Status;
use xosfs::daemon::volume::{Unstored, Volume};
use xosfs::daemon::{self as life, Outcome, Request};
use xosfs::error::{Error, Kind};
use xosfs::fuse::{fusermount, mountinfo, session, target};

const PATIENCE: Duration = Duration::from_secs(20);

// ---------------------------------------------------------------------------------------------- the tiny file system

/// A root with one file, whose attributes are all there is to it.
struct Tiny;

fn attr(ino: u64) -> FileAttr {
    let time = std::time::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: if ino == 1 { FileType::Directory } else { FileType::RegularFile },
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Tiny {
    fn lookup(&self, _: &Call, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "file" {
            reply.entry(&Duration::ZERO, &attr(2), Generation(0));
        } else {
            reply.error(fuser::Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Call, ino: INodeNo, _: Option<fuser::FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &attr(ino.0));
    }

    fn readdir(&self, _: &Call, _: INodeNo, _: fuser::FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if offset == 0 {
            let _ = reply.add(INodeNo(2), 1, FileType::RegularFile, "file");
        }
        reply.ok();
    }
}

struct Still;

impl Console for Still {
    fn status(&self) -> Status {
        Status { endpoint: "tiny state".into(), ..Status::default() }
    }

    fn flush(&self, _: Duration) -> BoxFuture<'static, Unstored> {
        Box::pin(std::future::ready(Vec::new()))
    }

    fn refresh(&self, _: String) -> BoxFuture<'static, xosfs::Result<u64>> {
        Box::pin(std::future::ready(Ok(0)))
    }
}

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
    let outcome = life::run_with(&request, &mut Report::foreground(), |_, _, _| {
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

// ------------------------------------------------------------------------------------------------------------- tools

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

// --------------------------------------------------------------------------------------------------------- bad input

/// Each is one line on stderr that names what to change, an exit code, and nothing mounted.
#[test]
fn bad_input_is_one_line_and_an_exit_code() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("d");
    let file = tmp.path().join("f");
    fs::create_dir(&dir).unwrap();
    fs::write(&file, "").unwrap();
    let (d, f) = (dir.display(), file.display());
    for (line, code, parts) in [
        (format!("mount b/p {d}"), 2, vec!["did you mean b:/p?"]),
        (format!("mount https://h/b {d}"), 2, vec!["-o endpoint=URL"]),
        (format!("mount b {d} -o endpoint=host:9000"), 2, vec!["`endpoint`", "http://"]),
        (format!("mount b {d} -o endpont=http://h"), 2, vec!["unknown option", "`endpoint`"]),
        (format!("mount b {d} -o metadata_ttl=never"), 2, vec!["`metadata_ttl`", "5s"]),
        (format!("mount b {d} -o part_size=1K"), 2, vec!["`part_size`", "5M"]),
        (format!("mount b {d} -o uid=nobody-at-all"), 2, vec!["`uid`", "no user"]),
        (format!("mount b {d} -o secret_key=hunter2"), 2, vec!["`secret_key` is not an option"]),
        (format!("mount b {d} -o config={}/none", tmp.path().display()), 2, vec!["`config`"]),
        (format!("mount b {d}/none"), 1, vec!["does not exist", "mkdir -p"]),
        (format!("mount b {f}/none"), 1, vec!["mount point", "Not a directory"]),
        (format!("mount b {f} -o endpoint=http://127.0.0.1:9"), 1, vec!["is not a directory"]),
        (format!("mount b {d} -o endpoint=http://127.0.0.1:9,staging_dir=/proc/x"), 1, vec!["`staging_dir`"]),
        (format!("mount b {d} -o log=/proc/x/y,endpoint=http://127.0.0.1:9"), 1, vec!["`log`"]),
        (format!("umount {d}"), 1, vec!["is not mounted"]),
        (format!("umount {d}/none"), 1, vec!["does not exist"]),
        ("umount /proc".into(), 1, vec!["not of xosfs"]),
    ] {
        for foreground in ["", " --foreground"] {
            let line = if line.starts_with("mount") { format!("{line}{foreground}") } else { line.clone() };
            let (got, said) = run(&os(&words(&line)));
            assert_eq!(got, code, "{line}: {said}");
            let said = said.lines().filter(|l| !l.contains(" WARN ")).collect::<Vec<_>>();
            assert_eq!(said.len(), 1, "{line}: {said:?}");
            assert!(said[0].starts_with("xosfs: ") && parts.iter().all(|p| said[0].contains(p)), "{line}: {said:?}");
            assert!(!said[0].contains("hunter2"));
            assert_eq!(mountinfo::top_at(&dir).unwrap(), None);
        }
    }
}

#[test]
fn wrong_arguments_are_usage_errors() {
    for line in ["", "mount", "mount b", "mout b /d", "umount", "mount b /d /e", "mount b /d --frobnicate"] {
        let (code, said) = run(&os(&words(line)));
        assert_eq!(code, 2, "{line}: {said}");
        assert!(!said.is_empty());
    }
    let output = assert_cmd::Command::cargo_bin("xosfs").unwrap().args(["mount", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for option in xosfs::config::table::TABLE {
        assert!(help.contains(option.name), "{}", option.name);
    }
}

#[test]
fn no_credentials_say_where_to_put_them() {
    let tmp = tempfile::tempdir().unwrap();
    let args =
        [OsStr::new("mount"), OsStr::new("b"), tmp.path().as_os_str(), OsStr::new("-oendpoint=http://127.0.0.1:9")];
    let (code, said) = run_as("xosfs", &args, &[]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("AWS_ACCESS_KEY_ID"), "{said}");
}

#[test]
fn the_mount_helper_has_the_exit_codes_of_mount() {
    let tmp = tempfile::tempdir().unwrap();
    let d = tmp.path().display();
    let keys = [("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s")];
    for name in ["mount.fuse.xosfs", "mount.xosfs"] {
        for (line, code, part) in [
            (format!("b:/p {d} -f -o rw,_netdev,nofail,allow_other,endpoint=http://h,x-systemd.automount"), 0, ""),
            (format!("b {d} -sfnv -o rw,frobnicate=1"), 0, ""),
            (format!("b {d} -o frobnicate=1"), 1, "unknown option"),
            (format!("b {d} -q"), 1, "usage:"),
            ("b".into(), 1, "usage:"),
            (format!("b {d}/none -o rw"), 32, "does not exist"),
            (format!("b {d} -o endpoint=http://127.0.0.1:9,staging_dir=/proc/x"), 32, "`staging_dir`"),
        ] {
            let (got, said) = run_as(name, &os(&words(&line)), &keys);
            assert_eq!(got, code, "{line}: {said}");
            assert!(said.contains(part), "{line}: {said}");
            assert!(code == 0 || said.starts_with("mount.fuse.xosfs: "), "{said}");
        }
    }
}

// ------------------------------------------------------------------------------------------------- the life of a mount

#[test]
fn a_mount_has_its_type_and_source_and_ends_on_sigterm() {
    let mut mount = Mount::start_with("bucket:/p,q/r s", "noexec,noatime,ro", |_| ());
    let entry = mount.entry().unwrap();
    assert_eq!((entry.fs_type.as_str(), entry.source.as_str()), ("fuse.xosfs", "bucket:/p,q/r s"));
    let table = fs::read_to_string("/proc/mounts").unwrap();
    let dir = mount.dir.display().to_string().replace(' ', "\\040");
    let line = table.lines().find(|l| l.contains(&dir)).unwrap();
    assert!(line.starts_with("bucket:/p,q/r\\040s "), "{line}");
    for flag in ["ro,", "nosuid", "nodev", "noexec", "noatime", "allow_other", "default_permissions"] {
        assert!(line.contains(flag), "{flag}: {line}");
    }
    let read_ahead = fs::read_to_string(format!("/sys/class/bdi/{}/read_ahead_kb", entry.device));
    assert!(read_ahead.is_ok_and(|kb| kb.trim() == "1024"));
    mount.signal(nix::sys::signal::Signal::SIGTERM);
    let (status, said) = mount.ended();
    assert_eq!(status.code(), Some(0), "{said}");
    assert_eq!(mount.entry(), None);
}

#[test]
fn a_mount_in_use_ends_on_sigint_all_the_same() {
    let mut mount = Mount::start("b");
    let open = fs::File::open(&mount.dir).unwrap();
    mount.signal(nix::sys::signal::Signal::SIGINT);
    let (status, said) = mount.ended();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("detached"), "{said}");
    assert_eq!(mount.entry(), None);
    drop(open);
}

#[test]
fn sigusr1_writes_the_state_into_the_log() {
    let mut mount = Mount::start("b");
    mount.signal(nix::sys::signal::Signal::SIGUSR1);
    std::thread::sleep(Duration::from_millis(300));
    mount.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(mount.ended().1.contains("tiny state"));
}

/// Demand 1: no manual step after a crash.
#[test]
fn a_dead_mount_is_detached_first() {
    let mut mount = Mount::start("b");
    mount.signal(nix::sys::signal::Signal::SIGKILL);
    assert!(!mount.ended().0.success());
    let error = fs::metadata(&mount.dir).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::ENOTCONN as i32));
    mount.spawn("other", "", |_| ());
    mount.until_up();
    assert_eq!(mount.entry().unwrap().source, "other");
    assert_eq!(mountinfo::all().unwrap().iter().filter(|e| e.dir == mount.dir).count(), 1);
}

/// Demand 42: `mount -a` twice is one process.
#[test]
fn the_same_again_is_a_success_and_something_else_is_busy() {
    let mut mount = Mount::start("b:/p");
    let dir = mount.dir.clone();
    for (name, source, code, part) in [
        ("xosfs", "b:/p", 0, "mounted already"),
        ("xosfs", "s3://b/p/", 0, "mounted already"),
        ("mount.fuse.xosfs", "b:/p", 0, ""),
        ("xosfs", "b", 1, "busy"),
        ("mount.fuse.xosfs", "other", 32, "busy"),
    ] {
        let first = if name == "xosfs" { vec![OsStr::new("mount")] } else { vec![] };
        let args = [first, vec![OsStr::new(source), dir.as_os_str()]].concat();
        let (got, said) = run_as(name, &args, &[]);
        assert_eq!(got, code, "{name} {source}: {said}");
        assert!(said.contains(part), "{said}");
    }
    let elsewhere = [OsStr::new("mount"), OsStr::new("b:/p"), dir.as_os_str(), OsStr::new("-oendpoint=http://h:1")];
    let (code, said) = run_as("xosfs", &elsewhere, &[]);
    assert!(code == 1 && said.contains("busy"), "{said}");
    // Two at the same moment: one mounts, the other finds it mounted.
    mount.signal(nix::sys::signal::Signal::SIGTERM);
    mount.ended();
    mount.spawn("b", "", |_| ());
    mount.spawn("b", "", |_| ());
    let mut other = None;
    until("one of two gives way", || {
        other = mount.children.iter_mut().find_map(|c| c.try_wait().unwrap());
        other.is_some()
    });
    assert_eq!(other.unwrap().code(), Some(10));
    mount.until_up();
}

#[test]
fn a_directory_that_is_not_empty_is_mounted_on_with_a_warning() {
    let mut mount = Mount::place();
    fs::write(mount.dir.join("hidden"), "").unwrap();
    mount.spawn("b", "", |_| ());
    mount.until_up();
    assert!(!mount.dir.join("hidden").exists());
    mount.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(mount.ended().1.contains("not empty"));
    assert!(mount.dir.join("hidden").exists());
}

#[test]
fn a_mount_on_a_link_is_where_the_link_leads() {
    let mount = Mount::start("b");
    let link = mount.dir.with_file_name("link");
    symlink(&mount.dir, &link).unwrap();
    let (code, said) = run(&[OsStr::new("mount"), OsStr::new("b"), link.as_os_str()]);
    assert!(code == 0 && said.contains("mounted already"), "{said}");
    assert_eq!(target::resolve(&link).unwrap(), mount.dir);
}

// ------------------------------------------------------------------------------------------------------------- umount

#[test]
fn umount_waits_for_the_daemon_and_says_what_is_lost() {
    let mut mount = Mount::start("b");
    assert_eq!(run(&[OsStr::new("umount"), mount.dir.as_os_str()]), (0, String::new()));
    assert_eq!(mount.entry(), None);
    assert!(mount.children[0].try_wait().unwrap().is_some_and(|s| s.success()));

    let mut mount = Mount::start_with("b", "", |c| {
        c.env("XOSFS_TEST_LOST", "a/key");
    });
    let (code, said) = run(&[OsStr::new("umount"), mount.dir.as_os_str()]);
    assert_eq!(code, 1);
    assert!(said.contains("not stored: a/key: put object"), "{said}");
    assert_eq!(mount.ended().0.code(), Some(1));
    let (code, said) = run(&[OsStr::new("umount"), mount.dir.as_os_str()]);
    assert!(code == 1 && said.contains("is not mounted"), "{said}");
}

#[test]
fn umount_of_a_mount_in_use_needs_force() {
    let mut mount = Mount::start("b");
    let open = fs::File::open(&mount.dir).unwrap();
    let (code, said) = run(&[OsStr::new("umount"), mount.dir.as_os_str()]);
    assert!(code == 1 && said.contains("in use") && said.contains("--force"), "{said}");
    assert!(mount.entry().is_some());
    assert_eq!(run(&[OsStr::new("umount"), OsStr::new("--force"), mount.dir.as_os_str()]).0, 0);
    assert_eq!(mount.entry(), None);
    assert_eq!(mount.ended().0.code(), Some(0));
    drop(open);
}

#[test]
fn umount_takes_a_dead_mount_away() {
    let mut mount = Mount::start("b");
    mount.signal(nix::sys::signal::Signal::SIGKILL);
    mount.ended();
    assert_eq!(run(&[OsStr::new("umount"), mount.dir.as_os_str()]), (0, String::new()));
    assert_eq!(mount.entry(), None);
}

#[test]
fn umount_of_the_system_ends_the_daemon() {
    let mut mount = Mount::start("b");
    session::unmount_path(&mount.dir, false).unwrap();
    assert_eq!(mount.ended().0.code(), Some(0));
}

// --------------------------------------------------------------------------------------------------- systemd, helpers

#[test]
fn the_service_manager_hears_of_start_and_end() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut mount = Mount::start_with("b", "", |c| {
        c.env("NOTIFY_SOCKET", &path);
    });
    let mut buffer = [0; 512];
    let mut hear = || {
        let n = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    };
    let ready = hear();
    assert!(ready.contains("READY=1") && ready.contains("STATUS=b on "), "{ready}");
    mount.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(hear().contains("STOPPING=1"));
    mount.ended();
}

#[test]
fn the_units_are_valid() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let mut units = Vec::new();
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/systemd")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "md") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap().replace("/usr/bin/xosfs", env!("CARGO_BIN_EXE_xosfs"));
        for word in ["PrivateTmp=", "ProtectSystem=", "ProtectHome=", "PrivateMounts=", "PrivateDevices="] {
            assert!(!text.lines().any(|l| l.starts_with(word)), "{word} hides the mount");
        }
        let copy = tmp.path().join(path.file_name().unwrap());
        fs::write(&copy, text).unwrap();
        units.push(copy);
    }
    assert_eq!(units.len(), 3);
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<_> = said.lines().filter(|l| l.contains("xosfs") || l.contains("mnt-bucket")).collect();
    assert!(ours.is_empty(), "{said}");
}

#[test]
fn install_helper_makes_fstab_work_and_keeps_locate_out() {
    let root = tempfile::tempdir().unwrap();
    let updatedb = root.path().join("etc/updatedb.conf");
    let helper = root.path().join("sbin/mount.fuse.xosfs");
    fs::create_dir(root.path().join("etc")).unwrap();
    fs::write(&updatedb, "PRUNEFS=\"nfs\"\n").unwrap();
    let prefix = [OsStr::new("install-helper"), OsStr::new("--prefix"), root.path().as_os_str()];
    for _ in 0..2 {
        assert_eq!(run(&prefix), (0, String::new()));
        assert_eq!(fs::metadata(&helper).unwrap().ino(), fs::metadata(env!("CARGO_BIN_EXE_xosfs")).unwrap().ino());
        assert_eq!(fs::read_to_string(&updatedb).unwrap(), "PRUNEFS=\"nfs fuse.xosfs\"\n");
    }
    assert_eq!(run(&[&prefix[..], &[OsStr::new("--remove")]].concat()).0, 0);
    assert!(fs::symlink_metadata(&helper).is_err());
    assert_eq!(fs::read_to_string(&updatedb).unwrap(), "PRUNEFS=\"nfs\"\n");
    fs::write(&helper, "").unwrap();
    let (code, said) = run(&prefix);
    assert!(code == 1 && said.contains("somebody else"), "{said}");
}

/// Mounting without root, with a stand-in for the setuid program.
#[test]
fn fusermount_hands_the_descriptor_over() {
    let tmp = tempfile::tempdir().unwrap();
    let script = tmp.path().join("fusermount3");
    let exe = std::env::current_exe().unwrap();
    let text =
        format!("#!/bin/sh\nXOSFS_TEST_FUSERMOUNT=\"$*\" exec {} fusermount3 --exact --nocapture\n", exe.display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mount = Mount::place_named("plain");
    let mut command = child("fusermount_user");
    let path = format!("{}:{}", tmp.path().display(), std::env::var("PATH").unwrap());
    let output = command.env("XOSFS_TEST_USER_DIR", &mount.dir).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
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

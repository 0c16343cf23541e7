//! The life of a mount, from start to umount.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use xosfs::fuse::{mountinfo, session, target};

use super::{Mount, run, run_as, until};

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

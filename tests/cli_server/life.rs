//! From mount to umount: in the background and the foreground, twice, after a crash, and with files not stored yet.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xosfs::demo::{Action, Rule};

use super::place::{PATIENCE, Place, ok, run, server, sh, wait, xosfs};

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

#[test]
fn a_mount_in_the_background_is_there_when_the_command_ends() {
    let server = server();
    server.store().put("bucket", "p q/x", "text");
    let place = Place::new();
    place.mount(&server, "bucket:/p q", "");
    assert_eq!(place.mounts(), [("bucket:/p q".to_owned(), "fuse.xosfs".to_owned())]);
    let table = fs::read_to_string("/proc/mounts").unwrap();
    let line = table.lines().find(|l| l.contains(place.dir.to_str().unwrap())).unwrap();
    assert!(line.starts_with(r"bucket:/p\040q ") && line.contains(" fuse.xosfs rw,"), "{line}");
    assert_eq!(ok(&place.dir, "ls; cat x"), "x\ntext");
    assert_eq!(place.processes().len(), 1);
    // The daemon holds nothing of the directory and the terminal it was started from.
    let pid = place.state().unwrap().pid;
    let links = ok(&place.dir, &format!("cd /; readlink /proc/{pid}/cwd; readlink -e /proc/{pid}/fd/[012]"));
    assert_eq!(links, "/\n/dev/null\n/dev/null\n/dev/null\n");
    let ran = place.umount();
    assert_eq!((ran.code, &*ran.out, &*ran.err), (Some(0), "", ""), "{}", place.log());
    place.assert_clean();
    assert!(place.log().contains("ended"), "{}", place.log());
}

#[test]
fn a_mount_in_the_foreground_ends_with_umount_and_with_signals() {
    let server = server();
    server.store().put("bucket", "x", "text");
    for end in [None, Some(Signal::SIGTERM), Some(Signal::SIGINT), Some(Signal::SIGHUP)] {
        let place = Place::new();
        let mut daemon = place.foreground(&server, "bucket", "");
        assert_eq!(ok(&place.dir, "cat x"), "text");
        match end {
            None => assert_eq!(place.umount().code, Some(0)),
            Some(name) => signal(daemon.id(), name),
        }
        let status = wait(&mut daemon, PATIENCE).expect("the daemon ends");
        assert_eq!(status.code(), Some(0), "{end:?}: {}", place.log());
        place.assert_clean();
    }
}

/// Demand 42: `mount -a` twice.
#[test]
fn the_same_mount_twice_is_one_process() {
    let server = server();
    let place = Place::new();
    // Both at a time, then once more.
    let mut first = place.mount_command(&server, "bucket", "").stderr(Stdio::null()).spawn().unwrap();
    let mut second = place.mount_command(&server, "bucket", "").stderr(Stdio::null()).spawn().unwrap();
    for child in [&mut first, &mut second] {
        assert_eq!(wait(child, PATIENCE).expect("mount ends").code(), Some(0));
    }
    let ran = run(&mut place.mount_command(&server, "bucket", ""));
    assert!(ran.code == Some(0) && ran.err.contains("mounted already"), "{ran:?}");
    assert_eq!((place.mounts().len(), place.processes().len()), (1, 1));
    let ran = run(&mut place.mount_command(&server, "bucket:/p", ""));
    assert!(ran.code == Some(1) && ran.err.contains("busy"), "{ran:?}");
    assert_eq!(place.umount().code, Some(0));
    place.assert_clean();
}

// R74
/// Demand 1: a daemon that was killed needs no manual step, however fresh what the kernel still knows.
#[test]
fn a_killed_daemon_is_replaced_by_the_next_mount() {
    let server = server();
    server.store().put("bucket", "x", "text");
    let place = Place::new();
    place.mount(&server, "bucket", "metadata_ttl=60s");
    for _ in 0..2 {
        ok(&place.dir, "stat . x; ls; cat x");
        let state = place.state().unwrap();
        signal(state.pid.cast_unsigned(), Signal::SIGKILL);
        assert!(state.wait(PATIENCE));
        assert_eq!(place.mounts().len(), 1, "the dead mount is still there");
        place.mount(&server, "bucket", "metadata_ttl=60s");
        assert_eq!((place.mounts().len(), place.processes().len()), (1, 1));
        assert_eq!(ok(&place.dir, "cat x"), "text");
    }
    // And umount takes a dead one away.
    let state = place.state().unwrap();
    signal(state.pid.cast_unsigned(), Signal::SIGKILL);
    assert!(state.wait(PATIENCE));
    let ran = place.umount();
    assert_eq!((ran.code, &*ran.err), (Some(0), ""));
    place.assert_clean();
}

// R72
/// A file that is open and written to when SIGTERM comes, and a store that is slow.
#[test]
fn sigterm_stores_what_is_dirty_first() {
    let server = server();
    let place = Place::new();
    let mut daemon = place.foreground(&server, "bucket", "");
    let holder =
        place.holder("exec 3>open 4>second; echo first >&3; echo second >&4; echo third > closed; chmod 640 closed");
    server.knobs().set(|b| b.latency = Duration::from_millis(200));
    signal(daemon.id(), Signal::SIGTERM);
    let status = wait(&mut daemon, PATIENCE).expect("the daemon ends");
    holder.end();
    assert_eq!(status.code(), Some(0), "{}", place.log());
    for (key, text) in [("open", "first\n"), ("second", "second\n"), ("closed", "third\n")] {
        let object = server.store().get("bucket", key).unwrap_or_else(|| panic!("{key}: {}", place.log()));
        assert_eq!(object, text, "{key}");
    }
    place.assert_clean();
}

/// The exit code and the names of what is lost, to whoever asked for the end.
#[test]
fn what_cannot_be_stored_is_named_and_the_exit_code_is_1() {
    let server = server();
    let refuse = || server.knobs().fail(Rule::new("PutObject", Action::Status(403, "QuotaExceeded".into())).always());
    for by_signal in [true, false] {
        let place = Place::new();
        let mut daemon = place.foreground(&server, "bucket", "shutdown_timeout=3s,op_timeout=5s,retries=1");
        refuse();
        let holder = place.holder("exec 3>lost; echo x >&3; cd /");
        if by_signal {
            signal(daemon.id(), Signal::SIGTERM);
        } else {
            let ran = run(xosfs().args(["umount", "--force"]).arg(&place.dir));
            assert_eq!(ran.code, Some(1), "{ran:?}");
            assert!(ran.err.contains("not stored: lost"), "{ran:?}");
        }
        let status = wait(&mut daemon, PATIENCE).expect("the daemon ends");
        holder.end();
        assert_eq!(status.code(), Some(1), "{}", place.log());
        assert!(place.log().contains("not stored") && place.log().contains("lost"), "{}", place.log());
        place.assert_clean();
        server.knobs().clear_rules();
    }
}

#[test]
fn a_mount_in_use_is_not_unmounted_without_force() {
    let server = server();
    let place = Place::new();
    place.mount(&server, "bucket", "");
    let holder = place.holder(":");
    let ran = place.umount();
    assert!(ran.code == Some(1) && ran.err.contains("in use") && ran.err.contains("--force"), "{ran:?}");
    assert_eq!(sh(&place.dir, "echo x > x").code, Some(0));
    let ran = run(xosfs().args(["umount", "--force"]).arg(&place.dir));
    holder.end();
    assert_eq!((ran.code, &*ran.err), (Some(0), ""));
    assert_eq!(server.store().get("bucket", "x").unwrap(), "x\n");
    place.assert_clean();
}

/// As for a user without a home, whose daemon can leave no record.
#[test]
fn without_a_record_umount_does_not_tear_a_live_mount_away() {
    let server = server();
    let place = Place::new();
    place.mount(&server, "bucket", "");
    let state = place.state().unwrap();
    state.remove();
    let holder = place.holder("exec 3>open; echo x >&3; cd /");
    let ran = place.umount();
    let mounted = place.mounts().len();
    holder.end();
    assert!(ran.code == Some(1) && ran.err.contains("in use") && mounted == 1, "{ran:?}");
    let ran = place.umount();
    assert!(ran.code == Some(0) && ran.err.contains("no record"), "{ran:?}");
    assert!(state.wait(PATIENCE));
    assert_eq!(server.store().get("bucket", "open").unwrap(), "x\n");
    place.assert_clean();
}

//! More than one machine, and machines that fail.

use std::process::Stdio;
use std::time::Duration;

use crate::common::{TestMount, TestServer, command, eventually, is_mounted, sh, sh_fails, temp_dir};

/// Another mount sees what was closed, at the latest when its entries have expired.
// R1 R4 R6
#[test]
fn two_mounts_see_each_others_closed_files() {
    let server = TestServer::start();
    let options = ["metadata_ttl=1s", "negative_ttl=1s"];
    let (a, b) = (TestMount::with(&server, &options), TestMount::with(&server, &options));
    let soon = Duration::from_secs(4);
    let read = |m: &TestMount, name: &str| std::fs::read_to_string(m.join(name)).ok();
    // Known not to exist, then created by the other.
    assert_eq!(read(&b, "f"), None);
    a.sh("echo one >f; mkdir d; echo x >d/x");
    eventually(soon, "created", || read(&b, "f").as_deref() == Some("one\n"));
    eventually(soon, "listed", || sh(b.path(), "find . -mindepth 1 | sort") == "./d\n./d/x\n./f\n");
    b.sh("echo two, longer >f");
    eventually(soon, "overwritten", || read(&a, "f").as_deref() == Some("two, longer\n"));
    // Many times, sizes going up and down: never a mixture.
    for i in 0..8 {
        let text = format!("{i}").repeat(if i % 2 == 0 { 200_000 } else { 3 });
        std::fs::write(a.join("f"), &text).unwrap();
        eventually(soon, "the new version", || {
            let seen = std::fs::read(b.join("f"));
            if let Ok(seen) = &seen {
                assert!(seen.windows(2).all(|w| w[0] == w[1]) || i == 0, "a mixture of versions");
            }
            seen.is_ok_and(|s| s == text.as_bytes())
        });
    }
    a.sh("mv f g; rm -r d");
    eventually(soon, "renamed and deleted", || sh(b.path(), "ls -A") == "g\n");
    eventually(soon, "the old name is gone", || read(&b, "f").is_none());
    a.umount();
    b.umount();
}

/// An object that another client replaces shows up too, and one that it deletes goes away.
// R6
#[test]
fn a_mount_sees_what_rclone_changes() {
    let server = TestServer::start();
    server.put("d/f", b"one");
    let mount = TestMount::with(&server, &["metadata_ttl=1s", "negative_ttl=1s"]);
    let soon = Duration::from_secs(4);
    assert_eq!(mount.sh("cat d/f; ls d"), "onef\n");
    server.put("d/f", b"two and more");
    server.put("d/g", b"");
    eventually(soon, "changed", || sh(mount.path(), "cat d/f; ls d") == "two and moref\ng\n");
    server.rclone(&["deletefile", &server.remote("d/f")]);
    eventually(soon, "deleted", || sh(mount.path(), "ls d") == "g\n");
    // A name that was found a moment ago may be believed until its own time is over.
    eventually(soon, "not to be opened", || {
        let ran = crate::common::try_sh(mount.path(), "cat d/f");
        ran.code != Some(0) && ran.err.contains("No such file")
    });
    mount.umount();
}

// R71
#[test]
fn locks_do_not_cross_machines() {
    let server = TestServer::start();
    let (a, b) = (TestMount::new(&server), TestMount::new(&server));
    a.sh("echo x >lock");
    eventually(Duration::from_secs(4), "the file", || b.join("lock").exists());
    a.sh(&format!("flock lock flock -n '{}' true", b.join("lock").display()));
    sh_fails(a.path(), "flock lock flock -n lock echo held >&2 || { echo locked >&2; false; }", "locked");
    a.umount();
    b.umount();
}

/// The daemon is killed in the middle of overwriting an object: the old one is intact, everything that was closed is
/// there, and the next mount at the same place works.
// R11 R73 R74
#[test]
fn kill_9_in_the_middle_of_a_write() {
    let server = TestServer::start();
    let mut mount = TestMount::new(&server);
    let local = temp_dir();
    sh(local.path(), "mkdir t; for i in $(seq 50); do seq $i 3000 >t/$i; done; head -c 30000000 /dev/urandom >t/old");
    mount.sh(&format!("cp -r '{}' t", local.path().join("t").display()));
    let mut writer = command("bash")
        .args(["-c", "exec dd if=/dev/urandom of=t/old bs=1M count=4000 status=none"])
        .current_dir(mount.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut young = command("bash")
        .args(["-c", "exec >t/new; while :; do echo line || exit 1; done"])
        .current_dir(mount.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Long enough that parts of it are under way.
    eventually(Duration::from_secs(60), "100 MB written", || {
        std::fs::metadata(mount.join("t/old")).is_ok_and(|m| m.len() > 100_000_000)
    });
    mount.kill_daemon();
    assert!(!writer.wait().unwrap().success(), "the writer was told");
    assert!(!young.wait().unwrap().success());
    assert!(is_mounted(mount.path()), "the dead mount is still there");
    sh_fails(std::path::Path::new("/"), &format!("ls '{}'", mount.path().display()), "not connected");
    server.check_same(&local.path().join("t"), "t");
    drop(mount);
    let mount = TestMount::new(&server);
    assert_eq!(mount.sh("ls t | wc -l"), "51\n");
    sh(local.path(), &format!("diff -r t '{}'", mount.join("t").display()));
    mount.sh("echo again >t/new; echo over >t/old; cat t/new");
    assert_eq!(server.get("t/old"), b"over\n");
    mount.umount();
}

/// `umount` right after `cp`, and SIGTERM with a file still open: what was acknowledged or still open is stored.
// R10 R72
#[test]
fn nothing_is_lost_by_an_unmount() {
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    let local = temp_dir();
    sh(local.path(), "head -c 50000000 /dev/urandom >f");
    mount.sh(&format!("cp '{}' f; chmod 600 f", local.path().join("f").display()));
    mount.umount();
    server.check_same(local.path(), "");
    let mut mount = TestMount::new(&server);
    assert_eq!(mount.sh("stat -c '%a %s' f"), "600 50000000\n");
    let mut open = command("bash")
        .args(["-c", "exec 3>open; echo written >&3; read -r _ <&0"])
        .current_dir(mount.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    eventually(Duration::from_secs(10), "written", || {
        std::fs::metadata(mount.join("open")).is_ok_and(|m| m.len() == 8)
    });
    let pid = nix::unistd::Pid::from_raw(mount.pid() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(mount.wait(Duration::from_secs(60)).expect("ends after SIGTERM").success());
    open.kill().unwrap();
    open.wait().unwrap();
    assert_eq!(server.get("open"), b"written\n");
}

/// Ceph says a plain "AccessDenied" both to a wrong key and to missing rights: the first is an error of the mount, on
/// every store, and what it says names the keys but does not show them.
// R77
#[test]
fn a_wrong_key_is_an_error_of_the_mount() {
    let server = TestServer::start();
    let dir = temp_dir();
    let wrong = "0000000000000000000000000000000000000000";
    for (access, secret) in [(server.access_key.as_str(), wrong), ("NOSUCHACCESSKEY00000", &server.secret_key)] {
        let mut c = command("timeout");
        c.arg("60").arg(crate::common::binary()).arg("mount").arg(&server.bucket).arg(dir.path());
        c.args(["--foreground", "-o", &format!("endpoint={},region={}", server.endpoint, server.region)]);
        c.env("AWS_ACCESS_KEY_ID", access).env("AWS_SECRET_ACCESS_KEY", secret);
        let output = c.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("key"), "{said}");
        assert!(!said.contains(wrong) && !said.contains(&server.secret_key), "{said}");
        assert!(!is_mounted(dir.path()));
    }
}

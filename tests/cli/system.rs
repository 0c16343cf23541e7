//! What systemd, fstab and the setuid helper have to do with it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use super::{Mount, PATIENCE, child, run};

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

//! Objects in archive classes: refused at once, restored through a mount and by the program, then readable. On the
//! embedded server, and with `XOSFS_TEST_S3` on moto, which shares no code with it. Ceph has no archive.

#![cfg(feature = "demo")]

#[path = "common/mod.rs"]
mod common;

use std::fs;
use std::time::Duration;

use common::{Ran, TestMount, TestServer};
use nix::errno::Errno;

/// Classes that have to be restored, and what is asked for.
const CLASSES: [(&str, &str); 2] = [("GLACIER", "1"), ("DEEP_ARCHIVE", "3,Standard")];

/// `xosfs ARGS…` with keys and endpoint.
fn xosfs(server: &TestServer, args: &[&str]) -> Ran {
    Ran::of(server.program_there(120, args).output().unwrap())
}

#[track_caller]
fn ok(server: &TestServer, args: &[&str]) -> String {
    let ran = xosfs(server, args);
    assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{args:?}: {ran:?}");
    ran.out
}

/// Stores `text` in an archive class.
#[track_caller]
fn archive(server: &TestServer, key: &str, text: &str, class: &str) {
    let temp = common::temp_dir();
    let file = temp.path().join("f");
    fs::write(&file, text).unwrap();
    let uri = format!("s3://{}/{key}", server.bucket);
    ok(server, &["cp", "--storage-class", class, file.to_str().unwrap(), &uri]);
}

/// How long a restore takes, where that can be said.
fn restores_take(server: &TestServer, time: Duration) {
    if let Some(embedded) = server.embedded_server() {
        embedded.knobs().set(|b| b.restore_delay = time);
    }
}

fn attribute(path: &std::path::Path, name: &str) -> String {
    String::from_utf8(xattr::get(path, name).unwrap().unwrap_or_default()).unwrap()
}

fn errno<T>(result: std::io::Result<T>) -> Errno {
    Errno::from_raw(result.err().and_then(|e| e.raw_os_error()).unwrap_or(0))
}

// R79, R117, POL-ACT-22, CON-52
#[test]
fn a_mount_refuses_an_archived_object_and_restores_it() {
    let server = TestServer::start();
    restores_take(&server, Duration::ZERO);
    for (class, days) in CLASSES {
        let key = format!("{class}/it's cold");
        archive(&server, &key, "frozen", class);
        let mount = TestMount::with(&server, &["metadata_ttl=0"]);
        let file = mount.join(&key);
        assert_eq!(fs::metadata(&file).unwrap().len(), 6);
        assert_eq!(errno(fs::File::open(&file)), Errno::EACCES, "{class}");
        let log = mount.log();
        assert!(
            log.contains(&format!("xosfs object restore set 's3://{}/{class}/it'\\''s cold'", server.bucket)),
            "{log}"
        );
        assert_eq!(attribute(&file, "user.s3.storage-class"), class);
        assert_eq!(attribute(&file, "user.s3.restore"), "archived");
        assert_eq!(errno(xattr::set(&file, "user.s3.restore", b"soon")), Errno::EINVAL);
        xattr::set(&file, "user.s3.restore", days.as_bytes()).unwrap();
        let state = attribute(&file, "user.s3.restore");
        assert!(state.starts_with("until ") && state.ends_with("GMT"), "{class}: {state}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "frozen", "{class}");
        assert_eq!(attribute(&file, "user.s3.storage-class"), class, "a restore is no change of class");
        mount.umount();
    }
}

// R79
#[test]
fn an_archived_object_can_be_deleted_but_not_moved() {
    let server = TestServer::start();
    for key in ["moved", "deleted"] {
        archive(&server, key, "frozen", "GLACIER");
    }
    let mount = TestMount::with(&server, &["metadata_ttl=0"]);
    assert_eq!(errno(fs::rename(mount.join("moved"), mount.join("elsewhere"))), Errno::EACCES);
    assert!(mount.join("moved").exists() && !mount.join("elsewhere").exists());
    fs::remove_file(mount.join("deleted")).unwrap();
    mount.umount();
    assert_eq!(server.list(""), ["moved"]);
}

// R110
#[test]
fn a_replaced_object_stays_in_its_archive() {
    let server = TestServer::start();
    restores_take(&server, Duration::ZERO);
    archive(&server, "f", "frozen", "GLACIER");
    let mount = TestMount::with(&server, &["metadata_ttl=0"]);
    let file = mount.join("f");
    fs::write(&file, "frozen anew").unwrap();
    assert_eq!(attribute(&file, "user.s3.storage-class"), "GLACIER");
    assert_eq!(attribute(&file, "user.s3.restore"), "archived");
    xattr::set(&file, "user.s3.restore", b"1").unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "frozen anew");
    mount.umount();
}

// POL-ACT-22, CON-52
#[test]
fn the_program_restores_what_it_cannot_fetch() {
    let server = TestServer::start();
    restores_take(&server, Duration::ZERO);
    for (class, days) in CLASSES {
        for name in ["a", "b c"] {
            archive(&server, &format!("{class}/{name}"), "frozen", class);
        }
        let (dir, uri) = (format!("s3://{}/{class}", server.bucket), format!("s3://{}/{class}/b c", server.bucket));
        assert_eq!(ok(&server, &["object", "class", "get", &uri]).trim_end(), class);
        assert_eq!(ok(&server, &["object", "restore", "get", &uri]), "archived\n");
        let ran = xosfs(&server, &["cp", &uri, "-"]);
        assert_eq!((ran.code, &*ran.out), (Some(1), ""), "{ran:?}");
        assert!(ran.err.contains("InvalidObjectState") && ran.err.contains("restore"), "{ran:?}");
        let (days, tier) = days.split_once(',').unwrap_or((days, "Standard"));
        ok(&server, &["object", "restore", "set", "-r", "--days", days, "--tier", tier, &dir]);
        let state = ok(&server, &["object", "restore", "get", &uri]);
        assert!(state.starts_with("until "), "{class}: {state}");
        assert_eq!(ok(&server, &["cp", &uri, "-"]), "frozen");
        // Asked again it only stays longer.
        ok(&server, &["object", "restore", "set", &uri, "--days", "4"]);
    }
}

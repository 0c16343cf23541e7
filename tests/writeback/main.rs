//! `writeback` without a kernel: what close acknowledged survives whatever happens to the process, in order and whole.
#![cfg(feature = "demo")]

#[path = "../common/mod.rs"]
mod common;
mod histories;
#[path = "../killable/mod.rs"]
mod killable;
mod log;
mod parked;
mod uploads;

use std::time::Duration;

use common::noise::noise;
use killable::{BUCKET, Daemon, PATIENCE, World, world};

// R82
#[test]
fn close_needs_no_store_and_a_killed_daemon_loses_nothing() {
    let w = world();
    let d = w.start();
    w.no_store();
    let (small, large) = (noise(1, 5000), noise(2, 3 << 20));
    d.write("small", &small);
    d.write("large", &large);
    d.write("empty", b"");
    assert_eq!(w.server.store().list(BUCKET, ""), Vec::<String>::new());
    assert_eq!((d.read("small"), d.read("large")), (small.clone(), large.clone()), "readable meanwhile");
    assert_eq!(d.pending_keys(), ["small", "large", "empty"]);
    let d = w.restart(d);
    assert_eq!(d.damage, Vec::<String>::new());
    assert_eq!((d.read("small"), d.read("large")), (small.clone(), large.clone()), "readable after the crash");
    assert_eq!(d.ls(), ["empty", "large", "small"]);
    w.store_again();
    d.fs.retry(None).unwrap();
    d.settles();
    assert!(w.get("small").unwrap() == small && w.get("large").unwrap() == large && w.get("empty").unwrap().is_empty());
    assert_eq!(d.read("small"), small);
    assert_eq!(w.server.store().uploads(BUCKET), vec![]);
    // Nothing is left of the journal once it is closed.
    assert!(d.block(d.fs.drain(PATIENCE)).is_empty());
    let dir = d.journal.dir().to_owned();
    d.journal.close();
    assert!(!dir.exists());
}

#[test]
fn versions_of_a_file_are_stored_in_their_order() {
    let w = world();
    let d = w.start();
    w.server.knobs().set(|b| b.latency = Duration::from_millis(3));
    for round in 0..60u8 {
        d.write("f", &vec![round; 100 + usize::from(round)]);
        if round % 20 == 10 {
            std::thread::sleep(Duration::from_millis(120));
        }
    }
    d.settles();
    assert_eq!(w.get("f").unwrap(), vec![59; 159]);
    let sizes: Vec<u64> = w.server.log().iter().filter(|r| r.operation == "PutObject").map(|r| r.bytes_in).collect();
    assert!(sizes.is_sorted(), "{sizes:?}");
    assert!(sizes.len() < 30, "superseded versions are not all sent: {}", sizes.len());
}

// R84
#[test]
fn a_temporary_file_that_is_renamed_is_one_put() {
    let w = world();
    let d = w.start();
    for n in 0..10 {
        let final_name = format!("f{n}");
        d.write("tmp", final_name.as_bytes());
        d.rename("tmp", &final_name).unwrap();
    }
    d.settles();
    for n in 0..10 {
        assert_eq!(w.get(&format!("f{n}")).unwrap(), format!("f{n}"));
    }
    assert_eq!((w.count("PutObject"), w.count("CopyObject"), w.count("DeleteObject")), (10, 0, 0));
    assert!(d.find("tmp").is_none() && w.get("tmp").is_none());
}

#[test]
fn unlink_and_rename_of_pending_files_survive_a_crash() {
    let w = world();
    let d = w.start();
    w.no_store();
    d.write("gone", b"gone");
    d.write("target", b"old");
    d.unlink("gone").unwrap();
    d.write_and_rename("source", b"new", "target");
    d.write_and_rename("moved", b"moved", "elsewhere");
    d.write("moved", b"another");
    let d = w.restart(d);
    assert!(d.find("gone").is_none() && d.find("source").is_none());
    w.store_again();
    d.fs.retry(None).unwrap();
    d.settles();
    assert_eq!(w.server.store().list(BUCKET, ""), ["elsewhere", "moved", "target"]);
    assert_eq!(w.get("target").unwrap(), "new");
    assert_eq!((w.get("elsewhere").unwrap(), w.get("moved").unwrap()), ("moved".into(), "another".into()));
    assert_eq!(w.count("DeleteObject"), 0);
}

#[test]
fn an_unlinked_pending_file_stays_readable_through_its_handles() {
    let w = world();
    let d = w.start();
    w.no_store();
    let bytes = noise(3, 900_000);
    d.write("f", &bytes);
    // Taken up from the journal, so that the bytes are only there.
    let d = w.restart(d);
    let fh = d.open("f", libc::O_RDONLY).unwrap();
    d.unlink("f").unwrap();
    assert_eq!(d.journal.pending().len(), 0);
    let mut out = Vec::new();
    while out.len() < bytes.len() {
        let piece = d.block(d.fs.read(fh, out.len() as u64, 1 << 20)).unwrap();
        assert!(!piece.is_empty());
        out.extend_from_slice(&piece);
    }
    assert!(out == bytes);
    d.close(fh).unwrap();
}

// R83
#[test]
fn fsync_waits_for_the_store_and_what_is_being_written_is_not_published() {
    let w = world();
    let d = w.start();
    let fh = d.open("f", libc::O_RDWR).unwrap();
    d.put(fh, 0, b"first");
    d.flush(fh).unwrap();
    // Half of a change: no descriptor was closed after it.
    d.put(fh, 0, b"SECOND half");
    d.settles();
    assert_eq!(w.get("f").unwrap(), "first");
    assert_eq!(&d.block(d.fs.read(fh, 0, 100)).unwrap()[..], b"SECOND half");
    d.block(d.fs.fsync(fh)).unwrap();
    assert_eq!(w.get("f").unwrap(), "SECOND half");
    w.no_store();
    d.put(fh, 0, b"third");
    assert!(d.block(d.fs.fsync(fh)).is_err());
    d.flush(fh).unwrap();
    d.put(fh, 0, b"never closed");
    let d = w.restart(d);
    w.store_again();
    d.fs.retry(None).unwrap();
    d.settles();
    assert_eq!(w.get("f").unwrap(), "thirdD half");
}

/// A daemon that dies between the store's answer and the end of the record: the next one starts on the journal as it
/// was before.
#[track_caller]
fn answered_but_not_noted(w: &World, change: impl Fn(&Daemon)) -> Daemon {
    let d = w.start();
    change(&d);
    let before = w.snapshot();
    d.settles();
    d.kill();
    w.server.clear_log();
    let d = w.start_with(&before, "writeback");
    assert!(!d.pending_keys().is_empty());
    d.settles();
    d
}

// R89
#[test]
fn what_the_store_has_already_is_recognised() {
    let w = world();
    let old = noise(5, 300_000);
    w.server.store().put(BUCKET, "changed", old.clone());
    let d = answered_but_not_noted(&w, |d| {
        let fh = d.open("changed", libc::O_WRONLY).unwrap();
        d.put(fh, 100_000, b"in the middle");
        d.close(fh).unwrap();
        let exclusive = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
        let fh = d.open("exclusive", exclusive).unwrap();
        d.put(fh, 0, b"mine");
        d.close(fh).unwrap();
        d.write("plain", b"plain");
    });
    let mut expected = old;
    expected[100_000..100_013].copy_from_slice(b"in the middle");
    assert!(w.get("changed").unwrap() == expected);
    assert_eq!((w.get("exclusive").unwrap(), w.get("plain").unwrap()), ("mine".into(), "plain".into()));
    assert!(d.read("changed") == expected);
}

#[test]
fn attributes_set_after_the_close_ride_along() {
    let w = world();
    let d = w.start();
    d.write("f", b"x");
    let ino = d.find("f").unwrap();
    let change = xosfs::fs::setattr::Change { perm: Some(0o600), ..Default::default() };
    d.block(d.fs.setattr(ino, None, change)).unwrap();
    d.settles();
    let mode = w.server.store().head(BUCKET, "f").unwrap();
    let mode = mode.attributes.metadata.get("mode").cloned().unwrap_or_default();
    assert_eq!(mode.parse::<u32>().unwrap_or(0) & 0o777, 0o600, "{mode}");
    assert_eq!((w.count("PutObject"), w.count("CopyObject")), (1, 0));
}

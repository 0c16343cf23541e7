//! With `writeback`, deletes in the background: what is seen meanwhile, after a crash, and when the store refuses.
#![cfg(feature = "demo")]

#[path = "common/mod.rs"]
mod common;
mod killable;

use std::path::Path;

use killable::{BUCKET, Daemon, PATIENCE, World, name, world};
use xosfs::Kind;
use xosfs::demo::{Action, Rule};
use xosfs::fs::ROOT;
use xosfs::write::journal::survey;

/// Files of the store, one that may be deleted first included: the first delete of a mount is waited for.
fn filled(count: usize) -> World {
    let w = world();
    w.server.store().put(BUCKET, "first", "x");
    for i in 0..count {
        w.server.store().put(BUCKET, &format!("f{i:04}"), "x");
    }
    w
}

/// What the store answers to deletes until [`World::store_again`].
fn deletes_fail(w: &World, status: u16, code: &str) {
    for operation in ["DeleteObjects", "DeleteObject"] {
        w.server.knobs().fail(Rule::new(operation, Action::Status(status, code.into())).always());
    }
}

/// Nothing is deleted until [`World::store_again`].
fn no_deletes(w: &World) {
    deletes_fail(w, 503, "SlowDown");
}

/// Deletes are not allowed until [`World::store_again`].
fn forbid_deletes(w: &World) {
    deletes_fail(w, 403, "AccessDenied");
}

/// Deletes that the journal below `state` knows of.
fn noted(state: &Path) -> usize {
    survey(state).unwrap().iter().map(|s| s.deletes).sum()
}

fn keys(w: &World) -> Vec<String> {
    w.server.store().list(BUCKET, "")
}

#[track_caller]
fn eventually_deleted(w: &World, left: &[&str]) {
    common::eventually(PATIENCE, "deleted", || keys(w) == left);
}

fn daemon_that_may_delete(w: &World) -> Daemon {
    let d = w.start();
    d.ls();
    d.unlink("first").unwrap();
    d
}

// R47, R125
#[test]
fn many_deletes_are_few_requests() {
    let w = filled(1000);
    let d = daemon_that_may_delete(&w);
    let requests = |op: &str| w.count(op);
    let before = requests("DeleteObjects");
    for i in 0..1000 {
        d.unlink(&format!("f{i:04}")).unwrap();
        assert!(d.find(&format!("f{i:04}")).is_none(), "gone from the mount at once");
    }
    eventually_deleted(&w, &[]);
    assert!(d.ls().is_empty());
    assert_eq!(requests("DeleteObject"), 1, "the first, which tells whether they are allowed");
    // One at a time, and each takes all that there are by then.
    assert!((1..=100).contains(&(requests("DeleteObjects") - before)), "{}", requests("DeleteObjects") - before);
    assert_eq!(requests("HeadObject"), 0);
    assert!(d.block(d.fs.drain(PATIENCE)).is_empty());
    let state = w.snapshot();
    assert!(survey(&state).unwrap().iter().all(|s| s.deletes == 0));
}

/// The names are looked up one by one, in a directory that was never listed.
// R124, R125
#[test]
fn names_that_are_looked_up_to_be_deleted_are_listed() {
    let w = filled(300);
    let d = w.start();
    d.unlink("first").unwrap();
    for i in 0..300 {
        d.unlink(&format!("f{i:04}")).unwrap();
    }
    eventually_deleted(&w, &[]);
    let asked = w.count("HeadObject") + w.count("ListObjectsV2");
    assert!(asked <= 20, "{asked} requests to look up 300 names");
}

// R88, R125
#[test]
fn a_delete_survives_a_crash() {
    let w = filled(3);
    let d = daemon_that_may_delete(&w);
    no_deletes(&w);
    d.unlink("f0000").unwrap();
    d.unlink("f0001").unwrap();
    assert_eq!(d.ls(), ["f0002"]);
    d.kill();
    let state = w.snapshot();
    assert_eq!(noted(&state), 2);
    let d = w.start_with(&state, "writeback");
    assert_eq!(d.ls(), ["f0002"], "hidden before it is deleted");
    assert!(d.find("f0000").is_none());
    w.store_again();
    eventually_deleted(&w, &["f0002"]);
    d.block(d.fs.flush_all(PATIENCE));
    d.kill();
    assert_eq!(noted(&w.snapshot()), 0);
}

/// Also one of the same content.
// R125
#[test]
fn a_late_delete_takes_no_other_object() {
    for content in ["x", "other"] {
        let w = filled(1);
        let d = daemon_that_may_delete(&w);
        no_deletes(&w);
        d.unlink("f0000").unwrap();
        d.kill();
        // The store's times are seconds.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        w.server.store().put(BUCKET, "f0000", content);
        w.store_again();
        let d = w.start_with(&w.snapshot(), "writeback");
        common::eventually(PATIENCE, "it is decided", || d.fs.figures().unlinked == 0);
        assert_eq!(keys(&w), ["f0000"]);
        assert_eq!(d.read("f0000"), content.as_bytes());
    }
}

/// Somebody waits for a delete while the task in the background has nothing left to take, and is told that it failed.
// R125
#[test]
fn a_delete_that_failed_for_somebody_is_tried_again() {
    let w = filled(2);
    let d = daemon_that_may_delete(&w);
    no_deletes(&w);
    // Long enough for the task to look while the answer is on its way.
    w.server.knobs().set(|b| b.latency = std::time::Duration::from_millis(300));
    d.unlink("f0000").unwrap();
    assert_eq!(d.block(d.fs.sync_dir(ROOT)).unwrap_err().kind(), Kind::Unavailable);
    w.server.knobs().set(|b| b.latency = std::time::Duration::ZERO);
    w.store_again();
    eventually_deleted(&w, &["f0001"]);
}

// R51, R125
#[test]
fn a_name_that_is_used_again_is_not_deleted() {
    let w = filled(4);
    let d = daemon_that_may_delete(&w);
    d.unlink("f0000").unwrap();
    d.write("f0000", b"new");
    d.unlink("f0001").unwrap();
    d.write("source", b"moved");
    d.rename("source", "f0001").unwrap();
    d.unlink("f0002").unwrap();
    d.block(d.fs.symlink(ROOT, &name("f0002"), "f0000", (0, 0))).unwrap();
    d.unlink("f0003").unwrap();
    d.block(d.fs.mkdir(ROOT, &name("f0003"), 0o755, (0, 0))).unwrap();
    d.settles();
    d.block(d.fs.flush_all(PATIENCE));
    assert_eq!(d.ls(), ["f0000", "f0001", "f0002", "f0003"]);
    assert_eq!((d.read("f0000"), d.read("f0001")), (b"new".to_vec(), b"moved".to_vec()));
    assert_eq!(keys(&w), ["f0000", "f0001", "f0002", "f0003/"]);
    let d = w.restart(d);
    assert_eq!(d.ls(), ["f0000", "f0001", "f0002", "f0003"]);
}

/// With the store away a new file of the name replaces the old object instead.
#[test]
fn a_name_is_used_again_while_the_store_does_not_delete() {
    let w = filled(1);
    let d = daemon_that_may_delete(&w);
    no_deletes(&w);
    d.unlink("f0000").unwrap();
    d.write("f0000", b"new");
    d.settles();
    assert_eq!(w.get("f0000").unwrap(), "new");
    w.store_again();
    d.block(d.fs.flush_all(PATIENCE));
    let d = w.restart(d);
    assert_eq!(d.read("f0000"), b"new");
    assert_eq!(keys(&w), ["f0000"]);
}

// R125
#[test]
fn what_may_not_be_deleted_shows_again_and_fsync_tells() {
    let w = filled(2);
    let d = w.start();
    d.ls();
    forbid_deletes(&w);
    assert_eq!(d.unlink("f0000").unwrap_err().kind(), Kind::Denied, "the first is waited for");
    w.store_again();
    d.unlink("first").unwrap();
    forbid_deletes(&w);
    d.unlink("f0000").unwrap();
    assert_eq!(d.block(d.fs.sync_dir(ROOT)).unwrap_err().kind(), Kind::Denied);
    assert_eq!(d.ls(), ["f0000", "f0001"]);
    assert_eq!(d.read("f0000"), b"x");
    assert_eq!(d.unlink("f0001").unwrap_err().kind(), Kind::Denied, "and from then on the call tells");
    w.store_again();
    d.unlink("f0000").unwrap();
    d.unlink("f0001").unwrap();
    d.block(d.fs.flush_all(PATIENCE));
    d.block(d.fs.sync_dir(ROOT)).unwrap();
    assert_eq!(keys(&w), Vec::<String>::new());
}

// R44, R125
#[test]
fn directories_wait_for_the_deletes_in_them() {
    let w = filled(0);
    for key in ["d/a", "d/b", "d/sub/c", "e/a", "e/b"] {
        w.server.store().put(BUCKET, key, key);
    }
    let d = daemon_that_may_delete(&w);
    d.unlink("d/a").unwrap();
    d.rename("d", "moved").unwrap();
    assert_eq!(keys(&w), ["e/a", "e/b", "moved/b", "moved/sub/c"]);
    d.unlink("e/a").unwrap();
    d.unlink("e/b").unwrap();
    d.block(d.fs.rmdir(ROOT, &name("e"))).unwrap();
    assert_eq!(keys(&w), ["moved/b", "moved/sub/c"]);
    // Into the place of a directory that was emptied a moment ago.
    d.block(d.fs.mkdir(ROOT, &name("full"), 0o755, (0, 0))).unwrap();
    d.write("full/b", b"old");
    d.settles();
    d.unlink("full/b").unwrap();
    d.rename("moved", "full").unwrap();
    d.block(d.fs.flush_all(PATIENCE));
    assert_eq!(d.read("full/b"), b"d/b");
    let d = w.restart(d);
    assert_eq!(d.read("full/sub/c"), b"d/sub/c");
}

// R73
#[test]
fn the_end_of_a_mount_deletes_or_names_what_is_left() {
    let w = filled(2);
    let d = daemon_that_may_delete(&w);
    no_deletes(&w);
    d.unlink("f0000").unwrap();
    let left = d.block(d.fs.drain(std::time::Duration::from_secs(2)));
    assert_eq!(left.len(), 1, "{left:?}");
    let why = left[0].1.to_string();
    assert!(left[0].0 == "f0000" && why.contains("next mount") && why.contains("SlowDown"), "{left:?}");
    w.store_again();
    let d = w.restart(d);
    eventually_deleted(&w, &["f0001"]);
    assert!(d.block(d.fs.drain(PATIENCE)).is_empty());
}

//! What a mount makes of the journal of one that was killed, when others have been at the store meanwhile.
#![cfg(feature = "demo")]

#[path = "common/mod.rs"]
mod common;
mod killable;

use std::path::Path;

use bytes::Bytes;
use common::noise::noise;
use killable::{BUCKET, Daemon, PATIENCE, World, copy_dir, name, world};
use xosfs::Kind;
use xosfs::demo::{Action, Rule};
use xosfs::fs::ROOT;
use xosfs::fs::file::WriteMode;
use xosfs::write::journal::{Journal, JournalSettings, PendingState, survey};

const ON_CONFLICT: [&str; 3] = ["overwrite", "fail", "keep_both"];

fn with(on_conflict: &str) -> String {
    format!("writeback,on_conflict={on_conflict}")
}

/// The one key that is not `name`.
fn beside(w: &World, name: &str) -> Option<String> {
    let mut others: Vec<_> = w.server.store().list(BUCKET, "").into_iter().filter(|k| k != name).collect();
    assert!(others.len() <= 1, "{others:?}");
    others.pop()
}

// R89 R97
#[test]
fn after_a_crash_a_new_or_emptied_file_knows_what_its_name_held() {
    for on_conflict in ON_CONFLICT {
        for emptied in [false, true] {
            let w = world();
            if emptied {
                w.server.store().put(BUCKET, "f.txt", "before");
            }
            let d = w.start_with(&w.state(), &with(on_conflict));
            w.no_store();
            d.write("f.txt", b"ours");
            d.kill();
            w.server.store().put(BUCKET, "f.txt", "theirs");
            w.store_again();
            let d = w.start_with(&w.snapshot(), &with(on_conflict));
            let is_parked = || d.fs.pending().iter().any(|p| p.state == PendingState::Parked);
            common::eventually(PATIENCE, "it is decided", || d.fs.pending().is_empty() || is_parked());
            let stored = (w.get("f.txt").unwrap(), beside(&w, "f.txt").map(|k| w.get(&k).unwrap()));
            let (ours, theirs) = (Bytes::from_static(b"ours"), Bytes::from_static(b"theirs"));
            let expected = match on_conflict {
                "overwrite" => (ours, None),
                "fail" => (theirs, None),
                _ => (theirs, Some(ours)),
            };
            assert_eq!(stored, expected, "{on_conflict}, emptied: {emptied}");
            assert_eq!(is_parked(), on_conflict == "fail");
        }
    }
}

#[test]
fn after_a_crash_what_was_stored_already_is_no_conflict() {
    for on_conflict in ON_CONFLICT {
        let w = world();
        w.server.store().put(BUCKET, "emptied", "before");
        let d = w.start_with(&w.state(), &with(on_conflict));
        d.write("emptied", b"ours");
        let before = w.snapshot();
        d.settles();
        d.kill();
        let d = w.start_with(&before, &with(on_conflict));
        assert_eq!(d.pending_keys(), ["emptied"]);
        d.settles();
        assert_eq!((w.get("emptied").unwrap(), beside(&w, "emptied")), (Bytes::from_static(b"ours"), None));
    }
}

// R42
#[test]
fn after_a_crash_a_renamed_file_replaces_what_is_there() {
    let w = world();
    let d = w.start_with(&w.state(), &with("fail"));
    w.no_store();
    d.write_and_rename("new", b"ours", "name");
    d.kill();
    w.server.store().put(BUCKET, "name", "theirs");
    w.store_again();
    let d = w.start_with(&w.snapshot(), &with("fail"));
    d.settles();
    assert_eq!((w.get("name").unwrap(), beside(&w, "name")), (Bytes::from_static(b"ours"), None));
}

/// Notes of uploads in the journal below `state`, which may be in use.
fn notes(state: &Path) -> usize {
    let copy = common::temp_dir();
    copy_dir(state, copy.path());
    survey(copy.path()).unwrap().iter().map(|s| s.uploads).sum()
}

// R88
#[test]
fn notes_of_uploads_do_not_wait_for_each_other() {
    let options = "stream_after=5M,part_size=5M";
    for several in [false, true] {
        let w = world();
        let d = w.start_with(&w.state(), options);
        let begun = Rule::new("CreateMultipartUpload", Action::CutBeforeAnswer);
        w.server.knobs().fail(if several { begun.always() } else { begun });
        w.server.knobs().fail(Rule::new("CreateMultipartUpload", Action::Drop).always());
        for _ in 0..2 {
            let fh = d.open("f", libc::O_WRONLY | libc::O_TRUNC).unwrap();
            for n in 0..20u64 {
                let bytes = Bytes::from(vec![1; 1 << 20]);
                let _ = d.block(d.fs.write(fh, n << 20, bytes, WriteMode::default()));
            }
            assert!(d.close(fh).is_err());
        }
        d.kill();
        // What the killed one had sent is answered by the same rules, however late the server reads it.
        let quiet = || {
            let before = w.server.log().len();
            std::thread::sleep(std::time::Duration::from_millis(300));
            w.server.log().len() == before
        };
        common::eventually(PATIENCE, "nothing arrives any more", quiet);
        w.store_again();
        let begun = w.server.store().uploads(BUCKET).len();
        let state = w.snapshot();
        let notes_left = notes(&state);
        assert!(notes_left >= 2 && if several { begun >= 2 } else { begun == 1 }, "{begun} of {notes_left}");
        let _d = w.start_with(&state, options);
        common::eventually(PATIENCE, "no notes", || notes(&state) == 0);
        // Of several that may be theirs nobody knows which is which.
        assert_eq!(w.server.store().uploads(BUCKET).len(), if several { begun } else { 0 });
    }
}

// R89
#[test]
fn fsync_lets_the_store_decide_about_an_exclusive_create() {
    let w = world();
    let d = w.start();
    let exclusive = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
    let fh = d.open("lock", exclusive).unwrap();
    d.put(fh, 0, b"ours");
    w.server.store().put(BUCKET, "lock", "theirs");
    assert_eq!(d.block(d.fs.fsync(fh)).unwrap_err().kind(), Kind::Exists);
    assert_eq!(w.get("lock").unwrap(), "theirs");
    let fh = d.open("free", exclusive).unwrap();
    d.block(d.fs.fsync(fh)).unwrap();
    assert_eq!(w.get("free").unwrap(), "");
}

/// What the name held was changed, acknowledged and not stored yet. The copy has arrived: the change has nothing left to
/// be made to, and must not wait in the journal for it.
// R42 R89
#[test]
fn after_a_crash_in_a_rename_nothing_waits_for_what_was_replaced() {
    let w = world();
    w.server.store().put(BUCKET, "name", vec![b'o'; 300_000]);
    w.server.store().put(BUCKET, "new", "ours");
    let d = w.start();
    let fh = d.open("name", libc::O_RDWR).unwrap();
    d.put(fh, 10, b"changed");
    d.close(fh).unwrap();
    assert_eq!(d.pending_keys(), ["name"]);
    w.server.knobs().fail(Rule::new("CopyObject", Action::Stall(PATIENCE)));
    let fs = d.fs.clone();
    let rename = async move { fs.rename((ROOT, &name("new")), (ROOT, &name("name")), false).await };
    d.rt.as_ref().unwrap().spawn(rename);
    common::eventually(PATIENCE, "the copy has arrived", || w.get("name").unwrap() == "ours");
    d.kill();
    w.store_again();
    let d = w.start_with(&w.snapshot(), "writeback");
    d.settles();
    assert_eq!(w.get("name").unwrap(), "ours");
    assert_eq!(w.get("new").unwrap(), "ours", "the rename has not ended");
}

/// Writes to `f`, whose bytes are `stored` when the daemon is killed; the next one knows nothing of the upload.
#[track_caller]
fn killed_after_the_upload(w: &World, flags: i32, at: u64, bytes: &[u8], stored: &str) -> Daemon {
    let d = w.start();
    w.no_store();
    let fh = d.open("f", flags).unwrap();
    d.put(fh, at, bytes);
    d.close(fh).unwrap();
    let before = w.snapshot();
    w.store_again();
    d.settles();
    assert_eq!(w.get("f").unwrap(), stored);
    d.kill();
    w.start_with(&before, "writeback")
}

/// The upload had arrived when the daemon was killed, and the next thing that needs it is not the background.
// R85 R89
#[test]
fn after_a_crash_what_was_stored_already_is_no_conflict_for_a_rename_or_fsync_either() {
    for renamed in [false, true] {
        let w = world();
        let exclusive = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
        let d = killed_after_the_upload(&w, exclusive, 0, b"ours", "ours");
        if renamed {
            d.rename("f", "g").unwrap();
            assert_eq!(d.read("g"), b"ours");
        } else {
            let fh = d.open("f", libc::O_RDWR).unwrap();
            d.put(fh, 4, b" and more");
            d.block(d.fs.fsync(fh)).unwrap();
            d.close(fh).unwrap();
            assert_eq!(w.get("f").unwrap(), "ours and more");
        }
        d.settles();
        assert_eq!(w.server.store().list(BUCKET, ""), [if renamed { "g" } else { "f" }]);
    }
}

/// A change whose upload had arrived: the version it is a change of is not there any more.
// R85
#[test]
fn after_a_crash_a_changed_file_is_read_at_once() {
    let w = world();
    w.server.store().put(BUCKET, "f", "0123456789");
    let d = killed_after_the_upload(&w, libc::O_RDWR, 10, b" and more", "0123456789 and more");
    assert_eq!(d.read("f"), b"0123456789 and more");
    d.settles();
    assert_eq!(w.get("f").unwrap(), "0123456789 and more");
}

// R17, R88
#[test]
fn a_truncate_by_path_is_journalled_although_the_release_is_late() {
    let w = world();
    let d = w.start();
    w.no_store();
    let fh = d.open("f", libc::O_RDWR).unwrap();
    d.put(fh, 0, b"content");
    d.flush(fh).unwrap();
    let cut = xosfs::fs::setattr::Change { size: Some(3), ..Default::default() };
    d.block(d.fs.setattr(d.find("f").unwrap(), None, cut)).unwrap();
    let d = w.restart(d);
    assert_eq!(d.read("f"), b"con");
    w.store_again();
    d.block(d.fs.flush_all(PATIENCE));
    assert_eq!(w.get("f").unwrap(), "con");
}

/// A change of parts of a version that is gone is kept and reported; whoever writes the whole file anew needs it no more.
// R22 R89
#[test]
fn a_recovered_file_that_is_written_anew_can_be_stored() {
    let w = world();
    let old = noise(1, 300_000);
    w.server.store().put(BUCKET, "f", old);
    let d = w.start();
    w.no_store();
    let fh = d.open("f", libc::O_RDWR).unwrap();
    d.put(fh, 1000, b"changed");
    d.close(fh).unwrap();
    d.kill();
    w.server.store().put(BUCKET, "f", "theirs");
    w.store_again();
    let d = w.start_with(&w.snapshot(), "writeback");
    let is_parked = || d.fs.pending().iter().any(|p| p.state == PendingState::Parked);
    common::eventually(PATIENCE, "it cannot be stored", is_parked);
    let fh = d.open("f", libc::O_RDWR | libc::O_TRUNC).unwrap();
    d.put(fh, 0, b"anew");
    d.block(d.fs.fsync(fh)).unwrap();
    assert_eq!(w.get("f").unwrap(), "anew");
    d.close(fh).unwrap();
    d.settles();
    assert_eq!(d.read("f"), b"anew");
    assert!(d.block(d.fs.drain(PATIENCE)).is_empty());
}

/// Two mounts of one bucket on one machine, and the power fails.
// R88
#[test]
fn of_one_name_in_two_journals_the_version_that_was_closed_last_counts() {
    for first_is_newer in [false, true] {
        let w = world();
        let d = w.start();
        w.no_store();
        let second = w.start_with(&w.state(), "writeback");
        assert_ne!(d.journal.dir(), second.journal.dir());
        let mut order = [&d, &second];
        if first_is_newer {
            order.reverse();
        }
        for (daemon, content) in order.iter().zip(["older", "newer"]) {
            daemon.write("f", content.as_bytes());
            // The times of records are thousandths of a second.
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        d.kill();
        second.kill();
        let d = w.start_with(&w.snapshot(), "writeback");
        assert_eq!(d.pending_keys(), ["f"]);
        assert_eq!(d.read("f"), b"newer");
        w.store_again();
        d.block(d.fs.flush_all(PATIENCE));
        d.settles();
        assert_eq!(w.get("f").unwrap(), "newer");
    }
}

/// What is left of another mount is older than what is done in a bucket that is in use.
// R88, R99
#[test]
fn a_bucket_in_use_takes_over_nothing() {
    let w = world();
    let d = w.start();
    w.no_store();
    d.write("f", b"of a mount that is gone");
    d.kill();
    let state = w.snapshot();
    let settings = JournalSettings {
        state_dir: state.clone(),
        identity: survey(&state).unwrap()[0].identity.clone(),
        limit: None,
        adopt: false,
    };
    let (journal, replay) = Journal::open(&settings).unwrap();
    assert!(replay.pending().is_empty() && journal.pending().is_empty());
    journal.close();
    assert_eq!(survey(&state).unwrap()[0].pending.len(), 1, "for the next mount");
    w.store_again();
    let d = w.start_with(&state, "writeback");
    d.settles();
    assert_eq!(w.get("f").unwrap(), "of a mount that is gone");
}

#[test]
fn numbers_of_entries_are_those_of_one_bucket() {
    let w = world();
    let d = w.start();
    w.no_store();
    let mut seen = std::collections::HashSet::new();
    for round in 0..20 {
        let second = w.start_with(&w.temp.path().join(format!("other-{round}")), "writeback");
        second.write("f", b"x");
        d.write(&format!("f{round}"), b"x");
        for p in second.fs.pending() {
            assert!(seen.insert(p.id), "{}", p.id);
        }
        second.kill();
    }
    assert!(d.fs.pending().iter().all(|p| seen.insert(p.id)));
}

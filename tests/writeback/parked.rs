//! What the store refuses waits until somebody decides.

use std::fs;
use std::time::Duration;

use xosfs::Kind;
use xosfs::demo::{Action, Rule};
use xosfs::write::journal::{PendingState, discard, export, survey};

use super::common;
use super::common::noise::noise;
use super::killable::{BUCKET, PATIENCE, world};
use super::log::{keys, log_of};

// R85
#[test]
fn what_is_refused_is_parked_with_its_reason_and_stored_when_it_is_tried_again() {
    let w = world();
    let d = w.start();
    w.server.knobs().fail(Rule::new("PutObject", Action::Status(403, "AccessDenied".into())).always().key("refused"));
    d.write("refused", b"refused");
    d.write("other", b"other");
    common::eventually(PATIENCE, "parked", || {
        d.fs.pending().len() == 1 && d.fs.pending()[0].state == PendingState::Parked
    });
    let entry = d.fs.pending().remove(0);
    assert_eq!((&*entry.key, entry.size, entry.attempts), ("refused", 7, 1));
    assert!(entry.reason.as_ref().unwrap().contains("AccessDenied"), "{:?}", entry.reason);
    assert_eq!((w.get("other").unwrap(), d.read("refused")), ("other".into(), b"refused".to_vec()));
    let out = w.temp.path().join("exported");
    d.block(d.fs.export(entry.id, &out)).unwrap();
    assert_eq!(fs::read(&out).unwrap(), b"refused");
    assert_eq!(d.block(d.fs.export(entry.id, &out)).unwrap_err().kind(), Kind::Exists);
    // Unmounting names it, and it stays.
    assert_eq!(d.block(d.fs.drain(Duration::from_secs(5))).len(), 1);
    d.kill();
    let state = w.snapshot();
    let found = survey(&state).unwrap();
    assert_eq!((found.len(), found[0].identity.bucket.as_str()), (1, BUCKET));
    assert_eq!((found[0].pending[0].id, found[0].pending[0].state), (entry.id, PendingState::Parked));
    let out = w.temp.path().join("offline");
    export(&state, entry.id, &out).unwrap();
    assert_eq!(fs::read(out).unwrap(), b"refused");
    w.store_again();
    let d = w.start_with(&state, "writeback");
    d.settles();
    assert_eq!(w.get("refused").unwrap(), "refused");
}

#[test]
fn a_parked_file_is_tried_again_by_a_later_close_and_can_be_discarded() {
    let w = world();
    let d = w.start();
    w.server.store().put(BUCKET, "old", "stored before");
    w.server.knobs().fail(Rule::new("PutObject", Action::Status(403, "AccessDenied".into())).always());
    d.write("old", b"refused");
    d.write("new", b"refused");
    let parked = || d.fs.pending().iter().filter(|p| p.state == PendingState::Parked).count();
    common::eventually(PATIENCE, "parked", || parked() == 2);
    for p in d.fs.pending() {
        d.block(d.fs.discard(p.id)).unwrap();
    }
    assert_eq!((d.fs.pending().len(), d.journal.pending().len()), (0, 0));
    assert_eq!(d.read("old"), b"stored before");
    assert!(d.find("new").is_none());
    assert_eq!(d.block(d.fs.discard(1)).unwrap_err().kind(), Kind::NotFound);
    d.write("again", b"1");
    common::eventually(PATIENCE, "parked", || parked() == 1);
    w.store_again();
    d.write("again", b"12");
    d.settles();
    assert_eq!(w.get("again").unwrap(), "12");
}

#[test]
fn an_entry_can_be_discarded_without_a_daemon() {
    let w = world();
    let (state, _) = log_of(&w, &[("keep", 10), ("drop", 10)]);
    let entry = survey(&state).unwrap().remove(0).pending.into_iter().find(|p| p.key == "drop").unwrap();
    discard(&state, entry.id).unwrap();
    assert_eq!(keys(&state), ["keep"]);
    assert_eq!(discard(&state, entry.id).unwrap_err().kind(), Kind::NotFound);
    w.store_again();
    let d = w.start_with(&state, "writeback");
    d.settles();
    assert_eq!(w.server.store().list(BUCKET, ""), ["keep"]);
}

#[test]
fn a_change_of_a_version_that_somebody_replaced_is_kept_and_never_merged() {
    let w = world();
    w.server.store().put(BUCKET, "f", noise(5, 300_000));
    let d = w.start();
    w.no_store();
    let fh = d.open("f", libc::O_WRONLY).unwrap();
    d.put(fh, 1000, b"ours");
    d.close(fh).unwrap();
    w.server.store().put(BUCKET, "f", "theirs");
    w.store_again();
    d.fs.retry(None).unwrap();
    common::eventually(PATIENCE, "parked", || d.fs.pending().iter().any(|p| p.state == PendingState::Parked));
    assert_eq!(w.get("f").unwrap(), "theirs");
}

//! `writeback` and an access control list that cannot be set after the content: tried again, shown, and not forgotten by a
//! crash.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::common::eventually;
use super::*;
use xosfs::demo::{Action, Rule};
use xosfs::write::journal::PendingState;

const GRANTS: &str = "READ_ACP AuthenticatedUsers";
const SOON: Duration = Duration::from_secs(30);

/// A mount with a journal in `state`.
fn journaled(w: &World, state: &Path) -> Mount {
    let lists = vec![
        format!("staging_dir={},endpoint={}", w.staging, w.server.endpoint()),
        format!("retries=0,writeback,metadata_ttl=0,state_dir={}", state.display()),
    ];
    let source: Source = BUCKET.parse().unwrap();
    let options = Options::load(&lists, false, &|_| None).unwrap();
    let anonymous = Options { anonymous: true, ..options.clone() };
    let mut settings = connect::settings(&anonymous, &source, &|_| None).unwrap();
    let keys = w.server.keys();
    settings.credentials = Credentials::fixed(keys.access_key, keys.secret_key, None);
    let (journal, replay) = volume::open_journal(&options, &source).unwrap().unzip();
    let fs = volume::build_with(&options, source.prefix, S3::new(settings).unwrap(), journal);
    fs.restore(replay.unwrap());
    Mount(fs)
}

/// The state directory as a process that starts now finds it.
fn snapshot(from: &Path, to: &Path) -> PathBuf {
    for entry in walkdir::WalkDir::new(from).into_iter().map(|e| e.unwrap()) {
        let there = to.join(entry.path().strip_prefix(from).unwrap());
        if entry.file_type().is_dir() {
            std::fs::create_dir_all(there).unwrap();
        } else {
            std::fs::copy(entry.path(), there).unwrap();
        }
    }
    to.to_owned()
}

async fn with_grants(w: &World) {
    w.put("f", "old");
    w.mount().set("f", "user.s3.acl.grants", GRANTS).await.unwrap();
}

async fn grants(w: &World) -> bool {
    w.mount().attribute("f", "user.s3.acl.grants").await.unwrap().contains(GRANTS)
}

fn stored(w: &World, content: &str) {
    eventually(SOON, "the content is stored", || w.get("f").as_deref() == Some(content));
}

// R113 R85
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_the_store_refuses_in_the_background_is_parked_and_reported() {
    let (w, state) = (world(), common::temp_dir());
    with_grants(&w).await;
    let m = journaled(&w, state.path());
    w.server.knobs().fail(Rule::new("PutObjectAcl", Action::Status(403, "AccessDenied".into())).always());
    m.write("f", b"new").await.unwrap();
    stored(&w, "new");
    eventually(SOON, "it is parked", || m.pending().first().is_some_and(|p| p.state == PendingState::Parked));
    let reason = m.pending()[0].reason.clone().unwrap();
    assert!(reason.contains("access control list"), "{reason}");
    let fh = m.open("f", read_write()).await.unwrap().fh;
    for _ in 0..2 {
        assert_eq!(kind(m.fsync(fh).await), Kind::Denied);
    }
    assert!(m.drain(Duration::from_secs(1)).await.iter().any(|(key, _)| key == "f"), "the end of the mount says so");
    w.server.knobs().clear_rules();
    m.fsync(fh).await.unwrap();
    assert!(m.pending().is_empty() && grants(&w).await);
    m.close(fh).await.unwrap();
    assert_eq!(w.get("f").unwrap(), "new");
}

// R113 R85
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_fails_in_the_background_is_tried_again() {
    let (w, state) = (world(), common::temp_dir());
    with_grants(&w).await;
    let m = journaled(&w, state.path());
    w.server.knobs().fail(Rule::new("PutObjectAcl", Action::Status(500, "InternalError".into())).times(2));
    m.write("f", b"new").await.unwrap();
    eventually(SOON, "nothing is pending", || m.pending().is_empty());
    assert_eq!(w.server.knobs().hits(), 2);
    assert!(grants(&w).await);
    // A later version takes the place of one that waits for its list.
    w.server.knobs().clear_rules();
    w.server.knobs().fail(Rule::new("PutObjectAcl", Action::Status(403, "AccessDenied".into())).always());
    m.write("f", b"second").await.unwrap();
    stored(&w, "second");
    w.server.knobs().clear_rules();
    m.write("f", b"third").await.unwrap();
    eventually(SOON, "nothing is pending", || m.pending().is_empty());
    assert_eq!(w.get("f").unwrap(), "third");
    assert!(grants(&w).await);
}

// R82 R110
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_waits_survives_a_crash() {
    let (w, state) = (world(), common::temp_dir());
    with_grants(&w).await;
    let m = journaled(&w, &state.path().join("first"));
    w.server.knobs().fail(Rule::new("PutObjectAcl", Action::Drop).always());
    m.write("f", b"new").await.unwrap();
    stored(&w, "new");
    eventually(SOON, "it was tried", || m.pending().first().is_some_and(|p| p.attempts > 0));
    let state = snapshot(&state.path().join("first"), &state.path().join("second"));
    w.server.knobs().clear_rules();
    let next = journaled(&w, &state);
    assert_eq!(next.pending().len(), 1);
    eventually(SOON, "nothing is pending", || next.pending().is_empty());
    assert_eq!(w.get("f").unwrap(), "new");
    assert!(grants(&w).await);
}

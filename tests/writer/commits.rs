//! What is stored by a commit, and what by one that fails.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use xosfs::Kind;
use xosfs::demo::{Action, Rule};
use xosfs::s3::{Condition, NewObject};
use xosfs::write::{Committed, OnConflict, WriteSettings, Writer};

use super::world::{BUCKET, PAGE, key, pattern, small, whole, world};

/// F1, F3, F4, F6, F10: one request of a commit fails, each in its turn; the caller hears of it, the old object stays,
/// and the next commit stores the right bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_failing_request_of_a_commit_is_an_error_and_harms_nothing() {
    for streamed in [false, true] {
        for action in [Action::Status(500, "InternalError".into()), Action::Status(403, "AccessDenied".into())] {
            let mut nth = 1;
            loop {
                let t = world(64 << 20, small()).await;
                let old = pattern(4, 12 * PAGE + 100);
                t.server.store().put(BUCKET, "f", old.clone());
                let (w, mut model) =
                    if streamed { (t.create("f"), Vec::new()) } else { (t.open("f").await, old.clone()) };
                t.server.clear_log();
                t.server.knobs().fail(Rule::new("*", action.clone()).nth(nth));
                let mut refused = Vec::new();
                let changes = if streamed {
                    vec![(0, 9 * PAGE + 3)]
                } else {
                    vec![(10, 5000), (6 * PAGE, PAGE), (12 * PAGE, 300)]
                };
                for (i, (at, len)) in changes.into_iter().enumerate() {
                    let data = pattern(50 + i as u64, len);
                    for (j, piece) in data.chunks(PAGE as usize).enumerate() {
                        let at = at + j as u64 * PAGE;
                        let piece = Bytes::copy_from_slice(piece);
                        if w.write(at, piece.clone()).await.is_err() {
                            refused.push((at, piece));
                        }
                    }
                    model.resize(model.len().max((at + len) as usize), 0);
                    model[at as usize..(at + len) as usize].copy_from_slice(&data);
                }
                let committed = w.commit().await;
                if t.server.knobs().hits() == 0 {
                    assert!(nth > 3 && refused.is_empty() && committed.unwrap().is_some());
                    assert!(t.stored("f").unwrap() == model);
                    break;
                }
                let uncopied = t.server.log().iter().any(|r| r.operation == "UploadPartCopy" && r.status == 403);
                if committed.is_ok() && refused.is_empty() && (streamed || uncopied) {
                    // A part that failed while the file was written was sent again, one that may not be copied was sent.
                    assert!(t.stored("f").unwrap() == model);
                } else {
                    let kind = committed.expect_err("a failed request went unnoticed").kind();
                    assert!(w.failed().is_some() && matches!(kind, Kind::Unavailable | Kind::Denied), "{kind:?}");
                    assert!(t.stored("f").unwrap() == old, "request {nth} harmed the old object");
                    for (at, piece) in refused {
                        w.write(at, piece).await.unwrap();
                    }
                    assert!(whole(&w).await == model);
                    // Reading what was sent has stored it already.
                    assert!(w.commit().await.unwrap().is_some() || w.published().is_some());
                    assert!(w.failed().is_none() && t.stored("f").unwrap() == model);
                }
                drop(w);
                t.is_clean().await;
                nth += 1;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_during_a_commit_survive_its_success_and_its_failure() {
    for fail in [false, true] {
        let t = world(64 << 20, small()).await;
        let w = t.create("f");
        w.write(0, Bytes::from(vec![1; 1000])).await.unwrap();
        t.server.knobs().set(|b| b.latency = Duration::from_millis(300));
        if fail {
            t.server.knobs().fail(Rule::new("PutObject", Action::Status(500, "InternalError".into())));
        }
        let commit = tokio::spawn({
            let w = w.clone();
            async move { w.commit().await }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        w.write(500, Bytes::from(vec![2; 1000])).await.unwrap();
        w.truncate(1400).await.unwrap();
        assert_eq!(commit.await.unwrap().is_err(), fail);
        assert!(w.is_dirty());
        let mut model = vec![1; 500];
        model.resize(1400, 2);
        assert!(whole(&w).await == model);
        w.commit().await.unwrap().unwrap();
        assert!(t.stored("f").unwrap() == model);
    }
}

/// Begun at a time.
fn five_commits(w: &Arc<Writer>) -> Vec<tokio::task::JoinHandle<xosfs::Result<Option<Committed>>>> {
    let commit = |w: Arc<Writer>| tokio::spawn(async move { w.commit().await });
    (0..5).map(|_| commit(w.clone())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_commits_are_one() {
    let t = world(64 << 20, small()).await;
    let w = t.create("f");
    w.write(0, Bytes::from_static(b"x")).await.unwrap();
    t.server.knobs().set(|b| b.latency = Duration::from_millis(100));
    for c in five_commits(&w) {
        c.await.unwrap().unwrap();
    }
    assert_eq!(t.count("PutObject"), 1);
    // A failure is everybody's.
    w.write(0, Bytes::from_static(b"y")).await.unwrap();
    t.server.knobs().fail(Rule::new("PutObject", Action::Status(403, "AccessDenied".into())));
    for c in five_commits(&w) {
        assert_eq!(c.await.unwrap().unwrap_err().kind(), Kind::Denied);
    }
    assert_eq!(t.count("PutObject"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicts_are_told_where_asked_for() {
    for conditional_puts in [true, false] {
        let t = world(64 << 20, WriteSettings { on_conflict: OnConflict::Fail, conditional_puts, ..small() }).await;
        t.server.knobs().set(|b| b.no_conditional_put = !conditional_puts);
        t.server.store().put(BUCKET, "f", "first");
        let w = t.open("f").await;
        w.write(0, Bytes::from_static(b"mine!")).await.unwrap();
        t.server.store().put(BUCKET, "f", "second");
        assert_eq!(w.commit().await.unwrap_err().kind(), Kind::Conflict);
        assert_eq!(t.stored("f").unwrap(), "second");
        let exclusive = Writer::new(t.io.clone(), key("f"), None, NewObject::default(), Condition::Absent);
        assert_eq!(exclusive.commit().await.unwrap_err().kind(), Kind::Exists);
        let w = t.open("f").await;
        w.write(0, Bytes::from_static(b"THIRD!")).await.unwrap();
        w.commit().await.unwrap().unwrap();
        assert_eq!(t.stored("f").unwrap(), "THIRD!");
    }
}

/// F9: the base is another object by now: never a mixture of the two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_base_is_a_conflict_and_not_a_mixture() {
    let t = world(64 << 20, small()).await;
    t.server.store().put(BUCKET, "f", pattern(5, 20 * PAGE));
    let w = t.open("f").await;
    w.write(3 * PAGE, Bytes::from_static(b"mine")).await.unwrap();
    let other = pattern(6, 20 * PAGE);
    t.server.store().put(BUCKET, "f", other.clone());
    assert_eq!(w.commit().await.unwrap_err().kind(), Kind::Conflict);
    assert!(t.stored("f").unwrap() == other);
    drop(w);
    t.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_without_part_copy_and_with_equal_parts_get_the_right_bytes() {
    for (part_copy, equal_parts) in [(false, false), (true, true), (false, true)] {
        let mut settings = small();
        settings.limits.part_copy = part_copy;
        settings.limits.equal_parts = equal_parts;
        let t = world(64 << 20, settings).await;
        t.server.knobs().set(|b| b.no_part_copy = !part_copy);
        let mut model = pattern(7, 20 * PAGE + 9);
        t.server.store().put(BUCKET, "f", model.clone());
        let w = t.open("f").await;
        w.write(7 * PAGE + 1, Bytes::from_static(b"changed")).await.unwrap();
        model[7 * PAGE as usize + 1..7 * PAGE as usize + 8].copy_from_slice(b"changed");
        w.commit().await.unwrap().unwrap();
        assert!(t.stored("f").unwrap() == model);
        assert_eq!(t.count("UploadPartCopy") > 0, part_copy);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_completion_is_not_taken_for_the_version_before() {
    let t = world(64 << 20, small()).await;
    let w = t.create("f");
    let old = pattern(0, 213_184);
    w.write(0, Bytes::from(old.clone())).await.unwrap();
    w.commit().await.unwrap();
    // Another content of the same size a moment later, and the completion fails for good.
    let new = pattern(2, 147_648);
    w.write(0, Bytes::from(new.clone())).await.unwrap();
    t.server.knobs().fail(Rule::new("CompleteMultipartUpload", Action::Status(500, "InternalError".into())).times(100));
    w.commit().await.unwrap_err();
    assert!(t.server.knobs().hits() > 0);
    t.server.knobs().clear_rules();
    let model = [&new[..], &old[new.len()..]].concat();
    assert!(t.stored("f").unwrap() == old && w.is_dirty());
    assert!(whole(&w).await == model);
    w.commit().await.unwrap();
    assert!(t.stored("f").unwrap() == model);
    drop(w);
    t.is_clean().await;
}

//! A stream and a store that fails: what was sent is gone from here, and is not lost for all that.

#![cfg(feature = "demo")]

mod world;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use world::{BUCKET, PAGE, World, key, pattern, small, whole, world};
use xosfs::Kind;
use xosfs::demo::{Action, Rule};
use xosfs::write::Writer;

const COMPLETE: &str = "CompleteMultipartUpload";

fn internal() -> Action {
    Action::Status(500, "InternalError".into())
}

fn refusal() -> Action {
    Action::Status(403, "AccessDenied".into())
}

/// A file of which parts were sent, over an older object of that name.
async fn streamed(t: &World, pages: u64) -> (Arc<Writer>, Vec<u8>) {
    t.server.store().put(BUCKET, "f", "old");
    let w = t.create("f");
    let data = pattern(7, pages * PAGE + 5);
    for (piece, at) in data.chunks(PAGE as usize).zip((0..).step_by(PAGE as usize)) {
        w.write(at, Bytes::copy_from_slice(piece)).await.unwrap();
    }
    (w, data)
}

async fn ends_clean(t: World, w: Arc<Writer>) {
    drop(w);
    t.is_clean().await;
}

// R12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_that_fails_is_asked_for_again_and_nothing_is_sent_twice() {
    let t = world(64 << 20, small()).await;
    let (w, data) = streamed(&t, 12).await;
    t.server.knobs().fail(Rule::new(COMPLETE, internal()).always());
    for _ in 0..3 {
        assert_eq!(w.commit().await.unwrap_err().kind(), Kind::Unavailable);
        assert!(w.failed().is_some() && w.is_dirty());
        assert_eq!(t.stored("f").unwrap(), "old");
        assert_eq!(t.server.store().uploads(BUCKET).len(), 1, "the upload is kept");
    }
    t.server.knobs().clear_rules();
    t.server.clear_log();
    assert!(w.commit().await.unwrap().is_some());
    assert!(t.stored("f").unwrap() == data);
    assert!(w.failed().is_none() && !w.is_dirty());
    assert_eq!((t.count("UploadPart"), t.count(COMPLETE), t.count("CreateMultipartUpload")), (0, 1, 0));
    ends_clean(t, w).await;
}

// R12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handle_goes_on_while_its_upload_waits_to_be_completed() {
    let t = world(64 << 20, small()).await;
    let (w, mut data) = streamed(&t, 12).await;
    t.server.knobs().fail(Rule::new(COMPLETE, internal()).always());
    w.commit().await.unwrap_err();
    // Over what was sent, behind it, and at the start.
    for (at, len) in [(5 * PAGE + 7, 100), (data.len() as u64, 3 * PAGE), (0, 10)] {
        let piece = pattern(at, len);
        w.write(at, Bytes::from(piece.clone())).await.unwrap();
        data.resize(data.len().max((at + len) as usize), 0);
        data[at as usize..(at + len) as usize].copy_from_slice(&piece);
    }
    w.punch(2 * PAGE, 500).await.unwrap();
    data[2 * PAGE as usize..2 * PAGE as usize + 500].fill(0);
    w.truncate(11 * PAGE + 1).await.unwrap();
    data.truncate(11 * PAGE as usize + 1);
    assert!(w.read(5 * PAGE + 7, 100).await.unwrap() == data[5 * PAGE as usize + 7..][..100]);
    assert!(w.read(6 * PAGE, 10).await.is_err(), "only the store has it");
    t.server.knobs().clear_rules();
    assert!(whole(&w).await == data);
    w.commit().await.unwrap();
    assert!(t.stored("f").unwrap() == data);
    ends_clean(t, w).await;
}

// R12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_round_fails_and_the_first_one_is_told() {
    let t = world(64 << 20, small()).await;
    let (w, data) = streamed(&t, 12).await;
    t.server.knobs().fail(Rule::new(COMPLETE, internal()).times(2));
    w.commit().await.unwrap_err();
    w.write(0, Bytes::from_static(b"later")).await.unwrap();
    // The upload is completed; then the change is to be stored in parts, and the second completion fails.
    t.server.knobs().clear_rules();
    t.server.knobs().fail(Rule::new(COMPLETE, internal()).nth(2));
    w.commit().await.unwrap_err();
    assert!(t.stored("f").unwrap() == data);
    let told = w.published().expect("there is an object that nobody has heard of");
    assert_eq!(told.object, t.object("f").await);
    w.commit().await.unwrap().unwrap();
    assert!(t.stored("f").unwrap() == [b"later", &data[5..]].concat());
    ends_clean(t, w).await;
}

// R12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_that_arrived_unseen_is_recognised() {
    let t = world(64 << 20, small()).await;
    let (w, data) = streamed(&t, 12).await;
    // It is done, the answer is lost, and so are those to the questions about it.
    t.server.knobs().fail(Rule::new(COMPLETE, Action::CutBeforeAnswer));
    t.server.knobs().fail(Rule::new("HeadObject", internal()).always());
    w.commit().await.unwrap_err();
    assert!(t.stored("f").unwrap() == data && w.is_dirty());
    t.server.knobs().clear_rules();
    t.server.clear_log();
    let committed = w.commit().await.unwrap().unwrap();
    assert_eq!(committed.object, t.object("f").await);
    assert_eq!(t.count(COMPLETE), 0);
    w.append(Bytes::from_static(b"more")).await.unwrap();
    w.commit().await.unwrap().unwrap();
    assert!(t.stored("f").unwrap() == [&data[..], b"more"].concat());
    ends_clean(t, w).await;
}

// R12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_content_that_was_there_before_is_not_taken_for_the_completion() {
    let t = world(64 << 20, small()).await;
    let (w, data) = streamed(&t, 12).await;
    w.commit().await.unwrap();
    drop(w);
    let w = t.create("f");
    for (piece, at) in data.chunks(PAGE as usize).zip((0..).step_by(PAGE as usize)) {
        w.write(at, Bytes::copy_from_slice(piece)).await.unwrap();
    }
    t.server.knobs().fail(Rule::new(COMPLETE, internal()).times(2));
    w.commit().await.unwrap_err();
    t.server.knobs().clear_rules();
    t.server.clear_log();
    w.commit().await.unwrap().unwrap();
    assert_eq!(t.count(COMPLETE), 1, "the upload is still there: it was not completed");
    assert!(t.stored("f").unwrap() == data);
    ends_clean(t, w).await;
}

// R12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_gone_is_the_end_of_the_file() {
    let t = world(64 << 20, small()).await;
    let (w, data) = streamed(&t, 12).await;
    t.server.knobs().fail(Rule::new(COMPLETE, internal()).times(2));
    w.commit().await.unwrap_err();
    t.server.knobs().clear_rules();
    for upload in t.s3.list_uploads("").await.unwrap() {
        t.s3.abort_upload(&key("f"), &upload.id).await.unwrap();
    }
    assert_eq!(w.commit().await.unwrap_err().kind(), Kind::Stale);
    assert_eq!(t.stored("f").unwrap(), "old");
    assert!(w.write(data.len() as u64, Bytes::from_static(b"more")).await.is_err());
    assert!(w.commit().await.is_err() && w.failed().is_some());
    ends_clean(t, w).await;
}

// R12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_was_given_up_loses_nothing() {
    let t = world(64 << 20, small()).await;
    let (w, data) = streamed(&t, 12).await;
    t.server.knobs().fail(Rule::new(COMPLETE, Action::Stall(Duration::from_secs(5))));
    {
        let mut commit = Box::pin(w.commit());
        while t.server.knobs().hits() == 0 {
            tokio::select! {
                done = &mut commit => panic!("{done:?}"),
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
        }
    }
    assert!(w.failed().is_some());
    t.server.knobs().clear_rules();
    w.commit().await.unwrap().unwrap();
    assert!(t.stored("f").unwrap() == data);
    ends_clean(t, w).await;
}

// R12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_that_fail_are_sent_again_while_the_file_is_written() {
    for nth in 1..6 {
        let t = world(64 << 20, small()).await;
        t.server.knobs().fail(Rule::new("UploadPart", internal()).nth(nth));
        let (w, data) = streamed(&t, 40).await;
        assert_eq!(t.server.knobs().hits(), 1);
        w.commit().await.unwrap().unwrap();
        assert!(t.stored("f").unwrap() == data);
        assert_eq!(t.count("CreateMultipartUpload"), 1);
        ends_clean(t, w).await;
    }
    // So is an upload that could not be begun.
    let t = world(64 << 20, small()).await;
    t.server.knobs().fail(Rule::new("CreateMultipartUpload", internal()).times(2));
    let (w, data) = streamed(&t, 40).await;
    w.commit().await.unwrap().unwrap();
    assert!(t.stored("f").unwrap() == data);
    ends_clean(t, w).await;
}

// R12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_that_meets_a_failing_store_tries_once_more() {
    for operation in [COMPLETE, "UploadPart"] {
        let t = world(64 << 20, small()).await;
        let w = t.create("f");
        let data = pattern(7, 8 * PAGE);
        t.server.knobs().fail(Rule::new(operation, internal()));
        w.write(0, Bytes::from(data.clone())).await.unwrap();
        w.commit().await.unwrap().unwrap();
        assert!(t.stored("f").unwrap() == data && w.failed().is_none());
        ends_clean(t, w).await;
    }
}

// R12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_sends_again_what_the_store_did_not_take() {
    let t = world(64 << 20, small()).await;
    t.server.knobs().fail(Rule::new("UploadPart", internal()).always());
    t.server.store().put(BUCKET, "f", "old");
    let w = t.create("f");
    let data = pattern(7, 8 * PAGE);
    // One write, so that none can hear of it.
    w.write(0, Bytes::from(data.clone())).await.unwrap();
    for _ in 0..2 {
        w.commit().await.unwrap_err();
        assert_eq!(t.stored("f").unwrap(), "old");
    }
    t.server.knobs().clear_rules();
    w.commit().await.unwrap().unwrap();
    assert!(t.stored("f").unwrap() == data);
    ends_clean(t, w).await;
}

// R11 R12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_write_keeps_the_file_from_being_stored_until_it_is_repeated() {
    let t = world(64 << 20, small()).await;
    t.server.store().put(BUCKET, "f", "old");
    t.server.knobs().fail(Rule::new("UploadPart", refusal()).always());
    let w = t.create("f");
    let mut data = Vec::new();
    let (at, piece) = loop {
        assert!((data.len() as u64) < 200 * PAGE, "writes go on while the store takes nothing");
        let (at, piece) = (data.len() as u64, Bytes::from(pattern(data.len() as u64, PAGE)));
        match w.write(at, piece.clone()).await {
            Ok(()) => data.extend_from_slice(&piece),
            Err(e) => {
                assert_eq!(e.kind(), Kind::Denied);
                break (at, piece);
            }
        }
    };
    assert_eq!(w.size(), at, "a refused write changes nothing");
    t.server.knobs().clear_rules();
    // Parts that were on their way may still be refused, and the next write is told.
    let write = async |at: u64, bytes: Bytes| {
        let mut tries = 0;
        while w.write(at, bytes.clone()).await.is_err() {
            tries += 1;
            assert!(tries < 10, "the store takes parts again");
        }
    };
    // Whoever does not look at errors goes on behind the gap.
    write(at + PAGE, Bytes::from_static(b"behind")).await;
    for _ in 0..2 {
        assert_eq!(w.commit().await.unwrap_err().kind(), Kind::Denied);
        assert_eq!(t.stored("f").unwrap(), "old");
    }
    write(at, piece.clone()).await;
    w.commit().await.unwrap().unwrap();
    data.extend_from_slice(&piece);
    data.extend_from_slice(b"behind");
    assert!(t.stored("f").unwrap() == data);
    ends_clean(t, w).await;
}

// R12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_cut_off_starts_anew() {
    for refused in [false, true] {
        let t = world(64 << 20, small()).await;
        let (w, data) = streamed(&t, 12).await;
        if refused {
            t.server.knobs().fail(Rule::new("UploadPart", refusal()).always());
            let mut at = data.len() as u64;
            while w.write(at, Bytes::from(vec![1; PAGE as usize])).await.is_ok() {
                at += PAGE;
            }
        } else {
            t.server.knobs().fail(Rule::new(COMPLETE, internal()).always());
        }
        w.commit().await.unwrap_err();
        t.server.knobs().clear_rules();
        w.truncate(3).await.unwrap();
        w.append(Bytes::from_static(b" anew")).await.unwrap();
        assert!(w.commit().await.unwrap().is_some());
        assert!(t.stored("f").unwrap() == [&data[..3], b" anew"].concat());
        ends_clean(t, w).await;
    }
}

// R48
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_file_gives_its_upload_up() {
    let t = world(64 << 20, small()).await;
    let (w, _) = streamed(&t, 12).await;
    t.server.knobs().fail(Rule::new(COMPLETE, internal()).always());
    w.commit().await.unwrap_err();
    t.server.knobs().clear_rules();
    w.unlink().await.unwrap();
    assert!(w.commit().await.unwrap().is_none());
    assert_eq!(t.stored("f").unwrap(), "old");
    ends_clean(t, w).await;
}

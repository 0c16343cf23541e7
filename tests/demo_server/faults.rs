//! What the server does wrong when it is told to.

use std::time::Duration;

use reqwest::Method;
use xosfs::demo::{Action, Rule};

use super::{BUCKET, code, header, start};

#[tokio::test]
async fn faults_reach_the_client_as_they_would() {
    let (server, s3) = start().await;
    let knobs = server.knobs();
    server.store().put(BUCKET, "k", "0123456789".repeat(10_000));
    knobs.fail(Rule::new("GetObject", Action::Status(500, "InternalError".into())).nth(2));
    assert_eq!(s3.get("k", &[], &[]).await.status(), 200);
    assert_eq!(code(s3.get("k", &[], &[]).await).await, (500, "InternalError".into()));
    assert_eq!(s3.get("k", &[], &[]).await.status(), 200);
    assert_eq!(knobs.hits(), 1);
    knobs.fail(Rule::new("PutObject", Action::SlowDown));
    assert_eq!(code(s3.put("new", &[], vec![0; 1 << 20]).await).await, (503, "SlowDown".into()));
    assert!(server.store().head(BUCKET, "new").is_none());

    for n in [0, 1000, 10_000_000] {
        knobs.fail(Rule::new("GetObject", Action::CutBody(n)));
        let cut = s3.get("k", &[], &[]).await;
        assert_eq!((cut.status().as_u16(), cut.content_length()), (200, Some(100_000)));
        assert!(cut.bytes().await.is_err());
        assert_eq!(server.log().last().unwrap().bytes_out, n.min(99_999));
    }
    for (action, stored) in [(Action::CutBeforeAnswer, true), (Action::Drop, false)] {
        knobs.fail(Rule::new("PutObject", action));
        let lost = s3.http.put(s3.url(&Method::PUT, "lost", &[])).body("x").send().await;
        assert!(lost.is_err());
        assert_eq!(server.store().delete(BUCKET, "lost"), stored);
        assert_eq!(server.log().last().unwrap().status, 0);
    }
    knobs.fail(Rule::new("CopyObject", Action::ErrorIn200("InternalError".into())));
    let source = format!("{BUCKET}/k");
    assert_eq!(code(s3.put("c", &[("x-amz-copy-source", &source)], "").await).await, (200, "InternalError".into()));

    knobs.fail(Rule::new("GetObject", Action::WrongRange));
    let wrong = s3.get("k", &[], &[("range", "bytes=10-19")]).await;
    assert_eq!((wrong.status().as_u16(), header(&wrong, "content-range")), (206, "bytes 11-20/100000"));
    knobs.fail(Rule::new("GetObject", Action::IgnoreRange));
    let whole = s3.get("k", &[], &[("range", "bytes=10-19")]).await;
    assert_eq!((whole.status().as_u16(), whole.content_length()), (200, Some(100_000)));

    knobs.fail(Rule::new("HeadObject", Action::Stall(Duration::from_millis(200))));
    let begun = std::time::Instant::now();
    s3.send(Method::HEAD, "k", &[], &[], "").await;
    assert!(begun.elapsed() >= Duration::from_millis(200));
    knobs.fail(Rule::new("GetObject", Action::StallBody(10, Duration::from_millis(200))));
    let begun = std::time::Instant::now();
    let mut stalled = s3.get("k", &[], &[]).await;
    assert_eq!(stalled.chunk().await.unwrap().unwrap().len(), 10);
    stalled.bytes().await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn a_slow_server_is_slow_both_ways() {
    let (server, s3) = start().await;
    server.knobs().set(|b| b.bytes_per_second = Some(1 << 20));
    let begun = std::time::Instant::now();
    assert_eq!(s3.put("k", &[], vec![7; 400 << 10]).await.status(), 200);
    assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
    let begun = std::time::Instant::now();
    assert_eq!(s3.get("k", &[], &[]).await.bytes().await.unwrap().len(), 400 << 10);
    assert!(begun.elapsed() >= Duration::from_millis(350), "{:?}", begun.elapsed());
    server.knobs().set(|b| (b.bytes_per_second, b.latency) = (None, Duration::from_millis(100)));
    let begun = std::time::Instant::now();
    s3.send(Method::HEAD, "k", &[], &[], "").await;
    assert!(begun.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn a_store_can_lack_operations() {
    let (server, s3) = start().await;
    server.store().put(BUCKET, "k", "x");
    let source = format!("{BUCKET}/k");
    let copy = ("x-amz-copy-source", source.as_str());
    server.knobs().set(|b| {
        b.no_copy = true;
        b.no_part_copy = true;
        b.no_tagging = true;
        b.no_acl = true;
        b.no_conditional_put = true;
        b.no_delete_many = true;
        b.strict = true;
    });
    let refused = [
        s3.put("c", &[copy], "").await,
        s3.send(Method::PUT, "c", &[("partNumber", "1"), ("uploadId", "u")], &[copy], "").await,
        s3.get("k", &[("tagging", "")], &[]).await,
        s3.put("c", &[("x-amz-tagging", "a=b")], "").await,
        s3.get("k", &[("acl", "")], &[]).await,
        s3.put("c", &[("x-amz-acl", "private")], "").await,
        s3.put("c", &[("if-none-match", "*")], "").await,
        s3.send(Method::POST, "", &[("delete", "")], &[], "<Delete></Delete>").await,
        s3.put("c", &[("x-amz-checksum-crc32c", "mnG7TA==")], "hello").await,
        s3.put("c", &[("content-encoding", "aws-chunked")], "hello").await,
    ];
    for (at, response) in refused.into_iter().enumerate() {
        assert_eq!(code(response).await, (501, "NotImplemented".into()), "request {at}");
    }
    assert_eq!(s3.put("plain", &[], "x").await.status(), 200);
    assert_eq!(s3.get("k", &[], &[("if-match", "*")]).await.status(), 200);
}

#[tokio::test]
async fn a_refused_upload_gets_its_answer_and_keeps_the_connection() {
    let (server, s3) = start().await;
    server.store().put(BUCKET, "k", "x");
    for _ in 0..5 {
        let refused = s3.put("k", &[("if-none-match", "*")], vec![0; 32 << 20]).await;
        assert_eq!(code(refused).await, (412, "PreconditionFailed".into()));
    }
    assert_eq!(server.store().get(BUCKET, "k").unwrap(), "x");
}

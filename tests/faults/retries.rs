//! What is repeated, how often, and what is given up.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use xosfs::Kind;
use xosfs::config::credentials::Credentials;
use xosfs::s3::*;

use super::script::{Reply, Script, answer, error};
use super::{get, key, put};

#[tokio::test]
async fn transient_answers_are_retried() {
    let script = Script::new(vec![
        error(503, "SlowDown"),
        error(500, "InternalError"),
        error(429, ""),
        error(400, "RequestTimeout"),
        Reply::Answer(502, vec![], b"<html>bad gateway</html>".to_vec()),
        answer(200, "data"),
    ])
    .await;
    let s3 = script.client(|_| {});
    assert_eq!(get(&s3).await.unwrap(), "data");
    assert_eq!(script.count(), 6);
    assert_eq!(s3.stats().by_operation["GetObject"], 6);
    assert_eq!(s3.stats().retries, 5);
}

#[tokio::test]
async fn retries_end_with_the_store_s_own_words() {
    let script = Script::new(vec![error(503, "SlowDown"); 9]).await;
    let e = get(&script.client(|s| s.retries = 2)).await.unwrap_err();
    assert_eq!((e.kind(), e.code(), script.count()), (Kind::Unavailable, "SlowDown", 3));
    assert_eq!((e.reply().unwrap().request_id.as_str(), e.reply().unwrap().attempts), ("r1", 3));
}

#[tokio::test]
async fn final_answers_are_not_retried() {
    for (status, code, kind) in [
        (404, "NoSuchKey", Kind::NotFound),
        (404, "NoSuchBucket", Kind::NoBucket),
        (403, "AccessDenied", Kind::Denied),
        (403, "InvalidObjectState", Kind::Archived),
        (403, "QuotaExceeded", Kind::Quota),
        (412, "PreconditionFailed", Kind::Stale),
        (416, "InvalidRange", Kind::Range),
        (501, "NotImplemented", Kind::Unsupported),
    ] {
        let script = Script::new(vec![error(status, code)]).await;
        let e = get(&script.client(|_| {})).await.unwrap_err();
        assert_eq!((e.kind(), script.count()), (kind, 1), "{code}");
        assert_eq!(e.key(), Some("dir/a b"));
    }
}

#[tokio::test]
async fn a_connection_closed_before_the_answer_is_retried() {
    let script = Script::new(vec![Reply::Close, Reply::Close, answer(200, "")]).await;
    put(&script.client(|_| {}), Condition::None).await.unwrap();
    let requests = script.requests();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|r| r.body == b"hello"));
}

#[tokio::test]
async fn a_silent_store_is_given_up_and_asked_again() {
    let script = Script::new(vec![Reply::Silence, answer(200, "data")]).await;
    assert_eq!(get(&script.client(|_| {})).await.unwrap(), "data");
    assert_eq!(script.count(), 2);
    let script = Script::new(vec![Reply::Silence; 9]).await;
    let begun = Instant::now();
    let e = get(&script.client(|s| s.op_timeout = Duration::from_secs(1))).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Timeout);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_slow_upload_lives_as_long_as_it_moves() {
    // A server that reads 64 KiB every 20 ms: longer than both timeouts in all, never silent.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut left = 24usize << 20;
        let mut buffer = vec![0; 256 << 10];
        while left > 0 {
            let n = stream.read(&mut buffer).await.unwrap();
            left = left.saturating_sub(n);
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\netag: \"e\"\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    let s3 = S3::new(Settings {
        endpoint: Some(endpoint),
        bucket: "bucket".into(),
        read_timeout: Duration::from_secs(1),
        op_timeout: Duration::from_millis(500),
        retries: 0,
        ..Settings::default()
    })
    .unwrap();
    let data: Payload = Bytes::from(vec![0; 24 << 20]).into();
    let begun = Instant::now();
    s3.upload_part(&key(), "u", 1, data).await.unwrap();
    assert!(begun.elapsed() > Duration::from_millis(500));
}

#[tokio::test]
async fn an_upload_that_nobody_reads_is_given_up() {
    // Accepts and never reads: the kernel's buffers fill, then nothing moves.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let _held = listener.accept().await.unwrap();
        std::future::pending::<()>().await;
    });
    let s3 = S3::new(Settings {
        endpoint: Some(endpoint),
        bucket: "bucket".into(),
        read_timeout: Duration::from_millis(300),
        retries: 0,
        ..Settings::default()
    })
    .unwrap();
    let begun = Instant::now();
    let data: Payload = Bytes::from(vec![0; 64 << 20]).into();
    assert_eq!(s3.upload_part(&key(), "u", 1, data).await.unwrap_err().kind(), Kind::Timeout);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn no_secret_is_in_an_error() {
    let script = Script::new(vec![error(403, "SignatureDoesNotMatch"), Reply::Close]).await;
    let s3 = script.client(|s| {
        s.retries = 0;
        s.credentials = Credentials::fixed("ak", "geheim", Some("token1".into()));
    });
    for _ in 0..2 {
        let e = get(&s3).await.unwrap_err();
        let shown = format!("{e} {e:?}");
        assert!(!shown.contains("geheim") && !shown.contains("token1") && !shown.contains("X-Amz"), "{shown}");
    }
    assert!(script.requests()[0].target.contains("X-Amz-Security-Token=token1"));
}

//! Answers that are cut, wrong or lost.

use std::time::{Duration, Instant};

use bytes::Bytes;
use xosfs::Kind;
use xosfs::config::credentials::Credentials;
use xosfs::demo::{Action, Options, Rule, Server};
use xosfs::key::Key;
use xosfs::s3::*;

use super::script::{Reply, Script, answer, error, error_body, etag, part};
use super::{get, key, parts, put};

#[tokio::test]
async fn a_cut_body_is_an_error_and_never_short_data() {
    let script = Script::new(vec![Reply::Cut(200, vec![etag("e")], vec![b'x'; 100_000], 60_000)]).await;
    let got = script.client(|_| {}).get(&key(), None, None, None).await.unwrap();
    let mut body = got.body;
    let mut seen = 0;
    let e = loop {
        match body.next().await {
            Ok(Some(piece)) => seen += piece.len(),
            Ok(None) => panic!("a cut body ended as if it were whole"),
            Err(e) => break e,
        }
    };
    assert_eq!(e.kind(), Kind::Unavailable);
    assert!(seen <= 60_000);
    assert_eq!(body.next().await.unwrap_err().kind(), Kind::Unavailable);
}

#[tokio::test]
async fn a_stalled_body_is_a_timeout() {
    let script = Script::new(vec![Reply::Stall(vec![b'x'; 1000], 10)]).await;
    let begun = Instant::now();
    let e = get(&script.client(|_| {})).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Timeout);
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_cut_listing_is_asked_for_again() {
    let page = "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a</Key><Size>1</Size></Contents></ListBucketResult>";
    let script = Script::new(vec![
        Reply::Cut(200, vec![], page.into(), 60),
        // Ends well for HTTP, in the middle of the document.
        answer(200, &page[..60]),
        answer(200, page),
    ])
    .await;
    let page = script.client(|_| {}).list(&ListQuery::default()).await.unwrap();
    assert_eq!((page.objects.len(), script.count()), (1, 3));
}

#[tokio::test]
async fn wrong_ranges_are_never_data() {
    let s = Some(10..20);
    let script = Script::new(vec![part(0, 10, 100), answer(200, &"x".repeat(100)), part(10, 20, 100)]).await;
    let got = script.client(|_| {}).get(&key(), s.clone(), None, None).await.unwrap();
    assert_eq!((got.range.clone(), got.meta.size, script.count()), (10..20, 100, 3));
    assert_eq!(got.body.collect().await.unwrap().len(), 10);
    assert_eq!(script.requests()[0].header("range"), Some("bytes=10-19"));
    let script = Script::new(vec![part(0, 10, 100); 9]).await;
    let e = script.client(|s| s.retries = 1).get(&key(), s, None, None).await.err().unwrap();
    assert_eq!((e.kind(), script.count()), (Kind::Io, 2));
}

#[tokio::test]
async fn another_version_than_asked_for_is_stale_even_from_a_poor_server() {
    let script = Script::new(vec![answer(200, "data")]).await;
    let e = script.client(|_| {}).get(&key(), None, Some(&ETag::new("other")), None).await.err().unwrap();
    assert_eq!((e.kind(), script.count()), (Kind::Stale, 1));
}

#[tokio::test]
async fn an_error_in_a_200_is_an_error() {
    let source = Source { bucket: None, key: key(), version: None, if_match: None };
    let keep = Directive::Keep { storage_class: None, acl: None };
    let to = Key::new("t").unwrap();
    let script = Script::new(vec![
        answer(200, &error_body("InternalError")),
        answer(200, "  \n<CopyObjectResult><ETag>\"c\"</ETag></CopyObjectResult>"),
    ])
    .await;
    let stored = script.client(|_| {}).copy(&source, &to, &keep, &Condition::None).await.unwrap();
    assert_eq!((stored.etag.as_str(), script.count()), ("c", 2));
    let script = Script::new(vec![answer(200, &error_body("AccessDenied"))]).await;
    let e = script.client(|_| {}).copy(&source, &to, &keep, &Condition::None).await.unwrap_err();
    assert_eq!((e.kind(), script.count()), (Kind::Denied, 1));
}

#[tokio::test]
async fn a_completion_whose_answer_got_lost_is_settled_by_looking() {
    let found = |tag: &str, size: &str, modified: &str| {
        let headers = vec![etag(tag), ("content-length", size.to_owned()), ("last-modified", modified.to_owned())];
        Reply::Answer(200, headers, vec![])
    };
    let (old, new) = ("Thu, 01 Jan 2026 00:00:00 GMT", "Thu, 01 Jan 2099 00:00:00 GMT");
    let tag = "62109206880d38a4010a98e11243924a-1";
    for (object, is_ours) in [
        (found(tag, "5", old), true),
        // A tag of another making: the age tells.
        (found("opaque", "5", new), true),
        // Somebody else's object, or the one of before.
        (found(tag, "6", new), false),
        (found("opaque", "5", old), false),
        (error(404, ""), false),
    ] {
        let script = Script::new(vec![Reply::Close, error(404, "NoSuchUpload"), object]).await;
        let result = script.client(|_| {}).complete_upload(&key(), "u", &parts(), &Condition::None).await;
        assert_eq!(script.count(), 3);
        match result {
            Ok(_) => assert!(is_ours),
            Err(e) => assert_eq!((e.kind(), is_ours), (Kind::Stale, false)),
        }
    }
    // Nothing got lost: it is simply gone.
    let script = Script::new(vec![error(404, "NoSuchUpload")]).await;
    let e = script.client(|_| {}).complete_upload(&key(), "u", &parts(), &Condition::None).await.unwrap_err();
    assert_eq!((e.kind(), script.count()), (Kind::Stale, 1));
}

#[tokio::test]
async fn a_completion_without_entity_tag_is_looked_at() {
    let done = "<CompleteMultipartUploadResult><ETag></ETag></CompleteMultipartUploadResult>";
    let size = |n: &str| Reply::Answer(200, vec![etag("0123-1"), ("content-length", n.to_owned())], vec![]);
    let script = Script::new(vec![answer(200, done), size("5")]).await;
    let stored = script.client(|_| {}).complete_upload(&key(), "u", &parts(), &Condition::None).await.unwrap();
    assert_eq!((stored.etag.as_str(), script.count()), ("0123-1", 2));
    let script = Script::new(vec![answer(200, done), size("4")]).await;
    let e = script.client(|_| {}).complete_upload(&key(), "u", &parts(), &Condition::None).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Io);
}

#[tokio::test]
async fn an_exclusive_create_whose_answer_got_lost_knows_its_own_object() {
    let found = |tag: &str| Reply::Answer(200, vec![etag(tag), ("content-length", "5".into())], vec![]);
    let md5 = "5d41402abc4b2a76b9719d911017c592";
    let script = Script::new(vec![Reply::Close, error(412, "PreconditionFailed"), found(md5)]).await;
    assert_eq!(put(&script.client(|_| {}), Condition::Absent).await.unwrap().etag.as_str(), md5);
    let script = Script::new(vec![Reply::Close, error(412, "PreconditionFailed"), found("other")]).await;
    assert_eq!(put(&script.client(|_| {}), Condition::Absent).await.unwrap_err().kind(), Kind::Exists);
    let script = Script::new(vec![error(412, "PreconditionFailed")]).await;
    assert_eq!(put(&script.client(|_| {}), Condition::Absent).await.unwrap_err().kind(), Kind::Exists);
    assert_eq!(script.count(), 1);
}

#[tokio::test]
async fn a_listing_that_repeats_itself_is_an_error() {
    let page = "<ListBucketResult><IsTruncated>true</IsTruncated><Contents><Key>a</Key></Contents></ListBucketResult>";
    let script = Script::new(vec![answer(200, page); 3]).await;
    let s3 = script.client(|s| s.list_version = ListVersion::V1);
    let from = Some(Continue::After("a".into()));
    assert_eq!(s3.list(&ListQuery { from, ..ListQuery::default() }).await.unwrap_err().kind(), Kind::Io);
    let page = "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken></ListBucketResult>";
    let script = Script::new(vec![answer(200, page)]).await;
    let from = Some(Continue::Token("t".into()));
    let e = script.client(|_| {}).list(&ListQuery { from, ..ListQuery::default() }).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Io);
}

#[tokio::test]
async fn failures_inside_a_multi_delete_are_reported_by_key() {
    let keys: Vec<Key> = ["a<", "b", "c"].iter().map(|k| Key::new(k).unwrap()).collect();
    let result = "<DeleteResult><Error><Key>a&lt;</Key><Code>AccessDenied</Code></Error>\
        <Error><Key>b</Key><Code>InternalError</Code></Error></DeleteResult>";
    let script = Script::new(vec![answer(200, result), answer(204, "")]).await;
    let failed = script.client(|_| {}).delete_many(&keys).await.unwrap();
    assert_eq!(failed.len(), 1);
    assert_eq!((failed[0].0.as_str(), failed[0].1.kind()), ("a<", Kind::Denied));
    let requests = script.requests();
    assert!(requests[0].header("content-md5").is_some());
    assert!(String::from_utf8_lossy(&requests[0].body).contains("<Key>a&lt;</Key>"));
    assert_eq!((requests[1].method.as_str(), requests.len()), ("DELETE", 2));
}

/// The embedded server carries requests out and then loses the answer: what the script can only pretend.
#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_of_a_real_store_do_no_harm() {
    let server = Server::start(Options::with_bucket("bucket")).await.unwrap();
    let keys = server.keys();
    let s3 = S3::new(Settings {
        endpoint: Some(server.endpoint()),
        bucket: "bucket".into(),
        credentials: Credentials::fixed(keys.access_key.as_str(), keys.secret_key.as_str(), None),
        read_timeout: Duration::from_secs(2),
        ..Settings::default()
    })
    .unwrap();
    let lose = |operation: &str| server.knobs().fail(Rule::new(operation, Action::CutBeforeAnswer));
    let new = NewObject::default();
    lose("PutObject");
    put(&s3, Condition::Absent).await.unwrap();
    assert_eq!(get(&s3).await.unwrap(), "hello");
    let upload = s3.create_upload(&key(), &new).await.unwrap();
    lose("UploadPart");
    let part = s3.upload_part(&key(), &upload, 1, Bytes::from_static(b"parts").into()).await.unwrap();
    lose("CompleteMultipartUpload");
    let stored = s3.complete_upload(&key(), &upload, &[part], &Condition::None).await.unwrap();
    assert_eq!(s3.head(&key(), None).await.unwrap().etag, stored.etag);
    assert_eq!(get(&s3).await.unwrap(), "parts");
    lose("DeleteObject");
    s3.delete(&key(), None).await.unwrap();
    lose("CreateBucket");
    let other = s3.for_bucket("other-bucket");
    other.create_bucket(None, None).await.unwrap();
    lose("DeleteBucket");
    other.delete_bucket().await.unwrap();
    let counts = server.counts();
    for operation in ["PutObject", "CompleteMultipartUpload", "DeleteObject", "CreateBucket", "DeleteBucket"] {
        assert_eq!(counts[operation], 2, "{operation}: {counts:?}");
    }
}

//! What the client does when the network or the store fails: the outcome, and how many requests it took.
//!
//! The server here is a script: it answers the n-th request with the n-th reply, byte by byte as written, so that
//! every fault (a cut body, a silent connection, a wrong range) is exactly the one that is meant.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use xosfs::config::credentials::Credentials;
use xosfs::demo::{Action, Options, Rule, Server};
use xosfs::key::Key;
use xosfs::s3::*;
use xosfs::{Error, Kind};

#[derive(Clone)]
enum Reply {
    /// Status line, headers and body; the length is added.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Announces the length, sends less and closes.
    Cut(u16, Vec<(&'static str, String)>, Vec<u8>, usize),
    /// Closes without an answer.
    Close,
    /// Says nothing, or stops after the head and the given bytes.
    Silence,
    Stall(Vec<u8>, usize),
}

#[derive(Clone, Debug)]
struct Request {
    method: String,
    target: String,
    head: String,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|l| {
            let (n, v) = l.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| v.trim())
        })
    }
}

#[derive(Clone)]
struct Script {
    endpoint: String,
    replies: Arc<Mutex<VecDeque<Reply>>>,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Script {
    async fn new(replies: Vec<Reply>) -> Script {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let script = Script {
            endpoint: format!("http://{}", listener.local_addr().unwrap()),
            replies: Arc::new(Mutex::new(replies.into())),
            log: Arc::default(),
        };
        let served = script.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let script = served.clone();
                tokio::spawn(async move { script.serve(stream).await });
            }
        });
        script
    }

    async fn serve(self, mut stream: TcpStream) -> Option<()> {
        let mut buffer = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                    break end + 4;
                }
                if stream.read_buf(&mut buffer).await.ok()? == 0 {
                    return None;
                }
            };
            let head = String::from_utf8(buffer[..end].to_vec()).ok()?;
            let mut words = head.split(' ');
            let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
            let mut request = Request { method, target, head: head.clone(), body: Vec::new() };
            let length: usize = request.header("content-length").map_or(0, |v| v.parse().unwrap());
            while buffer.len() < end + length {
                if stream.read_buf(&mut buffer).await.ok()? == 0 {
                    return None;
                }
            }
            request.body = buffer[end..end + length].to_vec();
            buffer.drain(..end + length);
            let is_head = request.method == "HEAD";
            self.log.lock().push(request);
            let reply = self.replies.lock().pop_front().unwrap_or_else(|| answer(500, "unexpected request"));
            let head = |status: u16, headers: &[(&str, String)], length: usize| {
                let mut text = format!("HTTP/1.1 {status} X\r\n");
                for (name, value) in headers {
                    text.push_str(&format!("{name}: {value}\r\n"));
                }
                if !headers.iter().any(|(n, _)| *n == "content-length") {
                    text.push_str(&format!("content-length: {length}\r\n"));
                }
                text + "\r\n"
            };
            match reply {
                Reply::Answer(status, headers, body) => {
                    stream.write_all(head(status, &headers, body.len()).as_bytes()).await.ok()?;
                    if !is_head {
                        stream.write_all(&body).await.ok()?;
                    }
                }
                Reply::Cut(status, headers, body, sent) => {
                    stream.write_all(head(status, &headers, body.len()).as_bytes()).await.ok()?;
                    stream.write_all(&body[..sent]).await.ok()?;
                    return None;
                }
                Reply::Close => return None,
                Reply::Silence => std::future::pending().await,
                Reply::Stall(body, sent) => {
                    stream.write_all(head(200, &[etag("e")], body.len()).as_bytes()).await.ok()?;
                    stream.write_all(&body[..sent]).await.ok()?;
                    std::future::pending().await
                }
            }
        }
    }

    fn client(&self, change: impl FnOnce(&mut Settings)) -> S3 {
        let mut settings = Settings {
            endpoint: Some(self.endpoint.clone()),
            bucket: "bucket".into(),
            credentials: Credentials::fixed("ak", "sk", None),
            read_timeout: Duration::from_millis(300),
            op_timeout: Duration::from_secs(20),
            ..Settings::default()
        };
        change(&mut settings);
        S3::new(settings).unwrap()
    }

    fn requests(&self) -> Vec<Request> {
        self.log.lock().clone()
    }

    fn count(&self) -> usize {
        self.log.lock().len()
    }
}

fn answer(status: u16, body: &str) -> Reply {
    Reply::Answer(status, vec![etag("e")], body.into())
}

fn etag(text: &str) -> (&'static str, String) {
    ("etag", format!("\"{text}\""))
}

fn error(status: u16, code: &str) -> Reply {
    Reply::Answer(status, vec![], error_body(code).into_bytes())
}

fn error_body(code: &str) -> String {
    format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message><RequestId>r1</RequestId></Error>")
}

fn part(start: usize, end: usize, total: usize) -> Reply {
    let range = format!("bytes {start}-{}/{total}", end - 1);
    Reply::Answer(206, vec![etag("e"), ("content-range", range)], vec![b'x'; end - start])
}

fn key() -> Key {
    Key::new("dir/a b").unwrap()
}

async fn get(s3: &S3) -> Result<Bytes, Error> {
    s3.get(&key(), None, None, None).await?.body.collect().await
}

async fn put(s3: &S3, condition: Condition) -> Result<Stored, Error> {
    s3.put(&key(), Bytes::from_static(b"hello").into(), &NewObject::default(), &condition).await
}

fn parts() -> Vec<Part> {
    vec![Part { number: 1, etag: ETag::new("5d41402abc4b2a76b9719d911017c592"), size: 5, checksum: None }]
}

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
async fn if_match_is_sent_unquoted_where_only_that_works() {
    let condition = || Condition::Match(ETag::new("abc"));
    let script = Script::new(vec![error(412, "PreconditionFailed"), answer(200, ""), answer(200, "")]).await;
    let s3 = script.client(|_| {});
    put(&s3, condition()).await.unwrap();
    put(&s3, condition()).await.unwrap();
    let sent: Vec<_> = script.requests().iter().map(|r| r.header("if-match").unwrap().to_owned()).collect();
    assert_eq!(sent, ["\"abc\"", "abc", "abc"]);
    let script = Script::new(vec![error(412, "PreconditionFailed"), error(412, "PreconditionFailed")]).await;
    assert_eq!(put(&script.client(|_| {}), condition()).await.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(script.count(), 2);
}

#[tokio::test]
async fn a_store_without_conditions_is_asked_once() {
    // Twice, for the checksum may be what it lacks.
    let script = Script::new(vec![error(501, "NotImplemented"), error(501, "NotImplemented")]).await;
    let s3 = script.client(|_| {});
    for _ in 0..2 {
        assert_eq!(put(&s3, Condition::Absent).await.unwrap_err().kind(), Kind::Unsupported);
    }
    assert_eq!(script.count(), 2);
}

const CRC32C: &str = "x-amz-checksum-crc32c";
/// Of `hello`.
const HELLO_CRC32C: &str = "mnG7TA==";
const HELLO_MD5: &str = "XUFAKrxLKna5cZ2REBfFkg==";

fn sent(script: &Script, header: &str) -> Vec<Option<String>> {
    script.requests().iter().map(|r| r.header(header).map(str::to_owned)).collect()
}

// R98
#[tokio::test]
async fn a_store_that_refuses_checksums_gets_none_from_then_on() {
    for refusal in [error(501, "NotImplemented"), error(400, "InvalidRequest"), error(400, "XAmzContentSHA256Mismatch")]
    {
        let script = Script::new(vec![refusal, answer(200, ""), answer(200, "")]).await;
        let s3 = script.client(|_| {});
        put(&s3, Condition::None).await.unwrap();
        put(&s3, Condition::None).await.unwrap();
        assert_eq!(sent(&script, CRC32C), [Some(HELLO_CRC32C.to_owned()), None, None]);
    }
    // A refusal for another reason says nothing about checksums.
    let script = Script::new(vec![error(400, "InvalidTag"), error(400, "InvalidTag"), answer(200, "")]).await;
    let s3 = script.client(|_| {});
    assert_eq!(put(&s3, Condition::None).await.unwrap_err().kind(), Kind::Invalid);
    put(&s3, Condition::None).await.unwrap();
    assert_eq!(sent(&script, CRC32C), [Some(HELLO_CRC32C.to_owned()), None, Some(HELLO_CRC32C.to_owned())]);
    // Once taken, a refusal is never about them.
    let script = Script::new(vec![answer(200, ""), error(400, "InvalidRequest")]).await;
    let s3 = script.client(|_| {});
    put(&s3, Condition::None).await.unwrap();
    assert_eq!(put(&s3, Condition::None).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(script.count(), 2);
}

#[tokio::test]
async fn a_store_that_demands_content_md5_gets_it() {
    let missing = "<Error><Code>InvalidRequest</Code><Message>Missing required header: Content-MD5</Message></Error>";
    let missing = Reply::Answer(400, vec![], missing.into());
    let script = Script::new(vec![missing, answer(200, ""), answer(200, "")]).await;
    let s3 = script.client(|_| {});
    put(&s3, Condition::None).await.unwrap();
    put(&s3, Condition::None).await.unwrap();
    let md5 = Some(HELLO_MD5.to_owned());
    assert_eq!(sent(&script, "content-md5"), [None, md5.clone(), md5]);
    assert_eq!(sent(&script, CRC32C), [Some(HELLO_CRC32C.to_owned()), None, None]);
}

#[tokio::test]
async fn bytes_that_changed_on_the_way_are_sent_again() {
    let other = || Reply::Answer(200, vec![etag("e"), (CRC32C, "AAAAAA==".into())], vec![]);
    let same = Reply::Answer(200, vec![etag("e"), (CRC32C, HELLO_CRC32C.into())], vec![]);
    let script = Script::new(vec![other(), error(400, "BadDigest"), same]).await;
    put(&script.client(|_| {}), Condition::None).await.unwrap();
    assert_eq!(script.count(), 3);
    let script = Script::new(vec![other()]).await;
    assert_eq!(put(&script.client(|s| s.retries = 0), Condition::None).await.unwrap_err().kind(), Kind::Io);
    let short = Reply::Answer(200, vec![etag("e"), ("x-amz-object-size", "4".into())], vec![]);
    let script = Script::new(vec![short]).await;
    assert_eq!(put(&script.client(|s| s.retries = 0), Condition::None).await.unwrap_err().kind(), Kind::Io);
}

/// As AWS has it: announced by the upload, sent with each part, repeated by the completion.
#[tokio::test(flavor = "multi_thread")]
async fn parts_with_checksums_are_completed_with_them() {
    for (strict, copies) in [(false, false), (false, true), (true, false)] {
        let server = Server::start(Options::with_bucket("bucket")).await.unwrap();
        server.knobs().set(|b| (b.strict, b.min_part) = (strict, 1));
        let keys = server.keys();
        let s3 = S3::new(Settings {
            endpoint: Some(server.endpoint()),
            bucket: "bucket".into(),
            credentials: Credentials::fixed(keys.access_key.as_str(), keys.secret_key.as_str(), None),
            ..Settings::default()
        })
        .unwrap();
        let upload = s3.create_upload(&key(), &NewObject::default()).await.unwrap();
        let mut parts = Vec::new();
        for number in 1..=2 {
            parts.push(s3.upload_part(&key(), &upload, number, Bytes::from_static(b"hello").into()).await.unwrap());
        }
        assert_eq!(parts[1].checksum.as_deref(), (!strict).then_some(HELLO_CRC32C));
        if copies {
            server.store().put("bucket", "source", "copied");
            let id = ObjectId { key: Key::new("source").unwrap(), etag: ETag::new(""), version: None };
            let source = Source { if_match: None, ..Source::of(&id) };
            parts.push(s3.copy_part(&key(), &upload, 3, &source, None, 6).await.unwrap());
        }
        if !strict {
            let bare: Vec<_> = parts.iter().cloned().map(|p| Part { checksum: None, ..p }).collect();
            let e = s3.complete_upload(&key(), &upload, &bare, &Condition::None).await.unwrap_err();
            assert_eq!(e.kind(), Kind::Invalid);
        }
        s3.complete_upload(&key(), &upload, &parts, &Condition::None).await.unwrap();
        assert_eq!(
            server.store().get("bucket", key().as_str()).unwrap(),
            if copies { "hellohellocopied" } else { "hellohello" }
        );
        let counts = server.counts();
        // Where they are refused, the upload is asked for twice and nothing else is.
        assert_eq!(counts["CreateMultipartUpload"], if strict { 2 } else { 1 });
        assert_eq!(counts["UploadPart"], 2);
    }
}

#[tokio::test]
async fn the_region_a_store_names_is_used_from_then_on() {
    let body = "<Error><Code>AuthorizationQueryParametersError</Code><Region>eu-west-7</Region></Error>";
    let hint = Reply::Answer(400, vec![], body.into());
    let script = Script::new(vec![hint, answer(200, "a"), answer(200, "b")]).await;
    let s3 = script.client(|_| {});
    get(&s3).await.unwrap();
    get(&s3).await.unwrap();
    let regions: Vec<_> = script.requests().iter().map(|r| r.target.contains("eu-west-7")).collect();
    assert_eq!(regions, [false, true, true]);
    assert_eq!(s3.region(), "eu-west-7");
    // HEAD has no body: the header tells. A store that insists on nonsense is not followed for ever.
    let hint = |r: &str| Reply::Answer(400, vec![("x-amz-bucket-region", r.to_owned())], vec![]);
    let script = Script::new(vec![hint("x"), hint("y")]).await;
    let e = script.client(|_| {}).head_bucket().await.unwrap_err();
    assert_eq!(script.count(), 2);
    assert!(e.to_string().contains("region=y"), "{e}");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let script = Script::new(vec![Reply::Answer(
        307,
        vec![("location", "http://127.0.0.1:1/evil".into())],
        b"<Error><Code>TemporaryRedirect</Code><Endpoint>other.example.com</Endpoint></Error>".to_vec(),
    )])
    .await;
    let e = get(&script.client(|_| {})).await.unwrap_err();
    assert_eq!(script.count(), 1);
    assert!(e.to_string().contains("other.example.com"), "{e}");
}

#[tokio::test]
async fn a_wrong_clock_is_allowed_for() {
    let date = "Wed, 01 Jan 2031 12:00:00 GMT".to_owned();
    let skewed = Reply::Answer(403, vec![("date", date)], error_body("RequestTimeTooSkewed").into());
    let script = Script::new(vec![skewed.clone(), answer(200, "a"), answer(200, "b")]).await;
    let s3 = script.client(|_| {});
    get(&s3).await.unwrap();
    get(&s3).await.unwrap();
    let dates: Vec<_> = script.requests().iter().map(|r| r.target.contains("X-Amz-Date=20310101T")).collect();
    assert_eq!(dates, [false, true, true]);
    let script = Script::new(vec![skewed.clone(), skewed]).await;
    let e = get(&script.client(|_| {})).await.unwrap_err();
    assert_eq!((e.kind(), script.count()), (Kind::Denied, 2));
    assert!(e.to_string().contains("clock"), "{e}");
}

#[tokio::test]
async fn expired_credentials_are_read_again_from_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("credentials");
    let write = |ak: &str| {
        std::fs::write(&file, format!("[default]\naws_access_key_id={ak}\naws_secret_access_key=s\n")).unwrap();
    };
    write("old");
    let path = file.to_str().unwrap().to_owned();
    let env = move |name: &str| match name {
        "AWS_SHARED_CREDENTIALS_FILE" => Some(path.clone()),
        "HOME" => Some("/nonexistent".into()),
        _ => None,
    };
    let credentials = Credentials::find(None, &env).unwrap();
    let script = Script::new(vec![error(400, "ExpiredToken"), answer(200, "a"), error(403, "AccessDenied")]).await;
    let s3 = script.client(|s| s.credentials = credentials);
    write("new");
    get(&s3).await.unwrap();
    let used: Vec<_> = script.requests().iter().map(|r| r.target.contains("Credential=new")).collect();
    assert_eq!(used, [false, true]);
    // Nothing new on disk: the answer stands.
    assert_eq!(get(&s3).await.unwrap_err().kind(), Kind::Denied);
    assert_eq!(script.count(), 3);
}

#[tokio::test]
async fn listings_fall_back_to_v1_and_stay_there() {
    let v1 = |key: &str, more: bool| {
        answer(
            200,
            &format!(
                "<ListBucketResult><IsTruncated>{more}</IsTruncated><Contents><Key>{key}</Key><Size>1</Size></Contents></ListBucketResult>"
            ),
        )
    };
    let script = Script::new(vec![v1("a", true), v1("b", true), v1("c", false)]).await;
    let s3 = script.client(|_| {});
    let mut from = None;
    let mut keys = Vec::new();
    loop {
        let page = s3.list(&ListQuery { from, ..ListQuery::default() }).await.unwrap();
        keys.extend(page.objects.into_iter().map(|o| o.key));
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(keys, ["a", "b", "c"]);
    let targets: Vec<_> = script.requests().into_iter().map(|r| r.target).collect();
    assert!(targets[0].contains("list-type=2"));
    assert!(targets[1].contains("marker=a&") && !targets[1].contains("list-type"));
    assert!(targets[2].contains("marker=b&"));
    let script = Script::new(vec![error(501, "NotImplemented"), v1("a", false)]).await;
    assert_eq!(script.client(|_| {}).list(&ListQuery::default()).await.unwrap().objects.len(), 1);
    assert_eq!(script.count(), 2);
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
async fn a_store_that_forgets_the_marker_of_encoded_listings_is_asked_for_plain_ones() {
    let page = |key: &str, more: bool| {
        answer(
            200,
            &format!(
                "<ListBucketResult><IsTruncated>{more}</IsTruncated><Contents><Key>{key}</Key></Contents></ListBucketResult>"
            ),
        )
    };
    let script = Script::new(vec![page("a", true), page("b", false)]).await;
    let s3 = script.client(|s| s.list_version = ListVersion::V1);
    let from = Some(Continue::After("a".into()));
    let got = s3.list(&ListQuery { from, ..ListQuery::default() }).await.unwrap();
    assert_eq!((got.objects[0].key.as_str(), got.next), ("b", None));
    let targets: Vec<_> = script.requests().into_iter().map(|r| r.target.contains("encoding-type")).collect();
    assert_eq!(targets, [true, false]);
}

#[tokio::test]
async fn a_store_without_multi_delete_gets_single_ones() {
    let keys: Vec<Key> = (0..3).map(|i| Key::new(format!("k{i}")).unwrap()).collect();
    let mut replies = vec![error(501, "NotImplemented")];
    replies.extend(vec![answer(204, ""); 6]);
    let script = Script::new(replies).await;
    let s3 = script.client(|_| {});
    assert!(s3.delete_many(&keys).await.unwrap().is_empty());
    assert!(s3.delete_many(&keys).await.unwrap().is_empty());
    let methods: Vec<_> = script.requests().into_iter().map(|r| r.method).collect();
    assert_eq!(methods[0], "POST");
    assert_eq!(methods[1..], ["DELETE"; 6]);
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

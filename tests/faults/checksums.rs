//! What vouches for the bytes.

use bytes::Bytes;
use xosfs::Kind;
use xosfs::config::credentials::Credentials;
use xosfs::demo::{Options, Server};
use xosfs::key::Key;
use xosfs::s3::*;

use super::script::{Reply, Script, answer, error, etag};
use super::{key, put};

const CRC32C: &str = "x-amz-checksum-crc32c";
/// Of `hello`.
const HELLO_CRC32C: &str = "mnG7TA==";
const HELLO_MD5: &str = "XUFAKrxLKna5cZ2REBfFkg==";

pub fn sent(script: &Script, header: &str) -> Vec<Option<String>> {
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

//! Presigned URLs and forms.

use std::time::Duration;

use bytes::Bytes;
use xosfs::s3::*;

use super::fixture::{Fixture, key, put, read};

async fn send(method: &str, url: &str, headers: &[(String, String)], body: &'static str) -> (u16, Bytes, String) {
    let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = reqwest::Client::new().request(method, url).body(body);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let response = request.send().await.unwrap();
    let kind = response.headers().get("content-type").map_or("", |v| v.to_str().unwrap()).to_owned();
    (response.status().as_u16(), response.bytes().await.unwrap(), kind)
}

async fn presigned(s3: &S3) {
    let sign = async |method, change: &dyn Fn(&mut Presign)| {
        let mut what = Presign::new(method, key("dir/a b+ü"));
        what.expires = Duration::from_secs(60);
        change(&mut what);
        s3.presign(&what).await.unwrap()
    };
    // XOS-URL-02
    let typed = sign(PresignMethod::Put, &|p| p.headers = vec![("content-type".into(), "text/x-a".into())]).await;
    let (status, body, _) = send("PUT", typed.url(), &typed.headers, "hello").await;
    assert_eq!(status, 200, "{body:?}");
    let other = [("content-type".to_owned(), "text/x-b".to_owned())];
    assert_eq!(send("PUT", typed.url(), &other, "bad").await.0, 403);
    // XOS-URL-01
    let plain = sign(PresignMethod::Get, &|_| ()).await;
    let (status, body, kind) = send("GET", plain.url(), &[], "").await;
    assert_eq!((status, &body[..], kind.as_str()), (200, &b"hello"[..], "text/x-a"));
    // For one method and one object only.
    assert_eq!(send("PUT", plain.url(), &[], "bad").await.0, 403);
    assert_eq!(send("GET", &plain.url().replace("/dir/", "/dis/"), &[], "").await.0, 403);
    let named = sign(PresignMethod::Get, &|p| {
        p.response.content_type = Some("application/x-b".into());
        p.response.content_disposition = Some("attachment; filename=\"a b.txt\"".into());
    });
    let (status, _, kind) = send("GET", named.await.url(), &[], "").await;
    assert_eq!((status, kind.as_str()), (200, "application/x-b"));
    let head = sign(PresignMethod::Head, &|_| ()).await;
    assert_eq!(send("HEAD", head.url(), &[], "").await.0, 200);
    s3.set_versioning(Versioning::Enabled).await.unwrap();
    let stored = put(s3, "dir/a b+ü", "newer").await;
    let old = s3.versions_of(&key("dir/a b+ü")).await.unwrap().pop().unwrap().version;
    let url = sign(PresignMethod::Get, &|p| p.version = Some(old.to_string())).await;
    assert_eq!(&send("GET", url.url(), &[], "").await.1[..], b"hello");
    let url = sign(PresignMethod::Delete, &|p| p.version = stored.version.as_deref().map(str::to_owned)).await;
    assert_eq!(send("DELETE", url.url(), &[], "").await.0, 204);
    assert_eq!(&read(s3, "dir/a b+ü", None).await[..], b"hello");
    // XOS-URL-04
    let brief = sign(PresignMethod::Get, &|p| p.expires = Duration::from_secs(1)).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(send("GET", brief.url(), &[], "").await.0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn presigned_urls_do_what_they_are_signed_for() {
    presigned(&Fixture::new("presign").await.s3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn presigned_urls_of_the_old_signature_do_too() {
    presigned(&Fixture::new("presign-v2").await.client(|s| s.signature = Signature::V2)).await;
}

// XOS-STS-10
#[tokio::test(flavor = "multi_thread")]
async fn presigned_urls_carry_the_session_token() {
    let f = Fixture::new("presign-token").await;
    put(&f.s3, "k", "hello").await;
    for signature in [Signature::V4, Signature::V2] {
        let credentials =
            role_credentials(f.settings.credentials.clone(), f.sts(|_| ()), AssumeRole::new(f.role.as_str(), "test-1"));
        let s3 = f.client(|s| {
            s.signature = signature;
            s.credentials = credentials.unwrap();
        });
        let mut what = Presign::new(PresignMethod::Get, key("k"));
        what.expires = PRESIGN_MOST;
        let made = s3.presign(&what).await.unwrap();
        // It dies with the session.
        assert!(made.end < std::time::SystemTime::now() + Duration::from_secs(3601));
        let (status, body, _) = send("GET", made.url(), &[], "").await;
        assert_eq!((status, &body[..]), (200, &b"hello"[..]), "{signature:?}");
    }
}

/// Sends a form as a browser does.
async fn submit(post: &PresignedPost, change: impl Fn(&str, &str) -> String, file: &str) -> u16 {
    let mut body = String::new();
    for (name, value) in post.fields() {
        let value = change(name, value);
        body.push_str(&format!("--BOUNDARY\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"));
    }
    body.push_str(&format!(
        "--BOUNDARY\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f.txt\"\r\n\
         Content-Type: text/plain\r\n\r\n{file}\r\n--BOUNDARY--\r\n"
    ));
    let request = reqwest::Client::new()
        .post(&post.url)
        .header("content-type", "multipart/form-data; boundary=BOUNDARY")
        .body(body);
    request.send().await.unwrap().status().as_u16()
}

// XOS-PST-01, XOS-PST-03, XOS-PST-04, XOS-PST-05
#[tokio::test(flavor = "multi_thread")]
async fn forms_upload_what_they_allow_and_nothing_else() {
    let f = Fixture::new("post").await;
    for signature in [Signature::V4, Signature::V2] {
        let s3 = f.client(|s| s.signature = signature);
        let form = Post {
            fields: vec![("acl".into(), "public-read".into()), ("Content-Type".into(), "text/x-form".into())],
            conditions: vec![PostCondition::Length(1..=10)],
            expires: Duration::from_secs(60),
            ..Post::new(PostKey::Prefix("up/".into()))
        };
        let post = s3.presign_post(&form).await.unwrap();
        let named = |name: &str, value: &str| if name == "key" { "up/new".to_owned() } else { value.to_owned() };
        let status = submit(&post, named, "hello").await;
        assert!((200..300).contains(&status), "{signature:?}: {status}");
        assert_eq!(&read(&s3, "up/new", None).await[..], b"hello");
        let meta = s3.head(&key("up/new"), None).await.unwrap();
        assert_eq!(meta.headers.content_type.as_deref(), Some("text/x-form"));
        assert_eq!(canned_name(&s3.object_acl(&key("up/new"), None).await.unwrap()), Some("public-read"));
        let elsewhere = |name: &str, value: &str| if name == "key" { "down/x".to_owned() } else { value.to_owned() };
        assert!((400..500).contains(&submit(&post, elsewhere, "hello").await));
        assert!((400..500).contains(&submit(&post, named, "hello hello").await));
        let private = |name: &str, value: &str| match name {
            "key" => "up/other".to_owned(),
            "acl" => "private".to_owned(),
            _ => value.to_owned(),
        };
        assert!((400..500).contains(&submit(&post, private, "hello").await));
        s3.delete(&key("up/new"), None).await.unwrap();
    }
    assert!(f.s3.list(&ListQuery::default()).await.unwrap().objects.is_empty());
}

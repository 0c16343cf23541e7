//! Signatures of both versions, in headers, URLs and forms.

use std::time::Duration;

use rusty_s3::{Bucket, Credentials, UrlStyle};
use xosfs::demo::{Keys, Options, Server};

use super::{BUCKET, Client, code, encode, header, start};

#[tokio::test]
async fn signatures_are_checked() {
    let (server, s3) = start().await;
    server.store().put(BUCKET, "private", "x");
    let other = |access: &str, secret: &str| {
        let keys = Keys { access_key: access.into(), secret_key: secret.into(), user_id: String::new() };
        Client::new(&server, Some(keys))
    };
    let wrong = other(&server.keys().access_key, "wrong");
    assert_eq!(code(wrong.get("private", &[], &[]).await).await, (403, "SignatureDoesNotMatch".into()));
    let unknown = other("NOBODY", "wrong");
    assert_eq!(code(unknown.get("private", &[], &[]).await).await, (403, "InvalidAccessKeyId".into()));
    let anonymous = Client::new(&server, None);
    assert_eq!(code(anonymous.get("private", &[], &[]).await).await, (403, "AccessDenied".into()));
    assert_eq!(code(anonymous.get("", &[("list-type", "2")], &[]).await).await, (403, "AccessDenied".into()));
    assert_eq!(code(anonymous.put("new", &[], "x").await).await, (403, "AccessDenied".into()));
    assert_eq!(s3.get("private", &[], &[]).await.status(), 200);
    let extra = Keys { access_key: "EXTRA".into(), secret_key: "s".into(), user_id: server.keys().user_id };
    server.add_keys(extra.clone());
    let rotated = Client::new(&server, Some(extra));
    assert_eq!(rotated.get("private", &[], &[]).await.status(), 200);
    server.remove_keys("EXTRA");
    assert_eq!(code(rotated.get("private", &[], &[]).await).await, (403, "InvalidAccessKeyId".into()));
}

fn hmac_sha1(secret: &str, text: &str) -> String {
    use base64::Engine as _;
    use hmac::{Hmac, KeyInit, Mac};
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes())
}

#[tokio::test]
async fn signature_version_2_is_accepted() {
    let (server, s3) = start().await;
    server.store().put(BUCKET, "k", "x");
    let keys = server.keys();
    let date = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let resource = format!("/{BUCKET}/k");
    for (secret, status) in [(keys.secret_key.as_str(), 200), ("wrong", 403)] {
        let signature = hmac_sha1(secret, &format!("GET\n\n\n{date}\n{resource}"));
        let request = s3.http.get(format!("{}{resource}", server.endpoint())).header("date", &date);
        let request = request.header("authorization", format!("AWS {}:{signature}", keys.access_key));
        assert_eq!(request.send().await.unwrap().status(), status, "header");
        let expires = jiff::Timestamp::now().as_second() + 60;
        let signature = encode(&hmac_sha1(secret, &format!("GET\n\n\n{expires}\n{resource}")));
        let query = format!("AWSAccessKeyId={}&Expires={expires}&Signature={signature}", keys.access_key);
        let url = format!("{}{resource}?{query}", server.endpoint());
        assert_eq!(s3.http.get(url).send().await.unwrap().status(), status, "presigned");
    }
}

#[tokio::test]
async fn tokens_expire_and_clocks_differ() {
    let (server, mut s3) = start().await;
    server.store().put(BUCKET, "k", "x");
    server.knobs().set(|b| b.session_token = Some("new".into()));
    s3.token = Some("old".into());
    assert_eq!(code(s3.get("k", &[], &[]).await).await, (400, "ExpiredToken".into()));
    s3.token = Some("new".into());
    assert_eq!(s3.get("k", &[], &[]).await.status(), 200);
    server.knobs().set(|b| b.session_token = None);
    server.knobs().set_clock(3600);
    // Only the time of a header signature is checked against the shifted clock, before the signature itself.
    let date = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let request = s3.http.get(format!("{}/{BUCKET}/k", server.endpoint()));
    let request = request.header("x-amz-date", date).header("authorization", "AWS4-HMAC-SHA256 x");
    let skewed = request.send().await.unwrap();
    let shown = jiff::fmt::rfc2822::parse(header(&skewed, "date")).unwrap().timestamp().as_second();
    assert!((shown - jiff::Timestamp::now().as_second() - 3600).abs() < 60);
    assert_eq!(code(skewed).await, (403, "RequestTimeTooSkewed".into()));
}

#[tokio::test]
async fn buckets_can_be_host_names() {
    let options = Options { domain: Some("s3.localhost".into()), ..Options::with_bucket(BUCKET) };
    let server = Server::start(options).await.unwrap();
    let mut s3 = Client::new(&server, Some(server.keys()));
    server.store().put(BUCKET, "a/k", "x");
    assert_eq!(s3.get("a/k", &[], &[]).await.status(), 200);
    let host = format!("{BUCKET}.s3.localhost:{}", server.address().port());
    s3.http = reqwest::Client::builder()
        .no_proxy()
        .resolve(host.split(':').next().unwrap(), server.address())
        .build()
        .unwrap();
    let endpoint = format!("http://s3.localhost:{}", server.address().port()).parse().unwrap();
    let bucket = Bucket::new(endpoint, UrlStyle::VirtualHost, BUCKET, "us-east-1").unwrap();
    let keys = Credentials::new(server.keys().access_key, server.keys().secret_key);
    let url = rusty_s3::S3Action::sign(&bucket.get_object(Some(&keys), "a/k"), Duration::from_secs(60));
    assert_eq!(s3.http.get(url).send().await.unwrap().text().await.unwrap(), "x");
    let last = server.log().pop().unwrap();
    assert_eq!((last.operation, last.bucket.as_str(), last.key.as_str()), ("GetObject", BUCKET, "a/k"));
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use s3s::crypto::Checksum as _;
    s3s::crypto::Sha256::checksum(bytes)
}

fn hmac_sha256(key: &[u8], text: &str) -> [u8; 32] {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let pad = |byte: u8| block.iter().map(|b| b ^ byte).collect::<Vec<u8>>();
    let inner = sha256(&[pad(0x36), text.into()].concat());
    sha256(&[pad(0x5c), inner.to_vec()].concat())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[tokio::test]
async fn header_signatures_of_version_4_are_checked_with_their_payload() {
    let (server, s3) = start().await;
    let keys = server.keys();
    let host = server.address().to_string();
    let put = |secret: &str, payload: String, body: &'static str, date: jiff::Timestamp| {
        let time = date.strftime("%Y%m%dT%H%M%SZ").to_string();
        let day = &time[..8];
        let scope = format!("{day}/us-east-1/s3/aws4_request");
        let signed = "host;x-amz-content-sha256;x-amz-date";
        let canonical = format!(
            "PUT\n/{BUCKET}/k\n\nhost:{host}\nx-amz-content-sha256:{payload}\nx-amz-date:{time}\n\n{signed}\n{payload}"
        );
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&sha256(canonical.as_bytes())));
        let key = ["us-east-1", "s3", "aws4_request"]
            .iter()
            .fold(hmac_sha256(format!("AWS4{secret}").as_bytes(), day), |key, part| hmac_sha256(&key, part));
        let signature = hex(&hmac_sha256(&key, &to_sign));
        let credential = format!("{}/{scope}", keys.access_key);
        let authorization =
            format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={signed}, Signature={signature}");
        let request = s3.http.put(format!("{}/{BUCKET}/k", server.endpoint())).header("authorization", authorization);
        request.header("x-amz-date", time).header("x-amz-content-sha256", payload).body(body).send()
    };
    let now = jiff::Timestamp::now();
    let secret = keys.secret_key.as_str();
    let unsigned = || "UNSIGNED-PAYLOAD".to_owned();
    assert_eq!(put(secret, unsigned(), "one", now).await.unwrap().status(), 200);
    assert_eq!(put(secret, hex(&sha256(b"two")), "two", now).await.unwrap().status(), 200);
    assert_eq!(server.store().get(BUCKET, "k").unwrap(), "two");
    let wrong = put("wrong", unsigned(), "three", now).await.unwrap();
    assert_eq!(code(wrong).await, (403, "SignatureDoesNotMatch".into()));
    let other = put(secret, hex(&sha256(b"two")), "twO", now).await.unwrap();
    assert_eq!(code(other).await, (400, "XAmzContentSHA256Mismatch".into()));
    let early = now - jiff::SignedDuration::from_hours(1);
    assert_eq!(code(put(secret, unsigned(), "x", early).await.unwrap()).await, (403, "RequestTimeTooSkewed".into()));
    // A client that follows the server's clock is let in.
    server.knobs().set_clock(-3600);
    assert_eq!(put(secret, unsigned(), "x", early).await.unwrap().status(), 200);
    assert_eq!(server.store().get(BUCKET, "k").unwrap(), "x");
}

#[tokio::test]
async fn a_presigned_url_expires() {
    let (server, s3) = start().await;
    server.store().put(BUCKET, "k", "x");
    let c = s3.credentials().unwrap();
    let early = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(100);
    let sign = |seconds| {
        let url = s3.bucket().object_url("k");
        let none = std::iter::empty::<(&str, &str)>;
        rusty_s3::signing::sign(
            &early,
            rusty_s3::Method::Get,
            url,
            c.key(),
            c.secret(),
            None,
            "us-east-1",
            seconds,
            none(),
            none(),
        )
    };
    assert_eq!(code(s3.http.get(sign(99)).send().await.unwrap()).await, (403, "AccessDenied".into()));
    assert_eq!(s3.http.get(sign(300)).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_form_upload_with_a_signed_policy_is_stored() {
    use base64::Engine as _;
    let (server, s3) = start().await;
    let keys = server.keys();
    let now = jiff::Timestamp::now();
    let time = now.strftime("%Y%m%dT%H%M%SZ").to_string();
    let credential = format!("{}/{}/us-east-1/s3/aws4_request", keys.access_key, &time[..8]);
    let expiration = now + jiff::SignedDuration::from_secs(60);
    let policy = serde_json::json!({
        "expiration": expiration.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "conditions": [
            {"bucket": BUCKET},
            {"key": "posted"},
            {"x-amz-algorithm": "AWS4-HMAC-SHA256"},
            {"x-amz-credential": credential},
            {"x-amz-date": time},
            ["content-length-range", 0, 10],
        ],
    });
    let policy = base64::engine::general_purpose::STANDARD.encode(policy.to_string());
    let key = [&time[..8], "us-east-1", "s3", "aws4_request"]
        .iter()
        .fold(format!("AWS4{}", keys.secret_key).into_bytes(), |key, part| hmac_sha256(&key, part).to_vec());
    let signature = hex(&hmac_sha256(&key, &policy));
    for (content, status) in [("hello", 204), ("more than ten bytes", 400)] {
        let mut form = String::new();
        for (name, value) in [
            ("key", "posted"),
            ("x-amz-algorithm", "AWS4-HMAC-SHA256"),
            ("x-amz-credential", &credential),
            ("x-amz-date", &time),
            ("policy", &policy),
            ("x-amz-signature", &signature),
        ] {
            form += &format!("--limit\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        }
        form += "--limit\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n";
        form += &format!("Content-Type: text/plain\r\n\r\n{content}\r\n--limit--\r\n");
        let request = s3.http.post(format!("{}/{BUCKET}", server.endpoint())).body(form);
        let request = request.header("content-type", "multipart/form-data; boundary=limit");
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{}", response.text().await.unwrap());
        assert_eq!(server.store().get(BUCKET, "posted").unwrap(), "hello");
    }
    assert_eq!(server.counts()["PostObject"], 2);
}

//! The embedded S3 server, as clients see it over HTTP.
#![cfg(feature = "demo")]

use std::time::Duration;

use reqwest::{Method, Response};
use rusty_s3::{Bucket, Credentials, UrlStyle};
use xosfs::demo::{Action, Keys, Options, Rule, Server, synthetic};

const BUCKET: &str = "test-bucket";

/// A client that signs URLs; without keys it sends them unsigned.
struct Client {
    http: reqwest::Client,
    endpoint: String,
    keys: Option<Keys>,
    token: Option<String>,
}

fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

impl Client {
    fn new(server: &Server, keys: Option<Keys>) -> Self {
        // Fails when another test was first.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Client { http, endpoint: server.endpoint(), keys, token: None }
    }

    fn bucket(&self) -> Bucket {
        Bucket::new(self.endpoint.parse().unwrap(), UrlStyle::Path, BUCKET, "us-east-1").unwrap()
    }

    fn credentials(&self) -> Option<Credentials> {
        let keys = self.keys.as_ref()?;
        Some(match &self.token {
            Some(token) => Credentials::new_with_token(&keys.access_key, &keys.secret_key, token),
            None => Credentials::new(&keys.access_key, &keys.secret_key),
        })
    }

    /// Any request: rusty-s3's generic signer over method, path and query.
    fn url(&self, method: &Method, key: &str, query: &[(&str, &str)]) -> reqwest::Url {
        let bucket = self.bucket();
        let url = if key.is_empty() { bucket.base_url().clone() } else { bucket.object_url(key) };
        let Some(c) = self.credentials() else {
            let mut url = url;
            if !query.is_empty() {
                let text: Vec<_> = query.iter().map(|(k, v)| format!("{}={}", encode(k), encode(v))).collect();
                url.set_query(Some(&text.join("&")));
            }
            return url;
        };
        let method = match method.as_str() {
            "GET" => rusty_s3::Method::Get,
            "HEAD" => rusty_s3::Method::Head,
            "PUT" => rusty_s3::Method::Put,
            "POST" => rusty_s3::Method::Post,
            _ => rusty_s3::Method::Delete,
        };
        // The signer canonicalises what it gets, in the order it gets it.
        let mut query = query.to_vec();
        query.sort_unstable();
        rusty_s3::signing::sign(
            &jiff::Timestamp::now(),
            method,
            url,
            c.key(),
            c.secret(),
            c.token(),
            "us-east-1",
            300,
            query.iter().copied(),
            std::iter::empty(),
        )
    }

    async fn send(
        &self,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Response {
        let mut request = self.http.request(method.clone(), self.url(&method, key, query)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    async fn get(&self, key: &str, query: &[(&str, &str)], headers: &[(&str, &str)]) -> Response {
        self.send(Method::GET, key, query, headers, "").await
    }

    async fn put(&self, key: &str, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> Response {
        self.send(Method::PUT, key, &[], headers, body).await
    }
}

async fn start() -> (Server, Client) {
    let server = Server::start(Options::with_bucket(BUCKET)).await.unwrap();
    let client = Client::new(&server, Some(server.keys()));
    (server, client)
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |v| v.to_str().unwrap())
}

/// What stands in the first element `name`.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    elements(xml, name).into_iter().next()
}

fn elements<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open).skip(1).filter_map(|rest| rest.split_once(&close).map(|(text, _)| text)).collect()
}

async fn code(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, element(&text, "Code").unwrap_or("").to_owned())
}

#[tokio::test]
async fn an_object_comes_back_as_it_was_stored() {
    let (server, s3) = start().await;
    let put = s3
        .put(
            "dir/a b+c%é.txt",
            &[
                ("content-type", "text/plain"),
                ("cache-control", "no-cache"),
                ("x-amz-meta-mode", "33188"),
                ("x-amz-tagging", "k=v&k2=v2"),
                ("x-amz-storage-class", "STANDARD_IA"),
                ("content-md5", "XUFAKrxLKna5cZ2REBfFkg=="),
            ],
            "hello",
        )
        .await;
    assert_eq!(put.status(), 200);
    assert_eq!(header(&put, "etag"), "\"5d41402abc4b2a76b9719d911017c592\"");
    let get = s3.get("dir/a b+c%é.txt", &[], &[]).await;
    for (name, value) in [
        ("content-type", "text/plain"),
        ("cache-control", "no-cache"),
        ("x-amz-meta-mode", "33188"),
        ("x-amz-tagging-count", "2"),
        ("x-amz-storage-class", "STANDARD_IA"),
        ("content-length", "5"),
        ("etag", "\"5d41402abc4b2a76b9719d911017c592\""),
    ] {
        assert_eq!(header(&get, name), value, "{name}");
    }
    assert_eq!(get.text().await.unwrap(), "hello");
    let head = s3.send(Method::HEAD, "dir/a b+c%é.txt", &[], &[], "").await;
    assert_eq!((header(&head, "content-length"), header(&head, "x-amz-tagging-count")), ("5", "2"));
    let deleted = s3.send(Method::DELETE, "dir/a b+c%é.txt", &[], &[], "").await;
    assert_eq!(deleted.status(), 204);
    assert_eq!(code(s3.get("dir/a b+c%é.txt", &[], &[]).await).await, (404, "NoSuchKey".into()));
    let log = server.log();
    let operations: Vec<_> = log.iter().map(|r| (r.operation, r.status)).collect();
    let expected =
        [("PutObject", 200), ("GetObject", 200), ("HeadObject", 200), ("DeleteObject", 204), ("GetObject", 404)];
    assert_eq!(operations, expected);
    assert_eq!((log[0].bytes_in, log[1].bytes_out, log[1].key.as_str()), (5, 5, "dir/a b+c%é.txt"));
    assert!(log[0].query.iter().all(|(k, v)| !k.eq_ignore_ascii_case("x-amz-signature") || v.is_empty()));
    assert_eq!(server.counts()["GetObject"], 2);
}

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
async fn access_lists_decide_what_others_may_do() {
    let (server, s3) = start().await;
    let second = Client::new(&server, Some(server.second_user()));
    let anonymous = Client::new(&server, None);
    s3.put("private", &[], "x").await;
    s3.put("public", &[("x-amz-acl", "public-read")], "x").await;
    s3.put("users", &[("x-amz-acl", "authenticated-read")], "x").await;
    let grant = format!("id=\"{}\"", server.second_user().user_id);
    s3.put("granted", &[("x-amz-grant-read", &grant)], "x").await;
    for (key, for_second, for_anonymous) in
        [("private", 403, 403), ("public", 200, 200), ("users", 200, 403), ("granted", 200, 403), ("absent", 403, 403)]
    {
        assert_eq!(second.get(key, &[], &[]).await.status(), for_second, "{key}");
        assert_eq!(anonymous.get(key, &[], &[]).await.status(), for_anonymous, "{key}");
    }
    assert_eq!(second.send(Method::DELETE, "public", &[], &[], "").await.status(), 403);
    let acl = s3.get("granted", &[("acl", "")], &[]).await.text().await.unwrap();
    assert!(acl.contains(&server.second_user().user_id) && acl.contains("<Permission>READ</Permission>"), "{acl}");
    let canned = s3.send(Method::PUT, "private", &[("acl", "")], &[("x-amz-acl", "public-read")], "").await;
    assert_eq!(canned.status(), 200);
    assert_eq!(anonymous.get("private", &[], &[]).await.status(), 200);
    let open = s3.send(Method::PUT, "", &[("acl", "")], &[("x-amz-acl", "public-read-write")], "").await;
    assert_eq!(open.status(), 200);
    assert_eq!(anonymous.get("", &[], &[]).await.status(), 200);
    assert_eq!(second.put("theirs", &[], "x").await.status(), 200);
    // The object is the writer's, not the bucket owner's.
    assert_eq!(s3.get("theirs", &[], &[]).await.status(), 403);
    assert_eq!(anonymous.get("absent", &[], &[]).await.status(), 404);
}

#[tokio::test]
async fn an_acl_document_is_taken_as_it_was_given_out() {
    let (server, s3) = start().await;
    s3.put("k", &[("x-amz-acl", "public-read")], "x").await;
    let document = s3.get("k", &[("acl", "")], &[]).await.text().await.unwrap();
    s3.put("other", &[], "x").await;
    let put = s3.send(Method::PUT, "other", &[("acl", "")], &[], document.clone()).await;
    assert_eq!(put.status(), 200, "{}", put.text().await.unwrap());
    assert_eq!(s3.get("other", &[("acl", "")], &[]).await.text().await.unwrap(), document);
    assert_eq!(Client::new(&server, None).get("other", &[], &[]).await.status(), 200);
}

/// All keys and prefixes of a listing, page by page.
async fn walk(s3: &Client, v2: bool, query: &[(&str, &str)]) -> (Vec<String>, Vec<String>, usize) {
    let (mut keys, mut prefixes, mut pages) = (Vec::new(), Vec::new(), 0);
    let mut from = String::new();
    loop {
        let mut all = query.to_vec();
        if v2 {
            all.push(("list-type", "2"));
        }
        if !from.is_empty() {
            all.push((if v2 { "continuation-token" } else { "marker" }, &from));
        }
        let text = s3.get("", &all, &[]).await.text().await.unwrap();
        pages += 1;
        keys.extend(elements(&text, "Key").iter().map(|s| s.to_string()));
        for common in elements(&text, "CommonPrefixes") {
            prefixes.push(element(common, "Prefix").unwrap().to_owned());
        }
        if element(&text, "IsTruncated") != Some("true") {
            return (keys, prefixes, pages);
        }
        let next = element(&text, if v2 { "NextContinuationToken" } else { "NextMarker" });
        from = next.map_or_else(|| keys.last().unwrap().clone(), str::to_owned);
    }
}

#[tokio::test]
async fn listings_page_through_keys_and_prefixes() {
    let (server, s3) = start().await;
    for key in ["a", "b/1", "b/2", "b/3", "b", "c/x/y", "c/z", "d", "e/", "e/f", "é/g"] {
        server.store().put(BUCKET, key, key);
    }
    for v2 in [false, true] {
        for max in ["1", "2", "3", "1000"] {
            let (keys, prefixes, pages) = walk(&s3, v2, &[("max-keys", max), ("delimiter", "/")]).await;
            assert_eq!(keys, ["a", "b", "d"], "v2={v2} max={max}");
            assert_eq!(prefixes, ["b/", "c/", "e/", "é/"], "v2={v2} max={max}");
            assert_eq!(pages, 7_usize.div_ceil(max.parse().unwrap()));
            let (keys, prefixes, _) = walk(&s3, v2, &[("max-keys", max), ("delimiter", "/"), ("prefix", "e/")]).await;
            assert_eq!((keys, prefixes), (vec!["e/".to_owned(), "e/f".to_owned()], vec![]));
            let (keys, ..) = walk(&s3, v2, &[("max-keys", max)]).await;
            assert_eq!(keys, server.store().list(BUCKET, ""));
        }
    }
    let text = s3.get("", &[("list-type", "2"), ("start-after", "b/2"), ("max-keys", "2")], &[]).await;
    let text = text.text().await.unwrap();
    assert_eq!(elements(&text, "Key"), ["b/3", "c/x/y"]);
    assert_eq!(element(&text, "KeyCount"), Some("2"));
    // NextMarker comes with a delimiter only.
    let text = s3.get("", &[("max-keys", "2")], &[]).await.text().await.unwrap();
    assert_eq!((element(&text, "IsTruncated"), element(&text, "NextMarker")), (Some("true"), None));
}

#[tokio::test]
async fn encoded_listings_carry_any_key() {
    let (server, s3) = start().await;
    let key = "a b+c%d\u{1}é&<";
    server.store().put(BUCKET, key, "x");
    let text = s3.get("", &[("list-type", "2"), ("encoding-type", "url")], &[]).await.text().await.unwrap();
    assert_eq!(element(&text, "EncodingType"), Some("url"));
    let shown = element(&text, "Key").unwrap();
    assert_eq!(shown, "a+b%2Bc%25d%01%C3%A9%26%3C");
}

#[tokio::test]
async fn a_page_of_a_large_bucket_is_quick() {
    let (server, s3) = start().await;
    for i in 0..100_000 {
        server.store().put(BUCKET, &format!("{:03}/{i:06}", i / 1000), bytes::Bytes::new());
    }
    for query in [&[("list-type", "2"), ("prefix", "050/")][..], &[("list-type", "2"), ("delimiter", "/")]] {
        let mut best = Duration::MAX;
        for _ in 0..3 {
            let begun = std::time::Instant::now();
            let text = s3.get("", query, &[]).await.text().await.unwrap();
            best = best.min(begun.elapsed());
            assert_eq!(element(&text, "KeyCount"), Some(if query[1].0 == "prefix" { "1000" } else { "100" }));
        }
        println!("{query:?}: {best:?}");
        // The goal is 10 ms (1.5 ms measured); the rest is for busy machines.
        assert!(best < Duration::from_millis(100), "{best:?}");
    }
}

#[tokio::test]
async fn ranges_and_conditions_of_reads_hold() {
    let (server, s3) = start().await;
    let etag = server.store().put(BUCKET, "k", "0123456789");
    let quoted = format!("\"{etag}\"");
    for (range, status, content_range, body) in [
        ("bytes=0-3", 206, "bytes 0-3/10", "0123"),
        ("bytes=7-", 206, "bytes 7-9/10", "789"),
        ("bytes=-2", 206, "bytes 8-9/10", "89"),
        ("bytes=8-100", 206, "bytes 8-9/10", "89"),
    ] {
        let get = s3.get("k", &[], &[("range", range)]).await;
        assert_eq!((get.status().as_u16(), header(&get, "content-range")), (status, content_range), "{range}");
        assert_eq!(get.text().await.unwrap(), body);
    }
    let beyond = s3.get("k", &[], &[("range", "bytes=10-")]).await;
    assert_eq!(header(&beyond, "content-range"), "bytes */10");
    assert_eq!(code(beyond).await, (416, "InvalidRange".into()));
    server.store().put(BUCKET, "empty", "");
    assert_eq!(s3.get("empty", &[], &[("range", "bytes=0-9")]).await.status(), 416);
    for (name, value, status) in [
        ("if-match", quoted.as_str(), 200),
        ("if-match", "\"other\"", 412),
        ("if-none-match", &quoted, 304),
        ("if-none-match", "\"other\"", 200),
        ("if-modified-since", "Wed, 21 Oct 2099 07:28:00 GMT", 304),
        ("if-unmodified-since", "Wed, 21 Oct 2015 07:28:00 GMT", 412),
        ("if-unmodified-since", "Wed, 21 Oct 2099 07:28:00 GMT", 200),
    ] {
        for method in [Method::GET, Method::HEAD] {
            let got = s3.send(method.clone(), "k", &[], &[(name, value)], "").await;
            assert_eq!(got.status(), status, "{method} {name}: {value}");
        }
    }
    let query = [("response-content-type", "text/x"), ("response-content-disposition", "attachment")];
    let got = s3.get("k", &query, &[]).await;
    assert_eq!((header(&got, "content-type"), header(&got, "content-disposition")), ("text/x", "attachment"));
}

#[tokio::test]
async fn conditional_writes_let_one_writer_win() {
    let (server, s3) = start().await;
    assert_eq!(s3.put("k", &[("if-match", "\"x\"")], "a").await.status(), 404);
    assert_eq!(s3.put("k", &[("if-none-match", "*")], "a").await.status(), 200);
    assert_eq!(code(s3.put("k", &[("if-none-match", "*")], "b").await).await, (412, "PreconditionFailed".into()));
    let etag = server.store().head(BUCKET, "k").unwrap().etag;
    assert_eq!(s3.put("k", &[("if-match", "\"other\"")], "b").await.status(), 412);
    assert_eq!(s3.put("k", &[("if-match", &etag)], "b").await.status(), 200);
    assert_eq!(s3.send(Method::DELETE, "k", &[], &[("if-match", &etag)], "").await.status(), 412);
    assert_eq!(server.store().get(BUCKET, "k").unwrap(), "b");
    let mut racers = Vec::new();
    for i in 0..20 {
        let one = Client::new(&server, Some(server.keys()));
        racers.push(tokio::spawn(async move {
            one.put("race", &[("if-none-match", "*")], format!("{i}")).await.status().as_u16()
        }));
    }
    let mut won = 0;
    for racer in racers {
        match racer.await.unwrap() {
            200 => won += 1,
            status => assert_eq!(status, 412),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn broken_bodies_are_refused() {
    let (server, s3) = start().await;
    let wrong_md5 = s3.put("k", &[("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")], "hello").await;
    assert_eq!(code(wrong_md5).await, (400, "BadDigest".into()));
    let bad_md5 = s3.put("k", &[("content-md5", "hello")], "hello").await;
    assert_eq!(code(bad_md5).await, (400, "InvalidDigest".into()));
    // CRC-32C of "hello" is 9a71bb4c.
    assert_eq!(s3.put("k", &[("x-amz-checksum-crc32c", "mnG7TA==")], "hello").await.status(), 200);
    let wrong = s3.put("k", &[("x-amz-checksum-crc32c", "mnG7TA==")], "hellO").await;
    assert_eq!(code(wrong).await, (400, "BadDigest".into()));
    let get = s3.get("k", &[], &[("x-amz-checksum-mode", "ENABLED")]).await;
    assert_eq!(header(&get, "x-amz-checksum-crc32c"), "mnG7TA==");
    assert_eq!(server.store().get(BUCKET, "k").unwrap(), "hello");
    let class = s3.put("k", &[("x-amz-storage-class", "NONE")], "x").await;
    assert_eq!(code(class).await, (400, "InvalidStorageClass".into()));
    let metadata = s3.put("k", &[("x-amz-meta-a", &"x".repeat(3000))], "x").await;
    assert_eq!(code(metadata).await, (400, "MetadataTooLarge".into()));
}

/// Uploads `parts` under `key`; gives the upload id and the XML for its completion.
async fn upload(s3: &Client, key: &str, parts: &[bytes::Bytes]) -> (String, String) {
    let text = s3.send(Method::POST, key, &[("uploads", "")], &[], "").await.text().await.unwrap();
    let id = element(&text, "UploadId").unwrap().to_owned();
    let mut xml = String::from("<CompleteMultipartUpload>");
    for (at, part) in parts.iter().enumerate() {
        let number = (at + 1).to_string();
        let query = [("partNumber", number.as_str()), ("uploadId", &id)];
        let put = s3.send(Method::PUT, key, &query, &[], part.clone()).await;
        assert_eq!(put.status(), 200);
        xml += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>", header(&put, "etag"));
    }
    (id, xml + "</CompleteMultipartUpload>")
}

#[tokio::test]
async fn parts_and_copied_parts_become_one_object() {
    let (server, s3) = start().await;
    let mib5 = 5 << 20;
    server.store().put_synthetic(BUCKET, "base", 100 << 20);
    let first = bytes::Bytes::from(vec![1; mib5]);
    let (id, xml) = upload(&s3, "big", std::slice::from_ref(&first)).await;
    let source = format!("/{BUCKET}/base");
    let range = format!("bytes={}-{}", 1 << 20, (1 << 20) + mib5 as u64 + 9);
    let query = [("partNumber", "2"), ("uploadId", id.as_str())];
    let headers = [("x-amz-copy-source", source.as_str()), ("x-amz-copy-source-range", &range)];
    let copied = s3.send(Method::PUT, "big", &query, &headers, "").await.text().await.unwrap();
    let etag = element(&copied, "ETag").unwrap();
    let beyond = [("x-amz-copy-source", source.as_str()), ("x-amz-copy-source-range", "bytes=0-104857600")];
    assert_eq!(s3.send(Method::PUT, "big", &query, &beyond, "").await.status(), 400);
    let stale = [("x-amz-copy-source", source.as_str()), ("x-amz-copy-source-if-match", "\"other\"")];
    assert_eq!(s3.send(Method::PUT, "big", &query, &stale, "").await.status(), 412);
    let parts = s3.get("big", &[("uploadId", &id)], &[]).await.text().await.unwrap();
    assert_eq!(elements(&parts, "Size"), [mib5.to_string(), (mib5 + 10).to_string()]);
    let listed = s3.get("", &[("uploads", "")], &[]).await.text().await.unwrap();
    assert_eq!((element(&listed, "Key"), element(&listed, "UploadId")), (Some("big"), Some(id.as_str())));
    let xml = xml.replace(
        "</CompleteMultipartUpload>",
        &format!("<Part><PartNumber>2</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"),
    );
    let done = s3.send(Method::POST, "big", &[("uploadId", &id)], &[], xml.clone()).await.text().await.unwrap();
    assert!(element(&done, "ETag").unwrap().ends_with("-2&quot;") || element(&done, "ETag").unwrap().ends_with("-2\""));
    let again = s3.send(Method::POST, "big", &[("uploadId", &id)], &[], xml).await;
    assert_eq!(code(again).await, (404, "NoSuchUpload".into()));
    let whole = s3.get("big", &[], &[]).await.bytes().await.unwrap();
    assert!(whole[..mib5] == first[..]);
    assert!(whole[mib5..] == synthetic("base", 1 << 20..(1 << 20) + mib5 as u64 + 10)[..]);
    let across = s3.get("big", &[], &[("range", &format!("bytes={}-{}", mib5 - 3, mib5 + 2))]).await;
    assert!(across.bytes().await.unwrap() == whole[mib5 - 3..mib5 + 3]);
    let part = s3.get("big", &[("partNumber", "2")], &[]).await;
    assert_eq!((part.status().as_u16(), header(&part, "x-amz-mp-parts-count")), (206, "2"));
    assert_eq!(part.content_length(), Some(mib5 as u64 + 10));
}

#[tokio::test]
async fn a_wrong_completion_is_refused_and_an_abort_forgets() {
    let (server, s3) = start().await;
    let small = [bytes::Bytes::from_static(b"a"), bytes::Bytes::from_static(b"b")];
    let (id, xml) = upload(&s3, "k", &small).await;
    let query = [("uploadId", id.as_str())];
    let complete = |xml: String| s3.send(Method::POST, "k", &query, &[], xml);
    assert_eq!(code(complete(xml.clone()).await).await, (400, "EntityTooSmall".into()));
    let one = |n: u32| format!("<Part><PartNumber>{n}</PartNumber><ETag>\"x\"</ETag></Part>");
    let list = |parts: &str| format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
    assert_eq!(code(complete(list(&one(3))).await).await, (400, "InvalidPart".into()));
    let second = xml.split("</Part>").nth(1).unwrap().to_owned() + "</Part>";
    let first = xml.split("</Part>").next().unwrap().replace("<CompleteMultipartUpload>", "") + "</Part>";
    assert_eq!(code(complete(list(&(second + &first))).await).await, (400, "InvalidPartOrder".into()));
    server.knobs().set(|b| b.min_part = 0);
    let conditional = [("if-none-match", "*")];
    server.store().put(BUCKET, "k", "there");
    let refused = s3.send(Method::POST, "k", &[("uploadId", &id)], &conditional, xml.clone()).await;
    assert_eq!(code(refused).await, (412, "PreconditionFailed".into()));
    let abort = s3.send(Method::DELETE, "k", &[("uploadId", &id)], &[], "").await;
    assert_eq!(abort.status(), 204);
    assert!(server.store().uploads(BUCKET).is_empty());
    assert_eq!(server.store().get(BUCKET, "k").unwrap(), "there");
}

#[tokio::test]
async fn copies_follow_their_directives() {
    let (server, s3) = start().await;
    let headers = [
        ("content-type", "text/plain"),
        ("x-amz-meta-a", "1"),
        ("x-amz-tagging", "t=1"),
        ("x-amz-acl", "public-read"),
        ("x-amz-storage-class", "STANDARD_IA"),
    ];
    let put = s3.put("from", &headers, "x").await;
    let etag = header(&put, "etag").to_owned();
    let source = format!("{BUCKET}/from");
    let from = ("x-amz-copy-source", source.as_str());
    assert_eq!(code(s3.put("from", &[from], "").await).await, (400, "InvalidRequest".into()));
    assert_eq!(s3.put("to", &[from, ("x-amz-copy-source-if-match", "\"other\"")], "").await.status(), 412);
    let kept = s3.put("to", &[from, ("x-amz-copy-source-if-match", &etag), ("x-amz-meta-a", "2")], "").await;
    assert_eq!(kept.status(), 200);
    assert!(kept.text().await.unwrap().contains("CopyObjectResult"));
    let to = server.store().head(BUCKET, "to").unwrap().attributes;
    assert_eq!(to.content_type.as_deref(), Some("text/plain"));
    assert_eq!(to.metadata["a"], "1");
    assert_eq!(to.tags, [("t".to_owned(), "1".to_owned())]);
    // Neither class nor ACL is copied.
    assert_eq!(to.storage_class, None);
    assert_eq!(Client::new(&server, None).get("to", &[], &[]).await.status(), 403);
    let replace = [
        from,
        ("x-amz-metadata-directive", "REPLACE"),
        ("x-amz-meta-b", "2"),
        ("x-amz-tagging-directive", "REPLACE"),
        ("x-amz-tagging", "u=2"),
    ];
    assert_eq!(s3.put("from", &replace, "").await.status(), 200);
    let attributes = server.store().head(BUCKET, "from").unwrap().attributes;
    assert_eq!((attributes.content_type, attributes.metadata.len()), (None, 1));
    assert_eq!(attributes.tags, [("u".to_owned(), "2".to_owned())]);
    let absent = format!("{BUCKET}/absent");
    assert_eq!(s3.put("to", &[("x-amz-copy-source", &absent)], "").await.status(), 404);
    assert_eq!(s3.put("to", &[from, ("if-none-match", "*")], "").await.status(), 412);
}

#[tokio::test]
async fn many_objects_are_deleted_at_once() {
    let (server, s3) = start().await;
    for key in ["a", "b", "c"] {
        server.store().put(BUCKET, key, "x");
    }
    let xml = "<Delete><Quiet>true</Quiet><Object><Key>a</Key></Object><Object><Key>absent</Key></Object></Delete>";
    let query = [("delete", "")];
    assert_eq!(s3.send(Method::POST, "", &query, &[], xml).await.status(), 400);
    let md5 = [("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")];
    let quiet = s3.send(Method::POST, "", &query, &md5, xml).await.text().await.unwrap();
    assert!(!quiet.contains("<Deleted>"), "{quiet}");
    let loud = s3.send(Method::POST, "", &query, &md5, xml.replace("true", "false")).await.text().await.unwrap();
    assert_eq!(elements(&loud, "Key"), ["a", "absent"]);
    assert_eq!(server.store().list(BUCKET, ""), ["b", "c"]);
}

#[tokio::test]
async fn versions_are_kept_until_they_are_deleted_by_id() {
    let (server, s3) = start().await;
    server.store().put(BUCKET, "k", "before");
    let enable = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    assert_eq!(s3.send(Method::PUT, "", &[("versioning", "")], &[], enable).await.status(), 200);
    let got = s3.get("", &[("versioning", "")], &[]).await.text().await.unwrap();
    assert_eq!(element(&got, "Status"), Some("Enabled"));
    let put = s3.put("k", &[], "first").await;
    let first = header(&put, "x-amz-version-id").to_owned();
    s3.put("k", &[], "second").await;
    let get = s3.get("k", &[("versionId", &first)], &[]).await;
    assert_eq!(header(&get, "x-amz-version-id"), first);
    assert_eq!(get.text().await.unwrap(), "first");
    assert_eq!(s3.get("k", &[("versionId", "null")], &[]).await.text().await.unwrap(), "before");
    let deleted = s3.send(Method::DELETE, "k", &[], &[], "").await;
    assert_eq!(header(&deleted, "x-amz-delete-marker"), "true");
    let marker = header(&deleted, "x-amz-version-id").to_owned();
    let gone = s3.get("k", &[], &[]).await;
    assert_eq!((gone.status().as_u16(), header(&gone, "x-amz-delete-marker")), (404, "true"));
    assert_eq!(s3.get("k", &[("versionId", &marker)], &[]).await.status(), 405);
    let listing = s3.get("", &[("list-type", "2")], &[]).await.text().await.unwrap();
    assert_eq!(element(&listing, "KeyCount"), Some("0"));
    let versions = s3.get("", &[("versions", "")], &[]).await.text().await.unwrap();
    assert_eq!((elements(&versions, "Version").len(), elements(&versions, "DeleteMarker").len()), (3, 1));
    // Page by page it is the same.
    let (mut ids, mut from) = (Vec::new(), (String::new(), String::new()));
    loop {
        let query = [("versions", ""), ("max-keys", "1"), ("key-marker", &from.0), ("version-id-marker", &from.1)];
        let query = if from.0.is_empty() { &query[..2] } else { &query[..] };
        let page = s3.get("", query, &[]).await.text().await.unwrap();
        ids.extend(elements(&page, "VersionId").iter().map(|s| s.to_string()));
        if element(&page, "IsTruncated") != Some("true") {
            break;
        }
        let next = |name| element(&page, name).unwrap().to_owned();
        from = (next("NextKeyMarker"), next("NextVersionIdMarker"));
    }
    let mut expected = server.store().versions(BUCKET, "k");
    expected.reverse();
    assert_eq!(ids, expected);
    assert_eq!(s3.send(Method::DELETE, "k", &[("versionId", &marker)], &[], "").await.status(), 204);
    assert_eq!(s3.get("k", &[], &[]).await.text().await.unwrap(), "second");
}

#[tokio::test]
async fn archived_objects_are_read_after_a_restore() {
    let (server, s3) = start().await;
    server.knobs().set(|b| b.restore_delay = Duration::from_millis(300));
    s3.put("k", &[("x-amz-storage-class", "GLACIER")], "cold").await;
    assert_eq!(code(s3.get("k", &[], &[]).await).await, (403, "InvalidObjectState".into()));
    let source = format!("{BUCKET}/k");
    assert_eq!(s3.put("copy", &[("x-amz-copy-source", &source)], "").await.status(), 403);
    let xml = "<RestoreRequest><Days>1</Days></RestoreRequest>";
    let restore = || s3.send(Method::POST, "k", &[("restore", "")], &[], xml);
    assert_eq!(restore().await.status(), 202);
    assert_eq!(code(restore().await).await, (409, "RestoreAlreadyInProgress".into()));
    let head = s3.send(Method::HEAD, "k", &[], &[], "").await;
    assert_eq!(header(&head, "x-amz-restore"), "ongoing-request=\"true\"");
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(s3.get("k", &[], &[]).await.text().await.unwrap(), "cold");
    let head = s3.send(Method::HEAD, "k", &[], &[], "").await;
    assert!(header(&head, "x-amz-restore").starts_with("ongoing-request=\"false\", expiry-date=\""));
    assert_eq!(header(&head, "x-amz-storage-class"), "GLACIER");
    assert_eq!(restore().await.status(), 200);
    server.store().put(BUCKET, "warm", "x");
    let warm = s3.send(Method::POST, "warm", &[("restore", "")], &[], xml).await;
    assert_eq!(code(warm).await, (403, "InvalidObjectState".into()));
}

#[tokio::test]
async fn tags_keep_to_their_limits() {
    let (server, s3) = start().await;
    server.store().put(BUCKET, "k", "x");
    let tag = |k: &str, v: &str| format!("<Tag><Key>{k}</Key><Value>{v}</Value></Tag>");
    let put = |tags: String| {
        let xml = format!("<Tagging><TagSet>{tags}</TagSet></Tagging>");
        s3.send(Method::PUT, "k", &[("tagging", "")], &[], xml)
    };
    let ten: String = (0..10).map(|i| tag(&format!("k{i}"), "v")).collect();
    assert_eq!(put(ten.clone()).await.status(), 200);
    assert_eq!(put(tag(&"k".repeat(128), &"v".repeat(256))).await.status(), 200);
    for bad in
        [ten + &tag("k10", "v"), tag(&"k".repeat(129), "v"), tag("k", &"v".repeat(257)), tag("k", "1") + &tag("k", "2")]
    {
        assert_eq!(code(put(bad).await).await, (400, "InvalidTag".into()));
    }
    let got = s3.get("k", &[("tagging", "")], &[]).await.text().await.unwrap();
    assert_eq!(element(&got, "Value").unwrap().len(), 256);
    assert_eq!(s3.send(Method::DELETE, "k", &[("tagging", "")], &[], "").await.status(), 204);
    assert!(server.store().head(BUCKET, "k").unwrap().attributes.tags.is_empty());
}

#[tokio::test]
async fn buckets_have_a_life_and_a_configuration() {
    let (server, s3) = start().await;
    assert_eq!(s3.send(Method::HEAD, "", &[], &[], "").await.status(), 200);
    assert_eq!(code(s3.send(Method::PUT, "", &[], &[], "").await).await, (409, "BucketAlreadyOwnedByYou".into()));
    let location = s3.get("", &[("location", "")], &[]).await.text().await.unwrap();
    assert!(location.contains("LocationConstraint"));
    for (name, absent) in [
        ("policy", "NoSuchBucketPolicy"),
        ("lifecycle", "NoSuchLifecycleConfiguration"),
        ("cors", "NoSuchCORSConfiguration"),
        ("tagging", "NoSuchTagSet"),
    ] {
        assert_eq!(code(s3.get("", &[(name, "")], &[]).await).await, (404, absent.into()));
    }
    let bad = s3.send(Method::PUT, "", &[("policy", "")], &[], "{").await;
    assert_eq!(code(bad).await, (400, "MalformedPolicy".into()));
    let policy = "{\"Version\":\"2012-10-17\",\"Statement\":[]}";
    assert!(s3.send(Method::PUT, "", &[("policy", "")], &[], policy).await.status().is_success());
    assert_eq!(s3.get("", &[("policy", "")], &[]).await.text().await.unwrap(), policy);
    let lifecycle = "<LifecycleConfiguration><Rule><ID>r</ID><Filter><Prefix>tmp/</Prefix></Filter>\
                     <Status>Enabled</Status><Expiration><Days>3</Days></Expiration></Rule></LifecycleConfiguration>";
    assert_eq!(s3.send(Method::PUT, "", &[("lifecycle", "")], &[], lifecycle).await.status(), 200);
    let got = s3.get("", &[("lifecycle", "")], &[]).await.text().await.unwrap();
    assert_eq!((element(&got, "Days"), element(&got, "Prefix")), (Some("3"), Some("tmp/")));
    let cors = "<CORSConfiguration><CORSRule><AllowedMethod>GET</AllowedMethod><AllowedOrigin>*</AllowedOrigin>\
                </CORSRule></CORSConfiguration>";
    assert_eq!(s3.send(Method::PUT, "", &[("cors", "")], &[], cors).await.status(), 200);
    let got = s3.get("", &[("cors", "")], &[]).await.text().await.unwrap();
    assert_eq!(element(&got, "AllowedMethod"), Some("GET"));
    assert_eq!(s3.send(Method::DELETE, "", &[("cors", "")], &[], "").await.status(), 204);
    server.store().put(BUCKET, "k", "x");
    assert_eq!(code(s3.send(Method::DELETE, "", &[], &[], "").await).await, (409, "BucketNotEmpty".into()));
    server.store().delete(BUCKET, "k");
    assert_eq!(s3.send(Method::DELETE, "", &[], &[], "").await.status(), 204);
    assert_eq!(code(s3.get("", &[], &[]).await).await, (404, "NoSuchBucket".into()));
}

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
async fn small_pages_and_version_1_answers_can_be_had() {
    let (server, s3) = start().await;
    for key in ["a", "b", "c", "d/1", "e/1"] {
        server.store().put(BUCKET, key, "x");
    }
    server.knobs().set(|b| b.page_size = Some(2));
    let (keys, _, pages) = walk(&s3, true, &[]).await;
    assert_eq!((keys.len(), pages), (5, 3));
    server.knobs().set(|b| b.v1_only = true);
    let text = s3.get("", &[("list-type", "2"), ("start-after", "b"), ("delimiter", "/")], &[]).await;
    let text = text.text().await.unwrap();
    assert_eq!(elements(&text, "Key"), ["a", "b"]);
    assert_eq!((element(&text, "KeyCount"), element(&text, "NextContinuationToken")), (None, None));
    assert_eq!((element(&text, "Marker"), element(&text, "NextMarker")), (Some(""), Some("b")));
    assert_eq!(walk(&s3, false, &[("delimiter", "/")]).await.1, ["d/", "e/"]);
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
async fn cheap_etags_are_unique_and_completion_can_omit_them() {
    let (server, s3) = start().await;
    server.knobs().set(|b| (b.cheap_etags, b.no_complete_etag, b.min_part) = (true, true, 0));
    let a = s3.put("k", &[], "x").await;
    let b = s3.put("k", &[], "x").await;
    assert_ne!(header(&a, "etag"), header(&b, "etag"));
    let (id, xml) = upload(&s3, "k", &[bytes::Bytes::from_static(b"a")]).await;
    let done = s3.send(Method::POST, "k", &[("uploadId", &id)], &[], xml).await.text().await.unwrap();
    assert!(done.contains("CompleteMultipartUploadResult") && !done.contains("<ETag>"), "{done}");
}

#[tokio::test]
async fn a_directory_store_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options { data: Some(dir.path().to_owned()), ..Options::with_bucket(BUCKET) };
    let large = bytes::Bytes::from((0..6 << 20).map(|i: u32| (i % 251) as u8).collect::<Vec<_>>());
    let server = Server::start(options()).await.unwrap();
    let s3 = Client::new(&server, Some(server.keys()));
    s3.put("a//b", &[("x-amz-meta-m", "1"), ("x-amz-tagging", "t=1")], "old").await;
    s3.put("a//b", &[("x-amz-meta-m", "2"), ("x-amz-tagging", "t=1")], large.clone()).await;
    s3.put("deleted", &[], "x").await;
    s3.send(Method::DELETE, "deleted", &[], &[], "").await;
    let (id, xml) = upload(&s3, "pending", &[large.clone(), "end".into()]).await;
    server.store().enable_versioning(BUCKET);
    s3.put("v", &[], "1").await;
    s3.put("v", &[], "2").await;
    let versions = server.store().versions(BUCKET, "v");
    let keys = server.store().list(BUCKET, "");
    let before = server.store().head(BUCKET, keys.first().unwrap());
    server.shutdown().await;

    let server = Server::start(options()).await.unwrap();
    let s3 = Client::new(&server, Some(server.keys()));
    assert_eq!(server.store().list(BUCKET, ""), keys);
    assert_eq!(server.store().head(BUCKET, keys.first().unwrap()), before);
    assert!(s3.get("a//b", &[], &[]).await.bytes().await.unwrap() == large);
    let range = s3.get("a//b", &[], &[("range", "bytes=3000000-3000009")]).await;
    assert!(range.bytes().await.unwrap() == large[3_000_000..3_000_010]);
    assert_eq!(server.store().versions(BUCKET, "v"), versions);
    assert_eq!(s3.get("v", &[("versionId", &versions[0])], &[]).await.text().await.unwrap(), "1");
    let done = s3.send(Method::POST, "pending", &[("uploadId", &id)], &[], xml).await;
    assert!(done.text().await.unwrap().contains("CompleteMultipartUploadResult"));
    assert_eq!(s3.get("pending", &[], &[]).await.bytes().await.unwrap().len(), large.len() + 3);
    server.store().delete(BUCKET, "pending");
    server.store().delete(BUCKET, "v");
    server.store().delete(BUCKET, keys.first().unwrap());
    // Nothing is left of what was deleted.
    assert_eq!(std::fs::read_dir(dir.path().join("data")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(dir.path().join("parts")).unwrap().count(), 0);
}

#[test]
fn a_server_on_its_own_threads_needs_no_runtime() {
    let server = Server::start_thread(Options::with_bucket(BUCKET)).unwrap();
    server.store().put_synthetic(BUCKET, "huge", 20 << 40);
    let client = Client::new(&server, Some(server.keys()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bytes = runtime.block_on(async {
        let range = format!("bytes={}-{}", 15_u64 << 40, (15_u64 << 40) + 3_000_000);
        client.get("huge", &[], &[("range", &range)]).await.bytes().await.unwrap()
    });
    assert!(bytes == synthetic("huge", 15 << 40..(15 << 40) + 3_000_001));
    let address = server.address();
    drop(server);
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[tokio::test]
async fn the_sample_bucket_has_something_of_everything() {
    let (server, s3) = start().await;
    xosfs::demo::sample(server.store(), BUCKET);
    let anonymous = Client::new(&server, None);
    assert_eq!(anonymous.get("attributes/public.txt", &[], &[]).await.status(), 200);
    assert_eq!(s3.get("archive/2019.txt", &[], &[]).await.status(), 403);
    assert_eq!(s3.get("odd//empty component.txt", &[], &[]).await.status(), 200);
    let tagged = s3.get("attributes/tagged.txt", &[], &[]).await;
    assert_eq!((header(&tagged, "x-amz-tagging-count"), header(&tagged, "x-amz-meta-author")), ("2", "somebody"));
    let png = server.store().get(BUCKET, "pictures/gradient.png").unwrap();
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png.ends_with(b"IEND\xaeB`\x82"));
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
async fn a_data_directory_has_one_server() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options { data: Some(dir.path().to_owned()), ..Options::with_bucket(BUCKET) };
    let server = Server::start(options()).await.unwrap();
    let refused = Server::start(options()).await.err().unwrap();
    assert!(refused.to_string().contains("in use"), "{refused}");
    server.shutdown().await;
    Server::start(options()).await.unwrap();
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

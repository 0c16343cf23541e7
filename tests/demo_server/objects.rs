//! Objects: what is stored, read, copied, sent in parts, deleted and kept in versions.

use std::time::Duration;

use reqwest::Method;
use xosfs::demo::synthetic;

use super::{BUCKET, Client, code, element, elements, header, start};

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
pub async fn upload(s3: &Client, key: &str, parts: &[bytes::Bytes]) -> (String, String) {
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

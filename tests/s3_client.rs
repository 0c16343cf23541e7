//! Every operation of the client against a real server: the one in `XOSFS_TEST_S3` ("ENDPOINT ACCESS_KEY
//! SECRET_KEY [REGION]") when it is set, else the embedded one.

mod fixture;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fixture::{Fixture, key, put, read};
use xosfs::Kind;
use xosfs::config::credentials::Credentials;
use xosfs::key::Key;
use xosfs::s3::*;

fn bytes(text: &'static str) -> Payload {
    Bytes::from_static(text.as_bytes()).into()
}

/// Keys, prefixes and the number of pages.
async fn all(s3: &S3, prefix: &str, delimited: bool, max_keys: u16) -> (Vec<String>, Vec<String>, usize) {
    let (mut objects, mut prefixes, mut pages, mut from) = (Vec::new(), Vec::new(), 0, None);
    loop {
        let page = s3.list(&ListQuery { prefix, delimited, from, max_keys: Some(max_keys) }).await.unwrap();
        pages += 1;
        objects.extend(page.objects.into_iter().map(|o| o.key));
        prefixes.extend(page.prefixes);
        match page.next {
            Some(next) => from = Some(next),
            None => return (objects, prefixes, pages),
        }
    }
}

// XOS-OBJ-04, XOS-OBJ-19
#[tokio::test(flavor = "multi_thread")]
async fn an_object_comes_back_with_its_bytes_and_attributes() {
    let f = Fixture::new("attributes").await;
    let object = NewObject {
        headers: Headers {
            content_type: Some("text/x-test".into()),
            cache_control: Some("no-cache".into()),
            content_disposition: Some("attachment; filename=\"a b.txt\"".into()),
            content_language: Some("de".into()),
            metadata: BTreeMap::from([
                ("mode".into(), "33188".into()),
                ("name".into(), "é漢 50% ".into()),
                ("mark".into(), "%%41".into()),
            ]),
            ..Headers::default()
        },
        ..NewObject::default()
    };
    let pieces = Payload(vec![Bytes::from_static(b"hel"), Bytes::new(), Bytes::from_static(b"lo")]);
    let stored = f.s3.put(&key("a"), pieces, &object, &Condition::None).await.unwrap();
    let meta = f.s3.head(&key("a"), None).await.unwrap();
    assert_eq!((meta.size, &meta.etag), (5, &stored.etag));
    assert_eq!(meta.etag.as_str(), "5d41402abc4b2a76b9719d911017c592");
    assert_eq!(meta.headers, object.headers);
    let age = SystemTime::now().duration_since(meta.last_modified.unwrap()).unwrap_or_default();
    assert!(age < Duration::from_secs(600));
    assert_eq!(read(&f.s3, "a", None).await, "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_object_has_no_range() {
    let f = Fixture::new("empty").await;
    put(&f.s3, "e", "").await;
    assert_eq!(f.s3.head(&key("e"), None).await.unwrap().size, 0);
    assert_eq!(read(&f.s3, "e", None).await, "");
    match f.s3.get(&key("e"), Some(0..100), None, None).await {
        Ok(got) => assert_eq!(got.range, 0..0),
        Err(e) => assert_eq!(e.kind(), Kind::Range),
    }
}

// XOS-OBJ-10
#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_exact_and_clipped() {
    let f = Fixture::new("ranges").await;
    let stored = put(&f.s3, "r", "0123456789").await;
    for (asked, expected, text) in
        [(0..4, 0..4, "0123"), (3..7, 3..7, "3456"), (8..100, 8..10, "89"), (0..10, 0..10, "0123456789")]
    {
        let got = f.s3.get(&key("r"), Some(asked), Some(&stored.etag), None).await.unwrap();
        assert_eq!((got.range.clone(), got.meta.size), (expected, 10));
        assert_eq!(got.body.collect().await.unwrap(), text);
    }
    let e = f.s3.get(&key("r"), Some(10..20), None, None).await.err().unwrap();
    assert_eq!(e.kind(), Kind::Range);
    let other = ETag::new("00000000000000000000000000000000");
    let e = f.s3.get(&key("r"), Some(0..4), Some(&other), None).await.err().unwrap();
    assert_eq!(e.kind(), Kind::Stale);
    let e = f.s3.get(&key("none"), None, None, None).await.err().unwrap();
    assert_eq!(e.kind(), Kind::NotFound);
    assert_eq!(f.s3.head(&key("none"), None).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_odd_key_is_stored_listed_read_and_deleted() {
    let f = Fixture::new("odd").await;
    let odd = [
        "a//b",
        "/abs",
        "dir/",
        "dir2/",
        "sp ace",
        "plus+",
        "per%cent",
        "%2F",
        "?#&=",
        "back\\slash",
        "q<>&\"'",
        "é漢😀",
        "e\u{301}",
        "new\nline\ttab",
        "*:|",
        "~!@$^`[]{}(),;",
        "a",
        "a/b",
        "...",
        "trailing ",
        " leading",
    ];
    for name in odd {
        put(&f.s3, name, name).await;
    }
    let mut expected: Vec<_> = odd.iter().map(|s| (*s).to_owned()).collect();
    expected.sort();
    assert_eq!(all(&f.s3, "", false, 1000).await.0, expected);
    for name in odd {
        assert_eq!(read(&f.s3, name, None).await, name, "{name:?}");
    }
    let keys: Vec<Key> = odd.iter().map(|s| key(s)).collect();
    assert_eq!(f.s3.delete_many(&keys).await.unwrap().len(), 0);
    assert_eq!(all(&f.s3, "", false, 1000).await.0, Vec::<String>::new());
}

// XOS-OBJ-01, XOS-OBJ-02
#[tokio::test(flavor = "multi_thread")]
async fn listings_page_in_both_versions() {
    let f = Fixture::new("paging").await;
    for i in 0..7 {
        put(&f.s3, &format!("d/f{i}"), "x").await;
        put(&f.s3, &format!("d/s{i}/x"), "x").await;
    }
    put(&f.s3, "d/", "").await;
    put(&f.s3, "e", "x").await;
    for version in [ListVersion::Auto, ListVersion::V1, ListVersion::V2] {
        let s3 = f.client(|s| s.list_version = version);
        let (objects, prefixes, pages) = all(&s3, "d/", true, 4).await;
        assert_eq!(objects, ["d/", "d/f0", "d/f1", "d/f2", "d/f3", "d/f4", "d/f5", "d/f6"], "{version:?}");
        assert_eq!(prefixes, ["d/s0/", "d/s1/", "d/s2/", "d/s3/", "d/s4/", "d/s5/", "d/s6/"]);
        assert!(pages >= 4);
        assert_eq!(all(&s3, "", false, 5).await.0.len(), 16);
        let from = Some(Continue::After("d/s5/x".into()));
        let page = s3.list(&ListQuery { prefix: "", delimited: false, from, max_keys: None }).await.unwrap();
        let keys: Vec<_> = page.objects.iter().map(|o| o.key.as_str()).collect();
        assert_eq!((keys.as_slice(), page.next), (&["d/s6/x", "e"][..], None));
    }
    let page = f.s3.list(&ListQuery { prefix: "e", ..ListQuery::default() }).await.unwrap();
    assert_eq!(page.objects[0].size, 1);
    assert_eq!(page.objects[0].etag, Some(f.s3.head(&key("e"), None).await.unwrap().etag));
    assert!(page.objects[0].last_modified.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn conditional_puts_tell_exists_and_conflict() {
    let f = Fixture::new("conditions").await;
    let new = NewObject::default();
    let first = f.s3.put(&key("c"), bytes("1"), &new, &Condition::Absent).await.unwrap();
    let e = f.s3.put(&key("c"), bytes("2"), &new, &Condition::Absent).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Exists);
    // Twice: the second time with what was learnt of the store.
    let second = f.s3.put(&key("c"), bytes("2"), &new, &Condition::Match(first.etag.clone())).await.unwrap();
    let third = f.s3.put(&key("c"), bytes("3"), &new, &Condition::Match(second.etag)).await.unwrap();
    let e = f.s3.put(&key("c"), bytes("4"), &new, &Condition::Match(first.etag)).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict);
    assert_eq!(f.s3.head(&key("c"), None).await.unwrap().etag, third.etag);
}

// XOS-OBJ-11
#[tokio::test(flavor = "multi_thread")]
async fn copies_keep_or_replace_attributes() {
    let f = Fixture::new("copies").await;
    let mut object = NewObject::default();
    object.headers.content_type = Some("text/plain".into());
    object.headers.metadata.insert("a".into(), "1".into());
    let stored = f.s3.put(&key("s ü+"), bytes("text"), &object, &Condition::None).await.unwrap();
    let id = ObjectId { key: key("s ü+"), etag: stored.etag.clone(), version: None };
    let keep = Directive::Keep { storage_class: None, acl: None };
    let copied = f.s3.copy(&Source::of(&id), &key("t"), &keep, &Condition::None).await.unwrap();
    let meta = f.s3.head(&key("t"), None).await.unwrap();
    assert_eq!((&meta.etag, &meta.headers), (&copied.etag, &object.headers));
    let mut other = NewObject::default();
    other.headers.content_type = Some("text/csv".into());
    other.headers.metadata.insert("b".into(), "2".into());
    let replace = Directive::Replace { object: other.clone(), tags: false };
    f.s3.copy(&Source::of(&id), &id.key, &replace, &Condition::None).await.unwrap();
    assert_eq!(f.s3.head(&id.key, None).await.unwrap().headers, other.headers);
    assert_eq!(read(&f.s3, "s ü+", None).await, "text");
    let gone = Source { bucket: None, key: key("gone"), version: None, if_match: None };
    assert_eq!(f.s3.copy(&gone, &key("u"), &keep, &Condition::None).await.unwrap_err().kind(), Kind::NotFound);
    // Ceph 16 ignores the condition on the source.
    if f.is_embedded() {
        let stale = Source { if_match: Some(ETag::new("0123")), ..Source::of(&id) };
        assert_eq!(f.s3.copy(&stale, &key("u"), &keep, &Condition::None).await.unwrap_err().kind(), Kind::Stale);
    }
}

// XOS-OBJ-15, XOS-OBJ-16, XOS-OBJ-17
#[tokio::test(flavor = "multi_thread")]
async fn deletes_of_missing_keys_succeed_and_batches_are_split() {
    let f = Fixture::new("deletes").await;
    f.s3.delete(&key("none"), None).await.unwrap();
    put(&f.s3, "x", "1").await;
    let mut keys: Vec<Key> = (0..1500).map(|i| key(&format!("n{i}"))).collect();
    keys.push(key("x"));
    keys.push(key("control\u{1}"));
    let before = f.s3.stats();
    assert_eq!(f.s3.delete_many(&keys).await.unwrap().len(), 0);
    let after = f.s3.stats();
    let sent = |name: &str| after.by_operation.get(name).unwrap_or(&0) - before.by_operation.get(name).unwrap_or(&0);
    assert_eq!((sent("DeleteObjects"), sent("DeleteObject")), (2, 1));
    assert_eq!(f.s3.head(&key("x"), None).await.unwrap_err().kind(), Kind::NotFound);
}

// XOS-MPU-01, XOS-MPU-02, XOS-MPU-04 to XOS-MPU-07
#[tokio::test(flavor = "multi_thread")]
async fn multipart_uploads_of_data_and_copies() {
    let f = Fixture::new("multipart").await;
    let part: Bytes = (0..5 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>().into();
    let base = f.s3.put(&key("base"), part.clone().into(), &NewObject::default(), &Condition::None).await.unwrap();
    let mut object = NewObject::default();
    object.headers.content_type = Some("video/mp4".into());
    let k = key("m/ü");
    let upload = f.s3.create_upload(&k, &object).await.unwrap();
    let listed = f.s3.list_uploads("m/").await.unwrap();
    assert_eq!((listed.len(), listed[0].key.as_str(), listed[0].id.as_str()), (1, "m/ü", upload.as_str()));
    let one = f.s3.upload_part(&k, &upload, 1, part.clone().into()).await.unwrap();
    let id = ObjectId { key: key("base"), etag: base.etag, version: None };
    let size = part.len() as u64;
    let two = f.s3.copy_part(&k, &upload, 2, &Source::of(&id), Some(0..size), size).await.unwrap();
    let three = f.s3.upload_part(&k, &upload, 3, bytes("tail")).await.unwrap();
    let parts = vec![one, two, three];
    assert_eq!(f.s3.list_parts(&k, &upload).await.unwrap(), parts);
    let stored = f.s3.complete_upload(&k, &upload, &parts, &Condition::None).await.unwrap();
    assert!(stored.etag.as_str().ends_with("-3"), "{}", stored.etag);
    let got = f.s3.get(&k, Some(2 * size - 2..2 * size + 4), Some(&stored.etag), None).await.unwrap();
    assert_eq!((got.meta.size, got.meta.headers.content_type.as_deref()), (2 * size + 4, Some("video/mp4")));
    let tail = got.body.collect().await.unwrap();
    assert_eq!(tail[..2], part[part.len() - 2..]);
    assert_eq!(&tail[2..], b"tail");
    // Another key: Ceph answers a repeated completion of the very same parts with success.
    let k = key("m/gone");
    let gone = f.s3.create_upload(&k, &object).await.unwrap();
    f.s3.abort_upload(&k, &gone).await.unwrap();
    f.s3.abort_upload(&k, &gone).await.unwrap();
    let e = f.s3.upload_part(&k, &gone, 1, bytes("x")).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Stale);
    let e = f.s3.complete_upload(&k, &gone, &parts, &Condition::None).await.unwrap_err();
    // Ceph calls it "already in progress", for ever.
    assert!(e.kind() == Kind::Stale || (!f.is_embedded() && e.kind() == Kind::Unavailable), "{e}");
    assert!(f.s3.list_uploads("").await.unwrap().is_empty());
}

// XOS-ACL-01 to XOS-ACL-03
#[tokio::test(flavor = "multi_thread")]
async fn access_lists_of_objects_and_buckets() {
    let f = Fixture::new("acls").await;
    put(&f.s3, "a", "x").await;
    let k = key("a");
    assert_eq!(canned_name(&f.s3.object_acl(&k, None).await.unwrap()), Some("private"));
    for name in ["public-read", "public-read-write", "authenticated-read", "private"] {
        f.s3.set_object_acl(&k, None, &AclChange::Canned(name.into())).await.unwrap();
        assert_eq!(canned_name(&f.s3.object_acl(&k, None).await.unwrap()), Some(name));
    }
    let mut acl = f.s3.object_acl(&k, None).await.unwrap();
    acl.grants.push(Grant {
        grantee: Grantee::Group("http://acs.amazonaws.com/groups/global/AllUsers".into()),
        permission: "READ".into(),
        delivered: None,
    });
    f.s3.set_object_acl(&k, None, &AclChange::Full(acl)).await.unwrap();
    assert_eq!(canned_name(&f.s3.object_acl(&k, None).await.unwrap()), Some("public-read"));
    let anonymous = f.client(|s| s.credentials = Credentials::anonymous());
    assert_eq!(read(&anonymous, "a", None).await, "x");
    let e = anonymous.list(&ListQuery::default()).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Denied);
    assert!(e.to_string().contains("s3:ListBucket"), "{e}");
    f.s3.set_bucket_acl(&AclChange::Canned("public-read".into())).await.unwrap();
    assert_eq!(canned_name(&f.s3.bucket_acl().await.unwrap()), Some("public-read"));
    assert_eq!(anonymous.list(&ListQuery::default()).await.unwrap().objects.len(), 1);
}

// XOS-TAG-01, XOS-TAG-02, XOS-TAG-03, XOS-TAG-05, XOS-TAG-08
#[tokio::test(flavor = "multi_thread")]
async fn tags_are_replaced_as_a_whole() {
    let f = Fixture::new("tags").await;
    let tags = vec![("k 1".to_owned(), "a+b=c".to_owned()), ("ü".to_owned(), String::new())];
    let object = NewObject { tags: tags.clone(), ..NewObject::default() };
    let k = key("t");
    f.s3.put(&k, bytes("x"), &object, &Condition::None).await.unwrap();
    let sorted = |mut t: Vec<(String, String)>| {
        t.sort();
        t
    };
    assert_eq!(sorted(f.s3.tags(&k, None).await.unwrap()), sorted(tags));
    let other = vec![("only <&>".to_owned(), "1".to_owned())];
    f.s3.set_tags(&k, None, &other).await.unwrap();
    assert_eq!(f.s3.tags(&k, None).await.unwrap(), other);
    f.s3.delete_tags(&k, None).await.unwrap();
    assert!(f.s3.tags(&k, None).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_are_made_found_and_removed() {
    let f = Fixture::new("buckets").await;
    f.s3.head_bucket().await.unwrap();
    assert!(f.s3.list_buckets().await.unwrap().iter().any(|b| b.name == f.s3.bucket() && b.created.is_some()));
    f.s3.location().await.unwrap();
    let other = f.s3.for_bucket(&format!("{}-none", f.s3.bucket()));
    let e = other.head_bucket().await.unwrap_err();
    assert_eq!(e.kind(), Kind::NoBucket, "{e}");
    assert_eq!(other.list(&ListQuery::default()).await.unwrap_err().kind(), Kind::NoBucket);
    put(&f.s3, "x", "1").await;
    assert_eq!(f.s3.delete_bucket().await.unwrap_err().kind(), Kind::NotEmpty);
    other.create_bucket(None, Some("private")).await.unwrap();
    other.head_bucket().await.unwrap();
    other.delete_bucket().await.unwrap();
    assert_eq!(other.head_bucket().await.unwrap_err().kind(), Kind::NoBucket);
}

#[tokio::test(flavor = "multi_thread")]
async fn signature_v2_works_for_every_kind_of_request() {
    let f = Fixture::new("sigv2").await;
    let s3 = f.client(|s| s.signature = Signature::V2);
    let mut object = NewObject::default();
    object.headers.metadata.insert("mode".into(), "33188".into());
    s3.put(&key("a b+ü"), bytes("text"), &object, &Condition::None).await.unwrap();
    assert_eq!(read(&s3, "a b+ü", None).await, "text");
    assert_eq!(all(&s3, "a", true, 10).await.0, ["a b+ü"]);
    s3.set_object_acl(&key("a b+ü"), None, &AclChange::Canned("public-read".into())).await.unwrap();
    let upload = s3.create_upload(&key("u"), &object).await.unwrap();
    let part = s3.upload_part(&key("u"), &upload, 1, bytes("x")).await.unwrap();
    s3.complete_upload(&key("u"), &upload, &[part], &Condition::None).await.unwrap();
    assert_eq!(s3.delete_many(&[key("a b+ü"), key("u")]).await.unwrap().len(), 0);
    s3.list_buckets().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_are_refused_with_advice() {
    let f = Fixture::new("wrong-keys").await;
    let s3 = f.client(|s| s.credentials = Credentials::fixed(f.keys.access_key.as_str(), "wrong", None));
    let e = s3.list(&ListQuery::default()).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Denied);
    assert!(e.fix().is_some() && !e.to_string().contains("X-Amz"), "{e}");
    let s3 = f.client(|s| s.credentials = Credentials::fixed("UNKNOWNACCESSKEY0000", "wrong", None));
    assert_eq!(s3.head_bucket().await.unwrap_err().kind(), Kind::Denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_endpoints_are_named_as_such() {
    let settings = |endpoint: &str| Settings {
        endpoint: Some(endpoint.into()),
        bucket: "bucket".into(),
        retries: 1,
        op_timeout: Duration::from_secs(5),
        ..Settings::default()
    };
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let e = S3::new(settings(&format!("http://127.0.0.1:{port}"))).unwrap().head_bucket().await.unwrap_err();
    assert_eq!(e.kind(), Kind::Unavailable);
    assert!(e.to_string().contains("nothing listens"), "{e}");
    assert_eq!(e.reply().unwrap().attempts, 2);
    let e = S3::new(settings("http://no-such-host.invalid")).unwrap().head_bucket().await.unwrap_err();
    assert!(e.to_string().contains("DNS"), "{e}");
    let f = Fixture::new("tls").await;
    let https = f.endpoint().replace("http://", "https://");
    let e = S3::new(settings(&https)).unwrap().head_bucket().await.unwrap_err();
    assert!(e.to_string().contains("http://"), "{e}");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_stream_in_parallel_and_lookups_pass_them() {
    let f = Fixture::new("large").await;
    let s3 = f.client(|s| s.max_requests = 4);
    let data: Bytes = (0..8 << 20).map(|i: u32| (i >> 7) as u8).collect::<Vec<_>>().into();
    let stored = s3.put(&key("big"), data.clone().into(), &NewObject::default(), &Condition::None).await.unwrap();
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(s3.get(&key("big"), None, Some(&stored.etag), None).await.unwrap());
    }
    // All bulk permits are taken by bodies nobody reads.
    tokio::time::timeout(Duration::from_secs(5), s3.head(&key("big"), None)).await.unwrap().unwrap();
    for got in open {
        assert_eq!(got.body.collect().await.unwrap(), data);
    }
    assert!(s3.stats().bytes_in >= 3 * (8 << 20) && s3.stats().bytes_out >= 8 << 20);
}

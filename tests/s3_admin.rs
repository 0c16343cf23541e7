//! Administration through the client: versions, bucket documents, presigned URLs and forms, sessions of a role. Runs
//! against the server in `XOSFS_TEST_S3` ("ENDPOINT ACCESS_KEY SECRET_KEY [REGION]") when it is set, else against the
//! embedded one. `XOSFS_TEST_ROLE` names a role that these keys may take; without it, the one that
//! `tests/servers/radosgw-up` makes.
//!
//! What a server cannot do is said where it is skipped: Ceph 16 has no restore from archives, no website, encryption
//! and logging configuration, and its sessions cannot be ended from outside. `tests/servers/*-unfit` has the reasons by
//! test. `XOSFS_TEST_SERVER_NAME` is `moto` for that one, whatever else is taken for Ceph.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use xosfs::Kind;
use xosfs::config::credentials::{Credentials, Keys};
use xosfs::config::{Options as MountOptions, Source as MountSource};
use xosfs::demo::{Action, Options, Rule, Server};
use xosfs::key::Key;
use xosfs::policy::SessionPolicy;
use xosfs::s3::*;

struct Fixture {
    s3: S3,
    settings: Settings,
    keys: Keys,
    role: String,
    /// The embedded one, kept running.
    server: Option<Server>,
}

impl Fixture {
    async fn new(name: &str) -> Fixture {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (endpoint, access_key, secret_key, region, role, server) = match std::env::var("XOSFS_TEST_S3") {
            Ok(given) => {
                let words: Vec<_> = given.split_whitespace().map(str::to_owned).collect();
                let role = std::env::var("XOSFS_TEST_ROLE").unwrap_or_else(|_| "arn:aws:iam:::role/S3Access".into());
                let region = words.get(3).cloned().unwrap_or_else(|| "us-east-1".into());
                (words[0].clone(), words[1].clone(), words[2].clone(), region, role, None)
            }
            Err(_) => {
                let server = Server::start(Options::default()).await.unwrap();
                let keys = server.keys();
                let role = xosfs::demo::ROLE.to_owned();
                (server.endpoint(), keys.access_key, keys.secret_key, "us-east-1".into(), role, Some(server))
            }
        };
        let unique = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let settings = Settings {
            endpoint: Some(endpoint),
            region,
            bucket: format!("xosfs-{name}-{unique}"),
            credentials: Credentials::fixed(access_key.as_str(), secret_key.as_str(), None),
            ..Settings::default()
        };
        let s3 = S3::new(settings.clone()).unwrap();
        s3.create_bucket(None, None).await.unwrap();
        Fixture { s3, settings, keys: Keys { access_key, secret_key, token: None }, role, server }
    }

    /// Another client of the same bucket.
    fn client(&self, change: impl FnOnce(&mut Settings)) -> S3 {
        let mut settings = self.settings.clone();
        change(&mut settings);
        S3::new(settings).unwrap()
    }

    fn endpoint(&self) -> &str {
        self.settings.endpoint.as_deref().unwrap()
    }

    fn sts(&self, change: impl FnOnce(&mut StsSettings)) -> Sts {
        let mut settings = StsSettings::new(self.endpoint(), self.settings.region.as_str());
        change(&mut settings);
        Sts::new(settings).unwrap()
    }

    /// A client whose keys are sessions of the role.
    fn in_role(&self) -> S3 {
        let base = self.settings.credentials.clone();
        let request = AssumeRole::new(self.role.as_str(), "test-1");
        let credentials = role_credentials(base, self.sts(|_| ()), request).unwrap();
        self.client(|s| s.credentials = credentials)
    }
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

async fn put(s3: &S3, name: &str, text: &'static str) -> Stored {
    let payload = Bytes::from_static(text.as_bytes()).into();
    s3.put(&key(name), payload, &NewObject::default(), &Condition::None).await.unwrap()
}

async fn read(s3: &S3, name: &str, version: Option<&str>) -> Bytes {
    s3.get(&key(name), None, None, version).await.unwrap().body.collect().await.unwrap()
}

fn versions_of_page(page: &VersionPage) -> Vec<(String, bool)> {
    page.versions.iter().map(|v| (v.key.clone(), v.deleted)).collect()
}

// XOS-OBJ-20, XOS-OBJ-21, XOS-VER-01, XOS-VER-02, XOS-VER-04, CON-07
#[tokio::test(flavor = "multi_thread")]
async fn versions_are_listed_read_restored_and_undeleted() {
    let f = Fixture::new("versions").await;
    assert_eq!(f.s3.versioning().await.unwrap(), Versioning::Off);
    f.s3.set_versioning(Versioning::Enabled).await.unwrap();
    assert_eq!(f.s3.versioning().await.unwrap(), Versioning::Enabled);
    let first = {
        let object = NewObject {
            headers: Headers {
                content_type: Some("text/x-old".into()),
                metadata: [("mode".to_owned(), "33188".to_owned())].into(),
                ..Headers::default()
            },
            tags: vec![("k".into(), "v 1".into())],
            ..NewObject::default()
        };
        f.s3.put(&key("d/a b+c"), Bytes::from_static(b"one").into(), &object, &Condition::None).await.unwrap()
    };
    put(&f.s3, "d/a b+c", "two").await;
    f.s3.delete(&key("d/a b+c"), None).await.unwrap();
    f.s3.delete(&key("d/a b+c"), None).await.unwrap();
    put(&f.s3, "d/a b+c2", "other").await;
    put(&f.s3, "z", "z").await;

    // Page by page, cut inside one key.
    let (mut seen, mut pages, mut from) = (Vec::new(), 0, None);
    loop {
        let query = VersionQuery { max_keys: Some(2), from: from.take(), ..VersionQuery::default() };
        let page = f.s3.list_versions(&query).await.unwrap();
        seen.extend(versions_of_page(&page));
        pages += 1;
        match page.next {
            Some(next) => from = Some(next),
            None => break,
        }
    }
    let name = |n: &str, deleted| (n.to_owned(), deleted);
    let mut markers_first = seen.clone();
    // Two markers and two versions of one key: pages may mix them, but none is missing or doubled.
    markers_first.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    // Ceph adds no second marker to a deleted object.
    let is_ceph = f.server.is_none() && std::env::var("XOSFS_TEST_SERVER_NAME").as_deref() != Ok("moto");
    let markers = if is_ceph { 1 } else { 2 };
    let mut expected = vec![name("d/a b+c", true); markers];
    expected.extend([name("d/a b+c", false), name("d/a b+c", false), name("d/a b+c2", false), name("z", false)]);
    assert_eq!(markers_first, expected);
    assert_eq!(pages, 3);
    let query = VersionQuery { delimited: true, ..VersionQuery::default() };
    let page = f.s3.list_versions(&query).await.unwrap();
    assert_eq!(
        (page.prefixes, versions_of_page(&VersionPage { versions: page.versions, ..Default::default() })),
        (vec!["d/".to_owned()], vec![name("z", false)])
    );

    let versions = f.s3.versions_of(&key("d/a b+c")).await.unwrap();
    let shape: Vec<_> = versions.iter().map(|v| (v.deleted, v.latest, v.size)).collect();
    assert_eq!(shape[0], (true, true, 0));
    assert_eq!(shape[markers..], [(false, false, 3), (false, false, 3)]);
    let oldest = &versions[markers + 1];
    assert_eq!((Some(&oldest.version), oldest.etag.as_ref()), (first.version.as_ref(), Some(&first.etag)));
    assert_eq!(&read(&f.s3, "d/a b+c", Some(&oldest.version)).await[..], b"one");
    assert_eq!(f.s3.head(&key("d/a b+c"), None).await.unwrap_err().kind(), Kind::NotFound);

    assert_eq!(f.s3.undelete(&key("d/a b+c")).await.unwrap(), markers);
    assert_eq!(&read(&f.s3, "d/a b+c", None).await[..], b"two");
    assert_eq!(f.s3.undelete(&key("d/a b+c")).await.unwrap(), 0);
    assert_eq!(f.s3.undelete(&key("nothing")).await.unwrap_err().kind(), Kind::NotFound);

    let change = AclChange::Canned("public-read".into());
    f.s3.set_object_acl(&key("d/a b+c"), first.version.as_deref(), &change).await.unwrap();
    f.s3.restore_version(&key("d/a b+c"), first.version.as_deref().unwrap()).await.unwrap();
    let meta = f.s3.head(&key("d/a b+c"), None).await.unwrap();
    assert_eq!(meta.headers.content_type.as_deref(), Some("text/x-old"));
    assert_eq!(meta.headers.metadata["mode"], "33188");
    assert_eq!(f.s3.tags(&key("d/a b+c"), None).await.unwrap(), [("k".to_owned(), "v 1".to_owned())]);
    assert_eq!(canned_name(&f.s3.object_acl(&key("d/a b+c"), None).await.unwrap()), Some("public-read"));
    assert_eq!(&read(&f.s3, "d/a b+c", None).await[..], b"one");
    assert_eq!(f.s3.versions_of(&key("d/a b+c")).await.unwrap().len(), 3);

    f.s3.delete_version(&key("z"), &f.s3.versions_of(&key("z")).await.unwrap()[0].version).await.unwrap();
    assert!(f.s3.versions_of(&key("z")).await.unwrap().is_empty());
    let error = f.s3.restore_version(&key("d/a b+c"), "0000000000000000").await.unwrap_err();
    assert!(matches!(error.kind(), Kind::NotFound | Kind::Invalid), "{error}");
}

// XOS-VER-03
#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_bucket_writes_the_null_version() {
    let f = Fixture::new("suspended").await;
    f.s3.set_versioning(Versioning::Enabled).await.unwrap();
    put(&f.s3, "k", "one").await;
    f.s3.set_versioning(Versioning::Suspended).await.unwrap();
    assert_eq!(f.s3.versioning().await.unwrap(), Versioning::Suspended);
    put(&f.s3, "k", "two").await;
    put(&f.s3, "k", "three").await;
    let versions = f.s3.versions_of(&key("k")).await.unwrap();
    assert_eq!(versions.len(), 2);
    assert_eq!((&*versions[0].version, versions[0].latest), ("null", true));
    assert_eq!(&read(&f.s3, "k", Some("null")).await[..], b"three");
    assert_eq!(f.s3.set_versioning(Versioning::Off).await.unwrap_err().kind(), Kind::Invalid);
}

// XOS-TAG-01, XOS-TAG-02, XOS-TAG-03, CON-27, OBS-ACL-12, POL-ACT-36
#[tokio::test(flavor = "multi_thread")]
async fn tags_and_acl_belong_to_a_version() {
    let f = Fixture::new("version-tags").await;
    f.s3.set_versioning(Versioning::Enabled).await.unwrap();
    let old = put(&f.s3, "k", "one").await.version.unwrap();
    put(&f.s3, "k", "two").await;
    let tags = [("a".to_owned(), "1".to_owned()), ("A".to_owned(), "é=&".to_owned())];
    f.s3.set_tags(&key("k"), Some(&old), &tags).await.unwrap();
    let mut found = f.s3.tags(&key("k"), Some(&old)).await.unwrap();
    found.sort();
    assert_eq!(found, [tags[1].clone(), tags[0].clone()]);
    assert!(f.s3.tags(&key("k"), None).await.unwrap().is_empty());
    f.s3.set_object_acl(&key("k"), Some(&old), &AclChange::Canned("public-read".into())).await.unwrap();
    assert_eq!(canned_name(&f.s3.object_acl(&key("k"), Some(&old)).await.unwrap()), Some("public-read"));
    assert_eq!(canned_name(&f.s3.object_acl(&key("k"), None).await.unwrap()), Some("private"));
    f.s3.delete_tags(&key("k"), Some(&old)).await.unwrap();
    assert!(f.s3.tags(&key("k"), Some(&old)).await.unwrap().is_empty());
}

// XOS-BKT-01, XOS-BKT-02, XOS-BKT-03, XOS-BKT-04, XOS-BKT-08, CON-25
#[tokio::test(flavor = "multi_thread")]
async fn buckets_are_made_seen_and_removed() {
    let f = Fixture::new("buckets").await;
    let other = f.s3.for_bucket(&format!("{}-2", f.s3.bucket()));
    assert_eq!(other.stat_bucket().await.unwrap_err().kind(), Kind::NoBucket);
    other.create_bucket(None, Some("public-read")).await.unwrap();
    other.stat_bucket().await.unwrap();
    assert_eq!(canned_name(&other.bucket_acl().await.unwrap()), Some("public-read"));
    assert!(f.s3.list_buckets().await.unwrap().iter().any(|b| b.name == other.bucket()));
    assert!(other.bucket_json(Document::Location).await.unwrap()["LocationConstraint"].is_string());
    put(&other, "k", "x").await;
    assert_eq!(other.delete_bucket().await.unwrap_err().kind(), Kind::NotEmpty);
    other.delete(&key("k"), None).await.unwrap();
    other.delete_bucket().await.unwrap();
    assert_eq!(other.head_bucket().await.unwrap_err().kind(), Kind::NoBucket);
    let bad = f.s3.for_bucket("Not_A_Name").create_bucket(None, None).await.unwrap_err();
    assert_eq!(bad.kind(), Kind::Invalid);
}

/// The settings of a bucket there and back, by either signature.
async fn documents(s3: &S3) {
    for document in [Document::Lifecycle, Document::Cors, Document::Policy, Document::Tagging] {
        let error = s3.bucket_document(document).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NoAttribute, "{document:?}: {error}");
        s3.delete_bucket_document(document).await.unwrap();
    }
    // XOS-LC-01, XOS-LC-09, XOS-LC-12
    let lifecycle = Lifecycle {
        rules: vec![
            LifecycleRule {
                id: Some("TestOnly".into()),
                status: "Enabled".into(),
                filter: Some(LifecycleFilter { prefix: Some("documents/".into()), ..LifecycleFilter::default() }),
                expiration: Some(Expiration { days: Some(3650), ..Expiration::default() }),
                transitions: vec![Transition { days: Some(365), storage_class: "GLACIER".into(), date: None }],
                abort_incomplete_multipart_upload: Some(AbortUploads { days_after_initiation: Some(123) }),
                ..LifecycleRule::default()
            },
            LifecycleRule {
                id: Some("old".into()),
                status: "Disabled".into(),
                filter: Some(LifecycleFilter { prefix: Some("old/".into()), ..LifecycleFilter::default() }),
                noncurrent_version_expiration: Some(NoncurrentExpiration {
                    noncurrent_days: Some(30),
                    ..NoncurrentExpiration::default()
                }),
                ..LifecycleRule::default()
            },
        ],
    };
    s3.set_lifecycle(&lifecycle).await.unwrap();
    let mut found = s3.lifecycle().await.unwrap();
    // Ceph sorts rules by id and moves a lone prefix out of its filter.
    found.rules.sort_by(|a, b| b.status.cmp(&a.status));
    for rule in &mut found.rules {
        if let Some(prefix) = rule.prefix.take_if(|_| rule.filter.as_ref().is_none_or(|f| f.prefix.is_none())) {
            rule.filter = Some(LifecycleFilter { prefix: Some(prefix), ..LifecycleFilter::default() });
        }
    }
    assert_eq!(found, lifecycle);
    s3.delete_bucket_document(Document::Lifecycle).await.unwrap();
    assert_eq!(s3.lifecycle().await.unwrap_err().kind(), Kind::NoAttribute);

    // XOS-COR-01, XOS-COR-03, XOS-COR-04
    let words = |w: &[&str]| w.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let cors = Cors {
        rules: vec![CorsRule {
            id: None,
            allowed_origins: words(&["http://example.com:8080"]),
            allowed_methods: words(&["DELETE", "GET", "HEAD", "POST", "PUT"]),
            allowed_headers: words(&["*"]),
            expose_headers: words(&["ETag"]),
            max_age_seconds: Some(3600),
        }],
    };
    s3.set_cors(&cors).await.unwrap();
    let mut found = s3.cors().await.unwrap();
    found.rules[0].allowed_methods.sort();
    found.rules[0].id = None;
    assert_eq!(found, cors);
    s3.delete_bucket_document(Document::Cors).await.unwrap();
    assert_eq!(s3.cors().await.unwrap_err().kind(), Kind::NoAttribute);

    // XOS-POL-01, XOS-POL-14, XOS-POL-15, XOS-POL-17, CON-01, CON-14
    let policy = json!({"Version": "2012-10-17", "Id": "p", "Statement": [{"Sid": "123", "Effect": "Allow",
        "Principal": {"AWS": ["*"]}, "Action": ["s3:PutObject", "s3:GetObject"],
        "Resource": [format!("arn:aws:s3:::{}/*", s3.bucket())]}]});
    s3.set_bucket_document(Document::Policy, &policy.to_string()).await.unwrap();
    assert_eq!(s3.bucket_json(Document::Policy).await.unwrap(), policy);
    s3.delete_bucket_document(Document::Policy).await.unwrap();
    assert_eq!(s3.bucket_document(Document::Policy).await.unwrap_err().kind(), Kind::NoAttribute);
    let wrong = policy.to_string().replace("Allow", "Maybe");
    let error = s3.set_bucket_document(Document::Policy, &wrong).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");

    // POL-ACT-31, POL-ACT-48
    let tags = [("k".to_owned(), "v".to_owned())];
    s3.set_bucket_tags(&tags).await.unwrap();
    assert_eq!(s3.bucket_tags().await.unwrap(), tags);
    s3.set_bucket_tags(&[]).await.unwrap();
    assert!(s3.bucket_tags().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn bucket_documents_go_there_and_back() {
    documents(&Fixture::new("documents").await.s3).await;
}

// XOS-INI-02: what a signature of version 2 covers differs by store.
#[tokio::test(flavor = "multi_thread")]
async fn administration_works_with_the_old_signature() {
    let f = Fixture::new("documents-v2").await;
    let s3 = f.client(|s| s.signature = Signature::V2);
    documents(&s3).await;
    s3.set_versioning(Versioning::Enabled).await.unwrap();
    put(&s3, "k", "one").await;
    s3.set_tags(&key("k"), None, &[("a".into(), "b".into())]).await.unwrap();
    assert_eq!(s3.tags(&key("k"), None).await.unwrap().len(), 1);
    let versions = s3.versions_of(&key("k")).await.unwrap();
    assert_eq!(&read(&s3, "k", Some(&versions[0].version)).await[..], b"one");
}

// POL-GEN-14. Not on Ceph 16, which has none of these.
#[tokio::test(flavor = "multi_thread")]
async fn the_other_documents_are_kept_as_they_are() {
    let f = Fixture::new("others").await;
    let Some(server) = &f.server else { return };
    for (document, text) in [
        (Document::Website, json!({"IndexDocument": {"Suffix": "index.html"}})),
        (Document::Encryption, json!({"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]})),
        (Document::Logging, json!({"LoggingEnabled": {"TargetBucket": "logs", "TargetPrefix": "l/"}})),
        (
            Document::Notification,
            json!({"TopicConfigurations": [{"Id": "t", "TopicArn": "arn:x", "Events": ["s3:ObjectCreated:*"]}]}),
        ),
        (Document::Replication, json!({"Role": "r", "Rules": [{"Status": "Enabled", "Destination": {"Bucket": "b"}}]})),
        (Document::RequestPayment, json!({"Payer": "Requester"})),
        (Document::Accelerate, json!({"Status": "Suspended"})),
        (Document::PublicAccessBlock, json!({"BlockPublicAcls": true, "RestrictPublicBuckets": false})),
        (Document::OwnershipControls, json!({"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]})),
        (Document::ObjectLock, json!({"ObjectLockEnabled": "Enabled"})),
    ] {
        // Not set: an empty document, or an error that says so.
        match f.s3.bucket_json(document).await {
            Ok(value) => assert!(value.as_object().is_some_and(|o| !o.contains_key("Status")), "{document:?}: {value}"),
            Err(e) => assert_eq!(e.kind(), Kind::NoAttribute, "{document:?}: {e}"),
        }
        f.s3.set_bucket_document(document, &text.to_string()).await.unwrap();
        assert_eq!(f.s3.bucket_json(document).await.unwrap(), text, "{document:?}");
        match f.s3.delete_bucket_document(document).await {
            Ok(()) => assert!(document.can_delete()),
            Err(e) => assert!(!document.can_delete() && e.kind() == Kind::Invalid, "{e}"),
        }
    }
    // A document that got damaged on its way is refused: its digest goes with it.
    let second = server.second_user();
    let foreign = f.client(|s| s.credentials = Credentials::fixed(second.access_key, second.secret_key, None));
    assert_eq!(foreign.bucket_document(Document::Website).await.unwrap_err().kind(), Kind::Denied);
    assert_eq!(server.counts()["PutBucketWebsite"], 1);
}

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

// POL-ACT-22, CON-52. Not on Ceph 16, which has no archive.
#[tokio::test(flavor = "multi_thread")]
async fn archived_objects_are_restored() {
    let f = Fixture::new("archive").await;
    let Some(server) = &f.server else { return };
    for signature in [Signature::V4, Signature::V2] {
        let s3 = f.client(|s| s.signature = signature);
        let object = NewObject { storage_class: Some("GLACIER".into()), ..NewObject::default() };
        s3.put(&key("k"), Bytes::from_static(b"cold").into(), &object, &Condition::None).await.unwrap();
        assert_eq!(s3.get(&key("k"), None, None, None).await.err().unwrap().kind(), Kind::Archived);
        assert_eq!(s3.restore_object(&key("k"), None, 0, None).await.unwrap_err().kind(), Kind::Invalid);
        server.knobs().set(|b| b.restore_delay = Duration::from_secs(3600));
        assert_eq!(s3.restore_object(&key("k"), None, 3, Some("Standard")).await.unwrap(), Restoring::Started);
        assert_eq!(s3.restore_object(&key("k"), None, 3, None).await.unwrap_err().kind(), Kind::InProgress);
        s3.put(&key("k"), Bytes::from_static(b"cold").into(), &object, &Condition::None).await.unwrap();
        server.knobs().set(|b| b.restore_delay = Duration::ZERO);
        assert_eq!(s3.restore_object(&key("k"), None, 3, None).await.unwrap(), Restoring::Started);
        assert_eq!(&read(&s3, "k", None).await[..], b"cold");
        assert_eq!(s3.restore_object(&key("k"), None, 4, None).await.unwrap(), Restoring::Extended);
        put(&s3, "warm", "x").await;
        assert_eq!(s3.restore_object(&key("warm"), None, 3, None).await.unwrap_err().kind(), Kind::Invalid);
    }
}

// XOS-STS-04, XOS-STS-09, XOS-STS-10, STS-JS-02
#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_taken_and_its_session_used() {
    let f = Fixture::new("sts").await;
    let request = AssumeRole {
        duration: Duration::from_secs(900),
        policy: Some(SessionPolicy::ReadWrite.json(f.s3.bucket(), "")),
        ..AssumeRole::new(f.role.as_str(), "test-1")
    };
    let session = f.sts(|_| ()).assume_role(&f.keys, &request).await.unwrap();
    let life = session.lifetime.unwrap().as_secs();
    assert!((890..=900).contains(&life), "{life}");
    let with = |keys: &Keys| {
        f.client(|s| {
            s.credentials = Credentials::fixed(keys.access_key.as_str(), keys.secret_key.as_str(), keys.token.clone())
        })
    };
    for signature in [Signature::V4, Signature::V2] {
        let credentials = Credentials::fixed(
            session.keys.access_key.as_str(),
            session.keys.secret_key.as_str(),
            session.keys.token.clone(),
        );
        let s3 = f.client(|s| {
            s.credentials = credentials;
            s.signature = signature;
        });
        put(&s3, "k", "hello").await;
        assert_eq!(&read(&s3, "k", None).await[..], b"hello");
    }
    let without = with(&Keys { token: None, ..session.keys.clone() });
    let error = without.list(&ListQuery::default()).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Denied | Kind::Invalid), "{error}");
    let unknown = AssumeRole::new("arn:aws:iam:::role/no-such-role", "test-1");
    let error = f.sts(|_| ()).assume_role(&f.keys, &unknown).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    let wrong = Keys { secret_key: "wrong".into(), ..f.keys.clone() };
    let error = f.sts(|_| ()).assume_role(&wrong, &request).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    // What is checked here is not sent.
    let bad = AssumeRole { duration: Duration::from_secs(1), ..request };
    assert_eq!(f.sts(|_| ()).assume_role(&f.keys, &bad).await.unwrap_err().kind(), Kind::Invalid);
    if let Some(server) = &f.server {
        assert_eq!(server.counts()["AssumeRole"], 3);
    }
}

// XOS-STS-12, XOS-STS-14. Not on the embedded server, which ignores policies.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_policy_narrows_the_role() {
    let f = Fixture::new("sts-policy").await;
    if f.server.is_some() {
        return;
    }
    put(&f.s3, "in/k", "hello").await;
    put(&f.s3, "out", "secret").await;
    let request = AssumeRole {
        policy: Some(SessionPolicy::ReadOnly.json(f.s3.bucket(), "in/")),
        ..AssumeRole::new(f.role.as_str(), "test-1")
    };
    let base = f.settings.credentials.clone();
    let credentials = role_credentials(base, f.sts(|_| ()), request).unwrap();
    let s3 = f.client(|s| s.credentials = credentials);
    assert_eq!(&read(&s3, "in/k", None).await[..], b"hello");
    assert_eq!(s3.get(&key("out"), None, None, None).await.err().unwrap().kind(), Kind::Denied);
    let denied = s3.put(&key("in/new"), Bytes::new().into(), &NewObject::default(), &Condition::None).await;
    assert_eq!(denied.unwrap_err().kind(), Kind::Denied);
}

// CON-09. Not on Ceph, which takes any region.
#[tokio::test(flavor = "multi_thread")]
async fn the_other_spelling_of_the_region_is_tried_once() {
    let f = Fixture::new("sts-region").await;
    let Some(server) = &f.server else { return };
    server.knobs().set(|b| b.sts_region = Some("cn".into()));
    let sts = f.sts(|s| {
        s.region = "ctyun".into();
        s.other_region = Some("cn".into());
    });
    let request = AssumeRole::new(f.role.as_str(), "test-1");
    sts.assume_role(&f.keys, &request).await.unwrap();
    sts.assume_role(&f.keys, &request).await.unwrap();
    assert_eq!(server.counts()["AssumeRole"], 3);
    let stubborn = f.sts(|s| s.region = "ctyun".into());
    assert_eq!(stubborn.assume_role(&f.keys, &request).await.unwrap_err().kind(), Kind::Denied);
}

// XOS-STS-10. Not on Ceph, whose sessions cannot be ended from outside.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_early_is_renewed_without_an_error() {
    let f = Fixture::new("sts-early").await;
    let Some(server) = &f.server else { return };
    for denied in [false, true] {
        server.knobs().set(|b| b.expired_is_denied = denied);
        server.clear_log();
        let s3 = f.in_role();
        put(&s3, "k", "hello").await;
        assert_eq!(server.counts()["AssumeRole"], 1);
        server.end_sessions();
        // Twenty requests at once, among them ones whose answers carry no code.
        let reads = (0..20).map(|i| {
            let s3 = s3.clone();
            async move {
                match i % 2 {
                    0 => s3.head(&key("k"), None).await.unwrap().size,
                    _ => read(&s3, "k", None).await.len() as u64,
                }
            }
        });
        assert_eq!(futures_util::future::join_all(reads).await, [5; 20]);
        assert_eq!(server.counts()["AssumeRole"], 2);
    }
}

// Not on Ceph, which has no faults to order.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_forbidden_does_not_ask_for_a_session_each_time() {
    let f = Fixture::new("sts-denied").await;
    let Some(server) = &f.server else { return };
    server.knobs().fail(Rule::new("PutObject", Action::Status(403, "AccessDenied".into())).always());
    let s3 = f.in_role();
    for _ in 0..10 {
        let denied = s3.put(&key("k"), Bytes::new().into(), &NewObject::default(), &Condition::None).await;
        assert_eq!(denied.unwrap_err().kind(), Kind::Denied);
    }
    assert_eq!(server.counts()["AssumeRole"], 2);
    // The first one is tried with two sessions, the others once.
    assert_eq!(server.counts()["PutObject"], 11);
}

// Not on Ceph: a session of at least 15 minutes is too long to wait for.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_renewed_before_they_end() {
    let f = Fixture::new("sts-renew").await;
    let Some(server) = &f.server else { return };
    server.knobs().set(|b| b.session_lifetime = Some(Duration::from_secs(3)));
    let s3 = f.in_role();
    put(&s3, "k", "hello").await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while server.counts()["AssumeRole"] < 3 {
        assert!(Instant::now() < deadline, "no renewal");
        assert_eq!(&read(&s3, "k", None).await[..], b"hello");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

// XOS-STS-02, CON-12: as a mount is set up.
#[tokio::test(flavor = "multi_thread")]
async fn a_mount_takes_the_role_that_its_options_name() {
    let f = Fixture::new("sts-mount").await;
    let text = format!(
        "endpoint={},region={},role_arn={},role_policy=read-write,role_duration=15m,sts_region={}",
        f.endpoint(),
        f.settings.region,
        f.role,
        f.settings.region
    );
    let options = MountOptions::load(&[text], false, &|_| None).unwrap();
    let source: MountSource = f.s3.bucket().parse().unwrap();
    let keys = f.keys.clone();
    let env = move |name: &str| match name {
        "AWS_ACCESS_KEY_ID" => Some(keys.access_key.clone()),
        "AWS_SECRET_ACCESS_KEY" => Some(keys.secret_key.clone()),
        _ => None,
    };
    let settings = xosfs::daemon::connect::settings(&options, &source, &env).unwrap();
    let credentials = settings.credentials.clone();
    let s3 = S3::new(settings).unwrap();
    put(&s3, "k", "hello").await;
    assert_eq!(&read(&s3, "k", None).await[..], b"hello");
    let held = credentials.keys().unwrap();
    assert!(held.token.is_some() && held.access_key != f.keys.access_key);
    assert!(credentials.source().contains(&f.role));
}

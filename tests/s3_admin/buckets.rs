//! Buckets and their documents.

use serde_json::json;
use xosfs::Kind;
use xosfs::config::credentials::Credentials;
use xosfs::s3::*;

use super::fixture::{Fixture, key, put, read};

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

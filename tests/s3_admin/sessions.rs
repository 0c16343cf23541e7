//! Sessions of a role.

use std::time::{Duration, Instant};

use bytes::Bytes;
use xosfs::Kind;
use xosfs::config::credentials::{Credentials, Keys};
use xosfs::config::{Options as MountOptions, Source as MountSource};
use xosfs::demo::{Action, Rule};
use xosfs::policy::SessionPolicy;
use xosfs::s3::*;

use super::fixture::{Fixture, key, put, read};

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

//! Administration through the client: versions, bucket documents, presigned URLs and forms, sessions of a role. Runs
//! against the server in `XOSFS_TEST_S3` ("ENDPOINT ACCESS_KEY SECRET_KEY [REGION]") when it is set, else against the
//! embedded one. `XOSFS_TEST_ROLE` names a role that these keys may take; without it, the one that
//! `tests/servers/radosgw-up` makes.
//!
//! What a server cannot do is said where it is skipped: Ceph 16 has no restore from archives, no website, encryption
//! and logging configuration, and its sessions cannot be ended from outside. `tests/servers/*-unfit` has the reasons by
//! test. `XOSFS_TEST_SERVER_NAME` is `moto` for that one, whatever else is taken for Ceph.

mod buckets;
mod presigned;
mod sessions;
mod versions;

use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use xosfs::config::credentials::{Credentials, Keys};
use xosfs::demo::{Options, Server};
use xosfs::key::Key;
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

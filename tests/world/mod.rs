//! A store in this process and a write engine on it, for tests below the file system.

// Every test takes what it needs.
#![allow(dead_code)]

pub mod array;
#[path = "../common/noise.rs"]
mod noise;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use xosfs::budget::Budget;
use xosfs::cache::BlockCache;
use xosfs::config::credentials::Credentials;
use xosfs::demo::{Options, Server};
use xosfs::key::Key;
use xosfs::read::{Object, ReadSettings, Reads};
use xosfs::s3::{Condition, NewObject, S3, Settings};
use xosfs::write::{Limits, WriteSettings, Writer, Writes};

pub const BUCKET: &str = "bucket";
pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
/// A page of the overlay and a block of the cache.
pub const PAGE: u64 = 128 * KIB;

pub struct World {
    pub server: Server,
    pub s3: S3,
    pub io: Arc<Writes>,
    pub budget: Arc<Budget>,
}

/// Small enough to meet every limit with a few megabytes.
pub fn small() -> WriteSettings {
    WriteSettings {
        limits: Limits {
            min_part: 64 * KIB,
            max_part: 4 * MIB,
            max_parts: 50,
            part_size: PAGE,
            max_object: 64 * MIB,
            single_put: 200 * KIB,
            ..Limits::default()
        },
        stream_after: 3 * PAGE,
        max_uploads: 3,
        memory_per_file: 512 << 10,
        patience: Duration::from_secs(20),
        ..WriteSettings::default()
    }
}

/// `memory` in bytes.
pub async fn world(memory: usize, settings: WriteSettings) -> World {
    let server = Server::start(Options { buckets: vec![BUCKET.into()], ..Options::default() }).await.unwrap();
    server.knobs().set(|b| b.min_part = settings.limits.min_part);
    let keys = server.keys();
    let s3 = S3::new(Settings {
        endpoint: Some(server.endpoint()),
        bucket: BUCKET.into(),
        credentials: Credentials::fixed(keys.access_key, keys.secret_key, None),
        // Faults are to be seen, not retried.
        retries: 0,
        ..Settings::default()
    })
    .unwrap();
    let budget = Budget::new(memory);
    let reads = Reads::new(s3.clone(), BlockCache::new(budget.clone()), ReadSettings::default());
    let io = Writes::new(s3.clone(), reads, budget.clone(), settings);
    World { server, s3, io, budget }
}

pub fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

/// `len` bytes that differ with `seed`.
pub fn pattern(seed: u64, len: u64) -> Vec<u8> {
    noise::noise(seed, len as usize)
}

impl World {
    pub fn create(&self, name: &str) -> Arc<Writer> {
        Writer::new(self.io.clone(), key(name), None, NewObject::default(), Condition::None)
    }

    /// The version that is stored now.
    pub async fn object(&self, name: &str) -> Object {
        Object::of(&key(name), &self.s3.head(&key(name), None).await.unwrap())
    }

    pub async fn open(&self, name: &str) -> Arc<Writer> {
        let object = self.object(name).await;
        Writer::new(self.io.clone(), key(name), Some(object), NewObject::default(), Condition::None)
    }

    pub fn stored(&self, name: &str) -> Option<Bytes> {
        self.server.store().get(BUCKET, name)
    }

    pub fn count(&self, operation: &str) -> usize {
        self.server.log().iter().filter(|r| r.operation == operation).count()
    }

    /// Body bytes that the server received since the log was cleared.
    pub fn received(&self) -> u64 {
        self.server.log().iter().map(|r| r.bytes_in).sum()
    }

    /// No upload, no memory is left behind once every writer is gone.
    pub async fn is_clean(&self) {
        assert!(self.io.drain(Duration::from_secs(20)).await);
        assert_eq!(self.io.memory(), 0);
        assert_eq!(self.server.store().uploads(BUCKET), vec![]);
    }
}

/// All of it, through the writer.
pub async fn whole(w: &Writer) -> Vec<u8> {
    let mut out = Vec::new();
    while (out.len() as u64) < w.size() {
        let piece = w.read(out.len() as u64, 1 << 20).await.unwrap();
        assert!(!piece.is_empty());
        out.extend_from_slice(&piece);
    }
    out
}

//! The disk cache: it saves requests, survives a restart, keeps to its bounds, and whatever happens to its disk, reads
//! have the right bytes.
#![cfg(feature = "demo")]

#[path = "../common/mod.rs"]
mod common;

mod damage;
mod files;
mod many;
mod room;
mod through;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use xosfs::budget::Budget;
use xosfs::cache::disk::{DiskCache, DiskSettings, DiskStats};
use xosfs::cache::{BLOCK, BlockCache};
use xosfs::config::credentials::Credentials;
use xosfs::demo::{self, Options, Server};
use xosfs::key::Key;
use xosfs::read::{Object, ReadSettings, Reads};
use xosfs::s3::{S3, Settings};

const MIB: u64 = 1 << 20;
const BUCKET: &str = "bucket";
/// What a disk that failed is left alone for.
const RETRY: Duration = Duration::from_millis(200);
const SOON: Duration = Duration::from_secs(30);

/// A store, and a directory for caches.
struct World {
    server: Server,
    s3: S3,
    temp: tempfile::TempDir,
}

/// One daemon's side: memory is short, so that what is read again comes from the disk.
struct Side {
    reads: Arc<Reads>,
    disk: Arc<DiskCache>,
}

async fn world() -> World {
    let server = Server::start(Options { buckets: vec![BUCKET.into()], ..Options::default() }).await.unwrap();
    let keys = server.keys();
    let s3 = S3::new(Settings {
        endpoint: Some(server.endpoint()),
        bucket: BUCKET.into(),
        credentials: Credentials::fixed(keys.access_key, keys.secret_key, None),
        ..Settings::default()
    })
    .unwrap();
    World { server, s3, temp: common::temp_dir() }
}

impl World {
    fn dir(&self) -> PathBuf {
        self.temp.path().join("cache")
    }

    fn settings(&self) -> DiskSettings {
        DiskSettings {
            dir: self.dir(),
            store: "store".into(),
            size: 1 << 30,
            free: 0,
            // All that a test reads at once: what does not fit is not kept, and counts are exact.
            queue: 256 << 20,
            retry: RETRY,
        }
    }

    fn side(&self) -> Side {
        self.side_with(self.settings())
    }

    fn side_with(&self, settings: DiskSettings) -> Side {
        let budget = Budget::new(256 << 20);
        let disk = DiskCache::start(settings, budget.clone()).unwrap();
        let read = ReadSettings { disk: Some(disk.clone()), ..ReadSettings::default() };
        Side { reads: Reads::new(self.s3.clone(), BlockCache::new(budget), read), disk }
    }

    /// An object whose bytes follow from its key.
    async fn synthetic(&self, key: &str, size: u64) -> Object {
        self.server.store().put_synthetic(BUCKET, key, size);
        self.object(key).await
    }

    async fn object(&self, key: &str) -> Object {
        let key = Key::new(key).unwrap();
        let object = Object::of(&key, &self.s3.head(&key, None).await.unwrap());
        self.server.clear_log();
        object
    }

    /// Blocks that the store has sent since the log was cleared.
    fn fetched(&self) -> u64 {
        let log = self.server.log();
        let bytes: u64 = log.iter().filter(|r| r.operation == "GetObject").map(|r| r.bytes_out).sum();
        self.server.clear_log();
        bytes.div_ceil(BLOCK as u64)
    }
}

impl Side {
    /// Reads all of an object through a handle of its own, and compares it with what it has to be.
    async fn read(&self, object: &Object) {
        let reader = self.reads.reader(object.clone());
        let mut at = 0;
        while at < object.size {
            let end = (at + MIB).min(object.size);
            let data = match reader.read_cached(at, MIB as usize) {
                Some(data) => data,
                None => reader.read(at, MIB as usize).await.unwrap(),
            };
            assert!(data == demo::synthetic(object.id.key.as_str(), at..end), "bytes {at}..{end} of {}", object.id.key);
            at = end;
        }
    }

    /// As [`Side::read`], of a daemon that has nothing of it in memory.
    async fn read_anew(&self, object: &Object) {
        self.reads.cache().forget_key(&object.id.key);
        self.read(object).await;
    }

    /// Everything that was read is on the disk.
    async fn settle(&self) {
        let disk = self.disk.clone();
        assert!(tokio::task::spawn_blocking(move || disk.flush(SOON)).await.unwrap());
    }

    fn stats(&self) -> DiskStats {
        self.disk.stats()
    }
}

/// Files of objects below a cache directory, the sums too.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let found = walkdir::WalkDir::new(dir).into_iter().filter_map(Result::ok);
    found.filter(|e| e.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}

fn is_sums(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "sums")
}

/// The one file of bytes in a cache.
#[track_caller]
fn data_file(dir: &Path) -> PathBuf {
    let all: Vec<_> = files_below(dir).into_iter().filter(|p| !is_sums(p)).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}

/// Waits, without standing in the way of the runtime, until `check` holds.
async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + SOON;
    while !check() {
        assert!(tokio::time::Instant::now() < deadline, "not within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_survives_a_restart() {
    let world = world().await;
    let objects = [
        world.synthetic("large", 20 * MIB + 777).await,
        world.synthetic("block", BLOCK as u64).await,
        world.synthetic("small", 5).await,
    ];
    let side = world.side();
    for object in &objects {
        side.read(object).await;
    }
    assert!(world.fetched() >= 161);
    side.settle().await;
    assert_eq!((side.stats().dropped, side.stats().written), (0, 163));
    drop(side);

    let side = world.side();
    for object in &objects {
        side.read(object).await;
    }
    assert_eq!(world.fetched(), 0);
    let stats = side.stats();
    assert_eq!((stats.hits, stats.misses, stats.damaged), (163, 0, 0), "{stats:?}");
    assert_eq!(stats.trouble, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_is_another_file() {
    let world = world().await;
    let old = world.synthetic("k", 3 * MIB).await;
    let side = world.side();
    side.read(&old).await;
    side.settle().await;
    world.fetched();

    // As large, other bytes.
    let content = demo::synthetic("other", 0..3 * MIB);
    world.server.store().put(BUCKET, "k", content.clone());
    let new = world.object("k").await;
    assert_ne!(old.id, new.id);
    let data = side.reads.range(&new, 0..3 * MIB).await.unwrap();
    assert!(data == content);
    assert!(world.fetched() >= 24, "none of the old one's blocks were taken");

    // The store said that the old one is gone, and then its file goes, too.
    side.settle().await;
    assert_eq!(files_below(&world.dir()).len(), 4);
    side.reads.cache().forget_key(&old.id.key);
    std::fs::remove_dir_all(world.dir().join("objects-1")).unwrap();
    let gone = side.reads.reader(old).read(0, 10).await;
    // Its descriptor is open still: what is cached goes on being served.
    assert!(gone.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_share_a_directory_and_no_bytes() {
    let world = world().await;
    let object = world.synthetic("k", MIB).await;
    let side = world.side();
    side.read(&object).await;
    side.settle().await;
    world.fetched();
    let other = world.side_with(DiskSettings { store: "another".into(), ..world.settings() });
    other.read(&object).await;
    assert_eq!(world.fetched(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_share_a_directory() {
    let world = world().await;
    let mut objects = Vec::new();
    for n in 0..12 {
        objects.push(world.synthetic(&format!("k{n}"), (n % 4) * MIB + 100 * n + 1).await);
    }
    // So little room that both evict what the other one reads.
    let settings = DiskSettings { size: 6 * MIB, ..world.settings() };
    let sides = [world.side_with(settings.clone()), world.side_with(settings)];
    let sides = Arc::new(sides);
    let mut tasks = Vec::new();
    for n in 0..4usize {
        let (sides, objects) = (sides.clone(), objects.clone());
        tasks.push(tokio::spawn(async move {
            for turn in 0..24 {
                sides[n % 2].read_anew(&objects[(turn * 5 + n * 3) % objects.len()]).await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    for side in sides.iter() {
        side.settle().await;
        assert_eq!(side.stats().damaged, 0, "{:?}", side.stats());
    }

    // What one has read the other one finds.
    let object = world.synthetic("shared", MIB - 5).await;
    eventually_kept(&world, &sides[0], &object).await;
    let third = world.side();
    third.read(&object).await;
    assert_eq!(world.fetched(), 0);
}

/// Reads until the disk has it all.
/// A random reader that goes on and on, all over an object that fits on the disk and not into memory, gets all of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_all_over_is_brought_to_the_disk() {
    let w = world().await;
    let size = 160 * MIB;
    w.server.knobs().set(|b| b.latency = Duration::from_millis(20));
    let (side, object) = (w.side(), w.synthetic("k", size).await);
    let reader = side.reads.reader(object.clone());
    let mut x = 42_u64;
    let mut somewhere = async || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let at = (x >> 8) % (size / 4096) * 4096;
        let data = reader.read(at, 4096).await.unwrap();
        assert!(data == demo::synthetic("k", at..at + 4096), "bytes at {at}");
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while side.disk.stats().bytes < size {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", side.disk.stats());
        somewhere().await;
    }
    side.settle().await;
    w.server.clear_log();
    for _ in 0..500 {
        somewhere().await;
    }
    assert_eq!(w.fetched(), 0);
}

async fn eventually_kept(world: &World, side: &Side, object: &Object) {
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        side.read_anew(object).await;
        side.settle().await;
        if world.fetched() == 0 {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "not kept: {:?}", side.stats());
        tokio::time::sleep(RETRY).await;
    }
}

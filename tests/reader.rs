//! Readers against the embedded server: the right bytes, the right number of requests, bounded memory, and never a
//! byte of an answer that was not asked for.
#![cfg(feature = "demo")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use xosfs::Kind;
use xosfs::budget::Budget;
use xosfs::cache::{BLOCK, BlockCache};
use xosfs::config::credentials::Credentials;
use xosfs::demo::{self, Action, Options, Rule, Server};
use xosfs::key::Key;
use xosfs::read::{Object, ReadSettings, Reader, Reads};
use xosfs::s3::{S3, Settings};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const BUCKET: &str = "bucket";

struct Rig {
    server: Server,
    s3: S3,
    budget: Arc<Budget>,
    reads: Arc<Reads>,
}

impl Rig {
    async fn new(memory: u64) -> Rig {
        Rig::with(memory, ReadSettings::default(), Duration::from_secs(20)).await
    }

    async fn with(memory: u64, settings: ReadSettings, read_timeout: Duration) -> Rig {
        let server = Server::start(Options { buckets: vec![BUCKET.into()], ..Options::default() }).await.unwrap();
        let keys = server.keys();
        let s3 = S3::new(Settings {
            endpoint: Some(server.endpoint()),
            bucket: BUCKET.into(),
            credentials: Credentials::fixed(keys.access_key, keys.secret_key, None),
            read_timeout,
            ..Settings::default()
        })
        .unwrap();
        let budget = Budget::new(memory as usize);
        let cache = BlockCache::new(budget.clone());
        let reads = Reads::new(s3.clone(), cache, settings);
        Rig { server, s3, budget, reads }
    }

    async fn object(&self, key: &str) -> Object {
        let key = Key::new(key).unwrap();
        Object::of(&key, &self.s3.head(&key, None).await.unwrap())
    }

    async fn synthetic(&self, key: &str, size: u64) -> Object {
        self.server.store().put_synthetic(BUCKET, key, size);
        let object = self.object(key).await;
        self.server.clear_log();
        object
    }

    fn stored(&self, key: &str, bytes: &Bytes) {
        self.server.store().put(BUCKET, key, bytes.clone());
    }

    /// GETs since the log was cleared, and the bytes they delivered.
    fn gets(&self) -> (usize, u64) {
        let log = self.server.log();
        let gets = log.iter().filter(|r| r.operation == "GetObject");
        gets.fold((0, 0), |(n, bytes), r| (n + 1, bytes + r.bytes_out))
    }
}

/// As the file system does it: from memory on the spot, else by waiting.
async fn read(reader: &Reader, offset: u64, len: u64) -> xosfs::Result<Bytes> {
    match reader.read_cached(offset, len as usize) {
        Some(data) => Ok(data),
        None => reader.read(offset, len as usize).await,
    }
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

async fn read_all(reader: &Reader, key: &str, step: u64) -> xosfs::Result<()> {
    let size = reader.object().size;
    let mut at = 0;
    while at < size {
        let end = (at + step).min(size);
        let data = read(reader, at, step).await?;
        assert!(data == demo::synthetic(key, at..end), "bytes {at}..{end}");
        at = end;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn random_ranges_have_the_right_bytes() {
    let rig = Rig::new(16 * MIB).await;
    let size = 20 * MIB + 4321;
    let object = rig.synthetic("k", size).await;
    let readers: Vec<_> = (0..4u64)
        .map(|n| {
            let reader = rig.reads.reader(object.clone());
            tokio::spawn(async move {
                let mut x = 1 + n;
                for _ in 0..300 {
                    let offset = random(&mut x) % (size + 2 * BLOCK as u64);
                    let len = random(&mut x) % [100, 5000, BLOCK as u64, 3 * MIB][(random(&mut x) % 4) as usize];
                    let end = (offset + len).min(size);
                    let data = read(&reader, offset, len).await.unwrap();
                    let expected = if offset < end { demo::synthetic("k", offset..end) } else { Bytes::new() };
                    assert!(data == expected, "{offset}+{len}");
                }
            })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
    let part = rig.reads.range(&object, 5..19 * MIB).await.unwrap();
    assert!(part == demo::synthetic("k", 5..19 * MIB));
    assert!(rig.budget.used() <= rig.budget.limit());
}

/// Demand 20: a sequential reader makes few, large requests and fetches nothing twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_sequential_read_makes_few_requests() {
    for step in [128 * KIB, MIB, 4 * KIB + 1] {
        let rig = Rig::new(256 * MIB).await;
        let object = rig.synthetic("k", 64 * MIB).await;
        let reader = rig.reads.reader(object);
        read_all(&reader, "k", step).await.unwrap();
        let (gets, bytes) = rig.gets();
        assert!(gets <= 64 / 8 + 10, "{gets} GETs in steps of {step}");
        assert_eq!(bytes, 64 * MIB);
    }
}

/// How many requests a stream takes does not depend on the order in which the pieces of its reads arrive, nor on how
/// long the store takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_makes_the_same_requests_whatever_the_order_of_its_pieces() {
    for (seed, latency) in [(1, 0), (2, 0), (3, 10), (4, 0), (5, 30)] {
        let rig = Rig::new(256 * MIB).await;
        let object = rig.synthetic("k", 64 * MIB).await;
        rig.server.knobs().set(|b| b.latency = Duration::from_millis(latency));
        let reader = Arc::new(rig.reads.reader(object));
        let mut x = seed * 7919;
        // What the kernel has on its way at the same time: up to four requests of 128 KiB, in any order.
        let mut at = 0;
        while at < 64 * MIB {
            let mut pieces: Vec<u64> = (0..4).map(|n| at + n * 128 * KIB).collect();
            for n in (1..4).rev().filter(|_| at > 0) {
                pieces.swap(n, (random(&mut x) % (n as u64 + 1)) as usize);
            }
            let mut tasks = tokio::task::JoinSet::new();
            for offset in pieces {
                let reader = reader.clone();
                tasks.spawn(async move {
                    let data = read(&reader, offset, 128 * KIB).await.unwrap();
                    assert!(data == demo::synthetic("k", offset..offset + 128 * KIB));
                });
            }
            while let Some(done) = tasks.join_next().await {
                done.unwrap();
            }
            at += 512 * KIB;
        }
        let (gets, bytes) = rig.gets();
        assert_eq!(bytes, 64 * MIB);
        assert!(gets <= 64 / 8 + 4, "{gets} GETs with seed {seed} and {latency} ms");
    }
}

/// Demand 21: a random reader fetches its blocks and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn random_reads_are_not_amplified() {
    let rig = Rig::new(256 * MIB).await;
    let object = rig.synthetic("k", GIB).await;
    let reader = rig.reads.reader(object);
    let mut x = 42;
    let mut blocks = std::collections::HashSet::new();
    for _ in 0..200 {
        let offset = random(&mut x) % (GIB / 4096) * 4096;
        blocks.insert(offset / BLOCK as u64);
        let data = read(&reader, offset, 4096).await.unwrap();
        assert!(data == demo::synthetic("k", offset..offset + 4096));
    }
    let (gets, bytes) = rig.gets();
    assert_eq!(gets, blocks.len());
    assert!(bytes as f64 <= 200.0 * BLOCK as f64 * 1.1);
}

/// A random reader that goes on and on, all over an object that fits into memory, gets all of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_all_over_is_fetched_whole() {
    let rig = Rig::new(128 * MIB).await;
    let (size, blocks) = (48 * MIB, (48 * MIB / BLOCK as u64) as usize);
    rig.server.knobs().set(|b| b.latency = Duration::from_millis(20));
    let object = rig.synthetic("k", size).await;
    // As fio does it: every thread has a handle of its own.
    let readers = [rig.reads.reader(object.clone()), rig.reads.reader(object.clone())];
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut x = 42;
    let mut n = 0;
    while rig.reads.cache().stats().blocks < blocks {
        assert!(Instant::now() < deadline, "{:?} after {n} reads", rig.reads.cache().stats());
        let offset = random(&mut x) % (size / 4096) * 4096;
        let data = read(&readers[n % 2], offset, 4096).await.unwrap();
        assert!(data == demo::synthetic("k", offset..offset + 4096));
        n += 1;
    }
    let (gets, bytes) = rig.gets();
    assert_eq!(bytes, size, "no block twice");
    assert!(gets < blocks / 2, "{gets} GETs");
    // Too large for that.
    let large = rig.synthetic("large", 80 * MIB).await;
    let reader = rig.reads.reader(large);
    rig.server.knobs().set(|b| b.latency = Duration::ZERO);
    let mut different = std::collections::HashSet::new();
    for _ in 0..400 {
        let offset = random(&mut x) % (80 * MIB / 4096) * 4096;
        different.insert(offset / BLOCK as u64);
        read(&reader, offset, 4096).await.unwrap();
    }
    assert_eq!(rig.gets().0, different.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_file_costs_one_request() {
    let rig = Rig::new(64 * MIB).await;
    let small = Bytes::from(vec![7u8; 5000]);
    rig.stored("small", &small);
    rig.server.clear_log();
    let key = Key::new("small").unwrap();
    // Opened and read: the GET of the open is the only one.
    let meta = rig.reads.open_fresh(&key, None).await.unwrap();
    let reader = rig.reads.reader(Object::of(&key, &meta));
    assert_eq!(read(&reader, 0, 128 * KIB).await.unwrap(), small);
    assert_eq!(read(&reader, 4990, 4096).await.unwrap(), small.slice(4990..));
    assert_eq!(read(&reader, 5000, 4096).await.unwrap(), Bytes::new());
    assert_eq!(rig.server.log().len(), 1);
    // Known already: one GET for the whole of it, however it is read.
    let object = rig.synthetic("known", MIB).await;
    let reader = rig.reads.reader(object);
    read_all(&reader, "known", 16 * KIB).await.unwrap();
    assert_eq!(rig.server.log().len(), 1);
    // Opened again: it is only asked whether it is still the same.
    rig.server.clear_log();
    rig.reads.open_fresh(&key, None).await.unwrap();
    let log = rig.server.log();
    assert_eq!(log.iter().map(|r| r.operation).collect::<Vec<_>>(), ["HeadObject"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_object_is_read_without_a_request() {
    let rig = Rig::new(64 * MIB).await;
    rig.stored("empty", &Bytes::new());
    let key = Key::new("empty").unwrap();
    let meta = rig.reads.open_fresh(&key, None).await.unwrap();
    assert_eq!(meta.size, 0);
    rig.server.clear_log();
    let reader = rig.reads.reader(Object::of(&key, &meta));
    assert_eq!(read(&reader, 0, 4096).await.unwrap(), Bytes::new());
    assert_eq!(rig.reads.range(reader.object(), 0..10).await.unwrap(), Bytes::new());
    assert!(rig.server.log().is_empty());
    let missing = rig.reads.open_fresh(&Key::new("missing").unwrap(), None).await;
    assert_eq!(missing.unwrap_err().kind(), Kind::NotFound);
}

/// F8: a connection that dies in the middle of a body is no end of file.
#[tokio::test(flavor = "multi_thread")]
async fn cut_bodies_are_taken_up_where_they_ended() {
    let rig = Rig::new(64 * MIB).await;
    let object = rig.synthetic("k", 32 * MIB).await;
    let knobs = rig.server.knobs();
    for cut in [1000, 200_000, 777_777] {
        knobs.fail(Rule::new("GetObject", Action::CutBody(cut)).probability(0.2));
    }
    knobs.fail(Rule::new("GetObject", Action::CutBeforeAnswer).probability(0.1));
    read_all(&rig.reads.reader(object), "k", 256 * KIB).await.unwrap();
    assert!(knobs.hits() > 3, "{}", knobs.hits());
}

/// F7: what a store answers besides the data never becomes data.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_answers_are_errors_and_never_data() {
    let rig = Rig::new(64 * MIB).await;
    let object = rig.synthetic("k", 8 * MIB).await;
    let actions = [
        Action::WrongRange,
        Action::IgnoreRange,
        Action::ErrorIn200("InternalError".into()),
        Action::Status(403, "AccessDenied".into()),
        Action::CutBody(0),
    ];
    for action in actions {
        let reader = rig.reads.reader(object.clone());
        rig.server.knobs().fail(Rule::new("GetObject", action.clone()).always());
        let failed = read(&reader, 3 * MIB, 4096).await;
        assert!(failed.is_err(), "{action:?}");
        assert!(reader.read_cached(3 * MIB, 4096).is_none(), "{action:?}");
        // The failure is not remembered: the next try fetches.
        rig.server.knobs().clear_rules();
        let data = read(&reader, 3 * MIB, 4096).await.unwrap();
        assert!(data == demo::synthetic("k", 3 * MIB..3 * MIB + 4096), "{action:?}");
        rig.reads.cache().forget_key(&object.id.key);
    }
    // The last fetch may still be on its way out of its task.
    let deadline = Instant::now() + Duration::from_secs(2);
    while rig.budget.used() > 0 {
        assert!(Instant::now() < deadline, "{} bytes are never given back", rig.budget.used());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Demand 7, F9: one version from the first byte to the last, or Stale.
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_object_is_stale_for_good() {
    let rig = Rig::new(64 * MIB).await;
    let object = rig.synthetic("k", 16 * MIB).await;
    let reader = rig.reads.reader(object.clone());
    assert!(read(&reader, 0, 4096).await.unwrap() == demo::synthetic("k", 0..4096));
    let new = Bytes::from(vec![1u8; 100]);
    rig.stored("k", &new);
    assert_eq!(read(&reader, 8 * MIB, 4096).await.unwrap_err().kind(), Kind::Stale);
    // Also for what was in memory, without asking again.
    rig.server.clear_log();
    assert_eq!(read(&reader, 0, 4096).await.unwrap_err().kind(), Kind::Stale);
    assert!(rig.server.log().is_empty());
    // The next open sees the new version.
    let key = Key::new("k").unwrap();
    let meta = rig.reads.open_fresh(&key, None).await.unwrap();
    assert_eq!(read(&rig.reads.reader(Object::of(&key, &meta)), 0, 4096).await.unwrap(), new);
    // Deleted behind our back.
    let gone = rig.synthetic("gone", 4 * MIB).await;
    rig.server.store().delete(BUCKET, "gone");
    assert_eq!(read(&rig.reads.reader(gone), 0, 4096).await.unwrap_err().kind(), Kind::Stale);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_keeps_reading_its_version() {
    let rig = Rig::new(64 * MIB).await;
    rig.server.store().enable_versioning(BUCKET);
    let object = rig.synthetic("k", 4 * MIB).await;
    assert!(object.id.version.is_some());
    rig.stored("k", &Bytes::from_static(b"new"));
    read_all(&rig.reads.reader(object), "k", 128 * KIB).await.unwrap();
}

/// Demand 2: memory stays bounded while a stream far larger than it passes.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_larger_than_memory_stays_in_the_budget() {
    let rig = Rig::new(32 * MIB).await;
    let object = rig.synthetic("k", GIB).await;
    let budget = rig.budget.clone();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let watch = tokio::spawn(async move {
        let mut most = 0;
        while stopped.try_recv().is_err() {
            most = most.max(budget.used());
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        most
    });
    let reader = rig.reads.reader(object);
    let mut at = 0;
    while at < GIB {
        let data = read(&reader, at, MIB).await.unwrap();
        assert_eq!(data.len() as u64, MIB);
        if at % (64 * MIB) == 0 {
            assert!(data == demo::synthetic("k", at..at + MIB));
        }
        at += MIB;
    }
    let _ = stop.send(());
    let most = watch.await.unwrap();
    assert!(most <= 32 * MIB as usize, "{most}");
    let (gets, bytes) = rig.gets();
    assert_eq!(bytes, GIB, "{gets} GETs");
    assert!(gets <= 500, "{gets}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_leaves_little_behind() {
    let rig = Rig::new(512 * MIB).await;
    let object = rig.synthetic("large", 160 * MIB).await;
    let reader = rig.reads.reader(object.clone());
    let mut most = 0;
    for offset in (0..160 * MIB).step_by(MIB as usize) {
        assert_eq!(read(&reader, offset, MIB).await.unwrap().len() as u64, MIB);
        most = most.max(rig.budget.used() as u64);
    }
    assert!(most <= 80 * MIB, "{most}");
    let (gets, bytes) = rig.gets();
    assert!(gets <= 40 && bytes <= 161 * MIB, "{gets} gets, {bytes} bytes");
    // With a second reader on its way the bytes stay.
    let (first, second) = (rig.reads.reader(object.clone()), rig.reads.reader(object));
    for reader in [&first, &second] {
        for offset in (0..160 * MIB).step_by(MIB as usize) {
            assert_eq!(read(reader, offset, MIB).await.unwrap().len() as u64, MIB);
        }
    }
    assert!(rig.gets().1 - bytes <= 161 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_share_little_memory() {
    let rig = Rig::new(16 * MIB).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..16 {
        let key = format!("k{n}");
        let object = rig.synthetic(&key, 8 * MIB).await;
        let reader = rig.reads.reader(object);
        tasks.spawn(async move { read_all(&reader, &key, 128 * KIB).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap().unwrap();
    }
    assert!(rig.budget.used() <= rig.budget.limit());
    let (_, bytes) = rig.gets();
    assert!(bytes <= 16 * 8 * MIB * 3 / 2, "{} MiB fetched for 128", bytes / MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_one_object_share_its_requests() {
    let rig = Rig::new(256 * MIB).await;
    rig.server.knobs().set(|b| b.latency = Duration::from_millis(30));
    let object = rig.synthetic("k", 16 * MIB).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let reader = rig.reads.reader(object.clone());
        tasks.spawn(async move { read_all(&reader, "k", 128 * KIB).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap().unwrap();
    }
    let (gets, bytes) = rig.gets();
    assert!(bytes <= 17 * MIB, "{bytes}");
    assert!(gets <= 40, "{gets}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_reader_stops_reading_ahead() {
    let rig = Rig::new(256 * MIB).await;
    let object = rig.synthetic("k", GIB).await;
    let reader = rig.reads.reader(object.clone());
    for at in (0..32 * MIB).step_by(MIB as usize) {
        read(&reader, at, MIB).await.unwrap();
    }
    rig.server.knobs().set(|b| b.bytes_per_second = Some(100 * KIB));
    let other = rig.reads.reader(object);
    read(&reader, 32 * MIB, MIB).await.unwrap();
    drop(reader);
    let deadline = Instant::now() + Duration::from_secs(5);
    while rig.reads.cache().stats().pending > 0 {
        assert!(Instant::now() < deadline, "{:?}", rig.reads.cache().stats());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Whoever comes next is not left waiting for what was cancelled.
    rig.server.knobs().set(|b| b.bytes_per_second = None);
    let data = read(&other, 500 * MIB, 4096).await.unwrap();
    assert!(data == demo::synthetic("k", 500 * MIB..500 * MIB + 4096));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_ends_within_its_patience() {
    let settings = ReadSettings { patience: Duration::from_millis(300), ..ReadSettings::default() };
    let rig = Rig::with(64 * MIB, settings, Duration::from_secs(20)).await;
    let object = rig.synthetic("k", 8 * MIB).await;
    rig.server.knobs().fail(Rule::new("GetObject", Action::Stall(Duration::from_secs(10))).always());
    let start = Instant::now();
    let reader = rig.reads.reader(object.clone());
    assert_eq!(reader.read(0, 4096).await.unwrap_err().kind(), Kind::Timeout);
    assert_eq!(rig.reads.range(&object, 0..10).await.unwrap_err().kind(), Kind::Timeout);
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_get_their_block_before_the_request_is_done() {
    let rig = Rig::new(64 * MIB).await;
    let object = rig.synthetic("k", MIB).await;
    rig.server.knobs().set(|b| b.bytes_per_second = Some(512 * KIB));
    let start = Instant::now();
    let reader = rig.reads.reader(object);
    // One GET of 1 MiB takes two seconds; its first block is there long before.
    assert_eq!(reader.read(0, 4096).await.unwrap().len(), 4096);
    assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_we_wrote_is_read_back_without_a_request() {
    let rig = Rig::new(64 * MIB).await;
    let data: Bytes = (0..300_000u32).map(|n| (n % 251) as u8).collect::<Vec<_>>().into();
    rig.stored("k", &data);
    let object = rig.object("k").await;
    rig.server.clear_log();
    // Pieces that end inside a block keep the whole blocks only.
    rig.reads.remember(&object, 0, &data.slice(..200_000));
    assert_eq!(rig.reads.cache().stats().blocks, 1);
    rig.reads.remember(&object, 0, &data);
    let reader = rig.reads.reader(object);
    assert_eq!(reader.read_cached(0, 400_000).unwrap(), data);
    assert_eq!(reader.read_cached(131_000, 100).unwrap(), data.slice(131_000..131_100));
    assert!(rig.server.log().is_empty());
}

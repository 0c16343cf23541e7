//! The writer against a real server: what is stored is what was written, whatever fails on the way.
#![cfg(feature = "demo")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use xosfs::Kind;
use xosfs::budget::Budget;
use xosfs::cache::BlockCache;
use xosfs::config::credentials::Credentials;
use xosfs::demo::{Action, Options, Rule, Server};
use xosfs::key::Key;
use xosfs::read::{Object, ReadSettings, Reads};
use xosfs::s3::{Condition, NewObject, ObjectId, S3, Settings};
use xosfs::write::{Limits, OnConflict, WriteSettings, Writer, Writes};

const BUCKET: &str = "bucket";
const KIB: u64 = 1 << 10;
const PAGE: u64 = 128 * KIB;

struct World {
    server: Server,
    s3: S3,
    io: Arc<Writes>,
    budget: Arc<Budget>,
}

/// Small enough to meet every limit with a few megabytes.
fn small() -> WriteSettings {
    WriteSettings {
        limits: Limits {
            min_part: 64 * KIB,
            max_part: 4 << 20,
            max_parts: 50,
            part_size: PAGE,
            max_object: 64 << 20,
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

async fn world(memory: usize, settings: WriteSettings) -> World {
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

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

fn pattern(seed: u64, len: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 24) as u8
        })
        .collect()
}

impl World {
    fn create(&self, name: &str) -> Arc<Writer> {
        Writer::new(self.io.clone(), key(name), None, NewObject::default(), Condition::None)
    }

    async fn open(&self, name: &str) -> Arc<Writer> {
        let meta = self.s3.head(&key(name), None).await.unwrap();
        let object =
            Object { id: ObjectId { key: key(name), etag: meta.etag, version: meta.version }, size: meta.size };
        Writer::new(self.io.clone(), key(name), Some(object), NewObject::default(), Condition::None)
    }

    fn stored(&self, name: &str) -> Option<Bytes> {
        self.server.store().get(BUCKET, name)
    }

    fn count(&self, operation: &str) -> usize {
        self.server.log().iter().filter(|r| r.operation == operation).count()
    }

    /// No upload, no memory is left behind once every writer is gone.
    async fn is_clean(&self) {
        assert!(self.io.drain(Duration::from_secs(20)).await);
        assert_eq!(self.io.memory(), 0);
        assert_eq!(self.server.store().uploads(BUCKET), vec![]);
    }
}

async fn whole(w: &Writer) -> Vec<u8> {
    let mut out = Vec::new();
    while (out.len() as u64) < w.size() {
        let piece = w.read(out.len() as u64, 1 << 20).await.unwrap();
        assert!(!piece.is_empty());
        out.extend_from_slice(&piece);
    }
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_file_is_one_put_and_reading_it_back_costs_no_get() {
    let t = world(64 << 20, WriteSettings::default()).await;
    let w = t.create("a");
    assert!(w.is_dirty());
    assert_eq!(w.write_now(0, b"hello ").unwrap(), Some(()));
    assert_eq!(w.append(Bytes::from_static(b"world")).await.unwrap(), 6);
    assert_eq!(w.read_now(3, 100).unwrap(), "lo world");
    let c = w.commit().await.unwrap().unwrap();
    assert_eq!((c.object.size, w.is_dirty()), (11, false));
    assert!(w.commit().await.unwrap().is_none());
    assert_eq!(t.stored("a").unwrap(), "hello world");
    assert_eq!(w.read(0, 100).await.unwrap(), "hello world");
    assert_eq!((t.count("PutObject"), t.server.log().len()), (1, 1));
    drop(w);
    t.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_file_is_one_empty_put() {
    let t = world(64 << 20, small()).await;
    t.create("e").commit().await.unwrap().unwrap();
    assert_eq!(t.stored("e").unwrap().len(), 0);
    assert_eq!(t.server.log().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_change_of_a_large_object_is_copied_around() {
    let t = world(256 << 20, WriteSettings::default()).await;
    t.server.store().put_synthetic(BUCKET, "big", 10 << 30);
    let w = t.open("big").await;
    let at = (5u64 << 30) + 12345;
    w.write(at, Bytes::from(vec![9; 4096])).await.unwrap();
    t.server.clear_log();
    w.commit().await.unwrap().unwrap();
    let sent: u64 = t.server.log().iter().map(|r| r.bytes_in).sum();
    assert!(sent <= 16 << 20, "{sent} bytes sent");
    assert!(t.server.log().len() <= 60, "{} requests", t.server.log().len());
    let read = w.read(at - 10, 4116).await.unwrap();
    let mut expected = xosfs::demo::synthetic("big", at - 10..at + 4106).to_vec();
    expected[10..4106].fill(9);
    assert!(read == expected);
    drop(w);
    t.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_file_is_sent_while_it_is_written() {
    let t = world(8 << 20, small()).await;
    let w = t.create("s");
    let data = pattern(1, 30 * PAGE + 777);
    for (i, piece) in data.chunks(100_000).enumerate() {
        let at = i as u64 * 100_000;
        if w.write_now(at, piece).unwrap().is_none() {
            w.write(at, Bytes::copy_from_slice(piece)).await.unwrap();
        }
        assert!(t.io.memory() <= 4 << 20);
    }
    for _ in 0..200 {
        if t.count("UploadPart") > 10 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(t.count("UploadPart") > 10, "nothing was sent before the commit");
    assert_eq!(t.stored("s"), None);
    // The header is still here.
    w.write(5, Bytes::from_static(b"HEADER")).await.unwrap();
    w.commit().await.unwrap().unwrap();
    let mut expected = data.clone();
    expected[5..11].copy_from_slice(b"HEADER");
    assert!(t.stored("s").unwrap() == expected);
    assert!(whole(&w).await == expected);
    drop(w);
    t.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sent_bytes_can_be_read_and_changed() {
    let t = world(64 << 20, small()).await;
    for change in [true, false] {
        let w = t.create("s");
        let mut data = pattern(2, 12 * PAGE + 5);
        for (i, piece) in data.chunks(PAGE as usize).enumerate() {
            w.write(i as u64 * PAGE, Bytes::copy_from_slice(piece)).await.unwrap();
        }
        if change {
            w.write(4 * PAGE - 3, Bytes::from_static(b"middle")).await.unwrap();
            data[4 * PAGE as usize - 3..4 * PAGE as usize + 3].copy_from_slice(b"middle");
        }
        assert!(whole(&w).await == data);
        w.truncate(3 * PAGE + 1).await.unwrap();
        data.truncate(3 * PAGE as usize + 1);
        w.commit().await.unwrap();
        assert!(t.stored("s").unwrap() == data);
    }
    t.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_changed_while_sending_are_stored() {
    let t = world(64 << 20, small()).await;
    let w = t.create("s");
    let data = pattern(3, 10 * PAGE);
    w.write(0, Bytes::from(data.clone())).await.unwrap();
    assert!(w.edit_object(&mut |o| {
        o.headers.metadata.insert("mtime".into(), "17".into());
    }));
    w.commit().await.unwrap().unwrap();
    assert!(!w.is_dirty() && !w.edit_object(&mut |_| unreachable!("nothing is dirty")));
    let meta = t.s3.head(&key("s"), None).await.unwrap();
    assert_eq!(meta.headers.metadata.get("mtime").map(String::as_str), Some("17"));
    assert!(t.stored("s").unwrap() == data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_part_of_a_stream_is_reported_and_leaves_nothing() {
    let t = world(64 << 20, small()).await;
    t.server.store().put(BUCKET, "s", "old");
    t.server.knobs().fail(Rule::new("UploadPart", Action::Status(500, "InternalError".into())).nth(3).always());
    let w = t.create("s");
    let mut failed = None;
    for i in 0..200 {
        if let Err(e) = w.write(i * PAGE, Bytes::from(vec![1; PAGE as usize])).await {
            failed = Some(e);
            break;
        }
    }
    assert_eq!(failed.unwrap().kind(), Kind::Unavailable);
    assert!(w.failed().is_some());
    assert!(w.commit().await.is_err());
    assert_eq!(t.stored("s").unwrap(), "old");
    drop(w);
    t.is_clean().await;
}

/// F1, F3, F4, F6, F10: one request of a commit fails, each in its turn; the caller hears of it, the old object stays,
/// and the next commit stores the right bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_failing_request_of_a_commit_is_an_error_and_harms_nothing() {
    for streamed in [false, true] {
        for action in [Action::Status(500, "InternalError".into()), Action::Status(403, "AccessDenied".into())] {
            let mut nth = 1;
            loop {
                let t = world(64 << 20, small()).await;
                let old = pattern(4, 12 * PAGE + 100);
                t.server.store().put(BUCKET, "f", old.clone());
                let (w, mut model) =
                    if streamed { (t.create("f"), Vec::new()) } else { (t.open("f").await, old.clone()) };
                t.server.clear_log();
                t.server.knobs().fail(Rule::new("*", action.clone()).nth(nth));
                let mut refused = Vec::new();
                let changes = if streamed {
                    vec![(0, 9 * PAGE + 3)]
                } else {
                    vec![(10, 5000), (6 * PAGE, PAGE), (12 * PAGE, 300)]
                };
                for (i, (at, len)) in changes.into_iter().enumerate() {
                    let data = pattern(50 + i as u64, len);
                    for (j, piece) in data.chunks(PAGE as usize).enumerate() {
                        let at = at + j as u64 * PAGE;
                        let piece = Bytes::copy_from_slice(piece);
                        if w.write(at, piece.clone()).await.is_err() {
                            refused.push((at, piece));
                        }
                    }
                    model.resize(model.len().max((at + len) as usize), 0);
                    model[at as usize..(at + len) as usize].copy_from_slice(&data);
                }
                let committed = w.commit().await;
                if t.server.knobs().hits() == 0 {
                    assert!(nth > 3 && refused.is_empty() && committed.unwrap().is_some());
                    assert!(t.stored("f").unwrap() == model);
                    break;
                }
                let uncopied = t.server.log().iter().any(|r| r.operation == "UploadPartCopy" && r.status == 403);
                if committed.is_ok() && refused.is_empty() && (streamed || uncopied) {
                    // A part that failed while the file was written was sent again, one that may not be copied was sent.
                    assert!(t.stored("f").unwrap() == model);
                } else {
                    let kind = committed.expect_err("a failed request went unnoticed").kind();
                    assert!(w.failed().is_some() && matches!(kind, Kind::Unavailable | Kind::Denied), "{kind:?}");
                    assert!(t.stored("f").unwrap() == old, "request {nth} harmed the old object");
                    for (at, piece) in refused {
                        w.write(at, piece).await.unwrap();
                    }
                    assert!(whole(&w).await == model);
                    // Reading what was sent has stored it already.
                    assert!(w.commit().await.unwrap().is_some() || w.published().is_some());
                    assert!(w.failed().is_none() && t.stored("f").unwrap() == model);
                }
                drop(w);
                t.is_clean().await;
                nth += 1;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_during_a_commit_survive_its_success_and_its_failure() {
    for fail in [false, true] {
        let t = world(64 << 20, small()).await;
        let w = t.create("f");
        w.write(0, Bytes::from(vec![1; 1000])).await.unwrap();
        t.server.knobs().set(|b| b.latency = Duration::from_millis(300));
        if fail {
            t.server.knobs().fail(Rule::new("PutObject", Action::Status(500, "InternalError".into())));
        }
        let commit = tokio::spawn({
            let w = w.clone();
            async move { w.commit().await }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        w.write(500, Bytes::from(vec![2; 1000])).await.unwrap();
        w.truncate(1400).await.unwrap();
        assert_eq!(commit.await.unwrap().is_err(), fail);
        assert!(w.is_dirty());
        let mut model = vec![1; 500];
        model.resize(1400, 2);
        assert!(whole(&w).await == model);
        w.commit().await.unwrap().unwrap();
        assert!(t.stored("f").unwrap() == model);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_commits_are_one() {
    let t = world(64 << 20, small()).await;
    let w = t.create("f");
    w.write(0, Bytes::from_static(b"x")).await.unwrap();
    t.server.knobs().set(|b| b.latency = Duration::from_millis(100));
    let all: Vec<_> = (0..5)
        .map(|_| {
            tokio::spawn({
                let w = w.clone();
                async move { w.commit().await }
            })
        })
        .collect();
    for c in all {
        c.await.unwrap().unwrap();
    }
    assert_eq!(t.count("PutObject"), 1);
    // A failure is everybody's.
    w.write(0, Bytes::from_static(b"y")).await.unwrap();
    t.server.knobs().fail(Rule::new("PutObject", Action::Status(403, "AccessDenied".into())));
    let all: Vec<_> = (0..5)
        .map(|_| {
            tokio::spawn({
                let w = w.clone();
                async move { w.commit().await }
            })
        })
        .collect();
    for c in all {
        assert_eq!(c.await.unwrap().unwrap_err().kind(), Kind::Denied);
    }
    assert_eq!(t.count("PutObject"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicts_are_told_where_asked_for() {
    for conditional_puts in [true, false] {
        let t = world(64 << 20, WriteSettings { on_conflict: OnConflict::Fail, conditional_puts, ..small() }).await;
        t.server.knobs().set(|b| b.no_conditional_put = !conditional_puts);
        t.server.store().put(BUCKET, "f", "first");
        let w = t.open("f").await;
        w.write(0, Bytes::from_static(b"mine!")).await.unwrap();
        t.server.store().put(BUCKET, "f", "second");
        assert_eq!(w.commit().await.unwrap_err().kind(), Kind::Conflict);
        assert_eq!(t.stored("f").unwrap(), "second");
        let exclusive = Writer::new(t.io.clone(), key("f"), None, NewObject::default(), Condition::Absent);
        assert_eq!(exclusive.commit().await.unwrap_err().kind(), Kind::Exists);
        let w = t.open("f").await;
        w.write(0, Bytes::from_static(b"THIRD!")).await.unwrap();
        w.commit().await.unwrap().unwrap();
        assert_eq!(t.stored("f").unwrap(), "THIRD!");
    }
}

/// F9: the base is another object by now: never a mixture of the two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_base_is_a_conflict_and_not_a_mixture() {
    let t = world(64 << 20, small()).await;
    t.server.store().put(BUCKET, "f", pattern(5, 20 * PAGE));
    let w = t.open("f").await;
    w.write(3 * PAGE, Bytes::from_static(b"mine")).await.unwrap();
    let other = pattern(6, 20 * PAGE);
    t.server.store().put(BUCKET, "f", other.clone());
    assert_eq!(w.commit().await.unwrap_err().kind(), Kind::Conflict);
    assert!(t.stored("f").unwrap() == other);
    drop(w);
    t.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_without_part_copy_and_with_equal_parts_get_the_right_bytes() {
    for (part_copy, equal_parts) in [(false, false), (true, true), (false, true)] {
        let mut settings = small();
        settings.limits.part_copy = part_copy;
        settings.limits.equal_parts = equal_parts;
        let t = world(64 << 20, settings).await;
        t.server.knobs().set(|b| b.no_part_copy = !part_copy);
        let mut model = pattern(7, 20 * PAGE + 9);
        t.server.store().put(BUCKET, "f", model.clone());
        let w = t.open("f").await;
        w.write(7 * PAGE + 1, Bytes::from_static(b"changed")).await.unwrap();
        model[7 * PAGE as usize + 1..7 * PAGE as usize + 8].copy_from_slice(b"changed");
        w.commit().await.unwrap().unwrap();
        assert!(t.stored("f").unwrap() == model);
        assert_eq!(t.count("UploadPartCopy") > 0, part_copy);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn staging_takes_over_when_memory_is_short_and_its_errors_are_the_writes() {
    let t = world(1 << 20, WriteSettings { stream_after: u64::MAX, ..small() }).await;
    let w = t.create("f");
    let data = pattern(8, 40 * PAGE);
    // Backwards, so that nothing can be streamed.
    for i in (0..40).rev() {
        let piece = &data[(i * PAGE) as usize..((i + 1) * PAGE) as usize];
        w.write(i * PAGE, Bytes::copy_from_slice(piece)).await.unwrap();
    }
    assert!(t.io.memory() <= 512 << 10);
    assert!(whole(&w).await == data);
    w.commit().await.unwrap().unwrap();
    assert!(t.stored("f").unwrap() == data);
    drop(w);
    t.is_clean().await;
    let t = world(0, WriteSettings { staging_dir: "/proc/nowhere".into(), ..small() }).await;
    let w = t.create("g");
    assert_eq!(w.write(0, Bytes::from_static(b"x")).await.unwrap_err().kind(), Kind::NoSpace);
    assert_eq!(w.size(), 0);
    assert_eq!(t.budget.used(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unlinked_file_goes_on_locally_and_is_never_stored() {
    let t = world(64 << 20, small()).await;
    let w = t.create("f");
    w.write(0, Bytes::from_static(b"temporary")).await.unwrap();
    w.unlink().await.unwrap();
    w.write(9, Bytes::from_static(b" file")).await.unwrap();
    assert_eq!(w.read(0, 100).await.unwrap(), "temporary file");
    assert!(w.commit().await.unwrap().is_none());
    assert_eq!(t.server.log().len(), 0);
    drop(w);
    let w = t.create("s");
    w.write(0, Bytes::from(pattern(9, 12 * PAGE))).await.unwrap();
    w.unlink().await.unwrap();
    assert!(w.commit().await.unwrap().is_none());
    drop(w);
    t.is_clean().await;
    assert_eq!(t.stored("s"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_file_is_renamed_without_a_request() {
    let t = world(64 << 20, small()).await;
    let w = t.create("a.tmp");
    w.write(0, Bytes::from_static(b"x")).await.unwrap();
    w.rekey(key("a")).await.unwrap();
    w.commit().await.unwrap().unwrap();
    assert_eq!((t.stored("a").unwrap(), t.stored("a.tmp")), (Bytes::from_static(b"x"), None));
    assert_eq!(w.rekey(key("b")).await.unwrap_err().kind(), Kind::Busy);
    assert_eq!(t.server.log().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holes_data_and_limits() {
    let t = world(64 << 20, small()).await;
    let w = t.create("f");
    w.write(1000, Bytes::from_static(b"data")).await.unwrap();
    w.allocate(0, 5000, false).await.unwrap();
    w.allocate(0, 9000, true).await.unwrap();
    assert_eq!(w.size(), 5000);
    assert_eq!((w.next_data(0), w.next_hole(0), w.next_hole(1001)), (Some(1000), 0, 1004));
    assert_eq!((w.next_data(1004), w.next_hole(5000)), (None, 5000));
    w.punch(1001, 2).await.unwrap();
    assert_eq!(w.read(998, 8).await.unwrap(), b"\0\0d\0\0a\0\0"[..]);
    let max = t.io.settings().limits.max_object;
    assert_eq!(w.truncate(max + 1).await.unwrap_err().kind(), Kind::TooLarge);
    assert_eq!(w.write(u64::MAX - 1, Bytes::from_static(b"abc")).await.unwrap_err().kind(), Kind::TooLarge);
    assert_eq!(w.write_now(max, b"a").unwrap_err().kind(), Kind::TooLarge);
    w.commit().await.unwrap().unwrap();
    assert_eq!(t.stored("f").unwrap().len(), 5000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_of_many_tasks_are_all_there() {
    let t = world(64 << 20, small()).await;
    let w = t.create("log");
    let all: Vec<_> = (0..8u8)
        .map(|n| {
            let w = w.clone();
            tokio::spawn(async move {
                for _ in 0..200 {
                    w.append(Bytes::from(vec![n; 1000])).await.unwrap();
                }
            })
        })
        .collect();
    for a in all {
        a.await.unwrap();
    }
    w.commit().await.unwrap();
    let stored = t.stored("log").unwrap();
    assert_eq!(stored.len(), 8 * 200 * 1000);
    for line in stored.chunks(1000) {
        assert!(line.iter().all(|b| *b == line[0]));
    }
    drop(w);
    t.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_completion_is_not_taken_for_the_version_before() {
    let t = world(64 << 20, small()).await;
    let w = t.create("f");
    let old = pattern(0, 213_184);
    w.write(0, Bytes::from(old.clone())).await.unwrap();
    w.commit().await.unwrap();
    // Another content of the same size a moment later, and the completion fails for good.
    let new = pattern(2, 147_648);
    w.write(0, Bytes::from(new.clone())).await.unwrap();
    t.server.knobs().fail(Rule::new("CompleteMultipartUpload", Action::Status(500, "InternalError".into())).times(100));
    w.commit().await.unwrap_err();
    assert!(t.server.knobs().hits() > 0);
    t.server.knobs().clear_rules();
    let model = [&new[..], &old[new.len()..]].concat();
    assert!(t.stored("f").unwrap() == old && w.is_dirty());
    assert!(whole(&w).await == model);
    w.commit().await.unwrap();
    assert!(t.stored("f").unwrap() == model);
    drop(w);
    t.is_clean().await;
}

#[derive(Clone, Debug)]
enum Op {
    Write(u64, u64),
    Now(u64, u64),
    Append(u64),
    Truncate(u64),
    Punch(u64, u64),
    Read(u64, u64),
    Commit,
    /// The next so-many-th request of the commit fails.
    Broken(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let at = || prop_oneof![0..12 * PAGE, Just(0), Just(PAGE), 3 * PAGE - 3..3 * PAGE + 3];
    let len = || prop_oneof![1..300u64, 1..4 * PAGE];
    prop_oneof![
        3 => (at(), len()).prop_map(|(o, l)| Op::Write(o, l)),
        2 => (at(), len()).prop_map(|(o, l)| Op::Now(o, l)),
        5 => len().prop_map(Op::Append),
        1 => at().prop_map(Op::Truncate),
        1 => (at(), len()).prop_map(|(o, l)| Op::Punch(o, l)),
        3 => (at(), len()).prop_map(|(o, l)| Op::Read(o, l)),
        2 => Just(Op::Commit),
        1 => (1..6u64).prop_map(Op::Broken),
    ]
}

async fn run(ops: Vec<Op>, memory: usize, stream_after: u64, equal_parts: bool) {
    let mut settings = WriteSettings { stream_after, ..small() };
    settings.limits.equal_parts = equal_parts;
    let t = world(memory, settings).await;
    let mut w = t.create("f");
    let mut model: Vec<u8> = Vec::new();
    // What the bucket holds, as far as commits said so.
    let mut stored: Option<Vec<u8>> = None;
    for (i, op) in ops.into_iter().enumerate() {
        let grow = |model: &mut Vec<u8>, o: u64, data: &[u8]| {
            let end = o as usize + data.len();
            model.resize(model.len().max(end), 0);
            model[o as usize..end].copy_from_slice(data);
        };
        match op {
            Op::Write(o, l) => {
                let data = pattern(i as u64, l);
                w.write(o, Bytes::from(data.clone())).await.unwrap();
                grow(&mut model, o, &data);
            }
            Op::Now(o, l) => {
                let data = pattern(i as u64, l);
                if w.write_now(o, &data).unwrap().is_some() {
                    grow(&mut model, o, &data);
                }
            }
            Op::Append(l) => {
                let data = pattern(i as u64, l);
                let at = w.append(Bytes::from(data.clone())).await.unwrap();
                assert_eq!(at, model.len() as u64);
                grow(&mut model, at, &data);
            }
            Op::Truncate(n) => {
                w.truncate(n).await.unwrap();
                model.resize(n as usize, 0);
            }
            Op::Punch(o, l) => {
                w.punch(o, l).await.unwrap();
                let end = model.len().min((o + l) as usize);
                if (o as usize) < end {
                    model[o as usize..end].fill(0);
                }
            }
            Op::Read(o, l) => {
                let end = model.len().min((o + l) as usize);
                let expected = &model[(o as usize).min(end)..end];
                if let Some(now) = w.read_now(o, l as usize) {
                    assert!(now == expected);
                }
                assert!(w.read(o, l as usize).await.unwrap() == expected);
            }
            Op::Commit => {
                w.commit().await.unwrap();
                stored = Some(model.clone());
                assert!(!w.is_dirty());
            }
            Op::Broken(n) => {
                t.server.knobs().fail(Rule::new("*", Action::Status(500, "InternalError".into())).nth(n));
                let done = w.commit().await;
                let hit = t.server.knobs().hits() > 0;
                t.server.knobs().clear_rules();
                match done {
                    Ok(_) => stored = Some(model.clone()),
                    Err(e) => {
                        assert!(hit, "{e:?}");
                        w.write(0, Bytes::from_static(b"z")).await.unwrap();
                        grow(&mut model, 0, b"z");
                        if let Some(stored) = &stored {
                            let now = t.stored("f").unwrap();
                            assert!(now == *stored || w.base().is_some_and(|b| b.size == now.len() as u64));
                        }
                    }
                }
            }
        }
        assert_eq!(w.size(), model.len() as u64);
        assert!(t.io.memory() <= memory / 2);
    }
    assert!(whole(&w).await == model);
    w.commit().await.unwrap();
    assert!(t.stored("f").unwrap() == model);
    // A second handle sees the same, and changes it.
    drop(w);
    w = t.open("f").await;
    w.append(Bytes::from_static(b"end")).await.unwrap();
    model.extend_from_slice(b"end");
    assert!(whole(&w).await == model);
    w.commit().await.unwrap();
    assert!(t.stored("f").unwrap() == model);
    drop(w);
    t.is_clean().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_sequence_of_operations_is_a_byte_array(
        ops in proptest::collection::vec(op(), 1..25),
        memory in prop_oneof![Just(64usize << 20), Just(4 << 20)],
        stream_after in prop_oneof![Just(3 * PAGE), Just(u64::MAX)],
        equal_parts: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(ops, memory, stream_after, equal_parts));
    }
}

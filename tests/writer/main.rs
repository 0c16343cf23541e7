//! The writer against a real server: what is stored is what was written, whatever fails on the way.
#![cfg(feature = "demo")]

mod commits;
mod operations;
mod streams;
#[path = "../world/mod.rs"]
mod world;

use bytes::Bytes;
use world::{BUCKET, PAGE, key, pattern, small, whole, world};
use xosfs::Kind;
use xosfs::write::WriteSettings;

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

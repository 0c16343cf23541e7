//! Long files, sent while they are written.

use std::time::Duration;

use bytes::Bytes;
use xosfs::Kind;
use xosfs::demo::{Action, Rule};

use super::world::{BUCKET, PAGE, key, pattern, small, whole, world};

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

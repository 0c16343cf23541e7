//! What writing large files costs, and that it stays within the limits of store, memory and disk.
#![cfg(feature = "demo")]

mod world;

use std::path::Path;

use bytes::Bytes;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use world::{BUCKET, GIB, KIB, MIB, PAGE, World, key, pattern, small, whole, world};
use xosfs::Kind;
use xosfs::write::{Limits, WriteSettings};

const TIB: u64 = 1 << 40;

async fn size_of(t: &World, name: &str) -> u64 {
    t.s3.head(&key(name), None).await.unwrap().size
}

/// XOS-MPU-07. R15.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_changes_of_10_gib_send_at_most_16_mib() {
    for equal_parts in [false, true] {
        let limits = Limits { equal_parts, ..Limits::default() };
        let t = world(256 << 20, WriteSettings { limits, ..WriteSettings::default() }).await;
        let size = 10 * GIB;
        // Copies are of a gibibyte, or of the one size that all parts have.
        let parts = if equal_parts { 1281 } else { 14 };
        for (at, len) in [(size, MIB), (5 * GIB + 12345, 4 * KIB), (0, 4 * KIB), (size - 4096, 4096)] {
            t.server.store().put_synthetic(BUCKET, "big", size);
            let w = t.open("big").await;
            w.write(at, Bytes::from(vec![9; len as usize])).await.unwrap();
            t.server.clear_log();
            w.commit().await.unwrap().unwrap();
            assert!(t.received() <= 16 * MIB + MIB / 2, "{} bytes at {at}", t.received());
            let n = t.count("UploadPart") + t.count("UploadPartCopy");
            assert!(n <= parts, "{n} parts at {at}");
            // Besides the parts: create, a few reads of what goes with the change, a look at the source, complete.
            assert!(t.server.log().len() <= n + 7, "{} requests, {n} parts", t.server.log().len());
            assert_eq!(size_of(&t, "big").await, size.max(at + len));
            let from = at.saturating_sub(100);
            let read = w.read(from, 300).await.unwrap();
            let mut model = xosfs::demo::synthetic("big", from..(from + 300).min(size)).to_vec();
            model.resize(read.len(), 9);
            let inner = (at - from) as usize;
            let end = model.len().min(inner + len as usize);
            model[inner..end].fill(9);
            assert!(read == model, "at {at}");
        }
        t.is_clean().await;
    }
}

/// R24.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_of_5_tib_is_changed_within_10_000_parts() {
    let t = world(128 << 20, WriteSettings { max_uploads: 16, ..WriteSettings::default() }).await;
    t.server.knobs().set(|b| b.cheap_etags = true);
    t.server.store().put_synthetic(BUCKET, "huge", 5 * TIB - GIB);
    let w = t.open("huge").await;
    let places: Vec<u64> = (0..12).map(|i| i * 400 * GIB + 7 * i).collect();
    for at in &places {
        w.write(*at, Bytes::from_static(b"changed")).await.unwrap();
    }
    w.write(5 * TIB - GIB - 3, Bytes::from_static(b"behind the end")).await.unwrap();
    assert_eq!(w.write(5 * TIB, Bytes::from_static(b"x")).await.unwrap_err().kind(), Kind::TooLarge);
    assert_eq!(w.allocate(5 * TIB, 1, false).await.unwrap_err().kind(), Kind::TooLarge);
    t.server.clear_log();
    w.commit().await.unwrap().unwrap();
    let parts = t.count("UploadPart") + t.count("UploadPartCopy");
    // A gibibyte a copy, and the two sides of each change.
    assert!(parts <= 5 * 1024 + 2 * 14, "{parts} parts");
    assert!(t.received() <= 14 * 6 * MIB + parts as u64 * KIB, "{} bytes sent", t.received());
    assert!(t.io.memory() <= 4 << 20 && t.budget.used() <= 128 << 20);
    assert_eq!(size_of(&t, "huge").await, 5 * TIB - GIB + 11);
    for at in places {
        assert_eq!(w.read(at, 7).await.unwrap(), "changed");
        assert_eq!(w.read(at + 7, 9).await.unwrap(), xosfs::demo::synthetic("huge", at + 7..at + 16));
    }
    drop(w);
    t.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sparse_file_of_5_tib_costs_nothing_until_it_is_stored() {
    let t = world(64 << 20, WriteSettings::default()).await;
    let w = t.create("sparse");
    w.allocate(0, 5 * TIB, false).await.unwrap();
    for at in [0, TIB, 5 * TIB - 4] {
        w.write(at, Bytes::from_static(b"data")).await.unwrap();
    }
    w.punch(10, 4 * TIB).await.unwrap();
    assert_eq!((w.size(), w.next_data(4), w.next_hole(0)), (5 * TIB, Some(10), 4));
    assert_eq!(w.read(TIB, 4).await.unwrap()[..], [0; 4]);
    assert_eq!(w.read(5 * TIB - 4, 100).await.unwrap(), "data");
    assert_eq!(w.truncate(5 * TIB + 1).await.unwrap_err().kind(), Kind::TooLarge);
    assert!(t.io.memory() <= 256 << 10, "{} bytes", t.io.memory());
    w.truncate(3).await.unwrap();
    w.commit().await.unwrap().unwrap();
    assert_eq!(t.stored("sparse").unwrap(), "dat");
    drop(w);
    t.is_clean().await;
}

/// The proportions of 5 TiB in 10,000 parts, 65,536 times smaller, with every byte sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_file_is_streamed_and_stored_with_growing_parts() {
    for announced in [false, true] {
        let limits = Limits {
            min_part: 64 * KIB,
            max_part: 8 * MIB,
            max_parts: 100,
            part_size: PAGE,
            max_object: 80 * MIB,
            single_put: 256 * KIB,
            ..Limits::default()
        };
        let t = world(32 << 20, WriteSettings { limits, ..small() }).await;
        let w = t.create("s");
        if announced {
            w.allocate(0, 80 * MIB, true).await.unwrap();
        }
        let block = Bytes::from(pattern(1, MIB));
        for i in 0..80 {
            w.write(i * MIB, block.clone()).await.unwrap();
            assert!(t.io.memory() <= 16 << 20);
        }
        assert!(t.count("UploadPart") > 0, "nothing was sent before the end");
        assert_eq!(w.append(Bytes::from_static(b"x")).await.unwrap_err().kind(), Kind::TooLarge);
        w.commit().await.unwrap().unwrap();
        assert!(t.count("UploadPart") <= 100, "{} parts", t.count("UploadPart"));
        assert_eq!((t.count("CompleteMultipartUpload"), t.count("PutObject")), (1, 0));
        let stored = t.stored("s").unwrap();
        assert_eq!(stored.len() as u64, 80 * MIB);
        assert!(stored.chunks(MIB as usize).all(|c| c == block));
        drop(w);
        t.is_clean().await;
    }
}

/// Offset and length of bytes that are written again.
type Patch = (u64, usize);

/// R23: what media and archive writers do at the end: WAV sizes at 4 and 40, the `mdat` size of MP4, the header of ELF,
/// the directory at the end of ZIP.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_rewritten_at_the_end_costs_no_second_upload() {
    let rewrites: [(&str, &[Patch], usize); 4] = [
        ("wav", &[(4, 4), (40, 4)], 0),
        ("mp4", &[(32, 16)], 70_000),
        ("elf", &[(0, 64), (64, 56 * 9)], 3000),
        ("zip", &[], 90_000),
    ];
    for (name, patches, tail) in rewrites {
        let t = world(64 << 20, small()).await;
        let w = t.create(name);
        let mut model = pattern(2, 20 * PAGE + 100);
        for (i, piece) in model.chunks(PAGE as usize).enumerate() {
            w.write(i as u64 * PAGE, Bytes::copy_from_slice(piece)).await.unwrap();
        }
        let end = pattern(3, tail as u64);
        w.append(Bytes::from(end.clone())).await.unwrap();
        model.extend_from_slice(&end);
        for (at, len) in patches {
            let patch = pattern(4 + at, *len as u64);
            w.write(*at, Bytes::from(patch.clone())).await.unwrap();
            model[*at as usize..*at as usize + len].copy_from_slice(&patch);
        }
        w.commit().await.unwrap().unwrap();
        assert!(t.stored(name).unwrap() == model);
        assert_eq!((t.count("CreateMultipartUpload"), t.count("CompleteMultipartUpload")), (1, 1), "{name}");
        assert_eq!((t.count("PutObject"), t.count("CopyObject"), t.count("UploadPartCopy")), (0, 0, 0));
        assert!(t.received() <= model.len() as u64 + 64 * KIB, "{name}: {} bytes sent", t.received());
        drop(w);
        t.is_clean().await;
    }
}

/// R23: bytes that were sent are gone from here; changing them completes the upload and goes on from its result.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_into_sent_bytes_completes_the_upload_and_sends_little_more() {
    let t = world(64 << 20, small()).await;
    let w = t.create("f");
    let mut model = pattern(5, 40 * PAGE);
    for (i, piece) in model.chunks(PAGE as usize).enumerate() {
        w.write(i as u64 * PAGE, Bytes::copy_from_slice(piece)).await.unwrap();
    }
    assert_eq!(t.stored("f"), None);
    w.write(20 * PAGE, Bytes::from_static(b"late")).await.unwrap();
    // The upload was completed for it: what was written before can be seen now, in one piece.
    assert!(t.stored("f").unwrap() == model);
    model[20 * PAGE as usize..20 * PAGE as usize + 4].copy_from_slice(b"late");
    assert!(whole(&w).await == model);
    w.commit().await.unwrap().unwrap();
    assert!(t.stored("f").unwrap() == model);
    assert_eq!((t.count("CreateMultipartUpload"), t.count("CompleteMultipartUpload")), (2, 2));
    assert!(t.received() <= model.len() as u64 + 3 * PAGE, "{} bytes sent", t.received());
    drop(w);
    t.is_clean().await;
}

/// A file system of its own for staging, gone with the guard.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// `size` in bytes.
    fn new(size: u64) -> Tmpfs {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        mount(Some("xosfs-test"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .expect("mount a tmpfs: this test wants to be root, as those of real mounts do");
        Tmpfs(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn make_read_only(&self) {
        mount(None::<&str>, self.path(), None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, None::<&str>).unwrap();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

/// A file that was there before has no memory of its own: every byte is staged there.
async fn staged(dir: &Path) -> World {
    let settings = WriteSettings { staging_dir: dir.to_owned(), stream_after: u64::MAX, memory_per_file: 0, ..small() };
    world(16 << 20, settings).await
}

/// R25.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_staging_directory_is_enospc_and_the_rest_goes_on() {
    let disk = Tmpfs::new(MIB);
    let t = staged(disk.path()).await;
    let old = pattern(6, 3 * PAGE);
    t.server.store().put(BUCKET, "f", old.clone());
    let w = t.open("f").await;
    let mut model = old.clone();
    let mut at = 0;
    let error = loop {
        let data = pattern(at, PAGE / 2);
        match w.write(at, Bytes::from(data.clone())).await {
            Ok(()) => {
                model.resize(model.len().max((at + PAGE / 2) as usize), 0);
                model[at as usize..(at + PAGE / 2) as usize].copy_from_slice(&data);
                at += PAGE / 2;
            }
            Err(e) => break e,
        }
        assert!(at < 4 * MIB, "the disk is never full");
    };
    assert_eq!((error.kind(), error.kind().errno()), (Kind::NoSpace, libc::ENOSPC));
    // The write that failed changed nothing, and nothing was stored.
    assert!(whole(&w).await == model);
    assert!(t.stored("f").unwrap() == old);
    t.server.store().put(BUCKET, "b", "");
    let b = t.open("b").await;
    assert_eq!(b.write(0, Bytes::from_static(b"x")).await.unwrap_err().kind(), Kind::NoSpace);
    // What is there can be stored, which makes room again.
    w.commit().await.unwrap().unwrap();
    assert!(t.stored("f").unwrap() == model);
    drop(w);
    b.write(0, Bytes::from_static(b"x")).await.unwrap();
    b.commit().await.unwrap().unwrap();
    assert_eq!(t.stored("b").unwrap(), "x");
    drop(b);
    t.is_clean().await;
}

/// R25.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_staging_directory_that_is_read_only_or_gone_is_enospc() {
    let disk = Tmpfs::new(MIB);
    let t = staged(disk.path()).await;
    disk.make_read_only();
    t.server.store().put(BUCKET, "f", "old");
    let w = t.open("f").await;
    assert_eq!(w.write(0, Bytes::from_static(b"x")).await.unwrap_err().kind(), Kind::NoSpace);
    // What needs no room works: reading, cutting off.
    assert_eq!(w.read(0, 10).await.unwrap(), "old");
    w.truncate(1).await.unwrap();
    w.commit().await.unwrap().unwrap();
    assert_eq!(t.stored("f").unwrap(), "o");

    let dir = tempfile::tempdir().unwrap();
    let staging = dir.path().join("a");
    std::fs::create_dir(&staging).unwrap();
    let t = staged(&staging).await;
    for name in ["f", "g", "h"] {
        t.server.store().put(BUCKET, name, "");
    }
    let w = t.open("f").await;
    // An open file does not need its directory.
    w.write(0, Bytes::from_static(b"before")).await.unwrap();
    std::fs::remove_dir(&staging).unwrap();
    w.write(6, Bytes::from_static(b" after")).await.unwrap();
    // Another one makes it again.
    let other = t.open("g").await;
    other.write(0, Bytes::from_static(b"x")).await.unwrap();
    assert!(staging.is_dir());
    // Unless there is nothing to make it in.
    std::fs::remove_dir(&staging).unwrap();
    dir.close().unwrap();
    let third = t.open("h").await;
    assert_eq!(third.write(0, Bytes::from_static(b"x")).await.unwrap_err().kind(), Kind::NoSpace);
    w.commit().await.unwrap().unwrap();
    assert_eq!(t.stored("f").unwrap(), "before after");
}

//! R96: bytes taken from other objects are copied by the store, never sent, and never those of another version.
#![cfg(feature = "demo")]

mod world;

use bytes::Bytes;
use proptest::prelude::*;

use world::array::{grow, part_of, punch, somewhere};
use world::{BUCKET, GIB, MIB, PAGE, World, key, pattern, small, whole, world};
use xosfs::Kind;
use xosfs::demo::{Action, Rule};
use xosfs::s3::{Condition, NewObject};
use xosfs::write::{WriteSettings, Writer};

// R96
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_file_is_copied_by_one_request_and_keeps_its_own_attributes() {
    let t = world(64 << 20, WriteSettings::default()).await;
    t.server.store().put_synthetic(BUCKET, "a", 300 * MIB);
    let source = t.object("a").await;
    let mut object = NewObject::default();
    object.headers.metadata.insert("mode".into(), "33188".into());
    object.headers.content_type = Some("text/x-own".into());
    let w = Writer::new(t.io.clone(), key("b"), None, object, Condition::None);
    t.server.clear_log();
    // As a program does it that asks for more than there is, in pieces.
    let mut at = 0;
    loop {
        let n = w.copy_range(&source, at, at, 128 * MIB).await.unwrap();
        if n == 0 {
            break;
        }
        at += n;
    }
    assert_eq!((at, w.size(), w.has_extents()), (300 * MIB, 300 * MIB, true));
    let expected = xosfs::demo::synthetic("a", 250 * MIB..250 * MIB + 100);
    w.commit().await.unwrap().unwrap();
    assert_eq!((t.count("CopyObject"), t.count("PutObject"), t.received()), (1, 0, 0));
    assert!(t.server.log().len() <= 2, "{:?}", t.server.log());
    assert_eq!(t.s3.head(&key("b"), None).await.unwrap().size, 300 * MIB);
    let meta = t.s3.head(&key("b"), None).await.unwrap();
    assert_eq!(meta.headers.metadata.get("mode").map(String::as_str), Some("33188"));
    assert_eq!(meta.headers.content_type.as_deref(), Some("text/x-own"));
    assert_eq!(w.read(250 * MIB, 100).await.unwrap(), expected);
    assert!(!w.has_extents());
    drop(w);
    t.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_ranges_of_several_objects_become_parts() {
    let t = world(64 << 20, WriteSettings::default()).await;
    t.server.store().put_synthetic(BUCKET, "a", 10 * GIB);
    t.server.store().put_synthetic(BUCKET, "b", 40 * MIB);
    let (a, b) = (t.object("a").await, t.object("b").await);
    let w = t.create("c");
    // Two gibibytes a call, as the kernel cuts it.
    let mut at = 0;
    while at < 10 * GIB {
        at += w.copy_range(&a, at, at, 2 * GIB - 4096).await.unwrap();
    }
    w.copy_range(&b, 7, 10 * GIB, u64::MAX).await.unwrap();
    w.append(Bytes::from_static(b"end")).await.unwrap();
    t.server.clear_log();
    w.commit().await.unwrap().unwrap();
    assert!(t.received() < 2 * MIB, "{} bytes sent", t.received());
    assert_eq!(t.count("UploadPartCopy"), 11);
    // Create, eleven copies and one upload, a look at both sources, complete.
    assert_eq!(t.server.log().len(), 1 + 11 + 1 + 2 + 1, "{:?}", t.server.log());
    let size = 10 * GIB + 40 * MIB - 7 + 3;
    assert_eq!(t.s3.head(&key("c"), None).await.unwrap().size, size);
    let mut expected = xosfs::demo::synthetic("a", 10 * GIB - 50..10 * GIB).to_vec();
    expected.extend_from_slice(&xosfs::demo::synthetic("b", 7..57));
    assert_eq!(w.read(10 * GIB - 50, 100).await.unwrap(), expected);
    assert_eq!(w.read(size - 5, 100).await.unwrap()[2..], b"end"[..]);
    drop(w);
    t.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_small_for_a_part_is_read_and_sent() {
    let t = world(64 << 20, small()).await;
    let old = pattern(1, 20 * PAGE);
    let other = pattern(2, 3000);
    t.server.store().put(BUCKET, "f", old.clone());
    t.server.store().put(BUCKET, "o", other.clone());
    let o = t.object("o").await;
    let w = t.open("f").await;
    assert_eq!(w.copy_range(&o, 100, 5 * PAGE, 2000).await.unwrap(), 2000);
    assert_eq!(w.copy_range(&o, 2990, 9, 2000).await.unwrap(), 10);
    assert_eq!(w.copy_range(&o, 3000, 9, 2000).await.unwrap(), 0);
    let mut model = old;
    model[5 * PAGE as usize..5 * PAGE as usize + 2000].copy_from_slice(&other[100..2100]);
    model[9..19].copy_from_slice(&other[2990..]);
    assert!(whole(&w).await == model);
    w.commit().await.unwrap().unwrap();
    assert!(t.stored("f").unwrap() == model);
    assert!(t.received() < 4 * PAGE);
    drop(w);
    t.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_behind_a_stream_is_stored() {
    let t = world(64 << 20, small()).await;
    let other = pattern(3, 9 * PAGE);
    t.server.store().put(BUCKET, "o", other.clone());
    let o = t.object("o").await;
    for len in [1000, 9 * PAGE] {
        let w = t.create("s");
        let mut model = pattern(4, 8 * PAGE);
        w.write(0, Bytes::from(model.clone())).await.unwrap();
        let mut at = 0;
        while at < len {
            at += w.copy_range(&o, at, 8 * PAGE + at, len - at).await.unwrap();
        }
        model.extend_from_slice(&other[..len as usize]);
        assert!(whole(&w).await == model);
        w.commit().await.unwrap();
        assert!(t.stored("s").unwrap() == model);
    }
    t.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_was_replaced_or_deleted_is_stale() {
    for (name, size) in [("whole", 300), ("part", 3 * PAGE), ("parts", 30 * PAGE)] {
        for deleted in [false, true] {
            let t = world(64 << 20, small()).await;
            t.server.store().put(BUCKET, "o", pattern(5, size));
            let o = t.object("o").await;
            let w = t.create("f");
            w.copy_range(&o, 0, 0, size).await.unwrap();
            if name == "part" {
                w.append(Bytes::from_static(b"more")).await.unwrap();
            }
            if deleted {
                t.s3.delete(&key("o"), None).await.unwrap();
            } else {
                t.server.store().put(BUCKET, "o", pattern(6, size));
            }
            assert_eq!(w.commit().await.unwrap_err().kind(), Kind::Stale, "{name} {deleted}");
            assert_eq!(t.stored("f"), None);
            drop(w);
            t.is_clean().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_gone_is_stored_from_the_cache() {
    for size in [300, 2 * PAGE + 5] {
        let t = world(64 << 20, small()).await;
        let bytes = pattern(7, size);
        t.server.store().put(BUCKET, "o", bytes.clone());
        let w = t.create("f");
        w.copy_range(&t.object("o").await, 0, 0, size).await.unwrap();
        assert!(whole(&w).await == bytes);
        t.s3.delete(&key("o"), None).await.unwrap();
        w.commit().await.unwrap().unwrap();
        assert!(t.stored("f").unwrap() == bytes);
        drop(w);
        t.is_clean().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_copies_gets_the_bytes_and_is_asked_once() {
    let t = world(64 << 20, small()).await;
    t.server.knobs().set(|b| (b.no_part_copy, b.no_copy) = (true, true));
    let bytes = pattern(8, 30 * PAGE);
    t.server.store().put(BUCKET, "o", bytes.clone());
    for name in ["f", "g"] {
        let w = t.create(name);
        w.copy_range(&t.object("o").await, 0, 0, 30 * PAGE).await.unwrap();
        w.append(Bytes::from_static(b"x")).await.unwrap();
        w.commit().await.unwrap().unwrap();
        assert!(t.stored(name).unwrap()[..bytes.len()] == bytes);
        assert!(t.count("UploadPartCopy") <= 3);
        t.server.clear_log();
        if name == "g" {
            assert_eq!(t.count("UploadPartCopy"), 0);
        }
    }
    t.is_clean().await;
}

// As Ceph 16 does it to every session of a role.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_refuses_copies_of_parts_gets_the_bytes_and_is_asked_once() {
    let t = world(64 << 20, small()).await;
    t.server.knobs().fail(Rule::new("UploadPartCopy", Action::Status(403, "AccessDenied".into())).always());
    let mut model = pattern(11, 30 * PAGE);
    t.server.store().put(BUCKET, "f", model.clone());
    for round in 0..2 {
        let w = t.open("f").await;
        w.write(15 * PAGE, Bytes::from_static(b"changed")).await.unwrap();
        model[15 * PAGE as usize..][..7].copy_from_slice(b"changed");
        w.commit().await.unwrap().unwrap();
        assert!(t.stored("f").unwrap() == model);
        assert_eq!(t.count("UploadPartCopy") > 0, round == 0);
        t.server.clear_log();
    }
    t.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_nobody_may_read_says_nothing_about_copies_of_others() {
    let t = world(64 << 20, small()).await;
    let bytes = pattern(12, 30 * PAGE);
    t.server.store().put(BUCKET, "f", bytes.clone());
    for operation in ["UploadPartCopy", "GetObject"] {
        t.server.knobs().fail(Rule::new(operation, Action::Status(403, "AccessDenied".into())).always());
    }
    let w = t.open("f").await;
    w.write(15 * PAGE, Bytes::from_static(b"changed")).await.unwrap();
    assert_eq!(w.commit().await.unwrap_err().kind(), Kind::Denied);
    assert!(t.stored("f").unwrap() == bytes);
    t.server.knobs().clear_rules();
    t.server.clear_log();
    w.commit().await.unwrap().unwrap();
    assert!(t.count("UploadPartCopy") > 0);
    drop(w);
    t.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_copied_into_itself() {
    let t = world(64 << 20, small()).await;
    let mut model = pattern(9, 10 * PAGE);
    t.server.store().put(BUCKET, "f", model.clone());
    let w = t.open("f").await;
    let base = w.base().unwrap();
    w.copy_range(&base, 0, 10 * PAGE, 10 * PAGE).await.unwrap();
    model.extend_from_within(..);
    assert_eq!(w.copy_range(&base, 0, PAGE, 2 * PAGE).await.unwrap_err().kind(), Kind::Invalid);
    assert!(whole(&w).await == model);
    t.server.clear_log();
    w.commit().await.unwrap().unwrap();
    assert!(t.stored("f").unwrap() == model);
    assert!(t.received() < PAGE);
    // The base is another version now.
    assert_eq!(w.copy_range(&base, 0, 20 * PAGE, 5).await.unwrap_err().kind(), Kind::Stale);
    let now = w.base().unwrap();
    w.copy_range(&now, 0, 20 * PAGE, 5).await.unwrap();
    w.commit().await.unwrap().unwrap();
    model.extend_from_within(..5);
    assert!(t.stored("f").unwrap() == model);
    drop(w);
    t.is_clean().await;
}

#[derive(Clone, Debug)]
enum Op {
    Write(u64, u64),
    Copy(usize, u64, u64, u64),
    Own(u64, u64, u64),
    Truncate(u64),
    Punch(u64, u64),
    Read(u64, u64),
    Commit,
}

fn op() -> impl Strategy<Value = Op> {
    let at = somewhere;
    let len = || prop_oneof![1..300u64, 1..5 * PAGE];
    prop_oneof![
        3 => (at(), len()).prop_map(|(o, l)| Op::Write(o, l)),
        6 => (0..3usize, at(), at(), len()).prop_map(|(s, f, o, l)| Op::Copy(s, f, o, l)),
        1 => (at(), at(), len()).prop_map(|(f, o, l)| Op::Own(f, o, l)),
        1 => at().prop_map(Op::Truncate),
        1 => (at(), len()).prop_map(|(o, l)| Op::Punch(o, l)),
        2 => (at(), len()).prop_map(|(o, l)| Op::Read(o, l)),
        2 => Just(Op::Commit),
    ]
}

async fn run(ops: Vec<Op>, memory: usize, part_copy: bool, equal_parts: bool) {
    let mut settings = small();
    settings.limits.part_copy = part_copy;
    settings.limits.equal_parts = equal_parts;
    let t: World = world(memory, settings).await;
    let mut sources = Vec::new();
    for (i, size) in [10 * PAGE, 3 * PAGE + 17, 100].into_iter().enumerate() {
        let name = format!("o{i}");
        let bytes = pattern(100 + i as u64, size);
        t.server.store().put(BUCKET, &name, bytes.clone());
        sources.push((t.object(&name).await, bytes));
    }
    let w = t.create("f");
    let mut model: Vec<u8> = Vec::new();
    let mut base: Vec<u8> = Vec::new();
    for (i, op) in ops.into_iter().enumerate() {
        match op {
            Op::Write(o, l) => {
                let data = pattern(i as u64, l);
                w.write(o, Bytes::from(data.clone())).await.unwrap();
                grow(&mut model, o, &data);
            }
            Op::Copy(s, from, o, l) => {
                let (object, bytes) = &sources[s];
                let n = w.copy_range(object, from, o, l).await.unwrap();
                if n > 0 {
                    grow(&mut model, o, &bytes[from as usize..(from + n) as usize]);
                }
            }
            Op::Own(from, o, l) => {
                // A stream may have been completed in order to go on: then the base is another one.
                let Some(now) = w.base().filter(|b| b.size == base.len() as u64) else { continue };
                match w.copy_range(&now, from, o, l).await {
                    Ok(0) => {}
                    Ok(n) => grow(&mut model, o, &base[from as usize..(from + n) as usize]),
                    Err(e) => assert_eq!(e.kind(), Kind::Invalid),
                }
            }
            Op::Truncate(n) => {
                w.truncate(n).await.unwrap();
                model.resize(n as usize, 0);
            }
            Op::Punch(o, l) => {
                w.punch(o, l).await.unwrap();
                punch(&mut model, o, l);
            }
            Op::Read(o, l) => {
                assert!(w.read(o, l as usize).await.unwrap() == *part_of(&model, o, l));
            }
            Op::Commit => {
                if w.commit().await.unwrap().is_some() {
                    base = model.clone();
                }
                assert!(t.stored("f").unwrap() == model);
            }
        }
        if let Some(b) = w.base().filter(|b| b.size != base.len() as u64) {
            base = t.stored("f").unwrap().to_vec();
            assert_eq!(b.size, base.len() as u64);
        }
        assert_eq!(w.size(), model.len() as u64);
    }
    assert!(whole(&w).await == model);
    w.commit().await.unwrap();
    assert!(t.stored("f").unwrap() == model);
    drop(w);
    t.is_clean().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn copies_among_other_changes_are_a_byte_array(
        ops in proptest::collection::vec(op(), 1..25),
        memory in prop_oneof![Just(64usize << 20), Just(4 << 20)],
        part_copy: bool,
        equal_parts: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(ops, memory, part_copy, equal_parts));
    }
}

//! Deadlines, retries and what errors say.

use super::*;

use std::time::{Duration, Instant};

use xosfs::demo::{Action, Rule};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_waits_for_ever() {
    let w = world();
    w.put("f", "x");
    let m = w.mount_with("connect_timeout=1s,read_timeout=1s,op_timeout=1s");
    let fh = m.create("new", read_write()).await.unwrap();
    m.put_at(fh, 0, b"content").await.unwrap();
    w.server.knobs().fail(Rule::new("*", Action::Stall(Duration::from_secs(30))).always());
    let start = Instant::now();
    for error in [
        m.find("f").await.unwrap_err(),
        m.entries("").await.unwrap_err(),
        m.mkdir("d").await.unwrap_err(),
        m.fsync(fh).await.unwrap_err(),
    ] {
        assert!(matches!(error.kind(), Kind::Timeout | Kind::Unavailable), "{error}");
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    // The root answers without the store, also when what was known of it is old.
    assert_eq!(m.getattr_now(ROOT).unwrap().unwrap().attr.kind, FileKind::Dir);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failing_call_is_one_error() {
    let w = world();
    w.server.store().put_synthetic(BUCKET, "f", MIB);
    w.put("g", "fine");
    for action in [Action::WrongRange, Action::CutBody(100)] {
        let m = w.mount();
        let fh = m.open("f", read_only()).await.unwrap().fh;
        w.server.knobs().fail(Rule::new("GetObject", action.clone()).key("f").always());
        let error = m.at(fh, 0, 4096).await.unwrap_err();
        assert_eq!(error.errno(), libc::EIO, "{action:?}: {error}");
        assert_eq!(m.read("g").await.unwrap(), "fine", "the mount lives on");
        w.server.knobs().clear_rules();
        let again = m.at(fh, 0, 4096).await.unwrap();
        assert_eq!(again, xosfs::demo::synthetic("f", 0..4096), "and so does the handle");
        m.close(fh).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn throttling_is_retried() {
    let w = world();
    w.put("f", "content");
    let m = w.mount_with("retries=3,metadata_ttl=0");
    for (operation, action) in [
        ("GetObject", Action::SlowDown),
        ("HeadObject", Action::Status(500, "InternalError".into())),
        ("ListObjectsV2", Action::Drop),
        ("GetObject", Action::CutBeforeAnswer),
    ] {
        w.server.knobs().clear_rules();
        w.server.knobs().fail(Rule::new(operation, action.clone()).times(2));
        assert_eq!(m.read("f").await.unwrap(), "content", "{operation} {action:?}");
    }
    // Parts of an upload, too: 70 MiB are more than is kept back.
    w.server.knobs().clear_rules();
    w.server.knobs().fail(Rule::new("UploadPart", Action::SlowDown).every(4));
    w.server.knobs().fail(Rule::new("PutObject", Action::SlowDown).times(2));
    m.write("small", b"small").await.unwrap();
    let fh = m.create("large", read_write()).await.unwrap();
    let chunk = vec![7_u8; MIB as usize];
    for i in 0..70 {
        m.put_at(fh, i * MIB, &chunk).await.unwrap();
    }
    m.close(fh).await.unwrap();
    assert!(w.server.knobs().hits() > 3, "parts were refused");
    assert_eq!(w.server.store().head(BUCKET, "large").unwrap().size, 70 * MIB);
    assert_eq!(w.get("small").unwrap(), "small");
    // For ever is EIO.
    w.server.knobs().clear_rules();
    w.server.knobs().fail(Rule::new("*", Action::SlowDown).always());
    let error = w.mount_with("retries=2").find("f").await.unwrap_err();
    assert_eq!((error.kind(), error.errno()), (Kind::Unavailable, libc::EIO));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_object_is_eacces_at_open() {
    let w = world();
    let attributes = xosfs::demo::Attributes { storage_class: Some("GLACIER".into()), ..Default::default() };
    w.server.store().put_with(BUCKET, "cold", "frozen", attributes, "private");
    // Looked up by name, and seen in a listing only.
    for listed in [false, true] {
        let m = w.mount();
        if listed {
            assert_eq!(m.ls("").await, ["cold"]);
        }
        assert_eq!(m.stat("cold").await.unwrap().attr.size, 6);
        let error = m.open("cold", read_only()).await.unwrap_err();
        assert_eq!((error.kind(), error.errno()), (Kind::Archived, libc::EACCES));
        assert!(error.to_string().contains("restore-object"), "names what restores it: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unsupported_is_remembered() {
    let w = world();
    w.put("f", "x");
    w.put("g", "x");
    w.server.knobs().set(|b| {
        b.no_tagging = true;
        b.no_acl = true;
    });
    let m = w.mount();
    let (f, g) = (m.stat("f").await.unwrap().ino, m.stat("g").await.unwrap().ino);
    w.requests();
    for attribute in ["user.s3.tags", "user.s3.acl"] {
        let error = m.getxattr(f, attribute).await.unwrap_err();
        assert_eq!((error.kind(), error.errno()), (Kind::Unsupported, libc::EOPNOTSUPP), "{attribute}");
    }
    assert_eq!(w.requests().values().sum::<u64>(), 2);
    for attribute in ["user.s3.tags", "user.s3.acl"] {
        assert_eq!(kind(m.getxattr(g, attribute).await), Kind::Unsupported, "{attribute}");
    }
    assert_eq!(w.requests(), counted(&[]), "not asked again");
    // What was learnt is used by what would ask as well.
    m.rename("f", "renamed").await.unwrap();
    assert_eq!(w.requests().get("GetObjectAcl"), None);
}

// R75
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_for_another_one_on_the_file_has_a_deadline() {
    let w = world();
    w.put("f", "x");
    let m = w.mount_with("op_timeout=1s,connect_timeout=1s,read_timeout=1s,metadata_ttl=1m");
    let ino = m.stat("f").await.unwrap().ino;
    // Somebody changes it and gets nothing done.
    let inode = m.inode(ino).unwrap();
    let held = inode.changing.lock().await;
    w.requests();
    let (class, meta) = (m.set("f", "user.s3.storage-class", "COLD"), m.set("f", "user.note", "x"));
    let (unlink, rename) = (m.unlink("f"), m.rename("f", "g"));
    let open = m.open("f", read_write());
    let (class, meta, unlink, rename, open) = tokio::join!(class, meta, unlink, rename, open);
    assert_eq!((kind(class), kind(meta), kind(unlink)), (Kind::Timeout, Kind::Timeout, Kind::Timeout));
    assert_eq!((kind(rename), kind(open)), (Kind::Timeout, Kind::Timeout));
    let error = truncate(&m, ino).await.unwrap_err();
    assert_eq!((error.errno(), error.key()), (libc::ETIMEDOUT, Some("f")));
    let sent = w.requests();
    assert!(!sent.keys().any(|k| ["DeleteObject", "CopyObject", "PutObject"].contains(&k.as_str())), "{sent:?}");
    drop(held);
    m.set("f", "user.note", "x").await.unwrap();
    m.rename("f", "g").await.unwrap();
    m.unlink("g").await.unwrap();
    assert!(w.keys().is_empty());
}

// R75
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_queue_up_at_a_store_that_hangs_fail_together() {
    let w = world();
    w.put("f", "x");
    let m = w.mount_with("op_timeout=1s,connect_timeout=1s,read_timeout=1s,metadata_ttl=1m");
    m.stat("f").await.unwrap();
    m.set("f", "user.note", "known").await.unwrap();
    assert!(m.drain(std::time::Duration::from_secs(20)).await.is_empty());
    w.requests();
    w.server.knobs().fail(Rule::new("CopyObject", Action::Stall(std::time::Duration::from_secs(30))).always());
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let m = Mount(m.0.clone());
            tokio::spawn(async move { kind(m.set("f", "user.s3.storage-class", "STANDARD_IA").await) })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), Kind::Timeout);
    }
    // One after the other they would each have asked the store, and each have waited for all before it.
    let copies = w.server.knobs().hits();
    assert!(copies < 4, "{copies} of 8 asked");
    w.server.knobs().clear_rules();
    m.set("f", "user.s3.storage-class", "STANDARD_IA").await.unwrap();
}

/// truncate(2).
async fn truncate(m: &Mount, ino: xosfs::fs::Ino) -> Result<()> {
    let change = xosfs::fs::setattr::Change { size: Some(0), ..Default::default() };
    m.setattr(ino, None, change).await.map(|_| ())
}

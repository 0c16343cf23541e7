//! Writing: what a commit stores, who wins, and what a failure leaves.

use super::*;

use std::time::Duration;

use xosfs::demo::{Action, Rule};

fn denied() -> Action {
    Action::Status(403, "AccessDenied".into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_commit_is_reported_until_it_is_repeated() {
    let w = world();
    let m = w.mount();
    w.put("f", "old");
    let (a, b) = (m.open("f", read_write()).await.unwrap().fh, m.open("f", read_write()).await.unwrap().fh);
    m.put_at(a, 0, b"new content").await.unwrap();
    w.server.knobs().fail(Rule::new("PutObject", denied()).always());
    for fh in [a, b] {
        assert_eq!(kind(m.fsync(fh).await), Kind::Denied);
        assert_eq!(kind(m.flush(fh, std::process::id()).await), Kind::Denied);
        assert_eq!(&m.at(fh, 0, 100).await.unwrap()[..], b"new content", "readable on its handles");
    }
    assert_eq!(w.get("f").unwrap(), "old");
    w.server.knobs().clear_rules();
    m.fsync(b).await.unwrap();
    assert_eq!(w.get("f").unwrap(), "new content");
    m.close(a).await.unwrap();
    m.close(b).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn exclusive_create_has_one_winner() {
    let w = world();
    let m = w.mount();
    let exclusive = OpenMode::of_flags(libc::O_RDWR | libc::O_CREAT | libc::O_EXCL);
    let mut tries = Vec::new();
    for _ in 0..8 {
        let fs = m.0.clone();
        tries.push(tokio::spawn(async move { fs.create(ROOT, &name("lock"), 0o600, OWNER, exclusive).await }));
    }
    let mut won = Vec::new();
    for t in tries {
        match t.await.unwrap() {
            Ok((_, opened)) => won.push(opened.fh),
            Err(e) => assert_eq!(e.kind(), Kind::Exists),
        }
    }
    assert_eq!(won.len(), 1, "one winner on one mount");
    m.close(won[0]).await.unwrap();
    // Two machines: both find nothing, the store decides at the commit.
    let other = w.mount();
    let (a, b) = (m.create("between", exclusive).await.unwrap(), other.create("between", exclusive).await.unwrap());
    m.put_at(a, 0, b"first").await.unwrap();
    other.put_at(b, 0, b"second").await.unwrap();
    m.close(a).await.unwrap();
    let error = other.close(b).await.unwrap_err();
    assert_eq!((error.kind(), error.errno()), (Kind::Exists, libc::EEXIST));
    assert_eq!(w.get("between").unwrap(), "first");
}

#[tokio::test(flavor = "multi_thread")]
async fn exclusive_create_without_conditional_puts_checks_just_before() {
    let w = world();
    w.server.knobs().set(|b| b.no_conditional_put = true);
    let (m, other) = (w.mount(), w.mount());
    let exclusive = OpenMode::of_flags(libc::O_RDWR | libc::O_CREAT | libc::O_EXCL);
    let (a, b) = (m.create("f", exclusive).await.unwrap(), other.create("f", exclusive).await.unwrap());
    m.put_at(a, 0, b"first").await.unwrap();
    other.put_at(b, 0, b"second").await.unwrap();
    m.close(a).await.unwrap();
    assert_eq!(kind(other.close(b).await), Kind::Exists);
    assert_eq!(w.get("f").unwrap(), "first");
}

#[tokio::test(flavor = "multi_thread")]
async fn exclusive_create_where_versions_make_the_store_ignore_conditions_checks_just_before() {
    let w = world();
    w.server.knobs().set(|b| b.ceph = true);
    w.server.store().enable_versioning(BUCKET);
    let (m, other) = (w.mount(), w.mount());
    let exclusive = OpenMode::of_flags(libc::O_RDWR | libc::O_CREAT | libc::O_EXCL);
    let (a, b) = (m.create("f", exclusive).await.unwrap(), other.create("f", exclusive).await.unwrap());
    m.put_at(a, 0, b"first").await.unwrap();
    other.put_at(b, 0, b"second").await.unwrap();
    m.close(a).await.unwrap();
    assert_eq!(kind(other.close(b).await), Kind::Exists);
    assert_eq!((w.get("f").unwrap(), w.server.store().versions(BUCKET, "f").len()), ("first".into(), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn last_commit_wins() {
    let w = world();
    let (a, b) = (w.mount(), w.mount());
    w.put("f", "start");
    let truncate = OpenMode::of_flags(libc::O_WRONLY | libc::O_TRUNC);
    let (fa, fb) = (a.open("f", truncate).await.unwrap().fh, b.open("f", truncate).await.unwrap().fh);
    a.put_at(fa, 0, b"from a, and longer").await.unwrap();
    b.put_at(fb, 0, b"from b").await.unwrap();
    b.close(fb).await.unwrap();
    a.close(fa).await.unwrap();
    assert_eq!(w.get("f").unwrap(), "from a, and longer");
    // A change that builds on bytes which are not there any more.
    w.put("base", vec![b'1'; 20 << 20]);
    let fa = a.open("base", read_write()).await.unwrap().fh;
    a.put_at(fa, 10 << 20, b"changed").await.unwrap();
    w.put("base", "the newer object");
    let error = a.fsync(fa).await.unwrap_err();
    assert_eq!(error.errno(), libc::ESTALE, "{error}");
    assert!(a.close(fa).await.is_err());
    assert_eq!(w.get("base").unwrap(), "the newer object");
    assert_eq!(a.read("base").await.unwrap(), "the newer object", "and it is what this mount shows");
    common::eventually(Duration::from_secs(20), "the upload is given up", || {
        w.server.store().uploads(BUCKET).is_empty()
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn on_conflict_decides_about_newer_versions() {
    let truncate = OpenMode::of_flags(libc::O_WRONLY | libc::O_TRUNC);
    for what in ["changed", "emptied", "new"] {
        for option in ["fail", "keep_both"] {
            let w = world();
            let m = w.mount_with(&format!("on_conflict={option},metadata_ttl=0,negative_ttl=0"));
            if what != "new" {
                w.put("d/f.txt", "start");
            } else {
                w.put("d/other", "");
            }
            let fh = match what {
                "changed" => m.open("d/f.txt", read_write()).await.unwrap().fh,
                "emptied" => m.open("d/f.txt", truncate).await.unwrap().fh,
                _ => m.create("d/f.txt", read_write()).await.unwrap(),
            };
            m.put_at(fh, 0, b"ours!").await.unwrap();
            w.put("d/f.txt", "theirs, newer");
            let closed = m.0.flush(fh, std::process::id()).await;
            if option == "fail" {
                assert_eq!(closed.unwrap_err().errno(), libc::ESTALE, "{what}");
                let _ = m.0.release(fh).await;
                assert_eq!(m.read("d/f.txt").await.unwrap(), "theirs, newer", "{what}");
                assert_eq!(w.keys().len(), if what == "new" { 2 } else { 1 });
                continue;
            }
            closed.unwrap();
            if what == "changed" {
                assert_eq!(m.at(fh, 0, 100).await.unwrap(), "ours!", "the handle goes on with ours");
            }
            let _ = m.0.release(fh).await;
            let beside = w.keys().into_iter().find(|k| k.contains("(conflict ")).unwrap();
            assert_eq!((w.get("d/f.txt").unwrap(), w.get(&beside).unwrap()), ("theirs, newer".into(), "ours!".into()));
            assert_eq!(m.read("d/f.txt").await.unwrap(), "theirs, newer", "{what}");
            assert_eq!(m.stat("d/f.txt").await.unwrap().attr.size, 13);
            assert_eq!(m.read(&beside).await.unwrap(), "ours!");
            assert!(m.ls("d").await.contains(&beside[2..].to_owned()));
        }
    }
}

// R47: the kernel tells of a close after the program was told that it is done.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_file_is_deleted_at_once_though_its_release_is_still_to_come() {
    for mode in [read_only(), read_write()] {
        let w = world();
        w.put("f", "old");
        let m = w.mount();
        let fh = m.open("f", mode).await.unwrap().fh;
        m.0.flush(fh, std::process::id()).await.unwrap();
        let closed = m.0.close_handle(fh).unwrap();
        m.unlink("f").await.unwrap();
        assert!(w.keys().is_empty());
        m.0.released(closed).await.unwrap();
        assert!(w.keys().is_empty() && m.find("f").await.unwrap().is_none());
    }
}

// R10 R53
#[tokio::test(flavor = "multi_thread")]
async fn a_file_opened_while_its_attributes_are_being_copied_keeps_what_is_written() {
    let w = world();
    w.put("f", "old");
    let m = w.mount();
    let ino = m.stat("f").await.unwrap().ino;
    let change = xosfs::fs::setattr::Change { perm: Some(0o600), ..Default::default() };
    w.server.knobs().fail(Rule::new("CopyObject", Action::Stall(Duration::from_millis(1500))));
    m.0.setattr(ino, None, change).await.unwrap();
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(w.server.knobs().hits(), 1, "the copy is under way");
    m.write("f", b"new content").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(w.get("f").unwrap(), "new content");
    assert_eq!(m.read("f").await.unwrap(), "new content");
}

/// The release of a closed file is a call of its own, and may be looked at after the next ones.
// R17
#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_by_path_is_stored_although_the_release_is_late() {
    let w = world();
    let m = w.mount();
    let fh = m.create("f", read_write()).await.unwrap();
    m.put_at(fh, 0, b"content").await.unwrap();
    m.0.flush(fh, std::process::id()).await.unwrap();
    let ino = m.stat("f").await.unwrap().ino;
    let cut = |size| xosfs::fs::setattr::Change { size: Some(size), ..Default::default() };
    m.0.setattr(ino, None, cut(3)).await.unwrap();
    assert_eq!(w.get("f").unwrap(), "con");
    // Changes of an open file are stored when it says so.
    m.put_at(fh, 0, b"C").await.unwrap();
    m.0.setattr(ino, None, cut(2)).await.unwrap();
    assert_eq!(w.get("f").unwrap(), "con");
    m.close(fh).await.unwrap();
    assert_eq!(w.get("f").unwrap(), "Co");
}

/// As a look-up does: what is being written is there, whatever a listing says.
// R5
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_shows_what_is_open_for_writing() {
    let w = world();
    w.put("d/f", "x");
    w.put("d/g", "x");
    let m = w.mount_with("metadata_ttl=0");
    let fh = m.open("d/f", read_write()).await.unwrap().fh;
    w.server.store().delete(BUCKET, "d/f");
    assert!(m.find("d/f").await.unwrap().is_some());
    let mut names = m.ls("d").await;
    names.sort();
    assert_eq!(names, ["f", "g"]);
    m.close(fh).await.unwrap();
}

// R5
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_within_a_file_ends_where_the_file_ended() {
    let w = world();
    w.put("f", "x".repeat(100));
    let m = w.mount();
    let fh = m.open("f", read_write()).await.unwrap().fh;
    assert_eq!(m.copy_range((fh, 60), (fh, 110), 60).await.unwrap(), 40);
    m.close(fh).await.unwrap();
    assert_eq!(w.get("f").unwrap(), format!("{}{}{}", "x".repeat(100), "\0".repeat(10), "x".repeat(40)));
}

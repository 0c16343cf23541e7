//! Consistency: which version a handle reads, and when something is missing.

use super::*;

use xosfs::demo::{Action, Rule, synthetic};

fn slice(key: &str, from: u64, len: u64) -> Bytes {
    synthetic(key, from..from + len)
}

// R1
#[tokio::test(flavor = "multi_thread")]
async fn replaced_object_is_estale_on_old_handles() {
    let w = world();
    let m = w.mount_with("metadata_ttl=0");
    for deleted in [false, true] {
        w.server.store().put_synthetic(BUCKET, "big", LARGE);
        let fh = m.open("big", read_only()).await.unwrap().fh;
        let start = m.at(fh, 0, 4096).await.unwrap();
        assert_eq!(start, slice("big", 0, 4096));
        if deleted {
            w.server.store().delete(BUCKET, "big");
        } else {
            w.server.store().put_synthetic(BUCKET, "big", LARGE);
        }
        assert_eq!(m.at(fh, 0, 4096).await.unwrap(), start, "cached bytes go on being served");
        for _ in 0..2 {
            let error = m.at(fh, LARGE - 4096, 4096).await.map(|b| b.len()).unwrap_err();
            assert_eq!((error.kind(), error.errno()), (Kind::Stale, libc::ESTALE), "deleted: {deleted}");
        }
        // Once the store has said so, these may be gone too. They are never those of another version.
        match m.at(fh, 0, 4096).await {
            Ok(bytes) => assert_eq!(bytes, start),
            Err(e) => assert_eq!(e.kind(), Kind::Stale),
        }
        m.close(fh).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_handle_keeps_its_version_on_a_versioned_bucket() {
    let w = world();
    w.server.store().enable_versioning(BUCKET);
    w.server.store().put_synthetic(BUCKET, "big", LARGE);
    let m = w.mount_with("metadata_ttl=0");
    let fh = m.open("big", read_only()).await.unwrap().fh;
    w.put("big", "small now");
    assert_eq!(m.at(fh, LARGE - 4096, 8192).await.unwrap(), slice("big", LARGE - 4096, 4096));
    assert_eq!(m.read("big").await.unwrap(), "small now", "a new handle has the new version");
    m.close(fh).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_store_can_say_that_a_file_is_missing() {
    let w = world();
    w.put("there", "x");
    let failures = [
        (Action::SlowDown, Kind::Unavailable),
        (Action::Status(500, "InternalError".into()), Kind::Unavailable),
        (Action::Status(403, "AccessDenied".into()), Kind::Denied),
        (Action::Drop, Kind::Unavailable),
    ];
    for (action, expected) in failures {
        let m = w.mount();
        w.server.knobs().fail(Rule::new("*", action.clone()).always());
        for path in ["there", "missing"] {
            assert_eq!(kind(m.find(path).await), expected, "{action:?} {path}");
        }
        w.server.knobs().clear_rules();
        assert!(m.find("there").await.unwrap().is_some(), "a failure is not remembered as absence: {action:?}");
        assert!(m.find("missing").await.unwrap().is_none());
    }
}

// R7
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_may_not_list_find_and_make_files_by_name() {
    let w = world();
    w.put("there", "x");
    w.put("dir/file", "y");
    let m = w.mount();
    let refused = |operation| Rule::new(operation, Action::Status(403, "AccessDenied".into())).always();
    w.server.knobs().fail(refused("ListObjectsV2"));
    w.server.knobs().fail(refused("ListObjects"));
    assert_eq!(m.read("there").await.unwrap(), "x");
    assert!(m.find("missing").await.unwrap().is_none(), "the store said 404 of the key itself");
    m.write("made", b"new").await.unwrap();
    assert_eq!(w.get("made").unwrap(), "new");
    assert!(m.find("dir").await.unwrap().is_none(), "directories are what listings show");
    // As AWS answers keys without the right to list: a missing object looks like a forbidden one.
    w.server.knobs().fail(refused("HeadObject"));
    assert_eq!(kind(m.find("not-there-either").await), Kind::Denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn kernel_pages_follow_the_version() {
    let w = world();
    w.put("f", "one");
    let m = w.mount_with("metadata_ttl=0");
    let mut kept = Vec::new();
    for change in [false, false, true, false] {
        if change {
            w.put("f", "two");
        }
        let opened = m.open("f", read_only()).await.unwrap();
        kept.push(opened.keep_pages);
        m.close(opened.fh).await.unwrap();
    }
    assert_eq!(kept, [false, true, false, true]);
}

/// The store has the new version and its answer is still on the way: the bytes that are not in memory come from the
/// new one.
// R5 R22
#[tokio::test(flavor = "multi_thread")]
async fn a_read_while_a_commit_is_being_answered_sees_what_was_written() {
    let w = world();
    w.put("f", vec![b'o'; (24 * MIB) as usize]);
    let m = w.mount();
    let fh = m.open("f", read_write()).await.unwrap().fh;
    m.put_at(fh, 0, b"new").await.unwrap();
    w.server.knobs().fail(Rule::new("CompleteMultipartUpload", Action::Stall(std::time::Duration::from_secs(1))));
    let fs = m.0.clone();
    let commit = tokio::spawn(async move { fs.fsync(fh).await });
    let within = std::time::Duration::from_secs(20);
    common::eventually(within, "the store has the new version", || w.get("f").is_some_and(|f| f.starts_with("new")));
    assert_eq!(m.at(fh, 20 * MIB, 4).await.unwrap(), "oooo");
    commit.await.unwrap().unwrap();
    assert_eq!(m.at(fh, 0, 4).await.unwrap(), "newo");
    m.close(fh).await.unwrap();
}

/// A rename has deleted the old name, and the answer to that is still on its way.
// R48
#[tokio::test(flavor = "multi_thread")]
async fn a_read_while_a_rename_is_being_answered_goes_on() {
    let w = world();
    for (operation, from, to) in [("DeleteObject", "f", "g"), ("DeleteObjects", "d", "e")] {
        let path = |at: &str| if at == "d" || at == "e" { format!("{at}/f") } else { at.to_owned() };
        w.put(&path(from), vec![b'o'; (24 * MIB) as usize]);
        let m = w.mount();
        for mode in [read_only(), read_write()] {
            let fh = m.open(&path(from), mode).await.unwrap().fh;
            w.server.clear_log();
            w.server.knobs().fail(Rule::new(operation, Action::Stall(std::time::Duration::from_secs(1))));
            let (fs, source, target) = (m.0.clone(), from.to_owned(), to.to_owned());
            let rename = tokio::spawn(async move { Mount(fs).rename(&source, &target).await });
            let within = std::time::Duration::from_secs(20);
            common::eventually(within, "the old object is gone", || w.get(&path(from)).is_none());
            assert_eq!(m.at(fh, 20 * MIB, 4).await.unwrap(), "oooo", "{operation}");
            rename.await.unwrap().unwrap();
            m.close(fh).await.unwrap();
            m.rename(to, from).await.unwrap();
        }
    }
}

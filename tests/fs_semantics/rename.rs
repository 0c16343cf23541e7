//! Rename and delete.

use super::*;
use xosfs::demo::{Action, Rule};

#[tokio::test(flavor = "multi_thread")]
async fn rename_of_a_file_being_written() {
    let w = world();
    let m = w.mount();
    m.ls("").await;
    w.requests();
    let fh = m.create("new", read_write()).await.unwrap();
    m.put_at(fh, 0, b"written before").await.unwrap();
    m.rename("new", "renamed").await.unwrap();
    m.put_at(fh, 14, b" and after").await.unwrap();
    m.close(fh).await.unwrap();
    assert_eq!(w.requests(), counted(&[("PutObject", 1)]), "no copy of what is not stored yet");
    assert_eq!(w.get("renamed").unwrap(), "written before and after");
    assert_eq!(w.keys(), ["renamed"]);
    // A changed one is committed first, and its handle writes to the new name.
    let fh = m.open("renamed", read_write()).await.unwrap().fh;
    m.put_at(fh, 0, b"WRITTEN").await.unwrap();
    m.rename("renamed", "again").await.unwrap();
    assert_eq!(w.get("again").unwrap(), "WRITTEN before and after");
    m.put_at(fh, 8, b"BEFORE").await.unwrap();
    m.close(fh).await.unwrap();
    assert_eq!(w.get("again").unwrap(), "WRITTEN BEFORE and after");
    assert_eq!(w.keys(), ["again"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rename_noreplace() {
    let w = world();
    let m = w.mount();
    w.put("a", "a");
    w.put("b", "b");
    assert_eq!(m.rename_if("a", "b", true).await.unwrap_err().errno(), libc::EEXIST);
    assert_eq!(w.get("b").unwrap(), "b");
    m.rename_if("a", "c", true).await.unwrap();
    assert_eq!(w.keys(), ["b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unlink_removes_the_name_at_once() {
    let w = world();
    let m = w.mount();
    for listed in [false, true] {
        w.put("f", "x");
        w.put("g", "x");
        let m = w.mount();
        if listed {
            m.ls("").await;
        }
        m.unlink("f").await.unwrap();
        assert!(m.find("f").await.unwrap().is_none());
        assert_eq!(m.ls("").await, ["g"]);
        assert_eq!(w.keys(), ["g"]);
    }
    w.server.store().enable_versioning(BUCKET);
    w.put("kept", "in a version");
    m.unlink("kept").await.unwrap();
    assert_eq!(w.get("kept"), None);
    assert_eq!(w.server.store().versions(BUCKET, "kept").len(), 2, "the version and a delete marker");
}

#[tokio::test(flavor = "multi_thread")]
async fn rename_of_a_large_file_whose_parts_may_not_be_copied() {
    let w = world();
    w.server.store().put_synthetic(BUCKET, "large", 2 << 30);
    // Ceph 16 refuses copies of parts to every session of a role.
    w.server.knobs().fail(Rule::new("UploadPartCopy", Action::Status(403, "AccessDenied".into())).always());
    let m = w.mount();
    m.set("large", "user.s3.tags", "team=web").await.unwrap();
    m.rename("large", "moved").await.unwrap();
    assert_eq!(w.keys(), ["moved"]);
    assert_eq!(m.stat("moved").await.unwrap().attr.size, 2 << 30);
    assert_eq!(w.mount().attribute("moved", "user.s3.tags").await.unwrap(), "team=web");
    assert_eq!(w.server.store().uploads(BUCKET), vec![], "no upload is left behind");
}

/// The kernel took the mount away before it told of the last close.
// R47
#[tokio::test(flavor = "multi_thread")]
async fn an_unlinked_file_whose_last_close_nobody_tells_of_goes_with_the_mount() {
    let w = world();
    w.put("read", "old");
    w.put("replaced", "old");
    let m = w.mount();
    for name in ["read", "replaced"] {
        m.open(name, read_only()).await.unwrap();
        m.unlink(name).await.unwrap();
    }
    assert_eq!(w.keys(), ["read", "replaced"], "they go with their last close");
    // Somebody else's file of that name is not ours to delete.
    w.put("replaced", "new");
    let left = m.0.drain(std::time::Duration::from_secs(20)).await;
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(w.keys(), ["replaced"]);
}

// R44, R48
#[tokio::test(flavor = "multi_thread")]
async fn an_unlinked_file_that_is_still_read_does_not_come_back_with_its_directory() {
    let w = world();
    w.put("d/gone", "g".repeat(1 << 20));
    w.put("d/stays", "s");
    let m = w.mount();
    let fh = m.open("d/gone", read_only()).await.unwrap().fh;
    m.unlink("d/gone").await.unwrap();
    m.rename("d", "e").await.unwrap();
    assert_eq!(m.ls("e").await, ["stays"]);
    assert_eq!(m.at(fh, 900_000, 10).await.unwrap(), "gggggggggg");
    m.close(fh).await.unwrap();
    assert_eq!(w.keys(), ["e/stays"]);
    assert_eq!(w.mount().ls("").await, ["e/"]);
}

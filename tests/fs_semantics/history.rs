//! What was stored before: versions by name.

use super::*;

use xosfs::demo::{Action, Attributes, Rule};
use xosfs::fs::setattr::Change;

/// A bucket that keeps versions.
fn versioned() -> World {
    let w = world();
    w.server.store().enable_versioning(BUCKET);
    w
}

impl World {
    /// Ids of the versions of a key, the oldest first.
    fn ids(&self, key: &str) -> Vec<String> {
        self.server.store().versions(BUCKET, key)
    }
}

impl Mount {
    async fn attribute_of(&self, path: &str, name: &str) -> Result<String> {
        let ino = self.stat(path).await?.ino;
        self.getxattr(ino, name).await.map(|v| String::from_utf8(v).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_read_by_its_name() {
    let w = versioned();
    w.put_meta("d/f", "one", &[("mode", "33152"), ("mtime", "1000000000"), ("colour", "red")]);
    w.put("d/f", "second");
    w.put("d/f", "the third");
    let ids = w.ids("d/f");
    let m = w.mount();
    for (id, content) in ids.iter().zip(["one", "second", "the third"]) {
        let path = format!("d/f@@{id}");
        assert_eq!(m.read(&path).await.unwrap(), content);
        assert_eq!(m.stat(&path).await.unwrap().attr.size, content.len() as u64);
        assert_eq!(m.attribute_of(&path, "user.s3.version-id").await.unwrap(), *id);
    }
    let first = format!("d/f@@{}", ids[0]);
    let attr = m.stat(&first).await.unwrap().attr;
    assert_eq!((attr.perm, attr.mtime), (0o600, std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000)));
    assert_eq!(m.attribute_of(&first, "user.colour").await.unwrap(), "red");
    assert_eq!(m.attribute_of(&first, "user.s3.url").await.unwrap().matches("versionId=").count(), 1);
    assert_eq!(m.ls("d").await, ["f"], "never listed");
    // The file itself goes on as ever.
    m.write("d/f", b"by this mount").await.unwrap();
    assert_eq!(m.read(&first).await.unwrap(), "one");
    assert_eq!(m.read("d/f").await.unwrap(), "by this mount");
}

// R90
#[tokio::test(flavor = "multi_thread")]
async fn versions_of_deleted_and_odd_files_are_read_by_name() {
    let w = versioned();
    w.put("gone", "was here");
    w.put("a", "hidden by a directory");
    w.put("a/b", "x");
    w.put("at@@home", "a real name");
    let long = format!("{}.txt", "long".repeat(70));
    w.put(&long, "long");
    let (gone, hidden, at, long_id) = (w.ids("gone"), w.ids("a"), w.ids("at@@home"), w.ids(&long));
    let m = w.mount();
    m.unlink("gone").await.unwrap();
    assert!(m.find("gone").await.unwrap().is_none());
    assert_eq!(m.read(&format!("gone@@{}", gone[0])).await.unwrap(), "was here");
    let marker = w.ids("gone").pop().unwrap();
    assert!(m.find(&format!("gone@@{marker}")).await.unwrap().is_none(), "the mark of a deletion is no file");
    assert_eq!(m.read(&format!("a@@file@@{}", hidden[0])).await.unwrap(), "hidden by a directory");
    assert_eq!(m.read("at@@home").await.unwrap(), "a real name");
    assert_eq!(m.read(&format!("at@@home@@{}", at[0])).await.unwrap(), "a real name");
    let listed = m.ls("").await.into_iter().find(|n| n.starts_with("long")).unwrap();
    assert_eq!(m.read(&format!("{listed}@@{}", long_id[0])).await.unwrap(), "long");
}

// R90
#[tokio::test(flavor = "multi_thread")]
async fn unknown_versions_are_missing_and_their_names_free() {
    let w = versioned();
    w.put("f", "x");
    let id = w.ids("f").remove(0);
    let m = w.mount();
    for path in ["f@@", "f@@nonsense", "f@@null", "missing@@null", "@@v1", "f@@a b"] {
        assert!(m.find(path).await.unwrap().is_none(), "{path}");
    }
    assert!(m.find(&format!("other@@{id}")).await.unwrap().is_none(), "the version of another key");
    m.write("user@@host", b"an ordinary file").await.unwrap();
    assert_eq!(w.get("user@@host").unwrap(), "an ordinary file");
    // An object that is really called so wins over the version.
    let path = format!("f@@{id}");
    assert_eq!(m.read(&path).await.unwrap(), "x");
    w.put(&path, "an object of this name");
    assert_eq!(w.mount().read(&path).await.unwrap(), "an object of this name");
    // A store that may not be asked, and one without versions.
    let rule = Rule::new("HeadObject", Action::Status(403, "AccessDenied".into())).key("who").always();
    w.server.knobs().fail(rule);
    let listed = w.mount();
    listed.entries("").await.unwrap();
    listed.write("who@@where", b"not kept from being made").await.unwrap();
    w.server.knobs().clear_rules();
    assert_eq!(w.get("who@@where").unwrap(), "not kept from being made");
    let plain = world();
    plain.put("f", "x");
    let m = plain.mount();
    assert!(m.find("f@@v1").await.unwrap().is_none());
    assert_eq!(m.read("f@@null").await.unwrap(), "x", "what a bucket without versions calls its objects");
}

// R90
#[tokio::test(flavor = "multi_thread")]
async fn versions_cannot_be_changed() {
    let w = versioned();
    let tags = vec![("k".to_owned(), "first".to_owned())];
    w.server.store().put_with(BUCKET, "f", "one", Attributes { tags, ..Default::default() }, "public-read");
    w.put("f", "two");
    let path = format!("f@@{}", w.ids("f")[0]);
    let m = w.mount();
    assert_eq!(m.attribute_of(&path, "user.s3.tags").await.unwrap(), "k=first");
    assert_eq!(m.attribute_of(&path, "user.s3.acl").await.unwrap(), "public-read");
    assert_eq!(m.attribute_of("f", "user.s3.acl").await.unwrap(), "private");
    let ino = m.stat(&path).await.unwrap().ino;
    w.requests();
    assert_eq!(kind(m.open(&path, read_write()).await), Kind::ReadOnly);
    assert_eq!(kind(m.open(&path, OpenMode::of_flags(libc::O_RDONLY | libc::O_TRUNC)).await), Kind::ReadOnly);
    assert_eq!(kind(m.create(&path, read_write()).await), Kind::ReadOnly);
    assert_eq!(kind(m.setattr(ino, None, Change { perm: Some(0o600), ..Change::default() }).await), Kind::ReadOnly);
    assert_eq!(kind(m.setattr(ino, None, Change { size: Some(0), ..Change::default() }).await), Kind::ReadOnly);
    assert_eq!(kind(m.setxattr(ino, "user.s3.tags", b"k=v", false, false).await), Kind::ReadOnly);
    assert_eq!(kind(m.setxattr(ino, "user.k", b"v", false, false).await), Kind::ReadOnly);
    assert_eq!(kind(m.removexattr(ino, "user.s3.tags").await), Kind::ReadOnly);
    assert_eq!(kind(m.unlink(&path).await), Kind::ReadOnly);
    assert_eq!(kind(m.rename(&path, "g").await), Kind::ReadOnly);
    assert_eq!(kind(m.rename("f", &path).await), Kind::ReadOnly);
    assert_eq!(kind(m.attribute_of(&path, "user.s3.url.put").await), Kind::NoAttribute);
    assert_eq!(Kind::ReadOnly.errno(), libc::EROFS);
    let sent = w.requests();
    assert!(sent.keys().all(|op| ["HeadObject", "ListObjectsV2"].contains(&op.as_str())), "{sent:?}");
    assert_eq!((w.ids("f").len(), m.read(&path).await.unwrap().as_str()), (2, "one"));
    // A copy is an ordinary file.
    let (from, to) = (m.open(&path, read_only()).await.unwrap().fh, m.create("copy", read_write()).await.unwrap());
    assert_eq!(m.copy_range((from, 0), (to, 0), 100).await.unwrap(), 3);
    m.close(to).await.unwrap();
    assert_eq!(w.get("copy").unwrap(), "one");
    // What is open goes on being read while its directory is renamed; the version stays where it was.
    m.mkdir("d").await.unwrap();
    m.write("d/f", b"v1").await.unwrap();
    let id = w.ids("d/f").remove(0);
    let fh = m.open(&format!("d/f@@{id}"), read_only()).await.unwrap().fh;
    m.rename("d", "e").await.unwrap();
    assert_eq!(m.at(fh, 0, 10).await.unwrap(), "v1");
    assert_eq!(w.mount().find(&format!("e/f@@{id}")).await.unwrap().map(|e| e.ino), None);
}

// R90
#[tokio::test(flavor = "multi_thread")]
async fn names_without_a_version_cost_nothing_more() {
    let w = versioned();
    w.put("d/f", "x");
    let id = w.ids("d/f").remove(0);
    let m = w.mount();
    m.entries("d").await.unwrap();
    w.requests();
    assert!(m.find("d/missing").await.unwrap().is_none());
    assert!(m.find("d/f").await.unwrap().is_some());
    assert!(m.find("d/user@host").await.unwrap().is_none());
    assert_eq!(w.requests(), counted(&[]));
    m.stat(&format!("d/f@@{id}")).await.unwrap();
    assert_eq!(w.requests(), counted(&[("HeadObject", 1)]), "inside a listing");
    m.stat(&format!("d/f@@{id}")).await.unwrap();
    assert_eq!(w.requests(), counted(&[]), "known");
    let m = w.mount();
    let dir = m.stat("d").await.unwrap().ino;
    w.requests();
    m.lookup(dir, &name(&format!("f@@{id}"))).await.unwrap();
    assert_eq!(w.requests(), counted(&[("HeadObject", 2), ("ListObjectsV2", 1)]), "nothing listed");
}

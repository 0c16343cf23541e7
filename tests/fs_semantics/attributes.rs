//! Attributes, permissions and links.

use super::*;

use std::time::{Duration, UNIX_EPOCH};

use xosfs::fs::setattr::Change;

#[tokio::test(flavor = "multi_thread")]
async fn attributes_show_once_a_file_was_looked_at() {
    let w = world();
    w.put_meta("f", "x", &[("mode", "33152"), ("uid", "7"), ("mtime", "1000000000.5")]);
    let m = w.mount();
    let listed = m.entries("").await.unwrap().remove(0).1;
    assert_eq!(listed.attr.perm, 0o644, "a listing does not carry the mode");
    let told = m.getattr(listed.ino).await.unwrap();
    assert_eq!((told.attr.perm, told.attr.uid), (0o600, 7));
    assert_eq!(told.attr.mtime, UNIX_EPOCH + Duration::from_millis(1_000_000_000_500));
    let listed = m.entries("").await.unwrap().remove(0).1;
    assert_eq!((listed.attr.perm, listed.attr.uid), (0o600, 7), "known, and stays");
    // Looked up by name, and opened.
    let looked_up = w.mount().stat("f").await.unwrap();
    assert_eq!(looked_up.attr.perm, 0o600);
    let m = w.mount_with("metadata_ttl=0");
    let listed = m.entries("").await.unwrap().remove(0).1;
    m.read("f").await.unwrap();
    assert_eq!(m.stat("f").await.unwrap().attr.perm, 0o600);
    // Another version is another file's attributes.
    w.put("f", "other");
    let now = m.entries("").await.unwrap().remove(0).1;
    assert_eq!((now.ino, now.attr.perm, now.attr.size), (listed.ino, 0o644, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn times() {
    let w = world();
    let m = w.mount();
    m.write("f", b"content").await.unwrap();
    let then = UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    let ino = m.stat("f").await.unwrap().ino;
    let before = m.stat("f").await.unwrap().attr.ctime;
    let set = m.setattr(ino, None, Change { mtime: Some(then), ..Change::default() }).await.unwrap();
    assert_eq!(set.attr.mtime, then);
    assert!(set.attr.ctime >= before, "the change time is that of the last change");
    let whole = m.stat("f").await.unwrap().attr;
    m.read("f").await.unwrap();
    assert_eq!(m.stat("f").await.unwrap().attr, whole, "reading changes nothing");
    assert!(m.drain(Duration::from_secs(10)).await.is_empty());
    let kept = w.mount().stat("f").await.unwrap().attr.mtime;
    assert_eq!(kept, then, "kept by the store");
    let m = w.mount();
    m.write("f", b"changed").await.unwrap();
    assert!(m.stat("f").await.unwrap().attr.mtime > then + Duration::from_secs(1 << 20), "a write is a modification");
}

#[tokio::test(flavor = "multi_thread")]
async fn content_type_follows_the_name() {
    let w = world();
    let m = w.mount();
    let kind_of = |key: &str| w.server.store().head(BUCKET, key).unwrap().attributes.content_type.unwrap();
    for (name, expected) in [
        ("page.html", "text/html"),
        ("PICTURE.PNG", "image/png"),
        ("data.json", "application/json"),
        ("no-extension", "application/octet-stream"),
    ] {
        m.write(name, b"x").await.unwrap();
        assert_eq!(kind_of(name), expected, "{name}");
    }
    let fixed = w.mount_with("content_type=text/x-fixed");
    fixed.write("other.html", b"x").await.unwrap();
    assert_eq!(kind_of("other.html"), "text/x-fixed");
    // Changing and renaming keep the type.
    let m = w.mount();
    m.write("other.html", b"changed").await.unwrap();
    assert_eq!(kind_of("other.html"), "text/x-fixed");
    m.rename("other.html", "other.png").await.unwrap();
    assert_eq!(kind_of("other.png"), "text/x-fixed");
    let fh = m.open("other.png", read_write()).await.unwrap().fh;
    m.put_at(fh, 2, b"A").await.unwrap();
    m.close(fh).await.unwrap();
    assert_eq!((kind_of("other.png").as_str(), w.get("other.png").unwrap().as_str()), ("text/x-fixed", "chAnged"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stores_keys_decide() {
    let w = world();
    let readable = xosfs::demo::Attributes::default();
    w.server.store().put_with(BUCKET, "public", "p", readable, "public-read");
    w.put_meta("private", "x", &[("mode", "33279")]);
    let m = w.mount_source(BUCKET, "", w.server.second_user());
    // Bits that would allow it do not help, and bits that would forbid it do not hinder.
    for path in ["private", "missing"] {
        let error = m.find(path).await.unwrap_err();
        assert_eq!(error.errno(), libc::EACCES, "{path}: {error}");
    }
    assert_eq!(m.entries("").await.unwrap_err().errno(), libc::EACCES);
    assert_eq!(m.read("public").await.unwrap(), "p");
    assert_eq!(m.write("public", b"changed").await.unwrap_err().errno(), libc::EACCES);
    assert_eq!(w.get("public").unwrap(), "p");
    w.put_meta("locked", "readable all the same", &[("mode", "32768"), ("uid", "1")]);
    assert_eq!(w.mount().read("locked").await.unwrap(), "readable all the same");
}

// R65
#[tokio::test(flavor = "multi_thread")]
async fn symlinks_are_known_once_looked_up() {
    let w = world();
    // As s3fs stores a link: nothing in a listing tells it from a file.
    w.put_meta("link", "some/target", &[("mode", "41471")]);
    let m = w.mount();
    let listed = m.entries("").await.unwrap().remove(0).1;
    assert_eq!(listed.attr.kind, FileKind::File);
    // On ESTALE the kernel looks the name up again, and follows what it is then told.
    assert_eq!(kind(m.0.open(listed.ino, read_only()).await), Kind::Stale);
    let found = m.stat("link").await.unwrap();
    assert_eq!(found.attr.kind, FileKind::Symlink);
    assert_eq!(&*m.readlink(found.ino).await.unwrap(), "some/target");
    assert_eq!(m.entries("").await.unwrap()[0].1.attr.kind, FileKind::Symlink, "known from then on");
    // Looked up by name on a fresh mount it is a link from the start.
    assert_eq!(w.mount().stat("link").await.unwrap().attr.kind, FileKind::Symlink);
}

//! What was stored before: versions by name.

use super::*;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
    assert_eq!((attr.perm, attr.mtime), (0o600, UNIX_EPOCH + Duration::from_secs(1_000_000_000)));
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

/// Seconds of a day that the tests have for themselves.
fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_750_000_000 + second)
}

impl World {
    /// Stores a version as of `second`.
    fn put_at(&self, second: u64, key: &str, content: &'static str) {
        self.put(key, content);
        self.date(second, key);
    }

    fn date(&self, second: u64, key: &str) {
        let last = self.ids(key).pop().unwrap();
        self.server.store().set_time(BUCKET, key, &last, at(second));
    }

    /// The bucket as it was at `second`.
    fn mount_as_of(&self, second: u64, options: &str) -> Mount {
        let time = jiff::Timestamp::try_from(at(second)).unwrap();
        self.mount_with(&format!("as_of={time},{options}"))
    }
}

/// Every name below, with the content of files.
async fn tree(m: &Mount) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![String::new()];
    while let Some(dir) = todo.pop() {
        for name in m.ls(&dir).await {
            let path = if dir.is_empty() { name.clone() } else { format!("{dir}/{name}") };
            match path.strip_suffix('/') {
                Some(below) => {
                    todo.push(below.to_owned());
                    found.push(path);
                }
                None => found.push(format!("{path}={}", m.read(&path).await.unwrap())),
            }
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn as_of_shows_the_bucket_as_it_was() {
    let w = versioned();
    w.put_at(10, "f", "one");
    w.put_at(10, "d/kept", "kept");
    w.put_at(20, "f", "two");
    w.put_at(20, "d/late", "late");
    w.put_at(20, "new/file", "new");
    w.put_at(20, "a", "a");
    w.put_at(20, "a/b", "b");
    let now = w.mount();
    for (second, key) in [(30, "d/kept"), (30, "d/late"), (30, "f"), (40, "new/file")] {
        now.unlink(key).await.unwrap();
        w.date(second, key);
    }
    w.put_at(50, "f", "again");
    let steps: [(u64, &[&str]); 6] = [
        (9, &[]),
        (10, &["d/", "d/kept=kept", "f=one"]),
        (20, &["a/", "a/b=b", "a@@file=a", "d/", "d/kept=kept", "d/late=late", "f=two", "new/", "new/file=new"]),
        (30, &["a/", "a/b=b", "a@@file=a", "new/", "new/file=new"]),
        (49, &["a/", "a/b=b", "a@@file=a"]),
        (50, &["a/", "a/b=b", "a@@file=a", "f=again"]),
    ];
    for (second, expected) in steps {
        let m = w.mount_as_of(second, "");
        assert_eq!(tree(&m).await, expected, "at {second}");
        // The same by name, without a listing.
        let m = w.mount_as_of(second, "");
        for path in ["f", "d", "d/kept", "d/late", "new", "new/file", "a", "a/b", "a@@file", "missing"] {
            if path.contains('/') && m.find(path.split('/').next().unwrap()).await.unwrap().is_none() {
                continue;
            }
            let shown = expected.iter().find_map(|e| e.strip_prefix(path).filter(|rest| rest.starts_with(['/', '='])));
            match (m.find(path).await.unwrap(), shown) {
                (None, None) => {}
                (Some(entry), Some(rest)) if rest.starts_with('/') => {
                    assert_eq!(entry.attr.kind, FileKind::Dir, "{path}")
                }
                (Some(entry), Some(rest)) => {
                    assert_eq!(entry.attr.size as usize + 1, rest.len(), "{path}");
                    assert_eq!(format!("={}", m.read(path).await.unwrap()), rest, "{path}");
                }
                (entry, shown) => panic!("{path} at {second}: {entry:?}, expected {shown:?}"),
            }
        }
    }
}

// R92
#[tokio::test(flavor = "multi_thread")]
async fn the_past_does_not_change_and_cannot_be_changed() {
    let w = versioned();
    w.put_meta("d/", "", &[("mode", "16832")]);
    w.date(5, "d/");
    w.put_meta("d/f", "then", &[("mode", "33152"), ("colour", "red")]);
    w.date(10, "d/f");
    w.put_meta("link", "d/f", &[("mode", "41471")]);
    w.date(10, "link");
    let m = w.mount_as_of(15, "metadata_ttl=0");
    let fh = m.open("d/f", read_only()).await.unwrap().fh;
    w.put_at(20, "d/f", "later, and longer");
    w.put_at(20, "link", "no link any more");
    w.put_at(20, "d/", "");
    assert_eq!(m.at(fh, 0, 100).await.unwrap(), "then");
    assert_eq!(m.read("d/f").await.unwrap(), "then");
    let attr = m.stat("d/f").await.unwrap().attr;
    assert_eq!((attr.size, attr.perm, attr.mtime), (4, 0o600, at(10)));
    assert_eq!(m.attribute_of("d/f", "user.colour").await.unwrap(), "red");
    assert_eq!(m.stat("d").await.unwrap().attr.perm, 0o700, "the marker of the directory as it was");
    let link = m.stat("link").await.unwrap();
    assert_eq!(link.attr.kind, FileKind::Symlink);
    assert_eq!(&*m.readlink(link.ino).await.unwrap(), "d/f");
    assert_eq!(m.read(&format!("d/f@@{}", w.ids("d/f")[1])).await.unwrap(), "later, and longer", "versions by name");
    w.requests();
    assert_eq!(kind(m.open("d/f", read_write()).await), Kind::ReadOnly);
    assert_eq!(kind(m.create("new", read_write()).await), Kind::ReadOnly);
    assert_eq!(kind(m.mkdir("new").await), Kind::ReadOnly);
    assert_eq!(kind(m.unlink("d/f").await), Kind::ReadOnly);
    assert_eq!(kind(m.rename("d/f", "g").await), Kind::ReadOnly);
    // A version that somebody deletes for good is gone from the past, too.
    let then = w.ids("d/f").remove(0);
    now_without(&w, "d/f", &then).await;
    assert!(m.find("d/f").await.unwrap().is_none());
    assert_eq!(m.ls("d").await, Vec::<String>::new());
}

async fn now_without(w: &World, key: &str, id: &str) {
    let m = w.mount();
    m.s3.delete_version(&xosfs::key::Key::new(key).unwrap(), id).await.unwrap();
}

// R92
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_the_past_streams() {
    let w = versioned();
    w.server.knobs().set(|b| b.page_size = Some(10));
    // Keys with more versions than a page, pages that show nothing, directories that were there and that were not.
    for i in 0..30 {
        let key = format!("f{i:02}");
        for second in [10, 20, 30] {
            w.put_at(second, &key, "x");
        }
    }
    for second in 10..40 {
        w.put_at(second, "many", "y");
    }
    for i in 0..25 {
        w.put_at(30, &format!("later{i:02}"), "z");
    }
    w.put_at(10, "there/a", "a");
    w.put_at(30, "not/a", "a");
    let m = w.mount_as_of(25, "");
    let expected: Vec<String> = (0..30).map(|i| format!("f{i:02}")).chain(["many".into(), "there/".into()]).collect();
    assert_eq!(m.ls("").await, expected);
    let size = m.stat("many").await.unwrap().attr.size;
    assert_eq!(size, 1);
    w.server.knobs().set(|b| b.page_size = None);
    // No request for a single file: one listing of versions, one for each directory in it.
    let m = w.mount_as_of(25, "");
    w.requests();
    let entries = m.entries("").await.unwrap();
    assert_eq!(entries.len(), 32);
    assert_eq!(w.requests(), counted(&[("ListObjectVersions", 3)]));
    m.read("f00").await.unwrap();
    assert_eq!(w.requests(), counted(&[("GetObject", 1)]));
    m.stat("there").await.unwrap();
    assert!(m.find("missing").await.unwrap().is_none());
}

// R91
#[tokio::test(flavor = "multi_thread")]
async fn versions_are_a_directory_on_request() {
    let w = versioned();
    w.put_at(10, "d/f", "one");
    w.put_at(20, "d/f", "two!");
    w.put_at(10, "d/gone", "was here");
    w.put_at(10, "d/both", "a file");
    w.put_at(10, "d/both/file", "below");
    w.put_at(10, "d/lost/file", "in a lost directory");
    let now = w.mount();
    for key in ["d/gone", "d/lost/file"] {
        now.unlink(key).await.unwrap();
        w.date(30, key);
    }
    w.put_at(40, "d/f", "three");
    let m = w.mount_with("versions=dir");
    assert_eq!(m.ls("d").await, ["both/", "both@@file", "f"], "not listed");
    w.requests();
    assert_eq!(m.ls("d/.versions").await, ["both/", "both@@file/", "f/", "gone/", "lost/"]);
    let stamp =
        |second: u64| jiff::Timestamp::try_from(at(second)).unwrap().strftime("%Y-%m-%dT%H.%M.%S.000Z").to_string();
    let ids = w.ids("d/f");
    let expected: Vec<String> =
        [40, 20, 10].iter().zip(ids.iter().rev()).map(|(second, id)| format!("{} {id}", stamp(*second))).collect();
    assert_eq!(m.ls("d/.versions/f").await, expected);
    let sent = w.requests();
    assert_eq!(sent, counted(&[("ListObjectVersions", 2)]), "no request for a single version");
    for (version, content) in expected.iter().zip(["three", "two!", "one"]) {
        let path = format!("d/.versions/f/{version}");
        assert_eq!(m.read(&path).await.unwrap(), content);
        let attr = m.stat(&path).await.unwrap().attr;
        assert_eq!(attr.size, content.len() as u64);
    }
    assert_eq!(m.stat(&format!("d/.versions/f/{}", expected[2])).await.unwrap().attr.mtime, at(10));
    assert_eq!(m.ls("d/.versions/gone").await.len(), 1, "without the mark of its deletion");
    assert_eq!(m.ls("d/.versions/lost").await, ["file/"]);
    let lost = m.ls("d/.versions/lost/file").await.remove(0);
    assert_eq!(m.read(&format!("d/.versions/lost/file/{lost}")).await.unwrap(), "in a lost directory");
    assert_eq!(m.ls("d/.versions/both").await, ["file/"]);
    assert_eq!(m.ls("d/.versions/both@@file").await.len(), 1);
    // By name alone, on a mount that has listed nothing.
    let m = w.mount_with("versions=dir");
    assert_eq!(m.read(&format!("d/.versions/f/{}", expected[1])).await.unwrap(), "two!");
    assert!(m.find("d/.versions/missing").await.unwrap().is_none());
    assert!(m.find(&format!("d/.versions/gone/{}", expected[1])).await.unwrap().is_none(), "of another file");
    assert!(m.find("d/.versions/f/nonsense").await.unwrap().is_none());
    assert_eq!(m.stat("d/.versions").await.unwrap().attr.kind, FileKind::Dir);
    assert_eq!(m.ls(".versions").await, ["d/"]);
    assert_eq!(m.ls("d/both/.versions").await, ["file/"]);
    // Not asked for, it is a name like any other; and an object of that name is that object.
    assert!(w.mount().find("d/.versions").await.unwrap().is_none());
    w.put("real/.versions", "an object");
    assert_eq!(w.mount_with("versions=dir").read("real/.versions").await.unwrap(), "an object");
}

// R91
#[tokio::test(flavor = "multi_thread")]
async fn directories_of_versions_cannot_be_changed() {
    let w = versioned();
    w.put_at(10, "d/f", "one");
    w.put_at(20, "d/f", "two");
    let m = w.mount_with("versions=dir,metadata_ttl=0");
    let old = format!("d/.versions/f/{}", m.ls("d/.versions/f").await[1]);
    let (versions, of_file) = (m.stat("d/.versions").await.unwrap().ino, m.stat("d/.versions/f").await.unwrap().ino);
    let chmod = || Change { perm: Some(0o777), ..Change::default() };
    w.requests();
    for dir in ["d/.versions", "d/.versions/f"] {
        let new = format!("{dir}/new");
        assert_eq!(kind(m.create(&new, read_write()).await), Kind::ReadOnly, "{dir}");
        assert_eq!(kind(m.mkdir(&new).await), Kind::ReadOnly, "{dir}");
        assert_eq!(kind(m.symlink(m.stat(dir).await.unwrap().ino, &name("new"), "x", OWNER).await), Kind::ReadOnly);
        assert_eq!(kind(m.rename("d/f", &new).await), Kind::ReadOnly, "{dir}");
        assert_eq!(kind(m.rename(dir, "elsewhere").await), Kind::ReadOnly, "{dir}");
        let (parent, last) = m.parent(dir).await;
        assert_eq!(kind(m.rmdir(parent, &name(last)).await), Kind::ReadOnly, "{dir}");
        let ino = m.stat(dir).await.unwrap().ino;
        assert_eq!(kind(m.setattr(ino, None, chmod()).await), Kind::ReadOnly, "{dir}");
        assert_eq!(kind(m.setxattr(ino, "user.k", b"v", false, false).await), Kind::ReadOnly, "{dir}");
        assert_eq!(kind(m.getxattr(ino, "user.s3.etag").await), Kind::NoAttribute, "{dir}");
        assert_eq!(m.getattr(ino).await.unwrap().attr.perm, 0o555, "{dir}");
    }
    assert_eq!(kind(m.open(&old, read_write()).await), Kind::ReadOnly);
    assert_eq!(kind(m.unlink(&old).await), Kind::ReadOnly);
    assert_eq!(kind(m.rename(&old, "d/f").await), Kind::ReadOnly);
    assert_eq!(kind(m.mkdir("d/.versions").await), Kind::Exists);
    let changes =
        w.requests().into_keys().filter(|op| op.starts_with("Put") || op.starts_with("Delete") || op == "CopyObject");
    assert_eq!(changes.collect::<Vec<_>>(), Vec::<String>::new());
    assert_eq!(m.getattr(versions).await.unwrap().attr.kind, m.getattr(of_file).await.unwrap().attr.kind);
    // What cp does to bring a version back.
    let (from, to) = (
        m.open(&old, read_only()).await.unwrap().fh,
        m.open("d/f", OpenMode::of_flags(libc::O_RDWR | libc::O_TRUNC)).await.unwrap().fh,
    );
    m.copy_range((from, 0), (to, 0), 100).await.unwrap();
    m.close(to).await.unwrap();
    assert_eq!(w.get("d/f").unwrap(), "one");
    assert_eq!(m.ls("d/.versions/f").await.len(), 3);
    // What this mount stores shows at once.
    let m = w.mount_with("versions=dir");
    assert!(m.find("d/.versions/g").await.unwrap().is_none());
    assert_eq!((m.ls("d/.versions").await.len(), m.ls("d/.versions/f").await.len()), (1, 3));
    m.write("d/f", b"four").await.unwrap();
    m.write("d/g", b"new").await.unwrap();
    assert_eq!((m.ls("d/.versions").await.len(), m.ls("d/.versions/f").await.len()), (2, 4));
    assert!(m.find("d/.versions/g").await.unwrap().is_some());
    // A renamed directory has the history of its new name.
    m.rename("d", "e").await.unwrap();
    assert_eq!(m.ls("e").await, ["f", "g"]);
    assert_eq!(m.ls("e/.versions/f").await.len(), 1);
    assert_eq!(m.ls(".versions").await, ["d/", "e/"]);
    assert_eq!(m.ls(".versions/d/f").await.len(), 4);
}

// R91
#[tokio::test(flavor = "multi_thread")]
async fn long_histories_are_listed_in_pages() {
    let w = versioned();
    for second in 0..45 {
        w.put_at(second, "f", "x");
    }
    for i in 0..25 {
        w.put_at(1, &format!("g{i:02}"), "y");
        w.put_at(2, &format!("g{i:02}"), "z");
    }
    w.server.knobs().set(|b| b.page_size = Some(10));
    let m = w.mount_with("versions=dir");
    let listed = m.ls(".versions/f").await;
    assert_eq!(listed.len(), 45);
    assert!(listed.is_sorted_by(|a, b| a > b), "newest first");
    assert_eq!(m.ls(".versions").await.len(), 26);
    let oldest = format!(".versions/f/{}", listed[44]);
    assert_eq!(w.mount_with("versions=dir").stat(&oldest).await.unwrap().attr.size, 1);
}

//! Attributes, permissions and links.

use super::*;

use std::time::{Duration, UNIX_EPOCH};

use xosfs::demo::{Action, Attributes, Rule};
use xosfs::fs::setattr::Change;

impl Mount {
    pub(super) async fn attribute(&self, path: &str, name: &str) -> Result<String> {
        let ino = self.stat(path).await?.ino;
        self.getxattr(ino, name).await.map(|v| String::from_utf8(v).unwrap())
    }

    pub(super) async fn set(&self, path: &str, name: &str, value: &str) -> Result<()> {
        let ino = self.stat(path).await?.ino;
        self.setxattr(ino, name, value.as_bytes(), false, false).await
    }

    async fn unset(&self, path: &str, name: &str) -> Result<()> {
        let ino = self.stat(path).await?.ino;
        self.removexattr(ino, name).await
    }
}

const POLICY: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::bucket/*"}]}"#;

/// The errno of the error that has to be there.
#[track_caller]
fn errno<T>(result: Result<T>) -> i32 {
    match result {
        Ok(_) => panic!("succeeded"),
        Err(e) => e.errno(),
    }
}

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

// XOS-ACL-01, XOS-ACL-03, OBS-ACL-03, OBS-ACL-16
#[tokio::test(flavor = "multi_thread")]
async fn an_acl_is_shown_and_changed_as_name_lines_and_json() {
    let w = world();
    w.put("f", "x");
    let m = w.mount();
    assert_eq!(m.attribute("f", "user.s3.acl").await.unwrap(), "private");
    m.set("f", "user.s3.acl", "public-read").await.unwrap();
    assert_eq!(m.attribute("f", "user.s3.acl").await.unwrap(), "public-read");
    let owner = m.attribute("f", "user.s3.owner").await.unwrap();
    let id = owner.split(' ').next().unwrap().to_owned();
    let lines = m.attribute("f", "user.s3.acl.grants").await.unwrap();
    assert_eq!(lines, format!("FULL_CONTROL id={id}\nREAD AllUsers\n"));
    let other = w.server.second_user().user_id;
    m.set("f", "user.s3.acl.grants", &format!("READ id={other}\nREAD_ACP AuthenticatedUsers\n")).await.unwrap();
    assert_eq!(m.attribute("f", "user.s3.acl").await.unwrap(), "custom");
    let json = m.attribute("f", "user.s3.acl.json").await.unwrap();
    assert!(json.contains(&other) && json.contains(&id), "{json}");
    // The second user may read it now, and still may when it was rewritten, renamed and changed.
    let theirs = w.mount_source(BUCKET, "", w.server.second_user());
    assert_eq!(theirs.read("f").await.unwrap(), "x");
    m.write("f", b"changed").await.unwrap();
    m.rename("f", "g").await.unwrap();
    m.set("g", "user.note", "x").await.unwrap();
    assert!(m.drain(Duration::from_secs(10)).await.is_empty());
    assert_eq!(theirs.read("g").await.unwrap(), "changed");
    assert_eq!(w.mount().attribute("g", "user.s3.acl.json").await.unwrap(), json);
    let m = w.mount();
    m.set("g", "user.s3.acl.json", &json.replace(&other, &id)).await.unwrap();
    assert_eq!(errno(w.mount_source(BUCKET, "", w.server.second_user()).read("g").await), libc::EACCES);
    m.unset("g", "user.s3.acl").await.unwrap();
    assert_eq!(m.attribute("g", "user.s3.acl").await.unwrap(), "private");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acl_of_the_mount_is_for_new_files_only() {
    let w = world();
    w.put("old", "private");
    let m = w.mount_with("acl=public-read,tags=a=1&b=%26");
    m.write("new", b"x").await.unwrap();
    m.write("old", b"y").await.unwrap();
    let look = w.mount();
    assert_eq!(look.attribute("new", "user.s3.acl").await.unwrap(), "public-read");
    assert_eq!(look.attribute("new", "user.s3.tags").await.unwrap(), "a=1&b=%26");
    assert_eq!(look.attribute("old", "user.s3.acl").await.unwrap(), "private");
    assert_eq!(errno(look.attribute("old", "user.s3.tags").await), libc::ENODATA);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acl_that_is_not_kept_fails_safe() {
    let w = world();
    w.put("f", "x");
    let m = w.mount();
    m.set("f", "user.s3.acl.grants", "READ_ACP AuthenticatedUsers").await.unwrap();
    w.server.knobs().fail(Rule::new("PutObjectAcl", Action::Status(403, "AccessDenied".into())).times(2));
    let error = m.write("f", b"changed").await.unwrap_err();
    assert_eq!(error.errno(), libc::EACCES);
    assert!(error.to_string().contains("the content is stored"), "{error}");
    assert_eq!(w.get("f").unwrap(), "changed");
    assert_eq!(w.mount().attribute("f", "user.s3.acl").await.unwrap(), "private");
}

// XOS-TAG-05, XOS-TAG-09
#[tokio::test(flavor = "multi_thread")]
async fn tags_do_not_change_the_time() {
    let w = world();
    w.put("f", "x");
    let m = w.mount();
    let before = m.stat("f").await.unwrap().attr.mtime;
    let etag = m.attribute("f", "user.s3.etag").await.unwrap();
    m.set("f", "user.s3.tags", "a=1").await.unwrap();
    m.set("f", "user.s3.tag.b c", "2 & 3").await.unwrap();
    m.set("f", "user.s3.acl", "public-read").await.unwrap();
    assert_eq!(m.attribute("f", "user.s3.tags").await.unwrap(), "a=1&b%20c=2%20%26%203");
    m.unset("f", "user.s3.tag.a").await.unwrap();
    assert_eq!(errno(m.unset("f", "user.s3.tag.a").await), libc::ENODATA);
    assert_eq!(m.attribute("f", "user.s3.tag.b c").await.unwrap(), "2 & 3");
    let look = w.mount();
    assert_eq!(look.stat("f").await.unwrap().attr.mtime, before);
    assert_eq!(look.attribute("f", "user.s3.etag").await.unwrap(), etag);
    assert!(!w.requests().contains_key("CopyObject"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_copy_keeps_the_time_of_an_object_without_one() {
    let w = world();
    w.put("f", "x");
    let m = w.mount();
    let before = m.stat("f").await.unwrap().attr.mtime;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    m.set("f", "user.note", "x").await.unwrap();
    assert!(m.drain(Duration::from_secs(10)).await.is_empty());
    assert_eq!(w.mount().stat("f").await.unwrap().attr.mtime, before);
}

// XOS-TAG-04, XOS-TAG-07, OBS-ACL-21
#[tokio::test(flavor = "multi_thread")]
async fn bad_values_are_refused_before_they_are_sent() {
    let w = world();
    w.put("f", "x");
    let m = w.mount();
    m.stat("f").await.unwrap();
    w.requests();
    let eleven = (0..11).map(|i| format!("k{i}=v")).collect::<Vec<_>>().join("&");
    let long = "k".repeat(129);
    let grants = "READ AllUsers\n".repeat(101);
    for (name, value, expected) in [
        ("user.s3.tags", eleven.as_str(), libc::ENOSPC),
        ("user.s3.tags", "a=1&a=2", libc::EINVAL),
        (&format!("user.s3.tag.{long}"), "v", libc::ERANGE),
        ("user.s3.acl", "everybody", libc::EINVAL),
        ("user.s3.acl", "public-read-delivered", libc::EINVAL),
        ("user.s3.acl.grants", "WRITE AllUsers", libc::EINVAL),
        ("user.s3.acl.grants", grants.as_str(), libc::ENOSPC),
        ("user.s3.acl.json", "{}", libc::EINVAL),
        ("user.s3.storage-class", "two words", libc::EINVAL),
        ("user.s3.content-type", "a\nb", libc::EINVAL),
        ("user.s3.restore", "soon", libc::EINVAL),
        ("user.s3.expires", "tomorrow", libc::EINVAL),
        ("user.s3.etag", "x", libc::EPERM),
        ("user.s3.owner", "x", libc::EPERM),
        ("user.s3.versions", "x", libc::EPERM),
        ("user.s3.url", "x", libc::EPERM),
        ("user.s3.nonsense", "x", libc::EOPNOTSUPP),
        ("user.mtime", "1", libc::EINVAL),
        ("trusted.x", "x", libc::EOPNOTSUPP),
    ] {
        assert_eq!(errno(m.set("f", name, value).await), expected, "{name}={value:.40}");
    }
    for (name, expected) in [
        ("user.s3.nonsense", libc::ENODATA),
        ("user.absent", libc::ENODATA),
        ("user.s3.etag", libc::EPERM),
        ("user.s3.acl.grants", libc::EPERM),
        ("security.selinux", libc::ENODATA),
    ] {
        assert_eq!(errno(m.unset("f", name).await), expected, "{name}");
    }
    assert_eq!(w.requests(), counted(&[]));
    let read_only = w.mount_with("ro");
    assert_eq!(errno(read_only.set("f", "user.s3.tags", "a=1").await), libc::EROFS);
    w.server.knobs().set(|b| (b.no_acl, b.no_tagging) = (true, true));
    let m = w.mount();
    assert_eq!(errno(m.set("f", "user.s3.acl", "private").await), libc::EOPNOTSUPP);
    assert_eq!(errno(m.attribute("f", "user.s3.tags").await), libc::EOPNOTSUPP);
    w.requests();
    assert_eq!(errno(m.attribute("f", "user.s3.acl").await), libc::EOPNOTSUPP);
    assert_eq!(errno(m.set("f", "user.s3.tags", "a=1").await), libc::EOPNOTSUPP);
    assert_eq!(w.requests(), counted(&[]), "remembered");
    // What is not there need not be kept.
    m.write("f", b"changed").await.unwrap();
    assert_eq!(w.get("f").unwrap(), "changed");
}

// XATTR_CREATE, XATTR_REPLACE
#[tokio::test(flavor = "multi_thread")]
async fn an_attribute_can_be_made_or_replaced_only() {
    let w = world();
    w.put("f", "x");
    let m = w.mount();
    let ino = m.stat("f").await.unwrap().ino;
    assert_eq!(errno(m.setxattr(ino, "user.note", b"x", false, true).await), libc::ENODATA);
    m.setxattr(ino, "user.note", b"x", true, false).await.unwrap();
    assert_eq!(errno(m.setxattr(ino, "user.note", b"y", true, false).await), libc::EEXIST);
    m.setxattr(ino, "user.note", b"y", false, true).await.unwrap();
    assert_eq!(m.attribute("f", "user.note").await.unwrap(), "y");
    assert_eq!(m.listxattr_now(ino).unwrap().unwrap(), ["user.note"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_is_started_by_an_attribute() {
    let w = world();
    let archived = Attributes { storage_class: Some("GLACIER".into()), ..Default::default() };
    w.server.store().put_with(BUCKET, "archived", "x", archived, "private");
    w.put("plain", "x");
    w.server.knobs().set(|b| b.restore_delay = Duration::from_millis(1500));
    let m = w.mount();
    assert_eq!(m.attribute("plain", "user.s3.restore").await.unwrap(), "none");
    assert_eq!(m.attribute("archived", "user.s3.restore").await.unwrap(), "archived");
    assert_eq!(errno(m.read("archived").await), libc::EACCES);
    m.set("archived", "user.s3.restore", "3,expedited").await.unwrap();
    assert_eq!(m.attribute("archived", "user.s3.restore").await.unwrap(), "in-progress");
    assert_eq!(errno(m.set("archived", "user.s3.restore", "3").await), libc::EALREADY);
    assert_eq!(errno(m.set("plain", "user.s3.restore", "3").await), libc::EINVAL);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let state = w.mount().attribute("archived", "user.s3.restore").await.unwrap();
        if state.starts_with("until ") {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{state}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(w.mount().read("archived").await.unwrap(), "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marker_keeps_what_it_has() {
    let w = world();
    let attributes = Attributes {
        tags: vec![("a".into(), "1".into())],
        metadata: [("note".to_owned(), "kept".to_owned())].into(),
        storage_class: Some("STANDARD_IA".into()),
        ..Default::default()
    };
    w.server.store().put_with(BUCKET, "d/", "", attributes, "public-read");
    let m = w.mount();
    let ino = m.stat("d").await.unwrap().ino;
    m.setattr(ino, None, Change { perm: Some(0o700), ..Change::default() }).await.unwrap();
    assert!(m.drain(Duration::from_secs(10)).await.is_empty());
    let look = w.mount();
    assert_eq!(look.getattr(look.stat("d").await.unwrap().ino).await.unwrap().attr.perm, 0o700);
    for (name, value) in [
        ("user.s3.tags", "a=1"),
        ("user.note", "kept"),
        ("user.s3.acl", "public-read"),
        ("user.s3.storage-class", "STANDARD_IA"),
    ] {
        assert_eq!(look.attribute("d", name).await.unwrap(), value, "{name}");
    }
    look.set("d", "user.note", "changed").await.unwrap();
    assert_eq!(w.mount().attribute("d", "user.note").await.unwrap(), "changed");
    assert_eq!(w.mount().attribute("d", "user.s3.tags").await.unwrap(), "a=1");
    // One that this mount has made is simply written again.
    let m = w.mount();
    let ino = m.mkdir("own").await.unwrap().ino;
    w.requests();
    m.setattr(ino, None, Change { perm: Some(0o700), ..Change::default() }).await.unwrap();
    assert!(m.drain(Duration::from_secs(10)).await.is_empty());
    assert_eq!(w.requests(), counted(&[("PutObject", 1)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_settings_of_the_bucket_are_attributes() {
    let w = world();
    let m = w.mount();
    assert_eq!(m.attribute("", "user.s3.bucket.versioning").await.unwrap(), "Off");
    m.set("", "user.s3.bucket.versioning", "enabled").await.unwrap();
    assert_eq!(m.attribute("", "user.s3.bucket.versioning").await.unwrap(), "Enabled");
    for content in ["1", "22"] {
        m.write("f", content.as_bytes()).await.unwrap();
    }
    let versions = m.attribute("f", "user.s3.versions").await.unwrap();
    let lines: Vec<Vec<&str>> = versions.lines().map(|l| l.split(' ').collect()).collect();
    assert_eq!(lines.len(), 2, "{versions}");
    assert_eq!(lines[0][2..], ["2", "STANDARD", "latest"]);
    assert_eq!(lines[1][2..], ["1", "STANDARD"]);
    assert_eq!(m.attribute("f", "user.s3.version-id").await.unwrap(), lines[0][0]);
    m.set("", "user.s3.bucket.tags", "team=a%26b").await.unwrap();
    assert_eq!(m.attribute("", "user.s3.bucket.tags").await.unwrap(), "team=a%26b");
    m.unset("", "user.s3.bucket.tags").await.unwrap();
    assert_eq!(errno(m.attribute("", "user.s3.bucket.tags").await), libc::ENODATA);
    let policy = POLICY;
    assert_eq!(errno(m.attribute("", "user.s3.bucket.policy").await), libc::ENODATA);
    m.set("", "user.s3.bucket.policy", policy).await.unwrap();
    assert_eq!(m.attribute("", "user.s3.bucket.policy").await.unwrap(), policy);
    m.unset("", "user.s3.bucket.policy").await.unwrap();
    assert_eq!(errno(m.set("", "user.s3.bucket.policy", "no JSON").await), libc::EINVAL);
    assert_eq!(errno(m.set("", "user.s3.bucket.location", "x").await), libc::EPERM);
    assert_eq!(errno(m.set("f", "user.s3.bucket.acl", "private").await), libc::EPERM);
    m.set("", "user.s3.bucket.acl", "public-read").await.unwrap();
    assert_eq!(m.attribute("", "user.s3.bucket.acl").await.unwrap(), "public-read");
    let url = m.attribute("f", "user.s3.url").await.unwrap();
    assert!(url.starts_with(&w.server.endpoint()) && url.contains("X-Amz-Expires=3600"));
    assert!(!format!("{:?}", m.listxattr(m.stat("f").await.unwrap().ino).await.unwrap()).contains("url"));
}

/// `docs/ATTRIBUTES.md`: name, and what reading, setting and removing it sends, or its error.
fn documented_costs() -> Vec<[String; 4]> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ATTRIBUTES.md");
    let text = std::fs::read_to_string(path).unwrap();
    let section = text.split("## What they cost").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter(|l| l.starts_with("| `user."));
    rows.map(|l| {
        let cells: Vec<String> = l.trim_matches('|').split('|').map(|c| c.trim().replace('`', "")).collect();
        cells.try_into().expect("four columns")
    })
    .collect()
}

// R115
#[tokio::test(flavor = "multi_thread")]
async fn every_attribute_costs_what_the_document_says() {
    let w = world();
    let make = || {
        let attributes = Attributes {
            content_type: Some("text/plain".into()),
            cache_control: Some("no-cache".into()),
            tags: vec![("a".into(), "1".into()), ("KEY".into(), "1".into())],
            metadata: [("name".to_owned(), "x".to_owned())].into(),
            ..Default::default()
        };
        w.server.store().put_with(BUCKET, "f", "content", attributes, "private");
    };
    let sent = |result: Result<()>| {
        let counts = w.requests();
        match result {
            Err(e) if counts.is_empty() => format!("{:?}", nix::errno::Errno::from_raw(e.errno())),
            _ if counts.is_empty() => "none".to_owned(),
            _ => counts
                .iter()
                .map(|(op, n)| if *n == 1 { op.clone() } else { format!("{n} {op}") })
                .collect::<Vec<_>>()
                .join(" + "),
        }
    };
    let rows = documented_costs();
    assert!(rows.len() >= 30);
    let mut wrong = Vec::new();
    for [name, read, write, remove] in &rows {
        let value = match name.rsplit('.').next().unwrap() {
            "acl" => "public-read",
            "grants" => "READ AllUsers",
            "json" => r#"{"Grants":[]}"#,
            "tags" => "a=1",
            "storage-class" => "STANDARD_IA",
            "restore" => "3",
            "expires" => "Thu, 01 Jan 2032 00:00:00 GMT",
            "versioning" => "Suspended",
            "policy" => POLICY,
            "cors" => r#"{"CORSRules":[{"AllowedMethods":["GET"],"AllowedOrigins":["*"]}]}"#,
            "lifecycle" => {
                r#"{"Rules":[{"ID":"a","Filter":{"Prefix":""},"Status":"Enabled","Expiration":{"Days":1}}]}"#
            }
            _ => "text/x-test",
        };
        let root = name.contains(".bucket.");
        for (what, expected) in [("read", read), ("write", write), ("remove", remove)] {
            make();
            // A file of which only a listing is known.
            let m = w.mount();
            let ino = if root { ROOT } else { m.entries("").await.unwrap()[0].1.ino };
            w.requests();
            let result = match what {
                "read" => m.getxattr(ino, name).await.map(|_| ()),
                "write" => m.setxattr(ino, name, value.as_bytes(), false, false).await,
                _ => m.removexattr(ino, name).await,
            };
            let _ = m.drain(Duration::from_secs(10)).await;
            let found = sent(result);
            if found != *expected {
                wrong.push(format!("{what} {name}: sent {found}, the document says {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A PUT that is on its way to the store arrives after whatever comes later.
// R44 R53
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_removed_does_not_come_back_with_its_attributes() {
    for renamed in [false, true] {
        let w = world();
        let m = w.mount();
        m.mkdir("d").await.unwrap();
        let ino = m.stat("d").await.unwrap().ino;
        let requests = || w.server.log().iter().filter(|r| r.operation == "PutObject").count();
        let before = requests();
        w.server.knobs().set(|b| b.latency = Duration::from_millis(1500));
        m.setattr(ino, None, Change { perm: Some(0o700), ..Change::default() }).await.unwrap();
        while requests() == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        w.server.knobs().set(|b| b.latency = Duration::ZERO);
        if renamed {
            m.rename("d", "e").await.unwrap();
        } else {
            m.0.rmdir(ROOT, &Name::parse(std::ffi::OsStr::new("d")).unwrap()).await.unwrap();
        }
        assert!(m.drain(Duration::from_secs(20)).await.is_empty());
        tokio::time::sleep(Duration::from_millis(1600)).await;
        let left: &[&str] = if renamed { &["e/"] } else { &[] };
        assert_eq!(w.keys(), left);
    }
}

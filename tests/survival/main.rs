//! What survives what: every attribute through every operation, on a real mount. What is found is compared with the
//! table in `docs/SEMANTICS.md` (R110), so that neither can drift.
//!
//! 1. Objects are made by the client library as another tool would make them, changed through a mount, and looked at
//!    with the client again after the mount has ended: what the mount itself remembers does not count.
//! 2. A canned ACL and a list of grants exclude each other, so each operation meets two files, and a link.
//! 3. With `XOSFS_TEST_S3` the server is another one. The table holds for Ceph's gateway without exception.

#![cfg(feature = "demo")]

#[path = "../common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use common::{TestMount, TestServer, try_sh};
use xosfs::config::credentials::Credentials;
use xosfs::key::Key;
use xosfs::s3::*;

/// Rows of the table.
const ATTRIBUTES: [&str; 11] = [
    "mode",
    "owner and group",
    "modification time",
    "link target",
    "user metadata",
    "content type",
    "the five other headers",
    "tags",
    "canned ACL",
    "ACL grants",
    "storage class",
];

/// Columns of the table: name, what is run on the file `f` of the operation's directory, and where it is then.
const OPERATIONS: [(&str, &str, &str); 12] = [
    ("change in place", "printf X | dd of=$f conv=notrunc status=none", ""),
    ("replace (O_TRUNC)", "echo other >$f", ""),
    ("append", "echo more >>$f", ""),
    ("append to a large file", "echo more >>$f", ""),
    ("truncate", "truncate -s 3 $f", ""),
    ("rename", "mv $f $f-moved", "-moved"),
    ("rename in parts", "mv $f $f-moved", "-moved"),
    ("rename of the directory", "", ""),
    ("chmod", "chmod 600 $f", ""),
    ("setfattr of another", "setfattr -n user.other -v x $f", ""),
    ("cp -a", "cp -a $f $f-copied", "-copied"),
    ("kill -9 and mount", "", ""),
];

const MODE: u32 = 0o100_660;
const TARGET: &str = "some/target";

fn settings(server: &TestServer) -> Settings {
    Settings {
        endpoint: Some(server.endpoint.clone()),
        region: server.region.clone(),
        bucket: server.bucket.clone(),
        credentials: Credentials::fixed(server.access_key.as_str(), server.secret_key.as_str(), None),
        ..Settings::default()
    }
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// What every file carries in the beginning.
fn carried(mode: u32) -> NewObject {
    NewObject {
        headers: Headers {
            content_type: Some("text/x-kept".into()),
            cache_control: Some("max-age=77".into()),
            content_disposition: Some("attachment; filename=\"kept\"".into()),
            content_encoding: Some("x-kept".into()),
            content_language: Some("de".into()),
            expires: Some("Thu, 01 Jan 2032 00:00:00 GMT".into()),
            metadata: BTreeMap::from([
                ("mode".into(), mode.to_string()),
                ("uid".into(), "1234".into()),
                ("gid".into(), "2345".into()),
                ("mtime".into(), "1000000000.500000000".into()),
                ("note".into(), "kept é".into()),
            ]),
        },
        storage_class: Some("STANDARD_IA".into()),
        tags: vec![("a b".into(), "1+1".into()), ("k".into(), "v".into())],
        ..NewObject::default()
    }
}

/// The owner, and a right for a group that no canned list gives.
async fn grant(s3: &S3, key: &Key) {
    let mut acl = s3.object_acl(key, None).await.unwrap();
    acl.grants.push(Grant {
        grantee: Grantee::Group("http://acs.amazonaws.com/groups/global/AuthenticatedUsers".into()),
        permission: "READ_ACP".into(),
        delivered: None,
    });
    s3.set_object_acl(key, None, &AclChange::Full(acl)).await.unwrap();
}

fn dir_of(operation: &str) -> String {
    operation.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

async fn in_one_part(s3: &S3, key: &Key, body: Payload, object: &NewObject) {
    let upload = s3.create_upload(key, object).await.unwrap();
    let part = s3.upload_part(key, &upload, 1, body).await.unwrap();
    s3.complete_upload(key, &upload, &[part], &Condition::None).await.unwrap();
    s3.settle_uploaded_tags(key, &object.tags).await.unwrap();
}

/// The files of one operation, as somebody else left them.
async fn make(s3: &S3, server: &TestServer, operation: &str) {
    let dir = dir_of(operation);
    let large = server.embedded_server().filter(|_| operation == "rename in parts");
    for (name, acl) in [("canned", Some("public-read")), ("grants", None)] {
        let key = key(&format!("{dir}/{name}"));
        let object = NewObject { acl: acl.map(str::to_owned), ..carried(MODE) };
        let body = match operation {
            "append to a large file" => Bytes::from(vec![7; 20 << 20]),
            _ => Bytes::from_static(b"content"),
        };
        match (operation, &large) {
            // Over a gibibyte of zeros that nobody has to send.
            ("rename in parts", Some(embedded)) => {
                embedded.store().put_synthetic(&server.bucket, key.as_str(), (1 << 30) + 1);
                let etag = s3.head(&key, None).await.unwrap().etag;
                let source = Source { bucket: None, key: key.clone(), version: None, if_match: Some(etag) };
                let replace = Directive::Replace { object, tags: true };
                s3.copy(&source, &key, &replace, &Condition::None).await.unwrap();
            }
            // As small as a link and as an upload of one part: it is copied in parts, because it may be a link.
            ("rename in parts", None) => in_one_part(s3, &key, body.into(), &object).await,
            _ => {
                s3.put(&key, body.into(), &object, &Condition::None).await.unwrap();
            }
        }
        if acl.is_none() {
            grant(s3, &key).await;
        }
    }
    let link = NewObject { acl: Some("public-read".into()), ..carried(0o120_777) };
    in_one_part(s3, &key(&format!("{dir}/link")), Bytes::from_static(TARGET.as_bytes()).into(), &link).await;
}

/// The files of the last operation are made through the mount, everything before the close.
fn make_through(mount: &TestMount) {
    let dir = mount.join(dir_of("kill -9 and mount"));
    std::fs::create_dir(&dir).unwrap();
    for (name, acl) in
        [("canned", ("user.s3.acl", "public-read")), ("grants", ("user.s3.acl.grants", "READ_ACP AuthenticatedUsers"))]
    {
        let path = dir.join(name);
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(b"content").unwrap();
        for (name, value) in [
            ("user.note", "kept é"),
            ("user.s3.content-type", "text/x-kept"),
            ("user.s3.cache-control", "max-age=77"),
            ("user.s3.content-disposition", "attachment; filename=\"kept\""),
            ("user.s3.content-encoding", "x-kept"),
            ("user.s3.content-language", "de"),
            ("user.s3.expires", "Thu, 01 Jan 2032 00:00:00 GMT"),
            ("user.s3.tags", "a%20b=1%2B1&k=v"),
            ("user.s3.storage-class", "STANDARD_IA"),
            acl,
        ] {
            xattr::set(&path, name, value.as_bytes()).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(MODE & 0o7777)).unwrap();
        std::os::unix::fs::chown(&path, Some(1234), Some(2345)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + Duration::from_millis(1_000_000_000_500)).unwrap();
    }
    std::os::unix::fs::symlink(TARGET, dir.join("link")).unwrap();
}

/// Which attributes of `object` are those it had in the beginning.
async fn kept(s3: &S3, dir: &str, suffix: &str) -> BTreeMap<&'static str, bool> {
    let file = |name: &str| key(&format!("{dir}/{name}{suffix}"));
    let (canned, grants) = (file("canned"), file("grants"));
    let expected = carried(MODE);
    let mut all = BTreeMap::new();
    for (file, first) in [(&canned, true), (&grants, false)] {
        let meta = s3.head(file, None).await.unwrap_or_else(|e| panic!("{file}: {e}"));
        let (have, want) = (&meta.headers, &expected.headers);
        let same = |name: &str| have.metadata.get(name) == want.metadata.get(name);
        let mut tags = s3.tags(file, None).await.unwrap();
        tags.sort();
        let others = |h: &Headers| {
            [&h.cache_control, &h.content_disposition, &h.content_encoding, &h.content_language, &h.expires]
                .map(Clone::clone)
        };
        for (name, is) in [
            ("mode", same("mode")),
            ("owner and group", same("uid") && same("gid")),
            ("modification time", same("mtime")),
            ("user metadata", same("note")),
            ("content type", have.content_type == want.content_type),
            ("the five other headers", others(have) == others(want)),
            ("tags", tags == expected.tags),
            ("storage class", meta.storage_class == expected.storage_class),
        ] {
            // Both files have to agree: one with a canned list and one without are not treated differently.
            let before = all.insert(name, is);
            assert!(first || before == Some(is), "{name} of {file} is kept: {is}, of the other file: {before:?}");
        }
    }
    let acl = s3.object_acl(&canned, None).await.unwrap();
    all.insert("canned ACL", canned_name(&acl) == Some("public-read"));
    let acl = s3.object_acl(&grants, None).await.unwrap();
    let has = |right: &str, group: bool| {
        acl.grants.iter().any(|g| g.permission == right && matches!(g.grantee, Grantee::Group(_)) == group)
    };
    all.insert("ACL grants", acl.grants.len() == 2 && has("FULL_CONTROL", false) && has("READ_ACP", true));
    let link = file("link");
    if let Ok(got) = s3.get(&link, None, None, None).await {
        let is_link = got.meta.headers.metadata.get("mode").is_some_and(|m| m == &0o120_777.to_string());
        let target = got.body.collect().await.unwrap();
        all.insert("link target", is_link && target == TARGET.as_bytes());
    }
    all
}

/// The table of R110 in the document: (operation, attribute) and what stands there.
fn documented() -> BTreeMap<(String, String), String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/SEMANTICS.md");
    let text = std::fs::read_to_string(path).unwrap();
    let section = text.split("### R110 ").nth(1).expect("rule R110").split("\n### ").next().unwrap();
    let mut rows = section
        .lines()
        .filter(|l| l.starts_with('|'))
        .map(|l| l.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect::<Vec<_>>());
    let head = rows.next().expect("a table");
    let mut table = BTreeMap::new();
    for row in rows.skip(1) {
        assert_eq!(row.len(), head.len(), "{row:?}");
        for (attribute, cell) in head.iter().zip(&row).skip(1) {
            let before = table.insert((row[0].clone(), attribute.clone()), cell.clone());
            assert!(before.is_none(), "{row:?} is there twice");
        }
    }
    table
}

// R110, XOS-TAG-09, XOS-OBJ-13
#[test]
fn what_survives_what() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = TestServer::start();
    let s3 = S3::new(settings(&server)).unwrap();
    let last = OPERATIONS.len() - 1;
    for (operation, ..) in &OPERATIONS[..last] {
        runtime.block_on(make(&s3, &server, operation));
    }
    let mut mount = TestMount::new(&server);
    for (operation, script, _) in &OPERATIONS[..last] {
        let dir = dir_of(operation);
        let path = mount.join(&dir);
        if *operation == "rename of the directory" {
            std::fs::rename(&path, mount.join(format!("{dir}-moved"))).unwrap();
            continue;
        }
        // A link is renamed and copied; everything else would go through it.
        let names = if ["rename", "cp -a"].contains(operation) { "canned grants link" } else { "canned grants" };
        let ran = try_sh(&path, &format!("for f in {names}; do {script}; done"));
        assert_eq!(ran.code, Some(0), "{operation}: {ran:?}\n{}", mount.log());
    }
    make_through(&mount);
    // Attributes that wait for their copy are stored by `fsync`, and the rest was closed.
    runtime.block_on(async {
        for (operation, ..) in &OPERATIONS[..last] {
            let dir = dir_of(operation);
            let path = mount.join(&dir).join("canned");
            if let Ok(file) = std::fs::File::open(&path) {
                let _ = file.sync_all();
            }
        }
    });
    std::thread::sleep(Duration::from_secs(3));
    mount.kill_daemon();
    drop(mount);
    let mount = TestMount::new(&server);
    let path = mount.join(dir_of("kill -9 and mount"));
    let shown = std::fs::metadata(path.join("grants")).unwrap();
    assert_eq!((shown.mode(), shown.uid(), shown.gid(), shown.mtime()), (MODE, 1234, 2345, 1_000_000_000));
    assert_eq!(std::fs::read_link(path.join("link")).unwrap(), Path::new(TARGET));
    assert_eq!(xattr::get(path.join("canned"), "user.note").unwrap().as_deref(), Some("kept é".as_bytes()));
    assert_eq!(xattr::get(path.join("canned"), "user.s3.acl").unwrap().as_deref(), Some(&b"public-read"[..]));
    mount.umount();

    let documented = documented();
    let mut wrong = Vec::new();
    for (operation, _, suffix) in OPERATIONS {
        let moved = operation == "rename of the directory";
        let dir = format!("{}{}", dir_of(operation), if moved { "-moved" } else { "" });
        let found = runtime.block_on(kept(&s3, &dir, suffix));
        for attribute in ATTRIBUTES {
            let cell = documented.get(&(operation.to_owned(), attribute.to_owned()));
            let cell = cell.unwrap_or_else(|| panic!("no cell for {attribute} after {operation}")).as_str();
            let right = match (cell, found.get(attribute)) {
                ("–", _) => attribute == "link target",
                ("yes", Some(kept)) => *kept,
                ("no" | "set", Some(kept)) => !kept,
                _ => false,
            };
            if !right {
                let found = found.get(attribute).map_or("nothing", |kept| if *kept { "kept" } else { "lost" });
                wrong.push(format!("{operation}: {attribute}: the document says {cell:?}, found {found}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(documented.len(), OPERATIONS.len() * ATTRIBUTES.len(), "the document has cells that are not tested");
}

//! The operations of the manuals through a mount: what programs do with files, and extended attributes.

use std::fs;
use std::path::Path;

use nix::errno::Errno;
use serde_json::{Value, json};

use super::common::commands::Commands;
use super::common::noise::noise;
use super::common::{TestMount, command};
use super::{World, binary};

#[track_caller]
fn attribute(path: &Path, name: &str) -> String {
    let value = xattr::get(path, name).unwrap_or_else(|e| panic!("{name}: {e}"));
    String::from_utf8(value.unwrap_or_else(|| panic!("{name} has no value"))).unwrap()
}

#[track_caller]
fn set(path: &Path, name: &str, value: &str) {
    xattr::set(path, name, value.as_bytes()).unwrap_or_else(|e| panic!("{name}={value}: {e}"));
}

#[track_caller]
fn refused(path: &Path, name: &str, value: &str) -> Errno {
    let error = xattr::set(path, name, value.as_bytes()).expect_err(name);
    Errno::from_raw(error.raw_os_error().unwrap())
}

fn errno<T>(result: std::io::Result<T>) -> Errno {
    Errno::from_raw(result.err().and_then(|e| e.raw_os_error()).unwrap_or(0))
}

#[test]
fn a_mount_tells_a_missing_bucket_from_a_forbidden_one() {
    let w = World::new();
    let dir = w.dir.path().join("mnt");
    fs::create_dir(&dir).unwrap();
    let options = format!("log={}", w.dir.path().join("log").display());
    let missing = format!("{}-none", w.bucket());
    let said = w.fails(1, &["mount", &missing, "mnt", "-o", &options]);
    assert!(said.contains(&missing) && said.contains("404"), "{said}");
    let mut c = w.command(&["mount", w.bucket(), "mnt", "-o", &options]);
    let output = c.env("AWS_SECRET_ACCESS_KEY", "wrong").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("403"), "{said}");
}

#[test]
fn settings_of_the_bucket_are_attributes_of_the_root() {
    let w = World::new();
    let mount = TestMount::new(&w.server);
    let root = mount.path();
    assert_eq!(attribute(root, "user.s3.bucket.acl"), "private");
    for canned in ["public-read", "public-read-write", "authenticated-read", "private"] {
        set(root, "user.s3.bucket.acl", canned);
        assert_eq!(attribute(root, "user.s3.bucket.acl"), canned);
    }
    let list: Value = serde_json::from_str(&attribute(root, "user.s3.bucket.acl.json")).unwrap();
    assert!(list["Owner"]["ID"].is_string() && list["Grants"].as_array().is_some_and(|g| g.len() == 1), "{list}");
    set(root, "user.s3.bucket.tags", "team=a%26b");
    assert_eq!(attribute(root, "user.s3.bucket.tags"), "team=a%26b");
    let policy = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": ["*"]},
        "Action": ["s3:GetObject"], "Resource": [format!("arn:aws:s3:::{}/*", w.bucket())]}]});
    set(root, "user.s3.bucket.policy", &policy.to_string());
    assert_eq!(serde_json::from_str::<Value>(&attribute(root, "user.s3.bucket.policy")).unwrap(), policy);
    xattr::remove(root, "user.s3.bucket.policy").unwrap();
    let cors = r#"{"CORSRules":[{"AllowedMethods":["GET"],"AllowedOrigins":["*"]}]}"#;
    set(root, "user.s3.bucket.cors", cors);
    assert!(attribute(root, "user.s3.bucket.cors").contains("\"GET\""));
    let rules = r#"{"Rules":[{"ID":"a","Filter":{"Prefix":"p/"},"Status":"Enabled","Expiration":{"Days":1}}]}"#;
    set(root, "user.s3.bucket.lifecycle", rules);
    assert!(attribute(root, "user.s3.bucket.lifecycle").contains("\"p/\""));
    assert_eq!(attribute(root, "user.s3.bucket.versioning"), "Off");
    mount.umount();
}

#[test]
fn versions_of_a_file_are_attributes() {
    let w = World::new();
    let mount = TestMount::new(&w.server);
    let (root, file) = (mount.path(), mount.join("f"));
    set(root, "user.s3.bucket.versioning", "Enabled");
    fs::write(&file, "1").unwrap();
    let first = attribute(&file, "user.s3.version-id");
    fs::write(&file, "22").unwrap();
    let second = attribute(&file, "user.s3.version-id");
    assert!(first != second && first != "null" && !first.is_empty(), "{first} {second}");
    let versions = attribute(&file, "user.s3.versions");
    let lines: Vec<Vec<&str>> = versions.lines().map(|l| l.split(' ').collect()).collect();
    assert_eq!((lines[0][0], lines[1][0]), (second.as_str(), first.as_str()), "{versions}");
    assert_eq!(lines[0][2..], ["2", "STANDARD", "latest"]);
    set(root, "user.s3.bucket.versioning", "Suspended");
    for text in ["333", "4444"] {
        fs::write(&file, text).unwrap();
        assert!(attribute(&file, "user.s3.versions").starts_with("null "));
        // Ceph does not say the id of such an object in answers about it.
        if w.server.embedded_server().is_some() {
            assert_eq!(attribute(&file, "user.s3.version-id"), "null");
        }
    }
    assert_eq!(attribute(&file, "user.s3.versions").lines().count(), 3);
    assert_eq!(w.ok(&["object", "versions", "get", &w.uri("f"), &first, "-"]), "1");
    mount.umount();
}

#[test]
fn a_closed_file_is_an_object_with_what_was_asked_for() {
    let w = World::new();
    let options = ["acl=public-read", "storage_class=STANDARD_IA", "tags=a=1&b=%26", "part_size=5M", "stream_after=8M"];
    let mount = TestMount::with(&w.server, &options);
    // One is stored by a single request, the other in parts.
    let large = noise(1, 12 << 20);
    for (name, content, kind) in [
        ("page.html", &b"<p>hello</p>"[..], "text/html"),
        ("photo.jpg", b"x", "image/jpeg"),
        ("data.unknown-kind", b"x", "application/octet-stream"),
        ("film.mp4", &large, "video/mp4"),
    ] {
        let file = mount.join(name);
        fs::write(&file, content).unwrap();
        set(&file, "user.note", "kept");
        fs::File::open(&file).unwrap().sync_all().unwrap();
        let stat = w.json(&["stat", "--json", &w.uri(name)]);
        assert_eq!(stat["size"].as_u64(), Some(content.len() as u64), "{stat}");
        assert_eq!(stat["headers"]["content-type"], kind, "{stat}");
        assert_eq!(stat["storage_class"], "STANDARD_IA", "{stat}");
        assert_eq!(stat["metadata"]["note"], "kept", "{stat}");
        assert!(w.ok(&["object", "acl", "get", &w.uri(name)]).contains("canned: public-read\n"), "{name}");
        assert_eq!(w.json(&["object", "tags", "get", "--json", &w.uri(name)]), json!({"a": "1", "b": "&"}));
        // What the mount tells of the object is what the store tells.
        assert_eq!(
            attribute(&file, "user.s3.etag").trim_matches('"'),
            stat["etag"].as_str().unwrap().trim_matches('"')
        );
        assert_eq!(attribute(&file, "user.s3.size"), content.len().to_string());
        assert_eq!(attribute(&file, "user.s3.content-type"), kind);
        assert_eq!(attribute(&file, "user.s3.storage-class"), "STANDARD_IA");
        assert_eq!(attribute(&file, "user.note"), "kept");
        assert!(!attribute(&file, "user.s3.last-modified").is_empty());
    }
    mount.umount();
}

#[test]
fn a_rename_copies_and_a_removal_deletes() {
    let w = World::new();
    w.put("f", "text");
    let mount = TestMount::new(&w.server);
    assert_eq!(fs::read(mount.join("f")).unwrap(), b"text");
    w.requests();
    fs::rename(mount.join("f"), mount.join("g")).unwrap();
    w.assert_requests(&[("CopyObject", 1), ("DeleteObject", 1), ("PutObject", 0), ("GetObject", 0)]);
    assert_eq!(w.server.list(""), ["g"]);
    assert_eq!(w.get("g"), "text");
    fs::remove_file(mount.join("g")).unwrap();
    assert!(w.server.list("").is_empty());
    // To the store a missing key is as good as deleted; to a program it is not.
    assert_eq!(errno(fs::remove_file(mount.join("g"))), Errno::ENOENT);
    assert_eq!(errno(fs::rename(mount.join("g"), mount.join("h"))), Errno::ENOENT);
    fs::create_dir_all(mount.join("d/e")).unwrap();
    for name in ["d/1", "d/2", "d/e/3"] {
        fs::write(mount.join(name), name).unwrap();
    }
    fs::remove_dir_all(mount.join("d")).unwrap();
    assert!(w.server.list("").is_empty());
    mount.umount();
    assert_eq!(w.ok(&["ls", "-r", &format!("s3://{}", w.bucket())]), "");
}

#[test]
fn a_directory_is_renamed_with_batched_deletes() {
    let w = World::new();
    for i in 0..12 {
        w.put(&format!("d/{i:02}"), &format!("{i}"));
    }
    let mount = TestMount::new(&w.server);
    w.requests();
    fs::rename(mount.join("d"), mount.join("e")).unwrap();
    w.assert_requests(&[("CopyObject", 12), ("DeleteObjects", 1), ("DeleteObject", 0), ("GetObject", 0)]);
    let expected: Vec<String> = (0..12).map(|i| format!("e/{i:02}")).collect();
    assert_eq!(w.server.list(""), expected);
    assert_eq!(w.get("e/07"), "7");
    mount.umount();
}

/// Over the sizes of the manual: on the embedded server only, which makes up the bytes of such objects.
#[test]
fn large_objects_are_renamed_in_parts() {
    let w = World::new();
    let Some(server) = w.server.embedded_server() else { return };
    const GIB: u64 = 1 << 30;
    for (name, size, copies) in [("gib", GIB, 1), ("more", GIB + 1, 0), ("limit", 5 * GIB + 1, 0)] {
        server.store().put_synthetic(w.bucket(), name, size);
        let mount = TestMount::with(&w.server, &["provider=xos"]);
        w.requests();
        let to = format!("{name}-moved");
        fs::rename(mount.join(name), mount.join(&to)).unwrap();
        let counts = w.requests().unwrap();
        let count = |operation: &str| counts.get(operation).copied().unwrap_or(0);
        assert_eq!(count("CopyObject"), copies, "{name}: {counts:?}");
        assert_eq!(count("CompleteMultipartUpload"), 1 - copies, "{name}: {counts:?}");
        assert_eq!((count("GetObject"), count("UploadPart")), (0, 0), "{name}: {counts:?}");
        assert_eq!(fs::metadata(mount.join(&to)).unwrap().len(), size);
        mount.umount();
    }
}

#[test]
fn a_class_is_changed_by_an_attribute() {
    let w = World::new();
    w.put("f", "text");
    let mount = TestMount::new(&w.server);
    let file = mount.join("f");
    for class in ["STANDARD_IA", "STANDARD"] {
        set(&file, "user.s3.storage-class", class);
        fs::File::open(&file).unwrap().sync_all().unwrap();
        assert_eq!(w.ok(&["object", "class", "get", &w.uri("f")]).trim(), class);
    }
    assert_eq!(w.get("f"), "text");
    mount.umount();
}

#[test]
fn a_list_is_set_and_shown_by_attributes() {
    let w = World::new();
    w.put("f", "text");
    let mount = TestMount::new(&w.server);
    let file = mount.join("f");
    let url = format!("{}/{}/f", w.server.endpoint, w.bucket());
    for (canned, status) in
        [("public-read", 200), ("public-read-write", 200), ("authenticated-read", 403), ("private", 403)]
    {
        set(&file, "user.s3.acl", canned);
        assert_eq!(attribute(&file, "user.s3.acl"), canned);
        assert_eq!(w.curl(&[&url]).0, status, "{canned}");
        assert!(w.ok(&["object", "acl", "get", &w.uri("f")]).contains(&format!("canned: {canned}\n")));
    }
    // Nobody else writes an object by its list.
    w.write("other", "other");
    set(&file, "user.s3.acl", "public-read-write");
    assert_eq!(w.curl(&["-T", "other", &url]).0, 403);
    let owner = attribute(&file, "user.s3.owner").split(' ').next().unwrap().to_owned();
    set(&file, "user.s3.acl.grants", "READ AllUsers\nREAD_ACP AuthenticatedUsers\n");
    assert_eq!(attribute(&file, "user.s3.acl"), "custom");
    let grants = attribute(&file, "user.s3.acl.grants");
    for grant in [&format!("FULL_CONTROL id={owner}"), "READ AllUsers", "READ_ACP AuthenticatedUsers"] {
        assert!(grants.lines().any(|l| l == grant), "{grants}");
    }
    let list: Value = serde_json::from_str(&attribute(&file, "user.s3.acl.json")).unwrap();
    assert_eq!(list["Owner"]["ID"], owner.as_str(), "{list}");
    w.put("g", "text");
    set(&mount.join("g"), "user.s3.acl.json", &list.to_string());
    assert_eq!(attribute(&mount.join("g"), "user.s3.acl.grants").lines().count(), 3);
    let two_names = r#"{"Grants":[{"Grantee":{"ID":"a","URI":"b"},"Permission":"READ"}]}"#;
    let no_name = r#"{"Grants":[{"Grantee":{},"Permission":"READ"}]}"#;
    let foreign = r#"{"Owner":{"ID":"somebody"},"Grants":[]}"#;
    for (name, value, expected) in [
        ("user.s3.acl", "everybody", Errno::EINVAL),
        ("user.s3.acl.grants", "WRITE AllUsers", Errno::EINVAL),
        ("user.s3.acl.grants", "READ", Errno::EINVAL),
        ("user.s3.acl.grants", &"READ AllUsers\n".repeat(101), Errno::ENOSPC),
        ("user.s3.acl.json", two_names, Errno::EINVAL),
        ("user.s3.acl.json", no_name, Errno::EINVAL),
        ("user.s3.acl.json", r#"{"Owner":{"ID":"a"}}"#, Errno::EINVAL),
        ("user.s3.acl.json", foreign, Errno::EINVAL),
    ] {
        assert_eq!(refused(&file, name, value), expected, "{value:.60}");
    }
    xattr::remove(&file, "user.s3.acl").unwrap();
    assert_eq!(attribute(&file, "user.s3.acl"), "private");
    mount.umount();
}

/// With a provider that only the embedded server can be taken for.
#[test]
fn lists_of_obs_are_taken_by_a_mount() {
    let w = World::new();
    if w.server.embedded_server().is_none() {
        return;
    }
    let mount = TestMount::with(&w.server, &["provider=obs"]);
    let file = mount.join("f");
    fs::write(&file, "text").unwrap();
    for canned in ["bucket-owner-full-control", "public-read", "private"] {
        set(&file, "user.s3.acl", canned);
    }
    for canned in ["public-read-delivered", "public-read-write-delivered"] {
        assert_eq!(refused(&file, "user.s3.acl", canned), Errno::EINVAL, "{canned}");
    }
    mount.umount();
}

#[test]
fn refused_attributes_name_the_right() {
    use xosfs::demo::{Action, Rule};
    let w = World::new();
    // A real server would have to be told to refuse.
    let Some(server) = w.server.embedded_server() else { return };
    w.put("f", "text");
    let mount = TestMount::new(&w.server);
    for (operation, name, value, right) in [
        ("PutObjectAcl", "user.s3.acl", "public-read", "s3:PutObjectAcl"),
        ("PutObjectTagging", "user.s3.tags", "a=1", "s3:PutObjectTagging"),
    ] {
        server.knobs().fail(Rule::new(operation, Action::Status(403, "AccessDenied".into())).always());
        assert_eq!(refused(&mount.join("f"), name, value), Errno::EACCES);
        assert!(mount.log().contains(right), "{right}: {}", mount.log());
    }
    mount.umount();
}

#[test]
fn tags_are_attributes() {
    let w = World::new();
    w.put("f", "text");
    let mount = TestMount::new(&w.server);
    let file = mount.join("f");
    set(&file, "user.s3.tags", "a=1&A=x%20y%26z");
    assert_eq!(w.json(&["object", "tags", "get", "--json", &w.uri("f")]), json!({"a": "1", "A": "x y&z"}));
    assert_eq!(attribute(&file, "user.s3.tag.A"), "x y&z");
    set(&file, "user.s3.tag.b", "2");
    assert_eq!(w.json(&["object", "tags", "get", "--json", &w.uri("f")]), json!({"a": "1", "A": "x y&z", "b": "2"}));
    xattr::remove(&file, "user.s3.tag.A").unwrap();
    assert_eq!(attribute(&file, "user.s3.tags"), "a=1&b=2");
    let tags = |n: usize| (0..n).map(|i| format!("k{i}=v")).collect::<Vec<_>>().join("&");
    set(&file, "user.s3.tags", &tags(10));
    assert_eq!(w.ok(&["object", "tags", "get", &w.uri("f")]).lines().count(), 10, "the set was replaced");
    let (long_key, long_value) = ("k".repeat(129), "v".repeat(257));
    for (name, value, expected) in [
        ("user.s3.tags", tags(11).as_str(), Errno::ENOSPC),
        ("user.s3.tag.more", "1", Errno::ENOSPC),
        ("user.s3.tags", "a=1&a=2", Errno::EINVAL),
        (&format!("user.s3.tag.{long_key}"), "1", Errno::ERANGE),
        ("user.s3.tag.k0", &long_value, Errno::ERANGE),
    ] {
        assert_eq!(refused(&file, name, value), expected, "{name}={value:.20}");
    }
    xattr::remove(&file, "user.s3.tags").unwrap();
    assert_eq!(w.ok(&["object", "tags", "get", &w.uri("f")]), "");
    mount.umount();
}

#[test]
fn signed_urls_are_attributes() {
    let w = World::new();
    w.put("d/a b", "text");
    w.write("new", "by a URL");
    let mount = TestMount::new(&w.server);
    let file = mount.join("d/a b");
    let url = attribute(&file, "user.s3.url");
    assert!(url.contains("X-Amz-Expires=3600"), "{url}");
    assert_eq!(w.curl(&[&url]), (200, "text".to_owned()));
    assert_eq!(w.curl(&["-T", "new", &attribute(&file, "user.s3.url.put")]).0, 200);
    assert_eq!(w.get("d/a b"), "by a URL");
    mount.umount();
}

#[test]
fn a_large_file_goes_in_parts_and_comes_back() {
    let w = World::new();
    let mount = TestMount::with(&w.server, &["part_size=5M", "stream_after=5M", "acl=public-read"]);
    let bytes = noise(1, (17 << 20) + 123);
    w.requests();
    fs::write(mount.join("large.mp4"), &bytes).unwrap();
    // Entity tags of uploads in parts say how many there were.
    let etag = attribute(&mount.join("large.mp4"), "user.s3.etag");
    let parts: u64 = etag.trim_matches('"').rsplit_once('-').unwrap().1.parse().unwrap();
    assert!((3..=4).contains(&parts), "{etag}");
    w.assert_requests(&[
        ("CreateMultipartUpload", 1),
        ("UploadPart", parts),
        ("CompleteMultipartUpload", 1),
        ("PutObject", 0),
    ]);
    assert_eq!(attribute(&mount.join("large.mp4"), "user.s3.content-type"), "video/mp4");
    assert_eq!(attribute(&mount.join("large.mp4"), "user.s3.acl"), "public-read");
    mount.umount();
    w.ok(&["cp", &w.uri("large.mp4"), "back"]);
    assert!(fs::read(w.dir.path().join("back")).unwrap() == bytes);
    let mount = TestMount::new(&w.server);
    assert!(fs::read(mount.join("large.mp4")).unwrap() == bytes);
    mount.umount();
}

#[test]
fn a_change_of_a_large_file_copies_the_rest() {
    use std::os::unix::fs::FileExt;
    let w = World::new();
    let mut bytes = noise(1, 24 << 20);
    w.write("large", &bytes);
    w.ok(&["cp", "large", &w.uri("large")]);
    let mount = TestMount::with(&w.server, &["part_size=5M"]);
    w.requests();
    let file = fs::OpenOptions::new().write(true).open(mount.join("large")).unwrap();
    file.write_all_at(b"changed", 12 << 20).unwrap();
    file.sync_all().unwrap();
    drop(file);
    if let Some(counts) = w.requests() {
        assert!(counts.get("UploadPartCopy").is_some_and(|n| *n >= 2), "{counts:?}");
        assert_eq!(counts.get("UploadPart"), Some(&1), "{counts:?}");
    }
    mount.umount();
    bytes[12 << 20..][..7].copy_from_slice(b"changed");
    w.ok(&["cp", &w.uri("large"), "back"]);
    assert!(fs::read(w.dir.path().join("back")).unwrap() == bytes);
}

#[test]
fn a_mount_works_with_a_role() {
    let w = World::new();
    w.put("f", "text");
    let role = format!("role_arn={}", w.role());
    let sts_region = format!("sts_region={}", w.server.region);
    let options = [&role, "role_policy=read-write", "role_duration=15m", &sts_region];
    w.requests();
    let mount = TestMount::with(&w.server, &options);
    assert_eq!(fs::read(mount.join("f")).unwrap(), b"text");
    fs::write(mount.join("new"), "stored").unwrap();
    // The token is in URLs, too.
    let url = attribute(&mount.join("new"), "user.s3.url");
    assert!(url.contains("X-Amz-Security-Token="), "{url}");
    assert_eq!(w.curl(&[&url]), (200, "stored".to_owned()));
    mount.umount();
    w.assert_requests(&[("AssumeRole", 1)]);
    assert_eq!(w.get("new"), "stored");
}

#[test]
fn a_name_that_is_too_long_is_refused() {
    let w = World::new();
    let mount = TestMount::new(&w.server);
    let part = "d".repeat(250);
    let dir = format!("{part}/{part}/{part}/{part}");
    fs::create_dir_all(mount.join(&dir)).unwrap();
    let fits = "f".repeat(1024 - dir.len() - 1);
    fs::write(mount.join(&dir).join(&fits), "x").unwrap();
    assert_eq!(errno(fs::write(mount.join(&dir).join(format!("{fits}f")), "x")), Errno::ENAMETOOLONG);
    assert_eq!(errno(fs::write(mount.join("n".repeat(256)), "x")), Errno::ENAMETOOLONG);
    assert_eq!(w.server.list(""), [format!("{dir}/{fits}")]);
    mount.umount();
}

/// The tour of a person with a shell: the tools that everybody has.
#[test]
fn shell_tools_see_and_change_attributes() {
    let w = World::new();
    w.put("f", "text");
    let mount = TestMount::new(&w.server);
    let script = "getfattr --only-values -n user.s3.etag f >/dev/null; setfattr -n user.s3.acl -v public-read f; \
                  getfattr --only-values -n user.s3.acl f; setfattr -n user.s3.tags -v a=1 f; \
                  getfattr --only-values -n user.s3.tags f; setfattr -x user.s3.tags f";
    assert_eq!(mount.sh(script), "public-reada=1");
    let told =
        command(binary()).args(["object", "acl", "get"]).arg(mount.join("f")).env("HOME", "/nonexistent").output();
    assert!(!told.unwrap().status.success(), "without keys nothing is shown");
    mount.umount();
}

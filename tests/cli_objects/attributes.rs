//! `xosfs object`: access control lists, tags, classes, restores, metadata, versions.

use super::Place;
use super::common::commands::Commands;

const K: &str = "s3://bucket/k";

// XOS-ACL-01 to XOS-ACL-03, OBS-ACL-07, OBS-ACL-11, OBS-ACL-13
#[test]
fn the_access_control_list_is_shown_and_set() {
    let place = Place::new();
    place.put("k", "x");
    let out = place.ok(&["object", "acl", "get", K]);
    assert!(out.contains("canned: private\n") && out.contains("FULL_CONTROL id="), "{out}");
    for canned in ["public-read", "public-read-write", "authenticated-read", "private"] {
        place.ok(&["object", "acl", "set", K, "--canned", canned]);
        assert!(place.ok(&["object", "acl", "get", K]).contains(&format!("canned: {canned}\n")));
    }
    place.ok(&["object", "acl", "set", K, "--grant", "READ AllUsers", "--grant", "READ_ACP AuthenticatedUsers"]);
    let list = place.json(&["object", "acl", "get", "--json", K]);
    assert_eq!(list["Grants"].as_array().unwrap().len(), 3, "{list}");
    place.put("other", "x");
    place.write("acl.json", list.to_string());
    place.ok(&["object", "acl", "set", "s3://bucket/other", "--file", "acl.json"]);
    assert_eq!(place.json(&["object", "acl", "get", "--json", "s3://bucket/other"]), list);
    place.ok(&["object", "acl", "rm", K]);
    assert!(place.ok(&["object", "acl", "get", K]).contains("canned: private\n"));
}

// XOS-TAG-01 to XOS-TAG-05
#[test]
fn tags_are_shown_set_and_removed() {
    let place = Place::new();
    place.put("k", "x");
    assert_eq!(place.ok(&["object", "tags", "get", K]), "");
    place.ok(&["object", "tags", "set", K, "-t", "a=1", "-t", "b=x=y z"]);
    place.ok(&["object", "tags", "set", K, "-t", "a=2"]);
    let tags = place.json(&["object", "tags", "get", "--json", K]);
    assert_eq!((tags["a"].as_str(), tags["b"].as_str()), (Some("2"), Some("x=y z")));
    place.ok(&["object", "tags", "rm", K, "-t", "b"]);
    assert_eq!(place.ok(&["object", "tags", "get", K]), "a=2\n");
    assert_eq!(place.fails(1, &["object", "tags", "rm", K, "-t", "b"]), "there is no tag \"b\" key=\"k\"");
    place.ok(&["object", "tags", "set", K, "--replace", "-t", "c=3"]);
    assert_eq!(place.ok(&["object", "tags", "get", K]), "c=3\n");
    place.ok(&["object", "tags", "rm", K]);
    assert_eq!(place.ok(&["object", "tags", "get", K]), "");
    let ten: Vec<String> = (0..10).map(|i| format!("k{i}=v")).collect();
    let mut args = vec!["object", "tags", "set", K];
    args.extend(ten.iter().flat_map(|t| ["-t", t.as_str()]));
    place.ok(&args);
    let told = place.fails(1, &["object", "tags", "set", K, "-t", "more=1"]);
    assert!(told.contains("11 tags; an object has at most 10"), "{told}");
}

// XOS-OBJ-14, XOS-OBJ-11
#[test]
fn a_changed_class_or_header_keeps_everything_else() {
    let place = Place::new();
    place.write("f", "text");
    place.ok(&["cp", "--metadata", "a=b", "--tags", "t=1", "--content-type", "text/plain", "f", K]);
    place.ok(&["object", "acl", "set", K, "--grant", "READ AllUsers", "--grant", "READ_ACP AuthenticatedUsers"]);
    let acl = place.json(&["object", "acl", "get", "--json", K]);
    place.ok(&["object", "class", "set", "standard_ia", K]);
    assert_eq!(place.ok(&["object", "class", "get", K]), "STANDARD_IA\n");
    place.ok(&[
        "object",
        "meta",
        "set",
        K,
        "-s",
        "cache-control=no-cache",
        "-s",
        "New=1",
        "-s",
        "content-type=text/html",
    ]);
    place.ok(&["object", "meta", "rm", K, "-n", "a"]);
    let meta = place.json(&["object", "meta", "get", "--json", K]);
    assert_eq!(meta["headers"]["cache-control"], "no-cache", "{meta}");
    assert_eq!(
        (meta["headers"]["content-type"].as_str(), meta["metadata"]["new"].as_str()),
        (Some("text/html"), Some("1"))
    );
    assert!(meta["metadata"].get("a").is_none());
    assert_eq!(place.ok(&["object", "meta", "get", K]), "content-type=text/html\ncache-control=no-cache\nmeta.new=1\n");
    assert_eq!(place.ok(&["object", "tags", "get", K]), "t=1\n");
    assert_eq!(place.ok(&["object", "class", "get", K]), "STANDARD_IA\n");
    assert_eq!(place.json(&["object", "acl", "get", "--json", K]), acl);
    assert_eq!(place.get("k"), b"text");
}

#[test]
fn a_change_below_a_prefix_goes_on_after_a_failure() {
    let place = Place::new();
    for key in ["d/a", "d/b", "d2"] {
        place.put(key, "x");
    }
    use xosfs::demo::{Action, Rule};
    let denied = Rule::new("PutObjectTagging", Action::Status(403, "AccessDenied".into())).key("d/a").always();
    place.server.knobs().fail(denied);
    let ran = place.run(&["object", "tags", "set", "-r", "s3://bucket/d", "-t", "x=1"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.err.contains("not changed: s3://bucket/d/a: ") && ran.err.ends_with("1 of 2 could not be changed\n"),
        "{ran:?}"
    );
    assert_eq!(place.ok(&["object", "tags", "get", "s3://bucket/d/b"]), "x=1\n");
    assert_eq!(place.ok(&["object", "tags", "get", "s3://bucket/d2"]), "");
    place.server.knobs().clear_rules();
    assert_eq!(place.ok(&["object", "tags", "set", "-r", "-v", "s3://bucket/d", "-t", "x=1"]).lines().count(), 2);
    let told = place.fails(1, &["object", "acl", "rm", "-r", "s3://bucket/none"]);
    assert_eq!(told, "nothing is stored below s3://bucket/none");
}

// POL-ACT-22, CON-52
#[test]
fn an_archived_object_is_restored() {
    let place = Place::new();
    place.write("f", "cold");
    place.ok(&["cp", "--storage-class", "GLACIER", "f", K]);
    assert_eq!(place.ok(&["object", "restore", "get", K]), "archived\n");
    let ran = place.run(&["cp", K, "back"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    place.ok(&["object", "restore", "set", K, "--days", "3"]);
    let state = place.ok(&["object", "restore", "get", K]);
    assert!(state.starts_with("until ") || state == "in-progress\n", "{state}");
    let told = place.fails(2, &["object", "restore", "set", K, "--tier", "Soon"]);
    assert!(told.starts_with("--tier Soon: write "), "{told}");
}

// XOS-OBJ-20, XOS-OBJ-21, XOS-VER-01, XOS-VER-02, XOS-VER-04, CON-07
#[test]
fn old_versions_are_listed_fetched_restored_and_deleted() {
    let place = Place::new();
    assert_eq!(place.ok(&["bucket", "versioning", "get", "bucket"]), "Off\n");
    place.ok(&["bucket", "versioning", "enable", "bucket"]);
    assert_eq!(place.ok(&["bucket", "versioning", "get", "bucket"]), "Enabled\n");
    for text in ["one", "two"] {
        place.put("k", text);
    }
    place.put("k2", "beside");
    place.ok(&["rm", K]);
    let list = place.json_lines(&["object", "versions", "ls", "--json", K]);
    let figures: Vec<_> = list.iter().map(|v| (v["deleted"].as_bool().unwrap(), v["size"].as_u64().unwrap())).collect();
    assert_eq!(figures, [(true, 0), (false, 3), (false, 3)], "{list:?}");
    assert_eq!(place.ok(&["object", "versions", "ls", K]).lines().next().map(|l| l.starts_with('*')), Some(true));
    assert_eq!(place.ok(&["object", "versions", "undelete", K]), "1 marks of deletion removed\n");
    assert_eq!(place.get("k"), b"two");
    let first = list[2]["version"].as_str().unwrap();
    assert_eq!(place.ok(&["object", "versions", "get", K, first, "-"]), "one");
    place.ok(&["object", "versions", "get", K, first, "old"]);
    assert_eq!(place.read("old"), b"one");
    assert!(place.ok(&["object", "versions", "restore", K, first]).contains("is the current one again"));
    assert_eq!(place.get("k"), b"one");
    place.ok(&["object", "versions", "rm", K, first]);
    assert_eq!(place.json_lines(&["object", "versions", "ls", "--json", K]).len(), 2);
    let told = place.fails(1, &["object", "versions", "rm", K, first]);
    assert!(told.contains("has no version") && told.contains("xosfs object versions ls"), "{told}");
    assert_eq!(
        place.fails(1, &["object", "versions", "ls", "s3://bucket/none"]),
        "there is no version of s3://bucket/none"
    );
    place.ok(&["rm", "-r", "--versions", K]);
    assert_eq!(place.json_lines(&["object", "versions", "ls", "-r", "--json", "s3://bucket"]).len(), 1);
    place.ok(&["bucket", "versioning", "suspend", "bucket"]);
    assert_eq!(place.ok(&["bucket", "versioning", "get", "bucket"]), "Suspended\n");
}

#[test]
fn wrong_attributes_have_one_line() {
    let place = Place::new();
    place.put("k", "x");
    place.clear();
    let table: &[(&[&str], &str)] = &[
        (
            &["object", "acl", "get", "s3://bucket"],
            "s3://bucket/ names a bucket, not an object; write s3://BUCKET/KEY, or a path in a mount",
        ),
        (&["object", "tags", "set", K, "-t", "a"], "tag `a`: write KEY=VALUE"),
        (&["object", "tags", "set", K, "-t", "a=1", "-t", "a=2"], "tag `a=2`: the key is given twice"),
        (&["object", "tags", "set", K, "-t", "=2"], "tag `=2`: a key has 1 to 128 characters"),
        (&["object", "class", "set", "a b", K], "`a b` has to be one word of ASCII characters"),
        (
            &["object", "class", "set", "--version", "v", "GLACIER", K],
            "--version: the class of an old version cannot be changed; restore it first",
        ),
        (&["object", "meta", "set", K, "-s", "x"], "`x`: write NAME=VALUE, as content-type=text/plain"),
        (
            &["object", "meta", "set", K, "-s", "content-type=x"],
            "`x` is no content type; write TYPE/SUBTYPE, or auto for one by file name",
        ),
        (&["object", "acl", "set", K, "--file", "/none"], "read /none: No such file or directory (os error 2)"),
    ];
    for (args, message) in table {
        assert_eq!(place.fails(2, args), *message, "{args:?}");
    }
    for (args, part) in [
        (
            &["object", "acl", "set", K, "--canned", "everybody"][..],
            "a canned ACL of objects of this store is one of private, ",
        ),
        (
            &["object", "acl", "set", K, "--grant", "EAT AllUsers"],
            "a permission is READ, READ_ACP, WRITE_ACP or FULL_CONTROL",
        ),
        (&["object", "acl", "set", K, "--grant", "READ nobody"], "a grantee is id=…, uri=…, email=…, AllUsers"),
    ] {
        let told = place.fails(2, args);
        assert!(told.starts_with(part), "{args:?}: {told}");
    }
    assert!(place.server.log().is_empty(), "nothing was sent: {:?}", place.server.counts());
    assert!(place.fails(1, &["object", "tags", "get", "s3://bucket/none"]).contains("NoSuchKey"));
    let wrong = place.run(&["object", "acl", "set", K]);
    assert!(wrong.code == Some(2) && wrong.err.contains("--canned"), "{wrong:?}");
}

//! What an object carries besides its bytes.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::common::TestMount;
use super::common::commands::Commands;
use super::{Place, decoded, encoded, sorted};

/// As xosfs sends a value that is not plain ASCII (docs/ATTRIBUTES.md): any client can read and write it.
fn marked(text: &str) -> String {
    let encoded: String = text
        .bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect();
    format!("%%{encoded}")
}

// XOS-OBJ-04 to XOS-OBJ-08, XOS-OBJ-19
#[test]
fn headers_and_metadata_of_either_are_read_by_the_other() {
    let mut place = Place::new();
    place.write("f", "hello");
    let uri = place.uri("x/from xosfs");
    place.ok(&[
        "cp",
        "--content-type",
        "text/x-a; charset=utf-8",
        "--storage-class",
        "STANDARD_IA",
        "--metadata",
        "who=me",
        "--metadata",
        "title=é漢 50%",
        "f",
        &uri,
    ]);
    let set = [
        "cache-control=max-age=5",
        "content-disposition=attachment; filename=\"a b.txt\"",
        "content-language=de",
        "content-encoding=gzip",
        "expires=Thu, 01 Jan 2032 00:00:00 GMT",
    ];
    place.ok(&["object", "meta", "set", &uri, "-s", set[0], "-s", set[1], "-s", set[2], "-s", set[3], "-s", set[4]]);
    let head = place.object("head_object", "x/from xosfs", json!({}));
    for (name, value) in [
        ("ContentType", "text/x-a; charset=utf-8"),
        ("CacheControl", "max-age=5"),
        ("ContentDisposition", "attachment; filename=\"a b.txt\""),
        ("ContentLanguage", "de"),
        ("ContentEncoding", "gzip"),
        ("ExpiresString", "Thu, 01 Jan 2032 00:00:00 GMT"),
        ("StorageClass", "STANDARD_IA"),
        ("ETag", "\"5d41402abc4b2a76b9719d911017c592\""),
    ] {
        assert_eq!(head[name], value, "{name}: {head}");
    }
    assert_eq!(head["Metadata"], json!({"who": "me", "title": marked("é漢 50%")}));
    assert_eq!(decoded(&place.object("get_object", "x/from xosfs", json!({}))["Body"]), b"hello");

    let written = json!({
        "Body": encoded("hello"),
        "ContentType": "text/x-b",
        "CacheControl": "no-cache",
        "ContentDisposition": "inline; filename=\"b.txt\"",
        "ContentLanguage": "fr",
        "ContentEncoding": "br",
        "Expires": "2031-01-01T00:00:00Z",
        "StorageClass": "REDUCED_REDUNDANCY",
        "Metadata": {"who": "boto", "plus": "a+b=c&d", "percent": "100%25", "title": marked("naïve ☕")},
    });
    place.object("put_object", "x/from boto", written);
    let stat = place.json(&["stat", "--json", &place.uri("x/from boto")]);
    for (name, value) in [
        ("content-type", "text/x-b"),
        ("cache-control", "no-cache"),
        ("content-disposition", "inline; filename=\"b.txt\""),
        ("content-language", "fr"),
        ("content-encoding", "br"),
        ("expires", "Wed, 01 Jan 2031 00:00:00 GMT"),
    ] {
        assert_eq!(stat["headers"][name], value, "{name}: {stat}");
    }
    assert_eq!(stat["storage_class"], "REDUCED_REDUNDANCY");
    let metadata = json!({"who": "boto", "plus": "a+b=c&d", "percent": "100%25", "title": "naïve ☕"});
    assert_eq!(stat["metadata"], metadata);
    // A change of one keeps the others, on the wire too.
    place.ok(&["object", "meta", "set", &place.uri("x/from boto"), "-s", "who=xosfs"]);
    let head = place.object("head_object", "x/from boto", json!({}));
    let metadata = json!({"who": "xosfs", "plus": "a+b=c&d", "percent": "100%25", "title": marked("naïve ☕")});
    assert_eq!((&head["Metadata"], head["ContentEncoding"].as_str()), (&metadata, Some("br")));
}

// XOS-TAG-01, XOS-TAG-02, XOS-TAG-03, XOS-TAG-05, XOS-TAG-08
#[test]
fn tags_of_either_are_read_by_the_other() {
    let mut place = Place::new();
    place.write("f", "x");
    let uri = place.uri("t");
    place.ok(&["cp", "--tags", "team=web&stage=prod", "f", &uri]);
    let set = json!([{"Key": "team", "Value": "web"}, {"Key": "stage", "Value": "prod"}]);
    assert_eq!(sorted(&place.object("get_object_tagging", "t", json!({}))["TagSet"]), sorted(&set));
    place.ok(&["object", "tags", "set", "--replace", &uri, "-t", "k 1=a+b:c/d", "-t", "ü=", "-t", "@.-_=é漢"]);
    let set = json!([
        {"Key": "k 1", "Value": "a+b:c/d"},
        {"Key": "ü", "Value": ""},
        {"Key": "@.-_", "Value": "é漢"},
    ]);
    assert_eq!(sorted(&place.object("get_object_tagging", "t", json!({}))["TagSet"]), sorted(&set));

    place.object("put_object", "u", json!({"Body": encoded("x"), "Tagging": "a=1&b%20c=x%2By"}));
    let found = place.json(&["object", "tags", "get", "--json", &place.uri("u")]);
    assert_eq!(found, json!({"a": "1", "b c": "x+y"}));
    assert_eq!(place.json(&["stat", "--json", &place.uri("u")])["tag_count"], 2);
    place.object("put_object_tagging", "u", json!({"Tagging": {"TagSet": set}}));
    let found = place.json(&["object", "tags", "get", "--json", &place.uri("u")]);
    assert_eq!(found, json!({"k 1": "a+b:c/d", "ü": "", "@.-_": "é漢"}));
    place.ok(&["object", "tags", "rm", &place.uri("u")]);
    assert_eq!(place.object("get_object_tagging", "u", json!({}))["TagSet"], json!([]));
}

/// Grants as (grantee, permission), sorted: boto3 adds names and types.
fn grants(acl: &Value) -> Vec<(String, String)> {
    let mut out: Vec<_> = acl["Grants"]
        .as_array()
        .unwrap_or_else(|| panic!("no grants: {acl}"))
        .iter()
        .map(|g| {
            let of = &g["Grantee"];
            let who = of["ID"].as_str().or(of["URI"].as_str()).unwrap_or_else(|| panic!("nobody: {g}"));
            (who.to_owned(), g["Permission"].as_str().unwrap().to_owned())
        })
        .collect();
    out.sort();
    out
}

const EVERYBODY: &str = "http://acs.amazonaws.com/groups/global/AllUsers";
const AUTHENTICATED: &str = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers";

// XOS-ACL-01 to XOS-ACL-03, XOS-BKT-05 to XOS-BKT-07
#[test]
fn access_lists_of_either_are_read_by_the_other() {
    let mut place = Place::new();
    place.write("f", "x");
    let uri = place.uri("a");
    place.ok(&["cp", "--acl", "public-read", "f", &uri]);
    let found = place.object("get_object_acl", "a", json!({}));
    let owner = found["Owner"]["ID"].as_str().unwrap().to_owned();
    let full = || (owner.clone(), "FULL_CONTROL".to_owned());
    let may = |who: &str, what: &str| (who.to_owned(), what.to_owned());
    let expect = |mut list: Vec<(String, String)>| {
        list.sort();
        list
    };
    assert_eq!(grants(&found), expect(vec![full(), may(EVERYBODY, "READ")]));
    for (canned, list) in [
        ("private", vec![full()]),
        ("public-read-write", vec![full(), may(EVERYBODY, "READ"), may(EVERYBODY, "WRITE")]),
        ("authenticated-read", vec![full(), may(AUTHENTICATED, "READ")]),
    ] {
        place.ok(&["object", "acl", "set", &uri, "--canned", canned]);
        assert_eq!(grants(&place.object("get_object_acl", "a", json!({}))), expect(list.clone()), "{canned}");
        place.ok(&["bucket", "acl", "set", &place.server.bucket.clone(), "--canned", canned]);
        assert_eq!(grants(&place.of_bucket("get_bucket_acl", json!({}))), expect(list), "{canned}");
    }
    place.ok(&["object", "acl", "set", &uri, "--grant", "READ AllUsers", "--grant", "READ_ACP AuthenticatedUsers"]);
    let list = expect(vec![full(), may(EVERYBODY, "READ"), may(AUTHENTICATED, "READ_ACP")]);
    assert_eq!(grants(&place.object("get_object_acl", "a", json!({}))), list);

    for canned in ["public-read", "authenticated-read", "public-read-write", "private"] {
        place.object("put_object_acl", "a", json!({"ACL": canned}));
        let shown = place.ok(&["object", "acl", "get", &uri]);
        assert!(shown.contains(&format!("canned: {canned}\n")), "{shown}");
        place.of_bucket("put_bucket_acl", json!({"ACL": canned}));
        let shown = place.ok(&["bucket", "acl", "get", &place.server.bucket]);
        assert!(shown.contains(&format!("canned: {canned}\n")), "{shown}");
    }
    let policy = json!({
        "Owner": {"ID": owner},
        "Grants": [
            {"Grantee": {"Type": "CanonicalUser", "ID": owner}, "Permission": "FULL_CONTROL"},
            {"Grantee": {"Type": "Group", "URI": AUTHENTICATED}, "Permission": "READ_ACP"},
        ],
    });
    place.object("put_object_acl", "a", json!({"AccessControlPolicy": policy}));
    let shown = place.json(&["object", "acl", "get", "--json", &uri]);
    assert_eq!(grants(&shown), expect(vec![full(), may(AUTHENTICATED, "READ_ACP")]));
    assert_eq!(shown["Owner"]["ID"], *owner);
}

// CON-35
#[test]
fn a_mount_and_boto_mean_the_same_file() {
    let mut place = Place::new();
    let mount = TestMount::with(&place.server, &["metadata_ttl=0"]);
    let file = mount.join("d é/f+g");
    std::fs::create_dir(mount.join("d é")).unwrap();
    std::fs::write(&file, "by the mount").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    for (name, value) in [
        ("user.s3.tags", "team=web"),
        ("user.s3.content-type", "text/x-mounted"),
        ("user.color", "grün"),
        ("user.s3.acl", "public-read"),
    ] {
        xattr::set(&file, name, value.as_bytes()).unwrap();
    }
    // What was set waits for more, but not for the end of the mount.
    std::fs::File::open(&file).unwrap().sync_all().unwrap();
    let key = "d é/f+g";
    let got = place.object("get_object", key, json!({}));
    assert_eq!(decoded(&got["Body"]), b"by the mount");
    assert_eq!((&got["Metadata"]["mode"], &got["ContentType"]), (&json!("33184"), &json!("text/x-mounted")), "{got}");
    assert_eq!(got["Metadata"]["color"], marked("grün"));
    let tags = place.object("get_object_tagging", key, json!({}));
    assert_eq!(tags["TagSet"], json!([{"Key": "team", "Value": "web"}]));
    assert_eq!(grants(&place.object("get_object_acl", key, json!({}))).len(), 2);

    let other = json!({
        "Body": encoded("by boto"), "ContentType": "text/x-boto", "Tagging": "a=1", "StorageClass": "STANDARD_IA",
        "Metadata": {"mode": "33152", "mtime": "1500000000.5", "color": marked("weiß")},
    });
    place.object("put_object", key, other);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "by boto");
    let found = std::fs::metadata(&file).unwrap();
    assert_eq!(found.permissions().mode() & 0o7777, 0o600);
    assert_eq!(found.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis(), 1_500_000_000_500);
    for (name, value) in [
        ("user.s3.tags", "a=1"),
        ("user.s3.content-type", "text/x-boto"),
        ("user.s3.storage-class", "STANDARD_IA"),
        ("user.color", "weiß"),
        ("user.s3.acl", "private"),
    ] {
        let shown = xattr::get(&file, name).unwrap().unwrap_or_default();
        assert_eq!(String::from_utf8_lossy(&shown), value, "{name}");
    }
    mount.umount();
}

//! `xosfs object acl` and `xosfs bucket acl`: every form of a list, what it means, and what it does not do.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::json;
use xosfs::demo::Attributes;

use super::Place;
use super::common::commands::Commands;

const K: &str = "s3://bucket/k";

/// Listens in front of the server and keeps what clients say to it.
struct Tap {
    option: String,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Tap {
    fn new(place: &Place) -> Tap {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let option = format!("endpoint=http://{}", listener.local_addr().unwrap());
        let said: Arc<Mutex<Vec<u8>>> = Arc::default();
        let (kept, server) = (said.clone(), place.server.endpoint().replace("http://", ""));
        // Ends with the tests.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(mut from), Ok(mut to)) = (client, TcpStream::connect(&server)) else { return };
                let (mut back_from, mut back_to) = (to.try_clone().unwrap(), from.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut back_from, &mut back_to);
                    let _ = back_to.shutdown(Shutdown::Both);
                });
                let kept = kept.clone();
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(n @ 1..) = from.read(&mut buffer) {
                        // Before the server can answer.
                        kept.lock().unwrap().extend_from_slice(&buffer[..n]);
                        if to.write_all(&buffer[..n]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        });
        Tap { option, said }
    }

    /// Runs a command; what it said to the server.
    fn said(&self, place: &Place, args: &[&str]) -> String {
        self.said.lock().unwrap().clear();
        place.run(&[args, &["-o", &self.option]].concat());
        String::from_utf8_lossy(&self.said.lock().unwrap()).into_owned()
    }
}

// OBS-ACL-07, OBS-ACL-11 to OBS-ACL-15
#[test]
fn a_list_is_set_in_every_form() {
    let place = Place::new();
    place.ok(&["bucket", "versioning", "enable", "bucket"]);
    place.put("k", "one");
    place.put("k", "two");
    let versions = place.json_lines(&["object", "versions", "ls", "--json", K]);
    let old = versions[1]["version"].as_str().unwrap();
    let owner = place.json(&["object", "acl", "get", "--json", K])["Owner"]["ID"].as_str().unwrap().to_owned();
    let file = json!({"Owner": {"ID": owner}, "Grants": [
        {"Grantee": {"ID": owner}, "Permission": "FULL_CONTROL"},
        {"Grantee": {"URI": "http://acs.amazonaws.com/groups/global/AllUsers"}, "Permission": "READ"},
    ]});
    place.write("acl.json", file.to_string());
    let tap = Tap::new(&place);
    let forms: [&[&str]; 3] = [&["--canned", "public-read"], &["--file", "acl.json"], &["--grant", "READ AllUsers"]];
    for form in forms {
        for version in [None, Some(old)] {
            for headers in [&[][..], &["--header", "x-amz-test=a b", "--header", "X-OBS-Test: 1"]] {
                let version: Vec<&str> = version.into_iter().flat_map(|v| ["--version", v]).collect();
                place.ok(&["object", "acl", "rm", K]);
                let said = tap.said(&place, &[&["object", "acl", "set", K], form, &version, headers].concat());
                let shown = place.ok(&[&["object", "acl", "get", K], &version[..]].concat());
                assert!(shown.contains("canned: public-read\n"), "{form:?} {version:?}: {shown}");
                for header in ["\r\nx-amz-test: a b\r\n", "\r\nx-obs-test: 1\r\n"] {
                    assert_eq!(said.contains(header), !headers.is_empty(), "{form:?}: {said}");
                }
            }
        }
    }
    place.ok(&["bucket", "acl", "set", "bucket", "--canned", "public-read", "--header", "x-amz-test=1"]);
    // Two forms at once, and none.
    for args in [
        &["--canned", "private", "--file", "acl.json"][..],
        &["--canned", "private", "--grant", "READ AllUsers"],
        &["--file", "acl.json", "--grant", "READ AllUsers"],
        &[],
        &["--header", "x-amz-test=1"],
    ] {
        let ran = place.run(&[&["object", "acl", "set", K], args].concat());
        assert_eq!(ran.code, Some(2), "{args:?}: {ran:?}");
    }
    place.clear();
    for (header, part) in [
        ("x-amz-test", "write NAME=VALUE"),
        ("host=h", "`host` is none of the store's headers; they begin with x-amz- or x-obs-"),
        ("x-amz-acl=public-read", "`x-amz-acl` is set by this program"),
        ("x-amz-test=", "a value has visible ASCII characters"),
        ("x-amz-test=a\nb", "a value has visible ASCII characters"),
    ] {
        let told = place.fails(2, &["object", "acl", "set", K, "--canned", "private", "--header", header]);
        assert!(told.starts_with("--header: ") && told.contains(part), "{header}: {told}");
    }
    assert!(place.server.log().is_empty(), "nothing was sent");
}

// OBS-ACL-27, OBS-ACL-30, OBS-ACL-31
#[test]
fn a_list_is_explained() {
    let place = Place::new();
    place.put("k", "x");
    place.ok(&["object", "acl", "set", K, "--grant", "READ AllUsers", "--grant", "READ_ACP AuthenticatedUsers"]);
    assert_eq!(
        place.ok(&["object", "acl", "explain", K]),
        "the owner may do everything that READ, READ_ACP and WRITE_ACP allow (FULL_CONTROL)\n\
         everybody, with or without an account may read its content and its metadata (READ)\n\
         everybody with an account may read this list (READ_ACP)\n"
    );
    place.ok(&["bucket", "acl", "set", "bucket", "--grant", "READ AllUsers", "--grant", "WRITE AuthenticatedUsers"]);
    let out = place.ok(&["bucket", "acl", "explain", "bucket"]);
    for part in [
        "everybody, with or without an account may list its objects, their versions and its uploads in progress",
        "everybody with an account may store, replace and delete every object in it, and parts of uploads (WRITE)",
        "the owner may do everything that READ, WRITE, READ_ACP and WRITE_ACP allow (FULL_CONTROL)",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let lines = place.json_lines(&["bucket", "acl", "explain", "--json", "bucket"]);
    assert_eq!((lines.len(), lines[0]["permission"].as_str()), (3, Some("FULL_CONTROL")), "{lines:?}");
    assert!(place.fails(1, &["object", "acl", "explain", "s3://bucket/none"]).contains("NoSuchKey"));
}

// OBS-ACL-02, OBS-ACL-20, OBS-ACL-30, OBS-ACL-33, OBS-ACL-35
#[test]
fn what_a_list_does_not_do_is_said() {
    let place = Place::new();
    place.put("k", "x");
    let encrypted = Attributes { sse: Some("aws:kms".into()), ..Attributes::default() };
    place.server.store().put_with("bucket", "secret", "x", encrypted, "private");
    let warned = |args: &[&str]| {
        let ran = place.run(&[&["object", "acl", "set"], args].concat());
        assert_eq!((ran.code, &*ran.out), (Some(0), ""), "{args:?}: {ran:?}");
        ran.err
    };
    let kms = "xosfs: warning: s3://bucket/secret is encrypted with SSE-KMS: other accounts cannot read it, whatever its \
               list says\n";
    assert_eq!(warned(&["s3://bucket/secret", "--canned", "public-read"]), kms);
    assert_eq!(warned(&["-r", "s3://bucket/", "--grant", "READ AllUsers"]), kms);
    assert_eq!(warned(&["s3://bucket/secret", "--canned", "private"]), "");
    let all = warned(&[K, "--grant", "WRITE_ACP AuthenticatedUsers"]);
    assert_eq!(
        all,
        "xosfs: warning: WRITE_ACP AuthenticatedUsers: who may change the list may give itself every right\n"
    );
    // What only one provider says of its lists.
    let obs = ["-o", "provider=obs"];
    let told = warned(&[&[K, "--canned", "public-read-write"], &obs[..]].concat());
    assert!(told.contains("gives no more than public-read"), "{told}");
    assert_eq!(warned(&[K, "--canned", "public-read-write"]), "");
    for group in ["AuthenticatedUsers", "LogDelivery"] {
        let told = warned(&[&[K, "--grant", &format!("READ {group}")], &obs[..]].concat());
        assert!(told.contains(&format!("the group {group} is out of use")), "{told}");
    }
    assert_eq!(warned(&[&[K, "--grant", "READ AllUsers"], &obs[..]].concat()), "");
    let owner = place.json(&["object", "acl", "get", "--json", K])["Owner"]["ID"].as_str().unwrap().to_owned();
    for (name, good) in [("tester-1", true), ("1tester", false), ("short", false), ("名字名字名字", false)] {
        let grant = json!({"Grantee": {"ID": owner, "DisplayName": name}, "Permission": "FULL_CONTROL"});
        place.write("acl.json", json!({"Grants": [grant]}).to_string());
        let told = warned(&[&[K, "--file", "acl.json"], &obs[..]].concat());
        assert_eq!(told.is_empty(), good, "{name}: {told}");
    }
}

// OBS-ACL-17, OBS-ACL-21, OBS-ACL-22, OBS-ACL-26, OBS-ACL-35
#[test]
fn a_list_of_obs_has_delivered_grants() {
    let place = Place::new();
    place.put("k", "x");
    let obs = ["-o", "provider=obs"];
    let tap = Tap::new(&place);
    // The embedded server is not OBS: it knows neither these elements nor these names.
    let body = |args: &[&str]| tap.said(&place, &[args, &obs[..]].concat());
    let text = body(&["bucket", "acl", "set", "bucket", "--grant", "READ AllUsers delivered"]);
    assert!(text.contains("<Delivered>true</Delivered></Grant>"), "{text}");
    let text = body(&["bucket", "acl", "set", "bucket", "--grant", "READ AllUsers not-delivered"]);
    assert!(text.contains("<Delivered>false</Delivered></Grant>"), "{text}");
    let grant = json!({"Grantee": {"URI": "AllUsers"}, "Permission": "READ"});
    place.write("acl.json", json!({"Delivered": false, "Grants": [grant]}).to_string());
    let text = body(&["object", "acl", "set", K, "--file", "acl.json"]);
    assert!(text.contains("<Delivered>false</Delivered><AccessControlList>"), "{text}");
    // Elsewhere nobody knows the word.
    let told = place.fails(2, &["bucket", "acl", "set", "bucket", "--grant", "READ AllUsers delivered"]);
    assert!(told.contains("does not know delivered"), "{told}");
    // Lists that hold for what is in a bucket are for buckets.
    for canned in ["public-read-delivered", "public-read-write-delivered"] {
        let told = place.fails(2, &["object", "acl", "set", K, "--canned", canned, "-o", "provider=obs"]);
        assert!(told.contains("a canned ACL of objects of this store is one of"), "{told}");
        let told = place.fails(2, &["bucket", "acl", "set", "bucket", "--canned", canned]);
        assert!(told.contains("a canned ACL of buckets of this store is one of"), "{told}");
        let said = body(&["bucket", "acl", "set", "bucket", "--canned", canned]);
        assert!(said.contains(&format!("\r\nx-obs-acl: {canned}\r\n")), "{said}");
    }
}

//! `xosfs presign` and `xosfs sts`.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::Place;
use super::common::commands::Commands;

/// One request by a client that has no keys: status and body.
fn http(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, Vec<u8>) {
    let url = url::Url::parse(url).unwrap();
    let host = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let mut stream = TcpStream::connect(&host).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    let target = url.query().map_or(url.path().to_owned(), |q| format!("{}?{q}", url.path()));
    let mut head = format!(
        "{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), answer[end + 4..].to_vec())
}

// XOS-URL-01 to XOS-URL-03
#[test]
fn a_presigned_url_fetches_and_stores_without_keys() {
    let place = Place::new();
    place.put("a b/é", "hello");
    let uri = "s3://bucket/a b/é";
    place.clear();
    let url = place.ok(&["presign", "get", uri]);
    assert!(place.server.log().is_empty());
    assert_eq!(http("GET", url.trim(), &[], b""), (200, b"hello".to_vec()));
    let old = place.ok(&["presign", "get", "-o", "signature=v2", uri]);
    assert!(old.contains("AWSAccessKeyId="), "{old}");
    assert_eq!(http("GET", old.trim(), &[], b"").0, 200);
    let put =
        place.json(&["presign", "put", "--json", "--expires", "15m", "--content-type", "text/css", "s3://bucket/new"]);
    assert_eq!((put["method"].as_str(), put["headers"]["content-type"].as_str()), (Some("PUT"), Some("text/css")));
    let url = put["url"].as_str().unwrap();
    assert_eq!(http("PUT", url, &[("content-type", "text/css")], b"stored").0, 200);
    assert_eq!(place.get("new"), b"stored");
    assert_eq!(http("PUT", url, &[("content-type", "text/html")], b"other").0, 403);
    let told = place.fails(2, &["presign", "get", "--expires", "soon", uri]);
    assert_eq!(told, "--expires: `soon` is no duration; write 500ms, 5s, 2m, 1h or 1d");
    assert!(place.fails(1, &["presign", "get", "--expires", "8d", uri]).contains("7 days"));
    assert!(place.fails(2, &["presign", "get", "s3://bucket"]).contains("names a bucket, not an object"));
    let ran = place.run(&["presign", "get", "-o", "anonymous", uri]);
    assert!(ran.code == Some(1) && ran.err.contains("`anonymous`"), "{ran:?}");
}

// XOS-PST-01 to XOS-PST-05
#[test]
fn a_form_is_signed() {
    let place = Place::new();
    let form =
        place.json(&["presign", "post", "--json", "--acl", "public-read", "--max-size", "10M", "s3://bucket/up"]);
    let fields = &form["fields"];
    assert_eq!((fields["key"].as_str(), fields["acl"].as_str()), (Some("up"), Some("public-read")), "{form}");
    let names: Vec<String> = fields.as_object().unwrap().keys().map(|k| k.to_ascii_lowercase()).collect();
    for name in ["policy", "x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature"] {
        assert!(names.iter().any(|n| n == name), "{name}: {names:?}");
    }
    let old = place.json(&["presign", "post", "--json", "-o", "signature=v2", "s3://bucket/up"]);
    assert!(old["fields"].get("AWSAccessKeyId").is_some() && old["fields"].get("signature").is_some(), "{old}");
    let page = place.ok(&["presign", "post", "--html", "--starts-with", "s3://bucket/in/"]);
    let (key, file) = (page.find("name=\"key\"").unwrap(), page.find("name=\"file\"").unwrap());
    assert!(key < file && page.contains("in/${filename}"), "{page}");
    assert!(place.fails(2, &["presign", "post", "--max-size", "big", "s3://bucket/k"]).starts_with("--max-size: "));
    assert_eq!(place.fails(2, &["presign", "post", "--field", "x", "s3://bucket/k"]), "--field: `x`: write NAME=VALUE");
}

// XOS-STS-05 to XOS-STS-08, XOS-STS-16
#[test]
fn what_no_token_service_takes_is_not_sent() {
    let place = Place::new();
    let role = "arn:aws:iam:::role/r";
    place.write("p.json", r#"{"Version":"2012-10-18","Statement":[]}"#);
    place.clear();
    for (args, part) in [
        (&["sts", "assume-role", "role"][..], "the role must be an ARN, as arn:aws:iam:::role/NAME"),
        (&["sts", "assume-role", role, "--session-name", "x"], "2 to 64 of"),
        (&["sts", "assume-role", role, "--duration", "5m"], "900 to 43200 s"),
        (&["sts", "assume-role", role, "--duration", "13h"], "900 to 43200 s"),
        (&["sts", "assume-role", role, "--policy", "p.json"], "it is the version of the language"),
        (
            &["sts", "assume-role", role, "--preset", "none", "--on", "s3://bucket"],
            "write all, read-only, read-write, transfer, multipart",
        ),
        (&["sts", "assume-role", role, "--sts-endpoint", "host"], "--sts-endpoint: `host` has no scheme"),
        (&["sts", "assume-role", role, "-o", "provider=xos"], "wants a policy: add --policy FILE, or --preset NAME"),
    ] {
        let told = place.fails(2, args);
        assert!(told.contains(part), "{args:?}: {told}");
    }
    assert!(place.server.log().is_empty());
}

// XOS-STS-04, XOS-STS-09, XOS-STS-10
#[test]
fn temporary_keys_work_and_are_printed_in_three_forms() {
    let place = Place::new();
    place.put("k", "hello");
    let role = xosfs::demo::ROLE;
    let take = |more: &[&str]| {
        let mut args =
            vec!["sts", "assume-role", role, "--preset", "read-write", "--on", "s3://bucket", "--duration", "15m"];
        args.extend(more);
        place.ok(&args)
    };
    let shell = take(&[]);
    let names: Vec<_> = shell.lines().map(|l| l.split('=').next().unwrap().to_owned()).collect();
    assert_eq!(names, ["export AWS_ACCESS_KEY_ID", "export AWS_SECRET_ACCESS_KEY", "export AWS_SESSION_TOKEN"]);
    let bash = format!("{shell}'{}' cp s3://bucket/k -", env!("CARGO_BIN_EXE_xosfs"));
    let mut command = super::clean("bash");
    let ran = super::ran(command.args(["-c", &bash]).env("AWS_ENDPOINT_URL", place.server.endpoint()));
    assert_eq!((ran.code, &*ran.out), (Some(0), "hello"), "{ran:?}");
    let whole: serde_json::Value = serde_json::from_str(&take(&["--json"])).unwrap();
    assert!(whole["Credentials"]["SessionToken"].as_str().is_some_and(|t| !t.is_empty()));
    let process: serde_json::Value = serde_json::from_str(&take(&["--format", "process"])).unwrap();
    assert_eq!(process["Version"], 1);
    assert!(process["Expiration"].as_str().is_some_and(|t| t.parse::<jiff::Timestamp>().is_ok()), "{process}");
    let told = place.fails(1, &["sts", "assume-role", "arn:aws:iam:::role/none"]);
    let keys = place.server.keys();
    assert!(told.starts_with("assume role") && !told.contains(&keys.secret_key), "{told}");
}

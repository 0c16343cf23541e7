//! The operations of the manuals by the commands of the program.

use serde_json::{Value, json};
use xosfs::config::credentials::Credentials;
use xosfs::key::Key;
use xosfs::s3::{NewObject, S3, Settings};

use super::World;
use super::common::commands::Commands;
use super::common::noise::noise;

const CANNED: [&str; 4] = ["public-read", "public-read-write", "authenticated-read", "private"];

#[test]
fn buckets_are_made_listed_and_removed() {
    let w = World::new();
    let other = format!("{}-2", w.bucket());
    assert!(w.fails(1, &["bucket", "stat", &other]).contains(&other));
    w.ok(&["bucket", "create", &other, "--acl", "public-read"]);
    // Again the same is no error, and changes nothing.
    assert_eq!(w.run(&["bucket", "create", &other]).code, Some(0));
    assert!(w.ok(&["bucket", "acl", "get", &other]).contains("canned: public-read\n"));
    let buckets = w.json_lines(&["bucket", "ls", "--json"]);
    let found = buckets.iter().find(|b| b["name"] == other.as_str()).unwrap();
    assert!(found.to_string().contains("20"), "the time of creation: {found}");
    assert_eq!(w.json(&["bucket", "stat", "--json", &other])["uri"], format!("s3://{other}"));
    w.write("f", "x");
    w.ok(&["cp", "f", &format!("s3://{other}/f")]);
    assert!(w.fails(1, &["bucket", "rm", &other]).contains("BucketNotEmpty"));
    w.ok(&["bucket", "rm", &other, "--force-empty", "--yes"]);
    assert!(w.fails(1, &["bucket", "stat", &other]).contains(&other));
}

#[test]
fn the_lists_of_a_bucket_are_those_of_the_manual() {
    let w = World::new();
    let b = w.bucket();
    for canned in CANNED {
        w.ok(&["bucket", "acl", "set", b, "--canned", canned]);
        assert!(w.ok(&["bucket", "acl", "get", b]).contains(&format!("canned: {canned}\n")), "{canned}");
    }
    w.ok(&["bucket", "acl", "set", b, "--grant", "WRITE AllUsers", "--grant", "READ_ACP AuthenticatedUsers"]);
    let list = w.json(&["bucket", "acl", "get", "--json", b]);
    assert!(list["Owner"]["ID"].is_string(), "{list}");
    let grants: Vec<&str> =
        list["Grants"].as_array().unwrap().iter().map(|g| g["Permission"].as_str().unwrap()).collect();
    assert_eq!(grants.len(), 3, "{list}");
    for permission in ["FULL_CONTROL", "WRITE", "READ_ACP"] {
        assert!(grants.contains(&permission), "{list}");
    }
    let said = w.fails(2, &["bucket", "acl", "set", b, "--canned", "everybody"]);
    assert!(CANNED.iter().all(|c| said.contains(c)), "{said}");
}

#[test]
fn a_policy_is_set_shown_and_deleted() {
    let w = World::new();
    let b = w.bucket();
    // The sample of the manual, with its statement as an object.
    let sample = |action: &str| {
        json!({"Version": "2012-10-17", "Statement": [{"Sid": "123", "Effect": "Allow",
            "Principal": {"AWS": ["*"]}, "Action": [action], "Resource": [format!("arn:aws:s3:::{b}/*")]}]})
    };
    w.put("k", "hello");
    let url = format!("{}/{b}/k", w.server.endpoint);
    assert_eq!(w.curl(&[&url]).0, 403);
    for action in ["s3:PutObject", "s3:GetObject"] {
        w.write("p.json", sample(action).to_string());
        w.ok(&["bucket", "policy", "set", b, "--file", "p.json", "--yes"]);
        assert_eq!(w.json(&["bucket", "policy", "get", "--json", b]), sample(action));
    }
    // The embedded server keeps policies and does not follow them.
    if w.server.embedded_server().is_none() {
        assert_eq!(w.curl(&[&url]), (200, "hello".to_owned()));
    }
    w.ok(&["bucket", "policy", "rm", b]);
    assert!(w.fails(1, &["bucket", "policy", "get", b]).contains("has no policy"));
    assert_eq!(w.curl(&[&url]).0, 403);
}

#[test]
fn lifecycle_rules_go_there_and_back() {
    let w = World::new();
    let b = w.bucket();
    let add = |args: &[&str]| w.ok(&[&["bucket", "lifecycle", "add", b], args].concat());
    // The figures of the manual's sample.
    add(&["--id", "TestOnly", "--prefix", "documents/", "--expire", "3650d", "--transition", "GLACIER:365d"]);
    add(&["--id", "uploads", "--prefix", "up/", "--abort-uploads", "123d", "--disabled"]);
    add(&["--id", "tagged", "--tag", "k=v", "--expire", "3d"]);
    let rules = |w: &World| w.json(&["bucket", "lifecycle", "get", b])["Rules"].as_array().unwrap().clone();
    let by_id = |id: &str| rules(&w).into_iter().find(|r| r["ID"] == id).unwrap();
    let first = by_id("TestOnly");
    assert_eq!((&first["Expiration"]["Days"], &first["Status"]), (&json!(3650), &json!("Enabled")), "{first}");
    assert_eq!(first["Transitions"][0]["Days"], 365, "{first}");
    assert_eq!(first["Transitions"][0]["StorageClass"], "GLACIER", "{first}");
    assert!(first.to_string().contains("documents/"), "{first}");
    let second = by_id("uploads");
    assert_eq!(second["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"], 123, "{second}");
    assert_eq!(second["Status"], "Disabled");
    let third = by_id("tagged");
    assert!(third["Filter"].to_string().contains("\"k\"") && third["Filter"].to_string().contains("\"v\""), "{third}");
    w.ok(&["bucket", "lifecycle", "enable", b, "uploads"]);
    assert_eq!(by_id("uploads")["Status"], "Enabled");
    w.ok(&["bucket", "lifecycle", "rm", b, "uploads"]);
    assert_eq!(rules(&w).len(), 2);
    w.ok(&["bucket", "lifecycle", "rm", b]);
    assert!(w.fails(1, &["bucket", "lifecycle", "get", b]).contains("is not set"));
}

#[test]
fn cors_rules_go_there_and_back() {
    let w = World::new();
    let b = w.bucket();
    let rules = json!({"CORSRules": [{
        "AllowedHeaders": ["*"], "AllowedMethods": ["DELETE", "GET", "HEAD", "POST", "PUT"],
        "AllowedOrigins": ["http://domain:80"], "ExposeHeaders": ["ETag"], "MaxAgeSeconds": 3600,
    }]});
    w.write("cors.json", rules.to_string());
    w.ok(&["bucket", "cors", "set", b, "--file", "cors.json"]);
    let found = &w.json(&["bucket", "cors", "get", b])["CORSRules"][0];
    for name in ["AllowedHeaders", "AllowedMethods", "AllowedOrigins", "ExposeHeaders"] {
        let sorted = |v: &Value| {
            let mut words: Vec<String> = v.as_array().unwrap().iter().map(|w| w.as_str().unwrap().to_owned()).collect();
            words.sort();
            words
        };
        assert_eq!(sorted(&found[name]), sorted(&rules["CORSRules"][0][name]), "{found}");
    }
    assert_eq!(found["MaxAgeSeconds"], 3600, "{found}");
    w.ok(&["bucket", "cors", "rm", b]);
    assert!(w.fails(1, &["bucket", "cors", "get", b]).contains("is not set"));
}

#[test]
fn old_versions_are_listed_and_fetched() {
    let w = World::new();
    let b = w.bucket();
    let versioning = || w.ok(&["bucket", "versioning", "get", b]);
    assert_eq!(versioning(), "Off\n");
    w.ok(&["bucket", "versioning", "enable", b]);
    assert_eq!(versioning(), "Enabled\n");
    w.put("k", "one");
    w.put("k", "three");
    let list = w.json_lines(&["object", "versions", "ls", "--json", &w.uri("k")]);
    let sizes: Vec<_> = list.iter().map(|v| v["size"].as_u64().unwrap()).collect();
    assert_eq!(sizes, [5, 3], "{list:?}");
    let first = list[1]["version"].as_str().unwrap();
    assert_eq!(w.ok(&["object", "versions", "get", &w.uri("k"), first, "-"]), "one");
    w.ok(&["object", "versions", "restore", &w.uri("k"), first]);
    assert_eq!(w.get("k"), "one");
    w.ok(&["object", "versions", "rm", &w.uri("k"), first]);
    assert_eq!(w.json_lines(&["object", "versions", "ls", "--json", &w.uri("k")]).len(), 2);
    w.ok(&["bucket", "versioning", "suspend", b]);
    assert_eq!(versioning(), "Suspended\n");
}

#[test]
fn objects_are_stored_listed_fetched_copied_and_deleted() {
    let w = World::new();
    w.write("f.html", "text");
    let uri = w.uri("d/f.html");
    w.requests();
    let given = ["--acl", "public-read", "--metadata", "who=me", "--storage-class", "STANDARD_IA", "--tags", "a=1&b=2"];
    w.ok(&[&["cp", "f.html", &uri], &given[..]].concat());
    w.assert_requests(&[("PutObject", 1)]);
    let stat = w.json(&["stat", "--json", &uri]);
    assert_eq!(
        (stat["size"].as_u64(), stat["headers"]["content-type"].as_str()),
        (Some(4), Some("text/html")),
        "{stat}"
    );
    assert_eq!((stat["metadata"]["who"].as_str(), stat["storage_class"].as_str()), (Some("me"), Some("STANDARD_IA")));
    assert!(stat["etag"].as_str().is_some_and(|e| !e.is_empty()) && stat["modified"].is_string(), "{stat}");
    assert!(w.ok(&["object", "acl", "get", &uri]).contains("canned: public-read\n"));
    assert_eq!(w.get("d/f.html"), "text");
    w.ok(&["cp", &uri, &w.uri("copy")]);
    assert_eq!(w.json(&["stat", "--json", &w.uri("copy")])["metadata"]["who"], "me");
    for (class, shown) in [("standard", "STANDARD"), ("STANDARD_IA", "STANDARD_IA"), ("GLACIER", "GLACIER")] {
        w.ok(&["object", "class", "set", class, &w.uri("copy")]);
        assert_eq!(w.ok(&["object", "class", "get", &w.uri("copy")]).trim(), shown);
    }
    for i in 0..5 {
        w.put(&format!("d/{i}"), "x");
    }
    let keys = |w: &World| {
        let lines = w.json_lines(&["ls", "-r", "--json", &format!("s3://{}", w.bucket())]);
        lines.iter().map(|l| l["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(keys(&w), ["copy", "d/0", "d/1", "d/2", "d/3", "d/4", "d/f.html"]);
    w.requests();
    w.ok(&["rm", "-r", &w.uri("d/")]);
    w.assert_requests(&[("DeleteObjects", 1), ("DeleteObject", 0)]);
    assert_eq!(keys(&w), ["copy"]);
    w.ok(&["rm", &w.uri("copy")]);
    assert!(w.fails(1, &["rm", &w.uri("copy")]).contains("is not there"));
}

#[test]
fn the_list_of_an_object_is_shown_and_set() {
    let w = World::new();
    w.put("k", "one");
    let uri = w.uri("k");
    for canned in CANNED {
        w.ok(&["object", "acl", "set", &uri, "--canned", canned]);
        assert!(w.ok(&["object", "acl", "get", &uri]).contains(&format!("canned: {canned}\n")), "{canned}");
    }
    w.ok(&["object", "acl", "set", &uri, "--grant", "READ AllUsers", "--grant", "READ_ACP AuthenticatedUsers"]);
    assert_eq!(w.curl(&[&format!("{}/{}/k", w.server.endpoint, w.bucket())]), (200, "one".to_owned()));
    let list = w.json(&["object", "acl", "get", "--json", &uri]);
    assert_eq!(list["Grants"].as_array().unwrap().len(), 3, "{list}");
    w.write("acl.json", list.to_string());
    w.put("other", "x");
    w.ok(&["object", "acl", "set", &w.uri("other"), "--file", "acl.json", "--header", "x-amz-test=1"]);
    assert_eq!(w.json(&["object", "acl", "get", "--json", &w.uri("other")])["Grants"], list["Grants"]);
    // Of one version, and no other.
    w.ok(&["bucket", "versioning", "enable", w.bucket()]);
    w.put("v", "one");
    w.put("v", "two");
    let versions = w.json_lines(&["object", "versions", "ls", "--json", &w.uri("v")]);
    let old = versions[1]["version"].as_str().unwrap();
    w.ok(&["object", "acl", "set", &w.uri("v"), "--version", old, "--canned", "public-read"]);
    assert!(w.ok(&["object", "acl", "get", &w.uri("v"), "--version", old]).contains("canned: public-read\n"));
    assert!(w.ok(&["object", "acl", "get", &w.uri("v")]).contains("canned: private\n"));
    w.ok(&["object", "acl", "rm", &uri]);
    assert!(w.ok(&["object", "acl", "get", &uri]).contains("canned: private\n"));
}

#[test]
fn tags_of_objects_and_versions_are_set_and_removed() {
    let w = World::new();
    w.put("plain", "one");
    w.ok(&["object", "tags", "set", &w.uri("plain"), "-t", "a=1"]);
    w.ok(&["object", "tags", "rm", &w.uri("plain")]);
    assert_eq!(w.ok(&["object", "tags", "get", &w.uri("plain")]), "");
    w.ok(&["bucket", "versioning", "enable", w.bucket()]);
    w.put("k", "one");
    w.put("k", "two");
    let uri = w.uri("k");
    let versions = w.json_lines(&["object", "versions", "ls", "--json", &uri]);
    let old = versions[1]["version"].as_str().unwrap().to_owned();
    w.ok(&["object", "tags", "set", &uri, "-t", "a=1", "-t", "A=x y=z"]);
    w.ok(&["object", "tags", "set", &uri, "--version", &old, "-t", "old=1"]);
    assert_eq!(w.json(&["object", "tags", "get", "--json", &uri]), json!({"a": "1", "A": "x y=z"}));
    assert_eq!(w.ok(&["object", "tags", "get", &uri, "--version", &old]), "old=1\n");
    w.ok(&["object", "tags", "set", &uri, "--replace", "-t", "b=2"]);
    assert_eq!(w.ok(&["object", "tags", "get", &uri]), "b=2\n");
    // Ceph 16 takes the request, and leaves the tags of the latest version of several.
    if w.server.embedded_server().is_some() {
        w.ok(&["object", "tags", "rm", &uri]);
        assert_eq!(w.ok(&["object", "tags", "get", &uri]), "");
    }
    assert_eq!(w.ok(&["object", "tags", "get", &uri, "--version", &old]), "old=1\n");
    w.ok(&["object", "tags", "rm", &uri, "--version", &old]);
    assert_eq!(w.ok(&["object", "tags", "get", &uri, "--version", &old]), "");
}

#[test]
fn anybody_fetches_and_stores_with_a_signed_url() {
    let w = World::new();
    w.put("a b/é", "hello");
    w.write("new", "stored");
    for signature in ["v4", "v2"] {
        let option = format!("signature={signature}");
        let url = w.ok(&["presign", "get", "-o", &option, &w.uri("a b/é")]);
        assert_eq!(w.curl(&[url.trim()]), (200, "hello".to_owned()), "{signature}");
        if signature == "v4" {
            assert!(url.contains("X-Amz-Expires=3600"), "{url}");
        }
        let key = format!("up/{signature}");
        let url = w.ok(&["presign", "put", "-o", &option, "--expires", "15m", &w.uri(&key)]);
        assert_eq!(w.curl(&["-T", "new", url.trim()]).0, 200, "{signature}");
        assert_eq!(w.get(&key), "stored");
        // For one object and no other.
        assert_eq!(w.curl(&["-T", "new", &url.trim().replacen("/up/", "/elsewhere/", 1)]).0, 403, "{signature}");
    }
    for (uri, part) in [(format!("s3://{}", w.bucket()), "not an object"), (w.uri("up/"), "is a directory")] {
        assert!(w.fails(2, &["presign", "get", &uri]).contains(part), "{uri}");
    }
}

#[test]
fn anybody_stores_with_a_signed_form() {
    let w = World::new();
    w.write("file", "by a form");
    for (signature, names) in [
        ("v4", &["policy", "x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature"][..]),
        ("v2", &["policy", "awsaccesskeyid", "signature"]),
    ] {
        let key = format!("in/{signature}");
        let option = format!("signature={signature}");
        let form = w.json(&["presign", "post", "--json", "-o", &option, "--max-size", "1M", &w.uri(&key)]);
        let fields = form["fields"].as_object().unwrap();
        let lower: Vec<String> = fields.keys().map(|k| k.to_ascii_lowercase()).collect();
        assert!(names.iter().all(|n| lower.iter().any(|l| l == n)), "{form}");
        let pairs: Vec<String> = fields.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap())).collect();
        let mut args: Vec<&str> = pairs.iter().flat_map(|p| ["--form-string", p.as_str()]).collect();
        args.extend(["-F", "file=@file", form["url"].as_str().unwrap()]);
        let (status, body) = w.curl(&args);
        assert!((200..300).contains(&status), "{signature}: {status} {body}");
        assert_eq!(w.get(&key), "by a form");
    }
}

#[test]
fn uploads_and_their_parts_are_listed_and_aborted() {
    let w = World::new();
    let settings = Settings {
        endpoint: Some(w.server.endpoint.clone()),
        region: w.server.region.clone(),
        bucket: w.bucket().to_owned(),
        credentials: Credentials::fixed(w.server.access_key.as_str(), w.server.secret_key.as_str(), None),
        ..Settings::default()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ids = runtime.block_on(async {
        let s3 = S3::new(settings).unwrap();
        let mut ids = Vec::new();
        for name in ["u/one", "u/two"] {
            let key = Key::new(name).unwrap();
            let id = s3.create_upload(&key, &NewObject::default()).await.unwrap();
            s3.upload_part(&key, &id, 1, bytes::Bytes::from(noise(1, 5 << 20)).into()).await.unwrap();
            ids.push(id);
        }
        ids
    });
    let all = format!("s3://{}", w.bucket());
    let list = w.json_lines(&["uploads", "ls", "--json", &all]);
    assert_eq!(list.len(), 2, "{list:?}");
    assert!(list.iter().any(|u| u["id"].as_str() == Some(&ids[0]) && u["uri"] == w.uri("u/one")), "{list:?}");
    let parts = w.json_lines(&["uploads", "parts", "--json", &w.uri("u/one"), &ids[0]]);
    assert_eq!((parts.len(), parts[0]["size"].as_u64()), (1, Some(5 << 20)), "{parts:?}");
    w.ok(&["uploads", "abort", &w.uri("u/one"), &ids[0]]);
    assert_eq!(w.json_lines(&["uploads", "ls", "--json", &all]).len(), 1);
    w.ok(&["uploads", "abort", "--all", &all]);
    assert_eq!(w.ok(&["uploads", "ls", &all]), "");
}

#[test]
fn temporary_keys_are_printed_and_work() {
    let w = World::new();
    w.put("k", "hello");
    let role = w.role();
    let on = format!("s3://{}", w.bucket());
    let take = ["sts", "assume-role", &role, "--sts-region", &w.server.region, "--preset", "read-write", "--on", &on];
    let take = [&take[..], &["--duration", "15m"]].concat();
    let whole = w.json(&[&take[..], &["--json"]].concat());
    for name in ["AccessKeyId", "SecretAccessKey", "SessionToken"] {
        assert!(whole["Credentials"][name].as_str().is_some_and(|t| !t.is_empty()), "{name}");
    }
    w.write("take", w.ok(&take));
    let script = format!(". ./take; '{}' cp '{}' - ", super::binary().display(), w.uri("k"));
    let output = super::command("timeout")
        .args(["60", "bash", "-euc", &script])
        .env("AWS_ENDPOINT_URL", &w.server.endpoint)
        .env("AWS_REGION", &w.server.region)
        .current_dir(w.dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, b"hello");
}

#[test]
fn a_failure_tells_request_code_and_message() {
    let w = World::new();
    let told = w.fails(1, &["object", "tags", "get", &w.uri("none")]);
    assert!(told.contains("404 NoSuchKey") && told.contains("request-id=") && told.contains("\"none\""), "{told}");
    let missing = format!("{}-none", w.bucket());
    let told = w.fails(1, &["bucket", "acl", "get", &missing]);
    assert!(told.contains("404 NoSuchBucket") && told.contains("request-id="), "{told}");
    let denied = w.run(&["sts", "assume-role", "arn:aws:iam:::role/none", "--session-name", "test"]);
    assert_eq!((denied.code, &*denied.out), (Some(1), ""), "{denied:?}");
    assert!(denied.err.starts_with("xosfs: assume role") && denied.err.contains("request-id="), "{denied:?}");
}

//! `xosfs bucket`: creation, configuration, policies, lifecycle rules.

use serde_json::{Value, json};

use super::Place;
use super::common::commands::Commands;

// XOS-BKT-01 to XOS-BKT-04, XOS-BKT-08
#[test]
fn buckets_are_created_shown_and_deleted() {
    let place = Place::new();
    place.ok(&["bucket", "create", "second", "--acl", "public-read"]);
    assert!(place.ok(&["bucket", "acl", "get", "second"]).contains("canned: public-read\n"));
    assert_eq!(place.json_lines(&["bucket", "ls", "--json"]).len(), 2);
    assert_eq!(place.json(&["bucket", "stat", "--json", "s3://second"])["uri"], "s3://second");
    assert_eq!(place.ok(&["bucket", "location", "second"]).lines().count(), 1);
    place.write("f", "x");
    place.ok(&["cp", "f", "s3://second/k"]);
    let told = place.fails(1, &["bucket", "rm", "second"]);
    assert!(told.contains("BucketNotEmpty") && told.contains("--force-empty"), "{told}");
    let told = place.fails(2, &["bucket", "rm", "--force-empty", "second"]);
    assert_eq!(told, "everything in \"second\" would be deleted; add --yes");
    place.ok(&["bucket", "rm", "--force-empty", "--yes", "second"]);
    assert!(place.fails(1, &["bucket", "stat", "second"]).contains("\"second\""));
    assert!(place.fails(2, &["bucket", "create", "No_Good"]).contains("No_Good"));
    assert!(
        place
            .fails(2, &["bucket", "create", "good", "--acl", "everybody"])
            .starts_with("--acl: a canned ACL of buckets")
    );
    assert_eq!(
        place.fails(2, &["bucket", "stat", "s3://bucket/key"]),
        "\"s3://bucket/key\" names an object; write the bucket alone: s3://bucket"
    );
}

// XOS-BKT-05, XOS-BKT-07
#[test]
fn the_list_of_a_bucket_is_shown_and_set() {
    let place = Place::new();
    place.ok(&["bucket", "acl", "set", "bucket", "--canned", "public-read"]);
    assert!(place.ok(&["bucket", "acl", "get", "bucket"]).contains("canned: public-read\n"));
    place.ok(&["bucket", "acl", "set", "bucket", "--grant", "WRITE AllUsers"]);
    let list = place.json(&["bucket", "acl", "get", "--json", "bucket"]);
    assert_eq!(list["Grants"].as_array().unwrap().len(), 2, "{list}");
    place.ok(&["bucket", "acl", "rm", "bucket"]);
    assert!(place.ok(&["bucket", "acl", "get", "bucket"]).contains("canned: private\n"));
}

fn policy(action: &str) -> Value {
    json!({"Version": "2012-10-17", "Statement": [{
        "Sid": "one", "Effect": "Allow", "Principal": {"AWS": ["*"]}, "Action": [action],
        "Resource": ["arn:aws:s3:::bucket/*"],
    }]})
}

// XOS-POL-01, XOS-POL-15, XOS-POL-17, POL-GEN-02, POL-GEN-05
#[test]
fn a_policy_is_checked_shown_as_a_difference_and_set_as_it_is() {
    let place = Place::new();
    assert_eq!(place.fails(1, &["bucket", "policy", "get", "bucket"]), "\"bucket\" has no policy");
    // Bytes are kept, spaces and all.
    let text = serde_json::to_string_pretty(&policy("s3:GetObject")).unwrap().replace("  ", "\t ");
    place.write("p.json", &text);
    let out = place.ok(&["bucket", "policy", "set", "bucket", "--file", "p.json", "--dry-run"]);
    assert!(out.starts_with("--- policy of bucket\n+{"), "{out}");
    assert_eq!(place.run(&["bucket", "policy", "get", "bucket"]).code, Some(1));
    place.ok(&["bucket", "policy", "set", "bucket", "--file", "p.json"]);
    assert_eq!(place.ok(&["bucket", "policy", "get", "bucket"]), format!("{text}\n"));
    // The same again changes nothing and asks nothing.
    assert_eq!(place.ok(&["bucket", "policy", "set", "bucket", "--file", "p.json"]), "");
    place.write("q.json", policy("s3:PutObject").to_string());
    let ran = place.run(&["bucket", "policy", "set", "bucket", "--file", "q.json"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.out.contains("-        \"s3:GetObject\"\n+        \"s3:PutObject\"\n"), "{ran:?}");
    assert_eq!(ran.err, "xosfs: the policy of \"bucket\" would be changed as shown; add --yes\n");
    assert!(place.ok(&["bucket", "policy", "diff", "bucket", "q.json"]).contains("+        \"s3:PutObject\""));
    place.ok(&["bucket", "policy", "set", "bucket", "--file", "q.json", "--yes"]);
    assert!(place.ok(&["bucket", "policy", "explain", "bucket"]).contains("WRITE: write objects (PutObject)"));
    place.ok(&["bucket", "policy", "rm", "bucket"]);
    assert_eq!(place.run(&["bucket", "policy", "get", "bucket"]).code, Some(1));
    place.ok(&["bucket", "policy", "set", "bucket", "--template", "public-rw"]);
    assert_eq!(place.json(&["bucket", "policy", "get", "--json", "bucket"])["Statement"][0]["Sid"], "123");
}

// XOS-POL-04, XOS-POL-08, POL-GEN-04, POL-GEN-06
#[test]
fn a_policy_with_errors_is_not_sent() {
    let place = Place::new();
    place.write("bad.json", policy("s3:GetObjet").to_string());
    place.clear();
    let ran = place.run(&["bucket", "policy", "set", "bucket", "--file", "bad.json"]);
    assert_eq!((ran.code, &*ran.out), (Some(2), ""));
    assert_eq!(
        ran.err,
        "xosfs: error: Statement[0] \"one\": action \"s3:GetObjet\": did you mean s3:GetObject?\n\
         xosfs: 1 errors in the policy for \"bucket\"; nothing was sent (--force sends it)\n"
    );
    let mut lock = policy("s3:*");
    lock["Statement"][0]["Effect"] = "Deny".into();
    lock["Statement"][0]["Resource"] = json!(["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*"]);
    place.write("lock.json", lock.to_string());
    let ran = place.run(&["bucket", "policy", "set", "bucket", "--file", "lock.json", "--yes"]);
    assert!(ran.code == Some(2) && ran.err.contains("the owner included"), "{ran:?}");
    assert!(place.server.log().is_empty());
    // Nothing is no wish to delete.
    place.write("empty.json", "{}");
    place.write("p.json", policy("s3:GetObject").to_string());
    place.ok(&["bucket", "policy", "set", "bucket", "--file", "p.json"]);
    let told = place.fails(2, &["bucket", "policy", "set", "bucket", "--file", "empty.json"]);
    assert_eq!(told, "the document is empty; to delete the policies, add --delete");
    place.ok(&["bucket", "create", "second"]);
    let ran = place.run(&["bucket", "policy", "set", "bucket", "second", "--file", "p.json"]);
    assert!(ran.code == Some(2) && ran.err.contains("is not in bucket \"second\""), "{ran:?}");
    place.ok(&["bucket", "policy", "set", "bucket", "second", "--delete", "--yes"]);
    assert_eq!(place.run(&["bucket", "policy", "get", "bucket"]).code, Some(1));
    // Several at once, each with its own bucket in it; without --yes the first one asks.
    let ran = place.run(&["bucket", "policy", "set", "bucket", "second", "--template", "public-read"]);
    assert!(ran.code == Some(2) && ran.err.contains("add --yes"), "{ran:?}");
    place.ok(&["bucket", "policy", "set", "bucket", "second", "--template", "public-read", "--yes"]);
    let of_second = place.json(&["bucket", "policy", "get", "--json", "second"]);
    assert_eq!(of_second["Statement"][0]["Resource"][0], "arn:aws:s3:::second/*");
}

// POL-GEN-08 to POL-GEN-13
#[test]
fn single_statements_are_added_changed_and_removed() {
    let place = Place::new();
    place.ok(&[
        "bucket",
        "policy",
        "add-statement",
        "bucket",
        "readers",
        "--effect",
        "allow",
        "--principal",
        "bob,eve",
        "--action",
        "@READ",
        "--resource",
        "bucket",
        "--condition",
        "IpAddress:aws:SourceIp=10.0.0.0/8",
    ]);
    let set = place.json(&["bucket", "policy", "get", "--json", "bucket"]);
    assert_eq!(set["Statement"][0]["Action"].as_array().unwrap().len(), 11, "{set}");
    assert_eq!(set["Statement"][0]["Principal"]["AWS"].as_array().unwrap().len(), 2);
    place.ok(&[
        "bucket",
        "policy",
        "edit-statement",
        "bucket",
        "readers",
        "--action",
        "GetObject",
        "--resource",
        "bucket/",
        "--yes",
    ]);
    let set = place.json(&["bucket", "policy", "get", "--json", "bucket"]);
    assert_eq!(set["Statement"][0]["Action"], json!(["s3:GetObject"]));
    assert_eq!(set["Statement"][0]["Condition"]["IpAddress"]["aws:SourceIp"], "10.0.0.0/8");
    let told = place.fails(2, &["bucket", "policy", "edit-statement", "bucket", "writers", "--effect", "deny"]);
    assert_eq!(told, "no statement \"writers\"; there are readers");
    let told = place.fails(2, &["bucket", "policy", "add-statement", "bucket", "x", "--effect", "allow"]);
    assert_eq!(told, "a new statement needs --principal");
    let ran = place.run(&["bucket", "policy", "rm-statement", "bucket", "readers"]);
    assert!(ran.code == Some(2) && ran.err.contains("add --yes"), "{ran:?}");
    // The last one takes the policy with it.
    place.ok(&["bucket", "policy", "rm-statement", "bucket", "readers", "--yes"]);
    assert_eq!(place.fails(1, &["bucket", "policy", "get", "bucket"]), "\"bucket\" has no policy");
}

// XOS-STS-13, XOS-STS-14, POL-GEN-13
#[test]
fn policies_are_validated_explained_and_suggested_without_a_store() {
    let place = Place::new();
    place.write("p.json", policy("s3:GetObjet").to_string());
    place.clear();
    let ran = place.run(&["bucket", "policy", "validate", "p.json"]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.out, "error: Statement[0] \"one\": action \"s3:GetObjet\": did you mean s3:GetObject?\n");
    assert_eq!(ran.err, "xosfs: p.json: 1 errors\n");
    let ran = place.run(&["bucket", "policy", "validate", "--json", "--bucket", "other", "p.json"]);
    assert_eq!(ran.out.lines().count(), 2, "{ran:?}");
    place.write("good.json", policy("s3:GetObject").to_string());
    assert_eq!(place.ok(&["bucket", "policy", "validate", "good.json", "--bucket", "bucket"]), "");
    let out = place.ok(&["bucket", "policy", "explain", "--file", "good.json"]);
    assert!(out.starts_with("Statement 1 \"one\": everybody, with or without an account may\n"), "{out}");
    for args in [
        &["bucket", "policy", "suggest", "s3://bucket/logs", "--principal", "bob"][..],
        &["bucket", "policy", "suggest", "bucket", "--ro", "--attributes", "--versions", "--principal", "*"],
        &["bucket", "policy", "template", "tls-only", "bucket"],
    ] {
        place.write("made.json", place.ok(args));
        let ran = place.run(&["bucket", "policy", "validate", "made.json", "--bucket", "bucket"]);
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{args:?}: {ran:?}");
    }
    place.write("session.json", place.ok(&["bucket", "policy", "template", "multipart", "s3://bucket/up/"]));
    assert_eq!(place.ok(&["bucket", "policy", "validate", "--session", "session.json"]), "");
    assert_eq!(place.json_lines(&["bucket", "policy", "actions", "--json"]).len(), 54);
    assert!(
        place.fails(2, &["bucket", "policy", "template", "none", "bucket"]).contains("public-rw (everybody may read")
    );
    assert!(place.server.log().is_empty());
}

// XOS-LC-01, XOS-LC-03 to XOS-LC-09, XOS-LC-11, XOS-LC-12
#[test]
fn lifecycle_rules_are_added_switched_and_removed() {
    let place = Place::new();
    assert_eq!(place.fails(1, &["bucket", "lifecycle", "get", "bucket"]), "lifecycle of \"bucket\" is not set");
    assert_eq!(place.ok(&["bucket", "lifecycle", "explain", "bucket"]), "nothing is deleted or moved by rules\n");
    place.ok(&[
        "bucket",
        "lifecycle",
        "add",
        "bucket",
        "--id",
        "logs",
        "--prefix",
        "logs/",
        "--expire",
        "365d",
        "--transition",
        "STANDARD_IA:30d",
        "--abort-uploads",
        "7d",
    ]);
    place.ok(&[
        "bucket",
        "lifecycle",
        "add",
        "bucket",
        "--id",
        "old",
        "--expire-versions",
        "2w",
        "--tag",
        "k=v",
        "--disabled",
    ]);
    let rules = place.json(&["bucket", "lifecycle", "get", "bucket"]);
    assert_eq!(rules["Rules"][0]["Expiration"]["Days"], 365, "{rules}");
    assert_eq!(rules["Rules"][0]["Transitions"][0], json!({"Days": 30, "StorageClass": "STANDARD_IA"}));
    assert_eq!(rules["Rules"][1]["NoncurrentVersionExpiration"]["NoncurrentDays"], 14);
    place.ok(&["bucket", "lifecycle", "enable", "bucket", "old"]);
    place.ok(&["bucket", "lifecycle", "disable", "bucket", "logs"]);
    let out = place.ok(&["bucket", "lifecycle", "explain", "bucket"]);
    assert!(
        out.contains("logs: objects that begin with logs/ are deleted after 365 days")
            && out.contains("(switched off)"),
        "{out}"
    );
    assert!(out.contains("old: tagged k=v lose their old versions after 14 days"), "{out}");
    place.write("rules.json", rules.to_string());
    place.ok(&["bucket", "lifecycle", "set", "bucket", "--file", "rules.json"]);
    assert_eq!(place.json(&["bucket", "lifecycle", "get", "bucket"]), rules);
    let xml = place.ok(&["bucket", "lifecycle", "get", "--xml", "bucket"]);
    place.write("rules.xml", &xml);
    place.ok(&["bucket", "lifecycle", "set", "bucket", "--file", "rules.xml"]);
    place.ok(&["bucket", "lifecycle", "rm", "bucket", "old"]);
    assert_eq!(place.fails(1, &["bucket", "lifecycle", "rm", "bucket", "old"]), "no rule \"old\"; there are logs");
    place.ok(&["bucket", "lifecycle", "rm", "bucket"]);
    assert_eq!(place.run(&["bucket", "lifecycle", "get", "bucket"]).code, Some(1));
    for (args, message) in [
        (
            &["bucket", "lifecycle", "add", "bucket"][..],
            "a rule has to do something: --expire, --expire-versions, --transition or --abort-uploads",
        ),
        (
            &["bucket", "lifecycle", "add", "bucket", "--expire", "soon"],
            "--expire: `soon` is no number of days; write 30d",
        ),
        (
            &["bucket", "lifecycle", "add", "bucket", "--transition", "30d"],
            "--transition: `30d` is no transition; write CLASS:DAYS, as STANDARD_IA:30d",
        ),
        (
            &["bucket", "lifecycle", "add", "bucket", "--expire", "3d", "--transition", "GLACIER:5d"],
            "lifecycle rules: error: Rules[0] \"expire-3d-glacier-5d\": objects are deleted after 3 days, before they go to GLACIER after 5",
        ),
    ] {
        assert_eq!(place.fails(2, args), message, "{args:?}");
    }
}

// XOS-COR-01 to XOS-COR-04, CON-04
#[test]
fn cors_rules_are_set_and_shown() {
    let place = Place::new();
    let rules = json!({"corsRules": [{
        "allowedHeaders": ["*"], "allowedMethods": ["POST", "GET", "PUT", "DELETE", "HEAD"],
        "allowedOrigins": ["http://domain:80"], "exposeHeaders": ["ETag"], "maxAgeSeconds": 3600,
    }]});
    place.write("cors.json", rules.to_string());
    place.ok(&["bucket", "cors", "set", "bucket", "--file", "cors.json"]);
    let set = place.json(&["bucket", "cors", "get", "bucket"]);
    assert_eq!(set["CORSRules"][0]["MaxAgeSeconds"], 3600, "{set}");
    assert_eq!(set["CORSRules"][0]["AllowedMethods"].as_array().unwrap().len(), 5);
    place.ok(&["bucket", "cors", "rm", "bucket"]);
    assert_eq!(place.fails(1, &["bucket", "cors", "get", "bucket"]), "cors of \"bucket\" is not set");
    place.write("cors.json", rules.to_string().replace("POST", "PATCH"));
    let told = place.fails(2, &["bucket", "cors", "set", "bucket", "--file", "cors.json"]);
    assert!(told.contains("\"PATCH\" is none of GET, PUT, POST, DELETE, HEAD"), "{told}");
}

// POL-GEN-14
#[test]
fn every_sub_resource_can_be_reached() {
    let place = Place::new();
    let names: Vec<String> = place
        .json_lines(&["bucket", "config", "list", "--json"])
        .iter()
        .map(|l| l["name"].as_str().unwrap().into())
        .collect();
    for name in
        ["location", "logging", "notification", "requestPayment", "tagging", "website", "replication", "accelerate"]
    {
        assert!(names.iter().any(|n| n == name), "{name}: {names:?}");
    }
    place.ok(&["bucket", "tags", "set", "bucket", "a=1", "b=2"]);
    place.ok(&["bucket", "tags", "set", "bucket", "a=3"]);
    assert_eq!(place.json(&["bucket", "tags", "get", "--json", "bucket"]), json!({"a": "3", "b": "2"}));
    place.ok(&["bucket", "tags", "rm", "bucket"]);
    assert_eq!(place.ok(&["bucket", "tags", "get", "bucket"]), "");
    let website = json!({"IndexDocument": {"Suffix": "index.html"}});
    place.write("website.json", website.to_string());
    place.ok(&["bucket", "config", "set", "bucket", "website", "--file", "website.json"]);
    assert_eq!(place.json(&["bucket", "config", "get", "bucket", "website"]), website);
    place.ok(&["bucket", "config", "rm", "bucket", "website"]);
    assert_eq!(place.fails(1, &["bucket", "config", "get", "bucket", "website"]), "website of \"bucket\" is not set");
    assert!(
        place
            .fails(2, &["bucket", "config", "get", "bucket", "torrent"])
            .starts_with("there is no sub-resource \"torrent\"; there are policy, ")
    );
    assert_eq!(
        place.fails(2, &["bucket", "config", "rm", "bucket", "logging"]),
        "logging of a bucket cannot be deleted; set an empty or switched-off one"
    );
    place.write("p.json", policy("s3:GetObject").to_string());
    let told = place.fails(2, &["bucket", "config", "set", "bucket", "policy", "--file", "p.json"]);
    assert_eq!(told, "use `xosfs bucket policy set`, which checks the document first");
}

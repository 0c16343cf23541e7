//! Policies, rules and rights: every part that the manuals name, through the program.

use std::io::{Read, Write};
use std::net::TcpListener;

use serde_json::{Value, json};
use xosfs::demo::{Action, Rule};

use super::Place;
use super::common::commands::Commands;
use super::common::noise::noise;

const K: &str = "s3://bucket/k";

/// A sound policy with one member of its statement set to something else.
fn with(name: &str, value: Value) -> String {
    let mut policy = json!({"Version": "2012-10-17", "Id": "p", "Statement": [{
        "Sid": "one", "Effect": "Allow", "Principal": {"AWS": ["*"]}, "Action": ["s3:GetObject"],
        "Resource": ["arn:aws:s3:::bucket/*"],
    }]});
    let statement = policy["Statement"][0].as_object_mut().unwrap();
    match value {
        Value::Null => statement.remove(name),
        value => statement.insert(name.to_owned(), value),
    };
    policy.to_string()
}

/// What `policy validate` says of a document, and its exit code.
fn judge(place: &Place, document: &str) -> (Option<i32>, String) {
    place.write("p.json", document);
    let ran = place.run(&["bucket", "policy", "validate", "p.json", "--bucket", "bucket"]);
    (ran.code, ran.out)
}

// XOS-POL-03 to XOS-POL-13, POL-GEN-03, XOS-STS-18
#[test]
fn each_part_of_a_policy_is_checked() {
    let place = Place::new();
    place.clear();
    for good in [
        with("Sid", Value::Null),
        with("Sid", json!("one")).replace("\"Id\":\"p\",", ""),
        with("Principal", json!({"AWS": ["arn:aws:iam::user/*", "arn:aws:iam:::user/bob"]})),
        with("Action", json!(["s3:list*", "S3:GETOBJECT"])).replace("bucket/*\"", "bucket\",\"arn:aws:s3:::bucket/*\""),
        with("Condition", json!({"Bool": {"aws:SecureTransport": "true"}})),
        with("Sid", json!("x")).replace("\"Action\"", "\"NotAction\""),
        with("Sid", json!("x")).replace("\"Resource\"", "\"NotResource\""),
        with("Sid", json!("x")).replace("[{", "{").replace("}]", "}"),
    ] {
        let (code, said) = judge(&place, &good);
        assert!(code == Some(0) && !said.contains("error: "), "{good}: {said}");
    }
    for (bad, part) in [
        (with("Sid", json!("x")).replace("\"Id\":\"p\"", "\"Id\":1"), "`Id`"),
        (with("Sid", json!("x")).replace("2012-10-17", "2026-11-21"), "not a date of yours"),
        (with("Sid", json!(1)), "`Sid` has to be a string"),
        (with("Principal", json!("bob")), "{\"AWS\": \"bob\"}"),
        (with("Principal", json!({})), "names nobody"),
        (with("NotPrincipal", json!("*")), "exclude each other"),
        (with("Action", json!("s3:GetObjet")), "did you mean s3:GetObject?"),
        (with("NotAction", json!("s3:*")), "exclude each other"),
        (with("Effect", Value::Null), "`Effect` is missing"),
        (with("Effect", json!("Maybe")), "write \"Allow\" or \"Deny\""),
        (with("Resource", json!("arn:aws:s3:::other/*")), "is not in bucket \"bucket\""),
        (with("NotResource", json!("*")), "exclude each other"),
        (with("Condition", json!("ip")), "`Condition` has to be an object"),
    ] {
        let (code, said) = judge(&place, &bad);
        assert!(code == Some(1) && said.contains(part), "{bad}: {said}");
    }
    assert!(place.server.log().is_empty(), "nothing was sent");
}

// POL-CND-01 to POL-CND-09, POL-GEN-12
#[test]
fn every_condition_of_the_manual_is_taken() {
    let place = Place::new();
    let keys: &[(&str, &[&str], &str, &str)] = &[
        ("aws:CurrentTime", &["DateEquals", "DateNotEquals"], "2030-01-01T00:00:00Z", "tomorrow"),
        ("aws:EpochTime", &["NumericEquals", "NumericNotEquals"], "1893456000", "soon"),
        ("aws:PrincipalType", &["StringEquals", "StringNotEquals"], "User", ""),
        ("aws:Referer", &["StringEquals", "StringNotEquals"], "http://a.example/", ""),
        ("aws:SecureTransport", &["Bool"], "true", "perhaps"),
        ("aws:SourceIp", &["IpAddress", "NotIpAddress"], "192.0.2.0/24", "localhost"),
        ("aws:UserAgent", &["StringEquals", "StringNotEquals"], "xosfs", ""),
        ("aws:username", &["StringEquals", "StringNotEquals"], "bob", ""),
    ];
    for (key, operators, good, bad) in keys {
        let mut args =
            vec!["bucket", "policy", "add-statement", "bucket", "all", "--effect", "allow", "--principal", "*"];
        args.extend(["--action", "GetObject", "--resource", "bucket/", "--yes"]);
        let conditions: Vec<String> = operators.iter().map(|o| format!("{o}:{key}={good}")).collect();
        args.extend(conditions.iter().flat_map(|c| ["--condition", c.as_str()]));
        place.ok(&args);
        let set = place.json(&["bucket", "policy", "get", "--json", "bucket"]);
        for operator in *operators {
            assert!(set["Statement"][0]["Condition"][operator][key].to_string().contains(good), "{set}");
        }
        let out = place.ok(&["bucket", "policy", "explain", "bucket"]);
        assert!(out.contains("\n  if "), "{key}: {out}");
        if !bad.is_empty() {
            let (code, said) = judge(&place, &with("Condition", json!({operators[0]: {*key: bad}})));
            assert!(code == Some(1) && said.starts_with("error: "), "{key}: {said}");
        }
        place.ok(&["bucket", "policy", "rm", "bucket"]);
    }
    let (_, said) = judge(&place, &with("Condition", json!({"NoipAddress": {"aws:SourceIp": "10.0.0.1"}})));
    assert!(said.contains("did you mean `NotIpAddress`?"), "{said}");
    // Strings are compared as they are: what looks like a pattern is none.
    let (code, said) = judge(&place, &with("Condition", json!({"StringEquals": {"aws:UserAgent": "xosfs/*"}})));
    assert!(code == Some(0) && said.contains("StringLike"), "{said}");
}

/// Action, a command that needs it, and the request that the command sends for it.
const ACTIONS: &[(&str, &[&str], &str)] = &[
    ("GetObject", &["cp", K, "-"], "GetObject"),
    ("GetObjectVersion", &["object", "versions", "get", K, "VERSION", "-"], "GetObject"),
    ("GetObjectTagging", &["object", "tags", "get", K], "GetObjectTagging"),
    ("GetObjectVersionTagging", &["object", "tags", "get", K, "--version", "VERSION"], "GetObjectTagging"),
    ("ListAllMyBuckets", &["bucket", "ls"], "ListBuckets"),
    ("ListBucket", &["ls", "s3://bucket"], "ListObjects"),
    ("ListBucketMultipartUploads", &["uploads", "ls", "s3://bucket"], "ListMultipartUploads"),
    ("ListBucketVersions", &["object", "versions", "ls", K], "ListObjectVersions"),
    ("ListMultipartUploadParts", &["uploads", "parts", "s3://bucket/u"], "ListParts"),
    ("AbortMultipartUpload", &["uploads", "abort", "--all", "s3://bucket"], "AbortMultipartUpload"),
    ("CreateBucket", &["bucket", "create", "another"], "CreateBucket"),
    ("DeleteBucket", &["bucket", "rm", "another"], "DeleteBucket"),
    ("PutObject", &["cp", "file", "s3://bucket/new"], "PutObject"),
    ("DeleteObject", &["rm", "s3://bucket/new"], "DeleteObject"),
    ("PutObjectTagging", &["object", "tags", "set", K, "-t", "a=1"], "PutObjectTagging"),
    ("PutObjectVersionTagging", &["object", "tags", "set", K, "--version", "VERSION", "-t", "a=1"], "PutObjectTagging"),
    ("DeleteObjectTagging", &["object", "tags", "rm", K], "DeleteObjectTagging"),
    ("DeleteObjectVersionTagging", &["object", "tags", "rm", K, "--version", "VERSION"], "DeleteObjectTagging"),
    ("RestoreObject", &["object", "restore", "set", "s3://bucket/cold", "--days", "1"], "RestoreObject"),
    (
        "PutAccelerateConfiguration",
        &["bucket", "config", "set", "bucket", "accelerate", "-f", "accelerate.json"],
        "PutBucketAccelerateConfiguration",
    ),
    (
        "GetAccelerateConfiguration",
        &["bucket", "config", "get", "bucket", "accelerate"],
        "GetBucketAccelerateConfiguration",
    ),
    ("PutBucketAcl", &["bucket", "acl", "set", "bucket", "--canned", "private"], "PutBucketAcl"),
    ("GetBucketAcl", &["bucket", "acl", "get", "bucket"], "GetBucketAcl"),
    ("PutBucketCORS", &["bucket", "cors", "set", "bucket", "-f", "cors.json"], "PutBucketCors"),
    ("GetBucketCORS", &["bucket", "cors", "get", "bucket"], "GetBucketCors"),
    ("GetBucketLocation", &["bucket", "location", "bucket"], "GetBucketLocation"),
    ("PutBucketLogging", &["bucket", "config", "set", "bucket", "logging", "-f", "logging.json"], "PutBucketLogging"),
    ("GetBucketLogging", &["bucket", "config", "get", "bucket", "logging"], "GetBucketLogging"),
    (
        "PutBucketNotification",
        &["bucket", "config", "set", "bucket", "notification", "-f", "notification.json"],
        "PutBucketNotificationConfiguration",
    ),
    (
        "GetBucketNotification",
        &["bucket", "config", "get", "bucket", "notification"],
        "GetBucketNotificationConfiguration",
    ),
    ("PutBucketPolicy", &["bucket", "policy", "set", "bucket", "-f", "policy.json", "--yes"], "PutBucketPolicy"),
    ("GetBucketPolicy", &["bucket", "policy", "get", "bucket"], "GetBucketPolicy"),
    ("DeleteBucketPolicy", &["bucket", "policy", "rm", "bucket"], "DeleteBucketPolicy"),
    (
        "PutBucketRequestPayment",
        &["bucket", "config", "set", "bucket", "requestPayment", "-f", "payment.json"],
        "PutBucketRequestPayment",
    ),
    ("GetBucketRequestPayment", &["bucket", "config", "get", "bucket", "requestPayment"], "GetBucketRequestPayment"),
    ("PutBucketTagging", &["bucket", "tags", "set", "bucket", "a=1"], "PutBucketTagging"),
    ("GetBucketTagging", &["bucket", "tags", "get", "bucket"], "GetBucketTagging"),
    ("PutBucketVersioning", &["bucket", "versioning", "enable", "bucket"], "PutBucketVersioning"),
    ("GetBucketVersioning", &["bucket", "versioning", "get", "bucket"], "GetBucketVersioning"),
    ("PutBucketWebsite", &["bucket", "config", "set", "bucket", "website", "-f", "website.json"], "PutBucketWebsite"),
    ("GetBucketWebsite", &["bucket", "config", "get", "bucket", "website"], "GetBucketWebsite"),
    ("DeleteBucketWebsite", &["bucket", "config", "rm", "bucket", "website"], "DeleteBucketWebsite"),
    (
        "PutLifecycleConfiguration",
        &["bucket", "lifecycle", "add", "bucket", "--expire", "9d"],
        "PutBucketLifecycleConfiguration",
    ),
    ("GetLifecycleConfiguration", &["bucket", "lifecycle", "get", "bucket"], "GetBucketLifecycleConfiguration"),
    (
        "PutReplicationConfiguration",
        &["bucket", "config", "set", "bucket", "replication", "-f", "replication.json"],
        "PutBucketReplication",
    ),
    ("GetReplicationConfiguration", &["bucket", "config", "get", "bucket", "replication"], "GetBucketReplication"),
    ("DeleteReplicationConfiguration", &["bucket", "config", "rm", "bucket", "replication"], "DeleteBucketReplication"),
    ("PutObjectAcl", &["object", "acl", "set", K, "--canned", "private"], "PutObjectAcl"),
    ("GetObjectAcl", &["object", "acl", "get", K], "GetObjectAcl"),
    (
        "PutObjectVersionAcl",
        &["object", "acl", "set", K, "--version", "VERSION", "--canned", "private"],
        "PutObjectAcl",
    ),
    ("GetObjectVersionAcl", &["object", "acl", "get", K, "--version", "VERSION"], "GetObjectAcl"),
    ("DeleteObjectVersion", &["object", "versions", "rm", K, "VERSION"], "DeleteObject"),
];

/// Known to policies and to no command: nobody has torrents any more.
const TORRENTS: [&str; 2] = ["GetObjectTorrent", "GetObjectVersionTorrent"];

// POL-ACT-01 to POL-ACT-54, POL-GEN-14
#[test]
fn every_action_of_the_manual_has_its_command() {
    let place = Place::new();
    place.ok(&["bucket", "versioning", "enable", "bucket"]);
    place.put("k", "one");
    place.put("k", "two");
    let versions = place.json_lines(&["object", "versions", "ls", "--json", K]);
    let old = versions[1]["version"].as_str().unwrap().to_owned();
    place.write("file", "x");
    place.ok(&["cp", "--storage-class", "GLACIER", "file", "s3://bucket/cold"]);
    // An upload that nobody has completed.
    place.write("large", noise(1, 6 << 20));
    place.server.knobs().fail(Rule::new("UploadPart", Action::Status(403, "AccessDenied".into())).nth(2));
    place.run(&["cp", "--resume", "-o", "part_size=5M,max_uploads=1", "large", "s3://bucket/u"]);
    place.server.knobs().clear_rules();
    for (name, document) in [
        ("accelerate", json!({"Status": "Suspended"})),
        ("cors", json!({"CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]}]})),
        ("logging", json!({"LoggingEnabled": {"TargetBucket": "logs", "TargetPrefix": "l/"}})),
        (
            "notification",
            json!({"TopicConfigurations": [{"Id": "t", "TopicArn": "arn:x", "Events": ["s3:ObjectCreated:*"]}]}),
        ),
        ("payment", json!({"Payer": "BucketOwner"})),
        ("website", json!({"IndexDocument": {"Suffix": "index.html"}})),
        ("replication", json!({"Role": "r", "Rules": [{"Status": "Enabled", "Destination": {"Bucket": "b"}}]})),
    ] {
        place.write(&format!("{name}.json"), document.to_string());
    }
    place.write("policy.json", with("Sid", json!("one")));
    for (action, command, operation) in ACTIONS {
        let args: Vec<&str> = command.iter().map(|a| if *a == "VERSION" { old.as_str() } else { a }).collect();
        place.clear();
        // Some print advice, too.
        let ran = place.run(&args);
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
        let sent = place.server.counts();
        let found = sent.keys().any(|op| op == operation || (*operation == "ListObjects" && op == "ListObjectsV2"));
        assert!(found, "s3:{action}: {args:?} sends {sent:?}, not {operation}");
    }
    // What policies know and what the commands need are the same 54.
    let listed = place.json_lines(&["bucket", "policy", "actions", "--json"]);
    let mut known: Vec<String> =
        listed.iter().map(|a| a["action"].as_str().unwrap().trim_start_matches("s3:").to_owned()).collect();
    let mut ours: Vec<String> = ACTIONS.iter().map(|a| a.0).chain(TORRENTS).map(str::to_owned).collect();
    known.sort();
    ours.sort();
    assert_eq!(known, ours);
    let all = ours.join(",");
    let add = ["bucket", "policy", "add-statement", "bucket", "all", "--effect", "allow", "--principal", "*"];
    place.ok(&[&add[..], &["--action", &all, "--resource", "bucket,bucket/", "--yes"]].concat());
    let set = place.json(&["bucket", "policy", "get", "--json", "bucket"]);
    assert_eq!(set["Statement"][0]["Action"].as_array().unwrap().len(), 54, "{set}");
}

// XOS-POL-16
#[test]
fn a_policy_that_may_not_be_read_says_which_right_is_missing() {
    let place = Place::new();
    place.write("p.json", with("Sid", json!("one")));
    place.ok(&["bucket", "policy", "set", "bucket", "--file", "p.json"]);
    for (operation, args, right) in [
        ("GetBucketPolicy", &["bucket", "policy", "get", "bucket"][..], "s3:GetBucketPolicy"),
        ("DeleteBucketPolicy", &["bucket", "policy", "rm", "bucket"], "s3:DeleteBucketPolicy"),
    ] {
        place.server.knobs().fail(Rule::new(operation, Action::Status(403, "AccessDenied".into())).always());
        let told = place.fails(1, args);
        assert!(told.contains("403 AccessDenied") && told.contains(right), "{told}");
        place.server.knobs().clear_rules();
        place.server.knobs().fail(Rule::new(operation, Action::Status(405, "MethodNotAllowed".into())).always());
        let told = place.fails(1, args);
        assert!(told.contains("405") && told.contains("account"), "{told}");
        place.server.knobs().clear_rules();
    }
}

// XOS-LC-01
#[test]
fn more_than_1000_rules_are_refused() {
    let place = Place::new();
    let rules = |n: usize| {
        let rule = |i| {
            json!({"ID": format!("r{i}"), "Status": "Enabled", "Filter": {"Prefix": format!("p{i}/")},
            "Expiration": {"Days": 1}})
        };
        json!({"Rules": (0..n).map(rule).collect::<Vec<_>>()}).to_string()
    };
    place.write("rules.json", rules(1001));
    place.clear();
    let told = place.fails(2, &["bucket", "lifecycle", "set", "bucket", "--file", "rules.json"]);
    assert!(told.contains("1000"), "{told}");
    assert!(place.server.log().is_empty(), "nothing was sent");
    place.write("rules.json", rules(1000));
    place.ok(&["bucket", "lifecycle", "set", "bucket", "--file", "rules.json"]);
    assert_eq!(place.json(&["bucket", "lifecycle", "get", "bucket"])["Rules"].as_array().unwrap().len(), 1000);
}

/// A store that answers every request with one document.
fn store_that_says(document: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let option = format!("endpoint=http://{}", listener.local_addr().unwrap());
    // Ends with the tests.
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(mut client) = client else { return };
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && client.read(&mut byte).is_ok_and(|n| n == 1) {
                request.push(byte[0]);
            }
            let length = document.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            let _ = client.write_all(format!("{head}{document}").as_bytes());
        }
    });
    option
}

// XOS-LC-10, CON-20
#[test]
fn days_of_minus_one_are_shown_as_never() {
    let place = Place::new();
    // As a store of the manual says that nothing expires.
    let said = store_that_says(
        "<LifecycleConfiguration><Rule><ID>keep</ID><Filter><Prefix>a/</Prefix></Filter><Status>Enabled</Status>\
         <Expiration><Days>-1</Days></Expiration><AbortIncompleteMultipartUpload><DaysAfterInitiation>3\
         </DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule></LifecycleConfiguration>",
    );
    let rules = place.json(&["bucket", "lifecycle", "get", "bucket", "-o", &said]);
    assert!(rules["Rules"][0].get("Expiration").is_none(), "{rules}");
    assert_eq!(rules["Rules"][0]["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"], 3, "{rules}");
    let out = place.ok(&["bucket", "lifecycle", "explain", "bucket", "-o", &said]);
    assert!(out.contains("keep: ") && !out.contains("-1") && !out.contains("deleted after"), "{out}");
    // It is not sent back.
    place.write(
        "rules.json",
        json!({"Rules": [{"ID": "keep", "Status": "Enabled", "Filter": {"Prefix": "a/"},
        "Expiration": {"Days": -1}, "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 3}}]})
        .to_string(),
    );
    place.ok(&["bucket", "lifecycle", "set", "bucket", "--file", "rules.json"]);
    let xml = place.ok(&["bucket", "lifecycle", "get", "--xml", "bucket"]);
    assert!(xml.contains("<DaysAfterInitiation>3<") && !xml.contains("Expiration>"), "{xml}");
}

// XOS-STS-11 to XOS-STS-13
#[test]
fn presets_of_sessions_are_the_samples_of_the_manual() {
    let place = Place::new();
    for (name, actions) in [
        ("all", json!(["s3:*"])),
        ("rw-objects", json!(["s3:PutObject", "s3:GetObject"])),
        (
            "multipart",
            json!([
                "s3:PutObject",
                "s3:AbortMultipartUpload",
                "s3:ListBucketMultipartUploads",
                "s3:ListMultipartUploadParts"
            ]),
        ),
    ] {
        let text = place.ok(&["bucket", "policy", "template", name, "s3://bucket"]);
        let policy: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(policy["Version"], "2012-10-17");
        let statements = policy["Statement"].as_array().cloned().unwrap_or_else(|| vec![policy["Statement"].clone()]);
        let mut found: Vec<String> = Vec::new();
        for statement in &statements {
            assert_eq!(statement["Effect"], "Allow", "{policy}");
            assert!(statement["Resource"].to_string().contains("arn:aws:s3:::bucket"), "{policy}");
            let list = statement["Action"].as_array().cloned().unwrap_or_else(|| vec![statement["Action"].clone()]);
            found.extend(list.iter().map(|a| a.as_str().unwrap().to_owned()));
        }
        let mut expected: Vec<String> =
            actions.as_array().unwrap().iter().map(|a| a.as_str().unwrap().into()).collect();
        expected.sort();
        found.sort();
        assert_eq!(found, expected, "{name}: {policy}");
        place.write("session.json", &text);
        assert_eq!(place.ok(&["bucket", "policy", "validate", "--session", "session.json"]), "");
    }
}

// OBS-ACL-08
#[test]
fn names_of_buckets_are_checked() {
    let place = Place::new();
    place.clear();
    let long = "a".repeat(64);
    for name in ["ab", &long, "-abc", "abc-", ".abc", "abc.", "a..b", "a.-b", "a-.b", "Abc", "a_b", "192.0.2.1"] {
        let told = place.fails(2, &["bucket", "create", "--", name]);
        assert!(told.contains(name), "{told}");
    }
    assert!(place.server.log().is_empty(), "nothing was sent");
    for name in ["abc", "0-a.b", &"a".repeat(63)] {
        place.ok(&["bucket", "create", name]);
    }
}

/// Where two codes exist, one means somebody else's; some stores know only that one.
// OBS-ACL-09
#[test]
fn a_bucket_of_ones_own_is_no_error_whatever_the_store_calls_it() {
    let place = Place::new();
    for code in ["BucketAlreadyOwnedByYou", "BucketAlreadyExists"] {
        place.server.knobs().fail(Rule::new("CreateBucket", Action::Status(409, code.into())).always());
        let ran = place.run(&["bucket", "create", "bucket"]);
        assert_eq!((ran.code, &*ran.out), (Some(0), ""), "{code}: {ran:?}");
        assert!(ran.err.contains("is yours already; nothing was changed"), "{code}: {ran:?}");
        let told = place.run(&["bucket", "create", "of-somebody"]);
        assert_eq!(told.code, Some(if code == "BucketAlreadyExists" { 1 } else { 0 }), "{code}: {told:?}");
        place.server.knobs().clear_rules();
    }
}

//! Documents of buckets, and versions.

use serde_json::{Value, json};

use super::common::commands::Commands;
use super::{Place, decoded, encoded};

/// A document in the AWS tools' shape goes in by xosfs and out by boto3, and the other way round.
#[track_caller]
fn document(place: &mut Place, name: &str, [get, put, delete]: [&str; 3], wrapped: &str, value: &Value) {
    let bucket = place.server.bucket.clone();
    place.write("document.json", value.to_string());
    place.ok(&["bucket", name, "set", &bucket, "--file", "document.json"]);
    let by_boto = place.of_bucket(get, json!({}));
    assert_eq!(&normal(&by_boto), &normal(value), "{name}: set by xosfs, read by boto3");
    place.ok(&["bucket", name, "rm", &bucket]);
    place.boto.refused(get, json!({"Bucket": bucket}));
    place.of_bucket(put, json!({wrapped: value}));
    let by_xosfs = place.json(&["bucket", name, "get", "--json", &bucket]);
    assert_eq!(&normal(&by_xosfs), &normal(value), "{name}: set by boto3, read by xosfs");
    place.of_bucket(delete, json!({}));
    let ran = place.run(&["bucket", name, "get", &bucket]);
    assert_eq!((ran.code, &*ran.out), (Some(1), ""), "{ran:?}");
}

/// Without what stores are free in: Ceph sorts rules and methods, names rules itself, and moves a lone prefix out of
/// its filter.
fn normal(document: &Value) -> Value {
    let mut document = document.clone();
    for list in ["Rules", "CORSRules"] {
        let Some(rules) = document[list].as_array_mut() else { continue };
        for rule in rules.iter_mut() {
            let of = rule.as_object_mut().unwrap();
            if list == "CORSRules" {
                of.remove("ID");
            }
            if let Some(methods) = of.get_mut("AllowedMethods").and_then(Value::as_array_mut) {
                methods.sort_by_key(Value::to_string);
            }
            let prefix = of.remove("Prefix");
            if let Some(prefix) = prefix.filter(|_| of.get("Filter").is_none_or(|f| f.get("Prefix").is_none())) {
                of.insert("Filter".into(), json!({"Prefix": prefix}));
            }
        }
        rules.sort_by_key(|r| r["ID"].to_string());
    }
    let kept: serde_json::Map<_, _> = document
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, v)| !v.is_null())
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    Value::Object(kept)
}

// XOS-LC-01, XOS-LC-09, XOS-LC-12
#[test]
fn lifecycle_rules_of_either_are_read_by_the_other() {
    let rules = json!({"Rules": [
        {
            "ID": "a-logs", "Status": "Enabled", "Filter": {"Prefix": "logs/"},
            "Expiration": {"Days": 365}, "Transitions": [{"Days": 30, "StorageClass": "GLACIER"}],
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
        },
        {
            "ID": "b-old", "Status": "Disabled", "Filter": {"Prefix": "old/"},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
        },
    ]});
    let calls = ["get_bucket_lifecycle_configuration", "put_bucket_lifecycle_configuration", "delete_bucket_lifecycle"];
    document(&mut Place::new(), "lifecycle", calls, "LifecycleConfiguration", &rules);
}

// XOS-COR-01, XOS-COR-03, XOS-COR-04
#[test]
fn cors_rules_of_either_are_read_by_the_other() {
    let rules = json!({"CORSRules": [{
        "AllowedOrigins": ["http://example.com:8080"], "AllowedMethods": ["GET", "HEAD", "PUT"],
        "AllowedHeaders": ["*"], "ExposeHeaders": ["ETag"], "MaxAgeSeconds": 3600,
    }]});
    let calls = ["get_bucket_cors", "put_bucket_cors", "delete_bucket_cors"];
    document(&mut Place::new(), "cors", calls, "CORSConfiguration", &rules);
}

// POL-ACT-31, POL-ACT-48
#[test]
fn bucket_tags_of_either_are_read_by_the_other() {
    let mut place = Place::new();
    let bucket = place.server.bucket.clone();
    place.ok(&["bucket", "tags", "set", &bucket, "team=web", "k é=a+b"]);
    let found = place.of_bucket("get_bucket_tagging", json!({}));
    let set = json!([{"Key": "team", "Value": "web"}, {"Key": "k é", "Value": "a+b"}]);
    assert_eq!(super::sorted(&found["TagSet"]), super::sorted(&set));
    place.ok(&["bucket", "tags", "rm", &bucket]);
    place.of_bucket("put_bucket_tagging", json!({"Tagging": {"TagSet": set}}));
    assert_eq!(place.json(&["bucket", "tags", "get", "--json", &bucket]), json!({"team": "web", "k é": "a+b"}));
}

// XOS-POL-01, XOS-POL-15, CON-14
#[test]
fn a_policy_of_either_is_read_and_obeyed_by_the_other() {
    let mut place = Place::new();
    let bucket = place.server.bucket.clone();
    let policy = json!({"Version": "2012-10-17", "Statement": [{
        "Sid": "é", "Effect": "Allow", "Principal": {"AWS": ["*"]}, "Action": ["s3:GetObject"],
        "Resource": [format!("arn:aws:s3:::{bucket}/public/*")],
    }]});
    // Bytes are kept.
    let text = serde_json::to_string_pretty(&policy).unwrap();
    place.write("p.json", &text);
    place.ok(&["bucket", "policy", "set", &bucket, "--file", "p.json", "--yes"]);
    assert_eq!(place.of_bucket("get_bucket_policy", json!({}))["Policy"], *text);
    place.of_bucket("delete_bucket_policy", json!({}));
    assert_eq!(place.run(&["bucket", "policy", "get", &bucket]).code, Some(1));
    place.of_bucket("put_bucket_policy", json!({"Policy": text}));
    assert_eq!(place.json(&["bucket", "policy", "get", "--json", &bucket]), policy);
    place.ok(&["bucket", "policy", "rm", &bucket]);
    assert_eq!(place.boto.refused("get_bucket_policy", json!({"Bucket": bucket})), "NoSuchBucketPolicy");
}

// XOS-BKT-01 to XOS-BKT-04, XOS-BKT-08, CON-25
#[test]
fn buckets_of_either_are_seen_by_the_other() {
    let mut place = Place::new();
    let second = format!("{}-2", place.server.bucket);
    place.ok(&["bucket", "create", &second, "--acl", "public-read"]);
    place.boto.call("head_bucket", json!({"Bucket": second}));
    let listed = place.boto.call("list_buckets", json!({}));
    assert!(listed["Buckets"].as_array().unwrap().iter().any(|b| b["Name"] == *second), "{listed}");
    let place_of = place.boto.call("get_bucket_location", json!({"Bucket": second}));
    assert!(place_of.get("LocationConstraint").is_some(), "{place_of}");
    place.ok(&["bucket", "rm", "--yes", &second]);
    place.boto.refused("head_bucket", json!({"Bucket": second}));
    place.boto.call("create_bucket", json!({"Bucket": second}));
    assert!(place.json_lines(&["bucket", "ls", "--json"]).iter().any(|b| b["name"] == *second));
    place.ok(&["bucket", "stat", &second]);
    place.boto.call("delete_bucket", json!({"Bucket": second}));
    assert_eq!(place.run(&["bucket", "stat", &second]).code, Some(1));
}

/// (id, latest, marker), sorted.
fn of_boto(found: &Value) -> Vec<(String, bool, bool)> {
    let list = |name: &str, deleted: bool| -> Vec<_> {
        let entries = found[name].as_array().cloned().unwrap_or_default();
        let row = |v: &Value| (v["VersionId"].as_str().unwrap().to_owned(), v["IsLatest"] == true, deleted);
        entries.iter().map(row).collect()
    };
    let mut all = list("Versions", false);
    all.extend(list("DeleteMarkers", true));
    all.sort();
    all
}

fn of_xosfs(lines: &[Value]) -> Vec<(String, bool, bool)> {
    let row = |v: &Value| (v["version"].as_str().unwrap().to_owned(), v["latest"] == true, v["deleted"] == true);
    let mut all: Vec<_> = lines.iter().map(row).collect();
    all.sort();
    all
}

// XOS-VER-01, XOS-VER-02, XOS-VER-04, XOS-OBJ-20, XOS-OBJ-21
#[test]
fn versions_of_either_are_listed_read_and_brought_back_by_the_other() {
    let mut place = Place::new();
    let bucket = place.server.bucket.clone();
    assert_eq!(place.ok(&["bucket", "versioning", "get", &bucket]), "Off\n");
    place.ok(&["bucket", "versioning", "enable", &bucket]);
    assert_eq!(place.of_bucket("get_bucket_versioning", json!({}))["Status"], "Enabled");
    place.of_bucket("put_bucket_versioning", json!({"VersioningConfiguration": {"Status": "Suspended"}}));
    assert_eq!(place.ok(&["bucket", "versioning", "get", &bucket]), "Suspended\n");
    place.of_bucket("put_bucket_versioning", json!({"VersioningConfiguration": {"Status": "Enabled"}}));

    let (key, uri) = ("v/a b+é", place.uri("v/a b+é"));
    let first = place.object("put_object", key, json!({"Body": encoded("one"), "Metadata": {"n": "1"}}));
    let first = first["VersionId"].as_str().unwrap().to_owned();
    place.write("two", "two");
    place.ok(&["cp", "two", &uri]);
    place.object("delete_object", key, json!({}));
    let lines = place.json_lines(&["object", "versions", "ls", "--json", &uri]);
    assert_eq!(lines.len(), 3);
    let all = place.of_bucket("list_object_versions", json!({"Prefix": key}));
    assert_eq!(of_xosfs(&lines), of_boto(&all));
    place.ok(&["object", "versions", "get", &uri, &first, "old"]);
    assert_eq!(place.read("old"), b"one");
    place.ok(&["object", "versions", "undelete", &uri]);
    assert_eq!(decoded(&place.object("get_object", key, json!({}))["Body"]), b"two");
    place.ok(&["object", "versions", "restore", &uri, &first]);
    let got = place.object("get_object", key, json!({}));
    assert_eq!((decoded(&got["Body"]), &got["Metadata"]), (b"one".to_vec(), &json!({"n": "1"})));
    let second = lines.iter().find(|l| l["latest"] == false && l["version"] != *first).unwrap();
    let second = second["version"].as_str().unwrap().to_owned();
    place.object("delete_object", key, json!({"VersionId": second}));
    place.ok(&["object", "versions", "rm", &uri, &first]);
    let lines = place.json_lines(&["object", "versions", "ls", "--json", &uri]);
    let all = place.of_bucket("list_object_versions", json!({"Prefix": key}));
    assert_eq!((lines.len(), of_xosfs(&lines)), (1, of_boto(&all)));
}

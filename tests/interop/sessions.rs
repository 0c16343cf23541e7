//! Temporary keys: those that one has fetched work for the other.

use serde_json::json;

use super::common::commands::Commands;
use super::{Place, decoded, encoded};

fn role(place: &Place) -> String {
    if place.is_embedded() {
        return xosfs::demo::ROLE.to_owned();
    }
    std::env::var("XOSFS_TEST_ROLE").unwrap_or_else(|_| "arn:aws:iam:::role/S3Access".into())
}

// XOS-STS-04, XOS-STS-09, XOS-STS-10
#[test]
fn keys_fetched_by_either_work_for_the_other() {
    let mut place = Place::new();
    let role = role(&place);
    let args = json!({"RoleArn": role, "RoleSessionName": "by-boto", "DurationSeconds": 900});
    let session = place.boto.with("sts", "assume_role", args)["Credentials"].take();
    let of = |name: &str| session[name].as_str().unwrap().to_owned();
    let (key, secret, token) = (of("AccessKeyId"), of("SecretAccessKey"), of("SessionToken"));
    place.write("f", "by xosfs");
    let env = [("AWS_ACCESS_KEY_ID", &*key), ("AWS_SECRET_ACCESS_KEY", &*secret), ("AWS_SESSION_TOKEN", &*token)];
    for version in ["v4", "v2"] {
        let signature = format!("signature={version}");
        let ran = place.run_with(&["cp", "-o", &signature, "f", &place.uri(version)], &env);
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{version}: {ran:?}");
        assert_eq!(decoded(&place.object("get_object", version, json!({}))["Body"]), b"by xosfs");
        let url = place.run_with(&["presign", "get", "-o", &signature, &place.uri(version)], &env).out;
        let answer = place.boto.call("fetch", json!({"method": "GET", "url": url.trim()}));
        assert_eq!(answer["status"], 200, "{version}");
    }
    // Without its token the key is worth nothing.
    let ran = place.run_with(&["cp", &place.uri("v4"), "-"], &env[..2]);
    assert_eq!((ran.code, &*ran.out), (Some(1), ""), "{ran:?}");

    let bucket = place.uri("");
    let args = ["sts", "assume-role", &role, "--preset", "read-write", "--on", &bucket, "--duration", "15m", "--json"];
    let session = place.json(&args)["Credentials"].take();
    let keys = json!({
        "access_key": session["AccessKeyId"], "secret_key": session["SecretAccessKey"], "token": session["SessionToken"],
    });
    place.boto.call("client", keys);
    place.object("put_object", "b", json!({"Body": encoded("by boto")}));
    let args = place.args("b", json!({}));
    assert_eq!(decoded(&place.boto.with("s3v2", "get_object", args)["Body"]), b"by boto");
    assert_eq!(place.ok(&["cp", &place.uri("b"), "-"]), "by boto");
    let params = json!({"method": "get_object", "params": {"Bucket": place.server.bucket, "Key": "b"}});
    for client in ["s3", "s3v2"] {
        let url = place.boto.with(client, "presign", params.clone())["url"].clone();
        let answer = place.boto.call("fetch", json!({"method": "GET", "url": url}));
        assert_eq!(answer["status"], 200, "{client}: {answer}");
    }
}

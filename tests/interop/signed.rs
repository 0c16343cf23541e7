//! What is signed for people without keys: URLs and forms.

use serde_json::{Value, json};

use super::common::commands::Commands;
use super::{Place, decoded, encoded};

const SIGNATURES: [(&str, &str); 2] = [("v4", "s3"), ("v2", "s3v2")];

/// A request without keys: status and body.
#[track_caller]
fn fetch(place: &mut Place, method: &str, url: &str, headers: &Value, body: &str) -> (u64, Vec<u8>) {
    let args = json!({"method": method, "url": url, "headers": headers, "Body": encoded(body)});
    let answer = place.boto.call("fetch", args);
    (answer["status"].as_u64().unwrap(), decoded(&answer["Body"]))
}

// XOS-URL-01 to XOS-URL-03
#[test]
fn urls_signed_by_either_work_for_anybody() {
    let mut place = Place::new();
    let none = json!({});
    for (version, client) in SIGNATURES {
        let signature = format!("signature={version}");
        let (key, uri) = (format!("u/{version} é+"), place.uri(&format!("u/{version} é+")));
        let put = place.json(&["presign", "put", "--json", "-o", &signature, "--content-type", "text/x-signed", &uri]);
        let url = put["url"].as_str().unwrap();
        assert_eq!(fetch(&mut place, "PUT", url, &put["headers"], "by xosfs").0, 200, "{version}");
        let other = json!({"content-type": "text/x-other"});
        assert_eq!(fetch(&mut place, "PUT", url, &other, "bad").0, 403, "{version}");
        let got = place.object("get_object", &key, json!({}));
        assert_eq!((decoded(&got["Body"]), got["ContentType"].as_str()), (b"by xosfs".to_vec(), Some("text/x-signed")));
        let get = place.ok(&["presign", "get", "-o", &signature, "--save-as", "a é.txt", &uri]);
        assert_eq!(fetch(&mut place, "GET", get.trim(), &none, ""), (200, b"by xosfs".to_vec()), "{version}");
        assert_eq!(fetch(&mut place, "PUT", get.trim(), &none, "bad").0, 403, "{version}");

        let bucket = place.server.bucket.clone();
        let sign = |place: &mut Place, method: &str, more: Value| {
            let mut params = json!({"Bucket": bucket, "Key": key});
            params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let made = place.boto.with(client, "presign", json!({"method": method, "params": params}));
            made["url"].as_str().unwrap().to_owned()
        };
        let url = sign(&mut place, "put_object", json!({"ContentType": "text/x-boto"}));
        let headers = json!({"Content-Type": "text/x-boto"});
        assert_eq!(fetch(&mut place, "PUT", &url, &headers, "by boto").0, 200, "{version}");
        assert_eq!(place.json(&["stat", "--json", &uri])["headers"]["content-type"], "text/x-boto");
        let url = sign(&mut place, "get_object", json!({"ResponseContentType": "text/x-told"}));
        assert_eq!(fetch(&mut place, "GET", &url, &none, ""), (200, b"by boto".to_vec()), "{version}");
        assert_eq!(fetch(&mut place, "GET", &url.replace("x-told", "x-lied"), &none, "").0, 403, "{version}");
        let url = sign(&mut place, "delete_object", json!({}));
        assert_eq!(fetch(&mut place, "DELETE", &url, &none, "").0, 204, "{version}");
        assert_eq!(place.run(&["stat", &uri]).code, Some(1), "{version}");
    }
}

/// Sends a form with a file as browsers do; the status.
#[track_caller]
fn submit(place: &mut Place, form: &Value, file: &str, bytes: &str) -> u64 {
    let args = json!({"url": form["url"], "fields": form["fields"], "filename": file, "Body": encoded(bytes)});
    place.boto.call("submit", args)["status"].as_u64().unwrap()
}

// XOS-PST-01 to XOS-PST-05
#[test]
fn forms_signed_by_either_work_for_anybody() {
    let mut place = Place::new();
    let bucket = place.server.bucket.clone();
    for (version, client) in SIGNATURES {
        let signature = format!("signature={version}");
        let up = place.uri("up/");
        let mut args = vec!["presign", "post", "--json", "-o", &signature, "--starts-with", "--acl", "public-read"];
        args.extend(["--max-size", "100", "--content-type", "text/x-form", "--field", "x-amz-meta-who=me", &up]);
        let mut form = place.json(&args);
        let status = submit(&mut place, &form, "a é.txt", "hello");
        assert!((200..300).contains(&status), "{version}: {status}");
        let got = place.object("get_object", "up/a é.txt", json!({}));
        assert_eq!((decoded(&got["Body"]), got["ContentType"].as_str()), (b"hello".to_vec(), Some("text/x-form")));
        assert_eq!(got["Metadata"], json!({"who": "me"}), "{version}");
        let acl = place.ok(&["object", "acl", "get", &place.uri("up/a é.txt")]);
        assert!(acl.contains("canned: public-read\n"), "{version}: {acl}");
        assert!((400..500).contains(&submit(&mut place, &form, "b", &"x".repeat(101))), "{version}");
        form["fields"]["key"] = "elsewhere".into();
        assert!((400..500).contains(&submit(&mut place, &form, "b", "x")), "{version}");

        let args = json!({
            "Bucket": bucket, "Key": "in/${filename}", "ExpiresIn": 60,
            "Fields": {"acl": "public-read", "Content-Type": "text/x-boto"},
            "Conditions": [{"acl": "public-read"}, {"Content-Type": "text/x-boto"}, ["content-length-range", 1, 10]],
        });
        let form = place.boto.with(client, "presign_post", args);
        let status = submit(&mut place, &form, "c.txt", "by boto");
        assert!((200..300).contains(&status), "{version}: {status}");
        let uri = place.uri("in/c.txt");
        assert_eq!(place.ok(&["cp", &uri, "-"]), "by boto", "{version}");
        let acl = place.ok(&["object", "acl", "get", &uri]);
        assert!(acl.contains("canned: public-read\n"), "{version}: {acl}");
        assert!((400..500).contains(&submit(&mut place, &form, "d", "more than ten")), "{version}");
        place.ok(&["rm", "-r", "--all", &place.uri("")]);
    }
}

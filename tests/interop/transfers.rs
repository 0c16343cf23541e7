//! Large objects: parts, and the entity tags that come of them.

use md5::{Digest, Md5};
use serde_json::json;

use super::common::TestMount;
use super::common::commands::Commands;
use super::common::noise::noise;
use super::{Place, decoded, encoded};

const MIB: usize = 1 << 20;

/// The entity tag of an object that was stored in parts of so many bytes.
fn etag(bytes: &[u8], part: usize) -> String {
    let sums: Vec<u8> = bytes.chunks(part).flat_map(|p| Md5::digest(p).to_vec()).collect();
    let hex: String = Md5::digest(&sums).iter().map(|b| format!("{b:02x}")).collect();
    format!("{hex}-{}", bytes.len().div_ceil(part))
}

// XOS-MPU-01, XOS-MPU-02, XOS-MPU-04, XOS-TRF-01 to XOS-TRF-03
#[test]
fn parts_of_either_make_the_same_object() {
    let mut place = Place::new();
    let bytes = noise(1, 12 * MIB + 5);
    let expected = etag(&bytes, 5 * MIB);
    place.write("large", &bytes);
    place.ok(&["cp", "-o", "part_size=5M", "large", &place.uri("by xosfs")]);
    let args = place.args("by boto", json!({"Body": encoded(&bytes), "part": 5 * MIB}));
    place.boto.call("upload", args);
    for key in ["by xosfs", "by boto"] {
        let head = place.object("head_object", key, json!({}));
        assert_eq!(
            (head["ETag"].as_str(), head["ContentLength"].as_u64()),
            (Some(&*format!("\"{expected}\"")), Some(bytes.len() as u64)),
            "{key}"
        );
        assert_eq!(place.json(&["stat", "--json", &place.uri(key)])["etag"], *expected, "{key}");
    }
    let args = place.args("by xosfs", json!({}));
    assert!(decoded(&place.boto.call("download", args)["Body"]) == bytes);
    place.ok(&["cp", &place.uri("by boto"), "back"]);
    assert!(place.read("back") == bytes);
    // What resumes an upload knows the parts of the other.
    place.ok(&["cp", &place.uri("by boto"), &place.uri("copied")]);
    assert_eq!(place.object("head_object", "copied", json!({}))["ContentLength"], bytes.len());
}

#[test]
fn a_mount_and_boto_read_each_other_s_large_files() {
    let mut place = Place::new();
    let mut bytes = noise(1, 17 * MIB + 5);
    let mount = TestMount::with(&place.server, &["part_size=5M,metadata_ttl=0"]);
    std::fs::write(mount.join("f"), &bytes).unwrap();
    let args = place.args("f", json!({}));
    assert!(decoded(&place.boto.call("download", args.clone())["Body"]) == bytes);
    bytes.reverse();
    let upload = place.args("f", json!({"Body": encoded(&bytes), "part": 5 * MIB}));
    place.boto.call("upload", upload);
    assert!(std::fs::read(mount.join("f")).unwrap() == bytes);
    // A change in the middle of what boto stored.
    let file = std::fs::File::options().write(true).open(mount.join("f")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"changed", 7 * MIB as u64).unwrap();
    file.sync_all().unwrap();
    bytes[7 * MIB..][..7].copy_from_slice(b"changed");
    assert!(decoded(&place.boto.call("download", args)["Body"]) == bytes);
    drop(file);
    mount.umount();
}

// XOS-MPU-05, XOS-MPU-06, XOS-MPU-10
#[test]
fn an_upload_begun_by_boto_is_seen_resumed_and_aborted() {
    let mut place = Place::new();
    let bytes = noise(1, 12 * MIB);
    place.write("large", &bytes);
    let (key, uri) = ("up/é +", place.uri("up/é +"));
    let id = place.object("create_multipart_upload", key, json!({}))["UploadId"].as_str().unwrap().to_owned();
    let part = |place: &mut Place, number: usize| {
        let body = encoded(&bytes[(number - 1) * 5 * MIB..][..5 * MIB]);
        let more = json!({"UploadId": id, "PartNumber": number, "Body": body});
        place.object("upload_part", key, more);
    };
    part(&mut place, 1);
    part(&mut place, 2);
    let parts = place.json_lines(&["uploads", "parts", "--json", &uri]);
    assert_eq!(parts.iter().map(|p| p["size"].as_u64().unwrap()).collect::<Vec<_>>(), [5 * MIB as u64; 2]);
    place.ok(&["cp", "--resume", "-o", "part_size=5M", "large", &uri]);
    assert_eq!(place.object("head_object", key, json!({}))["ETag"], format!("\"{}\"", etag(&bytes, 5 * MIB)));
    assert!(place.of_bucket("list_multipart_uploads", json!({})).get("Uploads").is_none_or(|u| u == &json!([])));

    place.object("create_multipart_upload", key, json!({}));
    assert_eq!(place.json_lines(&["uploads", "ls", "--json", &uri]).len(), 1);
    place.ok(&["uploads", "abort", "--all", &uri]);
    assert!(place.of_bucket("list_multipart_uploads", json!({})).get("Uploads").is_none_or(|u| u == &json!([])));
}

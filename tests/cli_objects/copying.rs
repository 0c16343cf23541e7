//! `xosfs cp` in every direction.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use xosfs::demo::{Action, Rule};

use super::common::commands::Commands;
use super::common::noise::noise;
use super::{Place, ran};

const MIB: usize = 1 << 20;

// XOS-OBJ-04, XOS-OBJ-10
#[test]
fn a_small_file_goes_up_and_down_in_one_request_each_way() {
    let place = Place::new();
    place.write("a file.txt", "hello");
    place.clear();
    assert_eq!(place.ok(&["cp", "a file.txt", "s3://bucket/d/"]), "");
    assert_eq!((place.count("PutObject"), place.server.log().len()), (1, 1));
    assert_eq!(place.get("d/a file.txt"), b"hello");
    place.ok(&["cp", "s3://bucket/d/a file.txt", "back"]);
    assert_eq!(place.read("back"), b"hello");
    place.ok(&["cp", "s3://bucket/d/a file.txt", "."]);
    let stat = place.json(&["stat", "--json", "s3://bucket/d/a file.txt"]);
    assert_eq!((stat["size"].as_u64(), stat["headers"]["content-type"].as_str()), (Some(5), Some("text/plain")));
    // Nothing of a download is left but the file.
    assert_eq!(place.names(""), ["a file.txt", "back"]);
    place.write("empty", "");
    place.ok(&["cp", "empty", "s3://bucket/empty"]);
    place.ok(&["cp", "s3://bucket/empty", "empty2"]);
    assert_eq!(place.read("empty2"), b"");
}

// XOS-TRF-01 to XOS-TRF-04, XOS-MPU-01, XOS-MPU-02, XOS-MPU-04, XOS-MPU-11
#[test]
fn a_large_file_goes_in_parts_both_ways() {
    let place = Place::new();
    let bytes = noise(1, 17 * MIB + 123);
    place.write("large", &bytes);
    place.clear();
    place.ok(&["cp", "-o", "part_size=5M", "large", "s3://bucket/large"]);
    assert_eq!((place.count("UploadPart"), place.count("CompleteMultipartUpload")), (4, 1));
    place.clear();
    place.ok(&["cp", "-o", "part_size=5M", "s3://bucket/large", "back"]);
    assert!(place.read("back") == bytes);
    assert_eq!(place.count("GetObject"), 4);
    assert!(place.get("large") == bytes);
}

// XOS-OBJ-05 to XOS-OBJ-08, XOS-TRF-06, XOS-MPU-01
#[test]
fn what_is_stored_gets_the_attributes_asked_for() {
    let place = Place::new();
    let (small, large) = (vec![b'x'; 10], noise(1, 6 * MIB));
    for (name, bytes) in [("small", small), ("large", large)] {
        place.write(name, &bytes);
        let uri = format!("s3://bucket/{name}");
        place.ok(&[
            "cp",
            "-o",
            "part_size=5M",
            "--acl",
            "public-read",
            "--storage-class",
            "standard_ia",
            "--tags",
            "a=1&b=2",
            "--metadata",
            "Who=me",
            "--content-type",
            "text/json",
            name,
            &uri,
        ]);
        let stat = place.json(&["stat", "--json", &uri]);
        assert_eq!(stat["storage_class"], "STANDARD_IA", "{name}");
        assert_eq!(stat["headers"]["content-type"], "text/json");
        assert_eq!(stat["metadata"]["who"], "me");
        assert_eq!(stat["tag_count"], 2, "{stat}");
    }
}

#[test]
fn a_pipe_is_stored_and_fetched() {
    let place = Place::new();
    let bytes = noise(1, 12 * MIB + 1);
    let mut command = place.command(&["cp", "-o", "part_size=5M", "-", "s3://bucket/piped"]);
    place.clear();
    assert_eq!(ran(command.write_stdin(bytes.clone())).code, Some(0));
    assert_eq!((place.count("UploadPart"), place.count("CompleteMultipartUpload")), (3, 1));
    assert!(place.get("piped") == bytes);
    // Exactly one part and nothing more.
    let one = noise(1, 5 * MIB);
    let mut command = place.command(&["cp", "-o", "part_size=5M", "-", "s3://bucket/one"]);
    assert_eq!(ran(command.write_stdin(one.clone())).code, Some(0));
    assert!(place.get("one") == one);
    // A device is written to, not replaced.
    assert_eq!(place.ok(&["cp", "s3://bucket/one", "/dev/null"]), "");
    assert!(std::fs::metadata("/dev/null").unwrap().file_type() != std::fs::metadata(place.dir()).unwrap().file_type());
}

#[test]
fn directories_are_copied_with_what_is_below() {
    let place = Place::new();
    for name in ["tree/a", "tree/sub/b", "tree/sub/deep/c d", "tree/é"] {
        place.write(name, name);
    }
    std::os::unix::fs::symlink("sub", place.dir().join("tree/link")).unwrap();
    let ran = place.run(&["cp", "-r", "tree", "s3://bucket/up"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.contains("left out") && ran.err.contains("tree/link"), "{ran:?}");
    assert_eq!(place.keys("up"), ["up/a", "up/sub/b", "up/sub/deep/c d", "up/é"]);
    place.ok(&["cp", "-r", "s3://bucket/up", "down"]);
    assert_eq!(place.read("down/sub/deep/c d"), b"tree/sub/deep/c d");
    assert_eq!(place.names("down"), ["a", "sub", "é"]);
    place.ok(&["cp", "-r", "s3://bucket/up/sub", "s3://bucket/copied/"]);
    assert_eq!(place.keys("copied"), ["copied/b", "copied/deep/c d"]);
    // Several sources into one directory.
    place.ok(&["cp", "tree/a", "tree/é", "s3://bucket/flat/"]);
    assert_eq!(place.keys("flat"), ["flat/a", "flat/é"]);
    let lines = place.json_lines(&["cp", "-r", "--json", "--dry-run", "s3://bucket/up/sub", "x"]);
    assert_eq!((lines.len(), lines[0]["copied"].as_bool()), (2, Some(false)));
    assert!(!place.dir().join("x").exists());
}

#[test]
fn keys_that_are_no_paths_are_told_and_left_out() {
    let place = Place::new();
    for key in ["odd/a//b", "odd/good", "odd/file", "odd/file/inside"] {
        place.put(key, key);
    }
    let ran = place.run(&["cp", "-r", "--parallel", "1", "s3://bucket/odd", "out"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("not copied: s3://bucket/odd/a//b: this key is no path of a local file"), "{ran:?}");
    assert!(ran.err.ends_with("2 of 4 could not be copied\n"), "{ran:?}");
    assert_eq!(place.read("out/good"), b"odd/good");
}

// XOS-OBJ-11, XOS-OBJ-14
#[test]
fn a_copy_inside_the_store_moves_no_bytes() {
    let place = Place::new();
    place.write("f", "text");
    place.ok(&["cp", "--metadata", "a=b", "--tags", "t=1", "--storage-class", "STANDARD_IA", "f", "s3://bucket/from"]);
    place.clear();
    place.ok(&["cp", "s3://bucket/from", "s3://bucket/to"]);
    assert_eq!((place.count("CopyObject"), place.count("GetObject"), place.count("PutObject")), (1, 0, 0));
    let stat = place.json(&["stat", "--json", "s3://bucket/to"]);
    assert_eq!((stat["metadata"]["a"].as_str(), stat["tag_count"].as_u64()), (Some("b"), Some(1)), "{stat}");
    assert_eq!(stat["storage_class"], "STANDARD_IA");
    place.ok(&["cp", "--storage-class", "STANDARD", "--metadata", "c=d", "s3://bucket/to", "s3://bucket/to"]);
    let stat = place.json(&["stat", "--json", "s3://bucket/to"]);
    assert_eq!((stat["storage_class"].as_str(), stat["metadata"]["a"].as_str()), (Some("STANDARD"), Some("b")));
    assert_eq!(stat["metadata"]["c"], "d");
    let told = place.run(&["cp", "s3://bucket/to", "s3://bucket/to"]);
    assert!(told.err.contains("source and target are the same object"), "{told:?}");
}

// CON-05
#[test]
fn a_copy_between_buckets_asks_the_source_for_its_size() {
    let place = Place::new();
    place.server.store().create_bucket("other");
    // Over the size that the manual advises to copy in parts.
    place.server.store().put_synthetic("bucket", "large", (1 << 30) + 1);
    place.clear();
    place.ok(&["cp", "-o", "provider=xos", "s3://bucket/large", "s3://other/large"]);
    assert_eq!((place.count("CopyObject"), place.count("CompleteMultipartUpload")), (0, 1));
    let log = place.server.log();
    assert!(log.iter().any(|r| r.operation == "HeadObject" && r.bucket == "bucket"), "{log:?}");
    assert_eq!(place.json(&["stat", "--json", "s3://other/large"])["size"], (1 << 30) + 1);
}

#[test]
fn what_is_there_is_left_alone_when_asked() {
    let place = Place::new();
    place.put("k", "old");
    place.write("f", "new");
    place.ok(&["cp", "-n", "f", "s3://bucket/k"]);
    assert_eq!(place.get("k"), b"old");
    place.ok(&["cp", "-n", "f", "s3://bucket/k2"]);
    assert_eq!(place.get("k2"), b"new");
    place.ok(&["cp", "-n", "s3://bucket/k", "f"]);
    assert_eq!(place.read("f"), b"new");
}

#[test]
fn a_failed_download_leaves_nothing_under_the_name() {
    let place = Place::new();
    place.put("k", noise(1, 8 * MIB));
    place.write("k", "before");
    place.server.knobs().fail(Rule::new("GetObject", Action::Status(403, "AccessDenied".into())).always());
    let ran = place.run(&["cp", "s3://bucket/k", "k"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("AccessDenied"), "{ran:?}");
    assert_eq!(place.read("k"), b"before");
    assert_eq!(place.names(""), ["k"]);
    place.server.knobs().clear_rules();
    // A cut body is fetched from where it was cut.
    place.server.knobs().fail(Rule::new("GetObject", Action::CutBody(1 << 20)).times(2));
    place.ok(&["cp", "s3://bucket/k", "k"]);
    assert!(place.read("k") == noise(1, 8 * MIB));
}

#[test]
fn a_failed_upload_is_aborted() {
    let place = Place::new();
    place.write("large", noise(1, 12 * MIB));
    place.server.knobs().fail(Rule::new("UploadPart", Action::Status(403, "AccessDenied".into())).nth(2));
    let ran = place.run(&["cp", "-o", "part_size=5M", "large", "s3://bucket/large"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(place.ok(&["uploads", "ls", "s3://bucket"]), "");
    assert_eq!(place.count("CompleteMultipartUpload"), 0);
}

// XOS-MPU-06
#[test]
fn an_interrupted_upload_is_resumed_from_its_parts() {
    let place = Place::new();
    let bytes = noise(1, 21 * MIB);
    place.write("large", &bytes);
    let args = ["cp", "--resume", "-o", "part_size=5M,max_uploads=1", "large", "s3://bucket/large"];
    place.server.knobs().fail(Rule::new("UploadPart", Action::Status(403, "AccessDenied".into())).nth(4));
    let ran = place.run(&args);
    assert_eq!(ran.code, Some(1));
    place.clear();
    let uploads = place.run(&["uploads", "ls", "s3://bucket/large"]);
    assert_eq!(uploads.out.lines().count(), 1, "{uploads:?}");
    assert!(uploads.err.contains("--older-than"), "{uploads:?}");
    let parts = place.json_lines(&["uploads", "parts", "--json", "s3://bucket/large"]);
    assert_eq!(parts.len(), 3);
    // A part that is not of this file is sent again.
    let mut other = bytes.clone();
    other[0] ^= 1;
    place.write("large", &other);
    place.clear();
    // With another part size than before.
    place.ok(&["cp", "--resume", "-o", "part_size=8M", "large", "s3://bucket/large"]);
    assert_eq!((place.count("UploadPart"), place.count("CreateMultipartUpload")), (3, 0));
    assert!(place.get("large") == other);
    assert_eq!(place.ok(&["uploads", "ls", "s3://bucket"]), "");
}

#[test]
fn an_interrupted_download_is_resumed_where_it_ended() {
    let place = Place::new();
    let bytes = noise(1, 21 * MIB);
    place.put("large", bytes.clone());
    let options = ["cp", "--resume", "-o", "part_size=5M,max_uploads=1", "s3://bucket/large", "back"];
    place.server.knobs().fail(Rule::new("GetObject", Action::Status(403, "AccessDenied".into())).nth(3).times(1));
    assert_eq!(place.run(&options).code, Some(1));
    assert_eq!(place.names("").len(), 1);
    place.clear();
    place.ok(&options);
    assert_eq!(place.count("GetObject"), 3);
    assert!(place.read("back") == bytes);
    assert_eq!(place.names(""), ["back"]);
}

#[test]
fn a_command_that_is_ended_aborts_its_upload() {
    let place = Place::new();
    place.write("large", noise(1, 12 * MIB));
    place.server.knobs().fail(Rule::new("UploadPart", Action::Stall(Duration::from_secs(20))).always());
    let keys = place.server.keys();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_xosfs"))
        .args(["cp", "-o", "part_size=5M", "large", "s3://bucket/large"])
        .env("AWS_ACCESS_KEY_ID", keys.access_key)
        .env("AWS_SECRET_ACCESS_KEY", keys.secret_key)
        .env("AWS_ENDPOINT_URL", place.server.endpoint())
        .current_dir(place.dir())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while place.count("CreateMultipartUpload") == 0 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(child.wait().unwrap().code(), Some(1));
    place.server.knobs().clear_rules();
    assert_eq!(place.ok(&["uploads", "ls", "s3://bucket"]), "");
}

/// Mode, modification time in nanoseconds.
fn state(place: &Place, name: &str) -> (u32, i128) {
    let found = std::fs::metadata(place.dir().join(name)).unwrap();
    let since = found.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    (found.permissions().mode() & 0o7777, since.as_nanos().cast_signed())
}

#[test]
fn mode_owner_and_times_are_kept_when_asked() {
    let place = Place::new();
    place.write("tree/run.sh", "echo");
    place.write("tree/large", noise(1, 6 * MIB));
    for (name, mode, seconds) in [("tree/run.sh", 0o750, 1_500_000_000), ("tree/large", 0o604, 1_400_000_000)] {
        let file = std::fs::File::options().write(true).open(place.dir().join(name)).unwrap();
        file.set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + Duration::new(seconds, 123_456_789)).unwrap();
    }
    place.ok(&["cp", "-rp", "-o", "part_size=5M", "--metadata", "who=me", "tree", "s3://bucket/up"]);
    let metadata = place.json(&["stat", "--json", "s3://bucket/up/run.sh"])["metadata"].take();
    assert_eq!((&*metadata["mode"].to_string(), &metadata["who"]), ("\"33256\"", &"me".into()), "{metadata}");
    assert_eq!(metadata["mtime"], "1500000000.123456789");
    assert_eq!(metadata["uid"], nix::unistd::geteuid().to_string());
    place.ok(&["cp", "-r", "--preserve", "-o", "part_size=5M", "s3://bucket/up", "down"]);
    for name in ["run.sh", "large"] {
        assert_eq!(state(&place, &format!("down/{name}")), state(&place, &format!("tree/{name}")), "{name}");
    }
    // Also when it is fetched again over what is there, and by one that is resumed.
    place.ok(&["cp", "-p", "--resume", "s3://bucket/up/run.sh", "down/large"]);
    assert_eq!(state(&place, "down/large"), state(&place, "tree/run.sh"));
    // An object of another tool has the time at which it was stored.
    place.put("plain", "x");
    let stored = place.json(&["stat", "--json", "s3://bucket/plain"])["modified"].as_str().unwrap().to_owned();
    let stored: jiff::Timestamp = stored.parse().unwrap();
    place.ok(&["cp", "-p", "s3://bucket/plain", "plain"]);
    assert_eq!(state(&place, "plain").1 / 1_000_000_000, i128::from(stored.as_second()));
    // Nobody asked.
    place.ok(&["cp", "tree/run.sh", "s3://bucket/bare"]);
    assert_eq!(place.json(&["stat", "--json", "s3://bucket/bare"])["metadata"], serde_json::json!({}));
    place.ok(&["cp", "s3://bucket/up/run.sh", "bare"]);
    assert_ne!(state(&place, "bare").1, state(&place, "tree/run.sh").1);
    let told = place.fails(2, &["cp", "-p", "s3://bucket/plain", "-"]);
    assert_eq!(told, "--preserve and `-` exclude each other: a pipe has no mode and no time");
}

#[test]
fn a_copy_inside_the_store_keeps_its_list_and_time_when_asked() {
    let place = Place::new();
    place.write("f", "text");
    place.ok(&["cp", "--metadata", "a=b", "--tags", "t=1", "--storage-class", "STANDARD_IA", "f", "s3://bucket/from"]);
    let stored = place.json(&["stat", "--json", "s3://bucket/from"]);
    let list =
        |key: &str| place.json(&["object", "acl", "get", "--json", &format!("s3://bucket/{key}")])["Grants"].take();
    for given in
        [&["--canned", "public-read"][..], &["--grant", "READ AllUsers", "--grant", "READ_ACP AuthenticatedUsers"]]
    {
        let mut set = vec!["object", "acl", "set", "s3://bucket/from"];
        set.extend(given);
        place.ok(&set);
        place.ok(&["cp", "s3://bucket/from", "s3://bucket/bare"]);
        assert_eq!(list("bare").as_array().unwrap().len(), 1);
        place.ok(&["cp", "-p", "s3://bucket/from", "s3://bucket/kept"]);
        assert_eq!(list("kept"), list("from"), "{given:?}");
        let kept = place.json(&["stat", "--json", "s3://bucket/kept"]);
        assert_eq!((&kept["storage_class"], &kept["tag_count"]), (&"STANDARD_IA".into(), &1.into()), "{kept}");
        assert_eq!(kept["metadata"]["a"], "b");
        let time: f64 = kept["metadata"]["mtime"].as_str().unwrap().parse().unwrap();
        let modified: jiff::Timestamp = stored["modified"].as_str().unwrap().parse().unwrap();
        assert_eq!(time as i64, modified.as_second());
        // A list that is given wins.
        place.ok(&["cp", "-p", "--acl", "private", "s3://bucket/from", "s3://bucket/given"]);
        assert_eq!(list("given").as_array().unwrap().len(), 1);
    }
}

#[test]
fn a_large_object_whose_parts_may_not_be_copied_is_copied_in_one_request() {
    let place = Place::new();
    place.server.store().put_synthetic("bucket", "large", 2 << 30);
    // Ceph 16 refuses copies of parts to every session of a role.
    place.server.knobs().fail(Rule::new("UploadPartCopy", Action::Status(403, "AccessDenied".into())).always());
    place.ok(&["object", "tags", "set", "s3://bucket/large", "-t", "team=web"]);
    place.clear();
    place.ok(&["cp", "s3://bucket/large", "s3://bucket/copy"]);
    assert_eq!((place.count("CopyObject"), place.count("GetObject")), (1, 0));
    let stat = place.json(&["stat", "--json", "s3://bucket/copy"]);
    assert_eq!((stat["size"].as_u64(), stat["tag_count"].as_u64()), (Some(2 << 30), Some(1)), "{stat}");
    assert_eq!(place.ok(&["uploads", "ls", "s3://bucket"]), "");
}

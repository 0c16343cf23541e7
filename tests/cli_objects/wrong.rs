//! Every command used wrongly: one line with what to write instead, and the exit code of a wrong command line.

use super::common::commands::Commands;
use super::{Place, clean, ran};

#[test]
fn wrong_arguments_have_one_line() {
    let place = Place::new();
    place.write("f", "x");
    place.write("d/f", "x");
    let table: &[(&[&str], &str)] = &[
        (
            &["ls", "bucket/key"],
            "\"bucket/key\" is in no mount of xosfs (did you mean s3://bucket/key?); write s3://BUCKET/KEY, or a path in a mount",
        ),
        (&["ls", "https://host/bucket"], "\"https://host/bucket\" is a URL, not an object; write s3://BUCKET/KEY"),
        (&["ls", "s3://"], "source \"\" names no bucket; write BUCKET, BUCKET:/PREFIX or s3://BUCKET/PREFIX"),
        (&["stat", "/proc/x"], "\"/proc/x\" is in no mount of xosfs; write s3://BUCKET/KEY, or a path in a mount"),
        (&["stat", "s3://bucket/a/../b"], "key with a `.` or `..` component key=\"a/../b\""),
        (
            &["rm", "s3://bucket"],
            "s3://bucket/ names a bucket, not an object; write s3://BUCKET/KEY, or a path in a mount",
        ),
        (&["rm", "s3://bucket/d/"], "s3://bucket/d/ is a directory; add -r to delete everything below it"),
        (&["cp", "f", "g"], "neither source nor target is in a store; write s3://BUCKET/KEY"),
        (&["cp", "d", "s3://bucket/"], "d is a directory; add -r to copy everything below it"),
        (&["cp", "s3://bucket/d/", "d"], "s3://bucket/d/ is a directory; add -r to copy everything below it"),
        (
            &["cp", "f", "d/f", "s3://bucket/k"],
            "s3://bucket/k is one name for 2 sources; write a directory, ending in /",
        ),
        (&["cp", "-", "s3://bucket/"], "standard input has no name: write the whole key behind s3://bucket/"),
        (&["cp", "-r", "-", "s3://bucket/k"], "-r and `-` exclude each other"),
        (&["cp", "f", "s3://bucket/k", "g"], "f and g are both local; write s3://BUCKET/KEY"),
        (
            &["cp", "--bandwidth", "fast", "f", "s3://bucket/k"],
            "--bandwidth: `fast` is no size; write bytes or a number with K, M, G or T, as 64M",
        ),
        (&["cp", "--tags", "a=1&a=2", "f", "s3://bucket/k"], "--tags: tag `a` is given twice"),
        (&["cp", "--metadata", "x", "f", "s3://bucket/k"], "--metadata: `x`: write NAME=VALUE"),
        (
            &["cp", "--content-type", "text", "f", "s3://bucket/k"],
            "--content-type: `text` is no content type; write TYPE/SUBTYPE, or auto for one by file name",
        ),
        (&["ls", "-o", "endpont=x", "s3://bucket"], "unknown option `endpont`; did you mean `endpoint`?"),
        (
            &["ls", "-o", "secret_key=x", "s3://bucket"],
            "`secret_key` is not an option: command lines and /etc/fstab are readable by every user; put the keys into ~/.aws/credentials (profile=NAME) or into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ),
        (
            &["uploads", "parts", "s3://bucket"],
            "s3://bucket/ names a bucket, not an object; write s3://BUCKET/KEY, or a path in a mount",
        ),
        (
            &["uploads", "ls", "--older-than", "old", "s3://bucket"],
            "--older-than: `old` is no duration; write 500ms, 5s, 2m, 1h or 1d",
        ),
    ];
    for (args, message) in table {
        assert_eq!(place.fails(2, args), *message, "{args:?}");
    }
}

#[test]
fn a_store_that_refuses_names_the_fix() {
    let place = Place::new();
    place.put("k", "x");
    let with = |name: &str, value: &str, args: &[&str]| {
        let mut command = place.command(args);
        let ran = ran(command.env(name, value));
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(!ran.err.contains("hunter2"), "{ran:?}");
        ran.err
    };
    for args in [
        &["ls", "s3://bucket"][..],
        &["stat", "s3://bucket/k"],
        &["cp", "s3://bucket/k", "f"],
        &["rm", "s3://bucket/k"],
    ] {
        assert!(with("AWS_ENDPOINT_URL", "http://127.0.0.1:1", args).contains("127.0.0.1:1"), "{args:?}");
    }
    assert!(with("AWS_SECRET_ACCESS_KEY", "hunter2hunter2", &["ls", "s3://bucket"]).contains("SignatureDoesNotMatch"));
    let said = with("AWS_ACCESS_KEY_ID", "AKIANOBODY", &["ls", "s3://bucket"]);
    assert!(said.contains("InvalidAccessKeyId") && said.contains("`endpoint`"), "{said}");
    // Without keys at all.
    let ran = ran(clean(env!("CARGO_BIN_EXE_xosfs")).args(["ls", "s3://bucket"]));
    assert!(ran.code == Some(1) && ran.err.contains("AWS_ACCESS_KEY_ID"), "{ran:?}");
}

#[test]
fn a_reader_that_stops_early_is_no_failure() {
    let place = Place::new();
    for i in 0..50 {
        place.put(&format!("k{i}"), "x");
    }
    let keys = place.server.keys();
    let script = format!("'{}' ls -r s3://bucket | head -1; exit ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_xosfs"));
    let mut bash = clean("bash");
    bash.args(["-c", &script]).env("AWS_ACCESS_KEY_ID", keys.access_key).env("AWS_SECRET_ACCESS_KEY", keys.secret_key);
    let ran = ran(bash.env("AWS_ENDPOINT_URL", place.server.endpoint()));
    assert_eq!((ran.code, ran.out.lines().count(), &*ran.err), (Some(0), 1, ""));
}

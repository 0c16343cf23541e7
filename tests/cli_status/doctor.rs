//! `doctor`: a healthy store, and stores and machines with something wrong.

use serde_json::Value;
use xosfs::demo::Server;

use super::place::{Place, Ran, run, server, set_keys, xosfs};

/// `xosfs doctor TARGET -o … ARGS`.
fn doctor(server: &Server, place: &Place, target: &str, more: &str, args: &[&str]) -> Ran {
    let mut command = xosfs();
    set_keys(&mut command, server);
    run(command.args(["doctor", target, "-o"]).arg(place.options(server, more)).args(args))
}

/// The verdict on one thing.
#[track_caller]
fn verdict(report: &Value, name: &str) -> String {
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("{name}: {report}"));
    check["verdict"].as_str().unwrap().to_owned()
}

#[test]
fn a_healthy_bucket_is_read_only_looked_at() {
    let (server, place) = (server(), Place::new());
    server.store().put("bucket", "p/x", "text");
    let ran = doctor(&server, &place, "bucket:/p", "", &[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for part in ["ok     list", "ok     clock", "ok     read", "one byte of p/x", "from environment", "generic"] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    let changes: Vec<_> = server.log().into_iter().filter(|r| !["GET", "HEAD"].contains(&&*r.method)).collect();
    assert!(changes.is_empty(), "{changes:?}");
    assert!(!ran.out.contains(&server.keys().secret_key));
}

#[test]
fn with_write_every_feature_is_tried_and_nothing_stays() {
    let (server, place) = (server(), Place::new());
    server.store().put("bucket", "p/x", "text");
    let ran = doctor(&server, &place, "s3://bucket/p", "", &["--write", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let report = ran.json();
    for name in [
        "write",
        "metadata",
        "range",
        "version",
        "if absent",
        "if match",
        "copy",
        "parts",
        "part copy",
        "set tags",
        "set acl",
        "delete",
    ] {
        assert_eq!(verdict(&report, name), "ok", "{name}: {report}");
    }
    let log = server.log();
    assert!(log.iter().filter(|r| r.method == "PUT").all(|r| r.key.starts_with("p/.xosfs-doctor-")), "{log:?}");
    let left = run(set(&server, xosfs().args(["ls", "-r", "s3://bucket/", "-o"]).arg(place.options(&server, ""))));
    assert!(left.out.contains("p/x") && !left.out.contains("doctor"), "{left:?}");
}

fn set<'a>(server: &Server, command: &'a mut std::process::Command) -> &'a mut std::process::Command {
    set_keys(command, server);
    command
}

#[test]
fn what_is_wrong_is_named_with_its_fix() {
    let (server, place) = (server(), Place::new());
    server.store().put("bucket", "x", "text");
    // A store that does not do what is relied on is told from one of which nothing is expected.
    server.knobs().set(|b| b.no_part_copy = true);
    let ran = doctor(&server, &place, "bucket", "", &["--write", "--json"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(verdict(&ran.json(), "part copy"), "wrong");
    server.knobs().set(|b| b.no_part_copy = false);
    // A bucket that is not there, keys that are wrong, nobody who answers.
    let ran = doctor(&server, &place, "nothere", "", &[]);
    assert!(ran.code == Some(1) && ran.out.contains("check the name \"nothere\""), "{ran:?}");
    let mut command = xosfs();
    command.args(["doctor", "bucket", "-o"]).arg(place.options(&server, ""));
    let ran = run(command.env("AWS_ACCESS_KEY_ID", server.keys().access_key).env("AWS_SECRET_ACCESS_KEY", "wrong"));
    assert!(ran.code == Some(1) && ran.out.contains("check the secret key"), "{ran:?}");
    let options = "endpoint=http://127.0.0.1:9,retries=0";
    let ran = doctor(&server, &place, "bucket", options, &[]);
    assert!(ran.code == Some(1) && ran.out.contains("`endpoint`"), "{ran:?}");
    let ran = run(xosfs().args(["doctor", "bucket", "-o", options]));
    assert!(ran.code == Some(1) && ran.out.contains("AWS_ACCESS_KEY_ID"), "{ran:?}");
    // A clock that is off: requests are corrected, and still it is told.
    server.knobs().set_clock(600);
    let ran = doctor(&server, &place, "bucket", "", &["--json"]);
    assert_eq!((ran.code, verdict(&ran.json(), "clock")), (Some(1), "wrong".into()), "{ran:?}");
}

#[test]
fn a_mount_is_examined_with_its_own_options() {
    let (server, place) = (server(), Place::new());
    server.store().put("bucket", "p/x", "text");
    place.mount(&server, "bucket:/p", "provider=minio");
    let mut command = xosfs();
    set_keys(&mut command, &server);
    let ran = run(command.arg("doctor").arg(&place.dir).arg("--json"));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let report = ran.json();
    assert_eq!((&report["bucket"], &report["prefix"]), (&"bucket".into(), &"p/".into()));
    assert_eq!(verdict(&report, "daemon"), "ok");
    assert!(ran.out.contains("MinIO (minio)"), "{report}");
    place.umount();
    for (target, code) in [("/proc", 2), ("bad name", 2), ("https://h/b", 2)] {
        assert_eq!(run(xosfs().args(["doctor", target])).code, Some(code), "{target}");
    }
}

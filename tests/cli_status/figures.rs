//! `status`, `flush`, `refresh`, the metrics, completions and the manual.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xosfs::demo::{Action, Rule};

use super::place::{PATIENCE, Place, command, ok, run, server, sh, until, xosfs};

#[test]
fn status_has_the_figures_of_a_mount_for_people_and_for_programs() {
    let server = server();
    server.store().put("bucket", "p/x", "text");
    let place = Place::new();
    place.mount(&server, "bucket:/p", "provider=ceph");
    assert_eq!(ok(&place.dir, "cat x x; printf 12345 > new"), "texttext");
    let status = place.status();
    for (name, value) in [("state", "mounted"), ("source", "bucket:/p"), ("bucket", "bucket"), ("provider", "ceph")] {
        assert_eq!(status[name], value, "{status}");
    }
    assert_eq!(status["endpoint"], server.endpoint());
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["pid"].as_i64(), place.state().map(|s| s.pid.into()));
    let requests = &status["requests"];
    assert_eq!(requests["by_operation"]["PutObject"], 1);
    assert!(requests["bytes_up"].as_u64() >= Some(5) && requests["bytes_down"].as_u64() >= Some(4), "{requests}");
    assert_eq!(requests["total"].as_u64().unwrap(), server.log().len() as u64);
    assert_eq!(status["files"]["dirty"], serde_json::json!([]));
    // A path inside of it names the mount, too, and costs no request of its own kind.
    let ran = run(xosfs().arg("status").arg(place.dir.join("no/such/file")));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for part in [&*format!("bucket:/p on {}: mounted", place.dir.display()), "PutObject 1", "(ceph)", "memory", "up "] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    place.umount();
}

#[test]
fn without_a_directory_every_mount_is_listed_the_dead_ones_too() {
    let server = server();
    server.store().put("bucket", "p/x", "text");
    let (alive, dead) = (Place::new(), Place::new());
    alive.mount(&server, "bucket", "");
    dead.mount(&server, "bucket:/p", "");
    dead.crash();
    let all = run(xosfs().args(["status", "--json"]));
    let all = all.json()["mounts"].clone();
    let state = |place: &Place| {
        let dir = place.dir.to_str().unwrap();
        all.as_array().unwrap().iter().find(|m| m["dir"] == dir).unwrap_or_else(|| panic!("{dir}: {all}"))["state"]
            .clone()
    };
    assert_eq!((state(&alive), state(&dead)), ("mounted".into(), "dead".into()));
    let text = run(xosfs().arg("status"));
    assert_eq!(text.code, Some(1), "a dead one needs attention: {text:?}");
    assert!(text.out.contains(&format!("xosfs umount {}", dead.dir.display())), "{}", text.out);
    let ran = dead.ask("status", &[]);
    assert!(ran.code == Some(1) && ran.err.contains("is gone; mount it again"), "{ran:?}");
    alive.umount();
}

// R93
/// Demand 43, issue "what is it doing while nothing moves".
#[test]
fn the_daemon_answers_while_the_store_does_not() {
    let server = server();
    server.store().put("bucket", "x", "text");
    let place = Place::new();
    place.mount(&server, "bucket", "metrics=127.0.0.1:0,op_timeout=40s");
    server.knobs().fail(Rule::new("*", Action::Stall(Duration::from_secs(25))).always());
    let mut reader = command("timeout");
    let mut reader = reader.args(["-k", "2", "50", "cat"]).arg(place.dir.join("x")).spawn().unwrap();
    let before = server.log().len();
    until("the reader waits for the store", || server.log().len() > before);
    let status = place.status();
    assert_eq!(status["state"], "mounted");
    assert!(scrape(&status).contains("xosfs_info"));
    assert!(reader.try_wait().unwrap().is_none(), "the store still has not answered");
    reader.kill().unwrap();
    reader.wait().unwrap();
    server.knobs().clear_rules();
    place.crash();
}

fn scrape(status: &serde_json::Value) -> String {
    let url = status["metrics"].as_str().unwrap();
    let address = url.strip_prefix("http://").unwrap().strip_suffix("/metrics").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

// R95
#[test]
fn metrics_are_the_figures_of_status() {
    let server = server();
    server.store().put("bucket", "x", "text");
    let place = Place::new();
    place.mount(&server, "bucket", "metrics=localhost:0");
    ok(&place.dir, "cat x; printf 1 > y");
    let status = place.status();
    let page = scrape(&status);
    for (operation, count) in status["requests"]["by_operation"].as_object().unwrap() {
        let line = format!("xosfs_requests_total{{operation=\"{operation}\"}} {count}\n");
        assert!(page.contains(&line), "{line}{page}");
    }
    let up = format!("xosfs_sent_bytes_total {}\n", status["requests"]["bytes_up"]);
    assert!(page.contains(&up) && page.ends_with("# EOF\n"), "{up}{page}");
    // A port is for one mount only, and the second says so.
    let url = status["metrics"].as_str().unwrap();
    let port = url.trim_start_matches("http://").trim_end_matches("/metrics");
    let other = Place::new();
    let ran = run(&mut other.mount_command(&server, "bucket", &format!("metrics={port}")));
    assert!(ran.code == Some(1) && ran.err.contains("`metrics`"), "{ran:?}");
    assert!(other.state().is_none());
    let ran = run(&mut other.mount_command(&server, "bucket", "metrics=0.0.0.0:1"));
    assert!(ran.code == Some(2) && ran.err.contains("loopback"), "{ran:?}");
    place.umount();
}

// R94
#[test]
fn flush_stores_what_is_open_and_says_what_it_could_not() {
    let server = server();
    let place = Place::new();
    place.mount(&server, "bucket", "retries=0");
    ok(&place.dir, "exec 3>open; printf hello >&3; $XOSFS flush .; sleep 0");
    assert_eq!(&server.store().get("bucket", "open").unwrap()[..], b"hello");
    // Attributes wait for others of their kind; not here.
    ok(&place.dir, "chmod 600 open; $XOSFS flush .");
    assert_eq!(server.counts().get("CopyObject"), Some(&1));
    server.knobs().fail(Rule::new("PutObject", Action::Status(403, "AccessDenied".into())).key("denied").always());
    let script = "exec 3>denied 4>fine; printf 1 >&3; printf 2 >&4
        code=0; $XOSFS flush . || code=$?
        $XOSFS status . | grep -A1 'not stored'; exec 3>&- || true; exec 4>&-; exit $code";
    let ran = sh(&place.dir, script);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("xosfs: not stored: denied: ") && ran.err.contains("1 files of bucket"), "{ran:?}");
    assert!(ran.out.contains("1 files") && ran.out.contains("denied (1 B): "), "{ran:?}");
    assert_eq!(&server.store().get("bucket", "fine").unwrap()[..], b"2");
    let status = place.status();
    let error = status["requests"]["last_error"].as_str().unwrap();
    assert!(error.contains("AccessDenied") && status["requests"]["errors"].as_u64() >= Some(1), "{status}");
    place.umount();
}

// R94
#[test]
fn refresh_shows_at_once_what_others_changed() {
    let server = server();
    server.store().put("bucket", "d/old", "1");
    let place = Place::new();
    place.mount(&server, "bucket", "metadata_ttl=1h,negative_ttl=1h");
    let look = "ls d; stat -c %s d/old; stat new 2>/dev/null || echo no";
    assert_eq!(ok(&place.dir, look), "old\n1\nno\n");
    server.store().put("bucket", "d/old", "12345");
    server.store().put("bucket", "d/more", "1");
    server.store().put("bucket", "new", "1");
    assert_eq!(ok(&place.dir, look), "old\n1\nno\n", "it is believed for an hour");
    // One directory, then one name, then all.
    ok(&place.dir, "$XOSFS refresh d");
    assert_eq!(ok(&place.dir, look), "more\nold\n5\nno\n");
    ok(&place.dir, "$XOSFS refresh new");
    assert_eq!(ok(&place.dir, "stat -c %s new"), "1\n");
    server.store().put("bucket", "e/f", "1");
    ok(&place.dir, "$XOSFS refresh .");
    assert_eq!(ok(&place.dir, "ls; cat d/old"), "d\ne\nnew\n12345");
    place.umount();
}

#[test]
fn sigusr1_writes_the_same_figures_to_the_log() {
    let server = server();
    server.store().put("bucket", "x", "text");
    let place = Place::new();
    place.mount(&server, "bucket", "");
    ok(&place.dir, "cat x");
    kill(Pid::from_raw(place.state().unwrap().pid), Signal::SIGUSR1).unwrap();
    until("the figures are in the log", || place.log().contains("GetObject 1"));
    place.umount();
}

#[test]
fn what_is_no_mount_is_said_so() {
    let place = Place::new();
    for name in ["status", "flush", "refresh"] {
        let ran = place.ask(name, &[]);
        let expected = format!("xosfs: {} is not in a mount of xosfs\n", place.dir.display());
        assert_eq!((ran.code, &*ran.err), (Some(1), &*expected));
    }
    assert_eq!(run(xosfs().arg("flush")).code, Some(2));
}

#[test]
fn completions_and_manual_pages_are_printed() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(xosfs().args(["completions", shell]));
        assert!(ran.code == Some(0) && ran.out.contains("umount"), "{ran:?}");
    }
    assert_eq!(run(xosfs().args(["completions", "dosshell"])).code, Some(2));
    let ran = run(xosfs().args(["man", "mount"]));
    assert!(ran.code == Some(0) && ran.out.contains("metadata_ttl"), "{ran:?}");
    let ran = run(xosfs().args(["man", "dance"]));
    assert!(ran.code == Some(2) && ran.err.contains("no command `dance`"), "{ran:?}");
    let place = Place::new();
    ok(&place.dir, "$XOSFS man --dir pages; test -s pages/xosfs.1 -a -s pages/xosfs-status.1");
}

//! The first request to the store: what is only a warning, and what is waited for.

use std::process::{Command, Output};
use std::time::Duration;

use xosfs::config::Options;
use xosfs::daemon::{Request, connect, log, report::Report};
use xosfs::demo::{self, Action, Rule, Server};

use super::place::{command, server, set_keys};

/// Not a test by itself: connects as the daemon does, in a process that has the environment for it.
#[test]
fn connecting() {
    let Ok(source) = std::env::var("XOSFS_TEST_CONNECT") else { return };
    let options = Options::load(&[std::env::var("XOSFS_TEST_OPTIONS").unwrap()], false, &|_| None).unwrap();
    log::start(&options, false).unwrap();
    let request = Request { source: source.parse().unwrap(), dir: "/d".into(), options, background: false };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match runtime.block_on(connect::connect(&request, &mut Report::foreground())) {
        Ok(s3) => assert_eq!(s3.bucket(), request.source.bucket),
        Err(e) => panic!("{e}"),
    }
}

fn connect(source: &str, options: &str, server: &Server) -> Output {
    let staging = tempfile::tempdir().unwrap();
    let mut command: Command = command(std::env::current_exe().unwrap());
    set_keys(&mut command, server);
    command.args(["connect::connecting", "--exact", "--nocapture"]).env("XOSFS_TEST_CONNECT", source);
    command.env("XOSFS_TEST_OPTIONS", format!("{options},staging_dir={}", staging.path().display()));
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

/// Demand 34: rights that end at the prefix, or that do not include listing.
#[test]
fn a_denied_listing_is_a_warning() {
    let server = server();
    server.knobs().fail(Rule::new("*", Action::Status(403, "AccessDenied".into())).always());
    let output = connect("bucket:/p", &format!("endpoint={}", server.endpoint()), &server);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("s3:ListBucket"), "{}", said(&output));
    assert!(server.log().iter().all(|r| r.operation.starts_with("ListObjects")));
}

#[test]
fn an_empty_prefix_is_a_warning_and_two_requests() {
    let server = server();
    server.store().put("bucket", "full/x", "x");
    let output = connect("bucket:/full", &format!("endpoint={}", server.endpoint()), &server);
    assert!(output.status.success() && !said(&output).contains("WARN"), "{}", said(&output));
    assert_eq!(server.log().len(), 1);
    let output = connect("bucket:/empty", &format!("endpoint={}", server.endpoint()), &server);
    assert!(output.status.success() && said(&output).contains("starts empty"), "{}", said(&output));
    assert_eq!(server.log().len(), 3);
}

/// Demand 15: a machine that boots faster than its network.
#[test]
fn a_store_that_comes_up_late_is_waited_for() {
    let early = server();
    let (address, keys) = (early.address(), early.keys());
    drop(early);
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1500));
        Server::start_thread(demo::Options {
            listen: address,
            buckets: vec!["bucket".into()],
            access_key: Some(keys.access_key),
            secret_key: Some(keys.secret_key),
            ..demo::Options::default()
        })
        .unwrap()
    });
    let keys_of = server();
    let options = format!("endpoint=http://{address},mount_timeout=30s,retries=0");
    let output = connect("bucket", &options, &keys_of);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("mount_timeout"), "{}", said(&output));
    drop(late.join().unwrap());
}

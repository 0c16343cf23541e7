//! The first request to the store: every way it can go wrong is one line that names the setting to change, and leaves
//! nothing mounted. The server is the embedded one, and for one test the one of
//! `XOSFS_TEST_S3`; the program is the real one.
#![cfg(feature = "demo")]

use std::process::{Command, Output};
use std::time::Duration;

use xosfs::config::Options;
use xosfs::config::credentials::Credentials;
use xosfs::daemon::{Request, connect, log, report::Report};
use xosfs::demo::{self, Action, Rule, Server};
use xosfs::fuse::mountinfo;
use xosfs::s3;

fn server() -> Server {
    Server::start_thread(demo::Options { buckets: vec!["bucket".into()], ..demo::Options::default() }).unwrap()
}

fn clean(command: &mut Command) {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_") || name.starts_with("OBS_")) {
        command.env_remove(name);
    }
    command.env("HOME", "/nonexistent").env_remove("NOTIFY_SOCKET");
}

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
    let keys = server.keys();
    connect_as(source, options, &keys.access_key, &keys.secret_key)
}

fn connect_as(source: &str, options: &str, access_key: &str, secret_key: &str) -> Output {
    let staging = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    clean(&mut command);
    command.env("AWS_ACCESS_KEY_ID", access_key).env("AWS_SECRET_ACCESS_KEY", secret_key);
    command.args(["connecting", "--exact", "--nocapture"]).env("XOSFS_TEST_CONNECT", source);
    command.env("XOSFS_TEST_OPTIONS", format!("{options},staging_dir={}", staging.path().display()));
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

#[test]
fn what_is_wrong_with_the_store_is_one_line() {
    let server = server();
    server.store().put("bucket", "a/file", "x");
    let endpoint = server.endpoint();
    let https = endpoint.replace("http://", "https://");
    let dead = "http://127.0.0.1:1".to_owned();
    let nowhere = "http://no-such-host.invalid".to_owned();
    let good = server.keys();
    let wrong = "0".repeat(40);
    let quick = "retries=1,op_timeout=5s,connect_timeout=2s";
    for (source, endpoint, access, secret, parts) in [
        ("missing", &endpoint, &good.access_key, &good.secret_key, ["bucket", "missing"]),
        ("bucket", &endpoint, &good.access_key, &wrong, ["secret", "SignatureDoesNotMatch"]),
        ("bucket", &endpoint, &wrong, &good.secret_key, ["access key", "InvalidAccessKeyId"]),
        ("bucket", &dead, &good.access_key, &good.secret_key, ["endpoint", "127.0.0.1:1"]),
        ("bucket", &nowhere, &good.access_key, &good.secret_key, ["endpoint", "no-such-host"]),
        ("bucket", &https, &good.access_key, &good.secret_key, ["endpoint", "http"]),
        ("bucket:/a/file", &endpoint, &good.access_key, &good.secret_key, ["is a file", "a/file"]),
    ] {
        for helper in [false, true] {
            let place = tempfile::tempdir().unwrap();
            let dir = place.path().canonicalize().unwrap().join("d");
            std::fs::create_dir(&dir).unwrap();
            let program = place.path().join("mount.fuse.xosfs");
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_xosfs"), &program).unwrap();
            let mut command =
                Command::new(if helper { program.as_os_str() } else { env!("CARGO_BIN_EXE_xosfs").as_ref() });
            clean(&mut command);
            command.env("AWS_ACCESS_KEY_ID", access).env("AWS_SECRET_ACCESS_KEY", secret);
            if !helper {
                command.arg("mount");
            }
            let staging = place.path().join("staging");
            command.arg(source).arg(&dir).arg("-o");
            command.arg(format!("endpoint={endpoint},{quick},staging_dir={}", staging.display()));
            let output = command.output().unwrap();
            let said = said(&output);
            assert_eq!(output.status.code(), Some(if helper { 32 } else { 1 }), "{source} {endpoint}: {said}");
            assert_eq!(said.lines().count(), 1, "{said}");
            for part in parts {
                assert!(said.contains(part), "{source} {endpoint}: {part}: {said}");
            }
            assert!(!said.contains(secret.as_str()), "{said}");
            assert_eq!(mountinfo::top_at(&dir).unwrap(), None);
        }
    }
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

/// On Ceph both are a plain "AccessDenied": rights that are missing, and a key that is wrong.
#[test]
fn wrong_keys_of_a_real_server_are_an_error_and_missing_rights_are_not() {
    let Ok(given) = std::env::var("XOSFS_TEST_S3") else { return };
    let [endpoint, access, secret, region] = given.split_whitespace().collect::<Vec<_>>()[..] else {
        panic!("XOSFS_TEST_S3 has to be \"ENDPOINT ACCESS_KEY SECRET_KEY REGION\"");
    };
    let bucket = format!("xosfs-keys-{}", std::process::id());
    let s3 = s3::S3::new(s3::Settings {
        endpoint: Some(endpoint.into()),
        region: region.into(),
        bucket: bucket.clone(),
        credentials: Credentials::fixed(access, secret.to_owned(), None),
        ..s3::Settings::default()
    })
    .unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(s3.create_bucket(None, None)).unwrap();
    let options = format!("endpoint={endpoint},region={region}");
    let with =
        |access: &str, secret: &str, more: &str| connect_as(&bucket, &format!("{options}{more}"), access, secret);
    let wrong_secret = with(access, "0000000000000000000000000000000000000000", "");
    let wrong_access = with("NOSUCHACCESSKEY00000", secret, "");
    let right = with(access, secret, "");
    let nobody = with(access, secret, ",anonymous");
    runtime.block_on(s3.delete_bucket()).unwrap();
    for (output, part) in [(wrong_secret, "secret"), (wrong_access, "access key")] {
        let said = said(&output);
        assert!(!output.status.success() && said.contains(part), "{said}");
        assert!(!said.contains("0000000000000000000000000000000000000000") && !said.contains(secret), "{said}");
        if said.contains("AccessDenied") {
            assert!(said.contains("s3:ListBucket"), "{said}");
        }
    }
    assert!(right.status.success() && !said(&right).contains("WARN"), "{}", said(&right));
    assert!(nobody.status.success() && said(&nobody).contains("s3:ListBucket"), "{}", said(&nobody));
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

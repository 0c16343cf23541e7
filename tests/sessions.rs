//! Sessions of a role that end while a mount is at work: who reads and writes sees nothing of it.
//!
//! 1. A session of the embedded server lives for two seconds, by its knob. On Ceph, whose sessions may be as short but
//!    which xosfs asks for no less than 15 minutes, a credential process fetches them: the same renewal behind it.
//! 2. Nothing is measured and nothing is waited for: the work goes on until the log tells of enough sessions.

#![cfg(feature = "demo")]

#[path = "common/mod.rs"]
mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use common::noise::noise;
use common::{TestMount, TestServer};

const MIB: usize = 1 << 20;
/// Of a test.
const DEADLINE: Duration = Duration::from_secs(120);
const LIFE: Duration = Duration::from_secs(2);

/// Sessions that the mount has had.
fn sessions(mount: &TestMount) -> usize {
    mount.log().matches("credentials renewed").count()
}

/// Reads and writes of all kinds until `enough`: a handle that reads and one that writes stay open all the time.
fn work(server: &TestServer, mount: &TestMount, mut enough: impl FnMut(usize) -> bool) {
    let large = noise(7, 48 * MIB);
    server.put("large", &large);
    let reader = File::open(mount.join("large")).unwrap();
    let mut writer = File::create(mount.join("streamed")).unwrap();
    let mut streamed = Vec::new();
    let deadline = Instant::now() + DEADLINE;
    for round in 0.. {
        assert!(Instant::now() < deadline, "after {round} rounds: {} sessions", sessions(mount));
        let fresh = noise(round, 6 * MIB);
        // What this mount has never had, in parts both ways.
        server.put(&format!("in-{round}"), &fresh);
        assert!(fs::read(mount.join(format!("in-{round}"))).unwrap() == fresh, "round {round}");
        let name = format!("out-{round}");
        fs::write(mount.join(&name), &fresh).unwrap();
        assert!(server.get(&name) == fresh, "round {round}");
        fs::rename(mount.join(&name), mount.join("renamed")).unwrap();
        // One version of one object, from its first block to its last, over several sessions.
        let mut block = vec![0; 64 << 10];
        let at = (round as usize * 5 * MIB) % (large.len() - block.len());
        reader.read_exact_at(&mut block, at as u64).unwrap();
        assert!(block == large[at..at + block.len()], "round {round}");
        // One upload, begun in the first session and completed in the last.
        if streamed.len() < 64 * MIB {
            writer.write_all(&fresh).unwrap();
            streamed.extend_from_slice(&fresh);
        }
        let mut names = fs::read_dir(mount.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        names.retain(|n| n == "renamed");
        assert_eq!(names.len(), 1);
        if enough(sessions(mount)) {
            break;
        }
    }
    writer.sync_all().unwrap();
    drop(writer);
    assert!(server.get("streamed") == streamed);
    let mut all = Vec::new();
    (&reader).read_to_end(&mut all).unwrap();
    assert!(all == large);
}

const OPTIONS: &str = "part_size=5M,stream_after=10M,metadata_ttl=0,log_level=info";

// XOS-STS-02, XOS-STS-10
#[test]
fn tokens_that_expire_are_renewed_under_way() {
    let server = TestServer::start();
    let temp = common::temp_dir();
    let mount = match server.embedded_server() {
        Some(embedded) => {
            embedded.knobs().set(|b| b.session_lifetime = Some(LIFE));
            TestMount::with(&server, &[OPTIONS, &format!("role_arn={}", xosfs::demo::ROLE)])
        }
        None => {
            let process = temp.path().join("fetch");
            fs::write(&process, process_of(&server)).unwrap();
            common::sh(temp.path(), "chmod 700 fetch");
            let config = temp.path().join("config");
            fs::write(&config, format!("[profile brief]\ncredential_process = {}\n", process.display())).unwrap();
            let env = [("AWS_CONFIG_FILE", config.to_str().unwrap())];
            TestMount::with_env(&server, &[OPTIONS, "profile=brief"], &env)
        }
    };
    work(&server, &mount, |sessions| sessions >= 5);
    assert!(!mount.log().contains(" ERROR "), "{}", mount.log());
    mount.umount();
}

/// Asks Ceph for a session that lives for [`LIFE`], and prints it as a credential process does.
fn process_of(server: &TestServer) -> String {
    let role = std::env::var("XOSFS_TEST_ROLE").unwrap_or_else(|_| "arn:aws:iam:::role/S3Access".into());
    format!(
        r#"#!/bin/bash
set -euo pipefail
answer=$(curl -sS --fail --max-time 20 --aws-sigv4 "aws:amz:{region}:sts" --user "{key}:{secret}" "{endpoint}/" \
  -d "Action=AssumeRole&Version=2011-06-15&RoleArn={role}&RoleSessionName=brief&DurationSeconds={life}")
field() {{ sed -n "s/.*<$1>\([^<]*\)<.*/\1/p" <<<"$answer"; }}
printf '{{"Version":1,"AccessKeyId":"%s","SecretAccessKey":"%s","SessionToken":"%s","Expiration":"%s"}}\n' \
  "$(field AccessKeyId)" "$(field SecretAccessKey)" "$(field SessionToken)" "$(field Expiration)"
"#,
        region = server.region,
        key = server.access_key,
        secret = server.secret_key,
        endpoint = server.endpoint,
        life = LIFE.as_secs(),
    )
}

// XOS-STS-10. Not on Ceph, whose sessions cannot be ended from outside.
#[test]
fn sessions_that_the_store_ends_early_are_replaced_under_way() {
    let server = TestServer::start();
    let Some(embedded) = server.embedded_server() else { return };
    let mount = TestMount::with(&server, &[OPTIONS, &format!("role_arn={}", xosfs::demo::ROLE)]);
    // A session that was just fetched and is refused is a store that refuses, so each has to last for a while.
    let mut ended = Instant::now();
    work(&server, &mount, |sessions| {
        if ended.elapsed() > LIFE {
            embedded.end_sessions();
            ended = Instant::now();
        }
        sessions >= 4
    });
    mount.umount();
}

//! The memory of the daemon: `memory=` is the bound on what it keeps, whatever is read, written or listed.

#![cfg(feature = "demo")]

mod common;

use common::{TestMount, TestServer, quick};

const MIB: u64 = 1 << 20;
/// What the daemon is told, and what its threads and tables may take besides. With the code of a release build, some
/// 10 MiB, that is less than `memory` and 64 MiB; the code of a debug build is larger and is not counted here.
const MEMORY: u64 = 64;
const BESIDES: u64 = 52;

fn gibibytes() -> u64 {
    if quick() { 2 } else { 10 }
}

/// Most memory the daemon has had so far besides its code, MiB.
fn peak(mount: &TestMount) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", mount.pid())).unwrap();
    let kib = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).expect("a line of every process's status");
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap()
    };
    (kib("VmHWM:") - kib("RssFile:")) / 1024
}

/// Names that the daemon knows.
fn names(mount: &TestMount) -> u64 {
    let shown = common::command(common::binary()).args(["status", "--json"]).arg(mount.path()).output().unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    let at = text.find("\"inodes\":").unwrap_or_else(|| panic!("a figure of every mount: {text}"));
    let digits = text[at + 9..].trim_start_matches([':', ' ']);
    digits.split(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok()).expect("a number")
}

#[track_caller]
fn stays_within(mount: &TestMount, what: &str) {
    let peak = peak(mount);
    println!("{what}: {peak} MiB");
    assert!(peak <= MEMORY + BESIDES, "{what}: {peak} MiB with memory={MEMORY}M");
}

#[test]
fn what_is_read_and_written_stays_within_the_bound() {
    let server = TestServer::start();
    let Some(embedded) = server.embedded_server() else { return };
    let size = gibibytes() << 30;
    embedded.store().put_synthetic(&server.bucket, "big", size);
    let mount = TestMount::with(&server, &[&format!("memory={MEMORY}M")]);
    // Read once, in order, and by four readers at once.
    assert_eq!(mount.sh("dd if=big bs=1M status=none | wc -c").trim(), size.to_string());
    stays_within(&mount, "sequential read");
    mount.sh(
        "for i in 1 2 3 4; do dd if=big bs=1M skip=$((i * 300)) count=200 status=none >/dev/null & pids=\"${pids:-} $!\"; done
         for p in $pids; do wait $p; done",
    );
    stays_within(&mount, "four readers");
    // A new file, uploaded while it is written; and one that is changed in places all over it.
    mount.sh("dd if=/dev/zero of=new bs=1M count=256 status=none");
    assert_eq!(embedded.store().head(&server.bucket, "new").unwrap().size, 256 * MIB);
    stays_within(&mount, "sequential write");
    mount.sh(
        "for i in $(seq 0 40 1000); do dd if=/dev/zero of=new bs=256k seek=$i count=20 conv=notrunc status=none; done",
    );
    stays_within(&mount, "changes in place");
    mount.umount();
}

// What the kernel knows it may ask for at any time: each name of `ls -l` holds about a kilobyte until it is forgotten.
#[test]
fn a_hundred_thousand_files_stay_within_the_bound() {
    let count: u64 = if quick() { 20_000 } else { 100_000 };
    let server = TestServer::start();
    let Some(embedded) = server.embedded_server() else { return };
    for i in 0..count {
        embedded.store().put(&server.bucket, &format!("d/some-longer-name-of-a-file-{i:06}.json"), "x");
    }
    let mount = TestMount::with(&server, &[&format!("memory={MEMORY}M"), "metadata_ttl=60s"]);
    embedded.clear_log();
    assert_eq!(mount.sh("find . | wc -l").trim(), (count + 2).to_string());
    stays_within(&mount, "find");
    assert_eq!(mount.sh("ls -l d | wc -l").trim(), (count + 1).to_string());
    stays_within(&mount, "ls -l");
    let counts = embedded.counts();
    assert_eq!(counts.get("GetObject"), None);
    // Once for each of the two commands, with a fifth more for the ranges that are listed at the same time; the root, and
    // an entry or two that grew old meanwhile; the marker of `d`.
    assert!(
        counts["ListObjectsV2"] <= 2 * count / 1000 * 6 / 5 + 10 && counts.get("HeadObject").is_none_or(|n| *n <= 2),
        "{counts:?}"
    );
    mount.umount();
}

// Names whose time is over are forgotten, here and by the kernel: it does not matter how many there are.
#[test]
fn names_of_a_large_tree_stay_within_the_bound() {
    let (dirs, files) = if quick() { (5, 4_000) } else { (20, 10_000) };
    let server = TestServer::start();
    let Some(embedded) = server.embedded_server() else { return };
    for dir in 0..dirs {
        for file in 0..files {
            embedded.store().put(&server.bucket, &format!("d{dir:02}/some-name-of-a-file-{file:06}.json"), "x");
        }
    }
    let mount = TestMount::with(&server, &[&format!("memory={MEMORY}M"), "metadata_ttl=2s"]);
    assert_eq!(mount.sh("ls -lR | grep -c json").trim(), (dirs * files).to_string());
    // As many young names as the kernel may keep come on top: `metadata_ttl` of them.
    let peak = peak(&mount);
    println!("ls -lR: {peak} MiB");
    assert!(peak <= MEMORY + 64, "ls -lR: {peak} MiB with memory={MEMORY}M");
    // What the kernel knows, as many that it has forgotten, and the directories.
    common::eventually(std::time::Duration::from_secs(60), "most names are forgotten", || names(&mount) <= 17_000);
    assert_eq!(mount.sh("cat d00/some-name-of-a-file-000000.json"), "x");
    mount.umount();
}

//! fsx: reads, writes, mappings, truncation, holes, fallocate, copy_file_range, sendfile and fsync in random order.
//!
//! `XOSFS_TEST_FSX_OPS` (10,000) is the number of operations of the long run, `XOSFS_TEST_FSX_SEED` (1) the first
//! seed. A failing run names its seed.

use std::fmt::Write as _;

use super::common::{TestMount, TestServer, quick, temp_dir, try_sh};
use super::tool;

/// Operations on one mount: a debug build does some hundred a second.
const OPS_A_MOUNT: u64 = 25_000;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |v| v.parse().unwrap_or_else(|_| panic!("{variable}={v} is no number")))
}

/// `size`: of the file. `largest`: of one operation.
#[track_caller]
fn exercise(options: &[&str], size: u64, largest: u64, ops: u64, seed: u64) {
    let server = TestServer::start();
    let mount = TestMount::with(&server, options);
    let artifacts = temp_dir();
    let mut config = format!("flen = {size}\n[opsize]\nmax = {largest}\n[weights]\n");
    for (name, weight) in [
        ("close_open", 1),
        ("read", 10),
        ("write", 10),
        ("mapread", 10),
        ("mapwrite", 10),
        ("invalidate", 1),
        ("truncate", 3),
        ("fsync", 1),
        ("fdatasync", 1),
        ("posix_fallocate", 2),
        ("punch_hole", 3),
        ("sendfile", 2),
        ("posix_fadvise", 1),
        ("copy_file_range", 3),
    ] {
        writeln!(config, "{name} = {weight}").unwrap();
    }
    let path = artifacts.path().join("fsx.toml");
    std::fs::write(&path, config).unwrap();
    let script = format!(
        "'{}' -f '{}' -N {ops} -S {seed} -P '{}' file",
        tool("fsx").display(),
        path.display(),
        artifacts.path().display(),
    );
    let ran = try_sh(mount.path(), &script);
    // Its log of operations is long.
    let lines: Vec<&str> = ran.err.lines().collect();
    let end = lines[lines.len().saturating_sub(60)..].join("\n");
    assert!(ran.code == Some(0), "seed {seed}, options {options:?}: {:?}\n{}{end}", ran.code, ran.out);
    let left = artifacts.path().join("left");
    // By a program: what this process has open, the commands of other tests inherit, and the mount is in use.
    mount.sh(&format!("cat file >'{}'", left.display()));
    mount.umount();
    assert!(server.get("file") == std::fs::read(left).unwrap(), "seed {seed}: what is stored");
}

// R5, R15, R17, R18, R21, R22, R100
#[test]
fn fsx_finds_nothing() {
    let mut left = number("XOSFS_TEST_FSX_OPS", if quick() { 2_000 } else { 10_000 });
    let mut seed = number("XOSFS_TEST_FSX_SEED", 1);
    while left > 0 {
        let ops = left.min(OPS_A_MOUNT);
        exercise(&[], 256 << 10, 64 << 10, ops, seed);
        left -= ops;
        seed += 1;
    }
}

/// Closes are acknowledged by the journal, and uploads go on beside the next operations.
#[test]
fn fsx_finds_nothing_with_writeback() {
    exercise(
        &["writeback"],
        256 << 10,
        64 << 10,
        if quick() { 2_000 } else { 10_000 },
        number("XOSFS_TEST_FSX_SEED", 1),
    );
}

/// Parts, streams and staging take part.
#[test]
fn fsx_finds_nothing_in_a_large_file_with_little_memory() {
    let ops = if quick() { 200 } else { 800 };
    let options = ["memory=64M", "part_size=5M", "stream_after=5M"];
    exercise(&options, 24 << 20, 1 << 20, ops, number("XOSFS_TEST_FSX_SEED", 1));
}

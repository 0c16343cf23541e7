//! Programs that know nothing of object stores, on a real mount: they have to work, and what they stored has to be
//! what another S3 client reads.
//!
//! 1. Many tests run the same script in a local directory and in the mount and compare the trees: the local file
//!    system is the oracle.
//! 2. Nothing is judged by the mount alone: rclone lists, reads and hashes the bucket behind it.

#![cfg(feature = "demo")]

#[path = "../common/mod.rs"]
mod common;

mod copy;
mod crash;
mod develop;
mod edit;
mod large;
mod machines;
mod media;
mod metadata;
mod packages;

use std::path::Path;

use common::{TestMount, TestServer, assert_same_lines, sh, temp_dir};

/// Runs `script` in an empty local directory and in a directory of the mount. Both print the same and leave the same
/// tree, and the bucket holds just that, also after the mount has gone.
#[track_caller]
fn same_as_local(script: &str) {
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    let local = temp_dir();
    std::fs::create_dir(mount.join("d")).unwrap();
    let expected = sh(local.path(), script);
    let printed = sh(&mount.join("d"), script);
    assert_eq!(printed, expected, "what was printed");
    assert_same_tree(local.path(), &mount.join("d"));
    server.check_same(local.path(), "d");
    mount.umount();
    server.check_same(local.path(), "d");
    let mount = TestMount::new(&server);
    assert_same_tree(local.path(), &mount.join("d"));
    mount.umount();
}

/// The same names, types, modes, link targets and bytes.
///
/// Files are looked up by name before any directory is listed: a listing carries no modes and link targets, and a
/// fresh mount that has listed first may answer from that.
#[track_caller]
fn assert_same_tree(expected: &Path, found: &Path) {
    assert_same_stat(expected, found, "%A %s %N");
    let names = "find . -mindepth 1 | sort; find . -type d | sort";
    assert_same_lines(&sh(found, names), &sh(expected, names), "names");
    sh(Path::new("/"), &format!("diff -r --no-dereference '{}' '{}'", expected.display(), found.display()));
}

/// What stat prints of each file but directories is the same.
#[track_caller]
fn assert_same_stat(expected: &Path, found: &Path, format: &str) {
    let names = tempfile::NamedTempFile::new().unwrap();
    let stat = format!("xargs -0 -r stat -c '{format}' <'{}'", names.path().display());
    sh(expected, &format!("find . ! -type d -print0 | sort -z >'{}'", names.path().display()));
    assert_same_lines(&sh(found, &stat), &sh(expected, &stat), format);
}

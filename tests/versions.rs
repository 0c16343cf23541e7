//! Old versions on real mounts, with the programs that people would use; also on real servers.

#![cfg(feature = "demo")]

#[path = "common/mod.rs"]
mod common;

use common::{TestMount, TestServer, binary, command, sh_fails};

/// Turns versions on, as a user would.
fn keep_versions(mount: &TestMount) {
    mount.sh("setfattr -n user.s3.bucket.versioning -v Enabled .; getfattr --only-values -n user.s3.bucket.versioning . | grep -q Enabled");
}

/// Ids of the versions of a file, the oldest first.
fn ids(mount: &TestMount, path: &str) -> Vec<String> {
    let all = mount.sh(&format!("getfattr --only-values -n user.s3.versions '{path}'"));
    let mut ids: Vec<String> = all.lines().map(|l| l.split(' ').next().unwrap().to_owned()).collect();
    ids.reverse();
    ids
}

/// The store's times may be whole seconds: prints one that lies between what was done and what comes next.
const BETWEEN: &str = "tick() { t=$(date +%s); until [ $(date +%s) -gt $t ]; do sleep 0.05; done; }; \
                       tick; tick; date -u -d @$t +%FT%TZ";

// R90
#[test]
fn an_old_version_is_a_file_to_programs() {
    let _alone = common::alone();
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    keep_versions(&mount);
    mount.sh("mkdir d; printf one >d/f; printf two! >d/f; chmod 600 d/f; printf three >d/f");
    let ids = ids(&mount, "d/f");
    let first = format!("d/f@@{}", ids[0]);
    assert_eq!(mount.sh(&format!("cat '{first}'; stat -c ' %s' '{first}'; ls d")), "one 3\nf\n");
    mount.sh(&format!("cp '{first}' d/copy; cmp '{first}' d/copy; grep -q one '{first}'; rm d/copy"));
    sh_fails(mount.path(), &format!("echo x >'{first}'"), "Read-only file system");
    sh_fails(mount.path(), &format!("rm '{first}'"), "Read-only file system");
    sh_fails(mount.path(), &format!("mv '{first}' g"), "Read-only file system");
    sh_fails(mount.path(), &format!("chmod 777 '{first}'"), "Read-only file system");
    sh_fails(mount.path(), "cat d/f@@nonsense", "No such file");
    mount.sh("rm d/f; ! test -e d/f");
    assert_eq!(mount.sh(&format!("cat '{first}'")), "one");
    // Names with @@ are free to be used.
    assert_eq!(mount.sh("echo x >user@@host; cat user@@host; mv user@@host other@@host; ls"), "x\nd\nother@@host\n");
    mount.umount();
}

// R92
#[test]
fn a_past_tree_is_what_it_was() {
    let _alone = common::alone();
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    keep_versions(&mount);
    mount.sh(
        "mkdir -p a/b c; for i in 1 2 3; do echo $i >a/f$i; echo $i >a/b/f$i; done; echo x >c/only; chmod 640 a/f1; sync a/f1",
    );
    let local = common::temp_dir();
    mount.sh(&format!("cp -a . '{}'", local.path().display()));
    let then = mount.sh(BETWEEN).trim().to_owned();
    mount.sh("echo changed >a/f1; rm -r c a/b; mkdir later; echo new >later/file; echo y >a/new");
    let past = TestMount::with(&server, &[&format!("as_of={then}")]);
    assert_eq!(past.sh(&format!("stat -c %a a/f1; diff -r . '{}'", local.path().display())), "640\n");
    assert_eq!(past.sh("find . | sort").lines().count(), 11);
    assert_eq!(mount.sh("cat a/f1; ls"), "changed\na\nlater\n");
    sh_fails(past.path(), "echo x >a/f1", "Read-only file system");
    sh_fails(past.path(), "rm c/only", "Read-only file system");
    past.umount();
    let recent = TestMount::with(&server, &["as_of=0.001s"]);
    recent.sh(&format!("diff -r . '{}'", mount.path().display()));
    recent.umount();
    mount.umount();
}

// R92
#[test]
fn a_bucket_without_versions_has_no_past() {
    let server = TestServer::start();
    server.put("f", b"x");
    let dir = common::temp_dir();
    let mount = |options: &str| {
        let mut c = command(binary());
        server.set_env(&mut c);
        c.env("STATE_DIRECTORY", dir.path());
        let options = format!("endpoint={},region={},{options}", server.endpoint, server.region);
        c.args(["mount", &server.bucket]).arg(dir.path()).args(["-o", &options]);
        let output = c.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, message) = mount("as_of=1h");
    assert!(
        code == Some(1) && message.contains("keeps no versions") && message.contains("as_of"),
        "{code:?} {message}"
    );
    let (code, message) = mount("as_of=yesterday");
    assert!(code == Some(2) && message.contains("as 2h or 3d"), "{code:?} {message}");
    assert!(!common::is_mounted(dir.path()));
}

// R91
#[test]
fn a_history_is_a_directory_to_programs() {
    let _alone = common::alone();
    let server = TestServer::start();
    let mount = TestMount::with(&server, &["versions=dir"]);
    keep_versions(&mount);
    mount.sh("mkdir d; printf one >d/f; printf two! >d/f; printf x >d/gone; rm d/gone");
    assert_eq!(mount.sh("find . | sort; du -a d | cut -f2; ls -A d"), ".\n./d\n./d/f\nd/f\nd\nf\n");
    assert_eq!(
        mount.sh("ls d/.versions; ls d/.versions/f | wc -l; ls -l d/.versions/gone | grep -c -- '-rw'"),
        "f\ngone\n2\n1\n"
    );
    mount.sh("for v in d/.versions/f/*; do id=\"${v##* }\"; cmp \"$v\" \"d/f@@$id\"; done");
    assert_eq!(mount.sh("find d/.versions -type f | wc -l"), "3\n");
    // The oldest version brought back, and the deleted file.
    let restore = "o=$(grep -lx one d/.versions/f/*); cp \"$o\" d/f; cat d/f; cp d/.versions/gone/* d/gone; cat d/gone; ls d/.versions/f | wc -l";
    assert_eq!(mount.sh(restore), "onex3\n");
    sh_fails(mount.path(), "rm -r d/.versions", "Read-only file system");
    sh_fails(mount.path(), "touch d/.versions/new", "Read-only file system");
    sh_fails(mount.path(), "mkdir d/.versions/f/new", "Read-only file system");
    mount.sh("rm -r d; ! test -e d; cat .versions/d/f/* | grep -q two");
    mount.umount();
}

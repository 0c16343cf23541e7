//! R99: every bucket as a directory of one mount, with the programs that people would use; also on real servers.
//!
//! A real server may have other buckets, of other tests: only names of this test are looked for.

#![cfg(feature = "demo")]

#[path = "common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;
use std::time::Duration;

use common::{Ran, TestMount, TestServer, alone, binary, command, eventually, sh, sh_fails, temp_dir, try_sh};
use xosfs::demo::{Action, Rule};

const ALL: &str = "s3://";
/// Long enough for any test here.
const LASTING: &[&str] = &["metadata_ttl=10m", "negative_ttl=10m"];

/// A server, with no other test at work: they start programs.
fn start() -> (MutexGuard<'static, ()>, TestServer) {
    (alone(), TestServer::start())
}

fn mount(server: &TestServer, options: &[&str]) -> TestMount {
    TestMount::of(server, ALL, options)
}

/// The last fields of `ls` that are buckets of this test.
fn ours(server: &TestServer, mount: &TestMount) -> Vec<String> {
    mount.sh("ls").lines().filter(|l| l.starts_with(&*server.bucket)).map(str::to_owned).collect()
}

fn xosfs(server: &TestServer, args: &[&str]) -> Ran {
    Ran::of(server.program(60, args).output().unwrap())
}

#[track_caller]
fn ok(server: &TestServer, args: &[&str]) -> String {
    let ran = xosfs(server, args);
    assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
    ran.out
}

fn status(server: &TestServer, mount: &TestMount) -> serde_json::Value {
    let text = ok(server, &["status", "--json", mount.path().to_str().unwrap()]);
    serde_json::from_str::<serde_json::Value>(&text).unwrap()["mounts"][0].clone()
}

fn object(server: &TestServer, bucket: &str, key: &str) -> Option<Vec<u8>> {
    let output = server.rclone_command().args(["cat", &format!("store:{bucket}/{key}")]).output().unwrap();
    output.status.success().then_some(output.stdout)
}

// R99, XOS-BKT-02
#[test]
fn all_buckets_are_directories() {
    let (_alone, server) = start();
    let (a, b) = (server.bucket.clone(), server.another("b"));
    let mount = mount(&server, &[]);
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let dir = mount.path().to_str().unwrap();
    assert!(table.contains(&format!("s3:// {dir} fuse.xosfs ")), "{table}");
    assert_eq!(ours(&server, &mount), [&*a, &*b]);
    // Entered before its age is known, too.
    mount.sh(&format!("ls {b}/. >&2"));
    // They were created a moment ago.
    let age = fs::metadata(mount.join(&b)).unwrap().modified().unwrap().elapsed().unwrap_or_default();
    assert!(age < Duration::from_secs(600), "{age:?}");
    mount.sh(&format!("cd {b}; mkdir -p d/e; echo one >d/e/f; mv d/e/f d/g; cat d/g; rmdir d/e; cd ..; ls {b}/d/.."));
    assert_eq!(object(&server, &b, "d/g").unwrap(), b"one\n");
    let walked = mount.sh(&format!("echo two >{a}/x; find {a} {b} -printf '%y %p\\n'; du -s {a} >&2; ls -lR {b} >&2"));
    assert_eq!(walked, format!("d {a}\nf {a}/x\nd {b}\nd {b}/d\nf {b}/d/g\n"));
    mount.sh(&format!("df . >&2; stat -f . >&2; test . -ef {b}/..; ls -ai {b} | grep -qE '^ *1 \\.\\.$'"));
    // What the root of a plain mount has.
    let attribute = format!("getfattr --absolute-names --only-values -n user.s3.uri {a}");
    assert_eq!(mount.sh(&attribute), format!("s3://{a}/"));
    mount.sh(&format!("getfattr -n user.s3.bucket.location {b} >&2; getfattr -d . >&2; ls -ld . >&2"));
    sh_fails(mount.path(), "getfattr -n user.s3.uri .", "No such attribute");
    sh_fails(mount.path(), "setfattr -n user.x -v y .", "not supported");
    mount.umount();
}

#[test]
fn all_buckets_hold_nothing_but_buckets() {
    let (_alone, server) = start();
    let mount = mount(&server, &[]);
    for script in ["echo x >file", "ln -s a link", "mkfifo pipe", "chmod 700 .", "touch a-new-file"] {
        sh_fails(mount.path(), script, "not permitted");
    }
    for name in [".git", "with blank", "ü-umlaut", "@@empty", "a@b"] {
        sh_fails(mount.path(), &format!("stat '{name}'"), "No such file");
        sh_fails(mount.path(), &format!("mkdir '{name}'"), "Invalid argument");
        sh_fails(mount.path(), &format!("rmdir '{name}'"), "No such file");
    }
    for name in ["UPPER-case", "ab", "10.0.0.1", "under_score", "two..dots"] {
        sh_fails(mount.path(), &format!("mkdir {name}"), "Invalid argument");
    }
    let log = mount.log();
    assert!(
        log.contains("\"ab\": it must have 3 to 63 characters") && log.contains("it must not be an IP address"),
        "{log}"
    );
    sh_fails(mount.path(), "stat xosfs-no-such-bucket-anywhere-4711", "No such file");
    sh_fails(mount.path(), "rm -d xosfs-no-such-bucket-anywhere-4711", "No such file");
    sh_fails(mount.path(), &format!("rm {}", server.bucket), "Is a directory");
    mount.umount();
}

#[test]
fn all_buckets_are_made_and_deleted_by_mkdir_and_rmdir() {
    let (_alone, server) = start();
    let new = server.name_of("new");
    let mount = mount(&server, LASTING);
    // Looked for in vain, which is remembered until it is made here.
    sh_fails(mount.path(), &format!("ls {new}"), "No such file");
    mount.sh(&format!("ls >&2; mkdir {new}; echo x >{new}/f; mkdir {new}/d"));
    assert_eq!(ours(&server, &mount), [&*server.bucket, &*new]);
    assert_eq!(object(&server, &new, "f").unwrap(), b"x\n");
    sh_fails(mount.path(), &format!("mkdir {new}"), "File exists");
    sh_fails(mount.path(), &format!("rmdir {new}"), "not empty");
    assert_eq!(mount.sh(&format!("cat {new}/f")), "x\n");
    // What is being written is not in the store, which would delete the bucket with it.
    mount.sh(&format!("rm {new}/f; rmdir {new}/d"));
    let busy = format!(
        "exec 3>{new}/open; ! rmdir {new} 2>err.$$ 2>&1 | grep -q x; rmdir {new} || echo refused; echo late >&3"
    );
    let ran = try_sh(mount.path(), &busy.replace("2>err.$$ ", ""));
    assert!(ran.out.contains("refused") && ran.err.contains("busy"), "{ran:?}");
    assert_eq!(object(&server, &new, "open").unwrap(), b"late\n");
    // With the last file it is as any empty directory, and its name is free for another one.
    mount.sh(&format!("rm -r {new}; ! test -e {new}; mkdir {new}; ls {new}; echo y >{new}/g; cat {new}/g"));
    assert_eq!(server.rclone(&["lsf", &format!("store:{new}")]), "g\n");
    mount.sh(&format!("rm -r {new}"));
    assert_eq!(ours(&server, &mount), [&*server.bucket]);
    assert!(!server.rclone(&["lsd", "store:"]).contains(&new));
    mount.umount();
}

#[test]
fn all_buckets_with_old_versions_are_not_empty() {
    let (_alone, server) = start();
    let kept = server.another("kept");
    let mount = mount(&server, &["versions=dir"]);
    mount.sh(&format!(
        "setfattr -n user.s3.bucket.versioning -v Enabled {kept}; echo x >{kept}/f; ls {kept}/.versions/f"
    ));
    mount.sh(&format!("rm {kept}/f; ls -A {kept}"));
    sh_fails(mount.path(), &format!("rmdir {kept}"), "not empty");
    let log = mount.log();
    assert!(log.contains("old versions or delete markers") && log.contains("--force-empty"), "{log}");
    mount.umount();
    // The past of a bucket that keeps none is not shown wrong.
    let past = TestMount::of(&server, ALL, &["as_of=1s"]);
    past.sh(&format!("ls >&2; ls {kept}"));
    sh_fails(past.path(), &format!("ls {}", server.bucket), "not supported");
    sh_fails(past.path(), "mkdir some-bucket", "Read-only");
    past.umount();
}

/// Of an operation, how often it was asked for.
fn of(counts: &BTreeMap<String, u64>, operations: &[&str]) -> Vec<u64> {
    operations.iter().map(|op| counts.get(*op).copied().unwrap_or(0)).collect()
}

// R99
#[test]
fn all_buckets_remember_names_within_one_bound() {
    let (_alone, server) = start();
    let embedded = server.embedded_server().expect("left out on other servers");
    let buckets = [server.bucket.clone(), server.another("b")];
    for bucket in &buckets {
        for i in 0..25_000 {
            embedded.store().put(bucket, &format!("name-{i:06}"), "x".to_owned());
        }
    }
    let mount = mount(&server, &["memory=64M", "metadata_ttl=10m"]);
    for bucket in &buckets {
        assert_eq!(mount.sh(&format!("ls {bucket} | wc -l")).trim(), "25000");
    }
    // An eighth of the memory, and some small things.
    let used = status(&server, &mount)["memory"]["used"].as_u64().unwrap();
    assert!((4 << 20..9 << 20).contains(&used), "{used} bytes");
    mount.umount();
}

#[test]
fn all_buckets_cost_one_request_to_list_and_one_to_look_up() {
    let (_alone, server) = start();
    let embedded = server.embedded_server().expect("left out on other servers");
    let b = server.another("b");
    embedded.store().put(&b, "f", "x".to_owned());
    let mount = mount(&server, LASTING);
    embedded.clear_log();
    mount.sh(&format!("stat {b} >&2; stat {b} >&2"));
    assert_eq!(embedded.counts(), BTreeMap::from([("ListObjectsV2".into(), 1)]), "looked up by name");
    embedded.clear_log();
    mount.sh("ls -l >&2; ls -l >&2; ls; stat *");
    assert_eq!(embedded.counts(), BTreeMap::from([("ListBuckets".into(), 1)]));
    embedded.clear_log();
    mount.sh(&format!("stat .git .Trash-0 'no bucket' 2>/dev/null || true; cat {b}/f"));
    assert_eq!(of(&embedded.counts(), &["ListBuckets", "HeadBucket", "GetBucketLocation"]), [0, 0, 0]);
    embedded.clear_log();
    mount.sh("stat autorun.inf 2>/dev/null || stat autorun.inf 2>/dev/null || true");
    assert_eq!(embedded.counts(), BTreeMap::from([("ListObjectsV2".into(), 1)]), "the absence is remembered");
    assert_eq!(status(&server, &mount)["requests"]["errors"], 0, "that a bucket is missing is an answer");
    mount.umount();
}

#[test]
fn all_buckets_never_mix_the_same_key() {
    let (_alone, server) = start();
    let (a, b) = (server.bucket.clone(), server.another("b"));
    let cache = temp_dir();
    let cached = format!("cache_dir={}", cache.path().join("c").display());
    for round in 0..2 {
        let mount = mount(&server, &[&cached]);
        if round == 0 {
            mount.sh(&format!(
                "for i in {a} {b}; do head -c 3000000 <(yes $i) >$i/same; printf %s ${{i: -1}} >$i/small; done"
            ));
        }
        for _ in 0..2 {
            let sums = mount.sh(&format!("md5sum <{a}/same; head -c 3000000 <(yes {a}) | md5sum; md5sum <{b}/same; head -c 3000000 <(yes {b}) | md5sum"));
            let sums: Vec<&str> = sums.lines().collect();
            assert!(sums[0] == sums[1] && sums[2] == sums[3] && sums[0] != sums[2], "{sums:?}");
            assert_eq!(mount.sh(&format!("cat {b}/small")), "b");
        }
        mount.sh(&format!("cmp -s {a}/same {b}/same && exit 1; cmp {a}/same {a}/same"));
        if round == 1 {
            let disk = &status(&server, &mount)["disk"];
            assert!(disk["hits"].as_u64().unwrap() > 0, "{disk}");
        }
        mount.umount();
    }
}

#[test]
fn all_buckets_take_copies_and_moves_from_each_other() {
    let (_alone, server) = start();
    let (a, b) = (server.bucket.clone(), server.another("b"));
    let moved = server.name_of("moved");
    let mount = mount(&server, &[]);
    let tree = format!(
        "mkdir -p {a}/t/u; head -c 5000000 /dev/urandom >{a}/t/big; echo s >{a}/t/u/small; ln -s big {a}/t/link"
    );
    mount.sh(&format!("{tree}; cp -a {a}/t {b}/copy; diff -r {a}/t {b}/copy; readlink {b}/copy/link"));
    mount.sh(&format!("mv {a}/t/big {b}/big; cmp {b}/big {b}/copy/big; ! test -e {a}/t/big"));
    mount.sh(&format!("mv {b}/copy {a}/back; ! test -e {b}/copy; cmp {b}/big {a}/back/big; cat {a}/back/u/small"));
    let rename = |from: &str, to: &str| nix_rename(&mount.join(from), &mount.join(to));
    assert_eq!(rename(&format!("{b}/big"), &format!("{a}/big")), libc::EXDEV);
    assert_eq!(rename(&b, &moved), libc::EXDEV);
    assert_eq!(rename(&format!("{a}/back"), &moved), libc::EXDEV);
    assert_eq!(rename(&b, &format!("{a}/x")), libc::EXDEV);
    // mv(1) makes the new one, copies and deletes.
    mount.sh(&format!("mv {b} {moved}; ls {moved} | grep -qx big; ! test -e {b}"));
    assert_eq!(server.rclone(&["lsf", &format!("store:{moved}")]), "big\n");
    mount.sh(&format!("cd {a}; git init -q src; cd src; git commit -q --allow-empty -m x; cd ../..; git clone -q {a}/src {moved}/clone; git -C {moved}/clone log --oneline | grep -c x"));
    mount.umount();
}

/// The errno of rename(2).
fn nix_rename(from: &Path, to: &Path) -> i32 {
    fs::rename(from, to).expect_err("it cannot be renamed").raw_os_error().unwrap()
}

/// Its directories have the inode numbers of the one before.
#[test]
fn all_buckets_that_are_made_again_are_empty() {
    let (_alone, server) = start();
    let b = server.name_of("again");
    let mount = mount(&server, &["metadata_ttl=10m", "negative_ttl=1s"]);
    mount.sh(&format!("mkdir {b}; echo x >{b}/f; mkdir {b}/d; ls -R {b} >&2; stat {b}/g 2>/dev/null || rm -r {b}"));
    server.rclone(&["mkdir", &format!("store:{b}")]);
    server.put("source", b"y");
    server.rclone(&["copyto", &format!("store:{}/source", server.bucket), &format!("store:{b}/g")]);
    eventually(Duration::from_secs(20), "it is there again", || fs::metadata(mount.join(&b)).is_ok());
    assert_eq!(mount.sh(&format!("cat {b}/g; find {b} | sort")), format!("y{b}\n{b}/g\n"));
    mount.umount();
}

#[test]
fn all_buckets_come_and_go_elsewhere() {
    let (_alone, server) = start();
    let mount = mount(&server, &["metadata_ttl=10m", "negative_ttl=1s"]);
    let late = server.name_of("late");
    assert_eq!(ours(&server, &mount), [&*server.bucket]);
    sh_fails(mount.path(), &format!("ls {late}"), "No such file");
    server.rclone(&["mkdir", &format!("store:{late}")]);
    // By name when its absence is over, in the listing when that is.
    eventually(Duration::from_secs(10), "the bucket is found", || mount.join(&late).exists());
    assert_eq!(ours(&server, &mount), [&*server.bucket]);
    let dir = mount.path().to_str().unwrap();
    ok(&server, &["refresh", dir]);
    assert_eq!(ours(&server, &mount), [&*server.bucket, &*late]);
    mount.sh(&format!("ls -A {late}"));
    server.rclone(&["rmdir", &format!("store:{late}")]);
    ok(&server, &["refresh", &format!("{dir}/{late}")]);
    sh_fails(mount.path(), &format!("ls {late}"), "No such file");
    assert_eq!(ours(&server, &mount), [&*server.bucket]);
    mount.umount();
}

#[test]
fn all_buckets_are_found_by_name_without_the_right_to_list() {
    let (_alone, server) = start();
    let embedded = server.embedded_server().expect("left out on other servers");
    let b = server.another("b");
    let denied = || Action::Status(403, "AccessDenied".into());
    embedded.knobs().fail(Rule::new("ListBuckets", denied()).always());
    let mount = mount(&server, &[]);
    assert!(mount.log().contains("s3:ListAllMyBuckets"), "{}", mount.log());
    sh_fails(mount.path(), "ls", "Permission denied");
    mount.sh(&format!("echo x >{b}/f; cat {b}/f; ls {b}"));
    sh_fails(mount.path(), "ls no-such-bucket", "No such file");
    // A bucket of which only objects may be asked for; and a store that fails tells of no absence.
    embedded.knobs().fail(Rule::new("ListObjectsV2", denied()).times(2));
    let named = mount.sh(&format!("ls -d {}", server.bucket));
    assert_eq!(named, format!("{}\n", server.bucket));
    embedded.knobs().clear_rules();
    embedded.knobs().fail(Rule::new("ListObjectsV2", Action::Status(500, "InternalError".into())).always());
    sh_fails(mount.path(), "stat another-bucket", "Input/output error");
    embedded.knobs().clear_rules();
    mount.umount();
}

#[test]
fn all_buckets_replay_what_a_killed_daemon_had_acknowledged() {
    let (_alone, server) = start();
    let embedded = server.embedded_server().expect("left out on other servers");
    let (a, b, gone) = (server.bucket.clone(), server.another("b"), server.another("gone"));
    let state = temp_dir();
    let state_dir = format!("state_dir={}", state.path().display());
    let options = ["writeback", &*state_dir, "retries=0", "shutdown_timeout=2"];
    embedded.knobs().fail(Rule::new("PutObject", Action::Status(503, "SlowDown".into())).always());
    let mut killed = mount(&server, &options);
    killed.sh(&format!("for i in {a} {b} {gone}; do echo $i >$i/f; done"));
    let pending = |mount: &TestMount| {
        let status = status(&server, mount);
        let keys = status["pending"].as_array().unwrap().iter().map(|p| p["key"].as_str().unwrap().to_owned());
        keys.collect::<Vec<_>>()
    };
    assert_eq!(pending(&killed).len(), 3);
    sh_fails(killed.path(), &format!("rmdir {gone}"), "busy");
    killed.kill_daemon();
    drop(killed);
    server.rclone(&["rmdir", &format!("store:{gone}")]);
    embedded.knobs().clear_rules();
    // Nobody looks into any of them.
    let again = mount(&server, &options);
    eventually(Duration::from_secs(30), "what was acknowledged is stored", || {
        object(&server, &a, "f").is_some() && object(&server, &b, "f").is_some()
    });
    assert_eq!(object(&server, &b, "f").unwrap(), format!("{b}\n").as_bytes());
    eventually(Duration::from_secs(30), "the rest waits", || pending(&again) == [format!("{gone}/f")]);
    let dir = again.path().to_str().unwrap().to_owned();
    let flushed = xosfs(&server, &["flush", &dir, "--timeout", "1"]);
    assert!(flushed.code == Some(1) && flushed.err.contains(&format!("{gone}/f")), "{flushed:?}");
    // Its bytes can be had, whatever has become of the bucket.
    let id = status(&server, &again)["pending"][0]["id"].to_string();
    let saved = state.path().join("saved");
    ok(&server, &["journal", "export", &dir, &id, saved.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&saved).unwrap(), format!("{gone}\n"));
    let ended = xosfs(&server, &["umount", &dir]);
    assert!(ended.code == Some(1) && ended.err.contains(&format!("not stored: {gone}/f")), "{ended:?}");
    drop(again);
    server.rclone(&["mkdir", &format!("store:{gone}")]);
    let last = mount(&server, &options);
    eventually(Duration::from_secs(30), "the last one is stored", || object(&server, &gone, "f").is_some());
    ok(&server, &["flush", last.path().to_str().unwrap()]);
    // Deletes follow in the background; the bucket waits for them.
    last.sh(&format!("for i in {{1..40}}; do echo $i >{gone}/$i; done; sleep 0.3; rm -r {gone}; ! test -e {gone}"));
    assert!(!server.rclone(&["lsd", "store:"]).contains(&gone));
    last.umount();
    let left = fs::read_dir(state.path().join("journal")).unwrap().count();
    assert_eq!(left, 0, "journals of mounts that ended with nothing to store");
}

#[test]
fn all_buckets_are_known_to_the_commands() {
    let (_alone, server) = start();
    let (a, b) = (server.bucket.clone(), server.another("b"));
    let new = server.name_of("new");
    let mount = mount(&server, &[]);
    let dir = mount.path().to_str().unwrap().to_owned();
    mount.sh(&format!("mkdir {b}/d; echo x >{b}/d/f"));
    let figures = status(&server, &mount);
    assert_eq!(figures["source"], "s3://");
    assert_eq!(figures["buckets"], serde_json::json!([b]), "nobody has been in the other one");
    assert!(ok(&server, &["status", &dir]).contains(&format!("1 in use: {b}")));
    ok(&server, &["flush", &dir]);
    ok(&server, &["refresh", &format!("{dir}/{b}/d")]);
    let listed = ok(&server, &["ls", &dir]);
    assert!(listed.contains(&a) && listed.contains(&b), "{listed}");
    let (region, endpoint) = (format!("region={}", server.region), format!("endpoint={}", server.endpoint));
    let o = ["-o", &*region];
    let run = |args: &[&str]| ok(&server, &[args, &o].concat());
    assert!(run(&["ls", "-r", &format!("{dir}/{b}")]).contains("d/f"));
    assert!(run(&["stat", &format!("{dir}/{b}/d/f")]).contains(&format!("s3://{b}/d/f")));
    run(&["object", "tags", "set", &format!("{dir}/{b}/d/f"), "-t", "k=v"]);
    assert!(run(&["object", "tags", "get", &format!("s3://{b}/d/f"), "-o", &endpoint]).contains("k=v"));
    assert!(run(&["presign", "get", &format!("{dir}/{b}/d/f")]).contains(&*b));
    run(&["cp", &format!("{dir}/{b}/d/f"), &format!("s3://{a}/copied"), "-o", &endpoint]);
    assert_eq!(object(&server, &a, "copied").unwrap(), b"x\n");
    run(&["bucket", "create", &format!("{dir}/{new}")]);
    assert!(run(&["bucket", "stat", &format!("{dir}/{new}")]).contains(&new));
    run(&["bucket", "rm", &format!("{dir}/{new}")]);
    let all = xosfs(&server, &["stat", &dir]);
    assert!(all.code == Some(2) && all.err.contains("holds every bucket"), "{all:?}");
    mount.umount();
}

#[test]
fn all_buckets_are_a_source_and_a_flag() {
    let (_alone, server) = start();
    let temp = temp_dir();
    let dir = temp.path().join("m");
    fs::create_dir(&dir).unwrap();
    let dir = dir.to_str().unwrap();
    let both = xosfs(&server, &["mount", "--all-buckets", "b:/p", dir]);
    assert!(both.code == Some(2) && both.err.contains("--all-buckets takes no source"), "{both:?}");
    let none = xosfs(&server, &["mount", dir]);
    assert!(none.code == Some(2) && none.err.contains("what and where"), "{none:?}");
    let prefix = xosfs(&server, &["mount", "s3:///p", dir]);
    assert!(prefix.code == Some(2) && prefix.err.contains("names no bucket"), "{prefix:?}");
    let options = format!("endpoint={},region={},state_dir={}", server.endpoint, server.region, temp.path().display());
    ok(&server, &["mount", "--all-buckets", dir, "-o", &options]);
    let found = sh(Path::new(dir), "ls");
    // The same once more is no mistake, in either form.
    let again = xosfs(&server, &["mount", "s3://", dir, "-o", &options]);
    // As mount(8) calls it for a line of fstab.
    let helper = temp.path().join("mount.fuse.xosfs");
    std::os::unix::fs::symlink(binary(), &helper).unwrap();
    let mut by_fstab = command(&helper);
    server.set_env(&mut by_fstab);
    by_fstab.args(["s3://", dir, "-v", "-o", &format!("rw,_netdev,{options}")]);
    let by_fstab = String::from_utf8_lossy(&by_fstab.output().unwrap().stdout).into_owned();
    let other = xosfs(&server, &["mount", &server.bucket, dir, "-o", &options]);
    ok(&server, &["umount", dir]);
    assert!(found.lines().any(|l| l == server.bucket), "{found}");
    assert!(by_fstab.contains("s3:// on") && by_fstab.contains("mounted already"), "{by_fstab}");
    assert!(again.code == Some(0) && again.err.contains("mounted already"), "{again:?}");
    assert!(other.code == Some(1) && other.err.contains("s3://"), "{other:?}");
}

#[test]
fn all_buckets_are_read_only_on_request() {
    let (_alone, server) = start();
    server.put("f", b"x");
    let mount = mount(&server, &["ro"]);
    let bucket = &server.bucket;
    assert_eq!(mount.sh(&format!("cat {bucket}/f")), "x");
    for script in ["mkdir some-bucket", &format!("rmdir {bucket}"), &format!("touch {bucket}/g"), "touch g"] {
        sh_fails(mount.path(), script, "Read-only");
    }
    mount.umount();
}

#[test]
fn all_buckets_have_inode_numbers_of_their_own() {
    let (_alone, server) = start();
    let embedded = server.embedded_server().expect("left out on other servers");
    let (a, b) = (server.bucket.clone(), server.another("b"));
    for i in 0..4000 {
        for bucket in [&a, &b] {
            embedded.store().put(bucket, &format!("d{}/f{i}", i % 7), "x".to_owned());
        }
    }
    let numbers = |mount: &TestMount| mount.sh("find . -printf '%i %p\\n' | sort");
    let first = mount(&server, LASTING);
    let found = numbers(&first);
    assert_eq!(found.lines().count(), 1 + 2 * (1 + 7 + 4000));
    let mut all: Vec<&str> = found.lines().map(|l| l.split(' ').next().unwrap()).collect();
    all.dedup();
    assert_eq!(all.len(), found.lines().count(), "a number comes twice");
    // The kernel's and what readdir tells are one, and so after a remount.
    assert_eq!(first.sh(&format!("stat -c %i {a}/d0 {b}/d0; ls -i {a} {b} >&2")).lines().count(), 2);
    let inode = fs::metadata(first.join(&b).join("d0")).unwrap().ino();
    assert!(found.contains(&format!("{inode} ./{b}/d0\n")));
    first.umount();
    let second = mount(&server, LASTING);
    assert_eq!(numbers(&second), found);
    second.umount();
}

#[test]
fn all_buckets_share_the_memory_of_one_mount() {
    let (_alone, server) = start();
    let buckets: Vec<String> = (0..3).map(|i| server.another(&format!("m{i}"))).collect();
    let mount = mount(&server, &["memory=64M"]);
    let files: Vec<PathBuf> = buckets.iter().map(|b| mount.join(b).join("large")).collect();
    let local = temp_dir();
    sh(local.path(), "head -c 48000000 /dev/urandom >large");
    for (bucket, file) in buckets.iter().zip(&files) {
        mount.sh(&format!("cp {} {bucket}/large", local.path().join("large").display()));
        mount.sh(&format!("cmp {} {}", local.path().join("large").display(), file.display()));
    }
    // All at a time, and written to meanwhile.
    let readers: String = files.iter().map(|f| format!("cat {} | md5sum & ", f.display())).collect();
    let sums = mount.sh(&format!("{readers} cp {} {}/again & wait", local.path().join("large").display(), buckets[0]));
    let expected = sh(local.path(), "md5sum <large");
    assert_eq!(sums, expected.repeat(3));
    let memory = &status(&server, &mount)["memory"];
    let (used, bound) = (memory["used"].as_u64().unwrap(), memory["bound"].as_u64().unwrap());
    assert!(used <= bound && bound <= 64 << 20, "{memory}");
    mount.sh(&format!("cmp {0}/large {0}/again", buckets[0]));
    mount.umount();
}

//! Modes, owners, times, links: what legacy programs set and expect to find again.

use crate::common::{TestMount, TestServer, sh_fails};
use crate::same_as_local;

// R53 R54 R64
#[test]
fn modes_owners_and_times_are_found_again_by_another_mount() {
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    let chown = if nix::unistd::geteuid().is_root() { "chown 1234:2345 f; chown 7 d" } else { ":" };
    mount.sh(&format!(
        "echo content >f; mkdir d; echo x >d/x; chmod 4751 f; chmod 700 d; {chown}; chmod u+w f
         touch -m -d '2001-02-03 04:05:06.789' f; touch -r f d/x; touch new; touch -d @0 epoch; umask 077; echo >private"
    ));
    let stat = "stat -c '%a %u %g %Y %s %n' f d/x epoch; stat -c '%a %u %g %n' d private; cat f";
    let before = mount.sh(stat);
    assert!(before.starts_with("4751 ") || before.starts_with("751 "), "{before}");
    mount.umount();
    let mount = TestMount::new(&server);
    assert_eq!(mount.sh(stat), before);
    assert_eq!(server.get("f"), b"content\n");
    mount.umount();
}

// R65
#[test]
fn symbolic_links_are_kept() {
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    mount.sh(
        "echo target >f; mkdir d; echo in >d/g; ln -s f link; ln -s d dirlink; ln -s nowhere broken; ln -s ../f d/up
         ln -sf d/g link2; ln -sfn d/up link2; ln -s /etc/hostname absolute",
    );
    let check = "readlink link dirlink broken d/up link2 absolute; cat link dirlink/g d/up link2
         test -L link -a -L broken; test ! -e broken; ls dirlink; stat -c %F link dirlink; stat -Lc %F dirlink; realpath --relative-to=. d/up";
    let before = mount.sh(check);
    mount.sh(
        "! ln -s x link 2>/dev/null; mv link moved; readlink moved; mv moved link; rm broken; ln -s nowhere broken",
    );
    mount.umount();
    let mount = TestMount::new(&server);
    assert_eq!(mount.sh(check), before);
    // Deleting a link leaves its target.
    mount.sh("rm link dirlink; cat f d/g >/dev/null; cp -a d/up copy; readlink copy");
    mount.umount();
}

// R24 R30 R37 R46 R49 R67 R68
#[test]
fn what_the_store_cannot_do_is_refused_with_its_own_message() {
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    mount.sh("echo x >f; mkdir -p d/e");
    for (script, message) in [
        ("ln f g", "Operation not permitted"),
        ("mknod dev c 1 3", "Operation not permitted"),
        ("rmdir d", "Directory not empty"),
        ("mkdir d", "File exists"),
        ("rmdir f", "Not a directory"),
        ("unlink d", "directory"),
        ("cat d", "Is a directory"),
        ("cat f/x", "Not a directory"),
        ("cat missing", "No such file"),
        ("mv d/e f", "cannot overwrite non-directory"),
        ("mv -T f d", "cannot overwrite directory"),
        ("mv d d/e/d", "subdirectory of itself"),
        ("python3 -c 'open(\"x\" * 256, \"w\")'", "File name too long"),
        ("python3 -c 'open(b\"\\xff\\xfe\", \"w\")'", "Invalid argument"),
        ("truncate -s 6T f", "File too large"),
    ] {
        sh_fails(mount.path(), script, message);
    }
    assert_eq!(mount.sh("cat f; find . -mindepth 1 | sort"), "x\n./d\n./d/e\n./f\n");
    mount.umount();
}

// R63
#[test]
fn a_read_only_mount_changes_nothing() {
    let server = TestServer::start();
    server.put("d/f", b"content");
    let mount = TestMount::with(&server, &["ro"]);
    assert_eq!(mount.sh("cat d/f; ls -A . d"), "content.:\nd\n\nd:\nf\n");
    for script in
        ["echo x >g", "echo x >>d/f", "rm d/f", "mkdir e", "mv d e", "chmod 600 d/f", "touch d/f", "ln -s x y"]
    {
        sh_fails(mount.path(), script, "Read-only file system");
    }
    mount.umount();
    assert_eq!(server.list(""), ["d/f"]);
}

// R35 R36
#[test]
fn directories_come_and_go() {
    same_as_local(
        "mkdir -p a/b/c d/e; rmdir a/b/c; touch a/b/x; rm a/b/x; ls -A a a/b; rmdir a/b; ls -A a
         mkdir -m 700 m; cd d/e; mkdir ../../n; cd ../..; rmdir d/e d n; mkdir -p n/o/p; rm -rf n; ls -A
         for i in $(seq 30); do mkdir -p t/$i/u; echo $i >t/$i/u/f; done; rm -r t/1*; ls t | wc -l",
    );
}

// R36
#[test]
fn a_directory_that_was_emptied_stays_when_its_parent_is_listed_again() {
    let server = TestServer::start();
    server.put("d/sub/f", b"x");
    server.put("d/other", b"x");
    let mount = TestMount::with(&server, &["metadata_ttl=500ms"]);
    mount.sh("ls -lR d; rm d/sub/f; sleep 1; stat d/other d/sub; sleep 1; ls d/sub; rmdir d/sub; ! stat d/sub 2>&1");
    mount.umount();
}

// R39 R57
#[test]
fn a_look_up_is_no_change() {
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    mount.sh("mkdir -m 700 d; echo x >d/f; chmod 600 d/f");
    mount.umount();
    let mount = TestMount::new(&server);
    // As tar compares them: from the listing, and after it was opened.
    mount.sh("python3 - <<'PY'
import os
for where in '.', 'd':
    for entry in os.scandir(where):
        first = os.stat(entry.path, follow_symlinks=False).st_ctime_ns
        descriptor = os.open(entry.path, os.O_RDONLY)
        os.listdir(descriptor) if entry.is_dir() else os.read(descriptor, 100)
        assert os.fstat(descriptor).st_ctime_ns == first, entry.path
        os.close(descriptor)
PY");
    mount.umount();
}

// R58 R60
#[test]
fn files_have_room_and_their_sizes_in_blocks() {
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    mount.sh(
        "head -c 10000 /dev/zero >f; test $(stat -c %b f) -ge 20; test $(stat -f -c %l .) = 255
         test $(df --output=avail -B 1G . | tail -1) -gt 1000; df -i . >/dev/null; test $(stat -c %i f) = $(stat -c %i ./f)",
    );
    let inodes = mount.sh("mkdir d; echo >d/g; stat -c %i f d d/g .");
    mount.umount();
    let mount = TestMount::new(&server);
    assert_eq!(mount.sh("stat -c %i f d d/g ."), inodes, "the same after a remount");
    mount.umount();
}

// R70
#[test]
fn locks_work_between_processes_of_one_host() {
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    mount.sh(
        "touch lock; (flock 9; sleep 1; echo first >>out) 9<lock & sleep 0.3
         ! flock -n lock true; flock -w 20 lock sh -c 'echo second >>out'; wait; test \"$(cat out)\" = \"$(printf 'first\\nsecond')\"
         python3 - <<'PY'
import fcntl, os
a = open('lock', 'r+')
fcntl.lockf(a, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)
if (pid := os.fork()) == 0:
    b = open('lock', 'r+')
    fcntl.lockf(b, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0)
    try:
        fcntl.lockf(b, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 8)
    except OSError:
        os._exit(0)
    os._exit(1)
assert os.waitpid(pid, 0)[1] == 0
PY",
    );
    mount.umount();
}

/// A directory that was emptied here stays also when its parent is listed again after the listing of before grew old.
// R36
#[test]
fn an_emptied_directory_outlives_the_listing_that_knew_it() {
    let server = TestServer::start();
    server.put("d/s/f", b"x");
    server.put("d/g", b"x");
    let mount = TestMount::with(&server, &["metadata_ttl=1s"]);
    assert_eq!(mount.sh("ls d/s; rm d/s/f; sleep 1.3; ls d; cat d/g"), "f\ng\ns\nx");
    mount.sh(
        "sleep 0.6; test -d d/s; ls -A d/s; sleep 1.2; ls d; stat d/s; find d -type d -empty -delete; test ! -e d/s",
    );
    mount.umount();
}

//! Mounting without root, through the setuid program fusermount3.
//!
//! `/dev/fuse` is open to users on most machines but not in every container, and a test must not change that for
//! everybody: the script runs in a mount namespace of its own, with a device node of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::place::{Place, command, run, server, set_keys};

const NOBODY: u32 = 65534;

fn installed(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|dir| dir.join(program).is_file())
}

#[test]
fn a_user_mounts_without_root() {
    let tools = ["fusermount3", "setpriv", "unshare", "mknod"];
    if !nix::unistd::Uid::effective().is_root() || !tools.iter().all(|tool| installed(tool)) {
        eprintln!("skipped: needs root and {tools:?}");
        return;
    }
    let server = server();
    server.store().put("bucket", "x", "text\n");
    let place = Place::new();
    // Where the user can get at it.
    let program = place.path("xosfs");
    fs::copy(env!("CARGO_BIN_EXE_xosfs"), &program).unwrap();
    fs::create_dir(place.path("home")).unwrap();
    fs::create_dir(place.path("foreign")).unwrap();
    fs::set_permissions(place.temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for path in [&place.dir, &place.path("home")] {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let script = r#"
        user() { timeout -k 2 30 setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
        pid() { pgrep -f "^xosfs mount .*$DIR\$"; }
        gone() { for i in $(seq 300); do pid || return 0; sleep 0.1; done; echo 'still there'; return 1; }
        cd /
        mknod -m 666 "$HOME/../fuse" c 10 229
        mount --bind "$HOME/../fuse" /dev/fuse
        # A file system without devices is no place for one.
        user dd if=/dev/fuse count=0 status=none || { echo NODEV; exit 0; }

        user "$XOSFS" mount bucket "$DIR"
        grep -F " $DIR fuse.xosfs rw,nosuid,nodev" /proc/mounts | cut -d' ' -f1,3
        user sh -euc 'cat "$DIR/x"; echo new > "$DIR/y"; chmod 600 "$DIR/y"; stat -c "%u %a" "$DIR/y"'
        # Nobody else, not even root.
        timeout 10 ls "$DIR" 2>/dev/null && echo 'root sees it'
        user "$XOSFS" mount bucket "$DIR" 2>&1 | grep -o 'mounted already'

        # After a crash, with attributes in the kernel that are fresh.
        user stat "$DIR" >/dev/null
        kill -9 $(pid); gone
        user "$XOSFS" mount bucket "$DIR"
        user cat "$DIR/y"

        user fusermount3 -u "$DIR"; gone
        user "$XOSFS" mount bucket "$DIR" -o ro,noexec
        user sh -c 'echo x > "$DIR/z"' 2>/dev/null || echo 'read-only'
        user "$XOSFS" umount "$DIR"; pid
        user "$XOSFS" mount bucket "$DIR"/../foreign 2>&1 | grep -o 'no write access'
        if ! grep -q '^user_allow_other' /etc/fuse.conf 2>/dev/null; then
            user "$XOSFS" mount bucket "$DIR" -o allow_other 2>&1 | grep -o 'add the line `user_allow_other`'
        fi
        grep -F "$DIR" /proc/mounts || echo clean
    "#;
    let mut shell = command("timeout");
    set_keys(&mut shell, &server);
    shell.args(["-k", "2", "55", "unshare", "--mount", "--propagation", "private", "bash", "-uc", script]);
    shell.env("AWS_ENDPOINT_URL", server.endpoint()).env("HOME", place.path("home")).env_remove("XDG_RUNTIME_DIR");
    shell.env("XOSFS", &program).env("DIR", &place.dir).env_remove("CACHE_DIRECTORY").env_remove("XDG_CACHE_HOME");
    let ran = run(&mut shell);
    let log = fs::read_to_string(place.path("home/.cache/xosfs/xosfs.log")).unwrap_or_default();
    if ran.out.starts_with("NODEV") {
        eprintln!("skipped: no device nodes in {}", place.temp.path().display());
        return;
    }
    let mut expected = vec![
        "bucket fuse.xosfs",
        "text",
        "65534 600",
        "mounted already",
        "new",
        "read-only",
        "no write access",
        "add the line `user_allow_other`",
        "clean",
    ];
    if fs::read_to_string("/etc/fuse.conf").is_ok_and(|t| t.lines().any(|l| l.starts_with("user_allow_other"))) {
        expected.retain(|line| !line.starts_with("add the line"));
    }
    assert_eq!(ran.out.lines().collect::<Vec<_>>(), expected, "{}\n{log}", ran.err);
    assert_eq!(server.store().get("bucket", "y").unwrap(), "new\n");
    assert!(!Path::new("/nonexistent").exists());
    place.assert_clean();
}

//! Rules that only the kernel can show.

use super::common::{TestMount, TestServer, try_sh};

use xosfs::demo::{Action, Rule};

#[test]
fn directory_sizes_and_links() {
    let _alone = crate::common::alone();
    let server = TestServer::start();
    server.put("d/below/file", b"x");
    let mount = TestMount::new(&server);
    assert_eq!(mount.sh("mkdir made; stat -c '%s %h' . d d/below made"), "0 1\n".repeat(4));
    mount.umount();
}

// R45
#[test]
fn renameat2_flags() {
    let _alone = crate::common::alone();
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    mount.sh("echo a >a; echo b >b; ! mv -n a b || true; test -e a; cat b | grep -q b");
    let exchange = nix::fcntl::renameat2(
        nix::fcntl::AT_FDCWD,
        &mount.join("a"),
        nix::fcntl::AT_FDCWD,
        &mount.join("b"),
        nix::fcntl::RenameFlags::RENAME_EXCHANGE,
    );
    assert_eq!(exchange, Err(nix::errno::Errno::EINVAL));
    assert_eq!(mount.sh("cat a b"), "a\nb\n");
    mount.umount();
}

#[test]
fn allow_other_is_needed_for_others() {
    let _alone = crate::common::alone();
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can be somebody else");
        return;
    }
    let server = TestServer::start();
    server.put("f", b"content");
    let as_other = |mount: &TestMount| {
        // The way to the mount point must not be what refuses.
        let script = format!(
            "exec 9<'{}'; cd /; setpriv --reuid 65534 --regid 65534 --clear-groups cat /proc/self/fd/9/f",
            mount.path().display()
        );
        try_sh(std::path::Path::new("/"), &script)
    };
    let mount = TestMount::new(&server);
    let options = |mount: &TestMount| {
        let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let at = mount.path().to_str().unwrap().to_owned();
        table.lines().find(|l| l.split(' ').nth(1) == Some(&at)).unwrap().split(' ').nth(3).unwrap().to_owned()
    };
    let of_root = options(&mount);
    assert!(of_root.contains("allow_other") && of_root.contains("default_permissions"), "{of_root}");
    assert_eq!(as_other(&mount).out, "content");
    mount.umount();
    let mount = TestMount::with(&server, &["allow_other=false"]);
    assert!(!options(&mount).contains("allow_other"));
    let refused = as_other(&mount);
    assert!(refused.code != Some(0) && refused.err.contains("Permission denied"), "{refused:?}");
    assert_eq!(mount.sh("cat f"), "content");
    mount.umount();
}

#[test]
fn refusals_name_the_fix() {
    let _alone = crate::common::alone();
    let server = TestServer::start();
    let Some(embedded) = server.embedded_server() else { return };
    server.put("seen", b"x");
    let mount = TestMount::with(&server, &["retries=0"]);
    embedded.knobs().fail(Rule::new("PutObject", Action::Status(403, "AccessDenied".into())).always());
    let refused = try_sh(mount.path(), "dd if=/dev/zero of=refused-file bs=10 count=1");
    assert!(refused.code != Some(0) && refused.err.contains("Permission denied"), "{refused:?}");
    let log = mount.log();
    let line = log.lines().find(|l| l.contains("refused-file")).unwrap_or_else(|| panic!("no line in {log}"));
    assert!(line.contains("AccessDenied"), "the store's code: {line}");
    assert!(line.contains("request"), "the request id: {line}");
    assert!(!log.contains(&server.secret_key) && !log.contains("X-Amz-Signature"), "a secret in the log: {log}");
    embedded.knobs().clear_rules();
    drop(mount);
}

/// Another file of the same name that the process has open, in another directory or on another mount, is no reason to
/// leave a file unstored.
// R10 R14
#[test]
fn close_of_an_empty_file_is_stored_whatever_files_of_its_name_are_open() {
    let _alone = crate::common::alone();
    let (server, second) = (TestServer::start(), TestServer::start());
    let Some(embedded) = server.embedded_server() else { return };
    let (mount, other) = (TestMount::new(&server), TestMount::new(&second));
    std::fs::create_dir(mount.join("d")).unwrap();
    std::fs::create_dir(other.join("d")).unwrap();
    let held = [mount.join("f"), other.join("d/f")].map(|path| std::fs::File::create(path).unwrap());
    embedded.knobs().fail(Rule::new("PutObject", Action::Status(403, "AccessDenied".into())).key("d/f").always());
    let empty: std::os::fd::OwnedFd = std::fs::File::create(mount.join("d/f")).unwrap().into();
    let closed = nix::unistd::close(empty);
    assert_eq!(closed, Err(nix::errno::Errno::EACCES));
    drop(held);
    embedded.knobs().clear_rules();
    mount.umount();
    other.umount();
}

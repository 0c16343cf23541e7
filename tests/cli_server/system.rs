//! mount(8), /etc/fstab and umount(8). These need root; the helper that is installed for them is taken away again.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use xosfs::demo::Server;

use super::place::{PATIENCE, Place, Ran, command, ok, run, server, set_keys, sh, xosfs};

const HELPER: &str = "/sbin/mount.fuse.xosfs";

/// `xosfs install-helper` for the time of a test. Somebody's own comes back afterwards.
struct Installed {
    before: Option<PathBuf>,
}

impl Installed {
    /// `None` where that is not possible: without root, or with a file of somebody else in its place.
    fn new() -> Option<Installed> {
        let before = fs::read_link(HELPER).ok();
        if !nix::unistd::Uid::effective().is_root() || before.is_none() && Path::new(HELPER).exists() {
            eprintln!("skipped: needs root");
            return None;
        }
        let ran = run(xosfs().arg("install-helper"));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!(fs::canonicalize(HELPER).unwrap(), fs::canonicalize(env!("CARGO_BIN_EXE_xosfs")).unwrap());
        Some(Installed { before })
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        match &self.before {
            Some(before) => {
                let _ = fs::remove_file(HELPER);
                let _ = std::os::unix::fs::symlink(before, HELPER);
            }
            None => drop(run(xosfs().args(["install-helper", "--remove"]))),
        }
    }
}

fn system(server: &Server, program: &str, args: &[&OsStr]) -> Ran {
    let mut command: Command = command(program);
    set_keys(&mut command, server);
    run(command.args(args))
}

#[test]
fn the_helper_mounts_with_what_fstab_has() {
    let server = server();
    server.store().put("bucket", "p/x", "text");
    let place = Place::new();
    let options = place.options(&server, "rw,_netdev,nofail,allow_other,x-systemd.automount,x-gvfs-hide");
    let helper = |options: &str| {
        let mut mount = command(place.called("mount.fuse.xosfs"));
        set_keys(&mut mount, &server);
        run(mount.arg("bucket:/p").arg(&place.dir).args(["-o", options]))
    };
    // As often as somebody likes.
    for _ in 0..2 {
        let ran = helper(&options);
        assert_eq!((ran.code, &*ran.out, &*ran.err), (Some(0), "", ""), "{}", place.log());
    }
    assert_eq!(place.mounts(), [("bucket:/p".to_owned(), "fuse.xosfs".to_owned())]);
    assert_eq!(place.processes().len(), 1);
    assert_eq!(ok(&place.dir, "cat x"), "text");
    assert_eq!(place.umount().code, Some(0));
    place.assert_clean();
}

#[test]
fn mount_and_umount_of_the_system_work_with_fstab() {
    let Some(_installed) = Installed::new() else { return };
    let server = server();
    server.store().put("bucket", "p/x", "text");
    let place = Place::new();
    let dir = place.dir.as_os_str();
    let options = place.options(&server, "_netdev,nofail,allow_other");
    let mounted = [("bucket:/p".to_owned(), "fuse.xosfs".to_owned())];
    let ended = |program: &str| {
        // umount(8) does not wait for the daemon, which may still be storing.
        let state = place.state();
        let ran = system(&server, program, &[dir]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(state.is_some_and(|s| s.wait(PATIENCE)), "the process ends with the mount");
        place.assert_clean();
    };

    let line = ["-t", "fuse.xosfs", "bucket:/p", place.dir.to_str().unwrap(), "-o", &options].map(OsStr::new);
    let ran = system(&server, "mount", &line);
    assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{}", place.log());
    assert_eq!(place.mounts(), mounted);
    assert_eq!(ok(&place.dir, "cat x; echo new > y"), "text");
    ended("umount");
    assert_eq!(server.store().get("bucket", "p/y").unwrap(), "new\n");

    let fstab = place.path("fstab");
    fs::write(&fstab, format!("# a bucket\nbucket:/p {} fuse.xosfs {options} 0 0\n", place.dir.display())).unwrap();
    let ran = system(&server, "mount", &[OsStr::new("-T"), fstab.as_os_str(), dir]);
    assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{}", place.log());
    for _ in 0..2 {
        let ran = system(&server, "mount", &[OsStr::new("-a"), OsStr::new("-T"), fstab.as_os_str()]);
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{}", place.log());
        assert_eq!((place.mounts().as_slice(), place.processes().len()), (&mounted[..], 1));
    }
    let ran = system(&server, "mount", &[OsStr::new("-o"), OsStr::new("remount,ro"), dir]);
    assert!(ran.code == Some(1) && ran.err.contains("mount -i -o remount,ro"), "{ran:?}");
    let ran = system(
        &server,
        "mount",
        &["-i", "-o", "remount,ro"].map(OsStr::new).iter().copied().chain([dir]).collect::<Vec<_>>(),
    );
    assert_eq!((ran.code, &*ran.err), (Some(0), ""));
    assert_ne!(sh(&place.dir, "echo x > x").code, Some(0));
    ended("umount");

    // What the helper says is what the person sees, with mount's exit code.
    let wrong = options.clone() + ",endpont=http://h";
    let line = ["-t", "fuse.xosfs", "bucket:/p", place.dir.to_str().unwrap(), "-o", &wrong].map(OsStr::new);
    let ran = system(&server, "mount", &line);
    assert!(ran.code == Some(1) && ran.err.contains("did you mean `endpoint`?"), "{ran:?}");
    let line = ["-t", "fuse.xosfs", "missing", place.dir.to_str().unwrap(), "-o", &options].map(OsStr::new);
    let ran = system(&server, "mount", &[&line[..], &[OsStr::new("-o"), OsStr::new("mount_timeout=0")]].concat());
    assert!(ran.code == Some(32) && ran.err.contains("\"missing\""), "{ran:?}");
    place.assert_clean();
}

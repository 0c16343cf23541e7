//! The real program on the embedded server: what people type, what mount(8) and a shell do with it, and what is left
//! behind when something is wrong.
#![cfg(feature = "demo")]

mod bad_input;
mod connect;
mod demo;
mod life;
#[path = "../place/mod.rs"]
mod place;
mod system;
mod user;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use place::{Place, Ran, command, ok, run, set_keys, until, xosfs};
use xosfs::demo::Server;
use xosfs::fuse::mountinfo;

/// Somebody who works in a mount.
struct Holder(Child);

impl Holder {
    fn end(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Place {
    /// Options without which nothing works here, and further ones.
    fn options(&self, server: &Server, more: &str) -> String {
        let comma = if more.is_empty() { "" } else { "," };
        let (staging, log) = (self.path("staging"), self.path("log"));
        format!("endpoint={},staging_dir={},log={}{comma}{more}", server.endpoint(), staging.display(), log.display())
    }

    /// `xosfs mount SOURCE DIR -o …`, not run yet.
    fn mount_command(&self, server: &Server, source: &str, more: &str) -> Command {
        let mut mount = xosfs();
        set_keys(&mut mount, server);
        mount.env("STATE_DIRECTORY", self.path("state"));
        mount.args(["mount", source]).arg(&self.dir).arg("-o").arg(self.options(server, more));
        mount
    }

    /// In the foreground, up and answering.
    #[track_caller]
    fn foreground(&self, server: &Server, source: &str, more: &str) -> Child {
        let mut mount = self.mount_command(server, source, more);
        let mut child = mount.arg("--foreground").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        until("the mount answers", || {
            assert_eq!(child.try_wait().unwrap(), None, "{}", self.log());
            self.state().is_some()
        });
        ok(&self.dir, "stat . >/dev/null");
        child
    }

    /// A shell in the mount, which runs `script` and then stays where it is.
    #[track_caller]
    fn holder(&self, script: &str) -> Holder {
        let marker = self.path("held");
        let _ = fs::remove_file(&marker);
        let script = format!("cd '{}'; {script}; touch '{}'; exec sleep 50", self.dir.display(), marker.display());
        let shell = command("bash").args(["-euc", &script]).spawn().unwrap();
        until("the shell has run its script", || marker.exists());
        Holder(shell)
    }

    #[track_caller]
    fn umount(&self) -> Ran {
        run(xosfs().arg("umount").arg(&self.dir))
    }

    /// The mounts at the directory, as the kernel lists them: source and type.
    fn mounts(&self) -> Vec<(String, String)> {
        let all = mountinfo::all().unwrap();
        all.into_iter().filter(|e| e.dir == self.dir).map(|e| (e.source, e.fs_type)).collect()
    }

    /// Processes that have the directory in their command line.
    fn processes(&self) -> Vec<i32> {
        // pgrep does not list itself; `timeout` would be listed.
        let mut pgrep = command("pgrep");
        pgrep.arg("-f").arg(format!("^xosfs mount .*{}$", self.dir.display()));
        run(&mut pgrep).out.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// Nothing mounted, no process, no record.
    #[track_caller]
    fn assert_clean(&self) {
        assert_eq!(self.mounts(), []);
        assert!(self.state().is_none());
        assert!(self.processes().is_empty(), "{}", self.log());
    }

    /// The program under another name.
    fn called(&self, name: &str) -> PathBuf {
        let link = self.path(name);
        if !link.exists() {
            symlink(env!("CARGO_BIN_EXE_xosfs"), &link).unwrap();
        }
        link
    }
}

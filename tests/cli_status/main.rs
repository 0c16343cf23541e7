//! What an administrator asks a running mount, and what is left of one that died: the real program on the embedded
//! server.
//!
//! Other mounts of this user may exist while the tests run: what lists all of them is only asked for its own.
#![cfg(feature = "demo")]

mod doctor;
mod figures;
mod journal;
#[path = "../place/mod.rs"]
mod place;

use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use place::{PATIENCE, Place, Ran, run, set_keys, xosfs};
use serde_json::Value;
use xosfs::demo::Server;

impl Ran {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

impl Place {
    fn options(&self, server: &Server, more: &str) -> String {
        let comma = if more.is_empty() { "" } else { "," };
        let path = |name: &str| self.path(name).display().to_string();
        let dirs = format!("staging_dir={},state_dir={},log={}", path("staging"), path("state"), path("log"));
        format!("endpoint={},{dirs}{comma}{more}", server.endpoint())
    }

    fn mount_command(&self, server: &Server, source: &str, more: &str) -> Command {
        let mut mount = xosfs();
        set_keys(&mut mount, server);
        mount.args(["mount", source]).arg(&self.dir).arg("-o").arg(self.options(server, more));
        mount
    }

    /// `xosfs COMMAND DIR ARGS…`.
    #[track_caller]
    fn ask(&self, name: &str, args: &[&str]) -> Ran {
        run(xosfs().args(name.split(' ')).arg(&self.dir).args(args))
    }

    /// The figures of this mount.
    #[track_caller]
    fn status(&self) -> Value {
        let ran = self.ask("status", &["--json"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran.json()["mounts"][0].clone()
    }

    #[track_caller]
    fn umount(&self) {
        let ran = self.ask("umount", &[]);
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{}", self.log());
    }

    /// Ends the daemon as a crash would.
    fn crash(&self) {
        let state = self.state().expect("a daemon lives");
        kill(Pid::from_raw(state.pid), Signal::SIGKILL).unwrap();
        assert!(state.wait(PATIENCE));
    }
}

//! `xosfs umount`: unmounts, waits for the daemon to store what is left, and tells what it could not store.
//!
//! 1. Unmounting by path returns while the daemon may still be storing: its record (see [`crate::daemon::state`])
//!    says which process to wait for and, after its end, what is lost.
//! 2. A killed daemon leaves a dead mount: nothing to wait for, it is only taken away.
//! 3. A daemon may live without a record that can be found: one of a user without a home, or of another user. Its
//!    mount is not torn from it, and whoever unmounts is told that nobody has waited.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Failure, UmountArgs};
use crate::daemon::state::State;
use crate::error::Kind;
use crate::fuse::mountinfo::{self, Entry};
use crate::fuse::{session, target};

/// What a daemon may need after its own deadline.
const GRACE: Duration = Duration::from_secs(30);

pub(super) fn run(args: &UmountArgs) -> Result<(), Failure> {
    let dir = target::resolve(&args.dir)?;
    umount(&dir, args.force, args.timeout.map(Duration::from_secs))
}

pub(super) fn umount(dir: &Path, force: bool, timeout: Option<Duration>) -> Result<(), Failure> {
    let shown = dir.display();
    let entry = mountinfo::top_at(dir).map_err(|e| Failure::Failed(format!("read /proc/self/mountinfo: {e}")))?;
    let alive = State::read(dir).filter(State::is_alive);
    let abandoned = alive.is_none() && entry.as_ref().is_some_and(Entry::is_ours) && target::is_abandoned(dir);
    match entry {
        Some(entry) if entry.is_ours() => match session::unmount_path(dir, abandoned) {
            Ok(()) => {}
            Err(e) if e.kind() == Kind::Busy && !force => {
                return Err(Failure::Failed(format!(
                    "{shown} is in use (`fuser -vm {shown}` lists by whom); end those programs, or use --force"
                )));
            }
            // The daemon stores first and then unmounts, used or not.
            Err(e) if e.kind() == Kind::Busy => match &alive {
                Some(state) => kill(Pid::from_raw(state.pid), Signal::SIGTERM)
                    .map_err(|e| Failure::Failed(format!("signal to process {}: {e}", state.pid)))?,
                None => session::unmount_path(dir, true)?,
            },
            Err(e) => return Err(e.into()),
        },
        // Unmounted a moment ago; its process is still storing.
        None if alive.is_some() => {}
        Some(entry) => {
            let what = format!("{shown} is a mount of {} ({}), not of xosfs; use umount", entry.source, entry.fs_type);
            return Err(Failure::Failed(what));
        }
        None => return Err(Failure::Failed(format!("{shown} is not mounted"))),
    }
    let Some(state) = alive else {
        if !abandoned {
            eprintln!("xosfs: warning: no record of the process behind {shown}; not waited until all is stored");
        }
        // Left by a daemon that was killed.
        if let Some(state) = State::read(dir) {
            state.remove();
        }
        return Ok(());
    };
    let patience = timeout.unwrap_or(Duration::from_secs(state.shutdown_timeout) + GRACE);
    if !state.wait(patience) {
        if force && mountinfo::top_at(dir).ok().flatten().is_some_and(|e| e.is_ours()) {
            session::unmount_path(dir, true)?;
        }
        let seconds = patience.as_secs();
        return Err(Failure::Failed(format!("process {} is still storing after {seconds} s", state.pid)));
    }
    report(dir)
}

/// What the daemon could not store, once.
fn report(dir: &Path) -> Result<(), Failure> {
    let Some(state) = State::read(dir).filter(|s| !s.unstored.is_empty()) else { return Ok(()) };
    for (key, reason) in &state.unstored {
        eprintln!("xosfs: not stored: {key}: {reason}");
    }
    state.remove();
    Err(Failure::Failed(format!("{} files of {} could not be stored", state.unstored.len(), state.source)))
}

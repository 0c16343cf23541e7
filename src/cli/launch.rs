//! Starts this program once more as a daemon in the background and waits for its answer.
//!
//! 1. A process with threads cannot be forked safely: a new one is started instead, with the arguments of this one.
//! 2. Its standard output is a pipe to here. One line comes through it (see [`crate::daemon::report`]); when the
//!    pipe closes without one, the daemon has died and its exit status is all there is to tell.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::Failure;
use crate::daemon::report::{ALREADY, FAILED, READY};

/// What a daemon that is up has said.
#[derive(Debug)]
pub(super) enum Answer {
    Ready(String),
    Already(String),
}

/// This program's file: the daemon is then called `xosfs` in process lists, however this one was started.
fn program() -> PathBuf {
    // After an upgrade the file may be another one or gone; the kernel still has the one that runs.
    std::env::current_exe().ok().filter(|p| p.is_file()).unwrap_or_else(|| "/proc/self/exe".into())
}

/// Starts `xosfs ARGS…` with additional variables in its environment.
pub(super) fn launch(args: &[OsString], env: &[(&str, &str)], patience: Duration) -> Result<Answer, Failure> {
    let mut command = Command::new(program());
    command.arg0("xosfs").args(args).envs(env.iter().copied());
    // A background daemon is no unit's main process: it must not talk to the service manager in that name.
    command.env_remove("NOTIFY_SOCKET");
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|e| Failure::Failed(format!("start of {}: {e}", program().display())))?;
    let result = answer(&mut child, patience);
    if result.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    result
}

fn answer(child: &mut Child, patience: Duration) -> Result<Answer, Failure> {
    let pipe = child.stdout.take().ok_or_else(|| Failure::Failed("the daemon has no standard output".into()))?;
    let (send, receive) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(pipe).read_line(&mut line);
        let _ = send.send(read.map(|_| line));
    });
    let line = match receive.recv_timeout(patience) {
        Ok(Ok(line)) => line,
        Ok(Err(e)) => return Err(Failure::Failed(format!("no answer from the daemon: {e}"))),
        Err(_) => {
            let seconds = patience.as_secs();
            return Err(Failure::Failed(format!("no answer from the daemon within {seconds} s; it is ended")));
        }
    };
    let line = line.trim_end();
    let (word, text) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        READY => Ok(Answer::Ready(text.to_owned())),
        ALREADY => Ok(Answer::Already(text.to_owned())),
        FAILED => Err(Failure::Failed(text.to_owned())),
        _ => {
            let how = child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
            Err(Failure::Failed(format!("the daemon ended without an answer ({how}); try again with --foreground")))
        }
    }
}

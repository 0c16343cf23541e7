//! The one answer that whoever started the daemon waits for.
//!
//! 1. In the background the answer goes through standard output, which is a pipe that the launcher reads; afterwards
//!    the daemon cuts itself off from the terminal. Standard error stays the launcher's until then.
//! 2. A service manager gets its answer over the socket of sd_notify(3).

use std::fs::File;
use std::io::{self, Write};

use sd_notify::NotifyState;

use super::Request;
use crate::config::options::Log;

/// First words of the line in the pipe.
pub const READY: &str = "ready";
pub const ALREADY: &str = "already";
pub const FAILED: &str = "failed";

/// Where the answer goes.
#[derive(Debug)]
pub struct Report {
    pipe: bool,
}

impl Report {
    /// Somebody sees our standard error.
    pub fn foreground() -> Report {
        Report { pipe: false }
    }

    /// Our standard output is the launcher's pipe. Leaves the session of the terminal.
    pub fn background() -> Report {
        // Fails only for the leader of a process group, which a child of the launcher is not; and then a hang-up of
        // the terminal ends us in order.
        let _ = nix::unistd::setsid();
        let _ = std::env::set_current_dir("/");
        Report { pipe: true }
    }

    fn say(&self, word: &str, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{word} {}", text.replace('\n', " "))?;
        out.flush()
    }

    /// For who is at the terminal, and for the log.
    pub fn warn(&mut self, text: &str) {
        tracing::warn!("{text}");
        if self.pipe {
            let _ = writeln!(io::stderr(), "xosfs: warning: {text}");
        }
    }

    /// The mount answers. In the background this cuts the terminal off.
    pub fn ready(&mut self, request: &Request) -> io::Result<()> {
        notify(&[NotifyState::Ready, NotifyState::Status(&format!("{request}"))]);
        if std::mem::take(&mut self.pipe) {
            self.say(READY, &request.to_string())?;
            cut_off(request.options.log != Log::Stderr)?;
        }
        Ok(())
    }

    pub fn already(&mut self, request: &Request) {
        let text = format!("{request} is mounted already");
        if std::mem::take(&mut self.pipe) {
            let _ = self.say(ALREADY, &text);
        } else {
            let _ = writeln!(io::stderr(), "xosfs: {text}");
        }
    }

    /// Nothing is mounted. True when somebody was told.
    pub fn failed(&mut self, text: &str) -> bool {
        notify(&[NotifyState::Status(text)]);
        std::mem::take(&mut self.pipe) && self.say(FAILED, text).is_ok()
    }

    pub fn stopping(&mut self) {
        notify(&[NotifyState::Stopping, NotifyState::Status("storing what is left")]);
    }
}

fn notify(states: &[NotifyState]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::debug!("sd_notify: {e}");
    }
}

fn cut_off(stderr_too: bool) -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    if stderr_too {
        nix::unistd::dup2_stderr(&null)?;
    }
    Ok(())
}

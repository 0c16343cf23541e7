//! Mounting and unmounting without root, through the setuid program `fusermount3`.
//!
//! 1. It hands the open `/dev/fuse` back over a socket whose number stands in `_FUSE_COMMFD`. The socket is given as
//!    its standard input: the only descriptor a child can get without leaking it into other children.
//! 2. It may hang (an unreachable directory), so it gets a deadline.

use std::ffi::OsStr;
use std::io::{self, IoSliceMut, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg, socketpair,
};

use crate::error::{Error, Kind, Result};

const PROGRAMS: [&str; 2] = ["fusermount3", "fusermount"];
const PATIENCE: Duration = Duration::from_secs(30);

fn spawn(set_up: impl Fn(&mut Command) -> io::Result<()>) -> Result<Child> {
    let failed = |e: io::Error| Error::new(Kind::Io, format!("run fusermount3: {e}"));
    for program in PROGRAMS {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        set_up(&mut command).map_err(failed)?;
        match command.spawn() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            child => return child.map_err(failed),
        }
    }
    Err(Error::new(Kind::Unsupported, "fusermount3 is not installed, and only root mounts without it")
        .with_fix("install the package fuse3, or mount as root"))
}

/// The exit status and what was said on stderr, as one line.
fn finish(mut child: Child) -> Result<(ExitStatus, String)> {
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(Error::new(Kind::Timeout, "fusermount3 does not come to an end"));
            }
            Err(e) => return Err(Error::new(Kind::Io, format!("wait for fusermount3: {e}"))),
        }
    };
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(4096).read_to_string(&mut said);
    }
    Ok((status, said.split_whitespace().collect::<Vec<_>>().join(" ")))
}

fn explain(said: &str) -> Error {
    if said.contains("user_allow_other") {
        Error::new(Kind::NotPermitted, "allow_other is not permitted to users of this machine")
            .with_fix("add the line `user_allow_other` to /etc/fuse.conf, or mount with allow_other=false")
    } else if said.contains("/dev/fuse") && said.contains("Permission denied") {
        Error::new(Kind::Unsupported, said).with_fix("let users open it: chmod 666 /dev/fuse; or mount as root")
    } else if said.contains("/dev/fuse") {
        Error::new(Kind::Unsupported, said)
            .with_fix("load the kernel module fuse, or give the container --device /dev/fuse")
    } else {
        let said = if said.is_empty() { "fusermount3 failed without a reason" } else { said };
        Error::new(Kind::NotPermitted, said)
    }
}

/// Mounts on `dir`; `options` is the whole `-o` list, already escaped.
pub fn mount(dir: &Path, options: &str) -> Result<OwnedFd> {
    let failed = |e: rustix::io::Errno| Error::new(Kind::Io, format!("talk to fusermount3: {e}"));
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(failed)?;
    let child = spawn(|command| {
        command.stdin(Stdio::from(theirs.try_clone()?)).env("_FUSE_COMMFD", "0");
        command.arg("-o").arg(options).arg("--").arg(dir);
        Ok(())
    })?;
    drop(theirs);
    // The program sends before it ends, and its end closes the other side: after that, receiving cannot block.
    let (status, said) = finish(child)?;
    let mut byte = [0u8; 1];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&ours, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT)
        .map_err(failed)
        .map_err(|e| if status.success() { e } else { explain(&said) })?;
    let received = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    received.ok_or_else(|| explain(&said))
}

/// Unmounts `dir`; `lazy` also when it is in use.
pub fn unmount(dir: &Path, lazy: bool) -> Result<()> {
    let child = spawn(|command| {
        command.arg("-u");
        if lazy {
            command.arg("-z");
        }
        command.arg("--").arg(dir);
        Ok(())
    })?;
    let (status, said) = finish(child)?;
    if status.success() {
        return Ok(());
    }
    if said.contains("busy") {
        return Err(Error::new(Kind::Busy, said));
    }
    Err(explain(&said))
}

/// Escapes what `-o` lists treat specially.
pub fn escape(value: &str) -> String {
    value.chars().flat_map(|c| matches!(c, ',' | '\\').then_some('\\').into_iter().chain([c])).collect()
}

/// Whether the program can be found at all.
pub fn installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| PROGRAMS.iter().any(|p| dir.join(OsStr::new(p)).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_line_to_add() {
        let said = "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf";
        let error = explain(said).to_string();
        assert!(error.contains("add the line `user_allow_other` to /etc/fuse.conf"), "{error}");
        let said = "fusermount3: failed to open /dev/fuse: Permission denied";
        assert!(explain(said).to_string().contains("chmod 666 /dev/fuse"));
        assert_eq!(escape(r"b:/p,q\r"), r"b:/p\,q\\r");
    }
}

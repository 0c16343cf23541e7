//! One mount: from `/dev/fuse` and mount(2) to the threads that serve it, and back.
//!
//! 1. Root mounts by itself, so that `/proc/mounts` has the type `fuse.xosfs` and the source without `fusermount3`.
//!    Everybody else goes through that program.
//! 2. A mount outlives its daemon as a directory that answers ENOTCONN. [`Mounted`] unmounts when it is dropped, so
//!    that no error path leaves one.
//! 3. Somebody may have unmounted, or mounted something else on the directory: only the device number tells whether
//!    the mount at a path is still ours.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::unistd::{Gid, Uid};

pub use fuser::{Filesystem, Notifier};

use super::{fusermount, mountinfo};
use crate::config::options::MountFlags;
use crate::error::{Error, Kind, Result};

/// The type in `/proc/mounts`; also what `mount -t` and fstab name.
pub const FS_TYPE: &str = "fuse.xosfs";
/// KiB that the kernel reads ahead. The untouched 128 halve the throughput of sequential reads; more than 1024 gains
/// nothing at the default size of FUSE requests.
const READ_AHEAD_KB: &str = "1024";
/// More threads than this only pass requests around: all of them just hand over to the runtime.
const THREADS: usize = 2;

/// What to mount and where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `BUCKET[:/PREFIX]`.
    pub source: String,
    /// Absolute and without links: see [`super::target::resolve`].
    pub dir: PathBuf,
    pub read_only: bool,
    pub allow_other: bool,
    pub default_permissions: bool,
    pub flags: MountFlags,
}

/// A mount that this process made. Dropped, it is unmounted.
#[derive(Debug)]
pub struct Mounted {
    dir: PathBuf,
    device: String,
    active: bool,
}

/// How a mount ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Unmounted,
    /// Still in use somewhere; gone from the tree of directories.
    Detached,
    /// Somebody else had unmounted it.
    Before,
}

impl Plan {
    fn ms_flags(&self) -> MsFlags {
        let f = &self.flags;
        [
            (self.read_only, MsFlags::MS_RDONLY),
            (!f.suid, MsFlags::MS_NOSUID),
            (!f.dev, MsFlags::MS_NODEV),
            (f.noexec, MsFlags::MS_NOEXEC),
            (f.noatime, MsFlags::MS_NOATIME),
            (f.nodiratime, MsFlags::MS_NODIRATIME),
            (f.relatime, MsFlags::MS_RELATIME),
            (f.sync, MsFlags::MS_SYNCHRONOUS),
            (f.dirsync, MsFlags::MS_DIRSYNC),
        ]
        .into_iter()
        .filter_map(|(on, flag)| on.then_some(flag))
        .collect()
    }

    /// The last argument of mount(2).
    fn data(&self, fd: i32) -> String {
        let (uid, gid) = (Uid::current(), Gid::current());
        let mut data = format!("fd={fd},rootmode=40000,user_id={uid},group_id={gid}");
        for (on, option) in [(self.allow_other, ",allow_other"), (self.default_permissions, ",default_permissions")] {
            if on {
                data.push_str(option);
            }
        }
        for label in &self.flags.labels {
            // Categories of SELinux have commas; the kernel takes them inside quotes.
            let (name, value) = label.split_once('=').unwrap_or((label, ""));
            data.push_str(&format!(",{name}=\"{value}\""));
        }
        data
    }

    /// The `-o` list of fusermount3, which adds descriptor, root mode and ids itself.
    fn fusermount_options(&self) -> String {
        let f = &self.flags;
        let mut options = vec![format!("fsname={}", fusermount::escape(&self.source)), "subtype=xosfs".to_owned()];
        for (on, option) in [
            (self.read_only, "ro"),
            (!f.suid, "nosuid"),
            (!f.dev, "nodev"),
            (f.noexec, "noexec"),
            (f.noatime, "noatime"),
            (f.nodiratime, "nodiratime"),
            (f.sync, "sync"),
            (f.dirsync, "dirsync"),
            (self.allow_other, "allow_other"),
            (self.default_permissions, "default_permissions"),
        ] {
            if on {
                options.push(option.to_owned());
            }
        }
        options.extend(f.labels.iter().map(|l| fusermount::escape(l)));
        options.join(",")
    }

    fn mount_directly(&self) -> Result<OwnedFd, Error> {
        let dev = fs::File::options().read(true).write(true).open("/dev/fuse").map_err(|e| {
            Error::new(Kind::Unsupported, format!("open /dev/fuse: {e}"))
                .with_fix("load the kernel module (modprobe fuse), or give the container --device /dev/fuse")
        })?;
        let fd = OwnedFd::from(dev);
        let data = self.data(fd.as_raw_fd());
        nix::mount::mount(Some(self.source.as_str()), &self.dir, Some(FS_TYPE), self.ms_flags(), Some(data.as_str()))
            .map_err(|e| self.explain(e))?;
        Ok(fd)
    }

    fn explain(&self, errno: Errno) -> Error {
        let what = format!("mount on {}: {}", self.dir.display(), errno.desc());
        match errno {
            Errno::EPERM | Errno::EACCES => Error::new(Kind::NotPermitted, what).with_fix(
                "needs CAP_SYS_ADMIN: run as root, or the container with --cap-add SYS_ADMIN --device /dev/fuse",
            ),
            Errno::ENODEV => Error::new(Kind::Unsupported, what).with_fix("this kernel has no FUSE: modprobe fuse"),
            Errno::EINVAL => {
                Error::new(Kind::Invalid, what).with_fix("check `context` and the other kernel flags in -o")
            }
            Errno::EBUSY => Error::new(Kind::Busy, what),
            _ => Error::new(Kind::Io, what),
        }
    }

    /// Mounts, and gives the descriptor that requests arrive on. From here on every access to the directory waits for
    /// [`serve`].
    pub fn mount(&self) -> Result<(OwnedFd, Mounted)> {
        let fd = if Uid::effective().is_root() {
            match self.mount_directly() {
                // Root of a container without CAP_SYS_ADMIN, where fusermount3 may have it.
                Err(e) if e.kind() == Kind::NotPermitted && fusermount::installed() => {
                    fusermount::mount(&self.dir, &self.fusermount_options()).map_err(|_| e)?
                }
                result => result?,
            }
        } else {
            fusermount::mount(&self.dir, &self.fusermount_options())?
        };
        let device = match mountinfo::top_at(&self.dir) {
            Ok(Some(entry)) if entry.is_ours() => entry.device,
            found => {
                let _ = unmount_path(&self.dir, true);
                let what = format!("{} is not in the mount table after mounting: {found:?}", self.dir.display());
                return Err(Error::new(Kind::Io, what));
            }
        };
        Ok((fd, Mounted { dir: self.dir.clone(), device, active: true }))
    }
}

/// Unmounts whatever is on top at `dir`. `lazy` also when it is in use.
///
/// Errors: [`Kind::Busy`], [`Kind::NotPermitted`], [`Kind::NotFound`] when nothing is mounted there.
pub fn unmount_path(dir: &Path, lazy: bool) -> Result<()> {
    let flags = if lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() } | MntFlags::UMOUNT_NOFOLLOW;
    let what = |e: Errno| format!("unmount {}: {}", dir.display(), e.desc());
    match umount2(dir, flags) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => fusermount::unmount(dir, lazy),
        Err(e @ Errno::EBUSY) => Err(Error::new(Kind::Busy, what(e))),
        Err(e @ (Errno::EINVAL | Errno::ENOENT)) => Err(Error::new(Kind::NotFound, what(e))),
        Err(e) => Err(Error::new(Kind::Io, what(e))),
    }
}

impl Mounted {
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its number, as in /proc/PID/mountinfo.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Raises the kernel's read-ahead. Only after [`serve`]: the answer to the kernel's greeting lowers it.
    pub fn raise_read_ahead(&self) {
        // Only root may, and old kernels have no such file: reading ahead ourselves has to do then.
        if let Err(e) = fs::write(format!("/sys/class/bdi/{}/read_ahead_kb", self.device), READ_AHEAD_KB) {
            tracing::debug!("read-ahead of the kernel stays as it is: {e}");
        }
    }

    /// Unmounts, lazily when it is in use. Blocks; the session has to be served meanwhile.
    pub fn unmount(mut self) -> Result<Ended> {
        self.end()
    }

    fn end(&mut self) -> Result<Ended> {
        if !std::mem::take(&mut self.active) {
            return Ok(Ended::Before);
        }
        let all = mountinfo::all().map_err(|e| Error::new(Kind::Io, format!("read /proc/self/mountinfo: {e}")))?;
        let mut here = all.iter().filter(|e| e.dir == self.dir);
        if !here.any(|e| e.device == self.device) {
            return Ok(Ended::Before);
        }
        if here.next().is_some() {
            let what = format!("{} is covered by another mount", self.dir.display());
            return Err(Error::new(Kind::Busy, what).with_fix("unmount that one, then this one with umount"));
        }
        match unmount_path(&self.dir, false) {
            Ok(()) => Ok(Ended::Unmounted),
            Err(e) if e.kind() == Kind::Busy => unmount_path(&self.dir, true).map(|()| Ended::Detached),
            Err(e) => Err(e),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(e) = self.end() {
            tracing::warn!("{e}");
        }
    }
}

/// The threads that serve a mount.
pub struct Session {
    /// Tells the kernel to forget what it has cached.
    pub notifier: Notifier,
    ended: tokio::sync::oneshot::Receiver<io::Result<()>>,
}

impl Session {
    /// Waits until the mount is gone. Cancel-safe.
    pub async fn ended(&mut self) -> io::Result<()> {
        (&mut self.ended).await.unwrap_or_else(|_| Err(io::Error::other("the threads of the mount ended in a panic")))
    }
}

/// Answers the kernel's greeting, then serves requests on threads of its own until the mount is gone. Blocks for the
/// greeting, which the kernel has sent by the time mount(2) returns.
pub fn serve<F: Filesystem + Send + 'static>(filesystem: F, fd: OwnedFd) -> Result<Session> {
    let mut config = fuser::Config::default();
    config.n_threads = Some(THREADS);
    // Without a descriptor of its own for each, the threads wait for each other.
    config.clone_fd = true;
    // Who may come in is decided by the kernel (allow_other), which also knows root.
    let failed = |e: io::Error| Error::new(Kind::Io, format!("start of the FUSE session: {e}"));
    let session = fuser::Session::from_fd(filesystem, fd, fuser::SessionACL::All, config).map_err(failed)?;
    let notifier = session.notifier();
    let (send, ended) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("fuse".into())
        .spawn(move || {
            let _ = send.send(session.run());
        })
        .map_err(failed)?;
    Ok(Session { notifier, ended })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            source: "b:/p,q".into(),
            dir: "/d".into(),
            read_only: true,
            allow_other: true,
            default_permissions: false,
            flags: MountFlags { noexec: true, labels: vec!["context=a:s0:c1,c2".into()], ..MountFlags::default() },
        }
    }

    #[test]
    fn options_reach_the_kernel_either_way() {
        let data = plan().data(7);
        assert!(data.starts_with("fd=7,rootmode=40000,user_id="), "{data}");
        assert!(data.ends_with(",allow_other,context=\"a:s0:c1,c2\""), "{data}");
        let flags = plan().ms_flags();
        assert_eq!(flags, MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC);
        assert_eq!(
            plan().fusermount_options(),
            r"fsname=b:/p\,q,subtype=xosfs,ro,nosuid,nodev,noexec,allow_other,context=a:s0:c1\,c2"
        );
    }
}

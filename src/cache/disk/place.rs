//! The directory of the disk cache and the names in it.
//!
//! 1. Whoever can write here decides what programs on the mount read, and whoever can read here reads the bucket: the
//!    directory has to be ours alone. Everything below is opened relative to a descriptor of it, so that no link planted
//!    on the way leads elsewhere.
//! 2. `objects-1/ab/c/NAME` has the bytes of one version, `NAME.sums` what vouches for them (see [`super::entry`]);
//!    `incoming` has what is being uploaded and has no ETag yet.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, StatVfs};

use crate::error::{Error, Kind, Result};

/// The number changes with the format: another one is another cache.
const OBJECTS: &str = "objects-1";
const INCOMING: &str = "incoming-1";
/// Behind the name of what vouches for the bytes.
pub(super) const SUMS: &str = ".sums";

const FLAGS: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);
const PRIVATE: Mode = Mode::from_raw_mode(0o600);
const PRIVATE_DIR: Mode = Mode::from_raw_mode(0o700);

/// An open cache directory.
pub(super) struct Place {
    root: OwnedFd,
    objects: OwnedFd,
    incoming: OwnedFd,
}

/// Something found by a walk.
pub(super) struct Found {
    /// Without [`SUMS`].
    pub name: String,
    /// Bytes that it takes on the disk.
    pub bytes: u64,
    /// When it was last used, seconds since 1970.
    pub used: i64,
}

/// Why a cache directory is not taken, whatever the disk does later.
///
/// Errors: [`Kind::NotPermitted`] for a directory that is not ours alone, [`Kind::NotDir`]; otherwise what the disk
/// says, as [`Kind::Unavailable`].
pub(super) fn open(dir: &Path) -> Result<Place> {
    let shown = dir.display();
    let failed = |e: io::Error| Error::new(Kind::Unavailable, format!("cache directory {shown}: {e}"));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let wrong = |kind, what: &str, fix: String| {
        Err(Error::new(kind, format!("cache directory {shown} {what}")).with_fix(format!("{fix}, or set `cache_dir`")))
    };
    let root = match rustix::fs::open(dir, FLAGS | OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()) {
        Ok(root) => root,
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => {
            return wrong(Kind::NotDir, "is a link or a file", format!("remove {shown}"));
        }
        Err(e) => return Err(failed(e.into())),
    };
    let stat = rustix::fs::fstat(&root).map_err(|e| failed(e.into()))?;
    let me = nix::unistd::Uid::effective().as_raw();
    if stat.st_uid != me {
        return wrong(Kind::NotPermitted, "belongs to somebody else", format!("chown {me} {shown}"));
    }
    if stat.st_mode & 0o077 != 0 {
        return wrong(Kind::NotPermitted, "is open to other users", format!("chmod 700 {shown}"));
    }
    let below = |name: &str| subdirectory(&root, name).map_err(|e| failed(e.into()));
    let (objects, incoming) = (below(OBJECTS)?, below(INCOMING)?);
    Ok(Place { root, objects, incoming })
}

/// A directory, made when it is missing.
fn subdirectory(at: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
    let open = || rustix::fs::openat(at, name, FLAGS | OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty());
    match open() {
        Err(rustix::io::Errno::NOENT) => {
            match rustix::fs::mkdirat(at, name, PRIVATE_DIR) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(e) => return Err(e),
            }
            open()
        }
        done => done,
    }
}

/// `ab/c/NAME`. Names are hexadecimal.
fn below(name: &str) -> String {
    format!("{}/{}/{name}", name.get(..2).unwrap_or("00"), name.get(2..3).unwrap_or("0"))
}

impl Place {
    /// An object's file, or the sums of one. `create`: made when it is missing, empty.
    pub fn file(&self, name: &str, create: bool) -> io::Result<File> {
        let path = below(name);
        if !create {
            return Ok(rustix::fs::openat(&self.objects, &path, FLAGS | OFlags::RDWR, Mode::empty())
                // A cache that became read-only can still be read.
                .or_else(|e| match e {
                    rustix::io::Errno::ROFS => {
                        rustix::fs::openat(&self.objects, &path, FLAGS | OFlags::RDONLY, Mode::empty())
                    }
                    e => Err(e),
                })?
                .into());
        }
        let open = || rustix::fs::openat(&self.objects, &path, FLAGS | OFlags::RDWR | OFlags::CREATE, PRIVATE);
        match open() {
            Err(rustix::io::Errno::NOENT) => {
                self.make_way(name)?;
                Ok(open()?.into())
            }
            done => Ok(done?.into()),
        }
    }

    fn make_way(&self, name: &str) -> io::Result<()> {
        let first = subdirectory(&self.objects, name.get(..2).unwrap_or("00"))?;
        subdirectory(&first, name.get(2..3).unwrap_or("0"))?;
        Ok(())
    }

    pub fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.objects, below(name), AtFlags::empty())?)
    }

    /// Gives an object's file, or the sums of one, another name.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let rename = || rustix::fs::renameat(&self.objects, below(from), &self.objects, below(to));
        match rename() {
            Err(rustix::io::Errno::NOENT) => {
                self.make_way(to)?;
                Ok(rename()?)
            }
            done => Ok(done?),
        }
    }

    /// A new file for bytes whose version is not known yet.
    pub fn incoming(&self, name: &str) -> io::Result<File> {
        let flags = FLAGS | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        Ok(rustix::fs::openat(&self.incoming, name, flags, PRIVATE)?.into())
    }

    pub fn remove_incoming(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.incoming, name, AtFlags::empty())?)
    }

    /// Gives what came in its place among the objects.
    pub fn arrive(&self, incoming: &str, name: &str) -> io::Result<()> {
        let rename = || rustix::fs::renameat(&self.incoming, incoming, &self.objects, below(name));
        match rename() {
            Err(rustix::io::Errno::NOENT) => {
                self.make_way(name)?;
                Ok(rename()?)
            }
            done => Ok(done?),
        }
    }

    /// The file system it is on.
    pub fn file_system(&self) -> io::Result<StatVfs> {
        Ok(rustix::fs::fstatvfs(&self.root)?)
    }

    /// Every version below the objects, with what vouches for it; of what a crash left alone, either half. What
    /// disappears meanwhile is left out. `each` ends the walk with `false`.
    pub fn walk(&self, each: &mut dyn FnMut(Found) -> bool) -> io::Result<()> {
        for first in names(&self.objects)? {
            let Ok(first) = enter(&self.objects, &first) else { continue };
            for second in names(&first).unwrap_or_default() {
                let Ok(second) = enter(&first, &second) else { continue };
                for found in versions(&second) {
                    if !each(found) {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Every file that is coming in.
    pub fn walk_incoming(&self) -> io::Result<Vec<Found>> {
        Ok(names(&self.incoming)?.into_iter().filter_map(|name| look(&self.incoming, name)).collect())
    }
}

fn enter(at: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(at, name, FLAGS | OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())
}

/// Names in a directory. Whole, because it has few hundreds: deleting while reading may skip some.
fn names(dir: &OwnedFd) -> io::Result<Vec<String>> {
    let mut all = Vec::new();
    for entry in Dir::read_from(dir)? {
        if let Ok(name) = entry?.file_name().to_str()
            && name != "."
            && name != ".."
        {
            all.push(name.to_owned());
        }
    }
    Ok(all)
}

/// The two halves of versions put together.
fn versions(dir: &OwnedFd) -> Vec<Found> {
    let mut all: HashMap<String, Found> = HashMap::new();
    for found in names(dir).unwrap_or_default().into_iter().filter_map(|name| look(dir, name)) {
        let (name, used) = match found.name.strip_suffix(SUMS) {
            Some(name) => (name.to_owned(), i64::MIN),
            None => (found.name, found.used),
        };
        let whole = all.entry(name.clone()).or_insert(Found { name, bytes: 0, used: i64::MIN });
        whole.bytes += found.bytes;
        whole.used = whole.used.max(used);
    }
    all.into_values().collect()
}

fn look(dir: &OwnedFd, name: String) -> Option<Found> {
    let stat = rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    // 512 whatever the file system's blocks are: stat(2).
    Some(Found { name, bytes: u64::try_from(stat.st_blocks).unwrap_or(0) * 512, used: stat.st_mtime })
}

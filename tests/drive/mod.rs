//! The same file operations on a directory (a mount, or a local disk) and on the file system without a kernel.
//!
//! 1. Whatever is proved by a sequence of operations is proved twice: over a mount with the kernel's page cache and
//!    its own order of calls, and over the library, where thousands of sequences fit into a minute.
//! 2. Errors are errno numbers, because that is what an application sees.
//! 3. Nothing waits for ever: an operation of the library that takes longer than [`DEADLINE`] is a failed test. Mounts
//!    have their watchdog.

#![allow(dead_code)]

use std::ffi::OsStr;
use std::fs::File;
use std::future::Future;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle as Runtime;

use xosfs::budget::Budget;
use xosfs::cache::BlockCache;
use xosfs::config::credentials::Credentials;
use xosfs::config::{Options, Provider, Source};
use xosfs::daemon::{connect, volume};
use xosfs::demo::Server;
use xosfs::fs::file::{OpenMode, WriteMode};
use xosfs::fs::setattr::Change;
use xosfs::fs::{Entry, Fh, FileKind, Fs, Ino, Lookup, ROOT};
use xosfs::key::Name;
use xosfs::read::{ReadSettings, Reads};
use xosfs::s3::S3;
use xosfs::write::{Limits, WriteSettings, Writes};
use xosfs::{Error, Kind};

/// Longest time of one operation.
pub const DEADLINE: Duration = Duration::from_secs(60);
const OWNER: (u32, u32) = (0, 0);

pub type Outcome<T> = Result<T, i32>;

/// An open file of either kind.
pub enum Handle {
    File(File),
    /// With the flags it was opened with.
    Fs(Fh, Ino, i32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Of files; 0 of directories.
    pub size: u64,
    pub perm: u32,
    pub is_dir: bool,
}

/// File operations by paths relative to the root.
pub trait Drive: Send + Sync {
    /// `flags` of open(2).
    fn open(&self, path: &str, flags: i32) -> Outcome<Handle>;
    fn read_at(&self, file: &Handle, at: u64, len: usize) -> Outcome<Vec<u8>>;
    /// At the end when the handle was opened with O_APPEND.
    fn write_at(&self, file: &Handle, at: u64, bytes: &[u8]) -> Outcome<()>;
    /// Through a shared mapping; `at + len` is within the file, and the handle reads and writes.
    fn write_mapped(&self, file: &Handle, at: u64, bytes: &[u8]) -> Outcome<()>;
    fn set_len(&self, file: &Handle, size: u64) -> Outcome<()>;
    fn fallocate(&self, file: &Handle, mode: i32, at: u64, len: u64) -> Outcome<()>;
    /// Bytes copied; short at the end of the source.
    fn copy_range(&self, from: &Handle, at: u64, to: &Handle, to_at: u64, len: usize) -> Outcome<usize>;
    fn fsync(&self, file: &Handle) -> Outcome<()>;
    /// The answer of close(2); the handle is gone either way.
    fn close(&self, file: Handle) -> Outcome<()>;
    fn truncate(&self, path: &str, size: u64) -> Outcome<()>;
    fn rename(&self, from: &str, to: &str) -> Outcome<()>;
    fn unlink(&self, path: &str) -> Outcome<()>;
    fn mkdir(&self, path: &str) -> Outcome<()>;
    fn rmdir(&self, path: &str) -> Outcome<()>;
    fn symlink(&self, target: &str, path: &str) -> Outcome<()>;
    fn readlink(&self, path: &str) -> Outcome<String>;
    fn chmod(&self, path: &str, mode: u32) -> Outcome<()>;
    fn stat(&self, path: &str) -> Outcome<Stat>;
    /// Names in order.
    fn list(&self, path: &str) -> Outcome<Vec<String>>;

    fn read(&self, path: &str) -> Outcome<Vec<u8>> {
        let file = self.open(path, libc::O_RDONLY)?;
        let mut all = Vec::new();
        let read = loop {
            match self.read_at(&file, all.len() as u64, 128 << 10) {
                Ok(more) if more.is_empty() => break Ok(()),
                Ok(more) => all.extend_from_slice(&more),
                Err(e) => break Err(e),
            }
        };
        self.close(file)?;
        read.map(|()| all)
    }
}

fn code(e: std::io::Error) -> i32 {
    e.raw_os_error().unwrap_or(libc::EIO)
}

fn file_of(handle: &Handle) -> &File {
    match handle {
        Handle::File(file) => file,
        Handle::Fs(..) => panic!("a handle of the other kind"),
    }
}

/// A directory of the kernel's.
pub struct Directory(pub PathBuf);

impl Drive for Directory {
    fn open(&self, path: &str, flags: i32) -> Outcome<Handle> {
        let path = self.0.join(path);
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o644);
        let flags = nix::fcntl::OFlag::from_bits_retain(flags | libc::O_CLOEXEC);
        match nix::fcntl::open(&path, flags, mode) {
            Ok(fd) => Ok(Handle::File(File::from(fd))),
            Err(e) => Err(e as i32),
        }
    }

    fn read_at(&self, file: &Handle, at: u64, len: usize) -> Outcome<Vec<u8>> {
        let mut buffer = vec![0; len];
        let mut n = 0;
        while n < len {
            match file_of(file).read_at(&mut buffer[n..], at + n as u64).map_err(code)? {
                0 => break,
                more => n += more,
            }
        }
        buffer.truncate(n);
        Ok(buffer)
    }

    fn write_at(&self, file: &Handle, at: u64, bytes: &[u8]) -> Outcome<()> {
        file_of(file).write_all_at(bytes, at).map_err(code)
    }

    fn write_mapped(&self, file: &Handle, at: u64, bytes: &[u8]) -> Outcome<()> {
        let start = at / 4096 * 4096;
        let len = (at - start) as usize + bytes.len();
        let last = || Err(code(std::io::Error::last_os_error()));
        // SAFETY: a fresh mapping of a range inside the file, which nobody cuts meanwhile; unmapped before it is left.
        unsafe {
            let (mode, fd) = (libc::PROT_READ | libc::PROT_WRITE, file_of(file).as_raw_fd());
            let map = libc::mmap(std::ptr::null_mut(), len, mode, libc::MAP_SHARED, fd, start as i64);
            if map == libc::MAP_FAILED {
                return last();
            }
            let to = map.cast::<u8>().add((at - start) as usize);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
            let synced = if libc::msync(map, len, libc::MS_SYNC) == 0 { Ok(()) } else { last() };
            libc::munmap(map, len);
            synced
        }
    }

    fn set_len(&self, file: &Handle, size: u64) -> Outcome<()> {
        file_of(file).set_len(size).map_err(code)
    }

    fn fallocate(&self, file: &Handle, mode: i32, at: u64, len: u64) -> Outcome<()> {
        let flags = nix::fcntl::FallocateFlags::from_bits_retain(mode);
        nix::fcntl::fallocate(file_of(file), flags, at as i64, len as i64).map_err(|e| e as i32)
    }

    fn copy_range(&self, from: &Handle, at: u64, to: &Handle, to_at: u64, len: usize) -> Outcome<usize> {
        let (mut at, mut to_at, mut done) = (at as i64, to_at as i64, 0);
        while done < len {
            let (from, to) = (file_of(from).as_raw_fd(), file_of(to).as_raw_fd());
            // SAFETY: two open descriptors and two positions of our own.
            match unsafe { libc::copy_file_range(from, &mut at, to, &mut to_at, len - done, 0) } {
                // A short one is the end of the source, which a copy within the file moves.
                n if (0..(len - done) as isize).contains(&n) => return Ok(done + n as usize),
                n if n > 0 => done += n as usize,
                _ => return Err(code(std::io::Error::last_os_error())),
            }
        }
        Ok(done)
    }

    fn fsync(&self, file: &Handle) -> Outcome<()> {
        file_of(file).sync_all().map_err(code)
    }

    fn close(&self, file: Handle) -> Outcome<()> {
        let Handle::File(file) = file else { panic!("a handle of the other kind") };
        nix::unistd::close(file.into_raw_fd()).map_err(|e| e as i32)
    }

    fn truncate(&self, path: &str, size: u64) -> Outcome<()> {
        nix::unistd::truncate(&self.0.join(path), size as i64).map_err(|e| e as i32)
    }

    fn rename(&self, from: &str, to: &str) -> Outcome<()> {
        std::fs::rename(self.0.join(from), self.0.join(to)).map_err(code)
    }

    fn unlink(&self, path: &str) -> Outcome<()> {
        std::fs::remove_file(self.0.join(path)).map_err(code)
    }

    fn mkdir(&self, path: &str) -> Outcome<()> {
        std::fs::create_dir(self.0.join(path)).map_err(code)
    }

    fn rmdir(&self, path: &str) -> Outcome<()> {
        std::fs::remove_dir(self.0.join(path)).map_err(code)
    }

    fn symlink(&self, target: &str, path: &str) -> Outcome<()> {
        std::os::unix::fs::symlink(target, self.0.join(path)).map_err(code)
    }

    fn readlink(&self, path: &str) -> Outcome<String> {
        std::fs::read_link(self.0.join(path)).map(|p| p.to_string_lossy().into_owned()).map_err(code)
    }

    fn chmod(&self, path: &str, mode: u32) -> Outcome<()> {
        std::fs::set_permissions(self.0.join(path), std::fs::Permissions::from_mode(mode)).map_err(code)
    }

    fn stat(&self, path: &str) -> Outcome<Stat> {
        let m = std::fs::symlink_metadata(self.0.join(path)).map_err(code)?;
        Ok(Stat { size: if m.is_dir() { 0 } else { m.len() }, perm: m.mode() & 0o7777, is_dir: m.is_dir() })
    }

    fn list(&self, path: &str) -> Outcome<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.0.join(path)).map_err(code)? {
            names.push(entry.map_err(code)?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }
}

/// Limits small enough to meet each of them with a few hundred KiB.
pub fn small_limits() -> Limits {
    const KIB: u64 = 1 << 10;
    Limits {
        min_part: 64 * KIB,
        max_part: 8 << 20,
        max_parts: 200,
        part_size: 128 * KIB,
        max_object: 64 << 20,
        single_put: 200 * KIB,
        ..Limits::default()
    }
}

/// How a [`Library`] is built.
#[derive(Clone)]
pub struct Setup {
    /// As of a mount.
    pub options: String,
    pub limits: Limits,
    /// Bytes, as of `memory`, without its lower bound.
    pub memory: usize,
    pub memory_per_file: usize,
    pub stream_after: u64,
    /// Objects larger than this are copied in parts.
    pub copy_threshold: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            options: "retries=1".into(),
            limits: small_limits(),
            memory: 16 << 20,
            memory_per_file: 512 << 10,
            stream_after: 384 << 10,
            copy_threshold: 256 << 10,
        }
    }
}

/// The file system as the kernel drives it, without the kernel.
pub struct Library {
    pub fs: Arc<Fs>,
    runtime: Runtime,
}

impl Library {
    pub fn new(server: &Server, bucket: &str, staging: &std::path::Path, runtime: &Runtime, setup: &Setup) -> Library {
        let _inside = runtime.enter();
        let lists = [
            format!("staging_dir={}", staging.display()),
            format!("endpoint={}", server.endpoint()),
            setup.options.clone(),
        ];
        let source: Source = bucket.parse().unwrap();
        let options = Options::load(&lists, false, &|_| None).unwrap();
        // The keys of the test's environment are not looked at.
        let anonymous = Options { anonymous: true, ..options.clone() };
        let mut settings = connect::settings(&anonymous, &source, &|_| None).unwrap();
        let keys = server.keys();
        settings.credentials = Credentials::fixed(keys.access_key, keys.secret_key, None);
        let s3 = S3::new(settings).unwrap();
        let provider = Provider::find(options.provider, s3.own_endpoint());
        let budget = Budget::new(setup.memory);
        let read = ReadSettings { max_readahead: 256 << 10, patience: options.op_timeout, ..ReadSettings::default() };
        let reads = Reads::new(s3.clone(), BlockCache::new(budget.clone()), read);
        let write = WriteSettings {
            limits: setup.limits.clone(),
            stream_after: setup.stream_after,
            max_uploads: 3,
            staging_dir: staging.to_owned(),
            memory_per_file: setup.memory_per_file,
            patience: options.op_timeout,
            ..WriteSettings::default()
        };
        let writes = Writes::new(s3.clone(), reads.clone(), budget, write);
        let settings = xosfs::fs::Settings {
            attr_delay: Duration::from_millis(20),
            copy_threshold: setup.copy_threshold,
            ..volume::fs_settings(&options, provider, source.prefix)
        };
        Library { fs: Fs::new(s3, reads, writes, settings), runtime: runtime.clone() }
    }

    /// What the end of a mount does; what could not be stored, with the reason.
    pub fn drain(&self) -> Vec<(String, Error)> {
        self.runtime.block_on(self.fs.drain(DEADLINE))
    }

    fn run<T>(&self, what: &str, work: impl Future<Output = xosfs::Result<T>>) -> Outcome<T> {
        let done = self.runtime.block_on(async { tokio::time::timeout(DEADLINE, work).await });
        done.unwrap_or_else(|_| panic!("{what} hangs")).map_err(|e| e.errno())
    }

    fn split(path: &str) -> (&str, &str) {
        path.rsplit_once('/').unwrap_or(("", path))
    }

    async fn find(&self, path: &str) -> xosfs::Result<Option<Entry>> {
        let mut at = self.fs.getattr(ROOT).await?;
        for component in path.split('/').filter(|c| !c.is_empty()) {
            let name = Name::parse(OsStr::new(component))?;
            let found = match self.fs.lookup_now(at.ino, &name) {
                Some(found) => found,
                None => self.fs.lookup(at.ino, &name).await?,
            };
            match found {
                Lookup::Found(entry) => at = entry,
                Lookup::Absent(_) => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    async fn entry(&self, path: &str) -> xosfs::Result<Entry> {
        self.find(path).await?.ok_or_else(|| Error::from(Kind::NotFound))
    }

    async fn place(&self, path: &str) -> xosfs::Result<(Ino, Name)> {
        let (dir, last) = Library::split(path);
        Ok((self.entry(dir).await?.ino, Name::parse(OsStr::new(last))?))
    }
}

fn fh(handle: &Handle) -> Fh {
    match handle {
        Handle::Fs(fh, ..) => *fh,
        Handle::File(_) => panic!("a handle of the other kind"),
    }
}

impl Drive for Library {
    fn open(&self, path: &str, flags: i32) -> Outcome<Handle> {
        self.run("open", async {
            let mode = OpenMode::of_flags(flags);
            let (opened, ino) = match self.find(path).await? {
                Some(_) if flags & libc::O_CREAT != 0 && mode.exclusive => return Err(Kind::Exists.into()),
                Some(entry) => (self.fs.open(entry.ino, mode).await?, entry.ino),
                None if flags & libc::O_CREAT != 0 => {
                    let (dir, name) = self.place(path).await?;
                    let (entry, opened) = self.fs.create(dir, &name, 0o644, OWNER, mode).await?;
                    (opened, entry.ino)
                }
                None => return Err(Kind::NotFound.into()),
            };
            Ok(Handle::Fs(opened.fh, ino, flags))
        })
    }

    fn read_at(&self, file: &Handle, at: u64, len: usize) -> Outcome<Vec<u8>> {
        let fh = fh(file);
        let bytes = match self.fs.read_now(fh, at, len) {
            Some(now) => now.map_err(|e| e.errno())?,
            None => self.run("read", self.fs.read(fh, at, len))?,
        };
        Ok(bytes.to_vec())
    }

    fn write_at(&self, file: &Handle, at: u64, bytes: &[u8]) -> Outcome<()> {
        let Handle::Fs(fh, _, flags) = *file else { panic!("a handle of the other kind") };
        let mode = WriteMode { append: flags & libc::O_APPEND != 0, ..WriteMode::default() };
        match self.fs.write_now(fh, at, bytes, mode) {
            Some(now) => now.map_err(|e| e.errno()),
            None => self.run("write", self.fs.write(fh, at, Bytes::copy_from_slice(bytes), mode)),
        }
    }

    fn write_mapped(&self, file: &Handle, at: u64, bytes: &[u8]) -> Outcome<()> {
        // As the kernel does for msync: the pages, then an fsync.
        self.write_at(file, at, bytes)?;
        self.fsync(file)
    }

    fn set_len(&self, file: &Handle, size: u64) -> Outcome<()> {
        let Handle::Fs(fh, ino, _) = *file else { panic!("a handle of the other kind") };
        self.run("ftruncate", async {
            self.fs.setattr(ino, Some(fh), Change { size: Some(size), ..Change::default() }).await.map(|_| ())
        })
    }

    fn fallocate(&self, file: &Handle, mode: i32, at: u64, len: u64) -> Outcome<()> {
        self.run("fallocate", self.fs.fallocate(fh(file), at, len, mode))
    }

    fn copy_range(&self, from: &Handle, at: u64, to: &Handle, to_at: u64, len: usize) -> Outcome<usize> {
        let mut done = 0;
        while done < len {
            let (from, to) = ((fh(from), at + done as u64), (fh(to), to_at + done as u64));
            match self.run("copy_file_range", self.fs.copy_range(from, to, (len - done) as u64))? {
                n if n < (len - done) as u64 => return Ok(done + n as usize),
                n => done += n as usize,
            }
        }
        Ok(done)
    }

    fn fsync(&self, file: &Handle) -> Outcome<()> {
        self.run("fsync", self.fs.fsync(fh(file)))
    }

    fn close(&self, file: Handle) -> Outcome<()> {
        let fh = fh(&file);
        let answer = self.run("flush", self.fs.flush(fh, std::process::id()));
        // The kernel tells nobody what this one says.
        let _ = self.run("release", self.fs.release(fh));
        answer
    }

    fn truncate(&self, path: &str, size: u64) -> Outcome<()> {
        self.run("truncate", async {
            let ino = self.entry(path).await?.ino;
            self.fs.setattr(ino, None, Change { size: Some(size), ..Change::default() }).await.map(|_| ())
        })
    }

    fn rename(&self, from: &str, to: &str) -> Outcome<()> {
        self.run("rename", async {
            let (a, b) = (self.place(from).await?, self.place(to).await?);
            // The kernel looks both names up first.
            self.entry(from).await?;
            self.find(to).await?;
            self.fs.rename((a.0, &a.1), (b.0, &b.1), false).await
        })
    }

    fn unlink(&self, path: &str) -> Outcome<()> {
        self.run("unlink", async {
            let (dir, name) = self.place(path).await?;
            self.entry(path).await?;
            self.fs.unlink(dir, &name).await
        })
    }

    fn mkdir(&self, path: &str) -> Outcome<()> {
        self.run("mkdir", async {
            let (dir, name) = self.place(path).await?;
            if self.find(path).await?.is_some() {
                return Err(Kind::Exists.into());
            }
            self.fs.mkdir(dir, &name, 0o755, OWNER).await.map(|_| ())
        })
    }

    fn rmdir(&self, path: &str) -> Outcome<()> {
        self.run("rmdir", async {
            let (dir, name) = self.place(path).await?;
            self.entry(path).await?;
            self.fs.rmdir(dir, &name).await
        })
    }

    fn symlink(&self, target: &str, path: &str) -> Outcome<()> {
        self.run("symlink", async {
            let (dir, name) = self.place(path).await?;
            if self.find(path).await?.is_some() {
                return Err(Kind::Exists.into());
            }
            self.fs.symlink(dir, &name, target, OWNER).await.map(|_| ())
        })
    }

    fn readlink(&self, path: &str) -> Outcome<String> {
        self.run("readlink", async {
            let ino = self.entry(path).await?.ino;
            self.fs.readlink(ino).await.map(|t| t.to_string())
        })
    }

    fn chmod(&self, path: &str, mode: u32) -> Outcome<()> {
        self.run("chmod", async {
            let ino = self.entry(path).await?.ino;
            let change = Change { perm: Some(mode as u16), ..Change::default() };
            self.fs.setattr(ino, None, change).await.map(|_| ())
        })
    }

    fn stat(&self, path: &str) -> Outcome<Stat> {
        self.run("stat", async {
            let e = self.entry(path).await?;
            let is_dir = e.attr.kind == FileKind::Dir;
            Ok(Stat { size: if is_dir { 0 } else { e.attr.size }, perm: u32::from(e.attr.perm), is_dir })
        })
    }

    fn list(&self, path: &str) -> Outcome<Vec<String>> {
        self.run("readdir", async {
            let dir = self.entry(path).await?.ino;
            let fh = self.fs.opendir(dir)?;
            let mut names = Vec::new();
            let listed = loop {
                match self.fs.read_directory(fh, names.len() as u64).await {
                    Ok(batch) if batch.items.is_empty() => break Ok(()),
                    Ok(batch) => {
                        for item in &batch.items {
                            self.fs.entry_of_item(dir, item, batch.asked)?;
                            names.push(item.name.as_str().to_owned());
                        }
                    }
                    Err(e) => break Err(e),
                }
            };
            self.fs.handles.remove_dir(fh);
            names.sort();
            listed.map(|()| names)
        })
    }
}

//! System calls on a real mount: what a program gets that uses more of POSIX than open, read, write and close.
//!
//! 1. Where the outcome can be computed, an array of bytes is the oracle; what was stored is read by rclone.
//! 2. A command that is being started holds copies of all descriptors of this process for a moment, and that keeps
//!    files open and mounts busy. So the tests run one at a time, and what wants to see that something is not
//!    stored yet is a process of its own: see [`python`].
//! 3. Calls that Rust's library does not have go through `libc`, with the errno looked at.

#![cfg(feature = "demo")]

#[path = "../common/mod.rs"]
mod common;

mod forks;
mod names;
mod ranges;
mod writing;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use common::{TestMount, TestServer, eventually};

/// A server, and the right to run until the guard is dropped.
fn start() -> (TestServer, MutexGuard<'static, ()>) {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed spoils nothing for the next.
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    (TestServer::start(), guard)
}

/// Bytes that differ from offset to offset.
fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ seed).collect()
}

/// The result of a system call: what it returned, or its errno.
fn called(result: i64) -> Result<i64, i32> {
    if result < 0 { Err(io::Error::last_os_error().raw_os_error().unwrap()) } else { Ok(result) }
}

fn fallocate(file: &File, mode: i32, offset: i64, len: i64) -> Result<i64, i32> {
    // SAFETY: no memory is passed.
    called(i64::from(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) }))
}

fn copy_range(from: &File, mut at: i64, to: &File, mut to_at: i64, len: usize) -> Result<i64, i32> {
    // SAFETY: both offsets live until the call returns.
    called(unsafe { libc::copy_file_range(from.as_raw_fd(), &mut at, to.as_raw_fd(), &mut to_at, len, 0) } as i64)
}

fn read_write(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

fn content(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize + 1];
    let mut at = 0;
    loop {
        match file.read_at(&mut bytes[at..], at as u64).unwrap() {
            0 => break,
            n => at += n,
        }
    }
    bytes.truncate(at);
    bytes
}

/// A shared mapping of the start of a file; unmapped when dropped.
struct Mapping(*mut u8, usize);

impl Mapping {
    fn new(file: &File, len: usize) -> Mapping {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, file.as_raw_fd(), 0) };
        assert_ne!(at, libc::MAP_FAILED, "mmap: {}", io::Error::last_os_error());
        Mapping(at.cast(), len)
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped for as long as `self` lives, and no test touches pages behind the end of the file.
        unsafe { std::slice::from_raw_parts_mut(self.0, self.1) }
    }

    fn sync(&self) {
        // SAFETY: the mapping of this struct.
        called(i64::from(unsafe { libc::msync(self.0.cast(), self.1, libc::MS_SYNC) })).unwrap();
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping of this struct, not used afterwards.
        unsafe { libc::munmap(self.0.cast(), self.1) };
    }
}

/// Runs a Python script in the mount, in a process of its own.
#[track_caller]
fn python(mount: &TestMount, script: &str) {
    mount.sh(&format!("python3 - <<'END'\nimport os\n{script}\nEND"));
}

//! System calls on a real mount: what a program gets that uses more of POSIX than open, read, write and close.
//!
//! 1. Where the outcome can be computed, an array of bytes is the oracle; what was stored is read by rclone.
//! 2. A command that is being started holds copies of all descriptors of this process for a moment, and its closing them
//!    stores files and keeps mounts busy. So the tests run one at a time, and what wants to see that something is not
//!    stored yet is a process of its own: see [`python`].
//! 3. Calls that Rust's library does not have go through `libc`, with the errno looked at.

#![cfg(feature = "demo")]

mod common;

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

// R18
#[test]
fn fallocate_has_the_modes_that_need_no_moving_of_bytes() {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    let (server, _alone) = start();
    let mount = TestMount::new(&server);
    let file = read_write(&mount.join("f"));
    let mut expected = pattern(300_000, 1);
    file.write_all_at(&expected, 0).unwrap();

    assert_eq!(fallocate(&file, KEEP, 200_000, 500_000), Ok(0));
    assert_eq!(content(&file), expected, "KEEP_SIZE changes nothing that can be seen");
    assert_eq!(fallocate(&file, 0, 250_000, 100_000), Ok(0));
    expected.resize(350_000, 0);
    assert_eq!(content(&file), expected, "extended by zeros");
    assert_eq!(fallocate(&file, 0, 10, 10), Ok(0));
    assert_eq!(content(&file), expected, "inside of the file: nothing");
    assert_eq!(fallocate(&file, PUNCH, 100, 70_000), Ok(0));
    expected[100..70_100].fill(0);
    assert_eq!(content(&file), expected, "punched");
    assert_eq!(fallocate(&file, PUNCH, 349_990, 100_000), Ok(0));
    expected[349_990..].fill(0);
    assert_eq!(content(&file), expected, "punched at the end: the size stays");
    assert_eq!(fallocate(&file, ZERO | KEEP, 200_000, 400_000), Ok(0));
    expected[200_000..].fill(0);
    assert_eq!(content(&file), expected, "zeroed, the size kept");
    assert_eq!(fallocate(&file, ZERO, 150_000, 250_001), Ok(0));
    expected[150_000..].fill(0);
    expected.resize(400_001, 0);
    assert_eq!(content(&file), expected, "zeroed and extended");
    for mode in [libc::FALLOC_FL_COLLAPSE_RANGE, libc::FALLOC_FL_INSERT_RANGE, libc::FALLOC_FL_UNSHARE_RANGE] {
        assert_eq!(fallocate(&file, mode, 0, 4096), Err(libc::EOPNOTSUPP), "mode {mode:#x}");
    }
    assert_eq!(fallocate(&file, 0, 0, 0), Err(libc::EINVAL));
    assert_eq!(fallocate(&file, 0, i64::MAX - 5, 5), Err(libc::EFBIG));
    assert_eq!(content(&file), expected, "what fails changes nothing");
    drop(file);
    assert_eq!(server.get("f"), expected);

    // On an object that is stored, and not read before.
    mount.umount();
    let mount = TestMount::new(&server);
    let file = read_write(&mount.join("f"));
    assert_eq!(fallocate(&file, PUNCH, 50, 100), Ok(0));
    expected[50..150].fill(0);
    drop(file);
    assert_eq!(server.get("f"), expected);
    mount.umount();
}

// R100
#[test]
fn copy_file_range_copies_what_the_handle_reads() {
    let (server, _alone) = start();
    let stored = pattern(3_000_000, 2);
    server.put("stored", &stored);
    let mount = TestMount::new(&server);
    let source = File::open(mount.join("stored")).unwrap();
    let target = read_write(&mount.join("target"));
    let mut expected = pattern(1000, 3);
    target.write_all_at(&expected, 0).unwrap();

    assert_eq!(copy_range(&source, 1_000_001, &target, 500, 1_500_000), Ok(1_500_000));
    expected.resize(500, 0);
    expected.extend(&stored[1_000_001..2_500_001]);
    assert_eq!(content(&target), expected, "a stored source");
    assert_eq!(copy_range(&source, 2_999_000, &target, 10_000_000, 1 << 40), Ok(1000), "up to the source's end");
    expected.resize(10_000_000, 0);
    expected.extend(&stored[2_999_000..]);
    assert_eq!(content(&target), expected, "and a hole before it");
    assert_eq!(copy_range(&source, 3_000_000, &target, 0, 10), Ok(0));
    assert_eq!(copy_range(&source, 5_000_000, &target, 0, 10), Ok(0));

    let dirty = read_write(&mount.join("dirty"));
    dirty.write_all_at(&pattern(200_000, 4), 0).unwrap();
    assert_eq!(copy_range(&dirty, 100, &target, 7, 150_000), Ok(150_000));
    expected[7..150_007].copy_from_slice(&pattern(200_000, 4)[100..150_100]);
    assert_eq!(content(&target), expected, "a source that is not stored");
    dirty.write_all_at(&pattern(200_000, 5), 0).unwrap();
    assert_eq!(content(&target), expected, "what was copied does not change with its source");

    assert_eq!(copy_range(&target, 0, &target, 400_000, 300_000), Ok(300_000));
    expected.copy_within(0..300_000, 400_000);
    assert_eq!(content(&target), expected, "within one file");
    assert_eq!(copy_range(&target, 0, &target, 100, 300_000), Err(libc::EINVAL), "overlapping");
    assert_eq!(copy_range(&target, 0, &source, 0, 10), Err(libc::EBADF), "a target open for reading");
    let append = OpenOptions::new().append(true).open(mount.join("target")).unwrap();
    assert_eq!(copy_range(&source, 0, &append, 0, 10), Err(libc::EBADF), "a target that appends");
    drop((append, source, target, dirty));
    assert_eq!(server.get("target"), expected);
    assert_eq!(server.get("dirty"), pattern(200_000, 5));
    mount.umount();
}

// R100
#[test]
fn copy_file_range_sees_mapped_pages_and_changes_them() {
    let (server, _alone) = start();
    let mount = TestMount::new(&server);
    let (from, to) = (read_write(&mount.join("from")), read_write(&mount.join("to")));
    from.set_len(20_000).unwrap();
    to.write_all_at(&[7; 20_000], 0).unwrap();
    let (mut written, mut seen) = (Mapping::new(&from, 20_000), Mapping::new(&to, 20_000));
    assert_eq!(seen.bytes()[5000], 7);
    written.bytes()[4000..6000].fill(9);
    assert_eq!(copy_range(&from, 4000, &to, 4500, 1000), Ok(1000));
    assert_eq!(seen.bytes()[4499..5501], [&[7][..], &[9; 1000], &[7]].concat());
    drop((written, seen, from, to));
    mount.umount();
}

// R18
#[test]
fn holes_can_be_sought_until_the_commit() {
    let (server, _alone) = start();
    let mount = TestMount::new(&server);
    python(
        &mount,
        r#"
import errno
MIB = 1 << 20
f = os.open('sparse', os.O_CREAT | os.O_RDWR)
os.pwrite(f, b'start', 0)
os.pwrite(f, b'middle', 4 * MIB)
os.ftruncate(f, 8 * MIB)
hole = os.lseek(f, 0, os.SEEK_HOLE)
assert 5 <= hole < 4 * MIB, hole
data = os.lseek(f, hole, os.SEEK_DATA)
assert hole < data <= 4 * MIB, data
assert os.lseek(f, 4 * MIB + 3, os.SEEK_DATA) == 4 * MIB + 3
end = os.lseek(f, 4 * MIB, os.SEEK_HOLE)
assert 4 * MIB + 6 <= end < 8 * MIB, end
for offset, whence in [(end, os.SEEK_DATA), (8 * MIB, os.SEEK_HOLE), (9 * MIB, os.SEEK_DATA)]:
    try:
        raise AssertionError(os.lseek(f, offset, whence))
    except OSError as e:
        assert e.errno == errno.ENXIO, e
os.fsync(f)
for g in f, os.open('sparse', os.O_RDONLY):
    assert os.lseek(g, 5, os.SEEK_DATA) == 5, 'an object has no holes'
    assert os.lseek(g, 5, os.SEEK_HOLE) == 8 * MIB
"#,
    );
    mount.umount();
}

// R17
#[test]
fn truncate_and_extend_leave_zeros_and_never_old_bytes() {
    let (server, _alone) = start();
    server.put("f", &pattern(600_000, 6));
    let mount = TestMount::new(&server);
    let file = read_write(&mount.join("f"));
    let mut expected = pattern(600_000, 6);
    for size in [599_999, 300_000, 400_000, 1, 0, 131_073, 131_072, 600_000] {
        file.set_len(size as u64).unwrap();
        expected.resize(size, 0);
        assert_eq!(file.metadata().unwrap().len(), size as u64);
        assert_eq!(content(&file), expected, "size {size}");
    }
    drop(file);
    assert_eq!(server.get("f"), expected);
    nix::unistd::truncate(&mount.join("f"), 10).unwrap();
    assert_eq!(server.get("f"), [0; 10], "by path: stored when it returns");
    mount.umount();
}

// R21
#[test]
fn mapped_writes_survive_truncation_and_the_close_of_the_descriptor() {
    let (server, _alone) = start();
    server.put("f", &pattern(100_000, 7));
    let mount = TestMount::new(&server);
    let mut expected = pattern(100_000, 7);
    let file = read_write(&mount.join("f"));
    let mut map = Mapping::new(&file, 100_000);
    assert_eq!(map.bytes(), expected);
    map.bytes()[10..20].fill(1);
    map.bytes()[99_990..].fill(2);
    expected[10..20].fill(1);
    expected[99_990..].fill(2);
    assert_eq!(content(&file), expected, "read(2) sees what was stored into memory");
    map.sync();
    assert_eq!(server.get("f"), expected, "msync(MS_SYNC) stores");

    file.set_len(50_000).unwrap();
    file.set_len(80_000).unwrap();
    expected.resize(50_000, 0);
    expected.resize(80_000, 0);
    assert_eq!(map.bytes()[..80_000], expected, "a mapping shows the cut and the zeros");
    map.bytes()[60_000..60_010].fill(3);
    expected[60_000..60_010].fill(3);
    drop(file);
    map.bytes()[5] = 4;
    expected[5] = 4;
    drop(map);
    eventually(Duration::from_secs(20), "the close of the mapping stores", || server.get("f") == expected);
    mount.umount();
}

// R21, R16
#[test]
fn pages_of_a_mapping_belong_at_their_offset_although_the_handle_appends() {
    let (server, _alone) = start();
    server.put("f", &pattern(10_000, 8));
    let mount = TestMount::new(&server);
    let mut file = OpenOptions::new().read(true).append(true).open(mount.join("f")).unwrap();
    let mut map = Mapping::new(&file, 10_000);
    map.bytes()[100] = 77;
    map.sync();
    file.write_all(b"tail").unwrap();
    map.bytes()[200] = 78;
    drop((map, file));
    let mut expected = pattern(10_000, 8);
    expected[100] = 77;
    expected[200] = 78;
    expected.extend(b"tail");
    eventually(Duration::from_secs(20), "stored", || server.get("f") == expected);
    mount.umount();
}

// R16
#[test]
fn append_can_be_switched_on_and_off_and_asked_for_by_one_write() {
    let (server, _alone) = start();
    server.put("f", b"0123456789");
    let mount = TestMount::new(&server);
    let flags = |file: &File, flags: i32| {
        // SAFETY: no memory is passed.
        called(i64::from(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags) })).unwrap();
    };
    let mut file = read_write(&mount.join("f"));
    file.write_all(b"A").unwrap();
    flags(&file, libc::O_APPEND);
    file.write_all(b"end").unwrap();
    flags(&file, 0);
    file.write_all_at(b"B", 1).unwrap();
    assert_eq!(content(&file), b"AB23456789end");
    let mut append = OpenOptions::new().append(true).open(mount.join("f")).unwrap();
    flags(&append, 0);
    append.seek(SeekFrom::Start(2)).unwrap();
    append.write_all(b"C").unwrap();
    let bytes = b"last";
    let part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: one vector over `bytes`, which is only read.
    let wrote = unsafe { libc::pwritev2(file.as_raw_fd(), &part, 1, 0, libc::RWF_APPEND) };
    assert_eq!(called(wrote as i64), Ok(4));
    drop((append, file));
    assert_eq!(server.get("f"), b"ABC3456789endlast");

    let file =
        OpenOptions::new().write(true).custom_flags(libc::O_APPEND | libc::O_TRUNC).open(mount.join("f")).unwrap();
    file.write_all_at(b"new", 100).unwrap();
    file.write_all_at(b"er", 0).unwrap();
    drop(file);
    assert_eq!(server.get("f"), b"newer");
    mount.umount();
}

// R16
#[test]
fn appends_of_processes_neither_overlap_nor_tear() {
    let (server, _alone) = start();
    let mount = TestMount::new(&server);
    mount.sh("for p in 1 2 3 4; do (for i in $(seq 50); do echo \"process $p line $i\"; done >>log) & done; wait");
    let log = String::from_utf8(server.get("log")).unwrap();
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    let mut expected: Vec<String> =
        (1..=4).flat_map(|p| (1..=50).map(move |i| format!("process {p} line {i}"))).collect();
    expected.sort_unstable();
    assert_eq!(lines, expected);
    mount.umount();
}

#[repr(align(4096))]
struct Aligned([u8; 16384]);

// R101
#[test]
fn direct_io_works_at_any_alignment() {
    let (server, _alone) = start();
    let mount = TestMount::new(&server);
    let open = || {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).custom_flags(libc::O_DIRECT);
        options.open(mount.join("f")).unwrap()
    };
    let mut expected = vec![0; 20_000];
    let mut buffer = Box::new(Aligned([0; 16384]));
    buffer.0.copy_from_slice(&pattern(16384, 9));
    let file = open();
    file.write_all_at(&buffer.0, 0).unwrap();
    expected[..16384].copy_from_slice(&buffer.0);
    file.write_all_at(&buffer.0[3..1003], 19_000).unwrap();
    expected[19_000..].copy_from_slice(&buffer.0[3..1003]);
    let buffered = File::open(mount.join("f")).unwrap();
    assert_eq!(content(&buffered), expected, "buffered reads see direct writes");
    file.write_all_at(b"changed", 4090).unwrap();
    expected[4090..4097].copy_from_slice(b"changed");
    assert_eq!(content(&buffered), expected, "also where pages were cached");
    file.read_exact_at(&mut buffer.0[..8192], 4096).unwrap();
    assert_eq!(buffer.0[..8192], expected[4096..12288]);
    file.read_exact_at(&mut buffer.0[1..778], 4095).unwrap();
    assert_eq!(buffer.0[1..778], expected[4095..4872]);
    assert_eq!(file.read_at(&mut buffer.0, 19_500).unwrap(), 500, "short at the end");
    assert_eq!(file.read_at(&mut buffer.0, 20_000).unwrap(), 0);
    drop((file, buffered));
    assert_eq!(server.get("f"), expected);
    mount.umount();
}

// R102
#[test]
fn synchronous_writes_are_stored_when_they_return() {
    let (server, _alone) = start();
    let mount = TestMount::new(&server);
    let ways = [libc::O_SYNC, libc::O_DSYNC, libc::O_SYNC | libc::O_DIRECT, libc::O_DSYNC | libc::O_DIRECT];
    for (i, flags) in ways.into_iter().enumerate() {
        let name = format!("f{i}");
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).custom_flags(flags).open(mount.join(&name)).unwrap();
        file.write_all(b"first").unwrap();
        assert_eq!(server.get(&name), b"first", "flags {flags:#o}");
        file.write_all(b", second").unwrap();
        assert_eq!(server.get(&name), b"first, second", "flags {flags:#o}");
    }
    let file = read_write(&mount.join("dsync"));
    let bytes = b"one write";
    let part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: one vector over `bytes`, which is only read.
    assert_eq!(called(unsafe { libc::pwritev2(file.as_raw_fd(), &part, 1, 0, libc::RWF_DSYNC) } as i64), Ok(9));
    assert_eq!(server.get("dsync"), bytes);
    drop(file);
    mount.umount();
}

// R10, R103
#[test]
fn fdatasync_stores_and_the_calls_for_pages_do_not() {
    let (server, _alone) = start();
    let mount = TestMount::new(&server);
    fs::create_dir(mount.join("told")).unwrap();
    // Each step waits until the bucket has been looked at.
    let script = r#"
import ctypes, time
libc = ctypes.CDLL(None, use_errno=True)
f = os.open('f', os.O_CREAT | os.O_RDWR)
os.write(f, b'bytes')
assert libc.sync_file_range(f, ctypes.c_long(0), ctypes.c_long(0), 7) == 0
assert libc.syncfs(f) == 0
os.mkdir('told/written')
while os.path.exists('told/written'): time.sleep(0.05)
os.fdatasync(f)
os.mkdir('told/synced')
while os.path.exists('told/synced'): time.sleep(0.05)
d = os.open('.', os.O_RDONLY)
os.fsync(d)
"#;
    std::thread::scope(|threads| {
        let program = threads.spawn(|| python(&mount, script));
        let step = |name: &str, look: &dyn Fn()| {
            let path = mount.join("told").join(name);
            eventually(Duration::from_secs(30), name, || path.exists());
            look();
            fs::remove_dir(path).unwrap();
        };
        step("written", &|| assert!(server.list("").is_empty(), "the two only write pages out to the daemon"));
        step("synced", &|| assert_eq!(server.get("f"), b"bytes"));
        program.join().unwrap();
    });
    mount.umount();
}

// R10
#[test]
fn every_close_of_a_duplicated_descriptor_stores() {
    let (server, _alone) = start();
    let mount = TestMount::new(&server);
    let mut first = read_write(&mount.join("f"));
    let mut second = first.try_clone().unwrap();
    first.write_all(b"one").unwrap();
    drop(first);
    assert_eq!(server.get("f"), b"one");
    second.write_all(b" two").unwrap();
    drop(second);
    assert_eq!(server.get("f"), b"one two", "one offset for both");
    // The child outlives the parent, and the last close is the child's.
    mount.sh("bash -c 'exec 8>g; echo parent >&8; (sleep 1; echo child >&8) & disown'; cp g g.parent; sleep 2");
    assert_eq!(server.get("g"), b"parent\nchild\n");
    assert_eq!(server.get("g.parent"), b"parent\n");
    mount.umount();
}

// R104
#[test]
fn what_a_killed_process_wrote_is_stored() {
    let (server, _alone) = start();
    server.put("mapped", &[b'.'; 5000]);
    let mount = TestMount::new(&server);
    let script = "import mmap, os, signal\n\
                  f = open('mapped', 'r+b'); m = mmap.mmap(f.fileno(), 5000)\n\
                  m[4000:4004] = b'mmap'\n\
                  w = os.open('written', os.O_CREAT | os.O_WRONLY); os.write(w, b'never closed')\n\
                  os.kill(os.getpid(), signal.SIGKILL)\n";
    mount.sh(&format!("python3 -c \"{script}\" || [ $? = 137 ]"));
    let mut expected = vec![b'.'; 5000];
    expected[4000..4004].copy_from_slice(b"mmap");
    eventually(Duration::from_secs(20), "mapped pages", || server.get("mapped") == expected);
    eventually(Duration::from_secs(20), "written bytes", || server.list("").contains(&"written".to_owned()));
    assert_eq!(server.get("written"), b"never closed");
    mount.umount();
}

// R52
#[test]
fn attributes_set_while_a_file_is_dirty_hold_and_bytes_too() {
    let (server, _alone) = start();
    let mount = TestMount::new(&server);
    let mut file = read_write(&mount.join("f"));
    file.write_all(b"before").unwrap();
    file.set_permissions(PermissionsExt::from_mode(0o4751)).unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    file.set_modified(long_ago).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 6);
    assert_eq!(file.metadata().unwrap().modified().unwrap(), long_ago);
    file.write_all(b" after").unwrap();
    assert!(file.metadata().unwrap().modified().unwrap() > long_ago, "a write moves it");
    file.set_modified(long_ago).unwrap();
    std::os::unix::fs::fchown(&file, Some(12), Some(34)).unwrap();
    drop(file);
    mount.umount();
    let mount = TestMount::new(&server);
    let meta = fs::metadata(mount.join("f")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o751, 12, 34), "chown takes setuid away");
    assert_eq!(meta.modified().unwrap(), long_ago);
    assert_eq!(fs::read(mount.join("f")).unwrap(), b"before after");
    mount.umount();
}

// R105
#[test]
fn rename_over_an_open_file_keeps_its_handles_from_the_new_one() {
    let (server, _alone) = start();
    server.put("reading", &pattern(100_000, 10));
    server.put("new1", b"new 1");
    server.put("new2", b"new 2");
    let mount = TestMount::new(&server);
    let mut reading = File::open(mount.join("reading")).unwrap();
    let mut start = [0; 1000];
    reading.read_exact(&mut start).unwrap();
    let mut writing = read_write(&mount.join("writing"));
    writing.write_all(b"not stored yet").unwrap();
    fs::rename(mount.join("new1"), mount.join("reading")).unwrap();
    fs::rename(mount.join("new2"), mount.join("writing")).unwrap();
    assert_eq!(fs::read(mount.join("reading")).unwrap(), b"new 1");
    let mut again = vec![0; 100_000];
    match reading.read_exact_at(&mut again, 0) {
        Ok(()) => assert_eq!(again, pattern(100_000, 10)),
        Err(e) => assert_eq!(e.raw_os_error(), Some(libc::ESTALE)),
    }
    writing.write_all(b", and never").unwrap();
    assert_eq!(content(&writing), b"not stored yet, and never");
    assert_eq!(writing.metadata().unwrap().nlink(), 0);
    drop((reading, writing));
    assert_eq!(server.get("reading"), b"new 1");
    assert_eq!(server.get("writing"), b"new 2");
    mount.umount();
}

// R48
#[test]
fn an_unlinked_file_has_no_link_and_all_of_its_calls() {
    let (server, _alone) = start();
    server.put("stored", &pattern(50_000, 11));
    let mount = TestMount::new(&server);
    for name in ["stored", "fresh"] {
        let file = read_write(&mount.join(name));
        let mut expected = content(&file);
        assert_eq!(file.metadata().unwrap().nlink(), 1);
        fs::remove_file(mount.join(name)).unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 0, "{name}");
        file.write_all_at(b"written after", 40_000).unwrap();
        expected.resize(expected.len().max(40_013), 0);
        expected[40_000..40_013].copy_from_slice(b"written after");
        assert_eq!(content(&file), expected, "{name}");
        file.set_len(45_000).unwrap();
        expected.resize(45_000, 0);
        assert_eq!(content(&file), expected, "{name}");
        file.set_permissions(PermissionsExt::from_mode(0o600)).unwrap();
        file.sync_all().unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        drop(file);
    }
    eventually(Duration::from_secs(20), "nothing is left", || server.list("").is_empty());
    mount.umount();
}

// R106
#[test]
fn what_an_object_store_cannot_do_has_the_errno_that_programs_know() {
    let (server, _alone) = start();
    let mount = TestMount::new(&server);
    fs::write(mount.join("f"), b"x").unwrap();
    fs::create_dir(mount.join("d")).unwrap();
    let errno = |e: io::Error| e.raw_os_error().unwrap();
    assert_eq!(errno(fs::hard_link(mount.join("f"), mount.join("g")).unwrap_err()), libc::EPERM);
    let tmpfile = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(mount.path());
    assert_eq!(errno(tmpfile.unwrap_err()), libc::EOPNOTSUPP);
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    for (flags, to) in [(RenameFlags::RENAME_EXCHANGE, "d"), (RenameFlags::RENAME_WHITEOUT, "new")] {
        let result = renameat2(AT_FDCWD, &mount.join("f"), AT_FDCWD, &mount.join(to), flags);
        assert_eq!(result, Err(nix::errno::Errno::EINVAL));
    }
    use nix::sys::stat::{Mode, SFlag, mknod};
    for kind in [SFlag::S_IFIFO, SFlag::S_IFSOCK, SFlag::S_IFCHR, SFlag::S_IFBLK] {
        assert_eq!(mknod(&mount.join("node"), kind, Mode::S_IRUSR, 0), Err(nix::errno::Errno::EPERM), "{kind:?}");
    }
    mknod(&mount.join("plain"), SFlag::S_IFREG, Mode::S_IRUSR | Mode::S_IWUSR, 0).unwrap();
    assert_eq!(server.get("plain"), b"");
    assert_eq!(errno(fs::write(mount.join("n".repeat(256)), b"").unwrap_err()), libc::ENAMETOOLONG);
    fs::write(mount.join("n".repeat(255)), b"").unwrap();
    let deep = ["x".repeat(250), "y".repeat(250), "z".repeat(250), "w".repeat(250)];
    fs::create_dir_all(mount.join(deep.join("/"))).unwrap();
    let too_deep = mount.join(deep.join("/")).join("v".repeat(30));
    assert_eq!(errno(fs::write(&too_deep, b"").unwrap_err()), libc::ENAMETOOLONG, "a key of over 1,024 bytes");
    mount.umount();
}

#[test]
fn statx_shows_what_stat_does() {
    let (server, _alone) = start();
    let mount = TestMount::new(&server);
    fs::write(mount.join("f"), pattern(5000, 12)).unwrap();
    let path = std::ffi::CString::new(mount.join("f").to_str().unwrap()).unwrap();
    // SAFETY: all bits zero is a valid value of this struct of integers.
    let mut x: libc::statx = unsafe { std::mem::zeroed() };
    for sync in [libc::AT_STATX_SYNC_AS_STAT, libc::AT_STATX_FORCE_SYNC, libc::AT_STATX_DONT_SYNC] {
        // SAFETY: the path ends in NUL, the result is written into `x`.
        let result = unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), sync, libc::STATX_BASIC_STATS, &mut x) };
        assert_eq!(called(i64::from(result)), Ok(0));
        assert_eq!(x.stx_mask & libc::STATX_BASIC_STATS, libc::STATX_BASIC_STATS);
        let meta = fs::metadata(mount.join("f")).unwrap();
        assert_eq!((x.stx_size, x.stx_ino, x.stx_nlink), (5000, meta.ino(), 1));
        assert_eq!(u32::from(x.stx_mode), meta.mode());
        assert_eq!((x.stx_mtime.tv_sec, i64::from(x.stx_mtime.tv_nsec)), (meta.mtime(), meta.mtime_nsec()));
        assert_eq!(x.stx_blocks, 10);
    }
    mount.umount();
}

// R57
#[test]
fn the_change_time_does_not_move_by_a_look() {
    let (server, _alone) = start();
    let mount = TestMount::with(&server, &["metadata_ttl=0", "negative_ttl=0"]);
    fs::write(mount.join("f"), b"x").unwrap();
    std::os::unix::fs::symlink("f", mount.join("link")).unwrap();
    let times = |name: &str| {
        let meta = fs::symlink_metadata(mount.join(name)).unwrap();
        (meta.ctime(), meta.ctime_nsec(), meta.atime(), meta.atime_nsec())
    };
    let before = (times("f"), times("link"));
    std::thread::sleep(Duration::from_millis(1100));
    mount.sh("ls -l; cat f link");
    assert_eq!((times("f"), times("link")), before);
    fs::rename(mount.join("link"), mount.join("link2")).unwrap();
    assert!(times("link2") > before.1, "a rename is a change");
    let renamed = times("link2");
    mount.sh("ls -l");
    assert_eq!(times("link2"), renamed);
    mount.umount();
}

// R63
#[test]
fn a_mount_can_be_made_read_only_and_writable_again() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root remounts");
        return;
    }
    let (server, _alone) = start();
    server.put("f", b"content");
    let mount = TestMount::new(&server);
    mount.sh("mount -i -o remount,ro \"$PWD\"");
    let errno = |e: io::Error| e.raw_os_error().unwrap();
    assert_eq!(errno(fs::write(mount.join("f"), b"x").unwrap_err()), libc::EROFS);
    assert_eq!(errno(fs::create_dir(mount.join("d")).unwrap_err()), libc::EROFS);
    assert_eq!(errno(fs::remove_file(mount.join("f")).unwrap_err()), libc::EROFS);
    assert_eq!(fs::read(mount.join("f")).unwrap(), b"content");
    mount.sh("mount -i -o remount,rw \"$PWD\"; echo more >>f");
    assert_eq!(server.get("f"), b"contentmore\n");
    mount.umount();
}

//! Real mounts whose files the kernel reads from the cache by itself. These tests want to be root.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use bytes::Bytes;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::common::{TestMount, TestServer, alone, binary, command, eventually, temp_dir};
use super::{MIB, SOON, files_below};

const SIZE: u64 = 6 * MIB + 4321;

struct Rig {
    mount: Option<TestMount>,
    server: TestServer,
    cache: tempfile::TempDir,
    options: String,
}

/// A mount with a cache, and the objects `k` and `other`.
fn rig(options: &str) -> Rig {
    let (server, cache) = (TestServer::start(), temp_dir());
    for key in ["k", "other"] {
        server.embedded_server().unwrap().store().put_synthetic(&server.bucket, key, SIZE);
    }
    let mut rig = Rig { mount: None, server, cache, options: options.to_owned() };
    rig.mount_again();
    rig
}

fn content(key: &str) -> Bytes {
    xosfs::demo::synthetic(key, 0..SIZE)
}

fn all_of(file: &File) -> Vec<u8> {
    let mut found = vec![0; SIZE as usize];
    file.read_exact_at(&mut found, 0).unwrap();
    found
}

impl Rig {
    fn dir(&self) -> PathBuf {
        self.cache.path().join("cache")
    }

    fn mount_again(&mut self) {
        if let Some(mount) = self.mount.take() {
            mount.umount();
        }
        let mut options = vec![format!("cache_dir={}", self.dir().display()), "cache_free=0".into()];
        options.extend(self.options.split(',').filter(|o| !o.is_empty()).map(str::to_owned));
        let options: Vec<&str> = options.iter().map(|o| &**o).collect();
        self.mount = Some(TestMount::with(&self.server, &options));
    }

    fn mount(&self) -> &TestMount {
        self.mount.as_ref().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.mount().join(name)
    }

    fn figure(&self, name: &str) -> u64 {
        let out = command(binary()).args(["status", "--json"]).arg(self.mount().path()).output().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        json["mounts"][0]["disk"][name].as_u64().unwrap()
    }

    /// An open file that the kernel reads from the cache.
    fn open_through(&self, name: &str) -> File {
        let before = self.figure("through");
        let mut opened = None;
        eventually(SOON, "it is whole and checked", || {
            drop(opened.take());
            let file = File::open(self.path(name)).unwrap();
            all_of(&file);
            opened = Some(file);
            self.figure("through") > before
        });
        opened.unwrap()
    }

    fn gets(&self) -> u64 {
        self.server.counts().unwrap().get("GetObject").copied().unwrap_or(0)
    }
}

/// Maps all of a file.
struct Map(*mut libc::c_void);

impl Map {
    fn new(file: &File, protection: i32) -> Map {
        // SAFETY: a fresh mapping of an open file, whose size does not change while it is mapped.
        let map = unsafe {
            libc::mmap(std::ptr::null_mut(), SIZE as usize, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        assert_ne!(map, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Map(map)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for reading until it is dropped.
        unsafe { std::slice::from_raw_parts(self.0.cast(), SIZE as usize) }
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= SIZE as usize);
        // SAFETY: inside the mapping, which was made for writing.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.cast::<u8>().add(at), bytes.len());
            assert_eq!(libc::msync(self.0, SIZE as usize, libc::MS_SYNC), 0);
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`.
        unsafe { libc::munmap(self.0, SIZE as usize) };
    }
}

// R119
#[test]
fn a_whole_file_is_read_by_the_kernel() {
    let _alone = alone();
    let mut rig = rig("");
    assert_eq!(fs::read(rig.path("k")).unwrap(), content("k"));
    let file = rig.open_through("k");
    let gets = rig.gets();

    // The daemon has no part in it.
    let daemon = Pid::from_raw(rig.mount().pid() as i32);
    kill(daemon, Signal::SIGSTOP).unwrap();
    let found = std::panic::catch_unwind(|| {
        let found = all_of(&file);
        let map = Map::new(&file, libc::PROT_READ);
        assert!(map.bytes() == content("k"));
        found
    });
    kill(daemon, Signal::SIGCONT).unwrap();
    assert!(found.unwrap() == content("k"));
    assert_eq!(file.metadata().unwrap().len(), SIZE);
    let mut end = [0; 10];
    assert_eq!(file.read_at(&mut end, SIZE - 3).unwrap(), 3);
    drop(file);

    // After a restart every block is checked before; and nothing is asked of the store but the name.
    rig.mount_again();
    let file = rig.open_through("k");
    assert!(all_of(&file) == content("k"));
    assert_eq!(rig.gets(), gets);
    // What is evicted stays for who has it open.
    fs::remove_dir_all(rig.dir().join("objects-1")).unwrap();
    assert!(all_of(&file) == content("k"));
}

#[test]
fn programs_run_through_the_cache() {
    let _alone = alone();
    let rig = rig("");
    rig.server.upload(std::path::Path::new("/bin/bash"), "bash");
    let path = rig.path("bash");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    eventually(SOON, "its mode is stored", || rig.server.counts().unwrap().contains_key("CopyObject"));
    let before = rig.figure("through");
    eventually(SOON, "the kernel reads it", || {
        let out = Command::new(&path).args(["-c", "echo $((6*7))"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "42\n", "{out:?}");
        rig.figure("through") > before
    });
}

/// Somebody opens for writing what is read through: both go on, each with its own version.
#[test]
fn a_writer_beside_the_kernel_s_readers() {
    let _alone = alone();
    let rig = rig("metadata_ttl=1h");
    fs::read(rig.path("k")).unwrap();
    let reader = rig.open_through("k");
    let map = Map::new(&reader, libc::PROT_READ);

    let writer = OpenOptions::new().read(true).write(true).open(rig.path("k")).unwrap();
    assert!(all_of(&writer) == content("k"));
    writer.write_all_at(b"changed", 100).unwrap();
    let written = Map::new(&writer, libc::PROT_READ | libc::PROT_WRITE);
    written.write(5 << 20, b"mapped");
    writer.sync_all().unwrap();
    let mut expected = content("k").to_vec();
    expected[100..107].copy_from_slice(b"changed");
    expected[5 << 20..(5 << 20) + 6].copy_from_slice(b"mapped");
    assert!(all_of(&writer) == expected);
    assert!(fs::read(rig.path("k")).unwrap() == expected, "a new reader sees what is written");
    drop((written, writer));
    assert!(rig.server.get("k") == expected);

    assert!(all_of(&reader) == content("k"), "the old reader keeps its version");
    assert!(map.bytes() == content("k"));
    assert_eq!(reader.metadata().unwrap().nlink(), 0, "its file has no name any more");
    drop((map, reader));

    // Append, as shells do, and read again.
    use std::io::Write;
    OpenOptions::new().append(true).open(rig.path("k")).unwrap().write_all(b"more").unwrap();
    expected.extend(b"more");
    assert!(fs::read(rig.path("k")).unwrap() == expected);
    assert!(rig.server.get("k") == expected);
}

/// Every other change of a file that is read through.
#[test]
fn changes_by_path_beside_the_kernel_s_readers() {
    let _alone = alone();
    let rig = rig("metadata_ttl=1h");
    let reopen = |name: &str| {
        fs::read(rig.path(name)).unwrap();
        rig.open_through(name)
    };
    let reader = reopen("k");
    fs::set_permissions(rig.path("k"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(fs::metadata(rig.path("k")).unwrap().mode() & 0o777, 0o600);
    assert!(all_of(&reader) == content("k"));
    // The attributes are not lost when the name gets another inode.
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(rig.path("k")).unwrap();
    let mut unaligned = [0; 777];
    direct.read_exact_at(&mut unaligned, 1001).unwrap();
    assert!(unaligned[..] == content("k")[1001..1778]);
    assert_eq!(fs::metadata(rig.path("k")).unwrap().mode() & 0o777, 0o600);
    drop(direct);

    fs::rename(rig.path("k"), rig.path("moved")).unwrap();
    assert!(all_of(&reader) == content("k"));
    assert!(fs::read(rig.path("moved")).unwrap() == content("k"));
    nix::unistd::truncate(&rig.path("moved"), 1000).unwrap();
    assert!(fs::read(rig.path("moved")).unwrap() == content("k")[..1000]);
    assert_eq!(rig.server.get("moved").len(), 1000);
    assert!(all_of(&reader) == content("k"));

    let second = reopen("other");
    fs::remove_file(rig.path("other")).unwrap();
    assert!(all_of(&second) == content("other"));
    drop(second);
    eventually(SOON, "it is deleted", || rig.server.list("") == ["moved"]);
    fs::write(rig.path("other"), "a new one").unwrap();
    assert_eq!(fs::read(rig.path("other")).unwrap(), b"a new one");
}

/// Another machine replaces what is read through.
#[test]
fn a_newer_version_beside_the_kernel_s_readers() {
    let _alone = alone();
    let rig = rig("metadata_ttl=0");
    fs::read(rig.path("k")).unwrap();
    let reader = rig.open_through("k");
    let newer = xosfs::demo::synthetic("newer", 0..SIZE);
    rig.server.embedded_server().unwrap().store().put(&rig.server.bucket, "k", newer.clone());
    assert!(fs::read(rig.path("k")).unwrap() == newer);
    assert!(all_of(&reader) == content("k"));
    let second = rig.open_through("k");
    assert!(all_of(&second) == newer, "and the newer one is read by the kernel, too");
    assert!(all_of(&reader) == content("k"));
}

/// Handles that were opened before the file was whole go on beside later ones.
#[test]
fn handles_of_both_kinds_do_not_meet() {
    let _alone = alone();
    let rig = rig("");
    let first = File::open(rig.path("k")).unwrap();
    assert!(all_of(&first) == content("k"));
    eventually(SOON, "all of it is on the disk", || rig.figure("written") >= SIZE.div_ceil(128 << 10));
    for _ in 0..20 {
        let later = File::open(rig.path("k")).unwrap();
        assert!(all_of(&later) == content("k") && all_of(&first) == content("k"));
    }
    assert_eq!(rig.figure("through"), 0);
    drop(first);
    rig.open_through("k");

    // Many at once, of all kinds.
    std::thread::scope(|scope| {
        for n in 0..6 {
            let rig = &rig;
            scope.spawn(move || {
                for turn in 0..30 {
                    let flags = if (n + turn) % 5 == 0 { libc::O_DIRECT } else { 0 };
                    let file = OpenOptions::new().read(true).custom_flags(flags).open(rig.path("k"));
                    let mut found = [0; 5000];
                    // Whoever meets one more change of mode while the name is looked up again is told so.
                    match file {
                        Ok(file) => {
                            file.read_exact_at(&mut found, 4096 * turn).unwrap();
                            assert!(found[..] == content("k")[4096 * turn as usize..][..5000]);
                        }
                        Err(e) => assert_eq!(e.raw_os_error(), Some(libc::ESTALE), "{e}"),
                    }
                }
            });
        }
    });
}

#[test]
fn passthrough_off_is_off() {
    let _alone = alone();
    let rig = rig("passthrough=off");
    for _ in 0..5 {
        assert!(fs::read(rig.path("k")).unwrap() == content("k"));
    }
    eventually(SOON, "all of it is on the disk", || rig.figure("written") >= SIZE.div_ceil(128 << 10));
    assert!(fs::read(rig.path("k")).unwrap() == content("k"));
    assert_eq!(rig.figure("through"), 0);
    assert_eq!(files_below(&rig.dir()).len(), 2);
}

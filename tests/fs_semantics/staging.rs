//! The disk under `staging_dir` is full, gone or read-only: the write that needs it is told, and nothing else is.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use super::common::{TestMount, TestServer, eventually, sh, temp_dir};
use xosfs::demo::{Action, Rule};

const MIB: usize = 1 << 20;
/// One file holds up to 32 MiB in memory; nothing is sent before it is closed.
const OPTIONS: &str = "memory=256M,stream_after=1T";

/// A small file system of its own, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(mib: u64) -> SmallDisk {
        let dir = temp_dir();
        sh(dir.path(), &format!("mkdir disk; mount -t tmpfs -o size={mib}M small disk; mkdir disk/staging"));
        SmallDisk(dir)
    }

    fn option(&self) -> String {
        format!("{OPTIONS},staging_dir={}", self.0.path().join("disk/staging").display())
    }

    fn sh(&self, script: &str) -> String {
        sh(self.0.path(), script)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0.path().join("disk"), nix::mount::MntFlags::MNT_DETACH);
    }
}

fn piece(n: usize) -> Vec<u8> {
    (0..MIB).map(|i| (i as u8) ^ (n as u8)).collect()
}

/// Writes from the end to the start until there is no room; how many MiB were taken.
fn fill(file: &File, most: usize) -> usize {
    for n in 0..most {
        if let Err(e) = file.write_all_at(&piece(n), ((most - 1 - n) * MIB) as u64) {
            assert_eq!(e.raw_os_error(), Some(libc::ENOSPC), "{e}");
            return n;
        }
    }
    panic!("{most} MiB were taken");
}

fn check(file: &File, most: usize, taken: usize) {
    for n in 0..taken {
        let mut found = vec![0; MIB];
        file.read_exact_at(&mut found, ((most - 1 - n) * MIB) as u64).unwrap();
        assert!(found == piece(n), "piece {n} of {taken}");
    }
}

fn read_write(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// What the store holds. Not by a program: a child process inherits the descriptors that are open here.
fn stored(server: &TestServer, key: &str) -> Vec<u8> {
    let embedded = server.embedded_server().expect("these tests run on the embedded server");
    embedded.store().get(&server.bucket, key).unwrap_or_default().to_vec()
}

/// Others read and write on.
fn goes_on(mount: &TestMount, server: &TestServer, name: &str) {
    let mut old = String::new();
    File::open(mount.join("other")).unwrap().read_to_string(&mut old).unwrap();
    assert_eq!(old, "other content");
    fs::write(mount.join(name), name).unwrap();
    assert_eq!(stored(server, name), name.as_bytes());
}

// R25 R120
#[test]
fn a_full_staging_directory_is_enospc() {
    let _alone = crate::common::alone();
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can make a small disk");
        return;
    }
    let disk = SmallDisk::new(16);
    let server = TestServer::start();
    let old = vec![b'o'; 3 * MIB];
    server.put("f", &old);
    server.put("other", b"other content");
    let mount = TestMount::with(&server, &[&disk.option()]);
    let file = read_write(&mount.join("f"));
    let taken = fill(&file, 200);
    assert!((20..60).contains(&taken), "{taken} MiB were taken");
    // What was taken is there, what was not is not; the object is the old one.
    check(&file, 200, taken);
    assert!(stored(&server, "f") == old);
    goes_on(&mount, &server, "meanwhile");
    // Room is made by those who took it: cut off, the file can be written again.
    file.set_len(0).unwrap();
    // As soon as nothing is being stored that still needs it: another test's child may have closed this descriptor.
    eventually(Duration::from_secs(20), "room for five bytes", || file.write_all_at(b"short", 0).is_ok());
    drop(file);
    assert_eq!(stored(&server, "f"), b"short");
    // A file that is closed gives its room back, whatever became of it.
    for round in 0..3 {
        let file = File::create(mount.join("again")).unwrap();
        assert!(fill(&file, 200) >= taken - 2, "round {round}");
        fs::remove_file(mount.join("again")).unwrap();
    }
    assert_eq!(disk.sh("ls -A disk/staging"), "");
    goes_on(&mount, &server, "afterwards");
    mount.umount();
}

// R120
#[test]
fn a_staging_directory_that_goes_away_stops_nobody_else() {
    let _alone = crate::common::alone();
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can make a small disk");
        return;
    }
    let disk = SmallDisk::new(200);
    let server = TestServer::start();
    server.put("other", b"other content");
    let mount = TestMount::with(&server, &[&disk.option()]);
    let file = File::create(mount.join("before")).unwrap();
    let written =
        |file: &File, mib: usize| (0..mib).try_for_each(|n| file.write_all_at(&piece(n), ((mib - 1 - n) * MIB) as u64));
    // It has begun to use the disk; what it has open stays usable.
    written(&file, 50).unwrap();
    disk.sh("rmdir disk/staging");
    written(&file, 50).unwrap();
    drop(file);
    assert_eq!(stored(&server, "before").len(), 50 * MIB);
    // One that needs it now makes it anew.
    let file = File::create(mount.join("removed")).unwrap();
    written(&file, 50).unwrap();
    drop(file);
    assert_eq!(stored(&server, "removed").len(), 50 * MIB);
    disk.sh("mount -o remount,ro disk");
    let file = File::create(mount.join("read-only")).unwrap();
    let error = written(&file, 50).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    goes_on(&mount, &server, "meanwhile");
    disk.sh("mount -o remount,rw disk");
    // The same handle, as soon as there is room.
    written(&file, 50).unwrap();
    drop(file);
    assert_eq!(stored(&server, "read-only").len(), 50 * MIB);
    mount.umount();
}

// R11 R77
#[test]
fn a_used_up_quota_of_the_store_is_edquot() {
    let _alone = crate::common::alone();
    let server = TestServer::start();
    let Some(embedded) = server.embedded_server() else { return };
    server.put("f", b"old");
    server.put("other", b"other content");
    let mount = TestMount::with(&server, &["retries=0"]);
    for operation in ["PutObject", "UploadPart", "CreateMultipartUpload"] {
        embedded.knobs().fail(Rule::new(operation, Action::Status(403, "QuotaExceeded".into())).always());
    }
    for size in [5, 20 * MIB] {
        let file = File::create(mount.join("f")).unwrap();
        let write = file.write_all_at(&vec![1; size], 0);
        let close = nix::unistd::close(std::os::fd::OwnedFd::from(file)).map_err(std::io::Error::from);
        let error = write.and(close).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EDQUOT), "{size} bytes: {error}");
        assert_eq!(stored(&server, "f"), b"old");
    }
    assert_eq!(fs::read(mount.join("other")).unwrap(), b"other content");
    embedded.knobs().clear_rules();
    fs::write(mount.join("f"), "new").unwrap();
    assert_eq!(stored(&server, "f"), b"new");
    mount.umount();
}

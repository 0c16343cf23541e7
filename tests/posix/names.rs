//! Attributes and names, and what is refused.

use super::*;

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
    // Others than root may give a file only to themselves.
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let owner = if uid.is_root() { (12, 34) } else { (uid.as_raw(), gid.as_raw()) };
    std::os::unix::fs::fchown(&file, Some(owner.0), Some(owner.1)).unwrap();
    drop(file);
    mount.umount();
    let mount = TestMount::new(&server);
    let meta = fs::metadata(mount.join("f")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o751, owner.0, owner.1), "chown takes setuid away");
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

// R107
#[test]
fn a_running_program_is_not_written() {
    let (server, _alone) = start();
    let mount = TestMount::new(&server);
    fs::copy("/bin/sleep", mount.join("sleep")).unwrap();
    let mut running = std::process::Command::new(mount.join("sleep")).arg("60").spawn().unwrap();
    for mut options in [OpenOptions::new().write(true).clone(), OpenOptions::new().append(true).clone()] {
        let refused = options.create(true).open(mount.join("sleep")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ETXTBSY));
    }
    assert_eq!(nix::unistd::truncate(&mount.join("sleep"), 0), Err(nix::errno::Errno::ETXTBSY));
    assert!(running.try_wait().unwrap().is_none(), "it goes on");
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(server.get("sleep"), fs::read("/bin/sleep").unwrap());
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

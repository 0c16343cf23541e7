//! Parts of files: holes, copies from file to file, truncation.

use super::*;

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
fn large_ranges_are_copied_by_the_store() {
    const MIB: usize = 1 << 20;
    let (server, _alone) = start();
    let stored = pattern(24 * MIB, 13);
    server.put("stored", &stored);
    let mount = TestMount::new(&server);
    let before = server.counts();
    mount.sh("cp stored copy");
    if let (Some(embedded), Some(before)) = (server.embedded_server(), before) {
        let counts = embedded.counts();
        let since = |op: &str| counts.get(op).unwrap_or(&0) - before.get(op).unwrap_or(&0);
        assert!(since("UploadPartCopy") + since("CopyObject") > 0, "{counts:?}");
        assert_eq!(since("UploadPart") + since("PutObject"), 0, "no byte was sent: {counts:?}");
    }
    assert_eq!(server.get("copy"), stored);
    mount.umount();
}

// R100
#[test]
fn what_was_copied_outlives_its_source() {
    const MIB: i64 = 1 << 20;
    let (server, _alone) = start();
    let stored = pattern(12 << 20, 14);
    let names = ["unlinked", "renamed", "replaced", "overwritten", "chmodded"];
    for name in names {
        server.put(name, &stored);
    }
    server.put("new", b"new");
    let mount = TestMount::new(&server);
    let copies: Vec<File> = names
        .iter()
        .map(|name| {
            let copy = read_write(&mount.join(format!("{name}.copy")));
            let source = File::open(mount.join(name)).unwrap();
            assert_eq!(copy_range(&source, MIB, &copy, 0, 10 << 20), Ok(10 * MIB));
            copy
        })
        .collect();
    fs::remove_file(mount.join("unlinked")).unwrap();
    fs::rename(mount.join("renamed"), mount.join("elsewhere")).unwrap();
    fs::rename(mount.join("new"), mount.join("replaced")).unwrap();
    fs::write(mount.join("overwritten"), b"other bytes").unwrap();
    fs::set_permissions(mount.join("chmodded"), PermissionsExt::from_mode(0o600)).unwrap();
    File::open(mount.join("chmodded")).unwrap().sync_all().unwrap();
    for (copy, name) in copies.into_iter().zip(names) {
        assert_eq!(content(&copy), stored[1 << 20..11 << 20], "{name}");
        drop(copy);
        assert_eq!(server.get(&format!("{name}.copy")), stored[1 << 20..11 << 20], "{name}");
    }
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

// R100: a record of the journal has bytes, and what the store copies has none: such a file waits for the store.
#[test]
fn what_was_copied_outlives_its_source_and_a_crash_with_writeback() {
    let (server, _alone) = start();
    let stored = pattern(12 << 20, 15);
    server.put("source", &stored);
    let mut mount = TestMount::with(&server, &["writeback"]);
    mount.sh("cp source copy; rm source");
    mount.kill_daemon();
    assert_eq!(server.get("copy"), stored);
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

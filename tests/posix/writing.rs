//! When and where written bytes land: mappings, appends, direct and synchronous writes, closes.

use super::*;

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

// R5, R15
#[test]
fn processes_that_write_into_one_file_do_not_lose_each_others_bytes() {
    let (server, _alone) = start();
    let mount = TestMount::new(&server);
    let script = r#"
BLOCK, COUNT, PROCESSES = 10007, 60, 4
children = []
for process in range(PROCESSES):
    child = os.fork()
    if child == 0:
        f = os.open('shared', os.O_CREAT | os.O_RDWR)
        for i in range(process, COUNT, PROCESSES):
            os.pwrite(f, bytes([i]) * BLOCK, i * BLOCK)
            if i % 7 == 0: os.fsync(f)
            assert os.pread(f, BLOCK, i * BLOCK) == bytes([i]) * BLOCK, i
            if i % 5 == 0:
                os.close(f)
                f = os.open('shared', os.O_RDWR)
        os.close(f)
        os._exit(0)
    children.append(child)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
"#;
    python(&mount, script);
    let expected: Vec<u8> = (0..60).flat_map(|i| [i; 10007]).collect();
    assert!(fs::read(mount.join("shared")).unwrap() == expected, "on the mount");
    assert!(server.get("shared") == expected, "in the bucket");
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

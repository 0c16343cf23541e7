//! How programs change a file: in place, through a temporary file, by appending, by mapping it.

use std::io::Read;
use std::process::Stdio;

use crate::common::{TestMount, TestServer, command};
use crate::same_as_local;

// R42
#[test]
fn editors_save_by_a_temporary_file_and_rename() {
    same_as_local(
        "echo one >f; chmod 640 f
         for i in 1 2 3; do python3 - <<'PY'
import os, tempfile
old = open('f').read()
fd, name = tempfile.mkstemp(dir='.', prefix='.f.')
os.write(fd, (old + 'line\\n').encode())
os.fchmod(fd, os.stat('f').st_mode & 0o777)
os.fsync(fd)
os.close(fd)
os.rename(name, 'f')
assert open('f').read() == old + 'line\\n'
PY
         done; cat f; ls -A",
    );
}

// R5 R17 R22
#[test]
fn editors_save_by_truncating_and_writing() {
    same_as_local(
        "seq 1000 >f; python3 - <<'PY'
import os
for size in (5000, 10, 0, 70000, 3):
    with open('f', 'w') as f:
        f.write('x' * size)
        f.flush()
        os.fsync(f.fileno())
        # Another open while the first is: what was written is there.
        assert open('f').read() == 'x' * size
    assert os.path.getsize('f') == size
with open('f', 'r+') as f:
    f.seek(1)
    f.write('Y')
    f.truncate(2)
with open('f', 'a+') as f:
    f.write('end')
    f.seek(0)
    assert f.read() == 'xYend', open('f').read()
PY
         cat f",
    );
}

/// vim moves the file away, writes a new one under the name, and deletes the old one; it probes the directory with a
/// file called 4913.
#[test]
fn vim_saves_with_and_without_a_backup() {
    same_as_local(
        "vi=$(command -v vim.tiny || command -v vim); seq 50 >f; chmod 600 f; ln -s f link
         for mode in yes no auto; do
           $vi -es -u NONE -N -i NONE -c \"set backupskip= backupcopy=$mode backup\" -c '%s/^/five /' -c 'wq' f </dev/null
           $vi -es -u NONE -N -i NONE -c \"set backupcopy=$mode nobackup\" -c '$s/$/!/' -c 'wq' f </dev/null
         done; ls -A; cat f 'f~'",
    );
}

#[test]
fn vim_like_backup_by_hand() {
    same_as_local(
        "seq 100 >f; python3 - <<'PY'
import os
for i in range(5):
    probe = os.open('4913', os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o100644)
    os.fchown(probe, os.getuid(), os.getgid())
    os.close(probe)
    os.unlink('4913')
    os.rename('f', 'f~')
    fd = os.open('f', os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(fd, b'save %d\\n' % i)
    os.fsync(fd)
    os.fchmod(fd, 0o640)
    os.close(fd)
    os.unlink('f~')
PY
         cat f; ls -A",
    );
}

#[test]
fn sed_i_sort_o_and_tee_change_files_in_place() {
    same_as_local(
        "for i in $(seq 20); do shuf -i 1-3000 --random-source=/bin/sh >f$i; done
         sed -i 's/1/one/' f*; sed -i.bak 2d f1; sed -n '1~500p' -i f2; sort -n -o f3 f3; sort -u f4 f5 -o f4
         echo x | tee -a f6 f7 >/dev/null; uniq f8 f9; head -c 100 f10 >f11; perl -pi -e 's/2/two/' f12
         install -m 751 f13 g; truncate -s 5000 f14; truncate -s 7 f15; truncate -s +3 f15; split -l 1000 f16 part.
         cat part.* | cmp - f16; tac f17 >f18; cp f19 f20; cp --reflink=auto f19 h; fallocate -l 90000 f19; wc -c f19",
    );
}

// R15 R17 R18
#[test]
fn dd_writes_with_seek_and_without_truncation() {
    same_as_local(
        "head -c 3000000 /dev/zero | tr '\\0' a >f
         printf MIDDLE | dd of=f bs=1 seek=1500000 conv=notrunc status=none
         printf START | dd of=f conv=notrunc status=none
         dd if=/dev/zero of=f bs=1000 seek=5000 count=1 conv=notrunc status=none
         printf LATE | dd of=sparse bs=1M seek=9 status=none; printf EARLY | dd of=sparse bs=1 seek=100 conv=notrunc status=none
         dd if=f of=g bs=70001 status=none; dd if=g of=h bs=4096 iflag=fullblock conv=sparse status=none
         dd if=f of=cut bs=1 seek=10 count=0 status=none; dd if=f bs=4k skip=300 count=1 of=piece status=none
         dd if=f of=synced bs=100k oflag=sync status=none; dd if=f of=both bs=64k conv=fsync,notrunc status=none
         sha256sum *; stat -c '%s %n' *",
    );
}

#[test]
fn shells_append() {
    same_as_local(
        "for i in $(seq 200); do echo line $i >>log; done; { echo a; echo b; } >>log; : >>log; exec 3>>log
         echo three >&3; echo x >>log; echo four >&3; exec 3>&-; wc -l log; tail -n 3 log
         echo new >|log; echo old >>log; cat log",
    );
}

// R13 R14
#[test]
fn a_new_file_is_in_the_bucket_from_its_close_on() {
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    std::fs::create_dir(mount.join("d")).unwrap();
    // A process of its own, because each program started here would inherit the descriptor and close it.
    let program = "import sys; f = open('f', 'wb', 0); f.write(b'\\7' * 300000); print(); sys.stdout.flush()
sys.stdin.readline(); f.close()";
    let mut writer = command("timeout")
        .args(["60", "python3", "-c", program])
        .current_dir(mount.join("d"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut written = [0];
    writer.stdout.as_mut().unwrap().read_exact(&mut written).unwrap();
    assert_eq!(std::fs::metadata(mount.join("d/f")).unwrap().len(), 300_000);
    assert_eq!(mount.sh("ls d"), "f\n");
    assert_eq!(server.list(""), [""; 0], "nothing before the close");
    drop(writer.stdin.take());
    assert!(writer.wait().unwrap().success());
    assert_eq!(server.get("d/f"), [7; 300_000]);
    mount.sh("touch d/empty; : >d/also");
    assert_eq!(server.list("d"), ["also", "empty", "f"]);
    assert_eq!(server.get("d/empty"), b"");
    if let Some(counts) = server.counts() {
        // The marker and three files: one PUT each, and none in parts.
        assert_eq!(counts.get("PutObject"), Some(&4), "{counts:?}");
        assert_eq!(counts.get("CreateMultipartUpload"), None);
    }
    mount.umount();
}

/// Four processes append to one file through O_APPEND: no line is lost or torn.
// R16
#[test]
fn several_processes_append_to_one_file() {
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    mount.sh(
        "for p in 1 2 3 4; do (exec 3>>log; for i in $(seq 300); do echo $p-$i-xxxxxxxxxxxxxxxxxxxx >&3; done) & done; wait
         test $(wc -l <log) = 1200; test $(sort -u log | grep -c '^[1-4]-[0-9]*-x*$') = 1200",
    );
    mount.umount();
    assert_eq!(server.get("log").iter().filter(|b| **b == b'\n').count(), 1200);
}

#[test]
fn files_are_read_through_a_mapping() {
    let server = TestServer::start();
    server.put("f", &(0..3_000_000u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>());
    let mount = TestMount::new(&server);
    mount.sh("python3 - <<'PY'
import mmap, random, struct
with open('f', 'rb') as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
    assert len(m) == 12_000_000
    rnd = random.Random(1)
    for _ in range(2000):
        i = rnd.randrange(3_000_000)
        assert struct.unpack_from('<I', m, 4 * i)[0] == i
    assert m.find(struct.pack('<I', 2_999_999)) == 4 * 2_999_999
PY");
    mount.umount();
}

// R21
#[test]
fn files_are_written_through_a_mapping() {
    same_as_local(
        "python3 - <<'PY'
import mmap
with open('f', 'w+b') as f:
    f.truncate(3_000_001)
    with mmap.mmap(f.fileno(), 0) as m:
        for i in range(0, 3_000_000, 4096):
            m[i:i + 4] = b'%4d' % (i // 4096)
        m.flush()
        m[3_000_000:] = b'!'
with open('f', 'r+b') as f, mmap.mmap(f.fileno(), 0) as m:
    assert m[4096:4100] == b'   1' and m[-1:] == b'!'
    m[:5] = b'HELLO'
    m.flush()
PY
         sha256sum f",
    );
}

// R48 R51
#[test]
fn a_deleted_file_lives_on_for_those_who_have_it_open() {
    same_as_local(
        "seq 100000 >f; exec 3<f 4>g; rm f; echo hidden >&4; rm g; sha256sum <&3; echo more >&4; exec 3<&- 4>&-; ls -A
         (rm -f h; echo one; echo two) >h; ls -A; echo again >h; cat h
         python3 -c \"
import os, tempfile
with tempfile.TemporaryFile(dir='.') as t:
    t.write(b'x' * 100000); t.seek(50000); assert len(t.read()) == 50000
\"; ls -A",
    );
}

//! fio writes blocks that carry a checksum and reads them back: in order, anywhere, of mixed sizes, mapped, direct;
//! then again on a fresh mount, from the store.

use super::common::{TestMount, TestServer, quick, sh, temp_dir};

const JOBS: &str = "
[global]
verify=crc32c
verify_fatal=1
group_reporting=1
directory=${DIR}
size=${SIZE}
ioengine=psync
numjobs=4

[sequential]
rw=write
bs=128k
end_fsync=1

[random]
stonewall
rw=randwrite
bs=4k
size=4m
end_fsync=1

[mixed]
stonewall
rw=randwrite
bsrange=512-256k
bs_unaligned=1
fsync=100

[mapped]
stonewall
ioengine=mmap
rw=randwrite
bs=4k
size=4m
numjobs=2

[direct]
stonewall
direct=1
ioengine=libaio
iodepth=16
rw=randwrite
bs=64k
numjobs=2
";

#[track_caller]
fn verify(options: &[&str]) {
    let server = TestServer::start();
    let local = temp_dir();
    let job = local.path().join("job.fio");
    std::fs::write(&job, JOBS).unwrap();
    let size = if quick() { "8m" } else { "24m" };
    let fio = |mount: &TestMount, more: &str| {
        // In the local directory: it leaves files of its own where it runs.
        sh(
            local.path(),
            &format!(
                "DIR='{}' SIZE={size} fio {more} '{}' --output=out || {{ cat out; false; }}",
                mount.path().display(),
                job.display()
            ),
        );
    };
    let mount = TestMount::with(&server, options);
    fio(&mount, "");
    mount.umount();
    let mount = TestMount::with(&server, options);
    fio(&mount, "--verify_only");
    mount.umount();
}

#[test]
fn fio_verifies_what_it_wrote() {
    verify(&[]);
}

#[test]
fn fio_verifies_what_it_wrote_with_little_memory() {
    verify(&["memory=64M", "part_size=5M", "stream_after=5M"]);
}

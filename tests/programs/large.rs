//! Much: one big file, many small ones.

use std::time::Instant;

use crate::common::{TestMount, TestServer, quick, sh, temp_dir};

fn big_mib() -> u64 {
    if quick() { 256 } else { 1024 }
}

/// Writes a file of random bytes; returns its SHA-256.
fn random_file(dir: &std::path::Path, mib: u64) -> String {
    sh(dir, &format!("head -c {mib}M /dev/urandom | tee big | sha256sum | cut -d' ' -f1")).trim().to_owned()
}

// R15 R23
#[test]
fn a_big_file_written_through_the_mount_is_whole() {
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    let local = temp_dir();
    let sum = random_file(local.path(), big_mib());
    let started = Instant::now();
    mount.sh(&format!("dd if='{}' of=big bs=1M status=none", local.path().join("big").display()));
    println!("written at {:.0} MiB/s", big_mib() as f64 / started.elapsed().as_secs_f64());
    assert_eq!(server.sha256("big"), sum);
    // 4 KiB in the middle and a few bytes at the end, as a data base would.
    let change =
        "head -c 4096 /dev/zero | tr '\\0' z | dd of=big bs=4096 seek=30000 conv=notrunc status=none; echo end >>big";
    sh(local.path(), change);
    mount.sh(change);
    assert_eq!(server.sha256("big"), sh(local.path(), "sha256sum big | cut -d' ' -f1").trim());
    mount.sh(&format!("cmp big '{}'; mv big moved; rm moved", local.path().join("big").display()));
    assert_eq!(server.list(""), [""; 0]);
    mount.umount();
}

#[test]
fn a_big_object_is_read_through_the_mount() {
    let server = TestServer::start();
    let local = temp_dir();
    let sum = random_file(local.path(), big_mib());
    server.upload(&local.path().join("big"), "big");
    let mount = TestMount::new(&server);
    let started = Instant::now();
    assert_eq!(mount.sh("sha256sum <big | cut -d' ' -f1").trim(), sum);
    println!("read at {:.0} MiB/s", big_mib() as f64 / started.elapsed().as_secs_f64());
    // In odd pieces, from the end, and four readers at once.
    let whole = local.path().join("big");
    mount.sh(&format!(
        "dd if=big bs=77777 skip=500 count=300 status=none | cmp - <(dd if='{0}' bs=77777 skip=500 count=300 status=none)
         tail -c 3000000 big | cmp - <(tail -c 3000000 '{0}')
         for i in 1 2 3 4; do (dd if=big bs=1M skip=$((i * 50)) count=40 status=none |
           cmp - <(dd if='{0}' bs=1M skip=$((i * 50)) count=40 status=none)) & pids=\"${{pids:-}} $!\"; done
         for p in $pids; do wait $p; done",
        whole.display()
    ));
    // Copied within the mount: through the store, the bytes are the same.
    mount.sh("cp big copy");
    assert_eq!(server.sha256("copy"), sum);
    mount.umount();
}

// R38 R50
#[test]
fn thousands_of_files_in_one_directory() {
    // More than two pages of a listing.
    let n = if quick() { 2100 } else { 5000 };
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    mount.sh(&format!("mkdir d; cd d; for i in $(seq {n}); do echo $i >file-$i; done"));
    assert_eq!(mount.sh("ls d | wc -l; ls -U d | sort -u | wc -l; cat d/* | sort -n | sha256sum; ls -l d | wc -l"), {
        let expected = format!("echo {n}; echo {n}; seq {n} | sha256sum; echo $(({n} + 1))");
        sh(mount.path().parent().unwrap(), &expected)
    });
    assert_eq!(server.list("d").len(), n);
    mount.umount();
    let mount = TestMount::new(&server);
    assert_eq!(
        mount.sh("ls d | wc -l; find d -type f -size -10c | wc -l; cat d/file-2021"),
        format!("{n}\n{n}\n2021\n")
    );
    // Deleting while the listing is being read skips nothing.
    let left = n - n / 10;
    mount.sh(&format!("find d -name 'file-*7' -delete; test $(ls d | wc -l) = {left}; rm -r d; test -z \"$(ls -A)\""));
    assert_eq!(server.list(""), [""; 0]);
    mount.umount();
}

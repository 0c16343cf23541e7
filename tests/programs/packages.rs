//! Packages: built, unpacked and fetched on the mount.

use crate::common::{TestMount, TestServer, sh, temp_dir};
use crate::{assert_same_tree, same_as_local};

/// dpkg writes each file under another name, syncs it, renames it and syncs the directory. Its own data base needs hard
/// links and stays elsewhere.
// R22 R42
#[test]
fn packages_are_built_and_unpacked() {
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    let local = temp_dir();
    sh(
        local.path(),
        "mkdir -p p/DEBIAN p/usr/bin p/usr/share/doc/thing p/etc
         printf 'Package: thing\\nVersion: 1\\nArchitecture: all\\nMaintainer: a <a@example.com>\\nDescription: d\\n' \\
           >p/DEBIAN/control
         printf '#!/bin/sh\\necho thing\\n' >p/usr/bin/thing; chmod 755 p/usr/bin/thing; ln -s thing p/usr/bin/other
         for i in $(seq 60); do seq $i 900 >p/usr/share/doc/thing/$i; done; echo x=1 >p/etc/thing.conf
         dpkg-deb --root-owner-group -b p thing.deb >/dev/null; mkdir -p db/info db/updates db/triggers
         : >db/status; : >db/available; mkdir want; dpkg-deb -x thing.deb want",
    );
    let deb = local.path().join("thing.deb");
    let source = local.path().join("p");
    let build = "dpkg-deb --root-owner-group -b p made.deb >/dev/null; dpkg-deb -I made.deb";
    mount.sh(&format!("cp -a '{}' p; {build}", source.display()));
    mount.sh("dpkg-deb -x made.deb out; test \"$(out/usr/bin/other)\" = thing");
    assert_same_tree(&local.path().join("want"), &mount.join("out"));
    mount.sh(&format!(
        "mkdir root; dpkg --log=/dev/null --instdir=\"$PWD/root\" --admindir='{}' --force-depends --unpack '{}' >/dev/null",
        local.path().join("db").display(),
        deb.display()
    ));
    assert_same_tree(&local.path().join("want"), &mount.join("root"));
    mount.umount();
    server.check_same(&local.path().join("want"), "root");
}

/// Fetched into a directory of unfinished files, broken off, continued behind what is there, renamed when it is whole.
#[test]
fn fetches_are_continued_and_renamed() {
    same_as_local(
        "mkdir -p archives/partial; python3 - <<'PY'
import hashlib, os
text = bytes((i * i) % 251 for i in range(2_500_000))
for n in range(3):
    part = f'archives/partial/p{n}.deb'
    for end in (400_000, 1_700_001, len(text)):
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        have = os.fstat(fd).st_size
        for at in range(have, end, 65536):
            os.write(fd, text[at:min(at + 65536, end)])
        os.close(fd)
    assert hashlib.sha256(open(part, 'rb').read()).digest() == hashlib.sha256(text).digest()
    os.utime(part, (1_600_000_000, 1_600_000_000))
    os.rename(part, f'archives/p{n}.deb')
PY
         d=$(mktemp -d); seq 300000 >$d/f; head -c 700000 $d/f >f; rsync --append-verify $d/f f; cmp $d/f f
         head -c 900 $d/f >g; rsync --append $d/f g; cmp $d/f g; rsync --partial --inplace $d/f h; rm -r $d
         chmod 644 f g h; ls archives/partial archives; sha256sum archives/*.deb",
    );
}

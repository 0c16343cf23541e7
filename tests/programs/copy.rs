//! Copying trees in and out: cp, diff, tar, rsync, rclone, mv, find, du, wc.

use std::path::{Path, PathBuf};

use crate::common::{TestMount, TestServer, assert_same_lines, quick, sh, temp_dir};
use crate::{assert_same_stat, assert_same_tree, same_as_local};

/// A source tree of 2,000 to 3,000 files and at most 60 MB: crates of the local cargo registry, which are there
/// because this crate was built from them. `files` bounds the number; the shorter form has a quarter of it.
fn source_tree(into: &Path, files: usize) -> PathBuf {
    let files = if quick() { files / 4 } else { files };
    let home = std::env::var_os("CARGO_HOME")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cargo"), PathBuf::from);
    let mut crates: Vec<PathBuf> = std::fs::read_dir(home.join("registry/src"))
        .expect("cargo's registry, from which this crate was built")
        .flat_map(|index| std::fs::read_dir(index.unwrap().path()).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    crates.sort();
    let tree = into.join("tree");
    std::fs::create_dir(&tree).unwrap();
    let (mut count, mut bytes) = (0, 0);
    for source in crates {
        let sizes: Vec<u64> = walkdir::WalkDir::new(&source)
            .into_iter()
            .map(|e| e.unwrap())
            .filter(|e| e.file_type().is_file())
            .map(|e| e.metadata().unwrap().len())
            .collect();
        let size: u64 = sizes.iter().sum();
        if sizes.len() > 400 || count + sizes.len() > files || bytes + size > 60_000_000 {
            continue;
        }
        count += sizes.len();
        bytes += size;
        sh(into, &format!("cp -a '{}' tree/", source.display()));
    }
    assert!(count > files / 2, "only {count} files in the registry");
    // What crates do not have: an executable script, an empty file, an empty directory, a name with every trouble.
    sh(
        &tree,
        "printf '#!/bin/sh\\necho ran\\n' >run.sh; chmod 755 run.sh; : >empty; mkdir -p 'odd/empty dir'
         echo x >\"odd/a b+c%20&d=é'\\\"\\\\#?;:@,.txt\"; chmod 600 empty",
    );
    tree
}

// R10 R26 R33 R52 R54
#[test]
fn cp_a_stores_a_source_tree_and_diff_finds_no_difference() {
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    let local = temp_dir();
    let tree = source_tree(local.path(), 3000);
    mount.sh(&format!("cp -a '{}' copy", tree.display()));
    assert_same_tree(&tree, &mount.join("copy"));
    server.check_same(&tree, "copy");
    // Times and owners rode along.
    assert_same_stat(&tree, &mount.join("copy"), "%Y %u %g %n");
    // They are in the bucket: another mount, which has only that, shows them too.
    mount.umount();
    let mount = TestMount::new(&server);
    assert_same_stat(&tree, &mount.join("copy"), "%Y %u %g %n");
    assert_same_tree(&tree, &mount.join("copy"));
    // And out again.
    sh(local.path(), &format!("cp -a '{}' back", mount.join("copy").display()));
    assert_same_tree(&tree, &local.path().join("back"));
    mount.umount();
}

// R55
#[test]
fn tar_extracts_into_the_mount_and_packs_from_it() {
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    let local = temp_dir();
    let tree = source_tree(local.path(), 1000);
    sh(local.path(), "ln -s run.sh tree/link; tar cf tree.tar tree");
    mount.sh(&format!("tar xf '{}'", local.path().join("tree.tar").display()));
    assert_same_tree(&tree, &mount.join("tree"));
    server.check_same(&tree, "tree");
    // Packed by the mount into the mount, unpacked locally, after a remount that had to read everything again. Each
    // name was looked up before: a listing alone has neither modes nor times.
    mount.umount();
    let mount = TestMount::new(&server);
    assert_same_tree(&tree, &mount.join("tree"));
    mount.sh("tar cf packed.tar tree; tar df packed.tar");
    mount.umount();
    sh(local.path(), "mkdir unpacked");
    std::fs::write(local.path().join("packed.tar"), server.get("packed.tar")).unwrap();
    sh(local.path(), "tar xf packed.tar -C unpacked");
    assert_same_tree(&tree, &local.path().join("unpacked/tree"));
}

#[test]
fn tar_and_zip_change_archives_in_place() {
    same_as_local(
        "mkdir in; for i in $(seq 40); do seq $i 2000 >in/$i; done
         tar cf a.tar --mtime=@1000000000 --owner=0 --group=0 --sort=name in
         tar rf a.tar --mtime=@1000000000 --owner=0 --group=0 in/7
         tar --delete -f a.tar in/9
         tar tf a.tar | sort | uniq -c
         touch -d @1000000000 in/*; TZ=UTC zip -qX a.zip in/*
         echo more >>in/3; touch -d @1100000000 in/3; zip -uqX a.zip in/3; zip -dqX a.zip in/4; unzip -tq a.zip",
    );
}

/// rsync compares size and modification time: both have to stay what it set. Directory times are not kept (-O).
#[test]
fn rsync_a_second_time_sends_nothing() {
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    let local = temp_dir();
    let tree = source_tree(local.path(), 1000);
    let rsync = format!("rsync -aO --itemize-changes '{}/' '{}/'", tree.display(), mount.join("to").display());
    let first = sh(local.path(), &rsync);
    assert!(first.lines().filter(|l| l.starts_with(">f")).count() > if quick() { 100 } else { 400 }, "{first}");
    server.check_same(&tree, "to");
    assert_eq!(sh(local.path(), &rsync), "");
    // One file changed: one file sent. One deleted: one deleted.
    sh(&tree, "echo changed >>run.sh; rm empty");
    let third = sh(local.path(), &rsync.replace("-aO", "-aO --delete"));
    assert_eq!(third.lines().collect::<Vec<_>>().len(), 2, "{third}");
    server.check_same(&tree, "to");
    mount.umount();
    // Another mount has the same bytes.
    let mount = TestMount::new(&server);
    let compare =
        format!("rsync -rn --checksum --itemize-changes '{}/' '{}/'", tree.display(), mount.join("to").display());
    assert_eq!(sh(local.path(), &compare), "");
    mount.umount();
}

#[test]
fn rsync_with_inplace_and_partial_updates_big_files() {
    same_as_local(
        "d=$(mktemp -d); head -c 9000000 /dev/zero | tr '\\0' x >$d/f; rsync -a --inplace $d/f f
         printf changed | dd of=$d/f bs=1 seek=4500000 conv=notrunc status=none
         rsync -a --inplace --no-whole-file --ignore-times $d/f f; cmp $d/f f
         echo tail >>$d/f; rsync -a --append $d/f f; cmp $d/f f; rm -r $d; chmod 644 f",
    );
}

// R9 R34 R56
#[test]
fn what_rclone_wrote_is_read_through_the_mount() {
    let server = TestServer::start();
    let local = temp_dir();
    let tree = source_tree(local.path(), 1000);
    sh(&tree, "rmdir 'odd/empty dir'; chmod 644 run.sh empty; head -c 20000000 /dev/urandom >big");
    server.rclone(&["copy", tree.to_str().unwrap(), &server.remote("tree"), "--transfers", "8"]);
    // Files without attributes of ours are ordinary files: modes are the default, not those of the source.
    let mount = TestMount::new(&server);
    let names = "find . -mindepth 1 -printf '%y %p\\n' | sort";
    assert_same_lines(&mount.sh(&format!("cd tree; {names}")), &sh(&tree, names), "names");
    sh(local.path(), &format!("diff -r tree '{}'", mount.join("tree").display()));
    assert_eq!(mount.sh("stat -c %a tree/run.sh"), "644\n");
    // Both directions meet: changed here, seen there.
    mount.sh("echo more >>tree/run.sh; rm tree/empty; mv tree/big tree/large");
    sh(&tree, "echo more >>run.sh; rm empty; mv big large");
    server.check_same(&tree, "tree");
    mount.umount();
}

// R38 R50
#[test]
fn find_du_and_wc_agree_with_the_local_tree() {
    let server = TestServer::start();
    let local = temp_dir();
    let tree = source_tree(local.path(), 1500);
    sh(&tree, "rmdir 'odd/empty dir'");
    server.rclone(&["copy", tree.to_str().unwrap(), &server.remote("tree"), "--transfers", "8"]);
    let mount = TestMount::new(&server);
    let copy = mount.join("tree");
    for script in [
        "find . -type f | wc -l",
        "find . -type d | sort",
        "find . -name '*.rs' -size +2k | sort",
        "find . -type f -printf '%s\\n' | awk '{s+=$1} END {print s}'",
        "find . -type f -print0 | sort -z | xargs -0 cat | wc",
        "grep -rlw fn . | sort",
        "ls -1R | wc -l",
        "du --apparent-size -b -a | awk '!/\\.$/ {print}' | while read -r n f; do [ -d \"$f\" ] || echo \"$n $f\"; done | sort",
        "find . -name '*.md' -exec sha256sum {} + | sort",
    ] {
        assert_same_lines(&sh(&copy, script), &sh(&tree, script), script);
    }
    // What `find -delete` leaves is what it leaves elsewhere, here and in the bucket.
    for dir in [&copy, &tree] {
        sh(dir, "find . -name '*.rs' -delete; find . -type d -empty -delete");
    }
    server.check_same(&tree, "tree");
    mount.umount();
}

// R42 R44 R46
#[test]
fn mv_moves_files_and_directories() {
    same_as_local(
        "mkdir -p a/b/c x; for i in $(seq 30); do echo $i >a/b/f$i; echo $i >a/b/c/g$i; done
         mv a/b/f1 a/b/renamed; mv a/b/f2 x; mv a/b/f3 a/b/f4
         mv a/b x/moved; mv x/moved/c c; mv -n x/moved/f5 x/moved/f6; mv -T c x/emptied 2>/dev/null
         mkdir p q; echo 1 >p/same; mv -T p q; ls q
         echo odd >'with space'; mv 'with space' 'é +%41'; cd x/moved; mv ../../q/same .; ls ../.. | sort",
    );
}

#[test]
fn mv_between_file_systems_and_back() {
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    let local = temp_dir();
    sh(local.path(), "mkdir -p t/u; seq 100000 >t/u/n; echo x >t/x; chmod 640 t/x; cp -a t kept");
    sh(local.path(), &format!("mv t '{}'", mount.join("t").display()));
    server.check_same(&local.path().join("kept"), "t");
    sh(local.path(), &format!("mv '{}' t", mount.join("t").display()));
    assert_same_tree(&local.path().join("kept"), &local.path().join("t"));
    assert_eq!(server.list(""), [""; 0]);
    mount.umount();
}

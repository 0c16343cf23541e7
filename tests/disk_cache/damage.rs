//! Bytes on the disk that are not what was written, files that are not what they were, and directories that others
//! could write to.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use super::common::sh;
use super::{BLOCK, DiskSettings, MIB, Side, World, data_file, files_below, is_sums, world};
use xosfs::Kind;
use xosfs::budget::Budget;
use xosfs::cache::disk::{self, DiskCache};
use xosfs::read::Object;

/// What a daemon left that had read `object`.
async fn left_behind(world: &World, object: &Object) {
    let side = world.side();
    side.read(object).await;
    side.settle().await;
    drop(side);
    world.fetched();
}

/// Reads it anew: the right bytes, so many blocks from the store; and once more from the disk alone.
async fn heals(world: &World, object: &Object, damaged: u64) -> Side {
    let side = world.side();
    side.read(object).await;
    assert_eq!(world.fetched(), damaged, "blocks that were fetched again: {:?}", side.stats());
    side.settle().await;
    side.read_anew(object).await;
    assert_eq!(world.fetched(), 0, "what was fetched is kept: {:?}", side.stats());
    side
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

fn sums_file(dir: &Path) -> std::path::PathBuf {
    files_below(dir).into_iter().find(|p| is_sums(p)).unwrap()
}

// R108
#[tokio::test(flavor = "multi_thread")]
async fn cached_blocks_are_verified_before_they_are_used() {
    let world = world().await;
    let object = world.synthetic("k", 5 * MIB + 99).await;
    left_behind(&world, &object).await;
    let file = data_file(&world.dir());

    flip(&file, 3 * BLOCK as u64 + 17);
    flip(&file, 5 * MIB + 98);
    let side = heals(&world, &object, 2).await;
    assert!(side.stats().damaged >= 2);
    drop(side);

    // A sum, and one that was exchanged with its neighbour's.
    let sums = sums_file(&world.dir());
    flip(&sums, 8 * 4);
    let all = fs::read(&sums).unwrap();
    let file = OpenOptions::new().write(true).open(&sums).unwrap();
    file.write_all_at(&all[80..88], 88).unwrap();
    heals(&world, &object, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_cut_short_are_filled_again() {
    let world = world().await;
    let object = world.synthetic("k", 4 * MIB).await;
    left_behind(&world, &object).await;
    let file = OpenOptions::new().write(true).open(data_file(&world.dir())).unwrap();
    file.set_len(3 * MIB + 5).unwrap();
    heals(&world, &object, 8).await;

    // After a crash the blocks of a file may be zeros.
    file.set_len(MIB).unwrap();
    file.set_len(4 * MIB).unwrap();
    heals(&world, &object, 24).await;

    let sums = OpenOptions::new().write(true).open(sums_file(&world.dir())).unwrap();
    sums.set_len(8 * 30 + 3).unwrap();
    heals(&world, &object, 2).await;
    fs::remove_file(sums_file(&world.dir())).unwrap();
    heals(&world, &object, 32).await;

    let small = world.synthetic("small", 1000).await;
    left_behind(&world, &small).await;
    for file in files_below(&world.dir()).iter().filter(|f| f.metadata().unwrap().len() == 1008) {
        OpenOptions::new().write(true).open(file).unwrap().set_len(1004).unwrap();
    }
    heals(&world, &small, 1).await;
}

/// What stands in the place of a file cannot be read, or is somewhere else.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_is_not_read() {
    let world = world().await;
    let object = world.synthetic("k", MIB).await;
    left_behind(&world, &object).await;
    let file = data_file(&world.dir());
    let elsewhere = world.temp.path().join("elsewhere");
    fs::write(&elsewhere, "somebody's").unwrap();

    for plant in ["link", "pipe", "directory"] {
        let _ = fs::remove_file(&file);
        match plant {
            "link" => symlink(&elsewhere, &file).unwrap(),
            "pipe" => drop(sh(world.temp.path(), &format!("mkfifo {}", file.display()))),
            _ => fs::create_dir(&file).unwrap(),
        }
        let side = world.side();
        side.read(&object).await;
        assert_eq!(world.fetched(), 8, "{plant}");
        side.settle().await;
        assert_eq!(side.stats().hits, 0, "{plant}");
    }
    assert_eq!(fs::read(&elsewhere).unwrap(), b"somebody's");
}

// R109
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_others_is_refused() {
    let world = world().await;
    let refused = |settings: DiskSettings| match DiskCache::start(settings, Budget::new(1 << 20)) {
        Ok(_) => panic!("it is taken"),
        Err(e) => e,
    };
    let dir = world.dir();
    fs::create_dir(&dir).unwrap();
    for mode in [0o755, 0o770, 0o702] {
        fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
        let e = refused(world.settings());
        assert_eq!(e.kind(), Kind::NotPermitted);
        assert!(e.to_string().contains("chmod 700"), "{e}");
        assert_eq!(disk::guard(&dir).unwrap_err().kind(), Kind::NotPermitted);
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    disk::check(&dir).unwrap();

    let link = world.temp.path().join("link");
    symlink(&dir, &link).unwrap();
    let e = refused(DiskSettings { dir: link, ..world.settings() });
    assert_eq!(e.kind(), Kind::NotDir, "{e}");

    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&dir, Some(12345), None).unwrap();
        let e = refused(world.settings());
        assert!(e.to_string().contains("somebody else"), "{e}");
    }
}

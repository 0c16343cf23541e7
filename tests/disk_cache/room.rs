//! The bounds of the cache, and a disk that is full, gone or read-only.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::common::sh;
use super::{DiskSettings, MIB, World, eventually, eventually_kept, files_below, world};

/// A small file system of its own at `DIR/cache`, unmounted when dropped.
struct SmallDisk<'a>(&'a World);

impl SmallDisk<'_> {
    fn new(world: &World, mib: u64) -> SmallDisk<'_> {
        let script = format!("mkdir cache; mount -t tmpfs -o size={mib}M,mode=700 small cache");
        sh(world.temp.path(), &script);
        SmallDisk(world)
    }

    fn sh(&self, script: &str) {
        sh(self.0.temp.path(), script);
    }

    fn free(&self) -> u64 {
        let s = nix::sys::statvfs::statvfs(&self.0.dir()).unwrap();
        s.blocks_available() * s.fragment_size()
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0.dir(), nix::mount::MntFlags::MNT_DETACH);
    }
}

fn bytes_below(dir: &Path) -> u64 {
    files_below(dir).iter().filter_map(|f| fs::metadata(f).ok()).map(|m| m.blocks() * 512).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_used_for_longest_goes_first() {
    let world = world().await;
    let mut objects = Vec::new();
    for n in 0..8 {
        objects.push(world.synthetic(&format!("k{n}"), 4 * MIB).await);
    }
    {
        let side = world.side();
        for object in &objects {
            side.read(object).await;
        }
        side.settle().await;
        assert_eq!(side.stats().evicted, 0);
    }
    // As if they had been read an hour apart, the first one last.
    let mut files: Vec<_> = files_below(&world.dir());
    files.sort_by_key(|f| fs::metadata(f).unwrap().modified().unwrap());
    let hour = Duration::from_secs(3600);
    let now = std::time::SystemTime::now();
    let mut ages = Vec::new();
    for (n, object) in objects.iter().enumerate() {
        let side = world.side();
        let version = side.disk.version(&object.id, object.size).unwrap();
        let file = side.disk.clone();
        // The handle of the disk tells which file it is.
        let whole = loop {
            if let Some(file) = file.whole(&version) {
                break file;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let age = hour * if n == 0 { 1 } else { 20 - n as u32 };
        whole.set_times(fs::FileTimes::new().set_modified(now - age)).unwrap();
        ages.push(whole);
    }
    world.fetched();

    let side = world.side_with(DiskSettings { size: 18 * MIB, ..world.settings() });
    eventually("it is small enough", || side.stats().evicted > 0 && bytes_below(&world.dir()) <= 18 * MIB).await;
    assert!(bytes_below(&world.dir()) >= 12 * MIB, "not more than needed");
    // The youngest are k0, k7, k6, k5: their blocks are there.
    for n in [0, 7, 6] {
        side.read(&objects[n]).await;
        assert_eq!(world.fetched(), 0, "k{n}");
    }
    for n in [1, 2] {
        side.read(&objects[n]).await;
        assert_eq!(world.fetched(), 32, "k{n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_keeps_to_its_size_while_it_is_filled() {
    let world = world().await;
    let size = 16 * MIB;
    let side = world.side_with(DiskSettings { size, ..world.settings() });
    for n in 0..40 {
        side.read(&world.synthetic(&format!("k{n}"), 2 * MIB - n).await).await;
        side.settle().await;
        assert!(bytes_below(&world.dir()) <= size + size / 4, "after {n}: {}", bytes_below(&world.dir()));
    }
    eventually("it is small enough", || bytes_below(&world.dir()) <= size).await;
    let stats = side.stats();
    assert!(stats.evicted >= 8 && stats.evicted_bytes >= 16 * MIB, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_too_large_has_a_share() {
    let world = world().await;
    let side = world.side_with(DiskSettings { size: 32 * MIB, ..world.settings() });
    let object = world.synthetic("huge", 40 * MIB).await;
    side.read(&object).await;
    side.settle().await;
    let kept = bytes_below(&world.dir());
    assert!((8 * MIB..=17 * MIB).contains(&kept), "a quarter of 32 MiB and what was written together: {kept}");
    assert_eq!(side.stats().evicted, 0);
    side.read_anew(&object).await;
    assert!(side.stats().hits >= 64);
}

/// The floor of free space holds against what others store there.
#[tokio::test(flavor = "multi_thread")]
async fn free_space_is_left() {
    let world = world().await;
    let small = SmallDisk::new(&world, 64);
    let settings = DiskSettings { free: 24 * MIB, ..world.settings() };
    let side = world.side_with(settings);
    for n in 0..12 {
        side.read(&world.synthetic(&format!("k{n}"), 8 * MIB).await).await;
        side.settle().await;
        assert!(small.free() >= 24 * MIB, "{}", small.free());
    }
    assert!(side.stats().evicted > 0);
    // Somebody else needs room: the next walk gives it.
    small.sh("head -c 20M /dev/zero > cache/somebody");
    side.read(&world.synthetic("more", MIB).await).await;
    eventually("the floor is free again", || small.free() >= 24 * MIB).await;
    assert_eq!(side.stats().trouble, None);
}

// R109
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_cache_directory_degrades_to_reading_through() {
    let world = world().await;
    let small = SmallDisk::new(&world, 16);
    let side = world.side();

    // Full.
    small.sh("head -c 12M /dev/zero > cache/somebody");
    let object = world.synthetic("full", 8 * MIB).await;
    side.read(&object).await;
    side.settle().await;
    assert!(side.stats().trouble.is_some() || side.stats().dropped > 0, "{:?}", side.stats());
    small.sh("rm cache/somebody");
    let object = world.synthetic("roomy", 4 * MIB).await;
    eventually_kept(&world, &side, &object).await;

    // Read-only: what is there can be used. While files are open for writing the kernel refuses.
    drop(side);
    let remount = || super::common::try_sh(world.temp.path(), "mount -o remount,ro cache").code == Some(0);
    eventually("nobody writes there", remount).await;
    let side = world.side();
    side.read(&object).await;
    assert_eq!(world.fetched(), 0);
    let other = world.synthetic("other", MIB).await;
    side.read(&other).await;
    side.settle().await;
    assert!(side.stats().trouble.is_some(), "{:?}", side.stats());
    assert!(!side.disk.keeps(4096), "nothing is fetched for it as a whole");
    assert_eq!(world.fetched(), 8);
    small.sh("mount -o remount,rw cache");
    eventually_kept(&world, &side, &other).await;
    assert_eq!(side.stats().trouble, None);
    assert!(side.disk.keeps(4096));

    // Gone, and made again.
    fs::remove_dir_all(world.dir().join("objects-1")).unwrap();
    fs::remove_dir_all(world.dir().join("incoming-1")).unwrap();
    let third = world.synthetic("third", 2 * MIB).await;
    side.read(&third).await;
    side.settle().await;
    assert!(side.stats().trouble.is_some());
    eventually_kept(&world, &side, &third).await;
    assert_eq!(side.stats().trouble, None);
}

/// A directory that cannot be had when the mount begins is no reason not to mount.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_comes_later_is_used_then() {
    let world = world().await;
    let parent = world.temp.path().join("disk");
    fs::write(&parent, "a file where a directory has to be").unwrap();
    let side = world.side_with(DiskSettings { dir: parent.join("cache"), ..world.settings() });
    let object = world.synthetic("k", MIB).await;
    side.read(&object).await;
    assert!(side.stats().trouble.is_some());
    fs::remove_file(&parent).unwrap();
    eventually_kept(&world, &side, &object).await;
}

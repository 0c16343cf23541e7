//! A cache of very many files, left by earlier mounts.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{DiskSettings, MIB, eventually, files_below, world};

const COUNT: usize = 60_000;
/// More than a walk keeps to choose from.
const LEAST: u64 = 40_000;

fn path(dir: &Path, n: usize) -> PathBuf {
    let name = format!("{:016x}{n:048x}", xosfs::key::stable_hash(&n.to_le_bytes()));
    dir.join("objects-1").join(&name[..2]).join(&name[2..3]).join(name)
}

/// Files as versions have them, each a second older than the one before. Bytes that they take on the disk.
fn fill(dir: &Path) -> u64 {
    let now = SystemTime::now();
    for part in 0..=0xfff_u32 {
        let place = dir.join("objects-1").join(format!("{:02x}/{:x}", part >> 4, part & 0xf));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(place).unwrap();
    }
    for n in 0..COUNT {
        let file = fs::File::create_new(path(dir, n)).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"content", 0).unwrap();
        file.set_modified(now - Duration::from_secs(60 + n as u64)).unwrap();
    }
    // Blocks are given to files when they are written out.
    super::common::sh(dir, "sync -f .");
    bytes_below(dir)
}

fn bytes_below(dir: &Path) -> u64 {
    files_below(dir).iter().filter_map(|f| fs::metadata(f).ok()).map(|m| m.blocks() * 512).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn very_many_files_are_counted_and_given_up_by_few_walks() {
    let world = world().await;
    let object = world.synthetic("k", MIB).await;
    {
        let side = world.side();
        side.read(&object).await;
        side.settle().await;
        world.fetched();
    }
    let bytes = fill(&world.dir());
    let versions = COUNT as u64 + 1;
    assert!(bytes / versions >= 512, "{bytes} bytes");
    {
        let side = world.side_with(DiskSettings { size: 2 * bytes, ..world.settings() });
        // Whether the walk is over or not.
        side.read(&object).await;
        assert_eq!(world.fetched(), 0);
        eventually("all is counted", || side.stats().counted).await;
        let stats = side.stats();
        assert_eq!((stats.bytes, stats.walked, stats.evicted), (bytes, versions, 0), "{stats:?}");
    }
    // As if the cache had been larger: more has to go than one walk gives up.
    let each = bytes / versions;
    let size = bytes - LEAST * each;
    // A sixteenth goes on top, so that it is not the next block's turn again.
    let goal = size - size / 16;
    let side = world.side_with(DiskSettings { size, ..world.settings() });
    eventually("there is room", || side.stats().counted && side.stats().bytes <= goal).await;
    let stats = side.stats();
    assert!(stats.evicted >= LEAST && stats.evicted <= LEAST + COUNT as u64 / 16 + 100, "{stats:?}");
    assert!(stats.walked < 2 * versions, "{stats:?}");
    assert!(bytes_below(&world.dir()) <= size);
    // The oldest are gone, the others are here.
    let gone = stats.evicted as usize;
    assert!((COUNT - gone + 1..COUNT).all(|n| !path(&world.dir(), n).exists()));
    assert!((0..COUNT - gone - 1).all(|n| path(&world.dir(), n).exists()));
    side.read_anew(&object).await;
    assert_eq!(world.fetched(), 0);
}

//! What needs no threads: how much is looked at, and when.

use std::os::unix::fs::DirBuilderExt;

use super::*;
use crate::key::Key;
use crate::s3::ETag;

const MIB: u64 = 1 << 20;

fn open(dir: &Path, size: u64) -> Arc<Inner> {
    let settings = DiskSettings {
        dir: dir.to_owned(),
        store: "store".into(),
        size,
        free: 0,
        queue: 64 << 20,
        retry: Duration::from_secs(1),
    };
    DiskCache::open(settings, Budget::new(64 << 20)).unwrap()
}

/// Versions of earlier mounts, in the places of the first `count` hashes.
fn fill(dir: &Path, count: usize) {
    let objects = dir.join("objects-1");
    for n in 0..count {
        let name = format!("{:016x}{n:048x}", crate::key::stable_hash(&n.to_le_bytes()));
        let place = objects.join(&name[..2]).join(&name[2..3]);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&place).unwrap();
        std::fs::write(place.join(name), [1; 4096]).unwrap();
    }
}

fn walked(inner: &Inner) -> u64 {
    inner.counters.walked.load(Ordering::Relaxed)
}

#[test]
fn nothing_is_looked_at_before_the_cache_is_used() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("cache");
    let id = ObjectId { key: Key::new("k").unwrap(), etag: ETag::new("e"), version: None };
    let version = Version::of("store", &id, 5).unwrap();
    let inner = open(&dir, 64 * MIB);
    inner.entry_to_write(&version).unwrap().write(0, &[Bytes::from_static(b"bytes")]).unwrap();
    drop(inner);
    fill(&dir, 1000);

    let inner = open(&dir, 64 * MIB);
    let cache = BlockCache::new(inner.budget.clone());
    let mut buffer = |len: usize| cache.buffer(len, inner.budget.try_lease(block_cost(len)).unwrap());
    let found = inner.read(&version, 0..1, &mut buffer).unwrap();
    assert_eq!(found, [Some(Bytes::from_static(b"bytes"))]);
    assert_eq!((walked(&inner), inner.is_counted(), inner.bytes.load(Ordering::Relaxed)), (0, false, 0));

    assert!(!sweep::sweep(&inner));
    let bytes = inner.bytes.load(Ordering::Relaxed);
    assert!(walked(&inner) == 1001 && inner.is_counted() && bytes >= 1001 * 4096, "{bytes}");
}

/// What earlier mounts left is not known before the first walk is over: it may be all that there may be.
#[test]
fn a_cache_that_is_not_counted_takes_a_part_of_its_size() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("cache");
    drop(open(&dir, 8 * MIB));
    fill(&dir, 2000);
    let inner = open(&dir, 8 * MIB);
    let mut writer = writer::Writer::new(&inner);
    assert!(writer.has_room(MIB));
    inner.added(MIB);
    assert!(!writer.has_room(1), "there may be 8 MiB already");
    sweep::sweep(&inner);
    assert!(inner.bytes.load(Ordering::Relaxed) >= 2000 * 4096);
    assert!(writer.has_room(MIB / 2));
}

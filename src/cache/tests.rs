use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use super::*;
use crate::error::Kind;
use crate::s3::ETag;

fn id(key: &str, etag: &str) -> ObjectId {
    ObjectId { key: Key::new(key).unwrap(), etag: ETag::new(etag), version: None }
}

fn full(cache: &BlockCache, byte: u8) -> Bytes {
    let mut buffer = cache.buffer(BLOCK, cache.budget().try_lease(block_cost(BLOCK)).unwrap());
    buffer.fill(&[byte; BLOCK]);
    buffer.freeze()
}

fn claimed(cache: &BlockCache, object: &Arc<CachedObject>, index: u64) -> Claim {
    match cache.find(object, index..index + 1, Touch::Young).pop() {
        Some(Found::Claimed(claim)) => claim,
        _ => panic!("block {index} should be free"),
    }
}

/// Gets block 0 as a reader would; `fetches` counts who had to fetch.
async fn get(cache: &Arc<BlockCache>, object: &Arc<CachedObject>, fetches: &AtomicUsize) -> Landing {
    match cache.find(object, 0..1, Touch::Young).pop() {
        Some(Found::Ready(data)) => Landing::Ready(data),
        Some(Found::Pending(flight)) => flight.wait().await,
        Some(Found::Claimed(claim)) => {
            fetches.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            let data = full(cache, 9);
            claim.fill(data.clone());
            Landing::Ready(data)
        }
        None => unreachable!(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_readers_cause_one_fetch() {
    let cache = BlockCache::new(Budget::new(64 * BLOCK));
    let fetches = Arc::new(AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (cache, fetches) = (cache.clone(), fetches.clone());
        tasks.spawn(async move {
            let object = cache.object(&id("k", "e"));
            match get(&cache, &object, &fetches).await {
                Landing::Ready(data) => assert_eq!(&data[..], &[9; BLOCK][..]),
                other => panic!("{other:?}"),
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(fetches.load(Ordering::SeqCst), 1);
    assert_eq!((cache.stats().blocks, cache.stats().pending, cache.stats().misses), (1, 0, 1));
}

#[test]
fn the_oldest_blocks_make_room_and_the_budget_holds() {
    let budget = Budget::new(10 * block_cost(BLOCK));
    let cache = BlockCache::new(budget.clone());
    let object = cache.object(&id("k", "e"));
    for index in 0..10 {
        claimed(&cache, &object, index).fill(full(&cache, index as u8));
    }
    // 0 is used again, 1 only passed.
    assert!(cache.all_ready(&object, 0..1, Touch::Young).is_some());
    assert!(cache.all_ready(&object, 1..2, Touch::Keep).is_some());
    for index in 10..15 {
        claimed(&cache, &object, index).fill(full(&cache, index as u8));
        assert!(budget.used() <= budget.limit());
    }
    assert!(cache.all_ready(&object, 0..1, Touch::Young).is_some());
    for index in 1..6 {
        assert!(cache.all_ready(&object, index..index + 1, Touch::Young).is_none(), "{index}");
    }
    assert_eq!(cache.all_ready(&object, 6..15, Touch::Young).unwrap()[8][0], 14);
    let stats = cache.stats();
    assert_eq!((stats.blocks, stats.bytes, stats.evicted), (10, 10 * BLOCK, 5));
}

#[test]
fn blocks_being_fetched_are_never_given_up() {
    let budget = Budget::new(4 * block_cost(BLOCK));
    let cache = BlockCache::new(budget.clone());
    let object = cache.object(&id("k", "e"));
    let held: Vec<_> = (0..4).map(|i| (claimed(&cache, &object, i), full(&cache, 1))).collect();
    assert!(budget.try_lease(1).is_none());
    assert_eq!(cache.stats().pending, 4);
    for (claim, data) in held {
        claim.fill(data);
    }
    assert!(budget.try_lease(1).is_some());
}

#[tokio::test]
async fn a_failure_wakes_all_and_the_next_try_fetches_again() {
    let cache = BlockCache::new(Budget::new(64 * BLOCK));
    let object = cache.object(&id("k", "e"));
    let claim = claimed(&cache, &object, 0);
    let waiters: Vec<_> = (0..10)
        .map(|_| {
            let flight = claim.flight();
            tokio::spawn(async move { flight.wait().await })
        })
        .collect();
    tokio::task::yield_now().await;
    claim.fail(Error::new(Kind::Unavailable, "get object"));
    for waiter in waiters {
        match waiter.await.unwrap() {
            Landing::Failed(e) => assert_eq!(e.kind(), Kind::Unavailable),
            other => panic!("{other:?}"),
        }
    }
    let again = claimed(&cache, &object, 0);
    again.fill(full(&cache, 3));
    assert!(cache.all_ready(&object, 0..1, Touch::Young).is_some());
}

#[tokio::test]
async fn a_cancelled_fetch_sets_the_block_free() {
    let cache = BlockCache::new(Budget::new(64 * BLOCK));
    let object = cache.object(&id("k", "e"));
    let claim = claimed(&cache, &object, 0);
    let flight = claim.flight();
    let fetch = tokio::spawn(async move {
        std::future::pending::<()>().await;
        drop(claim);
    });
    tokio::task::yield_now().await;
    fetch.abort();
    assert!(matches!(flight.wait().await, Landing::Abandoned));
    drop(claimed(&cache, &object, 0));
    assert_eq!(cache.stats().pending, 0);
}

#[test]
fn versions_never_mix_and_names_do_not_pile_up() {
    let cache = BlockCache::new(Budget::new(64 * BLOCK));
    let old = cache.object(&id("k", "1"));
    let new = cache.object(&id("k", "2"));
    claimed(&cache, &old, 0).fill(full(&cache, 1));
    assert!(cache.all_ready(&new, 0..1, Touch::Young).is_none());
    claimed(&cache, &new, 0).fill(full(&cache, 2));
    assert_eq!(cache.all_ready(&cache.object(&id("k", "1")), 0..1, Touch::Young).unwrap()[0][0], 1);
    drop((old, new));
    assert_eq!(cache.stats().objects, 2, "blocks keep their version known");
    cache.forget_key(&Key::new("k").unwrap());
    assert_eq!(cache.stats(), CacheStats { hits: 1, misses: 2, ..CacheStats::default() });
    assert_eq!(cache.budget().used(), 0);
}

#[test]
fn a_stale_version_keeps_no_block_and_can_be_known_anew() {
    let cache = BlockCache::new(Budget::new(64 * BLOCK));
    let object = cache.object(&id("k", "1"));
    claimed(&cache, &object, 0).fill(full(&cache, 1));
    let late = claimed(&cache, &object, 1);
    cache.set_stale(&object, &Error::from(Kind::Stale));
    late.fill(full(&cache, 1));
    assert_eq!(cache.stats().blocks, 0);
    assert_eq!(object.stale().unwrap().kind(), Kind::Stale);
    // The old bytes may be stored again under the same tag: a new open is not punished for the old handle.
    assert!(cache.object(&id("k", "1")).stale().is_none());
}

//! R97: what becomes of a commit when somebody else stored a newer version, with and without conditional requests.
#![cfg(feature = "demo")]

mod world;

use bytes::Bytes;

use world::{BUCKET, PAGE, World, key, pattern, small, whole, world};
use xosfs::Kind;
use xosfs::demo::{Action, Rule};
use xosfs::s3::{Condition, ETag, NewObject};
use xosfs::write::{OnConflict, WriteSettings};

/// A store that has conditional requests, one that refuses them, one that is known not to have them, and a bucket with
/// versions on one that ignores them there.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Store {
    Conditional,
    Refusing,
    Known,
    Versions,
}

const STORES: [Store; 4] = [Store::Conditional, Store::Refusing, Store::Known, Store::Versions];

async fn shared(on_conflict: OnConflict, store: Store) -> World {
    let conditional_puts = store != Store::Known;
    let t = world(64 << 20, WriteSettings { on_conflict, conditional_puts, ..small() }).await;
    t.server.knobs().set(|b| b.no_conditional_put = matches!(store, Store::Refusing | Store::Known));
    if store == Store::Versions {
        t.server.knobs().set(|b| b.ceph = true);
        t.server.store().enable_versioning(BUCKET);
        // As every mount does; the answer shows whose it is.
        t.s3.head_bucket().await.unwrap();
    }
    t
}

fn keys(t: &World) -> Vec<String> {
    t.server.store().list(BUCKET, "")
}

/// The one key that is not `name`.
fn beside(t: &World, name: &str) -> String {
    let mut others: Vec<_> = keys(t).into_iter().filter(|k| k != name).collect();
    assert_eq!(others.len(), 1, "{others:?}");
    others.remove(0)
}

// R97
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overwrite_is_the_last_commit() {
    let t = shared(OnConflict::Overwrite, Store::Conditional).await;
    t.server.store().put(BUCKET, "f.txt", "first");
    let w = t.open("f.txt").await;
    w.write(0, Bytes::from_static(b"mine!")).await.unwrap();
    t.server.store().put(BUCKET, "f.txt", "second");
    t.server.clear_log();
    let kind = w.commit().await.map(|_| ()).map_err(|e| e.kind());
    // All of it was written, so nothing of the version that is gone is needed.
    assert_eq!(kind, Ok(()));
    assert_eq!(t.stored("f.txt").unwrap(), "mine!");
    assert_eq!(t.server.log().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fail_is_estale_and_what_was_written_stays() {
    for store in STORES {
        let t = shared(OnConflict::Fail, store).await;
        for size in [5, 3 * PAGE] {
            t.server.store().put(BUCKET, "f", pattern(1, size));
            let w = t.open("f").await;
            let ours = pattern(2, size);
            w.write(0, Bytes::from(ours.clone())).await.unwrap();
            let theirs = pattern(3, size);
            t.server.store().put(BUCKET, "f", theirs.clone());
            for _ in 0..2 {
                let e = w.commit().await.unwrap_err();
                assert_eq!((e.kind(), e.kind().errno()), (Kind::Conflict, libc::ESTALE), "{store:?}");
            }
            assert!(t.stored("f").unwrap() == theirs);
            assert!(w.is_dirty() && whole(&w).await == ours);
            // From the newer version on it works.
            let w = t.open("f").await;
            w.write(0, Bytes::from(ours.clone())).await.unwrap();
            w.commit().await.unwrap().unwrap();
            w.append(Bytes::from_static(b"again")).await.unwrap();
            w.commit().await.unwrap().unwrap();
            assert_eq!(t.stored("f").unwrap().len() as u64, size + 5);
        }
        t.is_clean().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_and_emptied_files_conflict_as_well() {
    for store in STORES {
        let t = shared(OnConflict::Fail, store).await;
        for size in [5, 3 * PAGE] {
            // New here, and somebody else's new file meanwhile.
            let w = t.create("new");
            w.replacing(None);
            w.write(0, Bytes::from(pattern(2, size))).await.unwrap();
            t.server.store().put(BUCKET, "new", "theirs");
            assert_eq!(w.commit().await.unwrap_err().kind(), Kind::Conflict, "{store:?}");
            assert_eq!(t.stored("new").unwrap(), "theirs");
            // Emptied by O_TRUNC.
            let old = t.server.store().put(BUCKET, "emptied", "old");
            let w = t.create("emptied");
            w.replacing(Some(ETag::new(&old)));
            w.write(0, Bytes::from(pattern(2, size))).await.unwrap();
            t.server.store().put(BUCKET, "emptied", "theirs");
            assert_eq!(w.commit().await.unwrap_err().kind(), Kind::Conflict, "{store:?}");
            assert_eq!(t.stored("emptied").unwrap(), "theirs");
            // Without anybody else.
            t.server.store().delete(BUCKET, "new");
            let w = t.create("new");
            w.replacing(None);
            w.write(0, Bytes::from(pattern(2, size))).await.unwrap();
            w.commit().await.unwrap().unwrap();
            t.server.store().delete(BUCKET, "new");
        }
        t.is_clean().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keep_both_stores_ours_beside_theirs() {
    for store in STORES {
        // One PUT, and several parts; as much as is not streamed yet.
        for size in [5, 3 * PAGE - 1] {
            for new in [false, true] {
                let t = shared(OnConflict::KeepBoth, store).await;
                let w = if new {
                    let w = t.create("d/f.txt");
                    w.replacing(None);
                    w
                } else {
                    t.server.store().put(BUCKET, "d/f.txt", pattern(1, size));
                    t.open("d/f.txt").await
                };
                let mut ours = pattern(2, size);
                w.write(0, Bytes::from(ours.clone())).await.unwrap();
                t.server.store().put(BUCKET, "d/f.txt", "theirs");
                let done = w.commit().await.unwrap().unwrap();
                let other = beside(&t, "d/f.txt");
                assert!(other.starts_with("d/f (conflict ") && other.ends_with(").txt"), "{other}");
                assert!(done.beside && done.object.id.key.as_str() == other);
                assert_eq!(t.stored("d/f.txt").unwrap(), "theirs");
                assert!(t.stored(&other).unwrap() == ours);
                // The handle goes on with ours.
                w.append(Bytes::from_static(b"more")).await.unwrap();
                ours.extend_from_slice(b"more");
                assert!(whole(&w).await == ours);
                assert!(!w.commit().await.unwrap().unwrap().beside);
                assert!(t.stored(&other).unwrap() == ours);
                assert_eq!(keys(&t).len(), 2);
                drop(w);
                t.is_clean().await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keep_both_overwrites_nothing_beside_either() {
    let t = shared(OnConflict::KeepBoth, Store::Conditional).await;
    let mut writers = Vec::new();
    for n in 0..4u8 {
        let w = t.create("f");
        w.replacing(None);
        w.write(0, Bytes::from(vec![n; 100])).await.unwrap();
        writers.push(w);
    }
    // All within the same second, or not: nobody's bytes are lost.
    for w in &writers {
        w.commit().await.unwrap().unwrap();
    }
    let mut all: Vec<u8> = keys(&t).iter().map(|k| t.stored(k).unwrap()[0]).collect();
    all.sort_unstable();
    assert_eq!(all, vec![0, 1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_streamed_file_keeps_its_name_and_theirs_is_moved() {
    for store in STORES {
        let t = shared(OnConflict::KeepBoth, store).await;
        let w = t.create("s.bin");
        w.replacing(None);
        let ours = pattern(4, 12 * PAGE + 7);
        w.write(0, Bytes::from(ours.clone())).await.unwrap();
        t.server.store().put(BUCKET, "s.bin", "theirs");
        let done = w.commit().await.unwrap().unwrap();
        assert!(!done.beside);
        assert!(t.stored("s.bin").unwrap() == ours);
        assert_eq!(t.stored(&beside(&t, "s.bin")).unwrap(), "theirs");
        drop(w);
        t.is_clean().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_the_version_that_is_gone_is_a_conflict_everywhere() {
    for on_conflict in [OnConflict::Overwrite, OnConflict::Fail, OnConflict::KeepBoth] {
        let t = shared(on_conflict, Store::Conditional).await;
        t.server.store().put(BUCKET, "f", pattern(5, 20 * PAGE));
        let w = t.open("f").await;
        w.write(3 * PAGE, Bytes::from_static(b"mine")).await.unwrap();
        let theirs = pattern(6, 20 * PAGE);
        t.server.store().put(BUCKET, "f", theirs.clone());
        assert_eq!(w.commit().await.unwrap_err().kind(), Kind::Conflict);
        assert!(t.stored("f").unwrap() == theirs);
        assert_eq!(keys(&t), vec!["f".to_owned()]);
        drop(w);
        t.is_clean().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exclusive_create_stays_eexist() {
    for on_conflict in [OnConflict::Overwrite, OnConflict::Fail, OnConflict::KeepBoth] {
        for store in STORES {
            let t = shared(on_conflict, store).await;
            t.server.store().put(BUCKET, "f", "theirs");
            let object = NewObject::default();
            let w = xosfs::write::Writer::new(t.io.clone(), key("f"), None, object, Condition::Absent);
            w.write(0, Bytes::from_static(b"ours")).await.unwrap();
            assert_eq!(w.commit().await.unwrap_err().kind(), Kind::Exists);
            assert_eq!(keys(&t), vec!["f".to_owned()]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whether_a_bucket_has_versions_is_asked_once_and_of_ceph_only() {
    for (store, versions, asked) in [(Store::Versions, true, 1), (Store::Versions, false, 1), (Store::Known, true, 0)] {
        let t = world(64 << 20, WriteSettings { on_conflict: OnConflict::Fail, ..small() }).await;
        t.server.knobs().set(|b| b.ceph = store == Store::Versions);
        if versions {
            t.server.store().enable_versioning(BUCKET);
        }
        t.s3.head_bucket().await.unwrap();
        t.server.clear_log();
        for n in 0..3 {
            let w = t.create(&format!("f{n}"));
            w.replacing(None);
            w.commit().await.unwrap().unwrap();
        }
        let looks = if store == Store::Versions && versions { 3 } else { 0 };
        for (operation, count) in [("GetBucketVersioning", asked), ("HeadObject", looks), ("PutObject", 3)] {
            let log = t.server.log();
            let n = log.iter().filter(|r| r.operation == operation).count();
            assert_eq!(n, count, "{operation}, {store:?}, versions: {versions}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_that_are_switched_on_meanwhile_are_seen_in_the_first_answer() {
    let t = shared(OnConflict::Fail, Store::Conditional).await;
    t.server.knobs().set(|b| b.ceph = true);
    t.s3.head_bucket().await.unwrap();
    let new = |name: &'static str| {
        let w = t.create(name);
        w.replacing(None);
        w
    };
    new("first").commit().await.unwrap().unwrap();
    t.server.store().enable_versioning(BUCKET);
    new("second").commit().await.unwrap().unwrap();
    let third = new("third");
    t.server.store().put(BUCKET, "third", "theirs");
    assert_eq!(third.commit().await.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(t.stored("third").unwrap(), "theirs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_beside_is_an_error_and_the_next_commit_tries_again() {
    let t = shared(OnConflict::KeepBoth, Store::Conditional).await;
    t.server.store().put(BUCKET, "f", "first");
    let w = t.open("f").await;
    w.write(0, Bytes::from_static(b"mine!")).await.unwrap();
    t.server.store().put(BUCKET, "f", "theirs");
    t.server.knobs().fail(Rule::new("PutObject", Action::Status(403, "AccessDenied".into())).key("conflict"));
    assert_eq!(w.commit().await.unwrap_err().kind(), Kind::Conflict);
    assert!(w.is_dirty());
    assert_eq!(keys(&t), vec!["f".to_owned()]);
    assert!(w.commit().await.unwrap().unwrap().beside);
    assert_eq!(t.stored(&beside(&t, "f")).unwrap(), "mine!");
}

//! Files that are sent while they are written, and a store that fails: what handles, names and the bucket show.

use std::sync::LazyLock;
use std::time::Duration;

use super::*;
use xosfs::demo::{Action, Rule};

const COMPLETE: &str = "CompleteMultipartUpload";
const OPTIONS: &str = "stream_after=5M,part_size=5M";
/// The first two parts of 10 MiB each, and more.
const SIZE: usize = 33 * MIB as usize + 3;

fn content() -> &'static [u8] {
    static CONTENT: LazyLock<Vec<u8>> = LazyLock::new(|| (0..SIZE).map(|i| (i / 5) as u8 ^ (i >> 13) as u8).collect());
    &CONTENT
}

fn broken() -> Rule {
    Rule::new(COMPLETE, Action::Status(500, "InternalError".into())).always()
}

/// A file of which parts were sent, open.
async fn streaming(m: &Mount, path: &str) -> Fh {
    let fh = m.create(path, read_write()).await.unwrap();
    for (piece, at) in content().chunks(MIB as usize).zip((0..).step_by(MIB as usize)) {
        m.put_at(fh, at, piece).await.unwrap();
    }
    fh
}

fn holds(w: &World, path: &str) -> bool {
    w.server.store().get(BUCKET, path).is_some_and(|b| b == content())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_commit_is_reported_until_it_is_repeated() {
    let w = world();
    let m = w.mount_with(OPTIONS);
    let first = streaming(&m, "f").await;
    let second = m.open("f", read_write()).await.unwrap().fh;
    w.server.knobs().fail(broken());
    for fh in [first, second, first] {
        assert_eq!(kind(m.fsync(fh).await), Kind::Unavailable);
        assert_eq!(kind(m.flush(fh, std::process::id()).await), Kind::Unavailable);
    }
    assert_eq!(kind(m.close(first).await), Kind::Unavailable);
    assert!(w.keys().is_empty());
    // The store is back. The other handle's close stores what the first one wrote.
    w.server.knobs().clear_rules();
    w.requests();
    m.close(second).await.unwrap();
    assert!(holds(&w, "f"));
    assert_eq!(w.requests().get("UploadPart"), None, "nothing is sent twice");
    assert_eq!(m.stat("f").await.unwrap().attr.size, SIZE as u64);
    assert!(m.drain(Duration::from_secs(20)).await.is_empty());
    assert_eq!(w.server.store().uploads(BUCKET), vec![]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_reported_as_failed_does_not_appear_later() {
    let w = world();
    let m = w.mount_with(OPTIONS);
    for (path, old) in [("new", false), ("changed", true)] {
        if old {
            w.put(path, "old");
        }
        let before = w.keys();
        let fh = match m.find(path).await.unwrap() {
            Some(entry) => {
                let fh = m.0.open(entry.ino, OpenMode::of_flags(libc::O_RDWR | libc::O_TRUNC)).await.unwrap().fh;
                for (piece, at) in content().chunks(MIB as usize).zip((0..).step_by(MIB as usize)) {
                    m.put_at(fh, at, piece).await.unwrap();
                }
                fh
            }
            None => streaming(&m, path).await,
        };
        // For as long as close takes, and not a moment longer.
        w.server.knobs().fail(broken());
        assert_eq!(kind(m.flush(fh, std::process::id()).await), Kind::Unavailable);
        w.server.knobs().clear_rules();
        let _ = m.release(fh).await;
        assert!(m.drain(Duration::from_secs(20)).await.is_empty());
        assert_eq!((w.keys(), w.server.store().uploads(BUCKET)), (before, vec![]), "{path}");
        assert_eq!(w.get(path).as_deref(), old.then_some("old"));
        assert_eq!(m.find(path).await.unwrap().is_some(), old);
    }
}

// R5 R23 R47
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_a_read_had_to_store_is_known_to_be_stored() {
    let w = world();
    let m = w.mount_with(OPTIONS);
    let fh = streaming(&m, "f").await;
    // What was sent is had again by completing the upload.
    let at = 12 * MIB as usize;
    assert!(m.at(fh, at as u64, 1000).await.unwrap() == content()[at..at + 1000]);
    assert!(holds(&w, "f"));
    m.close(fh).await.unwrap();
    assert_eq!(m.stat("f").await.unwrap().attr.size, SIZE as u64);
    m.rename("f", "g").await.unwrap();
    assert!(w.keys() == ["g"] && holds(&w, "g"));
    m.unlink("g").await.unwrap();
    assert!(w.keys().is_empty());
}

// R12 R78
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_takes_no_parts_for_a_while_loses_nothing() {
    let w = world();
    // Without retries it would depend on the speed of this machine whether the close meets a failure of its own.
    let m = w.mount_with(&format!("{OPTIONS},retries=3"));
    w.server.knobs().fail(Rule::new("UploadPart", Action::Status(500, "InternalError".into())).times(2));
    w.server.knobs().fail(Rule::new("CreateMultipartUpload", Action::Drop).times(1));
    let fh = streaming(&m, "f").await;
    m.close(fh).await.unwrap();
    assert!(holds(&w, "f"));
    assert_eq!(w.server.store().uploads(BUCKET), vec![]);
}

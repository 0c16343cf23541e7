//! Directories with more entries than a handle keeps: seeking in them (telldir, seekdir, rewinddir).

use std::time::Duration;

use xosfs::demo::{Action, Rule};

use super::*;

/// Names so long that the listing does not fit into an eighth of 64 MiB.
const COUNT: usize = 30_000;
const OPTIONS: &str = "memory=64M,metadata_ttl=10m";

fn long(n: usize) -> String {
    format!("{n:05}-{}", "x".repeat(200))
}

/// Entries by cookie, from `offset` to the end.
async fn rest(m: &Mount, fh: Fh, mut offset: u64) -> BTreeMap<u64, String> {
    let mut all = BTreeMap::new();
    loop {
        let batch = m.read_directory(fh, offset).await.unwrap();
        assert!(batch.offset >= offset);
        if batch.items.is_empty() {
            return all;
        }
        offset = batch.offset + batch.items.len() as u64;
        for (cookie, item) in (batch.offset..).zip(&batch.items) {
            assert!(all.insert(cookie, item.name.as_str().to_owned()).is_none());
        }
    }
}

/// What a large directory is made of: files, directories, and names that are both.
fn fill(w: &World) -> Vec<String> {
    let mut names = Vec::new();
    for n in 0..COUNT {
        match n % 100 {
            7 => w.put(&format!("d/{}/below", long(n)), "x"),
            8 => {
                w.put(&format!("d/{}", long(n)), "x");
                w.put(&format!("d/{}-1", long(n)), "x");
                w.put(&format!("d/{}/below", long(n)), "x");
                names.extend([format!("{}-1", long(n)), format!("{}@@file", long(n))]);
            }
            _ => w.put(&format!("d/{}", long(n)), "x"),
        }
        names.push(long(n));
    }
    names.sort();
    names
}

fn used(m: &Mount) -> usize {
    m.reads.cache().budget().used()
}

// R38
#[tokio::test(flavor = "multi_thread")]
async fn a_position_in_a_large_directory_stands_for_its_name() {
    let w = world();
    let mut expected = fill(&w);
    let m = w.mount_with(OPTIONS);
    m.mkdir("d/own").await.unwrap();
    let own = m.create("d/zz-own", OpenMode::of_flags(libc::O_WRONLY)).await.unwrap();
    expected.extend(["own".to_owned(), "zz-own".to_owned()]);
    let dir = m.stat("d").await.unwrap().ino;
    w.requests();
    let fh = m.opendir(dir).unwrap();
    let whole = rest(&m, fh, 0).await;
    assert_eq!(whole.keys().copied().collect::<Vec<_>>(), (0..expected.len() as u64).collect::<Vec<_>>());
    let mut names: Vec<String> = whole.values().cloned().collect();
    names.sort();
    assert!(names == expected, "every name once");
    let pages = w.requests()["ListObjectsV2"];
    assert!(pages <= COUNT as u64 / 1000 * 6 / 5 + 6, "{pages} listings");
    // An eighth of the memory, of which the names that the reader has passed take 8 bytes each.
    assert!(used(&m) <= 8 << 20, "{} bytes", used(&m));

    // Wherever somebody seeks, the names are those that were there, for a page.
    let mut asked = 0;
    for cookie in [1, 500, 12_345, 999, 29_000] {
        let batch = m.read_directory(fh, cookie).await.unwrap();
        assert_eq!(batch.offset, cookie);
        assert!(!batch.items.is_empty());
        for (at, item) in (cookie..).zip(&batch.items) {
            assert_eq!(item.name.as_str(), whole[&at]);
        }
        let requests = w.requests().get("ListObjectsV2").copied().unwrap_or_default();
        assert!(requests <= 2, "{requests} listings");
        asked += requests;
    }
    assert!(asked >= 3, "not all is in memory: {asked} listings");

    // Others add names in front, in between and behind, and remove some.
    let removed: Vec<usize> = (0..COUNT).filter(|n| n % 100 == 33).collect();
    for n in &removed {
        assert!(w.server.store().delete(BUCKET, &format!("d/{}", long(*n))));
    }
    for n in (0..COUNT).step_by(9) {
        w.put(&format!("d/{n:05}-new"), "x");
    }
    m.unlink(&format!("d/{}", long(44))).await.unwrap();
    for from in [2, 15_000] {
        let again = rest(&m, fh, from).await;
        let gone = |name: &str| name == long(44) || removed.iter().any(|n| long(*n) == *name);
        assert!(again.iter().all(|(cookie, name)| whole[cookie] == *name));
        // What is gone may be shown, where it was listed before.
        let lost: Vec<_> = whole.range(from..).filter(|(c, n)| !again.contains_key(c) && !gone(n)).collect();
        assert!(lost.is_empty(), "from {from}: {} of {}: {:?}", lost.len(), whole.len(), lost.first());
        assert!(again.len() < whole.len() - from as usize);
    }
    assert!(used(&m) <= 8 << 20, "{} bytes", used(&m));

    // From the start it is as it is now.
    let anew = rest(&m, fh, 0).await;
    assert_eq!(anew.len(), expected.len() - removed.len() - 1 + COUNT.div_ceil(9));
    m.handles.remove_dir(fh);
    m.close(own).await.unwrap();
}

// R38: also where the past is shown.
#[tokio::test(flavor = "multi_thread")]
async fn a_position_in_a_large_directory_of_the_past_stands_for_its_name() {
    let w = world();
    let expected = fill(&w);
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let m = w.mount_with(&format!("{OPTIONS},as_of=1s"));
    for n in 0..COUNT / 2 {
        w.put(&format!("d/{n:05}-new"), "x");
    }
    let dir = m.stat("d").await.unwrap().ino;
    let fh = m.opendir(dir).unwrap();
    let whole = rest(&m, fh, 0).await;
    let mut names: Vec<String> = whole.values().cloned().collect();
    names.sort();
    assert!(names == expected, "every name once");
    assert!(used(&m) <= 8 << 20, "{} bytes", used(&m));
    let again = rest(&m, fh, 1234).await;
    assert!(again.iter().all(|(cookie, name)| whole[cookie] == *name));
    let lost: Vec<_> = whole.range(1234..).filter(|(cookie, _)| !again.contains_key(cookie)).collect();
    assert!(lost.is_empty(), "{} of {}: {:?}", lost.len(), whole.len(), lost.first());
    m.handles.remove_dir(fh);
}

/// The kernel's deadline for one call, while what looks like links is asked for.
// R38
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_was_given_up_goes_on_with_every_name() {
    let w = world();
    for n in 0..1500 {
        w.put(&format!("d/f{n:04}"), "x");
    }
    let first = w.mount();
    first.symlink(first.stat("d").await.unwrap().ino, &name("z-link"), "f0000", OWNER).await.unwrap();
    let m = w.mount();
    let fh = m.0.opendir(m.stat("d").await.unwrap().ino).unwrap();
    let mut names: Vec<String> = Vec::new();
    let mut given_up = 0;
    loop {
        if !names.is_empty() && given_up == 0 {
            w.server.knobs().fail(Rule::new("HeadObject", Action::Stall(Duration::from_secs(2))).always());
        }
        let batch = m.0.read_directory(fh, names.len() as u64);
        match tokio::time::timeout(Duration::from_millis(500), batch).await {
            Ok(batch) => {
                let batch = batch.unwrap();
                if batch.items.is_empty() {
                    break;
                }
                names.extend(batch.items.iter().map(|i| i.name.to_string()));
            }
            Err(_) => {
                given_up += 1;
                w.server.knobs().clear_rules();
            }
        }
    }
    assert_eq!((names.len(), given_up), (1501, 1));
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 1501);
}

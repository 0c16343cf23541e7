//! Listings of whole trees, and look-ups of many names: what they show, and what they cost.

use super::*;

use std::future::Future;
use std::pin::Pin;

/// Everything below a directory as find(1) goes through it.
fn tree<'a>(
    mount: &'a Mount,
    dir: &'a str,
    all: &'a mut Vec<(String, FileKind, u64)>,
) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
    Box::pin(async move {
        let entries = mount.entries(dir).await.unwrap();
        for (name, entry) in entries {
            let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            all.push((path.clone(), entry.attr.kind, entry.attr.size));
            if entry.attr.kind == FileKind::Dir {
                tree(mount, &path, all).await;
            }
        }
    })
}

/// What find(1) shows, sorted: path, kind and size.
async fn found(mount: &Mount, dir: &str) -> Vec<(String, FileKind, u64)> {
    let mut all = Vec::new();
    tree(mount, dir, &mut all).await;
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// Whether two trees are the same, and where they differ.
#[track_caller]
fn same(found: &[(String, FileKind, u64)], expected: &[(String, FileKind, u64)], what: &str) {
    let missing: Vec<_> = expected.iter().filter(|e| !found.contains(e)).collect();
    let wrong: Vec<_> = found.iter().filter(|e| !expected.contains(e)).collect();
    assert!(missing.is_empty() && wrong.is_empty(), "{what}: missing {missing:?}, not there {wrong:?}");
    assert_eq!(found.len(), expected.len(), "{what}: something is there twice");
}

/// A small generator whose runs repeat.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % n
    }
}

fn lists(requests: &BTreeMap<String, u64>) -> u64 {
    requests.iter().filter(|(name, _)| name.starts_with("ListObjects")).map(|(_, n)| n).sum()
}

/// A page of the store that ends with a directory does not tell that it does.
// R38
#[tokio::test(flavor = "multi_thread")]
async fn directories_as_large_as_a_page_are_listed_ahead_of_the_program() {
    for size in [1000, 2500] {
        let w = world();
        for d in 0..8 {
            for f in 0..size {
                w.put(&format!("tree/d{d}/f{f:04}"), "x");
            }
        }
        let m = w.mount();
        assert_eq!(m.ls("tree").await.len(), 8);
        w.requests();
        for d in 0..3 {
            assert_eq!(m.ls(&format!("tree/d{d}")).await.len(), size);
        }
        let pages = 3 * size.div_ceil(1000) as u64;
        let mut asked = 0;
        common::eventually(std::time::Duration::from_secs(20), "listed ahead", || {
            asked += lists(&w.requests());
            asked > pages
        });
    }
}

// R27 R34 R38: however a tree is listed, it has the same entries.
#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_is_walked_through_shows_what_each_listing_shows() {
    let parts = ["a", "b", "a-", "a.x", "é", "", "x@@file", "e_$folder$", "..", "dir", "dir0", "dir-1", "日本"];
    for seed in 1..=8_u64 {
        let w = world();
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for _ in 0..40 + dice.below(120) {
            let depth = 1 + dice.below(4);
            let mut key = (0..depth).map(|_| parts[dice.below(parts.len())]).collect::<Vec<_>>().join("/");
            if dice.below(6) == 0 {
                key.push('/');
            }
            if !key.is_empty() {
                w.put(&key, "x".repeat(dice.below(3)));
            }
        }
        let (page, v1) = (3 + dice.below(60), seed % 5 == 0);
        w.server.knobs().set(|b| (b.page_size, b.v1_only) = (Some(page), v1));
        // Nothing is believed, so nothing can be listed ahead.
        let one_by_one = found(&w.mount_with("metadata_ttl=0,negative_ttl=0"), "").await;
        assert!(!one_by_one.is_empty());
        w.requests();
        let mount = w.mount_with("metadata_ttl=10m");
        same(&found(&mount, "").await, &one_by_one, &format!("seed {seed}"));
        let mount = w.mount_with("metadata_ttl=10m,hide_odd_keys");
        let plain = found(&mount, "").await;
        let expected = found(&w.mount_with("metadata_ttl=0,negative_ttl=0,hide_odd_keys"), "").await;
        same(&plain, &expected, &format!("seed {seed}, without odd names"));
    }
}

// R39
#[tokio::test(flavor = "multi_thread")]
async fn a_tree_costs_pages_and_not_directories() {
    let w = world();
    for i in 0..100 {
        for j in 0..10 {
            w.put(&format!("t/{i:02}/{j}"), "x");
        }
    }
    let mount = w.mount_with("metadata_ttl=10m");
    assert_eq!(found(&mount, "t").await.len(), 1100);
    // `t`, its first directory, all others; with the first LIST somebody asked whether `t` is a file.
    let requests = w.requests();
    assert_eq!(lists(&requests), 4, "{requests:?}");
    // In pages of 50 keys there are 20.
    w.server.knobs().set(|b| b.page_size = Some(50));
    let mount = w.mount_with("metadata_ttl=10m");
    assert_eq!(found(&mount, "t").await.len(), 1100);
    let requests = w.requests();
    assert!(lists(&requests) <= 45, "{requests:?}");
    // Three levels, and directories of very different sizes.
    for i in 0..40 {
        for j in 0..1 + i * 7 % 23 {
            w.put(&format!("u/{}/{i:02}/{j}", i % 3), "x");
        }
    }
    let mount = w.mount_with("metadata_ttl=10m");
    let keys = w.keys().iter().filter(|k| k.starts_with("u/")).count();
    assert_eq!(found(&mount, "u").await.len(), keys + 43);
    let requests = w.requests();
    assert!(lists(&requests) <= 35, "{keys} keys: {requests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_program_does_not_enter_is_not_listed() {
    let w = world();
    for i in 0..12 {
        for j in 0..100 {
            w.put(&format!("t/{i:02}/below/{j}"), "x");
        }
        w.put(&format!("t/{i:02}/file"), "x");
    }
    w.server.knobs().set(|b| b.page_size = Some(20));
    let mount = w.mount_with("metadata_ttl=10m");
    mount.ls("t").await;
    w.requests();
    for i in 0..12 {
        assert_eq!(mount.ls(&format!("t/{i:02}")).await, ["below/", "file"]);
    }
    let requests = w.requests();
    assert_eq!(lists(&requests), 12 + 1, "{requests:?}");
}

// R5: what was listed ahead of a program is not believed against what happened here since.
#[tokio::test(flavor = "multi_thread")]
async fn changes_show_in_a_tree_that_is_being_walked_through() {
    let w = world();
    for i in 0..30 {
        for j in 0..3 {
            w.put(&format!("t/{i:02}/{j}"), "x");
        }
    }
    let mount = w.mount_with("metadata_ttl=10m");
    for dir in ["t", "t/00", "t/01", "t/02"] {
        mount.ls(dir).await;
    }
    w.requests();
    mount.ls("t/03").await;
    // Whether the directory has a marker is asked by name.
    assert_eq!(w.requests(), counted(&[("HeadObject", 1)]), "all of it was listed ahead");
    mount.write("t/05/new", b"content").await.unwrap();
    mount.unlink("t/06/1").await.unwrap();
    mount.mkdir("t/07/made").await.unwrap();
    mount.write("t/08/2", b"longer").await.unwrap();
    assert_eq!(mount.ls("t/05").await, ["0", "1", "2", "new"]);
    assert_eq!(mount.ls("t/06").await, ["0", "2"]);
    assert_eq!(mount.ls("t/07").await, ["0", "1", "2", "made/"]);
    assert_eq!(mount.entries("t/08").await.unwrap()[2].1.attr.size, 6);
    mount.rename("t/09", "t/zz").await.unwrap();
    mount.rename("t/10", "t/09").await.unwrap();
    mount.unlink("t/11/0").await.unwrap();
    assert_eq!(mount.ls("t/zz").await, ["0", "1", "2"]);
    assert_eq!(mount.ls("t/09").await, ["0", "1", "2"]);
    assert_eq!(mount.ls("t/11").await, ["1", "2"]);
    // An open file that is unlinked is in the bucket until it is closed, and in no listing.
    let open = mount.open("t/20/0", read_only()).await.unwrap().fh;
    mount.unlink("t/20/0").await.unwrap();
    for dir in ["t/15", "t/16", "t/17", "t/18", "t/19", "t/20"] {
        let shown = mount.ls(dir).await;
        assert_eq!(shown.len(), if dir == "t/20" { 2 } else { 3 }, "{dir}: {shown:?}");
    }
    mount.close(open).await.unwrap();
}

// R6: what others change shows in time, walked through or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_was_listed_ahead_gets_old() {
    let w = world();
    for i in 0..30 {
        w.put(&format!("t/{i:02}/0"), "x");
    }
    let mount = w.mount_with("metadata_ttl=1s");
    for dir in ["t", "t/00", "t/01", "t/02"] {
        mount.ls(dir).await;
    }
    w.put("t/20/other", "x");
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(mount.ls("t/20").await, ["0", "other"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn r124_many_names_of_one_directory_are_listed() {
    let w = world();
    for i in 0..300 {
        w.put(&format!("d/{i}"), "x");
        w.put_meta(&format!("own/{i}"), "x", &[("mode", "33152")]);
    }
    w.put("own/sub/f", "x");
    let mount = w.mount_with("metadata_ttl=10m,negative_ttl=10m");
    mount.stat("d").await.unwrap();
    mount.stat("own").await.unwrap();
    w.requests();
    // Four are asked for by name; the fifth question is a listing, and there is no sixth.
    for i in 0..4 {
        assert!(mount.find(&format!("d/missing-{i}")).await.unwrap().is_none());
    }
    assert_eq!(w.requests(), counted(&[("HeadObject", 4), ("ListObjectsV2", 4)]));
    for i in 4..200 {
        assert!(mount.find(&format!("d/missing-{i}")).await.unwrap().is_none());
    }
    assert_eq!(w.requests(), counted(&[("ListObjectsV2", 1)]));
    // Files without attributes of their own are what the listing says, after a look at three.
    for i in 0..300 {
        assert_eq!(mount.stat(&format!("d/{i}")).await.unwrap().attr.size, 1);
    }
    assert_eq!(w.requests(), counted(&[("HeadObject", 3)]));
    // Others are asked for, each by one HEAD; what is missing costs nothing.
    for i in 0..300 {
        assert_eq!(mount.stat(&format!("own/{i}")).await.unwrap().attr.perm, 0o600);
    }
    assert_eq!(w.requests(), counted(&[("HeadObject", 300), ("ListObjectsV2", 5)]));
    assert!(mount.find("own/missing").await.unwrap().is_none());
    assert_eq!(w.requests(), counted(&[]));
    assert_eq!(mount.stat("own/sub").await.unwrap().attr.kind, FileKind::Dir);
    assert_eq!(w.requests(), counted(&[("HeadObject", 1)]));
}

// R124: what is made while a directory is being listed is not lost, and many new files cost their PUT only.
#[tokio::test(flavor = "multi_thread")]
async fn new_files_in_a_directory_that_nobody_listed() {
    let w = world();
    w.put("d/old", "x");
    let mount = w.mount_with("metadata_ttl=10m,negative_ttl=10m");
    mount.stat("d").await.unwrap();
    w.requests();
    for i in 0..50 {
        mount.write(&format!("d/{i}"), b"x").await.unwrap();
    }
    assert_eq!(w.requests(), counted(&[("HeadObject", 4), ("ListObjectsV2", 5), ("PutObject", 50)]));
    // A directory made here is known to be empty.
    mount.mkdir("made").await.unwrap();
    w.requests();
    for i in 0..50 {
        mount.write(&format!("made/{i}"), b"x").await.unwrap();
    }
    assert_eq!(w.requests(), counted(&[("PutObject", 50)]));
    // Written by many at the same time.
    w.put("e/old", "x");
    mount.stat("e").await.unwrap();
    let names: Vec<String> = (0..100).map(|i| format!("e/{i}")).collect();
    let made = names.iter().map(|name| mount.write(name, b"content"));
    for result in futures_util::future::join_all(made).await {
        result.unwrap();
    }
    for name in &names {
        assert_eq!(mount.stat(name).await.unwrap().attr.size, 7);
    }
    assert_eq!(mount.ls("e").await.len(), 101);
}

// R124: a directory that is too large to be listed in time is left alone.
#[tokio::test(flavor = "multi_thread")]
async fn few_names_of_a_large_directory_do_not_list_it() {
    let w = world();
    for i in 0..3000 {
        w.put(&format!("d/{i:04}"), "x");
    }
    w.server.knobs().set(|b| b.page_size = Some(10));
    let mount = w.mount_with("metadata_ttl=10m,negative_ttl=10m");
    mount.stat("d").await.unwrap();
    w.requests();
    for i in 0..60 {
        assert!(mount.find(&format!("d/missing-{i}")).await.unwrap().is_none());
    }
    let requests = w.requests();
    assert!(lists(&requests) <= 60 + 60, "{requests:?}");
}

// R38: a large directory is listed in several places at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_directory_has_every_name_once() {
    let w = world();
    type Naming = fn(usize) -> String;
    let kinds: [(&str, Naming); 5] = [
        ("padded", |i| format!("img-{i:05}.jpg")),
        ("plain", |i| format!("{i}")),
        ("hashed", |i| format!("{:016x}", (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))),
        ("dirs", |i| format!("é{:03}{}", i % 700, ["", "/f", "-1/f", "-1"][i % 4])),
        ("clustered", |i| format!("{}{i:04}", ["a", "same-prefix-", "z"][i / 334])),
    ];
    for (dir, name) in kinds {
        for i in 0..1000 {
            w.put(&format!("{dir}/{}", name(i)), "x");
        }
    }
    for v1 in [false, true] {
        w.server.knobs().set(|b| (b.page_size, b.v1_only) = (Some(40), v1));
        for (dir, name) in kinds {
            let m = w.mount_with("metadata_ttl=10m");
            m.stat(dir).await.unwrap();
            w.requests();
            let mut shown = m.ls(dir).await;
            let requests = w.requests();
            shown.sort();
            let component = |i: usize| name(i).split_once('/').map_or(name(i), |(dir, _)| format!("{dir}/"));
            let mut expected: Vec<String> = (0..1000).map(component).collect();
            expected.sort();
            expected.dedup();
            let both = expected.iter().filter_map(|n| n.strip_suffix('/')).map(str::to_owned).collect::<Vec<_>>();
            for name in &mut expected {
                if both.contains(name) {
                    name.push_str("@@file");
                }
            }
            expected.sort();
            assert_eq!(shown, expected, "{dir}, v1 {v1}");
            assert!(lists(&requests) <= 2 * 25 + 12, "{dir}, v1 {v1}: {requests:?}");
            // What was listed answers for every name.
            assert!(m.find(&format!("{dir}/missing")).await.unwrap().is_none());
            assert_eq!(w.requests(), counted(&[]));
        }
    }
}

// R38
#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_cannot_be_listed_is_listed_with_the_one_before() {
    let w = world();
    for i in 0..1000 {
        w.put(&format!("d/img-{i:05}.jpg"), "x");
    }
    w.server.knobs().set(|b| b.page_size = Some(40));
    for nth in 4..24 {
        let m = w.mount_with("metadata_ttl=10m");
        m.stat("d").await.unwrap();
        let fails = xosfs::demo::Action::Status(400, "InvalidArgument".into());
        w.server.knobs().fail(xosfs::demo::Rule::new("ListObjectsV2", fails).nth(nth));
        let dir = m.stat("d").await.unwrap().ino;
        let fh = m.opendir(dir).unwrap();
        let mut names = Vec::new();
        let mut failed = 0;
        loop {
            match m.read_directory(fh, names.len() as u64).await {
                Ok(batch) if batch.items.is_empty() => break,
                Ok(batch) => names.extend(batch.items.iter().map(|i| i.name.as_str().to_owned())),
                Err(_) => failed += 1,
            }
        }
        let expected: Vec<String> = (0..1000).map(|i| format!("img-{i:05}.jpg")).collect();
        assert_eq!(names, expected, "request {nth} failed");
        assert!(failed <= 1);
        w.server.knobs().clear_rules();
    }
}

//! Names and directories.

use super::*;

use std::collections::BTreeSet;

fn long_key() -> String {
    format!("long/{}", "ü".repeat(200))
}

/// Keys that no path has, and what they are shown as; `{long}` stands for the escape of a long component.
fn put_odd(w: &World) -> Vec<(String, String)> {
    let long = long_key();
    let all = [
        ("gap//inside", "gap/@@empty/inside"),
        ("/leading", "@@empty/leading"),
        ("both", "both@@file"),
        ("marked/", "marked/@@marker"),
        ("seems@@file", "seems@@file@@esc"),
        (&long, "long/{long}"),
    ];
    w.put("both/below", "b");
    w.put("marked/below", "m");
    for (key, _) in all {
        w.put(key, format!("content of {key}"));
    }
    all.map(|(key, shown)| (key.to_owned(), shown.to_owned())).to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_keys_are_shown_under_reversible_names() {
    let w = world();
    let odd = put_odd(&w);
    let m = w.mount();
    let long = m.ls("long").await.remove(0);
    assert!(long.contains("@@long-") && long.len() <= 255, "{long}");
    let mut at_root = m.ls("").await;
    at_root.sort();
    assert_eq!(at_root, ["@@empty/", "both/", "both@@file", "gap/", "long/", "marked/", "seems@@file@@esc"]);
    for (i, (key, shown)) in odd.iter().enumerate() {
        let shown = shown.replace("{long}", &long);
        let m = w.mount();
        assert_eq!(m.read(&shown).await.unwrap(), format!("content of {key}"), "read {shown}");
        m.write(&shown, b"changed").await.unwrap();
        assert_eq!(w.get(key).unwrap(), "changed", "write {shown}");
        m.rename(&shown, &format!("ordinary{i}")).await.unwrap();
        assert_eq!(w.get(&format!("ordinary{i}")).unwrap(), "changed", "rename {shown}");
        assert_eq!(w.get(key), None, "renamed {shown}");
        w.put(key, "again");
        let m = w.mount();
        m.unlink(&shown).await.unwrap();
        assert_eq!(w.get(key), None, "unlink {shown}");
    }
    let w = world();
    put_odd(&w);
    let hiding = w.mount_with("hide_odd_keys");
    assert_eq!(hiding.ls("").await, ["both/", "gap/", "long/", "marked/"]);
    assert!(hiding.ls("long").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn dot_components_are_unreachable() {
    let w = world();
    for key in ["x/./y", "x/../y", "./z", "../z", ".", "x/.", "x/..", "x/plain", ".hidden", "...", "x/a.b"] {
        w.put(key, key.to_owned());
    }
    let m = w.mount();
    let mut root = m.ls("").await;
    root.sort();
    assert_eq!(root, ["...", ".hidden", "x/"]);
    assert_eq!(m.ls("x").await, ["a.b", "plain"]);
    assert_eq!(m.figures().hidden, 7, "they are counted");
    for name in [".", ".."] {
        assert!(Name::parse(OsStr::new(name)).is_err());
    }
    let log = w.server.log();
    assert!(log.iter().all(|r| !r.key.split('/').any(|c| c == "." || c == "..")));
}

#[tokio::test(flavor = "multi_thread")]
async fn new_names_are_not_escapes() {
    let w = world();
    let m = w.mount();
    w.put("there", "x");
    w.put("there/below", "x");
    w.put("plain", "x");
    for name in ["a@@file", "@@file", "@@empty", "@@marker", "b@@esc", "c@@file@@esc", "d@@long-0123456789abcdef"] {
        let error = m.create(name, read_write()).await.unwrap_err();
        assert_eq!(error.errno(), libc::EINVAL, "create {name}: {error}");
        assert_eq!(m.mkdir(name).await.unwrap_err().errno(), libc::EINVAL, "mkdir {name}");
        assert_eq!(m.rename("plain", name).await.unwrap_err().errno(), libc::EINVAL, "rename to {name}");
        let link = m.symlink(ROOT, &super::name(name), "t", OWNER).await;
        assert_eq!(link.unwrap_err().errno(), libc::EINVAL, "symlink {name}");
    }
    assert_eq!(w.keys(), ["plain", "there", "there/below"]);
    m.write("there@@file", b"changed").await.unwrap();
    assert_eq!(w.get("there").unwrap(), "changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_case_sensitive_bytes() {
    let w = world();
    let m = w.mount();
    let spellings = ["Name", "name", "NAME", "caf\u{e9}", "cafe\u{301}", "K", "\u{212a}"];
    for (i, s) in spellings.iter().enumerate() {
        m.write(s, i.to_string().as_bytes()).await.unwrap();
    }
    let fresh = w.mount();
    assert_eq!(fresh.ls("").await.into_iter().collect::<BTreeSet<_>>(), spellings.map(str::to_owned).into());
    for (i, s) in spellings.iter().enumerate() {
        assert_eq!(fresh.read(s).await.unwrap(), i.to_string(), "{s}");
        assert_eq!(w.get(s).unwrap(), i.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_hides_a_file_of_the_same_name() {
    let w = world();
    w.put("a", "file");
    w.put("a/b", "below");
    // The file and the directory may come on different pages of a listing.
    for page_size in [None, Some(1)] {
        w.server.knobs().set(|b| b.page_size = page_size);
        let m = w.mount();
        assert_eq!(m.stat("a").await.unwrap().attr.kind, FileKind::Dir);
        assert_eq!(m.read("a/b").await.unwrap(), "below");
        assert_eq!(m.ls("").await, ["a/", "a@@file"]);
        assert_eq!(m.read("a@@file").await.unwrap(), "file");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_cost_no_request_per_file() {
    let w = world();
    for i in 0..2500 {
        w.put(&format!("d/{i:04}"), "content");
    }
    let m = w.mount();
    m.stat("d").await.unwrap();
    w.requests();
    let entries = m.entries("d").await.unwrap();
    assert_eq!(entries.len(), 2500);
    assert!(entries.iter().all(|(_, e)| e.attr.size == 7 && e.attr.perm == 0o644));
    assert_eq!(w.requests(), counted(&[("ListObjectsV2", 3)]));
    for (name, entry) in &entries {
        assert_eq!(m.stat(&format!("d/{name}")).await.unwrap().ino, entry.ino);
    }
    assert_eq!(w.requests(), counted(&[]), "names of a fresh listing are known");
}

// R39: the last page of a listing is fresh when it comes, however long the pages before took.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_longer_than_the_ttl_costs_no_request_per_file() {
    let w = world();
    for i in 0..20 {
        w.put(&format!("d/{i:02}"), "content");
    }
    w.server.knobs().set(|b| {
        b.page_size = Some(1);
        b.latency = std::time::Duration::from_millis(100);
    });
    let m = w.mount_with("metadata_ttl=1s,negative_ttl=0");
    let dir = m.stat("d").await.unwrap().ino;
    w.requests();
    let fh = m.opendir(dir).unwrap();
    let mut seen = 0;
    loop {
        let batch = m.read_directory(fh, seen).await.unwrap();
        for item in &batch.items {
            let entry = m.entry_of_item(dir, item, batch.asked).unwrap();
            assert!(!entry.ttl.is_zero(), "{} is old when it is handed out", item.name.as_str());
        }
        if batch.items.is_empty() {
            break;
        }
        seen += batch.items.len() as u64;
    }
    assert_eq!((seen, w.requests()), (20, counted(&[("ListObjectsV2", 20)])));
    m.handles.remove_dir(fh);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_opened_as_they_are_found_cost_one_round_trip() {
    let w = world();
    for i in 0..40 {
        w.put_meta(&format!("d/{i}"), "content", &[("mode", "33216")]);
    }
    // Nothing is fetched ahead: what each file costs by itself.
    let m = w.mount_with("metadata_ttl=10m,max_readahead=0");
    m.stat("d").await.unwrap();
    w.requests();
    for i in 0..10 {
        m.stat(&format!("d/{i}")).await.unwrap();
    }
    assert_eq!(w.requests().get("GetObject"), None, "bytes nobody asked for");
    for i in 10..20 {
        assert_eq!(m.read(&format!("d/{i}")).await.unwrap(), "content");
    }
    w.requests();
    for i in 20..30 {
        let entry = m.stat(&format!("d/{i}")).await.unwrap();
        assert_eq!((entry.attr.size, entry.attr.perm), (7, 0o700), "all that HEAD would have told");
        assert_eq!(m.read(&format!("d/{i}")).await.unwrap(), "content");
    }
    // The directory was listed by then (R124), so that nobody asks whether these are directories.
    assert_eq!(w.requests(), counted(&[("GetObject", 10)]));
    for i in 30..40 {
        m.stat(&format!("d/{i}")).await.unwrap();
    }
    let requests = w.requests();
    assert!(requests["HeadObject"] >= 5, "nothing is opened any more: {requests:?}");
    assert_eq!(kind(m.stat("d/missing").await), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_mount_stays_inside() {
    let w = world();
    w.put("outside", "o");
    w.put("home2/f", "o");
    w.put("home/old", "inside");
    let m = w.mount_source("bucket:/home", "", w.server.keys());
    w.requests();
    assert_eq!(m.ls("").await, ["old"]);
    for missing in ["outside", "home", "home2"] {
        assert!(m.find(missing).await.unwrap().is_none());
    }
    m.mkdir("d").await.unwrap();
    m.write("d/f", b"new").await.unwrap();
    m.rename("d/f", "g").await.unwrap();
    m.rename("d", "e").await.unwrap();
    m.symlink(ROOT, &name("link"), "../outside", OWNER).await.unwrap();
    m.rmdir(ROOT, &name("e")).await.unwrap();
    assert_eq!(m.read("old").await.unwrap(), "inside");
    m.unlink("old").await.unwrap();
    assert!(m.0.drain(std::time::Duration::from_secs(10)).await.is_empty());
    let log = w.server.log();
    assert!(log.len() > 10);
    for r in &log {
        let prefix = r.query.iter().find(|(k, _)| k == "prefix").map(|(_, v)| v.as_str());
        let inside = r.key.starts_with("home/") || r.key.is_empty() && prefix.is_some_and(|p| p.starts_with("home/"));
        // Many are deleted by one request that names no key in its path.
        assert!(inside || r.operation == "DeleteObjects", "{r:?}");
    }
    assert_eq!(w.keys(), ["home/g", "home/link", "home2/f", "outside"]);
}

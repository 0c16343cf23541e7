//! A million keys: listed and walked through within the memory bound, by as many requests as there are pages.
//!
//! `XOSFS_TEST_KEYS=NUMBER` sets how many keys there are; without it the tree has fewer, to take less time.

#[path = "../common/mod.rs"]
mod common;

mod store;

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use common::{TestMount, TestServer};
use store::{Keys, Store};

/// What the daemon is told, MiB, and what it may take besides.
const MEMORY: u64 = 64;
const BESIDES: u64 = 64;
/// Entries of a page, and of a directory of the tree.
const PAGE: u64 = 1000;

fn count(otherwise: u64) -> u64 {
    let wanted = std::env::var("XOSFS_TEST_KEYS").map(|n| n.parse().expect("XOSFS_TEST_KEYS is a number"));
    wanted.unwrap_or(otherwise)
}

fn mount(count: u64, keys: Keys) -> (Store, TestMount) {
    let store = Store::start(count, keys);
    let server = TestServer::at(&store.endpoint);
    let mount = TestMount::with(&server, &[&format!("memory={MEMORY}M"), "metadata_ttl=10m"]);
    store.requests();
    (store, mount)
}

/// Most memory the daemon has had so far, MiB. The code of a debug build is as large as all the rest, and is not counted.
fn peak(mount: &TestMount) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", mount.pid())).unwrap();
    let kib = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).expect("a line of every process's status");
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap()
    };
    (kib("VmHWM:") - kib("RssFile:")) / 1024
}

#[track_caller]
fn stays_within(mount: &TestMount, what: &str) {
    let peak = peak(mount);
    println!("{what}: {peak} MiB");
    assert!(peak <= MEMORY + BESIDES, "{what}: {peak} MiB with memory={MEMORY}M");
}

fn flat(n: u64) -> String {
    format!("flat/some-longer-name-of-a-file-{n:07}.json")
}

fn number(name: &str) -> u64 {
    let digits: String = name.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("a name with a number: {name}"))
}

/// Names of a directory by number; none may come twice.
fn numbers(dir: &Path, count: u64) -> u64 {
    let mut seen = vec![false; count as usize];
    let mut found = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let n = number(entry.unwrap().file_name().to_str().unwrap());
        assert!(!std::mem::replace(&mut seen[n as usize], true), "{n} came twice");
        found += 1;
    }
    found
}

// R38 R39
#[test]
fn a_directory_of_a_million_names_stays_within_the_bound() {
    let count = count(1_000_000);
    let (store, mount) = mount(count, flat);
    let start = std::time::Instant::now();
    assert_eq!(numbers(&mount.join("flat"), count), count);
    let (lists, others) = store.requests();
    println!("{count} names: {lists} listings, {others} other requests, {:?}", start.elapsed());
    stays_within(&mount, "readdir");
    // A fifth more for the ranges that are listed at the same time, and the look-up of the directory.
    assert!(lists <= count / PAGE * 6 / 5 + 10 && others <= 2, "{lists} listings, {others} other requests");
    mount.umount();
}

// R39
#[test]
fn a_large_directory_with_attributes_stays_within_the_bound() {
    let count = count(200_000);
    let (store, mount) = mount(count, flat);
    let start = std::time::Instant::now();
    let sizes = fs::read_dir(mount.join("flat")).unwrap().map(|e| e.unwrap().metadata().unwrap().len());
    assert_eq!(sizes.sum::<u64>(), (0..count).map(|n| store::size(&flat(n))).sum::<u64>());
    let (lists, others) = store.requests();
    println!("{count} files of one directory: {lists} listings, {others} other requests, {:?}", start.elapsed());
    stays_within(&mount, "readdirplus");
    assert!(lists <= count / PAGE * 6 / 5 + 10 && others <= 32, "{lists} listings, {others} other requests");
    mount.umount();
}

fn tree(n: u64) -> String {
    format!("tree/d{:04}/some-longer-name-of-a-file-{:04}.json", n / PAGE, n % PAGE)
}

// R39
#[test]
fn a_tree_of_a_million_files_stays_within_the_bound() {
    let count = count(400_000);
    let (store, mount) = mount(count, tree);
    let start = std::time::Instant::now();
    let (mut files, mut dirs, mut bytes) = (0, HashSet::new(), 0);
    for dir in fs::read_dir(mount.join("tree")).unwrap() {
        let dir = dir.unwrap();
        assert!(dir.file_type().unwrap().is_dir() && dirs.insert(dir.file_name()));
        for file in fs::read_dir(dir.path()).unwrap() {
            bytes += file.unwrap().metadata().unwrap().len();
            files += 1;
        }
    }
    let (lists, others) = store.requests();
    println!("{count} files: {lists} listings, {others} other requests, {:?}", start.elapsed());
    assert_eq!((files, dirs.len() as u64), (count, count.div_ceil(PAGE)));
    assert_eq!(bytes, (0..count).map(|n| store::size(&tree(n))).sum::<u64>());
    stays_within(&mount, "walk");
    // The first few files that the kernel asks for again, as it forgets others, show that there is nothing to be known.
    assert!(lists <= count / PAGE * 6 / 5 + 10 && others <= 32, "{lists} listings, {others} other requests");
    mount.umount();
}

const FEW: u64 = 3;

fn shallow(n: u64) -> String {
    format!("tree/d{:06}/some-longer-name-of-a-file-{}.json", n / FEW, n % FEW)
}

/// The kernel is not told to forget directories: where they alone are more than there is memory for, nobody waits for it.
// R39
#[test]
fn a_tree_of_more_directories_than_there_is_memory_for_is_walked_through() {
    let dirs = 30_000;
    let (store, mount) = mount(dirs * FEW, shallow);
    let start = std::time::Instant::now();
    let mut bytes = 0;
    for dir in fs::read_dir(mount.join("tree")).unwrap() {
        let sizes = fs::read_dir(dir.unwrap().path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
        bytes += sizes.sum::<u64>();
    }
    let (lists, others) = store.requests();
    println!("{dirs} directories: {lists} listings, {others} other requests, {:?}", start.elapsed());
    assert_eq!(bytes, (0..dirs * FEW).map(|n| store::size(&shallow(n))).sum::<u64>());
    stays_within(&mount, "walk through directories");
    mount.umount();
}

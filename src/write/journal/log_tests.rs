//! What is made of a log that ends anywhere, lost sectors, or was changed: each record here is an upload whose number,
//! key and id say which one it is.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;

use parking_lot::Mutex;
use proptest::prelude::*;
use tempfile::TempDir;

use super::blob::segment_name;
use super::log::{Change, Counters, Log, Request};
use super::record::{Record, Stamp, encode};
use super::scan::{Found, scan};
use super::table::Table;

const SECTOR: usize = 512;

/// Records as they are written: each batch is synced before the next one.
struct Written {
    bytes: Vec<u8>,
    /// Where each record ends, in their order.
    ends: Vec<usize>,
    /// Where the last batch begins.
    open: usize,
}

fn upload(seq: u64, padding: usize) -> Record {
    Record::UploadBegun { token: seq, key: format!("key-{seq}"), upload: "x".repeat(padding), at: seq }
}

fn written(batches: &[Vec<usize>]) -> Written {
    let mut w = Written { bytes: Vec::new(), ends: Vec::new(), open: 0 };
    let mut synced = 0;
    for batch in batches {
        w.open = w.bytes.len();
        for padding in batch {
            let seq = w.ends.len() as u64 + 1;
            let stamp = Stamp { seq, synced, epoch: 9 };
            encode(&upload(seq, *padding), stamp, std::iter::empty(), &mut w.bytes).unwrap();
            w.ends.push(w.bytes.len());
        }
        synced = w.ends.len() as u64;
    }
    w
}

/// Reads these bytes as the one segment of a journal.
fn read(bytes: &[u8]) -> Found {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join(segment_name(1)), bytes).unwrap();
    scan(&Arc::new(dir.path().to_owned())).unwrap()
}

fn zeros(mut bytes: Vec<u8>, n: usize) -> Vec<u8> {
    bytes.resize(bytes.len() + n, 0);
    bytes
}

/// The numbers of the records that were found; each must be what was written.
fn numbers(found: &Found, sizes: &[usize]) -> Vec<u64> {
    for (token, begun) in &found.table.uploads {
        assert_eq!(begun.key.as_str(), format!("key-{token}"));
        assert_eq!(begun.upload.as_ref().unwrap().len(), sizes[*token as usize - 1]);
    }
    found.table.uploads.keys().copied().collect()
}

#[test]
fn zeros_behind_the_last_record_are_the_end() {
    let w = written(&[vec![10, 20], vec![30]]);
    for more in [0, 1, 7, 4096, 100_000] {
        let found = read(&zeros(w.bytes.clone(), more));
        assert_eq!((numbers(&found, &[10, 20, 30]), &found.damage[..], found.seq), (vec![1, 2, 3], &[][..], 3));
        assert_eq!(found.tails.len(), usize::from(more > 0));
        assert!(found.tails.iter().all(|t| t.torn == 0 && t.from == w.bytes.len() as u64));
    }
}

#[test]
fn a_record_that_was_not_finished_is_cut_off() {
    let w = written(&[vec![10, 20], vec![300]]);
    for cut in w.ends[1] + 1..w.bytes.len() {
        for more in [0, 5000] {
            let found = read(&zeros(w.bytes[..cut].to_vec(), more));
            assert_eq!((numbers(&found, &[10, 20, 300]), &found.damage[..]), (vec![1, 2], &[][..]), "cut at {cut}");
            assert_eq!(found.tails[0].from, w.ends[1] as u64);
            assert!(found.tails[0].torn > 0);
        }
    }
}

#[test]
fn a_lost_sector_is_the_end_of_what_was_not_synced_and_damage_before_it() {
    let sizes = [3000, 3000, 3000, 3000];
    let w = written(&[vec![3000], vec![3000, 3000, 3000]]);
    let lost = |at: usize| {
        let mut bytes = w.bytes.clone();
        let sector = at / SECTOR * SECTOR;
        bytes[sector..sector + SECTOR].fill(0);
        read(&zeros(bytes, 4096))
    };
    let found = lost(w.ends[1] + 1000);
    assert_eq!((numbers(&found, &sizes), &found.damage[..]), (vec![1, 2], &[][..]), "nobody was promised the others");
    let found = lost(1000);
    assert_eq!(numbers(&found, &sizes), vec![2, 3, 4]);
    assert!(found.damage[0].contains("damaged"), "{:?}", found.damage);
    // In one batch and synced, as a later record says.
    let w = written(&[vec![3000, 3000, 3000], vec![10]]);
    let mut bytes = w.bytes.clone();
    bytes[2048..2048 + SECTOR].fill(0);
    let found = read(&bytes);
    assert_eq!(numbers(&found, &[3000, 3000, 3000, 10]), vec![2, 3, 4]);
    assert_eq!(found.damage.len(), 1, "{:?}", found.damage);
}

#[test]
fn damage_in_a_segment_that_another_one_follows_is_told() {
    let w = written(&[vec![3000, 3000]]);
    let mut bytes = w.bytes.clone();
    bytes[1024..1024 + SECTOR].fill(0);
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join(segment_name(1)), &bytes).unwrap();
    fs::write(dir.path().join(segment_name(2)), b"").unwrap();
    let found = scan(&Arc::new(dir.path().to_owned())).unwrap();
    assert_eq!(numbers(&found, &[3000, 3000]), vec![2], "a segment is synced before the next one is begun");
    assert_eq!(found.damage.len(), 1);
}

#[test]
fn what_an_older_write_left_is_not_taken() {
    let mut w = written(&[vec![10], vec![20], vec![30]]);
    let old = w.bytes[..w.ends[0]].to_vec();
    w.bytes.extend_from_slice(&old);
    let found = read(&w.bytes);
    assert_eq!((numbers(&found, &[10, 20, 30]), &found.damage[..], found.seq), (vec![1, 2, 3], &[][..], 3));
    assert_eq!((found.tails[0].from, found.tails[0].torn), (w.ends[2] as u64, old.len() as u64));
}

#[test]
fn a_journal_in_the_content_of_a_file_is_not_taken() {
    let mut content = Vec::new();
    encode(&upload(77, 5), Stamp { seq: 77, synced: 76, epoch: 1 }, std::iter::empty(), &mut content).unwrap();
    let mut w = written(&[vec![10]]);
    let begin = w.bytes.len();
    let stamp = Stamp { seq: 2, synced: 1, epoch: 9 };
    encode(&upload(2, 20), stamp, [&content[..]].into_iter(), &mut w.bytes).unwrap();
    w.bytes[begin + 50] ^= 1;
    let found = read(&w.bytes);
    assert_eq!((numbers(&found, &[10, 20]), found.seq), (vec![1], 1));
}

fn log(dir: &TempDir, limit: u64) -> (Log, Arc<Mutex<Table>>, PathBuf) {
    let table = Arc::new(Mutex::new(Table::default()));
    let path = Arc::new(dir.path().to_owned());
    let log = Log::new(path.clone(), table.clone(), Arc::new(Counters::default()), (0, 0), limit).unwrap();
    (log, table, path.join(segment_name(1)))
}

/// Writes these records one after the other, each synced when `durable`; the length of the file after each.
fn lengths(log: Log, file: &PathBuf, records: Vec<Record>, durable: bool) -> Vec<u64> {
    let (requests, queue) = channel();
    let thread = std::thread::spawn(move || log.run(&queue));
    let mut lengths = Vec::new();
    for record in records {
        let (tell, answer) = channel();
        let done = Box::new(move |done| drop(tell.send(done)));
        let change = Change::Record(record);
        assert!(requests.send(Request { change, durable, new_file: false, done }).is_ok());
        answer.recv().unwrap().unwrap();
        lengths.push(fs::metadata(file).unwrap().len());
    }
    drop(requests);
    thread.join().unwrap();
    lengths
}

#[test]
fn a_synced_record_is_written_over_zeros() {
    let dir = TempDir::new().unwrap();
    let (log, table, file) = log(&dir, 1 << 30);
    let records = (1..=100).map(|n| upload(n, 200)).collect();
    let lengths = lengths(log, &file, records, true);
    assert!(lengths[0] > 1 << 20);
    assert_eq!(lengths[0], lengths[99], "only the first record made the file longer");
    assert_eq!(table.lock().bytes(), lengths[99], "and the zeros are counted");
    let found = scan(&Arc::new(dir.path().to_owned())).unwrap();
    assert_eq!((found.seq, found.damage.len()), (100, 0));
    found.cut(dir.path()).unwrap();
    let end = fs::metadata(&file).unwrap().len();
    assert!(end < 100 * 1000, "{end}");
    assert_eq!(found.table.bytes(), end);
}

#[test]
fn records_that_need_no_sync_need_no_zeros() {
    let dir = TempDir::new().unwrap();
    let (log, _, file) = log(&dir, 1 << 30);
    let lengths = lengths(log, &file, vec![upload(1, 10), upload(2, 10)], false);
    assert!(lengths[1] < 1000, "{lengths:?}");
}

#[test]
fn zeros_keep_to_the_limit() {
    for limit in [0, 1000, 50_000, 200_000] {
        let dir = TempDir::new().unwrap();
        let (log, table, file) = log(&dir, limit);
        let lengths = lengths(log, &file, (1..=10).map(|n| upload(n, 200)).collect(), true);
        let frames: u64 = 10 * 400;
        assert!(*lengths.last().unwrap() <= limit.max(frames), "{lengths:?} of {limit}");
        assert_eq!(table.lock().bytes(), *lengths.last().unwrap());
    }
}

/// A disk of its own, which is full soon.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(options: &str) -> SmallDisk {
        let dir = TempDir::new().unwrap();
        nix::mount::mount(Some("xosfs-test"), dir.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), Some(options))
            .expect("mount a tmpfs: this test wants to be root, as those of real mounts do");
        SmallDisk(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_costs_the_zeros_first_and_then_the_record_that_has_no_room() {
    let disk = SmallDisk::new("size=256k");
    let (log, table, file) = log(&disk.0, 1 << 30);
    let (requests, queue) = channel();
    let thread = std::thread::spawn(move || log.run(&queue));
    let write = |record: Record| {
        let (tell, answer) = channel();
        let done = Box::new(move |done| drop(tell.send(done)));
        assert!(
            requests.send(Request { change: Change::Record(record), durable: true, new_file: false, done }).is_ok()
        );
        answer.recv().unwrap()
    };
    let mut written = 0;
    let refused = loop {
        match write(upload(written + 1, 21_000)) {
            Ok(()) => written += 1,
            Err(e) => break e,
        }
    };
    assert_eq!((refused.kind(), written), (crate::Kind::NoSpace, 12), "{refused}");
    assert_eq!(fs::metadata(&file).unwrap().len(), table.lock().bytes());
    // What is smaller still has room.
    write(upload(written + 1, 10)).unwrap();
    drop(requests);
    thread.join().unwrap();
    let found = scan(&Arc::new(disk.0.path().to_owned())).unwrap();
    let sizes = [vec![21_000; 12], vec![10]].concat();
    assert_eq!((numbers(&found, &sizes).len(), &found.damage[..]), (13, &[][..]));
}

fn batches() -> impl Strategy<Value = Vec<Vec<usize>>> {
    prop::collection::vec(prop::collection::vec(0..2000usize, 1..5), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_log_cut_anywhere_has_every_record_before(batches in batches(), at in any::<prop::sample::Index>(), more in 0..9000usize) {
        let (w, sizes) = (written(&batches), batches.concat());
        let cut = at.index(w.bytes.len() + 1);
        let found = read(&zeros(w.bytes[..cut].to_vec(), more));
        let whole = w.ends.iter().filter(|e| **e <= cut).count() as u64;
        prop_assert_eq!(numbers(&found, &sizes), (1..=whole).collect::<Vec<_>>());
        prop_assert_eq!(&found.damage[..], &[] as &[String]);
    }

    #[test]
    fn a_changed_byte_costs_its_record_and_is_told(batches in batches(), at in any::<prop::sample::Index>(), flip in 1..=255u8) {
        let (mut w, sizes) = (written(&batches), batches.concat());
        let at = at.index(w.bytes.len());
        w.bytes[at] ^= flip;
        let found = read(&zeros(w.bytes, 4096));
        let hit = w.ends.iter().position(|e| at < *e).unwrap() as u64 + 1;
        let others: Vec<u64> = (1..=w.ends.len() as u64).filter(|n| *n != hit).collect();
        prop_assert_eq!(numbers(&found, &sizes), others);
        // Nothing tells the last record from one that was never finished.
        prop_assert_eq!(!found.damage.is_empty(), hit < w.ends.len() as u64);
    }

    #[test]
    fn sectors_that_never_arrived_cut_what_was_not_synced(batches in batches(), lost in prop::collection::vec(any::<bool>(), 64)) {
        let (w, sizes) = (written(&batches), batches.concat());
        let mut bytes = zeros(w.bytes, 4096);
        let mut first = usize::MAX;
        for (n, _) in lost.iter().enumerate().filter(|(_, lost)| **lost) {
            // The sector in which the last batch begins has what was synced before it.
            let from = (w.open / SECTOR + n) * SECTOR;
            let (from, to) = (from.max(w.open), (from + SECTOR).min(bytes.len()));
            if from < to && bytes[from..to].iter().any(|b| *b != 0) {
                bytes[from..to].fill(0);
                first = first.min(from);
            }
        }
        let found = read(&bytes);
        let whole = w.ends.iter().filter(|e| **e <= first).count() as u64;
        prop_assert_eq!(numbers(&found, &sizes), (1..=whole).collect::<Vec<_>>());
        prop_assert_eq!(&found.damage[..], &[] as &[String]);
    }

    #[test]
    fn nothing_is_taken_that_was_not_written(batches in batches(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40)) {
        let (mut w, sizes) = (written(&batches), batches.concat());
        for (at, value) in changes {
            let at = at.index(w.bytes.len());
            w.bytes[at] = value;
        }
        let found = read(&w.bytes);
        let taken = numbers(&found, &sizes);
        prop_assert!(taken.iter().all(|n| *n <= sizes.len() as u64));
    }
}

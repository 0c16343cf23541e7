//! The journal on the disk: damage, room, and those of processes that are gone.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use xosfs::Kind;
use xosfs::config::{Options, Source};
use xosfs::daemon::volume;
use xosfs::fs::ROOT;
use xosfs::fs::file::{OpenMode, WriteMode};
use xosfs::write::journal::{PendingState, survey};

use super::common;
use super::common::noise::noise;
use super::killable::{BUCKET, Daemon, OWNER, PATIENCE, World, name, world};

#[test]
fn many_closers_share_one_sync() {
    let w = world();
    let d = w.start();
    w.no_store();
    let fs = d.fs.clone();
    let before = d.journal.syncs();
    d.block(async {
        let mut all = Vec::new();
        for writer in 0..8 {
            let fs = fs.clone();
            all.push(tokio::spawn(async move {
                for n in 0..50 {
                    let mode = OpenMode::of_flags(libc::O_WRONLY);
                    let name = name(&format!("{writer}-{n}"));
                    let (_, opened) = fs.create(ROOT, &name, 0o644, OWNER, mode).await.unwrap();
                    fs.write(opened.fh, 0, Bytes::from(vec![7; 8192]), WriteMode::default()).await.unwrap();
                    fs.flush(opened.fh, std::process::id()).await.unwrap();
                    fs.release(opened.fh).await.unwrap();
                }
            }));
        }
        for one in all {
            one.await.unwrap();
        }
    });
    let syncs = d.journal.syncs() - before;
    assert_eq!(d.journal.pending().len(), 400);
    assert!((1..400).contains(&syncs), "{syncs} syncs for 400 files");
    let d = w.restart(d);
    assert_eq!(d.journal.pending().len(), 400);
    w.store_again();
    d.fs.retry(None).unwrap();
    d.settles();
    assert_eq!(w.server.store().list(BUCKET, "").len(), 400);
}

/// The log of a journal with these files, and what was acknowledged.
pub fn log_of(w: &World, files: &[(&str, usize)]) -> (PathBuf, PathBuf) {
    let d = w.start();
    w.no_store();
    for (path, len) in files {
        d.write(path, &noise(9, *len));
    }
    d.kill();
    let state = w.snapshot();
    let journal = fs::read_dir(state.join("journal")).unwrap().next().unwrap().unwrap().path();
    let logs = fs::read_dir(&journal).unwrap().flatten().map(|e| e.path());
    let log = logs.filter(|p| p.extension() == Some(OsStr::new("log"))).max().unwrap();
    (state, log)
}

pub fn keys(state: &Path) -> Vec<String> {
    survey(state).unwrap().into_iter().flat_map(|s| s.pending).map(|p| p.key).collect()
}

/// Where the frames of a log begin.
fn frames(log: &[u8]) -> Vec<usize> {
    let mark = b"XJ\xb6\x02";
    (0..log.len().saturating_sub(4)).filter(|i| log[*i..].starts_with(mark)).collect()
}

#[test]
fn a_log_that_ends_anywhere_in_its_last_record_has_all_before() {
    let w = world();
    let (state, log) = log_of(&w, &[("first", 100), ("second", 64)]);
    let mut whole = fs::read(&log).unwrap();
    // What is behind the last record is there to be written over.
    whole.truncate(whole.iter().rposition(|b| *b != 0).unwrap() + 1);
    // The record of the second file: those behind it tell of attempts.
    let text = |at: usize| String::from_utf8_lossy(&whole[at..(at + 200).min(whole.len())]).into_owned();
    let all = frames(&whole);
    let second = *all.iter().find(|at| text(**at).contains("\"second\"")).unwrap();
    let end = all.iter().copied().find(|at| *at > second).unwrap_or(whole.len());
    for cut in second..=end {
        fs::write(&log, &whole[..cut]).unwrap();
        let expected: &[&str] = if cut == end { &["first", "second"] } else { &["first"] };
        assert_eq!(keys(&state), expected, "cut at {cut} of {second}..{end}");
        assert_eq!(survey(&state).unwrap()[0].damage, Vec::<String>::new());
    }
    // And a mount goes on behind the cut.
    fs::write(&log, &whole[..end - 1]).unwrap();
    let d = w.start_with(&state, "writeback");
    assert_eq!(d.pending_keys(), ["first"]);
    d.write("third", b"3");
    d.kill();
    assert_eq!(keys(&w.snapshot()), ["first", "third"]);
}

#[test]
fn a_damaged_record_is_told_and_the_others_are_kept() {
    let w = world();
    let (state, log) = log_of(&w, &[("first", 100), ("second", 100), ("third", 100)]);
    let mut bytes = fs::read(&log).unwrap();
    let at = bytes.windows(8).position(|w| w == b"\"second\"").unwrap();
    bytes[at + 2] ^= 1;
    fs::write(&log, &bytes).unwrap();
    assert_eq!(keys(&state), ["first", "third"]);
    let damage = survey(&state).unwrap().remove(0).damage;
    assert!(damage[0].contains("damaged") && damage[1].contains("missing"), "{damage:?}");
    let d = w.start_with(&state, "writeback");
    assert_eq!(d.damage, damage);
    assert_eq!(d.pending_keys(), ["first", "third"]);
    assert!(d.journal.dir().join("damaged").is_dir(), "a copy for somebody to look at");
}

#[test]
fn a_damaged_data_file_is_never_stored() {
    let w = world();
    let (state, _) = log_of(&w, &[("large", 1 << 20)]);
    let journal = fs::read_dir(state.join("journal")).unwrap().next().unwrap().unwrap().path();
    let files = fs::read_dir(&journal).unwrap().flatten().map(|e| e.path());
    let data = files.into_iter().find(|p| p.extension() == Some(OsStr::new("data"))).unwrap();
    let mut bytes = fs::read(&data).unwrap();
    bytes[1234] ^= 1;
    fs::write(&data, bytes).unwrap();
    w.store_again();
    let d = w.start_with(&state, "writeback");
    common::eventually(PATIENCE, "parked", || d.fs.pending()[0].state == PendingState::Parked);
    assert!(d.fs.pending()[0].reason.as_ref().unwrap().contains("damaged"));
    assert!(w.get("large").is_none());
}

// R86
#[test]
fn the_journals_of_processes_that_are_gone_are_taken_over() {
    let w = world();
    let (state, log) = log_of(&w, &[("small", 100), ("large", 1 << 20), ("both", 10)]);
    let first = log.parent().unwrap().to_owned();
    let second = first.with_file_name(first.file_name().unwrap().to_string_lossy().replace("-0", "-1"));
    fs::rename(&first, &second).unwrap();
    // Another process of the same bucket runs, and a stray file of it has no record.
    fs::write(second.join("0123456789abcdef.data"), b"stray").unwrap();
    let d = w.start_with(&state, "writeback");
    assert_eq!(d.pending_keys(), ["small", "large", "both"]);
    assert!(!second.exists() && d.journal.dir() == first);
    d.write("both", b"newer");
    let d = w.restart(d);
    w.store_again();
    d.fs.retry(None).unwrap();
    d.settles();
    assert!(w.get("small").unwrap() == noise(9, 100) && w.get("large").unwrap() == noise(9, 1 << 20));
    assert_eq!(w.get("both").unwrap(), "newer");
}

// R87
#[test]
fn beyond_the_limit_close_waits_for_the_store() {
    let w = world();
    let d = w.start_with(&w.state(), "writeback,writeback_limit=1M");
    w.no_store();
    let mut acknowledged = 0;
    let error = loop {
        match d.try_write(&format!("f{acknowledged}"), &vec![1; 100_000]) {
            Ok(()) => acknowledged += 1,
            Err(e) => break e,
        }
        assert!(acknowledged < 20, "the limit holds");
    };
    assert!(matches!(error.kind(), Kind::Unavailable | Kind::Io), "the store's error, not a full disk: {error}");
    assert!(acknowledged >= 5 && d.journal.bytes() <= 1 << 20, "{acknowledged} files in {} bytes", d.journal.bytes());
    w.store_again();
    for n in acknowledged..acknowledged + 20 {
        d.write(&format!("f{n}"), &vec![1; 100_000]);
    }
    d.fs.retry(None).unwrap();
    d.settles();
    assert_eq!(w.server.store().list(BUCKET, "").len(), acknowledged + 20);
}

#[test]
fn appending_and_closing_all_day_costs_neither_layers_nor_a_journal_without_end() {
    let w = world();
    let d = w.start();
    w.no_store();
    let mut expected = Vec::new();
    for n in 0..300 {
        let fh = d.open("log", libc::O_WRONLY).unwrap();
        let line = format!("line {n}\n");
        d.put(fh, expected.len() as u64, line.as_bytes());
        expected.extend_from_slice(line.as_bytes());
        d.close(fh).unwrap();
    }
    assert!(d.journal.bytes() < 2 << 20, "{} bytes", d.journal.bytes());
    assert_eq!(d.read("log"), expected);
    let d = w.restart(d);
    w.store_again();
    d.fs.retry(None).unwrap();
    d.settles();
    assert_eq!(w.get("log").unwrap(), expected);
}

#[test]
fn an_unwritable_state_dir_stops_writeback_and_nothing_else() {
    let source: Source = BUCKET.parse().unwrap();
    let load = |text: &str| Options::load(&[format!("endpoint=http://127.0.0.1:1,{text}")], false, &|_| None).unwrap();
    let error = volume::open_journal(&load("writeback,state_dir=/proc/none"), &source).err().unwrap();
    assert!(error.to_string().contains("state_dir"), "{error}");
    assert!(volume::open_journal(&load("state_dir=/proc/none"), &source).unwrap().is_none());
}

#[test]
fn a_file_that_was_replaced_in_the_journal_is_no_damage() {
    let w = world();
    let d = w.start();
    w.no_store();
    d.write("f", &noise(1, 1 << 20));
    d.write("f", &noise(2, 2 << 20));
    d.write("g", &noise(3, 1 << 20));
    d.unlink("g").unwrap();
    let d = w.restart(d);
    assert_eq!((d.damage.len(), d.pending_keys()), (0, vec!["f".to_owned()]));
    w.store_again();
    d.fs.retry(None).unwrap();
    d.settles();
    assert!(w.get("f").unwrap() == noise(2, 2 << 20));
    let files = |d: &Daemon| fs::read_dir(d.journal.dir()).unwrap().flatten().filter(|e| e.path().is_file()).count();
    let d = w.restart(d);
    assert_eq!(files(&d), 3, "lock, identity and one segment");
}

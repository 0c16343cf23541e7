//! `writeback` without a kernel: what close acknowledged survives whatever happens to the process, in order and whole.
#![cfg(feature = "demo")]

#[path = "common/mod.rs"]
mod common;
mod killable;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use killable::{BUCKET, Daemon, OWNER, PATIENCE, World, content, name, world};
use xosfs::Kind;
use xosfs::config::{Options, Source};
use xosfs::daemon::volume;
use xosfs::demo::{Action, Rule};
use xosfs::fs::ROOT;
use xosfs::fs::file::{OpenMode, WriteMode};
use xosfs::write::journal::{PendingState, discard, export, survey};

// R82
#[test]
fn close_needs_no_store_and_a_killed_daemon_loses_nothing() {
    let w = world();
    let d = w.start();
    w.no_store();
    let (small, large) = (content(1, 5000), content(2, 3 << 20));
    d.write("small", &small);
    d.write("large", &large);
    d.write("empty", b"");
    assert_eq!(w.server.store().list(BUCKET, ""), Vec::<String>::new());
    assert_eq!((d.read("small"), d.read("large")), (small.clone(), large.clone()), "readable meanwhile");
    assert_eq!(d.pending_keys(), ["small", "large", "empty"]);
    let d = w.restart(d);
    assert_eq!(d.damage, Vec::<String>::new());
    assert_eq!((d.read("small"), d.read("large")), (small.clone(), large.clone()), "readable after the crash");
    assert_eq!(d.ls(), ["empty", "large", "small"]);
    w.store_again();
    d.fs.retry(None).unwrap();
    d.settles();
    assert!(w.get("small").unwrap() == small && w.get("large").unwrap() == large && w.get("empty").unwrap().is_empty());
    assert_eq!(d.read("small"), small);
    assert_eq!(w.server.store().uploads(BUCKET), vec![]);
    // Nothing is left of the journal once it is closed.
    assert!(d.block(d.fs.drain(PATIENCE)).is_empty());
    let dir = d.journal.dir().to_owned();
    d.journal.close();
    assert!(!dir.exists());
}

#[test]
fn versions_of_a_file_are_stored_in_their_order() {
    let w = world();
    let d = w.start();
    w.server.knobs().set(|b| b.latency = Duration::from_millis(3));
    for round in 0..60u8 {
        d.write("f", &vec![round; 100 + usize::from(round)]);
        if round % 20 == 10 {
            std::thread::sleep(Duration::from_millis(120));
        }
    }
    d.settles();
    assert_eq!(w.get("f").unwrap(), vec![59; 159]);
    let sizes: Vec<u64> = w.server.log().iter().filter(|r| r.operation == "PutObject").map(|r| r.bytes_in).collect();
    assert!(sizes.is_sorted(), "{sizes:?}");
    assert!(sizes.len() < 30, "superseded versions are not all sent: {}", sizes.len());
}

// R84
#[test]
fn a_temporary_file_that_is_renamed_is_one_put() {
    let w = world();
    let d = w.start();
    for n in 0..10 {
        let final_name = format!("f{n}");
        d.write("tmp", final_name.as_bytes());
        d.rename("tmp", &final_name).unwrap();
    }
    d.settles();
    for n in 0..10 {
        assert_eq!(w.get(&format!("f{n}")).unwrap(), format!("f{n}"));
    }
    assert_eq!((w.count("PutObject"), w.count("CopyObject"), w.count("DeleteObject")), (10, 0, 0));
    assert!(d.find("tmp").is_none() && w.get("tmp").is_none());
}

#[test]
fn unlink_and_rename_of_pending_files_survive_a_crash() {
    let w = world();
    let d = w.start();
    w.no_store();
    d.write("gone", b"gone");
    d.write("target", b"old");
    d.unlink("gone").unwrap();
    d.write_and_rename("source", b"new", "target");
    d.write_and_rename("moved", b"moved", "elsewhere");
    d.write("moved", b"another");
    let d = w.restart(d);
    assert!(d.find("gone").is_none() && d.find("source").is_none());
    w.store_again();
    d.fs.retry(None).unwrap();
    d.settles();
    assert_eq!(w.server.store().list(BUCKET, ""), ["elsewhere", "moved", "target"]);
    assert_eq!(w.get("target").unwrap(), "new");
    assert_eq!((w.get("elsewhere").unwrap(), w.get("moved").unwrap()), ("moved".into(), "another".into()));
    assert_eq!(w.count("DeleteObject"), 0);
}

#[test]
fn an_unlinked_pending_file_stays_readable_through_its_handles() {
    let w = world();
    let d = w.start();
    w.no_store();
    let bytes = content(3, 900_000);
    d.write("f", &bytes);
    // Taken up from the journal, so that the bytes are only there.
    let d = w.restart(d);
    let fh = d.open("f", libc::O_RDONLY).unwrap();
    d.unlink("f").unwrap();
    assert_eq!(d.journal.pending().len(), 0);
    let mut out = Vec::new();
    while out.len() < bytes.len() {
        let piece = d.block(d.fs.read(fh, out.len() as u64, 1 << 20)).unwrap();
        assert!(!piece.is_empty());
        out.extend_from_slice(&piece);
    }
    assert!(out == bytes);
    d.close(fh).unwrap();
}

// R83
#[test]
fn fsync_waits_for_the_store_and_what_is_being_written_is_not_published() {
    let w = world();
    let d = w.start();
    let fh = d.open("f", libc::O_RDWR).unwrap();
    d.put(fh, 0, b"first");
    d.flush(fh).unwrap();
    // Half of a change: no descriptor was closed after it.
    d.put(fh, 0, b"SECOND half");
    d.settles();
    assert_eq!(w.get("f").unwrap(), "first");
    assert_eq!(&d.block(d.fs.read(fh, 0, 100)).unwrap()[..], b"SECOND half");
    d.block(d.fs.fsync(fh)).unwrap();
    assert_eq!(w.get("f").unwrap(), "SECOND half");
    w.no_store();
    d.put(fh, 0, b"third");
    assert!(d.block(d.fs.fsync(fh)).is_err());
    d.flush(fh).unwrap();
    d.put(fh, 0, b"never closed");
    let d = w.restart(d);
    w.store_again();
    d.fs.retry(None).unwrap();
    d.settles();
    assert_eq!(w.get("f").unwrap(), "thirdD half");
}

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
fn log_of(w: &World, files: &[(&str, usize)]) -> (PathBuf, PathBuf) {
    let d = w.start();
    w.no_store();
    for (path, len) in files {
        d.write(path, &content(9, *len));
    }
    d.kill();
    let state = w.snapshot();
    let journal = fs::read_dir(state.join("journal")).unwrap().next().unwrap().unwrap().path();
    let logs = fs::read_dir(&journal).unwrap().flatten().map(|e| e.path());
    let log = logs.filter(|p| p.extension() == Some(OsStr::new("log"))).max().unwrap();
    (state, log)
}

fn keys(state: &Path) -> Vec<String> {
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
    assert!(w.get("small").unwrap() == content(9, 100) && w.get("large").unwrap() == content(9, 1 << 20));
    assert_eq!(w.get("both").unwrap(), "newer");
}

// R85
#[test]
fn what_is_refused_is_parked_with_its_reason_and_stored_when_it_is_tried_again() {
    let w = world();
    let d = w.start();
    w.server.knobs().fail(Rule::new("PutObject", Action::Status(403, "AccessDenied".into())).always().key("refused"));
    d.write("refused", b"refused");
    d.write("other", b"other");
    common::eventually(PATIENCE, "parked", || {
        d.fs.pending().len() == 1 && d.fs.pending()[0].state == PendingState::Parked
    });
    let entry = d.fs.pending().remove(0);
    assert_eq!((&*entry.key, entry.size, entry.attempts), ("refused", 7, 1));
    assert!(entry.reason.as_ref().unwrap().contains("AccessDenied"), "{:?}", entry.reason);
    assert_eq!((w.get("other").unwrap(), d.read("refused")), ("other".into(), b"refused".to_vec()));
    let out = w.temp.path().join("exported");
    d.block(d.fs.export(entry.id, &out)).unwrap();
    assert_eq!(fs::read(&out).unwrap(), b"refused");
    assert_eq!(d.block(d.fs.export(entry.id, &out)).unwrap_err().kind(), Kind::Exists);
    // Unmounting names it, and it stays.
    assert_eq!(d.block(d.fs.drain(Duration::from_secs(5))).len(), 1);
    d.kill();
    let state = w.snapshot();
    let found = survey(&state).unwrap();
    assert_eq!((found.len(), found[0].identity.bucket.as_str()), (1, BUCKET));
    assert_eq!((found[0].pending[0].id, found[0].pending[0].state), (entry.id, PendingState::Parked));
    let out = w.temp.path().join("offline");
    export(&state, entry.id, &out).unwrap();
    assert_eq!(fs::read(out).unwrap(), b"refused");
    w.store_again();
    let d = w.start_with(&state, "writeback");
    d.settles();
    assert_eq!(w.get("refused").unwrap(), "refused");
}

#[test]
fn a_parked_file_is_tried_again_by_a_later_close_and_can_be_discarded() {
    let w = world();
    let d = w.start();
    w.server.store().put(BUCKET, "old", "stored before");
    w.server.knobs().fail(Rule::new("PutObject", Action::Status(403, "AccessDenied".into())).always());
    d.write("old", b"refused");
    d.write("new", b"refused");
    let parked = || d.fs.pending().iter().filter(|p| p.state == PendingState::Parked).count();
    common::eventually(PATIENCE, "parked", || parked() == 2);
    for p in d.fs.pending() {
        d.block(d.fs.discard(p.id)).unwrap();
    }
    assert_eq!((d.fs.pending().len(), d.journal.pending().len()), (0, 0));
    assert_eq!(d.read("old"), b"stored before");
    assert!(d.find("new").is_none());
    assert_eq!(d.block(d.fs.discard(1)).unwrap_err().kind(), Kind::NotFound);
    d.write("again", b"1");
    common::eventually(PATIENCE, "parked", || parked() == 1);
    w.store_again();
    d.write("again", b"12");
    d.settles();
    assert_eq!(w.get("again").unwrap(), "12");
}

#[test]
fn an_entry_can_be_discarded_without_a_daemon() {
    let w = world();
    let (state, _) = log_of(&w, &[("keep", 10), ("drop", 10)]);
    let entry = survey(&state).unwrap().remove(0).pending.into_iter().find(|p| p.key == "drop").unwrap();
    discard(&state, entry.id).unwrap();
    assert_eq!(keys(&state), ["keep"]);
    assert_eq!(discard(&state, entry.id).unwrap_err().kind(), Kind::NotFound);
    w.store_again();
    let d = w.start_with(&state, "writeback");
    d.settles();
    assert_eq!(w.server.store().list(BUCKET, ""), ["keep"]);
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

/// A daemon that dies between the store's answer and the end of the record: the next one starts on the journal as it
/// was before.
#[track_caller]
fn answered_but_not_noted(w: &World, change: impl Fn(&Daemon)) -> Daemon {
    let d = w.start();
    change(&d);
    let before = w.snapshot();
    d.settles();
    d.kill();
    w.server.clear_log();
    let d = w.start_with(&before, "writeback");
    assert!(!d.pending_keys().is_empty());
    d.settles();
    d
}

// R89
#[test]
fn what_the_store_has_already_is_recognised() {
    let w = world();
    let old = content(5, 300_000);
    w.server.store().put(BUCKET, "changed", old.clone());
    let d = answered_but_not_noted(&w, |d| {
        let fh = d.open("changed", libc::O_WRONLY).unwrap();
        d.put(fh, 100_000, b"in the middle");
        d.close(fh).unwrap();
        let exclusive = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
        let fh = d.open("exclusive", exclusive).unwrap();
        d.put(fh, 0, b"mine");
        d.close(fh).unwrap();
        d.write("plain", b"plain");
    });
    let mut expected = old;
    expected[100_000..100_013].copy_from_slice(b"in the middle");
    assert!(w.get("changed").unwrap() == expected);
    assert_eq!((w.get("exclusive").unwrap(), w.get("plain").unwrap()), ("mine".into(), "plain".into()));
    assert!(d.read("changed") == expected);
}

#[test]
fn a_change_of_a_version_that_somebody_replaced_is_kept_and_never_merged() {
    let w = world();
    w.server.store().put(BUCKET, "f", content(5, 300_000));
    let d = w.start();
    w.no_store();
    let fh = d.open("f", libc::O_WRONLY).unwrap();
    d.put(fh, 1000, b"ours");
    d.close(fh).unwrap();
    w.server.store().put(BUCKET, "f", "theirs");
    w.store_again();
    d.fs.retry(None).unwrap();
    common::eventually(PATIENCE, "parked", || d.fs.pending().iter().any(|p| p.state == PendingState::Parked));
    assert_eq!(w.get("f").unwrap(), "theirs");
}

// R88
#[test]
fn uploads_that_a_dead_process_left_are_aborted() {
    let w = world();
    for (mode, round) in [("writeback", 0), ("log_level=info", 1)] {
        let options = format!("{mode},stream_after=5M,part_size=5M");
        let d = w.start_with(&w.snapshot(), &options);
        let fh = d.open(&format!("streamed{round}"), libc::O_WRONLY).unwrap();
        for n in 0..40 {
            d.put(fh, n << 20, &vec![n as u8; 1 << 20]);
        }
        common::eventually(PATIENCE, "an upload", || w.server.store().uploads(BUCKET).len() == 1);
        d.kill();
        let d = w.start_with(&w.snapshot(), &options);
        common::eventually(PATIENCE, "no upload", || w.server.store().uploads(BUCKET).is_empty());
        assert_eq!(w.server.store().list(BUCKET, ""), Vec::<String>::new());
        d.kill();
    }
}

#[test]
fn an_upload_whose_id_never_arrived_is_found() {
    let w = world();
    let d = w.start_with(&w.state(), "stream_after=5M,part_size=5M");
    w.server.knobs().fail(Rule::new("CreateMultipartUpload", Action::CutBeforeAnswer).always());
    let fh = d.open("f", libc::O_WRONLY).unwrap();
    for n in 0..20u64 {
        let bytes = Bytes::from(vec![1; 1 << 20]);
        let _ = d.block(d.fs.write(fh, n << 20, bytes, WriteMode::default()));
    }
    common::eventually(PATIENCE, "an upload", || !w.server.store().uploads(BUCKET).is_empty());
    d.kill();
    w.store_again();
    let _d = w.start_with(&w.snapshot(), "log_level=info");
    common::eventually(PATIENCE, "no upload", || w.server.store().uploads(BUCKET).is_empty());
}

#[test]
fn a_streamed_file_is_stored_by_its_close() {
    let w = world();
    let d = w.start_with(&w.state(), "writeback,stream_after=5M,part_size=5M");
    let bytes = content(4, 30 << 20);
    d.write("f", &bytes);
    assert!(w.get("f").unwrap() == bytes);
    d.settles();
    assert_eq!(w.server.store().uploads(BUCKET), vec![]);
}

#[test]
fn attributes_set_after_the_close_ride_along() {
    let w = world();
    let d = w.start();
    d.write("f", b"x");
    let ino = d.find("f").unwrap();
    let change = xosfs::fs::setattr::Change { perm: Some(0o600), ..Default::default() };
    d.block(d.fs.setattr(ino, None, change)).unwrap();
    d.settles();
    let mode = w.server.store().head(BUCKET, "f").unwrap();
    let mode = mode.attributes.metadata.get("mode").cloned().unwrap_or_default();
    assert_eq!(mode.parse::<u32>().unwrap_or(0) & 0o777, 0o600, "{mode}");
    assert_eq!((w.count("PutObject"), w.count("CopyObject")), (1, 0));
}

#[test]
fn an_unwritable_state_dir_stops_writeback_and_nothing_else() {
    let source: Source = BUCKET.parse().unwrap();
    let load = |text: &str| Options::load(&[format!("endpoint=http://127.0.0.1:1,{text}")], false, &|_| None).unwrap();
    let error = volume::open_journal(&load("writeback,state_dir=/proc/none"), &source).err().unwrap();
    assert!(error.to_string().contains("state_dir"), "{error}");
    assert!(volume::open_journal(&load("state_dir=/proc/none"), &source).unwrap().is_none());
}

/// Random programs on a few files, killed at random moments: the store has in the end what was acknowledged.
#[test]
fn any_history_with_crashes_ends_in_what_was_acknowledged() {
    let rounds: u64 = std::env::var("XOSFS_TEST_CRASHES").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let w = world();
    let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut random = 0x1234_5678_9abc_def0u64;
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 20) % below
    };
    let mut d = w.start();
    for round in 0..rounds {
        match next(3) {
            0 => w.no_store(),
            1 => w.server.knobs().set(|b| b.latency = Duration::from_millis(5)),
            _ => {
                for operation in ["PutObject", "UploadPart", "CompleteMultipartUpload"] {
                    w.server.knobs().fail(Rule::new(operation, Action::CutBeforeAnswer).probability(0.3));
                    w.server.knobs().fail(Rule::new(operation, Action::SlowDown).probability(0.2));
                }
            }
        }
        for step in 0..40 {
            let file = format!("f{}", next(5));
            match next(10) {
                0..4 => {
                    let len = [0, 10, 5000, 200_000, 700_000][next(5) as usize];
                    let bytes = content(round * 1000 + step, len);
                    if d.try_write(&file, &bytes).is_ok() {
                        model.insert(file, bytes);
                    } else {
                        assert!(!model.contains_key(&file), "an existing file has to be looked at");
                    }
                }
                4..7 => {
                    let Ok(fh) = d.open(&file, libc::O_RDWR) else { continue };
                    let at = next(300_000);
                    let bytes = content(step, 1 + next(60_000) as usize);
                    let written = d.block(d.fs.write(fh, at, Bytes::from(bytes.clone()), WriteMode::default()));
                    if written.and(d.close(fh)).is_ok() {
                        let there = model.entry(file).or_default();
                        let end = at as usize + bytes.len();
                        there.resize(there.len().max(end), 0);
                        there[at as usize..end].copy_from_slice(&bytes);
                    }
                }
                7 => {
                    if d.find(&file).is_some() && d.unlink(&file).is_ok() {
                        model.remove(&file);
                    }
                }
                8 => {
                    let to = format!("f{}", next(5));
                    if file != to
                        && model.contains_key(&file)
                        && d.rename(&file, &to).is_ok()
                        && let Some(bytes) = model.remove(&file)
                    {
                        model.insert(to, bytes);
                    }
                }
                _ => std::thread::sleep(Duration::from_millis(next(150))),
            }
        }
        let at_death = model.clone();
        d = w.restart(d);
        w.store_again();
        w.server.knobs().set(|b| b.latency = Duration::ZERO);
        d.fs.retry(None).unwrap();
        common::eventually(PATIENCE, "all stored or parked", || {
            d.fs.pending().iter().all(|p| p.state == PendingState::Parked)
        });
        assert_eq!(d.fs.pending().len(), 0, "round {round}: {:?}", d.fs.pending());
        for (key, bytes) in &at_death {
            let there = w.get(key).unwrap_or_else(|| panic!("round {round}: {key} is gone"));
            assert!(there == bytes, "round {round}: {key} has {} bytes of {}", there.len(), bytes.len());
        }
        common::eventually(PATIENCE, "no upload", || w.server.store().uploads(BUCKET).is_empty());
        assert_eq!(w.server.store().list(BUCKET, ""), at_death.keys().cloned().collect::<Vec<_>>());
    }
}

#[test]
fn a_file_that_was_replaced_in_the_journal_is_no_damage() {
    let w = world();
    let d = w.start();
    w.no_store();
    d.write("f", &content(1, 1 << 20));
    d.write("f", &content(2, 2 << 20));
    d.write("g", &content(3, 1 << 20));
    d.unlink("g").unwrap();
    let d = w.restart(d);
    assert_eq!((d.damage.len(), d.pending_keys()), (0, vec!["f".to_owned()]));
    w.store_again();
    d.fs.retry(None).unwrap();
    d.settles();
    assert!(w.get("f").unwrap() == content(2, 2 << 20));
    let files = |d: &Daemon| fs::read_dir(d.journal.dir()).unwrap().flatten().filter(|e| e.path().is_file()).count();
    let d = w.restart(d);
    assert_eq!(files(&d), 3, "lock, identity and one segment");
}

//! Random programs and crashes.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use xosfs::demo::{Action, Rule};
use xosfs::fs::file::WriteMode;
use xosfs::write::journal::PendingState;

use super::common;
use super::common::noise::noise;
use super::killable::{BUCKET, PATIENCE, world};

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
                    let bytes = noise(round * 1000 + step, len);
                    if d.try_write(&file, &bytes).is_ok() {
                        model.insert(file, bytes);
                    } else {
                        assert!(!model.contains_key(&file), "an existing file has to be looked at");
                    }
                }
                4..7 => {
                    let Ok(fh) = d.open(&file, libc::O_RDWR) else { continue };
                    let at = next(300_000);
                    let bytes = noise(step, 1 + next(60_000) as usize);
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

//! Real mounts whose daemon is killed at any moment: what close acknowledged is in the bucket, whole, and nothing else.
//!
//! Programs write, rename and delete on the mount while the daemon is killed with SIGKILL. A new daemon mounts; then the
//! store is looked at, not the mount: every acknowledged file byte for byte, and no upload.
//!
//! `XOSFS_TEST_KILLS` sets how often; the default is 30 with `writeback` and 10 without.
#![cfg(feature = "demo")]

#[path = "common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{TestMount, TestServer, eventually};

const PATIENCE: Duration = Duration::from_secs(120);
const WRITERS: u64 = 4;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % n
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        let seed = self.0 | 1;
        let mut x = seed;
        (0..len)
            .map(|_| {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (x >> 56) as u8
            })
            .collect()
    }
}

/// What a file may hold: what was acknowledged last, and since a call was interrupted, what that was about.
#[derive(Clone, Default, Debug)]
struct Expected {
    /// `None`: not there.
    one_of: Vec<Option<Vec<u8>>>,
}

type Model = BTreeMap<String, Expected>;

fn write_new(path: &Path, bytes: &[u8], pieces: usize) -> std::io::Result<()> {
    let mut file = fs::File::create(path)?;
    for piece in bytes.chunks((bytes.len() / pieces).max(1)) {
        file.write_all(piece)?;
    }
    // Closing in order to hear of it: dropping a file says nothing.
    nix::unistd::close(file).map_err(std::io::Error::from)
}

fn change(path: &Path, at: u64, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let file = fs::File::options().write(true).open(path)?;
    file.write_all_at(bytes, at)?;
    nix::unistd::close(file).map_err(std::io::Error::from)
}

/// One program: works on files of its own until something fails, which is the end of the daemon.
fn program(dir: &Path, number: u64, mut random: Random, model: &mut Model, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let name = format!("p{number}-f{}", random.below(6));
        let path = dir.join(&name);
        let known = |model: &Model, name: &str| model.get(name).map_or(vec![None], |e| e.one_of.clone());
        let certain = |model: &Model, name: &str| match &known(model, name)[..] {
            [one] => Some(one.clone()),
            _ => None,
        };
        match random.below(10) {
            0..5 => {
                let len = match random.below(6) {
                    0 => 0,
                    1 => random.below(100),
                    2 | 3 => 8192,
                    4 => random.below(400_000),
                    _ => 6_000_000 + random.below(8_000_000),
                };
                let bytes = random.bytes(len);
                let pieces = 1 + random.below(4) as usize;
                // Before the first byte: whichever moment it ends at, the file is one of these.
                let mut before = known(model, &name);
                let done = write_new(&path, &bytes, pieces);
                if done.is_ok() {
                    model.insert(name, Expected { one_of: vec![Some(bytes)] });
                } else {
                    before.push(Some(bytes));
                    // An emptied file may have been acknowledged by itself.
                    before.push(Some(Vec::new()));
                    model.insert(name, Expected { one_of: before });
                    return;
                }
            }
            5 | 6 => {
                let Some(Some(there)) = certain(model, &name) else { continue };
                let at = random.below(there.len() as u64 + 1);
                let len = 1 + random.below(20_000);
                let bytes = random.bytes(len);
                let mut after = there.clone();
                let end = at as usize + bytes.len();
                after.resize(after.len().max(end), 0);
                after[at as usize..end].copy_from_slice(&bytes);
                if change(&path, at, &bytes).is_ok() {
                    model.insert(name, Expected { one_of: vec![Some(after)] });
                } else {
                    model.insert(name, Expected { one_of: vec![Some(there), Some(after)] });
                    return;
                }
            }
            7 => {
                let before = known(model, &name);
                if before == [None] {
                    continue;
                }
                match fs::remove_file(&path) {
                    Ok(()) => {
                        model.remove(&name);
                    }
                    Err(_) => {
                        model.insert(name, Expected { one_of: [before, vec![None]].concat() });
                        return;
                    }
                }
            }
            8 => {
                let to = format!("p{number}-f{}", random.below(6));
                let (Some(Some(bytes)), Some(target)) = (certain(model, &name), certain(model, &to)) else { continue };
                if to == name {
                    continue;
                }
                if fs::rename(&path, dir.join(&to)).is_ok() {
                    model.remove(&name);
                    model.insert(to, Expected { one_of: vec![Some(bytes)] });
                } else {
                    model.insert(name, Expected { one_of: vec![Some(bytes.clone()), None] });
                    model.insert(to, Expected { one_of: vec![target, Some(bytes)] });
                    return;
                }
            }
            _ => std::thread::sleep(Duration::from_millis(random.below(60))),
        }
    }
}

struct Result {
    kills: u64,
    checked: usize,
    bytes: u64,
}

fn run(options: &str, kills: u64, seed: u64) -> Result {
    let server = TestServer::start();
    let state: PathBuf = common::temp_dir().keep();
    let options = format!("{options},state_dir={},stream_after=5M,part_size=5M,retries=2", state.display());
    let store = server.embedded_server().expect("this test kills what it looks into").store();
    let mut random = Random(seed);
    let mut models: Vec<Model> = vec![Model::new(); WRITERS as usize];
    let mut result = Result { kills: 0, checked: 0, bytes: 0 };
    let mut mount = TestMount::with(&server, &[&options]);
    for round in 0..kills {
        let stop = Arc::new(AtomicBool::new(false));
        let dir = mount.path().to_owned();
        let programs: Vec<_> = std::mem::take(&mut models)
            .into_iter()
            .zip(0..)
            .map(|(mut model, number)| {
                let (dir, stop) = (dir.clone(), stop.clone());
                let random = Random(seed.wrapping_mul(round * 31 + number * 7 + 1) | 1);
                std::thread::spawn(move || {
                    program(&dir, number, random, &mut model, &stop);
                    model
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(100 + random.below(900)));
        mount.kill_daemon();
        stop.store(true, Ordering::Relaxed);
        models = programs.into_iter().map(|p| p.join().unwrap()).collect();
        result.kills += 1;
        drop(mount);
        mount = TestMount::with(&server, &[&options]);
        let log = || mount.log();
        // Until the store has everything: each file is one of what it may be. What was interrupted may come out either
        // way, and is known from then on.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let wrong: Vec<String> = models
                .iter()
                .flatten()
                .filter(|(name, expected)| {
                    let there = store.get(&server.bucket, name).map(|b| b.to_vec());
                    !expected.one_of.contains(&there)
                })
                .map(|(name, expected)| {
                    let there = store.get(&server.bucket, name).map(|b| b.len());
                    let may: Vec<_> = expected.one_of.iter().map(|e| e.as_ref().map(Vec::len)).collect();
                    format!("{name}: {there:?} bytes at the store, may be {may:?}")
                })
                .collect();
            if wrong.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "round {round}: {wrong:#?}\n{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        eventually(PATIENCE, "no upload is left", || store.uploads(&server.bucket).is_empty());
        // What is in the journal still may change what was interrupted: only an empty one settles it.
        eventually(PATIENCE, "nothing is pending", || pending(&state) == 0);
        let keys = store.list(&server.bucket, "");
        for (name, expected) in models.iter_mut().flatten() {
            let there = store.get(&server.bucket, name).map(|b| b.to_vec());
            assert!(expected.one_of.contains(&there), "round {round}: {name} changed afterwards\n{}", mount.log());
            result.checked += 1;
            result.bytes += there.as_ref().map_or(0, |b| b.len() as u64);
            expected.one_of = vec![there];
        }
        let known = |key: &String| models.iter().any(|m| m.contains_key(key));
        let unknown: Vec<_> = keys.iter().filter(|k| !known(k)).collect();
        assert!(unknown.is_empty(), "round {round}: deleted files are back: {unknown:?}\n{}", mount.log());
        for model in &mut models {
            model.retain(|_, e| e.one_of != [None]);
        }
    }
    mount.umount();
    assert_eq!(store.uploads(&server.bucket), vec![]);
    let left: Vec<_> = fs::read_dir(state.join("journal")).unwrap().flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "{left:?}");
    let _ = fs::remove_dir_all(state);
    result
}

/// Entries of the running mount's journal: data files and records are of no interest here, only whether there are any.
fn pending(state: &Path) -> usize {
    let Ok(dirs) = fs::read_dir(state.join("journal")) else { return 0 };
    dirs.flatten().map(|d| xosfs::write::journal::peek(&d.path()).map_or(1, |p| p.len())).sum()
}

fn kills(default: u64) -> u64 {
    std::env::var("XOSFS_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn seed() -> u64 {
    let seed = std::env::var("XOSFS_TEST_SEED").ok().and_then(|n| n.parse().ok());
    let seed = seed.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64) | 1;
    eprintln!("XOSFS_TEST_SEED={seed}");
    seed
}

#[test]
fn writeback_loses_nothing_however_often_it_is_killed() {
    let _alone = common::alone();
    let result = run("writeback", kills(30), seed());
    eprintln!("{} kills, {} files compared, {} bytes, none lost", result.kills, result.checked, result.bytes);
}

#[test]
fn the_default_mode_loses_nothing_however_often_it_is_killed() {
    let _alone = common::alone();
    let result = run("log_level=info", kills(10), seed());
    eprintln!("{} kills, {} files compared, {} bytes, none lost", result.kills, result.checked, result.bytes);
}

//! Random operations on a mount and on the file system without a kernel: what a local file system would answer is
//! right, and so is what the bucket holds after a remount and after the daemon was killed.
//!
//! 1. `oracle` says what is right; it is itself held to a local disk.
//! 2. A sequence that fails is shrunk to the operations that matter and printed with its seed. Those found once are in
//!    `tests/model_cases/` and run in each suite.
//! 3. Sequences of files that are sent while they are written need other limits than those of small files: there are
//!    two settings of the library, and mounts for both.
//!
//! `XOSFS_MODEL_SEEDS=N` runs seeds 1 to N (and `XOSFS_MODEL_FROM=N` from there), `XOSFS_MODEL_SEED=N` the one;
//! `XOSFS_MODEL_REPLAY=FILE` the operations of a file; `XOSFS_MODEL_MINUTES=N` stops after that time.

#![cfg(feature = "demo")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../drive/mod.rs"]
mod drive;
mod oracle;
mod run;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{TestMount, TestServer};
use oracle::{Op, Scale, generate};
use run::{Direct, Disk, Mounted, World, run, shrink};

const SMALL: Scale = Scale {
    files: 3,
    slots: 5,
    offsets: 700_000,
    sizes: &[1, 10, 4096, 5000, 60_000, 131_072, 200_000],
    remounts: false,
    kills: false,
};
const ALL: Scale = Scale { remounts: true, kills: true, ..SMALL };
/// Past the sizes at which a mount sends a file while it is written.
const LARGE: Scale =
    Scale { files: 2, slots: 4, offsets: 26_000_000, sizes: &[1, 4096, 131_072, 900_000, 4_000_000], ..SMALL };

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn seeds(default: u64) -> Vec<u64> {
    match number("XOSFS_MODEL_SEED") {
        Some(one) => vec![one],
        None => {
            let from = number("XOSFS_MODEL_FROM").unwrap_or(1);
            (from..from + number("XOSFS_MODEL_SEEDS").unwrap_or(default)).collect()
        }
    }
}

/// Runs one sequence per seed on worlds that `make` builds; each that fails is shrunk and shown.
fn campaign(
    what: &str,
    threads: usize,
    seeds: &[u64],
    ops: usize,
    scale: &Scale,
    make: &(dyn Fn() -> Box<dyn World> + Sync),
) {
    let begun = Instant::now();
    let minutes = number("XOSFS_MODEL_MINUTES").map(|m| Duration::from_secs(60 * m));
    let (next, done, steps) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.min(seeds.len()) {
            scope.spawn(|| {
                let (mut world, mut since) = (make(), Instant::now());
                loop {
                    // Mounts have a watchdog, and a long run is longer than it allows.
                    if since.elapsed() > Duration::from_secs(120) {
                        std::mem::replace(&mut world, make()).end();
                        since = Instant::now();
                    }
                    let i = next.fetch_add(1, Ordering::Relaxed) as usize;
                    let Some(seed) = seeds.get(i).filter(|_| minutes.is_none_or(|m| begun.elapsed() < m)) else {
                        break;
                    };
                    let sequence = generate(*seed, ops, scale);
                    let result = run(&mut *world, &sequence);
                    done.fetch_add(1, Ordering::Relaxed);
                    steps.fetch_add(sequence.len() as u64, Ordering::Relaxed);
                    if let Err(why) = result {
                        // What went wrong may have spoilt the world.
                        world = make();
                        let (small, why) = shrink(&sequence, why, &mut || make());
                        let lines: Vec<String> = small.iter().map(Op::to_string).collect();
                        let text = format!("# {what}, seed {seed}: {why}\n{}\n", lines.join("\n"));
                        println!("{text}");
                        failures.lock().unwrap().push(text);
                        if failures.lock().unwrap().len() >= 5 {
                            break;
                        }
                    }
                }
                world.end();
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    println!(
        "{what}: {} sequences, {} operations, {} failed, {:.0} s",
        done.into_inner(),
        steps.into_inner(),
        failures.len(),
        begun.elapsed().as_secs_f64()
    );
    assert!(failures.is_empty(), "{} sequences failed:\n{}", failures.len(), failures.join("\n"));
}

fn direct(streams: bool) -> Box<dyn World> {
    Box::new(Direct::new(streams))
}

fn mounted(options: &'static str) -> Box<dyn World> {
    Box::new(Mounted::new(options))
}

const SMALL_MOUNT: &str = "memory=64M";
const LARGE_MOUNT: &str = "memory=64M,part_size=5M,stream_after=8M";

#[test]
fn the_oracle_is_right_about_a_local_disk() {
    let no_crash = Scale { remounts: true, ..SMALL };
    campaign("local disk", 2, &seeds(120), 50, &no_crash, &|| Box::new(Disk::new()));
}

// R5 R12 R15 R16 R17 R18 R21 R22 R42 R43 R48 R51 R72 R73
#[test]
fn the_library_behaves_as_a_local_disk() {
    campaign("library", 3, &seeds(150), 45, &ALL, &|| direct(false));
}

// R23
#[test]
fn the_library_behaves_as_a_local_disk_while_it_streams() {
    campaign("library, streaming", 3, &seeds(150), 45, &ALL, &|| direct(true));
}

#[test]
fn a_mount_behaves_as_a_local_disk() {
    let _alone = common::alone();
    campaign("mount", 1, &seeds(60), 60, &SMALL, &|| mounted(SMALL_MOUNT));
}

#[test]
fn a_mount_with_streamed_files_behaves_as_a_local_disk() {
    let _alone = common::alone();
    campaign("mount, streaming", 1, &seeds(4), 60, &LARGE, &|| mounted(LARGE_MOUNT));
}

/// Remounts, and daemons that are killed.
// R72 R73 R74
#[test]
fn a_mount_that_ends_in_any_way_has_what_was_closed() {
    let _alone = common::alone();
    campaign("mount, killed", 1, &seeds(12), 60, &ALL, &|| mounted(SMALL_MOUNT));
}

/// The same where close returns when the journal has the bytes.
// R73
#[test]
fn a_mount_with_a_journal_that_ends_in_any_way_has_what_was_closed() {
    let _alone = common::alone();
    campaign("mount, journal, killed", 1, &seeds(10), 60, &ALL, &|| mounted("memory=64M,writeback"));
}

fn replay(path: &Path) {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let ops: Vec<Op> = text.lines().filter_map(Op::parse).collect();
    let worlds: [(&str, Box<dyn World>); 4] = [
        ("library", direct(false)),
        ("library, streaming", direct(true)),
        ("mount", mounted(LARGE_MOUNT)),
        ("mount with a journal", mounted("memory=64M,writeback")),
    ];
    for (what, mut world) in worlds {
        if let Err(why) = run(&mut *world, &ops) {
            panic!("{} over the {what}: {why}", path.display());
        }
        world.end();
    }
}

#[test]
fn sequences_that_failed_once_are_right() {
    let _alone = common::alone();
    if let Ok(one) = std::env::var("XOSFS_MODEL_REPLAY") {
        return replay(Path::new(&one));
    }
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/model_cases");
    let mut cases: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    cases.sort();
    for case in cases.iter().filter(|c| c.extension().is_some_and(|e| e == "ops")) {
        replay(case);
    }
}

/// A close on one thread let the writer go that a truncate by path on another was about to use: the new size was lost.
#[test]
fn regression_truncate_while_the_last_handle_closes() {
    let _alone = common::alone();
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    let path = mount.join("f");
    for round in 0..300u64 {
        fs::write(&path, vec![b'x'; 5000]).unwrap();
        // The release of that handle is still on its way.
        nix::unistd::truncate(&path, (round % 100) as i64).unwrap();
        assert_eq!(fs::read(&path).unwrap().len() as u64, round % 100, "round {round}");
        // O_TRUNC by opening, at the same moment.
        fs::write(&path, vec![b'y'; 5000]).unwrap();
        File::create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 0, "round {round}");
    }
    mount.umount();
}

/// The delete that waits for the last close of an unlinked file took the file that was renamed to its name meanwhile.
#[test]
fn regression_rename_to_a_name_whose_delete_waits() {
    let _alone = common::alone();
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    let (path, new) = (mount.join("f"), mount.join("new"));
    for round in 0..200 {
        fs::write(&path, format!("old {round}")).unwrap();
        // The release of this handle is still on its way when the name is removed.
        assert_eq!(fs::read(&path).unwrap(), format!("old {round}").into_bytes());
        fs::remove_file(&path).unwrap();
        fs::write(&new, format!("new {round}")).unwrap();
        fs::rename(&new, &path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), format!("new {round}").into_bytes());
        // rclone is a process each time, so not every round asks the bucket itself.
        if round % 20 == 0 {
            assert_eq!(server.get("f"), format!("new {round}").into_bytes(), "round {round}");
        }
    }
    mount.umount();
}

/// A descriptor that a child process inherited is closed at any moment, and its close stores the file: not behind the
/// back of a rename that is under way.
// R10 R42 R123
#[test]
fn regression_a_file_is_stored_while_it_is_renamed_or_replaced() {
    let _alone = common::alone();
    use drive::Drive;
    let world = Direct::new(false);
    let drive = world.library();
    let put = |name: &str, text: &[u8]| {
        let file = drive.open(name, libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC).unwrap();
        drive.write_at(&file, 0, text).unwrap();
        drive.close(file).unwrap();
    };
    let read = |name: &str| drive.read(name).map(|b| String::from_utf8(b).unwrap());
    drive.mkdir("d").unwrap();
    for (open, from, to, target) in
        [("b", "a", "b", "a0"), ("a", "a", "b", "a1"), ("d/f", "d", "e", "f1"), ("d/f", "d/f", "b", "f1")]
    {
        for name in ["a", "b", "d/f"] {
            put(name, format!("{}0", name.trim_start_matches("d/")).as_bytes());
        }
        let file = drive.open(open, libc::O_RDWR).unwrap();
        drive.write_at(&file, 1, b"1").unwrap();
        let copies = xosfs::demo::Rule::new("CopyObject", xosfs::demo::Action::Stall(Duration::from_millis(300)));
        world.server().knobs().fail(copies);
        std::thread::scope(|scope| {
            let renamed = scope.spawn(|| drive.rename(from, to));
            std::thread::sleep(Duration::from_millis(100));
            // Whatever was written is stored where the file then is, or nowhere when it was replaced.
            drive.write_at(&file, 1, b"1").unwrap();
            drive.fsync(&file).unwrap();
            renamed.join().unwrap().unwrap();
        });
        world.server().knobs().clear_rules();
        drive.close(file).unwrap();
        let place = if from == "d" { "e/f" } else { to };
        assert_eq!(read(place).as_deref(), Ok(target), "{from} to {to}, {open} is stored meanwhile");
        let stored = world.stored(place).flatten().map(|b| String::from_utf8(b).unwrap());
        assert_eq!(stored.as_deref(), Some(target), "{from} to {to}, {open} is stored meanwhile: the bucket");
        assert_eq!(world.stored(if from == "d" { "d/f" } else { from }), Some(None), "the old name is in the bucket");
        if from == "d" {
            drive.rename("e", "d").unwrap();
        }
    }
    Box::new(world).end();
}

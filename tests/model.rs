//! Random operations on a real mount and on a local directory: whatever the local file system answers is right.
//!
//! A failure names its seed; `XOSFS_MODEL_SEED=N cargo test --test model` runs that one, `XOSFS_MODEL_SEEDS=N` runs
//! as many from 1 on.

mod common;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use common::{TestMount, TestServer, temp_dir};

/// Xorshift: the same numbers for the same seed on every machine.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(n).collect()
    }
}

/// One file opened in both places.
struct Pair {
    mount: File,
    local: File,
    read: bool,
    write: bool,
    append: bool,
}

struct Scale {
    files: usize,
    offsets: u64,
    sizes: &'static [usize],
}

const SMALL: Scale = Scale { files: 4, offsets: 2_000_000, sizes: &[1, 10, 4096, 5000, 131_072, 300_000] };
const LARGE: Scale = Scale { files: 2, offsets: 30_000_000, sizes: &[1, 4096, 131_072, 1_000_000, 3_000_000] };

fn both(mount: &Path, local: &Path, open: &OpenOptions) -> Option<(File, File)> {
    let (a, b) = (open.open(mount), open.open(local));
    match (a, b) {
        (Ok(a), Ok(b)) => Some((a, b)),
        (Err(a), Err(b)) => {
            assert_eq!(a.raw_os_error(), b.raw_os_error(), "open {}", local.display());
            None
        }
        (a, b) => panic!("open {}: mount {a:?}, local {b:?}", local.display()),
    }
}

fn first_difference(a: &[u8], b: &[u8]) -> String {
    let at = a.iter().zip(b).position(|(x, y)| x != y);
    format!("lengths {} and {}, first difference at {at:?}", a.len(), b.len())
}

fn run(mount: &Path, local: &Path, seed: u64, ops: usize, scale: &Scale) {
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut open: HashMap<usize, Vec<Pair>> = HashMap::new();
    let paths = |i: usize| -> (PathBuf, PathBuf) { (mount.join(format!("f{i}")), local.join(format!("f{i}"))) };
    for op in 0..ops {
        let i = rng.below(scale.files as u64) as usize;
        let (pm, pl) = paths(i);
        let place = format!("seed {seed}, operation {op}, file f{i}");
        let handles = open.entry(i).or_default();
        let h = (!handles.is_empty()).then(|| rng.below(handles.len() as u64) as usize);
        match rng.below(100) {
            0..10 if handles.len() < 3 => {
                let mut options = OpenOptions::new();
                let (read, write, append) = rng.pick(&[(true, true, false), (true, false, false), (false, true, true)]);
                let create = write && rng.below(2) == 0;
                let truncate = create && !append && rng.below(2) == 0;
                options.read(read).write(write && !append).append(append).create(create).truncate(truncate).mode(0o644);
                if let Some((mount, local)) = both(&pm, &pl, &options) {
                    handles.push(Pair { mount, local, read, write, append });
                }
            }
            10..45 => {
                let Some(pair) = h.map(|h| &handles[h]).filter(|p| p.write) else { continue };
                let size = pair.local.metadata().unwrap().len();
                // Mostly inside, sometimes past the end.
                let past = if rng.below(6) == 0 { rng.below(500_000) } else { 0 };
                let at = if past > 0 { size + past } else { rng.below(size.min(scale.offsets) + 1) };
                let size = rng.pick(scale.sizes);
                let data = rng.bytes(size);
                if pair.append {
                    use std::io::Write;
                    (&pair.mount).write_all(&data).unwrap();
                    (&pair.local).write_all(&data).unwrap();
                } else {
                    pair.mount.write_all_at(&data, at).unwrap();
                    pair.local.write_all_at(&data, at).unwrap();
                }
            }
            45..60 => {
                let Some(pair) = h.map(|h| &handles[h]).filter(|p| p.read) else { continue };
                let at = rng.below(pair.local.metadata().unwrap().len() + 10);
                let mut a = vec![0; rng.pick(&[1, 4096, 100_000, 400_000])];
                let mut b = a.clone();
                let (n, m) = (pair.mount.read_at(&mut a, at).unwrap(), pair.local.read_at(&mut b, at).unwrap());
                assert!(a[..n] == b[..m], "{place}: read at {at}: {}", first_difference(&a[..n], &b[..m]));
            }
            60..65 => {
                let Some(pair) = h.map(|h| &handles[h]).filter(|p| p.write) else { continue };
                let size = rng.below(scale.offsets);
                pair.mount.set_len(size).unwrap();
                pair.local.set_len(size).unwrap();
            }
            65..69 if pl.exists() => {
                let size = rng.below(scale.offsets / 2);
                nix::unistd::truncate(&pm, size as i64).unwrap();
                nix::unistd::truncate(&pl, size as i64).unwrap();
            }
            69..73 => {
                if let Some(h) = h {
                    handles[h].mount.sync_all().unwrap();
                }
            }
            73..84 => {
                if let Some(h) = h {
                    drop(handles.swap_remove(h));
                }
            }
            84..88 => {
                let j = rng.below(scale.files as u64) as usize;
                let (to_m, to_l) = paths(j);
                if i != j && pl.exists() && open.get(&j).is_none_or(Vec::is_empty) {
                    fs::rename(&pm, to_m).unwrap();
                    fs::rename(&pl, to_l).unwrap();
                    let moved = open.remove(&i).unwrap_or_default();
                    open.insert(j, moved);
                }
            }
            88..90 if pl.exists() && handles.is_empty() => {
                fs::remove_file(&pm).unwrap();
                fs::remove_file(&pl).unwrap();
            }
            90..94 if pl.exists() => {
                let (a, b) = (fs::read(&pm).unwrap(), fs::read(&pl).unwrap());
                assert!(a == b, "{place}: whole file: {}", first_difference(&a, &b));
            }
            94..96 if pl.exists() => {
                let mode = rng.pick(&[0o600, 0o640, 0o755]);
                fs::set_permissions(&pm, Permissions::from_mode(mode)).unwrap();
                assert_eq!(fs::metadata(&pm).unwrap().mode() & 0o7777, mode, "{place}");
            }
            _ => {
                assert_eq!(pm.exists(), pl.exists(), "{place}: existence");
                if pl.exists() {
                    let (a, b) = (fs::metadata(&pm).unwrap().len(), fs::metadata(&pl).unwrap().len());
                    assert_eq!(a, b, "{place}: size");
                }
            }
        }
    }
    drop(open);
    for i in 0..scale.files {
        let (pm, pl) = paths(i);
        assert_eq!(pm.exists(), pl.exists(), "seed {seed}: f{i} at the end");
        if pl.exists() {
            let (a, b) = (fs::read(&pm).unwrap(), fs::read(&pl).unwrap());
            assert!(a == b, "seed {seed}: f{i} at the end: {}", first_difference(&a, &b));
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn seeds(default: u64) -> Vec<u64> {
    match number("XOSFS_MODEL_SEED") {
        Some(one) => vec![one],
        None => (1..=number("XOSFS_MODEL_SEEDS").unwrap_or(default)).collect(),
    }
}

/// Runs the seeds on one mount, then compares what another mount, and so the bucket, has.
fn campaign(options: &str, default_seeds: u64, ops: usize, scale: &Scale) {
    let server = TestServer::start();
    let mount = TestMount::with(&server, &[options]);
    let local = temp_dir();
    for seed in seeds(default_seeds) {
        let (m, l) = (mount.join(format!("s{seed}")), local.path().join(format!("s{seed}")));
        fs::create_dir(&m).unwrap();
        fs::create_dir(&l).unwrap();
        run(&m, &l, seed, ops, scale);
    }
    mount.umount();
    let mount = TestMount::new(&server);
    for seed in seeds(default_seeds) {
        for i in 0..scale.files {
            let l = local.path().join(format!("s{seed}/f{i}"));
            let m = mount.join(format!("s{seed}/f{i}"));
            assert_eq!(m.exists(), l.exists(), "seed {seed}: f{i} after a remount");
            if l.exists() {
                let (a, b) = (fs::read(m).unwrap(), fs::read(l).unwrap());
                assert!(a == b, "seed {seed}: f{i} after a remount: {}", first_difference(&a, &b));
            }
        }
    }
    mount.umount();
}

#[test]
fn files_behave_as_on_a_local_disk() {
    campaign("memory=64M", 8, 1500, &SMALL);
}

#[test]
fn streamed_files_behave_as_on_a_local_disk() {
    campaign("memory=64M,part_size=5M,stream_after=8M", 3, 250, &LARGE);
}

/// A close on one thread let the writer go that a truncate by path on another was about to use: the new size was lost.
#[test]
fn regression_truncate_while_the_last_handle_closes() {
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

//! Every request of every kind of change fails once, and for good: the application is told or the bytes are right.
//!
//! 1. Each scenario runs once without faults; its requests are counted. Then it runs anew for each request and each
//!    fault: with that one request failing, and with this and all later ones of its operation failing.
//! 2. There is no third outcome. Success means that the store holds the new state. An error means that every object is
//!    the old or the new one, whole; when nothing can have arrived at the store, and the change is one object, it is the
//!    old one.
//! 3. Afterwards, with the faults gone, nothing is left over: no upload, no memory, and the same mount shows what the
//!    store holds and does the same change when it is asked again.
//!
//! Over the library with small limits, in parallel, each run with a server of its own; and over a mount with the
//! faults that differ there. `XOSFS_FAULT_SWEEP=full` runs all positions and all faults, over the mount, too;
//! `XOSFS_FAULT_SWEEP=NAME` one scenario.

#![cfg(feature = "demo")]

mod common;
mod drive;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{TestMount, TestServer, eventually, temp_dir};
use drive::{Directory, Drive, Library, Outcome, Setup};
use xosfs::demo::{Action, Attributes, Rule, Server};

const BUCKET: &str = "bucket";
/// One run with all its retries and deadlines.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a fault does, and whether the request may have been carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    InternalError,
    SlowDown,
    Refused,
    /// The connection ends, nothing was done.
    Dropped,
    /// It was done, and the connection ends instead of an answer.
    Unanswered,
    /// It was done, and the answer ends early.
    CutAnswer,
    /// 200 with an error document.
    ErrorIn200,
    /// It was done, and nothing is answered.
    Silence,
}

const FAULTS: &[Fault] = &[
    Fault::InternalError,
    Fault::SlowDown,
    Fault::Refused,
    Fault::Dropped,
    Fault::Unanswered,
    Fault::CutAnswer,
    Fault::ErrorIn200,
    Fault::Silence,
];

impl Fault {
    fn action(self) -> Action {
        match self {
            Fault::InternalError => Action::Status(500, "InternalError".into()),
            Fault::SlowDown => Action::SlowDown,
            Fault::Refused => Action::Status(403, "AccessDenied".into()),
            Fault::Dropped => Action::Drop,
            Fault::Unanswered => Action::CutBeforeAnswer,
            Fault::CutAnswer => Action::CutBody(10),
            Fault::ErrorIn200 => Action::ErrorIn200("InternalError".into()),
            Fault::Silence => Action::Stall(Duration::from_secs(20)),
        }
    }

    fn applies(self, operation: &str) -> bool {
        match self {
            Fault::ErrorIn200 => ["CopyObject", "UploadPartCopy", "CompleteMultipartUpload"].contains(&operation),
            // Their answers have no body to cut.
            Fault::CutAnswer => {
                !["HeadObject", "PutObject", "UploadPart", "DeleteObject", "AbortMultipartUpload"].contains(&operation)
            }
            _ => true,
        }
    }

    fn may_have_been_done(self) -> bool {
        matches!(self, Fault::Unanswered | Fault::CutAnswer | Fault::Silence)
    }
}

/// Bytes and mode of every object.
type Objects = BTreeMap<String, (Vec<u8>, Option<String>)>;

/// Sizes that meet the limits of what is tested.
#[derive(Clone, Copy)]
struct Sizes {
    /// Stored by one PUT.
    small: usize,
    /// Stored in parts.
    large: usize,
    /// Long enough to be sent while it is written.
    streamed: usize,
    chunk: usize,
}

const LIBRARY: Sizes = Sizes { small: 1000, large: 420_000, streamed: 900_000, chunk: 64 << 10 };
const MOUNT: Sizes = Sizes { small: 1000, large: 17 << 20, streamed: 23 << 20, chunk: 1 << 20 };

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |x: &mut u64| {
        *x ^= *x << 13;
        *x ^= *x >> 7;
        *x ^= *x << 17;
        *x
    };
    (0..len.div_ceil(8)).flat_map(|_| next(&mut x).to_le_bytes()).take(len).collect()
}

/// What a scenario runs on: `path` prefixes the name with the run's directory.
struct Stage<'a> {
    drive: &'a dyn Drive,
    dir: String,
    sizes: Sizes,
}

impl Stage<'_> {
    fn path(&self, name: &str) -> String {
        format!("{}{name}", self.dir)
    }

    /// Opens, works, and closes in any case; the first error.
    fn with(&self, name: &str, flags: i32, work: impl FnOnce(&drive::Handle) -> Outcome<()>) -> Outcome<()> {
        let file = self.drive.open(&self.path(name), flags)?;
        let done = work(&file);
        let closed = self.drive.close(file);
        done.and(closed)
    }

    fn write(&self, name: &str, flags: i32, content: &[u8]) -> Outcome<()> {
        self.with(name, flags | libc::O_WRONLY, |f| {
            content
                .chunks(self.sizes.chunk)
                .zip(0..)
                .try_for_each(|(c, i)| self.drive.write_at(f, i * self.sizes.chunk as u64, c))
        })
    }
}

/// Names and contents.
type Files = Vec<(&'static str, Vec<u8>)>;

/// Objects there before; what is done.
struct Scenario {
    name: &'static str,
    before: fn(Sizes) -> Files,
    run: fn(&Stage<'_>) -> Outcome<()>,
    /// The change is one object: an error of a request that was not carried out leaves everything as it was.
    atomic: bool,
    /// Done again after a failure it has the same result.
    repeatable: bool,
    /// States a failure may leave besides the old and the new one.
    between: fn(Sizes) -> Files,
}

const NEW: i32 = libc::O_CREAT | libc::O_TRUNC;
const PLAIN: Scenario =
    Scenario { name: "", before: |_| vec![], run: |_| Ok(()), atomic: true, repeatable: true, between: |_| vec![] };

const SCENARIOS: &[Scenario] = &[
    Scenario { name: "create_small", run: |s| s.write("f", NEW, &bytes(2, s.sizes.small)), ..PLAIN },
    Scenario { name: "create_empty", run: |s| s.write("f", NEW, b""), ..PLAIN },
    Scenario {
        name: "create_exclusive",
        run: |s| s.write("f", NEW | libc::O_EXCL, &bytes(2, s.sizes.small)),
        // A name that is kept by a file whose store failed is not there any more, one that got there is.
        repeatable: false,
        ..PLAIN
    },
    Scenario {
        name: "create_in_parts",
        // The second half first: nothing to stream.
        run: |s| {
            let all = bytes(3, s.sizes.large);
            let half = all.len() / 2;
            s.with("f", NEW | libc::O_RDWR, |f| {
                s.drive.write_at(f, half as u64, &all[half..])?;
                s.drive.write_at(f, 0, &all[..half])
            })
        },
        ..PLAIN
    },
    Scenario { name: "create_streamed", run: |s| s.write("f", NEW, &bytes(4, s.sizes.streamed)), ..PLAIN },
    Scenario {
        name: "overwrite_small",
        before: |z| vec![("f", bytes(1, z.small + 77))],
        run: |s| s.write("f", NEW, &bytes(2, s.sizes.small)),
        ..PLAIN
    },
    Scenario {
        name: "overwrite_streamed",
        before: |z| vec![("f", bytes(1, z.large))],
        run: |s| s.write("f", NEW, &bytes(5, s.sizes.streamed)),
        ..PLAIN
    },
    Scenario {
        name: "append_small",
        before: |z| vec![("f", bytes(1, z.small))],
        run: |s| s.write("f", libc::O_APPEND, &bytes(2, 500)),
        repeatable: false,
        ..PLAIN
    },
    Scenario {
        name: "append_large",
        before: |z| vec![("f", bytes(1, z.large))],
        run: |s| s.write("f", libc::O_APPEND, &bytes(2, 500)),
        repeatable: false,
        ..PLAIN
    },
    Scenario {
        name: "change_in_the_middle",
        before: |z| vec![("f", bytes(1, z.streamed))],
        run: |s| s.with("f", libc::O_RDWR, |f| s.drive.write_at(f, s.sizes.streamed as u64 / 2, b"changed")),
        ..PLAIN
    },
    Scenario {
        name: "cut_by_path",
        before: |z| vec![("f", bytes(1, z.large))],
        run: |s| s.drive.truncate(&s.path("f"), s.sizes.large as u64 / 2),
        ..PLAIN
    },
    Scenario {
        name: "extend_by_path",
        before: |z| vec![("f", bytes(1, z.small))],
        run: |s| s.drive.truncate(&s.path("f"), s.sizes.large as u64),
        ..PLAIN
    },
    Scenario {
        name: "sync_and_go_on",
        before: |z| vec![("f", bytes(1, z.small))],
        run: |s| {
            s.with("f", libc::O_RDWR, |f| {
                s.drive.write_at(f, 10, b"first")?;
                s.drive.fsync(f)?;
                s.drive.write_at(f, 100, b"second")
            })
        },
        between: |z| {
            let mut one = bytes(1, z.small);
            one[10..15].copy_from_slice(b"first");
            vec![("f", one)]
        },
        atomic: false,
        ..PLAIN
    },
    Scenario {
        name: "punch",
        before: |z| vec![("f", bytes(1, z.large))],
        run: |s| {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            s.with("f", libc::O_RDWR, |f| s.drive.fallocate(f, mode, 1000, s.sizes.large as u64 / 2))
        },
        ..PLAIN
    },
    Scenario {
        name: "rename_small",
        before: |z| vec![("a", bytes(1, z.small))],
        run: |s| s.drive.rename(&s.path("a"), &s.path("b")),
        atomic: false,
        repeatable: false,
        ..PLAIN
    },
    Scenario {
        name: "rename_over",
        before: |z| vec![("a", bytes(1, z.small)), ("b", bytes(2, z.small))],
        run: |s| s.drive.rename(&s.path("a"), &s.path("b")),
        atomic: false,
        repeatable: false,
        ..PLAIN
    },
    Scenario {
        name: "rename_large",
        before: |z| vec![("a", bytes(1, z.large))],
        run: |s| s.drive.rename(&s.path("a"), &s.path("b")),
        atomic: false,
        repeatable: false,
        ..PLAIN
    },
    Scenario {
        name: "rename_being_written",
        before: |z| vec![("a", bytes(1, z.small)), ("b", bytes(2, z.small))],
        run: |s| {
            s.with("a", libc::O_RDWR, |f| {
                s.drive.write_at(f, 10, b"changed")?;
                s.drive.rename(&s.path("a"), &s.path("b"))
            })
        },
        between: |z| {
            let mut changed = bytes(1, z.small);
            changed[10..17].copy_from_slice(b"changed");
            vec![("a", changed)]
        },
        atomic: false,
        repeatable: false,
    },
    Scenario {
        name: "save_by_rename",
        before: |z| vec![("f", bytes(1, z.small))],
        run: |s| {
            s.write("f.new", NEW | libc::O_EXCL, &bytes(2, s.sizes.small))?;
            s.drive.rename(&s.path("f.new"), &s.path("f"))
        },
        between: |z| vec![("f.new", bytes(2, z.small))],
        atomic: false,
        repeatable: false,
    },
    Scenario {
        name: "rename_directory",
        before: |z| {
            let names = ["d/1", "d/2", "d/3", "d/sub/4", "d/sub/5"];
            let mut all: Vec<_> = names.into_iter().zip(1..).map(|(n, i)| (n, bytes(i, z.small))).collect();
            all.extend([("d/", vec![]), ("d/large", bytes(9, z.large))]);
            all
        },
        run: |s| s.drive.rename(&s.path("d"), &s.path("e")),
        atomic: false,
        repeatable: false,
        ..PLAIN
    },
    Scenario {
        name: "unlink",
        before: |z| vec![("f", bytes(1, z.small)), ("other", bytes(2, z.small))],
        run: |s| s.drive.unlink(&s.path("f")),
        repeatable: false,
        ..PLAIN
    },
    Scenario {
        name: "chmod",
        before: |z| vec![("f", bytes(1, z.small))],
        run: |s| {
            s.drive.chmod(&s.path("f"), 0o600)?;
            s.with("f", libc::O_RDONLY, |f| s.drive.fsync(f))
        },
        repeatable: false,
        ..PLAIN
    },
    Scenario { name: "symlink", run: |s| s.drive.symlink("where/it/leads", &s.path("l")), repeatable: false, ..PLAIN },
    Scenario { name: "mkdir", run: |s| s.drive.mkdir(&s.path("made")), repeatable: false, ..PLAIN },
    Scenario {
        name: "rmdir",
        before: |_| vec![("made/", vec![]), ("other", vec![1])],
        run: |s| s.drive.rmdir(&s.path("made")),
        repeatable: false,
        ..PLAIN
    },
    Scenario {
        name: "read_small",
        before: |z| vec![("f", bytes(1, z.small))],
        run: |s| {
            let read = s.drive.read(&s.path("f"))?;
            assert!(read == bytes(1, s.sizes.small), "wrong bytes, and no error");
            Ok(())
        },
        ..PLAIN
    },
    Scenario {
        name: "read_large",
        before: |z| vec![("f", bytes(1, z.streamed))],
        run: |s| {
            let read = s.drive.read(&s.path("f"))?;
            assert!(read == bytes(1, s.sizes.streamed), "wrong bytes, and no error");
            Ok(())
        },
        ..PLAIN
    },
    Scenario {
        name: "list",
        before: |_| vec![("d/1", vec![1]), ("d/2", vec![2]), ("d/sub/3", vec![3]), ("d/z", vec![4])],
        run: |s| {
            let names = s.drive.list(&s.path("d"))?;
            assert_eq!(names, ["1", "2", "sub", "z"], "names are missing, and no error");
            assert_eq!(s.drive.stat(&s.path("d/2"))?.size, 1);
            Ok(())
        },
        ..PLAIN
    },
];

fn objects(server: &Server, bucket: &str, dir: &str) -> Objects {
    let store = server.store();
    let keys = store.list(bucket, dir);
    keys.into_iter()
        .map(|k| {
            let content = store.get(bucket, &k).unwrap_or_default().to_vec();
            let mode = store.head(bucket, &k).and_then(|h| h.attributes.metadata.get("mode").cloned());
            (k[dir.len()..].to_owned(), (content, mode))
        })
        .collect()
}

fn fill(server: &Server, bucket: &str, dir: &str, scenario: &Scenario, sizes: Sizes) {
    for (name, content) in (scenario.before)(sizes) {
        let metadata = BTreeMap::from([("mode".to_owned(), "33188".to_owned())]);
        let attributes = Attributes { metadata, ..Attributes::default() };
        server.store().put_with(bucket, &format!("{dir}{name}"), content, attributes, "private");
    }
}

fn shown(objects: &Objects) -> String {
    let all: Vec<_> = objects.iter().map(|(k, (b, m))| format!("{k}: {} bytes, mode {m:?}", b.len())).collect();
    all.join("; ")
}

/// A run of a scenario without faults.
struct Clean {
    before: Objects,
    after: Objects,
    operations: Vec<String>,
}

/// One run to be made.
#[derive(Clone, Debug)]
struct Case {
    scenario: usize,
    fault: Fault,
    operation: String,
    /// Which of its operation, from 1.
    nth: u64,
    persistent: bool,
}

fn cases(scenario: usize, operations: &[String], faults: &[Fault]) -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, operation) in operations.iter().enumerate() {
        let nth = operations[..=i].iter().filter(|o| *o == operation).count() as u64;
        for fault in faults.iter().filter(|f| f.applies(operation)) {
            for persistent in [false, true] {
                let operation = operation.clone();
                cases.push(Case { scenario, fault: *fault, operation, nth, persistent });
            }
        }
    }
    // What an undisturbed run never sends, and a disturbed one does.
    if operations.iter().any(|o| o == "CreateMultipartUpload") {
        let abort = "AbortMultipartUpload".to_owned();
        cases.push(Case { scenario, fault: Fault::InternalError, operation: abort, nth: 1, persistent: false });
    }
    cases
}

/// The law of the module's beginning, for what the store holds after a run.
fn judge(
    scenario: &Scenario,
    sizes: Sizes,
    clean: &Clean,
    case: &Case,
    result: Outcome<()>,
    now: &Objects,
) -> Result<(), String> {
    let state =
        || format!("store has [{}]; before [{}]; after [{}]", shown(now), shown(&clean.before), shown(&clean.after));
    match result {
        Ok(()) if *now == clean.after => return Ok(()),
        Ok(()) => return Err(format!("success, but {}", state())),
        // Without the right to list, what is known of the key itself decides (R7).
        Err(libc::ENOENT) if case.fault == Fault::Refused && case.operation.starts_with("List") => {}
        Err(libc::ENOENT) => return Err("a failing store is no missing file".into()),
        Err(_) => {}
    }
    let certain = !case.fault.may_have_been_done();
    if scenario.atomic && certain && *now != clean.before {
        return Err(format!("an error, but {}", state()));
    }
    let between = (scenario.between)(sizes);
    let keys: BTreeSet<&String> = clean.before.keys().chain(clean.after.keys()).chain(now.keys()).collect();
    for key in keys {
        let found = now.get(key);
        let middle = found.is_some_and(|f| between.iter().any(|(k, b)| k == key && *b == f.0));
        if found != clean.before.get(key) && found != clean.after.get(key) && !middle {
            return Err(format!("{key} is neither old nor new: {}", state()));
        }
    }
    // Nothing is lost: the content of each object that moved is somewhere.
    if scenario.name.starts_with("rename") {
        let kept = |b: &Vec<u8>| now.values().any(|n| n.0 == *b);
        for (key, (content, _)) in &clean.before {
            let replaced = !clean.after.values().any(|a| a.0 == *content);
            if !replaced && !kept(content) {
                return Err(format!("{key} is lost: {}", state()));
            }
        }
    }
    Ok(())
}

/// What the mount shows is what the store holds; listings of before may live on for their time.
fn same_view(stage: &Stage<'_>, clean: &Clean, now: &Objects) -> Result<(), String> {
    let begun = Instant::now();
    let names: BTreeSet<&String> = clean.before.keys().chain(clean.after.keys()).chain(now.keys()).collect();
    for name in names.into_iter().filter(|n| !n.ends_with('/')) {
        // Until it is over, what was believed may be shown.
        loop {
            let path = stage.path(name);
            let found = match stage.drive.readlink(&path) {
                Ok(target) => Ok(target.into_bytes()),
                Err(_) => stage.drive.read(&path),
            };
            let right = match (&found, now.get(name)) {
                (Ok(found), Some((content, _))) => found == content,
                (Err(libc::ENOENT), None) => true,
                _ => false,
            };
            if right {
                break;
            }
            if begun.elapsed() > Duration::from_secs(4) {
                let found = found.map(|f| f.len());
                let stored = now.get(name).map(|(b, _)| b.len());
                return Err(format!("the mount shows {name} as {found:?}, the store has {stored:?} bytes"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// What a run has injected, and how it ended.
#[derive(Default)]
struct Tally {
    runs: AtomicUsize,
    hit: AtomicUsize,
    healed: AtomicUsize,
    reported: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Tally {
    fn print(&self, what: &str, begun: Instant) {
        let n = |a: &AtomicUsize| a.load(Ordering::Relaxed);
        println!(
            "{what}: {} runs with {} faults injected in {:.1} s; {} healed, {} reported",
            n(&self.runs),
            n(&self.hit),
            begun.elapsed().as_secs_f64(),
            n(&self.healed),
            n(&self.reported)
        );
        let failures = self.failures.lock().unwrap();
        assert!(failures.is_empty(), "{} of them went wrong:\n{}", failures.len(), failures.join("\n"));
    }
}

/// Options under which a silent store is given up soon, and a machine under load is not.
fn patience(fault: Option<Fault>) -> String {
    let silence = fault == Some(Fault::Silence);
    let (read, op) = if silence { ("500ms", "3s") } else { ("20s", "20s") };
    format!("retries=1,connect_timeout=3s,read_timeout={read},op_timeout={op},metadata_ttl=500ms,negative_ttl=200ms")
}

/// The same once more, with the faults gone. Where a silent store is given up soon, so is a slow machine.
fn again(scenario: &Scenario, stage: &Stage<'_>) -> Result<(), String> {
    let mut result = Ok(());
    for _ in 0..3 {
        result = (scenario.run)(stage);
        if result != Err(libc::ETIMEDOUT) {
            break;
        }
    }
    result.map_err(|e| format!("asked again, with the faults gone: error {e}"))
}

fn full() -> bool {
    std::env::var("XOSFS_FAULT_SWEEP").is_ok_and(|v| v == "full")
}

fn wanted(scenario: &Scenario) -> bool {
    match std::env::var("XOSFS_FAULT_SWEEP").as_deref() {
        Ok("full") | Err(_) => true,
        Ok(name) => scenario.name == name,
    }
}

/// Runs `work` on as many threads for the numbers below `count`.
fn in_parallel(threads: usize, count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= count {
                        return;
                    }
                    work(i);
                }
            });
        }
    });
}

/// A panic in a run is that run's failure.
fn caught(what: &str, tally: &Tally, work: impl FnOnce() -> Result<(), String>) {
    let begun = Instant::now();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or(panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default())
    });
    let late = (begun.elapsed() > PATIENCE).then(|| format!("took {:?}", begun.elapsed()));
    if let Some(why) = result.err().or(late) {
        tally.failures.lock().unwrap().push(format!("{what}: {why}"));
    }
}

mod over_the_library {
    use super::*;

    struct World {
        server: Server,
        staging: tempfile::TempDir,
        runtime: tokio::runtime::Handle,
    }

    impl World {
        fn new(runtime: &tokio::runtime::Handle, scenario: &Scenario) -> World {
            let options = xosfs::demo::Options::with_bucket(BUCKET);
            let server = runtime.block_on(Server::start(options)).unwrap();
            server.knobs().set(|b| b.min_part = drive::small_limits().min_part);
            fill(&server, BUCKET, "", scenario, LIBRARY);
            World { server, staging: temp_dir(), runtime: runtime.clone() }
        }

        fn mount(&self, fault: Option<Fault>) -> Library {
            let setup = Setup { options: patience(fault), ..Setup::default() };
            Library::new(&self.server, BUCKET, self.staging.path(), &self.runtime, &setup)
        }
    }

    fn clean(runtime: &tokio::runtime::Handle, scenario: &Scenario) -> Clean {
        let world = World::new(runtime, scenario);
        let library = world.mount(None);
        let stage = Stage { drive: &library, dir: String::new(), sizes: LIBRARY };
        let before = objects(&world.server, BUCKET, "");
        let result = (scenario.run)(&stage);
        assert_eq!(result, Ok(()), "{} without faults", scenario.name);
        let operations = world.server.log().iter().map(|r| r.operation.to_owned()).collect();
        assert!(library.drain().is_empty());
        Clean { before, after: objects(&world.server, BUCKET, ""), operations }
    }

    fn run(runtime: &tokio::runtime::Handle, clean: &Clean, case: &Case, tally: &Tally) -> Result<(), String> {
        let scenario = &SCENARIOS[case.scenario];
        let world = World::new(runtime, scenario);
        let library = world.mount(Some(case.fault));
        let stage = Stage { drive: &library, dir: String::new(), sizes: LIBRARY };
        let knobs = world.server.knobs();
        let rule = Rule::new(&case.operation, case.fault.action()).nth(case.nth);
        knobs.fail(if case.persistent { rule.always() } else { rule });
        if case.operation == "AbortMultipartUpload" {
            // So that there is something to abort.
            knobs.fail(Rule::new("CompleteMultipartUpload", Action::Status(403, "AccessDenied".into())).always());
        }
        let result = (scenario.run)(&stage);
        let hits = knobs.hits();
        tally.runs.fetch_add(1, Ordering::Relaxed);
        tally.hit.fetch_add(hits as usize, Ordering::Relaxed);
        let outcome = if result.is_ok() { &tally.healed } else { &tally.reported };
        outcome.fetch_add(1, Ordering::Relaxed);
        // Work that goes on behind the application's back meets the fault, too, before it goes away.
        runtime.block_on(library.fs.writes.drain(PATIENCE));
        knobs.clear_rules();
        let now = objects(&world.server, BUCKET, "");
        judge(scenario, LIBRARY, clean, case, result, &now)?;
        same_view(&stage, clean, &now)?;
        if result.is_err() && scenario.repeatable {
            again(scenario, &stage)?;
            let now = objects(&world.server, BUCKET, "");
            if now != clean.after {
                return Err(format!("asked again: the store has [{}]", shown(&now)));
            }
            same_view(&stage, clean, &now)?;
        }
        let unstored = library.drain();
        if !unstored.is_empty() {
            return Err(format!("at the end not stored: {unstored:?}"));
        }
        if library.fs.writes.memory() != 0 {
            return Err(format!("{} bytes of memory are kept", library.fs.writes.memory()));
        }
        // Of an upload whose creation was not answered nobody knows the number; one whose abort failed was tried.
        let unknown = case.operation == "CreateMultipartUpload" && case.fault.may_have_been_done();
        let uploads = world.server.store().uploads(BUCKET);
        if !uploads.is_empty() && !unknown {
            return Err(format!("uploads are left behind: {uploads:?}"));
        }
        let now = objects(&world.server, BUCKET, "");
        let fresh = world.mount(None);
        same_view(&Stage { drive: &fresh, dir: String::new(), sizes: LIBRARY }, clean, &now)
    }

    // R7 R10 R11 R44 R75 R78 R121 R122
    #[test]
    fn each_request_fails_and_nothing_is_lost() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let begun = Instant::now();
        let tally = Tally::default();
        let mut all = Vec::new();
        let mut cleans = BTreeMap::new();
        for (i, scenario) in SCENARIOS.iter().enumerate().filter(|(_, s)| wanted(s)) {
            let clean = clean(&handle, scenario);
            let mut cases = cases(i, &clean.operations, FAULTS);
            if !full() {
                // The parts of an upload and the copies of a directory are alike, and so are 500 and 503 in the end.
                cases.retain(|c| c.nth <= 3 && (c.fault != Fault::SlowDown || !c.persistent));
            }
            all.extend(cases);
            cleans.insert(i, clean);
        }
        // The long ones (silence) are spread over the threads.
        in_parallel(16, all.len(), |i| {
            let case = &all[i];
            let what = format!("{} with {case:?}", SCENARIOS[case.scenario].name);
            caught(&what, &tally, || run(&handle, &cleans[&case.scenario], case, &tally));
        });
        tally.print("library", begun);
        runtime.shutdown_background();
    }
}

mod over_a_mount {
    use super::*;

    /// Those that are not the same to the kernel's side; `XOSFS_FAULT_SWEEP=full` has them all.
    const SHORT: &[(Fault, bool)] = &[(Fault::InternalError, true), (Fault::Refused, true), (Fault::Unanswered, false)];

    /// Megabytes each, and the kernel's part in them is that of the short ones and of `create_streamed`.
    const LONG: &[&str] = &[
        "create_in_parts",
        "overwrite_streamed",
        "append_large",
        "cut_by_path",
        "extend_by_path",
        "punch",
        "rename_large",
        "rename_directory",
    ];

    /// A name that keeps the run's directory there.
    const KEEP: &str = ".keep";

    struct Place {
        server: TestServer,
        mount: TestMount,
        drive: Directory,
        next: std::cell::Cell<usize>,
    }

    impl Place {
        fn new(options: &str) -> Place {
            let server = TestServer::start();
            let mount = TestMount::with(&server, &[options, "memory=128M,part_size=5M,stream_after=5M"]);
            let drive = Directory(mount.path().to_owned());
            Place { server, mount, drive, next: 0.into() }
        }

        fn embedded(&self) -> &Server {
            self.server.embedded_server().expect("only the embedded server has faults")
        }

        /// A directory of its own for one run.
        fn stage(&self, scenario: &Scenario) -> Stage<'_> {
            let n = self.next.get();
            self.next.set(n + 1);
            let dir = format!("run{n}/");
            self.embedded().store().put(&self.server.bucket, &format!("{dir}{KEEP}"), "x");
            fill(self.embedded(), &self.server.bucket, &dir, scenario, MOUNT);
            Stage { drive: &self.drive, dir, sizes: MOUNT }
        }

        /// What goes on behind the application's back has come to rest.
        fn quiet(&self) {
            let mut seen = (usize::MAX, 0);
            eventually(PATIENCE, "no more requests", || {
                let now = self.embedded().log().len();
                seen = if now == seen.0 { (now, seen.1 + 1) } else { (now, 0) };
                seen.1 >= 3
            });
        }

        fn objects(&self, stage: &Stage<'_>) -> Objects {
            objects(self.embedded(), &self.server.bucket, &stage.dir)
        }
    }

    fn clean(place: &Place, scenario: &Scenario) -> Clean {
        let stage = place.stage(scenario);
        let before = place.objects(&stage);
        // What is found on the way to the run's directory is the same for all.
        let _ = stage.drive.stat(&stage.path(KEEP));
        place.embedded().clear_log();
        assert_eq!((scenario.run)(&stage), Ok(()), "{} without faults", scenario.name);
        let operations = place.embedded().log().iter().map(|r| r.operation.to_owned()).collect();
        place.quiet();
        let after = place.objects(&stage);
        empty(place, &stage);
        Clean { before, after, operations }
    }

    /// The server keeps objects in memory.
    fn empty(place: &Place, stage: &Stage<'_>) {
        let store = place.embedded().store();
        for key in store.list(&place.server.bucket, &stage.dir) {
            store.delete(&place.server.bucket, &key);
        }
    }

    fn run(place: &Place, clean: &Clean, case: &Case, tally: &Tally) -> Result<(), String> {
        let scenario = &SCENARIOS[case.scenario];
        let stage = place.stage(scenario);
        let _ = stage.drive.stat(&stage.path(KEEP));
        let knobs = place.embedded().knobs();
        place.embedded().clear_log();
        let rule = Rule::new(&case.operation, case.fault.action()).nth(case.nth);
        knobs.fail(if case.persistent { rule.always() } else { rule });
        let result = (scenario.run)(&stage);
        place.quiet();
        tally.runs.fetch_add(1, Ordering::Relaxed);
        tally.hit.fetch_add(knobs.hits() as usize, Ordering::Relaxed);
        let outcome = if result.is_ok() { &tally.healed } else { &tally.reported };
        outcome.fetch_add(1, Ordering::Relaxed);
        knobs.clear_rules();
        let now = place.objects(&stage);
        judge(scenario, MOUNT, clean, case, result, &now)?;
        same_view(&stage, clean, &now)?;
        if result.is_err() && scenario.repeatable {
            again(scenario, &stage)?;
            place.quiet();
            let now = place.objects(&stage);
            if now != clean.after {
                return Err(format!("asked again: the store has [{}]", shown(&now)));
            }
            same_view(&stage, clean, &now)?;
        }
        let unknown = case.operation == "CreateMultipartUpload" && case.fault.may_have_been_done();
        let uploads = place.embedded().store().uploads(&place.server.bucket);
        if uploads.iter().any(|(key, _)| key.starts_with(&stage.dir)) && !unknown {
            return Err(format!("uploads are left behind: {uploads:?}"));
        }
        empty(place, &stage);
        Ok(())
    }

    #[test]
    fn each_request_fails_and_the_application_is_told() {
        let full = full();
        let begun = Instant::now();
        let tally = Tally::default();
        let here = |s: &Scenario| wanted(s) && (full || !LONG.contains(&s.name));
        let chosen: Vec<usize> = (0..SCENARIOS.len()).filter(|i| here(&SCENARIOS[*i])).collect();
        // The fault decides how long a mount is patient.
        let groups = [vec![Fault::Silence], FAULTS.iter().copied().filter(|f| *f != Fault::Silence).collect()];
        for (group, threads) in groups.iter().zip([4, 3]).filter(|(g, _)| full || g.len() > 1) {
            let next = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        let place = Place::new(&patience(group.first().copied()));
                        while let Some(i) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                            let clean = clean(&place, &SCENARIOS[*i]);
                            let mut cases = cases(*i, &clean.operations, group);
                            if !full {
                                // The parts of an upload are alike.
                                cases.retain(|c| SHORT.contains(&(c.fault, c.persistent)) && c.nth <= 2);
                            }
                            for case in &cases {
                                let what = format!("{} with {case:?}", SCENARIOS[*i].name);
                                caught(&what, &tally, || run(&place, &clean, case, &tally));
                                place.embedded().knobs().clear_rules();
                            }
                        }
                        place.mount.umount();
                    });
                }
            });
        }
        tally.print("mount", begun);
    }
}

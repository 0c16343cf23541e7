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

#[path = "../common/mod.rs"]
mod common;
#[path = "../drive/mod.rs"]
mod drive;
mod judge;
mod over_a_mount;
mod over_the_library;
mod scenarios;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use scenarios::{Scenario, Sizes, Stage};
use xosfs::demo::{Action, Attributes, Server};

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

fn fill(server: &Server, bucket: &str, dir: &str, scenario: &Scenario, sizes: Sizes) {
    for (name, content) in (scenario.before)(sizes) {
        let metadata = BTreeMap::from([("mode".to_owned(), "33188".to_owned())]);
        let attributes = Attributes { metadata, ..Attributes::default() };
        server.store().put_with(bucket, &format!("{dir}{name}"), content, attributes, "private");
    }
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

//! Over a mount, with the faults that differ there.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use xosfs::demo::{Rule, Server};

use super::common::{TestMount, TestServer, eventually};
use super::drive::Directory;
use super::judge::{Clean, Objects, judge, objects, same_view, shown};
use super::scenarios::{MOUNT, SCENARIOS, Scenario, Stage};
use super::{Case, FAULTS, Fault, PATIENCE, Tally, again, cases, caught, fill, full, patience, wanted};

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

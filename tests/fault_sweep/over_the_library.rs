//! Over the library with small limits, in parallel, each run with a server of its own.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use xosfs::demo::{Action, Rule, Server};

use super::common::temp_dir;
use super::drive::{Library, Setup};
use super::judge::{Clean, judge, objects, same_view, shown};
use super::scenarios::{LIBRARY, SCENARIOS, Scenario, Stage};
use super::{
    BUCKET, Case, FAULTS, Fault, PATIENCE, Tally, again, cases, caught, drive, fill, full, in_parallel, patience,
    wanted,
};

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

//! The law: what the store may hold after a run, and that the mount shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use xosfs::demo::Server;

use super::drive::Outcome;
use super::scenarios::{Scenario, Sizes, Stage};
use super::{Case, Fault};

/// Bytes and mode of every object.
pub type Objects = BTreeMap<String, (Vec<u8>, Option<String>)>;

pub fn objects(server: &Server, bucket: &str, dir: &str) -> Objects {
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

pub fn shown(objects: &Objects) -> String {
    let all: Vec<_> = objects.iter().map(|(k, (b, m))| format!("{k}: {} bytes, mode {m:?}", b.len())).collect();
    all.join("; ")
}

/// A run of a scenario without faults.
pub struct Clean {
    pub before: Objects,
    pub after: Objects,
    pub operations: Vec<String>,
}

/// The law of the module's beginning, for what the store holds after a run.
pub fn judge(
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
pub fn same_view(stage: &Stage<'_>, clean: &Clean, now: &Objects) -> Result<(), String> {
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

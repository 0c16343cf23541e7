//! `xosfs status`, `flush` and `refresh`: what the daemons of this user's mounts say, and what is left of those that
//! are gone.
//!
//! 1. A mount is named by its directory or by anything in it. Finding it must not touch it: it may be stuck, so the
//!    records of the daemons are compared with the path as it is written, first.
//! 2. Without a directory nothing may hide: a record whose daemon is dead, a mount without a record, and files that a
//!    daemon could not store are all listed.

use std::path::{Component, Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::{Failure, journal, print};
use crate::daemon::control::{self, Ask, Reply};
use crate::daemon::state::State;
use crate::daemon::status::Status;
use crate::fuse::mountinfo::{self, Entry};
use crate::fuse::target;

#[derive(Args, Clone, Debug)]
pub(super) struct StatusArgs {
    /// Where it is mounted, or anything in it [default: every mount of this user].
    dir: Option<PathBuf>,
    /// For programs.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
pub(super) struct FlushArgs {
    /// Where it is mounted, or anything in it.
    dir: PathBuf,
    /// Seconds to wait [default: shutdown_timeout of the mount].
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

#[derive(Args, Clone, Debug)]
pub(super) struct RefreshArgs {
    /// Where it is mounted, or a file or directory in it.
    path: PathBuf,
}

/// The record of the mount that a path is in, and the rest of the path.
fn record_of(path: &Path) -> Option<(State, PathBuf)> {
    path.ancestors().find_map(|dir| {
        let state = State::read(dir).filter(State::is_alive)?;
        Some((state, path.strip_prefix(dir).unwrap_or(Path::new("")).to_owned()))
    })
}

/// The living mount that a path is in, and the rest of the path; "" for the mount itself.
pub(super) fn find(path: &Path) -> Result<(State, PathBuf), Failure> {
    let absolute = std::path::absolute(path).map_err(|e| Failure::Failed(format!("{}: {e}", path.display())))?;
    if !absolute.components().any(|c| c == Component::ParentDir)
        && let Some(found) = record_of(&absolute)
    {
        return Ok(found);
    }
    let resolved = target::resolve(path)?;
    record_of(&resolved).ok_or_else(|| not_served(&resolved))
}

/// Why nobody answers for a path.
fn not_served(path: &Path) -> Failure {
    let shown = path.display();
    let mounts = mountinfo::all().unwrap_or_default();
    let entry = path.ancestors().find_map(|dir| mounts.iter().rev().find(|e| e.dir == dir));
    Failure::Failed(match entry {
        Some(e) if e.is_ours() && target::is_abandoned(&e.dir) => format!(
            "the daemon of {} is gone; mount it again, or take it away: xosfs umount {}",
            e.dir.display(),
            e.dir.display()
        ),
        Some(e) if e.is_ours() => {
            format!("{} was mounted by another user, or its daemon keeps no record; ask as that user", e.dir.display())
        }
        _ => format!("{shown} is not in a mount of xosfs"),
    })
}

/// Asks a daemon for its figures.
pub(super) fn status_of(state: &State) -> Result<Status, Failure> {
    match control::ask(state, &Ask::Status)? {
        Reply::Status { status } => Ok(*status),
        other => Err(unexpected(&other)),
    }
}

pub(super) fn unexpected(reply: &Reply) -> Failure {
    Failure::Failed(format!("the daemon answered something else: {reply:?}"))
}

/// One mount, or what is left of one.
struct Found {
    dir: PathBuf,
    source: String,
    state: &'static str,
    status: Option<Status>,
    /// What is wrong and what to do.
    note: Option<String>,
    unstored: Vec<(String, String)>,
}

impl Found {
    fn of(state: &State) -> Option<Found> {
        let found = |word, status, note| Found {
            dir: state.dir.clone(),
            source: state.source.clone(),
            state: word,
            status,
            note,
            unstored: state.unstored.clone(),
        };
        let dir = state.dir.display();
        if state.is_alive() {
            return Some(match status_of(state) {
                Ok(status) if status.stopping => found("stopping", Some(status), None),
                Ok(status) => found("mounted", Some(status), None),
                Err(e) => found("silent", None, Some(e.message().to_owned())),
            });
        }
        let mounted = mountinfo::top_at(&state.dir).ok().flatten().is_some_and(|e| e.is_ours());
        if !state.unstored.is_empty() {
            let note = format!("{} files were not stored when it ended", state.unstored.len());
            return Some(found("ended", None, Some(note)));
        }
        mounted.then(|| {
            let note = format!("its daemon (process {}) died; mount it again, or: xosfs umount {dir}", state.pid);
            found("dead", None, Some(note))
        })
    }

    fn foreign(entry: &Entry) -> Found {
        Found {
            dir: entry.dir.clone(),
            source: entry.source.clone(),
            state: "unknown",
            status: None,
            note: Some("mounted by another user, or without a record".into()),
            unstored: Vec::new(),
        }
    }

    fn json(&self) -> Value {
        let mut value = match &self.status {
            Some(status) => serde_json::to_value(status).unwrap_or_default(),
            None => json!({ "dir": self.dir, "source": self.source }),
        };
        value["state"] = self.state.into();
        value["note"] = self.note.clone().into();
        value["unstored"] = self.unstored.iter().map(|(key, why)| json!({ "key": key, "error": why })).collect();
        value
    }

    fn text(&self) -> String {
        let mut out = format!("{} on {}: {}\n", self.source, self.dir.display(), self.state);
        if let Some(note) = &self.note {
            out += &format!("  {note}\n");
        }
        for (key, why) in &self.unstored {
            out += &format!("  not stored  {}: {}\n", print::safe(key), print::safe(why));
        }
        if let Some(status) = &self.status {
            out += &status.text().lines().map(|l| format!("{}\n", print::safe(l))).collect::<String>();
        }
        out
    }
}

/// Every mount of this user, and what is left of dead ones.
fn all() -> Vec<Found> {
    let records = State::all();
    let mut found: Vec<Found> = records.iter().filter_map(Found::of).collect();
    for entry in mountinfo::all().unwrap_or_default().iter().filter(|e| e.is_ours()) {
        if !found.iter().any(|f| f.dir == entry.dir) {
            found.push(Found::foreign(entry));
        }
    }
    found
}

pub(super) fn run(args: &StatusArgs) -> Result<(), Failure> {
    let found = match &args.dir {
        Some(dir) => {
            let (state, _) = find(dir)?;
            vec![Found::of(&state).ok_or_else(|| not_served(&state.dir))?]
        }
        None => all(),
    };
    let left = if args.dir.is_none() { journal::left(&journal::Place::default())? } else { Vec::new() };
    if args.json {
        let mounts: Vec<_> = found.iter().map(Found::json).collect();
        print::json_whole(&json!({ "mounts": mounts, "left": left }))?;
    } else if found.is_empty() && left.is_empty() {
        print::line("nothing is mounted")?;
    } else {
        let parts: Vec<_> = found.iter().map(Found::text).chain(left.iter().map(journal::text_of)).collect();
        print::out(&parts.join("\n"))?;
    }
    let bad = found.iter().filter(|f| !matches!(f.state, "mounted" | "stopping" | "unknown")).count();
    match bad + left.iter().filter(|l| !l.pending.is_empty() || !l.damage.is_empty()).count() {
        0 => Ok(()),
        n => Err(Failure::Failed(format!("{n} of {} need attention", found.len() + left.len()))),
    }
}

pub(super) fn flush(args: &FlushArgs) -> Result<(), Failure> {
    let (state, _) = find(&args.dir)?;
    let seconds = args.timeout.unwrap_or(state.shutdown_timeout);
    match control::ask(&state, &Ask::Flush { seconds })? {
        Reply::Flushed { unstored } if unstored.is_empty() => Ok(()),
        Reply::Flushed { unstored } => {
            for (key, reason) in &unstored {
                eprintln!("xosfs: not stored: {key}: {reason}");
            }
            Err(Failure::Failed(format!("{} files of {} are not stored", unstored.len(), state.source)))
        }
        other => Err(unexpected(&other)),
    }
}

pub(super) fn refresh(args: &RefreshArgs) -> Result<(), Failure> {
    let (state, rest) = find(&args.path)?;
    let path = rest.to_str().ok_or_else(|| Failure::Usage(format!("{} is not UTF-8", rest.display())))?;
    match control::ask(&state, &Ask::Refresh { path: path.to_owned() })? {
        Reply::Done { .. } => Ok(()),
        other => Err(unexpected(&other)),
    }
}

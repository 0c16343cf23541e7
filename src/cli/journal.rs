//! `xosfs journal`: the files that were closed and are not in the bucket yet, of running mounts and of those that are
//! gone.
//!
//! 1. The same commands work with and without a daemon: numbers are unique on a machine, so a file is found wherever it
//!    is. A daemon holds its journal; only what nobody holds is looked into from here.
//! 2. Discarding loses bytes for good: only what is named by its number is discarded, and what is lost is said.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::status::{find, status_of, unexpected};
use super::{Failure, print};
use crate::daemon::control::{self, Ask, Reply};
use crate::daemon::leftover::{self, Leftover};
use crate::daemon::state::State;
use crate::daemon::status::{PendingFile, Status, show_bytes};

#[derive(Args, Clone, Debug)]
pub(super) struct JournalArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Clone, Debug)]
enum Action {
    /// List what is not stored yet, and why.
    Ls {
        /// A mount [default: every mount of this user, and what is left of those that are gone].
        dir: Option<PathBuf>,
        /// For programs.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Try again to store files, now.
    Retry {
        /// A mount, and numbers of files; none: all.
        #[arg(value_name = "[DIR] ID")]
        words: Vec<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Write the bytes of a file that is not stored to a new file.
    Export {
        /// A mount, if it is not to be looked for; the number of a file; the new file.
        #[arg(value_name = "[DIR] ID FILE", required = true, num_args = 2..=3)]
        words: Vec<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Give files up: their bytes are lost.
    Discard {
        /// A mount, if it is not to be looked for; numbers of files.
        #[arg(value_name = "[DIR] ID", required = true)]
        words: Vec<String>,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Args, Clone, Debug, Default)]
pub(super) struct Place {
    /// Where the journals of mounts that are gone are [default: everywhere known].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl Place {
    /// The journals nobody serves. One that cannot be read hides no other, unless it is the one that is meant.
    fn survey(&self) -> Result<Vec<Leftover>, Failure> {
        if let Some(dir) = &self.state_dir {
            return Ok(leftover::survey(dir)?);
        }
        let mut all = Vec::new();
        for dir in leftover::state_dirs() {
            match leftover::survey(&dir) {
                Ok(found) => all.extend(found),
                Err(e) => eprintln!("xosfs: warning: {e}"),
            }
        }
        Ok(all)
    }
}

/// Numbers are files, anything else is one directory.
fn sort(words: &[String]) -> Result<(Option<PathBuf>, Vec<u64>), Failure> {
    let (mut dir, mut ids) = (None, Vec::new());
    for word in words {
        match word.trim_start_matches('#').parse() {
            Ok(id) => ids.push(id),
            Err(_) if dir.is_none() => dir = Some(PathBuf::from(word)),
            Err(_) => {
                return Err(Failure::Usage(format!("{word:?} is no number of a file; `xosfs journal ls` lists them")));
            }
        }
    }
    Ok((dir, ids))
}

/// The mounts that are meant: one, or all that answer.
fn mounts(dir: Option<&Path>) -> Result<Vec<(State, Status)>, Failure> {
    if let Some(dir) = dir {
        let (state, _) = find(dir)?;
        let status = status_of(&state)?;
        return Ok(vec![(state, status)]);
    }
    let mut all = Vec::new();
    for state in State::all().into_iter().filter(State::is_alive) {
        match status_of(&state) {
            Ok(status) => all.push((state, status)),
            Err(e) => eprintln!("xosfs: warning: {}: {}", state.dir.display(), e.message()),
        }
    }
    Ok(all)
}

/// Where a file with this number is.
enum Where {
    Mount(Box<State>, PendingFile),
    /// In a journal below this state directory.
    Left(PathBuf, PendingFile),
}

fn look_for(id: u64, dir: Option<&Path>, place: &Place) -> Result<Where, Failure> {
    // A state directory that is named is meant.
    if place.state_dir.is_none() || dir.is_some() {
        for (state, status) in mounts(dir)? {
            if let Some(file) = status.pending.into_iter().find(|p| p.id == id) {
                return Ok(Where::Mount(Box::new(state), file));
            }
        }
    }
    if dir.is_none() {
        for left in place.survey()? {
            if let Some(file) = left.pending.into_iter().find(|p| p.id == id) {
                return Ok(Where::Left(left.state_dir, file));
            }
        }
    }
    Err(Failure::Failed(format!("nothing that is not stored has the number {id}; `xosfs journal ls` lists what has")))
}

fn done(state: &State, ask: &Ask) -> Result<u64, Failure> {
    match control::ask(state, ask)? {
        Reply::Done { count } => Ok(count),
        other => Err(unexpected(&other)),
    }
}

pub(super) fn run(args: &JournalArgs) -> Result<(), Failure> {
    match &args.action {
        Action::Ls { dir, json, place } => list(dir.as_deref(), *json, place),
        Action::Retry { words, place } => retry(words, place),
        Action::Export { words, place } => export(words, place),
        Action::Discard { words, place } => discard(words, place),
    }
}

/// The journals nobody serves in which something is left.
pub(super) fn left(place: &Place) -> Result<Vec<Leftover>, Failure> {
    Ok(place
        .survey()?
        .into_iter()
        .filter(|l| !l.pending.is_empty() || !l.damage.is_empty() || l.uploads > 0 || l.deletes > 0)
        .collect())
}

/// What is left of a mount, for people.
pub(super) fn text_of(left: &Leftover) -> String {
    let mut out = format!("{}: no daemon ({})\n", left.of, left.dir.display());
    for file in &left.pending {
        out += &format!("  {}\n", print::safe(&file.text()));
    }
    if left.deletes > 0 {
        out += &format!("  {} deleted objects are still in the bucket; the next mount deletes them\n", left.deletes);
    }
    if left.uploads > 0 {
        out += &format!("  {} uploads were begun; the next mount aborts them\n", left.uploads);
    }
    for line in &left.damage {
        out += &format!("  damaged: {}\n", print::safe(line));
    }
    out + &format!("  to store it: {}\n", left.fix())
}

fn list(dir: Option<&Path>, as_json: bool, place: &Place) -> Result<(), Failure> {
    let mounts = if place.state_dir.is_some() && dir.is_none() { Vec::new() } else { mounts(dir)? };
    let left = if dir.is_none() { left(place)? } else { Vec::new() };
    if as_json {
        let mounts: Vec<_> =
            mounts.iter().map(|(_, s)| json!({ "dir": s.dir, "source": s.source, "pending": s.pending })).collect();
        return print::json_whole(&json!({ "mounts": mounts, "left": left }));
    }
    let mut out = String::new();
    for (_, status) in mounts.iter().filter(|(_, s)| !s.pending.is_empty()) {
        out += &format!("{} on {}\n", status.source, status.dir.display());
        for file in &status.pending {
            out += &format!("  {}\n", print::safe(&file.text()));
        }
    }
    out += &left.iter().map(text_of).collect::<String>();
    print::out(if out.is_empty() { "nothing is waiting to be stored\n" } else { &out })
}

fn retry(words: &[String], place: &Place) -> Result<(), Failure> {
    let (dir, ids) = sort(words)?;
    if ids.is_empty() {
        if place.state_dir.is_some() {
            return Err(Failure::Usage("without a daemon nothing can be stored: mount the bucket again".into()));
        }
        let mut count = 0;
        for (state, _) in mounts(dir.as_deref())? {
            count += done(&state, &Ask::Retry { ids: Vec::new() })?;
        }
        return print::line(&format!("{count} files are tried again"));
    }
    for id in ids {
        match look_for(id, dir.as_deref(), place)? {
            Where::Mount(state, _) => done(&state, &Ask::Retry { ids: vec![id] })?,
            Where::Left(_, file) => {
                let what = format!("{} has no daemon that could store it", file.key);
                return Err(Failure::Failed(format!("{what}; mount its bucket again (`xosfs journal ls` says how)")));
            }
        };
    }
    Ok(())
}

fn export(words: &[String], place: &Place) -> Result<(), Failure> {
    let Some((file, rest)) = words.split_last() else { return Err(Failure::Usage("name a number and a file".into())) };
    let (dir, ids) = sort(rest)?;
    let [id] = ids.as_slice() else {
        return Err(Failure::Usage("export takes one number and one new file: xosfs journal export ID FILE".into()));
    };
    let path = std::path::absolute(file).map_err(|e| Failure::Failed(format!("{file}: {e}")))?;
    match look_for(*id, dir.as_deref(), place)? {
        Where::Mount(state, _) => done(&state, &Ask::Export { id: *id, path }).map(drop),
        Where::Left(dir, _) => Ok(leftover::export(&dir, *id, &path)?),
    }
}

fn discard(words: &[String], place: &Place) -> Result<(), Failure> {
    let (dir, ids) = sort(words)?;
    if ids.is_empty() {
        return Err(Failure::Usage("discard takes the numbers of files; `xosfs journal ls` lists them".into()));
    }
    for id in ids {
        let file = match look_for(id, dir.as_deref(), place)? {
            Where::Mount(state, file) => done(&state, &Ask::Discard { ids: vec![id] }).map(|_| file)?,
            Where::Left(dir, file) => leftover::discard(&dir, id).map(|()| file)?,
        };
        let (key, size) = (print::safe(&file.key), show_bytes(file.size));
        print::line(&format!("lost: {key} ({size}) as it was closed; the bucket keeps what it had"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_files_and_the_rest_is_a_directory() {
        let words = |list: &[&str]| sort(&list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert_eq!(words(&["/mnt", "3", "#4"]).unwrap(), (Some("/mnt".into()), vec![3, 4]));
        assert_eq!(words(&[]).unwrap(), (None, vec![]));
        assert!(matches!(words(&["/mnt", "x"]), Err(Failure::Usage(_))));
    }
}

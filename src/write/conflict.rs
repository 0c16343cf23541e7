//! What becomes of a commit when somebody else has stored a newer version.
//!
//! 1. What a commit expects at its key is what the file was opened on: a version, nothing, or (where nobody asked)
//!    anything. It is checked by the store, or by a HEAD just before; what a HEAD does not see is a race of some
//!    milliseconds.
//! 2. `keep_both` stores ours under a name of its own that nothing has yet. A streamed file is an upload for its own
//!    name and cannot be moved: then theirs is copied to the other name, and ours takes its place.
//! 3. A version that needs bytes of the one that was replaced cannot be stored any more, unless they are cached: that
//!    is the conflict as it is.

use std::sync::Arc;

use jiff::Zoned;

use crate::error::{Error, Kind, Result};
use crate::key::Key;
use crate::s3::{Condition, Directive, ETag, ObjectId, Source};

use super::commit::{self, Job};
use super::state::State;
use super::{Committed, OnConflict, Writer, Writes};

/// Names that are tried before giving up.
const NAMES: u32 = 20;
/// How often theirs is moved aside while they go on storing.
const ROUNDS: usize = 5;
/// Bytes of a file name.
const NAME_MAX: usize = 255;

impl Writer {
    /// Says what the name held when the file was made: nothing, or a version whose content is not needed any more. With
    /// `on_conflict` other than overwrite the first commit is subject to that.
    pub fn replacing(&self, old: Option<ETag>) {
        self.state.lock().replaces = match old {
            Some(etag) => Condition::Match(etag),
            None => Condition::Absent,
        };
    }
}

/// What a commit is subject to.
pub(super) fn expected(io: &Writes, s: &State) -> Condition {
    match (&s.condition, io.settings.on_conflict, &s.base) {
        (Condition::None, OnConflict::Overwrite, _) => Condition::None,
        (Condition::None, _, Some(base)) => Condition::Match(base.id.etag.clone()),
        (Condition::None, _, None) => s.replaces.clone(),
        (other, ..) => other.clone(),
    }
}

/// Stores `job`, with what `on_conflict` says when that is a conflict. The key of what was committed may be another.
pub(super) async fn store(io: &Arc<Writes>, job: &mut Job) -> Result<Committed> {
    match commit::store(io, job).await {
        Err(e) => resolve(io, job, e).await,
        done => done,
    }
}

/// What `on_conflict` makes of a commit that failed with `error`.
pub(super) async fn resolve(io: &Arc<Writes>, job: &mut Job, error: Error) -> Result<Committed> {
    let error = match error.kind() {
        // Only O_EXCL asks whether there is a file; to all others it is somebody else's version.
        Kind::Exists if !job.exclusive => error.with_kind(Kind::Conflict),
        _ => error,
    };
    if error.kind() != Kind::Conflict || io.settings.on_conflict != OnConflict::KeepBoth {
        return Err(error);
    }
    let name = job.key.clone();
    let kept = if job.stream.is_some() { move_theirs(io, job).await } else { store_beside(io, job).await };
    kept.map_err(|why| {
        tracing::warn!("both versions of {name:?} could not be kept: {why}");
        error
    })
}

/// Stores ours under another name.
async fn store_beside(io: &Arc<Writes>, job: &mut Job) -> Result<Committed> {
    let (name, condition) = (job.key.clone(), std::mem::replace(&mut job.condition, Condition::Absent));
    for beside in names(&name)? {
        job.key = beside;
        match commit::store(io, job).await {
            Err(e) if e.kind() == Kind::Exists => {}
            Ok(done) => {
                tracing::warn!("somebody else stored {name:?} since it was opened: ours is now {:?}", job.key);
                return Ok(Committed { beside: true, ..done });
            }
            Err(e) => {
                (job.key, job.condition) = (name, condition);
                return Err(e);
            }
        }
    }
    (job.key, job.condition) = (name, condition);
    Err(no_name(&job.key))
}

/// Copies theirs to another name and stores ours, which is on its way already, in its place.
async fn move_theirs(io: &Arc<Writes>, job: &mut Job) -> Result<Committed> {
    let before = job.condition.clone();
    for _ in 0..ROUNDS {
        job.condition = match io.s3.head(&job.key, None).await {
            Ok(meta) => {
                let theirs = ObjectId { key: job.key.clone(), etag: meta.etag, version: meta.version };
                let beside = copy_aside(io, &theirs).await?;
                tracing::warn!("somebody else stored {:?} since it was opened: theirs is now {beside:?}", job.key);
                Condition::Match(theirs.etag)
            }
            Err(e) if e.kind() == Kind::NotFound => Condition::Absent,
            Err(e) => return Err(e),
        };
        match commit::store(io, job).await {
            Err(e) if matches!(e.kind(), Kind::Conflict | Kind::Exists) => {}
            done => return done,
        }
    }
    job.condition = before;
    Err(Error::new(Kind::Conflict, "store object: it changes too fast").with_key(&job.key))
}

async fn copy_aside(io: &Arc<Writes>, object: &ObjectId) -> Result<Key> {
    let directive = Directive::Keep { storage_class: None, acl: None };
    for beside in names(&object.key)? {
        let write = super::upload::Write::Copy(&Source::of(object), &directive);
        match io.conditional(&beside, Condition::Absent, write).await {
            Err(e) if e.kind() == Kind::Exists => {}
            Ok(_) => return Ok(beside),
            Err(e) => return Err(e),
        }
    }
    Err(no_name(&object.key))
}

fn no_name(key: &Key) -> Error {
    Error::new(Kind::Conflict, format!("store object: {NAMES} names beside it are taken")).with_key(key)
}

/// Names for the version of `key` that has to give way, in the order in which they are tried.
fn names(key: &Key) -> Result<Vec<Key>> {
    let host = nix::unistd::gethostname().ok().and_then(|h| h.into_string().ok()).unwrap_or_default();
    let time = Zoned::now().strftime("%Y-%m-%d %H.%M.%S").to_string();
    (1..=NAMES).map(|n| beside(key, &host, &time, n)).collect()
}

/// `dir/name (conflict HOST TIME).ext`, with a number from 2 on.
fn beside(key: &Key, host: &str, time: &str, n: u32) -> Result<Key> {
    let name = key.file_name();
    let dir = &key.as_str()[..key.as_str().len() - name.len()];
    // `.profile` and `archive.` have no extension, `a.tar.gz` has `.gz`.
    let dot = name.rfind('.').filter(|at| *at > 0 && (2..=17).contains(&(name.len() - at)));
    let (stem, extension) = name.split_at(dot.unwrap_or(name.len()));
    let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || "-._".contains(*c)).take(63).collect();
    let host = if host.is_empty() { "host" } else { &host };
    let number = if n > 1 { format!(" {n}") } else { String::new() };
    let mark = format!(" (conflict {host} {time}{number}){extension}");
    let mut keep = stem.len().min(NAME_MAX.saturating_sub(mark.len()));
    // Keys have 1,024 bytes at most.
    keep = keep.min(1024_usize.saturating_sub(dir.len() + mark.len()));
    while !stem.is_char_boundary(keep) {
        keep -= 1;
    }
    Key::new(format!("{dir}{}{mark}", &stem[..keep]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_name_is_legal_and_keeps_the_extension() {
        let name = |key: &str, n| beside(&Key::new(key).unwrap(), "a host:1", "2026-01-02 03.04.05", n).unwrap();
        let mark = "(conflict ahost1 2026-01-02 03.04.05";
        assert_eq!(name("d/report.txt", 1).as_str(), format!("d/report {mark}).txt"));
        assert_eq!(name("report.txt", 2).as_str(), format!("report {mark} 2).txt"));
        assert_eq!(name("d/.profile", 1).as_str(), format!("d/.profile {mark})"));
        assert_eq!(name("d/end.", 1).as_str(), format!("d/end. {mark})"));
        let long = name(&format!("{}/{}.txt", "d".repeat(200), "ü".repeat(120)), 20);
        assert!((254..=255).contains(&long.file_name().len()));
        assert!(long.file_name().ends_with("20).txt"));
        let deep = format!("{}{}", "dir/".repeat(225), "x".repeat(110));
        assert!(name(&deep, 1).as_str().len() <= 1024);
    }
}

//! What a mount that is gone left to be stored: journals without a daemon, as the command line shows and changes them.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use super::env;
use super::state::State;
use super::status::PendingFile;
use crate::config::Options;
use crate::error::Result;
use crate::write::journal::{self, Pending, PendingState};

/// A journal that no daemon serves.
#[derive(Clone, Debug, Serialize)]
pub struct Leftover {
    /// Bucket, prefix and endpoint, for people.
    pub of: String,
    /// What to mount to have it stored.
    pub source: String,
    pub endpoint: Option<String>,
    pub dir: PathBuf,
    #[serde(skip)]
    pub state_dir: PathBuf,
    pub pending: Vec<PendingFile>,
    /// Multipart uploads that the next mount will abort.
    pub uploads: usize,
    /// Deleted objects that the next mount takes out of the bucket.
    pub deletes: usize,
    /// What is lost, a line each.
    pub damage: Vec<String>,
}

impl From<Pending> for PendingFile {
    fn from(p: Pending) -> Self {
        let state = match p.state {
            PendingState::Queued => "queued",
            PendingState::Uploading => "uploading",
            PendingState::Parked => "parked",
        };
        PendingFile {
            id: p.id,
            key: p.key,
            size: p.size,
            age_seconds: SystemTime::now().duration_since(p.since).unwrap_or_default().as_secs(),
            attempts: p.attempts.into(),
            state: state.to_owned(),
            reason: p.reason,
        }
    }
}

/// Every state directory that is known: the usual one, those of services below it (systemd gives each its own), and
/// those on record.
pub fn state_dirs() -> Vec<PathBuf> {
    let usual = Options::default().state(&env);
    let services = std::fs::read_dir(&usual).into_iter().flatten().flatten().map(|e| e.path());
    let services = services.filter(|p| p.join("journal").is_dir());
    let recorded = State::all().into_iter().filter_map(|s| s.state_dir);
    let mut all: Vec<PathBuf> = services.chain(recorded).chain([usual.clone()]).collect();
    all.sort();
    all.dedup();
    all
}

/// The journals below a state directory that no daemon holds. Changes nothing.
pub fn survey(state_dir: &Path) -> Result<Vec<Leftover>> {
    let found = journal::survey(state_dir)?;
    let leftover = |s: journal::Survey| {
        let prefix = s.identity.prefix.trim_end_matches('/');
        let bucket = &s.identity.bucket;
        Leftover {
            of: s.identity.to_string(),
            source: if prefix.is_empty() { bucket.clone() } else { format!("{bucket}:/{prefix}") },
            endpoint: s.identity.endpoint,
            dir: s.dir,
            state_dir: state_dir.to_owned(),
            pending: s.pending.into_iter().map(PendingFile::from).collect(),
            uploads: s.uploads,
            deletes: s.deletes,
            damage: s.damage,
        }
    };
    Ok(found.into_iter().map(leftover).collect())
}

/// Writes the bytes of a file that is not stored to a new file. Errors: those of [`journal::export`].
pub fn export(state_dir: &Path, id: u64, path: &Path) -> Result<()> {
    journal::export(state_dir, id, path)
}

/// Gives a file up that is not stored. Errors: those of [`journal::discard`].
pub fn discard(state_dir: &Path, id: u64) -> Result<()> {
    journal::discard(state_dir, id)
}

impl Leftover {
    /// The command that stores it.
    pub fn fix(&self) -> String {
        let endpoint = self.endpoint.as_ref().map(|e| format!(" -o endpoint={e}")).unwrap_or_default();
        format!("xosfs mount {} DIR{endpoint}", self.source)
    }
}

//! Looking into journals whose daemon does not run.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::super::layers::{self, Layer};
use super::super::overlay::Origin;
use super::directory::{base, lock, remove};
use super::log::{Counters, Log};
use super::record::Record;
use super::scan::{scan, trouble};
use super::{Change, Identity, Live, Pending, Request};
use crate::error::{Error, Kind, Result};

const CHUNK: u64 = 1 << 20;

/// A journal that no daemon serves.
#[derive(Clone, Debug)]
pub struct Survey {
    pub identity: Identity,
    pub dir: PathBuf,
    pub pending: Vec<Pending>,
    /// Uploads that the next mount will abort.
    pub uploads: usize,
    /// Objects that the next mount will delete.
    pub deletes: usize,
    /// What is lost, a line each.
    pub damage: Vec<String>,
}

fn identity(dir: &Path) -> Option<Identity> {
    serde_json::from_slice(&fs::read(dir.join("identity.json")).ok()?).ok()
}

fn journals(state_dir: &Path) -> Result<Vec<PathBuf>> {
    let base = base(state_dir);
    let entries = match fs::read_dir(&base) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(trouble("read", &base, &e)),
    };
    // Others are what is left of journals that were taken over.
    let number = |p: &PathBuf| p.to_string_lossy().rsplit_once('-').is_some_and(|(_, n)| n.parse::<u32>().is_ok());
    let mut dirs: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(number).collect();
    dirs.sort();
    Ok(dirs)
}

/// The journals below `state_dir` that no daemon holds, and what is in them. Changes nothing. Blocks.
pub fn survey(state_dir: &Path) -> Result<Vec<Survey>> {
    let mut found = Vec::new();
    for dir in journals(state_dir)? {
        let (Some(identity), Some(_lock)) = (identity(&dir), lock(&dir)?) else { continue };
        let scanned = scan(&Arc::new(dir.clone()))?;
        let mut live: Vec<&Live> = scanned.table.live.values().collect();
        live.sort_by_key(|l| l.seq);
        found.push(Survey {
            identity,
            pending: live.into_iter().map(Pending::from).collect(),
            uploads: scanned.table.uploads.len(),
            deletes: scanned.table.gone.len(),
            damage: scanned.damage,
            dir,
        });
    }
    Ok(found)
}

fn missing(id: u64) -> Error {
    Error::new(Kind::NotFound, format!("no journal without a daemon has an entry {id}"))
        .with_fix("`xosfs journal ls` lists the entries; those of a running mount are asked for by its directory")
}

/// Writes the content of a pending file to `path`, which must not exist. Blocks.
///
/// Errors: [`Kind::NotFound`] for an unknown id; [`Kind::Unsupported`] when a part of the content is an object at the
/// store, which only a mount can read; [`Kind::Exists`].
pub fn export(state_dir: &Path, id: u64, path: &Path) -> Result<()> {
    for dir in journals(state_dir)? {
        let Some(_lock) = lock(&dir)? else { continue };
        let found = scan(&Arc::new(dir))?;
        if let Some(live) = found.table.live.get(&id) {
            return write_out(live, path);
        }
    }
    Err(missing(id))
}

fn write_out(live: &Live, path: &Path) -> Result<()> {
    let layers: Vec<Layer> = live.layers.iter().map(|s| Layer::of_saved(s.clone())).collect();
    let mut pieces = Vec::new();
    layers::collect(&layers, live.base.as_ref().map_or(0, |b| b.size), 0..live.size, &mut pieces);
    if pieces.iter().any(|p| matches!(p.from, Origin::Base)) {
        return Err(Error::new(Kind::Unsupported, "export a change of an object without the object")
            .with_key(&live.key)
            .with_fix("mount the bucket and export from the mount"));
    }
    for blob in live.layers.iter().filter_map(|l| l.blob.as_ref()) {
        blob.check_blocking().map_err(|e| Error::new(Kind::Io, format!("export: {e}")).with_key(&live.key))?;
    }
    let file = File::options().create_new(true).write(true).mode(0o600).open(path).map_err(|e| {
        let kind = if e.kind() == std::io::ErrorKind::AlreadyExists { Kind::Exists } else { Kind::Io };
        trouble("make", path, &e).with_kind(kind)
    })?;
    let write = || {
        file.set_len(live.size)?;
        for piece in &pieces {
            let Origin::Saved(blob, offset) = &piece.from else { continue };
            let len = piece.range.end - piece.range.start;
            let mut at = 0;
            while at < len {
                let n = (len - at).min(CHUNK);
                file.write_all_at(&blob.read_blocking(offset + at..offset + at + n)?, piece.range.start + at)?;
                at += n;
            }
        }
        file.sync_all()
    };
    write().map_err(|e: std::io::Error| trouble("write", path, &e))
}

/// Takes a pending file out of its journal: its bytes are lost. Blocks.
///
/// Errors: [`Kind::NotFound`] for an unknown id.
pub fn discard(state_dir: &Path, id: u64) -> Result<()> {
    for dir in journals(state_dir)? {
        let Some(_lock) = lock(&dir)? else { continue };
        let dir = Arc::new(dir);
        let found = scan(&dir)?;
        if !found.table.live.contains_key(&id) {
            continue;
        }
        found.cut(&dir)?;
        let last = (found.segment, found.seq);
        let table = Arc::new(parking_lot::Mutex::new(found.table));
        let log = Log::new(dir.clone(), table.clone(), Arc::new(Counters::default()), last, 0);
        let log = log.map_err(|e| trouble("write in", &dir, &e))?;
        let (requests, queue) = std::sync::mpsc::channel();
        let (tell, answer) = std::sync::mpsc::channel();
        let request = Request {
            change: Change::Record(Record::Done { id }),
            durable: true,
            new_file: false,
            done: Box::new(move |done| drop(tell.send(done))),
        };
        // The channel is open: its other end is right here.
        let _ = requests.send(request);
        drop(requests);
        log.run(&queue);
        answer.recv().map_err(|_| super::ended())??;
        if table.lock().is_empty() && found.damage.is_empty() {
            remove(&dir).map_err(|e| trouble("remove", &dir, &e))?;
        }
        return Ok(());
    }
    Err(missing(id))
}

impl Survey {
    /// When the oldest entry was acknowledged.
    pub fn since(&self) -> Option<SystemTime> {
        self.pending.iter().map(|p| p.since).min()
    }
}

/// What is pending in one journal directory, also while its daemon runs: it may be out of date at once. Changes nothing.
/// Blocks.
pub fn peek(dir: &Path) -> Result<Vec<Pending>> {
    let found = scan(&Arc::new(dir.to_owned()))?;
    Ok(found.table.live.values().map(Pending::from).collect())
}

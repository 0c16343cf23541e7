//! What daemons that are gone left in journals of their own comes into this one.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::directory::{lock, remove};
use super::log::{Change, inline_of};
use super::record::Record;
use super::scan::{scan, trouble};
use super::table::{Begun, Live};
use super::{Blob, Journal, Replay, blob, record};
use crate::error::{Error, Kind, Result};
use crate::key::Key;

impl Journal {
    /// Takes over what daemons that are gone have left in directories of their own.
    pub(super) fn adopt_others(&self, base: &Path, hash: u64, replay: &mut Replay) -> Result<()> {
        let prefix = format!("{hash:016x}-");
        let mut others = Vec::new();
        for entry in fs::read_dir(base).map_err(|e| trouble("read", base, &e))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&prefix) && name.ends_with(".gone") {
                // Somebody died while removing it.
                let _ = fs::remove_dir_all(entry.path());
                continue;
            }
            let number = name.strip_prefix(&prefix).is_some_and(|n| n.parse::<u32>().is_ok());
            if number
                && entry.path() != **self.dir
                && let Some(lock) = lock(&entry.path())?
            {
                others.push((entry.path(), lock));
            }
        }
        let mut all = Vec::new();
        for (path, lock) in others {
            let found = scan(&Arc::new(path.clone()))?;
            all.push((path, lock, found));
        }
        // The order in which they were acknowledged, as far as clocks tell.
        let mut live: Vec<Live> = all.iter().flat_map(|(_, _, f)| f.table.live.values().cloned()).collect();
        live.sort_by_key(|l| (l.since, l.seq));
        let mut last: HashMap<Key, (SystemTime, u64)> = {
            let table = self.table.lock();
            table.live.values().map(|l| (l.key.clone(), (l.since, l.id))).collect()
        };
        for mut live in live {
            let there = last.get(&live.key).copied();
            if let Some((since, _)) = there {
                let key = live.key.as_str();
                tracing::warn!(
                    key,
                    "several mounts have left a version of this file: the one that was closed last counts"
                );
                if since > live.since {
                    continue;
                }
            }
            live.id = self.own_number(live.id);
            last.insert(live.key.clone(), (live.since, live.id));
            self.adopt(live)?;
            if let Some((_, id)) = there {
                self.wait(Change::Record(Record::Done { id }), true, false)?;
            }
        }
        for (path, lock, found) in all {
            for begun in found.table.uploads.into_values() {
                self.wait(Change::Record(Begun { token: self.number(), ..begun }.record()), false, false)?;
            }
            for mut gone in found.table.gone.into_values() {
                gone.id = self.own_number(gone.id);
                self.wait(Change::Record(gone.record()), false, false)?;
            }
            // Before what they were copied from goes.
            self.wait(Change::Barrier, true, false)?;
            if found.damage.is_empty() {
                remove(&path).map_err(|e| trouble("remove", &path, &e))?;
            } else {
                // What is damaged stays for somebody to look at, under a name that is no journal.
                let kept = path.with_extension(format!("damaged-{}", record::millis(SystemTime::now())));
                fs::rename(&path, &kept).map_err(|e| trouble("rename", &path, &e))?;
                replay.damage.extend(found.damage);
            }
            drop(lock);
        }
        Ok(())
    }

    /// A number of another journal, unless something here has it: files and deletes end by the same record.
    fn own_number(&self, id: u64) -> u64 {
        let taken = self.table.lock().has(id);
        if taken { self.number() } else { id }
    }

    /// Writes what another journal has of a file into this one.
    fn adopt(&self, mut live: Live) -> Result<()> {
        let mut fresh = Vec::new();
        let mut layers = Vec::with_capacity(live.layers.len());
        let (mut blobs, mut pieces) = inline_of(&live)?;
        let mut new_file = false;
        for layer in &live.layers {
            let mut layer = (**layer).clone();
            if let Some(old) = layer.blob.take() {
                let at = blobs.iter().position(|b| Arc::ptr_eq(b, &old));
                layer.blob = Some(match at {
                    Some(at) => {
                        blobs.remove(at);
                        let blob = Blob::new(&self.dir, blob::Place::Nowhere, old.len, old.crc, true);
                        fresh.push((blob.clone(), pieces.remove(at)));
                        blob
                    }
                    None => {
                        new_file = true;
                        self.link(&old)?
                    }
                });
            }
            layers.push(Arc::new(layer));
        }
        live.layers = layers;
        self.wait(Change::Pending(Box::new(live), fresh), true, new_file)
    }

    /// A data file of another journal under a name in this one.
    fn link(&self, old: &Blob) -> Result<Arc<Blob>> {
        let blob::Place::File(there) = old.place() else {
            return Err(Error::new(Kind::Io, "take over a journal: bytes that are nowhere"));
        };
        let name = self.data_name();
        let (from, to) = (old.path(&there), self.dir.join(&name));
        fs::hard_link(&from, &to).map_err(|e| trouble("link", &from, &e))?;
        Ok(Blob::new(&self.dir, blob::Place::File(name), old.len, old.crc, false))
    }
}

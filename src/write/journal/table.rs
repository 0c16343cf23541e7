//! What of a journal is alive: the files that wait for the store, and the uploads that were begun.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::blob::{Place, Saved};
use super::record::{self, PendingRecord, Record};
use crate::key::Key;
use crate::read::Object;
use crate::s3::{Condition, ETag, NewObject};

/// A file whose bytes are here and not yet at the store.
#[derive(Clone, Debug)]
pub(in crate::write) struct Live {
    pub id: u64,
    pub key: Key,
    pub base: Option<Object>,
    pub since: SystemTime,
    pub size: u64,
    pub layers: Vec<Arc<Saved>>,
    pub object: NewObject,
    pub condition: Condition,
    pub replaces: Condition,
    pub attempts: u32,
    pub parked: bool,
    pub reason: Option<String>,
    /// Sequence number of the last record that put it where it is.
    pub seq: u64,
    /// Segment of its record.
    pub segment: u64,
}

/// An upload that was begun and has no end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::write) struct Begun {
    pub token: u64,
    pub key: Key,
    /// `None`: the daemon died while the store was making it.
    pub upload: Option<String>,
    pub at: SystemTime,
    pub(super) segment: u64,
}

/// An object whose delete has not arrived at the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    pub id: u64,
    pub key: Key,
    pub etag: ETag,
    /// The store's time of the object; another one of the same content has another.
    pub modified: Option<SystemTime>,
    pub at: SystemTime,
    pub(super) segment: u64,
}

#[derive(Default)]
pub(super) struct Table {
    pub live: BTreeMap<u64, Live>,
    pub uploads: BTreeMap<u64, Begun>,
    pub gone: BTreeMap<u64, Gone>,
    /// Bytes of each segment's file.
    pub segments: BTreeMap<u64, u64>,
    /// Bytes of the data files of live records.
    pub data: u64,
}

impl Live {
    pub(super) fn record(&self, here: impl Fn(&Saved) -> Option<u64>) -> Record {
        Record::Pending(Box::new(PendingRecord {
            id: self.id,
            key: self.key.as_str().to_owned(),
            base: self.base.as_ref().map(Into::into),
            since: record::millis(self.since),
            size: self.size,
            layers: self.layers.iter().map(|l| l.record(here(l))).collect(),
            object: (&self.object).into(),
            condition: (&self.condition).into(),
            replaces: (&self.replaces).into(),
            attempts: self.attempts,
            parked: self.parked,
            reason: self.reason.clone(),
        }))
    }

    /// Errors: what is wrong with the record.
    pub(super) fn of_record(
        dir: &Arc<PathBuf>,
        r: PendingRecord,
        seq: u64,
        segment: u64,
        here: u64,
    ) -> std::result::Result<Live, String> {
        let text = |e: crate::Error| e.to_string();
        let layers = r.layers.iter().map(|l| Saved::of_record(dir, l, segment, here).map(Arc::new));
        Ok(Live {
            id: r.id,
            key: Key::new(&r.key).map_err(text)?,
            base: r.base.map(|b| b.object()).transpose().map_err(text)?,
            since: record::time(r.since),
            size: r.size,
            layers: layers.collect::<std::result::Result<_, _>>()?,
            object: r.object.into(),
            condition: r.condition.into(),
            replaces: r.replaces.into(),
            attempts: r.attempts,
            parked: r.parked,
            reason: r.reason,
            seq,
            segment,
        })
    }

    /// Names of its data files, and their sizes.
    pub fn files(&self) -> Vec<(String, u64)> {
        let blobs = self.layers.iter().filter_map(|l| l.blob.as_ref());
        blobs
            .filter_map(|b| match b.place() {
                Place::File(name) => Some((name, b.len)),
                _ => None,
            })
            .collect()
    }

    /// The segments that have to stay for it.
    pub fn needs(&self) -> BTreeSet<u64> {
        let blobs = self.layers.iter().filter_map(|l| l.blob.as_ref());
        let mut needs: BTreeSet<u64> = blobs
            .filter_map(|b| match b.place() {
                Place::Segment { number, .. } => Some(number),
                _ => None,
            })
            .collect();
        needs.insert(self.segment);
        needs
    }

    /// Bytes of the log that it needs, roughly.
    pub fn inline_bytes(&self) -> u64 {
        let inline = |l: &&Arc<Saved>| l.blob.as_ref().is_some_and(|b| matches!(b.place(), Place::Segment { .. }));
        self.layers.iter().filter(inline).filter_map(|l| l.blob.as_ref()).map(|b| b.len).sum::<u64>() + 1024
    }
}

impl Table {
    pub fn bytes(&self) -> u64 {
        self.segments.values().sum::<u64>() + self.data
    }

    /// Whether nothing waits for the store.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty() && self.uploads.is_empty() && self.gone.is_empty()
    }

    /// Whether a file or a delete has this number.
    pub fn has(&self, id: u64) -> bool {
        self.live.contains_key(&id) || self.gone.contains_key(&id)
    }

    /// The oldest segment that anything alive needs.
    pub fn oldest_needed(&self) -> Option<u64> {
        let files = self.live.values().filter_map(|l| l.needs().first().copied());
        let others = self.uploads.values().map(|u| u.segment).chain(self.gone.values().map(|g| g.segment));
        files.chain(others).min()
    }

    /// The files that need a segment, and the records of uploads and deletes in it.
    pub fn needing(&self, segment: u64) -> (Vec<Live>, Vec<Record>) {
        let files = self.live.values().filter(|l| l.needs().contains(&segment)).cloned().collect();
        let uploads = self.uploads.values().filter(|u| u.segment == segment).map(Begun::record);
        let deletes = self.gone.values().filter(|g| g.segment == segment).map(Gone::record);
        (files, uploads.chain(deletes).collect())
    }

    /// Puts a file in; the data files that nothing needs any more.
    pub fn put(&mut self, live: Live) -> Vec<String> {
        let new = live.files();
        self.data += new.iter().map(|(_, n)| n).sum::<u64>();
        let old = self.live.insert(live.id, live).map(|l| l.files()).unwrap_or_default();
        self.forget(&old);
        old.into_iter().map(|(name, _)| name).filter(|o| !new.iter().any(|(n, _)| n == o)).collect()
    }

    /// Takes a file out; its data files.
    pub fn take(&mut self, id: u64) -> Vec<String> {
        let old = self.live.remove(&id).map(|l| l.files()).unwrap_or_default();
        self.forget(&old);
        old.into_iter().map(|(name, _)| name).collect()
    }

    fn forget(&mut self, files: &[(String, u64)]) {
        self.data = self.data.saturating_sub(files.iter().map(|(_, n)| n).sum());
    }

    /// A record that was found or has just been written. `here`: where its bytes are in the segment. Returns the data
    /// files that nothing needs any more. Errors: what is lost.
    pub fn apply(
        &mut self,
        dir: &Arc<PathBuf>,
        record: Record,
        seq: u64,
        segment: u64,
        here: u64,
    ) -> std::result::Result<Vec<String>, String> {
        match record {
            Record::Pending(r) => {
                let (id, key) = (r.id, r.key.clone());
                match Live::of_record(dir, *r, seq, segment, here) {
                    Ok(live) => return Ok(self.put(live)),
                    Err(e) => {
                        let gone = self.take(id);
                        let _ = gone;
                        return Err(format!("{key}: {e}"));
                    }
                }
            }
            Record::Done { id } => {
                self.gone.remove(&id);
                return Ok(self.take(id));
            }
            Record::Rekeyed { id, key } => {
                let key = Key::new(&key).map_err(|e| e.to_string())?;
                if let Some(live) = self.live.get_mut(&id) {
                    live.key = key;
                    (live.condition, live.replaces) = (Condition::None, Condition::None);
                    live.seq = seq;
                }
            }
            Record::Tried { id, attempts, parked, reason } => {
                if let Some(live) = self.live.get_mut(&id) {
                    (live.attempts, live.parked, live.reason) = (attempts, parked, Some(reason));
                }
            }
            Record::UploadIntent { token, key, at } => self.begun(token, &key, None, at, segment)?,
            Record::UploadBegun { token, key, upload, at } => self.begun(token, &key, Some(upload), at, segment)?,
            Record::UploadEnded { token } => {
                self.uploads.remove(&token);
            }
            Record::Unlinked { id, key, etag, modified, at } => {
                let key = Key::new(&key).map_err(|e| e.to_string())?;
                let (etag, modified, at) = (ETag::new(&etag), modified.map(record::time), record::time(at));
                self.gone.insert(id, Gone { id, key, etag, modified, at, segment });
            }
        }
        Ok(Vec::new())
    }

    fn begun(
        &mut self,
        token: u64,
        key: &str,
        upload: Option<String>,
        at: u64,
        segment: u64,
    ) -> std::result::Result<(), String> {
        let key = Key::new(key).map_err(|e| e.to_string())?;
        self.uploads.insert(token, Begun { token, key, upload, at: record::time(at), segment });
        Ok(())
    }

    /// Of several files under one key only the last counts: it was renamed over the others before these could be
    /// taken out. The data files of the others.
    pub fn settle_names(&mut self) -> Vec<String> {
        let mut last: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let mut gone = Vec::new();
        for live in self.live.values() {
            let entry = (live.seq, live.id);
            match last.get_mut(live.key.as_str()) {
                Some(there) => {
                    gone.push(entry.min(*there).1);
                    *there = entry.max(*there);
                }
                None => {
                    last.insert(live.key.as_str().to_owned(), entry);
                }
            }
        }
        gone.into_iter().flat_map(|id| self.take(id)).collect()
    }
}

impl Begun {
    pub(super) fn record(&self) -> Record {
        let (token, key, at) = (self.token, self.key.as_str().to_owned(), record::millis(self.at));
        match &self.upload {
            Some(upload) => Record::UploadBegun { token, key, upload: upload.clone(), at },
            None => Record::UploadIntent { token, key, at },
        }
    }
}

impl Gone {
    pub(super) fn record(&self) -> Record {
        Record::Unlinked {
            id: self.id,
            key: self.key.as_str().to_owned(),
            etag: self.etag.as_str().to_owned(),
            modified: self.modified.map(record::millis),
            at: record::millis(self.at),
        }
    }
}

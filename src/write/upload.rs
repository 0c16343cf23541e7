//! One multipart upload, and the gathering of the bytes of its parts.
//!
//! 1. An upload that nobody completes costs storage for ever: whichever way an [`Upload`] is dropped before it is
//!    complete, it is aborted, after the last of its parts has come to rest.
//! 2. The bytes of a part come from memory, staging, the base or nowhere. Memory for what has to be fetched is leased
//!    before it is fetched, and only a few parts are gathered at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::budget::Lease;
use crate::cache::disk;
use crate::error::{Error, Kind, Result};
use crate::key::Key;
use crate::read::Object;
use crate::s3::{Condition, Directive, NewObject, ObjectId, Part, Payload, Source, Stored, Versioning};

use super::extents::Extent;
use super::overlay::{Origin, Piece};
use super::{Writes, is_passing, staging};

/// Pauses between attempts to abort, on top of those of the client.
const ABORT_PAUSE: Duration = Duration::from_millis(100);
const ABORT_PAUSE_MOST: Duration = Duration::from_secs(5);

static ZEROS: [u8; 128 << 10] = [0; 128 << 10];

/// An upload that the store knows, and the journal's number of it.
struct Begun {
    id: String,
    token: Option<u64>,
}

/// A multipart upload, created by its first part.
pub(super) struct Upload {
    io: Arc<Writes>,
    pub key: Key,
    /// What the upload was, or will be, created with.
    pub object: NewObject,
    id: OnceCell<Begun>,
    /// What parts were copied from.
    sources: Mutex<Vec<Object>>,
    /// A copy of a part was forbidden.
    refused: AtomicBool,
    complete: AtomicBool,
    /// When (by the store's clock) its completion was first asked for: since then it may have happened.
    asked: Mutex<Option<SystemTime>>,
    /// Takes the parts into the disk cache.
    kept: Mutex<Option<disk::Upload>>,
}

impl Upload {
    pub fn new(io: Arc<Writes>, key: Key, object: NewObject) -> Arc<Upload> {
        Arc::new(Upload {
            kept: Mutex::new(io.reads.upload_kept()),
            io,
            key,
            object,
            id: OnceCell::new(),
            sources: Mutex::default(),
            refused: AtomicBool::new(false),
            complete: AtomicBool::new(false),
            asked: Mutex::default(),
        })
    }

    /// The id; creates the upload if nobody did. It is created in a task of its own: a caller that gives up must not
    /// leave an upload behind whose id nobody knows.
    pub async fn id(self: &Arc<Self>) -> Result<&str> {
        if self.id.get().is_none() {
            let me = self.clone();
            let create = async move { me.id.get_or_try_init(|| me.begin()).await.map(|_| ()) };
            let created = self.io.runtime.spawn(self.io.tasks.track_future(create));
            created.await.map_err(|_| broken("the task that creates the upload died"))??;
            self.io.progressed();
        }
        self.id.get().map(|b| &*b.id).ok_or_else(|| broken("no upload"))
    }

    async fn begin(&self) -> Result<Begun> {
        let (id, token) = self.io.create_upload(&self.key, &self.object).await?;
        Ok(Begun { id, token })
    }

    /// Sends a part; `at` is its place in the object, `end` that of the object's end where it is known.
    pub async fn send(&self, number: u32, at: u64, payload: Payload, end: Option<u64>) -> Result<Part> {
        let id = self.id.get().map(|b| &*b.id).ok_or_else(|| broken("no upload"))?;
        let bytes = self.kept.lock().is_some().then(|| payload.clone());
        let part = self.io.s3.upload_part(&self.key, id, number, payload).await?;
        if let (Some(bytes), Some(kept)) = (bytes, &*self.kept.lock()) {
            kept.keep(at, &bytes.0, end);
        }
        Ok(part)
    }

    /// A part was copied from `object`.
    pub fn note_source(&self, object: &Object) {
        let mut sources = self.sources.lock();
        if !sources.contains(object) {
            sources.push(object.clone());
        }
    }

    pub fn copied_from(&self) -> Vec<Object> {
        self.sources.lock().clone()
    }

    /// The store forbade to copy a part.
    pub fn note_refused_copy(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    pub fn was_refused_a_copy(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// `parts` in order; their sizes must add up to `size`. May be asked again after an error, unless
    /// [`crate::s3::ends_upload`] says that it is the last word.
    pub async fn complete(self: &Arc<Self>, parts: &[Part], size: u64, condition: Condition) -> Result<Stored> {
        let sum: u64 = parts.iter().map(|p| p.size).sum();
        if sum != size || parts.iter().zip(1..).any(|(p, n)| p.number != n) {
            let what = format!("complete upload: parts hold {sum} bytes of {size}");
            return Err(Error::new(Kind::Io, what).with_key(&self.key));
        }
        let id = self.id().await?;
        let asked = *self.asked.lock();
        let made = match asked {
            Some(since) => self.io.s3.completed(&self.key, id, parts, since).await?,
            None => None,
        };
        let stored = match made {
            Some(stored) => stored,
            None => {
                self.asked.lock().get_or_insert_with(|| self.io.s3.store_time());
                self.io.conditional(&self.key, condition, Write::Complete(id, parts)).await?
            }
        };
        self.complete.store(true, Ordering::Relaxed);
        if let Some(kept) = self.kept.lock().take() {
            let object = ObjectId { key: self.key.clone(), etag: stored.etag.clone(), version: None };
            kept.arrived(&object, size);
        }
        self.io.upload_ended(self.id.get().and_then(|b| b.token));
        Ok(stored)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if *self.complete.get_mut() {
            return;
        }
        let Some(Begun { id, token }) = self.id.take() else { return };
        let (io, key) = (self.io.clone(), self.key.clone());
        self.io.runtime.spawn(self.io.tasks.track_future(async move { abort(&io, &key, &id, token).await }));
    }
}

/// An upload that is left behind costs money for ever, and aborting twice does no harm: passing failures are not the
/// last word.
async fn abort(io: &Writes, key: &Key, id: &str, token: Option<u64>) {
    let deadline = Instant::now() + io.settings.patience;
    let mut pause = ABORT_PAUSE;
    loop {
        let error = match tokio::time::timeout_at(deadline, io.s3.abort_upload(key, id)).await {
            Ok(Ok(())) => return io.upload_ended(token),
            Ok(Err(e)) => e,
            Err(_) => Error::new(Kind::Timeout, "abort upload").with_key(key),
        };
        let passing = matches!(error.kind(), Kind::Unavailable | Kind::Timeout | Kind::Io | Kind::Busy);
        if !passing || Instant::now() + pause > deadline {
            tracing::warn!("an upload was left behind: {error}");
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(ABORT_PAUSE_MOST);
    }
}

/// The three requests that make an object appear.
pub(super) enum Write<'a> {
    Put(&'a Payload, &'a NewObject),
    Copy(&'a Source, &'a Directive),
    Complete(&'a str, &'a [Part]),
}

impl Writes {
    async fn write_once(&self, key: &Key, write: &Write<'_>, condition: &Condition) -> Result<Stored> {
        let done = match write {
            Write::Put(payload, object) => self.s3.put(key, (*payload).clone(), object, condition).await,
            Write::Copy(source, directive) => self.s3.copy(source, key, directive, condition).await,
            Write::Complete(id, parts) => self.s3.complete_upload(key, id, parts, condition).await,
        };
        self.progressed();
        if done.as_ref().is_ok_and(|stored| stored.version.is_some()) {
            self.saw_versions.store(true, Ordering::Relaxed);
        }
        done
    }

    /// Whether the condition of a PUT may be ignored in silence: in a bucket with versions, by Ceph's gateway.
    async fn may_ignore_conditions(&self) -> bool {
        if self.settings.conditional_puts_versions && !self.s3.is_ceph() {
            return false;
        }
        let ask = async || match self.s3.versioning().await {
            Ok(versioning) => Ok(versioning != Versioning::Off),
            // A look too many does no harm.
            Err(e) if !is_passing(e.kind()) => Ok(true),
            Err(e) => Err(e),
        };
        self.saw_versions.load(Ordering::Relaxed) || *self.has_versions.get_or_try_init(ask).await.unwrap_or(&true)
    }

    /// Makes an object appear, subject to `condition` in the way this store can.
    pub(super) async fn conditional(&self, key: &Key, condition: Condition, write: Write<'_>) -> Result<Stored> {
        if condition == Condition::None {
            return self.write_once(key, &write, &condition).await;
        }
        // Stores with conditional PUTs may ignore conditions on the others, or know them only here.
        let mut plain = matches!(write, Write::Put(..));
        if plain && self.settings.conditional_puts {
            plain = !self.may_ignore_conditions().await;
        }
        if !plain {
            self.look(key, &condition).await?;
        }
        if self.settings.conditional_puts {
            match self.write_once(key, &write, &condition).await {
                // The store has no conditional writes after all.
                Err(e) if e.kind() == Kind::Unsupported => {}
                done => return done,
            }
        }
        if plain {
            self.look(key, &condition).await?;
        }
        self.write_once(key, &write, &Condition::None).await
    }

    /// A HEAD in place of a condition: as near as a store without conditional writes allows.
    async fn look(&self, key: &Key, condition: &Condition) -> Result<()> {
        let there = match self.s3.head(key, None).await {
            Ok(meta) => Some(meta.etag),
            Err(e) if e.kind() == Kind::NotFound => None,
            Err(e) => return Err(e),
        };
        let kind = match (condition, there) {
            (Condition::Absent, Some(_)) => Kind::Exists,
            (Condition::Match(etag), there) if there.as_ref() != Some(etag) => Kind::Conflict,
            _ => return Ok(()),
        };
        Err(Error::new(kind, "store object: another version is there").with_key(key))
    }

    /// `len` bytes of an extent.
    pub(super) async fn copied(&self, extent: &Extent, len: u64) -> Result<Bytes> {
        let (source, at) = (&extent.source, extent.at);
        let bytes = self.reads.range(source, at..at + len).await.map_err(|e| source_error(e, source))?;
        if bytes.len() as u64 != len {
            return Err(broken("copied bytes are missing").with_key(&source.id.key));
        }
        Ok(bytes)
    }

    /// The bytes of `pieces` in order, and the memory that what was fetched takes.
    pub(super) async fn gather(&self, base: Option<&Object>, pieces: &[Piece]) -> Result<(Payload, Option<Lease>)> {
        let fetched: u64 = pieces
            .iter()
            .filter(|p| matches!(p.from, Origin::Staged(_) | Origin::Saved(..) | Origin::Base | Origin::Copied(_)))
            .map(|p| p.range.end - p.range.start)
            .sum();
        let mut lease = None;
        let _permit = if fetched > 0 {
            let permit = self.permit(&self.gathers, "an upload slot").await?;
            // A part that is larger than the budget could never be leased: it is let through with a part of it.
            let bytes = usize::try_from(fetched).unwrap_or(usize::MAX).min(self.budget.limit() / 4).max(1);
            lease = Some(self.patient("memory", self.budget.lease(bytes, self.settings.patience)).await??);
            Some(permit)
        } else {
            None
        };
        let mut out = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let len = piece.range.end - piece.range.start;
            match &piece.from {
                Origin::Memory(bytes) => out.push(bytes.clone()),
                Origin::Zero => {
                    let mut left = len;
                    while left > 0 {
                        let n = left.min(ZEROS.len() as u64);
                        out.push(Bytes::from_static(&ZEROS[..n as usize]));
                        left -= n;
                    }
                }
                Origin::Staged(file) => out.push(staging::read(file, piece.range.clone()).await?),
                Origin::Saved(blob, offset) => out.push(blob.read(*offset..offset + len).await?),
                Origin::Base => {
                    let Some(object) = base else { return Err(broken("base bytes without a base")) };
                    let bytes =
                        self.reads.range(object, piece.range.clone()).await.map_err(|e| base_error(e, object))?;
                    if bytes.len() as u64 != len {
                        return Err(broken("base bytes are missing").with_key(&object.id.key));
                    }
                    out.push(bytes);
                }
                Origin::Copied(extent) => out.push(self.copied(extent, len).await?),
                Origin::Shipped => return Err(broken("bytes were sent already")),
            }
        }
        Ok((Payload(out), lease))
    }
}

pub(super) fn broken(what: &str) -> Error {
    Error::new(Kind::Io, format!("store object: {what}"))
}

/// What the failure to get at the base means for the write that needs it.
pub(super) fn base_error(e: Error, base: &Object) -> Error {
    match e.kind() {
        Kind::Stale | Kind::NotFound => e.with_kind(Kind::Conflict).with_key(&base.id.key),
        _ => e,
    }
}

/// What the failure to get at an object that was copied from means for the copy.
pub(super) fn source_error(e: Error, source: &Object) -> Error {
    match e.kind() {
        Kind::Stale | Kind::NotFound => e.with_kind(Kind::Stale).with_key(&source.id.key),
        _ => e,
    }
}

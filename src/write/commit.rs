//! Storing a snapshot of a file as one object.
//!
//! 1. Nothing is visible before everything is there: the object appears with its one PUT or with the completion of
//!    its upload, whose parts are counted first.
//! 2. Never the whole file in memory: a part is gathered when its turn to be sent has come.
//! 3. Any error ends the whole attempt, and the old object is what it was. The upload is aborted, but for that of a stream:
//!    its parts are nowhere else, and the next attempt goes on with it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result};
use crate::key::Key;
use crate::read::Object;
use crate::s3::{Condition, Directive, NewObject, ObjectId, Part, Payload, Source, Stored};

use super::extents::Extents;
use super::overlay::{Origin, PAGE, Piece};
use super::ranges::RangeSet;
use super::stream::Stream;
use super::upload::{Upload, Write, base_error, broken, source_error};
use super::{Committed, Plan, PlannedPart, SMALL, Writes, plan};

/// Where the frozen bytes of a range are.
pub(super) type Frozen = Arc<dyn Fn(Range<u64>) -> Vec<Piece> + Send + Sync>;

/// A frozen state of a file.
pub(super) struct Job {
    pub key: Key,
    pub base: Option<Object>,
    /// Bytes of the base that are still part of the file.
    pub visible: u64,
    pub dirty: RangeSet,
    /// Dirty bytes that are in other objects.
    pub copied: Extents,
    pub size: u64,
    pub object: NewObject,
    pub condition: Condition,
    /// Whether `condition` is that of O_EXCL.
    pub exclusive: bool,
    pub stream: Option<Stream>,
    pub frozen: Frozen,
    /// Nobody waits for it.
    pub background: bool,
    /// Ends the sending of parts.
    pub stop: CancellationToken,
}

impl Job {
    /// Whether the bytes are those of the base, so that only headers differ.
    pub fn is_headers_only(&self) -> bool {
        self.stream.is_none()
            && self.dirty.is_empty()
            && self.copied.is_empty()
            && self.base.as_ref().is_some_and(|b| b.size == self.size && self.visible == self.size)
    }
}

/// Above this, single copies are known to run into time-outs.
const SINGLE_COPY: u64 = 1 << 30;

pub(super) async fn store(io: &Arc<Writes>, job: &Job) -> Result<Committed> {
    let stored = match attributes(io, job).await? {
        Some(stored) => stored,
        None => match duplicate(io, job).await? {
            Some(stored) => stored,
            None => bytes(io, job).await?,
        },
    };
    Ok(committed(job, stored))
}

fn committed(job: &Job, stored: Stored) -> Committed {
    let id = ObjectId { key: job.key.clone(), etag: stored.etag.clone(), version: stored.version.clone() };
    Committed { object: Object { id, size: job.size }, stored, headers_pending: false, beside: false }
}

/// When only headers changed, the store copies the object onto itself. `None`: there is more to do.
async fn attributes(io: &Arc<Writes>, job: &Job) -> Result<Option<Stored>> {
    let limits = io.limits();
    let Some(base) = &job.base else { return Ok(None) };
    let same = job.dirty.is_empty() && job.visible == base.size && job.size == base.size && job.size > 0;
    let one_copy = job.size <= SINGLE_COPY || !limits.part_copy && job.size <= limits.max_part;
    if !same || !one_copy || base.id.key != job.key {
        return Ok(None);
    }
    let directive = Directive::Replace { object: job.object.clone(), tags: true };
    let source = Source::of(&base.id);
    let write = Write::Copy(&source, &directive);
    let copied = io.conditional(&job.key, job.condition.clone(), write).await;
    match copied {
        Ok(stored) => {
            if let Err(e) = io.s3.settle_copied_tags(&job.key, &job.object.tags).await {
                tracing::warn!("the tags of an object may be lost: {e}");
            }
            io.reads.became(base, &committed(job, stored.clone()).object);
            Ok(Some(stored))
        }
        Err(e) if e.kind() == Kind::Unsupported => Ok(None),
        Err(e) => Err(base_error(e, base)),
    }
}

/// A file that is one other object as a whole: the store copies that. `None`: it is not, or it has to be done otherwise.
async fn duplicate(io: &Arc<Writes>, job: &Job) -> Result<Option<Stored>> {
    let limits = io.limits();
    let one_copy = job.size <= SINGLE_COPY || !limits.part_copy && job.size <= limits.max_part;
    let Some((range, extent)) = job.copied.iter().next().filter(|_| one_copy && job.stream.is_none()) else {
        return Ok(None);
    };
    let source = &extent.source;
    if range != (0..job.size) || extent.at != 0 || source.size != job.size {
        return Ok(None);
    }
    let directive = Directive::Replace { object: job.object.clone(), tags: true };
    let from = Source::of(&source.id);
    let write = Write::Copy(&from, &directive);
    match io.conditional(&job.key, job.condition.clone(), write).await {
        Ok(stored) => {
            if stored.etag != source.id.etag {
                unchanged(io, source).await?;
            }
            Ok(Some(stored))
        }
        // Where the source has gone its bytes may still be cached.
        Err(e) if matches!(e.kind(), Kind::Unsupported | Kind::Stale | Kind::NotFound) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Some stores (Ceph 16) ignore the condition on the source of a copy. What is still there after the copy was there
/// when it was made.
async fn unchanged(io: &Writes, source: &Object) -> Result<()> {
    if io.settings.conditional_copies || source.id.version.is_some() {
        return Ok(());
    }
    match io.s3.head(&source.id.key, None).await {
        Ok(meta) if meta.etag == source.id.etag => Ok(()),
        Err(e) if e.kind() != Kind::NotFound => Err(e),
        _ => Err(Error::new(Kind::Stale, "copy: the source was replaced").with_key(&source.id.key)),
    }
}

async fn bytes(io: &Arc<Writes>, job: &Job) -> Result<Stored> {
    if let Some(stream) = &job.stream {
        return finish(io, job, stream).await;
    }
    let dirty: Vec<_> = job.dirty.iter().collect();
    let mut clean = plan::untouched(job.visible, &dirty);
    clean.extend(job.copied.iter().map(|(range, _)| range));
    clean.sort_by_key(|r| r.start);
    let mut refused: Option<Error> = None;
    loop {
        let mut limits = io.limits();
        limits.part_copy &= refused.is_none();
        let stored = match plan(&clean, job.size, &limits).map_err(|e| e.with_key(&job.key))? {
            Plan::Put => put(io, job).await?,
            Plan::Parts(parts) => {
                let upload = Upload::new(io.clone(), job.key.clone(), job.object.clone());
                let parts = parts.into_iter().zip(1..).map(|(p, n)| (n, p)).collect();
                let done = match send_parts(io, job, &upload, parts).await {
                    // It was learnt just now that this store copies no parts.
                    Err(e) if e.kind() == Kind::Unsupported && limits.part_copy && !io.limits().part_copy => continue,
                    // Ceph 16 refuses copies of parts to every session of a role, which may read and write all the same.
                    Err(e) if e.kind() == Kind::Denied && upload.was_refused_a_copy() => {
                        refused = Some(e);
                        continue;
                    }
                    done => done?,
                };
                for source in upload.copied_from() {
                    let own = job.base.as_ref().filter(|b| **b == source);
                    unchanged(io, &source).await.map_err(|e| own.map_or(e.clone(), |b| base_error(e, b)))?;
                }
                upload.complete(&done, job.size, job.condition.clone()).await?
            }
        };
        if let Some(error) = refused {
            tracing::warn!(
                "these keys may not copy parts inside the store: bytes are fetched and sent from now on: {error}"
            );
            io.no_part_copy.store(true, Ordering::Relaxed);
        }
        return Ok(stored);
    }
}

async fn put(io: &Arc<Writes>, job: &Job) -> Result<Stored> {
    let slots = if job.background && job.size <= SMALL { &io.small } else { &io.uploads };
    let _permit = io.permit(slots, "an upload slot").await?;
    let (payload, _lease) = io.gather(job.base.as_ref(), &(job.frozen)(0..job.size)).await?;
    if payload.len() != job.size {
        return Err(broken("wrong length").with_key(&job.key));
    }
    if job.stop.is_cancelled() {
        return Err(stopped());
    }
    let write = Write::Put(&payload, &job.object);
    let stored = io.conditional(&job.key, job.condition.clone(), write).await?;
    remember(io, &committed(job, stored.clone()).object, &payload);
    Ok(stored)
}

/// Reading back what was just written costs no request.
fn remember(io: &Writes, object: &Object, payload: &Payload) {
    let block = PAGE as usize;
    let whole = payload.0.split_last().is_none_or(|(_, most)| most.iter().all(|b| b.len() == block));
    if whole {
        for (bytes, n) in payload.0.iter().zip(0..) {
            io.reads.remember(object, n * PAGE, bytes);
        }
        return;
    }
    // Ragged pieces are put together block by block.
    let mut offset = 0;
    let mut open = BytesMut::new();
    for bytes in &payload.0 {
        let mut rest: &Bytes = bytes;
        let mut part;
        while !rest.is_empty() {
            let n = rest.len().min(block - open.len());
            open.extend_from_slice(&rest[..n]);
            part = rest.slice(n..);
            rest = &part;
            if open.len() == block {
                io.reads.remember(object, offset, &open.split().freeze());
                offset += PAGE;
            }
        }
    }
    if !open.is_empty() {
        io.reads.remember(object, offset, &open.freeze());
    }
}

fn stopped() -> Error {
    Error::new(Kind::Io, "store object: the file was deleted")
}

/// Sends the parts in parallel; the first error ends them all, and none is under way any more when it is returned.
async fn send_parts(
    io: &Arc<Writes>,
    job: &Job,
    upload: &Arc<Upload>,
    parts: Vec<(u32, PlannedPart)>,
) -> Result<Vec<Part>> {
    let mut running = JoinSet::new();
    let done = send_all(io, job, upload, parts, &mut running).await;
    running.shutdown().await;
    done
}

async fn send_all(
    io: &Arc<Writes>,
    job: &Job,
    upload: &Arc<Upload>,
    parts: Vec<(u32, PlannedPart)>,
    running: &mut JoinSet<Result<Part>>,
) -> Result<Vec<Part>> {
    // Before any part: one request tells whether the store lets us write at all.
    upload.id().await?;
    let mut done = Vec::with_capacity(parts.len());
    let mut parts = parts.into_iter();
    let mut next = parts.next();
    loop {
        // Only as many tasks as may send at a time; the wait for a permit goes on while parts finish.
        let joined = if running.len() < io.settings.max_uploads.max(1) && next.is_some() {
            tokio::select! {
                biased;
                () = job.stop.cancelled() => return Err(stopped()),
                joined = running.join_next(), if !running.is_empty() => joined,
                permit = io.permit(&io.uploads, "an upload slot") => {
                    let permit = permit?;
                    if let Some((number, part)) = next.take() {
                        let (io, upload, base, frozen) = (io.clone(), upload.clone(), job.base.clone(), job.frozen.clone());
                        let end = job.size;
                        running.spawn(async move {
                            let _permit = permit;
                            let done = one_part(&io, &upload, base.as_ref(), &frozen, (number, part), end).await;
                            drop(upload);
                            io.progressed();
                            done
                        });
                    }
                    next = parts.next();
                    continue;
                }
            }
        } else if running.is_empty() {
            break;
        } else {
            tokio::select! {
                biased;
                () = job.stop.cancelled() => return Err(stopped()),
                joined = io.patient("uploads", running.join_next()) => joined?,
            }
        };
        match joined {
            Some(Ok(part)) => done.push(part?),
            Some(Err(_)) => return Err(broken("an upload task died").with_key(&job.key)),
            None => {}
        }
    }
    done.sort_by_key(|p: &Part| p.number);
    Ok(done)
}

async fn one_part(
    io: &Arc<Writes>,
    upload: &Arc<Upload>,
    base: Option<&Object>,
    frozen: &Frozen,
    (number, part): (u32, PlannedPart),
    end: u64,
) -> Result<Part> {
    let id = upload.id().await?;
    let size = part.range().end - part.range().start;
    match part {
        PlannedPart::Put(range) => {
            let (payload, _lease) = io.gather(base, &frozen(range.clone())).await?;
            if payload.len() != size {
                return Err(broken("wrong length of a part").with_key(&upload.key));
            }
            upload.send(number, range.start, payload, Some(end)).await
        }
        PlannedPart::Copy(range) => {
            let pieces = frozen(range.clone());
            let (object, at) = match (&pieces[..], base) {
                ([Piece { from: Origin::Base, .. }], Some(base)) => (base, range.start),
                ([Piece { from: Origin::Copied(extent), .. }], _) => (&extent.source, extent.at),
                _ => return Err(broken("a part is not to be copied from one place").with_key(&upload.key)),
            };
            // XOS-MPU-09: a range counts only for sources over 5 MB.
            let part = (size < object.size).then_some(at..at + size);
            let copied = io.s3.copy_part(&upload.key, id, number, &Source::of(&object.id), part, size).await;
            let error = match copied {
                Ok(part) => {
                    upload.note_source(object);
                    return Ok(part);
                }
                Err(e) => e,
            };
            match (error.kind(), &pieces[0].from) {
                (Kind::Unsupported, _) => {
                    io.no_part_copy.store(true, Ordering::Relaxed);
                    Err(error)
                }
                (Kind::Denied, _) => {
                    upload.note_refused_copy();
                    Err(error)
                }
                // The source has gone; its bytes may still be cached.
                (Kind::Stale | Kind::NotFound, Origin::Copied(_)) if size <= io.budget.limit() as u64 / 4 => {
                    let (payload, _lease) = io.gather(base, &pieces).await.map_err(|_| source_error(error, object))?;
                    io.s3.upload_part(&upload.key, id, number, payload).await
                }
                (_, Origin::Copied(_)) => Err(source_error(error, object)),
                _ => Err(base_error(error, object)),
            }
        }
    }
}

/// Completes a streamed upload: the held-back first part and the tail are still to be sent.
async fn finish(io: &Arc<Writes>, job: &Job, stream: &Stream) -> Result<Stored> {
    let all = stream.all.lock().clone();
    let parts = match all {
        Some(parts) => parts,
        None => {
            let parts = rest(io, job, stream).await?;
            *stream.all.lock() = Some(parts.clone());
            parts
        }
    };
    stream.upload.complete(&parts, job.size, job.condition.clone()).await
}

/// Sends what a stream has not sent yet, and waits for what it has; all parts, in order.
async fn rest(io: &Arc<Writes>, job: &Job, stream: &Stream) -> Result<Vec<Part>> {
    let mut rest = vec![(1, PlannedPart::Put(0..stream.shipped.start))];
    let (mut at, mut number) = (stream.shipped.end, stream.next);
    while at < job.size {
        if number > io.settings.limits.max_parts {
            return Err(Error::new(Kind::TooLarge, "store object: more parts than the store takes").with_key(&job.key));
        }
        let end = (at + stream.layout.size(number)).min(job.size);
        rest.push((number, PlannedPart::Put(at..end)));
        (at, number) = (end, number + 1);
    }
    let mut parts = send_parts(io, job, &stream.upload, rest).await?;
    let sent = tokio::select! {
        biased;
        () = job.stop.cancelled() => return Err(stopped()),
        sent = stream.settle(io) => sent?,
    };
    parts.extend(sent);
    parts.sort_by_key(|p| p.number);
    Ok(parts)
}

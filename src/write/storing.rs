//! When a file is stored: freezing what is there, and what becomes of it when the store has answered.

use std::ops::Range;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result};
use crate::s3::{Condition, NewObject, ends_upload};

use super::commit::Job;
use super::conflict;
use super::layers;
use super::state::{Frozen, State, Stuck};
use super::{Committed, Writer, is_passing};

impl Writer {
    /// Stores everything; `None` when nothing was dirty. Concurrent calls are one commit.
    ///
    /// A failure leaves the old object as it was and is remembered; what was written stays, so that a later call can
    /// succeed. The upload is aborted, unless it is that of a stream, with which the later call goes on.
    pub async fn commit(&self) -> Result<Option<Committed>> {
        let (seen, generation) = {
            let s = self.state.lock();
            (s.ended, s.generation)
        };
        let _naming = self.io.patient("a rename", self.naming.read()).await?;
        let _committing = self.io.patient("another commit", self.committing.lock()).await?;
        {
            let s = self.state.lock();
            // One ran while we waited, and it had all that we would store: its failure is ours.
            if s.ended != seen
                && s.last_frozen >= generation
                && let Some(e) = &s.failed
            {
                return Err(e.clone());
            }
        }
        let mut last = None;
        // A streamed upload carries the headers of its beginning: if they changed, another round sets them. One that
        // failed before is completed as it was, and what came after it is stored by another round. Because its bytes are
        // nowhere else, one that fails now for a reason that may pass is tried again at once.
        let mut again = false;
        for _ in 0..4 {
            let Some((job, repeated)) = self.freeze().await? else { break };
            let stale = job.stream.as_ref().is_some_and(|s| s.upload.object != job.object);
            let headers_only = last.is_some() && job.is_headers_only();
            let mut running = Running::new(self, job);
            let done = conflict::store(&self.io, running.job()).await;
            match (running.end(done, stale, headers_only), &mut last) {
                (Ok(done), last) => *last = Some(done),
                // The bytes are stored: that is what was asked. The headers are the caller's to set later.
                (Err(e), Some(stored)) if headers_only => {
                    tracing::warn!("stored, but not yet with its attributes: {e}");
                    stored.headers_pending = true;
                    break;
                }
                (Err(e), _) if !again && is_passing(e.kind()) && self.state.lock().stuck.is_some() => {
                    tracing::debug!("a streamed file is tried again: {e}");
                    again = true;
                    continue;
                }
                (Err(e), stored) => {
                    self.state.lock().published = stored.take();
                    return Err(e);
                }
            }
            if !stale && !repeated {
                break;
            }
        }
        if last.is_some() {
            self.state.lock().published = None;
        }
        // Who asked for it may copy or delete the object next: a record must not bring it back after that.
        self.settle_record(true).await;
        Ok(last)
    }

    /// The error of the last commit, when nothing was changed since: whoever asked for it has been told.
    pub fn told(&self) -> Option<Error> {
        let s = self.state.lock();
        s.failed.clone().filter(|_| s.last_frozen >= s.generation)
    }

    /// Freezes the layers for a commit; `None` when there is nothing to store. The flag: it is one that failed before.
    async fn freeze(&self) -> Result<Option<(Job, bool)>> {
        let _gate = self.gate().await?;
        let mut s = self.state.lock();
        if s.unlinked {
            return Ok(None);
        }
        s.check()?;
        s.whole()?;
        if let Some(Stuck { layers, generation, size, object, stream }) = s.stuck.take() {
            stream.resend(&self.io);
            s.stream = Some(stream);
            return Ok(Some((self.job(&mut s, layers, generation, size, object), true)));
        }
        if !s.dirty() {
            return Ok(None);
        }
        if let Some(stream) = &s.stream {
            stream.resend(&self.io);
        }
        for layer in &mut s.layers {
            layer.overlay.freeze();
        }
        let (n, generation, size, object) = (s.layers.len(), s.generation, s.size, s.object.clone());
        s.push_layer();
        Ok(Some((self.job(&mut s, n, generation, size, object), false)))
    }

    /// A commit of the lowest `n` layers, which are frozen.
    pub(super) fn job(&self, s: &mut State, n: usize, generation: u64, size: u64, object: NewObject) -> Job {
        let stop = CancellationToken::new();
        s.running = Some(Frozen { generation, layers: n, stop: stop.clone() });
        let base = s.base_size();
        let state = self.state.clone();
        let frozen = move |range: Range<u64>| {
            let mut out = Vec::new();
            // The commit lock is held: the frozen layers stay what and where they are.
            layers::collect(&state.lock().layers[..n], base, range, &mut out);
            out
        };
        s.touched = true;
        Job {
            key: s.key.clone(),
            base: s.base.clone(),
            visible: layers::visible(&s.layers[..n], base),
            dirty: layers::dirty(&s.layers[..n]),
            copied: layers::copied(&s.layers[..n]),
            size,
            object,
            condition: conflict::expected(&self.io, s),
            exclusive: s.condition == Condition::Absent,
            stream: s.stream.take(),
            frozen: Arc::new(frozen),
            background: false,
            stop,
        }
    }

    /// The file was deleted: ends the upload; nothing will be stored any more. Handles go on with what is here.
    ///
    /// When it returns no request of this writer is on its way that could bring the object back, unless `patience`
    /// passed. Errors: those of [`Writer::forget`].
    pub async fn unlink(&self) -> Result<()> {
        self.stop().await;
        self.forget().await
    }

    /// The first half of [`Writer::unlink`]: nothing is sent any more, and the journal still has what it has.
    pub async fn stop(&self) {
        let stop = {
            let mut s = self.state.lock();
            s.unlinked = true;
            s.stream = None;
            s.stuck = None;
            s.running.as_ref().map(|frozen| frozen.stop.clone())
        };
        if let Some(stop) = stop {
            stop.cancel();
        }
        if let Err(e) = self.io.patient("the last upload", self.committing.lock()).await {
            tracing::warn!("delete of a file that is being stored: {e}");
        }
    }

    /// Nobody will ask again: the upload of a stream that could not be completed is aborted.
    pub fn give_up_upload(&self, why: &Error) {
        let mut s = self.state.lock();
        let (stuck, stream) = (s.stuck.take(), s.stream.take());
        if stuck.is_some() || stream.is_some() {
            s.failed.get_or_insert_with(|| why.clone());
            s.lost = true;
        }
    }

    /// The file was not deleted after all: what was acknowledged is to be stored.
    pub fn revive(&self) {
        self.state.lock().unlinked = false;
    }
}

/// A running commit: whichever way its future ends, the state learns of it.
pub(super) struct Running<'a> {
    writer: &'a Writer,
    /// Until it has ended.
    job: Option<Job>,
}

impl<'a> Running<'a> {
    pub(super) fn new(writer: &'a Writer, job: Job) -> Running<'a> {
        Running { writer, job: Some(job) }
    }

    pub(super) fn job(&mut self) -> &mut Job {
        // Invariant: only `end` and `drop` take it.
        self.job.as_mut().expect("a commit that runs has a job")
    }

    /// `stale`: the stored object does not carry the headers of the job yet. `headers_only`: its bytes are stored
    /// whatever `done` says.
    pub(super) fn end(mut self, done: Result<Committed>, stale: bool, headers_only: bool) -> Result<Committed> {
        let job = self.job.take();
        let mut s = self.writer.state.lock();
        let frozen = s.running.take();
        let generation = frozen.as_ref().map_or(s.generation, |f| f.generation);
        s.ended += 1;
        s.last_frozen = generation;
        match done {
            Ok(committed) => {
                // There is always one above those that froze.
                let n = frozen.map_or(0, |f| f.layers).min(s.layers.len() - 1);
                s.layers.drain(..n);
                s.base = Some(committed.object.clone());
                s.condition = Condition::None;
                s.replaces = Condition::None;
                if committed.beside {
                    s.key = committed.object.id.key.clone();
                }
                s.failed = None;
                s.stored = if stale { s.stored } else { generation };
                // In the foreground the caller is told, and sees to it.
                s.unsettled = job.filter(|j| j.background && j.object.needs_settling()).map(|_| generation);
                Ok(committed)
            }
            Err(e) => {
                let e = if e.key().is_none() { e.with_key(&s.key) } else { e };
                s.keep(job, frozen, &e);
                if headers_only {
                    s.stored = generation;
                } else {
                    s.failed = Some(e.clone());
                }
                s.thaw();
                Err(e)
            }
        }
    }
}

impl State {
    /// What becomes of a commit that failed: the upload of a stream is kept for the next one.
    fn keep(&mut self, job: Option<Job>, frozen: Option<Frozen>, error: &Error) {
        let Some((job, frozen)) = job.zip(frozen) else { return };
        let Job { stream: Some(stream), size, object, .. } = job else { return };
        if ends_upload(error) || self.unlinked {
            tracing::error!("the {} bytes of {:?} written so far are lost: {error}", size, self.key);
            self.lost = true;
            return;
        }
        self.stuck = Some(Stuck { layers: frozen.layers, generation: frozen.generation, size, object, stream });
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let Some(job) = self.job.take() else { return };
        let mut s = self.writer.state.lock();
        let error = Error::new(Kind::Io, "store object: interrupted").with_key(&s.key);
        let frozen = s.running.take();
        if let Some(frozen) = &frozen {
            s.ended += 1;
            s.last_frozen = frozen.generation;
        }
        s.keep(Some(job), frozen, &error);
        s.failed = Some(error);
        s.thaw();
    }
}

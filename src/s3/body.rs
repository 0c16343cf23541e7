//! Bodies in both directions: uploads that can be watched and sent again, downloads that are exactly as long as
//! announced or an error.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use super::Shared;
use super::types::Payload;
use crate::error::{Error, Kind, Result};

/// Pieces handed to the connection: small enough that a slow line shows progress, large enough to cost nothing.
const PIECE: usize = 256 * 1024;

/// How far an upload is; written by the connection, read by whoever watches for a stall.
pub(super) struct Progress {
    begun: Instant,
    /// Milliseconds after `begun` at which the last piece was taken.
    last: AtomicU64,
    pub bytes: AtomicU64,
    done: AtomicBool,
}

impl Progress {
    pub fn new(is_empty: bool) -> Arc<Self> {
        Arc::new(Progress {
            begun: Instant::now(),
            last: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            done: AtomicBool::new(is_empty),
        })
    }

    fn step(&self, bytes: usize, done: bool) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if done {
            self.done.store(true, Ordering::Relaxed);
        }
    }

    pub fn last(&self) -> Instant {
        self.begun + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }

    /// Whether the connection has taken the whole body.
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }
}

/// A [`Payload`] on its way: slices of its pieces, nothing copied.
pub(super) struct Upload {
    pieces: std::vec::IntoIter<Bytes>,
    current: Bytes,
    left: u64,
    progress: Arc<Progress>,
}

impl Upload {
    pub fn new(payload: &Payload, progress: Arc<Progress>) -> Self {
        Upload { left: payload.len(), pieces: payload.0.clone().into_iter(), current: Bytes::new(), progress }
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        while self.current.is_empty() {
            match self.pieces.next() {
                Some(piece) => self.current = piece,
                None => return Poll::Ready(None),
            }
        }
        let len = self.current.len().min(PIECE);
        let piece = self.current.split_to(len);
        self.left -= len as u64;
        self.progress.step(len, self.left == 0);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The body of a GET: exactly the bytes announced, or an error.
///
/// It holds one of the concurrent requests until it has ended or is dropped.
pub struct Body {
    response: Option<reqwest::Response>,
    left: u64,
    shared: Arc<Shared>,
    key: String,
    permits: Option<Permits>,
    failed: Option<Error>,
}

/// The right to have a request under way.
pub(super) struct Permits(#[allow(dead_code, reason = "held, given back when dropped")] pub Vec<OwnedSemaphorePermit>);

impl Body {
    pub(super) fn new(
        response: reqwest::Response,
        len: u64,
        shared: Arc<Shared>,
        key: String,
        permits: Permits,
    ) -> Self {
        Body { response: Some(response), left: len, shared, key, permits: Some(permits), failed: None }
    }

    /// Bytes still to come.
    pub fn remaining(&self) -> u64 {
        self.left
    }

    /// Lets the connection and the permits go.
    fn end(&mut self) {
        self.response = None;
        self.permits = None;
    }

    fn fail(&mut self, kind: Kind, what: &str) -> Error {
        self.end();
        let text = format!("get object: {what}, {} bytes missing", self.left);
        let error = Error::new(kind, text).with_key(&self.key).with_fix("check the network and the store");
        self.failed = Some(error.clone());
        error
    }

    /// The next piece; `None` after the last byte.
    ///
    /// Errors: [`Kind::Unavailable`] when the body ends too early, [`Kind::Timeout`] when it stalls for the read
    /// timeout, [`Kind::Io`] when it is too long. After an error every call fails with the same.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let patience = self.shared.settings.read_timeout;
        loop {
            let Some(response) = &mut self.response else { return Ok(None) };
            let piece = tokio::time::timeout(patience, response.chunk()).await;
            match piece {
                Ok(Ok(Some(piece))) if piece.is_empty() => {}
                Ok(Ok(Some(piece))) => {
                    let len = piece.len() as u64;
                    self.shared.counters.bytes_in.fetch_add(len, Ordering::Relaxed);
                    if len > self.left {
                        return Err(self.fail(Kind::Io, "the store sent more than it announced"));
                    }
                    self.left -= len;
                    return Ok(Some(piece));
                }
                // All bytes are here: whatever happens to the connection now is of no interest.
                _ if self.left == 0 => self.end(),
                Ok(Ok(None)) => return Err(self.fail(Kind::Unavailable, "body cut")),
                Ok(Err(_)) => return Err(self.fail(Kind::Unavailable, "connection lost in the body")),
                Err(_) => return Err(self.fail(Kind::Timeout, "body stalled")),
            }
        }
    }

    /// The rest of the body in one piece.
    pub async fn collect(mut self) -> Result<Bytes> {
        let Some(first) = self.next().await? else { return Ok(Bytes::new()) };
        let Some(second) = self.next().await? else { return Ok(first) };
        let rest = usize::try_from(self.left).unwrap_or(0);
        let mut all = Vec::with_capacity(first.len() + second.len() + rest);
        all.extend_from_slice(&first);
        all.extend_from_slice(&second);
        while let Some(piece) = self.next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all.into())
    }
}

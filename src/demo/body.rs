//! The bodies around the S3 service: paced, cut, stalled, and read to their end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use s3s::StdError;
use tokio::time::{Instant, Sleep};

use super::Shared;

/// Time for the bytes before a cut to leave.
const FLUSH: Duration = Duration::from_millis(20);
/// How much of an unwanted request body is read before its answer, and for how long.
const MAX_DRAIN: u64 = 1 << 30;
const DRAIN_TIME: Duration = Duration::from_secs(30);

/// What the log learns while a request goes on.
#[derive(Default)]
pub(super) struct Progress {
    pub status: AtomicU16,
    pub bytes_out: AtomicU64,
}

/// Reads a request body to its end, so that the client is ready to hear the answer.
pub(super) async fn drain(mut body: Incoming) {
    let all = async {
        let mut left = MAX_DRAIN;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, |d| d.len() as u64));
            if left == 0 {
                break;
            }
        }
    };
    // A client that stalls sees its connection end instead.
    let _drained = tokio::time::timeout(DRAIN_TIME, all).await.is_ok();
}

/// Where a [`Request`] leaves what was not read of it.
pub(super) type Unread = Arc<Mutex<Option<Incoming>>>;

/// The speed limit of one connection.
pub(super) struct Connection {
    shared: Arc<Shared>,
    /// When the bytes let through so far are paid for.
    free: Mutex<Instant>,
}

impl Connection {
    pub fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Connection { shared, free: Mutex::new(Instant::now()) })
    }

    /// Books `n` bytes and says until when to wait.
    fn book(&self, n: usize) -> Option<Instant> {
        const SLACK: Duration = Duration::from_millis(4);
        let rate = self.shared.knobs.with(|b| b.bytes_per_second).filter(|r| *r > 0)?;
        let now = Instant::now();
        let mut free = self.free.lock();
        // The timer is late by up to a millisecond: what that took from the rate is made up for.
        let behind = now.checked_sub(SLACK).unwrap_or(now);
        *free = (*free).max(behind) + Duration::from_secs_f64(n as f64 / rate as f64);
        (*free > now).then_some(*free)
    }
}

pub(super) struct Pace {
    connection: Arc<Connection>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    /// Bytes let through at once, so that slow bodies drip instead of coming in bursts.
    const STEP: usize = 16 << 10;

    pub fn new(connection: Arc<Connection>) -> Self {
        Pace { connection, wait: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(wait) = &mut self.wait {
            std::task::ready!(wait.as_mut().poll(cx));
            self.wait = None;
        }
        Poll::Ready(())
    }

    fn book(&mut self, n: usize) {
        self.wait = self.connection.book(n).map(|until| Box::pin(tokio::time::sleep_until(until)));
    }
}

/// A request body: no faster than its connection may, and given back when it is dropped unread.
pub(super) struct Request {
    /// Taken only by `drop`.
    inner: Option<Incoming>,
    pace: Option<Pace>,
    unread: Unread,
}

impl Request {
    pub fn new(inner: Incoming, pace: Option<Pace>) -> (Self, Unread) {
        let unread = Unread::default();
        (Request { inner: Some(inner), pace, unread: unread.clone() }, unread)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        *self.unread.lock() = self.inner.take().filter(|b| !b.is_end_stream());
    }
}

impl Body for Request {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        if let Some(pace) = &mut this.pace {
            std::task::ready!(pace.poll(cx));
        }
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(inner).poll_frame(cx));
        if let (Some(Ok(frame)), Some(pace)) = (&frame, &mut this.pace)
            && let Some(data) = frame.data_ref()
        {
            pace.book(data.len());
        }
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }
}

/// The body of an answer.
pub(super) struct Answer {
    inner: s3s::Body,
    pub progress: Option<Arc<Progress>>,
    pub pace: Option<Pace>,
    /// Bytes after which the connection ends.
    pub cut: Option<u64>,
    /// Bytes after which nothing comes for a while.
    pub stall: Option<(u64, Duration)>,
    waiting: Option<Pin<Box<Sleep>>>,
    sent: u64,
    rest: Bytes,
}

impl Answer {
    pub fn new(inner: s3s::Body) -> Self {
        Answer { inner, progress: None, pace: None, cut: None, stall: None, waiting: None, sent: 0, rest: Bytes::new() }
    }

    pub fn whole(bytes: Bytes) -> Self {
        Answer::new(s3s::Body::http_body(Full::new(bytes)))
    }

    /// Bytes to come, where known.
    pub fn left(&self) -> Option<u64> {
        self.inner.size_hint().exact().map(|n| n + self.rest.len() as u64)
    }

    /// How much of the next piece may go at once.
    fn step(&self, len: usize) -> usize {
        let mut n = len;
        if self.pace.is_some() {
            n = n.min(Pace::STEP);
        }
        for limit in [self.cut, self.stall.map(|(after, _)| after)].into_iter().flatten() {
            n = n.min(limit.saturating_sub(self.sent) as usize);
        }
        n
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = &mut *self;
        if let Some(pace) = &mut this.pace {
            std::task::ready!(pace.poll(cx));
        }
        if this.cut.is_some_and(|n| this.sent >= n) {
            // An error right away would also swallow what hyper has not flushed yet.
            let waiting = this.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(FLUSH)));
            std::task::ready!(waiting.as_mut().poll(cx));
            return Poll::Ready(Some(Err(io::Error::other("body cut").into())));
        }
        if let Some((after, time)) = this.stall
            && this.sent >= after
        {
            let waiting = this.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
            std::task::ready!(waiting.as_mut().poll(cx));
            this.stall = None;
        }
        if this.rest.is_empty() {
            match std::task::ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                other => return Poll::Ready(other),
            }
        }
        let n = this.step(this.rest.len());
        let bytes = this.rest.split_to(n);
        this.sent += n as u64;
        if let Some(progress) = &this.progress {
            progress.bytes_out.fetch_add(n as u64, Ordering::Relaxed);
        }
        if let Some(pace) = &mut this.pace {
            pace.book(n);
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn size_hint(&self) -> SizeHint {
        self.left().map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream() && self.cut.is_none()
    }
}

//! Signs ([`super::build`]), sends, retries: the only HTTP call of the product but that to the token service.
//!
//! 1. Every attempt is signed anew when it is sent: keys are rotated, clocks corrected and regions learnt in between.
//! 2. Repairs ([`super::repair`]) are made once each and cost no retry; transient failures are
//!    repeated with full-jitter back-off, bounded by the number of retries and by the deadline of the operation.
//! 3. A large body may take longer than any deadline: it is only required to move.
//! 4. Two semaphores bound the requests under way, so that bulk transfers leave room for lookups.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use rusty_s3::Method;
use tokio::time::Instant;

use super::backoff::{backoff, random};
use super::body::{Permits, Progress};
use super::build::Signing;
use super::digest::Vouched;
use super::failure::{Failure, answered, has_ceph_id};
use super::operation::Op;
use super::repair::Repaired;
use super::types::Payload;
use super::{Place, S3, xml};
use crate::config::credentials::Keys;
use crate::error::{Error, Kind, Result};

/// Bounds of the pause before each request while the store throttles, in milliseconds.
const PAUSE_FIRST: u64 = 50;
const PAUSE_MOST: u64 = 2000;
/// A listing of 1000 keys of 1 KiB, percent-encoded, stays below this.
const DOCUMENT_MAX: usize = 32 << 20;
const ERROR_MAX: usize = 64 << 10;

type Check<'a> = dyn Fn(u16, &HeaderMap) -> Result<(), String> + Send + Sync + 'a;

/// One request, before it is signed.
pub(super) struct Action<'a> {
    pub op: Op,
    pub method: Method,
    /// "" for the bucket itself.
    pub key: &'a str,
    /// False: a request to the service, above all buckets.
    pub in_bucket: bool,
    pub query: Vec<(&'static str, String)>,
    /// Names in lower case. `x-amz-*` and `content-md5` are signed.
    pub headers: Vec<(String, String)>,
    /// Sent and signed in OBS's own protocol: `x-amz-*` becomes `x-obs-*`, whatever the signature of other requests.
    pub native: bool,
    pub payload: Payload,
    /// Whether a digest goes with the payload.
    pub vouched: Vouched,
    /// A transfer of file contents: counted apart from lookups, allowed to outlive the deadline while bytes flow.
    pub bulk: bool,
    /// The store works before it answers (copies, completion): silence up to the deadline is no stall.
    pub slow: bool,
    /// What a successful answer must look like; a violation is retried, then [`Kind::Io`].
    pub check: Option<&'a Check<'a>>,
    /// Set when an attempt failed that may have taken effect all the same.
    pub uncertain: AtomicBool,
}

impl<'a> Action<'a> {
    pub fn new(op: Op, method: Method, key: &'a str) -> Self {
        Action {
            op,
            method,
            key,
            in_bucket: true,
            query: Vec::new(),
            headers: Vec::new(),
            native: false,
            payload: Payload::default(),
            vouched: Vouched::No,
            bulk: false,
            slow: false,
            check: None,
            uncertain: AtomicBool::new(false),
        }
    }

    pub fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub fn version(self, version: Option<&str>) -> Self {
        match version {
            Some(version) => self.query("versionId", version),
            None => self,
        }
    }

    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// An XML document as the body, with its digest: some stores insist on it.
    pub fn document(self, xml: String) -> Self {
        self.text(xml, "application/xml")
    }

    /// The same for a text of another type.
    pub fn text(mut self, text: String, content_type: &str) -> Self {
        use base64::Engine as _;
        use md5::Digest as _;
        let digest = base64::engine::general_purpose::STANDARD.encode(md5::Md5::digest(text.as_bytes()));
        self.payload = Payload(vec![Bytes::from(text)]);
        self.header("content-md5", digest).header("content-type", content_type)
    }

    pub fn was_uncertain(&self) -> bool {
        self.uncertain.load(Ordering::Relaxed)
    }
}

/// A successful answer with its whole body.
pub(super) struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The body as a document; [`Kind::Io`] when it is none.
    pub fn document(&self, op: Op) -> Result<xml::Node> {
        xml::parse(&self.body).map_err(|why| Error::new(Kind::Io, format!("{}: {why}", op.phrase())))
    }
}

pub(super) fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim).filter(|v| !v.is_empty())
}

/// A successful answer whose body is still to be read.
pub(super) struct Opened {
    pub status: u16,
    pub headers: HeaderMap,
    pub response: reqwest::Response,
    pub permits: Permits,
}

enum Content {
    Whole(Bytes),
    Stream(reqwest::Response),
}

struct Raw {
    status: u16,
    headers: HeaderMap,
    content: Content,
}

impl S3 {
    /// Sends, and reads the whole answer.
    pub(super) async fn fetch(&self, action: &Action<'_>) -> Result<Answer> {
        let (raw, _permits) = self.run(action, false).await?;
        let body = match raw.content {
            Content::Whole(body) => body,
            Content::Stream(_) => Bytes::new(),
        };
        Ok(Answer { status: raw.status, headers: raw.headers, body })
    }

    /// Sends, and leaves the body of the answer to the caller.
    pub(super) async fn open(&self, action: &Action<'_>) -> Result<Opened> {
        let (raw, permits) = self.run(action, true).await?;
        match raw.content {
            Content::Stream(response) => Ok(Opened { status: raw.status, headers: raw.headers, response, permits }),
            Content::Whole(_) => Err(Error::new(Kind::Io, "answer without a body to stream")),
        }
    }

    async fn run(&self, action: &Action<'_>, stream: bool) -> Result<(Raw, Permits)> {
        if action.in_bucket && self.bucket().is_empty() {
            return Err(Error::new(Kind::Invalid, format!("{}: no bucket is named", action.op.phrase())));
        }
        let shared = self.shared();
        let mut deadline = Instant::now() + shared.settings.op_timeout;
        let permits = self.permits(action, deadline).await?;
        let mut repaired = Repaired::default();
        let mut retries = 0;
        let mut attempts = 0;
        loop {
            self.pace(deadline).await;
            attempts += 1;
            let begun = Instant::now();
            let keys = self.keys(deadline).await?;
            let place = self.0.place.read().clone();
            let progress = Progress::new(action.payload.is_empty());
            let signing = Signing {
                keys: keys.as_deref(),
                table: self.table(&repaired),
                checksum: self.learned().checksums.mode(),
            };
            let checksums = &self.learned().checksums;
            action.vouched.prepare(&action.payload, signing.checksum).await;
            let failure = match self.attempt(action, stream, &signing, &place, &progress, deadline).await {
                Ok(raw) => {
                    self.learned().signed_names.store(signing.table, Ordering::Relaxed);
                    checksums.settle(&action.vouched, signing.checksum, repaired.checksum.take(), None);
                    let relax = |p: u64| Some(if p < PAUSE_FIRST { 0 } else { p / 2 });
                    let _ = shared.pause.fetch_update(Ordering::Relaxed, Ordering::Relaxed, relax);
                    return Ok((raw, permits));
                }
                Err(failure) => failure,
            };
            if failure.is_uncertain() {
                action.uncertain.store(true, Ordering::Relaxed);
            }
            if action.bulk && progress.bytes.load(Ordering::Relaxed) > 0 {
                // Time in which bytes flowed is not held against the operation; the number of retries bounds it.
                deadline += begun.elapsed();
            }
            if failure.is_throttle() {
                shared.counters.throttles.fetch_add(1, Ordering::Relaxed);
                let press = |p: u64| Some((p * 2).clamp(PAUSE_FIRST, PAUSE_MOST));
                let _ = shared.pause.fetch_update(Ordering::Relaxed, Ordering::Relaxed, press);
            }
            if self.repair(&failure, &mut repaired, keys.as_deref(), &place)
                || self.sign_otherwise(&failure, &mut repaired, action)
                || self.renew(&failure, &mut repaired, keys.as_deref(), deadline).await
            {
                shared.counters.retries.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            if repaired.checksum.is_none()
                && let Some(doubt) = checksums.doubt(&action.vouched, signing.checksum, &failure)
            {
                repaired.checksum = Some(doubt);
                shared.counters.retries.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let wait = backoff(retries, &failure);
            if !failure.is_transient() || retries >= shared.settings.retries || Instant::now() + wait >= deadline {
                checksums.settle(&action.vouched, signing.checksum, repaired.checksum.take(), Some(&failure));
                let error = failure.into_error(action.op, self.bucket(), action.key, attempts);
                if !(self.0.may_be_missing && error.kind() == Kind::NoBucket) {
                    shared.counters.failed(&error);
                }
                tracing::debug!(op = action.op.name(), %error, "request failed");
                return Err(error);
            }
            tracing::debug!(
                op = action.op.name(),
                key = action.key,
                attempt = attempts,
                wait_ms = u64::try_from(wait.as_millis()).unwrap_or(0),
                ?failure,
                "sending again"
            );
            retries += 1;
            shared.counters.retries.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(wait).await;
        }
    }

    /// The keys to sign with, waited for until `deadline` when they have to be fetched.
    pub(super) async fn keys(&self, deadline: Instant) -> Result<Option<Arc<Keys>>> {
        match tokio::time::timeout_at(deadline, self.shared().settings.credentials.current()).await {
            Ok(keys) => keys,
            Err(_) => Err(Error::new(Kind::Timeout, "fetch credentials")),
        }
    }

    /// Bulk transfers take two permits, in the same order everywhere; lookups only one.
    async fn permits(&self, action: &Action<'_>, deadline: Instant) -> Result<Permits> {
        let shared = self.shared();
        let mut held = Vec::with_capacity(2);
        let wanted = if action.bulk { &[&shared.bulk, &shared.all][..] } else { &[&shared.all][..] };
        for semaphore in wanted {
            match tokio::time::timeout_at(deadline, Arc::clone(semaphore).acquire_owned()).await {
                Ok(Ok(permit)) => held.push(permit),
                // The semaphores are never closed: what is left is the deadline.
                Ok(Err(_)) | Err(_) => {
                    let text = format!("{}: too many requests under way", action.op.phrase());
                    return Err(Error::new(Kind::Timeout, text).with_fix("raise `max_requests`"));
                }
            }
        }
        Ok(Permits(held))
    }

    /// Waits a little while the store throttles.
    async fn pace(&self, deadline: Instant) {
        let pause = self.shared().pause.load(Ordering::Relaxed);
        if pause > 0 {
            let until = Instant::now() + Duration::from_millis(random(pause));
            tokio::time::sleep_until(until.min(deadline)).await;
        }
    }

    async fn attempt(
        &self,
        action: &Action<'_>,
        stream: bool,
        signing: &Signing<'_>,
        place: &Place,
        progress: &Arc<Progress>,
        deadline: Instant,
    ) -> Result<Raw, Failure> {
        let shared = self.shared();
        let request = self.build(action, signing, place, progress).map_err(Failure::Local)?;
        shared.counters.sent(action.op);
        let result = self.answer(action, request, progress, deadline).await;
        shared.counters.bytes_out.fetch_add(progress.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
        let mut response = result?;
        // A transfer may have outlived the deadline; its answer still gets the usual time.
        let deadline = if action.bulk { Instant::now() + shared.settings.op_timeout } else { deadline };
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        shared.ceph.fetch_or(has_ceph_id(&headers), Ordering::Relaxed);
        if !response.status().is_success() {
            let body = self.read(&mut response, ERROR_MAX, deadline).await.unwrap_or_default();
            return Err(answered(status, &headers, &body));
        }
        if let Some(check) = action.check {
            check(status, &headers).map_err(Failure::Bad)?;
        }
        if let Some(why) = action.vouched.contradicted(&action.payload, signing.checksum, &headers) {
            return Err(Failure::Bad(why));
        }
        if stream {
            return Ok(Raw { status, headers, content: Content::Stream(response) });
        }
        let body = self.read(&mut response, DOCUMENT_MAX, deadline).await?;
        if body.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'<') {
            match xml::root_name(&body).as_deref() {
                Some("Error" | "ErrorResponse") => return Err(answered(status, &headers, &body)),
                Some(root) if xml::is_whole(&body, root) => {}
                _ => return Err(Failure::Bad("answer ends in the middle of a document".into())),
            }
        }
        Ok(Raw { status, headers, content: Content::Whole(body) })
    }

    /// Sends the request and waits for the head of the answer, as long as the upload moves.
    async fn answer(
        &self,
        action: &Action<'_>,
        request: reqwest::Request,
        progress: &Arc<Progress>,
        deadline: Instant,
    ) -> Result<reqwest::Response, Failure> {
        let shared = self.shared();
        let patience = shared.settings.read_timeout;
        let send = shared.client.execute(request);
        tokio::pin!(send);
        loop {
            let quiet_since = Instant::from_std(progress.last());
            let mut until = quiet_since + patience;
            if action.slow && progress.is_done() {
                until = until.max(deadline);
            }
            if !action.bulk {
                until = until.min(deadline);
            }
            match tokio::time::timeout_at(until, &mut send).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => return Err(Failure::of_transport(error)),
                Err(_)
                    if Instant::from_std(progress.last()) > quiet_since
                        || (action.slow && progress.is_done() && until < deadline) => {}
                Err(_) if !progress.is_done() => return Err(Failure::Stalled("upload stalled")),
                Err(_) => return Err(Failure::Stalled("no answer in time")),
            }
        }
    }

    async fn read(&self, response: &mut reqwest::Response, most: usize, deadline: Instant) -> Result<Bytes, Failure> {
        let patience = self.shared().settings.read_timeout;
        let mut body = Vec::new();
        loop {
            let until = (Instant::now() + patience).min(deadline);
            let piece = match tokio::time::timeout_at(until, response.chunk()).await {
                Err(_) => return Err(Failure::Stalled("answer stalled")),
                Ok(Err(error)) => return Err(Failure::of_transport(error)),
                Ok(Ok(piece)) => piece,
            };
            let Some(piece) = piece else { return Ok(body.into()) };
            self.shared().counters.bytes_in.fetch_add(piece.len() as u64, Ordering::Relaxed);
            if body.len() + piece.len() > most {
                return Err(Failure::Bad(format!("answer larger than {most} bytes")));
            }
            body.extend_from_slice(&piece);
        }
    }
}

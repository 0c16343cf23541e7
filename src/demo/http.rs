//! The HTTP side around the S3 service: request log, counters, faults, speed limits.
//!
//! 1. Faults must be real ones: a cut body is a connection that ends before `Content-Length`, so they are made
//!    here, in the bodies and in the result of the connection's service, not in the operations.
//! 2. A fault that answers early reads the request's body first; otherwise the client sees a reset, not the answer.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use s3s::StdError;
use s3s::service::S3Service;
use tokio::time::{Instant, Sleep};

use super::Shared;
use super::knobs::{Action, Behaviour};
use super::service::{Accepted, NextMarker};
use super::store::{now, system_time};

/// Requests kept in the log; the oldest go first.
const LOG: usize = 100_000;
/// Skew between a signature's time and the clock that S3 tolerates, in seconds.
const SKEW: i64 = 900;

/// One request as the server saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedRequest {
    /// As S3 names it: `GetObject`, `ListObjectsV2`, …
    pub operation: &'static str,
    pub method: String,
    pub bucket: String,
    pub key: String,
    /// Decoded pairs in order; values of signatures, credentials and tokens left out.
    pub query: Vec<(String, String)>,
    /// The `Range` header.
    pub range: Option<String>,
    /// 0 when the connection ended instead of an answer.
    pub status: u16,
    /// Bytes of the request body as announced.
    pub bytes_in: u64,
    /// Bytes of the answer's body so far.
    pub bytes_out: u64,
}

struct Entry {
    request: LoggedRequest,
    progress: Arc<Progress>,
}

#[derive(Default)]
struct Progress {
    status: AtomicU16,
    bytes_out: AtomicU64,
}

#[derive(Default)]
pub(super) struct Log {
    entries: Mutex<std::collections::VecDeque<Entry>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
}

impl Log {
    fn add(&self, request: LoggedRequest) -> Arc<Progress> {
        *self.counts.lock().entry(request.operation).or_default() += 1;
        let progress = Arc::new(Progress::default());
        let mut entries = self.entries.lock();
        if entries.len() == LOG {
            entries.pop_front();
        }
        entries.push_back(Entry { request, progress: progress.clone() });
        progress
    }

    pub fn list(&self) -> Vec<LoggedRequest> {
        let entries = self.entries.lock();
        entries
            .iter()
            .map(|e| LoggedRequest {
                status: e.progress.status.load(Ordering::Relaxed),
                bytes_out: e.progress.bytes_out.load(Ordering::Relaxed),
                ..e.request.clone()
            })
            .collect()
    }

    pub fn clear(&self) {
        self.entries.lock().clear();
        self.counts.lock().clear();
    }

    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().iter().map(|(k, v)| ((*k).to_owned(), *v)).collect()
    }
}

/// The operation a request asks for.
fn classify(method: &Method, bucket: &str, key: &str, has: impl Fn(&str) -> bool, copy: bool) -> &'static str {
    let get = method == Method::GET;
    let put = method == Method::PUT;
    let post = method == Method::POST;
    let delete = method == Method::DELETE;
    let head = method == Method::HEAD;
    if method == Method::OPTIONS {
        return "Preflight";
    }
    if bucket.is_empty() {
        return if get { "ListBuckets" } else { "Unknown" };
    }
    let by_method = |get_name, put_name, delete_name| match () {
        () if get => get_name,
        () if put => put_name,
        () if delete => delete_name,
        () => "Unknown",
    };
    if key.is_empty() {
        let table = [
            ("location", ["GetBucketLocation", "Unknown", "Unknown"]),
            ("acl", ["GetBucketAcl", "PutBucketAcl", "Unknown"]),
            ("policy", ["GetBucketPolicy", "PutBucketPolicy", "DeleteBucketPolicy"]),
            ("tagging", ["GetBucketTagging", "PutBucketTagging", "DeleteBucketTagging"]),
            ("versioning", ["GetBucketVersioning", "PutBucketVersioning", "Unknown"]),
            (
                "lifecycle",
                ["GetBucketLifecycleConfiguration", "PutBucketLifecycleConfiguration", "DeleteBucketLifecycle"],
            ),
            ("cors", ["GetBucketCors", "PutBucketCors", "DeleteBucketCors"]),
        ];
        if let Some((_, [g, p, d])) = table.iter().find(|(name, _)| has(name)) {
            return by_method(g, p, d);
        }
        return match () {
            () if get && has("uploads") => "ListMultipartUploads",
            () if get && has("versions") => "ListObjectVersions",
            () if get && has("list-type") => "ListObjectsV2",
            () if get => "ListObjects",
            () if put => "CreateBucket",
            () if head => "HeadBucket",
            () if delete => "DeleteBucket",
            () if post && has("delete") => "DeleteObjects",
            () => "Unknown",
        };
    }
    if has("acl") {
        return by_method("GetObjectAcl", "PutObjectAcl", "Unknown");
    }
    if has("tagging") {
        return by_method("GetObjectTagging", "PutObjectTagging", "DeleteObjectTagging");
    }
    match () {
        () if get && has("uploadId") => "ListParts",
        () if get => "GetObject",
        () if head => "HeadObject",
        () if put && has("uploadId") && copy => "UploadPartCopy",
        () if put && has("uploadId") => "UploadPart",
        () if put && copy => "CopyObject",
        () if put => "PutObject",
        () if delete && has("uploadId") => "AbortMultipartUpload",
        () if delete => "DeleteObject",
        () if post && has("uploads") => "CreateMultipartUpload",
        () if post && has("uploadId") => "CompleteMultipartUpload",
        () if post && has("restore") => "RestoreObject",
        () => "Unknown",
    }
}

fn is_secret(name: &str) -> bool {
    ["x-amz-signature", "x-amz-credential", "x-amz-security-token", "signature", "awsaccesskeyid"]
        .contains(&name.to_ascii_lowercase().as_str())
}

fn signed(headers: &HeaderMap, query: &[(String, String)]) -> bool {
    headers.contains_key("authorization") || query.iter().any(|(k, _)| is_secret(k))
}

fn describe(request: &Request<Incoming>) -> (LoggedRequest, Vec<(String, String)>) {
    let path = percent_decode_str(request.uri().path()).decode_utf8_lossy().into_owned();
    let path = path.strip_prefix('/').unwrap_or(&path);
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    let query: Vec<(String, String)> =
        url::form_urlencoded::parse(request.uri().query().unwrap_or("").as_bytes()).into_owned().collect();
    let headers = request.headers();
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let copy = headers.contains_key("x-amz-copy-source");
    let operation = classify(request.method(), bucket, key, |name| query.iter().any(|(k, _)| k == name), copy);
    let shown = query.iter().map(|(k, v)| (k.clone(), if is_secret(k) { String::new() } else { v.clone() })).collect();
    let logged = LoggedRequest {
        operation,
        method: request.method().to_string(),
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        query: shown,
        range: text("range"),
        status: 0,
        bytes_in: text("content-length").and_then(|l| l.parse().ok()).unwrap_or(0),
        bytes_out: 0,
    };
    (logged, query)
}

/// Why this store refuses a request that S3 would carry out.
fn lacks(b: &Behaviour, operation: &str, headers: &HeaderMap) -> Option<&'static str> {
    let has = |name: &str| headers.contains_key(name);
    let any = |prefix: &str| headers.keys().any(|n| n.as_str().starts_with(prefix));
    let conditional = (has("if-match") || has("if-none-match"))
        && matches!(operation, "PutObject" | "CompleteMultipartUpload" | "CopyObject");
    let chunked = ["content-encoding", "x-amz-content-sha256"].iter().any(|n| {
        headers
            .get(*n)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|v| v.contains("aws-chunked") || v.contains("STREAMING"))
    });
    match () {
        () if b.no_copy && operation == "CopyObject" => Some("copy"),
        () if b.no_part_copy && operation == "UploadPartCopy" => Some("copy of parts"),
        () if b.no_tagging && (operation.ends_with("Tagging") || has("x-amz-tagging")) => Some("tagging"),
        () if b.no_acl && (operation.ends_with("Acl") || has("x-amz-acl") || any("x-amz-grant-")) => Some("ACL"),
        () if b.no_conditional_put && conditional => Some("conditional writes"),
        () if b.no_delete_many && operation == "DeleteObjects" => Some("DeleteObjects"),
        () if b.strict && (any("x-amz-checksum-") || has("x-amz-sdk-checksum-algorithm") || has("x-amz-trailer")) => {
            Some("checksum headers")
        }
        () if b.strict && chunked => Some("aws-chunked bodies"),
        () => None,
    }
}

fn error(status: u16, code: &str, message: &str) -> Response<Answer> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    let mut response = Response::new(Answer::whole(text.into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/xml"));
    response
}

/// Reads a request to its end, so that the client is ready to hear the answer.
async fn drain(request: Request<Incoming>) {
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
}

/// One request. An error ends the connection without an answer.
pub(super) async fn serve(
    shared: Arc<Shared>,
    service: S3Service,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, io::Error> {
    let (logged, query) = describe(&request);
    let (operation, key) = (logged.operation, logged.key.clone());
    let progress = shared.log.add(logged);
    let number = shared.requests.fetch_add(1, Ordering::Relaxed);
    let id = format!("{:016X}", (now() << 20) | (number & 0xf_ffff));
    let behaviour = shared.knobs.behaviour();
    if !behaviour.latency.is_zero() {
        tokio::time::sleep(behaviour.latency).await;
    }
    let action = shared.knobs.action(operation, &key);
    let clock = shared.knobs.clock();
    let head = request.method() == Method::HEAD;
    let ranged = request.headers().contains_key("range");
    let mut response = match refuse(&behaviour, operation, &action, clock, &request, &query) {
        Some(Err(e)) => return Err(e),
        Some(Ok(response)) => {
            drain(request).await;
            response
        }
        None => {
            let mut request = request;
            if action == Some(Action::IgnoreRange) {
                request.headers_mut().remove("range");
            }
            let request = match behaviour.bytes_per_second {
                None => request.map(s3s::Body::from),
                Some(_) => request.map(|body| s3s::Body::http_body_unsync(Throttled::new(body, connection.clone()))),
            };
            let answer = service.call(request).await.map_err(|e| io::Error::other(format!("{e:?}")))?;
            finish_answer(answer).await
        }
    };
    match &action {
        Some(Action::CutBeforeAnswer) => return Err(io::Error::other("cut before the answer")),
        Some(Action::Stall(time)) => tokio::time::sleep(*time).await,
        Some(Action::WrongRange) if ranged => shift_range(response.headers_mut()),
        _ => {}
    }
    let date = system_time(now().saturating_add_signed(clock * 1000));
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&super::service::http_date(&date.into())) {
        headers.insert("date", value);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert("x-amz-request-id", value);
    }
    headers.insert("server", HeaderValue::from_static("xosfs-demo"));
    progress.status.store(response.status().as_u16(), Ordering::Relaxed);
    let body = response.body_mut();
    body.progress = Some(progress);
    if behaviour.bytes_per_second.is_some() {
        body.pace = Some(Pace::new(connection));
    }
    if !head {
        match action {
            Some(Action::CutBody(n)) => {
                let n = n.min(body.left().map_or(n, |left| left.saturating_sub(1)));
                body.cut = Some(n);
            }
            Some(Action::StallBody(after, time)) => body.stall = Some((after, time)),
            _ => {}
        }
    }
    Ok(response)
}

/// Answers without the service; `None` lets the request through.
fn refuse(
    b: &Behaviour,
    operation: &str,
    action: &Option<Action>,
    clock: i64,
    request: &Request<Incoming>,
    query: &[(String, String)],
) -> Option<Result<Response<Answer>, io::Error>> {
    match action {
        Some(Action::Status(status, code)) => return Some(Ok(error(*status, code, "Injected"))),
        Some(Action::SlowDown) => return Some(Ok(error(503, "SlowDown", "Please reduce your request rate."))),
        Some(Action::ErrorIn200(code)) => return Some(Ok(error(200, code, "Injected"))),
        Some(Action::Drop) => return Some(Err(io::Error::other("connection dropped"))),
        _ => {}
    }
    let headers = request.headers();
    if let Some(what) = lacks(b, operation, headers) {
        let message =
            format!("A header or operation you provided implies functionality that is not implemented: {what}");
        return Some(Ok(error(501, "NotImplemented", &message)));
    }
    if !signed(headers, query) {
        return None;
    }
    if let Some(expected) = &b.session_token {
        let in_query =
            query.iter().find(|(k, _)| k.eq_ignore_ascii_case("x-amz-security-token")).map(|(_, v)| v.as_str());
        let token = headers.get("x-amz-security-token").and_then(|v| v.to_str().ok()).or(in_query);
        if token != Some(expected) {
            return Some(Ok(error(400, "ExpiredToken", "The provided token has expired.")));
        }
    }
    let date = headers.get("x-amz-date").and_then(|v| v.to_str().ok());
    if headers.contains_key("authorization")
        && let Some(at) = date.and_then(amz_date)
        && (now() as i64 / 1000 + clock - at).abs() > SKEW
    {
        let message = "The difference between the request time and the current time is too large.";
        return Some(Ok(error(403, "RequestTimeTooSkewed", message)));
    }
    None
}

/// `20260131T235959Z` in seconds since the epoch.
fn amz_date(text: &str) -> Option<i64> {
    jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", text)
        .ok()?
        .to_zoned(jiff::tz::TimeZone::UTC)
        .ok()
        .map(|z| z.timestamp().as_second())
}

/// What the service's answer still needs.
async fn finish_answer(answer: s3s::HttpResponse) -> Response<Answer> {
    let (mut parts, body) = answer.into_parts();
    if parts.extensions.remove::<Accepted>().is_some() {
        parts.status = StatusCode::ACCEPTED;
    }
    if parts.status == StatusCode::NOT_MODIFIED {
        return Response::from_parts(parts, Answer::whole(Bytes::new()));
    }
    if let Some(NextMarker(next)) = parts.extensions.remove::<NextMarker>() {
        let bytes = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        let next = next.map(|n| format!("<NextMarker>{}</NextMarker>", n.replace('&', "&amp;").replace('<', "&lt;")));
        if let Some(at) = text.rfind("</ListBucketResult>") {
            text.insert_str(at, &format!("<Marker></Marker>{}", next.unwrap_or_default()));
        }
        parts.headers.remove("content-length");
        return Response::from_parts(parts, Answer::whole(text.into()));
    }
    Response::from_parts(parts, Answer::new(body))
}

/// Moves `Content-Range` one byte on.
fn shift_range(headers: &mut HeaderMap) {
    let shifted = headers.get("content-range").and_then(|v| v.to_str().ok()).and_then(|text| {
        let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        HeaderValue::from_str(&format!("bytes {}-{}/{size}", first + 1, last + 1)).ok()
    });
    if let Some(value) = shifted {
        headers.insert("content-range", value);
    }
}

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
        let rate = self.shared.knobs.with(|b| b.bytes_per_second).filter(|r| *r > 0)?;
        let mut free = self.free.lock();
        *free = (*free).max(Instant::now()) + Duration::from_secs_f64(n as f64 / rate as f64);
        Some(*free)
    }
}

struct Pace {
    connection: Arc<Connection>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    /// Bytes let through at once, so that slow bodies drip instead of coming in bursts.
    const STEP: usize = 16 << 10;

    fn new(connection: Arc<Connection>) -> Self {
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

/// A request body that comes no faster than its connection may.
struct Throttled {
    inner: Incoming,
    pace: Pace,
}

impl Throttled {
    fn new(inner: Incoming, connection: Arc<Connection>) -> Self {
        Throttled { inner, pace: Pace::new(connection) }
    }
}

impl Body for Throttled {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        std::task::ready!(self.pace.poll(cx));
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.pace.book(data.len());
        }
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

/// The body of an answer.
pub(super) struct Answer {
    inner: s3s::Body,
    progress: Option<Arc<Progress>>,
    pace: Option<Pace>,
    /// Bytes after which the connection ends.
    cut: Option<u64>,
    /// Bytes after which nothing comes for a while.
    stall: Option<(u64, Duration)>,
    waiting: Option<Pin<Box<Sleep>>>,
    sent: u64,
    rest: Bytes,
}

impl Answer {
    fn new(inner: s3s::Body) -> Self {
        Answer { inner, progress: None, pace: None, cut: None, stall: None, waiting: None, sent: 0, rest: Bytes::new() }
    }

    fn whole(bytes: Bytes) -> Self {
        Answer::new(s3s::Body::http_body(Full::new(bytes)))
    }

    fn left(&self) -> Option<u64> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_named_as_s3_names_them() {
        let name = |method: Method, path: &str, query: &str, copy: bool| {
            let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
            classify(&method, bucket, key, |n| query.split('&').any(|q| q.split('=').next() == Some(n)), copy)
        };
        assert_eq!(name(Method::GET, "", "", false), "ListBuckets");
        assert_eq!(name(Method::GET, "b", "list-type=2&prefix=acl", false), "ListObjectsV2");
        assert_eq!(name(Method::GET, "b", "uploads", false), "ListMultipartUploads");
        assert_eq!(name(Method::PUT, "b", "versioning", false), "PutBucketVersioning");
        assert_eq!(name(Method::PUT, "b/k", "", true), "CopyObject");
        assert_eq!(name(Method::PUT, "b/k", "partNumber=1&uploadId=x", true), "UploadPartCopy");
        assert_eq!(name(Method::POST, "b/k", "uploadId=x", false), "CompleteMultipartUpload");
        assert_eq!(name(Method::DELETE, "b/k", "uploadId=x", false), "AbortMultipartUpload");
        assert_eq!(name(Method::GET, "b/a/acl", "versionId=1", false), "GetObject");
        assert_eq!(name(Method::DELETE, "b/k", "tagging", false), "DeleteObjectTagging");
    }

    #[test]
    fn signature_times_are_read() {
        assert_eq!(amz_date("20130524T000000Z"), Some(1_369_353_600));
        assert_eq!(amz_date("yesterday"), None);
    }
}

//! The HTTP side around the S3 service: request log, counters, faults, speed limits.
//!
//! 1. Faults must be real ones: a cut body is a connection that ends before `Content-Length`, so they are made
//!    here, in the bodies and in the result of the connection's service, not in the operations.
//! 2. A fault that answers early reads the request's body first; otherwise the client sees a reset, not the answer.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use s3s::service::S3Service;

use super::Shared;
use super::body::{self, Answer, Connection, Pace, Progress, drain};
use super::form::Form;
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
        return match () {
            () if get => "ListBuckets",
            () if post => "AssumeRole",
            () => "Unknown",
        };
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
            ("website", ["GetBucketWebsite", "PutBucketWebsite", "DeleteBucketWebsite"]),
            ("encryption", ["GetBucketEncryption", "PutBucketEncryption", "DeleteBucketEncryption"]),
            ("replication", ["GetBucketReplication", "PutBucketReplication", "DeleteBucketReplication"]),
            ("publicAccessBlock", ["GetPublicAccessBlock", "PutPublicAccessBlock", "DeletePublicAccessBlock"]),
            (
                "ownershipControls",
                ["GetBucketOwnershipControls", "PutBucketOwnershipControls", "DeleteBucketOwnershipControls"],
            ),
            ("object-lock", ["GetObjectLockConfiguration", "PutObjectLockConfiguration", "Unknown"]),
            ("logging", ["GetBucketLogging", "PutBucketLogging", "Unknown"]),
            ("notification", ["GetBucketNotificationConfiguration", "PutBucketNotificationConfiguration", "Unknown"]),
            ("requestPayment", ["GetBucketRequestPayment", "PutBucketRequestPayment", "Unknown"]),
            ("accelerate", ["GetBucketAccelerateConfiguration", "PutBucketAccelerateConfiguration", "Unknown"]),
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
            () if post => "PostObject",
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

fn describe(request: &Request<Incoming>, domain: Option<&str>) -> (LoggedRequest, Vec<(String, String)>) {
    let path = percent_decode_str(request.uri().path()).decode_utf8_lossy().into_owned();
    let path = path.strip_prefix('/').unwrap_or(&path);
    let host = request.headers().get("host").and_then(|h| h.to_str().ok());
    let (bucket, key) = match host.zip(domain).and_then(|(host, domain)| super::bucket_of_host(host, domain)) {
        Some(bucket) => (bucket, path),
        None => path.split_once('/').unwrap_or((path, "")),
    };
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
        () if any("x-amz-server-side-encryption-customer-") => Some("encryption with the client's keys"),
        () if any("x-amz-object-lock-") => Some("object lock"),
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

/// One request. An error ends the connection without an answer.
pub(super) async fn serve(
    shared: Arc<Shared>,
    service: S3Service,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, io::Error> {
    let (logged, query) = describe(&request, shared.domain.as_deref());
    let (operation, key) = (logged.operation, logged.key.clone());
    let progress = shared.log.add(logged);
    let number = shared.requests.fetch_add(1, Ordering::Relaxed);
    let behaviour = shared.knobs.behaviour();
    let id = format!("{}{:016X}", if behaviour.ceph { "tx" } else { "" }, (now() << 20) | (number & 0xf_ffff));
    if !behaviour.latency.is_zero() {
        tokio::time::sleep(behaviour.latency).await;
    }
    let action = shared.knobs.action(operation, &key);
    let clock = shared.knobs.clock();
    let head = request.method() == Method::HEAD;
    let ranged = request.headers().contains_key("range");
    let mut response = match refuse(&shared.users, &behaviour, operation, &action, clock, &request, &query) {
        Some(Err(e)) => return Err(e),
        Some(Ok(response)) => {
            drain(request.into_body()).await;
            response
        }
        None => {
            let mut request = request;
            if action == Some(Action::IgnoreRange) {
                request.headers_mut().remove("range");
            }
            token_to_header(request.headers_mut(), &query);
            let pace = behaviour.bytes_per_second.map(|_| Pace::new(connection.clone()));
            let (mut parts, body) = request.into_parts();
            let (body, unread) = body::Request::new(body, pace);
            let body = if operation == "PostObject" {
                // The S3 crate takes a form whole, too.
                let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
                let kind = parts.headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
                parts.extensions.insert(Form::read(kind, &bytes));
                s3s::Body::from(bytes)
            } else {
                s3s::Body::http_body_unsync(body)
            };
            let request = Request::from_parts(parts, body);
            let answer = service.call(request).await.map_err(|e| io::Error::other(format!("{e:?}")))?;
            let unread = unread.lock().take();
            if let Some(body) = unread {
                drain(body).await;
            }
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

/// A URL presigned with version 2 carries its session token in the query, and signs it as the header it stands for: the
/// S3 crate looks only at headers.
fn token_to_header(headers: &mut HeaderMap, query: &[(String, String)]) {
    let of_query = |name: &str| query.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
    if of_query("AWSAccessKeyId").is_some()
        && let Some(Ok(token)) = of_query("x-amz-security-token").map(HeaderValue::from_str)
    {
        headers.insert("x-amz-security-token", token);
    }
}

/// The access key that a request is signed with.
fn access_key(headers: &HeaderMap, query: &[(String, String)]) -> Option<String> {
    let of_query = |name: &str| query.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
    let scope = match headers.get("authorization").and_then(|v| v.to_str().ok()) {
        Some(value) => match value.strip_prefix("AWS ") {
            Some(v2) => return v2.split(':').next().map(str::to_owned),
            None => value.split("Credential=").nth(1)?,
        },
        None => match of_query("AWSAccessKeyId") {
            Some(key) => return Some(key.to_owned()),
            None => of_query("X-Amz-Credential")?,
        },
    };
    scope.split('/').next().map(str::to_owned)
}

/// Answers without the service; `None` lets the request through.
fn refuse(
    users: &super::acl::Users,
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
    let in_query = query.iter().find(|(k, _)| k.eq_ignore_ascii_case("x-amz-security-token")).map(|(_, v)| v.as_str());
    let token = headers.get("x-amz-security-token").and_then(|v| v.to_str().ok()).or(in_query);
    if access_key(headers, query).is_some_and(|key| !users.token_fits(&key, token)) {
        return Some(Ok(error(400, "InvalidToken", "The provided token is malformed or otherwise not valid.")));
    }
    if b.session_token.as_deref().is_some_and(|expected| token != Some(expected)) {
        return Some(Ok(error(400, "ExpiredToken", "The provided token has expired.")));
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

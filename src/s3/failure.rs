//! What a failed request means: the one table from the store's codes and HTTP statuses to [`Kind`].
//!
//! 1. The code in the document decides first, the status only where there is none: proxies and gateways answer
//!    with statuses that mean something else elsewhere.
//! 2. Every failure that an administrator can repair names the repair.

use std::error::Error as _;
use std::time::{Duration, SystemTime};

use http::HeaderMap;

use super::operation::Op;
use super::request::header;
use super::xml;
use crate::error::{Error, Kind, Reply};

/// Why one attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The store answered with an error.
    Answer(Box<Answered>),
    /// No connection: nothing was sent.
    Connect(Connect, String),
    /// The connection broke after something was sent.
    Lost(String),
    /// No byte moved for too long.
    Stalled(&'static str),
    /// The answer cannot be right.
    Bad(String),
    /// Nothing was tried: the request cannot be built.
    Local(Error),
}

#[derive(Debug, Default)]
pub(super) struct Answered {
    pub status: u16,
    pub code: String,
    pub message: String,
    pub request_id: String,
    /// Where the store says the bucket lives.
    pub region: Option<String>,
    pub endpoint: Option<String>,
    /// The store's clock.
    pub date: Option<SystemTime>,
    pub retry_after: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connect {
    Dns,
    Refused,
    Timeout,
    Certificate,
    /// TLS spoken to a server that does not.
    NotTls,
    Other,
}

/// What the table says of an answer: its meaning, and whether the same request may succeed later.
pub(super) fn meaning(status: u16, code: &str) -> (Kind, bool) {
    let by_code = match code {
        "NoSuchKey" | "NoSuchVersion" | "NoSuchObject" => Some((Kind::NotFound, false)),
        "NoSuchBucket" => Some((Kind::NoBucket, false)),
        "NoSuchUpload" => Some((Kind::Stale, false)),
        "NoSuchTagSet"
        | "NoSuchTagSetError"
        | "NoSuchBucketPolicy"
        | "NoSuchCORSConfiguration"
        | "NoSuchLifecycleConfiguration"
        | "ObjectLockConfigurationNotFoundError"
        | "ServerSideEncryptionConfigurationNotFoundError"
        | "NoSuchEncryptionConfiguration"
        | "NoSuchWebsiteConfiguration"
        | "ReplicationConfigurationNotFoundError"
        | "NoSuchReplicationConfiguration"
        | "NoSuchPublicAccessBlockConfiguration"
        | "OwnershipControlsNotFoundError"
        | "NoSuchConfiguration" => Some((Kind::NoAttribute, false)),
        "AccessDenied"
        | "AccessForbidden"
        | "AllAccessDisabled"
        | "UserSuspended"
        | "AccountProblem"
        | "InArrearOrInsufficientBalance"
        | "NotSignedUp"
        | "InvalidPayer"
        | "RequestPayerDenied"
        | "Unauthorized"
        | "FrozenUserId"
        | "InvalidAccessKeyId"
        | "InvalidClientTokenId"
        | "SignatureDoesNotMatch"
        | "InvalidSecurity"
        | "InvalidToken"
        | "TokenRefreshRequired"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "TooManyWrongSignature"
        | "RequestTimeTooSkewed"
        | "RequestExpired"
        | "AuthorizationHeaderMalformed"
        | "AuthorizationQueryParametersError" => Some((Kind::Denied, false)),
        "InvalidObjectState" => Some((Kind::Archived, false)),
        "RestoreAlreadyInProgress" | "ObjectHasAlreadyRestored" => Some((Kind::InProgress, false)),
        "QuotaExceeded" | "InsufficientStorageSpace" => Some((Kind::Quota, false)),
        "EntityTooLarge" | "MaxMessageLengthExceeded" => Some((Kind::TooLarge, false)),
        "EntityTooSmall" | "InvalidPart" | "InvalidPartOrder" => Some((Kind::Io, false)),
        "KeyTooLong" | "KeyTooLongError" | "InvalidURI" | "InvalidObjectName" => Some((Kind::NameTooLong, false)),
        "MetadataTooLarge" => Some((Kind::TooBig, false)),
        "NotImplemented"
        | "ServiceNotImplemented"
        | "AccessControlListNotSupported"
        | "MethodNotAllowed"
        | "FsNotSupport"
        | "UnsupportedOperation" => Some((Kind::Unsupported, false)),
        "InvalidBucketName"
        | "InvalidArgument"
        | "InvalidRequest"
        | "InvalidTag"
        | "InvalidTagError"
        | "MalformedXML"
        | "MalformedACLError"
        | "MalformedPolicy"
        | "MalformedPolicyDocument"
        | "InvalidPolicyDocument"
        | "PackedPolicyTooLarge"
        | "ValidationError"
        | "IllegalVersioningConfigurationException"
        | "InvalidStorageClass"
        | "InvalidLocationConstraint"
        | "IllegalLocationConstraintException"
        | "VirtualHostDomainRequired" => Some((Kind::Invalid, false)),
        "BadDigest" | "InvalidDigest" | "XAmzContentSHA256Mismatch" => Some((Kind::Io, true)),
        "IncompleteBody" => Some((Kind::Unavailable, true)),
        "RequestTimeout" => Some((Kind::Timeout, true)),
        "PreconditionFailed" => Some((Kind::Conflict, false)),
        "ConditionalRequestConflict" | "OperationAborted" => Some((Kind::Busy, true)),
        "InvalidRange" => Some((Kind::Range, false)),
        "BucketNotEmpty" | "DirectoryNotEmpty" => Some((Kind::NotEmpty, false)),
        "BucketAlreadyExists" | "BucketAlreadyOwnedByYou" => Some((Kind::Exists, false)),
        "PermanentRedirect" | "TemporaryRedirect" | "Redirect" => Some((Kind::Io, false)),
        "TooManyRequests"
        | "SlowDown"
        | "ServiceUnavailable"
        | "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "InternalError"
        | "InternalServerError"
        | "ServerBusy" => Some((Kind::Unavailable, true)),
        _ => None,
    };
    by_code.unwrap_or(match status {
        401 | 403 => (Kind::Denied, false),
        404 | 410 => (Kind::NotFound, false),
        405 | 501 => (Kind::Unsupported, false),
        408 => (Kind::Timeout, true),
        409 => (Kind::Busy, true),
        412 => (Kind::Conflict, false),
        413 => (Kind::TooLarge, false),
        414 => (Kind::NameTooLong, false),
        416 => (Kind::Range, false),
        425 | 429 => (Kind::Unavailable, true),
        507 => (Kind::Quota, false),
        504 => (Kind::Timeout, true),
        500..=599 => (Kind::Unavailable, true),
        400..=499 => (Kind::Invalid, false),
        // A 2xx with an error document of an unknown code, or a redirect.
        _ => (Kind::Io, false),
    })
}

/// Whether the one who asks is known and signed rightly, but not allowed: unlike a wrong key, no reason to give up on
/// everything else.
pub fn is_plain_denial(error: &Error) -> bool {
    error.kind() == Kind::Denied
        && match error.code() {
            "AccessDenied" | "AllAccessDisabled" | "AccessForbidden" => true,
            // A body that says nothing: of 401 and 403, the second one knows who asks.
            "" => error.reply().is_some_and(|r| r.status == 403),
            _ => false,
        }
}

impl Failure {
    /// Reads what reqwest reports, which never names the URL here.
    pub fn of_transport(error: reqwest::Error) -> Failure {
        let error = error.without_url();
        let mut text = String::new();
        let mut source = error.source();
        while let Some(e) = source {
            let part = e.to_string();
            if !text.ends_with(&part) {
                if !text.is_empty() {
                    text.push_str(": ");
                }
                text.push_str(&part);
            }
            source = e.source();
        }
        if text.is_empty() {
            text = error.to_string();
        }
        let low = text.to_ascii_lowercase();
        let has = |parts: &[&str]| parts.iter().any(|p| low.contains(p));
        if !error.is_connect() {
            return Failure::Lost(text);
        }
        let cause = if has(&["dns error", "failed to lookup", "name or service not known"]) {
            Connect::Dns
        } else if has(&["connection refused"]) {
            Connect::Refused
        } else if has(&["corrupt message", "invalidcontenttype", "wrong version"]) {
            Connect::NotTls
        } else if has(&["certificate", "unknownissuer"]) {
            Connect::Certificate
        } else if error.is_timeout() || has(&["timed out", "deadline"]) {
            Connect::Timeout
        } else {
            Connect::Other
        };
        Failure::Connect(cause, text)
    }

    /// Whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Failure::Answer(a) => meaning(a.status, &a.code).1,
            Failure::Connect(Connect::Certificate | Connect::NotTls, _) | Failure::Local(_) => false,
            Failure::Connect(..) | Failure::Lost(_) | Failure::Stalled(_) | Failure::Bad(_) => true,
        }
    }

    /// Whether the store may have done what was asked, although we do not know it.
    pub fn is_uncertain(&self) -> bool {
        match self {
            Failure::Answer(a) => meaning(a.status, &a.code).1,
            Failure::Lost(_) | Failure::Stalled(_) | Failure::Bad(_) => true,
            Failure::Connect(..) | Failure::Local(_) => false,
        }
    }

    /// Whether the store asked to be left alone for a while.
    pub fn is_throttle(&self) -> bool {
        matches!(self, Failure::Answer(a) if a.status == 503 || a.status == 429
            || matches!(a.code.as_str(), "SlowDown" | "TooManyRequests" | "RequestLimitExceeded" | "Throttling"))
    }

    /// The error for the caller. `attempts` counts the requests sent.
    pub fn into_error(self, op: Op, bucket: &str, key: &str, attempts: u32) -> Error {
        let named = |e: Error| if key.is_empty() { e } else { e.with_key(key) };
        let (kind, message, fix) = match self {
            Failure::Local(e) => return named(e),
            Failure::Answer(a) => {
                let (mut kind, _) = meaning(a.status, &a.code);
                // Without a document (HEAD), a missing bucket looks like a missing object.
                if kind == Kind::NotFound && op.is_of_bucket() {
                    kind = Kind::NoBucket;
                }
                let fix = advice(op, bucket, kind, &a);
                let reply =
                    Reply { status: a.status, code: a.code, message: a.message, request_id: a.request_id, attempts };
                let error = named(Error::new(kind, op.phrase()).with_reply(reply));
                return match fix {
                    Some(fix) => error.with_fix(fix),
                    None => error,
                };
            }
            Failure::Connect(cause, text) => {
                let (kind, fix) = match cause {
                    Connect::Dns => (
                        Kind::Unavailable,
                        "no DNS entry for the host: check `endpoint`, or use addressing=path if only BUCKET.HOST lacks one",
                    ),
                    Connect::Refused => (
                        Kind::Unavailable,
                        "nothing listens there: check host and port of `endpoint`, and that the store runs",
                    ),
                    Connect::Timeout => (
                        Kind::Timeout,
                        "no connection in time: check `endpoint`, firewall and route, or raise `connect_timeout`",
                    ),
                    Connect::Certificate => (
                        Kind::Io,
                        "the store's certificate is not trusted: add its CA to the system's certificates, or use the host name in it",
                    ),
                    Connect::NotTls => (Kind::Io, "the endpoint does not speak TLS: write http:// in `endpoint`"),
                    Connect::Other => (Kind::Unavailable, "check `endpoint` and the network"),
                };
                (kind, format!("no connection: {text}"), Some(fix))
            }
            Failure::Lost(text) => {
                let fix = text
                    .contains("HTTP version")
                    .then_some("the endpoint does not speak plain HTTP: write https:// in `endpoint`");
                (Kind::Unavailable, format!("connection lost: {text}"), fix)
            }
            Failure::Stalled(what) => {
                (Kind::Timeout, what.to_owned(), Some("check the network and the store, or raise `read_timeout`"))
            }
            Failure::Bad(text) => (Kind::Io, text, None),
        };
        let reply = Reply { message, attempts, ..Reply::default() };
        let error = named(Error::new(kind, op.phrase()).with_reply(reply));
        match fix {
            Some(fix) => error.with_fix(fix),
            None => error,
        }
    }
}

fn advice(op: Op, bucket: &str, kind: Kind, a: &Answered) -> Option<String> {
    let text = match a.code.as_str() {
        "SignatureDoesNotMatch" => {
            "check the secret key; behind a proxy that rewrites requests or at an old store try signature=v2".into()
        }
        "InvalidAccessKeyId" => {
            "the store does not know this access key: check it, and that `endpoint` is its store".into()
        }
        "ExpiredToken" | "ExpiredTokenException" | "InvalidToken" | "TokenRefreshRequired" => {
            "the temporary credentials are no longer valid: renew them (a credentials file is read again by itself)"
                .into()
        }
        "RequestTimeTooSkewed" | "RequestExpired" => {
            "correct the clock of this machine (timedatectl set-ntp true)".into()
        }
        "TooManyWrongSignature" => {
            "the store blocked this key after wrong signatures: correct the secret key, then wait".into()
        }
        "VirtualHostDomainRequired" => "mount with addressing=virtual".into(),
        "NoSuchBucket" => format!("check the name {bucket:?} and that `endpoint` is its store"),
        "InvalidObjectState" => "the object is archived: restore it first".into(),
        _ if a.region.is_some() && matches!(a.status, 301 | 307 | 400) => {
            format!("the bucket lives elsewhere: set region={}", a.region.as_deref().unwrap_or_default())
        }
        _ if matches!(a.status, 301 | 302 | 303 | 307 | 308) => match &a.endpoint {
            Some(endpoint) => format!("the bucket is served by another host: set endpoint to {endpoint}"),
            None => "the bucket is served by another host or region: check `endpoint` and `region`".into(),
        },
        "AuthorizationHeaderMalformed" | "AuthorizationQueryParametersError" => {
            "set `region` to the one the store uses".into()
        }
        _ if kind == Kind::NoBucket => format!("check the name {bucket:?} and that `endpoint` is its store"),
        _ if kind == Kind::Denied => {
            format!("check the keys, and that they are granted {} on {bucket:?}", op.permission())
        }
        _ if a.status == 400 && a.message.to_ascii_lowercase().contains("https") => {
            "the endpoint does not speak plain HTTP: write https:// in `endpoint`".into()
        }
        _ if a.status == 400 && op == Op::HeadBucket => "check `region`, `addressing` and the bucket's name".into(),
        _ => return None,
    };
    Some(text)
}

/// Whether the request id is one of Ceph's.
pub(super) fn has_ceph_id(headers: &HeaderMap) -> bool {
    let id = header(headers, "x-amz-request-id").unwrap_or_default();
    id.strip_prefix("tx").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_hexdigit()))
}

/// Reads an answer that is an error.
pub(super) fn answered(status: u16, headers: &HeaderMap, body: &[u8]) -> Failure {
    let document = xml::error_document(body);
    let is_document = document.is_some();
    let document = document.unwrap_or_default();
    let message = if is_document {
        document.message
    } else {
        // A proxy's page: its first words tell more than nothing.
        let text: String = String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).take(120).collect();
        text.trim().to_owned()
    };
    let id = header(headers, "x-amz-request-id").or_else(|| header(headers, "x-obs-request-id"));
    Failure::Answer(Box::new(Answered {
        status,
        region: header(headers, "x-amz-bucket-region")
            .or_else(|| header(headers, "x-obs-bucket-location"))
            .map(str::to_owned)
            .or(document.region)
            .or_else(|| region_in_message(&message)),
        code: document.code,
        message,
        request_id: id.map_or(document.request_id, str::to_owned),
        endpoint: document.endpoint,
        date: header(headers, "date").and_then(xml::time),
        retry_after: header(headers, "retry-after").and_then(|v| v.parse().ok()).map(Duration::from_secs),
    }))
}

/// The region that a store asks for in words only.
fn region_in_message(message: &str) -> Option<String> {
    let after = if let Some((_, rest)) = message.split_once("expecting '") {
        rest.split('\'').next()
    } else if let Some((_, rest)) = message.split_once("expected: ") {
        // A scope: DATE/REGION/SERVICE/aws4_request.
        rest.trim_start_matches(['`', '"', '\'']).split('/').nth(1)
    } else {
        None
    };
    after
        .filter(|r| {
            !r.is_empty() && r.len() <= 64 && r.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_decides_before_the_status() {
        for (status, code, kind, transient) in [
            (404, "NoSuchBucket", Kind::NoBucket, false),
            (404, "", Kind::NotFound, false),
            (403, "QuotaExceeded", Kind::Quota, false),
            (403, "InvalidObjectState", Kind::Archived, false),
            (400, "RequestTimeout", Kind::Timeout, true),
            (400, "ExpiredToken", Kind::Denied, false),
            (200, "InternalError", Kind::Unavailable, true),
            (200, "Strange", Kind::Io, false),
            (503, "SlowDown", Kind::Unavailable, true),
            (503, "", Kind::Unavailable, true),
            (412, "PreconditionFailed", Kind::Conflict, false),
            (416, "InvalidRange", Kind::Range, false),
            (501, "", Kind::Unsupported, false),
            (409, "ConditionalRequestConflict", Kind::Busy, true),
            (400, "SomethingNew", Kind::Invalid, false),
        ] {
            assert_eq!(meaning(status, code), (kind, transient), "{status} {code}");
        }
    }

    #[test]
    fn a_plain_denial_knows_who_asks() {
        for (status, code, plain) in [
            (403, "AccessDenied", true),
            (400, "AccessForbidden", true),
            (403, "", true),
            (401, "", false),
            (403, "InvalidAccessKeyId", false),
            (404, "NoSuchBucket", false),
        ] {
            let answer = Answered { status, code: code.into(), ..Answered::default() };
            let error = Failure::Answer(Box::new(answer)).into_error(Op::ListObjects, "b", "", 1);
            assert_eq!(is_plain_denial(&error), plain, "{status} {code}");
        }
        assert!(!is_plain_denial(&Error::new(Kind::Denied, "find credentials")), "no answer of a store");
    }

    #[test]
    fn errors_name_the_repair() {
        let error = |op, status, code: &str| {
            let a = Answered { status, code: code.into(), ..Answered::default() };
            Failure::Answer(Box::new(a)).into_error(op, "b", "k", 1)
        };
        let e = error(Op::PutObject, 403, "AccessDenied");
        assert!(e.to_string().contains("s3:PutObject"), "{e}");
        assert!(error(Op::GetObject, 403, "SignatureDoesNotMatch").to_string().contains("secret key"));
        let e = error(Op::HeadBucket, 404, "");
        assert_eq!(e.kind(), Kind::NoBucket);
        assert!(e.fix().unwrap().contains("\"b\""));
        let e = Failure::Connect(Connect::NotTls, "x".into()).into_error(Op::HeadBucket, "b", "", 1);
        assert!(e.fix().unwrap().contains("http://"));
    }

    #[test]
    fn regions_are_found_in_words() {
        let aws = "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'";
        assert_eq!(region_in_message(aws).as_deref(), Some("eu-west-1"));
        let scope = "Authorization header malformed, unexpected scope: 20260101/x/s3/aws4_request, expected: 20260101/garage/s3/aws4_request";
        assert_eq!(region_in_message(scope).as_deref(), Some("garage"));
        assert_eq!(region_in_message("expecting 'a b'"), None);
        assert_eq!(region_in_message("no"), None);
    }
}

//! What the S3 crate does not route: the token service, and the configuration documents of buckets that are only kept.
//!
//! 1. Requests come here after their signature was checked, so that there is one way to check signatures.
//! 2. A session is a pair of keys with a token and an end; the end holds wherever keys are looked up, in headers, URLs
//!    and forms alike.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use md5::{Digest, Md5};
use s3s::route::S3Route;
use s3s::{Body, S3Request, S3Response, S3Result, s3_error};

use super::acl::Keys;
use super::service::{Service, custom, denied};
use super::store::{now, system_time};
use super::{Shared, bucket_of_host};

/// Largest document or form, in bytes.
const MOST: usize = 64 << 10;
const POLICY_MOST: usize = 2048;

/// A document that is kept as it is sent.
struct Kept {
    /// In the query.
    name: &'static str,
    root: &'static str,
    /// What is answered when there is none: a document, or an error code.
    absent: Result<&'static str, &'static str>,
}

const fn kept(name: &'static str, root: &'static str, absent: Result<&'static str, &'static str>) -> Kept {
    Kept { name, root, absent }
}

const KEPT: [Kept; 10] = [
    kept("website", "WebsiteConfiguration", Err("NoSuchWebsiteConfiguration")),
    kept("encryption", "ServerSideEncryptionConfiguration", Err("ServerSideEncryptionConfigurationNotFoundError")),
    kept("replication", "ReplicationConfiguration", Err("ReplicationConfigurationNotFoundError")),
    kept("publicAccessBlock", "PublicAccessBlockConfiguration", Err("NoSuchPublicAccessBlockConfiguration")),
    kept("ownershipControls", "OwnershipControls", Err("OwnershipControlsNotFoundError")),
    kept("object-lock", "ObjectLockConfiguration", Err("ObjectLockConfigurationNotFoundError")),
    kept("logging", "BucketLoggingStatus", Ok("<BucketLoggingStatus/>")),
    kept("notification", "NotificationConfiguration", Ok("<NotificationConfiguration/>")),
    kept(
        "requestPayment",
        "RequestPaymentConfiguration",
        Ok("<RequestPaymentConfiguration><Payer>BucketOwner</Payer></RequestPaymentConfiguration>"),
    ),
    kept("accelerate", "AccelerateConfiguration", Ok("<AccelerateConfiguration/>")),
];

pub(super) struct Route(pub Arc<Shared>);

impl Route {
    /// Bucket and key of a request; `None` for a name that is no text.
    fn place(&self, uri: &Uri, headers: &HeaderMap) -> Option<(String, String)> {
        let path = percent_encoding::percent_decode_str(uri.path()).decode_utf8().ok()?;
        let path = path.strip_prefix('/').unwrap_or(&path);
        let host = headers.get("host").and_then(|h| h.to_str().ok());
        let bucket = host.zip(self.0.domain.as_deref()).and_then(|(host, domain)| bucket_of_host(host, domain));
        let (bucket, key) = match bucket {
            Some(bucket) => (bucket, path),
            None => path.split_once('/').unwrap_or((path, "")),
        };
        Some((bucket.to_owned(), key.to_owned()))
    }

    fn document(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<(String, &'static Kept)> {
        if ![Method::GET, Method::PUT, Method::DELETE].contains(method) {
            return None;
        }
        let query = uri.query()?;
        let named = |kept: &&Kept| url::form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == kept.name);
        let kept = KEPT.iter().find(named)?;
        let (bucket, key) = self.place(uri, headers)?;
        (key.is_empty() && !bucket.is_empty()).then_some((bucket, kept))
    }

    fn is_form(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
        let form = headers.get("content-type").and_then(|v| v.to_str().ok());
        method == Method::POST
            && form.is_some_and(|f| f.starts_with("application/x-www-form-urlencoded"))
            && self.place(uri, headers).is_some_and(|(bucket, _)| bucket.is_empty())
    }

    async fn keep(&self, bucket: &str, kept: &Kept, req: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let service = Service(self.0.clone());
        let who = service.who(&req.credentials);
        let who = who.as_deref();
        if req.method == Method::GET {
            let text = match (service.document(bucket, who, kept.name)?, kept.absent) {
                (Some(text), _) => text,
                (None, Ok(text)) => text.to_owned(),
                (None, Err(code)) => return Err(custom(code, 404, "The configuration does not exist")),
            };
            return Ok(answer(StatusCode::OK, text));
        }
        if req.method == Method::DELETE {
            service.set_document(bucket, who, kept.name, None)?;
            return Ok(answer(StatusCode::NO_CONTENT, String::new()));
        }
        let sum = req.headers.get("content-md5").and_then(|v| v.to_str().ok()).map(str::to_owned);
        let body = whole(req.input).await?;
        if sum.is_some_and(|sum| BASE64.decode(sum).ok().is_none_or(|sum| sum != Md5::digest(&body)[..])) {
            return Err(s3_error!(BadDigest, "The Content-MD5 you specified did not match what we received."));
        }
        let malformed = || s3_error!(MalformedXML, "The XML you provided was not well-formed");
        let text = String::from_utf8(body.to_vec()).map_err(|_| malformed())?;
        if root(&text).as_deref() != Some(kept.root) {
            return Err(malformed());
        }
        service.set_document(bucket, who, kept.name, Some(text))?;
        Ok(answer(StatusCode::OK, String::new()))
    }

    async fn token_service(&self, req: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let region = self.0.knobs.with(|b| b.sts_region.clone());
        let signed = req.region.as_ref().map(s3s::region::Region::as_str);
        if req.service.as_deref() != Some("sts") || region.is_some_and(|r| signed != Some(r.as_str())) {
            return Ok(refusal(403, "SignatureDoesNotMatch", "The signature is not for this service and region"));
        }
        let who = Service(self.0.clone()).who(&req.credentials).ok_or_else(denied)?;
        let body = whole(req.input).await?;
        // As Ceph: a `+` is a plus.
        let text = String::from_utf8_lossy(&body).replace('+', "%2B");
        let form: Vec<(String, String)> = url::form_urlencoded::parse(text.as_bytes()).into_owned().collect();
        let field = |name: &str| form.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        if field("Action") != Some("AssumeRole") || field("Version") != Some("2011-06-15") {
            return Ok(refusal(400, "InvalidAction", "Only AssumeRole of version 2011-06-15 is known"));
        }
        let (arn, name) = (field("RoleArn").unwrap_or(""), field("RoleSessionName").unwrap_or(""));
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b);
        if !(2..=64).contains(&name.len()) || !name.bytes().all(legal) {
            return Ok(refusal(400, "ValidationError", "RoleSessionName is not valid"));
        }
        let seconds: u64 = field("DurationSeconds").unwrap_or("3600").parse().unwrap_or(0);
        if !(900..=43_200).contains(&seconds) {
            return Ok(refusal(400, "ValidationError", "DurationSeconds must be from 900 to 43200"));
        }
        if let Some(policy) = field("Policy") {
            let document = serde_json::from_str::<serde_json::Value>(policy);
            if policy.len() > POLICY_MOST || !document.is_ok_and(|d| d.get("Statement").is_some()) {
                return Ok(refusal(400, "MalformedPolicyDocument", "The policy is not valid"));
            }
        }
        if !self.0.users.has_role(arn) {
            return Ok(refusal(404, "NoSuchEntity", "The role does not exist"));
        }
        let life = self.0.knobs.with(|b| b.session_lifetime).unwrap_or(Duration::from_secs(seconds));
        let number = self.0.store.next_seq();
        let keys = Keys {
            access_key: format!("XOSFSSESSION{number:X}"),
            secret_key: super::store::hex(&Md5::digest(format!("secret {number} {}", now()))),
            user_id: who,
        };
        let token = format!("{}/{number:x}", super::store::hex(&Md5::digest(format!("token {number} {}", now()))));
        let end = now() + u64::try_from(life.as_millis()).unwrap_or(u64::MAX / 2);
        self.0.users.add_session(keys.clone(), token.clone(), end);
        let expiration = jiff::Timestamp::try_from(system_time(end)).map(|t| t.to_string()).unwrap_or_default();
        let role = arn.rsplit_once("role/").map_or(arn, |(_, name)| name);
        Ok(answer(
            StatusCode::OK,
            format!(
                "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
                 <Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>\
                 <SessionToken>{token}</SessionToken><Expiration>{expiration}</Expiration></Credentials>\
                 <AssumedRoleUser><Arn>arn:aws:sts:::assumed-role/{role}/{name}</Arn></AssumedRoleUser>\
                 </AssumeRoleResult><ResponseMetadata><RequestId>{number:x}</RequestId></ResponseMetadata>\
                 </AssumeRoleResponse>",
                keys.access_key, keys.secret_key
            ),
        ))
    }
}

#[async_trait::async_trait]
impl S3Route for Route {
    fn is_match(&self, method: &Method, uri: &Uri, headers: &HeaderMap, _: &mut http::Extensions) -> bool {
        self.is_form(method, uri, headers) || self.document(method, uri, headers).is_some()
    }

    async fn call(&self, req: S3Request<Body>) -> S3Result<S3Response<Body>> {
        match self.document(&req.method, &req.uri, &req.headers) {
            Some((bucket, kept)) => self.keep(&bucket, kept, req).await,
            None => self.token_service(req).await,
        }
    }
}

async fn whole(body: Body) -> S3Result<Bytes> {
    let collected = Limited::new(body, MOST).collect().await;
    collected.map(|b| b.to_bytes()).map_err(|_| s3_error!(MaxMessageLengthExceeded, "Your request was too large."))
}

/// The local name of the root element of a whole document.
fn root(text: &str) -> Option<String> {
    let mut reader = quick_xml::Reader::from_str(text);
    let mut root = None;
    loop {
        match reader.read_event().ok()? {
            quick_xml::events::Event::Start(e) | quick_xml::events::Event::Empty(e) => {
                root.get_or_insert_with(|| String::from_utf8_lossy(e.local_name().as_ref()).into_owned());
            }
            quick_xml::events::Event::Eof => return root,
            _ => {}
        }
    }
}

fn answer(status: StatusCode, text: String) -> S3Response<Body> {
    let mut response = S3Response::new(Body::from(text));
    response.status = Some(status);
    response.headers.insert("content-type", HeaderValue::from_static("application/xml"));
    response
}

/// As the token service writes errors.
fn refusal(status: u16, code: &str, message: &str) -> S3Response<Body> {
    answer(
        StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST),
        format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
             <Code>{code}</Code><Message>{message}</Message></Error><RequestId>demo</RequestId></ErrorResponse>"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_a_whole_document_is_found() {
        assert_eq!(root("<?xml version='1.0'?>\n<a:B xmlns:a='x'><C/></a:B>").as_deref(), Some("B"));
        assert_eq!(root("<B><C></B>"), None);
        assert_eq!(root("text"), None);
    }
}

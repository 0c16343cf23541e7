//! The HTTP request of one attempt, signed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{HeaderName, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use rusty_s3::Method;

use super::body::{Progress, Upload};
use super::digest::Checksum;
use super::request::Action;
use super::{Place, S3, Signature, address, sign_v2};
use crate::config::credentials::Keys;
use crate::error::{Error, Kind, Result};

/// Lifetime of a signed request in seconds: the store's and our clock may differ by a quarter of an hour, and an
/// attempt may wait in a proxy.
const SIGNED_FOR: u64 = 3600;

/// What an attempt is signed with.
pub(super) struct Signing<'a> {
    pub keys: Option<&'a Keys>,
    /// Of `sign_v2::TABLES`.
    pub table: usize,
    pub checksum: Checksum,
}

impl S3 {
    /// The signed request.
    pub(super) fn build(
        &self,
        action: &Action<'_>,
        signing: &Signing<'_>,
        place: &Place,
        progress: &Arc<Progress>,
    ) -> Result<reqwest::Request> {
        let keys = signing.keys;
        let settings = &self.shared().settings;
        let bucket = if action.in_bucket { self.bucket() } else { "" };
        let mut url = address::url(&place.endpoint, place.in_host && action.in_bucket, bucket, action.key)?;
        let mut query: Vec<(&str, String)> = action.query.iter().map(|(n, v)| (*n, v.clone())).collect();
        query.sort_unstable();
        let mut headers = action.headers.clone();
        headers.extend(action.vouched.header(&action.payload, signing.checksum));
        if settings.requester_pays {
            headers.push(("x-amz-request-payer".into(), "requester".into()));
        }
        let clock = SignedDuration::from_millis(self.shared().clock.load(Ordering::Relaxed));
        let now = Timestamp::now().checked_add(clock).unwrap_or_else(|_| Timestamp::now());
        let signature = if action.native { Signature::V2 } else { settings.signature };
        if let (Some(keys), Signature::V2) = (keys, signature) {
            headers.push(("x-amz-date".into(), now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()));
            if let Some(token) = &keys.token {
                headers.push(("x-amz-security-token".into(), token.clone()));
            }
        }
        if action.native {
            sign_v2::to_native(&mut headers);
        }
        headers.sort_unstable();
        match (keys, signature) {
            (Some(keys), Signature::V4) => {
                let signed = headers.iter().filter(|(n, _)| n.starts_with("x-amz-") || n == "content-md5");
                url = rusty_s3::signing::sign(
                    &now,
                    action.method,
                    url,
                    &keys.access_key,
                    &keys.secret_key,
                    keys.token.as_deref(),
                    &place.region,
                    SIGNED_FOR,
                    query.iter().map(|(n, v)| (*n, v.as_str())),
                    signed.map(|(n, v)| (n.as_str(), v.as_str())),
                );
            }
            (keys, _) => {
                if !query.is_empty() {
                    let text: Vec<_> = query.iter().map(|(n, v)| format!("{n}={}", address::encode(v))).collect();
                    url.set_query(Some(&text.join("&")));
                }
                if let Some(keys) = keys {
                    let request = sign_v2::Request {
                        method: action.method.to_str(),
                        bucket,
                        path: url.path(),
                        path_has_bucket: !place.in_host,
                        query: &query,
                        headers: &headers,
                        table: signing.table,
                        native: action.native,
                    };
                    let value = sign_v2::authorization(&keys.access_key, &keys.secret_key, &request);
                    headers.push(("authorization".into(), value));
                }
            }
        }
        let method = match action.method {
            Method::Head => reqwest::Method::HEAD,
            Method::Get => reqwest::Method::GET,
            Method::Post => reqwest::Method::POST,
            Method::Put => reqwest::Method::PUT,
            Method::Delete => reqwest::Method::DELETE,
        };
        let mut request = reqwest::Request::new(method, url);
        for (name, value) in headers {
            let bad = |_| Error::new(Kind::Invalid, format!("header {name} holds what HTTP cannot carry"));
            let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| bad(()))?;
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad(()))?;
            request.headers_mut().insert(name, value);
        }
        if matches!(action.method, Method::Put | Method::Post) {
            // Without a body no length would be sent at all, which stores refuse.
            let len = HeaderValue::from(action.payload.len());
            request.headers_mut().insert(http::header::CONTENT_LENGTH, len);
            if !action.payload.is_empty() {
                let upload = Upload::new(&action.payload, progress.clone());
                *request.body_mut() = Some(reqwest::Body::wrap(upload));
            }
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::super::operation::Op;
    use super::super::{ETag, Settings};
    use super::*;
    use crate::config::credentials::Credentials;

    fn s3(endpoint: &str, signature: Signature) -> S3 {
        S3::new(Settings {
            endpoint: Some(endpoint.into()),
            bucket: "bucket".into(),
            signature,
            credentials: Credentials::fixed("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", None),
            ..Settings::default()
        })
        .unwrap()
    }

    fn build(s3: &S3, action: &Action<'_>) -> Result<reqwest::Request> {
        let keys = s3.shared().settings.credentials.keys();
        let place = s3.0.place.read().clone();
        let signing = Signing { keys: keys.as_deref(), table: 0, checksum: Checksum::Off };
        s3.build(action, &signing, &place, &Progress::new(true))
    }

    #[test]
    fn the_published_presigned_get() {
        // The vector's own lifetime differs from ours, so the function is called as `build` calls it.
        let url = address::endpoint(Some("https://examplebucket.s3.amazonaws.com"), "").unwrap();
        let url = url.join("/test.txt").unwrap();
        let date: Timestamp = "2013-05-24T00:00:00Z".parse().unwrap();
        let (ak, sk) = ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        let none = std::iter::empty::<(&str, &str)>;
        let signed = rusty_s3::signing::sign(&date, Method::Get, url, ak, sk, None, "us-east-1", 86400, none(), none());
        assert!(signed.as_str().ends_with("aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"));
    }

    #[test]
    fn amz_headers_are_signed_and_sent_and_keys_survive() {
        let s3 = s3("https://s3.example.com", Signature::V4);
        let action = Action::new(Op::PutObject, Method::Put, "a//b c+d%")
            .header("x-amz-meta-b", "2")
            .header("x-amz-acl", "private")
            .header("content-type", "text/plain")
            .header("if-match", ETag::new("e").quoted());
        let request = build(&s3, &action).unwrap();
        assert_eq!(request.url().path(), "/a//b%20c%2Bd%25");
        let query = request.url().query().unwrap();
        assert!(query.contains("X-Amz-SignedHeaders=host%3Bx-amz-acl%3Bx-amz-meta-b&"), "{query}");
        assert_eq!(request.headers()["x-amz-meta-b"], "2");
        assert_eq!(request.headers()["content-length"], "0");
    }

    #[test]
    fn v2_signs_in_the_header() {
        let s3 = s3("https://s3.example.com", Signature::V2);
        let request = build(&s3, &Action::new(Op::GetObjectAcl, Method::Get, "k").query("acl", "")).unwrap();
        assert_eq!(request.url().as_str(), "https://bucket.s3.example.com/k?acl=");
        assert!(request.headers()["authorization"].to_str().unwrap().starts_with("AWS AKIAIOSFODNN7EXAMPLE:"));
    }

    // OBS-ACL-21: whatever the signature of other requests.
    #[test]
    fn a_request_in_the_protocol_of_obs_has_its_names() {
        for signature in [Signature::V4, Signature::V2] {
            let s3 = s3("https://obs.cn-north-4.myhuaweicloud.com", signature);
            let mut action = Action::new(Op::PutBucketAcl, Method::Put, "").query("acl", "");
            action.native = true;
            let request = build(&s3, &action.header("x-amz-acl", "public-read-delivered")).unwrap();
            assert_eq!(request.url().as_str(), "https://bucket.obs.cn-north-4.myhuaweicloud.com/?acl=");
            assert!(request.headers()["authorization"].to_str().unwrap().starts_with("OBS AKIAIOSFODNN7EXAMPLE:"));
            assert_eq!(request.headers()["x-obs-acl"], "public-read-delivered");
            let names: Vec<_> = request.headers().keys().map(|n| n.as_str()).collect();
            assert!(names.contains(&"x-obs-date") && !names.iter().any(|n| n.starts_with("x-amz-")), "{names:?}");
        }
    }

    #[test]
    fn a_line_end_in_a_header_is_refused() {
        let s3 = s3("https://s3.example.com", Signature::V4);
        let action = Action::new(Op::PutObject, Method::Put, "k").header("cache-control", "a\r\nx: y");
        assert_eq!(build(&s3, &action).unwrap_err().kind(), Kind::Invalid);
    }
}

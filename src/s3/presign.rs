//! Presigned URLs: one request that anybody who has the URL may send, until it expires.
//!
//! 1. The URL is a secret: it is handed out by one function, and is in no `Debug`, log line or error.
//! 2. A URL dies with the keys that signed it: temporary ones are told apart, and the end that is reported is the
//!    earlier one.
//! 3. What is signed besides the URL (a content type, say) must be sent exactly so, and is listed for the sender.

use std::fmt;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rusty_s3::Method;
use tokio::time::Instant;

use super::address::{self, encode};
use super::types::Headers;
use super::{S3, Signature, sign_v2};
use crate::error::{Error, Kind, Result};
use crate::key::Key;

/// Longest life of what is signed with version 4.
pub const PRESIGN_MOST: Duration = Duration::from_secs(7 * 24 * 3600);
/// Life when none is asked for.
pub const PRESIGN_DEFAULT: Duration = Duration::from_secs(3600);
const PRESIGN_LEAST: Duration = Duration::from_secs(1);

/// What a presigned URL does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresignMethod {
    Get,
    Head,
    Put,
    Delete,
}

impl PresignMethod {
    /// As HTTP calls it.
    pub fn name(self) -> &'static str {
        self.method().to_str()
    }

    fn method(self) -> Method {
        match self {
            PresignMethod::Get => Method::Get,
            PresignMethod::Head => Method::Head,
            PresignMethod::Put => Method::Put,
            PresignMethod::Delete => Method::Delete,
        }
    }
}

/// What a URL shall be good for.
#[derive(Clone, Debug)]
pub struct Presign {
    pub method: PresignMethod,
    pub key: Key,
    /// From now: 1 s to 7 days; whole seconds.
    pub expires: Duration,
    pub version: Option<String>,
    /// Headers that the store shall answer a GET with instead of the object's; no metadata.
    pub response: Headers,
    /// Headers that the sender must send with these values, names in lower case: `content-type`, `x-amz-acl`, …
    pub headers: Vec<(String, String)>,
}

impl Presign {
    /// For an hour, without anything special.
    pub fn new(method: PresignMethod, key: Key) -> Self {
        Presign {
            method,
            key,
            expires: PRESIGN_DEFAULT,
            version: None,
            response: Headers::default(),
            headers: Vec::new(),
        }
    }
}

/// A URL that is a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Presigned {
    url: String,
    /// To be sent with the request, exactly so.
    pub headers: Vec<(String, String)>,
    /// When it stops working: its own end, or that of the keys it is signed with.
    pub end: SystemTime,
}

impl Presigned {
    /// The secret itself.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl fmt::Debug for Presigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presigned").field("url", &"…").field("headers", &self.headers).field("end", &self.end).finish()
    }
}

/// Checks a life. Errors: [`Kind::Invalid`].
pub(super) fn check_life(life: Duration, signature: Signature) -> Result<()> {
    if life < PRESIGN_LEAST {
        return Err(Error::new(Kind::Invalid, "presign: it must live for at least 1 s"));
    }
    if signature == Signature::V4 && life > PRESIGN_MOST {
        return Err(Error::new(Kind::Invalid, "presign: it can live for 7 days (604800 s) at most")
            .with_fix("take a shorter life; only signature=v2 knows longer ones"));
    }
    Ok(())
}

pub(super) fn no_keys() -> Error {
    Error::new(Kind::Denied, "presign: there are no keys to sign with").with_fix("do not use `anonymous` for this")
}

impl S3 {
    /// Signs a URL. No request is sent, except to fetch keys that expire.
    ///
    /// Errors: [`Kind::Invalid`] for a life that is not possible or a header that HTTP cannot carry, [`Kind::Denied`]
    /// without keys.
    pub async fn presign(&self, what: &Presign) -> Result<Presigned> {
        let settings = &self.shared().settings;
        let keys = self.keys(Instant::now() + settings.op_timeout).await?.ok_or_else(no_keys)?;
        let now = self.store_time();
        let time = Timestamp::try_from(now).map_err(|_| Error::new(Kind::Io, "presign: this machine has no date"))?;
        self.presign_at(what, &keys, time)
    }

    fn presign_at(
        &self,
        what: &Presign,
        keys: &crate::config::credentials::Keys,
        time: Timestamp,
    ) -> Result<Presigned> {
        let settings = &self.shared().settings;
        check_life(what.expires, settings.signature)?;
        if self.bucket().is_empty() {
            return Err(Error::new(Kind::Invalid, "presign: no bucket is named"));
        }
        if !what.response.metadata.is_empty() {
            return Err(Error::new(Kind::Invalid, "presign: an answer cannot be given metadata"));
        }
        let seconds = what.expires.as_secs();
        let place = self.0.place.read().clone();
        let url = address::url(&place.endpoint, place.in_host, self.bucket(), what.key.as_str())?;
        let mut query: Vec<(&str, String)> = Vec::new();
        for (name, value) in [
            ("response-cache-control", &what.response.cache_control),
            ("response-content-disposition", &what.response.content_disposition),
            ("response-content-encoding", &what.response.content_encoding),
            ("response-content-language", &what.response.content_language),
            ("response-content-type", &what.response.content_type),
            ("response-expires", &what.response.expires),
            ("versionId", &what.version),
        ] {
            if let Some(value) = value {
                query.push((name, value.clone()));
            }
        }
        let mut headers = what.headers.clone();
        if settings.requester_pays {
            headers.push(("x-amz-request-payer".into(), "requester".into()));
        }
        headers.sort_unstable();
        for (name, value) in &headers {
            let lower = http::HeaderName::from_lowercase(name.as_bytes()).is_ok();
            if !lower || http::HeaderValue::from_str(value).is_err() || value.trim() != value {
                return Err(Error::new(
                    Kind::Invalid,
                    format!("presign: header {name:?} holds what HTTP cannot carry"),
                ));
            }
        }
        let url = match settings.signature {
            Signature::V4 => {
                let url = rusty_s3::signing::sign(
                    &time,
                    what.method.method(),
                    url,
                    &keys.access_key,
                    &keys.secret_key,
                    keys.token.as_deref(),
                    &place.region,
                    seconds,
                    query.iter().map(|(n, v)| (*n, v.as_str())),
                    headers.iter().map(|(n, v)| (n.as_str(), v.as_str())),
                );
                url.to_string()
            }
            Signature::V2 => {
                let until = (time.as_second() + i64::try_from(seconds).unwrap_or(i64::MAX / 2)).to_string();
                let mut signed = headers.clone();
                signed.push(("date".into(), until.clone()));
                if let Some(token) = &keys.token {
                    signed.push(("x-amz-security-token".into(), token.clone()));
                }
                let request = sign_v2::Request {
                    method: what.method.name(),
                    bucket: self.bucket(),
                    path: url.path(),
                    path_has_bucket: !place.in_host,
                    query: &query,
                    headers: &signed,
                    table: self.learned().signed_names.load(std::sync::atomic::Ordering::Relaxed),
                    native: false,
                };
                let signature = sign_v2::presigned(&keys.secret_key, &request);
                query.push(("AWSAccessKeyId", keys.access_key.clone()));
                query.push(("Expires", until));
                query.push(("Signature", signature));
                if let Some(token) = &keys.token {
                    query.push(("x-amz-security-token", token.clone()));
                }
                let text: Vec<_> = query.iter().map(|(n, v)| format!("{n}={}", encode(v))).collect();
                format!("{url}?{}", text.join("&"))
            }
        };
        let end = SystemTime::now() + Duration::from_secs(seconds);
        Ok(Presigned { url, headers, end: settings.credentials.end().map_or(end, |keys| keys.min(end)) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Addressing, Settings};
    use super::*;
    use crate::config::credentials::{Credentials, Keys};

    fn keys(token: Option<&str>) -> Keys {
        Keys {
            access_key: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            token: token.map(str::to_owned),
        }
    }

    fn s3(endpoint: &str, bucket: &str, signature: Signature, addressing: Addressing) -> S3 {
        S3::new(Settings {
            endpoint: Some(endpoint.into()),
            bucket: bucket.into(),
            signature,
            addressing,
            credentials: Credentials::fixed("a", "b", None),
            ..Settings::default()
        })
        .unwrap()
    }

    fn get(key: &str, seconds: u64) -> Presign {
        let expires = Duration::from_secs(seconds);
        Presign { expires, ..Presign::new(PresignMethod::Get, Key::new(key).unwrap()) }
    }

    #[test]
    fn the_published_urls() {
        let s3v4 = s3("https://s3.amazonaws.com", "examplebucket", Signature::V4, Addressing::Virtual);
        let time = "2013-05-24T00:00:00Z".parse().unwrap();
        let url = s3v4.presign_at(&get("test.txt", 86400), &keys(None), time).unwrap();
        assert!(url.url().ends_with("aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"));
        let s3v2 = s3("https://s3.amazonaws.com", "johnsmith", Signature::V2, Addressing::Virtual);
        let time = Timestamp::from_second(1_175_139_620 - 60).unwrap();
        let url = s3v2.presign_at(&get("photos/puppy.jpg", 60), &keys(None), time).unwrap();
        assert_eq!(
            url.url(),
            "https://johnsmith.s3.amazonaws.com/photos/puppy.jpg?AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE\
             &Expires=1175139620&Signature=NpgCjnDzrM%2BWFzoENXmpNDUsSn8%3D"
        );
    }

    #[test]
    fn versions_overrides_tokens_and_headers_are_in_it() {
        let mut what = get("a b", 900);
        what.version = Some("v+1".into());
        what.response.content_disposition = Some("attachment; filename=\"x y\"".into());
        what.headers = vec![("content-type".into(), "text/plain".into())];
        let time = Timestamp::UNIX_EPOCH;
        let url = |signature| {
            let s3 = s3("http://127.0.0.1:9000", "b", signature, Addressing::Path);
            let made = s3.presign_at(&what, &keys(Some("to/ken")), time).unwrap();
            assert_eq!(made.headers, what.headers);
            assert!(!format!("{made:?}").contains("http"), "{made:?}");
            made.url().to_owned()
        };
        let (v4, v2) = (url(Signature::V4), url(Signature::V2));
        for url in [&v4, &v2] {
            assert!(url.starts_with("http://127.0.0.1:9000/b/a%20b?"), "{url}");
            assert!(url.contains("versionId=v%2B1") && url.contains("filename%3D%22x%20y%22"), "{url}");
        }
        assert!(v4.contains("X-Amz-Security-Token=to%2Fken"), "{v4}");
        assert!(v4.contains("SignedHeaders=content-type%3Bhost"), "{v4}");
        assert!(v2.contains("x-amz-security-token=to%2Fken") && v2.contains("Expires=900"), "{v2}");
    }

    // XOS-URL-01
    #[tokio::test]
    async fn lives_are_bounded() {
        let presign = |signature, seconds| async move {
            let s3 = s3("https://s3.example.com", "bucket", signature, Addressing::Auto);
            s3.presign(&get("k", seconds)).await.map(|p| p.end)
        };
        assert_eq!(presign(Signature::V4, 0).await.unwrap_err().kind(), Kind::Invalid);
        assert_eq!(presign(Signature::V4, 604_801).await.unwrap_err().kind(), Kind::Invalid);
        presign(Signature::V4, 604_800).await.unwrap();
        presign(Signature::V4, 1).await.unwrap();
        presign(Signature::V2, 604_801).await.unwrap();
        assert_eq!(PRESIGN_DEFAULT.as_secs(), 3600);
    }

    #[tokio::test]
    async fn nothing_is_signed_without_keys_or_with_bad_headers() {
        let anonymous = S3::new(Settings { bucket: "bucket".into(), ..Settings::default() }).unwrap();
        assert_eq!(anonymous.presign(&get("k", 1)).await.unwrap_err().kind(), Kind::Denied);
        let s3 = s3("https://s3.example.com", "bucket", Signature::V4, Addressing::Auto);
        for header in [("Content-Type", "a"), ("x-amz-acl", "a\nb"), ("x y", "a")] {
            let mut what = get("k", 1);
            what.headers = vec![(header.0.into(), header.1.into())];
            assert_eq!(s3.presign(&what).await.unwrap_err().kind(), Kind::Invalid, "{header:?}");
        }
    }
}

//! Forms for browsers: a signed policy that lets anybody upload what it allows.
//!
//! 1. A store refuses a field that the policy does not cover: every field that is given becomes a condition.
//! 2. The order counts: the file is the last field, and what comes after it is ignored.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::presign::{PRESIGN_DEFAULT, check_life, no_keys};
use super::{S3, Signature, address, sign_v2, sign_v4, xml};
use crate::config::credentials::Keys;
use crate::error::{Error, Kind, Result};
use crate::key::Key;

/// What the uploaded object is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostKey {
    Exact(Key),
    /// Anything that begins so; the form takes the name of the chosen file.
    Prefix(String),
}

/// What must hold of an upload, besides the fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostCondition {
    /// The field has this value.
    Equals(String, String),
    /// The field begins so; "" allows anything.
    StartsWith(String, String),
    /// Bytes of the file.
    Length(RangeInclusive<u64>),
}

/// What a form shall be good for.
#[derive(Clone, Debug)]
pub struct Post {
    pub key: PostKey,
    /// From now: 1 s to 7 days; whole seconds.
    pub expires: Duration,
    /// Inputs with fixed values: `acl`, `Content-Type`, `success_action_status`, `x-amz-meta-…`, …
    pub fields: Vec<(String, String)>,
    pub conditions: Vec<PostCondition>,
}

impl Post {
    /// For an hour, without limits.
    pub fn new(key: PostKey) -> Self {
        Post { key, expires: PRESIGN_DEFAULT, fields: Vec::new(), conditions: Vec::new() }
    }
}

/// A form with its signature, which is a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct PresignedPost {
    /// Where it is sent to; no secret.
    pub url: String,
    fields: Vec<(String, String)>,
    /// When it stops working: its own end, or that of the keys it is signed with.
    pub end: SystemTime,
}

impl fmt::Debug for PresignedPost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.fields.iter().map(|(n, _)| n).collect();
        f.debug_struct("PresignedPost").field("url", &self.url).field("fields", &names).field("end", &self.end).finish()
    }
}

impl PresignedPost {
    /// The inputs of the form in order, the file to follow: the secret itself.
    pub fn fields(&self) -> &[(String, String)] {
        &self.fields
    }

    /// `{"url": …, "fields": {…}}`.
    pub fn json(&self) -> Value {
        let fields: serde_json::Map<_, _> = self.fields.iter().map(|(n, v)| (n.clone(), v.clone().into())).collect();
        json!({ "url": self.url, "fields": fields })
    }

    /// A page with the form.
    pub fn html(&self) -> String {
        let escaped = |text: &str| {
            let mut out = String::new();
            xml::escape(text, &mut out);
            out
        };
        let mut page = format!(
            "<!DOCTYPE html>\n<html>\n<head><meta charset=\"utf-8\"><title>Upload</title></head>\n<body>\n\
             <form action=\"{}\" method=\"post\" enctype=\"multipart/form-data\">\n",
            escaped(&self.url)
        );
        for (name, value) in &self.fields {
            page.push_str(&format!(
                "  <input type=\"hidden\" name=\"{}\" value=\"{}\">\n",
                escaped(name),
                escaped(value)
            ));
        }
        page.push_str(
            "  <input type=\"file\" name=\"file\">\n  <input type=\"submit\" value=\"Upload\">\n</form>\n</body>\n</html>\n",
        );
        page
    }
}

fn condition(condition: &PostCondition) -> Value {
    match condition {
        PostCondition::Equals(field, value) => json!(["eq", format!("${field}"), value]),
        PostCondition::StartsWith(field, value) => json!(["starts-with", format!("${field}"), value]),
        PostCondition::Length(range) => json!(["content-length-range", range.start(), range.end()]),
    }
}

impl S3 {
    /// Signs a form. No request is sent, except to fetch keys that expire.
    ///
    /// Errors: as [`S3::presign`]; [`Kind::Invalid`] for a field that the signature sets itself or that is there
    /// twice.
    pub async fn presign_post(&self, post: &Post) -> Result<PresignedPost> {
        let settings = &self.shared().settings;
        let keys = self.keys(Instant::now() + settings.op_timeout).await?.ok_or_else(no_keys)?;
        let time = Timestamp::try_from(self.store_time())
            .map_err(|_| Error::new(Kind::Io, "presign: this machine has no date"))?;
        self.post_at(post, &keys, time)
    }

    fn post_at(&self, post: &Post, keys: &Keys, time: Timestamp) -> Result<PresignedPost> {
        let settings = &self.shared().settings;
        // No store takes a policy for longer under either signature.
        check_life(post.expires, Signature::V4)?;
        if self.bucket().is_empty() {
            return Err(Error::new(Kind::Invalid, "presign: no bucket is named"));
        }
        let seconds = post.expires.as_secs();
        let end = time
            .checked_add(jiff::SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(0)))
            .map_err(|_| Error::new(Kind::Invalid, "presign: the end is beyond all time"))?;
        let place = self.0.place.read().clone();
        let url = address::url(&place.endpoint, place.in_host, self.bucket(), "")?.to_string();

        let (key, rule) = match &post.key {
            PostKey::Exact(key) => (key.to_string(), json!({ "key": key.as_str() })),
            PostKey::Prefix(prefix) => (format!("{prefix}${{filename}}"), json!(["starts-with", "$key", prefix])),
        };
        let mut fields = vec![("key".to_owned(), key)];
        let mut conditions = vec![json!({ "bucket": self.bucket() }), rule];
        for (i, (name, value)) in post.fields.iter().enumerate() {
            let lower = name.to_ascii_lowercase();
            let ours = ["key", "bucket", "policy", "file", "signature", "awsaccesskeyid"].contains(&lower.as_str())
                || ["x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature", "x-amz-security-token"]
                    .contains(&lower.as_str());
            let twice = post.fields[..i].iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
            if ours || twice || lower.is_empty() {
                return Err(Error::new(Kind::Invalid, format!("presign: field {name:?} cannot be set here")));
            }
            fields.push((name.clone(), value.clone()));
            conditions.push(json!({ name.as_str(): value }));
        }
        conditions.extend(post.conditions.iter().map(condition));

        let scope = sign_v4::Scope { time, region: &place.region, service: "s3" };
        let mut signed: Vec<(String, String)> = Vec::new();
        if settings.signature == Signature::V4 {
            signed.push(("x-amz-algorithm".into(), "AWS4-HMAC-SHA256".into()));
            signed.push(("x-amz-credential".into(), scope.credential(&keys.access_key)));
            signed.push(("x-amz-date".into(), scope.time()));
        }
        if let Some(token) = &keys.token {
            signed.push(("x-amz-security-token".into(), token.clone()));
        }
        conditions.extend(signed.iter().map(|(n, v)| json!({ n.as_str(): v })));
        fields.extend(signed);
        let expiration = end.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string();
        let policy = STANDARD.encode(json!({ "expiration": expiration, "conditions": conditions }).to_string());
        match settings.signature {
            Signature::V4 => {
                let signature = sign_v4::signature(&keys.secret_key, &scope, &policy);
                fields.push(("policy".into(), policy));
                fields.push(("x-amz-signature".into(), signature));
            }
            Signature::V2 => {
                let signature = sign_v2::signature(&keys.secret_key, &policy);
                fields.push(("AWSAccessKeyId".into(), keys.access_key.clone()));
                fields.push(("policy".into(), policy));
                fields.push(("signature".into(), signature));
            }
        }
        let end = SystemTime::now() + Duration::from_secs(seconds);
        Ok(PresignedPost { url, fields, end: settings.credentials.end().map_or(end, |keys| keys.min(end)) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;
    use crate::config::credentials::Credentials;

    fn made(signature: Signature, post: &Post) -> Result<PresignedPost> {
        let s3 = S3::new(Settings {
            endpoint: Some("https://gdoss.xstore.ctyun.cn".into()),
            bucket: "bucket".into(),
            region: "cn".into(),
            signature,
            credentials: Credentials::fixed("a", "b", None),
            ..Settings::default()
        })
        .unwrap();
        let keys = Keys { access_key: "ak".into(), secret_key: "sk".into(), token: Some("geheim".into()) };
        s3.post_at(post, &keys, "2026-01-01T00:00:00Z".parse().unwrap())
    }

    fn field<'a>(post: &'a PresignedPost, name: &str) -> &'a str {
        &post.fields().iter().find(|(n, _)| n == name).unwrap().1
    }

    // XOS-PST-01, XOS-PST-02, XOS-PST-03, XOS-PST-05
    #[test]
    fn a_form_covers_each_of_its_fields() {
        let post = Post {
            fields: vec![("acl".into(), "public-read".into()), ("Content-Type".into(), "text/\"a\"".into())],
            conditions: vec![
                PostCondition::Length(1..=1024),
                PostCondition::StartsWith("x-amz-meta-a".into(), "".into()),
            ],
            ..Post::new(PostKey::Prefix("up/".into()))
        };
        let made = made(Signature::V4, &post).unwrap();
        assert_eq!(made.url, "https://bucket.gdoss.xstore.ctyun.cn/");
        let policy: Value = serde_json::from_slice(&STANDARD.decode(field(&made, "policy")).unwrap()).unwrap();
        assert_eq!(
            policy,
            json!({"expiration": "2026-01-01T01:00:00.000Z", "conditions": [
                {"bucket": "bucket"}, ["starts-with", "$key", "up/"], {"acl": "public-read"},
                {"Content-Type": "text/\"a\""}, ["content-length-range", 1, 1024],
                ["starts-with", "$x-amz-meta-a", ""], {"x-amz-algorithm": "AWS4-HMAC-SHA256"},
                {"x-amz-credential": "ak/20260101/cn/s3/aws4_request"}, {"x-amz-date": "20260101T000000Z"},
                {"x-amz-security-token": "geheim"}]})
        );
        assert_eq!(field(&made, "key"), "up/${filename}");
        assert_eq!(field(&made, "x-amz-signature").len(), 64);
        let html = made.html();
        let (file, last) = (html.find("name=\"file\"").unwrap(), html.rfind("type=\"hidden\"").unwrap());
        assert!(file > last && html.contains("text/&quot;a&quot;") && html.contains("multipart/form-data"));
        assert_eq!(made.json()["fields"]["acl"], "public-read");
        assert!(!format!("{made:?}").contains("geheim"), "{made:?}");
    }

    // XOS-PST-04
    #[test]
    fn the_old_signature_has_its_own_fields() {
        let made = made(Signature::V2, &Post::new(PostKey::Exact(Key::new("k").unwrap()))).unwrap();
        let names: Vec<_> = made.fields().iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names, ["key", "x-amz-security-token", "AWSAccessKeyId", "policy", "signature"]);
    }

    #[test]
    fn fields_that_are_ours_or_doubled_are_refused() {
        let with = |names: &[&str]| Post {
            fields: names.iter().map(|n| ((*n).to_owned(), "v".to_owned())).collect(),
            ..Post::new(PostKey::Prefix(String::new()))
        };
        for names in [&["Policy"][..], &["x-amz-date"], &["acl", "ACL"], &["file"], &[""]] {
            assert_eq!(made(Signature::V4, &with(names)).unwrap_err().kind(), Kind::Invalid, "{names:?}");
        }
    }
}

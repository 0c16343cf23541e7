//! From endpoint, bucket and key to the URL that is signed and sent.
//!
//! 1. Keys are sent exactly as signed: every byte except `A-Za-z0-9-._~` and `/` is percent-encoded here, so that no
//!    URL parser finds anything left to normalise.
//! 2. Bucket in the host or in the path: stores disagree, and a wildcard certificate matches one label only.
//! 3. Without an endpoint the host follows the region, which may be learnt from an answer.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::{Host, Url};

use crate::error::{Error, Kind, Result};

/// Everything but unreserved characters.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same for paths.
const ENCODED_PATH: &AsciiSet = &ENCODED.remove(b'/');

/// Where the bucket's name goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addressing {
    /// In the path when the host is an address, `localhost` or a bare name, or when the bucket is no DNS label (or
    /// holds a dot under https); else in the host. Falls back to the path when that host has no DNS entry.
    #[default]
    Auto,
    /// `https://HOST/BUCKET/KEY`.
    Path,
    /// `https://BUCKET.HOST/KEY`.
    Virtual,
}

pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

pub(super) fn encode_path(text: &str) -> String {
    utf8_percent_encode(text, ENCODED_PATH).to_string()
}

/// Reads the endpoint; `None` is AWS, by region.
///
/// Errors: [`Kind::Invalid`] without a scheme, with a query, or with user and password in it.
pub(super) fn endpoint(text: Option<&str>, region: &str) -> Result<Url> {
    let text = match text {
        Some(text) => text.trim().to_owned(),
        None if region.ends_with('-') || region.is_empty() || !is_host_label(region) => {
            return Err(Error::new(Kind::Invalid, format!("region {region:?} is no region of AWS"))
                .with_fix("set `endpoint` for a store outside AWS"));
        }
        None if region.starts_with("cn-") => format!("https://s3.{region}.amazonaws.com.cn"),
        None => format!("https://s3.{region}.amazonaws.com"),
    };
    let bad = |why: &str, fix: String| Error::new(Kind::Invalid, format!("endpoint {why}")).with_fix(fix);
    if !text.starts_with("http://") && !text.starts_with("https://") {
        return Err(bad("without http:// or https://", format!("write endpoint=https://{text} (or http://)")));
    }
    let url = Url::parse(&text).map_err(|e| bad(&format!("is no URL ({e})"), "correct `endpoint`".into()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("holds user or password", "put keys into the environment or a credentials file".into()));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("holds a query", "write only scheme, host, port and path".into()));
    }
    Ok(url)
}

fn is_host_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Whether the bucket's name goes into the host.
pub(super) fn is_virtual(addressing: Addressing, endpoint: &Url, bucket: &str) -> bool {
    let dns = bucket.len() >= 3 && bucket.len() <= 63 && bucket.split('.').all(is_host_label);
    match addressing {
        Addressing::Path => false,
        Addressing::Virtual => true,
        Addressing::Auto => {
            let host_allows = match endpoint.host() {
                Some(Host::Domain(name)) => name != "localhost" && !name.ends_with(".localhost") && name.contains('.'),
                _ => false,
            };
            host_allows && dns && !(endpoint.scheme() == "https" && bucket.contains('.'))
        }
    }
}

/// The URL of a key, of the bucket (`key` "") or of the service (`bucket` "").
///
/// Errors: [`Kind::Invalid`] when the bucket's name cannot be part of a host.
pub(super) fn url(endpoint: &Url, in_host: bool, bucket: &str, key: &str) -> Result<Url> {
    let mut url = endpoint.clone();
    let base = endpoint.path().trim_end_matches('/');
    let key = encode_path(key);
    let path = if bucket.is_empty() {
        format!("{base}/")
    } else if in_host {
        let host = format!("{bucket}.{}", endpoint.host_str().unwrap_or_default());
        let fits = bucket.split('.').all(|l| is_host_label(&l.to_ascii_lowercase()));
        if !fits || url.set_host(Some(&host)).is_err() {
            return Err(Error::new(Kind::Invalid, format!("bucket {bucket:?} cannot be part of a host name"))
                .with_fix("mount with addressing=path"));
        }
        format!("{base}/{key}")
    } else if key.is_empty() {
        format!("{base}/{}", encode(bucket))
    } else {
        format!("{base}/{}/{key}", encode(bucket))
    };
    url.set_path(&path);
    // A path that the parser changed would be signed for one object and sent for another.
    if url.path() != path {
        return Err(Error::new(Kind::BadName, "this key cannot be put into a URL"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(endpoint_text: &str, bucket: &str, key: &str) -> String {
        let e = endpoint(Some(endpoint_text), "us-east-1").unwrap();
        url(&e, is_virtual(Addressing::Auto, &e, bucket), bucket, key).unwrap().to_string()
    }

    #[test]
    fn keys_are_sent_byte_exactly() {
        for (key, path) in [
            ("a//b", "a//b"),
            ("/abs", "/abs"),
            ("dir/", "dir/"),
            ("a b+c%2F?#&=", "a%20b%2Bc%252F%3F%23%26%3D"),
            ("é漢😀", "%C3%A9%E6%BC%A2%F0%9F%98%80"),
            ("e\u{301}", "e%CC%81"),
            ("\n\t\u{1}\u{7f}\\", "%0A%09%01%7F%5C"),
            ("<>&\"'*:|[]{}^`~!$(),;@", "%3C%3E%26%22%27%2A%3A%7C%5B%5D%7B%7D%5E%60~%21%24%28%29%2C%3B%40"),
            ("%2e%2e/x", "%252e%252e/x"),
            ("...", "..."),
        ] {
            assert_eq!(at("http://127.0.0.1:9000", "b", key), format!("http://127.0.0.1:9000/b/{path}"), "{key:?}");
        }
    }

    #[test]
    fn dot_components_are_refused_not_resolved() {
        let e = endpoint(Some("http://127.0.0.1"), "").unwrap();
        assert_eq!(url(&e, false, "b", "a/../c").unwrap_err().kind(), Kind::BadName);
    }

    #[test]
    fn the_bucket_goes_where_the_store_expects_it() {
        assert_eq!(at("https://s3.example.com", "bucket", "k"), "https://bucket.s3.example.com/k");
        assert_eq!(at("https://s3.example.com", "my.bucket", "k"), "https://s3.example.com/my.bucket/k");
        assert_eq!(at("http://s3.example.com", "my.bucket", "k"), "http://my.bucket.s3.example.com/k");
        assert_eq!(at("http://localhost:7480", "bucket", ""), "http://localhost:7480/bucket");
        assert_eq!(at("http://[::1]:7480/", "bucket", "k"), "http://[::1]:7480/bucket/k");
        assert_eq!(at("http://ceph:80/s3/", "bucket", "k"), "http://ceph/s3/bucket/k");
        assert_eq!(at("https://s3.example.com", "Up_per", "k"), "https://s3.example.com/Up_per/k");
        assert_eq!(at("https://s3.example.com", "", ""), "https://s3.example.com/");
        let e = endpoint(None, "eu-west-1").unwrap();
        assert_eq!(url(&e, true, "bucket", "").unwrap().as_str(), "https://bucket.s3.eu-west-1.amazonaws.com/");
        assert_eq!(url(&e, true, "b/x", "").unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn endpoints_need_a_scheme_and_hold_no_secret() {
        for bad in ["s3.example.com", "ftp://x", "https://u:p@x", "https://x/?a=b", "https://"] {
            let e = endpoint(Some(bad), "r").unwrap_err();
            assert_eq!(e.kind(), Kind::Invalid);
            assert!(!e.to_string().contains("u:p"), "{e}");
        }
        assert!(endpoint(None, "a.evil.com/").is_err());
    }
}

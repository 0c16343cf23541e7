//! What is mounted: a bucket, or the part of it below a prefix.

use std::fmt;
use std::str::FromStr;

use crate::key::Prefix;

/// A bucket and the prefix inside it that becomes the root of the mount; or every bucket.
///
/// Read from `BUCKET`, `BUCKET:/PREFIX` or `s3://BUCKET/PREFIX`; shown as `BUCKET` or `BUCKET:/PREFIX`, which is
/// also the source in `/proc/mounts`. Every bucket is `s3://`, read and shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Empty: every bucket of the credentials is a directory.
    pub bucket: String,
    pub prefix: Prefix,
}

const FORMS: &str = "write BUCKET, BUCKET:/PREFIX or s3://BUCKET/PREFIX";
/// How every bucket is written.
pub const ALL_BUCKETS: &str = "s3://";

impl Source {
    pub fn all_buckets() -> Source {
        Source { bucket: String::new(), prefix: Prefix::root() }
    }

    pub fn is_all_buckets(&self) -> bool {
        self.bucket.is_empty()
    }
}

/// Whether a bucket may be called so. Wider than AWS allows today: old buckets and other stores have upper case, `_`
/// and up to 255 bytes.
pub fn is_bucket_name(name: &str) -> bool {
    name.len() <= 255
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == ALL_BUCKETS {
            return Ok(Source::all_buckets());
        }
        let (bucket, prefix) = if let Some(rest) = text.strip_prefix("s3://") {
            rest.split_once('/').unwrap_or((rest, ""))
        } else if text.contains("://") {
            return Err(format!(
                "source {text:?} is a URL of the endpoint, not of a bucket; {FORMS}, and -o endpoint=URL"
            ));
        } else {
            match text.split_once(':') {
                Some((bucket, prefix)) if prefix.starts_with('/') || prefix.is_empty() => (bucket, prefix),
                Some(_) => return Err(format!("source {text:?}: a prefix starts with `/`; {FORMS}")),
                None if text.contains('/') => {
                    let (bucket, prefix) = text.split_once('/').unwrap_or((text, ""));
                    return Err(format!("source {text:?}: did you mean {bucket}:/{prefix}? {FORMS}"));
                }
                None => (text, ""),
            }
        };
        if bucket.is_empty() {
            return Err(format!("source {text:?} names no bucket; {FORMS}"));
        }
        if !is_bucket_name(bucket) {
            return Err(format!("bucket name {bucket:?} is not possible: letters, digits, `.`, `-` and `_` only"));
        }
        let prefix = Prefix::new(prefix).map_err(|e| format!("source {text:?}: {e}"))?;
        Ok(Source { bucket: bucket.to_owned(), prefix })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all_buckets() {
            return f.write_str(ALL_BUCKETS);
        }
        f.write_str(&self.bucket)?;
        if !self.prefix.is_root() {
            let text = self.prefix.as_str();
            write!(f, ":/{}", text.strip_suffix('/').unwrap_or(text))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_source_is_one_thing() {
        for (text, shown) in [
            ("b-1.x", "b-1.x"),
            ("b:", "b"),
            ("b:/", "b"),
            ("s3://b", "b"),
            ("s3://b/", "b"),
            ("b:/p/q", "b:/p/q"),
            ("b:/p/q/", "b:/p/q"),
            ("s3://b/p/q", "b:/p/q"),
            ("b:/p q,é", "b:/p q,é"),
            ("s3://", "s3://"),
        ] {
            let source: Source = text.parse().unwrap();
            assert_eq!(source.to_string(), shown, "{text}");
            assert_eq!(shown.parse::<Source>().unwrap(), source, "{text}");
        }
    }

    #[test]
    fn impossible_sources_say_what_to_write() {
        for (text, part) in [
            ("", "names no bucket"),
            ("s3:///x", "names no bucket"),
            ("s3:///", "names no bucket"),
            (":/p", "names no bucket"),
            ("b/p", "did you mean b:/p?"),
            ("b:p", "starts with `/`"),
            ("https://host/b", "-o endpoint=URL"),
            ("bü", "not possible"),
            ("-b", "not possible"),
            ("b:/a/../c", "`..`"),
        ] {
            let error = text.parse::<Source>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}

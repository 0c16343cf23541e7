//! What is mounted: a bucket, or the part of it below a prefix.

use std::fmt;
use std::str::FromStr;

use crate::key::Prefix;

/// A bucket and the prefix inside it that becomes the root of the mount.
///
/// Read from `BUCKET`, `BUCKET:/PREFIX` or `s3://BUCKET/PREFIX`; shown as `BUCKET` or `BUCKET:/PREFIX`, which is
/// also the source in `/proc/mounts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub bucket: String,
    pub prefix: Prefix,
}

const FORMS: &str = "write BUCKET, BUCKET:/PREFIX or s3://BUCKET/PREFIX";

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
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
        // Wider than AWS allows today: old buckets and other stores have upper case, `_` and up to 255 bytes.
        if bucket.len() > 255
            || !bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            || !bucket.as_bytes()[0].is_ascii_alphanumeric()
        {
            return Err(format!("bucket name {bucket:?} is not possible: letters, digits, `.`, `-` and `_` only"));
        }
        let prefix = Prefix::new(prefix).map_err(|e| format!("source {text:?}: {e}"))?;
        Ok(Source { bucket: bucket.to_owned(), prefix })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

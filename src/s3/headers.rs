//! Between headers on the wire and the attributes of an object.
//!
//! Difficulty: header values are ASCII on some stores, raw bytes on others, and RFC 2047 words on a third kind. What
//! is not plain ASCII is therefore encoded here; the scheme is described in the module documentation of `s3`.

use std::collections::BTreeMap;

use http::HeaderMap;
use percent_encoding::percent_decode_str;

use super::address::encode;
use super::request::header;
use super::types::{Condition, ETag, Headers, NewObject, ObjectMeta, Stored};
use super::xml;
use crate::error::{Error, Kind, Result};

const METADATA: &str = "x-amz-meta-";
/// Begins an encoded metadata value.
const MARK: &str = "%%";
/// What a file without a known type is: sent explicitly, because defaults differ between stores.
const DEFAULT_TYPE: &str = "application/octet-stream";

pub(super) type List = Vec<(String, String)>;

fn push(out: &mut List, name: &str, value: impl Into<String>) {
    out.push((name.to_owned(), value.into()));
}

/// A metadata value as sent.
fn encode_value(value: &str) -> String {
    let plain = value.bytes().all(|b| (b' '..=b'~').contains(&b))
        // Signatures and servers trim and fold blanks.
        && value.trim() == value
        && !value.contains("  ")
        && !value.starts_with(MARK);
    if plain { value.to_owned() } else { format!("{MARK}{}", encode(value)) }
}

/// A metadata value as meant. Values of others that only look encoded are left as they are.
fn decode_value(value: &str) -> String {
    let Some(encoded) = value.strip_prefix(MARK) else { return value.to_owned() };
    match percent_decode_str(encoded).decode_utf8() {
        Ok(text) if encode(&text) == encoded => text.into_owned(),
        _ => value.to_owned(),
    }
}

/// Content headers and metadata. Errors: [`Kind::Invalid`] for a metadata name that is no header name.
pub(super) fn content(headers: &Headers, out: &mut List) -> Result<()> {
    push(out, "content-type", headers.content_type.as_deref().unwrap_or(DEFAULT_TYPE));
    for (name, value) in [
        ("cache-control", &headers.cache_control),
        ("content-disposition", &headers.content_disposition),
        ("content-encoding", &headers.content_encoding),
        ("content-language", &headers.content_language),
        ("expires", &headers.expires),
    ] {
        if let Some(value) = value {
            push(out, name, value.as_str());
        }
    }
    for (name, value) in &headers.metadata {
        let name = name.to_ascii_lowercase();
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(legal) {
            return Err(Error::new(Kind::Invalid, format!("metadata name {name:?} is no header name"))
                .with_fix("use letters, digits and `-`"));
        }
        push(out, &format!("{METADATA}{name}"), encode_value(value));
    }
    Ok(())
}

/// Everything a new object is created with.
pub(super) fn new_object(object: &NewObject) -> Result<List> {
    let mut out = List::new();
    content(&object.headers, &mut out)?;
    class_and_acl(object.storage_class.as_deref(), object.acl.as_deref(), &mut out);
    if !object.tags.is_empty() {
        push(&mut out, "x-amz-tagging", tags(&object.tags));
    }
    if let Some(sse) = &object.sse {
        push(&mut out, "x-amz-server-side-encryption", sse.as_str());
    }
    if let Some(key) = &object.sse_kms_key {
        push(&mut out, "x-amz-server-side-encryption-aws-kms-key-id", key.as_str());
    }
    Ok(out)
}

pub(super) fn class_and_acl(class: Option<&str>, acl: Option<&str>, out: &mut List) {
    if let Some(class) = class {
        push(out, "x-amz-storage-class", class);
    }
    if let Some(acl) = acl {
        push(out, "x-amz-acl", acl);
    }
}

/// Tags as one header value.
pub(super) fn tags(tags: &[(String, String)]) -> String {
    let pairs: Vec<_> = tags.iter().map(|(k, v)| format!("{}={}", encode(k), encode(v))).collect();
    pairs.join("&")
}

/// `unquoted`: the store compares `If-Match` with the bare entity tag.
pub(super) fn condition(condition: &Condition, unquoted: bool, out: &mut List) {
    match condition {
        Condition::None => {}
        Condition::Absent => push(out, "if-none-match", "*"),
        Condition::Match(etag) if unquoted => push(out, "if-match", etag.as_str()),
        Condition::Match(etag) => push(out, "if-match", etag.quoted()),
    }
}

pub(super) fn etag(headers: &HeaderMap) -> Option<ETag> {
    header(headers, "etag").map(ETag::new).filter(|e| !e.as_str().is_empty())
}

/// A header value as text, whatever its bytes are.
fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()).trim().to_owned()).filter(|v| !v.is_empty())
}

/// What HEAD and GET say of an object of `size` bytes.
pub(super) fn object_meta(headers: &HeaderMap, size: u64) -> ObjectMeta {
    let mut metadata = BTreeMap::new();
    for (name, value) in headers {
        if let Some(name) = name.as_str().strip_prefix(METADATA) {
            let value = String::from_utf8_lossy(value.as_bytes());
            metadata.insert(name.to_owned(), decode_value(value.trim()));
        }
    }
    // Some stores hand the transfer coding of the upload back as if it were the object's.
    let encoding = text(headers, "content-encoding").and_then(|v| {
        let kept: Vec<_> = v.split(',').map(str::trim).filter(|c| !c.eq_ignore_ascii_case("aws-chunked")).collect();
        Some(kept.join(",")).filter(|v| !v.is_empty())
    });
    ObjectMeta {
        size,
        etag: etag(headers).unwrap_or_else(|| ETag::new("")),
        version: version(headers),
        last_modified: header(headers, "last-modified").and_then(xml::time),
        headers: Headers {
            content_type: text(headers, "content-type"),
            cache_control: text(headers, "cache-control"),
            content_disposition: text(headers, "content-disposition"),
            content_encoding: encoding,
            content_language: text(headers, "content-language"),
            expires: text(headers, "expires"),
            metadata,
        },
        storage_class: text(headers, "x-amz-storage-class"),
        restore: text(headers, "x-amz-restore"),
        tag_count: header(headers, "x-amz-tagging-count").and_then(|v| v.parse().ok()),
        sse: text(headers, "x-amz-server-side-encryption"),
        sse_kms_key: text(headers, "x-amz-server-side-encryption-aws-kms-key-id"),
    }
}

/// The version id of the answer.
pub(super) fn version(headers: &HeaderMap) -> Option<std::sync::Arc<str>> {
    header(headers, "x-amz-version-id").map(Into::into)
}

/// What an answer to a write says, with an entity tag from elsewhere when the header has none.
pub(super) fn stored(headers: &HeaderMap, tag: Option<ETag>, modified: Option<&str>) -> Stored {
    let time = |name| header(headers, name).and_then(xml::time);
    Stored {
        etag: tag.or_else(|| etag(headers)).unwrap_or_else(|| ETag::new("")),
        version: version(headers),
        last_modified: modified.and_then(xml::time).or_else(|| time("last-modified")).or_else(|| time("date")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_values_come_back_as_they_were() {
        for value in ["33188", "a b", "", "%41", "%", "%%", "%%41", "é漢😀", " lead", "two  blanks", "tab\t\n", "%%%"]
        {
            let sent = encode_value(value);
            assert!(sent.bytes().all(|b| (b' '..=b'~').contains(&b)), "{sent}");
            assert_eq!(decode_value(&sent), value);
        }
        assert_eq!(encode_value("33188"), "33188");
        assert_eq!(encode_value("50%"), "50%");
        // Not ours: not strictly encoded.
        assert_eq!(decode_value("%%a b"), "%%a b");
        assert_eq!(decode_value("%%%ff"), "%%%ff");
    }

    #[test]
    fn a_bad_metadata_name_is_refused() {
        let mut headers = Headers::default();
        headers.metadata.insert("a b".into(), "x".into());
        assert_eq!(content(&headers, &mut List::new()).unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn the_upload_s_transfer_coding_is_not_the_object_s() {
        let mut headers = HeaderMap::new();
        headers.insert("content-encoding", "gzip,aws-chunked".parse().unwrap());
        headers.insert("x-amz-meta-mode", "33188".parse().unwrap());
        headers.insert("etag", "\"e\"".parse().unwrap());
        let meta = object_meta(&headers, 3);
        assert_eq!(meta.headers.content_encoding.as_deref(), Some("gzip"));
        assert_eq!(meta.headers.metadata["mode"], "33188");
        assert_eq!(meta.etag, ETag::new("e"));
    }

    #[test]
    fn tags_are_percent_encoded() {
        assert_eq!(tags(&[("a b".into(), "1+1".into()), ("k".into(), "".into())]), "a%20b=1%2B1&k=");
    }
}

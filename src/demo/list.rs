//! Listings of objects and versions.
//!
//! 1. A page must cost what it returns, not what the bucket holds: the walk starts at the page's first key, and a
//!    common prefix is passed by seeking behind it, not by reading its keys.

use std::ops::Bound;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::acl::{Right, display_name};
use super::service::{NextMarker, Service, ok};
use super::store::{Bucket, Version, timestamp};

/// Entries of a page at most.
const PAGE: usize = 1000;

/// What `encoding-type=url` leaves as it is.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b'/');

/// The smallest text greater than all that start with `prefix`; `None` when there is none.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        let next = match last as u32 + 1 {
            0xd800 => Some('\u{e000}'),
            n => char::from_u32(n),
        };
        if let Some(next) = next {
            text.push(next);
            return Some(text);
        }
    }
    None
}

/// The common prefix of `key` below `prefix`.
fn common_prefix<'a>(key: &'a str, prefix: &str, delimiter: &str) -> Option<&'a str> {
    if delimiter.is_empty() {
        return None;
    }
    let at = key.get(prefix.len()..)?.find(delimiter)?;
    Some(&key[..prefix.len() + at + delimiter.len()])
}

#[derive(Default)]
struct Listing {
    objects: Vec<(String, Arc<Version>)>,
    prefixes: Vec<String>,
    /// The last key or common prefix of the page, when there is more.
    next: Option<String>,
}

/// One page of current objects behind `after`.
fn list(bucket: &Bucket, prefix: &str, delimiter: &str, after: &str, max: usize) -> Listing {
    let mut out = Listing::default();
    if max == 0 {
        return out;
    }
    let mut from = if after < prefix { Bound::Included(prefix.to_owned()) } else { Bound::Excluded(after.to_owned()) };
    // A page that ended with a common prefix goes on behind it.
    if common_prefix(after, prefix, delimiter) == Some(after) && after.starts_with(prefix) {
        match after_prefix(after) {
            Some(next) => from = Bound::Included(next),
            None => return out,
        }
    }
    let mut last = String::new();
    'seek: loop {
        for (key, versions) in bucket.objects.range::<String, _>((from.clone(), Bound::Unbounded)) {
            if !key.starts_with(prefix) {
                return out;
            }
            let Some(version) = versions.last().filter(|v| !v.delete_marker) else { continue };
            if out.objects.len() + out.prefixes.len() == max {
                out.next = Some(last);
                return out;
            }
            if let Some(common) = common_prefix(key, prefix, delimiter) {
                last = common.to_owned();
                out.prefixes.push(common.to_owned());
                match after_prefix(common) {
                    Some(next) => from = Bound::Included(next),
                    None => return out,
                }
                continue 'seek;
            }
            last.clone_from(key);
            out.objects.push((key.clone(), version.clone()));
        }
        return out;
    }
}

/// Encodes for `encoding-type=url`, where asked for: as in a form, a space becomes `+`.
fn encoder(encoding: &Option<EncodingType>) -> impl Fn(&str) -> String + use<> {
    let url = encoding.as_ref().is_some_and(|e| e.as_str() == EncodingType::URL);
    move |text| {
        if url { utf8_percent_encode(text, KEPT).to_string().replace("%20", "+") } else { text.to_owned() }
    }
}

fn owner(v: &Version) -> Owner {
    Owner { display_name: Some(display_name(&v.acl.owner)), id: Some(v.acl.owner.clone()) }
}

fn entry(key: &str, v: &Version, with_owner: bool, encode: &impl Fn(&str) -> String) -> Object {
    Object {
        e_tag: Some(v.etag()),
        key: Some(encode(key)),
        last_modified: Some(timestamp(v.modified)),
        owner: with_owner.then(|| owner(v)),
        size: Some(v.data.size() as i64),
        storage_class: Some(v.attributes.storage_class.clone().unwrap_or_else(|| "STANDARD".into()).into()),
        ..Default::default()
    }
}

fn common(prefixes: &[String], encode: &impl Fn(&str) -> String) -> Option<Vec<CommonPrefix>> {
    (!prefixes.is_empty()).then(|| prefixes.iter().map(|p| CommonPrefix { prefix: Some(encode(p)) }).collect())
}

impl Service {
    /// What the client asked for, and how much a page holds.
    fn page(&self, asked: Option<i32>) -> S3Result<(i32, usize)> {
        let asked = asked.unwrap_or(PAGE as i32);
        if asked < 0 {
            return Err(s3_error!(InvalidArgument, "Argument max-keys must be an integer between 0 and 2147483647"));
        }
        let page = (asked as usize).min(PAGE);
        Ok((asked.min(PAGE as i32), self.0.knobs.with(|b| b.page_size).map_or(page, |n| n.min(page))))
    }

    pub(super) async fn list_objects(
        &self,
        req: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let who = self.who(&req.credentials);
        let i = req.input;
        let (asked, page) = self.page(i.max_keys)?;
        let prefix = i.prefix.unwrap_or_default();
        let delimiter = i.delimiter.unwrap_or_default();
        let marker = i.marker.unwrap_or_default();
        let found =
            self.bucket(&i.bucket, who.as_deref(), Right::Read, |b| Ok(list(b, &prefix, &delimiter, &marker, page)))?;
        let encode = encoder(&i.encoding_type);
        ok(ListObjectsOutput {
            name: Some(i.bucket),
            max_keys: Some(asked),
            is_truncated: Some(found.next.is_some()),
            contents: Some(found.objects.iter().map(|(k, v)| entry(k, v, true, &encode)).collect()),
            common_prefixes: common(&found.prefixes, &encode),
            // As AWS: without a delimiter the client goes on from the last key.
            next_marker: found.next.filter(|_| !delimiter.is_empty()).map(|n| encode(&n)),
            prefix: Some(encode(&prefix)),
            marker: Some(encode(&marker)),
            delimiter: (!delimiter.is_empty()).then(|| encode(&delimiter)),
            encoding_type: i.encoding_type,
            request_charged: None,
        })
    }

    pub(super) async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let who = self.who(&req.credentials);
        let mut i = req.input;
        let v1 = self.0.knobs.with(|b| b.v1_only);
        let (asked, page) = self.page(i.max_keys)?;
        let prefix = i.prefix.unwrap_or_default();
        let delimiter = i.delimiter.unwrap_or_default();
        let after = if v1 {
            // Such a server knows neither token nor start-after.
            i.continuation_token = None;
            i.start_after = None;
            let query = url::form_urlencoded::parse(req.uri.query().unwrap_or("").as_bytes());
            query.into_iter().find(|(k, _)| k == "marker").map_or_else(String::new, |(_, v)| v.into_owned())
        } else {
            match &i.continuation_token {
                Some(token) => {
                    let text = URL_SAFE_NO_PAD.decode(token).ok().and_then(|t| String::from_utf8(t).ok());
                    text.ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect"))?
                }
                None => i.start_after.clone().unwrap_or_default(),
            }
        };
        let found =
            self.bucket(&i.bucket, who.as_deref(), Right::Read, |b| Ok(list(b, &prefix, &delimiter, &after, page)))?;
        let encode = encoder(&i.encoding_type);
        let with_owner = v1 || i.fetch_owner.unwrap_or(false);
        let count = (found.objects.len() + found.prefixes.len()) as i32;
        let mut response = S3Response::new(ListObjectsV2Output {
            name: Some(i.bucket),
            max_keys: Some(asked),
            key_count: (!v1).then_some(count),
            is_truncated: Some(found.next.is_some()),
            contents: Some(found.objects.iter().map(|(k, v)| entry(k, v, with_owner, &encode)).collect()),
            common_prefixes: common(&found.prefixes, &encode),
            next_continuation_token: found.next.as_ref().filter(|_| !v1).map(|n| URL_SAFE_NO_PAD.encode(n)),
            continuation_token: i.continuation_token,
            start_after: i.start_after.map(|s| encode(&s)),
            prefix: Some(encode(&prefix)),
            delimiter: (!delimiter.is_empty()).then(|| encode(&delimiter)),
            encoding_type: i.encoding_type,
            request_charged: None,
        });
        if v1 {
            let next = found.next.filter(|_| !delimiter.is_empty()).map(|n| encode(&n));
            response.extensions.insert(NextMarker(next));
        }
        Ok(response)
    }

    pub(super) async fn list_object_versions(
        &self,
        req: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        let who = self.who(&req.credentials);
        let i = req.input;
        let (asked, page) = self.page(i.max_keys)?;
        let prefix = i.prefix.unwrap_or_default();
        let delimiter = i.delimiter.unwrap_or_default();
        let key_marker = i.key_marker.clone().unwrap_or_default();
        let encode = encoder(&i.encoding_type);
        let (mut versions, mut markers, mut prefixes) = (Vec::new(), Vec::new(), Vec::<String>::new());
        let mut next: Option<(String, Option<String>)> = None;
        self.bucket(&i.bucket, who.as_deref(), Right::Read, |b| {
            let skipped = common_prefix(&key_marker, &prefix, &delimiter) == Some(key_marker.as_str());
            let mut last: Option<(String, Option<String>)> = None;
            let mut count = 0;
            'keys: for (key, all) in b.objects.range(prefix.clone()..) {
                if !key.starts_with(&prefix) {
                    break;
                }
                if skipped && !key_marker.is_empty() && key.starts_with(&key_marker) {
                    continue;
                }
                if *key < key_marker || (*key == key_marker && i.version_id_marker.is_none()) {
                    continue;
                }
                if let Some(common) = common_prefix(key, &prefix, &delimiter) {
                    if prefixes.last().map(String::as_str) != Some(common) {
                        if count == page {
                            next = last;
                            break;
                        }
                        count += 1;
                        last = Some((common.to_owned(), None));
                        prefixes.push(common.to_owned());
                    }
                    continue;
                }
                let mut passed = *key != key_marker;
                for (at, v) in all.iter().rev().enumerate() {
                    if !passed {
                        passed = i.version_id_marker.as_deref() == Some(&*v.id);
                        continue;
                    }
                    if count == page {
                        next = last;
                        break 'keys;
                    }
                    count += 1;
                    last = Some((key.clone(), Some(v.id.to_string())));
                    if v.delete_marker {
                        markers.push(DeleteMarkerEntry {
                            is_latest: Some(at == 0),
                            key: Some(encode(key)),
                            last_modified: Some(timestamp(v.modified)),
                            owner: Some(owner(v)),
                            version_id: Some(v.id.to_string()),
                        });
                    } else {
                        let class = v.attributes.storage_class.clone().unwrap_or_else(|| "STANDARD".into());
                        versions.push(ObjectVersion {
                            e_tag: Some(v.etag()),
                            is_latest: Some(at == 0),
                            key: Some(encode(key)),
                            last_modified: Some(timestamp(v.modified)),
                            owner: Some(owner(v)),
                            size: Some(v.data.size() as i64),
                            storage_class: Some(class.into()),
                            version_id: Some(v.id.to_string()),
                            ..Default::default()
                        });
                    }
                }
            }
            Ok(())
        })?;
        let (next_key, next_version) = match next {
            Some((key, version)) => (Some(encode(&key)), version),
            None => (None, None),
        };
        ok(ListObjectVersionsOutput {
            name: Some(i.bucket),
            prefix: Some(encode(&prefix)),
            delimiter: (!delimiter.is_empty()).then(|| encode(&delimiter)),
            max_keys: Some(asked),
            key_marker: Some(encode(&key_marker)),
            version_id_marker: Some(i.version_id_marker.unwrap_or_default()),
            is_truncated: Some(next_key.is_some()),
            next_key_marker: next_key,
            next_version_id_marker: next_version,
            common_prefixes: common(&prefixes, &encode),
            versions: Some(versions),
            delete_markers: Some(markers),
            encoding_type: i.encoding_type,
            request_charged: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_behind_a_prefix_is_behind_all_its_keys() {
        for prefix in ["a", "a/", "é", "x\u{d7ff}", "x\u{10ffff}"] {
            let next = after_prefix(prefix).unwrap();
            assert!(next.as_str() > prefix && !next.starts_with(prefix));
            assert!(next > format!("{prefix}\u{10ffff}\u{10ffff}"));
        }
        assert_eq!(after_prefix("\u{10ffff}"), None);
    }
}

//! Objects: HEAD, GET, PUT, copy, delete.
//!
//! 1. A GET is checked before a byte is handed out: the range that was asked for, the length it must have, and the
//!    version it must be of, because poor servers and caches ignore `Range` and `If-Match`.
//! 2. A conditional write whose answer got lost meets its own result when sent again: that is success, found out by
//!    comparing the stored entity tag.
//! 3. Stores disagree on whether `If-Match` of a write is quoted; both forms are tried once and the right one kept.

use std::ops::Range;
use std::sync::atomic::Ordering;

use futures_util::StreamExt;
use http::HeaderMap;
use md5::{Digest, Md5};
use rusty_s3::Method;

use super::body::Body;
use super::digest::Vouched;
use super::operation::Op;
use super::request::{Action, Answer, header};
use super::types::{Condition, Directive, ETag, NewObject, ObjectMeta, Payload, Source, Stored};
use super::{S3, address, failure, headers, xml};
use crate::error::{Error, Kind, Result};
use crate::key::Key;

/// GETs up to this many bytes count as lookups, not as bulk transfers: the first block of a small file.
const SMALL_GET: u64 = 128 * 1024;
/// The same for PUTs.
const SMALL_PUT: u64 = 64 * 1024;
/// Keys per DeleteObjects.
const DELETE_BATCH: usize = 1000;
/// Single deletes at once, where the store has no other.
const DELETES_AT_ONCE: usize = 16;

/// An object being read.
pub struct Get {
    pub meta: ObjectMeta,
    /// The bytes of the object that `body` yields.
    pub range: Range<u64>,
    pub body: Body,
}

/// The bytes that an answer carries and the size of the whole object.
fn extent(status: u16, headers: &HeaderMap, asked: Option<&Range<u64>>) -> Result<(Range<u64>, u64), String> {
    let length = header(headers, "content-length").and_then(|v| v.parse::<u64>().ok());
    match (status, asked) {
        (206, Some(asked)) => {
            let text = header(headers, "content-range").ok_or("206 without Content-Range")?;
            let (range, total) = content_range(text).ok_or_else(|| format!("bad Content-Range {text:?}"))?;
            let expected = asked.start..asked.end.min(total);
            if range != expected {
                return Err(format!("asked for {expected:?} of {total}, answered with {range:?}"));
            }
            if length.is_some_and(|l| l != range.end - range.start) {
                return Err("Content-Length contradicts Content-Range".into());
            }
            Ok((range, total))
        }
        (206, None) => Err("part of an object where the whole was asked for".into()),
        (_, None) => {
            let size = length.ok_or("answer without Content-Length")?;
            Ok((0..size, size))
        }
        (_, Some(asked)) => {
            let size = length.ok_or("answer without Content-Length")?;
            if asked.start == 0 && size <= asked.end {
                Ok((0..size, size))
            } else {
                Err("the store ignored the range".into())
            }
        }
    }
}

/// `bytes 0-9/100`, half-open.
fn content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, total) = text.strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let total = total.trim().parse().ok()?;
    (first <= last && last < total).then_some((first..last + 1, total))
}

fn md5(payload: &Payload) -> String {
    let mut digest = Md5::new();
    for piece in &payload.0 {
        digest.update(piece);
    }
    digest.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

impl S3 {
    /// Errors: [`Kind::NotFound`]; [`Kind::Io`] when the store tells no size.
    pub async fn head(&self, key: &Key, version: Option<&str>) -> Result<ObjectMeta> {
        let check = |_: u16, headers: &HeaderMap| {
            header(headers, "content-length")
                .and_then(|v| v.parse::<u64>().ok())
                .map(|_| ())
                .ok_or_else(|| "answer without Content-Length".to_owned())
        };
        let mut action = Action::new(Op::HeadObject, Method::Head, key.as_str()).version(version);
        action.check = Some(&check);
        let answer = self.fetch(&action).await?;
        let size = answer.header("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
        Ok(headers::object_meta(&answer.headers, size))
    }

    /// `range`: half-open bytes, clipped to the object; `None` is all of it.
    ///
    /// Errors: [`Kind::Stale`] when the object is not `if_match`, [`Kind::Range`] past its end, [`Kind::Io`] when
    /// the store answers with other bytes than asked for, [`Kind::Archived`].
    pub async fn get(
        &self,
        key: &Key,
        range: Option<Range<u64>>,
        if_match: Option<&ETag>,
        version: Option<&str>,
    ) -> Result<Get> {
        if range.as_ref().is_some_and(|r| r.is_empty()) {
            return Err(Error::new(Kind::Invalid, "get object: empty range").with_key(key));
        }
        let check = |status: u16, headers: &HeaderMap| extent(status, headers, range.as_ref()).map(|_| ());
        let mut action = Action::new(Op::GetObject, Method::Get, key.as_str()).version(version);
        if let Some(r) = &range {
            action = action.header("range", format!("bytes={}-{}", r.start, r.end - 1));
        }
        if let Some(etag) = if_match {
            action = action.header("if-match", etag.quoted());
        }
        action.bulk = range.as_ref().is_none_or(|r| r.end - r.start > SMALL_GET);
        action.check = Some(&check);
        let opened = self.open(&action).await.map_err(stale)?;
        let (range, size) =
            extent(opened.status, &opened.headers, range.as_ref()).map_err(|why| Error::new(Kind::Io, why))?;
        let meta = headers::object_meta(&opened.headers, size);
        if let Some(etag) = if_match
            && *etag != meta.etag
        {
            return Err(Error::new(Kind::Stale, "get object: it is another version now").with_key(key));
        }
        let len = range.end - range.start;
        let body = Body::new(opened.response, len, self.shared().clone(), key.to_string(), opened.permits);
        Ok(Get { meta, range, body })
    }

    /// Stores an object in one request.
    ///
    /// Errors: [`Kind::Exists`] and [`Kind::Conflict`] from `condition`, [`Kind::Unsupported`] when the store lacks
    /// it (remembered: the caller looks first).
    pub async fn put(&self, key: &Key, payload: Payload, object: &NewObject, condition: &Condition) -> Result<Stored> {
        let list = headers::new_object(object)?;
        let vouched = Vouched::body();
        let len = payload.len();
        let check = |_: u16, headers: &HeaderMap| match header(headers, "x-amz-object-size") {
            Some(size) if size.parse() != Ok(len) => Err(format!("{len} bytes were sent and {size} stored")),
            _ => Ok(()),
        };
        let make = || {
            let mut action = Action::new(Op::PutObject, Method::Put, key.as_str());
            action.vouched = vouched.clone();
            action.check = Some(&check);
            action.bulk = payload.len() > SMALL_PUT;
            action.payload = payload.clone();
            action.headers = list.clone();
            action
        };
        let proof = || md5(&payload);
        let answer = match self.conditional(&make, condition).await {
            Ok(answer) => answer,
            Err((error, true)) if matches!(error.kind(), Kind::Exists | Kind::Conflict) => {
                // Our own first attempt may have succeeded unheard.
                let found = self.head(key, None).await.map_err(|_| error.clone())?;
                if found.size == payload.len() && found.etag.as_str() == proof() {
                    return Ok(of_meta(found));
                }
                return Err(error);
            }
            Err((error, _)) => return Err(error),
        };
        let stored = headers::stored(&answer.headers, None, None);
        if stored.etag.as_str().is_empty() {
            return Ok(of_meta(self.head(key, None).await?));
        }
        Ok(stored)
    }

    /// Sends a write with its condition, in the form that the store understands. The flag tells whether an earlier
    /// attempt may have taken effect.
    pub(super) async fn conditional<'a>(
        &self,
        make: &(dyn Fn() -> Action<'a> + Send + Sync),
        condition: &Condition,
    ) -> Result<Answer, (Error, bool)> {
        let learned = self.learned();
        if *condition != Condition::None && learned.no_conditions.load(Ordering::Relaxed) {
            return Err((Error::new(Kind::Unsupported, "conditional write: this store has none"), false));
        }
        let unquoted = learned.unquoted_match.load(Ordering::Relaxed);
        let mut action = make();
        headers::condition(condition, unquoted, &mut action.headers);
        let error = match self.fetch(&action).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let uncertain = action.was_uncertain();
        match (error.kind(), condition) {
            (Kind::Conflict, Condition::Absent) => Err((error.with_kind(Kind::Exists), uncertain)),
            (Kind::Conflict, Condition::Match(_)) if !unquoted && !uncertain => {
                let mut again = make();
                headers::condition(condition, true, &mut again.headers);
                match self.fetch(&again).await {
                    Ok(answer) => {
                        learned.unquoted_match.store(true, Ordering::Relaxed);
                        Ok(answer)
                    }
                    // 400: the store cannot even read the bare form, so the first answer was meant.
                    Err(e) if e.kind() == Kind::Invalid => Err((error, uncertain)),
                    Err(e) => Err((e, again.was_uncertain())),
                }
            }
            (Kind::Unsupported, Condition::Absent | Condition::Match(_)) => {
                learned.no_conditions.store(true, Ordering::Relaxed);
                Err((error, uncertain))
            }
            _ => Err((error, uncertain)),
        }
    }

    /// One CopyObject; objects beyond the store's limit for it are copied in parts by the caller.
    ///
    /// Errors: [`Kind::Stale`] when the source is another version, [`Kind::NotFound`] when it is gone.
    pub async fn copy(
        &self,
        source: &Source,
        to: &Key,
        directive: &Directive,
        condition: &Condition,
    ) -> Result<Stored> {
        let mut list = source_headers(self.bucket(), source);
        match directive {
            Directive::Keep { storage_class, acl } => {
                list.push(("x-amz-metadata-directive".into(), "COPY".into()));
                headers::class_and_acl(storage_class.as_deref(), acl.as_deref(), &mut list);
            }
            Directive::Replace { object, tags } => {
                list.push(("x-amz-metadata-directive".into(), "REPLACE".into()));
                let new = headers::new_object(object)?;
                // Tags ride along only where they replace: some stores refuse them otherwise.
                list.extend(new.into_iter().filter(|(name, _)| *tags || name != "x-amz-tagging"));
                if *tags {
                    list.push(("x-amz-tagging-directive".into(), "REPLACE".into()));
                }
            }
        }
        let make = || {
            let mut action = Action::new(Op::CopyObject, Method::Put, to.as_str());
            action.slow = true;
            action.headers = list.clone();
            action
        };
        let answer = self.conditional(&make, condition).await.map_err(|(error, _)| {
            // Without a condition on the target, only the one on the source can have failed.
            if *condition == Condition::None { stale(error) } else { error }
        })?;
        let result = answer.document(Op::CopyObject)?;
        let etag = result.some("ETag").map(|e| ETag::new(&e));
        let stored = headers::stored(&answer.headers, etag, Some(result.text_of("LastModified")));
        if stored.etag.as_str().is_empty() {
            return Ok(of_meta(self.head(to, None).await?));
        }
        Ok(stored)
    }

    /// A key that is not there is Ok, as S3 says.
    pub async fn delete(&self, key: &Key, version: Option<&str>) -> Result<()> {
        let action = Action::new(Op::DeleteObject, Method::Delete, key.as_str()).version(version);
        match self.fetch(&action).await {
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// Deletes any number of keys, a thousand per request; the failed ones come back with their errors.
    ///
    /// Errors: only when a whole request fails.
    pub async fn delete_many(&self, keys: &[Key]) -> Result<Vec<(Key, Error)>> {
        let (batched, single): (Vec<&Key>, Vec<&Key>) = keys.iter().partition(|k| xml::is_writable(k.as_str()));
        let mut failed = self.delete_each(single).await;
        for batch in batched.chunks(DELETE_BATCH) {
            if batch.len() == 1 || self.learned().no_delete_many.load(Ordering::Relaxed) {
                failed.extend(self.delete_each(batch.to_vec()).await);
                continue;
            }
            match self.delete_batch(batch).await {
                Ok(list) => failed.extend(list),
                Err(error) if error.kind() == Kind::Unsupported => {
                    self.learned().no_delete_many.store(true, Ordering::Relaxed);
                    failed.extend(self.delete_each(batch.to_vec()).await);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(failed)
    }

    async fn delete_each(&self, keys: Vec<&Key>) -> Vec<(Key, Error)> {
        futures_util::stream::iter(keys.into_iter().cloned())
            .map(|key| async move { self.delete(&key, None).await.err().map(|error| (key, error)) })
            .buffer_unordered(DELETES_AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await
    }

    async fn delete_batch(&self, keys: &[&Key]) -> Result<Vec<(Key, Error)>> {
        let mut body = String::from("<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Quiet>true</Quiet>");
        for key in keys {
            body.push_str("<Object>");
            xml::element("Key", key.as_str(), &mut body);
            body.push_str("</Object>");
        }
        body.push_str("</Delete>");
        let mut action = Action::new(Op::DeleteObjects, Method::Post, "").query("delete", "").document(body);
        // A thousand deletes take their time.
        action.slow = true;
        let answer = self.fetch(&action).await?;
        let result = answer.document(Op::DeleteObjects)?;
        let (mut failed, mut again) = (Vec::new(), Vec::new());
        for error in result.all("Error") {
            let (key, code) = (error.text_of("Key"), error.text_of("Code"));
            let Some(key) = keys.iter().find(|k| k.as_str() == key) else { continue };
            match failure::meaning(200, code) {
                (Kind::NotFound, _) => {}
                (_, true) => again.push(*key),
                (kind, false) => {
                    let text = format!("delete object: {code} ({})", error.text_of("Message"));
                    failed.push(((*key).clone(), Error::new(kind, text).with_key(key)));
                }
            }
        }
        failed.extend(self.delete_each(again).await);
        Ok(failed)
    }
}

/// A condition that failed on what is read.
pub(super) fn stale(error: Error) -> Error {
    if error.kind() == Kind::Conflict { error.with_kind(Kind::Stale) } else { error }
}

pub(super) fn of_meta(meta: ObjectMeta) -> Stored {
    Stored { etag: meta.etag, version: meta.version, last_modified: meta.last_modified }
}

/// The headers that name the source of a copy.
pub(super) fn source_headers(bucket: &str, source: &Source) -> headers::List {
    let bucket = source.bucket.as_deref().unwrap_or(bucket);
    let mut path = format!("/{}/{}", address::encode(bucket), address::encode_path(source.key.as_str()));
    if let Some(version) = &source.version {
        path.push_str("?versionId=");
        path.push_str(&address::encode(version));
    }
    let mut list = vec![("x-amz-copy-source".to_owned(), path)];
    if let Some(etag) = &source.if_match {
        list.push(("x-amz-copy-source-if-match".into(), etag.quoted()));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (http::HeaderName::from_static(n), v.parse().unwrap())).collect()
    }

    #[test]
    fn only_the_bytes_asked_for_are_accepted() {
        let part = |range: &str, len: &str| headers(&[("content-range", range), ("content-length", len)]);
        let asked = Some(10..20);
        let asked = asked.as_ref();
        assert_eq!(extent(206, &part("bytes 10-19/100", "10"), asked), Ok((10..20, 100)));
        assert_eq!(extent(206, &part("bytes 10-14/15", "5"), asked), Ok((10..15, 15)));
        assert!(extent(206, &part("bytes 0-9/100", "10"), asked).is_err());
        assert!(extent(206, &part("bytes 10-18/100", "9"), asked).is_err());
        assert!(extent(206, &part("bytes 10-19/100", "9"), asked).is_err());
        assert!(extent(206, &part("bytes 10-19/*", "10"), asked).is_err());
        assert!(extent(206, &headers(&[("content-length", "10")]), asked).is_err());
        assert!(extent(200, &headers(&[("content-length", "100")]), asked).is_err());
        assert!(extent(200, &headers(&[("content-length", "15")]), asked).is_err());
        assert_eq!(extent(200, &headers(&[("content-length", "7")]), Some(&(0..20))), Ok((0..7, 7)));
        assert!(extent(200, &headers(&[("content-length", "21")]), Some(&(0..20))).is_err());
        assert_eq!(extent(200, &headers(&[("content-length", "0")]), None), Ok((0..0, 0)));
        assert!(extent(206, &part("bytes 10-19/100", "10"), None).is_err());
        assert!(extent(200, &headers(&[]), None).is_err());
    }

    #[test]
    fn the_source_of_a_copy_is_encoded() {
        let source = Source {
            bucket: None,
            key: Key::new("a b/ü+").unwrap(),
            version: Some("v+1".into()),
            if_match: Some(ETag::new("e")),
        };
        let list = source_headers("bucket", &source);
        assert_eq!(list[0].1, "/bucket/a%20b/%C3%BC%2B?versionId=v%2B1");
        assert_eq!(list[1].1, "\"e\"");
    }
}

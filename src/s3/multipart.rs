//! Multipart uploads.
//!
//! 1. CompleteMultipartUpload is the one request whose repetition fails although the first attempt worked ("no such
//!    upload", or for ever "in progress" on Ceph): after a lost answer this is settled by looking at the object. An
//!    older object of the same size must not pass for the new one, so its entity tag or its age has to fit too, and the
//!    upload must be gone.
//! 2. Some stores complete without telling the entity tag; then the object is looked at, and its size must be the
//!    sum of the parts.
//! 3. Where parts carry checksums (see `digest`), a store that keeps them wants them announced by the upload and repeated
//!    by its completion: those go back that its own answers had, so a store that keeps none gets none.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use md5::{Digest, Md5};
use rusty_s3::Method;

use super::digest::{CRC32C, Vouched};
use super::object::{of_meta, source_headers, stale};
use super::operation::Op;
use super::request::Action;
use super::types::{Condition, ETag, NewObject, ObjectMeta, Part, Payload, Source, Stored, Upload};
use super::{S3, headers, xml};
use crate::error::{Error, Kind, Result};
use crate::key::Key;

/// More pages than this of one listing are a store that repeats itself.
const PAGES_MAX: usize = 100_000;

impl S3 {
    /// Begins an upload and returns its id.
    pub async fn create_upload(&self, key: &Key, object: &NewObject) -> Result<String> {
        let mut action = Action::new(Op::CreateMultipartUpload, Method::Post, key.as_str()).query("uploads", "");
        action.headers = headers::new_object(object)?;
        action.vouched = Vouched::Upload;
        let document = self.fetch(&action).await?.document(Op::CreateMultipartUpload)?;
        document
            .some("UploadId")
            .ok_or_else(|| Error::new(Kind::Io, "create multipart upload: answer without an id").with_key(key))
    }

    /// `number`: 1 to 10,000. Errors: [`Kind::Stale`] when the upload is gone.
    pub async fn upload_part(&self, key: &Key, upload: &str, number: u32, payload: Payload) -> Result<Part> {
        let check = |_: u16, headers: &HeaderMap| {
            headers::etag(headers).map(|_| ()).ok_or_else(|| "part stored without an entity tag".to_owned())
        };
        let size = payload.len();
        let mut action = Action::new(Op::UploadPart, Method::Put, key.as_str())
            .query("partNumber", number.to_string())
            .query("uploadId", upload);
        action.bulk = true;
        action.payload = payload;
        action.vouched = Vouched::body();
        action.check = Some(&check);
        let answer = self.fetch(&action).await.map_err(gone)?;
        let etag = headers::etag(&answer.headers)
            .ok_or_else(|| Error::new(Kind::Io, "upload part: answer without an entity tag").with_key(key))?;
        let checksum = answer.header(CRC32C).map(str::to_owned);
        Ok(Part { number, etag, size, checksum })
    }

    /// Makes a part from `range` of `source`; `size` is what the part will have.
    ///
    /// Errors: [`Kind::Stale`] when the source is another version or the upload is gone. Some stores ignore the
    /// condition on the source (Ceph 16): who depends on it looks at the source again before completing.
    pub async fn copy_part(
        &self,
        key: &Key,
        upload: &str,
        number: u32,
        source: &Source,
        range: Option<Range<u64>>,
        size: u64,
    ) -> Result<Part> {
        let mut action = Action::new(Op::UploadPartCopy, Method::Put, key.as_str())
            .query("partNumber", number.to_string())
            .query("uploadId", upload);
        action.slow = true;
        action.headers = source_headers(self.bucket(), source);
        if let Some(r) = range {
            if r.is_empty() {
                return Err(Error::new(Kind::Invalid, "upload part copy: empty range").with_key(key));
            }
            action = action.header("x-amz-copy-source-range", format!("bytes={}-{}", r.start, r.end - 1));
        }
        let answer = self.fetch(&action).await.map_err(|e| gone(stale(e)))?;
        let result = answer.document(Op::UploadPartCopy)?;
        let checksum = result.some("ChecksumCRC32C");
        let etag = result
            .some("ETag")
            .map(|e| ETag::new(&e))
            .ok_or_else(|| Error::new(Kind::Io, "upload part copy: answer without an entity tag").with_key(key))?;
        Ok(Part { number, etag, size, checksum })
    }

    /// Makes the object from its parts, which must be in order of their numbers.
    ///
    /// Errors: [`Kind::Exists`] and [`Kind::Conflict`] from `condition`, [`Kind::Stale`] when the upload is gone,
    /// [`Kind::Io`] when the object is not as long as its parts.
    pub async fn complete_upload(
        &self,
        key: &Key,
        upload: &str,
        parts: &[Part],
        condition: &Condition,
    ) -> Result<Stored> {
        let mut body = String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
        for part in parts {
            body.push_str("<Part>");
            xml::element("PartNumber", &part.number.to_string(), &mut body);
            xml::element("ETag", &part.etag.quoted(), &mut body);
            if let Some(checksum) = &part.checksum {
                xml::element("ChecksumCRC32C", checksum, &mut body);
            }
            body.push_str("</Part>");
        }
        body.push_str("</CompleteMultipartUpload>");
        let make = || {
            let mut action = Action::new(Op::CompleteMultipartUpload, Method::Post, key.as_str())
                .query("uploadId", upload)
                .document(body.clone());
            action.slow = true;
            // Stores answer differently to a digest here, and the parts carry their own.
            action.headers.retain(|(name, _)| name != "content-md5");
            action
        };
        let begun = self.store_time();
        let answer = match self.conditional(&make, condition).await {
            Ok(answer) => answer,
            Err((error, true)) if error.kind() != Kind::Denied => {
                // Whatever looking fails with, the first error is the news.
                let Ok(meta) = self.head(key, None).await else { return Err(gone(error)) };
                let made = match is_made_of(&meta, parts, begun) {
                    Made::No => false,
                    _ if error.code() == "NoSuchUpload" => true,
                    made => self.is_used_up(key, upload).await.unwrap_or(made == Made::Yes),
                };
                return if made { Ok(of_meta(meta)) } else { Err(gone(error)) };
            }
            Err((error, _)) => return Err(gone(error)),
        };
        let etag = xml::parse(&answer.body).ok().and_then(|d| d.some("ETag")).map(|e| ETag::new(&e));
        if let Some(etag) = etag
            && !etag.as_str().is_empty()
        {
            return Ok(headers::stored(&answer.headers, Some(etag), None));
        }
        let meta = self.head(key, None).await?;
        let size = total(parts);
        if meta.size != size {
            let text = format!("complete multipart upload: object has {} bytes, its parts {size}", meta.size);
            return Err(Error::new(Kind::Io, text).with_key(key));
        }
        Ok(of_meta(meta))
    }

    /// What an earlier [`S3::complete_upload`] of these parts made, whose outcome is not known and which began at `since`
    /// (the store's clock). `None`: the upload was not completed, and can be.
    pub async fn completed(
        &self,
        key: &Key,
        upload: &str,
        parts: &[Part],
        since: SystemTime,
    ) -> Result<Option<Stored>> {
        let meta = match self.head(key, None).await {
            Ok(meta) => meta,
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Denied) => return Ok(None),
            Err(e) => return Err(e),
        };
        let made = is_made_of(&meta, parts, since);
        if made == Made::No {
            return Ok(None);
        }
        let done = match self.is_used_up(key, upload).await {
            Err(e) if matches!(e.kind(), Kind::Denied | Kind::Unsupported) => made == Made::Yes,
            used_up => used_up?,
        };
        Ok(done.then(|| of_meta(meta)))
    }

    /// Whether an upload is gone. One that still has its parts was not completed: an object that looks like what it makes
    /// is then one of the same content from before.
    async fn is_used_up(&self, key: &Key, upload: &str) -> Result<bool> {
        match self.list_parts(key, upload).await {
            Ok(_) => Ok(false),
            Err(e) if e.kind() == Kind::Stale => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// An upload that is gone is Ok.
    pub async fn abort_upload(&self, key: &Key, upload: &str) -> Result<()> {
        let action = Action::new(Op::AbortMultipartUpload, Method::Delete, key.as_str()).query("uploadId", upload);
        match self.fetch(&action).await {
            Err(error) if matches!(error.kind(), Kind::Stale | Kind::NotFound) => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// All uploads in progress under `prefix`.
    pub async fn list_uploads(&self, prefix: &str) -> Result<Vec<Upload>> {
        let mut uploads = Vec::new();
        let mut from: Option<(String, String)> = None;
        for _ in 0..PAGES_MAX {
            let mut action = Action::new(Op::ListMultipartUploads, Method::Get, "")
                .query("uploads", "")
                .query("prefix", prefix)
                .query("max-uploads", "1000");
            if let Some((key, id)) = &from {
                action = action.query("key-marker", key.as_str());
                if !id.is_empty() {
                    action = action.query("upload-id-marker", id.as_str());
                }
            }
            let document = self.fetch(&action).await?.document(Op::ListMultipartUploads)?;
            for upload in document.all("Upload") {
                uploads.push(Upload {
                    key: upload.text_of("Key").to_owned(),
                    id: upload.text_of("UploadId").to_owned(),
                    initiated: xml::time(upload.text_of("Initiated")),
                    storage_class: upload.some("StorageClass"),
                    owner: upload.child("Owner").and_then(|o| o.some("ID")),
                });
            }
            if !document.is_true("IsTruncated") {
                return Ok(uploads);
            }
            let last = uploads.last().map(|u| (u.key.clone(), u.id.clone()));
            let next = match document.some("NextKeyMarker") {
                Some(key) => Some((key, document.text_of("NextUploadIdMarker").to_owned())),
                None => last,
            };
            if next.is_none() || next == from {
                break;
            }
            from = next;
        }
        Err(Error::new(Kind::Io, "list multipart uploads: the store repeats itself and would never end"))
    }

    /// All parts of an upload. Errors: [`Kind::Stale`] when it is gone.
    pub async fn list_parts(&self, key: &Key, upload: &str) -> Result<Vec<Part>> {
        let mut parts: Vec<Part> = Vec::new();
        let mut from = 0u32;
        for _ in 0..PAGES_MAX {
            let mut action = Action::new(Op::ListParts, Method::Get, key.as_str())
                .query("uploadId", upload)
                .query("max-parts", "1000");
            if from > 0 {
                action = action.query("part-number-marker", from.to_string());
            }
            let document = self.fetch(&action).await.map_err(gone)?.document(Op::ListParts)?;
            for part in document.all("Part") {
                let (Ok(number), Ok(size)) =
                    (part.text_of("PartNumber").trim().parse(), part.text_of("Size").trim().parse())
                else {
                    return Err(Error::new(Kind::Io, "list parts: a part without number or size").with_key(key));
                };
                if parts.last().is_none_or(|p| p.number < number) {
                    parts.push(Part {
                        number,
                        etag: ETag::new(part.text_of("ETag")),
                        size,
                        checksum: part.some("ChecksumCRC32C"),
                    });
                }
            }
            if !document.is_true("IsTruncated") {
                return Ok(parts);
            }
            let last = parts.last().map_or(0, |p| p.number);
            let next = document.text_of("NextPartNumberMarker").trim().parse().unwrap_or(last);
            if next <= from {
                break;
            }
            from = next;
        }
        Err(Error::new(Kind::Io, "list parts: the store repeats itself and would never end").with_key(key))
    }
}

/// Whether an upload that failed so can never be completed: it is gone, or the store refuses its parts.
pub fn ends_upload(error: &Error) -> bool {
    matches!(error.kind(), Kind::Stale | Kind::TooLarge)
        || matches!(error.code(), "InvalidPart" | "InvalidPartOrder" | "EntityTooSmall")
}

fn total(parts: &[Part]) -> u64 {
    parts.iter().map(|p| p.size).sum()
}

/// The entity tag that most stores give an object of these parts: the MD5 of the parts' MD5s, and their number.
fn usual_tag(parts: &[Part]) -> Option<String> {
    let mut digest = Md5::new();
    for part in parts {
        let hex = part.etag.as_str();
        if hex.len() != 32 || !hex.is_ascii() {
            return None;
        }
        for at in (0..32).step_by(2) {
            digest.update([u8::from_str_radix(&hex[at..at + 2], 16).ok()?]);
        }
    }
    let hex: String = digest.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Some(format!("{hex}-{}", parts.len()))
}

/// Whether an object is what a completion made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    Yes,
    No,
    /// Size and time fit, as they do for an object of the same size that was stored a moment before.
    Perhaps,
}

/// Whether this object is what a completion that began at `begun` (the store's clock) made of `parts`.
fn is_made_of(meta: &ObjectMeta, parts: &[Part], begun: SystemTime) -> Made {
    // Times in headers are whole seconds; the clocks were compared when the store complained, or agree roughly.
    const SLACK: Duration = Duration::from_secs(5);
    if meta.size != total(parts) {
        return Made::No;
    }
    if usual_tag(parts).is_some_and(|tag| tag == meta.etag.as_str()) {
        return Made::Yes;
    }
    if meta.last_modified.is_some_and(|t| t + SLACK >= begun) { Made::Perhaps } else { Made::No }
}

/// Requests on an upload: a 404 of any name means that it is gone.
fn gone(error: Error) -> Error {
    match error.kind() {
        Kind::NotFound => error.with_kind(Kind::Stale),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_entity_tag_of_parts() {
        // Two parts of the reference example: 5 MiB of zero bytes and `tail`.
        let zeros = Md5::digest(vec![0; 5 << 20]);
        let tail = Md5::digest(b"tail");
        let hex = |d: &[u8]| d.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let part = |number, hex: &str, size| Part { number, etag: ETag::new(hex), size, checksum: None };
        let parts = [part(1, &hex(&zeros), 5 << 20), part(2, &hex(&tail), 4)];
        assert_eq!(usual_tag(&parts).as_deref(), Some("47693b6aafc99e607a33f321da4dc903-2"));
        assert_eq!(usual_tag(&[part(1, "opaque", 1)]), None);
    }
}

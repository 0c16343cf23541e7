//! CopyObject and UploadPartCopy: no byte is copied, the new object shares the pieces of its source.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::acl::{Acl, Right, object_grants};
use super::object::ReadConditions;
use super::service::{ANONYMOUS, Received, Service, attributes, ok, shown_version};
use super::store::{Checksums, Conditions, UploadedPart, Version, no_such_upload, now, timestamp};

/// Largest source of one CopyObject or UploadPartCopy, in bytes.
const MAX_COPY: u64 = 5 << 30;

macro_rules! source_conditions {
    ($input:expr) => {
        ReadConditions {
            if_match: &$input.copy_source_if_match,
            if_none_match: &$input.copy_source_if_none_match,
            if_modified_since: &$input.copy_source_if_modified_since,
            if_unmodified_since: &$input.copy_source_if_unmodified_since,
        }
    };
}

fn condition(headers: &http::HeaderMap, name: &str) -> S3Result<Option<ETagCondition>> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let parsed = ETagCondition::parse_http_header(value.as_bytes());
    parsed.map(Some).map_err(|e| s3_error!(e, InvalidArgument, "invalid condition"))
}

/// `bytes=first-last`, both within the source: unlike a read, a copy is not clipped.
fn copy_range(text: Option<&str>, size: u64) -> S3Result<std::ops::Range<u64>> {
    let Some(text) = text else { return Ok(0..size) };
    let malformed =
        || s3_error!(InvalidArgument, "The x-amz-copy-source-range value must be of the form bytes=first-last");
    let (first, last) = text.strip_prefix("bytes=").and_then(|r| r.split_once('-')).ok_or_else(malformed)?;
    let first: u64 = first.parse().map_err(|_| malformed())?;
    let last: u64 = last.parse().map_err(|_| malformed())?;
    if first > last {
        return Err(malformed());
    }
    if last >= size {
        return Err(s3_error!(InvalidArgument, "Range specified is not valid for source object"));
    }
    Ok(first..last + 1)
}

impl Service {
    pub(super) async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        let who = self.who(&req.credentials);
        let mut i = req.input;
        let bucket_owner = self.bucket(&i.bucket, who.as_deref(), Right::Write, |b| Ok(b.info.acl.owner.clone()))?;
        let (source, source_versioning, from_bucket, from_key) =
            self.copy_source(&i.copy_source, &source_conditions!(i), who.as_deref())?;
        if source.data.size() > MAX_COPY {
            return Err(s3_error!(InvalidRequest, "The source is larger than the maximum allowable size for a copy"));
        }
        let replace = i.metadata_directive.as_ref().is_some_and(|d| d.as_str() == MetadataDirective::REPLACE);
        let retag = i.tagging_directive.as_ref().is_some_and(|d| d.as_str() == TaggingDirective::REPLACE);
        let given_class = i.storage_class.is_some();
        let mut new = attributes!(i)?;
        let old = &source.attributes;
        let same = from_bucket == i.bucket && from_key == i.key;
        let names_version = matches!(&i.copy_source, CopySource::Bucket { version_id: Some(_), .. });
        let changes = replace
            || retag
            || names_version
            || new.sse.is_some()
            || new.website_redirect.is_some()
            || (given_class && new.storage_class != old.storage_class);
        if same && !changes {
            return Err(s3_error!(
                InvalidRequest,
                "This copy request is illegal because it is trying to copy an object to itself without changing the \
                 object's metadata, storage class, website redirect location or encryption attributes."
            ));
        }
        if !replace {
            let mut kept = old.clone();
            // Neither class nor encryption nor redirect is copied.
            kept.storage_class = new.storage_class.take();
            kept.sse = new.sse.take();
            kept.sse_kms_key = new.sse_kms_key.take();
            kept.website_redirect = new.website_redirect.take();
            kept.tags = std::mem::take(&mut new.tags);
            new = kept;
        }
        if !retag {
            new.tags = old.tags.clone();
        }
        let grants = object_grants!(i);
        let owner = who.as_deref().unwrap_or(ANONYMOUS);
        let canned = i.acl.as_ref().map(|a| a.as_str());
        let acl = Acl::of_headers(canned, &grants, owner, Some(&bucket_owner), &self.0.users)?;
        let conditions = Conditions {
            if_match: condition(&req.headers, "if-match")?,
            if_none_match: condition(&req.headers, "if-none-match")?,
        };
        let conditions = self.kept_conditions(&i.bucket, conditions)?;
        let received = Received {
            data: source.data.clone(),
            // A copy is one part, whatever its source was; its MD5 is not computed again for a large one.
            etag: if source.parts.is_empty() { source.etag.clone() } else { self.0.store.cheap_etag() },
            checksums: source.checksums.clone(),
        };
        let version = Version::new(received, new, acl);
        let (v, versioning) = self.0.store.put_version(&i.bucket, &i.key, version, &conditions)?;
        ok(CopyObjectOutput {
            copy_object_result: Some(CopyObjectResult {
                e_tag: Some(v.etag()),
                last_modified: Some(timestamp(v.modified)),
                ..Default::default()
            }),
            copy_source_version_id: shown_version(source_versioning, &source.id),
            version_id: shown_version(versioning, &v.id),
            ..Default::default()
        })
    }

    pub(super) async fn upload_part_copy(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let who = self.who(&req.credentials);
        let i = req.input;
        self.bucket(&i.bucket, who.as_deref(), Right::Write, |b| {
            let upload = b.uploads.get(&(i.key.clone(), i.upload_id.clone()));
            upload.map(|_| ()).ok_or_else(no_such_upload)
        })?;
        let number = super::multipart::part_number(i.part_number)?;
        let (source, versioning, ..) = self.copy_source(&i.copy_source, &source_conditions!(i), who.as_deref())?;
        let range = copy_range(i.copy_source_range.as_deref(), source.data.size())?;
        if range.end - range.start > MAX_COPY {
            return Err(s3_error!(InvalidRequest, "The source range is larger than the maximum allowable size"));
        }
        let part = UploadedPart {
            data: source.data.slice(range),
            etag: self.0.store.cheap_etag(),
            modified: now(),
            checksums: Checksums::default(),
        };
        let result = CopyPartResult {
            e_tag: Some(ETag::Strong(part.etag.clone())),
            last_modified: Some(timestamp(part.modified)),
            ..Default::default()
        };
        self.0.store.with_bucket_mut(&i.bucket, |b| self.0.store.add_part(b, &i.key, &i.upload_id, number, part))?;
        ok(UploadPartCopyOutput {
            copy_part_result: Some(result),
            copy_source_version_id: shown_version(versioning, &source.id),
            ..Default::default()
        })
    }
}

//! Objects: GET, HEAD, PUT, DELETE and restore.

use std::ops::Range as Bytes;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use super::acl::{Acl, Right, object_grants};
use super::form::Form;
use super::service::{ANONYMOUS, Accepted, Service, attributes, custom, denied, http_date, ok, shown_version, sums};
use super::store::{
    Bucket, Conditions, NULL, Restore, Version, Versioning, matches_etag, now, precondition_failed, timestamp,
};

/// The conditions of a read.
pub(super) struct ReadConditions<'a> {
    pub if_match: &'a Option<ETagCondition>,
    pub if_none_match: &'a Option<ETagCondition>,
    pub if_modified_since: &'a Option<Timestamp>,
    pub if_unmodified_since: &'a Option<Timestamp>,
}

impl ReadConditions<'_> {
    /// `Ok(false)`: not modified.
    pub fn check(&self, v: &Version) -> S3Result<bool> {
        let modified = timestamp(v.modified);
        match self.if_match {
            Some(condition) if !matches_etag(condition, &v.etag) => return Err(precondition_failed()),
            // With If-Match the date does not count: RFC 9110, 13.2.2.
            Some(_) => {}
            None if self.if_unmodified_since.as_ref().is_some_and(|t| modified > *t) => {
                return Err(precondition_failed());
            }
            None => {}
        }
        Ok(match self.if_none_match {
            Some(condition) => !matches_etag(condition, &v.etag),
            None => self.if_modified_since.as_ref().is_none_or(|t| modified > *t),
        })
    }
}

fn not_modified(v: &Version) -> S3Error {
    let mut e = s3_error!(NotModified);
    let mut headers = HeaderMap::new();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", v.etag)) {
        headers.insert("etag", tag);
    }
    if let Ok(date) = HeaderValue::from_str(&http_date(&timestamp(v.modified))) {
        headers.insert("last-modified", date);
    }
    e.set_headers(headers);
    e
}

/// The bytes a read asks for, and `Content-Range` when it is not all of them.
fn select(v: &Version, range: Option<Range>, part: Option<i32>) -> S3Result<(Bytes<u64>, Option<String>)> {
    let size = v.data.size();
    let invalid = || {
        let mut e = s3_error!(InvalidRange, "The requested range is not satisfiable");
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/xml"));
        if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
            headers.insert("content-range", value);
        }
        e.set_headers(headers);
        e
    };
    let bytes = match (range, part) {
        (Some(_), Some(_)) => return Err(s3_error!(InvalidRequest, "Cannot specify both Range header and partNumber")),
        (None, None) => return Ok((0..size, None)),
        (Some(range), None) => range.check(size).map_err(|_| invalid())?,
        (None, Some(number)) => {
            let index = usize::try_from(number).ok().and_then(|n| n.checked_sub(1)).ok_or_else(|| {
                s3_error!(InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive")
            })?;
            if v.parts.is_empty() && index == 0 {
                0..size
            } else {
                let len = *v
                    .parts
                    .get(index)
                    .ok_or_else(|| custom("InvalidPartNumber", 416, "The requested partnumber is not satisfiable"))?;
                let start: u64 = v.parts[..index].iter().sum();
                start..start + len
            }
        }
    };
    if bytes.is_empty() {
        return if part.is_some() { Ok((bytes, None)) } else { Err(invalid()) };
    }
    let header = format!("bytes {}-{}/{size}", bytes.start, bytes.end - 1);
    Ok((bytes, Some(header)))
}

fn restore_header(v: &Version) -> Option<String> {
    let restore = v.restored()?;
    Some(if now() < restore.ready {
        "ongoing-request=\"true\"".to_owned()
    } else {
        format!("ongoing-request=\"false\", expiry-date=\"{}\"", http_date(&timestamp(restore.until)))
    })
}

/// Fills the fields that GetObjectOutput and HeadObjectOutput share.
macro_rules! describe {
    ($output:ident, $v:expr, $versioning:expr, $bytes:expr, $content_range:expr, $input:expr) => {{
        let v: &Version = $v;
        let a = &v.attributes;
        let sums = ($input.checksum_mode.is_some() && $content_range.is_none()).then(|| v.checksums.clone());
        let sums = sums.unwrap_or_default();
        $output {
            accept_ranges: Some("bytes".into()),
            cache_control: a.cache_control.clone(),
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            content_disposition: a.content_disposition.clone(),
            content_encoding: a.content_encoding.clone(),
            content_language: a.content_language.clone(),
            content_length: Some(($bytes.end - $bytes.start) as i64),
            content_range: $content_range,
            content_type: Some(a.content_type.clone().unwrap_or_else(|| "binary/octet-stream".into())),
            e_tag: Some(v.etag()),
            expires: a.expires.as_deref().and_then(|t| Timestamp::parse(TimestampFormat::HttpDate, t).ok()),
            last_modified: Some(timestamp(v.modified)),
            metadata: (!a.metadata.is_empty()).then(|| a.metadata.clone().into_iter().collect()),
            parts_count: $input.part_number.map(|_| v.parts.len().max(1) as i32),
            restore: restore_header(v),
            server_side_encryption: a.sse.clone().map(Into::into),
            ssekms_key_id: a.sse_kms_key.clone(),
            storage_class: a.storage_class.clone().map(Into::into),
            version_id: shown_version($versioning, &v.id),
            website_redirect_location: a.website_redirect.clone(),
            ..Default::default()
        }
    }};
}

macro_rules! read_conditions {
    ($input:expr) => {
        ReadConditions {
            if_match: &$input.if_match,
            if_none_match: &$input.if_none_match,
            if_modified_since: &$input.if_modified_since,
            if_unmodified_since: &$input.if_unmodified_since,
        }
    };
}

impl Service {
    pub(super) async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let i = &req.input;
        let who = self.who(&req.credentials);
        let overrides = [
            &i.response_cache_control,
            &i.response_content_disposition,
            &i.response_content_encoding,
            &i.response_content_language,
            &i.response_content_type,
        ];
        if who.is_none() && (overrides.iter().any(|o| o.is_some()) || i.response_expires.is_some()) {
            return Err(s3_error!(InvalidRequest, "Request specific response headers cannot be used anonymously"));
        }
        let (v, versioning) = self.find(&i.bucket, &i.key, i.version_id.as_deref(), who.as_deref(), Right::Read)?;
        if !read_conditions!(i).check(&v)? {
            return Err(not_modified(&v));
        }
        v.check_readable()?;
        let (bytes, content_range) = select(&v, i.range, i.part_number)?;
        let mut output = describe!(GetObjectOutput, &v, versioning, bytes, content_range, i);
        output.tag_count = (!v.attributes.tags.is_empty()).then_some(v.attributes.tags.len() as i32);
        output.body = Some(StreamingBlob::new(v.data.slice(bytes).stream()));
        ok(output)
    }

    pub(super) async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let i = &req.input;
        let who = self.who(&req.credentials);
        let (v, versioning) = self.find(&i.bucket, &i.key, i.version_id.as_deref(), who.as_deref(), Right::Read)?;
        if !read_conditions!(i).check(&v)? {
            return Err(not_modified(&v));
        }
        let (bytes, content_range) = select(&v, i.range, i.part_number)?;
        let output = describe!(HeadObjectOutput, &v, versioning, bytes, content_range, i);
        let mut headers = HeaderMap::new();
        if !v.attributes.tags.is_empty() {
            headers.insert("x-amz-tagging-count", HeaderValue::from(v.attributes.tags.len()));
        }
        for (name, value) in [
            ("cache-control", &i.response_cache_control),
            ("content-disposition", &i.response_content_disposition),
            ("content-encoding", &i.response_content_encoding),
            ("content-language", &i.response_content_language),
            ("content-type", &i.response_content_type),
        ] {
            if let Some(value) = value {
                headers.insert(name, value.parse().map_err(|e| s3_error!(e, InvalidArgument, "response header"))?);
            }
        }
        Ok(S3Response::with_headers(output, headers))
    }

    pub(super) async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let who = self.who(&req.credentials);
        let mut i = req.input;
        if let Some(form) = req.extensions.get::<Form>() {
            i.acl = form.acl.clone().map(Into::into).or(i.acl);
            if let Some(name) = &form.filename {
                i.key = i.key.replace("${filename}", name);
            }
        }
        let bucket_owner = self.bucket(&i.bucket, who.as_deref(), Right::Write, |b| Ok(b.info.acl.owner.clone()))?;
        let grants = object_grants!(i);
        let owner = who.as_deref().unwrap_or(ANONYMOUS);
        let acl =
            Acl::of_headers(i.acl.as_ref().map(|a| a.as_str()), &grants, owner, Some(&bucket_owner), &self.0.users)?;
        let conditions = Conditions { if_match: i.if_match.take(), if_none_match: i.if_none_match.take() };
        let conditions = self.kept_conditions(&i.bucket, conditions)?;
        // A condition that fails already need not wait for the body.
        self.0.store.with_bucket(&i.bucket, |b| self.0.store.check_conditions(b, &i.key, &conditions))?;
        let attributes = attributes!(i)?;
        let sse = attributes.sse.clone();
        let received = self
            .receive(
                i.body.take(),
                i.content_length,
                i.content_md5.as_deref(),
                sums!(i),
                &req.headers,
                req.trailing_headers,
            )
            .await?;
        let version = Version::new(received, attributes, acl);
        let (v, versioning) = self.0.store.put_version(&i.bucket, &i.key, version, &conditions)?;
        ok(PutObjectOutput {
            e_tag: Some(v.etag()),
            checksum_crc32: v.checksums.crc32.clone(),
            checksum_crc32c: v.checksums.crc32c.clone(),
            checksum_crc64nvme: v.checksums.crc64nvme.clone(),
            checksum_sha1: v.checksums.sha1.clone(),
            checksum_sha256: v.checksums.sha256.clone(),
            server_side_encryption: sse.map(Into::into),
            version_id: shown_version(versioning, &v.id),
            ..Default::default()
        })
    }

    /// Deletes as the versioning state says. Gives the id to show and whether it is that of a delete marker.
    fn delete_one(
        &self,
        b: &mut Bucket,
        key: &str,
        id: Option<&str>,
        who: Option<&str>,
    ) -> S3Result<(Option<String>, bool)> {
        if let Some(id) = id {
            // Versions are gone for good: only the owner of the bucket may do that.
            if who != Some(&b.info.acl.owner) && b.info.versioning != Versioning::Never {
                return Err(denied());
            }
            let removed = self.0.store.remove_version(b, key, id)?;
            return Ok((Some(id.to_owned()), removed.is_some_and(|v| v.delete_marker)));
        }
        let versioning = b.info.versioning;
        if versioning != Versioning::Enabled {
            self.0.store.remove_version(b, key, NULL)?;
        }
        if versioning == Versioning::Never {
            return Ok((None, false));
        }
        let marker = Version::marker(Acl::private(who.unwrap_or(ANONYMOUS)));
        let marker = self.0.store.add_version(b, key, marker)?;
        Ok((Some(marker.id.to_string()), true))
    }

    pub(super) async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let who = self.who(&req.credentials);
        let i = req.input;
        self.bucket(&i.bucket, who.as_deref(), Right::Write, |_| Ok(()))?;
        let (version_id, marker) = self.0.store.with_bucket_mut(&i.bucket, |b| {
            if let (Some(condition), Some(current)) = (&i.if_match, b.current(&i.key))
                && !matches_etag(condition, &current.etag)
            {
                return Err(precondition_failed());
            }
            self.delete_one(b, &i.key, i.version_id.as_deref(), who.as_deref())
        })?;
        ok(DeleteObjectOutput { delete_marker: marker.then_some(true), version_id, ..Default::default() })
    }

    pub(super) async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let who = self.who(&req.credentials);
        let summed =
            req.headers.keys().any(|n| n.as_str() == "content-md5" || n.as_str().starts_with("x-amz-checksum-"));
        if !summed {
            return Err(s3_error!(InvalidRequest, "Missing required header for this request: Content-MD5"));
        }
        let i = req.input;
        self.bucket(&i.bucket, who.as_deref(), Right::Write, |_| Ok(()))?;
        if i.delete.objects.is_empty() || i.delete.objects.len() > 1000 {
            return Err(s3_error!(MalformedXML, "The XML you provided was not well-formed"));
        }
        let quiet = i.delete.quiet.unwrap_or(false);
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        self.0.store.with_bucket_mut(&i.bucket, |b| {
            for object in &i.delete.objects {
                let id = object.version_id.as_deref();
                let result = match (&object.e_tag, b.current(&object.key)) {
                    (Some(tag), Some(current)) if tag.value() != current.etag => Err(precondition_failed()),
                    _ => self.delete_one(b, &object.key, id, who.as_deref()),
                };
                match result {
                    Ok(_) if quiet => {}
                    Ok((made, marker)) => deleted.push(DeletedObject {
                        key: Some(object.key.clone()),
                        delete_marker: marker.then_some(true),
                        delete_marker_version_id: made.filter(|_| marker),
                        version_id: object.version_id.clone(),
                    }),
                    Err(e) => errors.push(Error {
                        code: Some(e.code().as_str().to_owned()),
                        key: Some(object.key.clone()),
                        message: e.message().map(str::to_owned),
                        version_id: object.version_id.clone(),
                    }),
                }
            }
            Ok(())
        })?;
        ok(DeleteObjectsOutput {
            deleted: (!deleted.is_empty()).then_some(deleted),
            errors: (!errors.is_empty()).then_some(errors),
            ..Default::default()
        })
    }

    pub(super) async fn restore_object(
        &self,
        req: S3Request<RestoreObjectInput>,
    ) -> S3Result<S3Response<RestoreObjectOutput>> {
        let who = self.who(&req.credentials);
        let i = req.input;
        let id = i.version_id.as_deref();
        let (v, _) = self.find(&i.bucket, &i.key, id, who.as_deref(), Right::Read)?;
        if who.as_deref() != Some(&v.acl.owner) {
            return Err(denied());
        }
        let days = i.restore_request.as_ref().and_then(|r| r.days).filter(|d| *d > 0);
        let days = days.ok_or_else(|| s3_error!(MalformedXML, "A restore needs a number of days"))? as u64;
        let delay = self.0.knobs.with(|b| b.restore_delay).as_millis() as u64;
        let until = now() + delay + days * 86_400_000;
        let mut again = false;
        self.0.store.with_bucket_mut(&i.bucket, |b| {
            self.0.store.edit_version(b, &i.key, id, |v: &mut Version| {
                if !v.archived() {
                    return Err(s3_error!(
                        InvalidObjectState,
                        "Restore is not allowed for the object's current storage class"
                    ));
                }
                match v.restored() {
                    Some(r) if now() < r.ready => {
                        return Err(s3_error!(RestoreAlreadyInProgress, "Object restore is already in progress"));
                    }
                    Some(r) => {
                        again = true;
                        v.restore = Some(Restore { ready: r.ready, until });
                    }
                    None => v.restore = Some(Restore { ready: now() + delay, until }),
                }
                Ok(())
            })
        })?;
        let mut response = S3Response::new(RestoreObjectOutput::default());
        if !again {
            response.extensions.insert(Accepted);
        }
        Ok(response)
    }

    /// The source of a copy, readable and as the conditions want it.
    pub(super) fn copy_source(
        &self,
        source: &CopySource,
        conditions: &ReadConditions<'_>,
        who: Option<&str>,
    ) -> S3Result<(Arc<Version>, Versioning, String, String)> {
        let CopySource::Bucket { bucket, key, version_id } = source else {
            return Err(s3_error!(NotImplemented, "Copy from an access point"));
        };
        let found = self.find(bucket, key, version_id.as_deref(), who, Right::Read);
        let (v, versioning) = found.map_err(|e| match e.code() {
            // A delete marker is no source: 400 instead of the 405 of a read.
            s3s::S3ErrorCode::MethodNotAllowed => {
                s3_error!(InvalidRequest, "The source of a copy request may not be a delete marker")
            }
            _ => e,
        })?;
        if !conditions.check(&v)? {
            return Err(precondition_failed());
        }
        v.check_readable()?;
        Ok((v, versioning, bucket.to_string(), key.to_string()))
    }
}

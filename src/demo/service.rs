//! The S3 operations over the [`Store`]: what they share. The operations themselves are in `object`, `copy`, `list`,
//! `multipart`, `attribute` and `bucket`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::BytesMut;
use futures_util::StreamExt;
use md5::{Digest, Md5};
use s3s::auth::Credentials;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::Checksum as _;
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, TrailingHeaders, s3_error};

use super::Shared;
use super::acl::{Acl, Right};
use super::data::Data;
use super::disk::Disk;
use super::store::{
    Attributes, Bucket, Checksums, Conditions, NULL, Restore, Version, Versioning, hex, no_such_key, now,
};

/// Largest body of one PUT, in bytes.
const MAX_PUT: u64 = 5 << 30;
/// Bytes written to a data file at once.
const WRITE_STEP: usize = 1 << 20;
/// No header decides alone how much memory is set aside.
const MAX_RESERVE: u64 = 256 << 20;
/// Most bytes of user metadata, names and values.
const MAX_METADATA: usize = 2048;
/// The user id S3 gives to requests without a signature.
pub(super) const ANONYMOUS: &str = "65a011a29cdf8ec533ec3d1ccaae921c";

const CLASSES: [&str; 9] = [
    "STANDARD",
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER",
    "DEEP_ARCHIVE",
    "GLACIER_IR",
    "EXPRESS_ONEZONE",
];

#[derive(Clone)]
pub(super) struct Service(pub Arc<Shared>);

macro_rules! operations {
    ($($name:ident $input:ident $output:ident;)*) => {
        #[async_trait::async_trait]
        impl S3 for Service {
            $(async fn $name(&self, req: S3Request<$input>) -> S3Result<S3Response<$output>> {
                Service::$name(self, req).await
            })*
        }
    };
}

operations! {
    get_object GetObjectInput GetObjectOutput;
    head_object HeadObjectInput HeadObjectOutput;
    put_object PutObjectInput PutObjectOutput;
    delete_object DeleteObjectInput DeleteObjectOutput;
    delete_objects DeleteObjectsInput DeleteObjectsOutput;
    copy_object CopyObjectInput CopyObjectOutput;
    restore_object RestoreObjectInput RestoreObjectOutput;
    list_objects ListObjectsInput ListObjectsOutput;
    list_objects_v2 ListObjectsV2Input ListObjectsV2Output;
    list_object_versions ListObjectVersionsInput ListObjectVersionsOutput;
    create_multipart_upload CreateMultipartUploadInput CreateMultipartUploadOutput;
    upload_part UploadPartInput UploadPartOutput;
    upload_part_copy UploadPartCopyInput UploadPartCopyOutput;
    complete_multipart_upload CompleteMultipartUploadInput CompleteMultipartUploadOutput;
    abort_multipart_upload AbortMultipartUploadInput AbortMultipartUploadOutput;
    list_parts ListPartsInput ListPartsOutput;
    list_multipart_uploads ListMultipartUploadsInput ListMultipartUploadsOutput;
    get_object_acl GetObjectAclInput GetObjectAclOutput;
    put_object_acl PutObjectAclInput PutObjectAclOutput;
    get_object_tagging GetObjectTaggingInput GetObjectTaggingOutput;
    put_object_tagging PutObjectTaggingInput PutObjectTaggingOutput;
    delete_object_tagging DeleteObjectTaggingInput DeleteObjectTaggingOutput;
    list_buckets ListBucketsInput ListBucketsOutput;
    create_bucket CreateBucketInput CreateBucketOutput;
    head_bucket HeadBucketInput HeadBucketOutput;
    delete_bucket DeleteBucketInput DeleteBucketOutput;
    get_bucket_location GetBucketLocationInput GetBucketLocationOutput;
    get_bucket_acl GetBucketAclInput GetBucketAclOutput;
    put_bucket_acl PutBucketAclInput PutBucketAclOutput;
    get_bucket_tagging GetBucketTaggingInput GetBucketTaggingOutput;
    put_bucket_tagging PutBucketTaggingInput PutBucketTaggingOutput;
    delete_bucket_tagging DeleteBucketTaggingInput DeleteBucketTaggingOutput;
    get_bucket_versioning GetBucketVersioningInput GetBucketVersioningOutput;
    put_bucket_versioning PutBucketVersioningInput PutBucketVersioningOutput;
    get_bucket_policy GetBucketPolicyInput GetBucketPolicyOutput;
    put_bucket_policy PutBucketPolicyInput PutBucketPolicyOutput;
    delete_bucket_policy DeleteBucketPolicyInput DeleteBucketPolicyOutput;
    get_bucket_lifecycle_configuration GetBucketLifecycleConfigurationInput GetBucketLifecycleConfigurationOutput;
    put_bucket_lifecycle_configuration PutBucketLifecycleConfigurationInput PutBucketLifecycleConfigurationOutput;
    delete_bucket_lifecycle DeleteBucketLifecycleInput DeleteBucketLifecycleOutput;
    get_bucket_cors GetBucketCorsInput GetBucketCorsOutput;
    put_bucket_cors PutBucketCorsInput PutBucketCorsOutput;
    delete_bucket_cors DeleteBucketCorsInput DeleteBucketCorsOutput;
}

pub(super) fn ok<T>(output: T) -> S3Result<S3Response<T>> {
    Ok(S3Response::new(output))
}

pub(super) fn denied() -> s3s::S3Error {
    s3_error!(AccessDenied, "Access Denied")
}

/// An error code that the S3 crate does not know.
pub(super) fn custom(code: &str, status: u16, message: &'static str) -> s3s::S3Error {
    let code = code.parse().unwrap_or(s3s::S3ErrorCode::InternalError);
    let mut e = s3s::S3Error::with_message(code, message);
    if let Ok(status) = http::StatusCode::from_u16(status) {
        e.set_status_code(status);
    }
    e
}

/// Marks an answer whose status is 202.
#[derive(Clone)]
pub(super) struct Accepted;

/// `NextMarker` for the page of a listing that was asked for as version 2 and is answered as version 1.
#[derive(Clone)]
pub(super) struct NextMarker(pub Option<String>);

/// The version id as answers show it: none while the bucket was never versioned.
pub(super) fn shown_version(versioning: Versioning, id: &str) -> Option<String> {
    (versioning != Versioning::Never).then(|| id.to_owned())
}

/// A body that was received.
pub(super) struct Received {
    pub data: Data,
    pub etag: String,
    pub checksums: Checksums,
}

macro_rules! sums {
    ($input:expr) => {
        $crate::demo::store::Checksums {
            crc32: $input.checksum_crc32.clone(),
            crc32c: $input.checksum_crc32c.clone(),
            crc64nvme: $input.checksum_crc64nvme.clone(),
            sha1: $input.checksum_sha1.clone(),
            sha256: $input.checksum_sha256.clone(),
        }
    };
}
pub(super) use sums;

/// The attributes that PutObject, CopyObject and CreateMultipartUpload have in common.
macro_rules! attributes {
    ($input:expr) => {
        $crate::demo::service::checked_attributes($crate::demo::store::Attributes {
            content_type: $input.content_type.take(),
            cache_control: $input.cache_control.take(),
            content_disposition: $input.content_disposition.take(),
            content_encoding: $input.content_encoding.take(),
            content_language: $input.content_language.take(),
            expires: $input.expires.take().map(|t| $crate::demo::service::http_date(&t)),
            website_redirect: $input.website_redirect_location.take(),
            metadata: $input.metadata.take().unwrap_or_default().into_iter().collect(),
            storage_class: $input.storage_class.take().map(|c| c.as_str().to_owned()),
            sse: $input.server_side_encryption.take().map(|s| s.as_str().to_owned()),
            sse_kms_key: $input.ssekms_key_id.take(),
            tags: match $input.tagging.take() {
                Some(text) => $crate::demo::attribute::parse_tags(&text)?,
                None => Vec::new(),
            },
        })
    };
}
pub(super) use attributes;

pub(super) fn checked_attributes(mut a: Attributes) -> S3Result<Attributes> {
    if let Some(class) = &a.storage_class
        && !CLASSES.contains(&class.as_str())
    {
        return Err(s3_error!(InvalidStorageClass, "The storage class you specified is not valid"));
    }
    a.storage_class = a.storage_class.filter(|c| c != "STANDARD");
    // `aws-chunked` describes the transfer, not the object.
    a.content_encoding = a.content_encoding.and_then(|e| {
        let kept: Vec<&str> = e.split(',').map(str::trim).filter(|e| *e != "aws-chunked" && !e.is_empty()).collect();
        (!kept.is_empty()).then(|| kept.join(","))
    });
    if a.metadata.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() > MAX_METADATA {
        return Err(s3_error!(MetadataTooLarge, "Your metadata headers exceed the maximum allowed metadata size"));
    }
    Ok(a)
}

pub(super) fn http_date(time: &Timestamp) -> String {
    let mut out = Vec::new();
    // Writing to a vector cannot fail, and every timestamp S3 accepts has an HTTP date.
    let _written = time.format(TimestampFormat::HttpDate, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

impl Version {
    /// A version that is about to be stored: [`super::store::Store::put_version`] gives it id and order.
    pub fn new(received: Received, attributes: Attributes, acl: Acl) -> Version {
        Version {
            id: NULL.into(),
            seq: 0,
            delete_marker: false,
            data: received.data,
            etag: received.etag,
            modified: now(),
            attributes,
            acl,
            checksums: received.checksums,
            parts: Vec::new(),
            restore: None,
        }
    }

    pub fn marker(acl: Acl) -> Version {
        let nothing = Received { data: Data::default(), etag: String::new(), checksums: Checksums::default() };
        Version { delete_marker: true, ..Version::new(nothing, Attributes::default(), acl) }
    }

    pub fn etag(&self) -> ETag {
        ETag::Strong(self.etag.clone())
    }

    pub fn archived(&self) -> bool {
        matches!(self.attributes.storage_class.as_deref(), Some("GLACIER" | "DEEP_ARCHIVE"))
    }

    /// The restore that is under way or still valid.
    pub fn restored(&self) -> Option<Restore> {
        self.restore.filter(|r| self.archived() && now() < r.until)
    }

    /// Archived bytes cannot be read before they are restored.
    pub fn check_readable(&self) -> S3Result<()> {
        if self.archived() && self.restored().is_none_or(|r| now() < r.ready) {
            return Err(s3_error!(
                InvalidObjectState,
                "The operation is not valid for the object's storage class and access tier"
            ));
        }
        Ok(())
    }
}

impl Service {
    /// The user id behind a request; `None` for an anonymous one.
    pub(super) fn who(&self, credentials: &Option<Credentials>) -> Option<String> {
        credentials.as_ref().and_then(|c| self.0.users.id(&c.access_key))
    }

    /// Runs `f` on a bucket that `who` has the right to.
    pub(super) fn bucket<T>(
        &self,
        name: &str,
        who: Option<&str>,
        right: Right,
        f: impl FnOnce(&Bucket) -> S3Result<T>,
    ) -> S3Result<T> {
        self.0.store.with_bucket(name, |b| if b.info.acl.allows(who, right) { f(b) } else { Err(denied()) })
    }

    /// The conditions of a write that are kept to.
    pub(super) fn kept_conditions(&self, bucket: &str, conditions: Conditions) -> S3Result<Conditions> {
        let versioning = self.0.store.with_bucket(bucket, |b| Ok(b.info.versioning))?;
        let ignored = versioning != Versioning::Never && self.0.knobs.with(|b| b.ceph);
        Ok(if ignored { Conditions::default() } else { conditions })
    }

    /// Configuration belongs to the owner alone.
    pub(super) fn owned<T>(
        &self,
        name: &str,
        who: Option<&str>,
        f: impl FnOnce(&Bucket) -> S3Result<T>,
    ) -> S3Result<T> {
        self.0.store.with_bucket(name, |b| if who == Some(&b.info.acl.owner) { f(b) } else { Err(denied()) })
    }

    /// The version a request is about, with the versioning state of its bucket.
    pub(super) fn find(
        &self,
        bucket: &str,
        key: &str,
        id: Option<&str>,
        who: Option<&str>,
        right: Right,
    ) -> S3Result<(Arc<Version>, Versioning)> {
        self.0.store.with_bucket(bucket, |b| {
            // Who may not list learns nothing about what exists.
            let hidden = |e| if b.info.acl.allows(who, Right::Read) { e } else { denied() };
            let versions = b.objects.get(key);
            let version = match id {
                None => versions.and_then(|v| v.last()),
                Some(id) => versions.and_then(|v| v.iter().find(|v| &*v.id == id)),
            };
            let Some(version) = version else {
                return Err(hidden(match id {
                    None => no_such_key(),
                    Some(_) => s3_error!(NoSuchVersion, "The specified version does not exist."),
                }));
            };
            if version.delete_marker {
                let mut e = match id {
                    None => no_such_key(),
                    Some(_) => {
                        s3_error!(MethodNotAllowed, "The specified method is not allowed against this resource.")
                    }
                };
                let mut headers = http::HeaderMap::new();
                headers.insert("content-type", http::HeaderValue::from_static("application/xml"));
                headers.insert("x-amz-delete-marker", http::HeaderValue::from_static("true"));
                if let Ok(id) = http::HeaderValue::from_str(&version.id) {
                    headers.insert("x-amz-version-id", id);
                }
                e.set_headers(headers);
                return Err(hidden(e));
            }
            if !version.acl.allows(who, right) {
                return Err(denied());
            }
            Ok((version.clone(), b.info.versioning))
        })
    }

    /// Takes a request body in and checks what the client says about it.
    pub(super) async fn receive(
        &self,
        body: Option<StreamingBlob>,
        length: Option<i64>,
        md5: Option<&str>,
        mut sums: Checksums,
        headers: &http::HeaderMap,
        trailers: Option<TrailingHeaders>,
    ) -> S3Result<Received> {
        let length = u64::try_from(length.unwrap_or(0)).unwrap_or(0);
        if length > MAX_PUT {
            return Err(s3_error!(EntityTooLarge, "Your proposed upload exceeds the maximum allowed size"));
        }
        let expected_md5 = md5.map(|text| BASE64.decode(text).ok().filter(|m| m.len() == 16));
        if matches!(expected_md5, Some(None)) {
            return Err(s3_error!(InvalidDigest, "The Content-MD5 you specified is not valid."));
        }
        let expected_md5 = expected_md5.flatten();
        let cheap = self.0.knobs.with(|b| b.cheap_etags) && expected_md5.is_none();
        let mut digest = (!cheap).then(Md5::new);
        let announced = headers.get("x-amz-trailer").and_then(|v| v.to_str().ok()).unwrap_or("").to_ascii_lowercase();
        let wants = |sum: &Option<String>, name: &str| sum.is_some() || announced.contains(name);
        let mut hasher = ChecksumHasher {
            crc32: wants(&sums.crc32, "x-amz-checksum-crc32").then(s3s::crypto::Crc32::new),
            crc32c: wants(&sums.crc32c, "x-amz-checksum-crc32c").then(s3s::crypto::Crc32c::new),
            sha1: wants(&sums.sha1, "x-amz-checksum-sha1").then(s3s::crypto::Sha1::new),
            sha256: wants(&sums.sha256, "x-amz-checksum-sha256").then(s3s::crypto::Sha256::new),
            crc64nvme: wants(&sums.crc64nvme, "x-amz-checksum-crc64nvme").then(s3s::crypto::Crc64Nvme::new),
        };
        let mut sink = Sink::new(self.0.store.disk(), length)?;
        if let Some(mut body) = body {
            while let Some(bytes) = body.next().await {
                let bytes = bytes.map_err(body_error)?;
                if let Some(digest) = &mut digest {
                    digest.update(&bytes);
                }
                hasher.update(&bytes);
                sink.write(&bytes).await?;
            }
        }
        let data = sink.finish().await?;
        if length != 0 && data.size() != length {
            return Err(s3_error!(IncompleteBody, "The body is shorter than Content-Length says"));
        }
        let etag = match digest {
            None => self.0.store.cheap_etag(),
            Some(digest) => {
                let sum = digest.finalize();
                if expected_md5.is_some_and(|e| e != sum[..]) {
                    return Err(s3_error!(BadDigest, "The Content-MD5 you specified did not match what we received."));
                }
                hex(&sum)
            }
        };
        if let Some(trailers) = trailers.and_then(|t| t.take()) {
            let get = |name: &str| trailers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            sums.crc32 = sums.crc32.or_else(|| get("x-amz-checksum-crc32"));
            sums.crc32c = sums.crc32c.or_else(|| get("x-amz-checksum-crc32c"));
            sums.crc64nvme = sums.crc64nvme.or_else(|| get("x-amz-checksum-crc64nvme"));
            sums.sha1 = sums.sha1.or_else(|| get("x-amz-checksum-sha1"));
            sums.sha256 = sums.sha256.or_else(|| get("x-amz-checksum-sha256"));
        }
        let found = hasher.finalize();
        for (expected, found) in [
            (&sums.crc32, &found.checksum_crc32),
            (&sums.crc32c, &found.checksum_crc32c),
            (&sums.crc64nvme, &found.checksum_crc64nvme),
            (&sums.sha1, &found.checksum_sha1),
            (&sums.sha256, &found.checksum_sha256),
        ] {
            if expected.is_some() && expected != found {
                return Err(s3_error!(BadDigest, "The checksum you specified did not match what we received."));
            }
        }
        Ok(Received { data, etag, checksums: sums })
    }
}

/// What a body that could not be read means. The S3 crate keeps its error types to itself: only their text tells.
fn body_error(e: s3s::StdError) -> s3s::S3Error {
    let text = e.to_string();
    if text.contains("Sha256Mismatch") {
        return custom("XAmzContentSHA256Mismatch", 400, "x-amz-content-sha256 does not match what was received.");
    }
    let code = if text.contains("SignatureMismatch") {
        s3s::S3ErrorCode::SignatureDoesNotMatch
    } else {
        s3s::S3ErrorCode::IncompleteBody
    };
    s3s::S3Error::with_source(code, e)
}

/// Where a body goes while it arrives.
enum Sink {
    /// One buffer: a GET then sends one slice of it.
    Memory(BytesMut),
    File {
        file: Arc<super::disk::DataFile>,
        written: u64,
        pending: BytesMut,
    },
}

fn io_error(e: impl std::error::Error + Send + Sync + 'static) -> s3s::S3Error {
    s3s::S3Error::internal_error(e)
}

impl Sink {
    fn new(disk: Option<&Arc<Disk>>, length: u64) -> S3Result<Sink> {
        Ok(match disk {
            Some(disk) => Sink::File { file: disk.create().map_err(io_error)?, written: 0, pending: BytesMut::new() },
            None => Sink::Memory(BytesMut::with_capacity(length.min(MAX_RESERVE) as usize)),
        })
    }

    async fn write(&mut self, bytes: &[u8]) -> S3Result<()> {
        match self {
            Sink::Memory(all) => all.extend_from_slice(bytes),
            Sink::File { pending, .. } => {
                pending.extend_from_slice(bytes);
                if pending.len() >= WRITE_STEP {
                    self.flush().await?;
                }
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> S3Result<()> {
        if let Sink::File { file, written, pending } = self {
            let (file, at, bytes) = (file.clone(), *written, pending.split());
            *written += bytes.len() as u64;
            let write = tokio::task::spawn_blocking(move || file.write(&bytes, at));
            write.await.map_err(io_error)?.map_err(io_error)?;
        }
        Ok(())
    }

    async fn finish(mut self) -> S3Result<Data> {
        self.flush().await?;
        match self {
            Sink::Memory(all) => Ok(all.freeze().into()),
            Sink::File { file, written, .. } => {
                let finish = tokio::task::spawn_blocking(move || Disk::finish(file, written));
                finish.await.map_err(io_error)?.map_err(io_error)
            }
        }
    }
}

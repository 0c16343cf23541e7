//! Multipart uploads.

use md5::{Digest, Md5};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::acl::{Acl, Right, display_name, object_grants};
use super::data::Data;
use super::service::{ANONYMOUS, Received, Service, attributes, denied, ok, shown_version, sums};
use super::store::{Bucket, Checksums, Conditions, Upload, UploadedPart, Version, hex, no_such_upload, now, timestamp};

const MAX_PARTS: i32 = 10_000;
/// Largest object, in bytes.
const MAX_OBJECT: u64 = 5 << 40;
const PAGE: usize = 1000;

pub(super) fn part_number(number: i32) -> S3Result<u32> {
    if !(1..=MAX_PARTS).contains(&number) {
        return Err(s3_error!(InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive"));
    }
    Ok(number as u32)
}

fn upload<'a>(b: &'a Bucket, key: &str, id: &str) -> S3Result<&'a Upload> {
    b.uploads.get(&(key.to_owned(), id.to_owned())).ok_or_else(no_such_upload)
}

/// The MD5 of the parts' MD5s and their number.
fn multipart_etag<'a>(etags: impl Iterator<Item = &'a str>) -> String {
    let mut digest = Md5::new();
    let mut count = 0;
    for etag in etags {
        let bytes: Option<Vec<u8>> = (0..etag.len() / 2)
            .map(|i| etag.get(2 * i..2 * i + 2).and_then(|b| u8::from_str_radix(b, 16).ok()))
            .collect();
        digest.update(bytes.as_deref().unwrap_or(etag.as_bytes()));
        count += 1;
    }
    format!("{}-{count}", hex(&digest.finalize()))
}

impl Service {
    pub(super) async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let who = self.who(&req.credentials);
        let mut i = req.input;
        let bucket_owner = self.bucket(&i.bucket, who.as_deref(), Right::Write, |b| Ok(b.info.acl.owner.clone()))?;
        let owner = who.unwrap_or_else(|| ANONYMOUS.to_owned());
        let grants = object_grants!(i);
        let canned = i.acl.as_ref().map(|a| a.as_str());
        let acl = Acl::of_headers(canned, &grants, &owner, Some(&bucket_owner), &self.0.users)?;
        let attributes = attributes!(i)?;
        let sse = attributes.sse.clone();
        let algorithm = i.checksum_algorithm.as_ref().map(|a| a.as_str().to_owned());
        let upload = Upload { initiated: now(), attributes, acl, owner, algorithm, parts: Default::default() };
        let id = self.0.store.with_bucket_mut(&i.bucket, |b| self.0.store.add_upload(b, &i.key, upload))?;
        ok(CreateMultipartUploadOutput {
            bucket: Some(i.bucket),
            key: Some(i.key),
            upload_id: Some(id),
            server_side_encryption: sse.map(Into::into),
            ..Default::default()
        })
    }

    pub(super) async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let who = self.who(&req.credentials);
        let mut i = req.input;
        self.bucket(&i.bucket, who.as_deref(), Right::Write, |b| upload(b, &i.key, &i.upload_id).map(|_| ()))?;
        let number = part_number(i.part_number)?;
        let sums = sums!(i);
        let md5 = i.content_md5.as_deref();
        let received =
            self.receive(i.body.take(), i.content_length, md5, sums, &req.headers, req.trailing_headers).await?;
        let part =
            UploadedPart { data: received.data, etag: received.etag, modified: now(), checksums: received.checksums };
        let output = UploadPartOutput {
            e_tag: Some(ETag::Strong(part.etag.clone())),
            checksum_crc32: part.checksums.crc32.clone(),
            checksum_crc32c: part.checksums.crc32c.clone(),
            checksum_crc64nvme: part.checksums.crc64nvme.clone(),
            checksum_sha1: part.checksums.sha1.clone(),
            checksum_sha256: part.checksums.sha256.clone(),
            ..Default::default()
        };
        self.0.store.with_bucket_mut(&i.bucket, |b| {
            // As AWS has it: what was announced is wanted of every part.
            let announced = upload(b, &i.key, &i.upload_id)?.algorithm.as_deref();
            if announced == Some(ChecksumAlgorithm::CRC32C) && part.checksums.crc32c.is_none() {
                return Err(s3_error!(
                    InvalidRequest,
                    "Checksum Type mismatch occurred, expected checksum Type: crc32c"
                ));
            }
            self.0.store.add_part(b, &i.key, &i.upload_id, number, part)
        })?;
        ok(output)
    }

    pub(super) async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let who = self.who(&req.credentials);
        let i = req.input;
        self.bucket(&i.bucket, who.as_deref(), Right::Write, |_| Ok(()))?;
        let listed = i.multipart_upload.and_then(|m| m.parts).unwrap_or_default();
        let min = self.0.knobs.with(|b| b.min_part);
        let conditions = Conditions { if_match: i.if_match, if_none_match: i.if_none_match };
        let conditions = self.kept_conditions(&i.bucket, conditions)?;
        let (v, versioning) = self.0.store.with_bucket_mut(&i.bucket, |b| {
            let up = upload(b, &i.key, &i.upload_id)?;
            if listed.is_empty() {
                return Err(s3_error!(MalformedXML, "You must specify at least one part"));
            }
            if listed.windows(2).any(|w| w[0].part_number >= w[1].part_number) {
                return Err(s3_error!(InvalidPartOrder, "The list of parts was not in ascending order."));
            }
            let mut parts: Vec<&UploadedPart> = Vec::with_capacity(listed.len());
            for (at, one) in listed.iter().enumerate() {
                let number = part_number(one.part_number.unwrap_or(0))?;
                let invalid = || s3_error!(InvalidPart, "One or more of the specified parts could not be found.");
                let part = up.parts.get(&number).ok_or_else(invalid)?;
                if one.e_tag.as_ref().is_none_or(|t| t.value() != part.etag) {
                    return Err(invalid());
                }
                if up.algorithm.as_deref() == Some(ChecksumAlgorithm::CRC32C)
                    && part.checksums.crc32c.is_some()
                    && one.checksum_crc32c != part.checksums.crc32c
                {
                    return Err(s3_error!(
                        InvalidRequest,
                        "The upload was created using a crc32c checksum. The complete request must include the \
                         checksum for each part."
                    ));
                }
                if at + 1 < listed.len() && part.data.size() < min {
                    return Err(s3_error!(
                        EntityTooSmall,
                        "Your proposed upload is smaller than the minimum allowed object size."
                    ));
                }
                parts.push(part);
            }
            self.0.store.check_conditions(b, &i.key, &conditions)?;
            let data = Data::join(&parts.iter().map(|p| p.data.clone()).collect::<Vec<_>>());
            if data.size() > MAX_OBJECT {
                return Err(s3_error!(EntityTooLarge, "Your proposed upload exceeds the maximum allowed object size"));
            }
            if i.mpu_object_size.is_some_and(|s| s as u64 != data.size()) {
                return Err(s3_error!(InvalidRequest, "x-amz-mp-object-size does not match the size of the parts"));
            }
            let etag = multipart_etag(parts.iter().map(|p| p.etag.as_str()));
            let sizes = parts.iter().map(|p| p.data.size()).collect();
            let received = Received { data, etag, checksums: Checksums::default() };
            let mut version = Version::new(received, up.attributes.clone(), up.acl.clone());
            version.parts = sizes;
            let versioning = b.info.versioning;
            let v = self.0.store.add_version(b, &i.key, version)?;
            self.0.store.remove_upload(b, &i.key, &i.upload_id)?;
            Ok((v, versioning))
        })?;
        let with_etag = !self.0.knobs.with(|b| b.no_complete_etag);
        ok(CompleteMultipartUploadOutput {
            location: Some(format!("/{}/{}", i.bucket, i.key)),
            bucket: Some(i.bucket),
            key: Some(i.key),
            e_tag: with_etag.then(|| v.etag()),
            version_id: shown_version(versioning, &v.id),
            ..Default::default()
        })
    }

    pub(super) async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let who = self.who(&req.credentials);
        let i = req.input;
        self.0.store.with_bucket_mut(&i.bucket, |b| {
            let up = upload(b, &i.key, &i.upload_id)?;
            if who.as_ref() != Some(&b.info.acl.owner) && who.as_ref() != Some(&up.owner) {
                return Err(denied());
            }
            self.0.store.remove_upload(b, &i.key, &i.upload_id)
        })?;
        ok(AbortMultipartUploadOutput::default())
    }

    pub(super) async fn list_parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        let who = self.who(&req.credentials);
        let i = req.input;
        let page = usize::try_from(i.max_parts.unwrap_or(PAGE as i32)).unwrap_or(0).min(PAGE);
        let page = self.0.knobs.with(|b| b.page_size).map_or(page, |n| n.min(page));
        let marker = u32::try_from(i.part_number_marker.unwrap_or(0)).unwrap_or(0);
        let output = self.0.store.with_bucket(&i.bucket, |b| {
            let up = upload(b, &i.key, &i.upload_id)?;
            if who.as_ref() != Some(&b.info.acl.owner) && who.as_ref() != Some(&up.owner) {
                return Err(denied());
            }
            let mut rest = up.parts.range(marker.saturating_add(1)..);
            let parts: Vec<Part> = rest
                .by_ref()
                .take(page)
                .map(|(number, p)| Part {
                    e_tag: Some(ETag::Strong(p.etag.clone())),
                    last_modified: Some(timestamp(p.modified)),
                    part_number: Some(*number as i32),
                    size: Some(p.data.size() as i64),
                    checksum_crc32: p.checksums.crc32.clone(),
                    checksum_crc32c: p.checksums.crc32c.clone(),
                    checksum_crc64nvme: p.checksums.crc64nvme.clone(),
                    checksum_sha1: p.checksums.sha1.clone(),
                    checksum_sha256: p.checksums.sha256.clone(),
                })
                .collect();
            let more = rest.next().is_some();
            Ok(ListPartsOutput {
                is_truncated: Some(more),
                next_part_number_marker: parts.last().and_then(|p| p.part_number).filter(|_| more),
                part_number_marker: Some(marker as i32),
                max_parts: Some(page as i32),
                parts: Some(parts),
                owner: Some(Owner { display_name: Some(display_name(&up.owner)), id: Some(up.owner.clone()) }),
                initiator: Some(Initiator { display_name: Some(display_name(&up.owner)), id: Some(up.owner.clone()) }),
                storage_class: Some(up.attributes.storage_class.clone().unwrap_or_else(|| "STANDARD".into()).into()),
                ..Default::default()
            })
        })?;
        ok(ListPartsOutput { bucket: Some(i.bucket), key: Some(i.key), upload_id: Some(i.upload_id), ..output })
    }

    pub(super) async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let who = self.who(&req.credentials);
        let i = req.input;
        let page = usize::try_from(i.max_uploads.unwrap_or(PAGE as i32)).unwrap_or(0).min(PAGE);
        let page = self.0.knobs.with(|b| b.page_size).map_or(page, |n| n.min(page));
        let prefix = i.prefix.clone().unwrap_or_default();
        let delimiter = i.delimiter.clone().unwrap_or_default();
        let key_marker = i.key_marker.clone().unwrap_or_default();
        let id_marker = i.upload_id_marker.clone().unwrap_or_default();
        let (mut uploads, mut prefixes) = (Vec::new(), Vec::<String>::new());
        let mut next = None;
        self.bucket(&i.bucket, who.as_deref(), Right::Read, |b| {
            let mut last = None;
            for ((key, id), up) in &b.uploads {
                // Behind the marker: later keys, or later uploads of the same key when an upload is named.
                let behind = key_marker.is_empty()
                    || *key > key_marker
                    || (*key == key_marker && !id_marker.is_empty() && *id > id_marker);
                if !behind || !key.starts_with(&prefix) {
                    continue;
                }
                let common = key[prefix.len()..].find(&delimiter).filter(|_| !delimiter.is_empty());
                let common = common.map(|at| key[..prefix.len() + at + delimiter.len()].to_owned());
                if common.as_ref().is_some_and(|c| prefixes.last() == Some(c) || *c == key_marker) {
                    continue;
                }
                if uploads.len() + prefixes.len() == page {
                    next = last;
                    break;
                }
                if let Some(common) = common {
                    last = Some((common.clone(), String::new()));
                    prefixes.push(common);
                    continue;
                }
                last = Some((key.clone(), id.clone()));
                let name = display_name(&up.owner);
                uploads.push(MultipartUpload {
                    initiated: Some(timestamp(up.initiated)),
                    initiator: Some(Initiator { display_name: Some(name.clone()), id: Some(up.owner.clone()) }),
                    key: Some(key.clone()),
                    owner: Some(Owner { display_name: Some(name), id: Some(up.owner.clone()) }),
                    storage_class: Some(up.attributes.storage_class.clone().unwrap_or("STANDARD".into()).into()),
                    upload_id: Some(id.clone()),
                    ..Default::default()
                });
            }
            Ok(())
        })?;
        let (next_key, next_id) = next.unzip();
        ok(ListMultipartUploadsOutput {
            bucket: Some(i.bucket),
            prefix: i.prefix,
            delimiter: i.delimiter,
            key_marker: i.key_marker,
            upload_id_marker: i.upload_id_marker,
            max_uploads: Some(page as i32),
            is_truncated: Some(next_key.is_some()),
            next_key_marker: next_key,
            next_upload_id_marker: next_id.filter(|id: &String| !id.is_empty()),
            uploads: Some(uploads),
            common_prefixes: (!prefixes.is_empty())
                .then(|| prefixes.into_iter().map(|p| CommonPrefix { prefix: Some(p) }).collect()),
            ..Default::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::multipart_etag;

    #[test]
    fn the_etag_of_a_multipart_object_is_the_md5_of_its_parts_md5s() {
        // md5("a"), md5("b"); checked with `printf a | openssl md5 -binary` and so on.
        let etag = multipart_etag(["0cc175b9c0f1b6a831c399e269772661", "92eb5ffee6ae2fec3ad71c777531578f"].into_iter());
        assert_eq!(etag, ETAG_AB);
    }

    const ETAG_AB: &str = "96e024ba2074fe77e8e965ba43a704be-2";
}

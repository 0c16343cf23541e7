//! Buckets, objects, versions and uploads, in memory and, with a directory, on disk.
//!
//! 1. Every change is one critical section: conditions are checked and the version is stored under one lock, so two
//!    conditional writers never both win. The lock is never held across an await; with a directory the small record
//!    is written under it, which keeps disk and memory in step.
//! 2. The index is in memory in both kinds: a listing is a walk over a [`BTreeMap`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use parking_lot::RwLock;
use s3s::dto::{ETagCondition, Timestamp};
use s3s::{S3Error, S3Result, s3_error};
use serde::{Deserialize, Serialize};

use super::acl::Acl;
use super::data::Data;
use super::disk::{Disk, PieceRecord, Table};

/// The version id of what is written while a bucket is not versioned.
pub(super) const NULL: &str = "null";

/// What an object carries besides its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    pub content_type: Option<String>,
    pub cache_control: Option<String>,
    pub content_disposition: Option<String>,
    pub content_encoding: Option<String>,
    pub content_language: Option<String>,
    /// As an HTTP date.
    pub expires: Option<String>,
    pub website_redirect: Option<String>,
    /// Names without `x-amz-meta-`.
    pub metadata: BTreeMap<String, String>,
    /// `None` is STANDARD.
    pub storage_class: Option<String>,
    pub sse: Option<String>,
    pub sse_kms_key: Option<String>,
    pub tags: Vec<(String, String)>,
}

/// The checksums a client sent with an object or part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checksums {
    pub crc32: Option<String>,
    pub crc32c: Option<String>,
    pub crc64nvme: Option<String>,
    pub sha1: Option<String>,
    pub sha256: Option<String>,
}

/// A restore from an archive class, in milliseconds since the epoch.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Restore {
    pub ready: u64,
    pub until: u64,
}

#[derive(Clone)]
pub(super) struct Version {
    pub id: Arc<str>,
    /// Order of creation.
    pub seq: u64,
    pub delete_marker: bool,
    pub data: Data,
    /// Without quotes.
    pub etag: String,
    /// Milliseconds since the epoch.
    pub modified: u64,
    pub attributes: Attributes,
    pub acl: Acl,
    pub checksums: Checksums,
    /// Sizes of the parts, when it was a multipart upload.
    pub parts: Vec<u64>,
    pub restore: Option<Restore>,
}

#[derive(Clone)]
pub(super) struct UploadedPart {
    pub data: Data,
    pub etag: String,
    pub modified: u64,
    pub checksums: Checksums,
}

#[derive(Clone)]
pub(super) struct Upload {
    pub initiated: u64,
    pub attributes: Attributes,
    pub acl: Acl,
    /// Who started it.
    pub owner: String,
    /// Checksum that the parts were announced with.
    pub algorithm: Option<String>,
    pub parts: BTreeMap<u32, UploadedPart>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Versioning {
    #[default]
    Never,
    Enabled,
    Suspended,
}

/// The configuration of a bucket: what its record holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct BucketInfo {
    pub name: String,
    pub created: u64,
    pub acl: Acl,
    pub region: Option<String>,
    pub versioning: Versioning,
    pub tags: Vec<(String, String)>,
    /// Policy (JSON), lifecycle and CORS (XML) as stored.
    pub documents: BTreeMap<String, String>,
}

pub(super) struct Bucket {
    pub info: BucketInfo,
    /// Versions of a key in order of creation: the last one is the current one.
    pub objects: BTreeMap<String, Vec<Arc<Version>>>,
    /// By key and upload id: the order of listings.
    pub uploads: BTreeMap<(String, String), Upload>,
}

impl Bucket {
    /// The current version, unless it is a delete marker.
    pub fn current(&self, key: &str) -> Option<&Arc<Version>> {
        self.objects.get(key)?.last().filter(|v| !v.delete_marker)
    }
}

/// What must hold for a write.
#[derive(Default)]
pub(super) struct Conditions {
    pub if_match: Option<ETagCondition>,
    pub if_none_match: Option<ETagCondition>,
}

impl Conditions {
    fn check(&self, current: Option<&Version>) -> S3Result<()> {
        if let Some(condition) = &self.if_match {
            let Some(current) = current else { return Err(s3_error!(NoSuchKey, "The specified key does not exist.")) };
            if !matches_etag(condition, &current.etag) {
                return Err(precondition_failed());
            }
        }
        match (&self.if_none_match, current) {
            (Some(condition), Some(current)) if matches_etag(condition, &current.etag) => Err(precondition_failed()),
            _ => Ok(()),
        }
    }
}

pub(super) fn matches_etag(condition: &ETagCondition, etag: &str) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(tag) => tag.value() == etag,
    }
}

pub(super) fn precondition_failed() -> S3Error {
    s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold")
}

pub(super) fn no_such_key() -> S3Error {
    s3_error!(NoSuchKey, "The specified key does not exist.")
}

fn io_error(e: io::Error) -> S3Error {
    S3Error::internal_error(e)
}

/// A version as its record on disk holds it.
#[derive(Serialize, Deserialize)]
struct VersionRecord {
    bucket: String,
    key: String,
    id: String,
    seq: u64,
    delete_marker: bool,
    data: Vec<PieceRecord>,
    etag: String,
    modified: u64,
    attributes: Attributes,
    acl: Acl,
    checksums: Checksums,
    parts: Vec<u64>,
    restore: Option<Restore>,
}

#[derive(Serialize, Deserialize)]
struct UploadRecord {
    bucket: String,
    key: String,
    id: String,
    initiated: u64,
    attributes: Attributes,
    acl: Acl,
    owner: String,
    #[serde(default)]
    algorithm: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct PartRecord {
    bucket: String,
    key: String,
    upload: String,
    number: u32,
    data: Vec<PieceRecord>,
    etag: String,
    modified: u64,
    checksums: Checksums,
}

/// The content of a server; used by its operations and, without HTTP, by tests.
///
/// The public methods act as the owner and panic on a bucket that does not exist: they set up tests and samples.
pub struct Store {
    // Dropped first: data files then know that the store is gone and stay on disk.
    disk: Option<Arc<Disk>>,
    pub(super) owner: String,
    seq: AtomicU64,
    pub(super) buckets: RwLock<BTreeMap<String, Bucket>>,
}

/// Milliseconds since the epoch.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

pub(super) fn system_time(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
}

/// In whole seconds, as S3 keeps times: headers and listings then agree.
pub(super) fn timestamp(millis: u64) -> Timestamp {
    Timestamp::from(system_time(millis / 1000 * 1000))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)] as char, DIGITS[usize::from(b & 15)] as char]).collect()
}

impl Store {
    /// Opens the directory, or an empty store in memory. `owner` is a user id.
    pub(super) fn open(data: Option<&Path>, owner: &str) -> io::Result<Store> {
        let disk = data.map(Disk::open).transpose()?;
        // Ids must not repeat after a restart of a store in memory either: clients may have cached them.
        let store = Store {
            disk,
            owner: owner.to_owned(),
            seq: AtomicU64::new(now() << 20),
            buckets: RwLock::new(BTreeMap::new()),
        };
        if let Some(disk) = &store.disk {
            store.load(disk)?;
        }
        Ok(store)
    }

    fn load(&self, disk: &Arc<Disk>) -> io::Result<()> {
        let mut buckets = self.buckets.write();
        for info in disk.load::<BucketInfo>(Table::Buckets)? {
            let bucket = Bucket { info, objects: BTreeMap::new(), uploads: BTreeMap::new() };
            buckets.insert(bucket.info.name.clone(), bucket);
        }
        let mut open = HashMap::new();
        let mut versions = disk.load::<VersionRecord>(Table::Versions)?;
        versions.sort_by_key(|v| v.seq);
        for r in versions {
            let Some(bucket) = buckets.get_mut(&r.bucket) else { continue };
            self.seq.fetch_max(r.seq + 1, Ordering::Relaxed);
            let version = Version {
                id: r.id.into(),
                seq: r.seq,
                delete_marker: r.delete_marker,
                data: disk.data(&r.data, &mut open)?,
                etag: r.etag,
                modified: r.modified,
                attributes: r.attributes,
                acl: r.acl,
                checksums: r.checksums,
                parts: r.parts,
                restore: r.restore,
            };
            bucket.objects.entry(r.key).or_default().push(Arc::new(version));
        }
        for r in disk.load::<UploadRecord>(Table::Uploads)? {
            let Some(bucket) = buckets.get_mut(&r.bucket) else { continue };
            let upload = Upload {
                initiated: r.initiated,
                attributes: r.attributes,
                acl: r.acl,
                owner: r.owner,
                algorithm: r.algorithm,
                parts: BTreeMap::new(),
            };
            bucket.uploads.insert((r.key, r.id), upload);
        }
        for r in disk.load::<PartRecord>(Table::Parts)? {
            let upload = buckets.get_mut(&r.bucket).and_then(|b| b.uploads.get_mut(&(r.key.clone(), r.upload.clone())));
            let Some(upload) = upload else {
                // A crash between the removal of the upload and that of its parts.
                disk.remove(Table::Parts, &[&r.bucket, &r.key, &r.upload, &r.number.to_string()])?;
                continue;
            };
            let data = disk.data(&r.data, &mut open)?;
            let part = UploadedPart { data, etag: r.etag, modified: r.modified, checksums: r.checksums };
            upload.parts.insert(r.number, part);
        }
        disk.collect(&open.keys().copied().collect::<HashSet<_>>())
    }

    pub(super) fn disk(&self) -> Option<&Arc<Disk>> {
        self.disk.as_ref()
    }

    pub(super) fn next_seq(&self) -> u64 {
        self.seq.fetch_add(1, Ordering::Relaxed)
    }

    /// An ETag that depends on no bytes.
    pub(super) fn cheap_etag(&self) -> String {
        format!("{:016x}{:016x}", self.next_seq(), now())
    }

    /// Bytes to where this store keeps them.
    pub(super) fn keep(&self, bytes: Bytes) -> io::Result<Data> {
        match &self.disk {
            Some(disk) if !bytes.is_empty() => {
                let file = disk.create()?;
                file.write(&bytes, 0)?;
                Disk::finish(file, bytes.len() as u64)
            }
            _ => Ok(bytes.into()),
        }
    }

    pub(super) fn with_bucket<T>(&self, name: &str, f: impl FnOnce(&Bucket) -> S3Result<T>) -> S3Result<T> {
        let buckets = self.buckets.read();
        f(buckets.get(name).ok_or_else(|| s3_error!(NoSuchBucket, "The specified bucket does not exist"))?)
    }

    pub(super) fn with_bucket_mut<T>(&self, name: &str, f: impl FnOnce(&mut Bucket) -> S3Result<T>) -> S3Result<T> {
        let mut buckets = self.buckets.write();
        f(buckets.get_mut(name).ok_or_else(|| s3_error!(NoSuchBucket, "The specified bucket does not exist"))?)
    }

    /// Changes the configuration of a bucket.
    pub(super) fn edit_bucket(&self, name: &str, f: impl FnOnce(&mut BucketInfo) -> S3Result<()>) -> S3Result<()> {
        self.with_bucket_mut(name, |bucket| {
            let mut info = bucket.info.clone();
            f(&mut info)?;
            self.save_bucket(&info)?;
            bucket.info = info;
            Ok(())
        })
    }

    fn save_bucket(&self, info: &BucketInfo) -> S3Result<()> {
        match &self.disk {
            Some(disk) => disk.save(Table::Buckets, &[&info.name], info).map_err(io_error),
            None => Ok(()),
        }
    }

    pub(super) fn add_bucket(&self, name: &str, acl: Acl, region: Option<String>) -> S3Result<()> {
        let mut buckets = self.buckets.write();
        if let Some(there) = buckets.get(name) {
            return if there.info.acl.owner == acl.owner {
                Err(s3_error!(BucketAlreadyOwnedByYou, "You already own this bucket."))
            } else {
                Err(s3_error!(BucketAlreadyExists, "The requested bucket name is not available."))
            };
        }
        let info = BucketInfo {
            name: name.to_owned(),
            created: now(),
            acl,
            region,
            versioning: Versioning::Never,
            tags: Vec::new(),
            documents: BTreeMap::new(),
        };
        self.save_bucket(&info)?;
        buckets.insert(name.to_owned(), Bucket { info, objects: BTreeMap::new(), uploads: BTreeMap::new() });
        Ok(())
    }

    pub(super) fn remove_bucket(&self, name: &str) -> S3Result<()> {
        let mut buckets = self.buckets.write();
        let bucket = buckets.get(name).ok_or_else(|| s3_error!(NoSuchBucket, "The specified bucket does not exist"))?;
        if !bucket.objects.is_empty() {
            return Err(s3_error!(BucketNotEmpty, "The bucket you tried to delete is not empty"));
        }
        for (key, id) in bucket.uploads.keys() {
            self.forget_upload(name, key, id, bucket)?;
        }
        if let Some(disk) = &self.disk {
            disk.remove(Table::Buckets, &[name]).map_err(io_error)?;
        }
        buckets.remove(name);
        Ok(())
    }

    pub(super) fn save_version(&self, bucket: &str, key: &str, v: &Version) -> S3Result<()> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let record = VersionRecord {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            id: v.id.to_string(),
            seq: v.seq,
            delete_marker: v.delete_marker,
            data: Disk::record(&v.data),
            etag: v.etag.clone(),
            modified: v.modified,
            attributes: v.attributes.clone(),
            acl: v.acl.clone(),
            checksums: v.checksums.clone(),
            parts: v.parts.clone(),
            restore: v.restore,
        };
        disk.save(Table::Versions, &[bucket, key, &v.id], &record).map_err(io_error)
    }

    /// Stores a new current version, if `conditions` hold; gives it its id and its place in the order.
    pub(super) fn add_version(&self, bucket: &mut Bucket, key: &str, mut version: Version) -> S3Result<Arc<Version>> {
        version.seq = self.next_seq();
        version.id = match bucket.info.versioning {
            Versioning::Enabled => format!("{:016x}{:08x}", version.seq, version.modified as u32).into(),
            Versioning::Never | Versioning::Suspended => NULL.into(),
        };
        self.save_version(&bucket.info.name, key, &version)?;
        let version = Arc::new(version);
        let versions = bucket.objects.entry(key.to_owned()).or_default();
        if &*version.id == NULL {
            versions.retain(|v| &*v.id != NULL);
        }
        versions.push(version.clone());
        Ok(version)
    }

    pub(super) fn put_version(
        &self,
        bucket: &str,
        key: &str,
        version: Version,
        conditions: &Conditions,
    ) -> S3Result<(Arc<Version>, Versioning)> {
        self.with_bucket_mut(bucket, |b| {
            conditions.check(b.current(key).map(|v| &**v))?;
            let versioning = b.info.versioning;
            Ok((self.add_version(b, key, version)?, versioning))
        })
    }

    pub(super) fn check_conditions(&self, bucket: &Bucket, key: &str, conditions: &Conditions) -> S3Result<()> {
        conditions.check(bucket.current(key).map(|v| &**v))
    }

    /// Changes one version in place (tags, ACL, restore).
    pub(super) fn edit_version(
        &self,
        bucket: &mut Bucket,
        key: &str,
        id: Option<&str>,
        f: impl FnOnce(&mut Version) -> S3Result<()>,
    ) -> S3Result<Arc<Version>> {
        let versions = bucket.objects.get_mut(key).ok_or_else(no_such_key)?;
        let slot = match id {
            None => versions.last_mut().filter(|v| !v.delete_marker).ok_or_else(no_such_key)?,
            Some(id) => versions
                .iter_mut()
                .find(|v| &*v.id == id)
                .ok_or_else(|| s3_error!(NoSuchVersion, "The specified version does not exist."))?,
        };
        if slot.delete_marker {
            return Err(s3_error!(MethodNotAllowed, "The specified method is not allowed against this resource."));
        }
        let mut version = Version::clone(slot);
        f(&mut version)?;
        self.save_version(&bucket.info.name, key, &version)?;
        *slot = Arc::new(version);
        Ok(slot.clone())
    }

    /// Removes one version for good; `None` when there is none.
    pub(super) fn remove_version(&self, bucket: &mut Bucket, key: &str, id: &str) -> S3Result<Option<Arc<Version>>> {
        let Some(versions) = bucket.objects.get_mut(key) else { return Ok(None) };
        let Some(at) = versions.iter().position(|v| &*v.id == id) else { return Ok(None) };
        if let Some(disk) = &self.disk {
            disk.remove(Table::Versions, &[&bucket.info.name, key, id]).map_err(io_error)?;
        }
        let removed = versions.remove(at);
        if versions.is_empty() {
            bucket.objects.remove(key);
        }
        Ok(Some(removed))
    }

    pub(super) fn add_upload(&self, bucket: &mut Bucket, key: &str, upload: Upload) -> S3Result<String> {
        let id = format!("{:016x}{:08x}", self.next_seq(), upload.initiated as u32);
        if let Some(disk) = &self.disk {
            let record = UploadRecord {
                bucket: bucket.info.name.clone(),
                key: key.to_owned(),
                id: id.clone(),
                initiated: upload.initiated,
                attributes: upload.attributes.clone(),
                acl: upload.acl.clone(),
                owner: upload.owner.clone(),
                algorithm: upload.algorithm.clone(),
            };
            disk.save(Table::Uploads, &[&bucket.info.name, key, &id], &record).map_err(io_error)?;
        }
        bucket.uploads.insert((key.to_owned(), id.clone()), upload);
        Ok(id)
    }

    pub(super) fn add_part(
        &self,
        bucket: &mut Bucket,
        key: &str,
        id: &str,
        number: u32,
        part: UploadedPart,
    ) -> S3Result<()> {
        let name = bucket.info.name.clone();
        let upload = bucket.uploads.get_mut(&(key.to_owned(), id.to_owned())).ok_or_else(no_such_upload)?;
        if let Some(disk) = &self.disk {
            let record = PartRecord {
                bucket: name.clone(),
                key: key.to_owned(),
                upload: id.to_owned(),
                number,
                data: Disk::record(&part.data),
                etag: part.etag.clone(),
                modified: part.modified,
                checksums: part.checksums.clone(),
            };
            disk.save(Table::Parts, &[&name, key, id, &number.to_string()], &record).map_err(io_error)?;
        }
        upload.parts.insert(number, part);
        Ok(())
    }

    fn forget_upload(&self, name: &str, key: &str, id: &str, bucket: &Bucket) -> S3Result<()> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let upload = bucket.uploads.get(&(key.to_owned(), id.to_owned()));
        disk.remove(Table::Uploads, &[name, key, id]).map_err(io_error)?;
        for number in upload.into_iter().flat_map(|u| u.parts.keys()) {
            disk.remove(Table::Parts, &[name, key, id, &number.to_string()]).map_err(io_error)?;
        }
        Ok(())
    }

    pub(super) fn remove_upload(&self, bucket: &mut Bucket, key: &str, id: &str) -> S3Result<Upload> {
        self.forget_upload(&bucket.info.name, key, id, bucket)?;
        bucket.uploads.remove(&(key.to_owned(), id.to_owned())).ok_or_else(no_such_upload)
    }
}

pub(super) fn no_such_upload() -> S3Error {
    s3_error!(NoSuchUpload, "The specified multipart upload does not exist.")
}

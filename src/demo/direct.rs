//! The store without HTTP: how tests and samples fill it and look into it.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use md5::{Digest, Md5};

use super::acl::Acl;
use super::data::{Data, synthetic_seed};
use super::store::{Attributes, Checksums, Conditions, NULL, Store, Version, Versioning, hex, now, system_time};

/// What tests see of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Without quotes.
    pub etag: String,
    pub version_id: String,
    pub modified: SystemTime,
    pub attributes: Attributes,
    /// Sizes of the parts it was uploaded in; empty for a plain PUT.
    pub parts: Vec<u64>,
}

impl Store {
    /// Does nothing when the bucket exists.
    pub fn create_bucket(&self, name: &str) {
        let _exists = self.add_bucket(name, Acl::private(&self.owner), None);
    }

    fn put_data(&self, bucket: &str, key: &str, data: Data, etag: String, attributes: Attributes, acl: &str) -> String {
        let acl = Acl::canned(acl, &self.owner, None).expect("a canned ACL that exists");
        let version = Version {
            id: NULL.into(),
            seq: 0,
            delete_marker: false,
            data,
            etag,
            modified: now(),
            attributes,
            acl,
            checksums: Checksums::default(),
            parts: Vec::new(),
            restore: None,
        };
        let stored = self.put_version(bucket, key, version, &Conditions::default());
        stored.expect("a bucket that exists").0.etag.clone()
    }

    /// Stores an object as the owner and returns its ETag.
    pub fn put(&self, bucket: &str, key: &str, bytes: impl Into<Bytes>) -> String {
        self.put_with(bucket, key, bytes, Attributes::default(), "private")
    }

    /// The same with attributes and a canned ACL.
    pub fn put_with(
        &self,
        bucket: &str,
        key: &str,
        bytes: impl Into<Bytes>,
        attributes: Attributes,
        acl: &str,
    ) -> String {
        let bytes = bytes.into();
        let etag = hex(&Md5::digest(&bytes));
        let data = self.keep(bytes).expect("a data directory that can be written");
        self.put_data(bucket, key, data, etag, attributes, acl)
    }

    /// Stores an object of `size` bytes that takes no space; [`super::synthetic`] computes its content. Returns its
    /// ETag, which differs with every call.
    pub fn put_synthetic(&self, bucket: &str, key: &str, size: u64) -> String {
        let data = Data::synthetic(synthetic_seed(key), size);
        self.put_data(bucket, key, data, self.cheap_etag(), Attributes::default(), "private")
    }

    /// The whole content of the current version.
    pub fn get(&self, bucket: &str, key: &str) -> Option<Bytes> {
        let data = self.buckets.read().get(bucket)?.current(key)?.data.clone();
        Some(data.read().expect("a data directory that can be read"))
    }

    pub fn head(&self, bucket: &str, key: &str) -> Option<ObjectInfo> {
        let buckets = self.buckets.read();
        let v = buckets.get(bucket)?.current(key)?;
        Some(ObjectInfo {
            key: key.to_owned(),
            size: v.data.size(),
            etag: v.etag.clone(),
            version_id: v.id.to_string(),
            modified: system_time(v.modified),
            attributes: v.attributes.clone(),
            parts: v.parts.clone(),
        })
    }

    /// The keys that start with `prefix`, in order.
    pub fn list(&self, bucket: &str, prefix: &str) -> Vec<String> {
        let buckets = self.buckets.read();
        let Some(bucket) = buckets.get(bucket) else { return Vec::new() };
        let from = bucket.objects.range(prefix.to_owned()..);
        from.take_while(|(k, _)| k.starts_with(prefix))
            .filter(|(_, v)| v.last().is_some_and(|v| !v.delete_marker))
            .map(|(k, _)| k.clone())
            .collect()
    }

    /// Removes all versions of a key; whether there was one.
    pub fn delete(&self, bucket: &str, key: &str) -> bool {
        let removed = self.with_bucket_mut(bucket, |b| {
            let ids: Vec<_> = b.objects.get(key).into_iter().flatten().map(|v| v.id.clone()).collect();
            for id in &ids {
                self.remove_version(b, key, id)?;
            }
            Ok(!ids.is_empty())
        });
        removed.expect("a bucket that exists")
    }

    /// Key and id of every multipart upload in progress.
    pub fn uploads(&self, bucket: &str) -> Vec<(String, String)> {
        self.buckets.read().get(bucket).map_or_else(Vec::new, |b| b.uploads.keys().cloned().collect())
    }

    /// Version ids of a key, the oldest first; delete markers included.
    pub fn versions(&self, bucket: &str, key: &str) -> Vec<String> {
        let buckets = self.buckets.read();
        let versions = buckets.get(bucket).and_then(|b| b.objects.get(key));
        versions.into_iter().flatten().map(|v| v.id.to_string()).collect()
    }

    /// Sets when a version, or the mark of a deletion, was stored; to the millisecond.
    pub fn set_time(&self, bucket: &str, key: &str, id: &str, time: SystemTime) {
        let millis = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let edited = self.with_bucket_mut(bucket, |b| {
            let all = b.objects.get_mut(key).into_iter().flatten();
            let Some(slot) = all.into_iter().find(|v| &*v.id == id) else { return Ok(false) };
            let version = Version { modified: millis, ..Version::clone(slot) };
            self.save_version(&b.info.name, key, &version)?;
            *slot = Arc::new(version);
            Ok(true)
        });
        assert!(edited.expect("a bucket that exists"), "no version {id} of {key}");
    }

    /// Turns versioning on.
    pub fn enable_versioning(&self, bucket: &str) {
        let done = self.edit_bucket(bucket, |info| {
            info.versioning = Versioning::Enabled;
            Ok(())
        });
        done.expect("a bucket that exists");
    }
}

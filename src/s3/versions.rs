//! Versions of objects: listing them, bringing an old one back, taking a deletion back; and copies of archived
//! objects out of the archive.
//!
//! 1. A page may end inside one key: the place where it goes on is a key and a version id, and a store that repeats
//!    that place would be asked for ever.
//! 2. Bringing a version back is a copy of the object onto itself: it must carry what copies lose (class, ACL, and
//!    above the limit of one copy also headers and tags), and must not time out on a large object.
//! 3. Versions are listed newest first within a key; an id is opaque, and `null` is one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use futures_util::{StreamExt, stream};
use percent_encoding::percent_decode_str;
use rusty_s3::Method;

use super::operation::Op;
use super::request::Action;
use super::types::{AclChange, Condition, Directive, ETag, NewObject, ObjectMeta, Source, Stored};
use super::{S3, canned_name, xml};
use crate::error::{Error, Kind, Result};
use crate::key::Key;

/// Above this many bytes an object is copied in parts: some stores time out on larger ones in one request.
const COPY_MOST: u64 = 1 << 30;
const COPY_PART: u64 = 256 << 20;
const COPY_PARALLEL: usize = 8;
/// Most parts of an upload.
const PARTS_MOST: u64 = 10_000;
/// More pages than this of one listing are a store that repeats itself.
const PAGES_MOST: usize = 100_000;

/// One version of an object, or the marker of a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectVersion {
    /// The key as sent: it may be one that [`Key`] cannot represent.
    pub key: String,
    /// `null` for what was stored while the bucket had no versions.
    pub version: Arc<str>,
    /// Whether this is what a reader without a version id gets.
    pub latest: bool,
    /// A marker: the object was deleted here. It has no size, tag or class.
    pub deleted: bool,
    /// Bytes.
    pub size: u64,
    pub etag: Option<ETag>,
    pub last_modified: Option<SystemTime>,
    /// The same with the fraction of the second, where the store tells one.
    pub stored: Option<SystemTime>,
    pub storage_class: Option<String>,
    /// Display name of the owner, else the id.
    pub owner: Option<String>,
}

/// Where a listing of versions goes on: made by one page, given back for the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionMarker {
    pub key: String,
    /// `None`: after the key, or after a common prefix.
    pub version: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct VersionQuery<'a> {
    pub prefix: &'a str,
    /// Group by `/`.
    pub delimited: bool,
    pub from: Option<VersionMarker>,
    /// 1 to 1000; `None` sends none (1000).
    pub max_keys: Option<u16>,
}

/// One page: keys in order, versions of a key newest first.
#[derive(Clone, Debug, Default)]
pub struct VersionPage {
    pub versions: Vec<ObjectVersion>,
    /// Common prefixes, each ending in `/`.
    pub prefixes: Vec<String>,
    /// `None`: this was the last page.
    pub next: Option<VersionMarker>,
}

/// What a store made of the wish to read an archived object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restoring {
    /// It has begun; HEAD tells when it is done.
    Started,
    /// There was a readable copy already; it is kept for the new time.
    Extended,
}

const MARKER: &str = "DeleteMarker";

fn is_entry(node: &xml::Node) -> bool {
    (node.name == "Version" || node.name == MARKER) && node.child("Key").is_some()
}

fn read(document: &xml::Node) -> VersionPage {
    let encoded = document.text_of("EncodingType").eq_ignore_ascii_case("url");
    let text = |value: &str| {
        if encoded {
            percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned()
        } else {
            value.to_owned()
        }
    };
    let time = |n: &xml::Node| n.text_of("LastModified").trim().parse::<jiff::Timestamp>().ok();
    let entries = || document.children.iter().filter(|n| is_entry(n));
    let version = |n: &xml::Node| ObjectVersion {
        key: text(n.text_of("Key")),
        version: n.some("VersionId").unwrap_or_else(|| "null".into()).into(),
        latest: n.is_true("IsLatest"),
        deleted: n.name == MARKER,
        size: n.text_of("Size").trim().parse().unwrap_or(0),
        etag: n.some("ETag").map(|e| ETag::new(&e)),
        last_modified: xml::time(n.text_of("LastModified")),
        stored: time(n).map(Into::into),
        storage_class: n.some("StorageClass"),
        owner: n.child("Owner").and_then(|o| o.some("DisplayName").or_else(|| o.some("ID"))),
    };
    let mut versions: Vec<_> = entries().map(version).collect();
    // Some stores send all markers after all versions, or before. The sort is stable: newest first within one kind stays
    // so.
    let grouped = entries().is_sorted_by_key(|n| n.name == MARKER) || entries().is_sorted_by_key(|n| n.name != MARKER);
    if grouped || !versions.is_sorted_by(|a, b| a.key <= b.key) {
        versions.sort_by(|a, b| a.key.cmp(&b.key).then(b.latest.cmp(&a.latest)).then(b.stored.cmp(&a.stored)));
    }
    let prefixes = document.all("CommonPrefixes").flat_map(|c| c.all("Prefix")).map(|p| text(&p.text)).collect();
    let last = versions.last().map(|v| VersionMarker { key: v.key.clone(), version: Some(v.version.to_string()) });
    let next = document.is_true("IsTruncated").then(|| match document.some("NextKeyMarker") {
        // Ceph encodes the keys, but not this: the last key tells which it is.
        Some(key) => {
            let plain = last.as_ref().is_some_and(|l| l.key == key);
            Some(VersionMarker {
                key: if plain { key } else { text(&key) },
                version: document.some("NextVersionIdMarker"),
            })
        }
        None => last,
    });
    VersionPage { versions, prefixes, next: next.flatten() }
}

impl S3 {
    /// One page of versions and delete markers.
    ///
    /// Errors: [`Kind::Io`] when the store does not get ahead, [`Kind::Unsupported`].
    pub async fn list_versions(&self, query: &VersionQuery<'_>) -> Result<VersionPage> {
        let encode = !self.learned().no_encoding.load(Ordering::Relaxed);
        let page = match self.ask_versions(query, encode).await {
            Err(e) if encode && matches!(e.kind(), Kind::Invalid | Kind::Unsupported) => {
                self.ask_versions(query, false).await?
            }
            page => page?,
        };
        if page.next.is_some() && page.next == query.from {
            return Err(Error::new(Kind::Io, "list object versions: the store repeats itself and would never end")
                .with_key(query.prefix));
        }
        Ok(page)
    }

    async fn ask_versions(&self, query: &VersionQuery<'_>, encode: bool) -> Result<VersionPage> {
        let mut action = Action::new(Op::ListObjectVersions, Method::Get, "").query("versions", "");
        if !query.prefix.is_empty() {
            action = action.query("prefix", query.prefix);
        }
        if query.delimited {
            action = action.query("delimiter", "/");
        }
        if encode {
            action = action.query("encoding-type", "url");
        }
        if let Some(max) = query.max_keys {
            action = action.query("max-keys", max.to_string());
        }
        if let Some(from) = &query.from {
            action = action.query("key-marker", from.key.as_str());
            if let Some(version) = &from.version {
                action = action.query("version-id-marker", version.as_str());
            }
        }
        let document = self.fetch(&action).await?.document(Op::ListObjectVersions)?;
        if !document.name.starts_with("List") {
            return Err(Error::new(Kind::Io, "list object versions: answer without a list"));
        }
        Ok(read(&document))
    }

    /// All versions and markers of one key, newest first. Empty: there is none.
    pub async fn versions_of(&self, key: &Key) -> Result<Vec<ObjectVersion>> {
        let mut query = VersionQuery { prefix: key.as_str(), ..VersionQuery::default() };
        let mut found = Vec::new();
        for _ in 0..PAGES_MOST {
            let page = self.list_versions(&query).await?;
            // Keys are in order, and the key itself is the first of those it is a prefix of.
            let beyond = page.versions.iter().any(|v| v.key != key.as_str());
            found.extend(page.versions.into_iter().filter(|v| v.key == key.as_str()));
            match page.next {
                Some(next) if !beyond && next.key == key.as_str() => query.from = Some(next),
                _ => return Ok(found),
            }
        }
        Err(Error::new(Kind::Io, "list object versions: the store never ends").with_key(key))
    }

    /// Removes one version for good, or a delete marker, which brings back what it hid. A version that is not there
    /// is Ok, as S3 says.
    pub async fn delete_version(&self, key: &Key, version: &str) -> Result<()> {
        self.delete(key, Some(version)).await
    }

    /// Takes the deletion of an object back by removing the markers on top of its versions; returns how many there
    /// were, 0 when the object is not deleted.
    ///
    /// Errors: [`Kind::NotFound`] when nothing is left of the object.
    pub async fn undelete(&self, key: &Key) -> Result<usize> {
        let versions = self.versions_of(key).await?;
        if versions.iter().all(|v| v.deleted) {
            return Err(Error::new(Kind::NotFound, "undelete: no version of it is left").with_key(key));
        }
        let markers: Vec<_> = versions.iter().take_while(|v| v.deleted).collect();
        // The oldest first: if one fails, the object is still deleted, and a repetition finds the rest.
        for marker in markers.iter().rev() {
            self.delete_version(key, &marker.version).await?;
        }
        Ok(markers.len())
    }

    /// Makes an old version the current one by copying it onto the object, with its headers, tags, class and ACL.
    /// The old version stays.
    ///
    /// Errors: [`Kind::NotFound`], also for a delete marker; [`Kind::Archived`].
    pub async fn restore_version(&self, key: &Key, version: &str) -> Result<Stored> {
        let meta = match self.head(key, Some(version)).await {
            // HEAD of a marker.
            Err(e) if e.kind() == Kind::Unsupported => {
                return Err(e
                    .with_kind(Kind::NotFound)
                    .with_fix("this version is the mark of a deletion: undelete it"));
            }
            meta => meta?,
        };
        let acl = match self.object_acl(key, Some(version)).await {
            Ok(acl) if canned_name(&acl) == Some("private") => None,
            Ok(acl) => Some(acl),
            // A store without ACLs, or no right to read them: the copy gets the default, as in a console.
            Err(e) if matches!(e.kind(), Kind::Unsupported | Kind::Denied) => None,
            Err(e) => return Err(e),
        };
        let source = Source {
            bucket: None,
            key: key.clone(),
            version: Some(version.into()),
            if_match: Some(meta.etag.clone()).filter(|e| !e.as_str().is_empty()),
        };
        let stored = if meta.size <= COPY_MOST {
            let directive = Directive::Keep { storage_class: meta.storage_class.clone(), acl: None };
            self.copy(&source, key, &directive, &Condition::None).await?
        } else {
            self.copy_large(&source, key, &meta).await?
        };
        if let Some(acl) = acl {
            self.set_object_acl(key, stored.version.as_deref(), &AclChange::Full(acl)).await?;
        }
        Ok(stored)
    }

    async fn copy_large(&self, source: &Source, key: &Key, meta: &ObjectMeta) -> Result<Stored> {
        let object = NewObject {
            headers: meta.headers.clone(),
            storage_class: meta.storage_class.clone(),
            sse: meta.sse.clone(),
            sse_kms_key: meta.sse_kms_key.clone(),
            ..NewObject::default()
        };
        let tags = match self.tags(key, source.version.as_deref()).await {
            Err(e) if e.kind() == Kind::Unsupported => Vec::new(),
            tags => tags?,
        };
        let part = COPY_PART.max(meta.size.div_ceil(PARTS_MOST));
        let upload = self.create_upload(key, &object).await?;
        let copies =
            (1..).zip((0..meta.size).step_by(usize::try_from(part).unwrap_or(usize::MAX))).map(|(n, start)| {
                let range = start..meta.size.min(start + part);
                let size = range.end - range.start;
                self.copy_part(key, &upload, n, source, Some(range), size)
            });
        let parts: Vec<_> = stream::iter(copies).buffered(COPY_PARALLEL).collect().await;
        let stored = match parts.into_iter().collect::<Result<Vec<_>>>() {
            Ok(parts) => self.complete_upload(key, &upload, &parts, &Condition::None).await,
            Err(e) => Err(e),
        };
        match stored {
            Ok(stored) => {
                // Not every store takes tags at the beginning of an upload.
                if !tags.is_empty() {
                    self.set_tags(key, stored.version.as_deref(), &tags).await?;
                }
                Ok(stored)
            }
            Err(error) => {
                if let Err(e) = self.abort_upload(key, &upload).await {
                    tracing::warn!(%key, "abort of a failed copy: {e}");
                }
                Err(error)
            }
        }
    }

    /// Asks for a readable copy of an archived object for `days` (1 to what the store takes). `tier`: Expedited,
    /// Standard or Bulk; `None` leaves it to the store.
    ///
    /// Errors: [`Kind::InProgress`] when one is being made, [`Kind::Invalid`] for a number of days or a tier that the
    /// store does not take and for an object that is in no archive class, [`Kind::Unsupported`].
    pub async fn restore_object(
        &self,
        key: &Key,
        version: Option<&str>,
        days: u32,
        tier: Option<&str>,
    ) -> Result<Restoring> {
        if days == 0 {
            return Err(Error::new(Kind::Invalid, "restore object: days must be 1 or more").with_key(key));
        }
        let mut body = String::from("<RestoreRequest xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
        xml::element("Days", &days.to_string(), &mut body);
        if let Some(tier) = tier {
            body.push_str("<GlacierJobParameters>");
            xml::element("Tier", tier, &mut body);
            body.push_str("</GlacierJobParameters>");
        }
        body.push_str("</RestoreRequest>");
        let action = Action::new(Op::RestoreObject, Method::Post, key.as_str())
            .query("restore", "")
            .version(version)
            .document(body);
        match self.fetch(&action).await {
            Ok(answer) if answer.status == 202 => Ok(Restoring::Started),
            Ok(_) => Ok(Restoring::Extended),
            // Our own first attempt, whose answer got lost, may have begun it.
            Err(e) if e.kind() == Kind::InProgress && action.was_uncertain() => Ok(Restoring::Started),
            // The code means the opposite here: it is in no archive.
            Err(e) if e.kind() == Kind::Archived => {
                Err(e.with_kind(Kind::Invalid).with_fix("the object is in no archive class: it can be read as it is"))
            }
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> VersionPage {
        read(&xml::parse(text.as_bytes()).unwrap())
    }

    // XOS-OBJ-20, CON-07, CON-35
    #[test]
    fn versions_and_markers_are_one_list_in_order() {
        let page = page(
            "<ListVersionsResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>\
             <NextKeyMarker>b%2B</NextKeyMarker><NextVersionIdMarker>v1</NextVersionIdMarker>\
             <Version><Key>a+b</Key><VersionId>2</VersionId><IsLatest>false</IsLatest><Size>3</Size><ETag>\"e\"</ETag>\
             <LastModified>2026-01-01T00:00:00.000Z</LastModified></Version>\
             <Version><Key>c</Key><VersionId>1</VersionId><IsLatest>true</IsLatest><Size>1</Size></Version>\
             <DeleteMarker><Key>a+b</Key><VersionId>3</VersionId><IsLatest>true</IsLatest>\
             <LastModified>2026-01-02T00:00:00.000Z</LastModified></DeleteMarker>\
             <CommonPrefixes><Prefix>p%2F</Prefix></CommonPrefixes></ListVersionsResult>",
        );
        let seen: Vec<_> = page.versions.iter().map(|v| (v.key.as_str(), &*v.version, v.latest, v.deleted)).collect();
        assert_eq!(seen, [("a b", "3", true, true), ("a b", "2", false, false), ("c", "1", true, false)]);
        assert_eq!(page.prefixes, ["p/"]);
        assert_eq!(page.next, Some(VersionMarker { key: "b+".into(), version: Some("v1".into()) }));
    }

    #[test]
    fn a_marker_that_comes_first_is_not_the_newest_for_that() {
        let page = page(
            "<ListVersionsResult><DeleteMarker><Key>k</Key><VersionId>2</VersionId><IsLatest>false</IsLatest>\
             <LastModified>2026-01-02T00:00:00.500Z</LastModified></DeleteMarker>\
             <Version><Key>k</Key><VersionId>3</VersionId><IsLatest>true</IsLatest>\
             <LastModified>2026-01-03T00:00:00.000Z</LastModified></Version>\
             <Version><Key>k</Key><VersionId>1</VersionId><IsLatest>false</IsLatest>\
             <LastModified>2026-01-01T00:00:00.000Z</LastModified></Version></ListVersionsResult>",
        );
        assert_eq!(page.versions.iter().map(|v| &*v.version).collect::<Vec<_>>(), ["3", "2", "1"]);
        let marker = &page.versions[1];
        let fraction = marker.stored.unwrap().duration_since(marker.last_modified.unwrap()).unwrap();
        assert_eq!(fraction.as_millis(), 500);
    }

    #[test]
    fn an_empty_answer_is_an_empty_page() {
        let page = page("<ListVersionsResult><IsTruncated>false</IsTruncated></ListVersionsResult>");
        assert!(page.versions.is_empty() && page.next.is_none());
    }

    #[test]
    fn a_marker_may_be_plain_where_keys_are_encoded() {
        let page = page(
            "<ListVersionsResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>\
             <NextKeyMarker>a+b</NextKeyMarker><NextVersionIdMarker>v</NextVersionIdMarker>\
             <Version><Key>a%2Bb</Key><VersionId>v</VersionId></Version></ListVersionsResult>",
        );
        assert_eq!(page.next, Some(VersionMarker { key: "a+b".into(), version: Some("v".into()) }));
    }

    // XOS-OBJ-21
    #[test]
    fn without_a_marker_the_last_version_is_where_it_goes_on() {
        let page = page(
            "<ListVersionsResult><IsTruncated>true</IsTruncated><Version><Key>k</Key><VersionId>null</VersionId>\
             </Version></ListVersionsResult>",
        );
        assert_eq!(page.next, Some(VersionMarker { key: "k".into(), version: Some("null".into()) }));
    }
}

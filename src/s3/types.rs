//! What goes into and comes out of the store's operations.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::key::Key;

/// An entity tag without its quotes. Opaque: an MD5 only for some objects.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ETag(Arc<str>);

impl ETag {
    /// Drops the quotes and a weak mark, if there are any.
    pub fn new(text: &str) -> Self {
        ETag(text.trim().trim_start_matches("W/").trim_matches('"').into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn quoted(&self) -> String {
        format!("\"{}\"", self.0)
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One version of an object: what a reader pins and what cached blocks belong to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectId {
    pub key: Key,
    pub etag: ETag,
    /// On a versioned bucket, when known: an open handle then keeps reading its version.
    pub version: Option<Arc<str>>,
}

/// The content headers and user metadata of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    pub content_type: Option<String>,
    pub cache_control: Option<String>,
    pub content_disposition: Option<String>,
    pub content_encoding: Option<String>,
    pub content_language: Option<String>,
    pub expires: Option<String>,
    /// `x-amz-meta-*` without the prefix, names in lower case. Values are printable ASCII on the wire; anything else
    /// is percent-encoded by `s3` (a leading `%` escape is documented there) and decoded again when read.
    pub metadata: BTreeMap<String, String>,
}

/// What a new object is created with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewObject {
    pub headers: Headers,
    /// `x-amz-storage-class`; `None` sends none.
    pub storage_class: Option<String>,
    /// Canned ACL; `None` sends none.
    pub acl: Option<String>,
    /// A list without a canned name. No header has it: who writes the object sets it by a request of its own
    /// afterwards, and `acl` is `None`.
    pub grants: Option<Acl>,
    /// Tags in `x-amz-tagging`; empty sends none.
    pub tags: Vec<(String, String)>,
    /// `x-amz-server-side-encryption` and key id; `None` sends none.
    pub sse: Option<String>,
    pub sse_kms_key: Option<String>,
}

impl NewObject {
    /// Whether the store may have to be told more than the request that makes the object can carry.
    pub fn needs_settling(&self) -> bool {
        self.grants.is_some() || !self.tags.is_empty()
    }
}

/// What HEAD and GET say of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Whole object in bytes, also when only a range was fetched.
    pub size: u64,
    pub etag: ETag,
    pub version: Option<Arc<str>>,
    pub last_modified: Option<SystemTime>,
    pub headers: Headers,
    /// Absent means STANDARD.
    pub storage_class: Option<String>,
    /// `x-amz-restore` as sent.
    pub restore: Option<String>,
    /// `x-amz-tagging-count`, when the store sends it.
    pub tag_count: Option<u32>,
    pub sse: Option<String>,
    pub sse_kms_key: Option<String>,
}

/// One object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The key as sent: it may be one that [`Key`] cannot represent.
    pub key: String,
    pub size: u64,
    pub etag: Option<ETag>,
    pub last_modified: Option<SystemTime>,
    pub storage_class: Option<String>,
    /// Where it came from a listing of versions.
    pub version: Option<Arc<str>>,
}

/// Where a listing goes on. Opaque: made by one page, given back for the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Continue {
    /// List v2 continuation token.
    Token(String),
    /// Start after this key (v1 marker, or v2 start-after on the first page).
    After(String),
}

#[derive(Clone, Debug, Default)]
pub struct ListQuery<'a> {
    pub prefix: &'a str,
    /// Group by `/`: one directory level. Without it the listing is recursive.
    pub delimited: bool,
    pub from: Option<Continue>,
    /// 1 to 1000; `None` sends none (1000).
    pub max_keys: Option<u16>,
}

/// One page of a listing, in key order.
#[derive(Clone, Debug, Default)]
pub struct Page {
    pub objects: Vec<Listed>,
    /// Common prefixes, each ending in `/`.
    pub prefixes: Vec<String>,
    /// `None`: this was the last page.
    pub next: Option<Continue>,
}

/// What must hold for a write to take effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    #[default]
    None,
    /// `If-None-Match: *`: fails with `Kind::Exists` when there is an object.
    Absent,
    /// `If-Match`: fails with `Kind::Conflict` when the object is another one.
    Match(ETag),
}

/// What a successful write made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub etag: ETag,
    pub version: Option<Arc<str>>,
    /// `Last-Modified` where the answer has it; the `Date` header otherwise.
    pub last_modified: Option<SystemTime>,
}

/// A request body that can be sent again: pieces in order, never copied together.
#[derive(Clone, Debug, Default)]
pub struct Payload(pub Vec<Bytes>);

impl Payload {
    pub fn len(&self) -> u64 {
        self.0.iter().map(|b| b.len() as u64).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Payload(vec![bytes])
    }
}

/// The source of a copy.
#[derive(Clone, Debug)]
pub struct Source {
    /// `None`: the bucket of this `S3`.
    pub bucket: Option<String>,
    pub key: Key,
    pub version: Option<Arc<str>>,
    /// Sent as `x-amz-copy-source-if-match`; 412 is `Kind::Stale`.
    pub if_match: Option<ETag>,
}

impl Source {
    pub fn of(id: &ObjectId) -> Self {
        Source { bucket: None, key: id.key.clone(), version: id.version.clone(), if_match: Some(id.etag.clone()) }
    }
}

/// What a copy does with the attributes of its source.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one lives per copy request, on the stack")]
pub enum Directive {
    /// Keep headers, metadata and tags of the source; class and ACL as given (stores drop both unless sent).
    Keep { storage_class: Option<String>, acl: Option<String> },
    /// Replace them all. Tags: `None` keeps the source's, `Some` replaces.
    Replace { object: NewObject, tags: bool },
}

/// One finished part of a multipart upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// 1 to 10,000.
    pub number: u32,
    pub etag: ETag,
    /// Bytes.
    pub size: u64,
    /// CRC32C as the store sent it; completing the upload repeats it.
    pub checksum: Option<String>,
}

/// A multipart upload in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    pub key: String,
    pub id: String,
    pub initiated: Option<SystemTime>,
    pub storage_class: Option<String>,
    pub owner: Option<String>,
}

/// Who a grant is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grantee {
    User {
        id: String,
        name: Option<String>,
    },
    /// Group URI, as `http://acs.amazonaws.com/groups/global/AllUsers`.
    Group(String),
    Email(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub grantee: Grantee,
    /// READ, WRITE, READ_ACP, WRITE_ACP, FULL_CONTROL.
    pub permission: String,
    /// OBS: the bucket's grant applies to its objects too.
    pub delivered: Option<bool>,
}

/// An access control list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acl {
    pub owner_id: String,
    pub owner_name: Option<String>,
    pub grants: Vec<Grant>,
    /// OBS: the object inherits the bucket's ACL.
    pub delivered: Option<bool>,
}

/// A change of an ACL: never both forms in one request.
#[derive(Clone, Debug)]
pub enum AclChange {
    Canned(String),
    Full(Acl),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketInfo {
    pub name: String,
    pub created: Option<SystemTime>,
}

/// What a HEAD tells of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BucketStat {
    pub region: Option<String>,
    /// The store's clock, to the second.
    pub date: Option<SystemTime>,
    /// OBS: directories are real, and some of S3 is missing.
    pub parallel_file_system: bool,
    /// Ceph only.
    pub objects: Option<u64>,
    /// Ceph only.
    pub bytes: Option<u64>,
}

//! Extended attributes: `user.s3.*` is the store's view of the object, any other `user.NAME` its user metadata.
//!
//! 1. Only what is asked for by name costs a request: listxattr never makes one, and nothing of `user.s3.*` is in
//!    it, so that `cp -a`, `rsync -X` and `ls -l` cost none. `security.*`, `system.*` and `trusted.*` are answered
//!    at once.
//! 2. On a file that is not stored yet, everything rides along with the first commit.
//! 3. Tags and ACL have requests of their own. Class, headers and metadata are changed by copying the object onto
//!    itself. Reading, changing and writing a set back is a race in S3 itself; on this mount it is serialised.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::Fs;
use super::attr::{FileKind, is_posix_name};
use super::inode::{Ino, Inode, ROOT};
use crate::error::{Error, Kind, Result};
use crate::key::Key;
use crate::s3::{Acl, AclChange, Grant, Grantee, Headers, NewObject, ObjectMeta, canned_name};

/// XOS-TAG-04, XOS-TAG-07.
const TAGS_MAX: usize = 10;
const TAG_KEY_MAX: usize = 128;
const TAG_VALUE_MAX: usize = 256;

/// Everything that has a meaning in a query string, or to a reader of one line.
const TAG_ESCAPES: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b':').remove(b'/').remove(b'@');

const GROUPS: &str = "http://acs.amazonaws.com/groups/global/";
const LOG_DELIVERY: &str = "http://acs.amazonaws.com/groups/s3/LogDelivery";

/// A header that an attribute of the same name shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Header {
    ContentType,
    CacheControl,
    ContentDisposition,
    ContentEncoding,
    ContentLanguage,
    Expires,
}

impl Header {
    fn of(self, headers: &Headers) -> Option<&String> {
        match self {
            Header::ContentType => headers.content_type.as_ref(),
            Header::CacheControl => headers.cache_control.as_ref(),
            Header::ContentDisposition => headers.content_disposition.as_ref(),
            Header::ContentEncoding => headers.content_encoding.as_ref(),
            Header::ContentLanguage => headers.content_language.as_ref(),
            Header::Expires => headers.expires.as_ref(),
        }
    }

    fn set(self, headers: &mut Headers, value: Option<String>) {
        let field = match self {
            Header::ContentType => &mut headers.content_type,
            Header::CacheControl => &mut headers.cache_control,
            Header::ContentDisposition => &mut headers.content_disposition,
            Header::ContentEncoding => &mut headers.content_encoding,
            Header::ContentLanguage => &mut headers.content_language,
            Header::Expires => &mut headers.expires,
        };
        *field = value;
    }
}

/// An attribute by meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Attribute {
    Acl,
    Grants,
    Owner,
    Tags,
    Tag(String),
    StorageClass,
    Header(Header),
    Restore,
    ETag,
    VersionId,
    Size,
    LastModified,
    Sse,
    Uri,
    BucketAcl,
    BucketLocation,
    Metadata(String),
}

impl Attribute {
    /// Errors: [`Kind::Unsupported`] for other namespaces, [`Kind::NoAttribute`] for an unknown `user.s3.*`.
    fn parse(name: &str) -> Result<Attribute> {
        let Some(user) = name.strip_prefix("user.") else { return Err(Kind::Unsupported.into()) };
        let Some(s3) = user.strip_prefix("s3.") else {
            let name = user.to_ascii_lowercase();
            let token = |b: u8| b.is_ascii_alphanumeric() || b"-_.!#$&+^`|~".contains(&b);
            if name.is_empty() || !name.bytes().all(token) || is_posix_name(&name) {
                return Err(Error::new(Kind::NoAttribute, "no metadata name").with_key(name));
            }
            return Ok(Attribute::Metadata(name));
        };
        Ok(match s3 {
            "acl" => Attribute::Acl,
            "acl.grants" => Attribute::Grants,
            "owner" => Attribute::Owner,
            "tags" => Attribute::Tags,
            "storage-class" => Attribute::StorageClass,
            "content-type" => Attribute::Header(Header::ContentType),
            "cache-control" => Attribute::Header(Header::CacheControl),
            "content-disposition" => Attribute::Header(Header::ContentDisposition),
            "content-encoding" => Attribute::Header(Header::ContentEncoding),
            "content-language" => Attribute::Header(Header::ContentLanguage),
            "expires" => Attribute::Header(Header::Expires),
            "restore" => Attribute::Restore,
            "etag" => Attribute::ETag,
            "version-id" => Attribute::VersionId,
            "size" => Attribute::Size,
            "last-modified" => Attribute::LastModified,
            "sse" => Attribute::Sse,
            "uri" => Attribute::Uri,
            "bucket.acl" => Attribute::BucketAcl,
            "bucket.location" => Attribute::BucketLocation,
            other => match other.strip_prefix("tag.") {
                Some(key) if !key.is_empty() => Attribute::Tag(key.to_owned()),
                _ => return Err(Error::new(Kind::NoAttribute, "no such attribute").with_key(name)),
            },
        })
    }
}

fn invalid(what: &str, value: &str) -> Error {
    Error::new(Kind::Invalid, what.to_owned()).with_key(value)
}

/// `k=v&k2=v2`, both sides URL-encoded (XOS-TAG-08).
pub fn parse_tags(text: &str) -> Result<Vec<(String, String)>> {
    let mut tags: Vec<(String, String)> = Vec::new();
    for pair in text.trim().split('&').filter(|p| !p.is_empty()) {
        let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
        let decode = |s: &str| {
            percent_decode_str(s).decode_utf8().map(|t| t.into_owned()).map_err(|_| invalid("tag is not UTF-8", pair))
        };
        let tag = (decode(k)?, decode(v)?);
        if tags.iter().any(|(k, _)| *k == tag.0) {
            return Err(invalid("the same tag twice", &tag.0));
        }
        tags.push(tag);
    }
    check_tags(&tags)?;
    Ok(tags)
}

/// Limits of XOS and AWS: 10 tags ([`Kind::Limit`]), keys of 128 and values of 256 bytes ([`Kind::Range`]).
fn check_tags(tags: &[(String, String)]) -> Result<()> {
    if tags.len() > TAGS_MAX {
        return Err(Error::new(Kind::Limit, "set more than 10 tags"));
    }
    for (k, v) in tags {
        if k.is_empty() {
            return Err(invalid("tag without a key", v));
        }
        if k.len() > TAG_KEY_MAX || v.len() > TAG_VALUE_MAX {
            return Err(Error::new(Kind::Range, "tag key over 128 or value over 256 bytes").with_key(k));
        }
    }
    Ok(())
}

pub fn format_tags(tags: &[(String, String)]) -> String {
    let e = |s: &str| utf8_percent_encode(s, TAG_ESCAPES).to_string();
    tags.iter().map(|(k, v)| format!("{}={}", e(k), e(v))).collect::<Vec<_>>().join("&")
}

fn format_grantee(grantee: &Grantee) -> String {
    match grantee {
        Grantee::User { id, .. } => format!("id={id}"),
        Grantee::Group(uri) if uri == LOG_DELIVERY => "LogDelivery".into(),
        Grantee::Group(uri) => uri.strip_prefix(GROUPS).map_or_else(|| format!("uri={uri}"), str::to_owned),
        Grantee::Email(email) => format!("email={email}"),
    }
}

fn parse_grants(text: &str) -> Result<Vec<Grant>> {
    let mut grants = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let (permission, grantee) =
            line.split_once(char::is_whitespace).ok_or_else(|| invalid("a grant is `PERMISSION grantee`", line))?;
        let permission = permission.to_ascii_uppercase();
        if !["READ", "WRITE", "READ_ACP", "WRITE_ACP", "FULL_CONTROL"].contains(&permission.as_str()) {
            return Err(invalid("permission is READ, WRITE, READ_ACP, WRITE_ACP or FULL_CONTROL", line));
        }
        let grantee = match grantee.trim() {
            "AllUsers" => Grantee::Group(format!("{GROUPS}AllUsers")),
            "AuthenticatedUsers" => Grantee::Group(format!("{GROUPS}AuthenticatedUsers")),
            "LogDelivery" => Grantee::Group(LOG_DELIVERY.into()),
            other => match other.split_once('=') {
                Some(("id", id)) if !id.is_empty() => Grantee::User { id: id.into(), name: None },
                Some(("uri", uri)) if !uri.is_empty() => Grantee::Group(uri.into()),
                Some(("email", email)) if !email.is_empty() => Grantee::Email(email.into()),
                _ => return Err(invalid("grantee is id=…, uri=…, email=…, AllUsers or AuthenticatedUsers", line)),
            },
        };
        grants.push(Grant { grantee, permission, delivered: None });
    }
    if grants.len() > 100 {
        return Err(Error::new(Kind::Limit, "set more than 100 grants"));
    }
    Ok(grants)
}

fn format_grants(acl: &Acl) -> String {
    acl.grants.iter().map(|g| format!("{} {}\n", g.permission, format_grantee(&g.grantee))).collect()
}

/// State of an archived object in words (dialects §11).
fn format_restore(meta: &ObjectMeta, archive_class: bool) -> String {
    match meta.restore.as_deref() {
        Some(r) if r.contains("ongoing-request=\"true\"") => "in-progress".into(),
        Some(r) => match r.split("expiry-date=\"").nth(1).and_then(|d| d.split('"').next()) {
            Some(date) => format!("until {date}"),
            None => "restored".into(),
        },
        None if archive_class => "archived".into(),
        None => "none".into(),
    }
}

fn meta_name<'a>(headers: &'a Headers, name: &str) -> Option<&'a String> {
    // Ceph hands names back with `-` for `_`.
    headers.metadata.get(name).or_else(|| headers.metadata.get(&name.replace('_', "-")))
}

impl Fs {
    /// Names outside `user.`: no object has them, and the kernel asks for them all day.
    pub fn getxattr_now(&self, name: &str) -> Option<Error> {
        (!name.starts_with("user.")).then(|| Kind::NoAttribute.into())
    }

    /// The object that carries a node's attributes: the file's, or a directory's marker.
    async fn attribute_key(self: &Arc<Self>, inode: &Arc<Inode>) -> Result<Key> {
        if inode.kind() != FileKind::Dir {
            return self.inodes.key(inode.ino);
        }
        let (odd, has) = {
            let state = inode.state.lock();
            (state.odd_marker.clone(), state.has_marker)
        };
        if let Some(odd) = odd {
            return Ok(odd);
        }
        let marker = self.inodes.prefix(inode.ino)?.marker().ok_or(Kind::NoAttribute)?;
        if has {
            return Ok(marker);
        }
        match self.s3.head(&marker, None).await {
            Ok(_) => {
                inode.state.lock().has_marker = true;
                Ok(marker)
            }
            Err(e) if e.kind() == Kind::NotFound => {
                Err(Error::new(Kind::NoAttribute, "the directory has no marker object").with_key(marker))
            }
            Err(e) => Err(e),
        }
    }

    /// What a file that is not stored as it is now will carry.
    fn uncommitted(&self, inode: &Inode) -> Option<NewObject> {
        let state = inode.state.lock();
        state.writer.as_ref().filter(|w| w.is_dirty()).map(|w| w.object())
    }

    async fn meta_of(self: &Arc<Self>, inode: &Arc<Inode>, key: &Key) -> Result<Arc<ObjectMeta>> {
        if let Some(meta) = self.known_meta(inode) {
            return Ok(meta);
        }
        if inode.kind() == FileKind::Dir {
            return Ok(Arc::new(self.s3.head(key, None).await?));
        }
        self.refresh(inode).await
    }

    /// Runs `request` unless the store turned out before not to support the like.
    async fn if_supported<T>(&self, lacking: &AtomicBool, request: impl Future<Output = Result<T>>) -> Result<T> {
        if lacking.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::Unsupported, "this store lacks it"));
        }
        request.await.inspect_err(|e| {
            if e.kind() == Kind::Unsupported {
                lacking.store(true, Ordering::Relaxed);
            }
        })
    }

    async fn ask_acl(&self, key: &Key) -> Result<Acl> {
        self.if_supported(&self.acl_unsupported, self.s3.object_acl(key, None)).await
    }

    async fn set_acl(&self, key: &Key, change: &AclChange) -> Result<()> {
        self.if_supported(&self.acl_unsupported, self.s3.set_object_acl(key, None, change)).await
    }

    async fn ask_tags(&self, key: &Key) -> Result<Vec<(String, String)>> {
        self.if_supported(&self.tags_unsupported, self.s3.tags(key, None)).await
    }

    /// None are removed: an empty set is not one that every store takes.
    async fn put_tags(&self, key: &Key, tags: &[(String, String)]) -> Result<()> {
        if tags.is_empty() {
            return self.if_supported(&self.tags_unsupported, self.s3.delete_tags(key, None)).await;
        }
        self.if_supported(&self.tags_unsupported, self.s3.set_tags(key, None, tags)).await
    }

    /// Requests: one for tags, ACL, owner; one HEAD for the rest unless it is known; none for `uri`.
    ///
    /// Errors: [`Kind::NoAttribute`] (ENODATA), and what the request fails with.
    pub async fn getxattr(self: &Arc<Self>, ino: Ino, name: &str) -> Result<Vec<u8>> {
        let attribute = match Attribute::parse(name) {
            Err(e) if e.kind() == Kind::Unsupported => return Err(Kind::NoAttribute.into()),
            other => other?,
        };
        let inode = self.inodes.get(ino)?;
        let none = || Error::new(Kind::NoAttribute, "no such attribute").with_key(name);
        match (&attribute, ino == ROOT) {
            (Attribute::BucketAcl, true) => {
                let acl = self.s3.bucket_acl().await?;
                return Ok(canned_name(&acl).unwrap_or("custom").into());
            }
            (Attribute::BucketLocation, true) => return Ok(self.s3.location().await?.into_bytes()),
            (Attribute::Uri, true) => {
                return Ok(format!("s3://{}/{}", self.s3.bucket(), self.settings.root).into_bytes());
            }
            (Attribute::BucketAcl | Attribute::BucketLocation, false) | (_, true) => return Err(none()),
            _ => {}
        }
        if attribute == Attribute::Uri {
            let key = match inode.kind() {
                FileKind::Dir => self.inodes.prefix(ino)?.to_string(),
                _ => self.inodes.key(ino)?.to_string(),
            };
            return Ok(format!("s3://{}/{key}", self.s3.bucket()).into_bytes());
        }
        if let Some(object) = self.uncommitted(&inode) {
            return get_uncommitted(&attribute, &object).ok_or_else(none);
        }
        let key = self.attribute_key(&inode).await?;
        let value = match &attribute {
            Attribute::Acl => {
                let acl = self.ask_acl(&key).await?;
                canned_name(&acl).unwrap_or("custom").to_owned()
            }
            Attribute::Grants => format_grants(&self.ask_acl(&key).await?),
            Attribute::Owner => {
                let acl = self.ask_acl(&key).await?;
                match acl.owner_name.filter(|n| !n.is_empty()) {
                    Some(display) => format!("{} {display}", acl.owner_id),
                    None => acl.owner_id,
                }
            }
            Attribute::Tags => match self.ask_tags(&key).await? {
                tags if tags.is_empty() => return Err(none()),
                tags => format_tags(&tags),
            },
            Attribute::Tag(tag) => {
                let tags = self.ask_tags(&key).await?;
                tags.into_iter().find(|(k, _)| k == tag).map(|(_, v)| v).ok_or_else(none)?
            }
            _ => {
                let meta = self.meta_of(&inode, &key).await?;
                get_from_meta(&attribute, &meta).ok_or_else(none)?
            }
        };
        Ok(value.into_bytes())
    }

    /// User metadata that is known without a request.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<String>> {
        let inode = self.inodes.get(ino)?;
        if inode.kind() == FileKind::Dir {
            return Ok(Vec::new());
        }
        let headers = match self.uncommitted(&inode) {
            Some(object) => Some(object.headers),
            None => inode.state.lock().facts.meta.as_ref().map(|m| m.headers.clone()),
        };
        let names = headers.map(|h| h.metadata.into_keys().filter(|n| !is_posix_name(n)).collect::<Vec<_>>());
        Ok(names.unwrap_or_default().into_iter().map(|n| format!("user.{n}")).collect())
    }

    /// `create`, `replace`: XATTR_CREATE, XATTR_REPLACE.
    ///
    /// Errors: [`Kind::Unsupported`] for other namespaces, [`Kind::NotPermitted`] (EPERM) for what only the store
    /// sets, [`Kind::Invalid`] with the reason in the log, [`Kind::Limit`] (ENOSPC) and [`Kind::Range`] for tags.
    pub async fn setxattr(
        self: &Arc<Self>,
        ino: Ino,
        name: &str,
        value: &[u8],
        create: bool,
        replace: bool,
    ) -> Result<()> {
        self.writable()?;
        let attribute = match Attribute::parse(name) {
            Err(e) if e.kind() == Kind::NoAttribute => {
                let known = name.starts_with("user.s3.");
                return Err(e.with_kind(if known { Kind::Unsupported } else { Kind::Invalid }));
            }
            other => other?,
        };
        let value = std::str::from_utf8(value).map_err(|_| invalid("the value is not UTF-8", name))?;
        if create || replace {
            let exists = match self.getxattr(ino, name).await {
                Ok(_) => true,
                Err(e) if e.kind() == Kind::NoAttribute => false,
                Err(e) => return Err(e),
            };
            if create && exists {
                return Err(Kind::Exists.into());
            }
            if replace && !exists {
                return Err(Kind::NoAttribute.into());
            }
        }
        self.change(ino, name, attribute, Some(value.trim_end_matches('\0'))).await
    }

    pub async fn removexattr(self: &Arc<Self>, ino: Ino, name: &str) -> Result<()> {
        self.writable()?;
        let attribute = match Attribute::parse(name) {
            Err(e) if e.kind() == Kind::Unsupported => return Err(Kind::NoAttribute.into()),
            other => other?,
        };
        if matches!(attribute, Attribute::Tag(_) | Attribute::Metadata(_)) {
            self.getxattr(ino, name).await?;
        }
        self.change(ino, name, attribute, None).await
    }

    /// Sets (or with `None` removes) one attribute.
    async fn change(self: &Arc<Self>, ino: Ino, name: &str, attribute: Attribute, value: Option<&str>) -> Result<()> {
        let inode = self.inodes.get(ino)?;
        if ino == ROOT {
            return match (&attribute, value) {
                (Attribute::BucketAcl, Some(v)) => self.s3.set_bucket_acl(&AclChange::Canned(canned(v)?)).await,
                (Attribute::BucketAcl, None) => self.s3.set_bucket_acl(&AclChange::Canned("private".into())).await,
                (Attribute::BucketLocation, _) => Err(Kind::NotPermitted.into()),
                _ => Err(Error::new(Kind::Unsupported, "set on the root of a mount").with_key(name)),
            };
        }
        // Checked before anything is sent.
        let edit = Edit::of(&attribute, name, value)?;
        let _changing = inode.changing.lock().await;
        let writer = inode.state.lock().writer.clone();
        if let Some(w) = writer {
            let mut result = Ok(());
            if w.edit_object(&mut |object| result = edit.apply_uncommitted(object)) {
                return result;
            }
        }
        let key = self.attribute_key(&inode).await.map_err(|e| match e.kind() {
            Kind::NoAttribute => e.with_kind(Kind::Unsupported),
            _ => e,
        })?;
        match &edit {
            Edit::Acl(canned) => self.set_acl(&key, &AclChange::Canned(canned.clone())).await,
            Edit::Grants(grants) => {
                // The owner element must be the real one (dialects §8).
                let mut acl = self.ask_acl(&key).await?;
                acl.grants = grants.clone();
                self.set_acl(&key, &AclChange::Full(acl)).await
            }
            Edit::Tags(tags) => self.put_tags(&key, tags).await.inspect(|()| self.tags_changed(&inode)),
            Edit::Tag(tag, value) => {
                let mut tags = self.ask_tags(&key).await?;
                edit_tag(&mut tags, tag, value.as_deref())?;
                self.put_tags(&key, &tags).await.inspect(|()| self.tags_changed(&inode))
            }
            Edit::Class(_) | Edit::Header(..) | Edit::Metadata(..) => {
                if inode.kind() == FileKind::Dir {
                    return Err(Error::new(Kind::Unsupported, "set on a directory").with_key(name));
                }
                let edit = edit.clone();
                let apply = move |object: &mut NewObject| {
                    // Cannot fail: only tags have limits to check here.
                    let _ = edit.apply_uncommitted(object);
                };
                self.self_copy(&inode, &apply).await
            }
        }
    }

    /// Tags are carried by rewrites and renames: the count that was known is not right any more.
    fn tags_changed(&self, inode: &Inode) {
        let mut state = inode.state.lock();
        if let Some(meta) = state.facts.meta.take() {
            state.facts.meta = Some(Arc::new(ObjectMeta { tag_count: None, ..(*meta).clone() }));
        }
    }
}

fn canned(value: &str) -> Result<String> {
    const CANNED: [&str; 9] = [
        "private",
        "public-read",
        "public-read-write",
        "authenticated-read",
        "bucket-owner-read",
        "bucket-owner-full-control",
        "aws-exec-read",
        "log-delivery-write",
        "public-read-delivered",
    ];
    let value = value.trim();
    if CANNED.contains(&value) {
        Ok(value.to_owned())
    } else {
        Err(invalid(&format!("a canned ACL is one of {}", CANNED.join(", ")), value))
    }
}

/// A checked change.
#[derive(Clone, Debug)]
enum Edit {
    Acl(String),
    Grants(Vec<Grant>),
    Tags(Vec<(String, String)>),
    Tag(String, Option<String>),
    Class(Option<String>),
    Header(Header, Option<String>),
    Metadata(String, Option<String>),
}

impl Edit {
    fn of(attribute: &Attribute, name: &str, value: Option<&str>) -> Result<Edit> {
        let text = value.map(str::to_owned);
        let plain = |v: Option<String>| match v {
            Some(v) if v.chars().any(|c| c.is_ascii_control()) => Err(invalid("a header value on one line", name)),
            v => Ok(v),
        };
        Ok(match (attribute, value) {
            (Attribute::Acl, Some(v)) => Edit::Acl(canned(v)?),
            (Attribute::Acl, None) => Edit::Acl("private".into()),
            (Attribute::Grants, Some(v)) => Edit::Grants(parse_grants(v)?),
            (Attribute::Tags, v) => Edit::Tags(parse_tags(v.unwrap_or(""))?),
            (Attribute::Tag(tag), v) => {
                check_tags(&[(tag.clone(), v.unwrap_or("").to_owned())])?;
                Edit::Tag(tag.clone(), text)
            }
            (Attribute::StorageClass, Some(v)) => {
                let class = v.trim();
                if class.is_empty() || !class.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
                    return Err(invalid("a storage class is a word like STANDARD_IA", class));
                }
                Edit::Class(Some(class.to_owned()))
            }
            (Attribute::Header(h), _) => Edit::Header(*h, plain(text)?),
            (Attribute::Metadata(m), _) => Edit::Metadata(m.clone(), text),
            _ => return Err(Error::new(Kind::NotPermitted, "change a read-only attribute").with_key(name)),
        })
    }

    /// Applies to an object that is written as a whole: before its commit, or by a self-copy.
    fn apply_uncommitted(&self, object: &mut NewObject) -> Result<()> {
        match self {
            Edit::Acl(acl) => object.acl = Some(acl.clone()),
            Edit::Grants(_) => {
                return Err(Error::new(Kind::Busy, "set grants before the file is stored").with_fix("close it first"));
            }
            Edit::Tags(tags) => object.tags = tags.clone(),
            Edit::Tag(tag, value) => edit_tag(&mut object.tags, tag, value.as_deref())?,
            Edit::Class(class) => object.storage_class = class.clone(),
            Edit::Header(h, value) => h.set(&mut object.headers, value.clone()),
            Edit::Metadata(name, Some(value)) => {
                object.headers.metadata.insert(name.clone(), value.clone());
            }
            Edit::Metadata(name, None) => {
                object.headers.metadata.remove(name);
                object.headers.metadata.remove(&name.replace('_', "-"));
            }
        }
        Ok(())
    }
}

fn edit_tag(tags: &mut Vec<(String, String)>, tag: &str, value: Option<&str>) -> Result<()> {
    tags.retain(|(k, _)| k != tag);
    if let Some(value) = value {
        tags.push((tag.to_owned(), value.to_owned()));
    }
    check_tags(tags)
}

fn get_uncommitted(attribute: &Attribute, object: &NewObject) -> Option<Vec<u8>> {
    let value = match attribute {
        Attribute::Acl => object.acl.clone().unwrap_or_else(|| "private".into()),
        Attribute::Tags if !object.tags.is_empty() => format_tags(&object.tags),
        Attribute::Tag(tag) => object.tags.iter().find(|(k, _)| k == tag)?.1.clone(),
        Attribute::StorageClass => object.storage_class.clone().unwrap_or_else(|| "STANDARD".into()),
        Attribute::Header(h) => h.of(&object.headers)?.clone(),
        Attribute::Metadata(name) => meta_name(&object.headers, name)?.clone(),
        Attribute::Sse => object.sse.clone()?,
        _ => return None,
    };
    Some(value.into_bytes())
}

fn get_from_meta(attribute: &Attribute, meta: &ObjectMeta) -> Option<String> {
    Some(match attribute {
        Attribute::StorageClass => meta.storage_class.clone().unwrap_or_else(|| "STANDARD".into()),
        Attribute::Header(h) => h.of(&meta.headers)?.clone(),
        Attribute::Restore => format_restore(meta, super::attr::Facts::of_meta(meta).is_archive_class()),
        Attribute::ETag => meta.etag.to_string(),
        Attribute::VersionId => meta.version.as_deref()?.to_owned(),
        Attribute::Size => meta.size.to_string(),
        Attribute::LastModified => Timestamp::try_from(meta.last_modified?).ok()?.to_string(),
        Attribute::Sse => meta.sse.clone()?,
        Attribute::Metadata(name) => meta_name(&meta.headers, name)?.clone(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// XOS-TAG-04, -06, -07, -08.
    #[test]
    fn tags_are_checked_before_they_are_sent() {
        assert_eq!(parse_tags("a=1&b%20c=%26").unwrap(), [("a".into(), "1".into()), ("b c".into(), "&".into())]);
        assert_eq!(format_tags(&parse_tags("b%20c=%26&x=y/z").unwrap()), "b%20c=%26&x=y/z");
        assert_eq!(parse_tags("a=1&a=2").unwrap_err().kind(), Kind::Invalid);
        assert_eq!(parse_tags("=1").unwrap_err().kind(), Kind::Invalid);
        let eleven: Vec<String> = (0..11).map(|i| format!("k{i}=v")).collect();
        assert_eq!(parse_tags(&eleven.join("&")).unwrap_err().kind(), Kind::Limit);
        assert_eq!(parse_tags(&format!("{}=v", "k".repeat(129))).unwrap_err().kind(), Kind::Range);
        assert_eq!(parse_tags(&format!("k={}", "v".repeat(257))).unwrap_err().kind(), Kind::Range);
        assert!(parse_tags("").unwrap().is_empty());
    }

    #[test]
    fn grants_are_one_a_line() {
        let text = "FULL_CONTROL id=owner\nREAD AllUsers\nREAD uri=http://x/y\n";
        let acl = Acl { owner_id: "owner".into(), grants: parse_grants(text).unwrap(), ..Acl::default() };
        assert_eq!(format_grants(&acl), text);
        for bad in ["READ", "EAT AllUsers", "READ nobody", "READ id="] {
            assert_eq!(parse_grants(bad).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
    }

    #[test]
    fn names_outside_our_namespace_and_posix_metadata_are_no_attributes() {
        assert_eq!(Attribute::parse("security.capability").unwrap_err().kind(), Kind::Unsupported);
        assert_eq!(Attribute::parse("user.s3.nonsense").unwrap_err().kind(), Kind::NoAttribute);
        assert_eq!(Attribute::parse("user.mtime").unwrap_err().kind(), Kind::NoAttribute);
        assert_eq!(Attribute::parse("user.Comment").unwrap(), Attribute::Metadata("comment".into()));
        assert_eq!(Attribute::parse("user.s3.tag.a b").unwrap(), Attribute::Tag("a b".into()));
    }
}

//! What extended attributes are called, what their values look like as text, and which values are allowed.

use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::attr::is_posix_name;
use crate::error::{Error, Kind, Result};
use crate::s3::{Acl, Grant, Grantee, Headers, NewObject, ObjectMeta};

/// XOS-TAG-04, XOS-TAG-07.
pub(super) const TAGS_MAX: usize = 10;
pub(super) const TAG_KEY_MAX: usize = 128;
pub(super) const TAG_VALUE_MAX: usize = 256;

/// Everything that has a meaning in a query string, or to a reader of one line.
pub(super) const TAG_ESCAPES: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b':').remove(b'/').remove(b'@');

pub(super) const GROUPS: &str = "http://acs.amazonaws.com/groups/global/";
pub(super) const LOG_DELIVERY: &str = "http://acs.amazonaws.com/groups/s3/LogDelivery";

/// A header that an attribute of the same name shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    ContentType,
    CacheControl,
    ContentDisposition,
    ContentEncoding,
    ContentLanguage,
    Expires,
}

impl Header {
    pub(super) fn of(self, headers: &Headers) -> Option<&String> {
        match self {
            Header::ContentType => headers.content_type.as_ref(),
            Header::CacheControl => headers.cache_control.as_ref(),
            Header::ContentDisposition => headers.content_disposition.as_ref(),
            Header::ContentEncoding => headers.content_encoding.as_ref(),
            Header::ContentLanguage => headers.content_language.as_ref(),
            Header::Expires => headers.expires.as_ref(),
        }
    }

    pub(super) fn set(self, headers: &mut Headers, value: Option<String>) {
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
pub(super) enum Attribute {
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
    pub(super) fn parse(name: &str) -> Result<Attribute> {
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

pub(super) fn invalid(what: &str, value: &str) -> Error {
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
pub(super) fn check_tags(tags: &[(String, String)]) -> Result<()> {
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

pub(super) fn format_grantee(grantee: &Grantee) -> String {
    match grantee {
        Grantee::User { id, .. } => format!("id={id}"),
        Grantee::Group(uri) if uri == LOG_DELIVERY => "LogDelivery".into(),
        Grantee::Group(uri) => uri.strip_prefix(GROUPS).map_or_else(|| format!("uri={uri}"), str::to_owned),
        Grantee::Email(email) => format!("email={email}"),
    }
}

pub(super) fn parse_grants(text: &str) -> Result<Vec<Grant>> {
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

pub(super) fn format_grants(acl: &Acl) -> String {
    acl.grants.iter().map(|g| format!("{} {}\n", g.permission, format_grantee(&g.grantee))).collect()
}

/// State of an archived object in words (dialects §11).
pub(super) fn format_restore(meta: &ObjectMeta, archive_class: bool) -> String {
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

pub(super) fn meta_name<'a>(headers: &'a Headers, name: &str) -> Option<&'a String> {
    // Ceph hands names back with `-` for `_`.
    headers.metadata.get(name).or_else(|| headers.metadata.get(&name.replace('_', "-")))
}

pub(super) fn canned(value: &str) -> Result<String> {
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
pub(super) enum Edit {
    Acl(String),
    Grants(Vec<Grant>),
    Tags(Vec<(String, String)>),
    Tag(String, Option<String>),
    Class(Option<String>),
    Header(Header, Option<String>),
    Metadata(String, Option<String>),
}

impl Edit {
    pub(super) fn of(attribute: &Attribute, name: &str, value: Option<&str>) -> Result<Edit> {
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
    pub(super) fn apply_uncommitted(&self, object: &mut NewObject) -> Result<()> {
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

pub(super) fn edit_tag(tags: &mut Vec<(String, String)>, tag: &str, value: Option<&str>) -> Result<()> {
    tags.retain(|(k, _)| k != tag);
    if let Some(value) = value {
        tags.push((tag.to_owned(), value.to_owned()));
    }
    check_tags(tags)
}

pub(super) fn get_uncommitted(attribute: &Attribute, object: &NewObject) -> Option<Vec<u8>> {
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

pub(super) fn get_from_meta(attribute: &Attribute, meta: &ObjectMeta) -> Option<String> {
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

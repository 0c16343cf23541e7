//! What extended attributes are called, what their values look like as text, and which values are allowed.

use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::attr::is_posix_name;
use super::bucket_attribute::BucketAttribute;
use crate::config::provider::{Provider, TagLimits};
use crate::error::{Error, Kind, Result};
use crate::s3::grants::{self, Wanted};
use crate::s3::{Acl, Headers, NewObject, ObjectMeta, ObjectVersion};

/// Everything that has a meaning in a query string, or to a reader of one line.
pub(super) const TAG_ESCAPES: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b':').remove(b'/').remove(b'@');

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
    AclJson,
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
    Versions,
    Url,
    UrlPut,
    Bucket(BucketAttribute),
    Metadata(String),
}

impl Attribute {
    /// Those that a listing of everything tries, by what follows `user.s3.`: the first of each group tells for all of
    /// them.
    pub(super) const GROUPS: &[&[&str]] = &[
        &["acl", "acl.grants", "acl.json", "owner"],
        &["cache-control"],
        &["content-disposition"],
        &["content-encoding"],
        &["content-language"],
        &["content-type"],
        &["etag", "last-modified", "restore", "size", "storage-class"],
        &["expires"],
        &["sse"],
        &["tags"],
        &["uri"],
        &["version-id"],
        &["bucket.acl"],
        &["bucket.location"],
        &["bucket.versioning"],
        &["bucket.tags"],
    ];

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
            "acl.json" => Attribute::AclJson,
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
            "versions" => Attribute::Versions,
            "url" => Attribute::Url,
            "url.put" => Attribute::UrlPut,
            other => {
                let tag = other.strip_prefix("tag.").filter(|key| !key.is_empty());
                let bucket = other.strip_prefix("bucket.").and_then(BucketAttribute::parse);
                match (tag, bucket) {
                    (Some(key), _) => Attribute::Tag(key.to_owned()),
                    (_, Some(of_bucket)) => Attribute::Bucket(of_bucket),
                    _ => return Err(Error::new(Kind::NoAttribute, "no such attribute").with_key(name)),
                }
            }
        })
    }
}

impl Attribute {
    /// Whether it is answered by the store's requests for tags or ACL.
    pub(super) fn is_of_tags_or_acl(&self) -> bool {
        use Attribute::*;
        matches!(self, Acl | Grants | AclJson | Owner | Tags | Tag(_))
    }
}

pub(super) fn invalid(what: &str, value: &str) -> Error {
    Error::new(Kind::Invalid, what.to_owned()).with_key(value)
}

/// `k=v&k2=v2`, both sides URL-encoded (XOS-TAG-08).
pub fn parse_tags(text: &str, limits: &TagLimits) -> Result<Vec<(String, String)>> {
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
    check_tags(&tags, limits)?;
    Ok(tags)
}

/// XOS-TAG-04, XOS-TAG-07: too many are [`Kind::Limit`], too long is [`Kind::Range`].
pub(super) fn check_tags(tags: &[(String, String)], limits: &TagLimits) -> Result<()> {
    if tags.len() > limits.per_object as usize {
        return Err(Error::new(Kind::Limit, format!("set more than {} tags", limits.per_object)));
    }
    for (k, v) in tags {
        if k.is_empty() {
            return Err(invalid("tag without a key", v));
        }
        if !limits.key_fits(k) || !limits.value_fits(v) {
            let what = format!("tag key over {} or value over {} {}", limits.key, limits.value, limits.unit);
            return Err(Error::new(Kind::Range, what).with_key(k));
        }
        if let Some(c) = k.chars().chain(v.chars()).find(|c| limits.refused.contains(*c)) {
            return Err(invalid(&format!("this store takes no {c:?} in a tag"), k));
        }
        if !limits.reserved.is_empty() && k.starts_with(limits.reserved) {
            return Err(invalid(&format!("tags that begin with `{}` are the store's own", limits.reserved), k));
        }
    }
    Ok(())
}

pub fn format_tags(tags: &[(String, String)]) -> String {
    let e = |s: &str| utf8_percent_encode(s, TAG_ESCAPES).to_string();
    tags.iter().map(|(k, v)| format!("{}={}", e(k), e(v))).collect::<Vec<_>>().join("&")
}

/// One version a line, newest first: id, time, size, class, and what else it is.
pub(super) fn format_versions(versions: &[ObjectVersion]) -> String {
    let line = |v: &ObjectVersion| {
        let time = v.last_modified.and_then(|t| Timestamp::try_from(t).ok());
        let time = time.map_or_else(|| "-".to_owned(), |t| t.to_string());
        let class = v.storage_class.as_deref().unwrap_or(if v.deleted { "-" } else { "STANDARD" });
        let latest = if v.latest { " latest" } else { "" };
        let deleted = if v.deleted { " deleted" } else { "" };
        format!("{} {time} {} {class}{latest}{deleted}\n", v.version, v.size)
    };
    versions.iter().map(line).collect()
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

/// A checked change.
#[derive(Clone, Debug)]
pub(super) enum Edit {
    Acl(String),
    Grants(Wanted),
    Tags(Vec<(String, String)>),
    Tag(String, Option<String>),
    Class(Option<String>),
    Header(Header, Option<String>),
    Metadata(String, Option<String>),
    /// Days, and how fast.
    Restore(u32, Option<String>),
}

impl Edit {
    pub(super) fn of(attribute: &Attribute, name: &str, value: Option<&str>, store: &Provider) -> Result<Edit> {
        let text = value.map(str::to_owned);
        let plain = |v: Option<String>| match v {
            Some(v) if v.chars().any(|c| c.is_ascii_control()) => Err(invalid("a header value on one line", name)),
            v => Ok(v),
        };
        Ok(match (attribute, value) {
            (Attribute::Acl, Some(v)) => Edit::Acl(grants::canned(v, &store.acl, false)?),
            (Attribute::Acl, None) => Edit::Acl("private".into()),
            (Attribute::Grants, Some(v)) => Edit::Grants(grants::parse_lines(v, &store.acl, false)?),
            (Attribute::AclJson, Some(v)) => Edit::Grants(grants::parse_json(v, &store.acl, false)?),
            (Attribute::Tags, v) => Edit::Tags(parse_tags(v.unwrap_or(""), &store.tags)?),
            (Attribute::Tag(tag), v) => {
                check_tags(&[(tag.clone(), v.unwrap_or("").to_owned())], &store.tags)?;
                Edit::Tag(tag.clone(), text)
            }
            (Attribute::StorageClass, Some(v)) => {
                let class = v.trim();
                if class.is_empty() || !class.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
                    return Err(invalid("a storage class is a word like STANDARD_IA", class));
                }
                Edit::Class(Some(store.class_name(class)))
            }
            (Attribute::Restore, Some(v)) => restore(v, store)?,
            // Stores that keep it as a date refuse others, and then it is too late to tell who set it.
            (Attribute::Header(Header::Expires), Some(v)) if !is_http_date(v) => {
                return Err(invalid("a date like Thu, 01 Jan 2032 00:00:00 GMT", v));
            }
            (Attribute::Header(h), _) => Edit::Header(*h, plain(text)?),
            (Attribute::Metadata(m), _) => Edit::Metadata(m.clone(), text),
            _ => return Err(Error::new(Kind::NotPermitted, "change a read-only attribute").with_key(name)),
        })
    }

    /// Whether it is about tags or the ACL, which have requests of their own.
    pub(super) fn is_of_tags_or_acl(&self) -> bool {
        matches!(self, Edit::Acl(_) | Edit::Grants(_) | Edit::Tags(_) | Edit::Tag(..))
    }

    /// Applies to an object that is written as a whole: before its commit, or by a self-copy.
    pub(super) fn apply(&self, object: &mut NewObject, limits: &TagLimits) -> Result<()> {
        match self {
            Edit::Acl(acl) => (object.acl, object.grants) = (Some(acl.clone()), None),
            Edit::Grants(wanted) => {
                let now = Acl { owner_id: wanted.owner.clone().unwrap_or_default(), ..Acl::default() };
                (object.acl, object.grants) = (None, Some(wanted.onto(now)?));
            }
            Edit::Tags(tags) => object.tags = tags.clone(),
            Edit::Tag(tag, value) => edit_tag(&mut object.tags, tag, value.as_deref(), limits)?,
            Edit::Class(class) => object.storage_class = class.clone(),
            Edit::Header(h, value) => h.set(&mut object.headers, value.clone()),
            Edit::Metadata(name, Some(value)) => {
                object.headers.metadata.insert(name.clone(), value.clone());
            }
            Edit::Metadata(name, None) => {
                object.headers.metadata.remove(name);
                object.headers.metadata.remove(&name.replace('_', "-"));
            }
            Edit::Restore(..) => {
                return Err(Error::new(Kind::Busy, "restore a file that is being written").with_fix("close it first"));
            }
        }
        Ok(())
    }
}

fn is_http_date(text: &str) -> bool {
    text.ends_with(" GMT") && jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).is_ok()
}

/// `DAYS[,TIER]`.
fn restore(value: &str, store: &Provider) -> Result<Edit> {
    let Some(of) = &store.restore else {
        return Err(Error::new(Kind::Unsupported, format!("{} archives nothing", store.title)));
    };
    let (days, tier) = value.split_once(',').map_or((value, None), |(d, t)| (d, Some(t.trim())));
    let days = days.trim().parse::<u32>().ok().filter(|d| of.days.contains(d)).ok_or_else(|| {
        let most = Some(of.days.end()).filter(|e| **e < u32::MAX).map_or(String::new(), |e| format!(" to {e}"));
        invalid(&format!("a restore is DAYS or DAYS,TIER, with {}{most} days", of.days.start()), value)
    })?;
    let known = |t: &str| of.tiers.iter().find(|known| known.eq_ignore_ascii_case(t));
    let tier = match tier {
        None => None,
        Some(t) => Some(
            known(t).ok_or_else(|| invalid(&format!("a tier of this store is one of {}", of.tiers.join(", ")), t))?,
        ),
    };
    Ok(Edit::Restore(days, tier.map(|t| (*t).to_owned())))
}

pub(super) fn edit_tag(
    tags: &mut Vec<(String, String)>,
    tag: &str,
    value: Option<&str>,
    limits: &TagLimits,
) -> Result<()> {
    tags.retain(|(k, _)| k != tag);
    if let Some(value) = value {
        tags.push((tag.to_owned(), value.to_owned()));
    }
    check_tags(tags, limits)
}

pub(super) fn get_uncommitted(attribute: &Attribute, object: &NewObject) -> Option<Vec<u8>> {
    let value = match attribute {
        Attribute::Acl if object.grants.is_some() => "custom".into(),
        Attribute::Acl => object.acl.clone().unwrap_or_else(|| "private".into()),
        Attribute::Grants => grants::format_lines(object.grants.as_ref()?),
        Attribute::AclJson => grants::format_json(object.grants.as_ref()?),
        Attribute::Tags if !object.tags.is_empty() => format_tags(&object.tags),
        Attribute::Tag(tag) => object.tags.iter().find(|(k, _)| k == tag)?.1.clone(),
        Attribute::StorageClass => object.storage_class.clone().unwrap_or_else(|| "STANDARD".into()),
        Attribute::Restore => "none".into(),
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
    use crate::config::provider::{AWS, H3C, OBS, XOS};

    // XOS-TAG-04, -06, -07, -08
    #[test]
    fn tags_are_checked_before_they_are_sent() {
        let parse = |text: &str| parse_tags(text, &XOS.tags);
        assert_eq!(parse("a=1&b%20c=%26").unwrap(), [("a".into(), "1".into()), ("b c".into(), "&".into())]);
        assert_eq!(format_tags(&parse("b%20c=%26&x=y/z").unwrap()), "b%20c=%26&x=y/z");
        assert_eq!(parse("a=1&a=2").unwrap_err().kind(), Kind::Invalid);
        assert_eq!(parse("A=1&a=2").unwrap().len(), 2);
        assert_eq!(parse("=1").unwrap_err().kind(), Kind::Invalid);
        let eleven: Vec<String> = (0..11).map(|i| format!("k{i}=v")).collect();
        assert_eq!(parse(&eleven.join("&")).unwrap_err().kind(), Kind::Limit);
        assert_eq!(parse(&format!("{}=v", "k".repeat(129))).unwrap_err().kind(), Kind::Range);
        assert_eq!(parse(&format!("k={}", "v".repeat(257))).unwrap_err().kind(), Kind::Range);
        // Bytes, not characters.
        assert_eq!(parse(&format!("k={}", "é".repeat(129))).unwrap_err().kind(), Kind::Range);
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn tags_are_those_the_dialect_takes() {
        let obs = |text: &str| parse_tags(text, &OBS.tags);
        assert!(obs(&format!("{}={}", "k".repeat(36), "v".repeat(43))).is_ok());
        assert_eq!(obs(&format!("{}=v", "k".repeat(37))).unwrap_err().kind(), Kind::Range);
        assert_eq!(obs(&format!("k={}", "v".repeat(44))).unwrap_err().kind(), Kind::Range);
        assert_eq!(obs("a/b=c").unwrap_err().kind(), Kind::Invalid);
        assert_eq!(parse_tags("aws:x=1", &AWS.tags).unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn expires_is_a_date_of_http() {
        assert!(is_http_date("Thu, 01 Jan 2032 00:00:00 GMT"));
        for bad in ["", "tomorrow", "2032-01-01", "Thu, 01 Jan 2032 00:00:00 +0100", "0"] {
            assert!(!is_http_date(bad), "{bad}");
        }
    }

    #[test]
    fn a_restore_names_days_and_perhaps_a_tier() {
        let edit = |text: &str, store| match restore(text, store)? {
            Edit::Restore(days, tier) => Ok((days, tier)),
            other => panic!("{other:?}"),
        };
        assert_eq!(edit("3", &OBS).unwrap(), (3, None));
        assert_eq!(edit("30, expedited", &OBS).unwrap(), (30, Some("Expedited".into())));
        for (bad, store) in [("0", &OBS), ("31", &OBS), ("", &AWS), ("x", &AWS), ("3,Bulk", &OBS), ("3,", &AWS)] {
            let e: Error = edit(bad, store).unwrap_err();
            assert_eq!(e.kind(), Kind::Invalid, "{bad}");
        }
        assert_eq!(edit("3", &H3C).unwrap_err().kind(), Kind::Unsupported);
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

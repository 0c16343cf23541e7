//! Buckets: does it exist, where is it, which ones are there.

use rusty_s3::Method;

use super::acl::is_native;
use super::operation::Op;
use super::request::Action;
use super::types::{AclChange, BucketInfo, BucketStat};
use super::{S3, xml};
use crate::error::{Error, Kind, Result};

impl S3 {
    /// Whether the bucket exists and may be used. Errors: [`Kind::NoBucket`], [`Kind::Denied`], and those of a wrong
    /// endpoint or region, each with its repair.
    pub async fn head_bucket(&self) -> Result<()> {
        self.fetch(&Action::new(Op::HeadBucket, Method::Head, "")).await.map(|_| ())
    }

    /// What a HEAD tells of the bucket. Errors: as [`S3::head_bucket`].
    pub async fn stat_bucket(&self) -> Result<BucketStat> {
        let answer = self.fetch(&Action::new(Op::HeadBucket, Method::Head, "")).await?;
        let number = |name| answer.header(name).and_then(|v| v.parse().ok());
        Ok(BucketStat {
            region: answer
                .header("x-amz-bucket-region")
                .or_else(|| answer.header("x-obs-bucket-location"))
                .map(str::to_owned),
            date: answer.header("date").and_then(xml::time),
            parallel_file_system: answer.header("x-obs-bucket-type").is_some_and(|v| v.eq_ignore_ascii_case("POSIX"))
                || answer.header("x-obs-fs-file-interface").is_some_and(|v| v.eq_ignore_ascii_case("Enabled")),
            objects: number("x-rgw-object-count"),
            bytes: number("x-rgw-bytes-used"),
        })
    }

    /// `region`: the location constraint; `None` is the endpoint's own, which on AWS is the region of the settings.
    ///
    /// Errors: [`Kind::Exists`]; [`Kind::Invalid`] for a name that no store takes.
    pub async fn create_bucket(&self, region: Option<&str>, acl: Option<&str>) -> Result<()> {
        check_bucket_name(self.bucket())?;
        let own = self.region();
        let region = region.or_else(|| self.shared().settings.endpoint.is_none().then_some(own.as_str()));
        let mut action = Action::new(Op::CreateBucket, Method::Put, "");
        let list = acl.map(|name| AclChange::Canned(name.to_owned()));
        // Only OBS's own protocol can say it: after the bucket is there.
        let later = list.filter(is_native);
        if let Some(acl) = acl.filter(|_| later.is_none()) {
            action = action.header("x-amz-acl", acl);
        }
        // The oldest region is named by saying nothing.
        if let Some(region) = region.filter(|r| !r.is_empty() && *r != "us-east-1") {
            let mut body =
                String::from("<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
            xml::element("LocationConstraint", region, &mut body);
            body.push_str("</CreateBucketConfiguration>");
            action = action.document(body);
        }
        match self.fetch(&action).await {
            // Made by an attempt whose answer got lost.
            Err(e) if action.was_uncertain() && e.code() == "BucketAlreadyOwnedByYou" => {}
            Err(e) if e.kind() == Kind::Busy => return Err(e.with_kind(Kind::Exists)),
            result => result.map(|_| ())?,
        }
        match later {
            Some(list) => self.set_bucket_acl(&list).await,
            None => Ok(()),
        }
    }

    /// Errors: [`Kind::NotEmpty`], [`Kind::NoBucket`].
    pub async fn delete_bucket(&self) -> Result<()> {
        let action = Action::new(Op::DeleteBucket, Method::Delete, "");
        match self.fetch(&action).await {
            Err(e) if action.was_uncertain() && e.kind() == Kind::NoBucket => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// The caller's buckets.
    pub async fn list_buckets(&self) -> Result<Vec<BucketInfo>> {
        let mut action = Action::new(Op::ListBuckets, Method::Get, "");
        action.in_bucket = false;
        let document = self.fetch(&action).await?.document(Op::ListBuckets)?;
        let Some(list) = document.find("Buckets") else { return Ok(Vec::new()) };
        let info = |b: &xml::Node| BucketInfo {
            name: b.text_of("Name").to_owned(),
            created: xml::time(b.text_of("CreationDate")),
        };
        Ok(list.all("Bucket").map(info).filter(|b| !b.name.is_empty()).collect())
    }

    /// The region the bucket lives in.
    pub async fn location(&self) -> Result<String> {
        let action = Action::new(Op::GetBucketLocation, Method::Get, "").query("location", "");
        let document = self.fetch(&action).await?.document(Op::GetBucketLocation)?;
        location_of(&document).ok_or_else(|| Error::new(Kind::Io, "get bucket location: answer without a location"))
    }
}

/// Whether a bucket can be made with this name: 3 to 63 of `a-z`, `0-9`, `-` and `.`, beginning and ending with a
/// letter or digit, without `..`, `.-`, `-.`, and no IP address. Old buckets may have other names.
///
/// Errors: [`Kind::Invalid`] with the rule that is broken.
pub fn check_bucket_name(name: &str) -> Result<()> {
    let alphanumeric = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    let why = match () {
        () if !(3..=63).contains(&name.len()) => "it must have 3 to 63 characters",
        () if !bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(b)) => {
            "only lower-case letters, digits, `-` and `.` are possible"
        }
        () if !alphanumeric(bytes.first()) || !alphanumeric(bytes.last()) => {
            "it must begin and end with a letter or digit"
        }
        () if ["..", ".-", "-."].iter().any(|pair| name.contains(pair)) => "`..`, `.-` and `-.` are not possible",
        () if name.parse::<std::net::Ipv4Addr>().is_ok() => "it must not be an IP address",
        () => return Ok(()),
    };
    Err(Error::new(Kind::Invalid, format!("bucket name {name:?}: {why}")))
}

/// The region in an answer to GetBucketLocation, whichever element it is in.
pub(super) fn location_of(document: &xml::Node) -> Option<String> {
    let node = document.find("LocationConstraint").or_else(|| document.find("Location"))?;
    Some(match node.text.trim() {
        "" => "us-east-1".into(),
        "EU" => "eu-west-1".into(),
        region => region.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // OBS-ACL-08
    #[test]
    fn bucket_names_follow_the_strictest_rules() {
        for name in ["abc", "a-b.c1", "0-0", "1.2.3.4.5", &"a".repeat(63)] {
            check_bucket_name(name).unwrap();
        }
        for name in
            ["ab", "Abc", "a_b", "-ab", "ab-", ".ab", "ab.", "a..b", "a.-b", "a-.b", "10.0.0.1", "ü-b", &"a".repeat(64)]
        {
            assert_eq!(check_bucket_name(name).unwrap_err().kind(), Kind::Invalid, "{name}");
        }
    }

    #[test]
    fn the_location_is_found_in_every_form() {
        let of = |text: &str| location_of(&xml::parse(text.as_bytes()).unwrap());
        assert_eq!(of("<LocationConstraint/>").as_deref(), Some("us-east-1"));
        assert_eq!(of("<LocationConstraint>EU</LocationConstraint>").as_deref(), Some("eu-west-1"));
        assert_eq!(of("<Location>cn-north-4</Location>").as_deref(), Some("cn-north-4"));
        let wrapped =
            "<CreateBucketConfiguration><LocationConstraint>x</LocationConstraint></CreateBucketConfiguration>";
        assert_eq!(of(wrapped).as_deref(), Some("x"));
        assert_eq!(of("<Other/>"), None);
    }
}

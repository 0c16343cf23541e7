//! Attributes of the bucket: `user.s3.bucket.*` on the root of a mount.
//!
//! Difficulty: some settings are a word, others documents of kilobytes. What people write by hand has a short form; the
//! rest is the JSON that the usual command line tools print, and JSON or XML when it is set.

use super::Fs;
use super::attribute::{format_tags, invalid, parse_tags};
use crate::config::provider::TagLimits;
use crate::error::{Error, Kind, Result};
use crate::s3::{AclChange, Document, Versioning, canned_name, grants};

/// A setting of the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BucketAttribute {
    /// As a canned name.
    Acl,
    Location,
    Versioning,
    Tags,
    /// Any other, as JSON.
    Document(Document),
}

impl BucketAttribute {
    /// By what follows `user.s3.bucket.`.
    pub fn parse(name: &str) -> Option<BucketAttribute> {
        Some(match name {
            "acl" => BucketAttribute::Acl,
            "acl.json" => BucketAttribute::Document(Document::Acl),
            "location" => BucketAttribute::Location,
            "versioning" => BucketAttribute::Versioning,
            "tags" => BucketAttribute::Tags,
            _ => BucketAttribute::Document(Document::from_name(name)?),
        })
    }
}

impl Fs {
    /// One request. Errors: [`Kind::NoAttribute`] when it is not set, [`Kind::Unsupported`].
    pub(super) async fn bucket_attribute(&self, attribute: BucketAttribute) -> Result<String> {
        Ok(match attribute {
            BucketAttribute::Acl => canned_name(&self.s3.bucket_acl().await?).unwrap_or("custom").to_owned(),
            BucketAttribute::Location => self.s3.location().await?,
            BucketAttribute::Versioning => self.s3.versioning().await?.name().to_owned(),
            BucketAttribute::Tags => match self.s3.bucket_tags().await? {
                tags if tags.is_empty() => return Err(Error::new(Kind::NoAttribute, "the bucket has no tags")),
                tags => format_tags(&tags),
            },
            // A policy is shown as it was written.
            BucketAttribute::Document(Document::Policy) => self.s3.bucket_document(Document::Policy).await?,
            BucketAttribute::Document(document) => self.s3.bucket_json(document).await?.to_string(),
        })
    }

    /// Sets it, or with `None` deletes it; one request, one more for an ACL as a document where a header will not do.
    ///
    /// Errors: [`Kind::NotPermitted`] for what cannot be set or deleted, [`Kind::Invalid`] with the reason.
    pub(super) async fn change_bucket(&self, attribute: BucketAttribute, value: Option<&str>) -> Result<()> {
        let provider = self.settings.provider;
        match (attribute, value) {
            (BucketAttribute::Acl, name) => {
                let name = grants::canned(name.unwrap_or("private"), &provider.acl, true)?;
                self.s3.set_bucket_acl(&AclChange::Canned(name)).await
            }
            (BucketAttribute::Versioning, Some(text)) => {
                let wanted = match text.trim().to_ascii_lowercase().as_str() {
                    "enabled" | "on" => Versioning::Enabled,
                    "suspended" | "off" => Versioning::Suspended,
                    _ => return Err(invalid("versioning is Enabled or Suspended", text)),
                };
                self.s3.set_versioning(wanted).await
            }
            (BucketAttribute::Tags, text) => {
                let limits = TagLimits { per_object: provider.tags.per_bucket, ..provider.tags };
                let tags = parse_tags(text.unwrap_or(""), &limits)?;
                self.s3.set_bucket_tags(&tags).await
            }
            (BucketAttribute::Document(document), Some(text)) if document.can_set() => {
                self.s3.set_bucket_document(document, text).await
            }
            (BucketAttribute::Document(document), None) if document.can_delete() => {
                self.s3.delete_bucket_document(document).await
            }
            _ => Err(Error::new(Kind::NotPermitted, "change a setting of the bucket that cannot be changed like this")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_found_by_name() {
        for (name, attribute) in [
            ("acl", BucketAttribute::Acl),
            ("tags", BucketAttribute::Tags),
            ("policy", BucketAttribute::Document(Document::Policy)),
            ("lifecycle", BucketAttribute::Document(Document::Lifecycle)),
            ("request-payment", BucketAttribute::Document(Document::RequestPayment)),
        ] {
            assert_eq!(BucketAttribute::parse(name), Some(attribute), "{name}");
        }
        assert_eq!(BucketAttribute::parse("nonsense"), None);
    }
}

//! The configuration of a bucket: its sub-resources, as documents.
//!
//! 1. A document that was never set is answered with an error here, with an empty document there: it is
//!    [`Kind::NoAttribute`] or an empty document, never a missing bucket.
//! 2. People write JSON, stores take XML (and JSON for policies): [`Document::body`] takes either, and
//!    [`Document::json`] shows what a store returned in the shapes that the usual command line tools print.
//! 3. `405` on a policy does not mean that there are none: the caller has the right, but is of another account.

use rusty_s3::Method;
use serde_json::Value;

use super::operation::Op;
use super::request::Action;
use super::shape::{self, Member};
use super::{S3, xml};
use crate::error::{Error, Kind, Result};

const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// A sub-resource of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Document {
    Policy,
    PolicyStatus,
    Acl,
    Lifecycle,
    Cors,
    Versioning,
    Tagging,
    Location,
    Encryption,
    Website,
    Logging,
    Notification,
    Replication,
    RequestPayment,
    Accelerate,
    PublicAccessBlock,
    OwnershipControls,
    ObjectLock,
}

struct Row {
    document: Document,
    /// In the query and on the command line.
    name: &'static str,
    /// The root element; "" for JSON.
    root: &'static str,
    members: &'static [Member],
    get: Op,
    put: Option<Op>,
    delete: Option<Op>,
}

#[rustfmt::skip]
static TABLE: &[Row] = &[
    row(Document::Policy, "policy", "", &[], Op::GetBucketPolicy, Some(Op::PutBucketPolicy), Some(Op::DeleteBucketPolicy)),
    row(Document::PolicyStatus, "policyStatus", "PolicyStatus", shape::POLICY_STATUS, Op::GetBucketPolicyStatus, None, None),
    row(Document::Acl, "acl", "AccessControlPolicy", shape::ACL, Op::GetBucketAcl, Some(Op::PutBucketAcl), None),
    row(Document::Lifecycle, "lifecycle", "LifecycleConfiguration", shape::LIFECYCLE, Op::GetBucketLifecycleConfiguration, Some(Op::PutBucketLifecycleConfiguration), Some(Op::DeleteBucketLifecycle)),
    row(Document::Cors, "cors", "CORSConfiguration", shape::CORS, Op::GetBucketCors, Some(Op::PutBucketCors), Some(Op::DeleteBucketCors)),
    row(Document::Versioning, "versioning", "VersioningConfiguration", shape::VERSIONING, Op::GetBucketVersioning, Some(Op::PutBucketVersioning), None),
    row(Document::Tagging, "tagging", "Tagging", shape::TAGGING, Op::GetBucketTagging, Some(Op::PutBucketTagging), Some(Op::DeleteBucketTagging)),
    row(Document::Location, "location", "LocationConstraint", &[], Op::GetBucketLocation, None, None),
    row(Document::Encryption, "encryption", "ServerSideEncryptionConfiguration", shape::ENCRYPTION, Op::GetBucketEncryption, Some(Op::PutBucketEncryption), Some(Op::DeleteBucketEncryption)),
    row(Document::Website, "website", "WebsiteConfiguration", shape::WEBSITE, Op::GetBucketWebsite, Some(Op::PutBucketWebsite), Some(Op::DeleteBucketWebsite)),
    row(Document::Logging, "logging", "BucketLoggingStatus", shape::LOGGING, Op::GetBucketLogging, Some(Op::PutBucketLogging), None),
    row(Document::Notification, "notification", "NotificationConfiguration", shape::NOTIFICATION, Op::GetBucketNotificationConfiguration, Some(Op::PutBucketNotificationConfiguration), None),
    row(Document::Replication, "replication", "ReplicationConfiguration", shape::REPLICATION, Op::GetBucketReplication, Some(Op::PutBucketReplication), Some(Op::DeleteBucketReplication)),
    row(Document::RequestPayment, "requestPayment", "RequestPaymentConfiguration", shape::REQUEST_PAYMENT, Op::GetBucketRequestPayment, Some(Op::PutBucketRequestPayment), None),
    row(Document::Accelerate, "accelerate", "AccelerateConfiguration", shape::ACCELERATE, Op::GetBucketAccelerateConfiguration, Some(Op::PutBucketAccelerateConfiguration), None),
    row(Document::PublicAccessBlock, "publicAccessBlock", "PublicAccessBlockConfiguration", shape::PUBLIC_ACCESS_BLOCK, Op::GetPublicAccessBlock, Some(Op::PutPublicAccessBlock), Some(Op::DeletePublicAccessBlock)),
    row(Document::OwnershipControls, "ownershipControls", "OwnershipControls", shape::OWNERSHIP_CONTROLS, Op::GetBucketOwnershipControls, Some(Op::PutBucketOwnershipControls), Some(Op::DeleteBucketOwnershipControls)),
    row(Document::ObjectLock, "object-lock", "ObjectLockConfiguration", shape::OBJECT_LOCK, Op::GetObjectLockConfiguration, Some(Op::PutObjectLockConfiguration), None),
];

const fn row(
    document: Document,
    name: &'static str,
    root: &'static str,
    members: &'static [Member],
    get: Op,
    put: Option<Op>,
    delete: Option<Op>,
) -> Row {
    Row { document, name, root, members, get, put, delete }
}

impl Document {
    /// All there are.
    pub fn all() -> impl Iterator<Item = Document> {
        TABLE.iter().map(|r| r.document)
    }

    fn row(self) -> &'static Row {
        // The table has a row for each; a test holds it.
        TABLE.iter().find(|r| r.document == self).unwrap_or(&TABLE[0])
    }

    /// As the query parameter and the command line call it: `lifecycle`, `requestPayment`, …
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// By [`Document::name`], in any case, `-` and `_` ignored.
    pub fn from_name(name: &str) -> Option<Document> {
        let plain = |s: &str| s.replace(['-', '_'], "").to_ascii_lowercase();
        TABLE.iter().find(|r| plain(r.name) == plain(name)).map(|r| r.document)
    }

    /// Whether it can be set.
    pub fn can_set(self) -> bool {
        self.row().put.is_some()
    }

    /// Whether it can be deleted; others are set to something empty instead.
    pub fn can_delete(self) -> bool {
        self.row().delete.is_some()
    }

    /// The rights to read, set and delete it, as bucket policies call them.
    pub fn permissions(self) -> [Option<&'static str>; 3] {
        let row = self.row();
        [Some(row.get.permission()), row.put.map(Op::permission), row.delete.map(Op::permission)]
    }

    /// What the store returned, as JSON.
    ///
    /// Errors: [`Kind::Io`] when it is no such document.
    pub fn json(self, raw: &str) -> Result<Value> {
        let row = self.row();
        let bad = |why: String| Error::new(Kind::Io, format!("read {} of bucket: {why}", row.name));
        if self == Document::Policy {
            return serde_json::from_str(raw).map_err(|e| bad(format!("no JSON ({e})")));
        }
        let node = xml::parse(raw.as_bytes()).map_err(bad)?;
        if self == Document::Location {
            return Ok(
                serde_json::json!({ "LocationConstraint": super::bucket::location_of(&node).unwrap_or_default() }),
            );
        }
        // Some stores name the answer instead of the document, as the first text of the protocol did.
        let node = match node.child(row.root) {
            Some(inner) if node.name.ends_with("Response") => inner,
            _ if node.name == row.root || node.name.ends_with("Response") => &node,
            _ => return Err(bad(format!("the document is a {:?}", node.name))),
        };
        Ok(shape::to_json(row.members, node))
    }

    /// What to send for a document that a person wrote, in JSON or in XML. XML and policies are sent as they are,
    /// after a look at their form; a byte order mark goes.
    ///
    /// Errors: [`Kind::Invalid`], naming the place.
    pub fn body(self, text: &str) -> Result<String> {
        let row = self.row();
        let bad = |why: String| Error::new(Kind::Invalid, format!("{} document: {why}", row.name));
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.starts_with('<') && self != Document::Policy {
            let node = xml::parse(text.as_bytes()).map_err(bad)?;
            if node.name != row.root {
                return Err(bad(format!("the root element is {}, not {}", node.name, row.root)));
            }
            return Ok(text.to_owned());
        }
        let value: Value = serde_json::from_str(text).map_err(|e| bad(format!("no JSON: {e}")))?;
        if self == Document::Policy {
            return if value.is_object() { Ok(text.to_owned()) } else { Err(bad("a policy is an object".into())) };
        }
        if !self.can_set() {
            return Err(bad("it cannot be set".into()));
        }
        // Tools print some documents inside an object that names them.
        let inner = match value.as_object() {
            Some(object) if object.len() == 1 => {
                object.iter().next().filter(|(name, _)| *name == row.root).map(|p| p.1)
            }
            _ => None,
        };
        let mut out = format!("<{} xmlns=\"{NAMESPACE}\">", row.root);
        shape::to_xml(row.members, inner.unwrap_or(&value), "", &mut out).map_err(bad)?;
        out.push_str(&format!("</{}>", row.root));
        Ok(out)
    }
}

/// A failure as it is meant for a document.
fn meant(error: Error, document: Document) -> Error {
    let status = error.reply().map_or(0, |r| r.status);
    match (error.kind(), document) {
        // The code is one that the table does not know: the bucket answered, it has no such document.
        (Kind::NoBucket, _) if status == 404 && !matches!(error.code(), "" | "NoSuchBucket") => {
            error.with_kind(Kind::NoAttribute)
        }
        (Kind::Unsupported, Document::Policy | Document::PolicyStatus) if status == 405 => error
            .with_kind(Kind::NotPermitted)
            .with_fix("the right is there, but only identities of the bucket owner's account may use it"),
        _ => error,
    }
}

impl S3 {
    /// The document as the store keeps it.
    ///
    /// Errors: [`Kind::NoAttribute`] when none is set, [`Kind::NotPermitted`] for the policy of a foreign account,
    /// [`Kind::Unsupported`].
    pub async fn bucket_document(&self, document: Document) -> Result<String> {
        let row = document.row();
        let action = Action::new(row.get, Method::Get, "").query(row.name, "");
        let answer = self.fetch(&action).await.map_err(|e| meant(e, document))?;
        match String::from_utf8(answer.body.to_vec()) {
            Ok(text) if text.trim().is_empty() => {
                Err(Error::new(Kind::NoAttribute, format!("{}: none is set", row.get.phrase())))
            }
            Ok(text) => Ok(text),
            Err(_) => Err(Error::new(Kind::Io, format!("{}: answer is not UTF-8", row.get.phrase()))),
        }
    }

    /// Sets the document; it replaces the whole one before. `text`: JSON or XML, see [`Document::body`].
    pub async fn set_bucket_document(&self, document: Document, text: &str) -> Result<()> {
        let row = document.row();
        let Some(op) = row.put else {
            return Err(Error::new(Kind::Invalid, format!("{} of a bucket cannot be set", row.name)));
        };
        let body = document.body(text)?;
        let kind = if document == Document::Policy { "application/json" } else { "application/xml" };
        let action = Action::new(op, Method::Put, "").query(row.name, "").text(body, kind);
        self.fetch(&action).await.map(|_| ()).map_err(|e| meant(e, document))
    }

    /// Deletes the document. One that is not set is Ok.
    ///
    /// Errors: [`Kind::Invalid`] for one that cannot be deleted.
    pub async fn delete_bucket_document(&self, document: Document) -> Result<()> {
        let row = document.row();
        let Some(op) = row.delete else {
            return Err(Error::new(Kind::Invalid, format!("{} of a bucket cannot be deleted", row.name))
                .with_fix("set an empty or switched-off one"));
        };
        let action = Action::new(op, Method::Delete, "").query(row.name, "");
        match self.fetch(&action).await.map_err(|e| meant(e, document)) {
            Err(e) if e.kind() == Kind::NoAttribute => Ok(()),
            result => result.map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error::Reply;

    // POL-GEN-14
    #[test]
    fn each_document_has_one_row_and_is_found_by_name() {
        let names: std::collections::BTreeSet<_> = TABLE.iter().map(|r| r.name).collect();
        assert_eq!(names.len(), TABLE.len());
        for document in Document::all() {
            assert_eq!(document.row().document, document);
            assert_eq!(Document::from_name(document.name()), Some(document));
        }
        assert_eq!(Document::from_name("request-payment"), Some(Document::RequestPayment));
        assert_eq!(Document::from_name("torrent"), None);
        for name in ["accelerate", "location", "logging", "notification", "tagging", "website", "replication"] {
            assert!(Document::from_name(name).is_some(), "{name}");
        }
        assert_eq!(Document::Website.permissions()[2], Some("s3:DeleteBucketWebsite"));
    }

    #[test]
    fn json_and_xml_are_both_taken() {
        let xml = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
        assert_eq!(Document::Versioning.body(&format!("\u{feff}\n{xml}\n")).unwrap(), xml);
        let made = Document::Versioning.body("{\"Status\": \"Enabled\"}").unwrap();
        assert_eq!(Document::Versioning.json(&made).unwrap(), json!({"Status": "Enabled"}));
        let wrapped = "{\"ServerSideEncryptionConfiguration\": {\"Rules\": [{\"BucketKeyEnabled\": true}]}}";
        let made = Document::Encryption.body(wrapped).unwrap();
        assert_eq!(Document::Encryption.json(&made).unwrap(), json!({"Rules": [{"BucketKeyEnabled": true}]}));
        for (document, text) in [
            (Document::Versioning, "<Tagging/>"),
            (Document::Versioning, "Enabled"),
            (Document::Policy, "[]"),
            (Document::Policy, "<Policy/>"),
            (Document::Location, "{}"),
        ] {
            assert_eq!(document.body(text).unwrap_err().kind(), Kind::Invalid, "{text}");
        }
    }

    // CON-14: a policy is sent as it was written.
    #[test]
    fn an_answer_may_be_named_after_its_request() {
        for text in [
            "<GetBucketVersioningResponse xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"></GetBucketVersioningResponse>",
            "<GetBucketVersioningResponse><VersioningConfiguration/></GetBucketVersioningResponse>",
        ] {
            assert_eq!(Document::Versioning.json(text).unwrap(), json!({}), "{text}");
        }
        assert!(Document::Versioning.json("<html/>").is_err());
    }

    #[test]
    fn a_policy_is_not_rewritten() {
        let text = "{ \"Version\":\"2012-10-17\",\n \"Statement\": {\"Effect\":\"Allow\"} }";
        assert_eq!(Document::Policy.body(text).unwrap(), text);
    }

    // XOS-POL-16, CON-26
    #[test]
    fn a_405_on_a_policy_is_a_foreign_account() {
        let refused = |status, code: &str, kind| {
            Error::new(kind, "get bucket policy").with_reply(Reply { status, code: code.into(), ..Reply::default() })
        };
        let e = meant(refused(405, "MethodNotAllowed", Kind::Unsupported), Document::Policy);
        assert_eq!((e.kind(), e.fix().is_some_and(|f| f.contains("account"))), (Kind::NotPermitted, true));
        let e = meant(refused(405, "MethodNotAllowed", Kind::Unsupported), Document::Website);
        assert_eq!(e.kind(), Kind::Unsupported);
        assert_eq!(meant(refused(404, "NoSuchThing", Kind::NoBucket), Document::Cors).kind(), Kind::NoAttribute);
        assert_eq!(meant(refused(404, "NoSuchBucket", Kind::NoBucket), Document::Cors).kind(), Kind::NoBucket);
    }
}

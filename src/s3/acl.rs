//! Access control lists of buckets and objects.
//!
//! Difficulty: documents of the dialects differ (`xsi:type` or none, group URI or a canned name, `Delivered` in two
//! places), and a canned list is not kept by name: it has to be recognised from its grants.

use rusty_s3::Method;

use super::operation::Op;
use super::request::Action;
use super::types::{Acl, AclChange, Grant, Grantee};
use super::{S3, xml};
use crate::error::{Error, Kind, Result};
use crate::key::Key;

const ALL_USERS: &str = "http://acs.amazonaws.com/groups/global/AllUsers";
const AUTHENTICATED_USERS: &str = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers";
const LOG_DELIVERY: &str = "http://acs.amazonaws.com/groups/s3/LogDelivery";

fn read(document: &xml::Node) -> Acl {
    let delivered = |node: &xml::Node| node.child("Delivered").map(|d| d.text.trim() == "true");
    let owner = document.child("Owner");
    let grants = document.child("AccessControlList").map_or(Vec::new(), |list| {
        list.all("Grant")
            .filter_map(|grant| {
                let to = grant.child("Grantee")?;
                let grantee = if let Some(uri) = to.some("URI") {
                    Grantee::Group(uri)
                } else if let Some(name) = to.some("Canned") {
                    Grantee::Group(match name.as_str() {
                        "Everyone" => ALL_USERS.into(),
                        "AuthenticatedUsers" => AUTHENTICATED_USERS.into(),
                        "LogDelivery" => LOG_DELIVERY.into(),
                        _ => name,
                    })
                } else if let Some(mail) = to.some("EmailAddress") {
                    Grantee::Email(mail)
                } else {
                    Grantee::User { id: to.some("ID")?, name: to.some("DisplayName") }
                };
                let permission = grant.text_of("Permission").trim().to_owned();
                Some(Grant { grantee, permission, delivered: delivered(grant) })
            })
            .collect()
    });
    Acl {
        owner_id: owner.map_or(String::new(), |o| o.text_of("ID").to_owned()),
        owner_name: owner.and_then(|o| o.some("DisplayName")),
        grants,
        delivered: delivered(document),
    }
}

/// Whether a change says what only OBS's own protocol can say: that grants of a bucket hold for its objects.
pub(super) fn is_native(change: &AclChange) -> bool {
    match change {
        AclChange::Canned(name) => name.ends_with("-delivered"),
        AclChange::Full(acl) => acl.delivered.is_some() || acl.grants.iter().any(|g| g.delivered.is_some()),
    }
}

/// `native`: as OBS's own protocol writes a list, without types and names, `Delivered` in it.
fn write(acl: &Acl, native: bool) -> String {
    let delivered = |value: Option<bool>, out: &mut String| {
        if let Some(value) = value.filter(|_| native) {
            xml::element("Delivered", if value { "true" } else { "false" }, out);
        }
    };
    let named = |name: &Option<String>, out: &mut String| {
        if let Some(name) = name.as_ref().filter(|_| !native) {
            xml::element("DisplayName", name, out);
        }
    };
    let mut out = String::from(match native {
        true => "<AccessControlPolicy><Owner>",
        false => "<AccessControlPolicy xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Owner>",
    });
    xml::element("ID", &acl.owner_id, &mut out);
    named(&acl.owner_name, &mut out);
    out.push_str("</Owner>");
    delivered(acl.delivered, &mut out);
    out.push_str("<AccessControlList>");
    for grant in &acl.grants {
        let kind = match &grant.grantee {
            Grantee::User { .. } => "CanonicalUser",
            Grantee::Group(_) => "Group",
            Grantee::Email(_) => "AmazonCustomerByEmail",
        };
        out.push_str("<Grant><Grantee");
        if !native {
            out.push_str(" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"");
            out.push_str(kind);
            out.push('"');
        }
        out.push('>');
        match &grant.grantee {
            Grantee::User { id, name } => {
                xml::element("ID", id, &mut out);
                named(name, &mut out);
            }
            Grantee::Group(uri) if native => {
                let name = match uri.as_str() {
                    ALL_USERS => "Everyone",
                    AUTHENTICATED_USERS => "AuthenticatedUsers",
                    LOG_DELIVERY => "LogDelivery",
                    other => other,
                };
                xml::element("Canned", name, &mut out);
            }
            Grantee::Group(uri) => xml::element("URI", uri, &mut out),
            Grantee::Email(mail) => xml::element("EmailAddress", mail, &mut out),
        }
        out.push_str("</Grantee>");
        xml::element("Permission", &grant.permission, &mut out);
        delivered(grant.delivered, &mut out);
        out.push_str("</Grant>");
    }
    out.push_str("</AccessControlList></AccessControlPolicy>");
    out
}

/// The canned name behind a list's grants; `None` when there is none.
pub fn canned_name(acl: &Acl) -> Option<&'static str> {
    let mut owner = false;
    let (mut all_read, mut all_write, mut known_read) = (false, false, false);
    for grant in &acl.grants {
        match (&grant.grantee, grant.permission.as_str()) {
            (Grantee::User { id, .. }, "FULL_CONTROL") if *id == acl.owner_id => owner = true,
            (Grantee::Group(uri), "READ") if uri == ALL_USERS => all_read = true,
            (Grantee::Group(uri), "WRITE") if uri == ALL_USERS => all_write = true,
            (Grantee::Group(uri), "READ") if uri == AUTHENTICATED_USERS => known_read = true,
            _ => return None,
        }
    }
    match (owner, all_read, all_write, known_read) {
        (true, false, false, false) => Some("private"),
        (true, true, false, false) => Some("public-read"),
        (true, true, true, false) => Some("public-read-write"),
        (true, false, false, true) => Some("authenticated-read"),
        _ => None,
    }
}

/// Headers of a request that the client sets itself.
const OURS: [&str; 4] = ["acl", "date", "content-sha256", "security-token"];

/// Whether a header may be added to a request, by its name in lower case: one of the store's own, and none that the
/// client or the signature sets. Errors: [`Kind::Invalid`].
pub fn check_extension(name: &str, value: &str) -> Result<()> {
    let invalid = |text: String| Err(Error::new(Kind::Invalid, text));
    let rest = name.strip_prefix("x-amz-").or_else(|| name.strip_prefix("x-obs-"));
    let is_token = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    match rest.filter(|r| !r.is_empty() && r.chars().all(is_token)) {
        None => return invalid(format!("`{name}` is none of the store's headers; they begin with x-amz- or x-obs-")),
        Some(rest) if OURS.contains(&rest) => return invalid(format!("`{name}` is set by this program")),
        Some(_) => {}
    }
    if value.is_empty() || !value.chars().all(|c| c == ' ' || c.is_ascii_graphic()) {
        return invalid(format!("`{name}`: a value has visible ASCII characters"));
    }
    Ok(())
}

impl S3 {
    async fn get_acl(&self, op: Op, key: &str, version: Option<&str>) -> Result<Acl> {
        let action = Action::new(op, Method::Get, key).query("acl", "").version(version);
        let document = self.fetch(&action).await?.document(op)?;
        if document.child("Owner").is_none() && document.child("AccessControlList").is_none() {
            return Err(Error::new(Kind::Io, format!("{}: answer without a list", op.phrase())));
        }
        Ok(read(&document))
    }

    async fn put_acl(
        &self,
        op: Op,
        key: &str,
        version: Option<&str>,
        change: &AclChange,
        headers: &[(String, String)],
    ) -> Result<()> {
        let mut action = Action::new(op, Method::Put, key).query("acl", "").version(version);
        action.native = is_native(change);
        for (name, value) in headers {
            action = action.header(name.as_str(), value.as_str());
        }
        let action = match change {
            AclChange::Canned(name) => action.header("x-amz-acl", name.as_str()),
            AclChange::Full(acl) => {
                let text = write(acl, action.native);
                action.document(text)
            }
        };
        self.fetch(&action).await.map(|_| ())
    }

    pub async fn object_acl(&self, key: &Key, version: Option<&str>) -> Result<Acl> {
        self.get_acl(Op::GetObjectAcl, key.as_str(), version).await
    }

    /// Replaces the list. A full one must name the real owner and grant it what it shall keep.
    pub async fn set_object_acl(&self, key: &Key, version: Option<&str>, acl: &AclChange) -> Result<()> {
        self.set_object_acl_with(key, version, acl, &[]).await
    }

    /// The same with further headers, which [`check_extension`] has found good.
    pub async fn set_object_acl_with(
        &self,
        key: &Key,
        version: Option<&str>,
        acl: &AclChange,
        headers: &[(String, String)],
    ) -> Result<()> {
        self.put_acl(Op::PutObjectAcl, key.as_str(), version, acl, headers).await
    }

    pub async fn bucket_acl(&self) -> Result<Acl> {
        self.get_acl(Op::GetBucketAcl, "", None).await
    }

    /// Replaces the list, as [`S3::set_object_acl`].
    pub async fn set_bucket_acl(&self, acl: &AclChange) -> Result<()> {
        self.set_bucket_acl_with(acl, &[]).await
    }

    /// The same with further headers, as [`S3::set_object_acl_with`].
    pub async fn set_bucket_acl_with(&self, acl: &AclChange, headers: &[(String, String)]) -> Result<()> {
        self.put_acl(Op::PutBucketAcl, "", None, acl, headers).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(grants: &[(Grantee, &str)]) -> Acl {
        Acl {
            owner_id: "o".into(),
            grants: grants
                .iter()
                .map(|(g, p)| Grant { grantee: g.clone(), permission: (*p).into(), delivered: None })
                .collect(),
            ..Acl::default()
        }
    }

    // OBS-ACL-14
    #[test]
    fn only_headers_of_the_store_are_added() {
        for name in ["x-amz-expected-bucket-owner", "x-obs-x", "x-amz-meta-a_b"] {
            check_extension(name, "a b").unwrap();
        }
        for name in ["host", "authorization", "x-amz-", "x-amz-a b", "x-amz-acl", "x-obs-date", "X-Amz-Test", ""] {
            assert_eq!(check_extension(name, "v").unwrap_err().kind(), Kind::Invalid, "{name}");
        }
        for value in ["", "a\nb", "é"] {
            assert_eq!(check_extension("x-amz-test", value).unwrap_err().kind(), Kind::Invalid, "{value}");
        }
    }

    #[test]
    fn canned_lists_are_recognised() {
        let owner = (Grantee::User { id: "o".into(), name: None }, "FULL_CONTROL");
        let all = |p| (Grantee::Group(ALL_USERS.into()), p);
        let known = (Grantee::Group(AUTHENTICATED_USERS.into()), "READ");
        let other = (Grantee::User { id: "x".into(), name: None }, "READ");
        for (grants, name) in [
            (vec![owner.clone()], Some("private")),
            (vec![owner.clone(), all("READ")], Some("public-read")),
            (vec![all("WRITE"), owner.clone(), all("READ")], Some("public-read-write")),
            (vec![owner.clone(), known.clone()], Some("authenticated-read")),
            (vec![owner.clone(), all("WRITE")], None),
            (vec![owner.clone(), known, all("READ")], None),
            (vec![owner, other], None),
            (vec![], None),
        ] {
            assert_eq!(canned_name(&acl(&grants)), name, "{grants:?}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut list = acl(&[
            (Grantee::User { id: "o".into(), name: Some("O & Co".into()) }, "FULL_CONTROL"),
            (Grantee::Group(ALL_USERS.into()), "READ"),
            (Grantee::Email("a@b".into()), "READ_ACP"),
        ]);
        list.owner_name = Some("<me>".into());
        assert_eq!(read(&xml::parse(write(&list, false).as_bytes()).unwrap()), list);
    }

    // OBS-ACL-17, OBS-ACL-26
    #[test]
    fn what_is_written_for_obs_reads_back() {
        let mut list = acl(&[
            (Grantee::User { id: "o".into(), name: None }, "FULL_CONTROL"),
            (Grantee::Group(ALL_USERS.into()), "READ"),
        ]);
        list.delivered = Some(false);
        list.grants[1].delivered = Some(true);
        let text = write(&list, true);
        assert_eq!(read(&xml::parse(text.as_bytes()).unwrap()), list);
        assert!(text.contains("<Canned>Everyone</Canned>") && !text.contains("xsi"), "{text}");
    }

    // OBS-ACL-21, OBS-ACL-22
    #[test]
    fn only_what_is_delivered_needs_the_protocol_of_obs() {
        let canned = |name: &str| is_native(&AclChange::Canned(name.into()));
        assert!(canned("public-read-delivered") && canned("public-read-write-delivered"));
        assert!(!canned("public-read") && !canned("log-delivery-write"));
        let mut list = acl(&[(Grantee::Group(ALL_USERS.into()), "READ")]);
        assert!(!is_native(&AclChange::Full(list.clone())));
        list.grants[0].delivered = Some(false);
        assert!(is_native(&AclChange::Full(list)));
    }

    #[test]
    fn the_form_of_obs_is_understood() {
        let doc = "<AccessControlPolicy><Owner><ID>o</ID></Owner><Delivered>false</Delivered><AccessControlList>\
            <Grant><Grantee><ID>o</ID></Grantee><Permission>FULL_CONTROL</Permission></Grant>\
            <Grant><Grantee><Canned>Everyone</Canned></Grantee><Permission>READ</Permission></Grant>\
            </AccessControlList></AccessControlPolicy>";
        let list = read(&xml::parse(doc.as_bytes()).unwrap());
        assert_eq!(canned_name(&list), Some("public-read"));
        assert_eq!(list.delivered, Some(false));
    }
}

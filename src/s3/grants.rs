//! Access control lists as text: one grant a line, or JSON in the shape of the AWS command line.
//!
//! Difficulty: what the dialects know differs (who can be named, what a permission means on an object, `Delivered`);
//! what a store would refuse or, worse, take for something else is refused here, with the reason.

use serde::{Deserialize, Serialize};

use super::types::{Acl, Grant, Grantee};
use crate::config::provider;
use crate::error::{Error, Kind, Result};

const GROUPS: &str = "http://acs.amazonaws.com/groups/global/";
const LOG_DELIVERY: &str = "http://acs.amazonaws.com/groups/s3/LogDelivery";
const PERMISSIONS: [&str; 5] = ["READ", "WRITE", "READ_ACP", "WRITE_ACP", "FULL_CONTROL"];

/// A list somebody wrote, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// As given; it must be the owner of what the list is for.
    pub owner: Option<String>,
    pub grants: Vec<Grant>,
    pub delivered: Option<bool>,
}

impl Wanted {
    /// The list to be sent for an object whose list is `now`: the owner stays, with full control unless something else
    /// is named.
    pub fn onto(&self, now: Acl) -> Result<Acl> {
        if let Some(owner) = self.owner.as_ref().filter(|o| !now.owner_id.is_empty() && **o != now.owner_id) {
            return Err(invalid("the owner of an object cannot be changed", owner));
        }
        let wanted = Acl { grants: self.grants.clone(), delivered: self.delivered, ..Acl::default() };
        Ok(under_owner(&wanted, now))
    }
}

/// The grants of `acl` on an object whose list is `now`: the owner keeps full control unless `acl` has a grant for it.
pub fn under_owner(acl: &Acl, now: Acl) -> Acl {
    let is_owner = |g: &Grant| matches!(&g.grantee, Grantee::User { id, .. } if *id == now.owner_id);
    let mut grants = acl.grants.clone();
    if !now.owner_id.is_empty() && !grants.iter().any(is_owner) {
        let grantee = Grantee::User { id: now.owner_id.clone(), name: now.owner_name.clone() };
        grants.insert(0, Grant { grantee, permission: "FULL_CONTROL".into(), delivered: None });
    }
    Acl { grants, delivered: acl.delivered.or(now.delivered), ..now }
}

fn invalid(why: &str, value: &str) -> Error {
    let shown = if value.is_empty() { String::new() } else { format!(" ({value:?})") };
    Error::new(Kind::Invalid, format!("{why}{shown}"))
}

fn group(name: &str) -> Option<Grantee> {
    Some(Grantee::Group(match name {
        "AllUsers" | "Everyone" => format!("{GROUPS}AllUsers"),
        "AuthenticatedUsers" => format!("{GROUPS}AuthenticatedUsers"),
        "LogDelivery" => LOG_DELIVERY.into(),
        _ => return None,
    }))
}

fn short_group(uri: &str) -> Option<&str> {
    if uri == LOG_DELIVERY { Some("LogDelivery") } else { uri.strip_prefix(GROUPS) }
}

/// OBS-ACL-06, OBS-ACL-28, OBS-ACL-31.
fn check(grants: &[Grant], of: &provider::Acl, of_bucket: bool) -> Result<()> {
    if grants.len() > of.max_grants as usize {
        return Err(Error::new(Kind::Limit, format!("set more than {} grants", of.max_grants)));
    }
    for grant in grants {
        if grant.permission == "WRITE" && !of_bucket && !of.object_write {
            return Err(invalid(
                "WRITE means nothing on an object: READ, READ_ACP, WRITE_ACP and FULL_CONTROL do",
                &grant.permission,
            ));
        }
        if grant.delivered.is_some() && !of.delivered {
            return Err(invalid("this store does not know delivered grants", &grant.permission));
        }
    }
    Ok(())
}

fn permission(text: &str) -> Result<String> {
    let permission = text.to_ascii_uppercase();
    if PERMISSIONS.contains(&permission.as_str()) {
        Ok(permission)
    } else {
        Err(invalid("a permission is READ, READ_ACP, WRITE_ACP or FULL_CONTROL", text))
    }
}

/// One grant a line: `PERMISSION GRANTEE [delivered|not-delivered]`; empty lines and those that begin with `#` do not
/// count. `of_bucket`: the list is a bucket's, where more permissions mean something.
pub fn parse_lines(text: &str, of: &provider::Acl, of_bucket: bool) -> Result<Wanted> {
    let mut grants = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (right, grantee, delivered) = match words[..] {
            [right, grantee] => (right, grantee, None),
            [right, grantee, "delivered"] => (right, grantee, Some(true)),
            [right, grantee, "not-delivered"] => (right, grantee, Some(false)),
            _ => return Err(invalid("a grant is `PERMISSION GRANTEE`", line)),
        };
        let permission = permission(right)?;
        let named = match grantee.split_once('=') {
            Some(("id", id)) if !id.is_empty() => Some(Grantee::User { id: id.into(), name: None }),
            Some(("uri", uri)) if !uri.is_empty() => Some(Grantee::Group(uri.into())),
            Some(("email", email)) if !email.is_empty() => Some(Grantee::Email(email.into())),
            _ => group(grantee),
        };
        let grantee = named.ok_or_else(|| {
            invalid("a grantee is id=…, uri=…, email=…, AllUsers, AuthenticatedUsers or LogDelivery", line)
        })?;
        grants.push(Grant { grantee, permission, delivered });
    }
    check(&grants, of, of_bucket)?;
    Ok(Wanted { owner: None, grants, delivered: None })
}

/// A grantee in the form that [`parse_lines`] reads.
pub fn format_grantee(grantee: &Grantee) -> String {
    match grantee {
        Grantee::User { id, .. } => format!("id={id}"),
        Grantee::Group(uri) => short_group(uri).map_or_else(|| format!("uri={uri}"), str::to_owned),
        Grantee::Email(email) => format!("email={email}"),
    }
}

/// The grants in the form that [`parse_lines`] reads.
pub fn format_lines(acl: &Acl) -> String {
    let line = |g: &Grant| {
        let grantee = format_grantee(&g.grantee);
        let delivered = match g.delivered {
            None => "",
            Some(true) => " delivered",
            Some(false) => " not-delivered",
        };
        format!("{} {grantee}{delivered}\n", g.permission)
    };
    acl.grants.iter().map(line).collect()
}

/// The shape of `aws s3api get-object-acl`; lower-case names are taken, too (CON-04).
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "Owner", alias = "owner", default, skip_serializing_if = "Option::is_none")]
    owner: Option<Owner>,
    #[serde(rename = "Grants", alias = "grants")]
    grants: Vec<Line>,
    #[serde(rename = "Delivered", alias = "delivered", default, skip_serializing_if = "Option::is_none")]
    delivered: Option<bool>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Owner {
    #[serde(rename = "DisplayName", alias = "displayName", default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(rename = "ID", alias = "id")]
    id: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(rename = "Grantee", alias = "grantee")]
    grantee: Who,
    #[serde(rename = "Permission", alias = "permission")]
    permission: String,
    #[serde(rename = "Delivered", alias = "delivered", default, skip_serializing_if = "Option::is_none")]
    delivered: Option<bool>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Who {
    #[serde(rename = "DisplayName", alias = "displayName", default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(rename = "ID", alias = "id", default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "Type", alias = "type", default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(rename = "URI", alias = "uri", default, skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
    #[serde(rename = "EmailAddress", alias = "emailAddress", default, skip_serializing_if = "Option::is_none")]
    email: Option<String>,
}

/// OBS-ACL-16, OBS-ACL-32, OBS-ACL-34: an owner, and a list of grants with exactly one name each.
pub fn parse_json(text: &str, of: &provider::Acl, of_bucket: bool) -> Result<Wanted> {
    let document: Document = serde_json::from_str(text).map_err(|e| invalid(&format!("an ACL as JSON: {e}"), ""))?;
    let mut grants = Vec::with_capacity(document.grants.len());
    for line in document.grants {
        let permission = permission(&line.permission)?;
        let grantee = match line.grantee {
            Who { id: Some(id), uri: None, email: None, name, .. } if !id.is_empty() => Grantee::User { id, name },
            Who { id: None, uri: Some(uri), email: None, .. } if !uri.is_empty() => {
                group(&uri).unwrap_or(Grantee::Group(uri))
            }
            Who { id: None, uri: None, email: Some(email), .. } if !email.is_empty() => Grantee::Email(email),
            _ => return Err(invalid("a grantee has exactly one of ID, URI and EmailAddress", &permission)),
        };
        grants.push(Grant { grantee, permission, delivered: line.delivered });
    }
    if document.delivered.is_some() && !of.delivered {
        return Err(invalid("this store does not know delivered lists", ""));
    }
    check(&grants, of, of_bucket)?;
    Ok(Wanted { owner: document.owner.map(|o| o.id), grants, delivered: document.delivered })
}

/// The list in the form that [`parse_json`] reads, in one line.
pub fn format_json(acl: &Acl) -> String {
    let who = |grantee: &Grantee| match grantee {
        Grantee::User { id, name } => {
            Who { id: Some(id.clone()), name: name.clone(), kind: Some("CanonicalUser".into()), ..Who::default() }
        }
        Grantee::Group(uri) => Who { uri: Some(uri.clone()), kind: Some("Group".into()), ..Who::default() },
        Grantee::Email(email) => {
            Who { email: Some(email.clone()), kind: Some("AmazonCustomerByEmail".into()), ..Who::default() }
        }
    };
    let line = |g: &Grant| Line { grantee: who(&g.grantee), permission: g.permission.clone(), delivered: g.delivered };
    let owner = (!acl.owner_id.is_empty()).then(|| Owner { id: acl.owner_id.clone(), name: acl.owner_name.clone() });
    let document = Document { owner, grants: acl.grants.iter().map(line).collect(), delivered: acl.delivered };
    // Strings and lists of strings: nothing that JSON cannot say.
    serde_json::to_string(&document).unwrap_or_default()
}

/// XOS-ACL-02, OBS-ACL-18 to -23. `of_bucket`: some names hold for buckets only, some for objects only.
pub fn canned(value: &str, of: &provider::Acl, of_bucket: bool) -> Result<String> {
    let value = value.trim();
    let known = if of_bucket { of.canned_bucket } else { of.canned };
    if known.contains(&value) {
        return Ok(value.to_owned());
    }
    let what = if of_bucket { "bucket" } else { "object" };
    Err(invalid(&format!("a canned ACL of {what}s of this store is one of {}", known.join(", ")), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::provider::{AWS, CEPH, GENERIC, OBS, XOS};

    fn acl(wanted: Wanted) -> Acl {
        let now = Acl { owner_id: "owner".into(), owner_name: Some("The Owner".into()), ..Acl::default() };
        wanted.onto(now).unwrap()
    }

    /// Without the grant that the owner gets for nothing.
    fn lines(wanted: Wanted) -> String {
        let text = format_lines(&acl(wanted));
        text.strip_prefix("FULL_CONTROL id=owner\n").unwrap_or(&text).to_owned()
    }

    #[test]
    fn grants_are_one_a_line() {
        let text =
            "FULL_CONTROL id=owner\nREAD AllUsers\nREAD_ACP LogDelivery\nREAD uri=http://x/y\nREAD email=a@b.c\n";
        assert_eq!(format_lines(&acl(parse_lines(text, &GENERIC.acl, false).unwrap())), text);
        let spaced = " read   AuthenticatedUsers \n\n# nobody else\n";
        assert_eq!(lines(parse_lines(spaced, &GENERIC.acl, false).unwrap()), "READ AuthenticatedUsers\n");
        for bad in ["READ", "EAT AllUsers", "READ nobody", "READ id=", "READ AllUsers sometimes"] {
            assert_eq!(parse_lines(bad, &GENERIC.acl, false).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
    }

    // OBS-ACL-06, OBS-ACL-26, OBS-ACL-28, CON-43
    #[test]
    fn what_a_dialect_does_not_take_is_refused_with_the_reason() {
        let delivered = "READ Everyone delivered\nFULL_CONTROL id=owner not-delivered\n";
        let list = acl(parse_lines(delivered, &OBS.acl, false).unwrap());
        assert_eq!(format_lines(&list), delivered.replace("Everyone", "AllUsers"));
        let error = parse_lines(delivered, &XOS.acl, false).unwrap_err();
        assert!(error.to_string().contains("delivered"), "{error}");
        let error = parse_lines("WRITE id=x", &OBS.acl, false).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains("WRITE means nothing"), "{error}");
        let many = |n: usize| (0..n).map(|i| format!("READ id=user-{i}\n")).collect::<String>();
        assert_eq!(parse_lines(&many(100), &OBS.acl, false).unwrap().grants.len(), 100);
        assert_eq!(parse_lines(&many(101), &OBS.acl, false).unwrap_err().kind(), Kind::Limit);
    }

    // OBS-ACL-16, OBS-ACL-17, OBS-ACL-24, OBS-ACL-25, OBS-ACL-44
    #[test]
    fn json_has_the_shape_of_the_aws_command_line() {
        let text = r#"{"Owner":{"DisplayName":"The Owner","ID":"owner"},"Grants":[{"Grantee":{"DisplayName":"O","ID":"owner","Type":"CanonicalUser"},"Permission":"FULL_CONTROL"},{"Grantee":{"Type":"Group","URI":"http://acs.amazonaws.com/groups/global/AllUsers"},"Permission":"READ"}]}"#;
        assert_eq!(format_json(&acl(parse_json(text, &AWS.acl, false).unwrap())), text);
        let lower =
            r#"{"grants":[{"grantee":{"uri":"AllUsers"},"permission":"read","delivered":true}],"delivered":false}"#;
        let wanted = parse_json(lower, &OBS.acl, false).unwrap();
        assert_eq!((wanted.delivered, wanted.grants[0].delivered), (Some(false), Some(true)));
        assert_eq!(lines(wanted), "READ AllUsers delivered\n");
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"Grants":[{"Grantee":{},"Permission":"READ"}]}"#,
            r#"{"Grants":[{"Grantee":{"ID":"a","URI":"b"},"Permission":"READ"}]}"#,
            r#"{"Grants":[{"Grantee":{"ID":"a"},"Permission":"EAT"}]}"#,
            r#"{"Grants":[],"Sorry":1}"#,
            r#"{"Grants":[],"Delivered":true}"#,
        ] {
            assert_eq!(parse_json(bad, &AWS.acl, false).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
    }

    #[test]
    fn the_owner_cannot_be_changed() {
        let wanted = parse_json(r#"{"Owner":{"ID":"somebody"},"Grants":[]}"#, &AWS.acl, false).unwrap();
        let now = Acl { owner_id: "owner".into(), ..Acl::default() };
        assert_eq!(wanted.onto(now).unwrap_err().kind(), Kind::Invalid);
    }

    // XOS-ACL-02, CON-45, OBS-ACL-21 to -23
    #[test]
    fn canned_names_are_those_of_the_dialect() {
        for (of, of_bucket, good, bad) in [
            (&XOS, false, "authenticated-read", "bucket-owner-full-control"),
            (&XOS, true, "public-read-write", "log-delivery-write"),
            (&OBS, false, "bucket-owner-full-control", "public-read-delivered"),
            (&OBS, true, "public-read-write-delivered", "bucket-owner-full-control"),
            (&AWS, false, "aws-exec-read", "log-delivery-write"),
            (&CEPH, false, "bucket-owner-read", "aws-exec-read"),
        ] {
            assert_eq!(canned(good, &of.acl, of_bucket).unwrap(), good, "{}", of.name);
            assert_eq!(canned(bad, &of.acl, of_bucket).unwrap_err().kind(), Kind::Invalid, "{}: {bad}", of.name);
        }
    }
}

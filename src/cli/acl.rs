//! Access control lists on the command line, of objects and of buckets.
//!
//! 1. A full list replaces the grants but not the owner, who has to be named: the list in place is read before.
//! 2. What a list will not do, or do more than its words say, is said when it is set; the store says nothing.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::object::{One, read_text};
use super::objects::Targets;
use super::store::{Store, StoreArgs};
use super::{Failure, print};
use crate::error::Error;
use crate::s3::{Acl, AclChange, Grantee, check_extension, grants};

/// An access control list as it is given.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = true)]
pub(super) struct AclGiven {
    /// A canned list: private, public-read, public-read-write, authenticated-read, …
    #[arg(long, value_name = "CANNED", conflicts_with_all = ["file", "grants"])]
    pub canned: Option<String>,
    /// JSON as `acl get --json` prints it; `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "grants")]
    pub file: Option<String>,
    /// `PERMISSION GRANTEE`, as "READ id=ID" or "READ AllUsers"; may be given several times. The owner keeps its own.
    #[arg(long = "grant", value_name = "GRANT")]
    pub grants: Vec<String>,
}

/// What goes with the request besides the list.
#[derive(Args, Clone, Debug)]
pub(super) struct Extension {
    /// One more header of the request, x-amz-… or x-obs-…; may be given several times.
    #[arg(long = "header", value_name = "NAME=VALUE")]
    headers: Vec<String>,
}

impl Extension {
    /// Names in lower case. Errors: what is no such header.
    pub fn read(&self) -> Result<Vec<(String, String)>, Failure> {
        let header = |text: &String| {
            let (name, value) = text
                .split_once(['=', ':'])
                .ok_or_else(|| Failure::Usage(format!("--header: `{text}`: write NAME=VALUE")))?;
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().to_owned());
            check_extension(&name, &value).map_err(|e| Failure::Usage(format!("--header: {e}")))?;
            Ok((name, value))
        };
        self.headers.iter().map(header).collect()
    }
}

#[derive(Subcommand, Clone, Debug)]
pub(super) enum AclCommand {
    /// Show the list.
    Get {
        #[command(flatten)]
        one: One,
    },
    /// Say in sentences who may do what.
    Explain {
        #[command(flatten)]
        one: One,
    },
    /// Replace the list.
    Set {
        #[command(flatten)]
        targets: Targets,
        #[command(flatten)]
        given: AclGiven,
        #[command(flatten)]
        extension: Extension,
    },
    /// Back to private.
    #[command(visible_alias = "delete")]
    Rm {
        #[command(flatten)]
        targets: Targets,
    },
}

/// The list that a person asked for.
pub(super) enum AclWish {
    Canned(String),
    Full(grants::Wanted),
}

impl AclWish {
    pub fn read(given: &AclGiven, store: &Store, of_bucket: bool) -> Result<AclWish, Failure> {
        let of = &store.provider.acl;
        let usage = |e: Error| Failure::Usage(e.to_string());
        if let Some(name) = &given.canned {
            return Ok(AclWish::Canned(grants::canned(name, of, of_bucket).map_err(usage)?));
        }
        let wanted = match &given.file {
            Some(file) => grants::parse_json(&read_text(file)?, of, of_bucket),
            None => grants::parse_lines(&given.grants.join("\n"), of, of_bucket),
        };
        Ok(AclWish::Full(wanted.map_err(usage)?))
    }

    pub fn onto(&self, now: Acl) -> Result<AclChange, Error> {
        Ok(match self {
            AclWish::Canned(name) => AclChange::Canned(name.clone()),
            AclWish::Full(wanted) => AclChange::Full(wanted.onto(now)?),
        })
    }

    pub fn is_full(&self) -> bool {
        matches!(self, AclWish::Full(_))
    }

    /// Whether somebody else than the owner gets something.
    fn opens(&self) -> bool {
        match self {
            AclWish::Canned(name) => name != "private",
            AclWish::Full(wanted) => !wanted.grants.is_empty(),
        }
    }

    /// Tells what the list will not do, or do more than its words say. Nothing of it is an error.
    pub fn warn(&self, store: &Store, of_bucket: bool) {
        for note in self.notes(store.provider.name == "obs", of_bucket) {
            eprintln!("xosfs: warning: {note}");
        }
    }

    fn notes(&self, is_obs: bool, of_bucket: bool) -> Vec<String> {
        let mut notes = Vec::new();
        match self {
            AclWish::Canned(name) if name == "public-read-write" && is_obs && !of_bucket => {
                notes.push(
                    "public-read-write on an object gives no more than public-read: nobody else may write it".into(),
                );
            }
            AclWish::Canned(_) => {}
            AclWish::Full(wanted) => {
                for grant in &wanted.grants {
                    let to = grants::format_grantee(&grant.grantee);
                    if grant.permission == "WRITE_ACP" {
                        notes.push(format!("WRITE_ACP {to}: who may change the list may give itself every right"));
                    }
                    match &grant.grantee {
                        Grantee::Group(_) if is_obs && to != "AllUsers" => {
                            notes.push(format!("the group {to} is out of use at this store: name accounts, or AllUsers"));
                        }
                        Grantee::User { name: Some(name), .. } if is_obs && !is_account_name(name) => notes.push(format!(
                            "{name:?} is no name of an account: a letter, then letters, digits, - and _, 6 to 32 in all"
                        )),
                        _ => {}
                    }
                }
            }
        }
        notes
    }
}

/// Names of accounts at OBS.
fn is_account_name(name: &str) -> bool {
    (6..=32).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

pub(super) fn print_acl(acl: &Acl, is_json: bool) -> Result<(), Failure> {
    if is_json {
        let value: Value = serde_json::from_str(&grants::format_json(acl)).unwrap_or_default();
        return print::json_whole(&value);
    }
    print::out(&print::acl_text(acl))
}

/// What a right lets somebody do; those of the whole list when they are several.
fn meaning(permission: &str, of_bucket: bool) -> &'static str {
    match (permission, of_bucket) {
        ("READ", true) => "list its objects, their versions and its uploads in progress, and see its metadata",
        ("READ", false) => "read its content and its metadata",
        ("WRITE", true) => "store, replace and delete every object in it, and parts of uploads",
        ("WRITE", false) => "do nothing more: WRITE means nothing on an object",
        ("READ_ACP", _) => "read this list",
        ("WRITE_ACP", _) => "change this list, and so give itself every right",
        ("FULL_CONTROL", true) => "do everything that READ, WRITE, READ_ACP and WRITE_ACP allow",
        ("FULL_CONTROL", false) => "do everything that READ, READ_ACP and WRITE_ACP allow",
        _ => "do what this program does not know",
    }
}

/// Who may do what, one grant a line.
pub(super) fn explain(acl: &Acl, of_bucket: bool, is_json: bool) -> Result<(), Failure> {
    for grant in &acl.grants {
        let who = match &grant.grantee {
            Grantee::User { id, .. } if *id == acl.owner_id => "the owner".to_owned(),
            Grantee::User { id, .. } => format!("account {id}"),
            Grantee::Email(email) => format!("the account of {email}"),
            group @ Grantee::Group(_) => match grants::format_grantee(group).as_str() {
                "AllUsers" => "everybody, with or without an account".to_owned(),
                "AuthenticatedUsers" => "everybody with an account".to_owned(),
                "LogDelivery" => "the store, when it writes logs".to_owned(),
                other => format!("the group {}", other.trim_start_matches("uri=")),
            },
        };
        let may = meaning(&grant.permission, of_bucket);
        if is_json {
            let value = json!({"who": who, "permission": grant.permission, "may": may, "delivered": grant.delivered});
            print::json_line(&value)?;
            continue;
        }
        let more = if grant.delivered == Some(true) { "; on the objects in it, too" } else { "" };
        print::line(&print::safe(&format!("{who} may {may} ({}){more}", grant.permission)))?;
    }
    if acl.grants.is_empty() && !is_json {
        print::line("nobody may do anything; the owner may change this list")?;
    }
    Ok(())
}

fn set(args: &StoreArgs, targets: &Targets, wish: &AclWish, headers: &[(String, String)]) -> Result<(), Failure> {
    targets.each(args, |store, key, version| async move {
        // The owner's own grant is kept: it has to be named.
        let now = if wish.is_full() { store.s3.object_acl(&key, version).await? } else { Acl::default() };
        store.s3.set_object_acl_with(&key, version, &wish.onto(now)?, headers).await?;
        // Not being allowed to look is no reason to fail: the list is set.
        if wish.opens()
            && let Ok(meta) = store.s3.head(&key, version).await
            && meta.sse.is_some_and(|sse| sse.contains("kms"))
        {
            eprintln!(
                "xosfs: warning: s3://{}/{} is encrypted with SSE-KMS: other accounts cannot read it, whatever its list says",
                store.s3.bucket(),
                print::safe(key.as_str())
            );
        }
        Ok(())
    })
}

pub(super) fn run(args: &StoreArgs, command: &AclCommand) -> Result<(), Failure> {
    let fetch = |one: &One| {
        let (_, key, store) = one.open(args)?;
        store.run(store.s3.object_acl(&key, one.version.as_deref()))
    };
    match command {
        AclCommand::Get { one } => print_acl(&fetch(one)?, args.json),
        AclCommand::Explain { one } => explain(&fetch(one)?, false, args.json),
        AclCommand::Set { targets, given, extension } => {
            // What is wrong with the list is said before anything is sent.
            let first = Store::open(args, &targets.first()?)?;
            let (wish, headers) = (AclWish::read(given, &first, false)?, extension.read()?);
            wish.warn(&first, false);
            set(args, targets, &wish, &headers)
        }
        AclCommand::Rm { targets } => set(args, targets, &AclWish::Canned("private".into()), &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // OBS-ACL-33
    #[test]
    fn names_of_accounts_have_a_form() {
        for name in ["abcdef", "Tester-1_x", &format!("a{}", "1".repeat(31))] {
            assert!(is_account_name(name), "{name}");
        }
        for name in ["abcde", "1abcdef", "abc def", "名字名字名字", &"a".repeat(33), ""] {
            assert!(!is_account_name(name), "{name}");
        }
    }
}

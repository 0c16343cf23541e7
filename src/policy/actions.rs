//! The actions that policies speak of, their classes, and patterns over them.
//!
//! Difficulty: a pattern is right when it matches something. Actions compare without regard to case, `*` and `?` are
//! wildcards, and a dialect may put another word before the colon.

use super::near;

/// The permission an action belongs to; the same four that access control lists know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Read,
    Write,
    ReadAcp,
    WriteAcp,
}

impl Class {
    pub const ALL: [Class; 4] = [Class::Read, Class::Write, Class::ReadAcp, Class::WriteAcp];

    pub const fn name(self) -> &'static str {
        match self {
            Class::Read => "READ",
            Class::Write => "WRITE",
            Class::ReadAcp => "READ_ACP",
            Class::WriteAcp => "WRITE_ACP",
        }
    }

    pub fn from_name(name: &str) -> Option<Class> {
        Class::ALL.into_iter().find(|c| c.name().eq_ignore_ascii_case(name))
    }
}

/// What kind of resource an action is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum On {
    /// No single bucket.
    Service,
    Bucket,
    Object,
}

/// One action.
#[derive(Debug, PartialEq, Eq)]
pub struct Action {
    /// Without `s3:`.
    pub name: &'static str,
    pub class: Class,
    pub on: On,
    /// What somebody with this right may do.
    pub does: &'static str,
}

macro_rules! actions {
    ($($class:ident $on:ident $name:literal $does:literal,)*) => {
        &[$(Action { name: $name, class: Class::$class, on: On::$on, does: $does },)*]
    };
}

/// Every action of the private store's manual, in its order; the checklist numbers them from 1.
pub static ACTIONS: &[Action] = actions![
    Read Object "GetObject" "read objects",
    Read Object "GetObjectTorrent" "get a torrent file of objects",
    Read Object "GetObjectVersion" "read old versions of objects",
    Read Object "GetObjectVersionTorrent" "get a torrent file of old versions",
    Read Object "GetObjectTagging" "read the tags of objects",
    Read Object "GetObjectVersionTagging" "read the tags of old versions",
    Read Service "ListAllMyBuckets" "list the account's buckets",
    Read Bucket "ListBucket" "list objects",
    Read Bucket "ListBucketMultipartUploads" "list uploads in progress",
    Read Bucket "ListBucketVersions" "list versions of objects",
    Read Object "ListMultipartUploadParts" "list the parts of an upload",
    Write Object "AbortMultipartUpload" "abort uploads",
    Write Bucket "CreateBucket" "create the bucket",
    Write Bucket "DeleteBucket" "delete the bucket",
    Write Object "DeleteObject" "delete objects",
    Write Object "DeleteObjectVersion" "delete versions of objects for good",
    Write Object "PutObject" "write objects",
    Write Object "PutObjectTagging" "set the tags of objects",
    Write Object "PutObjectVersionTagging" "set the tags of old versions",
    Write Object "DeleteObjectTagging" "remove the tags of objects",
    Write Object "DeleteObjectVersionTagging" "remove the tags of old versions",
    Write Object "RestoreObject" "restore archived objects",
    ReadAcp Bucket "GetAccelerateConfiguration" "see whether transfers are accelerated",
    ReadAcp Bucket "GetBucketAcl" "read the bucket's access control list",
    ReadAcp Bucket "GetBucketCORS" "read the CORS rules",
    ReadAcp Bucket "GetBucketLocation" "see the bucket's region",
    ReadAcp Bucket "GetBucketLogging" "read the logging configuration",
    ReadAcp Bucket "GetBucketNotification" "read the notification configuration",
    ReadAcp Bucket "GetBucketPolicy" "read this policy",
    ReadAcp Bucket "GetBucketRequestPayment" "see who pays for requests",
    ReadAcp Bucket "GetBucketTagging" "read the bucket's tags",
    ReadAcp Bucket "GetBucketVersioning" "see whether versions are kept",
    ReadAcp Bucket "GetBucketWebsite" "read the website configuration",
    ReadAcp Bucket "GetLifecycleConfiguration" "read the lifecycle rules",
    ReadAcp Object "GetObjectAcl" "read the access control lists of objects",
    ReadAcp Object "GetObjectVersionAcl" "read the access control lists of old versions",
    ReadAcp Bucket "GetReplicationConfiguration" "read the replication configuration",
    WriteAcp Bucket "DeleteBucketPolicy" "delete this policy",
    WriteAcp Bucket "DeleteBucketWebsite" "delete the website configuration",
    WriteAcp Bucket "DeleteReplicationConfiguration" "delete the replication configuration",
    WriteAcp Bucket "PutAccelerateConfiguration" "accelerate transfers",
    WriteAcp Bucket "PutBucketAcl" "change the bucket's access control list",
    WriteAcp Bucket "PutBucketCORS" "change the CORS rules",
    WriteAcp Bucket "PutBucketLogging" "change the logging configuration",
    WriteAcp Bucket "PutBucketNotification" "change the notification configuration",
    WriteAcp Bucket "PutBucketPolicy" "change this policy",
    WriteAcp Bucket "PutBucketRequestPayment" "change who pays for requests",
    WriteAcp Bucket "PutBucketTagging" "change the bucket's tags",
    WriteAcp Bucket "PutBucketVersioning" "switch versions on and off",
    WriteAcp Bucket "PutBucketWebsite" "change the website configuration",
    WriteAcp Bucket "PutLifecycleConfiguration" "change the lifecycle rules",
    WriteAcp Object "PutObjectAcl" "change the access control lists of objects",
    WriteAcp Object "PutObjectVersionAcl" "change the access control lists of old versions",
    WriteAcp Bucket "PutReplicationConfiguration" "change the replication configuration",
];

/// Actions that other stores have beside these.
const ELSEWHERE: &[&str] = &[
    "BypassGovernanceRetention",
    "GetBucketObjectLockConfiguration",
    "GetBucketOwnershipControls",
    "GetBucketPolicyStatus",
    "GetBucketPublicAccessBlock",
    "GetEncryptionConfiguration",
    "GetIntelligentTieringConfiguration",
    "GetInventoryConfiguration",
    "GetMetricsConfiguration",
    "GetObjectAttributes",
    "GetObjectLegalHold",
    "GetObjectRetention",
    "GetObjectVersionAttributes",
    "PutBucketObjectLockConfiguration",
    "PutBucketOwnershipControls",
    "PutBucketPublicAccessBlock",
    "PutEncryptionConfiguration",
    "PutIntelligentTieringConfiguration",
    "PutInventoryConfiguration",
    "PutMetricsConfiguration",
    "PutObjectLegalHold",
    "PutObjectRetention",
    "ReplicateDelete",
    "ReplicateObject",
    "ReplicateTags",
];

/// What an action in a policy stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// These actions.
    Known(Vec<&'static Action>),
    /// Of another store: it is not judged.
    Foreign(&'static str),
    /// Nothing; what to write instead.
    Unknown(String),
}

/// Whether `text` fits `pattern` with `*` and `?`, letters of either case alike.
pub fn fits(pattern: &str, text: &str) -> bool {
    let (p, t) = (pattern.to_ascii_lowercase().into_bytes(), text.to_ascii_lowercase().into_bytes());
    let (mut i, mut j) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while j < t.len() {
        if i < p.len() && p[i] == b'*' {
            star = Some((i + 1, j));
            i += 1;
        } else if i < p.len() && (p[i] == b'?' || p[i] == t[j]) {
            i += 1;
            j += 1;
        } else if let Some((after, from)) = star {
            star = Some((after, from + 1));
            i = after;
            j = from + 1;
        } else {
            return false;
        }
    }
    p[i..].iter().all(|b| *b == b'*')
}

/// What `text` (`s3:GetObject`, `s3:Get*`, `*`) stands for.
pub fn meaning(text: &str) -> Meaning {
    if text == "*" {
        return Meaning::Known(ACTIONS.iter().collect());
    }
    let (service, name) = match text.split_once(':') {
        Some((service, name)) => (service, name),
        None => {
            if let Some(action) = ACTIONS.iter().find(|a| a.name.eq_ignore_ascii_case(text)) {
                return Meaning::Unknown(format!("write s3:{}", action.name));
            }
            let close = near(text, ACTIONS.iter().map(|a| a.name));
            return Meaning::Unknown(
                close.map_or("write s3:NAME, as s3:GetObject".into(), |c| format!("write s3:{c}")),
            );
        }
    };
    match service.to_ascii_lowercase().as_str() {
        "s3" => {}
        "oos" => return Meaning::Foreign("an action of OOS"),
        "obs" => return Meaning::Foreign("an action of OBS"),
        "iam" | "sts" => return Meaning::Foreign("no action on buckets or objects"),
        _ => return Meaning::Unknown(format!("actions begin with `s3:`; write s3:{name}")),
    }
    let known: Vec<_> = ACTIONS.iter().filter(|a| fits(name, a.name)).collect();
    if !known.is_empty() {
        return Meaning::Known(known);
    }
    if ELSEWHERE.iter().any(|other| fits(name, other)) {
        return Meaning::Foreign("an action that only some stores have");
    }
    if name.contains(['*', '?']) {
        return Meaning::Unknown("no action fits this pattern".into());
    }
    Meaning::Unknown(match near(name, ACTIONS.iter().map(|a| a.name)) {
        Some(close) => format!("did you mean s3:{close}?"),
        None => "there is no such action; `xosfs bucket policy actions` lists them".into(),
    })
}

/// Makes the actions of a policy from what a person writes: names with or without `s3:`, patterns, and `@READ`,
/// `@WRITE`, `@READ_ACP`, `@WRITE_ACP` for a class, separated by commas.
///
/// Errors: a name that means nothing, with what to write.
pub fn expand(text: &str) -> Result<Vec<String>, String> {
    let mut out: Vec<String> = Vec::new();
    for word in text.split(',').map(str::trim).filter(|w| !w.is_empty()) {
        let mut found = Vec::new();
        if let Some(class) = word.strip_prefix('@') {
            let class = Class::from_name(class)
                .ok_or_else(|| format!("class {word:?}: write @READ, @WRITE, @READ_ACP or @WRITE_ACP"))?;
            found.extend(ACTIONS.iter().filter(|a| a.class == class).map(|a| format!("s3:{}", a.name)));
        } else {
            let full = if word.contains(':') || word == "*" { word.to_owned() } else { format!("s3:{word}") };
            if let Meaning::Unknown(instead) = meaning(&full) {
                return Err(format!("action {word:?}: {instead}"));
            }
            // The usual spelling, where there is one.
            let name = full.strip_prefix("s3:").and_then(|n| ACTIONS.iter().find(|a| a.name.eq_ignore_ascii_case(n)));
            found.push(name.map_or(full.clone(), |a| format!("s3:{}", a.name)));
        }
        for action in found {
            if !out.contains(&action) {
                out.push(action);
            }
        }
    }
    if out.is_empty() { Err("no action; write one as s3:GetObject, or a class as @READ".into()) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use super::*;

    // POL-ACT-01 to POL-ACT-54, POL-GEN-13
    #[test]
    fn there_are_54_actions_in_four_classes() {
        assert_eq!(ACTIONS.len(), 54);
        let of = |class| ACTIONS.iter().filter(|a| a.class == class).count();
        assert_eq!(Class::ALL.map(of), [11, 11, 15, 17]);
        let mut names: Vec<_> = ACTIONS.iter().map(|a| a.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 54);
        for (number, name) in [
            (0, "GetObject"),
            (7, "ListBucket"),
            (16, "PutObject"),
            (34, "GetObjectAcl"),
            (53, "PutReplicationConfiguration"),
        ] {
            assert_eq!(ACTIONS[number].name, name);
        }
    }

    // XOS-POL-08
    #[test]
    fn patterns_match_without_regard_to_case() {
        assert!(fits("List*", "listbucket") && fits("*", "") && fits("Get?bject", "GetObject"));
        assert!(fits("*Obj*Acl", "GetObjectVersionAcl") && !fits("Get*x", "GetObject") && !fits("", "a"));
        let Meaning::Known(list) = meaning("S3:get*") else { panic!() };
        assert!(list.iter().all(|a| a.name.starts_with("Get")) && list.len() == 21);
        assert_eq!(meaning("s3:*"), meaning("*"));
    }

    // XOS-POL-08: typos
    #[test]
    fn a_misspelt_action_is_told_its_name() {
        for (text, part) in [
            ("s3:GetObjet", "did you mean s3:GetObject?"),
            ("s3:PutBucketPolcy", "did you mean s3:PutBucketPolicy?"),
            ("s3:ListObjects", "no such action"),
            ("GetObject", "write s3:GetObject"),
            ("ec2:GetObject", "write s3:GetObject"),
            ("s3:Frob*", "no action fits"),
            ("", "s3:NAME"),
        ] {
            let Meaning::Unknown(instead) = meaning(text) else { panic!("{text}") };
            assert!(instead.contains(part), "{text}: {instead}");
        }
        assert!(matches!(meaning("s3:GetObjectAttributes"), Meaning::Foreign(_)));
        assert!(matches!(meaning("oos:GetObject"), Meaning::Foreign(_)));
    }

    // POL-GEN-12, POL-GEN-13
    #[test]
    fn classes_stand_for_their_actions() {
        assert_eq!(expand("@read").unwrap().len(), 11);
        assert_eq!(expand("@READ,GetObject, s3:getobject").unwrap().len(), 11);
        assert_eq!(expand("getobject,s3:List*").unwrap(), ["s3:GetObject", "s3:List*"]);
        assert!(expand("@EVERYTHING").unwrap_err().contains("@WRITE_ACP"));
        assert!(expand("GetObjet").unwrap_err().contains("did you mean s3:GetObject?"));
        assert!(expand(" , ").is_err());
    }
}

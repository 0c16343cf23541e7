//! The least policy that a mount needs, and ready-made ones for sessions of a role.
//!
//! Difficulty: a mount that may not list cannot tell a missing file from a forbidden one, and one that may not abort
//! uploads leaves paid-for parts behind: both rights belong to the least.

use serde_json::{Value, json};

use super::VERSION;

/// What the mount does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    ReadOnly,
    ReadWrite,
}

/// What else is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// Tags, access control lists and restores through extended attributes or `xosfs object`.
    pub attributes: bool,
    /// Old versions.
    pub versions: bool,
}

/// Actions on the bucket and on its objects.
struct Rights {
    bucket: Vec<&'static str>,
    objects: Vec<&'static str>,
}

impl Rights {
    fn of(access: Access, extras: Extras) -> Rights {
        let (mut bucket, mut objects) = (vec!["s3:ListBucket"], vec!["s3:GetObject"]);
        let writes = access == Access::ReadWrite;
        if writes {
            bucket.push("s3:ListBucketMultipartUploads");
            objects.extend([
                "s3:PutObject",
                "s3:DeleteObject",
                "s3:AbortMultipartUpload",
                "s3:ListMultipartUploadParts",
            ]);
        }
        if extras.attributes {
            objects.extend(["s3:GetObjectTagging", "s3:GetObjectAcl"]);
            if writes {
                objects.extend([
                    "s3:PutObjectTagging",
                    "s3:DeleteObjectTagging",
                    "s3:PutObjectAcl",
                    "s3:RestoreObject",
                ]);
            }
        }
        if extras.versions {
            bucket.extend(["s3:ListBucketVersions", "s3:GetBucketVersioning"]);
            objects.push("s3:GetObjectVersion");
            if writes {
                objects.push("s3:DeleteObjectVersion");
            }
        }
        Rights { bucket, objects }
    }

    /// One statement for the bucket, if there is anything to do with it, and one for its objects below `prefix`.
    fn statements(&self, bucket: &str, prefix: &str) -> Vec<Value> {
        let statement =
            |actions: &[&str], resource: String| json!({"Effect": "Allow", "Action": actions, "Resource": [resource]});
        let mut all = Vec::new();
        if !self.bucket.is_empty() {
            all.push(statement(&self.bucket, format!("arn:aws:s3:::{bucket}")));
        }
        all.push(statement(&self.objects, format!("arn:aws:s3:::{bucket}/{prefix}*")));
        all
    }
}

/// `prefix` ends in `/` or is empty. `principals`: who gets the rights, as in a policy; `None` makes a policy for a
/// session or a user, which names nobody.
pub fn suggest(bucket: &str, prefix: &str, access: Access, extras: Extras, principals: Option<&[String]>) -> Value {
    let mut statements = Rights::of(access, extras).statements(bucket, prefix);
    // Letters and digits alone: policies of users allow nothing else.
    for (statement, sid) in statements.iter_mut().zip(["XosfsList", "XosfsObjects"]) {
        statement["Sid"] = sid.into();
        if let Some(principals) = principals {
            statement["Principal"] = json!({"AWS": principals});
        }
    }
    if !prefix.is_empty() && !extras.versions {
        // The mount never lists above its prefix.
        statements[0]["Condition"] = json!({"StringLike": {"s3:prefix": [format!("{prefix}*")]}});
    }
    json!({"Version": VERSION, "Statement": statements})
}

/// Ready-made policies for sessions of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionPolicy {
    /// Everything on the bucket.
    All,
    /// What a read-only mount needs, with attributes, tags and versions.
    ReadOnly,
    /// What a mount needs, with attributes, tags and versions; old versions cannot be deleted for good.
    ReadWrite,
    /// Uploads and downloads by name, no listing.
    Transfer,
    /// Multipart uploads.
    Multipart,
}

impl SessionPolicy {
    pub const ALL: [SessionPolicy; 5] = [
        SessionPolicy::All,
        SessionPolicy::ReadOnly,
        SessionPolicy::ReadWrite,
        SessionPolicy::Transfer,
        SessionPolicy::Multipart,
    ];

    pub fn name(self) -> &'static str {
        match self {
            SessionPolicy::All => "all",
            SessionPolicy::ReadOnly => "read-only",
            SessionPolicy::ReadWrite => "read-write",
            SessionPolicy::Transfer => "transfer",
            SessionPolicy::Multipart => "multipart",
        }
    }

    pub fn from_name(name: &str) -> Option<SessionPolicy> {
        SessionPolicy::ALL.into_iter().find(|p| p.name() == name)
    }

    fn rights(self) -> Rights {
        let of_mount = |access| {
            let mut rights = Rights::of(access, Extras { attributes: true, versions: true });
            rights.bucket.push("s3:GetBucketLocation");
            rights.objects.retain(|a| *a != "s3:DeleteObjectVersion");
            rights
        };
        match self {
            SessionPolicy::All => Rights { bucket: vec!["s3:*"], objects: vec!["s3:*"] },
            SessionPolicy::ReadOnly => of_mount(Access::ReadOnly),
            SessionPolicy::ReadWrite => of_mount(Access::ReadWrite),
            SessionPolicy::Transfer => Rights { bucket: Vec::new(), objects: vec!["s3:PutObject", "s3:GetObject"] },
            SessionPolicy::Multipart => Rights {
                bucket: vec!["s3:ListBucketMultipartUploads"],
                objects: vec!["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"],
            },
        }
    }

    /// The policy for a bucket and, with `prefix`, only the objects below it; at most [`super::SESSION_MAX`] characters
    /// for any bucket and prefixes of up to 500. Names can be listed in the whole bucket all the same: not every store
    /// knows a condition for that.
    pub fn json(self, bucket: &str, prefix: &str) -> String {
        json!({"Version": VERSION, "Statement": self.rights().statements(bucket, prefix)}).to_string()
    }

    /// As [`SessionPolicy::json`] for every bucket: also to list them and, where a mount may write, to make and delete
    /// some.
    pub fn json_of_all(self) -> String {
        let mut rights = self.rights();
        match self {
            SessionPolicy::All | SessionPolicy::Transfer | SessionPolicy::Multipart => {}
            SessionPolicy::ReadOnly => rights.bucket.push("s3:ListAllMyBuckets"),
            SessionPolicy::ReadWrite => {
                rights.bucket.extend(["s3:ListAllMyBuckets", "s3:CreateBucket", "s3:DeleteBucket"]);
            }
        }
        json!({"Version": VERSION, "Statement": rights.statements("*", "")}).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::SESSION_MAX;

    // XOS-STS-11 to XOS-STS-14, XOS-STS-16
    #[test]
    fn ready_made_policies_fit_and_name_the_bucket() {
        for policy in SessionPolicy::ALL {
            let text = policy.json(&"b".repeat(63), &"p/".repeat(250));
            assert!(text.chars().count() <= SESSION_MAX, "{}: {}", policy.name(), text.len());
            assert!(text.contains("2012-10-17") && !text.contains(' '), "{text}");
            assert_eq!(SessionPolicy::from_name(policy.name()), Some(policy));
        }
        for policy in SessionPolicy::ALL {
            let text = policy.json_of_all();
            assert!(text.chars().count() <= SESSION_MAX && text.contains("arn:aws:s3:::*/*"), "{text}");
        }
        let all = SessionPolicy::ReadOnly.json_of_all();
        assert!(all.contains("arn:aws:s3:::*\"") && all.contains("ListAllMyBuckets") && !all.contains("Create"));
        let all = SessionPolicy::ReadWrite.json_of_all();
        assert!(all.contains("s3:CreateBucket") && all.contains("s3:DeleteBucket"), "{all}");
        let text = SessionPolicy::ReadOnly.json("b", "p/");
        assert!(text.contains("arn:aws:s3:::b\"") && text.contains("arn:aws:s3:::b/p/*") && !text.contains("Put"));
    }

    #[test]
    fn sessions_have_the_rights_of_a_mount() {
        let extras = Extras { attributes: true, versions: true };
        for (preset, access) in
            [(SessionPolicy::ReadOnly, Access::ReadOnly), (SessionPolicy::ReadWrite, Access::ReadWrite)]
        {
            let (session, mount) = (preset.rights(), Rights::of(access, extras));
            assert!(mount.bucket.iter().all(|a| session.bucket.contains(a)), "{}", preset.name());
            let missing: Vec<_> = mount.objects.into_iter().filter(|a| !session.objects.contains(a)).collect();
            assert!(missing.iter().all(|a| *a == "s3:DeleteObjectVersion"), "{missing:?}");
        }
    }
}

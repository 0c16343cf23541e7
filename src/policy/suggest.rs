//! The least policy that a mount needs.
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

/// The rights on the bucket and on its objects.
fn actions(access: Access, extras: Extras) -> (Vec<&'static str>, Vec<&'static str>) {
    let (mut bucket, mut objects) = (vec!["s3:ListBucket"], vec!["s3:GetObject"]);
    let writes = access == Access::ReadWrite;
    if writes {
        bucket.push("s3:ListBucketMultipartUploads");
        objects.extend(["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]);
    }
    if extras.attributes {
        objects.extend(["s3:GetObjectTagging", "s3:GetObjectAcl"]);
        if writes {
            objects.extend(["s3:PutObjectTagging", "s3:DeleteObjectTagging", "s3:PutObjectAcl", "s3:RestoreObject"]);
        }
    }
    if extras.versions {
        bucket.extend(["s3:ListBucketVersions", "s3:GetBucketVersioning"]);
        objects.push("s3:GetObjectVersion");
        if writes {
            objects.push("s3:DeleteObjectVersion");
        }
    }
    (bucket, objects)
}

/// `prefix` ends in `/` or is empty. `principals`: who gets the rights, as in a policy; `None` makes a policy for a
/// session or a user, which names nobody.
pub fn suggest(bucket: &str, prefix: &str, access: Access, extras: Extras, principals: Option<&[String]>) -> Value {
    let (of_bucket, of_objects) = actions(access, extras);
    let mut list = json!({
        "Sid": "xosfs-list", "Effect": "Allow", "Action": of_bucket, "Resource": [format!("arn:aws:s3:::{bucket}")],
    });
    let mut objects = json!({
        "Sid": "xosfs-objects", "Effect": "Allow", "Action": of_objects,
        "Resource": [format!("arn:aws:s3:::{bucket}/{prefix}*")],
    });
    if !prefix.is_empty() && !extras.versions {
        // The mount never lists above its prefix.
        list["Condition"] = json!({"StringLike": {"s3:prefix": [format!("{prefix}*")]}});
    }
    if let Some(principals) = principals {
        for statement in [&mut list, &mut objects] {
            statement["Principal"] = json!({"AWS": principals});
        }
    }
    json!({"Version": VERSION, "Statement": [list, objects]})
}

//! Policies that people ask for by name.

use serde_json::{Value, json};

use super::VERSION;

/// One template.
#[derive(Debug)]
pub struct Template {
    pub name: &'static str,
    pub doc: &'static str,
    /// Whether it is for AssumeRole: no principal, and one statement that is an object.
    pub is_session: bool,
}

/// All of them.
pub const ALL: &[Template] = &[
    Template { name: "public-read", doc: "everybody may read objects", is_session: false },
    Template { name: "public-rw", doc: "everybody may read and write objects", is_session: false },
    Template { name: "tls-only", doc: "nobody may use the bucket without TLS", is_session: false },
    Template { name: "all", doc: "everything on one bucket, for a session", is_session: true },
    Template { name: "rw-objects", doc: "only upload and download, for a session", is_session: true },
    Template { name: "multipart", doc: "multipart uploads, for a session", is_session: true },
];

/// `prefix`: the part of the bucket; empty is all of it. `None`: no template of this name.
pub fn template(name: &str, bucket: &str, prefix: &str) -> Option<Value> {
    let of_bucket = format!("arn:aws:s3:::{bucket}");
    let of_objects = format!("arn:aws:s3:::{bucket}/{prefix}*");
    let statement = match name {
        "public-read" => json!([{
            "Sid": "public-read", "Effect": "Allow", "Principal": {"AWS": ["*"]},
            "Action": ["s3:GetObject"], "Resource": [of_objects],
        }]),
        "public-rw" => json!([{
            "Sid": "123", "Effect": "Allow", "Principal": {"AWS": "*"},
            "Action": ["s3:PutObject", "s3:GetObject"], "Resource": [of_objects],
        }]),
        "tls-only" => json!([{
            "Sid": "tls-only", "Effect": "Deny", "Principal": {"AWS": ["*"]},
            "Action": ["s3:*"], "Resource": [of_bucket, of_objects],
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }]),
        "all" => json!({"Effect": "Allow", "Action": ["s3:*"], "Resource": [of_bucket, of_objects]}),
        "rw-objects" => {
            json!({"Effect": "Allow", "Action": ["s3:PutObject", "s3:GetObject"], "Resource": [of_objects]})
        }
        "multipart" => json!({
            "Effect": "Allow",
            "Action": [
                "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListBucketMultipartUploads", "s3:ListMultipartUploadParts",
            ],
            "Resource": [of_bucket, of_objects],
        }),
        _ => return None,
    };
    Some(json!({"Version": VERSION, "Statement": statement}))
}

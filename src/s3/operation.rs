//! The operations by name: what counts, log lines, error texts and permission advice call them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::error::{Error, Kind};

macro_rules! operations {
    ($($name:ident: $permission:literal,)*) => {
        /// An operation of the store.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Op { $($name,)* }

        impl Op {
            const ALL: &'static [Op] = &[$(Op::$name,)*];

            pub fn name(self) -> &'static str {
                match self { $(Op::$name => stringify!($name),)* }
            }

            /// The right it needs, as bucket policies call it.
            pub fn permission(self) -> &'static str {
                match self { $(Op::$name => $permission,)* }
            }
        }
    };
}

operations! {
    HeadObject: "s3:GetObject",
    GetObject: "s3:GetObject",
    PutObject: "s3:PutObject",
    CopyObject: "s3:PutObject, and s3:GetObject on the source",
    DeleteObject: "s3:DeleteObject",
    DeleteObjects: "s3:DeleteObject",
    ListObjects: "s3:ListBucket",
    CreateMultipartUpload: "s3:PutObject",
    UploadPart: "s3:PutObject",
    UploadPartCopy: "s3:PutObject, and s3:GetObject on the source",
    CompleteMultipartUpload: "s3:PutObject",
    AbortMultipartUpload: "s3:AbortMultipartUpload",
    ListMultipartUploads: "s3:ListBucketMultipartUploads",
    ListParts: "s3:ListMultipartUploadParts",
    GetObjectAcl: "s3:GetObjectAcl",
    PutObjectAcl: "s3:PutObjectAcl",
    GetBucketAcl: "s3:GetBucketAcl",
    PutBucketAcl: "s3:PutBucketAcl",
    GetObjectTagging: "s3:GetObjectTagging",
    PutObjectTagging: "s3:PutObjectTagging",
    DeleteObjectTagging: "s3:DeleteObjectTagging",
    RestoreObject: "s3:RestoreObject",
    HeadBucket: "s3:ListBucket",
    CreateBucket: "s3:CreateBucket",
    DeleteBucket: "s3:DeleteBucket",
    ListBuckets: "s3:ListAllMyBuckets",
    GetBucketLocation: "s3:GetBucketLocation",
    ListObjectVersions: "s3:ListBucketVersions",
    GetBucketPolicy: "s3:GetBucketPolicy",
    PutBucketPolicy: "s3:PutBucketPolicy",
    DeleteBucketPolicy: "s3:DeleteBucketPolicy",
    GetBucketPolicyStatus: "s3:GetBucketPolicyStatus",
    GetBucketLifecycleConfiguration: "s3:GetLifecycleConfiguration",
    PutBucketLifecycleConfiguration: "s3:PutLifecycleConfiguration",
    DeleteBucketLifecycle: "s3:PutLifecycleConfiguration",
    GetBucketCors: "s3:GetBucketCORS",
    PutBucketCors: "s3:PutBucketCORS",
    DeleteBucketCors: "s3:PutBucketCORS",
    GetBucketVersioning: "s3:GetBucketVersioning",
    PutBucketVersioning: "s3:PutBucketVersioning",
    GetBucketTagging: "s3:GetBucketTagging",
    PutBucketTagging: "s3:PutBucketTagging",
    DeleteBucketTagging: "s3:PutBucketTagging",
    GetBucketEncryption: "s3:GetEncryptionConfiguration",
    PutBucketEncryption: "s3:PutEncryptionConfiguration",
    DeleteBucketEncryption: "s3:PutEncryptionConfiguration",
    GetBucketWebsite: "s3:GetBucketWebsite",
    PutBucketWebsite: "s3:PutBucketWebsite",
    DeleteBucketWebsite: "s3:DeleteBucketWebsite",
    GetBucketLogging: "s3:GetBucketLogging",
    PutBucketLogging: "s3:PutBucketLogging",
    GetBucketNotificationConfiguration: "s3:GetBucketNotification",
    PutBucketNotificationConfiguration: "s3:PutBucketNotification",
    GetBucketReplication: "s3:GetReplicationConfiguration",
    PutBucketReplication: "s3:PutReplicationConfiguration",
    DeleteBucketReplication: "s3:DeleteReplicationConfiguration",
    GetBucketRequestPayment: "s3:GetBucketRequestPayment",
    PutBucketRequestPayment: "s3:PutBucketRequestPayment",
    GetBucketAccelerateConfiguration: "s3:GetAccelerateConfiguration",
    PutBucketAccelerateConfiguration: "s3:PutAccelerateConfiguration",
    GetPublicAccessBlock: "s3:GetBucketPublicAccessBlock",
    PutPublicAccessBlock: "s3:PutBucketPublicAccessBlock",
    DeletePublicAccessBlock: "s3:PutBucketPublicAccessBlock",
    GetBucketOwnershipControls: "s3:GetBucketOwnershipControls",
    PutBucketOwnershipControls: "s3:PutBucketOwnershipControls",
    DeleteBucketOwnershipControls: "s3:PutBucketOwnershipControls",
    GetObjectLockConfiguration: "s3:GetBucketObjectLockConfiguration",
    PutObjectLockConfiguration: "s3:PutBucketObjectLockConfiguration",
    AssumeRole: "sts:AssumeRole",
}

impl Op {
    /// "GetObject" as "get object".
    pub fn phrase(self) -> String {
        let mut out = String::new();
        for c in self.name().chars() {
            if c.is_ascii_uppercase() && !out.is_empty() {
                out.push(' ');
            }
            out.push(c.to_ascii_lowercase());
        }
        out
    }

    /// Whether the request is about the bucket, not about one object.
    pub fn is_of_bucket(self) -> bool {
        use Op::*;
        self.name().contains("Bucket")
            || matches!(
                self,
                ListObjects
                    | ListObjectVersions
                    | DeleteObjects
                    | ListMultipartUploads
                    | GetPublicAccessBlock
                    | PutPublicAccessBlock
                    | DeletePublicAccessBlock
                    | GetObjectLockConfiguration
                    | PutObjectLockConfiguration
            )
    }
}

/// Figures since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// Requests sent (each attempt counts) by operation: "GetObject", "ListObjects", … Only those that occurred.
    pub by_operation: BTreeMap<&'static str, u64>,
    /// Requests that were sent again, for whatever reason.
    pub retries: u64,
    /// Answers that asked for fewer requests.
    pub throttles: u64,
    /// Operations that failed in the end, a missing object not counted.
    pub failures: u64,
    /// When the last of them failed, and how.
    pub last_failure: Option<(SystemTime, String)>,
    /// Body bytes received.
    pub bytes_in: u64,
    /// Body bytes sent.
    pub bytes_out: u64,
}

impl RequestCounts {
    /// All requests sent.
    pub fn total(&self) -> u64 {
        self.by_operation.values().sum()
    }
}

pub(super) struct Counters {
    by_operation: Vec<AtomicU64>,
    pub retries: AtomicU64,
    pub throttles: AtomicU64,
    failures: AtomicU64,
    last_failure: Mutex<Option<(SystemTime, String)>>,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
}

impl Counters {
    pub fn new() -> Self {
        Counters {
            by_operation: Op::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            retries: AtomicU64::new(0),
            throttles: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            last_failure: Mutex::new(None),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
        }
    }

    pub fn sent(&self, op: Op) {
        self.by_operation[op as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// An operation failed for good. What programs provoke all day (a missing object, a lost race) is no failure.
    pub fn failed(&self, error: &Error) {
        if !error.kind().is_news() || matches!(error.kind(), Kind::Conflict | Kind::Stale) {
            return;
        }
        self.failures.fetch_add(1, Ordering::Relaxed);
        *self.last_failure.lock() = Some((SystemTime::now(), error.to_string()));
    }

    pub fn snapshot(&self) -> RequestCounts {
        let load = |a: &AtomicU64| a.load(Ordering::Relaxed);
        RequestCounts {
            by_operation: Op::ALL
                .iter()
                .map(|op| (op.name(), load(&self.by_operation[*op as usize])))
                .filter(|(_, n)| *n > 0)
                .collect(),
            retries: load(&self.retries),
            throttles: load(&self.throttles),
            failures: load(&self.failures),
            last_failure: self.last_failure.lock().clone(),
            bytes_in: load(&self.bytes_in),
            bytes_out: load(&self.bytes_out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_counted_under_its_name() {
        let c = Counters::new();
        c.sent(Op::GetBucketLocation);
        c.sent(Op::GetObject);
        c.sent(Op::GetObject);
        let s = c.snapshot();
        assert_eq!(s.by_operation, BTreeMap::from([("GetObject", 2), ("GetBucketLocation", 1)]));
        assert_eq!(s.total(), 3);
        assert_eq!(Op::UploadPartCopy.phrase(), "upload part copy");
    }
}

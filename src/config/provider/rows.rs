//! The rows of the provider table. Figures come from the vendors' manuals; where a manual is silent, from what the
//! store is built on.

use std::time::Duration;

use super::{Acl, Checksum, Limits, Policy, Provider, Restore, StorageClass, Sts, TagLimits, Unit};
use crate::config::options::{Addressing, ListVersion, Signature};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
/// 10,000 parts of 5 GiB.
const BY_PARTS: u64 = 50_000 * GIB;
const DAY: u64 = 24 * 3600;

const fn class(name: &'static str, archive: bool, min_days: u32) -> StorageClass {
    StorageClass { name, archive, min_days }
}

const PLAIN_LIMITS: Limits = Limits {
    min_part: 5 * MIB,
    max_part: 5 * GIB,
    max_parts: 10_000,
    equal_parts: false,
    max_object: 5 * TIB,
    max_put: 5 * GIB,
    max_copy: 5 * GIB,
    copy_threshold: GIB,
    part_copy_source: 0,
    list_page: 1000,
    delete_batch: 1000,
    key: 1024,
    metadata: 2048,
    presign: Duration::from_secs(7 * DAY),
};

const PLAIN_TAGS: TagLimits = TagLimits {
    supported: true,
    per_object: 10,
    per_bucket: 50,
    key: 128,
    value: 256,
    unit: Unit::Chars,
    refused: "",
    reserved: "",
};

const CANNED_AWS: &[&str] = &[
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
];
const CANNED_RGW: &[&str] = &[
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
];
const CANNED_FOUR: &[&str] = &["private", "public-read", "public-read-write", "authenticated-read"];

const PLAIN_ACL: Acl = Acl {
    supported: true,
    canned: CANNED_RGW,
    canned_bucket: CANNED_FOUR,
    grant_headers: true,
    owner_required: true,
    delivered: false,
    object_write: false,
    max_grants: 100,
};

const RGW_CONDITIONS: &[&str] = &[
    "aws:CurrentTime",
    "aws:EpochTime",
    "aws:PrincipalType",
    "aws:Referer",
    "aws:SecureTransport",
    "aws:SourceIp",
    "aws:UserAgent",
    "aws:username",
];

const AWS_POLICY: Policy = Policy {
    action_prefix: "s3:",
    arn_prefix: "arn:aws:s3:::",
    principal: "AWS",
    user_arn: "arn:aws:iam::ACCOUNT:user/USER",
    max: 20 << 10,
    across_accounts: true,
    conditions: &[],
};

const RGW_POLICY: Policy = Policy { user_arn: "arn:aws:iam:::user/USER", ..AWS_POLICY };

const RGW_STS: Sts = Sts {
    endpoint: None,
    region: None,
    other_region: None,
    service: "sts",
    policy_required: false,
    policy_max: 2048,
    session_name: 2..=64,
    duration: 900..=43_200,
    default_duration: 3600,
    role_arn: "arn:aws:iam:::role/ROLE",
    expired: (403, "AccessDenied"),
};

/// What rows take where they say nothing.
const GENERIC_ROW: Provider = Provider {
    name: "",
    title: "",
    hosts: &[],
    signature: Signature::V4,
    addressing: Addressing::Auto,
    list: ListVersion::Auto,
    list_encoding: true,
    region: "us-east-1",
    conditional_put: true,
    conditional_put_versions: true,
    conditional_copy: true,
    copy_keeps_tags: false,
    part_copy: true,
    checksum: Checksum::Crc32c,
    batch_delete: true,
    limits: PLAIN_LIMITS,
    tags: PLAIN_TAGS,
    classes: &[],
    more_classes: true,
    class_aliases: &[],
    acl: PLAIN_ACL,
    restore: Some(Restore { days: 1..=u32::MAX, tiers: &["Standard", "Expedited", "Bulk"] }),
    sts: Some(RGW_STS),
    policy: AWS_POLICY,
    versioning: true,
    missing: &[],
};

/// What all stores known to us share. A store that turns out to lack something is remembered for the mount.
pub static GENERIC: Provider = Provider {
    name: "generic",
    title: "S3-compatible store",
    classes: &[
        class("STANDARD", false, 0),
        class("STANDARD_IA", false, 30),
        class("GLACIER", true, 90),
        class("DEEP_ARCHIVE", true, 180),
    ],
    acl: Acl { canned: CANNED_AWS, ..PLAIN_ACL },
    ..GENERIC_ROW
};

/// CTYun media storage. Its gateway behaves like Ceph's.
pub static XOS: Provider = Provider {
    name: "xos",
    title: "CTYun media storage (XOS)",
    hosts: &["*.xstore.ctyun.cn"],
    // The manual knows no other listing.
    list: ListVersion::V1,
    conditional_put: false,
    conditional_copy: false,
    checksum: Checksum::ContentMd5,
    limits: Limits { max_object: BY_PARTS - 1, part_copy_source: 5 * MIB, key: 1023, ..PLAIN_LIMITS },
    tags: TagLimits { unit: Unit::Bytes, ..PLAIN_TAGS },
    classes: &[class("STANDARD", false, 0), class("STANDARD_IA", false, 30), class("GLACIER", true, 60)],
    more_classes: false,
    acl: Acl { canned: CANNED_FOUR, ..PLAIN_ACL },
    restore: Some(Restore { days: 1..=31, tiers: &["Standard"] }),
    sts: Some(Sts { region: Some("ctyun"), other_region: Some("cn"), policy_required: true, ..RGW_STS }),
    policy: Policy { user_arn: "arn:aws:iam::user/USER", conditions: &["aws:SourceIp"], ..AWS_POLICY },
    ..GENERIC_ROW
};

/// CTYun object storage.
pub static ZOS: Provider = Provider {
    name: "zos",
    title: "CTYun object storage (ZOS)",
    hosts: &["*.REGION.zos.ctyun.cn", "*.zos.ctyun.cn"],
    addressing: Addressing::Path,
    list: ListVersion::V1,
    region: "default",
    conditional_put: false,
    conditional_copy: false,
    checksum: Checksum::ContentMd5,
    classes: &[
        class("STANDARD", false, 0),
        class("STANDARD_IA", false, 30),
        class("GLACIER", true, 60),
        class("DEEP_ARCHIVE", true, 180),
    ],
    more_classes: false,
    acl: Acl { canned: CANNED_FOUR, ..PLAIN_ACL },
    restore: Some(Restore { days: 1..=31, tiers: &["Standard"] }),
    sts: None,
    policy: Policy { user_arn: "arn:aws:s3:::user/USER", ..AWS_POLICY },
    ..GENERIC_ROW
};

/// Huawei OBS through its S3 protocol.
pub static OBS: Provider = Provider {
    name: "obs",
    title: "Huawei Cloud OBS",
    hosts: &[
        "*.obs.REGION.myhuaweicloud.com",
        "*.obs.REGION.myhuaweicloud.eu",
        "*.obs.REGION.otc.t-systems.com",
        "*.myhuaweicloud.com",
    ],
    // Parallel file systems know no other listing, and lose their place in encoded ones.
    list: ListVersion::V1,
    list_encoding: false,
    conditional_put: false,
    conditional_copy: false,
    checksum: Checksum::ContentMd5,
    limits: Limits { max_object: BY_PARTS - 1, metadata: 8192, ..PLAIN_LIMITS },
    tags: TagLimits { per_bucket: 20, key: 36, value: 43, refused: ",/\\|<>=*", ..PLAIN_TAGS },
    classes: &[
        class("STANDARD", false, 0),
        class("STANDARD_IA", false, 30),
        class("GLACIER", true, 90),
        class("DEEP_ARCHIVE", true, 180),
        class("INTELLIGENT_TIERING", false, 0),
    ],
    more_classes: false,
    class_aliases: &[("WARM", "STANDARD_IA"), ("COLD", "GLACIER")],
    acl: Acl {
        canned: CANNED_RGW,
        canned_bucket: &[
            "private",
            "public-read",
            "public-read-write",
            "public-read-delivered",
            "public-read-write-delivered",
            "authenticated-read",
            "log-delivery-write",
        ],
        grant_headers: false,
        delivered: true,
        ..PLAIN_ACL
    },
    restore: Some(Restore { days: 1..=30, tiers: &["Standard", "Expedited"] }),
    // Temporary keys come from another protocol of the cloud's IAM: by `credential_process`.
    sts: None,
    ..GENERIC_ROW
};

/// H3C's object storage and others of its make: Ceph's gateway of unknown age behind a console.
pub static H3C: Provider = Provider {
    name: "h3c",
    title: "H3C ONEStor and similar private stores",
    addressing: Addressing::Path,
    list: ListVersion::V1,
    conditional_put: false,
    conditional_copy: false,
    checksum: Checksum::ContentMd5,
    classes: &[class("STANDARD", false, 0)],
    acl: Acl { canned: CANNED_RGW, ..PLAIN_ACL },
    restore: None,
    policy: Policy { across_accounts: false, conditions: RGW_CONDITIONS, ..RGW_POLICY },
    ..GENERIC_ROW
};

/// Ceph's gateway, current releases.
pub static CEPH: Provider = Provider {
    name: "ceph",
    title: "Ceph Object Gateway",
    addressing: Addressing::Path,
    conditional_put_versions: false,
    conditional_copy: false,
    classes: &[class("STANDARD", false, 0)],
    acl: Acl { canned: CANNED_RGW, ..PLAIN_ACL },
    restore: Some(Restore { days: 1..=u32::MAX, tiers: &["Standard"] }),
    policy: RGW_POLICY,
    ..GENERIC_ROW
};

pub static MINIO: Provider = Provider {
    name: "minio",
    copy_keeps_tags: true,
    title: "MinIO",
    hosts: &["play.min.io"],
    addressing: Addressing::Path,
    limits: Limits { max_object: BY_PARTS, max_put: 5 * TIB, ..PLAIN_LIMITS },
    classes: &[class("STANDARD", false, 0), class("REDUCED_REDUNDANCY", false, 0)],
    acl: Acl { supported: false, canned: &["private"], canned_bucket: &["private"], ..PLAIN_ACL },
    sts: Some(Sts { duration: 900..=31_536_000, expired: (400, "ExpiredToken"), ..RGW_STS }),
    missing: &["website", "logging", "requestPayment", "accelerate"],
    ..GENERIC_ROW
};

pub static AWS: Provider = Provider {
    name: "aws",
    copy_keeps_tags: true,
    title: "Amazon S3",
    hosts: &["*.REGION.amazonaws.com", "*.REGION.amazonaws.com.cn", "*.amazonaws.com"],
    tags: TagLimits { reserved: "aws:", ..PLAIN_TAGS },
    classes: &[
        class("STANDARD", false, 0),
        class("STANDARD_IA", false, 30),
        class("ONEZONE_IA", false, 30),
        class("INTELLIGENT_TIERING", false, 0),
        class("GLACIER_IR", false, 90),
        class("GLACIER", true, 90),
        class("DEEP_ARCHIVE", true, 180),
        class("REDUCED_REDUNDANCY", false, 0),
        class("EXPRESS_ONEZONE", false, 0),
    ],
    more_classes: false,
    acl: Acl {
        canned: CANNED_AWS,
        canned_bucket: &[
            "private",
            "public-read",
            "public-read-write",
            "authenticated-read",
            "aws-exec-read",
            "log-delivery-write",
        ],
        ..PLAIN_ACL
    },
    sts: Some(Sts {
        endpoint: Some("https://sts.REGION.amazonaws.com"),
        role_arn: "arn:aws:iam::ACCOUNT:role/ROLE",
        expired: (400, "ExpiredToken"),
        ..RGW_STS
    }),
    ..GENERIC_ROW
};

/// Every row; in this order hosts are compared.
pub static ALL: [&Provider; 8] = [&XOS, &ZOS, &OBS, &H3C, &CEPH, &MINIO, &AWS, &GENERIC];

//! What each kind of store takes and how it names things: one table, chosen by the endpoint's host or by `provider=`.
//!
//! 1. S3 is a family of dialects. What can be learnt from an answer is learnt there (see `s3`); what cannot, because a
//!    store silently does something else or because the first try would already harm, is written down here.
//! 2. A row is what we send by default, never a ban: limits that only a server may enforce are documented as such, and
//!    every default of a row gives way to an explicit option.
//! 3. An unknown host is [`GENERIC`]: what all stores known to us share.

mod rows;

use std::ops::RangeInclusive;
use std::time::Duration;

pub use rows::{ALL, AWS, CEPH, GENERIC, H3C, MINIO, OBS, XOS, ZOS};

use super::options::{Addressing, ListVersion, ProviderChoice, Signature};

/// One dialect of S3.
#[derive(Debug)]
pub struct Provider {
    /// As in `provider=`.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// Host names it is known by: labels, where a leading `*` is any number of labels, another `*` is one label, and
    /// `REGION` is one label that names the region.
    pub hosts: &'static [&'static str],
    /// What `signature=auto` is.
    pub signature: Signature,
    /// What `addressing=auto` is; [`Addressing::Auto`] decides by host and bucket name.
    pub addressing: Addressing,
    /// What `list=auto` is; [`ListVersion::Auto`] asks for v2 and remembers a store that has only v1.
    pub list: ListVersion,
    /// Whether listings may be asked for with `encoding-type=url`.
    pub list_encoding: bool,
    /// Region to sign for where neither options nor host name one.
    pub region: &'static str,
    /// Whether PUT and CompleteMultipartUpload honour `If-Match` and `If-None-Match`. Where they may be ignored, a HEAD
    /// just before the write takes their place.
    pub conditional_put: bool,
    /// Whether they do so in buckets with versions, too. Where not (Ceph, which is also known by its answers), the mount
    /// asks whether the bucket has versions before the first such write.
    pub conditional_put_versions: bool,
    /// Whether copies honour `x-amz-copy-source-if-match`. Where not, the ETag is compared before and after.
    pub conditional_copy: bool,
    /// Whether a copy with new metadata keeps the tags of its source. Where it may not (Ceph drops them) they are sent
    /// along.
    pub copy_keeps_tags: bool,
    /// Whether the store has UploadPartCopy.
    pub part_copy: bool,
    /// Digest that goes with uploaded bytes.
    pub checksum: Checksum,
    /// Whether the store has DeleteObjects.
    pub batch_delete: bool,
    /// Sizes and counts.
    pub limits: Limits,
    /// Tags of objects and buckets.
    pub tags: TagLimits,
    /// Storage classes by the names that the S3 API of this store uses.
    pub classes: &'static [StorageClass],
    /// Whether classes beyond `classes` exist: named by the site.
    pub more_classes: bool,
    /// Other names of classes, of the native API of the store, with what they are called here.
    pub class_aliases: &'static [(&'static str, &'static str)],
    pub acl: Acl,
    /// `None`: nothing is archived, nothing can be restored.
    pub restore: Option<Restore>,
    /// `None`: no AssumeRole.
    pub sts: Option<Sts>,
    pub policy: Policy,
    /// Whether buckets can keep versions.
    pub versioning: bool,
    /// Sub-resources of buckets that this store is known not to have, as in the query: `cors`, `website`, …
    pub missing: &'static [&'static str],
}

/// Digest of uploaded bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// `x-amz-checksum-crc32c` as an ordinary header, never as a trailer.
    Crc32c,
    /// `Content-MD5`, which every dialect verifies.
    ContentMd5,
}

/// Sizes in bytes. The client keeps to them when it plans uploads.
#[derive(Debug)]
pub struct Limits {
    /// Smallest part that is not the last.
    pub min_part: u64,
    pub max_part: u64,
    pub max_parts: u32,
    /// Whether all parts but the last must be of one size.
    pub equal_parts: bool,
    pub max_object: u64,
    /// Largest plain PUT.
    pub max_put: u64,
    /// Largest CopyObject.
    pub max_copy: u64,
    /// Copies in one request above this may time out: parts are used.
    pub copy_threshold: u64,
    /// UploadPartCopy with a range wants a source larger than this; 0: any.
    pub part_copy_source: u64,
    /// Entries of one listing.
    pub list_page: u32,
    /// Keys of one DeleteObjects.
    pub delete_batch: u32,
    /// Key in UTF-8.
    pub key: u32,
    /// User metadata, names and values together; checked by the server.
    pub metadata: u32,
    /// Lifetime of a presigned URL with signature v4.
    pub presign: Duration,
}

/// How long a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    /// Unicode characters.
    Chars,
}

#[derive(Debug)]
pub struct TagLimits {
    /// Whether objects have tags at all.
    pub supported: bool,
    pub per_object: u32,
    pub per_bucket: u32,
    pub key: u32,
    pub value: u32,
    /// What `key` and `value` count.
    pub unit: Unit,
    /// Characters that are refused in keys and values; empty: the server decides.
    pub refused: &'static str,
    /// Keys must not begin with this; empty: none reserved.
    pub reserved: &'static str,
}

impl TagLimits {
    /// Whether the key is short enough.
    pub fn key_fits(&self, key: &str) -> bool {
        !key.is_empty() && self.unit.of(key) <= self.key as usize
    }

    /// Whether the value is short enough.
    pub fn value_fits(&self, value: &str) -> bool {
        self.unit.of(value) <= self.value as usize
    }
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Unit::Bytes => "bytes",
            Unit::Chars => "characters",
        })
    }
}

impl Unit {
    /// The length of `text` in this unit.
    pub fn of(self, text: &str) -> usize {
        match self {
            Unit::Bytes => text.len(),
            Unit::Chars => text.chars().count(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageClass {
    pub name: &'static str,
    /// Has to be restored before it can be read or copied.
    pub archive: bool,
    /// Days that are paid for at least; 0: none, or unknown.
    pub min_days: u32,
}

#[derive(Debug)]
pub struct Acl {
    /// Whether ACLs can be changed.
    pub supported: bool,
    /// Canned ACLs of objects.
    pub canned: &'static [&'static str],
    /// Canned ACLs of buckets.
    pub canned_bucket: &'static [&'static str],
    /// Whether `x-amz-grant-…` headers are understood.
    pub grant_headers: bool,
    /// Whether a document must name the real owner, and list the owner's grant if it is to stay.
    pub owner_required: bool,
    /// Whether grants know `Delivered`: a grant on the bucket that holds for its objects.
    pub delivered: bool,
    /// Whether WRITE means something on an object.
    pub object_write: bool,
    pub max_grants: u32,
}

/// What RestoreObject takes.
#[derive(Debug)]
pub struct Restore {
    pub days: RangeInclusive<u32>,
    /// The first one is the default.
    pub tiers: &'static [&'static str],
}

/// What AssumeRole takes.
#[derive(Debug)]
pub struct Sts {
    /// `None`: the endpoint of the store. `REGION` stands for the region.
    pub endpoint: Option<&'static str>,
    /// Region in the signature; `None`: that of the store.
    pub region: Option<&'static str>,
    /// Another region that documents of the store name; worth one retry when the signature is refused.
    pub other_region: Option<&'static str>,
    /// Service in the signature.
    pub service: &'static str,
    /// Whether a session policy must be sent.
    pub policy_required: bool,
    /// Characters of a session policy.
    pub policy_max: u32,
    /// Characters of a session name.
    pub session_name: RangeInclusive<u32>,
    /// Seconds.
    pub duration: RangeInclusive<u32>,
    /// Seconds.
    pub default_duration: u32,
    /// How a role is named, with ROLE in its place.
    pub role_arn: &'static str,
    /// HTTP status and code by which requests with an expired token are refused.
    pub expired: (u16, &'static str),
}

/// What a bucket policy looks like.
#[derive(Debug)]
pub struct Policy {
    /// Before the name of an action.
    pub action_prefix: &'static str,
    /// Before the name of a bucket in a resource.
    pub arn_prefix: &'static str,
    /// Key of users in `Principal`.
    pub principal: &'static str,
    /// How a user is named, with USER in its place.
    pub user_arn: &'static str,
    /// Bytes.
    pub max: u32,
    /// Whether users of other accounts may be granted something.
    pub across_accounts: bool,
    /// Condition keys the store documents; empty: as AWS.
    pub conditions: &'static [&'static str],
}

impl Provider {
    /// The row for a mount: as chosen, else by the endpoint's host. Without an endpoint the store is AWS.
    pub fn find(choice: ProviderChoice, endpoint: Option<&str>) -> &'static Provider {
        match choice {
            ProviderChoice::Auto => match endpoint {
                None => &AWS,
                Some(url) => ALL.into_iter().find(|p| p.knows(host_of(url)).is_some()).unwrap_or(&GENERIC),
            },
            ProviderChoice::Xos => &XOS,
            ProviderChoice::Zos => &ZOS,
            ProviderChoice::Obs => &OBS,
            ProviderChoice::H3c => &H3C,
            ProviderChoice::Ceph => &CEPH,
            ProviderChoice::Minio => &MINIO,
            ProviderChoice::Aws => &AWS,
            ProviderChoice::Generic => &GENERIC,
        }
    }

    /// The region that the endpoint's host names, else the default one of this store.
    pub fn region_of(&self, endpoint: Option<&str>) -> String {
        let named = endpoint.and_then(|url| self.knows(host_of(url))).flatten();
        named.unwrap_or_else(|| self.region.to_owned())
    }

    /// The row's name for a storage class, whichever of its names is given; upper case.
    pub fn class_name(&self, written: &str) -> String {
        let upper = written.to_ascii_uppercase();
        let alias = self.class_aliases.iter().find(|(other, _)| *other == upper);
        alias.map_or(upper, |(_, ours)| (*ours).to_owned())
    }

    /// What is known of a storage class.
    pub fn class(&self, name: &str) -> Option<&'static StorageClass> {
        let name = self.class_name(name);
        self.classes.iter().find(|c| c.name == name)
    }

    /// Whether the host is one of this store, and the region it names.
    fn knows(&self, host: &str) -> Option<Option<String>> {
        self.hosts.iter().find_map(|pattern| matches(pattern, host))
    }
}

/// The host of an endpoint's URL, without port; what cannot be read is no host of anybody.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    rest.rsplit_once(':').map_or(rest, |(host, _)| host)
}

/// The region in the host, if the pattern fits.
fn matches(pattern: &str, host: &str) -> Option<Option<String>> {
    let host = host.to_ascii_lowercase();
    let (mut labels, mut region) = (host.split('.').rev(), None);
    let mut wanted = pattern.split('.').rev().peekable();
    while let Some(want) = wanted.next() {
        if want == "*" && wanted.peek().is_none() {
            return Some(region);
        }
        let label = labels.next()?;
        match want {
            // `s3-…` is a service of AWS in the place of a region.
            "REGION" if label.contains('-') && !label.starts_with("s3-") => region = Some(label.to_owned()),
            "*" => {}
            _ if want == label => {}
            _ => return None,
        }
    }
    labels.next().is_none().then_some(region)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(endpoint: &str) -> (&'static str, String) {
        let provider = Provider::find(ProviderChoice::Auto, Some(endpoint));
        (provider.name, provider.region_of(Some(endpoint)))
    }

    #[test]
    fn the_host_tells_the_provider_and_the_region() {
        for (endpoint, name, region) in [
            ("https://gdoss.xstore.ctyun.cn", "xos", "us-east-1"),
            ("https://huabei-2.zos.ctyun.cn", "zos", "huabei-2"),
            ("https://neimeng.zos.ctyun.cn", "zos", "default"),
            ("https://obs.cn-north-4.myhuaweicloud.com:443/", "obs", "cn-north-4"),
            ("https://OBS.EU-DE.otc.t-systems.com", "obs", "eu-de"),
            ("https://s3.eu-west-1.amazonaws.com", "aws", "eu-west-1"),
            ("https://s3.dualstack.us-gov-west-1.amazonaws.com", "aws", "us-gov-west-1"),
            ("https://s3.cn-north-1.amazonaws.com.cn", "aws", "cn-north-1"),
            ("https://s3.amazonaws.com", "aws", "us-east-1"),
            ("https://s3-us-west-2.amazonaws.com", "aws", "us-east-1"),
            ("https://play.min.io", "minio", "us-east-1"),
            ("http://127.0.0.1:9000", "generic", "us-east-1"),
            ("http://[::1]:9000/x", "generic", "us-east-1"),
            ("https://xstore.ctyun.cn.example.com", "generic", "us-east-1"),
            ("https://evilxstore.ctyun.cn", "generic", "us-east-1"),
            ("", "generic", "us-east-1"),
        ] {
            assert_eq!(found(endpoint), (name, region.to_owned()), "{endpoint}");
        }
        assert_eq!(Provider::find(ProviderChoice::Auto, None).name, "aws");
    }

    #[test]
    fn a_choice_overrides_the_host_and_every_choice_has_its_row() {
        for (text, choice) in ProviderChoice::CHOICES {
            let provider = Provider::find(*choice, Some("https://obs.cn-north-4.myhuaweicloud.com"));
            assert_eq!(provider.name, if *text == "auto" { "obs" } else { text });
        }
        assert_eq!(ALL.len() + 1, ProviderChoice::CHOICES.len());
    }

    #[test]
    fn rows_do_not_contradict_themselves() {
        for p in ALL {
            let l = &p.limits;
            assert!(
                l.min_part < l.max_part && l.max_part.saturating_mul(l.max_parts.into()) >= l.max_object,
                "{}",
                p.name
            );
            assert!(l.copy_threshold <= l.max_copy, "{}", p.name);
            assert!(p.acl.canned.contains(&"private") && p.acl.canned_bucket.contains(&"private"), "{}", p.name);
            assert!(p.class("standard").is_some(), "{}", p.name);
            for (alias, ours) in p.class_aliases {
                assert!(p.classes.iter().all(|c| c.name != *alias) && p.class(ours).is_some(), "{}: {alias}", p.name);
            }
            if let Some(restore) = &p.restore {
                assert!(!restore.days.is_empty() && !restore.tiers.is_empty(), "{}", p.name);
            }
            if let Some(sts) = &p.sts {
                assert!(sts.duration.contains(&sts.default_duration), "{}", p.name);
            }
        }
        // CON-02, CON-45: the canned ACLs of XOS are four, those of OBS have `-delivered` for buckets only.
        assert_eq!(XOS.acl.canned.len(), 4);
        assert!(OBS.acl.canned_bucket.contains(&"public-read-delivered"));
        assert!(!OBS.acl.canned.contains(&"public-read-delivered"));
    }

    #[test]
    fn classes_and_tags_are_known_by_the_names_of_the_store() {
        assert_eq!(OBS.class_name("cold"), "GLACIER");
        assert!(OBS.class("WARM").is_some_and(|c| c.name == "STANDARD_IA" && !c.archive));
        assert!(XOS.class("GLACIER").is_some_and(|c| c.archive));
        assert!(AWS.class("GLACIER_IR").is_some_and(|c| !c.archive));
        // XOS counts bytes, the others characters.
        let key = "\u{6f22}".repeat(43);
        assert!(!XOS.tags.key_fits(&key) && AWS.tags.key_fits(&key));
        assert!(!OBS.tags.value_fits(&"v".repeat(44)) && !AWS.tags.key_fits(""));
    }
}

//! The settings of a bucket that have types of their own: lifecycle, CORS, versioning, tags.
//!
//! Difficulty: what a store keeps may hold members that these types do not have. They are views for reading and
//! building documents; a document that somebody else wrote is changed as JSON ([`Document::json`]).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::S3;
use super::documents::Document;
use crate::error::{Error, Kind, Result};

/// Most rules of a lifecycle.
pub const LIFECYCLE_RULES_MOST: usize = 1000;
/// What a CORS rule can allow.
pub const CORS_METHODS: [&str; 5] = ["GET", "PUT", "POST", "DELETE", "HEAD"];

/// Whether a bucket keeps versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versioning {
    /// It never has.
    #[default]
    Off,
    Enabled,
    /// It has; what is stored now gets the version id `null`.
    Suspended,
}

impl Versioning {
    /// `Off`, `Enabled`, `Suspended`.
    pub fn name(self) -> &'static str {
        match self {
            Versioning::Off => "Off",
            Versioning::Enabled => "Enabled",
            Versioning::Suspended => "Suspended",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Tag {
    pub key: String,
    pub value: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Lifecycle {
    pub rules: Vec<LifecycleRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LifecycleRule {
    #[serde(rename = "ID", skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The old form, beside `filter`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<LifecycleFilter>,
    /// `Enabled` or `Disabled`.
    pub status: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub transitions: Vec<Transition>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiration: Option<Expiration>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub noncurrent_version_transitions: Vec<NoncurrentTransition>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noncurrent_version_expiration: Option<NoncurrentExpiration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort_incomplete_multipart_upload: Option<AbortUploads>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LifecycleFilter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_size_greater_than: Option<u64>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_size_less_than: Option<u64>,
    /// More than one of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub and: Option<LifecycleAnd>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LifecycleAnd {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_size_greater_than: Option<u64>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_size_less_than: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Transition {
    /// ISO 8601, midnight UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// After the last change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub days: Option<u32>,
    pub storage_class: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Expiration {
    /// ISO 8601, midnight UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// After the last change; `None` is never, which some stores write as -1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub days: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expired_object_delete_marker: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NoncurrentTransition {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noncurrent_days: Option<u32>,
    pub storage_class: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newer_noncurrent_versions: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NoncurrentExpiration {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noncurrent_days: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newer_noncurrent_versions: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AbortUploads {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub days_after_initiation: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cors {
    #[serde(rename = "CORSRules")]
    pub rules: Vec<CorsRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CorsRule {
    #[serde(rename = "ID", skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `*`, or `http://domain:port`.
    pub allowed_origins: Vec<String>,
    /// Of [`CORS_METHODS`].
    pub allowed_methods: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_headers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expose_headers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age_seconds: Option<u32>,
}

impl Lifecycle {
    /// What a store would refuse, or worse, not refuse.
    ///
    /// Errors: [`Kind::Invalid`] naming the rule.
    pub fn check(&self) -> Result<()> {
        let bad = |at: usize, why: &str| Err(Error::new(Kind::Invalid, format!("lifecycle: rule {}: {why}", at + 1)));
        if self.rules.is_empty() {
            return Err(Error::new(Kind::Invalid, "lifecycle: no rules").with_fix("delete the lifecycle instead"));
        }
        if self.rules.len() > LIFECYCLE_RULES_MOST {
            return Err(Error::new(Kind::Invalid, "lifecycle: more than 1000 rules"));
        }
        for (at, rule) in self.rules.iter().enumerate() {
            if !matches!(rule.status.as_str(), "Enabled" | "Disabled") {
                return bad(at, "Status must be Enabled or Disabled");
            }
            if rule.id.as_ref().is_some_and(|id| id.chars().count() > 255) {
                return bad(at, "ID is longer than 255 characters");
            }
            if rule.id.is_some() && self.rules[..at].iter().any(|r| r.id == rule.id) {
                return bad(at, "another rule has this ID");
            }
            if rule.prefix.is_some() && rule.filter.is_some() {
                return bad(at, "Prefix and Filter exclude each other");
            }
            let acts = !rule.transitions.is_empty()
                || rule.expiration.is_some()
                || !rule.noncurrent_version_transitions.is_empty()
                || rule.noncurrent_version_expiration.is_some()
                || rule.abort_incomplete_multipart_upload.is_some();
            if !acts {
                return bad(at, "it does nothing: give an expiration, a transition or an abort of uploads");
            }
            if rule.expiration.as_ref().is_some_and(|e| e.days == Some(0)) {
                return bad(at, "Expiration.Days must be 1 or more");
            }
        }
        Ok(())
    }
}

impl Cors {
    /// Errors: [`Kind::Invalid`] naming the rule.
    pub fn check(&self) -> Result<()> {
        if self.rules.is_empty() {
            return Err(Error::new(Kind::Invalid, "CORS: no rules").with_fix("delete the CORS configuration instead"));
        }
        for (at, rule) in self.rules.iter().enumerate() {
            let bad = |why: String| Err(Error::new(Kind::Invalid, format!("CORS: rule {}: {why}", at + 1)));
            if rule.allowed_origins.is_empty() || rule.allowed_methods.is_empty() {
                return bad("AllowedOrigins and AllowedMethods must not be empty".into());
            }
            if let Some(method) = rule.allowed_methods.iter().find(|m| !CORS_METHODS.contains(&m.as_str())) {
                return bad(format!("{method:?} is none of {}", CORS_METHODS.join(", ")));
            }
        }
        Ok(())
    }
}

fn typed<T: for<'a> Deserialize<'a>>(document: Document, value: Value) -> Result<T> {
    let read = serde_json::from_value(value);
    read.map_err(|e| Error::new(Kind::Io, format!("read {} of bucket: {e}", document.name())))
}

fn written(document: Document, value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::new(Kind::Invalid, format!("{} document: {e}", document.name())))
}

impl S3 {
    /// Of any document: what is set, as JSON in the usual shapes; the policy as it is.
    ///
    /// Errors: as [`S3::bucket_document`].
    pub async fn bucket_json(&self, document: Document) -> Result<Value> {
        document.json(&self.bucket_document(document).await?)
    }

    /// Errors: [`Kind::NoAttribute`] when there is none.
    pub async fn lifecycle(&self) -> Result<Lifecycle> {
        typed(Document::Lifecycle, self.bucket_json(Document::Lifecycle).await?)
    }

    /// Replaces the lifecycle.
    ///
    /// Errors: those of [`Lifecycle::check`].
    pub async fn set_lifecycle(&self, lifecycle: &Lifecycle) -> Result<()> {
        lifecycle.check()?;
        self.set_bucket_document(Document::Lifecycle, &written(Document::Lifecycle, lifecycle)?).await
    }

    /// Errors: [`Kind::NoAttribute`] when there is none.
    pub async fn cors(&self) -> Result<Cors> {
        typed(Document::Cors, self.bucket_json(Document::Cors).await?)
    }

    /// Replaces the CORS configuration.
    ///
    /// Errors: those of [`Cors::check`].
    pub async fn set_cors(&self, cors: &Cors) -> Result<()> {
        cors.check()?;
        self.set_bucket_document(Document::Cors, &written(Document::Cors, cors)?).await
    }

    /// Errors: [`Kind::Denied`] for all but the owner on some stores.
    pub async fn versioning(&self) -> Result<Versioning> {
        let value = match self.bucket_json(Document::Versioning).await {
            Err(e) if e.kind() == Kind::NoAttribute => return Ok(Versioning::Off),
            value => value?,
        };
        Ok(match value.get("Status").and_then(Value::as_str) {
            Some("Enabled") => Versioning::Enabled,
            Some("Suspended") => Versioning::Suspended,
            _ => Versioning::Off,
        })
    }

    /// Errors: [`Kind::Invalid`] for [`Versioning::Off`]: what was switched on can only be suspended.
    pub async fn set_versioning(&self, versioning: Versioning) -> Result<()> {
        if versioning == Versioning::Off {
            return Err(Error::new(Kind::Invalid, "versioning cannot be taken back").with_fix("suspend it"));
        }
        let text = serde_json::json!({ "Status": versioning.name() }).to_string();
        self.set_bucket_document(Document::Versioning, &text).await
    }

    /// A bucket without tags has an empty list.
    pub async fn bucket_tags(&self) -> Result<Vec<(String, String)>> {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "PascalCase", default)]
        struct Tags {
            tag_set: Vec<Tag>,
        }
        let value = match self.bucket_json(Document::Tagging).await {
            Err(e) if e.kind() == Kind::NoAttribute => return Ok(Vec::new()),
            value => value?,
        };
        let tags: Tags = typed(Document::Tagging, value)?;
        Ok(tags.tag_set.into_iter().map(|t| (t.key, t.value)).collect())
    }

    /// Replaces the whole set; an empty one deletes it.
    pub async fn set_bucket_tags(&self, tags: &[(String, String)]) -> Result<()> {
        if tags.is_empty() {
            return self.delete_bucket_document(Document::Tagging).await;
        }
        let set: Vec<_> = tags.iter().map(|(k, v)| Tag { key: k.clone(), value: v.clone() }).collect();
        self.set_bucket_document(Document::Tagging, &serde_json::json!({ "TagSet": set }).to_string()).await
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule() -> LifecycleRule {
        LifecycleRule {
            id: Some("r".into()),
            status: "Enabled".into(),
            expiration: Some(Expiration { days: Some(3650), ..Expiration::default() }),
            ..LifecycleRule::default()
        }
    }

    fn there_and_back<T: Serialize + for<'a> Deserialize<'a>>(document: Document, value: &T) -> T {
        let body = document.body(&written(document, value).unwrap()).unwrap();
        typed(document, document.json(&body).unwrap()).unwrap()
    }

    fn any_tag() -> impl Strategy<Value = Tag> {
        ("[a-zé <&>]{1,9}", "[ -~]{0,9}").prop_map(|(key, value)| Tag { key, value })
    }

    fn any_filter() -> impl Strategy<Value = LifecycleFilter> {
        let and = (prop::option::of("[a-z/]{0,9}"), prop::collection::vec(any_tag(), 0..3));
        let and = and.prop_map(|(prefix, tags)| LifecycleAnd { prefix, tags, ..LifecycleAnd::default() });
        prop_oneof![
            "[a-z/]{0,9}".prop_map(|p| LifecycleFilter { prefix: Some(p), ..LifecycleFilter::default() }),
            any_tag().prop_map(|t| LifecycleFilter { tag: Some(t), ..LifecycleFilter::default() }),
            and.prop_map(|a| LifecycleFilter { and: Some(a), ..LifecycleFilter::default() }),
        ]
    }

    proptest! {
        #[test]
        fn a_lifecycle_goes_there_and_back(
            ids in prop::collection::vec(prop::option::of("[a-z]{1,9}"), 1..4),
            filter in prop::option::of(any_filter()),
            days in prop::option::of(1_u32..99_999),
            marker in prop::option::of(any::<bool>()),
            class in "[A-Z_]{1,12}",
        ) {
            let rules = ids.into_iter().map(|id| LifecycleRule {
                id,
                filter: filter.clone(),
                status: "Disabled".into(),
                transitions: vec![Transition { days, storage_class: class.clone(), date: None }],
                expiration: Some(Expiration { days, date: None, expired_object_delete_marker: marker }),
                noncurrent_version_expiration:
                    days.map(|d| NoncurrentExpiration { noncurrent_days: Some(d), ..Default::default() }),
                ..LifecycleRule::default()
            });
            let lifecycle = Lifecycle { rules: rules.collect() };
            prop_assert_eq!(there_and_back(Document::Lifecycle, &lifecycle), lifecycle);
        }
    }

    // XOS-LC-01, XOS-LC-04
    #[test]
    fn a_lifecycle_that_would_be_refused_is_not_sent() {
        let check = |rules: Vec<LifecycleRule>| Lifecycle { rules }.check().map_err(|e| e.to_string());
        assert_eq!(check(vec![rule()]), Ok(()));
        let with = |f: &dyn Fn(&mut LifecycleRule)| {
            let mut r = rule();
            f(&mut r);
            check(vec![r]).unwrap_err()
        };
        assert!(with(&|r| r.status = "enabled".into()).contains("Status"));
        assert!(with(&|r| r.expiration = None).contains("does nothing"));
        assert!(with(&|r| r.expiration = Some(Expiration { days: Some(0), ..Expiration::default() })).contains("Days"));
        assert!(check(vec![rule(), rule()]).unwrap_err().contains("rule 2"));
        assert!(check((0..1001).map(|i| LifecycleRule { id: Some(i.to_string()), ..rule() }).collect()).is_err());
        assert!(check(Vec::new()).is_err());
    }

    // XOS-COR-02
    #[test]
    fn cors_rules_are_checked_and_keep_their_fields() {
        let words = |w: &[&str]| w.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let rule = CorsRule {
            id: None,
            allowed_origins: words(&["*"]),
            allowed_methods: words(&["POST", "GET", "PUT", "DELETE", "HEAD"]),
            allowed_headers: words(&["*"]),
            expose_headers: words(&["ETag"]),
            max_age_seconds: Some(3600),
        };
        let cors = Cors { rules: vec![rule.clone()] };
        cors.check().unwrap();
        assert_eq!(there_and_back(Document::Cors, &cors), cors);
        let wrong = Cors { rules: vec![CorsRule { allowed_methods: words(&["PATCH"]), ..rule }] };
        assert!(wrong.check().unwrap_err().to_string().contains("PATCH"));
    }
}

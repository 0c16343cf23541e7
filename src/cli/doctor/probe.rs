//! The part of `xosfs doctor` that writes: each feature tried once on temporary objects, which are removed at the end.
//!
//! 1. A store may answer 200 and have done something else: what was asked for is looked at, not the status alone.
//! 2. What is not supported is no fault of the store, unless the mount relies on it.

use bytes::Bytes;

use super::{Findings, Verdict};
use crate::cli::store::Store;
use crate::error::{Error, Kind, Result};
use crate::key::{Key, Prefix};
use crate::s3::{AclChange, Condition, Directive, ETag, NewObject, Payload, S3, Source, Versioning};

/// Above the 5 MiB that parts have and that XOS wants of the source of a copied part.
const LARGE: usize = 6 << 20;

/// What no object here has.
const OTHER: &str = "00000000000000000000000000000000";

struct Probe<'a> {
    store: &'a Store,
    /// Ends in `/`.
    prefix: String,
    payload: Payload,
}

fn source(key: &Key) -> Source {
    Source { bucket: None, key: key.clone(), version: None, if_match: None }
}

/// Tries what a mount uses. Nothing stays.
pub(super) async fn writes(findings: &mut Findings, store: &Store, prefix: &Prefix) {
    let unique = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
    let prefix = format!("{prefix}.xosfs-doctor-{unique:016x}/");
    let probe = Probe { store, prefix, payload: Payload(vec![Bytes::from_static(b"xosfs")]) };
    let done = probe.all(findings).await;
    if let Err(e) = done {
        findings.failed("write", Verdict::Wrong, &e);
    }
    match probe.remove().await {
        Ok(0) => {}
        Ok(left) => {
            let fix = format!("xosfs rm -r s3://{}/{}", store.s3.bucket(), probe.prefix);
            findings.wrong("clean up", format!("{left} temporary objects are left"), &fix);
        }
        Err(e) => findings.failed("clean up", Verdict::Wrong, &e),
    }
}

impl Probe<'_> {
    fn key(&self, name: &str) -> Result<Key> {
        Key::new(format!("{}{name}", self.prefix))
    }

    async fn all(&self, findings: &mut Findings) -> Result<()> {
        let s3 = &self.store.s3;
        let one = self.key("one")?;
        let mut object = NewObject::default();
        object.headers.content_type = Some("text/x-doctor".into());
        object.headers.metadata.insert("doctor".into(), "ü".into());
        s3.put(&one, self.payload.clone(), &object, &Condition::None).await?;
        findings.ok("write", "a small object");
        let meta = s3.head(&one, None).await?;
        let kept = meta.headers.metadata.get("doctor").is_some_and(|v| v == "ü");
        match kept && meta.headers.content_type.as_deref() == Some("text/x-doctor") {
            true => findings.ok("metadata", "is kept"),
            false => findings.wrong("metadata", "the store lost it", "mount with attrs=ignore"),
        }
        self.reads(findings, &one, meta.etag).await;
        self.conditions(findings, &one).await?;
        self.feature(findings, "copy", Verdict::Wrong, self.copy(&one).await);
        self.feature(findings, "parts", Verdict::Wrong, self.parts().await);
        if self.store.provider.part_copy {
            self.feature(findings, "part copy", Verdict::Wrong, self.part_copy().await);
        }
        self.feature(findings, "set tags", Verdict::Note, self.tags(&one).await);
        let acl = s3.set_object_acl(&one, None, &AclChange::Canned("private".into())).await;
        self.feature(findings, "set acl", Verdict::Note, acl);
        let batch = s3.delete_many(&[self.key("copy")?, self.key("large")?]).await;
        let batch = batch.and_then(|failed| failed.into_iter().next().map_or(Ok(()), |(_, e)| Err(e)));
        self.feature(findings, "delete", Verdict::Wrong, batch);
        Ok(())
    }

    fn feature(&self, findings: &mut Findings, name: &'static str, verdict: Verdict, result: Result<()>) {
        match result {
            Ok(()) => findings.ok(name, "works"),
            Err(e) => findings.failed(name, verdict, &e),
        }
    }

    /// What every read of a mount relies on: a part of an object, and no other version than the one meant.
    async fn reads(&self, findings: &mut Findings, key: &Key, etag: ETag) {
        let s3 = &self.store.s3;
        let part = async { s3.get(key, Some(1..3), Some(&etag), None).await?.body.collect().await };
        match part.await {
            Ok(bytes) if bytes[..] == *b"os" => findings.ok("range", "a part of an object"),
            Ok(bytes) => findings.wrong("range", format!("{} other bytes came than were asked for", bytes.len()), ""),
            Err(e) => findings.failed("range", Verdict::Wrong, &e),
        }
        match s3.get(key, Some(1..3), Some(&ETag::new(OTHER)), None).await {
            Err(e) if e.kind() == Kind::Stale => {
                findings.ok("version", "another version is not taken for the one meant")
            }
            Err(e) => findings.failed("version", Verdict::Wrong, &e),
            Ok(_) => findings.wrong(
                "version",
                "the store ignores If-Match: an object that changes while it is read comes out mixed",
                "mount only what nobody changes, or have the store updated",
            ),
        }
    }

    /// Whether a condition on a write is kept to, refused, or ignored, which is the dangerous one.
    async fn conditions(&self, findings: &mut Findings, there: &Key) -> Result<()> {
        let (s3, provider) = (&self.store.s3, self.store.provider);
        let asked_first = (s3.is_ceph() || !provider.conditional_put_versions)
            && s3.versioning().await.is_ok_and(|v| v != Versioning::Off);
        let relied_on = provider.conditional_put && !asked_first;
        let other = Condition::Match(ETag::new(OTHER));
        for (name, condition) in [("if absent", Condition::Absent), ("if match", other)] {
            match s3.put(there, self.payload.clone(), &NewObject::default(), &condition).await {
                Err(e) if matches!(e.kind(), Kind::Exists | Kind::Conflict) && relied_on => {
                    findings.ok(name, "is kept to")
                }
                Err(e) if matches!(e.kind(), Kind::Exists | Kind::Conflict) => {
                    findings.ok(name, "is kept to, but the mount asks before each write instead (see `provider`)");
                }
                Err(e) if e.kind() == Kind::Unsupported => {
                    findings.ok(name, "is refused; the mount asks before instead")
                }
                Err(e) => findings.failed(name, Verdict::Note, &e),
                Ok(_) if relied_on => findings.wrong(
                    name,
                    "the store ignores the condition: two machines that create one file do not notice each other",
                    "set `provider` to what it is (h3c for an old Ceph): the mount then asks before it writes",
                ),
                Ok(_) => findings.ok(name, "is ignored; the mount asks before instead"),
            }
        }
        Ok(())
    }

    async fn copy(&self, from: &Key) -> Result<()> {
        let s3 = &self.store.s3;
        let to = self.key("copy")?;
        let keep = Directive::Keep { storage_class: None, acl: None };
        s3.copy(&source(from), &to, &keep, &Condition::None).await?;
        expect_size(s3, &to, self.payload.len()).await
    }

    /// An object in two parts, which the next check copies from.
    async fn parts(&self) -> Result<()> {
        let s3 = &self.store.s3;
        let key = self.key("large")?;
        let upload = s3.create_upload(&key, &NewObject::default()).await?;
        let made = async {
            let large = Payload(vec![Bytes::from(vec![0; LARGE])]);
            let first = s3.upload_part(&key, &upload, 1, large).await?;
            let second = s3.upload_part(&key, &upload, 2, self.payload.clone()).await?;
            s3.complete_upload(&key, &upload, &[first, second], &Condition::None).await
        };
        self.ended(&key, &upload, made.await.map(drop)).await?;
        expect_size(s3, &key, LARGE as u64 + self.payload.len()).await
    }

    async fn part_copy(&self) -> Result<()> {
        let s3 = &self.store.s3;
        let (from, key) = (self.key("large")?, self.key("copied")?);
        let upload = s3.create_upload(&key, &NewObject::default()).await?;
        let size = LARGE as u64;
        let made = async {
            let first = s3.copy_part(&key, &upload, 1, &source(&from), Some(0..size), size).await?;
            let second = s3.upload_part(&key, &upload, 2, self.payload.clone()).await?;
            s3.complete_upload(&key, &upload, &[first, second], &Condition::None).await
        };
        self.ended(&key, &upload, made.await.map(drop)).await?;
        expect_size(s3, &key, size + self.payload.len()).await
    }

    /// Aborts what did not come to its end.
    async fn ended(&self, key: &Key, upload: &str, result: Result<()>) -> Result<()> {
        if result.is_err() {
            let _ = self.store.s3.abort_upload(key, upload).await;
        }
        result
    }

    async fn tags(&self, key: &Key) -> Result<()> {
        let s3 = &self.store.s3;
        let tags = [("doctor".to_owned(), "a b".to_owned())];
        s3.set_tags(key, None, &tags).await?;
        match s3.tags(key, None).await? == tags {
            true => Ok(()),
            false => Err(Error::new(Kind::Io, "the store changed the tags")),
        }
    }

    /// Deletes everything below the prefix, versions too; how many objects are left.
    async fn remove(&self) -> Result<usize> {
        let s3 = &self.store.s3;
        let mut left = 0;
        let kept = !matches!(s3.versioning().await, Ok(Versioning::Off) | Err(_));
        for name in ["one", "copy", "large", "copied"] {
            let key = self.key(name)?;
            if kept {
                for version in s3.versions_of(&key).await? {
                    left += usize::from(s3.delete_version(&key, &version.version).await.is_err());
                }
            } else {
                left += usize::from(s3.delete(&key, None).await.is_err());
            }
        }
        Ok(left)
    }
}

async fn expect_size(s3: &S3, key: &Key, size: u64) -> Result<()> {
    match s3.head(key, None).await?.size {
        found if found == size => Ok(()),
        found => Err(Error::new(Kind::Io, format!("{found} bytes are stored, {size} were sent")).with_key(key)),
    }
}

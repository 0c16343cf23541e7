//! ACLs and tags of objects.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::acl::{Acl, GrantHeaders, Right, object_grants};
use super::service::{Service, ok, shown_version};
use super::store::Version;

const MAX_TAGS: usize = 10;
const MAX_BUCKET_TAGS: usize = 50;
/// Characters of a tag's key and value.
const MAX_TAG_KEY: usize = 128;
const MAX_TAG_VALUE: usize = 256;

fn check_tags(tags: Vec<(String, String)>, max: usize) -> S3Result<Vec<(String, String)>> {
    if tags.len() > max {
        return Err(s3_error!(InvalidTag, "Object tags cannot be greater than {max}"));
    }
    for (at, (key, value)) in tags.iter().enumerate() {
        if key.is_empty() || key.chars().count() > MAX_TAG_KEY {
            return Err(s3_error!(InvalidTag, "The TagKey you have provided is invalid"));
        }
        if value.chars().count() > MAX_TAG_VALUE {
            return Err(s3_error!(InvalidTag, "The TagValue you have provided is invalid"));
        }
        if tags[..at].iter().any(|(k, _)| k == key) {
            return Err(s3_error!(InvalidTag, "Cannot provide multiple Tags with the same key"));
        }
    }
    Ok(tags)
}

/// `x-amz-tagging`: a query string.
pub(super) fn parse_tags(text: &str) -> S3Result<Vec<(String, String)>> {
    check_tags(url::form_urlencoded::parse(text.as_bytes()).into_owned().collect(), MAX_TAGS)
}

fn tags_of(set: Vec<Tag>, max: usize) -> S3Result<Vec<(String, String)>> {
    let pairs = set.into_iter().map(|t| (t.key.unwrap_or_default(), t.value.unwrap_or_default()));
    check_tags(pairs.collect(), max)
}

fn tag_set(tags: &[(String, String)]) -> Vec<Tag> {
    tags.iter().map(|(k, v)| Tag { key: Some(k.clone()), value: Some(v.clone()) }).collect()
}

impl Service {
    pub(super) async fn get_object_acl(
        &self,
        req: S3Request<GetObjectAclInput>,
    ) -> S3Result<S3Response<GetObjectAclOutput>> {
        let who = self.who(&req.credentials);
        let i = req.input;
        let (v, _) = self.find(&i.bucket, &i.key, i.version_id.as_deref(), who.as_deref(), Right::ReadAcp)?;
        let (owner, grants) = (Some(v.acl.owner_dto()), Some(v.acl.grants_dto()));
        ok(GetObjectAclOutput { owner, grants, ..Default::default() })
    }

    pub(super) async fn put_object_acl(
        &self,
        req: S3Request<PutObjectAclInput>,
    ) -> S3Result<S3Response<PutObjectAclOutput>> {
        let who = self.who(&req.credentials);
        let i = req.input;
        let id = i.version_id.as_deref();
        let (v, _) = self.find(&i.bucket, &i.key, id, who.as_deref(), Right::WriteAcp)?;
        let bucket_owner = self.0.store.with_bucket(&i.bucket, |b| Ok(b.info.acl.owner.clone()))?;
        let grants = GrantHeaders { write: i.grant_write.as_deref(), ..object_grants!(i) };
        let acl = change_acl(
            i.acl.as_ref().map(|a| a.as_str()),
            &grants,
            i.access_control_policy,
            &v.acl.owner,
            Some(&bucket_owner),
            &self.0.users,
        )?;
        self.edit(&i.bucket, &i.key, id, |v| v.acl = acl)?;
        ok(PutObjectAclOutput::default())
    }

    fn edit(
        &self,
        bucket: &str,
        key: &str,
        id: Option<&str>,
        f: impl FnOnce(&mut Version),
    ) -> S3Result<Option<String>> {
        self.0.store.with_bucket_mut(bucket, |b| {
            let versioning = b.info.versioning;
            let v = self.0.store.edit_version(b, key, id, |v| {
                f(v);
                Ok(())
            })?;
            Ok(shown_version(versioning, &v.id))
        })
    }

    pub(super) async fn get_object_tagging(
        &self,
        req: S3Request<GetObjectTaggingInput>,
    ) -> S3Result<S3Response<GetObjectTaggingOutput>> {
        let who = self.who(&req.credentials);
        let i = req.input;
        let (v, versioning) = self.find(&i.bucket, &i.key, i.version_id.as_deref(), who.as_deref(), Right::Read)?;
        let tag_set = tag_set(&v.attributes.tags);
        ok(GetObjectTaggingOutput { tag_set, version_id: shown_version(versioning, &v.id) })
    }

    pub(super) async fn put_object_tagging(
        &self,
        req: S3Request<PutObjectTaggingInput>,
    ) -> S3Result<S3Response<PutObjectTaggingOutput>> {
        let who = self.who(&req.credentials);
        let i = req.input;
        let id = i.version_id.as_deref();
        let tags = tags_of(i.tagging.tag_set, MAX_TAGS)?;
        // No ACL right covers tags: they are the owner's.
        self.find(&i.bucket, &i.key, id, who.as_deref(), Right::WriteAcp)?;
        let version_id = self.edit(&i.bucket, &i.key, id, |v| v.attributes.tags = tags)?;
        ok(PutObjectTaggingOutput { version_id })
    }

    pub(super) async fn delete_object_tagging(
        &self,
        req: S3Request<DeleteObjectTaggingInput>,
    ) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
        let who = self.who(&req.credentials);
        let i = req.input;
        let id = i.version_id.as_deref();
        self.find(&i.bucket, &i.key, id, who.as_deref(), Right::WriteAcp)?;
        let version_id = self.edit(&i.bucket, &i.key, id, |v| v.attributes.tags.clear())?;
        ok(DeleteObjectTaggingOutput { version_id })
    }

    pub(super) async fn get_bucket_tagging(
        &self,
        req: S3Request<GetBucketTaggingInput>,
    ) -> S3Result<S3Response<GetBucketTaggingOutput>> {
        let who = self.who(&req.credentials);
        let tags = self.owned(&req.input.bucket, who.as_deref(), |b| Ok(b.info.tags.clone()))?;
        if tags.is_empty() {
            return Err(s3_error!(NoSuchTagSet, "The TagSet does not exist"));
        }
        ok(GetBucketTaggingOutput { tag_set: tag_set(&tags) })
    }

    pub(super) async fn put_bucket_tagging(
        &self,
        req: S3Request<PutBucketTaggingInput>,
    ) -> S3Result<S3Response<PutBucketTaggingOutput>> {
        let who = self.who(&req.credentials);
        let i = req.input;
        let tags = tags_of(i.tagging.tag_set, MAX_BUCKET_TAGS)?;
        self.configure(&i.bucket, who.as_deref(), |info| info.tags = tags)?;
        ok(PutBucketTaggingOutput::default())
    }

    pub(super) async fn delete_bucket_tagging(
        &self,
        req: S3Request<DeleteBucketTaggingInput>,
    ) -> S3Result<S3Response<DeleteBucketTaggingOutput>> {
        let who = self.who(&req.credentials);
        self.configure(&req.input.bucket, who.as_deref(), |info| info.tags.clear())?;
        ok(DeleteBucketTaggingOutput::default())
    }
}

/// The ACL a Put…Acl request asks for: one of canned name, headers or document.
pub(super) fn change_acl(
    canned: Option<&str>,
    grants: &GrantHeaders<'_>,
    policy: Option<AccessControlPolicy>,
    owner: &str,
    bucket_owner: Option<&str>,
    users: &super::acl::Users,
) -> S3Result<Acl> {
    let by_header = canned.is_some() || grants.any();
    match policy {
        Some(_) if by_header => Err(s3_error!(UnexpectedContent, "This request does not support content")),
        Some(policy) => Acl::of_policy(policy, owner, users),
        None if by_header => Acl::of_headers(canned, grants, owner, bucket_owner, users),
        None => Err(s3_error!(MissingSecurityHeader, "Your request was missing a required header")),
    }
}

//! Buckets and their configuration.

use s3s::dto::*;
use s3s::xml::{Deserialize, Deserializer, Serialize, Serializer};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use super::acl::{Acl, GrantHeaders, Right, display_name, object_grants};
use super::attribute::change_acl;
use super::service::{Service, denied, ok};
use super::store::{BucketInfo, Versioning, timestamp};

fn to_xml(value: &impl Serialize) -> S3Result<String> {
    let mut out = Vec::new();
    value.serialize(&mut Serializer::new(&mut out)).map_err(S3Error::internal_error)?;
    String::from_utf8(out).map_err(S3Error::internal_error)
}

fn from_xml<T: for<'a> Deserialize<'a>>(text: &str) -> S3Result<T> {
    let mut d = Deserializer::new(text.as_bytes());
    T::deserialize(&mut d).map_err(S3Error::internal_error)
}

/// Whether a text has the form of a policy. What it means is of no interest here.
fn is_policy(text: &str) -> bool {
    let Ok(policy) = serde_json::from_str::<serde_json::Value>(text) else { return false };
    let effect = |s: &serde_json::Value| matches!(s.get("Effect").and_then(|e| e.as_str()), Some("Allow" | "Deny"));
    match policy.get("Statement") {
        Some(serde_json::Value::Array(all)) => all.iter().all(effect),
        Some(one) => effect(one),
        None => false,
    }
}

impl Service {
    /// Changes the configuration of a bucket that belongs to `who`.
    pub(super) fn configure(&self, name: &str, who: Option<&str>, f: impl FnOnce(&mut BucketInfo)) -> S3Result<()> {
        self.owned(name, who, |_| Ok(()))?;
        self.0.store.edit_bucket(name, |info| {
            f(info);
            Ok(())
        })
    }

    pub(super) fn document(&self, name: &str, who: Option<&str>, kind: &str) -> S3Result<Option<String>> {
        self.owned(name, who, |b| Ok(b.info.documents.get(kind).cloned()))
    }

    pub(super) fn set_document(&self, name: &str, who: Option<&str>, kind: &str, text: Option<String>) -> S3Result<()> {
        self.configure(name, who, |info| {
            match text {
                Some(text) => info.documents.insert(kind.to_owned(), text),
                None => info.documents.remove(kind),
            };
        })
    }

    pub(super) async fn list_buckets(
        &self,
        req: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let who = self.who(&req.credentials).ok_or_else(denied)?;
        let prefix = req.input.prefix.unwrap_or_default();
        let buckets = self.0.store.buckets.read();
        let buckets = buckets
            .values()
            .filter(|b| b.info.acl.owner == who && b.info.name.starts_with(&prefix))
            .map(|b| Bucket {
                bucket_region: b.info.region.clone(),
                creation_date: Some(timestamp(b.info.created)),
                name: Some(b.info.name.clone()),
            })
            .collect();
        ok(ListBucketsOutput {
            buckets: Some(buckets),
            owner: Some(Owner { display_name: Some(display_name(&who)), id: Some(who) }),
            ..Default::default()
        })
    }

    pub(super) async fn create_bucket(
        &self,
        req: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        let who = self.who(&req.credentials).ok_or_else(denied)?;
        let i = req.input;
        let grants = GrantHeaders { write: i.grant_write.as_deref(), ..object_grants!(i) };
        let acl = Acl::of_headers(i.acl.as_ref().map(|a| a.as_str()), &grants, &who, None, &self.0.users)?;
        let region = i.create_bucket_configuration.and_then(|c| c.location_constraint);
        let region = region.map(|r| r.as_str().to_owned()).filter(|r| !r.is_empty());
        self.0.store.add_bucket(&i.bucket, acl, region)?;
        ok(CreateBucketOutput { location: Some(format!("/{}", i.bucket)) })
    }

    pub(super) async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        let who = self.who(&req.credentials);
        let region = self.bucket(&req.input.bucket, who.as_deref(), Right::Read, |b| Ok(b.info.region.clone()))?;
        let bucket_region = Some(region.unwrap_or_else(|| "us-east-1".to_owned()));
        ok(HeadBucketOutput { bucket_region, ..Default::default() })
    }

    pub(super) async fn delete_bucket(
        &self,
        req: S3Request<DeleteBucketInput>,
    ) -> S3Result<S3Response<DeleteBucketOutput>> {
        let who = self.who(&req.credentials);
        self.owned(&req.input.bucket, who.as_deref(), |_| Ok(()))?;
        self.0.store.remove_bucket(&req.input.bucket)?;
        ok(DeleteBucketOutput::default())
    }

    pub(super) async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        let who = self.who(&req.credentials);
        let region = self.owned(&req.input.bucket, who.as_deref(), |b| Ok(b.info.region.clone()))?;
        // us-east-1 is an empty element.
        let location_constraint = region.filter(|r| r != "us-east-1").map(Into::into);
        ok(GetBucketLocationOutput { location_constraint })
    }

    pub(super) async fn get_bucket_acl(
        &self,
        req: S3Request<GetBucketAclInput>,
    ) -> S3Result<S3Response<GetBucketAclOutput>> {
        let who = self.who(&req.credentials);
        let acl = self.bucket(&req.input.bucket, who.as_deref(), Right::ReadAcp, |b| Ok(b.info.acl.clone()))?;
        ok(GetBucketAclOutput { grants: Some(acl.grants_dto()), owner: Some(acl.owner_dto()) })
    }

    pub(super) async fn put_bucket_acl(
        &self,
        req: S3Request<PutBucketAclInput>,
    ) -> S3Result<S3Response<PutBucketAclOutput>> {
        let who = self.who(&req.credentials);
        let i = req.input;
        let owner = self.bucket(&i.bucket, who.as_deref(), Right::WriteAcp, |b| Ok(b.info.acl.owner.clone()))?;
        let grants = GrantHeaders { write: i.grant_write.as_deref(), ..object_grants!(i) };
        let canned = i.acl.as_ref().map(|a| a.as_str());
        let acl = change_acl(canned, &grants, i.access_control_policy, &owner, None, &self.0.users)?;
        self.0.store.edit_bucket(&i.bucket, |info| {
            info.acl = acl;
            Ok(())
        })?;
        ok(PutBucketAclOutput::default())
    }

    pub(super) async fn get_bucket_versioning(
        &self,
        req: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        let who = self.who(&req.credentials);
        let versioning = self.owned(&req.input.bucket, who.as_deref(), |b| Ok(b.info.versioning))?;
        let status = match versioning {
            Versioning::Never => None,
            Versioning::Enabled => Some(BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED)),
            Versioning::Suspended => Some(BucketVersioningStatus::from_static(BucketVersioningStatus::SUSPENDED)),
        };
        ok(GetBucketVersioningOutput { status, ..Default::default() })
    }

    pub(super) async fn put_bucket_versioning(
        &self,
        req: S3Request<PutBucketVersioningInput>,
    ) -> S3Result<S3Response<PutBucketVersioningOutput>> {
        let who = self.who(&req.credentials);
        let i = req.input;
        let versioning = match i.versioning_configuration.status.as_ref().map(|s| s.as_str()) {
            Some(BucketVersioningStatus::ENABLED) => Versioning::Enabled,
            Some(BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
            _ => return Err(s3_error!(MalformedXML, "The versioning status must be Enabled or Suspended")),
        };
        self.configure(&i.bucket, who.as_deref(), |info| info.versioning = versioning)?;
        ok(PutBucketVersioningOutput::default())
    }

    pub(super) async fn get_bucket_policy(
        &self,
        req: S3Request<GetBucketPolicyInput>,
    ) -> S3Result<S3Response<GetBucketPolicyOutput>> {
        let who = self.who(&req.credentials);
        match self.document(&req.input.bucket, who.as_deref(), "policy")? {
            Some(policy) => ok(GetBucketPolicyOutput { policy: Some(policy) }),
            None => Err(s3_error!(NoSuchBucketPolicy, "The bucket policy does not exist")),
        }
    }

    pub(super) async fn put_bucket_policy(
        &self,
        req: S3Request<PutBucketPolicyInput>,
    ) -> S3Result<S3Response<PutBucketPolicyOutput>> {
        let who = self.who(&req.credentials);
        let i = req.input;
        if !is_policy(&i.policy) {
            return Err(s3_error!(MalformedPolicy, "Policies must be valid JSON with statements that allow or deny"));
        }
        self.set_document(&i.bucket, who.as_deref(), "policy", Some(i.policy))?;
        ok(PutBucketPolicyOutput::default())
    }

    pub(super) async fn delete_bucket_policy(
        &self,
        req: S3Request<DeleteBucketPolicyInput>,
    ) -> S3Result<S3Response<DeleteBucketPolicyOutput>> {
        let who = self.who(&req.credentials);
        self.set_document(&req.input.bucket, who.as_deref(), "policy", None)?;
        ok(DeleteBucketPolicyOutput::default())
    }

    pub(super) async fn get_bucket_lifecycle_configuration(
        &self,
        req: S3Request<GetBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
        let who = self.who(&req.credentials);
        let Some(text) = self.document(&req.input.bucket, who.as_deref(), "lifecycle")? else {
            return Err(s3_error!(NoSuchLifecycleConfiguration, "The lifecycle configuration does not exist"));
        };
        let rules = from_xml::<BucketLifecycleConfiguration>(&text)?.rules;
        ok(GetBucketLifecycleConfigurationOutput { rules: Some(rules), ..Default::default() })
    }

    pub(super) async fn put_bucket_lifecycle_configuration(
        &self,
        req: S3Request<PutBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<PutBucketLifecycleConfigurationOutput>> {
        let who = self.who(&req.credentials);
        let i = req.input;
        let document = i.lifecycle_configuration.as_ref();
        let text = to_xml(document.ok_or_else(|| s3_error!(MalformedXML, "A lifecycle needs rules"))?)?;
        self.set_document(&i.bucket, who.as_deref(), "lifecycle", Some(text))?;
        ok(PutBucketLifecycleConfigurationOutput::default())
    }

    pub(super) async fn delete_bucket_lifecycle(
        &self,
        req: S3Request<DeleteBucketLifecycleInput>,
    ) -> S3Result<S3Response<DeleteBucketLifecycleOutput>> {
        let who = self.who(&req.credentials);
        self.set_document(&req.input.bucket, who.as_deref(), "lifecycle", None)?;
        ok(DeleteBucketLifecycleOutput::default())
    }

    pub(super) async fn get_bucket_cors(
        &self,
        req: S3Request<GetBucketCorsInput>,
    ) -> S3Result<S3Response<GetBucketCorsOutput>> {
        let who = self.who(&req.credentials);
        let Some(text) = self.document(&req.input.bucket, who.as_deref(), "cors")? else {
            return Err(s3_error!(NoSuchCORSConfiguration, "The CORS configuration does not exist"));
        };
        ok(GetBucketCorsOutput { cors_rules: Some(from_xml::<CORSConfiguration>(&text)?.cors_rules) })
    }

    pub(super) async fn put_bucket_cors(
        &self,
        req: S3Request<PutBucketCorsInput>,
    ) -> S3Result<S3Response<PutBucketCorsOutput>> {
        let who = self.who(&req.credentials);
        let i = req.input;
        let text = to_xml(&i.cors_configuration)?;
        self.set_document(&i.bucket, who.as_deref(), "cors", Some(text))?;
        ok(PutBucketCorsOutput::default())
    }

    pub(super) async fn delete_bucket_cors(
        &self,
        req: S3Request<DeleteBucketCorsInput>,
    ) -> S3Result<S3Response<DeleteBucketCorsOutput>> {
        let who = self.who(&req.credentials);
        self.set_document(&req.input.bucket, who.as_deref(), "cors", None)?;
        ok(DeleteBucketCorsOutput::default())
    }
}

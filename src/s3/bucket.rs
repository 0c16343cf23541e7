//! Buckets: does it exist, where is it, which ones are there.

use rusty_s3::Method;

use super::operation::Op;
use super::request::Action;
use super::types::BucketInfo;
use super::{S3, xml};
use crate::error::{Error, Kind, Result};

impl S3 {
    /// Whether the bucket exists and may be used. Errors: [`Kind::NoBucket`], [`Kind::Denied`], and those of a wrong
    /// endpoint or region, each with its repair.
    pub async fn head_bucket(&self) -> Result<()> {
        self.fetch(&Action::new(Op::HeadBucket, Method::Head, "")).await.map(|_| ())
    }

    /// `region`: the location constraint; `None` is the endpoint's own, which on AWS is the region of the settings.
    ///
    /// Errors: [`Kind::Exists`].
    pub async fn create_bucket(&self, region: Option<&str>, acl: Option<&str>) -> Result<()> {
        let own = self.region();
        let region = region.or_else(|| self.shared().settings.endpoint.is_none().then_some(own.as_str()));
        let mut action = Action::new(Op::CreateBucket, Method::Put, "");
        if let Some(acl) = acl {
            action = action.header("x-amz-acl", acl);
        }
        // The oldest region is named by saying nothing.
        if let Some(region) = region.filter(|r| !r.is_empty() && *r != "us-east-1") {
            let mut body =
                String::from("<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
            xml::element("LocationConstraint", region, &mut body);
            body.push_str("</CreateBucketConfiguration>");
            action = action.document(body);
        }
        match self.fetch(&action).await {
            // Made by an attempt whose answer got lost.
            Err(e) if action.was_uncertain() && e.code() == "BucketAlreadyOwnedByYou" => Ok(()),
            Err(e) if e.kind() == Kind::Busy => Err(e.with_kind(Kind::Exists)),
            result => result.map(|_| ()),
        }
    }

    /// Errors: [`Kind::NotEmpty`], [`Kind::NoBucket`].
    pub async fn delete_bucket(&self) -> Result<()> {
        let action = Action::new(Op::DeleteBucket, Method::Delete, "");
        match self.fetch(&action).await {
            Err(e) if action.was_uncertain() && e.kind() == Kind::NoBucket => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// The caller's buckets.
    pub async fn list_buckets(&self) -> Result<Vec<BucketInfo>> {
        let mut action = Action::new(Op::ListBuckets, Method::Get, "");
        action.in_bucket = false;
        let document = self.fetch(&action).await?.document(Op::ListBuckets)?;
        let Some(list) = document.find("Buckets") else { return Ok(Vec::new()) };
        let info = |b: &xml::Node| BucketInfo {
            name: b.text_of("Name").to_owned(),
            created: xml::time(b.text_of("CreationDate")),
        };
        Ok(list.all("Bucket").map(info).filter(|b| !b.name.is_empty()).collect())
    }

    /// The region the bucket lives in.
    pub async fn location(&self) -> Result<String> {
        let action = Action::new(Op::GetBucketLocation, Method::Get, "").query("location", "");
        let document = self.fetch(&action).await?.document(Op::GetBucketLocation)?;
        let node = document.find("LocationConstraint").or_else(|| document.find("Location"));
        let Some(node) = node else {
            return Err(Error::new(Kind::Io, "get bucket location: answer without a location"));
        };
        Ok(match node.text.trim() {
            "" => "us-east-1".into(),
            "EU" => "eu-west-1".into(),
            region => region.into(),
        })
    }
}

//! Tags of an object.

use rusty_s3::Method;

use super::operation::Op;
use super::request::Action;
use super::{S3, xml};
use crate::error::{Kind, Result};
use crate::key::Key;

impl S3 {
    /// An object without tags has an empty list.
    pub async fn tags(&self, key: &Key, version: Option<&str>) -> Result<Vec<(String, String)>> {
        let action = Action::new(Op::GetObjectTagging, Method::Get, key.as_str()).query("tagging", "").version(version);
        let answer = match self.fetch(&action).await {
            Ok(answer) => answer,
            Err(error) if error.kind() == Kind::NoAttribute => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let document = answer.document(Op::GetObjectTagging)?;
        let Some(set) = document.find("TagSet") else { return Ok(Vec::new()) };
        Ok(set.all("Tag").map(|t| (t.text_of("Key").to_owned(), t.text_of("Value").to_owned())).collect())
    }

    /// Replaces the whole set.
    pub async fn set_tags(&self, key: &Key, version: Option<&str>, tags: &[(String, String)]) -> Result<()> {
        let mut body = String::from("<Tagging xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><TagSet>");
        for (name, value) in tags {
            body.push_str("<Tag>");
            xml::element("Key", name, &mut body);
            xml::element("Value", value, &mut body);
            body.push_str("</Tag>");
        }
        body.push_str("</TagSet></Tagging>");
        let action = Action::new(Op::PutObjectTagging, Method::Put, key.as_str())
            .query("tagging", "")
            .version(version)
            .document(body);
        self.fetch(&action).await.map(|_| ())
    }

    pub async fn delete_tags(&self, key: &Key, version: Option<&str>) -> Result<()> {
        let action =
            Action::new(Op::DeleteObjectTagging, Method::Delete, key.as_str()).query("tagging", "").version(version);
        self.fetch(&action).await.map(|_| ())
    }
}

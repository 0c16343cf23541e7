//! Tags of an object.

use std::sync::atomic::{AtomicU8, Ordering};

use rusty_s3::Method;

use super::operation::Op;
use super::request::Action;
use super::{S3, xml};
use crate::error::{Kind, Result};
use crate::key::Key;

/// Whether the store keeps the tags that an object is made with.
const KEEPS: u8 = 1;
const DROPS: u8 = 2;

impl S3 {
    /// An object without tags has an empty list.
    pub async fn tags(&self, key: &Key, version: Option<&str>) -> Result<Vec<(String, String)>> {
        let action = Action::new(Op::GetObjectTagging, Method::Get, key.as_str()).query("tagging", "").version(version);
        let answer = match self.fetch(&action).await {
            Ok(answer) => answer,
            Err(error) if error.kind() == Kind::NoAttribute => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        // Ceph's gateway, for an object that was uploaded in parts.
        if answer.body.trim_ascii().is_empty() {
            return Ok(Vec::new());
        }
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

    /// Some stores drop the tags that a multipart upload was begun with (Ceph 16): sets them again where that is so.
    /// The first time one request finds out; later ones know.
    pub async fn settle_uploaded_tags(&self, key: &Key, tags: &[(String, String)]) -> Result<()> {
        self.settle_tags(key, tags, &self.learned().upload_tags).await
    }

    /// The same for tags sent with a copy.
    pub async fn settle_copied_tags(&self, key: &Key, tags: &[(String, String)]) -> Result<()> {
        self.settle_tags(key, tags, &self.learned().copy_tags).await
    }

    async fn settle_tags(&self, key: &Key, tags: &[(String, String)], learned: &AtomicU8) -> Result<()> {
        if tags.is_empty() {
            return Ok(());
        }
        match learned.load(Ordering::Relaxed) {
            KEEPS => return Ok(()),
            DROPS => {}
            _ => {
                let mut there = self.tags(key, None).await?;
                let mut meant = tags.to_vec();
                there.sort();
                meant.sort();
                if there == meant {
                    learned.store(KEEPS, Ordering::Relaxed);
                    return Ok(());
                }
                // Not all of them: somebody may have changed them in between, which says nothing of the store.
                if there.is_empty() {
                    learned.store(DROPS, Ordering::Relaxed);
                }
            }
        }
        self.set_tags(key, None, tags).await
    }

    pub async fn delete_tags(&self, key: &Key, version: Option<&str>) -> Result<()> {
        let action =
            Action::new(Op::DeleteObjectTagging, Method::Delete, key.as_str()).query("tagging", "").version(version);
        self.fetch(&action).await.map(|_| ())
    }
}

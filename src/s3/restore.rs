//! Restoring archived objects.

use rusty_s3::Method;

use super::S3;
use super::operation::Op;
use super::request::Action;
use crate::error::Result;
use crate::key::Key;

impl S3 {
    /// Asks for a readable copy of an archived object, to be kept for `days`. It is there minutes or hours later:
    /// [`super::ObjectMeta::restore`] tells. `tier`: how fast; `None` is the store's default.
    ///
    /// Errors: [`crate::Kind::InProgress`] while one is under way, [`crate::Kind::Archived`] when the object's class is
    /// no archive, [`crate::Kind::Invalid`] for days the store does not take, [`crate::Kind::Unsupported`].
    pub async fn restore(&self, key: &Key, version: Option<&str>, days: u32, tier: Option<&str>) -> Result<()> {
        let mut body = format!("<RestoreRequest xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Days>{days}</Days>");
        if let Some(tier) = tier {
            body.push_str("<GlacierJobParameters>");
            super::xml::element("Tier", tier, &mut body);
            body.push_str("</GlacierJobParameters>");
        }
        body.push_str("</RestoreRequest>");
        let action = Action::new(Op::RestoreObject, Method::Post, key.as_str())
            .query("restore", "")
            .version(version)
            .document(body);
        self.fetch(&action).await.map(|_| ())
    }
}

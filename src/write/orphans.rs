//! Uploads that nobody will complete: kept in the journal from before they are created until they are ended, so that
//! what a killed process left is aborted by the next one.
//!
//! The id of an upload is known only from the store's answer. A process that dies in between leaves a note with key and
//! time alone: an upload of that key that began then, if there is only one, is the one.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::error::{Error, Kind, Result};
use crate::key::Key;
use crate::s3::{NewObject, Upload};

use super::Writes;
use super::acknowledge::is_passing;
use super::journal::{Begun, Replay};

/// How far the store's clock and the time of the request may be off.
const SLACK: Duration = Duration::from_secs(90);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(300);

impl Writes {
    /// Begins an upload that the journal knows of: its id, and what [`Writes::upload_ended`] wants.
    pub async fn create_upload(&self, key: &Key, object: &NewObject) -> Result<(String, Option<u64>)> {
        let Some(journal) = self.open_journal() else {
            return Ok((self.s3.create_upload(key, object).await?, None));
        };
        // Without a note an upload may be left behind one day; that is no reason not to write today.
        let token = journal.upload_intent(key).await.ok();
        let created = self.s3.create_upload(key, object).await;
        match (&created, token) {
            (Ok(id), Some(token)) => {
                let _ = journal.upload_begun(token, key, id).await;
            }
            // No answer may mean that there is one.
            (Err(e), token) if !is_passing(e.kind()) => self.upload_ended(token),
            _ => {}
        }
        Ok((created?, token))
    }

    /// The upload is complete or aborted.
    pub fn upload_ended(&self, token: Option<u64>) {
        if let (Some(journal), Some(token)) = (self.journal(), token) {
            journal.upload_ended(token);
        }
    }

    /// Aborts, in the background, the uploads that a dead process left.
    pub fn abort_orphans(self: &Arc<Self>, replay: &Replay) {
        let former: Arc<HashSet<u64>> = Arc::new(replay.uploads.iter().map(|b| b.token).collect());
        for begun in replay.uploads.clone() {
            let (io, former) = (self.clone(), former.clone());
            self.runtime.spawn(async move {
                let mut pause = FIRST_PAUSE;
                loop {
                    match io.abort_orphan(&begun, &former).await {
                        Ok(()) => return io.upload_ended(Some(begun.token)),
                        Err(e) if is_passing(e.kind()) => tracing::debug!("an upload is left behind for now: {e}"),
                        Err(e) => return tracing::warn!("an upload of a former mount is left behind: {e}"),
                    }
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(LAST_PAUSE);
                }
            });
        }
    }

    /// `former`: the notes of all that dead processes left.
    async fn abort_orphan(&self, begun: &Begun, former: &HashSet<u64>) -> Result<()> {
        let upload = match &begun.upload {
            Some(upload) => upload.clone(),
            None => match self.find_orphan(begun, former).await? {
                Some(upload) => upload,
                None => return Ok(()),
            },
        };
        match self.s3.abort_upload(&begun.key, &upload).await {
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Stale) => Ok(()),
            done => done,
        }
    }

    async fn find_orphan(&self, begun: &Begun, former: &HashSet<u64>) -> Result<Option<String>> {
        let (key, at) = (&begun.key, begun.at);
        let all = self.s3.list_uploads(key.as_str()).await?;
        // Looked at after the store's answer: what this mount began meanwhile is not an orphan. Other notes without an
        // id are not waited for, as they would wait for this one.
        let (known, creating) = match self.journal() {
            Some(journal) => journal.uploads_of(key, former),
            None => Default::default(),
        };
        if creating {
            return Err(Error::new(Kind::Busy, "look for an upload while another one is being created").with_key(key));
        }
        let about = |t: SystemTime| t + SLACK >= at && t <= at + SLACK;
        let ours = |u: &Upload| u.key == key.as_str() && u.initiated.is_none_or(about) && !known.contains(&u.id);
        let mut ours = all.into_iter().filter(ours);
        let first = ours.next();
        if ours.next().is_some() {
            tracing::warn!(%key, "several uploads may be the one that a former mount left: none is aborted");
            return Ok(None);
        }
        Ok(first.map(|u| u.id))
    }
}

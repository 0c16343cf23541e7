//! What a failure tells to do otherwise: another place, another clock, other names signed, other keys. Each is tried once
//! and costs no retry.

use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::digest::Doubt;
use super::failure::{Answered, Connect, Failure};
use super::request::Action;
use super::{Addressing, Place, S3, Signature, address, sign_v2};
use crate::config::credentials::Keys;

/// A clock that is off by more than this makes stores refuse signatures.
const SKEW: Duration = Duration::from_secs(300);

/// What has been tried in one request.
#[derive(Default)]
pub(super) struct Repaired {
    place: bool,
    clock: bool,
    keys: bool,
    pub checksum: Option<Doubt>,
    /// Tables of signed names tried besides the first.
    tables: usize,
}

/// Whether a store that answers so may mean the keys.
fn is_refusal(answer: &Answered) -> bool {
    matches!(answer.status, 401 | 403)
        || is_expiry(answer)
        // A HEAD carries no code: 400 may be an expired token.
        || (answer.status == 400 && answer.code.is_empty())
}

fn is_expiry(answer: &Answered) -> bool {
    matches!(answer.code.as_str(), "ExpiredToken" | "ExpiredTokenException" | "InvalidToken" | "TokenRefreshRequired")
}

impl S3 {
    /// Corrects what the failure says is wrong; true when the request is worth sending again at once.
    pub(super) fn repair(&self, failure: &Failure, done: &mut Repaired, keys: Option<&Keys>, place: &Place) -> bool {
        let settings = &self.shared().settings;
        let answer = match failure {
            Failure::Connect(Connect::Dns, _) if place.in_host && settings.addressing == Addressing::Auto => {
                if std::mem::replace(&mut done.place, true) {
                    return false;
                }
                tracing::info!(bucket = self.bucket(), "no DNS entry for BUCKET.HOST, using path addressing");
                self.0.place.write().in_host = false;
                return true;
            }
            Failure::Answer(answer) => answer,
            _ => return false,
        };
        if answer.code == "VirtualHostDomainRequired"
            && settings.addressing == Addressing::Auto
            && !place.in_host
            && !std::mem::replace(&mut done.place, true)
        {
            self.0.place.write().in_host = true;
            return true;
        }
        if let Some(region) = &answer.region
            && *region != place.region
            && matches!(answer.status, 301 | 307 | 400 | 403)
            && !done.place
        {
            done.place = true;
            // Without an endpoint of its own the host follows the region.
            let endpoint = match &settings.endpoint {
                Some(_) => Ok(place.endpoint.clone()),
                None => address::endpoint(None, region),
            };
            if let Ok(endpoint) = endpoint {
                tracing::info!(%region, bucket = self.bucket(), "the bucket lives in another region, using that");
                let mut place = self.0.place.write();
                place.region = region.clone();
                place.endpoint = endpoint;
                return true;
            }
        }
        if keys.is_none() || !is_refusal(answer) {
            return false;
        }
        if let Some(date) = answer.date
            && !done.clock
        {
            let theirs = Timestamp::try_from(date).unwrap_or_else(|_| Timestamp::now());
            let offset = theirs.duration_since(Timestamp::now());
            let known = SignedDuration::from_millis(self.shared().clock.load(Ordering::Relaxed));
            if (offset - known).unsigned_abs() > SKEW {
                done.clock = true;
                let millis = i64::try_from(offset.as_millis()).unwrap_or(0);
                tracing::warn!(offset_ms = millis, "this machine's clock differs from the store's, allowing for it");
                self.shared().clock.store(millis, Ordering::Relaxed);
                return true;
            }
        }
        false
    }

    /// The table of names that signatures of version 2 cover in this attempt.
    pub(super) fn table(&self, done: &Repaired) -> usize {
        (self.learned().signed_names.load(Ordering::Relaxed) + done.tables) % sign_v2::TABLES.len()
    }

    /// Stores differ in the names that a signature of version 2 covers: true when another table is worth a try.
    pub(super) fn sign_otherwise(&self, failure: &Failure, done: &mut Repaired, action: &Action<'_>) -> bool {
        let Failure::Answer(answer) = failure else { return false };
        let wrong = answer.code == "SignatureDoesNotMatch" || (answer.status == 403 && answer.code == "AccessDenied");
        let disputed = || action.query.iter().any(|(name, _)| sign_v2::is_disputed(name));
        if self.shared().settings.signature != Signature::V2
            || !wrong
            || !disputed()
            || done.tables + 1 >= sign_v2::TABLES.len()
        {
            return false;
        }
        done.tables += 1;
        true
    }

    /// Other keys, when the store may have refused because these are no longer valid.
    pub(super) async fn renew(
        &self,
        failure: &Failure,
        done: &mut Repaired,
        keys: Option<&Keys>,
        deadline: Instant,
    ) -> bool {
        let (Failure::Answer(answer), Some(keys)) = (failure, keys) else { return false };
        if !is_refusal(answer) || std::mem::replace(&mut done.keys, true) {
            return false;
        }
        let reload = self.shared().settings.credentials.reload(keys, is_expiry(answer));
        tokio::time::timeout_at(deadline, reload).await.unwrap_or(false)
    }
}

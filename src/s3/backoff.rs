//! How long to wait before a request is sent again.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use super::failure::Failure;

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MOST: Duration = Duration::from_secs(5);

/// Full jitter: anywhere between nothing and an exponentially growing bound; the store's own wish comes first.
pub(super) fn backoff(retries: u32, failure: &Failure) -> Duration {
    if let Failure::Answer(a) = failure
        && let Some(wish) = a.retry_after
    {
        return wish.min(BACKOFF_MOST * 4);
    }
    let bound = BACKOFF_FIRST.saturating_mul(1 << retries.min(10)).min(BACKOFF_MOST);
    Duration::from_millis(random(u64::try_from(bound.as_millis()).unwrap_or(0)))
}

/// 0 to `most`, evenly. The standard library's hash seeds are random enough to spread retries.
pub(super) fn random(most: u64) -> u64 {
    RandomState::new().build_hasher().finish() % (most + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_stays_within_its_bounds() {
        for retries in [0, 3, 30] {
            for _ in 0..100 {
                let most = BACKOFF_FIRST.saturating_mul(1 << retries.min(10)).min(BACKOFF_MOST);
                assert!(backoff(retries, &Failure::Stalled("x")) <= most);
            }
        }
    }
}

//! Keys that expire and are fetched anew: sessions of a role, and what a credential process prints.
//!
//! 1. Nobody waits for a renewal that comes early enough: it runs in the background while the old keys still work,
//!    at a random moment, so that a thousand mounts do not ask at once. Only keys that have expired are waited for.
//! 2. However many requests notice, one fetch runs at a time, and a source that fails is not asked in a loop.
//! 3. Stores may end a session early, and some say no more than "access denied": then one fetch a minute is worth the
//!    question, more would make every forbidden request a call to the source.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use super::Keys;
use crate::error::{Error, Kind, Result};

/// Renewal begins this long before the end, or a fifth of the lifetime if that is less.
const MARGIN_MOST: Duration = Duration::from_secs(300);
/// Between two fetches that follow a mere "access denied".
const DOUBT_EVERY: Duration = Duration::from_secs(60);
/// Between two fetches after a plain "expired", and after a failed one.
const FETCH_EVERY: Duration = Duration::from_secs(1);
/// After a failure while the old keys still work.
const RETRY_EARLY: Duration = Duration::from_secs(20);

/// Keys with the time they work from now on; `None` is without end.
pub struct Fresh {
    pub keys: Keys,
    pub lifetime: Option<Duration>,
}

pub type Fetching = Pin<Box<dyn Future<Output = Result<Fresh>> + Send>>;

pub(super) struct Renewed {
    pub source: String,
    fetch: Box<dyn Fn() -> Fetching + Send + Sync>,
    // Never held across an await.
    state: Mutex<State>,
    flight: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    fetched: Option<Instant>,
    doubted: Option<Instant>,
    failure: Option<(Instant, Error)>,
}

#[derive(Clone)]
struct Held {
    keys: Arc<Keys>,
    renew: Option<SystemTime>,
    end: Option<SystemTime>,
}

fn passed(time: Option<SystemTime>) -> bool {
    time.is_some_and(|t| SystemTime::now() >= t)
}

impl Renewed {
    pub fn new(source: String, fetch: Box<dyn Fn() -> Fetching + Send + Sync>) -> Self {
        Renewed { source, fetch, state: Mutex::default(), flight: tokio::sync::Mutex::default() }
    }

    pub fn held(&self) -> Option<Arc<Keys>> {
        self.state.lock().held.as_ref().map(|h| h.keys.clone())
    }

    pub fn end(&self) -> Option<SystemTime> {
        self.state.lock().held.as_ref().and_then(|h| h.end)
    }

    /// Keys that work now.
    pub async fn current(self: &Arc<Self>) -> Result<Arc<Keys>> {
        if let Some(held) = self.usable() {
            if passed(held.renew) {
                self.renew_in_background();
            }
            return Ok(held.keys);
        }
        let _flight = self.flight.lock().await;
        // Another request may have fetched them meanwhile, or just failed to.
        if let Some(held) = self.usable() {
            return Ok(held.keys);
        }
        let failure = self.state.lock().failure.clone();
        if let Some((when, error)) = failure
            && when.elapsed() < FETCH_EVERY
        {
            return Err(error);
        }
        self.fetch().await
    }

    fn usable(&self) -> Option<Held> {
        self.state.lock().held.clone().filter(|h| !passed(h.end))
    }

    fn renew_in_background(self: &Arc<Self>) {
        let this = self.clone();
        // Who gets here first moves the time, so that the others go on.
        if let Some(held) = &mut this.state.lock().held {
            held.renew = Some(SystemTime::now() + RETRY_EARLY.min(until(held.end) / 4));
        }
        let this = self.clone();
        tokio::spawn(async move {
            let Ok(_flight) = this.flight.try_lock() else { return };
            if let Err(error) = this.fetch().await {
                tracing::warn!(source = %this.source, %error, "cannot renew credentials, the old ones still work");
            }
        });
    }

    /// Fetches because the store refused `used`; true when there are other keys now. `certain`: it said that they
    /// have expired.
    pub async fn refused(&self, used: &Keys, certain: bool) -> bool {
        let _flight = self.flight.lock().await;
        {
            let mut state = self.state.lock();
            let Some(held) = &state.held else { return false };
            if *held.keys != *used {
                return true;
            }
            let soon = |time: Option<Instant>, wait: Duration| time.is_some_and(|t| t.elapsed() < wait);
            let expired = certain || passed(held.end);
            if soon(state.fetched, FETCH_EVERY) && soon(state.doubted, FETCH_EVERY)
                || !expired && soon(state.doubted, DOUBT_EVERY)
            {
                return false;
            }
            state.doubted = Some(Instant::now());
        }
        match self.fetch().await {
            Ok(keys) => *keys != *used,
            Err(error) => {
                tracing::warn!(source = %self.source, %error, "the store refused the credentials, and they cannot be renewed");
                false
            }
        }
    }

    /// The caller holds `flight`.
    async fn fetch(&self) -> Result<Arc<Keys>> {
        let fetched = (self.fetch)().await;
        let mut state = self.state.lock();
        state.fetched = Some(Instant::now());
        match fetched {
            Ok(fresh) => {
                let keys = Arc::new(fresh.keys);
                let now = SystemTime::now();
                let end = fresh.lifetime.map(|l| now + l);
                let renew = fresh.lifetime.map(|l| now + l.saturating_sub(margin(l)));
                tracing::info!(source = %self.source, seconds = fresh.lifetime.map(|l| l.as_secs()), "credentials renewed");
                state.held = Some(Held { keys: keys.clone(), renew, end });
                state.failure = None;
                Ok(keys)
            }
            Err(error) => {
                state.failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }
}

fn until(end: Option<SystemTime>) -> Duration {
    end.and_then(|e| e.duration_since(SystemTime::now()).ok()).unwrap_or(RETRY_EARLY * 4)
}

/// Before the end of a lifetime; up to a quarter more at random.
fn margin(lifetime: Duration) -> Duration {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let least = MARGIN_MOST.min(lifetime / 5);
    // The standard library's hash seeds are random enough to spread renewals.
    let share = u32::try_from(RandomState::new().build_hasher().finish() % 256).unwrap_or(0);
    least + least / 4 * share / 255
}

/// What a source without keys says.
pub(super) fn failed(what: impl Into<String>) -> Error {
    Error::new(Kind::Denied, what)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn keys(n: u32) -> Keys {
        Keys { access_key: format!("ak{n}"), secret_key: "s".into(), token: Some("t".into()) }
    }

    /// Numbers its keys, which live for `lifetime`; fails while `broken` is not 0.
    fn counting(lifetime: Duration, broken: Arc<AtomicU32>) -> (Arc<Renewed>, Arc<AtomicU32>) {
        let count = Arc::new(AtomicU32::new(0));
        let counter = count.clone();
        let fetch = move || -> Fetching {
            let (n, broken) = (counter.fetch_add(1, Ordering::SeqCst), broken.clone());
            Box::pin(async move {
                tokio::task::yield_now().await;
                match broken.load(Ordering::SeqCst) {
                    0 => Ok(Fresh { keys: keys(n), lifetime: Some(lifetime) }),
                    _ => Err(failed("broken")),
                }
            })
        };
        (Arc::new(Renewed::new("test".into(), Box::new(fetch))), count)
    }

    #[tokio::test]
    async fn many_requests_share_one_fetch() {
        let (renewed, count) = counting(Duration::from_secs(3600), Arc::default());
        let all = futures_util::future::join_all((0..50).map(|_| renewed.current())).await;
        assert!(all.into_iter().all(|k| k.unwrap().access_key == "ak0"));
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn expired_keys_are_waited_for_and_due_ones_are_not() {
        let (renewed, count) = counting(Duration::from_secs(3600), Arc::default());
        renewed.current().await.unwrap();
        renewed.state.lock().held.as_mut().unwrap().renew = Some(SystemTime::UNIX_EPOCH);
        assert_eq!(renewed.current().await.unwrap().access_key, "ak0");
        while count.load(Ordering::SeqCst) < 2 || renewed.held().unwrap().access_key != "ak1" {
            tokio::task::yield_now().await;
        }
        renewed.state.lock().held.as_mut().unwrap().end = Some(SystemTime::UNIX_EPOCH);
        assert_eq!(renewed.current().await.unwrap().access_key, "ak2");
    }

    #[tokio::test]
    async fn a_failing_source_leaves_keys_that_still_work() {
        let broken = Arc::new(AtomicU32::new(0));
        let (renewed, count) = counting(Duration::from_secs(3600), broken.clone());
        renewed.current().await.unwrap();
        broken.store(1, Ordering::SeqCst);
        renewed.state.lock().held.as_mut().unwrap().renew = Some(SystemTime::UNIX_EPOCH);
        renewed.current().await.unwrap();
        while count.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(renewed.current().await.unwrap().access_key, "ak0");
        renewed.state.lock().held.as_mut().unwrap().end = Some(SystemTime::UNIX_EPOCH);
        assert_eq!(renewed.current().await.unwrap_err().kind(), Kind::Denied);
    }

    #[tokio::test]
    async fn a_mere_denial_asks_the_source_once_a_minute() {
        let (renewed, count) = counting(Duration::from_secs(3600), Arc::default());
        let first = renewed.current().await.unwrap();
        assert!(renewed.refused(&first, false).await);
        let second = renewed.held().unwrap();
        assert!(!renewed.refused(&second, false).await);
        // Who still had the old keys just takes the new ones.
        assert!(renewed.refused(&first, false).await);
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn the_margin_grows_with_the_lifetime_to_five_minutes_and_a_quarter() {
        for _ in 0..100 {
            let m = margin(Duration::from_secs(43_200));
            assert!(m >= MARGIN_MOST && m <= MARGIN_MOST * 5 / 4, "{m:?}");
            let m = margin(Duration::from_secs(900));
            assert!(m >= Duration::from_secs(180) && m <= Duration::from_secs(225), "{m:?}");
        }
    }
}

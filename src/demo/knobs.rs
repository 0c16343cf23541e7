//! What tests can turn while the server runs: speed, faults, and what the store lacks.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

/// What a rule does to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Not carried out; answered with this status and error code.
    Status(u16, String),
    /// 503 `SlowDown`.
    SlowDown,
    /// Carried out; the body of the answer ends after so many bytes (at least one byte early) and the connection with it.
    CutBody(u64),
    /// Carried out, but the connection ends instead of an answer.
    CutBeforeAnswer,
    /// Not carried out; the connection ends.
    Drop,
    /// Not carried out; status 200 with an `<Error>` document of this code, as copies and completions fail.
    ErrorIn200(String),
    /// Carried out; `Content-Range` of the answer names a range one byte further on.
    WrongRange,
    /// The `Range` header is ignored: 200 with the whole object.
    IgnoreRange,
    /// Carried out; nothing is answered for so long.
    Stall(Duration),
    /// Carried out; the body of the answer pauses for so long after so many bytes.
    StallBody(u64, Duration),
}

/// When which requests meet with what.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Operation name as in the log, or `*`.
    pub operation: String,
    /// Only keys that contain this.
    pub key: Option<String>,
    /// The first request that is hit, counted from 1 since the rule was set.
    pub first: u64,
    /// After the first, every so-many-th.
    pub every: u64,
    /// How often at most.
    pub times: u64,
    /// Hits only with this probability, 0 to 1.
    pub probability: f64,
    pub action: Action,
}

impl Rule {
    /// Hits the next such request, once.
    pub fn new(operation: &str, action: Action) -> Self {
        Rule { operation: operation.to_owned(), key: None, first: 1, every: 1, times: 1, probability: 1.0, action }
    }

    pub fn key(mut self, part: &str) -> Self {
        self.key = Some(part.to_owned());
        self
    }

    pub fn nth(mut self, n: u64) -> Self {
        self.first = n;
        self
    }

    pub fn every(mut self, n: u64) -> Self {
        self.every = n.max(1);
        self.times = u64::MAX;
        self
    }

    pub fn times(mut self, n: u64) -> Self {
        self.times = n;
        self
    }

    pub fn always(self) -> Self {
        self.times(u64::MAX)
    }

    /// Hits each such request with probability `p`.
    pub fn probability(mut self, p: f64) -> Self {
        self.probability = p;
        self.times(u64::MAX)
    }
}

/// What the server does not do, or does differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// Before each request is looked at.
    pub latency: Duration,
    /// Bytes per second and connection, each way; `None` is unlimited.
    pub bytes_per_second: Option<u64>,
    /// Entries of a listing page, whatever the client asks for.
    pub page_size: Option<usize>,
    /// `list-type=2` is answered as version 1.
    pub v1_only: bool,
    /// 501 for CopyObject.
    pub no_copy: bool,
    /// 501 for UploadPartCopy.
    pub no_part_copy: bool,
    /// 501 for tagging requests and headers.
    pub no_tagging: bool,
    /// 501 for ACL requests and headers.
    pub no_acl: bool,
    /// 501 for `If-Match` and `If-None-Match` on PUT and CompleteMultipartUpload.
    pub no_conditional_put: bool,
    /// As Ceph's gateway: request ids of its form, and in a bucket with versions the conditions of a write are ignored.
    pub ceph: bool,
    /// 501 for DeleteObjects.
    pub no_delete_many: bool,
    /// 501 for checksum headers and `aws-chunked` bodies.
    pub strict: bool,
    /// CompleteMultipartUpload answers without an ETag.
    pub no_complete_etag: bool,
    /// Signed requests must carry this session token; others fail with `ExpiredToken`.
    pub session_token: Option<String>,
    /// Keys of a session that has ended are refused with 403 `AccessDenied`, not with 400 `ExpiredToken`.
    pub expired_is_denied: bool,
    /// How long sessions live, whatever is asked for.
    pub session_lifetime: Option<Duration>,
    /// The only region that the token service takes signatures for; `None` takes any.
    pub sts_region: Option<String>,
    /// ETags that cost no hashing: unique, but not an MD5.
    pub cheap_etags: bool,
    /// How long a restore from an archive takes.
    pub restore_delay: Duration,
    /// Smallest part but the last, in bytes.
    pub min_part: u64,
}

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour {
            latency: Duration::ZERO,
            bytes_per_second: None,
            page_size: None,
            v1_only: false,
            no_copy: false,
            no_part_copy: false,
            no_tagging: false,
            no_acl: false,
            no_conditional_put: false,
            ceph: false,
            no_delete_many: false,
            strict: false,
            no_complete_etag: false,
            session_token: None,
            expired_is_denied: false,
            session_lifetime: None,
            sts_region: None,
            cheap_etags: false,
            restore_delay: Duration::from_secs(2),
            min_part: 5 << 20,
        }
    }
}

struct Armed {
    rule: Rule,
    seen: u64,
    fired: u64,
}

/// The knobs of one server.
#[derive(Default)]
pub struct Knobs {
    behaviour: RwLock<Behaviour>,
    rules: Mutex<Vec<Armed>>,
    /// Seconds the server's clock is ahead.
    clock: AtomicI64,
    random: AtomicU64,
}

impl Knobs {
    /// Changes the behaviour: `knobs.set(|b| b.page_size = Some(3))`.
    pub fn set(&self, f: impl FnOnce(&mut Behaviour)) {
        f(&mut self.behaviour.write());
    }

    pub fn behaviour(&self) -> Behaviour {
        self.behaviour.read().clone()
    }

    pub(super) fn with<T>(&self, f: impl FnOnce(&Behaviour) -> T) -> T {
        f(&self.behaviour.read())
    }

    /// Adds a rule; the first rule that hits decides.
    pub fn fail(&self, rule: Rule) {
        self.rules.lock().push(Armed { rule, seen: 0, fired: 0 });
    }

    /// Removes all rules.
    pub fn clear_rules(&self) {
        self.rules.lock().clear();
    }

    /// How often rules hit since they were set.
    pub fn hits(&self) -> u64 {
        self.rules.lock().iter().map(|a| a.fired).sum()
    }

    /// Sets the server's clock so many seconds ahead of the real one (behind when negative): the `Date` header and
    /// the check of header signatures follow it. Pre-signed URLs expire by the real clock.
    pub fn set_clock(&self, seconds: i64) {
        self.clock.store(seconds, Ordering::Relaxed);
    }

    pub(super) fn clock(&self) -> i64 {
        self.clock.load(Ordering::Relaxed)
    }

    fn chance(&self) -> f64 {
        // A Weyl sequence: runs repeat exactly.
        let n = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mut z = n ^ (n >> 30);
        z = z.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^= z >> 27;
        (z >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// What shall happen to this request; counts it.
    pub(super) fn action(&self, operation: &str, key: &str) -> Option<Action> {
        let mut hit = None;
        for armed in self.rules.lock().iter_mut() {
            let rule = &armed.rule;
            let matches = (rule.operation == "*" || rule.operation == operation)
                && rule.key.as_deref().is_none_or(|part| key.contains(part));
            if !matches {
                continue;
            }
            armed.seen += 1;
            if hit.is_none()
                && armed.fired < rule.times
                && armed.seen >= rule.first
                && (armed.seen - rule.first).is_multiple_of(rule.every.max(1))
                && (rule.probability >= 1.0 || self.chance() < rule.probability)
            {
                armed.fired += 1;
                hit = Some(rule.action.clone());
            }
        }
        hit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_hit_the_requests_they_name() {
        let knobs = Knobs::default();
        knobs.fail(Rule::new("GetObject", Action::SlowDown).nth(2).times(2).key("a"));
        let hits: Vec<bool> = (0..5).map(|_| knobs.action("GetObject", "xay").is_some()).collect();
        assert_eq!(hits, [false, true, true, false, false]);
        assert_eq!(knobs.action("GetObject", "b"), None);
        assert_eq!(knobs.action("PutObject", "a"), None);
        knobs.clear_rules();
        knobs.fail(Rule::new("*", Action::Drop).every(3).nth(3));
        let hits: Vec<bool> = (0..7).map(|_| knobs.action("HeadObject", "").is_some()).collect();
        assert_eq!(hits, [false, false, true, false, false, true, false]);
    }

    #[test]
    fn a_probability_hits_about_as_often() {
        let knobs = Knobs::default();
        knobs.fail(Rule::new("*", Action::Drop).probability(0.25));
        let hits = (0..4000).filter(|_| knobs.action("GetObject", "").is_some()).count();
        assert!((700..1300).contains(&hits), "{hits}");
    }
}

//! The object store: one bucket, its operations, and the one place that signs, sends, retries and reads errors.
//!
//! 1. Networks and stores fail all day: `request` repeats what may be repeated, within a number of retries and a
//!    deadline, and tells a failure that may have taken effect from one that cannot have.
//! 2. S3 is a family of dialects: what a store turns out not to understand (list v2, quoted `If-Match`, multi-delete)
//!    is learnt once and remembered for the mount.
//! 3. A wrong byte is worse than an error: ranges, lengths, sizes and entity tags of answers are checked against what
//!    was asked, and a 200 with an error inside is an error.
//!
//! Metadata values ([`Headers::metadata`]): printable ASCII is sent as it is; any other value, and one that begins
//! with `%%`, is sent as `%%` followed by its percent-encoded bytes, which reading undoes. Names are lower case;
//! Ceph's gateway turns `_` in them into `-`.

mod acl;
mod address;
mod backoff;
mod body;
mod bucket;
mod build;
mod configuration;
mod digest;
mod documents;
mod failure;
pub mod grants;
mod headers;
mod list;
mod multipart;
mod object;
mod operation;
mod post;
mod presign;
mod repair;
mod request;
mod shape;
mod sign_v2;
mod sign_v4;
mod sts;
mod tagging;
mod types;
mod versions;
mod xml;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use tokio::sync::Semaphore;
use url::Url;

pub use acl::{canned_name, check_extension};
pub use address::Addressing;
pub use body::Body;
pub use bucket::check_bucket_name;
pub use configuration::*;
pub use digest::Checksum;
pub use documents::Document;
#[doc(hidden)]
pub use failure::is_plain_denial;
pub use list::page_of;
pub use multipart::ends_upload;
pub use object::Get;
pub use operation::RequestCounts;
pub use post::{Post, PostCondition, PostKey, PresignedPost};
pub use presign::{PRESIGN_DEFAULT, PRESIGN_MOST, Presign, PresignMethod, Presigned};
pub use sts::{AssumeRole, SESSION_DEFAULT, Session, Sts, StsSettings, role_credentials};
pub use types::*;
pub use versions::{ObjectVersion, Restoring, VersionMarker, VersionPage, VersionQuery};

use crate::config::credentials::Credentials;
use crate::error::{Error, Kind, Result};
use operation::Counters;

/// How requests are signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Signature {
    /// In the query, payload unsigned.
    #[default]
    V4,
    /// In the `Authorization` header, for old stores.
    V2,
}

/// Which listing is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListVersion {
    /// V2 until the store shows that it does not know it.
    #[default]
    Auto,
    V1,
    V2,
}

/// What a client is made from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// With `http://` or `https://`; `None` is AWS, by region.
    pub endpoint: Option<String>,
    pub region: String,
    /// May be empty for a client that only lists buckets.
    pub bucket: String,
    pub addressing: Addressing,
    pub signature: Signature,
    pub credentials: Credentials,
    pub connect_timeout: Duration,
    /// Longest time without a byte.
    pub read_timeout: Duration,
    /// For one operation with its retries. Bodies may take longer, as long as bytes flow.
    pub op_timeout: Duration,
    /// How often a failed request is sent again.
    pub retries: u32,
    pub list_version: ListVersion,
    /// Whether keys in listings may be asked for percent-encoded. Without it keys with control characters are lost.
    pub list_encoding: bool,
    /// What vouches for uploaded bytes.
    pub checksum: Checksum,
    /// Requests under way at once; a quarter is kept from bulk transfers.
    pub max_requests: usize,
    pub user_agent: String,
    pub requester_pays: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            endpoint: None,
            region: "us-east-1".into(),
            bucket: String::new(),
            addressing: Addressing::Auto,
            signature: Signature::V4,
            credentials: Credentials::anonymous(),
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(20),
            op_timeout: Duration::from_secs(60),
            retries: 5,
            list_version: ListVersion::Auto,
            list_encoding: true,
            checksum: Checksum::default(),
            max_requests: 64,
            user_agent: concat!("xosfs/", env!("CARGO_PKG_VERSION")).into(),
            requester_pays: false,
        }
    }
}

/// A cheap handle on one bucket.
#[derive(Clone)]
pub struct S3(Arc<Inner>);

/// What all buckets of one endpoint share.
struct Shared {
    client: reqwest::Client,
    settings: Settings,
    counters: Counters,
    /// All requests.
    all: Arc<Semaphore>,
    /// Bulk transfers, fewer than `all`: a lookup never waits for sixty-four downloads.
    bulk: Arc<Semaphore>,
    /// Upper end of the pause before each request, in milliseconds, while the store throttles.
    pause: AtomicU64,
    /// The store's clock minus ours, in milliseconds.
    clock: AtomicI64,
    /// Whether an answer had a request id as Ceph's gateway makes them.
    ceph: AtomicBool,
}

struct Inner {
    shared: Arc<Shared>,
    bucket: String,
    /// That there is no such bucket is an answer, and no failure.
    may_be_missing: bool,
    place: RwLock<Place>,
    learned: Learned,
}

/// Where requests for the bucket go; answers may correct it.
#[derive(Clone)]
struct Place {
    region: String,
    endpoint: Url,
    in_host: bool,
}

/// What the store turned out not to understand.
#[derive(Default)]
struct Learned {
    list_v1: AtomicBool,
    no_encoding: AtomicBool,
    unquoted_match: AtomicBool,
    no_conditions: AtomicBool,
    no_delete_many: AtomicBool,
    /// The same of copies.
    copy_tags: AtomicU8,
    checksums: digest::Accepted,
    /// The table of `sign_v2` that it signs by.
    signed_names: AtomicUsize,
    /// Whether tags sent with a multipart upload arrive: [`tagging`] has the values.
    upload_tags: AtomicU8,
}

/// `idle`: connections kept for later.
fn http_client(user_agent: &str, connect_timeout: Duration, idle: usize) -> Result<reqwest::Client> {
    // Another part of the process may have installed a provider before: then that one is used.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .user_agent(user_agent)
        .connect_timeout(connect_timeout)
        .redirect(reqwest::redirect::Policy::none())
        // Retries are counted and bounded by who sends.
        .retry(reqwest::retry::never())
        .pool_max_idle_per_host(idle)
        // Under the idle limit of the usual load balancers, so that fewer requests meet a closing connection.
        .pool_idle_timeout(Duration::from_secs(50))
        .tcp_nodelay(true)
        .http1_only()
        .referer(false)
        .build()
        .map_err(|e| Error::new(Kind::Io, format!("set up HTTP client: {}", e.without_url())))
}

impl S3 {
    /// Connects to nothing yet.
    ///
    /// Errors: [`Kind::Invalid`] for an endpoint without scheme, a bad region or header value, [`Kind::Io`] when TLS
    /// cannot be set up.
    pub fn new(settings: Settings) -> Result<S3> {
        let endpoint = address::endpoint(settings.endpoint.as_deref(), &settings.region)?;
        let client = http_client(&settings.user_agent, settings.connect_timeout, settings.max_requests)?;
        let max = settings.max_requests.max(2);
        let shared = Shared {
            client,
            counters: Counters::new(),
            all: Arc::new(Semaphore::new(max)),
            bulk: Arc::new(Semaphore::new(max - (max / 4).max(1))),
            pause: AtomicU64::new(0),
            clock: AtomicI64::new(0),
            ceph: AtomicBool::new(false),
            settings,
        };
        let region = shared.settings.region.clone();
        let bucket = shared.settings.bucket.clone();
        Ok(S3::with(Arc::new(shared), bucket, false, region, endpoint))
    }

    fn with(shared: Arc<Shared>, bucket: String, may_be_missing: bool, region: String, endpoint: Url) -> S3 {
        let in_host = address::is_virtual(shared.settings.addressing, &endpoint, &bucket);
        let place = RwLock::new(Place { region, endpoint, in_host });
        let checksums = digest::Accepted::new(shared.settings.checksum);
        let learned = Learned { checksums, ..Learned::default() };
        learned.list_v1.store(shared.settings.list_version == ListVersion::V1, Ordering::Relaxed);
        learned.no_encoding.store(!shared.settings.list_encoding, Ordering::Relaxed);
        S3(Arc::new(Inner { shared, bucket, may_be_missing, place, learned }))
    }

    /// Another bucket over the same connections, limits and counters.
    pub fn for_bucket(&self, name: &str) -> S3 {
        let place = self.0.place.read().clone();
        S3::with(self.0.shared.clone(), name.to_owned(), false, place.region, place.endpoint)
    }

    /// As [`S3::for_bucket`], to ask whether there is one: that it is missing is not counted as a failure.
    pub fn for_bucket_if_any(&self, name: &str) -> S3 {
        let place = self.0.place.read().clone();
        S3::with(self.0.shared.clone(), name.to_owned(), true, place.region, place.endpoint)
    }

    pub fn bucket(&self) -> &str {
        &self.0.bucket
    }

    /// For messages and `user.s3.uri`; the default one when none was given.
    pub fn endpoint(&self) -> &str {
        self.shared().settings.endpoint.as_deref().unwrap_or("https://s3.amazonaws.com")
    }

    /// The endpoint as set; `None` is AWS.
    pub fn own_endpoint(&self) -> Option<&str> {
        self.shared().settings.endpoint.as_deref()
    }

    /// The region requests are signed for: as set, or as the store corrected it.
    pub fn region(&self) -> String {
        self.0.place.read().region.clone()
    }

    /// Whether the bucket's name stands in the host: as set, or as the store corrected it.
    pub fn in_host(&self) -> bool {
        self.0.place.read().in_host
    }

    /// Where the keys come from, for messages.
    pub fn credentials_source(&self) -> String {
        self.shared().settings.credentials.source()
    }

    /// What this store turned out not to have, for messages.
    pub fn lacks(&self) -> Vec<&'static str> {
        let (learned, settings) = (self.learned(), &self.shared().settings);
        let asked_v1 = settings.list_version == ListVersion::V1;
        [
            (learned.list_v1.load(Ordering::Relaxed) && !asked_v1, "listing version 2"),
            (learned.no_encoding.load(Ordering::Relaxed) && settings.list_encoding, "encoded listings"),
            (learned.unquoted_match.load(Ordering::Relaxed), "quoted If-Match on writes"),
            (learned.no_conditions.load(Ordering::Relaxed), "conditional writes"),
            (learned.no_delete_many.load(Ordering::Relaxed), "deleting several objects in one request"),
        ]
        .into_iter()
        .filter_map(|(is, name)| is.then_some(name))
        .collect()
    }

    /// Whether it answers as Ceph's gateway does, which names itself nowhere else: its request ids are `tx` and
    /// hexadecimal digits.
    pub fn is_ceph(&self) -> bool {
        self.shared().ceph.load(Ordering::Relaxed)
    }

    /// Figures of all buckets that share these connections.
    pub fn stats(&self) -> RequestCounts {
        self.shared().counters.snapshot()
    }

    /// Now, by the store's clock as far as it is known.
    pub fn store_time(&self) -> SystemTime {
        let offset = self.shared().clock.load(Ordering::Relaxed);
        let distance = Duration::from_millis(offset.unsigned_abs());
        let now = SystemTime::now();
        if offset < 0 { now - distance } else { now + distance }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    fn learned(&self) -> &Learned {
        &self.0.learned
    }
}

//! Sessions of a role: the token service, and a mount whose keys come from it.
//!
//! 1. What the service would refuse is refused here, with the rule: a mount that dies at the first renewal, or at the
//!    first start of a new machine, is found too late.
//! 2. Stores put the service elsewhere: at their own address, under another region. Both can be set; a region that the
//!    service names, or the other spelling of the same provider, is tried once.
//! 3. Times of the service are by its clock: the end of a session is turned into a lifetime by the `Date` of the
//!    answer, so that a machine whose clock is wrong neither renews all the time nor too late.
//! 4. Forms are sent percent-encoded throughout: Ceph does not read `+` as a blank.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::time::Instant;
use url::Url;

use super::address::{self, encode};
use super::backoff::backoff;
use super::failure::{Answered, Failure, answered};
use super::operation::Op;
use super::request::header;
use super::{sign_v4, xml};
use crate::config::credentials::{Credentials, Fresh, Keys};
use crate::config::provider::Provider;
use crate::error::{Error, Kind, Result};

/// Life of a session when none is asked for.
pub const SESSION_DEFAULT: Duration = Duration::from_secs(3600);
const SESSION_LEAST: Duration = Duration::from_secs(900);
const SESSION_MOST: Duration = Duration::from_secs(43_200);
const POLICY_MOST: usize = 2048;
const ANSWER_MOST: usize = 1 << 20;
/// A clock that is off by more than this makes services refuse signatures.
const SKEW: Duration = Duration::from_secs(300);

/// Where the token service is.
#[derive(Clone, Debug)]
pub struct StsSettings {
    /// With `http://` or `https://`.
    pub endpoint: String,
    pub region: String,
    /// Another name for it, tried once when the signature is refused.
    pub other_region: Option<String>,
    /// In the signature.
    pub service: String,
    pub connect_timeout: Duration,
    /// For one call with its retries.
    pub timeout: Duration,
    pub retries: u32,
    pub user_agent: String,
}

impl StsSettings {
    pub fn new(endpoint: impl Into<String>, region: impl Into<String>) -> Self {
        StsSettings {
            endpoint: endpoint.into(),
            region: region.into(),
            other_region: None,
            service: "sts".into(),
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
            retries: 3,
            user_agent: concat!("xosfs/", env!("CARGO_PKG_VERSION")).into(),
        }
    }

    /// The service that goes with a store: where its provider has it, unless `endpoint` and `region` say otherwise.
    /// `store` and `store_region` are those of the store itself.
    ///
    /// Errors: [`Kind::Invalid`] when nobody knows an endpoint.
    pub fn of(
        provider: &Provider,
        store: Option<&str>,
        store_region: &str,
        endpoint: Option<&str>,
        region: Option<&str>,
    ) -> Result<Self> {
        let row = provider.sts.as_ref();
        let by_provider = row.and_then(|r| r.endpoint).map(|e| e.replace("REGION", store_region));
        let endpoint = endpoint.map(str::to_owned).or(by_provider).or_else(|| store.map(str::to_owned));
        let endpoint = endpoint.ok_or_else(|| {
            Error::new(Kind::Invalid, "assume role: no endpoint is known").with_fix("set `sts_endpoint`")
        })?;
        let own = row.and_then(|r| r.region).unwrap_or(store_region);
        Ok(StsSettings {
            other_region: region.is_none().then(|| row.and_then(|r| r.other_region)).flatten().map(str::to_owned),
            service: row.map_or("sts", |r| r.service).to_owned(),
            ..StsSettings::new(endpoint, region.unwrap_or(own))
        })
    }
}

/// A session that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssumeRole {
    /// As the console shows it.
    pub role_arn: String,
    /// 2 to 64 of `A-Za-z0-9_+=,.@-`; shows in the store's logs.
    pub session_name: String,
    /// JSON of at most 2048 characters that narrows the role's rights; `None` leaves them as they are.
    pub policy: Option<String>,
    /// 900 to 43200 s; whole seconds.
    pub duration: Duration,
    pub external_id: Option<String>,
}

impl AssumeRole {
    /// For an hour, with all rights of the role.
    pub fn new(role_arn: impl Into<String>, session_name: impl Into<String>) -> Self {
        AssumeRole {
            role_arn: role_arn.into(),
            session_name: session_name.into(),
            policy: None,
            duration: SESSION_DEFAULT,
            external_id: None,
        }
    }

    /// Whether every service would take it.
    ///
    /// Errors: [`Kind::Invalid`] with the rule that is broken.
    pub fn check(&self) -> Result<()> {
        let bad = |why: &str| Err(Error::new(Kind::Invalid, format!("assume role: {why}")));
        if !self.role_arn.starts_with("arn:")
            || self.role_arn.len() > 2048
            || self.role_arn.contains(char::is_whitespace)
        {
            return bad("the role must be an ARN, as arn:aws:iam:::role/NAME");
        }
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b);
        if !(2..=64).contains(&self.session_name.len()) || !self.session_name.bytes().all(legal) {
            return bad("the session name must have 2 to 64 of A-Z a-z 0-9 _ + = , . @ -");
        }
        if !(SESSION_LEAST..=SESSION_MOST).contains(&self.duration) {
            return bad("a session lasts 900 to 43200 s (15 min to 12 h)");
        }
        if let Some(policy) = &self.policy {
            if !(1..=POLICY_MOST).contains(&policy.chars().count()) {
                return bad("the policy must have 1 to 2048 characters");
            }
            if !serde_json::from_str::<serde_json::Value>(policy).is_ok_and(|v| v.is_object()) {
                return bad("the policy is no JSON object");
            }
        }
        if self.external_id.as_ref().is_some_and(|id| !(2..=1224).contains(&id.len())) {
            return bad("the external id must have 2 to 1224 characters");
        }
        Ok(())
    }

    /// What is odd, but may be right.
    pub fn warning(&self) -> Option<String> {
        let fields: Vec<_> = self.role_arn.splitn(6, ':').collect();
        (fields.len() == 5).then(|| {
            let (head, role) = self.role_arn.rsplit_once(':').unwrap_or(("", &self.role_arn));
            format!(
                "{} has five fields where an ARN has six: if the service refuses it, write {head}::{role}",
                self.role_arn
            )
        })
    }

    /// Parameters in the order of the manuals.
    fn form(&self) -> String {
        let seconds = self.duration.as_secs().to_string();
        let mut pairs = vec![
            ("Action", "AssumeRole"),
            ("Version", "2011-06-15"),
            ("RoleArn", &self.role_arn),
            ("RoleSessionName", &self.session_name),
        ];
        if let Some(policy) = &self.policy {
            pairs.push(("Policy", policy));
        }
        pairs.push(("DurationSeconds", &seconds));
        if let Some(id) = &self.external_id {
            pairs.push(("ExternalId", id));
        }
        let pairs: Vec<_> = pairs.into_iter().map(|(n, v)| format!("{n}={}", encode(v))).collect();
        pairs.join("&")
    }
}

/// A session: temporary keys.
#[derive(Clone, Debug)]
pub struct Session {
    pub keys: Keys,
    /// From now.
    pub lifetime: Option<Duration>,
    /// By the service's clock, as it wrote it.
    pub expiration: String,
    /// The role with the session's name, when the service tells.
    pub role: Option<String>,
}

/// A client of a token service.
#[derive(Clone)]
pub struct Sts(Arc<Inner>);

struct Inner {
    client: reqwest::Client,
    settings: StsSettings,
    url: Url,
    region: Mutex<String>,
    /// The service's clock minus ours, in milliseconds.
    clock: AtomicI64,
}

impl Sts {
    /// Connects to nothing yet.
    ///
    /// Errors: [`Kind::Invalid`] for an endpoint without scheme, [`Kind::Io`] when TLS cannot be set up.
    pub fn new(settings: StsSettings) -> Result<Sts> {
        let mut url = address::endpoint(Some(&settings.endpoint), "")?;
        if url.path().is_empty() {
            url.set_path("/");
        }
        let client = super::http_client(&settings.user_agent, settings.connect_timeout, 2)?;
        let region = Mutex::new(settings.region.clone());
        Ok(Sts(Arc::new(Inner { client, settings, url, region, clock: AtomicI64::new(0) })))
    }

    /// Asks for a session with the rights of a role.
    ///
    /// Errors: those of [`AssumeRole::check`], before anything is sent; [`Kind::Denied`], [`Kind::Invalid`] for what
    /// the service does not take, [`Kind::NotFound`] for a role that it does not know.
    pub async fn assume_role(&self, keys: &Keys, request: &AssumeRole) -> Result<Session> {
        request.check()?;
        let inner = &self.0;
        let deadline = Instant::now() + inner.settings.timeout;
        let form = request.form();
        let (mut attempts, mut retries) = (0, 0);
        let (mut moved, mut corrected) = (false, false);
        loop {
            attempts += 1;
            let answer = match tokio::time::timeout_at(deadline, self.attempt(keys, &form)).await {
                Ok(answer) => answer,
                Err(_) => Err(Failure::Stalled("no answer in time")),
            };
            let failure = match answer {
                Ok(session) => return Ok(session),
                Err(failure) => failure,
            };
            if let Failure::Answer(a) = &failure
                && (self.correct_region(a, &mut moved) || self.correct_clock(a, &mut corrected))
            {
                continue;
            }
            let wait = backoff(retries, &failure);
            if !failure.is_transient() || retries >= inner.settings.retries || Instant::now() + wait >= deadline {
                return Err(explained(failure.into_error(Op::AssumeRole, "", &request.role_arn, attempts), request));
            }
            retries += 1;
            tokio::time::sleep(wait).await;
        }
    }

    async fn attempt(&self, keys: &Keys, form: &str) -> Result<Session, Failure> {
        let inner = &self.0;
        let offset = SignedDuration::from_millis(inner.clock.load(Ordering::Relaxed));
        let time = Timestamp::now().checked_add(offset).unwrap_or_else(|_| Timestamp::now());
        let region = inner.region.lock().clone();
        let scope = sign_v4::Scope { time, region: &region, service: &inner.settings.service };
        let host = match (inner.url.host_str(), inner.url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        let time = scope.time();
        let mut headers = vec![
            ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
            ("host", &host),
            ("x-amz-date", &time),
        ];
        if let Some(token) = &keys.token {
            headers.push(("x-amz-security-token", token));
        }
        let request = sign_v4::Request {
            method: "POST",
            path: inner.url.path(),
            query: &[],
            headers: &headers,
            payload: &sign_v4::sha256(form.as_bytes()),
        };
        let authorization = sign_v4::authorization(&keys.access_key, &keys.secret_key, &scope, &request);
        let mut request = inner.client.post(inner.url.clone()).header("authorization", authorization);
        for (name, value) in headers.iter().filter(|(n, _)| *n != "host") {
            request = request.header(*name, *value);
        }
        let mut response = request.body(Bytes::from(form.to_owned())).send().await.map_err(Failure::of_transport)?;
        let status = response.status().as_u16();
        let answer_headers = response.headers().clone();
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(Failure::of_transport)? {
            if body.len() + piece.len() > ANSWER_MOST {
                return Err(Failure::Bad("answer larger than 1 MiB".into()));
            }
            body.extend_from_slice(&piece);
        }
        let root = xml::root_name(&body);
        if !(200..300).contains(&status) || matches!(root.as_deref(), Some("Error" | "ErrorResponse")) {
            return Err(answered(status, &answer_headers, &body));
        }
        let now = header(&answer_headers, "date").and_then(xml::time).unwrap_or_else(SystemTime::now);
        session(&body, now).map_err(Failure::Bad)
    }

    /// Signs for the region that the service names, or for the other spelling; once.
    fn correct_region(&self, answer: &Answered, moved: &mut bool) -> bool {
        let mut region = self.0.region.lock();
        let other = match &answer.region {
            Some(named) if named != &*region => named.clone(),
            _ => match &self.0.settings.other_region {
                Some(other)
                    if *other != *region
                        && matches!(
                            answer.code.as_str(),
                            "SignatureDoesNotMatch" | "AuthorizationHeaderMalformed" | "InvalidSignatureException"
                        ) =>
                {
                    other.clone()
                }
                _ => return false,
            },
        };
        if std::mem::replace(moved, true) {
            return false;
        }
        tracing::info!(region = %other, "token service: signing for another region");
        *region = other;
        true
    }

    fn correct_clock(&self, answer: &Answered, corrected: &mut bool) -> bool {
        let Some(theirs) = answer.date.and_then(|d| Timestamp::try_from(d).ok()) else { return false };
        let offset = theirs.duration_since(Timestamp::now());
        let known = SignedDuration::from_millis(self.0.clock.load(Ordering::Relaxed));
        if !matches!(answer.status, 400 | 401 | 403)
            || (offset - known).unsigned_abs() <= SKEW
            || std::mem::replace(corrected, true)
        {
            return false;
        }
        self.0.clock.store(i64::try_from(offset.as_millis()).unwrap_or(0), Ordering::Relaxed);
        true
    }
}

/// Reads the answer that arrived at `now` by the service's clock.
fn session(body: &[u8], now: SystemTime) -> Result<Session, String> {
    let document = xml::parse(body)?;
    let credentials = document.find("Credentials").ok_or("answer without credentials")?;
    let text = |name: &str| credentials.some(name).map(|t| t.trim().to_owned());
    let (Some(access_key), Some(secret_key)) = (text("AccessKeyId"), text("SecretAccessKey")) else {
        return Err("answer without keys".into());
    };
    let expiration = text("Expiration").unwrap_or_default();
    let lifetime = match xml::time(&expiration) {
        None => None,
        Some(end) => Some(end.duration_since(now).map_err(|_| "answer with keys that have expired".to_owned())?),
    };
    let role = document.find("AssumedRoleUser").and_then(|u| u.some("Arn"));
    Ok(Session { keys: Keys { access_key, secret_key, token: text("SessionToken") }, lifetime, expiration, role })
}

fn explained(error: Error, request: &AssumeRole) -> Error {
    let error = match (error.kind(), error.code()) {
        (Kind::NoBucket, _) | (_, "NoSuchEntity") => error.with_kind(Kind::NotFound),
        (Kind::Denied, "AccessDenied" | "") => error.with_fix("check the keys, and that the role trusts their user"),
        _ => error,
    };
    match request.warning() {
        Some(warning) if matches!(error.kind(), Kind::NotFound | Kind::Invalid | Kind::Denied) => {
            error.with_fix(warning)
        }
        _ => error,
    }
}

/// Keys of sessions of a role, renewed before they end. `base` are the keys that may take the role.
///
/// Errors: those of [`AssumeRole::check`]. Nothing is sent yet.
pub fn role_credentials(base: Credentials, sts: Sts, request: AssumeRole) -> Result<Credentials> {
    request.check()?;
    if base.is_anonymous() {
        return Err(Error::new(Kind::Invalid, "assume role: there are no keys to take the role with")
            .with_fix("do not use `anonymous` together with `role_arn`"));
    }
    if let Some(warning) = request.warning() {
        tracing::warn!("{warning}");
    }
    let source = format!("role {} with {}", request.role_arn, base.source());
    let request = Arc::new(request);
    Ok(Credentials::renewed(source, move || {
        let (base, sts, request) = (base.clone(), sts.clone(), request.clone());
        Box::pin(async move {
            let none = || Error::new(Kind::Denied, "assume role: there are no keys to take the role with");
            let mut keys = base.current().await?.ok_or_else(none)?;
            let session = match sts.assume_role(&keys, &request).await {
                // The keys behind the role may have been changed, too.
                Err(e) if e.kind() == Kind::Denied && base.reload(&keys, false).await => {
                    keys = base.current().await?.ok_or_else(none)?;
                    sts.assume_role(&keys, &request).await?
                }
                session => session?,
            };
            Ok(Fresh { keys: session.keys, lifetime: session.lifetime })
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role() -> AssumeRole {
        AssumeRole { policy: Some("{}".into()), ..AssumeRole::new("arn:aws:iam:::role/r", "mount-1") }
    }

    // XOS-STS-05 to XOS-STS-08, STS-JS-04
    #[test]
    fn what_the_service_would_refuse_is_not_sent() {
        role().check().unwrap();
        let broken = |f: &dyn Fn(&mut AssumeRole)| {
            let mut r = role();
            f(&mut r);
            r.check().map_err(|e| e.kind())
        };
        let bad = Err(Kind::Invalid);
        assert_eq!(broken(&|r| r.session_name = "a".into()), bad);
        assert_eq!(broken(&|r| r.session_name = "a".repeat(64)), Ok(()));
        assert_eq!(broken(&|r| r.session_name = "a".repeat(65)), bad);
        assert_eq!(broken(&|r| r.session_name = "a b".into()), bad);
        assert_eq!(broken(&|r| r.session_name = "_+=,.@-".into()), Ok(()));
        assert_eq!(broken(&|r| r.duration = Duration::from_secs(899)), bad);
        assert_eq!(broken(&|r| r.duration = Duration::from_secs(43_200)), Ok(()));
        assert_eq!(broken(&|r| r.duration = Duration::from_secs(43_201)), bad);
        assert_eq!(broken(&|r| r.policy = Some(String::new())), bad);
        assert_eq!(broken(&|r| r.policy = Some(format!("{{\"a\":\"{}\"}}", "x".repeat(2040)))), Ok(()));
        assert_eq!(broken(&|r| r.policy = Some(format!("{{\"a\":\"{}\"}}", "x".repeat(2041)))), bad);
        assert_eq!(broken(&|r| r.policy = Some("nope".into())), bad);
        assert_eq!(broken(&|r| r.role_arn = "role/r".into()), bad);
        assert_eq!(role().duration.as_secs(), 3600);
    }

    // CON-10
    #[test]
    fn an_arn_of_five_fields_is_sent_with_a_warning() {
        let five = AssumeRole::new("arn:aws:iam::role/r", "ab");
        five.check().unwrap();
        assert!(five.warning().unwrap().contains("arn:aws:iam:::role/r"));
        assert_eq!(role().warning(), None);
    }

    // STS-JS-02
    #[test]
    fn forms_have_no_plus_for_a_blank() {
        let request = AssumeRole {
            policy: Some("{\"a\": 1}".into()),
            duration: Duration::from_secs(900),
            external_id: Some("x+y".into()),
            ..role()
        };
        assert_eq!(
            request.form(),
            "Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A%3Arole%2Fr&RoleSessionName=mount-1\
             &Policy=%7B%22a%22%3A%201%7D&DurationSeconds=900&ExternalId=x%2By"
        );
    }

    // XOS-STS-09
    #[test]
    fn the_answer_is_read_by_the_service_s_clock() {
        let text = b"<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
            <Credentials><AccessKeyId>a</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>\
            <Expiration>2026-01-01T01:00:00Z</Expiration></Credentials><AssumedRoleUser><Arn>r</Arn></AssumedRoleUser>\
            </AssumeRoleResult></AssumeRoleResponse>";
        let now = xml::time("2026-01-01T00:00:00Z").unwrap();
        let found = session(text, now).unwrap();
        assert_eq!(found.lifetime, Some(Duration::from_secs(3600)));
        assert_eq!((found.keys.token.as_deref(), found.role.as_deref()), (Some("t"), Some("r")));
        assert!(!format!("{found:?}").contains("\"t\""), "{found:?}");
        assert!(session(text, now + Duration::from_secs(3601)).is_err());
        assert!(session(b"<AssumeRoleResponse/>", now).is_err());
    }

    // CON-09, XOS-STS-03
    #[test]
    fn endpoint_and_region_are_those_of_the_provider_unless_given() {
        use crate::config::provider::{AWS, CEPH, XOS};
        let store = "https://gdoss.xstore.ctyun.cn";
        let xos = StsSettings::of(&XOS, Some(store), "us-east-1", None, None).unwrap();
        assert_eq!((xos.endpoint.as_str(), xos.region.as_str()), (store, "ctyun"));
        assert_eq!(xos.other_region.as_deref(), Some("cn"));
        let given = StsSettings::of(&XOS, Some(store), "us-east-1", Some("https://sts.x"), Some("cn")).unwrap();
        assert_eq!((given.endpoint.as_str(), given.region.as_str(), given.other_region), ("https://sts.x", "cn", None));
        let aws = StsSettings::of(&AWS, None, "eu-west-1", None, None).unwrap();
        assert_eq!((aws.endpoint.as_str(), aws.region.as_str()), ("https://sts.eu-west-1.amazonaws.com", "eu-west-1"));
        assert_eq!(StsSettings::of(&CEPH, None, "x", None, None).unwrap_err().kind(), Kind::Invalid);
    }
}

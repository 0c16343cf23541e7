//! From options to a store that has answered.
//!
//! 1. At boot, name service, network, credentials and the store itself come up in any order: what may still come is
//!    retried for `mount_timeout`, what is wrong is reported at once.
//! 2. Rights may end at the prefix, or not include listing: the only question asked is one LIST of one key inside the
//!    prefix, and being denied that is a warning. Ceph denies in the same words when the secret key is wrong: there,
//!    a second question tells the one from the other.
//! 3. The one line that a person gets names the setting to change.

use std::path::Path;
use std::time::{Duration, Instant};

use super::report::Report;
use super::{Request, env, role};
use crate::config::credentials::{self, Credentials, ProfileSettings};
use crate::config::{Options, Provider, Source, options, provider};
use crate::error::{Error, Kind, Result};
use crate::s3::{self, ListQuery, S3, Versioning, is_plain_denial};

/// Requests at a time; more only wait for each other's bandwidth.
const MAX_REQUESTS: usize = 64;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(3);
/// What the store's own deadline may be late by.
const GRACE: Duration = Duration::from_secs(5);

/// Settings of the store for one bucket, from options, profile and defaults.
pub fn settings(options: &Options, source: &Source, env: &dyn Fn(&str) -> Option<String>) -> Result<s3::Settings> {
    let profile = options.profile.as_deref();
    let of_profile = credentials::profile_settings(profile, env);
    let endpoint = options.endpoint.clone().or_else(|| of_profile.endpoint_url.clone());
    let provider = Provider::find(options.provider, endpoint.as_deref());
    let region = options.region.clone().or_else(|| of_profile.region.clone());
    let region = region.unwrap_or_else(|| provider.region_of(endpoint.as_deref()));
    // Keys in the environment come before the profile, and so before its role.
    let own = profile.is_none() && credentials::in_environment(env);
    let role_profile = if own { ProfileSettings::default() } else { of_profile };
    let request = role::request(options, source, &role_profile, provider)?;
    let credentials = if options.anonymous {
        Credentials::anonymous()
    } else {
        let base = Credentials::find(role_profile.source_profile.as_deref().or(profile), env)?;
        let place = role::Place { provider, endpoint: endpoint.as_deref(), region: &region };
        role::credentials(request, || role::service(options, &place), base)?
    };
    Ok(s3::Settings {
        region,
        endpoint,
        bucket: source.bucket.clone(),
        addressing: match options.addressing.or(provider.addressing) {
            options::Addressing::Auto => s3::Addressing::Auto,
            options::Addressing::Path => s3::Addressing::Path,
            options::Addressing::Virtual => s3::Addressing::Virtual,
        },
        signature: match options.signature.or(provider.signature) {
            options::Signature::V4 | options::Signature::Auto => s3::Signature::V4,
            options::Signature::V2 => s3::Signature::V2,
        },
        credentials,
        connect_timeout: options.connect_timeout,
        read_timeout: options.read_timeout,
        op_timeout: options.op_timeout,
        retries: options.retries,
        list_version: match options.list.or(provider.list) {
            options::ListVersion::Auto => s3::ListVersion::Auto,
            options::ListVersion::V1 => s3::ListVersion::V1,
            options::ListVersion::V2 => s3::ListVersion::V2,
        },
        list_encoding: provider.list_encoding,
        checksum: match (options.checksum, provider.checksum) {
            (options::Checksum::Off, _) => s3::Checksum::Off,
            (options::Checksum::Crc32c, _) | (options::Checksum::Auto, provider::Checksum::Crc32c) => {
                s3::Checksum::Crc32c
            }
            (options::Checksum::Md5, _) | (options::Checksum::Auto, provider::Checksum::ContentMd5) => {
                s3::Checksum::ContentMd5
            }
        },
        max_requests: MAX_REQUESTS,
        user_agent: concat!("xosfs/", env!("CARGO_PKG_VERSION")).to_owned(),
        requester_pays: options.requester_pays,
    })
}

/// The row of the provider table for these options: the endpoint may come from the profile.
pub fn provider(options: &Options, env: &dyn Fn(&str) -> Option<String>) -> &'static Provider {
    let of_profile = || credentials::profile_settings(options.profile.as_deref(), env).endpoint_url;
    Provider::find(options.provider, options.endpoint.clone().or_else(of_profile).as_deref())
}

/// A store that has answered for this bucket and prefix.
pub async fn connect(request: &Request, report: &mut Report) -> Result<S3> {
    if !request.options.read_only {
        check_staging(&request.options.staging(&env))?;
    }
    let deadline = Instant::now() + request.options.patience();
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match attempt(request, report).await {
            Ok(s3) => return Ok(s3),
            Err(e) => e,
        };
        if !may_pass(&error) || Instant::now() + pause > deadline {
            return Err(explain(error, &request.options, &request.source.bucket));
        }
        if pause == FIRST_PAUSE {
            let seconds = request.options.patience().as_secs();
            report.warn(&format!("not ready yet ({error}); trying for {seconds} s (mount_timeout)"));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

async fn attempt(request: &Request, report: &mut Report) -> Result<S3> {
    let s3 = S3::new(settings(&request.options, &request.source, &env)?)?;
    let patience = request.options.op_timeout * 2 + GRACE;
    let questions = async {
        if request.source.is_all_buckets() {
            return probe_all(&s3, request.options.anonymous).await;
        }
        let warning = probe(&s3, &request.source).await?;
        match request.options.as_of {
            Some(_) => Ok(warning.or(check_versions(&s3).await?)),
            None => Ok(warning),
        }
    };
    match tokio::time::timeout(patience, questions).await {
        Ok(Ok(None)) => Ok(s3),
        Ok(Ok(Some(warning))) => {
            report.warn(&warning);
            Ok(s3)
        }
        Ok(Err(e)) => Err(e),
        Err(_) => Err(Error::new(Kind::Timeout, "first request to the store")),
    }
}

/// One LIST inside the prefix; the warning, if there is one.
async fn probe(s3: &S3, source: &Source) -> Result<Option<String>> {
    let query = ListQuery { prefix: source.prefix.as_str(), delimited: false, from: None, max_keys: Some(1) };
    let empty = match s3.list(&query).await {
        Ok(page) => page.objects.is_empty() && page.prefixes.is_empty(),
        Err(e) if is_plain_denial(&e) => {
            if is_ceph(&e) && s3.list_buckets().await.is_err_and(|e| is_plain_denial(&e)) {
                return Err(e.with_fix(format!(
                    "check access key and secret key (`profile`): this store (Ceph) does not tell a wrong one from \
                     missing rights; if they are right, grant s3:ListBucket on {:?}",
                    source.bucket
                )));
            }
            return Ok(Some(format!(
                "listing {source} is not allowed ({}); names are only found when asked for by name; grant s3:ListBucket",
                e.code()
            )));
        }
        Err(e) => return Err(e),
    };
    let file = source.prefix.without_slash().filter(|_| empty);
    let Some(file) = file else { return Ok(None) };
    match s3.head(&file, None).await {
        Ok(_) => Err(Error::new(Kind::NotDir, format!("prefix {:?} of {} is a file", file.as_str(), source.bucket))
            .with_fix("mount the prefix it is in")),
        Err(e) if e.kind() == Kind::NotFound || is_plain_denial(&e) => {
            Ok(Some(format!("nothing is stored under {source} yet; the mount starts empty")))
        }
        Err(e) => Err(e),
    }
}

/// One listing of the buckets; the warning, if there is one.
async fn probe_all(s3: &S3, anonymous: bool) -> Result<Option<String>> {
    match s3.list_buckets().await {
        Ok(_) => Ok(None),
        Err(e) if is_plain_denial(&e) && is_ceph(&e) && !anonymous => Err(e.with_fix(
            "check access key and secret key (`profile`): this store (Ceph) does not tell a wrong one from missing \
             rights; if they are right, grant s3:ListAllMyBuckets",
        )),
        Err(e) if is_plain_denial(&e) => Ok(Some(format!(
            "listing the buckets is not allowed ({}); they are only found when asked for by name; grant \
             s3:ListAllMyBuckets",
            e.code()
        ))),
        Err(e) => Err(e),
    }
}

/// Without versions there is no past to show, and what is there now would pass for it. The warning, if there is one.
pub(super) async fn check_versions(s3: &S3) -> Result<Option<String>> {
    match s3.versioning().await {
        Ok(Versioning::Enabled | Versioning::Suspended) => Ok(None),
        Err(e) if e.kind() == Kind::Denied => Ok(Some(format!(
            "whether the bucket keeps versions may not be asked ({}); if not, as_of shows it wrong",
            e.code()
        ))),
        Err(e) if e.kind() != Kind::Unsupported => Err(e),
        Ok(Versioning::Off) | Err(_) => {
            let what = format!("bucket {:?} keeps no versions, so nobody knows what was in it", s3.bucket());
            Err(Error::new(Kind::Unsupported, what)
                .with_fix("mount it without `as_of`; versions are kept from the moment they are switched on"))
        }
    }
}

/// By the form of its request ids, `tx` and hexadecimal digits: Ceph names itself nowhere else in an error.
fn is_ceph(error: &Error) -> bool {
    let id = error.reply().map_or("", |r| r.request_id.as_str());
    id.strip_prefix("tx").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_hexdigit()))
}

/// Whether waiting may help.
fn may_pass(error: &Error) -> bool {
    match error.kind() {
        Kind::Unavailable | Kind::Timeout => true,
        // No answer of the store: credentials that are not there yet.
        Kind::Denied => error.reply().is_none(),
        _ => false,
    }
}

/// Adds the setting to change where the store's client knew none.
pub fn explain(error: Error, options: &Options, bucket: &str) -> Error {
    if let Some(fix) = error.fix() {
        // It may come from the environment or a file, and then nobody sees it on the command line.
        return match (&options.endpoint, error.kind()) {
            (Some(endpoint), Kind::Unavailable | Kind::Timeout | Kind::Io) if !error.to_string().contains(endpoint) => {
                let fix = format!("{fix} (`endpoint` is {endpoint})");
                error.with_fix(fix)
            }
            _ => error,
        };
    }
    let endpoint = options.endpoint.as_deref().unwrap_or("AWS, because `endpoint` is not set");
    let fix = match error.kind() {
        Kind::NoBucket | Kind::NotFound if bucket.is_empty() => {
            format!("nothing lists buckets at {endpoint}: check `endpoint` and `region`")
        }
        Kind::NoBucket | Kind::NotFound => {
            format!("there is no bucket {bucket:?} at {endpoint}: check the name, `endpoint` and `region`")
        }
        Kind::Denied => match error.code() {
            "InvalidAccessKeyId" => {
                "this store does not know the access key: check `profile` and `endpoint`".to_owned()
            }
            "SignatureDoesNotMatch" => "the secret key is wrong: check the credentials (`profile`)".to_owned(),
            "ExpiredToken" | "InvalidToken" => "the session token has expired: renew the credentials".to_owned(),
            "RequestTimeTooSkewed" => "set the clock of this machine".to_owned(),
            _ if bucket.is_empty() => "check that these credentials (`profile`) may list buckets".to_owned(),
            _ => format!("check that these credentials (`profile`) may use bucket {bucket:?}"),
        },
        Kind::Unavailable | Kind::Timeout => format!("check `endpoint` ({endpoint}) and the network"),
        Kind::Io | Kind::Invalid | Kind::Unsupported => format!("check that `endpoint` ({endpoint}) is an S3 endpoint"),
        _ => return error,
    };
    error.with_fix(fix)
}

/// The directory exists and takes a file.
pub fn check_staging(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .and_then(|()| tempfile::tempfile_in(dir).map(drop))
        .map_err(|e| {
            Error::new(Kind::Invalid, format!("staging directory {}: {e}", dir.display()))
                .with_fix("set `staging_dir` to a directory that can be written to")
        })
}

/// The directory of the disk cache is ours alone and takes a file.
pub fn check_cache(dir: &Path) -> Result<()> {
    crate::cache::disk::check(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reply;

    fn request() -> Request {
        Request {
            source: "b:/p".parse().unwrap(),
            dir: "/d".into(),
            options: Options { endpoint: Some("http://h:1".into()), ..Options::default() },
            background: false,
        }
    }

    fn refused(code: &str) -> Error {
        let reply = Reply { status: 403, code: code.into(), ..Reply::default() };
        Error::new(Kind::Denied, "list objects").with_reply(reply)
    }

    #[test]
    fn every_failure_names_a_setting() {
        for (error, part) in [
            (Error::new(Kind::NoBucket, "list objects"), "no bucket \"b\" at http://h:1"),
            (refused("InvalidAccessKeyId"), "`profile`"),
            (refused("SignatureDoesNotMatch"), "secret key is wrong"),
            (refused("ExpiredToken"), "renew"),
            (Error::new(Kind::Unavailable, "list objects"), "`endpoint` (http://h:1)"),
            (Error::new(Kind::Io, "list objects"), "S3 endpoint"),
            (Error::new(Kind::Denied, "x").with_fix("known"), "known"),
        ] {
            let request = request();
            let line = explain(error, &request.options, &request.source.bucket).to_string();
            assert!(line.contains(part) && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn only_what_may_pass_is_waited_for() {
        assert!(may_pass(&Error::new(Kind::Unavailable, "x")));
        assert!(may_pass(&Error::new(Kind::Denied, "find credentials")));
        assert!(!may_pass(&refused("SignatureDoesNotMatch")));
        assert!(!may_pass(&Error::new(Kind::NoBucket, "x")));
        assert!(is_plain_denial(&refused("AccessDenied")) && !is_plain_denial(&refused("InvalidAccessKeyId")));
    }

    #[test]
    fn a_staging_directory_that_cannot_be_written_names_the_option() {
        let error = check_staging(Path::new("/proc/no/such")).unwrap_err().to_string();
        assert!(error.contains("`staging_dir`"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        check_staging(&dir.path().join("a/b")).unwrap();
    }

    #[test]
    fn a_profile_s_role_is_taken_unless_keys_are_in_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        let text = "[default]\nrole_arn = arn:aws:iam:::role/r\nsource_profile = keys\n\
                    [profile keys]\naws_access_key_id = a\naws_secret_access_key = b\n";
        std::fs::write(&file, text).unwrap();
        let source = |in_environment: bool| {
            let env = |name: &str| match name {
                "AWS_CONFIG_FILE" => Some(file.to_str().unwrap().to_owned()),
                "HOME" => Some("/nonexistent".to_owned()),
                "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY" => in_environment.then(|| "x".to_owned()),
                _ => None,
            };
            settings(&request().options, &request().source, &env).unwrap().credentials.source()
        };
        assert!(source(false).starts_with("role arn:aws:iam:::role/r with profile \"keys\""), "{}", source(false));
        assert_eq!(source(true), "environment");
    }

    #[test]
    fn options_become_settings() {
        let keys = |name: &str| name.starts_with("AWS_").then(|| "x".to_owned());
        let settings = settings(&request().options, &request().source, &keys).unwrap();
        assert_eq!(settings.endpoint.as_deref(), Some("http://h:1"));
        assert_eq!((settings.region.as_str(), settings.bucket.as_str()), ("us-east-1", "b"));
        assert_eq!(settings.op_timeout, Duration::from_secs(60));
        assert!(settings.list_encoding);
    }

    #[test]
    fn the_provider_decides_what_is_not_given() {
        let keys = |name: &str| name.starts_with("AWS_").then(|| "x".to_owned());
        let load = |list: &str| {
            let options = Options::load(&[list.to_owned()], false, &|_| None).unwrap();
            settings(&options, &request().source, &keys).unwrap()
        };
        let obs = load("endpoint=https://obs.cn-north-4.myhuaweicloud.com");
        assert_eq!((obs.region.as_str(), obs.list_version), ("cn-north-4", s3::ListVersion::V1));
        assert!(!obs.list_encoding);
        let ceph = load("endpoint=http://store.example:7480,provider=ceph");
        assert_eq!((ceph.addressing, ceph.list_version), (s3::Addressing::Path, s3::ListVersion::Auto));
        let given = load("endpoint=https://gdoss.xstore.ctyun.cn,list=v2,addressing=path,region=cn,signature=v2");
        assert_eq!((given.addressing, given.list_version), (s3::Addressing::Path, s3::ListVersion::V2));
        assert_eq!((given.region.as_str(), given.signature), ("cn", s3::Signature::V2));
    }
}

//! Where access keys come from, and how they are kept fresh while a mount lives for months.
//!
//! 1. Keys are rotated on disk by others: shared files are read again when their modification time changes (looked
//!    at once per second at most), and on demand after the store refused a request.
//! 2. A rotation is not atomic everywhere: a file that cannot be read or lacks the profile for a moment keeps the
//!    last good keys in use, with a warning.
//! 3. Keys are secrets: no `Debug`, log line or error of this module holds one.
//! 4. Keys that expire come from a source that fetches others (`renewed`): a role's sessions, a credential process.

mod process;
mod renewed;

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ini::{Ini, ParseOption};
use parking_lot::Mutex;

pub use self::renewed::{Fetching, Fresh};
use crate::error::{Error, Kind, Result};

/// How often the files are looked at: one `stat` per second costs nothing, one per request would.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Keys of one identity.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    pub access_key: String,
    pub secret_key: String,
    /// Session token of temporary keys.
    pub token: Option<String>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("access_key", &self.access_key)
            .field("secret_key", &"…")
            .field("token", &self.token.as_ref().map(|_| "…"))
            .finish()
    }
}

/// A cheap handle on a source of keys; clones share what was read.
#[derive(Clone)]
pub struct Credentials(Arc<Source>);

enum Source {
    Anonymous,
    Static(Arc<Keys>),
    Environment(Arc<Keys>),
    Files(Files),
    Renewed(Arc<renewed::Renewed>),
}

struct Files {
    paths: [PathBuf; 2],
    profile: String,
    state: Mutex<FileState>,
}

struct FileState {
    keys: Arc<Keys>,
    seen: [Option<SystemTime>; 2],
    looked: Instant,
}

/// What a profile says besides keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProfileSettings {
    pub region: Option<String>,
    pub endpoint_url: Option<String>,
    /// The role to take, with the keys of `source_profile` (else of the profile itself, or the environment).
    pub role_arn: Option<String>,
    pub source_profile: Option<String>,
    pub role_session_name: Option<String>,
    pub external_id: Option<String>,
    /// Seconds.
    pub duration_seconds: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.source())
    }
}

impl Credentials {
    /// Requests are sent unsigned.
    pub fn anonymous() -> Self {
        Credentials(Arc::new(Source::Anonymous))
    }

    /// Fixed keys.
    pub fn fixed(access_key: impl Into<String>, secret_key: impl Into<String>, token: Option<String>) -> Self {
        let keys = Keys { access_key: access_key.into(), secret_key: secret_key.into(), token };
        Credentials(Arc::new(Source::Static(Arc::new(keys))))
    }

    /// Keys that expire and are fetched by `fetch`, at first when they are needed. `source` names it in messages.
    pub fn renewed(source: impl Into<String>, fetch: impl Fn() -> Fetching + Send + Sync + 'static) -> Self {
        Credentials(Arc::new(Source::Renewed(Arc::new(renewed::Renewed::new(source.into(), Box::new(fetch))))))
    }

    /// The first source that has keys: the environment (`AWS_…`, then `OBS_…`), unless a profile is asked for by
    /// name; then the profile in the shared files (`AWS_PROFILE`, else `default`): its keys, else its
    /// `credential_process`.
    ///
    /// Errors: [`Kind::Denied`] when there are none, naming what was looked at; [`Kind::Invalid`] for half a pair.
    pub fn find(profile: Option<&str>, env: &dyn Fn(&str) -> Option<String>) -> Result<Credentials> {
        if profile.is_none()
            && let Some(keys) = environment(env)?
        {
            return Ok(Credentials(Arc::new(Source::Environment(Arc::new(keys)))));
        }
        let paths = paths(env);
        let profile = profile_name(profile, env);
        let seen = [modified(&paths[0]), modified(&paths[1])];
        let found = read_keys(&paths, &profile);
        if let Ok(None) = found
            && let Some(line) = setting(&paths, &profile, "credential_process")
        {
            let words = process::words(&line).map_err(|why| {
                Error::new(Kind::Invalid, format!("read credentials: credential_process of profile {profile:?}: {why}"))
            })?;
            let source = format!("credential_process of profile {profile:?}");
            return Ok(Credentials::renewed(source, move || {
                let words = words.clone();
                Box::pin(async move { process::run(&words).await })
            }));
        }
        match found {
            Ok(Some(keys)) => {
                for path in &paths {
                    warn_of_readers(path);
                }
                let state = Mutex::new(FileState { keys: Arc::new(keys), seen, looked: Instant::now() });
                Ok(Credentials(Arc::new(Source::Files(Files { paths, profile, state }))))
            }
            Ok(None) => Err(Error::new(
                Kind::Denied,
                format!(
                    "find credentials: none in AWS_ACCESS_KEY_ID, OBS_ACCESS_KEY_ID, nor under profile {profile:?} in {} or {}",
                    paths[0].display(),
                    paths[1].display()
                ),
            )
            .with_fix(
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write the profile, or mount with `anonymous`",
            )),
            Err(why) => Err(Error::new(Kind::Invalid, format!("read credentials: {why}"))
                .with_fix("correct the file, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")),
        }
    }

    pub fn is_anonymous(&self) -> bool {
        matches!(*self.0, Source::Anonymous)
    }

    /// Where the keys come from, for messages.
    pub fn source(&self) -> String {
        match &*self.0 {
            Source::Anonymous => "anonymous".into(),
            Source::Static(_) => "fixed keys".into(),
            Source::Environment(_) => "environment".into(),
            Source::Files(f) => format!("profile {:?} in {}", f.profile, f.paths[0].display()),
            Source::Renewed(r) => r.source.clone(),
        }
    }

    /// The keys to sign with now, fetched if need be; `None` is anonymous.
    ///
    /// Errors: those of the source; none of sources that are read at the start.
    pub async fn current(&self) -> Result<Option<Arc<Keys>>> {
        match &*self.0 {
            Source::Renewed(renewed) => renewed.current().await.map(Some),
            _ => Ok(self.keys()),
        }
    }

    /// When the keys that are held now stop working, if they do.
    pub fn end(&self) -> Option<SystemTime> {
        match &*self.0 {
            Source::Renewed(renewed) => renewed.end(),
            _ => None,
        }
    }

    /// The keys that are held now; `None` is anonymous, or not fetched yet.
    pub fn keys(&self) -> Option<Arc<Keys>> {
        match &*self.0 {
            Source::Anonymous => None,
            Source::Static(k) | Source::Environment(k) => Some(k.clone()),
            Source::Files(files) => {
                files.look(false);
                Some(files.state.lock().keys.clone())
            }
            Source::Renewed(renewed) => renewed.held(),
        }
    }

    /// Reads the source again, because the store refused `used`. True when there are other keys now. `certain`: the
    /// store said that they have expired, not only that it refuses.
    pub async fn reload(&self, used: &Keys, certain: bool) -> bool {
        match &*self.0 {
            Source::Files(files) => {
                files.look(true);
                *files.state.lock().keys != *used
            }
            Source::Renewed(renewed) => renewed.refused(used, certain).await,
            _ => false,
        }
    }
}

impl Files {
    fn look(&self, now: bool) {
        let mut state = self.state.lock();
        if !now && state.looked.elapsed() < LOOK_EVERY {
            return;
        }
        state.looked = Instant::now();
        let seen = [modified(&self.paths[0]), modified(&self.paths[1])];
        if !now && seen == state.seen {
            return;
        }
        match read_keys(&self.paths, &self.profile) {
            Ok(Some(keys)) => {
                state.seen = seen;
                if *state.keys != keys {
                    tracing::info!(profile = %self.profile, "credentials changed on disk, using the new ones");
                    state.keys = Arc::new(keys);
                }
            }
            Ok(None) => {
                tracing::warn!(profile = %self.profile, "profile is gone from the credentials file, keeping the old keys");
            }
            Err(why) => tracing::warn!("cannot read credentials ({why}), keeping the old keys"),
        }
    }
}

/// Whether the environment has a pair of keys.
pub fn in_environment(env: &dyn Fn(&str) -> Option<String>) -> bool {
    matches!(environment(env), Ok(Some(_)))
}

/// Region and endpoint of the profile, from the same files. A missing or broken file says nothing.
pub fn profile_settings(profile: Option<&str>, env: &dyn Fn(&str) -> Option<String>) -> ProfileSettings {
    let profile = profile_name(profile, env);
    let mut settings = ProfileSettings::default();
    // The config file is where these belong; the credentials file is second.
    for path in paths(env).iter().rev() {
        let Ok(Some(file)) = load(path) else { continue };
        settings.region = settings.region.or_else(|| value(&file, &profile, "region"));
        let take = |old: Option<String>, name| old.or_else(|| value(&file, &profile, name));
        settings.endpoint_url = take(settings.endpoint_url, "endpoint_url");
        settings.role_arn = take(settings.role_arn, "role_arn");
        settings.source_profile = take(settings.source_profile, "source_profile");
        settings.role_session_name = take(settings.role_session_name, "role_session_name");
        settings.external_id = take(settings.external_id, "external_id");
        settings.duration_seconds = take(settings.duration_seconds, "duration_seconds");
    }
    settings
}

fn environment(env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Keys>> {
    let get = |name: &str| env(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
    for (ak, sk, token) in [
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
        ("OBS_ACCESS_KEY_ID", "OBS_SECRET_ACCESS_KEY", "OBS_SECURITY_TOKEN"),
    ] {
        match (get(ak), get(sk)) {
            (Some(access_key), Some(secret_key)) => {
                return Ok(Some(Keys { access_key, secret_key, token: get(token) }));
            }
            (None, None) => {}
            (Some(_), None) => return Err(half(ak, sk)),
            (None, Some(_)) => return Err(half(sk, ak)),
        }
    }
    Ok(None)
}

fn half(set: &str, missing: &str) -> Error {
    Error::new(Kind::Invalid, format!("find credentials: {set} is set, but {missing} is not"))
        .with_fix(format!("set {missing}, or unset {set}"))
}

fn profile_name(profile: Option<&str>, env: &dyn Fn(&str) -> Option<String>) -> String {
    profile
        .map(str::to_owned)
        .or_else(|| env("AWS_PROFILE").filter(|p| !p.is_empty()))
        .unwrap_or_else(|| "default".into())
}

/// Credentials file, then config file.
fn paths(env: &dyn Fn(&str) -> Option<String>) -> [PathBuf; 2] {
    let home = env("HOME").filter(|h| !h.is_empty()).unwrap_or_else(|| "/root".into());
    let path = |name: &str, default: &str| match env(name).filter(|p| !p.is_empty()) {
        Some(path) => match path.strip_prefix("~/") {
            Some(rest) => Path::new(&home).join(rest),
            None => PathBuf::from(path),
        },
        None => Path::new(&home).join(default),
    };
    [path("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"), path("AWS_CONFIG_FILE", ".aws/config")]
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|m| m.modified()).ok()
}

fn warn_of_readers(path: &Path) {
    if let Ok(meta) = std::fs::metadata(path)
        && meta.permissions().mode() & 0o044 != 0
    {
        tracing::warn!(path = %path.display(), "others can read this credentials file; chmod 600 it");
    }
}

/// `None`: there is no such file.
fn load(path: &Path) -> Result<Option<Ini>, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(format!("{}: {e}", path.display())),
    };
    // Keys may hold `\` and quotes: they are data here.
    let option = ParseOption { enabled_escape: false, enabled_quote: false, ..ParseOption::default() };
    match Ini::load_from_str_opt(&text, option) {
        Ok(ini) => Ok(Some(ini)),
        // Without the parser's own message: it may quote the line, and with it a secret.
        Err(e) => Err(format!("{}: syntax error in line {}", path.display(), e.line)),
    }
}

fn value(file: &Ini, profile: &str, name: &str) -> Option<String> {
    let long = format!("profile {profile}");
    file.iter()
        .filter(|(section, _)| section.is_some_and(|s| s.trim() == profile || s.trim() == long))
        .find_map(|(_, properties)| properties.get(name))
        .map(|v| v.trim().to_owned())
        .filter(|v| !v.is_empty())
}

/// From the config file, else from the credentials file.
fn setting(paths: &[PathBuf; 2], profile: &str, name: &str) -> Option<String> {
    paths.iter().rev().find_map(|path| value(&load(path).ok()??, profile, name))
}

fn read_keys(paths: &[PathBuf; 2], profile: &str) -> Result<Option<Keys>, String> {
    for path in paths {
        let Some(file) = load(path)? else { continue };
        let ak = value(&file, profile, "aws_access_key_id");
        let sk = value(&file, profile, "aws_secret_access_key");
        match (ak, sk) {
            (Some(access_key), Some(secret_key)) => {
                let token = value(&file, profile, "aws_session_token");
                return Ok(Some(Keys { access_key, secret_key, token }));
            }
            (None, None) => {}
            _ => return Err(format!("{}: profile {profile:?} has only half a key pair", path.display())),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
    }

    fn write(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn environment_comes_first_and_obs_names_work() {
        let c = Credentials::find(None, &env(&[("AWS_ACCESS_KEY_ID", "ak"), ("AWS_SECRET_ACCESS_KEY", "sk")])).unwrap();
        assert_eq!(c.keys().unwrap().access_key, "ak");
        assert_eq!(c.source(), "environment");
        let c = Credentials::find(
            None,
            &env(&[("OBS_ACCESS_KEY_ID", "o"), ("OBS_SECRET_ACCESS_KEY", "s"), ("OBS_SECURITY_TOKEN", "t")]),
        )
        .unwrap();
        assert_eq!(c.keys().unwrap().token.as_deref(), Some("t"));
        let e = Credentials::find(None, &env(&[("AWS_ACCESS_KEY_ID", "ak")])).unwrap_err();
        assert_eq!(e.kind(), Kind::Invalid);
        assert!(e.to_string().contains("AWS_SECRET_ACCESS_KEY"), "{e}");
    }

    #[test]
    fn profiles_in_both_files_and_settings() {
        let dir = tempfile::tempdir().unwrap();
        let (cred, conf) = (dir.path().join("credentials"), dir.path().join("config"));
        write(
            &cred,
            "[default]\naws_access_key_id = d\naws_secret_access_key=a\\b/c+\"x\"#\n[other]\naws_access_key_id=o\naws_secret_access_key=p\naws_session_token=t\n",
        );
        write(
            &conf,
            "[profile third]\naws_access_key_id=3\naws_secret_access_key=4\nregion = cn\nendpoint_url = https://x.example\n",
        );
        let (cred, conf) = (cred.to_str().unwrap(), conf.to_str().unwrap());
        let vars = [("AWS_SHARED_CREDENTIALS_FILE", cred), ("AWS_CONFIG_FILE", conf), ("HOME", "/nonexistent")];
        let env = env(&vars);
        assert_eq!(Credentials::find(None, &env).unwrap().keys().unwrap().secret_key, "a\\b/c+\"x\"#");
        let other = Credentials::find(Some("other"), &env).unwrap().keys().unwrap();
        assert_eq!((other.access_key.as_str(), other.token.as_deref()), ("o", Some("t")));
        assert_eq!(Credentials::find(Some("third"), &env).unwrap().keys().unwrap().access_key, "3");
        assert_eq!(
            profile_settings(Some("third"), &env),
            ProfileSettings {
                region: Some("cn".into()),
                endpoint_url: Some("https://x.example".into()),
                ..ProfileSettings::default()
            }
        );
        let e = Credentials::find(Some("none"), &env).unwrap_err();
        assert_eq!(e.kind(), Kind::Denied);
        assert!(e.to_string().contains(cred) && e.to_string().contains("AWS_ACCESS_KEY_ID"), "{e}");
    }

    #[tokio::test]
    async fn rotated_keys_are_found_on_demand_and_a_broken_file_keeps_the_old() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("credentials");
        write(&file, "[default]\naws_access_key_id=a\naws_secret_access_key=b\n");
        let vars = [("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap()), ("HOME", "/nonexistent")];
        let c = Credentials::find(None, &env(&vars)).unwrap();
        let first = c.keys().unwrap();
        assert!(!c.reload(&first, false).await);
        write(&file, "[default\n");
        assert!(!c.reload(&first, false).await);
        write(&file, "[default]\naws_access_key_id=n\naws_secret_access_key=m\n");
        assert!(c.reload(&first, false).await);
        assert_eq!(c.keys().unwrap().access_key, "n");
    }

    #[tokio::test]
    async fn a_profile_may_name_a_process_that_prints_keys() {
        let dir = tempfile::tempdir().unwrap();
        let (conf, printed) = (dir.path().join("config"), dir.path().join("printed"));
        write(&printed, "{\"Version\":1,\"AccessKeyId\":\"p1\",\"SecretAccessKey\":\"s\"}");
        write(&conf, &format!("[profile x]\ncredential_process = cat '{}'\n", printed.display()));
        let vars = [("AWS_CONFIG_FILE", conf.to_str().unwrap()), ("HOME", "/nonexistent")];
        let c = Credentials::find(Some("x"), &env(&vars)).unwrap();
        assert!(c.keys().is_none() && !c.is_anonymous());
        let first = c.current().await.unwrap().unwrap();
        assert_eq!(first.access_key, "p1");
        write(&printed, "{\"Version\":1,\"AccessKeyId\":\"p2\",\"SecretAccessKey\":\"s\"}");
        assert!(c.reload(&first, false).await);
        assert_eq!(c.current().await.unwrap().unwrap().access_key, "p2");
        assert_eq!(c.end(), None);
    }

    #[test]
    fn secrets_stay_out_of_debug_and_errors() {
        let c = Credentials::fixed("ak", "geheim", Some("token1".into()));
        let shown = format!("{c:?} {:?}", c.keys().unwrap());
        assert!(!shown.contains("geheim") && !shown.contains("token1"), "{shown}");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("credentials");
        write(&file, "[default]\naws_access_key_id=a\naws_secret_access_key geheim\n");
        let vars = [("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap()), ("HOME", "/nonexistent")];
        let e = Credentials::find(None, &env(&vars)).unwrap_err();
        assert!(!e.to_string().contains("geheim"), "{e}");
    }
}

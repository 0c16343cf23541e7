//! The keys of a mount that takes a role: from options and profile to a source of sessions.
//!
//! Difficulty: options, the profile and the provider all have a say, and what is missing in the end must fail when
//! mounting, not at the first renewal.

use std::time::Duration;

use crate::config::credentials::{Credentials, ProfileSettings};
use crate::config::{Options, Provider, Source};
use crate::error::{Error, Kind, Result};
use crate::policy::SessionPolicy;
use crate::s3::{AssumeRole, Sts, StsSettings, role_credentials};

/// Most bytes of a policy file that are looked at; a policy has 2048 characters.
const POLICY_FILE_MOST: u64 = 64 << 10;

/// What is known of the store when the role is taken.
pub struct Place<'a> {
    pub provider: &'a Provider,
    pub endpoint: Option<&'a str>,
    pub region: &'a str,
}

/// The token service for these options.
pub fn service(options: &Options, place: &Place<'_>) -> Result<Sts> {
    let role = &options.role;
    let settings = StsSettings::of(
        place.provider,
        place.endpoint,
        place.region,
        role.endpoint.as_deref(),
        role.region.as_deref(),
    )?;
    Sts::new(StsSettings {
        connect_timeout: options.connect_timeout,
        timeout: options.op_timeout,
        retries: options.retries,
        ..settings
    })
}

/// The session that the mount asks for; `None` when it takes no role.
pub fn request(
    options: &Options,
    source: &Source,
    profile: &ProfileSettings,
    provider: &Provider,
) -> Result<Option<AssumeRole>> {
    let role = &options.role;
    if options.anonymous {
        return match role.arn {
            Some(_) => Err(Error::new(Kind::Invalid, "`role_arn` and `anonymous` exclude each other")
                .with_fix("drop one: a role is taken with keys")),
            None => Ok(None),
        };
    }
    let Some(arn) = role.arn.as_ref().or(profile.role_arn.as_ref()) else {
        let lonely = role.session_name.is_some() || role.policy.is_some() || role.duration.is_some();
        if lonely || role.external_id.is_some() || role.endpoint.is_some() || role.region.is_some() {
            return Err(Error::new(Kind::Invalid, "options for a role, but no role").with_fix("set `role_arn`"));
        }
        return Ok(None);
    };
    let of_profile = match profile.duration_seconds.as_ref().map(|s| s.parse()) {
        None => None,
        Some(Ok(seconds)) => Some(Duration::from_secs(seconds)),
        Some(Err(_)) => return Err(Error::new(Kind::Invalid, "duration_seconds of the profile is no number")),
    };
    let name = role.session_name.clone().or_else(|| profile.role_session_name.clone());
    let mut request = AssumeRole::new(arn.as_str(), name.unwrap_or_else(default_name));
    if let Some(duration) = role.duration.or(of_profile) {
        request.duration = duration;
    }
    request.external_id = role.external_id.clone().or_else(|| profile.external_id.clone());
    request.policy = policy(options, source, provider)?;
    request.check()?;
    Ok(Some(request))
}

/// The source of keys: sessions of the role that is asked for, else `base`.
pub fn credentials(
    request: Option<AssumeRole>,
    sts: impl FnOnce() -> Result<Sts>,
    base: Credentials,
) -> Result<Credentials> {
    match request {
        None => Ok(base),
        Some(request) => role_credentials(base, sts()?, request),
    }
}

fn policy(options: &Options, source: &Source, provider: &Provider) -> Result<Option<String>> {
    let made = |p: SessionPolicy| match source.is_all_buckets() {
        true => p.json_of_all(),
        false => p.json(&source.bucket, source.prefix.as_str()),
    };
    let Some(given) = &options.role.policy else {
        let preset = if options.read_only { SessionPolicy::ReadOnly } else { SessionPolicy::ReadWrite };
        return Ok(provider.sts.as_ref().is_some_and(|s| s.policy_required).then(|| made(preset)));
    };
    if let Some(preset) = SessionPolicy::from_name(given) {
        return Ok(Some(made(preset)));
    }
    if given.starts_with('{') {
        return Ok(Some(given.clone()));
    }
    let bad = |why: String| Error::new(Kind::Invalid, format!("read role_policy {given:?}: {why}"));
    let size = std::fs::metadata(given).map_err(|e| bad(e.to_string()))?.len();
    if size > POLICY_FILE_MOST {
        return Err(bad("it is too large for a policy".into()));
    }
    let text = std::fs::read_to_string(given).map_err(|e| bad(e.to_string()))?;
    // Blanks count against the limit, and mean nothing.
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| bad(format!("no JSON ({e})")))?;
    Ok(Some(value.to_string()))
}

/// `xosfs-` and the name of this machine, as far as a session name can hold it.
fn default_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let legal = |c: &char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(*c);
    let host: String = host.chars().filter(legal).take(50).collect();
    format!("xosfs-{host}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::provider::{GENERIC, XOS};

    fn options(text: &str) -> Options {
        Options::load(&[text.to_owned()], false, &|_| None).unwrap()
    }

    fn asked(text: &str, profile: &ProfileSettings, provider: &Provider) -> Result<Option<AssumeRole>> {
        request(&options(text), &"b:/p".parse().unwrap(), profile, provider)
    }

    #[test]
    fn options_win_over_the_profile() {
        let profile = ProfileSettings {
            role_arn: Some("arn:aws:iam:::role/p".into()),
            role_session_name: Some("of-profile".into()),
            duration_seconds: Some("900".into()),
            external_id: Some("xx".into()),
            ..ProfileSettings::default()
        };
        let made = asked("", &profile, &GENERIC).unwrap().unwrap();
        assert_eq!((made.role_arn.as_str(), made.session_name.as_str()), ("arn:aws:iam:::role/p", "of-profile"));
        assert_eq!((made.duration.as_secs(), made.external_id.as_deref(), made.policy), (900, Some("xx"), None));
        let given = "role_arn=arn:aws:iam:::role/o,role_session_name=me,role_duration=12h,role_external_id=yy";
        let made = asked(given, &profile, &GENERIC).unwrap().unwrap();
        assert_eq!((made.role_arn.as_str(), made.session_name.as_str()), ("arn:aws:iam:::role/o", "me"));
        assert_eq!((made.duration.as_secs(), made.external_id.as_deref()), (43_200, Some("yy")));
    }

    // CON-12, XOS-STS-06, XOS-STS-07
    #[test]
    fn a_provider_that_wants_a_policy_gets_one_for_the_mount() {
        let none = ProfileSettings::default();
        let role = "role_arn=arn:aws:iam:::role/r";
        let made = asked(role, &none, &XOS).unwrap().unwrap();
        assert!(made.policy.as_ref().is_some_and(|p| p.contains("arn:aws:s3:::b/p/*") && p.contains("PutObject")));
        assert!(made.session_name.starts_with("xosfs-") && made.session_name.len() <= 64);
        let all = request(&options(role), &"s3://".parse().unwrap(), &none, &XOS).unwrap().unwrap().policy.unwrap();
        assert!(all.contains("arn:aws:s3:::*/*") && all.contains("ListAllMyBuckets") && all.contains("CreateBucket"));
        let made = asked(&format!("{role},ro"), &none, &XOS).unwrap().unwrap();
        assert!(made.policy.is_some_and(|p| !p.contains("PutObject")));
        assert_eq!(asked(role, &none, &GENERIC).unwrap().unwrap().policy, None);
        let made = asked(&format!("{role},role_policy=transfer"), &none, &GENERIC).unwrap().unwrap();
        assert!(made.policy.is_some_and(|p| p.contains("GetObject")));
    }

    #[test]
    fn a_policy_file_is_read_and_its_blanks_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("policy.json");
        std::fs::write(&file, "{\n  \"Version\" : \"2012-10-17\"\n}\n").unwrap();
        let text = format!("role_arn=arn:aws:iam:::role/r,role_policy={}", file.display());
        let made = asked(&text, &ProfileSettings::default(), &GENERIC).unwrap().unwrap();
        assert_eq!(made.policy.as_deref(), Some("{\"Version\":\"2012-10-17\"}"));
    }

    #[test]
    fn options_for_no_role_are_a_mistake() {
        let e = asked("role_session_name=ab", &ProfileSettings::default(), &GENERIC).unwrap_err();
        assert!(e.to_string().contains("role_arn"), "{e}");
        assert_eq!(asked("", &ProfileSettings::default(), &GENERIC).unwrap(), None);
    }
}

//! The values that options take: sizes, durations, modes, users, endpoints. Each error says what to write.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use nix::unistd::{Gid, Group, Uid, User};

/// Where the metrics are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsAddress {
    /// A loopback address; port 0 takes any.
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MetricsAddress::Tcp(at) => write!(f, "{at}"),
            MetricsAddress::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

pub type Parsed<T> = Result<T, String>;

/// `64M`, `1G`, `512KiB`, `4096`: bytes, powers of 1024.
pub fn size(text: &str, range: std::ops::RangeInclusive<u64>) -> Parsed<u64> {
    let wrong = || format!("`{text}` is no size; write bytes or a number with K, M, G or T, as 64M");
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.trim().to_ascii_uppercase();
    let shift = match unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit) {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        "P" => 50,
        "E" => 60,
        _ => return Err(wrong()),
    };
    let bytes = number.checked_mul(1 << shift).ok_or_else(wrong)?;
    if !range.contains(&bytes) {
        return Err(format!("`{text}` is out of range: {} to {}", show_size(*range.start()), show_size(*range.end())));
    }
    Ok(bytes)
}

/// The shortest exact form: `64M`, `5G`, `1500`.
pub fn show_size(bytes: u64) -> String {
    for (shift, unit) in [(60, "E"), (50, "P"), (40, "T"), (30, "G"), (20, "M"), (10, "K")] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// `5`, `0.5`, `500ms`, `5s`, `2m`, `1h`, `7d`; a bare number is seconds.
pub fn duration(text: &str, range: std::ops::RangeInclusive<Duration>) -> Parsed<Duration> {
    let wrong = || format!("`{text}` is no duration; write 500ms, 5s, 2m, 1h or 1d");
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let scale = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return Err(wrong()),
    };
    let value = Duration::try_from_secs_f64(number * scale).map_err(|_| wrong())?;
    if !range.contains(&value) {
        return Err(format!("`{text}` is out of range: {:?} to {:?}", range.start(), range.end()));
    }
    Ok(value)
}

/// Whether an option by this name would carry a secret.
pub(super) fn is_secret(name: &str) -> bool {
    ["secret", "password", "passwd", "token", "access_key", "accesskey", "credential", "ahbe_conf"]
        .iter()
        .any(|part| name.contains(part))
        || matches!(name, "ak" | "sk" | "key" | "keys" | "key_id" | "pass")
}

pub(super) const SECRET: &str = "is not an option: command lines and /etc/fstab are readable by every user; put the keys \
    into ~/.aws/credentials (profile=NAME) or into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";

/// A time of RFC 3339, or how long ago: `2026-11-21T10:20:30Z`, `2h`, `3d`.
pub fn moment(text: &str) -> Parsed<SystemTime> {
    let now = SystemTime::now();
    let ago = || {
        let counted = text.ends_with(|c: char| c.is_ascii_alphabetic());
        counted
            .then(|| duration(text, Duration::ZERO..=Duration::MAX).ok())?
            .and_then(|ago| now.checked_sub(ago).filter(|t| *t >= SystemTime::UNIX_EPOCH))
    };
    match text.parse::<jiff::Timestamp>().map(SystemTime::from).ok().or_else(ago) {
        Some(time) if time <= now => Ok(time),
        Some(_) => Err(format!("`{text}` has not been yet")),
        None => Err(format!("`{text}` is no time; write it as 2026-11-21T10:20:30Z, or how long ago, as 2h or 3d")),
    }
}

pub fn count(text: &str, range: std::ops::RangeInclusive<u64>) -> Parsed<u64> {
    match text.parse() {
        Ok(n) if range.contains(&n) => Ok(n),
        _ => Err(format!("`{text}` is not a number from {} to {}", range.start(), range.end())),
    }
}

/// Permission bits in octal, with or without leading `0` or `0o`.
pub fn mode(text: &str) -> Parsed<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(m) if m <= 0o777 => Ok(m),
        _ => Err(format!("`{text}` is no mode; write octal permission bits from 0 to 0777, as 0644")),
    }
}

pub fn flag(text: &str) -> Parsed<bool> {
    match text {
        "" | "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

/// A flag that has a good answer of its own.
pub fn auto_flag(text: &str) -> Parsed<Option<bool>> {
    if text == "auto" { Ok(None) } else { flag(text).map(Some).map_err(|e| format!("{e} nor auto")) }
}

pub fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Parsed<T> {
    choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, v)| *v).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        format!("`{text}` is not one of {}", names.join(", "))
    })
}

/// A user's name or number.
pub fn user(text: &str) -> Parsed<u32> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    match User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err(format!("no user `{text}` on this machine")),
        Err(e) => Err(format!("user `{text}` cannot be looked up: {e}")),
    }
}

/// A group's name or number.
pub fn group(text: &str) -> Parsed<u32> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    match Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(format!("no group `{text}` on this machine")),
        Err(e) => Err(format!("group `{text}` cannot be looked up: {e}")),
    }
}

pub fn caller() -> (u32, u32) {
    (Uid::effective().as_raw(), Gid::effective().as_raw())
}

/// Absolute, because the daemon works in `/`.
pub fn path(text: &str) -> Parsed<PathBuf> {
    if let Some(rest) = text.strip_prefix("~/") {
        let home = std::env::var_os("HOME").ok_or_else(|| format!("`{text}`: HOME is not set"))?;
        return Ok(PathBuf::from(home).join(rest));
    }
    std::path::absolute(text).map_err(|e| format!("`{text}` is no path: {e}"))
}

/// A session policy: the name of a ready-made one, JSON, or a file.
pub fn role_policy(text: &str) -> Parsed<String> {
    const NAMES: [&str; 5] = ["all", "read-only", "read-write", "transfer", "multipart"];
    if NAMES.contains(&text) {
        return Ok(text.to_owned());
    }
    if text.starts_with('{') {
        let json = serde_json::from_str::<serde_json::Value>(text);
        return match json {
            Ok(_) => Ok(text.to_owned()),
            Err(e) => Err(format!("the policy is no JSON ({e}); in `-o` write it into a file and name that")),
        };
    }
    let file = path(text)?;
    if !file.is_file() {
        return Err(format!("`{text}` is neither a file nor one of {}", NAMES.join(", ")));
    }
    Ok(file.to_string_lossy().into_owned())
}

/// An endpoint with its scheme. Keys inside it are refused, and never repeated in the message.
pub fn endpoint(text: &str) -> Parsed<String> {
    if !text.starts_with("http://") && !text.starts_with("https://") {
        let shown = if text.contains('@') { "the value" } else { text };
        return Err(format!("`{shown}` has no scheme; write http://HOST[:PORT] or https://HOST[:PORT]"));
    }
    let url = url::Url::parse(text).map_err(|e| format!("not a URL ({e}); write https://HOST[:PORT]"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("keys do not belong into a URL, everybody on the machine can read it; \
                    put them into ~/.aws/credentials or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            .into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("`{text}` has a query; write https://HOST[:PORT]"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(format!("`{text}` has no host; write https://HOST[:PORT]"));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// `k=v&k2=v2`, URL-encoded; the limits of S3 (10 tags, 128 and 256 characters).
pub fn tags(text: &str) -> Parsed<Vec<(String, String)>> {
    let mut tags: Vec<(String, String)> = Vec::new();
    for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
        if name.is_empty() || name.chars().count() > 128 || value.chars().count() > 256 {
            return Err(format!("tag `{name}`: 1 to 128 characters for the name, at most 256 for the value"));
        }
        if tags.iter().any(|(n, _)| *n == name) {
            return Err(format!("tag `{name}` is given twice"));
        }
        tags.push((name.into_owned(), value.into_owned()));
    }
    if tags.is_empty() || tags.len() > 10 {
        return Err(format!("{} tags: write 1 to 10, as team=web&stage=prod", tags.len()));
    }
    Ok(tags)
}

/// One word that goes into a header: no space, no control character.
pub fn word(text: &str) -> Parsed<String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!("`{text}` has to be one word of ASCII characters"));
    }
    Ok(text.to_owned())
}

pub fn content_type(text: &str) -> Parsed<String> {
    match text.split_once('/') {
        Some((t, rest))
            if !t.is_empty() && !rest.is_empty() && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) =>
        {
            Ok(text.to_owned())
        }
        _ => Err(format!("`{text}` is no content type; write TYPE/SUBTYPE, or auto for one by file name")),
    }
}

/// A loopback address with port, or the absolute path of a socket.
pub fn metrics(text: &str) -> Parsed<MetricsAddress> {
    if text.starts_with('/') {
        return path(text).map(MetricsAddress::Unix);
    }
    let address = text.replacen("localhost:", "127.0.0.1:", 1);
    match address.parse::<SocketAddr>() {
        Ok(at) if at.ip().is_loopback() => Ok(MetricsAddress::Tcp(at)),
        Ok(_) => {
            Err(format!("`{text}` is no loopback address: the figures name the bucket; put a proxy before 127.0.0.1"))
        }
        Err(_) => Err(format!("`{text}` is no address like 127.0.0.1:9464 and no path that starts with `/`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_have_units_and_bounds() {
        let any = 0..=u64::MAX;
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64M", 64 << 20),
            ("1g", 1 << 30),
            ("5MiB", 5 << 20),
            ("2KB", 2048),
            ("1P", 1 << 50),
        ] {
            assert_eq!(size(text, any.clone()).unwrap(), bytes, "{text}");
            assert_eq!(size(&show_size(bytes), any.clone()).unwrap(), bytes);
        }
        for text in ["", "M", "1.5G", "-1", "1X", "99999999999E", "1 2"] {
            assert!(size(text, any.clone()).is_err(), "{text}");
        }
        assert!(size("1M", 5 << 20..=5 << 30).unwrap_err().contains("5M to 5G"));
        let any = Duration::ZERO..=Duration::from_secs(1 << 20);
        for (text, ms) in [("5", 5000), ("0.5", 500), ("500ms", 500), ("2m", 120_000), ("1h", 3_600_000), ("0", 0)] {
            assert_eq!(duration(text, any.clone()).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in ["", "s", "-1s", "5 weeks", "1e400", "9999999d"] {
            assert!(duration(text, any.clone()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_moment_is_a_time_or_how_long_ago() {
        let second = |n| SystemTime::UNIX_EPOCH + Duration::from_secs(n);
        assert_eq!(moment("2020-01-01T00:00:00Z").unwrap(), second(1_577_836_800));
        assert_eq!(moment("2020-01-01T02:00:00.5+02:00").unwrap(), second(1_577_836_800) + Duration::from_millis(500));
        for (text, ago) in [("2h", 7200), ("3d", 259_200), ("90m", 5400)] {
            let least = SystemTime::now() - Duration::from_secs(ago);
            let time = moment(text).unwrap();
            assert!(time >= least && time <= SystemTime::now() - Duration::from_secs(ago), "{text}");
        }
        for text in ["", "yesterday", "2020", "2020-01-01", "2020-01-01T00:00:00", "3 weeks", "99999999999999d", "h"] {
            assert!(moment(text).unwrap_err().contains("as 2h or 3d"), "{text}");
        }
        assert!(moment("2999-01-01T00:00:00Z").unwrap_err().contains("has not been yet"));
    }

    /// XOS-INI-07, XOS-INI-08.
    #[test]
    fn an_endpoint_has_a_scheme_and_no_keys() {
        assert_eq!(endpoint("http://127.0.0.1:9000/").unwrap(), "http://127.0.0.1:9000");
        assert!(endpoint("oos.example.cn").unwrap_err().contains("http://HOST"));
        assert!(endpoint("ftp://x").is_err());
        assert!(endpoint("https://").is_err());
        assert!(endpoint("https://h/?x=1").is_err());
        for secret in ["https://AKIA:topsecret@h", "AKIA:topsecret@h"] {
            assert!(!endpoint(secret).unwrap_err().contains("topsecret"));
        }
    }

    #[test]
    fn metrics_stay_on_this_machine() {
        for text in ["127.0.0.1:9464", "[::1]:9464", "localhost:0", "/run/m.sock"] {
            assert!(metrics(text).is_ok(), "{text}");
        }
        for (text, part) in
            [("0.0.0.0:1", "loopback"), ("192.0.2.1:1", "loopback"), ("9464", "127.0.0.1:9464"), ("m.sock", "path")]
        {
            assert!(metrics(text).unwrap_err().contains(part), "{text}");
        }
    }

    #[test]
    fn tags_keep_to_the_limits() {
        assert_eq!(tags("a=1&b=x%20y").unwrap(), [("a".into(), "1".into()), ("b".into(), "x y".into())]);
        assert!(tags("").is_err());
        assert!(tags("a=1&a=2").is_err());
        assert!(tags(&(0..11).map(|i| format!("k{i}=v&")).collect::<String>()).is_err());
        assert!(tags(&format!("{}=v", "k".repeat(129))).is_err());
    }

    #[test]
    fn users_are_names_or_numbers() {
        assert_eq!(user("root").unwrap(), 0);
        assert_eq!(user("1234").unwrap(), 1234);
        assert!(user("no-such-user-here").unwrap_err().contains("no user"));
        assert!(group("no-such-group-here").unwrap_err().contains("no group"));
        assert_eq!(mode("0640").unwrap(), 0o640);
        assert!(mode("0888").is_err());
        assert!(mode("1777").is_err());
    }
}

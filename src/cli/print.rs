//! What commands print: texts for people, JSON for programs.
//!
//! Difficulty: keys and names may have any characters. Terminals obey some of them, so what a person reads has them
//! escaped; JSON has them as JSON does.

use std::io::{ErrorKind, Write};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::Failure;
use crate::s3::{Acl, Headers, ObjectMeta, canned_name, grants};

/// Writes to standard output. Whoever closes it early (`| head`) has seen enough: that ends the program in peace.
pub(super) fn out(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(e) => Err(Failure::Failed(format!("standard output: {e}"))),
    }
}

pub(super) fn line(text: &str) -> Result<(), Failure> {
    out(&format!("{text}\n"))
}

/// One object on one line, for lists.
pub(super) fn json_line(value: &Value) -> Result<(), Failure> {
    line(&value.to_string())
}

pub(super) fn json_whole(value: &Value) -> Result<(), Failure> {
    line(&pretty(value))
}

pub(super) fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string())
}

/// Lines of `name: value`, values in one column.
pub(super) fn fields(list: &[(&str, String)]) -> Result<(), Failure> {
    let width = list.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    let lines: String =
        list.iter().map(|(name, value)| format!("{:width$} {}\n", format!("{name}:"), safe(value))).collect();
    out(&lines)
}

/// Control characters as escapes.
pub(super) fn safe(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// `2026-11-21T22:11:03Z`, or empty.
pub(super) fn time(time: Option<SystemTime>) -> String {
    let stamp = time.and_then(|t| jiff::Timestamp::try_from(t).ok());
    let whole = stamp.and_then(|t| jiff::Timestamp::from_second(t.as_second()).ok());
    whole.map_or(String::new(), |t| t.to_string())
}

pub(super) fn time_json(t: Option<SystemTime>) -> Value {
    Some(time(t)).filter(|t| !t.is_empty()).map_or(Value::Null, Value::from)
}

/// `1.5M`, at most four digits and a letter.
pub(super) fn human(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 && unit < 6 {
        value /= 1024.0;
        unit += 1;
    }
    let letter = ["", "K", "M", "G", "T", "P", "E"][unit];
    if unit == 0 || value >= 10.0 { format!("{value:.0}{letter}") } else { format!("{value:.1}{letter}") }
}

/// `3d`, `5h`, `10m`, `7s`.
pub(super) fn age(of: Duration) -> String {
    let seconds = of.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

/// The content headers that are set, by their names in HTTP.
pub(super) fn content_headers(headers: &Headers) -> Vec<(&'static str, &str)> {
    [
        ("content-type", &headers.content_type),
        ("cache-control", &headers.cache_control),
        ("content-disposition", &headers.content_disposition),
        ("content-encoding", &headers.content_encoding),
        ("content-language", &headers.content_language),
        ("expires", &headers.expires),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value.as_deref()?)))
    .collect()
}

pub(super) fn meta_json(uri: &str, meta: &ObjectMeta) -> Value {
    let headers: serde_json::Map<String, Value> =
        content_headers(&meta.headers).into_iter().map(|(n, v)| (n.to_owned(), v.into())).collect();
    json!({
        "uri": uri,
        "size": meta.size,
        "etag": meta.etag.as_str(),
        "version": meta.version.as_deref(),
        "modified": time_json(meta.last_modified),
        "storage_class": meta.storage_class.as_deref().unwrap_or("STANDARD"),
        "restore": meta.restore,
        "tag_count": meta.tag_count,
        "sse": meta.sse,
        "headers": headers,
        "metadata": meta.headers.metadata,
    })
}

/// The list for a person: owner, the canned name behind it, one line a grant.
pub(super) fn acl_text(acl: &Acl) -> String {
    let mut text = format!("owner: {}", acl.owner_id);
    if let Some(name) = &acl.owner_name {
        text.push_str(&format!(" ({name})"));
    }
    text.push('\n');
    if let Some(name) = canned_name(acl) {
        text.push_str(&format!("canned: {name}\n"));
    }
    text + &grants::format_lines(acl)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        for (bytes, text) in
            [(0, "0"), (999, "999"), (1000, "1.0K"), (1536, "1.5K"), (10 << 20, "10M"), (u64::MAX, "16E")]
        {
            assert_eq!(human(bytes), text);
        }
        assert_eq!(age(Duration::from_secs(90_000)), "1d");
        assert_eq!(time(Some(SystemTime::UNIX_EPOCH)), "1970-01-01T00:00:00Z");
        assert_eq!(safe("a\u{1b}[2Jé"), "a\\u{1b}[2Jé");
    }
}

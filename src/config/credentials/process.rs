//! `credential_process`: a program of the administrator that prints keys.
//!
//! 1. It is run without a shell: words are split as a shell would, nothing in them is expanded.
//! 2. What it prints is secret: no error of this module repeats it.
//! 3. A program that hangs must not hang the mount: it is killed after a minute.

use std::process::Stdio;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::Keys;
use super::renewed::{Fresh, failed};
use crate::error::Result;

const PATIENCE: Duration = Duration::from_secs(60);
/// Keys and a token are a few kilobytes.
const MOST: usize = 64 << 10;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Printed {
    version: u32,
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    expiration: Option<String>,
}

/// Splits at blanks; quotes and backslashes keep them.
pub(super) fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => match chars.next() {
                Some(next) => word.get_or_insert_default().push(next),
                None => return Err("a backslash at its end".into()),
            },
            (c, Some(q)) if c == q => quote = None,
            ('"' | '\'', None) => {
                word.get_or_insert_default();
                quote = Some(c);
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote that does not end".into());
    }
    words.extend(word);
    if words.is_empty() { Err("no program".into()) } else { Ok(words) }
}

/// Runs the program and reads what it prints.
pub(super) async fn run(words: &[String]) -> Result<Fresh> {
    let (program, arguments) = words.split_first().ok_or_else(|| failed("credential process: no program"))?;
    let says = |why: String| failed(format!("credential process {program:?} {why}"));
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let output = match tokio::time::timeout(PATIENCE, command.output()).await {
        Err(_) => return Err(says(format!("did not end within {} s", PATIENCE.as_secs()))),
        Ok(Err(e)) => return Err(says(format!("cannot be run: {e}"))),
        Ok(Ok(output)) => output,
    };
    if !output.status.success() {
        return Err(says(format!("failed: {}", output.status)));
    }
    if output.stdout.len() > MOST {
        return Err(says("printed too much".into()));
    }
    read(&output.stdout).map_err(says)
}

fn read(text: &[u8]) -> Result<Fresh, String> {
    // serde_json quotes what it cannot read: its message stays here.
    let printed: Printed = serde_json::from_slice(text)
        .map_err(|_| "printed no JSON with Version, AccessKeyId and SecretAccessKey".to_owned())?;
    if printed.version != 1 {
        return Err(format!("printed version {} of the format, known is 1", printed.version));
    }
    if printed.access_key_id.is_empty() || printed.secret_access_key.is_empty() {
        return Err("printed empty keys".into());
    }
    let lifetime = match printed.expiration.filter(|e| !e.is_empty()) {
        None => None,
        Some(end) => {
            let end: jiff::Timestamp = end.parse().map_err(|_| "printed an Expiration that is no time".to_owned())?;
            let left = SystemTime::from(end).duration_since(SystemTime::now());
            Some(left.map_err(|_| "printed keys that have expired".to_owned())?)
        }
    };
    let token = printed.session_token.filter(|t| !t.is_empty());
    let keys = Keys { access_key: printed.access_key_id, secret_key: printed.secret_access_key, token };
    Ok(Fresh { keys, lifetime })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_without_a_shell() {
        assert_eq!(words(" a  'b c' \"d \\\" $x\" e\\ f ''").unwrap(), ["a", "b c", "d \" $x", "e f", ""]);
        assert!(words("a 'b").is_err() && words("a\\").is_err() && words("  ").is_err());
    }

    #[tokio::test]
    async fn what_a_program_prints_is_read() {
        let text = "{\"Version\":1,\"AccessKeyId\":\"a\",\"SecretAccessKey\":\"s\",\"SessionToken\":\"t\",\
            \"Expiration\":\"2999-01-01T00:00:00Z\"}";
        let fresh = run(&["printf".into(), "%s".into(), text.into()]).await.unwrap();
        assert_eq!((fresh.keys.access_key.as_str(), fresh.keys.token.as_deref()), ("a", Some("t")));
        assert!(fresh.lifetime.unwrap() > Duration::from_secs(1_000_000));
    }

    #[tokio::test]
    async fn failures_do_not_repeat_what_was_printed() {
        for (program, text) in [
            ("printf", "geheim"),
            ("printf", "{\"Version\":2,\"AccessKeyId\":\"geheim\",\"SecretAccessKey\":\"geheim\"}"),
            ("printf", "{\"Version\":1,\"AccessKeyId\":\"geheim\",\"SecretAccessKey\":7}"),
            (
                "printf",
                "{\"Version\":1,\"AccessKeyId\":\"a\",\"SecretAccessKey\":\"geheim\",\"Expiration\":\"2001-01-01T00:00:00Z\"}",
            ),
            ("false", ""),
            ("/nonexistent/program", ""),
        ] {
            let e = run(&[program.into(), text.into()]).await.err().unwrap();
            assert!(!e.to_string().contains("geheim"), "{e}");
        }
    }
}

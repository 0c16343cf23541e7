//! Conditions: which key is compared how, and with what.

use std::net::IpAddr;

use super::actions::fits;
use super::document::Condition;
use super::near;

/// What kind of value a key has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Date,
    Bool,
    Ip,
    Arn,
}

/// The eight keys of the private store: name, kind, the operators its manual offers.
const KEYS: &[(&str, Kind, &[&str])] = &[
    ("aws:CurrentTime", Kind::Date, &["DateEquals", "DateNotEquals"]),
    ("aws:EpochTime", Kind::Number, &["NumericEquals", "NumericNotEquals"]),
    ("aws:PrincipalType", Kind::Text, &["StringEquals", "StringNotEquals"]),
    ("aws:Referer", Kind::Text, &["StringEquals", "StringNotEquals"]),
    ("aws:SecureTransport", Kind::Bool, &["Bool"]),
    ("aws:SourceIp", Kind::Ip, &["IpAddress", "NotIpAddress"]),
    ("aws:UserAgent", Kind::Text, &["StringEquals", "StringNotEquals"]),
    ("aws:username", Kind::Text, &["StringEquals", "StringNotEquals"]),
];

/// Keys that other stores have beside these.
const ELSEWHERE: &[(&str, Kind)] = &[
    ("aws:MultiFactorAuthAge", Kind::Number),
    ("aws:MultiFactorAuthPresent", Kind::Bool),
    ("aws:PrincipalArn", Kind::Arn),
    ("aws:PrincipalOrgID", Kind::Text),
    ("aws:SourceAccount", Kind::Text),
    ("aws:SourceArn", Kind::Arn),
    ("aws:SourceVpc", Kind::Text),
    ("aws:SourceVpce", Kind::Text),
    ("aws:userid", Kind::Text),
    ("s3:ExistingObjectTag/*", Kind::Text),
    ("s3:RequestObjectTag/*", Kind::Text),
    ("s3:RequestObjectTagKeys", Kind::Text),
    ("s3:VersionId", Kind::Text),
    ("s3:delimiter", Kind::Text),
    ("s3:max-keys", Kind::Number),
    ("s3:prefix", Kind::Text),
    ("s3:signatureversion", Kind::Text),
    ("s3:TlsVersion", Kind::Number),
    ("s3:x-amz-*", Kind::Text),
];

const OPERATORS: &[(&str, Kind)] = &[
    ("StringEquals", Kind::Text),
    ("StringNotEquals", Kind::Text),
    ("StringEqualsIgnoreCase", Kind::Text),
    ("StringNotEqualsIgnoreCase", Kind::Text),
    ("StringLike", Kind::Text),
    ("StringNotLike", Kind::Text),
    ("NumericEquals", Kind::Number),
    ("NumericNotEquals", Kind::Number),
    ("NumericLessThan", Kind::Number),
    ("NumericLessThanEquals", Kind::Number),
    ("NumericGreaterThan", Kind::Number),
    ("NumericGreaterThanEquals", Kind::Number),
    ("DateEquals", Kind::Date),
    ("DateNotEquals", Kind::Date),
    ("DateLessThan", Kind::Date),
    ("DateLessThanEquals", Kind::Date),
    ("DateGreaterThan", Kind::Date),
    ("DateGreaterThanEquals", Kind::Date),
    ("Bool", Kind::Bool),
    ("IpAddress", Kind::Ip),
    ("NotIpAddress", Kind::Ip),
    ("ArnEquals", Kind::Arn),
    ("ArnLike", Kind::Arn),
    ("ArnNotEquals", Kind::Arn),
    ("ArnNotLike", Kind::Arn),
];

/// The operator without what stands around it.
pub(super) fn bare(operator: &str) -> &str {
    let text = operator.strip_prefix("ForAnyValue:").or_else(|| operator.strip_prefix("ForAllValues:"));
    let text = text.unwrap_or(operator);
    text.strip_suffix("IfExists").unwrap_or(text)
}

fn key_of(name: &str) -> Option<(&'static str, Kind, Option<&'static [&'static str]>)> {
    KEYS.iter()
        .find(|(key, ..)| key.eq_ignore_ascii_case(name))
        .map(|(key, kind, offered)| (*key, *kind, Some(*offered)))
        .or_else(|| ELSEWHERE.iter().find(|(key, _)| fits(key, name)).map(|(key, kind)| (*key, *kind, None)))
}

/// Whether the value is one of its kind; else what to write.
fn value(kind: Kind, text: &str) -> Result<(), String> {
    match kind {
        Kind::Number => text.parse::<f64>().map(|_| ()).map_err(|_| format!("{text:?} is no number")),
        Kind::Bool => match text.to_ascii_lowercase().as_str() {
            "true" | "false" => Ok(()),
            _ => Err(format!("{text:?}: write \"true\" or \"false\"")),
        },
        Kind::Date => {
            let is_date = text.parse::<jiff::Timestamp>().is_ok()
                || text.parse::<jiff::civil::Date>().is_ok()
                || text.parse::<i64>().is_ok();
            is_date.then_some(()).ok_or_else(|| format!("{text:?} is no time; write it as 2030-01-01T00:00:00Z"))
        }
        Kind::Ip => {
            let (address, bits) = text.split_once('/').unwrap_or((text, ""));
            let wrong = || format!("{text:?} is no address; write 192.0.2.7 or 192.0.2.0/24");
            let most = match address.parse::<IpAddr>().map_err(|_| wrong())? {
                IpAddr::V4(_) => 32,
                IpAddr::V6(_) => 128,
            };
            match text.contains('/').then(|| bits.parse::<u8>()) {
                None => Ok(()),
                Some(Ok(bits)) if bits <= most => Ok(()),
                Some(_) => Err(wrong()),
            }
        }
        Kind::Arn if !text.starts_with("arn:") && text != "*" => Err(format!("{text:?} is no ARN")),
        Kind::Text | Kind::Arn => Ok(()),
    }
}

/// What is wrong with a condition: errors, then warnings.
pub(super) fn check(condition: &Condition) -> (Vec<String>, Vec<String>) {
    let (mut errors, mut warnings) = (Vec::new(), Vec::new());
    let Condition { operator, key, values } = condition;
    let known_key = key_of(key);
    if known_key.is_none() {
        let names = KEYS.iter().map(|(k, ..)| *k).chain(ELSEWHERE.iter().map(|(k, _)| *k));
        match near(key, names) {
            Some(close) => errors.push(format!("unknown condition key `{key}`; did you mean `{close}`?")),
            None if key.contains(':') => warnings.push(format!(
                "condition key `{key}` is not one of {}; not every store knows it",
                KEYS.iter().map(|(key, ..)| *key).collect::<Vec<_>>().join(", ")
            )),
            None => errors.push(format!("condition key `{key}` has no `aws:` or `s3:` before it")),
        }
    }
    let name = bare(operator);
    if name == "Null" {
        for text in values {
            errors.extend(value(Kind::Bool, text).err().map(|e| format!("`{operator}` of `{key}`: {e}")));
        }
        return (errors, warnings);
    }
    let Some((_, kind)) = OPERATORS.iter().find(|(o, _)| *o == name) else {
        errors.push(match near(name, OPERATORS.iter().map(|(o, _)| *o)) {
            Some(close) => format!("unknown operator `{operator}`; did you mean `{close}`?"),
            None => {
                format!("unknown operator `{operator}`; write one as StringEquals, IpAddress, Bool or DateLessThan")
            }
        });
        return (errors, warnings);
    };
    if let Some((spelt, expected, offered)) = known_key {
        // Epoch time is a number and a time.
        let fits_key = *kind == expected || spelt == "aws:EpochTime" && *kind == Kind::Date;
        if !fits_key {
            let instead = offered.map_or(String::new(), |o| format!("; write {}", o.join(" or ")));
            errors.push(format!("`{operator}` does not compare what `{spelt}` is{instead}"));
            return (errors, warnings);
        }
        match offered {
            Some(list) if !list.contains(&operator.as_str()) => {
                warnings.push(format!("`{operator}` of `{spelt}`: some stores only know {}", list.join(" and ")));
            }
            Some(_) => {}
            None => warnings.push(format!("condition key `{key}`: not every store knows it")),
        }
    }
    for text in values {
        errors.extend(value(*kind, text).err().map(|e| format!("`{operator}` of `{key}`: {e}")));
        if *kind == Kind::Text && !name.contains("Like") && text.contains('*') {
            warnings.push(format!(
                "`{operator}` of `{key}`: {text:?} is compared letter by letter; wildcards need StringLike"
            ));
        }
    }
    (errors, warnings)
}

/// The condition as the end of a sentence.
pub(super) fn sentence(condition: &Condition) -> String {
    let Condition { operator, key, values } = condition;
    let name = bare(operator);
    let list = values.join(" or ");
    let canonical = key_of(key).map_or(key.as_str(), |(spelt, ..)| if spelt.contains('*') { key } else { spelt });
    let is_not = name.contains("Not");
    let text = match (canonical, name) {
        ("aws:SecureTransport", "Bool") if list.eq_ignore_ascii_case("true") => "the request comes over TLS".into(),
        ("aws:SecureTransport", "Bool") => "the request does not come over TLS".into(),
        ("aws:SourceIp", _) => {
            format!("the client's address is {}{list}", if is_not { "not in " } else { "in " })
        }
        ("aws:CurrentTime" | "aws:EpochTime", _) => {
            let how = match name.trim_start_matches("Date").trim_start_matches("Numeric") {
                "LessThan" => "before ",
                "LessThanEquals" => "not after ",
                "GreaterThan" => "after ",
                "GreaterThanEquals" => "not before ",
                "NotEquals" => "not at ",
                _ => "at ",
            };
            format!("the request is made {how}{list}")
        }
        _ => {
            let what = match canonical {
                "aws:PrincipalType" => "the kind of the caller",
                "aws:Referer" => "the page the request comes from (Referer)",
                "aws:UserAgent" => "the program (User-Agent)",
                "aws:username" => "the caller's user name",
                "s3:prefix" => "the prefix that is listed",
                _ => canonical,
            };
            let how = match name.trim_start_matches("String").trim_start_matches("Numeric").trim_start_matches("Arn") {
                "Equals" | "EqualsIgnoreCase" => "is",
                "NotEquals" | "NotEqualsIgnoreCase" => "is not",
                "Like" => "looks like",
                "NotLike" => "does not look like",
                "LessThan" => "is less than",
                "LessThanEquals" => "is at most",
                "GreaterThan" => "is greater than",
                "GreaterThanEquals" => "is at least",
                other => other,
            };
            format!("{what} {how} {list}")
        }
    };
    if operator.ends_with("IfExists") { format!("{text} (or the request does not say)") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(operator: &str, key: &str, text: &str) -> Condition {
        Condition { operator: operator.into(), key: key.into(), values: vec![text.into()] }
    }

    // POL-CND-01 to POL-CND-08
    #[test]
    fn the_eight_keys_take_the_operators_of_the_manual() {
        assert_eq!(KEYS.len(), 8);
        for (key, kind, offered) in KEYS {
            let text = match kind {
                Kind::Date => "2030-01-01T00:00:00Z",
                Kind::Number => "1893456000",
                Kind::Bool => "true",
                Kind::Ip => "192.0.2.0/24",
                Kind::Text | Kind::Arn => "x",
            };
            for operator in *offered {
                assert_eq!(check(&condition(operator, key, text)), (vec![], vec![]), "{operator} {key}");
            }
        }
    }

    // CON-37, POL-CND-01 to POL-CND-09
    #[test]
    fn what_cannot_be_compared_is_told_how() {
        for (operator, key, text, part) in [
            ("NoipAddress", "aws:SourceIp", "10.0.0.1", "did you mean `NotIpAddress`?"),
            ("StringEquals", "aws:SourceIp", "10.0.0.1", "write IpAddress or NotIpAddress"),
            ("IpAddress", "aws:SourceIp", "10.0.0.0/33", "192.0.2.0/24"),
            ("IpAddress", "aws:SourceIp", "localhost", "192.0.2.7"),
            ("Bool", "aws:SecureTransport", "yes", "\"true\" or \"false\""),
            ("DateEquals", "aws:CurrentTime", "tomorrow", "2030-01-01T00:00:00Z"),
            ("NumericEquals", "aws:EpochTime", "soon", "no number"),
            ("StringEquals", "aws:UserAgnt", "x", "did you mean `aws:UserAgent`?"),
            ("StringEquals", "username", "x", "no `aws:`"),
            ("Frobs", "aws:username", "x", "unknown operator"),
        ] {
            let (errors, _) = check(&condition(operator, key, text));
            assert!(errors.iter().any(|e| e.contains(part)), "{operator} {key} {text}: {errors:?}");
        }
        let (errors, warnings) = check(&condition("StringEquals", "aws:UserAgent", "xosfs/*"));
        assert!(errors.is_empty() && warnings[0].contains("StringLike"), "{warnings:?}");
        let (errors, warnings) = check(&condition("DateLessThan", "aws:CurrentTime", "2030-01-01T00:00:00Z"));
        assert!(errors.is_empty() && warnings[0].contains("DateEquals"), "{warnings:?}");
    }

    #[test]
    fn conditions_are_sentences() {
        for (operator, key, text, sentence_) in [
            ("Bool", "aws:SecureTransport", "false", "the request does not come over TLS"),
            ("NotIpAddress", "aws:sourceip", "10.0.0.0/8", "the client's address is not in 10.0.0.0/8"),
            ("DateLessThan", "aws:CurrentTime", "2030-01-01", "the request is made before 2030-01-01"),
            ("StringNotEquals", "aws:username", "bob", "the caller's user name is not bob"),
            ("StringLike", "s3:prefix", "a/*", "the prefix that is listed looks like a/*"),
        ] {
            assert_eq!(sentence(&condition(operator, key, text)), sentence_);
        }
    }
}

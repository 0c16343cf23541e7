//! Lifecycle rules from a few words, and what is wrong with a configuration.
//!
//! 1. Rules are JSON in the form of the AWS command line: `{"Rules": [{"ID", "Status", "Filter", "Expiration", …}]}`.
//! 2. A filter with more than one part has to be an `And`; stores refuse two parts side by side.
//! 3. Some stores answer `Days: -1` for "never": it is read, never sent.

use serde_json::{Map, Value, json};

use super::{Finding, Level};

/// Most rules of one bucket.
pub const RULES_MAX: usize = 1000;

/// One rule in the words of the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draft {
    /// Made from the rest when empty.
    pub id: Option<String>,
    pub prefix: String,
    pub tags: Vec<(String, String)>,
    /// Days after which objects are deleted.
    pub expire: Option<u32>,
    /// Days after which old versions are deleted.
    pub expire_versions: Option<u32>,
    /// Class and days after the last change.
    pub transitions: Vec<(String, u32)>,
    /// Days after which uploads that nobody completed are aborted.
    pub abort_uploads: Option<u32>,
    pub is_disabled: bool,
}

/// `30d`, `30`, `2w`: whole days.
///
/// Errors: what to write.
pub fn days(text: &str) -> Result<u32, String> {
    let wrong = || format!("`{text}` is no number of days; write 30d");
    let (number, unit) = match text.strip_suffix('w') {
        Some(number) => (number, 7),
        None => (text.strip_suffix('d').unwrap_or(text), 1),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    let days = number.checked_mul(unit).ok_or_else(wrong)?;
    if days == 0 { Err(format!("`{text}`: at least one day")) } else { Ok(days) }
}

/// `STANDARD_IA:30d`, in either order.
pub fn transition(text: &str) -> Result<(String, u32), String> {
    let wrong = || format!("`{text}` is no transition; write CLASS:DAYS, as STANDARD_IA:30d");
    let (a, b) = text.split_once(':').ok_or_else(wrong)?;
    let is_class = |t: &str| t.starts_with(|c: char| c.is_ascii_alphabetic());
    let (class, after) = if is_class(a) { (a, b) } else { (b, a) };
    if !is_class(class) || !class.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_') {
        return Err(wrong());
    }
    Ok((class.to_ascii_uppercase(), days(after).map_err(|_| wrong())?))
}

fn filter(prefix: &str, tags: &[(String, String)]) -> Value {
    let tag = |(k, v): &(String, String)| json!({"Key": k, "Value": v});
    match (prefix, tags) {
        (prefix, []) => json!({"Prefix": prefix}),
        ("", [one]) => json!({"Tag": tag(one)}),
        ("", many) => json!({"And": {"Tags": many.iter().map(tag).collect::<Vec<_>>()}}),
        (prefix, some) => json!({"And": {"Prefix": prefix, "Tags": some.iter().map(tag).collect::<Vec<_>>()}}),
    }
}

fn id_of(draft: &Draft) -> String {
    let mut parts = Vec::new();
    parts.extend(draft.expire.map(|d| format!("expire-{d}d")));
    parts.extend(draft.expire_versions.map(|d| format!("expire-versions-{d}d")));
    parts.extend(draft.transitions.iter().map(|(class, d)| format!("{}-{d}d", class.to_ascii_lowercase())));
    parts.extend(draft.abort_uploads.map(|d| format!("abort-uploads-{d}d")));
    if !draft.prefix.is_empty() {
        parts.push(format!("in-{}", draft.prefix.trim_end_matches('/')));
    }
    // At most 255 characters everywhere.
    parts.join("-").chars().take(255).collect()
}

/// The rule as JSON. Errors: a rule that does nothing.
pub fn rule(draft: &Draft) -> Result<Value, String> {
    let mut rule = Map::new();
    let status = if draft.is_disabled { "Disabled" } else { "Enabled" };
    rule.insert("ID".into(), json!(draft.id.clone().unwrap_or_else(|| id_of(draft))));
    rule.insert("Status".into(), json!(status));
    rule.insert("Filter".into(), filter(&draft.prefix, &draft.tags));
    let empty = rule.len();
    if let Some(days) = draft.expire {
        rule.insert("Expiration".into(), json!({"Days": days}));
    }
    if let Some(days) = draft.expire_versions {
        rule.insert("NoncurrentVersionExpiration".into(), json!({"NoncurrentDays": days}));
    }
    if !draft.transitions.is_empty() {
        let list = draft.transitions.iter().map(|(class, days)| json!({"Days": days, "StorageClass": class}));
        rule.insert("Transitions".into(), list.collect());
    }
    if let Some(days) = draft.abort_uploads {
        rule.insert("AbortIncompleteMultipartUpload".into(), json!({"DaysAfterInitiation": days}));
    }
    if rule.len() == empty {
        return Err("a rule has to do something: --expire, --expire-versions, --transition or --abort-uploads".into());
    }
    Ok(Value::Object(rule))
}

fn rules(document: &Value) -> Option<&Vec<Value>> {
    document.get("Rules").and_then(Value::as_array)
}

fn number(value: &Value, outer: &str, inner: &str) -> Option<i64> {
    value.get(outer)?.get(inner)?.as_i64()
}

fn check_rule(rule: &Value, place: &str, findings: &mut Vec<Finding>) {
    let mut error = |text: String| findings.push(Finding::new(Level::Error, place, text));
    match rule.get("Status").and_then(Value::as_str) {
        Some("Enabled" | "Disabled") => {}
        Some(other) => error(format!("`Status` {other:?}: write \"Enabled\" or \"Disabled\"")),
        None => error("`Status` is missing: write \"Enabled\" or \"Disabled\"".into()),
    }
    let deeds = [
        "Expiration",
        "NoncurrentVersionExpiration",
        "Transitions",
        "NoncurrentVersionTransitions",
        "AbortIncompleteMultipartUpload",
    ];
    if !deeds.iter().any(|d| rule.get(d).is_some()) {
        error(format!("the rule does nothing; add one of {}", deeds.join(", ")));
    }
    for (outer, inner) in [
        ("Expiration", "Days"),
        ("NoncurrentVersionExpiration", "NoncurrentDays"),
        ("AbortIncompleteMultipartUpload", "DaysAfterInitiation"),
    ] {
        if number(rule, outer, inner).is_some_and(|days| days < 1) {
            error(format!("`{outer}.{inner}` has to be at least 1"));
        }
    }
    let expire = number(rule, "Expiration", "Days");
    for transition in rule.get("Transitions").and_then(Value::as_array).into_iter().flatten() {
        let days = transition.get("Days").and_then(Value::as_i64);
        let class = transition.get("StorageClass").and_then(Value::as_str);
        match class {
            None => error("a transition has no `StorageClass`".into()),
            Some("STANDARD") => error("nothing can be moved to STANDARD by a rule".into()),
            Some(class) => {
                if let (Some(days), Some(end)) = (days, expire)
                    && end <= days
                {
                    error(format!("objects are deleted after {end} days, before they go to {class} after {days}"));
                }
            }
        }
        if days.is_none() && transition.get("Date").is_none() {
            error("a transition has neither `Days` nor `Date`".into());
        }
    }
    if let Some(filter) = rule.get("Filter").and_then(Value::as_object)
        && filter.len() > 1
    {
        error("`Filter` has several parts side by side; put them into `And`".into());
    }
}

/// What is wrong with a configuration.
pub fn check(document: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(rules) = rules(document) else {
        let text = "lifecycle rules are an object as {\"Rules\": [{\"ID\": \"r1\", \"Status\": \"Enabled\", …}]}";
        return vec![Finding::new(Level::Error, "", text)];
    };
    if rules.is_empty() {
        findings.push(Finding::new(Level::Error, "", "there is no rule; to take all rules away, delete them"));
    }
    if rules.len() > RULES_MAX {
        let text = format!("{} rules; a bucket has at most {RULES_MAX}", rules.len());
        findings.push(Finding::new(Level::Error, "", text));
    }
    let mut ids = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let id = rule.get("ID").and_then(Value::as_str);
        let place = id.map_or(format!("Rules[{index}]"), |id| format!("Rules[{index}] {id:?}"));
        check_rule(rule, &place, &mut findings);
        ids.extend(id);
    }
    ids.sort_unstable();
    for pair in ids.windows(2).filter(|pair| pair[0] == pair[1]) {
        findings.push(Finding::new(Level::Error, "", format!("`ID` {:?} is there twice", pair[0])));
    }
    findings
}

fn id(rule: &Value) -> Option<&str> {
    rule.get("ID").and_then(Value::as_str)
}

/// Adds a rule, or replaces the one of its id. `document`: the rules in place, or null.
pub fn put(document: &mut Value, rule: Value) -> Result<(), String> {
    if document.is_null() {
        *document = json!({"Rules": []});
    }
    let list = document.get_mut("Rules").and_then(Value::as_array_mut).ok_or("the rules in place cannot be read")?;
    match list.iter_mut().find(|r| id(r).is_some() && id(r) == id(&rule)) {
        Some(old) => *old = rule,
        None => list.push(rule),
    }
    Ok(())
}

/// Switches a rule on or off. Errors: no such rule.
pub fn set_status(document: &mut Value, name: &str, is_enabled: bool) -> Result<(), String> {
    let rule = find(document, name)?;
    rule["Status"] = json!(if is_enabled { "Enabled" } else { "Disabled" });
    Ok(())
}

/// Takes a rule away. Errors: no such rule.
pub fn remove(document: &mut Value, name: &str) -> Result<(), String> {
    find(document, name)?;
    if let Some(list) = document.get_mut("Rules").and_then(Value::as_array_mut) {
        list.retain(|r| id(r) != Some(name));
    }
    Ok(())
}

fn find<'a>(document: &'a mut Value, name: &str) -> Result<&'a mut Value, String> {
    let names: Vec<String> = rules(document).into_iter().flatten().filter_map(id).map(str::to_owned).collect();
    let there =
        if names.is_empty() { "no rule has an ID".to_owned() } else { format!("there are {}", names.join(", ")) };
    document
        .get_mut("Rules")
        .and_then(Value::as_array_mut)
        .and_then(|list| list.iter_mut().find(|r| id(r) == Some(name)))
        .ok_or_else(|| format!("no rule {name:?}; {there}"))
}

/// Whether nothing is left: then the configuration has to be deleted, because an empty one is refused.
pub fn is_empty(document: &Value) -> bool {
    rules(document).is_none_or(Vec::is_empty)
}

/// Takes out what stores answer for "never", because they refuse it when it is sent back.
pub fn drop_never(document: &mut Value) {
    for rule in document.get_mut("Rules").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(rule) = rule.as_object_mut() else { continue };
        for (outer, inner) in [
            ("Expiration", "Days"),
            ("NoncurrentVersionExpiration", "NoncurrentDays"),
            ("AbortIncompleteMultipartUpload", "DaysAfterInitiation"),
        ] {
            let Some(part) = rule.get_mut(outer).and_then(Value::as_object_mut) else { continue };
            if part.get(inner).and_then(Value::as_i64).is_some_and(|days| days < 0) {
                part.remove(inner);
            }
            if part.is_empty() {
                rule.remove(outer);
            }
        }
    }
}

/// The rules in plain sentences.
pub fn explain(document: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for rule in rules(document).into_iter().flatten() {
        let part = rule.get("Filter").or(Some(rule)).map(|f| f.get("And").unwrap_or(f));
        let mut which: Vec<String> = Vec::new();
        if let Some(prefix) = part.and_then(|f| f.get("Prefix")).and_then(Value::as_str).filter(|p| !p.is_empty()) {
            which.push(format!("objects that begin with {prefix}"));
        }
        let tags = part.map_or(Vec::new(), |f| {
            let one = f.get("Tag").into_iter();
            one.chain(f.get("Tags").and_then(Value::as_array).into_iter().flatten()).collect()
        });
        for tag in tags {
            let text = |name: &str| tag.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
            which.push(format!("tagged {}={}", text("Key"), text("Value")));
        }
        let which = if which.is_empty() { "all objects".to_owned() } else { which.join(", ") };
        let mut deeds = Vec::new();
        match number(rule, "Expiration", "Days") {
            Some(days) if days < 0 => deeds.push("are never deleted".to_owned()),
            Some(days) => deeds.push(format!("are deleted after {days} days")),
            None => {}
        }
        if let Some(date) = rule.get("Expiration").and_then(|e| e.get("Date")).and_then(Value::as_str) {
            deeds.push(format!("are deleted on {date}"));
        }
        for transition in rule.get("Transitions").and_then(Value::as_array).into_iter().flatten() {
            let class = transition.get("StorageClass").and_then(Value::as_str).unwrap_or("?");
            match transition.get("Days").and_then(Value::as_i64) {
                Some(days) => deeds.push(format!("go to {class} after {days} days")),
                None => deeds.push(format!("go to {class} at a date")),
            }
        }
        if let Some(days) = number(rule, "NoncurrentVersionExpiration", "NoncurrentDays") {
            deeds.push(format!("lose their old versions after {days} days"));
        }
        if let Some(days) = number(rule, "AbortIncompleteMultipartUpload", "DaysAfterInitiation") {
            deeds.push(format!("have their unfinished uploads aborted after {days} days"));
        }
        let off = if rule.get("Status").and_then(Value::as_str) == Some("Disabled") { " (switched off)" } else { "" };
        let name = id(rule).map_or(String::new(), |id| format!("{id}: "));
        out.push(format!("{name}{which} {}{off}", deeds.join(", ")));
    }
    out
}

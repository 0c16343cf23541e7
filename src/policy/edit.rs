//! Single statements of a policy: made from what a person writes, added, changed, taken away.

use serde_json::{Map, Value, json};

use super::{VERSION, actions};

/// A statement as given on a command line; `None` and empty leave a member alone when a statement is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draft {
    pub effect: Option<bool>,
    /// Names or ARNs, comma-separated, or `*`.
    pub principal: Option<String>,
    /// As for [`actions::expand`].
    pub action: Option<String>,
    /// `BUCKET`, `BUCKET/PREFIX`, ARNs or `*`, comma-separated.
    pub resource: Option<String>,
    /// `OPERATOR:KEY=VALUE[,VALUE…]` each.
    pub conditions: Vec<String>,
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|w| !w.is_empty())
}

/// `prefix` turns a bare user name into a principal, as `arn:aws:iam:::user/`.
pub fn principals(text: &str, prefix: &str) -> Result<Vec<String>, String> {
    let list: Vec<String> = words(text)
        .map(|w| if w == "*" || w.contains(':') || w.contains('/') { w.to_owned() } else { format!("{prefix}{w}") })
        .collect();
    if list.is_empty() {
        Err("no principal; write *, user names or ARNs, separated by commas".into())
    } else {
        Ok(list)
    }
}

/// A bucket stands for itself and its objects; `BUCKET/PREFIX/` for the objects below; anything else for itself.
pub fn resources(text: &str) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    for word in words(text) {
        match word {
            "*" => out.push("*".to_owned()),
            arn if arn.starts_with("arn:") => out.push(arn.to_owned()),
            path => {
                let path = path.strip_prefix("s3://").unwrap_or(path);
                match path.split_once('/') {
                    None => out.extend([format!("arn:aws:s3:::{path}"), format!("arn:aws:s3:::{path}/*")]),
                    Some((bucket, "")) => out.push(format!("arn:aws:s3:::{bucket}/*")),
                    Some(_) if path.ends_with('/') => out.push(format!("arn:aws:s3:::{path}*")),
                    Some(_) => out.push(format!("arn:aws:s3:::{path}")),
                }
            }
        }
    }
    if out.is_empty() { Err("no resource; write BUCKET, BUCKET/PREFIX/ or *".into()) } else { Ok(out) }
}

/// Reads `OPERATOR:KEY=VALUE[,VALUE…]` into the document's form, into `to`.
fn condition(text: &str, to: &mut Map<String, Value>) -> Result<(), String> {
    let wrong = || format!("condition {text:?}: write OPERATOR:KEY=VALUE, as IpAddress:aws:SourceIp=192.0.2.0/24");
    let (left, values) = text.split_once('=').ok_or_else(wrong)?;
    let split_at = ["ForAnyValue:", "ForAllValues:"].iter().find(|p| left.starts_with(*p)).map_or(0, |p| p.len());
    let (operator, key) = left[split_at..].split_once(':').ok_or_else(wrong)?;
    let operator = format!("{}{operator}", &left[..split_at]);
    let values: Vec<&str> = words(values).collect();
    if operator.is_empty() || key.is_empty() || values.is_empty() {
        return Err(wrong());
    }
    let keys = to.entry(operator).or_insert_with(|| json!({}));
    let value = if values.len() == 1 { json!(values[0]) } else { json!(values) };
    keys.as_object_mut().ok_or_else(wrong)?.insert(key.to_owned(), value);
    Ok(())
}

/// Writes a draft's members into a statement.
fn apply(draft: &Draft, prefix: &str, statement: &mut Map<String, Value>) -> Result<(), String> {
    if let Some(is_allow) = draft.effect {
        statement.insert("Effect".into(), json!(if is_allow { "Allow" } else { "Deny" }));
    }
    if let Some(text) = &draft.principal {
        statement.remove("NotPrincipal");
        statement.insert("Principal".into(), json!({"AWS": principals(text, prefix)?}));
    }
    if let Some(text) = &draft.action {
        statement.remove("NotAction");
        statement.insert("Action".into(), json!(actions::expand(text)?));
    }
    if let Some(text) = &draft.resource {
        statement.remove("NotResource");
        statement.insert("Resource".into(), json!(resources(text)?));
    }
    if !draft.conditions.is_empty() {
        let mut conditions = Map::new();
        for text in &draft.conditions {
            condition(text, &mut conditions)?;
        }
        statement.insert("Condition".into(), Value::Object(conditions));
    }
    Ok(())
}

/// The statements of a document as an array; a new document has none.
fn statements(document: &mut Value) -> Result<&mut Vec<Value>, String> {
    if document.is_null() {
        *document = json!({"Version": VERSION, "Statement": []});
    }
    let map = document.as_object_mut().ok_or("the policy in place is no JSON object")?;
    let entry = map.entry("Statement").or_insert_with(|| json!([]));
    if entry.is_object() {
        *entry = json!([entry.take()]);
    }
    entry.as_array_mut().ok_or_else(|| "the policy in place has no array of statements".into())
}

fn has(statement: &Value, sid: &str) -> bool {
    statement.get("Sid").and_then(Value::as_str) == Some(sid)
}

fn missing(list: &[Value], sid: &str) -> String {
    let names: Vec<_> = list.iter().filter_map(|s| s.get("Sid").and_then(Value::as_str)).collect();
    let there = if names.is_empty() { "none has a Sid".to_owned() } else { format!("there are {}", names.join(", ")) };
    format!("no statement {sid:?}; {there}")
}

/// `document`: the policy in place, or null. Errors: a statement of this name is there, a part that means nothing.
pub fn add(document: &mut Value, sid: &str, draft: &Draft, prefix: &str) -> Result<(), String> {
    let list = statements(document)?;
    if list.iter().any(|s| has(s, sid)) {
        return Err(format!("a statement {sid:?} is there; change it with edit-statement"));
    }
    let mut statement = Map::from_iter([("Sid".to_owned(), json!(sid))]);
    apply(draft, prefix, &mut statement)?;
    list.push(Value::Object(statement));
    Ok(())
}

/// Changes the members that the draft has. Errors: no such statement, a part that means nothing.
pub fn change(document: &mut Value, sid: &str, draft: &Draft, prefix: &str) -> Result<(), String> {
    let list = statements(document)?;
    let why = missing(list, sid);
    let statement = list.iter_mut().find(|s| has(s, sid)).and_then(Value::as_object_mut).ok_or(why)?;
    apply(draft, prefix, statement)
}

/// Takes a statement away and returns it. Errors: no such statement.
pub fn remove(document: &mut Value, sid: &str) -> Result<Value, String> {
    let list = statements(document)?;
    let index = list.iter().position(|s| has(s, sid)).ok_or_else(|| missing(list, sid))?;
    Ok(list.remove(index))
}

/// Whether nothing is left: then the policy has to be deleted, because an empty one is refused.
pub fn is_empty(document: &Value) -> bool {
    match document.get("Statement") {
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Object(_)) => false,
        _ => true,
    }
}

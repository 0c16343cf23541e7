//! A policy document as a tree of typed parts, with everything that is wrong with its form.
//!
//! 1. A value may stand alone or in an array, and `Statement` too: both are read alike.
//! 2. JSON readers keep the last of two members of one name. Two `Action` in a statement are a mistake that would
//!    change its meaning without a word, so they are refused.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{Finding, Level, VERSION, near};

/// A policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    pub id: Option<String>,
    pub statements: Vec<Statement>,
}

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    pub sid: Option<String>,
    pub is_allow: bool,
    /// `None` where there is none, as in policies of sessions.
    pub principal: Option<Selection<Principal>>,
    pub actions: Selection<String>,
    /// `None` where there is none.
    pub resources: Option<Selection<String>>,
    pub conditions: Vec<Condition>,
}

/// These, or everything but these (`NotAction`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection<T> {
    pub is_not: bool,
    pub list: Vec<T>,
}

/// Somebody: the kind (`AWS`, `Federated`, …) and the name, as written. `*` alone has no kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub kind: Option<String>,
    pub name: String,
}

impl Principal {
    pub fn is_everybody(&self) -> bool {
        self.name == "*"
    }
}

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub operator: String,
    pub key: String,
    pub values: Vec<String>,
}

/// Fails on a member that is there twice; keeps nothing.
struct Once;

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Look;
        impl<'de> Visitor<'de> for Look {
            type Value = Once;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Once, A::Error> {
                let mut names = std::collections::BTreeSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    map.next_value::<Once>()?;
                    if names.contains(&name) {
                        return Err(de::Error::custom(format!("`{name}` is there twice")));
                    }
                    names.insert(name);
                }
                Ok(Once)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Once, A::Error> {
                while seq.next_element::<Once>()?.is_some() {}
                Ok(Once)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Once, E> {
                Ok(Once)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Once, E> {
                Ok(Once)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Once, E> {
                Ok(Once)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Once, E> {
                Ok(Once)
            }

            fn visit_str<E>(self, _: &str) -> Result<Once, E> {
                Ok(Once)
            }

            fn visit_unit<E>(self) -> Result<Once, E> {
                Ok(Once)
            }
        }
        deserializer.deserialize_any(Look)
    }
}

/// Collects what is wrong while reading.
pub(super) struct Reader {
    pub findings: Vec<Finding>,
}

const MEMBERS: &[&str] = &["Version", "Id", "Statement"];
const OF_STATEMENT: &[&str] =
    &["Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"];

impl Reader {
    fn error(&mut self, place: &str, text: impl Into<String>) {
        self.findings.push(Finding::new(Level::Error, place, text));
    }

    fn members(&mut self, map: &Map<String, Value>, known: &[&str], place: &str) {
        for name in map.keys().filter(|n| !known.contains(&n.as_str())) {
            let what = match near(name, known.iter().copied()) {
                Some(close) => format!("unknown member `{name}`; did you mean `{close}`? Names are case-sensitive"),
                None => format!("unknown member `{name}`; there are {}", known.join(", ")),
            };
            self.error(place, what);
        }
    }

    fn text(&mut self, map: &Map<String, Value>, name: &str, place: &str) -> Option<String> {
        match map.get(name)? {
            Value::String(text) => Some(text.clone()),
            _ => {
                self.error(place, format!("`{name}` has to be a string"));
                None
            }
        }
    }

    /// A string or an array of strings.
    fn texts(&mut self, value: &Value, what: &str, place: &str) -> Vec<String> {
        let list = match value {
            Value::Array(list) => list.iter().collect(),
            one => vec![one],
        };
        if list.is_empty() {
            self.error(place, format!("`{what}` is empty"));
        }
        let mut out = Vec::new();
        for one in list {
            match one {
                Value::String(text) => out.push(text.clone()),
                // Numbers and booleans of conditions are often written bare.
                Value::Number(n) if what == "Condition" => out.push(n.to_string()),
                Value::Bool(b) if what == "Condition" => out.push(b.to_string()),
                other => self.error(place, format!("`{what}` has {other} where a string belongs")),
            }
        }
        out
    }

    /// `NAME` or `NotNAME`, one of them.
    fn either<'a>(&mut self, map: &'a Map<String, Value>, name: &str, place: &str) -> Option<(bool, &'a Value)> {
        let not = format!("Not{name}");
        match (map.get(name), map.get(&not)) {
            (Some(_), Some(_)) => {
                self.error(place, format!("`{name}` and `{not}` exclude each other; keep one"));
                None
            }
            (Some(value), None) => Some((false, value)),
            (None, Some(value)) => Some((true, value)),
            (None, None) => None,
        }
    }

    fn principal(&mut self, value: &Value, place: &str) -> Vec<Principal> {
        match value {
            Value::String(name) if name == "*" => vec![Principal { kind: None, name: name.clone() }],
            Value::String(name) => {
                self.error(place, format!("`Principal` {name:?}: write \"*\" or {{\"AWS\": \"{name}\"}}"));
                Vec::new()
            }
            Value::Object(map) if map.is_empty() => {
                self.error(place, "`Principal` names nobody");
                Vec::new()
            }
            Value::Object(map) => map
                .iter()
                .flat_map(|(kind, names)| {
                    let names = self.texts(names, "Principal", place);
                    names.into_iter().map(|name| Principal { kind: Some(kind.clone()), name }).collect::<Vec<_>>()
                })
                .collect(),
            _ => {
                self.error(place, "`Principal` has to be \"*\" or an object as {\"AWS\": [\"arn:…\"]}");
                Vec::new()
            }
        }
    }

    fn conditions(&mut self, value: &Value, place: &str) -> Vec<Condition> {
        let Value::Object(operators) = value else {
            self.error(place, "`Condition` has to be an object as {\"IpAddress\": {\"aws:SourceIp\": \"10.0.0.0/8\"}}");
            return Vec::new();
        };
        let mut out = Vec::new();
        for (operator, keys) in operators {
            let Value::Object(keys) = keys else {
                self.error(place, format!("`{operator}` has to be an object as {{\"KEY\": \"VALUE\"}}"));
                continue;
            };
            for (key, values) in keys {
                let values = self.texts(values, "Condition", place);
                out.push(Condition { operator: operator.clone(), key: key.clone(), values });
            }
        }
        out
    }

    fn statement(&mut self, value: &Value, place: &str) -> Option<Statement> {
        let Value::Object(map) = value else {
            self.error(place, "a statement has to be an object");
            return None;
        };
        self.members(map, OF_STATEMENT, place);
        let effect = self.text(map, "Effect", place);
        let is_allow = match effect.as_deref() {
            Some("Allow") => Some(true),
            Some("Deny") => Some(false),
            Some(other) => {
                self.error(place, format!("`Effect` {other:?}: write \"Allow\" or \"Deny\""));
                None
            }
            None => {
                if !map.contains_key("Effect") {
                    self.error(place, "`Effect` is missing: write \"Allow\" or \"Deny\"");
                }
                None
            }
        };
        let principal = self
            .either(map, "Principal", place)
            .map(|(is_not, v)| Selection { is_not, list: self.principal(v, place) });
        let actions = self
            .either(map, "Action", place)
            .map(|(is_not, v)| Selection { is_not, list: self.texts(v, "Action", place) });
        if actions.is_none() && !map.contains_key("Action") {
            self.error(place, "`Action` is missing; write one as \"s3:GetObject\"");
        }
        let resources = self
            .either(map, "Resource", place)
            .map(|(is_not, v)| Selection { is_not, list: self.texts(v, "Resource", place) });
        if resources.is_none() && !map.contains_key("Resource") {
            self.error(place, "`Resource` is missing; write one as \"arn:aws:s3:::BUCKET/*\"");
        }
        let conditions = map.get("Condition").map_or(Vec::new(), |v| self.conditions(v, place));
        Some(Statement {
            sid: self.text(map, "Sid", place),
            is_allow: is_allow?,
            principal,
            actions: actions?,
            resources,
            conditions,
        })
    }
}

/// How a statement is named in messages: `Statement[0] "sid"`.
pub(super) fn place(index: usize, sid: Option<&str>) -> String {
    match sid {
        Some(sid) => format!("Statement[{index}] {sid:?}"),
        None => format!("Statement[{index}]"),
    }
}

/// Reads the form of a policy; the document lacks the statements that cannot be understood.
///
/// The findings are about the form alone: [`super::check`] has all of them.
pub fn parse(text: &str) -> (Document, Vec<Finding>) {
    let mut reader = Reader { findings: Vec::new() };
    let mut document = Document::default();
    let value = serde_json::from_str::<Once>(text).and_then(|_| serde_json::from_str::<Value>(text));
    let map = match value {
        Ok(Value::Object(map)) => map,
        Ok(_) => {
            reader.error("", "a policy is a JSON object as {\"Version\": \"2012-10-17\", \"Statement\": […]}");
            return (document, reader.findings);
        }
        Err(e) => {
            reader.error("", format!("no JSON: {e}"));
            return (document, reader.findings);
        }
    };
    reader.members(&map, MEMBERS, "");
    match reader.text(&map, "Version", "").as_deref() {
        Some(VERSION) => {}
        Some(other) => reader.error(
            "",
            format!("`Version` {other:?}: it is the version of the language, not a date of yours; write \"{VERSION}\""),
        ),
        None if map.contains_key("Version") => {}
        None => reader.error("", format!("`Version` is missing; write \"{VERSION}\"")),
    }
    document.id = reader.text(&map, "Id", "");
    let statements = match map.get("Statement") {
        Some(Value::Array(list)) => list.iter().collect(),
        Some(one @ Value::Object(_)) => vec![one],
        Some(_) => {
            reader.error("", "`Statement` has to be an array of objects");
            Vec::new()
        }
        None => {
            reader.error("", "`Statement` is missing");
            Vec::new()
        }
    };
    if matches!(map.get("Statement"), Some(Value::Array(list)) if list.is_empty()) {
        reader.error("", "`Statement` is empty; to take a policy away, delete it");
    }
    for (index, value) in statements.into_iter().enumerate() {
        let sid = value.get("Sid").and_then(Value::as_str);
        if let Some(statement) = reader.statement(value, &place(index, sid)) {
            document.statements.push(statement);
        }
    }
    (document, reader.findings)
}

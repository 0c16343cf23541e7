//! The configuration documents of buckets, between the XML of the protocol and the JSON that the usual command line
//! tools read and print.
//!
//! 1. The two forms differ in names (`Rule` and `Rules`), in lists (repeated or wrapped elements) and in types: a
//!    table of shapes says how, and one pair of functions goes both ways.
//! 2. What people write is checked: a misspelt member is refused with the names that are possible, because a store
//!    would ignore it and a rule would do something else than what was meant.
//! 3. What stores write is taken tolerantly: unknown elements are left out, and an age of -1 days means never.

use serde_json::{Map, Value};

use super::xml;

/// What a value is.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    Text,
    Number,
    /// Days; -1 is none.
    Days,
    Flag,
    Members(&'static [Member]),
    /// Whom a grant is for; its type is an attribute.
    Grantee,
}

/// How often a member occurs.
#[derive(Clone, Copy)]
enum Occurs {
    Once,
    /// The element itself is repeated.
    Repeated,
    /// Repeated inside an element of this name.
    Inside(&'static str),
}

/// One member of an object in JSON, one kind of child in XML.
#[derive(Clone, Copy)]
pub(super) struct Member {
    json: &'static str,
    xml: &'static str,
    shape: Shape,
    occurs: Occurs,
}

const fn text(name: &'static str) -> Member {
    one(name, Shape::Text)
}

const fn number(name: &'static str) -> Member {
    one(name, Shape::Number)
}

const fn days(name: &'static str) -> Member {
    one(name, Shape::Days)
}

const fn flag(name: &'static str) -> Member {
    one(name, Shape::Flag)
}

const fn object(name: &'static str, members: &'static [Member]) -> Member {
    one(name, Shape::Members(members))
}

const fn one(name: &'static str, shape: Shape) -> Member {
    Member { json: name, xml: name, shape, occurs: Occurs::Once }
}

/// The same under another name in XML.
const fn renamed(json: &'static str, xml: &'static str, shape: Shape) -> Member {
    Member { json, xml, shape, occurs: Occurs::Once }
}

const fn many(json: &'static str, xml: &'static str, shape: Shape) -> Member {
    Member { json, xml, shape, occurs: Occurs::Repeated }
}

const fn inside(json: &'static str, wrapper: &'static str, xml: &'static str, shape: Shape) -> Member {
    Member { json, xml, shape, occurs: Occurs::Inside(wrapper) }
}

const TAG: Shape = Shape::Members(&[text("Key"), text("Value")]);
const STATUS: &[Member] = &[text("Status")];
const MINUTES: &[Member] = &[number("Minutes")];
const GRANT: Shape = Shape::Members(&[one("Grantee", Shape::Grantee), text("Permission"), flag("Delivered")]);

const LIFECYCLE_AND: &[Member] =
    &[text("Prefix"), many("Tags", "Tag", TAG), number("ObjectSizeGreaterThan"), number("ObjectSizeLessThan")];
const LIFECYCLE_FILTER: &[Member] = &[
    text("Prefix"),
    one("Tag", TAG),
    number("ObjectSizeGreaterThan"),
    number("ObjectSizeLessThan"),
    object("And", LIFECYCLE_AND),
];
const LIFECYCLE_RULE: &[Member] = &[
    text("ID"),
    text("Prefix"),
    object("Filter", LIFECYCLE_FILTER),
    text("Status"),
    many("Transitions", "Transition", Shape::Members(&[text("Date"), days("Days"), text("StorageClass")])),
    object("Expiration", &[text("Date"), days("Days"), flag("ExpiredObjectDeleteMarker")]),
    many(
        "NoncurrentVersionTransitions",
        "NoncurrentVersionTransition",
        Shape::Members(&[days("NoncurrentDays"), text("StorageClass"), number("NewerNoncurrentVersions")]),
    ),
    object("NoncurrentVersionExpiration", &[days("NoncurrentDays"), number("NewerNoncurrentVersions")]),
    object("AbortIncompleteMultipartUpload", &[days("DaysAfterInitiation")]),
];
pub(super) const LIFECYCLE: &[Member] = &[many("Rules", "Rule", Shape::Members(LIFECYCLE_RULE))];

pub(super) const CORS: &[Member] = &[many(
    "CORSRules",
    "CORSRule",
    Shape::Members(&[
        text("ID"),
        many("AllowedOrigins", "AllowedOrigin", Shape::Text),
        many("AllowedMethods", "AllowedMethod", Shape::Text),
        many("AllowedHeaders", "AllowedHeader", Shape::Text),
        many("ExposeHeaders", "ExposeHeader", Shape::Text),
        number("MaxAgeSeconds"),
    ]),
)];

pub(super) const VERSIONING: &[Member] = &[text("Status"), renamed("MFADelete", "MfaDelete", Shape::Text)];

pub(super) const TAGGING: &[Member] = &[inside("TagSet", "TagSet", "Tag", TAG)];

pub(super) const ACL: &[Member] = &[
    object("Owner", &[text("ID"), text("DisplayName")]),
    flag("Delivered"),
    inside("Grants", "AccessControlList", "Grant", GRANT),
];

pub(super) const ENCRYPTION: &[Member] = &[many(
    "Rules",
    "Rule",
    Shape::Members(&[
        object("ApplyServerSideEncryptionByDefault", &[text("SSEAlgorithm"), text("KMSMasterKeyID")]),
        flag("BucketKeyEnabled"),
    ]),
)];

const ROUTING_RULE: &[Member] = &[
    object("Condition", &[text("HttpErrorCodeReturnedEquals"), text("KeyPrefixEquals")]),
    object(
        "Redirect",
        &[
            text("HostName"),
            text("HttpRedirectCode"),
            text("Protocol"),
            text("ReplaceKeyPrefixWith"),
            text("ReplaceKeyWith"),
        ],
    ),
];
pub(super) const WEBSITE: &[Member] = &[
    object("ErrorDocument", &[text("Key")]),
    object("IndexDocument", &[text("Suffix")]),
    object("RedirectAllRequestsTo", &[text("HostName"), text("Protocol")]),
    inside("RoutingRules", "RoutingRules", "RoutingRule", Shape::Members(ROUTING_RULE)),
];

pub(super) const LOGGING: &[Member] = &[object(
    "LoggingEnabled",
    &[
        text("TargetBucket"),
        inside("TargetGrants", "TargetGrants", "Grant", GRANT),
        text("TargetPrefix"),
        object(
            "TargetObjectKeyFormat",
            &[object("SimplePrefix", &[]), object("PartitionedPrefix", &[text("PartitionDateSource")])],
        ),
    ],
)];

const EVENT_FILTER: Member = object(
    "Filter",
    &[renamed(
        "Key",
        "S3Key",
        Shape::Members(&[many("FilterRules", "FilterRule", Shape::Members(&[text("Name"), text("Value")]))]),
    )],
);
const EVENTS: Member = many("Events", "Event", Shape::Text);
pub(super) const NOTIFICATION: &[Member] = &[
    many(
        "TopicConfigurations",
        "TopicConfiguration",
        Shape::Members(&[text("Id"), renamed("TopicArn", "Topic", Shape::Text), EVENTS, EVENT_FILTER]),
    ),
    many(
        "QueueConfigurations",
        "QueueConfiguration",
        Shape::Members(&[text("Id"), renamed("QueueArn", "Queue", Shape::Text), EVENTS, EVENT_FILTER]),
    ),
    many(
        "LambdaFunctionConfigurations",
        "CloudFunctionConfiguration",
        Shape::Members(&[text("Id"), renamed("LambdaFunctionArn", "CloudFunction", Shape::Text), EVENTS, EVENT_FILTER]),
    ),
    object("EventBridgeConfiguration", &[]),
];

const REPLICATION_RULE: &[Member] = &[
    text("ID"),
    number("Priority"),
    text("Prefix"),
    object("Filter", &[text("Prefix"), one("Tag", TAG), object("And", &[text("Prefix"), many("Tags", "Tag", TAG)])]),
    text("Status"),
    object(
        "SourceSelectionCriteria",
        &[object("SseKmsEncryptedObjects", STATUS), object("ReplicaModifications", STATUS)],
    ),
    object("ExistingObjectReplication", STATUS),
    object(
        "Destination",
        &[
            text("Bucket"),
            text("Account"),
            text("StorageClass"),
            object("AccessControlTranslation", &[text("Owner")]),
            object("EncryptionConfiguration", &[text("ReplicaKmsKeyID")]),
            object("ReplicationTime", &[text("Status"), object("Time", MINUTES)]),
            object("Metrics", &[text("Status"), object("EventThreshold", MINUTES)]),
        ],
    ),
    object("DeleteMarkerReplication", STATUS),
];
pub(super) const REPLICATION: &[Member] = &[text("Role"), many("Rules", "Rule", Shape::Members(REPLICATION_RULE))];

pub(super) const REQUEST_PAYMENT: &[Member] = &[text("Payer")];
pub(super) const ACCELERATE: &[Member] = STATUS;
pub(super) const PUBLIC_ACCESS_BLOCK: &[Member] =
    &[flag("BlockPublicAcls"), flag("IgnorePublicAcls"), flag("BlockPublicPolicy"), flag("RestrictPublicBuckets")];
pub(super) const OWNERSHIP_CONTROLS: &[Member] = &[many("Rules", "Rule", Shape::Members(&[text("ObjectOwnership")]))];
pub(super) const OBJECT_LOCK: &[Member] = &[
    text("ObjectLockEnabled"),
    object("Rule", &[object("DefaultRetention", &[text("Mode"), number("Days"), number("Years")])]),
];
pub(super) const POLICY_STATUS: &[Member] = &[flag("IsPublic")];

const GRANTEE: &[&str] = &["Type", "DisplayName", "EmailAddress", "ID", "URI"];

/// What a document says, as JSON.
pub(super) fn to_json(members: &[Member], node: &xml::Node) -> Value {
    let mut object = Map::new();
    for member in members {
        let value = match member.occurs {
            Occurs::Once => node.child(member.xml).and_then(|child| json_of(member.shape, child)),
            Occurs::Repeated => json_list(member, node).filter(|list| !list.is_empty()).map(Value::Array),
            Occurs::Inside(wrapper) => node.child(wrapper).and_then(|w| json_list(member, w)).map(Value::Array),
        };
        if let Some(value) = value {
            object.insert(member.json.to_owned(), value);
        }
    }
    Value::Object(object)
}

fn json_list(member: &Member, parent: &xml::Node) -> Option<Vec<Value>> {
    Some(parent.all(member.xml).filter_map(|child| json_of(member.shape, child)).collect())
}

fn json_of(shape: Shape, node: &xml::Node) -> Option<Value> {
    let content = node.text.trim();
    match shape {
        Shape::Text => Some(node.text.clone().into()),
        Shape::Number | Shape::Days => match content.parse::<i64>() {
            Ok(n) if n < 0 && matches!(shape, Shape::Days) => None,
            Ok(n) => Some(n.into()),
            Err(_) => None,
        },
        Shape::Flag => Some(content.eq_ignore_ascii_case("true").into()),
        Shape::Members(members) => {
            let value = to_json(members, node);
            // All it said was never.
            let void = value.as_object().is_some_and(Map::is_empty) && !node.children.is_empty();
            (!void || !has_days(members)).then_some(value)
        }
        Shape::Grantee => {
            let mut object = Map::new();
            for name in &GRANTEE[1..] {
                if let Some(text) = node.some(name) {
                    object.insert((*name).to_owned(), text.into());
                }
            }
            let kind = grantee_type(&object)?;
            object.insert("Type".to_owned(), kind.into());
            Some(Value::Object(object))
        }
    }
}

fn has_days(members: &[Member]) -> bool {
    members.iter().any(|m| matches!(m.shape, Shape::Days))
}

fn grantee_type(object: &Map<String, Value>) -> Option<&'static str> {
    [("URI", "Group"), ("EmailAddress", "AmazonCustomerByEmail"), ("ID", "CanonicalUser")]
        .into_iter()
        .find(|(name, _)| object.contains_key(*name))
        .map(|(_, kind)| kind)
}

/// The children of the root element. The error says where and what is wrong.
pub(super) fn to_xml(members: &[Member], value: &Value, at: &str, out: &mut String) -> Result<(), String> {
    let Value::Object(object) = value else { return Err(format!("{} is no object", place(at))) };
    let known = |name: &str| members.iter().any(|m| m.json.eq_ignore_ascii_case(name));
    if let Some(name) = object.keys().find(|name| !known(name)) {
        return Err(unknown(at, name, members.iter().map(|m| m.json)));
    }
    for member in members {
        let mut found = object.iter().filter(|(name, _)| name.eq_ignore_ascii_case(member.json));
        let Some((_, value)) = found.next() else { continue };
        let at = if at.is_empty() { member.json.to_owned() } else { format!("{at}.{}", member.json) };
        if found.next().is_some() {
            return Err(format!("{at} is there twice"));
        }
        if value.is_null() {
            continue;
        }
        if matches!(member.occurs, Occurs::Once) {
            element(member, value, &at, out)?;
            continue;
        }
        let Value::Array(list) = value else { return Err(format!("{at} is no list")) };
        if let Occurs::Inside(wrapper) = member.occurs {
            out.push_str(&format!("<{wrapper}>"));
        }
        for (i, value) in list.iter().enumerate() {
            element(member, value, &format!("{at}[{i}]"), out)?;
        }
        if let Occurs::Inside(wrapper) = member.occurs {
            out.push_str(&format!("</{wrapper}>"));
        }
    }
    Ok(())
}

fn place(at: &str) -> &str {
    if at.is_empty() { "the document" } else { at }
}

fn unknown<'a>(at: &str, name: &str, possible: impl Iterator<Item = &'a str>) -> String {
    let possible: Vec<_> = possible.collect();
    let near = possible
        .iter()
        .map(|p| (strsim::damerau_levenshtein(&p.to_ascii_lowercase(), &name.to_ascii_lowercase()), p))
        .min()
        .filter(|(distance, _)| *distance <= 3);
    let hint = match near {
        Some((_, near)) => format!("did you mean {near}?"),
        None if possible.is_empty() => "it takes none".to_owned(),
        None => format!("possible are {}", possible.join(", ")),
    };
    format!("{} has no member {name:?}; {hint}", place(at))
}

fn element(member: &Member, value: &Value, at: &str, out: &mut String) -> Result<(), String> {
    let text = match (member.shape, value) {
        (Shape::Members(members), value) => {
            let mut inner = String::new();
            to_xml(members, value, at, &mut inner)?;
            let said = value.as_object().is_some_and(|o| !o.is_empty());
            // All it said was never.
            if !(inner.is_empty() && said && has_days(members)) {
                out.push_str(&format!("<{0}>{inner}</{0}>", member.xml));
            }
            return Ok(());
        }
        (Shape::Grantee, value) => return grantee(member, value, at, out),
        (Shape::Number | Shape::Days, value) => {
            let n = value.as_i64().or_else(|| value.as_str().and_then(|s| s.trim().parse().ok()));
            match n {
                Some(n) if n < 0 && matches!(member.shape, Shape::Days) => return Ok(()),
                Some(n) => n.to_string(),
                None => return Err(format!("{at} is no whole number")),
            }
        }
        (Shape::Flag, Value::Bool(b)) => b.to_string(),
        (Shape::Flag, Value::String(s)) if s.eq_ignore_ascii_case("true") || s.eq_ignore_ascii_case("false") => {
            s.to_ascii_lowercase()
        }
        (Shape::Flag, _) => return Err(format!("{at} is neither true nor false")),
        (Shape::Text, Value::String(s)) => s.clone(),
        (Shape::Text, Value::Number(n)) => n.to_string(),
        (Shape::Text, _) => return Err(format!("{at} is no text")),
    };
    if !xml::is_writable(&text) {
        return Err(format!("{at} has characters that XML cannot carry"));
    }
    xml::element(member.xml, &text, out);
    Ok(())
}

fn grantee(member: &Member, value: &Value, at: &str, out: &mut String) -> Result<(), String> {
    let Value::Object(given) = value else { return Err(format!("{at} is no object")) };
    let mut object = Map::new();
    for (name, value) in given {
        let Some(known) = GRANTEE.iter().find(|k| k.eq_ignore_ascii_case(name)) else {
            return Err(unknown(at, name, GRANTEE.iter().copied()));
        };
        if !value.is_null() {
            object.insert((*known).to_owned(), value.clone());
        }
    }
    let kind = grantee_type(&object).ok_or_else(|| format!("{at} has neither ID nor URI nor EmailAddress"))?;
    out.push_str(&format!(
        "<{} xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"{kind}\">",
        member.xml
    ));
    for name in &GRANTEE[1..] {
        match object.get(*name) {
            None => {}
            Some(Value::String(text)) if xml::is_writable(text) => xml::element(name, text, out),
            Some(_) => return Err(format!("{at}.{name} is no text")),
        }
    }
    out.push_str(&format!("</{}>", member.xml));
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn xml_of(members: &[Member], value: &Value) -> String {
        let mut out = String::from("<Root>");
        to_xml(members, value, "", &mut out).unwrap();
        out + "</Root>"
    }

    fn there_and_back(members: &[Member], value: &Value) -> Value {
        to_json(members, &xml::parse(xml_of(members, value).as_bytes()).unwrap())
    }

    /// Any value of a shape. Lists and objects are never empty where XML could not tell them from absent ones.
    fn any_of(shape: Shape) -> BoxedStrategy<Value> {
        match shape {
            Shape::Text => "[ -~é漢😀\t\n\r]{0,12}".prop_map(Value::from).boxed(),
            Shape::Number | Shape::Days => (0_i64..1 << 40).prop_map(Value::from).boxed(),
            Shape::Flag => any::<bool>().prop_map(Value::from).boxed(),
            Shape::Members(members) => any_object(members),
            Shape::Grantee => prop_oneof![
                "[a-z0-9]{1,9}".prop_map(|id| json!({"Type": "CanonicalUser", "ID": id})),
                "[a-z0-9]{1,9}".prop_map(|id| json!({"Type": "CanonicalUser", "ID": id, "DisplayName": "D & d"})),
                "http://[a-z]{1,9}".prop_map(|uri| json!({"Type": "Group", "URI": uri})),
                "[a-z]{1,9}@x".prop_map(|mail| json!({"Type": "AmazonCustomerByEmail", "EmailAddress": mail})),
            ]
            .boxed(),
        }
    }

    fn any_object(members: &'static [Member]) -> BoxedStrategy<Value> {
        let mut all: BoxedStrategy<Map<String, Value>> = Just(Map::new()).boxed();
        for member in members {
            let value = match member.occurs {
                Occurs::Once => any_of(member.shape),
                Occurs::Repeated => prop::collection::vec(any_of(member.shape), 1..3).prop_map(Value::Array).boxed(),
                Occurs::Inside(_) => prop::collection::vec(any_of(member.shape), 0..3).prop_map(Value::Array).boxed(),
            };
            let value = prop::option::of(value);
            let name = member.json;
            all = (all, value)
                .prop_map(move |(mut object, value)| {
                    object.extend(value.map(|v| (name.to_owned(), v)));
                    object
                })
                .boxed();
        }
        all.prop_map(Value::Object).boxed()
    }

    const ALL: &[(&str, &[Member])] = &[
        ("lifecycle", LIFECYCLE),
        ("cors", CORS),
        ("versioning", VERSIONING),
        ("tagging", TAGGING),
        ("acl", ACL),
        ("encryption", ENCRYPTION),
        ("website", WEBSITE),
        ("logging", LOGGING),
        ("notification", NOTIFICATION),
        ("replication", REPLICATION),
        ("requestPayment", REQUEST_PAYMENT),
        ("accelerate", ACCELERATE),
        ("publicAccessBlock", PUBLIC_ACCESS_BLOCK),
        ("ownershipControls", OWNERSHIP_CONTROLS),
        ("object-lock", OBJECT_LOCK),
        ("policyStatus", POLICY_STATUS),
    ];

    #[test]
    fn every_document_goes_there_and_back() {
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(48));
        for (name, members) in ALL {
            let result = runner.run(&any_object(members), |value| {
                prop_assert_eq!(there_and_back(members, &value), value);
                Ok(())
            });
            result.unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }

    // XOS-LC-03 to XOS-LC-08, CON-19
    #[test]
    fn a_lifecycle_in_the_words_of_the_manual() {
        let value = json!({"Rules": [{
            "ID": "TestOnly", "Status": "Enabled", "Filter": {"Prefix": "documents/"},
            "Transitions": [{"Days": 365, "StorageClass": "GLACIER"}],
            "Expiration": {"Days": 3650},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 123}
        }]});
        assert_eq!(
            xml_of(LIFECYCLE, &value),
            "<Root><Rule><ID>TestOnly</ID><Filter><Prefix>documents/</Prefix></Filter><Status>Enabled</Status>\
             <Transition><Days>365</Days><StorageClass>GLACIER</StorageClass></Transition>\
             <Expiration><Days>3650</Days></Expiration>\
             <AbortIncompleteMultipartUpload><DaysAfterInitiation>123</DaysAfterInitiation>\
             </AbortIncompleteMultipartUpload></Rule></Root>"
        );
        assert_eq!(there_and_back(LIFECYCLE, &value), value);
        let tagged = json!({"Rules": [{"Status": "Disabled", "Filter": {"And": {"Prefix": "", "Tags": [
            {"Key": "a", "Value": "1"}, {"Key": "b", "Value": ""}]}}, "NoncurrentVersionExpiration": {"NoncurrentDays": 3}}]});
        assert_eq!(there_and_back(LIFECYCLE, &tagged), tagged);
    }

    // XOS-LC-10, CON-20
    #[test]
    fn minus_one_day_is_never() {
        let text = b"<L><Rule><ID>r</ID><Expiration><Days>-1</Days></Expiration><Status>Enabled</Status>\
            <NoncurrentVersionExpiration><NoncurrentDays>-1</NoncurrentDays></NoncurrentVersionExpiration></Rule></L>";
        let value = to_json(LIFECYCLE, &xml::parse(text).unwrap());
        assert_eq!(value, json!({"Rules": [{"ID": "r", "Status": "Enabled"}]}));
        let given = json!({"Rules": [{"ID": "r", "Expiration": {"Days": -1}}]});
        assert_eq!(xml_of(LIFECYCLE, &given), "<Root><Rule><ID>r</ID></Rule></Root>");
    }

    // CON-04
    #[test]
    fn member_names_may_be_in_any_case() {
        let value = json!({"tagset": [{"key": "k", "value": "v"}]});
        assert_eq!(xml_of(TAGGING, &value), "<Root><TagSet><Tag><Key>k</Key><Value>v</Value></Tag></TagSet></Root>");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |members, value: Value| to_xml(members, &value, "", &mut String::new()).unwrap_err();
        let e = error(LIFECYCLE, json!({"Rules": [{"Status": "Enabled"}, {"Expiraton": {}}]}));
        assert_eq!(e, "Rules[1] has no member \"Expiraton\"; did you mean Expiration?");
        assert!(error(CORS, json!({"CORSRules": {}})).contains("CORSRules is no list"));
        assert!(error(CORS, json!({"CORSRules": [{"MaxAgeSeconds": "soon"}]})).contains("no whole number"));
        assert!(error(VERSIONING, json!([])).contains("no object"));
        assert!(error(TAGGING, json!({"TagSet": [], "tagSet": []})).contains("twice"));
        assert!(error(VERSIONING, json!({"Status": "\u{1}"})).contains("cannot carry"));
    }
}

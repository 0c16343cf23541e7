//! The policy language from outside: documents of the manuals, every mistake with its message, explanations,
//! suggestions, edits and lifecycle rules.

use proptest::prelude::*;
use serde_json::{Value, json};
use xosfs::policy::edit::{self, Draft};
use xosfs::policy::{
    Access, Extras, Finding, Level, Scope, check, explain, lifecycle, lock_out, parse, suggest, template,
};

fn bucket() -> Scope {
    Scope::Bucket(Some("b".into()))
}

fn of(level: Level, findings: Vec<Finding>) -> Vec<String> {
    findings.into_iter().filter(|f| f.level == level).map(|f| f.to_string()).collect()
}

fn errors(text: &str) -> Vec<String> {
    of(Level::Error, check(text, &bucket()))
}

fn warnings(text: &str) -> Vec<String> {
    of(Level::Warning, check(text, &bucket()))
}

/// A good policy with one member of its statement changed.
fn with(name: &str, value: Value) -> String {
    let mut statement = json!({
        "Sid": "s", "Effect": "Allow", "Principal": {"AWS": ["*"]},
        "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::b/*"],
    });
    if value.is_null() {
        statement.as_object_mut().unwrap().remove(name);
    } else {
        statement[name] = value;
    }
    json!({"Version": "2012-10-17", "Statement": [statement]}).to_string()
}

// XOS-POL-14
#[test]
fn the_sample_of_the_manual_is_sound() {
    let sample = template::template("public-rw", "b", "").unwrap();
    assert_eq!(sample["Statement"][0]["Sid"], "123");
    assert_eq!(check(&sample.to_string(), &bucket()), []);
    for one in template::ALL {
        let text = template::template(one.name, "b", "p/").unwrap().to_string();
        let scope = if one.is_session { Scope::Session } else { bucket() };
        assert_eq!(of(Level::Error, check(&text, &scope)), [""; 0], "{}", one.name);
    }
    assert!(template::template("none", "b", "").is_none());
}

// XOS-POL-05 to XOS-POL-13, CON-15, CON-16: each part of a statement
#[test]
fn every_mistake_has_its_message() {
    for (name, value, part) in [
        ("Effect", json!("allow"), "write \"Allow\" or \"Deny\""),
        ("Effect", json!(null), "`Effect` is missing"),
        ("Principal", json!(null), "`Principal` is missing"),
        ("Principal", json!("bob"), "{\"AWS\": \"bob\"}"),
        ("Principal", json!({}), "names nobody"),
        ("Principal", json!({"AWS": "bob"}), "arn:aws:iam:::user/NAME"),
        ("Principal", json!({"Aws": "*"}), "{\"AWS\": …}"),
        ("NotPrincipal", json!("*"), "exclude each other"),
        ("Action", json!(null), "`Action` is missing"),
        ("Action", json!(["s3:GetObjet"]), "did you mean s3:GetObject?"),
        ("Action", json!("GetObject"), "write s3:GetObject"),
        ("Action", json!([]), "`Action` is empty"),
        ("Action", json!([1]), "has 1 where a string belongs"),
        ("NotAction", json!("s3:*"), "exclude each other"),
        ("Resource", json!(null), "`Resource` is missing"),
        ("Resource", json!("arn:aws:s3:::other/*"), "is not in bucket \"b\""),
        ("Resource", json!("arn:aws:iam::b/*"), "write arn:aws:s3:::b/*"),
        ("Resource", json!("arn:aws:s3:::"), "names no bucket"),
        ("NotResource", json!("*"), "exclude each other"),
        ("Condition", json!("ip"), "`Condition` has to be an object"),
        ("Condition", json!({"IpAddress": "x"}), "`IpAddress` has to be an object"),
        ("Condition", json!({"NoipAddress": {"aws:SourceIp": "10.0.0.1"}}), "did you mean `NotIpAddress`?"),
        ("Actions", json!("s3:*"), "did you mean `Action`?"),
        ("Sid", json!(1), "`Sid` has to be a string"),
    ] {
        let found = errors(&with(name, value.clone()));
        assert!(found.iter().any(|e| e.contains(part)), "{name} = {value}: {found:?}");
        assert!(found.iter().all(|e| e.starts_with("error: Statement[0]")), "{found:?}");
    }
}

// XOS-POL-04, XOS-STS-16, XOS-STS-18
#[test]
fn the_document_has_its_form() {
    let good = with("Sid", json!("x"));
    for (text, part) in [
        (good.replace("2012-10-17", "2026-11-21"), "not a date of yours"),
        (good.replace("\"Version\":\"2012-10-17\"", "\"Id\":\"x\""), "`Version` is missing"),
        (r#"{"Version":"2012-10-17"}"#.into(), "`Statement` is missing"),
        (r#"{"Version":"2012-10-17","Statement":[]}"#.into(), "`Statement` is empty"),
        ("[]".into(), "JSON object"),
        ("{".into(), "no JSON"),
        (good.replace("\"Sid\":\"x\"", "\"Effect\":\"Deny\",\"Sid\":\"x\""), "`Effect` is there twice"),
        (good.replace("\"Version\"", "\"version\""), "did you mean `Version`?"),
        (format!("{good}{}", " ".repeat(20 * 1024)), "at most 20480"),
    ] {
        let found = errors(&text);
        assert!(found.iter().any(|e| e.contains(part)), "{part}: {found:?}");
    }
    // One statement may be an object.
    let object = good.replace("[{", "{").replace("}]", "}");
    assert_eq!(check(&object, &bucket()), []);
}

// XOS-POL-06, CON-15, CON-40
#[test]
fn principals_of_every_dialect_are_taken() {
    for principal in [
        json!("*"),
        json!({"AWS": "*"}),
        json!({"AWS": ["arn:aws:iam::user/*", "arn:aws:iam::user/bob", "arn:aws:iam:::user/bob"]}),
        json!({"AWS": "arn:aws:iam::tenant:user/bob:sub"}),
        json!({"AWS": ["123456789012", "arn:aws:iam::123456789012:root", "arn:aws:iam::1:role/r"]}),
        json!({"AWS": "arn:aws:s3:::user/ID"}),
        json!({"CTYUN": "arn:ctyun:iam::ACCOUNT:user/N"}),
        json!({"ID": "domain/D:user/U"}),
        json!({"Federated": "cn:saml"}),
    ] {
        assert_eq!(errors(&with("Principal", principal.clone())), [""; 0], "{principal}");
    }
    assert!(warnings(&with("Principal", json!({"AWS": "arn:aws:iam::bob"})))[0].contains("arn:aws:iam:::user/bob"));
}

// CON-16
#[test]
fn an_action_on_the_wrong_kind_of_resource_is_noticed() {
    let text = with("Action", json!(["s3:ListBucket", "s3:GetObject"]));
    assert!(warnings(&text)[0].contains("ListBucket is about the bucket"), "{:?}", warnings(&text));
    let text = with("Resource", json!("arn:aws:s3:::b"));
    assert!(warnings(&text)[0].contains("GetObject is about objects"));
    assert_eq!(warnings(&with("Action", json!("s3:*"))), [""; 0]);
}

// XOS-STS-06
#[test]
fn a_policy_of_a_session_has_no_principal_and_2048_characters() {
    let text = with("Principal", Value::Null);
    assert_eq!(check(&text, &Scope::Session), []);
    let found = of(Level::Error, check(&with("Sid", json!("x")), &Scope::Session));
    assert!(found[0].contains("no `Principal`"));
    let long =
        with("Resource", json!(["arn:aws:s3:::b/*".repeat(130)])).replace("\"Principal\":{\"AWS\":[\"*\"]},", "");
    assert!(of(Level::Error, check(&long, &Scope::Session)).iter().any(|e| e.contains("at most 2048")));
}

// POL-GEN-06, CON-39
#[test]
fn a_policy_that_locks_everybody_out_is_refused() {
    let deny = |extra: Value| {
        let mut statement = json!({
            "Effect": "Deny", "Principal": "*", "Action": "s3:*",
            "Resource": ["arn:aws:s3:::b", "arn:aws:s3:::b/*"],
        });
        for (name, value) in extra.as_object().unwrap() {
            statement[name] = value.clone();
        }
        json!({"Version": "2012-10-17", "Statement": [statement]}).to_string()
    };
    for locked in [
        json!({}),
        json!({"Action": "*"}),
        json!({"Principal": {"AWS": ["*"]}}),
        json!({"Action": ["s3:Get*", "s3:Put*", "s3:List*", "s3:Delete*"]}),
        json!({"Action": ["s3:PutBucketPolicy", "s3:DeleteBucketPolicy"], "Resource": "arn:aws:s3:::b"}),
    ] {
        let (document, _) = parse(&deny(locked.clone()));
        assert!(lock_out(&document).is_some(), "{locked}");
        assert!(errors(&deny(locked)).iter().any(|e| e.contains("could not be used any more")));
    }
    for open in [
        json!({"Effect": "Allow"}),
        json!({"Principal": {"AWS": "arn:aws:iam:::user/bob"}}),
        json!({"Condition": {"Bool": {"aws:SecureTransport": "false"}}}),
        json!({"Action": "s3:DeleteObject"}),
    ] {
        let (document, _) = parse(&deny(open.clone()));
        assert_eq!(lock_out(&document), None, "{open}");
    }
}

#[test]
fn a_policy_is_explained_in_sentences() {
    let text = json!({"Version": "2012-10-17", "Statement": [
        {"Sid": "a", "Effect": "Allow", "Principal": {"AWS": ["arn:aws:iam:::user/bob", "arn:aws:iam::user/eve"]},
         "Action": ["s3:GetObject", "s3:PutObject"], "Resource": "arn:aws:s3:::b/logs/*",
         "Condition": {"IpAddress": {"aws:SourceIp": ["10.0.0.0/8", "192.0.2.1"]}}},
        {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": ["arn:aws:s3:::b", "arn:aws:s3:::b/*"],
         "Condition": {"Bool": {"aws:SecureTransport": "false"}}},
        {"Effect": "Allow", "NotPrincipal": {"AWS": "123"}, "NotAction": "s3:DeleteObject", "Resource": "*"},
    ]})
    .to_string();
    let (document, findings) = parse(&text);
    assert_eq!(findings, []);
    assert_eq!(
        explain(&document)[..13],
        [
            "Statement 1 \"a\": the user bob and the user eve may",
            "  - READ: read objects (GetObject)",
            "  - WRITE: write objects (PutObject)",
            "  on the objects of b that begin with logs/",
            "  if the client's address is in 10.0.0.0/8 or 192.0.2.1",
            "Statement 2: everybody, with or without an account may NOT, whatever else allows it,",
            "  - everything (all 54 actions)",
            "  on the bucket b and every object of b",
            "  if the request does not come over TLS",
            "Statement 3: everybody but the account 123 may do everything but",
            "  - WRITE: delete objects (DeleteObject)",
            "  on every bucket and object",
            "Who is not named has no right from this policy; the owner keeps all that is not denied.",
        ]
    );
}

// XOS-STS-13, XOS-STS-14, XOS-STS-15
#[test]
fn the_least_policy_of_a_mount_is_sound_and_least() {
    let actions = |policy: &Value| {
        let mut list: Vec<String> = Vec::new();
        for statement in policy["Statement"].as_array().unwrap() {
            list.extend(statement["Action"].as_array().unwrap().iter().map(|a| a.as_str().unwrap().to_owned()));
        }
        list
    };
    let everybody = ["*".to_owned()];
    let plain = Extras::default();
    let read = suggest("b", "", Access::ReadOnly, plain, Some(&everybody));
    assert_eq!(actions(&read), ["s3:ListBucket", "s3:GetObject"]);
    let write = suggest("b", "logs/", Access::ReadWrite, plain, Some(&everybody));
    for right in ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"] {
        assert!(actions(&write).contains(&right.to_owned()), "{right}");
    }
    assert_eq!(write["Statement"][1]["Resource"][0], "arn:aws:s3:::b/logs/*");
    assert_eq!(write["Statement"][0]["Condition"]["StringLike"]["s3:prefix"][0], "logs/*");
    let all = Extras { attributes: true, versions: true };
    for (access, extras) in
        [(Access::ReadOnly, plain), (Access::ReadWrite, plain), (Access::ReadOnly, all), (Access::ReadWrite, all)]
    {
        for prefix in ["", "p/"] {
            let text = suggest("b", prefix, access, extras, Some(&everybody)).to_string();
            assert_eq!(errors(&text), [""; 0], "{text}");
            let session = suggest("b", prefix, access, extras, None).to_string();
            assert_eq!(of(Level::Error, check(&session, &Scope::Session)), [""; 0]);
        }
    }
}

// POL-GEN-08 to POL-GEN-13
#[test]
fn statements_are_added_changed_and_taken_away() {
    let mut document = Value::Null;
    let draft = Draft {
        effect: Some(true),
        principal: Some("bob, eve".into()),
        action: Some("@READ".into()),
        resource: Some("b".into()),
        conditions: vec!["IpAddress:aws:SourceIp=10.0.0.0/8,192.0.2.1".into()],
    };
    edit::add(&mut document, "one", &draft, "arn:aws:iam:::user/").unwrap();
    let statement = &document["Statement"][0];
    assert_eq!(statement["Principal"]["AWS"], json!(["arn:aws:iam:::user/bob", "arn:aws:iam:::user/eve"]));
    assert_eq!(statement["Action"].as_array().unwrap().len(), 11);
    assert_eq!(statement["Resource"], json!(["arn:aws:s3:::b", "arn:aws:s3:::b/*"]));
    assert_eq!(statement["Condition"]["IpAddress"]["aws:SourceIp"], json!(["10.0.0.0/8", "192.0.2.1"]));
    assert_eq!(errors(&document.to_string()), [""; 0]);
    assert!(edit::add(&mut document, "one", &draft, "").unwrap_err().contains("edit-statement"));

    let change = Draft { effect: Some(false), resource: Some("b/logs/".into()), ..Draft::default() };
    edit::change(&mut document, "one", &change, "").unwrap();
    assert_eq!(document["Statement"][0]["Effect"], "Deny");
    assert_eq!(document["Statement"][0]["Resource"], json!(["arn:aws:s3:::b/logs/*"]));
    assert_eq!(document["Statement"][0]["Action"].as_array().unwrap().len(), 11);
    assert!(edit::change(&mut document, "two", &change, "").unwrap_err().contains("there are one"));
    assert!(!edit::is_empty(&document));
    edit::remove(&mut document, "one").unwrap();
    assert!(edit::is_empty(&document));

    // A statement that stands alone becomes the first of several.
    let mut single = json!({"Version": "2012-10-17", "Statement": {"Sid": "x", "Effect": "Allow"}});
    edit::add(&mut single, "y", &Draft { action: Some("GetObject".into()), ..Draft::default() }, "").unwrap();
    assert_eq!(single["Statement"].as_array().unwrap().len(), 2);
    for (bad, part) in [
        (Draft { action: Some("GetObjet".into()), ..Draft::default() }, "did you mean s3:GetObject?"),
        (Draft { conditions: vec!["IpAddress=10.0.0.1".into()], ..Draft::default() }, "OPERATOR:KEY=VALUE"),
        (Draft { resource: Some(",".into()), ..Draft::default() }, "no resource"),
        (Draft { principal: Some("".into()), ..Draft::default() }, "no principal"),
    ] {
        let error = edit::add(&mut single, "z", &bad, "").unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

// XOS-LC-03 to XOS-LC-08, XOS-LC-11, CON-18, CON-19
#[test]
fn lifecycle_rules_are_made_from_words() {
    assert_eq!(lifecycle::transition("STANDARD_IA:30d"), Ok(("STANDARD_IA".into(), 30)));
    assert_eq!(lifecycle::transition("365:glacier"), Ok(("GLACIER".into(), 365)));
    for bad in ["", "30d", "STANDARD_IA", "A B:3d", "X:0d", "1:2"] {
        assert!(lifecycle::transition(bad).unwrap_err().contains("STANDARD_IA:30d"), "{bad}");
    }
    assert_eq!((lifecycle::days("30d"), lifecycle::days("2w"), lifecycle::days("7")), (Ok(30), Ok(14), Ok(7)));
    assert!(lifecycle::days("1h").is_err() && lifecycle::days("0").is_err());
    let draft = lifecycle::Draft {
        prefix: "logs/".into(),
        expire: Some(365),
        transitions: vec![("STANDARD_IA".into(), 30)],
        abort_uploads: Some(7),
        ..lifecycle::Draft::default()
    };
    let rule = lifecycle::rule(&draft).unwrap();
    assert_eq!(
        rule,
        json!({
            "ID": "expire-365d-standard_ia-30d-abort-uploads-7d-in-logs", "Status": "Enabled",
            "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 365},
            "Transitions": [{"Days": 30, "StorageClass": "STANDARD_IA"}],
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
        })
    );
    let mut document = Value::Null;
    lifecycle::put(&mut document, rule.clone()).unwrap();
    lifecycle::put(&mut document, rule).unwrap();
    assert_eq!(document["Rules"].as_array().unwrap().len(), 1);
    assert_eq!(lifecycle::check(&document), []);
    assert_eq!(
        lifecycle::explain(&document),
        ["expire-365d-standard_ia-30d-abort-uploads-7d-in-logs: objects that begin with logs/ are deleted after 365 \
          days, go to STANDARD_IA after 30 days, have their unfinished uploads aborted after 7 days"]
    );
    let tagged = lifecycle::Draft {
        id: Some("t".into()),
        prefix: "p/".into(),
        tags: vec![("k".into(), "v".into())],
        expire_versions: Some(9),
        is_disabled: true,
        ..lifecycle::Draft::default()
    };
    lifecycle::put(&mut document, lifecycle::rule(&tagged).unwrap()).unwrap();
    assert_eq!(document["Rules"][1]["Filter"]["And"]["Tags"][0]["Key"], "k");
    lifecycle::set_status(&mut document, "t", true).unwrap();
    assert_eq!(document["Rules"][1]["Status"], "Enabled");
    assert!(lifecycle::set_status(&mut document, "u", true).unwrap_err().contains("no rule \"u\""));
    lifecycle::remove(&mut document, "t").unwrap();
    assert_eq!(document["Rules"].as_array().unwrap().len(), 1);
    assert!(lifecycle::rule(&lifecycle::Draft::default()).unwrap_err().contains("--expire"));
}

// XOS-LC-01, XOS-LC-04, XOS-LC-10, CON-20
#[test]
fn lifecycle_mistakes_are_found() {
    let rule = |more: Value| {
        let mut rule = json!({"ID": "r", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}});
        for (name, value) in more.as_object().unwrap() {
            rule[name] = value.clone();
        }
        json!({"Rules": [rule]})
    };
    for (document, part) in [
        (json!([]), "\"Rules\""),
        (json!({"Rules": []}), "delete them"),
        (rule(json!({"Status": "on"})), "\"Enabled\" or \"Disabled\""),
        (rule(json!({"Expiration": {"Days": 0}})), "at least 1"),
        (json!({"Rules": [{"Status": "Enabled"}]}), "does nothing"),
        (rule(json!({"Filter": {"Prefix": "a", "Tag": {"Key": "k", "Value": "v"}}})), "`And`"),
        (rule(json!({"Transitions": [{"Days": 5, "StorageClass": "GLACIER"}]})), "before they go to GLACIER"),
        (rule(json!({"Transitions": [{"Days": 0, "StorageClass": "STANDARD"}]})), "STANDARD"),
        (
            json!({"Rules": vec![json!({"ID": "r", "Status": "Enabled", "Expiration": {"Days": 1}}); 1001]}),
            "at most 1000",
        ),
        (json!({"Rules": vec![json!({"ID": "r", "Status": "Enabled", "Expiration": {"Days": 1}}); 2]}), "there twice"),
    ] {
        let found = of(Level::Error, lifecycle::check(&document));
        assert!(found.iter().any(|e| e.contains(part)), "{part}: {found:?}");
    }
    let mut never = rule(json!({"Expiration": {"Days": -1}, "NoncurrentVersionExpiration": {"NoncurrentDays": 3}}));
    assert!(lifecycle::explain(&never)[0].contains("are never deleted"));
    lifecycle::drop_never(&mut never);
    assert_eq!(never["Rules"][0].get("Expiration"), None);
    assert_eq!(lifecycle::check(&never), []);
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_fall(text in "\\PC{0,200}") {
        let _ = check(&text, &Scope::Session);
        let _ = explain(&parse(&text).0);
    }

    #[test]
    fn no_tree_makes_the_reader_fall(names in prop::collection::vec("Version|Statement|Action|Effect|Principal|Condition|[a-z]{1,4}", 1..6), depth in 0usize..4) {
        let mut value = json!("s3:*");
        for name in names {
            value = if depth % 2 == 0 { json!({ name: value }) } else { json!([{ name: value }]) };
        }
        let text = json!({"Version": "2012-10-17", "Statement": value}).to_string();
        let findings = check(&text, &bucket());
        prop_assert!(findings.iter().all(|f| !f.text.is_empty()));
        let _ = lifecycle::check(&value);
        let _ = lifecycle::explain(&value);
    }
}

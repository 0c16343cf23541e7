//! Judges a policy: what the store refuses, what cannot work, what locks its owner out.
//!
//! Difficulty: most mistakes are legal. An action on buckets granted on `b/*` grants nothing; an explicit Deny beats
//! every Allow, the owner's included.

use super::actions::{Action, Meaning, On, fits, meaning};
use super::document::{Document, Principal, Selection, Statement, parse, place};
use super::{BUCKET_MAX, Finding, Level, SESSION_MAX, Scope, condition};

const ARN: &str = "arn:aws:s3:::";

/// The part of a resource behind the ARN's prefix: `BUCKET` or `BUCKET/KEY`; `None` for what is no S3 resource.
fn path_of(resource: &str) -> Option<&str> {
    if resource == "*" {
        return Some("*");
    }
    resource.strip_prefix(ARN).or_else(|| resource.strip_prefix("arn:ctyun:oos:::"))
}

fn is_of_objects(resource: &str) -> bool {
    path_of(resource).is_some_and(|p| p.contains('/') || p == "*")
}

fn is_of_bucket(resource: &str) -> bool {
    // A pattern such as `b*` covers both.
    path_of(resource).is_some_and(|p| !p.contains('/') || p.starts_with('*'))
}

struct Judge<'a> {
    scope: &'a Scope,
    findings: Vec<Finding>,
}

impl Judge<'_> {
    fn error(&mut self, place: &str, text: impl Into<String>) {
        self.findings.push(Finding::new(Level::Error, place, text));
    }

    fn warn(&mut self, place: &str, text: impl Into<String>) {
        self.findings.push(Finding::new(Level::Warning, place, text));
    }

    fn principal(&mut self, principal: &Principal, place: &str) {
        let Principal { kind, name } = principal;
        match kind.as_deref() {
            None => {}
            Some("AWS" | "CTYUN") => {
                let rest = name.strip_prefix("arn:").unwrap_or("");
                let fields: Vec<&str> = rest.split(':').collect();
                let who = |text: &str| {
                    text == "root"
                        || ["user/", "role/", "group/"].iter().any(|p| text.starts_with(p) && text.len() > p.len())
                };
                let is_account = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
                match fields.as_slice() {
                    _ if name == "*" || is_account => {}
                    // Five fields, as the manual of XOS prints it, and the well-formed six; Ceph adds a subuser.
                    ["aws" | "ctyun", "iam", "", user] | ["aws" | "ctyun", "iam", _, _, user] if who(user) => {}
                    ["aws" | "ctyun", "iam", _, _, user, subuser] if who(user) && !subuser.is_empty() => {}
                    ["aws" | "ctyun", "iam", user] if who(user) => {}
                    ["aws" | "ctyun", "sts", _, _, role] if role.starts_with("assumed-role/") => {}
                    ["aws", "s3", "", "", user] if who(user) => {}
                    // The sample of the manual: arn:aws:iam::USER.
                    ["aws", "iam", "", user] if !user.is_empty() => self.warn(
                        place,
                        format!("principal {name:?} is an odd form; the usual one is arn:aws:iam:::user/{user}"),
                    ),
                    _ => self.error(
                        place,
                        format!("principal {name:?}: write *, an account number, or arn:aws:iam:::user/NAME"),
                    ),
                }
            }
            Some("ID" | "Federated" | "CanonicalUser" | "Service") if name.is_empty() => {
                self.error(place, "a principal is empty");
            }
            Some("ID" | "Federated" | "CanonicalUser" | "Service") => {}
            Some(other) => self.error(
                place,
                format!(
                    "principals of kind `{other}`: write {{\"AWS\": …}} (OOS: CTYUN, OBS: ID), or Federated, Service"
                ),
            ),
        }
    }

    /// The known actions of a statement.
    fn actions(&mut self, statement: &Statement, place: &str) -> Vec<&'static Action> {
        let mut known = Vec::new();
        for text in &statement.actions.list {
            match meaning(text) {
                Meaning::Known(list) => known.extend(list),
                Meaning::Foreign(what) => self.warn(place, format!("action {text:?} is {what}")),
                Meaning::Unknown(instead) => self.error(place, format!("action {text:?}: {instead}")),
            }
        }
        known
    }

    fn resource(&mut self, resource: &str, place: &str) {
        let Some(path) = path_of(resource) else {
            if let Some(rest) = resource.strip_prefix("arn:aws:iam::") {
                // The sample of the manual.
                self.error(place, format!("resource {resource:?} is no bucket; write {ARN}{rest}"));
            } else if resource.starts_with("arn:") {
                self.error(place, format!("resource {resource:?} is not of S3; write {ARN}BUCKET or {ARN}BUCKET/*"));
            } else {
                self.warn(place, format!("resource {resource:?} is a form of OBS; elsewhere write {ARN}{resource}"));
            }
            return;
        };
        let bucket = path.split('/').next().unwrap_or("");
        if bucket.is_empty() {
            self.error(place, format!("resource {resource:?} names no bucket"));
        } else if let Scope::Bucket(Some(name)) = self.scope
            && !fits(bucket, name)
        {
            self.error(place, format!("resource {resource:?} is not in bucket {name:?}, to which the policy belongs"));
        }
    }

    fn statement(&mut self, statement: &Statement, place: &str) {
        match (&statement.principal, self.scope) {
            (Some(_), Scope::Session) => {
                self.error(place, "a policy of a session has no `Principal`: it is for whoever takes the role");
            }
            (None, Scope::Bucket(_)) => {
                self.error(place, "`Principal` is missing; write \"*\" for everybody, or {\"AWS\": [\"arn:…\"]}");
            }
            (Some(who), Scope::Bucket(_)) => {
                for principal in &who.list {
                    self.principal(principal, place);
                }
                if who.is_not && statement.is_allow {
                    self.warn(place, "Allow with `NotPrincipal` allows everybody else, also without an account");
                }
            }
            (None, Scope::Session) => {}
        }
        let known = self.actions(statement, place);
        let none = Selection::default();
        let resources = statement.resources.as_ref().unwrap_or(&none);
        for resource in &resources.list {
            self.resource(resource, place);
        }
        // With `Not…` on either side, everything left over is meant.
        if !resources.is_not && !statement.actions.is_not && !resources.list.is_empty() {
            let unmet = |on: On| {
                let mut names: Vec<_> = known.iter().filter(|a| a.on == on).map(|a| a.name).collect();
                names.dedup();
                names
            };
            let all_judged = resources.list.iter().all(|r| path_of(r).is_some());
            let wide = statement.actions.list.iter().any(|a| a.contains('*'));
            if all_judged && !resources.list.iter().any(|r| is_of_bucket(r)) {
                let names = unmet(On::Bucket);
                if !names.is_empty() && !wide {
                    self.warn(
                        place,
                        format!("{} is about the bucket; it needs the resource {ARN}BUCKET", names.join(", ")),
                    );
                }
            }
            if all_judged && !resources.list.iter().any(|r| is_of_objects(r)) {
                let names = unmet(On::Object);
                if !names.is_empty() && !wide {
                    self.warn(
                        place,
                        format!("{} is about objects; it needs a resource as {ARN}BUCKET/*", names.join(", ")),
                    );
                }
            }
        }
        if statement.actions.is_not && statement.is_allow {
            self.warn(place, "Allow with `NotAction` also allows every action that is added later");
        }
        for one in &statement.conditions {
            let (errors, warnings) = condition::check(one);
            for text in errors {
                self.error(place, text);
            }
            for text in warnings {
                self.warn(place, text);
            }
        }
    }
}

/// Everything that is wrong with a policy: its form first, then statement by statement; empty when it is sound.
pub fn check(text: &str, scope: &Scope) -> Vec<Finding> {
    let (document, findings) = parse(text);
    let mut judge = Judge { scope, findings };
    match scope {
        Scope::Bucket(_) if text.len() > BUCKET_MAX => {
            judge.error("", format!("{} bytes; a bucket policy has at most {BUCKET_MAX}", text.len()));
        }
        Scope::Session if text.chars().count() > SESSION_MAX => {
            let length = text.chars().count();
            judge.error("", format!("{length} characters; the policy of a session has at most {SESSION_MAX}"));
        }
        _ => {}
    }
    for (index, statement) in document.statements.iter().enumerate() {
        judge.statement(statement, &place(index, statement.sid.as_deref()));
    }
    let mut sids: Vec<&str> = document.statements.iter().filter_map(|s| s.sid.as_deref()).collect();
    sids.sort_unstable();
    for pair in sids.windows(2).filter(|pair| pair[0] == pair[1]) {
        judge.error("", format!("`Sid` {:?} is there twice", pair[0]));
    }
    if let Some(why) = lock_out(&document) {
        judge.error("", why);
    }
    judge.findings
}

/// Whether a policy takes the bucket away from everybody, its owner included; says which statement does.
///
/// That is a Deny of all actions, or of those that could take the policy away again, for everybody and without a
/// condition.
pub fn lock_out(document: &Document) -> Option<String> {
    for (index, statement) in document.statements.iter().enumerate() {
        let everybody =
            statement.principal.as_ref().is_some_and(|who| !who.is_not && who.list.iter().any(Principal::is_everybody));
        if statement.is_allow || !everybody || !statement.conditions.is_empty() {
            continue;
        }
        let denied = |name: &str| {
            let full = format!("s3:{name}");
            statement.actions.list.iter().any(|pattern| fits(pattern, &full)) != statement.actions.is_not
        };
        let on_bucket = statement
            .resources
            .as_ref()
            .is_some_and(|r| r.is_not || r.list.iter().any(|resource| is_of_bucket(resource)));
        let everything = ["GetObject", "PutObject", "ListBucket", "DeleteObject"].iter().all(|a| denied(a));
        if everything || on_bucket && denied("PutBucketPolicy") && denied("DeleteBucketPolicy") {
            return Some(format!(
                "{} denies everybody everything, the owner included: the bucket could not be used any more, and \
                 perhaps not be freed again; name whom to deny, or add a condition",
                place(index, statement.sid.as_deref())
            ));
        }
    }
    None
}

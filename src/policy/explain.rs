//! A policy in plain sentences.

use super::actions::{ACTIONS, Action, Class, Meaning, meaning};
use super::condition;
use super::document::{Document, Principal, Selection, Statement};

fn who(principal: &Principal) -> String {
    if principal.is_everybody() {
        return "everybody, with or without an account".into();
    }
    let name = principal.name.as_str();
    if let Some(user) = name.rsplit_once("user/").map(|(_, user)| user) {
        return if user == "*" { "every user of the account".into() } else { format!("the user {user}") };
    }
    if let Some((_, role)) = name.rsplit_once("role/") {
        return format!("the role {role}");
    }
    if let Some(account) = name.strip_suffix(":root").and_then(|n| n.rsplit(':').next()).filter(|a| !a.is_empty()) {
        return format!("the account {account}");
    }
    match principal.kind.as_deref() {
        Some("Service") => format!("the service {name}"),
        Some("Federated") => format!("those signed in by {name}"),
        _ if name.bytes().all(|b| b.is_ascii_digit()) => format!("the account {name}"),
        _ => name.to_owned(),
    }
}

fn join(list: &[String]) -> String {
    match list {
        [] => "nobody".into(),
        [one] => one.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

fn subject(principal: Option<&Selection<Principal>>) -> String {
    let Some(selection) = principal else { return "whoever takes the role".into() };
    let mut names: Vec<String> = selection.list.iter().map(who).collect();
    names.dedup();
    if selection.is_not { format!("everybody but {}", join(&names)) } else { join(&names) }
}

fn place(resource: &str) -> String {
    let path = resource.rsplit(":::").next().unwrap_or(resource);
    match path.split_once('/') {
        _ if path == "*" => "every bucket and object".into(),
        None => format!("the bucket {path}"),
        Some((bucket, "*")) => format!("every object of {bucket}"),
        Some((bucket, key)) => match key.strip_suffix("*") {
            Some(prefix) if !prefix.contains(['*', '?']) => format!("the objects of {bucket} that begin with {prefix}"),
            _ => format!("{key} in {bucket}"),
        },
    }
}

/// One line for each class: the actions in words.
fn deeds(actions: &Selection<String>, out: &mut Vec<String>) {
    let mut known: Vec<&'static Action> = Vec::new();
    for text in &actions.list {
        match meaning(text) {
            Meaning::Known(list) => known.extend(list),
            Meaning::Foreign(_) | Meaning::Unknown(_) => out.push(format!("  - {text}")),
        }
    }
    if ACTIONS.iter().all(|a| known.contains(&a)) {
        out.push("  - everything (all 54 actions)".into());
        return;
    }
    for class in Class::ALL {
        let of_class: Vec<_> =
            ACTIONS.iter().filter(|a| a.class == class && known.iter().any(|k| k.name == a.name)).collect();
        let all = ACTIONS.iter().filter(|a| a.class == class).count();
        if of_class.is_empty() {
            continue;
        }
        let names = if of_class.len() == all {
            format!("all {all} actions of the class")
        } else {
            of_class.iter().map(|a| format!("{} ({})", a.does, a.name)).collect::<Vec<_>>().join(", ")
        };
        out.push(format!("  - {}: {names}", class.name()));
    }
}

fn statement(index: usize, statement: &Statement, out: &mut Vec<String>) {
    let sid = statement.sid.as_ref().map_or(String::new(), |sid| format!(" {sid:?}"));
    let verb = match (statement.is_allow, statement.actions.is_not) {
        (true, false) => "may",
        (true, true) => "may do everything but",
        (false, false) => "may NOT, whatever else allows it,",
        (false, true) => "may do NOTHING, whatever else allows it, but",
    };
    out.push(format!("Statement {}{sid}: {} {verb}", index + 1, subject(statement.principal.as_ref())));
    deeds(&statement.actions, out);
    if let Some(resources) = &statement.resources {
        let list: Vec<String> = resources.list.iter().map(|r| place(r)).collect();
        let on = if resources.is_not { "on everything but" } else { "on" };
        out.push(format!("  {on} {}", join(&list)));
    }
    for (number, one) in statement.conditions.iter().enumerate() {
        let word = if number == 0 { "if" } else { "and if" };
        out.push(format!("  {word} {}", condition::sentence(one)));
    }
}

/// The policy as lines for a person.
pub fn explain(document: &Document) -> Vec<String> {
    let mut out = Vec::new();
    for (index, one) in document.statements.iter().enumerate() {
        statement(index, one, &mut out);
    }
    let is_open = |s: &Statement| {
        s.is_allow && s.principal.as_ref().is_some_and(|p| !p.is_not && p.list.iter().any(Principal::is_everybody))
    };
    if document.statements.iter().any(is_open) {
        out.push("The bucket is open to people without an account.".into());
    }
    out.push("Who is not named has no right from this policy; the owner keeps all that is not denied.".into());
    out
}

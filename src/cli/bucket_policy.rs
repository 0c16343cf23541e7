//! `xosfs bucket policy`: a policy is checked, shown as a difference, and only then set.
//!
//! 1. Setting replaces. The difference to what is in place is shown for each bucket, and a person is asked.
//! 2. A policy that locks its owner out, or that the store would refuse, needs `--force`.
//! 3. No policy given is no wish to delete: that needs `--delete`.
//! 4. The bytes of a file are sent as they are.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::bucket::{self, confirm, open};
use super::object::read_text;
use super::store::{Store, StoreArgs, Uri, block_on};
use super::{Failure, print};
use crate::error::Kind;
use crate::policy::edit::{self, Draft};
use crate::policy::{self, Access, Extras, Finding, Scope, actions, diff, template};
use crate::s3::Document;

const KIND: Document = Document::Policy;

#[derive(Subcommand, Clone, Debug)]
pub(super) enum PolicyCommand {
    /// Show the policy, as it was set.
    Get { bucket: String },
    /// Replace the policy of one or several buckets.
    Set(Box<SetArgs>),
    /// Delete the policy.
    #[command(visible_alias = "delete")]
    Rm { bucket: String },
    /// Say what is wrong with a policy, without sending it.
    Validate {
        /// JSON; `-` is standard input.
        file: String,
        /// The bucket it is for.
        #[arg(long)]
        bucket: Option<String>,
        /// It is for a session (AssumeRole).
        #[arg(long, conflicts_with = "bucket")]
        session: bool,
    },
    /// Say in sentences what a policy allows and denies.
    Explain {
        /// A bucket; with --file, a file.
        source: String,
        /// The source is a file; `-` is standard input.
        #[arg(short, long)]
        file: bool,
    },
    /// Print the least policy that a mount needs.
    Suggest {
        /// s3://BUCKET[/PREFIX].
        uri: String,
        /// A mount that only reads.
        #[arg(long)]
        ro: bool,
        /// Tags, access control lists and restores, too.
        #[arg(long)]
        attributes: bool,
        /// Old versions, too.
        #[arg(long)]
        versions: bool,
        /// Who gets the rights: user names or ARNs, separated by commas, or `*`. Without it the policy names nobody,
        /// as for users and sessions.
        #[arg(long)]
        principal: Option<String>,
    },
    /// Show what would change.
    Diff {
        bucket: String,
        /// JSON; `-` is standard input.
        file: String,
    },
    /// Print a ready-made policy.
    Template {
        /// public-read, public-rw, tls-only, all, rw-objects, multipart.
        name: String,
        /// s3://BUCKET[/PREFIX].
        uri: String,
    },
    /// List the actions with their classes.
    Actions,
    /// Add a statement to the policy.
    AddStatement(Box<StatementArgs>),
    /// Change parts of a statement.
    EditStatement(Box<StatementArgs>),
    /// Take a statement out of the policy.
    RmStatement {
        bucket: String,
        sid: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args, Clone, Debug)]
pub(super) struct SetArgs {
    #[arg(required = true)]
    buckets: Vec<String>,
    /// JSON; `-` is standard input.
    #[arg(short, long, required_unless_present_any = ["template", "delete"], conflicts_with = "template")]
    file: Option<String>,
    /// A ready-made policy, see `policy template`.
    #[arg(long, value_name = "NAME")]
    template: Option<String>,
    /// An empty or missing document deletes the policies.
    #[arg(long)]
    delete: bool,
    #[command(flatten)]
    manner: Manner,
}

#[derive(Args, Clone, Debug)]
pub(super) struct StatementArgs {
    bucket: String,
    /// Name of the statement.
    sid: String,
    /// allow or deny.
    #[arg(long, value_parser = ["allow", "deny"])]
    effect: Option<String>,
    /// User names or ARNs, separated by commas, or `*`.
    #[arg(long)]
    principal: Option<String>,
    /// Actions, separated by commas; @READ, @WRITE, @READ_ACP, @WRITE_ACP for a class.
    #[arg(long)]
    action: Option<String>,
    /// BUCKET, BUCKET/PREFIX/, ARNs or `*`, separated by commas.
    #[arg(long)]
    resource: Option<String>,
    /// OPERATOR:KEY=VALUE, as IpAddress:aws:SourceIp=192.0.2.0/24; may be given several times.
    #[arg(long, value_name = "OPERATOR:KEY=VALUE")]
    condition: Vec<String>,
    #[command(flatten)]
    manner: Manner,
}

/// How a policy may be set.
#[derive(Args, Clone, Debug)]
struct Manner {
    /// Do not ask before a policy is replaced.
    #[arg(long)]
    yes: bool,
    /// Also a policy with errors, or one that locks the owner out.
    #[arg(long)]
    force: bool,
    /// Only check and show the difference.
    #[arg(short = 'n', long)]
    dry_run: bool,
}

fn show(findings: &[Finding]) {
    for finding in findings {
        eprintln!("xosfs: {finding}");
    }
}

/// The policy in place; `None` when there is none.
fn current(store: &Store) -> Result<Option<String>, Failure> {
    block_on(async { bucket::document(store, KIND).await.map_err(|e| bucket::explain(store, KIND, 0, e)) })
}

fn missing(store: &Store) -> Failure {
    Failure::Failed(format!("{:?} has no policy", store.s3.bucket()))
}

/// Checks; errors are told and stop it unless forced.
fn checked(text: &str, store: &Store, force: bool) -> Result<(), Failure> {
    let findings = policy::check(text, &Scope::Bucket(Some(store.s3.bucket().to_owned())));
    show(&findings);
    let errors = findings.iter().filter(|f| f.is_error()).count();
    if errors > 0 && !force {
        let bucket = store.s3.bucket();
        return Err(Failure::Usage(format!(
            "{errors} errors in the policy for {bucket:?}; nothing was sent (--force sends it)"
        )));
    }
    Ok(())
}

fn value_of(text: Option<&str>) -> Option<Value> {
    text.and_then(|t| serde_json::from_str(t).ok())
}

/// Prints the difference; whether there is one.
fn shown_difference(bucket: &str, old: Option<&str>, new: Option<&str>) -> Result<bool, Failure> {
    let (before, after) = (value_of(old), value_of(new));
    let lines = match (old, new) {
        // What cannot be read is compared as text.
        (Some(o), Some(n)) if before.is_none() || after.is_none() => diff::lines(o, n),
        _ => diff::documents(before.as_ref(), after.as_ref()),
    };
    if lines.is_empty() && old.is_some() == new.is_some() {
        return Ok(false);
    }
    print::line(&format!("--- policy of {bucket}"))?;
    for line in lines {
        print::line(&print::safe(&line))?;
    }
    Ok(true)
}

/// Sets (or with `None` deletes) the policy of a bucket after showing what changes.
fn replace(store: &Store, new: Option<&str>, manner: &Manner, must_ask: bool) -> Result<(), Failure> {
    let bucket = store.s3.bucket();
    let old = match block_on(async { Ok(bucket::document(store, KIND).await) })? {
        Ok(old) => old,
        // The right to set does not include the right to read.
        Err(e) if matches!(e.kind(), Kind::Denied | Kind::NotPermitted) && manner.yes => {
            eprintln!("xosfs: warning: the policy in place of {bucket:?} cannot be read: {e}");
            None
        }
        Err(e) => return Err(bucket::explain(store, KIND, 0, e)),
    };
    if !shown_difference(bucket, old.as_deref(), new)? {
        return Ok(());
    }
    if manner.dry_run {
        return Ok(());
    }
    let question = if new.is_some() { "Replace" } else { "Delete" };
    if (old.is_some() || must_ask) && !manner.yes && !confirm(&format!("{question} the policy of {bucket:?}?")) {
        return Err(Failure::Usage(format!("the policy of {bucket:?} would be changed as shown; add --yes")));
    }
    match new {
        Some(text) => bucket::set(store, KIND, text),
        None => bucket::delete(store, KIND),
    }
}

/// Whether a document says nothing.
fn is_blank(text: &str) -> bool {
    let text = text.trim();
    if text.is_empty() {
        return true;
    }
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(map)) => map.is_empty() || map.get("Statement") == Some(&json!([])),
        Ok(Value::Null) => true,
        _ => false,
    }
}

fn set(args: &StoreArgs, set: &SetArgs) -> Result<(), Failure> {
    let stores = set.buckets.iter().map(|b| open(args, b)).collect::<Result<Vec<_>, _>>()?;
    let mut text = set.file.as_deref().map(read_text).transpose()?;
    if set.template.is_none() && text.as_deref().is_none_or(is_blank) {
        if !set.delete {
            return Err(Failure::Usage("the document is empty; to delete the policies, add --delete".into()));
        }
        text = None;
    }
    let is_batch = stores.len() > 1;
    let texts: Vec<Option<String>> = stores
        .iter()
        .map(|store| match &set.template {
            Some(name) => made(name, store.s3.bucket(), "", false).map(|v| Some(print::pretty(&v))),
            None => Ok(text.clone()),
        })
        .collect::<Result<_, _>>()?;
    // Nothing is sent to any bucket before all is known to be sound.
    for (store, text) in stores.iter().zip(&texts) {
        if let Some(text) = text {
            checked(text, store, set.manner.force)?;
        }
    }
    for (store, text) in stores.iter().zip(&texts) {
        replace(store, text.as_deref(), &set.manner, is_batch)?;
    }
    Ok(())
}

fn made(name: &str, bucket: &str, prefix: &str, any: bool) -> Result<Value, Failure> {
    let names: Vec<_> =
        template::ALL.iter().filter(|t| any || !t.is_session).map(|t| format!("{} ({})", t.name, t.doc)).collect();
    let known = template::ALL.iter().any(|t| t.name == name && (any || !t.is_session));
    let wrong = || Failure::Usage(format!("no template {name:?}; there are {}", names.join(", ")));
    if !known {
        return Err(wrong());
    }
    template::template(name, bucket, prefix).ok_or_else(wrong)
}

/// What turns a user's name into a principal of this store.
fn user_prefix(store: &Store) -> String {
    store.provider.policy.user_arn.split_once("USER").map_or("arn:aws:iam:::user/", |(prefix, _)| prefix).to_owned()
}

impl StatementArgs {
    fn draft(&self) -> Draft {
        Draft {
            effect: self.effect.as_deref().map(|e| e == "allow"),
            principal: self.principal.clone(),
            action: self.action.clone(),
            resource: self.resource.clone(),
            conditions: self.condition.clone(),
        }
    }
}

/// Changes one statement of the policy in place.
fn edited(
    store: &Store,
    manner: &Manner,
    change: impl FnOnce(&mut Value) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let old = current(store)?;
    let unreadable = |e| Failure::Failed(format!("the policy of {:?} cannot be read: {e}", store.s3.bucket()));
    let mut document = old.as_deref().map(serde_json::from_str).transpose().map_err(unreadable)?.unwrap_or_default();
    change(&mut document)?;
    if edit::is_empty(&document) {
        return replace(store, None, manner, true);
    }
    let text = print::pretty(&document);
    checked(&text, store, manner.force)?;
    replace(store, Some(&text), manner, false)
}

/// Findings of a file; fails when there are errors.
fn validate(args: &StoreArgs, file: &str, scope: &Scope) -> Result<(), Failure> {
    let findings = policy::check(&read_text(file)?, scope);
    for finding in &findings {
        let level = if finding.is_error() { "error" } else { "warning" };
        match args.json {
            true => print::json_line(&json!({"level": level, "place": finding.place, "text": finding.text}))?,
            false => print::line(&print::safe(&finding.to_string()))?,
        }
    }
    let errors = findings.iter().filter(|f| f.is_error()).count();
    if errors > 0 {
        return Err(Failure::Failed(format!("{file}: {errors} errors")));
    }
    Ok(())
}

fn explain(args: &StoreArgs, source: &str, is_file: bool) -> Result<(), Failure> {
    let text = if is_file {
        read_text(source)?
    } else {
        let store = open(args, source)?;
        current(&store)?.ok_or_else(|| missing(&store))?
    };
    let (document, findings) = policy::parse(&text);
    show(&findings);
    if document.statements.is_empty() {
        return Err(Failure::Failed("there is no statement that can be understood".into()));
    }
    let lines = policy::explain(&document);
    if args.json {
        return print::json_whole(&lines.into());
    }
    lines.iter().try_for_each(|line| print::line(&print::safe(line)))
}

fn uri_of(text: &str) -> Result<(Uri, String), Failure> {
    let uri = if text.contains('/') { Uri::parse(text)? } else { Uri::bucket(text)? };
    let prefix = uri.prefix();
    Ok((uri, prefix))
}

pub(super) fn run(args: &StoreArgs, command: &PolicyCommand) -> Result<(), Failure> {
    match command {
        PolicyCommand::Get { bucket } => {
            let store = open(args, bucket)?;
            let text = current(&store)?.ok_or_else(|| missing(&store))?;
            match (args.json, value_of(Some(&text))) {
                (true, Some(value)) => print::json_whole(&value),
                _ => print::line(text.trim_end()),
            }
        }
        PolicyCommand::Set(given) => set(args, given),
        PolicyCommand::Rm { bucket } => bucket::delete(&open(args, bucket)?, KIND),
        PolicyCommand::Validate { file, bucket, session } => {
            let bucket = bucket.as_deref().map(Uri::bucket).transpose()?.map(|u| u.bucket);
            let scope = if *session { Scope::Session } else { Scope::Bucket(bucket) };
            validate(args, file, &scope)
        }
        PolicyCommand::Explain { source, file } => explain(args, source, *file),
        PolicyCommand::Suggest { uri, ro, attributes, versions, principal } => {
            let (uri, prefix) = uri_of(uri)?;
            let store = Store::open(args, &uri)?;
            let principals = principal.as_deref().map(|p| edit::principals(p, &user_prefix(&store))).transpose();
            let principals = principals.map_err(Failure::Usage)?;
            let access = if *ro { Access::ReadOnly } else { Access::ReadWrite };
            let extras = Extras { attributes: *attributes, versions: *versions };
            print::json_whole(&policy::suggest(&uri.bucket, &prefix, access, extras, principals.as_deref()))
        }
        PolicyCommand::Diff { bucket, file } => {
            let store = open(args, bucket)?;
            let (old, new) = (current(&store)?, read_text(file)?);
            let new = Some(new.as_str()).filter(|t| !is_blank(t));
            if !shown_difference(store.s3.bucket(), old.as_deref(), new)? {
                eprintln!("xosfs: nothing would change");
            }
            Ok(())
        }
        PolicyCommand::Template { name, uri } => {
            let (uri, prefix) = uri_of(uri)?;
            print::json_whole(&made(name, &uri.bucket, &prefix, true)?)
        }
        PolicyCommand::Actions => {
            for action in actions::ACTIONS {
                let (name, class, does) = (action.name, action.class.name(), action.does);
                match args.json {
                    true => print::json_line(&json!({"action": format!("s3:{name}"), "class": class, "does": does}))?,
                    false => print::line(&format!("{class:<9} s3:{name:<33} {does}"))?,
                }
            }
            Ok(())
        }
        PolicyCommand::AddStatement(given) => {
            let store = open(args, &given.bucket)?;
            let draft = given.draft();
            for (name, is_there) in [
                ("effect", draft.effect.is_some()),
                ("principal", draft.principal.is_some()),
                ("action", draft.action.is_some()),
                ("resource", draft.resource.is_some()),
            ] {
                if !is_there {
                    return Err(Failure::Usage(format!("a new statement needs --{name}")));
                }
            }
            edited(&store, &given.manner, |document| {
                edit::add(document, &given.sid, &draft, &user_prefix(&store)).map_err(Failure::Usage)
            })
        }
        PolicyCommand::EditStatement(given) => {
            let store = open(args, &given.bucket)?;
            let draft = given.draft();
            if draft == Draft::default() {
                return Err(Failure::Usage(
                    "nothing to change: add --effect, --principal, --action, --resource or --condition".into(),
                ));
            }
            edited(&store, &given.manner, |document| {
                edit::change(document, &given.sid, &draft, &user_prefix(&store)).map_err(Failure::Usage)
            })
        }
        PolicyCommand::RmStatement { bucket, sid, yes } => {
            let store = open(args, bucket)?;
            let manner = Manner { yes: *yes, force: false, dry_run: false };
            edited(&store, &manner, |document| edit::remove(document, sid).map(|_| ()).map_err(Failure::Failed))
        }
    }
}

//! `xosfs bucket lifecycle`: rules by a few words, or as a document.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::bucket::{self, open};
use super::store::{Store, StoreArgs, block_on};
use super::{Failure, print};
use crate::error::Error;
use crate::policy::lifecycle::{self, Draft};
use crate::s3::Document;

const KIND: Document = Document::Lifecycle;

#[derive(Subcommand, Clone, Debug)]
pub(super) enum LifecycleCommand {
    /// Show the rules as JSON.
    Get {
        bucket: String,
        /// As the store sends it.
        #[arg(long, conflicts_with = "json")]
        xml: bool,
    },
    /// Say in sentences what the rules do.
    Explain { bucket: String },
    /// Replace all rules.
    Set {
        bucket: String,
        /// JSON or XML; `-` is standard input.
        #[arg(short, long)]
        file: String,
    },
    /// Add one rule, or replace the one of the same id; others stay.
    Add(Box<AddArgs>),
    /// Switch a rule on.
    Enable { bucket: String, id: String },
    /// Switch a rule off.
    Disable { bucket: String, id: String },
    /// Delete one rule, or all.
    #[command(visible_alias = "delete")]
    Rm {
        bucket: String,
        /// Only the rule of this id.
        id: Option<String>,
    },
}

#[derive(Args, Clone, Debug)]
pub(super) struct AddArgs {
    bucket: String,
    /// [default: made from the rest]
    #[arg(long)]
    id: Option<String>,
    /// Only objects whose key begins so.
    #[arg(long, default_value = "")]
    prefix: String,
    /// Only objects with this tag; may be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    tag: Vec<String>,
    /// Delete objects after so many days, as 30d.
    #[arg(long, value_name = "DAYS")]
    expire: Option<String>,
    /// Delete old versions after so many days.
    #[arg(long, value_name = "DAYS")]
    expire_versions: Option<String>,
    /// Move objects to a class after so many days, as STANDARD_IA:30d; may be given several times.
    #[arg(long, value_name = "CLASS:DAYS")]
    transition: Vec<String>,
    /// Abort uploads that nobody completed after so many days.
    #[arg(long, value_name = "DAYS")]
    abort_uploads: Option<String>,
    /// Only define it; it does nothing yet.
    #[arg(long)]
    disabled: bool,
    /// Only print the rules that would be set.
    #[arg(short = 'n', long)]
    dry_run: bool,
}

impl AddArgs {
    fn draft(&self) -> Result<Draft, Failure> {
        let usage = |name: &str, e: String| Failure::Usage(format!("--{name}: {e}"));
        let days = |name: &str, text: &Option<String>| {
            text.as_deref().map(lifecycle::days).transpose().map_err(|e| usage(name, e))
        };
        let tag = |text: &String| {
            let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty())?;
            Some((key.to_owned(), value.to_owned()))
        };
        let tags: Option<Vec<_>> = self.tag.iter().map(tag).collect();
        let transitions: Result<Vec<_>, _> = self.transition.iter().map(|t| lifecycle::transition(t)).collect();
        Ok(Draft {
            id: self.id.clone(),
            prefix: self.prefix.clone(),
            tags: tags.ok_or_else(|| usage("tag", "write KEY=VALUE".into()))?,
            expire: days("expire", &self.expire)?,
            expire_versions: days("expire-versions", &self.expire_versions)?,
            transitions: transitions.map_err(|e| usage("transition", e))?,
            abort_uploads: days("abort-uploads", &self.abort_uploads)?,
            is_disabled: self.disabled,
        })
    }
}

/// The rules in place; null when there are none.
fn rules(store: &Store) -> Result<Value, Failure> {
    let text = block_on(async { bucket::document(store, KIND).await.map_err(|e| bucket::explain(store, KIND, 0, e)) })?;
    Ok(text.map(|t| KIND.json(&t)).transpose()?.unwrap_or_default())
}

/// Checks the rules and sets them.
fn set(store: &Store, mut document: Value) -> Result<(), Failure> {
    lifecycle::drop_never(&mut document);
    let errors: Vec<String> =
        lifecycle::check(&document).into_iter().filter(|f| f.is_error()).map(|f| f.to_string()).collect();
    if !errors.is_empty() {
        return Err(Failure::Usage(format!("lifecycle rules: {}", errors.join("; "))));
    }
    bucket::set(store, KIND, &document.to_string())
}

/// Changes the rules in place and sets them; deletes them when none is left.
fn change(store: &Store, edit: impl FnOnce(&mut Value) -> Result<(), String>) -> Result<(), Failure> {
    let mut document = rules(store)?;
    edit(&mut document).map_err(Failure::Failed)?;
    if lifecycle::is_empty(&document) { bucket::delete(store, KIND) } else { set(store, document) }
}

pub(super) fn run(args: &StoreArgs, command: &LifecycleCommand) -> Result<(), Failure> {
    let missing = |store: &Store| Failure::Failed(format!("lifecycle of {:?} is not set", store.s3.bucket()));
    match command {
        LifecycleCommand::Get { bucket, xml } => {
            let store = open(args, bucket)?;
            if *xml {
                let text = block_on(async {
                    bucket::document(&store, KIND).await.map_err(|e| bucket::explain(&store, KIND, 0, e))
                })?;
                return print::line(text.ok_or_else(|| missing(&store))?.trim_end());
            }
            match rules(&store)? {
                Value::Null => Err(missing(&store)),
                document => print::json_whole(&document),
            }
        }
        LifecycleCommand::Explain { bucket } => {
            let store = open(args, bucket)?;
            let lines = lifecycle::explain(&rules(&store)?);
            if args.json {
                return print::json_whole(&lines.into());
            }
            if lines.is_empty() {
                return print::line("nothing is deleted or moved by rules");
            }
            lines.iter().try_for_each(|l| print::line(&print::safe(l)))
        }
        LifecycleCommand::Set { bucket, file } => {
            let store = open(args, bucket)?;
            let text = bucket::read_document(file)?;
            let wrong = |e: Error| Failure::Usage(e.to_string());
            let body = KIND.body(&text).map_err(wrong)?;
            set(&store, KIND.json(&body).map_err(wrong)?)
        }
        LifecycleCommand::Add(add) => {
            let store = open(args, &add.bucket)?;
            let rule = lifecycle::rule(&add.draft()?).map_err(Failure::Usage)?;
            if add.dry_run {
                let mut document = rules(&store)?;
                lifecycle::put(&mut document, rule).map_err(Failure::Failed)?;
                return print::json_whole(&document);
            }
            change(&store, |document| lifecycle::put(document, rule))
        }
        LifecycleCommand::Enable { bucket, id } => {
            change(&open(args, bucket)?, |document| lifecycle::set_status(document, id, true))
        }
        LifecycleCommand::Disable { bucket, id } => {
            change(&open(args, bucket)?, |document| lifecycle::set_status(document, id, false))
        }
        LifecycleCommand::Rm { bucket, id: None } => bucket::delete(&open(args, bucket)?, KIND),
        LifecycleCommand::Rm { bucket, id: Some(id) } => {
            change(&open(args, bucket)?, |document| lifecycle::remove(document, id))
        }
    }
}

//! `xosfs bucket`: buckets and what is configured for them.
//!
//! 1. Setting a document replaces the one before, whole. What would be lost is shown first, and a person is asked.
//! 2. A document that was never set is "not set", not an error of the bucket.

use std::io::{BufRead, IsTerminal};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::acl::{self, AclGiven, AclWish, Extension, print_acl};
use super::object::{pairs, print_tags, read_text};
use super::store::{Store, StoreArgs, Uri, block_on};
use super::{Failure, bucket_lifecycle, bucket_policy, ls, print, rm};
use crate::error::{Error, Kind};
use crate::s3::{Acl, Document, check_bucket_name};

#[derive(Args, Clone, Debug)]
pub(super) struct BucketArgs {
    #[command(subcommand)]
    command: BucketCommand,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Subcommand, Clone, Debug)]
enum BucketCommand {
    /// List the buckets of these keys.
    Ls,
    /// Create a bucket.
    Create {
        bucket: String,
        /// Canned ACL.
        #[arg(long, value_name = "CANNED")]
        acl: Option<String>,
        /// Where it shall be [default: the region of the endpoint].
        #[arg(long, value_name = "REGION")]
        location: Option<String>,
    },
    /// Delete a bucket, which has to be empty.
    #[command(visible_alias = "delete")]
    Rm {
        bucket: String,
        /// Delete everything in it before: objects, versions, uploads.
        #[arg(long)]
        force_empty: bool,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Show whether a bucket exists, and where it is.
    Stat { bucket: String },
    /// The access control list.
    #[command(subcommand)]
    Acl(AclCommand),
    /// The bucket policy.
    #[command(subcommand)]
    Policy(bucket_policy::PolicyCommand),
    /// The lifecycle rules.
    #[command(subcommand)]
    Lifecycle(bucket_lifecycle::LifecycleCommand),
    /// What web pages of other sites may do (CORS).
    #[command(subcommand)]
    Cors(DocumentCommand),
    /// Whether old versions are kept.
    #[command(subcommand)]
    Versioning(VersioningCommand),
    /// Show the region of the bucket.
    Location { bucket: String },
    /// The bucket's own tags.
    #[command(subcommand)]
    Tags(TagsCommand),
    /// Any sub-resource: logging, website, notification, replication, encryption, …
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Subcommand, Clone, Debug)]
enum AclCommand {
    /// Show the list.
    Get { bucket: String },
    /// Say in sentences who may do what.
    Explain { bucket: String },
    /// Replace the list.
    Set {
        bucket: String,
        #[command(flatten)]
        given: AclGiven,
        #[command(flatten)]
        extension: Extension,
    },
    /// Back to private.
    #[command(visible_alias = "delete")]
    Rm { bucket: String },
}

/// Commands on one kind of document.
#[derive(Subcommand, Clone, Debug)]
pub(super) enum DocumentCommand {
    /// Show the document.
    Get {
        bucket: String,
        /// As the store sends it.
        #[arg(long, conflicts_with = "json")]
        xml: bool,
    },
    /// Replace the document.
    Set {
        bucket: String,
        /// JSON or XML; `-` is standard input.
        #[arg(short, long)]
        file: String,
    },
    /// Delete the document.
    #[command(visible_alias = "delete")]
    Rm { bucket: String },
}

#[derive(Subcommand, Clone, Debug)]
enum VersioningCommand {
    /// Off, Enabled or Suspended.
    Get { bucket: String },
    /// Keep old versions from now on.
    Enable { bucket: String },
    /// Keep no new ones; those that are there stay.
    Suspend { bucket: String },
}

#[derive(Subcommand, Clone, Debug)]
enum TagsCommand {
    /// Show the tags.
    Get { bucket: String },
    /// Set tags; others stay.
    Set {
        bucket: String,
        /// KEY=VALUE.
        #[arg(required = true)]
        tags: Vec<String>,
        /// Others go.
        #[arg(long)]
        replace: bool,
    },
    /// Remove all tags.
    #[command(visible_alias = "delete")]
    Rm { bucket: String },
}

#[derive(Subcommand, Clone, Debug)]
enum ConfigCommand {
    /// List the sub-resources, with the rights they need.
    List,
    /// Show one.
    Get {
        bucket: String,
        /// As logging, website, requestPayment.
        name: String,
        /// As the store sends it.
        #[arg(long, conflicts_with = "json")]
        xml: bool,
    },
    /// Replace one.
    Set {
        bucket: String,
        name: String,
        /// JSON or XML; `-` is standard input.
        #[arg(short, long)]
        file: String,
    },
    /// Delete one.
    #[command(visible_alias = "delete")]
    Rm { bucket: String, name: String },
}

/// The bucket of a command and its store.
pub(super) fn open(args: &StoreArgs, bucket: &str) -> Result<Store, Failure> {
    Store::open(args, &Uri::bucket(bucket)?)
}

/// Asks a person; without a terminal the answer is no.
pub(super) fn confirm(question: &str) -> bool {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return false;
    }
    eprint!("{question} [y/N] ");
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    read.is_ok() && matches!(line.trim(), "y" | "Y" | "yes")
}

/// A document, or `None` when none is set.
pub(super) async fn document(store: &Store, document: Document) -> Result<Option<String>, Error> {
    match store.s3.bucket_document(document).await {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == Kind::NoAttribute => Ok(None),
        Err(e) => Err(e),
    }
}

/// A failure on one of the documents, with the right that is missing.
pub(super) fn explain(store: &Store, document: Document, deed: usize, error: Error) -> Failure {
    let right = document.permissions().get(deed).copied().flatten();
    match (error.kind(), right) {
        (Kind::Denied, Some(right)) if error.code() == "AccessDenied" || error.code().is_empty() => {
            let fix = format!("these keys need {right} on {:?}, or have to be the owner's", store.s3.bucket());
            Failure::Failed(error.with_fix(fix).to_string())
        }
        _ => store.explain(error),
    }
}

fn not_set(store: &Store, document: Document) -> Failure {
    Failure::Failed(format!("{} of {:?} is not set", document.name(), store.s3.bucket()))
}

fn get(store: &Store, kind: Document, is_raw: bool) -> Result<(), Failure> {
    let text = block_on(async { document(store, kind).await.map_err(|e| explain(store, kind, 0, e)) })?;
    let text = text.ok_or_else(|| not_set(store, kind))?;
    if is_raw {
        return print::line(text.trim_end());
    }
    print::json_whole(&kind.json(&text)?)
}

/// Checks and sends a document.
pub(super) fn set(store: &Store, kind: Document, text: &str) -> Result<(), Failure> {
    // What is wrong with the text is a wrong argument, and nothing is sent.
    kind.body(text).map_err(|e| Failure::Usage(e.to_string()))?;
    block_on(async { store.s3.set_bucket_document(kind, text).await.map_err(|e| explain(store, kind, 1, e)) })
}

pub(super) fn delete(store: &Store, kind: Document) -> Result<(), Failure> {
    block_on(async { store.s3.delete_bucket_document(kind).await.map_err(|e| explain(store, kind, 2, e)) })
}

/// Members may be written in either case in JSON: `allowedMethods` and `AllowedMethods`.
fn capital(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let old = std::mem::take(map);
            for (name, mut inner) in old {
                capital(&mut inner);
                let mut chars = name.chars();
                let first = chars.next().map(|c| c.to_ascii_uppercase());
                let name = match name.to_ascii_lowercase().as_str() {
                    "id" => "ID".to_owned(),
                    "corsrules" => "CORSRules".to_owned(),
                    _ => first.into_iter().chain(chars).collect(),
                };
                map.insert(name, inner);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(capital),
        _ => {}
    }
}

/// A document from a file, with its names as the store wants them.
pub(super) fn read_document(file: &str) -> Result<String, Failure> {
    let text = read_text(file)?;
    match serde_json::from_str::<Value>(&text) {
        Ok(mut value) => {
            capital(&mut value);
            Ok(value.to_string())
        }
        // XML, or what the document's own reader says more about.
        Err(_) => Ok(text),
    }
}

fn cors(args: &StoreArgs, command: &DocumentCommand) -> Result<(), Failure> {
    match command {
        DocumentCommand::Get { bucket, xml } => get(&open(args, bucket)?, Document::Cors, *xml),
        DocumentCommand::Set { bucket, file } => {
            let store = open(args, bucket)?;
            let text = read_document(file)?;
            let wrong = |e: Error| Failure::Usage(e.to_string());
            let value = Document::Cors.body(&text).and_then(|body| Document::Cors.json(&body)).map_err(wrong)?;
            let rules: crate::s3::Cors =
                serde_json::from_value(value).map_err(|e| Failure::Usage(format!("cors document: {e}")))?;
            rules.check().map_err(wrong)?;
            set(&store, Document::Cors, &text)
        }
        DocumentCommand::Rm { bucket } => delete(&open(args, bucket)?, Document::Cors),
    }
}

fn bucket_acl(args: &StoreArgs, command: &AclCommand) -> Result<(), Failure> {
    let denied = |store: &Store, deed: usize, e: Error| explain(store, Document::Acl, deed, e);
    let fetch = |bucket: &str| {
        let store = open(args, bucket)?;
        block_on(async { store.s3.bucket_acl().await.map_err(|e| denied(&store, 0, e)) })
    };
    match command {
        AclCommand::Get { bucket } => print_acl(&fetch(bucket)?, args.json),
        AclCommand::Explain { bucket } => acl::explain(&fetch(bucket)?, true, args.json),
        AclCommand::Set { bucket, given, extension } => {
            let store = open(args, bucket)?;
            let (wish, headers) = (AclWish::read(given, &store, true)?, extension.read()?);
            wish.warn(&store, true);
            block_on(async {
                // The owner's own grant is kept: it has to be named.
                let now = match wish.is_full() {
                    true => store.s3.bucket_acl().await.map_err(|e| denied(&store, 0, e))?,
                    false => Acl::default(),
                };
                let change = wish.onto(now).map_err(|e| Failure::Usage(e.to_string()))?;
                store.s3.set_bucket_acl_with(&change, &headers).await.map_err(|e| denied(&store, 1, e))
            })
        }
        AclCommand::Rm { bucket } => {
            let store = open(args, bucket)?;
            let change = crate::s3::AclChange::Canned("private".into());
            block_on(async { store.s3.set_bucket_acl(&change).await.map_err(|e| denied(&store, 1, e)) })
        }
    }
}

fn versioning(args: &StoreArgs, command: &VersioningCommand) -> Result<(), Failure> {
    let (bucket, status) = match command {
        VersioningCommand::Get { bucket } => {
            let store = open(args, bucket)?;
            let text = block_on(async {
                document(&store, Document::Versioning).await.map_err(|e| explain(&store, Document::Versioning, 0, e))
            })?;
            let value = text.map(|t| Document::Versioning.json(&t)).transpose()?.unwrap_or_default();
            let status = value["Status"].as_str().unwrap_or("Off");
            return match args.json {
                true => print::json_whole(&json!({"bucket": store.s3.bucket(), "versioning": status})),
                false => print::line(&print::safe(status)),
            };
        }
        VersioningCommand::Enable { bucket } => (bucket, "Enabled"),
        VersioningCommand::Suspend { bucket } => (bucket, "Suspended"),
    };
    set(&open(args, bucket)?, Document::Versioning, &json!({"Status": status}).to_string())
}

fn tags_of(value: &Value) -> Vec<(String, String)> {
    let text = |tag: &Value, name: &str| tag[name].as_str().unwrap_or("").to_owned();
    let list = value["TagSet"].as_array();
    list.into_iter().flatten().map(|tag| (text(tag, "Key"), text(tag, "Value"))).collect()
}

fn tags(args: &StoreArgs, command: &TagsCommand) -> Result<(), Failure> {
    let kind = Document::Tagging;
    let now = |store: &Store| -> Result<Vec<(String, String)>, Failure> {
        let text = block_on(async { document(store, kind).await.map_err(|e| explain(store, kind, 0, e)) })?;
        Ok(text.map(|t| kind.json(&t)).transpose()?.map_or(Vec::new(), |v| tags_of(&v)))
    };
    match command {
        TagsCommand::Get { bucket } => print_tags(&now(&open(args, bucket)?)?, args.json),
        TagsCommand::Set { bucket, tags, replace } => {
            let store = open(args, bucket)?;
            let wanted = pairs(tags, &store)?;
            let mut set_ = if *replace { Vec::new() } else { now(&store)? };
            set_.retain(|(k, _)| wanted.iter().all(|(w, _)| w != k));
            set_.extend(wanted);
            let most = store.provider.tags.per_bucket as usize;
            if set_.len() > most {
                return Err(Failure::Usage(format!("{} tags; a bucket has at most {most}", set_.len())));
            }
            let list: Vec<Value> = set_.iter().map(|(k, v)| json!({"Key": k, "Value": v})).collect();
            set(&store, kind, &json!({"TagSet": list}).to_string())
        }
        TagsCommand::Rm { bucket } => delete(&open(args, bucket)?, kind),
    }
}

fn document_of(name: &str) -> Result<Document, Failure> {
    Document::from_name(name).ok_or_else(|| {
        let names: Vec<_> = Document::all().map(Document::name).collect();
        Failure::Usage(format!("there is no sub-resource {name:?}; there are {}", names.join(", ")))
    })
}

fn config(args: &StoreArgs, command: &ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::List => {
            for document in Document::all() {
                let rights = document.permissions();
                if args.json {
                    let value =
                        json!({"name": document.name(), "get": rights[0], "set": rights[1], "delete": rights[2]});
                    print::json_line(&value)?;
                } else {
                    let rights: Vec<&str> = rights.into_iter().flatten().collect();
                    print::line(&format!("{:<18} {}", document.name(), rights.join(" ")))?;
                }
            }
            Ok(())
        }
        ConfigCommand::Get { bucket, name, xml } => get(&open(args, bucket)?, document_of(name)?, *xml),
        ConfigCommand::Set { bucket, name, file } => {
            let document = document_of(name)?;
            let command = match document {
                Document::Policy => "policy set",
                Document::Lifecycle => "lifecycle set",
                _ => {
                    let store = open(args, bucket)?;
                    if !document.can_set() {
                        return Err(Failure::Usage(format!("{} of a bucket cannot be set", document.name())));
                    }
                    return set(&store, document, &read_document(file)?);
                }
            };
            Err(Failure::Usage(format!("use `xosfs bucket {command}`, which checks the document first")))
        }
        ConfigCommand::Rm { bucket, name } => {
            let document = document_of(name)?;
            if !document.can_delete() {
                let name = document.name();
                return Err(Failure::Usage(format!(
                    "{name} of a bucket cannot be deleted; set an empty or switched-off one"
                )));
            }
            delete(&open(args, bucket)?, document)
        }
    }
}

fn create(args: &StoreArgs, bucket: &str, acl: Option<&str>, location: Option<&str>) -> Result<(), Failure> {
    let uri = Uri::bucket(bucket)?;
    check_bucket_name(&uri.bucket).map_err(|e| Failure::Usage(e.to_string()))?;
    let store = Store::open(args, &uri)?;
    let acl = acl.map(|name| crate::s3::grants::canned(name, &store.provider.acl, true)).transpose();
    let acl = acl.map_err(|e| Failure::Usage(format!("--acl: {e}")))?;
    let made = block_on(async {
        match store.s3.create_bucket(location, acl.as_deref()).await {
            Ok(()) => Ok(true),
            // Again the same: it stays as it was. Ceph tells one's own from somebody else's by no code.
            Err(e) if e.code() == "BucketAlreadyOwnedByYou" => Ok(false),
            Err(e) if e.code() == "BucketAlreadyExists" => match store.s3.list_buckets().await {
                Ok(buckets) if buckets.iter().any(|b| b.name == uri.bucket) => Ok(false),
                _ => Err(store.explain(e)),
            },
            Err(e) => Err(store.explain(e)),
        }
    })?;
    match (args.json, made) {
        (true, _) => print::json_whole(&json!({"bucket": uri.bucket, "created": made})),
        (false, true) => Ok(()),
        (false, false) => {
            eprintln!("xosfs: {:?} is yours already; nothing was changed", uri.bucket);
            Ok(())
        }
    }
}

fn remove(args: &StoreArgs, bucket: &str, force_empty: bool, yes: bool) -> Result<(), Failure> {
    let uri = Uri::bucket(bucket)?;
    let store = Store::open(args, &uri)?;
    if force_empty {
        if !yes && !confirm(&format!("Delete everything in {:?}, all versions too?", uri.bucket)) {
            return Err(Failure::Usage(format!("everything in {:?} would be deleted; add --yes", uri.bucket)));
        }
        block_on(rm::empty(&store, &uri))?;
    }
    block_on(async {
        store.s3.delete_bucket().await.map_err(|e| match e.kind() {
            Kind::NotEmpty => {
                Failure::Failed(e.with_fix("delete what is in it, old versions too, or add --force-empty").to_string())
            }
            _ => store.explain(e),
        })
    })
}

pub(super) fn run(args: &BucketArgs) -> Result<(), Failure> {
    let store = &args.store;
    match &args.command {
        BucketCommand::Ls => ls::buckets(store),
        BucketCommand::Create { bucket, acl, location } => create(store, bucket, acl.as_deref(), location.as_deref()),
        BucketCommand::Rm { bucket, force_empty, yes } => remove(store, bucket, *force_empty, *yes),
        BucketCommand::Stat { bucket } => {
            let opened = open(store, bucket)?;
            let value = opened.run(ls::bucket(&opened))?;
            ls::print_bucket(&value, store.json)
        }
        BucketCommand::Acl(command) => bucket_acl(store, command),
        BucketCommand::Policy(command) => bucket_policy::run(store, command),
        BucketCommand::Lifecycle(command) => bucket_lifecycle::run(store, command),
        BucketCommand::Cors(command) => cors(store, command),
        BucketCommand::Versioning(command) => versioning(store, command),
        BucketCommand::Location { bucket } => {
            let opened = open(store, bucket)?;
            let location = opened.run(opened.s3.location())?;
            match store.json {
                true => print::json_whole(&json!({"bucket": opened.s3.bucket(), "location": location})),
                false => print::line(&print::safe(&location)),
            }
        }
        BucketCommand::Tags(command) => tags(store, command),
        BucketCommand::Config(command) => config(store, command),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // CON-04
    #[test]
    fn names_in_documents_may_be_in_lower_case() {
        let mut value = json!({"corsRules": [{"id": "x", "allowedMethods": ["GET"], "maxAgeSeconds": 5}]});
        capital(&mut value);
        assert_eq!(value, json!({"CORSRules": [{"ID": "x", "AllowedMethods": ["GET"], "MaxAgeSeconds": 5}]}));
    }
}

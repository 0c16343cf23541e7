//! `xosfs object`: what belongs to an object besides its bytes.
//!
//! 1. Class, headers and metadata of an object cannot be changed: it is copied onto itself, in parts when it is large.
//!    A copy loses its access control list, which is therefore read before and set again after.
//! 2. Setting one tag or one grant of many is reading and writing the set.
//! 3. With `-r` a change goes on after an object that refuses it; each is told.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::objects::{Targets, rewrite};
use super::store::{Store, StoreArgs, Uri, block_on};
use super::{Failure, acl, print, versions};
use crate::config::value;
use crate::error::{Error, Kind};
use crate::key::Key;
use crate::s3::{Headers, NewObject, ObjectMeta, Restoring};

#[derive(Args, Clone, Debug)]
pub(super) struct ObjectArgs {
    #[command(subcommand)]
    command: ObjectCommand,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Subcommand, Clone, Debug)]
enum ObjectCommand {
    /// Access control lists.
    #[command(subcommand)]
    Acl(acl::AclCommand),
    /// Tags.
    #[command(subcommand)]
    Tags(TagsCommand),
    /// Storage classes.
    #[command(subcommand)]
    Class(ClassCommand),
    /// Archived objects: whether they can be read, and making them readable.
    #[command(subcommand)]
    Restore(RestoreCommand),
    /// Old versions.
    #[command(subcommand)]
    Versions(versions::VersionsCommand),
    /// Content headers and user metadata.
    #[command(subcommand)]
    Meta(MetaCommand),
}

/// Which version of which object.
#[derive(Args, Clone, Debug)]
pub(super) struct One {
    /// s3://BUCKET/KEY or a path in a mount.
    pub uri: String,
    /// This version of it.
    #[arg(long, value_name = "ID")]
    pub version: Option<String>,
}

impl One {
    /// Its key and the store it is in.
    pub fn open(&self, args: &StoreArgs) -> Result<(Uri, Key, Store), Failure> {
        let uri = Uri::parse(&self.uri)?;
        let key = uri.object()?;
        let store = Store::open(args, &uri)?;
        Ok((uri, key, store))
    }

    /// What the store tells of it.
    fn head(&self, args: &StoreArgs) -> Result<(Uri, Store, ObjectMeta), Failure> {
        let (uri, key, store) = self.open(args)?;
        let meta = store.run(store.s3.head(&key, self.version.as_deref()))?;
        Ok((uri, store, meta))
    }
}

#[derive(Subcommand, Clone, Debug)]
enum TagsCommand {
    /// Show the tags.
    Get {
        #[command(flatten)]
        one: One,
    },
    /// Set tags; others stay.
    Set {
        #[command(flatten)]
        targets: Targets,
        /// KEY=VALUE; may be given several times.
        #[arg(short = 't', long = "tag", value_name = "KEY=VALUE", required = true)]
        tags: Vec<String>,
        /// Others go.
        #[arg(long)]
        replace: bool,
    },
    /// Remove all tags, or some.
    #[command(visible_alias = "delete")]
    Rm {
        #[command(flatten)]
        targets: Targets,
        /// Only this one; may be given several times.
        #[arg(short = 't', long = "tag", value_name = "KEY")]
        keys: Vec<String>,
    },
}

#[derive(Subcommand, Clone, Debug)]
enum ClassCommand {
    /// Show the class.
    Get {
        #[command(flatten)]
        one: One,
    },
    /// Move objects into a class, inside the store.
    Set {
        /// As STANDARD, STANDARD_IA, GLACIER.
        class: String,
        #[command(flatten)]
        targets: Targets,
    },
}

#[derive(Subcommand, Clone, Debug)]
enum RestoreCommand {
    /// Show whether an object is archived, and until when it can be read.
    Get {
        #[command(flatten)]
        one: One,
    },
    /// Ask for readable copies; they come after minutes to hours.
    Set {
        #[command(flatten)]
        targets: Targets,
        /// How long they are kept, in days.
        #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        /// Expedited, Standard or Bulk.
        #[arg(long, value_name = "TIER")]
        tier: Option<String>,
    },
}

#[derive(Subcommand, Clone, Debug)]
enum MetaCommand {
    /// Show headers and metadata.
    Get {
        #[command(flatten)]
        one: One,
    },
    /// Set headers and metadata; others stay.
    Set {
        #[command(flatten)]
        targets: Targets,
        /// content-type, cache-control, content-disposition, content-encoding, content-language, expires, or the name
        /// of metadata (`meta.NAME` for one called as a header).
        #[arg(short = 's', long = "set", value_name = "NAME=VALUE", required = true)]
        pairs: Vec<String>,
    },
    /// Remove headers and metadata.
    #[command(visible_alias = "delete")]
    Rm {
        #[command(flatten)]
        targets: Targets,
        /// As for `set`.
        #[arg(short = 'n', long = "name", value_name = "NAME", required = true)]
        names: Vec<String>,
    },
}

/// Reads a file or standard input.
pub(super) fn read_text(file: &str) -> Result<String, Failure> {
    let text = if file == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(file) };
    text.map_err(|e| Failure::Usage(format!("read {}: {e}", if file == "-" { "standard input" } else { file })))
}

/// `KEY=VALUE` each, within the limits of the store.
pub(super) fn pairs(list: &[String], store: &Store) -> Result<Vec<(String, String)>, Failure> {
    let limits = &store.provider.tags;
    let mut out: Vec<(String, String)> = Vec::new();
    for text in list {
        let wrong = |why: String| Failure::Usage(format!("tag `{text}`: {why}"));
        let (key, value) = text.split_once('=').ok_or_else(|| wrong("write KEY=VALUE".into()))?;
        if !limits.key_fits(key) {
            return Err(wrong(format!("a key has 1 to {} {}", limits.key, unit(store))));
        }
        if !limits.value_fits(value) {
            return Err(wrong(format!("a value has at most {} {}", limits.value, unit(store))));
        }
        if let Some(c) = text.chars().find(|c| limits.refused.contains(*c) && *c != '=') {
            return Err(wrong(format!("this store takes no `{c}` in tags")));
        }
        if out.iter().any(|(k, _)| k == key) {
            return Err(wrong("the key is given twice".into()));
        }
        out.push((key.to_owned(), value.to_owned()));
    }
    Ok(out)
}

fn unit(store: &Store) -> &'static str {
    match store.provider.tags.unit {
        crate::config::provider::Unit::Bytes => "bytes",
        crate::config::provider::Unit::Chars => "characters",
    }
}

pub(super) fn print_tags(tags: &[(String, String)], is_json: bool) -> Result<(), Failure> {
    if is_json {
        let map: Map<String, Value> = tags.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
        return print::json_whole(&Value::Object(map));
    }
    let lines: String = tags.iter().map(|(k, v)| format!("{}={}\n", print::safe(k), print::safe(v))).collect();
    print::out(&lines)
}

fn tags(args: &StoreArgs, command: &TagsCommand) -> Result<(), Failure> {
    match command {
        TagsCommand::Get { one } => {
            let (_, key, store) = one.open(args)?;
            print_tags(&store.run(store.s3.tags(&key, one.version.as_deref()))?, args.json)
        }
        TagsCommand::Set { targets, tags, replace } => {
            let first = Store::open(args, &targets.first()?)?;
            let most = first.provider.tags.per_object as usize;
            let wanted = pairs(tags, &first)?;
            if wanted.len() > most {
                return Err(Failure::Usage(format!("{} tags; an object has at most {most}", wanted.len())));
            }
            let wanted = &wanted;
            targets.each(args, |store, key, version| async move {
                let mut set = if *replace { Vec::new() } else { store.s3.tags(&key, version).await? };
                set.retain(|(k, _)| wanted.iter().all(|(w, _)| w != k));
                set.extend(wanted.iter().cloned());
                if set.len() > most {
                    let text = format!("{} tags; an object has at most {most}", set.len());
                    return Err(Error::new(Kind::Limit, text).with_key(&key).with_fix("remove some, or add --replace"));
                }
                store.s3.set_tags(&key, version, &set).await
            })
        }
        TagsCommand::Rm { targets, keys } => targets.each(args, |store, key, version| async move {
            if keys.is_empty() {
                return store.s3.delete_tags(&key, version).await;
            }
            let mut set = store.s3.tags(&key, version).await?;
            if let Some(missing) = keys.iter().find(|k| set.iter().all(|(s, _)| s != *k)) {
                return Err(Error::new(Kind::NoAttribute, format!("there is no tag {missing:?}")).with_key(&key));
            }
            set.retain(|(k, _)| !keys.contains(k));
            match set.is_empty() {
                true => store.s3.delete_tags(&key, version).await,
                false => store.s3.set_tags(&key, version, &set).await,
            }
        }),
    }
}

fn class(args: &StoreArgs, command: &ClassCommand) -> Result<(), Failure> {
    match command {
        ClassCommand::Get { one } => {
            let (uri, _, meta) = one.head(args)?;
            let class = meta.storage_class.unwrap_or_else(|| "STANDARD".into());
            match args.json {
                true => print::json_whole(&json!({"uri": uri.to_string(), "storage_class": class})),
                false => print::line(&print::safe(&class)),
            }
        }
        ClassCommand::Set { class, targets } => {
            let first = Store::open(args, &targets.first()?)?;
            let class = first.provider.class_name(&value::word(class).map_err(Failure::Usage)?);
            if first.provider.class(&class).is_none() && !first.provider.more_classes {
                let known: Vec<_> = first.provider.classes.iter().map(|c| c.name).collect();
                let title = first.provider.title;
                return Err(Failure::Usage(format!("{title} has no class {class}; there are {}", known.join(", "))));
            }
            targets.refuse_version("the class of an old version cannot be changed")?;
            let class = &class;
            targets.each(args, |store, key, _| async move {
                let change = |object: &mut NewObject| object.storage_class = Some(class.clone());
                rewrite(store, &key, &change).await
            })
        }
    }
}

fn restore(args: &StoreArgs, command: &RestoreCommand) -> Result<(), Failure> {
    match command {
        RestoreCommand::Get { one } => {
            let (uri, store, meta) = one.head(args)?;
            let class = meta.storage_class.as_deref().unwrap_or("STANDARD");
            let is_archive = store.provider.class(class).is_some_and(|c| c.archive);
            let state = match meta.restore.as_deref() {
                Some(text) if text.contains("ongoing-request=\"true\"") => "in-progress".to_owned(),
                Some(text) => {
                    let date = text.split_once("expiry-date=\"").and_then(|(_, rest)| rest.split_once('"'));
                    date.map_or("readable".into(), |(date, _)| format!("until {date}"))
                }
                None if is_archive => "archived".into(),
                None => "none".into(),
            };
            match args.json {
                true => print::json_whole(&json!({"uri": uri.to_string(), "storage_class": class, "restore": state})),
                false => print::line(&print::safe(&state)),
            }
        }
        RestoreCommand::Set { targets, days, tier } => {
            let first = Store::open(args, &targets.first()?)?;
            let Some(takes) = &first.provider.restore else {
                return Err(Failure::Failed(format!(
                    "{} archives nothing, so nothing can be restored",
                    first.provider.title
                )));
            };
            if !takes.days.contains(days) {
                let (least, most) = (takes.days.start(), takes.days.end());
                return Err(Failure::Usage(format!("--days {days}: {} takes {least} to {most}", first.provider.title)));
            }
            let tier = match tier {
                Some(tier) => {
                    let known = takes.tiers.iter().find(|t| t.eq_ignore_ascii_case(tier));
                    let wrong = || Failure::Usage(format!("--tier {tier}: write {}", takes.tiers.join(", ")));
                    Some(*known.ok_or_else(wrong)?)
                }
                None => None,
            };
            targets.each(args, |store, key, version| async move {
                match store.s3.restore_object(&key, version, *days, tier).await {
                    Ok(Restoring::Started | Restoring::Extended) => Ok(()),
                    // It is being done already.
                    Err(e) if e.kind() == Kind::InProgress => Ok(()),
                    Err(e) => Err(e),
                }
            })
        }
    }
}

/// Where a header or a metadata value of this name is kept.
fn slot<'a>(headers: &'a mut Headers, name: &str) -> Result<&'a mut Option<String>, String> {
    let name = name.to_ascii_lowercase();
    match name.as_str() {
        "content-type" => Ok(&mut headers.content_type),
        "cache-control" => Ok(&mut headers.cache_control),
        "content-disposition" => Ok(&mut headers.content_disposition),
        "content-encoding" => Ok(&mut headers.content_encoding),
        "content-language" => Ok(&mut headers.content_language),
        "expires" => Ok(&mut headers.expires),
        _ => Err(name.strip_prefix("meta.").or(name.strip_prefix("x-amz-meta-")).unwrap_or(&name).to_owned()),
    }
}

fn put(headers: &mut Headers, name: &str, value: Option<&str>) {
    let value = value.map(str::to_owned);
    match slot(headers, name) {
        Ok(slot) => *slot = value,
        Err(name) => {
            match value {
                Some(value) => headers.metadata.insert(name, value),
                None => headers.metadata.remove(&name),
            };
        }
    }
}

/// Each name gets its value, or goes.
fn set_meta(args: &StoreArgs, targets: &Targets, wanted: &[(&str, Option<&str>)]) -> Result<(), Failure> {
    targets.refuse_version("an old version cannot be changed")?;
    targets.each(args, |store, key, _| async move {
        let change = |object: &mut NewObject| {
            for (name, value) in wanted {
                put(&mut object.headers, name, *value);
            }
        };
        rewrite(store, &key, &change).await
    })
}

fn meta(args: &StoreArgs, command: &MetaCommand) -> Result<(), Failure> {
    match command {
        MetaCommand::Get { one } => {
            let (uri, _, meta) = one.head(args)?;
            if args.json {
                let value = print::meta_json(&uri.to_string(), &meta);
                return print::json_whole(&json!({"headers": value["headers"], "metadata": value["metadata"]}));
            }
            for (name, value) in print::content_headers(&meta.headers) {
                print::line(&format!("{name}={}", print::safe(value)))?;
            }
            for (name, value) in &meta.headers.metadata {
                print::line(&format!("meta.{name}={}", print::safe(value)))?;
            }
            Ok(())
        }
        MetaCommand::Set { targets, pairs } => {
            let mut wanted = Vec::new();
            for text in pairs {
                let (name, value) = text
                    .split_once('=')
                    .filter(|(name, _)| !name.is_empty())
                    .ok_or_else(|| Failure::Usage(format!("`{text}`: write NAME=VALUE, as content-type=text/plain")))?;
                if name.eq_ignore_ascii_case("content-type") {
                    value::content_type(value).map_err(Failure::Usage)?;
                }
                wanted.push((name, Some(value)));
            }
            set_meta(args, targets, &wanted)
        }
        MetaCommand::Rm { targets, names } => {
            let gone: Vec<_> = names.iter().map(|name| (name.as_str(), None)).collect();
            set_meta(args, targets, &gone)
        }
    }
}

pub(super) fn run(args: &ObjectArgs) -> Result<(), Failure> {
    let store = &args.store;
    match &args.command {
        ObjectCommand::Acl(command) => acl::run(store, command),
        ObjectCommand::Tags(command) => tags(store, command),
        ObjectCommand::Class(command) => class(store, command),
        ObjectCommand::Restore(command) => restore(store, command),
        ObjectCommand::Versions(command) => block_on(versions::run(store, command)),
        ObjectCommand::Meta(command) => meta(store, command),
    }
}

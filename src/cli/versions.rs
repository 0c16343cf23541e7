//! `xosfs object versions`: what was stored before, and bringing it back.

use std::path::Path;

use clap::Subcommand;
use serde_json::json;

use super::progress::{Bar, Limiter};
use super::store::{Store, StoreArgs, Uri};
use super::transfer::Engine;
use super::{Failure, print};
use crate::s3::{ObjectVersion, VersionQuery};

#[derive(Subcommand, Clone, Debug)]
pub(super) enum VersionsCommand {
    /// List the versions of an object, newest first, with the marks of deletions.
    Ls {
        /// s3://BUCKET/KEY or a path in a mount.
        uri: String,
        /// Of everything below, as a directory.
        #[arg(short, long)]
        recursive: bool,
    },
    /// Fetch an old version into a file.
    Get {
        uri: String,
        /// The id of the version.
        id: String,
        /// A file; `-` is standard output.
        file: String,
    },
    /// Make an old version the current one; it stays, too.
    Restore {
        uri: String,
        /// The id of the version.
        id: String,
    },
    /// Delete a version for good.
    #[command(visible_alias = "delete")]
    Rm {
        uri: String,
        /// The id of the version, or of a mark of deletion.
        id: String,
    },
    /// Take a deletion back.
    Undelete { uri: String },
}

fn show(bucket: &str, version: &ObjectVersion, is_json: bool) -> Result<(), Failure> {
    if is_json {
        return print::json_line(&json!({
            "uri": format!("s3://{bucket}/{}", version.key),
            "version": &*version.version,
            "latest": version.latest,
            "deleted": version.deleted,
            "size": version.size,
            "etag": version.etag.as_ref().map(|e| e.as_str()),
            "modified": print::time_json(version.last_modified),
            "storage_class": version.storage_class,
        }));
    }
    let size = if version.deleted { "DELETED".to_owned() } else { version.size.to_string() };
    let mark = if version.latest { "*" } else { " " };
    let time = print::time(version.last_modified);
    print::line(&format!("{mark} {time:<20} {size:>14}  {:<34}  {}", version.version, print::safe(&version.key)))
}

async fn ls(store: &Store, uri: &Uri, recursive: bool, is_json: bool) -> Result<(), Failure> {
    let explain = |e| store.explain(e);
    let mut found = false;
    if recursive {
        let prefix = uri.prefix();
        let mut query = VersionQuery { prefix: &prefix, ..VersionQuery::default() };
        loop {
            let page = store.s3.list_versions(&query).await.map_err(explain)?;
            for version in &page.versions {
                found = true;
                show(&uri.bucket, version, is_json)?;
            }
            match page.next {
                Some(next) => query.from = Some(next),
                None => break,
            }
        }
    } else {
        for version in store.s3.versions_of(&uri.object()?).await.map_err(explain)? {
            found = true;
            show(&uri.bucket, &version, is_json)?;
        }
    }
    if found { Ok(()) } else { Err(Failure::Failed(format!("there is no version of {uri}"))) }
}

pub(super) async fn run(args: &StoreArgs, command: &VersionsCommand) -> Result<(), Failure> {
    let (VersionsCommand::Ls { uri, .. }
    | VersionsCommand::Get { uri, .. }
    | VersionsCommand::Restore { uri, .. }
    | VersionsCommand::Rm { uri, .. }
    | VersionsCommand::Undelete { uri }) = command;
    let uri = Uri::parse(uri)?;
    if let VersionsCommand::Ls { recursive, .. } = command {
        if !recursive {
            uri.object()?;
        }
        return ls(&Store::open(args, &uri)?, &uri, *recursive, args.json).await;
    }
    let key = uri.object()?;
    let store = Store::open(args, &uri)?;
    let explain = |e| store.explain(e);
    match command {
        VersionsCommand::Ls { .. } => Ok(()),
        VersionsCommand::Get { id, file, .. } => {
            let options = &store.options;
            let bar = Bar::bytes(args.json);
            let engine = Engine::new(options.max_uploads, options.part_size, Limiter::new(None), bar, false);
            let result = match file.as_str() {
                "-" => {
                    let output = super::cp::standard_output()?;
                    let name = Path::new("standard output");
                    engine.download_stream(&store, &key, Some(id), output, name).await
                }
                file => engine.download(&store, &key, Some(id), Path::new(file)).await,
            };
            engine.bar.end();
            result.map(|_| ()).map_err(explain)
        }
        VersionsCommand::Restore { id, .. } => {
            let stored = store.s3.restore_version(&key, id).await.map_err(explain)?;
            let version = stored.version.as_deref().unwrap_or("null");
            match args.json {
                true => print::json_whole(&json!({"uri": uri.to_string(), "version": version, "restored": id})),
                false => print::line(&format!("version {} is the current one again, as {version}", print::safe(id))),
            }
        }
        VersionsCommand::Rm { id, .. } => {
            // Deleting what is not there succeeds: only looking first finds a misspelt id.
            let versions = store.s3.versions_of(&key).await.map_err(explain)?;
            if versions.iter().all(|v| *v.version != **id) {
                return Err(Failure::Failed(format!(
                    "{uri} has no version {id:?}; `xosfs object versions ls` lists them"
                )));
            }
            store.s3.delete_version(&key, id).await.map_err(explain)
        }
        VersionsCommand::Undelete { .. } => {
            let marks = store.s3.undelete(&key).await.map_err(explain)?;
            match (args.json, marks) {
                (true, _) => print::json_whole(&json!({"uri": uri.to_string(), "removed": marks})),
                (false, 0) => print::line("it is not deleted"),
                (false, n) => print::line(&format!("{n} marks of deletion removed")),
            }
        }
    }
}

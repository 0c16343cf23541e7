//! `xosfs uploads`: multipart uploads that nobody has completed. They cost money and are in no listing.

use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use serde_json::json;

use super::store::{Store, StoreArgs, Uri};
use super::{Failure, print};
use crate::config::value;
use crate::error::{Error, Kind};
use crate::key::Key;
use crate::s3::Upload;

const CENTURY: Duration = Duration::from_secs(100 * 365 * 86400);

#[derive(Args, Clone, Debug)]
pub(super) struct UploadsArgs {
    #[command(subcommand)]
    command: UploadsCommand,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Subcommand, Clone, Debug)]
enum UploadsCommand {
    /// List the uploads in progress below a bucket, prefix or key.
    Ls {
        uri: String,
        /// Only those begun longer ago, as 12h or 7d.
        #[arg(long, value_name = "DURATION")]
        older_than: Option<String>,
    },
    /// List the parts of an upload.
    Parts {
        uri: String,
        /// The id of the upload; needed when the object has several.
        id: Option<String>,
    },
    /// Abort uploads: their parts are deleted.
    Abort {
        uri: String,
        /// The id of one upload.
        id: Option<String>,
        /// All below the URI that were begun longer ago, as 12h or 7d.
        #[arg(long, value_name = "DURATION", conflicts_with = "id")]
        older_than: Option<String>,
        /// All below the URI, also those that somebody is working on.
        #[arg(long, conflicts_with_all = ["id", "older_than"])]
        all: bool,
        /// Only print what would be aborted.
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
}

fn duration(text: Option<&str>) -> Result<Option<Duration>, Failure> {
    let parse = |t| value::duration(t, Duration::ZERO..=CENTURY);
    text.map(parse).transpose().map_err(|e| Failure::Usage(format!("--older-than: {e}")))
}

fn age_of(upload: &Upload) -> Option<Duration> {
    SystemTime::now().duration_since(upload.initiated?).ok()
}

/// Whether an upload began so long ago. One without a date is not known to be old.
fn is_older(upload: &Upload, than: Option<Duration>) -> bool {
    than.is_none_or(|than| age_of(upload).is_some_and(|age| age >= than))
}

fn json_of(bucket: &str, upload: &Upload) -> serde_json::Value {
    json!({
        "uri": format!("s3://{bucket}/{}", upload.key),
        "id": upload.id,
        "initiated": print::time_json(upload.initiated),
        "storage_class": upload.storage_class,
        "owner": upload.owner,
    })
}

fn ls(store: &Store, uri: &Uri, older: Option<Duration>, is_json: bool) -> Result<(), Failure> {
    let mut uploads = store.run(store.s3.list_uploads(&uri.key))?;
    uploads.retain(|u| is_older(u, older));
    for upload in &uploads {
        if is_json {
            print::json_line(&json_of(&uri.bucket, upload))?;
        } else {
            let age = age_of(upload).map_or("?".into(), print::age);
            print::line(&format!("{age:>4}  {}  {}", print::safe(&upload.id), print::safe(&upload.key)))?;
        }
    }
    if !uploads.is_empty() && !is_json {
        eprintln!(
            "xosfs: {} uploads cost storage; `xosfs uploads abort {uri} --older-than 7d` deletes old ones, and \
             `xosfs bucket lifecycle add {} --abort-uploads 7d` keeps doing so",
            uploads.len(),
            uri.bucket
        );
    }
    Ok(())
}

/// The only upload of an object.
async fn only(store: &Store, key: &Key) -> Result<String, Error> {
    let mut uploads = store.s3.list_uploads(key.as_str()).await?;
    uploads.retain(|u| u.key == key.as_str());
    match uploads.as_slice() {
        [one] => Ok(one.id.clone()),
        [] => Err(Error::new(Kind::NotFound, "no upload is in progress").with_key(key)),
        many => Err(Error::new(Kind::Invalid, format!("{} uploads are in progress", many.len()))
            .with_key(key)
            .with_fix("name one by its id, see `xosfs uploads ls`")),
    }
}

fn parts(store: &Store, uri: &Uri, id: Option<&str>, is_json: bool) -> Result<(), Failure> {
    let key = uri.object()?;
    let parts = store.run(async {
        let id = match id {
            Some(id) => id.to_owned(),
            None => only(store, &key).await?,
        };
        store.s3.list_parts(&key, &id).await
    })?;
    for part in parts {
        if is_json {
            print::json_line(&json!({"number": part.number, "size": part.size, "etag": part.etag.as_str()}))?;
        } else {
            print::line(&format!("{:>5} {:>14}  {}", part.number, part.size, part.etag))?;
        }
    }
    Ok(())
}

pub(super) fn run(args: &UploadsArgs) -> Result<(), Failure> {
    let is_json = args.store.json;
    match &args.command {
        UploadsCommand::Ls { uri, older_than } => {
            let uri = Uri::parse(uri)?;
            let older = duration(older_than.as_deref())?;
            ls(&Store::open(&args.store, &uri)?, &uri, older, is_json)
        }
        UploadsCommand::Parts { uri, id } => {
            let uri = Uri::parse(uri)?;
            uri.object()?;
            parts(&Store::open(&args.store, &uri)?, &uri, id.as_deref(), is_json)
        }
        UploadsCommand::Abort { uri, id, older_than, all, dry_run } => {
            let uri = Uri::parse(uri)?;
            let older = duration(older_than.as_deref())?;
            if id.is_none() && older.is_none() && !all {
                let fix = "name an upload by its id, or write --older-than 7d, or --all";
                return Err(Failure::Usage(format!("which uploads of {uri}? {fix}")));
            }
            let store = Store::open(&args.store, &uri)?;
            let uploads = match id {
                Some(id) => {
                    let object = uri.object()?;
                    // Aborting what is not there succeeds: only asking first finds a misspelt id.
                    store.run(store.s3.list_parts(&object, id))?;
                    let key = object.as_str().to_owned();
                    vec![Upload { key, id: id.clone(), initiated: None, storage_class: None, owner: None }]
                }
                None => {
                    let mut uploads = store.run(store.s3.list_uploads(&uri.key))?;
                    uploads.retain(|u| is_older(u, older));
                    uploads
                }
            };
            for upload in &uploads {
                if !dry_run {
                    let key = Key::new(&upload.key)?;
                    store.run(store.s3.abort_upload(&key, &upload.id))?;
                }
                if is_json {
                    print::json_line(&json_of(&uri.bucket, upload))?;
                } else {
                    let what = if *dry_run { "would abort" } else { "aborted" };
                    print::line(&format!("{what} {}  {}", print::safe(&upload.id), print::safe(&upload.key)))?;
                }
            }
            Ok(())
        }
    }
}

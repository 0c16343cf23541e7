//! `xosfs presign`: URLs and forms that let anybody fetch or store one object for a while.
//!
//! Difficulty: what is printed is a secret. It goes to standard output and nowhere else.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::store::{Store, StoreArgs, Uri};
use super::{Failure, print};
use crate::config::value;
use crate::key::Key;
use crate::s3::{Headers, Post, PostCondition, PostKey, Presign, PresignMethod, Presigned};

/// Signature v2 knows no end; nobody means more than ten years.
const LONGEST: Duration = Duration::from_secs(3660 * 86400);

#[derive(Args, Clone, Debug)]
pub(super) struct PresignArgs {
    #[command(subcommand)]
    command: PresignCommand,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Args, Clone, Debug)]
struct Common {
    /// s3://BUCKET/KEY or a path in a mount.
    uri: String,
    /// How long it works: 1s to 7d (signature v4).
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    expires: String,
}

#[derive(Subcommand, Clone, Debug)]
enum PresignCommand {
    /// A URL that fetches the object.
    Get {
        #[command(flatten)]
        common: Common,
        /// This version of it.
        #[arg(long, value_name = "ID")]
        version: Option<String>,
        /// Name under which a browser saves it.
        #[arg(long, value_name = "NAME")]
        save_as: Option<String>,
        /// Content type that the store answers with.
        #[arg(long, value_name = "TYPE")]
        content_type: Option<String>,
    },
    /// A URL that stores the object, by a plain PUT.
    Put {
        #[command(flatten)]
        common: Common,
        /// Content type that the sender must send.
        #[arg(long, value_name = "TYPE")]
        content_type: Option<String>,
        /// Canned ACL that the sender must send.
        #[arg(long, value_name = "CANNED")]
        acl: Option<String>,
    },
    /// A form that stores the object, for browsers.
    Post {
        #[command(flatten)]
        common: Common,
        /// The URI is the beginning of the key; the form adds the name of the file.
        #[arg(long)]
        starts_with: bool,
        /// Canned ACL.
        #[arg(long, value_name = "CANNED")]
        acl: Option<String>,
        /// Content type; one that ends in `/` allows all that begin so.
        #[arg(long, value_name = "TYPE")]
        content_type: Option<String>,
        /// Most bytes of the file.
        #[arg(long, value_name = "SIZE")]
        max_size: Option<String>,
        /// Further fields of the form; may be given several times.
        #[arg(long, value_name = "NAME=VALUE")]
        field: Vec<String>,
        /// Print a page with the form.
        #[arg(long, conflicts_with = "json")]
        html: bool,
    },
}

fn life(text: &str) -> Result<Duration, Failure> {
    value::duration(text, Duration::from_secs(1)..=LONGEST).map_err(|e| Failure::Usage(format!("--expires: {e}")))
}

fn checked_type(text: Option<&String>) -> Result<(), Failure> {
    match text {
        Some(text) => value::content_type(text).map(|_| ()).map_err(|e| Failure::Usage(format!("--content-type: {e}"))),
        None => Ok(()),
    }
}

fn canned(name: &str, store: &Store) -> Result<String, Failure> {
    crate::s3::grants::canned(name, &store.provider.acl, false).map_err(|e| Failure::Usage(format!("--acl: {e}")))
}

fn show(method: PresignMethod, presigned: &Presigned, is_json: bool) -> Result<(), Failure> {
    let end = print::time(Some(presigned.end));
    if is_json {
        let headers: Map<String, Value> =
            presigned.headers.iter().map(|(n, v)| (n.clone(), v.clone().into())).collect();
        return print::json_whole(
            &json!({"url": presigned.url(), "method": method.name(), "headers": headers, "expires": end}),
        );
    }
    for (name, value) in &presigned.headers {
        eprintln!("xosfs: the sender must send the header {name}: {}", print::safe(value));
    }
    print::line(presigned.url())
}

/// `attachment` with a name as RFC 6266 writes it.
fn attachment(name: &str) -> String {
    let plain: String =
        name.chars().map(|c| if c == '"' || c == '\\' || !c.is_ascii() || c.is_control() { '_' } else { c }).collect();
    let encoded: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20");
    if plain == name {
        format!("attachment; filename=\"{plain}\"")
    } else {
        format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}")
    }
}

/// The key of one object: nobody fetches or stores a directory by a URL.
fn object(uri: &Uri) -> Result<Key, Failure> {
    let key = uri.object()?;
    match uri.key.ends_with('/') {
        true => Err(Failure::Usage(format!("{uri} is a directory; a URL is for one object"))),
        false => Ok(key),
    }
}

pub(super) fn run(args: &PresignArgs) -> Result<(), Failure> {
    let is_json = args.store.json;
    match &args.command {
        PresignCommand::Get { common, version, save_as, content_type } => {
            let uri = Uri::parse(&common.uri)?;
            let key = object(&uri)?;
            checked_type(content_type.as_ref())?;
            let store = Store::open(&args.store, &uri)?;
            let what = Presign {
                expires: life(&common.expires)?,
                version: version.clone(),
                response: Headers {
                    content_type: content_type.clone(),
                    content_disposition: save_as.as_deref().map(attachment),
                    ..Headers::default()
                },
                ..Presign::new(PresignMethod::Get, key)
            };
            show(what.method, &store.run(store.s3.presign(&what))?, is_json)
        }
        PresignCommand::Put { common, content_type, acl } => {
            let uri = Uri::parse(&common.uri)?;
            let key = object(&uri)?;
            checked_type(content_type.as_ref())?;
            let store = Store::open(&args.store, &uri)?;
            let mut what = Presign { expires: life(&common.expires)?, ..Presign::new(PresignMethod::Put, key) };
            what.headers.extend(content_type.iter().map(|t| ("content-type".to_owned(), t.clone())));
            if let Some(name) = acl {
                what.headers.push(("x-amz-acl".into(), canned(name, &store)?));
            }
            show(what.method, &store.run(store.s3.presign(&what))?, is_json)
        }
        PresignCommand::Post { common, starts_with, acl, content_type, max_size, field, html } => {
            let uri = Uri::parse(&common.uri)?;
            let key = match starts_with {
                true => PostKey::Prefix(uri.key.clone()),
                false => PostKey::Exact(uri.object()?),
            };
            let store = Store::open(&args.store, &uri)?;
            let mut post = Post { expires: life(&common.expires)?, ..Post::new(key) };
            if let Some(name) = acl {
                post.fields.push(("acl".into(), canned(name, &store)?));
            }
            match content_type {
                Some(start) if start.ends_with('/') => {
                    post.conditions.push(PostCondition::StartsWith("Content-Type".into(), start.clone()));
                }
                Some(exact) => {
                    checked_type(Some(exact))?;
                    post.fields.push(("Content-Type".into(), exact.clone()));
                }
                None => {}
            }
            if let Some(text) = max_size {
                let most = value::size(text, 1..=5 << 30).map_err(|e| Failure::Usage(format!("--max-size: {e}")))?;
                post.conditions.push(PostCondition::Length(0..=most));
            }
            for text in field {
                let wrong = || Failure::Usage(format!("--field: `{text}`: write NAME=VALUE"));
                let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(wrong)?;
                post.fields.push((name.to_owned(), value.to_owned()));
            }
            let form = store.run(store.s3.presign_post(&post))?;
            if *html {
                return print::out(&form.html());
            }
            if is_json {
                let mut value = form.json();
                value["expires"] = print::time(Some(form.end)).into();
                return print::json_whole(&value);
            }
            print::line(&format!("url: {}", form.url))?;
            for (name, value) in form.fields() {
                print::line(&format!("{name}={value}"))?;
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_saved_files_cannot_break_out() {
        assert_eq!(attachment("a b.txt"), "attachment; filename=\"a b.txt\"");
        assert_eq!(attachment("a\"é"), "attachment; filename=\"a__\"; filename*=UTF-8''a%22%C3%A9");
    }
}

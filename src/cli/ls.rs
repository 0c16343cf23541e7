//! `xosfs ls` and `xosfs stat`: what is in a bucket, and what is known of one object.
//!
//! Difficulty: `s3://b/a` may be an object, a directory, or both. Both are looked for, and what is there is shown.

use clap::Args;
use serde_json::{Value, json};

use super::store::{Store, StoreArgs, Uri, block_on};
use super::{Failure, print};
use crate::error::{Error, Kind};
use crate::key::Key;
use crate::s3::{BucketInfo, ListQuery, Listed, ObjectMeta, S3};

#[derive(Args, Clone, Debug)]
pub(super) struct LsArgs {
    /// s3://BUCKET[/PREFIX] or a path in a mount; without one, the buckets are listed.
    uris: Vec<String>,
    /// Everything below, not one level.
    #[arg(short, long)]
    recursive: bool,
    /// Sizes as 1.5M.
    #[arg(short = 'H', long)]
    human: bool,
    /// Also entity tag and storage class.
    #[arg(short, long)]
    long: bool,
    /// Stop after this many entries.
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    /// Count entries and bytes at the end.
    #[arg(long)]
    summarize: bool,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Args, Clone, Debug)]
pub(super) struct StatArgs {
    /// s3://BUCKET[/KEY] or paths in a mount.
    #[arg(required = true)]
    uris: Vec<String>,
    /// This version of the object.
    #[arg(long, value_name = "ID")]
    version: Option<String>,
    #[command(flatten)]
    store: StoreArgs,
}

/// What a listing has come to.
#[derive(Default)]
struct Shown {
    objects: u64,
    bytes: u64,
    entries: u64,
}

impl LsArgs {
    fn is_full(&self, shown: &Shown) -> bool {
        self.limit.is_some_and(|most| shown.entries >= most)
    }

    fn object(&self, bucket: &str, object: &Listed, shown: &mut Shown) -> Result<(), Failure> {
        shown.objects += 1;
        shown.entries += 1;
        shown.bytes += object.size;
        let class = object.storage_class.as_deref().unwrap_or("STANDARD");
        let etag = object.etag.as_ref().map_or("", |e| e.as_str());
        if self.store.json {
            return print::json_line(&json!({
                "uri": format!("s3://{bucket}/{}", object.key),
                "key": object.key,
                "size": object.size,
                "modified": print::time_json(object.last_modified),
                "etag": etag,
                "storage_class": class,
            }));
        }
        let size = if self.human { print::human(object.size) } else { object.size.to_string() };
        let more = if self.long { format!("  {class:<12} {etag:<34}") } else { String::new() };
        print::line(&format!(
            "{:<20} {size:>14}{more}  {}",
            print::time(object.last_modified),
            print::safe(&object.key)
        ))
    }

    fn prefix(&self, bucket: &str, prefix: &str, shown: &mut Shown) -> Result<(), Failure> {
        shown.entries += 1;
        if self.store.json {
            return print::json_line(&json!({"uri": format!("s3://{bucket}/{prefix}"), "prefix": prefix}));
        }
        let more = if self.long { " ".repeat(49) } else { String::new() };
        print::line(&format!("{:<20} {:>14}{more}  {}", "", "DIR", print::safe(prefix)))
    }

    /// Lists below a prefix; returns how many entries there were.
    async fn below(&self, store: &Store, prefix: &str, shown: &mut Shown) -> Result<u64, Failure> {
        let s3 = &store.s3;
        let before = shown.entries;
        let max_keys = self.limit.and_then(|n| u16::try_from(n.clamp(1, 1000)).ok());
        let mut query = ListQuery { prefix, delimited: !self.recursive, from: None, max_keys };
        loop {
            let page = s3.list(&query).await.map_err(|e| store.explain(e))?;
            let mut prefixes = page.prefixes.iter().peekable();
            for object in &page.objects {
                while let Some(next) = prefixes.next_if(|p| **p < object.key) {
                    if self.is_full(shown) {
                        return Ok(shown.entries - before);
                    }
                    self.prefix(s3.bucket(), next, shown)?;
                }
                if self.is_full(shown) {
                    return Ok(shown.entries - before);
                }
                self.object(s3.bucket(), object, shown)?;
            }
            for next in prefixes {
                if self.is_full(shown) {
                    return Ok(shown.entries - before);
                }
                self.prefix(s3.bucket(), next, shown)?;
            }
            match page.next {
                Some(next) if !self.is_full(shown) => query.from = Some(next),
                _ => return Ok(shown.entries - before),
            }
        }
    }

    async fn uri(&self, uri: &Uri, shown: &mut Shown) -> Result<(), Failure> {
        let store = Store::open(&self.store, uri)?;
        if !uri.key.is_empty() && !uri.key.ends_with('/') {
            let found = find(&store.s3, &uri.key).await.map_err(|e| store.explain(e))?;
            if let Some(meta) = &found {
                let listed = Listed {
                    key: uri.key.clone(),
                    size: meta.size,
                    etag: Some(meta.etag.clone()),
                    last_modified: meta.last_modified,
                    storage_class: meta.storage_class.clone(),
                    version: None,
                };
                self.object(store.s3.bucket(), &listed, shown)?;
            }
            if self.below(&store, &uri.prefix(), shown).await? == 0 && found.is_none() {
                return Err(Failure::Failed(format!("nothing is stored at {uri} or below it")));
            }
            return Ok(());
        }
        if self.below(&store, &uri.key, shown).await? == 0 && !uri.key.is_empty() {
            return Err(Failure::Failed(format!("nothing is stored below {uri}")));
        }
        Ok(())
    }
}

/// The object of exactly this key; `None` when there is none, or it may only be listed.
async fn find(s3: &S3, key: &str) -> Result<Option<ObjectMeta>, Error> {
    let key = Key::new(key)?;
    match s3.head(&key, None).await {
        Ok(meta) => Ok(Some(meta)),
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Denied) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The buckets of these credentials.
pub(super) fn buckets(args: &StoreArgs) -> Result<(), Failure> {
    buckets_of(args, Vec::new())
}

/// As [`buckets`], with the options of a mount.
fn buckets_of(args: &StoreArgs, options: Vec<String>) -> Result<(), Failure> {
    // Any name will do: the request names no bucket.
    let store = Store::open(args, &Uri { bucket: "none".into(), key: String::new(), options })?;
    let list: Vec<BucketInfo> = store.run(store.s3.list_buckets())?;
    for bucket in list {
        if args.json {
            print::json_line(&json!({"name": bucket.name, "created": print::time_json(bucket.created)}))?;
        } else {
            print::line(&format!("{:<20} {}", print::time(bucket.created), print::safe(&bucket.name)))?;
        }
    }
    Ok(())
}

pub(super) fn ls(args: &LsArgs) -> Result<(), Failure> {
    if args.uris.is_empty() {
        return buckets(&args.store);
    }
    if let [only] = args.uris.as_slice()
        && let Some(options) = Uri::every_bucket(only)
    {
        return buckets_of(&args.store, options);
    }
    let uris = args.uris.iter().map(|u| Uri::parse(u)).collect::<Result<Vec<_>, _>>()?;
    let mut shown = Shown::default();
    block_on(async {
        for uri in &uris {
            args.uri(uri, &mut shown).await?;
        }
        Ok(())
    })?;
    if args.summarize {
        if args.store.json {
            print::json_line(&json!({"objects": shown.objects, "bytes": shown.bytes}))?;
        } else {
            let size = if args.human { print::human(shown.bytes) } else { shown.bytes.to_string() };
            print::line(&format!("{} objects, {size} bytes", shown.objects))?;
        }
    }
    Ok(())
}

fn object_fields(uri: &Uri, meta: &ObjectMeta) -> Vec<(&'static str, String)> {
    let mut list = vec![
        ("uri", uri.to_string()),
        ("size", meta.size.to_string()),
        ("modified", print::time(meta.last_modified)),
        ("etag", meta.etag.to_string()),
        ("class", meta.storage_class.clone().unwrap_or_else(|| "STANDARD".into())),
    ];
    let more = [
        ("version", meta.version.as_deref().map(str::to_owned)),
        ("restore", meta.restore.clone()),
        ("tags", meta.tag_count.map(|n| n.to_string())),
        ("encryption", meta.sse.clone()),
        ("kms-key", meta.sse_kms_key.clone()),
    ];
    list.extend(more.into_iter().filter_map(|(name, value)| Some((name, value?))));
    list.extend(print::content_headers(&meta.headers).into_iter().map(|(name, value)| (name, value.to_owned())));
    list
}

/// What is known of a bucket.
pub(super) async fn bucket(store: &Store) -> Result<Value, Error> {
    store.s3.head_bucket().await?;
    // Only the owner may ask; what is known is told.
    let location = match store.s3.location().await {
        Ok(location) => Value::from(location),
        Err(e) if matches!(e.kind(), Kind::Denied | Kind::Unsupported) => Value::Null,
        Err(e) => return Err(e),
    };
    Ok(json!({
        "uri": format!("s3://{}", store.s3.bucket()),
        "endpoint": store.s3.endpoint(),
        "region": store.s3.region(),
        "location": location,
        "provider": store.provider.name,
    }))
}

pub(super) fn print_bucket(value: &Value, is_json: bool) -> Result<(), Failure> {
    if is_json {
        return print::json_whole(value);
    }
    let text = |name: &str| value[name].as_str().unwrap_or("unknown").to_owned();
    print::fields(&["uri", "endpoint", "region", "location", "provider"].map(|name| (name, text(name))))
}

pub(super) fn stat(args: &StatArgs) -> Result<(), Failure> {
    let uris = args.uris.iter().map(|u| Uri::parse(u)).collect::<Result<Vec<_>, _>>()?;
    for (number, uri) in uris.iter().enumerate() {
        let store = Store::open(&args.store, uri)?;
        if number > 0 && !args.store.json {
            print::line("")?;
        }
        if uri.key.is_empty() {
            print_bucket(&store.run(bucket(&store))?, args.store.json)?;
            continue;
        }
        let key = uri.object()?;
        let meta = store.run(store.s3.head(&key, args.version.as_deref()))?;
        if args.store.json {
            print::json_whole(&print::meta_json(&uri.to_string(), &meta))?;
            continue;
        }
        print::fields(&object_fields(uri, &meta))?;
        for (name, value) in &meta.headers.metadata {
            print::line(&format!("meta.{name}: {}", print::safe(value)))?;
        }
    }
    Ok(())
}

//! One change to one object, or to all below a prefix.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use futures_util::stream::{self, StreamExt};
use serde_json::json;

use super::preserve::KeptAcl;
use super::progress::{Bar, Limiter};
use super::store::{Store, StoreArgs, Uri, block_on};
use super::transfer::Engine;
use super::{Failure, print};
use crate::error::Result;
use crate::key::Key;
use crate::s3::{Condition, ListQuery, NewObject};

/// Objects changed at a time.
const AT_ONCE: usize = 8;

/// What a change is for.
#[derive(Args, Clone, Debug)]
pub(super) struct Targets {
    /// s3://BUCKET/KEY or paths in a mount.
    #[arg(required = true)]
    uris: Vec<String>,
    /// Everything below, as a directory.
    #[arg(short, long)]
    recursive: bool,
    /// This version of the object.
    #[arg(long, value_name = "ID", conflicts_with = "recursive")]
    version: Option<String>,
    /// Print every object that is changed.
    #[arg(short, long)]
    verbose: bool,
}

impl Targets {
    fn parsed(&self) -> Result<Vec<Uri>, Failure> {
        let uris = self.uris.iter().map(|u| Uri::parse(u)).collect::<Result<Vec<_>, _>>()?;
        if !self.recursive {
            for uri in &uris {
                uri.object()?;
            }
        }
        Ok(uris)
    }

    /// The first one, which says what kind of store it is.
    pub fn first(&self) -> Result<Uri, Failure> {
        let none = || Failure::Usage("write s3://BUCKET/KEY".into());
        self.parsed()?.into_iter().next().ok_or_else(none)
    }

    pub fn refuse_version(&self, why: &str) -> Result<(), Failure> {
        match self.version {
            Some(_) => Err(Failure::Usage(format!("--version: {why}; restore it first"))),
            None => Ok(()),
        }
    }

    /// Makes a change to each object. Those that refuse it are told, one a line.
    pub fn each<'a, F, W>(&'a self, args: &StoreArgs, change: F) -> Result<(), Failure>
    where
        F: Fn(&'a Store, Key, Option<&'a str>) -> W,
        W: Future<Output = Result<()>> + 'a,
    {
        let uris = self.parsed()?;
        let mut stores = Vec::new();
        for uri in &uris {
            stores.push(Store::open(args, uri)?);
        }
        // They live as long as the program: the changes borrow them.
        let stores: &'a [Store] = Vec::leak(stores);
        let (done, failed) = (AtomicU64::new(0), AtomicU64::new(0));
        let ended = |store: &Store, key: String, result: Result<()>| {
            let uri = format!("s3://{}/{key}", store.s3.bucket());
            match result {
                Ok(()) => {
                    done.fetch_add(1, Ordering::Relaxed);
                    if args.json {
                        return print::json_line(&json!({"uri": uri, "changed": true}));
                    }
                    if self.verbose { print::line(&print::safe(&uri)) } else { Ok(()) }
                }
                Err(error) => {
                    let failure = store.explain(error);
                    if !self.recursive && uris.len() == 1 {
                        return Err(failure);
                    }
                    failed.fetch_add(1, Ordering::Relaxed);
                    eprintln!("xosfs: not changed: {}: {}", print::safe(&uri), failure.message());
                    Ok(())
                }
            }
        };
        let version = self.version.as_deref();
        block_on(async {
            for (uri, store) in uris.iter().zip(stores) {
                if !self.recursive {
                    let key = uri.object()?;
                    let result = change(store, key.clone(), version).await;
                    ended(store, key.to_string(), result)?;
                    continue;
                }
                let prefix = uri.prefix();
                let mut query = ListQuery { prefix: &prefix, delimited: false, from: None, max_keys: None };
                let mut found = false;
                loop {
                    let page = store.s3.list(&query).await.map_err(|e| store.explain(e))?;
                    found |= !page.objects.is_empty();
                    let mut changes = stream::iter(page.objects)
                        .map(|object| {
                            let work = Key::new(&object.key).map(|key| change(store, key, version));
                            async move {
                                let result = match work {
                                    Ok(work) => work.await,
                                    Err(e) => Err(e),
                                };
                                (object.key, result)
                            }
                        })
                        .buffer_unordered(AT_ONCE);
                    while let Some((key, result)) = changes.next().await {
                        ended(store, key, result)?;
                    }
                    match page.next {
                        Some(next) => query.from = Some(next),
                        None => break,
                    }
                }
                if !found {
                    return Err(Failure::Failed(format!("nothing is stored below {uri}")));
                }
            }
            Ok(())
        })?;
        let (done, failed) = (done.into_inner(), failed.into_inner());
        if failed > 0 {
            return Err(Failure::Failed(format!("{failed} of {} could not be changed", done + failed)));
        }
        Ok(())
    }
}

/// Copies an object onto itself with a change, keeping everything else, its access control list too.
pub(super) async fn rewrite(store: &Store, key: &Key, change: &(dyn Fn(&mut NewObject) + Sync)) -> Result<()> {
    let kept = KeptAcl::of(store, key, None).await?;
    let change = |object: &mut NewObject| {
        kept.put_into(object);
        change(object);
    };
    let options = &store.options;
    let engine = Engine::new(options.max_uploads, options.part_size, Limiter::new(None), Bar::bytes(true), false);
    let result = engine.copy((store, key, None), (store, key), Some(&change), &Condition::None).await;
    engine.abort_open().await;
    result?;
    kept.settle(store, key).await
}

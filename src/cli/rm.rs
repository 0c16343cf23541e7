//! `xosfs rm`: deletes objects, one or all below a prefix.
//!
//! 1. What is deleted is gone. A whole bucket's objects are only deleted with `--all`, and `--dry-run` shows first.
//! 2. The next page is listed while a batch is being deleted. Keys that cannot be deleted are told, one a line, and the
//!    rest goes on.
//! 3. `rm -r s3://b/a` is about `a` and what is below `a/`, never about `ab`.

use clap::Args;
use serde_json::json;

use super::store::{Store, StoreArgs, Uri, block_on};
use super::{Failure, print, progress};
use crate::error::{Error, Kind};
use crate::key::Key;
use crate::s3::{ListQuery, Page, VersionQuery};

#[derive(Args, Clone, Debug)]
pub(super) struct RmArgs {
    /// s3://BUCKET/KEY or paths in a mount.
    #[arg(required = true)]
    uris: Vec<String>,
    /// The object and everything below it as a directory.
    #[arg(short, long)]
    recursive: bool,
    /// Only print what would be deleted.
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// With --recursive: all versions and delete markers, for good.
    #[arg(long, requires = "recursive")]
    versions: bool,
    /// With --recursive: also when the URI names a whole bucket.
    #[arg(long, requires = "recursive")]
    all: bool,
    /// Nothing to delete is no failure.
    #[arg(short, long)]
    force: bool,
    /// Print every key that is deleted.
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// Versions deleted at a time: each is a request.
const AT_ONCE: usize = 16;

#[derive(Default)]
struct Done {
    deleted: u64,
    failed: u64,
}

impl RmArgs {
    fn told(&self, uri: &str, version: Option<&str>) -> Result<(), Failure> {
        if self.store.json {
            return print::json_line(&json!({"uri": uri, "version": version, "deleted": !self.dry_run}));
        }
        if self.verbose || self.dry_run {
            let what = if self.dry_run { "would delete" } else { "deleted" };
            let version = version.map_or(String::new(), |v| format!(" version {v}"));
            return print::line(&format!("{what} {}{version}", print::safe(uri)));
        }
        Ok(())
    }

    async fn one(&self, store: &Store, uri: &Uri, done: &mut Done) -> Result<(), Failure> {
        let key = uri.object()?;
        match store.s3.head(&key, None).await {
            Ok(_) => {}
            Err(e) if e.kind() == Kind::NotFound && self.force => return Ok(()),
            Err(e) if e.kind() == Kind::NotFound => {
                return Err(Failure::Failed(format!("{uri} is not there (rm -r deletes what is below it)")));
            }
            // It may be deleted without being read.
            Err(e) if e.kind() == Kind::Denied => {}
            Err(e) => return Err(store.explain(e)),
        }
        if !self.dry_run {
            store.s3.delete(&key, None).await.map_err(|e| store.explain(e))?;
        }
        done.deleted += 1;
        self.told(&uri.to_string(), None)
    }

    /// Deletes the objects of a page.
    async fn page(&self, store: &Store, keys: Vec<String>, done: &mut Done) -> Result<(), Failure> {
        let mut good = Vec::new();
        for key in keys {
            match Key::new(&key) {
                Ok(key) => good.push(key),
                Err(e) => self.lost(&e, done),
            }
        }
        let failed =
            if self.dry_run { Vec::new() } else { store.s3.delete_many(&good).await.map_err(|e| store.explain(e))? };
        for (_, error) in &failed {
            self.lost(error, done);
        }
        for key in &good {
            if failed.iter().all(|(k, _)| k != key) {
                done.deleted += 1;
                self.told(&format!("s3://{}/{key}", store.s3.bucket()), None)?;
            }
        }
        Ok(())
    }

    fn lost(&self, error: &Error, done: &mut Done) {
        done.failed += 1;
        eprintln!("xosfs: not deleted: {error}");
    }

    async fn below(&self, store: &Store, uri: &Uri, done: &mut Done, bar: &progress::Bar) -> Result<(), Failure> {
        let s3 = &store.s3;
        let prefix = uri.prefix();
        let ask = |from| {
            let prefix = prefix.clone();
            async move { s3.list(&ListQuery { prefix: &prefix, delimited: false, from, max_keys: None }).await }
        };
        let keys = |page: &Page| page.objects.iter().map(|o| o.key.clone()).collect::<Vec<_>>();
        let mut page = ask(None).await.map_err(|e| store.explain(e))?;
        loop {
            let work = self.page(store, keys(&page), done);
            match page.next.clone() {
                None => {
                    work.await?;
                    return Ok(());
                }
                Some(next) => {
                    let (worked, listed) = tokio::join!(work, ask(Some(next)));
                    worked?;
                    page = listed.map_err(|e| store.explain(e))?;
                }
            }
            bar.set(done.deleted);
        }
    }

    /// Every version of the object and of what is below it.
    async fn versions(&self, store: &Store, uri: &Uri, done: &mut Done, bar: &progress::Bar) -> Result<(), Failure> {
        use futures_util::StreamExt;
        let s3 = &store.s3;
        let (exact, below) = (uri.key.clone(), uri.prefix());
        let mut query = VersionQuery { prefix: &exact, ..VersionQuery::default() };
        loop {
            let page = s3.list_versions(&query).await.map_err(|e| store.explain(e))?;
            let ours = page.versions.iter().filter(|v| v.key == exact || v.key.starts_with(&below));
            let results: Vec<_> = futures_util::stream::iter(ours.cloned().map(|version| async move {
                let result = match Key::new(&version.key) {
                    Ok(_) if self.dry_run => Ok(()),
                    Ok(key) => s3.delete_version(&key, &version.version).await,
                    Err(e) => Err(e),
                };
                (version, result)
            }))
            .buffered(AT_ONCE)
            .collect()
            .await;
            for (version, result) in results {
                match result {
                    Ok(()) => {
                        done.deleted += 1;
                        self.told(&format!("s3://{}/{}", s3.bucket(), version.key), Some(&version.version))?;
                    }
                    Err(error) => self.lost(&error, done),
                }
            }
            bar.set(done.deleted);
            match page.next {
                Some(next) => query.from = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn uri(&self, uri: &Uri, done: &mut Done, bar: &progress::Bar) -> Result<(), Failure> {
        let store = Store::open(&self.store, uri)?;
        if !self.recursive {
            return self.one(&store, uri, done).await;
        }
        let before = (done.deleted, done.failed);
        if self.versions {
            self.versions(&store, uri, done, bar).await?;
        } else {
            if !uri.key.is_empty() && !uri.key.ends_with('/') {
                let key = uri.object()?;
                match store.s3.head(&key, None).await {
                    Ok(_) => self.page(&store, vec![uri.key.clone()], done).await?,
                    Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Denied) => {}
                    Err(e) => return Err(store.explain(e)),
                }
            }
            self.below(&store, uri, done, bar).await?;
        }
        if (done.deleted, done.failed) == before && !self.force {
            return Err(Failure::Failed(format!("nothing is stored at {uri} or below it")));
        }
        Ok(())
    }
}

/// Deletes everything in a bucket: uploads, objects, versions.
pub(super) async fn empty(store: &Store, uri: &Uri) -> Result<(), Failure> {
    let args = RmArgs {
        uris: Vec::new(),
        recursive: true,
        dry_run: false,
        versions: true,
        all: true,
        force: true,
        verbose: false,
        store: StoreArgs::default(),
    };
    for upload in store.s3.list_uploads("").await.map_err(|e| store.explain(e))? {
        store.s3.abort_upload(&Key::new(&upload.key)?, &upload.id).await.map_err(|e| store.explain(e))?;
    }
    let bar = progress::Bar::count("deleted", false);
    let mut done = Done::default();
    let result = match store.s3.list_versions(&VersionQuery { max_keys: Some(1), ..VersionQuery::default() }).await {
        // A store without versions has objects.
        Err(e) if e.kind() == Kind::Unsupported => args.below(store, uri, &mut done, &bar).await,
        _ => args.versions(store, uri, &mut done, &bar).await,
    };
    bar.end();
    result?;
    if done.failed > 0 {
        return Err(Failure::Failed(format!("{} of {} could not be deleted", done.failed, done.failed + done.deleted)));
    }
    Ok(())
}

pub(super) fn run(args: &RmArgs) -> Result<(), Failure> {
    let uris = args.uris.iter().map(|u| Uri::parse(u)).collect::<Result<Vec<_>, _>>()?;
    for uri in &uris {
        if args.recursive && uri.key.is_empty() && !args.all {
            return Err(Failure::Usage(format!("{uri} is a whole bucket; add --all to delete everything in it")));
        }
        if !args.recursive {
            if uri.key.ends_with('/') {
                return Err(Failure::Usage(format!("{uri} is a directory; add -r to delete everything below it")));
            }
            uri.object()?;
        }
    }
    let bar = progress::Bar::count("deleted", args.store.json || args.verbose || args.dry_run);
    let mut done = Done::default();
    let result = block_on(async {
        for uri in &uris {
            args.uri(uri, &mut done, &bar).await?;
        }
        Ok(())
    });
    bar.end();
    result?;
    if done.failed > 0 {
        return Err(Failure::Failed(format!("{} of {} could not be deleted", done.failed, done.failed + done.deleted)));
    }
    if args.dry_run && !args.store.json {
        print::line(&format!("{} would be deleted", done.deleted))?;
    }
    Ok(())
}

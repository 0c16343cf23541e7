//! What the daemon drives: the file system as the kernel sees it, and the handles to end it and to look into it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::BoxFuture;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::Handle;

use super::control::Console;
use super::served::Served;
use super::status::Origin;
use super::{Request, connect, env};
use crate::budget::Budget;
use crate::cache::BlockCache;
use crate::cache::disk::{self, DiskCache, DiskSettings};
use crate::config::options::{self, Attrs, Options, Passthrough, XattrList};
use crate::config::{Provider, Source, memory};
use crate::error::{Error, Kind, Result};
use crate::fs::buckets::{Buckets, BucketsSettings, Making};
use crate::fs::{self, Defaults, Fs, Space};
use crate::fuse::session::{Filesystem, Notifier};
use crate::fuse::{Adapter, KernelNotifier, Tree};
use crate::key::Prefix;
use crate::read::{ReadSettings, Reads};
use crate::s3::{Headers, NewObject, S3};
use crate::write::journal::{self, Identity, Journal, JournalSettings, Replay};
use crate::write::{Journaling, Limits, OnConflict, OpenJournal, WriteSettings, Writes};

/// What could not be stored, by key, and why.
pub type Unstored = Vec<(String, Error)>;
/// Stores everything written so far, waiting until the deadline; says what is left. May be called again.
pub type Drain = Box<dyn Fn(Instant) -> BoxFuture<'static, Unstored> + Send + Sync>;

/// Changes of attributes wait this long for others: longer than `cp -a` or `rsync` take between two of one file,
/// shorter than anybody waits for another machine to see a mode.
const ATTR_DELAY: Duration = Duration::from_millis(500);
/// Names remembered with the least memory there may be, and the share of what is more than that for others.
const NAMES: u64 = 8192;
const NAMES_SHARE: u64 = 4;

/// Blocks that wait for the disk: as many bytes as it takes in while it syncs its journal, and never so many that
/// reads lack the memory.
const QUEUE_MAX: usize = 64 << 20;
const QUEUE_SHARE: usize = 8;
/// A disk that failed is tried again after this pause.
const DISK_RETRY: Duration = Duration::from_secs(30);
/// What waits for the disk when the mount ends is not worth more.
const DISK_PATIENCE: Duration = Duration::from_secs(5);

/// A file system ready to be mounted.
pub struct Volume<F> {
    pub filesystem: F,
    /// Called once when the mount is up.
    pub attach: Box<dyn FnOnce(Notifier, String) + Send>,
    pub drain: Drain,
    /// For whoever looks into the mount while it runs.
    pub console: Arc<dyn Console>,
}

fn defaults(options: &Options) -> Defaults {
    Defaults {
        uid: options.uid,
        gid: options.gid,
        file_perm: (options.file_bits() & 0o7777) as u16,
        dir_perm: (options.dir_bits() & 0o7777) as u16,
    }
}

/// What the file system is told, from the options of a mount.
pub fn fs_settings(options: &Options, provider: &'static Provider, root: Prefix) -> fs::Settings {
    let more = options.memory_bytes().saturating_sub(memory::MIN);
    fs::Settings {
        provider,
        root,
        space: Space::WHOLE,
        born: None,
        defaults: defaults(options),
        read_only: options.read_only,
        as_of: options.as_of,
        versions_dir: options.versions == options::Versions::Dir,
        metadata_ttl: options.metadata_ttl,
        negative_ttl: options.negative_ttl,
        store_attrs: options.attrs == Attrs::Store,
        attr_delay: ATTR_DELAY,
        list_all_xattrs: options.xattr_list == XattrList::All,
        presign_ttl: options.presign_ttl,
        new_object: NewObject {
            headers: Headers { content_type: options.content_type.clone(), ..Headers::default() },
            storage_class: options.storage_class.as_deref().map(|c| provider.class_name(c)),
            acl: options.acl.clone(),
            tags: options.tags.clone(),
            ..NewObject::default()
        },
        hide_odd_keys: options.hide_odd_keys,
        capacity: options.capacity,
        copy_threshold: provider.limits.copy_threshold,
        op_timeout: options.op_timeout,
        remembered: usize::try_from(NAMES + more / NAMES_SHARE / fs::NAME_BYTES as u64).unwrap_or(usize::MAX),
        remembered_free: NAMES as usize,
        conditional: true,
        passthrough: options.disk.dir.is_some() && options.disk.passthrough == Passthrough::Auto,
        shared: None,
    }
}

fn limits(options: &Options, provider: &Provider) -> Limits {
    let of = &provider.limits;
    let plain = Limits::default();
    Limits {
        min_part: of.min_part,
        max_part: of.max_part,
        max_parts: of.max_parts,
        part_size: options.part_size.clamp(of.min_part, of.max_part),
        max_object: of.max_object,
        single_put: plain.single_put.min(of.max_put),
        part_copy: provider.part_copy,
        equal_parts: of.equal_parts,
    }
}

/// Puts the layers together, without a journal. Must be called inside the runtime.
pub fn build(options: &Options, root: Prefix, s3: S3) -> Arc<Fs> {
    build_with(options, root, s3, None)
}

/// How journals tell stores apart.
fn store_of(options: &Options) -> Option<String> {
    options.endpoint.clone().or_else(|| options.region.clone().filter(|r| r != "us-east-1"))
}

fn identity(options: &Options, source: &Source) -> Identity {
    Identity { endpoint: store_of(options), bucket: source.bucket.clone(), prefix: source.prefix.as_str().to_owned() }
}

/// Opens the journal of a mount, and takes over what others have left. Without `writeback` it is dispensable: where `state_dir` cannot be written, uploads of
/// a daemon that gets killed are left behind, and that is said once.
pub fn open_journal(options: &Options, source: &Source) -> Result<Option<(Arc<Journal>, Replay)>> {
    open_journal_of(options, source, true)
}

fn open_journal_of(options: &Options, source: &Source, adopt: bool) -> Result<Option<(Arc<Journal>, Replay)>> {
    let settings = JournalSettings {
        state_dir: options.state(&env),
        identity: identity(options, source),
        limit: options.writeback_limit,
        adopt,
    };
    match Journal::open(&settings) {
        Ok(opened) => Ok(Some(opened)),
        Err(e) if options.writeback => Err(e),
        Err(e) => {
            tracing::warn!("no journal of uploads, so what a killed daemon leaves stays in the bucket: {e}");
            Ok(None)
        }
    }
}

/// What tells buckets apart that share a disk cache. AWS is one store, wherever it answers.
fn cached_as(s3: &S3) -> String {
    format!("{}/{}", s3.own_endpoint().unwrap_or("aws"), s3.bucket())
}

/// The disk cache, if there is to be one and it can be had.
fn start_disk(options: &Options, s3: &S3, budget: &Arc<Budget>) -> Option<Arc<DiskCache>> {
    let settings = DiskSettings {
        dir: options.disk.dir.clone()?,
        store: cached_as(s3),
        size: options.disk.size,
        free: options.disk.free,
        queue: QUEUE_MAX.min(budget.limit() / QUEUE_SHARE),
        retry: DISK_RETRY,
    };
    match DiskCache::start(settings, budget.clone()) {
        Ok(disk) => Some(disk),
        Err(e) => {
            tracing::error!("reading without the disk cache: {e}");
            None
        }
    }
}

/// What reads and writes, and the bounds on both: of a bucket, or what those of all buckets are made from.
#[derive(Clone)]
pub struct Engines {
    pub s3: S3,
    pub reads: Arc<Reads>,
    pub writes: Arc<Writes>,
    pub provider: &'static Provider,
}

/// Must be called inside the runtime.
fn engines(options: &Options, s3: S3, journal: Option<Arc<Journal>>, writeback: bool) -> Engines {
    let provider = Provider::find(options.provider, s3.own_endpoint());
    let memory = usize::try_from(options.memory_bytes()).unwrap_or(usize::MAX);
    let budget = Budget::new(memory);
    let cache = BlockCache::new(budget.clone());
    let read = ReadSettings {
        max_readahead: usize::try_from(options.max_readahead).unwrap_or(usize::MAX),
        patience: options.op_timeout,
        disk: start_disk(options, &s3, &budget),
        ..ReadSettings::default()
    };
    let reads = Reads::new(s3.clone(), cache, read);
    let write = WriteSettings {
        limits: limits(options, provider),
        conditional_puts: provider.conditional_put,
        conditional_puts_versions: provider.conditional_put_versions,
        conditional_copies: provider.conditional_copy,
        on_conflict: match options.on_conflict {
            options::OnConflict::Overwrite => OnConflict::Overwrite,
            options::OnConflict::Fail => OnConflict::Fail,
            options::OnConflict::KeepBoth => OnConflict::KeepBoth,
        },
        stream_after: options.stream_after,
        max_uploads: options.max_uploads,
        staging_dir: options.staging(&env),
        patience: options.op_timeout,
        writeback,
        journal,
        ..WriteSettings::default()
    };
    let writes = Writes::new(s3.clone(), reads.clone(), budget, write);
    Engines { s3, reads, writes, provider }
}

/// As [`build`], with a journal. What is in that still has to be taken up: [`Fs::restore`].
pub fn build_with(options: &Options, root: Prefix, s3: S3, journal: Option<Arc<Journal>>) -> Arc<Fs> {
    let writeback = options.writeback && journal.is_some();
    let Engines { s3, reads, writes, provider } = engines(options, s3, journal, writeback);
    Fs::new(s3, reads, writes, fs_settings(options, provider, root))
}

/// Makes the trees of buckets, within the bounds of one mount.
struct Workshop {
    options: Options,
    /// Of no bucket.
    engines: Engines,
    shared: Arc<fs::Shared>,
}

impl Workshop {
    /// With the journal that a former mount has left, if there is one: what is in that is on its way when this returns.
    /// Blocks: a journal is on a disk. Must be called inside the runtime.
    fn make(self: &Arc<Self>, making: &Making, left: bool) -> Result<Arc<Fs>> {
        let Workshop { options, engines, shared } = &**self;
        let s3 = engines.s3.for_bucket(&making.bucket);
        let disk = engines.reads.disk().map(|disk| disk.beside(cached_as(&s3)));
        let reads = engines.reads.beside(s3.clone(), engines.reads.cache().beside(), disk);
        let source = Source { bucket: making.bucket.to_string(), prefix: Prefix::root() };
        let opened = if left { open_journal(options, &source)? } else { None };
        let (journal, replay) = opened.unzip();
        let journaling = match journal {
            Some(journal) => Journaling::Open(journal),
            None if options.read_only => Journaling::None,
            None => Journaling::Later(self.clone().opener(source.clone())),
        };
        let writes = engines.writes.beside(s3.clone(), reads.clone(), journaling);
        let whole = fs_settings(options, engines.provider, source.prefix);
        let shared = Some(shared.clone());
        let settings = fs::Settings { space: making.space, born: making.born, shared, ..whole };
        let fs = Fs::new(s3, reads, writes, settings);
        if let Some(replay) = replay {
            fs.restore(replay);
        }
        Ok(fs)
    }

    /// Opens the journal of a bucket that is in use. What a daemon has left there since is older than what is done here
    /// now, and waits for the next mount.
    fn opener(self: Arc<Self>, source: Source) -> OpenJournal {
        Box::new(move || {
            let opened = open_journal_of(&self.options, &source, false).unwrap_or_else(|e| {
                tracing::error!(bucket = source.bucket, "close waits for the store: {e}");
                None
            });
            opened.map(|(journal, _)| journal)
        })
    }

    /// As [`Workshop::make`], in a thread that may wait.
    async fn enter(self: Arc<Self>, making: Making) -> Result<Arc<Fs>> {
        if self.options.as_of.is_some()
            && let Some(warning) = connect::check_versions(&self.engines.s3.for_bucket(&making.bucket)).await?
        {
            tracing::warn!("{warning}");
        }
        let made = tokio::task::spawn_blocking(move || self.make(&making, false)).await;
        made.unwrap_or_else(|_| Err(Error::new(Kind::Io, "enter bucket: panicked")))
    }

    /// Buckets of this store for which a mount that is gone has left something.
    fn left(&self) -> Vec<String> {
        let here = Identity { endpoint: store_of(&self.options), bucket: String::new(), prefix: String::new() };
        let found = journal::survey(&self.options.state(&env)).unwrap_or_else(|e| {
            tracing::error!("what former mounts have left cannot be read, and is not stored: {e}");
            Vec::new()
        });
        let mut buckets: Vec<String> = found
            .into_iter()
            .filter(|s| {
                s.identity.is_bucket_of(&here)
                    && !(s.pending.is_empty() && s.uploads == 0 && s.deletes == 0 && s.damage.is_empty())
            })
            .map(|s| s.identity.bucket)
            .collect();
        buckets.sort();
        buckets.dedup();
        buckets
    }
}

/// Journals take some descriptors for each bucket that is written to, and the usual limit is for one.
fn raise_open_files() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(e) = raised {
        tracing::warn!("the limit on open files stays as it is: {e}");
    }
}

/// The directory of every bucket. What former mounts left to be stored in some is on its way when this returns.
fn build_all(options: &Options, s3: S3) -> (Arc<Buckets>, Engines) {
    raise_open_files();
    let engines = engines(options, s3, None, options.writeback);
    let of_fs = fs_settings(options, engines.provider, Prefix::root());
    let shared = of_fs.share(engines.reads.cache().budget());
    let settings = BucketsSettings {
        defaults: of_fs.defaults,
        read_only: of_fs.read_only,
        metadata_ttl: of_fs.metadata_ttl,
        negative_ttl: of_fs.negative_ttl,
        op_timeout: of_fs.op_timeout,
        capacity: of_fs.capacity,
        passthrough: of_fs.passthrough,
        list_all_xattrs: of_fs.list_all_xattrs,
    };
    let workshop = Arc::new(Workshop { options: options.clone(), engines: engines.clone(), shared });
    let maker = workshop.clone();
    let make = Box::new(move |making| -> BoxFuture<'static, _> { Box::pin(maker.clone().enter(making)) });
    let buckets = Buckets::new(engines.s3.clone(), settings, make);
    let left = if options.read_only { Vec::new() } else { workshop.left() };
    for bucket in left {
        if let Err(e) = buckets.adopt(&bucket, |making| workshop.make(&making, true)) {
            tracing::error!(bucket, "what the journal has of it stays there: {e}");
        }
    }
    (buckets, engines)
}

/// The file system of one mount, and the handles to it.
pub fn build_fs(request: &Request, s3: S3, runtime: &Handle) -> Result<Volume<impl Filesystem + use<>>> {
    let _inside = runtime.enter();
    if let Some(dir) = &request.options.disk.dir {
        disk::guard(dir)?;
    }
    let (tree, engines) = if request.source.is_all_buckets() {
        let (buckets, engines) = build_all(&request.options, s3);
        (Tree::Many(buckets), engines)
    } else {
        // A read-only mount stores nothing, and must not keep another one from the journal.
        let opened = if request.options.read_only { None } else { open_journal(&request.options, &request.source)? };
        let (journal, replay) = opened.unzip();
        let fs = build_with(&request.options, request.source.prefix.clone(), s3, journal);
        if let Some(replay) = replay {
            fs.restore(replay);
        }
        let engines = Engines {
            s3: fs.s3.clone(),
            reads: fs.reads.clone(),
            writes: fs.writes.clone(),
            provider: fs.settings.provider,
        };
        (Tree::One(fs), engines)
    };
    let origin = Origin { request: request.clone(), started: Instant::now(), mounted: SystemTime::now() };
    let served = Arc::new(Served::new(tree.clone(), engines, origin));
    let (attached, drained) = (tree.clone(), served.clone());
    Ok(Volume {
        filesystem: Adapter::new(tree, runtime.clone()),
        attach: Box::new(move |notifier, device| attached.set_kernel(Arc::new(KernelNotifier { notifier, device }))),
        drain: Box::new(move |deadline| {
            let served = drained.clone();
            Box::pin(async move {
                let unstored = served.drain(deadline).await;
                if let Some(disk) = served.disk() {
                    let patience = DISK_PATIENCE.min(deadline.saturating_duration_since(Instant::now()));
                    let _ = tokio::task::spawn_blocking(move || disk.flush(patience)).await;
                }
                unstored
            })
        }),
        console: served,
    })
}

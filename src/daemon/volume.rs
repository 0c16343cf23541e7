//! What the daemon drives: the file system as the kernel sees it, and the handles to end it and to look into it.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use super::control::Console;
use super::status::{self, Origin, Status};
use super::{Request, env};
use crate::budget::Budget;
use crate::cache::BlockCache;
use crate::cache::disk::{self, DiskCache, DiskSettings};
use crate::config::options::{self, Attrs, Options, Passthrough, XattrList};
use crate::config::{Provider, Source, memory};
use crate::error::{Error, Result};
use crate::fs::{self, Defaults, Fs};
use crate::fuse::session::{Filesystem, Notifier};
use crate::fuse::{Adapter, KernelNotifier};
use crate::key::Prefix;
use crate::read::{ReadSettings, Reads};
use crate::s3::{Headers, NewObject, S3};
use crate::write::journal::{Identity, Journal, JournalSettings, Replay};
use crate::write::{Limits, OnConflict, WriteSettings, Writes};

/// What could not be stored, by key, and why.
pub type Unstored = Vec<(String, Error)>;
/// Stores everything written so far, waiting until the deadline; says what is left. May be called again.
pub type Drain = Box<dyn Fn(Instant) -> BoxFuture<'static, Unstored> + Send + Sync>;

/// Changes of attributes wait this long for others: longer than `cp -a` or `rsync` take between two of one file,
/// shorter than anybody waits for another machine to see a mode.
const ATTR_DELAY: Duration = Duration::from_millis(500);
/// For the kernel to forget what it remembers of a tree.
const KERNEL_PATIENCE: Duration = Duration::from_secs(15);
/// Names remembered with the least memory there may be, and the share of what is more than that for others.
const NAMES: u64 = 8192;
const NAMES_SHARE: u64 = 8;

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

/// What the file system is told, from the options of a mount.
pub fn fs_settings(options: &Options, provider: &'static Provider, root: Prefix) -> fs::Settings {
    let more = options.memory_bytes().saturating_sub(memory::MIN);
    fs::Settings {
        provider,
        root,
        defaults: Defaults {
            uid: options.uid,
            gid: options.gid,
            file_perm: (options.file_bits() & 0o7777) as u16,
            dir_perm: (options.dir_bits() & 0o7777) as u16,
        },
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

/// Opens the journal of a mount. Without `writeback` it is dispensable: where `state_dir` cannot be written, uploads of
/// a daemon that gets killed are left behind, and that is said once.
pub fn open_journal(options: &Options, source: &Source) -> Result<Option<(Arc<Journal>, Replay)>> {
    let settings = JournalSettings {
        state_dir: options.state(&env),
        identity: Identity {
            endpoint: options.endpoint.clone().or_else(|| options.region.clone().filter(|r| r != "us-east-1")),
            bucket: source.bucket.clone(),
            prefix: source.prefix.as_str().to_owned(),
        },
        limit: options.writeback_limit,
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

/// The disk cache, if there is to be one and it can be had.
fn start_disk(options: &Options, s3: &S3, budget: &Arc<Budget>) -> Option<Arc<DiskCache>> {
    let settings = DiskSettings {
        dir: options.disk.dir.clone()?,
        // AWS is one store, wherever it answers.
        store: format!("{}/{}", s3.own_endpoint().unwrap_or("aws"), s3.bucket()),
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

/// As [`build`], with a journal. What is in that still has to be taken up: [`Fs::restore`].
pub fn build_with(options: &Options, root: Prefix, s3: S3, journal: Option<Arc<Journal>>) -> Arc<Fs> {
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
        writeback: options.writeback && journal.is_some(),
        journal,
        ..WriteSettings::default()
    };
    let writes = Writes::new(s3.clone(), reads.clone(), budget, write);
    Fs::new(s3, reads, writes, fs_settings(options, provider, root))
}

/// The mount as the control socket sees it.
struct Served {
    fs: Arc<Fs>,
    origin: Origin,
    metrics: OnceLock<String>,
}

impl Console for Served {
    fn status(&self) -> Status {
        Status { metrics: self.metrics.get().cloned(), ..status::collect(&self.origin, &self.fs) }
    }

    fn set_metrics(&self, shown: &str) {
        let _ = self.metrics.set(shown.to_owned());
    }

    fn flush(&self, limit: Duration) -> BoxFuture<'static, Unstored> {
        let fs = self.fs.clone();
        Box::pin(async move { fs.flush_all(limit).await })
    }

    fn refresh(&self, path: String) -> BoxFuture<'static, Result<u64>> {
        let fs = self.fs.clone();
        Box::pin(async move { fs.forget_below(&path, KERNEL_PATIENCE).await.map(|n| n as u64) })
    }

    fn retry(&self, ids: Vec<u64>) -> BoxFuture<'static, Result<u64>> {
        let ids = (!ids.is_empty()).then_some(ids);
        Box::pin(std::future::ready(self.fs.retry(ids.as_deref()).map(|n| n as u64)))
    }

    fn export(&self, id: u64, path: PathBuf) -> BoxFuture<'static, Result<()>> {
        let fs = self.fs.clone();
        Box::pin(async move { fs.export(id, &path).await })
    }

    fn discard(&self, ids: Vec<u64>) -> BoxFuture<'static, Result<u64>> {
        let fs = self.fs.clone();
        Box::pin(async move {
            for id in &ids {
                fs.discard(*id).await?;
            }
            Ok(ids.len() as u64)
        })
    }
}

/// The file system of one mount, and the handles to it.
pub fn build_fs(request: &Request, s3: S3, runtime: &Handle) -> Result<Volume<impl Filesystem + use<>>> {
    let _inside = runtime.enter();
    if let Some(dir) = &request.options.disk.dir {
        disk::guard(dir)?;
    }
    // A read-only mount stores nothing, and must not keep another one from the journal.
    let opened = if request.options.read_only { None } else { open_journal(&request.options, &request.source)? };
    let (journal, replay) = opened.unzip();
    let fs = build_with(&request.options, request.source.prefix.clone(), s3, journal);
    if let Some(replay) = replay {
        fs.restore(replay);
    }
    let (attached, drained) = (fs.clone(), fs.clone());
    let origin = Origin { request: request.clone(), started: Instant::now(), mounted: SystemTime::now() };
    let console = Arc::new(Served { fs: fs.clone(), origin, metrics: OnceLock::new() });
    Ok(Volume {
        filesystem: Adapter::new(fs, runtime.clone()),
        attach: Box::new(move |notifier, device| attached.set_kernel(Box::new(KernelNotifier { notifier, device }))),
        drain: Box::new(move |deadline| {
            let fs = drained.clone();
            Box::pin(async move {
                let unstored = fs.drain(deadline.saturating_duration_since(Instant::now())).await;
                if let Some(disk) = fs.reads.disk().cloned() {
                    let patience = DISK_PATIENCE.min(deadline.saturating_duration_since(Instant::now()));
                    let _ = tokio::task::spawn_blocking(move || disk.flush(patience)).await;
                }
                unstored
            })
        }),
        console,
    })
}

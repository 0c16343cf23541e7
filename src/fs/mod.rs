//! The file system: one method per POSIX operation, no FUSE types and no HTTP.
//!
//! Methods ending in `_now` answer from memory or not at all, and never wait: the FUSE thread calls them directly.
//! Everything else is async and may take requests; the budget of each is in `docs/SEMANTICS.md`.
//!
//! Locks, outermost first: `Inode::changing` (async) → walks → table → inode state → `graves`, `kept`, listings. The
//! synchronous ones are never held across an await.

mod ahead;
pub mod attr;
mod attribute;
mod bucket_attribute;
pub mod buckets;
mod burial;
mod burst;
mod change;
mod close;
mod copy;
mod copy_range;
mod drain;
pub mod file;
mod flat;
mod graves;
mod habit;
mod handle;
mod history;
pub mod inode;
mod kept;
mod known;
mod listing;
mod lookup;
mod overview;
mod page;
mod past;
mod ranges;
mod rename;
pub mod setattr;
mod shared;
pub mod through;
mod trees;
mod trim;
mod users;
mod versions_dir;
mod walk;
mod window;
mod writeback;
mod xattr;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::runtime::Handle as Runtime;
use tracing::warn;

pub use attr::{Attr, Defaults, FileKind};
pub use handle::{Fh, Handles};
pub use inode::{Ino, ROOT, Space};
pub use listing::{Batch, DirHandle};
pub use lookup::Lookup;
pub use overview::{Dirty, Figures};
#[doc(hidden)]
pub use page::parse_page;
pub use shared::Shared;

use crate::budget::Budget;
use crate::config::Provider;
use crate::error::{Kind, Result};
use crate::key::{Name, Prefix};
use crate::read::Reads;
use crate::s3::{NewObject, S3};
use crate::write::Writes;

use inode::{Inode, Inodes, State};
use known::Listings;

/// What the file system is told; plain data.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the store takes and how it calls things.
    pub provider: &'static Provider,
    /// Everything below this prefix is shown.
    pub root: Prefix,
    /// The inode numbers it may use.
    pub space: Space,
    /// The time that the root shows; `None`: when it was mounted.
    pub born: Option<SystemTime>,
    pub defaults: Defaults,
    pub read_only: bool,
    /// The bucket is shown as it was at this time.
    pub as_of: Option<SystemTime>,
    /// `.versions` is a directory of versions (`versions=dir`).
    pub versions_dir: bool,
    /// How long attributes and listings are believed.
    pub metadata_ttl: Duration,
    /// How long the absence of a name is believed.
    pub negative_ttl: Duration,
    /// Whether mode, owner and times are stored in the object's metadata (`attrs=store`) or only remembered.
    pub store_attrs: bool,
    /// Changes of attributes after the commit wait this long for others, then cost one self-copy.
    pub attr_delay: Duration,
    /// listxattr(2) names the attributes of the store, too (`xattr_list=all`), at the price of requests.
    pub list_all_xattrs: bool,
    /// Life of the URLs in `user.s3.url` and `user.s3.url.put`: 1 s to 7 days.
    pub presign_ttl: Duration,
    /// What new objects carry: class, ACL, tags, encryption, content type.
    pub new_object: NewObject,
    /// Keys that need an escape are left out of listings.
    pub hide_odd_keys: bool,
    /// What statfs(2) reports, bytes.
    pub capacity: u64,
    /// Objects larger than this are copied in parts: XOS advises 1 GiB (XOS-OBJ-13).
    pub copy_threshold: u64,
    /// Deadline of one operation that does not move file data.
    pub op_timeout: Duration,
    /// How many inodes are remembered after the kernel has forgotten them, and how many names the kernel may know.
    pub remembered: usize,
    /// How many of both are not counted as memory of the mount's budget.
    pub remembered_free: usize,
    /// Whether exclusive creation and copies may use conditional requests.
    pub conditional: bool,
    /// The kernel may read from the disk cache by itself.
    pub passthrough: bool,
    /// What the tree shares with the others of its mount; `None`: it is the only one.
    pub shared: Option<Arc<Shared>>,
}

impl Settings {
    /// What several trees with such settings share.
    pub fn share(&self, budget: &Arc<Budget>) -> Arc<Shared> {
        let crowd = trim::Crowd::new(self.remembered, self.remembered_free, budget.clone());
        Shared::new(self.metadata_ttl, self.negative_ttl, crowd, budget.clone())
    }
}

/// What a lookup hands to the kernel.
#[derive(Clone, Debug)]
pub struct Entry {
    pub ino: Ino,
    pub attr: Attr,
    /// Names of it: 0 once it is unlinked and still open. A directory has 1 whatever is in it.
    pub links: u32,
    /// How long the kernel may believe it.
    pub ttl: Duration,
}

/// Tells the kernel that what it caches is no longer true. Called from tasks only, never while it waits for us.
pub trait Kernel: Send + Sync {
    /// Drop cached pages and attributes.
    fn invalidate(&self, ino: Ino);
    /// Drop a name.
    fn invalidate_entry(&self, parent: Ino, name: &Name);
    /// Number of the mounted device, as in /proc/PID/mountinfo.
    fn device(&self) -> &str;
}

/// What a name takes that is remembered or that the kernel knows, bytes: measured, 900.
pub const NAME_BYTES: usize = 1024;

pub struct Fs {
    pub s3: S3,
    pub reads: Arc<Reads>,
    pub writes: Arc<Writes>,
    pub settings: Settings,
    pub(crate) inodes: Inodes,
    pub handles: Handles,
    listings: Arc<Listings>,
    graves: graves::Graves,
    /// The store did the last delete that was asked for.
    deletes_allowed: AtomicBool,
    uploads: writeback::Uploads,
    habits: habit::Habits,
    bursts: Arc<burst::Bursts>,
    names: Arc<shared::Part>,
    trees: trees::Walks,
    aheads: ahead::Aheads,
    threads: users::Threads,
    /// Directories that show although the bucket holds no key of them: emptied on this mount.
    kept: Mutex<BTreeSet<Prefix>>,
    borrowers: copy_range::Borrowers,
    kernel: OnceLock<Arc<dyn Kernel>>,
    runtime: Runtime,
    /// Background work (delayed self-copies, deletes at last close), waited for at unmount.
    tasks: tokio_util::task::TaskTracker,
    seen_folder_suffix: AtomicBool,
    hidden: AtomicU64,
    hidden_logged: Mutex<Option<Instant>>,
    acl_unsupported: AtomicBool,
    tags_unsupported: AtomicBool,
    restore_unsupported: AtomicBool,
    /// Versions may not be read: said once.
    versions_denied: AtomicBool,
    stopping: AtomicBool,
    mounted: SystemTime,
}

impl Fs {
    /// Must be called inside a tokio runtime.
    pub fn new(s3: S3, reads: Arc<Reads>, writes: Arc<Writes>, settings: Settings) -> Arc<Fs> {
        let mounted = SystemTime::now();
        let born = settings.born.unwrap_or(mounted);
        let root = State::new(Attr::of_dir(born, &settings.defaults), attr::Facts::default(), true);
        let shared = settings.shared.clone().unwrap_or_else(|| settings.share(reads.cache().budget()));
        Arc::new(Fs {
            inodes: Inodes::new(settings.space, settings.root.clone(), root, settings.remembered.max(1024)),
            handles: Handles::default(),
            listings: shared.listings.clone(),
            graves: graves::Graves::default(),
            deletes_allowed: AtomicBool::new(false),
            uploads: writeback::Uploads::default(),
            habits: habit::Habits::new(),
            bursts: shared.bursts.clone(),
            names: Arc::new(shared::Part::new(shared, settings.space)),
            trees: trees::Walks::new(settings.metadata_ttl),
            aheads: ahead::Aheads::new(),
            threads: users::Threads::default(),
            kept: Mutex::default(),
            borrowers: copy_range::Borrowers::default(),
            kernel: OnceLock::new(),
            runtime: Runtime::current(),
            tasks: tokio_util::task::TaskTracker::new(),
            seen_folder_suffix: AtomicBool::new(false),
            hidden: AtomicU64::new(0),
            hidden_logged: Mutex::new(None),
            acl_unsupported: AtomicBool::new(!settings.provider.acl.supported),
            tags_unsupported: AtomicBool::new(!settings.provider.tags.supported),
            restore_unsupported: AtomicBool::new(settings.provider.restore.is_none()),
            versions_denied: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            mounted,
            s3,
            reads,
            writes,
            settings,
        })
    }

    /// The kernel's notifier, once the session exists.
    pub fn set_kernel(self: &Arc<Self>, kernel: Arc<dyn Kernel>) {
        if self.kernel.set(kernel).is_ok() {
            self.trim_names();
        }
    }

    /// The inode of what is mounted.
    pub fn root(&self) -> Ino {
        self.inodes.root()
    }

    /// Drops what the kernel has cached of `ino`, from a task of its own: the kernel may wait for a reply of ours
    /// before it answers.
    fn invalidate(self: &Arc<Self>, ino: Ino) {
        let fs = self.clone();
        self.runtime.spawn_blocking(move || {
            if let Some(k) = fs.kernel.get() {
                k.invalidate(ino);
            }
        });
    }

    fn invalidate_entry(self: &Arc<Self>, parent: Ino, name: &Name) {
        let (fs, name) = (self.clone(), name.clone());
        self.runtime.spawn_blocking(move || {
            if let Some(k) = fs.kernel.get() {
                k.invalidate_entry(parent, &name);
            }
        });
    }

    /// The right to change the stored object of a file outside of a commit. Errors: [`Kind::Timeout`] when somebody else
    /// has it and gets nothing done.
    async fn changing<'a>(&self, inode: &'a Inode) -> Result<tokio::sync::MutexGuard<'a, ()>> {
        let held = self.writes.patient("another change of the file", inode.changing.lock()).await;
        held.map_err(|e| self.inodes.key(inode.ino).map_or(e.clone(), |key| e.with_key(key)))
    }

    fn writable(&self) -> Result<()> {
        if self.settings.read_only { Err(Kind::ReadOnly.into()) } else { Ok(()) }
    }

    /// Background work that unmount waits for.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(work, &self.runtime);
    }

    /// The kernel dropped `count` references.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.inodes.forget(ino, count);
        self.names.crowd().forgot();
    }

    /// The kernel got one reference; call it before the reply is sent.
    pub fn looked_up(&self, ino: Ino) {
        self.names.grew_to(self.inodes.looked_up(ino));
    }

    pub fn inode(&self, ino: Ino) -> Result<Arc<Inode>> {
        self.inodes.get(ino)
    }

    /// No request: the first page is asked for by the first read.
    pub fn opendir(&self, ino: Ino) -> Result<Fh> {
        if self.inodes.get(ino)?.kind() != FileKind::Dir {
            return Err(Kind::NotDir.into());
        }
        Ok(self.handles.insert_dir(DirHandle::new(ino)))
    }

    /// As [`Fs::readdir`], by handle number.
    pub async fn read_directory(self: &Arc<Self>, fh: Fh, offset: u64) -> Result<Batch> {
        let handle = self.handles.dir(fh)?;
        self.readdir(&handle, offset).await
    }

    /// What a directory looks like of which nothing is known.
    pub fn blank_dir(&self) -> Attr {
        Attr::of_dir(self.mounted, &self.settings.defaults)
    }

    /// The number of a directory's parent, for `..`.
    pub fn parent(&self, ino: Ino) -> Ino {
        self.inodes.place(ino).map_or(self.root(), |(parent, _)| parent)
    }

    /// The number an entry has, or would get.
    pub fn ino_of_entry(&self, dir: Ino, name: &Name, kind: FileKind) -> Ino {
        if let Some(inode) = self.inodes.child(dir, name) {
            return inode.ino;
        }
        let hash = self.inodes.path(dir).and_then(|p| match kind {
            FileKind::Dir => p.dir(name).map(|d| d.as_str().to_owned()),
            _ => p.file(name).map(|k| k.as_str().to_owned()),
        });
        self.inodes.ino_of(&hash.unwrap_or_default())
    }

    fn is_kept(&self, dir: Ino, name: &Name) -> bool {
        let Ok(prefix) = self.inodes.prefix(dir).and_then(|p| p.dir(name)) else { return false };
        self.kept.lock().contains(&prefix)
    }

    /// Names of kept directories directly in `dir`.
    fn kept_below(&self, dir: Ino) -> Vec<Name> {
        let Ok(prefix) = self.inodes.prefix(dir) else { return Vec::new() };
        let kept = self.kept.lock();
        let mut names = Vec::new();
        for p in kept.range(prefix.clone()..) {
            let Some(rest) = p.as_str().strip_prefix(prefix.as_str()) else { break };
            if let Some(component) = rest.split('/').next().filter(|c| !c.is_empty())
                && let Some(name) = Name::of_component(component)
                && !names.contains(&name)
            {
                names.push(name);
            }
        }
        names
    }

    fn note_hidden(&self, prefix: &Prefix, count: usize) {
        let total = self.hidden.fetch_add(count as u64, Ordering::Relaxed) + count as u64;
        let mut logged = self.hidden_logged.lock();
        if logged.is_none_or(|t| t.elapsed() > Duration::from_secs(3600)) {
            *logged = Some(Instant::now());
            warn!(prefix = %prefix, hidden = count, total, "keys that cannot be shown as file names are left out");
        }
    }
}

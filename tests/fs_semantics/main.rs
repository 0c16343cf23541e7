//! The contract of `docs/SEMANTICS.md`, rule by rule, on the file system without a kernel: what the kernel would ask
//! is asked here, and what the store got is read from the embedded server. Tests have the names of the rules.
//!
//! Rules that only a kernel can show are in `mounted`.

#![cfg(feature = "demo")]

#[path = "../common/mod.rs"]
mod common;

mod attributes;
mod errors;
mod history;
mod listing;
mod mounted;
mod names;
mod rename;
mod seeking;
mod settling;
mod staging;
mod streamed;
mod versions;
mod writing;
mod wrong_values;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::Arc;

use bytes::Bytes;
use xosfs::config::credentials::Credentials;
use xosfs::config::{Options, Source};
use xosfs::daemon::{connect, volume};
use xosfs::demo::{Keys, Server};
use xosfs::fs::file::{OpenMode, Opened, WriteMode};
use xosfs::fs::{Entry, Fh, FileKind, Fs, Ino, Lookup, ROOT};
use xosfs::key::Name;
use xosfs::s3::S3;
use xosfs::{Error, Kind, Result};

const BUCKET: &str = "bucket";
const MIB: u64 = 1 << 20;
/// Who creates files here.
const OWNER: (u32, u32) = (1000, 100);
/// More than is read ahead, so that the end of an object is not in memory when its start is.
const LARGE: u64 = 256 * MIB;

/// An embedded server; mounts of its bucket are made with [`World::mount`].
struct World {
    server: Server,
    _staging: tempfile::TempDir,
    staging: String,
}

fn world() -> World {
    let staging = common::temp_dir();
    World {
        server: Server::start_thread(xosfs::demo::Options::with_bucket(BUCKET)).unwrap(),
        staging: staging.path().to_str().unwrap().to_owned(),
        _staging: staging,
    }
}

impl World {
    /// A file system as `xosfs mount SOURCE -o OPTIONS` builds it, with the keys of the bucket's owner.
    fn mount_source(&self, source: &str, options: &str, keys: Keys) -> Mount {
        let mut lists = vec![format!("staging_dir={}", self.staging), format!("endpoint={}", self.server.endpoint())];
        // Some rules are about failures, and pauses between attempts only cost time.
        lists.push("retries=0".into());
        lists.push(options.to_owned());
        let source: Source = source.parse().unwrap();
        let options = Options::load(&lists, false, &|_| None).unwrap();
        // The keys of the test's environment are not looked at: those of `keys` replace them.
        let anonymous = Options { anonymous: true, ..options.clone() };
        let mut settings = connect::settings(&anonymous, &source, &|_| None).unwrap();
        settings.credentials = Credentials::fixed(keys.access_key, keys.secret_key, None);
        Mount(volume::build(&options, source.prefix, S3::new(settings).unwrap()))
    }

    fn mount_with(&self, options: &str) -> Mount {
        self.mount_source(BUCKET, options, self.server.keys())
    }

    fn mount(&self) -> Mount {
        self.mount_with("")
    }

    fn put(&self, key: &str, content: impl Into<Bytes>) {
        self.server.store().put(BUCKET, key, content);
    }

    /// With user metadata, as other tools write it.
    fn put_meta(&self, key: &str, content: &'static str, metadata: &[(&str, &str)]) {
        let metadata = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let attributes = xosfs::demo::Attributes { metadata, ..Default::default() };
        self.server.store().put_with(BUCKET, key, content, attributes, "private");
    }

    fn get(&self, key: &str) -> Option<String> {
        self.server.store().get(BUCKET, key).map(|b| String::from_utf8_lossy(&b).into_owned())
    }

    fn keys(&self) -> Vec<String> {
        self.server.store().list(BUCKET, "")
    }

    /// Requests since the last call, by operation.
    fn requests(&self) -> BTreeMap<String, u64> {
        let counts = self.server.counts();
        self.server.clear_log();
        counts
    }
}

fn name(text: &str) -> Name {
    Name::parse(OsStr::new(text)).unwrap()
}

fn read_only() -> OpenMode {
    OpenMode::of_flags(libc::O_RDONLY)
}

fn read_write() -> OpenMode {
    OpenMode::of_flags(libc::O_RDWR)
}

fn counted(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
    pairs.iter().map(|(k, v)| (k.to_string(), *v)).collect()
}

/// What the kernel does, with paths instead of inode numbers.
struct Mount(Arc<Fs>);

impl std::ops::Deref for Mount {
    type Target = Arc<Fs>;

    fn deref(&self) -> &Arc<Fs> {
        &self.0
    }
}

impl Mount {
    /// `None`: the last component is missing.
    async fn find(&self, path: &str) -> Result<Option<Entry>> {
        let mut at = self.0.getattr(ROOT).await?;
        for component in path.split('/').filter(|c| !c.is_empty()) {
            match self.0.lookup(at.ino, &Name::parse(OsStr::new(component))?).await? {
                Lookup::Found(entry) => at = entry,
                Lookup::Absent(_) => return Ok(None),
            }
        }
        // As the kernel's reference: the number stays valid.
        self.0.looked_up(at.ino);
        Ok(Some(at))
    }

    async fn stat(&self, path: &str) -> Result<Entry> {
        self.find(path).await?.ok_or_else(|| Error::from(Kind::NotFound))
    }

    async fn parent<'a>(&self, path: &'a str) -> (Ino, &'a str) {
        let (dir, last) = path.rsplit_once('/').unwrap_or(("", path));
        (self.stat(dir).await.unwrap().ino, last)
    }

    async fn open(&self, path: &str, mode: OpenMode) -> Result<Opened> {
        let ino = self.stat(path).await?.ino;
        self.0.open(ino, mode).await
    }

    async fn create(&self, path: &str, mode: OpenMode) -> Result<Fh> {
        let (dir, last) = self.parent(path).await;
        let (entry, opened) = self.0.create(dir, &Name::parse(OsStr::new(last))?, 0o640, OWNER, mode).await?;
        self.0.looked_up(entry.ino);
        Ok(opened.fh)
    }

    async fn at(&self, fh: Fh, offset: u64, len: usize) -> Result<Bytes> {
        match self.0.read_now(fh, offset, len) {
            Some(answer) => answer,
            None => self.0.read(fh, offset, len).await,
        }
    }

    async fn put_at(&self, fh: Fh, offset: u64, bytes: &[u8]) -> Result<()> {
        match self.0.write_now(fh, offset, bytes, WriteMode::default()) {
            Some(answer) => answer,
            None => self.0.write(fh, offset, Bytes::copy_from_slice(bytes), WriteMode::default()).await,
        }
    }

    /// close(2): its answer, and the end of the handle.
    async fn close(&self, fh: Fh) -> Result<()> {
        let answer = self.0.flush(fh, std::process::id()).await;
        let _ = self.0.release(fh).await;
        answer
    }

    async fn write(&self, path: &str, content: &[u8]) -> Result<()> {
        let mode = OpenMode::of_flags(libc::O_WRONLY | libc::O_TRUNC);
        let fh = match self.find(path).await? {
            Some(entry) => self.0.open(entry.ino, mode).await?.fh,
            None => self.create(path, mode).await?,
        };
        self.put_at(fh, 0, content).await?;
        self.close(fh).await
    }

    async fn read(&self, path: &str) -> Result<String> {
        let fh = self.open(path, read_only()).await?.fh;
        let bytes = self.at(fh, 0, 16 << 20).await;
        self.close(fh).await?;
        Ok(String::from_utf8_lossy(&bytes?).into_owned())
    }

    async fn unlink(&self, path: &str) -> Result<()> {
        let (dir, last) = self.parent(path).await;
        self.0.unlink(dir, &name(last)).await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.rename_if(from, to, false).await
    }

    async fn rename_if(&self, from: &str, to: &str, no_replace: bool) -> Result<()> {
        let (from_dir, from) = self.parent(from).await;
        let (to_dir, to) = self.parent(to).await;
        self.0.rename((from_dir, &name(from)), (to_dir, &name(to)), no_replace).await
    }

    async fn mkdir(&self, path: &str) -> Result<Entry> {
        let (dir, last) = self.parent(path).await;
        self.0.mkdir(dir, &name(last), 0o750, OWNER).await
    }

    /// Names of a directory with their kinds and attributes, as readdirplus hands them out.
    async fn entries(&self, path: &str) -> Result<Vec<(String, Entry)>> {
        let dir = self.stat(path).await?.ino;
        let fh = self.0.opendir(dir)?;
        let mut all = Vec::new();
        loop {
            let batch = self.0.read_directory(fh, all.len() as u64).await?;
            if batch.items.is_empty() {
                break;
            }
            for item in &batch.items {
                let entry = self.0.entry_of_item(dir, item, batch.asked)?;
                all.push((item.name.as_str().to_owned(), entry));
            }
        }
        self.0.handles.remove_dir(fh);
        Ok(all)
    }

    /// Names, a `/` behind directories.
    async fn ls(&self, path: &str) -> Vec<String> {
        let entries = self.entries(path).await.unwrap();
        entries
            .into_iter()
            .map(|(name, e)| if e.attr.kind == FileKind::Dir { format!("{name}/") } else { name })
            .collect()
    }
}

/// The kind of the error that has to be there.
#[track_caller]
fn kind<T>(result: Result<T>) -> Kind {
    match result {
        Ok(_) => panic!("succeeded"),
        Err(e) => e.kind(),
    }
}

//! Bytes between files, pipes and the store: in parts, in parallel, in order, as fast as allowed.
//!
//! 1. A local file appears under its name when it is whole, synced and not before; a pipe gets the bytes in order.
//! 2. Parts are fetched in parallel and written in order: what a temporary file has is always a prefix of the object,
//!    which is what makes an interrupted download resumable.
//! 3. An interrupted upload is resumed from what the store has: parts whose entity tag is the MD5 of the same bytes of
//!    the file. Anything else is sent again.
//! 4. A file that changes while it is read would become an object that never was: that is an error.
//! 5. Uploads that fail are aborted, also when the command is interrupted; with `--resume` they are kept.

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use md5::{Digest, Md5};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;

use super::preserve;
use super::progress::{Bar, Limiter};
use super::store::Store;
use crate::error::{Error, Kind, Result};
use crate::key::{Key, stable_hash};
use crate::s3::{Condition, Directive, ETag, NewObject, ObjectMeta, Part, S3, Source, Stored};

const MIB: u64 = 1 << 20;
/// Bytes of one part of a server-side copy.
const COPY_PART: u64 = 256 * MIB;
/// How long aborting what was interrupted may take.
const ABORT_PATIENCE: Duration = Duration::from_secs(15);
/// How much of a name a temporary file repeats: leaves room for the rest of 255 bytes.
const NAME_PART: usize = 100;

/// What all transfers of one command share.
pub(super) struct Engine {
    /// Parts under way; each is in memory.
    parts: Semaphore,
    parallel: usize,
    /// Bytes.
    part_size: u64,
    limiter: Limiter,
    pub bar: Bar,
    resume: bool,
    /// Mode, owner and times go along.
    pub preserve: bool,
    /// Uploads begun and neither completed nor aborted.
    open: Mutex<Vec<(S3, Key, String)>>,
}

/// What is being fetched.
struct Origin<'a> {
    store: &'a Store,
    key: &'a Key,
    version: Option<&'a str>,
    meta: &'a ObjectMeta,
}

/// What a transfer has made.
#[derive(Debug)]
pub(super) struct Moved {
    pub bytes: u64,
    pub etag: Option<ETag>,
}

fn local(what: &str, path: &Path, e: &io::Error) -> Error {
    let kind = match e.kind() {
        io::ErrorKind::NotFound => Kind::NotFound,
        io::ErrorKind::PermissionDenied => Kind::Denied,
        io::ErrorKind::StorageFull => Kind::NoSpace,
        _ => Kind::Io,
    };
    Error::new(kind, format!("{what} {}: {e}", path.display()))
}

/// Reads exactly these bytes.
async fn read_at(file: &Arc<File>, path: &Path, start: u64, len: u64) -> Result<Bytes> {
    let (file, size) = (file.clone(), usize::try_from(len).unwrap_or(usize::MAX));
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; size];
        file.read_exact_at(&mut bytes, start).map(|()| Bytes::from(bytes))
    });
    match read.await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => Err(changed(path)),
        Ok(Err(e)) => Err(local("read", path, &e)),
        Err(e) => Err(Error::new(Kind::Io, format!("read {}: {e}", path.display()))),
    }
}

fn changed(path: &Path) -> Error {
    Error::new(Kind::Stale, format!("{} changed while it was read", path.display())).with_fix("copy it again")
}

/// Tells how to go on after a failure that cost nothing but time.
fn kept(error: Error, what: &str) -> Error {
    let again = format!("what is {what} is kept, the same command with --resume goes on from there");
    let fix = error.fix().map_or(again.clone(), |fix| format!("{fix}; {again}"));
    error.with_fix(fix)
}

fn is_same(a: &Metadata, b: &Metadata) -> bool {
    (a.len(), a.mtime(), a.mtime_nsec(), a.ino()) == (b.len(), b.mtime(), b.mtime_nsec(), b.ino())
}

fn md5(bytes: &[u8]) -> String {
    Md5::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Where a download waits until it is whole.
enum Waiting {
    Temporary(tempfile::TempPath),
    /// Found again by the next `--resume`.
    Kept(PathBuf),
}

impl Engine {
    pub fn new(parallel: usize, part_size: u64, limiter: Limiter, bar: Bar, resume: bool) -> Engine {
        let parallel = parallel.max(1);
        Engine {
            parts: Semaphore::new(parallel),
            parallel,
            part_size,
            limiter,
            bar,
            resume,
            preserve: false,
            open: Mutex::new(Vec::new()),
        }
    }

    async fn permit(&self) -> tokio::sync::SemaphorePermit<'_> {
        // The semaphore is never closed.
        self.parts.acquire().await.expect("closed by nobody")
    }

    fn opened(&self, s3: &S3, key: &Key, id: &str) {
        self.open.lock().push((s3.clone(), key.clone(), id.to_owned()));
    }

    fn closed(&self, id: &str) {
        self.open.lock().retain(|(_, _, open)| open != id);
    }

    /// Aborts what an interruption left. Nothing with `--resume`.
    pub async fn abort_open(&self) {
        let open = std::mem::take(&mut *self.open.lock());
        if self.resume {
            return;
        }
        let aborts = open.iter().map(|(s3, key, id)| async move {
            let result = tokio::time::timeout(ABORT_PATIENCE, s3.abort_upload(key, id)).await;
            if !matches!(result, Ok(Ok(()))) {
                eprintln!("xosfs: upload {id} of {key} is left behind; `xosfs uploads abort` takes it away");
            }
        });
        futures_util::future::join_all(aborts).await;
    }

    /// Ends an upload whose transfer has this result.
    async fn settle<T>(&self, s3: &S3, key: &Key, id: &str, result: Result<T>) -> Result<T> {
        match result {
            Ok(done) => {
                self.closed(id);
                Ok(done)
            }
            Err(error) if self.resume => Err(kept(error, "stored")),
            Err(error) => {
                if s3.abort_upload(key, id).await.is_ok() {
                    self.closed(id);
                }
                Err(error)
            }
        }
    }

    /// Bytes of one part for an object of this size.
    fn part_for(&self, store: &Store, size: u64) -> Result<u64> {
        let limits = &store.provider.limits;
        if size > limits.max_object {
            return Err(Error::new(
                Kind::TooLarge,
                format!("{size} bytes; {} takes at most {}", store.provider.title, limits.max_object),
            ));
        }
        let least = size.div_ceil(u64::from(limits.max_parts)).next_multiple_of(MIB);
        Ok(self.part_size.max(least).clamp(limits.min_part, limits.max_part))
    }

    /// The upload to go on with, its parts and their size.
    async fn find_upload(&self, s3: &S3, key: &Key) -> Result<Option<(String, Vec<Part>)>> {
        let mut uploads = s3.list_uploads(key.as_str()).await?;
        uploads.retain(|u| u.key == key.as_str());
        uploads.sort_by_key(|u| u.initiated);
        let Some(newest) = uploads.pop() else { return Ok(None) };
        match s3.list_parts(key, &newest.id).await {
            Ok(parts) => Ok(Some((newest.id, parts))),
            Err(e) if e.kind() == Kind::Stale => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Stores a local file.
    pub async fn upload(
        &self,
        store: &Store,
        path: &Path,
        key: &Key,
        object: &NewObject,
        condition: &Condition,
    ) -> Result<Moved> {
        let file = File::open(path).map_err(|e| local("open", path, &e))?;
        let before = file.metadata().map_err(|e| local("look at", path, &e))?;
        if !before.is_file() {
            return Err(Error::new(Kind::Invalid, format!("{} is no regular file", path.display())));
        }
        let mut object = object.clone();
        if self.preserve {
            preserve::of_file(&before, &mut object.headers.metadata);
        }
        let (file, size, object) = (Arc::new(file), before.len(), &object);
        self.bar.expect(size);
        let check = || {
            let now = std::fs::metadata(path).map_err(|_| changed(path))?;
            if is_same(&before, &now) { Ok(()) } else { Err(changed(path)) }
        };
        if size <= self.part_size.min(store.provider.limits.max_put) {
            let _permit = self.permit().await;
            let bytes = read_at(&file, path, 0, size).await?;
            check()?;
            self.limiter.take(size).await;
            let stored = store.s3.put(key, bytes.into(), object, condition).await?;
            self.bar.add(size);
            return Ok(Moved { bytes: size, etag: Some(stored.etag) });
        }
        let found = if self.resume { self.find_upload(&store.s3, key).await? } else { None };
        let mut part_size = self.part_for(store, size)?;
        let (id, have) = match found {
            Some((id, parts)) => {
                // The earlier run may have had another part size.
                if let Some(first) = parts.first().filter(|p| p.number == 1 && p.size >= store.provider.limits.min_part)
                    && size.div_ceil(first.size) <= u64::from(store.provider.limits.max_parts)
                {
                    part_size = first.size;
                }
                (id, parts)
            }
            None => (store.s3.create_upload(key, object).await?, Vec::new()),
        };
        self.opened(&store.s3, key, &id);
        let send = async {
            let starts = (1u32..).zip((0..size).step_by(usize::try_from(part_size).unwrap_or(usize::MAX)));
            let parts: Vec<Part> = stream::iter(starts)
                .map(|(number, start)| {
                    let (file, id, have) = (&file, &id, &have);
                    async move {
                        let _permit = self.permit().await;
                        let len = part_size.min(size - start);
                        let bytes = read_at(file, path, start, len).await?;
                        let stored = have.iter().find(|p| p.number == number && p.size == len);
                        let part = match stored {
                            Some(part) if part.etag.as_str() == md5(&bytes) => part.clone(),
                            _ => {
                                self.limiter.take(len).await;
                                store.s3.upload_part(key, id, number, bytes.into()).await?
                            }
                        };
                        self.bar.add(len);
                        Ok::<_, Error>(part)
                    }
                })
                .buffered(self.parallel)
                .try_collect()
                .await?;
            check()?;
            store.s3.complete_upload(key, &id, &parts, condition).await
        };
        let result = send.await;
        let stored = self.settle(&store.s3, key, &id, result).await?;
        store.s3.settle_uploaded_tags(key, &object.tags).await?;
        Ok(Moved { bytes: size, etag: Some(stored.etag) })
    }

    /// Stores what a pipe yields. `expected`: bytes to expect, for the size of the parts.
    pub async fn upload_stream(
        &self,
        store: &Store,
        mut from: impl AsyncRead + Unpin,
        expected: u64,
        key: &Key,
        object: &NewObject,
        condition: &Condition,
    ) -> Result<Moved> {
        let part_size = self.part_for(store, expected)?;
        let most = usize::try_from(part_size).unwrap_or(usize::MAX);
        let mut first = fill(&mut from, most).await?;
        if first.len() < most {
            let bytes = first.len() as u64;
            self.limiter.take(bytes).await;
            let stored = store.s3.put(key, first.into(), object, condition).await?;
            self.bar.add(bytes);
            return Ok(Moved { bytes, etag: Some(stored.etag) });
        }
        let id = store.s3.create_upload(key, object).await?;
        self.opened(&store.s3, key, &id);
        let send = async {
            let mut under_way = stream::FuturesOrdered::new();
            let mut parts: Vec<Part> = Vec::new();
            for number in 1u32.. {
                if number > store.provider.limits.max_parts {
                    return Err(Error::new(
                        Kind::TooLarge,
                        format!("more than {} parts of {part_size} bytes", number - 1),
                    )
                    .with_fix("tell --expected-size, so that larger parts are used"));
                }
                let bytes = if first.is_empty() { fill(&mut from, most).await? } else { std::mem::take(&mut first) };
                let len = bytes.len();
                if len > 0 {
                    let id = &id;
                    under_way.push_back(async move {
                        let size = bytes.len() as u64;
                        self.limiter.take(size).await;
                        let part = store.s3.upload_part(key, id, number, bytes.into()).await?;
                        self.bar.add(size);
                        Ok::<_, Error>(part)
                    });
                }
                // The parts under way are what is in memory.
                while under_way.len() >= self.parallel || len < most {
                    match under_way.next().await {
                        Some(part) => parts.push(part?),
                        None => break,
                    }
                }
                if len < most {
                    break;
                }
            }
            let stored = store.s3.complete_upload(key, &id, &parts, condition).await?;
            Ok((stored, parts.iter().map(|p| p.size).sum()))
        };
        let result = send.await;
        let (stored, bytes): (Stored, u64) = match result {
            // A pipe cannot be read twice: nothing to resume.
            Err(error) => {
                if store.s3.abort_upload(key, &id).await.is_ok() {
                    self.closed(&id);
                }
                return Err(error);
            }
            Ok(done) => done,
        };
        self.closed(&id);
        store.s3.settle_uploaded_tags(key, &object.tags).await?;
        Ok(Moved { bytes, etag: Some(stored.etag) })
    }

    /// The pieces of a range, however often the connection is lost.
    async fn range(&self, from: &Origin<'_>, range: std::ops::Range<u64>) -> Result<Vec<Bytes>> {
        let etag = Some(&from.meta.etag).filter(|e| !e.as_str().is_empty());
        let mut pieces = Vec::new();
        let mut at = range.start;
        let mut tries = from.store.options.retries;
        while at < range.end {
            let result = async {
                let mut body = from.store.s3.get(from.key, Some(at..range.end), etag, from.version).await?.body;
                while let Some(piece) = body.next().await? {
                    let len = piece.len() as u64;
                    self.limiter.take(len).await;
                    self.bar.add(len);
                    at += len;
                    pieces.push(piece);
                }
                Ok::<_, Error>(())
            };
            match result.await {
                Ok(()) => {}
                // What has come is kept; only the rest is asked for again.
                Err(e) if tries > 0 && matches!(e.kind(), Kind::Unavailable | Kind::Timeout) => tries -= 1,
                Err(e) => return Err(e),
            }
        }
        Ok(pieces)
    }

    /// Writes the object from byte `start` on, in order. `name`: what is written to, for messages.
    async fn pour(&self, from: &Origin<'_>, start: u64, to: &mut (impl AsyncWrite + Unpin), name: &Path) -> Result<()> {
        let size = from.meta.size;
        let starts = (start..size).step_by(usize::try_from(self.part_size).unwrap_or(usize::MAX));
        let mut parts = stream::iter(starts)
            .map(|start| async move {
                let _permit = self.permit().await;
                self.range(from, start..size.min(start + self.part_size)).await
            })
            .buffered(self.parallel);
        while let Some(pieces) = parts.next().await {
            for piece in pieces? {
                to.write_all(&piece).await.map_err(|e| local("write", name, &e))?;
            }
        }
        to.flush().await.map_err(|e| local("write", name, &e))
    }

    /// Fetches an object into a pipe.
    pub async fn download_stream(
        &self,
        store: &Store,
        key: &Key,
        version: Option<&str>,
        mut to: impl AsyncWrite + Unpin,
        name: &Path,
    ) -> Result<Moved> {
        let meta = store.s3.head(key, version).await?;
        self.bar.expect(meta.size);
        self.pour(&Origin { store, key, version, meta: &meta }, 0, &mut to, name).await?;
        Ok(Moved { bytes: meta.size, etag: Some(meta.etag) })
    }

    /// Fetches an object into a file, which appears when it is whole.
    pub async fn download(&self, store: &Store, key: &Key, version: Option<&str>, path: &Path) -> Result<Moved> {
        // What a link points to is replaced, not the link.
        let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let old = std::fs::metadata(path).ok();
        if old.as_ref().is_some_and(|m| !m.is_file()) {
            if old.is_some_and(|m| m.is_dir()) {
                return Err(Error::new(Kind::IsDir, format!("{} is a directory", path.display())));
            }
            let device =
                tokio::fs::File::options().write(true).open(path).await.map_err(|e| local("open", path, &e))?;
            return self.download_stream(store, key, version, device, path).await;
        }
        let meta = store.s3.head(key, version).await?;
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mode = old.map_or(Permissions::from_mode(0o666), |m| m.permissions());
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let start: String = name.chars().take(NAME_PART / 4).collect();
        let (waiting, file) = if self.resume {
            // Another version of the object has another file: bytes of two versions never meet.
            let id = format!("{}/{key}\n{}\n{}", store.s3.bucket(), meta.etag, meta.size);
            let kept = dir.join(format!(".{start}.{:016x}.xosfs-part", stable_hash(id.as_bytes())));
            let file = File::options().create(true).append(true).open(&kept).map_err(|e| local("open", &kept, &e))?;
            (Waiting::Kept(kept), file)
        } else {
            let made = tempfile::Builder::new()
                .prefix(&format!(".{start}."))
                .suffix(".xosfs-part")
                .permissions(mode.clone())
                .tempfile_in(dir)
                .map_err(|e| local("create a file in", dir, &e))?;
            let (file, temp) = made.into_parts();
            (Waiting::Temporary(temp), file)
        };
        let have = file.metadata().map_err(|e| local("look at", path, &e))?.len().min(meta.size);
        self.bar.expect(meta.size);
        self.bar.add(have);
        let mut to = tokio::fs::File::from_std(file);
        let from = Origin { store, key, version, meta: &meta };
        self.pour(&from, have, &mut to, path).await.map_err(|e| match &waiting {
            Waiting::Kept(_) => kept(e, "fetched"),
            Waiting::Temporary(_) => e,
        })?;
        let file = to.into_std().await;
        if self.preserve {
            preserve::onto_file(&file, &meta).map_err(|e| local("keep mode, owner and time of", path, &e))?;
        }
        let synced = tokio::task::spawn_blocking(move || file.sync_all()).await;
        synced.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(|e| local("write", path, &e))?;
        let end = |e: io::Error| local("name", path, &e);
        match waiting {
            Waiting::Temporary(temp) => temp.persist(path).map_err(|e| end(e.error))?,
            Waiting::Kept(kept) => std::fs::rename(kept, path).map_err(end)?,
        }
        Ok(Moved { bytes: meta.size, etag: Some(meta.etag) })
    }

    /// Copies inside the store. `change` edits what the new object is created with; without it the object keeps all
    /// but its ACL.
    pub async fn copy(
        &self,
        from: (&Store, &Key, Option<&str>),
        to: (&Store, &Key),
        change: Option<&(dyn Fn(&mut NewObject) + Sync)>,
        condition: &Condition,
    ) -> Result<Moved> {
        let ((source_store, source_key, version), (store, key)) = (from, to);
        let meta = source_store.s3.head(source_key, version).await?;
        let etag = Some(meta.etag.clone()).filter(|e| !e.as_str().is_empty());
        let source = Source {
            bucket: Some(source_store.s3.bucket().to_owned()),
            key: source_key.clone(),
            version: version.map(Into::into),
            if_match: etag,
        };
        let mut object = NewObject {
            headers: meta.headers.clone(),
            storage_class: meta.storage_class.clone(),
            sse: meta.sse.clone(),
            sse_kms_key: meta.sse_kms_key.clone(),
            ..NewObject::default()
        };
        if let Some(change) = change {
            change(&mut object);
            if self.preserve {
                preserve::keep_time(&mut object, &meta);
            }
        }
        self.bar.expect(meta.size);
        let limits = &store.provider.limits;
        if meta.size <= limits.copy_threshold.min(limits.max_copy) {
            let _permit = self.permit().await;
            let sent = object.tags.clone();
            let directive = match change {
                Some(_) => Directive::Replace { object, tags: !sent.is_empty() },
                None => Directive::Keep { storage_class: object.storage_class, acl: None },
            };
            let stored = store.s3.copy(&source, key, &directive, condition).await?;
            store.s3.settle_copied_tags(key, &sent).await?;
            self.bar.add(meta.size);
            return Ok(Moved { bytes: meta.size, etag: Some(stored.etag) });
        }
        let tags = if object.tags.is_empty() {
            match source_store.s3.tags(source_key, version).await {
                Err(e) if matches!(e.kind(), Kind::Unsupported | Kind::Denied) => Vec::new(),
                tags => tags?,
            }
        } else {
            std::mem::take(&mut object.tags)
        };
        let id = store.s3.create_upload(key, &object).await?;
        self.opened(&store.s3, key, &id);
        let send = async {
            let part_size = COPY_PART.max(self.part_for(store, meta.size)?);
            let starts = (1u32..).zip((0..meta.size).step_by(usize::try_from(part_size).unwrap_or(usize::MAX)));
            let parts: Vec<Part> = stream::iter(starts)
                .map(|(number, start)| {
                    let (id, source) = (&id, &source);
                    async move {
                        let _permit = self.permit().await;
                        let end = meta.size.min(start + part_size);
                        let part = store.s3.copy_part(key, id, number, source, Some(start..end), end - start).await?;
                        self.bar.add(end - start);
                        Ok::<_, Error>(part)
                    }
                })
                .buffered(self.parallel)
                .try_collect()
                .await?;
            if !store.provider.conditional_copy && source_store.s3.head(source_key, version).await?.etag != meta.etag {
                return Err(
                    Error::new(Kind::Stale, "copy object: the source was replaced meanwhile").with_key(source_key)
                );
            }
            store.s3.complete_upload(key, &id, &parts, condition).await
        };
        let result = send.await;
        let stored = match self.settle(&store.s3, key, &id, result).await {
            // Ceph 16 refuses copies of parts to every session of a role. One request may take long, but does it.
            Err(e) if matches!(e.kind(), Kind::Denied | Kind::Unsupported) && meta.size <= limits.max_copy => {
                let directive = Directive::Replace { object, tags: false };
                store.s3.copy(&source, key, &directive, condition).await?
            }
            done => done?,
        };
        if !tags.is_empty() {
            store.s3.set_tags(key, stored.version.as_deref(), &tags).await?;
        }
        Ok(Moved { bytes: meta.size, etag: Some(stored.etag) })
    }
}

/// Reads until `most` bytes are there or the pipe ends.
async fn fill(from: &mut (impl AsyncRead + Unpin), most: usize) -> Result<Bytes> {
    let mut bytes = Vec::with_capacity(most.min(1 << 20));
    let limit = u64::try_from(most).unwrap_or(u64::MAX);
    from.take(limit)
        .read_to_end(&mut bytes)
        .await
        .map_err(|e| Error::new(Kind::Io, format!("read standard input: {e}")))?;
    Ok(bytes.into())
}

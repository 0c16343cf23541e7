//! `xosfs cp`: copies between files, standard input and output, and the store.
//!
//! 1. Where something goes depends on how the target is written, as with cp(1): a target that ends in `/`, a bucket
//!    and an existing directory take the source's name, anything else is the name. With `-r` the contents of the
//!    source go below the target.
//! 2. Keys are not paths. One that would leave the target directory, or that is no file name, is told and left out.
//! 3. One file that fails does not stop the others; the exit code is 1 all the same.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::mpsc;

use super::ends::End;
use super::preserve::KeptAcl;
use super::progress::{Bar, Limiter};
use super::store::{Store, StoreArgs, Uri, block_on};
use super::transfer::{Engine, Moved};
use super::{Failure, print};
use crate::config::value;
use crate::error::{Error, Kind};
use crate::key::Key;
use crate::s3::{Condition, ListQuery, NewObject};

/// Jobs found ahead of the transfers.
const AHEAD: usize = 1000;

#[derive(Args, Clone, Debug)]
pub(super) struct CpArgs {
    /// What to copy, then where to: files, s3://BUCKET/KEY, or `-` for standard input and output.
    #[arg(required = true, num_args = 2..)]
    paths: Vec<String>,
    /// Directories, and everything below a prefix.
    #[arg(short, long)]
    recursive: bool,
    /// Leave alone what is there already.
    #[arg(short = 'n', long)]
    no_clobber: bool,
    /// Go on with what an interrupted copy has stored or fetched, and keep it when this one is interrupted.
    #[arg(long)]
    resume: bool,
    /// Only print what would be copied.
    #[arg(long)]
    dry_run: bool,
    /// This version of the source.
    #[arg(long, value_name = "ID", conflicts_with = "recursive")]
    version: Option<String>,
    /// Most bytes a second, as 10M.
    #[arg(long, value_name = "SIZE")]
    bandwidth: Option<String>,
    /// Files at a time.
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: u16,
    /// How many bytes standard input will yield, for uploads of more than 80 GiB.
    #[arg(long, value_name = "SIZE")]
    expected_size: Option<String>,
    /// Content type of what is stored; the default goes by the name.
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Canned ACL of what is stored.
    #[arg(long, value_name = "CANNED")]
    acl: Option<String>,
    /// Storage class of what is stored.
    #[arg(long, value_name = "CLASS")]
    storage_class: Option<String>,
    /// Tags of what is stored.
    #[arg(long, value_name = "K=V&K2=V2")]
    tags: Option<String>,
    /// Metadata of what is stored; may be given several times.
    #[arg(long, value_name = "NAME=VALUE")]
    metadata: Vec<String>,
    /// Keep mode, owner and times of files, in the metadata that mounts use; between objects the access control list.
    #[arg(short, long)]
    preserve: bool,
    /// Print every copy.
    #[arg(short, long)]
    verbose: bool,
    /// No progress bar.
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// Standard input or output as a file of its own: no other buffer in between.
fn standard(fd: BorrowedFd<'_>) -> Result<tokio::fs::File, Error> {
    let fd = fd.try_clone_to_owned().map_err(|e| Error::new(Kind::Io, format!("standard input or output: {e}")))?;
    Ok(tokio::fs::File::from_std(fd.into()))
}

pub(super) fn standard_output() -> Result<tokio::fs::File, Error> {
    standard(std::io::stdout().as_fd())
}

/// One object or file to copy.
#[derive(Clone, Debug)]
struct Job {
    from: End,
    to: End,
}

struct Copier<'a> {
    args: &'a CpArgs,
    /// The store of the remote end, or of both.
    store: &'a Store,
    engine: Engine,
    done: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
}

impl CpArgs {
    fn check(&self) -> Result<(Vec<End>, End), Failure> {
        let usage = |text: String| Err(Failure::Usage(text));
        let mut ends = self.paths.iter().map(|p| End::parse(p)).collect::<Result<Vec<_>, _>>()?;
        let Some(target) = ends.pop() else { return usage("cp needs a source and a target".into()) };
        if ends.iter().chain([&target]).all(|e| !matches!(e, End::Remote(_))) {
            return usage("neither source nor target is in a store; write s3://BUCKET/KEY".into());
        }
        for from in &ends {
            match (from, &target) {
                (End::Pipe, End::Remote(uri)) if uri.key.is_empty() || uri.key.ends_with('/') => {
                    return usage(format!("standard input has no name: write the whole key behind {uri}"));
                }
                (End::File(a), End::File(_) | End::Pipe) => {
                    return usage(format!("{} and {target} are both local; write s3://BUCKET/KEY", a.display()));
                }
                (End::Pipe | End::Remote(_), _) | (End::File(_), End::Remote(_)) => {}
            }
            if *from == End::Pipe || target == End::Pipe {
                if self.recursive {
                    return usage("-r and `-` exclude each other".into());
                }
                if self.preserve {
                    return usage("--preserve and `-` exclude each other: a pipe has no mode and no time".into());
                }
            }
            if let End::Remote(uri) = from
                && !self.recursive
                && (uri.key.is_empty() || uri.key.ends_with('/'))
            {
                return usage(format!("{uri} is a directory; add -r to copy everything below it"));
            }
            if let End::File(path) = from
                && !self.recursive
                && path.is_dir()
            {
                return usage(format!("{} is a directory; add -r to copy everything below it", path.display()));
            }
        }
        if ends.len() > 1 && !target.is_container() {
            return usage(format!("{target} is one name for {} sources; write a directory, ending in /", ends.len()));
        }
        if ends.iter().filter(|e| **e == End::Pipe).count() > 1 {
            return usage("standard input can be copied once".into());
        }
        Ok((ends, target))
    }

    /// Whether the attributes of copied objects are changed.
    fn changes(&self, store: &Store) -> bool {
        let o = &store.options;
        self.content_type.is_some()
            || !self.metadata.is_empty()
            || self.tags.is_some()
            || self.sets_acl(store)
            || self.storage_class.is_some()
            || o.storage_class.is_some()
            || !o.tags.is_empty()
    }

    fn sets_acl(&self, store: &Store) -> bool {
        self.acl.is_some() || store.options.acl.is_some()
    }

    /// Writes what was asked for into what an object is created with.
    fn apply(&self, given: &Given, store: &Store, object: &mut NewObject) {
        let o = &store.options;
        if let Some(content_type) = self.content_type.clone().or_else(|| o.content_type.clone()) {
            object.headers.content_type = Some(content_type);
        }
        if let Some(class) = self.storage_class.as_deref().or(o.storage_class.as_deref()) {
            object.storage_class = Some(store.provider.class_name(class));
        }
        if let Some(acl) = self.acl.clone().or_else(|| o.acl.clone()) {
            object.acl = Some(acl);
        }
        let tags = if given.tags.is_empty() { &o.tags } else { &given.tags };
        if !tags.is_empty() {
            object.tags = tags.clone();
        }
        object.headers.metadata.extend(given.metadata.iter().cloned());
    }
}

/// Values of the command line that have been read.
struct Given {
    tags: Vec<(String, String)>,
    metadata: Vec<(String, String)>,
    bandwidth: Option<u64>,
    expected: u64,
}

impl Given {
    fn read(args: &CpArgs) -> Result<Given, Failure> {
        let usage = |name: &str, text: String| Failure::Usage(format!("--{name}: {text}"));
        let size = |name: &str, text: Option<&str>| {
            text.map(|t| value::size(t, 1..=1 << 60)).transpose().map_err(|e| usage(name, e))
        };
        if let Some(text) = &args.content_type {
            value::content_type(text).map_err(|e| usage("content-type", e))?;
        }
        let metadata = args.metadata.iter().map(|text| match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_ascii_lowercase(), value.to_owned())),
            _ => Err(usage("metadata", format!("`{text}`: write NAME=VALUE"))),
        });
        Ok(Given {
            tags: args.tags.as_deref().map(value::tags).transpose().map_err(|e| usage("tags", e))?.unwrap_or_default(),
            metadata: metadata.collect::<Result<_, _>>()?,
            bandwidth: size("bandwidth", args.bandwidth.as_deref())?,
            expected: size("expected-size", args.expected_size.as_deref())?.unwrap_or(0),
        })
    }
}

impl Copier<'_> {
    fn lost(&self, what: &str, error: &Error) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.engine.bar.say(&format!("xosfs: not copied: {what}: {error}"));
    }

    /// Every file below a directory. Links to directories are left out: they may lead in circles.
    fn walk(&self, root: &Path, target: &End, jobs: &mut Vec<Job>) {
        let mut dirs = vec![(root.to_owned(), String::new())];
        while let Some((dir, below)) = dirs.pop() {
            let failed = |e: std::io::Error| Error::new(Kind::Io, format!("list: {e}"));
            let entries = match std::fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(e) => {
                    self.lost(&dir.display().to_string(), &failed(e));
                    continue;
                }
            };
            for entry in entries {
                let path = match entry {
                    Ok(entry) => entry.path(),
                    Err(e) => {
                        self.lost(&dir.display().to_string(), &failed(e));
                        continue;
                    }
                };
                let shown = path.display().to_string();
                let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
                    self.lost(&shown, &Error::new(Kind::BadName, "name is not UTF-8, which keys have to be"));
                    continue;
                };
                let below = format!("{below}{name}");
                let is_link = path.is_symlink();
                match std::fs::metadata(&path) {
                    Ok(m) if m.is_dir() && is_link => {
                        self.engine.bar.say(&format!("xosfs: left out: {shown} is a link to a directory"));
                    }
                    Ok(m) if m.is_dir() => dirs.push((path, format!("{below}/"))),
                    Ok(m) if m.is_file() => match target.child(&below) {
                        Ok(to) => jobs.push(Job { from: End::File(path), to }),
                        Err(e) => self.lost(&shown, &e),
                    },
                    Ok(_) => self.lost(&shown, &Error::new(Kind::Invalid, "it is no regular file")),
                    Err(e) => self.lost(&shown, &Error::new(Kind::Io, format!("look at it: {e}"))),
                }
            }
        }
    }

    /// Every object below a prefix, and the one that is called like it.
    async fn list(&self, from: &Uri, target: &End, jobs: &mpsc::Sender<Job>) -> Result<(), Error> {
        let store = self.store.s3.for_bucket(&from.bucket);
        let prefix = from.prefix();
        let mut query = ListQuery { prefix: &prefix, delimited: false, from: None, max_keys: None };
        let mut found = false;
        loop {
            let page = store.list(&query).await?;
            for object in page.objects {
                found = true;
                let below = &object.key[prefix.len().min(object.key.len())..];
                // The markers of directories: files make their directories.
                if object.size == 0 && (below.is_empty() || below.ends_with('/')) && !matches!(target, End::Remote(_)) {
                    continue;
                }
                let shown = format!("s3://{}/{}", from.bucket, object.key);
                match target.child(below) {
                    Ok(to) => {
                        let from = End::Remote(Uri { key: object.key, ..from.clone() });
                        // The other end hangs up when everything is being given up.
                        if jobs.send(Job { from, to }).await.is_err() {
                            return Ok(());
                        }
                    }
                    Err(e) => self.lost(&shown, &e),
                }
            }
            match page.next {
                Some(next) => query.from = Some(next),
                None if found => return Ok(()),
                None => {
                    return Err(Error::new(Kind::NotFound, format!("nothing is stored below {from}")));
                }
            }
        }
    }

    async fn find(&self, sources: &[End], target: &End, jobs: mpsc::Sender<Job>) -> Result<(), Error> {
        for from in sources {
            let named = |from: &End| -> Result<End, Error> {
                match from.name() {
                    Some(name) if target.is_container() => target.child(&name),
                    _ => Ok(target.clone()),
                }
            };
            match from {
                End::File(path) if path.is_dir() => {
                    let mut list = Vec::new();
                    self.walk(path, target, &mut list);
                    for job in list {
                        let _ = jobs.send(job).await;
                    }
                }
                End::Remote(uri) if self.args.recursive => self.list(uri, target, &jobs).await?,
                one => {
                    let _ = jobs.send(Job { from: one.clone(), to: named(one)? }).await;
                }
            }
        }
        Ok(())
    }

    /// The store for one bucket; both ends share connections and limits.
    fn at(&self, bucket: &str) -> Store {
        Store {
            s3: self.store.s3.for_bucket(bucket),
            options: self.store.options.clone(),
            provider: self.store.provider,
        }
    }

    async fn condition(&self, to: &Store, key: &Key) -> Result<Option<Condition>, Error> {
        if !self.args.no_clobber {
            return Ok(Some(Condition::None));
        }
        // Looking first saves sending a file that is not wanted.
        match to.s3.head(key, None).await {
            Ok(_) => Ok(None),
            Err(e) if e.kind() == Kind::NotFound && to.provider.conditional_put => Ok(Some(Condition::Absent)),
            Err(e) if e.kind() == Kind::NotFound => Ok(Some(Condition::None)),
            Err(e) => Err(e),
        }
    }

    /// `None`: it is there and is left alone.
    async fn copy(&self, job: &Job, given: &Given) -> Result<Option<Moved>, Error> {
        let object_key = |uri: &Uri| Key::new(&uri.key);
        let version = self.args.version.as_deref();
        let moved = match (&job.from, &job.to) {
            (from, End::Remote(uri)) => {
                let (to, key) = (self.at(&uri.bucket), object_key(uri)?);
                let Some(condition) = self.condition(&to, &key).await? else { return Ok(None) };
                let mut object = NewObject::default();
                object.headers.content_type = mime_guess::from_path(key.file_name()).first_raw().map(str::to_owned);
                match from {
                    End::Remote(source) => {
                        let (source_store, source_key) = (self.at(&source.bucket), object_key(source)?);
                        let is_changed = self.args.changes(self.store);
                        if source == uri && !is_changed && version.is_none() {
                            return Err(
                                Error::new(Kind::Invalid, "source and target are the same object").with_key(&key)
                            );
                        }
                        let kept = match self.args.preserve && !self.args.sets_acl(self.store) {
                            true => KeptAcl::of(&source_store, &source_key, version).await?,
                            false => KeptAcl::Private,
                        };
                        let change = |object: &mut NewObject| {
                            kept.put_into(object);
                            self.args.apply(given, self.store, object);
                        };
                        let change: Option<&(dyn Fn(&mut NewObject) + Sync)> =
                            if is_changed || self.args.preserve { Some(&change) } else { None };
                        let from = (&source_store, &source_key, version);
                        let moved = self.engine.copy(from, (&to, &key), change, &condition).await?;
                        kept.settle(&to, &key).await?;
                        Ok(moved)
                    }
                    End::File(path) => {
                        self.args.apply(given, self.store, &mut object);
                        self.engine.upload(&to, path, &key, &object, &condition).await
                    }
                    End::Pipe => {
                        self.args.apply(given, self.store, &mut object);
                        let input = standard(std::io::stdin().as_fd())?;
                        self.engine.upload_stream(&to, input, given.expected, &key, &object, &condition).await
                    }
                }
            }
            (End::Remote(uri), End::File(path)) => {
                let (from, key) = (self.at(&uri.bucket), object_key(uri)?);
                if self.args.no_clobber && path.exists() {
                    return Ok(None);
                }
                if let Some(dir) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
                    std::fs::create_dir_all(dir)
                        .map_err(|e| Error::new(Kind::Io, format!("create directory {}: {e}", dir.display())))?;
                }
                self.engine.download(&from, &key, version, path).await
            }
            (End::Remote(uri), End::Pipe) => {
                let (from, key) = (self.at(&uri.bucket), object_key(uri)?);
                let output = standard_output()?;
                self.engine.download_stream(&from, &key, version, output, Path::new("standard output")).await
            }
            // Refused before anything began.
            (End::File(_) | End::Pipe, _) => Err(Error::new(Kind::Invalid, "both ends are local")),
        };
        match moved {
            // Somebody else was faster.
            Err(e) if e.kind() == Kind::Exists && self.args.no_clobber => Ok(None),
            result => result.map(Some),
        }
    }

    async fn job(&self, job: Job, given: &Given) -> Result<(), Failure> {
        let is_json = self.args.store.json && job.to != End::Pipe;
        if self.args.dry_run {
            self.done.fetch_add(1, Ordering::Relaxed);
            if is_json {
                return print::json_line(
                    &json!({"from": job.from.to_string(), "to": job.to.to_string(), "copied": false}),
                );
            }
            return print::line(&format!(
                "would copy {} -> {}",
                print::safe(&job.from.to_string()),
                print::safe(&job.to.to_string())
            ));
        }
        match self.copy(&job, given).await {
            Ok(None) => Ok(()),
            Ok(Some(moved)) => {
                self.done.fetch_add(1, Ordering::Relaxed);
                self.bytes.fetch_add(moved.bytes, Ordering::Relaxed);
                if is_json {
                    return print::json_line(&json!({
                        "from": job.from.to_string(),
                        "to": job.to.to_string(),
                        "bytes": moved.bytes,
                        "etag": moved.etag.as_ref().map(|e| e.as_str()),
                        "copied": true,
                    }));
                }
                if self.args.verbose {
                    let text =
                        format!("{} -> {}", print::safe(&job.from.to_string()), print::safe(&job.to.to_string()));
                    // Standard output may be where the bytes go.
                    self.engine.bar.say(&text);
                }
                Ok(())
            }
            Err(error) => {
                let shown = match self.store.explain(error) {
                    Failure::Usage(text) | Failure::Failed(text) => text,
                };
                self.failed.fetch_add(1, Ordering::Relaxed);
                self.engine.bar.say(&format!("xosfs: not copied: {}: {shown}", print::safe(&job.from.to_string())));
                Ok(())
            }
        }
    }

    async fn run(&self, sources: &[End], target: &End, given: &Given) -> Result<(), Failure> {
        let (send, receive) = mpsc::channel(AHEAD);
        let jobs = futures_util::stream::unfold(receive, |mut receive| async move {
            let job = receive.recv().await?;
            Some((job, receive))
        });
        let work = async {
            let results = jobs.map(|job| self.job(job, given)).buffer_unordered(usize::from(self.args.parallel));
            let mut results = pin!(results);
            while let Some(result) = results.next().await {
                result?;
            }
            Ok::<_, Failure>(())
        };
        let (found, worked) = tokio::join!(self.find(sources, target, send), work);
        worked?;
        found.map_err(|e| self.store.explain(e))
    }
}

pub(super) fn run(args: &CpArgs) -> Result<(), Failure> {
    let (sources, target) = args.check()?;
    let given = Given::read(args)?;
    let remote = sources.iter().chain([&target]).find_map(|e| match e {
        End::Remote(uri) => Some(uri),
        _ => None,
    });
    let Some(remote) = remote else { return Err(Failure::Usage("write s3://BUCKET/KEY".into())) };
    let store = Store::open(&args.store, remote)?;
    let bar = Bar::bytes(args.quiet || args.store.json || args.dry_run);
    let (parts, size) = (store.options.max_uploads, store.options.part_size);
    let mut engine = Engine::new(parts, size, Limiter::new(given.bandwidth), bar, args.resume);
    engine.preserve = args.preserve;
    let copier = Copier {
        args,
        store: &store,
        engine,
        done: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
    };
    let result = block_on(copier.run(&sources, &target, &given));
    copier.engine.bar.end();
    let aborted = block_on(async {
        copier.engine.abort_open().await;
        Ok(())
    });
    result.and(aborted)?;
    let (done, failed) = (copier.done.into_inner(), copier.failed.into_inner());
    if failed > 0 {
        return Err(Failure::Failed(format!("{failed} of {} could not be copied", done + failed)));
    }
    if args.verbose && args.recursive {
        eprintln!("xosfs: {done} copied, {} bytes", copier.bytes.into_inner());
    }
    Ok(())
}

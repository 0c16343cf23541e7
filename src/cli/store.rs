//! From what a person types to a store: options, `s3://BUCKET/KEY`, paths in a mount.
//!
//! 1. A path in a mount is resolved by text alone, against the kernel's table of mounts: touching a mount that hangs
//!    would hang this command too.
//! 2. The options a mount was started with hold for paths in it. They stand on its daemon's command line, which never
//!    has secrets; what is given to this command comes after them and wins.
//! 3. Objects whose key a path cannot spell are named by URI.

use std::future::Future;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use clap::Args;
use tokio::runtime::Runtime;

use super::Failure;
use crate::config::source::is_bucket_name;
use crate::config::{Options, Provider, Source};
use crate::daemon::state::State;
use crate::daemon::{connect, env};
use crate::error::{Error, Kind};
use crate::fuse::mountinfo;
use crate::key::{Key, Name, Prefix};
use crate::s3::S3;

/// How to reach the store; the same options as those of `xosfs mount`.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct StoreArgs {
    /// Options as of `xosfs mount`, separated by commas: endpoint, region, profile, …
    #[arg(short = 'o', value_name = "OPTION[=VALUE],…", allow_hyphen_values = true, global = true)]
    pub options: Vec<String>,
    /// Print JSON: one object, or one a line for lists.
    #[arg(long, global = true)]
    pub json: bool,
}

/// A place in a store: a bucket and a key, which may be empty or end in `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Uri {
    pub bucket: String,
    pub key: String,
    /// Options of the mount that a path led through.
    pub options: Vec<String>,
}

const FORM: &str = "write s3://BUCKET/KEY, or a path in a mount";

impl std::fmt::Display for Uri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

impl Uri {
    /// Only `s3://BUCKET[/KEY]`; `None` for anything else.
    pub fn remote(text: &str) -> Result<Option<Uri>, Failure> {
        let Some(rest) = text.strip_prefix("s3://") else {
            if text.contains("://") {
                return Err(Failure::Usage(format!("{text:?} is a URL, not an object; write s3://BUCKET/KEY")));
            }
            return Ok(None);
        };
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let source: Source = bucket.parse().map_err(Failure::Usage)?;
        Ok(Some(Uri { bucket: source.bucket, key: key.to_owned(), options: Vec::new() }))
    }

    /// `s3://BUCKET[/KEY]`, or a path in a mount.
    pub fn parse(text: &str) -> Result<Uri, Failure> {
        match Uri::remote(text)? {
            Some(uri) => Ok(uri),
            None => match in_mount(text)? {
                uri if uri.bucket.is_empty() => Err(Failure::Usage(format!(
                    "{text:?} holds every bucket; name one of them: {}/BUCKET",
                    text.trim_end_matches('/')
                ))),
                uri => Ok(uri),
            },
        }
    }

    /// Whether a path is that of a mount of every bucket; then the options of the mount.
    pub fn every_bucket(text: &str) -> Option<Vec<String>> {
        if text.contains("://") {
            return None;
        }
        in_mount(text).ok().filter(|uri| uri.bucket.is_empty()).map(|uri| uri.options)
    }

    /// A bucket: its name, `s3://BUCKET`, or a path in a mount of it.
    pub fn bucket(text: &str) -> Result<Uri, Failure> {
        if text.contains("://") || text.contains('/') || text.starts_with('.') {
            let uri = Uri::parse(text)?;
            if text.starts_with("s3://") && !uri.key.is_empty() {
                return Err(Failure::Usage(format!(
                    "{text:?} names an object; write the bucket alone: s3://{}",
                    uri.bucket
                )));
            }
            return Ok(Uri { key: String::new(), ..uri });
        }
        let source: Source = text.parse().map_err(Failure::Usage)?;
        Ok(Uri { bucket: source.bucket, key: String::new(), options: Vec::new() })
    }

    /// The key of one object. Errors: a bucket alone, a directory, a key that cannot be sent.
    pub fn object(&self) -> Result<Key, Failure> {
        if self.key.is_empty() {
            return Err(Failure::Usage(format!("{self} names a bucket, not an object; {FORM}")));
        }
        Key::new(&self.key).map_err(|e| Failure::Usage(e.to_string()))
    }

    /// The same as a directory: empty for the bucket, else ending in `/`.
    pub fn prefix(&self) -> String {
        if self.key.is_empty() || self.key.ends_with('/') { self.key.clone() } else { format!("{}/", self.key) }
    }

    /// The last component.
    pub fn name(&self) -> &str {
        self.key.trim_end_matches('/').rsplit('/').next().unwrap_or("")
    }
}

/// The `-o` lists on a daemon's command line; none when it cannot be read.
fn options_of(pid: i32) -> Vec<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut args = line.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned());
    let mut out = Vec::new();
    while let Some(arg) = args.next() {
        match arg.strip_prefix("-o") {
            Some("") => out.extend(args.next()),
            Some(list) => out.push(list.to_owned()),
            None if arg == "--" => break,
            None => {}
        }
    }
    out
}

/// An absolute path without `.` and `..`, by text alone.
fn absolute(text: &str) -> Result<PathBuf, Failure> {
    let path = std::path::absolute(text).map_err(|e| Failure::Usage(format!("path {text:?}: {e}")))?;
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    Ok(out)
}

/// What a path in a mount stands for; no bucket for the directory that holds every bucket.
fn in_mount(text: &str) -> Result<Uri, Failure> {
    let path = absolute(text)?;
    let mounts = mountinfo::all().map_err(|e| Failure::Failed(format!("read /proc/self/mountinfo: {e}")))?;
    let entry = mounts.into_iter().filter(|e| path.starts_with(&e.dir)).max_by_key(|e| e.dir.components().count());
    let Some(entry) = entry.filter(mountinfo::Entry::is_ours) else {
        let bucket = text.split('/').next().unwrap_or("");
        let hint = if !text.starts_with(['/', '.']) && !bucket.is_empty() {
            format!(" (did you mean s3://{text}?)")
        } else {
            String::new()
        };
        return Err(Failure::Usage(format!("{text:?} is in no mount of xosfs{hint}; {FORM}")));
    };
    let source: Source = entry.source.parse().map_err(Failure::Failed)?;
    let mut options = Vec::new();
    if let Some(state) = State::read(&entry.dir) {
        if let Some(endpoint) = &state.endpoint {
            options.push(format!("endpoint={endpoint}"));
        }
        if state.is_alive() {
            options.extend(options_of(state.pid));
        }
    }
    let rest = path.strip_prefix(&entry.dir).unwrap_or(Path::new(""));
    let (bucket, rest) = match source.is_all_buckets() {
        true => bucket_of(rest)?,
        false => (source.bucket, rest),
    };
    let key = key_of(&source.prefix, rest, text.ends_with('/')).map_err(|e| Failure::Usage(e.to_string()))?;
    Ok(Uri { bucket, key, options })
}

/// The bucket that a path in a mount of every bucket leads into, and the rest of the path; "" for that of the mount.
fn bucket_of(rest: &Path) -> Result<(String, &Path), Failure> {
    let mut parts = rest.components();
    let Some(first) = parts.next() else { return Ok((String::new(), rest)) };
    let name = first.as_os_str().to_string_lossy().into_owned();
    match is_bucket_name(&name) {
        true => Ok((name, parts.as_path())),
        false => Err(Failure::Usage(format!("bucket name {name:?} is not possible"))),
    }
}

/// The key behind a path below the root of a mount.
fn key_of(root: &Prefix, rest: &Path, is_dir: bool) -> Result<String, Error> {
    let mut names = rest.iter().map(Name::parse).collect::<Result<Vec<_>, _>>()?;
    if let Some(name) = names.iter().find(|n| n.needs_listing()) {
        return Err(Error::new(Kind::NameTooLong, "a shortened name does not tell its key")
            .with_key(name.as_str())
            .with_fix("name the object by s3://BUCKET/KEY"));
    }
    let Some(last) = names.pop() else { return Ok(root.as_str().to_owned()) };
    let mut dir = root.clone();
    for name in &names {
        dir = dir.dir(name)?;
    }
    Ok(if is_dir { dir.dir(&last)?.as_str().to_owned() } else { dir.file(&last)?.as_str().to_owned() })
}

/// A client and what it was made from.
pub(super) struct Store {
    pub s3: S3,
    pub options: Options,
    pub provider: &'static Provider,
}

impl Store {
    /// Connects to nothing yet.
    pub fn open(args: &StoreArgs, uri: &Uri) -> Result<Store, Failure> {
        let mut lists = uri.options.clone();
        lists.extend(args.options.iter().cloned());
        let options = Options::load(&lists, false, &env)?;
        let source = Source { bucket: uri.bucket.clone(), prefix: Prefix::root() };
        let s3 = S3::new(connect::settings(&options, &source, &env)?)?;
        let provider = connect::provider(&options, &env);
        Ok(Store { s3, options, provider })
    }

    /// A failure with the setting to change.
    pub fn explain(&self, error: Error) -> Failure {
        // Not the bucket is missing there, the object: the fix of a missing bucket would mislead.
        if matches!(error.kind(), Kind::NotFound | Kind::NoAttribute | Kind::NotEmpty | Kind::Exists) {
            return Failure::Failed(error.to_string());
        }
        // It has answered: nothing is wrong with the endpoint.
        if error.kind() == Kind::Unsupported && error.fix().is_none() {
            return Failure::Failed(error.with_fix("this store does not have it").to_string());
        }
        connect::explain(error, &self.options, self.s3.bucket()).into()
    }

    /// Runs until it is done or somebody presses Ctrl-C.
    pub fn run<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
        block_on(async { work.await.map_err(|e| self.explain(e)) })
    }
}

/// One runtime for the whole command: connections live on the runtime that opened them.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();

fn runtime() -> Result<&'static Runtime, Failure> {
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|e| Failure::Failed(format!("start of the runtime: {e}")))?;
    Ok(RUNTIME.get_or_init(|| runtime))
}

/// Runs work to its end. Ctrl-C and SIGTERM drop what it was doing.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    runtime()?.block_on(async {
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .map_err(|e| Failure::Failed(format!("wait for signals: {e}")))?;
        tokio::select! {
            result = work => result,
            _ = tokio::signal::ctrl_c() => Err(Failure::Failed("interrupted".into())),
            _ = term.recv() => Err(Failure::Failed("terminated".into())),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(text: &str) -> String {
        match Uri::parse(text) {
            Err(Failure::Usage(line)) => line,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn uris_are_buckets_and_keys() {
        let uri = Uri::parse("s3://b/a//b c/").unwrap();
        assert_eq!((uri.bucket.as_str(), uri.key.as_str(), uri.name()), ("b", "a//b c/", "b c"));
        assert_eq!(uri.to_string(), "s3://b/a//b c/");
        assert!(matches!(Uri::parse("s3://b").unwrap().object(), Err(Failure::Usage(_))));
        assert_eq!(Uri::bucket("b").unwrap(), Uri::bucket("s3://b/").unwrap());
        assert!(usage("s3://").contains("names no bucket"));
        assert!(usage("https://h/b").contains("s3://BUCKET/KEY"));
        assert!(usage("bucket/key").contains("did you mean s3://bucket/key?"));
        assert!(usage("/proc").contains("no mount of xosfs"));
        assert!(matches!(Uri::bucket("s3://b/k"), Err(Failure::Usage(line)) if line.contains("s3://b")));
    }

    #[test]
    fn paths_are_keys() {
        let key = |root: &str, rest: &str, is_dir| key_of(&Prefix::new(root).unwrap(), Path::new(rest), is_dir);
        assert_eq!(key("", "a/b", false).unwrap(), "a/b");
        assert_eq!(key("p", "a/b", true).unwrap(), "p/a/b/");
        assert_eq!(key("p", "", true).unwrap(), "p/");
        assert_eq!(key("", "a/@@empty/b@@file", false).unwrap(), "a//b");
        assert!(key("", &format!("{}@@long-{:016x}", "a".repeat(200), 1), false).is_err());
        assert_eq!(absolute("/a/./b/../c/").unwrap(), Path::new("/a/c"));
        assert_eq!(bucket_of(Path::new("b/x/y")).unwrap(), ("b".to_owned(), Path::new("x/y")));
        assert_eq!(bucket_of(Path::new("")).unwrap().0, "");
        assert!(bucket_of(Path::new(".x/y")).is_err());
    }
}

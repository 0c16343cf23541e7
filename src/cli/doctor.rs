//! `xosfs doctor`: what works between this machine and a bucket, what the store supports, what is wrong and what to
//! change.
//!
//! 1. It runs where something is broken: every check stands for itself, has a deadline, and says what to do; what cannot
//!    be checked because something before it failed is left out, not guessed.
//! 2. It must do no harm: without `--write` it only reads, and one byte of one object at most; with it, everything
//!    happens below a prefix of its own, which is removed whatever happens.

mod probe;

use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use clap::Args;
use serde_json::{Value, json};

use super::Failure;
use super::print;
use super::status;
use super::store::{self, Store, StoreArgs, Uri};
use crate::config::options::ProviderChoice;
use crate::config::{Options, Source};
use crate::daemon::{connect, env};
use crate::error::{Error, Kind};
use crate::key::{Key, Prefix};
use crate::s3::{ListQuery, S3, Versioning};

/// Stores refuse a quarter of an hour; this is the time to say so before.
const SKEW: Duration = Duration::from_secs(60);
/// Uploads older than this are nobody's.
const OLD_UPLOAD: Duration = Duration::from_secs(7 * 24 * 3600);
/// Below what a mount does: somebody waits for the answer.
const PATIENCE: &str = "retries=1,op_timeout=20s";

#[derive(Args, Clone, Debug)]
pub(super) struct DoctorArgs {
    /// BUCKET, BUCKET:/PREFIX, s3://BUCKET/PREFIX, or where one is mounted.
    target: String,
    #[command(flatten)]
    store: StoreArgs,
    /// Also try writes, on temporary objects below the prefix; some 12 MiB are sent.
    #[arg(long)]
    write: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Ok,
    /// Works, but somebody should know.
    Note,
    Wrong,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::Wrong => "wrong",
        }
    }
}

#[derive(Clone, Debug)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    text: String,
    /// What to change.
    fix: Option<String>,
}

/// What was found, in order.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Check>);

impl Findings {
    fn add(&mut self, name: &'static str, verdict: Verdict, text: impl Into<String>, fix: Option<String>) {
        self.0.push(Check { name, verdict, text: text.into(), fix });
    }

    pub fn ok(&mut self, name: &'static str, text: impl Into<String>) {
        self.add(name, Verdict::Ok, text, None);
    }

    pub fn note(&mut self, name: &'static str, text: impl Into<String>, fix: &str) {
        self.add(name, Verdict::Note, text, Some(fix.to_owned()).filter(|f| !f.is_empty()));
    }

    pub fn wrong(&mut self, name: &'static str, text: impl Into<String>, fix: &str) {
        self.add(name, Verdict::Wrong, text, Some(fix.to_owned()).filter(|f| !f.is_empty()));
    }

    /// The error already says what to change.
    pub fn failed(&mut self, name: &'static str, verdict: Verdict, error: &Error) {
        self.add(name, verdict, error.to_string(), None);
    }

    fn wrongs(&self) -> usize {
        self.0.iter().filter(|c| c.verdict == Verdict::Wrong).count()
    }

    fn text(&self) -> String {
        let line = |c: &Check| {
            let fix = c.fix.as_ref().map(|f| format!("\n{:21}→ {}", "", print::safe(f))).unwrap_or_default();
            format!("{:<5}  {:<12}  {}{fix}\n", c.verdict.word(), c.name, print::safe(&c.text))
        };
        self.0.iter().map(line).collect()
    }

    fn json(&self) -> Vec<Value> {
        let one = |c: &Check| json!({ "name": c.name, "verdict": c.verdict.word(), "text": c.text, "fix": c.fix });
        self.0.iter().map(one).collect()
    }
}

/// Bucket and prefix of what was typed.
fn target(text: &str) -> Result<Uri, Failure> {
    if text.contains("://") || text.starts_with(['/', '.']) {
        return Uri::parse(text);
    }
    if let Some((_, rest)) = text.split_once(':')
        && (rest.is_empty() || rest.starts_with('/'))
    {
        let source: Source = text.parse().map_err(Failure::Usage)?;
        return Ok(Uri { bucket: source.bucket, key: source.prefix.as_str().to_owned(), options: Vec::new() });
    }
    Uri::bucket(text)
}

pub(super) fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let mut uri = target(&args.target)?;
    let mut findings = Findings::default();
    if args.target.starts_with(['/', '.']) {
        mount(&mut findings, Path::new(&args.target));
    }
    let lists: Vec<String> = uri.options.iter().chain(&args.store.options).cloned().collect();
    let options = Options::load(&lists, false, &env)?;
    machine(&mut findings, &options);
    uri.options.insert(0, PATIENCE.to_owned());
    match Store::open(&args.store, &uri) {
        Ok(store) => {
            let prefix = Prefix::new(&uri.prefix())?;
            // A failure of one check is a finding; this is Ctrl-C.
            store::block_on(async {
                examine(&mut findings, &store, &prefix, args.write).await;
                Ok(())
            })?;
        }
        Err(e) => findings.wrong("settings", e.message(), ""),
    }
    if args.store.json {
        print::json_whole(&json!({
            "bucket": uri.bucket,
            "prefix": uri.prefix(),
            "wrong": findings.wrongs(),
            "checks": findings.json(),
        }))?;
    } else {
        print::out(&findings.text())?;
    }
    match findings.wrongs() {
        0 => Ok(()),
        n => Err(Failure::Failed(format!("{n} of {} checks found something wrong", findings.0.len()))),
    }
}

/// The daemon behind a path.
fn mount(findings: &mut Findings, path: &Path) {
    match status::find(path).and_then(|(state, _)| status::status_of(&state)) {
        Ok(status) => {
            findings.ok("daemon", format!("{} answers, process {}", status.source, status.pid));
            if let (Some(error), Some(at)) = (&status.requests.last_error, &status.requests.last_error_at) {
                findings.note("last error", format!("{at}: {error}"), "");
            }
            if let Some(trouble) = status.disk.as_ref().and_then(|d| d.trouble.as_ref()) {
                findings.note("cache", format!("not used for now: {trouble}"), "look at the disk of `cache_dir`");
            }
            for file in status.files.dirty.iter().filter(|d| d.error.is_some()) {
                let why = file.error.clone().unwrap_or_default();
                findings.wrong("not stored", format!("{}: {why}", file.key), "change what it says, then: xosfs flush");
            }
            for file in status.pending.iter().filter(|p| p.is_parked()) {
                findings.wrong("not stored", file.text(), "change what it says, then: xosfs journal retry");
            }
        }
        Err(e) => findings.wrong("daemon", e.message(), ""),
    }
}

/// What a mount needs of this machine.
fn machine(findings: &mut Findings, options: &Options) {
    match File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => findings.ok("fuse", "/dev/fuse can be opened"),
        Err(e) => {
            findings.wrong("fuse", format!("/dev/fuse: {e}"), "modprobe fuse; in a container: --device /dev/fuse")
        }
    }
    if !nix::unistd::geteuid().is_root() {
        let path = env("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).map(|d| d.join("fusermount3")).find(|p| p.is_file());
        match found {
            Some(at) => findings.ok("fusermount3", at.display().to_string()),
            None => {
                findings.wrong("fusermount3", "not found, and only root can do without", "install the package fuse3")
            }
        }
    }
    let staging = options.staging(&env);
    match connect::check_staging(&staging) {
        Ok(()) => findings.ok("staging", format!("{} can be written", staging.display())),
        Err(e) => findings.failed("staging", Verdict::Wrong, &e),
    }
    if let Some(dir) = &options.disk.dir {
        match connect::check_cache(dir) {
            Ok(()) => findings.ok("cache", format!("{} can be written, and by nobody else", dir.display())),
            // The mount refuses a directory that others can get at, and does without one that does not work.
            Err(e) if e.kind() == Kind::Unavailable => findings.failed("cache", Verdict::Note, &e),
            Err(e) => findings.failed("cache", Verdict::Wrong, &e),
        }
    }
}

/// The store: reachable, allowed, on time, and what it is like.
async fn examine(findings: &mut Findings, store: &Store, prefix: &Prefix, write: bool) {
    let Store { s3, options, provider } = store;
    let source = s3.credentials_source();
    match options.anonymous {
        true => findings.note("keys", "none: requests are not signed", ""),
        false => findings.ok("keys", format!("from {source}")),
    }
    let chosen = match options.provider {
        ProviderChoice::Auto if provider.name == "generic" => "its host is none of the known ones",
        ProviderChoice::Auto => "known by its host",
        _ => "as given",
    };
    findings.ok("provider", format!("{} ({}): {chosen}", provider.title, provider.name));
    if s3.endpoint().starts_with("http://") && !is_local(s3.endpoint()) {
        let fix = "use https:// unless the network is yours alone";
        findings.note("endpoint", format!("{}: content is sent in the clear", s3.endpoint()), fix);
    } else {
        findings.ok("endpoint", s3.endpoint());
    }
    let Some(sample) = reach(findings, store, prefix).await else { return };
    let place = if s3.in_host() { "in the host name" } else { "in the path" };
    findings.ok("addressing", format!("the bucket stands {place}"));
    region(findings, store);
    bucket(findings, s3).await;
    read(findings, s3, sample.as_ref()).await;
    uploads(findings, s3, prefix).await;
    if write && options.read_only {
        findings.note("write", "not tried: the option `ro` is given", "");
    } else if write {
        probe::writes(findings, store, prefix).await;
    }
    let lacks = s3.lacks();
    if !lacks.is_empty() {
        findings.note("lacks", lacks.join(", "), "nothing: it is allowed for");
    }
}

fn is_local(endpoint: &str) -> bool {
    let host = endpoint.trim_start_matches("http://").split(['/', ':']).next().unwrap_or("");
    let loopback = host.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback());
    loopback || host == "localhost" || endpoint.starts_with("http://[::1]")
}

/// One LIST. `None`: no use in asking for more. The key is one that may be read.
async fn reach(findings: &mut Findings, store: &Store, prefix: &Prefix) -> Option<Option<Key>> {
    let (s3, before) = (&store.s3, std::time::Instant::now());
    let query = ListQuery { prefix: prefix.as_str(), delimited: false, from: None, max_keys: Some(10) };
    match s3.list(&query).await {
        Ok(page) => {
            let took = before.elapsed().as_millis();
            let count = if page.objects.is_empty() { "nothing is stored there yet" } else { "there are objects" };
            findings.ok("list", format!("allowed, {took} ms; {count}"));
            let readable = |class: Option<&str>| class.and_then(|c| store.provider.class(c)).is_none_or(|c| !c.archive);
            let mut objects = page.objects.iter().filter(|o| o.size > 0 && readable(o.storage_class.as_deref()));
            Some(objects.find_map(|o| Key::new(&o.key).ok()))
        }
        Err(e) if e.kind() == Kind::Denied && matches!(e.code(), "AccessDenied" | "AccessForbidden" | "") => {
            let e = connect::explain(e, &store.options, s3.bucket());
            findings.failed("list", Verdict::Wrong, &e);
            Some(None)
        }
        Err(e) => {
            let e = connect::explain(e, &store.options, s3.bucket());
            findings.failed("list", Verdict::Wrong, &e);
            None
        }
    }
}

fn region(findings: &mut Findings, store: &Store) {
    let (used, given) = (store.s3.region(), store.options.region.clone());
    match given {
        Some(given) if given != used => {
            let fix = format!("set region={used}: each mount asks in the wrong one first");
            findings.note("region", format!("the store says {used}, `region` is {given}"), &fix);
        }
        _ => findings.ok("region", used),
    }
}

/// What a HEAD of the bucket tells, the clock first.
async fn bucket(findings: &mut Findings, s3: &S3) {
    match s3.stat_bucket().await {
        Ok(stat) => {
            if let Some(date) = stat.date {
                let now = SystemTime::now();
                let skew = now.duration_since(date).unwrap_or_else(|e| e.duration());
                let text = format!("{} s apart from the store's", skew.as_secs());
                match skew > SKEW {
                    true => findings.wrong("clock", text, "set the clock of this machine (timedatectl set-ntp true)"),
                    false => findings.ok("clock", text),
                }
            }
            if stat.parallel_file_system {
                let text = "a parallel file system of OBS: no versions, classes and tags";
                findings.note("bucket", text, "nothing: it is allowed for");
            }
        }
        Err(e) => findings.failed("bucket", Verdict::Note, &e),
    }
    match s3.versioning().await {
        Ok(Versioning::Off) => findings.ok("versions", "off"),
        Ok(on) => findings.note("versions", on.name(), "old versions cost until a lifecycle rule removes them"),
        Err(e) => findings.failed("versions", Verdict::Note, &e),
    }
}

async fn read(findings: &mut Findings, s3: &S3, sample: Option<&Key>) {
    let Some(key) = sample else { return };
    let got = async { s3.get(key, Some(0..1), None, None).await?.body.collect().await };
    match got.await {
        Ok(bytes) if bytes.len() == 1 => findings.ok("read", format!("one byte of {key}")),
        Ok(bytes) => {
            findings.wrong("read", format!("asked for 1 byte of {key}, got {}", bytes.len()), "no range, no mount")
        }
        Err(e) => findings.failed("read", Verdict::Wrong, &e),
    }
    match s3.tags(key, None).await {
        Ok(_) => findings.ok("tags", "can be read"),
        Err(e) => findings.failed("tags", Verdict::Note, &e),
    }
    match s3.object_acl(key, None).await {
        Ok(_) => findings.ok("acl", "can be read"),
        Err(e) => findings.failed("acl", Verdict::Note, &e),
    }
}

/// What others left behind.
async fn uploads(findings: &mut Findings, s3: &S3, prefix: &Prefix) {
    match s3.list_uploads(prefix.as_str()).await {
        Ok(all) => {
            let old = |at: SystemTime| SystemTime::now().duration_since(at).is_ok_and(|age| age > OLD_UPLOAD);
            match all.iter().filter(|u| u.initiated.is_some_and(old)).count() {
                0 => findings.ok("uploads", format!("{} under way", all.len())),
                n => {
                    let text = format!("{n} were begun over a week ago and cost storage");
                    let fix = format!("xosfs uploads abort s3://{}/{prefix} --older-than 7d", s3.bucket());
                    findings.note("uploads", text, &fix);
                }
            }
        }
        Err(e) => findings.failed("uploads", Verdict::Note, &e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_buckets_prefixes_and_mounts() {
        let is = |text: &str| target(text).map(|u| (u.bucket, u.key)).unwrap();
        assert_eq!(is("b"), ("b".into(), String::new()));
        assert_eq!(is("b:/p/q"), ("b".into(), "p/q/".into()));
        assert_eq!(is("s3://b/p"), ("b".into(), "p".into()));
        assert!(matches!(target("/proc"), Err(Failure::Usage(_))));
        assert!(is_local("http://127.0.0.1:9000") && !is_local("http://127.0.0.1.example.com:1/"));
    }

    #[test]
    fn findings_have_their_fix_and_keys_cannot_move_the_cursor() {
        let mut findings = Findings::default();
        findings.ok("list", "a\u{1b}[2J");
        findings.wrong("clock", "off", "set it");
        assert_eq!(findings.wrongs(), 1);
        let text = findings.text();
        assert!(text.contains("wrong  clock         off\n                     → set it\n"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}

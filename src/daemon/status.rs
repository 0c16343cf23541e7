//! The figures of one mount: one structure that `xosfs status`, SIGUSR1, JSON and the metrics are made from.
//!
//! 1. What is shown to people and what is counted by machines must not drift apart: there is one collection
//!    ([`collect`]) and several ways to write it down.
//! 2. A reply may come from a daemon of another version: unknown fields are ignored, missing ones are zero.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Request;
use super::served::named;
use super::volume::Engines;
use crate::cache::disk::DiskStats;
use crate::fs::Fs;

/// What a mount is and does. Sizes in bytes, counts since the start of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub dir: PathBuf,
    /// As in `/proc/mounts`: BUCKET or BUCKET:/PREFIX.
    pub source: String,
    /// "" where every bucket is mounted.
    pub bucket: String,
    /// Where every bucket is mounted: those that somebody has been in.
    pub buckets: Vec<String>,
    pub endpoint: String,
    pub region: String,
    /// Row of the provider table.
    pub provider: String,
    pub read_only: bool,
    /// RFC 3339.
    pub mounted: String,
    pub up_seconds: u64,
    /// Storing what is left, about to end.
    pub stopping: bool,
    /// Where the metrics are served.
    pub metrics: Option<String>,
    pub requests: Requests,
    pub cache: Cache,
    /// Of a mount with `cache_dir`.
    pub disk: Option<DiskStats>,
    pub memory: Memory,
    pub files: Files,
    /// What `writeback` still has to store, and what it could not.
    pub pending: Vec<PendingFile>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Requests {
    /// By operation; each attempt counts.
    pub by_operation: BTreeMap<String, u64>,
    pub total: u64,
    /// Operations that failed after all retries; answers like "no such object" are none.
    pub errors: u64,
    pub retries: u64,
    pub throttles: u64,
    pub bytes_down: u64,
    pub bytes_up: u64,
    pub last_error: Option<String>,
    /// RFC 3339.
    pub last_error_at: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cache {
    pub bytes: u64,
    pub blocks: u64,
    pub hits: u64,
    /// Blocks that somebody else was fetching already.
    pub waits: u64,
    pub misses: u64,
    pub evicted: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    pub used: u64,
    /// The option `memory`.
    pub bound: u64,
    /// Of `used`: written and not stored.
    pub written: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Files {
    /// Open files and directories.
    pub open: u64,
    pub inodes: u64,
    pub remembered: u64,
    pub listed: u64,
    pub hidden: u64,
    pub unlinked_open: u64,
    pub attributes_pending: u64,
    pub dirty: Vec<DirtyFile>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DirtyFile {
    pub key: String,
    pub size: u64,
    pub error: Option<String>,
}

/// One acknowledged file that is not in the bucket yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PendingFile {
    pub id: u64,
    pub key: String,
    pub size: u64,
    pub age_seconds: u64,
    pub attempts: u64,
    /// `queued`, `uploading` or `parked`: given up until it is retried.
    pub state: String,
    pub reason: Option<String>,
}

/// What does not change while mounted.
#[derive(Clone, Debug)]
pub struct Origin {
    pub request: Request,
    pub started: Instant,
    pub mounted: SystemTime,
}

fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    Timestamp::from_second(i64::try_from(seconds).unwrap_or(i64::MAX)).map_or_else(|_| "?".into(), |t| t.to_string())
}

/// The figures of a mount now. Sends nothing and waits for nothing. `trees`: the bucket of each, "" when it is the only
/// one.
pub fn collect(origin: &Origin, engines: &Engines, trees: &[(Arc<str>, Arc<Fs>)]) -> Status {
    let Engines { s3, reads, writes, provider } = engines;
    let (requests, cache) = (s3.stats(), reads.cache().stats());
    let budget = reads.cache().budget();
    let mut files = Files::default();
    let mut pending = Vec::new();
    for (bucket, fs) in trees {
        let held = fs.figures();
        files.open += held.handles as u64;
        files.inodes += held.inodes as u64;
        files.remembered += held.remembered as u64;
        files.listed += held.listed as u64;
        files.hidden += held.hidden;
        files.unlinked_open += held.unlinked as u64;
        files.attributes_pending += held.attributes as u64;
        let dirty = held.dirty.into_iter();
        files.dirty.extend(dirty.map(|d| DirtyFile { key: named(bucket, d.key), size: d.size, error: d.failed }));
        let of_tree = fs.pending().into_iter().map(PendingFile::from);
        pending.extend(of_tree.map(|p| PendingFile { key: named(bucket, p.key), ..p }));
    }
    let (last_error_at, last_error) = requests.last_failure.map(|(at, text)| (rfc3339(at), text)).unzip();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        dir: origin.request.dir.clone(),
        source: origin.request.source.to_string(),
        bucket: s3.bucket().to_owned(),
        buckets: trees.iter().map(|(bucket, _)| bucket.to_string()).filter(|b| !b.is_empty()).collect(),
        endpoint: s3.endpoint().to_owned(),
        region: s3.region(),
        provider: provider.name.to_owned(),
        read_only: origin.request.options.read_only,
        mounted: rfc3339(origin.mounted),
        up_seconds: origin.started.elapsed().as_secs(),
        stopping: trees.iter().any(|(_, fs)| fs.is_stopping()),
        metrics: None,
        requests: Requests {
            total: requests.by_operation.values().sum(),
            by_operation: requests.by_operation.iter().map(|(op, n)| ((*op).to_owned(), *n)).collect(),
            errors: requests.failures,
            retries: requests.retries,
            throttles: requests.throttles,
            bytes_down: requests.bytes_in,
            bytes_up: requests.bytes_out,
            last_error,
            last_error_at,
        },
        cache: Cache {
            bytes: cache.bytes as u64,
            blocks: cache.blocks as u64,
            hits: cache.hits,
            waits: cache.waits,
            misses: cache.misses,
            evicted: cache.evicted,
        },
        disk: reads.disk().map(|disk| disk.stats()),
        memory: Memory { used: budget.used() as u64, bound: budget.limit() as u64, written: writes.memory() as u64 },
        files,
        pending,
    }
}

/// "3 d 4 h", "5 min 6 s", …: the two largest units.
pub fn show_age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Bytes with one decimal, as people read them.
pub fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut scaled, mut unit) = (bytes as f64 / 1024.0, 0);
    while scaled >= 1023.95 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

/// Lines of a list that a person gets to see; the rest is counted.
const SHOWN: usize = 20;

impl Status {
    /// What keeps pending and parked files from the bucket, as advice.
    fn fix(&self, file: &PendingFile) -> String {
        format!("then: xosfs journal retry {} {}", self.dir.display(), file.id)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, text: String| {
            let _ = writeln!(out, "  {name:<10} {text}");
        };
        let (r, c, m, f) = (&self.requests, &self.cache, &self.memory, &self.files);
        let mode = if self.read_only { ", read-only" } else { "" };
        line("store", format!("{} ({}), region {}{mode}", self.endpoint, self.provider, self.region));
        if !self.buckets.is_empty() {
            let more = self.buckets.len().saturating_sub(SHOWN);
            let more = if more > 0 { format!(", … and {more} more (--json has all)") } else { String::new() };
            let shown = self.buckets.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
            line("buckets", format!("{} in use: {shown}{more}", self.buckets.len()));
        }
        let stopping = if self.stopping { ", storing what is left" } else { "" };
        let up = show_age(Duration::from_secs(self.up_seconds));
        line("up", format!("{up}, since {}, pid {}, xosfs {}{stopping}", self.mounted, self.pid, self.version));
        let kinds: Vec<_> = r.by_operation.iter().map(|(op, n)| format!("{op} {n}")).collect();
        let kinds = if kinds.is_empty() { String::new() } else { format!(": {}", kinds.join(", ")) };
        line("requests", format!("{}{kinds}", r.total));
        line("", format!("{} errors, {} retries, {} throttled", r.errors, r.retries, r.throttles));
        if let (Some(text), Some(at)) = (&r.last_error, &r.last_error_at) {
            line("last error", format!("{at} {text}"));
        }
        line("transfer", format!("{} down, {} up", show_bytes(r.bytes_down), show_bytes(r.bytes_up)));
        let looks = c.hits + c.waits + c.misses;
        let share = (c.hits + c.waits) * 100 / looks.max(1);
        line("cache", format!("{}, {share} % hits of {looks} looks, {} evicted", show_bytes(c.bytes), c.evicted));
        if let Some(d) = &self.disk {
            let (bytes, limit, looks) = (show_bytes(d.bytes), show_bytes(d.limit), d.hits + d.misses);
            let share = d.hits * 100 / looks.max(1);
            line("disk cache", format!("{bytes} of {limit} in {}", d.dir.display()));
            line("", format!("{share} % hits of {looks} looks, {} evicted, {} not kept", d.evicted, d.dropped));
            if d.through > 0 {
                line("", format!("{} opened files read by the kernel itself", d.through));
            }
            if d.damaged > 0 {
                line("", format!("{} blocks were damaged and fetched again", d.damaged));
            }
            if let Some(trouble) = &d.trouble {
                line("", format!("not used for now: {trouble}"));
            }
        }
        let (used, bound, written) = (show_bytes(m.used), show_bytes(m.bound), show_bytes(m.written));
        line("memory", format!("{used} of {bound}, {written} of it written and not stored"));
        line("files", format!("{} open, {} inodes, {} entries of listings", f.open, f.inodes, f.listed));
        if f.hidden > 0 {
            line("hidden", format!("{} keys that cannot be shown as file names", f.hidden));
        }
        if f.attributes_pending > 0 {
            line("attributes", format!("of {} files wait to be stored", f.attributes_pending));
        }
        if let Some(at) = &self.metrics {
            line("metrics", at.clone());
        }
        if !f.dirty.is_empty() {
            line("not stored", format!("{} files", f.dirty.len()));
            for d in f.dirty.iter().take(SHOWN) {
                let why = d.error.as_ref().map(|e| format!(": {e}")).unwrap_or_default();
                line("", format!("{} ({}){why}", d.key, show_bytes(d.size)));
            }
            if f.dirty.len() > SHOWN {
                line("", format!("… and {} more (--json has all)", f.dirty.len() - SHOWN));
            }
        }
        if !self.pending.is_empty() {
            let bytes = self.pending.iter().map(|p| p.size).sum();
            line("pending", format!("{} files, {}", self.pending.len(), show_bytes(bytes)));
            for p in self.pending.iter().take(SHOWN) {
                line("", p.text());
                if p.is_parked() {
                    line("", format!("    {}", self.fix(p)));
                }
            }
            if self.pending.len() > SHOWN {
                line("", format!("… and {} more (--json has all)", self.pending.len() - SHOWN));
            }
        }
        out
    }
}

impl PendingFile {
    /// Given up until somebody retries it.
    pub fn is_parked(&self) -> bool {
        self.state == "parked"
    }

    /// One line for people.
    pub fn text(&self) -> String {
        let age = show_age(Duration::from_secs(self.age_seconds));
        let tried = if self.attempts > 0 { format!(", tried {} times", self.attempts) } else { String::new() };
        let why = self.reason.as_ref().map(|e| format!(": {e}")).unwrap_or_default();
        format!("#{} {} ({}), {} for {age}{tried}{why}", self.id, self.key, show_bytes(self.size), self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_are_for_people() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB"), (5 << 40, "5.0 TiB")]
        {
            assert_eq!(show_bytes(bytes), text);
        }
        assert_eq!(show_bytes((1 << 20) - 1), "1.0 MiB");
        for (seconds, text) in [(0, "0 s"), (61, "1 min 1 s"), (3720, "1 h 2 min"), (90_000, "1 d 1 h")] {
            assert_eq!(show_age(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn the_table_has_everything_and_the_reply_of_another_version_is_read() {
        let mut status = Status { endpoint: "http://h".into(), provider: "xos".into(), ..Status::default() };
        status.dir = "/mnt".into();
        status.requests.by_operation.insert("GetObject".into(), 3);
        status.files.dirty =
            (0..25).map(|i| DirtyFile { key: format!("k{i}"), size: 1, error: Some("quota".into()) }).collect();
        status.pending = vec![PendingFile {
            id: 7,
            key: "p".into(),
            state: "parked".into(),
            reason: Some("denied".into()),
            ..PendingFile::default()
        }];
        let text = status.text();
        for part in
            ["http://h (xos)", "GetObject 3", "25 files", "k19 (1 B): quota", "and 5 more", "#7 p", "retry /mnt 7"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("k20"), "{text}");
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
        let other: Status = serde_json::from_str(r#"{"pid":5,"news":[1]}"#).unwrap();
        assert_eq!(other.pid, 5);
    }
}

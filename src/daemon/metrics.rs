//! The figures of a mount as OpenMetrics, over HTTP on a loopback address or a unix socket.
//!
//! 1. It is asked every few seconds for years by something that nobody watches: every step of an exchange has a
//!    deadline, a request a size, and the number of connections a bound.
//! 2. Old scrapers know the text format of Prometheus, new ones OpenMetrics, which names a counter's family without its
//!    `_total`: the `Accept` header decides.

use std::fmt::Write;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::control::Console;
use super::status::Status;
use crate::config::options::MetricsAddress;
use crate::error::{Error, Kind, Result};

const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a request's head.
const HEAD_MAX: usize = 8 << 10;
const CONNECTIONS: usize = 8;

/// Metrics being served; over when dropped.
#[derive(Debug)]
pub struct Metrics {
    task: AbortHandle,
    /// For people: a URL, or the path of the socket.
    shown: String,
    socket: Option<PathBuf>,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Listener::Tcp(l) => Box::new(l.accept().await?.0),
            Listener::Unix(l) => Box::new(l.accept().await?.0),
        })
    }
}

impl Metrics {
    /// Listens at the address of the option `metrics`. Must be called inside the runtime.
    pub async fn start(address: &MetricsAddress, console: Arc<dyn Console>) -> Result<Metrics> {
        let failed = |e: io::Error| {
            Error::new(Kind::Invalid, format!("metrics at {address}: {e}"))
                .with_fix("give `metrics` another port or path, one for each mount")
        };
        let (listener, shown, socket) = match address {
            MetricsAddress::Tcp(at) => {
                let listener = TcpListener::bind(at).await.map_err(failed)?;
                let at = listener.local_addr().map_err(failed)?;
                (Listener::Tcp(listener), format!("http://{at}/metrics"), None)
            }
            MetricsAddress::Unix(path) => {
                // Left by a daemon that was killed. Anything else there is somebody's.
                if fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
                    && std::os::unix::net::UnixStream::connect(path).is_err()
                {
                    let _ = fs::remove_file(path);
                }
                let listener = UnixListener::bind(path).map_err(failed)?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(failed)?;
                (Listener::Unix(listener), path.display().to_string(), Some(path.clone()))
            }
        };
        let task = tokio::spawn(accept(listener, console)).abort_handle();
        Ok(Metrics { task, shown, socket })
    }

    /// Where they are, for people.
    pub fn shown(&self) -> &str {
        &self.shown
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(path) = &self.socket {
            let _ = fs::remove_file(path);
        }
    }
}

async fn accept(listener: Listener, console: Arc<dyn Console>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Never closed, so this only waits.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok(stream) => {
                let console = console.clone();
                tokio::spawn(async move {
                    if let Err(e) = exchange(stream, &*console).await {
                        tracing::debug!("metrics: {e}");
                    }
                    drop(place);
                });
            }
            Err(e) => {
                tracing::warn!("metrics: {e}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// One request, one answer.
async fn exchange(mut stream: Box<dyn Stream>, console: &dyn Console) -> io::Result<()> {
    let head = tokio::time::timeout(PATIENCE, read_head(&mut stream)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let reply = answer(&head, console);
    let send = async {
        stream.write_all(reply.as_bytes()).await?;
        stream.shutdown().await
    };
    tokio::time::timeout(PATIENCE, send).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Up to the empty line.
async fn read_head(stream: &mut Box<dyn Stream>) -> io::Result<String> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") && !head.windows(2).any(|w| w == b"\n\n") {
        let n = stream.read(&mut piece).await?;
        if n == 0 || head.len() + n > HEAD_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.extend_from_slice(&piece[..n]);
    }
    String::from_utf8(head).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn answer(head: &str, console: &dyn Console) -> String {
    let mut words = head.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let open = head.lines().any(|l| {
        let l = l.to_ascii_lowercase();
        l.starts_with("accept:") && l.contains("application/openmetrics-text")
    });
    let (status, kind, body) = match (method, path) {
        ("GET" | "HEAD", "/metrics" | "/") => {
            let kind = if open {
                "application/openmetrics-text; version=1.0.0; charset=utf-8"
            } else {
                "text/plain; version=0.0.4; charset=utf-8"
            };
            ("200 OK", kind, render(&console.status(), open))
        }
        ("GET" | "HEAD", _) => ("404 Not Found", "text/plain", "the figures are at /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "text/plain", "GET /metrics\n".to_owned()),
    };
    let length = body.len();
    let body = if method == "HEAD" { "" } else { &*body };
    format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

/// Writes families down in one of the two formats.
struct Page {
    text: String,
    open: bool,
}

fn quote(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn labels(of: &[(&str, &str)]) -> String {
    if of.is_empty() {
        return String::new();
    }
    let all: Vec<_> = of.iter().map(|(name, value)| format!("{name}=\"{}\"", quote(value))).collect();
    format!("{{{}}}", all.join(","))
}

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# TYPE {name} {kind}\n# HELP {name} {help}");
    }

    fn counters<'a>(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (String, &'a u64)>) {
        let family = if self.open { name.to_owned() } else { format!("{name}_total") };
        self.head(&family, "counter", help);
        for (labels, value) in samples {
            let _ = writeln!(self.text, "{name}_total{labels} {value}");
        }
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.counters(name, help, [(String::new(), &value)]);
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "gauge", help);
        let _ = writeln!(self.text, "{name} {value}");
    }
}

/// The page; `open`: as OpenMetrics, else as Prometheus' text format.
pub fn render(s: &Status, open: bool) -> String {
    let mut page = Page { text: String::new(), open };
    let (r, c, m, f) = (&s.requests, &s.cache, &s.memory, &s.files);
    let dir = s.dir.to_string_lossy();
    let (family, kind) = if open { ("xosfs", "info") } else { ("xosfs_info", "gauge") };
    page.head(family, kind, "What is mounted where, by which version.");
    let of = [("version", &*s.version), ("source", &*s.source), ("dir", &*dir), ("endpoint", &*s.endpoint)];
    let _ = writeln!(page.text, "xosfs_info{} 1", labels(&of));
    page.gauge("xosfs_up_seconds", "Time since the mount.", s.up_seconds);
    page.counters(
        "xosfs_requests",
        "Requests sent to the store, each attempt counted.",
        r.by_operation.iter().map(|(op, n)| (labels(&[("operation", op)]), n)),
    );
    page.counter("xosfs_errors", "Operations of the store that failed after all retries.", r.errors);
    page.counter("xosfs_retries", "Requests that were sent again.", r.retries);
    page.counter("xosfs_throttles", "Answers that asked for fewer requests.", r.throttles);
    page.counter("xosfs_received_bytes", "Body bytes received.", r.bytes_down);
    page.counter("xosfs_sent_bytes", "Body bytes sent.", r.bytes_up);
    page.gauge("xosfs_cache_bytes", "Bytes of cached blocks.", c.bytes);
    page.gauge("xosfs_cache_blocks", "Cached blocks.", c.blocks);
    page.counter("xosfs_cache_hits", "Blocks found in the cache.", c.hits);
    page.counter("xosfs_cache_waits", "Blocks that somebody else was fetching.", c.waits);
    page.counter("xosfs_cache_misses", "Blocks fetched.", c.misses);
    page.counter("xosfs_cache_evictions", "Blocks given up to make room.", c.evicted);
    if let Some(d) = &s.disk {
        page.gauge("xosfs_disk_cache_bytes", "Bytes of files in the directory of the disk cache.", d.bytes);
        page.gauge("xosfs_disk_cache_limit_bytes", "Bound on them (option cache_size).", d.limit);
        page.counter("xosfs_disk_cache_hits", "Blocks read from the disk cache.", d.hits);
        page.counter("xosfs_disk_cache_misses", "Blocks looked for there in vain.", d.misses);
        page.counter("xosfs_disk_cache_writes", "Blocks written to it.", d.written);
        page.counter("xosfs_disk_cache_dropped", "Blocks not kept, the disk being too slow or too full.", d.dropped);
        page.counter("xosfs_disk_cache_damaged", "Blocks that were not what had been written.", d.damaged);
        page.counter("xosfs_disk_cache_evictions", "Files removed to make room.", d.evicted);
        page.counter("xosfs_disk_cache_evicted_bytes", "Bytes of those files.", d.evicted_bytes);
        page.counter("xosfs_disk_cache_through", "Opened files that the kernel read there by itself.", d.through);
        page.gauge("xosfs_disk_cache_usable", "1, or 0 while its disk fails.", u64::from(d.trouble.is_none()));
    }
    page.gauge("xosfs_memory_used_bytes", "Memory of cached blocks, read-ahead and written bytes.", m.used);
    page.gauge("xosfs_memory_limit_bytes", "Bound on that memory (option memory).", m.bound);
    page.gauge("xosfs_written_bytes", "Memory of bytes written and not stored.", m.written);
    page.gauge("xosfs_open_handles", "Open files and directories.", f.open);
    page.gauge("xosfs_inodes", "Inodes known.", f.inodes);
    page.gauge("xosfs_listed_entries", "Entries of remembered listings.", f.listed);
    page.counter("xosfs_hidden_keys", "Keys left out because they cannot be shown.", f.hidden);
    page.gauge("xosfs_dirty_files", "Files with bytes that are not stored.", f.dirty.len() as u64);
    page.gauge("xosfs_dirty_bytes", "Size of those files.", f.dirty.iter().map(|d| d.size).sum());
    page.gauge("xosfs_attributes_pending", "Files whose attributes wait to be stored.", f.attributes_pending);
    page.head("xosfs_pending_files", "gauge", "Acknowledged files that are not in the bucket yet.");
    for state in ["queued", "uploading", "parked"] {
        let count = s.pending.iter().filter(|p| p.state == state).count();
        let _ = writeln!(page.text, "xosfs_pending_files{} {count}", labels(&[("state", state)]));
    }
    page.gauge("xosfs_pending_bytes", "Size of those files.", s.pending.iter().map(|p| p.size).sum());
    let oldest = s.pending.iter().map(|p| p.age_seconds).max().unwrap_or(0);
    page.gauge("xosfs_pending_oldest_seconds", "Age of the oldest of them.", oldest);
    if open {
        page.text.push_str("# EOF\n");
    }
    page.text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use futures_util::future::BoxFuture;

    use super::super::volume::Unstored;
    use super::*;

    struct Fixed(Status);

    impl Console for Fixed {
        fn status(&self) -> Status {
            self.0.clone()
        }
        fn flush(&self, _: Duration) -> BoxFuture<'static, Unstored> {
            Box::pin(std::future::ready(Vec::new()))
        }
        fn refresh(&self, _: String) -> BoxFuture<'static, Result<u64>> {
            Box::pin(std::future::ready(Ok(0)))
        }
    }

    fn status() -> Status {
        let disk = Some(crate::cache::disk::DiskStats::default());
        let mut status = Status { source: "b:/p\"q\\".into(), disk, ..Status::default() };
        status.requests.by_operation.insert("GetObject".into(), 3);
        status.requests.by_operation.insert("PutObject".into(), 1);
        status
    }

    /// Every sample has its family with TYPE and HELP before it, no family comes twice, and the end is marked.
    #[test]
    fn both_formats_are_well_formed() {
        for open in [true, false] {
            let text = render(&status(), open);
            let mut families = HashSet::new();
            let mut family = String::new();
            for line in text.lines() {
                if let Some(rest) = line.strip_prefix("# TYPE ") {
                    family = rest.split(' ').next().unwrap().to_owned();
                    assert!(families.insert(family.clone()), "{family} twice");
                } else if let Some(rest) = line.strip_prefix("# HELP ") {
                    assert!(rest.starts_with(&family), "{line}");
                } else if line != "# EOF" {
                    let name = line.split(['{', ' ']).next().unwrap();
                    let suffixes = if open { ["", "_total", "_info"].as_slice() } else { &[""] };
                    assert!(suffixes.iter().any(|s| name == format!("{family}{s}")), "{line} in {family}");
                    assert!(line.rsplit(' ').next().unwrap().parse::<u64>().is_ok(), "{line}");
                }
            }
            assert!(text.contains("xosfs_requests_total{operation=\"GetObject\"} 3\n"), "{text}");
            assert!(text.contains(r#"source="b:/p\"q\\""#), "{text}");
            assert_eq!(text.ends_with("# EOF\n"), open);
        }
    }

    async fn get(metrics: &Metrics, request: &str) -> String {
        let at = metrics.shown().trim_start_matches("http://").trim_end_matches("/metrics").to_owned();
        let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        tokio::time::timeout(Duration::from_secs(30), stream.read_to_string(&mut reply)).await.unwrap().unwrap();
        reply
    }

    // R95
    #[tokio::test(flavor = "multi_thread")]
    async fn a_scraper_gets_the_format_it_asks_for() {
        let any = MetricsAddress::Tcp("127.0.0.1:0".parse().unwrap());
        let metrics = Metrics::start(&any, Arc::new(Fixed(status()))).await.unwrap();
        let plain = get(&metrics, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(plain.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"), "{plain}");
        let open = "GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text; version=1.0.0\r\n\r\n";
        let open = get(&metrics, open).await;
        assert!(open.contains("Content-Type: application/openmetrics-text") && open.ends_with("# EOF\n"), "{open}");
        let head = get(&metrics, "HEAD /metrics HTTP/1.1\r\n\r\n").await;
        assert!(head.ends_with("\r\n\r\n") && !head.contains("Content-Length: 0"), "{head}");
        assert!(get(&metrics, "GET /x HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404"));
        assert!(get(&metrics, "POST /metrics HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405"));
        let taken = MetricsAddress::Tcp(metrics.shown()[7..].trim_end_matches("/metrics").parse().unwrap());
        let error = Metrics::start(&taken, Arc::new(Fixed(status()))).await.unwrap_err().to_string();
        assert!(error.contains("`metrics`"), "{error}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_unix_socket_is_replaced_when_dead_and_gone_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let address = MetricsAddress::Unix(path.clone());
        let metrics = Metrics::start(&address, Arc::new(Fixed(status()))).await.unwrap();
        let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        assert!(reply.contains("xosfs_info"), "{reply}");
        assert!(Metrics::start(&address, Arc::new(Fixed(status()))).await.is_err(), "it is in use");
        drop(metrics);
        assert!(!path.exists());
        std::fs::write(&path, "somebody's file").unwrap();
        assert!(Metrics::start(&address, Arc::new(Fixed(status()))).await.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"somebody's file");
    }
}

//! The control socket: how `xosfs status`, `flush`, `refresh` and `journal` talk to the daemon of a mount.
//!
//! One request in JSON a line, one reply in JSON a line, over a unix socket next to the record of the mount (see
//! [`super::state`]), which only the user of the daemon can open.
//!
//! 1. A daemon that was killed leaves its socket: the next one puts its own in its place by rename, so that there is no
//!    moment without one, and removes at its end only what is still its own.
//! 2. It must answer while the store does not: a reply has a deadline of its own, figures ask nobody, and the number of
//!    connections is bounded.
//! 3. Whoever asks waits no longer than he said, also for a daemon that hangs.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as Stream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::state::State;
use super::status::Status;
use super::volume::Unstored;
use crate::error::{Error, Kind, Result};

/// Bytes of one request; ids and a path.
const REQUEST_MAX: u64 = 1 << 20;
/// For a request to arrive, and for a reply to be taken.
const PATIENCE: Duration = Duration::from_secs(10);
/// For a reply to be made, besides the time that the request itself allows.
const GRACE: Duration = Duration::from_secs(20);
/// A longer wait than anybody has.
const LIMIT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
const CONNECTIONS: usize = 16;

/// What the daemon can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Ask {
    Status,
    /// Store everything that is not stored, for at most so long.
    Flush {
        seconds: u64,
    },
    /// Forget what is known below a path, which is relative to the mount.
    Refresh {
        path: String,
    },
    /// Try these again; none: all.
    Retry {
        ids: Vec<u64>,
    },
    /// Write the bytes of a file that is not stored to a new file.
    Export {
        id: u64,
        path: PathBuf,
    },
    /// Give these up for good.
    Discard {
        ids: Vec<u64>,
    },
}

/// What it says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    Status {
        status: Box<Status>,
    },
    /// Keys that could not be stored, and why.
    Flushed {
        unstored: Vec<(String, String)>,
    },
    /// How many things were forgotten, retried, exported or discarded.
    Done {
        count: u64,
    },
    Failed {
        error: String,
    },
}

/// What the control socket, SIGUSR1 and the metrics drive.
pub trait Console: Send + Sync {
    /// The figures now, without asking anybody.
    fn status(&self) -> Status;
    /// Where the metrics are served, to be shown by `status`.
    fn set_metrics(&self, shown: &str) {
        let _ = shown;
    }
    /// Stores what is not stored and goes on; what is left after `limit`.
    fn flush(&self, limit: Duration) -> BoxFuture<'static, Unstored>;
    /// Forgets what is known at and below a path relative to the mount; how many inodes.
    fn refresh(&self, path: String) -> BoxFuture<'static, Result<u64>>;
    /// Tries pending files again (none: all); how many.
    fn retry(&self, ids: Vec<u64>) -> BoxFuture<'static, Result<u64>> {
        nothing_pending(ids.first().copied())
    }
    /// Writes the bytes of a pending file to a new file.
    fn export(&self, id: u64, path: PathBuf) -> BoxFuture<'static, Result<()>> {
        let _ = path;
        Box::pin(async move { nothing_pending(Some(id)).await.map(drop) })
    }
    /// Gives pending files up for good; how many.
    fn discard(&self, ids: Vec<u64>) -> BoxFuture<'static, Result<u64>> {
        nothing_pending(ids.first().copied())
    }
}

/// The answer of a mount that keeps no journal.
fn nothing_pending(id: Option<u64>) -> BoxFuture<'static, Result<u64>> {
    Box::pin(std::future::ready(match id {
        None => Ok(0),
        Some(id) => Err(Error::new(Kind::NotFound, format!("no pending file has the number {id}"))),
    }))
}

impl Ask {
    /// How long the daemon may take.
    fn limit(&self) -> Duration {
        match self {
            Ask::Flush { seconds } => Duration::from_secs(*seconds).min(LIMIT_MAX) + GRACE,
            // Copies of gigabytes on the local disk.
            Ask::Export { .. } => Duration::from_secs(3600),
            _ => GRACE,
        }
    }
}

async fn answer(ask: Ask, console: &dyn Console) -> Reply {
    let failed = |e: Error| Reply::Failed { error: e.to_string() };
    let done = |result: Result<u64>| result.map_or_else(failed, |count| Reply::Done { count });
    match ask {
        Ask::Status => Reply::Status { status: Box::new(console.status()) },
        Ask::Flush { seconds } => {
            let unstored = console.flush(Duration::from_secs(seconds).min(LIMIT_MAX)).await;
            Reply::Flushed { unstored: unstored.into_iter().map(|(key, e)| (key, e.to_string())).collect() }
        }
        Ask::Refresh { path } => done(console.refresh(path).await),
        Ask::Retry { ids } => done(console.retry(ids).await),
        Ask::Export { id, path } => done(console.export(id, path).await.map(|()| 1)),
        Ask::Discard { ids } => done(console.discard(ids).await),
    }
}

/// A control socket that is being served; gone when dropped.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    ino: u64,
    task: AbortHandle,
}

impl Control {
    /// Serves the socket of a mount's record. Must be called inside the runtime.
    pub fn start(state: &State, console: Arc<dyn Console>) -> io::Result<Control> {
        Control::serve(state.socket(), console)
    }

    fn serve(path: PathBuf, console: Arc<dyn Console>) -> io::Result<Control> {
        let fresh = path.with_extension(format!("{}.new", std::process::id()));
        // What another process with this number left.
        let _ = fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh)?;
        let ready = fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))
            .and_then(|()| fs::metadata(&fresh))
            .and_then(|meta| fs::rename(&fresh, &path).map(|()| meta.ino()));
        let ino = ready.inspect_err(|_| drop(fs::remove_file(&fresh)))?;
        let task = tokio::spawn(accept(listener, console)).abort_handle();
        Ok(Control { path, ino, task })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        if fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.ino) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

async fn accept(listener: UnixListener, console: Arc<dyn Console>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Never closed, so this only waits.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let console = console.clone();
                tokio::spawn(async move {
                    if let Err(e) = talk(stream, &*console).await {
                        tracing::debug!("control socket: {e}");
                    }
                    drop(place);
                });
            }
            Err(e) => {
                // Out of descriptors: passes.
                tracing::warn!("control socket: {e}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Requests of one connection, until it is closed or silent.
async fn talk(stream: UnixStream, console: &dyn Console) -> io::Result<()> {
    let (input, mut output) = stream.into_split();
    let mut input = tokio::io::BufReader::new(input);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut input).take(REQUEST_MAX);
        let read = tokio::time::timeout(PATIENCE, limited.read_until(b'\n', &mut line));
        if read.await.map_err(|_| io::ErrorKind::TimedOut)?? == 0 {
            return Ok(());
        }
        let reply = match serde_json::from_slice::<Ask>(&line) {
            Ok(ask) => {
                let limit = ask.limit();
                match tokio::time::timeout(limit, answer(ask, console)).await {
                    Ok(reply) => reply,
                    Err(_) => Reply::Failed { error: format!("not done within {} s", limit.as_secs()) },
                }
            }
            Err(e) => Reply::Failed { error: format!("not understood by xosfs {}: {e}", env!("CARGO_PKG_VERSION")) },
        };
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        tokio::time::timeout(PATIENCE, output.write_all(&text)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    }
}

/// Asks the daemon behind a record, and waits as long as the request allows.
///
/// Errors: [`Kind::Unavailable`] when nobody listens, [`Kind::Timeout`], and what the daemon says went wrong.
pub fn ask(state: &State, ask: &Ask) -> Result<Reply> {
    ask_at(&state.socket(), ask, ask.limit() + GRACE)
}

fn ask_at(path: &Path, ask: &Ask, patience: Duration) -> Result<Reply> {
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            Error::new(Kind::Timeout, format!("no answer from the daemon within {} s", patience.as_secs()))
                .with_fix("see its log; `xosfs umount --force` ends it")
        }
        _ => Error::new(Kind::Unavailable, format!("control socket {}: {e}", path.display()))
            .with_fix("only the user who mounted, and a daemon that has /run to itself, can be asked"),
    };
    let exchange = || -> io::Result<Vec<u8>> {
        let mut stream = Stream::connect(path)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut text = serde_json::to_vec(ask)?;
        text.push(b'\n');
        stream.write_all(&text)?;
        let mut line = Vec::new();
        BufReader::new(stream).read_until(b'\n', &mut line)?;
        Ok(line)
    };
    let line = exchange().map_err(failed)?;
    if line.is_empty() {
        return Err(Error::new(Kind::Unavailable, "the daemon ended without an answer"));
    }
    match serde_json::from_slice(&line) {
        Ok(Reply::Failed { error }) => Err(Error::new(Kind::Invalid, error)),
        Ok(reply) => Ok(reply),
        Err(e) => {
            Err(Error::new(Kind::Io, format!("answer of the daemon: {e}")).with_fix("mount again with this version"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Console for Fixed {
        fn status(&self) -> Status {
            Status { pid: 42, ..Status::default() }
        }
        fn flush(&self, _: Duration) -> BoxFuture<'static, Unstored> {
            Box::pin(async { vec![("k".to_owned(), Error::new(Kind::Quota, "put object"))] })
        }
        fn refresh(&self, path: String) -> BoxFuture<'static, Result<u64>> {
            Box::pin(async move { if path == "bad" { Err(Kind::BadName.into()) } else { Ok(path.len() as u64) } })
        }
        fn retry(&self, _: Vec<u64>) -> BoxFuture<'static, Result<u64>> {
            Box::pin(std::future::pending())
        }
        fn export(&self, _: u64, _: PathBuf) -> BoxFuture<'static, Result<()>> {
            Box::pin(async { Ok(()) })
        }
        fn discard(&self, ids: Vec<u64>) -> BoxFuture<'static, Result<u64>> {
            Box::pin(async move { Ok(ids.len() as u64) })
        }
    }

    async fn ask_now(path: &Path, ask: Ask) -> Result<Reply> {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || ask_at(&path, &ask, Duration::from_secs(30))).await.unwrap()
    }

    // R93
    #[tokio::test(flavor = "multi_thread")]
    async fn every_request_has_its_reply_and_a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.sock");
        // A daemon that was killed.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert_eq!(ask_now(&path, Ask::Status).await.unwrap_err().kind(), Kind::Unavailable);
        let control = Control::serve(path.clone(), Arc::new(Fixed)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let Reply::Status { status } = ask_now(&path, Ask::Status).await.unwrap() else { panic!() };
        assert_eq!(status.pid, 42);
        let Reply::Flushed { unstored } = ask_now(&path, Ask::Flush { seconds: 1 }).await.unwrap() else { panic!() };
        assert!(unstored[0].0 == "k" && unstored[0].1.contains("put object"), "{unstored:?}");
        let done = |reply| matches!(reply, Ok(Reply::Done { count: 3 }));
        assert!(done(ask_now(&path, Ask::Refresh { path: "a/b".into() }).await));
        assert!(done(ask_now(&path, Ask::Discard { ids: vec![1, 2, 3] }).await));
        let refused = ask_now(&path, Ask::Refresh { path: "bad".into() }).await;
        assert_eq!(refused.unwrap_err().kind(), Kind::Invalid);
        drop(control);
        assert!(!path.exists());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nonsense_is_answered_and_the_next_request_on_the_connection_works() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.sock");
        let _control = Control::serve(path.clone(), Arc::new(Fixed)).unwrap();
        let lines = tokio::task::spawn_blocking(move || {
            let mut stream = Stream::connect(path).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            stream.write_all(b"{\"request\":\"dance\"}\n\n{\"request\":\"status\"}\n").unwrap();
            let lines = BufReader::new(stream).lines().take(3);
            lines.map(Result::unwrap).collect::<Vec<_>>()
        });
        let lines = lines.await.unwrap();
        assert!(lines[0].contains("failed") && lines[0].contains("not understood"), "{}", lines[0]);
        assert!(lines[1].contains("failed"), "{}", lines[1]);
        assert!(lines[2].contains("\"pid\":42"), "{}", lines[2]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_later_daemon_keeps_its_socket_when_the_earlier_one_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.sock");
        let first = Control::serve(path.clone(), Arc::new(Fixed)).unwrap();
        let second = Control::serve(path.clone(), Arc::new(Fixed)).unwrap();
        drop(first);
        assert!(ask_now(&path, Ask::Status).await.is_ok());
        drop(second);
        assert!(!path.exists());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn silent_connections_do_not_keep_others_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.sock");
        let _control = Control::serve(path.clone(), Arc::new(Fixed)).unwrap();
        let silent: Vec<_> = (0..CONNECTIONS - 1).map(|_| Stream::connect(&path).unwrap()).collect();
        assert!(ask_now(&path, Ask::Status).await.is_ok());
        drop(silent);
    }
}

//! The life of one mount's process: check, connect, mount, say that it is ready, wait, store what is left, unmount.
//!
//! 1. Whoever started it waits for exactly one answer, ready or a line that says what to change; after a failure
//!    nothing is left mounted ([`Mounted`] sees to that on every path).
//! 2. Two starts at a time (`mount -a` twice) must end in one process: checking the directory and mounting on it
//!    happen under a file lock.
//! 3. The end comes from a signal or from outside (umount); both ways everything written is stored first, as far as
//!    `shutdown_timeout` allows, and what could not be stored is listed where `xosfs umount` finds it.

pub mod connect;
pub mod control;
pub mod heap;
pub mod leftover;
pub mod log;
pub mod metrics;
pub mod report;
pub mod role;
mod served;
pub mod state;
pub mod status;
pub mod volume;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{Options, Source};
use crate::error::{Error, Kind, Result};
use crate::fuse::session::{self, Ended, Filesystem, Mounted, Plan, Session};
use crate::fuse::target::{self, Target};
use control::{Console, Control};
use metrics::Metrics;
use report::Report;
use state::{Claim, State};
use volume::{Unstored, Volume};

/// Longest wait for the kernel to take a mount away, and for the first answer of a new one.
const KERNEL_PATIENCE: Duration = Duration::from_secs(30);
/// What is still running on worker threads when all is stored.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(2);

/// One mount as asked for.
#[derive(Clone, Debug)]
pub struct Request {
    pub source: Source,
    /// Absolute and without links: see [`target::resolve`].
    pub dir: PathBuf,
    pub options: Options,
    /// Cut off from the terminal: see [`report`].
    pub background: bool,
}

/// How it went.
#[derive(Debug)]
pub enum Outcome {
    /// The same source is mounted there already, by another process: nothing was done.
    AlreadyMounted,
    Ended(Unstored),
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.source, self.dir.display())
    }
}

/// Looks a variable of the environment up.
pub fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Mounts a bucket and stays until it is unmounted.
pub fn run(request: &Request, report: &mut Report) -> Result<Outcome> {
    run_with(request, report, |request, report, runtime| {
        let s3 = runtime.block_on(connect::connect(request, report))?;
        volume::build_fs(request, s3, runtime.handle())
    })
}

/// [`run`] with another way to get at the file system.
pub fn run_with<F: Filesystem + Send + 'static>(
    request: &Request,
    report: &mut Report,
    build: impl FnOnce(&Request, &mut Report, &Runtime) -> Result<Volume<F>>,
) -> Result<Outcome> {
    log::start(&request.options, request.background)?;
    log::hook_panics();
    let Some(claim) = claim(request, report)? else {
        report.already(request);
        return Ok(Outcome::AlreadyMounted);
    };
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("xosfs")
        .enable_all()
        .build()
        .map_err(|e| Error::new(Kind::Io, format!("start of the runtime: {e}")))?;
    let outcome =
        build(request, report, &runtime).and_then(|volume| runtime.block_on(host(request, claim, volume, report)));
    runtime.shutdown_timeout(RUNTIME_PATIENCE);
    outcome.map(Outcome::Ended)
}

/// The right to mount on the directory; `None` when the same is mounted there already.
fn claim(request: &Request, report: &mut Report) -> Result<Option<Claim>> {
    let claim = Claim::take(&request.dir, request.options.patience() + KERNEL_PATIENCE)?;
    match target::prepare(&request.dir, &request.source.to_string())? {
        Target::Same(entry) => match State::read(&request.dir) {
            // The same bucket name on another store is another bucket.
            Some(state) if state.is_alive() && state.endpoint != request.options.endpoint => {
                let other = state.endpoint.as_deref().unwrap_or("AWS");
                let what = format!("{} is busy: {} of {other} is mounted there", request.dir.display(), entry.source);
                Err(Error::new(Kind::Busy, what).with_fix("unmount it first, or choose another directory"))
            }
            _ => Ok(None),
        },
        Target::Free { non_empty } => {
            if non_empty {
                let dir = request.dir.display();
                report.warn(&format!("{dir} is not empty; what is in it is hidden until the mount ends"));
            }
            Ok(Some(claim))
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    dump: Signal,
}

impl Signals {
    fn listen() -> Result<Signals> {
        let listen = |kind| signal(kind).map_err(|e| Error::new(Kind::Io, format!("listen to signals: {e}")));
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
            dump: listen(SignalKind::user_defined1())?,
        })
    }

    /// The next signal that asks for the end.
    async fn end(&mut self, console: &dyn Console) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hang_up.recv() => return "SIGHUP",
                _ = self.dump.recv() => tracing::info!("state on SIGUSR1:\n{}", console.status().text()),
            }
        }
    }
}

async fn blocking<T: Send + 'static>(what: &str, f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::time::timeout(KERNEL_PATIENCE, tokio::task::spawn_blocking(f)).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(Error::new(Kind::Io, format!("{what}: panicked"))),
        Err(_) => Err(Error::new(Kind::Timeout, format!("{what}: no end within {} s", KERNEL_PATIENCE.as_secs()))),
    }
}

/// Mounts the volume, serves it and ends it.
async fn host<F: Filesystem + Send + 'static>(
    request: &Request,
    claim: Claim,
    volume: Volume<F>,
    report: &mut Report,
) -> Result<Unstored> {
    // Before the mount: a signal in between must not leave it behind.
    let mut signals = Signals::listen()?;
    let Volume { filesystem, attach, drain, console } = volume;
    let mut metrics = None;
    if let Some(address) = &request.options.metrics {
        let started = Metrics::start(address, console.clone()).await?;
        console.set_metrics(started.shown());
        metrics = Some(started);
    }
    let (mut session, mounted) = mount(request, filesystem).await?;
    attach(session.notifier.clone(), mounted.device().to_owned());
    tokio::spawn(heap::stay_small());
    let mut state = State::of(request);
    let mut control = None;
    match state.write() {
        Err(e) => report.warn(&format!("no record of this mount for `xosfs umount` and `status`: {e}")),
        Ok(()) => match Control::start(&state, console.clone()) {
            Ok(started) => control = Some(started),
            Err(e) => report.warn(&format!("no control socket for `xosfs status` and `flush`: {e}")),
        },
    }
    drop(claim);
    tracing::info!(source = %request.source, dir = %request.dir.display(), pid = std::process::id(), "mounted");
    if let Err(e) = report.ready(request) {
        // Nobody waits for the mount any more, so nobody would know of it.
        tracing::error!("whoever started this is gone ({e}); unmounting");
        drop(mounted);
        state.remove();
        return Err(Error::new(Kind::Io, format!("report that {request} is mounted: {e}")));
    }

    let ended_outside = tokio::select! {
        ended = session.ended() => {
            if let Err(e) = ended {
                tracing::error!("the FUSE session failed: {e}");
            }
            tracing::info!("unmounted from outside");
            true
        }
        name = signals.end(&*console) => {
            tracing::info!("{name}: storing what is left, then unmounting");
            false
        }
    };
    report.stopping();
    let deadline = Instant::now() + request.options.shutdown_timeout;
    let mut unstored = drain_or_signal(&drain, deadline, &mut signals, &*console).await;
    if !ended_outside {
        match blocking("unmount", move || mounted.unmount()).await {
            Ok(Ended::Detached) => tracing::warn!("the mount is still in use; detached"),
            Ok(_) => {}
            Err(e) => tracing::error!("{e}"),
        }
        // Unmounting closed what was still open, which may have left something to store.
        unstored = drain_or_signal(&drain, deadline, &mut signals, &*console).await;
    }
    for (key, error) in &unstored {
        tracing::error!(%key, "not stored: {error}");
    }
    // Before the record goes: whoever finds it may ask.
    drop((control, metrics));
    state.finish(&unstored);
    tracing::info!(unstored = unstored.len(), "ended");
    Ok(unstored)
}

async fn mount<F: Filesystem + Send + 'static>(request: &Request, filesystem: F) -> Result<(Session, Mounted)> {
    let options = &request.options;
    let plan = Plan {
        source: request.source.to_string(),
        dir: request.dir.clone(),
        read_only: options.read_only,
        allow_other: options.allows_other(),
        default_permissions: options.checks_permissions(),
        flags: options.flags.clone(),
    };
    let (session, mounted) = blocking("mount", move || {
        let (fd, mounted) = plan.mount()?;
        let session = session::serve(filesystem, fd)?;
        mounted.raise_read_ahead();
        Ok((session, mounted))
    })
    .await?;
    let dir: PathBuf = mounted.dir().to_owned();
    blocking("first look at the mount", move || answers(&dir)).await?;
    Ok((session, mounted))
}

/// Only a mount that has answered once is ready.
fn answers(dir: &Path) -> Result<()> {
    match std::fs::symlink_metadata(dir) {
        Ok(_) => Ok(()),
        // The owner of a mount may be barred from it by mode bits; it has answered all the same.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        Err(e) => Err(Error::new(Kind::Io, format!("first look at {}: {e}", dir.display()))),
    }
}

/// Stores what is left until the deadline, or until a second signal says not to wait.
async fn drain_or_signal(
    drain: &volume::Drain,
    deadline: Instant,
    signals: &mut Signals,
    console: &dyn Console,
) -> Unstored {
    tokio::select! {
        unstored = drain(deadline) => unstored,
        name = signals.end(console) => {
            tracing::warn!("{name} while storing: not waiting any longer");
            // A deadline in the past: only says what is left.
            drain(Instant::now()).await
        }
    }
}

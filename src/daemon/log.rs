//! Where messages go: stderr, the journal, syslog or a file.
//!
//! 1. Writing a message must never hold up a request: sockets are non-blocking, and what they do not take is lost.
//! 2. A daemon in the background has no stderr, and not every machine has a journal: `log=auto` takes the first of
//!    journal, syslog and file that exists.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::env;
use crate::config::options::{Log, LogLevel, Options, user_cache};
use crate::config::value;
use crate::error::{Error, Kind, Result};

const JOURNAL: &str = "/run/systemd/journal/socket";
const SYSLOG: &str = "/dev/log";
/// Facility `daemon` of syslog(3).
const FACILITY: u8 = 3 << 3;

enum Sink {
    Stderr,
    Journal(UnixDatagram),
    Syslog(UnixDatagram),
    File(File),
}

/// One message being written; sent as a whole when it is complete.
struct Line {
    sink: Arc<Sink>,
    level: Level,
    text: Vec<u8>,
}

struct Lines(Arc<Sink>);

const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let text = self.text.trim_ascii_end();
        if text.is_empty() {
            return;
        }
        // Nobody is left to tell when a message cannot be written.
        let _ = match &*self.sink {
            Sink::Stderr => io::stderr().write_all(&[text, b"\n"].concat()),
            Sink::File(file) => (&mut &*file).write_all(&[text, b"\n"].concat()),
            Sink::Journal(socket) => socket.send(&journal_entry(self.level, text)).map(drop),
            Sink::Syslog(socket) => {
                let head = format!("<{}>xosfs[{}]: ", FACILITY | priority(self.level), std::process::id());
                socket.send(&[head.as_bytes(), text].concat()).map(drop)
            }
        };
    }
}

/// The journal's own protocol: the message's length goes before it, so that it may have several lines.
fn journal_entry(level: Level, text: &[u8]) -> Vec<u8> {
    let mut entry = format!("SYSLOG_IDENTIFIER=xosfs\nPRIORITY={}\nMESSAGE\n", priority(level)).into_bytes();
    entry.extend_from_slice(&(text.len() as u64).to_le_bytes());
    entry.extend_from_slice(text);
    entry.push(b'\n');
    entry
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { sink: self.0.clone(), level: Level::INFO, text: Vec::new() }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line {
        Line { sink: self.0.clone(), level: *meta.level(), text: Vec::new() }
    }
}

fn datagram(path: &str) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn file(path: &Path) -> io::Result<Sink> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    // Keys of objects are in it: not for everybody.
    File::options().create(true).append(true).mode(0o640).open(path).map(Sink::File)
}

/// The last resort of a background daemon.
fn default_file() -> PathBuf {
    match value::caller().0 {
        0 => PathBuf::from("/var/log/xosfs.log"),
        _ => user_cache(&env).join("xosfs.log"),
    }
}

fn open(log: &Log, background: bool) -> Result<Sink> {
    let failed = |name: &str, e: io::Error| {
        Error::new(Kind::Invalid, format!("log to {name}: {e}")).with_fix("change the option `log`")
    };
    match log {
        Log::Stderr => Ok(Sink::Stderr),
        Log::Auto if !background => Ok(Sink::Stderr),
        Log::Journald => datagram(JOURNAL).map(Sink::Journal).map_err(|e| failed(JOURNAL, e)),
        Log::Syslog => datagram(SYSLOG).map(Sink::Syslog).map_err(|e| failed(SYSLOG, e)),
        Log::File(path) => file(path).map_err(|e| failed(&path.display().to_string(), e)),
        Log::Auto => datagram(JOURNAL)
            .map(Sink::Journal)
            .or_else(|_| datagram(SYSLOG).map(Sink::Syslog))
            .or_else(|_| file(&default_file()))
            // A read-only machine without any log: better mounted and silent than not mounted.
            .or(Ok(Sink::Stderr)),
    }
}

/// Starts logging as the options say. Later calls in one process change nothing.
pub fn start(options: &Options, background: bool) -> Result<()> {
    let sink = open(&options.log, background)?;
    let to_people = matches!(sink, Sink::Stderr | Sink::File(_));
    let others = match options.log_level {
        LogLevel::Error => "error",
        LogLevel::Trace => "debug",
        _ => "warn",
    };
    // The embedded server logs every refused request as an error of its own; its clients report those.
    let filter = EnvFilter::new(format!("{others},s3s=off,xosfs={}", options.log_level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(Lines(Arc::new(sink)));
    // The journal and syslog have their own time, level and name.
    let _ = if to_people {
        builder.with_target(false).try_init()
    } else {
        builder.without_time().with_level(false).with_target(false).try_init()
    };
    Ok(())
}

/// A panic is a message like any other: the daemon in the background has no stderr to print it to.
pub fn hook_panics() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let trace = std::backtrace::Backtrace::capture();
        tracing::error!(thread = thread.name().unwrap_or("?"), "panic: {info}\n{trace}");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole_with_their_priority() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let lines = |sink| Lines(Arc::new(sink));
        let say = |lines: &Lines| {
            let subscriber =
                tracing_subscriber::fmt().with_ansi(false).without_time().with_level(false).with_target(false);
            tracing::subscriber::with_default(subscriber.with_writer(Lines(lines.0.clone())).finish(), || {
                tracing::warn!("one\ntwo");
            });
        };
        let mut buffer = [0; 256];
        say(&lines(Sink::Syslog(datagram(path.to_str().unwrap()).unwrap())));
        let n = receiver.recv(&mut buffer).unwrap();
        assert_eq!(String::from_utf8_lossy(&buffer[..n]), format!("<28>xosfs[{}]: one\ntwo", std::process::id()));
        say(&lines(Sink::Journal(datagram(path.to_str().unwrap()).unwrap())));
        let n = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"SYSLOG_IDENTIFIER=xosfs\nPRIORITY=4\nMESSAGE\n\x07\0\0\0\0\0\0\0one\ntwo\n");
        let log = dir.path().join("sub/log");
        say(&lines(file(&log).unwrap()));
        assert_eq!(std::fs::read_to_string(log).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn a_log_that_cannot_be_written_names_the_option() {
        let error = open(&Log::File("/proc/no/log".into()), true).err().unwrap().to_string();
        assert!(error.contains("`log`"), "{error}");
    }
}

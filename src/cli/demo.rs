//! `xosfs demo`: the embedded S3 server, and a bucket of it mounted. Ctrl-C ends it all.
//!
//! 1. The bucket is mounted by a process of its own, as from a real store. Ctrl-C reaches this one only, because the
//!    server must not end before the mount has stored its last byte.
//! 2. Whatever ends the demo, nothing is deleted through the mount: the temporary mount point is removed when it is
//!    empty, never with what is in it.

use super::{DemoArgs, Failure};

/// `--bandwidth`: at least the 4 KiB that the server sends at a time.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    crate::config::value::size(text, 4096..=1 << 40)
}

#[cfg(not(feature = "demo"))]
pub(super) fn run(_: &DemoArgs) -> Result<(), Failure> {
    Err(Failure::Failed("this build has no embedded server (cargo feature `demo`)".into()))
}

#[cfg(feature = "demo")]
pub(super) fn run(args: &DemoArgs) -> Result<(), Failure> {
    with_server::run(args)
}

#[cfg(feature = "demo")]
mod with_server {
    use std::ffi::OsString;
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use tokio::signal::unix::{SignalKind, signal};

    use super::super::{DemoArgs, Failure, launch, umount};
    use crate::daemon::state::State;
    use crate::demo::{Options, Server};
    use crate::fuse::{mountinfo, target};

    /// The server is in this process: it answers at once or never.
    const PATIENCE: Duration = Duration::from_secs(60);
    /// Any region will do for the server; the clients have to agree on one.
    const REGION: &str = "us-east-1";

    pub(in super::super) fn run(args: &DemoArgs) -> Result<(), Failure> {
        check_bucket(&args.bucket)?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(failed)?;
        runtime.block_on(serve(args))
    }

    fn failed(e: std::io::Error) -> Failure {
        Failure::Failed(format!("demo: {e}"))
    }

    /// The server has the naming rules of AWS, and would refuse every request for another name.
    fn check_bucket(name: &str) -> Result<(), Failure> {
        let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = name.as_bytes();
        let possible = (3..=63).contains(&bytes.len())
            && bytes.iter().all(|b| inside(*b))
            && edge(bytes.first())
            && edge(bytes.last())
            && !name.contains("..")
            && name.parse::<std::net::Ipv4Addr>().is_err();
        if possible {
            return Ok(());
        }
        Err(Failure::Usage(format!(
            "--bucket {name:?} is no bucket name: 3 to 63 lower-case letters, digits, `-` and `.`, with a letter or \
             digit at both ends, and no IP address"
        )))
    }

    /// Where the bucket is mounted.
    struct Place {
        dir: PathBuf,
        temporary: bool,
    }

    impl Place {
        fn of(args: &DemoArgs) -> Result<Place, Failure> {
            if let Some(dir) = &args.dir {
                return Ok(Place { dir: target::resolve(dir)?, temporary: false });
            }
            // `keep`: what would remove it with everything in it must not run while a bucket is mounted there.
            let made = tempfile::Builder::new().prefix("xosfs-demo-").tempdir().map_err(failed)?.keep();
            Ok(Place { dir: target::resolve(&made)?, temporary: true })
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            if self.temporary {
                // Fails while something is mounted there, as it should.
                let _ = std::fs::remove_dir(&self.dir);
            }
        }
    }

    async fn serve(args: &DemoArgs) -> Result<(), Failure> {
        // Before anything that would have to be undone.
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut hang_up = signal(SignalKind::hangup()).map_err(failed)?;
        let mut asked = signal(SignalKind::user_defined1()).map_err(failed)?;
        let place = if args.serve_only { None } else { Some(Place::of(args)?) };
        let server = start(args).await?;
        // Somebody's own data stays as it is.
        if place.is_some() && args.data.is_none() {
            crate::demo::sample(server.store(), &args.bucket);
        }
        let text = match &place {
            Some(place) => {
                mount(&args.bucket, &place.dir, &server).await?;
                tour(&args.bucket, &place.dir, &server, args.data.is_none())
            }
            None => environment(&args.bucket, &server),
        };
        let said = say(&text);
        while said.is_ok() {
            tokio::select! {
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                _ = hang_up.recv() => break,
                _ = asked.recv() => say(&counts(&server)).map_err(failed)?,
            }
        }
        // The server has to be there until the last byte is stored.
        if let Some(place) = place {
            let dir = place.dir.clone();
            let mut end = tokio::task::spawn_blocking(move || unmount(&dir));
            let ended = loop {
                tokio::select! {
                    ended = &mut end => break ended,
                    _ = interrupt.recv() => hurry(&place.dir),
                    _ = terminate.recv() => hurry(&place.dir),
                }
            };
            ended.map_err(|e| Failure::Failed(format!("demo: {e}")))??;
        }
        server.shutdown().await;
        said.map_err(failed)
    }

    async fn start(args: &DemoArgs) -> Result<Server, Failure> {
        let options = Options {
            listen: args.listen,
            data: args.data.clone(),
            buckets: vec![args.bucket.clone()],
            ..Options::default()
        };
        let server = Server::start(options).await.map_err(|e| {
            use std::io::ErrorKind::{AddrInUse, AddrNotAvailable};
            let fix = match (e.kind(), &args.data) {
                (AddrInUse | AddrNotAvailable, _) | (_, None) => "change --listen".to_owned(),
                (_, Some(data)) => format!("check --listen and --data {}", data.display()),
            };
            Failure::Failed(format!("server on {}: {e}; {fix}", args.listen))
        })?;
        server.knobs().set(|b| {
            b.latency = Duration::from_millis(args.latency);
            b.bytes_per_second = args.bandwidth;
        });
        Ok(server)
    }

    /// SIGUSR1: one line of JSON, the requests of each operation since the start.
    fn counts(server: &Server) -> String {
        format!("{}\n", serde_json::json!({ "requests": server.counts() }))
    }

    /// All at once and through to the reader: programs wait for the last line.
    fn say(text: &str) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// `KEY=value` lines for programs, then `ready`.
    fn environment(bucket: &str, server: &Server) -> String {
        let keys = server.keys();
        format!(
            "AWS_ENDPOINT_URL={}\nAWS_ACCESS_KEY_ID={}\nAWS_SECRET_ACCESS_KEY={}\nAWS_REGION={REGION}\n\
             XOSFS_BUCKET={bucket}\nready\n",
            server.endpoint(),
            keys.access_key,
            keys.secret_key,
        )
    }

    /// A word that a shell takes as it is.
    fn quoted(dir: &Path) -> String {
        let text = dir.display().to_string();
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+".contains(&b));
        if plain { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
    }

    /// Ten lines to paste into another terminal, under a heading.
    fn tour(bucket: &str, dir: &Path, server: &Server, sample: bool) -> String {
        let (d, endpoint, keys) = (quoted(dir), server.endpoint(), server.keys());
        let heading = format!("Bucket {bucket} of {endpoint} is mounted on {}. Ctrl-C ends it.", dir.display());
        let rclone = format!(
            "RCLONE_S3_ACCESS_KEY_ID={} RCLONE_S3_SECRET_ACCESS_KEY={} rclone --s3-provider=Other \
             --s3-endpoint={endpoint} lsf -R :s3:{bucket}",
            keys.access_key, keys.secret_key,
        );
        if !sample {
            return format!("{heading}\nThe same with rclone:\n  {rclone}\n");
        }
        let lines = [
            (format!("ls -lR {d}"), "a nested tree, and a key that is no path"),
            (format!("cat {d}/notes/2026/summer/ideas.md"), ""),
            (format!("echo hello > {d}/notes/hello.txt"), "a new object, stored when echo ends"),
            (format!("vim {d}/notes/todo.txt"), "any editor"),
            (format!("getfattr -n user.s3.tags {d}/attributes/tagged.txt"), "user.NAME is user metadata"),
            (format!("curl {endpoint}/{bucket}/attributes/public.txt"), "readable by everybody"),
            (format!("setfattr -n user.s3.acl -v public-read {d}/README.txt"), "and this one now, too"),
            (format!("cat {d}/archive/2019.txt"), "denied: it is archived; the reason appears below"),
            (format!("getfattr -n user.s3.restore {d}/archive/2019.txt"), "archived"),
            (rclone, "the same by another program"),
        ];
        let mut text = format!("{heading} Try in another terminal:\n");
        for (line, why) in lines {
            let gap = if why.is_empty() { "" } else { "  # " };
            text.push_str(&format!("  {line}{gap}{why}\n"));
        }
        text
    }

    fn unmount(dir: &Path) -> Result<(), Failure> {
        let mounted = mountinfo::top_at(dir).map_err(failed)?.is_some_and(|e| e.is_ours());
        if !mounted && !State::read(dir).is_some_and(|s| s.is_alive()) {
            // Somebody has unmounted it before.
            return Ok(());
        }
        umount::umount(dir, true, None)
    }

    /// A second signal to the daemon says not to wait for what is left.
    fn hurry(dir: &Path) {
        if let Some(state) = State::read(dir).filter(State::is_alive) {
            // It has ended in between, or it ends now.
            let _ = kill(Pid::from_raw(state.pid), Signal::SIGTERM);
        }
    }

    /// Another process mounts, just as it would with a real store.
    async fn mount(bucket: &str, dir: &Path, server: &Server) -> Result<(), Failure> {
        // Warnings are worth a line in the demo's terminal, and say why something was refused.
        let words = ["mount", "--background-child", "-o", "log=stderr,log_level=warn", "--", bucket];
        let mut args: Vec<OsString> = words.map(OsString::from).into();
        args.push(dir.into());
        let (endpoint, keys, ip) = (server.endpoint(), server.keys(), server.address().ip().to_string());
        let mounting = tokio::task::spawn_blocking(move || {
            let env = [
                ("AWS_ENDPOINT_URL", endpoint.as_str()),
                ("AWS_ENDPOINT_URL_S3", endpoint.as_str()),
                ("AWS_ACCESS_KEY_ID", keys.access_key.as_str()),
                ("AWS_SECRET_ACCESS_KEY", keys.secret_key.as_str()),
                ("AWS_SESSION_TOKEN", ""),
                ("AWS_PROFILE", ""),
                ("AWS_REGION", REGION),
                ("NO_PROXY", ip.as_str()),
                ("no_proxy", ip.as_str()),
            ];
            launch::launch(&args, &env, PATIENCE).map(drop)
        });
        mounting.await.map_err(|e| Failure::Failed(format!("demo: {e}")))?
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn bucket_names_are_those_of_aws() {
            for name in ["demo", "a.b-c", "123", &"a".repeat(63)] {
                assert!(check_bucket(name).is_ok(), "{name}");
            }
            let long = "a".repeat(64);
            for name in ["", "ab", "Demo", "a_b", "a/b", "-ab", "ab-", "a..b", "1.2.3.4", "bü-cket", &long] {
                let Err(Failure::Usage(said)) = check_bucket(name) else { panic!("{name}") };
                assert!(said.contains("--bucket") && !said.contains('\n'), "{said}");
            }
        }

        #[test]
        fn a_path_is_one_word_for_a_shell() {
            assert_eq!(quoted(Path::new("/tmp/a-b")), "/tmp/a-b");
            assert_eq!(quoted(Path::new("/tmp/it's here")), r"'/tmp/it'\''s here'");
        }
    }
}

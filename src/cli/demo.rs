//! `xosfs demo`: the embedded S3 server, and a bucket of it mounted. Ctrl-C ends it all.

use super::{DemoArgs, Failure};

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
    use std::path::Path;
    use std::time::Duration;

    use tokio::signal::unix::{SignalKind, signal};

    use super::super::{DemoArgs, Failure, launch, umount};
    use crate::demo::{Options, Server};
    use crate::fuse::target;

    /// The server is in this process: it answers at once or never.
    const PATIENCE: Duration = Duration::from_secs(60);

    pub(in super::super) fn run(args: &DemoArgs) -> Result<(), Failure> {
        let failed = |e: std::io::Error| Failure::Failed(format!("demo: {e}"));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(failed)?;
        runtime.block_on(serve(args))
    }

    async fn serve(args: &DemoArgs) -> Result<(), Failure> {
        let failed = |e: std::io::Error| Failure::Failed(format!("demo: {e}"));
        // Before anything that would have to be undone.
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let temporary;
        let dir = match (&args.dir, args.serve_only) {
            (_, true) => None,
            (Some(dir), _) => Some(target::resolve(dir)?),
            (None, _) => {
                temporary = tempfile::Builder::new().prefix("xosfs-demo-").tempdir().map_err(failed)?;
                Some(temporary.path().to_owned())
            }
        };
        let server = Server::start(Options {
            listen: args.listen,
            data: args.data.clone(),
            buckets: vec![args.bucket.clone()],
            ..Options::default()
        })
        .await
        .map_err(|e| Failure::Failed(format!("server on {}: {e}; change --listen", args.listen)))?;
        // Somebody's own data stays as it is.
        if dir.is_some() && args.data.is_none() {
            crate::demo::sample(server.store(), &args.bucket);
        }
        let keys = server.keys();
        println!("export AWS_ENDPOINT_URL={}", server.endpoint());
        println!("export AWS_ACCESS_KEY_ID={}", keys.access_key);
        println!("export AWS_SECRET_ACCESS_KEY={}", keys.secret_key);
        if let Some(dir) = &dir {
            mount(&args.bucket, dir, &server).await?;
            println!("# bucket {} is mounted on {}; Ctrl-C ends the demo", args.bucket, dir.display());
        }
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        // The server has to be there until the last byte is stored.
        if let Some(dir) = dir {
            blocking(move || umount::umount(&dir, true, None)).await?;
        }
        server.shutdown().await;
        Ok(())
    }

    async fn blocking<T: Send + 'static>(
        f: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        tokio::task::spawn_blocking(f).await.map_err(|e| Failure::Failed(format!("demo: {e}")))?
    }

    /// Another process mounts, just as it would with a real store.
    async fn mount(bucket: &str, dir: &Path, server: &Server) -> Result<(), Failure> {
        let args: Vec<OsString> =
            ["mount".into(), "--background-child".into(), "--".into(), bucket.into(), dir.into()].into();
        let (endpoint, keys) = (server.endpoint(), server.keys());
        blocking(move || {
            let env = [
                ("AWS_ENDPOINT_URL", endpoint.as_str()),
                ("AWS_ENDPOINT_URL_S3", endpoint.as_str()),
                ("AWS_ACCESS_KEY_ID", keys.access_key.as_str()),
                ("AWS_SECRET_ACCESS_KEY", keys.secret_key.as_str()),
                ("AWS_SESSION_TOKEN", ""),
                ("AWS_PROFILE", ""),
            ];
            launch::launch(&args, &env, PATIENCE).map(drop)
        })
        .await
    }
}

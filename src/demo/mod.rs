//! The embedded S3 server: what `xosfs demo` serves and what tests run in-process.
//!
//! 1. It must fail like a real store: access lists, conditions, limits and error codes are those of S3, and faults
//!    are made on the wire ([`Knobs`]).
//! 2. It must not be what a benchmark measures: bodies are slices of what is stored, listings seek.

mod acl;
mod attribute;
mod body;
mod bucket;
mod copy;
mod data;
mod direct;
mod disk;
mod form;
mod http;
mod knobs;
mod list;
mod multipart;
mod object;
mod route;
mod sample;
mod service;
mod store;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

pub use self::acl::Keys;
pub use self::data::synthetic;
pub use self::direct::ObjectInfo;
pub use self::http::LoggedRequest;
pub use self::knobs::{Action, Behaviour, Knobs, Rule};
pub use self::sample::sample;
pub use self::store::{Attributes, Store};

/// Canonical ids of the two users there are from the start.
const OWNER: &str = "0e1f2a3b4c5d6e7f8091a2b3c4d5e6f7a8b9cadbecfd0e1f2a3b4c5d6e7f8091";
const SECOND: &str = "5ec0d2a3b4c5d6e7f8091a2b3c4d5e6f7a8b9cadbecfd0e1f2a3b4c5d6e7f80";

/// The role there is from the start: everybody with keys may take it and keeps the own rights.
pub const ROLE: &str = "arn:aws:iam:::role/demo";

/// How long a shutdown waits for answers under way.
const GRACE: Duration = Duration::from_secs(2);

/// How a server starts.
#[derive(Clone, Debug)]
pub struct Options {
    /// Port 0 takes any free one.
    pub listen: SocketAddr,
    /// Where objects are kept; `None` is memory.
    pub data: Option<PathBuf>,
    /// Created when they do not exist.
    pub buckets: Vec<String>,
    /// The owner's keys; fixed ones for tests when absent.
    pub access_key: Option<String>,
    pub secret_key: Option<String>,
    /// Requests to `BUCKET.DOMAIN` are for that bucket; `None` knows path-style requests only.
    pub domain: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            data: None,
            buckets: Vec::new(),
            access_key: None,
            secret_key: None,
            domain: None,
        }
    }
}

impl Options {
    /// In memory, on a free loopback port.
    pub fn with_bucket(name: &str) -> Self {
        Options { buckets: vec![name.to_owned()], ..Options::default() }
    }
}

struct Shared {
    store: Store,
    knobs: Knobs,
    users: acl::Users,
    log: http::Log,
    requests: AtomicU64,
    domain: Option<String>,
}

/// The bucket of `BUCKET.DOMAIN`, whatever the port.
fn bucket_of_host<'a>(host: &'a str, domain: &str) -> Option<&'a str> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.strip_suffix(domain)?.strip_suffix('.').filter(|b| !b.is_empty())
}

/// Virtual-hosted requests for one domain; any other host name is a path-style request.
struct Domain(String);

impl s3s::host::S3Host for Domain {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> s3s::S3Result<s3s::host::VirtualHost<'a>> {
        let virtual_host = s3s::host::VirtualHost::new(self.0.as_str());
        Ok(match bucket_of_host(host, &self.0) {
            Some(bucket) => virtual_host.with_bucket(bucket),
            None => virtual_host,
        })
    }
}

/// A running server. Stops when it is dropped; [`Server::shutdown`] waits for requests under way, which is needed
/// before another server can open the same directory.
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    owner: Keys,
    second: Keys,
    stop: watch::Sender<bool>,
    running: Running,
}

enum Running {
    Task(Option<JoinHandle<()>>),
    Thread(Option<std::thread::JoinHandle<()>>),
}

impl Server {
    /// Starts a server on the caller's runtime.
    pub async fn start(options: Options) -> io::Result<Server> {
        let (mut server, listener, service, stopped) = Server::prepare(options)?;
        let task = tokio::spawn(accept(server.shared.clone(), TcpListener::from_std(listener)?, service, stopped));
        server.running = Running::Task(Some(task));
        Ok(server)
    }

    /// Starts a server on threads of its own, for callers without a runtime or with a busy one.
    pub fn start_thread(options: Options) -> io::Result<Server> {
        let (mut server, listener, service, stopped) = Server::prepare(options)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let shared = server.shared.clone();
        let thread = std::thread::Builder::new().name("s3-server".into()).spawn(move || {
            runtime.block_on(async move {
                match TcpListener::from_std(listener) {
                    Ok(listener) => accept(shared, listener, service, stopped).await,
                    Err(e) => tracing::error!("embedded S3 server: {e}"),
                }
            });
            runtime.shutdown_background();
        })?;
        server.running = Running::Thread(Some(thread));
        Ok(server)
    }

    fn prepare(options: Options) -> io::Result<(Server, std::net::TcpListener, S3Service, watch::Receiver<bool>)> {
        let owner = Keys {
            access_key: options.access_key.unwrap_or_else(|| "XOSFSDEMOOWNER".into()),
            secret_key: options.secret_key.unwrap_or_else(|| "xosfs-demo-owner-secret".into()),
            user_id: OWNER.into(),
        };
        let second = Keys {
            access_key: "XOSFSDEMOSECOND".into(),
            secret_key: "xosfs-demo-second-secret".into(),
            user_id: SECOND.into(),
        };
        let users = acl::Users::default();
        users.add(owner.clone());
        users.add(second.clone());
        users.add_role(ROLE);
        let store = Store::open(options.data.as_deref(), OWNER)?;
        for bucket in &options.buckets {
            match store.add_bucket(bucket, acl::Acl::private(OWNER), None) {
                Err(e) if *e.code() != s3s::S3ErrorCode::BucketAlreadyOwnedByYou => return Err(io::Error::other(e)),
                _ => {}
            }
        }
        let shared = Arc::new(Shared {
            store,
            knobs: Knobs::default(),
            users,
            log: http::Log::default(),
            requests: AtomicU64::new(0),
            domain: options.domain.clone(),
        });
        let mut builder = S3ServiceBuilder::new(service::Service(shared.clone()));
        builder.set_auth(acl::Auth(shared.clone()));
        builder.set_access(acl::Everybody);
        builder.set_route(route::Route(shared.clone()));
        if let Some(domain) = options.domain {
            builder.set_host(Domain(domain));
        }
        let mut config = S3Config::default();
        // `http::serve` checks the time itself, against a clock that can be set.
        config.presigned_url_max_skew_time_secs = u32::MAX;
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
        let listener = std::net::TcpListener::bind(options.listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let server = Server { shared, address, owner, second, stop, running: Running::Task(None) };
        Ok((server, listener, builder.build(), stopped))
    }

    /// `http://ADDRESS:PORT`
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The keys of the user who owns the buckets.
    pub fn keys(&self) -> Keys {
        self.owner.clone()
    }

    /// The keys of a user who has only the rights that ACLs give.
    pub fn second_user(&self) -> Keys {
        self.second.clone()
    }

    /// Lets another pair of keys in.
    pub fn add_keys(&self, keys: Keys) {
        self.shared.users.add(keys);
    }

    /// Requests signed with this access key fail from now on.
    pub fn remove_keys(&self, access_key: &str) {
        self.shared.users.remove(access_key);
    }

    /// Ends all sessions of roles that were given out so far.
    pub fn end_sessions(&self) {
        self.shared.users.end_sessions();
    }

    /// Lets another role be taken.
    pub fn add_role(&self, arn: &str) {
        self.shared.users.add_role(arn);
    }

    pub fn knobs(&self) -> &Knobs {
        &self.shared.knobs
    }

    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// The requests so far, in the order they came.
    pub fn log(&self) -> Vec<LoggedRequest> {
        self.shared.log.list()
    }

    /// Empties the log and the counters.
    pub fn clear_log(&self) {
        self.shared.log.clear();
    }

    /// How often each operation was asked for.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.shared.log.counts()
    }

    /// Stops listening and waits, for at most two seconds, for answers under way.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        match &mut self.running {
            Running::Task(task) => {
                if let Some(task) = task.take()
                    && let Err(e) = task.await
                {
                    tracing::warn!("embedded S3 server: {e}");
                }
            }
            Running::Thread(thread) => {
                if let Some(thread) = thread.take() {
                    let joined = tokio::task::spawn_blocking(move || thread.join()).await;
                    if !matches!(joined, Ok(Ok(()))) {
                        tracing::warn!("embedded S3 server: its thread panicked");
                    }
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        match &mut self.running {
            // Aborted, not awaited: a drop cannot wait. Connections see `stop` themselves.
            Running::Task(task) => {
                if let Some(task) = task.take() {
                    task.abort();
                }
            }
            Running::Thread(thread) => {
                if let Some(thread) = thread.take()
                    && thread.join().is_err()
                {
                    tracing::warn!("embedded S3 server: its thread panicked");
                }
            }
        }
    }
}

/// Returns when the server shall stop, or is gone.
async fn until(stopped: &mut watch::Receiver<bool>) {
    let _seen = stopped.wait_for(|s| *s).await.is_ok();
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, service: S3Service, mut stopped: watch::Receiver<bool>) {
    let tasks = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            () = until(&mut stopped) => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(e) => {
                    // Out of file descriptors, mostly: others have to be closed first.
                    tracing::warn!("embedded S3 server: accept: {e}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        if let Err(e) = stream.set_nodelay(true) {
            tracing::debug!("set_nodelay: {e}");
        }
        tasks.spawn(connection(shared.clone(), stream, service.clone(), stopped.clone()));
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

async fn connection(
    shared: Arc<Shared>,
    stream: tokio::net::TcpStream,
    service: S3Service,
    mut stopped: watch::Receiver<bool>,
) {
    let limits = body::Connection::new(shared.clone());
    let serve = hyper::service::service_fn(move |request| {
        http::serve(shared.clone(), service.clone(), limits.clone(), request)
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new());
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), serve));
    tokio::select! {
        result = connection.as_mut() => {
            if let Err(e) = result {
                tracing::debug!("connection: {e}");
            }
            return;
        }
        () = until(&mut stopped) => {}
    }
    connection.as_mut().graceful_shutdown();
    if let Ok(Err(e)) = tokio::time::timeout(GRACE, connection).await {
        tracing::debug!("connection: {e}");
    }
}

//! Runs sequences: on a local disk, on the library, on a mount; and shrinks those that fail.

use std::collections::BTreeMap;
use std::time::Duration;

use super::common::{TestMount, TestServer, temp_dir};
use super::drive::{Directory, Drive, Handle, Library, Outcome, Setup};
use super::oracle::{Expect, Op, Oracle, data};
use xosfs::demo::Server;

const BUCKET: &str = "bucket";

/// Something that has files, ends and begins again.
pub trait World {
    fn drive(&self) -> &dyn Drive;
    /// An empty directory, or a name in common, for one sequence: what stands before the names of its files.
    fn fresh(&mut self) -> String;
    /// Ends in order and begins again.
    fn remount(&mut self) -> Result<(), String>;
    /// Ends as by a power failure and begins again. The handles are given up in between.
    fn kill(&mut self, handles: BTreeMap<u64, Handle>) -> Result<(), String>;
    /// What the server was asked for names with this in them, for somebody who looks for the cause.
    fn requests(&self, _part: &str) -> String {
        String::new()
    }
    /// The object behind a name, where there are objects: `None` when this world has none.
    fn stored(&self, name: &str) -> Option<Option<Vec<u8>>>;
    fn end(self: Box<Self>);
}

/// A local directory.
pub struct Disk {
    _dir: tempfile::TempDir,
    drive: Directory,
    n: u64,
}

impl Disk {
    pub fn new() -> Disk {
        let dir = temp_dir();
        let drive = Directory(dir.path().to_owned());
        Disk { _dir: dir, drive, n: 0 }
    }
}

impl World for Disk {
    fn drive(&self) -> &dyn Drive {
        &self.drive
    }

    fn fresh(&mut self) -> String {
        self.n += 1;
        self.drive.mkdir(&self.n.to_string()).unwrap();
        format!("{}/f", self.n)
    }

    fn remount(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn kill(&mut self, _handles: BTreeMap<u64, Handle>) -> Result<(), String> {
        Ok(())
    }

    fn stored(&self, _name: &str) -> Option<Option<Vec<u8>>> {
        None
    }

    fn end(self: Box<Self>) {}
}

fn asked(server: &Server, part: &str) -> String {
    let log = server.log();
    let lines = log.iter().filter(|r| r.key.contains(part)).map(|r| {
        let query: Vec<_> = r.query.iter().filter(|(k, _)| !k.starts_with("X-Amz")).collect();
        format!("# {} {} {query:?} {:?} {}, {} bytes\n", r.operation, r.key, r.range, r.status, r.bytes_in)
    });
    lines.collect()
}

/// The library on an embedded server.
pub struct Direct {
    server: Server,
    server_runtime: tokio::runtime::Runtime,
    staging: tempfile::TempDir,
    setup: Setup,
    now: Option<(Library, tokio::runtime::Runtime)>,
    n: u64,
    orphans: Vec<(String, String)>,
}

fn runtime(threads: usize) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap()
}

impl Direct {
    pub fn new(streams: bool) -> Direct {
        let server_runtime = runtime(1);
        let server = server_runtime.block_on(Server::start(xosfs::demo::Options::with_bucket(BUCKET))).unwrap();
        let mut setup = Setup { options: "retries=2".into(), ..Setup::default() };
        if streams {
            setup.stream_after = 256 << 10;
            setup.memory_per_file = 256 << 10;
        } else {
            setup.stream_after = 1 << 40;
        }
        server.knobs().set(|b| b.min_part = setup.limits.min_part);
        let mut me =
            Direct { server, server_runtime, staging: temp_dir(), setup, now: None, n: 0, orphans: Vec::new() };
        me.begin();
        me
    }

    pub fn library(&self) -> &Library {
        &self.now.as_ref().expect("it has begun").0
    }

    pub fn server(&self) -> &Server {
        &self.server
    }

    fn begin(&mut self) {
        let runtime = runtime(1);
        let library = Library::new(&self.server, BUCKET, self.staging.path(), runtime.handle(), &self.setup);
        self.now = Some((library, runtime));
    }
}

impl World for Direct {
    fn drive(&self) -> &dyn Drive {
        self.library()
    }

    fn fresh(&mut self) -> String {
        self.n += 1;
        self.server.clear_log();
        let dir = format!("s{}", self.n);
        self.drive().mkdir(&dir).unwrap();
        format!("{dir}/f")
    }

    fn remount(&mut self) -> Result<(), String> {
        let Some((library, runtime)) = self.now.take() else { return Ok(()) };
        let unstored = library.drain();
        let memory = library.fs.writes.memory();
        drop(library);
        runtime.shutdown_background();
        if !unstored.is_empty() {
            return Err(format!("not stored at the end: {unstored:?}"));
        }
        if memory != 0 {
            return Err(format!("{memory} bytes of memory are kept at the end"));
        }
        // Those of a life that ended by a crash stay: nobody else knows whose they are.
        let uploads: Vec<_> =
            self.server.store().uploads(BUCKET).into_iter().filter(|u| !self.orphans.contains(u)).collect();
        if !uploads.is_empty() {
            return Err(format!("uploads are left behind: {uploads:?}"));
        }
        self.begin();
        Ok(())
    }

    fn kill(&mut self, handles: BTreeMap<u64, Handle>) -> Result<(), String> {
        drop(handles);
        if let Some((library, runtime)) = self.now.take() {
            // Every task ends where it waits. The file system itself is never dropped in order.
            runtime.shutdown_background();
            std::mem::forget(library);
        }
        // What was sent arrives.
        std::thread::sleep(Duration::from_millis(30));
        self.orphans = self.server.store().uploads(BUCKET);
        self.begin();
        Ok(())
    }

    fn requests(&self, part: &str) -> String {
        asked(&self.server, part)
    }

    fn stored(&self, name: &str) -> Option<Option<Vec<u8>>> {
        Some(self.server.store().get(BUCKET, name).map(|b| b.to_vec()))
    }

    fn end(mut self: Box<Self>) {
        if let Some((library, runtime)) = self.now.take() {
            library.drain();
            drop(library);
            runtime.shutdown_background();
        }
        let Direct { server, server_runtime, .. } = *self;
        drop(server);
        server_runtime.shutdown_background();
    }
}

/// A mount of an embedded server's bucket, or of a real one's.
pub struct Mounted {
    options: String,
    // Before the server: it stores when it ends.
    mount: Option<TestMount>,
    drive: Directory,
    server: TestServer,
    n: u64,
    /// Outlives the daemons: what one left in its journal is the next one's to store.
    _state: tempfile::TempDir,
}

impl Mounted {
    pub fn new(options: &str) -> Mounted {
        let server = TestServer::start();
        let state = temp_dir();
        let options = format!("{options},state_dir={}", state.path().display());
        let mount = TestMount::with(&server, &[&options]);
        let drive = Directory(mount.path().to_owned());
        Mounted { options, mount: Some(mount), drive, server, n: 0, _state: state }
    }

    fn begin(&mut self) {
        let mount = TestMount::with(&self.server, &[&self.options]);
        self.drive = Directory(mount.path().to_owned());
        self.mount = Some(mount);
    }
}

impl World for Mounted {
    fn drive(&self) -> &dyn Drive {
        &self.drive
    }

    fn fresh(&mut self) -> String {
        self.n += 1;
        let dir = format!("s{}", self.n);
        self.drive.mkdir(&dir).unwrap();
        // A close asks for other descriptors of the process by the last part of the name: sequences that run at the
        // same time must not share names.
        let nanos = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        format!("{dir}/{:x}-", nanos & 0xffff_ffff)
    }

    fn remount(&mut self) -> Result<(), String> {
        if let Some(mount) = self.mount.take() {
            mount.umount();
        }
        self.begin();
        Ok(())
    }

    fn kill(&mut self, handles: BTreeMap<u64, Handle>) -> Result<(), String> {
        if let Some(mut mount) = self.mount.take() {
            mount.kill_daemon();
            for handle in handles.into_values() {
                // The connection is gone: an error is what there is.
                let _ = self.drive.close(handle);
            }
        }
        self.begin();
        Ok(())
    }

    fn requests(&self, part: &str) -> String {
        self.server.embedded_server().map_or_else(String::new, |s| asked(s, part))
    }

    fn stored(&self, name: &str) -> Option<Option<Vec<u8>>> {
        let embedded = self.server.embedded_server()?;
        Some(embedded.store().get(&self.server.bucket, name).map(|b| b.to_vec()))
    }

    fn end(mut self: Box<Self>) {
        if let Some(mount) = self.mount.take() {
            mount.umount();
        }
    }
}

fn difference(found: &[u8], expected: &[u8]) -> String {
    let at = found.iter().zip(expected).position(|(x, y)| x != y);
    format!("{} bytes for {}, first difference at {at:?}", found.len(), expected.len())
}

/// What an operation answered, in the oracle's words.
fn perform(drive: &dyn Drive, prefix: &str, open: &mut BTreeMap<u64, Handle>, op: &Op) -> Outcome<Expect> {
    let path = |file: u64| format!("{prefix}{file}");
    let done = |r: Outcome<()>| r.map(|()| Expect::Done);
    match (op.0.as_str(), &op.1[..]) {
        ("open", &[slot, file, flags]) => {
            let handle = drive.open(&path(file), flags as i32)?;
            open.insert(slot, handle);
            Ok(Expect::Done)
        }
        ("close", &[slot]) => match open.remove(&slot) {
            Some(handle) => done(drive.close(handle)),
            None => Ok(Expect::Skip),
        },
        ("read", &[slot, at, len]) => drive.read_at(&open[&slot], at, len as usize).map(Expect::Bytes),
        ("write", &[slot, at, len, seed]) => done(drive.write_at(&open[&slot], at, &data(seed, len))),
        ("map", &[slot, at, len, seed]) => {
            // Bytes that cannot be read would be a signal instead of an error.
            drive.read_at(&open[&slot], at, len as usize)?;
            done(drive.write_mapped(&open[&slot], at, &data(seed, len)))
        }
        ("size", &[slot, size]) => done(drive.set_len(&open[&slot], size)),
        ("allocate", &[slot, mode, at, len]) => done(drive.fallocate(&open[&slot], mode as i32, at, len)),
        ("copy", &[slot, at, to, to_at, len]) => {
            drive.copy_range(&open[&slot], at, &open[&to], to_at, len as usize).map(Expect::Copied)
        }
        ("sync", &[slot]) => done(drive.fsync(&open[&slot])),
        ("truncate", &[file, size]) => done(drive.truncate(&path(file), size)),
        ("rename", &[from, to]) => done(drive.rename(&path(from), &path(to))),
        ("unlink", &[file]) => done(drive.unlink(&path(file))),
        ("mode", &[file, mode]) => {
            drive.chmod(&path(file), mode as u32)?;
            let found = drive.stat(&path(file))?.perm;
            if u64::from(found) == mode { Ok(Expect::Done) } else { Ok(Expect::Size(u64::from(found))) }
        }
        ("look", &[file]) => drive.read(&path(file)).map(Expect::Bytes),
        ("stat", &[file]) => drive.stat(&path(file)).map(|s| Expect::Size(s.size)),
        ("list", []) => {
            let (dir, start) = prefix.rsplit_once('/').unwrap_or(("", prefix));
            let names = drive.list(dir)?;
            let mut files: Vec<u64> =
                names.iter().filter_map(|n| n.strip_prefix(start)).filter_map(|n| n.parse().ok()).collect();
            files.sort_unstable();
            Ok(Expect::Names(files))
        }
        _ => panic!("no such operation: {op}"),
    }
}

/// Everything that has a name is what the oracle says, and the bucket has just that.
fn check_all(world: &dyn World, oracle: &Oracle, prefix: &str, files: u64, when: &str) -> Result<(), String> {
    for file in 0..files {
        let name = format!("{prefix}{file}");
        let (found, expected) = (world.drive().read(&name), oracle.content(file));
        match (&found, expected) {
            (Ok(found), Some(expected)) if found == expected => {}
            (Err(libc::ENOENT), None) => {}
            (Ok(found), Some(expected)) => return Err(format!("f{file} {when}: {}", difference(found, expected))),
            (found, expected) => {
                let found = found.as_ref().map(Vec::len);
                return Err(format!("f{file} {when}: {found:?} for {:?}", expected.map(Vec::len)));
            }
        }
        // The end of a handle is not waited for by the kernel.
        for attempt in 0.. {
            let Some(stored) = world.stored(&name) else { break };
            if stored.as_ref() == expected {
                break;
            }
            if attempt == 600 {
                let (stored, expected) = (stored.map(|s| s.len()), expected.map(Vec::len));
                return Err(format!("f{file} {when}: the bucket has {stored:?} bytes for {expected:?}"));
            }
            std::thread::sleep(Duration::from_millis(25));
        }
    }
    Ok(())
}

fn close_all(
    drive: &dyn Drive,
    oracle: &mut Oracle,
    prefix: &str,
    open: &mut BTreeMap<u64, Handle>,
) -> Result<(), String> {
    for slot in oracle.open_slots() {
        let may_fail = oracle.may_fail(slot);
        let op = Op::new("close", &[slot]);
        oracle.step(&op);
        match perform(drive, prefix, open, &op) {
            Ok(_) => {}
            Err(libc::ESTALE) if may_fail => {}
            Err(e) => return Err(format!("close of {slot}: errno {e}")),
        }
    }
    Ok(())
}

/// Runs a sequence in a fresh place of the world.
pub fn run(world: &mut dyn World, ops: &[Op]) -> Result<(), String> {
    let prefix = world.fresh();
    run_at(world, ops, &prefix).map_err(|why| format!("{why}\n{}", world.requests(&prefix)))
}

fn run_at(world: &mut dyn World, ops: &[Op], prefix: &str) -> Result<(), String> {
    let crashes = ops.iter().any(|o| o.0 == "kill");
    let files = ops.iter().flat_map(|o| o.1.iter().copied()).filter(|n| *n < 16).max().unwrap_or(0) + 1;
    let mut oracle = Oracle::new(crashes);
    let mut open = BTreeMap::new();
    for (i, op) in ops.iter().enumerate() {
        let at = |why: String| format!("operation {i} ({op}): {why}");
        if op.0 == "remount" {
            close_all(world.drive(), &mut oracle, prefix, &mut open).map_err(at)?;
            world.remount().map_err(at)?;
            oracle.remounted();
            check_all(world, &oracle, prefix, files, "after a remount").map_err(at)?;
            continue;
        }
        if op.0 == "kill" {
            let allowed: Vec<_> = (0..files).map(|f| oracle.allowed(f)).collect();
            world.kill(std::mem::take(&mut open)).map_err(at)?;
            let mut found = BTreeMap::new();
            for (file, allowed) in (0..files).zip(allowed) {
                let content = match world.drive().read(&format!("{prefix}{file}")) {
                    Ok(bytes) => Some(bytes),
                    Err(libc::ENOENT) => None,
                    Err(e) => return Err(at(format!("f{file}: errno {e} after a crash"))),
                };
                if !allowed.iter().any(|a| a.as_deref() == content.as_ref()) {
                    let sizes: Vec<_> = allowed.iter().map(|a| a.as_ref().map(|b| b.len())).collect();
                    let size = content.map(|c| c.len());
                    return Err(at(format!("f{file} has {size:?} bytes after a crash; allowed are {sizes:?}")));
                }
                if let Some(bytes) = content {
                    found.insert(file, bytes);
                }
            }
            oracle.crashed(found);
            continue;
        }
        let slots: Vec<u64> = match op.0.as_str() {
            "copy" => vec![op.1[0], op.1[2]],
            "open" | "truncate" | "rename" | "unlink" | "mode" | "look" | "stat" | "list" => vec![],
            _ => op.1.first().copied().into_iter().collect(),
        };
        let may_fail = slots.iter().any(|s| oracle.may_fail(*s));
        let expected = oracle.step(op);
        if expected == Expect::Skip {
            continue;
        }
        match (perform(world.drive(), prefix, &mut open, op), expected) {
            (Ok(found), expected) if found == expected => {}
            (Err(errno), Expect::Errno(expected)) if errno == expected => {}
            (Err(libc::ESTALE), _) if may_fail => slots.iter().for_each(|s| oracle.failed(*s)),
            (Ok(Expect::Bytes(found)), Expect::Bytes(expected)) => return Err(at(difference(&found, &expected))),
            (found, expected) => {
                let short = |e: &Expect| match e {
                    Expect::Bytes(b) => format!("{} bytes", b.len()),
                    other => format!("{other:?}"),
                };
                return Err(at(format!("{:?} for {}", found.as_ref().map(short), short(&expected))));
            }
        }
    }
    close_all(world.drive(), &mut oracle, prefix, &mut open)?;
    check_all(world, &oracle, prefix, files, "at the end")
}

/// The smallest part of a failing sequence that still fails, by leaving out ever smaller pieces; and how it fails.
pub fn shrink(ops: &[Op], why: String, make: &mut dyn FnMut() -> Box<dyn super::World>) -> (Vec<Op>, String) {
    let (mut best, mut why) = (ops.to_vec(), why);
    let mut attempts = 150;
    let mut piece = best.len().div_ceil(2);
    while piece >= 1 && attempts > 0 {
        let (mut at, mut shorter) = (0, false);
        while at < best.len() && attempts > 0 {
            let mut fewer = best.clone();
            fewer.drain(at..(at + piece).min(fewer.len()));
            attempts -= 1;
            let mut world = make();
            match run(&mut *world, &fewer) {
                Err(e) => (best, why, shorter) = (fewer, e, true),
                Ok(()) => at += piece,
            }
        }
        if piece == 1 && !shorter {
            break;
        }
        piece = if piece == 1 { 1 } else { piece / 2 };
    }
    (best, why)
}

//! The cache below the file system: how many requests it saves, and what is written goes into it.

use std::ffi::OsStr;
use std::sync::Arc;

use bytes::Bytes;
use xosfs::config::credentials::Credentials;
use xosfs::config::{Options, Source};
use xosfs::daemon::{connect, volume};
use xosfs::fs::file::{OpenMode, WriteMode};
use xosfs::fs::{Fs, Lookup, ROOT};
use xosfs::key::Name;
use xosfs::read::Object;
use xosfs::s3::S3;

use super::{BUCKET, MIB, SOON, World, world};

fn mode(flags: i32) -> OpenMode {
    OpenMode::of_flags(flags)
}

/// A mount without a kernel.
fn mount(world: &World, options: &str) -> Arc<Fs> {
    let lists = [
        format!("staging_dir={},endpoint={}", world.temp.path().display(), world.server.endpoint()),
        format!("cache_dir={},cache_free=0,memory=256M", world.dir().display()),
        options.to_owned(),
    ];
    let source: Source = BUCKET.parse().unwrap();
    let options = Options::load(&lists, false, &|_| None).unwrap();
    let keys = world.server.keys();
    let mut settings = connect::settings(&Options { anonymous: true, ..options.clone() }, &source, &|_| None).unwrap();
    settings.credentials = Credentials::fixed(keys.access_key, keys.secret_key, None);
    volume::build(&options, source.prefix, S3::new(settings).unwrap())
}

async fn read(fs: &Arc<Fs>, name: &str) -> Bytes {
    let name = Name::parse(OsStr::new(name)).unwrap();
    let found = match fs.lookup_now(ROOT, &name) {
        Some(found) => found,
        None => fs.lookup(ROOT, &name).await.unwrap(),
    };
    let Lookup::Found(entry) = found else { panic!("{name} is missing") };
    let opened = fs.open(entry.ino, mode(libc::O_RDONLY)).await.unwrap();
    let mut all = Vec::new();
    while (all.len() as u64) < entry.attr.size {
        let at = all.len() as u64;
        let data = match fs.read_now(opened.fh, at, 1 << 20) {
            Some(data) => data.unwrap(),
            None => fs.read(opened.fh, at, 1 << 20).await.unwrap(),
        };
        assert!(!data.is_empty());
        all.extend_from_slice(&data);
    }
    fs.release(opened.fh).await.unwrap();
    all.into()
}

async fn write(fs: &Arc<Fs>, name: &str, content: &Bytes) {
    let name = Name::parse(OsStr::new(name)).unwrap();
    let (_, opened) = fs.create(ROOT, &name, 0o644, (0, 0), mode(libc::O_WRONLY)).await.unwrap();
    for (n, piece) in content.chunks(1 << 20).enumerate() {
        let piece = Bytes::copy_from_slice(piece);
        fs.write(opened.fh, n as u64 * MIB, piece, WriteMode::default()).await.unwrap();
    }
    fs.flush(opened.fh, 1).await.unwrap();
    fs.release(opened.fh).await.unwrap();
}

/// The end of a mount: what was read and written is on the disk.
async fn end(fs: Arc<Fs>) {
    assert!(fs.drain(SOON).await.is_empty());
    let disk = fs.reads.disk().unwrap().clone();
    assert_eq!(disk.stats().dropped, 0, "{:?}", disk.stats());
    assert!(tokio::task::spawn_blocking(move || disk.flush(SOON)).await.unwrap());
}

fn requests(world: &World) -> Vec<String> {
    let log = world.server.log().into_iter().map(|r| r.operation.to_string()).collect();
    world.server.clear_log();
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_again_costs_no_request_or_one() {
    let world = world().await;
    let size = 6 * MIB + 1;
    world.server.store().put_synthetic(BUCKET, "k", size);
    let content = xosfs::demo::synthetic("k", 0..size);
    let fs = mount(&world, "");
    assert!(read(&fs, "k").await == content);
    end(fs).await;
    requests(&world);

    // After a restart the name is looked up, and that is all.
    let fs = mount(&world, "metadata_ttl=1h");
    assert!(read(&fs, "k").await == content);
    let sent = requests(&world);
    assert!(!sent.contains(&"GetObject".to_owned()) && sent.len() <= 2, "{sent:?}");
    fs.reads.cache().forget_key(&xosfs::key::Key::new("k").unwrap());
    assert!(read(&fs, "k").await == content);
    assert_eq!(requests(&world), Vec::<String>::new());
    end(fs).await;

    // Old news is asked for again, without its bytes.
    let fs = mount(&world, "metadata_ttl=0");
    assert!(read(&fs, "k").await == content);
    requests(&world);
    for _ in 0..2 {
        fs.reads.cache().forget_key(&xosfs::key::Key::new("k").unwrap());
        let name = Name::parse(OsStr::new("k")).unwrap();
        let Lookup::Found(entry) = fs.lookup(ROOT, &name).await.unwrap() else { panic!("missing") };
        requests(&world);
        let opened = fs.open(entry.ino, mode(libc::O_RDONLY)).await.unwrap();
        assert!(fs.read(opened.fh, 3 * MIB, 5000).await.unwrap() == content.slice(3 << 20..(3 << 20) + 5000));
        fs.release(opened.fh).await.unwrap();
        assert_eq!(requests(&world), ["HeadObject"]);
    }

    // Another version is never served from the old one's blocks.
    world.server.store().put(BUCKET, "k", xosfs::demo::synthetic("other", 0..size));
    assert!(read(&fs, "k").await == xosfs::demo::synthetic("other", 0..size));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_kept() {
    let world = world().await;
    // One PUT, one upload after the close, and one while it is written.
    let sizes = [("put", 3 * MIB + 7), ("parts", 30 * MIB + 1), ("stream", 40 * MIB + 300_000)];
    // A disk that is busy with others may be slow: each file fits into what waits for it.
    let fs = mount(&world, "stream_after=32M,part_size=8M,memory=512M");
    for (name, size) in sizes {
        write(&fs, name, &xosfs::demo::synthetic(name, 0..size)).await;
        let disk = fs.reads.disk().unwrap().clone();
        assert!(tokio::task::spawn_blocking(move || disk.flush(SOON)).await.unwrap());
    }
    end(fs).await;
    let sent = requests(&world);
    assert!(sent.iter().filter(|o| *o == "UploadPart").count() >= 8, "{sent:?}");
    assert!(std::fs::read_dir(world.dir().join("incoming-1")).unwrap().next().is_none());

    let fs = mount(&world, "");
    for (name, size) in sizes {
        let object: Object = world.object(name).await;
        let data = fs.reads.range(&object, 0..size).await.unwrap();
        assert!(data == xosfs::demo::synthetic(name, 0..size), "{name}");
        assert_eq!(world.fetched(), 0, "{name}");
    }
}

/// A copy of an object onto itself or to another name is another version with the same bytes.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_copies_stays_on_the_disk() {
    let world = world().await;
    let fs = mount(&world, "stream_after=1T,part_size=5M");
    let (size, small) = (22 * MIB, 70_000);
    write(&fs, "a", &xosfs::demo::synthetic("a", 0..size)).await;
    write(&fs, "s", &xosfs::demo::synthetic("s", 0..small)).await;
    let name = |n: &str| Name::parse(OsStr::new(n)).unwrap();
    let Lookup::Found(entry) = fs.lookup(ROOT, &name("a")).await.unwrap() else { panic!("missing") };
    let change = xosfs::fs::setattr::Change { perm: Some(0o600), ..Default::default() };
    fs.setattr(entry.ino, None, change).await.unwrap();
    assert!(fs.flush_all(SOON).await.is_empty());
    fs.rename((ROOT, &name("a")), (ROOT, &name("b")), false).await.unwrap();
    fs.rename((ROOT, &name("s")), (ROOT, &name("t")), false).await.unwrap();
    end(fs).await;

    let fs = mount(&world, "");
    for (from, to, size) in [("a", "b", size), ("s", "t", small)] {
        let object = world.object(to).await;
        assert!(fs.reads.range(&object, 0..size).await.unwrap() == xosfs::demo::synthetic(from, 0..size));
        assert_eq!(world.fetched(), 0, "{to}: {:?}", fs.reads.disk().unwrap().stats());
    }
    assert_eq!(super::files_below(&world.dir()).len(), 3);
}

/// An upload that fails leaves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_stored_is_not_kept() {
    let world = world().await;
    let fs = mount(&world, "stream_after=1T,part_size=5M,retries=0");
    let refused = xosfs::demo::Action::Status(403, "AccessDenied".into());
    world.server.knobs().fail(xosfs::demo::Rule::new("CompleteMultipartUpload", refused));
    let name = Name::parse(OsStr::new("k")).unwrap();
    let (_, opened) = fs.create(ROOT, &name, 0o644, (0, 0), mode(libc::O_WRONLY)).await.unwrap();
    let content = xosfs::demo::synthetic("k", 0..24 * MIB);
    fs.write(opened.fh, 0, content, WriteMode::default()).await.unwrap();
    assert!(fs.flush(opened.fh, 1).await.is_err());
    let _ = fs.release(opened.fh).await;
    let disk = fs.reads.disk().unwrap().clone();
    assert!(fs.drain(SOON).await.is_empty());
    assert!(tokio::task::spawn_blocking(move || disk.flush(SOON)).await.unwrap());
    assert_eq!(super::files_below(&world.dir()), Vec::<std::path::PathBuf>::new());
}

//! Where it runs, what it keeps on the disk, and its sample.

use reqwest::Method;
use xosfs::demo::{Options, Server, synthetic};

use super::objects::upload;
use super::{BUCKET, Client, header, start};

#[tokio::test]
async fn a_directory_store_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options { data: Some(dir.path().to_owned()), ..Options::with_bucket(BUCKET) };
    let large = bytes::Bytes::from((0..6 << 20).map(|i: u32| (i % 251) as u8).collect::<Vec<_>>());
    let server = Server::start(options()).await.unwrap();
    let s3 = Client::new(&server, Some(server.keys()));
    s3.put("a//b", &[("x-amz-meta-m", "1"), ("x-amz-tagging", "t=1")], "old").await;
    s3.put("a//b", &[("x-amz-meta-m", "2"), ("x-amz-tagging", "t=1")], large.clone()).await;
    s3.put("deleted", &[], "x").await;
    s3.send(Method::DELETE, "deleted", &[], &[], "").await;
    let (id, xml) = upload(&s3, "pending", &[large.clone(), "end".into()]).await;
    server.store().enable_versioning(BUCKET);
    s3.put("v", &[], "1").await;
    s3.put("v", &[], "2").await;
    let versions = server.store().versions(BUCKET, "v");
    let keys = server.store().list(BUCKET, "");
    let before = server.store().head(BUCKET, keys.first().unwrap());
    server.shutdown().await;

    let server = Server::start(options()).await.unwrap();
    let s3 = Client::new(&server, Some(server.keys()));
    assert_eq!(server.store().list(BUCKET, ""), keys);
    assert_eq!(server.store().head(BUCKET, keys.first().unwrap()), before);
    assert!(s3.get("a//b", &[], &[]).await.bytes().await.unwrap() == large);
    let range = s3.get("a//b", &[], &[("range", "bytes=3000000-3000009")]).await;
    assert!(range.bytes().await.unwrap() == large[3_000_000..3_000_010]);
    assert_eq!(server.store().versions(BUCKET, "v"), versions);
    assert_eq!(s3.get("v", &[("versionId", &versions[0])], &[]).await.text().await.unwrap(), "1");
    let done = s3.send(Method::POST, "pending", &[("uploadId", &id)], &[], xml).await;
    assert!(done.text().await.unwrap().contains("CompleteMultipartUploadResult"));
    assert_eq!(s3.get("pending", &[], &[]).await.bytes().await.unwrap().len(), large.len() + 3);
    server.store().delete(BUCKET, "pending");
    server.store().delete(BUCKET, "v");
    server.store().delete(BUCKET, keys.first().unwrap());
    // Nothing is left of what was deleted.
    assert_eq!(std::fs::read_dir(dir.path().join("data")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(dir.path().join("parts")).unwrap().count(), 0);
}

#[test]
fn a_server_on_its_own_threads_needs_no_runtime() {
    let server = Server::start_thread(Options::with_bucket(BUCKET)).unwrap();
    server.store().put_synthetic(BUCKET, "huge", 20 << 40);
    let client = Client::new(&server, Some(server.keys()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bytes = runtime.block_on(async {
        let range = format!("bytes={}-{}", 15_u64 << 40, (15_u64 << 40) + 3_000_000);
        client.get("huge", &[], &[("range", &range)]).await.bytes().await.unwrap()
    });
    assert!(bytes == synthetic("huge", 15 << 40..(15 << 40) + 3_000_001));
    let address = server.address();
    drop(server);
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[tokio::test]
async fn the_sample_bucket_has_something_of_everything() {
    let (server, s3) = start().await;
    xosfs::demo::sample(server.store(), BUCKET);
    let anonymous = Client::new(&server, None);
    assert_eq!(anonymous.get("attributes/public.txt", &[], &[]).await.status(), 200);
    assert_eq!(s3.get("archive/2019.txt", &[], &[]).await.status(), 403);
    assert_eq!(s3.get("odd//empty component.txt", &[], &[]).await.status(), 200);
    let tagged = s3.get("attributes/tagged.txt", &[], &[]).await;
    assert_eq!((header(&tagged, "x-amz-tagging-count"), header(&tagged, "x-amz-meta-author")), ("2", "somebody"));
    let png = server.store().get(BUCKET, "pictures/gradient.png").unwrap();
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png.ends_with(b"IEND\xaeB`\x82"));
}

#[tokio::test]
async fn a_data_directory_has_one_server() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options { data: Some(dir.path().to_owned()), ..Options::with_bucket(BUCKET) };
    let server = Server::start(options()).await.unwrap();
    let refused = Server::start(options()).await.err().unwrap();
    assert!(refused.to_string().contains("in use"), "{refused}");
    server.shutdown().await;
    Server::start(options()).await.unwrap();
}

//! What the client does when the network or the store fails: the outcome, and how many requests it took.
//!
//! The server here is a script: it answers the n-th request with the n-th reply, byte by byte as written, so that
//! every fault (a cut body, a silent connection, a wrong range) is exactly the one that is meant.

mod answers;
mod checksums;
mod dialects;
mod retries;
mod script;

use bytes::Bytes;
use xosfs::Error;
use xosfs::key::Key;
use xosfs::s3::*;

fn key() -> Key {
    Key::new("dir/a b").unwrap()
}

async fn get(s3: &S3) -> Result<Bytes, Error> {
    s3.get(&key(), None, None, None).await?.body.collect().await
}

async fn put(s3: &S3, condition: Condition) -> Result<Stored, Error> {
    s3.put(&key(), Bytes::from_static(b"hello").into(), &NewObject::default(), &condition).await
}

fn parts() -> Vec<Part> {
    vec![Part { number: 1, etag: ETag::new("5d41402abc4b2a76b9719d911017c592"), size: 5, checksum: None }]
}

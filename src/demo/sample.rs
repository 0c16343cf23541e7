//! A bucket with something of everything, for a first look.

use super::store::{Attributes, Store};

/// Fills `bucket`, which must exist, with sample objects.
pub fn sample(store: &Store, bucket: &str) {
    let typed = |content_type: &str| Attributes { content_type: Some(content_type.into()), ..Attributes::default() };
    let text = || typed("text/plain; charset=utf-8");
    store.put_with(bucket, "README.txt", README, text(), "private");
    store.put_with(bucket, "notes/todo.txt", "- mount a bucket\n- look around\n- write a file\n", text(), "private");
    store.put_with(
        bucket,
        "notes/2026/summer/ideas.md",
        "# Ideas\n\nNested as deep as you like.\n",
        typed("text/markdown"),
        "private",
    );
    store.put_with(bucket, "notes/2026/winter/plans.md", "# Plans\n\nSkiing.\n", typed("text/markdown"), "private");
    store.put_with(bucket, "pictures/gradient.png", gradient(64, 64), typed("image/png"), "private");
    let mut tagged = text();
    tagged.tags = vec![("project".into(), "demo".into()), ("colour".into(), "blue & green".into())];
    tagged.metadata.insert("author".into(), "somebody".into());
    store.put_with(bucket, "attributes/tagged.txt", "This object has tags and metadata.\n", tagged, "private");
    store.put_with(bucket, "attributes/public.txt", "Everybody may read this object.\n", text(), "public-read");
    let mut archived = text();
    archived.storage_class = Some("GLACIER".into());
    store.put_with(bucket, "archive/2019.txt", "Restored from the archive.\n", archived, "private");
    store.put_with(bucket, "odd//empty component.txt", "A key with two slashes in a row.\n", text(), "private");
    store.put_with(bucket, "empty directory/", "", typed("application/x-directory"), "private");
}

const README: &str = "\
This is the sample bucket of xosfs. Everything is an object in an S3 server inside the same process.

notes/         text files in nested directories
pictures/      an image
attributes/    objects with tags, metadata and a public ACL
archive/       an object in an archive class: it must be restored before it can be read
odd/           a key that is no path
";

/// A PNG of red and green gradients, with stored (uncompressed) deflate blocks.
fn gradient(width: u32, height: u32) -> Vec<u8> {
    let mut raw = Vec::new();
    for y in 0..height {
        // Filter type 0.
        raw.push(0);
        for x in 0..width {
            raw.extend_from_slice(&[(x * 255 / width.max(1)) as u8, (y * 255 / height.max(1)) as u8, 128]);
        }
    }
    let mut zlib = vec![0x78, 0x01];
    let mut blocks = raw.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        let len = block.len() as u16;
        zlib.push(u8::from(blocks.peek().is_none()));
        zlib.extend_from_slice(&len.to_le_bytes());
        zlib.extend_from_slice(&(!len).to_le_bytes());
        zlib.extend_from_slice(block);
    }
    zlib.extend_from_slice(&adler32(&raw).to_be_bytes());
    let mut header = Vec::new();
    header.extend_from_slice(&width.to_be_bytes());
    header.extend_from_slice(&height.to_be_bytes());
    // Eight bits a channel, RGB, no interlacing.
    header.extend_from_slice(&[8, 2, 0, 0, 0]);
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in [(b"IHDR", &header), (b"IDAT", &zlib), (b"IEND", &Vec::new())] {
        png.extend_from_slice(&(data.len() as u32).to_be_bytes());
        let start = png.len();
        png.extend_from_slice(kind);
        png.extend_from_slice(data);
        let crc = s3s::crypto::Crc32::checksum_u32(&png[start..]);
        png.extend_from_slice(&crc.to_be_bytes());
    }
    png
}

fn adler32(bytes: &[u8]) -> u32 {
    let (a, b) = bytes.iter().fold((1_u32, 0_u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    b << 16 | a
}

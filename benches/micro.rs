//! What the daemon does by itself for every request, without kernel and network: `cargo bench --bench micro`.
//!
//! The figures are for comparing two versions of this code on one machine, one after the other:
//! `cargo bench --bench micro -- --save-baseline before`, then `-- --baseline before`.

use std::fmt::Write;
use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use xosfs::budget::Budget;
use xosfs::cache::{BLOCK, BlockCache, CachedObject, Found, Touch};
use xosfs::key::{Key, Prefix};
use xosfs::s3::{ETag, ObjectId, page_of};
use xosfs::write::Limits;
use xosfs::write::plan::{plan, untouched};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn plans(c: &mut Criterion) {
    let limits = Limits::default();
    let mut group = c.benchmark_group("plan");
    group.bench_function("new file of 1 GiB", |b| b.iter(|| plan(black_box(&[]), GIB, &limits)));
    let there = 0..10 * GIB;
    let append = std::slice::from_ref(&there);
    group.bench_function("append to 10 GiB", |b| b.iter(|| plan(black_box(append), 10 * GIB + MIB, &limits)));
    // 4 KiB written in every MiB: as many ranges as there can be of a file that is changed everywhere.
    let dirty: Vec<Range<u64>> = (0..10 * 1024).map(|i| i * MIB..i * MIB + 4096).collect();
    group.bench_function("10,240 changes in 10 GiB", |b| {
        b.iter(|| plan(&untouched(10 * GIB, black_box(&dirty)), 10 * GIB, &limits));
    });
    group.finish();
}

/// A cache of 1 GiB that holds `blocks` blocks of one object.
fn filled(blocks: u64) -> (Arc<BlockCache>, Arc<CachedObject>) {
    let cache = BlockCache::new(Budget::new(1 << 30));
    let key = Key::new("directory/object").expect("a key that can be");
    let object = cache.object(&ObjectId { key, etag: ETag::new("\"e\""), version: None });
    for claim in cache.claim_absent(&object, 0..blocks) {
        claim.fill(Bytes::from_static(&[0; BLOCK]));
    }
    (cache, object)
}

fn lookups(c: &mut Criterion) {
    let mut group = c.benchmark_group("cache");
    let (cache, object) = filled(4096);
    let mut at = 0;
    let mut next = move || {
        at = (at + 1663) % 4088;
        at
    };
    group.bench_function("1 block, answered on the spot", |b| {
        b.iter(|| {
            let i = next();
            cache.all_ready(&object, i..i + 1, Touch::Young)
        });
    });
    let mut at = 0;
    group.bench_function("8 blocks of a sequential read", |b| {
        b.iter(|| {
            at = (at + 8) % 4088;
            cache.all_ready(&object, at..at + 8, Touch::Keep)
        });
    });
    group.bench_function("miss, claimed and filled", |b| {
        b.iter_batched(
            || filled(0),
            |(cache, object)| {
                for found in cache.find(&object, 0..8, Touch::Young) {
                    if let Found::Claimed(claim) = found {
                        claim.fill(Bytes::from_static(&[0; BLOCK]));
                    }
                }
                (cache, object)
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// A page of 1,000 entries as a store sends it, a tenth of them directories.
fn listing() -> String {
    let mut text = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
         <Name>bucket</Name><Prefix>data/</Prefix><MaxKeys>1000</MaxKeys><EncodingType>url</EncodingType>\
         <IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>",
    );
    for i in 0..900 {
        let _ = write!(
            text,
            "<Contents><Key>data/file%20{i:05}.bin</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified>\
             <ETag>&quot;9e107d9d372bb6826bd81d3542a419d6&quot;</ETag><Size>{}</Size>\
             <StorageClass>STANDARD</StorageClass></Contents>",
            i * 1000
        );
    }
    for i in 0..100 {
        let _ = write!(text, "<CommonPrefixes><Prefix>data/sub{i:03}/</Prefix></CommonPrefixes>");
    }
    text.push_str("</ListBucketResult>");
    text
}

fn listings(c: &mut Criterion) {
    let mut group = c.benchmark_group("listing of 1,000 entries");
    group.throughput(Throughput::Elements(1000));
    let body = listing();
    group.bench_function("XML", |b| b.iter(|| page_of(black_box(body.as_bytes()))));
    let page = page_of(body.as_bytes()).expect("a listing");
    assert_eq!(page.objects.len() + page.prefixes.len(), 1000);
    let prefix = Prefix::new("data/").expect("a prefix that can be");
    group.bench_function("merge of files and directories", |b| {
        b.iter(|| xosfs::fs::parse_page(&prefix, black_box(&page), Vec::new(), false, false));
    });
    group.finish();
}

criterion_group!(benches, plans, lookups, listings);
criterion_main!(benches);

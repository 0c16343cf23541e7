//! Listings, page by page.

use std::time::Duration;

use super::{BUCKET, Client, element, elements, start};

/// All keys and prefixes of a listing, page by page.
async fn walk(s3: &Client, v2: bool, query: &[(&str, &str)]) -> (Vec<String>, Vec<String>, usize) {
    let (mut keys, mut prefixes, mut pages) = (Vec::new(), Vec::new(), 0);
    let mut from = String::new();
    loop {
        let mut all = query.to_vec();
        if v2 {
            all.push(("list-type", "2"));
        }
        if !from.is_empty() {
            all.push((if v2 { "continuation-token" } else { "marker" }, &from));
        }
        let text = s3.get("", &all, &[]).await.text().await.unwrap();
        pages += 1;
        keys.extend(elements(&text, "Key").iter().map(|s| s.to_string()));
        for common in elements(&text, "CommonPrefixes") {
            prefixes.push(element(common, "Prefix").unwrap().to_owned());
        }
        if element(&text, "IsTruncated") != Some("true") {
            return (keys, prefixes, pages);
        }
        let next = element(&text, if v2 { "NextContinuationToken" } else { "NextMarker" });
        from = next.map_or_else(|| keys.last().unwrap().clone(), str::to_owned);
    }
}

#[tokio::test]
async fn listings_page_through_keys_and_prefixes() {
    let (server, s3) = start().await;
    for key in ["a", "b/1", "b/2", "b/3", "b", "c/x/y", "c/z", "d", "e/", "e/f", "é/g"] {
        server.store().put(BUCKET, key, key);
    }
    for v2 in [false, true] {
        for max in ["1", "2", "3", "1000"] {
            let (keys, prefixes, pages) = walk(&s3, v2, &[("max-keys", max), ("delimiter", "/")]).await;
            assert_eq!(keys, ["a", "b", "d"], "v2={v2} max={max}");
            assert_eq!(prefixes, ["b/", "c/", "e/", "é/"], "v2={v2} max={max}");
            assert_eq!(pages, 7_usize.div_ceil(max.parse().unwrap()));
            let (keys, prefixes, _) = walk(&s3, v2, &[("max-keys", max), ("delimiter", "/"), ("prefix", "e/")]).await;
            assert_eq!((keys, prefixes), (vec!["e/".to_owned(), "e/f".to_owned()], vec![]));
            let (keys, ..) = walk(&s3, v2, &[("max-keys", max)]).await;
            assert_eq!(keys, server.store().list(BUCKET, ""));
        }
    }
    let text = s3.get("", &[("list-type", "2"), ("start-after", "b/2"), ("max-keys", "2")], &[]).await;
    let text = text.text().await.unwrap();
    assert_eq!(elements(&text, "Key"), ["b/3", "c/x/y"]);
    assert_eq!(element(&text, "KeyCount"), Some("2"));
    // NextMarker comes with a delimiter only.
    let text = s3.get("", &[("max-keys", "2")], &[]).await.text().await.unwrap();
    assert_eq!((element(&text, "IsTruncated"), element(&text, "NextMarker")), (Some("true"), None));
}

#[tokio::test]
async fn encoded_listings_carry_any_key() {
    let (server, s3) = start().await;
    let key = "a b+c%d\u{1}é&<";
    server.store().put(BUCKET, key, "x");
    let text = s3.get("", &[("list-type", "2"), ("encoding-type", "url")], &[]).await.text().await.unwrap();
    assert_eq!(element(&text, "EncodingType"), Some("url"));
    let shown = element(&text, "Key").unwrap();
    assert_eq!(shown, "a+b%2Bc%25d%01%C3%A9%26%3C");
}

#[tokio::test]
async fn a_page_of_a_large_bucket_is_quick() {
    let (server, s3) = start().await;
    for i in 0..100_000 {
        server.store().put(BUCKET, &format!("{:03}/{i:06}", i / 1000), bytes::Bytes::new());
    }
    for query in [&[("list-type", "2"), ("prefix", "050/")][..], &[("list-type", "2"), ("delimiter", "/")]] {
        let mut best = Duration::MAX;
        for _ in 0..3 {
            let begun = std::time::Instant::now();
            let text = s3.get("", query, &[]).await.text().await.unwrap();
            best = best.min(begun.elapsed());
            assert_eq!(element(&text, "KeyCount"), Some(if query[1].0 == "prefix" { "1000" } else { "100" }));
        }
        println!("{query:?}: {best:?}");
        // The goal is 10 ms (1.5 ms measured); the rest is for busy machines.
        assert!(best < Duration::from_millis(100), "{best:?}");
    }
}

#[tokio::test]
async fn small_pages_and_version_1_answers_can_be_had() {
    let (server, s3) = start().await;
    for key in ["a", "b", "c", "d/1", "e/1"] {
        server.store().put(BUCKET, key, "x");
    }
    server.knobs().set(|b| b.page_size = Some(2));
    let (keys, _, pages) = walk(&s3, true, &[]).await;
    assert_eq!((keys.len(), pages), (5, 3));
    server.knobs().set(|b| b.v1_only = true);
    let text = s3.get("", &[("list-type", "2"), ("start-after", "b"), ("delimiter", "/")], &[]).await;
    let text = text.text().await.unwrap();
    assert_eq!(elements(&text, "Key"), ["a", "b"]);
    assert_eq!((element(&text, "KeyCount"), element(&text, "NextContinuationToken")), (None, None));
    assert_eq!((element(&text, "Marker"), element(&text, "NextMarker")), (Some(""), Some("b")));
    assert_eq!(walk(&s3, false, &[("delimiter", "/")]).await.1, ["d/", "e/"]);
}

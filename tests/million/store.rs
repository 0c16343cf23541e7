//! A store that computes its listings: however many keys there are, none is in memory.
//!
//! It answers ListObjectsV2, HEAD of its keys, and says of everything else that it is not there. Its keys need no
//! escapes.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Entries of a page at most.
const PAGE: usize = 1000;

/// Keys in order, by number.
pub type Keys = fn(u64) -> String;

pub struct Store {
    pub endpoint: String,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    lists: AtomicU64,
    others: AtomicU64,
}

/// One page: keys and common prefixes, and where the next one begins.
#[derive(Debug, Default, PartialEq, Eq)]
struct Page {
    keys: Vec<String>,
    prefixes: Vec<String>,
    next: Option<String>,
}

impl Store {
    /// With `count` keys. Its threads end with the process.
    pub fn start(count: u64, keys: Keys) -> Store {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let counts: Arc<Counts> = Arc::default();
        let counted = counts.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, counted) = (stream.unwrap(), counted.clone());
                // A client that goes away ends its thread.
                std::thread::spawn(move || serve(&stream, count, keys, &counted));
            }
        });
        Store { endpoint, counts }
    }

    /// Listings, and all other requests, since the last call.
    pub fn requests(&self) -> (u64, u64) {
        (self.counts.lists.swap(0, Ordering::Relaxed), self.counts.others.swap(0, Ordering::Relaxed))
    }
}

fn serve(stream: &TcpStream, count: u64, keys: Keys, counts: &Counts) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut lines = BufReader::new(stream).lines();
    let mut writer = stream;
    loop {
        let Some(request) = lines.next().transpose()? else { return Ok(()) };
        // No request that is answered has a body.
        while lines.next().transpose()?.is_some_and(|header| !header.is_empty()) {}
        let mut words = request.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let fields: Vec<(String, String)> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let of = |name: &str| fields.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value);
        let answer = if method == "GET" && of("list-type") == "2" {
            counts.lists.fetch_add(1, Ordering::Relaxed);
            let after = [of("continuation-token"), of("start-after")].into_iter().find(|t| !t.is_empty());
            let max = of("max-keys").parse().unwrap_or(PAGE).min(PAGE);
            let page = page(count, keys, of("prefix"), of("delimiter"), after.unwrap_or_default(), max);
            let body = xml(&page, of("prefix"));
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/xml\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        } else if let Some(key) = path.splitn(3, '/').nth(2).filter(|key| method == "HEAD" && has(count, keys, key)) {
            counts.others.fetch_add(1, Ordering::Relaxed);
            let etag = etag(key);
            format!(
                "HTTP/1.1 200 OK\r\netag: \"{etag:032x}\"\r\nlast-modified: Sun, 22 Nov 2026 10:20:30 GMT\r\n\
                 content-length: {}\r\n\r\n",
                size(key)
            )
        } else {
            counts.others.fetch_add(1, Ordering::Relaxed);
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned()
        };
        writer.write_all(answer.as_bytes())?;
    }
}

/// As many distinct bytes as a real one has.
fn etag(key: &str) -> u64 {
    xosfs::key::stable_hash(key.as_bytes())
}

/// Bytes of an object.
pub fn size(key: &str) -> u64 {
    etag(key) % 100_000
}

/// The number of the first key from `from` on for which `is` holds: it does for all that follow.
fn first(from: u64, count: u64, keys: Keys, is: &dyn Fn(&str) -> bool) -> u64 {
    let (mut low, mut high) = (from, count);
    while low < high {
        let middle = low.midpoint(high);
        if is(&keys(middle)) { high = middle } else { low = middle + 1 }
    }
    low
}

fn has(count: u64, keys: Keys, key: &str) -> bool {
    let at = first(0, count, keys, &|k| k >= key);
    at < count && keys(at) == key
}

fn page(count: u64, keys: Keys, prefix: &str, delimiter: &str, after: &str, max: usize) -> Page {
    let passed = |common: &str, from: u64| first(from, count, keys, &|key| key > common && !key.starts_with(common));
    let mut at = first(0, count, keys, &|key| key >= prefix && key > after);
    if !delimiter.is_empty() && after.len() > prefix.len() && after.ends_with(delimiter) {
        at = passed(after, at);
    }
    let mut page = Page::default();
    let mut last = String::new();
    while at < count {
        let key = keys(at);
        let Some(rest) = key.strip_prefix(prefix) else { break };
        if page.keys.len() + page.prefixes.len() == max {
            page.next = Some(last);
            break;
        }
        match rest.find(delimiter).filter(|_| !delimiter.is_empty()) {
            Some(end) => {
                last = key[..prefix.len() + end + delimiter.len()].to_owned();
                at = passed(&last, at);
                page.prefixes.push(last.clone());
            }
            None => {
                last.clone_from(&key);
                page.keys.push(key);
                at += 1;
            }
        }
    }
    page
}

fn xml(page: &Page, prefix: &str) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(256 * (page.keys.len() + page.prefixes.len() + 1));
    let cut = page.next.is_some();
    write!(text, "<ListBucketResult><Prefix>{prefix}</Prefix><IsTruncated>{cut}</IsTruncated>").unwrap();
    text.push_str("<EncodingType>url</EncodingType>");
    if let Some(next) = &page.next {
        write!(text, "<NextContinuationToken>{next}</NextContinuationToken>").unwrap();
    }
    for key in &page.keys {
        write!(
            text,
            "<Contents><Key>{key}</Key><LastModified>2026-11-22T10:20:30.000Z</LastModified>\
             <ETag>&quot;{:032x}&quot;</ETag><Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
            etag(key),
            size(key)
        )
        .unwrap();
    }
    for common in &page.prefixes {
        write!(text, "<CommonPrefixes><Prefix>{common}</Prefix></CommonPrefixes>").unwrap();
    }
    text.push_str("</ListBucketResult>");
    text
}

#[test]
fn pages_are_those_of_a_store() {
    fn keys(n: u64) -> String {
        format!("d{:02}/f{:03}", n / 10, n % 10)
    }
    let whole = |prefix: &str, delimiter: &str, max: usize| {
        let (mut all, mut after, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = page(300, keys, prefix, delimiter, &after, max);
            assert!(page.keys.len() + page.prefixes.len() <= max);
            pages += 1;
            all.extend(page.keys);
            all.extend(page.prefixes);
            match page.next {
                Some(next) => after = next,
                None => return (all, pages),
            }
        }
    };
    let all: Vec<String> = (0..300).map(keys).collect();
    assert_eq!(whole("", "", 70), (all.clone(), 5));
    assert_eq!(whole("", "/", 7), ((0..30).map(|n| format!("d{n:02}/")).collect(), 5));
    assert_eq!(whole("d07/", "/", 4), (all[70..80].to_vec(), 3));
    assert_eq!(page(300, keys, "d07", "/", "", 4).prefixes, ["d07/"]);
    assert_eq!(page(300, keys, "x", "", "", 4), Page::default());
    assert!(has(300, keys, "d29/f009") && !has(300, keys, "d29/f010") && !has(300, keys, "d2"));
}

//! Listings, one page at a time, from stores that know either version, some of it, or less than they say.
//!
//! 1. V2 is asked for first; a store that answers it with a V1 body, or refuses it, is asked for V1 from then on.
//! 2. Keys are asked for percent-encoded, because XML cannot carry all of them, and decoded only when the answer
//!    says that they are; a store that loses its place in encoded listings is asked for plain ones.
//! 3. A listing must get ahead: a page that repeats the last one is an error, never a loop.

use std::sync::atomic::Ordering;

use percent_encoding::percent_decode_str;
use rusty_s3::Method;

use super::operation::Op;
use super::request::Action;
use super::types::{Continue, ETag, ListQuery, Listed, Page};
use super::{ListVersion, S3, xml};
use crate::error::{Error, Kind, Result};

/// A page as the store wrote it.
#[derive(Debug, Default)]
struct RawPage {
    page: Page,
    truncated: bool,
    token: Option<String>,
    marker: Option<String>,
}

fn read(document: &xml::Node) -> RawPage {
    let encoded = document.text_of("EncodingType").eq_ignore_ascii_case("url");
    let text = |value: &str| {
        if encoded {
            // Some servers write a space as `+`; a real plus is always `%2B`.
            let value = value.replace('+', " ");
            percent_decode_str(&value).decode_utf8_lossy().into_owned()
        } else {
            value.to_owned()
        }
    };
    let mut objects: Vec<Listed> = document
        .all("Contents")
        .filter(|c| c.child("Key").is_some())
        .map(|c| Listed {
            key: text(c.text_of("Key")),
            size: c.text_of("Size").trim().parse().unwrap_or(0),
            etag: c.some("ETag").map(|e| ETag::new(&e)),
            last_modified: xml::time(c.text_of("LastModified")),
            storage_class: c.some("StorageClass"),
            version: None,
        })
        .collect();
    let mut prefixes: Vec<String> =
        document.all("CommonPrefixes").flat_map(|c| c.all("Prefix")).map(|p| text(&p.text)).collect();
    // Not every store sorts by bytes, or at all.
    if !objects.is_sorted_by(|a, b| a.key < b.key) {
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        objects.dedup_by(|a, b| a.key == b.key);
    }
    if !prefixes.is_sorted_by(|a, b| a < b) {
        prefixes.sort_unstable();
        prefixes.dedup();
    }
    RawPage {
        page: Page { objects, prefixes, next: None },
        truncated: document.is_true("IsTruncated"),
        token: document.some("NextContinuationToken"),
        marker: document.some("NextMarker").map(|m| text(&m)),
    }
}

/// What the body of a listing says: what `benches/micro.rs` times. Errors: [`Kind::Io`] when it is no XML.
#[doc(hidden)]
pub fn page_of(body: &[u8]) -> Result<Page> {
    let document = xml::parse(body).map_err(|why| Error::new(Kind::Io, format!("list objects: {why}")))?;
    Ok(read(&document).page)
}

impl RawPage {
    fn first(&self) -> Option<&str> {
        let (object, prefix) = (self.page.objects.first().map(|o| o.key.as_str()), self.page.prefixes.first());
        object.into_iter().chain(prefix.map(String::as_str)).min()
    }

    fn last(&self) -> Option<&str> {
        let (object, prefix) = (self.page.objects.last().map(|o| o.key.as_str()), self.page.prefixes.last());
        object.into_iter().chain(prefix.map(String::as_str)).max()
    }

    /// Where V1 goes on.
    fn next_marker(&self) -> Option<String> {
        self.marker.clone().or_else(|| self.last().map(str::to_owned))
    }
}

fn stuck(prefix: &str) -> Error {
    Error::new(Kind::Io, "list objects: the store repeats itself and would never end")
        .with_key(prefix)
        .with_fix("try list_version=v1 or v2")
}

impl S3 {
    /// One page in key order.
    ///
    /// Errors: [`Kind::Io`] when the store does not get ahead or answers nonsense.
    pub async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        let chosen = self.shared().settings.list_version;
        let is_token = matches!(query.from, Some(Continue::Token(_)));
        // A token means something to V2 only.
        if !is_token && (chosen == ListVersion::V1 || self.learned().list_v1.load(Ordering::Relaxed)) {
            return self.list_v1(query).await;
        }
        let raw = match self.ask(query, true).await {
            Ok(raw) => raw,
            Err(error)
                if chosen == ListVersion::Auto
                    && !is_token
                    && matches!(error.kind(), Kind::Invalid | Kind::Unsupported) =>
            {
                let page = self.list_v1(query).await?;
                self.learned().list_v1.store(true, Ordering::Relaxed);
                return Ok(page);
            }
            Err(error) => return Err(error),
        };
        let mut page = raw;
        if !page.truncated {
            return Ok(page.page);
        }
        match (&page.token, &query.from) {
            (Some(token), Some(Continue::Token(old))) if token == old => Err(stuck(query.prefix)),
            (Some(token), _) => {
                page.page.next = Some(Continue::Token(token.clone()));
                Ok(page.page)
            }
            (None, None) if chosen == ListVersion::Auto => {
                // A V1 body: the page is good, the way on is V1's.
                self.learned().list_v1.store(true, Ordering::Relaxed);
                let next = page.next_marker().ok_or_else(|| stuck(query.prefix))?;
                page.page.next = Some(Continue::After(next));
                Ok(page.page)
            }
            (None, Some(Continue::After(_))) if chosen == ListVersion::Auto => {
                // A V1 server does not know `start-after`: this page may begin anywhere.
                self.learned().list_v1.store(true, Ordering::Relaxed);
                self.list_v1(query).await
            }
            (None, _) => Err(stuck(query.prefix)),
        }
    }

    async fn list_v1(&self, query: &ListQuery<'_>) -> Result<Page> {
        let marker = match &query.from {
            Some(Continue::After(key)) => Some(key.as_str()),
            Some(Continue::Token(_)) => {
                return Err(Error::new(Kind::Invalid, "list objects: a token of list v2 cannot go on with v1"));
            }
            None => None,
        };
        let mut raw = self.ask(query, false).await?;
        let ignored = |raw: &RawPage| marker.is_some_and(|m| raw.first().is_some_and(|f| f <= m));
        if ignored(&raw) && !self.learned().no_encoding.load(Ordering::Relaxed) {
            // Parallel file systems of OBS forget the marker when keys are encoded.
            let plain = self.ask_v1(query, false).await?;
            if !ignored(&plain) {
                self.learned().no_encoding.store(true, Ordering::Relaxed);
            }
            raw = plain;
        }
        let next = raw.next_marker();
        if let Some(marker) = marker {
            // Some servers begin at the marker, not after it.
            raw.page.objects.retain(|o| o.key.as_str() > marker);
            raw.page.prefixes.retain(|p| p.as_str() > marker);
        }
        if raw.truncated {
            match next {
                Some(next) if marker.is_none_or(|m| next.as_str() > m) => raw.page.next = Some(Continue::After(next)),
                _ => return Err(stuck(query.prefix)),
            }
        }
        Ok(raw.page)
    }

    async fn ask(&self, query: &ListQuery<'_>, v2: bool) -> Result<RawPage> {
        if !v2 {
            return self.ask_v1(query, !self.learned().no_encoding.load(Ordering::Relaxed)).await;
        }
        let action = self.list_action(query, true).query("list-type", "2");
        let action = match &query.from {
            Some(Continue::Token(token)) => action.query("continuation-token", token.as_str()),
            Some(Continue::After(key)) => action.query("start-after", key.as_str()),
            None => action,
        };
        self.page(&action).await
    }

    async fn ask_v1(&self, query: &ListQuery<'_>, encoded: bool) -> Result<RawPage> {
        let action = self.list_action(query, encoded);
        let action = match &query.from {
            Some(Continue::After(key)) => action.query("marker", key.as_str()),
            _ => action,
        };
        self.page(&action).await
    }

    fn list_action<'a>(&self, query: &ListQuery<'_>, encoded: bool) -> Action<'a> {
        let mut action = Action::new(Op::ListObjects, Method::Get, "").query("prefix", query.prefix);
        if encoded {
            action = action.query("encoding-type", "url");
        }
        if query.delimited {
            action = action.query("delimiter", "/");
        }
        if let Some(most) = query.max_keys {
            action = action.query("max-keys", most.clamp(1, 1000).to_string());
        }
        action
    }

    async fn page(&self, action: &Action<'_>) -> Result<RawPage> {
        let document = self.fetch(action).await?.document(Op::ListObjects)?;
        if document.name != "ListBucketResult" {
            return Err(Error::new(Kind::Io, format!("list objects: answer is a {}", document.name)));
        }
        Ok(read(&document))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(inner: &str) -> RawPage {
        read(&xml::parse(format!("<ListBucketResult>{inner}</ListBucketResult>").as_bytes()).unwrap())
    }

    fn object(key: &str) -> String {
        format!("<Contents><Key>{key}</Key><Size>1</Size><ETag>&quot;e&quot;</ETag></Contents>")
    }

    // XOS-OBJ-02
    #[test]
    fn v1_goes_on_after_the_greater_of_last_key_and_last_prefix() {
        let p = page(&format!("{}<CommonPrefixes><Prefix>b/</Prefix></CommonPrefixes>", object("a")));
        assert_eq!(p.next_marker().as_deref(), Some("b/"));
        let p = page(&format!("{}<CommonPrefixes><Prefix>b/</Prefix></CommonPrefixes>", object("c")));
        assert_eq!(p.next_marker().as_deref(), Some("c"));
        let p = page(&format!("<NextMarker>x</NextMarker>{}", object("a")));
        assert_eq!(p.next_marker().as_deref(), Some("x"));
        assert_eq!(page("").next_marker(), None);
    }

    #[test]
    fn keys_are_decoded_only_when_the_answer_says_so() {
        let p = page(&object("a%2Bb+c"));
        assert_eq!(p.page.objects[0].key, "a%2Bb+c");
        let p = page(&format!("<EncodingType>url</EncodingType>{}", object("a%2Bb+c%01")));
        assert_eq!(p.page.objects[0].key, "a+b c\u{1}");
        assert_eq!(p.page.objects[0].etag, Some(ETag::new("e")));
    }

    #[test]
    fn unsorted_pages_are_sorted_and_repeats_dropped() {
        let p = page(&format!("{}{}{}", object("b"), object("a"), object("b")));
        let keys: Vec<_> = p.page.objects.iter().map(|o| o.key.as_str()).collect();
        assert_eq!(keys, ["a", "b"]);
    }

    #[test]
    fn what_is_missing_means_nothing() {
        let p = page("<IsTruncated>false</IsTruncated><Contents><Key>d/</Key></Contents>");
        assert!(!p.truncated && p.token.is_none());
        assert_eq!((p.page.objects[0].size, &p.page.objects[0].storage_class), (0, &None));
    }
}

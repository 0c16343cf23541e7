//! The store's documents, read tolerantly and written strictly.
//!
//! 1. Servers differ in namespaces, prefixes, order and additional elements: a document becomes a small tree of
//!    local names, and callers ask it for what they know.
//! 2. Documents come from the network: a DTD is refused (no entity tricks), depth is bounded, and the size is
//!    bounded by the reader of the body.
//! 3. Keys may hold characters that XML 1.0 cannot carry: [`is_writable`] tells before one is written.

use std::time::SystemTime;

use quick_xml::Reader;
use quick_xml::events::Event;

/// Deepest document of S3 is an ACL with six levels.
const MAX_DEPTH: usize = 32;

/// One element: its local name, its text (concatenated, entities resolved) and its children in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub name: String,
    pub text: String,
    pub children: Vec<Node>,
}

impl Node {
    /// The first child of that name.
    pub fn child(&self, name: &str) -> Option<&Node> {
        self.children.iter().find(|c| c.name == name)
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Node> {
        self.children.iter().filter(move |c| c.name == name)
    }

    /// Text of the first child of that name; an absent child and an empty one are both "".
    pub fn text_of(&self, name: &str) -> &str {
        self.child(name).map_or("", |c| c.text.as_str())
    }

    /// Text of the first child of that name, if it is there and not empty.
    pub fn some(&self, name: &str) -> Option<String> {
        self.child(name).map(|c| c.text.clone()).filter(|t| !t.is_empty())
    }

    pub fn is_true(&self, name: &str) -> bool {
        self.text_of(name).trim().eq_ignore_ascii_case("true")
    }

    /// The first element of that name anywhere below, this one included.
    pub fn find(&self, name: &str) -> Option<&Node> {
        if self.name == name {
            return Some(self);
        }
        self.children.iter().find_map(|c| c.find(name))
    }
}

/// Reads a whole document. The error says what is wrong with it, without quoting it.
pub(super) fn parse(bytes: &[u8]) -> Result<Node, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "document is not UTF-8".to_owned())?;
    // Some servers send blanks ahead of a slow answer, some a byte order mark.
    let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}').trim());
    let mut open: Vec<Node> = Vec::new();
    let mut root = None;
    loop {
        let event = reader.read_event().map_err(|_| format!("broken XML at byte {}", reader.error_position()))?;
        let done = match event {
            Event::Start(e) => {
                if open.len() >= MAX_DEPTH {
                    return Err("XML nested too deeply".into());
                }
                open.push(Node { name: local(e.local_name().as_ref()), ..Node::default() });
                None
            }
            Event::Empty(e) => Some(Node { name: local(e.local_name().as_ref()), ..Node::default() }),
            Event::End(_) => open.pop(),
            Event::Text(e) => {
                if let Some(node) = open.last_mut() {
                    node.text.push_str(&e.decode().map_err(|_| "bad text in XML".to_owned())?);
                }
                None
            }
            Event::CData(e) => {
                if let Some(node) = open.last_mut() {
                    node.text.push_str(&e.decode().map_err(|_| "bad text in XML".to_owned())?);
                }
                None
            }
            Event::GeneralRef(e) => {
                let name = e.decode().map_err(|_| "bad entity in XML".to_owned())?;
                let c = entity(&name).ok_or("unknown entity in XML")?;
                if let Some(node) = open.last_mut() {
                    node.text.push(c);
                }
                None
            }
            Event::DocType(_) => return Err("XML with a DTD refused".into()),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => None,
            Event::Eof => break,
        };
        if let Some(mut node) = done {
            if !node.children.is_empty() {
                // Indentation between elements is no content.
                node.text.clear();
            }
            match open.last_mut() {
                Some(parent) => parent.children.push(node),
                None if root.is_none() => root = Some(node),
                None => return Err("XML with two roots".into()),
            }
        }
    }
    if !open.is_empty() {
        return Err("XML ends too early".into());
    }
    root.ok_or_else(|| "no XML document".into())
}

fn local(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

fn entity(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let digits = name.strip_prefix('#')?;
            let code = match digits.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => digits.parse().ok()?,
            };
            char::from_u32(code)
        }
    }
}

/// The local name of the root element, read without the rest; `None` when this is no XML.
pub(super) fn root_name(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]);
    let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}').trim_start());
    loop {
        match reader.read_event().ok()? {
            Event::Start(e) | Event::Empty(e) => return Some(local(e.local_name().as_ref())),
            Event::Eof => return None,
            _ => {}
        }
    }
}

/// Whether a document ends where its root element does.
pub(super) fn is_whole(body: &[u8], root: &str) -> bool {
    let end = body.trim_ascii_end();
    if end.ends_with(b"/>") {
        // Rare enough (an empty root) to read it all.
        return parse(end).is_ok();
    }
    let Some(tag) = end.strip_suffix(b">") else { return false };
    let Some(open) = tag.iter().rposition(|b| *b == b'<') else { return false };
    let name = tag[open + 1..].trim_ascii_end();
    // `</Root` or `</prefix:Root`, or a comment after it.
    (name.starts_with(b"/") && name.ends_with(root.as_bytes())) || name.starts_with(b"!--")
}

/// What an error document says: `<Error>` of S3 at any depth, which includes STS's `<ErrorResponse>`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ErrorDocument {
    pub code: String,
    pub message: String,
    pub request_id: String,
    pub region: Option<String>,
    pub endpoint: Option<String>,
}

/// `None` when the body is no error document (HTML of a proxy, nothing at all).
pub(super) fn error_document(bytes: &[u8]) -> Option<ErrorDocument> {
    let root = parse(bytes).ok()?;
    let error = root.find("Error")?;
    let request_id = error.some("RequestId").or_else(|| root.some("RequestId")).unwrap_or_default();
    Some(ErrorDocument {
        code: error.text_of("Code").trim().to_owned(),
        message: error.text_of("Message").trim().to_owned(),
        request_id,
        region: error.some("Region"),
        endpoint: error.some("Endpoint"),
    })
}

/// Whether XML 1.0 can carry every character of `text`, escaped or not.
pub(super) fn is_writable(text: &str) -> bool {
    text.chars().all(|c| match c {
        '\t' | '\n' | '\r' => true,
        '\u{fffe}' | '\u{ffff}' => false,
        c => c >= ' ',
    })
}

/// Escapes text content. Line ends become references: a parser would turn a bare `\r` into `\n`.
pub(super) fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\r' => out.push_str("&#13;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push_str("&#9;"),
            c => out.push(c),
        }
    }
}

/// `<name>text</name>`.
pub(super) fn element(name: &str, text: &str, out: &mut String) {
    out.push('<');
    out.push_str(name);
    out.push('>');
    escape(text, out);
    out.push_str("</");
    out.push_str(name);
    out.push('>');
}

/// A time as documents and headers write it: ISO 8601, or the HTTP date. Whole seconds: headers have no more, and a
/// file whose time differs between its listing and its look-up has changed in the eyes of tar and make.
pub(super) fn time(text: &str) -> Option<SystemTime> {
    let text = text.trim();
    if let Ok(t) = text.parse::<jiff::Timestamp>() {
        return jiff::Timestamp::from_second(t.as_second()).ok().map(Into::into);
    }
    jiff::fmt::rfc2822::parse(text).ok().map(|z| z.timestamp().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_local_and_order_is_free() {
        let doc = parse(
            br#"<?xml version="1.0"?>
<s3:ListBucketResult xmlns:s3="http://x"><s3:IsTruncated>TRUE</s3:IsTruncated>
  <Contents><Key>a&amp;b&#x1F600;&lt;</Key></Contents><CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes>
  <Contents><Key> lead</Key><Unknown><Deep/></Unknown></Contents></s3:ListBucketResult>"#,
        )
        .unwrap();
        assert_eq!(doc.name, "ListBucketResult");
        assert!(doc.is_true("IsTruncated"));
        let keys: Vec<_> = doc.all("Contents").map(|c| c.text_of("Key")).collect();
        assert_eq!(keys, ["a&b😀<", " lead"]);
    }

    #[test]
    fn hostile_documents_are_refused() {
        assert!(parse(b"<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>").unwrap_err().contains("DTD"));
        assert!(parse(b"<a>&x;</a>").is_err());
        assert!(parse(b"<a><b></a>").is_err());
        assert!(parse(b"<a><b>").is_err());
        assert!(parse(b"").is_err());
        assert!(parse(b"<html").is_err());
        assert!(parse("<a>".repeat(100).as_bytes()).unwrap_err().contains("deep"));
        assert!(parse(b"<a/><b/>").is_err());
    }

    #[test]
    fn error_documents_of_both_styles() {
        let e = error_document(
            b"  <Error><Code>AuthorizationHeaderMalformed</Code><Message>m</Message><Region>eu-west-1</Region><RequestId>r</RequestId></Error>",
        )
        .unwrap();
        assert_eq!((e.code.as_str(), e.region.as_deref()), ("AuthorizationHeaderMalformed", Some("eu-west-1")));
        let e = error_document(
            b"<ErrorResponse xmlns='u'><Error><Type>Sender</Type><Code>C</Code><Message/></Error><RequestId>q</RequestId></ErrorResponse>",
        )
        .unwrap();
        assert_eq!((e.code.as_str(), e.request_id.as_str()), ("C", "q"));
        assert_eq!(error_document(b"<html><body>busy</body></html>"), None);
        assert_eq!(root_name(b"\n<?xml version='1.0'?>\n<Error><Code>x"), Some("Error".into()));
    }

    #[test]
    fn what_is_written_reads_back() {
        let key = "a\r\n\t<&>\"' é漢";
        let mut out = String::new();
        element("Key", key, &mut out);
        assert_eq!(parse(out.as_bytes()).unwrap().text, key);
        assert!(is_writable(key));
        assert!(!is_writable("\u{1}") && !is_writable("\u{ffff}"));
    }

    #[test]
    fn cut_documents_are_noticed() {
        assert!(is_whole(b"<A><B/></A>\n", "A"));
        assert!(is_whole(b"<s:A></s:A >", "A"));
        assert!(is_whole(b"<A/>", "A"));
        assert!(!is_whole(b"<A><B>1</B>", "A"));
        assert!(!is_whole(b"<A><B>1</", "A"));
        assert!(!is_whole(b"<A><B/>", "A"));
    }

    #[test]
    fn times_of_documents_and_headers() {
        let t = time("2026-01-01T00:00:00.000Z").unwrap();
        assert_eq!(time("Thu, 01 Jan 2026 00:00:00 GMT"), Some(t));
        assert_eq!(time("soon"), None);
    }

    // R9
    #[test]
    fn a_listing_and_a_header_tell_one_time() {
        // Ceph: one version, as ListObjects and as HeadObject have it.
        assert_eq!(time("2026-01-01T00:00:07.998Z"), time("Thu, 01 Jan 2026 00:00:07 GMT"));
    }
}

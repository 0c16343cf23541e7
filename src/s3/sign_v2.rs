//! Signature Version 2, in the `Authorization` header and in the query of presigned URLs, for stores that know nothing
//! newer.
//!
//! Difficulty: which sub-resources are signed differs by server. There is a table for each kind; a parameter outside
//! it is sent but not signed, and when a signature with a disputed name is refused, the next table is tried.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

/// Query parameters that are part of the signed resource, for each kind of store, the likeliest first: the Ceph gateway
/// and the stores built on it; what the vendors' own libraries sign, which is every sub-resource there is; and the text
/// that introduced it, with the gateways of its time.
pub(super) const TABLES: [&[&[&str]]; 3] = [&[OLD, CEPH], &[OLD, CEPH, WIDE], &[OLD]];

const OLD: &[&str] = &[
    "acl",
    "delete",
    "lifecycle",
    "location",
    "logging",
    "notification",
    "partNumber",
    "policy",
    "requestPayment",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "torrent",
    "uploadId",
    "uploads",
    "versionId",
    "versioning",
    "versions",
    "website",
];

/// What the Ceph gateway has more; what MinIO has besides is never sent.
const CEPH: &[&str] = &["cors", "encryption", "object-lock", "policyStatus", "publicAccessBlock", "tagging"];

/// What there is besides.
const WIDE: &[&str] = &["accelerate", "ownershipControls", "replication", "restore"];

fn is_signed(table: usize, name: &str) -> bool {
    TABLES[table].iter().any(|names| names.contains(&name))
}

/// Whether some stores sign this parameter and others do not.
pub(super) fn is_disputed(name: &str) -> bool {
    let signed = (0..TABLES.len()).filter(|table| is_signed(*table, name)).count();
    signed > 0 && signed < TABLES.len()
}

/// What is signed of a request.
pub(super) struct Request<'a> {
    pub method: &'a str,
    /// Empty for requests to the service.
    pub bucket: &'a str,
    /// Path of the URL as sent, percent-encoded; starts with `/`.
    pub path: &'a str,
    /// Whether `path` starts with the bucket.
    pub path_has_bucket: bool,
    pub query: &'a [(&'a str, String)],
    /// Names in lower case, `x-amz-date` or `date` among them; for a presigned URL `date` is its end.
    pub headers: &'a [(String, String)],
    /// Of [`TABLES`].
    pub table: usize,
    /// OBS's own protocol: the same with `x-obs-` for `x-amz-`.
    pub native: bool,
}

const AMZ: &str = "x-amz-";
const OBS: &str = "x-obs-";

/// Headers as OBS's own protocol names them.
pub(super) fn to_native(headers: &mut [(String, String)]) {
    for (name, _) in headers {
        if let Some(rest) = name.strip_prefix(AMZ) {
            *name = format!("{OBS}{rest}");
        }
    }
}

fn string_to_sign(r: &Request<'_>) -> String {
    let header = |name: &str| r.headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v.as_str());
    let prefix = if r.native { OBS } else { AMZ };
    let mut amz: Vec<(&str, &str)> =
        r.headers.iter().filter(|(n, _)| n.starts_with(prefix)).map(|(n, v)| (n.as_str(), v.trim())).collect();
    amz.sort_unstable();
    // The date among the amz headers takes the place of the Date line.
    let dated = amz.iter().any(|(n, _)| n.strip_prefix(prefix) == Some("date"));
    let date = if dated { "" } else { header("date") };
    let mut out = format!("{}\n{}\n{}\n{date}\n", r.method, header("content-md5"), header("content-type"));
    for (name, value) in amz {
        out.push_str(&format!("{name}:{value}\n"));
    }
    if !r.path_has_bucket && !r.bucket.is_empty() {
        out.push('/');
        out.push_str(r.bucket);
    }
    out.push_str(r.path);
    let mut signed: Vec<_> = r.query.iter().filter(|(n, _)| is_signed(r.table, n)).collect();
    signed.sort_unstable();
    for (i, (name, value)) in signed.into_iter().enumerate() {
        out.push(if i == 0 { '?' } else { '&' });
        out.push_str(name);
        if !value.is_empty() {
            out.push('=');
            out.push_str(value);
        }
    }
    out
}

/// HMAC-SHA1 in Base64: of a policy of a form, too.
pub(super) fn signature(secret: &str, text: &str) -> String {
    // HMAC takes keys of any length.
    let mut mac = <Hmac<Sha1> as KeyInit>::new_from_slice(secret.as_bytes()).expect("any key length is valid");
    mac.update(text.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

/// The value of the `Authorization` header.
pub(super) fn authorization(access_key: &str, secret: &str, request: &Request<'_>) -> String {
    let scheme = if request.native { "OBS" } else { "AWS" };
    format!("{scheme} {access_key}:{}", signature(secret, &string_to_sign(request)))
}

/// The `Signature` of a presigned URL.
pub(super) fn presigned(secret: &str, request: &Request<'_>) -> String {
    signature(secret, &string_to_sign(request))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_vectors() {
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        let headers = [("date".to_owned(), "Tue, 27 Mar 2007 19:36:42 +0000".to_owned())];
        let mut request = Request {
            method: "GET",
            bucket: "awsexamplebucket1",
            path: "/photos/puppy.jpg",
            path_has_bucket: false,
            query: &[("prefix", "unsigned".into())],
            headers: &headers,
            table: 0,
            native: false,
        };
        let expected = "AWS AKIAIOSFODNN7EXAMPLE:qgk2+6Sv9/oM7G3qLEjTH1a1l1g=";
        assert_eq!(authorization("AKIAIOSFODNN7EXAMPLE", secret, &request), expected);
        request.path = "/awsexamplebucket1/photos/puppy.jpg";
        request.path_has_bucket = true;
        assert_eq!(authorization("AKIAIOSFODNN7EXAMPLE", secret, &request), expected);
    }

    #[test]
    fn sub_resources_are_sorted_and_raw_and_amz_headers_follow() {
        let headers = [
            ("x-amz-meta-b".to_owned(), " 2 ".to_owned()),
            ("content-type".to_owned(), "text/plain".to_owned()),
            ("x-amz-date".to_owned(), "D".to_owned()),
            ("date".to_owned(), "ignored".to_owned()),
        ];
        let request = Request {
            method: "PUT",
            bucket: "b",
            path: "/b/k",
            path_has_bucket: true,
            query: &[("uploadId", "2~a/b".into()), ("partNumber", "1".into()), ("max-keys", "1".into())],
            headers: &headers,
            table: 0,
            native: false,
        };
        assert_eq!(
            string_to_sign(&request),
            "PUT\n\ntext/plain\n\nx-amz-date:D\nx-amz-meta-b:2\n/b/k?partNumber=1&uploadId=2~a/b"
        );
    }

    // OBS-ACL-21, OBS-ACL-26
    #[test]
    fn the_protocol_of_obs_has_names_of_its_own() {
        let mut headers = [
            ("x-amz-date".to_owned(), "Tue, 27 Mar 2007 19:36:42 GMT".to_owned()),
            ("x-amz-acl".to_owned(), "public-read-delivered".to_owned()),
            ("content-type".to_owned(), "text/plain".to_owned()),
        ];
        to_native(&mut headers);
        let request = Request {
            method: "PUT",
            bucket: "bucket",
            path: "/",
            path_has_bucket: false,
            query: &[("acl", String::new())],
            headers: &headers,
            table: 0,
            native: true,
        };
        assert_eq!(
            string_to_sign(&request),
            "PUT\n\ntext/plain\n\nx-obs-acl:public-read-delivered\nx-obs-date:Tue, 27 Mar 2007 19:36:42 GMT\n/bucket/?acl"
        );
        // The HMAC is that of another program.
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        assert_eq!(authorization("AK", secret, &request), "OBS AK:3GPERQat3JJvtAiVXpEkcK2DX9E=");
    }

    #[test]
    fn a_presigned_url_of_the_manual() {
        let headers = [("date".to_owned(), "1175139620".to_owned())];
        let request = Request {
            method: "GET",
            bucket: "johnsmith",
            path: "/photos/puppy.jpg",
            path_has_bucket: false,
            query: &[],
            headers: &headers,
            table: 0,
            native: false,
        };
        assert_eq!(presigned("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", &request), "NpgCjnDzrM+WFzoENXmpNDUsSn8=");
    }

    #[test]
    fn tables_are_sorted_and_differ_where_stores_do() {
        assert!([OLD, CEPH, WIDE].iter().all(|t| t.is_sorted()));
        for name in ["restore", "tagging", "cors", "policyStatus", "replication"] {
            assert!(is_disputed(name), "{name}");
        }
        for name in ["acl", "uploadId", "response-expires", "prefix", "max-keys"] {
            assert!(!is_disputed(name), "{name}");
        }
    }
}

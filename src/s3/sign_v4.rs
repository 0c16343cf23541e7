//! Signature Version 4 where rusty-s3 does not do it: in the `Authorization` header, for any service, and for forms.

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::address::encode;

/// What is signed of a request.
pub(super) struct Request<'a> {
    pub method: &'a str,
    /// Path of the URL as sent, percent-encoded.
    pub path: &'a str,
    /// Not encoded.
    pub query: &'a [(&'a str, &'a str)],
    /// All are signed. Names in lower case, `host` among them.
    pub headers: &'a [(&'a str, &'a str)],
    /// Hexadecimal SHA-256 of the body, or a word that stands for it.
    pub payload: &'a str,
}

/// Where and when a signature holds.
pub(super) struct Scope<'a> {
    pub time: Timestamp,
    pub region: &'a str,
    pub service: &'a str,
}

impl Scope<'_> {
    /// `20260131T235959Z`.
    pub fn time(&self) -> String {
        self.time.strftime("%Y%m%dT%H%M%SZ").to_string()
    }

    fn date(&self) -> String {
        self.time.strftime("%Y%m%d").to_string()
    }

    fn text(&self) -> String {
        format!("{}/{}/{}/aws4_request", self.date(), self.region, self.service)
    }

    /// `AK/20260131/REGION/SERVICE/aws4_request`.
    pub fn credential(&self, access_key: &str) -> String {
        format!("{access_key}/{}", self.text())
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    // HMAC takes keys of any length.
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("any key length is valid");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// Signs any text: a string to sign, or the policy of a form.
pub(super) fn signature(secret: &str, scope: &Scope<'_>, text: &str) -> String {
    let mut key = hmac(format!("AWS4{secret}").as_bytes(), &scope.date());
    for part in [scope.region, scope.service, "aws4_request"] {
        key = hmac(&key, part);
    }
    hex(&hmac(&key, text))
}

/// The value of the `Authorization` header.
pub(super) fn authorization(access_key: &str, secret: &str, scope: &Scope<'_>, request: &Request<'_>) -> String {
    let mut query: Vec<_> = request.query.iter().map(|(n, v)| (encode(n), encode(v))).collect();
    query.sort_unstable();
    let query: Vec<_> = query.into_iter().map(|(n, v)| format!("{n}={v}")).collect();
    let mut headers = request.headers.to_vec();
    headers.sort_unstable();
    let names: Vec<_> = headers.iter().map(|(n, _)| *n).collect();
    let names = names.join(";");
    let lines: String = headers.iter().map(|(n, v)| format!("{n}:{}\n", v.trim())).collect();
    let canonical =
        format!("{}\n{}\n{}\n{lines}\n{names}\n{}", request.method, request.path, query.join("&"), request.payload);
    let text = format!("AWS4-HMAC-SHA256\n{}\n{}\n{}", scope.time(), scope.text(), sha256(canonical.as_bytes()));
    format!(
        "AWS4-HMAC-SHA256 Credential={}, SignedHeaders={names}, Signature={}",
        scope.credential(access_key),
        signature(secret, scope, &text)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCESS: &str = "AKIAIOSFODNN7EXAMPLE";
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const HOST: (&str, &str) = ("host", "examplebucket.s3.amazonaws.com");

    fn sign(method: &str, path: &str, query: &[(&str, &str)], headers: &[(&str, &str)], body: &[u8]) -> String {
        let scope = Scope { time: "2013-05-24T00:00:00Z".parse().unwrap(), region: "us-east-1", service: "s3" };
        let payload = sha256(body);
        let mut headers = headers.to_vec();
        headers.push(HOST);
        headers.push(("x-amz-content-sha256", &payload));
        let request = Request { method, path, query, headers: &headers, payload: &payload };
        let value = authorization(ACCESS, SECRET, &scope, &request);
        value.rsplit_once('=').unwrap().1.to_owned()
    }

    #[test]
    fn the_published_vectors() {
        let date = ("x-amz-date", "20130524T000000Z");
        assert_eq!(sha256(b""), EMPTY);
        assert_eq!(
            sign("GET", "/test.txt", &[], &[("range", "bytes=0-9"), date], b""),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        assert_eq!(
            sign(
                "PUT",
                "/test%24file.text",
                &[],
                &[("date", "Fri, 24 May 2013 00:00:00 GMT"), date, ("x-amz-storage-class", "REDUCED_REDUNDANCY")],
                b"Welcome to Amazon S3."
            ),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
        assert_eq!(
            sign("GET", "/", &[("lifecycle", "")], &[date], b""),
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
        );
        assert_eq!(
            sign("GET", "/", &[("max-keys", "2"), ("prefix", "J")], &[date], b""),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
    }

    #[test]
    fn a_request_to_the_token_service() {
        let body = "Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A%3Arole%2Fdemo\
                    &RoleSessionName=mount-1&DurationSeconds=900";
        let scope = Scope { time: "2026-01-01T00:00:00Z".parse().unwrap(), region: "ctyun", service: "sts" };
        let time = scope.time();
        let request = Request {
            method: "POST",
            path: "/",
            query: &[],
            headers: &[
                ("x-amz-date", &time),
                ("host", "sts.example.com"),
                ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
            ],
            payload: &sha256(body.as_bytes()),
        };
        assert_eq!(
            authorization(ACCESS, SECRET, &scope, &request),
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20260101/ctyun/sts/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=4001c13f9ec1b17dd0125de24bf3963fa17d626b49506500420caa67ada22e07"
        );
    }
}

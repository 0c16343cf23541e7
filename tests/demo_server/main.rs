//! The embedded S3 server, as clients see it over HTTP.
#![cfg(feature = "demo")]

mod access;
mod faults;
mod life;
mod listings;
mod objects;
mod signatures;

use reqwest::{Method, Response};
use rusty_s3::{Bucket, Credentials, UrlStyle};
use xosfs::demo::{Keys, Options, Server};

const BUCKET: &str = "test-bucket";

/// A client that signs URLs; without keys it sends them unsigned.
struct Client {
    http: reqwest::Client,
    endpoint: String,
    keys: Option<Keys>,
    token: Option<String>,
}

fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

impl Client {
    fn new(server: &Server, keys: Option<Keys>) -> Self {
        // Fails when another test was first.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Client { http, endpoint: server.endpoint(), keys, token: None }
    }

    fn bucket(&self) -> Bucket {
        Bucket::new(self.endpoint.parse().unwrap(), UrlStyle::Path, BUCKET, "us-east-1").unwrap()
    }

    fn credentials(&self) -> Option<Credentials> {
        let keys = self.keys.as_ref()?;
        Some(match &self.token {
            Some(token) => Credentials::new_with_token(&keys.access_key, &keys.secret_key, token),
            None => Credentials::new(&keys.access_key, &keys.secret_key),
        })
    }

    /// Any request: rusty-s3's generic signer over method, path and query.
    fn url(&self, method: &Method, key: &str, query: &[(&str, &str)]) -> reqwest::Url {
        let bucket = self.bucket();
        let url = if key.is_empty() { bucket.base_url().clone() } else { bucket.object_url(key) };
        let Some(c) = self.credentials() else {
            let mut url = url;
            if !query.is_empty() {
                let text: Vec<_> = query.iter().map(|(k, v)| format!("{}={}", encode(k), encode(v))).collect();
                url.set_query(Some(&text.join("&")));
            }
            return url;
        };
        let method = match method.as_str() {
            "GET" => rusty_s3::Method::Get,
            "HEAD" => rusty_s3::Method::Head,
            "PUT" => rusty_s3::Method::Put,
            "POST" => rusty_s3::Method::Post,
            _ => rusty_s3::Method::Delete,
        };
        // The signer canonicalises what it gets, in the order it gets it.
        let mut query = query.to_vec();
        query.sort_unstable();
        rusty_s3::signing::sign(
            &jiff::Timestamp::now(),
            method,
            url,
            c.key(),
            c.secret(),
            c.token(),
            "us-east-1",
            300,
            query.iter().copied(),
            std::iter::empty(),
        )
    }

    async fn send(
        &self,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Response {
        let mut request = self.http.request(method.clone(), self.url(&method, key, query)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    async fn get(&self, key: &str, query: &[(&str, &str)], headers: &[(&str, &str)]) -> Response {
        self.send(Method::GET, key, query, headers, "").await
    }

    async fn put(&self, key: &str, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> Response {
        self.send(Method::PUT, key, &[], headers, body).await
    }
}

async fn start() -> (Server, Client) {
    let server = Server::start(Options::with_bucket(BUCKET)).await.unwrap();
    let client = Client::new(&server, Some(server.keys()));
    (server, client)
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |v| v.to_str().unwrap())
}

/// What stands in the first element `name`.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    elements(xml, name).into_iter().next()
}

fn elements<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open).skip(1).filter_map(|rest| rest.split_once(&close).map(|(text, _)| text)).collect()
}

async fn code(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, element(&text, "Code").unwrap_or("").to_owned())
}

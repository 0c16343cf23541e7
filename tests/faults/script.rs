//! The server: a script of replies, and what it was asked.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use xosfs::config::credentials::Credentials;
use xosfs::s3::*;

#[derive(Clone)]
pub enum Reply {
    /// Status line, headers and body; the length is added.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Announces the length, sends less and closes.
    Cut(u16, Vec<(&'static str, String)>, Vec<u8>, usize),
    /// Closes without an answer.
    Close,
    /// Says nothing, or stops after the head and the given bytes.
    Silence,
    Stall(Vec<u8>, usize),
}

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub head: String,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|l| {
            let (n, v) = l.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| v.trim())
        })
    }
}

#[derive(Clone)]
pub struct Script {
    endpoint: String,
    replies: Arc<Mutex<VecDeque<Reply>>>,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Script {
    pub async fn new(replies: Vec<Reply>) -> Script {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let script = Script {
            endpoint: format!("http://{}", listener.local_addr().unwrap()),
            replies: Arc::new(Mutex::new(replies.into())),
            log: Arc::default(),
        };
        let served = script.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let script = served.clone();
                tokio::spawn(async move { script.serve(stream).await });
            }
        });
        script
    }

    pub async fn serve(self, mut stream: TcpStream) -> Option<()> {
        let mut buffer = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                    break end + 4;
                }
                if stream.read_buf(&mut buffer).await.ok()? == 0 {
                    return None;
                }
            };
            let head = String::from_utf8(buffer[..end].to_vec()).ok()?;
            let mut words = head.split(' ');
            let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
            let mut request = Request { method, target, head: head.clone(), body: Vec::new() };
            let length: usize = request.header("content-length").map_or(0, |v| v.parse().unwrap());
            while buffer.len() < end + length {
                if stream.read_buf(&mut buffer).await.ok()? == 0 {
                    return None;
                }
            }
            request.body = buffer[end..end + length].to_vec();
            buffer.drain(..end + length);
            let is_head = request.method == "HEAD";
            self.log.lock().push(request);
            let reply = self.replies.lock().pop_front().unwrap_or_else(|| answer(500, "unexpected request"));
            let head = |status: u16, headers: &[(&str, String)], length: usize| {
                let mut text = format!("HTTP/1.1 {status} X\r\n");
                for (name, value) in headers {
                    text.push_str(&format!("{name}: {value}\r\n"));
                }
                if !headers.iter().any(|(n, _)| *n == "content-length") {
                    text.push_str(&format!("content-length: {length}\r\n"));
                }
                text + "\r\n"
            };
            match reply {
                Reply::Answer(status, headers, body) => {
                    stream.write_all(head(status, &headers, body.len()).as_bytes()).await.ok()?;
                    if !is_head {
                        stream.write_all(&body).await.ok()?;
                    }
                }
                Reply::Cut(status, headers, body, sent) => {
                    stream.write_all(head(status, &headers, body.len()).as_bytes()).await.ok()?;
                    stream.write_all(&body[..sent]).await.ok()?;
                    return None;
                }
                Reply::Close => return None,
                Reply::Silence => std::future::pending().await,
                Reply::Stall(body, sent) => {
                    stream.write_all(head(200, &[etag("e")], body.len()).as_bytes()).await.ok()?;
                    stream.write_all(&body[..sent]).await.ok()?;
                    std::future::pending().await
                }
            }
        }
    }

    pub fn client(&self, change: impl FnOnce(&mut Settings)) -> S3 {
        let mut settings = Settings {
            endpoint: Some(self.endpoint.clone()),
            bucket: "bucket".into(),
            credentials: Credentials::fixed("ak", "sk", None),
            read_timeout: Duration::from_millis(300),
            op_timeout: Duration::from_secs(20),
            ..Settings::default()
        };
        change(&mut settings);
        S3::new(settings).unwrap()
    }

    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().clone()
    }

    pub fn count(&self) -> usize {
        self.log.lock().len()
    }
}

pub fn answer(status: u16, body: &str) -> Reply {
    Reply::Answer(status, vec![etag("e")], body.into())
}

pub fn etag(text: &str) -> (&'static str, String) {
    ("etag", format!("\"{text}\""))
}

pub fn error(status: u16, code: &str) -> Reply {
    Reply::Answer(status, vec![], error_body(code).into_bytes())
}

pub fn error_body(code: &str) -> String {
    format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message><RequestId>r1</RequestId></Error>")
}

pub fn part(start: usize, end: usize, total: usize) -> Reply {
    let range = format!("bytes {start}-{}/{total}", end - 1);
    Reply::Answer(206, vec![etag("e"), ("content-range", range)], vec![b'x'; end - start])
}

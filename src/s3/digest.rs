//! What vouches for uploaded bytes, on top of the connection: a digest in a header, which the store compares.
//!
//! 1. Payloads are not signed, so nothing else notices a byte that changed between this memory and the store's disk.
//! 2. Stores take one digest or the other, ignore it, or refuse the whole request for it; what a store of unknown kind
//!    takes shows only in its answer. A refusal of the first uploads is tried again without, or with the digest that
//!    the store asks for. What worked is remembered; once a digest was taken, a refusal means something else.
//! 3. A multipart upload has to be announced with its digest, and completed with what the store said of each part
//!    (see `multipart`).
//! 4. Digests of large bodies take their time: they are computed apart from the threads that serve requests.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;
use http::HeaderMap;
use md5::Digest as _;

use super::failure::{Failure, meaning};
use super::request::header;
use super::types::Payload;
use crate::error::Kind;

pub(super) const CRC32C: &str = "x-amz-checksum-crc32c";
const CONTENT_MD5: &str = "content-md5";

/// Digest that goes with uploaded bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    Off,
    /// `x-amz-checksum-crc32c` as an ordinary header, never as a trailer, as long as the store does not refuse it.
    #[default]
    Crc32c,
    /// `Content-MD5`, as long as the store does not refuse it.
    ContentMd5,
}

/// A body of at least this many bytes is digested on a thread of its own: some milliseconds with CRC32C. A part of
/// ordinary size is not, for each thread has memory of its own.
const CRC_APART: u64 = 64 << 20;
/// MD5 is fifteen times slower.
const MD5_APART: u64 = 512 << 10;

/// What an action has to do with digests.
#[derive(Clone, Default)]
pub(super) enum Vouched {
    #[default]
    No,
    /// The payload is vouched for.
    Body(Arc<Digests>),
    /// Announces an upload whose parts will be.
    Upload,
}

impl Vouched {
    pub fn body() -> Vouched {
        Vouched::Body(Arc::default())
    }

    /// Computes what `mode` needs.
    pub async fn prepare(&self, payload: &Payload, mode: Checksum) {
        let Vouched::Body(digests) = self else { return };
        let apart = match mode {
            Checksum::Off => return,
            Checksum::Crc32c => CRC_APART,
            Checksum::ContentMd5 => MD5_APART,
        };
        if payload.len() >= apart {
            let (digests, payload) = (digests.clone(), payload.clone());
            // Should the task not run because the runtime ends, `header` computes it.
            let _ = tokio::task::spawn_blocking(move || {
                digests.of(&payload, mode);
            })
            .await;
        }
    }

    /// The header to send.
    pub fn header(&self, payload: &Payload, mode: Checksum) -> Option<(String, String)> {
        match (self, mode) {
            (Vouched::No, _) | (_, Checksum::Off) | (Vouched::Upload, Checksum::ContentMd5) => None,
            (Vouched::Upload, Checksum::Crc32c) => Some(("x-amz-checksum-algorithm".into(), "CRC32C".into())),
            (Vouched::Body(d), Checksum::Crc32c) => Some((CRC32C.into(), d.of(payload, mode).to_owned())),
            (Vouched::Body(d), Checksum::ContentMd5) => Some((CONTENT_MD5.into(), d.of(payload, mode).to_owned())),
        }
    }

    /// What is wrong with the digest that the store answers with, if it does.
    pub fn contradicted(&self, payload: &Payload, mode: Checksum, answer: &HeaderMap) -> Option<String> {
        match (self, mode, header(answer, CRC32C)) {
            (Vouched::Body(d), Checksum::Crc32c, Some(theirs)) if theirs != d.of(payload, mode) => {
                Some("the store has other bytes than were sent: their checksum differs".into())
            }
            _ => None,
        }
    }
}

/// Digests of one payload, each computed once.
#[derive(Default)]
pub(super) struct Digests {
    crc32c: OnceLock<String>,
    md5: OnceLock<String>,
}

impl Digests {
    fn of(&self, payload: &Payload, mode: Checksum) -> &str {
        match mode {
            Checksum::Off => "",
            Checksum::Crc32c => self.crc32c.get_or_init(|| {
                let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi);
                payload.0.iter().for_each(|piece| digest.update(piece));
                // A CRC32 is in the lower half.
                STANDARD.encode((digest.finalize() as u32).to_be_bytes())
            }),
            Checksum::ContentMd5 => self.md5.get_or_init(|| {
                let mut digest = md5::Md5::new();
                payload.0.iter().for_each(|piece| digest.update(piece));
                STANDARD.encode(digest.finalize())
            }),
        }
    }
}

/// What a store takes, as far as is known.
pub(super) struct Accepted {
    mode: AtomicU8,
    /// The mode was taken once.
    proven: AtomicBool,
}

/// A mode that is being doubted by one operation: what it was before.
pub(super) struct Doubt(Checksum);

impl Default for Accepted {
    fn default() -> Self {
        Accepted::new(Checksum::default())
    }
}

impl Accepted {
    pub fn new(mode: Checksum) -> Self {
        Accepted { mode: AtomicU8::new(mode as u8), proven: AtomicBool::new(false) }
    }

    pub fn mode(&self) -> Checksum {
        match self.mode.load(Ordering::Relaxed) {
            n if n == Checksum::Crc32c as u8 => Checksum::Crc32c,
            n if n == Checksum::ContentMd5 as u8 => Checksum::ContentMd5,
            _ => Checksum::Off,
        }
    }

    /// A request that was sent with `sent` failed: if the digest may be why, there is another mode now and the request
    /// is worth sending again.
    pub fn doubt(&self, vouched: &Vouched, sent: Checksum, failure: &Failure) -> Option<Doubt> {
        let Failure::Answer(answer) = failure else { return None };
        if matches!(vouched, Vouched::No) || self.proven.load(Ordering::Relaxed) {
            return None;
        }
        let refused = matches!(meaning(answer.status, &answer.code).0, Kind::Invalid | Kind::Unsupported)
            || answer.code == "XAmzContentSHA256Mismatch";
        let text = format!("{} {}", answer.code, answer.message).to_ascii_lowercase();
        let wants_md5 = text.contains("content-md5") || text.contains("contentmd5");
        let next = if wants_md5 && sent != Checksum::ContentMd5 { Checksum::ContentMd5 } else { Checksum::Off };
        if !refused || next == sent || matches!(vouched, Vouched::Upload) && sent != Checksum::Crc32c {
            return None;
        }
        // Another operation may have found out meanwhile: then its finding is tried.
        let _ = self.mode.compare_exchange(sent as u8, next as u8, Ordering::Relaxed, Ordering::Relaxed);
        Some(Doubt(sent))
    }

    /// How an operation ended that had doubts, or none.
    pub fn settle(&self, vouched: &Vouched, sent: Checksum, doubt: Option<Doubt>, failure: Option<&Failure>) {
        match (failure, doubt) {
            (None, None) if matches!(vouched, Vouched::Body(_)) && sent != Checksum::Off => {
                self.proven.store(true, Ordering::Relaxed);
            }
            (None, Some(Doubt(before))) if before != sent => {
                tracing::info!(refused = ?before, used = ?sent, "this store does not take such checksums of uploads");
                if matches!(vouched, Vouched::Body(_)) {
                    self.proven.store(true, Ordering::Relaxed);
                }
            }
            // Refused without a digest as well: it was not the reason.
            (Some(Failure::Answer(_)), Some(Doubt(before))) => {
                let _ = self.mode.compare_exchange(sent as u8, before as u8, Ordering::Relaxed, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::failure::Answered;
    use super::*;
    use bytes::Bytes;

    fn refused(status: u16, code: &str, message: &str) -> Failure {
        Failure::Answer(Box::new(Answered {
            status,
            code: code.into(),
            message: message.into(),
            ..Answered::default()
        }))
    }

    #[test]
    fn digests_are_those_of_the_standards() {
        // The check value of CRC-32C (RFC 3720) and the example of RFC 1864's author: MD5 of the empty string.
        let payload = Payload(vec![Bytes::from_static(b"12345"), Bytes::from_static(b"6789")]);
        let d = Digests::default();
        assert_eq!(d.of(&payload, Checksum::Crc32c), STANDARD.encode(0xe306_9283_u32.to_be_bytes()));
        assert_eq!(Digests::default().of(&Payload::default(), Checksum::ContentMd5), "1B2M2Y8AsgTpgAmY7PhCfg==");
    }

    #[test]
    fn a_refused_digest_is_dropped_and_stays_dropped() {
        let a = Accepted::default();
        let body = Vouched::body();
        let doubt = a.doubt(&body, a.mode(), &refused(501, "NotImplemented", "")).unwrap();
        assert_eq!(a.mode(), Checksum::Off);
        a.settle(&body, a.mode(), Some(doubt), None);
        assert!(a.doubt(&body, a.mode(), &refused(400, "InvalidRequest", "")).is_none());
        assert_eq!(a.mode(), Checksum::Off);
    }

    #[test]
    fn a_store_that_demands_another_digest_gets_it() {
        let a = Accepted::default();
        let body = Vouched::body();
        let missing = refused(400, "InvalidRequest", "Missing required header for this request: Content-MD5");
        let doubt = a.doubt(&body, a.mode(), &missing).unwrap();
        assert_eq!(a.mode(), Checksum::ContentMd5);
        a.settle(&body, a.mode(), Some(doubt), None);
        // Taken: later refusals mean something else.
        assert!(a.doubt(&body, a.mode(), &refused(400, "InvalidArgument", "")).is_none());
        let off = Accepted::new(Checksum::Off);
        assert!(off.doubt(&body, Checksum::Off, &missing).is_some());
        assert_eq!(off.mode(), Checksum::ContentMd5);
    }

    #[test]
    fn a_refusal_for_another_reason_changes_nothing() {
        let a = Accepted::default();
        let body = Vouched::body();
        let other = refused(400, "InvalidStorageClass", "");
        let doubt = a.doubt(&body, a.mode(), &other).unwrap();
        a.settle(&body, a.mode(), Some(doubt), Some(&other));
        assert_eq!(a.mode(), Checksum::Crc32c);
        assert!(a.doubt(&body, a.mode(), &refused(403, "AccessDenied", "")).is_none());
        a.settle(&body, Checksum::Crc32c, None, None);
        assert!(a.doubt(&body, a.mode(), &other).is_none());
    }
}

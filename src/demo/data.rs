//! The bytes of objects: lists of pieces, so that copies, parts and ranges share them.
//!
//! 1. A GET must cost no copy: pieces in memory are reference-counted slices that go to the socket as they are.
//! 2. Objects larger than memory: a synthetic piece is made of a repeated pattern that everybody can compute, a
//!    file piece is read in steps of [`STEP`] bytes.

use std::collections::VecDeque;
use std::fs::File;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use s3s::StdError;
use s3s::stream::{ByteStream, RemainingLength};
use tokio::task::JoinHandle;

use super::disk::DataFile;
use crate::key::stable_hash;

/// Bytes of one read from a data file.
const STEP: u64 = 1 << 20;

/// A prime, so that no shift by whole blocks or parts maps the pattern onto itself.
const PERIOD: usize = 1_048_573;

#[derive(Clone)]
pub(super) enum Piece {
    Memory(Bytes),
    File { file: Arc<DataFile>, offset: u64, len: u64 },
    Synthetic { seed: u64, offset: u64, len: u64 },
}

impl Piece {
    pub fn len(&self) -> u64 {
        match self {
            Piece::Memory(b) => b.len() as u64,
            Piece::File { len, .. } | Piece::Synthetic { len, .. } => *len,
        }
    }

    fn slice(&self, range: Range<u64>) -> Piece {
        let len = range.end - range.start;
        match self {
            Piece::Memory(b) => Piece::Memory(b.slice(range.start as usize..range.end as usize)),
            Piece::File { file, offset, .. } => Piece::File { file: file.clone(), offset: offset + range.start, len },
            Piece::Synthetic { seed, offset, .. } => {
                Piece::Synthetic { seed: *seed, offset: offset + range.start, len }
            }
        }
    }
}

/// The content of one object or part; cheap to clone.
#[derive(Clone)]
pub(super) struct Data {
    pieces: Arc<[Piece]>,
    size: u64,
}

impl Default for Data {
    fn default() -> Self {
        Data { pieces: Arc::new([]), size: 0 }
    }
}

impl From<Bytes> for Data {
    fn from(bytes: Bytes) -> Self {
        Data::new(vec![Piece::Memory(bytes)])
    }
}

impl Data {
    pub fn new(mut pieces: Vec<Piece>) -> Self {
        pieces.retain(|p| p.len() > 0);
        let size = pieces.iter().map(Piece::len).sum();
        Data { pieces: pieces.into(), size }
    }

    pub fn synthetic(seed: u64, size: u64) -> Self {
        Data::new(vec![Piece::Synthetic { seed, offset: 0, len: size }])
    }

    pub fn join(all: &[Data]) -> Self {
        Data::new(all.iter().flat_map(|d| d.pieces.iter().cloned()).collect())
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// `range` must lie within the data.
    pub fn slice(&self, range: Range<u64>) -> Data {
        let mut at = 0;
        let mut out = Vec::new();
        for piece in self.pieces.iter() {
            let end = at + piece.len();
            if end > range.start && at < range.end {
                out.push(piece.slice(range.start.max(at) - at..range.end.min(end) - at));
            }
            at = end;
            if at >= range.end {
                break;
            }
        }
        Data::new(out)
    }

    pub fn stream(self) -> Pieces {
        Pieces { left: self.size, pieces: self.pieces.to_vec().into(), reading: None }
    }

    /// Everything in one buffer; blocks while it reads files.
    pub fn read(&self) -> io::Result<Bytes> {
        if let [Piece::Memory(b)] = &*self.pieces {
            return Ok(b.clone());
        }
        let mut out = BytesMut::with_capacity(self.size as usize);
        for piece in self.pieces.iter() {
            match piece {
                Piece::Memory(b) => out.extend_from_slice(b),
                Piece::File { file, offset, len } => out.extend_from_slice(&file.read(*offset, *len)?),
                Piece::Synthetic { seed, offset, len } => {
                    let mut at = 0;
                    while at < *len {
                        let part = pattern(*seed, offset + at, len - at);
                        at += part.len() as u64;
                        out.extend_from_slice(&part);
                    }
                }
            }
        }
        Ok(out.freeze())
    }
}

/// A slice of the endless pattern that starts at `offset`: at most `len` bytes, at least one.
fn pattern(seed: u64, offset: u64, len: u64) -> Bytes {
    static PATTERN: OnceLock<Bytes> = OnceLock::new();
    let all = PATTERN.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut out = Vec::with_capacity(PERIOD + 8);
        while out.len() < PERIOD {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            out.extend_from_slice(&state.to_le_bytes());
        }
        out.truncate(PERIOD);
        out.into()
    });
    let start = ((seed % PERIOD as u64 + offset % PERIOD as u64) % PERIOD as u64) as usize;
    let end = PERIOD.min(start + len.min(PERIOD as u64) as usize);
    all.slice(start..end)
}

pub(super) fn synthetic_seed(key: &str) -> u64 {
    stable_hash(key.as_bytes())
}

/// What `range` of a synthetic object that was stored under `key` reads as.
pub fn synthetic(key: &str, range: Range<u64>) -> Bytes {
    let data = Data::synthetic(synthetic_seed(key), range.end);
    // Synthetic pieces do no I/O, so this cannot fail.
    data.slice(range).read().unwrap_or_default()
}

/// A body: the pieces in order.
pub(super) struct Pieces {
    pieces: VecDeque<Piece>,
    left: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl Stream for Pieces {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(reading) = &mut self.reading {
                let done = std::task::ready!(Pin::new(reading).poll(cx));
                self.reading = None;
                let bytes = match done {
                    Ok(Ok(bytes)) => bytes,
                    Ok(Err(e)) => return Poll::Ready(Some(Err(e.into()))),
                    Err(e) => return Poll::Ready(Some(Err(e.into()))),
                };
                self.left -= bytes.len() as u64;
                return Poll::Ready(Some(Ok(bytes)));
            }
            let Some(piece) = self.pieces.pop_front() else { return Poll::Ready(None) };
            let bytes = match piece {
                Piece::Memory(bytes) => bytes,
                Piece::Synthetic { seed, offset, len } => {
                    let bytes = pattern(seed, offset, len);
                    let n = bytes.len() as u64;
                    if n < len {
                        self.pieces.push_front(Piece::Synthetic { seed, offset: offset + n, len: len - n });
                    }
                    bytes
                }
                Piece::File { file, offset, len } => {
                    let n = len.min(STEP);
                    if n < len {
                        let rest = Piece::File { file: file.clone(), offset: offset + n, len: len - n };
                        self.pieces.push_front(rest);
                    }
                    self.reading = Some(tokio::task::spawn_blocking(move || file.read(offset, n)));
                    continue;
                }
            };
            self.left -= bytes.len() as u64;
            return Poll::Ready(Some(Ok(bytes)));
        }
    }
}

impl ByteStream for Pieces {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(self.left as usize)
    }
}

/// `len` bytes of `file` from `offset`.
pub(super) fn read_at(file: &File, offset: u64, len: u64) -> io::Result<Bytes> {
    let mut buffer = vec![0; len as usize];
    file.read_exact_at(&mut buffer, offset)?;
    Ok(buffer.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_of_joined_data_are_the_bytes_of_the_whole() {
        let data = Data::join(&[
            Bytes::from_static(b"hello ").into(),
            Data::synthetic(7, 3 << 20),
            Bytes::from_static(b"world").into(),
        ]);
        let whole = data.read().unwrap();
        assert_eq!(whole.len() as u64, data.size());
        for range in [0..3, 4..9, 5..(3 << 20) + 8, (3 << 20) + 6..(3 << 20) + 11, 6..6] {
            let got = data.slice(range.clone()).read().unwrap();
            assert_eq!(got, whole.slice(range.start as usize..range.end as usize));
        }
    }

    #[test]
    fn the_pattern_differs_between_blocks_and_keys() {
        let a = synthetic("a", 0..4096);
        assert_ne!(a, synthetic("b", 0..4096));
        for block in 1..100 {
            let start = block * (128 << 10);
            assert_ne!(a, synthetic("a", start..start + 4096));
        }
    }
}

//! Answers that span blocks: the library for the kernel's protocol takes one piece, so their bytes are put together.
//!
//! Memory of a megabyte comes from the system and goes back to it, page by page filled with zeros in between, which
//! takes longer than the copy. A few such buffers are therefore used again.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Size of a buffer: the kernel's largest request.
const SIZE: usize = 1024 * 1024;
/// Buffers kept: what the threads of the mount fill at the same time and some that are on their way out.
const WARM_MAX: usize = 4;

/// The buffers of a mount.
#[derive(Default)]
pub(super) struct Replies(Mutex<Vec<Vec<u8>>>);

/// One answer while it is put together.
pub(super) struct Reply {
    bytes: Vec<u8>,
    replies: Arc<Replies>,
}

impl Replies {
    /// For `len` bytes.
    pub fn take(self: &Arc<Replies>, len: usize) -> Reply {
        let warm = if len <= SIZE { self.0.lock().pop() } else { None };
        let bytes = warm.unwrap_or_else(|| Vec::with_capacity(len.max(SIZE)));
        Reply { bytes, replies: self.clone() }
    }
}

impl Reply {
    pub fn push(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
    }

    /// The shared form; the buffer is used again when the last slice of it is dropped.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Reply {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.bytes.capacity() != SIZE {
            return;
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let mut warm = self.replies.0.lock();
        if warm.len() < WARM_MAX {
            warm.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_once_nobody_reads_it() {
        let replies = Arc::new(Replies::default());
        let mut reply = replies.take(200_000);
        reply.push(&[1; 150_000]);
        reply.push(&[2; 50_000]);
        let bytes = reply.freeze();
        let slice = bytes.slice(149_999..150_001);
        drop(bytes);
        assert!(replies.0.lock().is_empty());
        assert_eq!(slice[..], [1, 2]);
        drop(slice);
        assert_eq!(replies.0.lock().len(), 1);
        assert!(replies.take(SIZE).freeze().is_empty(), "nothing of the last answer is left");
        for _ in 0..2 {
            let many: Vec<_> = (0..2 * WARM_MAX).map(|_| replies.take(10)).collect();
            drop(many);
            assert_eq!(replies.0.lock().len(), WARM_MAX);
        }
        drop(replies.take(SIZE + 1));
        assert_eq!(replies.0.lock().len(), WARM_MAX);
    }
}

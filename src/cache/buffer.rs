//! The memory of cached blocks: buffers that carry their lease and are used again.
//!
//! 1. A block's bytes are shared with replies on their way out, so memory is free only when the last of them is
//!    gone. The lease therefore lives inside the buffer and not in the cache: the budget counts what is really held.
//! 2. Memory never touched before is several times slower to fill than memory just given up, so a few full-size
//!    buffers are kept warm. They hold no lease; their number is bounded by [`WARM_MAX`] and a share of the budget.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::BLOCK;
use crate::budget::Lease;

/// Most full-size buffers kept warm: 4 MiB, what a fast store delivers between two evictions.
const WARM_MAX: usize = 32;

/// Charged for each block on top of its bytes: table entries and the buffer's own head.
pub const BLOCK_OVERHEAD: usize = 256;

/// What a block of `len` bytes costs the budget.
pub const fn block_cost(len: usize) -> usize {
    len + BLOCK_OVERHEAD
}

pub(super) struct Pool {
    warm: Mutex<Vec<Vec<u8>>>,
    keep: usize,
}

impl Pool {
    /// `limit`: the budget in bytes; at most a 32nd of it is kept warm.
    pub(super) fn new(limit: usize) -> Arc<Pool> {
        Arc::new(Pool { warm: Mutex::default(), keep: WARM_MAX.min(limit / 32 / BLOCK) })
    }

    /// A buffer for `len` bytes (at most [`BLOCK`]) that is accounted by `lease`.
    pub(super) fn take(self: &Arc<Pool>, len: usize, lease: Lease) -> BlockBuffer {
        let warm = if len == BLOCK { self.warm.lock().pop() } else { None };
        let bytes = warm.unwrap_or_else(|| Vec::with_capacity(len));
        BlockBuffer { bytes, len, pool: self.clone(), _lease: lease }
    }
}

/// The bytes of one block while they arrive, then, frozen, as long as anybody uses them.
pub struct BlockBuffer {
    bytes: Vec<u8>,
    len: usize,
    pool: Arc<Pool>,
    _lease: Lease,
}

impl BlockBuffer {
    /// Bytes still missing.
    pub fn missing(&self) -> usize {
        self.len - self.bytes.len()
    }

    /// Takes as much of `data` as is missing; returns how much that was.
    pub fn fill(&mut self, data: &[u8]) -> usize {
        let n = data.len().min(self.missing());
        self.bytes.extend_from_slice(&data[..n]);
        n
    }

    /// Takes what is missing from `file`, where the block's bytes start at `offset`. Waits for the disk.
    ///
    /// Errors: [`io::ErrorKind::UnexpectedEof`] when the file ends before.
    pub(super) fn fill_from(&mut self, file: &File, offset: u64) -> io::Result<()> {
        while self.missing() > 0 {
            let at = offset + self.bytes.len() as u64;
            match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut self.bytes), at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                // There may be more room than was asked for.
                Ok(_) => self.bytes.truncate(self.len),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// The shared form. The lease ends and the buffer is used again when the last slice is dropped.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for BlockBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for BlockBuffer {
    fn drop(&mut self) {
        if self.bytes.capacity() != BLOCK {
            return;
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let mut warm = self.pool.warm.lock();
        if warm.len() < self.pool.keep {
            warm.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;

    #[test]
    fn the_lease_lasts_as_long_as_the_last_slice() {
        let budget = Budget::new(64 * BLOCK);
        let pool = Pool::new(budget.limit());
        let mut buffer = pool.take(BLOCK, budget.try_lease(block_cost(BLOCK)).unwrap());
        assert_eq!(buffer.fill(&vec![7; BLOCK + 5]), BLOCK);
        assert_eq!(buffer.missing(), 0);
        let bytes = buffer.freeze();
        let slice = bytes.slice(10..20);
        drop(bytes);
        assert_eq!(budget.used(), block_cost(BLOCK));
        assert_eq!(&slice[..], [7; 10]);
        drop(slice);
        assert_eq!(budget.used(), 0);
        assert_eq!(pool.warm.lock().len(), 1);
    }

    #[test]
    fn short_blocks_cost_what_they_hold() {
        let budget = Budget::new(64 * BLOCK);
        let pool = Pool::new(budget.limit());
        let buffer = pool.take(100, budget.try_lease(block_cost(100)).unwrap());
        assert_eq!(budget.used(), 100 + BLOCK_OVERHEAD);
        drop(buffer);
        assert!(pool.warm.lock().is_empty());
    }
}

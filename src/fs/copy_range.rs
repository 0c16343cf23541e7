//! copy_file_range(2): bytes go from one open file to another without passing through the kernel.
//!
//! 1. The source is what its handle reads: the version it is bound to, or what is being written here.
//! 2. A program cannot be interrupted while it waits for us, so one call copies a bounded number of bytes; programs
//!    ask again for the rest.
//! 3. An error behind the first bytes is a short copy: the next call meets it again.

use std::sync::Arc;

use super::Fs;
use super::file::WriteMode;
use super::handle::Fh;
use crate::error::{Kind, Result};

/// Bytes read and written at a time.
const CHUNK: usize = 1 << 20;
/// Bytes of one call that go through the daemon's memory.
const CALL_MAX: u64 = 64 << 20;

impl Fs {
    /// Copies up to `len` bytes; how many it were. 0: the source ends at or before its offset.
    ///
    /// Ranges of one file must not overlap: the kernel has refused that.
    ///
    /// Errors: [`Kind::BadHandle`], those of [`Fs::read`] and [`Fs::write`].
    pub async fn copy_range(self: &Arc<Self>, from: (Fh, u64), to: (Fh, u64), len: u64) -> Result<u64> {
        if !self.handles.file(from.0)?.read {
            return Err(Kind::BadHandle.into());
        }
        let mode = WriteMode { kill_suid: true, ..WriteMode::default() };
        let mut done = 0;
        while done < len.min(CALL_MAX) {
            let want = usize::try_from(len.min(CALL_MAX) - done).unwrap_or(usize::MAX).min(CHUNK);
            let step = async {
                let data = self.read(from.0, from.1 + done, want).await?;
                let copied = data.len();
                if copied > 0 {
                    self.write(to.0, to.1 + done, data, mode).await?;
                }
                Ok(copied)
            };
            match step.await {
                Ok(0) => break,
                Ok(copied) => done += copied as u64,
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }
}

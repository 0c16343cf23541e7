//! Taking bytes of other objects into a file that is being written, without a transfer.
//!
//! 1. Only a note is taken ([`super::extents`]); the commit lets the store copy. What a stream could not send later is
//!    read and written instead, or ends the stream.
//! 2. A file copied into itself names its own base, which each commit replaces: such a copy waits for a running commit,
//!    and the next commit has it.

use crate::error::{Error, Kind, Result};
use crate::read::Object;

use super::Writer;
use super::extents::Extent;

impl Writer {
    /// Puts `len` bytes of `source` from `source_offset` to `offset`; how many were taken, fewer at the end of the
    /// source. It may be less than asked for in other cases, too, but 0 only at the end.
    ///
    /// The bytes are those of this version of `source`. They are copied by the store at the commit; a source that has
    /// been replaced or deleted until then makes the commit fail with [`Kind::Stale`], unless its bytes are cached.
    ///
    /// `source` may be the base of this file: the ranges may then not overlap, and what was written and is not yet
    /// stored is not in it.
    ///
    /// Errors: [`Kind::Stale`] when `source` is a former version of this file, [`Kind::Invalid`] for ranges of one file
    /// that overlap, and those of [`Writer::write`].
    pub async fn copy_range(&self, source: &Object, source_offset: u64, offset: u64, len: u64) -> Result<u64> {
        let len = len.min(source.size.saturating_sub(source_offset));
        if len == 0 {
            return Ok(0);
        }
        let end = self.state.lock().check_size(&self.io, offset, len)?;
        let own = source.id.key == self.key();
        if own && source_offset < end && offset < source_offset + len {
            return Err(Error::new(Kind::Invalid, "copy within a file: the ranges overlap").with_key(&source.id.key));
        }
        loop {
            let _committing = match own {
                true => Some(self.io.patient("a commit", self.committing.lock()).await?),
                false => None,
            };
            {
                let _gate = self.gate().await?;
                let mut s = self.state.lock();
                s.check()?;
                if own && s.base.as_ref() != Some(source) {
                    return Err(Error::new(Kind::Stale, "copy within a file: it was stored anew").with_key(&s.key));
                }
                if s.stream.is_none() {
                    s.top().overlay.map(offset..end, Extent { source: source.clone(), at: source_offset });
                    s.changed(&self.io, offset..end);
                    return Ok(len);
                }
            }
            let part = self.io.settings.limits.part_size.max(1);
            if len <= part {
                let bytes = self.io.reads.range(source, source_offset..source_offset + len).await?;
                let read = bytes.len() as u64;
                self.write(offset, bytes).await?;
                return Ok(read);
            }
            self.seal().await?;
        }
    }

    /// Whether bytes of this file are in other objects, which may go before the file is stored.
    pub fn has_extents(&self) -> bool {
        self.state.lock().layers.iter().any(|l| !l.overlay.extents().is_empty())
    }
}

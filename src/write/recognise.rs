//! After a crash, or a lost answer: whether the object that is there is what this file was about to store.
//!
//! Stores give no token for a commit, and a note in the journal before each of them would cost another sync. The bytes
//! tell: an object of the right size that has all that was written is as good as ours, whoever stored it.

use std::ops::Range;

use crate::error::{Error, Kind, Result};
use crate::read::Object;
use crate::s3::{Condition, Stored};

use super::{Committed, Writer, layers};

/// Bytes compared at a time.
const CHUNK: u64 = 1 << 20;

impl Writer {
    /// Whether the object that is there holds what was acknowledged, because an earlier commit of it arrived. When it
    /// holds only the lower layers, it becomes the base, and the error is one that another attempt mends.
    pub(super) async fn recognise(&self) -> Result<Option<Committed>> {
        let (key, n, sizes) = {
            let s = self.state.lock();
            let n = s.running.as_ref().map_or(0, |f| f.layers);
            let mut sizes: Vec<u64> = s.layers[..n].iter().skip(1).map(|l| l.born).collect();
            sizes.push(s.acked.as_ref().map_or(s.size, |a| a.size));
            (s.key.clone(), n, sizes)
        };
        let meta = self.io.s3.head(&key, None).await?;
        let there = Object::of(&key, &meta);
        for k in (1..=n.max(1)).rev() {
            if sizes[k - 1] != there.size || !self.holds(&there, k.min(n)).await? {
                continue;
            }
            if k >= n {
                tracing::info!("{key:?} was stored before the journal knew of it");
                let stored = Stored {
                    etag: meta.etag.clone(),
                    version: meta.version.clone(),
                    last_modified: meta.last_modified,
                };
                return Ok(Some(Committed { object: there, stored, headers_pending: false, beside: false }));
            }
            let mut s = self.state.lock();
            s.base = Some(there);
            s.condition = Condition::None;
            return Err(Error::new(Kind::Unavailable, "store object: an earlier commit of it arrived").with_key(&key));
        }
        Ok(None)
    }

    /// Whether `there` has the bytes of the lowest `k` layers.
    async fn holds(&self, there: &Object, k: usize) -> Result<bool> {
        let ranges: Vec<Range<u64>> = {
            let s = self.state.lock();
            let dirty = layers::dirty(&s.layers[..k]);
            dirty.iter().map(|r| r.start..r.end.min(there.size)).filter(|r| r.start < r.end).collect()
        };
        for range in ranges {
            let mut at = range.start;
            while at < range.end {
                let part = at..range.end.min(at + CHUNK);
                let pieces = {
                    let s = self.state.lock();
                    let mut pieces = Vec::new();
                    layers::collect(&s.layers[..k], s.base_size(), part.clone(), &mut pieces);
                    pieces
                };
                let (ours, _lease) = self.io.gather(None, &pieces).await?;
                let theirs = match self.io.reads.range(there, part.clone()).await {
                    // Replaced since it was looked at: the next attempt looks again.
                    Err(e) if e.kind() == Kind::Conflict => return Err(e.with_kind(Kind::Stale)),
                    theirs => theirs?,
                };
                let mut rest = &theirs[..];
                for piece in &ours.0 {
                    let Some((head, tail)) = rest.split_at_checked(piece.len()).filter(|(h, _)| *h == &piece[..])
                    else {
                        return Ok(false);
                    };
                    let _ = head;
                    rest = tail;
                }
                if !rest.is_empty() {
                    return Ok(false);
                }
                at = part.end;
            }
        }
        Ok(true)
    }
}

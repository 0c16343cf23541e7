//! One ranged GET that fills claimed blocks as its bytes arrive.
//!
//! 1. Waiters are woken block by block, not at the end of the GET.
//! 2. A body that ends early is taken up again where it stopped, for the same version; what arrived before is good,
//!    because the store had already answered with the right range of the right version. After too many cuts the
//!    remaining blocks fail; nothing is ever filled up or cut short.
//! 3. Memory is leased before the request is sent, so that bytes on their way are inside the budget.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::disk::Kept;
use super::{Object, Reads};
use crate::budget::Lease;
use crate::cache::{BLOCK, BlockBuffer, BlockCache, CachedObject, Claim, block_cost, block_len};
use crate::error::{Error, Kind, Result};
use crate::s3::Get;

/// Cuts in a row without a single new byte before a fetch gives up. The store client has its own retries for requests
/// that fail before their answer begins.
const FRUITLESS_CUTS: u32 = 3;
/// Cuts in all before a fetch gives up: a connection that always dies soon is not worth more requests.
const CUTS: u32 = 16;

/// Adjacent blocks to fetch with one GET.
pub(super) struct Run {
    /// Ascending, without gaps, never empty.
    pub claims: Vec<Claim>,
}

impl From<Claim> for Run {
    fn from(claim: Claim) -> Run {
        Run { claims: vec![claim] }
    }
}

impl Run {
    /// What the blocks of this run cost the budget, for an object of `size` bytes.
    pub fn cost(&self, size: u64) -> usize {
        self.claims.iter().map(|c| block_cost(block_len(c.index(), size))).sum()
    }
}

/// Ascending claims as runs without gaps of at most `max` blocks.
pub(super) fn runs(claims: Vec<Claim>, max: u64) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for claim in claims {
        match runs.last_mut() {
            Some(run)
                if (run.claims.len() as u64) < max
                    && run.claims.last().is_some_and(|c| c.index() + 1 == claim.index()) =>
            {
                run.claims.push(claim);
            }
            _ => runs.push(claim.into()),
        }
    }
    runs
}

/// Where arriving bytes go.
struct Pour<'a> {
    cache: &'a BlockCache,
    size: u64,
    claims: VecDeque<Claim>,
    lease: Lease,
    /// The block that is filling, the first of `claims`.
    filling: Option<BlockBuffer>,
    /// Offset of the next byte in the object.
    at: u64,
    end: u64,
    /// Gets every block, too.
    kept: Option<Kept>,
}

impl Pour<'_> {
    fn push(&mut self, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            let Some(claim) = self.claims.front() else {
                return Err(Error::new(Kind::Io, "more bytes than the range that was asked for"));
            };
            let buffer = match &mut self.filling {
                Some(buffer) => buffer,
                None => {
                    let len = block_len(claim.index(), self.size);
                    self.filling.insert(self.cache.buffer(len, self.lease.split(block_cost(len))))
                }
            };
            let taken = buffer.fill(data);
            data = &data[taken..];
            self.at += taken as u64;
            if buffer.missing() == 0
                && let (Some(buffer), Some(claim)) = (self.filling.take(), self.claims.pop_front())
            {
                let data = buffer.freeze();
                if let Some(kept) = &self.kept {
                    kept.keep(claim.index(), &data);
                }
                claim.fill(data);
            }
        }
        Ok(())
    }

    /// Reads `got` to its end.
    async fn pour(&mut self, mut got: Get) -> Result<()> {
        while let Some(data) = got.body.next().await? {
            self.push(&data)?;
        }
        if self.at < self.end {
            return Err(Error::new(Kind::Unavailable, "the body ended early"));
        }
        Ok(())
    }

    fn fail(self, error: &Error) {
        for claim in self.claims {
            claim.fail(error.clone());
        }
    }
}

impl Reads {
    /// Fetches `runs` in parallel once there is memory for all of them: taking it one by one, several reads could each
    /// hold a part and wait for the rest.
    pub(super) async fn fetch_when_leased(self: Arc<Self>, object: Object, cached: Arc<CachedObject>, runs: Vec<Run>) {
        let cost = runs.iter().map(|r| r.cost(object.size)).sum();
        let mut lease = match self.cache.budget().lease(cost, self.settings.patience).await {
            Ok(lease) => lease,
            Err(e) => {
                let e = e.with_key(&object.id.key);
                return runs.into_iter().flat_map(|r| r.claims).for_each(|c| c.fail(e.clone()));
            }
        };
        let fetches = runs.into_iter().map(|run| {
            let lease = lease.split(run.cost(object.size));
            self.clone().fetch(object.clone(), cached.clone(), run, lease, None)
        });
        futures_util::future::join_all(fetches.collect::<Vec<_>>()).await;
    }

    /// Fills the claims of `run`, or fails them, from the disk or from the store. `lease` is worth the run's cost.
    /// `first`: an answer of the store that starts at the first claim, if there is one already.
    pub(super) async fn fetch(
        self: Arc<Self>,
        object: Object,
        cached: Arc<CachedObject>,
        run: Run,
        lease: Lease,
        first: Option<Get>,
    ) {
        let kept = self.kept(&object);
        let Some(on_disk) = kept.as_ref().filter(|_| first.is_none()) else {
            return self.fetch_stored(&object, &cached, run, lease, first, kept).await;
        };
        let (rest, mut lease) = self.look_on_disk(on_disk, &object, run, lease).await;
        let fetches = rest.into_iter().map(|run| {
            let lease = lease.split(run.cost(object.size));
            self.fetch_stored(&object, &cached, run, lease, None, kept.clone())
        });
        let fetches: Vec<_> = fetches.collect();
        drop(lease);
        futures_util::future::join_all(fetches).await;
    }

    async fn fetch_stored(
        &self,
        object: &Object,
        cached: &CachedObject,
        run: Run,
        lease: Lease,
        first: Option<Get>,
        kept: Option<Kept>,
    ) {
        let (Some(from), Some(to)) = (run.claims.first(), run.claims.last()) else { return };
        let at = from.index() * BLOCK as u64;
        let end = to.index() * BLOCK as u64 + block_len(to.index(), object.size) as u64;
        let (size, claims) = (object.size, run.claims.into());
        let mut pour = Pour { cache: &self.cache, size, claims, lease, filling: None, at, end, kept };
        if let Err(e) = self.fetch_all(object, cached, &mut pour, first).await {
            let e = if e.key().is_none() { e.with_key(&object.id.key) } else { e };
            pour.fail(&e);
        }
    }

    async fn fetch_all(
        &self,
        object: &Object,
        cached: &CachedObject,
        pour: &mut Pour<'_>,
        mut first: Option<Get>,
    ) -> Result<()> {
        let (mut cuts, mut fruitless) = (0, 0);
        loop {
            let got = match first.take() {
                Some(got) => got,
                None => self.get(object, cached, pour.at..pour.end).await?,
            };
            let (before, begun) = (pour.at, Instant::now());
            let poured = pour.pour(got).await;
            self.speed.lock().note(pour.at - before, begun.elapsed());
            let Err(e) = poured else { return Ok(()) };
            if !matches!(e.kind(), Kind::Unavailable | Kind::Timeout) {
                return Err(e);
            }
            cuts += 1;
            fruitless = if pour.at > before { 0 } else { fruitless + 1 };
            if cuts >= CUTS || fruitless >= FRUITLESS_CUTS {
                return Err(e);
            }
            tracing::debug!(key = %object.id.key, at = pour.at, end = pour.end, error = %e, "get taken up again");
        }
    }

    /// The store said that this version is gone.
    fn gone(&self, object: &Object, cached: &CachedObject, why: &Error) {
        self.cache.set_stale(cached, why);
        self.forget_kept(object);
    }

    /// A GET whose answer is exactly `range` of exactly this version.
    async fn get(&self, object: &Object, cached: &CachedObject, range: std::ops::Range<u64>) -> Result<Get> {
        if let Some(e) = cached.stale() {
            return Err(e.clone());
        }
        let id = &object.id;
        let got = match self.s3.get(&id.key, Some(range.clone()), Some(&id.etag), id.version.as_deref()).await {
            Ok(got) => got,
            Err(e) if e.kind() == Kind::Stale => {
                self.gone(object, cached, &e);
                return Err(e);
            }
            // It was there when it was opened.
            Err(e) if e.kind() == Kind::NotFound => return Err(e.with_kind(Kind::Stale)),
            // It was longer when it was opened.
            Err(e) if e.kind() == Kind::Range => {
                let e = e.with_kind(Kind::Stale);
                self.gone(object, cached, &e);
                return Err(e);
            }
            Err(e) => return Err(e),
        };
        if !got.meta.etag.as_str().is_empty() && got.meta.etag != id.etag {
            let e = Error::new(Kind::Stale, "the store ignored If-Match and sent another version").with_key(&id.key);
            self.gone(object, cached, &e);
            return Err(e);
        }
        if got.range != range || got.meta.size != object.size {
            return Err(Error::new(
                Kind::Io,
                format!(
                    "asked for bytes {}..{} of {}, answered {}..{} of {}",
                    range.start, range.end, object.size, got.range.start, got.range.end, got.meta.size
                ),
            )
            .with_key(&id.key));
        }
        Ok(got)
    }
}

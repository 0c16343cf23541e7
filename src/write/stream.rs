//! Sending a new file while it is written in order.
//!
//! 1. Full parts leave as they fill; their memory is free again when the store has acknowledged them. The first part
//!    is held back to the end, for media and archive writers rewrite their header.
//! 2. Nobody knows how large the file gets: parts double every tenth of the part numbers, so that the last number
//!    reaches the largest object. They are of one size where the store wants that, or the size is announced.
//! 3. The bytes of a part stay here until the store has it. One that fails after its retries is sent again by the next
//!    change, whose application hears of it only when that fails, too, and by every commit.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result};
use crate::s3::{Part, ends_upload};

use super::overlay::{Origin, PAGE, Taken};
use super::upload::Upload;
use super::{Limits, Writes, is_passing, plan, staging};

/// The sizes of the parts of a streamed upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    first: u64,
    /// Part numbers after which the size doubles; 0: never.
    step: u32,
    max_part: u64,
}

impl Layout {
    /// `expected`: the announced size, 0 when there is none. `None`: no layout of whole pages keeps to the limits.
    pub fn new(limits: &Limits, expected: u64) -> Option<Layout> {
        let max_part = limits.max_part / PAGE * PAGE;
        let first = plan::least_part(expected, limits).ok()?.next_multiple_of(PAGE);
        let mut layout = Layout { first, step: 0, max_part };
        if expected == 0 && !limits.equal_parts {
            layout.step = (limits.max_parts / 10).max(1);
            while layout.first < max_part && layout.reach(limits.max_parts) < limits.max_object {
                layout.first += limits.part_size.next_multiple_of(PAGE);
            }
        }
        (layout.first <= max_part).then_some(layout)
    }

    /// Bytes of part `number`, counted from 1.
    pub fn size(&self, number: u32) -> u64 {
        let doubled = (number - 1).checked_div(self.step).unwrap_or(0);
        self.first.checked_shl(doubled).filter(|s| s >> doubled == self.first).unwrap_or(u64::MAX).min(self.max_part)
    }

    /// Bytes that `parts` parts hold.
    pub fn reach(&self, parts: u32) -> u64 {
        let step = if self.step == 0 { parts.max(1) } else { self.step };
        let (mut at, mut sum) = (0, 0u64);
        while at < parts {
            let n = step.min(parts - at);
            sum = sum.saturating_add(self.size(at + 1).saturating_mul(u64::from(n)));
            at += n;
        }
        sum
    }
}

/// A part and its bytes.
struct Unsent {
    number: u32,
    /// Where it begins in the object.
    at: u64,
    size: u64,
    taken: Taken,
    /// It was sent before, and not taken.
    again: bool,
}

#[derive(Default)]
struct Sent {
    done: Vec<Part>,
    in_flight: usize,
    /// What the store did not take, and why.
    unsent: Vec<Unsent>,
    failed: Option<Error>,
    /// The application has heard of it.
    told: bool,
    /// The upload can never be completed.
    gone: Option<Error>,
}

struct Shared {
    sent: Mutex<Sent>,
    /// Ticks when a part came to rest.
    moved: watch::Sender<u64>,
    stop: CancellationToken,
}

/// An upload under way. Dropping it stops the parts that still wait, and aborts the upload.
pub(super) struct Stream {
    pub upload: Arc<Upload>,
    pub layout: Layout,
    /// The number of the part that is sent next; the first part goes last.
    pub next: u32,
    /// What is sent or on its way; starts behind the first part.
    pub shipped: Range<u64>,
    /// All parts, once the store has them; only the completion is missing.
    pub all: Mutex<Option<Vec<Part>>>,
    shared: Arc<Shared>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Stream {
    pub fn new(upload: Arc<Upload>, layout: Layout) -> Stream {
        let first = layout.size(1);
        Stream {
            upload,
            layout,
            next: 2,
            shipped: first..first,
            all: Mutex::default(),
            shared: Arc::new(Shared {
                sent: Mutex::default(),
                moved: watch::Sender::new(0),
                stop: CancellationToken::new(),
            }),
        }
    }

    /// Why the upload can never be completed.
    pub fn gone(&self) -> Option<Error> {
        self.shared.sent.lock().gone.clone()
    }

    pub fn in_flight(&self) -> usize {
        self.shared.sent.lock().in_flight
    }

    /// Resolves when a part comes to rest after this call.
    pub fn moved(&self) -> watch::Receiver<u64> {
        self.shared.moved.subscribe()
    }

    /// Sends the next part on its way. `taken` are its bytes.
    pub fn ship(&mut self, io: &Arc<Writes>, taken: Taken) {
        let number = self.next;
        let (at, size) = (self.shipped.end, self.layout.size(number));
        self.next += 1;
        self.shipped.end += size;
        self.send(io, Unsent { number, at, size, taken, again: false });
    }

    /// Before a change: sends again what the store did not take. Errors: that of a part, when it was sent again already
    /// or will not be taken for a reason that does not pass; the change after that tries anew.
    pub fn go_on(&self, io: &Arc<Writes>) -> Result<()> {
        {
            let mut sent = self.shared.sent.lock();
            let Some(error) = sent.failed.clone().filter(|_| !sent.unsent.is_empty()) else { return Ok(()) };
            if !sent.told && (sent.unsent.iter().any(|p| p.again) || !is_passing(error.kind())) {
                sent.told = true;
                return Err(error);
            }
        }
        self.resend(io);
        Ok(())
    }

    /// Sends again what the store did not take.
    pub fn resend(&self, io: &Arc<Writes>) {
        let unsent = {
            let mut sent = self.shared.sent.lock();
            sent.told = false;
            std::mem::take(&mut sent.unsent)
        };
        for part in unsent {
            self.send(io, Unsent { again: true, ..part });
        }
    }

    fn send(&self, io: &Arc<Writes>, part: Unsent) {
        self.shared.sent.lock().in_flight += 1;
        let (io2, upload, shared) = (io.clone(), self.upload.clone(), self.shared.clone());
        io.runtime.spawn(io.tasks.track_future(async move {
            let done = tokio::select! {
                biased;
                () = shared.stop.cancelled() => None,
                done = send(&io2, &upload, &part) => Some(done),
            };
            // Before the wake-up: whoever sees the last part at rest may drop the upload and must be the last.
            drop(upload);
            let mut sent = shared.sent.lock();
            sent.in_flight -= 1;
            match done {
                Some(Ok(done)) => sent.done.push(done),
                Some(Err(e)) if ends_upload(&e) => {
                    sent.gone.get_or_insert(e);
                    shared.stop.cancel();
                }
                Some(Err(e)) => {
                    tracing::debug!("a part is sent again later: {e}");
                    sent.unsent.push(part);
                    sent.failed = Some(e);
                }
                // Nobody wants the file any more.
                None => {}
            }
            drop(sent);
            io2.progressed();
            shared.moved.send_modify(|n| *n += 1);
        }));
    }

    /// Waits for all parts on their way; then the parts, in order. Errors: that of one that the store did not take.
    pub async fn settle(&self, io: &Writes) -> Result<Vec<Part>> {
        let mut moved = self.moved();
        loop {
            {
                let mut sent = self.shared.sent.lock();
                if let Some(e) = &sent.gone {
                    return Err(e.clone());
                }
                if let Some(e) = sent.failed.as_ref().filter(|_| !sent.unsent.is_empty()) {
                    return Err(e.clone());
                }
                if sent.in_flight == 0 {
                    sent.done.sort_by_key(|p| p.number);
                    return Ok(sent.done.clone());
                }
            }
            // The sender lives in `self`: no error is possible.
            let _ = io.patient("uploads", moved.changed()).await?;
        }
    }
}

async fn send(io: &Arc<Writes>, upload: &Arc<Upload>, part: &Unsent) -> Result<Part> {
    let _permit = io.permit(&io.uploads, "an upload slot").await?;
    upload.id().await?;
    let (payload, _lease) = io.gather(None, &part.taken.pieces).await?;
    if payload.len() != part.size {
        return Err(Error::new(Kind::Io, "upload part: wrong length").with_key(&upload.key));
    }
    let done = upload.send(part.number, part.at, payload, None).await?;
    for piece in &part.taken.pieces {
        if let Origin::Staged(file) = &piece.from {
            staging::punch(file, piece.range.clone()).await;
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growing_parts_reach_the_largest_object() {
        for part_size in [5 << 20, 8 << 20, 64 << 20, 1 << 30] {
            let limits = Limits { part_size, ..Limits::default() };
            let layout = Layout::new(&limits, 0).unwrap();
            assert!(layout.reach(10_000) >= limits.max_object);
            assert!(layout.size(10_000) <= limits.max_part);
            assert!(layout.size(1) <= 2 * part_size);
        }
    }

    #[test]
    fn announced_sizes_and_equal_parts_do_not_grow() {
        let limits = Limits::default();
        let layout = Layout::new(&limits, 1 << 40).unwrap();
        assert_eq!(layout.size(1), layout.size(10_000));
        assert!(layout.reach(10_000) >= 1 << 40);
        let equal = Layout::new(&Limits { equal_parts: true, ..limits }, 0).unwrap();
        assert_eq!((equal.size(1), equal.size(9_999)), (8 << 20, 8 << 20));
    }
}

//! The heap of the daemon: what is given back is used again.
//!
//! 1. glibc gives threads arenas of their own, up to eight a core. A block of the cache that one thread fills and
//!    another gives up leaves a hole in an arena that the next thread does not look into: measured, twice the memory
//!    that the budget counts. With one arena every hole is found; small allocations have caches of the threads.
//! 2. Holes of the wrong size are not found: when a mount that has read begins to write, the heap grows by half while
//!    much of it is free. When there is much of that it is given back to the system, and not before: memory that is
//!    still mapped is used again at half the price, and while it is given back nobody can allocate.
//! 3. Memory that was given back still counts as free in the heap. What it holds of the system's memory is the
//!    difference between what is resident and what is in use.
//! 4. mallopt(3), mallinfo2(3) (glibc 2.33) and malloc_trim(3) are C functions, and the only `unsafe` here.

use std::time::Duration;

/// Free and resident bytes of the heap that are left alone.
const FREE_MOST: usize = 12 << 20;
/// How often somebody looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Must be called before there are other threads.
pub fn one_arena() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: takes two numbers, and no other thread allocates at this time.
        let taken = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        if taken != 1 {
            tracing::debug!("mallopt does not know M_ARENA_MAX");
        }
    }
}

/// What of the resident memory is not in use.
#[derive(Default)]
struct Spare {
    /// Bytes that giving back did not free: stacks, and what lies between blocks in use.
    stays: usize,
}

impl Spare {
    fn is_much(&mut self, bytes: usize) -> bool {
        self.stays = self.stays.min(bytes);
        bytes - self.stays > FREE_MOST
    }

    fn given_back(&mut self, left: usize) {
        self.stays = left;
    }
}

/// Gives free memory back to the system as long as the daemon lives.
pub async fn stay_small() {
    let mut of = Spare::default();
    loop {
        tokio::time::sleep(PAUSE).await;
        if of.is_much(spare()) {
            let _ = tokio::task::spawn_blocking(trim).await;
            of.given_back(spare());
        }
    }
}

/// Resident bytes that no file backs and nobody has allocated.
#[cfg(target_env = "gnu")]
fn spare() -> usize {
    // SAFETY: reads the counters of the heap under its own locks, and returns numbers.
    let heap = unsafe { libc::mallinfo2() };
    let resident = anonymous().unwrap_or(0);
    resident.saturating_sub(heap.uordblks.saturating_add(heap.hblkhd))
}

/// Bytes of `/proc/self/statm`: resident, less what files back.
#[cfg(target_env = "gnu")]
fn anonymous() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = text.split(' ').skip(1).map(str::parse::<usize>);
    let (resident, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(resident.saturating_sub(shared) * usize::try_from(page).ok()?)
}

#[cfg(target_env = "gnu")]
fn trim() {
    // SAFETY: takes a number, and touches only what nobody has allocated, under the locks of the heap.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn spare() -> usize {
    0
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_given_back_is_left_alone() {
        let mut of = Spare::default();
        assert!(!of.is_much(FREE_MOST) && of.is_much(5 * FREE_MOST));
        of.given_back(4 * FREE_MOST);
        assert!(!of.is_much(4 * FREE_MOST) && !of.is_much(5 * FREE_MOST), "holes between blocks in use");
        assert!(of.is_much(5 * FREE_MOST + 1));
        // They were used, and are free again.
        assert!(!of.is_much(FREE_MOST) && of.is_much(2 * FREE_MOST + 1));
    }

    #[cfg(target_env = "gnu")]
    #[test]
    fn what_is_resident_is_counted() {
        let before = anonymous().unwrap();
        let block = vec![1u8; 64 << 20];
        let after = anonymous().unwrap();
        assert!(after > before + (32 << 20), "{before} {after}");
        drop(block);
    }
}

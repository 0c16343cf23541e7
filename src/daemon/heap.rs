//! The heap of the daemon: what is given back is used again.
//!
//! 1. glibc gives threads arenas of their own, up to eight a core. A block of the cache that one thread fills and
//!    another gives up leaves a hole in an arena that the next thread does not look into: measured, twice the memory
//!    that the budget counts. With one arena every hole is found; small allocations have caches of the threads.
//! 2. Holes of the wrong size are not found: when a mount that has read begins to write, the heap grows by half while
//!    much of it is free. When there is much of that it is given back to the system, and not before: memory that is
//!    still mapped is used again at half the price, and while it is given back nobody can allocate.
//! 3. Memory that was given back still counts as free in the heap. Until more is resident than after the last time,
//!    there is nothing to give.
//! 4. mallopt(3), mallinfo2(3) (glibc 2.33) and malloc_trim(3) are C functions, and the only `unsafe` here.

use std::time::Duration;

/// Free bytes of the heap that are left alone.
const FREE_MOST: usize = 12 << 20;
/// Bytes that have become resident before it is tried again.
const STEP: usize = 4 << 20;
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

/// What is resident when memory has been given back.
#[derive(Default)]
struct Left(usize);

impl Left {
    /// Whether there may be something to give, with so many bytes resident.
    fn is_exceeded(&mut self, resident: usize) -> bool {
        self.0 = self.0.min(resident);
        resident - self.0 > STEP
    }
}

/// Gives free memory back to the system as long as the daemon lives.
pub async fn stay_small() {
    let mut left = Left::default();
    loop {
        tokio::time::sleep(PAUSE).await;
        if free() > FREE_MOST && anonymous().is_some_and(|resident| left.is_exceeded(resident)) {
            let _ = tokio::task::spawn_blocking(trim).await;
            left = Left(anonymous().unwrap_or(0));
        }
    }
}

#[cfg(target_env = "gnu")]
fn free() -> usize {
    // SAFETY: reads the counters of the heap under its own locks, and returns numbers.
    unsafe { libc::mallinfo2() }.fordblks
}

/// Bytes of `/proc/self/statm`: resident, less what files back.
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
fn free() -> usize {
    0
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once() {
        let mut left = Left::default();
        assert!(!left.is_exceeded(STEP) && left.is_exceeded(10 * STEP));
        left = Left(8 * STEP);
        assert!(!left.is_exceeded(8 * STEP) && !left.is_exceeded(9 * STEP), "there is no more to give");
        assert!(left.is_exceeded(9 * STEP + 1));
        // Less is in use, and then more again.
        assert!(!left.is_exceeded(2 * STEP) && left.is_exceeded(3 * STEP + 1));
    }

    #[test]
    fn what_is_resident_is_counted() {
        let before = anonymous().unwrap();
        let block = vec![1u8; 64 << 20];
        let after = anonymous().unwrap();
        assert!(after > before + (32 << 20), "{before} {after}");
        drop(block);
    }
}

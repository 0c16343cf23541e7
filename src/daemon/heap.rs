//! The heap of the daemon: what is given back is used again.
//!
//! 1. glibc gives threads arenas of their own, up to eight a core. A block of the cache that one thread fills and
//!    another gives up leaves a hole in an arena that the next thread does not look into: measured, twice the memory
//!    that the budget counts. With one arena every hole is found; small allocations have caches of the threads.
//! 2. Holes of the wrong size are not found: when a mount that has read begins to write, the heap grows by half while
//!    much of it is free. What is free in quantity is given back to the system, and no more than that: memory that is
//!    still mapped is used again at half the price.
//! 3. mallopt(3), mallinfo2(3) and malloc_trim(3) are C functions, and the only `unsafe` here.

use std::time::Duration;

/// Free bytes of the heap that are left alone.
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

/// Gives free memory back to the system as long as the daemon lives.
pub async fn stay_small() {
    loop {
        tokio::time::sleep(PAUSE).await;
        if free() > FREE_MOST {
            let _ = tokio::task::spawn_blocking(trim).await;
        }
    }
}

#[cfg(target_env = "gnu")]
fn free() -> usize {
    // SAFETY: reads the counters of the heap under its own locks, and returns numbers.
    unsafe { libc::mallinfo2() }.fordblks
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

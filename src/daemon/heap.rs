//! The heap of the daemon: what is given back is used again.
//!
//! 1. glibc gives threads arenas of their own, up to eight a core. A block of the cache that one thread fills and
//!    another gives up leaves a hole in an arena that the next thread does not look into: measured, twice the memory
//!    that the budget counts. With one arena every hole is found; small allocations have caches of the threads.
//! 2. mallopt(3) is a C function, and the only `unsafe` here.

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

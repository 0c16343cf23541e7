//! Programs read an extended attribute in two calls: how long is it, and then what is it. Each could be a request
//! to the store, so the answer to the first is kept for the second.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;

/// The second call follows the first at once.
const LIFETIME: Duration = Duration::from_secs(1);
/// Programs between their two calls.
const PROGRAMS: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// Inode and name of an attribute.
type Place = (u64, String);

/// Values whose length was asked for.
pub struct Probes(Mutex<LruCache<Place, (Instant, Vec<u8>)>>);

impl Probes {
    pub fn new() -> Probes {
        Probes(Mutex::new(LruCache::new(PROGRAMS)))
    }

    /// `value` is what `name` of inode `ino` is now.
    pub fn keep(&self, ino: u64, name: &str, value: &[u8]) {
        self.0.lock().put((ino, name.to_owned()), (Instant::now(), value.to_vec()));
    }

    /// Serves once: whoever asks again wants to know it anew.
    pub fn take(&self, ino: u64, name: &str) -> Option<Vec<u8>> {
        let (at, value) = self.0.lock().pop(&(ino, name.to_owned()))?;
        (at.elapsed() < LIFETIME).then_some(value)
    }

    /// Attributes of `ino` are being changed here.
    pub fn forget(&self, ino: u64) {
        let mut probes = self.0.lock();
        let names: Vec<_> = probes.iter().map(|(place, _)| place).filter(|p| p.0 == ino).cloned().collect();
        for name in names {
            probes.pop(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_serves_once_and_not_after_a_change() {
        let probes = Probes::new();
        probes.keep(5, "user.a", b"1");
        assert_eq!(probes.take(6, "user.a"), None);
        assert_eq!(probes.take(5, "user.a").as_deref(), Some(&b"1"[..]));
        assert_eq!(probes.take(5, "user.a"), None);
        probes.keep(5, "user.a", b"1");
        probes.keep(6, "user.a", b"2");
        probes.forget(5);
        assert_eq!(probes.take(5, "user.a"), None);
        assert!(probes.take(6, "user.a").is_some());
    }
}

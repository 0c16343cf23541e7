//! Whether random reads of an object have become worth fetching all of it: pure, no clock and no requests.
//!
//! 1. A random read costs a round trip, and so does the next one. Fetching the object costs its bytes. Nobody knows how
//!    many reads are to come, so the object is fetched when the reads so far have cost as much as that would have:
//!    whatever comes then, both together cost at most twice what the better choice would have.
//! 2. Reads of one place (a header, an index, one table of a data base) say nothing of the rest: only reads all over the
//!    object count.
//! 3. A store sends a few bytes more in the time of a round trip. Once reads are scattered, each brings what comes in
//!    half of that time, which the reader does not wait for.

use std::time::Duration;

use crate::cache::BLOCK;

/// An object is divided in so many equal parts, to tell reads all over it from reads of one place.
const PARTS: u64 = 16;
/// Parts that were read, and reads in all, before anything is made of them.
const PARTS_MIN: u32 = 12;
const MISSES_MIN: u32 = 32;
/// Most bytes fetched along with a read.
const REACH_MAX: u64 = 1024 * 1024;
/// Bytes per second that one connection is taken for before anything was measured, and at most.
const SPEED_UNKNOWN: f64 = 50e6;
const SPEED_MAX: f64 = 1e9;
/// Connections whose speed adds up: more of them often share the line.
const CONNECTIONS: u64 = 8;
/// Bytes per second that programs can take, and connections that a stream of theirs gets in any case.
const STREAM_MAX: f64 = 1e9;
const STREAM_CONNECTIONS: u64 = 4;

/// How fast the store sends, by the GETs so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Speed {
    bytes: f64,
    seconds: f64,
}

impl Speed {
    /// Of so many bytes, the last one came `body` after the first.
    pub fn note(&mut self, bytes: u64, body: Duration) {
        // Old measurements fade: a hundred GETs ago the network may have been another one.
        self.bytes = self.bytes * 0.99 + bytes as f64;
        self.seconds = self.seconds * 0.99 + body.as_secs_f64();
    }

    /// Bytes per second of one connection.
    pub fn connection(&self) -> f64 {
        if self.bytes < BLOCK as f64 {
            return SPEED_UNKNOWN;
        }
        (self.bytes / self.seconds.max(1e-9)).min(SPEED_MAX)
    }

    /// Connections that one of so many streams of reads can make use of, `most` at most.
    pub fn connections(&self, most: u64, streams: u64) -> u64 {
        let all = (STREAM_MAX / self.connection()).ceil() as u64;
        (all / streams.max(1)).max(STREAM_CONNECTIONS).min(most)
    }

    /// What fetching `size` bytes costs with GETs of `get` bytes.
    pub fn cost(&self, size: u64, get: u64) -> Duration {
        let connections = size.div_ceil(get.max(1)).clamp(1, CONNECTIONS);
        Duration::from_secs_f64(size as f64 / (self.connection() * connections as f64))
    }
}

/// The random reads of one object, by all its readers.
#[derive(Clone, Debug, Default)]
pub struct Scatter {
    misses: u32,
    waited: Duration,
    /// Bit n: part n was read.
    parts: u32,
    /// How often the object was fetched: each time, the next takes twice as much.
    fetched: u32,
}

impl Scatter {
    /// A read at `offset` of `size` bytes waited for the store for so long. `whole`: what fetching all of it costs. Tells
    /// whether to do that now.
    pub fn missed(&mut self, offset: u64, size: u64, waited: Duration, whole: Duration) -> bool {
        self.misses = self.misses.saturating_add(1);
        self.waited = self.waited.saturating_add(waited);
        let part = (u128::from(offset) * u128::from(PARTS) / u128::from(size.max(1))).min(u128::from(PARTS) - 1);
        self.parts |= 1 << part;
        if !self.is_scattered() || self.waited < whole.saturating_mul(1 << self.fetched.min(10)) {
            return false;
        }
        *self = Scatter { fetched: self.fetched + 1, ..Scatter::default() };
        true
    }

    fn is_scattered(&self) -> bool {
        self.misses >= MISSES_MIN && self.parts.count_ones() >= PARTS_MIN
    }

    /// Bytes to fetch after what the next read misses.
    pub fn reach(&self, speed: Speed) -> u64 {
        if !self.is_scattered() {
            return 0;
        }
        let round_trip = self.waited.as_secs_f64() / f64::from(self.misses);
        let bytes = (round_trip / 2.0 * speed.connection()) as u64;
        bytes.min(REACH_MAX) / BLOCK as u64 * BLOCK as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn speed(bytes_per_second: u64) -> Speed {
        let mut speed = Speed::default();
        for _ in 0..10 {
            speed.note(bytes_per_second / 10, Duration::from_millis(100));
        }
        speed
    }

    /// Misses until the object is fetched, at most `most`.
    fn misses(scatter: &mut Scatter, size: u64, trip: Duration, whole: Duration, most: u64) -> u64 {
        (1..=most).find(|n| scatter.missed(n * 7919 * 4096 % size, size, trip, whole)).unwrap_or(u64::MAX)
    }

    #[test]
    fn slow_connections_are_used_in_numbers() {
        assert_eq!(speed(1_000_000_000).connections(16, 1), 4);
        assert_eq!(speed(90_000_000).connections(16, 1), 12);
        assert_eq!(speed(1_000_000).connections(16, 1), 16);
        assert_eq!(speed(1_000_000_000).connections(2, 1), 2);
        assert_eq!((speed(90_000_000).connections(16, 2), speed(90_000_000).connections(16, 4)), (6, 4));
    }

    #[test]
    fn a_fetch_follows_when_the_reads_have_cost_as_much() {
        let trip = Duration::from_millis(20);
        // 1 GiB at 90 MB/s a connection: 1.5 s, so 75 reads.
        let cloud = speed(90_000_000);
        let whole = cloud.cost(1024 * MIB, 8 * MIB);
        assert!((1.4..1.6).contains(&whole.as_secs_f64()), "{whole:?}");
        let n = misses(&mut Scatter::default(), 1024 * MIB, trip, whole, 10_000);
        assert!((70..80).contains(&n), "{n}");
        // A small object next to a slow line: as soon as it is certain that it is read all over.
        let n = misses(&mut Scatter::default(), 16 * MIB, trip, speed(90_000_000).cost(16 * MIB, 8 * MIB), 10_000);
        assert!((u64::from(MISSES_MIN)..40).contains(&n), "{n}");
        // A slow line: reads are cheaper than bytes for long.
        let n = misses(&mut Scatter::default(), 1024 * MIB, trip, speed(500_000).cost(1024 * MIB, 8 * MIB), 10_000);
        assert!(n > 10_000);
    }

    #[test]
    fn reads_of_one_place_never_fetch_the_rest() {
        let mut scatter = Scatter::default();
        for n in 0..100_000u64 {
            let offset = n * 7919 * 4096 % (512 * MIB);
            assert!(!scatter.missed(offset, 1024 * MIB, Duration::from_millis(20), Duration::from_millis(1)));
            assert_eq!(scatter.reach(speed(90_000_000)), 0);
        }
    }

    #[test]
    fn a_fetch_that_did_not_help_is_repeated_ever_later() {
        let mut scatter = Scatter::default();
        let (trip, whole) = (Duration::from_millis(20), Duration::from_secs(2));
        let times: Vec<u64> = (0..4).map(|_| misses(&mut scatter, 512 * MIB, trip, whole, 100_000)).collect();
        assert_eq!(times, [100, 200, 400, 800]);
    }

    #[test]
    fn what_comes_in_half_a_round_trip_comes_along() {
        let mut scatter = Scatter::default();
        for n in 0..MISSES_MIN as u64 {
            assert_eq!(scatter.reach(speed(90_000_000)), 0);
            scatter.missed(n * 7919 * 4096 % (512 * MIB), 512 * MIB, Duration::from_millis(20), Duration::MAX);
        }
        assert_eq!(scatter.reach(speed(90_000_000)), 6 * BLOCK as u64);
        assert_eq!(scatter.reach(speed(900_000_000)), REACH_MAX);
        assert_eq!(scatter.reach(speed(2_000_000)), 0);
    }

    #[test]
    fn speed_follows_the_network() {
        assert_eq!(Speed::default().connection(), SPEED_UNKNOWN);
        let mut s = speed(900_000_000);
        for _ in 0..1000 {
            s.note(BLOCK as u64, Duration::from_millis(131));
        }
        assert!(s.connection() < 2_000_000.0, "{}", s.connection());
    }
}

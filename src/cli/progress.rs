//! How far a command is, for a person who waits; and how fast it may be.
//!
//! Difficulty: a bar is for eyes. Without a terminal on standard error there is none, and none with JSON.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use tokio::time::Instant;

/// A bar on standard error, or nothing.
#[derive(Clone)]
pub(super) struct Bar(ProgressBar);

impl Bar {
    fn new(style: &str, is_quiet: bool) -> Bar {
        let shown = !is_quiet && std::io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Bar(bar)
    }

    /// Counts things of which nobody knows how many there are.
    pub fn count(what: &str, is_quiet: bool) -> Bar {
        Bar::new(&format!("{{spinner}} {{pos}} {what}, {{per_sec}}"), is_quiet)
    }

    /// Counts bytes.
    pub fn bytes(is_quiet: bool) -> Bar {
        let style = "{wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} {msg}";
        Bar::new(style, is_quiet)
    }

    pub fn set(&self, value: u64) {
        self.0.set_position(value);
    }

    pub fn add(&self, value: u64) {
        self.0.inc(value);
    }

    /// More is to come.
    pub fn expect(&self, more: u64) {
        self.0.inc_length(more);
    }

    /// Says something above the bar, on standard error.
    pub fn say(&self, text: &str) {
        self.0.suspend(|| eprintln!("{text}"));
    }

    pub fn end(&self) {
        self.0.finish_and_clear();
    }
}

/// Bytes a second, on average; shared by all transfers of a command.
pub(super) struct Limiter {
    /// `None`: as fast as it goes.
    per_second: Option<u64>,
    /// When the bytes granted so far have had their time.
    next: Mutex<Option<Instant>>,
}

impl Limiter {
    pub fn new(per_second: Option<u64>) -> Limiter {
        Limiter { per_second: per_second.filter(|n| *n > 0), next: Mutex::new(None) }
    }

    /// How long to wait before these bytes may go, if they are asked for now.
    fn reserve(&self, bytes: u64, now: Instant) -> Option<Instant> {
        let rate = self.per_second?;
        let mut next = self.next.lock();
        let start = next.filter(|n| *n > now).unwrap_or(now);
        *next = Some(start + Duration::from_secs_f64(bytes as f64 / rate as f64));
        Some(start)
    }

    /// Waits until these bytes may go.
    pub async fn take(&self, bytes: u64) {
        if let Some(start) = self.reserve(bytes, Instant::now()) {
            tokio::time::sleep_until(start).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // XOS-TRF-05
    #[test]
    fn bytes_are_spread_over_time() {
        let limiter = Limiter::new(Some(1000));
        let now = Instant::now();
        assert_eq!(limiter.reserve(500, now), Some(now));
        assert_eq!(limiter.reserve(2000, now), Some(now + Duration::from_millis(500)));
        assert_eq!(limiter.reserve(1, now), Some(now + Duration::from_millis(2500)));
        let late = now + Duration::from_secs(60);
        assert_eq!(limiter.reserve(1, late), Some(late));
        assert_eq!(Limiter::new(None).reserve(1 << 40, now), None);
    }
}

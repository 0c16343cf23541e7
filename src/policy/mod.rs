//! The language of bucket policies and lifecycle rules: read, judged, explained, written. Sends nothing.
//!
//! 1. Stores accept nonsense in silence (a misspelt action grants nothing) and refuse sense without a reason: what is
//!    wrong is found here, with its place and what to write instead, before anything is sent.
//! 2. Dialects spell principals, resources and actions differently. What is certainly wrong is an error; what only
//!    looks odd is a warning, because the store decides.
//! 3. A policy is stored as it was written: reading it never changes a byte.

pub mod actions;
mod check;
mod condition;
pub mod diff;
mod document;
pub mod edit;
mod explain;
pub mod lifecycle;
mod suggest;
pub mod template;

use std::fmt;

pub use check::{check, lock_out};
pub use document::{Condition, Document, Principal, Selection, Statement, parse};
pub use explain::explain;
pub use suggest::{Access, Extras, SessionPolicy, suggest};

/// Longest bucket policy in bytes.
pub const BUCKET_MAX: usize = 20 * 1024;
/// Longest policy of a session (AssumeRole) in characters.
pub const SESSION_MAX: usize = 2048;
/// The only version of the language that all stores know.
pub const VERSION: &str = "2012-10-17";

/// What a policy is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Attached to a bucket; its name, when it is known.
    Bucket(Option<String>),
    /// Sent with AssumeRole: without principals.
    Session,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The store may take it, but it may not mean what it seems to.
    Warning,
    /// The store refuses it, or it cannot work.
    Error,
}

/// Something about a policy that should be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub level: Level,
    /// Where, as `Statement[0] "sid": Action`; empty for the whole document.
    pub place: String,
    pub text: String,
}

impl Finding {
    fn new(level: Level, place: impl Into<String>, text: impl Into<String>) -> Finding {
        Finding { level, place: place.into(), text: text.into() }
    }

    pub fn is_error(&self) -> bool {
        self.level == Level::Error
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_error() { "error: " } else { "warning: " })?;
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        f.write_str(&self.text)
    }
}

/// The nearest of some words, when it is near enough to be what was meant.
fn near<'a>(word: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let small = word.to_ascii_lowercase();
    words
        .map(|w| (strsim::damerau_levenshtein(&small, &w.to_ascii_lowercase()), w))
        .filter(|(distance, w)| *distance <= (w.len() / 4).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, w)| w)
}

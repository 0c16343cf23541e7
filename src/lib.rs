//! xosfs mounts an S3-compatible bucket as a directory.
//!
//! The layers, imports going downward only (`tests/layers.rs` keeps the rule):
//!
//! ```text
//!               main ── cli ── daemon ─────────┐     what a person types, how it lives on a machine
//!                        │                     │
//!    fuse ── fs ─┬─ write ─┬─ read ── cache    │     what the kernel asks
//!  (adapter)     │         │                   │
//!                └─────────┴──── s3 ───────────┘     what the store speaks
//!                                 │
//!               key · error · budget · config        what everybody knows
//! ```
//!
//! `fuser` is named in `fuse/` alone, `reqwest` and `rusty_s3` in `s3/` alone; HTTP status codes never
//! leave `s3/`; errno numbers live in one table, in `error`.

pub mod budget;
pub mod cache;
pub mod cli;
pub mod config;
pub mod daemon;
#[cfg(feature = "demo")]
pub mod demo;
pub mod error;
pub mod fs;
pub mod fuse;
pub mod key;
pub mod policy;
pub mod read;
pub mod s3;
pub mod write;

pub use error::{Error, Kind, Result};

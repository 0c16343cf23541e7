//! The object store: one bucket, its operations, and the one place that signs, sends, retries and reads errors.

mod types;

pub use types::*;

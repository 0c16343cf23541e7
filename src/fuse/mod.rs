//! The kernel's side: the only place that names `fuser`.

pub mod adapter;

pub use adapter::{Adapter, KernelNotifier};

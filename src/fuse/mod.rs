//! The kernel's side: the only place that names `fuser`.

pub mod adapter;
pub mod fusermount;
pub mod mountinfo;
mod probe;
pub mod session;
pub mod target;

pub use adapter::{Adapter, KernelNotifier};

//! The kernel's side: the only place that names `fuser`.

pub mod adapter;
pub mod fusermount;
pub mod mountinfo;
mod probe;
mod reply;
pub mod session;
pub mod target;

pub use adapter::Adapter;
pub use reply::KernelNotifier;

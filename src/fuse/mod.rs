//! The kernel's side: the only place that names `fuser`.

pub mod adapter;
mod attribute;
mod directory;
pub mod fusermount;
mod io;
pub mod mountinfo;
mod probe;
mod reply;
pub mod session;
pub mod target;
mod through;
mod top;
mod tree;

pub use adapter::Adapter;
pub use reply::KernelNotifier;
pub use tree::Tree;

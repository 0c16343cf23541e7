//! What the kernel asks: the only modules that name `fuser`.

pub mod fusermount;
pub mod mountinfo;
pub mod session;
pub mod target;

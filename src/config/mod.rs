//! What the administrator decides: options, the source of a mount, where keys come from.

pub mod credentials;
pub mod disk;
pub mod docs;
pub mod memory;
pub mod options;
pub mod provider;
pub mod source;
mod spec;
pub mod table;
pub mod value;

pub use options::Options;
pub use provider::Provider;
pub use source::Source;

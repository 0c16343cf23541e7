//! Programs made to find what a file system does wrong, on a real mount: fsx (random operations on one file against
//! a copy in memory), pjdfstest (system calls and their errors against POSIX), fio (checksums in what is written).
//!
//! `tests/run` installs them: fio from the distribution, the others into `target/tools`.

#![cfg(feature = "demo")]

#[path = "../common/mod.rs"]
mod common;

mod fio;
mod fsx;
mod pjdfstest;

use std::path::{Path, PathBuf};

/// The program that `tests/run` has put into `target/tools`, else one in PATH.
fn tool(name: &str) -> PathBuf {
    let installed = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../tools/bin").join(name);
    if installed.exists() { installed } else { name.into() }
}

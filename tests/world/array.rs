//! A file as an array of bytes: what any sequence of operations has to come to.

use proptest::prelude::*;

use super::PAGE;

/// Offsets in a file of some pages, those among them at which mistakes are made.
pub fn somewhere() -> impl Strategy<Value = u64> {
    prop_oneof![0..12 * PAGE, Just(0), Just(PAGE), 3 * PAGE - 3..3 * PAGE + 3]
}

/// Writes, beyond the end too.
pub fn grow(file: &mut Vec<u8>, at: u64, data: &[u8]) {
    let end = at as usize + data.len();
    file.resize(file.len().max(end), 0);
    file[at as usize..end].copy_from_slice(data);
}

/// Zeros, as far as the file goes.
pub fn punch(file: &mut [u8], at: u64, len: u64) {
    let end = file.len().min((at + len) as usize);
    if (at as usize) < end {
        file[at as usize..end].fill(0);
    }
}

/// What a read returns.
pub fn part_of(file: &[u8], at: u64, len: u64) -> &[u8] {
    let end = file.len().min((at + len) as usize);
    &file[(at as usize).min(end)..end]
}

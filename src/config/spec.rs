//! What a row of the option table is.

use super::options::Options;
use super::value::Parsed;

/// One option.
pub struct Spec {
    pub name: &'static str,
    pub group: Group,
    /// What stands behind the `=`; empty for a flag.
    pub value: &'static str,
    /// Empty: unset.
    pub default: &'static str,
    /// What it does, then why the default is what it is.
    pub doc: &'static str,
    pub(super) set: fn(&mut Options, &str) -> Parsed<()>,
}

impl Spec {
    pub fn is_flag(&self) -> bool {
        self.value.is_empty()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Store,
    Access,
    Freshness,
    Memory,
    Objects,
    Patience,
    Daemon,
}

impl Group {
    pub const ALL: [Group; 7] =
        [Group::Store, Group::Access, Group::Freshness, Group::Memory, Group::Objects, Group::Patience, Group::Daemon];

    pub const fn title(self) -> &'static str {
        match self {
            Group::Store => "The store",
            Group::Access => "Who may do what",
            Group::Freshness => "Names and freshness",
            Group::Memory => "Memory and transfers",
            Group::Objects => "New objects",
            Group::Patience => "Deadlines and retries",
            Group::Daemon => "The daemon",
        }
    }
}

//! An inode: what it stands for, and what is known of it.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::Ino;
use crate::error::{Error, Kind, Result};
use crate::fs::attr::{Attr, Facts, FileKind};
use crate::fs::handle::FileHandle;
use crate::key::Key;
use crate::s3::ETag;
use crate::write::Writer;

/// What an inode stands for. Whatever is not [`Role::Plain`] is read-only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// The object or directory at its place, as it is now.
    #[default]
    Plain,
    /// One version of an object, wherever it is shown.
    Version(Arc<Pinned>),
    /// `.versions`: the history of the directory it is in.
    Versions,
    /// The same of a directory, below the `.versions` of one above it.
    VersionsBelow,
    /// The versions of the file of that name.
    VersionsOf,
}

/// What a [`Role::Version`] is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    pub key: Key,
    /// As the store calls it; `null` is one.
    pub version: Arc<str>,
}

impl Role {
    pub fn version(key: &Key, version: &Arc<str>) -> Role {
        Role::Version(Arc::new(Pinned { key: key.clone(), version: version.clone() }))
    }

    /// Whether it is a directory that no prefix of the bucket is.
    pub fn is_history(&self) -> bool {
        matches!(self, Role::Versions | Role::VersionsBelow | Role::VersionsOf)
    }
}

/// What is known of an inode, under its lock.
pub struct State {
    pub attr: Attr,
    pub facts: Facts,
    /// When the store last confirmed the above; `None`: never, or no longer believed.
    pub confirmed: Option<Instant>,
    /// When this mount last changed the object: answers to requests sent before that are old news.
    pub changed: Option<Instant>,
    /// Exists while the file is open for writing or holds bytes that are not stored yet.
    pub writer: Option<Arc<Writer>>,
    /// Open handles that may write.
    pub write_handles: usize,
    /// Open handles of every kind, to be moved to a new version that this mount makes.
    pub handles: Vec<std::sync::Weak<FileHandle>>,
    /// The version that the kernel's cached pages belong to.
    pub pages: Option<ETag>,
    /// What the kernel reads by itself, while it has such handles.
    pub(in crate::fs) through: Option<crate::fs::through::Through>,
    /// This mount has opened it for writing, or made it.
    pub(in crate::fs) written: bool,
    /// The store has an object or marker for it: false for a file not yet committed and for an implicit directory.
    pub stored: bool,
    /// Something was changed here and waits for its self-copy: `attr_changed`, `edits` or both.
    pub attr_pending: bool,
    /// Mode, owner or times.
    pub attr_changed: bool,
    /// Headers and metadata.
    pub(in crate::fs) edits: Vec<crate::fs::attribute::Edit>,
    /// Target of a symbolic link, once read.
    pub target: Option<Arc<str>>,
    /// Directory: key of the marker object, when it is not `prefix/`.
    pub odd_marker: Option<Key>,
    /// Directory: a marker object is known to exist, so that it stays when it is emptied.
    pub has_marker: bool,
    /// Directory: what its marker says of mode, owner and times is known, or that there is none.
    pub marker_told: bool,
    /// Directory: this mount stored the marker, and nothing but mode, owner and times is in it.
    pub plain_marker: bool,
    /// Directory: this mount added or removed a name, which no marker tells of.
    pub touched: bool,
    /// Bytes were written since the last commit, not only a file made or emptied.
    pub wrote: bool,
    /// A task is storing what was acknowledged, or waits to.
    pub uploading: bool,
    /// Tags and ACL, as far as they are known.
    pub learnt: Option<Box<crate::fs::kept::Learnt>>,
    /// The writer's object lacks the tags and the ACL that the stored one has: they are asked for before the commit.
    pub keeps_unasked: bool,
}

impl State {
    pub fn new(attr: Attr, facts: Facts, stored: bool) -> State {
        State {
            attr,
            facts,
            confirmed: None,
            changed: None,
            writer: None,
            write_handles: 0,
            handles: Vec::new(),
            pages: None,
            through: None,
            written: false,
            stored,
            attr_pending: false,
            attr_changed: false,
            edits: Vec::new(),
            target: None,
            odd_marker: None,
            has_marker: false,
            marker_told: false,
            plain_marker: false,
            touched: false,
            wrote: false,
            uploading: false,
            learnt: None,
            keeps_unasked: false,
        }
    }

    /// The attributes with the size that writers on this mount see.
    pub fn current(&self) -> Attr {
        let mut attr = self.attr.clone();
        if let Some(w) = &self.writer {
            attr.size = w.size();
        }
        attr
    }
}

pub struct Inode {
    pub ino: Ino,
    pub role: Role,
    pub state: Mutex<State>,
    /// Serialises what changes the stored object outside of a commit: self-copies, ACL and tag writes, rename. Taken by
    /// `Fs::changing`, which does not wait for ever.
    pub changing: tokio::sync::Mutex<()>,
}

impl Inode {
    pub fn kind(&self) -> FileKind {
        self.state.lock().attr.kind
    }

    /// Errors: [`Kind::ReadOnly`] for a version, which nobody can change.
    pub fn changeable(&self) -> Result<()> {
        match self.role {
            Role::Plain => Ok(()),
            _ => Err(Error::new(Kind::ReadOnly, "change what was stored before")),
        }
    }
}

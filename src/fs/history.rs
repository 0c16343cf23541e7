//! Versions by name: `FILE@@ID` is that version of FILE.
//!
//! 1. A version is no name of the bucket: it is looked for only where nothing else has the name, and never listed. Names
//!    without `@@` cost nothing.
//! 2. Programs make names with `@@` of their own and look them up first. Whatever a store says of an id that it does not
//!    know, or that this mount may not ask for, must not keep them from that.
//! 3. Not every store knows versions: one that ignores the id answers with the object as it is now, which must not pass
//!    for another version.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tracing::warn;

use super::inode::{Ino, Inode, Role};
use super::{Fs, Lookup};
use crate::error::{Error, Kind, Result};
use crate::key::{Key, Name};
use crate::s3::ObjectMeta;

impl Fs {
    /// Answers from memory, or not at all.
    pub fn lookup_now(&self, parent: Ino, name: &Name) -> Option<Lookup> {
        // What was listed of a history does not tell what this mount has stored since.
        let in_history = || self.inodes.get(parent).is_ok_and(|dir| dir.role.is_history());
        let may_be_history = || name.of_version().is_some() || self.is_versions_dir(name) || in_history();
        self.lookup_known(parent, name).filter(|l| matches!(l, Lookup::Found(_)) || !may_be_history())
    }

    /// The bucket has no such name: what it had before may. One HEAD of a name that may be a version.
    pub(super) async fn lookup_history(self: &Arc<Self>, parent: Ino, name: &Name) -> Result<Lookup> {
        if self.is_versions_dir(name) {
            let inode = self.versions_dir(parent, name)?;
            return Ok(Lookup::Found(self.entry(&inode)));
        }
        Ok(match self.find_version(parent, name).await? {
            Some(inode) => Lookup::Found(self.entry(&inode)),
            None => match self.lookup_known(parent, name) {
                Some(known) => known,
                None => Lookup::Absent(self.settings.negative_ttl),
            },
        })
    }

    async fn find_version(self: &Arc<Self>, parent: Ino, name: &Name) -> Result<Option<Arc<Inode>>> {
        let Some((file, id)) = name.of_version() else { return Ok(None) };
        let absent = |e: Error| if e.kind() == Kind::NotFound { Ok(None) } else { Err(e) };
        let asked = Instant::now();
        let key = match self.resolved_name(parent, &file).await {
            Ok(file) => self.inodes.prefix(parent)?.file(&file),
            Err(e) => Err(e),
        };
        let key = match key {
            Ok(key) => key,
            Err(e) => return absent(e),
        };
        match self.head_version(&key, id).await {
            Ok(meta) => {
                let role = Role::version(&key, &id.into());
                self.absorb_as(role, (parent, name), &key, &meta, asked).map(Some)
            }
            Err(e) => {
                // A file of this name may have been made meanwhile.
                let known = self.inodes.child(parent, name);
                if e.kind() == Kind::NotFound
                    && let Some(inode) = known.filter(|i| i.role != Role::Plain)
                {
                    self.inodes.unlink(inode.ino);
                }
                absent(e)
            }
        }
    }

    /// HEAD of an object as it is now, or of a version.
    pub(super) async fn head_of(&self, key: &Key, version: Option<&str>) -> Result<ObjectMeta> {
        match version {
            Some(id) => self.head_version(key, id).await,
            None => self.s3.head(key, None).await,
        }
    }

    /// HEAD of a version. Errors: [`Kind::NotFound`] in whatever way the store says that there is no such version, that it
    /// is the mark of a deletion, or that it may not be asked for.
    async fn head_version(&self, key: &Key, id: &str) -> Result<ObjectMeta> {
        let missing = || Error::new(Kind::NotFound, "look up a version").with_key(key);
        let meta = match self.s3.head(key, Some(id)).await {
            // No id of this store's making; the mark of a deletion.
            Err(e) if matches!(e.kind(), Kind::Invalid | Kind::Unsupported) => return Err(missing()),
            Err(e) if e.kind() == Kind::Denied => {
                if !self.versions_denied.swap(true, Ordering::Relaxed) {
                    warn!("names that may be versions are taken for missing: {e}; the right is s3:GetObjectVersion");
                }
                return Err(missing());
            }
            answer => answer?,
        };
        // A bucket that never had versions calls what is there null, and need not say so.
        match meta.version.as_deref().unwrap_or("null") {
            answered if answered == id => Ok(ObjectMeta { version: Some(id.into()), ..meta }),
            _ => Err(missing()),
        }
    }
}

//! What `cp --preserve` keeps: mode, owner and times between files and objects, the access control list between objects.
//!
//! 1. An object has them in its metadata as a mount writes them: what is copied up looks the same in a mount, and what a
//!    mount wrote comes down as it was.
//! 2. Only root can give files away. As with cp(1), a file whose owner cannot be kept is nobody else's either: it loses
//!    setuid and setgid.

use std::collections::BTreeMap;
use std::fs::{File, FileTimes, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::time::SystemTime;

use super::store::Store;
use crate::error::{Kind, Result};
use crate::fs::attr::{self, Attr, Defaults, FileKind};
use crate::key::Key;
use crate::s3::grants::under_owner;
use crate::s3::{Acl, AclChange, NewObject, ObjectMeta, canned_name};

const PERMISSIONS: u32 = 0o7777;
const WITHOUT_SET_ID: u32 = 0o1777;

/// Writes what a regular file has into the metadata of its object; what is there already stays.
pub(super) fn of_file(file: &Metadata, metadata: &mut BTreeMap<String, String>) {
    let modified = file.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let attr = Attr {
        kind: FileKind::File,
        size: file.len(),
        perm: (file.mode() & PERMISSIONS) as u16,
        uid: file.uid(),
        gid: file.gid(),
        atime: modified,
        mtime: modified,
        ctime: modified,
    };
    let mut own = BTreeMap::new();
    attr.store(&mut own);
    for (name, value) in own {
        metadata.entry(name).or_insert(value);
    }
}

/// Gives a file what its object has. Without metadata that is the time at which the object was stored.
///
/// Errors: those of the file system.
pub(super) fn onto_file(file: &File, meta: &ObjectMeta) -> io::Result<()> {
    let now = file.metadata()?;
    let defaults = Defaults {
        uid: now.uid(),
        gid: now.gid(),
        file_perm: (now.mode() & PERMISSIONS) as u16,
        dir_perm: (now.mode() & PERMISSIONS) as u16,
    };
    let attr = Attr::of_meta(meta, false, &defaults);
    // The mode of a link says nothing about the file that has its text.
    let mut mode = if attr.kind == FileKind::File { u32::from(attr.perm) } else { u32::from(defaults.file_perm) };
    if (attr.uid, attr.gid) != (now.uid(), now.gid()) {
        match fchown(file, Some(attr.uid), Some(attr.gid)) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => mode &= WITHOUT_SET_ID,
            changed => changed?,
        }
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    file.set_times(FileTimes::new().set_modified(attr.mtime))
}

/// The modification time that a copy of the object keeps, unless it carries one.
pub(super) fn keep_time(object: &mut NewObject, meta: &ObjectMeta) {
    attr::keep_mtime(&mut object.headers.metadata, meta);
}

/// An access control list that a copy gets, too: no store copies it.
pub(super) enum KeptAcl {
    /// The owner alone: what a copy has by itself.
    Private,
    /// Sent along, it is never missing in between.
    Canned(&'static str),
    Full(Acl),
}

impl KeptAcl {
    /// That of an object. A store without lists, or no right to read them: the copy gets the default one.
    pub async fn of(store: &Store, key: &Key, version: Option<&str>) -> Result<KeptAcl> {
        Ok(match store.s3.object_acl(key, version).await {
            Ok(acl) => match canned_name(&acl) {
                Some("private") => KeptAcl::Private,
                Some(name) => KeptAcl::Canned(name),
                None => KeptAcl::Full(acl),
            },
            Err(e) if matches!(e.kind(), Kind::Unsupported | Kind::Denied) => KeptAcl::Private,
            Err(e) => return Err(e),
        })
    }

    pub fn put_into(&self, object: &mut NewObject) {
        if let KeptAcl::Canned(name) = self {
            object.acl = Some((*name).to_owned());
        }
    }

    /// Sets what could not be sent along on the copy, whose owner keeps control of it.
    pub async fn settle(&self, store: &Store, key: &Key) -> Result<()> {
        let KeptAcl::Full(acl) = self else { return Ok(()) };
        let now = store.s3.object_acl(key, None).await?;
        store.s3.set_object_acl(key, None, &AclChange::Full(under_owner(acl, now))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::{ETag, Headers};

    fn object(metadata: &[(&str, &str)]) -> ObjectMeta {
        let metadata = metadata.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        ObjectMeta {
            size: 0,
            etag: ETag::new("e"),
            version: None,
            last_modified: Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000)),
            headers: Headers { metadata, ..Headers::default() },
            storage_class: None,
            restore: None,
            tag_count: None,
            sse: None,
            sse_kms_key: None,
        }
    }

    #[test]
    fn a_file_comes_back_as_it_was() {
        let file = tempfile::tempfile().unwrap();
        file.set_permissions(Permissions::from_mode(0o751)).unwrap();
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::new(1_500_000_000, 123_456_789);
        file.set_times(FileTimes::new().set_modified(time)).unwrap();
        let mut metadata = BTreeMap::from([("uid".to_owned(), "7".to_owned())]);
        of_file(&file.metadata().unwrap(), &mut metadata);
        assert_eq!((&*metadata["mode"], &*metadata["mtime"]), ("33257", "1500000000.123456789"));
        assert_eq!(metadata["uid"], "7", "what was asked for stays");
        let other = tempfile::tempfile().unwrap();
        onto_file(&other, &object(&[("mode", "33257"), ("mtime", "1500000000.123456789")])).unwrap();
        let found = other.metadata().unwrap();
        assert_eq!((found.mode() & PERMISSIONS, found.modified().unwrap()), (0o751, time));
    }

    #[test]
    fn an_object_without_metadata_has_the_time_at_which_it_was_stored() {
        let file = tempfile::tempfile().unwrap();
        file.set_permissions(Permissions::from_mode(0o640)).unwrap();
        onto_file(&file, &object(&[])).unwrap();
        let found = file.metadata().unwrap();
        assert_eq!((found.mode() & PERMISSIONS, found.mtime()), (0o640, 1_000_000_000));
        // A symbolic link of a mount.
        onto_file(&file, &object(&[("mode", "41471")])).unwrap();
        assert_eq!(file.metadata().unwrap().mode() & PERMISSIONS, 0o640);
    }
}

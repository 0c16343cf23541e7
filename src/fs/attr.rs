//! POSIX attributes and how they travel in an object's user metadata.
//!
//! The names are those of s3fs (`mode`, `uid`, `gid`, `mtime`, `ctime`, `atime`); rclone reads the same `mtime`.
//! Numbers are decimal, times are seconds with an optional fraction. `mode` includes the file type, so that a
//! symbolic link is one for s3fs too.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::s3::{ETag, Headers, Listed, ObjectMeta};

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    File,
    Dir,
    Symlink,
}

/// What stat(2) shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Permission bits with setuid, setgid and sticky: `0o0000` to `0o7777`.
    pub perm: u16,
    pub uid: u32,
    pub gid: u32,
    pub atime: SystemTime,
    pub mtime: SystemTime,
    pub ctime: SystemTime,
}

/// What objects without POSIX metadata look like.
#[derive(Clone, Debug)]
pub struct Defaults {
    pub uid: u32,
    pub gid: u32,
    pub file_perm: u16,
    pub dir_perm: u16,
}

const MODE: &str = "mode";
const UID: &str = "uid";
const GID: &str = "gid";
const MTIME: &str = "mtime";
const ATIME: &str = "atime";
const CTIME: &str = "ctime";

/// Metadata names that are attributes of ours, and so not the user's.
pub fn is_posix_name(name: &str) -> bool {
    matches!(name, MODE | UID | GID | MTIME | ATIME | CTIME | "xattr")
}

fn parse_mode(text: &str) -> Option<u32> {
    // s3fs writes decimal; a leading 0 or 0o is what people type.
    if let Some(octal) = text.strip_prefix("0o").or_else(|| text.strip_prefix('0').filter(|t| !t.is_empty())) {
        return u32::from_str_radix(octal, 8).ok();
    }
    text.parse().ok()
}

/// Seconds with an optional fraction, also negative. Anything else is ignored: other tools own the name too.
pub fn parse_time(text: &str) -> Option<SystemTime> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (seconds, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let seconds: u64 = seconds.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    let since = Duration::new(seconds, nanos);
    if negative { UNIX_EPOCH.checked_sub(since) } else { UNIX_EPOCH.checked_add(since) }
}

pub fn format_time(time: SystemTime) -> String {
    match time.duration_since(UNIX_EPOCH) {
        Ok(d) => format!("{}.{:09}", d.as_secs(), d.subsec_nanos()),
        Err(e) => format!("-{}.{:09}", e.duration().as_secs(), e.duration().subsec_nanos()),
    }
}

impl FileKind {
    /// The file type bits of `st_mode`.
    fn type_bits(self) -> u32 {
        match self {
            FileKind::File => libc::S_IFREG,
            FileKind::Dir => libc::S_IFDIR,
            FileKind::Symlink => libc::S_IFLNK,
        }
    }
}

impl Attr {
    /// An object as a listing shows it: no metadata, so the defaults.
    pub fn of_listed(listed: &Listed, defaults: &Defaults) -> Attr {
        let time = listed.last_modified.unwrap_or(UNIX_EPOCH);
        Attr {
            kind: FileKind::File,
            size: listed.size,
            perm: defaults.file_perm,
            uid: defaults.uid,
            gid: defaults.gid,
            atime: time,
            mtime: time,
            ctime: time,
        }
    }

    pub fn of_dir(time: SystemTime, defaults: &Defaults) -> Attr {
        Attr {
            kind: FileKind::Dir,
            size: 0,
            perm: defaults.dir_perm,
            uid: defaults.uid,
            gid: defaults.gid,
            atime: time,
            mtime: time,
            ctime: time,
        }
    }

    /// An object with its metadata. `dir`: it is the marker of a directory, whatever its mode says.
    pub fn of_meta(meta: &ObjectMeta, dir: bool, defaults: &Defaults) -> Attr {
        let m = &meta.headers.metadata;
        let number = |name: &str| m.get(name).and_then(|v| v.parse::<u32>().ok());
        let time = |name: &str| m.get(name).and_then(|v| parse_time(v));
        let mode = m.get(MODE).and_then(|v| parse_mode(v));
        let kind = match mode.map(|m| m & libc::S_IFMT) {
            _ if dir => FileKind::Dir,
            Some(libc::S_IFLNK) => FileKind::Symlink,
            _ => FileKind::File,
        };
        let modified = meta.last_modified.unwrap_or(UNIX_EPOCH);
        let mtime = time(MTIME).unwrap_or(modified);
        Attr {
            kind,
            size: if dir { 0 } else { meta.size },
            perm: match (mode, kind) {
                (_, FileKind::Symlink) => 0o777,
                (Some(mode), _) => (mode & 0o7777) as u16,
                (None, FileKind::Dir) => defaults.dir_perm,
                (None, FileKind::File) => defaults.file_perm,
            },
            uid: number(UID).unwrap_or(defaults.uid),
            gid: number(GID).unwrap_or(defaults.gid),
            atime: time(ATIME).unwrap_or(mtime),
            mtime,
            // When the object was written is the closest thing S3 has to a change time. It is what a listing shows, so
            // that a look-up does not seem to be a change.
            ctime: modified,
        }
    }

    /// Writes the attributes into `metadata`, leaving the user's own entries alone.
    pub fn store(&self, metadata: &mut BTreeMap<String, String>) {
        metadata.insert(MODE.into(), (self.kind.type_bits() | u32::from(self.perm)).to_string());
        metadata.insert(UID.into(), self.uid.to_string());
        metadata.insert(GID.into(), self.gid.to_string());
        metadata.insert(MTIME.into(), format_time(self.mtime));
    }
}

pub fn has_mtime(metadata: &BTreeMap<String, String>) -> bool {
    metadata.contains_key(MTIME)
}

/// Writes the modification time of an object into `metadata`, which is to replace its own, unless one is there.
pub fn keep_mtime(metadata: &mut BTreeMap<String, String>, meta: &ObjectMeta) {
    if let Some(time) = meta.last_modified
        && !metadata.contains_key(MTIME)
    {
        metadata.insert(MTIME.into(), format_time(time));
    }
}

/// Whether an object without a final `/` stands for a directory, as some tools write them.
pub fn is_directory_object(size: u64, headers: &Headers) -> bool {
    size == 0 && headers.content_type.as_deref().is_some_and(|t| t.split(';').next() == Some("application/x-directory"))
}

/// Whether objects of this storage class may have to be restored before they can be read.
pub fn is_archive_class(class: &str) -> bool {
    matches!(class.to_ascii_uppercase().as_str(), "GLACIER" | "DEEP_ARCHIVE" | "COLD" | "ARCHIVE")
}

/// What is known of the object behind an inode.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// `None`: a listing of a poor server without ETags; the next open asks.
    pub etag: Option<ETag>,
    pub version: Option<std::sync::Arc<str>>,
    pub storage_class: Option<String>,
    /// From HEAD or GET. `None`: only a listing has been seen.
    pub meta: Option<std::sync::Arc<ObjectMeta>>,
}

impl Facts {
    pub fn of_listed(listed: &Listed) -> Facts {
        Facts {
            etag: listed.etag.clone(),
            version: listed.version.clone(),
            storage_class: listed.storage_class.clone(),
            meta: None,
        }
    }

    pub fn of_meta(meta: &ObjectMeta) -> Facts {
        Facts {
            etag: Some(meta.etag.clone()),
            version: meta.version.clone(),
            storage_class: meta.storage_class.clone(),
            meta: Some(std::sync::Arc::new(meta.clone())),
        }
    }

    /// Whether the class is one that has to be restored before it can be read (dialects §11).
    pub fn is_archive_class(&self) -> bool {
        self.storage_class.as_deref().is_some_and(is_archive_class)
    }

    /// Whether an archived object has a restored copy; `None` when only HEAD can tell.
    pub fn is_restored(&self) -> Option<bool> {
        let meta = self.meta.as_ref()?;
        Some(meta.restore.as_deref().is_some_and(|r| r.replace(' ', "").contains("ongoing-request=\"false\"")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> Defaults {
        Defaults { uid: 7, gid: 8, file_perm: 0o644, dir_perm: 0o755 }
    }

    fn meta(metadata: &[(&str, &str)]) -> ObjectMeta {
        ObjectMeta {
            size: 5,
            etag: ETag::new("e"),
            version: None,
            last_modified: Some(UNIX_EPOCH + Duration::from_secs(100)),
            headers: Headers {
                metadata: metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
                ..Headers::default()
            },
            storage_class: None,
            restore: None,
            tag_count: None,
            sse: None,
            sse_kms_key: None,
        }
    }

    #[test]
    fn attributes_survive_a_round_trip_through_metadata() {
        let attr = Attr {
            kind: FileKind::Symlink,
            size: 5,
            perm: 0o777,
            uid: 1000,
            gid: 100,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789),
            ctime: UNIX_EPOCH,
        };
        let mut m = BTreeMap::new();
        attr.store(&mut m);
        assert_eq!(m["mode"], (0o120_777).to_string());
        assert_eq!(m["mtime"], "1700000000.123456789");
        let pairs: Vec<_> = m.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let back = Attr::of_meta(&meta(&pairs), false, &defaults());
        assert_eq!((back.kind, back.perm, back.uid, back.gid, back.mtime), (attr.kind, 0o777, 1000, 100, attr.mtime));
    }

    #[test]
    fn objects_of_other_tools_get_the_defaults() {
        let a = Attr::of_meta(&meta(&[("mode", "nonsense"), ("mtime", "yesterday")]), false, &defaults());
        assert_eq!((a.perm, a.uid, a.gid), (0o644, 7, 8));
        assert_eq!(a.mtime, UNIX_EPOCH + Duration::from_secs(100));
        let s3fs = Attr::of_meta(&meta(&[("mode", "33188"), ("mtime", "1700000000")]), false, &defaults());
        assert_eq!((s3fs.perm, s3fs.kind), (0o644, FileKind::File));
    }

    #[test]
    fn times_before_1970_and_with_short_fractions_parse() {
        assert_eq!(parse_time("1.5"), Some(UNIX_EPOCH + Duration::from_millis(1500)));
        assert_eq!(parse_time("-1.25"), UNIX_EPOCH.checked_sub(Duration::from_millis(1250)));
        for t in ["-1.250000000", "1700000000.000000001"] {
            assert_eq!(format_time(parse_time(t).unwrap()), t);
        }
        for bad in ["", "x", "1.x", "2023-01-01"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }
}

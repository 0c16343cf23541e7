//! The kernel's table of mounts: asked without touching the mounts, because a dead or stuck one blocks whoever does.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::session::FS_TYPE;

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `MAJOR:MINOR`, unique to one mount of a FUSE file system.
    pub device: String,
    pub dir: PathBuf,
    /// As `fuse.xosfs`.
    pub fs_type: String,
    pub source: String,
}

impl Entry {
    pub fn is_ours(&self) -> bool {
        self.fs_type == FS_TYPE
    }

    pub fn is_fuse(&self) -> bool {
        self.fs_type == "fuse" || self.fs_type == "fuseblk" || self.fs_type.starts_with("fuse.")
    }

    /// An automount point that waits for somebody to mount on it.
    pub fn is_autofs(&self) -> bool {
        self.fs_type == "autofs"
    }
}

/// The kernel writes space, tab, newline, `\` and `#` as three octal digits.
fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let octal =
            bytes.get(i + 1..i + 4).filter(|d| bytes[i] == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        if let Some(d) = octal {
            out.push(d.iter().fold(0u8, |n, b| n.wrapping_mul(8).wrapping_add(b - b'0')));
            i += 4;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    out
}

fn parse(line: &str) -> Option<Entry> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let device = left.nth(2)?.to_owned();
    let dir = OsString::from_vec(unescape(left.nth(1)?)).into();
    let mut right = right.split(' ');
    let fs_type = String::from_utf8_lossy(&unescape(right.next()?)).into_owned();
    let source = String::from_utf8_lossy(&unescape(right.next()?)).into_owned();
    Some(Entry { device, dir, fs_type, source })
}

/// Every mount of this mount namespace, in the order they were made.
pub fn all() -> io::Result<Vec<Entry>> {
    // Lossy, because mount points of others may be any bytes; ours then simply do not match.
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(String::from_utf8_lossy(&table).lines().filter_map(parse).collect())
}

/// The topmost mount at exactly this directory.
pub fn top_at(dir: &Path) -> io::Result<Option<Entry>> {
    Ok(all()?.into_iter().rfind(|e| e.dir == dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_understood() {
        let line =
            r"36 35 0:98 / /mnt/a\040b\134c rw,nosuid shared:1 master:2 - fuse.xosfs b:/p\040q\043,x rw,user_id=0";
        let entry = parse(line).unwrap();
        assert_eq!(entry.device, "0:98");
        assert_eq!(entry.dir, Path::new("/mnt/a b\\c"));
        assert!(entry.is_ours() && entry.is_fuse() && !entry.is_autofs());
        assert_eq!(entry.source, "b:/p q#,x");
        assert!(parse("21 26 0:19 / /sys rw - sysfs sysfs rw").is_some_and(|e| !e.is_fuse()));
        assert!(parse("nonsense").is_none());
        assert!(top_at(Path::new("/proc")).unwrap().is_some_and(|e| e.fs_type == "proc"));
    }
}

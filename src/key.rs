//! Keys, prefixes and names: the only code that joins, splits, escapes and validates them.
//!
//! 1. A key is any UTF-8 text of 1 to 1,024 bytes; a name is one path component of at most 255 bytes without `/`.
//!    Some keys have components that are no names: empty (`a//b`), longer than 255 bytes, or a file that a
//!    directory of the same name hides (`a` beside `a/b`). They are shown under reversible escapes that end in
//!    `@@…`, so that every such object can be reached; a real name that looks like an escape gets `@@esc` appended.
//! 2. Keys with a `.` or `..` component cannot be sent: every URL parser on the way resolves them to another key.
//!    They are unrepresentable as a [`Key`], so that no request can ever hit the wrong object.

use std::ffi::OsStr;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::error::{Error, Kind, Result};

/// Longest key in bytes: AWS, Ceph and OBS (checklist CON-47).
pub const KEY_MAX: usize = 1024;
/// Longest name in bytes, as the kernel enforces it.
pub const NAME_MAX: usize = 255;

const EMPTY: &str = "@@empty";
const MARKER: &str = "@@marker";
const FILE: &str = "@@file";
const LONG: &str = "@@long-";
const ESC: &str = "@@esc";
/// How much of a too long component its escape repeats: leaves room for the suffix and 16 hex digits.
const LONG_START: usize = 200;

/// A full object key: 1 to 1,024 bytes, no `.` or `..` component, no NUL.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

/// Empty, or a key that ends in `/`: a directory.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix(Arc<str>);

/// One component as the mount shows it, with the component of the key behind it.
///
/// Two names are equal when they are shown alike.
#[derive(Clone)]
pub struct Name {
    shown: Arc<str>,
    raw: Raw,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Raw {
    /// The component is what is shown.
    Same,
    /// The component differs from what is shown.
    Component(Arc<str>),
    /// The object `prefix` itself, whose key ends in `/`, when it holds data.
    Marker,
    /// The name of a too long component, typed by somebody: only a listing of the parent tells which.
    LongUnresolved,
}

fn invalid(kind: Kind, what: &str, text: &str) -> Error {
    Error::new(kind, what).with_key(text)
}

fn check_key(text: &str) -> Result<()> {
    if text.is_empty() {
        return Err(invalid(Kind::BadName, "empty key", text));
    }
    if text.len() > KEY_MAX {
        return Err(invalid(Kind::NameTooLong, "key longer than 1024 bytes", text));
    }
    if text.contains('\0') {
        return Err(invalid(Kind::BadName, "key with a NUL byte", text));
    }
    if text.split('/').any(|c| c == "." || c == "..") {
        return Err(invalid(Kind::BadName, "key with a `.` or `..` component", text));
    }
    Ok(())
}

impl Key {
    /// Errors: [`Kind::BadName`] (EINVAL), [`Kind::NameTooLong`] (ENAMETOOLONG).
    pub fn new(text: impl AsRef<str>) -> Result<Self> {
        let text = text.as_ref();
        check_key(text)?;
        Ok(Key(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the marker object of a directory.
    pub fn is_marker(&self) -> bool {
        self.0.ends_with('/')
    }

    /// The last component, without a trailing `/`.
    pub fn file_name(&self) -> &str {
        let text = self.0.strip_suffix('/').unwrap_or(&self.0);
        text.rsplit('/').next().unwrap_or(text)
    }
}

impl Prefix {
    pub fn root() -> Self {
        Prefix("".into())
    }

    /// Adds the final `/` where it is missing and drops leading ones.
    pub fn new(text: &str) -> Result<Self> {
        let text = text.trim_start_matches('/');
        if text.is_empty() {
            return Ok(Prefix::root());
        }
        let text = if text.ends_with('/') { text.to_owned() } else { format!("{text}/") };
        check_key(&text)?;
        Ok(Prefix(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The key of the object that marks this directory; `None` for the bucket itself.
    pub fn marker(&self) -> Option<Key> {
        (!self.is_root()).then(|| Key(self.0.clone()))
    }

    /// The key without the final `/`: where a file of the same name would be.
    pub fn without_slash(&self) -> Option<Key> {
        let text = self.0.strip_suffix('/')?;
        // `//` ends in an empty component: there is no such file.
        (!text.is_empty() && !text.ends_with('/')).then(|| Key(text.into()))
    }

    /// The key of the file `name` in this directory.
    pub fn file(&self, name: &Name) -> Result<Key> {
        match &name.raw {
            Raw::Same => Key::new(format!("{}{}", self.0, name.shown)),
            Raw::Component(c) if c.is_empty() => Err(invalid(Kind::NotFound, "no such file", &name.shown)),
            Raw::Component(c) => Key::new(format!("{}{c}", self.0)),
            Raw::Marker => self.marker().ok_or_else(|| invalid(Kind::NotFound, "no such file", &name.shown)),
            Raw::LongUnresolved => Err(invalid(Kind::NameTooLong, "unresolved long name", &name.shown)),
        }
    }

    /// The prefix of the directory `name` in this directory.
    pub fn dir(&self, name: &Name) -> Result<Prefix> {
        let component = match &name.raw {
            Raw::Same => &name.shown,
            Raw::Component(c) => c,
            Raw::Marker => return Err(invalid(Kind::NotFound, "no such directory", &name.shown)),
            Raw::LongUnresolved => return Err(invalid(Kind::NameTooLong, "unresolved long name", &name.shown)),
        };
        let text = format!("{}{component}/", self.0);
        check_key(&text)?;
        Ok(Prefix(text.into()))
    }
}

fn is_escape(shown: &str) -> bool {
    shown == EMPTY
        || shown == MARKER
        || shown.ends_with(FILE)
        || shown.ends_with(ESC)
        || shown.rsplit_once(LONG).is_some_and(|(_, h)| h.len() == 16 && h.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// FNV-1a: stable across versions, because inode numbers and escaped names outlive a mount.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
}

impl Name {
    /// The name a component of a key is shown under; `None` for `.` and `..`, which cannot be reached.
    pub fn of_component(component: &str) -> Option<Name> {
        if component.is_empty() {
            return Some(Name { shown: EMPTY.into(), raw: Raw::Component("".into()) });
        }
        if component == "." || component == ".." || component.contains(['\0', '/']) {
            return None;
        }
        if component.len() > NAME_MAX {
            let mut end = LONG_START;
            while !component.is_char_boundary(end) {
                end -= 1;
            }
            let shown = format!("{}{LONG}{:016x}", &component[..end], stable_hash(component.as_bytes()));
            return Some(Name { shown: shown.into(), raw: Raw::Component(component.into()) });
        }
        if is_escape(component) {
            let shown = format!("{component}{ESC}");
            if shown.len() <= NAME_MAX {
                return Some(Name { shown: shown.into(), raw: Raw::Component(component.into()) });
            }
            return None;
        }
        Some(Name { shown: component.into(), raw: Raw::Same })
    }

    /// The name under which a file is shown that a directory of the same name hides.
    pub fn of_shadowed(component: &str) -> Option<Name> {
        let shown = format!("{component}{FILE}");
        (shown.len() <= NAME_MAX).then(|| Name { shown: shown.into(), raw: Raw::Component(component.into()) })
    }

    /// The name of a directory's own marker object, for markers that hold data.
    pub fn of_marker() -> Name {
        Name { shown: MARKER.into(), raw: Raw::Marker }
    }

    /// A name that the kernel passed: undoes the escapes.
    ///
    /// Errors: [`Kind::NameTooLong`] past 255 bytes, [`Kind::BadName`] when it is not UTF-8, `.` or `..`.
    pub fn parse(shown: &OsStr) -> Result<Name> {
        let lossy = shown.to_string_lossy();
        if shown.len() > NAME_MAX {
            return Err(invalid(Kind::NameTooLong, "name longer than 255 bytes", &lossy));
        }
        let Some(text) = shown.to_str() else {
            return Err(invalid(Kind::BadName, "name is not UTF-8, which keys have to be", &lossy));
        };
        if text.is_empty() || text == "." || text == ".." || text.contains(['/', '\0']) {
            return Err(invalid(Kind::BadName, "not a file name", text));
        }
        let raw = if text == EMPTY {
            Raw::Component("".into())
        } else if text == MARKER {
            Raw::Marker
        } else if let Some(c) = text.strip_suffix(ESC).filter(|c| is_escape(c)) {
            Raw::Component(c.into())
        } else if let Some(c) = text.strip_suffix(FILE).filter(|c| !c.is_empty()) {
            Raw::Component(c.into())
        } else if is_escape(text) {
            // A long component, which only a listing knows; or nothing (`a@@esc`): no key is shown like that.
            Raw::LongUnresolved
        } else {
            Raw::Same
        };
        Ok(Name { shown: text.into(), raw })
    }

    pub fn as_str(&self) -> &str {
        &self.shown
    }

    pub fn as_os_str(&self) -> &OsStr {
        OsStr::new(&*self.shown)
    }

    /// Whether this name is an escape: such a name can be read, changed and deleted, but not created.
    pub fn is_escaped(&self) -> bool {
        self.raw != Raw::Same
    }

    /// Whether this is the escape of a file that a directory hides: no directory can have it.
    pub fn is_shadowed_file(&self) -> bool {
        self.raw == Raw::Marker || matches!(&self.raw, Raw::Component(c) if self.shown.strip_suffix(FILE) == Some(&**c))
    }

    /// `FILE@@ID`, taken apart: it stands for a version of FILE where nothing else has that name. `None` for everything
    /// that cannot be one.
    pub fn of_version(&self) -> Option<(Name, &str)> {
        if self.is_escaped() {
            return None;
        }
        let (file, id) = self.shown.rsplit_once("@@")?;
        let may_be_id = !id.is_empty() && id.bytes().all(|b| b.is_ascii_graphic());
        let file = may_be_id.then(|| Name::parse(OsStr::new(file)).ok())??;
        Some((file, id))
    }

    /// Whether only a listing of the parent can tell which component this name stands for.
    pub fn needs_listing(&self) -> bool {
        self.raw == Raw::LongUnresolved
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.shown == other.shown
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.shown.hash(state);
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.shown.cmp(&other.shown)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.shown
    }
}

macro_rules! text {
    ($($t:ty, $f:ident);*) => {$(
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.$f)
            }
        }
        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.$f, f)
            }
        }
    )*};
}

text!(Name, shown);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_that_urls_would_change_are_unrepresentable() {
        for bad in ["", ".", "..", "a/../b", "./x", "a/.", "a/./b", "x\0y"] {
            assert_eq!(Key::new(bad).unwrap_err().kind(), Kind::BadName, "{bad:?}");
        }
        assert_eq!(Key::new("k".repeat(1025)).unwrap_err().kind(), Kind::NameTooLong);
        for good in ["a//b", "/a", "a/", "...", "a b+c%", "é", ".hidden", "a..b"] {
            assert_eq!(Key::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn escapes_lead_back_to_the_component() {
        let p = Prefix::new("d").unwrap();
        let empty = Name::parse(OsStr::new("@@empty")).unwrap();
        assert_eq!(p.dir(&empty).unwrap().as_str(), "d//");
        assert_eq!(p.file(&empty).unwrap_err().kind(), Kind::NotFound);
        let marker = Name::parse(OsStr::new("@@marker")).unwrap();
        assert_eq!(p.file(&marker).unwrap().as_str(), "d/");
        let shadowed = Name::of_shadowed("a").unwrap();
        assert_eq!(shadowed.as_str(), "a@@file");
        assert!(Name::parse(shadowed.as_os_str()).unwrap().is_shadowed_file());
        assert_eq!(p.file(&Name::parse(shadowed.as_os_str()).unwrap()).unwrap().as_str(), "d/a");
        let literal = Name::of_component("a@@file").unwrap();
        assert_eq!(literal.as_str(), "a@@file@@esc");
        assert_eq!(p.file(&Name::parse(literal.as_os_str()).unwrap()).unwrap().as_str(), "d/a@@file");
        let long = Name::of_component(&"é".repeat(200)).unwrap();
        assert!(long.as_str().len() <= NAME_MAX);
        assert!(Name::parse(long.as_os_str()).unwrap().needs_listing());
        assert_eq!(p.file(&long).unwrap().as_str(), format!("d/{}", "é".repeat(200)));
    }

    #[test]
    fn a_version_is_a_file_and_an_id() {
        let of = |text: &str| {
            let name = Name::parse(OsStr::new(text)).unwrap();
            name.of_version().map(|(file, id)| (file.as_str().to_owned(), id.to_owned()))
        };
        let pair = |file: &str, id: &str| Some((file.to_owned(), id.to_owned()));
        assert_eq!(of("f@@x.Y_z-1"), pair("f", "x.Y_z-1"));
        assert_eq!(of("a@@b@@null"), pair("a@@b", "null"));
        assert_eq!(of("f@@file@@v1"), pair("f@@file", "v1"));
        assert_eq!(of("@@marker@@v1"), pair("@@marker", "v1"));
        for other in ["f", "f@@", "@@v1", "f@v1", "f@@a b", "f@@ü", "f@@file", "f@@esc", "@@empty"] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn every_component_has_one_name(parts in proptest::collection::vec("(@@file|@@esc|@@empty|@@marker|@@long-0123456789abcdef|[a-zé@ ]{1,3})", 1..5)) {
            let component: String = parts.concat();
            if let Some(name) = Name::of_component(&component) {
                let parsed = Name::parse(name.as_os_str()).unwrap();
                prop_assert!(!parsed.needs_listing());
                let dir = Prefix::root().dir(&parsed).unwrap();
                prop_assert_eq!(dir.as_str(), format!("{component}/"));
            }
        }
    }
}

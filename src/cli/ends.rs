//! The ends of a copy: files, standard input and output, objects; what is called how below them.

use std::path::PathBuf;

use super::Failure;
use super::store::Uri;
use crate::error::{Error, Kind};

/// One end of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    Pipe,
    File(PathBuf),
    Remote(Uri),
}

impl End {
    pub fn parse(text: &str) -> Result<End, Failure> {
        if text == "-" {
            return Ok(End::Pipe);
        }
        Ok(match Uri::remote(text)? {
            Some(uri) => End::Remote(uri),
            None => End::File(PathBuf::from(text)),
        })
    }

    /// Whether sources go below it under their own names.
    pub fn is_container(&self) -> bool {
        match self {
            End::Pipe => false,
            End::File(path) => path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/"),
            End::Remote(uri) => uri.key.is_empty() || uri.key.ends_with('/'),
        }
    }

    /// What is called `name` below it.
    pub fn child(&self, name: &str) -> Result<End, Error> {
        Ok(match self {
            End::Pipe => End::Pipe,
            End::File(dir) => End::File(dir.join(safe_path(name)?)),
            End::Remote(uri) => End::Remote(Uri { key: format!("{}{name}", uri.prefix()), ..uri.clone() }),
        })
    }

    pub fn name(&self) -> Option<String> {
        match self {
            End::Pipe => None,
            End::File(path) => path.file_name().and_then(|n| n.to_str()).map(str::to_owned),
            End::Remote(uri) => Some(uri.name().to_owned()).filter(|n| !n.is_empty()),
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Pipe => f.write_str("-"),
            End::File(path) => write!(f, "{}", path.display()),
            End::Remote(uri) => write!(f, "{uri}"),
        }
    }
}

/// The part of a key below a prefix as a path that stays below its directory.
fn safe_path(below: &str) -> Result<PathBuf, Error> {
    let is_name =
        |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0') && part.len() <= 255;
    let parts: Vec<&str> = below.split('/').collect();
    if parts.iter().all(|p| is_name(p)) {
        return Ok(parts.iter().collect());
    }
    Err(Error::new(Kind::BadName, "this key is no path of a local file")
        .with_key(below)
        .with_fix("copy it alone, to a name"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn keys_stay_below_their_directory() {
        assert_eq!(safe_path("a/b c").unwrap(), Path::new("a/b c"));
        for bad in ["", "a//b", "../x", "a/../b", "/etc/passwd", "a/", ".", &"n".repeat(256)] {
            assert_eq!(safe_path(bad).unwrap_err().kind(), Kind::BadName, "{bad}");
        }
    }

    #[test]
    fn targets_take_names_as_with_cp() {
        let end = |text: &str| End::parse(text).unwrap();
        assert!(end("s3://b").is_container() && end("s3://b/d/").is_container() && end("/tmp").is_container());
        assert!(!end("s3://b/d").is_container() && !end("-").is_container() && !end("/none/x").is_container());
        assert_eq!(end("s3://b/d").child("x").unwrap(), end("s3://b/d/x"));
        assert_eq!(end("s3://b/p/x").name().as_deref(), Some("x"));
        assert_eq!(end("s3://b").name(), None);
    }
}

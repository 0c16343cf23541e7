//! The tests of this repository by its sources: where they are, and which rows the comments above them name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A test's name without modules called `tests`: `xosfs::config::tests::x` and `xosfs::config_tests::x` are
/// `xosfs::config::x`.
pub fn plain(name: &str) -> String {
    let parts = name.split("::").filter(|p| *p != "tests").map(|p| p.strip_suffix("_tests").unwrap_or(p));
    parts.collect::<Vec<_>>().join("::")
}

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// Every source file, and the path of its module with the binary's name in front; none for files that several binaries
/// share.
fn sources() -> Vec<(PathBuf, Option<String>)> {
    let root = super::root();
    let mut out = Vec::new();
    for (dir, library) in [("src", true), ("tests", false)] {
        let mut list = Vec::new();
        files(&root.join(dir), &mut list);
        for path in list {
            let relative = path.strip_prefix(root.join(dir)).unwrap().with_extension("");
            let mut parts: Vec<&str> = relative.iter().map(|p| p.to_str().unwrap()).collect();
            let shared = !library && parts.len() > 1 && !root.join(dir).join(parts[0]).join("main.rs").exists();
            if ["mod", "main", "lib"].contains(parts.last().unwrap()) {
                parts.pop();
            }
            if library {
                parts.insert(0, "xosfs");
            }
            out.push((path.clone(), (!shared).then(|| parts.join("::"))));
        }
    }
    out
}

fn is_id(word: &str) -> bool {
    let Some((prefix, number)) = word.rsplit_once('-') else { return false };
    let first = prefix.split('-').next().unwrap_or_default();
    number.len() == 2
        && number.bytes().all(|b| b.is_ascii_digit())
        && ["XOS", "POL", "OBS", "STS", "CON"].contains(&first)
        && (first == "CON") == (prefix == "CON")
}

/// The ids in a comment: `A-01`, `A-01 to A-03`, `A-01 to -03`, `A-01, -04`.
fn ids(comment: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut after_to = false;
    for word in comment.split_whitespace() {
        let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        let full = match (word.strip_prefix('-'), out.last()) {
            (Some(number), Some(last)) if number.len() == 2 => {
                format!("{}-{number}", last.rsplit_once('-').map_or("", |(prefix, _)| prefix))
            }
            _ => word.to_owned(),
        };
        if is_id(&full) {
            let (prefix, number) = full.rsplit_once('-').unwrap();
            let last = out.last().and_then(|l| l.strip_prefix(prefix)?.strip_prefix('-')?.parse::<u32>().ok());
            match last {
                Some(last) if after_to => {
                    out.extend((last + 1..=number.parse().unwrap()).map(|n| format!("{prefix}-{n:02}")));
                }
                _ => out.push(full),
            }
        }
        after_to = word == "to";
    }
    out
}

/// Every test by its plain name, with the ids that comments directly above it name.
pub fn tests() -> BTreeMap<String, BTreeSet<String>> {
    let mut out = BTreeMap::new();
    for (path, module) in sources() {
        let Some(module) = module else { continue };
        let (mut above, mut is_test) = (BTreeSet::new(), false);
        for line in std::fs::read_to_string(&path).unwrap().lines().map(str::trim) {
            if let Some(comment) = line.strip_prefix("//") {
                above.extend(ids(comment));
            } else if line.starts_with("#[") {
                is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            } else {
                let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
                if let Some(name) = name.and_then(|n| n.split('(').next()).filter(|_| is_test) {
                    out.insert(plain(&format!("{module}::{name}")), std::mem::take(&mut above));
                }
                above.clear();
                is_test = false;
            }
        }
    }
    out
}

/// Every id in a comment of a source file, and the file.
pub fn mentions() -> Vec<(String, String)> {
    let mut out = Vec::new();
    for (path, _) in sources() {
        // The examples below.
        if path.ends_with("tests/coverage/sources.rs") || path.ends_with("tests/coverage/rows.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for comment in text.lines().filter_map(|l| l.split_once("//")).map(|(_, comment)| comment) {
            out.extend(ids(comment).into_iter().map(|id| (path.display().to_string(), id)));
        }
    }
    out
}

#[test]
fn comments_and_names_are_read() {
    assert_eq!(plain("xosfs::cache::tests::x"), "xosfs::cache::x");
    assert_eq!(plain("xosfs::config::options_tests::x"), "xosfs::config::options::x");
    assert_eq!(ids("XOS-A-01 to XOS-A-03, CON-07: a word-12, UTF-8"), ["XOS-A-01", "XOS-A-02", "XOS-A-03", "CON-07"]);
    assert_eq!(ids("XOS-A-04, -06 to -08."), ["XOS-A-04", "XOS-A-06", "XOS-A-07", "XOS-A-08"]);
    assert!(ids("SHA-25, R12, OBS, CON-1, XOS-A-123").is_empty());
}

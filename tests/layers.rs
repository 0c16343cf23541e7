//! The import rule of the picture in `src/lib.rs`: modules name only what lies below them, and the libraries that speak
//! to the kernel and to the network stay in their modules.
//!
//! 1. Only code counts: comments, strings and inline test modules are cut out before looking for paths.
//! 2. `use crate::{a, b::c};` and `crate::a::b` anywhere are both found; so are `xosfs::…` paths of the binary.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Who may name whom. Every module may name itself and what everybody knows (`BASE`).
const ALLOWED: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    // Of `fs`, the names under which metadata has mode, owner and time.
    ("cli", &["daemon", "s3", "demo", "fuse", "fs", "policy"]),
    ("daemon", &["fuse", "fs", "write", "read", "cache", "s3", "policy"]),
    ("fuse", &["fs"]),
    ("fs", &["write", "read", "cache", "s3"]),
    ("write", &["read", "cache", "s3"]),
    ("read", &["cache", "s3"]),
    // The cache holds blocks by object id; it sends nothing.
    ("cache", &[]),
    ("s3", &[]),
    // The embedded server shares nothing with the client: what it would share, its tests could not judge.
    ("demo", &[]),
    ("config", &[]),
    // A language: it reads and writes texts.
    ("policy", &[]),
    ("key", &[]),
    ("error", &[]),
    ("budget", &[]),
];

/// What everybody knows.
const BASE: &[&str] = &["key", "error", "budget", "config", "Error", "Kind", "Result"];

/// Of `s3`, these may name only types: they hold no client and send no request.
const TYPES_ONLY: &[&str] = &["cache", "config"];

/// Libraries and the paths below `src/` that may name them.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("fuser", &["fuse/"]),
    ("reqwest", &["s3/", "config/credentials"]),
    ("rusty_s3", &["s3/", "config/credentials"]),
    ("s3s", &["demo/"]),
    ("hyper", &["demo/"]),
    ("hyper_util", &["demo/"]),
    ("http", &["demo/", "s3/", "config/credentials"]),
    ("clap", &["cli/", "config/options", "main.rs"]),
];

/// Errno numbers live in one table; the kernel's side may name those it answers by itself.
const ERRNO: &[&str] = &["error.rs", "fuse/"];

#[test]
fn modules_import_downward_only() {
    let mut wrong = Vec::new();
    for (file, code) in sources() {
        let module = module_of(&file);
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == module) else {
            if module != "lib" {
                wrong.push(format!("{}: the module {module} has no row in the table", file.display()));
            }
            continue;
        };
        for (used, path) in crate_paths(&code) {
            let types = TYPES_ONLY.contains(&&*module) && used == "s3" && names_only_types(&path);
            if used != module && !BASE.contains(&&*used) && !allowed.contains(&&*used) && !types {
                wrong.push(format!("{}: {module} names {path}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "against the picture in src/lib.rs:\n{}", wrong.join("\n"));
}

#[test]
fn libraries_stay_in_their_modules() {
    let mut wrong = Vec::new();
    for (file, code) in sources() {
        for (library, places) in LIBRARIES {
            let here = file.to_string_lossy();
            if !places.iter().any(|p| here.starts_with(p)) && names_library(&code, library) {
                wrong.push(format!("{here}: {library}"));
            }
        }
    }
    assert!(wrong.is_empty(), "named outside their modules:\n{}", wrong.join("\n"));
}

#[test]
fn errno_numbers_live_in_one_table() {
    let mut wrong = Vec::new();
    for (file, code) in sources() {
        let here = file.to_string_lossy();
        // The files of the embedded server and of the command line see errno numbers as they come from the system.
        if ERRNO.iter().any(|p| here.starts_with(p)) {
            continue;
        }
        for (at, _) in code.match_indices("libc::E") {
            let name: String = code[at + 6..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            if name.len() > 2 && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit()) {
                wrong.push(format!("{here}: libc::{name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "errno numbers outside error.rs:\n{}", wrong.join("\n"));
}

/// `unsafe` only where a module doc says why (`UNSAFE` in its first lines), never elsewhere.
#[test]
fn unsafe_code_is_announced() {
    let mut wrong = Vec::new();
    for (file, code) in sources() {
        let original = std::fs::read_to_string(src().join(&file)).unwrap();
        let announced = original.lines().take_while(|l| l.starts_with("//!")).any(|l| l.contains("unsafe"));
        if words(&code).any(|w| w == "unsafe") && !announced {
            wrong.push(file.display().to_string());
        }
    }
    assert!(wrong.is_empty(), "unsafe code without a reason in the module's doc:\n{}", wrong.join("\n"));
}

#[test]
fn the_scanner_finds_what_it_looks_for() {
    let code = strip(
        r##"
        // use crate::fuse;
        /* crate::fuse /* nested */ */
        use crate::{s3::{self, Key as K}, fs, error::{Error, Kind}};
        use crate::cache::BlockCache;
        fn f<'a>(c: char) -> &'a str { let _ = ('"', '\'', b'"'); let x = crate::read::Reads; "crate::fuse \" fuser::x" }
        const R: &str = r#"crate::demo "quoted" "#;
        use reqwest::Client;
        #[cfg(test)]
        mod tests { use crate::fuse; fn g() { crate::cli::x() } }
        fn after() { crate::write::w() }
        "##,
    );
    let used: BTreeSet<String> = crate_paths(&code).into_iter().map(|(m, _)| m).collect();
    assert_eq!(used.iter().map(|s| &**s).collect::<Vec<_>>(), ["cache", "error", "fs", "read", "s3", "write"]);
    assert!(names_library(&code, "reqwest"));
    assert!(!names_library(&code, "fuser"));
    assert!(!names_library("fn reqwests() { self.http::x; my_http::y() }", "reqwest"));
}

#[test]
fn the_table_has_no_cycle() {
    let edges: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    for start in edges.keys() {
        let (mut seen, mut next) = (BTreeSet::new(), edges[start].to_vec());
        while let Some(module) = next.pop() {
            assert_ne!(module, *start, "{start} reaches itself");
            if seen.insert(module) {
                next.extend(edges[module]);
            }
        }
    }
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Files below `src/` with their code alone.
fn sources() -> Vec<(PathBuf, String)> {
    let files: Vec<_> = walkdir::WalkDir::new(src())
        .into_iter()
        .map(|e| e.unwrap().into_path())
        .filter(|p| p.extension().is_some_and(|e| e == "rs"))
        // Unit tests in files of their own see whatever they test.
        .filter(|p| p.file_stem().is_some_and(|s| s != "tests") && !p.components().any(|c| c.as_os_str() == "tests"))
        .map(|p| (p.strip_prefix(src()).unwrap().to_owned(), strip(&std::fs::read_to_string(&p).unwrap())))
        .collect();
    assert!(files.len() > 5, "sources are found");
    files
}

/// The first component below `src/`.
fn module_of(file: &Path) -> String {
    let first = file.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.strip_suffix(".rs").unwrap_or(&first).to_owned()
}

/// Code without comments, the contents of strings, and `#[cfg(test)] mod … { … }`.
fn strip(text: &str) -> String {
    let c: Vec<char> = text.chars().collect();
    let at = |i: usize| c.get(i).copied().unwrap_or('\0');
    let (mut out, mut i) = (String::new(), 0);
    while i < c.len() {
        let raw = (at(i) == 'r' && matches!(at(i + 1), '"' | '#'))
            && !out.ends_with(|p: char| p.is_alphanumeric() && p != 'b' || p == '_');
        if at(i) == '/' && at(i + 1) == '/' {
            while i < c.len() && at(i) != '\n' {
                i += 1;
            }
        } else if at(i) == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            while i < c.len() {
                match (at(i), at(i + 1)) {
                    ('/', '*') => (depth, i) = (depth + 1, i + 2),
                    ('*', '/') => (depth, i) = (depth - 1, i + 2),
                    _ => i += 1,
                }
                if depth == 0 {
                    break;
                }
            }
        } else if raw && (1..).find(|n| at(i + n) != '#').is_some_and(|n| at(i + n) == '"') {
            let hashes = (1..).take_while(|n| at(i + n) == '#').count();
            i += hashes + 2;
            while i < c.len() && !(at(i) == '"' && (1..=hashes).all(|n| at(i + n) == '#')) {
                i += 1;
            }
            i += hashes + 1;
            out.push_str("\"\"");
        } else if at(i) == '"' {
            i += 1;
            while i < c.len() && at(i) != '"' {
                i += if at(i) == '\\' { 2 } else { 1 };
            }
            i += 1;
            out.push_str("\"\"");
        } else if at(i) == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            // A character, not a lifetime.
            i += if at(i + 1) == '\\' { 3 } else { 2 };
            while i < c.len() && at(i) != '\'' {
                i += 1;
            }
            i += 1;
            out.push_str("' '");
        } else {
            out.push(at(i));
            i += 1;
        }
    }
    while let Some(start) = out.find("#[cfg(test)]\n").filter(|s| out[*s..].split_whitespace().nth(1) == Some("mod")) {
        let Some(open) = out[start..].find(['{', ';']).map(|o| start + o) else { break };
        let mut depth = 0;
        let end = out[open..].char_indices().find(|(_, ch)| {
            depth += i32::from(*ch == '{') - i32::from(*ch == '}');
            depth == 0
        });
        let end = end.map_or(out.len(), |(e, _)| open + e + 1);
        out.replace_range(start..end, "");
    }
    out
}

/// Modules that the code names through `crate::` or `xosfs::`, each with the path as written.
fn crate_paths(code: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for root in ["crate::", "xosfs::"] {
        for (at, _) in code.match_indices(root) {
            if code[..at].ends_with(|p: char| p.is_alphanumeric() || p == '_' || p == '$') {
                continue;
            }
            let rest = &code[at + root.len()..];
            for tree in branches(rest) {
                let module: String = tree.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if !module.is_empty() {
                    found.push((module, format!("{root}{tree}")));
                }
            }
        }
    }
    found
}

/// `{a, b::{c, d}}` gives `a` and `b::{c, d}`; `a::b` gives itself.
fn branches(rest: &str) -> Vec<String> {
    let Some(inner) = rest.strip_prefix('{') else {
        let end = rest.find(|c: char| !(c.is_alphanumeric() || "_:{".contains(c))).unwrap_or(rest.len());
        let end = if rest[..end].contains('{') { rest.find('}').map_or(end, |e| e + 1) } else { end };
        return vec![rest[..end].to_owned()];
    };
    let (mut depth, mut branch, mut all) = (0, String::new(), Vec::new());
    for c in inner.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => all.push(std::mem::take(&mut branch)),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                if !c.is_whitespace() {
                    branch.push(c);
                }
            }
        }
    }
    all.push(branch);
    all
}

/// Whether a path into `s3` ends in types that hold no client.
fn names_only_types(path: &str) -> bool {
    const TYPES: &[&str] = &["s3", "crate", "ETag", "ObjectId", "Settings", "Addressing", "Signature", "ListVersion"];
    words(path).all(|word| TYPES.contains(&word))
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|w| !w.is_empty())
}

/// `library::` or `use library`, as a path that begins with it.
fn names_library(code: &str, library: &str) -> bool {
    code.match_indices(library).any(|(at, _)| {
        let before = code[..at].trim_end_matches(' ');
        let after = &code[at + library.len()..];
        let begins =
            !code[..at].ends_with(|c: char| c.is_alphanumeric() || "_.".contains(c)) && !before.ends_with("::");
        begins && (after.starts_with("::") || (before.ends_with("use") && after.starts_with([';', ' '])))
    })
}

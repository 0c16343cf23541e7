//! The documents say what the code does: the error table, and a test for every rule.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use xosfs::Kind;

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

fn semantics() -> String {
    std::fs::read_to_string(root().join("docs/SEMANTICS.md")).unwrap()
}

// R77
#[test]
fn the_error_table_is_that_of_the_code() {
    macro_rules! kinds {
        ($($kind:ident)*) => {[$((stringify!($kind), Kind::$kind)),*]};
    }
    let kinds = kinds![
        NotFound NoBucket Denied Archived Stale Exists Conflict NotEmpty IsDir NotDir BadName NameTooLong TooLarge
        NoSpace Quota Unsupported Invalid NoAttribute Range Limit TooBig ReadOnly NotPermitted BadHandle CrossDevice
        Busy InProgress Loop NoMemory Unavailable Timeout Io
    ];
    let text = semantics();
    let rows: Vec<(String, String)> = text
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let kind = cells.get(1)?.strip_prefix('`')?.strip_suffix('`')?;
            let errno = cells.get(2)?;
            errno.starts_with('E').then(|| (kind.to_owned(), (*errno).to_owned()))
        })
        .collect();
    let expected: Vec<(String, String)> = kinds
        .iter()
        .map(|(name, kind)| ((*name).to_owned(), format!("{:?}", nix::errno::Errno::from_raw(kind.errno()))))
        .collect();
    let sorted = |rows: &[(String, String)]| rows.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(sorted(&rows), sorted(&expected));
    assert_eq!(rows.len(), expected.len(), "a kind has one row");
}

/// `### R12 name`: the number never changes, so rules that came later stand where they fit; no number, no name twice.
fn rules() -> Vec<(u32, String)> {
    let text = semantics();
    let rules: Vec<(u32, String)> = text
        .lines()
        .filter_map(|l| l.strip_prefix("### R"))
        .map(|heading| {
            let (number, name) = heading.split_once(' ').expect("a number and a name");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{name}");
            (number.parse().expect("a number"), name.to_owned())
        })
        .collect();
    assert_eq!(rules.iter().map(|r| &r.1).collect::<BTreeSet<_>>().len(), rules.len(), "names are unique");
    assert_eq!(rules.iter().map(|r| r.0).collect::<BTreeSet<_>>().len(), rules.len(), "numbers are unique");
    assert!(rules.len() > 50);
    rules
}

/// Every rule of the contract has a test of its name, or one that a comment with its number marks as holding it.
#[test]
fn every_rule_has_a_test() {
    let mut code = String::new();
    collect(&root().join("tests"), &mut code);
    let marks: BTreeSet<&str> = code
        .lines()
        .filter_map(|l| l.split_once("// "))
        .flat_map(|(_, comment)| comment.split(|c: char| !c.is_ascii_alphanumeric()))
        .collect();
    let missing: Vec<String> = rules()
        .into_iter()
        .filter(|(n, name)| !code.contains(&format!("fn {name}(")) && !marks.contains(format!("R{n}").as_str()))
        .map(|(n, name)| format!("R{n} {name}"))
        .collect();
    assert!(missing.is_empty(), "{} rules without a test:\n{}", missing.len(), missing.join("\n"));
}

/// What a server is excused from has a reason, and is a test.
#[test]
fn the_tests_that_a_server_cannot_pass_exist() {
    let mut code = String::new();
    collect(&root().join("tests"), &mut code);
    for server in ["radosgw", "moto"] {
        let list = std::fs::read_to_string(root().join(format!("tests/servers/{server}-unfit"))).unwrap();
        let mut names = BTreeSet::new();
        for line in list.lines().filter(|l| !l.starts_with('#')) {
            let (name, reason) =
                line.split_once(": ").unwrap_or_else(|| panic!("{server}: {line:?}: write NAME: REASON"));
            let function = name.rsplit("::").next().unwrap();
            assert!(code.contains(&format!("fn {function}()")), "{server}: there is no test {name}");
            assert!(!reason.trim().is_empty() && names.insert(name), "{server}: {name}");
        }
        assert!(!names.is_empty(), "{server}");
    }
}

fn collect(dir: &Path, code: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, code);
        } else if path.extension().is_some_and(|e| e == "rs") {
            code.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

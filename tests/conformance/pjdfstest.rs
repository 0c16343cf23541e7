//! pjdfstest on a mount. `pjdfstest.expected` lists what fails and why; a failure that is not in it and an entry that
//! does not fail any more are errors alike, so that the list is what is true.
//!
//! `XOSFS_TEST_PJDFSTEST` is a pattern of the tests to run, as `rename`; then entries that matched nothing are no error.

use std::collections::BTreeMap;

use super::common::{TestMount, TestServer, temp_dir, try_sh};
use super::tool;

/// Times are compared before and after pauses of 10 ms. Users that every Debian has are the strangers.
const CONFIG: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utimensat = {}
utime_now = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

struct Expected {
    pattern: String,
    rule: String,
    by_chance: bool,
}

impl Expected {
    fn all() -> Vec<Expected> {
        let lines = include_str!("pjdfstest.expected").lines();
        let entries = lines.filter(|l| !l.is_empty() && !l.starts_with('#'));
        entries
            .map(|line| {
                let mut fields = line.split_whitespace();
                let (Some(pattern), Some(rule), Some(_)) = (fields.next(), fields.next(), fields.next()) else {
                    panic!("an entry is PATTERN RULE REASON: {line}");
                };
                let by_chance = pattern.starts_with('?');
                Expected { pattern: pattern.trim_start_matches('?').into(), rule: rule.into(), by_chance }
            })
            .collect()
    }

    fn matches(&self, name: &str) -> bool {
        match self.pattern.split_once('*') {
            Some((before, after)) => {
                name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
            }
            None => name == self.pattern,
        }
    }
}

/// Name and outcome (`ok`, `FAILED`, `skipped`) of each test, and what it said.
fn parse(output: &str) -> BTreeMap<&str, (&str, Vec<&str>)> {
    let mut tests = BTreeMap::new();
    let mut last = None;
    for line in output.lines() {
        let mut fields = line.split_whitespace();
        match (fields.next(), fields.next(), fields.next()) {
            (Some(name), Some(outcome @ ("ok" | "FAILED" | "skipped")), None) if name.contains("::") => {
                tests.insert(name, (outcome, Vec::new()));
                last = Some(name);
            }
            _ if line.starts_with('\t') => {
                if let Some((_, said)) = last.and_then(|name| tests.get_mut(name)) {
                    said.push(line.trim());
                }
            }
            _ => {}
        }
    }
    tests
}

#[track_caller]
fn conforms(options: &[&str]) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can be somebody else");
        return;
    }
    let chosen = std::env::var("XOSFS_TEST_PJDFSTEST").unwrap_or_default();
    let server = TestServer::start();
    let mount = TestMount::with(&server, options);
    let local = temp_dir();
    std::fs::write(local.path().join("config.toml"), CONFIG).unwrap();
    let second = local.path().join("second");
    std::fs::create_dir(&second).unwrap();
    // Its strangers have to get to the mount point and back to the other file system.
    let script = format!(
        "RUST_BACKTRACE=0 '{}' -c '{}' -p '{}' -s '{}' {chosen}",
        tool("pjdfstest").display(),
        local.path().join("config.toml").display(),
        mount.path().display(),
        second.display(),
    );
    let ran = try_sh(local.path(), &script);
    mount.umount();
    let tests = parse(&ran.out);
    let summary = ran.out.lines().find(|l| l.starts_with("Summary:")).unwrap_or_else(|| panic!("no summary: {ran:#?}"));
    eprintln!("{summary}");
    let all = if chosen.is_empty() { 300 } else { 1 };
    assert!(tests.len() >= all, "only {} tests were understood: {summary}", tests.len());

    let expected = Expected::all();
    let mut wrong = Vec::new();
    for (name, (outcome, said)) in &tests {
        let entry = expected.iter().find(|e| e.matches(name));
        match (*outcome, entry) {
            ("FAILED", None) => wrong.push(format!("{name} fails: {}", said.join(" "))),
            ("ok", Some(e)) if !e.by_chance => {
                wrong.push(format!("{name} passes, and is in the list as {} ({})", e.pattern, e.rule))
            }
            _ => {}
        }
    }
    for e in expected.iter().filter(|_| chosen.is_empty()) {
        if !tests.keys().any(|name| e.matches(name)) {
            wrong.push(format!("{} ({}) is in the list, and no test", e.pattern, e.rule));
        }
    }
    assert!(wrong.is_empty(), "{summary}\n{}", wrong.join("\n"));
}

#[test]
fn pjdfstest_fails_only_where_an_object_store_has_to() {
    conforms(&[]);
}

/// Everything is asked of the store each time: what the mount remembers cannot stand in for what it stored.
#[test]
fn pjdfstest_fails_only_where_an_object_store_has_to_without_memory() {
    conforms(&["metadata_ttl=0", "negative_ttl=0"]);
}

#[test]
fn pjdfstest_fails_only_where_an_object_store_has_to_with_writeback() {
    conforms(&["writeback"]);
}

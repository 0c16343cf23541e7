//! What xosfs has to support, row by row of the manuals (`rows/`), and the tests that prove it.
//!
//! 1. The table is checked against the sources: each test it names exists, each id that a comment above a test names
//!    has that test in its row, what has to work through the mount has a test of the file system, and what has to work
//!    from the command line has one that runs the program.
//! 2. The table is checked against runs: `tests/run` leaves `target/coverage/SERVER.txt`, one line a test, and
//!    `tests/coverage/check SERVER` finds the rows whose tests did not pass there.
//! 3. `docs/COVERAGE.md` is the table for people. `XOSFS_UPDATE_DOCS=1 cargo test --test coverage` writes it.

mod rows;
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;

use rows::{Row, SERVERS, Table};

/// Tests that go through the file system: its operations, most of them on a real mount.
const FILE_SYSTEM: &[&str] = &[
    "all_buckets",
    "cli",
    "cli_server",
    "conformance",
    "copying",
    "fs_semantics",
    "large_writes",
    "manual::mount",
    "memory",
    "model",
    "posix",
    "programs",
    "requests",
    "survival",
    "versions",
    "writer",
];

/// Tests that run commands of the program.
const COMMANDS: &[&str] = &["cli", "cli_objects", "cli_server", "cli_status", "manual::commands"];

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

fn table() -> Table {
    let dir = std::fs::read_dir(root().join("tests/coverage/rows")).unwrap();
    let mut files: Vec<PathBuf> = dir.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let texts: Vec<(String, String)> =
        files.iter().map(|path| (path.display().to_string(), std::fs::read_to_string(path).unwrap())).collect();
    let mut table = Table::parse(&texts).unwrap_or_else(|e| panic!("{e}"));
    for server in &SERVERS[1..] {
        let list = std::fs::read_to_string(root().join(format!("tests/servers/{server}-unfit"))).unwrap();
        table.leave_out(server, &list);
    }
    table
}

fn is_of(test: &str, places: &[&str]) -> bool {
    places.iter().any(|p| test.strip_prefix(p).is_some_and(|rest| rest.starts_with("::")))
}

#[track_caller]
fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_test_in_the_table_exists() {
    let exists = sources::tests();
    assert!(exists.len() > 400, "{}", exists.len());
    let table = table();
    let named = table.rows.iter().flat_map(|r| r.tests.iter().map(|t| (r.id.as_str(), t)));
    let skipped = table.skips.keys().map(|(_, test)| ("skip", test));
    let all = named.chain(skipped).filter(|(_, test)| !exists.contains_key(*test));
    none(all.map(|(id, test)| format!("{id}: there is no test {test}")).collect());
}

#[test]
fn every_row_is_proved_where_it_has_to_work() {
    let mut wrong = Vec::new();
    let table = table();
    for row in &table.rows {
        let has = |places| row.tests.iter().any(|t| is_of(t, places) && table.why_not(t, SERVERS[0]).is_none());
        if row.tests.is_empty() && row.reason.is_none() && row.pending.is_none() {
            wrong.push(format!("{}: no test, and no reason why there is none", row.id));
        }
        if row.pending.is_some() {
            continue;
        }
        if row.kind.starts_with('M') && !has(FILE_SYSTEM) {
            wrong.push(format!("{}: no test through the file system", row.id));
        }
        if row.kind.ends_with('C') && !has(COMMANDS) {
            wrong.push(format!("{}: no test of a command", row.id));
        }
    }
    none(wrong);
}

/// A comment above a test that names a row is a promise; it goes stale when nobody reads it.
#[test]
fn comments_above_tests_name_rows_that_name_the_test() {
    let table = table();
    let rows: BTreeMap<&str, &Row> = table.rows.iter().map(|r| (r.id.as_str(), r)).collect();
    let mut wrong = Vec::new();
    for (test, ids) in sources::tests() {
        for id in ids {
            match rows.get(id.as_str()) {
                None => wrong.push(format!("{test} names {id}, which no row has")),
                Some(row) if !row.tests.contains(&test) => wrong.push(format!("{id}: its row lacks {test}")),
                Some(_) => {}
            }
        }
    }
    for (place, id) in sources::mentions() {
        if !rows.contains_key(id.as_str()) {
            wrong.push(format!("{place} names {id}, which no row has"));
        }
    }
    none(wrong);
}

/// Rows whose tests did not all pass on `server`, by the lines of its record.
fn holes(table: &Table, server: &str, record: &BTreeMap<String, bool>) -> Vec<String> {
    let mut wrong = Vec::new();
    for row in &table.rows {
        for test in row.tests.iter().filter(|t| table.why_not(t, server).is_none()) {
            match record.get(test) {
                Some(true) => {}
                Some(false) => wrong.push(format!("{}: {test} failed", row.id)),
                None => wrong.push(format!("{}: {test} did not run", row.id)),
            }
        }
    }
    wrong
}

/// `BINARY::TEST ok` or `BINARY::TEST FAILED` a line. A test that failed once did not pass.
fn read_record(text: &str) -> BTreeMap<String, bool> {
    let mut record = BTreeMap::new();
    for line in text.lines() {
        let (test, result) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        *record.entry(sources::plain(test)).or_insert(true) &= result == "ok";
    }
    record
}

/// With `XOSFS_COVERAGE=SERVER` also of the record that the last runs on that server left.
#[test]
fn a_run_without_a_hole_covers_every_row() {
    let table = table();
    for server in SERVERS {
        let tests: BTreeSet<&String> = table.rows.iter().flat_map(|r| &r.tests).collect();
        let counted: Vec<_> = tests.into_iter().filter(|t| table.why_not(t, server).is_none()).collect();
        let mut record: BTreeMap<String, bool> = counted.iter().map(|t| ((*t).clone(), true)).collect();
        none(holes(&table, server, &record));
        let Some(first) = counted.first() else { continue };
        record.insert((*first).clone(), false);
        assert!(holes(&table, server, &record).iter().all(|h| h.ends_with(" failed")), "{server}");
        record.remove(*first);
        let found = holes(&table, server, &record);
        assert!(!found.is_empty() && found.iter().all(|h| h.ends_with(" did not run")), "{server}: {found:?}");
    }
    let read = read_record("a::tests::b ok\na::c FAILED\na::c ok\n");
    assert_eq!(read, BTreeMap::from([("a::b".to_owned(), true), ("a::c".to_owned(), false)]));

    let Ok(server) = std::env::var("XOSFS_COVERAGE") else { return };
    assert!(SERVERS.contains(&server.as_str()), "{server:?} is none of {SERVERS:?}");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let path = target.join("coverage").join(format!("{server}.txt"));
    let text =
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}; tests/run writes it", path.display()));
    none(holes(&table, &server, &read_record(&text)));
    let counted = |row: &Row| row.tests.iter().any(|t| table.why_not(t, &server).is_none());
    println!(
        "{} of {} rows are proved on {server}",
        table.rows.iter().filter(|r| counted(r)).count(),
        table.rows.len()
    );
    for row in table.rows.iter().filter(|r| r.pending.is_some()) {
        println!("pending: {} {}: {}", row.id, row.what, row.pending.as_deref().unwrap_or_default());
    }
}

/// `pass`, or a dash with the letter of the reason.
fn cell<'a>(table: &'a Table, row: &'a Row, server: &str, reasons: &mut Vec<&'a str>) -> String {
    let mut letter = |reason: &'a str| {
        let at = reasons.iter().position(|r| *r == reason).unwrap_or_else(|| {
            reasons.push(reason);
            reasons.len() - 1
        });
        format!("– {}", char::from(b'a' + u8::try_from(at).unwrap()))
    };
    let why: Vec<&str> = row.tests.iter().filter_map(|t| table.why_not(t, server)).collect();
    if why.len() < row.tests.len() {
        return "pass".to_owned();
    }
    match (why.first(), row.reason.as_deref(), row.pending.as_deref()) {
        (Some(why), ..) => letter(why),
        (None, Some(reason), _) => letter(reason),
        (None, None, pending) => letter(pending.unwrap_or_default()),
    }
}

fn document(table: &Table) -> String {
    let mut out = String::from(
        "# What is covered\n\n\
         Every operation, limit, value and rule of the manuals that xosfs follows, and the tests that prove it. Made by\n\
         `XOSFS_UPDATE_DOCS=1 cargo test --test coverage` from `tests/coverage/rows/`. `tests/run` fails when a test that\n\
         stands here did not pass in the run, and `.ci/run` when it did not pass on a server that has a `pass` here.\n\n\
         M: has to work through the mount, C: from the command line; X is a setting or a rule, T a test, - how a\n\
         contradiction of the manuals is resolved. A letter is the reason why a server has no part in it.\n",
    );
    let mut reasons = Vec::new();
    let mut body = String::new();
    for (title, prefix) in rows::SECTIONS {
        let _ = write!(body, "\n## {title}\n\n| id | | what | {} | tests |\n", SERVERS.join(" | "));
        let _ = writeln!(body, "|---|---|---|{}---|", "---|".repeat(SERVERS.len()));
        for row in table.rows.iter().filter(|r| r.id.starts_with(prefix)) {
            let cells: Vec<String> = SERVERS.iter().map(|s| cell(table, row, s, &mut reasons)).collect();
            let tests: Vec<String> = row.tests.iter().map(|t| format!("`{t}`")).collect();
            let mut what = row.what.clone();
            if row.pending.is_some() {
                what.push_str(" **(pending)**");
            }
            let _ =
                writeln!(body, "| {} | {} | {what} | {} | {} |", row.id, row.kind, cells.join(" | "), tests.join(" "));
        }
    }
    out.push_str("\n| | why not |\n|---|---|\n");
    for (i, reason) in reasons.iter().enumerate() {
        let _ = writeln!(out, "| {} | {reason} |", char::from(b'a' + u8::try_from(i).unwrap()));
    }
    let pending: Vec<&Row> = table.rows.iter().filter(|r| r.pending.is_some()).collect();
    if !pending.is_empty() {
        out.push_str("\nPending:\n\n");
        for row in pending {
            let _ = writeln!(out, "- {} {}: {}", row.id, row.what, row.pending.as_deref().unwrap_or_default());
        }
    }
    out + &body
}

#[test]
fn the_document_is_the_table() {
    let path = root().join("docs/COVERAGE.md");
    let made = document(&table());
    if std::env::var_os("XOSFS_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == made, "docs/COVERAGE.md is not up to date; run XOSFS_UPDATE_DOCS=1 cargo test --test coverage");
}

//! The table: reading `rows/`.

use std::collections::{BTreeMap, BTreeSet};

/// The servers that the tests run on.
pub const SERVERS: [&str; 3] = ["embedded", "radosgw", "moto"];

/// Titles of the document, and how the ids below them begin. No id begins as two of them.
pub const SECTIONS: [(&str, &str); 16] = [
    ("Clients", "XOS-INI-"),
    ("Buckets", "XOS-BKT-"),
    ("Policies of buckets", "XOS-POL-"),
    ("Lifecycle rules", "XOS-LC-"),
    ("CORS rules", "XOS-COR-"),
    ("Versioning", "XOS-VER-"),
    ("Objects", "XOS-OBJ-"),
    ("Access control lists of objects", "XOS-ACL-"),
    ("Tags of objects", "XOS-TAG-"),
    ("Signed URLs", "XOS-URL-"),
    ("Signed forms", "XOS-PST-"),
    ("Multipart uploads", "XOS-TRF- XOS-MIM- XOS-MPU-"),
    ("Temporary keys", "XOS-STS- STS-JS-"),
    ("Policies of a private store", "POL-"),
    ("Access control lists of OBS", "OBS-ACL-"),
    ("Contradictions of the manuals", "CON-"),
];

/// One thing to support.
#[derive(Debug, Default)]
pub struct Row {
    pub id: String,
    /// M, C, M+C, X, T or -.
    pub kind: String,
    pub what: String,
    /// `BINARY::MODULE::TEST`, without modules called `tests`.
    pub tests: Vec<String>,
    /// Why no test is needed.
    pub reason: Option<String>,
    /// What is missing yet.
    pub pending: Option<String>,
}

#[derive(Debug, Default)]
pub struct Table {
    pub rows: Vec<Row>,
    /// Servers that a binary runs on, and why on no other.
    binaries: BTreeMap<String, (BTreeSet<String>, String)>,
    /// (server, test) and why that test says nothing there.
    pub skips: BTreeMap<(String, String), String>,
}

impl Table {
    /// Reads names and texts of the files in `rows/`; the README there explains the form. Errors: what is wrong where.
    pub fn parse(files: &[(String, String)]) -> Result<Table, String> {
        let mut table = Table::default();
        for (name, text) in files {
            for (number, line) in text.lines().enumerate() {
                table.line(line).map_err(|e| format!("{name}:{}: {e}", number + 1))?;
            }
        }
        let mut seen = BTreeSet::new();
        for row in &table.rows {
            if !seen.insert(&row.id) {
                return Err(format!("{} is there twice", row.id));
            }
            if SECTIONS.iter().filter(|(_, p)| begins(&row.id, p)).count() != 1 {
                return Err(format!("{} belongs to no section", row.id));
            }
            for test in &row.tests {
                let binary = test.split("::").next().unwrap_or_default();
                if !table.binaries.contains_key(binary) {
                    return Err(format!("{}: no line says where {binary} runs", row.id));
                }
            }
        }
        Ok(table)
    }

    /// Reads the list of tests that `server` cannot pass: `TEST: REASON` a line, the test without its binary.
    pub fn leave_out(&mut self, server: &str, list: &str) {
        let reasons: BTreeMap<&str, &str> =
            list.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split_once(": ")).collect();
        for test in self.rows.iter().flat_map(|r| &r.tests) {
            if let Some(reason) = test.split_once("::").and_then(|(_, name)| reasons.get(name)) {
                self.skips.insert((server.to_owned(), test.clone()), (*reason).to_owned());
            }
        }
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        let (head, text) = match line.split_once(": ") {
            Some((head, text)) if line.starts_with("on ") || line.starts_with("skip ") => (head, text),
            _ => ("", line),
        };
        let words: Vec<&str> = head.split(' ').collect();
        match words[..] {
            ["on", servers, "run", ref binaries @ ..] => {
                let servers: BTreeSet<String> = servers.split('+').map(str::to_owned).collect();
                if let Some(unknown) = servers.iter().find(|s| !SERVERS.contains(&s.as_str())) {
                    return Err(format!("{unknown:?} is no server"));
                }
                for binary in binaries {
                    self.binaries.insert((*binary).to_owned(), (servers.clone(), text.to_owned()));
                }
                return Ok(());
            }
            ["skip", server, test] => {
                self.skips.insert((server.to_owned(), test.to_owned()), text.to_owned());
                return Ok(());
            }
            _ => {}
        }
        if let Some(rest) = line.strip_prefix("  ") {
            let row = self.rows.last_mut().ok_or("a test before any row")?;
            match rest.split_once(' ') {
                Some(("~", reason)) => row.reason = Some(reason.to_owned()),
                Some(("?", pending)) => row.pending = Some(pending.to_owned()),
                None => row.tests.push(rest.to_owned()),
                Some(_) => return Err(format!("{rest:?} is neither a test nor a reason")),
            }
            return Ok(());
        }
        let mut words = line.splitn(3, ' ');
        let (Some(id), Some(kind), Some(what)) = (words.next(), words.next(), words.next()) else {
            return Err(format!("{line:?} is no row"));
        };
        if !["M", "C", "M+C", "X", "T", "-"].contains(&kind) {
            return Err(format!("{kind:?} is no kind"));
        }
        self.rows.push(Row { id: id.into(), kind: kind.into(), what: what.into(), ..Row::default() });
        Ok(())
    }

    /// Why `test` proves nothing on `server`; `None` when it does.
    pub fn why_not(&self, test: &str, server: &str) -> Option<&str> {
        let (servers, reason) = &self.binaries[test.split("::").next().unwrap_or_default()];
        if !servers.contains(server) {
            return Some(reason);
        }
        self.skips.get(&(server.to_owned(), test.to_owned())).map(String::as_str)
    }
}

/// Whether an id begins with one of several beginnings, separated by spaces.
pub fn begins(id: &str, beginnings: &str) -> bool {
    beginnings.split(' ').any(|b| id.starts_with(b))
}

#[test]
fn mistakes_in_the_table_are_found() {
    let parse = |text: &str| Table::parse(&[("file".to_owned(), text.to_owned())]);
    let head = "on embedded run a: it only reads\non embedded+radosgw run b: no other has it\n";
    for (rows, part) in [
        ("XOS-BKT-01 C", "is no row"),
        ("XOS-BKT-01 Q what", "is no kind"),
        ("XOS-XXX-01 C what", "no section"),
        ("XOS-BKT-01 C what\nXOS-BKT-01 C what", "twice"),
        ("XOS-BKT-01 C what\n  c::test", "where c runs"),
        ("XOS-BKT-01 C what\n  a::test b::test", "neither"),
        ("  a::test", "before any row"),
        ("on mars run d: far away", "no server"),
    ] {
        let error = parse(&format!("{head}{rows}")).unwrap_err();
        assert!(error.contains(part), "{rows}: {error}");
    }
    let rows = "skip radosgw b::y: not there\nskip embedded b::x: it is too simple\nXOS-BKT-01 C what it is\n  a::x\n  b::x\n  b::y\n  ? soon\n";
    let table = parse(&format!("{head}{rows}")).unwrap();
    assert_eq!((table.rows[0].tests.len(), table.rows[0].pending.as_deref()), (3, Some("soon")));
    assert_eq!(table.why_not("a::x", "embedded"), None);
    assert_eq!(table.why_not("a::x", "radosgw"), Some("it only reads"));
    assert_eq!(table.why_not("b::x", "radosgw"), None);
    assert_eq!(table.why_not("b::y", "radosgw"), Some("not there"));
    assert_eq!(table.why_not("b::x", "embedded"), Some("it is too simple"));
    assert_eq!(table.why_not("b::x", "moto"), Some("no other has it"));
    let mut table = table;
    table.leave_out("radosgw", "# why\nx: cannot do it\nz: nor this\n");
    assert_eq!(table.why_not("b::x", "radosgw"), Some("cannot do it"));
}

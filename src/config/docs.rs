//! The option table as text: for `--help` and for `docs/CONFIGURATION.md`.

use std::fmt::Write;

use super::table::{Group, Spec, TABLE};

fn in_group(group: Group) -> impl Iterator<Item = &'static Spec> {
    TABLE.iter().filter(move |s| s.group == group)
}

/// Wraps at spaces so that no line is longer than `width`, `indent` included.
fn wrap(text: &str, indent: usize, width: usize) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column == 0 || column + 1 + length > width {
            if column != 0 {
                out.push('\n');
            }
            let _ = write!(out, "{:indent$}{word}", "");
            column = indent + length;
        } else {
            let _ = write!(out, " {word}");
            column += 1 + length;
        }
    }
    out
}

/// The end of `xosfs mount --help`.
pub fn help() -> String {
    let mut out = String::from("Options for -o, separated by commas (\\, for a comma in a value):\n");
    for group in Group::ALL {
        let _ = writeln!(out, "\n{}:", group.title());
        for spec in in_group(group) {
            let _ = write!(out, "  {}", spec.name);
            if !spec.is_flag() {
                let _ = write!(out, "={}", spec.value);
            }
            if !spec.default.is_empty() && !spec.is_flag() {
                let _ = write!(out, "  [{}]", spec.default);
            }
            let _ = writeln!(out, "\n{}", wrap(spec.doc, 6, 96));
        }
    }
    out.push_str(
        "\nAlso: config=FILE (lines `name = value`), and the flags of mount(8): ro rw nosuid nodev noexec noatime …\n",
    );
    out
}

const INTRO: &str = "\
# Options of a mount

This file is written from the option table in `src/config/table.rs`; a test compares the two.

    xosfs mount BUCKET[:/PREFIX] DIR -o option,option=value,…

Where an option is given more than once, the later of these wins: its default, the environment, the file named by
`config=FILE`, `-o` (from left to right). A configuration file has one `option = value` a line, `#` starts a comment.
In `-o`, `\\,` is a comma inside a value, or the value stands in double quotes. `-` and `_` are the same in a name.

Keys are never options, because command lines and `/etc/fstab` are readable by every user. They come from
`AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` (and `AWS_SESSION_TOKEN`), or from `~/.aws/credentials`.

";

const OUTRO: &str = "\
## Flags for the kernel

`ro rw suid nosuid dev nodev exec noexec noatime nodiratime relatime norelatime sync dirsync`, and the security labels
`context= fscontext= defcontext= rootcontext=`, are passed to mount(2). `nosuid` and `nodev` hold unless `suid` or `dev`
is given: nothing in a bucket should become root.

## Accepted and dropped

`_netdev nofail auto noauto user users owner group nouser noowner nogroup defaults nonempty async loud silent
strictatime atime diratime lazytime nolazytime`, `x-…` and `comment=…` speak to fstab, mount(8) and systemd. `_netdev`
also raises `mount_timeout` to 60s. Anything else that is not in this file is an error.

## Exit codes

| | `xosfs mount`, `xosfs umount` | `mount.fuse.xosfs` |
|---|---|---|
| done | 0 | 0 |
| failed, or something could not be stored | 1 | 32 |
| wrong option or argument | 2 | 1 |
";

/// The text of `docs/CONFIGURATION.md`.
pub fn markdown() -> String {
    let mut out = INTRO.to_owned();
    for group in Group::ALL {
        let _ = writeln!(out, "## {}\n\n| option | default | |\n|---|---|---|", group.title());
        for spec in in_group(group) {
            let escape = |text: &str| text.replace('|', "\\|");
            let value = if spec.is_flag() { String::new() } else { format!("={}", escape(spec.value)) };
            let default = match spec.default {
                "" => "unset".to_owned(),
                "false" if spec.is_flag() => "off".to_owned(),
                text => format!("`{text}`"),
            };
            let _ = writeln!(out, "| `{}{value}` | {default} | {} |", spec.name, escape(spec.doc));
        }
        out.push('\n');
    }
    out.push_str(OUTRO);
    out
}

#[cfg(test)]
mod tests {
    /// `XOSFS_UPDATE_DOCS=1 cargo test --lib config::docs` writes the file.
    #[test]
    fn the_document_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIGURATION.md");
        if std::env::var_os("XOSFS_UPDATE_DOCS").is_some() {
            std::fs::write(path, super::markdown()).unwrap();
        }
        assert!(std::fs::read_to_string(path).unwrap() == super::markdown(), "docs/CONFIGURATION.md is out of date");
    }

    #[test]
    fn help_fits_a_terminal() {
        for line in super::help().lines() {
            assert!(line.chars().count() <= 110, "{line}");
        }
    }
}

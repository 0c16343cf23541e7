//! `xosfs completions` and `xosfs man`: the command tree as text for shells and for man(1).
//!
//! The options of a mount are no arguments of the parser: their table is appended to the pages.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Failure, print};
use crate::config::table::{Group, TABLE};

#[derive(Args, Clone, Debug)]
pub(super) struct CompletionArgs {
    /// For which shell.
    shell: Shell,
}

#[derive(Args, Clone, Debug)]
pub(super) struct ManArgs {
    /// Page of one command, as in `xosfs man mount` [default: the program].
    #[arg(conflicts_with = "dir")]
    command: Vec<String>,
    /// Write all pages into this directory, for packages.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn completions(args: &CompletionArgs, mut tree: Command) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut tree, "xosfs", &mut text);
    print::out(&String::from_utf8_lossy(&text))
}

/// Protects text from roff(7).
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

/// The option table as a section.
fn option_table() -> String {
    let mut out =
        String::from(".SH \"MOUNT OPTIONS\"\nFor \\fB\\-o\\fR, separated by commas, and for configuration files.\n");
    for group in Group::ALL {
        out += &format!(".SS \"{}\"\n", escaped(group.title()));
        for spec in TABLE.iter().filter(|s| s.group == group) {
            let value = if spec.is_flag() { String::new() } else { format!("=\\fI{}\\fR", escaped(spec.value)) };
            let default = match spec.default {
                "" | "false" => String::new(),
                text => format!(" [{}]", escaped(text)),
            };
            out += &format!(".TP\n\\fB{}\\fR{value}{default}\n{}\n", escaped(spec.name), escaped(spec.doc));
        }
    }
    out
}

/// The page of one command, called by its whole name.
fn page(command: &Command, name: &str) -> io::Result<String> {
    let with_options = matches!(name, "xosfs" | "xosfs-mount");
    // Long help would repeat the table without its form.
    let command = command.clone().display_name(name).after_long_help(None::<&str>);
    let mut text = Vec::new();
    Man::new(command).title(name).render(&mut text)?;
    let mut text = String::from_utf8_lossy(&text).into_owned();
    if with_options {
        text += &option_table();
    }
    Ok(text)
}

/// Writes the page of a command and those below it.
fn write_all(command: &Command, name: &str, dir: &Path) -> io::Result<()> {
    fs::write(dir.join(format!("{name}.1")), page(command, name)?)?;
    for sub in command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
        write_all(sub, &format!("{name}-{}", sub.get_name()), dir)?;
    }
    Ok(())
}

pub(super) fn man(args: &ManArgs, mut tree: Command) -> Result<(), Failure> {
    let failed = |e: io::Error| Failure::Failed(format!("write the manual page: {e}"));
    tree.build();
    if let Some(dir) = &args.dir {
        return fs::create_dir_all(dir).and_then(|()| write_all(&tree, "xosfs", dir)).map_err(failed);
    }
    let (mut command, mut name) = (&tree, "xosfs".to_owned());
    for word in &args.command {
        command = command
            .get_subcommands()
            .find(|c| OsStr::new(c.get_name()) == OsStr::new(word))
            .ok_or_else(|| Failure::Usage(format!("there is no command `{word}`; `xosfs help` lists them")))?;
        name = format!("{name}-{word}");
    }
    print::out(&page(command, &name).map_err(failed)?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_option_is_in_the_manual_and_no_line_is_taken_for_a_request() {
        let mut tree = super::super::Cli::command();
        tree.build();
        let text = page(&tree, "xosfs").unwrap();
        for spec in TABLE {
            assert!(text.contains(&format!("\\fB{}\\fR", escaped(spec.name))), "{}", spec.name);
        }
        for line in option_table().lines().filter(|l| l.starts_with('.')) {
            assert!([".SH", ".SS", ".TP"].iter().any(|r| line.starts_with(r)), "{line}");
        }
        let dir = tempfile::tempdir().unwrap();
        write_all(&tree, "xosfs", dir.path()).unwrap();
        let page = fs::read_to_string(dir.path().join("xosfs-umount.1")).unwrap();
        assert!(page.contains(".TH xosfs\\-umount") || page.contains(".TH xosfs-umount"), "{page}");
    }
}

//! `xosfs install-helper`: lets mount(8) find this program, and keeps locate(1) out of buckets.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{Failure, InstallArgs};
use crate::fuse::session::FS_TYPE;

const HELPER: &str = "sbin/mount.fuse.xosfs";
const UPDATEDB: &str = "etc/updatedb.conf";

fn failed(path: &Path) -> impl Fn(io::Error) -> Failure + '_ {
    move |e| Failure::Failed(format!("{}: {e}; run as root, or with --prefix DIR", path.display()))
}

pub(super) fn run(args: &InstallArgs) -> Result<(), Failure> {
    let helper = args.prefix.join(HELPER);
    let updatedb = args.prefix.join(UPDATEDB);
    match fs::symlink_metadata(&helper) {
        Ok(meta) if meta.is_symlink() => fs::remove_file(&helper).map_err(failed(&helper))?,
        Ok(_) => {
            return Err(Failure::Failed(format!("{} is a file of somebody else; move it away", helper.display())));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(&helper)(e)),
    }
    if !args.remove {
        let program = std::env::current_exe().map_err(|e| Failure::Failed(format!("where this program is: {e}")))?;
        if let Some(dir) = helper.parent() {
            fs::create_dir_all(dir).map_err(failed(dir))?;
        }
        symlink(&program, &helper).map_err(failed(&helper))?;
        println!("{} -> {}", helper.display(), program.display());
    }
    match fs::read_to_string(&updatedb) {
        Ok(text) => {
            let edited = if args.remove { without_type(&text) } else { with_type(&text) };
            if edited != text {
                fs::write(&updatedb, edited).map_err(failed(&updatedb))?;
                println!("{}: PRUNEFS changed", updatedb.display());
            }
            Ok(())
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed(&updatedb)(e)),
    }
}

/// Changes the list of file system types between the quotes of the PRUNEFS line.
fn edit(text: &str, change: impl Fn(&mut Vec<&str>)) -> String {
    let mut out = String::with_capacity(text.len() + FS_TYPE.len() + 1);
    for line in text.split_inclusive('\n') {
        let quotes = line.find('"').zip(line.rfind('"')).filter(|(first, last)| first < last);
        match quotes.filter(|_| line.trim_start().starts_with("PRUNEFS")) {
            Some((first, last)) => {
                let before: Vec<&str> = line[first + 1..last].split_whitespace().collect();
                let mut types = before.clone();
                change(&mut types);
                if types == before {
                    out.push_str(line);
                } else {
                    out.push_str(&format!("{}\"{}\"{}", &line[..first], types.join(" "), &line[last + 1..]));
                }
            }
            None => out.push_str(line),
        }
    }
    out
}

fn with_type(text: &str) -> String {
    edit(text, |types| {
        if !types.contains(&FS_TYPE) {
            types.push(FS_TYPE);
        }
    })
}

fn without_type(text: &str) -> String {
    edit(text, |types| types.retain(|t| *t != FS_TYPE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prunefs_gets_our_type_once_and_loses_it_again() {
        let text = "# PRUNEFS is a list\nPRUNE_BIND_MOUNTS=\"yes\"\nPRUNEFS = \"NFS nfs4  sysfs\"\n";
        let edited = with_type(text);
        assert!(edited.contains("PRUNEFS = \"NFS nfs4 sysfs fuse.xosfs\"\n"), "{edited}");
        assert_eq!(with_type(&edited), edited);
        assert!(without_type(&edited).contains("\"NFS nfs4 sysfs\""));
        assert_eq!(without_type(text), text);
    }
}

//! Bad input: messages and exit codes.

use std::ffi::OsStr;
use std::fs;

use xosfs::fuse::mountinfo;

use super::{os, run, run_as, words};

/// Each is one line on stderr that names what to change, an exit code, and nothing mounted.
#[test]
fn bad_input_is_one_line_and_an_exit_code() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("d");
    let file = tmp.path().join("f");
    fs::create_dir(&dir).unwrap();
    fs::write(&file, "").unwrap();
    let (d, f) = (dir.display(), file.display());
    for (line, code, parts) in [
        (format!("mount b/p {d}"), 2, vec!["did you mean b:/p?"]),
        (format!("mount https://h/b {d}"), 2, vec!["-o endpoint=URL"]),
        (format!("mount b {d} -o endpoint=host:9000"), 2, vec!["`endpoint`", "http://"]),
        (format!("mount b {d} -o endpont=http://h"), 2, vec!["unknown option", "`endpoint`"]),
        (format!("mount b {d} -o metadata_ttl=never"), 2, vec!["`metadata_ttl`", "5s"]),
        (format!("mount b {d} -o part_size=1K"), 2, vec!["`part_size`", "5M"]),
        (format!("mount b {d} -o uid=nobody-at-all"), 2, vec!["`uid`", "no user"]),
        (format!("mount b {d} -o secret_key=hunter2"), 2, vec!["`secret_key` is not an option"]),
        (format!("mount b {d} -o config={}/none", tmp.path().display()), 2, vec!["`config`"]),
        (format!("mount b {d}/none"), 1, vec!["does not exist", "mkdir -p"]),
        (format!("mount b {f}/none"), 1, vec!["mount point", "Not a directory"]),
        (format!("mount b {f} -o endpoint=http://127.0.0.1:9"), 1, vec!["is not a directory"]),
        (format!("mount b {d} -o endpoint=http://127.0.0.1:9,staging_dir=/proc/x"), 1, vec!["`staging_dir`"]),
        (format!("mount b {d} -o log=/proc/x/y,endpoint=http://127.0.0.1:9"), 1, vec!["`log`"]),
        (format!("umount {d}"), 1, vec!["is not mounted"]),
        (format!("umount {d}/none"), 1, vec!["does not exist"]),
        ("umount /proc".into(), 1, vec!["not of xosfs"]),
    ] {
        for foreground in ["", " --foreground"] {
            let line = if line.starts_with("mount") { format!("{line}{foreground}") } else { line.clone() };
            let (got, said) = run(&os(&words(&line)));
            assert_eq!(got, code, "{line}: {said}");
            let said = said.lines().filter(|l| !l.contains(" WARN ")).collect::<Vec<_>>();
            assert_eq!(said.len(), 1, "{line}: {said:?}");
            assert!(said[0].starts_with("xosfs: ") && parts.iter().all(|p| said[0].contains(p)), "{line}: {said:?}");
            assert!(!said[0].contains("hunter2"));
            assert_eq!(mountinfo::top_at(&dir).unwrap(), None);
        }
    }
}

#[test]
fn wrong_arguments_are_usage_errors() {
    for line in ["", "mount", "mount b", "mout b /d", "umount", "mount b /d /e", "mount b /d --frobnicate"] {
        let (code, said) = run(&os(&words(line)));
        assert_eq!(code, 2, "{line}: {said}");
        assert!(!said.is_empty());
    }
    let output = assert_cmd::Command::cargo_bin("xosfs").unwrap().args(["mount", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for option in xosfs::config::table::TABLE {
        assert!(help.contains(option.name), "{}", option.name);
    }
}

#[test]
fn no_credentials_say_where_to_put_them() {
    let tmp = tempfile::tempdir().unwrap();
    let args =
        [OsStr::new("mount"), OsStr::new("b"), tmp.path().as_os_str(), OsStr::new("-oendpoint=http://127.0.0.1:9")];
    let (code, said) = run_as("xosfs", &args, &[]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("AWS_ACCESS_KEY_ID"), "{said}");
}

#[test]
fn the_mount_helper_has_the_exit_codes_of_mount() {
    let tmp = tempfile::tempdir().unwrap();
    let d = tmp.path().display();
    let keys = [("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s")];
    for name in ["mount.fuse.xosfs", "mount.xosfs"] {
        for (line, code, part) in [
            (format!("b:/p {d} -f -o rw,_netdev,nofail,allow_other,endpoint=http://h,x-systemd.automount"), 0, ""),
            (format!("b {d} -sfnv -o rw,frobnicate=1"), 0, ""),
            (format!("b {d} -o frobnicate=1"), 1, "unknown option"),
            (format!("b {d} -q"), 1, "usage:"),
            ("b".into(), 1, "usage:"),
            (format!("b {d}/none -o rw"), 32, "does not exist"),
            (format!("b {d} -o endpoint=http://127.0.0.1:9,staging_dir=/proc/x"), 32, "`staging_dir`"),
        ] {
            let (got, said) = run_as(name, &os(&words(&line)), &keys);
            assert_eq!(got, code, "{line}: {said}");
            assert!(said.contains(part), "{line}: {said}");
            assert!(code == 0 || said.starts_with("mount.fuse.xosfs: "), "{said}");
        }
    }
}

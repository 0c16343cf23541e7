//! The helper of mount(8): `mount.fuse.xosfs SOURCE DIR [-sfnvrw] [-N NS] [-o OPTIONS] [-t TYPE]`.

use std::ffi::OsString;
use std::path::Path;

use super::launch::Answer;
use super::{Failure, MountArgs, mount};
use crate::config::Options;
use crate::daemon::{Request, env};
use crate::fuse::target;

const USAGE: &str = "usage: mount.fuse.xosfs BUCKET[:/PREFIX]|s3:// DIR [-sfnvrw] [-o OPTIONS] [-t TYPE]";

#[derive(Debug, Default, PartialEq, Eq)]
struct HelperArgs {
    positional: Vec<String>,
    options: Vec<String>,
    sloppy: bool,
    fake: bool,
    verbose: bool,
}

fn parse(args: &[OsString]) -> Result<HelperArgs, Failure> {
    let mut out = HelperArgs::default();
    let text = |arg: &OsString| {
        arg.to_str().map(str::to_owned).ok_or_else(|| Failure::Usage(format!("argument {arg:?} is not UTF-8; {USAGE}")))
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let arg = text(arg)?;
        let Some(letters) = arg.strip_prefix('-').filter(|l| !l.is_empty()) else {
            out.positional.push(arg);
            continue;
        };
        let mut letters = letters.chars();
        while let Some(letter) = letters.next() {
            match letter {
                's' => out.sloppy = true,
                'f' => out.fake = true,
                'v' => out.verbose = true,
                // There is no /etc/mtab to leave alone.
                'n' => {}
                'r' => out.options.push("ro".into()),
                'w' => out.options.push("rw".into()),
                'o' | 't' | 'N' => {
                    let rest = letters.as_str().to_owned();
                    letters = "".chars();
                    let missing = || Failure::Usage(format!("-{letter} needs a value; {USAGE}"));
                    let value = if rest.is_empty() { text(args.next().ok_or_else(missing)?)? } else { rest };
                    if letter == 'o' {
                        out.options.push(value);
                    }
                }
                _ => return Err(Failure::Usage(format!("unknown argument -{letter}; {USAGE}"))),
            }
        }
    }
    Ok(out)
}

pub(super) fn run(args: &[OsString]) -> Result<(), Failure> {
    let parsed = parse(args)?;
    let [source, dir] = parsed.positional.as_slice() else {
        return Err(Failure::Usage(USAGE.into()));
    };
    let args = MountArgs {
        places: vec![source.into(), dir.into()],
        all_buckets: false,
        options: parsed.options.clone(),
        foreground: false,
        sloppy: parsed.sloppy,
        background_child: false,
    };
    let request = Request {
        source: source.parse().map_err(Failure::Usage)?,
        options: Options::load(&args.options, args.sloppy, &env)?,
        dir: target::resolve(Path::new(dir))?,
        background: true,
    };
    if parsed.fake {
        return Ok(());
    }
    match mount::start(&request, &args)? {
        Answer::Ready(text) if parsed.verbose => println!("mount.fuse.xosfs: {text}"),
        Answer::Already(text) if parsed.verbose => println!("mount.fuse.xosfs: {text}"),
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<HelperArgs, String> {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        parse(&args).map_err(|f| f.message().to_owned())
    }

    #[test]
    fn the_forms_that_mount_and_systemd_and_autofs_use() {
        let expected = HelperArgs {
            positional: vec!["b:/p".into(), "/d".into()],
            options: vec!["rw,_netdev".into()],
            ..HelperArgs::default()
        };
        for line in [
            "b:/p /d -o rw,_netdev",
            "b:/p /d -orw,_netdev",
            "-o rw,_netdev b:/p /d",
            "-n -o rw,_netdev -t fuse.xosfs b:/p /d",
            "b:/p /d -no rw,_netdev",
            "b:/p /d -N /proc/1/ns/mnt -o rw,_netdev -tfuse.xosfs",
        ] {
            assert_eq!(parsed(line).unwrap(), expected, "{line}");
        }
        let all = parsed("b /d -sfnvrw").unwrap();
        assert!(all.sloppy && all.fake && all.verbose);
        assert_eq!(all.options, ["ro", "rw"]);
        assert!(parsed("b /d -x").unwrap_err().contains("-x"));
        assert!(parsed("b /d -o").unwrap_err().contains("-o needs a value"));
    }
}

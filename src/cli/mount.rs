//! `xosfs mount`: checks what can be checked here, then serves in the foreground or starts a daemon.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::launch::{self, Answer};
use super::{Failure, MountArgs};
use crate::config::{Options, Source};
use crate::daemon::report::Report;
use crate::daemon::{self, Outcome, Request, env};
use crate::fuse::target;

/// What the daemon may need besides the options' own deadlines.
const GRACE: Duration = Duration::from_secs(90);

impl MountArgs {
    fn places(&self) -> Result<(Source, &Path), Failure> {
        match (self.places.as_slice(), self.all_buckets) {
            ([dir], true) => Ok((Source::all_buckets(), Path::new(dir))),
            ([source, dir], false) => {
                let source =
                    source.to_str().ok_or_else(|| Failure::Usage(format!("source {source:?} is not UTF-8")))?;
                Ok((source.parse().map_err(Failure::Usage)?, Path::new(dir)))
            }
            ([source, ..], true) => Err(Failure::Usage(format!(
                "--all-buckets takes no source, and {source:?} is one; drop one of them (a prefix is of one bucket)"
            ))),
            _ => Err(Failure::Usage(
                "two things are needed, what and where: xosfs mount <SOURCE> <DIR>, or xosfs mount --all-buckets <DIR>"
                    .into(),
            )),
        }
    }
}

fn request(args: &MountArgs) -> Result<Request, Failure> {
    let (source, dir) = args.places()?;
    let options = Options::load(&args.options, args.sloppy, &env)?;
    let dir = target::resolve(dir)?;
    Ok(Request { source, dir, options, background: args.background_child })
}

pub(super) fn run(args: &MountArgs) -> Result<(), Failure> {
    if args.background_child {
        // From here on every failure has to reach the launcher.
        let mut report = Report::background();
        return match request(args).and_then(|request| serve(&request, &mut report)) {
            // The launcher prints it.
            Err(failure) if report.failed(failure.message()) => std::process::exit(1),
            result => result,
        };
    }
    let request = request(args)?;
    if args.foreground {
        let mut report = Report::foreground();
        let result = serve(&request, &mut report);
        if let Err(failure) = &result {
            report.failed(failure.message());
        }
        return result;
    }
    match start(&request, args)? {
        Answer::Ready(_) => Ok(()),
        Answer::Already(text) => {
            eprintln!("xosfs: {text}");
            Ok(())
        }
    }
}

fn serve(request: &Request, report: &mut Report) -> Result<(), Failure> {
    match daemon::run(request, report)? {
        Outcome::AlreadyMounted => Ok(()),
        Outcome::Ended(unstored) if unstored.is_empty() => Ok(()),
        Outcome::Ended(unstored) => {
            let keys: Vec<String> = unstored.iter().map(|(key, error)| format!("{key} ({error})")).collect();
            Err(Failure::Failed(format!("{} files could not be stored: {}", keys.len(), keys.join(", "))))
        }
    }
}

/// Starts the daemon in the background and waits for its answer.
pub(super) fn start(request: &Request, args: &MountArgs) -> Result<Answer, Failure> {
    let mut child: Vec<OsString> = ["mount", "--background-child"].map(OsString::from).into();
    if args.sloppy {
        child.push("--sloppy".into());
    }
    for list in &args.options {
        child.extend(["-o".into(), list.into()]);
    }
    child.extend(["--".into(), request.source.to_string().into(), PathBuf::clone(&request.dir).into()]);
    let options = &request.options;
    launch::launch(&child, &[], options.patience() + options.op_timeout * 3 + GRACE)
}

//! What a person types: the commands, their exit codes and their one line of error.
//!
//! 1. The same program is the helper of mount(8) when it is called `mount.fuse.xosfs`, with that program's arguments
//!    and exit codes.
//! 2. A daemon in the background is started before this process has any thread: see [`launch`].

mod acl;
mod bucket;
mod bucket_lifecycle;
mod bucket_policy;
mod complete;
mod cp;
mod demo;
mod doctor;
mod ends;
mod helper;
mod install;
mod journal;
mod launch;
mod ls;
mod mount;
mod object;
mod objects;
mod preserve;
mod presign;
mod print;
mod progress;
mod rm;
mod status;
mod store;
mod sts;
mod transfer;
mod umount;
mod uploads;
mod versions;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{docs, options::Wrong};
use crate::error::Error;

/// Why a command did not do what it was asked to, as one line.
#[derive(Debug)]
pub enum Failure {
    /// The command line is wrong: exit code 2, or 1 for the mount helper.
    Usage(String),
    /// Exit code 1, or 32 for the mount helper.
    Failed(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Failed(error.to_string())
    }
}

impl From<Wrong> for Failure {
    fn from(wrong: Wrong) -> Self {
        Failure::Usage(wrong.0)
    }
}

impl Failure {
    fn message(&self) -> &str {
        match self {
            Failure::Usage(text) | Failure::Failed(text) => text,
        }
    }
}

/// Mounts an S3-compatible bucket as a directory.
#[derive(Parser)]
#[command(name = "xosfs", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Mount a bucket, the part of it below a prefix, or every bucket on a directory.
    Mount(MountArgs),
    /// Unmount, wait until everything is stored, and say what could not be.
    Umount(UmountArgs),
    /// Try it: an S3 server inside this process, with a bucket mounted from it.
    Demo(DemoArgs),
    /// What mounts are doing: requests, errors, cache, memory, what is not stored.
    Status(status::StatusArgs),
    /// Store everything that a mount has not stored yet, and say what could not be.
    Flush(status::FlushArgs),
    /// Forget listings and attributes, so that changes made elsewhere show now.
    Refresh(status::RefreshArgs),
    /// What was closed and is not in the bucket yet: list it, try again, save it elsewhere, give it up.
    Journal(journal::JournalArgs),
    /// Check what a mount needs: this machine, keys, endpoint, rights, and what the store supports.
    Doctor(doctor::DoctorArgs),
    /// Print the completions of a shell.
    Completions(complete::CompletionArgs),
    /// Print the manual page.
    Man(complete::ManArgs),
    /// Let mount(8) and /etc/fstab know the type fuse.xosfs.
    InstallHelper(InstallArgs),
    /// List objects, or the buckets.
    Ls(ls::LsArgs),
    /// Show what is known of an object or a bucket.
    Stat(ls::StatArgs),
    /// Copy between files and the store, or inside the store.
    Cp(cp::CpArgs),
    /// Delete objects.
    Rm(rm::RmArgs),
    /// What belongs to objects: access control lists, tags, classes, versions, metadata.
    Object(object::ObjectArgs),
    /// Buckets: create, configure, grant, delete.
    Bucket(bucket::BucketArgs),
    /// URLs and forms that let anybody fetch or store one object for a while.
    Presign(presign::PresignArgs),
    /// Temporary keys.
    Sts(sts::StsArgs),
    /// Multipart uploads in progress: list and abort them.
    Uploads(uploads::UploadsArgs),
}

#[derive(Args, Clone, Debug)]
#[command(override_usage = "xosfs mount [OPTIONS] <SOURCE> <DIR>\n       xosfs mount [OPTIONS] --all-buckets <DIR>")]
struct MountArgs {
    /// What and where: BUCKET, BUCKET:/PREFIX, s3://BUCKET/PREFIX, or s3:// for every bucket; and an existing directory.
    /// With --all-buckets only the directory.
    #[arg(required = true, num_args = 1..=2, value_names = ["SOURCE", "DIR"], value_hint = clap::ValueHint::AnyPath)]
    places: Vec<OsString>,
    /// Options, separated by commas; see below. May be given several times.
    #[arg(short = 'o', value_name = "OPTION[=VALUE],…", allow_hyphen_values = true)]
    options: Vec<String>,
    /// Stay in the foreground; messages go to stderr.
    #[arg(short, long)]
    foreground: bool,
    /// Mount every bucket of the credentials, each as a directory, in place of a source.
    #[arg(long)]
    all_buckets: bool,
    /// Ignore unknown options.
    #[arg(long, hide = true)]
    sloppy: bool,
    /// Started by another xosfs that reads our standard output.
    #[arg(long, hide = true, conflicts_with = "foreground")]
    background_child: bool,
}

#[derive(Args, Clone, Debug)]
struct UmountArgs {
    /// Where it is mounted.
    dir: PathBuf,
    /// Also when it is in use, and when its process does not answer.
    #[arg(long)]
    force: bool,
    /// Seconds to wait for everything to be stored [default: shutdown_timeout of the mount].
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

#[derive(Args, Clone, Debug)]
struct DemoArgs {
    /// Where to mount [default: a new directory below the temporary directory].
    dir: Option<PathBuf>,
    /// Only the server, no mount.
    #[arg(long, conflicts_with = "dir")]
    serve_only: bool,
    /// Address of the server; port 0 takes any.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: std::net::SocketAddr,
    /// Keep the objects in this directory instead of memory.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Bucket to create.
    #[arg(long, value_name = "NAME", default_value = "demo")]
    bucket: String,
    /// Answer every request so many milliseconds late, as a distant store does.
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=60_000))]
    latency: u64,
    /// Bytes per second of each connection and direction, with K, M or G for the binary multiples.
    #[arg(long, value_name = "BYTES", value_parser = demo::rate)]
    bandwidth: Option<u64>,
}

#[derive(Args, Clone, Debug)]
struct InstallArgs {
    /// Root of the file system to install into, for packages.
    #[arg(long, value_name = "DIR", default_value = "/")]
    prefix: PathBuf,
    /// Take it away again.
    #[arg(long)]
    remove: bool,
}

/// Runs the program; `args` starts with its name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    crate::daemon::heap::one_arena();
    let name = args.first().and_then(|a| Path::new(a).file_name()).unwrap_or_default();
    if name == "mount.fuse.xosfs" || name == "mount.xosfs" {
        return finish("mount.fuse.xosfs", helper::run(&args[1..]), 1, 32);
    }
    let command = Cli::command().mut_subcommand("mount", |c| c.after_long_help(docs::help()));
    let cli = match command.try_get_matches_from(args).and_then(|m| Cli::from_arg_matches(&m)) {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    let result = match cli.command {
        Command::Mount(args) => mount::run(&args),
        Command::Umount(args) => umount::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::InstallHelper(args) => install::run(&args),
        Command::Ls(args) => ls::ls(&args),
        Command::Stat(args) => ls::stat(&args),
        Command::Cp(args) => cp::run(&args),
        Command::Rm(args) => rm::run(&args),
        Command::Object(args) => object::run(&args),
        Command::Bucket(args) => bucket::run(&args),
        Command::Presign(args) => presign::run(&args),
        Command::Sts(args) => sts::run(&args),
        Command::Uploads(args) => uploads::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Flush(args) => status::flush(&args),
        Command::Refresh(args) => status::refresh(&args),
        Command::Journal(args) => journal::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions(args) => complete::completions(&args, Cli::command()),
        Command::Man(args) => complete::man(&args, Cli::command()),
    };
    finish("xosfs", result, 2, 1)
}

fn finish(name: &str, result: Result<(), Failure>, usage: u8, failed: u8) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{name}: {}", failure.message());
            ExitCode::from(if matches!(failure, Failure::Usage(_)) { usage } else { failed })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    /// The words of a line as a shell reads them, without its variables.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut quote) = (vec![String::new()], None);
        for c in line.chars() {
            match (quote, c) {
                (None, '\'' | '"') => quote = Some(c),
                (Some(q), c) if q == c => quote = None,
                (None, ' ') => words.push(String::new()),
                _ => words.last_mut().unwrap().push(c),
            }
        }
        words.retain(|w| !w.is_empty());
        words
    }

    fn leaves(command: &clap::Command, path: &str, out: &mut Vec<String>) {
        let path = format!("{path}{} ", command.get_name());
        if !command.has_subcommands() {
            out.push(path.trim_end().to_owned());
        }
        command.get_subcommands().for_each(|c| leaves(c, &path, out));
    }

    /// Every example is understood, and every command on objects and buckets has one.
    #[test]
    fn the_document_of_commands_is_true() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CLI.md")).unwrap();
        let mut examples = Vec::new();
        for line in text.lines().filter_map(|l| l.strip_prefix("    xosfs ")) {
            let line = line.split("  #").next().unwrap().split(" | ").next().unwrap();
            let args = words(&format!("xosfs {line}"));
            if let Err(e) = Cli::command().try_get_matches_from(&args) {
                panic!("{line}: {e}");
            }
            examples.push(args.join(" "));
        }
        let mut commands = Vec::new();
        leaves(&Cli::command(), "", &mut commands);
        let ours = ["ls", "stat", "cp", "rm", "object", "bucket", "presign", "sts", "uploads"];
        for command in commands {
            let first = command.split(' ').nth(1).unwrap_or("");
            if ours.contains(&first) {
                assert!(
                    examples.iter().any(|e| format!("{e} ").starts_with(&format!("{command} "))),
                    "no example: {command}"
                );
            }
        }
    }

    /// Every command beside an SDK call is understood.
    #[test]
    fn the_document_of_sdk_calls_is_true() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/SDK.md")).unwrap();
        let mut found = 0;
        for line in text.split('`').skip(1).step_by(2).filter(|code| code.starts_with("xosfs ")) {
            if let Err(e) = Cli::command().try_get_matches_from(words(line)) {
                panic!("{line}: {e}");
            }
            found += 1;
        }
        assert!(found >= 42, "{found}");
        // Each operation of the manual has a row.
        for call in [
            "create_bucket",
            "list_buckets",
            "head_bucket",
            "delete_bucket",
            "put_bucket_acl",
            "get_bucket_acl",
            "put_bucket_policy",
            "get_bucket_policy",
            "delete_bucket_policy",
            "put_bucket_lifecycle_configuration",
            "get_bucket_lifecycle_configuration",
            "delete_bucket_lifecycle",
            "put_bucket_cors",
            "get_bucket_cors",
            "delete_bucket_cors",
            "put_bucket_versioning",
            "get_bucket_versioning",
            "list_objects",
            "put_object",
            "get_object",
            "copy_object",
            "delete_object",
            "delete_objects",
            "head_object",
            "put_object_acl",
            "get_object_acl",
            "get_object_tagging",
            "delete_object_tagging",
            "put_object_tagging",
            "generate_presigned_url",
            "generate_presigned_post",
            "list_object_versions",
            "TransferManager.upload",
            "TransferManager.copy",
            "create_multipart_upload",
            "upload_part",
            "complete_multipart_upload",
            "list_multipart_uploads",
            "list_parts",
            "upload_part_copy",
            "abort_multipart_upload",
            "assume_role",
        ] {
            let is_there = text
                .lines()
                .filter_map(|l| l.strip_prefix("| ")?.split(" | ").next())
                .any(|cell| cell.split([',', '(', ' ']).any(|word| word == call));
            assert!(is_there, "no row of {call}");
        }
    }
}

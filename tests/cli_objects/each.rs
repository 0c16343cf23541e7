//! Every command of the program with something wrong in its line: the exit code, and what it says.

use super::common::commands::Commands;
use super::{Place, clean, ran};

/// What is wrong, the exit code, and a part of what is said.
const WRONG: &[(&[&str], i32, &str)] = &[
    (&["mount", "bucket"], 2, "<DIR>"),
    (&["mount", "bucket/a", "."], 2, "did you mean bucket:/a?"),
    (&["mount", "bucket", ".", "-o", "endpont=x"], 2, "did you mean `endpoint`?"),
    (&["umount", "none"], 1, "none"),
    (&["umount", ".", "--timeout", "soon"], 2, "--timeout"),
    (&["demo", "--serve-only", "--bucket", "My_Bucket"], 2, "--bucket"),
    (&["demo", "--serve-only", "--listen", "here"], 2, "--listen"),
    (&["status", "."], 1, "is not in a mount of xosfs"),
    (&["flush", "."], 1, "is not in a mount of xosfs"),
    (&["flush"], 2, "<DIR>"),
    (&["refresh", "."], 1, "is not in a mount of xosfs"),
    (&["journal", "ls", "."], 1, "not in a mount of xosfs"),
    (&["journal", "retry", ".", "/x"], 2, "no number of a file"),
    (&["journal", "export", "7"], 2, "Usage: xosfs journal export"),
    (&["journal", "discard", "--state-dir", ".", "7"], 1, "has the number 7"),
    (&["doctor", "https://host/bucket"], 2, "https://host/bucket"),
    (&["completions", "dosshell"], 2, "dosshell"),
    (&["man", "dance"], 2, "no command `dance`"),
    (&["install-helper", "--prefix", "/proc/none"], 1, "/proc/none"),
    (&["ls", "bucket/key"], 2, "did you mean s3://bucket/key?"),
    (&["ls", "s3://bucket", "--limit", "many"], 2, "--limit"),
    (&["stat", "/proc/x"], 2, "is in no mount of xosfs"),
    (&["cp", "f", "g"], 2, "neither source nor target is in a store"),
    (&["rm", "s3://bucket"], 2, "names a bucket, not an object"),
    (&["object", "acl", "get", "s3://bucket"], 2, "names a bucket, not an object"),
    (&["object", "acl", "explain", "s3://bucket"], 2, "names a bucket, not an object"),
    (&["object", "acl", "set", "s3://bucket/k", "--canned", "everybody"], 2, "is one of private, "),
    (&["object", "acl", "set", "s3://bucket/k", "--canned", "private", "--header", "host=h"], 2, "--header: `host`"),
    (&["object", "acl", "rm", "s3://bucket"], 2, "names a bucket, not an object"),
    (&["object", "tags", "get", "s3://bucket"], 2, "names a bucket, not an object"),
    (&["object", "tags", "set", "s3://bucket/k", "-t", "a"], 2, "tag `a`: write KEY=VALUE"),
    (&["object", "tags", "rm", "s3://bucket/k", "-t", "none"], 1, "there is no tag \"none\""),
    (&["object", "class", "get", "s3://bucket/none"], 1, "key=\"none\""),
    (&["object", "class", "set", "a b", "s3://bucket/k"], 2, "one word of ASCII characters"),
    (&["object", "restore", "get", "s3://bucket"], 2, "names a bucket, not an object"),
    (&["object", "restore", "set", "s3://bucket/k", "--days", "0"], 2, "--days"),
    (&["object", "versions", "ls", "s3://bucket/none"], 1, "there is no version of s3://bucket/none"),
    (&["object", "versions", "get", "s3://bucket/k", "none", "-"], 1, "key=\"k\": 404"),
    (&["object", "versions", "restore", "s3://bucket/k", "none"], 1, "key=\"k\": 404"),
    (&["object", "versions", "rm", "s3://bucket/k", "none"], 1, "has no version"),
    (&["object", "versions", "undelete", "s3://bucket"], 2, "names a bucket, not an object"),
    (&["object", "meta", "get", "s3://bucket/none"], 1, "key=\"none\""),
    (&["object", "meta", "set", "s3://bucket/k", "-s", "x"], 2, "`x`: write NAME=VALUE"),
    (&["object", "meta", "rm", "s3://bucket/none", "-n", "x"], 1, "key=\"none\""),
    (&["bucket", "ls", "more"], 2, "unexpected argument 'more'"),
    (&["bucket", "create", "Not_A_Name"], 2, "Not_A_Name"),
    (&["bucket", "create", "good-name", "--acl", "everybody"], 2, "--acl: "),
    (&["bucket", "rm", "bucket", "--force-empty"], 2, "add --yes"),
    (&["bucket", "stat", "missing"], 1, "\"missing\""),
    (&["bucket", "acl", "get", "missing"], 1, "NoSuchBucket"),
    (&["bucket", "acl", "explain", "s3://bucket/k"], 2, "write the bucket alone: s3://bucket"),
    (&["bucket", "acl", "set", "bucket", "--canned", "everybody"], 2, "a canned ACL of buckets"),
    (&["bucket", "acl", "rm", "missing"], 1, "NoSuchBucket"),
    (&["bucket", "policy", "get", "bucket"], 1, "\"bucket\" has no policy"),
    (&["bucket", "policy", "set", "bucket", "--file", "/none", "--yes"], 2, "read /none"),
    (&["bucket", "policy", "rm", "s3://bucket/k"], 2, "write the bucket alone"),
    (&["bucket", "policy", "validate", "/none"], 2, "read /none"),
    (&["bucket", "policy", "explain", "missing"], 1, "NoSuchBucket"),
    (&["bucket", "policy", "suggest", "https://h/b"], 2, "is a URL"),
    (&["bucket", "policy", "diff", "bucket", "/none"], 2, "read /none"),
    (&["bucket", "policy", "template", "none", "bucket"], 2, "public-rw (everybody may read"),
    (&["bucket", "policy", "actions", "more"], 2, "unexpected argument 'more'"),
    (&["bucket", "policy", "add-statement", "bucket", "x", "--effect", "allow"], 2, "needs --principal"),
    (
        &["bucket", "policy", "edit-statement", "bucket", "x", "--effect", "perhaps"],
        2,
        "[possible values: allow, deny]",
    ),
    (&["bucket", "policy", "rm-statement", "bucket", "x", "--yes"], 1, "no statement \"x\""),
    (&["bucket", "lifecycle", "get", "bucket"], 1, "is not set"),
    (&["bucket", "lifecycle", "explain", "missing"], 1, "NoSuchBucket"),
    (&["bucket", "lifecycle", "set", "bucket", "--file", "f"], 2, "lifecycle"),
    (&["bucket", "lifecycle", "add", "bucket", "--expire", "soon"], 2, "--expire: `soon` is no number of days"),
    (&["bucket", "lifecycle", "enable", "bucket", "none"], 1, "none"),
    (&["bucket", "lifecycle", "disable", "bucket", "none"], 1, "none"),
    (&["bucket", "lifecycle", "rm", "bucket", "none"], 1, "none"),
    (&["bucket", "cors", "get", "bucket"], 1, "cors of \"bucket\" is not set"),
    (&["bucket", "cors", "set", "bucket", "--file", "f"], 2, "cors"),
    (&["bucket", "cors", "rm", "missing"], 1, "NoSuchBucket"),
    (&["bucket", "versioning", "get", "missing"], 1, "NoSuchBucket"),
    (&["bucket", "versioning", "enable", "missing"], 1, "NoSuchBucket"),
    (&["bucket", "versioning", "suspend", "s3://bucket/k"], 2, "write the bucket alone"),
    (&["bucket", "location", "missing"], 1, "NoSuchBucket"),
    (&["bucket", "tags", "get", "missing"], 1, "NoSuchBucket"),
    (&["bucket", "tags", "set", "bucket", "a"], 2, "tag `a`: write KEY=VALUE"),
    (&["bucket", "tags", "rm", "missing"], 1, "NoSuchBucket"),
    (&["bucket", "config", "list", "more"], 2, "unexpected argument 'more'"),
    (&["bucket", "config", "get", "bucket", "torrent"], 2, "there is no sub-resource \"torrent\""),
    (&["bucket", "config", "set", "bucket", "location", "--file", "f"], 2, "cannot be set"),
    (&["bucket", "config", "rm", "bucket", "logging"], 2, "cannot be deleted"),
    (&["presign", "get", "s3://bucket/k", "--expires", "soon"], 2, "--expires: `soon` is no duration"),
    (&["presign", "put", "s3://bucket/d/"], 2, "s3://bucket/d/ is a directory"),
    (&["presign", "post", "s3://bucket/k", "--max-size", "big"], 2, "--max-size: "),
    (&["sts", "assume-role", "role"], 2, "the role must be an ARN"),
    (&["uploads", "ls", "s3://bucket", "--older-than", "old"], 2, "--older-than: `old` is no duration"),
    (&["uploads", "parts", "s3://bucket"], 2, "names a bucket, not an object"),
    (&["uploads", "abort", "s3://bucket"], 2, "--older-than 7d, or --all"),
];

/// The commands below `path` that have no further ones, as `--help` shows them.
fn leaves(path: &[String], out: &mut Vec<Vec<String>>) {
    let help = ran(clean(env!("CARGO_BIN_EXE_xosfs")).args(path).arg("--help"));
    assert_eq!(help.code, Some(0), "{path:?}: {help:?}");
    let Some((_, list)) = help.out.split_once("\nCommands:\n") else {
        out.push(path.to_vec());
        return;
    };
    // Names are indented by two, what they do by more.
    let names = list.lines().take_while(|l| l.starts_with("  ")).filter_map(|l| {
        let name = l[2..].split(' ').next().unwrap();
        (!name.is_empty() && name != "help").then(|| name.to_owned())
    });
    for name in names {
        leaves(&[path, &[name]].concat(), out);
    }
}

#[test]
fn every_command_says_what_is_wrong_with_its_line() {
    let mut commands = Vec::new();
    leaves(&[], &mut commands);
    assert!(commands.len() > 80, "{commands:?}");
    let begins = |args: &[&str], command: &[String]| {
        args.len() >= command.len() && args.iter().zip(command).all(|(a, c)| a == c)
    };
    let untried: Vec<String> =
        commands.iter().filter(|c| !WRONG.iter().any(|(args, ..)| begins(args, c))).map(|c| c.join(" ")).collect();
    assert!(untried.is_empty(), "no wrong line of: {untried:?}");
    let place = Place::new();
    place.put("k", "x");
    place.write("f", "neither JSON nor XML");
    let mut wrong = Vec::new();
    for (args, code, part) in WRONG {
        assert!(commands.iter().any(|c| begins(args, c)), "there is no command {args:?}");
        let ran = place.run(args);
        if ran.code != Some(*code) || !ran.out.is_empty() || !ran.err.contains(part) {
            wrong.push(format!("{}: expected {code} and {part:?}, got {ran:?}", args.join(" ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

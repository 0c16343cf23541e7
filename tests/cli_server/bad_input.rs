//! Every way a mount can be asked for wrongly: one line that names what to change, an exit code, and nothing left.

use std::fs;
use std::process::Command;

use super::place::{Place, command, run, server, set_keys, sh, xosfs};

/// What is wrong with one mount that would work otherwise.
#[derive(Clone, Default)]
struct Bad {
    name: &'static str,
    source: Option<&'static str>,
    /// Instead of the server's.
    endpoint: Option<String>,
    options: &'static str,
    env: Vec<(&'static str, String)>,
    /// Below the place of the mount, instead of its mount point.
    dir: Option<&'static str>,
    /// The command line is wrong, which has an exit code of its own.
    usage: bool,
    /// All of them are in the line.
    says: Vec<&'static str>,
}

fn table() -> Vec<Bad> {
    let nothing = Bad::default();
    let keys = |access: &str, secret: &str| {
        vec![("AWS_ACCESS_KEY_ID", access.to_owned()), ("AWS_SECRET_ACCESS_KEY", secret.to_owned())]
    };
    let usage = |name, options, says| Bad { name, options, says, usage: true, ..Bad::default() };
    vec![
        Bad {
            name: "a bucket that does not exist",
            source: Some("missing"),
            says: vec!["\"missing\"", "bucket"],
            ..nothing.clone()
        },
        Bad {
            name: "an endpoint without a scheme",
            endpoint: Some("127.0.0.1:9000".into()),
            usage: true,
            says: vec!["`endpoint`", "no scheme", "http://"],
            ..nothing.clone()
        },
        Bad {
            name: "an endpoint that nothing listens on",
            endpoint: Some("http://127.0.0.1:1".into()),
            says: vec!["`endpoint`", "127.0.0.1:1"],
            ..nothing.clone()
        },
        Bad {
            name: "a host that does not exist",
            endpoint: Some("http://no-such-host.invalid".into()),
            says: vec!["`endpoint`", "no-such-host"],
            ..nothing.clone()
        },
        Bad {
            name: "no credentials",
            env: keys("", ""),
            says: vec!["AWS_ACCESS_KEY_ID", "anonymous"],
            ..nothing.clone()
        },
        Bad {
            name: "half a pair of keys",
            env: vec![("AWS_SECRET_ACCESS_KEY", String::new())],
            says: vec!["AWS_SECRET_ACCESS_KEY"],
            ..nothing.clone()
        },
        Bad {
            name: "an access key that the store does not know",
            env: keys("AKIANOBODY", "hunter2hunter2"),
            says: vec!["access key", "InvalidAccessKeyId"],
            ..nothing.clone()
        },
        Bad {
            name: "a wrong secret",
            env: vec![("AWS_SECRET_ACCESS_KEY", "hunter2hunter2".into())],
            says: vec!["secret key", "SignatureDoesNotMatch"],
            ..nothing.clone()
        },
        Bad {
            name: "an expired token",
            env: vec![("AWS_SESSION_TOKEN", "hunter2hunter2".into())],
            says: vec!["token", "ExpiredToken"],
            ..nothing.clone()
        },
        Bad {
            name: "a prefix that is a file",
            source: Some("bucket:/a/file"),
            says: vec!["is a file", "a/file"],
            ..nothing.clone()
        },
        Bad {
            name: "a prefix that no key has",
            source: Some("bucket:/a/../b"),
            usage: true,
            says: vec!["`..`"],
            ..nothing.clone()
        },
        Bad {
            name: "a path instead of a source",
            source: Some("bucket/a"),
            usage: true,
            says: vec!["did you mean bucket:/a?"],
            ..nothing.clone()
        },
        Bad {
            name: "a mount point that does not exist",
            dir: Some("none"),
            says: vec!["does not exist", "mkdir -p"],
            ..nothing.clone()
        },
        Bad {
            name: "a mount point that is a file",
            dir: Some("file"),
            says: vec!["not a directory"],
            ..nothing.clone()
        },
        Bad { name: "a mount point in use", dir: Some("taken"), says: vec!["busy", "other"], ..nothing.clone() },
        Bad {
            name: "a staging directory that cannot be",
            options: "staging_dir=/proc/none",
            says: vec!["`staging_dir`"],
            ..nothing.clone()
        },
        Bad { name: "a log that cannot be", options: "log=/proc/none/log", says: vec!["`log`"], ..nothing.clone() },
        usage("a misspelt option", "endpont=http://h", vec!["unknown option `endpont`", "did you mean `endpoint`?"]),
        usage("an option of another program", "url=http://h", vec!["`url`", "did you mean `endpoint`?"]),
        usage("an unknown option", "frobnicate", vec!["unknown option `frobnicate`", "--help"]),
        usage("parts that are too small", "part_size=1K", vec!["`part_size`", "5M to 5G"]),
        usage("too little memory", "memory=1", vec!["`memory`", "64M"]),
        usage("memory that is no size", "memory=lots", vec!["`memory`", "64M"]),
        usage("parts larger than memory", "part_size=1G,memory=64M", vec!["`part_size`", "`memory`"]),
        usage("a user that does not exist", "uid=nobodyxyz", vec!["`uid`", "no user `nobodyxyz`"]),
        usage("a group that does not exist", "gid=nobodyxyz", vec!["`gid`", "no group `nobodyxyz`"]),
        usage("a mode that is not octal", "file_mode=rw", vec!["`file_mode`", "octal"]),
        usage("a time without a unit's meaning", "op_timeout=soon", vec!["`op_timeout`", "5s"]),
        usage("uploads that never happen", "max_uploads=0", vec!["`max_uploads`", "1 to 256"]),
        usage("an unknown ACL", "acl=everybody", vec!["`acl`", "public-read"]),
        usage("a configuration that is not there", "config=/none/such", vec!["/none/such", "`config`"]),
        usage("a secret on the command line", "secret_key=hunter2hunter2", vec!["is not an option", "profile"]),
        usage("a token on the command line", "session_token=hunter2hunter2", vec!["is not an option", "profile"]),
        usage("keys in the URL", "endpoint=http://k:hunter2hunter2@h", vec!["`endpoint`", "~/.aws/credentials"]),
    ]
}

#[test]
fn bad_input_is_one_line_an_exit_code_and_nothing_left() {
    let server = server();
    server.store().create_bucket("other");
    server.store().put("bucket", "a/file", "x");
    // One that is taken, for those who want it.
    let taken = Place::new();
    taken.mount(&server, "other", "");
    for bad in table() {
        server
            .knobs()
            .set(|b| b.session_token = bad.says.contains(&"ExpiredToken").then(|| "the token of today".into()));
        let quick = "retries=1,op_timeout=5s,connect_timeout=2s";
        for (how, helper, code) in [("background", false, 1), ("foreground", false, 1), ("helper", true, 32)] {
            let place = Place::new();
            fs::write(place.path("file"), "").unwrap();
            let mut mount: Command;
            if helper {
                mount = command(place.called("mount.fuse.xosfs"));
            } else {
                mount = xosfs();
                mount.arg("mount");
                mount.args((how == "foreground").then_some("--foreground"));
            }
            set_keys(&mut mount, &server);
            mount.envs(bad.env.iter().map(|(name, value)| (name, value)));
            let dir = match bad.dir {
                None => place.dir.clone(),
                Some("taken") => taken.dir.clone(),
                Some(name) => place.path(name),
            };
            let endpoint = bad.endpoint.clone().unwrap_or_else(|| server.endpoint());
            let staging = place.path("staging");
            let mut options = format!("endpoint={endpoint},{quick},staging_dir={}", staging.display());
            if how != "foreground" {
                options += &format!(",log={}", place.path("log").display());
            }
            let options = [&options, bad.options];
            mount.arg(bad.source.unwrap_or("bucket")).arg(&dir).arg("-o").arg(options.join(","));
            let mut ran = run(&mut mount);
            let what = format!("{} ({how}): {ran:?}", bad.name);
            assert!(!ran.err.contains("hunter2") && !ran.err.contains(&server.keys().secret_key), "{what}");
            if how == "foreground" {
                // The log goes to the same place there.
                let is_log = |line: &&str| [" INFO ", " WARN "].iter().any(|level| line.contains(level));
                ran.err = ran.err.lines().filter(|line| !is_log(line)).collect::<Vec<_>>().join("\n");
            }
            let code = match (bad.usage, helper) {
                (false, _) => code,
                (true, false) => 2,
                (true, true) => 1,
            };
            assert_eq!(ran.code, Some(code), "{what}");
            assert_eq!(ran.out, "", "{what}");
            let program = if helper { "mount.fuse.xosfs: " } else { "xosfs: " };
            assert!(ran.err.starts_with(program) && ran.err.lines().count() == 1, "{what}");
            assert!(bad.says.iter().all(|part| ran.err.contains(part)), "{what}");
            place.assert_clean();
        }
    }
    assert_eq!(taken.mounts(), [("other".to_owned(), "fuse.xosfs".to_owned())]);
    assert_eq!(taken.umount().code, Some(0));
    taken.assert_clean();
}

/// Something of another kind on the mount point: mounted over, as mount(8) does, but never taken for ours.
#[test]
fn umount_leaves_what_is_not_ours() {
    let place = Place::new();
    let ran = place.umount();
    assert!(ran.code == Some(1) && ran.err.contains("is not mounted"), "{ran:?}");
    let ran = run(xosfs().args(["umount", "/proc"]));
    assert!(ran.code == Some(1) && ran.err.contains("not of xosfs"), "{ran:?}");
    assert_eq!(sh(&place.dir, "test -d /proc/self").code, Some(0));
}

/// What a typo must never do: mount something else than was meant.
#[test]
fn sloppy_drops_unknown_options_and_no_others() {
    let server = server();
    let place = Place::new();
    let helper = |line: &str| {
        let mut mount = command(place.called("mount.fuse.xosfs"));
        set_keys(&mut mount, &server);
        mount.arg("bucket").arg(&place.dir).args(["-s", "-o"]).arg(place.options(&server, line));
        run(&mut mount)
    };
    let ran = helper("memory=1");
    assert!(ran.code == Some(1) && ran.err.contains("`memory`"), "{ran:?}");
    place.assert_clean();
    let ran = helper("frobnicate=1");
    assert_eq!((ran.code, &*ran.err), (Some(0), ""));
    assert_eq!(place.umount().code, Some(0));
    place.assert_clean();
}

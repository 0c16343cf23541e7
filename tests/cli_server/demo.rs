//! `xosfs demo`: what it prints, that all of it works, and that nothing is left of it.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Child;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::place::{PATIENCE, Place, ok, run, sh, until, wait, xosfs};

/// A demo that is up.
struct Demo {
    child: Child,
    place: Place,
}

impl Demo {
    /// With its output in a file, as programs that start it have it, up to a line that has `ready` in it.
    fn start(args: &[&str], ready: &str) -> Demo {
        Demo::start_in(Place::new(), args, ready)
    }

    fn start_in(place: Place, args: &[&str], ready: &str) -> Demo {
        let mut demo = xosfs();
        demo.arg("demo").args(args).env("TMPDIR", place.temp.path()).env("XDG_CACHE_HOME", place.path("cache"));
        // Where a caller's settings must not lead the mount to another store.
        demo.env("AWS_PROFILE", "other").env("AWS_REGION", "eu-west-9").env("HTTP_PROXY", "http://127.0.0.1:1");
        demo.stdout(File::create(place.path("out")).unwrap()).stderr(File::create(place.path("err")).unwrap());
        let mut demo = Demo { child: demo.spawn().unwrap(), place };
        until("the demo is up", || {
            assert_eq!(demo.child.try_wait().unwrap(), None, "{}", demo.err());
            demo.out().lines().any(|line| line.contains(ready))
        });
        demo
    }

    fn out(&self) -> String {
        fs::read_to_string(self.place.path("out")).unwrap()
    }

    fn err(&self) -> String {
        fs::read_to_string(self.place.path("err")).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    #[track_caller]
    fn end(&mut self, signal: Signal) {
        self.signal(signal);
        let status = wait(&mut self.child, PATIENCE).expect("the demo ends");
        assert_eq!(status.code(), Some(0), "{}", self.err());
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn serve_only_prints_what_programs_need_and_ready() {
    let mut demo = Demo::start(&["--serve-only", "--listen", "127.0.0.1:0", "--bucket", "my-bucket"], "ready");
    let out = demo.out();
    let lines: Vec<(&str, &str)> = out.lines().map(|l| l.split_once('=').unwrap_or((l, ""))).collect();
    let names: Vec<&str> = lines.iter().map(|(name, _)| *name).collect();
    let expected =
        ["AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "XOSFS_BUCKET", "ready"];
    assert_eq!(names, expected);
    assert!(lines[0].1.starts_with("http://127.0.0.1:") && lines[4].1 == "my-bucket", "{out}");
    // These lines are all that a mount needs.
    let place = &demo.place;
    let mut mount = xosfs();
    mount.envs(lines[..5].iter().copied()).args(["mount", "my-bucket"]).arg(&place.dir);
    let log = place.path("log");
    let ran = run(mount.arg("-o").arg(format!("log={},staging_dir={}", log.display(), place.temp.path().display())));
    assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{}", place.log());
    assert_eq!(ok(&place.dir, "ls; echo x > x; cat x"), "x\n");
    assert_eq!(place.umount().code, Some(0));
    place.assert_clean();
    demo.end(Signal::SIGTERM);
    assert_eq!(demo.out(), out);
    assert_eq!(demo.err(), "");
}

#[test]
fn a_slow_server_answers_late_and_says_what_it_was_asked() {
    let args = ["--serve-only", "--latency", "150", "--bandwidth", "1M"];
    let mut demo = Demo::start(&args, "ready");
    let out = demo.out();
    let settings = out.lines().filter_map(|l| l.split_once('='));
    let mut ls = xosfs();
    let begun = std::time::Instant::now();
    assert_eq!(run(ls.envs(settings).args(["ls", "s3://demo"])).code, Some(0));
    assert!(begun.elapsed() >= std::time::Duration::from_millis(150), "{:?}", begun.elapsed());
    demo.signal(Signal::SIGUSR1);
    until("the counts are printed", || demo.out().ends_with("}\n"));
    let counts: serde_json::Value = serde_json::from_str(demo.out().lines().last().unwrap()).unwrap();
    assert_eq!(counts["requests"]["ListObjectsV2"], 1, "{counts}");
    demo.end(Signal::SIGTERM);
}

#[test]
fn what_is_wrong_with_a_demo_is_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (args, code, part) in [
        (vec!["--serve-only", "--bucket", "My_Bucket"], 2, "--bucket"),
        (vec!["--serve-only", "--bucket", "ab"], 2, "3 to 63"),
        (vec!["--bucket", "../x"], 2, "--bucket"),
        (vec!["--serve-only", "--listen", &taken], 1, "change --listen"),
        (vec!["/nonexistent/dir"], 1, "does not exist"),
        (vec!["/proc/self/status"], 1, "not a directory"),
    ] {
        let ran = run(xosfs().arg("demo").args(&args));
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
        assert_eq!((&*ran.out, ran.err.lines().count()), ("", 1), "{args:?}: {ran:?}");
        assert!(ran.err.starts_with("xosfs: ") && ran.err.contains(part), "{args:?}: {ran:?}");
    }
    let ran = run(xosfs().args(["demo", "--serve-only", "--listen", "here"]));
    assert!(ran.code == Some(2) && ran.err.contains("--listen"), "{ran:?}");
    for (name, value, part) in
        [("--latency", "soon", "soon"), ("--latency", "60001", "60000"), ("--bandwidth", "1", "range")]
    {
        let ran = run(xosfs().args(["demo", "--serve-only", name, value]));
        assert!(ran.code == Some(2) && ran.err.contains(name) && ran.err.contains(part), "{ran:?}");
    }
}

fn installed(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|dir| dir.join(program).is_file())
}

/// An editor without a terminal: writes another file and puts it in the place of the first, as editors do.
fn stand_in_for_vim(dir: &Path) -> PathBuf {
    let bin = dir.join("bin");
    fs::create_dir(&bin).unwrap();
    let vim = bin.join("vim");
    fs::write(&vim, "#!/bin/sh\nexec sed -i '1i - edited' \"$1\"\n").unwrap();
    fs::set_permissions(&vim, fs::Permissions::from_mode(0o755)).unwrap();
    bin
}

#[test]
fn every_line_of_the_tour_works() {
    let place = Place::new();
    let dir = place.dir.to_str().unwrap().to_owned();
    let bin = stand_in_for_vim(place.temp.path());
    let mut demo = Demo::start_in(place, &[&dir], "rclone");
    let out = demo.out();
    assert!(out.contains("Ctrl-C") && out.contains(&dir), "{out}");
    let lines: Vec<&str> = out.lines().filter_map(|l| l.strip_prefix("  ")).collect();
    assert_eq!(lines.len(), 10, "{out}");
    let path = format!("PATH='{}':\"$PATH\"", bin.display());
    let denied = "Permission denied";
    for (line, (tool, part)) in lines.iter().zip([
        ("ls", "ideas.md"),
        ("cat", "# Ideas"),
        ("echo", ""),
        ("vim", ""),
        ("getfattr", "user.s3.tags=\"project=demo"),
        ("curl", "Everybody may read"),
        ("setfattr", ""),
        ("cat", denied),
        ("getfattr", "user.s3.restore=\"archived\""),
        ("rclone", "notes/hello.txt"),
    ]) {
        assert!(line.split(' ').any(|word| word == tool), "{tool}: {line}");
        if tool != "echo" && !installed(tool) && tool != "vim" {
            eprintln!("skipped: {tool} is not installed");
            continue;
        }
        let ran = sh(Path::new("/"), &format!("export {path} RCLONE_CONFIG=/dev/null\n{line}"));
        assert_eq!(ran.code, Some(if part == denied { 1 } else { 0 }), "{line}: {ran:?}");
        assert!(ran.out.contains(part) || ran.err.contains(part), "{line}: {ran:?}");
    }
    // What the lines promise.
    assert!(demo.err().contains("aws s3api restore-object --bucket demo --key 'archive/2019.txt'"), "{}", demo.err());
    assert!(!demo.err().contains("xosfs-demo-owner-secret"));
    assert_eq!(ok(&demo.place.dir, "cat notes/hello.txt; head -n 1 notes/todo.txt"), "hello\n- edited\n");
    let endpoint = out.split(' ').find(|word| word.starts_with("http://")).unwrap();
    if installed("curl") && installed("setfattr") {
        assert!(ok(Path::new("/"), &format!("curl -sf {endpoint}/demo/README.txt")).contains("sample bucket"));
        assert_ne!(sh(Path::new("/"), &format!("curl -sf {endpoint}/demo/notes/todo.txt")).code, Some(0));
    }
    // Ctrl-C while somebody works inside, with a file that is not closed.
    let holder = demo.place.holder("exec 3>open; echo x >&3");
    demo.end(Signal::SIGINT);
    holder.end();
    demo.place.assert_clean();
}

/// Without a directory there is a temporary one, which is gone afterwards, with objects kept in a directory.
#[test]
fn a_demo_keeps_its_data_and_leaves_no_directory() {
    let place = Place::new();
    let data = place.path("data");
    let args = ["--data", data.to_str().unwrap()];
    let mut demo = Demo::start_in(place, &args, "rclone");
    let mounted = |demo: &Demo| -> Vec<PathBuf> {
        let entries = fs::read_dir(demo.place.temp.path()).unwrap().map(|e| e.unwrap().path());
        entries.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("xosfs-demo-"))).collect()
    };
    let dirs = mounted(&demo);
    assert_eq!(dirs.len(), 1);
    ok(&dirs[0], "mkdir d; echo kept > d/x");
    demo.end(Signal::SIGINT);
    assert_eq!(mounted(&demo), [] as [PathBuf; 0]);

    // Once more, with the same data. Unmounted by somebody else it ends all the same.
    let place = std::mem::replace(&mut demo.place, Place::new());
    let mut demo = Demo::start_in(place, &args, "rclone");
    let dirs = mounted(&demo);
    assert_eq!(ok(&dirs[0], "cat d/x"), "kept\n");
    let ran = run(xosfs().arg("umount").arg(&dirs[0]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    demo.end(Signal::SIGTERM);
    assert_eq!(mounted(&demo), [] as [PathBuf; 0]);
}

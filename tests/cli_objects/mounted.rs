//! Paths in a mount stand for the objects behind them.

use std::path::{Path, PathBuf};

use super::{Place, clean, ran};

/// A mount that goes when it is dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(place: &Place, source: &str) -> Mount {
        let dir = place.dir().join("mnt");
        std::fs::create_dir(&dir).unwrap();
        let log = place.dir().join("log");
        let staging = place.dir().join("staging");
        // The environment of the later commands says nothing of the endpoint.
        let options =
            format!("endpoint={},log={},staging_dir={}", place.server.endpoint(), log.display(), staging.display());
        let mut command = place.command(&["mount", source, dir.to_str().unwrap(), "-o", &options]);
        let ran = ran(&mut command);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        Mount(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let ran = ran(clean(env!("CARGO_BIN_EXE_xosfs")).args([Path::new("umount"), Path::new("--force"), &self.0]));
        if ran.code != Some(0) {
            eprintln!("{ran:?}");
        }
    }
}

#[test]
fn a_path_in_a_mount_is_the_object_behind_it() {
    let place = Place::new();
    place.put("p/dir/f.txt", "12345");
    place.put("outside", "x");
    let mount = Mount::new(&place, "bucket:/p");
    let keys = place.server.keys();
    let run = |args: &[&str]| {
        let mut command = clean(env!("CARGO_BIN_EXE_xosfs"));
        command.env("AWS_ACCESS_KEY_ID", &keys.access_key).env("AWS_SECRET_ACCESS_KEY", &keys.secret_key);
        ran(command.args(args))
    };
    let stat = run(&["stat", "--json", &mount.path("dir/../dir/f.txt")]);
    assert_eq!((stat.code, &*stat.err), (Some(0), ""));
    assert!(stat.out.contains("\"uri\": \"s3://bucket/p/dir/f.txt\""), "{stat:?}");
    let list = run(&["ls", "-r", &mount.path("")]);
    assert_eq!(list.out.lines().count(), 1, "{list:?}");
    assert!(list.out.ends_with(" p/dir/f.txt\n"));
    assert_eq!(run(&["rm", &mount.path("dir/f.txt")]).code, Some(0));
    assert_eq!(place.keys(""), ["outside"]);
}

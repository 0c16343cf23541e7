//! Whose close stores: the descriptors that a program's children inherit are not the program.

use std::process::Command;

use super::*;

/// PUTs that stored `key` so far; tells nothing on a server whose requests cannot be counted.
fn puts(server: &TestServer, key: &str) -> Option<usize> {
    let log = server.embedded_server()?.log();
    Some(log.iter().filter(|r| r.operation == "PutObject" && r.key == key).count())
}

/// Steps of a program that runs meanwhile: it makes `told/NAME` in a directory of its own and waits until that is gone.
struct Steps(tempfile::TempDir);

impl Steps {
    fn new() -> Steps {
        Steps(common::temp_dir())
    }

    fn wait(&self, name: &str, look: impl FnOnce()) {
        let path = self.0.path().join(name);
        eventually(Duration::from_secs(30), name, || path.exists());
        look();
        fs::remove_file(path).unwrap();
    }
}

// R10
#[test]
fn a_program_that_is_started_in_the_middle_of_a_file_stores_nothing() {
    let (server, _alone) = start();
    server.put("changed", b"the old content");
    let mount = TestMount::new(&server);
    let (first, second) = (pattern(300_000, 1), pattern(200_000, 2));
    let mut new = File::create(mount.join("new")).unwrap();
    let mut changed = read_write(&mount.join("changed"));
    new.write_all(&first).unwrap();
    changed.write_all(b"THE").unwrap();
    let before = (puts(&server, "new"), puts(&server, "changed"));
    // Other threads start programs, both ways: vfork and fork.
    std::thread::scope(|threads| {
        for n in 0..4 {
            threads.spawn(move || {
                for _ in 0..5 {
                    let mut c = Command::new("true");
                    if n % 2 == 0 {
                        use std::os::unix::process::CommandExt;
                        // SAFETY: nothing is done between fork and exec.
                        unsafe { c.pre_exec(|| Ok(())) };
                    }
                    assert!(c.status().unwrap().success());
                }
            });
        }
    });
    assert_eq!((puts(&server, "new"), puts(&server, "changed")), before, "half a file was stored");
    // Another thread than the one that opened the file is still the same program.
    std::thread::scope(|threads| {
        threads.spawn(|| new.write_all(&second).unwrap());
    });
    drop(new);
    assert_eq!(puts(&server, "new"), before.0.map(|n| n + 1));
    assert!(server.get("new") == [first, second].concat());
    drop(changed);
    assert_eq!(server.get("changed"), b"THE old content");
    mount.umount();
}

// R10
#[test]
fn children_that_close_what_they_inherited_store_nothing() {
    let (server, _alone) = start();
    let mount = TestMount::new(&server);
    let steps = Steps::new();
    let script = format!(
        r#"
import subprocess, time
f = os.open('f', os.O_CREAT | os.O_WRONLY)
os.set_inheritable(f, True)
os.write(f, b'half ')
# Closed one by one, on the way to a program, by a program that knows nothing of it, and by the end of a process.
pid = os.fork()
if pid == 0:
    os.close(f)
    os._exit(0)
os.waitpid(pid, 0)
subprocess.run(['true'], close_fds=True, check=True)
subprocess.run(['bash', '-c', 'true; true'], close_fds=False, check=True)
pid = os.fork()
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
told = '{}/half'
open(told, 'w').close()
while os.path.exists(told): time.sleep(0.05)
os.write(f, b'whole')
os.close(f)
"#,
        steps.0.path().display()
    );
    std::thread::scope(|threads| {
        let program = threads.spawn(|| python(&mount, &script));
        steps.wait("half", || assert!(puts(&server, "f").is_none_or(|n| n == 0), "half a file was stored"));
        program.join().unwrap();
    });
    assert_eq!(server.get("f"), b"half whole");
    assert!(puts(&server, "f").is_none_or(|n| n == 1));
    mount.umount();
}

// R10
#[test]
fn a_child_that_wrote_stores_by_closing() {
    let (server, _alone) = start();
    let mount = TestMount::new(&server);
    let steps = Steps::new();
    let told = |name: &str| {
        let path = steps.0.path().join(name).display().to_string();
        format!(">'{path}'; while test -e '{path}'; do sleep 0.05; done")
    };
    // The parent only opened it; the child writes and closes, or writes and ends.
    let script = format!(
        "exec 3>f; (echo closed >&3; exec 3>&-; {}); bash -c 'echo ended >&3'; {}; exec 3>&-",
        told("closed"),
        told("ended")
    );
    std::thread::scope(|threads| {
        let program = threads.spawn(|| mount.sh(&script));
        steps.wait("closed", || assert_eq!(server.get("f"), b"closed\n"));
        steps.wait("ended", || {
            eventually(Duration::from_secs(20), "what the second child wrote", || {
                server.get("f") == b"closed\nended\n"
            });
        });
        program.join().unwrap();
    });
    // Nobody who opened it or wrote lives any more: a daemon that inherited it closes.
    mount.sh("bash -c 'exec 3>g; echo parent >&3; (sleep 1; echo daemon >&3; exec 3>&-) & disown'; sleep 2");
    assert_eq!(server.get("g"), b"parent\ndaemon\n");
    mount.umount();
}

// R10, R21
#[test]
fn pages_of_a_mapping_are_stored_whoever_closes() {
    let (server, _alone) = start();
    server.put("f", &[b'.'; 5000]);
    let mount = TestMount::new(&server);
    let steps = Steps::new();
    let script = format!(
        r#"
import mmap, subprocess, time
f = os.open('f', os.O_RDWR)
m = mmap.mmap(f, 5000)
m[10:14] = b'page'
subprocess.run(['true'], close_fds=True, check=True)
told = '{}/mapped'
open(told, 'w').close()
while os.path.exists(told): time.sleep(0.05)
"#,
        steps.0.path().display()
    );
    let mut expected = vec![b'.'; 5000];
    expected[10..14].copy_from_slice(b"page");
    std::thread::scope(|threads| {
        let program = threads.spawn(|| python(&mount, &script));
        // Nobody knows who changed the page, so nobody's close is a stranger's.
        steps.wait("mapped", || assert_eq!(server.get("f"), expected));
        program.join().unwrap();
    });
    mount.umount();
}

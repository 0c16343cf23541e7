//! The daemon is killed while programs work: what they were told is there is there, and nothing is torn.
//!
//! A program that is in the middle of a call gets an error and ends; what it was told before is on its standard output,
//! which is outside of the mount.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::common::{TestMount, TestServer, command};

/// A program on the mount and the lines it has printed.
struct Worker {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Worker {
    fn start(mount: &TestMount, program: &str, script: &str) -> Worker {
        let mut child = command("timeout")
            .args(["-k", "5", "120", program, "-c", script])
            .current_dir(mount.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|l| send.send(l)));
        Worker { child, lines }
    }

    /// Lets it work until it has printed `lines`, and a little into the next; the last line.
    fn until(&self, lines: usize, more: Duration) -> String {
        let patience = Duration::from_secs(60);
        let mut last = String::new();
        for _ in 0..lines {
            last = self.lines.recv_timeout(patience).expect("the program goes on");
        }
        std::thread::sleep(more);
        last
    }

    /// What it printed before the end, after what was taken already.
    fn end(mut self) -> Option<String> {
        self.child.wait().unwrap();
        self.lines.into_iter().last()
    }
}

/// Rounds of work, each ended by a kill at another moment.
const ROUNDS: u64 = 4;

fn sqlite(journal: &str) {
    let server = TestServer::start();
    let script = format!(
        "import sqlite3
db = sqlite3.connect('db', isolation_level=None, timeout=30)
db.execute('pragma journal_mode={journal}'); db.execute('pragma synchronous=full')
db.execute('create table if not exists t(n integer primary key, body blob)')
db.execute('create table if not exists sums(k integer primary key, n integer)')
n = db.execute('select coalesce(max(n), 0) from t').fetchone()[0]
while True:
    db.execute('begin immediate')
    for _ in range(20):
        n += 1
        db.execute('insert into t values (?, randomblob(3000))', (n,))
        if n % 3 == 0: db.execute('update t set body = randomblob(2000) where n = ?', (n // 2,))
    db.execute('insert or replace into sums values (1, ?)', (n,))
    db.execute('commit')
    print(n, flush=True)"
    );
    let mut told: u64 = 0;
    for round in 0..ROUNDS {
        let mut mount = TestMount::new(&server);
        if told > 0 {
            let out =
                mount.sh("sqlite3 db 'pragma integrity_check' 'select count(*), max(n), (select n from sums) from t'");
            let (check, counts) = out.trim().split_once('\n').unwrap();
            assert_eq!(check, "ok", "round {round}");
            let counts: Vec<u64> = counts.split('|').map(|n| n.parse().unwrap()).collect();
            assert!(counts[0] == counts[1] && counts[1] == counts[2], "round {round}: half a transaction: {counts:?}");
            assert!(counts[0] >= told, "round {round}: {} of {told} rows that were committed", counts[0]);
        }
        let worker = Worker::start(&mount, "python3", &script);
        told = worker.until(4, Duration::from_millis(7 * round)).parse().unwrap();
        mount.kill_daemon();
        told = worker.end().map_or(told, |l| l.parse().unwrap());
    }
    let mount = TestMount::new(&server);
    assert_eq!(mount.sh("sqlite3 db 'pragma integrity_check'"), "ok\n");
    mount.umount();
}

// R73
#[test]
fn sqlite_with_a_deleted_journal_survives_a_killed_daemon() {
    sqlite("delete");
}

#[test]
fn sqlite_with_a_truncated_journal_survives_a_killed_daemon() {
    sqlite("truncate");
}

#[test]
fn sqlite_with_a_kept_journal_survives_a_killed_daemon() {
    sqlite("persist");
}

#[test]
fn sqlite_with_a_write_ahead_log_survives_a_killed_daemon() {
    sqlite("wal");
}

// R73 R74
#[test]
fn git_survives_a_killed_daemon() {
    let server = TestServer::start();
    // Commits, and at the same time everything is packed anew and what is loose is pruned.
    let script = "cd work; n=$(git rev-list --count HEAD)
         while :; do
           n=$((n + 1)); seq $n $((n + 300)) >f$((n % 7)); git add -A; git commit -qm $n; echo $n
           case $((n % 4)) in 1) git repack -adq;; 3) git gc -q --prune=now;; esac
         done";
    let mount = TestMount::new(&server);
    mount.sh("git init -q -b main work; cd work; echo 0 >f; git add f; git commit -qm 0");
    mount.umount();
    for round in 0..ROUNDS {
        let mut mount = TestMount::new(&server);
        let worker = Worker::start(&mount, "bash", &format!("set -e; {script}"));
        let mut told: u64 = worker.until(3, Duration::from_millis(40 * round)).parse().unwrap();
        mount.kill_daemon();
        told = worker.end().map_or(told, |l| l.parse().unwrap());
        drop(mount);
        let mount = TestMount::new(&server);
        // Locks of a git that died are removed by hand, here as anywhere.
        let found = mount.sh("cd work; find .git -name '*.lock' -delete; rm -f .git/gc.pid
             git fsck --full --strict >&2; git reset -q --hard; git rev-list --count HEAD");
        let found: u64 = found.trim().parse().unwrap();
        assert!(found >= told, "round {round}: {found} of {told} commits that git said were made");
        mount.umount();
    }
}

//! Development on the mount: git, a compiler, a data base.

use crate::common::{TestMount, TestServer, sh, temp_dir};
use crate::same_as_local;

// R67
#[test]
fn git_clones_commits_packs_and_checks() {
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    let local = temp_dir();
    sh(
        local.path(),
        "git init -q -b main origin; cd origin
         for d in $(seq 20); do mkdir d$d; for f in $(seq 12); do seq $d $((d * f + 200)) >d$d/f$f; done; done
         printf '#!/bin/sh\\n' >tool; chmod 755 tool; ln -s tool link
         git add -A; git commit -qm first; seq 9 >d1/f1; git commit -qam second; git tag v1",
    );
    mount.sh(&format!(
        "git clone -q 'file://{}' work; cd work
         test -z \"$(git status --porcelain)\"; git checkout -q -b topic
         echo change >>d2/f2; git mv d3 moved; git rm -q d4/f1; echo new >new; git add new; git commit -qam third
         for i in $(seq 5); do echo $i >>log; git add log; git commit -qm \"step $i\"; done
         git checkout -q main; git merge -q --no-ff -m merged topic; git stash list
         git gc -q --prune=now; git repack -adq; git fsck --full --strict
         test -z \"$(git status --porcelain)\"; git log --oneline | wc -l; git push -q origin HEAD:refs/heads/fromthere",
        local.path().join("origin").display()
    ));
    let head = mount.sh("cd work; git rev-parse HEAD; git ls-tree -r HEAD");
    mount.umount();
    // A fresh mount, which knows the bucket alone, has a sound repository with a clean work tree.
    let mount = TestMount::new(&server);
    assert_eq!(mount.sh("cd work; git rev-parse HEAD; git ls-tree -r HEAD"), head);
    assert_eq!(mount.sh("cd work; git fsck --full --strict; git status --porcelain"), "");
    mount.sh("git clone -q work again; cd again; git fsck --full");
    // rclone takes the repository out: git finds nothing wrong with that copy either.
    let out = local.path().join("out");
    server.rclone(&["copy", &server.remote("work/.git"), out.join(".git").to_str().unwrap(), "--transfers", "8"]);
    assert_eq!(sh(&out, "mkdir -p .git/refs .git/objects; git fsck --full --strict; git rev-parse HEAD").trim(), {
        head.lines().next().unwrap()
    });
    mount.umount();
}

fn sqlite(journal: &str) {
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    let local = temp_dir();
    mount.sh(&format!(
        "sql() {{ sqlite3 db '.timeout 20000' 'pragma journal_mode={journal}' \"$@\" | tail -n +2; }}
         sql 'create table t(id integer primary key, name text, body blob); create index by_name on t(name);'
         for round in 1 2 3 4; do
           sql \"begin;
             with recursive n(i) as (select 1 union all select i + 1 from n where i < 2500)
               insert into t(name, body) select printf('name-%05d', abs(random()) % 100000), randomblob(200) from n;
             update t set body = zeroblob(300) where id % 7 = $round; delete from t where id % 11 = $round; commit;\"
         done
         test \"$(sql 'pragma integrity_check')\" = ok
         before=$(sql 'select count(*) from t'); test $before -gt 5000
         sql 'begin; delete from t; rollback;'; sql vacuum; test $(sql 'select count(*) from t') = $before
         # Two writers: the lock keeps the second out until the first is done.
         sql 'begin immediate; insert into t(id) values (1000000);' '.shell sleep 1' 'commit;' & sleep 0.3
         sql 'insert into t(id) select max(id) + 1 from t;'; wait
         test $(sql 'select max(id) from t') = 1000001; ls -A >left; test \"$(grep -c journal left)\" -le 1; rm left"
    ));
    let dump = mount.sh("sqlite3 db .dump | sha256sum");
    // The object is the data base, as soon as the program has closed it.
    std::fs::write(local.path().join("db"), server.get("db")).unwrap();
    assert_eq!(sh(local.path(), "sqlite3 db 'pragma integrity_check'"), "ok\n");
    assert_eq!(sh(local.path(), "sqlite3 db .dump | sha256sum"), dump);
    mount.umount();
    let mount = TestMount::new(&server);
    assert_eq!(mount.sh("sqlite3 db 'pragma integrity_check'; sqlite3 db .dump | sha256sum"), format!("ok\n{dump}"));
    mount.umount();
}

#[test]
fn sqlite_with_a_journal_that_is_deleted() {
    sqlite("delete");
}

#[test]
fn sqlite_with_a_journal_that_is_truncated() {
    sqlite("truncate");
}

#[test]
fn sqlite_with_a_journal_that_is_kept() {
    sqlite("persist");
}

/// One machine: the index of the log is a shared mapping.
// R21 R70
#[test]
fn sqlite_with_a_write_ahead_log() {
    sqlite("wal");
}

/// The linker writes its output in no order and maps it.
// R15 R69
#[test]
fn a_program_and_a_shared_library_are_built_and_run() {
    let server = TestServer::start();
    let mount = TestMount::new(&server);
    let build = "printf 'int answer(void) { return 42; }\\n' >answer.c
         printf '#include <stdio.h>\\nint answer(void);\\nint main(void) { return printf(\"%%d\\\\n\", answer()) < 0; }\\n' >main.c
         cc -g -shared -fPIC -o libanswer.so answer.c; cc -g -c main.c; ar rcs libmain.a main.o
         cc -g -o main libmain.a -L. -lanswer -Wl,-rpath,'$ORIGIN'; ./main";
    assert_eq!(mount.sh(build), "42\n");
    mount.sh("cp \"$(readlink -f \"$(command -v sha256sum)\")\" hash; ./hash hash >/dev/null; test -x hash");
    let sum = mount.sh("sha256sum main libanswer.so hash | cut -d' ' -f1");
    mount.umount();
    // From the bucket: pages of the program come in by page faults.
    let mount = TestMount::new(&server);
    assert_eq!(mount.sh("./main; ./main"), "42\n42\n");
    assert_eq!(mount.sh("./hash main libanswer.so hash | cut -d' ' -f1"), sum);
    for (name, sum) in ["main", "libanswer.so", "hash"].iter().zip(sum.lines()) {
        assert_eq!(server.sha256(name), sum, "{name}");
    }
    // Built again over the running one's name.
    assert_eq!(mount.sh(build), "42\n");
    mount.umount();
}

#[test]
fn make_and_patch_follow_modification_times() {
    same_as_local(
        "printf 'out: in\\n\\tcp in out; echo built >>log\\n' >Makefile; echo 1 >in
         touch -d '1 hour ago' in; make -s; make -s; touch -d '1 hour' in; make -s 2>/dev/null; cat log | wc -l
         cp in new; echo 2 >>new; diff -u in new >p || true; patch -s in p; patch -sR in p; rm p; cat in",
    );
}

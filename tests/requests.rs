//! What commands cost: the requests that each sends to the store, exactly, on a real mount.
//!
//! A budget is not an upper bound: one request less is news as well. Where a second command of a pair is free, it is
//! because of what the first one learnt; the lifetimes of that are set long here, so that a slow machine does not
//! change the result.

#![cfg(feature = "demo")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{TestMount, TestServer, try_sh};
use xosfs::demo::Server;

const HEAD: &str = "HeadObject";
const GET: &str = "GetObject";
const PUT: &str = "PutObject";
const LIST: &str = "ListObjectsV2";
const DELETE: &str = "DeleteObject";
const COPY: &str = "CopyObject";
const ACL: &str = "GetObjectAcl";
const TAGS: &str = "GetObjectTagging";

/// Long enough for any test here.
const LASTING: &[&str] = &["metadata_ttl=10m", "negative_ttl=10m"];

struct Till {
    server: TestServer,
    mount: Option<TestMount>,
    wrong: Vec<String>,
}

impl Till {
    /// A mount of a bucket with these objects; `None` on a server whose requests cannot be counted.
    fn with(objects: &[(&str, &str)], options: &[&str]) -> Option<Till> {
        let server = TestServer::start();
        let embedded = server.embedded_server()?;
        for (key, content) in objects {
            embedded.store().put(&server.bucket, key, content.to_string());
        }
        let mount = Some(TestMount::with(&server, options));
        let till = Till { server, mount, wrong: Vec::new() };
        till.embedded().clear_log();
        Some(till)
    }

    fn new(objects: &[(&str, &str)]) -> Option<Till> {
        Till::with(objects, LASTING)
    }

    fn embedded(&self) -> &Server {
        self.server.embedded_server().expect("checked when it was made")
    }

    fn counts(&self) -> BTreeMap<String, u64> {
        let counts = self.embedded().counts();
        self.embedded().clear_log();
        counts
    }

    /// Runs `script` in the mount; returns what it sent.
    #[track_caller]
    fn spent(&mut self, script: &str) -> BTreeMap<String, u64> {
        let spent = self.spent_of(script);
        self.embedded().clear_log();
        spent
    }

    /// As [`Till::spent`], and the log stays.
    #[track_caller]
    fn spent_of(&mut self, script: &str) -> BTreeMap<String, u64> {
        self.embedded().clear_log();
        let ran = try_sh(self.mount.as_ref().unwrap().path(), script);
        assert_eq!(ran.code, Some(0), "{script}: {ran:?}");
        self.embedded().counts()
    }

    /// `script` sends these requests and no others. All that is wrong is told at the end.
    #[track_caller]
    fn costs(&mut self, script: &str, budget: &[(&str, u64)]) {
        let spent = self.spent(script);
        let budget: BTreeMap<String, u64> = budget.iter().map(|(k, v)| (k.to_string(), *v)).collect();
        if spent != budget {
            self.wrong.push(format!("{script}\n    sent   {spent:?}\n    budget {budget:?}"));
        }
    }
}

impl Drop for Till {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        if let Some(mount) = self.mount.take() {
            mount.umount();
        }
        assert!(self.wrong.is_empty(), "not what it costs:\n{}", self.wrong.join("\n"));
    }
}

#[test]
fn reading_a_small_file() {
    let Some(mut t) = Till::new(&[("f", "content"), ("g", "other"), ("d/h", "deep")]) else { return };
    t.costs("ls", &[(LIST, 1)]);
    t.costs("cat f", &[(GET, 1)]);
    t.costs("cat f", &[]);
    t.costs("stat f g d; test -e f; ls -l f", &[]);
    t.costs("wc -c g; md5sum g", &[(GET, 1)]);
    t.costs("cmp f f; diff f f; head -n 1 g; tail -n 1 g", &[]);
    // Nobody has listed `d`: whether a name is a file or a directory takes both questions, at the same time.
    t.costs("cat d/h", &[(HEAD, 1), (LIST, 1), (GET, 1)]);
    t.costs("cat d/h", &[]);
}

/// A directory `d` of so many small files.
fn many(count: usize, options: &[&str]) -> Option<Till> {
    let till = Till::with(&[], options)?;
    for i in 0..count {
        till.embedded().store().put(&till.server.bucket, &format!("d/{i:04}"), format!("content of {i}\n"));
    }
    till.mount.as_ref().unwrap().sh("ls; stat d");
    till.embedded().clear_log();
    Some(till)
}

impl Till {
    /// The keys of the GETs since the log was cleared.
    fn got(&self) -> Vec<String> {
        let log = self.embedded().log();
        log.iter().filter(|r| r.operation == GET).map(|r| r.key.clone()).collect()
    }

    /// `script` reads so many files, one GET each; what else is sent is a LIST and a HEAD of each directory at most.
    #[track_caller]
    fn reads_each_once(&mut self, script: &str, files: usize, directories: u64) {
        let spent = self.spent_of(script);
        let mut got = self.got();
        got.sort_unstable();
        let total = got.len();
        got.dedup();
        assert_eq!((got.len(), total), (files, files), "{script}: each file once");
        let others: u64 = spent.iter().filter(|(name, _)| *name != GET).map(|(_, n)| n).sum();
        let (heads, lists) = (spent.get(HEAD).copied().unwrap_or(0), spent.get(LIST).copied().unwrap_or(0));
        assert!(heads <= directories && lists <= directories && heads + lists == others, "{script}: {spent:?}");
    }
}

#[test]
fn reading_many_small_files() {
    for script in [
        "grep -rq 'no such text' d || true",
        "cat d/* >/dev/null",
        "ls -l d >/dev/null; for f in d/*; do cat $f >/dev/null; done",
        "ls d | sed s,^,d/, | xargs -P 8 -n 8 cat >/dev/null",
        "tar -cf /dev/shm/$$.tar d; rm /dev/shm/$$.tar",
        "cp -r d /dev/shm/$$; rm -r /dev/shm/$$",
    ] {
        let Some(mut t) = many(1000, LASTING) else { return };
        t.reads_each_once(script, 1000, 1);
    }
    // Over directories of a few files each.
    let Some(mut t) = Till::new(&[]) else { return };
    for i in 0..100 {
        for name in ["a", "b", "c"] {
            t.embedded().store().put(&t.server.bucket, &format!("t/{}/{i}/{name}", i / 10), name.to_owned());
        }
    }
    t.reads_each_once("grep -rq 'no such text' t || true", 300, 112);
}

#[test]
fn small_files_are_fetched_before_they_are_opened() {
    let Some(t) = many(1000, LASTING) else { return };
    let mount = t.mount.as_ref().unwrap();
    mount.sh("ls d >/dev/null");
    t.embedded().clear_log();
    mount.sh("cat d/0000 d/0001 >/dev/null");
    assert_eq!(t.got(), ["d/0000", "d/0001"], "two files are no habit");
    mount.sh("cd d; cat 0002 0003 0004 0005 0006 0007 0008 0009 >/dev/null");
    common::eventually(Duration::from_secs(20), "32 files are on their way", || t.got().len() == 42);
    // They are there: their metadata and their bytes.
    t.embedded().clear_log();
    assert_eq!(mount.sh("cat d/0020; stat -c %s d/0041"), "content of 20\n14\n");
    // A file in the middle that was opened moves the window, and files that another program replaced meanwhile are
    // asked for by their reader.
    t.embedded().store().put(&t.server.bucket, "d/0060", "replaced");
    assert_eq!(mount.sh("cd d; cat 00[2-5]? >/dev/null; cat 0060"), "replaced");
    let mut got = t.got();
    got.retain(|key| key == "d/0060");
    assert!(got.len() <= 2, "{got:?}");
}

/// As `cp -r` does it.
#[test]
fn files_opened_by_inode_number_are_fetched_before_they_are_opened() {
    let Some(t) = many(1000, LASTING) else { return };
    let mount = t.mount.as_ref().unwrap();
    mount.sh("ls -i d >/dev/null");
    t.embedded().clear_log();
    let names = "ls -i d | sort -n | awk '{ print \"d/\" $2 }'";
    let mut opened = 0;
    common::eventually(Duration::from_secs(60), "files are fetched ahead", || {
        opened = (opened + 60).min(960);
        mount.sh(&format!("{names} | sed -n '{},{opened}p' | xargs cat >/dev/null", opened - 59));
        t.got().len() > opened
    });
    let mut got = t.got();
    let total = got.len();
    got.sort_unstable();
    got.dedup();
    assert_eq!(got.len(), total, "none twice");
}

#[test]
fn files_that_nobody_opens_are_not_fetched() {
    let Some(mut t) = many(1000, LASTING) else { return };
    t.costs("ls -l d >/dev/null; cat d/0500", &[(LIST, 1), (GET, 1)]);
    let spent = t.spent("stat -c %s d/* >/dev/null; wc -c d/0500; test -f d/0001");
    assert!(!spent.contains_key(GET), "{spent:?}");
    let random = "seq -f %04g 0 999 | shuf -n 200 --random-source=<(yes) | sed s,^,d/,";
    t.spent(&format!("{random} | xargs -n 50 cat >/dev/null"));
    t.costs(&format!("{random} | xargs -n 50 cat >/dev/null"), &[]);
    drop(t);
    let Some(mut t) = many(1000, LASTING) else { return };
    t.spent("ls d");
    let spent = t.spent(&format!("{random} | xargs -n 50 cat >/dev/null"));
    assert_eq!(spent, BTreeMap::from([(GET.to_owned(), 200)]), "in no order");
    drop(t);
    let Some(mut t) = many(100, &[LASTING, &["max_readahead=0"]].concat()) else { return };
    t.spent("ls d");
    assert_eq!(t.spent("cat d/000?")[GET], 10);
}

#[test]
fn an_entry_that_is_old_is_asked_for_once() {
    let Some(mut t) = Till::with(&[("f", "content")], &["metadata_ttl=1s"]) else { return };
    t.costs("ls", &[(LIST, 1)]);
    // The directory is small: one listing brings all of its entries up to date.
    t.costs("sleep 1.5; cat f", &[(LIST, 1), (GET, 1)]);
    t.costs("sleep 1.5; cat f", &[(LIST, 1)]);
    drop(t);
    let Some(mut t) = Till::with(&[("f", "content")], &["metadata_ttl=1s"]) else { return };
    t.costs("cat f", &[(HEAD, 1), (LIST, 1), (GET, 1)]);
    t.costs("sleep 1.5; cat f", &[(HEAD, 1), (LIST, 1)]);
}

#[test]
fn a_missing_name_is_asked_for_once() {
    let Some(mut t) = Till::new(&[("f", "content")]) else { return };
    t.costs("! test -e missing", &[(HEAD, 1), (LIST, 1)]);
    t.costs("! test -e missing; ! cat missing 2>/dev/null", &[]);
    // A name is asked for before it is made, and then not again.
    t.costs("echo x >new-file", &[(HEAD, 1), (LIST, 1), (PUT, 1)]);
    t.costs("mkdir new-dir", &[(HEAD, 1), (LIST, 1), (PUT, 1)]);
    t.costs("ls", &[(LIST, 1)]);
    t.costs("! test -e never-seen; ! ls -l neither 2>/dev/null", &[]);
}

#[test]
fn listing() {
    let Some(mut t) = Till::new(&[]) else { return };
    for i in 0..2500 {
        t.embedded().store().put(&t.server.bucket, &format!("many/{i}"), "x");
    }
    for i in 0..5 {
        for j in 0..4 {
            t.embedded().store().put(&t.server.bucket, &format!("tree/{i}/{j}"), "x");
        }
    }
    t.costs("ls", &[(LIST, 1)]);
    t.costs("cd many; test $(ls -l | wc -l) = 2501", &[(LIST, 3)]);
    // The mode of the directory is in its marker, and nobody has asked for that before.
    t.costs("cd many; ls -l >/dev/null; stat -c %s 1 2 3 >/dev/null", &[(HEAD, 1)]);
    // One listing of each of the six directories.
    t.costs("test $(find tree -type f | wc -l) = 20", &[(LIST, 6)]);
    t.costs("find tree -size +1; ls -lR tree; find tree -newer tree/0/0", &[(HEAD, 1)]);
    t.costs("du -s tree", &[]);
    t.costs("for i in tree/*/*; do test -f $i; done", &[]);
}

// R112
#[test]
fn writing_a_small_file() {
    let Some(mut t) = Till::new(&[("old", "content"), ("other", "content"), ("third", "content")]) else { return };
    t.costs("ls", &[(LIST, 1)]);
    t.costs("echo content >new", &[(PUT, 1)]);
    t.costs("cat new; stat new; ls -l new", &[]);
    t.costs("touch empty", &[(PUT, 1)]);
    t.costs("dd if=/dev/zero of=zeros bs=1k count=100 2>/dev/null", &[(PUT, 1)]);
    t.costs("cp new copied", &[(PUT, 1)]);
    t.costs("cp -a new kept", &[(PUT, 1)]);
    t.costs("echo more >>new", &[(PUT, 1)]);
    t.costs("echo other >new", &[(PUT, 1)]);
    t.costs("truncate -s 3 new", &[(PUT, 1)]);
    // An object of somebody else's: its headers, tags and ACL have to survive, its bytes are needed.
    t.costs("echo more >>old", &[(TAGS, 1), (ACL, 1), (GET, 1), (PUT, 1)]);
    t.costs("echo more >>old", &[(PUT, 1)]);
    t.costs("echo new >other", &[(HEAD, 1), (TAGS, 1), (ACL, 1), (PUT, 1)]);
    t.costs("echo new >other", &[(PUT, 1)]);
    // Not written: nothing has to be kept.
    t.costs("exec 3<>third; exec 3>&-", &[(GET, 1)]);
    t.costs("cp -a old old-kept", &[(PUT, 1)]);
}

#[test]
fn directories() {
    let Some(mut t) = Till::new(&[("f", "content")]) else { return };
    t.costs("ls", &[(LIST, 1)]);
    t.costs("mkdir d", &[(PUT, 1)]);
    // What was just made is known to be empty; after a change here a listing is asked for again.
    t.costs("echo x >d/f; cat d/f", &[(PUT, 1)]);
    t.costs("ls d; ls d", &[(LIST, 1)]);
    t.costs("mkdir -p d/e/g", &[(PUT, 2)]);
    t.costs("rm d/f", &[(DELETE, 1)]);
    t.costs("rmdir d/e/g", &[(LIST, 1), (DELETE, 1)]);
    t.costs("! rmdir d 2>/dev/null", &[(LIST, 1)]);
    t.costs("ls; cd d; ls -a", &[(LIST, 2)]);
}

#[test]
fn removing_and_renaming() {
    let objects = [("a", "a"), ("b", "b"), ("c", "c"), ("d/f", "x"), ("t/1", "1"), ("t/2", "2")];
    let Some(mut t) = Till::new(&objects) else { return };
    t.costs("ls", &[(LIST, 1)]);
    t.costs("rm a", &[(DELETE, 1)]);
    t.costs("mv b moved", &[(ACL, 1), (COPY, 1), (DELETE, 1)]);
    t.costs("cat moved", &[(GET, 1)]);
    t.costs("mv -f c moved", &[(ACL, 1), (COPY, 1), (DELETE, 1)]);
    t.costs("! test -e b; ! test -e c", &[]);
    // Whether there is such a name in a directory that nobody has listed.
    t.costs("mv moved d/moved", &[(HEAD, 1), (LIST, 1), (COPY, 1), (DELETE, 1)]);
    // The directory's marker, a listing of what is in it, and one DELETE for all.
    t.costs("mv t u", &[(HEAD, 1), (LIST, 1), (ACL, 2), (COPY, 2), ("DeleteObjects", 1)]);
    // A listing to find the names, one DELETE each, and the directory itself.
    t.costs("rm -r u", &[(LIST, 2), (DELETE, 3)]);
    // As editors save: a new file takes the place of the old one before anything of it was stored twice.
    t.costs("ls d", &[(HEAD, 1), (LIST, 1)]);
    t.costs("echo new >d/.tmp && mv d/.tmp d/f", &[(PUT, 1), (COPY, 1), (DELETE, 1)]);
}

#[test]
fn attributes() {
    let Some(mut t) = Till::new(&[("f", "content"), ("g", "content")]) else { return };
    t.costs("ls -l", &[(LIST, 1)]);
    // What is there now has to be known; the copy then carries what was changed within half a second.
    t.costs("chmod 600 f; chown 7:8 f; sleep 3", &[(HEAD, 1), (TAGS, 1), (ACL, 1), (COPY, 1)]);
    t.costs("stat f; ls -l", &[]);
    t.costs("chmod 644 f; sleep 3", &[(COPY, 1)]);
    t.costs("touch g; sleep 3", &[(HEAD, 1), (TAGS, 1), (ACL, 1), (COPY, 1)]);
    // install changes the mode after it has closed the file; what is set before that costs nothing.
    t.costs("install -m 755 f h; sleep 3", &[(GET, 1), (PUT, 1), (COPY, 1)]);
    t.costs("cp -a h i; sleep 3", &[(PUT, 1)]);
    drop(t);
    // Of some stores it is known that a copy keeps the tags.
    let Some(mut t) = Till::with(&[("f", "content")], &[LASTING, &["provider=aws"]].concat()) else { return };
    t.costs("ls -l", &[(LIST, 1)]);
    t.costs("chmod 600 f; sleep 3", &[(HEAD, 1), (ACL, 1), (COPY, 1)]);
}

// R111, R112
#[test]
fn attributes_set_later_cost_one_copy() {
    let Some(mut t) = Till::new(&[("f", "content"), ("d/f", "content")]) else { return };
    t.costs("ls -l", &[(LIST, 1)]);
    let all = "chmod 600 f; chown 7:8 f; touch -d @1000000000 f; \
        for i in 1 2 3 4; do setfattr -n user.note$i -v $i f; done; setfattr -x user.note4 f; \
        setfattr -n user.s3.content-type -v text/x-test f; setfattr -n user.s3.cache-control -v no-cache f";
    t.costs(&format!("{all}; sleep 3"), &[(HEAD, 1), (TAGS, 1), (ACL, 1), (COPY, 1)]);
    let shown = t.mount.as_ref().unwrap().sh(
        "stat -c '%a %u %g %Y' f; getfattr --only-values -n user.note3 f; ! getfattr -n user.note4 f 2>/dev/null; \
         getfattr --only-values -n user.s3.content-type f",
    );
    assert_eq!(shown, "600 7 8 1000000000\n3text/x-test");
    // They are shown before the copy is made, and travel with the rename that comes first.
    t.costs(
        "setfattr -n user.note1 -v new f; test $(getfattr --only-values -n user.note1 f) = new; mv f g; \
         test $(getfattr --only-values -n user.note1 g) = new; sleep 3",
        &[(COPY, 1), (DELETE, 1)],
    );
    // And with the content that comes first.
    t.costs("setfattr -n user.note1 -v newer g; echo more >>g; sleep 3", &[(GET, 1), (PUT, 1)]);
    t.costs("test $(getfattr --only-values -n user.note1 g) = newer", &[]);
    let stored = t.embedded().store().head(&t.server.bucket, "g").unwrap().attributes;
    assert_eq!(stored.metadata["note1"], "newer");
    assert_eq!(stored.content_type.as_deref(), Some("text/x-test"));
    // A class is tried at once, because only the store knows its classes; what was waiting goes along.
    t.costs("chmod 640 g; setfattr -n user.s3.storage-class -v STANDARD_IA g", &[(COPY, 1)]);
    t.costs("sleep 3; stat -c %a g | grep -q 640", &[]);
    assert_eq!(t.embedded().store().head(&t.server.bucket, "g").unwrap().attributes.metadata["mode"], "33184");
}

// R52, R110
#[test]
fn attributes_set_before_close_cost_nothing() {
    use std::io::Write;
    let Some(mut t) = Till::new(&[("old", "content")]) else { return };
    t.costs("ls", &[(LIST, 1)]);
    let path = t.mount.as_ref().unwrap().join("new");
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(b"content").unwrap();
    for (name, value) in [
        ("user.note", "é 1"),
        ("user.s3.content-type", "text/x-test"),
        ("user.s3.tags", "a=1&b=2"),
        ("user.s3.tag.c", "3"),
        ("user.s3.acl", "public-read"),
        ("user.s3.storage-class", "STANDARD_IA"),
    ] {
        xattr::set(&path, name, value.as_bytes()).unwrap();
        assert!(xattr::get(&path, name).unwrap().is_some(), "{name}");
    }
    assert_eq!(xattr::get(&path, "user.s3.tag.b").unwrap().as_deref(), Some(&b"2"[..]));
    drop(file);
    assert_eq!(t.counts(), BTreeMap::from([(PUT.to_owned(), 1)]));
    let stored = t.embedded().store().head(&t.server.bucket, "new").unwrap();
    assert_eq!(stored.attributes.metadata["note"], "%%%C3%A9%201");
    assert_eq!(stored.attributes.tags.len(), 3);
    // A list without a canned name takes two more: whose object it is, and the list.
    let path = t.mount.as_ref().unwrap().join("granted");
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(b"content").unwrap();
    xattr::set(&path, "user.s3.acl.grants", b"READ_ACP AuthenticatedUsers\n").unwrap();
    drop(file);
    let counts = t.counts();
    assert_eq!(counts, BTreeMap::from([(PUT.to_owned(), 1), (ACL.to_owned(), 1), ("PutObjectAcl".to_owned(), 1)]));
    // Tags of an overwritten file are added to those it has.
    t.costs("setfattr -n user.s3.tags -v x=1 old", &[("PutObjectTagging", 1)]);
    let path = t.mount.as_ref().unwrap().join("old");
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all(b"C").unwrap();
    xattr::set(&path, "user.s3.tag.y", b"2").unwrap();
    drop(file);
    let tags = t.embedded().store().head(&t.server.bucket, "old").unwrap().attributes.tags;
    assert_eq!(tags, [("x".to_owned(), "1".to_owned()), ("y".to_owned(), "2".to_owned())]);
}

// R116
#[test]
fn extended_attributes() {
    let Some(mut t) = Till::new(&[("f", "content")]) else { return };
    t.costs("ls", &[(LIST, 1)]);
    t.costs("getfattr -d f; getfattr -d -m - f", &[]);
    t.costs("setfattr -n user.s3.tags -v a=b f", &[("PutObjectTagging", 1)]);
    // The kernel looks again at what was changed.
    t.costs("stat f", &[(HEAD, 1)]);
    t.costs("getfattr -n user.s3.tags f", &[(TAGS, 1)]);
    t.costs("getfattr -n user.s3.acl f", &[(ACL, 1)]);
    t.costs("getfattr -n user.s3.etag f; getfattr -n user.s3.uri f", &[]);
    t.costs("getfattr -n security.capability f || true; getfattr -n system.posix_acl_access f || true", &[]);
    t.costs("getfattr -n user.s3.url f >/dev/null", &[]);
    t.costs("rsync -aX f copied", &[(GET, 1), (PUT, 1), (COPY, 1), (DELETE, 1)]);
    drop(t);
    let Some(mut t) = Till::with(&[("f", "content")], &[LASTING, &["xattr_list=all"]].concat()) else { return };
    t.costs("ls", &[(LIST, 1)]);
    t.costs("test $(getfattr -m - f | grep -c user.s3.) -ge 11", &[(HEAD, 1), (TAGS, 1), (ACL, 1)]);
}

#[test]
fn links() {
    let Some(mut t) = Till::new(&[("f", "content")]) else { return };
    t.costs("ls", &[(LIST, 1)]);
    let multipart = [("CreateMultipartUpload", 1), ("UploadPart", 1), ("CompleteMultipartUpload", 1)];
    t.costs("ln -s f link", &multipart);
    t.costs("readlink link; ls -l link", &[]);
    t.costs("cat link", &[(GET, 1)]);
}

#[test]
fn what_asks_nothing() {
    let Some(mut t) = Till::with(&[("f", "content")], &[]) else { return };
    t.costs("df . ; stat -f .; stat .", &[]);
    t.costs("sleep 3", &[]);
    t.costs("ln f hard 2>/dev/null || true", &[(HEAD, 2), (LIST, 2)]);
}

#[test]
fn reading_a_large_file() {
    let Some(mut t) = Till::new(&[]) else { return };
    let mib = 1 << 20;
    for key in ["big", "random"] {
        t.embedded().store().put_synthetic(&t.server.bucket, key, 64 * mib);
    }
    t.costs("ls", &[(LIST, 1)]);
    let spent = t.spent("test $(cat big | wc -c) = $((64 << 20))");
    let gets = spent[GET];
    assert!(gets <= 64 / 8 + 4 && spent.len() == 1, "a sequential read of 64 MiB: {spent:?}");
    let bytes: u64 = 64 * mib;
    t.spent("cat big >/dev/null");
    // A few bytes at the start do not fetch the rest.
    let _ = t.counts();
    t.spent("head -c 100 random >/dev/null");
    std::thread::sleep(Duration::from_millis(300));
    assert!(t.counts().is_empty(), "nothing goes on after the close, of {bytes} bytes");
}

#[test]
fn a_mount_of_a_prefix() {
    let server = TestServer::start();
    let Some(embedded) = server.embedded_server() else { return };
    embedded.store().put(&server.bucket, "home/d/f", "content");
    embedded.store().put(&server.bucket, "outside", "content");
    let mount = TestMount::of(&server, &format!("{}:/home", server.bucket), LASTING);
    embedded.clear_log();
    assert_eq!(mount.sh("ls; ls d; cat d/f; echo x >d/g; rm d/g"), "d\nf\ncontent");
    let counts: Vec<(String, u64)> = embedded.counts().into_iter().collect();
    // The HEAD is that of the marker of `d`, which is asked for by name.
    let budget = [(DELETE, 1), (GET, 1), (HEAD, 1), (LIST, 2), (PUT, 1)];
    assert_eq!(counts, budget.map(|(k, v)| (k.to_owned(), v)));
    mount.umount();
}

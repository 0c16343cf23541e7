//! Every extended attribute of `docs/ATTRIBUTES.md` set to something that it cannot be.

use super::*;

/// Name, what it is set to, the error, and a part of the reason that goes to the log.
const WRONG: &[(&str, &str, i32, &str)] = &[
    ("user.s3.acl", "everybody", libc::EINVAL, "a canned ACL of objects of this store is one of private"),
    ("user.s3.acl.grants", "READ", libc::EINVAL, "a grant is `PERMISSION GRANTEE`"),
    ("user.s3.acl.json", "{}", libc::EINVAL, "an ACL as JSON"),
    ("user.s3.owner", "me", libc::EPERM, "user.s3.owner"),
    ("user.s3.tags", "a=1&a=2", libc::EINVAL, "twice"),
    ("user.s3.tag.KEY", "LONG", libc::ERANGE, "256"),
    ("user.s3.storage-class", "two words", libc::EINVAL, "two words"),
    ("user.s3.restore", "soon", libc::EINVAL, "soon"),
    ("user.s3.content-type", "a\nb", libc::EINVAL, "content-type"),
    ("user.s3.cache-control", "a\nb", libc::EINVAL, "cache-control"),
    ("user.s3.content-disposition", "a\nb", libc::EINVAL, "content-disposition"),
    ("user.s3.content-encoding", "a\nb", libc::EINVAL, "content-encoding"),
    ("user.s3.content-language", "a\nb", libc::EINVAL, "content-language"),
    ("user.s3.expires", "tomorrow", libc::EINVAL, "tomorrow"),
    ("user.s3.etag", "x", libc::EPERM, "user.s3.etag"),
    ("user.s3.version-id", "x", libc::EPERM, "user.s3.version-id"),
    ("user.s3.size", "7", libc::EPERM, "user.s3.size"),
    ("user.s3.last-modified", "x", libc::EPERM, "user.s3.last-modified"),
    ("user.s3.sse", "AES256", libc::EPERM, "user.s3.sse"),
    ("user.s3.uri", "x", libc::EPERM, "user.s3.uri"),
    ("user.s3.versions", "x", libc::EPERM, "user.s3.versions"),
    ("user.s3.url", "x", libc::EPERM, "user.s3.url"),
    ("user.s3.url.put", "x", libc::EPERM, "user.s3.url.put"),
    ("user.s3.bucket.acl", "everybody", libc::EINVAL, "a canned ACL of buckets of this store is one of private"),
    ("user.s3.bucket.versioning", "perhaps", libc::EINVAL, "perhaps"),
    ("user.s3.bucket.location", "x", libc::EPERM, "cannot be changed"),
    ("user.s3.bucket.tags", "a=1&a=2", libc::EINVAL, "twice"),
    ("user.s3.bucket.policy", "neither", libc::EINVAL, "policy"),
    ("user.s3.bucket.cors", "neither", libc::EINVAL, "cors"),
    ("user.s3.bucket.lifecycle", "neither", libc::EINVAL, "lifecycle"),
    ("user.s3.bucket.encryption", "neither", libc::EINVAL, "encryption"),
    ("user.s3.bucket.website", "neither", libc::EINVAL, "website"),
    ("user.s3.bucket.logging", "neither", libc::EINVAL, "logging"),
    ("user.s3.bucket.notification", "neither", libc::EINVAL, "notification"),
    ("user.s3.bucket.replication", "neither", libc::EINVAL, "replication"),
    ("user.s3.bucket.requestPayment", "neither", libc::EINVAL, "requestPayment"),
    ("user.s3.bucket.accelerate", "neither", libc::EINVAL, "accelerate"),
    ("user.s3.bucket.publicAccessBlock", "neither", libc::EINVAL, "publicAccessBlock"),
    ("user.s3.bucket.ownershipControls", "neither", libc::EINVAL, "ownershipControls"),
    ("user.s3.bucket.object-lock", "neither", libc::EINVAL, "object-lock"),
    ("user.s3.bucket.acl.json", "neither", libc::EINVAL, "acl"),
    // How much there may be is the store's to say, so this one is sent: the last.
    ("user.NAME", "LONG", libc::E2BIG, "metadata"),
];

/// The names in the tables of the document; `.name` there is one beside the name before.
fn documented() -> Vec<String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ATTRIBUTES.md");
    let text = std::fs::read_to_string(path).unwrap();
    let section = text.split("## Names").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut out: Vec<String> = Vec::new();
    for row in section.lines().filter(|l| l.starts_with("| `")) {
        for name in row.split('|').nth(1).unwrap().split(',').map(|n| n.trim().trim_matches('`')) {
            let beside = name.strip_prefix('.').map(|rest| {
                let before = out.last().map_or("", String::as_str);
                let root = if before.starts_with("user.s3.bucket.") { "user.s3.bucket" } else { "user.s3" };
                format!("{root}.{rest}")
            });
            out.push(beside.unwrap_or_else(|| name.to_owned()));
        }
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attribute_says_what_it_cannot_be() {
    let w = world();
    w.put("f", "x");
    let m = w.mount();
    let (file, root) = (m.stat("f").await.unwrap().ino, ROOT);
    let names = documented();
    assert!(names.len() > 40, "{names:?}");
    let untried: Vec<_> = names.iter().filter(|n| !WRONG.iter().any(|(name, ..)| name == n)).collect();
    assert!(untried.is_empty(), "no wrong value of: {untried:?}");
    w.requests();
    let mut wrong = Vec::new();
    for (name, value, errno, part) in WRONG {
        assert!(names.iter().any(|n| n == name), "{name} is not in the document");
        let value = if *value == "LONG" { "v".repeat(9000) } else { (*value).to_owned() };
        let ino = if name.contains(".bucket.") { root } else { file };
        if *errno == libc::E2BIG {
            assert_eq!(w.requests(), counted(&[]), "nothing was sent");
        }
        let told = match m.setxattr(ino, name, value.as_bytes(), false, false).await {
            Ok(()) => "it was taken".to_owned(),
            Err(e) if e.errno() == *errno && e.to_string().contains(part) => continue,
            Err(e) => format!("{e:?}"),
        };
        wrong.push(format!("{name}={value:.20}: expected {errno} and {part:?}: {told}"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // None of them can be removed that the store alone sets, and what is not there has nothing to remove.
    for (name, _, errno, _) in WRONG.iter().filter(|(.., errno, _)| *errno == libc::EPERM) {
        let ino = if name.contains(".bucket.") { root } else { file };
        assert_eq!(m.removexattr(ino, name).await.unwrap_err().errno(), *errno, "{name}");
    }
    for name in ["user.NAME", "user.s3.tag.KEY"] {
        assert_eq!(m.removexattr(file, name).await.unwrap_err().errno(), libc::ENODATA, "{name}");
    }
}

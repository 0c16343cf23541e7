//! What is done, on which objects, and what they are afterwards.

use super::drive;
use super::drive::{Drive, Outcome};

/// Sizes that meet the limits of what is tested.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// Stored by one PUT.
    pub small: usize,
    /// Stored in parts.
    pub large: usize,
    /// Long enough to be sent while it is written.
    pub streamed: usize,
    pub chunk: usize,
}

pub const LIBRARY: Sizes = Sizes { small: 1000, large: 420_000, streamed: 900_000, chunk: 64 << 10 };
pub const MOUNT: Sizes = Sizes { small: 1000, large: 17 << 20, streamed: 23 << 20, chunk: 1 << 20 };

pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |x: &mut u64| {
        *x ^= *x << 13;
        *x ^= *x >> 7;
        *x ^= *x << 17;
        *x
    };
    (0..len.div_ceil(8)).flat_map(|_| next(&mut x).to_le_bytes()).take(len).collect()
}

/// What a scenario runs on: `path` prefixes the name with the run's directory.
pub struct Stage<'a> {
    pub drive: &'a dyn Drive,
    pub dir: String,
    pub sizes: Sizes,
}

impl Stage<'_> {
    pub fn path(&self, name: &str) -> String {
        format!("{}{name}", self.dir)
    }

    /// Opens, works, and closes in any case; the first error.
    fn with(&self, name: &str, flags: i32, work: impl FnOnce(&drive::Handle) -> Outcome<()>) -> Outcome<()> {
        let file = self.drive.open(&self.path(name), flags)?;
        let done = work(&file);
        let closed = self.drive.close(file);
        done.and(closed)
    }

    fn write(&self, name: &str, flags: i32, content: &[u8]) -> Outcome<()> {
        self.with(name, flags | libc::O_WRONLY, |f| {
            content
                .chunks(self.sizes.chunk)
                .zip(0..)
                .try_for_each(|(c, i)| self.drive.write_at(f, i * self.sizes.chunk as u64, c))
        })
    }
}

/// Names and contents.
type Files = Vec<(&'static str, Vec<u8>)>;

/// Objects there before; what is done.
pub struct Scenario {
    pub name: &'static str,
    pub before: fn(Sizes) -> Files,
    pub run: fn(&Stage<'_>) -> Outcome<()>,
    /// The change is one object: an error of a request that was not carried out leaves everything as it was.
    pub atomic: bool,
    /// Done again after a failure it has the same result.
    pub repeatable: bool,
    /// States a failure may leave besides the old and the new one.
    pub between: fn(Sizes) -> Files,
}

const NEW: i32 = libc::O_CREAT | libc::O_TRUNC;
const PLAIN: Scenario =
    Scenario { name: "", before: |_| vec![], run: |_| Ok(()), atomic: true, repeatable: true, between: |_| vec![] };

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "create_small", run: |s| s.write("f", NEW, &bytes(2, s.sizes.small)), ..PLAIN },
    Scenario { name: "create_empty", run: |s| s.write("f", NEW, b""), ..PLAIN },
    Scenario {
        name: "create_exclusive",
        run: |s| s.write("f", NEW | libc::O_EXCL, &bytes(2, s.sizes.small)),
        // A name that is kept by a file whose store failed is not there any more, one that got there is.
        repeatable: false,
        ..PLAIN
    },
    Scenario {
        name: "create_in_parts",
        // The second half first: nothing to stream.
        run: |s| {
            let all = bytes(3, s.sizes.large);
            let half = all.len() / 2;
            s.with("f", NEW | libc::O_RDWR, |f| {
                s.drive.write_at(f, half as u64, &all[half..])?;
                s.drive.write_at(f, 0, &all[..half])
            })
        },
        ..PLAIN
    },
    Scenario { name: "create_streamed", run: |s| s.write("f", NEW, &bytes(4, s.sizes.streamed)), ..PLAIN },
    Scenario {
        name: "overwrite_small",
        before: |z| vec![("f", bytes(1, z.small + 77))],
        run: |s| s.write("f", NEW, &bytes(2, s.sizes.small)),
        ..PLAIN
    },
    Scenario {
        name: "overwrite_streamed",
        before: |z| vec![("f", bytes(1, z.large))],
        run: |s| s.write("f", NEW, &bytes(5, s.sizes.streamed)),
        ..PLAIN
    },
    Scenario {
        name: "append_small",
        before: |z| vec![("f", bytes(1, z.small))],
        run: |s| s.write("f", libc::O_APPEND, &bytes(2, 500)),
        repeatable: false,
        ..PLAIN
    },
    Scenario {
        name: "append_large",
        before: |z| vec![("f", bytes(1, z.large))],
        run: |s| s.write("f", libc::O_APPEND, &bytes(2, 500)),
        repeatable: false,
        ..PLAIN
    },
    Scenario {
        name: "change_in_the_middle",
        before: |z| vec![("f", bytes(1, z.streamed))],
        run: |s| s.with("f", libc::O_RDWR, |f| s.drive.write_at(f, s.sizes.streamed as u64 / 2, b"changed")),
        ..PLAIN
    },
    Scenario {
        name: "cut_by_path",
        before: |z| vec![("f", bytes(1, z.large))],
        run: |s| s.drive.truncate(&s.path("f"), s.sizes.large as u64 / 2),
        ..PLAIN
    },
    Scenario {
        name: "extend_by_path",
        before: |z| vec![("f", bytes(1, z.small))],
        run: |s| s.drive.truncate(&s.path("f"), s.sizes.large as u64),
        ..PLAIN
    },
    Scenario {
        name: "sync_and_go_on",
        before: |z| vec![("f", bytes(1, z.small))],
        run: |s| {
            s.with("f", libc::O_RDWR, |f| {
                s.drive.write_at(f, 10, b"first")?;
                s.drive.fsync(f)?;
                s.drive.write_at(f, 100, b"second")
            })
        },
        between: |z| {
            let mut one = bytes(1, z.small);
            one[10..15].copy_from_slice(b"first");
            vec![("f", one)]
        },
        atomic: false,
        ..PLAIN
    },
    Scenario {
        name: "punch",
        before: |z| vec![("f", bytes(1, z.large))],
        run: |s| {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            s.with("f", libc::O_RDWR, |f| s.drive.fallocate(f, mode, 1000, s.sizes.large as u64 / 2))
        },
        ..PLAIN
    },
    Scenario {
        name: "rename_small",
        before: |z| vec![("a", bytes(1, z.small))],
        run: |s| s.drive.rename(&s.path("a"), &s.path("b")),
        atomic: false,
        repeatable: false,
        ..PLAIN
    },
    Scenario {
        name: "rename_over",
        before: |z| vec![("a", bytes(1, z.small)), ("b", bytes(2, z.small))],
        run: |s| s.drive.rename(&s.path("a"), &s.path("b")),
        atomic: false,
        repeatable: false,
        ..PLAIN
    },
    Scenario {
        name: "rename_large",
        before: |z| vec![("a", bytes(1, z.large))],
        run: |s| s.drive.rename(&s.path("a"), &s.path("b")),
        atomic: false,
        repeatable: false,
        ..PLAIN
    },
    Scenario {
        name: "rename_being_written",
        before: |z| vec![("a", bytes(1, z.small)), ("b", bytes(2, z.small))],
        run: |s| {
            s.with("a", libc::O_RDWR, |f| {
                s.drive.write_at(f, 10, b"changed")?;
                s.drive.rename(&s.path("a"), &s.path("b"))
            })
        },
        between: |z| {
            let mut changed = bytes(1, z.small);
            changed[10..17].copy_from_slice(b"changed");
            vec![("a", changed)]
        },
        atomic: false,
        repeatable: false,
    },
    Scenario {
        name: "save_by_rename",
        before: |z| vec![("f", bytes(1, z.small))],
        run: |s| {
            s.write("f.new", NEW | libc::O_EXCL, &bytes(2, s.sizes.small))?;
            s.drive.rename(&s.path("f.new"), &s.path("f"))
        },
        between: |z| vec![("f.new", bytes(2, z.small))],
        atomic: false,
        repeatable: false,
    },
    Scenario {
        name: "rename_directory",
        before: |z| {
            let names = ["d/1", "d/2", "d/3", "d/sub/4", "d/sub/5"];
            let mut all: Vec<_> = names.into_iter().zip(1..).map(|(n, i)| (n, bytes(i, z.small))).collect();
            all.extend([("d/", vec![]), ("d/large", bytes(9, z.large))]);
            all
        },
        run: |s| s.drive.rename(&s.path("d"), &s.path("e")),
        atomic: false,
        repeatable: false,
        ..PLAIN
    },
    Scenario {
        name: "unlink",
        before: |z| vec![("f", bytes(1, z.small)), ("other", bytes(2, z.small))],
        run: |s| s.drive.unlink(&s.path("f")),
        repeatable: false,
        ..PLAIN
    },
    Scenario {
        name: "chmod",
        before: |z| vec![("f", bytes(1, z.small))],
        run: |s| {
            s.drive.chmod(&s.path("f"), 0o600)?;
            s.with("f", libc::O_RDONLY, |f| s.drive.fsync(f))
        },
        repeatable: false,
        ..PLAIN
    },
    Scenario { name: "symlink", run: |s| s.drive.symlink("where/it/leads", &s.path("l")), repeatable: false, ..PLAIN },
    Scenario { name: "mkdir", run: |s| s.drive.mkdir(&s.path("made")), repeatable: false, ..PLAIN },
    Scenario {
        name: "rmdir",
        before: |_| vec![("made/", vec![]), ("other", vec![1])],
        run: |s| s.drive.rmdir(&s.path("made")),
        repeatable: false,
        ..PLAIN
    },
    Scenario {
        name: "read_small",
        before: |z| vec![("f", bytes(1, z.small))],
        run: |s| {
            let read = s.drive.read(&s.path("f"))?;
            assert!(read == bytes(1, s.sizes.small), "wrong bytes, and no error");
            Ok(())
        },
        ..PLAIN
    },
    Scenario {
        name: "read_large",
        before: |z| vec![("f", bytes(1, z.streamed))],
        run: |s| {
            let read = s.drive.read(&s.path("f"))?;
            assert!(read == bytes(1, s.sizes.streamed), "wrong bytes, and no error");
            Ok(())
        },
        ..PLAIN
    },
    Scenario {
        name: "list",
        before: |_| vec![("d/1", vec![1]), ("d/2", vec![2]), ("d/sub/3", vec![3]), ("d/z", vec![4])],
        run: |s| {
            let names = s.drive.list(&s.path("d"))?;
            assert_eq!(names, ["1", "2", "sub", "z"], "names are missing, and no error");
            assert_eq!(s.drive.stat(&s.path("d/2"))?.size, 1);
            Ok(())
        },
        ..PLAIN
    },
];

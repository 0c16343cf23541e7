//! What a sequence of operations has to do: the one place that says what is right.
//!
//! 1. A step is taken here first and says what the file system has to answer; a local disk is held to the same answers
//!    (`the_oracle_is_right_about_a_local_disk`), so that it is no opinion of this project.
//! 2. A file without a name may lose bytes that only the store had (R2, R48): ESTALE is allowed there, wrong bytes are
//!    not.
//! 3. For a daemon that is killed it keeps what the bucket may hold: what was closed or synced, and the states since,
//!    each whole (R73).

use std::collections::BTreeMap;
use std::rc::Rc;

/// Xorshift: the same numbers for the same seed on every machine.
pub struct Rng(pub u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n.max(1)
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(n).collect()
    }
}

/// One operation: its name and its numbers, which is also how it is written to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op(pub String, pub Vec<u64>);

impl Op {
    pub fn new(name: &str, numbers: &[u64]) -> Op {
        Op(name.to_owned(), numbers.to_vec())
    }

    pub fn parse(line: &str) -> Option<Op> {
        let mut words = line.split('#').next()?.split_whitespace();
        let name = words.next()?.to_owned();
        Some(Op(name, words.map(|w| w.parse().unwrap_or_else(|_| panic!("a number in {line:?}"))).collect()))
    }
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        self.1.iter().try_for_each(|n| write!(f, " {n}"))
    }
}

pub type Content = Rc<Vec<u8>>;

/// What has to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The operation makes no sense now and is left out.
    Skip,
    Done,
    Errno(i32),
    Bytes(Vec<u8>),
    Copied(usize),
    Size(u64),
    Names(Vec<u64>),
}

#[derive(Default)]
struct Node {
    bytes: Vec<u8>,
    name: Option<u64>,
    /// Changed since it was stored.
    dirty: bool,
    /// Bytes or size were changed through a handle since: any close stores it (R10).
    wrote: bool,
    /// An answer was an allowed error: what it holds is not known.
    broken: bool,
}

struct Slot {
    node: usize,
    flags: i32,
}

impl Slot {
    fn reads(&self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_WRONLY
    }

    fn writes(&self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_RDONLY
    }

    fn appends(&self) -> bool {
        self.flags & libc::O_APPEND != 0
    }
}

#[derive(Default)]
pub struct Oracle {
    nodes: Vec<Node>,
    names: BTreeMap<u64, usize>,
    slots: BTreeMap<u64, Slot>,
    /// What the bucket may hold of each name; kept only for sequences in which the daemon is killed.
    stored: BTreeMap<u64, Vec<Option<Content>>>,
    crashes: bool,
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

/// The bytes a write with this seed writes: its number, then a piece of one long random text, which is made once.
pub fn data(seed: u64, len: u64) -> Vec<u8> {
    static TEXT: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| Rng::new(1).bytes(1 << 20));
    let mut out = Vec::with_capacity(len as usize);
    out.extend_from_slice(&seed.to_le_bytes()[..(len as usize).min(8)]);
    let mut at = (seed as usize * 64) % TEXT.len();
    while out.len() < len as usize {
        let n = (len as usize - out.len()).min(TEXT.len() - at);
        out.extend_from_slice(&TEXT[at..at + n]);
        at = 0;
    }
    out
}

impl Oracle {
    pub fn new(crashes: bool) -> Oracle {
        Oracle { crashes, ..Oracle::default() }
    }

    pub fn content(&self, file: u64) -> Option<&Vec<u8>> {
        self.names.get(&file).map(|n| &self.nodes[*n].bytes)
    }

    pub fn open_slots(&self) -> Vec<u64> {
        self.slots.keys().copied().collect()
    }

    pub fn size_of_slot(&self, slot: u64) -> Option<u64> {
        self.slots.get(&slot).map(|s| self.nodes[s.node].bytes.len() as u64)
    }

    /// Whether an operation on this handle may be answered with an error because the file has no name any more.
    pub fn may_fail(&self, slot: u64) -> bool {
        self.slots.get(&slot).is_some_and(|s| self.nodes[s.node].name.is_none())
    }

    pub fn failed(&mut self, slot: u64) {
        if let Some(s) = self.slots.get(&slot) {
            self.nodes[s.node].broken = true;
        }
    }

    /// What the bucket may hold of `file` when the daemon is killed now.
    pub fn allowed(&self, file: u64) -> Vec<Option<Content>> {
        self.stored.get(&file).cloned().unwrap_or_else(|| vec![None])
    }

    /// After a crash, `found` is what there is.
    pub fn crashed(&mut self, found: BTreeMap<u64, Vec<u8>>) {
        *self = Oracle::new(self.crashes);
        for (file, bytes) in found {
            let node = self.add(file);
            self.stored.insert(file, vec![Some(Rc::new(bytes.clone()))]);
            self.nodes[node] = Node { bytes, name: Some(file), ..Node::default() };
        }
    }

    fn add(&mut self, file: u64) -> usize {
        self.nodes.push(Node { name: Some(file), ..Node::default() });
        self.names.insert(file, self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    fn note(&mut self, file: u64, content: Option<Content>) {
        if self.crashes {
            self.stored.entry(file).or_insert_with(|| vec![None]).push(content);
        }
    }

    fn changed(&mut self, node: usize, wrote: bool) {
        let n = &mut self.nodes[node];
        n.dirty = true;
        n.wrote |= wrote;
        if let Some(file) = n.name.filter(|_| self.crashes) {
            let content = Rc::new(n.bytes.clone());
            self.note(file, Some(content));
        }
    }

    fn durable(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        (n.dirty, n.wrote) = (false, false);
        if let Some(file) = n.name.filter(|_| self.crashes) {
            self.stored.insert(file, vec![Some(Rc::new(n.bytes.clone()))]);
        }
    }

    fn writers(&self, node: usize) -> usize {
        self.slots.values().filter(|s| s.node == node && s.writes()).count()
    }

    fn open(&mut self, slot: u64, file: u64, flags: i32) -> Expect {
        if self.slots.contains_key(&slot) {
            return Expect::Skip;
        }
        let creates = flags & libc::O_CREAT != 0;
        let node = match self.names.get(&file) {
            Some(_) if creates && flags & libc::O_EXCL != 0 => return Expect::Errno(libc::EEXIST),
            Some(node) => *node,
            None if creates => {
                let node = self.add(file);
                self.changed(node, false);
                node
            }
            None => return Expect::Errno(libc::ENOENT),
        };
        if flags & libc::O_TRUNC != 0 && !self.nodes[node].bytes.is_empty() {
            self.nodes[node].bytes.clear();
            self.changed(node, false);
        }
        self.slots.insert(slot, Slot { node, flags });
        Expect::Done
    }

    fn close(&mut self, slot: u64) -> Expect {
        let Some(closed) = self.slots.remove(&slot) else { return Expect::Skip };
        let n = &self.nodes[closed.node];
        if closed.writes() && n.dirty && (n.wrote || self.writers(closed.node) == 0) {
            self.durable(closed.node);
        }
        Expect::Done
    }

    fn rename(&mut self, from: u64, to: u64) -> Expect {
        let Some(node) = self.names.get(&from).copied() else { return Expect::Errno(libc::ENOENT) };
        if from == to {
            return Expect::Done;
        }
        if self.crashes {
            let mut both = self.allowed(from);
            if self.nodes[node].dirty {
                both.extend(self.allowed(to));
            } else {
                both = Vec::new();
            }
            both.push(Some(Rc::new(self.nodes[node].bytes.clone())));
            self.stored.insert(to, both);
            // A file of which nothing is stored yet takes nothing with it.
            let left = if self.nodes[node].dirty { self.allowed(from) } else { Vec::new() };
            self.stored.insert(from, left);
            self.note(from, None);
        }
        if let Some(replaced) = self.names.insert(to, node) {
            self.nodes[replaced].name = None;
        }
        self.names.remove(&from);
        self.nodes[node].name = Some(to);
        Expect::Done
    }

    /// Takes the step and says what has to be answered.
    pub fn step(&mut self, op: &Op) -> Expect {
        // A handle that exists, of a file that is known.
        let live = |me: &Oracle, slot: u64| me.slots.get(&slot).map(|s| s.node).filter(|n| !me.nodes[*n].broken);
        match (op.0.as_str(), &op.1[..]) {
            ("open", &[slot, file, flags]) => self.open(slot, file, flags as i32),
            ("close", &[slot]) => self.close(slot),
            ("read", &[slot, at, len]) => match live(self, slot) {
                Some(node) if self.slots[&slot].reads() => {
                    let bytes = &self.nodes[node].bytes;
                    let start = (at as usize).min(bytes.len());
                    Expect::Bytes(bytes[start..(start + len as usize).min(bytes.len())].to_vec())
                }
                _ => Expect::Skip,
            },
            ("write", &[slot, at, len, seed]) => match live(self, slot) {
                Some(node) if self.slots[&slot].writes() => {
                    let bytes = &mut self.nodes[node].bytes;
                    let at = if self.slots[&slot].appends() { bytes.len() } else { at as usize };
                    put(bytes, at, &data(seed, len));
                    self.changed(node, true);
                    Expect::Done
                }
                _ => Expect::Skip,
            },
            ("map", &[slot, at, len, seed]) => match live(self, slot) {
                Some(node)
                    if self.slots[&slot].flags & libc::O_ACCMODE == libc::O_RDWR
                        && !self.slots[&slot].appends()
                        && self.nodes[node].name.is_some()
                        && at + len <= self.nodes[node].bytes.len() as u64
                        && len > 0 =>
                {
                    put(&mut self.nodes[node].bytes, at as usize, &data(seed, len));
                    self.changed(node, true);
                    self.durable(node);
                    Expect::Done
                }
                _ => Expect::Skip,
            },
            ("size", &[slot, size]) => match live(self, slot) {
                Some(node) if self.slots[&slot].writes() => {
                    self.nodes[node].bytes.resize(size as usize, 0);
                    self.changed(node, true);
                    Expect::Done
                }
                _ => Expect::Skip,
            },
            ("allocate", &[slot, mode, at, len]) => match live(self, slot) {
                Some(node) if self.slots[&slot].writes() && len > 0 => {
                    let (mode, bytes) = (mode as i32, &mut self.nodes[node].bytes);
                    if mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0 {
                        let end = ((at + len) as usize).min(bytes.len());
                        bytes[(at as usize).min(end)..end].fill(0);
                    }
                    if mode & libc::FALLOC_FL_KEEP_SIZE == 0 && bytes.len() < (at + len) as usize {
                        bytes.resize((at + len) as usize, 0);
                    }
                    self.changed(node, true);
                    Expect::Done
                }
                _ => Expect::Skip,
            },
            ("copy", &[slot, at, to, to_at, len]) => {
                let (Some(node), Some(target)) = (live(self, slot), live(self, to)) else { return Expect::Skip };
                let size = self.nodes[node].bytes.len() as u64;
                let n = len.min(size.saturating_sub(at));
                let meets = node == target && at < to_at + len && to_at < at + len;
                let (from, into) = (&self.slots[&slot], &self.slots[&to]);
                // One that ends in the middle of an error would leave a part of it.
                let nameless = self.nodes[node].name.is_none() || self.nodes[target].name.is_none();
                if !from.reads() || !into.writes() || into.appends() || meets || n == 0 || nameless {
                    return Expect::Skip;
                }
                let bytes = self.nodes[node].bytes[at as usize..(at + n) as usize].to_vec();
                put(&mut self.nodes[target].bytes, to_at as usize, &bytes);
                self.changed(target, true);
                Expect::Copied(n as usize)
            }
            ("sync", &[slot]) => match live(self, slot) {
                Some(node) => {
                    if self.nodes[node].dirty {
                        self.durable(node);
                    }
                    Expect::Done
                }
                None => Expect::Skip,
            },
            ("truncate", &[file, size]) => match self.names.get(&file).copied() {
                Some(node) => {
                    self.nodes[node].bytes.resize(size as usize, 0);
                    self.changed(node, true);
                    if self.writers(node) == 0 {
                        self.durable(node);
                    }
                    Expect::Done
                }
                None => Expect::Errno(libc::ENOENT),
            },
            ("rename", &[from, to]) => self.rename(from, to),
            ("unlink", &[file]) => match self.names.remove(&file) {
                Some(node) => {
                    self.nodes[node].name = None;
                    self.note(file, None);
                    Expect::Done
                }
                None => Expect::Errno(libc::ENOENT),
            },
            ("mode", &[file, _]) if !self.names.contains_key(&file) => Expect::Errno(libc::ENOENT),
            ("mode", _) => Expect::Done,
            ("look", &[file]) => match self.content(file) {
                Some(bytes) => Expect::Bytes(bytes.clone()),
                None => Expect::Errno(libc::ENOENT),
            },
            ("stat", &[file]) => match self.content(file) {
                Some(bytes) => Expect::Size(bytes.len() as u64),
                None => Expect::Errno(libc::ENOENT),
            },
            ("list", []) => Expect::Names(self.names.keys().copied().collect()),
            // The runner closes everything first; then the bucket has it all.
            ("remount" | "kill", []) => Expect::Done,
            _ => panic!("no such operation: {op}"),
        }
    }

    /// The mount ended in order, with nothing open: the bucket has just this.
    pub fn remounted(&mut self) {
        self.stored.clear();
        for node in self.names.values().copied().collect::<Vec<_>>() {
            self.durable(node);
        }
    }
}

/// Where sequences go.
#[derive(Clone, Copy)]
pub struct Scale {
    pub files: u64,
    pub slots: u64,
    /// Offsets are mostly below this.
    pub offsets: u64,
    pub sizes: &'static [u64],
    pub remounts: bool,
    pub kills: bool,
}

const FALLOCATE: &[i32] = &[
    0,
    libc::FALLOC_FL_KEEP_SIZE,
    libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
    libc::FALLOC_FL_ZERO_RANGE,
    libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
];

/// A sequence of operations, most of which make sense when they come.
pub fn generate(seed: u64, count: usize, scale: &Scale) -> Vec<Op> {
    use libc::{O_APPEND, O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};
    let mut rng = Rng::new(seed);
    for _ in 0..10 {
        rng.next();
    }
    let mut oracle = Oracle::new(false);
    let mut ops = Vec::new();
    // Some sequences write mostly in order, so that files are sent while they are written.
    let in_order = rng.below(3) == 0;
    while ops.len() < count {
        let file = rng.below(scale.files);
        let open = oracle.open_slots();
        let slot = if open.is_empty() { 0 } else { rng.pick(&open) };
        let size = oracle.size_of_slot(slot).unwrap_or(0);
        // Mostly inside, sometimes past the end.
        let at = if rng.below(8) == 0 { size + rng.below(scale.offsets / 8) } else { rng.below(size + 1) };
        let at = at.min(scale.offsets * 2);
        let len = rng.pick(scale.sizes);
        let seed = rng.below(1 << 30);
        let op = match rng.below(100) {
            0..14 => {
                let flags = match rng.below(12) {
                    0..3 => O_RDWR | O_CREAT,
                    3..5 => O_RDWR,
                    5 => O_RDONLY,
                    6 => O_WRONLY | O_CREAT | O_TRUNC,
                    7 => O_RDWR | O_CREAT | O_TRUNC,
                    8 => O_RDWR | O_CREAT | O_EXCL,
                    9 => O_WRONLY | O_APPEND | O_CREAT,
                    10 => O_RDWR | O_APPEND,
                    _ => O_WRONLY | O_CREAT,
                };
                Op::new("open", &[rng.below(scale.slots), file, flags as u64])
            }
            14..36 => Op::new("write", &[slot, if in_order { size } else { at }, len, seed]),
            36..48 => Op::new("read", &[slot, at, len]),
            48..52 => Op::new("map", &[slot, at.min(size.saturating_sub(len)), len.min(size), seed]),
            52..56 => Op::new("size", &[slot, rng.below(scale.offsets)]),
            56..60 => Op::new("allocate", &[slot, rng.pick(FALLOCATE) as u64, at, len]),
            60..64 if !open.is_empty() => {
                let to = rng.pick(&open);
                let to_at = rng.below(oracle.size_of_slot(to).unwrap_or(0) + 1);
                Op::new("copy", &[slot, at, to, to_at, len])
            }
            64..68 => Op::new("sync", &[slot]),
            68..76 => Op::new("close", &[slot]),
            76..79 => Op::new("truncate", &[file, rng.below(scale.offsets / 2)]),
            79..83 => Op::new("rename", &[file, rng.below(scale.files)]),
            83..86 => Op::new("unlink", &[file]),
            86..88 => Op::new("mode", &[file, rng.pick(&[0o600, 0o640, 0o755])]),
            88..92 => Op::new("look", &[file]),
            92..95 => Op::new("stat", &[file]),
            95 => Op::new("list", &[]),
            96..98 if scale.remounts => Op::new("remount", &[]),
            98..100 if scale.kills => Op::new("kill", &[]),
            _ => continue,
        };
        let end = ["remount", "kill"].contains(&op.0.as_str());
        if end {
            for slot in oracle.open_slots() {
                oracle.step(&Op::new("close", &[slot]));
            }
        }
        // Some that make no sense stay: a shrunk sequence has them, too.
        if oracle.step(&op) != Expect::Skip || rng.below(20) == 0 {
            ops.push(op);
        }
    }
    ops
}

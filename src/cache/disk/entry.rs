//! One version of an object on the disk: its bytes where they are in the object, and sums that vouch for them.
//!
//! 1. The file of the bytes is the object and nothing else, so that the kernel can read it in place of the mount. Blocks
//!    that are not here are holes. Only an object of a single block has its sum behind it, to cost one file and not two.
//! 2. A sum is the CRC-32C of a block's bytes and one of itself, bound to block and version. Nothing is synced: after a
//!    crash, or on a disk that rots, a block whose bytes and sum do not fit is one that is not here.
//! 3. All who have a version write the same bytes to the same place. So nobody has to be kept out: not other threads,
//!    not the daemon of another mount on the same directory.

use std::fmt::Write;
use std::fs::{File, FileTimes};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::place::{Place, SUMS};
use crate::cache::{BLOCK, BlockBuffer, block_len};
use crate::s3::ObjectId;

/// Bytes of one sum.
const SUM: u64 = 8;
/// How exact "last used" is.
const TOUCH: Duration = Duration::from_secs(60);

/// CRC-32C.
fn crc(bytes: &[u8]) -> u32 {
    // A CRC32 is in the lower half.
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// A version of an object as the disk knows it.
#[derive(Debug, PartialEq, Eq)]
pub struct Version {
    /// 64 hexadecimal digits.
    pub(super) name: String,
    pub(super) size: u64,
    /// The first half of the name.
    short: [u8; 16],
}

impl Version {
    /// `store`: what tells apart the buckets that share a directory. `None` for what is not kept: nothing, and what has
    /// no ETag.
    pub(super) fn of(store: &str, id: &ObjectId, size: u64) -> Option<Arc<Version>> {
        if size == 0 || id.etag.as_str().is_empty() {
            return None;
        }
        let mut hash = Sha256::new();
        // The version id is not among them: listings do not tell it, and the bytes of an ETag are the same in all.
        for field in [store, id.key.as_str(), id.etag.as_str()] {
            hash.update((field.len() as u64).to_le_bytes());
            hash.update(field);
        }
        hash.update(size.to_le_bytes());
        let (mut name, mut short) = (String::with_capacity(64), [0; 16]);
        for (n, byte) in hash.finalize().into_iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = write!(name, "{byte:02x}");
            if let Some(place) = short.get_mut(n) {
                *place = byte;
            }
        }
        Some(Arc::new(Version { name, size, short }))
    }

    pub(super) fn blocks(&self) -> u64 {
        self.size.div_ceil(BLOCK as u64)
    }

    pub(super) fn len(&self, index: u64) -> usize {
        block_len(index, self.size)
    }

    /// Whether its sums are a file of their own.
    pub(super) fn has_sums_file(&self) -> bool {
        self.blocks() > 1
    }

    /// The bytes that vouch for block `index` whose CRC is `crc`.
    pub(super) fn seal(&self, index: u64, crc: u32) -> [u8; SUM as usize] {
        let mut sealed = [0; SUM as usize];
        sealed[..4].copy_from_slice(&crc.to_le_bytes());
        sealed[4..].copy_from_slice(&self.mark(index, crc).to_le_bytes());
        sealed
    }

    fn mark(&self, index: u64, crc: u32) -> u32 {
        let mut text = [0; 28];
        text[..16].copy_from_slice(&self.short);
        text[16..24].copy_from_slice(&index.to_le_bytes());
        text[24..].copy_from_slice(&crc.to_le_bytes());
        self::crc(&text)
    }

    fn unseal(&self, index: u64, sealed: &[u8]) -> Option<u32> {
        let (crc, mark) = sealed.split_at_checked(4)?;
        let crc = u32::from_le_bytes(crc.try_into().ok()?);
        let mark = u32::from_le_bytes(mark.try_into().ok()?);
        (mark == self.mark(index, crc)).then_some(crc)
    }
}

/// A set of blocks.
#[derive(Debug, Default)]
struct Blocks {
    bits: Vec<u64>,
    count: u64,
}

impl Blocks {
    fn has(&self, index: u64) -> bool {
        self.bits.get((index / 64) as usize).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    fn add(&mut self, index: u64) {
        let at = (index / 64) as usize;
        if self.bits.len() <= at {
            self.bits.resize(at + 1, 0);
        }
        self.count += u64::from(!self.has(index));
        self.bits[at] |= 1 << (index % 64);
    }

    fn remove(&mut self, index: u64) {
        if self.has(index) {
            self.count -= 1;
            self.bits[(index / 64) as usize] &= !(1 << (index % 64));
        }
    }
}

/// What is known of the blocks of an open entry.
#[derive(Debug, Default)]
struct Known {
    /// Have a sum.
    here: Blocks,
    /// Were read from the disk by this process, and their sums fit.
    checked: Blocks,
}

/// What became of a block that was looked for.
pub(super) enum Look {
    Here,
    Absent,
    /// It has a sum, which does not fit.
    Damaged,
}

/// An open version.
pub(super) struct Entry {
    pub version: Arc<Version>,
    pub data: Arc<File>,
    pub inode: u64,
    sums: Option<File>,
    known: Mutex<Known>,
    /// When "last used" was written down, seconds since 1970.
    touched: AtomicU64,
    /// Every block was checked by this process since it is whole.
    verified: AtomicBool,
}

impl Entry {
    /// What is on the disk. Errors: [`io::ErrorKind::NotFound`].
    pub fn open(place: &Place, version: &Arc<Version>, create: bool) -> io::Result<Entry> {
        let data = place.file(&version.name, create)?;
        // The file of bytes was made first, so sums may be missing.
        let make = || place.file(&format!("{}{SUMS}", version.name), create);
        let sums = if version.has_sums_file() { Some(make()?) } else { None };
        if create && data.metadata()?.len() < version.size {
            data.set_len(version.size)?;
        }
        let entry = Entry {
            version: version.clone(),
            inode: data.metadata()?.ino(),
            data: Arc::new(data),
            sums,
            known: Mutex::default(),
            touched: AtomicU64::new(0),
            verified: AtomicBool::new(false),
        };
        entry.learn()?;
        Ok(entry)
    }

    fn sum_place(&self, index: u64) -> (&File, u64) {
        match &self.sums {
            Some(sums) => (sums, index * SUM),
            None => (&*self.data, self.version.size + index * SUM),
        }
    }

    /// The CRCs of the blocks `indexes` as far as they are here.
    fn sums(&self, indexes: Range<u64>) -> io::Result<Vec<Option<u32>>> {
        let (file, at) = self.sum_place(indexes.start);
        let count = (indexes.end - indexes.start) as usize;
        let mut bytes = vec![0; count * SUM as usize];
        let mut got = 0;
        while got < bytes.len() {
            match file.read_at(&mut bytes[got..], at + got as u64)? {
                0 => break,
                n => got += n,
            }
        }
        Ok(indexes.zip(bytes.chunks_exact(SUM as usize)).map(|(i, s)| self.version.unseal(i, s)).collect())
    }

    /// Which blocks are here, so that it shows when the last one comes.
    fn learn(&self) -> io::Result<()> {
        const STEP: u64 = 8192;
        let mut at = 0;
        while at < self.version.blocks() {
            let end = (at + STEP).min(self.version.blocks());
            let sums = self.sums(at..end)?;
            let mut known = self.known.lock();
            (at..end).zip(&sums).filter(|(_, sum)| sum.is_some()).for_each(|(index, _)| known.here.add(index));
            at = end;
        }
        Ok(())
    }

    /// Whether nobody has taken its name away.
    pub fn is_named(&self) -> bool {
        self.data.metadata().is_ok_and(|m| m.nlink() > 0)
    }

    /// Bytes that it takes on the disk.
    pub fn bytes(&self) -> u64 {
        let of = |file: &File| file.metadata().map_or(0, |m| m.blocks() * 512);
        of(&self.data) + self.sums.as_ref().map_or(0, of)
    }

    /// Writes down that it was used, once a minute at most. Best effort: it only decides what is given up first.
    pub fn touch(&self) {
        let now = SystemTime::now();
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        if seconds.saturating_sub(self.touched.load(Ordering::Relaxed)) >= TOUCH.as_secs() {
            self.touched.store(seconds, Ordering::Relaxed);
            let _ = self.data.set_times(FileTimes::new().set_modified(now));
        }
    }

    /// Has the disk begin to read the blocks `indexes`.
    pub fn announce(&self, indexes: Range<u64>) {
        let start = indexes.start * BLOCK as u64;
        let len = std::num::NonZeroU64::new((indexes.end - indexes.start) * BLOCK as u64);
        let _ = rustix::fs::fadvise(&self.data, start, len, rustix::fs::Advice::WillNeed);
    }

    /// Reads those of the blocks `indexes` that are here, each into a buffer that `buffer` gives for its length.
    pub fn read(
        &self,
        indexes: Range<u64>,
        buffer: &mut dyn FnMut(usize) -> BlockBuffer,
    ) -> io::Result<Vec<(Look, Option<Bytes>)>> {
        let sums = self.sums(indexes.clone())?;
        let mut found = Vec::with_capacity(sums.len());
        for (index, sum) in indexes.zip(sums) {
            let Some(sum) = sum else {
                found.push((Look::Absent, None));
                continue;
            };
            let mut block = buffer(self.version.len(index));
            let read = block.fill_from(&self.data, index * BLOCK as u64);
            match read {
                Ok(()) if crc(block.as_ref()) == sum => {
                    self.note_checked(index);
                    found.push((Look::Here, Some(block.freeze())));
                }
                Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => return Err(e),
                // Other bytes than it had, or cut short.
                _ => {
                    self.doubt(index);
                    found.push((Look::Damaged, None));
                }
            }
        }
        Ok(found)
    }

    fn note_checked(&self, index: u64) {
        let mut known = self.known.lock();
        known.here.add(index);
        known.checked.add(index);
        if known.checked.count == self.version.blocks() {
            self.verified.store(true, Ordering::Release);
        }
    }

    /// Block `index` is not what was written: it has to come again.
    fn doubt(&self, index: u64) {
        let mut known = self.known.lock();
        known.here.remove(index);
        known.checked.remove(index);
        self.verified.store(false, Ordering::Release);
    }

    /// Writes adjacent blocks, `first` being the number of the first one: bytes before sums.
    pub fn write(&self, first: u64, blocks: &[Bytes]) -> io::Result<()> {
        let mut sums = Vec::with_capacity(blocks.len() * SUM as usize);
        for (index, block) in (first..).zip(blocks) {
            self.data.write_all_at(block, index * BLOCK as u64)?;
            sums.extend(self.version.seal(index, crc(block)));
        }
        let (file, at) = self.sum_place(first);
        file.write_all_at(&sums, at)?;
        let mut known = self.known.lock();
        (first..first + blocks.len() as u64).for_each(|index| known.here.add(index));
        Ok(())
    }

    /// Makes it `version`, which has the same bytes: other sums, then the other name. `spare` is a name for a file that
    /// comes in.
    pub fn become_version(&self, place: &Place, version: &Version, spare: &str) -> io::Result<()> {
        let seal = |first: u64, crcs: Vec<Option<u32>>, file: &File, at: u64| -> io::Result<()> {
            let sealed = (first..).zip(crcs).flat_map(|(n, crc)| crc.map_or([0; SUM as usize], |c| version.seal(n, c)));
            file.write_all_at(&sealed.collect::<Vec<u8>>(), at + first * SUM)
        };
        if self.sums.is_none() {
            seal(0, self.sums(0..1)?, &self.data, self.version.size)?;
            return place.rename(&self.version.name, &version.name);
        }
        const STEP: u64 = 8192;
        let file = place.incoming(spare)?;
        let mut at = 0;
        while at < version.blocks() {
            let end = (at + STEP).min(version.blocks());
            seal(at, self.sums(at..end)?, &file, 0)?;
            at = end;
        }
        place.arrive(spare, &format!("{}{SUMS}", version.name))?;
        place.rename(&self.version.name, &version.name)?;
        place.remove(&format!("{}{SUMS}", self.version.name))
    }

    /// Every block is here.
    pub fn is_whole(&self) -> bool {
        self.known.lock().here.count == self.version.blocks()
    }

    /// Every block is here, and was read by this process with the right sum.
    pub fn is_verified(&self) -> bool {
        self.verified.load(Ordering::Acquire)
    }

    /// As [`Entry::verify`], which was done before on the same file.
    pub fn set_verified(&self) {
        self.verified.store(true, Ordering::Release);
    }

    /// Reads every block that was not read yet; says whether all are as they should be. `go_on` ends it early.
    pub fn verify(&self, go_on: &dyn Fn() -> bool) -> io::Result<bool> {
        const STEP: u64 = 64;
        let mut bytes = vec![0; BLOCK];
        let mut at = 0;
        while at < self.version.blocks() {
            let end = (at + STEP).min(self.version.blocks());
            for (index, sum) in (at..end).zip(self.sums(at..end)?) {
                if self.known.lock().checked.has(index) {
                    continue;
                }
                let len = self.version.len(index);
                let fits = match self.data.read_exact_at(&mut bytes[..len], index * BLOCK as u64) {
                    Ok(()) => sum == Some(crc(&bytes[..len])),
                    Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => false,
                    Err(e) => return Err(e),
                };
                if !fits {
                    self.doubt(index);
                    return Ok(false);
                }
                self.note_checked(index);
            }
            if !go_on() {
                return Ok(false);
            }
            at = end;
        }
        Ok(self.is_verified())
    }
}

/// Bytes on their way to the store, of a version that gets its ETag at the end.
pub(super) struct Incoming {
    pub name: String,
    data: File,
    /// CRC of each block that is here.
    sums: Mutex<Vec<(u64, u32)>>,
}

impl Incoming {
    pub fn new(place: &Place, name: String) -> io::Result<Incoming> {
        Ok(Incoming { data: place.incoming(&name)?, name, sums: Mutex::default() })
    }

    /// Bytes that it takes on the disk.
    pub fn bytes(&self) -> u64 {
        self.data.metadata().map_or(0, |m| m.blocks() * 512)
    }

    pub fn write(&self, index: u64, block: &Bytes) -> io::Result<()> {
        self.data.write_all_at(block, index * BLOCK as u64)?;
        self.sums.lock().push((index, crc(block)));
        Ok(())
    }

    /// Makes it `version`, if that has any of its blocks.
    pub fn arrive(&self, place: &Place, version: &Version) -> io::Result<()> {
        let sums = self.sums.lock();
        if sums.is_empty() || !version.has_sums_file() {
            return place.remove_incoming(&self.name);
        }
        self.data.set_len(version.size)?;
        let name = format!("{}{SUMS}", self.name);
        let file = place.incoming(&name)?;
        file.set_len(version.blocks() * SUM)?;
        for (index, crc) in sums.iter().filter(|(index, _)| *index < version.blocks()) {
            file.write_all_at(&version.seal(*index, *crc), index * SUM)?;
        }
        place.arrive(&self.name, &version.name)?;
        place.arrive(&name, &format!("{}{SUMS}", version.name))
    }
}

//! The directory store: what a server keeps over a restart.
//!
//! 1. Keys never become path components: a record is one JSON file named by the hash of what it describes, the
//!    content lies in data files named by a number.
//! 2. A crash between two steps: data is synced before the record that names it, a record replaces its predecessor
//!    by rename, and data files that no record names are removed at the next start.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use super::data::{Data, Piece, read_at};

pub(super) struct Disk {
    root: PathBuf,
    next: AtomicU64,
    temporary: AtomicU64,
}

/// A file with content. Removed when nothing refers to it any more, but not when the store goes away.
pub(super) struct DataFile {
    id: u64,
    file: File,
    disk: Weak<Disk>,
}

impl DataFile {
    pub fn read(&self, offset: u64, len: u64) -> io::Result<Bytes> {
        read_at(&self.file, offset, len)
    }
}

impl Drop for DataFile {
    fn drop(&mut self) {
        if let Some(disk) = self.disk.upgrade()
            && let Err(e) = fs::remove_file(disk.data_path(self.id))
        {
            tracing::debug!(id = self.id, "remove data file: {e}");
        }
    }
}

/// A piece as a record names it.
#[derive(Serialize, Deserialize)]
pub(super) enum PieceRecord {
    File { id: u64, offset: u64, len: u64 },
    Synthetic { seed: u64, offset: u64, len: u64 },
}

/// One directory of records.
#[derive(Clone, Copy)]
pub(super) enum Table {
    Buckets,
    Versions,
    Uploads,
    Parts,
}

impl Table {
    const ALL: [Table; 4] = [Table::Buckets, Table::Versions, Table::Uploads, Table::Parts];

    fn dir(self) -> &'static str {
        match self {
            Table::Buckets => "buckets",
            Table::Versions => "versions",
            Table::Uploads => "uploads",
            Table::Parts => "parts",
        }
    }
}

impl Disk {
    pub fn open(root: &Path) -> io::Result<Arc<Disk>> {
        for table in Table::ALL {
            fs::create_dir_all(root.join(table.dir()))?;
        }
        fs::create_dir_all(root.join("data"))?;
        let mut next = 0;
        for entry in fs::read_dir(root.join("data"))? {
            let name = entry?.file_name();
            if let Some(id) = name.to_str().and_then(|n| u64::from_str_radix(n, 16).ok()) {
                next = next.max(id + 1);
            }
        }
        Ok(Arc::new(Disk { root: root.to_owned(), next: AtomicU64::new(next), temporary: AtomicU64::new(0) }))
    }

    fn data_path(&self, id: u64) -> PathBuf {
        self.root.join("data").join(format!("{id:016x}"))
    }

    /// A new empty data file, to be written by the caller and turned into a piece by [`Disk::finish`].
    pub fn create(self: &Arc<Self>) -> io::Result<Arc<DataFile>> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let file = File::options().read(true).write(true).create_new(true).open(self.data_path(id))?;
        Ok(Arc::new(DataFile { id, file, disk: Arc::downgrade(self) }))
    }

    /// Syncs what was written and gives the piece for it.
    pub fn finish(file: Arc<DataFile>, len: u64) -> io::Result<Data> {
        file.file.sync_all()?;
        Ok(Data::new(vec![Piece::File { file, offset: 0, len }]))
    }

    fn record_path(&self, table: Table, name: &[&str]) -> PathBuf {
        let mut hash = Sha1::new();
        for part in name {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        let hex: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        self.root.join(table.dir()).join(format!("{hex}.json"))
    }

    /// Writes the record or replaces it.
    pub fn save(&self, table: Table, name: &[&str], record: &impl Serialize) -> io::Result<()> {
        let path = self.record_path(table, name);
        let temporary = self.root.join(format!("record-{}.tmp", self.temporary.fetch_add(1, Ordering::Relaxed)));
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        self.sync_dir(table)
    }

    pub fn remove(&self, table: Table, name: &[&str]) -> io::Result<()> {
        match fs::remove_file(self.record_path(table, name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => self.sync_dir(table),
        }
    }

    fn sync_dir(&self, table: Table) -> io::Result<()> {
        File::open(self.root.join(table.dir()))?.sync_all()
    }

    pub fn load<T: DeserializeOwned>(&self, table: Table) -> io::Result<Vec<T>> {
        let mut out = Vec::new();
        for entry in fs::read_dir(self.root.join(table.dir()))? {
            let path = entry?.path();
            let text = fs::read(&path)?;
            out.push(
                serde_json::from_slice(&text)
                    .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {e}", path.display())))?,
            );
        }
        Ok(out)
    }

    pub fn record(data: &Data) -> Vec<PieceRecord> {
        let pieces = data.pieces().iter();
        pieces
            .filter_map(|p| match p {
                Piece::File { file, offset, len } => {
                    Some(PieceRecord::File { id: file.id, offset: *offset, len: *len })
                }
                Piece::Synthetic { seed, offset, len } => {
                    Some(PieceRecord::Synthetic { seed: *seed, offset: *offset, len: *len })
                }
                // A store with a directory has no pieces in memory: `Store::keep` writes every body to a file.
                Piece::Memory(_) => None,
            })
            .collect()
    }

    /// The opposite of [`Disk::record`]; `open` holds the files that are open already.
    pub fn data(
        self: &Arc<Self>,
        records: &[PieceRecord],
        open: &mut std::collections::HashMap<u64, Arc<DataFile>>,
    ) -> io::Result<Data> {
        let mut pieces = Vec::new();
        for record in records {
            pieces.push(match *record {
                PieceRecord::Synthetic { seed, offset, len } => Piece::Synthetic { seed, offset, len },
                PieceRecord::File { id, offset, len } => {
                    let file = match open.get(&id) {
                        Some(file) => file.clone(),
                        None => {
                            let file = File::open(self.data_path(id))?;
                            let file = Arc::new(DataFile { id, file, disk: Arc::downgrade(self) });
                            open.insert(id, file.clone());
                            file
                        }
                    };
                    Piece::File { file, offset, len }
                }
            });
        }
        Ok(Data::new(pieces))
    }

    /// Removes the data files that no record names, and unfinished records.
    pub fn collect(&self, used: &HashSet<u64>) -> io::Result<()> {
        for entry in fs::read_dir(self.root.join("data"))? {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(|n| u64::from_str_radix(n, 16).ok());
            if id.is_some_and(|id| !used.contains(&id)) {
                fs::remove_file(entry.path())?;
            }
        }
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "tmp") {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

impl DataFile {
    pub fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.file, bytes, offset)
    }
}

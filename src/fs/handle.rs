//! What the kernel's file handles stand for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::inode::Inode;
use super::listing::DirHandle;
use super::through::Offer;
use super::users::Users;
use crate::error::{Error, Kind, Result};
use crate::read::Reader;

/// A handle number, unique for the life of the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fh(pub u64);

pub struct FileHandle {
    pub inode: Arc<Inode>,
    pub read: bool,
    pub write: bool,
    /// Who opened it and who writes through it.
    pub users: Users,
    /// The version this handle reads; `None` while there is a writer. Replaced only by a version this mount made.
    reader: Mutex<Option<Arc<Reader>>>,
    pub(super) offer: Offer,
}

impl FileHandle {
    pub fn new(inode: Arc<Inode>, read: bool, write: bool, reader: Option<Reader>) -> Arc<FileHandle> {
        let reader = Mutex::new(reader.map(Arc::new));
        Arc::new(FileHandle { inode, read, write, users: Users::default(), reader, offer: Offer::default() })
    }

    pub fn reader(&self) -> Option<Arc<Reader>> {
        self.reader.lock().clone()
    }

    pub fn set_reader(&self, reader: Option<Reader>) {
        *self.reader.lock() = reader.map(Arc::new);
    }
}

#[derive(Clone)]
enum Handle {
    File(Arc<FileHandle>),
    Dir(Arc<DirHandle>),
}

#[derive(Default)]
pub struct Handles {
    open: RwLock<HashMap<u64, Handle>>,
    last: AtomicU64,
}

impl Handles {
    fn insert(&self, handle: Handle) -> Fh {
        let fh = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.write().insert(fh, handle);
        Fh(fh)
    }

    pub fn insert_file(&self, handle: Arc<FileHandle>) -> Fh {
        self.insert(Handle::File(handle))
    }

    pub fn insert_dir(&self, handle: Arc<DirHandle>) -> Fh {
        self.insert(Handle::Dir(handle))
    }

    /// Errors: [`Kind::BadHandle`] (EBADF).
    pub fn file(&self, fh: Fh) -> Result<Arc<FileHandle>> {
        match self.open.read().get(&fh.0) {
            Some(Handle::File(h)) => Ok(h.clone()),
            _ => Err(Error::new(Kind::BadHandle, "not an open file")),
        }
    }

    /// Errors: [`Kind::BadHandle`] (EBADF).
    pub fn dir(&self, fh: Fh) -> Result<Arc<DirHandle>> {
        match self.open.read().get(&fh.0) {
            Some(Handle::Dir(h)) => Ok(h.clone()),
            _ => Err(Error::new(Kind::BadHandle, "not an open directory")),
        }
    }

    pub fn remove_file(&self, fh: Fh) -> Result<Arc<FileHandle>> {
        let handle = self.file(fh)?;
        self.open.write().remove(&fh.0);
        Ok(handle)
    }

    pub fn remove_dir(&self, fh: Fh) {
        self.open.write().remove(&fh.0);
    }

    pub fn len(&self) -> usize {
        self.open.read().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

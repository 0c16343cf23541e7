//! Passthrough: opened files that the kernel reads from a file of the disk cache.
//!
//! What the kernel asks for is in [`crate::fs::through`]; here is what only the FUSE library can do. Making a file known
//! to the kernel takes CAP_SYS_ADMIN in the initial user namespace; the first refusal is the last attempt.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{BackingId, FileHandle, FopenFlags, InitFlags, KernelConfig, ReplyOpen};
use tokio::runtime::Handle;
use tracing::info;

use crate::fs::file::Opened;
use crate::fs::through::{Backing, Mode};
use crate::fs::{Fh, Fs};

use super::reply::{errno, log, reply_opened};

/// Whether the kernel reads through.
#[derive(Default)]
pub(super) struct Through {
    possible: AtomicBool,
}

impl Through {
    /// Answers the kernel's greeting.
    pub fn greet(&self, config: &mut KernelConfig) {
        // Files of the cache are on a plain file system, and this one may be below an overlay: one level each.
        let able =
            config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok() && config.set_max_stack_depth(1).is_ok();
        self.possible.store(able, Ordering::Relaxed);
        if !able {
            info!("this kernel does not read from the disk cache by itself (passthrough)");
        }
    }

    fn back(&self, reply: &ReplyOpen, file: &File) -> Option<Backing> {
        if !self.possible.load(Ordering::Relaxed) {
            return None;
        }
        match reply.open_backing(file) {
            Ok(id) => Some(Arc::new(id)),
            Err(e) => {
                if self.possible.swap(false, Ordering::Relaxed) {
                    info!("the kernel does not read from the disk cache by itself (passthrough): {e}");
                }
                None
            }
        }
    }

    /// Answers an open. `direct`: with O_DIRECT, whose rules are those of the disk then.
    pub fn reply_opened(&self, fs: &Arc<Fs>, runtime: &Handle, reply: ReplyOpen, opened: Opened, direct: bool) {
        match fs.choose_mode(&opened, !direct, |file| self.back(&reply, file)) {
            Ok(Mode::Kernel(backing)) => match backing.downcast_ref::<BackingId>() {
                // Only readers are here: close(2) has nothing to ask.
                Some(id) => reply.opened_passthrough(FileHandle(opened.fh.0), FopenFlags::FOPEN_NOFLUSH, id),
                None => reply.error(fuser::Errno::EIO),
            },
            Ok(Mode::Daemon) => reply_opened(reply, opened),
            Err(e) => {
                log("open", &e);
                reply.error(errno(&e));
                close(fs, runtime, opened.fh);
            }
        }
    }
}

/// Closes a handle that the kernel never got.
pub(super) fn close(fs: &Arc<Fs>, runtime: &Handle, fh: Fh) {
    let Ok(closed) = fs.close_handle(fh) else { return };
    let fs = fs.clone();
    runtime.spawn(async move {
        if let Err(e) = fs.released(closed).await {
            log("release", &e);
        }
    });
}

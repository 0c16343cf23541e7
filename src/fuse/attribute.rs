//! Requests for extended attributes.

use std::ffi::OsStr;
use std::sync::Arc;

use fuser::{Errno, INodeNo, ReplyEmpty, ReplyXattr};

use crate::fs::{Fs, Ino};

use super::adapter::Adapter;
use super::reply::{errno, reply_sized};

impl Adapter {
    pub(super) fn set_attribute(&self, of: INodeNo, name: &OsStr, value: &[u8], flags: i32, reply: ReplyEmpty) {
        if self.tree.top(of).is_some() {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let Some(name) = name.to_str().map(str::to_owned) else { return reply.error(Errno::EINVAL) };
        if !name.starts_with("user.") {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let (ino, value) = (Ino(of.0), value.to_vec());
        let (create, replace) = (flags & libc::XATTR_CREATE != 0, flags & libc::XATTR_REPLACE != 0);
        let probes = self.probes.clone();
        let work = move |fs: Arc<Fs>| async move {
            let result = fs.setxattr(ino, &name, &value, create, replace).await;
            probes.forget(ino.0);
            result
        };
        self.spawn("setxattr", None, of, reply, work, |_, reply, ()| reply.ok());
    }

    pub(super) fn get_attribute(&self, of: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let Some(name) = name.to_str().map(str::to_owned) else { return reply.error(Errno::ENODATA) };
        if let Some(e) = Fs::getxattr_now(&name) {
            return reply.error(errno(&e));
        }
        if self.tree.top(of).is_some() {
            return reply.error(Errno::ENODATA);
        }
        let ino = Ino(of.0);
        if size > 0
            && let Some(value) = self.probes.take(ino.0, &name)
        {
            return reply_sized(reply, size, &value);
        }
        let probes = self.probes.clone();
        let work = move |fs: Arc<Fs>| async move {
            let value = fs.getxattr(ino, &name).await?;
            if size == 0 {
                probes.keep(ino.0, &name, &value);
            }
            Ok(value)
        };
        self.spawn("getxattr", self.limit(), of, reply, work, move |_, reply, value: Vec<u8>| {
            reply_sized(reply, size, &value)
        });
    }

    pub(super) fn list_attributes(&self, of: INodeNo, size: u32, reply: ReplyXattr) {
        let ino = Ino(of.0);
        // The root of a bucket names some only on demand: looking at all buckets does not enter them.
        if self.tree.top(of).is_some() || !self.tree.lists_all_xattrs() && self.tree.outside(of).is_some() {
            return reply_sized(reply, size, &[]);
        }
        let joined = |names: Vec<String>| names.iter().flat_map(|name| name.bytes().chain([0])).collect::<Vec<u8>>();
        match self.inline("listxattr", || self.near(of)?.listxattr_now(ino)) {
            Some(Ok(names)) => return reply_sized(reply, size, &joined(names)),
            Some(Err(e)) => return reply.error(errno(&e)),
            None => {}
        }
        // No attribute has an empty name: the list of names is kept under it between its size and itself.
        const LIST: &str = "";
        if size > 0
            && let Some(list) = self.probes.take(ino.0, LIST)
        {
            return reply_sized(reply, size, &list);
        }
        let probes = self.probes.clone();
        let work = move |fs: Arc<Fs>| async move {
            let list = joined(fs.listxattr(ino).await?);
            if size == 0 {
                probes.keep(ino.0, LIST, &list);
            }
            Ok(list)
        };
        self.spawn("listxattr", self.limit(), of, reply, work, move |_, reply, list: Vec<u8>| {
            reply_sized(reply, size, &list)
        });
    }

    pub(super) fn remove_attribute(&self, of: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let Some(name) = name.to_str().map(str::to_owned) else { return reply.error(Errno::ENODATA) };
        if self.tree.top(of).is_some() {
            return reply.error(Errno::ENODATA);
        }
        let ino = Ino(of.0);
        let probes = self.probes.clone();
        let work = move |fs: Arc<Fs>| async move {
            let result = fs.removexattr(ino, &name).await;
            probes.forget(ino.0);
            result
        };
        self.spawn("removexattr", None, of, reply, work, |_, reply, ()| reply.ok());
    }
}

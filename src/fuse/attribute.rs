//! Requests for extended attributes.

use std::ffi::OsStr;

use fuser::{Errno, INodeNo, ReplyEmpty, ReplyXattr};

use crate::fs::Ino;

use super::adapter::Adapter;
use super::reply::{errno, reply_sized};

impl Adapter {
    pub(super) fn set_attribute(&self, ino: INodeNo, name: &OsStr, value: &[u8], flags: i32, reply: ReplyEmpty) {
        let Some(name) = name.to_str().map(str::to_owned) else { return reply.error(Errno::EINVAL) };
        if !name.starts_with("user.") {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let (fs, ino, value) = (self.fs.clone(), Ino(ino.0), value.to_vec());
        let (create, replace) = (flags & libc::XATTR_CREATE != 0, flags & libc::XATTR_REPLACE != 0);
        let probes = self.probes.clone();
        let work = async move {
            let result = fs.setxattr(ino, &name, &value, create, replace).await;
            probes.forget(ino.0);
            result
        };
        self.spawn("setxattr", None, reply, work, |_, reply, ()| reply.ok());
    }

    pub(super) fn get_attribute(&self, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let Some(name) = name.to_str().map(str::to_owned) else { return reply.error(Errno::ENODATA) };
        if let Some(e) = self.fs.getxattr_now(&name) {
            return reply.error(errno(&e));
        }
        let (fs, ino) = (self.fs.clone(), Ino(ino.0));
        if size > 0
            && let Some(value) = self.probes.take(ino.0, &name)
        {
            return reply_sized(reply, size, &value);
        }
        let probes = self.probes.clone();
        let work = async move {
            let value = fs.getxattr(ino, &name).await?;
            if size == 0 {
                probes.keep(ino.0, &name, &value);
            }
            Ok(value)
        };
        self.spawn("getxattr", self.limit(), reply, work, move |_, reply, value: Vec<u8>| {
            reply_sized(reply, size, &value)
        });
    }

    pub(super) fn list_attributes(&self, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let ino = Ino(ino.0);
        let joined = |names: Vec<String>| names.iter().flat_map(|name| name.bytes().chain([0])).collect::<Vec<u8>>();
        match self.inline("listxattr", || self.fs.listxattr_now(ino)) {
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
        let (fs, probes) = (self.fs.clone(), self.probes.clone());
        let work = async move {
            let list = joined(fs.listxattr(ino).await?);
            if size == 0 {
                probes.keep(ino.0, LIST, &list);
            }
            Ok(list)
        };
        self.spawn("listxattr", self.limit(), reply, work, move |_, reply, list: Vec<u8>| {
            reply_sized(reply, size, &list)
        });
    }

    pub(super) fn remove_attribute(&self, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let Some(name) = name.to_str().map(str::to_owned) else { return reply.error(Errno::ENODATA) };
        let (fs, ino) = (self.fs.clone(), Ino(ino.0));
        let probes = self.probes.clone();
        let work = async move {
            let result = fs.removexattr(ino, &name).await;
            probes.forget(ino.0);
            result
        };
        self.spawn("removexattr", None, reply, work, |_, reply, ()| reply.ok());
    }
}

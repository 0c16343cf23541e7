//! Errors by meaning, and the one table that turns them into errno numbers.

use std::fmt;
use std::sync::Arc;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, independent of the protocol that reported it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The store said 404 for an object, or a complete listing lacks the name. Nothing else is this kind.
    NotFound,
    /// The bucket itself is missing.
    NoBucket,
    /// 401/403: no right, bad signature, unknown key, expired token.
    Denied,
    /// The object is in an archive class and has not been restored.
    Archived,
    /// The object changed since the handle was opened (412 on a read), or the upload vanished.
    Stale,
    /// Exclusive create lost, or the target exists.
    Exists,
    /// Somebody else stored a newer version (412 on a write).
    Conflict,
    NotEmpty,
    IsDir,
    NotDir,
    /// A name or key that cannot be represented.
    BadName,
    NameTooLong,
    /// Beyond the store's limit for an object.
    TooLarge,
    /// Staging area full.
    NoSpace,
    /// The store's quota is used up.
    Quota,
    /// This store lacks the operation.
    Unsupported,
    /// The caller passed a value that is not allowed.
    Invalid,
    /// No such attribute.
    NoAttribute,
    /// The caller's buffer is too small, or the value too long.
    Range,
    /// A limit on a number of things (tags) is reached.
    Limit,
    /// Metadata too large for the store.
    TooBig,
    /// Mounted read-only.
    ReadOnly,
    /// Not allowed by our own rules (read-only attribute).
    NotPermitted,
    BadHandle,
    CrossDevice,
    Busy,
    /// Already under way (a restore).
    InProgress,
    /// A symbolic link where none may be.
    Loop,
    /// lseek(2) for data or a hole past the end.
    NoSuchRange,
    /// Memory budget used up.
    NoMemory,
    /// Throttled, 5xx, connection lost: still failing after the retries.
    Unavailable,
    /// A deadline passed.
    Timeout,
    /// The store answered something impossible (wrong length, wrong range, bad XML), or a local invariant broke.
    Io,
}

impl Kind {
    /// The errno an application sees. Source: errno(3), xattr(7) and the error table of `docs/SEMANTICS.md`.
    pub const fn errno(self) -> i32 {
        match self {
            Kind::NotFound => libc::ENOENT,
            Kind::NoBucket | Kind::NoSuchRange => libc::ENXIO,
            Kind::Denied | Kind::Archived => libc::EACCES,
            Kind::Stale => libc::ESTALE,
            Kind::Exists => libc::EEXIST,
            Kind::Conflict => libc::ESTALE,
            Kind::NotEmpty => libc::ENOTEMPTY,
            Kind::IsDir => libc::EISDIR,
            Kind::NotDir => libc::ENOTDIR,
            Kind::BadName | Kind::Invalid => libc::EINVAL,
            Kind::NameTooLong => libc::ENAMETOOLONG,
            Kind::TooLarge => libc::EFBIG,
            Kind::NoSpace | Kind::Limit => libc::ENOSPC,
            Kind::Quota => libc::EDQUOT,
            Kind::Unsupported => libc::EOPNOTSUPP,
            Kind::NoAttribute => libc::ENODATA,
            Kind::Range => libc::ERANGE,
            Kind::TooBig => libc::E2BIG,
            Kind::ReadOnly => libc::EROFS,
            Kind::NotPermitted => libc::EPERM,
            Kind::BadHandle => libc::EBADF,
            Kind::CrossDevice => libc::EXDEV,
            Kind::Busy => libc::EBUSY,
            Kind::InProgress => libc::EALREADY,
            Kind::Loop => libc::ELOOP,
            Kind::NoMemory => libc::ENOMEM,
            Kind::Timeout => libc::ETIMEDOUT,
            Kind::Unavailable | Kind::Io => libc::EIO,
        }
    }

    /// Whether an administrator should hear of it: answers that programs provoke all day are not news.
    pub const fn is_news(self) -> bool {
        !matches!(
            self,
            Kind::NotFound
                | Kind::NoAttribute
                | Kind::Range
                | Kind::Exists
                | Kind::NotEmpty
                | Kind::IsDir
                | Kind::NotDir
                | Kind::Unsupported
                | Kind::ReadOnly
                | Kind::CrossDevice
                | Kind::Loop
                | Kind::NoSuchRange
                | Kind::NameTooLong
        )
    }
}

/// What the store itself reported. Never holds a URL: a signed one is a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status; 0 when no answer came.
    pub status: u16,
    /// `<Code>` of the error document; empty for HEAD and for lost connections.
    pub code: String,
    pub message: String,
    pub request_id: String,
    /// How often the request was sent.
    pub attempts: u32,
}

#[derive(Debug)]
struct Inner {
    kind: Kind,
    what: String,
    key: Option<String>,
    reply: Option<Reply>,
    fix: Option<String>,
    quiet: bool,
}

/// One failure: cheap to clone, because every reader waiting for one block and every later call on a failed
/// handle gets the same.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

impl Error {
    /// `what` says what was being done, in the present tense and without key or URL: "put object".
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Error(Arc::new(Inner { kind, what: what.into(), key: None, reply: None, fix: None, quiet: false }))
    }

    fn edit(self, f: impl FnOnce(&mut Inner)) -> Self {
        let mut inner = Arc::try_unwrap(self.0).unwrap_or_else(|a| Inner {
            kind: a.kind,
            what: a.what.clone(),
            key: a.key.clone(),
            reply: a.reply.clone(),
            fix: a.fix.clone(),
            quiet: a.quiet,
        });
        f(&mut inner);
        Error(Arc::new(inner))
    }

    /// The same failure under another meaning, where only the caller knows it (412 is Stale or Exists).
    pub fn with_kind(self, kind: Kind) -> Self {
        self.edit(|i| i.kind = kind)
    }

    pub fn with_key(self, key: impl fmt::Display) -> Self {
        self.edit(|i| i.key = Some(key.to_string()))
    }

    pub fn with_reply(self, reply: Reply) -> Self {
        self.edit(|i| i.reply = Some(reply))
    }

    /// What the administrator should change, as a phrase for the end of the line.
    pub fn with_fix(self, fix: impl Into<String>) -> Self {
        self.edit(|i| i.fix = Some(fix.into()))
    }

    /// Nothing that anybody should read of: the kernel asks again.
    pub fn quietly(self) -> Self {
        self.edit(|i| i.quiet = true)
    }

    /// Whether the log should have it.
    pub fn is_news(&self) -> bool {
        self.0.kind.is_news() && !self.0.quiet
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    pub fn errno(&self) -> i32 {
        self.0.kind.errno()
    }

    pub fn key(&self) -> Option<&str> {
        self.0.key.as_deref()
    }

    pub fn reply(&self) -> Option<&Reply> {
        self.0.reply.as_ref()
    }

    pub fn fix(&self) -> Option<&str> {
        self.0.fix.as_deref()
    }

    /// `<Code>` of the store's answer, or "" when there was none.
    pub fn code(&self) -> &str {
        self.0.reply.as_ref().map_or("", |r| r.code.as_str())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let i = &self.0;
        f.write_str(&i.what)?;
        if let Some(key) = &i.key {
            write!(f, " key={key:?}")?;
        }
        if let Some(r) = &i.reply {
            if r.status != 0 {
                write!(f, ": {}", r.status)?;
            }
            if !r.code.is_empty() {
                write!(f, " {}", r.code)?;
            }
            if !r.message.is_empty() {
                write!(f, " ({})", r.message)?;
            }
            if !r.request_id.is_empty() {
                write!(f, " request-id={}", r.request_id)?;
            }
            if r.attempts > 1 {
                write!(f, " after {} attempts", r.attempts)?;
            }
        }
        if let Some(fix) = &i.fix {
            write!(f, "; {fix}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {}

impl From<Kind> for Error {
    fn from(kind: Kind) -> Self {
        Error::new(kind, format!("{kind:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of `docs/SEMANTICS.md`, row by row.
    #[test]
    fn errno_table() {
        for (kind, errno) in [
            (Kind::NotFound, libc::ENOENT),
            (Kind::NoBucket, libc::ENXIO),
            (Kind::Denied, libc::EACCES),
            (Kind::Archived, libc::EACCES),
            (Kind::Stale, libc::ESTALE),
            (Kind::Conflict, libc::ESTALE),
            (Kind::Exists, libc::EEXIST),
            (Kind::TooLarge, libc::EFBIG),
            (Kind::NoSpace, libc::ENOSPC),
            (Kind::Quota, libc::EDQUOT),
            (Kind::Unsupported, libc::EOPNOTSUPP),
            (Kind::Unavailable, libc::EIO),
            (Kind::Timeout, libc::ETIMEDOUT),
            (Kind::Io, libc::EIO),
            (Kind::NoAttribute, libc::ENODATA),
            (Kind::Range, libc::ERANGE),
            (Kind::Limit, libc::ENOSPC),
            (Kind::NotPermitted, libc::EPERM),
            (Kind::ReadOnly, libc::EROFS),
        ] {
            assert_eq!(kind.errno(), errno, "{kind:?}");
        }
    }

    #[test]
    fn one_line_names_key_code_and_fix() {
        let e = Error::new(Kind::Denied, "put object")
            .with_key("a/b")
            .with_reply(Reply {
                status: 403,
                code: "AccessDenied".into(),
                message: "no".into(),
                request_id: "r1".into(),
                attempts: 2,
            })
            .with_fix("grant s3:PutObject");
        assert_eq!(
            e.to_string(),
            "put object key=\"a/b\": 403 AccessDenied (no) request-id=r1 after 2 attempts; grant s3:PutObject"
        );
        assert_eq!(e.errno(), libc::EACCES);
    }
}

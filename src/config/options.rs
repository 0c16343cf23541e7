//! The options of a mount: where they come from, in what order they win, and what they add up to.
//!
//! 1. Four sources, the later one wins: defaults, environment (`AWS_…`), the file named by `config=`, `-o`.
//! 2. `-o` strings also carry what mount(8) and systemd put there: flags for the kernel are passed on, notes to the
//!    boot scripts are dropped, anything else is an error with a suggestion: an ignored typo is a wrong mount.
//! 3. No secret is ever an option: `/proc/PID/cmdline` and `/etc/fstab` are readable by everybody.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::disk::DiskOptions;
use super::table::{Spec, TABLE};
pub use super::value::MetricsAddress;
use super::{memory, value};

macro_rules! choices {
    ($(#[$doc:meta])* $name:ident { $first:ident = $first_text:literal $(, $variant:ident = $text:literal)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name {
            #[default]
            $first,
            $($variant),*
        }

        impl $name {
            pub(super) const CHOICES: &[(&str, $name)] = &[($first_text, $name::$first) $(, ($text, $name::$variant))*];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $name::$first => $first_text $(, $name::$variant => $text)* })
            }
        }
    };
}

choices!(Addressing { Auto = "auto", Path = "path", Virtual = "virtual" });
choices!(Signature { Auto = "auto", V4 = "v4", V2 = "v2" });
choices!(
    /// Which row of the provider table holds.
    ProviderChoice {
        Auto = "auto",
        Xos = "xos",
        Zos = "zos",
        Obs = "obs",
        H3c = "h3c",
        Ceph = "ceph",
        Minio = "minio",
        Aws = "aws",
        Generic = "generic"
    }
);
choices!(ListVersion { Auto = "auto", V1 = "v1", V2 = "v2" });
macro_rules! left_to_the_provider {
    ($($name:ident),*) => {$(
        impl $name {
            /// `default` in the place of auto.
            pub fn or(self, default: $name) -> $name {
                if self == $name::Auto { default } else { self }
            }
        }
    )*};
}

left_to_the_provider!(Addressing, Signature, ListVersion);
choices!(
    /// What becomes of mode, owner and times.
    Attrs { Store = "store", Ignore = "ignore" }
);
choices!(
    /// What listxattr(2) names.
    XattrList { Metadata = "metadata", All = "all" }
);
choices!(
    /// What vouches for uploaded bytes.
    Checksum { Auto = "auto", Crc32c = "crc32c", Md5 = "md5", Off = "off" }
);
choices!(
    /// What a commit does when somebody else stored a newer version.
    OnConflict { Overwrite = "overwrite", Fail = "fail", KeepBoth = "keep_both" }
);
choices!(
    /// Whether the kernel may read from the disk cache by itself.
    Passthrough { Auto = "auto", Off = "off" }
);
choices!(
    /// How versions are reached.
    Versions { Names = "names", Dir = "dir" }
);
choices!(LogLevel { Info = "info", Error = "error", Warn = "warn", Debug = "debug", Trace = "trace" });

/// Where messages go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Log {
    #[default]
    Auto,
    Stderr,
    Journald,
    Syslog,
    File(PathBuf),
}

/// Flags that the kernel keeps for every file system, and security labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountFlags {
    pub suid: bool,
    pub dev: bool,
    pub noexec: bool,
    pub noatime: bool,
    pub nodiratime: bool,
    pub relatime: bool,
    pub sync: bool,
    pub dirsync: bool,
    /// `context=…`, `fscontext=…` and the like, as given.
    pub labels: Vec<String>,
}

/// The role whose sessions sign the requests, instead of the keys themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    pub arn: Option<String>,
    pub session_name: Option<String>,
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// A ready-made one by name, JSON, or the absolute path of a file.
    pub policy: Option<String>,
    pub duration: Option<Duration>,
    pub external_id: Option<String>,
}

/// Every option of a mount with its type. What each means is in [`TABLE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub endpoint: Option<String>,
    pub provider: ProviderChoice,
    pub region: Option<String>,
    pub profile: Option<String>,
    pub anonymous: bool,
    pub role: Role,
    pub addressing: Addressing,
    pub signature: Signature,
    pub list: ListVersion,
    pub requester_pays: bool,
    pub read_only: bool,
    /// `None`: on for root.
    pub allow_other: Option<bool>,
    /// `None`: as `allow_other`.
    pub default_permissions: Option<bool>,
    pub uid: u32,
    pub gid: u32,
    pub file_mode: Option<u32>,
    pub dir_mode: Option<u32>,
    pub umask: Option<u32>,
    pub metadata_ttl: Duration,
    pub negative_ttl: Duration,
    pub hide_odd_keys: bool,
    /// The bucket is shown as it was then, read-only.
    pub as_of: Option<SystemTime>,
    pub versions: Versions,
    /// Bytes.
    pub capacity: u64,
    /// Bytes; `None`: by this machine's memory.
    pub memory: Option<u64>,
    /// Bytes.
    pub max_readahead: u64,
    pub disk: DiskOptions,
    pub staging_dir: Option<PathBuf>,
    /// Bytes.
    pub part_size: u64,
    pub max_uploads: usize,
    /// Bytes.
    pub stream_after: u64,
    pub writeback: bool,
    /// Bytes; `None`: by the disk.
    pub writeback_limit: Option<u64>,
    pub state_dir: Option<PathBuf>,
    pub storage_class: Option<String>,
    pub acl: Option<String>,
    pub tags: Vec<(String, String)>,
    /// `None`: by file name.
    pub content_type: Option<String>,
    pub attrs: Attrs,
    pub xattr_list: XattrList,
    pub presign_ttl: Duration,
    pub checksum: Checksum,
    pub on_conflict: OnConflict,
    pub connect_timeout: Duration,
    pub read_timeout: Duration,
    pub op_timeout: Duration,
    pub retries: u32,
    /// `None`: 60 s with `_netdev`, else 0.
    pub mount_timeout: Option<Duration>,
    pub shutdown_timeout: Duration,
    pub log: Log,
    pub log_level: LogLevel,
    pub metrics: Option<MetricsAddress>,
    pub flags: MountFlags,
    /// `_netdev` was among the options: the network may not be there yet.
    pub netdev: bool,
}

/// A wrong option: one line that says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong(pub String);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

fn wrong<T>(text: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong(text.into()))
}

/// Options of mount(8), fstab and systemd that say nothing to a mounted file system. `nonempty` is what always holds.
const DROPPED: &[&str] = &[
    "_netdev",
    "nofail",
    "auto",
    "noauto",
    "user",
    "users",
    "owner",
    "group",
    "nouser",
    "noowner",
    "nogroup",
    "defaults",
    "comment",
    "nonempty",
    "async",
    "loud",
    "silent",
    "strictatime",
    "atime",
    "diratime",
    "lazytime",
    "nolazytime",
];

/// What other tools call things.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("url", "endpoint"),
    ("host", "endpoint"),
    ("endpoint_url", "endpoint"),
    ("use_path_request_style", "addressing=path"),
    ("path_style", "addressing=path"),
    ("force_path_style", "addressing=path"),
    ("sigv2", "signature=v2"),
    ("sigv4", "signature=v4"),
    ("public_bucket", "anonymous"),
    ("no_sign_request", "anonymous"),
    ("default_acl", "acl"),
    ("stat_cache_expire", "metadata_ttl"),
    ("stat_cache_ttl", "metadata_ttl"),
    ("type_cache_ttl", "metadata_ttl"),
    ("multipart_size", "part_size"),
    ("parallel_count", "max_uploads"),
    ("readwrite_timeout", "read_timeout"),
    ("bucket_size", "capacity"),
    ("memory_limit", "memory"),
    ("max_cache_size", "memory"),
    ("use_cache", "cache_dir"),
    ("tmpdir", "staging_dir"),
    ("dbglevel", "log_level"),
    ("logfile", "log"),
    ("read_only", "ro"),
    ("mp_umask", "umask"),
];

impl Default for Options {
    fn default() -> Self {
        let (uid, gid) = value::caller();
        let mut options = Options {
            endpoint: None,
            provider: ProviderChoice::Auto,
            region: None,
            profile: None,
            anonymous: false,
            role: Role::default(),
            addressing: Addressing::Auto,
            signature: Signature::Auto,
            list: ListVersion::Auto,
            requester_pays: false,
            read_only: false,
            allow_other: None,
            default_permissions: None,
            uid,
            gid,
            file_mode: None,
            dir_mode: None,
            umask: None,
            metadata_ttl: Duration::ZERO,
            negative_ttl: Duration::ZERO,
            hide_odd_keys: false,
            as_of: None,
            versions: Versions::Names,
            capacity: 0,
            memory: None,
            max_readahead: 0,
            disk: DiskOptions::default(),
            staging_dir: None,
            part_size: 0,
            max_uploads: 0,
            stream_after: 0,
            writeback: false,
            writeback_limit: None,
            state_dir: None,
            storage_class: None,
            acl: None,
            tags: Vec::new(),
            content_type: None,
            attrs: Attrs::Store,
            xattr_list: XattrList::Metadata,
            presign_ttl: Duration::from_secs(3600),
            checksum: Checksum::Auto,
            on_conflict: OnConflict::Overwrite,
            connect_timeout: Duration::ZERO,
            read_timeout: Duration::ZERO,
            op_timeout: Duration::ZERO,
            retries: 0,
            mount_timeout: None,
            shutdown_timeout: Duration::ZERO,
            log: Log::Auto,
            log_level: LogLevel::Info,
            metrics: None,
            flags: MountFlags::default(),
            netdev: false,
        };
        for spec in TABLE.iter().filter(|s| !s.default.is_empty() && s.name != "mount_timeout") {
            let set = (spec.set)(&mut options, spec.default);
            debug_assert!(set.is_ok(), "default of {}: {set:?}", spec.name);
        }
        options
    }
}

/// One `name` or `name=value`.
type Item = (String, Option<String>);

/// Splits at commas. `\` takes the next character as it is; commas inside double quotes do not count (as mount(8)
/// writes `context="…,…"`); the quotes are dropped.
pub fn split(text: &str) -> Result<Vec<String>, Wrong> {
    let mut items = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let item = items.last_mut().expect("never empty: starts with one and only grows");
        match c {
            '\\' => item.push(chars.next().ok_or_else(|| Wrong("-o ends in a `\\` that escapes nothing".into()))?),
            '"' => quoted = !quoted,
            ',' if !quoted => items.push(String::new()),
            c => item.push(c),
        }
    }
    if quoted {
        return wrong("-o has a `\"` without its partner");
    }
    items.retain(|i| !i.is_empty());
    Ok(items)
}

fn item(text: &str) -> Item {
    match text.split_once('=') {
        Some((name, value)) => (name.trim().to_owned(), Some(value.trim().to_owned())),
        None => (text.trim().to_owned(), None),
    }
}

fn find(name: &str) -> Option<&'static Spec> {
    TABLE.iter().find(|s| s.name == name)
}

fn unknown(name: &str) -> Wrong {
    if name == "remount" {
        return Wrong(
            "option `remount`: options do not change while a bucket is mounted; unmount it and mount it again, or \
             change the flags of the kernel alone with mount -i -o remount,ro DIR"
                .into(),
        );
    }
    let close = OTHER_NAMES.iter().find(|(other, _)| *other == name).map(|(_, ours)| *ours).or_else(|| {
        TABLE
            .iter()
            .map(|s| (strsim::damerau_levenshtein(name, s.name), s.name))
            .filter(|(distance, ours)| name.len() > 2 && *distance <= (ours.len() / 3).max(1))
            .min()
            .map(|(_, ours)| ours)
    });
    match close {
        Some(close) => Wrong(format!("unknown option `{name}`; did you mean `{close}`?")),
        None => Wrong(format!("unknown option `{name}`; `xosfs mount --help` lists them all")),
    }
}

impl Options {
    /// Reads the options of one mount. `lists` are the arguments of `-o`; `sloppy` (mount -s) drops unknown ones;
    /// `env` looks a variable up.
    pub fn load(lists: &[String], sloppy: bool, env: &dyn Fn(&str) -> Option<String>) -> Result<Options, Wrong> {
        let mut items = Vec::new();
        for list in lists {
            items.extend(split(list)?.iter().map(|text| item(text)));
        }
        let mut options = Options::default();
        options.read_env(env)?;
        if let Some((_, file)) = items.iter().rev().find(|(name, _)| name == "config") {
            let file = file.as_deref().filter(|f| !f.is_empty()).ok_or(Wrong("option `config` needs a FILE".into()))?;
            let path = value::path(file).map_err(Wrong)?;
            options.read_file(&path)?;
        }
        for (name, value) in items {
            if name != "config" {
                options.set(&name, value.as_deref(), sloppy)?;
            }
        }
        options.read_only |= options.as_of.is_some();
        options.check()?;
        Ok(options)
    }

    fn read_env(&mut self, env: &dyn Fn(&str) -> Option<String>) -> Result<(), Wrong> {
        for (option, variables) in [
            ("endpoint", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].as_slice()),
            ("region", &["AWS_REGION", "AWS_DEFAULT_REGION"]),
            ("profile", &["AWS_PROFILE"]),
        ] {
            let found = variables.iter().find_map(|v| Some((v, env(v).filter(|text| !text.is_empty())?)));
            if let (Some((variable, text)), Some(spec)) = (found, find(option)) {
                (spec.set)(self, &text).map_err(|e| Wrong(format!("environment variable {variable}: {e}")))?;
            }
        }
        Ok(())
    }

    /// Lines of `name = value` or `name`; `#` starts a comment, values may be in double quotes.
    fn read_file(&mut self, path: &Path) -> Result<(), Wrong> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            Wrong(format!("configuration file {} cannot be read: {e}; change `config`", path.display()))
        })?;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let at = |e: Wrong| Wrong(format!("{}:{}: {e}", path.display(), number + 1));
            let (name, value) = item(line);
            let value = value.as_deref().map(unquote).transpose().map_err(at)?;
            if name == "config" {
                return Err(at(Wrong("a configuration file cannot name another one".into())));
            }
            self.set(&name, value.as_deref(), false).map_err(at)?;
        }
        Ok(())
    }

    fn set(&mut self, written: &str, value: Option<&str>, sloppy: bool) -> Result<(), Wrong> {
        if written.to_ascii_lowercase().starts_with("x-") || DROPPED.contains(&written) {
            self.netdev |= written == "_netdev";
            return Ok(());
        }
        let name = written.to_ascii_lowercase().replace('-', "_");
        if let Some(spec) = find(&name) {
            let flag = spec.is_flag() || spec.default == "auto" && spec.value.starts_with("true|false");
            let text = match value {
                None if flag => "true",
                None | Some("") => return wrong(format!("option `{name}` needs a value: {name}={}", spec.value)),
                Some(text) => text,
            };
            return (spec.set)(self, text).map_err(|e| Wrong(format!("option `{name}`: {e}")));
        }
        if self.set_flag(&name, value) {
            return Ok(());
        }
        if value::is_secret(&name) {
            return wrong(format!("`{name}` {}", value::SECRET));
        }
        if sloppy { Ok(()) } else { Err(unknown(&name)) }
    }

    /// The generic flags of mount(8), in their order: a later one wins.
    fn set_flag(&mut self, name: &str, value: Option<&str>) -> bool {
        let flags = &mut self.flags;
        match (name, value) {
            ("rw", None) => self.read_only = false,
            ("suid", None) => flags.suid = true,
            ("nosuid", None) => flags.suid = false,
            ("dev", None) => flags.dev = true,
            ("nodev", None) => flags.dev = false,
            ("exec", None) => flags.noexec = false,
            ("noexec", None) => flags.noexec = true,
            ("noatime", None) => flags.noatime = true,
            ("nodiratime", None) => flags.nodiratime = true,
            ("relatime", None) => flags.relatime = true,
            ("norelatime", None) => flags.relatime = false,
            ("sync", None) => flags.sync = true,
            ("dirsync", None) => flags.dirsync = true,
            ("context" | "fscontext" | "defcontext" | "rootcontext", Some(label)) if !label.is_empty() => {
                flags.labels.push(format!("{name}={label}"));
            }
            _ => return false,
        }
        true
    }

    /// What only shows when all options are known.
    fn check(&self) -> Result<(), Wrong> {
        if self.anonymous && self.profile.is_some() {
            return wrong("`anonymous` and a profile (option `profile` or AWS_PROFILE) exclude each other; drop one");
        }
        if self.op_timeout < self.connect_timeout {
            return wrong("`op_timeout` is shorter than `connect_timeout`; raise `op_timeout`");
        }
        let memory = self.memory_bytes();
        if self.part_size > memory {
            return wrong(format!(
                "`part_size` ({}) does not fit into `memory` ({}); raise `memory` or lower `part_size`",
                value::show_size(self.part_size),
                value::show_size(memory)
            ));
        }
        Ok(())
    }

    /// The memory budget in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.memory.unwrap_or_else(memory::auto)
    }

    /// Whether other users are let in.
    pub fn allows_other(&self) -> bool {
        self.allow_other.unwrap_or(value::caller().0 == 0)
    }

    /// Whether the kernel checks owner and mode.
    pub fn checks_permissions(&self) -> bool {
        self.default_permissions.unwrap_or(self.allows_other())
    }

    /// Permission bits of files that carry none.
    pub fn file_bits(&self) -> u32 {
        self.file_mode.unwrap_or(0o666 & !self.umask.unwrap_or(0o022)) & !self.umask.unwrap_or(0)
    }

    /// Permission bits of directories that carry none.
    pub fn dir_bits(&self) -> u32 {
        self.dir_mode.unwrap_or(0o777 & !self.umask.unwrap_or(0o022)) & !self.umask.unwrap_or(0)
    }

    /// How long mounting is retried.
    pub fn patience(&self) -> Duration {
        self.mount_timeout.unwrap_or(if self.netdev { Duration::from_secs(60) } else { Duration::ZERO })
    }

    /// Where bytes wait that do not fit into memory.
    pub fn staging(&self, env: &dyn Fn(&str) -> Option<String>) -> PathBuf {
        if let Some(dir) = &self.staging_dir {
            return dir.clone();
        }
        // systemd gives a list when several directories are asked for.
        if let Some(dirs) = env("CACHE_DIRECTORY").filter(|d| d.starts_with('/')) {
            return PathBuf::from(dirs.split(':').next().unwrap_or(&dirs));
        }
        match value::caller().0 {
            0 => PathBuf::from("/var/cache/xosfs"),
            _ => user_cache(env),
        }
    }

    /// Where the journal is.
    pub fn state(&self, env: &dyn Fn(&str) -> Option<String>) -> PathBuf {
        if let Some(dir) = &self.state_dir {
            return dir.clone();
        }
        if let Some(dirs) = env("STATE_DIRECTORY").filter(|d| d.starts_with('/')) {
            return PathBuf::from(dirs.split(':').next().unwrap_or(&dirs));
        }
        match value::caller().0 {
            0 => PathBuf::from("/var/lib/xosfs"),
            _ => user_state(env),
        }
    }
}

/// `~/.local/state/xosfs`, or what XDG_STATE_HOME says.
fn user_state(env: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let base = env("XDG_STATE_HOME").filter(|d| d.starts_with('/')).map(PathBuf::from);
    base.unwrap_or_else(|| PathBuf::from(env("HOME").unwrap_or_else(|| "/".into())).join(".local/state")).join("xosfs")
}

/// `~/.cache/xosfs`, or what XDG_CACHE_HOME says.
pub fn user_cache(env: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let base = env("XDG_CACHE_HOME").filter(|d| d.starts_with('/')).map(PathBuf::from);
    base.unwrap_or_else(|| PathBuf::from(env("HOME").unwrap_or_else(|| "/".into())).join(".cache")).join("xosfs")
}

fn unquote(text: &str) -> Result<String, Wrong> {
    match text.strip_prefix('"') {
        None => Ok(text.to_owned()),
        Some(rest) => match rest.strip_suffix('"') {
            Some(inner) => Ok(inner.to_owned()),
            None => wrong("a `\"` without its partner"),
        },
    }
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;

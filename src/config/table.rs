//! The one table of options: name, kind of value, default with its reason, and where the value goes.
//!
//! `-o`, the configuration file, `--help` and `docs/CONFIGURATION.md` all come from here. Defaults are parsed by the
//! same code as what people write, so what the table prints is what holds.

use std::time::Duration;

use super::memory;
use super::options::{
    Addressing, Attrs, Checksum, ListVersion, Log, LogLevel, OnConflict, Passthrough, ProviderChoice, Signature,
    Versions, XattrList,
};
pub use super::spec::{Group, Spec};
use super::value;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const MILLI: Duration = Duration::from_millis(1);

const ACLS: &[(&str, &str)] = &[
    ("private", "private"),
    ("public-read", "public-read"),
    ("public-read-write", "public-read-write"),
    ("authenticated-read", "authenticated-read"),
    ("aws-exec-read", "aws-exec-read"),
    ("bucket-owner-read", "bucket-owner-read"),
    ("bucket-owner-full-control", "bucket-owner-full-control"),
];

pub static TABLE: &[Spec] = &[
    Spec {
        name: "endpoint",
        group: Group::Store,
        value: "URL",
        default: "",
        doc: "Where the store answers, with its scheme: https://HOST[:PORT]. Unset: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, \
              the profile's endpoint_url, else AWS in `region`.",
        set: |o, v| value::endpoint(v).map(|v| o.endpoint = Some(v)),
    },
    Spec {
        name: "provider",
        group: Group::Store,
        value: "auto|xos|zos|obs|h3c|ceph|minio|aws|generic",
        default: "auto",
        doc: "Kind of store: decides what `signature`, `addressing`, `list` and `region` are when they are not given, and \
              which limits uploads keep to. auto knows the hosts of the public clouds and takes any other for generic, \
              what all stores share; name it for a private store.",
        set: |o, v| value::choice(v, ProviderChoice::CHOICES).map(|v| o.provider = v),
    },
    Spec {
        name: "region",
        group: Group::Store,
        value: "NAME",
        default: "",
        doc: "Region that requests are signed for. Unset: AWS_REGION, AWS_DEFAULT_REGION, the profile's region, the \
              one in the endpoint's host, else us-east-1, which most other stores take; a store that names another one is \
              followed.",
        set: |o, v| value::word(v).map(|v| o.region = Some(v)),
    },
    Spec {
        name: "profile",
        group: Group::Store,
        value: "NAME",
        default: "",
        doc: "Section of ~/.aws/credentials and ~/.aws/config to take keys from. Unset: AWS_PROFILE, else keys in the \
              environment, else the section `default`.",
        set: |o, v| value::word(v).map(|v| o.profile = Some(v)),
    },
    Spec {
        name: "anonymous",
        group: Group::Store,
        value: "",
        default: "false",
        doc: "Send requests unsigned, for public buckets. Off: a mount without keys is nearly always a mistake.",
        set: |o, v| value::flag(v).map(|v| o.anonymous = v),
    },
    Spec {
        name: "role_arn",
        group: Group::Store,
        value: "ARN",
        default: "",
        doc: "Role to take with the keys, as arn:aws:iam:::role/NAME: requests are signed with sessions of it, which are \
              renewed before they end. Unset: the profile's role_arn (its keys are then those of source_profile), else \
              none; the keys sign themselves.",
        set: |o, v| value::word(v).map(|v| o.role.arn = Some(v)),
    },
    Spec {
        name: "role_session_name",
        group: Group::Store,
        value: "NAME",
        default: "",
        doc: "Name of the sessions in the store's logs, 2 to 64 of A-Z a-z 0-9 _ + = , . @ -. Unset: xosfs- and the name of \
              this machine.",
        set: |o, v| value::word(v).map(|v| o.role.session_name = Some(v)),
    },
    Spec {
        name: "role_policy",
        group: Group::Store,
        value: "NAME|FILE|JSON",
        default: "",
        doc: "Policy that narrows the role's rights for this mount: all, read-only, read-write, transfer or multipart for the \
              mounted bucket and prefix, a file, or (in a configuration file) JSON; 2048 characters at most. Unset: none, \
              except where the provider wants one; there it is read-write, or read-only with `ro`.",
        set: |o, v| value::role_policy(v).map(|v| o.role.policy = Some(v)),
    },
    Spec {
        name: "role_duration",
        group: Group::Store,
        value: "DURATION",
        default: "",
        doc: "Life of a session, 15m to 12h. Unset: the profile's duration_seconds, else 1h; the role may allow no more.",
        set: |o, v| value::duration(v, 15 * MINUTE..=12 * HOUR).map(|v| o.role.duration = Some(v)),
    },
    Spec {
        name: "role_external_id",
        group: Group::Store,
        value: "TEXT",
        default: "",
        doc: "External id that the role's trust policy asks for. Unset: the profile's external_id, else none.",
        set: |o, v| value::word(v).map(|v| o.role.external_id = Some(v)),
    },
    Spec {
        name: "sts_endpoint",
        group: Group::Store,
        value: "URL",
        default: "",
        doc: "Where the token service answers that gives sessions of `role_arn`. Unset: where the provider has it, which is \
              `endpoint` for all but AWS.",
        set: |o, v| value::endpoint(v).map(|v| o.role.endpoint = Some(v)),
    },
    Spec {
        name: "sts_region",
        group: Group::Store,
        value: "NAME",
        default: "",
        doc: "Region that requests to the token service are signed for. Unset: what the provider wants (ctyun for xos, with cn \
              tried once when that is refused), else `region`.",
        set: |o, v| value::word(v).map(|v| o.role.region = Some(v)),
    },
    Spec {
        name: "addressing",
        group: Group::Store,
        value: "auto|path|virtual",
        default: "auto",
        doc: "How the bucket is named in a URL: in the path or in the host name. auto is what the provider wants; for one \
              that takes both, the path for an IP address, a host without DNS entry for the bucket, or a bucket name that \
              is no host name.",
        set: |o, v| value::choice(v, Addressing::CHOICES).map(|v| o.addressing = v),
    },
    Spec {
        name: "signature",
        group: Group::Store,
        value: "auto|v4|v2",
        default: "auto",
        doc: "Signature version. auto is v4, which every provider in the table knows; v2 is for old stores that know \
              nothing else.",
        set: |o, v| value::choice(v, Signature::CHOICES).map(|v| o.signature = v),
    },
    Spec {
        name: "list",
        group: Group::Store,
        value: "auto|v1|v2",
        default: "auto",
        doc: "Version of ListObjects. auto is what the provider documents; else it starts with v2 and \
              remembers when a store only has v1.",
        set: |o, v| value::choice(v, ListVersion::CHOICES).map(|v| o.list = v),
    },
    Spec {
        name: "requester_pays",
        group: Group::Store,
        value: "",
        default: "false",
        doc: "Declare with every request that the caller pays for it. Off: it costs money.",
        set: |o, v| value::flag(v).map(|v| o.requester_pays = v),
    },
    Spec {
        name: "ro",
        group: Group::Access,
        value: "",
        default: "false",
        doc: "Mount read-only (`rw` is the opposite).",
        set: |o, v| value::flag(v).map(|v| o.read_only = v),
    },
    Spec {
        name: "allow_other",
        group: Group::Access,
        value: "true|false|auto",
        default: "auto",
        doc: "Let users other than the one who mounts in. auto is on for root, whose mounts are for everybody, and off for \
              anybody else, who needs the line `user_allow_other` in /etc/fuse.conf for it.",
        set: |o, v| value::auto_flag(v).map(|v| o.allow_other = v),
    },
    Spec {
        name: "default_permissions",
        group: Group::Access,
        value: "true|false|auto",
        default: "auto",
        doc: "Let the kernel check owner and mode. auto is as allow_other: with other users about, modes have to count.",
        set: |o, v| value::auto_flag(v).map(|v| o.default_permissions = v),
    },
    Spec {
        name: "uid",
        group: Group::Access,
        value: "USER",
        default: "",
        doc: "Owner (name or number) of what carries none in its metadata. Unset: who mounts.",
        set: |o, v| value::user(v).map(|v| o.uid = v),
    },
    Spec {
        name: "gid",
        group: Group::Access,
        value: "GROUP",
        default: "",
        doc: "Group (name or number) of what carries none in its metadata. Unset: that of who mounts.",
        set: |o, v| value::group(v).map(|v| o.gid = v),
    },
    Spec {
        name: "file_mode",
        group: Group::Access,
        value: "OCTAL",
        default: "",
        doc: "Mode of files that carry none in their metadata. Unset: 0666 less `umask`, that is 0644.",
        set: |o, v| value::mode(v).map(|v| o.file_mode = Some(v)),
    },
    Spec {
        name: "dir_mode",
        group: Group::Access,
        value: "OCTAL",
        default: "",
        doc: "Mode of directories that carry none in their metadata. Unset: 0777 less `umask`, that is 0755.",
        set: |o, v| value::mode(v).map(|v| o.dir_mode = Some(v)),
    },
    Spec {
        name: "umask",
        group: Group::Access,
        value: "OCTAL",
        default: "",
        doc: "Bits taken away from the two modes above. Unset: 022 for modes that are not given, so that other users can \
              read what other tools uploaded.",
        set: |o, v| value::mode(v).map(|v| o.umask = Some(v)),
    },
    Spec {
        name: "metadata_ttl",
        group: Group::Freshness,
        value: "DURATION",
        default: "5s",
        doc: "How long attributes and listings are believed without asking the store. 5s: long enough that one command \
              asks once, short enough that nobody waits for somebody else's upload. 0 asks every time.",
        set: |o, v| value::duration(v, Duration::ZERO..=YEAR).map(|v| o.metadata_ttl = v),
    },
    Spec {
        name: "negative_ttl",
        group: Group::Freshness,
        value: "DURATION",
        default: "1s",
        doc: "How long a name is believed not to exist. 1s: programs probe the same missing names in a burst, but a file \
              that another machine makes has to appear soon.",
        set: |o, v| value::duration(v, Duration::ZERO..=YEAR).map(|v| o.negative_ttl = v),
    },
    Spec {
        name: "hide_odd_keys",
        group: Group::Freshness,
        value: "",
        default: "false",
        doc: "Hide keys that are no legal file names (`a//b`, too long, shadowed by a directory). Off: they are shown under \
              an escape that ends in `@@…`, so that every object can be reached.",
        set: |o, v| value::flag(v).map(|v| o.hide_odd_keys = v),
    },
    Spec {
        name: "as_of",
        group: Group::Freshness,
        value: "TIME",
        default: "",
        doc: "Show the bucket as it was at this time, read-only: 2026-11-21T10:20:30Z, or how long before the mount, as 2h or \
              3d. The bucket has to keep versions. Unset: as it is.",
        set: |o, v| value::moment(v).map(|v| o.as_of = Some(v)),
    },
    Spec {
        name: "versions",
        group: Group::Freshness,
        value: "names|dir",
        default: "names",
        doc: "How old versions are reached: names is FILE@@VERSION-ID; dir adds in each directory a `.versions` that is not \
              listed, with a directory for each file, also deleted ones. names: `.versions` is a name that a program may \
              want for itself.",
        set: |o, v| value::choice(v, Versions::CHOICES).map(|v| o.versions = v),
    },
    Spec {
        name: "capacity",
        group: Group::Freshness,
        value: "SIZE",
        default: "1P",
        doc: "Size and free space that statfs reports. A bucket has neither; 1P satisfies programs that check for space.",
        set: |o, v| value::size(v, MIB..=(1 << 62)).map(|v| o.capacity = v),
    },
    Spec {
        name: "memory",
        group: Group::Memory,
        value: "SIZE|auto",
        default: "auto",
        doc: "The one bound on cached blocks, read-ahead and bytes waiting for upload. auto is the smaller of 512M and a \
              quarter of the control group's limit or the host's memory, so that nothing gets killed for it. Never below 64M: \
              with less, uploads of large files wait for each other.",
        set: |o, v| {
            o.memory = if v == "auto" { None } else { Some(value::size(v, memory::MIN..=(1 << 50))?) };
            Ok(())
        },
    },
    Spec {
        name: "max_readahead",
        group: Group::Memory,
        value: "SIZE",
        default: "128M",
        doc: "Largest read-ahead of one open file. It takes as much of it as the speed of a connection asks for, at \
              most a third of `memory`: 32M where four connections fill the line. 0: nothing is fetched that was not \
              asked for, small files of a directory neither.",
        set: |o, v| value::size(v, 0..=4 * GIB).map(|v| o.max_readahead = v),
    },
    Spec {
        name: "cache_dir",
        group: Group::Memory,
        value: "DIR",
        default: "",
        doc: "Keep what is read and written in files below this directory, so that reading it again costs no transfer, also \
              after a restart; a local disk, mode 0700. Several mounts may share it. Unset: blocks are kept in memory only.",
        set: |o, v| value::path(v).map(|v| o.disk.dir = Some(v)),
    },
    Spec {
        name: "cache_size",
        group: Group::Memory,
        value: "SIZE",
        default: "10G",
        doc: "Bytes that the files in `cache_dir` may take; what was not used for longest goes first. An object larger than a \
              quarter of it is not kept whole. 10G fits most disks, and a working set that memory does not hold.",
        set: |o, v| value::size(v, 16 * MIB..=(1 << 60)).map(|v| o.disk.size = v),
    },
    Spec {
        name: "cache_free",
        group: Group::Memory,
        value: "SIZE",
        default: "1G",
        doc: "Bytes that stay free on the file system of `cache_dir`, whatever `cache_size` says: a full disk stops more than \
              this mount.",
        set: |o, v| value::size(v, 0..=(1 << 60)).map(|v| o.disk.free = v),
    },
    Spec {
        name: "passthrough",
        group: Group::Memory,
        value: "auto|off",
        default: "auto",
        doc: "Let the kernel read files that are wholly in `cache_dir` from there, at the speed of that disk. auto: where it \
              can (Linux 6.9) and the daemon has CAP_SYS_ADMIN. off: for tools that watch what is read.",
        set: |o, v| value::choice(v, Passthrough::CHOICES).map(|v| o.disk.passthrough = v),
    },
    Spec {
        name: "staging_dir",
        group: Group::Memory,
        value: "DIR",
        default: "",
        doc: "Where written bytes wait that do not fit into memory. Unset: CACHE_DIRECTORY (systemd), else /var/cache/xosfs \
              for root and ~/.cache/xosfs for anybody else; never /tmp, which often is memory.",
        set: |o, v| value::path(v).map(|v| o.staging_dir = Some(v)),
    },
    Spec {
        name: "part_size",
        group: Group::Memory,
        value: "SIZE",
        default: "8M",
        doc: "Size of the first parts of a large upload; later parts grow so that 10,000 are enough. 8M: large enough that \
              a request's overhead does not count, small enough to hold many in memory. 5M to 5G.",
        set: |o, v| value::size(v, 5 * MIB..=5 * GIB).map(|v| o.part_size = v),
    },
    Spec {
        name: "max_uploads",
        group: Group::Memory,
        value: "NUMBER",
        default: "8",
        doc: "Parts in flight at a time, over all files. 8 of 8M fill a fast line; more only help with long round trips.",
        set: |o, v| value::count(v, 1..=256).map(|v| o.max_uploads = v as usize),
    },
    Spec {
        name: "stream_after",
        group: Group::Memory,
        value: "SIZE",
        default: "64M",
        doc: "From this size on, a file is uploaded while it is still being written. Below, close is soon enough and one \
              rewritten header costs nothing.",
        set: |o, v| value::size(v, 5 * MIB..=(1 << 50)).map(|v| o.stream_after = v),
    },
    Spec {
        name: "writeback",
        group: Group::Memory,
        value: "",
        default: "false",
        doc: "Let close return when the bytes are safe in a journal below `state_dir`, and upload in the background; fsync \
              still waits for the store. Off: what was closed is in the bucket, whatever becomes of this machine.",
        set: |o, v| value::flag(v).map(|v| o.writeback = v),
    },
    Spec {
        name: "writeback_limit",
        group: Group::Memory,
        value: "SIZE|auto",
        default: "auto",
        doc: "Bytes on the disk of `state_dir` that wait for the store at most; beyond, close waits for the store. auto: a \
              tenth of that disk, at most 8G; 256M of the disk stay free in any case.",
        set: |o, v| {
            o.writeback_limit = if v == "auto" { None } else { Some(value::size(v, MIB..=(1 << 50))?) };
            Ok(())
        },
    },
    Spec {
        name: "state_dir",
        group: Group::Memory,
        value: "DIR",
        default: "",
        doc: "Where the journal is: uploads that were begun, and with `writeback` what was closed and is not stored. Unset: \
              STATE_DIRECTORY (systemd), else /var/lib/xosfs for root and ~/.local/state/xosfs for anybody else. It has to \
              survive a restart of the machine.",
        set: |o, v| value::path(v).map(|v| o.state_dir = Some(v)),
    },
    Spec {
        name: "storage_class",
        group: Group::Objects,
        value: "CLASS",
        default: "",
        doc: "Storage class, as STANDARD_IA. Unset: none is sent and the bucket decides.",
        set: |o, v| value::word(v).map(|v| o.storage_class = Some(v.to_ascii_uppercase())),
    },
    Spec {
        name: "acl",
        group: Group::Objects,
        value: "CANNED",
        default: "",
        doc: "Canned ACL: private, public-read, public-read-write, authenticated-read, aws-exec-read, bucket-owner-read or \
              bucket-owner-full-control. Unset: none is sent, because buckets that block ACLs refuse every write with one.",
        set: |o, v| value::choice(v, ACLS).map(|v| o.acl = Some(v.to_owned())),
    },
    Spec {
        name: "tags",
        group: Group::Objects,
        value: "K=V&K2=V2",
        default: "",
        doc: "Tags, URL-encoded. Unset: none are sent.",
        set: |o, v| value::tags(v).map(|v| o.tags = v),
    },
    Spec {
        name: "content_type",
        group: Group::Objects,
        value: "TYPE|auto",
        default: "auto",
        doc: "Content type. auto goes by the file name, so that browsers show what is served from the bucket.",
        set: |o, v| {
            o.content_type = if v == "auto" { None } else { Some(value::content_type(v)?) };
            Ok(())
        },
    },
    Spec {
        name: "attrs",
        group: Group::Objects,
        value: "store|ignore",
        default: "store",
        doc: "What becomes of mode, owner and times: kept in the object's metadata (as s3fs and rclone do), or only in \
              memory. store: programs that restore files expect them back.",
        set: |o, v| value::choice(v, Attrs::CHOICES).map(|v| o.attrs = v),
    },
    Spec {
        name: "xattr_list",
        group: Group::Objects,
        value: "metadata|all",
        default: "metadata",
        doc: "What listxattr names: user metadata that is known without a request, or the attributes `user.s3.*` as well. \
              metadata: programs that copy files list and copy all that is named, at up to three requests a file.",
        set: |o, v| value::choice(v, XattrList::CHOICES).map(|v| o.xattr_list = v),
    },
    Spec {
        name: "presign_ttl",
        group: Group::Objects,
        value: "DURATION",
        default: "1h",
        doc: "How long the URLs in user.s3.url and user.s3.url.put work: whoever has one needs no key. 1h: time to pass it \
              on and to use it once. At most 7 days, and no longer than temporary keys last.",
        set: |o, v| {
            value::duration(v, Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600)).map(|v| o.presign_ttl = v)
        },
    },
    Spec {
        name: "on_conflict",
        group: Group::Objects,
        value: "overwrite|fail|keep_both",
        default: "overwrite",
        doc: "What becomes of a changed file when somebody else stored a newer version since it was opened: ours replaces \
              it, close fails with ESTALE, or ours is stored beside it as `NAME (conflict HOST TIME).EXT`. overwrite: what \
              programs expect of a shared directory; the others cost a request more per file.",
        set: |o, v| value::choice(v, OnConflict::CHOICES).map(|v| o.on_conflict = v),
    },
    Spec {
        name: "checksum",
        group: Group::Objects,
        value: "auto|crc32c|md5|off",
        default: "auto",
        doc: "Digest that the store verifies uploaded bytes by: a CRC32C in a header of its own, or Content-MD5, which costs \
              a second of processor time per 600 MB. auto is what this kind of store takes; a store that refuses it gets none.",
        set: |o, v| value::choice(v, Checksum::CHOICES).map(|v| o.checksum = v),
    },
    Spec {
        name: "connect_timeout",
        group: Group::Patience,
        value: "DURATION",
        default: "5s",
        doc: "Longest wait for a connection. 5s: a store that is there answers in milliseconds, one that is not is retried.",
        set: |o, v| value::duration(v, MILLI..=HOUR).map(|v| o.connect_timeout = v),
    },
    Spec {
        name: "read_timeout",
        group: Group::Patience,
        value: "DURATION",
        default: "20s",
        doc: "Longest time without a byte from the store. Not a bound on a whole transfer, which may be large.",
        set: |o, v| value::duration(v, MILLI..=HOUR).map(|v| o.read_timeout = v),
    },
    Spec {
        name: "op_timeout",
        group: Group::Patience,
        value: "DURATION",
        default: "60s",
        doc: "Longest time of one operation with all its retries; then the application gets an error. 60s: no process \
              hangs because a network is gone.",
        set: |o, v| value::duration(v, MILLI..=DAY).map(|v| o.op_timeout = v),
    },
    Spec {
        name: "retries",
        group: Group::Patience,
        value: "NUMBER",
        default: "5",
        doc: "How often a failed request is sent again, with growing pauses, inside op_timeout.",
        set: |o, v| value::count(v, 0..=100).map(|v| o.retries = v as u32),
    },
    Spec {
        name: "mount_timeout",
        group: Group::Patience,
        value: "DURATION",
        default: "0",
        doc: "How long mounting is retried while name service, network, credentials or endpoint are not there yet. 0: a \
              person at a terminal wants to know at once; an fstab line with `_netdev` gets 60s, for machines that boot.",
        set: |o, v| value::duration(v, Duration::ZERO..=DAY).map(|v| o.mount_timeout = Some(v)),
    },
    Spec {
        name: "shutdown_timeout",
        group: Group::Patience,
        value: "DURATION",
        default: "300s",
        doc: "How long ending waits for files that are still being stored. What is left then is listed, and the exit code \
              is 1. 300s: a few gigabytes over a slow line; the systemd unit waits a little longer.",
        set: |o, v| value::duration(v, Duration::ZERO..=DAY).map(|v| o.shutdown_timeout = v),
    },
    Spec {
        name: "log",
        group: Group::Daemon,
        value: "auto|stderr|journald|syslog|FILE",
        default: "auto",
        doc: "Where messages go. auto: stderr in the foreground; in the background the journal, else syslog, else \
              /var/log/xosfs.log (~/.cache/xosfs/xosfs.log without root), because messages that go nowhere help nobody.",
        set: |o, v| {
            o.log = match v {
                "auto" => Log::Auto,
                "stderr" => Log::Stderr,
                "journald" => Log::Journald,
                "syslog" => Log::Syslog,
                _ if v.contains('/') => Log::File(value::path(v)?),
                _ => return Err(format!("`{v}` is not auto, stderr, journald, syslog or a path with a `/`")),
            };
            Ok(())
        },
    },
    Spec {
        name: "log_level",
        group: Group::Daemon,
        value: "error|warn|info|debug|trace",
        default: "info",
        doc: "How much is said. info is a few lines a day; debug is a line per operation.",
        set: |o, v| value::choice(v, LogLevel::CHOICES).map(|v| o.log_level = v),
    },
    Spec {
        name: "metrics",
        group: Group::Daemon,
        value: "ADDRESS:PORT|SOCKET",
        default: "",
        doc: "Serve the figures of `xosfs status` as OpenMetrics over HTTP, on a loopback address and port (0: any) or on \
              a unix socket with this path. Unset: nothing listens.",
        set: |o, v| value::metrics(v).map(|v| o.metrics = Some(v)),
    },
];

//! The records of the journal as they are on disk.
//!
//! A frame is a fixed head (mark, lengths, sequence numbers, CRC-32C of all that follows the checksum), a JSON document
//! and the bytes that belong to it. JSON costs a few hundred bytes a record and lets an administrator read what is in
//! a journal that no version of the program can open any more.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crc_fast::{CrcAlgorithm, Digest, checksum};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::key::Key;
use crate::read::Object;
use crate::s3::{Acl, Condition, ETag, Grant, Grantee, Headers, NewObject, ObjectId};

/// Begins every frame; the last byte is the version of the format.
pub(super) const MARK: [u8; 4] = *b"XJ\xb6\x02";
/// Frames of the first version, without the last fields of the head, are read as well.
const MARK_1: [u8; 4] = *b"XJ\xb6\x01";
/// What all versions of the mark begin with.
pub(super) const MARK_ANY: [u8; 3] = *b"XJ\xb6";
/// Mark, checksum, length of the document, length of the bytes, and the [`Stamp`].
const HEAD: usize = HEAD_1 + 8 + 8;
const HEAD_1: usize = 4 + 4 + 4 + 4 + 8;
/// No document is larger: what claims to be is damage.
const DOCUMENT_MAX: u32 = 64 << 20;
const BYTES_MAX: u32 = 64 << 20;

pub(super) fn crc(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// A running CRC-32C.
pub(super) struct Crc(Digest);

impl Crc {
    pub fn new() -> Crc {
        Crc(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn value(&self) -> u32 {
        self.0.finalize() as u32
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Record {
    /// Supersedes every earlier record of the same file.
    Pending(Box<PendingRecord>),
    /// Stored, deleted or discarded.
    Done {
        id: u64,
    },
    Rekeyed {
        id: u64,
        key: String,
    },
    /// What the last attempts to store it ended with.
    Tried {
        id: u64,
        attempts: u32,
        parked: bool,
        reason: String,
    },
    /// An upload is about to be created; its id is not known yet.
    UploadIntent {
        token: u64,
        key: String,
        at: u64,
    },
    UploadBegun {
        token: u64,
        key: String,
        upload: String,
        at: u64,
    },
    UploadEnded {
        token: u64,
    },
    /// The name of an object is gone, and the object is to follow.
    Unlinked {
        id: u64,
        key: String,
        /// Of the object that was unlinked: no other one is to be deleted.
        etag: String,
        /// The store's time of it, milliseconds since 1970.
        modified: Option<u64>,
        at: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PendingRecord {
    pub id: u64,
    pub key: String,
    pub base: Option<BaseRecord>,
    /// Milliseconds since 1970: when it was first acknowledged.
    pub since: u64,
    pub size: u64,
    /// From the lowest to the top.
    pub layers: Vec<LayerRecord>,
    pub object: ObjectRecord,
    pub condition: ConditionRecord,
    /// What the name held when a new or emptied file was opened.
    #[serde(default)]
    pub replaces: ConditionRecord,
    pub attempts: u32,
    pub parked: bool,
    pub reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct BaseRecord {
    pub key: String,
    pub etag: String,
    pub version: Option<String>,
    pub size: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    pub cut: u64,
    /// Size of the file up to and with this layer.
    pub size: u64,
    /// Start, length, and the offset in the blob; without one they are zeros.
    pub ranges: Vec<(u64, u64, Option<u64>)>,
    pub blob: Option<BlobRecord>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct BlobRecord {
    pub place: PlaceRecord,
    pub len: u64,
    pub crc: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum PlaceRecord {
    /// In the bytes of this very frame.
    Here(u64),
    /// In an earlier frame: segment and offset in its file.
    Segment(u64, u64),
    /// A file of the journal's directory.
    File(String),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) enum ConditionRecord {
    #[default]
    None,
    Absent,
    Match(String),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ObjectRecord {
    content_type: Option<String>,
    cache_control: Option<String>,
    content_disposition: Option<String>,
    content_encoding: Option<String>,
    content_language: Option<String>,
    expires: Option<String>,
    metadata: std::collections::BTreeMap<String, String>,
    storage_class: Option<String>,
    acl: Option<String>,
    grants: Option<AclRecord>,
    tags: Vec<(String, String)>,
    sse: Option<String>,
    sse_kms_key: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct AclRecord {
    owner: String,
    owner_name: Option<String>,
    /// Who, the permission, and whether objects inherit it.
    grants: Vec<(WhoRecord, String, Option<bool>)>,
    delivered: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum WhoRecord {
    User(String, Option<String>),
    Group(String),
    Email(String),
}

impl From<&Acl> for AclRecord {
    fn from(a: &Acl) -> Self {
        let who = |g: &Grantee| match g.clone() {
            Grantee::User { id, name } => WhoRecord::User(id, name),
            Grantee::Group(uri) => WhoRecord::Group(uri),
            Grantee::Email(address) => WhoRecord::Email(address),
        };
        AclRecord {
            owner: a.owner_id.clone(),
            owner_name: a.owner_name.clone(),
            grants: a.grants.iter().map(|g| (who(&g.grantee), g.permission.clone(), g.delivered)).collect(),
            delivered: a.delivered,
        }
    }
}

impl From<AclRecord> for Acl {
    fn from(r: AclRecord) -> Self {
        let grant = |(who, permission, delivered)| {
            let grantee = match who {
                WhoRecord::User(id, name) => Grantee::User { id, name },
                WhoRecord::Group(uri) => Grantee::Group(uri),
                WhoRecord::Email(address) => Grantee::Email(address),
            };
            Grant { grantee, permission, delivered }
        };
        Acl {
            owner_id: r.owner,
            owner_name: r.owner_name,
            grants: r.grants.into_iter().map(grant).collect(),
            delivered: r.delivered,
        }
    }
}

impl From<&NewObject> for ObjectRecord {
    fn from(o: &NewObject) -> Self {
        let h = o.headers.clone();
        ObjectRecord {
            content_type: h.content_type,
            cache_control: h.cache_control,
            content_disposition: h.content_disposition,
            content_encoding: h.content_encoding,
            content_language: h.content_language,
            expires: h.expires,
            metadata: h.metadata,
            storage_class: o.storage_class.clone(),
            acl: o.acl.clone(),
            grants: o.grants.as_ref().map(Into::into),
            tags: o.tags.clone(),
            sse: o.sse.clone(),
            sse_kms_key: o.sse_kms_key.clone(),
        }
    }
}

impl From<ObjectRecord> for NewObject {
    fn from(r: ObjectRecord) -> Self {
        NewObject {
            headers: Headers {
                content_type: r.content_type,
                cache_control: r.cache_control,
                content_disposition: r.content_disposition,
                content_encoding: r.content_encoding,
                content_language: r.content_language,
                expires: r.expires,
                metadata: r.metadata,
            },
            storage_class: r.storage_class,
            acl: r.acl,
            grants: r.grants.map(Into::into),
            tags: r.tags,
            sse: r.sse,
            sse_kms_key: r.sse_kms_key,
        }
    }
}

impl From<&Condition> for ConditionRecord {
    fn from(c: &Condition) -> Self {
        match c {
            Condition::None => ConditionRecord::None,
            Condition::Absent => ConditionRecord::Absent,
            Condition::Match(etag) => ConditionRecord::Match(etag.as_str().to_owned()),
        }
    }
}

impl From<ConditionRecord> for Condition {
    fn from(c: ConditionRecord) -> Self {
        match c {
            ConditionRecord::None => Condition::None,
            ConditionRecord::Absent => Condition::Absent,
            ConditionRecord::Match(etag) => Condition::Match(ETag::new(&etag)),
        }
    }
}

impl From<&Object> for BaseRecord {
    fn from(o: &Object) -> Self {
        BaseRecord {
            key: o.id.key.as_str().to_owned(),
            etag: o.id.etag.as_str().to_owned(),
            version: o.id.version.as_deref().map(str::to_owned),
            size: o.size,
        }
    }
}

impl BaseRecord {
    pub fn object(&self) -> Result<Object> {
        let version: Option<Arc<str>> = self.version.as_deref().map(Into::into);
        let id = ObjectId { key: Key::new(&self.key)?, etag: ETag::new(&self.etag), version };
        Ok(Object { id, size: self.size })
    }
}

pub(super) fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

pub(super) fn time(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}

/// Where a frame belongs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    pub seq: u64,
    /// The last record that was safe from a power failure when this one was written. It tells the damage of what was
    /// promised from the end of what was not.
    pub synced: u64,
    /// Of the process that wrote it: somebody may have stored a file that has journals in it.
    pub epoch: u64,
}

/// Appends a frame to `out`; where in `out` its bytes begin.
pub(super) fn encode<'a>(
    record: &Record,
    stamp: Stamp,
    bytes: impl Iterator<Item = &'a [u8]> + Clone,
    out: &mut Vec<u8>,
) -> Result<usize> {
    let document = serde_json::to_vec(record).map_err(|e| Error::new(Kind::Io, format!("journal record: {e}")))?;
    let length: usize = bytes.clone().map(<[u8]>::len).sum();
    if document.len() > DOCUMENT_MAX as usize || length > BYTES_MAX as usize {
        return Err(Error::new(Kind::TooLarge, "journal record"));
    }
    let start = out.len();
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&[0; 4]);
    // Both fit: see the check above.
    out.extend_from_slice(&(document.len() as u32).to_le_bytes());
    out.extend_from_slice(&(length as u32).to_le_bytes());
    for number in [stamp.seq, stamp.synced, stamp.epoch] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&document);
    let inline = out.len();
    for piece in bytes {
        out.extend_from_slice(piece);
    }
    let sum = crc(&out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
    Ok(inline)
}

/// A frame found in a segment.
pub(super) struct Frame {
    pub stamp: Stamp,
    pub record: Record,
    /// Where its bytes are in the segment.
    pub bytes: Range<u64>,
    pub end: usize,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The frame that begins at `at`, when it is whole and undamaged.
pub(super) fn decode(segment: &[u8], at: usize) -> Option<Frame> {
    let mark = segment.get(at..at + MARK.len())?;
    let head = match () {
        () if mark == MARK => HEAD,
        () if mark == MARK_1 => HEAD_1,
        () => return None,
    };
    let (sum, document, length) = (word(segment, at + 4)?, word(segment, at + 8)?, word(segment, at + 12)?);
    if document > DOCUMENT_MAX || length > BYTES_MAX {
        return None;
    }
    let seq = number(segment, at + 16)?;
    let stamp = match head {
        HEAD => Stamp { seq, synced: number(segment, at + 24)?, epoch: number(segment, at + 32)? },
        // A log of the first version was appended to, so that what comes before a frame is as safe as the frame.
        _ => Stamp { seq, synced: seq.saturating_sub(1), epoch: 0 },
    };
    let inline = at + head + document as usize;
    let end = inline + length as usize;
    if crc(segment.get(at + 8..end)?) != sum {
        return None;
    }
    let record = serde_json::from_slice(&segment[at + head..inline]).ok()?;
    Some(Frame { stamp, record, bytes: inline as u64..end as u64, end })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(seq: u64) -> Stamp {
        Stamp { seq, synced: seq - 1, epoch: 5 }
    }

    fn framed(seq: u64, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&Record::Done { id: 7 }, stamp(seq), [bytes].into_iter(), &mut out).unwrap();
        out
    }

    #[test]
    fn a_frame_survives_a_round_trip() {
        let mut segment = framed(1, b"abc");
        let second = segment.len();
        segment.extend(framed(2, b""));
        let frame = decode(&segment, 0).unwrap();
        assert_eq!((frame.stamp, &frame.record, frame.end), (stamp(1), &Record::Done { id: 7 }, second));
        assert_eq!(&segment[frame.bytes.start as usize..frame.bytes.end as usize], b"abc");
        assert_eq!(decode(&segment, second).unwrap().stamp, stamp(2));
    }

    #[test]
    fn no_damaged_or_cut_frame_is_taken() {
        let whole = framed(3, b"some bytes");
        for end in 0..whole.len() {
            assert!(decode(&whole[..end], 0).is_none(), "cut at {end}");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << bit;
                assert!(decode(&damaged, 0).is_none(), "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn frames_of_the_first_version_are_read() {
        let mut old = framed(9, b"bytes");
        old[..4].copy_from_slice(&MARK_1);
        old.drain(HEAD_1..HEAD);
        let sum = crc(&old[8..]);
        old[4..8].copy_from_slice(&sum.to_le_bytes());
        let frame = decode(&old, 0).unwrap();
        assert_eq!((frame.stamp, frame.end), (Stamp { epoch: 0, ..stamp(9) }, old.len()));
        assert_eq!(frame.record, Record::Done { id: 7 });
        assert_eq!(&old[frame.bytes.start as usize..], b"bytes");
    }

    #[test]
    fn objects_and_conditions_survive_a_round_trip() {
        let mut object = NewObject { acl: Some("private".into()), ..NewObject::default() };
        object.headers.content_type = Some("text/plain".into());
        object.headers.metadata.insert("mode".into(), "33188".into());
        object.tags = vec![("a".into(), "b".into())];
        let everybody = Grantee::Group("all".into());
        let owner = Grantee::User { id: "o".into(), name: None };
        let grant = |grantee, right: &str| Grant { grantee, permission: right.into(), delivered: Some(true) };
        object.grants = Some(Acl {
            owner_id: "o".into(),
            grants: vec![grant(everybody, "READ"), grant(owner, "FULL_CONTROL")],
            ..Acl::default()
        });
        assert_eq!(NewObject::from(ObjectRecord::from(&object)), object);
        for condition in [Condition::None, Condition::Absent, Condition::Match(ETag::new("x"))] {
            assert_eq!(Condition::from(ConditionRecord::from(&condition)), condition);
        }
    }
}

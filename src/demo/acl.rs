//! Users and access control lists: who may do what.

use std::collections::{HashMap, HashSet};

use parking_lot::RwLock;
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto;
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use serde::{Deserialize, Serialize};

pub(super) const ALL_USERS: &str = "http://acs.amazonaws.com/groups/global/AllUsers";
pub(super) const AUTHENTICATED_USERS: &str = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers";
pub(super) const LOG_DELIVERY: &str = "http://acs.amazonaws.com/groups/s3/LogDelivery";

/// A pair of keys and the user they belong to.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    pub access_key: String,
    pub secret_key: String,
    /// Canonical user id, as it stands in ACLs.
    pub user_id: String,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("access_key", &self.access_key).field("user_id", &self.user_id).finish()
    }
}

/// Keys that end.
struct Session {
    token: String,
    /// Milliseconds since the epoch.
    end: u64,
}

#[derive(Default)]
pub(super) struct Users {
    keys: RwLock<HashMap<String, Keys>>,
    /// By access key.
    sessions: RwLock<HashMap<String, Session>>,
    roles: RwLock<HashSet<String>>,
}

impl Users {
    pub fn add(&self, keys: Keys) {
        self.keys.write().insert(keys.access_key.clone(), keys);
    }

    pub fn remove(&self, access_key: &str) {
        self.keys.write().remove(access_key);
        self.sessions.write().remove(access_key);
    }

    pub fn add_role(&self, arn: &str) {
        self.roles.write().insert(arn.to_owned());
    }

    pub fn has_role(&self, arn: &str) -> bool {
        self.roles.read().contains(arn)
    }

    pub fn add_session(&self, keys: Keys, token: String, end: u64) {
        self.sessions.write().insert(keys.access_key.clone(), Session { token, end });
        self.add(keys);
    }

    /// Ends all sessions now.
    pub fn end_sessions(&self) {
        self.sessions.write().values_mut().for_each(|s| s.end = 0);
    }

    /// Whether the keys of a session come with its token. Other keys need none.
    pub fn token_fits(&self, access_key: &str, token: Option<&str>) -> bool {
        self.sessions.read().get(access_key).is_none_or(|s| token == Some(s.token.as_str()))
    }

    fn has_ended(&self, access_key: &str) -> bool {
        self.sessions.read().get(access_key).is_some_and(|s| super::store::now() >= s.end)
    }

    /// The user id behind an access key.
    pub fn id(&self, access_key: &str) -> Option<String> {
        self.keys.read().get(access_key).map(|k| k.user_id.clone())
    }

    fn knows(&self, id: &str) -> bool {
        self.keys.read().values().any(|k| k.user_id == id)
    }
}

pub(super) struct Auth(pub std::sync::Arc<super::Shared>);

#[async_trait::async_trait]
impl S3Auth for Auth {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if self.0.users.has_ended(access_key) {
            return Err(if self.0.knobs.with(|b| b.expired_is_denied) {
                s3_error!(AccessDenied, "Access Denied")
            } else {
                s3_error!(ExpiredToken, "The provided token has expired.")
            });
        }
        match self.0.users.keys.read().get(access_key) {
            Some(keys) => Ok(SecretKey::from(keys.secret_key.as_str())),
            None => Err(s3_error!(InvalidAccessKeyId, "The access key does not exist in our records.")),
        }
    }
}

/// Lets anonymous requests through to the operations, which decide by ACL.
pub(super) struct Everybody;

#[async_trait::async_trait]
impl s3s::access::S3Access for Everybody {
    async fn check(&self, _: &mut s3s::access::S3AccessContext<'_>) -> S3Result<()> {
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    Read,
    Write,
    ReadAcp,
    WriteAcp,
}

impl Right {
    fn name(self) -> &'static str {
        match self {
            Right::Read => "READ",
            Right::Write => "WRITE",
            Right::ReadAcp => "READ_ACP",
            Right::WriteAcp => "WRITE_ACP",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Grantee {
    User(String),
    Group(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Acl {
    pub owner: String,
    pub grants: Vec<(Grantee, String)>,
}

/// The grant headers of a request.
#[derive(Default)]
pub(super) struct GrantHeaders<'a> {
    pub full_control: Option<&'a str>,
    pub read: Option<&'a str>,
    pub write: Option<&'a str>,
    pub read_acp: Option<&'a str>,
    pub write_acp: Option<&'a str>,
}

/// Those of a request about an object, where nobody is granted to write: each input has fields of its own for them.
macro_rules! object_grants {
    ($input:expr) => {
        $crate::demo::acl::GrantHeaders {
            full_control: $input.grant_full_control.as_deref(),
            read: $input.grant_read.as_deref(),
            write: None,
            read_acp: $input.grant_read_acp.as_deref(),
            write_acp: $input.grant_write_acp.as_deref(),
        }
    };
}
pub(super) use object_grants;

impl GrantHeaders<'_> {
    pub fn any(&self) -> bool {
        [self.full_control, self.read, self.write, self.read_acp, self.write_acp].iter().any(Option::is_some)
    }
}

impl Acl {
    pub fn private(owner: &str) -> Self {
        Acl { owner: owner.into(), grants: vec![(Grantee::User(owner.into()), "FULL_CONTROL".into())] }
    }

    /// `bucket_owner` is `None` for the ACL of a bucket itself.
    pub fn canned(name: &str, owner: &str, bucket_owner: Option<&str>) -> S3Result<Self> {
        let mut acl = Acl::private(owner);
        let mut group = |group: &str, right: &str| acl.grants.push((Grantee::Group(group.into()), right.into()));
        match name {
            "private" => {}
            "public-read" => group(ALL_USERS, "READ"),
            "public-read-write" => {
                group(ALL_USERS, "READ");
                group(ALL_USERS, "WRITE");
            }
            "authenticated-read" => group(AUTHENTICATED_USERS, "READ"),
            "log-delivery-write" => {
                group(LOG_DELIVERY, "WRITE");
                group(LOG_DELIVERY, "READ_ACP");
            }
            "bucket-owner-read" | "bucket-owner-full-control" => {
                let right = if name == "bucket-owner-read" { "READ" } else { "FULL_CONTROL" };
                if let Some(id) = bucket_owner.filter(|id| *id != owner) {
                    acl.grants.push((Grantee::User(id.into()), right.into()));
                }
            }
            _ => return Err(s3_error!(InvalidArgument, "Invalid canned ACL")),
        }
        Ok(acl)
    }

    /// What the ACL headers of a request ask for; private without any.
    pub fn of_headers(
        canned: Option<&str>,
        grants: &GrantHeaders<'_>,
        owner: &str,
        bucket_owner: Option<&str>,
        users: &Users,
    ) -> S3Result<Self> {
        match canned {
            Some(_) if grants.any() => {
                Err(s3_error!(InvalidRequest, "Specifying both Canned ACLs and Header Grants is not allowed"))
            }
            Some(canned) => Acl::canned(canned, owner, bucket_owner),
            None if grants.any() => {
                let mut acl = Acl { owner: owner.into(), grants: Vec::new() };
                for (header, right) in [
                    (grants.full_control, "FULL_CONTROL"),
                    (grants.read, "READ"),
                    (grants.write, "WRITE"),
                    (grants.read_acp, "READ_ACP"),
                    (grants.write_acp, "WRITE_ACP"),
                ] {
                    for one in header.iter().flat_map(|h| h.split(',')) {
                        acl.grants.push((parse_grantee(one, users)?, right.into()));
                    }
                }
                Ok(acl)
            }
            None => Ok(Acl::private(owner)),
        }
    }

    pub fn of_policy(policy: dto::AccessControlPolicy, owner: &str, users: &Users) -> S3Result<Self> {
        if let Some(id) = policy.owner.and_then(|o| o.id)
            && id != owner
        {
            return Err(s3_error!(AccessDenied, "The owner cannot be changed"));
        }
        let mut acl = Acl { owner: owner.into(), grants: Vec::new() };
        for grant in policy.grants.unwrap_or_default() {
            let malformed = || S3Error::new(S3ErrorCode::MalformedACLError);
            let grantee = grant.grantee.ok_or_else(malformed)?;
            let permission = grant.permission.ok_or_else(malformed)?;
            if !["READ", "WRITE", "READ_ACP", "WRITE_ACP", "FULL_CONTROL"].contains(&permission.as_str()) {
                return Err(malformed());
            }
            let grantee = match (grantee.id, grantee.uri) {
                (Some(id), _) => user(&id, users)?,
                (None, Some(uri)) => group(&uri)?,
                (None, None) => {
                    return Err(s3_error!(UnresolvableGrantByEmailAddress, "No account has this email address"));
                }
            };
            acl.grants.push((grantee, permission.as_str().to_owned()));
        }
        Ok(acl)
    }

    /// `user` is `None` for anonymous requests. The owner may do everything.
    pub fn allows(&self, user: Option<&str>, right: Right) -> bool {
        if user == Some(&self.owner) {
            return true;
        }
        self.grants.iter().any(|(grantee, permission)| {
            let who = match grantee {
                Grantee::User(id) => user == Some(id),
                Grantee::Group(uri) => uri == ALL_USERS || (uri == AUTHENTICATED_USERS && user.is_some()),
            };
            who && (permission == right.name() || permission == "FULL_CONTROL")
        })
    }

    pub fn owner_dto(&self) -> dto::Owner {
        dto::Owner { display_name: Some(display_name(&self.owner)), id: Some(self.owner.clone()) }
    }

    pub fn grants_dto(&self) -> Vec<dto::Grant> {
        let grants = self.grants.iter();
        grants
            .map(|(grantee, permission)| {
                let grantee = match grantee {
                    Grantee::User(id) => dto::Grantee {
                        display_name: Some(display_name(id)),
                        email_address: None,
                        id: Some(id.clone()),
                        type_: dto::Type::from_static(dto::Type::CANONICAL_USER),
                        uri: None,
                    },
                    Grantee::Group(uri) => dto::Grantee {
                        display_name: None,
                        email_address: None,
                        id: None,
                        type_: dto::Type::from_static(dto::Type::GROUP),
                        uri: Some(uri.clone()),
                    },
                };
                dto::Grant { grantee: Some(grantee), permission: Some(permission.clone().into()) }
            })
            .collect()
    }
}

pub(super) fn display_name(id: &str) -> String {
    id.chars().take(8).collect()
}

fn user(id: &str, users: &Users) -> S3Result<Grantee> {
    if !users.knows(id) {
        return Err(s3_error!(InvalidArgument, "Invalid id"));
    }
    Ok(Grantee::User(id.into()))
}

fn group(uri: &str) -> S3Result<Grantee> {
    if ![ALL_USERS, AUTHENTICATED_USERS, LOG_DELIVERY].contains(&uri) {
        return Err(s3_error!(InvalidArgument, "Invalid group uri"));
    }
    Ok(Grantee::Group(uri.into()))
}

/// `id="…"` or `uri="…"`.
fn parse_grantee(text: &str, users: &Users) -> S3Result<Grantee> {
    let (kind, value) =
        text.split_once('=').ok_or_else(|| s3_error!(InvalidArgument, "Argument format not recognized"))?;
    let value = value.trim().trim_matches('"');
    match kind.trim() {
        "id" => user(value, users),
        "uri" => group(value),
        "emailAddress" => Err(s3_error!(UnresolvableGrantByEmailAddress, "No account has this email address")),
        _ => Err(s3_error!(InvalidArgument, "Argument format not recognized")),
    }
}

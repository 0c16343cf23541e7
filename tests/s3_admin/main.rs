//! Administration through the client: versions, bucket documents, presigned URLs and forms, sessions of a role. Runs
//! against the server in `XOSFS_TEST_S3` ("ENDPOINT ACCESS_KEY SECRET_KEY [REGION]") when it is set, else against the
//! embedded one. `XOSFS_TEST_ROLE` names a role that these keys may take; without it, the one that
//! `tests/servers/radosgw-up` makes.
//!
//! What a server cannot do is said where it is skipped: Ceph 16 has no restore from archives, no website, encryption
//! and logging configuration, and its sessions cannot be ended from outside. `tests/servers/*-unfit` has the reasons by
//! test. `XOSFS_TEST_SERVER_NAME` is `moto` for that one, whatever else is taken for Ceph.

mod buckets;
#[path = "../fixture/mod.rs"]
mod fixture;
mod presigned;
mod sessions;
mod versions;

use fixture::Fixture;
use xosfs::s3::*;

impl Fixture {
    fn sts(&self, change: impl FnOnce(&mut StsSettings)) -> Sts {
        let mut settings = StsSettings::new(self.endpoint(), self.settings.region.as_str());
        change(&mut settings);
        Sts::new(settings).unwrap()
    }

    /// A client whose keys are sessions of the role.
    fn in_role(&self) -> S3 {
        let base = self.settings.credentials.clone();
        let request = AssumeRole::new(self.role.as_str(), "test-1");
        let credentials = role_credentials(base, self.sts(|_| ()), request).unwrap();
        self.client(|s| s.credentials = credentials)
    }
}

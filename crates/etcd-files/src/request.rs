//! What an entry of etcd's log says: `InternalRaftRequest` (`api/etcdserverpb/raft_internal.proto`), every kind that
//! changes something.

use prost::Message as _;
use protos::etcd::etcdserverpb as pb;

/// On whose behalf a request is made.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RequestHeader {
    /// The user's name; empty for nobody.
    #[prost(string, tag = "2")]
    pub username: String,
    /// The auth revision at which the user was known.
    #[prost(uint64, tag = "3")]
    pub auth_revision: u64,
}

/// `membershippb.ClusterVersionSetRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ClusterVersionSet {
    /// The version.
    #[prost(string, tag = "1")]
    pub version: String,
}

/// `membershippb.Attributes`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Attributes {
    /// The member's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Where it serves clients.
    #[prost(string, repeated, tag = "2")]
    pub client_urls: Vec<String>,
}

/// `membershippb.ClusterMemberAttrSetRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MemberAttributesSet {
    /// Whose.
    #[prost(uint64, tag = "1")]
    pub member: u64,
    /// What it tells.
    #[prost(message, optional, tag = "2")]
    pub attributes: Option<Attributes>,
}

/// `etcdserverpb.Request`, a request of etcd's version 2. In it 3.4 and 3.5 log what a member tells of itself and, 3.4,
/// the cluster's version.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RequestV2 {
    /// One of [`METHODS_V2`].
    #[prost(string, tag = "2")]
    pub method: String,
    /// What it is about.
    #[prost(string, tag = "3")]
    pub path: String,
    /// The new value.
    #[prost(string, tag = "4")]
    pub val: String,
}

/// What a request of version 2 may do.
const METHODS_V2: [&str; 5] = ["POST", "PUT", "DELETE", "QGET", "SYNC"];

/// One request; one field is set. Kinds that only read or only this member knows are left out.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs, reason = "the fields are etcd's requests by their names")]
pub struct InternalRequest {
    #[prost(message, optional, tag = "100")]
    pub header: Option<RequestHeader>,
    #[prost(message, optional, tag = "2")]
    pub v2: Option<RequestV2>,
    #[prost(message, optional, tag = "4")]
    pub put: Option<pb::PutRequest>,
    #[prost(message, optional, tag = "5")]
    pub delete_range: Option<pb::DeleteRangeRequest>,
    #[prost(message, optional, tag = "6")]
    pub txn: Option<pb::TxnRequest>,
    #[prost(message, optional, tag = "7")]
    pub compaction: Option<pb::CompactionRequest>,
    #[prost(message, optional, tag = "8")]
    pub lease_grant: Option<pb::LeaseGrantRequest>,
    #[prost(message, optional, tag = "9")]
    pub lease_revoke: Option<pb::LeaseRevokeRequest>,
    #[prost(message, optional, tag = "10")]
    pub alarm: Option<pb::AlarmRequest>,
    #[prost(message, optional, tag = "11")]
    pub lease_checkpoint: Option<pb::LeaseCheckpointRequest>,
    #[prost(message, optional, tag = "1000")]
    pub auth_enable: Option<pb::AuthEnableRequest>,
    #[prost(message, optional, tag = "1011")]
    pub auth_disable: Option<pb::AuthDisableRequest>,
    #[prost(message, optional, tag = "1100")]
    pub user_add: Option<pb::AuthUserAddRequest>,
    #[prost(message, optional, tag = "1101")]
    pub user_delete: Option<pb::AuthUserDeleteRequest>,
    #[prost(message, optional, tag = "1103")]
    pub user_change_password: Option<pb::AuthUserChangePasswordRequest>,
    #[prost(message, optional, tag = "1104")]
    pub user_grant_role: Option<pb::AuthUserGrantRoleRequest>,
    #[prost(message, optional, tag = "1105")]
    pub user_revoke_role: Option<pb::AuthUserRevokeRoleRequest>,
    #[prost(message, optional, tag = "1200")]
    pub role_add: Option<pb::AuthRoleAddRequest>,
    #[prost(message, optional, tag = "1201")]
    pub role_delete: Option<pb::AuthRoleDeleteRequest>,
    #[prost(message, optional, tag = "1203")]
    pub role_grant_permission: Option<pb::AuthRoleGrantPermissionRequest>,
    #[prost(message, optional, tag = "1204")]
    pub role_revoke_permission: Option<pb::AuthRoleRevokePermissionRequest>,
    #[prost(message, optional, tag = "1300")]
    pub cluster_version_set: Option<ClusterVersionSet>,
    #[prost(message, optional, tag = "1301")]
    pub member_attributes_set: Option<MemberAttributesSet>,
}

impl InternalRequest {
    /// Reads an entry's data: such a request, or one of version 2 alone, as etcd wrote them before there were others.
    ///
    /// # Errors
    /// When it is neither.
    pub fn read(data: &[u8]) -> Result<Self, prost::DecodeError> {
        // No method is the beginning of a message, so neither is taken for the other.
        match RequestV2::decode(data) {
            Ok(old) if METHODS_V2.contains(&old.method.as_str()) => {
                Ok(Self { v2: Some(old), ..Self::default() })
            }
            _ => Self::decode(data),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_both_versions_are_told_apart() {
        let path = "/0/version".to_owned();
        let old = RequestV2 { method: "PUT".into(), path, val: "3.4.0".into() };
        let alone = InternalRequest::read(&old.encode_to_vec()).expect("version 2");
        assert_eq!(alone.v2.as_ref(), Some(&old));
        let inside = InternalRequest { v2: Some(old.clone()), ..InternalRequest::default() };
        assert_eq!(InternalRequest::read(&inside.encode_to_vec()).expect("wrapped"), inside);
        let put = pb::PutRequest { key: "PUT".into(), value: "/0/version".into(), ..Default::default() };
        let put = InternalRequest { put: Some(put), ..InternalRequest::default() };
        assert_eq!(InternalRequest::read(&put.encode_to_vec()).expect("version 3"), put);
        assert!(InternalRequest::read(b"PUT").is_err());
    }
}

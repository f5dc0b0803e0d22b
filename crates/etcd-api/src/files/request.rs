//! Entries of etcd's log as commands of the store.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use etcd_files::{InternalRequest, RequestHeader, RequestV2};
use mvcc::{Alarm, AlarmAction, AlarmKind, AuthCommand, Caller, Command, MemberAttributes, Op, Txn};
use protos::etcd::etcdserverpb as pb;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::convert;

/// What a request in an entry of `term` says; `None` for one that changes nothing.
pub(super) fn command(request: InternalRequest, term: u64) -> Result<Option<Command>, String> {
    let header = request.header.clone().unwrap_or_default();
    let command = match keys(&request).transpose().or_else(|| others(&request, term).transpose()) {
        Some(command) => command?,
        None => match auth(request)? {
            Some(command) => Command::Auth(command),
            None => return Ok(None),
        },
    };
    Ok(Some(on_behalf(header, command)))
}

fn on_behalf(header: RequestHeader, command: Command) -> Command {
    match header.username.is_empty() {
        true => command,
        false => command.by(Caller { user: header.username, revision: header.auth_revision }),
    }
}

fn keys(request: &InternalRequest) -> Result<Option<Command>, String> {
    let said = |status: tonic::Status| status.message().to_owned();
    let txn = if let Some(put) = &request.put {
        Txn::of(Op::Put(convert::put(put.clone()).map_err(said)?))
    } else if let Some(delete) = &request.delete_range {
        Txn::of(Op::Delete(convert::delete(delete.clone()).map_err(said)?))
    } else if let Some(txn) = &request.txn {
        convert::txn(txn.clone(), usize::MAX).map_err(said)?
    } else if let Some(compaction) = &request.compaction {
        return Ok(Some(Command::Compact { revision: compaction.revision }));
    } else {
        return Ok(None);
    };
    Ok(Some(Command::Txn(txn)))
}

fn others(request: &InternalRequest, term: u64) -> Result<Option<Command>, String> {
    if let Some(grant) = &request.lease_grant {
        return Ok(Some(Command::LeaseGrant { id: grant.id, ttl: grant.ttl }));
    }
    if let Some(revoke) = &request.lease_revoke {
        return Ok(Some(Command::LeaseRevoke { id: revoke.id }));
    }
    if let Some(checkpoint) = &request.lease_checkpoint {
        let checkpoints = checkpoint.checkpoints.iter();
        let remaining = checkpoints.map(|lease| (lease.id, lease.remaining_ttl)).collect();
        return Ok(Some(Command::LeaseCheckpoint { term, remaining }));
    }
    if let Some(alarm) = &request.alarm {
        return Ok(alarm_command(alarm));
    }
    if let Some(set) = &request.cluster_version_set {
        return Ok(Some(Command::ClusterVersion { version: set.version.clone() }));
    }
    if let Some(old) = &request.v2 {
        return version_2(old);
    }
    let Some(set) = &request.member_attributes_set else { return Ok(None) };
    let attributes = set.attributes.clone().unwrap_or_default();
    let (name, client_urls) = (attributes.name, attributes.client_urls);
    Ok(Some(Command::MemberAttributes(MemberAttributes { id: set.member, name, client_urls })))
}

/// What a member tells of itself, as version 2 spells it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct AttributesV2 {
    name: String,
    #[serde(rename = "clientURLs")]
    client_urls: Vec<String>,
}

/// Of version 2 only what etcd says of itself counts; its keys are not served by 3.6 any more either.
fn version_2(RequestV2 { method, path, val }: &RequestV2) -> Result<Option<Command>, String> {
    if method != "PUT" {
        return Ok(None);
    }
    if path == "/0/version" {
        return Ok(Some(Command::ClusterVersion { version: val.clone() }));
    }
    let member = path.strip_prefix("/0/members/").and_then(|path| path.strip_suffix("/attributes"));
    let Some(id) = member.and_then(|id| u64::from_str_radix(id, 16).ok()) else { return Ok(None) };
    let AttributesV2 { name, client_urls } =
        serde_json::from_str(val).map_err(|error| format!("a member's attributes: {error}"))?;
    Ok(Some(Command::MemberAttributes(MemberAttributes { id, name, client_urls })))
}

fn alarm_command(request: &pb::AlarmRequest) -> Option<Command> {
    use pb::alarm_request::AlarmAction as Wire;
    let action = match request.action() {
        Wire::Get => return None,
        Wire::Activate => AlarmAction::Activate,
        Wire::Deactivate => AlarmAction::Deactivate,
    };
    let kind = match request.alarm() {
        pb::AlarmType::None => return None,
        pb::AlarmType::Nospace => AlarmKind::NoSpace,
        pb::AlarmType::Corrupt => AlarmKind::Corrupt,
    };
    Some(Command::Alarm { action, alarm: Alarm { member: request.member_id, kind } })
}

fn auth(request: InternalRequest) -> Result<Option<AuthCommand>, String> {
    Ok(Some(if request.auth_enable.is_some() {
        AuthCommand::Enable
    } else if request.auth_disable.is_some() {
        AuthCommand::Disable
    } else if let Some(pb::AuthUserAddRequest { name, password, options, hashed_password }) = request.user_add
    {
        let no_password = options.is_some_and(|options| options.no_password);
        let password = if no_password { Bytes::new() } else { hash(&name, &password, &hashed_password)? };
        AuthCommand::UserAdd { name, password, no_password }
    } else if let Some(request) = request.user_delete {
        AuthCommand::UserDelete { name: request.name }
    } else if let Some(pb::AuthUserChangePasswordRequest { name, password, hashed_password }) =
        request.user_change_password
    {
        let password = hash(&name, &password, &hashed_password)?;
        AuthCommand::UserChangePassword { name, password }
    } else if let Some(request) = request.user_grant_role {
        AuthCommand::UserGrantRole { user: request.user, role: request.role }
    } else if let Some(request) = request.user_revoke_role {
        AuthCommand::UserRevokeRole { user: request.name, role: request.role }
    } else if let Some(request) = request.role_add {
        AuthCommand::RoleAdd { name: request.name }
    } else if let Some(request) = request.role_delete {
        AuthCommand::RoleDelete { name: request.role }
    } else if let Some(request) = request.role_grant_permission {
        let given = request.perm.ok_or("a grant without a permission")?;
        AuthCommand::RoleGrantPermission { role: request.name, permission: convert::permission_of(given) }
    } else if let Some(request) = request.role_revoke_permission {
        let (role, key, range_end) = (request.role, request.key, request.range_end);
        AuthCommand::RoleRevokePermission { role, key, range_end }
    } else {
        return Ok(None);
    }))
}

/// What bcrypt does with a password that an entry brings as it is: etcd's default.
const COST: u32 = 10;

/// etcd before 3.5 hashed a password when it applied it, each member for itself. All members that take such an entry
/// over must agree: the salt is made of what they know.
fn hash(name: &str, password: &str, hashed: &str) -> Result<Bytes, String> {
    if !hashed.is_empty() || password.is_empty() {
        return STANDARD.decode(hashed).map(Bytes::from).map_err(|error| error.to_string());
    }
    let known = Sha256::new().chain_update(name).chain_update([0]).chain_update(password).finalize();
    let salt: [u8; 16] = known[..16].try_into().expect("invariant: 32 bytes");
    let hashed = bcrypt::hash_with_salt(password, COST, salt).map_err(|error| error.to_string())?;
    Ok(hashed.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_that_was_not_hashed_yet_is_hashed_alike_by_all_members() {
        let user = pb::AuthUserAddRequest { name: "n".into(), password: "p".into(), ..Default::default() };
        let added = || {
            let request = InternalRequest { user_add: Some(user.clone()), ..InternalRequest::default() };
            match command(request, 1) {
                Ok(Some(Command::Auth(AuthCommand::UserAdd { password, .. }))) => password,
                other => panic!("{other:?}"),
            }
        };
        let hashed = added();
        assert_eq!(hashed, added());
        let text = std::str::from_utf8(&hashed).expect("text");
        assert!(bcrypt::verify("p", text).expect("a hash") && !bcrypt::verify("q", text).expect("a hash"));
        assert_ne!(hash("another", "p", "").expect("a hash"), hashed);
    }
}

//! Writes the state as a file of etcd's own database, with what etcd keeps in it (`server/storage/schema`).

use std::io::{self, Seek, Write};
use std::ops::ControlFlow;

use bytes::Bytes;
use etcd_files::bolt::Writer;
use etcd_files::{Lease, MemberRecord, Version, VersionKey, encode_revision, encode_version};
use mvcc::{Auth, Contents, Engine, StoredVersion};
use prost::Message as _;
use protos::etcd::authpb;
use serde_json::json;
use store::{Member, hex};

use super::STORAGE_VERSION;
use crate::convert;

/// Writes the state in `engine` to the beginning of `out`; its size.
///
/// # Errors
/// When the engine cannot be read or the file cannot be written.
pub fn write_snapshot<E: Engine>(engine: &E, members: &[Member], out: impl Write + Seek) -> io::Result<u64> {
    let contents = mvcc::contents(engine).map_err(io::Error::other)?;
    let mut writer = Writer::new(out)?;
    // In the order of the buckets' names.
    write_all(
        &mut writer,
        "alarm",
        contents.alarms.iter().map(|alarm| (convert::alarm(*alarm).encode_to_vec(), Vec::new())),
    )?;
    write_all(&mut writer, "auth", auth_status(&contents.auth))?;
    write_all(&mut writer, "authRoles", roles(&contents.auth))?;
    write_all(&mut writer, "authUsers", users(&contents.auth))?;
    let version = contents.cluster_version.as_deref().unwrap_or(STORAGE_VERSION);
    write_all(&mut writer, "cluster", [(b"clusterVersion".to_vec(), version.as_bytes().to_vec())])?;
    write_keys(&mut writer, engine)?;
    write_all(
        &mut writer,
        "lease",
        contents.leases.iter().map(|lease| (lease.id.to_be_bytes().to_vec(), lease_value(lease))),
    )?;
    write_all(&mut writer, "members", member_entries(members)?)?;
    write_all(&mut writer, "members_removed", [])?;
    write_all(&mut writer, "meta", meta(&contents, members))?;
    writer.finish()
}

type Entry = (Vec<u8>, Vec<u8>);

fn write_all<W: Write + io::Seek>(
    writer: &mut Writer<W>,
    name: &str,
    entries: impl IntoIterator<Item = Entry>,
) -> io::Result<()> {
    let mut bucket = writer.bucket(name);
    let mut entries: Vec<Entry> = entries.into_iter().collect();
    entries.sort();
    entries.into_iter().try_for_each(|(key, value)| bucket.put(&key, &value))?;
    bucket.close()
}

fn write_keys<W: Write + io::Seek>(writer: &mut Writer<W>, engine: &impl Engine) -> io::Result<()> {
    let mut bucket = writer.bucket("key");
    let (mut written, mut key, mut value) = (Ok(()), Vec::new(), Vec::new());
    let visited = mvcc::versions(engine, &mut |version| {
        let StoredVersion { main, sub, tombstone, kv } = version;
        let at = VersionKey { main, sub: i64::from(sub), tombstone };
        at.encode(&mut key);
        encode_version(Version { at, kv: convert::kv(kv) }, &mut value);
        written = bucket.put(&key, &value);
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    visited.map_err(io::Error::other)?;
    written?;
    bucket.close()
}

fn lease_value(lease: &mvcc::StoredLease) -> Vec<u8> {
    Lease { id: lease.id, ttl: lease.ttl, remaining_ttl: lease.remaining }.encode_to_vec()
}

fn auth_status(auth: &Auth) -> [Entry; 2] {
    let revision = auth.revision().to_be_bytes().to_vec();
    [(b"authEnabled".to_vec(), vec![u8::from(auth.is_enabled())]), (b"authRevision".to_vec(), revision)]
}

fn users(auth: &Auth) -> Vec<Entry> {
    let entry = |name: &str| {
        let user = auth.user(name)?;
        let value = authpb::User {
            name: Bytes::copy_from_slice(name.as_bytes()),
            password: user.password.clone(),
            roles: user.roles.iter().map(|role| role.to_string()).collect(),
            options: Some(authpb::UserAddOptions { no_password: user.no_password }),
        };
        Some((name.as_bytes().to_vec(), value.encode_to_vec()))
    };
    auth.users().filter_map(entry).collect()
}

fn roles(auth: &Auth) -> Vec<Entry> {
    let entry = |name: &str| {
        let role = auth.role(name)?;
        let key_permission = role.permissions.iter().map(convert::permission).collect();
        let value = authpb::Role { name: Bytes::copy_from_slice(name.as_bytes()), key_permission };
        Some((name.as_bytes().to_vec(), value.encode_to_vec()))
    };
    auth.roles().filter_map(entry).collect()
}

fn member_entries(members: &[Member]) -> io::Result<Vec<Entry>> {
    let entry = |member: &Member| {
        let record = MemberRecord {
            id: member.id,
            peer_urls: member.peer_urls.clone(),
            is_learner: member.is_learner,
            name: member.name.clone(),
            client_urls: member.client_urls.clone(),
        };
        Ok((hex(member.id).into_bytes(), serde_json::to_vec(&record)?))
    };
    members.iter().map(entry).collect()
}

fn meta(contents: &Contents, members: &[Member]) -> Vec<Entry> {
    let (learners, voters): (Vec<&Member>, Vec<&Member>) =
        members.iter().partition(|member| member.is_learner);
    let ids = |members: Vec<&Member>| members.iter().map(|member| member.id).collect::<Vec<_>>();
    let mut state = json!({ "voters": ids(voters), "auto_leave": false });
    if !learners.is_empty() {
        state["learners"] = ids(learners).into();
    }
    let entry = |name: &str, value: Vec<u8>| (name.as_bytes().to_vec(), value);
    let mut entries = vec![
        entry("confState", state.to_string().into_bytes()),
        entry("consistent_index", contents.applied_index.to_be_bytes().to_vec()),
        entry("storageVersion", STORAGE_VERSION.as_bytes().to_vec()),
        entry("term", contents.applied_term.to_be_bytes().to_vec()),
    ];
    if contents.compact_revision > 0 {
        // Whoever opens the file goes on with the compaction.
        entries.push(entry("scheduledCompactRev", encode_revision(contents.compact_revision, 0).to_vec()));
    }
    entries
}

//! etcd's snapshots: the state as a file of etcd's own database, with a checksum behind it.
//!
//! The file is written from a copy of the state, so that writes go on meanwhile, to a place on the disk that has no name
//! and goes with the process; then it is sent. Read `bolt.rs` for the file's format; here is what etcd keeps in it
//! (`server/storage/schema`).

mod bolt;

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::Path;

use bolt::Writer;
use bytes::{BufMut as _, Bytes};
use mvcc::{Auth, Contents, StoredVersion};
use prost::Message as _;
use protos::etcd::{authpb, etcdserverpb as pb, mvccpb};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use store::{Member, StateCopy};
use tokio::sync::mpsc;
use tonic::Status;

use crate::convert;

/// The storage format of the file.
pub(crate) const STORAGE_VERSION: &str = "3.7.0";
/// Bytes that are sent at a time, as in etcd.
const BLOB: usize = 32 << 10;
/// Messages that wait for a slow client.
pub(crate) const QUEUE: usize = 16;

pub(crate) type Out = mpsc::Sender<Result<pb::SnapshotResponse, Status>>;

/// Writes a snapshot into `scratch` and sends it. Blocks.
pub(crate) fn send(copy: &StateCopy, members: &[Member], scratch: &Path, out: &Out) {
    let sent = write(copy, members, scratch).and_then(|(file, size)| send_file(file, size, out));
    if let Err(error) = sent {
        // Nobody is told if the client has gone.
        drop(out.blocking_send(Err(Status::internal(format!("cannot make a snapshot: {error}")))));
    }
}

fn send_file(file: File, size: u64, out: &Out) -> io::Result<()> {
    let mut file = BufReader::new(file);
    let (mut hash, mut left) = (Sha256::new(), size);
    let say = |remaining_bytes, blob: Vec<u8>| {
        let version = STORAGE_VERSION.to_owned();
        let response =
            pb::SnapshotResponse { remaining_bytes, blob: blob.into(), version, ..Default::default() };
        out.blocking_send(Ok(response)).map_err(|_| io::Error::other("the client has gone"))
    };
    while left > 0 {
        let mut blob = vec![0; BLOB.min(usize::try_from(left).unwrap_or(BLOB))];
        file.read_exact(&mut blob)?;
        hash.update(&blob);
        left -= blob.len() as u64;
        say(left, blob)?;
    }
    say(0, hash.finalize().to_vec())
}

/// The file, from its beginning, and its size.
fn write(copy: &StateCopy, members: &[Member], scratch: &Path) -> io::Result<(File, u64)> {
    let path = scratch.join(format!("snapshot-{:x}.tmp", std::process::id()));
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
    fs::remove_file(&path)?;
    let engine = copy.engine();
    let contents = mvcc::contents(&**engine).map_err(io::Error::other)?;
    let mut writer = Writer::new(BufWriter::new(file.try_clone()?))?;
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
    write_keys(&mut writer, copy)?;
    write_all(
        &mut writer,
        "lease",
        contents.leases.iter().map(|lease| (lease.id.to_be_bytes().to_vec(), lease_value(lease))),
    )?;
    write_all(&mut writer, "members", member_entries(members))?;
    write_all(&mut writer, "members_removed", [])?;
    write_all(&mut writer, "meta", meta(&contents, members))?;
    let size = writer.finish()?;
    let mut file = file;
    file.seek(SeekFrom::Start(0))?;
    Ok((file, size))
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
    entries.into_iter().try_for_each(|(key, value)| bucket.put(key, value))?;
    bucket.close()
}

fn write_keys<W: Write + io::Seek>(writer: &mut Writer<W>, copy: &StateCopy) -> io::Result<()> {
    let mut bucket = writer.bucket("key");
    let mut written = Ok(());
    let visited = mvcc::versions(copy.engine(), &mut |version| {
        written = bucket.put(revision_key(&version), version_value(version.kv));
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    visited.map_err(io::Error::other)?;
    written?;
    bucket.close()
}

/// Main and sub revision, and a mark if the key was deleted.
fn revision_key(version: &StoredVersion) -> Vec<u8> {
    let mut key = revision_bytes(version.main, i64::from(version.sub));
    if version.tombstone {
        key.push(b't');
    }
    key
}

fn revision_bytes(main: i64, sub: i64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(18);
    bytes.put_i64(main);
    bytes.put_u8(b'_');
    bytes.put_i64(sub);
    bytes
}

fn version_value(kv: mvcc::KeyValue) -> Vec<u8> {
    // etcd keeps of a deletion the key alone.
    let kv = if kv.version == 0 {
        mvccpb::KeyValue { key: kv.key, ..Default::default() }
    } else {
        convert::kv(kv)
    };
    kv.encode_to_vec()
}

/// `leasepb.Lease`.
#[derive(Clone, PartialEq, prost::Message)]
struct Lease {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    ttl: i64,
    #[prost(int64, tag = "3")]
    remaining_ttl: i64,
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

fn member_entries(members: &[Member]) -> impl Iterator<Item = Entry> {
    members.iter().map(|member| {
        let mut value = json!({
            "id": member.id,
            "peerURLs": member.peer_urls,
            "name": member.name,
            "clientURLs": member.client_urls,
        });
        if member.is_learner {
            value["isLearner"] = true.into();
        }
        (format!("{:x}", member.id).into_bytes(), value.to_string().into_bytes())
    })
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
        entries.push(entry("scheduledCompactRev", revision_bytes(contents.compact_revision, 0)));
    }
    entries
}

//! What etcd keeps in which bucket of its database (`server/storage/schema`, `server/storage/mvcc`).

use std::ops::ControlFlow;

use bytes::Bytes;
use prost::Message as _;
use protos::etcd::etcdserverpb::AlarmMember;
use protos::etcd::{authpb, mvccpb};
use serde::{Deserialize, Serialize};

use crate::bolt::{BoltError, BoltFile, ReadAt};

/// Why a database cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The file is damaged or none.
    #[error(transparent)]
    Bolt(#[from] BoltError),
    /// It is bbolt's, but not etcd's.
    #[error("not etcd's database: it has no bucket {0:?}")]
    Missing(&'static str),
    /// A value in it cannot be understood.
    #[error("the database holds what cannot be understood: bucket {bucket:?}, key {key}: {what}")]
    Value {
        /// Which bucket.
        bucket: String,
        /// The key, with what is not printable escaped.
        key: String,
        /// What is wrong.
        what: String,
    },
}

/// A version's key: the revision that made it, which of its changes it is, and whether it is a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionKey {
    /// The revision.
    pub main: i64,
    /// Which of its changes.
    pub sub: i64,
    /// The key was deleted.
    pub tombstone: bool,
}

/// A version of a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    /// Where it stands.
    pub at: VersionKey,
    /// The key as it was then; of a deletion the key alone.
    pub kv: mvccpb::KeyValue,
}

impl VersionKey {
    /// Reads it: eight bytes, `_`, eight bytes, and for a deletion `t`.
    pub fn decode(key: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(i64::from_be_bytes(key.get(at..at + 8)?.try_into().ok()?));
        let (main, sub) = (number(0)?, number(9)?);
        let tombstone = match key.get(17..)? {
            [] => false,
            [b't'] => true,
            _ => return None,
        };
        (key[8] == b'_' && main >= 0 && sub >= 0).then_some(Self { main, sub, tombstone })
    }

    /// The bytes that [`Self::decode`] reads.
    pub fn encode(&self, into: &mut Vec<u8>) {
        into.clear();
        into.extend_from_slice(&encode_revision(self.main, self.sub));
        if self.tombstone {
            into.push(b't');
        }
    }
}

/// A revision as etcd's keys say it.
pub fn encode_revision(main: i64, sub: i64) -> [u8; 17] {
    let mut bytes = [b'_'; 17];
    bytes[..8].copy_from_slice(&main.to_be_bytes());
    bytes[9..].copy_from_slice(&sub.to_be_bytes());
    bytes
}

/// A version's value; etcd keeps of a deletion the key alone.
pub fn encode_version(version: Version, into: &mut Vec<u8>) {
    into.clear();
    let kv = match version.at.tombstone {
        true => mvccpb::KeyValue { key: version.kv.key, ..Default::default() },
        false => version.kv,
    };
    into.reserve(kv.encoded_len());
    kv.encode_raw(into);
}

/// `leasepb.Lease`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Lease {
    /// Its id.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// Seconds it was granted for.
    #[prost(int64, tag = "2")]
    pub ttl: i64,
    /// Seconds it had left at its last checkpoint.
    #[prost(int64, tag = "3")]
    pub remaining_ttl: i64,
}

/// A member as etcd keeps it, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberRecord {
    /// Its id.
    pub id: u64,
    /// Where it talks to other members.
    #[serde(rename = "peerURLs", deserialize_with = "or_none")]
    pub peer_urls: Vec<String>,
    /// Whether it has no vote.
    #[serde(rename = "isLearner", skip_serializing_if = "std::ops::Not::not")]
    pub is_learner: bool,
    /// Its name.
    pub name: String,
    /// Where it serves clients.
    #[serde(rename = "clientURLs", deserialize_with = "or_none")]
    pub client_urls: Vec<String>,
}

/// Go writes a list of nothing as `null`.
fn or_none<'de, D: serde::Deserializer<'de>>(list: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(list)?.unwrap_or_default())
}

/// Users, roles, and whether they matter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuthTables {
    /// Whether requests are checked.
    pub enabled: bool,
    /// Counts the changes; 0 where there was none.
    pub revision: u64,
    /// Users by name.
    pub users: Vec<authpb::User>,
    /// Roles by name.
    pub roles: Vec<authpb::Role>,
}

/// What the bucket `meta` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatabaseMeta {
    /// The last entry of the log that is in the database.
    pub consistent_index: u64,
    /// Its term; 0 where it is not kept (before 3.5).
    pub term: u64,
    /// The version of the format, kept from 3.6 on.
    pub storage_version: Option<String>,
    /// The last compaction, finished or not.
    pub compact_revision: i64,
}

/// etcd's database.
pub struct Database<R> {
    file: BoltFile<R>,
}

/// A value that cannot be understood, with the key it stood at.
type Fault = (Vec<u8>, String);
/// Called for every key with its value; the error says what cannot be understood.
type TryVisit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, String> + 'a;

impl<R: ReadAt> Database<R> {
    /// Opens a database.
    ///
    /// # Errors
    /// When it is none. The same for what follows.
    pub fn open(source: R) -> Result<Self, SchemaError> {
        let file = BoltFile::open(source)?;
        if !file.buckets()?.iter().any(|name| name == b"key") {
            return Err(SchemaError::Missing("key"));
        }
        Ok(Self { file })
    }

    /// The file beneath.
    pub fn file(&self) -> &BoltFile<R> {
        &self.file
    }

    /// Visits every version in the order in which they were made, until the visitor breaks off.
    ///
    /// # Errors
    /// As above.
    pub fn versions(&self, visit: &mut dyn FnMut(Version) -> ControlFlow<()>) -> Result<(), SchemaError> {
        self.each("key", &mut |key, value| {
            let at = VersionKey::decode(key).ok_or("it is no revision")?;
            let kv = mvccpb::KeyValue::decode(Bytes::copy_from_slice(value)).map_err(|e| e.to_string())?;
            Ok(visit(Version { at, kv }))
        })
    }

    /// The last revision that the database speaks of. Reads little.
    ///
    /// # Errors
    /// As above.
    pub fn revision(&self) -> Result<i64, SchemaError> {
        let last = self.file.last_key(b"key")?;
        let last = last.and_then(|key| VersionKey::decode(&key)).map_or(0, |at| at.main);
        // The last versions may all be gone by the compaction.
        Ok(last.max(self.meta()?.compact_revision).max(1))
    }

    /// Visits every lease, by id.
    ///
    /// # Errors
    /// As above.
    pub fn leases(&self, visit: &mut dyn FnMut(Lease)) -> Result<(), SchemaError> {
        self.each("lease", &mut |_, value| {
            visit(Lease::decode(value).map_err(|error| error.to_string())?);
            Ok(ControlFlow::Continue(()))
        })
    }

    /// The alarms that are raised.
    ///
    /// # Errors
    /// As above.
    pub fn alarms(&self) -> Result<Vec<AlarmMember>, SchemaError> {
        let mut found = Vec::new();
        self.each("alarm", &mut |key, _| {
            found.push(AlarmMember::decode(key).map_err(|error| error.to_string())?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    /// Users and roles.
    ///
    /// # Errors
    /// As above.
    pub fn auth(&self) -> Result<AuthTables, SchemaError> {
        let mut auth = AuthTables::default();
        self.each("auth", &mut |key, value| {
            match key {
                b"authEnabled" => auth.enabled = value == [1],
                b"authRevision" => auth.revision = number(value)?,
                _ => {}
            }
            Ok(ControlFlow::Continue(()))
        })?;
        self.each("authUsers", &mut |_, value| {
            let user = authpb::User::decode(Bytes::copy_from_slice(value));
            auth.users.push(user.map_err(|error| error.to_string())?);
            Ok(ControlFlow::Continue(()))
        })?;
        self.each("authRoles", &mut |_, value| {
            let role = authpb::Role::decode(Bytes::copy_from_slice(value));
            auth.roles.push(role.map_err(|error| error.to_string())?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(auth)
    }

    /// The members, by id.
    ///
    /// # Errors
    /// As above.
    pub fn members(&self) -> Result<Vec<MemberRecord>, SchemaError> {
        let mut found = Vec::new();
        self.each("members", &mut |_, value| {
            found.push(serde_json::from_slice(value).map_err(|error| error.to_string())?);
            Ok(ControlFlow::Continue(()))
        })?;
        found.sort_by_key(|member: &MemberRecord| member.id);
        Ok(found)
    }

    /// The version that all members understand.
    ///
    /// # Errors
    /// As above.
    pub fn cluster_version(&self) -> Result<Option<String>, SchemaError> {
        let mut found = None;
        self.each("cluster", &mut |key, value| {
            if key == b"clusterVersion" {
                found = Some(String::from_utf8_lossy(value).into_owned());
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    /// What the bucket `meta` says.
    ///
    /// # Errors
    /// As above.
    pub fn meta(&self) -> Result<DatabaseMeta, SchemaError> {
        let mut meta = DatabaseMeta::default();
        self.each("meta", &mut |key, value| {
            match key {
                b"consistent_index" => meta.consistent_index = number(value)?,
                b"term" => meta.term = number(value)?,
                b"storageVersion" => {
                    meta.storage_version = Some(String::from_utf8_lossy(value).into_owned());
                }
                b"scheduledCompactRev" | b"finishedCompactRev" => {
                    let at = VersionKey::decode(value).ok_or("it is no revision")?;
                    meta.compact_revision = meta.compact_revision.max(at.main);
                }
                _ => {}
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(meta)
    }

    /// A bucket that is not there is an empty one: older versions have fewer.
    fn each(&self, bucket: &str, visit: &mut TryVisit<'_>) -> Result<(), SchemaError> {
        let mut fault: Option<Fault> = None;
        self.file.visit(bucket.as_bytes(), &mut |key, value| match visit(key, value) {
            Ok(flow) => flow,
            Err(what) => {
                fault = Some((key.to_vec(), what));
                ControlFlow::Break(())
            }
        })?;
        let Some((key, what)) = fault else { return Ok(()) };
        Err(SchemaError::Value { bucket: bucket.to_owned(), key: key.escape_ascii().to_string(), what })
    }
}

fn number(bytes: &[u8]) -> Result<u64, String> {
    let bytes = bytes.try_into().map_err(|_| format!("a number has {} bytes, not 8", bytes.len()))?;
    Ok(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_keys_are_read_and_refused() {
        for at in [
            VersionKey { main: 7, sub: 3, tombstone: false },
            VersionKey { main: i64::MAX, sub: 0, tombstone: true },
        ] {
            let mut bytes = Vec::new();
            at.encode(&mut bytes);
            assert_eq!(VersionKey::decode(&bytes), Some(at));
            assert_eq!(VersionKey::decode(&bytes[..16]), None);
            bytes.extend_from_slice(b"tt");
            assert_eq!(VersionKey::decode(&bytes), None);
        }
        assert_eq!(VersionKey::decode(&[0xff; 17]), None);
    }

    #[test]
    fn members_are_read_as_go_writes_them() {
        let text =
            r#"{"id":9372538179322589801,"peerURLs":["http://127.0.0.1:2380"],"name":"","clientURLs":null}"#;
        let member: MemberRecord = serde_json::from_str(text).expect("a member");
        assert_eq!((member.id, member.client_urls.len()), (0x8211_f1d0_f64f_3269, 0));
    }
}

//! Fills an empty engine with a state that was made elsewhere: the other direction of `dump.rs`.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::dump::{Contents, StoredVersion};
use crate::engine::{Batch, Engine, EngineError, Table};
use crate::record::{self, Before, meta};
use crate::tree::{Entry, Place, Tree};
use crate::types::{KeyRange, LeaseId, Revision};

/// Bytes that are handed to the engine at a time.
const BATCH_BYTES: usize = 4 << 20;

/// Writes a state into an engine, which must be empty.
pub struct Loader<'a, E: ?Sized> {
    engine: &'a E,
    batch: Batch,
    bytes: usize,
    last: Place,
    /// The newest version of each key: each names the one before.
    newest: Tree,
}

impl<'a, E: Engine + ?Sized> Loader<'a, E> {
    /// Begins.
    pub fn new(engine: &'a E) -> Self {
        Self {
            engine,
            batch: Batch::default(),
            bytes: 0,
            last: Place { main: 0, sub: 0 },
            newest: Tree::default(),
        }
    }

    /// The revision of the last version; 0 before the first.
    pub fn revision(&self) -> Revision {
        self.last.main
    }

    /// The leases that keys are attached to as they are now.
    pub fn attached(&self) -> BTreeSet<LeaseId> {
        let entries = self.newest.range(&KeyRange::all());
        entries
            .filter(|(_, entry)| entry.is_live() && entry.lease != 0)
            .map(|(_, entry)| entry.lease)
            .collect()
    }

    /// Adds a version; they come in the order in which they were made.
    ///
    /// # Errors
    /// When it does not lie behind the one before, or the engine cannot write.
    pub fn version(&mut self, version: &StoredVersion) -> Result<(), EngineError> {
        let place = Place { main: version.main, sub: version.sub };
        if place <= self.last {
            let text = format!("revision {}.{} is not behind {:?}", place.main, place.sub, self.last);
            return Err(EngineError(text));
        }
        self.last = place;
        let kv = &version.kv;
        let before = self.newest.get(&kv.key).copied();
        let entry = Entry::new(place, kv.create_revision, kv.version, kv.lease, kv.value.len());
        let entry = if version.tombstone { entry.tombstone() } else { entry };
        self.newest.insert(&kv.key, entry.first(before.is_none()));
        let value = record::encode_version(kv, version.tombstone, before.as_ref().map(Before::of));
        self.bytes += value.len();
        self.batch.put(Table::Revisions, record::place_key(place).to_vec(), value);
        if self.bytes < BATCH_BYTES {
            return Ok(());
        }
        self.bytes = 0;
        self.engine.write(std::mem::take(&mut self.batch))
    }

    /// Writes what there is beside keys, and `caller_meta` for the caller.
    ///
    /// # Errors
    /// When a version is newer than the state's revision, or the engine cannot write.
    pub fn finish(mut self, contents: &Contents, caller_meta: Bytes) -> Result<(), EngineError> {
        if contents.revision < self.last.main.max(1) {
            let text = format!("the state's revision {} is behind {}", contents.revision, self.last.main);
            return Err(EngineError(text));
        }
        let batch = &mut self.batch;
        for lease in &contents.leases {
            let value = record::encode_i64s([lease.ttl, lease.remaining]);
            batch.put(Table::Leases, record::lease_key(lease.id), value);
        }
        let applied = [contents.applied_index.cast_signed(), contents.applied_term.cast_signed()];
        batch.put(Table::Meta, meta::APPLIED, record::encode_i64s(applied));
        batch.put(Table::Meta, meta::REVISION, record::encode_i64s([contents.revision]));
        if contents.compact_revision > 0 {
            batch.put(Table::Meta, meta::COMPACTED, record::encode_i64s([contents.compact_revision]));
        }
        batch.put(Table::Meta, meta::ALARMS, record::encode_alarms(contents.alarms.iter().copied()));
        batch.put(Table::Meta, meta::MEMBERS, record::encode_members(contents.members.iter()));
        if let Some(version) = &contents.cluster_version {
            batch.put(Table::Meta, meta::CLUSTER_VERSION, version.clone().into_bytes());
        }
        contents.auth.write_all(batch);
        batch.put(Table::Meta, meta::CALLER, caller_meta);
        self.engine.write(self.batch)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::{Command, KeyRange, MemoryEngine, Mvcc, Op, PutRequest, Txn, contents, versions};

    fn put(key: &'static str, value: &'static str, lease: i64) -> Command {
        let put = PutRequest { key: key.into(), value: value.into(), lease, ..PutRequest::default() };
        Command::Txn(Txn::of(Op::Put(put)))
    }

    #[test]
    fn what_was_read_out_of_one_engine_is_the_same_in_another() {
        let engine = MemoryEngine::default();
        let mut mvcc = Mvcc::open(engine.clone()).expect("open");
        let delete = crate::DeleteRequest { range: KeyRange::prefix("gone"), prev_kv: false };
        let commands = [
            Command::LeaseGrant { id: 7, ttl: 100 },
            put("a", "1", 7),
            put("gone1", "x", 0),
            put("gone2", "x", 0),
            Command::Txn(Txn::of(Op::Delete(delete))),
            put("a", "2", 7),
            Command::Compact { revision: 3 },
            Command::ClusterVersion { version: "3.7.0".into() },
            Command::Auth(crate::AuthCommand::RoleAdd { name: "reader".into() }),
            Command::Auth(crate::AuthCommand::UserAdd {
                name: "u".into(),
                password: "hash".into(),
                no_password: false,
            }),
            Command::Auth(crate::AuthCommand::UserGrantRole { user: "u".into(), role: "reader".into() }),
        ];
        for (index, command) in commands.iter().enumerate() {
            mvcc.apply(index as u64 + 1, 2, command).expect("engine").response.expect("applied");
        }
        mvcc.commit(Some("beside".into())).expect("commit");

        let copy = MemoryEngine::default();
        let mut loader = Loader::new(&copy);
        versions(&engine, &mut |version| {
            loader.version(&version).expect("load");
            ControlFlow::Continue(())
        })
        .expect("read");
        let read = contents(&engine).expect("read");
        loader.finish(&read, "beside".into()).expect("finish");

        let loaded = Mvcc::open(copy.clone()).expect("open the copy");
        assert_eq!((loaded.applied(), loaded.caller_meta()), ((11, 2), Some("beside".into())));
        let (before, after) = (mvcc.view(), loaded.view());
        assert_eq!(after.revision(), before.revision());
        assert_eq!(after.compact_revision(), 3);
        for revision in 3..=before.revision() {
            let request = crate::RangeRequest { revision, ..crate::RangeRequest::new(KeyRange::all()) };
            assert_eq!(after.range(&request), before.range(&request), "revision {revision}");
        }
        let again = contents(&copy).expect("read the copy");
        assert_eq!((&again.auth, &again.leases), (&read.auth, &read.leases));
        assert_eq!(again.cluster_version, read.cluster_version);
    }

    #[test]
    fn versions_out_of_order_are_refused() {
        let engine = MemoryEngine::default();
        let mut loader = Loader::new(&engine);
        let kv = crate::KeyValue {
            key: "k".into(),
            value: "v".into(),
            create_revision: 5,
            mod_revision: 5,
            version: 1,
            lease: 0,
        };
        let version = StoredVersion { main: 5, sub: 0, tombstone: false, kv };
        loader.version(&version).expect("the first");
        assert!(loader.version(&version).is_err(), "the same again");
        assert!(loader.version(&StoredVersion { main: 4, ..version }).is_err(), "an older one");
    }
}

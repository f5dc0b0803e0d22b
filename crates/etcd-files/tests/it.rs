//! What the fuzz targets begin with is decoded, and refused without a panic where any byte of it is changed.

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;

use etcd_files::{Database, InternalRequest, read_wal};
use proptest::prelude::*;
use prost::Message as _;

fn corpus(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

/// Reads everything; how many versions there are.
fn read(data: &[u8]) -> Option<usize> {
    let database = Database::open(data).ok()?;
    let mut versions = 0;
    let read = database.versions(&mut |_| {
        versions += 1;
        ControlFlow::Continue(())
    });
    let leases = database.leases(&mut |_| {});
    let small = (database.alarms().ok()?, database.members().ok()?, database.cluster_version().ok()?);
    drop((small, database.auth().ok()?, database.meta().ok()?, database.revision().ok()?));
    read.and(leases).ok()?;
    Some(versions)
}

#[test]
fn the_fuzz_corpus_is_decoded() {
    assert_eq!(read(&corpus("bolt/snapshot")), Some(6));
    let folder = tempfile::tempdir().expect("folder");
    fs::write(folder.path().join("0.wal"), corpus("etcd_wal/restored")).expect("write");
    let log = read_wal(folder.path(), 0).expect("a log");
    assert_eq!((log.entries.len(), log.state.commit), (1, 1), "one member was added");
}

proptest! {
    #[test]
    fn damage_is_never_a_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = corpus("bolt/snapshot");
        let place = at.index(bytes.len());
        bytes[place] = byte;
        let _ = read(&bytes);
        let _ = read(&bytes[..cut.index(bytes.len())]);
        let mut log = corpus("etcd_wal/restored");
        let place = at.index(log.len());
        log[place] = byte;
        let folder = tempfile::tempdir().expect("folder");
        fs::write(folder.path().join("0.wal"), &log).expect("write");
        drop(read_wal(folder.path(), 0));
        drop(InternalRequest::decode(&log[..cut.index(log.len())]));
    }
}

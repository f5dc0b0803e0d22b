//! What the fuzz targets begin with is decoded, and refused without a panic where any byte of it is changed.

use std::fs;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::PathBuf;

use etcd_files::bolt::BoltFile;
use etcd_files::{Checked, Database, InternalRequest, VersionKey, check_trailer, read_wal, status};
use proptest::prelude::*;

fn corpus(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

/// All that a target begins with.
fn inputs(target: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = fs::read_dir(folder).expect("a corpus").map(|file| file.expect("a file").path());
    let inputs: Vec<_> = files.map(|path| fs::read(path).expect("a file")).collect();
    writeln!(std::io::stderr(), "fuzz corpus {target}: {} inputs", inputs.len()).expect("printed");
    inputs
}

/// Reads everything; how many versions there are.
fn read(data: &[u8]) -> Option<usize> {
    let database = Database::open(data).ok()?;
    let buckets = pages(database.file());
    let mut versions = 0;
    let read = database.versions(&mut |_| {
        versions += 1;
        ControlFlow::Continue(())
    });
    let leases = database.leases(&mut |_| {});
    let small = (database.alarms().ok()?, database.members().ok()?, database.cluster_version().ok()?);
    drop((small, database.auth().ok()?, database.meta().ok()?, database.revision().ok()?));
    read.and(leases).ok()?;
    buckets.is_some().then_some(versions)
}

/// Reads all pages, whatever the buckets are named.
fn pages(file: &BoltFile<&[u8]>) -> Option<()> {
    for name in file.buckets().ok()? {
        file.visit(&name, &mut |_, _| ControlFlow::Continue(())).ok()?;
        file.last_key(&name).ok()?;
    }
    Some(())
}

/// Reads a snapshot as a file; how many keys there are, if its checksum is right.
fn snapshot(data: &[u8]) -> Result<u64, String> {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(data).expect("write");
    let checked = check_trailer(&file, false).map_err(|error| error.to_string());
    assert_eq!(check_trailer(&file, true).ok(), Some(Checked::Skipped));
    let status = status(&file).map_err(|error| error.to_string());
    checked.and(status).map(|status| status.total_key)
}

/// Reads a request, and a version's name.
fn request(data: &[u8]) -> Option<InternalRequest> {
    let _ = VersionKey::decode(data);
    InternalRequest::read(data).ok()
}

#[test]
fn the_fuzz_corpus_is_decoded() {
    assert_eq!(read(&corpus("bolt/snapshot")), Some(6));
    let folder = tempfile::tempdir().expect("folder");
    fs::write(folder.path().join("0.wal"), corpus("etcd_wal/restored")).expect("write");
    let log = read_wal(folder.path(), 0).expect("a log");
    assert_eq!((log.entries.len(), log.state.commit), (1, 1), "one member was added");
    assert!(snapshot(&corpus("snapshot/with-sum")).is_ok_and(|keys| keys > 0));
    let bad = snapshot(&corpus("snapshot/bad-sum")).expect_err("another checksum");
    assert!(bad.starts_with("expected sha256 ["), "{bad}");
    assert!(snapshot(&corpus("snapshot/bad-short")).is_err());
    assert!(snapshot(b"").is_err());
    let put = request(&corpus("etcd_request/put")).expect("a request");
    assert_eq!(
        (put.header.expect("a header").username, put.put.expect("a put").lease),
        ("alice".to_owned(), 9)
    );
    assert!(request(&corpus("etcd_request/txn")).is_some_and(|request| request.txn.is_some()));
    let old = request(&corpus("etcd_request/version-2")).and_then(|request| request.v2);
    assert_eq!(old.map(|old| (old.path, old.val)), Some(("/0/version".to_owned(), "3.4.0".to_owned())));
    assert_eq!(request(&corpus("etcd_request/bad-cut")), None);
    inputs("bolt").iter().for_each(|data| _ = read(data));
    inputs("snapshot").iter().for_each(|data| drop(snapshot(data)));
    inputs("etcd_request").iter().for_each(|data| drop(request(data)));
    for data in inputs("etcd_wal") {
        fs::write(folder.path().join("0.wal"), data).expect("write");
        drop(read_wal(folder.path(), 0));
    }
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
        request(&log[..cut.index(log.len())]);
        for name in ["put", "txn", "version-2"] {
            let mut bytes = corpus(&format!("etcd_request/{name}"));
            let place = at.index(bytes.len());
            bytes[place] = byte;
            request(&bytes);
            request(&bytes[..cut.index(bytes.len())]);
        }
    }

    #[test]
    fn a_snapshot_of_which_anything_is_changed_is_refused(
        at in any::<prop::sample::Index>(), flip in 1..=u8::MAX, cut in any::<prop::sample::Index>(),
    ) {
        let whole = corpus("snapshot/with-sum");
        let mut bytes = whole.clone();
        bytes[at.index(whole.len())] ^= flip;
        prop_assert!(snapshot(&bytes).is_err());
        prop_assert!(snapshot(&whole[..cut.index(whole.len())]).is_err());
    }
}

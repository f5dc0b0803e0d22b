//! The data folder as the store uses it.

use std::path::Path;

use bytes::Bytes;
use mvcc::{Command, Mvcc, Op, PutRequest, Txn};
use rocks::{DataFolder, OpenError};
use std::sync::Arc;
use store::storage::{StateEngine, Storage as _};

fn put(mvcc: &mut Mvcc<Arc<dyn StateEngine>>, index: u64, value: &str) {
    let put = PutRequest { key: "k".into(), value: Bytes::from(value.to_owned()), ..PutRequest::default() };
    mvcc.apply(index, 1, &Command::Txn(Txn::of(Op::Put(put)))).expect("the engine").response.expect("put");
    mvcc.commit(Some(Bytes::from(format!("meta {index}")))).expect("commit");
}

fn value(mvcc: &Mvcc<Arc<dyn StateEngine>>) -> Option<Bytes> {
    mvcc.view().get(b"k").expect("read").map(|kv| kv.value)
}

fn open(folder: &DataFolder) -> Mvcc<Arc<dyn StateEngine>> {
    Mvcc::open(folder.open_state().expect("state")).expect("open")
}

#[test]
fn a_folder_has_one_user() {
    let temp = tempfile::tempdir().expect("folder");
    let folder = DataFolder::open(temp.path()).expect("open");
    let second = DataFolder::open(temp.path());
    assert!(matches!(second, Err(OpenError::InUse(_))), "a second user is refused");
    drop(folder);
    DataFolder::open(temp.path()).expect("free again");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let Err(error) = DataFolder::open("/proc/nothing/here") else { panic!("made a folder in /proc") };
    assert!(error.to_string().starts_with("cannot use the data folder /proc/nothing/here: "), "{error}");
}

#[test]
fn the_log_may_be_elsewhere() {
    let (temp, other) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    let folder = DataFolder::open(temp.path()).expect("open").with_log_at(other.path().join("log"));
    drop(folder.open_log().expect("log"));
    assert!(other.path().join("log").exists() && !temp.path().join("wal").exists());
}

#[test]
fn a_large_state_survives_a_clean_stop() {
    let temp = tempfile::tempdir().expect("folder");
    {
        let folder = DataFolder::open(temp.path()).expect("open");
        let mut mvcc = open(&folder);
        (1..=1_000).for_each(|index| put(&mut mvcc, index, "here"));
    }
    let folder = DataFolder::open(temp.path()).expect("open again");
    let mvcc = open(&folder);
    assert_eq!(value(&mvcc), Some("here".into()));
    assert_eq!((mvcc.applied(), mvcc.caller_meta()), ((1_000, 1), Some("meta 1000".into())));
}

/// The folder may be being deleted by whoever told the process to stop.
#[test]
fn what_the_log_soon_plays_again_makes_no_file_when_the_state_is_closed() {
    let temp = tempfile::tempdir().expect("folder");
    let folder = DataFolder::open(temp.path()).expect("open");
    let mut mvcc = open(&folder);
    put(&mut mvcc, 3, "here");
    let state = temp.path().join("state/1");
    let before = folders(&state);
    drop(mvcc);
    assert_eq!(folders(&state), before);
    let again = open(&folder);
    assert_eq!((value(&again), again.applied()), (None, (0, 0)), "as after a crash");
}

#[test]
fn a_checkpoint_becomes_the_state_and_later_writes_are_not_in_it() {
    let temp = tempfile::tempdir().expect("folder");
    let other = tempfile::tempdir().expect("folder");
    let source = DataFolder::open(temp.path()).expect("open");
    let engine = source.open_state().expect("state");
    let mut mvcc = Mvcc::open(engine.clone()).expect("open");
    put(&mut mvcc, 1, "before");
    let checkpoint = other.path().join("received");
    engine.checkpoint(&checkpoint).expect("checkpoint");
    put(&mut mvcc, 2, "after");
    let peeked = source.open_checkpoint(&checkpoint).expect("read only");
    assert_eq!(mvcc::peek(&*peeked).expect("peek"), (1, 1, Some("meta 1".into())));
    drop(peeked);

    let target = DataFolder::open(other.path().join("data")).expect("open");
    let mut old = open(&target);
    put(&mut old, 1, "old");
    let new = Mvcc::open(target.replace_state(&checkpoint).expect("replace")).expect("open");
    assert_eq!(value(&new), Some("before".into()));
    assert_eq!(value(&old), Some("old".into()), "those who hold the old state still read it");
    drop((old, new, target));
    let target = DataFolder::open(other.path().join("data")).expect("open again");
    assert_eq!(value(&open(&target)), Some("before".into()));
    assert_eq!(folders(&other.path().join("data/state")), ["2"], "the old state is gone");
}

fn folders(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).expect("read");
    entries.map(|entry| entry.expect("entry").file_name().into_string().expect("name")).collect()
}

#[test]
fn a_damaged_folder_is_an_error() {
    let temp = tempfile::tempdir().expect("folder");
    {
        let folder = DataFolder::open(temp.path()).expect("open");
        put(&mut open(&folder), 1, "v");
    }
    std::fs::write(temp.path().join("state/1/CURRENT"), "nonsense").expect("damage");
    let folder = DataFolder::open(temp.path()).expect("open");
    assert!(folder.open_state().is_err());
    std::fs::write(temp.path().join("STATE"), "nonsense").expect("damage");
    let Err(error) = folder.open_state() else { panic!("opened") };
    assert!(error.to_string().ends_with("STATE is damaged"), "{error}");
}

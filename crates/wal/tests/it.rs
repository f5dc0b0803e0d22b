//! The log on a real disk: what it keeps, what it refuses.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use proptest::prelude::*;
use store::storage::{LogBatch, LogEngine, LogMeta};
use wal::Wal;

/// Small, so that a test fills several.
const SEGMENT: usize = 8192;

fn open(folder: &Path) -> Wal {
    Wal::open_with(folder, SEGMENT).expect("open")
}

fn value(index: u64) -> Bytes {
    Bytes::from(format!("entry {index} {}", "x".repeat((index % 90) as usize)))
}

fn write(log: &Wal, range: Range<u64>) {
    let entries = range.map(|index| (index, value(index))).collect();
    log.write(LogBatch { entries, ..LogBatch::default() }).expect("write");
}

fn remove(log: &Wal, range: Range<u64>) {
    log.write(LogBatch { remove: Some(range), ..LogBatch::default() }).expect("remove");
}

fn set(log: &Wal, key: LogMeta, value: &'static str) {
    log.write(LogBatch { meta: vec![(key, value.into())], ..LogBatch::default() }).expect("set");
}

fn indexes(log: &Wal) -> Range<u64> {
    let entries = log.read(0..u64::MAX, usize::MAX).expect("read");
    assert!(entries.iter().all(|(index, bytes)| *bytes == value(*index)), "an entry is another");
    entries.first().map_or(0, |(first, _)| *first)..entries.last().map_or(0, |(last, _)| last + 1)
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry").path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|found| found == "wal")).collect();
    files.sort();
    files
}

#[test]
fn entries_over_many_segments_are_cut_at_both_ends_and_stay_so() {
    let folder = tempfile::tempdir().expect("folder");
    let log = open(folder.path());
    write(&log, 1..300);
    log.sync().expect("sync");
    let before = segments(folder.path()).len();
    assert!(before > 3, "{before}");
    remove(&log, 0..200);
    remove(&log, 297..u64::MAX);
    assert_eq!(indexes(&log), 200..297);
    assert_eq!(log.last().expect("last"), Some((296, value(296))));
    assert_eq!(segments(folder.path()).len(), before, "nothing goes before it is durable that it may");
    log.sync().expect("sync");
    assert!(segments(folder.path()).len() < before);
    drop(log);
    let log = open(folder.path());
    assert_eq!(indexes(&log), 200..297);
    write(&log, 297..310);
    remove(&log, 0..310);
    assert_eq!(log.last().expect("last"), None);
    log.sync().expect("sync");
    drop(log);
    let log = open(folder.path());
    write(&log, 500..510);
    assert_eq!(indexes(&log), 500..510);
}

#[test]
fn a_read_is_bounded_but_never_empty() {
    let folder = tempfile::tempdir().expect("folder");
    let log = open(folder.path());
    write(&log, 100..200);
    assert_eq!(log.read(150..200, 0).expect("read").len(), 1);
    assert_eq!(log.read(150..153, usize::MAX).expect("read").len(), 3);
    let first = value(150).len();
    assert_eq!(log.read(150..200, first + 1).expect("read").len(), 2);
    assert!(log.read(200..300, usize::MAX).expect("read").is_empty());
}

#[test]
fn single_values_outlive_the_segments_they_were_written_to() {
    let folder = tempfile::tempdir().expect("folder");
    let log = open(folder.path());
    assert_eq!(log.meta(LogMeta::Vote).expect("meta"), None);
    set(&log, LogMeta::Vote, "old");
    set(&log, LogMeta::Vote, "vote");
    set(&log, LogMeta::Identity, "me");
    write(&log, 1..300);
    remove(&log, 0..300);
    log.sync().expect("sync");
    assert_eq!(segments(folder.path()).len(), 1);
    drop(log);
    let log = open(folder.path());
    assert_eq!(log.meta(LogMeta::Vote).expect("meta"), Some("vote".into()));
    assert_eq!(log.meta(LogMeta::Identity).expect("meta"), Some("me".into()));
}

#[test]
fn an_entry_larger_than_a_segment_has_one_of_its_own() {
    let folder = tempfile::tempdir().expect("folder");
    let log = open(folder.path());
    let large = Bytes::from(vec![7; 5 * SEGMENT]);
    for (index, bytes) in [(1, value(1)), (2, large.clone()), (3, value(3))] {
        log.write(LogBatch { entries: vec![(index, bytes)], ..LogBatch::default() }).expect("write");
    }
    log.sync().expect("sync");
    drop(log);
    let entries = open(folder.path()).read(0..9, usize::MAX).expect("read");
    assert_eq!(entries, [(1, value(1)), (2, large), (3, value(3))]);
}

/// A log of which so many entries were promised, and more were written; where the unpromised begin.
fn half_promised(folder: &Path) -> (PathBuf, usize) {
    let log = open(folder);
    write(&log, 1..20);
    log.sync().expect("sync");
    let path = segments(folder).pop().expect("a segment");
    let end = |path: &Path| {
        let bytes = fs::read(path).expect("read");
        bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| (last + 1).next_multiple_of(8))
    };
    let promised = end(&path);
    write(&log, 20..40);
    // Writes without a sync.
    log.last().expect("last");
    assert!(end(&path) > promised);
    (path, promised)
}

#[test]
fn a_write_that_was_not_finished_ends_the_log_wherever_it_was_torn() {
    let folder = tempfile::tempdir().expect("folder");
    let (path, promised) = half_promised(folder.path());
    let whole = fs::read(&path).expect("read");
    for cut in (promised.next_multiple_of(512)..whole.len()).step_by(512) {
        let copy = tempfile::tempdir().expect("folder");
        let mut bytes = whole.clone();
        bytes[cut..].fill(0);
        fs::write(copy.path().join(path.file_name().expect("name")), &bytes).expect("write");
        let log = open(copy.path());
        let there = indexes(&log);
        assert!(there.start == 1 && there.end >= 20, "{there:?} of a log cut at {cut}");
        write(&log, there.end..there.end + 9);
        log.sync().expect("sync");
        drop(log);
        assert_eq!(indexes(&open(copy.path())), 1..there.end + 9);
    }
}

#[test]
fn sectors_of_an_unfinished_write_may_be_missing_in_any_order() {
    let folder = tempfile::tempdir().expect("folder");
    let (path, promised) = half_promised(folder.path());
    let whole = fs::read(&path).expect("read");
    for sector in promised.div_ceil(512)..whole.len() / 512 {
        let copy = tempfile::tempdir().expect("folder");
        let mut bytes = whole.clone();
        bytes[sector * 512..(sector + 1) * 512].fill(0);
        fs::write(copy.path().join(path.file_name().expect("name")), &bytes).expect("write");
        let log = open(copy.path());
        let there = indexes(&log);
        assert!(there.start == 1 && there.end >= 20, "{there:?} without sector {sector}");
        // What was behind the hole is not found again behind what is written now.
        write(&log, there.end..there.end + 1);
        drop(log);
        assert!(indexes(&open(copy.path())).end <= there.end + 1);
    }
}

#[test]
fn a_flipped_bit_in_what_was_promised_is_an_error() {
    let folder = tempfile::tempdir().expect("folder");
    let log = open(folder.path());
    write(&log, 1..100);
    log.sync().expect("sync");
    write(&log, 100..101);
    log.sync().expect("sync");
    drop(log);
    let files = segments(folder.path());
    for path in &files {
        let whole = fs::read(path).expect("read");
        let end = whole.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for at in (0..end).step_by(97) {
            let copy = tempfile::tempdir().expect("folder");
            for file in &files {
                fs::copy(file, copy.path().join(file.file_name().expect("name"))).expect("copy");
            }
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(copy.path().join(path.file_name().expect("name")), bytes).expect("write");
            match Wal::open_with(copy.path(), SEGMENT) {
                // Bytes that fill up carry nothing.
                Ok(log) => assert_eq!(indexes(&log), 1..101, "{} at {at}", path.display()),
                Err(error) => assert!(error.to_string().contains("the log is damaged"), "{error}"),
            }
        }
    }
}

#[test]
fn a_log_that_was_cut_short_is_an_error_wherever_it_was_cut() {
    let folder = tempfile::tempdir().expect("folder");
    let log = open(folder.path());
    write(&log, 1..20);
    log.sync().expect("sync");
    drop(log);
    let path = segments(folder.path()).pop().expect("a segment");
    let whole = fs::read(&path).expect("read");
    for cut in (24..whole.len()).step_by(8) {
        let copy = tempfile::tempdir().expect("folder");
        fs::write(copy.path().join(path.file_name().expect("name")), &whole[..cut]).expect("write");
        let error = Wal::open_with(copy.path(), SEGMENT).err().map(|error| error.to_string());
        assert!(error.as_ref().is_some_and(|error| error.contains("the log is damaged")), "{cut}: {error:?}");
    }
    // As it was it opens, and closed it is shorter, again and again.
    for _ in 0..3 {
        assert_eq!(indexes(&open(folder.path())), 1..20);
    }
}

#[test]
fn a_log_of_another_version_is_refused_by_that_name_and_left_as_it_is() {
    let folder = tempfile::tempdir().expect("folder");
    let log = open(folder.path());
    write(&log, 1..10);
    log.sync().expect("sync");
    drop(log);
    let path = segments(folder.path()).pop().expect("a segment");
    let ours = fs::read(&path).expect("read");
    let mut newer = ours.clone();
    // The last byte of what it is says the version; a checksum is behind the number.
    newer[7] += 1;
    let sum = crc32c::crc32c(&newer[..16]).to_le_bytes();
    newer[16..20].copy_from_slice(&sum);
    fs::write(&path, &newer).expect("write");
    let error = Wal::open_with(folder.path(), SEGMENT).err().expect("refused").to_string();
    assert!(error.contains("was written by another version of the program"), "{error}");
    assert_eq!(fs::read(&path).expect("read"), newer);
    // Without a checksum that fits it is damage.
    newer[16] ^= 1;
    fs::write(&path, &newer).expect("write");
    let error = Wal::open_with(folder.path(), SEGMENT).err().expect("refused").to_string();
    assert!(error.contains("has not a segment's head"), "{error}");
    fs::write(&path, &ours).expect("write");
    assert_eq!(indexes(&open(folder.path())), 1..10);
}

#[test]
fn a_segment_that_is_missing_or_foreign_is_an_error() {
    let folder = tempfile::tempdir().expect("folder");
    let log = open(folder.path());
    write(&log, 1..300);
    log.sync().expect("sync");
    drop(log);
    let files = segments(folder.path());
    let bytes = fs::read(&files[1]).expect("read");
    let refused = || Wal::open_with(folder.path(), SEGMENT).err().expect("refused").to_string();
    fs::remove_file(&files[1]).expect("remove");
    assert!(refused().contains("segment 2 is missing"), "{}", refused());
    fs::write(&files[1], vec![0; SEGMENT]).expect("write");
    assert!(refused().contains("has not a segment's head"), "{}", refused());
    fs::write(&files[1], bytes).expect("write");
    assert_eq!(indexes(&open(folder.path())), 1..300);
}

/// What a user of the log may do.
#[derive(Clone, Debug)]
enum Step {
    Append(u64),
    Truncate(u64),
    Purge(u64),
    Sync,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..40u64).prop_map(Step::Append),
        1 => (0..30u64).prop_map(Step::Truncate),
        1 => (0..60u64).prop_map(Step::Purge),
        2 => Just(Step::Sync),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_log_holds_what_a_list_would(steps in proptest::collection::vec(step(), 1..60)) {
        let folder = tempfile::tempdir().expect("folder");
        let mut log = open(folder.path());
        let (mut first, mut end) = (1, 1);
        for step in steps {
            match step {
                Step::Append(count) => {
                    write(&log, end..end + count);
                    end += count;
                }
                Step::Truncate(count) => {
                    end = end.saturating_sub(count).max(first);
                    remove(&log, end..u64::MAX);
                }
                Step::Purge(count) => {
                    first = (first + count).min(end);
                    remove(&log, 0..first);
                }
                Step::Sync => log.sync().expect("sync"),
                Step::Reopen => {
                    log.sync().expect("sync");
                    drop(log);
                    log = open(folder.path());
                }
            }
            let expected = if first == end { 0..0 } else { first..end };
            prop_assert_eq!(indexes(&log), expected);
        }
    }
}

#[test]
fn segments_that_were_made_and_not_begun_are_no_damage() {
    let folder = tempfile::tempdir().expect("folder");
    for from in [1, 401, 801] {
        let log = open(folder.path());
        write(&log, from..from + 20);
        log.sync().expect("sync");
        // The process ends before any of this is written.
        let before = segments(folder.path()).len();
        write(&log, from + 20..from + 400);
        assert!(segments(folder.path()).len() > before + 1);
        drop(log);
        let log = open(folder.path());
        assert_eq!(indexes(&log).end, from + 20);
        write(&log, from + 20..from + 400);
        log.sync().expect("sync");
    }
    // One whose making was interrupted.
    let path = segments(folder.path()).pop().expect("a segment");
    let name = path.file_stem().and_then(|stem| stem.to_str()).expect("a number");
    let next = u64::from_str_radix(name, 16).expect("a number") + 1;
    fs::write(folder.path().join(format!("{next:016x}.wal")), []).expect("write");
    assert_eq!(indexes(&open(folder.path())), 1..1201);
}

/// Mounts that only the calling thread sees, and a small disk at a path.
fn small_disk(path: &Path) {
    use nix::mount::{MsFlags, mount};
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("root");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private mounts");
    mount(Some("small"), path, Some("tmpfs"), MsFlags::empty(), Some("size=256k")).expect("a small disk");
}

/// Gives the disk more room.
fn enlarge(path: &Path) {
    use nix::mount::{MsFlags, mount};
    mount(Some("small"), path, Some("tmpfs"), MsFlags::MS_REMOUNT, Some("size=4m")).expect("more room");
}

/// Writes entries until the disk is full; the last that was durable.
fn fill(log: &Wal, from: u64, batch: u64) -> u64 {
    let mut next = from;
    loop {
        let entries = (next..next + batch).map(|index| (index, value(index))).collect();
        let written = log.write(LogBatch { entries, ..LogBatch::default() });
        match written.and_then(|()| log.sync()) {
            Ok(()) => next += batch,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(nix::libc::ENOSPC), "{error}");
                return next - 1;
            }
        }
    }
}

#[test]
#[ignore = "needs root: make test-all"]
fn a_log_on_a_full_disk_refuses_and_keeps_what_was_durable() {
    let inside = || {
        for batch in [1, 7, 300] {
            let folder = tempfile::tempdir().expect("folder");
            small_disk(folder.path());
            let log = open(folder.path());
            let durable = fill(&log, 1, batch);
            assert!(log.sync().is_err(), "nobody knows what is on the disk");
            assert!(log.write(LogBatch::default()).is_err());
            drop(log);
            // Without room it may not open, and leaves everything as it is.
            drop(Wal::open_with(folder.path(), SEGMENT));
            enlarge(folder.path());
            let log = open(folder.path());
            let found = indexes(&log);
            assert!(found.start == 1 && found.end > durable, "{durable} were durable, {found:?} are there");
            write(&log, found.end..found.end + 10);
            log.sync().expect("there is room");
            drop(log);
            assert_eq!(indexes(&open(folder.path())), 1..found.end + 10);
        }
    };
    std::thread::spawn(inside).join().expect("no panic");
}

//! Backups of a running store, to a folder and to S3-compatible storage, and what is restored of them.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::member::{Member, Site, etcd_37, fill, good, outcome, trierarch};
use crate::s3::S3;
use crate::shared::eventually;

/// A command about a backup.
fn backup(words: &[&str], place: &str) -> Command {
    let mut command = trierarch();
    command.args(words).arg(place);
    command
}

fn restore(site: &Site, place: &str, data: &str, target: &[&str]) -> String {
    good(backup(&["restore"], place).args(site.restore_flags(data)).args(target))
}

/// A backup that goes on; it is killed when it is dropped.
struct Running(Child);

impl Running {
    fn start(member: &Member, place: &str, flags: &[&str]) -> Self {
        let mut command = backup(&["backup", "run", "--endpoints", &member.endpoint], place);
        command.args(flags).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("start"))
    }

    fn stop(mut self) {
        good(Command::new("kill").arg(self.0.id().to_string()));
        assert!(self.0.wait().expect("wait").success(), "a clean stop");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn manifest(place: &str) -> Option<serde_json::Value> {
    let (good, text) = outcome(&mut backup(&["backup", "list", "--json"], place));
    good.then(|| serde_json::from_str(&text).expect("a manifest"))
}

/// The last revision that a backup can restore.
fn reaches(place: &str) -> i64 {
    let last = |list: &serde_json::Value| {
        let revisions = list.as_array().into_iter().flatten().filter_map(|stored| stored["last"].as_i64());
        revisions.max().unwrap_or(0)
    };
    manifest(place).map_or(0, |manifest| last(&manifest["bases"]).max(last(&manifest["segments"])))
}

fn check_every_target(site: &Site, member: Member, place: &str) {
    fill(&member);
    let running = Running::start(&member, place, &["--segment-interval", "0"]);
    eventually("the first base", || (reaches(place) > 0).then_some(()));
    let base = reaches(place);
    let mut pictures = vec![(base, member.picture(None))];
    // A lease that the base does not know, a transaction of several changes, a deletion.
    let granted = member.ask("lease grant 2000");
    let lease = granted.split_whitespace().nth(1).expect("a lease").to_owned();
    for words in [format!("put --lease={lease} /late x"), "del /k1 --prefix".into(), "put /k1 new".into()] {
        member.ask(&words);
        pictures.push((member.revision(), member.picture(None)));
    }
    eventually("all is stored", || (reaches(place) == member.revision()).then_some(()));
    // Killed, and taken up again: nothing is missing and nothing is there twice.
    drop(running);
    member.ask("put /while-away x");
    let running = Running::start(&member, place, &["--segment-interval", "0"]);
    eventually("what was missed is stored", || (reaches(place) == member.revision()).then_some(()));
    running.stop();
    pictures.push((member.revision(), member.picture(None)));
    let last = member.picture(None);
    member.stop();

    let verified = good(&mut backup(&["backup", "verify"], place));
    assert!(verified.contains("are whole"), "{verified}");
    for (revision, picture) in &pictures {
        let data = format!("at-{revision}");
        restore(site, place, &data, &["--to-revision", &revision.to_string()]);
        let restored = site.start(&data);
        // Leases without keys are of the base, as users are.
        let keys = |picture: &str| picture.split("\n--\n").next().map(str::to_owned);
        assert_eq!(keys(&restored.picture(None)), keys(picture), "revision {revision}");
        restored.stop();
    }
    restore(site, place, "newest", &[]);
    let restored = site.start("newest");
    assert_eq!(restored.picture(None), last);
    assert!(restored.ask(&format!("lease timetolive {lease} --keys")).contains("/late"));
    restored.stop();
    let (covered, text) = outcome(
        backup(&["restore"], place).args(site.restore_flags("future")).args(["--to-revision", "9999"]),
    );
    assert!(!covered && text.contains("reaches to revision"), "{text}");
}

#[test]
fn every_revision_of_ours_can_be_had_again() {
    let site = Site::new();
    let place = site.path("backup").display().to_string();
    let member = site.start("a");
    check_every_target(&site, member, &place);
}

#[test]
fn every_revision_of_etcd_can_be_had_again() {
    let site = Site::new();
    let place = site.path("backup").display().to_string();
    let member = site.start_etcd(&etcd_37(), "a");
    check_every_target(&site, member, &place);
}

fn once(member: &Member, place: &str, flags: &[&str]) -> Command {
    let mut command = backup(&["backup", "run", "--once", "--endpoints", &member.endpoint], place);
    command.args(flags);
    command
}

#[test]
fn history_that_is_compacted_away_makes_a_new_base_and_old_ones_go() {
    let site = Site::new();
    let place = site.path("backup").display().to_string();
    let member = site.start("a");
    member.ask("put /k 1");
    good(&mut once(&member, &place, &[]));
    for number in 2..6 {
        member.ask(&format!("put /k {number}"));
    }
    member.ask("compact 6");
    member.ask("put /k 7");
    good(&mut once(&member, &place, &[]));
    let bases =
        |place: &str| manifest(place).map_or(0, |found| found["bases"].as_array().map_or(0, Vec::len));
    assert_eq!(bases(&place), 2, "revisions 3 to 5 could not be read any more");
    let (covered, text) =
        outcome(backup(&["restore"], &place).args(site.restore_flags("gap")).args(["--to-revision", "4"]));
    assert!(!covered && text.contains("reaches to revision 2"), "{text}");
    good(backup(&["backup", "prune"], &place).args(["--keep-bases", "1"]));
    assert_eq!((bases(&place), fs::read_dir(Path::new(&place).join("base")).expect("bases").count()), (1, 1));
    let newest = site.path("newest.db");
    let output = newest.display().to_string();
    restore(&site, &place, "unused", &["--output", &output]);
    let status = good(trierarch().args(["snapshot", "status", "-w", "json"]).arg(&newest));
    assert!(status.contains("\"revision\":7,\"totalKey\":1"), "{status}");

    // Another cluster is not mixed in.
    let other = Site::new();
    let another = other.start("a");
    let (good, text) = outcome(&mut once(&another, &place, &[]));
    assert!(!good && text.contains("the backup is of cluster"), "{text}");
}

#[test]
fn what_was_changed_in_a_backup_is_found() {
    let site = Site::new();
    let place = site.path("backup").display().to_string();
    let member = site.start("a");
    member.ask("put /k 1");
    good(&mut once(&member, &place, &[]));
    member.ask("put /k 2");
    good(&mut once(&member, &place, &[]));
    for folder in ["base", "segment"] {
        let mut files = fs::read_dir(Path::new(&place).join(folder)).expect("files");
        let file = files.next().expect("a file").expect("a file").path();
        let whole = fs::read(&file).expect("read");
        let mut changed = whole.clone();
        changed[whole.len() / 2] ^= 1;
        fs::write(&file, &changed).expect("write");
        let (good, text) = outcome(&mut backup(&["backup", "verify"], &place));
        assert!(!good && text.contains("is damaged"), "{text}");
        let (good, _) = outcome(backup(&["restore"], &place).args(site.restore_flags("bad")));
        assert!(!good && !site.path("bad").exists());
        fs::write(&file, &whole).expect("write");
    }
    good(&mut backup(&["backup", "verify"], &place));
}

#[test]
fn a_backup_in_a_bucket_is_restored_at_a_time() {
    let (site, s3) = (Site::new(), S3::start());
    let place = "s3://bucket/of/ours";
    let with_keys = |command: &mut Command| {
        command.args(["--s3-endpoint", &s3.endpoint, "--s3-region", "us-east-1"]);
        good(command.env("AWS_ACCESS_KEY_ID", "id").env("AWS_SECRET_ACCESS_KEY", "secret"))
    };
    let member = site.start("a");
    member.ask("put /k old");
    with_keys(&mut once(&member, place, &[]));
    let now = || env::Env::real().clock.now().millis();
    let between = now();
    eventually("time goes on", || (now() > between + 2).then_some(()));
    member.ask("put /k new");
    with_keys(&mut once(&member, place, &[]));
    member.stop();
    let names: Vec<String> = s3.objects.lock().expect("lock").keys().cloned().collect();
    assert!(names.iter().all(|name| name.starts_with("/bucket/of/ours/")), "{names:?}");
    for (target, value) in [(vec!["--to-time".to_owned(), seconds(between)], "old"), (vec![], "new")] {
        let mut command = backup(&["restore"], place);
        with_keys(command.args(site.restore_flags(value)).args(&target));
        let member = site.start(value);
        assert_eq!(member.ask("get /k --print-value-only"), value);
        member.stop();
    }
    with_keys(&mut backup(&["backup", "verify"], place));
    with_keys(backup(&["backup", "prune"], place).args(["--keep-bases", "1"]));
}

fn seconds(millis: i64) -> String {
    format!("{}.{:03}", millis / 1000, millis % 1000)
}

//! Data folders that etcd left: restored, stopped, crashed.

use std::fs;
use std::path::Path;

use crate::member::{Site, etcd_34, etcd_37, etcdutl, fill, good, outcome, trierarch};

#[test]
fn a_folder_that_etcdutl_restored_is_taken_over() {
    let site = Site::new();
    let member = site.start("a");
    fill(&member);
    let before = member.picture(None);
    let file = site.path("s.db");
    good(trierarch().args(["snapshot", "save", "--endpoints", &member.endpoint]).arg(&file));
    member.stop();
    good(etcdutl().args(["snapshot", "restore"]).arg(&file).args(site.restore_flags("b")));
    let member = site.start("b");
    assert_eq!(member.picture(None), before);
    assert!(site.log("b").contains("took over etcd's data folder"));
    assert!(site.path("b/member.etcd/snap/db").exists(), "etcd's files are kept");
    member.ask("put /more x");
    member.stop();
    let member = site.start("b");
    assert_eq!(member.ask("get /more --print-value-only"), "x");
}

#[test]
fn a_folder_of_an_etcd_34_that_was_stopped_or_killed_is_taken_over() {
    take_over(&etcd_34());
}

#[test]
fn a_folder_of_an_etcd_37_that_was_stopped_or_killed_is_taken_over() {
    take_over(&etcd_37());
}

fn take_over(etcd: &Path) {
    let site = Site::new();
    for data in ["stopped", "killed"] {
        let member = site.start_etcd(etcd, data);
        fill(&member);
        let before = member.picture(None);
        // Read while etcd runs, the folder is refused.
        if data == "stopped" {
            let mut start = trierarch();
            start.args(["etcd", "--name", "m", "--data-dir"]).arg(site.path(data));
            start.args([
                "--listen-client-urls",
                "http://127.0.0.1:0",
                "--advertise-client-urls",
                "http://127.0.0.1:0",
            ]);
            let (good, text) = outcome(&mut start);
            assert!(!good && text.contains("etcd still runs"), "{text}");
            member.stop();
        } else {
            // Acknowledged, and not yet in etcd's database, which is written every 100 ms.
            for number in 0..10 {
                member.ask(&format!("put last{number} x"));
            }
            drop(member);
        }
        // Also as the beginning of another cluster.
        let copy = format!("copy-{data}");
        good(trierarch().arg("import").arg(site.path(data)).args(site.restore_flags(&copy)));
        for folder in [data, &copy] {
            let member = site.start(folder);
            if data == "killed" {
                let last = member.ask("get --prefix last --keys-only");
                assert_eq!(last.lines().filter(|line| !line.is_empty()).count(), 10, "{last}");
                good(member.etcdctl().args(["del", "--prefix", "last"]));
            }
            let keys = |picture: &str| {
                picture
                    .lines()
                    .filter(|line| !line.starts_with("\"Revision\""))
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            assert_eq!(keys(&member.picture(None)), keys(&before), "{folder}");
            member.stop();
        }
        assert!(site.path(data).join("member.etcd/wal").exists());
    }
}

#[test]
fn a_folder_that_is_not_whole_is_refused_in_one_line() {
    let site = Site::new();
    let member = site.start("a");
    member.ask("put /k v");
    let file = site.path("s.db");
    good(trierarch().args(["snapshot", "save", "--endpoints", &member.endpoint]).arg(&file));
    member.stop();
    good(etcdutl().args(["snapshot", "restore"]).arg(&file).args(site.restore_flags("b")));
    let refused = |words: &str| {
        let mut start = trierarch();
        start.args(["etcd", "--name", "m", "--data-dir"]).arg(site.path("b"));
        start.args([
            "--listen-client-urls",
            "http://127.0.0.1:0",
            "--advertise-client-urls",
            "http://127.0.0.1:0",
        ]);
        let (good, text) = outcome(&mut start);
        assert!(!good && text.contains(words), "{words:?}: {text}");
        assert!(!site.path("b/wal").exists(), "nothing is half done");
    };
    let wal = site.path("b/member/wal");
    fs::rename(&wal, site.path("wal")).expect("rename");
    refused("cannot read the write-ahead log");
    fs::rename(site.path("wal"), &wal).expect("rename");
    let database = site.path("b/member/snap/db");
    let whole = fs::read(&database).expect("read");
    fs::write(&database, &whole[..20_000]).expect("write");
    refused("the database file is damaged");
    fs::write(&database, &whole).expect("write");
    let member = site.start("b");
    assert_eq!(member.ask("get /k --print-value-only"), "v");
}

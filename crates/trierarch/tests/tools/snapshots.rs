//! `trierarch snapshot`, `import` and `export`, against etcd's tools.

use std::path::Path;

use crate::member::{Member, Site, etcd_34, etcd_37, etcdutl, fill, good, outcome, trierarch};

#[test]
fn a_snapshot_is_saved_looked_at_and_restored_as_etcd_does() {
    let site = Site::new();
    let member = site.start("a");
    let lease = fill(&member);
    let before = member.picture(None);
    let hash = member.ask("endpoint hashkv");
    let file = site.path("s.db");
    let saved = good(trierarch().args(["snapshot", "save", "--endpoints", &member.endpoint]).arg(&file));
    assert_eq!(saved, format!("Snapshot saved at {}\nServer version 3.7.0\n", file.display()));
    member.stop();

    for out in ["simple", "json", "table", "fields"] {
        let ours = good(trierarch().args(["snapshot", "status", "-w", out]).arg(&file));
        let theirs = good(etcdutl().args(["snapshot", "status", "-w", out]).arg(&file));
        assert_eq!(ours, theirs, "{out}");
    }

    good(trierarch().args(["snapshot", "restore"]).arg(&file).args(site.restore_flags("b")));
    let again = outcome(trierarch().args(["snapshot", "restore"]).arg(&file).args(site.restore_flags("b")));
    assert!(!again.0 && again.1.contains("not empty or could not be read"), "{}", again.1);
    let member = site.start("b");
    assert_eq!(member.picture(None), before);
    assert_eq!(member.ask("endpoint hashkv"), hash);
    assert!(member.ask(&format!("lease timetolive {lease} --keys")).contains("/leased"));
    member.ask("auth enable");
    assert_eq!(member.ask("--user reader:pw2 get /k2 --print-value-only"), "reborn");
    let (allowed, _) = outcome(member.etcdctl().args(["--user", "reader:pw2", "put", "/k2", "x"]));
    assert!(!allowed, "the role permits reading only");
    let file = site.path("secured.db");
    let mut save = trierarch();
    save.args(["snapshot", "save", "--endpoints", &member.endpoint]).arg(&file);
    assert!(!outcome(&mut save).0, "nobody may");
    good(save.args(["--user", "root:pw"]));
}

#[test]
fn a_raised_revision_ends_what_clients_knew() {
    let site = Site::new();
    let member = site.start("a");
    member.ask("put /k v");
    let file = site.path("s.db");
    good(trierarch().args(["snapshot", "save", "--endpoints", &member.endpoint]).arg(&file));
    member.stop();
    let raised = ["--bump-revision", "1000", "--mark-compacted"];
    good(trierarch().args(["snapshot", "restore"]).arg(&file).args(site.restore_flags("b")).args(raised));
    let member = site.start("b");
    let (old, text) = outcome(member.etcdctl().args(["get", "/k", "--rev", "1001"]));
    assert!(!old && text.contains("compacted"), "{text}");
    assert_eq!(member.ask("get /k --print-value-only"), "v");
    assert!(member.ask("put /k w -w json").contains("\"revision\":1003"));
}

/// All members begin with the same state and no log: one that joins must be sent that state.
#[test]
fn a_restored_cluster_takes_another_member() {
    let site = Site::new();
    let member = site.start("a");
    fill(&member);
    let (before, file) = (member.picture(None), site.path("s.db"));
    good(trierarch().args(["snapshot", "save", "--endpoints", &member.endpoint]).arg(&file));
    member.stop();
    let sites: Vec<Site> = (0..4).map(|_| Site::new()).collect();
    let named = |count: usize| {
        let members = sites[..count].iter().enumerate();
        members.map(|(n, site)| format!("m{n}={}", site.peer_url())).collect::<Vec<_>>().join(",")
    };
    let mut members = Vec::new();
    for (n, site) in sites[..3].iter().enumerate() {
        let name = format!("m{n}");
        let mut restore = trierarch();
        restore.args(["snapshot", "restore"]).arg(&file).args(["--name", &name, "--data-dir"]);
        restore.arg(site.path("data")).args(["--initial-cluster", &named(3)]);
        good(restore.args(["--initial-advertise-peer-urls", &site.peer_url()]));
        members.push(site.start_one("data", &name, &["--initial-cluster".into(), named(3)]));
    }
    members.iter().for_each(Member::wait);
    let hash = members[0].ask("endpoint hashkv");
    let hash = hash.split(", ").last();
    // Members must have been in touch for a while.
    crate::shared::eventually("another member is let in", || {
        let add = format!("--peer-urls={}", sites[3].peer_url());
        outcome(members[0].etcdctl().args(["member", "add", "m3", &add])).0.then_some(())
    });
    let join = ["--initial-cluster".into(), named(4), "--initial-cluster-state".into(), "existing".into()];
    members.push(sites[3].start_one("data", "m3", &join));
    members.iter().for_each(Member::wait);
    for member in &members {
        assert_eq!(member.picture(None), before);
        assert_eq!(member.ask("endpoint hashkv").split(", ").last(), hash);
    }
}

#[test]
fn a_damaged_snapshot_is_refused_in_etcds_words() {
    let site = Site::new();
    let member = site.start("a");
    member.ask("put /k v");
    let file = site.path("s.db");
    good(trierarch().args(["snapshot", "save", "--endpoints", &member.endpoint]).arg(&file));
    let whole = std::fs::read(&file).expect("read");
    let refused = |bytes: &[u8], words: &str| {
        std::fs::write(&file, bytes).expect("write");
        let mut restore = trierarch();
        restore.args(["snapshot", "restore"]).arg(&file).args(site.restore_flags("b"));
        let (good, text) = outcome(&mut restore);
        assert!(!good && text.contains(words), "{words:?}: {text}");
        assert_eq!(text.trim().lines().count(), 1, "one line: {text}");
        assert!(!site.path("b").exists(), "nothing is left behind");
    };
    let mut changed = whole.clone();
    changed[9000] ^= 1;
    refused(&changed, "expected sha256 [");
    refused(&whole[..whole.len() - 32], "snapshot missing hash but --skip-hash-check=false");
    refused(b"", "snapshot missing hash but --skip-hash-check=false");
    std::fs::write(&file, &whole[..whole.len() - 32]).expect("write");
    let skip = ["--skip-hash-check"];
    good(trierarch().args(["snapshot", "restore"]).arg(&file).args(site.restore_flags("b")).args(skip));
}

#[test]
fn in_from_etcd_34_and_out_again() {
    round_trip(&etcd_34());
}

#[test]
fn in_from_etcd_37_and_out_again() {
    round_trip(&etcd_37());
}

/// etcd → snapshot → ours → snapshot → etcd: nothing is lost on the way.
fn round_trip(etcd: &Path) {
    let site = Site::new();
    let member = site.start_etcd(etcd, "etcd");
    fill(&member);
    let (before, hash) = (member.picture(None), member.ask("endpoint hashkv"));
    // From the running one, in one command.
    let endpoint = ["import", "--endpoints", &member.endpoint];
    good(trierarch().args(endpoint).args(site.restore_flags("ours")));
    member.stop();

    let member = site.start("ours");
    assert_eq!(member.picture(None), before);
    let live = site.path("live.db");
    good(trierarch().args(["export", "--endpoints", &member.endpoint]).arg(&live));
    member.stop();
    let stopped = site.path("stopped.db");
    good(trierarch().arg("export").arg(&stopped).arg("--data-dir").arg(site.path("ours")));

    for (file, data) in [(live, "back-live"), (stopped, "back-stopped")] {
        good(etcdutl().args(["snapshot", "restore"]).arg(&file).args(site.restore_flags(data)));
        let member = site.start_etcd(etcd, data);
        assert_eq!(member.picture(None), before, "{data}");
        assert_eq!(member.ask("endpoint hashkv"), hash, "etcd's own hash of its keys, {data}");
        member.stop();
    }
}

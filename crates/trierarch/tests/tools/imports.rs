//! `trierarch import` of a snapshot file: what the etcd said, the member that is made of it says.

use crate::member::{Member, Site, etcd, etcdctl, fill, good, outcome, trierarch};

/// The revision that [`fill`] compacts at.
const COMPACTED: i64 = 8;

#[test]
fn a_snapshot_of_etcd_34_is_imported() {
    import("3.4");
}

#[test]
fn a_snapshot_of_etcd_35_is_imported() {
    import("3.5");
}

#[test]
fn a_snapshot_of_etcd_37_is_imported() {
    import("3.7.1");
}

fn import(version: &str) {
    let site = Site::new();
    let member = site.start_etcd(&etcd(version), "etcd");
    let lease = fill(&member);
    let (picture, revisions) = (member.picture(None), COMPACTED..=member.revision());
    let history = member.history(revisions.clone());
    let file = site.path("snapshot.db");
    good(etcdctl(version).args(["--endpoints", &member.endpoint, "snapshot", "save"]).arg(&file));
    member.ask("put /later x");
    member.stop();

    let imported = good(trierarch().arg("import").arg(&file).args(site.restore_flags("ours")));
    assert_eq!(imported, format!("Imported to {}\n", site.path("ours").display()));
    let member = site.start("ours");
    assert_eq!(member.picture(None), picture);
    assert_eq!(member.history(revisions.clone()), history);
    serves_what_was_there(&member, &lease, *revisions.end());
    // Once more, with what was written since.
    member.ask("--user root:pw auth disable");
    let picture = member.picture(None);
    member.stop();
    assert_eq!(site.start("ours").picture(None), picture);
}

/// Leases that can be kept alive, passwords that are known, a history that goes on where it ended.
fn serves_what_was_there(member: &Member, lease: &str, revision: i64) {
    let compacted = format!("get /k3 --rev {}", COMPACTED - 1);
    let (known, text) = outcome(member.etcdctl().args(compacted.split(' ')));
    assert!(!known && text.contains("required revision has been compacted"), "{text}");
    let left = member.ask(&format!("lease timetolive {lease} --keys"));
    assert!(left.contains("granted with TTL(1000s)") && left.ends_with("attached keys([/leased])"), "{left}");
    assert!(member.ask(&format!("lease keep-alive --once {lease}")).contains("TTL(1000)"));
    let put = member.ask("put /new x -w json");
    assert!(put.contains(&format!("\"revision\":{}", revision + 1)), "{put}");
    member.ask(&format!("lease revoke {lease}"));
    assert_eq!(member.ask("get /leased"), "");
    member.ask("auth enable");
    assert_eq!(member.ask("--user reader:pw2 get /k2 --print-value-only"), "reborn");
    let (allowed, text) = outcome(member.etcdctl().args(["--user", "reader:pw2", "put", "/k2", "x"]));
    assert!(!allowed && text.contains("permission denied"), "{text}");
    let (allowed, text) = outcome(member.etcdctl().args(["--user", "reader:wrong", "get", "/k2"]));
    assert!(!allowed && text.contains("invalid user ID or password"), "{text}");
}

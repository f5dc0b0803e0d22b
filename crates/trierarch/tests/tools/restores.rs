//! `etcdutl snapshot restore` of snapshots that we wrote: the folder is one of etcd's, which etcd starts on, and which
//! is taken over.

use std::path::Path;
use std::process::Command;

use crate::member::{Member, Site, etcd, etcdctl, etcdutl_of, fill, good, outcome, trierarch};

/// What raises the revision, of etcdutl 3.6 and later.
const RAISED: [&str; 3] = ["--bump-revision", "1000", "--mark-compacted"];

#[test]
fn etcdutl_35_restores_what_a_member_streamed() {
    streamed("3.5", &[]);
}

#[test]
fn etcdutl_37_restores_what_a_member_streamed() {
    streamed("3.7.1", &[]);
}

#[test]
fn etcdutl_37_raises_the_revision_of_what_a_member_streamed() {
    streamed("3.7.1", &RAISED);
}

#[test]
fn etcdutl_35_restores_what_was_made_of_a_backup() {
    backed_up("3.5", &[]);
}

#[test]
fn etcdutl_37_restores_what_was_made_of_a_backup() {
    backed_up("3.7.1", &[]);
}

#[test]
fn etcdutl_37_raises_the_revision_of_what_was_made_of_a_backup() {
    backed_up("3.7.1", &RAISED);
}

/// A snapshot that the etcdctl of the same version saves of a member of ours.
fn streamed(version: &str, flags: &[&str]) {
    let site = Site::new();
    let member = site.start("a");
    fill(&member);
    let file = site.path("s.db");
    good(etcdctl(version).args(["--endpoints", &member.endpoint, "snapshot", "save"]).arg(&file));
    restored_by(version, &site, member, &file, flags);
}

/// A snapshot that `trierarch restore` makes of a backup: a base, and changes behind it.
fn backed_up(version: &str, flags: &[&str]) {
    let site = Site::new();
    let member = site.start("a");
    let place = site.path("backup").display().to_string();
    let back_up = || {
        let once = ["backup", "run", &place, "--once", "--endpoints", &member.endpoint];
        good(trierarch().args(once));
    };
    fill(&member);
    back_up();
    let granted = member.ask("lease grant 2000");
    let lease = granted.split_whitespace().nth(1).expect("a lease");
    for words in [format!("put --lease={lease} /late x"), "del /k1 --prefix".into(), "put /k1 new".into()] {
        member.ask(&words);
    }
    back_up();
    let file = site.path("s.db");
    good(trierarch().args(["restore", &place, "--output"]).arg(&file));
    restored_by(version, &site, member, &file, flags);
}

/// Ours and etcd's, started on the same folder, say what the member said.
fn restored_by(version: &str, site: &Site, member: Member, file: &Path, flags: &[&str]) {
    let (picture, revision) = (member.picture(None), member.revision());
    let history = member.history(8..=revision);
    member.stop();
    let mut restore = etcdutl_of(version);
    good(restore.args(["snapshot", "restore"]).arg(file).args(site.restore_flags("etcd")).args(flags));
    good(Command::new("cp").arg("-r").arg(site.path("etcd")).arg(site.path("ours")));
    let check = |member: &Member, who: &str| {
        if flags.is_empty() {
            assert_eq!(member.picture(None), picture, "{who}");
            assert_eq!(member.history(8..=revision), history, "{who}");
        } else {
            let raised = |picture: &str| {
                let lines = picture.lines().filter(|line| !line.starts_with("\"Revision\""));
                lines.map(str::to_owned).collect::<Vec<_>>()
            };
            assert_eq!(raised(&member.picture(None)), raised(&picture), "{who}");
            assert_eq!(member.revision(), revision + 1000, "{who}");
            let old = format!("get /k3 --rev {}", revision + 999);
            let (known, text) = outcome(member.etcdctl().args(old.split(' ')));
            assert!(!known && text.contains("has been compacted"), "{who}: {text}");
        }
        member.ask("put /k3 newer");
        member.ask("auth enable");
        assert_eq!(member.ask("--user reader:pw2 get /k3 --print-value-only"), "newer", "{who}");
    };
    let member = site.start_etcd(&etcd(version), "etcd");
    check(&member, "etcd");
    member.stop();
    let member = site.start("ours");
    check(&member, "trierarch");
    member.stop();
}

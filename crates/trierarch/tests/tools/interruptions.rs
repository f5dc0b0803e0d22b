//! A take-over that is interrupted: until it is complete the folder is etcd's, and nothing is lost.

use std::process::Command;

use crate::member::{Member, Site, etcd, fill, good, trierarch};

/// Steps before the rename that settles it, in order.
const BEFORE: [&str; 6] = [
    "takeoverBeforeBuild",
    "takeoverBeforeState",
    "takeoverBeforeStateNumber",
    "takeoverBeforeSnapshots",
    "takeoverBeforeLog",
    "takeoverBeforeKeep",
];
const AFTER: &str = "takeoverAfterKeep";

#[test]
fn a_take_over_that_is_interrupted_anywhere_loses_nothing() {
    interrupt("3.7.1", |_| Vec::new());
}

#[test]
fn so_does_one_of_etcd_34() {
    interrupt("3.4", |_| Vec::new());
}

#[test]
fn so_does_one_whose_log_lies_elsewhere() {
    interrupt("3.7.1", |site| vec!["--wal-dir".into(), site.path("log").display().to_string()]);
    interrupt("3.4", |site| vec!["--wal-dir".into(), site.path("log").display().to_string()]);
}

/// Keys and values that were written between the attempts.
fn written(member: &Member) -> Vec<String> {
    member.ask("get --prefix at/ --print-value-only").lines().map(str::to_owned).collect()
}

/// One folder is struck at each step in turn, and etcd goes on with it after each but the last.
fn interrupt(version: &str, flags: impl Fn(&Site) -> Vec<String>) {
    let site = Site::new();
    let flags = flags(&site);
    let start = |command: Command| {
        let member = site.alone(command, "data", &flags);
        member.wait();
        member
    };
    let ours = || {
        let mut command = trierarch();
        command.arg("etcd");
        command
    };
    let strike = |point: &str| {
        let mut command = ours();
        command.env("GOFAIL_FAILPOINTS", format!("{point}=panic"));
        assert!(!site.alone(command, "data", &flags).ends(), "{point}");
        let log = site.log("data");
        assert!(!log.contains("failed to start"), "{point}: {log}");
    };
    let member = start(Command::new(etcd(version)));
    fill(&member);
    // Killed: what was acknowledged last is in the log only.
    member.ask("put at/0 begun");
    drop(member);
    // As the beginning of another cluster, which leaves the folder alone.
    let log = |flag: &str| flags.get(1).map(|log| [flag.to_owned(), log.clone()]).into_iter().flatten();
    let mut import = trierarch();
    import.arg("import").arg(site.path("data")).args(log("--source-wal-dir"));
    good(import.args(site.restore_flags("copy")));
    let member = site.start("copy");
    assert_eq!(written(&member), ["begun"]);
    member.stop();
    let mut expected = vec!["begun".to_owned()];
    for (number, point) in (1..).zip(BEFORE) {
        strike(point);
        let member = start(Command::new(etcd(version)));
        assert_eq!(written(&member), expected, "etcd, after {point}");
        member.ask(&format!("put at/{number} {point}"));
        expected.push(point.to_owned());
        drop(member);
    }
    strike(AFTER);
    assert!(!site.path("data/member").exists(), "the folder is ours");
    let member = start(ours());
    assert_eq!(written(&member), expected);
    let picture = member.picture(None);
    assert!(picture.contains("reborn") && picture.contains("reader"), "{picture}");
    assert!(site.path("data/member.etcd/snap/db").exists());
    member.ask("put at/last x");
    member.stop();
    let mut export = trierarch();
    export.arg("export").arg(site.path("s.db")).arg("--data-dir").arg(site.path("data"));
    good(export.args(log("--wal-dir")));
    let status = good(trierarch().args(["snapshot", "status", "-w", "json"]).arg(site.path("s.db")));
    assert!(status.contains("\"totalKey\":"), "{status}");
    for left in ["data/takeover.tmp", "log/takeover.tmp"] {
        assert!(!site.path(left).exists(), "{left}");
    }
    if !flags.is_empty() {
        assert!(site.path("log/member.etcd").exists(), "etcd's log is kept");
        assert!(!site.path("data/wal").exists());
    }
    let member = start(ours());
    assert_eq!(written(&member).last().map(String::as_str), Some("x"));
    // What etcd left is etcd's still, where somebody has to go back.
    member.stop();
    let mut command = Command::new("cp");
    good(command.arg("-r").arg(site.path("data/member.etcd")).arg(site.path("member")));
    std::fs::create_dir(site.path("back")).expect("folder");
    std::fs::rename(site.path("member"), site.path("back/member")).expect("rename");
    let flags = match flags.is_empty() {
        true => Vec::new(),
        false => vec!["--wal-dir".to_owned(), site.path("log/member.etcd").display().to_string()],
    };
    let member = site.alone(Command::new(etcd(version)), "back", &flags);
    member.wait();
    assert_eq!(written(&member), expected, "etcd, with the folder that was kept");
}

//! The folders of several members of etcd's are taken over where they lie, all at once.

use std::process::Command;

use crate::member::{Member, Site, etcd, fill, trierarch};
use crate::shared::eventually;

/// Entries between two of which members compare their states, several times over.
const MORE: usize = 40;
/// Keys that are written last.
const LAST: usize = 12;

#[test]
fn three_members_of_etcd_34_are_taken_over() {
    take_over("3.4");
}

#[test]
fn three_members_of_etcd_35_are_taken_over() {
    take_over("3.5");
}

#[test]
fn three_members_of_etcd_37_are_taken_over() {
    take_over("3.7.1");
}

/// Of each member its ids, name and addresses.
fn members(member: &Member) -> Vec<String> {
    let mut lines: Vec<String> = member.ask("member list").lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn start(sites: &[Site], program: impl Fn() -> Command) -> Vec<Member> {
    let named: Vec<String> =
        sites.iter().enumerate().map(|(n, site)| format!("m{n}={}", site.peer_url())).collect();
    let cluster = ["--initial-cluster".to_owned(), named.join(",")];
    let start = |(n, site): (usize, &Site)| site.spawn(program(), "data", &format!("m{n}"), &cluster);
    let members: Vec<Member> = sites.iter().enumerate().map(start).collect();
    members.iter().for_each(Member::wait);
    members
}

fn ours() -> Command {
    let mut command = trierarch();
    command.arg("etcd");
    command
}

/// The entry up to which members were last found to hold the same.
fn same_up_to(member: &Member) -> Option<u64> {
    let page = member.page("/metrics")?;
    let line = page.lines().find(|line| line.starts_with("trierarch_store_same_state_index "))?;
    line.rsplit(' ').next()?.parse::<f64>().ok().map(|index| index as u64)
}

fn applied(member: &Member) -> u64 {
    let status: serde_json::Value =
        serde_json::from_str(&member.ask("endpoint status -w json")).expect("JSON");
    status[0]["Status"]["raftAppliedIndex"].as_u64().expect("an index")
}

/// How many of the last keys a member has.
fn last(member: &Member, how: &str) -> usize {
    let keys = member.ask(&format!("get --prefix last --keys-only{how}"));
    keys.lines().filter(|line| !line.is_empty()).count()
}

/// All of a picture that later writes leave as it is.
fn past(picture: &str) -> Vec<&str> {
    picture.lines().filter(|line| !line.starts_with("\"Revision\"")).collect()
}

/// One was stopped and is behind; two were killed, the one with entries of which it does not know that they are committed,
/// and neither with all of them in its database.
fn take_over(version: &str) {
    let sites: Vec<Site> = (0..3).map(|_| Site::new()).collect();
    let mut etcds = start(&sites, || Command::new(etcd(version)));
    let lease = fill(&etcds[0]);
    etcds.pop().expect("three").stop();
    for number in 0..25 {
        etcds[number % 2].ask(&format!("put /late{number} x"));
    }
    let (before, listed) = (etcds[0].picture(None), members(&etcds[0]));
    let revision = etcds[0].revision();
    let history = etcds[0].history(8..=revision);
    // Acknowledged last, and not in the database of the one that is killed at once. The other goes on writing its own.
    for number in 0..LAST {
        etcds[number % 2].ask(&format!("put last{number} x"));
    }
    drop(etcds.pop());
    for _ in 0..5 {
        assert_eq!(last(&etcds[0], " --consistency=s"), LAST);
    }
    drop(etcds);

    let all = start(&sites, ours);
    for member in &all {
        assert_eq!(past(&member.picture(None)), past(&before));
        assert_eq!(last(member, ""), LAST);
        assert_eq!(members(member), listed);
        assert_eq!(member.history(8..=revision), history);
        assert!(member.ask(&format!("lease timetolive {lease} --keys")).contains("/leased"));
    }
    let written = applied(&all[0]);
    for number in 0..MORE {
        all[number % 3].ask(&format!("put /more{number} x"));
    }
    eventually("members compare their states", || {
        all.iter().any(|member| same_up_to(member) > Some(written)).then_some(())
    });
    assert_eq!(all[0].ask("alarm list"), "");
    let hashes = || -> Vec<String> {
        let hash = |member: &Member| member.ask("endpoint hashkv").rsplit(", ").next().map(str::to_owned);
        all.iter().filter_map(hash).collect()
    };
    eventually("all have applied everything", || {
        let hashes = hashes();
        hashes.iter().all(|hash| *hash == hashes[0]).then_some(())
    });
    for (site, member) in sites.iter().zip(&all) {
        assert!(site.path("data/member.etcd/snap/db").exists(), "etcd's files are kept");
        assert_eq!(member.ask("get /late24 --print-value-only"), "x");
        assert!(!site.log("data").contains("differ"), "{}", site.log("data"));
    }
}

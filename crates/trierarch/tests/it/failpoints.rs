//! A member ends at every step between a request and its reply, under load: nothing that was acknowledged is lost, and
//! what clients see is linearizable.

use std::path::Path;

use chaos::Network;
use chaos::etcd::{Fault, Scenario};
use env::Env;

/// Points that one cluster is struck at, one after the other.
const GROUP: usize = 12;

/// A member that is to cut off the end of its log must not get a snapshot instead: the others keep theirs.
const TRUNCATES: [&str; 2] = ["logBeforeTruncate", "logAfterTruncate"];

/// Points at which a member ends by being struck there.
fn points() -> impl Iterator<Item = &'static str> {
    // These two make a request fail and are passed when nothing is to be done.
    let fails = ["defragOpenFileError", "defragdbFail"];
    let all = store::FAILPOINTS.iter().chain(etcd_api::FAILPOINTS).copied();
    all.filter(move |point| !fails.contains(point))
}

fn scenario(name: &str, points: &[&str]) -> Scenario {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../chaos/scenarios/etcd/{name}.toml"));
    let mut scenario = chaos::etcd::load(&[file]).expect("a scenario").remove(0);
    scenario.about = format!("a member ends at {}", points.join(", "));
    scenario.runs = 1;
    scenario.rounds = points.len();
    scenario.faults =
        points.iter().map(|&point| Fault::Failpoint(point.to_owned(), "panic".to_owned())).collect();
    (scenario.lasts_ms, scenario.between_ms) = (200, 300);
    if points.iter().any(|point| TRUNCATES.contains(point)) {
        scenario.flags.clear();
    }
    scenario
}

fn play_all(name: &str, points: &[&str]) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    let (binary, network) = (Path::new(env!("CARGO_BIN_EXE_trierarch")), Network::loopback());
    for (seed, group) in (1..).zip(points.chunks(GROUP)) {
        let scenario = scenario(name, group);
        let played = runtime.block_on(chaos::etcd::play(&Env::real(), binary, &network, &scenario, seed));
        assert!(played.expect("played"), "{group:?}");
    }
}

#[test]
fn a_member_alone_ends_before_and_after_it_writes() {
    play_all(
        "alone",
        &["raftBeforeSave", "raftAfterSave", "beforeCommit", "afterCommit", "storeBeforeAnswer"],
    );
}

#[test]
#[ignore = "takes minutes: make test-all"]
fn a_member_alone_ends_at_every_step() {
    let points: Vec<&str> = points().filter(|point| !chaos::etcd::needs_others(point)).collect();
    play_all("alone", &points);
}

#[test]
#[ignore = "takes minutes: make test-all"]
fn a_member_of_three_ends_at_every_step() {
    let (truncates, others): (Vec<_>, Vec<_>) = points().partition(|point| TRUNCATES.contains(point));
    play_all("linearizable", &truncates);
    play_all("linearizable", &others);
}

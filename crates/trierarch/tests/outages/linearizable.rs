//! Members alone under faults, judged by what their clients saw; fixed seeds. `make chaos` plays the long ones.

use std::path::Path;

use chaos::Network;
use chaos::etcd::{Fault, Scenario};
use env::Env;

fn scenario(name: &str, faults: &[Fault]) -> Scenario {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../chaos/scenarios/etcd/{name}.toml"));
    let mut scenario = chaos::etcd::load(&[file]).expect("a scenario").remove(0);
    scenario.runs = 1;
    scenario.rounds = faults.len();
    scenario.faults = faults.to_vec();
    (scenario.lasts_ms, scenario.between_ms) = (700, 500);
    scenario
}

/// Whether all promises held.
fn play(network: &Network, scenario: &Scenario, seed: u64) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let binary = Path::new(env!("CARGO_BIN_EXE_trierarch"));
    runtime.block_on(chaos::etcd::play(&Env::real(), binary, network, scenario, seed))
}

#[test]
fn what_clients_see_is_linearizable_whoever_is_killed() {
    let faults = [Fault::KillLeader, Fault::MoveLeader, Fault::KillAll, Fault::PauseLeader];
    assert!(play(&Network::loopback(), &scenario("linearizable", &faults), 1).expect("played"));
}

#[test]
fn a_member_alone_loses_nothing_when_it_is_killed() {
    let faults = [Fault::KillLeader, Fault::KillLeader, Fault::PauseLeader];
    assert!(play(&Network::loopback(), &scenario("alone", &faults), 2).expect("played"));
}

#[test]
fn watchers_and_reads_hold_while_members_are_replaced_and_caught_up() {
    let faults = [Fault::KillFollower, Fault::ReplaceFollower];
    assert!(play(&Network::loopback(), &scenario("linearizable", &faults), 3).expect("played"));
}

#[test]
fn leases_locks_and_rights_hold_whoever_is_killed() {
    let faults = [Fault::KillLeader, Fault::PauseLeader, Fault::MoveLeader, Fault::KillAll];
    assert!(play(&Network::loopback(), &scenario("sessions", &faults), 5).expect("played"));
}

#[test]
fn a_leader_with_a_slow_disk_hands_over_and_one_with_a_failing_disk_ends() {
    let faults = [Fault::SlowDiskLeader, Fault::FailingDiskLeader, Fault::FailingDiskFollower];
    assert!(play(&Network::loopback(), &scenario("slow-disk", &faults), 6).expect("played"));
}

#[test]
fn clocks_that_jump_change_nothing() {
    let mut scenario = scenario("sessions", &[Fault::ClockSteps, Fault::KillLeader, Fault::ClockSteps]);
    scenario.lasts_ms = 3000;
    assert!(play(&Network::loopback(), &scenario, 7).expect("played"));
}

/// In network namespaces, which belong to their thread and not to other tests.
fn play_apart(scenario: Scenario, seed: u64) {
    let inside = move || play(&Network::fabric(), &scenario, seed);
    assert!(std::thread::spawn(inside).join().expect("no panic").expect("played"));
}

#[test]
#[ignore = "needs root: make test-all"]
fn nothing_is_lost_when_disks_are_full_and_all_is_well_when_there_is_room() {
    let faults = [Fault::FullDiskLeader, Fault::FullDiskFollower, Fault::FullDiskAll];
    let mut scenario = scenario("full-disk", &faults);
    scenario.lasts_ms = 3000;
    play_apart(scenario, 8);
}

#[test]
#[ignore = "needs root and nftables: make test-all"]
fn a_leader_that_is_cut_off_shows_nothing_old() {
    let faults = [Fault::CutLeader, Fault::DeafLeader, Fault::MuteLeader];
    let mut scenario = scenario("partitions", &faults);
    scenario.lasts_ms = 2000;
    play_apart(scenario, 4);
}

#[test]
#[ignore = "needs root and nftables: make test-all"]
fn packets_that_are_lost_change_nothing() {
    play_apart(scenario("lossy", &[Fault::LossyLeader, Fault::LossyFollower]), 10);
}

#[test]
#[ignore = "needs root and nftables: make test-all"]
fn leases_locks_and_rights_hold_whoever_is_cut_off() {
    let faults = [Fault::CutLeader, Fault::DeafLeader, Fault::MuteLeader];
    let mut scenario = scenario("sessions-partitions", &faults);
    scenario.lasts_ms = 3000;
    play_apart(scenario, 9);
}

//! Scenarios of `chaos/scenarios`, played once and shortened. `make chaos` plays all of them as they stand there.

use std::path::Path;

use chaos::{Network, Scenario};
use env::Env;

fn scenario(name: &str, outlasts_ms: u64) -> Scenario {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../chaos/scenarios/{name}.toml"));
    let mut scenario = chaos::scenarios(&[file]).expect("a scenario").remove(0);
    scenario.runs = 1;
    scenario.fault.for_ms = scenario.fault.for_ms.min(outlasts_ms);
    scenario.load.after_ms = 500;
    scenario
}

/// Whether all invariants held.
fn play(network: &Network, scenario: &Scenario) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let binary = Path::new(env!("CARGO_BIN_EXE_trierarch"));
    runtime.block_on(chaos::play(&Env::real(), binary, network, scenario))
}

#[test]
fn nothing_is_lost_when_the_leader_is_killed_under_load() {
    assert!(play(&Network::loopback(), &scenario("kill-leader", 500)).expect("played"));
}

#[test]
fn a_scenario_that_needs_root_fails_without_it() {
    let error = play(&Network::loopback(), &scenario("partition-leader", 500)).expect_err("refused");
    assert!(format!("{error:#}").contains("needs root"), "{error:#}");
}

#[test]
#[ignore = "needs root and nftables: make test-all"]
fn a_leader_that_is_cut_off_is_replaced_and_nothing_is_lost() {
    // The namespace is its thread's and not that of other tests.
    let inside = || play(&Network::fabric(), &scenario("partition-leader", 3000));
    let played = std::thread::spawn(inside).join().expect("no panic");
    assert!(played.expect("played"));
}

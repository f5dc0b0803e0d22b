//! One scenario from start to report.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use env::Env;

use crate::api_load::{self, Create, Listed, Told, What};
use crate::check;
use crate::clients::{Clients, Story};
use crate::cluster::{Cluster, node_becomes};
use crate::fault::{self, Moment, Struck};
use crate::load::Seen;
use crate::network::Network;
use crate::poll::until;
use crate::recovery::{self, Before, Expected, Recovery};
use crate::report::{self, Outcome};
use crate::scenario::{Kind, Scenario, Target};
use crate::web::Web;

/// Replicas that are wanted more right after the fault.
const MORE: u64 = 2;
/// How long a master may take to answer when everything is mended.
const PATIENCE: Duration = Duration::from_secs(30);

/// Plays a scenario and prints its report; whether all invariants held.
///
/// # Errors
/// What keeps it from being played: no cluster, no right to cut masters off.
pub async fn play(env: &Env, binary: &Path, network: &Network, scenario: &Scenario) -> Result<bool> {
    if scenario.fault.kind == Kind::Partition {
        network.can_cut()?;
    }
    let mut outcomes = Vec::new();
    for _ in 0..scenario.runs {
        outcomes.push(run(env, binary, network, scenario).await?);
    }
    Ok(report::print(scenario, &outcomes))
}

async fn run(env: &Env, binary: &Path, network: &Network, scenario: &Scenario) -> Result<Outcome> {
    let size = (scenario.masters, scenario.nodes);
    let mut cluster = Cluster::start(env, binary, network, size).await?;
    let outcome = match run_on(env, &mut cluster, scenario).await {
        Ok(outcome) => outcome,
        Err(error) => bail!("{error:#}\n{}", cluster.last_words()),
    };
    if !outcome.wrong.is_empty() {
        println!("logs and data are kept in {}", cluster.keep_folder().display());
    }
    Ok(outcome)
}

async fn run_on(env: &Env, cluster: &mut Cluster<'_>, scenario: &Scenario) -> Result<Outcome> {
    let everyone: Vec<usize> = (0..cluster.size()).collect();
    let web = Web::make(env, &cluster.client(&everyone)?, scenario.replicas).await?;
    let clients = Clients::start(env, cluster, scenario.load).await?;
    env.clock.sleep(Duration::from_millis(scenario.load.before_ms)).await;
    let (moment, struck, mut recovery) = afflict(env, cluster, scenario).await?;
    env.clock.sleep(Duration::from_millis(scenario.load.after_ms)).await;
    let (story, late) = clients.finish(env).await?;
    if story.writes.is_empty() || story.creates.is_empty() {
        bail!("nothing was written");
    }
    for &node in &struck.nodes {
        let back = node_becomes(env, &cluster.client(&everyone)?, node, true, PATIENCE).await;
        recovery.wrong.extend(back.err().map(|why| format!("at the end: {why:#}")));
    }
    let settled = web.settled(scenario.replicas + MORE).await;
    recovery.wrong.extend(settled.err().map(|why| format!("at the end: {why:#}")));
    let lists = lists(env, cluster).await?;
    let mut wrong = check::all(&story, &lists);
    wrong.extend(late);
    wrong.append(&mut recovery.wrong);
    Ok(outcome(&story, &recovery, moment, &struck, wrong))
}

/// Strikes, follows what happens, and mends.
async fn afflict(
    env: &Env,
    cluster: &mut Cluster<'_>,
    scenario: &Scenario,
) -> Result<(Moment, Struck, Recovery)> {
    let fault = scenario.fault;
    let leader = recovery::leader(env, cluster).await?;
    let struck = fault::targets(fault.target, leader, cluster.size());
    let before = Before::look(env, cluster, &struck).await?;
    let expected = Expected {
        replicas: scenario.replicas + MORE,
        leads: matches!(fault.target, Target::Leader | Target::All),
        cut: fault.kind == Kind::Partition,
        lasts: Duration::from_millis(fault.for_ms),
    };
    let moment = fault::strike(env, cluster, fault.kind, &struck)?;
    let (recovery, mended) =
        tokio::join!(before.follow(env, &struck, expected), fault::mend(env, cluster, fault, &struck));
    mended?;
    Ok((moment, struck, recovery))
}

/// The ConfigMaps as each master lists them.
async fn lists(env: &Env, cluster: &Cluster<'_>) -> Result<Vec<Vec<Listed>>> {
    let mut lists = Vec::new();
    for index in 0..cluster.size() {
        let client = cluster.client(&[index])?;
        lists.push(until(env, PATIENCE, async || api_load::list(&client).await).await?.0);
    }
    Ok(lists)
}

fn outcome(
    story: &Story,
    recovery: &Recovery,
    moment: Moment,
    struck: &Struck,
    wrong: Vec<String>,
) -> Outcome {
    let since = |at: tokio::time::Instant| at.saturating_duration_since(moment.begun);
    let acknowledged = story.writes.iter().filter(|write| write.acknowledged.is_some()).count();
    let configmaps = story.creates.iter().filter_map(Create::acknowledged).count();
    Outcome {
        writes_resumed: writes_resumed(story, moment),
        watchers_resumed: watchers_resumed(story, moment, struck),
        controllers_resumed: recovery.bound.map(since),
        led: recovery.led.map(since),
        replaced: recovery.replaced.map(since),
        acknowledged,
        configmaps,
        unknown: story.writes.len() + story.creates.len() - acknowledged - configmaps,
        wrong,
    }
}

/// Counts writes that were begun when all were struck: those before may have been answered by the dying. The later one
/// of etcd's and the API's first.
fn writes_resumed(story: &Story, moment: Moment) -> Option<Duration> {
    let writes = story.writes.iter().filter(|write| write.begun > moment.done);
    let creates = story.creates.iter().filter(|create| create.begun > moment.done);
    let first = writes.filter_map(|write| write.acknowledged).map(|(at, _)| at).min()?;
    let first_api = creates.filter_map(Create::acknowledged).map(|(at, _)| at).min()?;
    Some(first.max(first_api) - moment.begun)
}

/// Watchers of struck masters count too when all were struck.
fn watchers_resumed(story: &Story, moment: Moment, struck: &Struck) -> Option<Duration> {
    let writes = story.writes.iter().filter(|write| write.begun > moment.done);
    let creates = story.creates.iter().filter(|create| create.begun > moment.done);
    let first = writes.filter_map(|write| write.acknowledged).map(|(_, revision)| revision).min()?;
    let first_api = creates.filter_map(Create::acknowledged).map(|(_, version)| version).min()?;
    let saw = |seen: &Vec<Seen>| seen.iter().find(|event| event.revision >= first).map(|event| event.at);
    let is_new = |told: &&Told| matches!(told.what, What::Added(_)) && told.version >= first_api;
    let heard = |told: &Vec<Told>| told.iter().find(is_new).map(|told| told.at);
    let mut times = Vec::new();
    for index in struck.living(story.seen.len()) {
        times.extend([saw(&story.seen[index])?, heard(&story.told[index])?]);
    }
    times.into_iter().max().map(|last| last.saturating_duration_since(moment.begun))
}

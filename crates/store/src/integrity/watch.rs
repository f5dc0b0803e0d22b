//! As the leader, compares what members noted, and tells whom the majority contradicts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mvcc::{Alarm, AlarmAction, AlarmKind, Command};
use openraft::async_runtime::WatchReceiver as _;
use protos::peer;

use super::marks::{Verdict, judge};
use super::{Mark, Wrong};
use crate::inner::Inner;
use crate::members::hex;
use crate::peers::Lane;

/// How often members are compared.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long one may take to say what it noted.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an alarm may take to be raised: the member that is wrong is told all the same.
const ALARM_TIMEOUT: Duration = Duration::from_secs(2);

/// Compares while this member leads.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut compared = 0;
    loop {
        tokio::select! {
            () = inner.env.clock.sleep(INTERVAL) => {}
            () = inner.shutdown.wait() => return,
        }
        if !inner.leads() {
            compared = 0;
            continue;
        }
        compare(&inner, &mut compared).await;
    }
}

async fn compare(inner: &Inner, compared: &mut u64) {
    let (voters, everyone) = members(inner);
    let mut notes = BTreeMap::from([(inner.me, inner.shared.marks.lock().after(*compared))]);
    if notes[&inner.me].is_empty() {
        return;
    }
    let others = everyone.into_iter().filter(|&id| id != inner.me);
    let after = *compared;
    let asked = others.map(|id| async move { (id, ask(inner, id, after).await) });
    for (id, answer) in futures::future::join_all(asked).await {
        notes.extend(answer.map(|marks| (id, marks)));
    }
    let all = notes.len();
    match judge(&notes, &voters) {
        Verdict::Same { index } if all >= voters.len() => {
            metrics::gauge!("trierarch_store_same_state_index").set(index as f64);
            *compared = index;
        }
        Verdict::Nothing | Verdict::Same { .. } => {}
        Verdict::Odd { index, hash, members } => {
            for member in members {
                accuse(inner, member, Mark { index, hash }).await;
            }
        }
        Verdict::Unknown { index } => {
            tracing::error!(index, members = ?notes.keys(), "members differ and no majority agrees");
            alarm(inner, 0, AlarmAction::Activate).await;
            *compared = index;
        }
    }
}

fn members(inner: &Inner) -> (Vec<u64>, BTreeSet<u64>) {
    let metrics = inner.raft.metrics();
    let metrics = metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    (membership.voter_ids().collect(), membership.nodes().map(|(id, _)| *id).collect())
}

/// What a member noted; `None` when it does not say, and also when it has nothing to say yet.
async fn ask(inner: &Inner, id: u64, after: u64) -> Option<Vec<Mark>> {
    let mut client = inner.peer(id, Lane::Control).ok()?;
    let asked = client.state_hashes(peer::StateHashesRequest { after });
    let answer = tokio::time::timeout(ASK_TIMEOUT, asked).await.ok()?.ok()?.into_inner();
    let marks: Vec<_> =
        answer.hashes.into_iter().map(|one| Mark { index: one.index, hash: one.hash }).collect();
    (!marks.is_empty()).then_some(marks)
}

/// Raises the alarm for a member and tells it.
async fn accuse(inner: &Inner, id: u64, right: Mark) {
    tracing::error!(
        member = hex(id),
        index = right.index,
        "a member's state differs from what the majority holds"
    );
    alarm(inner, id, AlarmAction::Activate).await;
    if id == inner.me {
        inner.shared.fence.raise(Wrong::Diverged { index: right.index });
        return;
    }
    let Ok(mut client) = inner.peer(id, Lane::Control) else { return };
    let tell = client.diverged(peer::StateHash { index: right.index, hash: right.hash });
    // One that does not hear it is told again with the next comparison.
    drop(tokio::time::timeout(ASK_TIMEOUT, tell).await);
}

/// Raises or clears the alarm of a member; 0 is for members that differ without a majority.
pub(crate) async fn alarm(inner: &Inner, member: u64, action: AlarmAction) -> bool {
    let alarm = Alarm { member, kind: AlarmKind::Corrupt };
    let raised = inner.shared.view.load().alarms().any(|known| known == alarm);
    if raised == (action == AlarmAction::Activate) {
        return true;
    }
    let proposed = inner.propose(Command::Alarm { action, alarm });
    matches!(tokio::time::timeout(ALARM_TIMEOUT, proposed).await, Ok(Ok(_)))
}

/// Takes back the alarm of a member whose state was replaced by another's.
pub(crate) async fn all_clear(inner: Arc<Inner>) {
    while !inner.shutdown.is_triggered() {
        // Only what is applied here says whether it is raised.
        if inner.read_barrier().await.is_ok() && alarm(&inner, inner.me, AlarmAction::Deactivate).await {
            tracing::info!("the state is whole again");
            return;
        }
        tokio::select! {
            () = inner.env.clock.sleep(INTERVAL) => {}
            () = inner.shutdown.wait() => return,
        }
    }
}

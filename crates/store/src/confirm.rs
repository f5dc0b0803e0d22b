//! How a leader has itself confirmed before it answers a read or renews a lease: by the one who asks, or by asking as many
//! others as it needs, those first who answered last, on a stream to each. That costs less than a round of openraft's
//! heartbeats, a call to each of the others, which is what is left where a quorum does not answer in time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use openraft::ReadPolicy;
use parking_lot::Mutex;
use protos::peer;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use crate::consensus::Membership;
use crate::error::StoreError;
use crate::inner::Inner;
use crate::peers::Lane;
use crate::witness::{Round, Witness};

/// Questions on their way to one member.
const QUEUE: usize = 64;
/// How long those are waited for who answered last, before the others are asked too.
const HEDGE: Duration = Duration::from_millis(2);

/// What a leader keeps to ask the others.
#[derive(Default)]
pub(crate) struct Witnesses {
    links: Mutex<Links>,
}

#[derive(Default)]
struct Links {
    streams: HashMap<u64, mpsc::Sender<oneshot::Sender<Witness>>>,
    /// Who answered last comes first.
    order: Vec<u64>,
}

impl Witnesses {
    /// The voters but for `me`, in the order in which they are asked.
    fn others(&self, me: u64, membership: &Membership) -> VecDeque<u64> {
        let mut voters: VecDeque<u64> = membership.voter_ids().filter(|&id| id != me).collect();
        let links = self.links.lock();
        let place = |id: &u64| links.order.iter().position(|known| known == id).unwrap_or(usize::MAX);
        voters.make_contiguous().sort_by_key(place);
        voters
    }

    fn note_answer(&self, member: u64) {
        let mut links = self.links.lock();
        if links.order.first() != Some(&member) {
            links.order.retain(|&known| known != member);
            links.order.insert(0, member);
        }
    }

    /// Asks one member. Its answer; an error when there is none any more.
    fn ask(&self, inner: &Arc<Inner>, member: u64) -> oneshot::Receiver<Witness> {
        let (answer, answered) = oneshot::channel();
        let mut links = self.links.lock();
        let stream = links.streams.entry(member).or_insert_with(|| open(inner, member));
        match stream.try_send(answer) {
            // A member that does not keep up has many questions already.
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => {}
            Err(mpsc::error::TrySendError::Closed(answer)) => {
                *stream = open(inner, member);
                drop(stream.try_send(answer));
            }
        }
        answered
    }
}

/// Opens the stream to a member; it ends when the member does not answer, with the questions that are on it.
fn open(inner: &Arc<Inner>, member: u64) -> mpsc::Sender<oneshot::Sender<Witness>> {
    let (questions, to_ask) = mpsc::channel(QUEUE);
    let asking = inner.clone();
    inner.tasks.spawn_detached("witness", async move {
        tokio::select! {
            () = ask_all(&asking, member, to_ask) => {}
            () = asking.shutdown.wait() => {}
        }
    });
    questions
}

async fn ask_all(inner: &Inner, member: u64, questions: mpsc::Receiver<oneshot::Sender<Witness>>) {
    let waiting: Arc<Mutex<VecDeque<oneshot::Sender<Witness>>>> = Arc::default();
    let asked = waiting.clone();
    let questions = ReceiverStream::new(questions).map(move |answer| {
        asked.lock().push_back(answer);
        peer::WitnessRequest {}
    });
    let Ok(mut client) = inner.peer(member, Lane::Control) else { return };
    let Ok(answers) = client.witness(questions).await else { return };
    let mut answers = answers.into_inner();
    while let Ok(Some(answer)) = answers.message().await {
        let (Some(witness), Some(asked)) = (Witness::from_wire(Some(answer)), waiting.lock().pop_front())
        else {
            return;
        };
        let _ = asked.send(witness);
    }
}

/// The index up to which a read must see the log, as the leader: `witness` is that of who asks.
///
/// # Errors
/// [`StoreError::NotLeader`], also when a quorum does not answer, and [`StoreError::Stopped`].
pub(crate) async fn read_index(inner: &Arc<Inner>, witness: Option<Witness>) -> Result<u64, StoreError> {
    let confirmed = tokio::select! {
        biased;
        confirmed = confirm(inner, witness) => confirmed?,
        () = inner.env.clock.sleep(inner.timing.heartbeat) => false,
    };
    // By the lease: only whether this member was confirmed at any time since it was elected, so that the index is known.
    // That it leads now is the witnesses' word.
    if confirmed && let Ok(index) = ask(inner, ReadPolicy::LeaseRead).await {
        return Ok(index);
    }
    ask(inner, ReadPolicy::ReadIndex).await
}

/// Whether a quorum says that it follows this member.
async fn confirm(inner: &Arc<Inner>, witness: Option<Witness>) -> Result<bool, StoreError> {
    let state =
        inner.raft.with_raft_state(|state| (*state.vote_ref(), state.membership_state.effective().clone()));
    let (vote, membership) = state.await.map_err(|_| StoreError::Stopped)?;
    let membership = membership.membership();
    let others = inner.witnesses.others(inner.me, membership);
    let Some(mut round) = Round::begin(inner.me, vote, membership, others) else { return Ok(false) };
    if let Some(witness) = witness {
        round.hear(witness.member, Some(witness));
    }
    let mut answers = FuturesUnordered::new();
    let ask = |member| {
        let answered = inner.witnesses.ask(inner, member);
        async move { (member, answered.await.ok()) }
    };
    let mut hedge = std::pin::pin!(inner.env.clock.sleep(HEDGE));
    let mut hedged = false;
    while !round.is_confirmed() {
        while let Some(member) = if hedged { round.next_of_all() } else { round.next() } {
            answers.push(ask(member));
        }
        tokio::select! {
            biased;
            answer = answers.next() => {
                let Some((member, witness)) = answer else { return Ok(false) };
                if witness.is_some() {
                    inner.witnesses.note_answer(member);
                }
                round.hear(member, witness);
            }
            () = &mut hedge, if !hedged => hedged = true,
        }
    }
    Ok(true)
}

async fn ask(inner: &Inner, policy: ReadPolicy) -> Result<u64, StoreError> {
    let linearizer = inner.raft.get_read_linearizer(policy).await.map_err(|error| match error {
        openraft::errors::RaftError::Fatal(_) => StoreError::Stopped,
        openraft::errors::RaftError::APIError(_) => StoreError::NotLeader,
    })?;
    Ok(linearizer.read_log_id().index())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::witness::tests::membership;

    #[test]
    fn who_answered_last_is_asked_first() {
        let (witnesses, five) = (Witnesses::default(), membership(&[&[1, 2, 3, 4, 5]]));
        assert_eq!(witnesses.others(1, &five), [2, 3, 4, 5]);
        for member in [3, 5, 5, 4] {
            witnesses.note_answer(member);
        }
        assert_eq!(witnesses.others(1, &five), [4, 5, 3, 2]);
        assert_eq!(witnesses.others(5, &membership(&[&[1, 2, 5]])), [1, 2]);
    }
}

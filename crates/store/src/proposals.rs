//! Proposals on their way to the leader's log: gathered, handed over a batch at a time, and watched until they are in or
//! the leader is lost.
//!
//! One task does it for all callers. What succeeds is not answered: whoever proposed sees it applied. What fails is told
//! with whether a copy may be in a log, so that it can be proposed again ([`crate::sessions`] makes that safe).

use std::collections::HashMap;
use std::sync::Arc;

use futures::stream::{BoxStream, SelectAll, StreamExt as _};
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::ClientWriteError;
use protos::peer;
use protos::peer::propose_response::Failure as Wire;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::consensus::{self, Proposal, TypeConfig};
use crate::error::StoreError;
use crate::failpoints::hit;
use crate::inner::Inner;
use crate::peers::Lane;

/// Proposals that wait to be handed over.
pub(crate) const QUEUE: usize = 4096;
/// Proposals handed over together, at most.
const MAX_BATCH: usize = 256;
/// Bytes of proposals in one message, but for one that is larger.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// Batches on their way to another member.
const BATCHES: usize = 64;
/// Failures that wait to be told.
const FAILURES: usize = 1024;
/// Proposals of which is looked whether anybody still waits for them.
const PRUNE: usize = 1024;

/// Why a proposal is not in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No copy is in a log because of this attempt.
    NotIn,
    /// One may be.
    MayBeIn,
    /// Trying again does not help.
    Refused(StoreError),
}

/// A proposal, and whom to tell if it fails.
pub(crate) struct Submission {
    pub proposal: Proposal,
    pub failed: oneshot::Sender<Failure>,
}

/// The failures of proposals that were handed to the consensus, by their numbers.
type Results = SelectAll<BoxStream<'static, (u64, Failure)>>;

/// Runs until the store stops.
pub(crate) async fn run(inner: Arc<Inner>, mut submitted: mpsc::Receiver<Submission>) {
    let (tell, mut told) = mpsc::channel(FAILURES);
    let mut changes = inner.raft.server_metrics();
    let mut proposer = Proposer::new(inner.clone(), tell);
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = inner.shutdown.wait() => return,
            changed = changes.changed() => match changed {
                Ok(()) => proposer.follow(),
                Err(_) => return,
            },
            Some((number, failure)) = proposer.results.next(), if !proposer.results.is_empty() => {
                proposer.fail(number, failure);
            }
            Some(notice) = told.recv() => proposer.heed(notice),
            count = submitted.recv_many(&mut batch, MAX_BATCH) => {
                if count == 0 {
                    return;
                }
                proposer.follow();
                proposer.submit(&mut batch).await;
            }
        }
    }
}

/// What a task that talks to another leader says.
enum Notice {
    Failed(u64, Failure),
    /// The stream with this number has ended.
    Ended(u64),
}

/// A stream of batches to another member.
struct Stream {
    number: u64,
    batches: mpsc::Sender<peer::ProposeRequest>,
}

struct Proposer {
    inner: Arc<Inner>,
    /// Who leads, and in which term.
    leader: (Option<u64>, u64),
    /// Handed over, and neither failed nor known to be applied.
    waiting: HashMap<u64, oneshot::Sender<Failure>>,
    results: Results,
    stream: Option<Stream>,
    streams: u64,
    tell: mpsc::Sender<Notice>,
    prune_at: usize,
}

impl Proposer {
    fn new(inner: Arc<Inner>, tell: mpsc::Sender<Notice>) -> Self {
        Self {
            inner,
            leader: (None, 0),
            waiting: HashMap::new(),
            results: SelectAll::new(),
            stream: None,
            streams: 0,
            tell,
            prune_at: PRUNE,
        }
    }

    /// Notices another leader or another term: what was handed to the one before may be lost.
    fn follow(&mut self) {
        let now = {
            let metrics = self.inner.raft.server_metrics();
            let metrics = metrics.borrow_watched();
            (metrics.current_leader, metrics.vote.leader_id.term)
        };
        if now != self.leader {
            self.leader = now;
            self.stream = None;
            self.lose_all();
        }
    }

    fn lose_all(&mut self) {
        for (_, failed) in self.waiting.drain() {
            drop(failed.send(Failure::MayBeIn));
        }
    }

    fn fail(&mut self, number: u64, failure: Failure) {
        if let Some(failed) = self.waiting.remove(&number) {
            drop(failed.send(failure));
        }
    }

    fn heed(&mut self, notice: Notice) {
        match notice {
            Notice::Failed(number, failure) => self.fail(number, failure),
            Notice::Ended(number) => {
                if self.stream.take_if(|stream| stream.number == number).is_some() {
                    self.lose_all();
                }
            }
        }
    }

    async fn submit(&mut self, batch: &mut Vec<Submission>) {
        let mut proposals = Vec::with_capacity(batch.len());
        for Submission { proposal, failed } in batch.drain(..) {
            if !failed.is_closed() {
                self.waiting.insert(proposal.origin.number, failed);
                proposals.push(proposal);
            }
        }
        self.prune();
        match self.leader.0 {
            None => self.fail_all(numbers(&proposals), &Failure::NotIn),
            Some(leader) if leader == self.inner.me => match write(&self.inner, proposals).await {
                Ok(results) => self.results.push(results),
                Err((numbers, failure)) => self.fail_all(numbers, &failure),
            },
            Some(leader) => self.forward(leader, proposals),
        }
    }

    /// Forgets what nobody waits for any more.
    fn prune(&mut self) {
        if self.waiting.len() >= self.prune_at {
            self.waiting.retain(|_, failed| !failed.is_closed());
            self.prune_at = (2 * self.waiting.len()).max(PRUNE);
        }
    }

    fn fail_all(&mut self, numbers: Vec<u64>, failure: &Failure) {
        numbers.into_iter().for_each(|number| self.fail(number, failure.clone()));
    }

    fn forward(&mut self, leader: u64, proposals: Vec<Proposal>) {
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.open(leader),
        };
        for proposals in messages(&proposals) {
            let wire = proposals.iter().map(consensus::proposal_to_wire).collect();
            if stream.batches.try_send(peer::ProposeRequest { proposals: wire }).is_err() {
                // The leader does not keep up, or the end of the stream is about to be told.
                self.fail_all(numbers(proposals), &Failure::NotIn);
            }
        }
        self.stream = Some(stream);
    }

    fn open(&mut self, leader: u64) -> Stream {
        let (batches, to_send) = mpsc::channel(BATCHES);
        self.streams += 1;
        let (number, inner, tell) = (self.streams, self.inner.clone(), self.tell.clone());
        self.inner.tasks.spawn_detached("forward", async move {
            let forwarded = forward(&inner, leader, to_send, &tell);
            tokio::select! {
                () = forwarded => {}
                () = inner.shutdown.wait() => return,
            }
            drop(tell.send(Notice::Ended(number)).await);
        });
        Stream { number, batches }
    }
}

/// Cuts proposals into messages that are not larger than need be.
fn messages(mut proposals: &[Proposal]) -> impl Iterator<Item = &[Proposal]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |proposal: &&Proposal| {
            bytes += proposal.command.len();
            bytes <= MAX_MESSAGE_BYTES
        };
        let count = proposals.iter().take_while(fits).count().max(1).min(proposals.len());
        let (message, rest) = proposals.split_at(count);
        proposals = rest;
        (!message.is_empty()).then_some(message)
    })
}

/// Sends batches to another member until it does not answer any more.
async fn forward(
    inner: &Inner,
    leader: u64,
    batches: mpsc::Receiver<peer::ProposeRequest>,
    tell: &mpsc::Sender<Notice>,
) {
    let Ok(mut client) = inner.peer(leader, Lane::Forward) else { return };
    let Ok(answers) = client.propose(ReceiverStream::new(batches)).await else { return };
    let mut answers = answers.into_inner();
    while let Ok(Some(answer)) = answers.message().await {
        let failure = match answer.failure() {
            Wire::NotIn => Failure::NotIn,
            Wire::MayBeIn => Failure::MayBeIn,
            Wire::TooMany => Failure::Refused(StoreError::TooManyRequests),
        };
        if tell.send(Notice::Failed(answer.number, failure)).await.is_err() {
            return;
        }
    }
}

fn numbers(proposals: &[Proposal]) -> Vec<u64> {
    proposals.iter().map(|proposal| proposal.origin.number).collect()
}

/// Writes proposals into the log as the leader; the failures of those that do not stay there. An error is about all of
/// them, by their numbers.
async fn write(
    inner: &Inner,
    proposals: Vec<Proposal>,
) -> Result<BoxStream<'static, (u64, Failure)>, (Vec<u64>, Failure)> {
    let numbers = numbers(&proposals);
    if let Err(error) = inner.check_apply_gap() {
        return Err((numbers, Failure::Refused(error)));
    }
    hit("leaderBeforeWrite");
    match inner.raft.client_write_many(proposals).await {
        Ok(results) => {
            let numbered = futures::stream::iter(numbers).zip(results);
            let failed = numbered.filter_map(|(number, result)| {
                std::future::ready(failure_of(result).map(|failure| (number, failure)))
            });
            Ok(failed.boxed())
        }
        Err(_) => Err((numbers, Failure::Refused(StoreError::Stopped))),
    }
}

fn failure_of<T, E>(result: Result<Result<T, ClientWriteError<TypeConfig>>, E>) -> Option<Failure> {
    match result {
        Ok(Ok(_)) => None,
        Ok(Err(ClientWriteError::ForwardToLeader(_) | ClientWriteError::PreconditionFailed(_))) => {
            Some(Failure::NotIn)
        }
        Ok(Err(_)) => Some(Failure::MayBeIn),
        Err(_) => Some(Failure::Refused(StoreError::Stopped)),
    }
}

/// Takes another member's batches as the leader.
pub(crate) async fn take(
    inner: Arc<Inner>,
    mut batches: Streaming<peer::ProposeRequest>,
    out: mpsc::Sender<Result<peer::ProposeResponse, Status>>,
) {
    let mut results: Results = SelectAll::new();
    loop {
        let (number, failure) = tokio::select! {
            biased;
            () = inner.shutdown.wait() => return,
            Some(failed) = results.next(), if !results.is_empty() => failed,
            batch = batches.message() => {
                let Ok(Some(batch)) = batch else { return };
                match take_batch(&inner, batch, &mut results, &out).await {
                    Some(()) => continue,
                    None => return,
                }
            }
        };
        if out.send(Ok(answer(number, &failure))).await.is_err() {
            return;
        }
    }
}

async fn take_batch(
    inner: &Inner,
    batch: peer::ProposeRequest,
    results: &mut Results,
    out: &mpsc::Sender<Result<peer::ProposeResponse, Status>>,
) -> Option<()> {
    let proposals = batch.proposals.into_iter().map(consensus::proposal_from_wire);
    let proposals: Vec<Proposal> = match proposals.collect() {
        Ok(proposals) => proposals,
        Err(error) => {
            drop(out.send(Err(Status::invalid_argument(error.to_string()))).await);
            return None;
        }
    };
    match write(inner, proposals).await {
        Ok(failed) => results.push(failed),
        Err((numbers, failure)) => {
            for number in numbers {
                out.send(Ok(answer(number, &failure))).await.ok()?;
            }
        }
    }
    Some(())
}

fn answer(number: u64, failure: &Failure) -> peer::ProposeResponse {
    let failure = match failure {
        Failure::NotIn => Wire::NotIn,
        Failure::Refused(StoreError::TooManyRequests) => Wire::TooMany,
        Failure::MayBeIn | Failure::Refused(_) => Wire::MayBeIn,
    };
    peer::ProposeResponse { number, failure: failure.into() }
}

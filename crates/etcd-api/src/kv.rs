//! Reads and writes.

use std::sync::Arc;

use futures::stream::BoxStream;
use mvcc::{
    Caller, Command, KeyRange, MvccError, Op, OpResponse, PutRequest, RangeRequest, RangeResponse,
    Response as Answer, SortOrder, SortTarget, Txn, TxnResponse, View,
};
use protos::etcd::etcdserverpb as pb;
use protos::etcd::etcdserverpb::kv_server::Kv;
use tonic::{Request, Response, Status};

use crate::auth::Credentials;
use crate::budget::{Asked, Permit, Reserved, Share};
use crate::context::Context;
use crate::convert;
use crate::error::{auth_status, mvcc_status, status};

/// Keys in the first message of a streamed range; the size doubles from there.
const FIRST_CHUNK: usize = 10;
/// Keys that are read at once on the thread that serves the connection: handing them to another takes as long.
const FEW_KEYS: i64 = 200;
/// Keys in one message of a streamed range, at most.
const MAX_CHUNK: usize = 10_000;
/// Bytes of keys and values in one message of a streamed range, about.
const CHUNK_BYTES: usize = 1 << 20;

pub(crate) struct KvService(pub Context);

impl KvService {
    /// Replicates one step and returns its answer with the revision.
    async fn step(&self, caller: Caller, op: Op) -> Result<(i64, OpResponse), Status> {
        self.step_of(caller, Txn::of(op)).await
    }

    async fn step_of(&self, caller: Caller, txn: Txn) -> Result<(i64, OpResponse), Status> {
        let (revision, mut txn) = self.replicate(caller, txn).await?;
        let answer = txn.responses.pop().ok_or_else(|| Status::internal("a step without an answer"))?;
        Ok((revision, answer))
    }

    async fn replicate(&self, caller: Caller, txn: Txn) -> Result<(i64, TxnResponse), Status> {
        match self.0.propose(caller, Command::Txn(txn)).await? {
            (revision, Answer::Txn(txn)) => Ok((revision, txn)),
            (_, other) => Err(Status::internal(format!("a transaction was answered by {other:?}"))),
        }
    }

    async fn read(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        self.0.barrier(request.get_ref().serializable).await?;
        let caller = self.0.caller(&request).await?;
        let share = Share::of_call(&self.0, request.extensions());
        let request = convert::range(request.into_inner())?;
        let view = self.0.store.view();
        view.auth().check_read(&caller, &request.range).map_err(auth_status)?;
        let start = self.0.env.clock.monotonic();
        let answer = if may_be_long(&view, &request) {
            // Others on this thread must not wait for it.
            let range = tokio::task::spawn_blocking(move || range_within(&view, &request, &share)).await;
            range.map_err(|error| Status::internal(error.to_string()))?
        } else {
            range_within(&view, &request, &share)
        };
        let took = self.0.env.clock.monotonic() - start;
        self.0.counters.range_took[usize::from(answer.is_ok())].record(took);
        self.0.tell_slow_read("read-only range ", took);
        self.0.counters.ranges.increment(1);
        let (answer, permit) = answer?;
        let header = self.0.header(answer.revision);
        Ok(respond(convert::range_response(answer, header), permit))
    }

    /// A transaction that only reads.
    async fn read_txn(
        &self,
        credentials: &Credentials,
        txn: &Txn,
        serializable: bool,
        share: &Share,
    ) -> Result<(i64, TxnResponse, Option<Permit>), Status> {
        self.0.barrier(serializable).await?;
        let caller = self.0.identify(credentials).await.map_err(auth_status)?;
        let view = self.0.store.view();
        view.check_txn(&caller, txn).map_err(auth_status)?;
        let mut asked = Asked::new(share);
        let answer = view.txn(txn, &mut |bytes| asked.admit(bytes));
        let (answer, permit) = asked.answer(answer)?;
        self.0.counters.ranges.increment(answer.responses.len() as u64);
        if answer.responses.len() > 1 {
            self.0.counters.txns.increment(1);
        }
        Ok((view.revision(), answer, permit))
    }

    /// Takes the memory for the answer to a transaction that writes; what it is then may be more by what others write
    /// meanwhile.
    fn reserve(&self, txn: &Txn, share: &Share) -> Result<Option<Permit>, Status> {
        let mut asked = Asked::new(share);
        let bytes = self.0.store.view().answer_bytes(txn);
        let admitted = asked.admit(bytes);
        let answer = if admitted { Ok(()) } else { Err(MvccError::TooMuch { bytes }) };
        asked.answer(answer).map(|((), permit)| permit)
    }
}

#[tonic::async_trait]
impl Kv for KvService {
    type RangeStreamStream = BoxStream<'static, Result<pb::RangeStreamResponse, Status>>;

    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        let start = self.0.env.clock.monotonic();
        let answer = self.read(request).await;
        self.0.counters.read_took[usize::from(answer.is_ok())].record(self.0.env.clock.monotonic() - start);
        answer
    }

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let wanted = convert::range(request.get_ref().clone())?;
        check_streamed(&wanted)?;
        self.0.barrier(request.get_ref().serializable).await?;
        let caller = self.0.caller(&request).await?;
        let share = Share::of_call(&self.0, request.extensions());
        self.0.store.view().auth().check_read(&caller, &wanted.range).map_err(auth_status)?;
        let chunks = Chunks::new(&self.0, wanted)?;
        let memory = Arc::new((share, self.0.env.clock.clone()));
        Ok(Response::new(Box::pin(futures::stream::unfold(Some(chunks), move |chunks| {
            let memory = memory.clone();
            async move {
                let mut chunks = chunks?;
                let (share, clock) = &*memory;
                // What is made of it is counted on its way to the client.
                let next = match share.take(chunks.bytes(), clock).await {
                    Ok(_) => chunks.next(),
                    Err(refused) => Err(refused),
                };
                let again = matches!(&next, Ok((_, false)));
                Some((next.map(|(message, _)| message), again.then_some(chunks)))
            }
        }))))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        self.0.check_size(request.get_ref())?;
        let caller = self.0.caller(&request).await?;
        let put = convert::put(request.into_inner())?;
        self.0.check_space(cost(&put)).await?;
        let (revision, answer) = self.step(caller, Op::Put(put)).await?;
        let OpResponse::Put { prev } = answer else {
            return Err(Status::internal("a put was answered otherwise"));
        };
        let header = self.0.header(revision);
        Ok(Response::new(pb::PutResponse { header, prev_kv: prev.map(convert::kv) }))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        self.0.check_size(request.get_ref())?;
        let caller = self.0.caller(&request).await?;
        let share = Share::of_call(&self.0, request.extensions());
        let delete = Txn::of(Op::Delete(convert::delete(request.into_inner())?));
        let permit = self.reserve(&delete, &share)?;
        let (revision, answer) = self.step_of(caller, delete).await?;
        let OpResponse::Delete { deleted, prev_kvs } = answer else {
            return Err(Status::internal("a delete was answered otherwise"));
        };
        let prev_kvs = prev_kvs.into_iter().map(convert::kv).collect();
        let header = self.0.header(revision);
        Ok(respond(pb::DeleteRangeResponse { header, deleted, prev_kvs }, permit))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        self.0.check_size(request.get_ref())?;
        let credentials = Credentials::of(&self.0, &request);
        let share = Share::of_call(&self.0, request.extensions());
        let request = request.into_inner();
        let serializable = is_serializable(&request);
        let txn = convert::txn(request, self.0.limits.max_txn_ops)?;
        let (revision, answer, permit) = if txn.is_read_only() {
            let start = self.0.env.clock.monotonic();
            let answer = self.read_txn(&credentials, &txn, serializable, &share).await;
            let took = self.0.env.clock.monotonic() - start;
            self.0.counters.read_txn_took[usize::from(answer.is_ok())].record(took);
            answer?
        } else {
            match txn_cost(&txn) {
                0 => {}
                cost => self.0.check_space(cost).await?,
            }
            let caller = self.0.identify(&credentials).await.map_err(auth_status)?;
            let permit = self.reserve(&txn, &share)?;
            let (revision, answer) = self.replicate(caller, txn).await?;
            (revision, answer, permit)
        };
        Ok(respond(convert::txn_response(answer, self.0.header(revision), revision), permit))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let caller = self.0.caller(&request).await?;
        let pb::CompactionRequest { revision: compacted, physical } = request.into_inner();
        let (revision, _) = self.0.propose(caller, Command::Compact { revision: compacted }).await?;
        if physical {
            self.0.store.swept(compacted).await.map_err(status)?;
        }
        Ok(Response::new(pb::CompactionResponse { header: self.0.header(revision) }))
    }
}

fn range_within(
    view: &View,
    request: &RangeRequest,
    share: &Share,
) -> Result<(RangeResponse, Option<Permit>), Status> {
    let mut asked = Asked::new(share);
    let answer = view.range_within(request, &mut |bytes| asked.admit(bytes));
    asked.answer(answer)
}

/// An answer for which memory may have been taken.
fn respond<T>(message: T, permit: Option<Permit>) -> Response<T> {
    let mut response = Response::new(message);
    if permit.is_some() {
        response.extensions_mut().insert(Reserved::new(permit));
    }
    response
}

/// Whether a range may take longer than it takes to hand it to another thread.
fn may_be_long(view: &View, request: &RangeRequest) -> bool {
    if request.count_only && request.revision == 0 {
        return false;
    }
    let few = (1..=FEW_KEYS).contains(&request.limit) && request.sort_target == SortTarget::Key;
    !matches!(request.range, KeyRange::Key(_)) && !few && view.count(&request.range) > FEW_KEYS
}

/// A transaction may be read from what there is when each of its reads may.
fn is_serializable(txn: &pb::TxnRequest) -> bool {
    use pb::request_op::Request as Step;
    txn.success.iter().chain(&txn.failure).all(|op| match &op.request {
        Some(Step::RequestRange(range)) => range.serializable,
        Some(Step::RequestTxn(txn)) => is_serializable(txn),
        _ => false,
    })
}

/// A range in pieces, all of one view.
struct Chunks {
    view: Arc<View>,
    request: RangeRequest,
    header: Option<pb::ResponseHeader>,
    size: usize,
    /// Keys in the whole range, and how many may still be sent.
    count: i64,
    left: usize,
}

impl Chunks {
    fn new(context: &Context, request: RangeRequest) -> Result<Self, Status> {
        let view = context.store.view();
        let counted = RangeRequest { count_only: true, limit: 0, ..request.clone() };
        let count = view.range(&counted).map_err(|error| mvcc_status(&error))?.count;
        let total = usize::try_from(count).unwrap_or(usize::MAX);
        let left = match usize::try_from(request.limit) {
            Ok(limit) if limit > 0 => limit.min(total),
            _ => total,
        };
        let left = if request.count_only { 0 } else { left };
        let header = context.header(view.revision());
        Ok(Self { view, request, header, size: FIRST_CHUNK, count, left })
    }

    /// About how many bytes the next message takes, at most.
    fn bytes(&self) -> u64 {
        if self.left > FIRST_CHUNK { CHUNK_BYTES as u64 } else { 0 }
    }

    /// The next message, and whether it is the last.
    fn next(&mut self) -> Result<(pb::RangeStreamResponse, bool), Status> {
        let take = self.size.min(self.left);
        let mut answer = pb::RangeResponse::default();
        if take > 0 {
            // A sort target without an order sorts what is in one message only: etcd reads page by page in key order.
            let by_value = self.request.sort_target == SortTarget::Value;
            let page = RangeRequest {
                limit: take as i64,
                sort_target: SortTarget::Key,
                keys_only: self.request.keys_only && !by_value,
                ..self.request.clone()
            };
            let mut page = self.view.range(&page).map_err(|error| mvcc_status(&error))?;
            if let Some(last) = page.kvs.last() {
                self.request.range = self.request.range.behind(&last.key);
            }
            let bytes: usize = page.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
            // The next message has twice as many, as long as it does not become too large.
            let fit = (CHUNK_BYTES * take).checked_div(bytes).unwrap_or(MAX_CHUNK);
            self.size = (self.size * 2).min(fit).clamp(1, MAX_CHUNK);
            self.request.sort(&mut page.kvs);
            if self.request.keys_only {
                page.kvs.iter_mut().for_each(|kv| kv.value = Default::default());
            }
            answer.kvs = page.kvs.into_iter().map(convert::kv).collect();
        }
        self.left -= take;
        let last = self.left == 0;
        if last {
            answer.header = self.header.take();
            answer.count = self.count;
            answer.more =
                !self.request.count_only && self.request.limit > 0 && self.count > self.request.limit;
        }
        Ok((pb::RangeStreamResponse { range_response: Some(answer) }, last))
    }
}

/// What etcd adds to a key and its value for what it keeps beside them, in bytes.
const KEY_OVERHEAD: usize = 256;

/// About how many bytes a put takes (etcd's `costPut`).
fn cost(put: &PutRequest) -> usize {
    KEY_OVERHEAD + put.key.len() + put.value.len()
}

/// About how many bytes a transaction takes: those of its dearer branch.
fn txn_cost(txn: &Txn) -> usize {
    let branch = |ops: &[Op]| -> usize {
        let cost = |op: &Op| match op {
            Op::Put(put) => cost(put),
            Op::Txn(txn) => txn_cost(txn),
            Op::Range(_) | Op::Delete(_) => 0,
        };
        ops.iter().map(cost).sum()
    };
    branch(&txn.success).max(branch(&txn.failure))
}

/// Whether a range can be sent page by page, with etcd's answers where it cannot (`checkRangeStreamRequest`).
fn check_streamed(request: &RangeRequest) -> Result<(), Status> {
    let by_key = request.sort_target == SortTarget::Key && request.sort_order == SortOrder::Ascend;
    if !by_key && request.sort_order != SortOrder::None {
        return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
    }
    if request.filters() {
        return Err(Status::unimplemented("RangeStream does not support revision filters"));
    }
    Ok(())
}

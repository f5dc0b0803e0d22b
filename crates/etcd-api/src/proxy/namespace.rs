//! `--namespace`: clients see the keys that begin with a prefix, without it. What etcd's proxy wraps is wrapped here: keys
//! of KV, Watch, and a lease's keys; elections and locks are not.

use bytes::{Bytes, BytesMut};
use prost::Message;
use protos::etcd::etcdserverpb as pb;
use protos::etcd::etcdserverpb::request_op::Request as Step;
use protos::etcd::etcdserverpb::response_op::Response as Done;
use protos::etcd::etcdserverpb::watch_request::RequestUnion;
use protos::etcd::mvccpb::KeyValue;
use tonic::Status;

/// In requests, the end of a range that goes to the last key there is.
const TO_THE_END: &[u8] = &[0];

/// Calls in which there are keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Range,
    RangeStream,
    Put,
    DeleteRange,
    Txn,
    Watch,
    LeaseTimeToLive,
}

impl Call {
    pub fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/etcdserverpb.KV/Range" => Self::Range,
            "/etcdserverpb.KV/RangeStream" => Self::RangeStream,
            "/etcdserverpb.KV/Put" => Self::Put,
            "/etcdserverpb.KV/DeleteRange" => Self::DeleteRange,
            "/etcdserverpb.KV/Txn" => Self::Txn,
            "/etcdserverpb.Watch/Watch" => Self::Watch,
            "/etcdserverpb.Lease/LeaseTimeToLive" => Self::LeaseTimeToLive,
            _ => return None,
        })
    }
}

/// The keys that begin with a prefix, which is not empty.
#[derive(Clone, Debug)]
pub(super) struct Namespace(Bytes);

impl Namespace {
    /// The keys that begin with `prefix`; all of them are no namespace.
    pub fn new(prefix: &str) -> Option<Self> {
        (!prefix.is_empty()).then(|| Self(Bytes::copy_from_slice(prefix.as_bytes())))
    }

    /// A client's message as a member gets it.
    ///
    /// # Errors
    /// etcd's: it is no such message, or names no key.
    pub fn request(&self, call: Call, bytes: Bytes) -> Result<Vec<u8>, Status> {
        Ok(match call {
            Call::Range | Call::RangeStream => {
                let mut request = read::<pb::RangeRequest>(bytes)?;
                self.enter_range(&mut request.key, &mut request.range_end)?;
                request.encode_to_vec()
            }
            Call::Put => {
                let mut request = read::<pb::PutRequest>(bytes)?;
                self.enter_key(&mut request.key)?;
                request.encode_to_vec()
            }
            Call::DeleteRange => {
                let mut request = read::<pb::DeleteRangeRequest>(bytes)?;
                self.enter_range(&mut request.key, &mut request.range_end)?;
                request.encode_to_vec()
            }
            Call::Txn => {
                let mut request = read::<pb::TxnRequest>(bytes)?;
                self.enter_txn(&mut request)?;
                request.encode_to_vec()
            }
            Call::Watch => {
                let mut request = read::<pb::WatchRequest>(bytes)?;
                if let Some(RequestUnion::CreateRequest(create)) = &mut request.request_union {
                    // A watch of no key is one of the first that there may be.
                    if create.key.is_empty() {
                        create.key = Bytes::from_static(&[0]);
                    }
                    self.enter_range(&mut create.key, &mut create.range_end)?;
                }
                request.encode_to_vec()
            }
            Call::LeaseTimeToLive => read::<pb::LeaseTimeToLiveRequest>(bytes)?.encode_to_vec(),
        })
    }

    /// A member's message as a client gets it.
    ///
    /// # Errors
    /// It is no such message.
    pub fn answer(&self, call: Call, bytes: Bytes) -> Result<Vec<u8>, Status> {
        Ok(match call {
            Call::Range => {
                let mut answer = read::<pb::RangeResponse>(bytes)?;
                self.leave_all(&mut answer.kvs);
                answer.encode_to_vec()
            }
            Call::RangeStream => {
                let mut answer = read::<pb::RangeStreamResponse>(bytes)?;
                answer.range_response.iter_mut().for_each(|part| self.leave_all(&mut part.kvs));
                answer.encode_to_vec()
            }
            Call::Put => {
                let mut answer = read::<pb::PutResponse>(bytes)?;
                self.leave_all(&mut answer.prev_kv);
                answer.encode_to_vec()
            }
            Call::DeleteRange => {
                let mut answer = read::<pb::DeleteRangeResponse>(bytes)?;
                self.leave_all(&mut answer.prev_kvs);
                answer.encode_to_vec()
            }
            Call::Txn => {
                let mut answer = read::<pb::TxnResponse>(bytes)?;
                self.leave_txn(&mut answer);
                answer.encode_to_vec()
            }
            Call::Watch => {
                let mut answer = read::<pb::WatchResponse>(bytes)?;
                for event in &mut answer.events {
                    self.leave_all(&mut event.kv);
                    self.leave_all(&mut event.prev_kv);
                }
                answer.encode_to_vec()
            }
            Call::LeaseTimeToLive => {
                let mut answer = read::<pb::LeaseTimeToLiveResponse>(bytes)?;
                // A lease may have keys that are nobody's business here.
                answer.keys.retain(|key| key.starts_with(&self.0));
                answer.keys.iter_mut().for_each(|key| self.leave(key));
                answer.encode_to_vec()
            }
        })
    }

    /// A key as it is stored.
    pub fn stored(&self, key: &[u8]) -> Bytes {
        let mut stored = BytesMut::with_capacity(self.0.len() + key.len());
        stored.extend_from_slice(&self.0);
        stored.extend_from_slice(key);
        stored.freeze()
    }

    fn enter_key(&self, key: &mut Bytes) -> Result<(), Status> {
        if key.is_empty() {
            return Err(Status::invalid_argument("etcdserver: key is not provided"));
        }
        *key = self.stored(key);
        Ok(())
    }

    fn enter_range(&self, key: &mut Bytes, end: &mut Bytes) -> Result<(), Status> {
        self.enter_key(key)?;
        if end.as_ref() == TO_THE_END {
            *end = behind(&self.0);
        } else if !end.is_empty() {
            *end = self.stored(end);
        }
        Ok(())
    }

    fn enter_txn(&self, txn: &mut pb::TxnRequest) -> Result<(), Status> {
        for compare in &mut txn.compare {
            self.enter_range(&mut compare.key, &mut compare.range_end)?;
        }
        for op in txn.success.iter_mut().chain(&mut txn.failure) {
            match &mut op.request {
                Some(Step::RequestRange(range)) => self.enter_range(&mut range.key, &mut range.range_end)?,
                Some(Step::RequestPut(put)) => self.enter_key(&mut put.key)?,
                Some(Step::RequestDeleteRange(range)) => {
                    self.enter_range(&mut range.key, &mut range.range_end)?;
                }
                Some(Step::RequestTxn(txn)) => self.enter_txn(txn)?,
                None => {}
            }
        }
        Ok(())
    }

    fn leave(&self, key: &mut Bytes) {
        if key.starts_with(&self.0) {
            *key = key.slice(self.0.len()..);
        }
    }

    fn leave_all<'a>(&self, found: impl IntoIterator<Item = &'a mut KeyValue>) {
        found.into_iter().for_each(|kv| self.leave(&mut kv.key));
    }

    fn leave_txn(&self, txn: &mut pb::TxnResponse) {
        for done in &mut txn.responses {
            match &mut done.response {
                Some(Done::ResponseRange(range)) => self.leave_all(&mut range.kvs),
                Some(Done::ResponsePut(put)) => self.leave_all(&mut put.prev_kv),
                Some(Done::ResponseDeleteRange(range)) => self.leave_all(&mut range.prev_kvs),
                Some(Done::ResponseTxn(txn)) => self.leave_txn(txn),
                None => {}
            }
        }
    }
}

/// As grpc-go answers what is no message of the call.
fn read<M: Message + Default>(bytes: Bytes) -> Result<M, Status> {
    M::decode(bytes).map_err(|error| Status::internal(format!("grpc: error unmarshalling request: {error}")))
}

/// The first key behind all those that begin with `prefix`; [`TO_THE_END`] if none is.
pub(super) fn behind(prefix: &[u8]) -> Bytes {
    match prefix.iter().rposition(|byte| *byte < u8::MAX) {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end.into()
        }
        None => Bytes::from_static(TO_THE_END),
    }
}

/// Passes a message of some call on, both ways. For the fuzz targets.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn any_message(data: &[u8]) {
    const CALLS: [Call; 7] = [
        Call::Range,
        Call::RangeStream,
        Call::Put,
        Call::DeleteRange,
        Call::Txn,
        Call::Watch,
        Call::LeaseTimeToLive,
    ];
    let Some((call, data)) = data.split_first() else { return };
    let (call, data) = (CALLS[usize::from(*call) % CALLS.len()], Bytes::copy_from_slice(data));
    let Some(namespace) = Namespace::new("of/") else { return };
    drop((namespace.request(call, data.clone()), namespace.answer(call, data)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(namespace: &Namespace, key: &'static str, end: &'static [u8]) -> (Bytes, Bytes) {
        let request = pb::RangeRequest { key: key.into(), range_end: end.into(), ..Default::default() };
        let bytes = namespace.request(Call::Range, request.encode_to_vec().into()).expect("a range");
        let request = pb::RangeRequest::decode(&bytes[..]).expect("a range");
        (request.key, request.range_end)
    }

    #[test]
    fn a_range_ends_with_the_namespace() {
        let namespace = Namespace::new("ns/").expect("a namespace");
        assert_eq!(range(&namespace, "a", b""), ("ns/a".into(), "".into()));
        assert_eq!(range(&namespace, "a", b"b"), ("ns/a".into(), "ns/b".into()));
        assert_eq!(range(&namespace, "\0", b"\0"), ("ns/\0".into(), "ns0".into()));
        assert_eq!((behind(b"a\xff"), behind(b"\xff\xff")), ("b".into(), "\0".into()));
        assert!(Namespace::new("").is_none());
    }

    #[test]
    fn no_step_of_a_transaction_gets_out() {
        let namespace = Namespace::new("ns/").expect("a namespace");
        let put = |key: &'static str| pb::RequestOp {
            request: Some(Step::RequestPut(pb::PutRequest { key: key.into(), ..Default::default() })),
        };
        let inner = pb::TxnRequest { success: vec![put("deep")], ..Default::default() };
        let nested = pb::RequestOp { request: Some(Step::RequestTxn(inner)) };
        let compare =
            pb::Compare { key: "c".into(), range_end: Bytes::from_static(b"\0"), ..Default::default() };
        let txn = pb::TxnRequest { compare: vec![compare], success: vec![nested], failure: vec![put("f")] };
        let bytes = namespace.request(Call::Txn, txn.encode_to_vec().into()).expect("a transaction");
        let txn = pb::TxnRequest::decode(&bytes[..]).expect("a transaction");
        assert_eq!((&txn.compare[0].key[..], &txn.compare[0].range_end[..]), (&b"ns/c"[..], &b"ns0"[..]));
        let text = format!("{txn:?}");
        assert!(text.contains("ns/deep") && text.contains("ns/f"), "{text}");
        let empty = pb::TxnRequest { success: vec![put("")], ..Default::default() };
        let refused = namespace.request(Call::Txn, empty.encode_to_vec().into()).expect_err("no key");
        assert_eq!(refused.message(), "etcdserver: key is not provided");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let namespace = Namespace::new("ns/").expect("a namespace");
        for call in [Call::Range, Call::Put, Call::Txn, Call::Watch, Call::LeaseTimeToLive] {
            let refused = namespace.request(call, Bytes::from_static(&[0xff; 8])).expect_err("nonsense");
            assert_eq!(refused.code(), tonic::Code::Internal, "{call:?}");
        }
    }
}

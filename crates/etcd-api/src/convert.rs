//! Requests into the store's terms and answers back. What a request may not say is refused here.

use bytes::Bytes;
use mvcc::{
    Access, Alarm, AlarmKind, Compare, CompareResult, CompareTarget, DeleteRequest, Event, EventKind,
    KeyRange, KeyValue, MvccError, Op, OpResponse, Permission, PutRequest, RangeRequest, RangeResponse,
    SortOrder, SortTarget, Txn, TxnResponse,
};
use protos::etcd::etcdserverpb as pb;
use protos::etcd::{authpb, mvccpb};
use tonic::Status;

use crate::error::mvcc_status;

fn range_of(key: Bytes, range_end: Bytes) -> Result<KeyRange, Status> {
    if key.is_empty() {
        return Err(mvcc_status(&MvccError::EmptyKey));
    }
    Ok(KeyRange::from_etcd(key, range_end))
}

fn invalid_sort() -> Status {
    Status::invalid_argument("etcdserver: invalid sort option")
}

pub(crate) fn range(request: pb::RangeRequest) -> Result<RangeRequest, Status> {
    use pb::range_request as wire;
    let range = range_of(request.key, request.range_end)?;
    let sort_order = match wire::SortOrder::try_from(request.sort_order).map_err(|_| invalid_sort())? {
        wire::SortOrder::None => SortOrder::None,
        wire::SortOrder::Ascend => SortOrder::Ascend,
        wire::SortOrder::Descend => SortOrder::Descend,
    };
    let sort_target = match wire::SortTarget::try_from(request.sort_target).map_err(|_| invalid_sort())? {
        wire::SortTarget::Key => SortTarget::Key,
        wire::SortTarget::Version => SortTarget::Version,
        wire::SortTarget::Create => SortTarget::Create,
        wire::SortTarget::Mod => SortTarget::Mod,
        wire::SortTarget::Value => SortTarget::Value,
    };
    Ok(RangeRequest {
        range,
        limit: request.limit,
        revision: request.revision,
        sort_order,
        sort_target,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: request.min_mod_revision,
        max_mod_revision: request.max_mod_revision,
        min_create_revision: request.min_create_revision,
        max_create_revision: request.max_create_revision,
    })
}

pub(crate) fn put(request: pb::PutRequest) -> Result<PutRequest, Status> {
    let put = PutRequest {
        key: request.key,
        value: request.value,
        lease: request.lease,
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    };
    let error = if put.key.is_empty() {
        MvccError::EmptyKey
    } else if put.ignore_value && !put.value.is_empty() {
        MvccError::ValueProvided
    } else if put.ignore_lease && put.lease != 0 {
        MvccError::LeaseProvided
    } else {
        return Ok(put);
    };
    Err(mvcc_status(&error))
}

pub(crate) fn delete(request: pb::DeleteRangeRequest) -> Result<DeleteRequest, Status> {
    Ok(DeleteRequest { range: range_of(request.key, request.range_end)?, prev_kv: request.prev_kv })
}

/// A transaction, checked against `max_ops`.
pub(crate) fn txn(request: pb::TxnRequest, max_ops: usize) -> Result<Txn, Status> {
    let txn = unchecked_txn(request)?;
    mvcc::validate(&txn, max_ops).map_err(|error| mvcc_status(&error))?;
    Ok(txn)
}

fn unchecked_txn(request: pb::TxnRequest) -> Result<Txn, Status> {
    let ops = |ops: Vec<pb::RequestOp>| ops.into_iter().map(op).collect::<Result<Vec<_>, _>>();
    Ok(Txn {
        compare: request.compare.into_iter().map(compare).collect::<Result<_, _>>()?,
        success: ops(request.success)?,
        failure: ops(request.failure)?,
    })
}

fn op(op: pb::RequestOp) -> Result<Op, Status> {
    use pb::request_op::Request;
    Ok(match op.request {
        Some(Request::RequestRange(request)) => Op::Range(range(request)?),
        Some(Request::RequestPut(request)) => Op::Put(put(request)?),
        Some(Request::RequestDeleteRange(request)) => Op::Delete(delete(request)?),
        Some(Request::RequestTxn(request)) => Op::Txn(unchecked_txn(request)?),
        // etcd's answer to a step that says nothing.
        None => return Err(mvcc_status(&MvccError::KeyNotFound)),
    })
}

fn compare(compare: pb::Compare) -> Result<Compare, Status> {
    use pb::compare::{CompareResult as Wire, TargetUnion};
    let result = match compare.result() {
        Wire::Equal => CompareResult::Equal,
        Wire::Greater => CompareResult::Greater,
        Wire::Less => CompareResult::Less,
        Wire::NotEqual => CompareResult::NotEqual,
    };
    let number = |found: Option<i64>| found.unwrap_or_default();
    use pb::compare::CompareTarget as Target;
    let union = compare.target_union.clone();
    let target = match compare.target() {
        Target::Version => CompareTarget::Version(number(match union {
            Some(TargetUnion::Version(version)) => Some(version),
            _ => None,
        })),
        Target::Create => CompareTarget::Create(number(match union {
            Some(TargetUnion::CreateRevision(revision)) => Some(revision),
            _ => None,
        })),
        Target::Mod => CompareTarget::Mod(number(match union {
            Some(TargetUnion::ModRevision(revision)) => Some(revision),
            _ => None,
        })),
        Target::Value => CompareTarget::Value(match union {
            Some(TargetUnion::Value(value)) => value,
            _ => Bytes::new(),
        }),
        Target::Lease => CompareTarget::Lease(number(match union {
            Some(TargetUnion::Lease(lease)) => Some(lease),
            _ => None,
        })),
    };
    Ok(Compare { range: range_of(compare.key, compare.range_end)?, result, target })
}

pub(crate) fn kv(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value,
        lease: kv.lease,
    }
}

pub(crate) fn range_response(range: RangeResponse, header: Option<pb::ResponseHeader>) -> pb::RangeResponse {
    pb::RangeResponse {
        header,
        kvs: range.kvs.into_iter().map(kv).collect(),
        more: range.more,
        count: range.count,
    }
}

/// Answers within a transaction carry a header with the revision only.
fn inner_header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision, ..pb::ResponseHeader::default() })
}

pub(crate) fn txn_response(
    txn: TxnResponse,
    header: Option<pb::ResponseHeader>,
    revision: i64,
) -> pb::TxnResponse {
    let responses = txn.responses.into_iter().map(|response| op_response(response, revision));
    pb::TxnResponse { header, succeeded: txn.succeeded, responses: responses.collect() }
}

fn op_response(response: OpResponse, revision: i64) -> pb::ResponseOp {
    use pb::response_op::Response;
    let response = match response {
        OpResponse::Range(range) => {
            let header = inner_header(range.revision);
            Response::ResponseRange(range_response(range, header))
        }
        OpResponse::Put { prev } => {
            Response::ResponsePut(pb::PutResponse { header: inner_header(revision), prev_kv: prev.map(kv) })
        }
        OpResponse::Delete { deleted, prev_kvs } => {
            let prev_kvs = prev_kvs.into_iter().map(kv).collect();
            Response::ResponseDeleteRange(pb::DeleteRangeResponse {
                header: inner_header(revision),
                deleted,
                prev_kvs,
            })
        }
        OpResponse::Txn(txn) => Response::ResponseTxn(txn_response(txn, inner_header(revision), revision)),
    };
    pb::ResponseOp { response: Some(response) }
}

pub(crate) fn alarm(alarm: Alarm) -> pb::AlarmMember {
    let kind = match alarm.kind {
        AlarmKind::NoSpace => pb::AlarmType::Nospace,
        AlarmKind::Corrupt => pb::AlarmType::Corrupt,
    };
    pb::AlarmMember { member_id: alarm.member, alarm: kind.into() }
}

pub(crate) fn permission(permission: &Permission) -> authpb::Permission {
    let kind = match permission.access {
        Access::Read => authpb::permission::Type::Read,
        Access::Write => authpb::permission::Type::Write,
        Access::ReadWrite => authpb::permission::Type::Readwrite,
    };
    authpb::Permission {
        perm_type: kind.into(),
        key: permission.key.clone(),
        range_end: permission.range_end.clone(),
    }
}

/// What a grant says, in our words.
pub(crate) fn permission_of(given: authpb::Permission) -> Permission {
    let access = match given.perm_type() {
        authpb::permission::Type::Read => Access::Read,
        authpb::permission::Type::Write => Access::Write,
        authpb::permission::Type::Readwrite => Access::ReadWrite,
    };
    Permission { access, key: given.key, range_end: given.range_end }
}

/// A key as the store has it.
pub(crate) fn kv_of(kv: mvccpb::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key,
        value: kv.value,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

/// An alarm as the store has it; `None` for one that says nothing.
pub(crate) fn alarm_of(alarm: &pb::AlarmMember) -> Option<Alarm> {
    let kind = match alarm.alarm() {
        pb::AlarmType::None => return None,
        pb::AlarmType::Nospace => AlarmKind::NoSpace,
        pb::AlarmType::Corrupt => AlarmKind::Corrupt,
    };
    Some(Alarm { member: alarm.member_id, kind })
}

pub(crate) fn event(event: &Event, with_prev: bool) -> mvccpb::Event {
    let kind = match event.kind {
        EventKind::Put => mvccpb::event::EventType::Put,
        EventKind::Delete => mvccpb::event::EventType::Delete,
    };
    let prev_kv = event.prev.as_deref().filter(|_| with_prev).cloned().map(kv);
    mvccpb::Event { r#type: kind.into(), kv: Some(kv(event.kv.clone())), prev_kv }
}

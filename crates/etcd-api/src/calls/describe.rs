//! What a slow call asked, for the log. Values are never shown, only how large they are.

use std::fmt::Write as _;

use prost::Message;
use protos::etcd::etcdserverpb as pb;

/// A request of which only the beginning is known: whole if it fits, nothing of it otherwise.
pub(super) fn request(path: &str, bytes: &[u8]) -> String {
    let described = match path.rsplit('/').next() {
        Some("Range" | "RangeStream") => pb::RangeRequest::decode(bytes).map(|request| range(&request)),
        Some("Put") => pb::PutRequest::decode(bytes).map(|request| put(&request)),
        Some("DeleteRange") => pb::DeleteRangeRequest::decode(bytes).map(|request| delete(&request)),
        Some("Txn") => pb::TxnRequest::decode(bytes).map(|request| txn(&request)),
        _ => return String::new(),
    };
    described.unwrap_or_else(|_| "too large to be shown".to_owned())
}

/// Fields one after the other, those that say nothing left out.
struct Fields(String);

impl Fields {
    fn raw(mut self, name: &str, text: &str) -> Self {
        let space = if self.0.is_empty() { "" } else { " " };
        // Writing to a string cannot fail.
        let _ = write!(self.0, "{space}{name}:{text}");
        self
    }

    fn bytes(self, name: &str, bytes: &[u8]) -> Self {
        if bytes.is_empty() { self } else { self.raw(name, &format!("\"{}\"", bytes.escape_ascii())) }
    }

    fn number(self, name: &str, number: i64) -> Self {
        if number == 0 { self } else { self.raw(name, &number.to_string()) }
    }

    fn flag(self, name: &str, set: bool) -> Self {
        if set { self.raw(name, "true") } else { self }
    }
}

fn fields() -> Fields {
    Fields(String::new())
}

fn range(request: &pb::RangeRequest) -> String {
    let keys = fields().bytes("key", &request.key).bytes("range_end", &request.range_end);
    let limits = keys.number("limit", request.limit).number("revision", request.revision);
    let flags = limits.flag("serializable", request.serializable).flag("keys_only", request.keys_only);
    flags.flag("count_only", request.count_only).0
}

fn put(request: &pb::PutRequest) -> String {
    let size = i64::try_from(request.value.len()).unwrap_or(i64::MAX);
    fields().bytes("key", &request.key).number("value_size", size).number("lease", request.lease).0
}

fn delete(request: &pb::DeleteRangeRequest) -> String {
    fields().bytes("key", &request.key).bytes("range_end", &request.range_end).0
}

fn txn(request: &pb::TxnRequest) -> String {
    use pb::request_op::Request as Step;
    let compare = |compare: &pb::Compare| format!("<{}>", fields().bytes("key", &compare.key).0);
    let step = |op: &pb::RequestOp| match &op.request {
        Some(Step::RequestRange(request)) => format!("request_range:<{}>", range(request)),
        Some(Step::RequestPut(request)) => format!("request_put:<{}>", put(request)),
        Some(Step::RequestDeleteRange(request)) => format!("request_delete_range:<{}>", delete(request)),
        Some(Step::RequestTxn(request)) => format!("request_txn:<{}>", txn(request)),
        None => String::new(),
    };
    let list = |steps: &[pb::RequestOp]| steps.iter().map(step).collect::<Vec<_>>().join(" ");
    let compares = request.compare.iter().map(compare).collect::<Vec<_>>().join(" ");
    let (success, failure) = (list(&request.success), list(&request.failure));
    format!("compare:[{compares}] success:[{success}] failure:[{failure}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_hidden() {
        let put = pb::PutRequest { key: "a\n".into(), value: "secret".into(), ..Default::default() };
        assert_eq!(request("/etcdserverpb.KV/Put", &put.encode_to_vec()), "key:\"a\\n\" value_size:6");
        let step = pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) };
        let txn = pb::TxnRequest { success: vec![step], ..Default::default() };
        let text = request("/etcdserverpb.KV/Txn", &txn.encode_to_vec());
        assert_eq!(text, "compare:[] success:[request_put:<key:\"a\\n\" value_size:6>] failure:[]");
        let long = pb::RangeRequest { key: vec![b'a'; 999].into(), ..Default::default() }.encode_to_vec();
        assert_eq!(request("/etcdserverpb.KV/Range", &long[..256]), "too large to be shown");
        assert_eq!(request("/etcdserverpb.Maintenance/Status", &[]), "");
    }
}

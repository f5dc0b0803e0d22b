//! Answers as bytes, as they travel from the leader to the member that a client asked. Events do not: every member has
//! them from its own log.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{DecodeError, Reader, put_bytes, put_int, put_list, put_uint, unknown};
use crate::types::{
    Alarm, AlarmKind, Applied, KeyValue, MvccError, OpResponse, RangeResponse, Response, TxnResponse,
};

impl Applied {
    /// Revision and answer as bytes, without the events.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        put_int(&mut out, self.revision);
        match &self.response {
            Ok(response) => put_response(&mut out, response),
            Err(error) => put_error(&mut out, error),
        }
        out.freeze()
    }

    /// What [`Self::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are cut off or of a newer version.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader(bytes);
        let revision = reader.int()?;
        let response = match reader.byte()? {
            0 => Ok(Response::None),
            1 => Ok(Response::Txn(take_txn(&mut reader)?)),
            2 => Ok(Response::LeaseGranted { id: reader.int()?, ttl: reader.int()? }),
            3 => Ok(Response::Alarms(reader.list(take_alarm)?)),
            255 => Err(take_error(&mut reader)?),
            other => return Err(unknown("answer", other)),
        };
        Ok(Self { revision, response, events: Vec::new() })
    }
}

fn put_response(out: &mut BytesMut, response: &Response) {
    match response {
        Response::None => out.put_u8(0),
        Response::Txn(txn) => {
            out.put_u8(1);
            put_txn(out, txn);
        }
        Response::LeaseGranted { id, ttl } => {
            out.put_u8(2);
            put_int(out, *id);
            put_int(out, *ttl);
        }
        Response::Alarms(alarms) => {
            out.put_u8(3);
            put_list(out, alarms, |out, alarm| {
                put_uint(out, alarm.member);
                out.put_u8(u8::from(alarm.kind == AlarmKind::Corrupt));
            });
        }
    }
}

fn take_alarm(reader: &mut Reader) -> Result<Alarm, DecodeError> {
    let member = reader.uint()?;
    let kind = if reader.byte()? == 0 { AlarmKind::NoSpace } else { AlarmKind::Corrupt };
    Ok(Alarm { member, kind })
}

fn put_txn(out: &mut BytesMut, txn: &TxnResponse) {
    out.put_u8(u8::from(txn.succeeded));
    put_list(out, &txn.responses, |out, response| match response {
        OpResponse::Range(range) => {
            out.put_u8(0);
            put_list(out, &range.kvs, put_kv);
            out.put_u8(u8::from(range.more));
            put_int(out, range.count);
            put_int(out, range.revision);
        }
        OpResponse::Put { prev } => {
            out.put_u8(1);
            put_list(out, prev.as_slice(), put_kv);
        }
        OpResponse::Delete { deleted, prev_kvs } => {
            out.put_u8(2);
            put_int(out, *deleted);
            put_list(out, prev_kvs, put_kv);
        }
        OpResponse::Txn(inner) => {
            out.put_u8(3);
            put_txn(out, inner);
        }
    });
}

fn take_txn(reader: &mut Reader) -> Result<TxnResponse, DecodeError> {
    let succeeded = reader.byte()? != 0;
    let responses = reader.list(|reader| {
        Ok(match reader.byte()? {
            0 => OpResponse::Range(RangeResponse {
                kvs: reader.list(take_kv)?,
                more: reader.byte()? != 0,
                count: reader.int()?,
                revision: reader.int()?,
            }),
            1 => OpResponse::Put { prev: reader.list(take_kv)?.pop() },
            2 => OpResponse::Delete { deleted: reader.int()?, prev_kvs: reader.list(take_kv)? },
            3 => OpResponse::Txn(take_txn(reader)?),
            other => return Err(unknown("answer", other)),
        })
    })?;
    Ok(TxnResponse { succeeded, responses })
}

fn put_kv(out: &mut BytesMut, kv: &KeyValue) {
    put_bytes(out, &kv.key);
    put_bytes(out, &kv.value);
    [kv.create_revision, kv.mod_revision, kv.version, kv.lease]
        .iter()
        .for_each(|&number| put_int(out, number));
}

fn take_kv(reader: &mut Reader) -> Result<KeyValue, DecodeError> {
    Ok(KeyValue {
        key: reader.bytes()?,
        value: reader.bytes()?,
        create_revision: reader.int()?,
        mod_revision: reader.int()?,
        version: reader.int()?,
        lease: reader.int()?,
    })
}

/// Errors without a field, in the order of their codes, which never changes.
const PLAIN_ERRORS: [MvccError; 13] = [
    MvccError::FutureRevision,
    MvccError::LeaseNotFound,
    MvccError::LeaseExists,
    MvccError::LeaseTtlTooLarge,
    MvccError::KeyNotFound,
    MvccError::NoSpace,
    MvccError::Corrupt,
    MvccError::EmptyKey,
    MvccError::ValueProvided,
    MvccError::LeaseProvided,
    MvccError::TooManyOps,
    MvccError::DuplicateKey,
    MvccError::Compacted { compact_revision: 0 },
];
const COMPACTED: u8 = 12;
const ENGINE: u8 = 254;

fn put_error(out: &mut BytesMut, error: &MvccError) {
    out.put_u8(255);
    match error {
        MvccError::Compacted { compact_revision } => {
            out.put_u8(COMPACTED);
            put_int(out, *compact_revision);
        }
        MvccError::Engine(text) => {
            out.put_u8(ENGINE);
            put_bytes(out, text.as_bytes());
        }
        plain => {
            let code = PLAIN_ERRORS.iter().position(|known| known == plain);
            out.put_u8(code.expect("invariant: every error without a field is listed") as u8);
        }
    }
}

fn take_error(reader: &mut Reader) -> Result<MvccError, DecodeError> {
    Ok(match reader.byte()? {
        COMPACTED => MvccError::Compacted { compact_revision: reader.int()? },
        ENGINE => MvccError::Engine(reader.text()?),
        code => PLAIN_ERRORS.get(usize::from(code)).cloned().ok_or_else(|| unknown("error", code))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comes_back(response: Result<Response, MvccError>) {
        let applied = Applied { revision: 7, response, events: Vec::new() };
        assert_eq!(Applied::decode(applied.encode()), Ok(applied));
    }

    #[test]
    fn every_answer_comes_back() {
        let kv = KeyValue {
            key: "k".into(),
            value: "v".into(),
            mod_revision: -3,
            lease: i64::MAX,
            ..Default::default()
        };
        let range = RangeResponse { kvs: vec![kv.clone()], more: true, count: 3, revision: 9 };
        let responses = vec![
            OpResponse::Range(range),
            OpResponse::Put { prev: None },
            OpResponse::Put { prev: Some(kv.clone()) },
            OpResponse::Delete { deleted: 2, prev_kvs: vec![kv.clone(), kv] },
            OpResponse::Txn(TxnResponse {
                succeeded: false,
                responses: vec![OpResponse::Put { prev: None }],
            }),
        ];
        comes_back(Ok(Response::Txn(TxnResponse { succeeded: true, responses })));
        comes_back(Ok(Response::None));
        comes_back(Ok(Response::LeaseGranted { id: 1, ttl: 2 }));
        comes_back(Ok(Response::Alarms(vec![Alarm { member: 1, kind: AlarmKind::Corrupt }])));
        PLAIN_ERRORS.into_iter().for_each(|error| comes_back(Err(error)));
        comes_back(Err(MvccError::Compacted { compact_revision: 8 }));
        comes_back(Err(MvccError::Engine("text".into())));
    }
}

//! What can be said about a request before it is replicated; the rules and their order are etcd's
//! (`v3rpc/key.go`).

use std::collections::HashSet;

use bytes::Bytes;

use crate::types::{KeyRange, MvccError, Op, PutRequest, Txn};

/// Steps that a transaction may have in each of its three lists (`--max-txn-ops`).
pub const MAX_TXN_OPS: usize = 128;

/// Checks a transaction: keys given, no more than `max_ops` steps a list (less by one each level of nesting's own
/// steps), no key written twice.
///
/// # Errors
/// `EmptyKey`, `ValueProvided`, `LeaseProvided`, `TooManyOps`, `DuplicateKey`.
pub fn validate(txn: &Txn, max_ops: usize) -> Result<(), MvccError> {
    check_ops(txn, max_ops)?;
    check_branch(&txn.success)?;
    check_branch(&txn.failure)?;
    Ok(())
}

/// Checks a single put.
///
/// # Errors
/// `EmptyKey`, `ValueProvided`, `LeaseProvided`.
pub(crate) fn validate_put(put: &PutRequest) -> Result<(), MvccError> {
    if put.key.is_empty() {
        return Err(MvccError::EmptyKey);
    }
    if put.ignore_value && !put.value.is_empty() {
        return Err(MvccError::ValueProvided);
    }
    if put.ignore_lease && put.lease != 0 {
        return Err(MvccError::LeaseProvided);
    }
    Ok(())
}

fn check_ops(txn: &Txn, max_ops: usize) -> Result<(), MvccError> {
    let longest = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    if longest > max_ops {
        return Err(MvccError::TooManyOps);
    }
    if txn.compare.iter().any(|compare| compare.range.start().is_empty() && is_key(&compare.range)) {
        return Err(MvccError::EmptyKey);
    }
    txn.success.iter().chain(&txn.failure).try_for_each(|op| match op {
        Op::Range(request) if is_key(&request.range) && request.range.start().is_empty() => {
            Err(MvccError::EmptyKey)
        }
        Op::Delete(request) if is_key(&request.range) && request.range.start().is_empty() => {
            Err(MvccError::EmptyKey)
        }
        Op::Range(_) | Op::Delete(_) => Ok(()),
        Op::Put(put) => validate_put(put),
        Op::Txn(inner) => check_ops(inner, max_ops.saturating_sub(longest)),
    })
}

fn is_key(range: &KeyRange) -> bool {
    matches!(range, KeyRange::Key(_))
}

/// What a branch writes: no key may be put twice, nor put and deleted. The two branches of a transaction within may
/// write the same, as only one of them is taken.
#[derive(Default)]
struct Writes {
    puts: HashSet<Bytes>,
    deletes: Vec<KeyRange>,
}

impl Writes {
    fn join(&mut self, other: Self) -> Result<(), MvccError> {
        let crosses = |puts: &HashSet<Bytes>, deletes: &[KeyRange]| {
            deletes.iter().any(|range| puts.iter().any(|key| range.contains(key)))
        };
        if crosses(&self.puts, &other.deletes) || crosses(&other.puts, &self.deletes) {
            return Err(MvccError::DuplicateKey);
        }
        self.deletes.extend(other.deletes);
        other.puts.into_iter().try_for_each(|key| self.put(key))
    }

    fn put(&mut self, key: Bytes) -> Result<(), MvccError> {
        if self.puts.insert(key) { Ok(()) } else { Err(MvccError::DuplicateKey) }
    }
}

fn check_branch(ops: &[Op]) -> Result<Writes, MvccError> {
    let mut writes = Writes::default();
    for op in ops {
        if let Op::Delete(request) = op {
            writes.deletes.push(request.range.clone());
        }
    }
    for op in ops {
        match op {
            Op::Put(put) if writes.deletes.iter().any(|range| range.contains(&put.key)) => {
                return Err(MvccError::DuplicateKey);
            }
            Op::Put(put) => writes.put(put.key.clone())?,
            Op::Txn(inner) => {
                let mut either = check_branch(&inner.success)?;
                let other = check_branch(&inner.failure)?;
                either.puts.extend(other.puts);
                either.deletes.extend(other.deletes);
                writes.join(either)?;
            }
            Op::Range(_) | Op::Delete(_) => {}
        }
    }
    Ok(writes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{DeleteRequest, RangeRequest};

    fn put(key: &'static str) -> Op {
        Op::Put(PutRequest { key: key.into(), ..PutRequest::default() })
    }

    fn delete(prefix: &'static str) -> Op {
        Op::Delete(DeleteRequest { range: KeyRange::prefix(prefix), prev_kv: false })
    }

    fn check(success: Vec<Op>) -> Result<(), MvccError> {
        validate(&Txn { success, ..Txn::default() }, MAX_TXN_OPS)
    }

    fn inner(success: Vec<Op>, failure: Vec<Op>) -> Op {
        Op::Txn(Txn { compare: Vec::new(), success, failure })
    }

    #[test]
    fn a_key_is_written_once() {
        assert_eq!(check(vec![put("a"), put("b")]), Ok(()));
        assert_eq!(check(vec![put("a"), put("a")]), Err(MvccError::DuplicateKey));
        assert_eq!(check(vec![put("ab"), delete("a")]), Err(MvccError::DuplicateKey));
        assert_eq!(check(vec![delete("a"), delete("a")]), Ok(()));
        assert_eq!(check(vec![put("a"), inner(vec![put("a")], vec![])]), Err(MvccError::DuplicateKey));
        assert_eq!(check(vec![put("ab"), inner(vec![], vec![delete("a")])]), Err(MvccError::DuplicateKey));
        assert_eq!(check(vec![inner(vec![put("a")], vec![put("a")])]), Ok(()));
    }

    #[test]
    fn both_branches_may_write_the_same() {
        let txn = Txn { compare: Vec::new(), success: vec![put("a")], failure: vec![put("a")] };
        assert_eq!(validate(&txn, MAX_TXN_OPS), Ok(()));
    }

    #[test]
    fn the_number_of_steps_is_bounded_on_both_sides() {
        let ranges = |count| vec![Op::Range(RangeRequest::key("k")); count];
        assert_eq!(check(ranges(MAX_TXN_OPS)), Ok(()));
        assert_eq!(check(ranges(MAX_TXN_OPS + 1)), Err(MvccError::TooManyOps));
        let nested = |outer: usize, within| {
            let mut ops = ranges(outer - 1);
            ops.push(inner(ranges(within), vec![]));
            check(ops)
        };
        assert_eq!(nested(100, 28), Ok(()));
        assert_eq!(nested(100, 29), Err(MvccError::TooManyOps));
    }

    #[test]
    fn a_put_says_what_it_means() {
        let request = PutRequest { key: "k".into(), ..PutRequest::default() };
        let with = |change: fn(&mut PutRequest)| {
            let mut request = request.clone();
            change(&mut request);
            check(vec![Op::Put(request)])
        };
        assert_eq!(with(|put| put.key = Bytes::new()), Err(MvccError::EmptyKey));
        assert_eq!(
            with(|put| (put.ignore_value, put.value) = (true, "v".into())),
            Err(MvccError::ValueProvided)
        );
        assert_eq!(with(|put| (put.ignore_lease, put.lease) = (true, 7)), Err(MvccError::LeaseProvided));
    }
}

//! Rows: a table's number, the lengths of key and value, both.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use mvcc::{Batch, Engine as _, KeyRange, MemoryEngine, Mvcc, RangeRequest, Table};

fuzz_target!(|data: &[u8]| {
    let (engine, mut batch, mut rest) = (MemoryEngine::default(), Batch::default(), data);
    while let [table, key, value, more @ ..] = rest {
        let table = Table::ALL[usize::from(*table) % Table::ALL.len()];
        let (key, more) = more.split_at(usize::from(*key).min(more.len()));
        let (value, more) = more.split_at(usize::from(*value).min(more.len()));
        batch.put(table, Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        rest = more;
    }
    engine.write(batch).expect("memory");
    if let Ok(mvcc) = Mvcc::open(engine) {
        drop(mvcc.view().range(&RangeRequest::new(KeyRange::all())));
    }
});

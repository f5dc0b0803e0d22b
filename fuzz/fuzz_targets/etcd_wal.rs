//! A file of etcd's write-ahead log, and the requests in it.
#![no_main]

use etcd_files::{EntryKind, InternalRequest, read_wal};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let folder = std::env::temp_dir().join(format!("fuzz-etcd-wal-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("0.wal"), data).expect("a file");
    let Ok(log) = read_wal(&folder, 0) else { return };
    for entry in log.entries {
        if let EntryKind::Normal(bytes) = entry.kind {
            drop(InternalRequest::read(&bytes));
        }
    }
});

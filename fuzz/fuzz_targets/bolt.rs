//! A database file of etcd's: all buckets, whatever they are named, and what etcd keeps in them.
#![no_main]

use std::ops::ControlFlow;

use etcd_files::Database;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(database) = Database::open(data) else { return };
    let file = database.file();
    for name in file.buckets().unwrap_or_default() {
        drop(file.visit(&name, &mut |_, _| ControlFlow::Continue(())));
        drop(file.last_key(&name));
    }
    drop(database.versions(&mut |_| ControlFlow::Continue(())));
    drop(database.leases(&mut |_| {}));
    drop((database.alarms(), database.auth(), database.members(), database.cluster_version()));
    drop((database.meta(), database.revision()));
});

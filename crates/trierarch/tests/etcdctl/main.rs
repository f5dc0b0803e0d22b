//! Every command of `etcdctl` and every form of its output against the program: Debian's etcdctl 3.4 and, where etcd's
//! suites were built (`scripts/etcd-suites`), 3.7's. What is expected is how etcd's answer looks, field by field.

mod cluster;
mod commands;
mod descriptors;
mod flags;
mod pages;
#[path = "../shared/mod.rs"]
mod shared;

use std::path::PathBuf;

use cluster::Members;

/// The `etcdctl`s that there are; Debian's has to be there.
fn etcdctls() -> Vec<PathBuf> {
    let cache = std::env::var_os("TRIERARCH_CACHE").map(PathBuf::from);
    let newest = cache.map(|cache| cache.join("etcd-suites-v3.7.1/bin/etcdctl"));
    [PathBuf::from("etcdctl")].into_iter().chain(newest.filter(|path| path.exists())).collect()
}

#[test]
fn etcdctl_is_answered_as_etcd_answers_it() {
    let members = Members::start(3);
    for etcdctl in etcdctls() {
        let cli = members.cli(&etcdctl);
        commands::keys(&cli);
        commands::transactions(&cli);
        commands::watches(&cli);
        commands::leases(&cli);
        commands::queues(&cli);
        commands::members(&cli);
        commands::maintenance(&cli);
        commands::mirror(&cli);
        commands::users(&cli);
        commands::others(&cli);
    }
}

/// These take a minute each, and the second writes for as long as it likes.
#[test]
#[ignore = "takes a minute"]
fn etcdctl_checks_pass() {
    let members = Members::start(1);
    for etcdctl in etcdctls() {
        commands::checks(&members.cli(&etcdctl));
    }
}

//! Full load for a given time, without any fault: how many elections there were, and how long nothing was done at worst.
//!
//! Clients of every kind ask without a pause, so that the processors are busy all the time: puts, linearizable reads,
//! watches of all keys, leases that are renewed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use env::{Env, Shutdown, TaskGroup};
use protos::etcd::etcdserverpb as pb;
use protos::etcd::etcdserverpb::kv_client::KvClient;
use protos::etcd::etcdserverpb::lease_client::LeaseClient;
use protos::etcd::etcdserverpb::watch_client::WatchClient;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::members::{Members, PATIENCE};
use super::traffic::nanos;
use super::wire::{self, Connection, Token};
use crate::history::Keys;
use crate::load::RETRY;
use crate::network::Network;

/// Members.
const SIZE: usize = 3;
/// Keys that are written in turn, and the bytes of a value.
const KEYS: u64 = 10_000;
const VALUE: usize = 256;
/// What bounds the history: it is compacted all the time.
const FLAGS: [&str; 2] = ["--auto-compaction-mode=revision", "--auto-compaction-retention=100000"];
/// Between two looks at who leads.
const LOOK: Duration = Duration::from_secs(1);
/// Seconds that a lease has, and renewals that are on their way at once.
const TTL: i64 = 60;
const RENEWALS: usize = 16;
/// How long clients may take to stop.
const STOP: Duration = Duration::from_secs(10);

/// How many clients there are of each kind.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Who put.
    pub writers: usize,
    /// Who read.
    pub readers: usize,
    /// Who watch all keys.
    pub watchers: usize,
    /// Who renew a lease.
    pub keepers: usize,
}

/// What was done of one kind.
#[derive(Default)]
struct Tally {
    done: AtomicU64,
    failed: AtomicU64,
    /// Nanoseconds: the longest that one took.
    slowest: AtomicU64,
    /// Nanoseconds: the last that was done, and the longest time without any.
    last: AtomicU64,
    stall: AtomicU64,
}

impl Tally {
    fn note(&self, begun: u64, now: u64) {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.slowest.fetch_max(now.saturating_sub(begun), Ordering::Relaxed);
        let last = self.last.fetch_max(now, Ordering::Relaxed);
        if last > 0 {
            self.stall.fetch_max(now.saturating_sub(last), Ordering::Relaxed);
        }
    }

    fn print(&self, name: &str, took: Duration) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let millis = |counter: &AtomicU64| read(counter) as f64 / 1e6;
        println!(
            "| {name} | {} | {:.0} | {} | {:.0} | {:.0} |",
            read(&self.done),
            read(&self.done) as f64 / took.as_secs_f64(),
            read(&self.failed),
            millis(&self.slowest),
            millis(&self.stall)
        );
    }
}

/// What all clients share.
#[derive(Clone)]
struct Clients {
    env: Env,
    begun: Instant,
    endpoints: Vec<String>,
    puts: Arc<Tally>,
    reads: Arc<Tally>,
    events: Arc<Tally>,
    renewals: Arc<Tally>,
}

/// Plays it and prints a table; whether there was no election.
///
/// # Errors
/// Members that do not start, or end.
pub async fn soak(env: &Env, binary: &Path, network: &Network, load: Load, time: Duration) -> Result<bool> {
    let flags = FLAGS.map(str::to_owned);
    let mut members = Members::start(env, binary, network, SIZE, &flags).await?;
    let (leader, term) = members.leadership().await?;
    let clients = Clients {
        env: env.clone(),
        begun: env.clock.monotonic(),
        endpoints: members.endpoints(),
        puts: Arc::default(),
        reads: Arc::default(),
        events: Arc::default(),
        renewals: Arc::default(),
    };
    let tasks = clients.start(load);
    let until = clients.begun + time;
    let mut seen = vec![(Duration::ZERO, leader, term)];
    while env.clock.monotonic() < until {
        env.clock.sleep(LOOK).await;
        if let [first, ..] = members.ended().as_slice() {
            bail!("{first}");
        }
        // Without one there is another one soon.
        let (leader, term) = members.leadership().await?;
        if seen.last().is_none_or(|(_, _, last)| *last != term) {
            seen.push((env.clock.monotonic() - clients.begun, leader, term));
        }
    }
    let took = env.clock.monotonic() - clients.begun;
    tasks.shutdown().trigger();
    // Those that wait for an answer are ended.
    drop(tasks.join(STOP).await);
    clients.print(load, took);
    report_leaders(&seen, &members, took);
    Ok(seen.len() == 1)
}

fn report_leaders(seen: &[(Duration, usize, u64)], members: &Members<'_>, took: Duration) {
    let (first, last) = (seen[0].2, seen[seen.len() - 1].2);
    println!("elections in {} s: {} (terms {first} to {last})", took.as_secs(), last - first);
    for (at, leader, term) in &seen[1..] {
        println!("after {:.0} s: member {leader} leads term {term}", at.as_secs_f64());
    }
    for index in 0..members.size() {
        let log = members.log(index);
        let words = ["standing for election", "handing the leadership over"];
        for line in log.lines().filter(|line| words.iter().any(|word| line.contains(word))) {
            println!("member {index}: {line}");
        }
    }
}

impl Clients {
    fn start(&self, load: Load) -> TaskGroup {
        let tasks = TaskGroup::new("load", Shutdown::new());
        for number in 0..load.writers {
            tasks.spawn_detached(
                format!("writer-{number}"),
                self.clone().write(number, tasks.shutdown().clone()),
            );
        }
        for number in 0..load.readers {
            tasks.spawn_detached(
                format!("reader-{number}"),
                self.clone().read(number, tasks.shutdown().clone()),
            );
        }
        for number in 0..load.watchers {
            tasks.spawn_detached(
                format!("watcher-{number}"),
                self.clone().watch(number, tasks.shutdown().clone()),
            );
        }
        for number in 0..load.keepers {
            tasks.spawn_detached(
                format!("keeper-{number}"),
                self.clone().keep(number, tasks.shutdown().clone()),
            );
        }
        tasks
    }

    fn print(&self, load: Load, took: Duration) {
        println!("{load:?}, {} s\n", took.as_secs());
        println!("| work | done | a second | failed | slowest ms | longest time without any, ms |");
        println!("|---|---:|---:|---:|---:|---:|");
        self.puts.print("put 256 B", took);
        self.reads.print("linearizable get", took);
        self.events.print("watch message", took);
        self.renewals.print("lease renewal", took);
        println!();
    }

    fn now(&self) -> u64 {
        nanos(self.env.clock.monotonic().saturating_duration_since(self.begun))
    }

    /// A connection to the member that the number says; to the next where there is none.
    async fn connect(&self, number: &mut usize) -> Connection {
        loop {
            let endpoint = &self.endpoints[*number % self.endpoints.len()];
            if let Some(connection) = wire::connect(endpoint, &Token::default()).await {
                return connection;
            }
            *number += 1;
            self.env.clock.sleep(RETRY).await;
        }
    }

    async fn write(self, mut number: usize, stop: Shutdown) {
        let mut kv = KvClient::new(self.connect(&mut number).await);
        let value = bytes::Bytes::from(vec![b'x'; VALUE]);
        let mut key = self.env.rng.below(KEYS);
        while !stop.is_triggered() {
            key = (key + 1) % KEYS;
            let put = pb::PutRequest {
                key: wire::bytes(&format!("k/{key:08}")),
                value: value.clone(),
                ..Default::default()
            };
            let begun = self.now();
            match kv.put(put).await {
                Ok(_) => self.puts.note(begun, self.now()),
                Err(_) => {
                    self.puts.failed.fetch_add(1, Ordering::Relaxed);
                    number += 1;
                    kv = KvClient::new(self.connect(&mut number).await);
                }
            }
        }
    }

    async fn read(self, mut number: usize, stop: Shutdown) {
        let mut kv = KvClient::new(self.connect(&mut number).await);
        while !stop.is_triggered() {
            let key = wire::bytes(&format!("k/{:08}", self.env.rng.below(KEYS)));
            let begun = self.now();
            match kv.range(pb::RangeRequest { key, ..Default::default() }).await {
                Ok(_) => self.reads.note(begun, self.now()),
                Err(_) => {
                    self.reads.failed.fetch_add(1, Ordering::Relaxed);
                    number += 1;
                    kv = KvClient::new(self.connect(&mut number).await);
                }
            }
        }
    }

    /// Messages are counted; how long one took to come is not known.
    async fn watch(self, mut number: usize, stop: Shutdown) {
        while !stop.is_triggered() {
            let followed = async {
                let mut client = WatchClient::new(self.connect(&mut number).await);
                let (requests, receiver) = mpsc::channel(1);
                requests.send(wire::watch(&Keys::range("k/", "k0"), 0, false)).await.ok()?;
                let mut answers = client.watch(ReceiverStream::new(receiver)).await.ok()?.into_inner();
                while answers.message().await.ok()?.is_some() {
                    let now = self.now();
                    self.events.note(now, now);
                }
                Some(())
            };
            tokio::select! {
                _ = followed => { self.events.failed.fetch_add(1, Ordering::Relaxed); }
                () = stop.wait() => {}
            }
        }
    }

    async fn keep(self, mut number: usize, stop: Shutdown) {
        while !stop.is_triggered() {
            let kept = self.renew(&mut number);
            tokio::select! {
                renewed = kept => if renewed.is_err() { self.renewals.failed.fetch_add(1, Ordering::Relaxed); },
                () = stop.wait() => {}
            }
            number += 1;
        }
    }

    /// Renews a lease again and again, some renewals at a time.
    async fn renew(&self, number: &mut usize) -> Result<()> {
        let mut client = LeaseClient::new(self.connect(number).await);
        let granting = client.lease_grant(pb::LeaseGrantRequest { ttl: TTL, id: 0 });
        let id = tokio::time::timeout(PATIENCE, granting).await??.into_inner().id;
        let (requests, receiver) = mpsc::channel(RENEWALS);
        for _ in 0..RENEWALS {
            requests.send(pb::LeaseKeepAliveRequest { id }).await?;
        }
        let mut answers = client.lease_keep_alive(ReceiverStream::new(receiver)).await?.into_inner();
        let mut begun = self.now();
        while let Some(answer) = answers.message().await? {
            if answer.ttl <= 0 {
                bail!("the lease has ended");
            }
            let now = self.now();
            self.renewals.note(begun, now);
            begun = now;
            requests.send(pb::LeaseKeepAliveRequest { id }).await.context("the stream has ended")?;
        }
        Ok(())
    }
}

//! What etcd clients do while things go wrong: a writer and a watcher for each master.

use std::sync::Arc;
use std::time::Duration;

use env::{Env, Shutdown};
use etcd_client::{Client, EventType, WatchOptions};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::access::WRITE_TIMEOUT;

/// Keys that a writer writes in turn.
const KEYS: u64 = 20;
/// Between attempts to reach a master.
pub const RETRY: Duration = Duration::from_millis(20);
/// Everything that writers write lies below.
pub const PREFIX: &str = "load/";

/// One write.
#[derive(Clone, Debug)]
pub struct Write {
    pub key: String,
    /// Unique among all writes.
    pub value: String,
    pub begun: Instant,
    /// When it was acknowledged and at which revision; `None` when its outcome is not known.
    pub acknowledged: Option<(Instant, i64)>,
}

/// What a watcher saw: every event with the time at which it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub revision: i64,
    pub key: String,
    pub value: String,
    pub deleted: bool,
    pub at: Instant,
}

/// What one client did or saw.
pub type Record<T> = Arc<Mutex<Vec<T>>>;

/// Writes through its own master first, through the next one when that does not answer.
pub async fn write(
    env: Env,
    number: usize,
    endpoints: Vec<String>,
    interval: Duration,
    record: Record<Write>,
    stop: Shutdown,
) {
    let mut at = number;
    let mut client = None;
    let mut count = 0;
    while !stop.is_triggered() {
        let Some(connected) = &mut client else {
            client = connect(&endpoints[at % endpoints.len()]).await;
            if client.is_none() {
                at += 1;
                env.clock.sleep(RETRY).await;
            }
            continue;
        };
        count += 1;
        let key = format!("{PREFIX}{number}/{}", count % KEYS);
        let mut write = Write {
            key,
            value: format!("{number}-{count}"),
            begun: env.clock.monotonic(),
            acknowledged: None,
        };
        let put = connected.put(write.key.clone(), write.value.clone(), None);
        match tokio::time::timeout(WRITE_TIMEOUT, put).await {
            Ok(Ok(answer)) => {
                let revision = answer.header().map_or(0, |header| header.revision());
                write.acknowledged = Some((env.clock.monotonic(), revision));
            }
            _ => {
                client = None;
                at += 1;
            }
        }
        record.lock().push(write);
        env.clock.sleep(interval).await;
    }
}

async fn connect(endpoint: &str) -> Option<Client> {
    let options = etcd_client::ConnectOptions::new().with_connect_timeout(Duration::from_millis(500));
    Client::connect([endpoint], Some(options)).await.ok()
}

/// Watches everything through one master, from the beginning, and goes on where it was when the watch breaks.
pub async fn watch(env: Env, endpoint: String, record: Record<Seen>, stop: Shutdown) {
    let mut next = 2;
    while !stop.is_triggered() {
        tokio::select! {
            () = follow(&env, &endpoint, &record, &mut next) => {}
            () = stop.wait() => return,
        }
        env.clock.sleep(RETRY).await;
    }
}

async fn follow(env: &Env, endpoint: &str, record: &Record<Seen>, next: &mut i64) {
    let Some(mut client) = connect(endpoint).await else { return };
    let options = WatchOptions::new().with_prefix().with_start_revision(*next);
    let Ok(mut stream) = client.watch(PREFIX, Some(options)).await else { return };
    while let Ok(Some(message)) = stream.message().await {
        let at = env.clock.monotonic();
        let mut record = record.lock();
        for event in message.events() {
            let Some(kv) = event.kv() else { continue };
            record.push(Seen {
                revision: kv.mod_revision(),
                key: String::from_utf8_lossy(kv.key()).into_owned(),
                value: String::from_utf8_lossy(kv.value()).into_owned(),
                deleted: event.event_type() == EventType::Delete,
                at,
            });
            *next = kv.mod_revision() + 1;
        }
        if message.canceled() {
            return;
        }
    }
}

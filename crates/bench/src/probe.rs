//! A client on a thread of its own that asks at a pace (it writes every millisecond unless told otherwise) and remembers the longest that it had to wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};
use env::Env;
use protos::etcd::etcdserverpb as pb;

use crate::load::percentile;
use crate::rows::kv::PUT;
use crate::values::{Dice, value};
use crate::wire::Connection;

const PAUSE: Duration = Duration::from_millis(1);
const KEYS: u64 = 100;

/// A running probe.
pub struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Duration>>>,
}

/// What a probe met.
#[derive(Clone, Copy, Debug)]
pub struct Stalls {
    /// What 99 of a hundred waits took at most, in milliseconds.
    pub p99: f64,
    /// The longest wait for an answer, in milliseconds.
    pub worst: f64,
}

impl Probe {
    /// Begins to write to the member at a port.
    pub fn start(env: &Env, port: u16) -> Self {
        let env = env.clone();
        Self::run(move |stopped| async move { write(&env, port, &stopped).await })
    }

    /// Begins to ask, until told to stop; `ask` gives the times that it waited.
    pub fn run<F: Future<Output = Result<Vec<Duration>>>>(
        ask: impl FnOnce(Arc<AtomicBool>) -> F + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(ask(stopped))
        });
        Self { stop, thread }
    }

    /// Ends it.
    pub fn finish(self) -> Result<Stalls> {
        self.stop.store(true, Ordering::Relaxed);
        let mut times = self.thread.join().map_err(|_| anyhow!("the probe panicked"))??;
        Ok(Stalls { p99: percentile(&mut times, 99), worst: percentile(&mut times, 100) })
    }
}

async fn write(env: &Env, port: u16, stopped: &AtomicBool) -> Result<Vec<Duration>> {
    let mut door = Connection::open(port).await?;
    let (mut dice, mut times) = (Dice::new(7), Vec::new());
    while !stopped.load(Ordering::Relaxed) {
        let begun = env.clock.monotonic();
        let key = format!("probe/{}", dice.below(KEYS));
        let value = value(&mut dice, 0, 256).into();
        let put = pb::PutRequest { key: key.into(), value, ..pb::PutRequest::default() };
        let _: pb::PutResponse = door.call(PUT, &put).await?;
        times.push(env.clock.monotonic() - begun);
        env.clock.sleep_until(begun + PAUSE).await;
    }
    Ok(times)
}

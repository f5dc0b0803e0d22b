//! `etcd gateway start`: passes connections on to the members of a cluster, byte by byte, to whichever answers.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use env::{Env, Shutdown, TaskGroup};
use tokio::net::{TcpListener, TcpStream};

use super::words::Subcommand;
use crate::{descriptors, logging, signals};

/// Connections at a time.
const MAX_CONNECTIONS: usize = 16_384;
const STOP_DEADLINE: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

const GATEWAY: Subcommand = Subcommand {
    name: "gateway",
    about: "passes connections on to the members of a cluster",
    flags: &[
        ("listen-addr", "127.0.0.1:23790"),
        ("endpoints", "127.0.0.1:2379"),
        ("retry-delay", "1m0s"),
        ("discovery-srv", ""),
        ("discovery-srv-name", ""),
        ("insecure-discovery", "false"),
        ("trusted-ca-file", ""),
    ],
};

/// A member.
struct Remote {
    address: String,
    /// The last connection to it was refused.
    lost: AtomicBool,
}

struct Remotes {
    all: Vec<Remote>,
    next: AtomicUsize,
    env: Env,
}

impl Remotes {
    /// A connection to the next member that answers; one that does not is left alone for a while.
    async fn connect(&self) -> Option<TcpStream> {
        for _ in 0..self.all.len() {
            let place = self.next.fetch_add(1, Ordering::Relaxed) % self.all.len();
            let remote = &self.all[place];
            if remote.lost.load(Ordering::Relaxed) {
                continue;
            }
            match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&remote.address)).await {
                Ok(Ok(stream)) => return Some(stream),
                _ => {
                    remote.lost.store(true, Ordering::Relaxed);
                    tracing::warn!(address = remote.address, "deactivated endpoint");
                }
            }
        }
        None
    }

    /// Tries those that were lost again, every `delay`.
    async fn revive(self: Arc<Self>, delay: Duration, shutdown: Shutdown) {
        while !shutdown.is_triggered() {
            tokio::select! {
                () = self.env.clock.sleep(delay) => {}
                () = shutdown.wait() => return,
            }
            for remote in self.all.iter().filter(|remote| remote.lost.load(Ordering::Relaxed)) {
                let tried = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&remote.address)).await;
                if matches!(tried, Ok(Ok(_))) {
                    remote.lost.store(false, Ordering::Relaxed);
                    tracing::info!(address = remote.address, "activated endpoint");
                }
            }
        }
    }
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(env: Env, words: &[String]) -> Result<ExitCode> {
    let words = match GATEWAY.read(words) {
        Ok(words) => words,
        Err(code) => return Ok(code),
    };
    if !words.get("discovery-srv").is_empty() {
        bail!("--discovery-srv is not implemented");
    }
    logging::start_zap("info", "json", &["default".to_owned()], None)?;
    let listen = words.get("listen-addr");
    let all: Vec<Remote> = endpoints(words.get("endpoints"), listen)?
        .into_iter()
        .map(|address| Remote { address, lost: AtomicBool::new(false) })
        .collect();
    let delay =
        api_types::time::parse_duration(words.get("retry-delay")).context("--retry-delay is a duration")?;
    let delay = Duration::from_nanos(u64::try_from(delay).unwrap_or(0)).max(Duration::from_secs(1));
    let tasks = TaskGroup::new("gateway", Shutdown::new());
    signals::watch(&tasks)?;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let addresses = all.iter().map(|remote| remote.address.as_str()).collect::<Vec<_>>().join(",");
    let remotes = Arc::new(Remotes { all, next: AtomicUsize::new(0), env });
    tasks.spawn_detached("revive", remotes.clone().revive(delay, tasks.shutdown().clone()));
    tasks.spawn_detached("accept", accept(listener, remotes, tasks.clone()));
    tracing::info!(endpoints = addresses, "ready to proxy client requests");
    tasks.join(STOP_DEADLINE).await?;
    Ok(ExitCode::SUCCESS)
}

/// Addresses without schemes; none may be the gateway's own.
fn endpoints(text: &str, listen: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let address = part.split_once("://").map_or(part, |(_, rest)| rest).trim_end_matches('/');
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none() {
            bail!("error parsing endpoint {part:?}");
        }
        if address == listen {
            bail!("SRV or endpoint ({address}) should not resolve to the gateway listen addr ({listen})");
        }
        found.push(address.to_owned());
    }
    if found.is_empty() {
        bail!("no endpoints found");
    }
    Ok(found)
}

async fn accept(listener: TcpListener, remotes: Arc<Remotes>, tasks: TaskGroup) {
    // A connection has two ends here.
    let room = descriptors::for_clients(2).part(MAX_CONNECTIONS);
    let shutdown = tasks.shutdown().clone();
    loop {
        let ((inside, _), place) = tokio::select! {
            accepted = room.next(&remotes.env, || listener.accept()) => accepted,
            () = shutdown.wait() => return,
        };
        let (remotes, shutdown) = (remotes.clone(), shutdown.clone());
        tasks.spawn_detached("connection", async move {
            tokio::select! {
                () = pass(inside, &remotes) => {}
                () = shutdown.wait() => {}
            }
            drop(place);
        });
    }
}

async fn pass(mut inside: TcpStream, remotes: &Remotes) {
    let Some(mut outside) = remotes.connect().await else { return };
    drop(inside.set_nodelay(true).and_then(|()| outside.set_nodelay(true)));
    // However it ends, both ends are closed now.
    drop(tokio::io::copy_bidirectional(&mut inside, &mut outside).await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_lose_their_schemes() {
        let read = endpoints("http://a:1,b:2, https://c:3/", "d:4").expect("endpoints");
        assert_eq!(read, ["a:1", "b:2", "c:3"]);
        for wrong in ["", "a", "a:b", "a:1,d:4"] {
            assert!(endpoints(wrong, "d:4").is_err(), "{wrong}");
        }
    }
}

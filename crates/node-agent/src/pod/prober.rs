//! Startup, liveness and readiness probes: one task a probe of a running container. Driver.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use env::Shutdown;
use k8s_openapi::api::core::v1::{Container, Probe};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::grpc_health;
use super::http_get;
use super::lifecycle;
use super::observed::{Observed, ProbeResults};
use super::worker::Target;
use crate::context::Context;

/// Startup is asked about this often by the probes that wait for it.
const STARTUP_POLL: Duration = Duration::from_millis(200);

type Results = Arc<Mutex<BTreeMap<String, ProbeResults>>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Startup,
    Liveness,
    Readiness,
}

/// The probes of one pod.
pub(crate) struct Prober {
    context: Arc<Context>,
    wake: Arc<Notify>,
    results: Results,
    running: BTreeMap<String, Shutdown>,
}

impl Prober {
    pub fn new(context: Arc<Context>, wake: Arc<Notify>) -> Self {
        Self { context, wake, results: Results::default(), running: BTreeMap::new() }
    }

    /// What the probes found so far, by container id.
    pub fn results(&self) -> BTreeMap<String, ProbeResults> {
        self.results.lock().clone()
    }

    /// Ends all probes.
    pub fn stop(&mut self) {
        std::mem::take(&mut self.running).into_values().for_each(|shutdown| shutdown.trigger());
    }

    /// Probes exactly the containers that run.
    pub fn follow(&mut self, target: &Target, observed: &Observed) {
        let live: Vec<_> = observed.live().collect();
        self.running.retain(|id, shutdown| {
            let stays = live.iter().any(|view| view.id == *id);
            if !stays {
                shutdown.trigger();
            }
            stays
        });
        self.results.lock().retain(|id, _| live.iter().any(|view| view.id == *id));
        let Some(spec) = target.pod.spec.as_ref() else { return };
        let ip = match observed.ready_sandbox().and_then(|sandbox| sandbox.ips.first().cloned()) {
            Some(ip) => ip,
            None => self.context.host_ips.first().map(ToString::to_string).unwrap_or_default(),
        };
        for view in live {
            let Some((_, container)) = lifecycle::find(spec, &view.name) else { continue };
            if self.running.contains_key(&view.id) {
                continue;
            }
            let shutdown = self.context.tasks.shutdown().child();
            self.running.insert(view.id.clone(), shutdown.clone());
            self.start(target, container, &view.id, &ip, &shutdown);
        }
    }

    fn start(&self, target: &Target, container: &Container, id: &str, ip: &str, shutdown: &Shutdown) {
        let roles = [
            (Role::Startup, &container.startup_probe),
            (Role::Liveness, &container.liveness_probe),
            (Role::Readiness, &container.readiness_probe),
        ];
        if self.context.runtime.is_simulated() {
            let fine = ProbeResults { started: Some(true), ready: Some(true), failed: None };
            self.results.lock().insert(id.to_owned(), fine);
            return;
        }
        for (role, probe) in roles {
            let Some(probe) = probe.clone() else { continue };
            let one = One {
                context: self.context.clone(),
                wake: self.wake.clone(),
                results: self.results.clone(),
                pod: target.value.clone(),
                container: container.clone(),
                id: id.to_owned(),
                ip: ip.to_owned(),
                role,
                probe,
            };
            let shutdown = shutdown.clone();
            self.context.tasks.spawn_detached(format!("probe-{id}-{role:?}"), async move {
                tokio::select! {
                    () = one.run() => {}
                    () = shutdown.wait() => {}
                }
            });
        }
    }
}

/// One probe of one container.
struct One {
    context: Arc<Context>,
    wake: Arc<Notify>,
    results: Results,
    pod: Arc<Value>,
    container: Container,
    id: String,
    ip: String,
    role: Role,
    probe: Probe,
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(
        value.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default),
    )
}

impl One {
    async fn run(&self) {
        let clock = &self.context.env.clock;
        if self.role != Role::Startup && self.container.startup_probe.is_some() {
            while self.results.lock().get(&self.id).and_then(|results| results.started) != Some(true) {
                clock.sleep(STARTUP_POLL).await;
            }
        }
        let delay = self.probe.initial_delay_seconds.and_then(|value| u64::try_from(value).ok()).unwrap_or(0);
        clock.sleep(Duration::from_secs(delay)).await;
        let period = seconds(self.probe.period_seconds, 10);
        let (mut failures, mut successes) = (0, 0);
        loop {
            match self.once().await {
                Ok(()) => (successes, failures) = (successes + 1, 0),
                Err(text) => {
                    (successes, failures) = (0, failures + 1);
                    self.context.warn(
                        &self.pod,
                        "Unhealthy",
                        format!("{:?} probe failed: {text}", self.role),
                    );
                }
            }
            let over = if successes >= self.probe.success_threshold.unwrap_or(1) {
                self.set(true)
            } else if failures >= self.probe.failure_threshold.unwrap_or(3) {
                self.set(false)
            } else {
                false
            };
            if over {
                return;
            }
            clock.sleep(period).await;
        }
    }

    /// Notes a verdict; says whether the probe has nothing more to find out.
    fn set(&self, good: bool) -> bool {
        let mut results = self.results.lock();
        let entry = results.entry(self.id.clone()).or_default();
        let before = entry.clone();
        let role = format!("{:?}", self.role).to_lowercase();
        match (self.role, good) {
            (Role::Readiness, good) => entry.ready = Some(good),
            (Role::Startup, true) => entry.started = Some(true),
            (Role::Startup | Role::Liveness, false) => {
                entry.failed =
                    Some(format!("Container {} failed {role} probe, will be restarted", self.container.name));
            }
            (Role::Liveness, true) => {}
        }
        if *entry != before {
            self.wake.notify_one();
        }
        self.role != Role::Readiness && (self.role == Role::Startup || !good)
    }

    async fn once(&self) -> Result<(), String> {
        let timeout = seconds(self.probe.timeout_seconds, 1);
        if let Some(exec) = &self.probe.exec {
            let command = exec.command.clone().unwrap_or_default();
            let answer = self.context.runtime.exec_sync(self.id.clone(), command, timeout).await;
            let answer = answer.map_err(|error| error.to_string())?;
            let text =
                || String::from_utf8_lossy(&[answer.stdout.as_slice(), &answer.stderr].concat()).into_owned();
            return if answer.exit_code == 0 { Ok(()) } else { Err(text()) };
        }
        let asked = async {
            if let Some(http) = &self.probe.http_get {
                let get = http_get::request(http, &self.container, &self.ip, "kube-probe")?;
                match http_get::status(&get).await? {
                    200..400 => Ok(()),
                    code => Err(format!("HTTP probe failed with statuscode: {code}")),
                }
            } else if let Some(tcp) = &self.probe.tcp_socket {
                let host = tcp.host.clone().unwrap_or_else(|| self.ip.clone());
                let socket = TcpStream::connect((host, http_get::port(&self.container, &tcp.port)?)).await;
                socket.map(drop).map_err(|error| error.to_string())
            } else if let Some(grpc) = &self.probe.grpc {
                let port =
                    u16::try_from(grpc.port).map_err(|_| format!("invalid port number: {}", grpc.port))?;
                let service = grpc.service.as_deref().unwrap_or_default();
                grpc_health::check(&self.ip, port, service, timeout).await
            } else {
                Err("missing probe handler".to_owned())
            }
        };
        tokio::time::timeout(timeout, asked).await.unwrap_or_else(|_| Err("deadline exceeded".to_owned()))
    }
}

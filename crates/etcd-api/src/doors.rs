//! The addresses that clients are served on, and what is served on each.

use transport::{Address, Listener, Security, Tls};

use crate::server::{BuildError, EtcdApiConfig};

/// What is served on an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// gRPC, the HTTP endpoints and the gateway.
    Both,
    /// gRPC alone.
    Grpc,
    /// The HTTP endpoints and the gateway alone.
    Http,
    /// Health and metrics alone.
    Metrics,
}

/// An address, bound.
pub(crate) struct Door {
    pub listener: Listener,
    pub security: Security,
    pub traffic: Traffic,
}

/// An address to be bound. In etcd two URLs that differ only in TLS are one: whoever calls decides.
struct Plan {
    address: Address,
    plain: bool,
    tls: bool,
    traffic: Traffic,
}

pub(crate) async fn open(config: &EtcdApiConfig) -> Result<Vec<Door>, BuildError> {
    let mut doors = Vec::new();
    for plan in plan(config)? {
        let listener = Listener::bind(&plan.address, config.sockets).await.map_err(BuildError::Listen)?;
        let security = match config.tls.clone().filter(|_| plan.tls) {
            Some(tls) if plan.plain => Security::Either(tls),
            Some(tls) => Security::Tls(tls),
            None => Security::Plain,
        };
        if plan.traffic == Traffic::Metrics {
            tracing::info!(address = %plan.address, "serving metrics");
        }
        doors.push(Door { listener, security, traffic: plan.traffic });
    }
    Ok(doors)
}

fn plan(config: &EtcdApiConfig) -> Result<Vec<Plan>, BuildError> {
    let mut plans: Vec<Plan> = Vec::new();
    let served = |tls: &Option<Tls>| tls.as_ref().is_some_and(|tls| tls.options().certificate.is_some());
    let shared = if config.listen_http.is_empty() { Traffic::Both } else { Traffic::Grpc };
    let clients = config.listen.iter().map(|address| (address, shared));
    let http = config.listen_http.iter().map(|address| (address, Traffic::Http));
    for (address, traffic) in clients.chain(http) {
        let secure = address.is_secure();
        if secure && !served(&config.tls) {
            return Err(BuildError::NoCertificate(address.clone()));
        }
        if !secure && config.tls.is_some() {
            tracing::warn!(
                client_url = %address,
                "scheme is http or unix while key and cert files are present; ignoring key and cert files"
            );
        }
        let any_port = address.host_and_port().is_some_and(|(_, port)| port == 0);
        match plans.iter_mut().find(|plan| plan.address.place == address.place && !any_port) {
            Some(plan) if plan.traffic != traffic => return Err(BuildError::TwoUses(address.clone())),
            Some(plan) if secure => plan.tls = true,
            Some(plan) => plan.plain = true,
            None => plans.push(Plan { address: address.clone(), plain: !secure, tls: secure, traffic }),
        }
    }
    for address in &config.listen_metrics {
        let secure = address.is_secure();
        if secure && !served(&config.tls) {
            return Err(BuildError::NoMetricsCertificate);
        }
        let traffic = Traffic::Metrics;
        plans.push(Plan { address: address.clone(), plain: !secure, tls: secure, traffic });
    }
    Ok(plans)
}

//! The flags of how the API is served, as kube-apiserver has them (`pkg/controlplane/apiserver/options`,
//! `staging/src/k8s.io/apiserver/pkg/server/options`).

use std::ops::RangeInclusive;
use std::time::Duration;

use apiserver::ApiServerConfig;
use clap::Args;
use ipnet::IpNet;

use crate::addresses;
use crate::server::duration;

/// What is served, and how much of it.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Serving")]
pub struct ServingOptions {
    /// Addresses of Services, IPv4; the first one is that of Service kubernetes, which certificates must name
    #[arg(long, value_name = "CIDR", default_value = addresses::DEFAULT, value_parser = addresses::read)]
    service_cluster_ip_range: IpNet,
    /// Ports of Services on nodes, as 30000-32767 or 30000+2767
    #[arg(long, value_name = "RANGE", default_value = "30000-32767", value_parser = range_of_ports)]
    service_node_port_range: RangeInclusive<u16>,
    /// How long Events live
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    event_ttl: Duration,
    /// How long a request may take that is not meant to last; it may ask for less
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration)]
    request_timeout: Duration,
    /// Seconds that a watch lasts at least when the client does not say; up to twice so long
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    min_request_timeout: u32,
    /// Together with --max-mutating-requests-inflight how many requests are served at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 400)]
    max_requests_inflight: u32,
    /// See --max-requests-inflight
    #[arg(long, value_name = "NUMBER", default_value_t = 200)]
    max_mutating_requests_inflight: u32,
}

impl ServingOptions {
    /// Says what the flags say in a server's configuration.
    ///
    /// # Errors
    /// When nothing could be served.
    pub fn put_into(&self, config: &mut ApiServerConfig) -> anyhow::Result<()> {
        let requests = self.max_requests_inflight.saturating_add(self.max_mutating_requests_inflight);
        if requests == 0 {
            anyhow::bail!("--max-requests-inflight and --max-mutating-requests-inflight must not both be 0");
        }
        if self.request_timeout.is_zero() || self.min_request_timeout == 0 {
            anyhow::bail!("--request-timeout and --min-request-timeout must be positive");
        }
        config.max_requests = requests;
        config.service_cidr = self.service_cluster_ip_range;
        config.node_ports = self.service_node_port_range.clone();
        config.event_ttl = self.event_ttl;
        config.request_timeout = self.request_timeout;
        config.min_request_timeout = Duration::from_secs(self.min_request_timeout.into());
        Ok(())
    }
}

/// Reads ports as Go's `PortRange`: both ends, or the first and how many follow.
fn range_of_ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let wrong = || format!("{text:?} is no range of ports such as 30000-32767 or 30000+2767");
    let port = |text: &str| text.trim().parse::<u16>().map_err(|_| wrong());
    let (low, high) = match (text.split_once('-'), text.split_once('+')) {
        (Some((low, high)), _) => (port(low)?, port(high)?),
        (None, Some((low, more))) => {
            let low = port(low)?;
            (low, low.checked_add(port(more)?).ok_or_else(wrong)?)
        }
        (None, None) => (port(text)?, port(text)?),
    };
    if low == 0 || low > high { Err(wrong()) } else { Ok(low..=high) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_upstream_reads_them() {
        for (text, ports) in [
            ("30000-32767", 30000..=32767),
            ("30000+10", 30000..=30010),
            (" 1 - 2 ", 1..=2),
            ("80", 80..=80),
            ("1-65535", 1..=65535),
        ] {
            assert_eq!(range_of_ports(text), Ok(ports), "{text}");
        }
        for text in ["", "a-b", "2-1", "0-1", "65535+1", "1-65536", "1-2-3"] {
            assert!(range_of_ports(text).is_err(), "{text}");
        }
    }
}

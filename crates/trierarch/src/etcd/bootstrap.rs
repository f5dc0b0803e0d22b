//! Who the first members are: named, found by the domain's records, or found through a discovery service.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use env::Env;
use etcd_api::Discovery;
use transport::{Address, Dialer, Service, services};

use super::flags::Flags;
use super::{security, settings};
use crate::member;

/// Names with their URLs, one pair a URL.
type Cluster = Vec<(String, String)>;

/// The first members. A data folder that has a member knows them already: nobody is asked then.
pub async fn initial_cluster(env: &Env, flags: &Flags) -> Result<Cluster> {
    let own = own(flags);
    if settings::is_initialized(flags) {
        return Ok(named(flags)?.filter(|cluster| !cluster.is_empty()).unwrap_or(own));
    }
    let join = flags.get("initial-cluster-state") == "existing";
    let cluster = if flags.some("discovery-endpoints").is_some() {
        if join {
            bail!("discovery URL should not be set when joining existing initial cluster");
        }
        discovered(env, flags, &own).await?
    } else if let Some(domain) = flags.some("discovery-srv") {
        recorded(flags, domain).await.context("error setting up initial cluster")?
    } else {
        named(flags)?.unwrap_or_else(|| own.clone())
    };
    check(flags, &own, &cluster, join).await?;
    Ok(cluster)
}

/// This member alone, at its advertised URLs. Without a name it has etcd's, which is then not found there.
fn own(flags: &Flags) -> Cluster {
    let name = flags.some("name").unwrap_or(settings::DEFAULT_NAME);
    let urls = flags.list("initial-advertise-peer-urls");
    urls.into_iter().map(|url| (name.to_owned(), url)).collect()
}

/// Those that the flag names; it may name nobody.
fn named(flags: &Flags) -> Result<Option<Cluster>> {
    let named = match flags.some("initial-cluster") {
        None => return Ok(flags.is_set("initial-cluster").then(Vec::new)),
        Some(text) => member::parse_initial_cluster(text),
    };
    named.map(Some).context("error setting up initial cluster")
}

fn text(cluster: &Cluster) -> String {
    cluster.iter().map(|(name, url)| format!("{name}={url}")).collect::<Vec<_>>().join(",")
}

/// What etcd refuses of a first membership.
async fn check(flags: &Flags, own: &Cluster, cluster: &Cluster, join: bool) -> Result<()> {
    let name = flags.get("name");
    let urls = |cluster: &Cluster| -> BTreeSet<String> {
        cluster.iter().filter(|(other, _)| other == name).map(|(_, url)| url.clone()).collect()
    };
    let (advertised, listed) = (urls(own), urls(cluster));
    if listed.is_empty() {
        bail!("couldn't find local name {name:?} in the initial cluster configuration");
    }
    if !join && !same_places(&advertised, &listed).await {
        let join = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(",");
        let missing: Vec<String> =
            listed.difference(&advertised).map(|url| format!("{name}={url}")).collect();
        if !missing.is_empty() {
            bail!(
                "--initial-cluster has {} but missing from --initial-advertise-peer-urls={}",
                missing.join(","),
                join(&advertised)
            );
        }
        let missing: BTreeSet<String> = advertised.difference(&listed).cloned().collect();
        bail!(
            "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
            join(&missing),
            text(own)
        );
    }
    let all: BTreeSet<&String> = cluster.iter().map(|(_, url)| url).collect();
    if all.len() != cluster.len() {
        bail!("initial cluster {} has duplicate url", text(cluster));
    }
    Ok(())
}

/// Whether the URLs are the same, or lead to the same places.
async fn same_places(one: &BTreeSet<String>, other: &BTreeSet<String>) -> bool {
    if one == other {
        return true;
    }
    let (one, other) = (places(one).await, places(other).await);
    one.is_some() && one == other
}

async fn places(urls: &BTreeSet<String>) -> Option<BTreeSet<(bool, SocketAddr)>> {
    let mut places = BTreeSet::new();
    for url in urls {
        let address: Address = url.parse().ok()?;
        places.insert((address.is_secure(), place(&address).await?));
    }
    Some(places)
}

async fn place(address: &Address) -> Option<SocketAddr> {
    let found = tokio::net::lookup_host(address.host_and_port()?).await.ok()?;
    found.min_by_key(SocketAddr::is_ipv6)
}

async fn discovered(env: &Env, flags: &Flags, own: &Cluster) -> Result<Cluster> {
    let (token, urls) = (flags.get("discovery-token"), flags.list("initial-advertise-peer-urls"));
    let user = flags.some("discovery-user").map(|user| match (flags.some("discovery-password"), user) {
        (Some(password), user) => (user.to_owned(), password.to_owned()),
        // etcdctl's way: the password behind a colon.
        (None, user) => user.split_once(':').map_or_else(
            || (user.to_owned(), String::new()),
            |(user, password)| (user.to_owned(), password.to_owned()),
        ),
    });
    let discovery = Discovery {
        token: token.to_owned(),
        endpoints: flags.list("discovery-endpoints"),
        dialer: Dialer::new(security::discovery(flags)?, None, flags.duration("discovery-dial-timeout")),
        request_timeout: flags.duration("discovery-request-timeout"),
        keep_alive: (
            flags.duration("discovery-keepalive-time"),
            flags.duration("discovery-keepalive-timeout"),
        ),
        user,
    };
    let member = store::member_id(&urls, token, None);
    match discovery.join(&env.clock, member, &text(own)).await {
        Ok(cluster) => member::parse_initial_cluster(&cluster),
        Err(error) => {
            tracing::warn!(
                discovery_token = token,
                discovery_endpoints = flags.get("discovery-endpoints"),
                %error,
                "failed to bootstrap; discovery token was already used"
            );
            tracing::warn!("do not reuse discovery token; generate a new one to bootstrap a cluster");
            bail!("failed to join discovery cluster ({error})")
        }
    }
}

/// The members that a domain's records name (RFC 2782), those with TLS first.
async fn recorded(flags: &Flags, domain: &str) -> Result<Cluster> {
    let suffix = flags.some("discovery-srv-name").map(|name| format!("-{name}")).unwrap_or_default();
    let mut cluster = Cluster::new();
    let mut failures = Vec::new();
    for (scheme, service) in [("https", "etcd-server-ssl"), ("http", "etcd-server")] {
        let service = format!("{service}{suffix}");
        match services(&service, domain).await {
            Ok(records) => {
                let found = members(flags, scheme, &service, &records).await?;
                tracing::info!(
                    service_scheme = scheme,
                    service_name = service,
                    server_name = flags.get("name"),
                    discovery_srv = domain,
                    found_cluster = text(&found),
                    "get cluster for {service} SRV"
                );
                cluster.extend(found);
            }
            Err(error) => {
                failures.push(format!("error querying DNS SRV records for _{service} {error}"));
            }
        }
    }
    if cluster.is_empty() {
        tracing::warn!(error = failures.join("\n"), "failed to resolve during SRV discovery");
        bail!("{}", failures.join("\n"));
    }
    for (name, url) in &cluster {
        tracing::info!(node = format!("{name}={url}"), "got bootstrap from DNS for etcd-server");
    }
    if !cluster.iter().any(|(name, _)| name == flags.get("name")) {
        bail!("cannot find local etcd member {:?} in SRV records", flags.get("name"));
    }
    Ok(cluster)
}

/// Records as members: this one is known by where it advertises itself, the others are numbered.
async fn members(flags: &Flags, scheme: &str, service: &str, records: &[Service]) -> Result<Cluster> {
    let mut own = Vec::new();
    for url in flags.addresses("initial-advertise-peer-urls") {
        own.push((place(&url).await, url));
    }
    let mut cluster = Cluster::new();
    let mut number = 0;
    for Service { host, port } in records {
        let short = host.trim_end_matches('.');
        let address: Address = format!("{scheme}://{short}:{port}").parse()?;
        let Some(place) = place(&address).await else {
            tracing::warn!(host, port, "a server of the record has no address");
            continue;
        };
        match own.iter().find(|(known, _)| *known == Some(place)) {
            Some((_, url)) if url.is_secure() != address.is_secure() => tracing::warn!(
                "bootstrap at {address} from DNS for {service} has scheme mismatch with expected peer {url}"
            ),
            Some(_) => cluster.push((flags.get("name").to_owned(), address.to_string())),
            None => {
                cluster.push((number.to_string(), address.to_string()));
                number += 1;
            }
        }
    }
    Ok(cluster)
}

//! Where the replicas answer: each keeps a key alive that names its address, and whoever sees a change writes it into
//! the Endpoints and EndpointSlices of Service `kubernetes` (upstream's lease reconciler).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api_types::status::Status;
use api_types::{Value, meta, table};
use bytes::Bytes;
use mvcc::{Command, KeyRange, Op, PutRequest, Txn};
use serde_json::json;

use crate::api::Api;
use crate::call::Call;
use crate::convert;
use crate::options::DeleteOptions;
use crate::registry::{Target, Update, UpdateKind};
use crate::storage::{self, store_failure};

const PREFIX: &str = "/registry/masterleases/";
/// How long a replica that is silent stays listed.
const TTL_SECONDS: i64 = 15;
/// How often a replica shows that it is there, and looks who else is.
const INTERVAL: Duration = Duration::from_secs(5);
/// After a failure.
const RETRY: Duration = Duration::from_secs(1);
const NAME: &str = "kubernetes";
const NAMESPACE: &str = "default";

/// Keeps this replica listed until shutdown.
pub(crate) async fn reconcile(api: Arc<Api>, address: IpAddr, port: u16) {
    if address.is_loopback() || address.is_unspecified() {
        tracing::info!(%address, "the advertised address is not for others: Service kubernetes has no endpoints from here");
        return;
    }
    let mut lease = 0;
    loop {
        let done = async {
            lease = announce(&api, lease, address, port).await?;
            publish(&api).await
        };
        let pause = match done.await {
            Ok(()) => INTERVAL,
            Err(error) => {
                tracing::debug!(%error, "cannot publish the endpoints of Service kubernetes");
                RETRY
            }
        };
        tokio::select! {
            () = api.storage.env.clock.sleep(pause) => {}
            () = api.shutdown.wait() => break,
        }
    }
    if lease != 0 {
        drop(api.storage.store.propose(Command::LeaseRevoke { id: lease }).await);
    }
}

/// Keeps this replica's key alive; answers with the lease it hangs on.
async fn announce(api: &Api, lease: i64, address: IpAddr, port: u16) -> Result<i64, Status> {
    let key = Bytes::from(format!("{PREFIX}{address}:{port}"));
    if lease != 0 && storage::get(&api.storage.view(), &key)?.is_some_and(|kv| kv.lease == lease) {
        let renewed =
            api.storage.store.lease_keep_alive(lease).await.map_err(|error| store_failure(&error))?;
        if renewed.is_some() {
            return Ok(lease);
        }
    }
    let lease = api.storage.grant(TTL_SECONDS).await?;
    let value = Bytes::from(api.name.clone());
    let put = Op::Put(PutRequest { key, value, lease, ..PutRequest::default() });
    let applied = api.storage.store.propose(Command::Txn(Txn::of(put))).await;
    applied.map_err(|error| store_failure(&error))?.response.map_err(Status::internal)?;
    Ok(lease)
}

/// Addresses by port of all replicas that are there.
fn replicas(api: &Api) -> BTreeMap<u16, Vec<String>> {
    let view = api.storage.view();
    let mut found: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for key in view.keys(&KeyRange::prefix(PREFIX)) {
        let text = String::from_utf8_lossy(&key[PREFIX.len()..]).into_owned();
        if let Some((address, port)) = text.rsplit_once(':')
            && let Ok(port) = port.parse()
        {
            found.entry(port).or_default().push(address.to_owned());
        }
    }
    found
}

async fn publish(api: &Api) -> Result<(), Status> {
    let replicas = replicas(api);
    write(api, endpoints(&replicas)).await?;
    let mut names = Vec::new();
    for (index, (port, addresses)) in replicas.iter().enumerate() {
        // Replicas on different ports (several on one machine) need a slice each.
        let name = if index == 0 { NAME.to_owned() } else { format!("{NAME}-{port}") };
        write(api, slice(&name, *port, addresses)).await?;
        names.push(name);
    }
    remove_others(api, &names).await
}

fn endpoints(replicas: &BTreeMap<u16, Vec<String>>) -> Value {
    let subsets: Vec<Value> = replicas
        .iter()
        .map(|(port, addresses)| {
            let addresses: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
            json!({"addresses": addresses, "ports": [{"name": "https", "port": port, "protocol": "TCP"}]})
        })
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": subsets,
    })
}

fn slice(name: &str, port: u16, addresses: &[String]) -> Value {
    let family = if addresses.iter().any(|address| address.contains(':')) { "IPv6" } else { "IPv4" };
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"addresses": [address], "conditions": {"ready": true}}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": NAME}},
        "addressType": family,
        "endpoints": endpoints,
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    })
}

/// Creates an object, or brings its content up to date.
async fn write(api: &Api, object: Value) -> Result<(), Status> {
    let resource = table::by_api_version(meta::api_version(&object), meta::kind(&object))
        .ok_or_else(Status::path_not_found)?;
    let target = Target::new(resource, NAMESPACE, meta::name(&object));
    let (call, view) = (Call::internal(), api.storage.view());
    let Some(kv) = storage::get(&view, &target.key())? else {
        return api.create(&call, &target, object, false).await.map(|_| ());
    };
    let content = ["subsets", "endpoints", "ports"];
    let current = convert::decode(resource, &kv)?;
    if content.iter().all(|field| current[*field] == object[*field]) {
        return Ok(());
    }
    let update = Update { kind: UpdateKind::Main, dry_run: false };
    let mut replace = |old: &Value| {
        let mut new = old.clone();
        for field in content {
            if let (Some(new), Some(value)) = (new.as_object_mut(), object.get(field)) {
                new.insert(field.to_owned(), value.clone());
            }
        }
        Ok(new)
    };
    api.update(&call, &target, update, &mut replace).await.map(|_| ())
}

/// Removes slices of ports that no replica has any more.
async fn remove_others(api: &Api, names: &[String]) -> Result<(), Status> {
    let slices =
        table::find("discovery.k8s.io", "v1", "endpointslices").ok_or_else(Status::path_not_found)?;
    let prefix = slices.key(NAMESPACE, &format!("{NAME}-"));
    let found: Vec<String> = {
        let (view, range) = (api.storage.view(), KeyRange::prefix(prefix.clone()));
        let keys = view.keys(&range);
        keys.map(|key| format!("{NAME}-{}", String::from_utf8_lossy(&key[prefix.len()..]))).collect()
    };
    for name in found.iter().filter(|name| !names.contains(name)) {
        if name[NAME.len() + 1..].parse::<u16>().is_err() {
            continue;
        }
        let target = Target::new(slices, NAMESPACE, name);
        match api.delete(&Call::internal(), &target, &DeleteOptions::default()).await {
            Err(status) if status.code != 404 => return Err(status),
            _ => {}
        }
    }
    Ok(())
}

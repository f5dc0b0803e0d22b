//! What only one replica does at a time: controllers and scheduler. Their informers are warm on every replica; a Lease says who acts,
//! and the store's leadership says at once who may take the Lease.

use apiserver::{ApiServer, UserInfo};
use client::{Client, ElectionConfig, Fence, LeaderElector, Service};
use controllers::{Controllers, ControllersConfig};
use env::{Env, Shutdown, TaskGroup};
use store::Store;
use tokio::sync::watch;
use tower::ServiceExt as _;

const CONTROLLERS: &str = "kube-controller-manager";
const SCHEDULER: &str = "kube-scheduler";

/// Starts the components that are led.
pub fn start(env: &Env, tasks: &TaskGroup, store: &Store, api: &ApiServer, config: ControllersConfig) {
    let preferred = follow_store(tasks, store);
    let replica = config.replica.clone();
    let client = in_process(api, CONTROLLERS);
    let leading = elect(env, tasks, &client, &preferred, ElectionConfig::new(CONTROLLERS, &config.replica));
    let mut controllers = Controllers::new(env.clone(), client, config);
    let client = in_process(api, SCHEDULER);
    let leads = elect(env, tasks, &client, &preferred, ElectionConfig::new(SCHEDULER, &replica));
    let mut scheduler = scheduler::Config { replica }.build(env.clone(), client);
    // One copy of the pods is enough.
    scheduler.follow_pods(controllers.informer("pods").expect("invariant: controllers watch pods"));
    scheduler.follow_nodes(controllers.informer("nodes").expect("invariant: controllers watch nodes"));
    tasks.spawn("controllers", controllers.run(tasks.shutdown().clone(), leading));
    tasks.spawn("scheduler", scheduler.run(tasks.shutdown().clone(), leads));
}

/// A caller that the API knows as `system:<component>`.
fn in_process(api: &ApiServer, component: &str) -> Client {
    let user = UserInfo::new(format!("system:{component}"), &["system:authenticated"]);
    let service = api.service(user).map_err(|never| match never {});
    Client::new(Service::new(service), component)
}

/// Whether this replica leads the store, as it changes.
fn follow_store(tasks: &TaskGroup, store: &Store) -> watch::Receiver<bool> {
    let (tell, preferred) = watch::channel(false);
    let mut leadership = store.leadership();
    let shutdown = tasks.shutdown().clone();
    tasks.spawn_detached("store-leadership", async move {
        loop {
            let leads = leadership.borrow_and_update().is_leader;
            tell.send_if_modified(|current| std::mem::replace(current, leads) != leads);
            tokio::select! {
                changed = leadership.changed() => if changed.is_err() { return },
                () = shutdown.wait() => return,
            }
        }
    });
    preferred
}

/// Contends for a component's Lease; the fence while it is held.
fn elect(
    env: &Env,
    tasks: &TaskGroup,
    client: &Client,
    preferred: &watch::Receiver<bool>,
    config: ElectionConfig,
) -> watch::Receiver<Option<Fence>> {
    let (tell, leading) = watch::channel(None);
    let name = format!("election-{}", config.lease);
    let elector = LeaderElector::new(config, env.clone(), client, preferred.clone());
    let shutdown = tasks.shutdown().clone();
    tasks.spawn_detached(name, async move {
        let lead = |fence: Fence, stop: Shutdown| {
            tell.send_replace(Some(fence));
            let tell = &tell;
            async move {
                stop.wait().await;
                tell.send_replace(None);
            }
        };
        elector.run(shutdown, lead).await;
    });
    leading
}

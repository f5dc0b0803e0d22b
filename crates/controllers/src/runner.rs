//! The one runner: informers, queues, workers, and the carrying out of plans.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api_types::{Resource, ResourceRef, meta};
use client::{
    Api, Client, ClientError, EventRecorder, EventType, Fence, Informer, InformerConfig, ListParams,
    WorkQueue,
};
use env::{Env, Shutdown, TaskGroup};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::api_service_availability::{ApiProbe, Finding};
use crate::controller::{Controller, Key, Listers, Now, UID_INDEX, indexes};
use crate::custom_informers::CustomInformers;
use crate::namespace_status::Left;
use crate::node_ipam::{self, Ipv4Range};
use crate::plan::{Action, Plan};
use crate::service_account_tokens::{ServiceAccountTokens, TokenSigner};
use crate::{
    api_service_availability, api_service_registration, cluster_role, custom_resources, deployment,
    disruption, endpoint_slice, endpoints, garbage_collector, namespace, node_lifecycle, pod_gc,
    policy_status, replica_set, resource_quota, root_ca, service_account, service_account_tokens,
    storage_protection, taint_eviction,
};

/// Objects of a kind that are kept as trees where only metadata matters.
pub(crate) const METADATA_TREES: usize = 100;
/// Objects of a kind that are kept as trees: those that something is happening to.
const TREES: usize = 1000;
/// Keys of one controller that are worked on at a time.
const WORKERS: usize = 4;
/// How long a key waits for the informers to show what was written for it.
const SEEN_DEADLINE: Duration = Duration::from_secs(10);
const SEEN_POLL: Duration = Duration::from_millis(2);
/// Objects asked for at a time when a quota is counted.
const QUOTA_PAGE: u64 = 500;
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// What the controllers need to know.
#[derive(Clone, Debug)]
pub struct ControllersConfig {
    /// This replica's name, in events.
    pub replica: String,
    /// The certificate authority that pods shall trust, PEM.
    pub root_ca: String,
    /// The addresses of all pods; each node gets a part.
    pub cluster_cidr: Ipv4Range,
    /// Signs the tokens of Secrets of service accounts; without it they stay empty.
    pub token_signer: Option<TokenSigner>,
    /// Asks servers of APIServices; without it nothing is said of them.
    pub api_probe: Option<ApiProbe>,
    /// How long a node may be silent before it counts as unreachable.
    pub node_monitor_grace: Duration,
}

/// Objects of a namespace that ends which are counted at a time.
const PAGE: u64 = 500;

/// All controllers, not yet running.
pub struct Controllers {
    env: Env,
    client: Client,
    config: ControllersConfig,
    informers: HashMap<String, Informer>,
    loops: Vec<Loop>,
    definitions: Arc<Notify>,
    listers: Listers,
}

/// Controllers that look at every kind, and at nothing but the metadata of what no other one looks at (and at quotas).
const OF_METADATA: [&str; 2] = [garbage_collector::NAME, resource_quota::NAME];

/// How many objects of a kind are kept as trees. Each definition is compared with all others, again and again.
fn trees(resource: &str, metadata_only: bool) -> usize {
    match resource {
        custom_resources::DEFINITIONS => usize::MAX,
        _ if metadata_only => METADATA_TREES,
        _ => TREES,
    }
}

/// Takes from a Secret what only matters where it is a token's: it may be large, and is nobody's business here.
fn trim_secret(secret: &mut Value) {
    if secret["type"] != service_account_tokens::TYPE
        && let Some(secret) = secret.as_object_mut()
    {
        secret.remove("data");
    }
}

struct Loop {
    controller: Arc<dyn Controller>,
    queue: WorkQueue<Key>,
}

impl Controllers {
    /// Every controller over `client`, which is who they are to the API.
    pub fn new(env: Env, client: Client, config: ControllersConfig) -> Self {
        let mut controllers: Vec<Arc<dyn Controller>> = vec![
            Arc::new(&replica_set::REPLICA_SETS),
            Arc::new(&replica_set::REPLICATION_CONTROLLERS),
            Arc::new(deployment::Deployments),
            Arc::new(endpoint_slice::EndpointSlices),
            Arc::new(endpoints::Endpoints),
            Arc::new(service_account::ServiceAccounts),
            Arc::new(root_ca::RootCa { certificate: config.root_ca.clone() }),
            Arc::new(namespace::Namespaces),
            Arc::new(custom_resources::Definitions),
            Arc::new(garbage_collector::GarbageCollector),
            Arc::new(node_ipam::NodeIpam { cluster: config.cluster_cidr }),
            Arc::new(node_lifecycle::NodeLifecycle::new(config.node_monitor_grace)),
            Arc::new(taint_eviction::TaintEviction::default()),
            Arc::new(pod_gc::PodGc::default()),
            Arc::new(storage_protection::StorageProtection),
            Arc::new(resource_quota::ResourceQuotas),
            Arc::new(cluster_role::ClusterRoles),
            Arc::new(disruption::Disruption),
            Arc::new(policy_status::PolicyStatus),
            Arc::new(api_service_registration::Registration),
        ];
        let interval = config
            .api_probe
            .as_ref()
            .map_or(api_service_availability::PROBE_INTERVAL, |probe| probe.interval);
        controllers.push(Arc::new(api_service_availability::Availability { interval }));
        if let Some(signer) = config.token_signer.clone() {
            let root_ca = config.root_ca.clone();
            controllers.push(Arc::new(ServiceAccountTokens { signer, root_ca }));
        }
        let loops = controllers.into_iter().map(|controller| {
            let queue = WorkQueue::named(env.clone(), queue_name(controller.name()));
            Loop { controller, queue }
        });
        let loops = loops.collect();
        let (informers, definitions) = (HashMap::new(), Arc::new(Notify::new()));
        let mut all =
            Self { client, config, informers, loops, env, definitions, listers: Listers::default() };
        all.connect();
        all
    }

    /// One informer for each kind that anyone watches, with everyone's handlers.
    fn connect(&mut self) {
        let whole = self.loops.iter().filter(|each| !OF_METADATA.contains(&each.controller.name()));
        let mut whole: BTreeSet<String> = whole
            .flat_map(|each| each.controller.watches())
            .map(|watch| watch.resource.qualified())
            .collect();
        whole.insert(resource_quota::resource().qualified());
        let watches: Vec<_> = self.loops.iter().flat_map(|each| each.controller.watches()).collect();
        for watch in watches {
            let name = watch.resource.qualified();
            let informer = || {
                let metadata_only = !whole.contains(&name);
                let config = InformerConfig {
                    indexes: indexes(),
                    metadata_only,
                    trim: (name == "secrets").then_some(trim_secret as fn(&mut Value)),
                    trees: trees(&name, metadata_only),
                    ..InformerConfig::all(watch.resource)
                };
                config.build(self.env.clone(), &self.client)
            };
            self.informers.entry(name.clone()).or_insert_with(informer);
        }
        let listers = self.informers.iter().map(|(resource, informer)| (resource.clone(), informer.lister()));
        self.listers = Listers::new(listers.collect());
        let listers = self.listers();
        if let Some(informer) = self.informers.get_mut(custom_resources::DEFINITIONS) {
            let changed = self.definitions.clone();
            informer.on_change(move |_| changed.notify_one());
        }
        for each in &self.loops {
            each.controller.first().into_iter().for_each(|key| each.queue.add(key));
            let at_once = each.controller.watches().into_iter().map(|watch| (watch, Duration::ZERO));
            for (watch, pause) in at_once.chain(each.controller.later()) {
                let (queue, listers) = (each.queue.clone(), listers.clone());
                let informer = self.informers.get_mut(&watch.resource.qualified());
                let informer = informer.expect("invariant: made above for every watch");
                informer.on_change(move |change| {
                    for key in (watch.keys)(change, &listers) {
                        match pause {
                            Duration::ZERO => queue.add(key),
                            pause => queue.add_after(key, pause),
                        }
                    }
                });
            }
        }
    }

    /// The informer of a kind that some controller watches, for who is interested in the same: it runs with the controllers.
    pub fn informer(&mut self, resource: &str) -> Option<&mut Informer> {
        self.informers.get_mut(resource)
    }

    /// What the informers know.
    pub fn listers(&self) -> Listers {
        self.listers.clone()
    }

    /// The informers of custom kinds, for who collects garbage.
    fn custom_informers(&self) -> Option<CustomInformers> {
        let collector = self.loops.iter().find(|each| each.controller.name() == garbage_collector::NAME)?;
        Some(CustomInformers {
            env: self.env.clone(),
            client: self.client.clone(),
            listers: self.listers(),
            changed: self.definitions.clone(),
            queue: collector.queue.clone(),
        })
    }

    /// Runs until shutdown; acts only while `leading` holds a fence.
    ///
    /// # Errors
    /// When a task fails.
    pub async fn run(
        self,
        shutdown: Shutdown,
        leading: watch::Receiver<Option<Fence>>,
    ) -> Result<(), env::TaskFailure> {
        let tasks = TaskGroup::new("controllers", shutdown.clone());
        let listers = self.listers();
        if let Some(custom) = self.custom_informers() {
            tasks.spawn_detached("custom-informers", custom.run(shutdown.clone()));
        }
        for (resource, informer) in self.informers {
            tasks.spawn_detached(format!("informer-{resource}"), informer.run(shutdown.clone()));
        }
        let (recorder, writer) = EventRecorder::new(
            self.env.clone(),
            self.client.clone(),
            "controllermanager",
            &self.config.replica,
        );
        tasks.spawn_detached("events", writer);
        for each in self.loops {
            let worker = Arc::new(Worker {
                env: self.env.clone(),
                client: self.client.clone(),
                recorder: recorder.named(each.controller.component()),
                controller: each.controller,
                queue: each.queue,
                listers: listers.clone(),
                api_probe: self.config.api_probe.clone(),
                unseen: Mutex::default(),
                started: self.env.clock.monotonic(),
            });
            for number in 0..WORKERS {
                let (worker, shutdown, leading) = (worker.clone(), shutdown.clone(), leading.clone());
                let name = format!("{}-{number}", worker.controller.name());
                tasks.spawn_detached(name, async move { worker.run(shutdown, leading).await });
            }
        }
        drop(recorder);
        tasks.join(STOP_DEADLINE).await
    }
}

/// What upstream calls the queue of a controller, for dashboards that know it by that name.
fn queue_name(controller: &'static str) -> &'static str {
    match controller {
        "apiservice-availability" => "RemoteAvailabilityController",
        "clusterrole-aggregation-controller" => "ClusterRoleAggregator",
        "crd-autoregister" => "autoregister",
        "deployment-controller" => "deployment",
        "disruption-controller" => "disruption",
        "endpointslice-controller" => "endpoint_slice",
        "endpoints-controller" => "endpoint",
        garbage_collector::NAME => "garbage_collector_attempt_to_delete",
        "namespace-controller" => "namespace",
        "node-lifecycle-controller" => "node_lifecycle_controller",
        "replicaset-controller" => "replicaset",
        "replication-controller" => "replicationmanager",
        resource_quota::NAME => "resourcequota_primary",
        "root-ca-certificate-publisher-controller" => "root_ca_cert_publisher",
        "serviceaccount-controller" => "serviceaccount",
        "serviceaccount-token-controller" => "serviceaccount_tokens_service",
        "taint-eviction-controller" => "noexec_taint_pod",
        "validatingadmissionpolicy-status-controller" => "validatingadmissionpolicy-status",
        other => other,
    }
}

/// What was written for a key and may not be seen yet.
enum Unseen {
    /// A version of some object of a kind.
    Version(String, u64),
    /// An object that was deleted.
    Deleted(String, String),
}

struct Worker {
    env: Env,
    client: Client,
    controller: Arc<dyn Controller>,
    queue: WorkQueue<Key>,
    listers: Listers,
    recorder: EventRecorder,
    api_probe: Option<ApiProbe>,
    unseen: Mutex<HashMap<Key, (Instant, Vec<Unseen>)>>,
    started: Instant,
}

impl Worker {
    async fn run(&self, shutdown: Shutdown, mut leading: watch::Receiver<Option<Fence>>) {
        for (_, lister) in self.listers.all() {
            tokio::select! {
                synced = lister.synced() => if !synced { return },
                () = shutdown.wait() => return,
            }
        }
        loop {
            let fence = tokio::select! {
                led = leading.wait_for(Option::is_some) => match led {
                    Ok(fence) => fence.clone(),
                    Err(_) => return,
                },
                () = shutdown.wait() => return,
            };
            let Some(fence) = fence else { continue };
            let key = tokio::select! {
                key = self.queue.next(&shutdown) => key,
                _ = leading.wait_for(Option::is_none) => continue,
            };
            let Some(key) = key else { return };
            self.work(&key, &fence).await;
            self.queue.done(&key);
        }
    }

    async fn work(&self, key: &Key, fence: &Fence) {
        if self.waits(key) {
            self.queue.add_after(key.clone(), SEEN_POLL);
            return;
        }
        let plan = self.controller.reconcile(&self.listers, key, self.now());
        let recheck = plan.recheck_after;
        match self.carry_out(key, plan, &self.client.with_fence(fence)).await {
            Ok(()) => {
                self.queue.succeeded(key);
                if let Some(pause) = recheck {
                    self.queue.add_after(key.clone(), pause);
                }
            }
            Err(error) => {
                tracing::debug!(controller = self.controller.name(), ?key, %error, "trying again later");
                metrics::counter!("trierarch_controller_errors_total", "controller" => self.controller.name()).increment(1);
                self.queue.add_failed(key.clone());
            }
        }
    }

    fn now(&self) -> Now {
        let steady = self.env.clock.monotonic() - self.started;
        Now {
            wall_millis: self.env.clock.now().millis(),
            steady_millis: i64::try_from(steady.as_millis()).unwrap_or(i64::MAX),
        }
    }

    /// Whether the informers do not show yet what was written for a key.
    fn waits(&self, key: &Key) -> bool {
        let mut unseen = self.unseen.lock();
        let Some((since, writes)) = unseen.get(key) else { return false };
        let late = self.env.clock.monotonic() - *since > SEEN_DEADLINE;
        if late || writes.iter().all(|write| self.is_seen(write)) {
            unseen.remove(key);
            return false;
        }
        true
    }

    fn is_seen(&self, write: &Unseen) -> bool {
        match write {
            Unseen::Version(resource, version) => {
                self.listers.get(resource).is_none_or(|lister| lister.version() >= *version)
            }
            Unseen::Deleted(resource, uid) => self.listers.get(resource).is_none_or(|lister| {
                lister.by_index(UID_INDEX, uid).iter().all(|object| meta::is_being_deleted(object))
            }),
        }
    }

    async fn carry_out(&self, key: &Key, plan: Plan, client: &Client) -> Result<(), ClientError> {
        for action in plan.actions {
            let makes_pod = matches!(action, Action::CreatePod(..));
            let done = self.act(action, client).await;
            if let (true, Err(error)) = (makes_pod, &done) {
                let said = self.controller.no_pod(&self.listers, key, &error.to_string(), self.now());
                if let Some(action) = said {
                    self.note(key, self.act(action, client).await?);
                }
            }
            self.note(key, done?);
        }
        Ok(())
    }

    /// Notes what was written for a key until the informers show it.
    fn note(&self, key: &Key, unseen: Option<Unseen>) {
        let Some(unseen) = unseen else { return };
        let mut all = self.unseen.lock();
        let now = self.env.clock.monotonic();
        let entry = all.entry(key.clone()).or_insert_with(|| (now, Vec::new()));
        entry.0 = now;
        entry.1.push(unseen);
    }

    async fn act(&self, action: Action, client: &Client) -> Result<Option<Unseen>, ClientError> {
        match action {
            Action::Create(resource, object) => {
                let api = client.namespaced(resource, meta::namespace(&object));
                match api.create(&object).await {
                    Err(error) if error.is_already_exists() => Ok(None),
                    other => other.map(|written| version_of(resource, &written)),
                }
            }
            Action::CreatePod(owner, pod) => self.create_pod(&owner, &pod, client).await,
            Action::Update(resource, object) => {
                let written = client.namespaced(resource, meta::namespace(&object)).update(&object).await?;
                Ok(version_of(resource, &written))
            }
            Action::UpdateStatus(resource, object) => self.update_status(resource, &object, client).await,
            Action::Patch(resource, object, patch) => {
                let api = client.namespaced(&resource, meta::namespace(&object));
                match api.patch(meta::name(&object), "", &patch).await {
                    Err(error) if error.is_not_found() => Ok(None),
                    other => other.map(|written| version_of(&resource, &written)),
                }
            }
            Action::Delete(resource, object, params) => delete(client, &resource, &object, params).await,
            Action::DeleteCollection(resource, namespace) => {
                let api = client.namespaced(&resource, &namespace);
                api.delete_collection(&ListParams::default(), &client::DeleteParams::default()).await?;
                Ok(None)
            }
            Action::CountQuota(quota, kinds) => self.count_quota(&quota, &kinds, client).await,
            Action::Collect(resource, object) => collect(client, &self.listers, &resource, &object).await,
            Action::FinalizeDefinition(resource, definition) => {
                custom_resources::finalize(client, &resource, &definition).await?;
                Ok(None)
            }
            Action::AwaitNone(resource, namespace) => {
                self.await_none(client, &[resource], &namespace).await.map(|()| None)
            }
            Action::FinalizeNamespace(namespace) => {
                self.await_none(client, &namespace::contents(&self.listers), &namespace).await?;
                finalize_namespace(client, &namespace).await
            }
            Action::ProbeApiService(service) => self.probe_api_service(service, client).await,
            Action::Event(object, kind, reason, text) => {
                self.recorder.record(&object, kind, reason, text);
                Ok(None)
            }
        }
    }

    /// Counts what is used of a quota where the informers may be behind it: the API shows everything that the quota was
    /// charged for, and the write fails when it is charged again.
    async fn count_quota(
        &self,
        quota: &Value,
        kinds: &[String],
        client: &Client,
    ) -> Result<Option<Unseen>, ClientError> {
        let mut read = HashMap::new();
        for kind in resource_quota::kinds().filter(|kind| kinds.contains(&kind.qualified())) {
            let page = ListParams { limit: QUOTA_PAGE, ..ListParams::default() };
            let list = client.namespaced(kind, meta::namespace(quota)).list_all(&page).await?;
            read.insert(kind.qualified(), list.items.into_iter().map(Arc::new).collect());
        }
        let counted = resource_quota::counted(quota, &self.listers, &read, self.now());
        let written = client
            .namespaced(resource_quota::resource(), meta::namespace(quota))
            .update_status(&counted)
            .await?;
        Ok(version_of(resource_quota::resource(), &written))
    }

    /// Fails if something of these kinds is left in a namespace, which then says what.
    async fn await_none(
        &self,
        client: &Client,
        contents: &[ResourceRef],
        namespace: &Value,
    ) -> Result<(), ClientError> {
        let name = meta::name(namespace);
        let metadata = ListParams { limit: PAGE, metadata_only: true, ..ListParams::default() };
        let mut left = Left::default();
        for resource in contents {
            left.add(resource, &client.namespaced(resource, name).list_all(&metadata).await?.items);
        }
        if left.is_empty() {
            return Ok(());
        }
        if let Some(told) = left.told(namespace, self.now().wall_millis) {
            client.all(crate::controller::kind("", "v1", "namespaces")).update_status(&told).await?;
        }
        Err(ClientError::Decode(format!("namespace {name} is not empty")))
    }

    /// Writes a status. APIServices that are not available any more are counted.
    async fn update_status(
        &self,
        resource: &'static Resource,
        object: &Value,
        client: &Client,
    ) -> Result<Option<Unseen>, ClientError> {
        let is_api_service = std::ptr::eq(resource, api_service_registration::api_services());
        let key = || Key::of(api_service_registration::API_SERVICES, object);
        let before = is_api_service.then(|| self.listers.object(&key())).flatten();
        let written = client.namespaced(resource, meta::namespace(object)).update_status(object).await?;
        if let Some(before) = before {
            api_service_availability::count(&before, object);
        }
        Ok(version_of(resource, &written))
    }

    /// Asks the server of an APIService, and writes what comes of it. One that does not answer is asked again soon.
    async fn probe_api_service(
        &self,
        service: Arc<Value>,
        client: &Client,
    ) -> Result<Option<Unseen>, ClientError> {
        let Some(probe) = &self.api_probe else { return Ok(None) };
        let result = (probe.ask)(service.clone()).await;
        let finding = Finding::probed(&result);
        let written = match api_service_availability::told(&service, &finding, self.now()) {
            Some(changed) => {
                self.update_status(api_service_registration::api_services(), &changed, client).await?
            }
            None => None,
        };
        result.map(|()| written).map_err(ClientError::Transport)
    }

    /// Makes a pod and says so in its owner's events; a namespace that is going is no news.
    async fn create_pod(
        &self,
        owner: &Value,
        pod: &Value,
        client: &Client,
    ) -> Result<Option<Unseen>, ClientError> {
        let pods = crate::controller::kind("", "v1", "pods");
        match client.namespaced(pods, meta::namespace(pod)).create(pod).await {
            Ok(written) => {
                let text = format!("Created pod: {}", meta::name(&written));
                self.recorder.record(owner, EventType::Normal, "SuccessfulCreate", text);
                Ok(version_of(pods, &written))
            }
            Err(error) if error.is_namespace_terminating() => Ok(None),
            Err(error) => {
                let text = format!("Error creating: {error}");
                self.recorder.record(owner, EventType::Warning, "FailedCreate", text);
                Err(error)
            }
        }
    }
}

fn version_of(resource: &Resource, written: &Value) -> Option<Unseen> {
    let version = meta::resource_version(written).parse().ok()?;
    Some(Unseen::Version(resource.qualified(), version))
}

async fn delete(
    client: &Client,
    resource: &ResourceRef,
    object: &Value,
    params: client::DeleteParams,
) -> Result<Option<Unseen>, ClientError> {
    let params = client::DeleteParams { uid: Some(meta::uid(object).to_owned()), ..params };
    let api = client.namespaced(resource, meta::namespace(object));
    match api.delete(meta::name(object), &params).await {
        // Gone, or another object by now.
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) if error.is_conflict() && !is_same(&api, object).await => Ok(None),
        other => other.map(|_| Some(Unseen::Deleted(resource.qualified(), meta::uid(object).to_owned()))),
    }
}

async fn is_same(api: &Api, object: &Value) -> bool {
    api.get(meta::name(object)).await.is_ok_and(|found| meta::uid(&found) == meta::uid(object))
}

/// Deletes a dependent if none of its owners exists any more. The informers may be behind, so the API is asked.
async fn collect(
    client: &Client,
    listers: &Listers,
    resource: &ResourceRef,
    object: &Value,
) -> Result<Option<Unseen>, ClientError> {
    for owner in meta::owner_references(object) {
        let Some(kind) = garbage_collector::kind_of(listers, &owner.api_version, &owner.kind) else {
            return Ok(None);
        };
        let namespace = if kind.namespaced { meta::namespace(object) } else { "" };
        match client.namespaced(kind, namespace).get(&owner.name).await {
            Ok(found) if meta::uid(&found) == owner.uid => return Ok(None),
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    let params =
        client::DeleteParams { propagation: Some(client::Propagation::Background), ..Default::default() };
    delete(client, resource, object, params).await
}

/// Takes the finalizer off a namespace in which the API finds nothing any more.
async fn finalize_namespace(client: &Client, namespace: &Value) -> Result<Option<Unseen>, ClientError> {
    let name = meta::name(namespace);
    let mut finalized = namespace.clone();
    if let Some(finalizers) = finalized["spec"]["finalizers"].as_array_mut() {
        finalizers.retain(|finalizer| finalizer != namespace::FINALIZER);
    }
    let namespaces = crate::controller::kind("", "v1", "namespaces");
    match client.all(namespaces).put(name, "finalize", &finalized).await {
        Err(error) if error.is_not_found() => Ok(None),
        other => other.map(|_| None),
    }
}

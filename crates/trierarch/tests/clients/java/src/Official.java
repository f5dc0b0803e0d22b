package clients;

import static clients.Main.check;
import static clients.Main.same;
import static clients.Main.until;

import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import io.kubernetes.client.custom.Quantity;
import io.kubernetes.client.custom.V1Patch;
import io.kubernetes.client.extended.leaderelection.LeaderElectionConfig;
import io.kubernetes.client.extended.leaderelection.LeaderElector;
import io.kubernetes.client.extended.leaderelection.resourcelock.LeaseLock;
import io.kubernetes.client.informer.ResourceEventHandler;
import io.kubernetes.client.informer.SharedIndexInformer;
import io.kubernetes.client.informer.SharedInformerFactory;
import io.kubernetes.client.openapi.ApiClient;
import io.kubernetes.client.openapi.ApiException;
import io.kubernetes.client.openapi.apis.AppsV1Api;
import io.kubernetes.client.openapi.apis.CoreV1Api;
import io.kubernetes.client.openapi.apis.VersionApi;
import io.kubernetes.client.openapi.models.V1ConfigMap;
import io.kubernetes.client.openapi.models.V1ConfigMapList;
import io.kubernetes.client.openapi.models.V1Container;
import io.kubernetes.client.openapi.models.V1Deployment;
import io.kubernetes.client.openapi.models.V1DeploymentSpec;
import io.kubernetes.client.openapi.models.V1LabelSelector;
import io.kubernetes.client.openapi.models.V1Namespace;
import io.kubernetes.client.openapi.models.V1ObjectMeta;
import io.kubernetes.client.openapi.models.V1PodSpec;
import io.kubernetes.client.openapi.models.V1PodTemplateSpec;
import io.kubernetes.client.openapi.models.V1ResourceRequirements;
import io.kubernetes.client.util.CallGeneratorParams;
import io.kubernetes.client.util.Config;
import io.kubernetes.client.util.PatchUtils;
import io.kubernetes.client.util.Watch;
import io.kubernetes.client.util.generic.dynamic.DynamicKubernetesApi;
import io.kubernetes.client.util.generic.dynamic.DynamicKubernetesObject;
import java.time.Duration;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/** The Kubernetes project's own client. */
final class Official {
    private static final String NAMESPACE = "java-official";

    private final ApiClient client;
    private final CoreV1Api core;

    private Official(ApiClient client) {
        this.client = client;
        this.core = new CoreV1Api(client);
    }

    static void play(String kubeconfig) throws Exception {
        Official official = new Official(Config.fromConfig(kubeconfig));
        official.readsAndWrites();
        official.applies();
        official.rollsOut();
        official.watches();
        official.informs();
        official.goesWithoutTypes();
        official.leads();
        official.core.deleteNamespace(NAMESPACE).execute();
    }

    private static V1ObjectMeta named(String name) {
        return new V1ObjectMeta().name(name).namespace(NAMESPACE).labels(Map.of("app", name));
    }

    private static int code(ThrowingCall call) throws Exception {
        try {
            call.run();
            return 0;
        } catch (ApiException error) {
            return error.getCode();
        }
    }

    private interface ThrowingCall {
        void run() throws Exception;
    }

    private void readsAndWrites() throws Exception {
        same(new VersionApi(client).getCode().execute().getMinor(), "37", "the version");
        core.createNamespace(new V1Namespace().metadata(new V1ObjectMeta().name(NAMESPACE))).execute();
        V1ConfigMap map = new V1ConfigMap().metadata(named("a")).data(Map.of("k", "v")).binaryData(Map.of("b", new byte[] {0, -1}));
        V1ConfigMap made = core.createNamespacedConfigMap(NAMESPACE, map).execute();
        same(made.getBinaryData().get("b")[1], (byte) -1, "binary data");
        same(code(() -> core.createNamespacedConfigMap(NAMESPACE, map).execute()), 409, "a second one");
        made.putDataItem("k", "w");
        V1ConfigMap replaced = core.replaceNamespacedConfigMap("a", NAMESPACE, made).execute();
        same(replaced.getData().get("k"), "w", "what was replaced");
        same(code(() -> core.replaceNamespacedConfigMap("a", NAMESPACE, made).execute()), 409, "an old version");
        same(code(() -> core.readNamespacedConfigMap("none", NAMESPACE).execute()), 404, "one that is not there");
        for (int number = 0; number < 5; number++) {
            core.createNamespacedConfigMap(NAMESPACE, new V1ConfigMap().metadata(named("p" + number))).execute();
        }
        V1ConfigMapList page = core.listNamespacedConfigMap(NAMESPACE).limit(2).execute();
        int count = page.getItems().size();
        while (page.getMetadata().getContinue() != null && !page.getMetadata().getContinue().isEmpty()) {
            page = core.listNamespacedConfigMap(NAMESPACE).limit(2)._continue(page.getMetadata().getContinue()).execute();
            count += page.getItems().size();
        }
        // The cluster puts its authority beside them.
        until("the authority", () -> code(() -> core.readNamespacedConfigMap("kube-root-ca.crt", NAMESPACE).execute()) == 0);
        check(count == 6 || count == 7, count + " config maps in pages");
        same(core.listNamespacedConfigMap(NAMESPACE).labelSelector("app in (p1,p2)").execute().getItems().size(), 2, "selected");
        V1ConfigMap dry = core.createNamespacedConfigMap(NAMESPACE, new V1ConfigMap().metadata(named("dry"))).dryRun("All").execute();
        check(dry.getMetadata().getUid() != null, "a dry run has a UID");
        same(code(() -> core.readNamespacedConfigMap("dry", NAMESPACE).execute()), 404, "a dry run leaves nothing");
    }

    private void applies() throws Exception {
        String body = "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"s\"},\"data\":{\"k\":\"%s\"}}";
        same(apply(body.formatted("one"), "java", null).getData().get("k"), "one", "applied");
        same(code(() -> apply(body.formatted("two"), "other", null)), 409, "a conflict");
        same(apply(body.formatted("two"), "other", true).getData().get("k"), "two", "a forced apply");
        V1ConfigMap merged = PatchUtils.patch(V1ConfigMap.class,
            () -> core.patchNamespacedConfigMap("s", NAMESPACE, new V1Patch("{\"data\":{\"m\":\"1\",\"k\":null}}")).buildCall(null),
            V1Patch.PATCH_FORMAT_JSON_MERGE_PATCH, client);
        same(merged.getData(), Map.of("m", "1"), "merged");
    }

    private V1ConfigMap apply(String body, String manager, Boolean force) throws ApiException {
        return PatchUtils.patch(V1ConfigMap.class,
            () -> core.patchNamespacedConfigMap("s", NAMESPACE, new V1Patch(body)).fieldManager(manager).force(force).buildCall(null),
            V1Patch.PATCH_FORMAT_APPLY_YAML, client);
    }

    private void rollsOut() throws Exception {
        AppsV1Api apps = new AppsV1Api(client);
        V1Container container = new V1Container().name("c").image("trierarch.local/busybox:1")
            .resources(new V1ResourceRequirements().putRequestsItem("cpu", new Quantity("10m")));
        V1PodTemplateSpec template = new V1PodTemplateSpec().metadata(new V1ObjectMeta().labels(Map.of("app", "d")))
            .spec(new V1PodSpec().addContainersItem(container));
        V1Deployment deployment = new V1Deployment().metadata(named("d")).spec(new V1DeploymentSpec().replicas(2)
            .selector(new V1LabelSelector().matchLabels(Map.of("app", "d"))).template(template));
        apps.createNamespacedDeployment(NAMESPACE, deployment).execute();
        until("two replicas", () -> Integer.valueOf(2)
            .equals(apps.readNamespacedDeploymentStatus("d", NAMESPACE).execute().getStatus().getReadyReplicas()));
        var scale = apps.readNamespacedDeploymentScale("d", NAMESPACE).execute();
        scale.getSpec().setReplicas(1);
        apps.replaceNamespacedDeploymentScale("d", NAMESPACE, scale).execute();
        until("one pod", () -> core.listNamespacedPod(NAMESPACE).labelSelector("app=d").execute().getItems().size() == 1);
        var pod = core.listNamespacedPod(NAMESPACE).labelSelector("app=d").execute().getItems().get(0);
        same(pod.getSpec().getContainers().get(0).getResources().getRequests().get("cpu"), new Quantity("10m"), "a quantity");
        apps.deleteNamespacedDeployment("d", NAMESPACE).propagationPolicy("Foreground").execute();
        until("the end of the deployment", () -> code(() -> apps.readNamespacedDeployment("d", NAMESPACE).execute()) == 404);
    }

    private void watches() throws Exception {
        String version = core.listNamespacedConfigMap(NAMESPACE).execute().getMetadata().getResourceVersion();
        core.createNamespacedConfigMap(NAMESPACE, new V1ConfigMap().metadata(named("watched"))).execute();
        core.deleteNamespacedConfigMap("watched", NAMESPACE).execute();
        StringBuilder seen = new StringBuilder();
        var call = core.listNamespacedConfigMap(NAMESPACE).watch(true).resourceVersion(version)
            .fieldSelector("metadata.name=watched").timeoutSeconds(10).buildCall(null);
        try (Watch<V1ConfigMap> watch = Watch.createWatch(client, call, new com.google.gson.reflect.TypeToken<Watch.Response<V1ConfigMap>>() {}.getType())) {
            for (Watch.Response<V1ConfigMap> event : watch) {
                seen.append(event.type).append(' ');
                if (event.type.equals("DELETED")) {
                    break;
                }
            }
        }
        same(seen.toString(), "ADDED DELETED ", "what a watch saw");
    }

    private void informs() throws Exception {
        SharedInformerFactory factory = new SharedInformerFactory(client);
        SharedIndexInformer<V1ConfigMap> informer = factory.sharedIndexInformerFor(
            (CallGeneratorParams params) -> core.listNamespacedConfigMap(NAMESPACE).resourceVersion(params.resourceVersion)
                .timeoutSeconds(params.timeoutSeconds).watch(params.watch).buildCall(null),
            V1ConfigMap.class, V1ConfigMapList.class);
        Set<String> gone = ConcurrentHashMap.newKeySet();
        informer.addEventHandler(new ResourceEventHandler<>() {
            @Override
            public void onAdd(V1ConfigMap map) {}

            @Override
            public void onUpdate(V1ConfigMap old, V1ConfigMap map) {}

            @Override
            public void onDelete(V1ConfigMap map, boolean unknown) {
                gone.add(map.getMetadata().getName());
            }
        });
        factory.startAllRegisteredInformers();
        until("the informer is there", informer::hasSynced);
        check(informer.getIndexer().getByKey(NAMESPACE + "/p0") != null, "the informer knows what was there");
        core.createNamespacedConfigMap(NAMESPACE, new V1ConfigMap().metadata(named("later"))).execute();
        until("it sees what comes", () -> informer.getIndexer().getByKey(NAMESPACE + "/later") != null);
        core.deleteNamespacedConfigMap("later", NAMESPACE).execute();
        until("it sees what goes", () -> gone.contains("later"));
        factory.stopAllRegisteredInformers();
    }

    private void goesWithoutTypes() throws Exception {
        DynamicKubernetesApi roles = new DynamicKubernetesApi("rbac.authorization.k8s.io", "v1", "roles", client);
        JsonObject role = JsonParser.parseString("""
            {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r", "namespace": "%s"},
             "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}""".formatted(NAMESPACE)).getAsJsonObject();
        roles.create(new DynamicKubernetesObject(role)).throwsApiException();
        var found = roles.get(NAMESPACE, "r").throwsApiException().getObject();
        same(found.getRaw().getAsJsonArray("rules").size(), 1, "rules");
        check(roles.delete(NAMESPACE, "r").isSuccess(), "deleted");
    }

    private void leads() throws Exception {
        CountDownLatch led = new CountDownLatch(1);
        LeaseLock lock = new LeaseLock(NAMESPACE, "leader", "one", client);
        var config = new LeaderElectionConfig(lock, Duration.ofSeconds(10), Duration.ofSeconds(8), Duration.ofSeconds(1));
        try (LeaderElector elector = new LeaderElector(config)) {
            Thread thread = new Thread(() -> elector.run(led::countDown, () -> {}));
            thread.setDaemon(true);
            thread.start();
            check(led.await(30, TimeUnit.SECONDS), "it leads");
            same(lock.get().getHolderIdentity(), "one", "the holder");
        }
    }
}

package clients;

import static clients.Main.check;
import static clients.Main.same;
import static clients.Main.until;

import io.fabric8.kubernetes.api.model.ConfigMap;
import io.fabric8.kubernetes.api.model.ConfigMapBuilder;
import io.fabric8.kubernetes.api.model.GenericKubernetesResource;
import io.fabric8.kubernetes.api.model.NamespaceBuilder;
import io.fabric8.kubernetes.api.model.PodBuilder;
import io.fabric8.kubernetes.client.Config;
import io.fabric8.kubernetes.client.KubernetesClient;
import io.fabric8.kubernetes.client.KubernetesClientBuilder;
import io.fabric8.kubernetes.client.KubernetesClientException;
import io.fabric8.kubernetes.client.Watcher;
import io.fabric8.kubernetes.client.WatcherException;
import io.fabric8.kubernetes.client.dsl.base.PatchContext;
import io.fabric8.kubernetes.client.dsl.base.PatchType;
import io.fabric8.kubernetes.client.dsl.base.ResourceDefinitionContext;
import io.fabric8.kubernetes.client.informers.SharedIndexInformer;
import java.io.ByteArrayInputStream;
import java.io.File;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.TimeUnit;

/** The client that most operators in Java are written with; it watches by WebSocket. */
final class Fabric8 {
    private static final String NAMESPACE = "java-fabric8";
    private static final String DEFINITION = """
        apiVersion: apiextensions.k8s.io/v1
        kind: CustomResourceDefinition
        metadata: {name: crates.java.example.com}
        spec:
          group: java.example.com
          scope: Namespaced
          names: {plural: crates, singular: crate, kind: Crate}
          versions:
          - name: v1
            served: true
            storage: true
            subresources: {status: {}}
            schema:
              openAPIV3Schema:
                type: object
                properties:
                  spec:
                    type: object
                    required: [size]
                    properties: {size: {type: integer, minimum: 1}, color: {type: string, default: red}}
                  status: {type: object, properties: {full: {type: boolean}}}
        """;

    private final KubernetesClient client;

    private Fabric8(KubernetesClient client) {
        this.client = client;
    }

    static void play(String kubeconfig) throws Exception {
        Config config = Config.fromKubeconfig(new File(kubeconfig));
        try (KubernetesClient client = new KubernetesClientBuilder().withConfig(config).build()) {
            Fabric8 fabric8 = new Fabric8(client);
            client.namespaces().resource(new NamespaceBuilder().withNewMetadata().withName(NAMESPACE).endMetadata().build()).create();
            fabric8.editsAndApplies();
            fabric8.watches();
            fabric8.definesKinds();
            fabric8.waits();
            client.namespaces().withName(NAMESPACE).delete();
        }
    }

    private static ConfigMap map(String name, String value) {
        return new ConfigMapBuilder().withNewMetadata().withName(name).withNamespace(NAMESPACE).endMetadata().addToData("k", value).build();
    }

    private void editsAndApplies() {
        var maps = client.configMaps().inNamespace(NAMESPACE);
        maps.resource(map("a", "v")).create();
        ConfigMap edited = maps.withName("a").edit(found -> new ConfigMapBuilder(found).addToData("l", "w").build());
        same(edited.getData(), Map.of("k", "v", "l", "w"), "edited");
        ConfigMap merged = maps.withName("a").patch(PatchContext.of(PatchType.STRATEGIC_MERGE), "{\"data\":{\"l\":null}}");
        same(merged.getData(), Map.of("k", "v"), "merged");
        maps.resource(map("s", "one")).fieldManager("java").serverSideApply();
        try {
            maps.resource(map("s", "two")).fieldManager("other").serverSideApply();
            check(false, "a conflict");
        } catch (KubernetesClientException error) {
            same(error.getCode(), 409, "a conflict");
            same(error.getStatus().getDetails().getCauses().get(0).getField(), ".data.k", "where it is");
        }
        ConfigMap forced = maps.resource(map("s", "two")).fieldManager("other").forceConflicts().serverSideApply();
        same(forced.getData().get("k"), "two", "a forced apply");
        same(client.getKubernetesVersion().getMinor(), "37", "the version");
    }

    private void watches() throws Exception {
        List<String> seen = new CopyOnWriteArrayList<>();
        var maps = client.configMaps().inNamespace(NAMESPACE);
        try (var watch = maps.withName("w").watch(new Watcher<ConfigMap>() {
            @Override
            public void eventReceived(Action action, ConfigMap map) {
                seen.add(action.name());
            }

            @Override
            public void onClose(WatcherException cause) {}
        })) {
            maps.resource(map("w", "one")).create();
            maps.resource(map("w", "two")).update();
            maps.withName("w").delete();
            until("three events", () -> seen.size() >= 3);
            same(seen, List.of("ADDED", "MODIFIED", "DELETED"), "what a watch saw");
        }
        try (SharedIndexInformer<ConfigMap> informer = maps.inform()) {
            check(informer.hasSynced() && informer.getStore().getByKey(NAMESPACE + "/a") != null, "the informer is there");
            maps.resource(map("later", "v")).create();
            until("it sees what comes", () -> informer.getStore().getByKey(NAMESPACE + "/later") != null);
        }
    }

    private void definesKinds() throws Exception {
        client.load(new ByteArrayInputStream(DEFINITION.getBytes(StandardCharsets.UTF_8))).create();
        var definitions = client.apiextensions().v1().customResourceDefinitions();
        definitions.withName("crates.java.example.com").waitUntilCondition(
            found -> found != null && found.getStatus() != null && found.getStatus().getConditions().stream()
                .anyMatch(condition -> condition.getType().equals("Established") && condition.getStatus().equals("True")),
            30, TimeUnit.SECONDS);
        var context = new ResourceDefinitionContext.Builder().withGroup("java.example.com").withVersion("v1")
            .withKind("Crate").withPlural("crates").withNamespaced(true).build();
        var crates = client.genericKubernetesResources(context).inNamespace(NAMESPACE);
        String body = "{\"apiVersion\":\"java.example.com/v1\",\"kind\":\"Crate\",\"metadata\":{\"name\":\"c\"},\"spec\":{\"size\":%d}}";
        until("the kind is served", () -> client.getApiResources("java.example.com/v1") != null);
        GenericKubernetesResource made = crates.load(stream(body.formatted(3))).create();
        same(made.get("spec", "color"), "red", "a default");
        try {
            crates.load(stream(body.formatted(0).replace("\"c\"", "\"bad\""))).create();
            check(false, "what the schema forbids");
        } catch (KubernetesClientException error) {
            same(error.getCode(), 422, "what the schema forbids");
        }
        made.setAdditionalProperty("status", Map.of("full", true));
        same(crates.resource(made).updateStatus().get("status", "full"), true, "the status");
        definitions.withName("crates.java.example.com").delete();
        until("its objects go", () -> definitions.withName("crates.java.example.com").get() == null);
    }

    private static ByteArrayInputStream stream(String text) {
        return new ByteArrayInputStream(text.getBytes(StandardCharsets.UTF_8));
    }

    private void waits() {
        var pod = new PodBuilder().withNewMetadata().withName("p").withNamespace(NAMESPACE).endMetadata().withNewSpec()
            .addNewContainer().withName("c").withImage("trierarch.local/busybox:1").endContainer().endSpec().build();
        var there = client.pods().inNamespace(NAMESPACE).resource(pod);
        there.create();
        same(there.waitUntilReady(60, TimeUnit.SECONDS).getStatus().getPhase(), "Running", "a pod");
        there.withGracePeriod(0).delete();
        there.waitUntilCondition(java.util.Objects::isNull, 60, TimeUnit.SECONDS);
    }
}

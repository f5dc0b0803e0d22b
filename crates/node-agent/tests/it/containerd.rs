//! The life of real pods, with containerd in namespaces of its own. Needs root; `scripts/node-deps` says what else.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use env::Shutdown;
use node_agent::LogRotation;
use serde_json::{Value, json};

use crate::cluster::{Cluster, eventually, pod};

struct Node {
    dir: tempfile::TempDir,
    name: String,
}

impl Node {
    fn up(name: &str) -> Self {
        for tool in ["containerd", "runc", "ip", "nsenter", "busybox", "ctr"] {
            let found = Command::new("which").arg(tool).output().is_ok_and(|output| output.status.success());
            assert!(found, "{tool} is missing: run scripts/node-deps");
        }
        assert!(Path::new("/usr/lib/cni/bridge").exists(), "CNI plugins are missing: run scripts/node-deps");
        let dir = tempfile::Builder::new().prefix("ta-node-").tempdir().expect("folder");
        let node = Self { dir, name: format!("{name}-{}", std::process::id()) };
        node.script("up");
        node
    }

    fn script(&self, action: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/node.sh");
        let status = Command::new("sh").arg(script).arg(action).arg(self.dir.path()).arg(&self.name).status();
        assert!(status.is_ok_and(|status| status.success()), "node.sh {action} failed");
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("agent")
    }

    fn endpoint(&self) -> String {
        format!("unix://{}/containerd.sock", self.dir.path().display())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.script("down");
    }
}

fn container(command: &str) -> Value {
    json!({"name": "c", "image": "test.local/app:1", "command": ["/bin/sh", "-c", command]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd: make test-all"]
async fn containers_run_log_restart_and_outlive_agent_and_runtime() {
    let node = Node::up("tan");
    let cluster = Cluster::start().await;
    let (name, cgroup) = (node.name.clone(), format!("/{}", node.name));
    let first = Shutdown::new();
    cluster.agent_with(&name, &node.root(), &node.endpoint(), &cgroup, &first, |config| {
        config.eviction_hard = "memory.available<100%,nodefs.available<0%".parse().expect("thresholds");
        config.log_rotation =
            LogRotation { max_bytes: 20 << 10, max_files: 4, interval: Duration::from_secs(1) };
    });
    let object = cluster.node_ready(&name).await;
    assert_eq!(pressures(&object), ["True", "False", "False"], "short of memory by this measure");
    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c1"}, "data": {"k": "conf"}});
    cluster.api("configmaps").create(&map).await.expect("created");
    token(&cluster, &name).await;
    once(&cluster, &node, &name).await;
    failures(&cluster, &node, &name).await;
    hooks(&cluster, &node, &name).await;
    runtime_classes(&cluster, &name).await;
    ephemeral(&cluster, &name).await;
    resize(&cluster, &name).await;
    rotation(&cluster, &node, &name).await;
    let metrics = cluster.ask_node(&object, "/metrics").await;
    for part in [
        "kubelet_runtime_operations_total{operation_type=\"run_podsandbox\"}",
        "kubelet_running_pods ",
        "container_state=\"exited\"",
    ] {
        assert!(metrics.contains(part), "no {part} in {metrics}");
    }
    adoption(&cluster, &node, &name, &cgroup, &first).await;
}

/// The API's admission adds the volume with token, authority and namespace.
async fn token(cluster: &Cluster, node: &str) {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "root"}});
    cluster.api("configmaps").create(&map).await.expect("created");
    let shows = container("cd /var/run/secrets/kubernetes.io/serviceaccount; cat ca.crt namespace token");
    let spec = json!({"restartPolicy": "Never", "containers": [shows]});
    cluster.api("pods").create(&pod("token", node, spec)).await.expect("created");
    cluster.wait("token", "/status/phase", &json!("Succeeded")).await;
    let log = cluster.log("token", "").await;
    assert!(log.starts_with("roottestey"), "{log}");
}

async fn once(cluster: &Cluster, node: &Node, name: &str) {
    let mut main = container("echo hello $A $B $C; cat /v/k; echo bye > /dev/termination-log; exit 3");
    main["env"] = json!([
        {"name": "A", "value": "lit"},
        {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c1", "key": "k"}}},
        {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]);
    main["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    main["resources"] =
        json!({"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}});
    let mut init = container("test -e /var/run/secrets/kubernetes.io/serviceaccount/token || true");
    init["name"] = json!("i");
    let spec = json!({
        "restartPolicy": "Never", "automountServiceAccountToken": false,
        "initContainers": [init], "containers": [main],
        "volumes": [{"name": "v", "configMap": {"name": "c1"}}],
    });
    cluster.api("pods").create(&pod("once", name, spec)).await.expect("created");
    cluster.wait("once", "/status/phase", &json!("Failed")).await;
    let uid = cluster.field("pods", "once", "/metadata/uid").await.expect("a uid");
    let files = node.root().join("pods").join(uid.as_str().expect("text"));
    let gone = |path: PathBuf| async move { (!path.exists()).then_some(()) };
    eventually("the end of its volumes", || gone(files.join("volumes"))).await;
    // The status is made anew at every look.
    let left = std::fs::read_to_string(files.join("containers/c/0"));
    assert_eq!(left.expect("its last words"), "bye\n");
    let ended =
        cluster.field("pods", "once", "/status/containerStatuses/0/state/terminated").await.expect("ended");
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&json!(3), &json!("Error")), "{ended}");
    assert_eq!(ended["message"], "bye\n");
    assert!(cluster.log("once", "container=c").await.starts_with("hello lit conf once\nconf"));
    let only = cluster.log("once", "tailLines=1").await;
    assert_eq!(only.trim(), "conf", "the only main container needs no name, whatever stands before it");
}

async fn failures(cluster: &Cluster, machine: &Node, node: &str) {
    let alone = |container: Value| json!({"automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1, "containers": [container]});
    cluster.api("pods").create(&pod("loop", node, alone(container("exit 1")))).await.expect("created");
    let mut absent = container("true");
    absent["image"] = json!("registry.invalid/none:1");
    absent["imagePullPolicy"] = json!("Never");
    cluster.api("pods").create(&pod("noimage", node, alone(absent))).await.expect("created");
    let waiting = "/status/containerStatuses/0/state/waiting/reason";
    cluster.wait("noimage", waiting, &json!("ErrImageNeverPull")).await;
    cluster.wait("loop", waiting, &json!("CrashLoopBackOff")).await;
    cluster.wait("loop", "/status/containerStatuses/0/restartCount", &json!(1)).await;
    for name in ["loop", "noimage", "once"] {
        cluster.api("pods").delete(name, &Default::default()).await.expect("deleted");
    }
    let logs = machine.root().join("logs/pods");
    let left = |name: &str| {
        let all = std::fs::read_dir(&logs).expect("logs").flatten();
        all.filter(|one| one.file_name().to_string_lossy().starts_with(&format!("test_{name}_"))).count()
    };
    for name in ["loop", "noimage", "once"] {
        eventually(name, || async { cluster.api("pods").get(name).await.err() }).await;
        eventually("the end of its logs", || async { (left(name) == 0).then_some(()) }).await;
    }
}

/// Status of MemoryPressure, DiskPressure and PIDPressure.
fn pressures(node: &Value) -> [&str; 3] {
    let conditions = node["status"]["conditions"].as_array().expect("conditions");
    ["MemoryPressure", "DiskPressure", "PIDPressure"].map(|name| {
        let found = conditions.iter().find(|condition| condition["type"] == name);
        found.and_then(|condition| condition["status"].as_str()).expect("a status")
    })
}

/// `preStop` comes before SIGTERM and within the grace period; a failed `postStart` ends the container.
async fn hooks(cluster: &Cluster, node: &Node, name: &str) {
    let dir = node.dir.path().join("hooks");
    std::fs::create_dir(&dir).expect("a folder");
    let volume = json!([{"name": "h", "hostPath": {"path": dir}}]);
    let lives = |file: &str, lifecycle: Value| {
        let mut main =
            container(&format!("trap 'touch /h/{file}.term; exit 0' TERM; while :; do sleep 0.1; done"));
        main["volumeMounts"] = json!([{"name": "h", "mountPath": "/h"}]);
        main["lifecycle"] = lifecycle;
        json!({"automountServiceAccountToken": false, "terminationGracePeriodSeconds": 3, "containers": [main], "volumes": volume})
    };
    let exec = |command: &str| json!({"exec": {"command": ["/bin/sh", "-c", command]}});
    let order = json!({"postStart": exec("sleep 1; touch /h/order.post"), "preStop": exec("touch /h/order.pre; sleep 1")});
    let long = json!({"preStop": exec("sleep 100")});
    let pods = [
        ("order", lives("order", order)),
        ("long", lives("long", long)),
        ("broken", lives("broken", json!({"preStop": exec("exit 3")}))),
    ];
    for (pod_name, spec) in pods {
        cluster.api("pods").create(&pod(pod_name, name, spec)).await.expect("created");
        cluster.wait(pod_name, "/status/containerStatuses/0/started", &json!(true)).await;
        assert!(
            pod_name != "order" || dir.join("order.post").exists(),
            "started before its hook was through"
        );
        cluster.api("pods").delete(pod_name, &Default::default()).await.expect("deleted");
        eventually(pod_name, || async { cluster.api("pods").get(pod_name).await.err() }).await;
    }
    let time = |file: &str| {
        let metadata = std::fs::metadata(dir.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        metadata.modified().expect("a time")
    };
    let between = time("order.term").duration_since(time("order.pre")).expect("in order");
    assert!(between.as_secs_f64() >= 0.9, "SIGTERM came before the hook was through");
    time("long.term");
    cluster.event("broken", "FailedPreStopHook").await;
    let fails = lives("fails", json!({"postStart": exec("echo no; exit 7")}));
    cluster.api("pods").create(&pod("fails", name, fails)).await.expect("created");
    cluster.event("fails", "FailedPostStartHook").await;
    cluster
        .wait("fails", "/status/containerStatuses/0/state/waiting/reason", &json!("CrashLoopBackOff"))
        .await;
    let params = client::DeleteParams { grace_seconds: Some(0), ..Default::default() };
    cluster.api("pods").delete("fails", &params).await.expect("deleted");
}

/// The handler of a RuntimeClass reaches the runtime.
async fn runtime_classes(cluster: &Cluster, name: &str) {
    let classes =
        cluster.client.all(api_types::table::find("node.k8s.io", "v1", "runtimeclasses").expect("kind"));
    for handler in ["runc", "absent"] {
        let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": format!("with-{handler}")}, "handler": handler});
        classes.create(&class).await.expect("created");
    }
    let runs = |class: &str| json!({"runtimeClassName": class, "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0, "containers": [container("sleep 1000")]});
    for class in ["with-runc", "with-absent"] {
        cluster.api("pods").create(&pod(class, name, runs(class))).await.expect("created");
    }
    let refused = cluster.api("pods").create(&pod("none", name, runs("none"))).await;
    assert_eq!(refused.err().and_then(|error| error.code()), Some(403), "a class that is not there");
    cluster.wait("with-runc", "/status/phase", &json!("Running")).await;
    let event = cluster.event("with-absent", "FailedCreatePodSandBox").await;
    let (message, text) =
        (event["message"].as_str().unwrap_or_default(), "no runtime for \"absent\" is configured");
    assert!(message.starts_with("Failed to create pod sandbox: ") && message.contains(text), "{message}");
    for class in ["with-runc", "with-absent"] {
        cluster.api("pods").delete(class, &Default::default()).await.expect("deleted");
        eventually(class, || async { cluster.api("pods").get(class).await.err() }).await;
    }
}

/// A container that is added to a running pod sees its processes and is not started again.
async fn ephemeral(cluster: &Cluster, name: &str) {
    let spec = json!({"automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0, "containers": [container("sleep 4711")]});
    cluster.api("pods").create(&pod("looked-at", name, spec)).await.expect("created");
    cluster.wait("looked-at", "/status/phase", &json!("Running")).await;
    let mut debug = container("tr '\\0' ' ' </proc/1/cmdline; exit 5");
    debug["name"] = json!("debug");
    debug["targetContainerName"] = json!("c");
    let more = json!({"spec": {"ephemeralContainers": [debug]}});
    let patch = client::Patch::Strategic(more);
    cluster.api("pods").patch("looked-at", "ephemeralcontainers", &patch).await.expect("added");
    cluster
        .wait("looked-at", "/status/ephemeralContainerStatuses/0/state/terminated/exitCode", &json!(5))
        .await;
    let log = cluster.log("looked-at", "container=debug").await;
    assert!(log.contains("sleep 4711"), "{log}");
    let status = cluster.field("pods", "looked-at", "/status").await.expect("a status");
    assert_eq!(
        (&status["phase"], &status["ephemeralContainerStatuses"][0]["restartCount"]),
        (&json!("Running"), &json!(0))
    );
    cluster.api("pods").delete("looked-at", &Default::default()).await.expect("deleted");
    eventually("looked-at", || async { cluster.api("pods").get("looked-at").await.err() }).await;
}

/// A resize that is not carried out is said to be infeasible, until it is taken back.
async fn resize(cluster: &Cluster, name: &str) {
    let mut main = container("sleep 1000");
    main["resources"] = json!({"requests": {"cpu": "10m"}});
    let spec = json!({"automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0, "containers": [main]});
    cluster.api("pods").create(&pod("sized", name, spec)).await.expect("created");
    cluster.wait("sized", "/status/containerStatuses/0/resources/requests/cpu", &json!("10m")).await;
    for (cpu, wanted) in [("20m", Some(json!("Infeasible"))), ("10m", None)] {
        let patch = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
        let patch = client::Patch::Strategic(patch);
        cluster.api("pods").patch("sized", "resize", &patch).await.expect("resized");
        eventually("the condition", || async {
            let all = cluster.field("pods", "sized", "/status/conditions").await?;
            let found = all.as_array()?.iter().find(|condition| condition["type"] == "PodResizePending");
            (found.map(|condition| condition["reason"].clone()) == wanted).then_some(())
        })
        .await;
    }
    cluster.api("pods").delete("sized", &Default::default()).await.expect("deleted");
    eventually("sized", || async { cluster.api("pods").get("sized").await.err() }).await;
}

/// A log that is followed goes on across rotations without a gap, and its files stay few.
async fn rotation(cluster: &Cluster, node: &Node, name: &str) {
    let counts =
        container("i=0; while :; do i=$((i+1)); echo line $i; [ $((i % 20)) = 0 ] && sleep 0.01; done");
    let spec = json!({"automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0, "containers": [counts]});
    cluster.api("pods").create(&pod("counts", name, spec)).await.expect("created");
    cluster.wait("counts", "/status/phase", &json!("Running")).await;
    let uid = cluster.field("pods", "counts", "/metadata/uid").await.expect("a uid");
    let dir = node.root().join(format!("logs/pods/test_counts_{}/c", uid.as_str().expect("text")));
    let files = || -> Vec<String> {
        let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let mut body = cluster.ask_for_log("counts", "follow=true").await.into_body();
    let (mut text, mut most, mut next) = (Vec::new(), 0, 1);
    let end = tokio::time::Instant::now() + crate::cluster::DEADLINE;
    while files().iter().filter(|file| file.ends_with(".gz")).count() < 2 || most < 4 {
        assert!(tokio::time::Instant::now() < end, "{:?}", files());
        let frame = http_body_util::BodyExt::frame(&mut body).await.expect("more").expect("no error");
        text.extend_from_slice(&frame.into_data().unwrap_or_default());
        most = most.max(files().iter().filter(|file| !file.ends_with(".tmp")).count());
    }
    let whole = String::from_utf8(text).expect("text");
    for line in whole.lines().take(whole.lines().count() - 1) {
        assert_eq!(line, format!("line {next}"));
        next += 1;
    }
    assert!(next > 2000 && most <= 4, "{next} lines, {most} files: {:?}", files());
    drop(body);
    let tail = eventually("three lines", || async {
        let tail = cluster.log("counts", "tailLines=3").await;
        (tail.lines().count() == 3).then_some(tail)
    });
    assert!(tail.await.starts_with("line "));
    cluster.api("pods").delete("counts", &Default::default()).await.expect("deleted");
    eventually("counts", || async { cluster.api("pods").get("counts").await.err() }).await;
}

async fn adoption(cluster: &Cluster, node: &Node, name: &str, cgroup: &str, first: &Shutdown) {
    let mut stays = container("trap 'exit 0' TERM; while :; do sleep 0.1; done");
    stays["readinessProbe"] = json!({"exec": {"command": ["/bin/true"]}, "periodSeconds": 1});
    let spec = json!({"terminationGracePeriodSeconds": 5, "automountServiceAccountToken": false, "containers": [stays]});
    cluster.api("pods").create(&pod("stays", name, spec)).await.expect("created");
    cluster.wait("stays", "/status/containerStatuses/0/ready", &json!(true)).await;
    let id = |()| cluster.field("pods", "stays", "/status/containerStatuses/0/containerID");
    let before = id(()).await.expect("an id");
    let ip = cluster.field("pods", "stays", "/status/podIP").await.expect("an address");
    assert!(ip.as_str().is_some_and(|ip| ip.starts_with("10.77.0.")), "{ip}");
    first.trigger();
    node.script("crash");
    let second = Shutdown::new();
    cluster.agent(name, &node.root(), &node.endpoint(), cgroup, &second);
    node.script("start");
    let nodes = cluster.client.all(api_types::table::find("", "v1", "nodes").expect("kind"));
    eventually("the end of the pressure", || async {
        nodes.get(name).await.is_ok_and(|node| pressures(&node)[0] == "False").then_some(())
    })
    .await;
    let after = json!({"terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false, "containers": [container("sleep 1000")]});
    cluster.api("pods").create(&pod("after", name, after)).await.expect("created");
    cluster.wait("after", "/status/phase", &json!("Running")).await;
    assert_eq!(id(()).await.expect("an id"), before, "the container was adopted, not restarted");
    for pod in ["after", "stays"] {
        cluster.api("pods").delete(pod, &Default::default()).await.expect("deleted");
        eventually(pod, || async { cluster.api("pods").get(pod).await.err() }).await;
    }
    second.trigger();
}

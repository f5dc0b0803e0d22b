//! The life of simulated pods.

use env::Shutdown;
use serde_json::json;

use crate::cluster::{Cluster, eventually, pod};

/// A `postStart` that lasts, and one that cannot be run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_counts_as_started_when_its_hook_has_returned() {
    let cluster = Cluster::start().await;
    let (folder, stop) = (tempfile::tempdir().expect("folder"), Shutdown::new());
    cluster.agent("n1", &folder.path().join("agent"), "simulated", "/", &stop);
    cluster.node_ready("n1").await;
    let with =
        |handler| json!({"containers": [{"name": "c", "image": "i", "lifecycle": {"postStart": handler}}]});
    let slow = pod("slow", "n1", with(json!({"sleep": {"seconds": 4}})));
    cluster.api("pods").create(&slow).await.expect("created");
    cluster.event("slow", "Started").await;
    let status = cluster.field("pods", "slow", "/status").await.expect("a status");
    assert_ne!(status["phase"], "Running", "{status}");
    assert_ne!(status["containerStatuses"][0]["started"], true, "{status}");
    cluster.wait("slow", "/status/containerStatuses/0/ready", &json!(true)).await;
    let bad = pod("bad", "n1", with(json!({"tcpSocket": {"port": 80}})));
    cluster.api("pods").create(&bad).await.expect("created");
    assert_eq!(cluster.event("bad", "FailedPostStartHook").await["message"], "PostStartHook failed");
    assert_eq!(cluster.event("bad", "Killing").await["message"], "FailedPostStartHook");
    let waiting = "/status/containerStatuses/0/state/waiting/reason";
    cluster.wait("bad", waiting, &json!("CrashLoopBackOff")).await;
    stop.trigger();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_run_are_reported_and_deleted() {
    let cluster = Cluster::start().await;
    let (folder, stop) = (tempfile::tempdir().expect("folder"), Shutdown::new());
    cluster.agent("n1", &folder.path().join("agent"), "simulated", "/", &stop);
    let node = cluster.node_ready("n1").await;
    assert_eq!(node["status"]["images"][0]["names"][0], "test.local/app:1");
    let leases = cluster.client.namespaced(
        api_types::table::find("coordination.k8s.io", "v1", "leases").expect("kind"),
        "kube-node-lease",
    );
    eventually("the lease", || async { leases.get("n1").await.ok() }).await;
    let spec = json!({"containers": [{"name": "c", "image": "test.local/app:1"}]});
    for name in ["a", "b"] {
        cluster.api("pods").create(&pod(name, "n1", spec.clone())).await.expect("created");
        cluster.wait(name, "/status/phase", &json!("Running")).await;
        cluster.wait(name, "/status/containerStatuses/0/ready", &json!(true)).await;
    }
    assert_eq!(node["status"]["nodeInfo"]["kubeletVersion"], api_types::RELEASE);
    let metrics = cluster.ask_node(&node, "/metrics").await;
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {metrics}")).trim().parse().expect("a number")
    };
    for name in [
        "kubelet_node_name{node=\"n1\"}",
        "kubelet_pod_start_duration_seconds_count",
        "kubelet_started_pods_total",
        "kubelet_started_containers_total{container_type=\"container\"}",
        "kubelet_pleg_relist_duration_seconds_count",
    ] {
        assert!(value(name) >= 1.0, "{name}");
    }
    let ip = |name| cluster.field("pods", name, "/status/podIP");
    assert_ne!(ip("a").await.expect("an address"), ip("b").await.expect("an address"));
    let ended = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "test.local/app:1"}]});
    let mut once = pod("once", "n1", ended);
    once["metadata"]["annotations"] =
        json!({"trierarch.dev/simulated-run-seconds": "1", "trierarch.dev/simulated-exit-code": "3"});
    cluster.api("pods").create(&once).await.expect("created");
    cluster.wait("once", "/status/phase", &json!("Failed")).await;
    cluster.wait("once", "/status/containerStatuses/0/state/terminated/exitCode", &json!(3)).await;
    cluster.api("pods").delete("a", &Default::default()).await.expect("deleted");
    eventually("the end of a", || async { cluster.api("pods").get("a").await.err() }).await;
    let huge =
        json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "4000"}}}]});
    cluster.api("pods").create(&pod("huge", "n1", huge)).await.expect("created");
    cluster.wait("huge", "/status/reason", &json!("OutOfcpu")).await;
    stop.trigger();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_whose_time_is_over_fails() {
    let cluster = Cluster::start().await;
    let (folder, stop) = (tempfile::tempdir().expect("folder"), Shutdown::new());
    cluster.agent("n1", &folder.path().join("agent"), "simulated", "/", &stop);
    cluster.node_ready("n1").await;
    let spec = json!({"containers": [{"name": "c", "image": "i"}], "terminationGracePeriodSeconds": 1});
    cluster.api("pods").create(&pod("limited", "n1", spec)).await.expect("created");
    cluster.wait("limited", "/status/phase", &json!("Running")).await;
    let patch = client::Patch::Merge(json!({"spec": {"activeDeadlineSeconds": 1}}));
    cluster.api("pods").patch("limited", "", &patch).await.expect("patched");
    cluster.wait("limited", "/status/phase", &json!("Failed")).await;
    let status = cluster.field("pods", "limited", "/status").await.expect("a status");
    let text = "Pod was active on the node longer than the specified deadline";
    assert_eq!((&status["reason"], &status["message"]), (&json!("DeadlineExceeded"), &json!(text)));
    assert!(status["containerStatuses"][0]["state"]["terminated"].is_object(), "{status}");
    assert_eq!(cluster.event("limited", "DeadlineExceeded").await["message"], text);
    stop.trigger();
}

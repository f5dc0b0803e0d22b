//! A cluster without root: the simulated runtime.

use crate::cluster::{Cluster, IMAGE};

const READY: &str = "-n t get deployment web -o jsonpath={.status.readyReplicas}";

#[test]
fn a_deployment_outlives_every_master_in_turn() {
    let cluster = Cluster::up(&["--simulated"]);
    assert_eq!(cluster.kubectl("get nodes -o name"), "node/n1\nnode/n2\n");
    cluster.until("get apiservice v1.apps -o jsonpath={.status.conditions[0].reason}", "Local");
    cluster.kubectl("create namespace t");
    cluster.kubectl(&format!("-n t create deployment web --image={IMAGE} --replicas=3"));
    cluster.until(READY, "3");
    let (mut size, mut written) = (3, 0);
    for _ in 0..3 {
        let leader = cluster.leader();
        cluster.signal(&leader, "KILL");
        let other = if leader == "m1" { "m2" } else { "m1" };
        size += 1;
        cluster.kubectl(&format!("--context trierarch-{other} -n t scale deployment web --replicas={size}"));
        cluster.until(&format!("--context trierarch-{other} {READY}"), &size.to_string());
        cluster.kubectl(&format!("--context trierarch-{other} -n t create configmap c{written}"));
        written += 1;
        assert!(cluster.up_again().contains("one process was started"), "{leader} comes back");
    }
    assert!(cluster.up_again().contains("Everything runs already"));
    for master in ["m1", "m2", "m3"] {
        let maps = cluster.kubectl(&format!("--context trierarch-{master} -n t get configmaps -o name"));
        assert_eq!(maps.matches("configmap/c").count(), written, "{master}: {maps}");
    }
    assert!(
        cluster.etcdctl("get /registry/configmaps/t/c0 --keys-only").contains("/registry/configmaps/t/c0")
    );
    cluster.kubectl("delete namespace t");
    cluster.down();
    assert!(!cluster.file("cluster.json").exists());
}

#[test]
fn a_node_that_is_lost_loses_its_pods_to_another() {
    let cluster = Cluster::up(&[
        "--simulated",
        "--server-flag=--node-monitor-grace-period=4s",
        "--server-flag=--default-unreachable-toleration-seconds=1",
        "--agent-flag=--node-lease-duration-seconds=2",
    ]);
    cluster.kubectl("create namespace t");
    cluster.kubectl(&format!("-n t create deployment web --image={IMAGE} --replicas=4"));
    cluster.until(READY, "4");
    let (good, text) = cluster.try_kubectl("-n t exec deploy/web -- true");
    assert!(!good && text.contains("the container runtime does not implement exec"), "{text}");
    cluster.signal("agent-n1", "KILL");
    let ready = "get node n1 -o jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
    cluster.until(ready, "Unknown");
    let on_other = "-n t get pods --field-selector=spec.nodeName=n2,status.phase=Running -o name";
    crate::shared::eventually("all pods on the node that is left", || {
        (cluster.kubectl(on_other).lines().count() == 4).then_some(())
    });
    cluster.up_again();
    cluster.until(ready, "True");
    cluster.until("get node n1 -o jsonpath={.spec.taints}", "");
}

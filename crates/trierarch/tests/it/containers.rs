//! A cluster with real containers: two nodes in network namespaces, each with its own containerd.

use std::time::Duration;

use crate::cluster::{Cluster, IMAGE};
use crate::shared::eventually;

const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo, namespace: t}
spec:
  replicas: 3
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: IMAGE
        command: ["/bin/sh", "-c", "mkdir -p /w && hostname > /w/index.html && exec httpd -f -p 8080 -h /w"]
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: t}
spec: {selector: {app: echo}, clusterIP: 10.96.77.7, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: asker, namespace: t}
spec:
  replicas: 2
  selector: {matchLabels: {app: asker}}
  template:
    metadata: {labels: {app: asker}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: IMAGE
        command: ["/bin/sh", "-c", "while :; do timeout 2 wget -q -O - http://10.96.77.7/ || echo none; sleep 0.1; done"]
"#;

/// An agent that is asked to stop has stopped after this.
const SOON: Duration = Duration::from_secs(1);

/// Which of the endpoints the askers reached last.
fn answers(cluster: &Cluster, lines: u32) -> Vec<String> {
    let text = cluster.kubectl(&format!("-n t logs -l app=asker --tail={lines}"));
    let mut found: Vec<String> = text.lines().map(str::to_owned).collect();
    found.sort();
    found.dedup();
    found
}

fn containers(cluster: &Cluster) -> String {
    let ids = "-n t get pods --sort-by=.metadata.name -o jsonpath={.items[*].status.containerStatuses[0].containerID}";
    cluster.kubectl(ids)
}

#[test]
#[ignore = "needs root, containerd and nftables: make test-all"]
fn services_answer_and_containers_outlive_whatever_controls_them() {
    let cluster = Cluster::up(&["--fabric=10.91.7"]);
    cluster.kubectl("create namespace t");
    cluster.apply(&MANIFEST.replace("IMAGE", IMAGE));
    for name in ["echo", "asker"] {
        cluster.kubectl(&format!("-n t rollout status deployment/{name} --timeout=60s"));
    }
    eventually("an answer of every endpoint, on each node", || {
        let found = answers(&cluster, 30);
        (found.len() == 3 && found.iter().all(|name| name.starts_with("echo-"))).then_some(())
    });
    let before = containers(&cluster);
    let took = cluster.end("agent-n1", "TERM");
    assert!(took < SOON, "a clean stop took {took:?}");
    assert!(cluster.up_again().contains("one process was started"));
    assert_eq!(containers(&cluster), before, "the next agent takes over what runs");
    let others = ["m1", "m2", "m3", "agent-n1", "containerd-n2"];
    others.iter().for_each(|name| cluster.signal(name, "STOP"));
    // By now it waits for answers that do not come.
    std::thread::sleep(SOON);
    let took = cluster.end("agent-n2", "TERM");
    assert!(took < SOON, "a clean stop beside masters and a runtime that hang took {took:?}");
    for name in others {
        cluster.end(name, "KILL");
    }
    assert!(cluster.up_again().contains("6 processes were started"));
    cluster.until("get nodes -o jsonpath={.items[*].spec.taints}", "");
    assert_eq!(containers(&cluster), before, "no container was touched");
    cluster.kubectl("-n t scale deployment echo --replicas=1");
    eventually("only the endpoint that is left answers", || {
        let found = answers(&cluster, 10);
        (found.len() == 1 && found[0].starts_with("echo-")).then_some(())
    });
    cluster.down();
    let (_, namespaces) = crate::cluster::outcome(std::process::Command::new("ip").args(["netns", "list"]));
    assert!(!namespaces.contains("10.91.7"), "{namespaces}");
}

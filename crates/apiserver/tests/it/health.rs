//! Whether a server is alive and ready, by upstream's names of checks.

use crate::cluster::{Cluster, Running, ask, eventually};

async fn code(cluster: &Running, path: &str) -> u16 {
    cluster.root(ask("GET", path)).await.code
}

#[tokio::test]
async fn checks_have_upstreams_names() {
    let cluster = Cluster::start().await;
    let all = cluster.root(ask("GET", "/readyz?verbose")).await.text();
    for name in [
        "ping",
        "etcd",
        "etcd-readiness",
        "informer-sync",
        "poststarthook/start-system-namespaces-controller",
        "poststarthook/rbac/bootstrap-roles",
        "poststarthook/scheduling/bootstrap-system-priority-classes",
        "poststarthook/start-kubernetes-service-cidr-controller",
        "poststarthook/bootstrap-controller",
        "poststarthook/start-cluster-authentication-info-controller",
        "poststarthook/kube-apiserver-autoregistration",
        "autoregister-completion",
        "shutdown",
    ] {
        assert!(all.contains(&format!("[+]{name} ok\n")), "{all}");
        assert_eq!(code(&cluster, &format!("/readyz/{name}")).await, 200, "{name}");
    }
    for path in ["/livez/poststarthook/rbac/bootstrap-roles", "/healthz/autoregister-completion"] {
        assert_eq!(code(&cluster, path).await, 200, "{path}");
    }
    // What is asked of readiness only, and what stands for nothing here.
    for path in ["/livez/informer-sync", "/healthz/etcd-readiness", "/livez/shutdown", "/readyz/log"] {
        assert_eq!(code(&cluster, path).await, 404, "{path}");
    }
}

#[tokio::test]
async fn without_a_quorum_a_server_is_alive_and_not_ready() {
    let members = Cluster::start_many(3).await;
    members[1..].iter().for_each(Running::stop);
    eventually("a check that fails", || async {
        (code(&members[0], "/readyz/etcd-readiness").await == 500).then_some(())
    })
    .await;
    for name in ["etcd", "informer-sync"] {
        assert_eq!(code(&members[0], &format!("/readyz/{name}")).await, 500, "{name}");
    }
    assert_eq!(code(&members[0], "/livez").await, 200);
}

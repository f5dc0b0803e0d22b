//! A leader's component writes only while it holds its lease.

use serde_json::json;

use crate::cluster::{CONFIG_MAPS, Cluster, ask, config_map};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";

#[tokio::test]
async fn a_deposed_leader_cannot_write() {
    let cluster = Cluster::start().await;
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "one", "leaseTransitions": 1,
        "leaseDurationSeconds": 15}});
    let held = cluster.create(LEASES, &lease).await;
    let write = |name: &str, token: &str| {
        let fence = format!("kube-system/l; {token}");
        cluster.root(ask("POST", CONFIG_MAPS).json(&config_map(name)).header("trierarch-fence", &fence))
    };
    write("a", "one/1").await.expect(201);
    let mut taken = held;
    taken["spec"]["holderIdentity"] = json!("two");
    taken["spec"]["leaseTransitions"] = json!(2);
    cluster.root(ask("PUT", &format!("{LEASES}/l")).json(&taken)).await.expect(200);
    let refused = write("b", "one/1").await.expect(409);
    assert_eq!(refused["message"], "the lease kube-system/l is no longer held by one");
    write("c", "two/2").await.expect(201);
    cluster.root(ask("GET", &format!("{CONFIG_MAPS}/b"))).await.expect(404);
    let path = format!("{CONFIG_MAPS}/a");
    let delete = ask("DELETE", &path).header("trierarch-fence", "kube-system/l; one/1");
    cluster.root(delete).await.expect(409);
    cluster.root(ask("DELETE", &format!("{LEASES}/l"))).await.expect(200);
    write("d", "two/2").await.expect(409);
}

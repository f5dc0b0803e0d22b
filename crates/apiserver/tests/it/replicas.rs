//! Several replicas are one API.

use serde_json::{Value, json};

use crate::cluster::{CONFIG_MAPS, Cluster, ask, config_map, eventually};

#[tokio::test]
async fn every_replica_shows_what_any_acknowledged() {
    let replicas = Cluster::start_many(3).await;
    for (index, replica) in replicas.iter().enumerate() {
        let name = format!("m{index}");
        let made = replica.create(CONFIG_MAPS, &config_map(&name)).await;
        for other in &replicas {
            let got = other.root(ask("GET", &format!("{CONFIG_MAPS}/{name}"))).await.expect(200);
            assert_eq!(got["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
        }
    }
    let update = |index: usize, current: &Value| {
        let mut object = current.clone();
        object["data"]["k"] = json!(format!("v{index}"));
        ask("PUT", &format!("{CONFIG_MAPS}/m0")).json(&object)
    };
    let mut current = replicas[0].root(ask("GET", &format!("{CONFIG_MAPS}/m0"))).await.expect(200);
    for index in 0..12 {
        // A replica that is behind the answer another one gave must not call it stale.
        current = replicas[index % 3].root(update(index, &current)).await.expect(200);
    }
}

#[tokio::test]
async fn writers_on_all_replicas_lose_nothing() {
    let replicas = Cluster::start_many(3).await;
    replicas[0].create(CONFIG_MAPS, &config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let writes = (0..30).map(|index| {
        let text = json!({"data": {format!("k{index}"): "v"}}).to_string();
        replicas[index % 3].root(ask("PATCH", &path).body("application/merge-patch+json", text))
    });
    for answer in futures::future::join_all(writes).await {
        answer.expect(200);
    }
    let object = replicas[1].root(ask("GET", &path)).await.expect(200);
    assert_eq!(object["data"].as_object().map(serde_json::Map::len), Some(31));
}

#[tokio::test]
async fn the_api_goes_on_without_its_leader() {
    let mut replicas = Cluster::start_many(3).await;
    let leader = eventually("a leader", || async {
        replicas.iter().position(|replica| replica.store.leadership().borrow().is_leader)
    })
    .await;
    let gone = replicas.remove(leader);
    gone.stop();
    for index in 0..10 {
        let name = format!("m{index}");
        replicas[index % 2].create(CONFIG_MAPS, &config_map(&name)).await;
    }
    let list = replicas[1].root(ask("GET", CONFIG_MAPS)).await.expect(200);
    let names = list["items"].as_array().expect("items").iter();
    assert_eq!(
        names
            .filter(|item| item["metadata"]["name"].as_str().is_some_and(|name| name.starts_with('m')))
            .count(),
        10
    );
}

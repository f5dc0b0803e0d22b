//! Discovery, dynamic objects, pages, reviews, tokens.

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::api::{Api, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams};
use kube::core::discovery::Scope;
use kube::discovery::{self, Discovery, verbs};
use kube::{Client, ResourceExt as _};
use serde_json::json;

use super::{config_map, eventually, from, namespace, refused};

const NAMESPACE: &str = "rs-asking";

pub async fn play(client: Client) {
    namespace(&client, NAMESPACE).await;
    let version = client.apiserver_version().await.expect("a version");
    assert_eq!((version.major.as_str(), version.minor.as_str()), ("1", "37"));
    everything_is_listed(&client).await;
    an_object_is_dynamic(&client).await;
    a_list_has_pages(&client).await;
    reviews(&client).await;
}

/// Both ways of discovery tell the same, and every kind that they tell can be listed.
async fn everything_is_listed(client: &Client) {
    let ask = || Discovery::new(client.clone()).exclude(&["rs.example.com"]);
    let plain = ask().run().await.expect("discovery");
    let whole = ask().run_aggregated().await.expect("aggregated discovery");
    let kinds = |found: &Discovery| {
        let groups = found.groups_alphabetical().into_iter();
        let mut kinds: Vec<_> = groups.flat_map(|group| group.recommended_resources()).collect();
        kinds.sort_by_key(|(kind, _)| (kind.api_version.clone(), kind.plural.clone()));
        kinds
    };
    let (plain, whole) = (kinds(&plain), kinds(&whole));
    let names = |kinds: &[(kube::api::ApiResource, discovery::ApiCapabilities)]| {
        let name = |(kind, can): &(kube::api::ApiResource, discovery::ApiCapabilities)| {
            let mut operations = can.operations.clone();
            operations.sort();
            format!("{}/{} {:?} {:?}", kind.api_version, kind.plural, can.scope, operations)
        };
        kinds.iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(names(&plain), names(&whole));
    assert!(plain.len() > 60, "{:?}", names(&plain));
    for (kind, can) in plain.iter().filter(|(_, can)| can.supports_operation(verbs::LIST)) {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), kind);
        let list = api.list(&ListParams::default().limit(5)).await;
        let list = list.unwrap_or_else(|error| panic!("{}: {error}", kind.plural));
        // They are nowhere stored.
        let stored = kind.plural != "componentstatuses";
        assert_eq!(list.metadata.resource_version.is_some(), stored, "{}", kind.plural);
        assert!(matches!(can.scope, Scope::Cluster | Scope::Namespaced));
    }
}

async fn an_object_is_dynamic(client: &Client) {
    let kind = GroupVersionKind::gvk("apps", "v1", "Deployment");
    let (resource, can) = discovery::pinned_kind(client, &kind).await.expect("a kind");
    assert!(can.supports_operation(verbs::PATCH) && can.scope == Scope::Namespaced);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &resource);
    let container = json!({"name": "c", "image": "i"});
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}});
    // Paused, so that its controller annotates nothing: annotations count as a generation too.
    let selector = json!({"matchLabels": {"a": "b"}});
    let spec = json!({"replicas": 0, "paused": true, "selector": selector, "template": template});
    let object = DynamicObject::new("d", &resource).data(json!({"spec": spec}));
    let made = api.create(&PostParams::default(), &object).await.expect("a deployment");
    assert_eq!(made.data["spec"]["strategy"]["type"], "RollingUpdate");
    let kept = Patch::Merge(json!({"spec": {"revisionHistoryLimit": 3}}));
    let patched = api.patch("d", &PatchParams::default(), &kept).await.expect("patched");
    assert_eq!(
        (patched.data["spec"]["revisionHistoryLimit"].as_i64(), patched.metadata.generation),
        (Some(3), Some(2))
    );
    assert!(refused(api.create(&PostParams::default(), &object).await).is_already_exists());
    assert!(api.get_opt("none").await.expect("an answer").is_none());
    let meta = api.get_metadata("d").await.expect("metadata");
    assert_eq!(meta.metadata.uid, made.metadata.uid);
    api.delete("d", &Default::default()).await.expect("deleted");
    eventually(|| async { api.get_opt("d").await.expect("an answer").is_none().then_some(()) }).await;
}

async fn a_list_has_pages(client: &Client) {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    for number in 0..7 {
        let object = config_map(&format!("page-{number}"), "page", "v");
        api.create(&PostParams::default(), &object).await.expect("a config map");
    }
    let (mut names, mut params) = (Vec::new(), ListParams::default().labels("l=page").limit(3));
    loop {
        let page = api.list(&params).await.expect("a page");
        names.extend(page.items.iter().map(|map| map.name_any()));
        // What is made meanwhile is not part of the list.
        let late = config_map(&format!("page-late-{}", names.len()), "page", "v");
        api.create(&PostParams::default(), &late).await.expect("a config map");
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    assert_eq!(names, (0..7).map(|number| format!("page-{number}")).collect::<Vec<_>>());
    let forged = api.list(&ListParams::default().limit(1).continue_token("Zm9v")).await;
    assert_eq!(refused(forged).code, 400);
    let all = api.list_metadata(&ListParams::default().labels("l=page").match_any()).await.expect("metadata");
    assert_eq!(all.items.len(), 10);
    let deleted = api.delete_collection(&Default::default(), &ListParams::default().labels("l=page")).await;
    assert!(deleted.is_ok(), "{deleted:?}");
    eventually(|| async {
        let left = api.list(&ListParams::default().labels("l=page")).await.expect("a list");
        left.items.is_empty().then_some(())
    })
    .await;
}

async fn reviews(client: &Client) {
    let attributes = json!({"verb": "create", "resource": "pods", "namespace": NAMESPACE});
    let review = from(json!({"metadata": {}, "spec": {"resourceAttributes": attributes}}));
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let review = reviews.create(&PostParams::default(), &review).await.expect("a review");
    assert!(review.status.is_some_and(|status| status.allowed));
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    let request: TokenRequest =
        from(json!({"metadata": {}, "spec": {"audiences": ["rs"], "expirationSeconds": 600}}));
    let answer: TokenRequest = eventually(|| async {
        // The account is made by a controller.
        accounts.create_token_request("default", &PostParams::default(), &request).await.ok()
    })
    .await;
    let token = answer.status.expect("a status").token.expect("a token");
    assert_eq!(token.split('.').count(), 3, "{token}");
}

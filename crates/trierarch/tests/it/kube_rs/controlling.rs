//! A controller over a custom kind, with finalizer, status, owned objects and events.

use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::events::v1::Event as EventObject;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    Api, ApiResource, DeleteParams, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use kube::core::Object;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::finalizer::{self, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{Controller, watcher};
use kube::{Client, Resource as _, ResourceExt as _};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{apply, beside, eventually, from, namespace, refused};

const NAMESPACE: &str = "rs-controlling";
const FINALIZER: &str = "rs.example.com/cleaned";

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Spec {
    size: i64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    observed_generation: i64,
    size: i64,
}

type Gadget = Object<Spec, State>;

struct Context {
    client: Client,
    kind: ApiResource,
    recorder: Recorder,
}

impl Context {
    fn gadgets(&self) -> Api<Gadget> {
        Api::namespaced_with(self.client.clone(), NAMESPACE, &self.kind)
    }

    fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }
}

fn definition() -> CustomResourceDefinition {
    let spec = json!({"type": "object", "required": ["size"], "properties": {"size": {"type": "integer", "minimum": 1}}});
    let status = json!({"type": "object", "properties": {
        "observedGeneration": {"type": "integer"}, "size": {"type": "integer"}}});
    let schema = json!({"type": "object", "properties": {"spec": spec, "status": status}});
    from(json!({
        "metadata": {"name": "gadgets.rs.example.com"},
        "spec": {
            "group": "rs.example.com", "scope": "Namespaced",
            "names": {"plural": "gadgets", "singular": "gadget", "kind": "Gadget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": schema}}],
        },
    }))
}

pub async fn play(client: Client) {
    namespace(&client, NAMESPACE).await;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions.create(&PostParams::default(), &definition()).await.expect("a definition");
    let name = "gadgets.rs.example.com";
    let condition = conditions::is_crd_established();
    await_condition(definitions.clone(), name, condition).await.expect("established");
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("rs.example.com", "v1", "Gadget"));
    let recorder = Recorder::new(client.clone(), "gadget-controller".into());
    let context = Arc::new(Context { client: client.clone(), kind: kind.clone(), recorder });
    let controller = Controller::new_with(context.gadgets(), watcher::Config::default(), kind)
        .owns(context.maps(), watcher::Config::default().streaming_lists())
        .run(reconcile, |_, error, _| panic!("{error}"), context.clone());
    beside(controller.for_each(|_| async {}), tell(&context)).await;
    definitions.delete(name, &DeleteParams::default()).await.expect("deleted");
    await_condition(definitions.clone(), name, |found: Option<&CustomResourceDefinition>| found.is_none())
        .await
        .expect("gone");
    assert_eq!(refused(context.gadgets().list(&ListParams::default()).await).code, 404);
}

/// Whatever may pass when somebody else was quicker: the next turn comes by itself.
type Failure = finalizer::Error<kube::Error>;

async fn reconcile(gadget: Arc<Gadget>, context: Arc<Context>) -> Result<Action, Failure> {
    let api = context.gadgets();
    let result = finalizer(&api, FINALIZER, gadget, |event| async {
        match event {
            finalizer::Event::Apply(gadget) => bring_about(&gadget, &context).await,
            finalizer::Event::Cleanup(gadget) => clean(&gadget, &context).await,
        }
    })
    .await;
    match result {
        Err(finalizer::Error::AddFinalizer(error) | finalizer::Error::RemoveFinalizer(error)) => {
            // An old look at the object: a patch that tests what it saw is refused.
            let status = refused::<()>(Err(error));
            assert!([404, 409, 422].contains(&status.code), "{status:?}");
            Ok(Action::await_change())
        }
        other => other,
    }
}

async fn bring_about(gadget: &Gadget, context: &Context) -> Result<Action, kube::Error> {
    let name = gadget.name_any();
    let child = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "ownerReferences": [gadget.controller_owner_ref(&context.kind)]},
        "data": {"size": gadget.spec.size.to_string()}});
    context.maps().patch(&name, &PatchParams::apply("gadgets").force(), &Patch::Apply(child)).await?;
    let status = json!({"apiVersion": "rs.example.com/v1", "kind": "Gadget", "status": {
        "observedGeneration": gadget.metadata.generation, "size": gadget.spec.size}});
    context.gadgets().patch_status(&name, &PatchParams::apply("gadgets"), &Patch::Apply(status)).await?;
    let event = Event {
        type_: EventType::Normal,
        reason: "Made".into(),
        note: Some(format!("size {}", gadget.spec.size)),
        action: "Reconcile".into(),
        secondary: None,
    };
    context.recorder.publish(&event, &gadget.object_ref(&context.kind)).await?;
    Ok(Action::await_change())
}

async fn clean(gadget: &Gadget, context: &Context) -> Result<Action, kube::Error> {
    let name = format!("{}-was-cleaned", gadget.name_any());
    apply(&context.maps(), "gadgets", &name, json!({})).await?;
    Ok(Action::await_change())
}

/// What the controller's user does and sees.
async fn tell(context: &Context) {
    let (gadgets, maps) = (context.gadgets(), context.maps());
    let (params, gadget) = (PostParams::default(), |size| Gadget::new("g", &context.kind, Spec { size }));
    assert!(refused(gadgets.create(&params, &gadget(0)).await).is_invalid());
    gadgets.create(&params, &gadget(1)).await.expect("a gadget");
    let size = |wanted: i64| {
        let gadgets = gadgets.clone();
        eventually(move || {
            let gadgets = gadgets.clone();
            async move { gadgets.get("g").await.ok()?.status.filter(|status| status.size == wanted) }
        })
    };
    assert_eq!(size(1).await.observed_generation, 1);
    let first = maps.get("g").await.expect("a child");
    maps.delete("g", &DeleteParams::default()).await.expect("deleted");
    let second = eventually(|| async { maps.get_opt("g").await.expect("an answer") }).await;
    assert_ne!(first.uid(), second.uid(), "it was made again");
    let bigger = Patch::Merge(json!({"spec": {"size": 7}}));
    gadgets.patch("g", &PatchParams::default(), &bigger).await.expect("patched");
    assert_eq!(size(7).await.observed_generation, 2);
    let data = maps.get("g").await.expect("a child").data.expect("data");
    assert_eq!(data["size"], "7");
    events(context).await;
    gadgets.delete("g", &DeleteParams::background()).await.expect("deleted");
    eventually(|| async { maps.get_opt("g-was-cleaned").await.expect("an answer") }).await;
    eventually(|| async { gadgets.get_opt("g").await.expect("an answer").is_none().then_some(()) }).await;
    // The garbage collector takes the child.
    eventually(|| async { maps.get_opt("g").await.expect("an answer").is_none().then_some(()) }).await;
}

async fn events(context: &Context) {
    let events: Api<EventObject> = Api::namespaced(context.client.clone(), NAMESPACE);
    let found = eventually(|| async {
        let list = events.list(&ListParams::default().fields("regarding.kind=Gadget")).await.expect("events");
        // What is told again becomes a series, with the first note.
        list.items.into_iter().find(|event| event.series.is_some())
    })
    .await;
    assert_eq!((found.reason.as_deref(), found.note.as_deref()), (Some("Made"), Some("size 1")));
    assert_eq!(found.reporting_controller.as_deref(), Some("gadget-controller"));
}

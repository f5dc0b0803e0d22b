//! Paths and operations of resources: which verb is which method on which path, with which parameters and bodies.

use super::definitions::{PATCH, reference};
use crate::schema::by_name;
use crate::table::{Resource, Subresource};
use serde_json::{Map, Value, json};

const JSON: &str = "application/json";
/// What every response can be written as.
const PRODUCED: [&str; 3] = [JSON, "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAMED: [&str; 2] =
    ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

const WRITE: [&str; 3] = ["dryRun", "fieldManager", "fieldValidation"];
const LIST: [&str; 10] = [
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
const DELETE: [&str; 5] = [
    "dryRun",
    "gracePeriodSeconds",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "orphanDependents",
    "propagationPolicy",
];
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const RESOURCE_LIST: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList";

/// The kind that an operation is about.
#[derive(Clone, Copy)]
struct Kind<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    /// Definition name.
    schema: &'a str,
    /// Tag of the operations: that of the resource, also for kinds of other groups.
    tag: &'a str,
}

/// One operation before it is written out.
struct Operation<'a> {
    id: String,
    action: &'a str,
    kind: &'a Kind<'a>,
    query: Vec<&'a str>,
    body: Option<Value>,
    /// Status codes with the schema of the body.
    answers: Vec<(&'a str, Value)>,
    streams: bool,
}

/// `getAppsV1APIResources` on the path of the version itself.
pub(super) fn discovery(group: &str, version: &str) -> Value {
    json!({"get": {
        "tags": [tag(group, version)],
        "operationId": format!("get{}APIResources", prefix(group, version)),
        "responses": responses(&[("200", reference(RESOURCE_LIST))], false),
    }})
}

/// Adds all paths of a resource.
pub(super) fn add(resource: &Resource, paths: &mut Map<String, Value>) {
    let base = format!("/{}", super::path_of(&resource.group, &resource.version));
    let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{base}{scope}/{}", resource.resource);
    let item = format!("{collection}/{{name}}");
    let schema = super::schema_name(resource);
    let kind = Kind {
        group: &resource.group,
        version: &resource.version,
        kind: &resource.kind,
        schema: &schema,
        tag: &tag(&resource.group, &resource.version),
    };
    let name = operation_name(resource, resource.namespaced, "");
    insert(
        paths,
        &collection,
        collection_operations(resource, &kind, &name),
        path_parameters(resource, false),
    );
    insert(
        paths,
        &item,
        item_operations(resource.verbs, &kind, &name, false),
        path_parameters(resource, true),
    );
    if resource.namespaced && resource.has_verb("list") {
        let name = format!("{}ForAllNamespaces", operation_name(resource, false, ""));
        let list = list_operation(&kind, &name);
        insert(paths, &format!("{base}/{}", resource.resource), vec![("get", list)], vec![]);
    }
    for sub in resource.subresources.iter().filter(|s| s.served_by_default || !resource.served_by_default) {
        add_subresource(resource, sub, &item, paths);
    }
}

fn add_subresource(resource: &Resource, sub: &Subresource, item: &str, paths: &mut Map<String, Value>) {
    let tag = &tag(&resource.group, &resource.version);
    let schema = match sub.message {
        Some(message) => message.name.to_owned(),
        None => super::schema_name(resource),
    };
    let kind = Kind { group: &sub.group, version: &sub.version, kind: &sub.kind, schema: &schema, tag };
    let connects = ["attach", "exec", "portforward", "proxy"].contains(&sub.name);
    let name = operation_name(resource, resource.namespaced, &capitalized(sub.name));
    let operations = if connects {
        connect_operations(resource, sub, &kind)
    } else if sub.name == "log" {
        vec![("get", log_operation(&kind, &name))]
    } else {
        item_operations(sub.verbs, &kind, &name, true)
    };
    insert(paths, &format!("{item}/{}", sub.name), operations, path_parameters(resource, true));
}

/// The fields of an options kind as query parameters.
fn options(kind: &Kind<'_>) -> Vec<Value> {
    let fields = by_name(kind.schema).map(|m| m.json_fields()).unwrap_or_default();
    fields.iter().filter(|f| f.message().is_none()).map(|f| query(f.name)).collect()
}

fn text_response(media_type: &str) -> Value {
    let mut answer = content(&[media_type], json!({"type": "string"}));
    answer["description"] = "OK".into();
    json!({"200": answer, "401": {"description": "Unauthorized"}})
}

/// Logs are text, whatever the kind says.
fn log_operation(kind: &Kind<'_>, name: &str) -> Value {
    let options_kind = Kind { schema: "io.k8s.api.core.v1.PodLogOptions", ..*kind };
    json!({
        "tags": [kind.tag],
        "operationId": format!("read{name}"),
        "x-kubernetes-action": "get",
        "x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "parameters": options(&options_kind),
        "responses": text_response("text/plain"),
    })
}

fn connect_operations(resource: &Resource, sub: &Subresource, kind: &Kind<'_>) -> Vec<(&'static str, Value)> {
    let methods =
        [("get", "get"), ("create", "post"), ("update", "put"), ("patch", "patch"), ("delete", "delete")];
    let supported = methods.iter().filter(|(verb, _)| sub.has_verb(verb));
    supported
        .map(|(_, method)| {
            let scope = if resource.namespaced { "Namespaced" } else { "" };
            let id = format!(
                "connect{}{}{scope}{}{}",
                prefix(&resource.group, &resource.version),
                capitalized(method),
                resource.kind,
                capitalized(sub.name)
            );
            let operation = json!({
                "tags": [kind.tag],
                "operationId": id,
                "x-kubernetes-action": "connect",
                "x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
                "parameters": options(kind),
                "responses": text_response("*/*"),
            });
            (*method, operation)
        })
        .collect()
}

fn insert(
    paths: &mut Map<String, Value>,
    path: &str,
    operations: Vec<(&'static str, Value)>,
    parameters: Vec<Value>,
) {
    if operations.is_empty() {
        return;
    }
    let mut entry: Map<String, Value> = operations.into_iter().map(|(m, o)| (m.to_owned(), o)).collect();
    let mut parameters = parameters;
    parameters.push(query("pretty"));
    entry.insert("parameters".into(), parameters.into());
    paths.insert(path.to_owned(), Value::Object(entry));
}

fn collection_operations(resource: &Resource, kind: &Kind<'_>, name: &str) -> Vec<(&'static str, Value)> {
    let mut operations = Vec::new();
    if resource.has_verb("list") {
        operations.push(("get", list_operation(kind, name)));
    }
    if resource.has_verb("create") {
        operations.push(("post", create_operation(kind, name)));
    }
    if resource.has_verb("deletecollection") {
        let query = LIST.iter().filter(|p| **p != "allowWatchBookmarks" && **p != "watch").chain(&DELETE);
        let scope = if resource.namespaced { "Namespaced" } else { "" };
        let prefix = prefix(&resource.group, &resource.version);
        let operation = Operation {
            id: format!("delete{prefix}Collection{scope}{}", resource.kind),
            action: "deletecollection",
            kind,
            query: query.copied().collect(),
            body: Some(content(&["*/*"], reference(DELETE_OPTIONS))),
            answers: vec![("200", reference(STATUS))],
            streams: false,
        };
        operations.push(("delete", operation.write()));
    }
    operations
}

fn list_operation(kind: &Kind<'_>, name: &str) -> Value {
    let list = format!("{}List", kind.schema);
    let operation = Operation {
        id: format!("list{name}"),
        action: "list",
        kind,
        query: LIST.to_vec(),
        body: None,
        answers: vec![("200", reference(&list))],
        streams: true,
    };
    operation.write()
}

fn create_operation(kind: &Kind<'_>, name: &str) -> Value {
    let body = reference(kind.schema);
    let operation = Operation {
        id: format!("create{name}"),
        action: "post",
        kind,
        query: WRITE.to_vec(),
        body: Some(content(&["*/*"], body.clone())),
        answers: vec![("200", body.clone()), ("201", body.clone()), ("202", body)],
        streams: false,
    };
    operation.write()
}

fn item_operations(verbs: &[&str], kind: &Kind<'_>, name: &str, sub: bool) -> Vec<(&'static str, Value)> {
    let mut operations = Vec::new();
    let body = || reference(kind.schema);
    let operation = |id: &str, action, query, sent, answers| {
        Operation { id: format!("{id}{name}"), action, kind, query, body: sent, answers, streams: false }
            .write()
    };
    if verbs.contains(&"get") {
        operations.push(("get", operation("read", "get", vec![], None, vec![("200", body())])));
    }
    if verbs.contains(&"update") {
        let sent = Some(content(&["*/*"], body()));
        let answers = vec![("200", body()), ("201", body())];
        operations.push(("put", operation("replace", "put", WRITE.to_vec(), sent, answers)));
    }
    if sub && verbs.contains(&"create") {
        operations.push(("post", create_operation(kind, name)));
    }
    if verbs.contains(&"patch") {
        let query = WRITE.iter().copied().chain(["force"]).collect();
        let sent = Some(content(&PATCHES, reference(PATCH)));
        let answers = vec![("200", body()), ("201", body())];
        operations.push(("patch", operation("patch", "patch", query, sent, answers)));
    }
    if !sub && verbs.contains(&"delete") {
        let sent = Some(content(&["*/*"], reference(DELETE_OPTIONS)));
        let answer = if returns_object(kind) { body() } else { reference(STATUS) };
        let answers = vec![("200", answer.clone()), ("202", answer)];
        operations.push(("delete", operation("delete", "delete", DELETE.to_vec(), sent, answers)));
    }
    operations
}

/// Most kinds answer a deletion with a Status, some with the object.
fn returns_object(kind: &Kind<'_>) -> bool {
    const CORE: [&str; 7] = [
        "PersistentVolume",
        "PersistentVolumeClaim",
        "Pod",
        "PodTemplate",
        "ResourceQuota",
        "Service",
        "ServiceAccount",
    ];
    let storage = ["CSIDriver", "CSINode", "StorageClass", "VolumeAttachment", "VolumeAttributesClass"];
    match kind.group {
        "" => CORE.contains(&kind.kind),
        "storage.k8s.io" => storage.contains(&kind.kind),
        "resource.k8s.io" => kind.kind != "DeviceTaintRule" || kind.version != "v1",
        _ => false,
    }
}

impl Operation<'_> {
    fn write(self) -> Value {
        let kind = json!({"group": self.kind.group, "version": self.kind.version, "kind": self.kind.kind});
        let mut operation = json!({
            "tags": [self.kind.tag],
            "operationId": self.id,
            "x-kubernetes-action": self.action,
            "x-kubernetes-group-version-kind": kind,
            "responses": responses(&self.answers, self.streams),
        });
        if let Some(map) = operation.as_object_mut() {
            if !self.query.is_empty() {
                map.insert("parameters".into(), self.query.iter().map(|p| query(p)).collect());
            }
            if let Some(body) = self.body {
                map.insert("requestBody".into(), body);
            }
        }
        operation
    }
}

fn content(types: &[&str], schema: Value) -> Value {
    let content: Map<String, Value> =
        types.iter().map(|t| ((*t).to_owned(), json!({"schema": schema.clone()}))).collect();
    json!({ "content": content })
}

fn responses(answers: &[(&str, Value)], streams: bool) -> Value {
    let text = |code: &str| match code {
        "200" => "OK",
        "201" => "Created",
        _ => "Accepted",
    };
    let mut types = PRODUCED.to_vec();
    if streams {
        types.extend(STREAMED);
    }
    let mut all: Map<String, Value> = answers
        .iter()
        .map(|(code, schema)| {
            let mut answer = content(&types, schema.clone());
            answer["description"] = text(code).into();
            ((*code).to_owned(), answer)
        })
        .collect();
    all.insert("401".into(), json!({"description": "Unauthorized"}));
    Value::Object(all)
}

fn path_parameters(resource: &Resource, named: bool) -> Vec<Value> {
    let parameter = |name: &str, text: String| {
        json!({"name": name, "in": "path", "description": text, "required": true,
            "schema": {"type": "string", "uniqueItems": true}})
    };
    let mut parameters = Vec::new();
    if named {
        parameters.push(parameter("name", format!("name of the {}", resource.kind)));
    }
    if resource.namespaced {
        parameters.push(parameter(
            "namespace",
            "object name and auth scope, such as for teams and projects".into(),
        ));
    }
    parameters
}

fn query(name: &str) -> Value {
    let ty = match name {
        "limit" | "timeoutSeconds" | "gracePeriodSeconds" | "limitBytes" | "sinceSeconds" | "tailLines" => {
            "integer"
        }
        "watch"
        | "allowWatchBookmarks"
        | "sendInitialEvents"
        | "force"
        | "orphanDependents"
        | "ignoreStoreReadErrorWithClusterBreakingPotential" => "boolean",
        _ => "string",
    };
    json!({"name": name, "in": "query", "schema": {"type": ty, "uniqueItems": true}})
}

/// `CoreV1NamespacedPod`.
fn operation_name(resource: &Resource, namespaced: bool, sub: &str) -> String {
    let scope = if namespaced { "Namespaced" } else { "" };
    format!("{}{scope}{}{sub}", prefix(&resource.group, &resource.version), resource.kind)
}

/// `CoreV1`, `RbacAuthorizationV1`.
fn prefix(group: &str, version: &str) -> String {
    format!(
        "{}{}",
        group_words(group).iter().map(|w| capitalized(w)).collect::<String>(),
        capitalized(version)
    )
}

/// `core_v1`, `rbacAuthorization_v1`.
fn tag(group: &str, version: &str) -> String {
    let words = group_words(group);
    let rest: String = words[1..].iter().map(|w| capitalized(w)).collect();
    format!("{}{rest}_{version}", words[0])
}

fn group_words(group: &str) -> Vec<&str> {
    match group.strip_suffix(".k8s.io").unwrap_or(group) {
        "" => vec!["core"],
        group => group.split('.').collect(),
    }
}

fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|c| c.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}

//! Paths and operations of resources: which verb is which method on which path, with which parameters and bodies.

use super::definitions::{PATCH, reference};
use crate::schema::{Type, by_name};
use crate::table::{Resource, Subresource};
use serde_json::{Map, Value, json};

const JSON: &str = "application/json";
/// What every response can be written as.
const PRODUCED: [&str; 3] = [JSON, "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAMED: [&str; 2] =
    ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
/// What custom resources can be written as, and are read from.
const CUSTOM: [&str; 2] = [JSON, "application/yaml"];
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    STRATEGIC,
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
const WATCH_EVENT: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
/// What the server says of its release.
pub(super) const VERSION: &str = "io.k8s.apimachinery.pkg.version.Info";
const RESOURCE_LIST: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList";

/// The kind that an operation is about.
#[derive(Clone, Copy)]
struct Kind<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    /// Definition name.
    schema: &'a str,
    /// Definition name of the list.
    list: &'a str,
    /// The kind of a definition's resources: fewer media types.
    custom: bool,
    /// Tag of the operations: that of the resource, also for kinds of other groups.
    tag: &'a str,
}

/// One operation before it is written out.
struct Operation<'a> {
    id: String,
    description: String,
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
    let id = format!("get{}APIResources", prefix(group, version));
    read(&tag(group, version), "get available resources", &id, reference(RESOURCE_LIST), &PRODUCED)
}

/// What is served besides resources: key in the index, and the operation on the path of that name.
pub(super) fn of_server() -> [(&'static str, Value); 5] {
    let list = |kind: &str| reference(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}"));
    [
        (
            "api",
            read("core", "get available API versions", "getCoreAPIVersions", list("APIVersions"), &PRODUCED),
        ),
        (
            "apis",
            read("apis", "get available API versions", "getAPIVersions", list("APIGroupList"), &PRODUCED),
        ),
        (
            "version",
            read(
                "version",
                "get the version information for this server",
                "getCodeVersion",
                reference(VERSION),
                &[JSON],
            ),
        ),
        (
            "openid/v1/jwks",
            read(
                "openid",
                "get the keys that tokens of service accounts are verified with",
                "getServiceAccountIssuerOpenIDKeyset",
                json!({"type": "string"}),
                &["application/jwk-set+json"],
            ),
        ),
        (
            ".well-known/openid-configuration",
            read(
                "WellKnown",
                "get the OpenID configuration of the issuer of service account tokens",
                "getServiceAccountIssuerOpenIDConfiguration",
                json!({"type": "string"}),
                &[JSON],
            ),
        ),
    ]
}

/// The operation on the path of a group.
pub(super) fn of_group(group: &str) -> Value {
    let (tag, words) = (camel(group), group_words(group));
    let id = format!("get{}APIGroup", words.iter().map(|word| capitalized(word)).collect::<String>());
    let answer = reference("io.k8s.apimachinery.pkg.apis.meta.v1.APIGroup");
    read(&tag, "get information of a group", &id, answer, &PRODUCED)
}

fn read(tag: &str, description: &str, id: &str, answer: Value, types: &[&str]) -> Value {
    json!({"get": {
        "tags": [tag],
        "description": description,
        "operationId": id,
        "responses": responses(&[("200", answer)], types),
    }})
}

/// Adds all paths of a resource.
pub(super) fn add(resource: &Resource, paths: &mut Map<String, Value>) {
    let base = format!("/{}", super::path_of(&resource.group, &resource.version));
    let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{base}{scope}/{}", resource.resource);
    let item = format!("{collection}/{{name}}");
    let (schema, list) = (super::schema_name(resource), super::list_schema_name(resource));
    let kind = Kind {
        group: &resource.group,
        version: &resource.version,
        kind: &resource.kind,
        schema: &schema,
        list: &list,
        custom: resource.message.is_none(),
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
        item_operations(resource, resource.verbs, &kind, &name, ""),
        path_parameters(resource, true),
    );
    if resource.namespaced && resource.has_verb("list") {
        let name = format!("{}ForAllNamespaces", operation_name(resource, false, ""));
        let list = list_operation(resource, &kind, &name);
        insert(paths, &format!("{base}/{}", resource.resource), vec![("get", list)], vec![]);
    }
    if resource.message.is_some() && resource.has_verb("watch") {
        add_watches(resource, &kind, scope, paths);
    }
    for sub in resource.subresources.iter().filter(|s| s.served_by_default || !resource.served_by_default) {
        add_subresource(resource, sub, &item, paths);
    }
}

/// The old paths of watches. Custom resources have them too, but upstream does not tell of it.
fn add_watches(resource: &Resource, kind: &Kind<'_>, scope: &str, paths: &mut Map<String, Value>) {
    let base = format!("/{}/watch", super::path_of(&resource.group, &resource.version));
    let plural = &resource.resource;
    let list = format!(
        "watch individual changes to a list of {}. deprecated: use the 'watch' parameter with a list operation instead.",
        resource.kind
    );
    let one = format!(
        "watch changes to an object of kind {}. deprecated: use the 'watch' parameter with a list operation instead, filtered to a single item with the 'fieldSelector' parameter.",
        resource.kind
    );
    let (cluster, own) =
        (operation_name(resource, false, ""), operation_name(resource, resource.namespaced, ""));
    let mut ways = vec![
        (format!("{base}{scope}/{plural}"), format!("{own}List"), "watchlist", &list, Some(false)),
        (format!("{base}{scope}/{plural}/{{name}}"), own, "watch", &one, Some(true)),
    ];
    if resource.namespaced {
        let id = format!("{cluster}ListForAllNamespaces");
        ways.push((format!("{base}/{plural}"), id, "watchlist", &list, None));
    }
    for (path, id, action, description, named) in ways {
        let operation = Operation {
            id: format!("watch{id}"),
            description: description.clone(),
            action,
            kind,
            query: vec![],
            body: None,
            answers: vec![("200", reference(WATCH_EVENT))],
            streams: true,
        };
        let own = named.map(|named| path_parameters(resource, named)).unwrap_or_default();
        let parameters = own.into_iter().chain(LIST.iter().map(|name| query(name))).collect();
        insert(paths, &path, vec![("get", operation.write())], parameters);
    }
}

fn add_subresource(resource: &Resource, sub: &Subresource, item: &str, paths: &mut Map<String, Value>) {
    let tag = &tag(&resource.group, &resource.version);
    let schema = match sub.message {
        Some(message) => message.name.to_owned(),
        None => super::schema_name(resource),
    };
    let kind = Kind {
        group: &sub.group,
        version: &sub.version,
        kind: &sub.kind,
        schema: &schema,
        list: "",
        custom: resource.message.is_none(),
        tag,
    };
    let connects = ["attach", "exec", "portforward", "proxy"].contains(&sub.name);
    let name = operation_name(resource, resource.namespaced, &capitalized(sub.name));
    let operations = if connects {
        connect_operations(resource, sub, &kind)
    } else if sub.name == "log" {
        vec![("get", log_operation(&kind, &name))]
    } else {
        item_operations(resource, sub.verbs, &kind, &name, sub.name)
    };
    insert(paths, &format!("{item}/{}", sub.name), operations, path_parameters(resource, true));
}

/// The fields of an options kind as query parameters.
fn options(kind: &Kind<'_>) -> Vec<Value> {
    let fields = by_name(kind.schema).map(|m| m.json_fields()).unwrap_or_default();
    let scalars = fields.iter().filter(|f| f.message().is_none());
    scalars
        .map(|field| {
            let ty = match field.ty {
                Type::Bool => "boolean",
                Type::Int32 | Type::Int64 => "integer",
                _ => "string",
            };
            json!({"name": field.name, "in": "query", "schema": {"type": ty, "uniqueItems": true}})
        })
        .collect()
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
        "description": format!("read log of the specified {}", kind.kind),
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
                "description": format!(
                    "connect {} requests to {} of {}",
                    method.to_ascii_uppercase(),
                    sub.name,
                    resource.kind
                ),
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
        operations.push(("get", list_operation(resource, kind, name)));
    }
    if resource.has_verb("create") {
        operations.push(("post", create_operation(resource, kind, name, "")));
    }
    if resource.has_verb("deletecollection") {
        let query = LIST.iter().filter(|p| **p != "allowWatchBookmarks" && **p != "watch").chain(&DELETE);
        let scope = if resource.namespaced { "Namespaced" } else { "" };
        let prefix = prefix(&resource.group, &resource.version);
        let operation = Operation {
            id: format!("delete{prefix}Collection{scope}{}", resource.kind),
            description: format!("delete collection of {}", resource.kind),
            action: "deletecollection",
            kind,
            query: query.copied().collect(),
            body: Some(content(kind.consumed(), reference(DELETE_OPTIONS))),
            answers: vec![("200", reference(STATUS))],
            streams: false,
        };
        operations.push(("delete", operation.write()));
    }
    operations
}

fn list_operation(resource: &Resource, kind: &Kind<'_>, name: &str) -> Value {
    let what = if resource.has_verb("watch") && !kind.custom { "list or watch" } else { "list" };
    let operation = Operation {
        id: format!("list{name}"),
        description: format!("{what} objects of kind {}", resource.kind),
        action: "list",
        kind,
        query: LIST.to_vec(),
        body: None,
        answers: vec![("200", reference(kind.list))],
        streams: true,
    };
    operation.write()
}

fn create_operation(resource: &Resource, kind: &Kind<'_>, name: &str, sub: &str) -> Value {
    let body = reference(kind.schema);
    let operation = Operation {
        id: format!("create{name}"),
        description: format!("create {}{}", of(sub), with_article(&resource.kind)),
        action: "post",
        kind,
        query: WRITE.to_vec(),
        body: Some(required(content(kind.consumed(), body.clone()))),
        answers: vec![("200", body.clone()), ("201", body.clone()), ("202", body)],
        streams: false,
    };
    operation.write()
}

/// Operations on one object, or on a part of it (`sub`).
fn item_operations(
    resource: &Resource,
    verbs: &[&str],
    kind: &Kind<'_>,
    name: &str,
    sub: &str,
) -> Vec<(&'static str, Value)> {
    let mut operations = Vec::new();
    let body = || reference(kind.schema);
    let specified = |what: &str| format!("{what} {}the specified {}", of(sub), resource.kind);
    let operation = |id: &str, description: String, action, query, sent, answers| {
        let id = format!("{id}{name}");
        Operation { id, description, action, kind, query, body: sent, answers, streams: false }.write()
    };
    if verbs.contains(&"get") {
        let answers = vec![("200", body())];
        operations.push(("get", operation("read", specified("read"), "get", vec![], None, answers)));
    }
    if verbs.contains(&"update") {
        let sent = Some(required(content(kind.consumed(), body())));
        let answers = vec![("200", body()), ("201", body())];
        let text = specified("replace");
        operations.push(("put", operation("replace", text, "put", WRITE.to_vec(), sent, answers)));
    }
    if !sub.is_empty() && verbs.contains(&"create") {
        operations.push(("post", create_operation(resource, kind, name, sub)));
    }
    if verbs.contains(&"patch") {
        let query = WRITE.iter().copied().chain(["force"]).collect();
        let types: Vec<&str> =
            PATCHES.iter().copied().filter(|ty| !(kind.custom && *ty == STRATEGIC)).collect();
        let sent = Some(required(content(&types, reference(PATCH))));
        let answers = vec![("200", body()), ("201", body())];
        let text = specified("partially update");
        operations.push(("patch", operation("patch", text, "patch", query, sent, answers)));
    }
    if sub.is_empty() && verbs.contains(&"delete") {
        let sent = Some(content(kind.consumed(), reference(DELETE_OPTIONS)));
        let answer = if returns_object(kind) { body() } else { reference(STATUS) };
        let answers = vec![("200", answer.clone()), ("202", answer)];
        let text = format!("delete {}", with_article(&resource.kind));
        operations.push(("delete", operation("delete", text, "delete", DELETE.to_vec(), sent, answers)));
    }
    operations
}

/// `status of `; nothing for whole objects.
fn of(sub: &str) -> String {
    if sub.is_empty() { String::new() } else { format!("{sub} of ") }
}

/// `a Pod`, `an Ingress`, `Endpoints`.
fn with_article(noun: &str) -> String {
    let vowel = noun.starts_with(['A', 'E', 'I', 'O', 'U', 'a', 'e', 'i', 'o', 'u']);
    match noun {
        plural if plural.ends_with('s') && !plural.ends_with("ss") => plural.to_owned(),
        noun if vowel => format!("an {noun}"),
        noun => format!("a {noun}"),
    }
}

fn required(mut body: Value) -> Value {
    body["required"] = true.into();
    body
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

impl Kind<'_> {
    /// Media types of bodies that are read.
    fn consumed(&self) -> &'static [&'static str] {
        if self.custom { &CUSTOM } else { &["*/*"] }
    }

    /// Media types of answers.
    fn produced(&self, streams: bool) -> Vec<&'static str> {
        match (self.custom, streams) {
            (true, _) => CUSTOM.to_vec(),
            (false, true) => PRODUCED.into_iter().chain(STREAMED).collect(),
            (false, false) => PRODUCED.to_vec(),
        }
    }
}

impl Operation<'_> {
    fn write(self) -> Value {
        let kind = json!({"group": self.kind.group, "version": self.kind.version, "kind": self.kind.kind});
        let mut operation = json!({
            "tags": [self.kind.tag],
            "description": self.description,
            "operationId": self.id,
            "x-kubernetes-action": self.action,
            "x-kubernetes-group-version-kind": kind,
            "responses": responses(&self.answers, &self.kind.produced(self.streams)),
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

fn responses(answers: &[(&str, Value)], types: &[&str]) -> Value {
    let text = |code: &str| match code {
        "200" => "OK",
        "201" => "Created",
        _ => "Accepted",
    };
    let mut all: Map<String, Value> = answers
        .iter()
        .map(|(code, schema)| {
            let mut answer = content(types, schema.clone());
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
        "limit" | "timeoutSeconds" | "gracePeriodSeconds" => "integer",
        "watch"
        | "allowWatchBookmarks"
        | "sendInitialEvents"
        | "force"
        | "orphanDependents"
        | "ignoreStoreReadErrorWithClusterBreakingPotential" => "boolean",
        _ => "string",
    };
    let mut parameter = json!({"name": name, "in": "query", "schema": {"type": ty, "uniqueItems": true}});
    if let Some((_, text)) = QUERY_TEXTS.iter().find(|(known, _)| *known == name) {
        parameter["description"] = (*text).into();
    }
    parameter
}

const QUERY_TEXTS: [(&str, &str); 19] = [
    (
        "allowWatchBookmarks",
        "Whether a watch may send bookmarks, which tell a resource version and no change.",
    ),
    ("continue", "Where a list goes on: the token that the page before came with."),
    ("dryRun", "All: everything is done but to keep the change."),
    ("fieldManager", "Who makes the change, for metadata.managedFields."),
    ("fieldSelector", "Only objects whose fields are as this selector says."),
    (
        "fieldValidation",
        "What happens to fields that are unknown or come twice: they are dropped (Ignore), dropped with a warning (Warn), or the request is refused (Strict).",
    ),
    ("force", "Whether an apply takes fields from other managers."),
    ("gracePeriodSeconds", "Seconds that an object has to end; 0 ends it at once."),
    (
        "ignoreStoreReadErrorWithClusterBreakingPotential",
        "Whether an object that cannot be read is deleted all the same, without regard to what depends on it.",
    ),
    ("labelSelector", "Only objects whose labels are as this selector says."),
    ("limit", "The most objects that a list answers at a time."),
    ("orphanDependents", "Deprecated: use propagationPolicy. Whether dependents stay."),
    ("pretty", "Whether JSON is indented."),
    (
        "propagationPolicy",
        "What becomes of dependents: they stay (Orphan), go afterwards (Background) or before (Foreground).",
    ),
    ("resourceVersion", "The version that a read is not older than, and a watch goes on from."),
    ("resourceVersionMatch", "How resourceVersion is meant: Exact or NotOlderThan."),
    ("sendInitialEvents", "Whether a watch begins with an event for each object that there is."),
    ("timeoutSeconds", "Seconds after which a list or a watch ends."),
    ("watch", "Whether changes follow instead of a list."),
];

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
    format!("{}_{version}", camel(group))
}

/// `core`, `rbacAuthorization`.
fn camel(group: &str) -> String {
    let words = group_words(group);
    let rest: String = words[1..].iter().map(|w| capitalized(w)).collect();
    format!("{}{rest}", words[0])
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

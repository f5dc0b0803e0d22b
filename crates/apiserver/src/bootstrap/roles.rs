//! The default roles and bindings, from `data/rbac.tsv`.

use api_types::{Value, meta};
use serde_json::{Map, json};

const TABLE: &str = include_str!("../../data/rbac.tsv");
const API_VERSION: &str = "rbac.authorization.k8s.io/v1";
const GROUP: &str = "rbac.authorization.k8s.io";
/// Bindings of controllers: this server's controllers run as one user.
const CONTROLLER_PREFIX: &str = "system:controller:";
const CONTROLLER_USER: &str = "system:kube-controller-manager";

/// One line of the table.
struct Row<'a> {
    kind: &'a str,
    name: &'a str,
    namespace: &'a str,
    labels: &'a str,
    annotations: &'a str,
    verbs: &'a str,
    groups: &'a str,
    resources: &'a str,
    names: &'a str,
    urls: &'a str,
    role: &'a str,
    subjects: &'a str,
    selectors: &'a str,
}

fn parse(line: &str) -> Option<Row<'_>> {
    let cells: Vec<&str> = line.split('\t').collect();
    let [
        kind,
        name,
        namespace,
        labels,
        annotations,
        verbs,
        groups,
        resources,
        names,
        urls,
        role,
        subjects,
        selectors,
    ] = cells[..]
    else {
        return None;
    };
    Some(Row {
        kind,
        name,
        namespace,
        labels,
        annotations,
        verbs,
        groups,
        resources,
        names,
        urls,
        role,
        subjects,
        selectors,
    })
}

/// All objects in the order of the table.
pub(super) fn all() -> Vec<Value> {
    let mut objects: Vec<Value> = Vec::new();
    for row in TABLE.lines().skip(1).filter_map(parse) {
        let same = objects.last().is_some_and(|object| {
            meta::kind(object) == row.kind
                && meta::name(object) == row.name
                && meta::namespace(object) == row.namespace
        });
        if !same {
            objects.push(object(&row));
        }
        let Some(object) = objects.last_mut() else { continue };
        add(object, &row);
    }
    objects.push(node_proxy());
    objects.extend(registrar());
    objects
}

fn pairs(text: &str) -> Map<String, Value> {
    let pairs = text.split(';').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.into())).collect()
}

fn list(text: &str) -> Vec<&str> {
    match text {
        "" => Vec::new(),
        text => text.split(',').map(|word| if word == "\"\"" { "" } else { word }).collect(),
    }
}

fn object(row: &Row<'_>) -> Value {
    let mut object = json!({
        "apiVersion": API_VERSION,
        "kind": row.kind,
        "metadata": {"name": row.name, "labels": pairs(row.labels), "annotations": pairs(row.annotations)},
    });
    meta::set_namespace(&mut object, row.namespace);
    let field = if row.kind.ends_with("Binding") { "subjects" } else { "rules" };
    if let Some(object) = object.as_object_mut() {
        object.insert(field.into(), json!([]));
    }
    object
}

fn add(object: &mut Value, row: &Row<'_>) {
    let Some(map) = object.as_object_mut() else { return };
    if !row.verbs.is_empty() {
        let mut rule = Map::new();
        for (field, text) in [
            ("verbs", row.verbs),
            ("apiGroups", row.groups),
            ("resources", row.resources),
            ("resourceNames", row.names),
            ("nonResourceURLs", row.urls),
        ] {
            let words = list(text);
            if !words.is_empty() {
                rule.insert(field.into(), json!(words));
            }
        }
        if let Some(rules) = map.get_mut("rules").and_then(Value::as_array_mut) {
            rules.push(rule.into());
        }
    }
    if !row.selectors.is_empty() {
        let selectors: Vec<Value> =
            row.selectors.split(' ').map(|text| json!({"matchLabels": pairs(text)})).collect();
        map.insert("aggregationRule".into(), json!({"clusterRoleSelectors": selectors}));
    }
    if let [group, kind, name] = row.role.splitn(3, '/').collect::<Vec<_>>()[..] {
        map.insert("roleRef".into(), json!({"apiGroup": group, "kind": kind, "name": name}));
        let mut subjects: Vec<Value> = row.subjects.split_whitespace().filter_map(subject).collect();
        if row.name.starts_with(CONTROLLER_PREFIX) {
            subjects.push(json!({"kind": "User", "apiGroup": GROUP, "name": CONTROLLER_USER}));
        }
        map.insert("subjects".into(), subjects.into());
    }
}

/// `Group:<api group>/<name>`, `ServiceAccount:<namespace>/<name>`.
fn subject(text: &str) -> Option<Value> {
    let (kind, rest) = text.split_once(':')?;
    let (place, name) = rest.split_once('/')?;
    Some(match kind {
        "ServiceAccount" => json!({"kind": kind, "namespace": place, "name": name}),
        _ => json!({"kind": kind, "apiGroup": place, "name": name}),
    })
}

/// Node agents are the service proxy too.
fn node_proxy() -> Value {
    json!({
        "apiVersion": API_VERSION,
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "trierarch:node-proxier"},
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": "system:node-proxier"},
        "subjects": [{"kind": "Group", "apiGroup": GROUP, "name": crate::user::NODES}],
    })
}

/// The controllers register the groups of definitions, and say whether the servers of others are available.
fn registrar() -> [Value; 2] {
    let name = "trierarch:api-service-registrar";
    let rule = json!({
        "apiGroups": ["apiregistration.k8s.io"],
        "resources": ["apiservices", "apiservices/status"],
        "verbs": ["create", "delete", "get", "list", "update", "watch"],
    });
    [
        json!({
            "apiVersion": API_VERSION,
            "kind": "ClusterRole",
            "metadata": {"name": name},
            "rules": [rule],
        }),
        json!({
            "apiVersion": API_VERSION,
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "User", "apiGroup": GROUP, "name": CONTROLLER_USER}],
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(kind: &str, name: &str) -> Value {
        all().into_iter().find(|object| meta::kind(object) == kind && meta::name(object) == name).unwrap()
    }

    #[test]
    fn the_table_becomes_objects() {
        let admin = find("ClusterRole", "cluster-admin");
        assert_eq!(admin["rules"][0], json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        assert_eq!(admin["rules"][1], json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
        let binding = find("ClusterRoleBinding", "cluster-admin");
        assert_eq!(binding["subjects"][0]["name"], "system:masters");
        let admin = find("ClusterRole", "admin");
        let selectors = &admin["aggregationRule"]["clusterRoleSelectors"];
        assert_eq!(selectors[0]["matchLabels"]["rbac.authorization.k8s.io/aggregate-to-admin"], "true");
        assert_eq!(find("ClusterRoleBinding", "system:kube-dns")["subjects"][0]["namespace"], "kube-system");
    }

    #[test]
    fn every_object_is_valid() {
        for object in all() {
            let resource = api_types::table::by_api_version(API_VERSION, meta::kind(&object)).unwrap();
            let mut object = object;
            (api_rules::rules(resource).default)(&mut object);
            assert_eq!((api_rules::rules(resource).validate)(&object), [], "{}", meta::name(&object));
        }
    }
}

//! Definitions in the shape of those that large operators bring: routes with unions and hundreds of rules in several
//! versions, certificate issuers with dozens of alternatives, and clusters of monitoring that have pod templates in them.

use serde_json::{Map, Value, json};

/// A definition with the same schema in every version; the first is stored.
pub fn definition(plural: &str, kind: &str, versions: &[&str], spec: &Value, status: &Value) -> Value {
    let schema = json!({"type": "object", "required": ["spec"], "properties": {
        "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
        "spec": spec, "status": status}});
    let version = |(at, name): (usize, &&str)| {
        json!({"name": name, "served": true, "storage": at == 0, "subresources": {"status": {}},
            "additionalPrinterColumns": [{"name": "Ready", "type": "string",
                "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}],
            "schema": {"openAPIV3Schema": schema}})
    };
    let versions: Vec<Value> = versions.iter().enumerate().map(version).collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.large.example.com")},
        "spec": {"group": "large.example.com", "scope": "Namespaced", "versions": versions,
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "categories": ["large"]}},
    })
}

fn object(properties: Value, required: &[&str], rules: Vec<Value>) -> Value {
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if !rules.is_empty() {
        schema["x-kubernetes-validations"] = Value::Array(rules);
    }
    schema
}

fn rule(rule: &str, message: &str) -> Value {
    json!({"rule": rule, "message": message})
}

fn text(most: u32) -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": most})
}

/// A list whose elements are told apart by some of their fields.
fn by_key(items: &Value, keys: &[&str], most: u32) -> Value {
    json!({"type": "array", "items": items, "maxItems": most, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys})
}

fn list(items: &Value, most: u32) -> Value {
    json!({"type": "array", "items": items, "maxItems": most, "x-kubernetes-list-type": "atomic"})
}

/// `status` with conditions, as nearly all have it.
pub fn status() -> Value {
    let condition = object(
        json!({"type": text(316), "status": {"type": "string", "enum": ["True", "False", "Unknown"]}, "reason": text(1024),
            "message": {"type": "string", "maxLength": 32768}, "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
            "lastTransitionTime": {"type": "string", "format": "date-time"}}),
        &["type", "status"],
        Vec::new(),
    );
    object(
        json!({"conditions": by_key(&condition, &["type"], 8), "observedGeneration": {"type": "integer"}}),
        &[],
        Vec::new(),
    )
}

/// A choice between alternatives, of which one is named and set: a rule for each says that it belongs to its name.
fn union(alternatives: &[(String, Value)], depth: &str) -> Value {
    let mut properties = Map::new();
    let names: Vec<&str> = alternatives.iter().map(|(name, _)| name.as_str()).collect();
    properties.insert("type".into(), json!({"type": "string", "enum": names}));
    let mut rules = Vec::new();
    for (name, schema) in alternatives {
        properties.insert(name.clone(), schema.clone());
        rules.push(rule(
            &format!("!has(self.{name}) || self.type == '{name}'"),
            &format!("{depth}{name} must be nil unless type is {name}"),
        ));
        rules.push(rule(
            &format!("self.type != '{name}' || has(self.{name})"),
            &format!("{depth}{name} must be set when type is {name}"),
        ));
    }
    object(Value::Object(properties), &["type"], rules)
}

/// Routes: rules with matches, filters in two places, and what they lead to.
pub fn routes() -> Value {
    let header = object(json!({"name": text(256), "value": text(4096)}), &["name", "value"], Vec::new());
    let headers = by_key(&header, &["name"], 16);
    let change = object(
        json!({"set": headers, "add": headers, "remove": {"type": "array", "items": text(256), "maxItems": 16, "x-kubernetes-list-type": "set"}}),
        &[],
        Vec::new(),
    );
    let reference = object(
        json!({"group": {"type": "string", "maxLength": 253, "default": ""}, "kind": {"type": "string", "default": "Service"},
            "name": text(253), "namespace": text(63), "port": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535}}),
        &["name"],
        vec![rule(
            "(size(self.group) == 0 && self.kind == 'Service') ? has(self.port) : true",
            "Must have port for Service reference",
        )],
    );
    let path = object(
        json!({"type": {"type": "string", "enum": ["Exact", "PathPrefix", "RegularExpression"], "default": "PathPrefix"},
            "value": {"type": "string", "maxLength": 1024, "default": "/"}}),
        &[],
        vec![
            rule(
                "(self.type in ['Exact', 'PathPrefix']) ? self.value.startsWith('/') : true",
                "value must be an absolute path",
            ),
            rule(
                "(self.type in ['Exact', 'PathPrefix']) ? !self.value.contains('//') : true",
                "must not contain '//'",
            ),
            rule(
                "(self.type in ['Exact', 'PathPrefix']) ? !self.value.contains('/../') : true",
                "must not contain '/../'",
            ),
            rule(
                "(self.type in ['Exact', 'PathPrefix']) ? self.value.matches(r\"\"\"^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+$\"\"\") : true",
                "must only contain valid characters",
            ),
        ],
    );
    let filters = |place: &str| {
        let mut alternatives = vec![
            ("requestHeaderModifier".to_owned(), change.clone()),
            ("responseHeaderModifier".to_owned(), change.clone()),
            (
                "requestMirror".to_owned(),
                object(json!({"backendRef": reference}), &["backendRef"], Vec::new()),
            ),
        ];
        for number in 0..20 {
            let fields = json!({"name": text(64), "weight": {"type": "integer", "default": number}, "hosts": {"type": "array", "items": text(253), "maxItems": 8, "x-kubernetes-list-type": "set"}});
            let limits = vec![rule(
                "!has(self.hosts) || self.hosts.all(h, h != self.name)",
                "a host must not be the name",
            )];
            alternatives.push((format!("extension{number}"), object(fields, &["name"], limits)));
        }
        let mut filters = list(&union(&alternatives, place), 16);
        filters["x-kubernetes-validations"] = json!([
            rule(
                "self.filter(f, f.type == 'requestHeaderModifier').size() <= 1",
                "requestHeaderModifier filter cannot be repeated"
            ),
            rule(
                "self.filter(f, f.type == 'responseHeaderModifier').size() <= 1",
                "responseHeaderModifier filter cannot be repeated"
            ),
        ]);
        filters
    };
    let backend = object(
        json!({"name": text(253), "port": {"type": "integer"}, "weight": {"type": "integer", "default": 1, "minimum": 0, "maximum": 1000000}, "filters": filters("backend ")}),
        &["name"],
        Vec::new(),
    );
    let matches = object(
        json!({"path": path, "headers": headers, "method": {"type": "string", "enum": ["GET", "PUT", "POST"]}}),
        &[],
        Vec::new(),
    );
    let mut matches = list(&matches, 64);
    matches["default"] = json!([{"path": {"type": "PathPrefix", "value": "/"}}]);
    let one = object(
        json!({"name": text(253), "matches": matches, "filters": filters("route "), "backendRefs": list(&backend, 16),
            "timeouts": object(json!({"request": text(16), "backendRequest": text(16)}), &[],
                vec![rule("!(has(self.request) && has(self.backendRequest) && duration(self.request) != duration('0s') && duration(self.backendRequest) > duration(self.request))", "backendRequest timeout cannot be longer than request timeout")])}),
        &[],
        vec![rule(
            "(has(self.backendRefs) && size(self.backendRefs) > 0) ? (!has(self.filters) || self.filters.all(f, f.type != 'extension0')) : true",
            "extension0 must not be used together with backendRefs",
        )],
    );
    let mut rules = list(&one, 16);
    rules["default"] = json!([{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}]);
    rules["x-kubernetes-validations"] = json!([rule(
        "self.all(l1, !has(l1.name) || self.exists_one(l2, has(l2.name) && l1.name == l2.name))",
        "Rule name must be unique within the route"
    )]);
    let listener = object(
        json!({"name": text(253), "port": {"type": "integer", "minimum": 1, "maximum": 65535}, "hostname": text(253),
            "protocol": {"type": "string", "default": "HTTP", "maxLength": 255}}),
        &["name", "port"],
        Vec::new(),
    );
    object(
        json!({"hostnames": list(&text(253), 16), "rules": rules, "listeners": by_key(&listener, &["name"], 64),
            "class": {"type": "string", "x-kubernetes-validations": [rule("self == oldSelf", "class is immutable")]}}),
        &[],
        vec![rule(
            "!has(self.listeners) || self.listeners.all(l1, self.listeners.exists_one(l2, l1.port == l2.port && l1.protocol == l2.protocol))",
            "Combination of port and protocol must be unique",
        )],
    )
}

/// Issuers: many ways to solve a challenge, each with a pod template.
pub fn issuers(template: &Value) -> Value {
    let secret = object(json!({"name": text(253), "key": text(253)}), &["name"], Vec::new());
    let providers: Vec<(String, Value)> = (0..24)
        .map(|number| {
            let fields = json!({"email": text(254), "project": text(128), "secretRef": secret, "zones": {"type": "array", "items": text(253), "x-kubernetes-list-type": "set", "maxItems": 8},
                "config": {"x-kubernetes-preserve-unknown-fields": true}});
            (format!("provider{number}"), object(fields, &["secretRef"], vec![rule("!has(self.project) || self.project.size() > 1", "a project has a long name")]))
        })
        .collect();
    let solver = object(
        json!({"selector": {"type": "object", "additionalProperties": text(63)}, "dns": union(&providers, "dns "),
            "http": object(json!({"serviceType": {"type": "string", "default": "NodePort"}, "podTemplate": template}), &[], Vec::new())}),
        &[],
        vec![rule("has(self.dns) != has(self.http)", "one of dns and http is needed")],
    );
    object(
        json!({"server": {"type": "string", "format": "uri", "default": "https://acme.example.com/"}, "privateKeyRef": secret, "solvers": list(&solver, 16)}),
        &["privateKeyRef"],
        vec![rule("self.server == oldSelf.server", "the server stays")],
    )
}

/// Clusters of monitoring: a whole pod template among a hundred fields of their own.
pub fn monitors(pod: &Value, template: &Value) -> Value {
    let mut properties = pod["properties"].as_object().expect("properties").clone();
    for number in 0..60 {
        let endpoint = object(
            json!({"url": text(2048), "timeout": {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$", "default": "30s"}, "queue": object(json!({"capacity": {"type": "integer", "default": 100}, "shards": {"type": "integer"}}), &[], Vec::new())}),
            &["url"],
            vec![
                rule("self.url.startsWith('http')", "an URL is one of HTTP"),
                rule(
                    "!has(self.queue) || !has(self.queue.shards) || self.queue.shards <= self.queue.capacity",
                    "more shards than capacity",
                ),
            ],
        );
        properties.insert(format!("remote{number}"), by_key(&endpoint, &["url"], 16));
    }
    properties.insert("podTemplate".into(), template.clone());
    properties
        .insert("replicas".into(), json!({"type": "integer", "format": "int32", "minimum": 0, "default": 1}));
    object(Value::Object(properties), &[], vec![rule("self.replicas < 100", "too many replicas")])
}

/// How many rules a schema has.
pub fn count_rules(schema: &Value) -> usize {
    match schema {
        Value::Object(map) => map
            .iter()
            .map(|(name, part)| {
                if name == "x-kubernetes-validations" {
                    part.as_array().map_or(0, Vec::len)
                } else {
                    count_rules(part)
                }
            })
            .sum(),
        Value::Array(parts) => parts.iter().map(count_rules).sum(),
        _ => 0,
    }
}

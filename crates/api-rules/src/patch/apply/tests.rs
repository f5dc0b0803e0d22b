use super::*;
use api_types::schema;

fn ty(kind: &str) -> Type<'static> {
    let message = match kind {
        "Deployment" => schema::lookup("apps", "v1", kind),
        _ => schema::lookup("", "v1", kind),
    };
    Type::Message(message.unwrap())
}

fn writer(manager: &'static str) -> Writer<'static> {
    Writer {
        manager,
        api_version: "apps/v1",
        subresource: "",
        now: "2026-01-01T00:00:00Z",
        reset: &["status"],
    }
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"}, "spec": spec})
}

fn put(live: &Value, applied: &Value, manager: &'static str, force: bool) -> Result<Value, PatchError> {
    let mut out = apply(ty("Deployment"), live, applied, &writer(manager), force)?;
    set(&mut out, "metadata.uid", json!("u"));
    Ok(out)
}

fn owner(object: &Value, manager: &str) -> Vec<String> {
    let mut entries = read_all(object);
    entries.iter_mut().for_each(Entry::look);
    entries.iter().find(|e| e.manager == manager).map(|e| e.fields.paths()).unwrap_or_default()
}

#[test]
fn the_first_apply_creates_and_owns() {
    let config = deployment(
        json!({"replicas": 1, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}),
    );
    let mut object = put(&json!({}), &config, "one", false).unwrap();
    show_fields(&mut object);
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{"manager": "one", "operation": "Apply", "apiVersion": "apps/v1", "time": "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers":
                {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}}}}}}}}])
    );
}

#[test]
fn conflicts_name_the_owner_and_force_takes_over() {
    let live = put(&json!({}), &deployment(json!({"replicas": 1})), "one", false).unwrap();
    let other = deployment(json!({"replicas": 2}));
    let error = put(&live, &other, "two", false).unwrap_err();
    assert_eq!(error.to_string(), "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas");
    let forced = put(&live, &other, "two", true).unwrap();
    assert_eq!(forced["spec"]["replicas"], 2);
    assert_eq!(owner(&forced, "two"), [".spec.replicas"]);
    assert!(owner(&forced, "one").is_empty());
}

#[test]
fn the_same_value_is_shared() {
    let live = put(&json!({}), &deployment(json!({"replicas": 1})), "one", false).unwrap();
    let both = put(&live, &deployment(json!({"replicas": 1})), "two", false).unwrap();
    assert_eq!(
        (owner(&both, "one"), owner(&both, "two")),
        (vec![".spec.replicas".to_owned()], vec![".spec.replicas".to_owned()])
    );
    let one_left = put(&both, &deployment(json!({})), "one", false).unwrap();
    assert_eq!(one_left["spec"]["replicas"], 1, "two still owns it");
}

#[test]
fn what_its_only_owner_drops_goes() {
    let mut config = deployment(json!({"replicas": 1}));
    set(&mut config, "metadata.labels", json!({"a": "1", "b": "2"}));
    let live = put(&json!({}), &config, "one", false).unwrap();
    set(&mut config, "metadata.labels", json!({"a": "1"}));
    let after = put(&live, &config, "one", false).unwrap();
    assert_eq!(after["metadata"]["labels"], json!({"a": "1"}));
    let mut bare = config.clone();
    remove(&mut bare, "metadata.labels");
    let after = put(&after, &bare, "one", false).unwrap();
    assert!(!after.has("metadata.labels"), "{after}");
}

#[test]
fn lists_merge_by_key() {
    let env = |name: &str| {
        deployment(
            json!({"template": {"spec": {"containers": [{"name": "c", "env": [{"name": name, "value": "v"}]}]}}}),
        )
    };
    let live = put(&json!({}), &env("X"), "one", false).unwrap();
    let both = put(&live, &env("Y"), "two", false).unwrap();
    let names: Vec<&str> = both["spec"]["template"]["spec"]["containers"][0]["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e.text("name"))
        .collect();
    assert_eq!(names, ["X", "Y"]);
    let dropped = put(&both, &deployment(json!({})), "two", false).unwrap();
    let env = &dropped["spec"]["template"]["spec"]["containers"][0]["env"];
    assert_eq!(env, &json!([{"name": "X", "value": "v"}]));
}

#[test]
fn a_key_with_a_default_may_be_left_out() {
    let ports = |ports: Value| {
        deployment(json!({"template": {"spec": {"containers": [{"name": "c", "ports": ports}]}}}))
    };
    let live =
        put(&json!({}), &ports(json!([{"containerPort": 80, "protocol": "TCP"}])), "one", false).unwrap();
    let after = put(&live, &ports(json!([{"containerPort": 80, "name": "http"}])), "two", false).unwrap();
    assert_eq!(
        after["spec"]["template"]["spec"]["containers"][0]["ports"],
        json!([{"containerPort": 80, "protocol": "TCP", "name": "http"}])
    );
}

#[test]
fn updates_take_what_they_change() {
    let live = put(&json!({}), &deployment(json!({"replicas": 1, "paused": true})), "one", false).unwrap();
    let mut new = live.clone();
    set(&mut new, "spec.replicas", json!(3));
    set(&mut new, "status.replicas", json!(3));
    update(ty("Deployment"), Some(&live), &mut new, &writer("kubectl-scale"));
    assert_eq!(owner(&new, "one"), [".spec.paused"]);
    assert_eq!(owner(&new, "kubectl-scale"), [".spec.replicas"], "status is not this endpoint's");
    let error = put(&new, &deployment(json!({"replicas": 1, "paused": true})), "one", false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl-scale\" using apps/v1: .spec.replicas"
    );
}

#[test]
fn a_create_is_tracked_with_its_parts() {
    let mut new = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "labels": {"a": "b"}}, "data": {"k": "v"}});
    let by = Writer {
        manager: "kubectl-create",
        api_version: "v1",
        subresource: "",
        now: "2026-01-01T00:00:00Z",
        reset: &[],
    };
    update(ty("ConfigMap"), None, &mut new, &by);
    show_fields(&mut new);
    assert_eq!(
        new["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:data": {".": {}, "f:k": {}}, "f:metadata": {"f:labels": {".": {}, "f:a": {}}}})
    );
}

#[test]
fn both_forms_of_the_record_say_the_same() {
    let template = |image: &str| json!({"replicas": 1, "template": {"spec": {"containers": [{"name": "c", "image": image}, {"name": "a b"}]}}});
    let text = put(&json!({}), &deployment(template("i")), "one", false).unwrap();
    let mut object = text.clone();
    show_fields(&mut object);
    assert!(
        text["metadata"]["managedFields"][0]["fieldsV1"].is_string()
            && object["metadata"]["managedFields"][0]["fieldsV1"].is_object()
    );
    let mut back = object.clone();
    hide_fields(&mut back);
    assert_eq!(back, text);
    let after = |live: &Value, sent: Option<&Value>, spec: Value, status: Value| {
        let mut new = without_managed(live);
        set(&mut new, "spec", spec);
        set(&mut new, "status", status);
        if let Some(sent) = sent {
            set(&mut new, MANAGED, sent.at(MANAGED).clone());
        }
        update(ty("Deployment"), Some(live), &mut new, &Writer { reset: &[], ..writer("two") });
        keep_times(&mut new, live);
        show_fields(&mut new);
        new
    };
    for (spec, status) in [
        (template("j"), Value::Null),
        (template("i"), json!({"replicas": 3})),
        (template("i"), Value::Null),
        (json!({}), json!({"replicas": 3})),
    ] {
        let expected = after(&object, None, spec.clone(), status.clone());
        for sent in [None, Some(&text), Some(&object)] {
            assert_eq!(after(&text, sent, spec.clone(), status.clone()), expected);
        }
    }
}

#[test]
fn text_that_a_client_sends_as_the_record_owns_nothing() {
    let live = put(&json!({}), &deployment(json!({"replicas": 1})), "one", false).unwrap();
    let mut new = live.clone();
    for (at, text) in [(0, "{\"f:spec\":{\"f:paused\":{}}}"), (0, "x")] {
        new["metadata"]["managedFields"][at]["fieldsV1"] = text.into();
        update(ty("Deployment"), Some(&live), &mut new, &writer("two"));
        assert!(owner(&new, "one").is_empty(), "{new}");
        set(&mut new, MANAGED, live.at(MANAGED).clone());
    }
    hide_fields(&mut new);
    assert!(!new["metadata"]["managedFields"][0].has("fieldsV1"), "a text is the server's own, or nothing");
}

#[test]
fn an_update_that_changes_nothing_leaves_the_times() {
    let live = put(&json!({}), &deployment(json!({"replicas": 1})), "one", false).unwrap();
    let mut new = without_managed(&live);
    update(
        ty("Deployment"),
        Some(&live),
        &mut new,
        &Writer { now: "2030-01-01T00:00:00Z", ..writer("other") },
    );
    assert_eq!(new, live);
    let again = apply(
        ty("Deployment"),
        &live,
        &deployment(json!({"replicas": 1})),
        &Writer { now: "2030-01-01T00:00:00Z", ..writer("one") },
        false,
    );
    assert_eq!(again.unwrap(), live);
}

#[test]
fn unknown_fields_and_bad_elements_are_refused() {
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "n"}, "nope": 1});
    let error = apply(ty("ConfigMap"), &json!({}), &config, &writer("one"), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to create typed patch object (n/m; /v1, Kind=ConfigMap): .nope: field not declared in schema"
    );
    let twice = deployment(json!({"template": {"spec": {"containers": [{"name": "c"}, {"name": "c"}]}}}));
    let error = put(&json!({}), &twice, "one", false).unwrap_err().to_string();
    assert!(
        error.ends_with(".spec.template.spec.containers: duplicate entries for key [name=\"c\"]"),
        "{error}"
    );
}

/// A port has two keys, one of them with a default; a container has one.
#[test]
fn an_element_is_named_by_the_keys_that_it_has() {
    let container = |container| deployment(json!({"template": {"spec": {"containers": [container]}}}));
    let error = put(&json!({}), &container(json!({"image": "i"})), "one", false).unwrap_err().to_string();
    let text = ".spec.template.spec.containers: element 0: associative list with keys has an element that omits all key fields [\"name\"] (and doesn't have default values for any key fields)";
    assert!(error.ends_with(text), "{error}");
    let ports = |port| container(json!({"name": "c", "ports": [port]}));
    let made = put(&json!({}), &ports(json!({"name": "p"})), "one", false).unwrap();
    assert_eq!(made["spec"]["template"]["spec"]["containers"][0]["ports"], json!([{"name": "p"}]));
    let fields = made["metadata"]["managedFields"][0]["fieldsV1"].as_str().unwrap();
    assert!(fields.contains(r#""f:ports":{"k:{\"protocol\":\"TCP\"}":{".":{},"f:name":{}}}"#), "{fields}");
}

#[test]
fn untracked_objects_get_an_entry_for_what_was_there() {
    let mut live = deployment(json!({"replicas": 1}));
    set(&mut live, "metadata.uid", json!("u"));
    let error = put(&live, &deployment(json!({"replicas": 2})), "one", false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using apps/v1: .spec.replicas"
    );
}

#[test]
fn custom_resources_follow_their_schema() {
    let schema = json!({"type": "object", "properties": {
        "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
        "spec": {"type": "object", "properties": {
            "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "integer"}}}},
            "plain": {"type": "array", "items": {"type": "string"}}}}}});
    let object = |spec: Value| json!({"apiVersion": "x.io/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec});
    let put = |live: &Value, spec: Value, manager| {
        apply(Type::Schema(&schema), live, &object(spec), &writer(manager), false)
    };
    let live = put(&json!({}), json!({"parts": [{"name": "p1", "n": 1}], "plain": ["a"]}), "one").unwrap();
    let both = put(&live, json!({"parts": [{"name": "p2", "n": 2}]}), "two").unwrap();
    assert_eq!(both["spec"]["parts"], json!([{"name": "p1", "n": 1}, {"name": "p2", "n": 2}]));
    let error = put(&both, json!({"plain": ["b"]}), "two").unwrap_err();
    assert_eq!(error.to_string(), "Apply failed with 1 conflict: conflict with \"one\": .spec.plain");
}

#[test]
fn many_updaters_are_folded() {
    let mut live = deployment(json!({"replicas": 0}));
    update(ty("Deployment"), None, &mut live, &writer("first"));
    for i in 0..15 {
        let mut new = live.clone();
        set(&mut new, "metadata.labels", json!({ format!("l{i}"): "x" }));
        let name: &'static str = Box::leak(format!("m{i:02}").into_boxed_str());
        update(ty("Deployment"), Some(&live), &mut new, &writer(name));
        live = new;
    }
    assert!(live["metadata"]["managedFields"].as_array().unwrap().len() <= MAX_UPDATE_MANAGERS);
}

/// kubectl applied on its side before: what it said then, and nobody has changed since, is no conflict.
#[test]
fn kubectl_is_not_in_conflict_with_what_it_applied_itself() {
    let map = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "n"}, "data": data});
    let mut made = map(json!({"a": "1", "b": "1"}));
    let text = map(json!({"a": "1", "b": "1"})).to_string();
    set(&mut made, "metadata.annotations", json!({"kubectl.kubernetes.io/last-applied-configuration": text}));
    set(&mut made, "metadata.uid", json!("u"));
    let by = |manager| Writer { api_version: "v1", ..writer(manager) };
    update(ty("ConfigMap"), None, &mut made, &by("kubectl-client-side-apply"));
    let next = map(json!({"a": "2"}));
    let put = |live: &Value, manager| apply(ty("ConfigMap"), live, &next, &by(manager), false);
    assert_eq!(put(&made, "kubectl").unwrap()["data"], json!({"a": "2", "b": "1"}));
    let conflict =
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using v1: .data.a";
    assert_eq!(put(&made, "another").unwrap_err().to_string(), conflict);
    // Somebody else changed it meanwhile.
    let mut changed = made.clone();
    set(&mut changed, "data.a", json!("9"));
    update(ty("ConfigMap"), Some(&made), &mut changed, &by("else"));
    let conflict = "Apply failed with 1 conflict: conflict with \"else\" using v1: .data.a";
    assert_eq!(put(&changed, "kubectl").unwrap_err().to_string(), conflict);
}

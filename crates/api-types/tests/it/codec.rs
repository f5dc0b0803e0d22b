use std::io::Write as _;

use api_types::{codec, schema, table};
use serde_json::{Value, json};

fn message(api_version: &str, kind: &str) -> schema::MessageId {
    schema::lookup_api_version(api_version, kind).unwrap()
}

fn json_of(value: &Value) -> String {
    let message = message(value["apiVersion"].as_str().unwrap(), value["kind"].as_str().unwrap());
    let mut out = Vec::new();
    codec::encode_json(message, value, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// Bytes as upstream's generated code writes them for a Namespace named `a`.
#[test]
fn a_namespace_has_upstreams_bytes() {
    let namespace =
        json!({"metadata": {"name": "a", "resourceVersion": "9"}, "spec": {"finalizers": ["kubernetes"]}});
    let stored = codec::to_stored(message("v1", "Namespace"), "v1", "Namespace", &namespace).unwrap();
    let mut expected = b"k8s\0\n\x0f\n\x02v1\x12\tNamespace\x12".to_vec();
    let metadata = b"\n\x01a\x12\0\x1a\0\"\0*\x002\08\0B\0";
    let mut raw = vec![b'\n', metadata.len() as u8];
    raw.extend_from_slice(metadata);
    raw.extend_from_slice(b"\x12\x0c\n\nkubernetes\x1a\x02\n\0");
    expected.push(raw.len() as u8);
    expected.extend_from_slice(&raw);
    expected.extend_from_slice(b"\x1a\0\"\0");
    assert_eq!(stored, expected);
}

#[test]
fn json_has_gos_order_and_omissions() {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "labels": {"z": "1", "b": "<"}}});
    assert_eq!(
        json_of(&namespace),
        r#"{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"a","labels":{"b":"\u003c","z":"1"}},"spec":{},"status":{}}"#
    );
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"hostNetwork": false, "automountServiceAccountToken": false}});
    assert_eq!(
        json_of(&pod),
        r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"},"spec":{"containers":null,"automountServiceAccountToken":false},"status":{}}"#
    );
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web-0", "namespace": "default", "uid": "u-1", "generation": 3,
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "labels": {"app": "web", "a/b": "c"},
            "annotations": {"note": "line\nbreak \"quoted\" <&> é"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u-0", "controller": true, "blockOwnerDeletion": false}],
            "finalizers": ["x.io/y"],
            "managedFields": [{"manager": "kubectl", "operation": "Apply", "apiVersion": "v1", "time": "2026-01-02T03:04:05Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:containers": {}}}}]
        },
        "spec": {
            "volumes": [{"name": "v", "projected": {"sources": [{"configMap": {"name": "c", "items": [{"key": "k", "path": "p", "mode": 420}]}}], "defaultMode": 420}},
                        {"name": "e", "emptyDir": {"sizeLimit": "1Gi"}}],
            "containers": [{
                "name": "main", "image": "nginx:1",
                "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}],
                "env": [{"name": "A", "value": "b"}, {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": false}}}],
                "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "100m"}},
                "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 10},
                "readinessProbe": {"tcpSocket": {"port": 80}, "initialDelaySeconds": 5}
            }],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 0, "nodeName": "n1",
            "nodeSelector": {"disk": "ssd"}, "hostUsers": false, "priority": -5,
            "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]
        },
        "status": {
            "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "startTime": "2026-01-02T03:04:06Z",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-02T03:04:07Z"}]
        }
    })
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "x"},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i", "resources": {}}]}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": 1}},
            "paused": true
        },
        "status": {"observedGeneration": 2, "conditions": [{"type": "Available", "status": "True"}]}
    })
}

/// A tree that is normal stays as it is through the stored form, and JSON text and tree agree.
#[test]
fn objects_survive_the_stored_form() {
    for object in [pod(), deployment(), service(), secret(), crd(), stateful_set(), lease()] {
        let (api_version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        let message = message(api_version, kind);
        let report = schema::check(message, &object);
        assert!(report.is_clean(), "{report:?}");
        let stored = codec::to_stored(message, api_version, kind, &object).unwrap();
        let tree = codec::from_stored(&stored, 0).unwrap();
        assert_contains(&tree, &object, kind);
        assert_eq!(codec::to_stored(message, api_version, kind, &tree).unwrap(), stored);
        let mut text = Vec::new();
        codec::stored_to_json(&stored, &mut text, 12).unwrap();
        let read = codec::decode_json(&text).unwrap();
        assert!(read.duplicates.is_empty());
        assert_eq!(read.value["metadata"]["resourceVersion"], "12");
        assert_eq!(codec::to_stored(message, api_version, kind, &read.value).unwrap(), stored);
        let mut proto = Vec::new();
        codec::stored_to_proto(&stored, &mut proto, 12).unwrap();
        assert_eq!(codec::from_envelope(&proto).unwrap(), codec::from_stored(&stored, 12).unwrap());
    }
}

/// Every part of `small` stands in `large`.
fn assert_contains(large: &Value, small: &Value, path: &str) {
    match (large, small) {
        (Value::Object(large), Value::Object(small)) => {
            for (key, value) in small {
                let found = large.get(key).unwrap_or_else(|| panic!("{path}.{key} is lost"));
                assert_contains(found, value, &format!("{path}.{key}"));
            }
        }
        (Value::Array(large), Value::Array(small)) => {
            assert_eq!(large.len(), small.len(), "{path}");
            for (index, (large, small)) in large.iter().zip(small).enumerate() {
                assert_contains(large, small, &format!("{path}[{index}]"));
            }
        }
        _ => assert_eq!(large, small, "{path}"),
    }
}

fn service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {
        "ports": [{"port": 80, "targetPort": "http", "protocol": "TCP"}, {"name": "b", "port": 81, "targetPort": 8081}],
        "selector": {"a": "b"}, "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "type": "ClusterIP",
        "allocateLoadBalancerNodePorts": false, "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10}}
    }})
}

fn secret() -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "aGVsbG8=", "empty": ""}, "type": "Opaque", "immutable": false})
}

fn crd() -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "as.x.io"}, "spec": {
        "group": "x.io", "scope": "Namespaced", "names": {"plural": "as", "kind": "A", "shortNames": ["a"]},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
            "type": "object", "required": ["spec"],
            "properties": {
                "spec": {"type": "object", "additionalProperties": {"type": "string", "default": "x"}},
                "list": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 2.5, "enum": [1, 2]}},
                "any": {"x-kubernetes-preserve-unknown-fields": true, "default": {"a": [1, null]}},
                "open": {"type": "object", "additionalProperties": false}
            }
        }}, "subresources": {"status": {}}}]
    }})
}

fn stateful_set() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "s"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}]}},
        "volumeClaimTemplates": [{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]
    }})
}

fn lease() -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {
        "holderIdentity": "a", "leaseDurationSeconds": 15, "leaseTransitions": 0,
        "acquireTime": "2026-01-02T03:04:05.000000Z", "renewTime": "2026-01-02T03:04:05.123456Z"
    }})
}

#[test]
fn values_become_canonical() {
    let pod = json!({"spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}]},
        "metadata": {"creationTimestamp": "2026-01-02T03:04:05.9+01:00", "labels": null, "finalizers": []}});
    let normal = codec::normalize(message("v1", "Pod"), &pod).unwrap();
    let limits = &normal["spec"]["containers"][0]["resources"]["limits"];
    assert_eq!((&limits["cpu"], &limits["memory"]), (&json!("500m"), &json!("1Gi")));
    assert_eq!(normal["metadata"], json!({"creationTimestamp": "2026-01-02T02:04:05Z"}));
}

#[test]
fn errors_name_the_path() {
    let bad = json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": "x"}]}]}});
    let fault = codec::to_proto(message("v1", "Pod"), &bad, &mut Vec::new()).unwrap_err();
    assert_eq!(fault.to_string(), "spec.containers[0].ports[0].containerPort: expected int32, found string");
}

#[test]
fn peeking_equals_decoding() {
    let object = pod();
    let stored = codec::to_stored(message("v1", "Pod"), "v1", "Pod", &object).unwrap();
    let json = codec::json_to_stored(&object);
    let opened = [&stored, &json].map(|stored| codec::peek::open(stored).unwrap());
    for peek in opened.into_iter().chain([codec::peek::of_tree(&object)]) {
        assert_eq!((peek.api_version(), peek.kind()), ("v1", "Pod"));
        assert_eq!((&*peek.name(), &*peek.namespace(), &*peek.uid()), ("web-0", "default", "u-1"));
        assert_eq!(peek.label("a/b").as_deref(), Some("c"));
        assert_eq!(peek.label("missing"), None);
        assert_eq!(peek.annotation("note").as_deref(), Some("line\nbreak \"quoted\" <&> é"));
        assert_eq!(peek.labels().len(), 2);
        assert_eq!(peek.finalizers(), ["x.io/y"]);
        assert_eq!(peek.owner_references(), api_types::meta::owner_references(&object));
        assert_eq!(peek.deletion_timestamp(), None);
        assert_eq!(peek.scalar(&["spec", "nodeName"]).as_deref(), Some("n1"));
        assert_eq!(peek.scalar(&["spec", "priority"]).as_deref(), Some("-5"));
        assert_eq!(peek.scalar(&["spec", "hostUsers"]).as_deref(), Some("false"));
        assert_eq!(peek.scalar(&["spec", "nodeSelector", "disk"]).as_deref(), Some("ssd"));
        assert_eq!(peek.scalar(&["spec", "containers"]), None);
        assert_eq!(peek.scalar(&["metadata", "name"]).as_deref(), Some("web-0"));
        assert!(!peek.is_being_deleted());
        for path in
            [&["spec", "containers"][..], &["spec", "nodeName"], &["metadata", "labels"], &["spec", "none"]]
        {
            let expected = path.iter().fold(&object, |value, name| &value[*name]);
            assert_eq!(&*peek.part(path), expected, "{path:?}");
        }
    }
}

#[test]
fn what_was_opened_is_opened_again_by_its_places() {
    let stored = codec::to_stored(message("v1", "Pod"), "v1", "Pod", &pod()).unwrap();
    let places = codec::peek::open(&stored).unwrap().places(&stored).unwrap();
    let moved = stored.clone();
    let peek = places.open(&moved);
    assert_eq!((peek.api_version(), peek.kind(), &*peek.name()), ("v1", "Pod", "web-0"));
    assert_eq!(peek.scalar(&["spec", "nodeName"]).as_deref(), Some("n1"));
    let json = codec::json_to_stored(&pod());
    assert!(codec::peek::open(&json).unwrap().places(&json).is_none());
}

#[test]
fn peeking_sees_that_bytes_are_the_same() {
    let (one, mut other) = (pod(), pod());
    other["status"]["phase"] = json!("Failed");
    let proto = |pod| codec::to_stored(message("v1", "Pod"), "v1", "Pod", pod).unwrap();
    for [one, other] in
        [[proto(&one), proto(&other)], [codec::json_to_stored(&one), codec::json_to_stored(&other)]]
    {
        let [one, other] = [&one, &other].map(|stored| codec::peek::open(stored).unwrap());
        assert!(one.has_same_bytes(&other, "spec"));
        assert!(!one.has_same_bytes(&other, "status"));
        assert!(!one.has_same_bytes(&codec::peek::of_tree(&pod()), "spec"), "which is in another form");
        assert!(!one.has_same_bytes(&other, ""), "which is no field");
    }
}

#[test]
fn broken_bytes_are_refused_and_never_panic() {
    let stored = codec::to_stored(message("v1", "Pod"), "v1", "Pod", &pod()).unwrap();
    for end in 0..stored.len() {
        let cut = &stored[..end];
        let _ = codec::from_stored(cut, 1);
        let _ = codec::stored_to_json(cut, &mut Vec::new(), 1);
        let _ = codec::stored_to_proto(cut, &mut Vec::new(), 1);
        let _ = codec::peek::open(cut).map(|p| (p.labels(), p.scalar(&["spec", "nodeName"])));
    }
    assert!(codec::from_stored(&stored[..stored.len() / 2], 1).is_err());
    assert_eq!(codec::unwrap_unknown(b"{}"), Err(codec::CodecError::NotEnvelope));
}

#[test]
fn a_list_is_a_concatenation_of_stored_objects() {
    let pods = table::find("", "v1", "pods").unwrap();
    let mut raw = vec![0x0a, 0];
    for name in ["a", "b"] {
        let stored =
            codec::to_stored(pods.built_in_message(), "v1", "Pod", &json!({"metadata": {"name": name}}))
                .unwrap();
        codec::unwrap_unknown(&stored).unwrap().to_proto_item(&mut raw, 5).unwrap();
    }
    let list = codec::from_envelope(&codec::wrap_unknown("v1", "PodList", &raw)).unwrap();
    assert_eq!(list["items"][1]["metadata"], json!({"name": "b", "resourceVersion": "5"}));
}

/// Who only wants to know what an object is like reads it without the record of who set its fields.
#[test]
fn owned_fields_may_stay_text() {
    let fields = json!({"f:metadata": {"f:labels": {".": {}, "k:{\"a\":\"ü<\"}": {}}}});
    let owned = |fields: &Value| {
        let entry =
            json!({"manager": "m", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": fields});
        json!({"managedFields": [entry, entry]})
    };
    let template = |metadata: Value, inner: Value| {
        let mut object = json!({"apiVersion": "v1", "kind": "PodTemplate", "metadata": metadata, "template": {"metadata": inner}});
        object["metadata"]["name"] = "a".into();
        codec::normalize(message("v1", "PodTemplate"), &object).unwrap()
    };
    let stored =
        |object: &Value| codec::to_stored(message("v1", "PodTemplate"), "v1", "PodTemplate", object).unwrap();
    let tree = template(owned(&fields), owned(&fields));
    let text = template(owned(&fields.to_string().into()), owned(&fields));
    assert_eq!(stored(&tree), stored(&text));
    assert_eq!(codec::from_stored(&stored(&tree), 0).unwrap(), tree);
    assert_eq!(
        codec::from_stored_for_update(&stored(&tree), 0).unwrap(),
        text,
        "that of the template is no record"
    );
    for no_object in [json!("x"), json!("{"), json!("{} {}"), json!("[]")] {
        let odd = template(owned(&no_object), owned(&no_object));
        assert_eq!(codec::from_stored(&stored(&odd), 0).unwrap(), odd);
        assert_eq!(codec::from_stored_for_update(&stored(&odd), 0).unwrap(), odd);
    }
}

#[test]
fn objects_and_lists_are_read_without_managed_fields() {
    let bare = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "resourceVersion": "5", "labels": {"a": "b"}}});
    let mut owned = bare.clone();
    let fields = json!({"f:metadata": {"f:labels": {"f:a": {}}}});
    let entry = json!({"manager": "m", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": fields});
    owned["metadata"]["managedFields"] = json!([entry, entry]);
    for object in [&bare, &owned] {
        let stored = codec::to_stored(message("v1", "Pod"), "v1", "Pod", object).unwrap();
        let (mut body, mut items) = (Vec::new(), b"\x0a\x06\x12\x017\x1a\x01c".to_vec());
        codec::stored_to_proto(&stored, &mut body, 5).unwrap();
        codec::unwrap_unknown(&stored).unwrap().to_proto_item(&mut items, 5).unwrap();
        codec::unwrap_unknown(&stored).unwrap().to_proto_item(&mut items, 5).unwrap();
        let mut expected = codec::from_envelope(&body).unwrap();
        expected["metadata"].as_object_mut().unwrap().remove("managedFields");
        assert_eq!(expected["metadata"], bare["metadata"]);
        let packed = codec::to_bare(&body, "v1", "Pod").unwrap();
        assert_eq!(codec::unpack(&packed).unwrap(), expected);
        let list = codec::wrap_unknown("v1", "PodList", &items);
        let (metadata, found) = codec::list_to_bare(&list, "v1", "Pod").unwrap();
        assert_eq!(metadata, json!({"resourceVersion": "7", "continue": "c"}));
        assert_eq!(found, [packed.clone(), packed]);
    }
    let no_list = codec::wrap_unknown("v1", "Pod", b"");
    assert!(codec::list_to_bare(&no_list, "v1", "Pod").is_err());
    assert!(codec::to_bare(&codec::wrap_unknown("v1", "Pod", b"\x0a\x05\x8a"), "v1", "Pod").is_err());
}

#[test]
fn watch_frames_carry_the_object() {
    let pods = table::find("", "v1", "pods").unwrap();
    let stored =
        codec::to_stored(pods.built_in_message(), "v1", "Pod", &json!({"metadata": {"name": "a"}})).unwrap();
    let mut body = Vec::new();
    codec::stored_to_proto(&stored, &mut body, 5).unwrap();
    let mut frame = Vec::new();
    codec::watch_event_to_proto("ADDED", &body, &mut frame);
    assert_eq!(codec::watch_event_from_proto(&frame).unwrap(), ("ADDED", &body[..]));
    let event = codec::from_proto(schema::lookup("", "v1", "WatchEvent").unwrap(), &frame).unwrap();
    assert_eq!(event["object"]["metadata"]["resourceVersion"], "5");
    assert_eq!((&event["type"], &event["object"]["kind"]), (&json!("ADDED"), &json!("Pod")));
}

#[test]
fn partial_metadata_is_read_from_any_object() {
    let stored = codec::to_stored(message("v1", "Pod"), "v1", "Pod", &pod()).unwrap();
    let raw = codec::unwrap_unknown(&stored).unwrap().raw;
    let mut json = Vec::new();
    let (version, kind) = ("meta.k8s.io/v1", "PartialObjectMetadata");
    codec::object_to_json(message(version, kind), version, kind, raw, 3, &mut json).unwrap();
    let value = codec::decode_json(&json).unwrap().value;
    assert_eq!(value["metadata"]["resourceVersion"], "3");
    assert!(value.get("spec").is_none());
}

/// A client's protobuf may nest without end; neither reading nor writing may exhaust the stack.
#[test]
fn deep_schemas_are_refused() {
    let message =
        schema::by_name("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").unwrap();
    let not = message.field("not").unwrap().number;
    let mut bytes = Vec::new();
    for _ in 0..5000 {
        let mut outer = Vec::new();
        varint(u64::from(not) << 3 | 2, &mut outer);
        varint(bytes.len() as u64, &mut outer);
        outer.append(&mut bytes);
        bytes = outer;
    }
    assert_eq!(codec::from_proto(message, &bytes), Err(codec::CodecError::TooDeep));
    assert_eq!(codec::proto_to_json(message, &bytes, &mut Vec::new()), Err(codec::CodecError::TooDeep));
    let mut value = json!({});
    for _ in 0..200 {
        value = json!({"not": value});
    }
    assert_eq!(codec::to_proto(message, &value, &mut Vec::new()), Err(codec::CodecError::TooDeep));
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// What `fuzz/corpus/object` holds goes through everything that the fuzz target `object` calls.
#[test]
fn the_fuzz_corpus_is_decoded() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/object");
    let mut inputs = 0;
    for file in std::fs::read_dir(folder).expect("corpus") {
        let path = file.expect("a file").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let data = std::fs::read(&path).expect("bytes");
        let proto = codec::from_envelope(&data);
        assert_eq!(proto.is_ok(), name.ends_with(".proto"), "{name}");
        drop((codec::from_stored(&data, 1), codec::stored_to_json(&data, &mut Vec::new(), 1)));
        drop(codec::stored_to_proto(&data, &mut Vec::new(), 1));
        if let Ok(peek) = codec::peek::open(&data) {
            drop((peek.labels(), peek.finalizers(), peek.owner_references(), peek.deletion_timestamp()));
        }
        assert_eq!(codec::decode_json(&data).is_ok(), name.ends_with(".json"), "{name}");
        assert_eq!(
            codec::decode_yaml(&data).is_ok(),
            !name.ends_with(".proto") && !name.contains("bad"),
            "{name}"
        );
        inputs += 1;
    }
    writeln!(std::io::stderr(), "fuzz corpus object: {inputs} inputs").expect("printed");
}

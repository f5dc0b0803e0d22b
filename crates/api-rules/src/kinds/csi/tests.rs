use super::super::bench::{check_created, check_status, check_updated, created, defaulted, with};
use crate::rules_of;
use serde_json::{Value, json};

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

fn object(kind: &str, rest: Value) -> Value {
    let mut object = json!({"apiVersion": "storage.k8s.io/v1", "kind": kind, "metadata": {"name": "a"}});
    object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    defaulted(object)
}

#[test]
fn drivers() {
    let good = object("CSIDriver", json!({"spec": {"tokenRequests": [{"audience": "a"}]}}));
    check_created(
        &good,
        &[
            (
                "/spec",
                json!({}),
                &[
                    "spec.attachedRequired: Required value",
                    "spec.podInfoOnMount: Required value",
                    "spec.storageCapacity: Required value",
                    "spec.seLinuxMount: Required value",
                    "spec.preventPodSchedulingIfMissing: Required value",
                ],
            ),
            ("/spec/fsGroupPolicy", json!("File"), &[]),
            (
                "/spec/fsGroupPolicy",
                json!("Any"),
                &[
                    "spec.fsGroupPolicy: Unsupported value: \"Any\": supported values: \"File\", \"None\", \"ReadWriteOnceWithFSType\"",
                ],
            ),
            (
                "/spec/volumeLifecycleModes",
                json!(["Ephemeral", "Short"]),
                &[
                    "spec.volumeLifecycleModes: Unsupported value: \"Short\": supported values: \"Persistent\", \"Ephemeral\"",
                ],
            ),
            ("/spec/nodeAllocatableUpdatePeriodSeconds", json!(10), &[]),
            (
                "/spec/nodeAllocatableUpdatePeriodSeconds",
                json!(9),
                &[
                    "spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 9: must be greater than or equal to 10 seconds",
                ],
            ),
            (
                "/spec/tokenRequests",
                json!([
                    {"audience": "a", "expirationSeconds": 600},
                    {"audience": "a", "expirationSeconds": 1},
                    {"audience": "b", "expirationSeconds": 599},
                    {"audience": "c", "expirationSeconds": 4_294_967_297_i64},
                ]),
                &[
                    "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
                    "spec.tokenRequests[2].expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes",
                    "spec.tokenRequests[3].expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds",
                ],
            ),
            ("/spec/serviceAccountTokenInSecrets", json!(true), &[]),
        ],
    );
    let alone = with(
        &with(&good, "/spec/serviceAccountTokenInSecrets", json!(false)),
        "/spec/tokenRequests",
        json!([]),
    );
    assert_eq!(
        created(&alone),
        [
            "spec.serviceAccountTokenInSecrets: Invalid value: false: serviceAccountTokenInSecrets is set but no tokenRequests are specified"
        ]
    );
    check_updated(
        &good,
        &[
            ("/spec/podInfoOnMount", json!(true), &[]),
            (
                "/spec/attachRequired",
                json!(false),
                &["spec.attachedRequired: Invalid value: false: field is immutable"],
            ),
            (
                "/spec/volumeLifecycleModes",
                json!(["Ephemeral"]),
                &["spec.volumeLifecycleModes: Invalid value: [\"Ephemeral\"]: field is immutable"],
            ),
        ],
    );
}

#[test]
fn nodes() {
    let driver = json!({"name": "d", "nodeID": "n", "topologyKeys": ["k"], "allocatable": {"count": 1}});
    let good = object("CSINode", json!({"spec": {"drivers": [driver]}}));
    let long = "x".repeat(257);
    let too_long =
        format!("spec.drivers[0].nodeID: Invalid value: \"{long}\": must be 256 characters or less");
    let bad_name = format!("spec.drivers[0].name: Invalid value: \"d_\": {SUBDOMAIN}");
    let bad_key = format!("spec.drivers[0]: Invalid value: \"\": {QUALIFIED}");
    check_created(
        &good,
        &[
            ("/spec/drivers/0/name", json!("D"), &[]),
            ("/spec/drivers/0/name", json!("d_"), &[&bad_name]),
            ("/spec/drivers/0/nodeID", json!("x".repeat(256)), &[]),
            ("/spec/drivers/0/nodeID", json!(long), &[&too_long]),
            (
                "/spec/drivers/-",
                json!({"name": "d"}),
                &["spec.drivers[1].nodeID: Required value", "spec.drivers[1].name: Duplicate value: \"d\""],
            ),
            (
                "/spec/drivers/0/allocatable/count",
                json!(-1),
                &["spec.drivers[0].allocatable.count: Invalid value: -1: must be greater than or equal to 0"],
            ),
            ("/spec/drivers/0/topologyKeys", json!(["k", "k"]), &["spec.drivers[0]: Duplicate value: \"k\""]),
            (
                "/spec/drivers/0/topologyKeys",
                json!([""]),
                &[
                    "spec.drivers[0]: Required value",
                    "spec.drivers[0]: Invalid value: \"\": name part must be non-empty",
                    &bad_key,
                ],
            ),
        ],
    );
    check_updated(
        &good,
        &[
            ("/spec/drivers/0/allocatable", json!({"count": 5}), &[]),
            ("/spec/drivers", json!([]), &[]),
            (
                "/spec/drivers/0/nodeID",
                json!("m"),
                &[
                    "spec.drivers: Invalid value: {\"name\":\"d\",\"nodeID\":\"m\",\"topologyKeys\":[\"k\"]}: field is immutable",
                ],
            ),
        ],
    );
    let mut new = with(&good, "/status", json!({"storageHealth": [{"name": "d"}]}));
    (rules_of("storage.k8s.io", "v1", "CSINode").unwrap().prepare_status_update)(&mut new, &good);
    assert!(new["status"].get("storageHealth").is_none(), "an alpha gate keeps it");
}

#[test]
fn capacities() {
    let mut good = object("CSIStorageCapacity", json!({"storageClassName": "c", "capacity": "1Gi"}));
    good["metadata"]["namespace"] = json!("n");
    let bad_class = format!("storageClassName: Invalid value: \"C\": {SUBDOMAIN}");
    let none = format!("storageClassName: Invalid value: \"\": {SUBDOMAIN}");
    let operator = json!({"matchExpressions": [{"key": "k", "operator": "Near"}]});
    check_created(
        &good,
        &[
            ("/storageClassName", json!("C"), &[&bad_class]),
            ("/storageClassName", Value::Null, &[&none]),
            ("/capacity", json!("0"), &[]),
            (
                "/capacity",
                json!("-1"),
                &["capacity: Invalid value: \"-1\": must be greater than or equal to 0"],
            ),
            (
                "/nodeTopology",
                operator,
                &[
                    "nodeTopology.matchExpressions[0].operator: Invalid value: \"Near\": not a valid selector operator",
                ],
            ),
        ],
    );
    check_updated(
        &good,
        &[
            ("/capacity", json!("2Gi"), &[]),
            (
                "/storageClassName",
                json!("d"),
                &["storageClassName: Invalid value: \"d\": field is immutable"],
            ),
            (
                "/nodeTopology",
                json!({"matchLabels": {"a": "b"}}),
                &["nodeTopology: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: field is immutable"],
            ),
        ],
    );
}

fn attachment() -> Value {
    let spec = json!({"attacher": "d", "nodeName": "n", "source": {"persistentVolumeName": "v"}});
    object("VolumeAttachment", json!({"spec": spec}))
}

#[test]
fn attachments() {
    let any_case = "an RFC 1123 subdomain must consist of alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'Example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    let bad_attacher = format!("spec.attacher: Invalid value: \"d_\": {any_case}");
    let bad_node = format!("spec.nodeName: Invalid value: \"N\": {SUBDOMAIN}");
    let bad_volume = format!("spec.source.persistentVolumeName: Invalid value: \"V\": {SUBDOMAIN}");
    let no_volume = format!("spec.source.persistentVolumeName: Invalid value: \"\": {SUBDOMAIN}");
    let one_of = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let none = format!("spec.source: Required value: {one_of}");
    let both = format!("spec.source: Forbidden: {one_of}");
    check_created(
        &attachment(),
        &[
            ("/spec/attacher", json!(""), &["spec.attacher: Required value"]),
            ("/spec/attacher", json!("D".repeat(63)), &[]),
            (
                "/spec/attacher",
                json!("d".repeat(64)),
                &["spec.attacher: Too long: may not be more than 63 characters"],
            ),
            ("/spec/attacher", json!("d_"), &[&bad_attacher]),
            ("/spec/nodeName", json!("N"), &[&bad_node]),
            ("/spec/source", json!({}), &[&none]),
            ("/spec/source", json!({"persistentVolumeName": "v", "inlineVolumeSpec": {}}), &[&both]),
            ("/spec/source/persistentVolumeName", json!("V"), &[&bad_volume]),
            (
                "/spec/source/persistentVolumeName",
                json!(""),
                &[
                    "spec.source.persistentVolumeName: Required value: must specify non empty persistentVolumeName",
                    &no_volume,
                ],
            ),
        ],
    );
    check_updated(
        &attachment(),
        &[
            ("/metadata/labels", json!({"a": "b"}), &[]),
            ("/spec/nodeName", json!("m"), &["spec: Invalid value: null: field is immutable"]),
        ],
    );
}

#[test]
fn volumes_in_attachments() {
    let csi = json!({"driver": "d", "volumeHandle": "h"});
    let spec = json!({"accessModes": ["ReadWriteOnce"], "csi": csi});
    let good = with(&attachment(), "/spec/source", json!({"inlineVolumeSpec": spec}));
    let at = "spec.source.inlineVolumeSpec";
    let of = |field: &str, text: &str| format!("{at}.{field}: {text}");
    let forbidden = "Forbidden: may not be specified in the context of inline volumes";
    for (field, value, wanted) in [
        ("claimRef", json!({"name": "c"}), forbidden),
        ("capacity", json!({"storage": "1Gi"}), forbidden),
        ("nodeAffinity", json!({"required": {}}), forbidden),
        ("storageClassName", json!("c"), forbidden),
        ("csi", Value::Null, "Required value: has to be specified in the context of inline volumes"),
        ("accessModes", json!([]), "Required value"),
        (
            "persistentVolumeReclaimPolicy",
            json!("Delete"),
            "Forbidden: may only be Retain in the context of inline volumes",
        ),
        (
            "volumeMode",
            json!("Block"),
            "Forbidden: may not specify volumeMode other than Filesystem in the context of inline volumes",
        ),
        ("volumeAttributesClassName", json!(""), "Required value: an empty string is disallowed"),
        ("nfs", json!({"server": "s", "path": "/x"}), "Forbidden: may not specify more than 1 volume type"),
    ] {
        // The driver comes last of all sources.
        let mut wanted = vec![of(if field == "nfs" { "csi" } else { field }, wanted)];
        if field == "csi" {
            wanted.push(format!("{at}: Required value: must specify a volume type"));
        }
        let pointer = format!("/spec/source/inlineVolumeSpec/{field}");
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        check_created(&good, &[(&pointer, value, &wanted)]);
    }
}

#[test]
fn statuses_of_attachments() {
    let long = "x".repeat(1025);
    check_status(
        &with(&attachment(), "/status", json!({"attached": false})),
        &[
            ("/status/attachError", json!({"message": "x".repeat(1024), "errorCode": 0}), &[]),
            (
                "/status/attachError",
                json!({"message": long, "errorCode": -1}),
                &[
                    "status.attachError.message: Too long: may not be more than 1024 bytes",
                    "status.attachError.errorCode: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                ],
            ),
            (
                "/status/detachError",
                json!({"message": long}),
                &["status.detachError.message: Too long: may not be more than 1024 bytes"],
            ),
            (
                "/status/attachmentMetadata",
                json!({"a": "x".repeat(256 * 1024)}),
                &["status.attachmentMetadata: Too long: may not be more than 262144 bytes"],
            ),
        ],
    );
}

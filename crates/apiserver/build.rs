//! Collects what upstream says of its types and their fields, for OpenAPI and `kubectl explain`: the schemas of
//! k8s-openapi become one packed table, `descriptions.json.gz`: `{"<schema>": ["<text>", {"<field>": "<text>"}]}`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use flate2::{Compression, GzBuilder};
use k8s_openapi::schemars::SchemaGenerator;
use k8s_openapi::serde_json::{self, Value};

/// Asks for the schemas of kinds; those that they refer to come along.
macro_rules! schemas {
    ($generator:ident, $($($module:ident)::+ { $($kind:ident),+ $(,)? })+) => {
        $({
            use k8s_openapi::$($module)::+ as module;
            $($generator.subschema_for::<module::$kind>();)+
        })+
    };
}

fn schemas() -> BTreeMap<String, Value> {
    let mut generator = SchemaGenerator::default();
    schemas! { generator,
        api::admissionregistration::v1 {
            MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingWebhookConfiguration,
            ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration,
        }
        api::admissionregistration::v1alpha1 { MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding }
        api::admissionregistration::v1beta1 { MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding }
        api::apiserverinternal::v1alpha1 { StorageVersion }
        api::apps::v1 { ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet }
        api::authentication::v1 { SelfSubjectReview, TokenRequest, TokenReview }
        api::authorization::v1 {
            LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
        }
        api::autoscaling::v1 { HorizontalPodAutoscaler, Scale }
        api::autoscaling::v2 { HorizontalPodAutoscaler }
        api::batch::v1 { CronJob, Job }
        api::certificates::v1 { CertificateSigningRequest, ClusterTrustBundle, PodCertificateRequest }
        api::certificates::v1beta1 { ClusterTrustBundle, PodCertificateRequest }
        api::coordination::v1 { Lease }
        api::coordination::v1alpha2 { LeaseCandidate }
        api::coordination::v1beta1 { LeaseCandidate }
        api::core::v1 {
            Binding, ComponentStatus, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, PersistentVolume,
            PersistentVolumeClaim, Pod, PodTemplate, ReplicationController, ResourceQuota, Secret, Service,
            ServiceAccount,
        }
        api::discovery::v1 { EndpointSlice }
        api::events::v1 { Event }
        api::flowcontrol::v1 { FlowSchema, PriorityLevelConfiguration }
        api::lifecycle::v1alpha1 { Eviction, EvictionRequest }
        api::networking::v1 { IPAddress, Ingress, IngressClass, NetworkPolicy, ServiceCIDR }
        api::node::v1 { RuntimeClass }
        api::policy::v1 { Eviction, PodDisruptionBudget }
        api::rbac::v1 { ClusterRole, ClusterRoleBinding, Role, RoleBinding }
        api::resource::v1 {
            DeviceClass, DeviceTaintRule, ResourceClaim, ResourceClaimTemplate, ResourceSlice,
        }
        api::resource::v1alpha3 { DeviceTaintRule, ResourcePoolStatusRequest }
        api::resource::v1beta1 { DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice }
        api::resource::v1beta2 {
            DeviceClass, DeviceTaintRule, ResourceClaim, ResourceClaimTemplate, ResourceSlice,
        }
        api::scheduling::v1 { PriorityClass }
        api::scheduling::v1alpha3 { CompositePodGroup, PodGroup, Workload }
        api::scheduling::v1beta1 { PodGroup, Workload }
        api::storage::v1 {
            CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass,
        }
        api::storagemigration::v1 { StorageVersionMigration }
        api::storagemigration::v1beta1 { StorageVersionMigration }
        apiextensions_apiserver::pkg::apis::apiextensions::v1 { CustomResourceDefinition }
        apimachinery::pkg::apis::meta::v1 {
            APIGroup, APIGroupList, APIResourceList, APIVersions, DeleteOptions, ListMeta, Patch, Status,
        }
        kube_aggregator::pkg::apis::apiregistration::v1 { APIService }
    }
    generator.take_definitions(false).into_iter().collect()
}

fn text(schema: &Value) -> Option<&Value> {
    schema.get("description").filter(|text| text.as_str().is_some_and(|text| !text.is_empty()))
}

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let mut table = serde_json::Map::new();
    for (name, schema) in schemas() {
        let properties = schema["properties"].as_object().into_iter().flatten();
        let fields = properties.filter_map(|(field, schema)| Some((field.clone(), text(schema)?.clone())));
        let fields: serde_json::Map<String, Value> = fields.collect();
        let own = text(&schema).cloned().unwrap_or_default();
        table.insert(name, Value::Array(vec![own, Value::Object(fields)]));
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("descriptions.json.gz");
    let mut packed = GzBuilder::new().write(std::fs::File::create(out)?, Compression::best());
    packed.write_all(Value::Object(table).to_string().as_bytes())?;
    packed.finish()?.sync_all()
}

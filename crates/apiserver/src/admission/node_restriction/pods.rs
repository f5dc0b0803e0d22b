//! Pods of an agent's node: it mirrors its own static pods, reports on and ends those that it runs, and asks for their
//! tokens and certificates.

use api_rules::look::Look;
use api_types::status::Status;
use api_types::{Value, meta};

use super::{Agent, quote};
use crate::admission::{Operation, lookup};
use crate::authz::Ask;

const MIRROR: &str = "kubernetes.io/config.mirror";
const PODS: lookup::Name = ("", "v1", "pods");
const CLAIMS: lookup::Name = ("", "v1", "persistentvolumeclaims");
const VOLUMES: lookup::Name = ("", "v1", "persistentvolumes");
const DRIVERS: lookup::Name = ("storage.k8s.io", "v1", "csidrivers");
const ACCOUNTS: lookup::Name = ("", "v1", "serviceaccounts");
/// Fields of a pod's status that others write.
const OTHERS_STATUS: [(&str, &str); 3] = [
    ("resourceClaimStatuses", "resource claim statues"),
    ("extendedResourceClaimStatus", "extended resource claim status"),
    ("nodeAllocatableResourceClaimStatuses", "node allocatable resource claim statuses"),
];
/// Volumes that need nothing of the API.
const PLAIN_VOLUMES: [&str; 23] = [
    "awsElasticBlockStore",
    "azureDisk",
    "cephfs",
    "cinder",
    "downwardAPI",
    "emptyDir",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
    "name",
];
/// Volumes that need an object, and which.
const VOLUME_OBJECTS: [(&str, &str); 7] = [
    ("configMap", "configmaps (via configmap volumes)"),
    ("secret", "secrets (via secret volumes)"),
    ("csi", "csidrivers (via CSI volumes)"),
    ("glusterfs", "endpoints (via glusterFS volumes)"),
    ("persistentVolumeClaim", "persistentvolumeclaims"),
    ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
    ("azureFile", "secrets (via azureFile volumes)"),
];
/// Sources of projected volumes that need an object, and which.
const SOURCE_OBJECTS: [(&str, &str); 5] = [
    ("configMap", "configmaps (via projected volumes)"),
    ("secret", "secrets (via projected volumes)"),
    ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
    ("clusterTrustBundle", "clustertrustbundles"),
    ("podCertificate", "podcertificates"),
];

impl Agent<'_> {
    pub(super) fn pod(&self, object: &Value) -> Result<(), Status> {
        let own = self.quoted();
        match (self.attributes.subresource, self.attributes.operation) {
            ("", Operation::Create) => self.mirror(object),
            ("", Operation::Delete) => {
                self.is_here(self.attributes.old, &format!("node {own} can only delete pods"))
            }
            ("", operation) => self.forbidden(format!(
                "unexpected operation {}, node {own} can only create and delete mirror pods",
                quote(operation.name())
            )),
            ("status", Operation::Update) => self.pod_status(object),
            ("eviction", Operation::Create) => {
                let target = self.attributes.target;
                let pod = self.stored(PODS, &target.namespace, &target.name)?;
                self.is_here(pod.as_ref(), &format!("node {} can only evict pods", self.node))
            }
            ("status" | "eviction", _) => self.unexpected(),
            (other, _) => self.forbidden(format!(
                "unexpected pod subresource {}, only 'status' and 'eviction' are allowed",
                quote(other)
            )),
        }
    }

    /// Whether a pod is on the agent's node; one that is not there is found missing later.
    fn is_here(&self, pod: Option<&Value>, what: &str) -> Result<(), Status> {
        match pod.is_none_or(|pod| pod.text("spec.nodeName") == self.node) {
            true => Ok(()),
            false => self.forbidden(format!("{what} with spec.nodeName set to itself")),
        }
    }

    fn mirror(&self, pod: &Value) -> Result<(), Status> {
        let own = self.quoted();
        if meta::annotation(pod, MIRROR).is_none() {
            return self.forbidden(format!(
                "pod does not have {} annotation, node {own} can only create mirror pods",
                quote(MIRROR)
            ));
        }
        self.is_here(Some(pod), &format!("node {own} can only create pods"))?;
        self.owner(pod)?;
        match referenced(pod) {
            Ok(None) => Ok(()),
            Ok(Some(what)) => self.forbidden(format!("node {own} can not create pods that reference {what}")),
            Err(why) => self.forbidden(format!("error checking mirror pod for API references: {why}")),
        }
    }

    /// A mirror belongs to the node alone.
    fn owner(&self, pod: &Value) -> Result<(), Status> {
        let own = self.quoted();
        let owners = pod.items("metadata.ownerReferences");
        let [owner] = owners else {
            let single = if owners.is_empty() { "an" } else { "a single" };
            let why = format!("node {own} can only create pods with {single} owner reference set to itself");
            return self.forbidden(why);
        };
        if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != self.node {
            let why = format!("node {own} can only create pods with an owner reference set to itself");
            return self.forbidden(why);
        }
        if owner["controller"] != true {
            let why =
                format!("node {own} can only create pods with a controller owner reference set to itself");
            return self.forbidden(why);
        }
        if owner["blockOwnerDeletion"] == true {
            let why = format!("node {own} must not set blockOwnerDeletion on an owner reference");
            return self.forbidden(why);
        }
        let node = self.stored(lookup::NODES, "", self.node)?;
        let node = node.ok_or_else(|| Status::not_found("", "nodes", self.node))?;
        let (expected, found) = (owner.text("uid"), meta::uid(&node));
        match expected == found {
            true => Ok(()),
            false => {
                self.forbidden(format!("node {} UID mismatch: expected {expected} got {found}", self.node))
            }
        }
    }

    fn pod_status(&self, new: &Value) -> Result<(), Status> {
        let Some(old) = self.attributes.old else { return self.unexpected() };
        let own = self.quoted();
        self.is_here(Some(old), &format!("node {own} can only update pod status for pods"))?;
        if meta::labels(old) != meta::labels(new) {
            return self.forbidden(format!("node {own} cannot update labels through pod status"));
        }
        for (field, what) in OTHERS_STATUS {
            if old["status"][field] != new["status"][field] {
                return self.forbidden(format!("node {own} cannot update {what}"));
            }
        }
        Ok(())
    }

    /// A token is for a pod that runs here, and for an audience that the pod has a use for.
    pub(super) fn token(&self, request: &Value) -> Result<(), Status> {
        if self.attributes.operation != Operation::Create {
            return Ok(());
        }
        let bound = &request["spec"]["boundObjectRef"];
        let name = bound.text("name");
        if bound["apiVersion"] != "v1" || bound["kind"] != "Pod" || name.is_empty() {
            return self.forbidden("node requested token not bound to a pod");
        }
        let uid = bound.text("uid");
        if uid.is_empty() {
            return self.forbidden("node requested token with a pod binding without a uid");
        }
        let pod = self.stored(PODS, &self.attributes.target.namespace, name)?;
        let pod = pod.ok_or_else(|| Status::not_found("", "pods", name))?;
        if uid != meta::uid(&pod) {
            return self.forbidden(format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            ));
        }
        if pod.text("spec.nodeName") != self.node {
            return self.forbidden("node requested token bound to a pod scheduled on a different node");
        }
        self.audience(request, &pod)
    }

    fn audience(&self, request: &Value, pod: &Value) -> Result<(), Status> {
        let audiences: Vec<&str> = request.texts("spec.audiences").collect();
        let audience = match audiences.as_slice() {
            [] => "",
            [one] => one,
            _ => return self.forbidden("node may only request 0 or 1 audiences"),
        };
        let target = self.attributes.target;
        let asks = Ask {
            verb: "request-serviceaccounts-token-audience",
            group: &target.resource.group,
            resource: audience,
            namespace: &target.namespace,
            name: &target.name,
            ..Ask::default()
        };
        let view = self.api.storage.view();
        let user = self.attributes.user;
        if self.has_use_for(pod, audience)? || self.api.authorizer.allows(&view, user, &asks) {
            return Ok(());
        }
        let audience = quote(audience);
        self.forbidden(format!("{} is not authorized to request tokens for audience {audience}", user.name))
    }

    /// Whether a volume of a pod wants tokens for an audience.
    fn has_use_for(&self, pod: &Value, audience: &str) -> Result<bool, Status> {
        let wants = |of: &Value| of.text("audience") == audience;
        for volume in pod.items("spec.volumes") {
            let mut tokens =
                volume.items("projected.sources").iter().map(|source| &source["serviceAccountToken"]);
            if tokens.any(|token| token.is_object() && wants(token)) {
                return Ok(true);
            }
            let Some(driver) = self.driver(pod, volume)? else { continue };
            let driver = self.stored(DRIVERS, "", &driver)?.unwrap_or_default();
            if driver.items("spec.tokenRequests").iter().any(wants) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The CSI driver of a volume.
    fn driver(&self, pod: &Value, volume: &Value) -> Result<Option<String>, Status> {
        if volume["csi"].is_object() {
            return Ok(Some(volume.text("csi.driver").to_owned()));
        }
        let claim = match volume.text("persistentVolumeClaim.claimName") {
            "" if volume["ephemeral"]["volumeClaimTemplate"].is_object() => {
                format!("{}-{}", meta::name(pod), volume.text("name"))
            }
            "" => return Ok(None),
            claim => claim.to_owned(),
        };
        let Some(claim) = self.stored(CLAIMS, meta::namespace(pod), &claim)? else { return Ok(None) };
        let bound = self.stored(VOLUMES, "", claim.text("spec.volumeName"))?.unwrap_or_default();
        Ok(bound["spec"]["csi"]["driver"].as_str().map(str::to_owned))
    }

    /// A certificate is for a pod that runs here, in the name of its account.
    pub(super) fn pod_certificate(&self, request: &Value) -> Result<(), Status> {
        if self.attributes.operation != Operation::Create || !self.attributes.subresource.is_empty() {
            return self.unexpected();
        }
        let (spec, namespace) = (&request["spec"], self.attributes.target.namespace.as_str());
        let of = |field: &str| spec.text(field);
        if of("nodeName") != self.node {
            let (found, own) = (quote(of("nodeName")), self.quoted());
            return self.forbidden(format!(
                "PodCertificateRequest.Spec.NodeName={found}, which is not the requesting node {own}"
            ));
        }
        let pod_name = quote(&format!("{namespace}/{}", of("podName")));
        // What may be seen later as it is named: the agent tries again.
        let behind = |what: &str| {
            Err(Status::internal(format!(
                "PodCertificateRequest for pod {pod_name} names {what} that is not there"
            )))
        };
        let is = |object: &Option<Value>, uid: &str| {
            object.as_ref().is_some_and(|found| meta::uid(found) == of(uid))
        };
        if !is(&self.stored(lookup::NODES, "", self.node)?, "nodeUID") {
            return behind("a node UID");
        }
        let pod = self.stored(PODS, namespace, of("podName"))?;
        let Some(pod) = pod.filter(|pod| meta::uid(pod) == of("podUID")) else { return behind("a pod UID") };
        if pod.text("spec.nodeName") != self.node {
            return self.forbidden(format!(
                "pod {pod_name} is not running on node {} named in the PodCertificateRequest",
                self.quoted()
            ));
        }
        if meta::annotation(&pod, MIRROR).is_some() {
            return self.forbidden(format!("pod {pod_name} is a mirror pod"));
        }
        let account = pod.text("spec.serviceAccountName");
        if of("serviceAccountName") != account {
            let (asked, has) = (quote(of("serviceAccountName")), quote(account));
            return self.forbidden(format!("PodCertificateRequest for pod {pod_name} contains serviceAccountName ({asked}) that differs from running pod ({has})"));
        }
        if !is(&self.stored(ACCOUNTS, namespace, account)?, "serviceAccountUID") {
            return behind("a service account UID");
        }
        self.mounts_certificate(&pod, of("signerName"), account, &pod_name)
    }

    fn mounts_certificate(
        &self,
        pod: &Value,
        signer: &str,
        account: &str,
        pod_name: &str,
    ) -> Result<(), Status> {
        let mut sources =
            pod.items("spec.volumes").iter().flat_map(|volume| volume.items("projected.sources").iter());
        if sources.any(|source| source["podCertificate"]["signerName"] == signer) {
            return Ok(());
        }
        let target = self.attributes.target;
        let munged = signer.replace('/', ":");
        let asks = Ask {
            verb: "request-serviceaccounts-podcertificate-signer",
            group: &target.resource.group,
            resource: &munged,
            namespace: &target.namespace,
            name: account,
            ..Ask::default()
        };
        match self.api.authorizer.allows(&self.api.storage.view(), self.attributes.user, &asks) {
            true => Ok(()),
            false => self.forbidden(format!(
                "pod {pod_name} does not mount a podCertificate projected volume for signer {}",
                quote(signer)
            )),
        }
    }
}

/// The kind of an object that a pod refers to, if there is one.
fn referenced(pod: &Value) -> Result<Option<&'static str>, String> {
    let spec = &pod["spec"];
    if !spec.text("serviceAccountName").is_empty() {
        return Ok(Some("serviceaccounts"));
    }
    if !spec.items("imagePullSecrets").is_empty() || names(spec, &["secretKeyRef", "secretRef"]) {
        return Ok(Some("secrets"));
    }
    if names(spec, &["configMapKeyRef", "configMapRef"]) {
        return Ok(Some("configmaps"));
    }
    if !spec.items("resourceClaims").is_empty() {
        return Ok(Some("resourceclaims"));
    }
    for volume in spec.items("volumes") {
        if let Some(found) = of_volume(volume)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn of_volume(volume: &Value) -> Result<Option<&'static str>, String> {
    let named = |fields: &[(&str, &'static str)], of: &Value| {
        fields.iter().find(|(field, _)| of[*field].is_object()).map(|(_, what)| *what)
    };
    let name = quote(volume.text("name"));
    if let Some(what) = named(&VOLUME_OBJECTS, volume) {
        return Ok(Some(what));
    }
    if volume["projected"].is_object() {
        for source in volume.items("projected.sources") {
            match named(&SOURCE_OBJECTS, source) {
                Some(what) => return Ok(Some(what)),
                None if source["downwardAPI"].is_object() => {}
                None => return Err(format!("unknown source for projected volume {name}")),
            }
        }
        return Ok(None);
    }
    let mut fields = volume.as_object().into_iter().flat_map(|volume| volume.keys());
    match fields.all(|field| PLAIN_VOLUMES.contains(&field.as_str())) {
        true => Ok(None),
        false => Err(format!("unknown volume type for volume {name}")),
    }
}

/// Whether a field of one of these names stands anywhere below.
fn names(value: &Value, fields: &[&str]) -> bool {
    match value {
        Value::Object(map) => {
            map.iter().any(|(key, child)| fields.contains(&key.as_str()) || names(child, fields))
        }
        Value::Array(list) => list.iter().any(|child| names(child, fields)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_mirror_refers_to_nothing() {
        let of = |spec: Value| referenced(&json!({"spec": spec}));
        let volume = |volume: Value| of(json!({"volumes": [volume]}));
        assert_eq!(of(json!({"containers": [{"name": "a", "image": "i"}]})), Ok(None));
        assert_eq!(of(json!({"serviceAccountName": "a"})), Ok(Some("serviceaccounts")));
        let env = json!({"containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "s"}}}]}]});
        assert_eq!(of(env), Ok(Some("secrets")));
        assert_eq!(volume(json!({"name": "v", "hostPath": {"path": "/"}})), Ok(None));
        assert_eq!(
            volume(json!({"name": "v", "secret": {"secretName": "s"}})),
            Ok(Some("secrets (via secret volumes)"))
        );
        assert_eq!(volume(json!({"name": "v", "projected": {"sources": [{"downwardAPI": {}}]}})), Ok(None));
        assert!(volume(json!({"name": "v", "novelty": {}})).is_err());
    }
}

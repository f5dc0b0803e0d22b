//! NodeRestriction: an agent changes its own node, its own pods and what belongs to them, and nothing that would draw
//! others' pods to its node (upstream: `plugin/pkg/admission/noderestriction`).

mod node;
mod pods;

use api_types::status::Status;
use api_types::{Value, meta};

use super::{Admit, Attributes, Check, Operation, Plugin, certificate_subject, lookup};
use crate::api::Api;
use crate::user::NODE_PREFIX;

/// Where the Leases of nodes are.
const LEASES: &str = "kube-node-lease";
/// Signers of agents' certificates.
const SIGNERS: [&str; 2] = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
/// What an agent may change of a claim's status.
const OF_CLAIMS: [&str; 4] = ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"];

pub(super) const PLUGIN: Plugin = Plugin {
    admit: Admit::Now(|api, attributes, object| match attributes.user.node() {
        Some(node) => Agent { api, attributes, node }.restrict(object),
        None => Ok(()),
    }),
    check: Check::Never,
};

/// The request of an agent.
struct Agent<'a> {
    api: &'a Api,
    attributes: &'a Attributes<'a>,
    node: &'a str,
}

impl Agent<'_> {
    fn restrict(&self, object: &Value) -> Result<(), Status> {
        let (resource, sub) = (&self.attributes.target.resource, self.attributes.subresource);
        match (resource.group.as_str(), resource.resource.as_str(), sub) {
            ("", "pods", _) => self.pod(object),
            ("", "nodes", _) => self.node(object),
            ("", "persistentvolumeclaims", "status") => self.claim_status(object),
            ("", "persistentvolumeclaims", _) => self.forbidden("may only update PVC status"),
            ("", "serviceaccounts", "token") => self.token(object),
            ("coordination.k8s.io", "leases", _) => self.lease(),
            ("storage.k8s.io", "csinodes", _) => self.csi_node(object),
            ("resource.k8s.io", "resourceslices", _) => self.slice(object),
            ("certificates.k8s.io", "podcertificaterequests", _) => self.pod_certificate(object),
            ("certificates.k8s.io", "certificatesigningrequests", "") => self.certificate(object),
            _ => Ok(()),
        }
    }

    fn forbidden<T>(&self, why: impl AsRef<str>) -> Result<T, Status> {
        Err(self.attributes.target.forbidden(why.as_ref()))
    }

    fn unexpected(&self) -> Result<(), Status> {
        self.forbidden(format!("unexpected operation {}", quote(self.attributes.operation.name())))
    }

    /// The agent's node in quotes, as messages name it.
    fn quoted(&self) -> String {
        quote(self.node)
    }

    fn stored(&self, kind: lookup::Name, namespace: &str, name: &str) -> Result<Option<Value>, Status> {
        lookup::read(&self.api.storage.view(), kind, namespace, name)
    }

    fn claim_status(&self, new: &Value) -> Result<(), Status> {
        let (Operation::Update, Some(old)) = (self.attributes.operation, self.attributes.old) else {
            return self.unexpected();
        };
        let rest = |object: &Value| {
            let mut object = object.clone();
            let metadata = meta::metadata_mut(&mut object);
            metadata.remove("resourceVersion");
            metadata.remove("managedFields");
            let status = meta::child_mut(&mut object, &["status"]);
            OF_CLAIMS.iter().for_each(|field| {
                status.remove(*field);
            });
            object
        };
        match rest(old) == rest(new) {
            true => Ok(()),
            false => self.forbidden(format!(
                "node {} is not allowed to update fields other than status.quantity and status.conditions",
                self.quoted()
            )),
        }
    }

    fn lease(&self) -> Result<(), Status> {
        let target = self.attributes.target;
        if target.namespace != LEASES {
            let namespace = quote(LEASES);
            return self.forbidden(format!("can only access leases in the {namespace} system namespace"));
        }
        match target.name == self.node {
            true => Ok(()),
            false => self.forbidden("can only access node lease with the same name as the requesting node"),
        }
    }

    fn csi_node(&self, new: &Value) -> Result<(), Status> {
        if self.attributes.target.name != self.node {
            return self.forbidden("can only access CSINode with the same name as the requesting node");
        }
        let status = self.attributes.subresource == "status";
        match self.attributes.old {
            Some(old) if status && old["spec"] != new["spec"] => {
                let node = self.quoted();
                self.forbidden(format!("node {node} is not allowed to modify CSINode spec via status"))
            }
            _ => Ok(()),
        }
    }

    fn slice(&self, new: &Value) -> Result<(), Status> {
        let (slice, what) = match self.attributes.operation {
            Operation::Create => (new, "create"),
            Operation::Delete => (self.attributes.old.unwrap_or(&Value::Null), "delete"),
            _ => return Ok(()),
        };
        match slice["spec"]["nodeName"] == self.node {
            true => Ok(()),
            false => self.forbidden(format!(
                "can only {what} ResourceSlice with the same NodeName as the requesting node"
            )),
        }
    }

    fn certificate(&self, request: &Value) -> Result<(), Status> {
        let signer = request["spec"]["signerName"].as_str().unwrap_or_default();
        if self.attributes.operation != Operation::Create || !SIGNERS.contains(&signer) {
            return Ok(());
        }
        let wanted = format!("{NODE_PREFIX}{}", self.node);
        let pem = request["spec"]["request"].as_str().unwrap_or_default();
        match certificate_subject::of(pem) {
            Ok(subject) if subject.common_name == wanted => Ok(()),
            Ok(_) => self.forbidden(format!("can only create a node CSR with CN={wanted}")),
            Err(why) => self.forbidden(format!("unable to parse csr: {why}")),
        }
    }
}

fn quote(text: &str) -> String {
    api_types::field::quote(text)
}

//! CertificateApproval, CertificateSigning and ClusterTrustBundleAttest: who may approve, sign and attest for a signer
//! is asked of the authorizer, as verbs on `signers.certificates.k8s.io` (KEP-1513, KEP-3257).

use api_types::Value;
use api_types::status::Status;

use super::{Admit, Attributes, Check, Operation, Plugin};
use crate::api::Api;
use crate::authz::Ask;
use crate::user::UserInfo;

const GROUP: &str = "certificates.k8s.io";
/// Fields of metadata that the garbage collector writes.
const COLLECTED: [&str; 2] = ["ownerReferences", "finalizers"];

pub(super) const APPROVAL: Plugin = Plugin { admit: Admit::Never, check: Check::Now(approval) };
pub(super) const SIGNING: Plugin = Plugin { admit: Admit::Never, check: Check::Now(signing) };
pub(super) const ATTEST: Plugin = Plugin { admit: Admit::Never, check: Check::Now(attest) };

/// The request as it was before an update of one of its subresources.
fn old_request<'a>(attributes: &Attributes<'a>, subresource: &str) -> Option<&'a Value> {
    let own = &attributes.target.resource;
    let named = own.group == GROUP && own.resource == "certificatesigningrequests";
    let meant = named && attributes.subresource == subresource && attributes.operation == Operation::Update;
    attributes.old.filter(|_| meant)
}

fn signer(object: &Value) -> &str {
    object["spec"]["signerName"].as_str().unwrap_or_default()
}

fn approval(api: &Api, attributes: &Attributes<'_>, _: &Value) -> Result<(), Status> {
    match old_request(attributes, "approval") {
        Some(old) => may(api, attributes, "approve", "approve requests with", signer(old)),
        None => Ok(()),
    }
}

fn signing(api: &Api, attributes: &Attributes<'_>, new: &Value) -> Result<(), Status> {
    let Some(old) = old_request(attributes, "status") else { return Ok(()) };
    let changed = |field: &str| old["status"][field] != new["status"][field];
    match changed("certificate") || changed("conditions") {
        true => may(api, attributes, "sign", "sign requests with", signer(old)),
        false => Ok(()),
    }
}

fn attest(api: &Api, attributes: &Attributes<'_>, bundle: &Value) -> Result<(), Status> {
    let own = &attributes.target.resource;
    let written = matches!(attributes.operation, Operation::Create | Operation::Update);
    if !written || own.group != GROUP || own.resource != "clustertrustbundles" || signer(bundle).is_empty() {
        return Ok(());
    }
    match attributes.old.is_some_and(|old| without_collected(old) == without_collected(bundle)) {
        true => Ok(()),
        false => may(api, attributes, "attest", "attest for", signer(bundle)),
    }
}

/// An object without what says nothing about what it is.
fn without_collected(object: &Value) -> Value {
    let mut object = object.clone();
    let metadata = api_types::meta::metadata_mut(&mut object);
    COLLECTED.iter().chain(&["managedFields", "resourceVersion"]).for_each(|field| {
        metadata.remove(*field);
    });
    object
}

fn may(api: &Api, attributes: &Attributes<'_>, verb: &str, what: &str, signer: &str) -> Result<(), Status> {
    if may_use_signer(api, attributes.user, verb, signer) {
        return Ok(());
    }
    let signer = api_types::field::quote(signer);
    Err(attributes.target.forbidden(&format!("user not permitted to {what} signerName {signer}")))
}

/// Whether somebody may do this for a signer, or for all signers of its domain.
pub(crate) fn may_use_signer(api: &Api, user: &UserInfo, verb: &str, signer: &str) -> bool {
    let view = api.storage.view();
    let domain = signer.split('/').next().unwrap_or_default();
    [signer.to_owned(), format!("{domain}/*")].iter().any(|name| {
        let ask = Ask { verb, group: GROUP, resource: "signers", name, ..Ask::default() };
        api.authorizer.allows(&view, user, &ask)
    })
}

//! CertificateSubjectRestriction: nobody asks the signer of clients' certificates for one of the group that may do
//! everything.

use api_types::Value;
use api_types::status::Status;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;

use super::{Admit, Attributes, Check, Plugin};
use crate::api::Api;
use crate::user::MASTERS;

const SIGNER: &str = "kubernetes.io/kube-apiserver-client";

pub(super) const PLUGIN: Plugin = Plugin { admit: Admit::Never, check: Check::Now(check) };

fn check(_: &Api, attributes: &Attributes<'_>, request: &Value) -> Result<(), Status> {
    let asked = attributes.creates("certificates.k8s.io", "certificatesigningrequests");
    if !asked || request["spec"]["signerName"] != SIGNER {
        return Ok(());
    }
    let why = match of(request["spec"]["request"].as_str().unwrap_or_default()) {
        Ok(found) if found.organizations.iter().any(|group| group == MASTERS) => {
            format!("use of {SIGNER} signer with {MASTERS} group is not allowed")
        }
        Ok(_) => return Ok(()),
        Err(why) => format!("failed to parse CSR: {why}"),
    };
    Err(attributes.target.forbidden(&why))
}

/// Whom a certificate is asked for.
pub(super) struct Subject {
    pub common_name: String,
    pub organizations: Vec<String>,
}

/// The subject of a request, of its PEM in Base64.
///
/// # Errors
/// The words of Go's `ParseCSR` for what is no request.
pub(super) fn of(request: &str) -> Result<Subject, String> {
    let no_request = || "PEM block type must be CERTIFICATE REQUEST".to_owned();
    let text = STANDARD.decode(request).map_err(|_| no_request())?;
    let (_, block) = parse_x509_pem(&text).map_err(|_| no_request())?;
    if block.label != "CERTIFICATE REQUEST" {
        return Err(no_request());
    }
    let (_, parsed) =
        X509CertificationRequest::from_der(&block.contents).map_err(|error| error.to_string())?;
    let subject = &parsed.certification_request_info.subject;
    let texts = |names: Vec<&x509_parser::x509::AttributeTypeAndValue<'_>>| -> Vec<String> {
        names.into_iter().filter_map(|name| name.as_str().ok()).map(str::to_owned).collect()
    };
    Ok(Subject {
        common_name: texts(subject.iter_common_name().collect()).pop().unwrap_or_default(),
        organizations: texts(subject.iter_organization().collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    #[test]
    fn the_subject_is_read_from_the_request() {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, MASTERS);
        params.distinguished_name.push(DnType::CommonName, "a");
        let request = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        let subject = of(&STANDARD.encode(request)).unwrap();
        assert_eq!((subject.common_name.as_str(), subject.organizations), ("a", vec![MASTERS.to_owned()]));
        assert!(of("eA==").is_err_and(|why| why.contains("PEM block type")));
    }
}

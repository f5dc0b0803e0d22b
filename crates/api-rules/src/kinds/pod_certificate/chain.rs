//! The chain that a request was issued with: the leaf is for the requested key and as long as was asked for.

use super::{Fault, PUBLIC_KEY, STATUS, STUB, bytes, fault, time};
use crate::errors::{At, Errors};
use crate::look::Look;
use api_types::field::OMITTED;
use jiff::Timestamp;
use serde_json::Value;
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

const CHAIN: &str = "status.certificateChain";
const NOT_BEFORE: &str = "status.notBefore";
const NOT_AFTER: &str = "status.notAfter";
const REFRESH: &str = "status.beginRefreshAt";
/// Bytes of a chain.
const MAX_CHAIN: usize = 100 * 1024;
/// Shortest life of a certificate in seconds.
const MIN_LIFE: i64 = 60 * 60;
/// How far a certificate is refreshed from its beginning and its end, in seconds.
const REFRESH_MARGIN: i64 = 10 * 60;

/// A certificate that was issued.
pub(super) fn issued(new: &Value, old: &Value, errors: &mut Errors) {
    let text = new.text(CHAIN);
    if text.len() > MAX_CHAIN {
        return errors.too_long(At::root(CHAIN), MAX_CHAIN);
    }
    let blocks: Vec<Pem> = Pem::iter_from_buffer(text.as_bytes()).map_while(Result::ok).collect();
    let found = check(new, old, &blocks, errors);
    if let Err(Some((field, value, text))) = found {
        errors.invalid(At::root(field), value, text);
    }
}

/// The first fault that ends the check; `None` for one that is told already.
fn check(new: &Value, old: &Value, blocks: &[Pem], errors: &mut Errors) -> Result<(), Option<Fault>> {
    let shown = new.at(CHAIN);
    let Some((first, rest)) = blocks.split_first() else {
        return fault(CHAIN, shown.clone(), "issued certificate chain must contain at least one certificate")
            .map_err(Some);
    };
    let text = "issued certificate chain must consist entirely of CERTIFICATE PEM blocks";
    let leaf = parse(first, shown, text, "leaf").map_err(Some)?;
    names(&leaf, errors);
    for_key(&leaf, old, shown).map_err(Some)?;
    times_are_set(new, errors)?;
    life(&leaf, new).map_err(Some)?;
    // Upstream's text has lost a letter here.
    let text = "issued certificate chain must consist entirely of CERTFICATE PEM blocks";
    for block in rest {
        parse(block, shown, text, "intermediate").map_err(Some)?;
    }
    Ok(())
}

fn parse<'a>(block: &'a Pem, shown: &Value, text: &str, what: &str) -> Result<X509Certificate<'a>, Fault> {
    if block.label != "CERTIFICATE" {
        return fault(CHAIN, shown.clone(), text);
    }
    match X509Certificate::from_der(&block.contents) {
        Ok((&[], certificate)) => Ok(certificate),
        _ => {
            let text = format!("{what} certificate does not parse as valid X.509");
            fault(CHAIN, shown.clone(), text)
        }
    }
}

fn names(leaf: &X509Certificate<'_>, errors: &mut Errors) {
    let mut said = |name: &str, text: &str| errors.invalid(At::root(CHAIN), name, text);
    let all = || {
        let extensions = leaf.extensions().iter().map(|extension| extension.parsed_extension());
        extensions.filter_map(|parsed| match parsed {
            ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
            _ => None,
        })
    };
    for name in all().flatten() {
        let GeneralName::DNSName(name) = name else { continue };
        if name.is_empty() {
            said(name, "leaf certificate should not contain empty DNSName");
        }
        if name.contains("..") {
            said(name, "leaf certificate's DNSName should not contain '..'");
        }
        if name.starts_with('.') || name.ends_with('.') {
            said(name, "leaf certificate's DNSName should not start or end with '.'");
        }
    }
    for name in all().flatten() {
        if let GeneralName::RFC822Name(name) = name
            && !is_email(name)
        {
            said(name, "leaf certificate should not contain invalid EmailAddress");
        }
    }
}

/// The common form of an address (RFC 5322): words around one `@`.
fn is_email(text: &str) -> bool {
    let word = |word: &str| {
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && !"()<>[]:;@\\,\"".contains(c);
        !word.is_empty() && word.chars().all(plain)
    };
    let dotted = |text: &str| text.split('.').all(word);
    text.rsplit_once('@').is_some_and(|(local, domain)| dotted(local) && dotted(domain))
}

/// The certificate is for the key of the request.
fn for_key(leaf: &X509Certificate<'_>, old: &Value, shown: &Value) -> Result<(), Fault> {
    let spec = old.at("spec");
    let stub = bytes(spec, "stubPKCS10Request");
    let public = bytes(spec, "pkixPublicKey");
    let matches = if stub.is_empty() {
        match SubjectPublicKeyInfo::from_der(&public) {
            Ok((_, wanted)) => is_same(&wanted, leaf.public_key()),
            Err(_) => return fault(PUBLIC_KEY, OMITTED, "must be a valid PKIX-serialized public key"),
        }
    } else {
        match X509CertificationRequest::from_der(&stub) {
            Ok((_, stub)) => is_same(&stub.certification_request_info.subject_pki, leaf.public_key()),
            Err(_) => return fault(STUB, OMITTED, "must be a valid PKCS#10 CSR"),
        }
    };
    match matches {
        true => Ok(()),
        false => {
            let text = "leaf certificate was not issued to the requested public key";
            fault(CHAIN, shown.clone(), text)
        }
    }
}

fn is_same(a: &SubjectPublicKeyInfo<'_>, b: &SubjectPublicKeyInfo<'_>) -> bool {
    a.algorithm.algorithm == b.algorithm.algorithm && a.subject_public_key.data == b.subject_public_key.data
}

fn times_are_set(new: &Value, errors: &mut Errors) -> Result<(), Option<Fault>> {
    let mut all = true;
    for (field, text) in [
        ("notBefore", "must be present and consistent with the issued certificate"),
        ("notAfter", "must be present and consistent with the issued certificate"),
        ("beginRefreshAt", "must be present and in the range [notbefore+10min, notafter-10min]"),
    ] {
        if !new.at("status").has(field) {
            errors.required(STATUS.at(field), text);
            all = false;
        }
    }
    // Names that were found wrong end the check here, too.
    if all && errors.is_empty() { Ok(()) } else { Err(None) }
}

/// The times of the status are those of the certificate, and it lives as long as was asked for.
fn life(leaf: &X509Certificate<'_>, new: &Value) -> Result<(), Fault> {
    let (begin, end) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    for (field, wanted, what) in [(NOT_BEFORE, begin, "NotBefore"), (NOT_AFTER, end, "NotAfter")] {
        if seconds(new, field) != Some(wanted) {
            let text = format!("must be set to the {what} time encoded in the leaf certificate");
            return fault(field, new.at(field).clone(), text);
        }
    }
    let nanoseconds = (end - begin).saturating_mul(1_000_000_000);
    if end - begin < MIN_LIFE {
        return fault(CHAIN, nanoseconds, "leaf certificate lifetime must be >= 1 hour");
    }
    let max = new.int("spec.maxExpirationSeconds");
    if end - begin > max {
        let text = format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({max})");
        return fault(CHAIN, nanoseconds, text);
    }
    let refresh = seconds(new, REFRESH).unwrap_or(0);
    let shown = new.at(REFRESH).clone();
    if refresh < begin + REFRESH_MARGIN {
        return fault(REFRESH, shown, "must be at least 10 minutes after status.notBefore");
    }
    if refresh > end - REFRESH_MARGIN {
        return fault(REFRESH, shown, "must be at least 10 minutes before status.notAfter");
    }
    Ok(())
}

fn seconds(object: &Value, field: &str) -> Option<i64> {
    time(object, field).map(Timestamp::as_second)
}

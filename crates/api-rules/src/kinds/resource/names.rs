//! Names of pools, attributes and extended resources, by hand-written rules and as they are declared.

use super::super::{declared, pod};
use crate::errors::{At, Errors};
use crate::format;

/// Bytes of a pool's name.
const MAX_POOL: usize = 253;
/// Bytes of an attribute's identifier and of its domain.
const MAX_IDENTIFIER: usize = 32;
const MAX_DOMAIN: usize = 63;

/// A pool: subdomains between slashes (upstream: `validatePoolName`).
pub(super) fn pool(name: &str, at: At<'_>, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(at, "");
    }
    if name.len() > MAX_POOL {
        errors.too_long(at, MAX_POOL);
    }
    for part in name.split('/') {
        errors.format(at, part, format::dns1123_subdomain(part));
    }
}

/// [`pool`] as it is declared (`k8s-resource-pool-name`).
pub(super) fn declared_pool(name: &str, at: At<'_>, errors: &mut Errors) {
    errors.declared(|errors| {
        if name.is_empty() {
            return errors.required(at, "");
        }
        if name.len() > MAX_POOL {
            errors.too_long(at, MAX_POOL);
        }
        for (i, part) in name.split('/').enumerate() {
            if part.is_empty() {
                errors.invalid(at, name, format!("segment {i}: must not be empty"));
                continue;
            }
            for problem in format::long_name(part) {
                errors.invalid(at, part, format!("segment {i}: {problem}"));
            }
        }
    });
}

/// An attribute or capacity: an identifier, with a domain before a slash or without.
pub(super) fn qualified(name: &str, at: At<'_>, errors: &mut Errors) {
    match name.split('/').collect::<Vec<_>>()[..] {
        [id] => identifier(id, at, errors),
        [domain, id] => {
            match domain {
                "" => errors.invalid(at, "", "the domain must not be empty"),
                domain => pod::driver_name(domain, at, errors),
            }
            match id {
                "" => errors.invalid(at, "", "the name must not be empty"),
                id => identifier(id, at, errors),
            }
        }
        // More slashes are let pass, as upstream does.
        _ => {}
    }
}

fn identifier(id: &str, at: At<'_>, errors: &mut Errors) {
    if id.len() > MAX_IDENTIFIER {
        errors.too_long(at, MAX_IDENTIFIER);
    }
    errors.format(at, id, format::c_identifier(id));
}

/// An attribute with its domain, as it is declared (`k8s-resource-fully-qualified-name`).
pub(super) fn fully_qualified(name: &str, at: At<'_>, errors: &mut Errors) {
    errors.declared(|errors| match name.split('/').collect::<Vec<_>>()[..] {
        [id] => {
            identifier(id, at, errors);
            let text = "a fully qualified name must be a domain and a name separated by a slash";
            errors.invalid(at, name, text);
        }
        [domain, id] => {
            match domain {
                "" => errors.invalid(at, "", "prefix must not be empty"),
                domain => declared_domain(domain, at, errors),
            }
            match id {
                "" => errors.invalid(at, "", "name must not be empty"),
                id => identifier(id, at, errors),
            }
        }
        _ => {}
    });
}

fn declared_domain(domain: &str, at: At<'_>, errors: &mut Errors) {
    if domain.len() > MAX_DOMAIN {
        errors.too_long(at, MAX_DOMAIN);
    }
    for problem in format::long_name(domain) {
        errors.invalid(at, domain, format!("prefix: {problem}"));
    }
}

/// A resource of containers that devices stand for (`k8s-extended-resource-name`).
pub(super) fn extended_resource(name: &str, at: At<'_>, errors: &mut Errors) {
    let mut problems = Vec::new();
    if !name.contains('/') {
        problems.push("a name must be a domain-prefixed path, such as 'example.com/my-prop'".to_owned());
    } else if name.contains("kubernetes.io/") {
        problems.push("must not have \"kubernetes.io/\" domain".to_owned());
    }
    if name.starts_with("requests.") {
        problems.push("must not have \"requests.\" prefix".to_owned());
    }
    problems.extend(format::qualified_name(&format!("requests.{name}")));
    declared::format(name, problems, at, errors);
}

/// A UUID in lower case, as it is declared (`k8s-uuid`).
pub(super) fn uuid(text: &str, at: At<'_>, errors: &mut Errors) {
    let good = text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
        });
    if !good {
        let text_of = "must be a lowercase UUID in 8-4-4-4-12 format";
        errors.declared(|errors| errors.invalid(at, text, text_of));
    }
}

//! `EncryptionConfiguration` of `apiserver.config.k8s.io`, read and checked (upstream:
//! `apiserver/pkg/apis/apiserver/validation/validation_encryption.go`).

use api_rules::errors::{At, Errors};
use api_rules::look::Look;
use api_types::table;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::cipher::{Cipher, Provider};
use crate::config_file;

const KIND: &str = "EncryptionConfiguration";
const RESOURCES: At<'static> = At::root("resources");
/// Where objects lie.
const ROOT: &str = "/registry/";
const OVERLAP: &str = "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked";

/// The providers of some kinds.
pub(super) struct Rule {
    /// What the keys of the kinds begin with.
    prefixes: Vec<String>,
    pub providers: Vec<Provider>,
}

impl Rule {
    pub fn is_about(&self, key: &[u8]) -> bool {
        self.prefixes.iter().any(|prefix| key.starts_with(prefix.as_bytes()))
    }
}

/// Reads a configuration, YAML or JSON.
///
/// # Errors
/// What is wrong with it, with the paths of fields, as upstream says it.
pub(super) fn read(text: &[u8]) -> Result<Vec<Rule>, String> {
    let document = config_file::read(text, KIND, &["v1"])?;
    let mut errors = Errors::new();
    let list = document.items("resources");
    if list.is_empty() {
        errors.required(RESOURCES, format!("at least one {RESOURCES} is required"));
    }
    let mut rules = Vec::new();
    for (index, value) in list.iter().enumerate() {
        let at = RESOURCES.index(index);
        rules.push(Rule {
            prefixes: prefixes(value, at.at("resources"), &mut errors),
            providers: providers(value, at.at("providers"), &mut errors),
        });
    }
    config_file::told(errors)?;
    Ok(rules)
}

/// `resource` and `group` of `resource.group`.
fn split(name: &str) -> (&str, &str) {
    name.split_once('.').unwrap_or((name, ""))
}

fn prefixes(value: &Value, at: At<'_>, errors: &mut Errors) -> Vec<String> {
    let names: Vec<&str> = value.items("resources").iter().filter_map(Value::as_str).collect();
    if names.is_empty() {
        errors.required(at, format!("at least one {at} is required"));
    }
    let shown = || value.at("resources").clone();
    if names.iter().enumerate().any(|(index, name)| names[..index].contains(name)) {
        errors.invalid(at, shown(), "the same resource cannot be specified multiple times");
    }
    let overlaps = |one: &str, other: &str| {
        let ((resource, group), (others, other_group)) = (split(one), split(other));
        one != other && (one == "*.*" || (group == other_group && (resource == "*" || others == "*")))
    };
    if names.iter().any(|one| names.iter().any(|other| overlaps(one, other))) {
        errors.invalid(at, shown(), OVERLAP);
    }
    let mut found = Vec::new();
    for (index, name) in names.iter().enumerate() {
        match fault(name) {
            Some(text) => errors.invalid(at.index(index), *name, text),
            None => found.extend(of_name(name)),
        }
    }
    found
}

fn fault(name: &str) -> Option<&'static str> {
    let (resource, group) = split(name);
    if name.chars().any(char::is_uppercase) {
        return Some("resource name should not contain capital letters");
    }
    match (name, group) {
        ("*", _) => {
            Some("use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources")
        }
        ("apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations", _) => {
            Some("resources which do not have REST API/s cannot be encrypted")
        }
        (_, "events.k8s.io") => Some(
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file",
        ),
        (_, "extensions") => Some("'extensions' group has been removed and cannot be used for encryption"),
        (_, "*") if resource != "*" => Some("encrypting the same resource across groups is not supported"),
        _ => None,
    }
}

/// What the keys of a kind, or of all kinds of a group, begin with.
fn of_name(name: &str) -> Vec<String> {
    let (resource, group) = split(name);
    if name == "*.*" {
        return vec![ROOT.to_owned()];
    }
    let stored = table::resources().iter().filter(|own| own.is_stored() && own.storage_group == group);
    let meant = stored.filter(|own| resource == "*" || own.resource == resource);
    let mut found: Vec<String> = meant.map(|own| own.storage_prefix.to_string()).collect();
    // Kinds of definitions lie below their group.
    if !group.is_empty() && found.is_empty() {
        found.push(if resource == "*" {
            format!("{ROOT}{group}/")
        } else {
            format!("{ROOT}{group}/{resource}/")
        });
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn providers(value: &Value, at: At<'_>, errors: &mut Errors) -> Vec<Provider> {
    let list = value.items("providers");
    if list.is_empty() {
        errors.required(at, format!("at least one {at} is required"));
    }
    let mut found = Vec::new();
    for (index, value) in list.iter().enumerate() {
        let at = at.index(index);
        let named: Vec<&str> = ["kms", "aesgcm", "aescbc", "secretbox", "identity"]
            .into_iter()
            .filter(|name| value.key(name).is_object())
            .collect();
        match named.as_slice() {
            ["identity"] => found.push(Provider::Identity),
            ["kms"] => {
                errors.invalid(at.at("kms"), value.key("kms").text("name"), "KMS providers are not supported")
            }
            [name] => {
                let at_keys = at.at(name);
                found.push(with_keys(name, value.key(name), at_keys.at("keys"), errors));
            }
            [] => {
                let text = "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity";
                errors.invalid(at, value.clone(), text);
            }
            _ => {
                let text = "more than one provider specified in a single element, should split into different list elements";
                errors.invalid(at, "<omitted>", text);
            }
        }
    }
    found
}

/// Makes a cipher of a key that is as long as it must be.
type Make = fn(&[u8]) -> Option<Cipher>;

fn with_keys(name: &str, value: &Value, at: At<'_>, errors: &mut Errors) -> Provider {
    let (prefix, lens, make): (_, _, Make) = match name {
        "aesgcm" => ("k8s:enc:aesgcm:v1:", "[16 24 32]", Cipher::gcm),
        "aescbc" => ("k8s:enc:aescbc:v1:", "[16 24 32]", Cipher::cbc),
        _ => ("k8s:enc:secretbox:v1:", "[32]", Cipher::secretbox),
    };
    let list = value.items("keys");
    if list.is_empty() {
        errors.required(at, "at least one keys is required");
    }
    let mut keys = Vec::new();
    for (index, key) in list.iter().enumerate() {
        let at = at.index(index);
        let (name, secret) = (key.text("name"), key.text("secret"));
        if name.is_empty() {
            errors.required(at.at("name"), "name is a mandatory field for a key");
        }
        if secret.is_empty() {
            errors.required(at.at("secret"), "secret is a mandatory field for a key");
            continue;
        }
        let Ok(secret) = STANDARD.decode(secret) else {
            errors.invalid(at.at("secret"), "REDACTED", "secrets must be base64 encoded");
            continue;
        };
        match make(&secret) {
            Some(cipher) => keys.push((name.to_owned(), cipher)),
            None => {
                let found = secret.len();
                let text =
                    format!("secret is not of the expected length, got {found}, expected one of {lens}");
                errors.invalid(at.at("secret"), "REDACTED", text);
            }
        }
    }
    Provider::Keys { prefix, keys }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault_of(resources: &str, providers: &str) -> String {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: {resources}\n  providers: {providers}\n"
        );
        read(text.as_bytes()).err().unwrap_or_default()
    }

    #[test]
    fn faults_name_their_fields() {
        let identity = "[{identity: {}}]";
        assert_eq!(fault_of("[secrets, 'pandas.bears.example']", identity), "");
        assert_eq!(
            fault_of("[]", identity),
            "resources[0].resources: Required value: at least one resources[0].resources is required"
        );
        assert!(fault_of("['*']", identity).contains("use '*.' to encrypt"));
        assert!(fault_of("[secrets, '*.']", identity).contains("overlapping resources"));
        assert!(fault_of("[secrets, secrets]", identity).contains("multiple times"));
        assert!(fault_of("[events.events.k8s.io]", identity).contains("'events' API group"));
        let short = "[{aescbc: {keys: [{name: a, secret: c2hvcnQ=}]}}]";
        assert_eq!(
            fault_of("[secrets]", short),
            "resources[0].providers[0].aescbc.keys[0].secret: Invalid value: \"REDACTED\": secret is not of the expected length, got 5, expected one of [16 24 32]"
        );
        assert!(fault_of("[secrets]", "[{aescbc: {}, identity: {}}]").contains("more than one provider"));
    }

    #[test]
    fn names_stand_for_keys() {
        assert_eq!(of_name("secrets"), ["/registry/secrets/"]);
        assert_eq!(of_name("deployments.apps"), ["/registry/deployments/"]);
        assert_eq!(of_name("pandas.bears.example"), ["/registry/bears.example/pandas/"]);
        assert_eq!(of_name("*.bears.example"), ["/registry/bears.example/"]);
        assert!(of_name("*.").contains(&"/registry/configmaps/".to_owned()));
    }
}

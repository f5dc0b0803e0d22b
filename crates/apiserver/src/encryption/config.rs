//! `EncryptionConfiguration` of `apiserver.config.k8s.io`, read and checked (upstream:
//! `apiserver/pkg/apis/apiserver/validation/validation_encryption.go`).

use std::path::PathBuf;
use std::time::Duration;

use api_rules::errors::{At, Errors};
use api_rules::look::Look;
use api_types::{table, time};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use url::Url;

use super::cipher::{Cipher, Provider};
use super::kms::KmsConfig;
use crate::config_file;

const KIND: &str = "EncryptionConfiguration";
const RESOURCES: At<'static> = At::root("resources");
/// Where objects lie.
const ROOT: &str = "/registry/";
const OVERLAP: &str = "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked";
/// Upstream's answer where its feature `KMSv1` is off, as it is by default.
const FIRST_VERSION: &str = "KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead.  Set --feature-gates=KMSv1=true to use the deprecated KMSv1 feature.";
/// How long a plugin may take to answer.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);

/// What a configuration says.
pub(super) struct Plan {
    /// Those of all rules; one stands once, also if several kinds have it.
    pub providers: Vec<Planned>,
    /// The narrowest first.
    pub rules: Vec<Rule>,
}

/// A provider, or what is needed to make it.
pub(super) enum Planned {
    Ready(Provider),
    Kms(KmsConfig),
}

/// Which providers some kinds have.
pub(super) struct Rule {
    name: String,
    /// What the keys of the kinds begin with.
    prefixes: Vec<String>,
    /// Places in [`Plan::providers`], the one that seals first.
    pub providers: Vec<usize>,
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
pub(super) fn read(text: &[u8]) -> Result<Plan, String> {
    let document = config_file::read(text, KIND, &["v1"])?;
    let mut errors = Errors::new();
    let list = document.items("resources");
    if list.is_empty() {
        errors.required(RESOURCES, format!("at least one {RESOURCES} is required"));
    }
    let mut reader = Reader::default();
    let mut entries = Vec::new();
    for (index, value) in list.iter().enumerate() {
        let at = RESOURCES.index(index);
        let names = names(value, at.at("resources"), &mut errors);
        let from = reader.providers.len();
        reader.providers(value, at.at("providers"), &mut errors);
        entries.push((names, from..reader.providers.len()));
    }
    config_file::told(errors)?;
    if reader.first_version {
        return Err(FIRST_VERSION.to_owned());
    }
    let mut rules = Vec::new();
    for (names, providers) in entries {
        names.into_iter().try_for_each(|name| add(&mut rules, name, providers.clone()))?;
    }
    // `*.*` behind `*.group` behind everything else.
    rules.sort_by_key(|rule: &Rule| match rule.name.as_str() {
        "*.*" => 2,
        name => u8::from(name.starts_with("*.")),
    });
    Ok(Plan { providers: reader.providers, rules })
}

/// Gives a kind more providers, unless an earlier rule with a `*` has it already.
fn add(rules: &mut Vec<Rule>, name: String, providers: std::ops::Range<usize>) -> Result<(), String> {
    let all_of_group = format!("*.{}", split(&name).1);
    for wide in [all_of_group.as_str(), "*.*"] {
        if rules.iter().any(|rule| rule.name == wide) {
            return Err(format!("resource {name:?} is masked by earlier rule {wide:?}"));
        }
    }
    match rules.iter_mut().find(|rule| rule.name == name) {
        Some(rule) => rule.providers.extend(providers),
        None => rules.push(Rule { prefixes: of_name(&name), providers: providers.collect(), name }),
    }
    Ok(())
}

/// `resource` and `group` of `resource.group`.
fn split(name: &str) -> (&str, &str) {
    name.split_once('.').unwrap_or((name, ""))
}

fn names(value: &Value, at: At<'_>, errors: &mut Errors) -> Vec<String> {
    let names: Vec<&str> = value.texts("resources").collect();
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
    for (index, name) in names.iter().enumerate() {
        if let Some(text) = fault(name) {
            errors.invalid(at.index(index), *name, text);
        }
    }
    names.into_iter().map(str::to_owned).collect()
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

/// Reads the providers of all entries.
#[derive(Default)]
struct Reader {
    providers: Vec<Planned>,
    /// Of the plugins.
    names: Vec<String>,
    /// Whether a plugin of the protocol's first version is meant.
    first_version: bool,
}

impl Reader {
    fn providers(&mut self, value: &Value, at: At<'_>, errors: &mut Errors) {
        let list = value.items("providers");
        if list.is_empty() {
            errors.required(at, format!("at least one {at} is required"));
        }
        for (index, value) in list.iter().enumerate() {
            self.provider(value, at.index(index), errors);
        }
    }

    fn provider(&mut self, value: &Value, at: At<'_>, errors: &mut Errors) {
        let named: Vec<&str> = ["kms", "aesgcm", "aescbc", "secretbox", "identity"]
            .into_iter()
            .filter(|name| value.key(name).is_object())
            .collect();
        match named.as_slice() {
            ["identity"] => self.providers.push(Planned::Ready(Provider::Identity)),
            ["kms"] => {
                let config = self.kms(value.key("kms"), at.at("kms"), errors);
                self.providers.push(Planned::Kms(config));
            }
            [name] => {
                let at_keys = at.at(name);
                let provider = with_keys(name, value.key(name), at_keys.at("keys"), errors);
                self.providers.push(Planned::Ready(provider));
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

    fn kms(&mut self, value: &Value, at: At<'_>, errors: &mut Errors) -> KmsConfig {
        let version = Some(value.text("apiVersion")).filter(|text| !text.is_empty()).unwrap_or("v1");
        let name = value.text("name").to_owned();
        if name.is_empty() {
            errors.required(at.at("name"), "name is a mandatory field for a provider");
        }
        if version != "v1" && name.contains(':') {
            let text = format!("invalid KMS provider name {name}, must not contain ':'");
            errors.invalid(at.at("name"), name.as_str(), text);
        }
        if self.names.contains(&name) {
            let text = format!("duplicate KMS provider name {name}, names must be unique");
            errors.invalid(at.at("name"), name.as_str(), text);
        }
        self.names.push(name.clone());
        let timeout = timeout(value.key("timeout"), at.at("timeout"), errors);
        let socket = socket(value.text("endpoint"), at.at("endpoint"), errors);
        if version != "v1" && value.has("cachesize") {
            let text = "cachesize is not supported in v2";
            errors.invalid(at.at("cachesize"), value.key("cachesize").clone(), text);
        }
        if !["v1", "v2"].contains(&version) {
            let text = "unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported";
            errors.invalid(at.at("apiVersion"), version, text);
        }
        self.first_version |= version == "v1";
        KmsConfig { name, socket, timeout }
    }
}

/// How long a call of a plugin may take.
fn timeout(value: &Value, at: At<'_>, errors: &mut Errors) -> Duration {
    let nanos = match value.as_str() {
        None => return DEFAULT_TIMEOUT,
        Some(text) => time::parse_duration(text).unwrap_or(0),
    };
    if nanos <= 0 {
        errors.invalid(at, value.clone(), "timeout should be a positive value");
    }
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

/// The path of `unix:///path`.
fn socket(endpoint: &str, at: At<'_>, errors: &mut Errors) -> PathBuf {
    if endpoint.is_empty() {
        errors.invalid(at, "", "endpoint is a mandatory field for a kms");
        return PathBuf::new();
    }
    let url = match Url::parse(endpoint) {
        Ok(url) => url,
        Err(error) => {
            errors.invalid(at, endpoint, format!("invalid endpoint for kms provider, error: {error}"));
            return PathBuf::new();
        }
    };
    if url.scheme() != "unix" {
        let text = format!("unsupported scheme {:?} for KMS provider, only unix is supported", url.scheme());
        errors.invalid(at, endpoint, text);
    }
    let path = unescaped(url.path());
    // A name in the kernel's table instead of a file.
    PathBuf::from(path.strip_prefix("/@").map_or(path.clone(), |name| format!("@{name}")))
}

/// A path of a URL as it is meant.
fn unescaped(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let code = more.get(..2).filter(|_| *first == b'%').and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            None => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
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

    /// Of pairs of resources and providers.
    fn read_all(entries: &[(&str, &str)]) -> Result<Plan, String> {
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n";
        let entries = entries
            .iter()
            .map(|(resources, providers)| format!("- resources: {resources}\n  providers: {providers}\n"));
        read(entries.fold(head.to_owned(), |text, entry| text + &entry).as_bytes())
    }

    fn fault_of(resources: &str, providers: &str) -> String {
        read_all(&[(resources, providers)]).err().unwrap_or_default()
    }

    fn kms_of(fields: &str) -> Result<KmsConfig, String> {
        let plan = read_all(&[("[secrets]", &format!("[{{kms: {{{fields}}}}}]"))])?;
        match plan.providers.into_iter().next() {
            Some(Planned::Kms(config)) => Ok(config),
            _ => Err("no plugin".to_owned()),
        }
    }

    #[test]
    fn plugins_are_read_and_their_faults_told() {
        let config = kms_of("apiVersion: v2, name: a, endpoint: 'unix:///run/k%20ms.sock', timeout: 1.5s");
        let expected = |socket: &str, millis| KmsConfig {
            name: "a".into(),
            socket: socket.into(),
            timeout: Duration::from_millis(millis),
        };
        assert_eq!(config.unwrap(), expected("/run/k ms.sock", 1500));
        let config = kms_of("apiVersion: v2, name: a, endpoint: 'unix:///@kms'");
        assert_eq!(config.unwrap(), expected("@kms", 3000));
        let fault = |fields: &str| kms_of(fields).unwrap_err().replace("resources[0].providers[0].kms.", "");
        assert_eq!(fault("name: a, endpoint: 'unix:///a'"), FIRST_VERSION);
        assert_eq!(
            fault("apiVersion: v3, name: a, endpoint: 'unix:///a'"),
            "apiVersion: Invalid value: \"v3\": unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported"
        );
        assert_eq!(
            fault("apiVersion: v2, name: 'a:b', endpoint: 'unix:///a'"),
            "name: Invalid value: \"a:b\": invalid KMS provider name a:b, must not contain ':'"
        );
        assert_eq!(
            fault("apiVersion: v2, name: a"),
            "endpoint: Invalid value: \"\": endpoint is a mandatory field for a kms"
        );
        assert_eq!(
            fault("apiVersion: v2, name: a, endpoint: 'http:///a'"),
            "endpoint: Invalid value: \"http:///a\": unsupported scheme \"http\" for KMS provider, only unix is supported"
        );
        assert_eq!(
            fault("apiVersion: v2, name: a, endpoint: 'unix:///a', timeout: 0s, cachesize: 5"),
            "[timeout: Invalid value: \"0s\": timeout should be a positive value, cachesize: Invalid value: 5: cachesize is not supported in v2]"
        );
        assert!(fault("apiVersion: v2, endpoint: 'unix:///a'").starts_with("name: Required value"));
        let twice = "[{kms: {apiVersion: v2, name: a, endpoint: 'unix:///a'}}]";
        let fault = read_all(&[("[secrets]", twice), ("[configmaps]", twice)]).err().unwrap();
        assert!(fault.contains("resources[1].providers[0].kms.name: Invalid value: \"a\": duplicate KMS provider name a, names must be unique"), "{fault}");
    }

    #[test]
    fn the_narrowest_rule_is_the_one() {
        let (a, b, c) = (
            "[{identity: {}}]",
            "[{aesgcm: {keys: [{name: b, secret: MDEyMzQ1Njc4OWFiY2RlZg==}]}}]",
            "[{aescbc: {keys: [{name: c, secret: MDEyMzQ1Njc4OWFiY2RlZg==}]}}, {identity: {}}]",
        );
        let plan =
            read_all(&[("[secrets, deployments.apps]", a), ("['*.apps', secrets]", b), ("['*.*']", c)])
                .unwrap();
        let of = |key: &str| {
            plan.rules.iter().find(|rule| rule.is_about(key.as_bytes())).map(|rule| rule.providers.clone())
        };
        assert_eq!(of("/registry/secrets/n/a"), Some(vec![0, 1]));
        assert_eq!(of("/registry/deployments/n/a"), Some(vec![0]));
        assert_eq!(of("/registry/statefulsets/n/a"), Some(vec![1]));
        assert_eq!(of("/registry/configmaps/n/a"), Some(vec![2, 3]));
        assert_eq!(of("/registry/bears.example/pandas/n/a"), Some(vec![2, 3]));
        assert_eq!(of("/elsewhere"), None);
        let masked = |first: &str, second: &str| read_all(&[(first, a), (second, b)]).err().unwrap();
        let text = "resource \"secrets\" is masked by earlier rule \"*.\"";
        assert_eq!(masked("['*.']", "[secrets]"), text);
        let text = "resource \"daemonsets.apps\" is masked by earlier rule \"*.*\"";
        assert_eq!(masked("['*.*']", "[daemonsets.apps]"), text);
        assert!(masked("['*.apps']", "['*.apps']").contains("masked by earlier rule \"*.apps\""));
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

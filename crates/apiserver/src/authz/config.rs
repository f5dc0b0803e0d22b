//! Who decides, in which order: upstream's `--authorization-*` flags, or a file of kind `AuthorizationConfiguration`
//! (KEP-3221; upstream: `apiserver/pkg/apis/apiserver/validation`, `pkg/kubeapiserver/authorizer`).

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api_rules::cel::Rule;
use api_rules::errors::{At, Errors};
use api_rules::format;
use api_rules::look::Look;
use api_types::{Value, time};

use crate::config_file;

const KIND: &str = "AuthorizationConfiguration";
/// The longest that an answer may take.
const MAX_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_CONDITIONS: usize = 64;
const AUTHORIZED_TTL: Duration = Duration::from_secs(300);
const UNAUTHORIZED_TTL: Duration = Duration::from_secs(30);
/// The name of the one webhook that flags describe.
const BY_FLAGS: &str = "default";
/// All of upstream's, in the order in which it lists them.
const TYPES: [&str; 6] = ["ABAC", "AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// Who decides (upstream's `--authorization-*`).
#[derive(Clone, Debug, Default)]
pub struct AuthorizationConfig {
    /// A file of kind `AuthorizationConfiguration`, in place of everything else here. It is read again when it changes.
    pub file: Option<PathBuf>,
    /// Who is asked, in this order; without it `Node` and `RBAC`.
    pub modes: Option<Vec<String>>,
    /// The policies of mode `ABAC`, a line each.
    pub policy_file: Option<PathBuf>,
    /// A kubeconfig that names the server that mode `Webhook` asks.
    pub webhook_config_file: Option<PathBuf>,
    /// The version of its reviews; without it `v1beta1`.
    pub webhook_version: Option<String>,
    /// How long is believed that it allows something; without it five minutes.
    pub webhook_authorized_ttl: Option<Duration>,
    /// How long is believed that it does not; without it half a minute.
    pub webhook_unauthorized_ttl: Option<Duration>,
}

/// One who is asked.
pub(super) struct Named {
    pub name: String,
    pub kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Node,
    Rbac,
    AlwaysAllow,
    AlwaysDeny,
    Abac,
    Webhook(WebhookSettings),
}

/// A server that decides.
#[derive(Debug)]
pub(super) struct WebhookSettings {
    /// A kubeconfig.
    pub file: PathBuf,
    pub version: String,
    pub timeout: Duration,
    /// Zero: not at all.
    pub authorized_ttl: Duration,
    /// Zero: not at all.
    pub unauthorized_ttl: Duration,
    /// Whether a failure refuses the request, or leaves it to the others.
    pub denies_on_failure: bool,
    /// It is asked when all of them hold.
    pub conditions: Vec<Rule>,
}

impl Kind {
    pub fn text(&self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::Rbac => "RBAC",
            Self::AlwaysAllow => "AlwaysAllow",
            Self::AlwaysDeny => "AlwaysDeny",
            Self::Abac => "ABAC",
            Self::Webhook(_) => "Webhook",
        }
    }

    /// One that needs no settings.
    fn plain(text: &str) -> Result<Self, String> {
        match text {
            "Node" => Ok(Self::Node),
            "RBAC" => Ok(Self::Rbac),
            "AlwaysAllow" => Ok(Self::AlwaysAllow),
            "AlwaysDeny" => Ok(Self::AlwaysDeny),
            "ABAC" => Ok(Self::Abac),
            other => Err(format!("authorizer type {other} is not supported")),
        }
    }
}

impl AuthorizationConfig {
    /// Whether flags say that everybody may do everything.
    pub(crate) fn allows_always(&self) -> bool {
        self.modes.iter().flatten().any(|mode| mode == "AlwaysAllow")
    }

    /// Who decides, and the text of the file that says so.
    ///
    /// # Errors
    /// What is wrong with the flags or the file, in upstream's words.
    pub(super) fn read(&self) -> Result<(Vec<Named>, Vec<u8>), String> {
        let Some(file) = &self.file else { return Ok((self.by_flags()?, Vec::new())) };
        let flags = self.modes.is_some()
            || self.webhook_config_file.is_some()
            || self.webhook_version.is_some()
            || self.webhook_authorized_ttl.is_some()
            || self.webhook_unauthorized_ttl.is_some();
        if flags {
            let text = "--authorization-config can not be specified when --authorization-mode or --authorization-webhook-* flags are defined";
            return Err(text.to_owned());
        }
        let text = std::fs::read(file).map_err(|error| format!("open {}: {error}", file.display()))?;
        Ok((read(&text)?, text))
    }

    fn by_flags(&self) -> Result<Vec<Named>, String> {
        let default = || vec!["Node".to_owned(), "RBAC".to_owned()];
        let modes = self.modes.clone().unwrap_or_else(default);
        self.check(&modes)?;
        let named = |mode: &String| match mode.as_str() {
            "Webhook" => Ok(Named { name: BY_FLAGS.to_owned(), kind: Kind::Webhook(self.webhook()?) }),
            plain => Ok(Named { name: plain.to_lowercase(), kind: Kind::plain(plain)? }),
        };
        modes.iter().map(named).collect()
    }

    fn webhook(&self) -> Result<WebhookSettings, String> {
        let version = self.webhook_version.clone().unwrap_or_else(|| "v1beta1".to_owned());
        if !VERSIONS.contains(&version.as_str()) {
            return Err(format!(
                "unsupported webhook authorizer version {version:?}, supported versions are \"v1\", \"v1beta1\""
            ));
        }
        Ok(WebhookSettings {
            file: self.webhook_config_file.clone().unwrap_or_default(),
            version,
            timeout: MAX_TIMEOUT,
            authorized_ttl: self.webhook_authorized_ttl.unwrap_or(AUTHORIZED_TTL),
            unauthorized_ttl: self.webhook_unauthorized_ttl.unwrap_or(UNAUTHORIZED_TTL),
            denies_on_failure: false,
            conditions: Vec::new(),
        })
    }

    fn check(&self, modes: &[String]) -> Result<(), String> {
        let mut faults = Vec::new();
        if modes.is_empty() {
            faults.push("at least one authorization-mode must be passed".to_owned());
        }
        let has = |mode: &str| modes.iter().any(|own| own == mode);
        for mode in modes {
            if !TYPES.contains(&mode.as_str()) {
                faults.push(format!("authorization-mode {mode:?} is not a valid mode"));
            }
            if mode == "ABAC" && self.policy_file.is_none() {
                faults.push("authorization-mode ABAC's authorization policy file not passed".to_owned());
            }
            if mode == "Webhook" && self.webhook_config_file.is_none() {
                faults.push("authorization-mode Webhook's authorization config file not passed".to_owned());
            }
        }
        if self.policy_file.is_some() && !has("ABAC") {
            faults.push("cannot specify --authorization-policy-file without mode ABAC".to_owned());
        }
        if self.webhook_config_file.is_some() && !has("Webhook") {
            faults.push("cannot specify --authorization-webhook-config-file without mode Webhook".to_owned());
        }
        if modes.iter().collect::<HashSet<_>>().len() != modes.len() {
            let quoted: Vec<String> = modes.iter().map(|mode| format!("{mode:?}")).collect();
            let all = quoted.join(" ");
            faults.push(format!("authorization-mode [{all}] has mode specified more than once"));
        }
        all(faults)
    }
}

fn all(faults: Vec<String>) -> Result<(), String> {
    match faults.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

/// Reads a configuration, YAML or JSON.
///
/// # Errors
/// What is wrong with it, with the paths of fields, as upstream says it.
pub(super) fn read(text: &[u8]) -> Result<Vec<Named>, String> {
    let failed = |error| format!("failed to load AuthorizationConfiguration from file: {error}");
    let document = config_file::read(text, KIND, &["v1", "v1beta1", "v1alpha1"]).map_err(failed)?;
    strict(&document).map_err(failed)?;
    let mut errors = Errors::new();
    let found = authorizers(&document, &mut errors);
    config_file::told(errors)?;
    let mut faults = Vec::new();
    for Named { name, kind } in &found {
        let wanted = kind.text().to_lowercase();
        if !matches!(kind, Kind::Webhook(_)) && *name != wanted {
            faults.push(format!("expected name {wanted} for authorizer {} instead of {name}", kind.text()));
        }
    }
    all(faults)?;
    Ok(found)
}

/// Fields that do not exist are mistakes: a condition that is spelled wrong would be one that always holds.
fn strict(document: &Value) -> Result<(), String> {
    const WEBHOOK: [&str; 10] = [
        "authorizedTTL",
        "cacheAuthorizedRequests",
        "unauthorizedTTL",
        "cacheUnauthorizedRequests",
        "timeout",
        "subjectAccessReviewVersion",
        "matchConditionSubjectAccessReviewVersion",
        "failurePolicy",
        "connectionInfo",
        "matchConditions",
    ];
    let mut unknown = Vec::new();
    let mut look = |value: &Value, at: &str, known: &[&str]| {
        for field in value.as_object().into_iter().flatten().map(|(field, _)| field) {
            if !known.contains(&field.as_str()) {
                unknown.push(format!("{at}{field}"));
            }
        }
    };
    look(document, "", &["apiVersion", "kind", "authorizers"]);
    for (index, authorizer) in document.items("authorizers").iter().enumerate() {
        let at = format!("authorizers[{index}].");
        look(authorizer, &at, &["type", "name", "webhook"]);
        let webhook = authorizer.at("webhook");
        look(webhook, &format!("{at}webhook."), &WEBHOOK);
        let connection = webhook.at("connectionInfo");
        look(connection, &format!("{at}webhook.connectionInfo."), &["type", "kubeConfigFile"]);
        for (index, condition) in webhook.items("matchConditions").iter().enumerate() {
            look(condition, &format!("{at}webhook.matchConditions[{index}]."), &["expression"]);
        }
    }
    config_file::unknown(&unknown)
}

fn authorizers(document: &Value, errors: &mut Errors) -> Vec<Named> {
    const LIST: At<'static> = At::root("authorizers");
    let list = document.items("authorizers");
    if list.is_empty() {
        errors.required(LIST, "at least one authorization mode must be defined");
    }
    let (mut types, mut names, mut found) = (HashSet::new(), HashSet::new(), Vec::new());
    for (index, value) in list.iter().enumerate() {
        let at = LIST.index(index);
        let (kind, name) = (value.text("type"), value.text("name"));
        match kind {
            "" => errors.required(at.at("type"), ""),
            kind if !TYPES.contains(&kind) => errors.not_supported(at.at("type"), kind, &TYPES),
            kind if !types.insert(kind) && kind != "Webhook" => errors.duplicate(at.at("type"), kind),
            kind => {
                check_name(name, names.insert(name), at.at("name"), errors);
                let kind = one(value, kind, at, errors);
                found.extend(kind.map(|kind| Named { name: name.to_owned(), kind }));
            }
        }
    }
    found
}

fn check_name(name: &str, is_new: bool, at: At<'_>, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(at, "");
    }
    if !is_new {
        return errors.duplicate(at, name);
    }
    let problems = format::dns1123_subdomain(name);
    if !problems.is_empty() {
        errors.invalid(at, name, format!("authorizer name is invalid: {}", problems.join(", ")));
    }
}

fn one(value: &Value, kind: &str, at: At<'_>, errors: &mut Errors) -> Option<Kind> {
    let webhook = value.at("webhook");
    match kind {
        "Webhook" if !webhook.is_object() => {
            errors.required(at.at("webhook"), "required when type=Webhook");
            None
        }
        "Webhook" => settings(webhook, at, errors).map(Kind::Webhook),
        plain => {
            if webhook.is_object() {
                errors.invalid(at.at("webhook"), "non-null", "may only be specified when type=Webhook");
            }
            match Kind::plain(plain) {
                Ok(kind) => Some(kind),
                Err(error) => {
                    errors.invalid(at.at("type"), plain, error);
                    None
                }
            }
        }
    }
}

/// Upstream leaves `webhook` out of the paths of what is wrong here.
fn settings(webhook: &Value, at: At<'_>, errors: &mut Errors) -> Option<WebhookSettings> {
    let timeout = duration(webhook, "timeout");
    match timeout {
        None => errors.required(at.at("timeout"), ""),
        Some(Ok(timeout)) if timeout <= MAX_TIMEOUT => {}
        Some(_) => errors.invalid(at.at("timeout"), webhook.text("timeout"), "must be > 0s and <= 30s"),
    }
    let mut ttl = |field: &'static str, cached: &str, default: Duration| {
        let given = match duration(webhook, field) {
            None => default,
            Some(Ok(given)) => given,
            Some(Err(())) => {
                errors.invalid(at.at(field), webhook.text(field), "must be > 0s");
                default
            }
        };
        if *webhook.at(cached) == false { Duration::ZERO } else { given }
    };
    let authorized_ttl = ttl("authorizedTTL", "cacheAuthorizedRequests", AUTHORIZED_TTL);
    let unauthorized_ttl = ttl("unauthorizedTTL", "cacheUnauthorizedRequests", UNAUTHORIZED_TTL);
    let version = webhook.text("subjectAccessReviewVersion");
    errors.one_of(at.at("subjectAccessReviewVersion"), version, &VERSIONS);
    match webhook.text("matchConditionSubjectAccessReviewVersion") {
        "" if webhook.items("matchConditions").is_empty() => {}
        "" => errors.required(
            at.at("matchConditionSubjectAccessReviewVersion"),
            "required if match conditions are specified",
        ),
        other => errors.optional_of(at.at("matchConditionSubjectAccessReviewVersion"), other, &["v1"]),
    }
    let policy = webhook.text("failurePolicy");
    match policy {
        "" => errors.required(at.at("failurePolicy"), ""),
        "NoOpinion" | "Deny" => {}
        other => errors.not_supported(at.at("failurePolicy"), other, &["NoOpinion", "Deny"]),
    }
    let file = kubeconfig(webhook.at("connectionInfo"), at.at("connectionInfo"), errors);
    let conditions = conditions(webhook.items("matchConditions"), at.at("matchConditions"), errors);
    Some(WebhookSettings {
        file: file?,
        version: version.to_owned(),
        timeout: timeout?.ok()?,
        authorized_ttl,
        unauthorized_ttl,
        denies_on_failure: policy == "Deny",
        conditions,
    })
}

/// A duration as Go prints it; none for one that is not given or zero, an error for one that is none or negative.
fn duration(of: &Value, field: &str) -> Option<Result<Duration, ()>> {
    let text = of.text(field);
    let nanos = match time::parse_duration(text) {
        _ if text.is_empty() => return None,
        Some(0) => return None,
        nanos => nanos.and_then(|nanos| u64::try_from(nanos).ok()),
    };
    Some(nanos.map(Duration::from_nanos).ok_or(()))
}

fn kubeconfig(connection: &Value, at: At<'_>, errors: &mut Errors) -> Option<PathBuf> {
    let (at_type, at_file) = (at.at("type"), at.at("kubeConfigFile"));
    let file = connection.text("kubeConfigFile");
    match connection.text("type") {
        "" => errors.required(at_type, ""),
        "InClusterConfig" => errors.invalid(at_type, "InClusterConfig", "is not supported"),
        "KubeConfigFile" if file.is_empty() => errors.required(at_file, ""),
        "KubeConfigFile" if !Path::new(file).is_absolute() => {
            errors.invalid(at_file, file, "must be an absolute path");
        }
        "KubeConfigFile" => match std::fs::metadata(file) {
            Err(error) => errors.invalid(at_file, file, format!("error loading file: stat {file}: {error}")),
            Ok(found) if !found.is_file() => errors.invalid(at_file, file, "must be a regular file"),
            Ok(_) => return Some(file.into()),
        },
        other => errors.not_supported(at_type, other, &["InClusterConfig", "KubeConfigFile"]),
    }
    None
}

fn conditions(list: &[Value], at: At<'_>, errors: &mut Errors) -> Vec<Rule> {
    if list.len() > MAX_CONDITIONS {
        errors.too_many(at, list.len(), MAX_CONDITIONS);
        return Vec::new();
    }
    let (mut seen, mut rules) = (HashSet::new(), Vec::new());
    for (index, condition) in list.iter().enumerate() {
        let at = at.index(index);
        let at = at.at("expression");
        match condition.text("expression") {
            text if text.trim().is_empty() => errors.required(at, ""),
            text if !seen.insert(text) => errors.duplicate(at, text),
            text => match Rule::compile(text) {
                Ok(rule) => rules.push(rule),
                Err(error) => errors.invalid(at, text, format!("compilation failed: {error}")),
            },
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document(authorizers: Value) -> Vec<u8> {
        json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": KIND, "authorizers": authorizers})
            .to_string()
            .into_bytes()
    }

    fn fault(authorizers: Value) -> String {
        read(&document(authorizers)).err().unwrap_or_default()
    }

    fn webhook(file: &Path, change: impl FnOnce(&mut Value)) -> Value {
        let mut webhook = json!({
            "timeout": "3s",
            "subjectAccessReviewVersion": "v1",
            "failurePolicy": "Deny",
            "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": file},
        });
        change(&mut webhook);
        json!([{"type": "Webhook", "name": "w", "webhook": webhook}])
    }

    #[test]
    fn a_configuration_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut list = webhook(file.path(), |webhook| {
            webhook["authorizedTTL"] = json!("1m30s");
            webhook["cacheUnauthorizedRequests"] = json!(false);
            webhook["matchConditionSubjectAccessReviewVersion"] = json!("v1");
            webhook["matchConditions"] = json!([{"expression": "request.user != 'root'"}]);
        });
        list.as_array_mut().unwrap().push(json!({"type": "RBAC", "name": "rbac"}));
        let found = read(&document(list)).unwrap();
        assert_eq!(found.iter().map(|one| one.kind.text()).collect::<Vec<_>>(), ["Webhook", "RBAC"]);
        let Kind::Webhook(settings) = &found[0].kind else { panic!("no webhook") };
        assert_eq!(settings.authorized_ttl, Duration::from_secs(90));
        assert_eq!((settings.unauthorized_ttl, settings.timeout), (Duration::ZERO, Duration::from_secs(3)));
        assert!(settings.denies_on_failure && settings.conditions.len() == 1);
    }

    #[test]
    fn faults_name_their_fields() {
        assert_eq!(
            fault(json!([])),
            "authorizers: Required value: at least one authorization mode must be defined"
        );
        assert_eq!(
            fault(json!([{"type": "X", "name": "x"}])),
            "authorizers[0].type: Unsupported value: \"X\": supported values: \"ABAC\", \"AlwaysAllow\", \"AlwaysDeny\", \"Node\", \"RBAC\", \"Webhook\""
        );
        assert_eq!(
            fault(json!([{"type": "RBAC", "name": "rbac"}, {"type": "RBAC", "name": "other"}])),
            "authorizers[1].type: Duplicate value: \"RBAC\""
        );
        assert_eq!(
            fault(json!([{"type": "RBAC", "name": "x"}])),
            "expected name rbac for authorizer RBAC instead of x"
        );
        assert_eq!(
            fault(json!([{"type": "Webhook", "name": "w"}])),
            "authorizers[0].webhook: Required value: required when type=Webhook"
        );
        assert!(
            fault(json!([{"type": "Node", "name": "node", "webook": {}}]))
                .ends_with("strict decoding error: unknown field \"authorizers[0].webook\"")
        );
        assert!(
            read(b"apiVersion: v1\nkind: Pod\n")
                .err()
                .unwrap()
                .starts_with("failed to load AuthorizationConfiguration from file: ")
        );
    }

    #[test]
    fn faults_of_webhooks_name_their_fields() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let of = |change: fn(&mut Value)| fault(webhook(file.path(), change));
        assert_eq!(of(|_| ()), "");
        for (field, value, error) in [
            ("timeout", json!(null), "authorizers[0].timeout: Required value"),
            (
                "timeout",
                json!("31s"),
                "authorizers[0].timeout: Invalid value: \"31s\": must be > 0s and <= 30s",
            ),
            (
                "authorizedTTL",
                json!("-1s"),
                "authorizers[0].authorizedTTL: Invalid value: \"-1s\": must be > 0s",
            ),
            ("failurePolicy", json!(null), "authorizers[0].failurePolicy: Required value"),
            (
                "failurePolicy",
                json!("Ignore"),
                "authorizers[0].failurePolicy: Unsupported value: \"Ignore\": supported values: \"NoOpinion\", \"Deny\"",
            ),
            (
                "matchConditions",
                json!([{"expression": "true"}]),
                "authorizers[0].matchConditionSubjectAccessReviewVersion: Required value: required if match conditions are specified",
            ),
            (
                "connectionInfo",
                json!({"type": "KubeConfigFile", "kubeConfigFile": "relative"}),
                "authorizers[0].connectionInfo.kubeConfigFile: Invalid value: \"relative\": must be an absolute path",
            ),
        ] {
            let found = fault(webhook(file.path(), |webhook| webhook[field] = value));
            assert!(found.starts_with(error), "{found} is not {error}");
        }
        let broken = of(|webhook| {
            webhook["matchConditionSubjectAccessReviewVersion"] = json!("v1");
            webhook["matchConditions"] = json!([{"expression": "request.user =="}]);
        });
        assert!(broken.starts_with("authorizers[0].matchConditions[0].expression: Invalid value: \"request.user ==\": compilation failed: "), "{broken}");
    }

    #[test]
    fn flags_are_checked_in_upstreams_words() {
        let fault = |change: fn(&mut AuthorizationConfig)| {
            let mut config = AuthorizationConfig::default();
            change(&mut config);
            config.read().err().unwrap()
        };
        let default = AuthorizationConfig::default().read().unwrap().0;
        assert_eq!(default.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["node", "rbac"]);
        assert_eq!(
            fault(|config| config.modes = Some(Vec::new())),
            "at least one authorization-mode must be passed"
        );
        assert_eq!(
            fault(|config| config.modes = Some(vec!["Rbac".into()])),
            "authorization-mode \"Rbac\" is not a valid mode"
        );
        assert_eq!(
            fault(|config| config.modes = Some(vec!["Webhook".into()])),
            "authorization-mode Webhook's authorization config file not passed"
        );
        assert_eq!(
            fault(|config| config.modes = Some(vec!["RBAC".into(), "RBAC".into()])),
            "authorization-mode [\"RBAC\" \"RBAC\"] has mode specified more than once"
        );
        assert_eq!(
            fault(|config| config.modes = Some(vec!["ABAC".into()])),
            "authorization-mode ABAC's authorization policy file not passed"
        );
        assert_eq!(
            fault(|config| config.policy_file = Some("x".into())),
            "cannot specify --authorization-policy-file without mode ABAC"
        );
        assert_eq!(
            fault(|config| config.webhook_config_file = Some("x".into())),
            "cannot specify --authorization-webhook-config-file without mode Webhook"
        );
        assert!(
            fault(|config| {
                config.file = Some("x".into());
                config.modes = Some(Vec::new());
            })
            .starts_with("--authorization-config can not be specified when --authorization-mode")
        );
    }
}

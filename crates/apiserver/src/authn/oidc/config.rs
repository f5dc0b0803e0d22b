//! `AuthenticationConfiguration` of `apiserver.config.k8s.io`, read and checked (KEP-3331; upstream:
//! `apiserver/pkg/apis/apiserver/validation`).

use std::collections::HashSet;

use api_rules::cel::Rule;
use api_rules::errors::{At, Errors};
use api_rules::look::Look;
use api_types::meta;
use serde_json::Value;
use url::Url;

use crate::{config_file, tls};

const KIND: &str = "AuthenticationConfiguration";
/// Issuers, at most.
const MAX_ISSUERS: usize = 64;

/// Who besides the cluster's own tokens is believed.
#[derive(Default)]
pub(crate) struct AuthenticationConfig {
    pub issuers: Vec<IssuerConfig>,
    pub anonymous: Option<Anonymous>,
}

/// Whether requests without credentials are let in, and on which paths; none is all.
#[derive(PartialEq, Eq)]
pub(crate) struct Anonymous {
    pub enabled: bool,
    pub paths: Vec<String>,
}

/// One issuer of JSON Web Tokens.
pub(crate) struct IssuerConfig {
    pub url: String,
    /// Where its keys are described, if not below the URL.
    pub discovery_url: String,
    /// PEM; empty for the system's.
    pub authority: String,
    pub audiences: Vec<String>,
    pub claim_rules: Vec<ClaimRule>,
    pub username: Mapping,
    pub groups: Option<Mapping>,
    pub uid: Option<Mapping>,
    pub extra: Vec<(String, Rule)>,
    pub user_rules: Vec<(Rule, String)>,
}

/// What the claims must say.
pub(crate) enum ClaimRule {
    Equals { claim: String, value: String },
    Holds { rule: Rule, message: String },
}

/// Where something about the user comes from.
pub(crate) enum Mapping {
    Claim { claim: String, prefix: String },
    Expression(Rule),
}

/// Reads a configuration, YAML or JSON.
///
/// # Errors
/// What is wrong with it, with the paths of fields, as upstream says it.
pub(crate) fn read(text: &[u8], own_issuer: &str) -> Result<AuthenticationConfig, String> {
    checked(&config_file::read(text, KIND, &["v1", "v1beta1", "v1alpha1"])?, own_issuer)
}

/// The same of a document.
pub(super) fn checked(document: &Value, own_issuer: &str) -> Result<AuthenticationConfig, String> {
    let mut errors = Errors::new();
    let config = config(document, own_issuer, &mut errors);
    config_file::told(errors)?;
    Ok(config)
}

fn config(document: &Value, own_issuer: &str, errors: &mut Errors) -> AuthenticationConfig {
    const JWT: At<'static> = At::root("jwt");
    let list = document.items("jwt");
    if list.len() > MAX_ISSUERS {
        errors.too_many(JWT, list.len(), MAX_ISSUERS);
    }
    let mut seen = HashSet::new();
    let mut issuers = Vec::new();
    for (index, value) in list.iter().enumerate() {
        let at = JWT.index(index);
        let issuer = issuer(value, at, own_issuer, errors);
        if !seen.insert(issuer.url.clone()) {
            errors.duplicate(at.at("issuer.url"), issuer.url.as_str());
        }
        issuers.push(issuer);
    }
    let anonymous = document.at("anonymous");
    let paths: Vec<String> =
        anonymous.items("conditions").iter().map(|condition| condition.text("path").to_owned()).collect();
    let enabled = anonymous.flag("enabled");
    if anonymous.is_object() && !enabled && !paths.is_empty() {
        let text = "enabled should be set to true when conditions are defined";
        errors.invalid(At::root("anonymous.conditions"), anonymous.at("conditions").clone(), text);
    }
    AuthenticationConfig { issuers, anonymous: anonymous.is_object().then_some(Anonymous { enabled, paths }) }
}

fn issuer(value: &Value, at: At<'_>, own_issuer: &str, errors: &mut Errors) -> IssuerConfig {
    let own = value.at("issuer");
    let url = own.text("url").to_owned();
    let at_issuer = at.at("issuer");
    match url.as_str() {
        "" => errors.required(at_issuer.at("url"), ""),
        text => check_url(text, own_issuer, at_issuer.at("url"), errors),
    }
    let discovery_url = own.text("discoveryURL").to_owned();
    if !discovery_url.is_empty() {
        if discovery_url.trim_end_matches('/') == url.trim_end_matches('/') {
            let text = "discoveryURL must be different from URL";
            errors.invalid(at_issuer.at("discoveryURL"), discovery_url.as_str(), text);
        }
        check_url(&discovery_url, "", at_issuer.at("discoveryURL"), errors);
    }
    let authority = own.text("certificateAuthority").to_owned();
    if !authority.is_empty()
        && let Err(error) = tls::of_webhook(authority.as_bytes())
    {
        errors.invalid(at_issuer.at("certificateAuthority"), "<omitted>", error.to_string());
    }
    let mappings = value.at("claimMappings");
    let at_mappings = at.at("claimMappings");
    let mut uses = Uses::default();
    let claim_rules = claim_rules(value, at.at("claimValidationRules"), &mut uses, errors);
    let username = mapping(mappings.at("username"), at_mappings.at("username"), true, errors);
    let groups = mapping(mappings.at("groups"), at_mappings.at("groups"), false, errors);
    let extra = extra(mappings, at_mappings.at("extra"), &mut uses, errors);
    if let Some(Mapping::Expression(rule)) = &username {
        uses.see(rule);
        if rule.mentions("claims.email") && !uses.email_verified {
            let text = "claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression";
            errors.invalid(at_mappings.at("username.expression"), rule.source(), text);
        }
    }
    IssuerConfig {
        audiences: audiences(own, at_issuer, errors),
        username: username.unwrap_or(Mapping::Claim { claim: String::new(), prefix: String::new() }),
        uid: uid(mappings.at("uid"), at_mappings.at("uid"), errors),
        user_rules: user_rules(value, at.at("userValidationRules"), errors),
        url,
        discovery_url,
        authority,
        claim_rules,
        groups,
        extra,
    }
}

/// Claims that expressions read.
#[derive(Default)]
struct Uses {
    email_verified: bool,
}

impl Uses {
    fn see(&mut self, rule: &Rule) {
        self.email_verified |= rule.mentions("email_verified");
    }
}

fn check_url(text: &str, disallowed: &str, at: At<'_>, errors: &mut Errors) {
    if !disallowed.is_empty() && text == disallowed {
        errors.invalid(at, text, format!("URL must not overlap with disallowed issuers: [{disallowed}]"));
    }
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => return errors.invalid(at, text, format!("parse {text:?}: {error}")),
    };
    for (wrong, why) in [
        (url.scheme() != "https", "URL scheme must be https"),
        (
            !url.username().is_empty() || url.password().is_some(),
            "URL must not contain a username or password",
        ),
        (url.query().is_some_and(|query| !query.is_empty()), "URL must not contain a query"),
        (url.fragment().is_some_and(|fragment| !fragment.is_empty()), "URL must not contain a fragment"),
    ] {
        if wrong {
            errors.invalid(at, text, why);
        }
    }
}

fn audiences(issuer: &Value, at: At<'_>, errors: &mut Errors) -> Vec<String> {
    let list: Vec<String> =
        issuer.items("audiences").iter().map(|text| text.as_str().unwrap_or_default().to_owned()).collect();
    let at_list = at.at("audiences");
    if list.is_empty() {
        errors.required(at_list, format!("at least one {at_list} is required"));
    }
    for (index, audience) in list.iter().enumerate() {
        if audience.is_empty() {
            errors.required(at_list.index(index), "");
        }
        if list[..index].contains(audience) {
            errors.duplicate(at_list.index(index), audience.as_str());
        }
    }
    let policy = issuer.text("audienceMatchPolicy");
    let at_policy = at.at("audienceMatchPolicy");
    if list.len() > 1 && policy != "MatchAny" {
        errors.invalid(at_policy, policy, "audienceMatchPolicy must be MatchAny for multiple audiences");
    }
    if list.len() == 1 && !matches!(policy, "" | "MatchAny") {
        errors.invalid(
            at_policy,
            policy,
            "audienceMatchPolicy must be empty or MatchAny for single audience",
        );
    }
    list
}

fn compile(text: &str, at: At<'_>, errors: &mut Errors) -> Option<Rule> {
    match Rule::compile(text) {
        Ok(rule) => Some(rule),
        Err(error) => {
            errors.invalid(at, text, format!("compilation failed: {error}"));
            None
        }
    }
}

fn claim_rules(value: &Value, at: At<'_>, uses: &mut Uses, errors: &mut Errors) -> Vec<ClaimRule> {
    let mut rules = Vec::new();
    let mut seen = HashSet::new();
    for (index, rule) in value.items("claimValidationRules").iter().enumerate() {
        let at = at.index(index);
        let (claim, expression) = (rule.text("claim"), rule.text("expression"));
        match (claim, expression) {
            ("", "") => errors.required(at, "claim or expression is required"),
            ("", expression) => {
                if rule.has("requiredValue") {
                    let text = "may not be specified when expression is set";
                    errors.invalid(at.at("requiredValue"), rule.text("requiredValue"), text);
                }
                if !seen.insert(expression) {
                    errors.duplicate(at.at("expression"), expression);
                } else if let Some(compiled) = compile(expression, at.at("expression"), errors) {
                    uses.see(&compiled);
                    rules.push(ClaimRule::Holds { rule: compiled, message: rule.text("message").to_owned() });
                }
            }
            (claim, "") => {
                if rule.has("message") {
                    let text = "may not be specified when claim is set";
                    errors.invalid(at.at("message"), rule.text("message"), text);
                }
                if !seen.insert(claim) {
                    errors.duplicate(at.at("claim"), claim);
                }
                let value = rule.text("requiredValue").to_owned();
                rules.push(ClaimRule::Equals { claim: claim.to_owned(), value });
            }
            (claim, _) => errors.invalid(at, claim, "claim and expression can't both be set"),
        }
    }
    rules
}

fn mapping(value: &Value, at: At<'_>, required: bool, errors: &mut Errors) -> Option<Mapping> {
    match (value.text("claim"), value.text("expression")) {
        ("", "") => {
            if required {
                errors.required(at, "claim or expression is required");
            }
            None
        }
        ("", expression) => {
            if value.has("prefix") {
                let text = "may not be specified when expression is set";
                errors.invalid(at.at("prefix"), value.text("prefix"), text);
            }
            compile(expression, at.at("expression"), errors).map(Mapping::Expression)
        }
        (claim, "") => {
            if !value.has("prefix") {
                let text = "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
                errors.required(at.at("prefix"), text);
            }
            Some(Mapping::Claim { claim: claim.to_owned(), prefix: value.text("prefix").to_owned() })
        }
        _ => {
            errors.invalid(at, "", "claim and expression can't both be set");
            None
        }
    }
}

fn uid(value: &Value, at: At<'_>, errors: &mut Errors) -> Option<Mapping> {
    match (value.text("claim"), value.text("expression")) {
        ("", "") => None,
        (claim, "") => Some(Mapping::Claim { claim: claim.to_owned(), prefix: String::new() }),
        ("", expression) => compile(expression, at.at("expression"), errors).map(Mapping::Expression),
        _ => {
            errors.invalid(at, "", "claim and expression can't both be set");
            None
        }
    }
}

fn extra(mappings: &Value, at: At<'_>, uses: &mut Uses, errors: &mut Errors) -> Vec<(String, Rule)> {
    let mut found: Vec<(String, Rule)> = Vec::new();
    for (index, value) in mappings.items("extra").iter().enumerate() {
        let at = at.index(index);
        let (key, expression) = (value.text("key"), value.text("valueExpression"));
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        if domain.is_empty() {
            let text = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.invalid(at.at("key"), key, text);
        }
        if key.chars().any(char::is_uppercase) {
            errors.invalid(at.at("key"), key, "must be lowercase");
        }
        if ["kubernetes.io", "k8s.io"].iter().any(|own| meta::is_within(domain, own)) {
            let text = "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use";
            errors.invalid(at.at("key"), key, text);
        }
        if found.iter().any(|(known, _)| known == key) {
            errors.duplicate(at.at("key"), key);
        } else if expression.is_empty() {
            errors.required(at.at("valueExpression"), "");
        } else if let Some(rule) = compile(expression, at.at("valueExpression"), errors) {
            uses.see(&rule);
            found.push((key.to_owned(), rule));
        }
    }
    found
}

fn user_rules(value: &Value, at: At<'_>, errors: &mut Errors) -> Vec<(Rule, String)> {
    let mut found: Vec<(Rule, String)> = Vec::new();
    for (index, rule) in value.items("userValidationRules").iter().enumerate() {
        let at_rule = at.index(index);
        let at_expression = at_rule.at("expression");
        match rule.text("expression") {
            "" => errors.required(at_expression, ""),
            text if found.iter().any(|(own, _)| own.source() == text) => {
                errors.duplicate(at_expression, text)
            }
            text => {
                let compiled = compile(text, at_expression, errors);
                found.extend(compiled.map(|compiled| (compiled, rule.text("message").to_owned())));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        read(text.as_bytes(), "https://own").err().unwrap_or_default()
    }

    const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";

    #[test]
    fn a_configuration_is_read() {
        let text = format!(
            "{HEAD}jwt:\n- issuer: {{url: 'https://a', audiences: [x, z], audienceMatchPolicy: MatchAny}}\n  claimMappings:\n    username: {{claim: sub, prefix: 'a:'}}\n    groups: {{expression: claims.roles}}\n  userValidationRules: [{{expression: \"!user.username.startsWith('system:')\", message: reserved}}]\nanonymous: {{enabled: true, conditions: [{{path: /livez}}]}}\n"
        );
        let config = read(text.as_bytes(), "https://own").unwrap();
        assert_eq!(config.issuers[0].audiences, ["x", "z"]);
        assert!(matches!(&config.issuers[0].username, Mapping::Claim { prefix, .. } if prefix == "a:"));
        assert_eq!(config.anonymous.unwrap().paths, ["/livez"]);
    }

    #[test]
    fn faults_name_their_fields() {
        assert!(fault("kind: Pod\napiVersion: v1\n").contains("no kind \"Pod\""));
        let jwt = |text: &str| fault(&format!("{HEAD}jwt:\n- {text}\n"));
        let username = "claimMappings: {username: {claim: sub, prefix: ''}}";
        assert_eq!(
            jwt(&format!("{{issuer: {{url: 'http://a', audiences: [x]}}, {username}}}")),
            "jwt[0].issuer.url: Invalid value: \"http://a\": URL scheme must be https"
        );
        assert_eq!(
            jwt(&format!("{{issuer: {{url: 'https://own', audiences: [x]}}, {username}}}")),
            "jwt[0].issuer.url: Invalid value: \"https://own\": URL must not overlap with disallowed issuers: [https://own]"
        );
        assert_eq!(
            jwt("{issuer: {url: 'https://a', audiences: [x]}, claimMappings: {username: {claim: sub}}}"),
            "jwt[0].claimMappings.username.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing"
        );
        assert!(
            jwt("{issuer: {url: 'https://a', audiences: [x]}, claimMappings: {username: {expression: claims.email}}}")
                .contains("claims.email_verified must be used")
        );
        assert_eq!(
            fault(&format!("{HEAD}anonymous: {{enabled: false, conditions: [{{path: /a}}]}}\n")),
            "anonymous.conditions: Invalid value: [{\"path\":\"/a\"}]: enabled should be set to true when conditions are defined"
        );
    }
}

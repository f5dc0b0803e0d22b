//! One issuer by flags: upstream's `--oidc-*`, which stand for a configuration with one entry
//! (`pkg/kubeapiserver/options/authentication.go`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use super::ALGORITHMS;
use super::config::{self, AuthenticationConfig};

/// An issuer of tokens (upstream's `--oidc-*`).
#[derive(Clone, Debug)]
pub struct OidcConfig {
    /// Its URL, as its tokens say it.
    pub issuer_url: String,
    /// The audience that tokens must have.
    pub client_id: String,
    /// Authorities of its server's certificate; without it the system's.
    pub ca_file: Option<PathBuf>,
    /// The claim that is the user's name.
    pub username_claim: String,
    /// What stands before it: `-` for nothing; empty for the URL and `#`, unless the claim is `email`.
    pub username_prefix: String,
    /// The claim with the user's groups; empty for none.
    pub groups_claim: String,
    /// What stands before each of them.
    pub groups_prefix: String,
    /// Signatures that are believed, by the names of RFC 7518.
    pub signing_algs: Vec<String>,
    /// Claims that tokens must have, with their values.
    pub required_claims: BTreeMap<String, String>,
}

impl Default for OidcConfig {
    fn default() -> Self {
        Self {
            issuer_url: String::new(),
            client_id: String::new(),
            ca_file: None,
            username_claim: "sub".to_owned(),
            username_prefix: String::new(),
            groups_claim: String::new(),
            groups_prefix: String::new(),
            signing_algs: vec!["RS256".to_owned()],
            required_claims: BTreeMap::new(),
        }
    }
}

impl OidcConfig {
    /// The configuration that the flags stand for, and the signatures that are believed.
    ///
    /// # Errors
    /// What is wrong with the flags, in upstream's words.
    pub(super) fn read(&self, own_issuer: &str) -> Result<(AuthenticationConfig, Vec<Algorithm>), String> {
        if self.issuer_url.is_empty() || self.client_id.is_empty() {
            let text =
                "oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set";
            return Err(text.to_owned());
        }
        let authority = match &self.ca_file {
            None => String::new(),
            Some(file) => {
                std::fs::read_to_string(file).map_err(|error| format!("open {}: {error}", file.display()))?
            }
        };
        let document = self.document(&authority);
        let config = config::checked(&document, own_issuer)
            .map_err(|error| format!("invalid authentication configuration: {error}"))?;
        Ok((config, self.algorithms()?))
    }

    fn document(&self, authority: &str) -> Value {
        let prefix = match self.username_prefix.as_str() {
            "-" => String::new(),
            "" if self.username_claim != "email" => format!("{}#", self.issuer_url),
            prefix => prefix.to_owned(),
        };
        let rules = self.required_claims.iter();
        let rules: Vec<Value> =
            rules.map(|(claim, value)| json!({"claim": claim, "requiredValue": value})).collect();
        let mut mappings = json!({"username": {"claim": self.username_claim, "prefix": prefix}});
        if !self.groups_claim.is_empty() {
            mappings["groups"] = json!({"claim": self.groups_claim, "prefix": self.groups_prefix});
        }
        let issuer =
            json!({"url": self.issuer_url, "audiences": [self.client_id], "certificateAuthority": authority});
        json!({"jwt": [{"issuer": issuer, "claimMappings": mappings, "claimValidationRules": rules}]})
    }

    fn algorithms(&self) -> Result<Vec<Algorithm>, String> {
        if self.signing_algs.is_empty() {
            return Ok(vec![Algorithm::RS256]);
        }
        let known = |name: &String| {
            let found = ALGORITHMS.into_iter().find(|algorithm| format!("{algorithm:?}") == *name);
            found.ok_or_else(|| format!("oidc: unsupported signing alg: {name:?}"))
        };
        self.signing_algs.iter().map(known).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> OidcConfig {
        OidcConfig { issuer_url: "https://a".into(), client_id: "k".into(), ..OidcConfig::default() }
    }

    fn user(config: &OidcConfig, claims: &Value) -> Result<crate::user::UserInfo, String> {
        config.read("").unwrap().0.issuers.pop().unwrap().user(claims)
    }

    #[test]
    fn flags_stand_for_a_configuration() {
        let claims = json!({"exp": 100, "aud": "k", "sub": "ann", "roles": ["x"], "email": "a@b", "hd": "y"});
        assert_eq!(user(&config(), &claims).unwrap().name, "https://a#ann");
        let plain = OidcConfig { username_prefix: "-".into(), ..config() };
        assert_eq!(user(&plain, &claims).unwrap().name, "ann");
        let email = OidcConfig { username_claim: "email".into(), ..config() };
        assert_eq!(user(&email, &claims).unwrap().name, "a@b");
        let groups = OidcConfig { groups_claim: "roles".into(), groups_prefix: "oidc:".into(), ..config() };
        assert_eq!(user(&groups, &claims).unwrap().groups, ["oidc:x", "system:authenticated"]);
        let strict = OidcConfig { required_claims: [("hd".into(), "z".into())].into(), ..config() };
        assert!(user(&strict, &claims).unwrap_err().contains("required claim hd"));
    }

    #[test]
    fn what_is_wrong_is_said_in_upstreams_words() {
        let fault = |config: OidcConfig| config.read("https://own").err().unwrap();
        assert!(
            fault(OidcConfig { client_id: String::new(), ..config() }).starts_with("oidc-issuer-url and")
        );
        assert_eq!(
            fault(OidcConfig { issuer_url: "http://a".into(), ..config() }),
            "invalid authentication configuration: jwt[0].issuer.url: Invalid value: \"http://a\": URL scheme must be https"
        );
        assert_eq!(
            fault(OidcConfig { signing_algs: vec!["HS256".into()], ..config() }),
            "oidc: unsupported signing alg: \"HS256\""
        );
        assert!(
            fault(OidcConfig { issuer_url: "https://own".into(), ..config() }).contains("must not overlap")
        );
    }
}

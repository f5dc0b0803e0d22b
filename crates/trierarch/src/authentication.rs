//! The flags of authentication, as kube-apiserver has them (`pkg/kubeapiserver/options/authentication.go`).

use std::path::PathBuf;
use std::time::Duration;

use apiserver::{ApiServerConfig, OidcConfig, RequestHeaderConfig, TokenWebhookConfig};
use clap::Args;
use clap::builder::BoolishValueParser;

use crate::server::duration;

/// Who is believed to be whom.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Authentication")]
pub struct AuthenticationOptions {
    /// Whether requests without credentials are those of the user system:anonymous; they are, if this is not said
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set, value_parser = BoolishValueParser::new())]
    anonymous_auth: Option<bool>,
    /// A file of kind AuthenticationConfiguration: other issuers of tokens, and where nobody in particular is let in
    #[arg(long, value_name = "FILE")]
    authentication_config: Option<PathBuf>,
    /// Whether bootstrap tokens, Secrets in kube-system, are credentials
    #[arg(long, default_value = "false", num_args = 0..=1, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set, value_parser = BoolishValueParser::new())]
    enable_bootstrap_token_auth: bool,
    /// Authorities of proxies that say in headers whose requests they pass on; without it none is believed
    #[arg(long, value_name = "FILE")]
    requestheader_client_ca_file: Option<PathBuf>,
    /// Common names that the certificates of those proxies may have; any without
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    requestheader_allowed_names: Vec<String>,
    /// Headers with the name of the user; X-Remote-User is common
    #[arg(long, value_name = "HEADERS", value_delimiter = ',')]
    requestheader_username_headers: Vec<String>,
    /// Headers with the UID of the user, X-Remote-Uid among them
    #[arg(long, value_name = "HEADERS", value_delimiter = ',')]
    requestheader_uid_headers: Vec<String>,
    /// Headers with the groups of the user; X-Remote-Group is common
    #[arg(long, value_name = "HEADERS", value_delimiter = ',')]
    requestheader_group_headers: Vec<String>,
    /// What headers begin with that tell more of the user; X-Remote-Extra- is common
    #[arg(long, value_name = "PREFIXES", value_delimiter = ',')]
    requestheader_extra_headers_prefix: Vec<String>,
    /// A file of tokens, a line each: token,user,uid,"group,group"
    #[arg(long, value_name = "FILE")]
    token_auth_file: Option<PathBuf>,
    /// Audiences of tokens that are meant for this server; without any the issuer of service account tokens
    #[arg(long, value_name = "AUDIENCES", value_delimiter = ',')]
    api_audiences: Vec<String>,
    /// A kubeconfig that names a server that is asked about tokens
    #[arg(long, value_name = "FILE")]
    authentication_token_webhook_config_file: Option<PathBuf>,
    /// The version of authentication.k8s.io that this server speaks: v1 or v1beta1
    #[arg(long, value_name = "VERSION", default_value = "v1beta1")]
    authentication_token_webhook_version: String,
    /// How long what it says of a token is believed
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration)]
    authentication_token_webhook_cache_ttl: Duration,
    /// The URL of an issuer of OpenID Connect tokens
    #[arg(long, value_name = "URL")]
    oidc_issuer_url: Option<String>,
    /// The audience that its tokens must have
    #[arg(long, value_name = "ID")]
    oidc_client_id: Option<String>,
    /// Authorities of its server's certificate; without it the system's
    #[arg(long, value_name = "FILE")]
    oidc_ca_file: Option<PathBuf>,
    /// The claim that is the user's name; sub, if this is not said
    #[arg(long, value_name = "CLAIM")]
    oidc_username_claim: Option<String>,
    /// What stands before the user's name: - for nothing; without it the URL and #, unless the claim is email
    #[arg(long, value_name = "PREFIX")]
    oidc_username_prefix: Option<String>,
    /// The claim with the user's groups
    #[arg(long, value_name = "CLAIM")]
    oidc_groups_claim: Option<String>,
    /// What stands before the name of a group
    #[arg(long, value_name = "PREFIX")]
    oidc_groups_prefix: Option<String>,
    /// Signatures of tokens that are believed; RS256, if this is not said
    #[arg(long, value_name = "ALGORITHMS", value_delimiter = ',')]
    oidc_signing_algs: Option<Vec<String>>,
    /// A claim that tokens must have, as claim=value; may be given several times
    #[arg(long, value_name = "CLAIM=VALUE", value_parser = pair)]
    oidc_required_claim: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("malformed pair, expect string=string")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

impl AuthenticationOptions {
    /// Says what the flags say in a server's configuration.
    pub fn put_into(&self, config: &mut ApiServerConfig) {
        config.anonymous_auth = self.anonymous_auth;
        config.authentication_config.clone_from(&self.authentication_config);
        config.bootstrap_token_auth = self.enable_bootstrap_token_auth;
        config.request_header = RequestHeaderConfig {
            client_ca_file: self.requestheader_client_ca_file.clone(),
            allowed_names: self.requestheader_allowed_names.clone(),
            username_headers: self.requestheader_username_headers.clone(),
            uid_headers: self.requestheader_uid_headers.clone(),
            group_headers: self.requestheader_group_headers.clone(),
            extra_headers_prefix: self.requestheader_extra_headers_prefix.clone(),
        };
        config.token_file.clone_from(&self.token_auth_file);
        config.api_audiences.clone_from(&self.api_audiences);
        config.token_webhook = TokenWebhookConfig {
            config_file: self.authentication_token_webhook_config_file.clone(),
            version: self.authentication_token_webhook_version.clone(),
            cache_ttl: self.authentication_token_webhook_cache_ttl,
        };
        config.oidc = self.oidc();
    }

    /// The issuer that the flags name; none when none of them was given.
    fn oidc(&self) -> Option<OidcConfig> {
        let texts = [
            &self.oidc_issuer_url,
            &self.oidc_client_id,
            &self.oidc_username_claim,
            &self.oidc_username_prefix,
            &self.oidc_groups_claim,
            &self.oidc_groups_prefix,
        ];
        let given = texts.iter().any(|text| text.is_some())
            || self.oidc_ca_file.is_some()
            || self.oidc_signing_algs.is_some()
            || !self.oidc_required_claim.is_empty();
        let default = OidcConfig::default();
        let text = |given: &Option<String>| given.clone().unwrap_or_default();
        given.then(|| OidcConfig {
            issuer_url: text(&self.oidc_issuer_url),
            client_id: text(&self.oidc_client_id),
            ca_file: self.oidc_ca_file.clone(),
            username_claim: self.oidc_username_claim.clone().unwrap_or(default.username_claim),
            username_prefix: text(&self.oidc_username_prefix),
            groups_claim: text(&self.oidc_groups_claim),
            groups_prefix: text(&self.oidc_groups_prefix),
            signing_algs: self.oidc_signing_algs.clone().unwrap_or(default.signing_algs),
            required_claims: self.oidc_required_claim.iter().cloned().collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        authentication: AuthenticationOptions,
    }

    fn parse(flags: &[&str]) -> Result<AuthenticationOptions, String> {
        let cli = Cli::try_parse_from([&["x"], flags].concat());
        cli.map(|cli| cli.authentication).map_err(|error| error.to_string())
    }

    #[test]
    fn lists_are_read_as_upstream_reads_them() {
        let options = parse(&[
            "--requestheader-allowed-names=a,b",
            "--requestheader-allowed-names=c",
            "--requestheader-username-headers=X-Remote-User",
            "--anonymous-auth=false",
        ])
        .unwrap();
        assert_eq!(options.requestheader_allowed_names, ["a", "b", "c"]);
        assert_eq!(options.anonymous_auth, Some(false));
        assert_eq!(parse(&["--anonymous-auth"]).unwrap().anonymous_auth, Some(true));
        assert!(parse(&[]).unwrap().requestheader_username_headers.is_empty());
    }

    #[test]
    fn an_issuer_is_there_when_a_flag_of_it_is() {
        assert!(parse(&[]).unwrap().oidc().is_none());
        let flags =
            ["--oidc-issuer-url=https://a", "--oidc-required-claim=a=b=c", "--oidc-signing-algs=ES256,RS256"];
        let oidc = parse(&flags).unwrap().oidc().unwrap();
        assert_eq!((oidc.issuer_url.as_str(), oidc.username_claim.as_str()), ("https://a", "sub"));
        assert_eq!(oidc.required_claims["a"], "b=c");
        assert_eq!(oidc.signing_algs, ["ES256", "RS256"]);
        assert_eq!(parse(&["--oidc-username-claim=x"]).unwrap().oidc().unwrap().issuer_url, "");
        assert!(parse(&["--oidc-required-claim=a"]).unwrap_err().contains("malformed pair"));
    }
}

//! The flags of authorization, as kube-apiserver has them (`pkg/kubeapiserver/options/authorization.go`).

use std::path::PathBuf;
use std::time::Duration;

use apiserver::AuthorizationConfig;
use clap::Args;

use crate::server::duration;

/// Who decides what users may do.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Authorization")]
pub struct AuthorizationOptions {
    /// A file of kind AuthorizationConfiguration: who decides, in which order; in place of the other flags
    #[arg(long, value_name = "FILE")]
    authorization_config: Option<PathBuf>,
    /// Who decides, in this order: Node, RBAC, Webhook, ABAC, AlwaysAllow, AlwaysDeny; Node,RBAC if this is not said
    #[arg(long, value_name = "MODES", value_delimiter = ',')]
    authorization_mode: Option<Vec<String>>,
    /// The policies of mode ABAC, a line each
    #[arg(long, value_name = "FILE")]
    authorization_policy_file: Option<PathBuf>,
    /// A kubeconfig that names the server that mode Webhook asks
    #[arg(long, value_name = "FILE")]
    authorization_webhook_config_file: Option<PathBuf>,
    /// The version of authorization.k8s.io that this server speaks: v1 or v1beta1; v1beta1 if this is not said
    #[arg(long, value_name = "VERSION")]
    authorization_webhook_version: Option<String>,
    /// How long is believed that it allows something; 5m if this is not said
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    authorization_webhook_cache_authorized_ttl: Option<Duration>,
    /// How long is believed that it does not; 30s if this is not said
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    authorization_webhook_cache_unauthorized_ttl: Option<Duration>,
}

impl AuthorizationOptions {
    /// Those who decide, as the flags say.
    pub fn config(&self) -> AuthorizationConfig {
        AuthorizationConfig {
            file: self.authorization_config.clone(),
            modes: self.authorization_mode.clone(),
            policy_file: self.authorization_policy_file.clone(),
            webhook_config_file: self.authorization_webhook_config_file.clone(),
            webhook_version: self.authorization_webhook_version.clone(),
            webhook_authorized_ttl: self.authorization_webhook_cache_authorized_ttl,
            webhook_unauthorized_ttl: self.authorization_webhook_cache_unauthorized_ttl,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        authorization: AuthorizationOptions,
    }

    #[test]
    fn flags_are_read_as_upstream_reads_them() {
        let flags = [
            "x",
            "--authorization-mode=Node,Webhook",
            "--authorization-mode=RBAC",
            "--authorization-webhook-cache-authorized-ttl=0",
            "--authorization-webhook-cache-unauthorized-ttl=1m30s",
        ];
        let config =
            Cli::try_parse_from(flags).unwrap_or_else(|error| panic!("{error}")).authorization.config();
        assert_eq!(config.modes.unwrap(), ["Node", "Webhook", "RBAC"]);
        assert_eq!(config.webhook_authorized_ttl, Some(Duration::ZERO));
        assert_eq!(config.webhook_unauthorized_ttl, Some(Duration::from_secs(90)));
        let none =
            Cli::try_parse_from(["x"]).unwrap_or_else(|error| panic!("{error}")).authorization.config();
        assert!(none.modes.is_none() && none.webhook_version.is_none());
    }
}

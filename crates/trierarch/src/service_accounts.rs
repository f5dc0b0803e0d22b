//! The flags of service account tokens, as kube-apiserver has them (`pkg/kubeapiserver/options/authentication.go`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use apiserver::ServiceAccountKeys;
use clap::Args;
use clap::builder::BoolishValueParser;
use url::Url;

use crate::server::{duration, read};

/// Who issues tokens if no flag says so.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// What a limit of expiration must lie between.
const MAX_EXPIRATION: [Duration; 2] = [Duration::from_hours(1), Duration::from_secs(1 << 32)];

/// Whose tokens service accounts have.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Service account tokens")]
pub struct ServiceAccountOptions {
    /// The issuer of tokens; may be given several times: new tokens are the first's, those of all are taken
    #[arg(long, value_name = "URL", default_value = ISSUER)]
    service_account_issuer: Vec<String>,
    /// The key that signs tokens, PEM: RSA, or ECDSA of curve P-256 or P-384; sa.key of --pki-dir without
    #[arg(long, value_name = "FILE")]
    service_account_signing_key_file: Option<PathBuf>,
    /// Keys and certificates whose signatures are believed, PEM; may be given several times; sa.pub of --pki-dir without
    #[arg(long, value_name = "FILE")]
    service_account_key_file: Vec<PathBuf>,
    /// Where others find the keys, in the discovery document; without it at this server
    #[arg(long, value_name = "URL")]
    service_account_jwks_uri: Option<String>,
    /// How long a token may last, between 1h and 2^32s; who asks for more gets that
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    service_account_max_token_expiration: Option<Duration>,
    /// Whether tokens of pods outlive what they say by a year, for clients that do not read them again
    #[arg(long, default_value = "true", num_args = 0..=1, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set, value_parser = BoolishValueParser::new())]
    service_account_extend_token_expiration: bool,
}

impl ServiceAccountOptions {
    /// The keys that the flags name, or those of the folder `pki`.
    ///
    /// # Errors
    /// When a file cannot be read, or a flag makes no sense.
    pub fn keys(&self, pki: &Path) -> Result<ServiceAccountKeys> {
        self.check()?;
        let own = |name: &str| pki.join(name);
        let signing = self.service_account_signing_key_file.clone().unwrap_or_else(|| own("sa.key"));
        let believed = match self.service_account_key_file.as_slice() {
            [] if self.service_account_signing_key_file.is_some() => {
                bail!(
                    "service-account-key-file must be specified when service-account-signing-key-file is provided"
                )
            }
            [] => vec![own("sa.pub")],
            given => given.to_vec(),
        };
        Ok(ServiceAccountKeys {
            signing_key: read(&signing)?,
            public_keys: believed.iter().map(|file| read(file)).collect::<Result<_>>()?,
            issuers: self.service_account_issuer.clone(),
            jwks_uri: self.service_account_jwks_uri.clone(),
            max_expiration: self.service_account_max_token_expiration.filter(|max| !max.is_zero()),
            extend_expiration: self.service_account_extend_token_expiration,
        })
    }

    fn check(&self) -> Result<()> {
        for (number, issuer) in self.service_account_issuer.iter().enumerate() {
            if issuer.is_empty() {
                bail!("service-account-issuer should not be an empty string");
            }
            if issuer.contains(':')
                && let Err(error) = Url::parse(issuer)
            {
                bail!("service-account-issuer {issuer:?} contained a ':' but was not a valid URL: {error}");
            }
            if self.service_account_issuer[..number].contains(issuer) {
                bail!("service-account-issuer {issuer:?} is already specified");
            }
        }
        if let Some(uri) = &self.service_account_jwks_uri {
            let url = Url::parse(uri)
                .map_err(|error| anyhow::anyhow!("service-account-jwks-uri must be a valid URL: {error}"))?;
            if url.scheme() != "https" {
                bail!("service-account-jwks-uri requires https scheme, parsed as: {uri}");
            }
        }
        let [low, high] = MAX_EXPIRATION;
        if let Some(max) = self.service_account_max_token_expiration.filter(|max| !max.is_zero())
            && !(low..=high).contains(&max)
        {
            bail!("the service-account-max-token-expiration must be between 1 hour and 2^32 seconds");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use std::fs;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        accounts: ServiceAccountOptions,
    }

    fn keys(flags: &[&str]) -> Result<ServiceAccountKeys> {
        let folder = tempfile::tempdir()?;
        for file in ["sa.key", "sa.pub", "other.pub"] {
            fs::write(folder.path().join(file), file)?;
        }
        let flags: Vec<String> =
            flags.iter().map(|flag| flag.replace("DIR", &folder.path().display().to_string())).collect();
        let cli = Cli::try_parse_from(["x".to_owned()].into_iter().chain(flags))?;
        cli.accounts.keys(folder.path())
    }

    #[test]
    fn flags_name_issuers_and_keys() {
        let none = keys(&[]).unwrap();
        assert_eq!((&none.signing_key[..], none.public_keys), (&b"sa.key"[..], vec![b"sa.pub".to_vec()]));
        assert_eq!(
            (none.issuers, none.max_expiration, none.extend_expiration),
            (vec![ISSUER.to_owned()], None, true)
        );
        let all = keys(&[
            "--service-account-issuer=https://new",
            "--service-account-issuer=old",
            "--service-account-signing-key-file=DIR/sa.key",
            "--service-account-key-file=DIR/sa.pub",
            "--service-account-key-file=DIR/other.pub",
            "--service-account-jwks-uri=https://keys",
            "--service-account-max-token-expiration=1h",
            "--service-account-extend-token-expiration=false",
        ])
        .unwrap();
        assert_eq!(all.public_keys, [b"sa.pub".to_vec(), b"other.pub".to_vec()]);
        assert_eq!(all.issuers, ["https://new", "old"]);
        assert_eq!((all.jwks_uri.as_deref(), all.extend_expiration), (Some("https://keys"), false));
        assert_eq!(all.max_expiration, Some(Duration::from_hours(1)));
    }

    #[test]
    fn flags_that_make_no_sense_end_the_start() {
        for (flags, words) in [
            (&["--service-account-issuer="][..], "should not be an empty string"),
            (&["--service-account-issuer=a", "--service-account-issuer=a"], "\"a\" is already specified"),
            (&["--service-account-issuer=:"], "contained a ':' but was not a valid URL"),
            (&["--service-account-jwks-uri=http://a"], "requires https scheme"),
            (&["--service-account-max-token-expiration=59m"], "must be between 1 hour and 2^32 seconds"),
            (
                &["--service-account-max-token-expiration=4294967297s"],
                "must be between 1 hour and 2^32 seconds",
            ),
            (
                &["--service-account-signing-key-file=DIR/sa.key"],
                "service-account-key-file must be specified",
            ),
            (&["--service-account-key-file=DIR/none"], "cannot read"),
        ] {
            let error = keys(flags).err().map(|error| format!("{error:#}")).unwrap_or_default();
            assert!(error.contains(words), "{flags:?}: {error}");
        }
        assert!(keys(&["--service-account-max-token-expiration=4294967296s"]).is_ok());
    }
}

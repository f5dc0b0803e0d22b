//! Who is asking: client certificates, service account tokens, bootstrap tokens, or nobody.

mod bootstrap;
mod certificate;
mod keys;
mod oidc;
mod token;

use api_types::status::Status;

pub(crate) use certificate::user_of;
pub(crate) use keys::PublicKeys;
pub(crate) use oidc::Oidc;
pub(crate) use token::{Bound, Reference, Tokens};

use crate::api::Api;
use crate::config::{ApiServerConfig, BuildError};
use crate::user::UserInfo;

/// Paths that are answered whoever asks (upstream's default of `--authorization-always-allow-paths`).
const PUBLIC: [&str; 3] = ["/healthz", "/livez", "/readyz"];

/// Finds out who asks.
pub(crate) struct Authenticator {
    pub tokens: Tokens,
    pub keys: PublicKeys,
    pub oidc: Oidc,
    anonymous: bool,
    bootstrap_tokens: bool,
}

impl Authenticator {
    pub fn new(config: &ApiServerConfig) -> Result<Self, BuildError> {
        let keys = &config.service_account;
        let public = PublicKeys::new(keys);
        let oidc = Oidc::new(config.authentication_config.clone(), &keys.issuer);
        Ok(Self {
            oidc: oidc.map_err(BuildError::AuthenticationConfig)?,
            tokens: Tokens::new(keys, public.id())?,
            keys: public,
            anonymous: config.anonymous_auth,
            bootstrap_tokens: config.bootstrap_token_auth,
        })
    }

    /// The user of a request that came with these credentials.
    ///
    /// # Errors
    /// 401 for a token that is not good, and for nobody if nobody may ask.
    pub async fn authenticate(
        &self,
        api: &Api,
        certificate: Option<&UserInfo>,
        authorization: &str,
        path: &str,
    ) -> Result<UserInfo, Status> {
        let unauthorized = || Status::unauthorized("Unauthorized");
        if let Some(user) = certificate {
            return Ok(user.clone());
        }
        if let Some(token) = bearer(authorization) {
            return self.user_of_token(api, token).await.ok_or_else(unauthorized);
        }
        match self.oidc.lets_in_anonymous(path).unwrap_or(self.anonymous) {
            true => Ok(UserInfo::anonymous()),
            false => Err(unauthorized()),
        }
    }

    async fn user_of_token(&self, api: &Api, token: &str) -> Option<UserInfo> {
        let (view, now) = (api.storage.view(), api.now());
        match self.tokens.verify(&view, token, &[], now) {
            Ok(found) => return Some(found.user),
            Err(error) => tracing::debug!(%error, "no token of a service account"),
        }
        let found = self.bootstrap_tokens.then(|| bootstrap::verify(&view, token, now)).flatten();
        match found {
            Some(user) => Some(user),
            None => self.oidc.verify(api, token).await,
        }
    }
}

fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim()).filter(|token| !token.is_empty())
}

/// Whether a path is for everyone.
pub(crate) fn is_public(path: &str) -> bool {
    PUBLIC.contains(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_health_is_public() {
        for path in PUBLIC {
            assert!(is_public(path), "{path}");
        }
        for path in ["/", "/metrics", "/livezz", "/livez/ping", "/version", "/api"] {
            assert!(!is_public(path), "{path}");
        }
    }

    #[test]
    fn the_scheme_is_bearer() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("Basic abc"), None);
        assert_eq!(bearer("Bearer "), None);
    }
}

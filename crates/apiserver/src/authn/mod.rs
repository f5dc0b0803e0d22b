//! Who is asking: client certificates and service account tokens.

mod certificate;
mod keys;
mod token;

use api_types::status::Status;
use mvcc::View;

pub(crate) use certificate::user_of;
pub(crate) use keys::PublicKeys;
pub(crate) use token::{Bound, Reference, Tokens};

use crate::config::{BuildError, ServiceAccountKeys};
use crate::user::UserInfo;

/// Paths that anyone may ask, known or not.
const PUBLIC: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];

/// Finds out who asks.
pub(crate) struct Authenticator {
    pub tokens: Tokens,
    pub keys: PublicKeys,
}

impl Authenticator {
    pub fn new(keys: &ServiceAccountKeys) -> Result<Self, BuildError> {
        let public = PublicKeys::new(keys);
        Ok(Self { tokens: Tokens::new(keys, public.id())?, keys: public })
    }

    /// The user of a request that came with these credentials.
    ///
    /// # Errors
    /// 401 for a token that is not good, and for nobody on a path that is not public.
    pub fn authenticate(
        &self,
        view: &View,
        certificate: Option<&UserInfo>,
        authorization: &str,
        path: &str,
        now: i64,
    ) -> Result<UserInfo, Status> {
        if let Some(user) = certificate {
            return Ok(user.clone());
        }
        if let Some(token) = bearer(authorization) {
            return self.tokens.verify(view, token, &[], now).map(|found| found.user).map_err(|error| {
                tracing::debug!(%error, "token refused");
                Status::unauthorized("Unauthorized")
            });
        }
        match is_public(path) {
            true => Ok(UserInfo::anonymous()),
            false => Err(Status::unauthorized("Unauthorized")),
        }
    }
}

fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim()).filter(|token| !token.is_empty())
}

/// Whether a path is for everyone: health (each check of it) and the version.
pub(crate) fn is_public(path: &str) -> bool {
    let path = path.strip_suffix('/').unwrap_or(path);
    PUBLIC.iter().any(|public| match path.strip_prefix(public) {
        Some("") => true,
        Some(rest) => rest.starts_with('/') && *public != "/version",
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_health_and_version_are_public() {
        for path in ["/livez", "/readyz/", "/healthz/ping", "/version"] {
            assert!(is_public(path), "{path}");
        }
        for path in ["/", "/metrics", "/livezz", "/version/x", "/api"] {
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

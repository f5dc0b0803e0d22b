//! The names in certificates, compared as Go's library compares them.

use std::net::IpAddr;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What a certificate says whose it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub common_name: String,
    pub addresses: Vec<IpAddr>,
    pub hosts: Vec<String>,
}

impl Names {
    /// Reads a certificate; none if it is none.
    pub fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let common_name = certificate.subject().iter_common_name().next();
        let common_name = common_name.and_then(|name| name.as_str().ok()).unwrap_or_default().to_owned();
        let mut names = Self { common_name, ..Self::default() };
        let alternatives = certificate.subject_alternative_name().ok()?;
        for name in alternatives.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(host) => names.hosts.push((*host).to_owned()),
                GeneralName::IPAddress(bytes) => names.addresses.extend(address(bytes)),
                _ => {}
            }
        }
        Some(names)
    }

    /// Whether the certificate is valid for a host.
    ///
    /// # Errors
    /// In Go's words.
    pub fn check(&self, host: &str) -> Result<(), String> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(wanted) = bare.parse::<IpAddr>() {
            return self.check_address(wanted);
        }
        if self.hosts.iter().any(|pattern| matches(pattern, host)) {
            return Ok(());
        }
        if self.hosts.is_empty() {
            return Err(format!("x509: certificate is not valid for any names, but wanted to match {host}"));
        }
        Err(format!("x509: certificate is valid for {}, not {host}", self.hosts.join(", ")))
    }

    fn check_address(&self, wanted: IpAddr) -> Result<(), String> {
        if self.addresses.contains(&wanted) {
            return Ok(());
        }
        if self.addresses.is_empty() {
            return Err(format!(
                "x509: cannot validate certificate for {wanted} because it doesn't contain any IP SANs"
            ));
        }
        let valid: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        Err(format!("x509: certificate is valid for {}, not {wanted}", valid.join(", ")))
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(four));
    }
    Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical())
}

/// A wildcard stands for one whole label, the first (RFC 6125, section 6.4.3).
fn matches(pattern: &str, host: &str) -> bool {
    let host = host.trim_end_matches('.');
    match pattern.strip_prefix("*.") {
        None => pattern.eq_ignore_ascii_case(host),
        Some(rest) => host
            .split_once('.')
            .is_some_and(|(first, domain)| !first.is_empty() && domain.eq_ignore_ascii_case(rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_addresses_are_compared_as_in_go() {
        let names = Names {
            hosts: vec!["localhost".into(), "*.example.com".into()],
            addresses: vec!["127.0.0.1".parse().expect("an address")],
            ..Names::default()
        };
        for good in ["localhost", "LOCALHOST", "a.example.com", "127.0.0.1"] {
            assert_eq!(names.check(good), Ok(()), "{good}");
        }
        for bad in ["example.com", "a.b.example.com", "other"] {
            assert!(names.check(bad).is_err(), "{bad}");
        }
        assert_eq!(
            names.check("10.0.0.1").expect_err("another address"),
            "x509: certificate is valid for 127.0.0.1, not 10.0.0.1"
        );
        let nameless = Names::default();
        assert!(nameless.check("10.0.0.1").expect_err("no address").contains("doesn't contain any IP SANs"));
    }
}

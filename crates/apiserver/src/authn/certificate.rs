//! Client certificates: the common name is the user, organizations are the groups.

use x509_parser::prelude::{FromDer, X509Certificate};

use crate::user::{AUTHENTICATED, UserInfo};

/// The user of a verified certificate; none when it has no name.
pub(crate) fn user_of(der: &[u8]) -> Option<UserInfo> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    if name.is_empty() {
        return None;
    }
    let organizations = subject.iter_organization().filter_map(|entry| entry.as_str().ok());
    let mut groups: Vec<String> = organizations.map(str::to_owned).collect();
    groups.push(AUTHENTICATED.to_owned());
    Some(UserInfo { name, groups, ..UserInfo::default() })
}

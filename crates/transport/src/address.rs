//! The URLs that members and clients are listened to and called at.

use std::fmt;
use std::str::FromStr;

/// What is spoken, and over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain text over TCP.
    Http,
    /// TLS over TCP.
    Https,
    /// Plain text over a local socket.
    Unix,
    /// TLS over a local socket.
    Unixs,
}

/// A URL of four schemes, without a path unless it is that of a socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// What is spoken.
    pub scheme: Scheme,
    /// `host:port`, or the path of a local socket.
    pub place: String,
}

/// Why text is no address. The words are etcd's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Another scheme, or none.
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    Scheme(String),
    /// No host, or no port.
    #[error("URL address does not have the form \"host:port\": {0}")]
    Form(String),
    /// A path behind the host.
    #[error("URL must not contain a path: {0}")]
    Path(String),
    /// A name where an address to bind is wanted.
    #[error("expected IP in URL for binding ({0})")]
    Name(String),
    /// No host at all.
    #[error("unexpected empty host ({0})")]
    EmptyHost(String),
}

impl Scheme {
    fn text(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Unix => "unix",
            Self::Unixs => "unixs",
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.text(), self.place)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").ok_or_else(|| AddressError::Scheme(text.to_owned()))?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => return Err(AddressError::Scheme(text.to_owned())),
        };
        if matches!(scheme, Scheme::Unix | Scheme::Unixs) {
            if rest.is_empty() {
                return Err(AddressError::Form(text.to_owned()));
            }
            return Ok(Self { scheme, place: rest.to_owned() });
        }
        let (place, path) = rest.find(['/', '?', '#']).map_or((rest, ""), |at| rest.split_at(at));
        if split(place).is_none() {
            return Err(AddressError::Form(text.to_owned()));
        }
        if !matches!(path, "" | "/") {
            return Err(AddressError::Path(text.to_owned()));
        }
        Ok(Self { scheme, place: place.to_owned() })
    }
}

/// Host, without brackets, and port.
fn split(place: &str) -> Option<(&str, u16)> {
    let (host, port) = place.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    Some((host, port.parse().ok()?))
}

impl Address {
    /// Whether TLS is spoken there.
    pub fn is_secure(&self) -> bool {
        matches!(self.scheme, Scheme::Https | Scheme::Unixs)
    }

    /// Whether it is a local socket's path.
    pub fn is_unix(&self) -> bool {
        matches!(self.scheme, Scheme::Unix | Scheme::Unixs)
    }

    /// Host and port of an address over TCP.
    pub fn host_and_port(&self) -> Option<(&str, u16)> {
        if self.is_unix() { None } else { split(&self.place) }
    }

    /// The host of an address over TCP.
    pub fn host(&self) -> &str {
        self.host_and_port().map_or("", |(host, _)| host)
    }

    /// Refuses names: what is bound must not depend on who answers for them. `localhost` is one that may be.
    ///
    /// # Errors
    /// The host is a name.
    pub fn check_bind(&self) -> Result<(), AddressError> {
        match self.host_and_port() {
            Some((host, _)) if host != "localhost" && host.parse::<std::net::IpAddr>().is_err() => {
                Err(AddressError::Name(self.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// Refuses addresses that tell nobody where to go.
    ///
    /// # Errors
    /// There is no host.
    pub fn check_host(&self) -> Result<(), AddressError> {
        match self.host_and_port() {
            Some(("", _)) => Err(AddressError::EmptyHost(self.to_string())),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Address, AddressError> {
        text.parse()
    }

    #[test]
    fn the_four_schemes_are_read() {
        for text in ["http://127.0.0.1:2379", "https://[::1]:1", "unix://etcd.unix:1", "unixs:///run/x"] {
            assert_eq!(read(text).expect("an address").to_string(), text);
        }
        assert_eq!(read("https://h:1/").expect("an address").host_and_port(), Some(("h", 1)));
        assert_eq!(read("unix:///run/x").expect("an address").place, "/run/x");
    }

    #[test]
    fn what_is_no_address_is_refused_in_the_words_of_etcd() {
        let fails = |text| read(text).expect_err("refused").to_string();
        assert_eq!(fails("ftp://h:1"), "URL scheme must be http, https, unix, or unixs: ftp://h:1");
        assert_eq!(fails("http://h"), "URL address does not have the form \"host:port\": http://h");
        assert_eq!(fails("http://h:1/p"), "URL must not contain a path: http://h:1/p");
        let name = read("http://example.com:1").expect("an address");
        assert_eq!(
            name.check_bind().expect_err("a name").to_string(),
            "expected IP in URL for binding (http://example.com:1)"
        );
        assert!(read("http://localhost:1").expect("an address").check_bind().is_ok());
        assert!(read("http://:1").expect("an address").check_host().is_err());
    }
}

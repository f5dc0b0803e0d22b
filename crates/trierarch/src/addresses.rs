//! The addresses of Services: one range, of IPv4.

use std::net::IpAddr;

use ipnet::IpNet;

/// The range, if no flag says otherwise: kubeadm's.
pub const DEFAULT: &str = "10.96.0.0/12";

/// The default range.
pub fn default() -> IpNet {
    read(DEFAULT).expect("invariant: the default is a range")
}

/// The first address of a range: the one of Service `kubernetes`.
pub fn first(range: &IpNet) -> Option<IpAddr> {
    range.hosts().next()
}

/// Reads a range.
pub fn read(text: &str) -> Result<IpNet, String> {
    match text.parse::<IpNet>() {
        Ok(range) if range.addr().is_ipv4() => Ok(range.trunc()),
        Ok(_) => Err("addresses of IPv6 are not supported".to_owned()),
        Err(_) if text.contains(',') => Err("one range only: two families are not supported".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_one_range_of_ipv4() {
        let range = read("10.43.7.9/16").expect("a range");
        assert_eq!((range.to_string().as_str(), first(&range)), ("10.43.0.0/16", "10.43.0.1".parse().ok()));
        for (text, words) in
            [("fd00::/108", "IPv6"), ("10.0.0.0/16,fd00::/108", "one range only"), ("10.0.0.0", "")]
        {
            let error = read(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}

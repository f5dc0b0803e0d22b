//! TLS by etcd's flags: towards clients, between members, and towards the members of a discovery service.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use transport::{Tls, TlsOptions, TlsVersions, cipher_suites};

use super::flags::Flags;
use crate::pki::{self, KeyedCertificate, Leaf, Usage};

/// What flags of one side are named.
struct Side {
    prefix: &'static str,
    auth: &'static str,
    /// The folder of certificates that are made here, below the data folder.
    folder: &'static str,
    listen: &'static [&'static str],
}

const CLIENT: Side = Side {
    prefix: "",
    auth: "client-cert-auth",
    folder: "client",
    listen: &["listen-client-urls", "listen-client-http-urls"],
};
const PEER: Side =
    Side { prefix: "peer-", auth: "peer-client-cert-auth", folder: "peer", listen: &["listen-peer-urls"] };

/// TLS towards clients; none without a certificate.
pub fn clients(flags: &Flags) -> Result<Option<Tls>> {
    let mut options = common(flags, &CLIENT)?;
    options.revocation_list = file(flags, "client-crl-file");
    options.allowed_hostnames = flags.list("client-cert-allowed-hostname");
    start(flags, &CLIENT, options)
}

/// TLS between members; none without a certificate.
pub fn peers(flags: &Flags) -> Result<Option<Tls>> {
    let mut options = common(flags, &PEER)?;
    options.revocation_list = file(flags, "peer-crl-file");
    options.allowed_common_names = flags.list("peer-cert-allowed-cn");
    options.allowed_hostnames = flags.list("peer-cert-allowed-hostname");
    options.check_caller_address = !flags.on("peer-skip-client-san-verification");
    // The records of a domain stand for its members: they must have its name.
    options.server_name =
        flags.some("discovery-srv").filter(|_| options.trusted_ca.is_none()).map(str::to_owned);
    start(flags, &PEER, options)
}

/// TLS towards a discovery service; none if it is called in plain text.
pub fn discovery(flags: &Flags) -> Result<Option<Tls>> {
    let options = TlsOptions {
        certificate: file(flags, "discovery-cert"),
        key: file(flags, "discovery-key"),
        trusted_ca: file(flags, "discovery-cacert"),
        believe_anyone: flags.on("discovery-insecure-skip-tls-verify"),
        ..TlsOptions::default()
    };
    let wanted = options.certificate.is_some()
        || options.trusted_ca.is_some()
        || options.believe_anyone
        || !flags.on("discovery-insecure-transport");
    wanted.then(|| Tls::new(options)).transpose().context("discovery")
}

fn file(flags: &Flags, name: &str) -> Option<PathBuf> {
    flags.some(name).map(PathBuf::from)
}

fn common(flags: &Flags, side: &Side) -> Result<TlsOptions> {
    let named = |name: &str| file(flags, &format!("{}{name}", side.prefix));
    Ok(TlsOptions {
        certificate: named("cert-file"),
        key: named("key-file"),
        client_certificate: named("client-cert-file"),
        client_key: named("client-key-file"),
        trusted_ca: named("trusted-ca-file"),
        client_cert_auth: flags.on(side.auth),
        cipher_suites: cipher_suites(&flags.list("cipher-suites"))?,
        versions: TlsVersions::parse(flags.get("tls-min-version"), flags.get("tls-max-version"))?,
        ..TlsOptions::default()
    })
}

fn start(flags: &Flags, side: &Side, mut options: TlsOptions) -> Result<Option<Tls>> {
    let none = options.certificate.is_none() && options.key.is_none();
    if flags.on(&format!("{}auto-tls", side.prefix)) {
        if none {
            make(flags, side, &mut options)?;
        } else {
            tracing::warn!("ignoring {} auto TLS since certs given", side.folder);
        }
    } else if none {
        return Ok(None);
    }
    Ok(Some(Tls::new(options)?))
}

/// A certificate that nobody signed, for the hosts that are listened on.
fn make(flags: &Flags, side: &Side, options: &mut TlsOptions) -> Result<()> {
    let addresses = side.listen.iter().flat_map(|name| flags.addresses(name)).collect::<Vec<_>>();
    let hosts = addresses.iter().map(|address| address.host().to_owned());
    let folder = super::settings::data_dir(flags).join("fixtures").join(side.folder);
    let years = flags.number("self-signed-cert-validity").unwrap_or(1);
    sign_own(&folder, hosts.filter(|host| !host.is_empty()).collect(), years, options)
}

/// Makes a certificate that nobody signed, and its key. It stays in its folder, as etcd's does, and is used again.
pub fn sign_own(folder: &Path, hosts: Vec<String>, years: u64, options: &mut TlsOptions) -> Result<()> {
    if years == 0 {
        bail!("selfSignedCertValidity is invalid,it should be greater than 0");
    }
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    if !certificate.exists() || !key.exists() {
        let leaf = Leaf {
            common_name: String::new(),
            organization: Some("etcd".to_owned()),
            hosts,
            usage: Usage::Both,
        };
        let made: KeyedCertificate = pki::self_signed(&leaf, years)?;
        pki::write_private(&key, &made.key)?;
        pki::write_public(&certificate, &made.certificate)?;
        tracing::warn!(years, path = %certificate.display(), "automatically generate certificates");
    }
    options.certificate = Some(certificate.clone());
    options.key = Some(key.clone());
    options.client_certificate = Some(certificate);
    options.client_key = Some(key);
    options.believe_anyone = true;
    options.trusted_ca = None;
    options.client_cert_auth = false;
    Ok(())
}

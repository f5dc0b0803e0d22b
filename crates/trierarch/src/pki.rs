//! The cluster's keys and certificates, in the layout that kubeadm made customary.
//!
//! One authority signs everything of the Kubernetes API (`ca.crt`), another one everything between the members of
//! the store (`etcd/ca.crt`), and `sa.key` signs service account tokens. Names and organizations are those that
//! upstream's authenticators and bootstrap roles expect (Kubernetes documentation, "PKI certificates and
//! requirements").

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256, PublicKeyData, RsaKeySize, SanType,
};
use time::{Duration, OffsetDateTime};

/// How long an authority is valid: ten years, as kubeadm's.
const AUTHORITY_VALIDITY: Duration = Duration::days(3650);
/// How long any other certificate is valid: one year, as kubeadm's.
const LEAF_VALIDITY: Duration = Duration::days(365);
/// Certificates that nobody signed are valid for so many years at most: dates have four digits.
const MAX_YEARS: i32 = 1000;
/// Certificates are valid from a little before now, for machines whose clocks are behind.
const CLOCK_SKEW: Duration = Duration::hours(1);
/// The group that is above authorization.
pub const MASTERS_GROUP: &str = "system:masters";

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// To be recognised as a client.
    Client,
    /// To serve.
    Server,
    /// Both: members of the store, and nodes, which are clients of the API and serve logs.
    Both,
}

/// A certificate to be signed.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The user's name, or the server's.
    pub common_name: String,
    /// The user's group, if any.
    pub organization: Option<String>,
    /// Names and addresses under which it serves.
    pub hosts: Vec<String>,
    /// What for.
    pub usage: Usage,
}

/// A certificate and its private key, both PEM.
#[derive(Clone, Debug)]
pub struct KeyedCertificate {
    /// The certificate.
    pub certificate: String,
    /// The private key, PKCS #8.
    pub key: String,
}

/// A certificate authority that can sign.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Loads `<base>.crt` and `<base>.key`, or makes and writes them. An authority of which only one of them is there
    /// is an error: to replace it would make all that it signed worthless.
    pub fn ensure(base: &Path, common_name: &str) -> Result<Self> {
        let (crt, key) = (with_suffix(base, "crt"), with_suffix(base, "key"));
        if !crt.exists() && !key.exists() {
            let made = new_authority(common_name)?;
            write_public(&crt, &made.certificate)?;
            write_private(&key, &made.key)?;
        }
        Self::load(&crt, &key)
    }

    fn load(crt: &Path, key: &Path) -> Result<Self> {
        let certificate = read(crt)?;
        let key_pair =
            KeyPair::from_pem(&read(key)?).with_context(|| format!("{} is no key", key.display()))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key_pair)
            .with_context(|| format!("{} is no certificate authority", crt.display()))?;
        Ok(Self { certificate, issuer })
    }

    /// The authority's own certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Signs a new certificate with a new key.
    pub fn issue(&self, leaf: &Leaf) -> Result<KeyedCertificate> {
        self.sign(leaf, &KeyPair::generate()?)
    }

    /// The same with an RSA key, as kubeadm's kubeconfigs have: there are clients that read no other.
    pub fn issue_rsa(&self, leaf: &Leaf) -> Result<KeyedCertificate> {
        self.sign(leaf, &KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?)
    }

    fn sign(&self, leaf: &Leaf, key: &KeyPair) -> Result<KeyedCertificate> {
        let mut params = leaf_params(leaf)?;
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer)?.pem();
        Ok(KeyedCertificate { certificate, key: key.serialize_pem() })
    }

    /// Signs `leaf` into `<base>.crt` and `<base>.key` unless they are there.
    pub fn ensure_issued(&self, base: &Path, leaf: &Leaf) -> Result<()> {
        let (crt, key) = (with_suffix(base, "crt"), with_suffix(base, "key"));
        if crt.exists() && key.exists() {
            return Ok(());
        }
        let issued = self.issue(leaf)?;
        write_private(&key, &issued.key)?;
        write_public(&crt, &issued.certificate)
    }
}

fn leaf_params(leaf: &Leaf) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(leaf);
    params.subject_alt_names = leaf.hosts.iter().map(|host| alternative_name(host)).collect::<Result<_>>()?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = extended_usages(leaf.usage);
    set_validity(&mut params, LEAF_VALIDITY);
    Ok(params)
}

/// Signs a new certificate with its own key, valid for so many years.
pub fn self_signed(leaf: &Leaf, years: u64) -> Result<KeyedCertificate> {
    let key = KeyPair::generate()?;
    let mut params = leaf_params(leaf)?;
    set_validity(&mut params, LEAF_VALIDITY * i32::try_from(years).unwrap_or(i32::MAX).min(MAX_YEARS));
    let certificate = params.self_signed(&key)?.pem();
    Ok(KeyedCertificate { certificate, key: key.serialize_pem() })
}

/// Makes the RSA key pair that signs service account tokens (`sa.key`, `sa.pub`) unless it is there.
pub fn ensure_service_account_key(dir: &Path) -> Result<()> {
    let (private, public) = (dir.join("sa.key"), dir.join("sa.pub"));
    if private.exists() && public.exists() {
        return Ok(());
    }
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
    write_private(&private, &key.serialize_pem())?;
    let spki = pem("PUBLIC KEY", &key.subject_public_key_info());
    write_public(&public, &spki)
}

fn new_authority(common_name: &str) -> Result<KeyedCertificate> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, AUTHORITY_VALIDITY);
    Ok(KeyedCertificate { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

fn set_validity(params: &mut CertificateParams, validity: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + validity;
}

fn distinguished_name(leaf: &Leaf) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = &leaf.organization {
        name.push(DnType::OrganizationName, organization);
    }
    if !leaf.common_name.is_empty() {
        name.push(DnType::CommonName, &leaf.common_name);
    }
    name
}

fn alternative_name(host: &str) -> Result<SanType> {
    Ok(match host.parse::<IpAddr>() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(host.try_into().with_context(|| format!("{host} is no host name"))?),
    })
}

fn extended_usages(usage: Usage) -> Vec<ExtendedKeyUsagePurpose> {
    match usage {
        Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Usage::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
    }
}

/// Base64 lines of a PEM block hold 64 characters (RFC 7468, section 2).
const PEM_LINE: usize = 64;

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines = text.as_bytes().chunks(PEM_LINE).map(|line| String::from_utf8_lossy(line).into_owned());
    let body = lines.collect::<Vec<_>>().join("\n");
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

fn with_suffix(base: &Path, suffix: &str) -> PathBuf {
    let mut name = base.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Reads a PEM file; the error names it.
pub fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a file that everybody may read.
pub fn write_public(path: &Path, text: &str) -> Result<()> {
    write(path, text, 0o644)
}

/// Writes a file that only its owner may read.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    write(path, text, 0o600)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    use std::io::Write as _;
    let Some(parent) = path.parent() else { bail!("{} has no folder", path.display()) };
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf() -> Leaf {
        Leaf {
            common_name: "system:node:n1".to_owned(),
            organization: Some("system:nodes".to_owned()),
            hosts: vec!["n1".to_owned(), "10.89.0.11".to_owned()],
            usage: Usage::Both,
        }
    }

    #[test]
    fn an_authority_is_made_once_and_signs() {
        let dir = tempfile::tempdir().expect("a folder");
        let base = dir.path().join("ca");
        let first = Authority::ensure(&base, "kubernetes").expect("made");
        let again = Authority::ensure(&base, "kubernetes").expect("loaded");
        assert_eq!(first.certificate(), again.certificate());
        let issued = again.issue(&leaf()).expect("signed");
        let (_, parsed) = x509_parser::pem::parse_x509_pem(issued.certificate.as_bytes()).expect("PEM");
        let certificate = parsed.parse_x509().expect("X.509");
        assert_eq!(certificate.subject().to_string(), "O=system:nodes, CN=system:node:n1");
        assert_eq!(certificate.issuer().to_string(), "CN=kubernetes");
    }

    #[test]
    fn private_files_are_private_and_broken_ones_are_named() {
        let dir = tempfile::tempdir().expect("a folder");
        ensure_service_account_key(dir.path()).expect("made");
        let mode = fs::metadata(dir.path().join("sa.key")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(read(&dir.path().join("sa.pub")).expect("there").starts_with("-----BEGIN PUBLIC KEY-----"));
        fs::write(dir.path().join("ca.crt"), "nonsense").expect("written");
        fs::write(dir.path().join("ca.key"), "nonsense").expect("written");
        let error = Authority::ensure(&dir.path().join("ca"), "kubernetes").err().expect("refused");
        assert!(error.to_string().contains("ca.key is no key"), "{error}");
    }
}

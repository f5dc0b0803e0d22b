//! Both ends of connections, with certificates made for the purpose.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::accept::{Admission, Security, admit};
use crate::dial::Dialer;
use crate::socket::{Connection, Listener, SocketOptions};
use crate::tls::{Tls, TlsError};
use crate::{Address, TlsOptions};

struct Authority(Issuer<'static, KeyPair>, String);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self(Issuer::new(params, key), pem)
    }

    /// Writes `<name>.crt` and `<name>.key` for a common name and what else it is valid for.
    fn issue(&self, folder: &Path, name: &str, hosts: &[&str], change: impl FnOnce(&mut CertificateParams)) {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>();
        let mut params = CertificateParams::new(hosts).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        write(folder, &format!("{name}.crt"), &certificate.pem());
        write(folder, &format!("{name}.key"), &key.serialize_pem());
    }

    fn revoke(&self, folder: &Path, serials: &[u64]) {
        let entry = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(2034, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.0).expect("a list");
        std::fs::write(folder.join("crl"), list.der()).expect("written");
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    // As etcd's users do: the new file takes the old one's place at once.
    let new = folder.join("new");
    std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, folder.join(name))).expect("written");
}

struct Place {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let authority = Authority::new("ca");
        write(folder.path(), "ca.crt", &authority.1);
        let place = Self { folder, authority };
        place.issue("server", &["127.0.0.1"]);
        place.issue("client", &["127.0.0.1"]);
        place
    }

    fn issue(&self, name: &str, hosts: &[&str]) {
        self.authority.issue(self.folder.path(), name, hosts, |_| {});
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.path().join(name))
    }

    fn options(&self, name: &str) -> TlsOptions {
        TlsOptions {
            certificate: self.file(&format!("{name}.crt")),
            key: self.file(&format!("{name}.key")),
            trusted_ca: self.file("ca.crt"),
            ..TlsOptions::default()
        }
    }

    fn tls(&self, name: &str) -> Tls {
        Tls::new(self.options(name)).expect("TLS")
    }
}

/// Whether a caller is admitted, and a byte goes through; else what the caller sees.
async fn meet(server: Security, client: Option<Tls>) -> Result<Connection, String> {
    let secure = client.is_some();
    let any: Address = "http://127.0.0.1:0".parse().expect("an address");
    let listener = Listener::bind(&any, SocketOptions::default()).await.expect("bound");
    let port = listener.local_addr().expect("an address").expect("a port").port();
    let scheme = if secure { "https" } else { "http" };
    let dialer = Dialer::new(client, None, Duration::from_secs(5));
    let connector = dialer.connector(&[format!("{scheme}://127.0.0.1:{port}")]).expect("a connector");
    let admission = Arc::new(Admission { security: server, endpoint: "test", protocol: None });
    let answering = async {
        let mut connection = admit(listener.accept().await.expect("accepted"), admission).await?;
        connection.write_all(b"x").await.ok()?;
        connection.flush().await.ok()?;
        Some(connection)
    };
    let calling = async {
        let (mut connection, _) = connector.connect().await?;
        // A caller speaks first: whether TLS is spoken is told by what it says.
        connection.write_all(b"GET").await?;
        connection.flush().await?;
        connection.read_u8().await.map(drop)
    };
    let (answered, called) = tokio::join!(answering, calling);
    called.map_err(|error| crate::words::failure(&error))?;
    answered.ok_or_else(|| "not admitted".to_owned())
}

#[tokio::test]
async fn those_with_certificates_of_the_authority_meet() {
    let place = Place::new();
    let (server, client) = (place.tls("server"), place.tls("client"));
    let met = meet(Security::Tls(server.clone()), Some(client.clone())).await;
    assert!(matches!(met, Ok(Connection::Tls(_))), "{:?}", met.err());
    for client in [Some(client), None] {
        let met = meet(Security::Either(server.clone()), client).await;
        assert!(met.is_ok(), "{:?}", met.err());
    }
    let stranger = Authority::new("other");
    stranger.issue(place.folder.path(), "stranger", &["127.0.0.1"], |_| {});
    let met = meet(Security::Tls(server.clone()), Some(place.tls("stranger"))).await;
    assert_eq!(met.err().as_deref(), Some("remote error: tls: unknown certificate authority"));
    let nobody = TlsOptions { certificate: None, key: None, ..place.options("client") };
    let met = meet(Security::Tls(server), Some(Tls::new(nobody).expect("TLS"))).await;
    assert_eq!(met.err().as_deref(), Some("remote error: tls: certificate required"));
}

#[tokio::test]
async fn files_that_change_are_read_again() {
    let place = Place::new();
    let (server, client) = (place.tls("server"), place.tls("client"));
    let security = || Security::Tls(server.clone());
    meet(security(), Some(client.clone())).await.map(drop).expect("met");
    // Everything is replaced, the authority too.
    let authority = Authority::new("the next one");
    write(place.folder.path(), "ca.crt", &authority.1);
    let met = meet(security(), Some(client.clone())).await;
    assert!(met.is_err(), "an authority that is gone was believed");
    for name in ["server", "client"] {
        authority.issue(place.folder.path(), name, &["127.0.0.1"], |_| {});
    }
    meet(security(), Some(client.clone())).await.map(drop).expect("met by the next authority");
    // A file that cannot be used leaves what was.
    write(place.folder.path(), "server.crt", "nonsense");
    meet(security(), Some(client)).await.map(drop).expect("met by the files before");
}

#[tokio::test]
async fn revoked_certificates_are_refused_once_the_list_says_so() {
    let place = Place::new();
    place.authority.issue(place.folder.path(), "client", &["127.0.0.1"], |params| {
        params.serial_number = Some(SerialNumber::from(0x8001_u64));
    });
    place.authority.revoke(place.folder.path(), &[7]);
    let options = TlsOptions { revocation_list: place.file("crl"), ..place.options("server") };
    let server = Tls::new(options).expect("TLS");
    let client = place.tls("client");
    meet(Security::Tls(server.clone()), Some(client.clone())).await.map(drop).expect("met");
    place.authority.revoke(place.folder.path(), &[7, 0x8001]);
    assert!(meet(Security::Tls(server), Some(client)).await.is_err(), "a revoked certificate was believed");
}

#[tokio::test]
async fn an_authority_may_show_its_own_certificate_as_in_go() {
    let place = Place::new();
    let server = Security::Tls(place.tls("server"));
    place.authority.issue(place.folder.path(), "below", &["127.0.0.1"], |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    meet(server.clone(), Some(place.tls("below"))).await.map(drop).expect("met");
    let other = Authority::new("other");
    other.issue(place.folder.path(), "foreign", &["127.0.0.1"], |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    let met = meet(server, Some(place.tls("foreign"))).await;
    assert_eq!(met.err().as_deref(), Some("remote error: tls: unknown certificate authority"));
}

#[tokio::test]
async fn names_and_addresses_of_callers_are_checked() {
    let place = Place::new();
    place.issue("elsewhere", &["10.1.2.3"]);
    let named = |names: &[&str], hosts: &[&str]| {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let options = TlsOptions {
            allowed_common_names: list(names),
            allowed_hostnames: list(hosts),
            check_caller_address: true,
            ..place.options("server")
        };
        Security::Tls(Tls::new(options).expect("TLS"))
    };
    let call = |server: Security, name: &str| meet(server, Some(place.tls(name)));
    call(named(&["client", "x"], &[]), "client").await.map(drop).expect("met");
    call(named(&[], &["127.0.0.1"]), "client").await.map(drop).expect("met");
    let refused = Some("remote error: tls: bad certificate");
    assert_eq!(call(named(&["x"], &[]), "client").await.err().as_deref(), refused);
    assert_eq!(call(named(&[], &["other"]), "client").await.err().as_deref(), refused);
    assert!(call(named(&[], &[]), "elsewhere").await.is_err(), "a caller from elsewhere was admitted");
}

#[tokio::test]
async fn versions_and_suites_are_those_that_were_chosen() {
    let place = Place::new();
    let with = |name: &str, min: &str, max: &str| {
        let versions = crate::TlsVersions::parse(min, max).expect("versions");
        Tls::new(TlsOptions { versions, ..place.options(name) }).expect("TLS")
    };
    let server = Security::Tls(with("server", "TLS1.3", ""));
    let met = meet(server, Some(with("client", "TLS1.2", "TLS1.2"))).await;
    assert_eq!(met.err().as_deref(), Some("remote error: tls: protocol version not supported"));
    let suites = ["TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256".to_owned()];
    let options = TlsOptions {
        cipher_suites: crate::cipher_suites(&suites).expect("a suite"),
        ..place.options("server")
    };
    let server = Security::Tls(Tls::new(options).expect("TLS"));
    let met = meet(server, Some(with("client", "", "TLS1.2"))).await.expect("met");
    let Connection::Tls(stream) = met else { panic!("no TLS") };
    let suite = stream.get_ref().1.negotiated_cipher_suite().expect("a suite").suite();
    assert_eq!(suite, rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256);
}

#[tokio::test]
async fn local_sockets_are_listened_on_and_called() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("s");
    let address: Address = format!("unix://{}", path.display()).parse().expect("an address");
    for _ in 0..2 {
        let listener = Listener::bind(&address, SocketOptions::default()).await.expect("bound");
        let dialer = Dialer::new(None, None, Duration::from_secs(5));
        let connector = dialer.connector(&[address.to_string()]).expect("a connector");
        let (accepted, connected) = tokio::join!(listener.accept(), connector.connect());
        assert!(accepted.is_ok() && connected.is_ok());
    }
    assert!(!path.exists(), "the socket's file stays behind");
}

#[tokio::test]
async fn a_member_is_called_at_whichever_address_answers() {
    let any: Address = "http://127.0.0.1:0".parse().expect("an address");
    let bind = async || Listener::bind(&any, SocketOptions::default()).await.expect("bound");
    let url = |listener: &Listener| format!("http://{}", listener.place());
    let (gone, there) = (bind().await, bind().await);
    let urls = [url(&gone), url(&there)];
    drop(gone);
    let dialer = Dialer::new(None, None, Duration::from_secs(5));
    let connector = dialer.connector(&urls).expect("a connector");
    let (_, address) = connector.connect().await.expect("connected");
    assert_eq!(address.to_string(), urls[1]);
    assert!(dialer.connector(&[]).is_err(), "nobody can be called");
}

#[test]
fn files_that_do_not_fit_are_refused_in_the_words_of_etcd() {
    let place = Place::new();
    let half = TlsOptions { key: None, ..place.options("server") };
    let path = place.folder.path().join("server.crt");
    assert_eq!(
        Tls::new(half).err().expect("refused").to_string(),
        format!("KeyFile and CertFile must both be present[key: , cert: {}]", path.display())
    );
    let missing = TlsOptions { key: place.file("nothing"), ..place.options("server") };
    assert!(matches!(Tls::new(missing).err(), Some(TlsError::Read { .. })));
    let other = TlsOptions { key: place.file("client.key"), ..place.options("server") };
    assert!(Tls::new(other).is_err(), "another certificate's key was taken");
}

/// A server that shows a certificate, whatever key it has.
#[derive(Debug)]
struct Shows(Arc<rustls::sign::CertifiedKey>);

impl rustls::server::ResolvesServerCert for Shows {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// Whether a client that believes these authorities takes what is shown with this key as `a.test`'s.
async fn is_taken(
    believed: Option<Vec<CertificateDer<'static>>>,
    shown: &CertificateDer<'static>,
    key: &KeyPair,
) -> bool {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let key = provider.key_provider.load_private_key(key).expect("a key");
    let certified = rustls::sign::CertifiedKey::new(vec![shown.clone()], key);
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Shows(Arc::new(certified))));
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(crate::answerers(believed).expect("a verifier"))
        .with_no_client_auth();
    let (near, far) = tokio::io::duplex(1 << 16);
    let name = ServerName::try_from("a.test").expect("a name");
    let accept = tokio_rustls::TlsAcceptor::from(Arc::new(server)).accept(far);
    let connect = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, near);
    tokio::join!(accept, connect).1.is_ok()
}

#[tokio::test]
async fn whoever_answers_has_the_key() {
    let made = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    let (own, other) = (made("a.test"), made("b.test"));
    let shown = own.cert.der();
    assert!(is_taken(None, shown, &own.signing_key).await);
    assert!(is_taken(None, other.cert.der(), &other.signing_key).await, "whatever its name");
    assert!(!is_taken(None, shown, &other.signing_key).await);
    let both = Some(vec![shown.clone(), other.cert.der().clone()]);
    assert!(is_taken(both.clone(), shown, &own.signing_key).await, "it is believed itself");
    assert!(!is_taken(both.clone(), other.cert.der(), &other.signing_key).await, "it has another name");
    assert!(!is_taken(both, shown, &other.signing_key).await);
    assert!(!is_taken(Some(vec![other.cert.der().clone()]), shown, &own.signing_key).await);
    assert!(!is_taken(Some(Vec::new()), shown, &own.signing_key).await, "nobody is believed");
}

//! Clients that are known by the name in their certificate, and those of the gateway, who are not.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use etcd_api::AuthOptions;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use transport::{Tls, TlsOptions};

use crate::{connect, start_with};

const IGNORED: &str =
    "CommonName of client sending a request against gateway will be ignored and not used as expected\n";

/// Who is believed.
struct Authority(Issuer<'static, KeyPair>, CertificateDer<'static>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        Self(Issuer::new(params, key), certificate)
    }

    /// A certificate with a name, or without, and its key.
    fn issue(&self, name: Option<&str>) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("names");
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &self.0).expect("a certificate"), key)
    }

    /// The server's side, from files.
    fn server(&self, folder: &Path) -> Tls {
        let (certificate, key) = self.issue(Some("server"));
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("written");
            Some(path)
        };
        let authority = rustls_pem("CERTIFICATE", &self.1);
        let options = TlsOptions {
            certificate: write("server.crt", certificate.pem()),
            key: write("server.key", key.serialize_pem()),
            trusted_ca: write("ca.crt", authority),
            ..TlsOptions::default()
        };
        Tls::new(options).expect("TLS")
    }

    /// What a client who shows such a certificate is answered at a path, head and body.
    async fn ask(&self, address: SocketAddr, name: Option<&str>, path: &str) -> String {
        use tokio::io::AsyncReadExt as _;
        let mut roots = RootCertStore::empty();
        roots.add(self.1.clone()).expect("a root");
        let (certificate, key) = self.issue(name);
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ClientConfig::builder().with_root_certificates(roots);
        let config = config.with_client_auth_cert(vec![certificate.der().clone()], key).expect("a config");
        let host = ServerName::try_from("127.0.0.1").expect("an address");
        let socket = TcpStream::connect(address).await.expect("connect");
        let mut stream = TlsConnector::from(Arc::new(config)).connect(host, socket).await.expect("TLS");
        let head = "host: h\r\nconnection: close\r\ncontent-length: 14\r\n";
        let request = format!("POST {path} HTTP/1.1\r\n{head}\r\n{{\"key\":\"aw==\"}}");
        stream.write_all(request.as_bytes()).await.expect("write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        answer
    }
}

fn rustls_pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_says_that_it_ignores_a_name() {
    let (folder, authority) = (tempfile::tempdir().expect("folder"), Authority::new());
    let secure = env::ports::free_address();
    let server = start_with(|api| {
        api.listen.push(format!("https://{secure}").parse().expect("an address"));
        api.tls = Some(authority.server(folder.path()));
        api.auth = AuthOptions::parse("simple", Duration::from_secs(300), 4, true).expect("options");
    })
    .await;
    let mut client = connect(&server).await;
    let open = authority.ask(secure, Some("root"), "/v3/kv/range").await;
    assert!(open.starts_with("HTTP/1.1 200 "), "while authentication is off: {open}");
    client.user_add("root", "root's", None).await.expect("user");
    client.user_grant_role("root", "root").await.expect("role");
    client.auth_enable().await.expect("enable");
    for path in ["/v3/kv/range", "/v3beta/kv/range", "/v3/nothing"] {
        let answer = authority.ask(secure, Some("root"), path).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with(IGNORED), "{path}: {answer}");
    }
    let nameless = authority.ask(secure, None, "/v3/kv/range").await;
    let empty = r#"{"code":3,"message":"etcdserver: user name is empty"}"#;
    assert!(nameless.starts_with("HTTP/1.1 400 ") && nameless.ends_with(empty), "{nameless}");
    let other = authority.ask(secure, Some("root"), "/nothing").await;
    assert!(other.starts_with("HTTP/1.1 404 "), "no path of the gateway's: {other}");
}

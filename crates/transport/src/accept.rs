//! From a connection that was accepted to one that may be used.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use env::Env;
use futures::stream::{self, Stream, StreamExt as _};
use rustls::pki_types::CertificateDer;
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::names::Names;
use crate::resolve;
use crate::room::{Place, Room};
use crate::socket::{Accepted, Bare, Connection, Listener, Socket};
use crate::tls::{Tls, bare_serial};
use crate::words;

/// How long a handshake, and the look at who calls, may take. etcd's.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes of one address that may be under way at a time.
const HANDSHAKES: usize = 1024;
/// A TLS connection begins with a record of this kind (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// What is spoken on an address.
#[derive(Clone)]
pub enum Security {
    /// Plain text.
    Plain,
    /// TLS.
    Tls(Tls),
    /// Either, as the caller begins.
    Either(Tls),
}

/// How connections of one kind are admitted.
#[derive(Clone)]
pub struct Admission {
    /// What is spoken.
    pub security: Security,
    /// What the address is for, in logs: `client` or `peer`.
    pub endpoint: &'static str,
    /// What is spoken within TLS, by ALPN; HTTP without.
    pub protocol: Option<&'static [u8]>,
}

/// Why a connection was not admitted.
struct Refusal {
    error: String,
    server_name: String,
    names: Option<Names>,
}

/// The connections of an address, without end, each as soon as there is room for it.
pub fn accepted(listener: Listener, room: Room, env: Env) -> impl Stream<Item = Accepted> + Send {
    stream::unfold((listener, room, env), |(listener, room, env)| async {
        let (accepted, place) = room.next(&env, || listener.accept()).await;
        Some((Accepted { place: Some(place), ..accepted }, (listener, room, env)))
    })
}

/// Makes accepted connections ready, in the order in which they get so: none waits for the handshake of another.
pub fn admitted(
    accepted: impl Stream<Item = Accepted> + Send,
    admission: Admission,
) -> impl Stream<Item = Connection> + Send {
    let admission = Arc::new(admission);
    let ready = accepted.map(move |accepted| admit(accepted, admission.clone()));
    ready.buffer_unordered(HANDSHAKES).filter_map(std::future::ready)
}

/// Makes an accepted connection ready. One that is refused is logged with etcd's words and is gone.
pub async fn admit(accepted: Accepted, admission: Arc<Admission>) -> Option<Connection> {
    let Accepted { stream, place: room } = accepted;
    let socket = match Socket::adopt(stream) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::warn!(%error, "a connection could not be taken over");
            return None;
        }
    };
    let remote = socket.remote();
    let place = remote.map_or_else(|| "@".to_owned(), |address| address.to_string());
    let ready = tokio::time::timeout(HANDSHAKE_TIMEOUT, prepare(socket, room, &admission));
    let late = || Refusal { error: "i/o timeout".to_owned(), server_name: String::new(), names: None };
    match ready.await.unwrap_or_else(|_| Err(late())) {
        Ok(connection) => Some(connection),
        Err(Refusal { error, server_name, names: None }) => {
            tracing::warn!(
                remote_addr = place,
                server_name,
                error,
                "rejected connection on {} endpoint",
                admission.endpoint
            );
            None
        }
        Err(Refusal { error, server_name, names: Some(names) }) => {
            tracing::warn!(
                remote_addr = place,
                server_name,
                ip_addresses = ?names.addresses,
                dns_names = ?names.hosts,
                error,
                "rejected connection on {} endpoint",
                admission.endpoint
            );
            None
        }
    }
}

async fn prepare(socket: Socket, place: Option<Place>, admission: &Admission) -> Result<Connection, Refusal> {
    let bare = Bare::new(socket, place);
    let tls = match &admission.security {
        Security::Plain => return Ok(Connection::Plain(bare)),
        Security::Tls(tls) => tls,
        Security::Either(tls) => match bare.socket.first_byte().await {
            Ok(Some(TLS_HANDSHAKE)) => tls,
            _ => return Ok(Connection::Plain(bare)),
        },
    };
    handshake(bare, tls, admission.protocol).await
}

async fn handshake(bare: Bare, tls: &Tls, protocol: Option<&'static [u8]>) -> Result<Connection, Refusal> {
    let configs = tls.current();
    let remote = bare.socket.remote();
    let refuse = |error: String| Refusal { error, server_name: String::new(), names: None };
    let Some(mut server) = configs.server else {
        return Err(refuse("KeyFile and CertFile are not presented".to_owned()));
    };
    if let Some(protocol) = protocol {
        Arc::make_mut(&mut server).alpn_protocols = vec![protocol.to_vec()];
    }
    let stream = TlsAcceptor::from(server).accept(bare).await;
    let stream = stream.map_err(|error| refuse(words::failure(&error)))?;
    let (_, session) = stream.get_ref();
    if let Some(certificates) = session.peer_certificates() {
        let leaf = &certificates[0];
        let checked = match tls.options().check_caller_address {
            true => check_caller(leaf, remote.map(|address| address.ip())).await,
            false => Ok(()),
        };
        let checked = checked.and_then(|()| check_revoked(certificates, &configs.revoked));
        checked.map_err(|error| Refusal {
            error,
            server_name: session.server_name().unwrap_or_default().to_owned(),
            names: Names::of(leaf),
        })?;
    }
    Ok(Connection::Tls(Box::new(stream.into())))
}

fn check_revoked(
    certificates: &[CertificateDer<'_>],
    revoked: &std::collections::BTreeSet<Vec<u8>>,
) -> Result<(), String> {
    if revoked.is_empty() {
        return Ok(());
    }
    for certificate in certificates {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
        let serial = bare_serial(parsed.raw_serial());
        if revoked.contains(serial) {
            let digits: String = serial.iter().map(|byte| format!("{byte:02x}")).collect();
            return Err(format!("transport: certificate serial {digits} revoked"));
        }
    }
    Ok(())
}

/// A member's certificate, if it names anything, must name the address that the member calls from.
async fn check_caller(leaf: &CertificateDer<'_>, remote: Option<IpAddr>) -> Result<(), String> {
    let names = Names::of(leaf).unwrap_or_default();
    let Some(remote) = remote.map(|address| address.to_canonical()) else { return Ok(()) };
    if names.addresses.is_empty() && names.hosts.is_empty() {
        return Ok(());
    }
    if !names.addresses.is_empty() {
        match names.check(&remote.to_string()) {
            Ok(()) => return Ok(()),
            Err(error) if names.hosts.is_empty() => return Err(error),
            Err(_) => {}
        }
    }
    match is_host_among(remote, &names.hosts).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(mismatch(remote, &names.hosts, "")),
        Err(error) => Err(mismatch(remote, &names.hosts, &format!(" ({error})"))),
    }
}

fn mismatch(remote: IpAddr, hosts: &[String], why: &str) -> String {
    let hosts: Vec<String> = hosts.iter().map(|host| format!("{host:?}")).collect();
    format!("tls: \"{remote}\" does not match any of DNSNames [{}]{why}", hosts.join(" "))
}

/// Whether an address has one of the names: by the address' own names, or by the names' addresses. Wildcards stand for
/// any number of labels here, as in etcd.
async fn is_host_among(remote: IpAddr, hosts: &[String]) -> Result<bool, String> {
    let mut failed = None;
    match resolve::names_of(remote).await {
        Err(error) => failed = Some(error),
        Ok(names) => {
            let among = |name: &String| {
                hosts.iter().any(|host| match host.strip_prefix('*') {
                    Some(end) if end.starts_with('.') => name.ends_with(end),
                    _ => host == name,
                })
            };
            if names.iter().any(among) {
                return Ok(true);
            }
        }
    }
    for host in hosts.iter().filter(|host| !host.starts_with("*.")) {
        match tokio::net::lookup_host((host.as_str(), 0)).await {
            Ok(mut found) => {
                if found.any(|address| address.ip() == remote) {
                    return Ok(true);
                }
            }
            Err(error) => failed = Some(error.to_string()),
        }
    }
    failed.map_or(Ok(false), Err)
}

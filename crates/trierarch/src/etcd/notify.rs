//! Telling systemd that the service is ready (`sd_notify(3)`): one datagram to the socket that it named.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says `READY=1`, if there is somebody to tell.
pub fn ready() {
    let Some(place) = std::env::var_os("NOTIFY_SOCKET").and_then(|place| place.into_string().ok()) else {
        return;
    };
    if let Err(error) = tell(&place) {
        tracing::error!(%error, "failed to notify systemd for readiness");
    }
}

fn tell(place: &str) -> std::io::Result<()> {
    let address = match place.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(place)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_hears_that_the_service_is_ready() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        tell(path.to_str().expect("a path")).expect("told");
        let mut text = [0; 16];
        let size = socket.recv(&mut text).expect("heard");
        assert_eq!(&text[..size], b"READY=1");
    }
}

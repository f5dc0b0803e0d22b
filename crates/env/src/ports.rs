//! Ports for tests and local clusters: free, and nobody else's for as long as this process lives.
//!
//! A member that is down between two starts does not listen, so that a port that is merely free may be taken by another
//! test before it comes back. Whoever wants a port therefore claims it: the claim is a UDP socket with the same number on
//! an address of the loopback that nothing else uses, which only one process can have, and which goes when that ends. (A
//! TCP socket would do, but for whoever listens on all addresses.)

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};

use parking_lot::Mutex;

/// Below those that the system gives to outgoing connections, and above those that etcd's own suites use.
const PORTS: Range<u16> = 21_000..32_000;
/// Processes begin this far apart from each other.
const STRIDE: u32 = 110;
/// Where claims are made.
const CLAIMS: Ipv4Addr = Ipv4Addr::new(127, 94, 0, 1);

/// This process' claims; they are never given up.
static CLAIMED: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());

/// Claims a port, if nobody has claimed it and nothing listens on it.
pub fn claim(port: u16) -> bool {
    let Ok(claim) = UdpSocket::bind((CLAIMS, port)) else { return false };
    if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
        return false;
    }
    CLAIMED.lock().push(claim);
    true
}

/// A port on 127.0.0.1 that is this process' alone.
///
/// # Panics
/// When there is none left.
pub fn free() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    let first = u16::try_from(std::process::id() * STRIDE % u32::from(count)).unwrap_or(0);
    for _ in 0..count {
        let offset = (u32::from(first) + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % u32::from(count);
        let port = PORTS.start + u16::try_from(offset).unwrap_or(0);
        if claim(port) {
            return port;
        }
    }
    panic!("all ports from {} to {} are taken", PORTS.start, PORTS.end)
}

/// An address on 127.0.0.1 with a port that is this process' alone.
///
/// # Panics
/// When there is none left.
pub fn free_address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once_and_can_be_listened_on_again_and_again() {
        let (one, other) = (free(), free());
        assert_ne!(one, other);
        for _ in 0..2 {
            TcpListener::bind((Ipv4Addr::LOCALHOST, one)).expect("it is free");
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, one)).expect("it is free on all addresses");
            assert!(!claim(one), "it is claimed although nothing listens on it");
        }
    }
}

//! Questions to the name service that the standard library cannot ask: servers of a service (SRV), names of an address
//! (PTR). A stub resolver (RFC 1035): it asks the servers of `/etc/resolv.conf`, over TCP when the answer is too long.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

const SRV: u16 = 33;
const PTR: u16 = 12;
/// The class of the Internet.
const INTERNET: u16 = 1;
/// Bytes of a label, and of a name (RFC 1035, section 2.3.4).
const MAX_LABEL: usize = 63;
const MAX_NAME: usize = 255;
/// Pointers that are followed in a name, at most: an answer may go in circles.
const MAX_POINTERS: usize = 32;
/// Servers that are asked, at most, as in the C library.
const MAX_SERVERS: usize = 3;
/// Bytes of an answer over UDP.
const MAX_DATAGRAM: usize = 4096;

/// One line of a service record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Whose it is, with the dot at its end.
    pub host: String,
    /// Where.
    pub port: u16,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lookup {name}: {cause}")]
pub struct ServiceError {
    name: String,
    cause: String,
}

/// The servers of a service over TCP (RFC 2782): `services("etcd-server", "example.com")`.
///
/// # Errors
/// The name service has no such record, or does not answer.
pub async fn services(service: &str, domain: &str) -> Result<Vec<Service>, ServiceError> {
    Resolver::of_system().services(service, domain).await
}

/// The names of an address, without the dots at their ends: from the machine's table and the name service.
pub(crate) async fn names_of(address: IpAddr) -> Result<Vec<String>, String> {
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let names = table(&hosts, address);
    if names.is_empty() { Resolver::of_system().names_of(address).await } else { Ok(names) }
}

fn table(hosts: &str, address: IpAddr) -> Vec<String> {
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    let mut names = Vec::new();
    for line in lines {
        let mut words = line.split_whitespace();
        if words.next().and_then(|word| word.parse::<IpAddr>().ok()) == Some(address) {
            names.extend(words.map(str::to_owned));
        }
    }
    names
}

/// Whom to ask, and how patiently.
struct Resolver {
    servers: Vec<SocketAddr>,
    timeout: Duration,
    attempts: usize,
}

impl Resolver {
    fn of_system() -> Self {
        Self::parse(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
    }

    /// Reads `resolv.conf(5)`.
    fn parse(text: &str) -> Self {
        let mut resolver = Self { servers: Vec::new(), timeout: Duration::from_secs(5), attempts: 2 };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") if resolver.servers.len() < MAX_SERVERS => {
                    let server = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    resolver.servers.extend(server.map(|address| SocketAddr::new(address, 53)));
                }
                Some("options") => words.for_each(|word| resolver.set(word)),
                _ => {}
            }
        }
        if resolver.servers.is_empty() {
            resolver.servers.push(SocketAddr::from(([127, 0, 0, 1], 53)));
        }
        resolver
    }

    fn set(&mut self, option: &str) {
        match option.split_once(':').map(|(name, value)| (name, value.parse::<u64>())) {
            Some(("timeout", Ok(seconds))) => self.timeout = Duration::from_secs(seconds.clamp(1, 30)),
            Some(("attempts", Ok(number))) => {
                self.attempts = usize::try_from(number.clamp(1, 5)).unwrap_or(2)
            }
            _ => {}
        }
    }

    async fn services(&self, service: &str, domain: &str) -> Result<Vec<Service>, ServiceError> {
        let name = format!("_{service}._tcp.{}.", domain.trim_end_matches('.'));
        let failed = |cause: String| ServiceError { name: name.clone(), cause };
        let answer = self.ask(&name, SRV).await.map_err(failed)?;
        let mut found = answer
            .records(SRV)
            .and_then(|records| records.into_iter().map(|at| answer.service(at)).collect::<Option<Vec<_>>>())
            .ok_or_else(|| failed("cannot unmarshal DNS message".to_owned()))?;
        if found.is_empty() {
            return Err(failed("no such host".to_owned()));
        }
        found.sort_by_key(|(priority, _)| *priority);
        Ok(found.into_iter().map(|(_, service)| service).collect())
    }

    async fn names_of(&self, address: IpAddr) -> Result<Vec<String>, String> {
        let answer = self.ask(&reverse(address), PTR).await?;
        let names = answer
            .records(PTR)
            .and_then(|records| records.into_iter().map(|at| answer.name(at)).collect::<Option<Vec<_>>>());
        let names = names.ok_or("cannot unmarshal DNS message")?;
        Ok(names.into_iter().map(|(name, _)| name.trim_end_matches('.').to_owned()).collect())
    }

    async fn ask(&self, name: &str, kind: u16) -> Result<Answer, String> {
        let mut id = [0; 2];
        let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
        random.fill(&mut id).map_err(|_| "no randomness".to_owned())?;
        let question = question(id, name, kind).ok_or("no such host")?;
        let mut last = "no server answered".to_owned();
        for _ in 0..self.attempts {
            for server in &self.servers {
                match tokio::time::timeout(self.timeout, exchange(*server, &question)).await {
                    Err(_) => last = format!("on {server}: i/o timeout"),
                    Ok(Err(error)) => last = format!("on {server}: {error}"),
                    // The name is known not to be: nobody else is asked.
                    Ok(Ok(answer)) if answer.code() == 3 => return Err(format!("on {server}: no such host")),
                    Ok(Ok(answer)) if answer.code() != 0 => last = format!("on {server}: server misbehaving"),
                    Ok(Ok(answer)) => return Ok(answer),
                }
            }
        }
        Err(last)
    }
}

fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(four) => {
            let [a, b, c, d] = four.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
        }
        IpAddr::V6(six) => {
            let nibbles = six.octets().into_iter().rev().flat_map(|byte| [byte & 15, byte >> 4]);
            let digits: String = nibbles.map(|nibble| format!("{nibble:x}.")).collect();
            format!("{digits}ip6.arpa.")
        }
    }
}

/// A question, with the wish that the server ask others.
fn question(id: [u8; 2], name: &str, kind: u16) -> Option<Vec<u8>> {
    let mut message = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let name = name.trim_end_matches('.');
    if name.len() + 2 > MAX_NAME {
        return None;
    }
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|_| (1..=MAX_LABEL).contains(&label.len()))?;
        message.push(length);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&INTERNET.to_be_bytes());
    Some(message)
}

async fn exchange(server: SocketAddr, question: &[u8]) -> io::Result<Answer> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let size = socket.recv(&mut buffer).await?;
        // Anything else is late, or somebody else's.
        let Some(answer) = Answer::to(question, &buffer[..size]) else { continue };
        if !answer.is_cut() {
            return Ok(answer);
        }
        return over_tcp(server, question).await;
    }
}

async fn over_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], question].concat()).await?;
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Answer::to(question, &message).ok_or_else(|| io::Error::other("cannot unmarshal DNS message"))
}

/// An answer to a question of ours.
struct Answer {
    message: Vec<u8>,
    /// Where the records begin: behind the question.
    records: usize,
}

impl Answer {
    /// Takes a message that repeats the question.
    fn to(question: &[u8], message: &[u8]) -> Option<Self> {
        let same_id = message.get(..2)? == question.get(..2)?;
        let is_answer = message.get(2)? & 0x80 != 0;
        let asked = message.get(12..question.len())?;
        let same_question = asked.eq_ignore_ascii_case(&question[12..]);
        let one = message.get(4..6)? == [0, 1];
        (same_id && is_answer && one && same_question)
            .then(|| Self { message: message.to_vec(), records: question.len() })
    }

    fn is_cut(&self) -> bool {
        self.message[2] & 2 != 0
    }

    /// The response code (RFC 1035, section 4.1.1).
    fn code(&self) -> u8 {
        self.message[3] & 15
    }

    fn number(&self, at: usize) -> Option<u16> {
        Some(u16::from_be_bytes([*self.message.get(at)?, *self.message.get(at + 1)?]))
    }

    /// Where the data of the answers of a kind begin.
    fn records(&self, kind: u16) -> Option<Vec<usize>> {
        let (mut at, mut found) = (self.records, Vec::new());
        for _ in 0..self.number(6)? {
            let (_, behind) = self.name(at)?;
            let length = usize::from(self.number(behind + 8)?);
            let data = behind + 10;
            if self.number(behind)? == kind && self.number(behind + 2)? == INTERNET {
                found.push(data);
            }
            at = data + length;
            if at > self.message.len() {
                return None;
            }
        }
        Some(found)
    }

    /// A service's priority, and the service. Weights are for those who choose one of many.
    fn service(&self, at: usize) -> Option<(u16, Service)> {
        let (host, _) = self.name(at + 6)?;
        Some((self.number(at)?, Service { host, port: self.number(at + 4)? }))
    }

    /// A name, with a dot at its end, and what is behind it.
    fn name(&self, mut at: usize) -> Option<(String, usize)> {
        let (mut name, mut behind, mut pointers) = (String::new(), None, 0);
        loop {
            let length = *self.message.get(at)?;
            match length {
                0 => {
                    let end = behind.unwrap_or(at + 1);
                    return Some((if name.is_empty() { ".".to_owned() } else { name }, end));
                }
                1..=63 => {
                    let label = self.message.get(at + 1..at + 1 + usize::from(length))?;
                    // What is no host name must not end up in a URL or a log.
                    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
                    if !label.iter().all(plain) {
                        return None;
                    }
                    name.extend(label.iter().map(|byte| char::from(*byte)));
                    name.push('.');
                    if name.len() > MAX_NAME {
                        return None;
                    }
                    at += 1 + usize::from(length);
                }
                0xc0.. => {
                    pointers += 1;
                    if pointers > MAX_POINTERS {
                        return None;
                    }
                    behind = behind.or(Some(at + 2));
                    at = usize::from(self.number(at)? & 0x3fff);
                }
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer with these records, each the data of one, named by a pointer to the question.
    fn answer(question: &[u8], kind: u16, records: &[Vec<u8>], cut: bool) -> Vec<u8> {
        let mut message = question.to_vec();
        message[2] = 0x81 | if cut { 2 } else { 0 };
        message[6..8].copy_from_slice(&u16::try_from(records.len()).expect("few").to_be_bytes());
        for data in records {
            message.extend_from_slice(&[0xc0, 12]);
            message.extend_from_slice(&kind.to_be_bytes());
            message.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
            message.extend_from_slice(&u16::try_from(data.len()).expect("short").to_be_bytes());
            message.extend_from_slice(data);
        }
        message
    }

    fn service(priority: u16, port: u16, host: &str) -> Vec<u8> {
        let mut data = [priority.to_be_bytes(), [0, 0], port.to_be_bytes()].concat();
        for label in host.split('.') {
            data.push(u8::try_from(label.len()).expect("short"));
            data.extend_from_slice(label.as_bytes());
        }
        data.push(0);
        data
    }

    #[tokio::test]
    async fn services_are_asked_for_and_long_answers_come_over_tcp() {
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let server = tcp.local_addr().expect("an address");
        let udp = UdpSocket::bind(server).await.expect("the same port");
        let resolver = Resolver { servers: vec![server], timeout: Duration::from_secs(5), attempts: 1 };
        let serve = async {
            let mut buffer = [0; 512];
            let (size, from) = udp.recv_from(&mut buffer).await.expect("asked");
            udp.send_to(b"nonsense", from).await.expect("sent");
            udp.send_to(&answer(&buffer[..size], SRV, &[], true), from).await.expect("sent");
            let (mut stream, _) = tcp.accept().await.expect("accepted");
            let mut question = vec![0; usize::from(stream.read_u16().await.expect("a length"))];
            stream.read_exact(&mut question).await.expect("a question");
            let records = [service(2, 2380, "b.example.com"), service(1, 12380, "a.example.com")];
            let message = answer(&question, SRV, &records, false);
            stream.write_u16(u16::try_from(message.len()).expect("short")).await.expect("sent");
            stream.write_all(&message).await.expect("sent");
        };
        let (found, ()) = tokio::join!(resolver.services("etcd-server", "example.com"), serve);
        let found = found.expect("services");
        let expected = [("a.example.com.", 12380), ("b.example.com.", 2380)];
        assert_eq!(found.len(), expected.len());
        for (service, (host, port)) in found.iter().zip(expected) {
            assert_eq!((service.host.as_str(), service.port), (host, port));
        }
    }

    #[test]
    fn damaged_answers_are_no_answers() {
        let question = question([1, 2], "_s._tcp.example.com.", SRV).expect("a question");
        let good = answer(&question, SRV, &[service(1, 1, "a.b")], false);
        let parsed = Answer::to(&question, &good).expect("an answer");
        let at = parsed.records(SRV).expect("records");
        assert_eq!(parsed.service(at[0]).expect("a service").1.host, "a.b.");
        for size in 0..good.len() {
            let cut = Answer::to(&question, &good[..size]);
            let whole = cut.and_then(|cut| {
                let records = cut.records(SRV)?;
                records.into_iter().map(|at| cut.service(at)).collect::<Option<Vec<_>>>()
            });
            assert!(whole.is_none_or(|services| services.is_empty()), "{size} bytes were enough");
        }
        // A name that points to itself.
        let mut circle = good.clone();
        let pointer = question.len();
        circle[pointer..pointer + 2]
            .copy_from_slice(&(0xc000 | u16::try_from(pointer).expect("short")).to_be_bytes());
        assert!(Answer::to(&question, &circle).expect("an answer").records(SRV).is_none());
        let mut other = good;
        other[0] ^= 1;
        assert!(Answer::to(&question, &other).is_none(), "another question's answer");
    }

    #[test]
    fn the_machines_tables_are_read() {
        let resolver =
            Resolver::parse("# x\nnameserver 10.0.0.1\nnameserver ::1\noptions timeout:2 attempts:3\n");
        assert_eq!(resolver.servers.len(), 2);
        assert_eq!((resolver.timeout, resolver.attempts), (Duration::from_secs(2), 3));
        assert_eq!(Resolver::parse("").servers, [SocketAddr::from(([127, 0, 0, 1], 53))]);
        let hosts = "127.0.0.1 localhost x # y\n10.0.0.1 z\n";
        assert_eq!(table(hosts, IpAddr::from([127, 0, 0, 1])), ["localhost", "x"]);
        assert_eq!(reverse(IpAddr::from([1, 2, 3, 4])), "4.3.2.1.in-addr.arpa.");
        let six = reverse("2001:db8::1".parse().expect("an address"));
        assert!(six.starts_with("1.0.0.0.") && six.ends_with("8.b.d.0.1.0.0.2.ip6.arpa."), "{six}");
    }
}

//! Members that may have few files and connections open.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use etcd_client::Client;

use crate::cluster::Members;
use crate::shared::eventually;

/// How an HTTP/2 connection begins, with settings that say nothing (RFC 9113, section 3.4).
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Bytes of settings that say nothing.
const SETTINGS: usize = 9;
/// So long somebody may take who answers.
const PATIENCE: Duration = Duration::from_secs(10);
/// So long nobody is answered who has to wait.
const WAIT: Duration = Duration::from_millis(500);

/// A page of metrics.
fn metrics(url: &str) -> String {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).expect("it listens");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("text");
    text
}

fn value(page: &str, name: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is missing")).parse().expect("a number")
}

#[test]
fn idle_connections_leave_a_member_what_it_needs() {
    let watched = format!("http://127.0.0.1:{}", env::ports::free());
    let flags = ["--snapshot-count=100", "--listen-metrics-urls", &watched];
    let members = Members::start_under(&["prlimit", "--nofile=200:200"], 1, &flags);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut client = runtime.block_on(async {
        let mut client = Client::connect(&members.endpoints, None).await.expect("a client");
        client.put("k", "v", None).await.expect("served");
        client
    });
    let address = members.endpoints[0].trim_start_matches("http://");
    let idle = |_| {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.write_all(HELLO).expect("it takes");
        stream
    };
    let idle: Vec<TcpStream> = (0..400).map(idle).collect();
    let full = eventually("all places are taken", || {
        let page = metrics(&watched);
        (value(&page, "process_open_fds") > 80.0).then_some(page)
    });
    assert!(value(&full, "process_open_fds") < 180.0, "some are kept");
    let snapshots = "etcd_debugging_snap_save_total_duration_seconds_count";
    runtime.block_on(async {
        for number in 0..400 {
            client.put("k", number.to_string(), None).await.expect("earlier connections are served");
        }
    });
    eventually("snapshots go on", || {
        (value(&metrics(&watched), snapshots) > value(&full, snapshots)).then_some(())
    });
    let known = runtime.block_on(client.member_list()).expect("served");
    let mut member = TcpStream::connect(known.members()[0].peer_urls()[0].trim_start_matches("http://"))
        .expect("it listens to members");
    member.set_read_timeout(Some(PATIENCE)).expect("set");
    member.write_all(HELLO).expect("it takes");
    member.read_exact(&mut [0; SETTINGS]).expect("other members are answered");
    let mut waiting = TcpStream::connect(address).expect("it listens");
    waiting.set_read_timeout(Some(WAIT)).expect("set");
    waiting.write_all(b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").expect("it takes");
    let early = waiting.read(&mut [0]).expect_err("it waits for a place");
    assert!(matches!(early.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{early}");
    drop(idle);
    waiting.set_read_timeout(None).expect("set");
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(members.log(0).len() < 64 << 10, "{}", members.log(0));
}

#[test]
fn the_soft_limit_of_open_files_is_raised_to_the_hard_one() {
    let members = Members::start_under(&["prlimit", "--nofile=256:1000"], 1, &[]);
    let (_, page) = members.get(0, "/metrics");
    assert_eq!(value(&page, "process_max_fds"), 1000.0);
}

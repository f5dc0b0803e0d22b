//! A proxy in front of a member, asked by a client library and by hand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use env::{Env, Shutdown, TaskGroup};
use etcd_api::ProxyConfig;
use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, EventType, GetOptions, LeaseTimeToLiveOptions, PutOptions,
    Txn, TxnOp, TxnOpResponse, WatchOptions,
};

use prost::Message as _;
use protos::etcd::etcdserverpb as pb;
use tonic::Code;

use crate::compressed::{call, framed, gzip};
use crate::raw::{DATA, END_HEADERS, END_STREAM, HEADERS, PING, Raw, frame, headers, message};
use crate::unreadable::channel;
use crate::{Server, connect, eventually, next, page, start, text};

const WATCH: &str = "/etcdserverpb.Watch/Watch";
const ENHANCE_YOUR_CALM: u32 = 11;

struct Proxy {
    address: SocketAddr,
    shutdown: Shutdown,
    tasks: Option<TaskGroup>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

fn config(server: &Server) -> ProxyConfig {
    ProxyConfig {
        listen: env::ports::free_address(),
        listen_metrics: None,
        room: transport::Room::unlimited(),
        tls: None,
        endpoints: vec![server.address.to_string()],
        member_tls: None,
        sync_interval: Duration::ZERO,
        max_concurrent_streams: u32::MAX,
        keep_alive: None,
        keep_alive_min: Duration::from_secs(5),
        namespace: String::new(),
        max_send_bytes: 3 << 19,
        advertise: None,
        register: None,
        host_name: "here".to_owned(),
        metrics: Arc::new(|| "proxy_metric 1\n".to_owned()),
    }
}

async fn proxy(server: &Server, change: impl FnOnce(&mut ProxyConfig)) -> Proxy {
    let mut config = config(server);
    change(&mut config);
    let (address, shutdown) = (config.listen, Shutdown::new());
    let tasks = TaskGroup::new("proxy", shutdown.clone());
    tasks.spawn("proxy", config.run(Env::real(), shutdown.child()));
    let proxy = Proxy { address, shutdown, tasks: Some(tasks) };
    eventually("the proxy serves", async || {
        let mut client = Client::connect([address.to_string()], None).await.expect("an address");
        client.get("k", None).await.is_ok()
    })
    .await;
    proxy
}

async fn through(proxy: &Proxy) -> Client {
    Client::connect([proxy.address.to_string()], None).await.expect("connect")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_sends_away_who_pings_too_often() {
    let server = start().await;
    connect(&server).await;
    let front = proxy(&server, |_| {}).await;
    let mut raw = Raw::connect(front.address, [127, 0, 0, 2]).await;
    for _ in 0..4 {
        raw.send(&frame(PING, 0, 0, &[0; 8])).await;
    }
    assert_eq!(raw.farewell().await, Some((ENHANCE_YOUR_CALM, "too_many_pings".to_owned())));
    // With a call open it may ask more often, as often as the proxy is told.
    let front = proxy(&server, |config| config.keep_alive_min = Duration::from_nanos(1)).await;
    let mut raw = Raw::connect(front.address, [127, 0, 0, 2]).await;
    raw.send(&frame(HEADERS, END_HEADERS, 1, &headers(WATCH))).await;
    raw.send(&frame(DATA, 0, 1, &message(&[0x0a, 3, 0x0a, 1, b'k']))).await;
    raw.next_of(DATA).await.expect("the watch is there");
    for number in 0..20 {
        raw.send(&frame(PING, 0, 0, &[number; 8])).await;
        assert!(raw.next_of(PING).await.is_some(), "{number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_answers_hosts_that_are_spelled_as_urls() {
    let server = start().await;
    connect(&server).await;
    let front = proxy(&server, |_| {}).await;
    let mut raw = Raw::connect(front.address, [127, 0, 0, 2]).await;
    let url = b"http://127.0.0.1";
    let mut head = headers("/etcdserverpb.KV/Range");
    let host = b"127.0.0.1";
    let at = head.windows(host.len()).position(|part| part == host).expect("a host");
    head.splice(at - 1..at + host.len(), [&[u8::try_from(url.len()).expect("short")], &url[..]].concat());
    raw.send(&frame(HEADERS, END_HEADERS, 1, &head)).await;
    raw.send(&frame(DATA, END_STREAM, 1, &message(b"\x0a\x01k"))).await;
    raw.next_of(DATA).await.expect("an answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_all_that_clients_see() {
    let server = start().await;
    let mut whole = connect(&server).await;
    for key in ["a", "ns", "ns0", "nt/k"] {
        whole.put(key, "outside", None).await.expect("put");
    }
    let front = proxy(&server, |config| config.namespace = "ns/".to_owned()).await;
    let mut inside = through(&front).await;
    let mut stream =
        inside.watch("k", Some(WatchOptions::new().with_prefix().with_prev_key())).await.expect("watch");
    assert!(next(&mut stream).await.created());
    inside.put("k1", "v1", None).await.expect("put");
    let before = inside.put("k1", "v2", Some(PutOptions::new().with_prev_key())).await.expect("put");
    assert_eq!(text(before.prev_key().expect("before").key()), "k1");
    let mut seen = Vec::new();
    while seen.len() < 2 {
        for event in next(&mut stream).await.events() {
            let before = event.prev_kv().map(|kv| text(kv.key()));
            seen.push((event.event_type(), event.kv().map(|kv| text(kv.key())), before));
        }
    }
    let name = || Some("k1".to_owned());
    assert_eq!(seen, [(EventType::Put, name(), None), (EventType::Put, name(), name())]);
    assert_eq!(whole.get("ns/k1", None).await.expect("get").count(), 1);

    let lease = inside.lease_grant(600, None).await.expect("grant").id();
    whole.put("elsewhere", "v", Some(PutOptions::new().with_lease(lease))).await.expect("put");
    inside.put("leased", "v", Some(PutOptions::new().with_lease(lease))).await.expect("put");
    let keys = Some(LeaseTimeToLiveOptions::new().with_keys());
    let keys = inside.lease_time_to_live(lease, keys).await.expect("time");
    assert_eq!(keys.keys().iter().map(|key| text(key)).collect::<Vec<_>>(), ["leased"]);

    let when = [Compare::value("k1", CompareOp::Equal, "v2")];
    let nested = Txn::new().and_then([TxnOp::get("k1", None)]);
    let txn = Txn::new().when(when).and_then([TxnOp::put("t", "v", None), TxnOp::txn(nested)]);
    let done = inside.txn(txn).await.expect("txn");
    assert!(done.succeeded());
    let TxnOpResponse::Txn(nested) = &done.op_responses()[1] else { panic!("a transaction") };
    let TxnOpResponse::Get(read) = &nested.op_responses()[0] else { panic!("a read") };
    assert_eq!(text(read.kvs()[0].key()), "k1");

    let all = inside.get("", Some(GetOptions::new().with_all_keys())).await.expect("get");
    assert_eq!(all.kvs().iter().map(|kv| text(kv.key())).collect::<Vec<_>>(), ["k1", "leased", "t"]);
    let gone = Some(DeleteOptions::new().with_all_keys().with_prev_key());
    let gone = inside.delete("", gone).await.expect("delete");
    assert_eq!((gone.deleted(), text(gone.prev_kvs()[0].key())), (3, "k1".to_owned()));
    let rest = whole.get("", Some(GetOptions::new().with_all_keys().with_count_only())).await.expect("get");
    assert_eq!(rest.count(), 5, "what is outside is still there");

    let refused = inside.put("", "v", None).await.expect_err("no key").to_string();
    assert!(refused.contains("etcdserver: key is not provided"), "{refused}");
    let refused = inside.put("k", vec![0; 2 << 20], None).await.expect_err("too large").to_string();
    assert!(refused.contains("trying to send message larger than max"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_read_does_not_get_out_of_a_namespace() {
    let server = start().await;
    connect(&server).await;
    let front = proxy(&server, |config| config.namespace = "ns/".to_owned()).await;
    let mut raw = Raw::connect(front.address, [127, 0, 0, 2]).await;
    let mut stream = 1;
    for path in ["/etcdserverpb.KV/Range", "/etcdserverpb.KV/Txn", WATCH] {
        for body in [message(&[0xff; 64]), [&[1, 0, 0, 0, 3][..], b"abc"].concat()] {
            raw.send(&frame(HEADERS, END_HEADERS, stream, &headers(path))).await;
            let last = if path == WATCH { 0 } else { END_STREAM };
            raw.send(&frame(DATA, last, stream, &body)).await;
            assert!(raw.ended(stream).await, "{path}: {body:?}");
            stream += 2;
        }
    }
    through(&front).await.put("still", "served", None).await.expect("put");
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_are_found_by_each_other_until_they_leave() {
    let server = start().await;
    let mut whole = connect(&server).await;
    let alone = proxy(&server, |config| config.advertise = Some("http://alone:1".to_owned())).await;
    let urls = async |proxy: &Proxy| {
        let list = through(proxy).await.member_list().await.expect("members");
        let mut found: Vec<_> =
            list.members().iter().flat_map(|member| member.client_urls().to_vec()).collect();
        found.sort();
        found
    };
    assert_eq!(urls(&alone).await, ["http://alone:1"]);
    let registered = |address: &str| {
        let address = address.to_owned();
        move |config: &mut ProxyConfig| {
            config.advertise = Some(address);
            config.register = Some(("proxies".to_owned(), 60));
        }
    };
    let one = proxy(&server, registered("http://one:1")).await;
    let mut two = proxy(&server, registered("http://two:2")).await;
    eventually("both are known", async || urls(&one).await == ["http://one:1", "http://two:2"]).await;
    let found = whole.get("proxies/http://two:2", None).await.expect("get");
    let value: serde_json::Value = serde_json::from_slice(found.kvs()[0].value()).expect("JSON");
    assert_eq!(
        value,
        serde_json::json!({ "Op": 0, "Addr": "http://two:2", "Metadata": "{\"name\":\"here\"}" })
    );
    two.shutdown.trigger();
    let tasks = two.tasks.take().expect("its tasks");
    tasks.join(Duration::from_secs(20)).await.expect("it ends");
    eventually("one is known", async || urls(&one).await == ["http://one:1"]).await;
    // A proxy that says nothing of itself passes the question on.
    let plain = proxy(&server, |_| {}).await;
    assert_eq!(urls(&plain).await, ["http://client"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_of_the_members_or_of_the_proxy() {
    let server = start().await;
    connect(&server).await;
    let port = env::ports::free_address();
    let front = proxy(&server, |config| {
        config.advertise = Some("http://front".to_owned());
        config.listen_metrics = Some(format!("http://{port}").parse().expect("an address"));
    })
    .await;
    for address in [front.address, port] {
        let metrics = page(address, "/metrics").await;
        assert!(metrics.contains("some_metric 1") && !metrics.contains("proxy_metric"), "{metrics}");
        assert!(page(address, "/proxy/metrics").await.contains("proxy_metric 1"));
        for path in ["/health", "/proxy/health"] {
            assert!(page(address, path).await.contains(r#""health":"true""#), "{path}");
        }
    }
    let quiet = proxy(&server, |_| {}).await;
    let answer = page(quiet.address, "/proxy/health").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("no connection to proxy"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_requests_pass_with_a_namespace_or_without() {
    let server = start().await;
    let mut client = connect(&server).await;
    for namespace in ["", "ns/"] {
        let front = proxy(&server, |config| config.namespace = namespace.to_owned()).await;
        let put = pb::PutRequest { key: "packed".into(), ..Default::default() }.encode_to_vec();
        let body = framed(true, &gzip(&put));
        let (_, status) = call(&channel(front.address).await, "/etcdserverpb.KV/Put", "gzip", body).await;
        assert_eq!(status.code(), Code::Ok, "{namespace}: {status}");
        let found = client.get(format!("{namespace}packed"), None).await.expect("get");
        assert_eq!(found.count(), 1, "{namespace}");
    }
}

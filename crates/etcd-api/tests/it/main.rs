//! The API over real sockets, asked by a client library and by Debian's `etcdctl`.

mod abuse;
mod auth;
mod compressed;
mod gateway;
mod limits;
mod names;
mod proxy;
mod raw;
mod sockets;
mod unreadable;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use env::{Env, Shutdown, TaskGroup};
use etcd_api::EtcdApiConfig;
use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp,
    WatchFilterType, WatchOptions,
};
use store::{MemoryStorage, Store, StoreConfig};
use tempfile::TempDir;

/// How long anything may take that is waited for.
const DEADLINE: Duration = Duration::from_secs(20);

struct Server {
    address: SocketAddr,
    store: Store,
    /// Bytes that clients hold.
    client_memory: Box<dyn Fn() -> u64 + Send + Sync>,
    shutdown: Shutdown,
    _folder: TempDir,
    _tasks: TaskGroup,
}

impl Server {
    /// How many tokens the member knows.
    fn tokens(&self) -> usize {
        self.store.view().auth().tokens().count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

/// One member behind the API.
async fn start() -> Server {
    start_with(|_| {}).await
}

async fn start_with(change: impl FnOnce(&mut EtcdApiConfig)) -> Server {
    start_over(|_| {}, change).await
}

async fn start_over(
    change_store: impl FnOnce(&mut StoreConfig),
    change: impl FnOnce(&mut EtcdApiConfig),
) -> Server {
    let folder = tempfile::tempdir().expect("folder");
    let peer = env::ports::free_address();
    let any = "http://127.0.0.1:0".parse().expect("address");
    let mut config = StoreConfig::new("default", peer);
    config.initial_cluster = vec![("default".to_owned(), format!("http://{peer}"))];
    config.advertise_client_urls = vec!["http://client".to_owned()];
    change_store(&mut config);
    let storage = Arc::new(MemoryStorage::new(folder.path()));
    let (store, server) = config.build(Env::real(), storage).await.expect("store");
    let mut api = EtcdApiConfig::new(vec![any], Arc::new(|| "some_metric 1\n".to_owned()));
    api.watch_progress_notify_interval = Duration::from_millis(200);
    change(&mut api);
    let api = api.build(Env::real(), store.clone()).await.expect("api");
    let address = api.addresses().expect("addresses")[0];
    let client_memory = Box::new(api.client_memory());
    let shutdown = Shutdown::new();
    let tasks = TaskGroup::new("test", shutdown.clone());
    tasks.spawn("store", server.run(shutdown.child()));
    tasks.spawn("api", api.run(shutdown.child()));
    Server { address, store, client_memory, shutdown, _folder: folder, _tasks: tasks }
}

async fn connect(server: &Server) -> Client {
    let mut client = Client::connect([server.address.to_string()], None).await.expect("connect");
    // The first leader is elected while the first request waits.
    client.get("warm up", None).await.expect("get");
    client
}

/// What an HTTP/1 client gets, head and body.
async fn page(address: SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut socket = tokio::net::TcpStream::connect(address).await.expect("connect");
    let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("write");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("read");
    answer
}

async fn next(stream: &mut etcd_client::WatchStream) -> etcd_client::WatchResponse {
    let message = tokio::time::timeout(Duration::from_secs(10), stream.message()).await.expect("in time");
    message.expect("message").expect("open")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_written_read_and_deleted() {
    let server = start().await;
    let mut client = connect(&server).await;
    let first = client.put("k1", "a", None).await.expect("put").header().expect("header").revision();
    let again = client.put("k1", "b", Some(PutOptions::new().with_prev_key())).await.expect("put");
    assert_eq!(text(again.prev_key().expect("previous").value()), "a");
    assert_eq!(again.header().expect("header").revision(), first + 1);
    client.put("k2", "c", None).await.expect("put");

    let order = GetOptions::new().with_prefix().with_sort(SortTarget::Key, SortOrder::Descend).with_limit(1);
    let found = client.get("k", Some(order)).await.expect("get");
    assert_eq!((text(found.kvs()[0].key()), found.more(), found.count()), ("k2".to_owned(), true, 2));
    let old = client.get("k1", Some(GetOptions::new().with_revision(first))).await.expect("get");
    assert_eq!(text(old.kvs()[0].value()), "a");

    let gone =
        client.delete("k", Some(DeleteOptions::new().with_prefix().with_prev_key())).await.expect("delete");
    assert_eq!((gone.deleted(), gone.prev_kvs().len()), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_those_that_clients_match_on() {
    let server = start().await;
    let mut client = connect(&server).await;
    let error = |error: etcd_client::Error| match error {
        etcd_client::Error::GRpcStatus(status) => (status.code(), status.message().to_owned()),
        other => panic!("{other}"),
    };
    let told = |code, text: &str| (code, text.to_owned());
    let put = client.put("", "v", None).await.expect_err("no key");
    assert_eq!(error(put), told(tonic::Code::InvalidArgument, "etcdserver: key is not provided"));
    let future = client.get("k", Some(GetOptions::new().with_revision(1 << 40))).await.expect_err("future");
    let text = "etcdserver: mvcc: required revision is a future revision";
    assert_eq!(error(future), told(tonic::Code::OutOfRange, text));
    let lease = client.put("k", "v", Some(PutOptions::new().with_lease(99))).await.expect_err("lease");
    assert_eq!(error(lease), told(tonic::Code::NotFound, "etcdserver: requested lease not found"));
    let twice = Txn::new().and_then([TxnOp::put("k", "1", None), TxnOp::put("k", "2", None)]);
    let twice = client.txn(twice).await.expect_err("twice");
    assert_eq!(
        error(twice),
        told(tonic::Code::InvalidArgument, "etcdserver: duplicate key given in txn request")
    );
    let many = Txn::new().and_then(vec![TxnOp::get("k", None); 129]);
    let many = client.txn(many).await.expect_err("too many");
    assert_eq!(
        error(many),
        told(tonic::Code::InvalidArgument, "etcdserver: too many operations in txn request")
    );
    let large = client.put("k", vec![0; (3 << 19) + 1], None).await.expect_err("too large");
    assert_eq!(error(large), told(tonic::Code::InvalidArgument, "etcdserver: request is too large"));

    client.put("k", "v", None).await.expect("put");
    let revision = client.put("k", "v", None).await.expect("put").header().expect("header").revision();
    client.compact(revision, None).await.expect("compact");
    let compacted = client.get("k", Some(GetOptions::new().with_revision(1))).await.expect_err("compacted");
    let text = "etcdserver: mvcc: required revision has been compacted";
    assert_eq!(error(compacted), told(tonic::Code::OutOfRange, text));
}

/// What etcd 3.7 does not stream either, and says in the same words; the request is checked before anything else.
#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_streamed_in_the_order_of_its_keys_and_whole() {
    use protos::etcd::etcdserverpb::range_request::{SortOrder, SortTarget};
    use protos::etcd::etcdserverpb::{RangeRequest, kv_client::KvClient};
    let server = start().await;
    let mut client = connect(&server).await;
    for key in ["k2", "k1"] {
        client.put(key, "v", None).await.expect("put");
    }
    let all = RangeRequest { key: "k".into(), range_end: "l".into(), ..RangeRequest::default() };
    let sorted = |target: SortTarget, order: SortOrder| RangeRequest {
        sort_target: target.into(),
        sort_order: order.into(),
        ..all.clone()
    };
    let mut kv = KvClient::connect(format!("http://{}", server.address)).await.expect("connect");
    let orders = [SortOrder::None, SortOrder::Ascend].map(|order| sorted(SortTarget::Key, order));
    for request in orders.into_iter().chain([sorted(SortTarget::Mod, SortOrder::None)]) {
        let mut stream = kv.range_stream(request.clone()).await.expect("a stream").into_inner();
        let answer = stream.message().await.expect("no error").expect("a message").range_response;
        assert_eq!(answer.map(|answer| answer.count), Some(2), "{request:?}");
    }
    let order = (tonic::Code::Unimplemented, "RangeStream does not support custom sort orders");
    let filters = (tonic::Code::Unimplemented, "RangeStream does not support revision filters");
    let invalid = (tonic::Code::InvalidArgument, "etcdserver: invalid sort option");
    let no_key = (tonic::Code::InvalidArgument, "etcdserver: key is not provided");
    let refused = [
        (sorted(SortTarget::Key, SortOrder::Descend), order),
        (sorted(SortTarget::Mod, SortOrder::Ascend), order),
        (RangeRequest { min_mod_revision: 1, ..sorted(SortTarget::Value, SortOrder::Descend) }, order),
        (RangeRequest { min_mod_revision: 1, ..all.clone() }, filters),
        (RangeRequest { max_mod_revision: 9, ..all.clone() }, filters),
        (RangeRequest { min_create_revision: 1, ..all.clone() }, filters),
        (RangeRequest { max_create_revision: 9, ..all.clone() }, filters),
        (RangeRequest { sort_order: 3, ..all.clone() }, invalid),
        (RangeRequest { sort_target: 5, min_mod_revision: 1, ..all.clone() }, invalid),
        (RangeRequest { sort_order: 2, ..RangeRequest::default() }, no_key),
        (RangeRequest { sort_order: 3, ..RangeRequest::default() }, no_key),
    ];
    for (request, told) in refused {
        let status = kv.range_stream(request.clone()).await.expect_err("refused");
        assert_eq!((status.code(), status.message()), told, "{request:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_takes_the_branch_that_its_compares_say() {
    let server = start().await;
    let mut client = connect(&server).await;
    let txn = |value: &str| {
        let when = [Compare::value("k", CompareOp::Equal, value)];
        let swap = [TxnOp::put("k", "new", None), TxnOp::get("k", None)];
        Txn::new().when(when).and_then(swap).or_else([TxnOp::get("k", None)])
    };
    client.put("k", "old", None).await.expect("put");
    assert!(!client.txn(txn("other")).await.expect("txn").succeeded());
    let done = client.txn(txn("old")).await.expect("txn");
    assert!(done.succeeded());
    let etcd_client::TxnOpResponse::Get(read) = &done.op_responses()[1] else { panic!("a read") };
    assert_eq!(text(read.kvs()[0].value()), "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_begins_where_it_is_told_and_filters() {
    let server = start().await;
    let mut client = connect(&server).await;
    let first = client.put("w", "1", None).await.expect("put").header().expect("header").revision();
    client.put("w", "2", None).await.expect("put");
    client.delete("w", None).await.expect("delete");
    let options = WatchOptions::new().with_start_revision(first).with_prev_key();
    let mut stream = client.watch("w", Some(options)).await.expect("watch");
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let message = next(&mut stream).await;
        for event in message.events() {
            let prev = event.prev_kv().map(|kv| text(kv.value()));
            seen.push((event.event_type(), event.kv().map(|kv| text(kv.value())), prev));
        }
    }
    use etcd_client::EventType::{Delete, Put};
    let said = |value: &str| Some(value.to_owned());
    assert_eq!(seen, [(Put, said("1"), None), (Put, said("2"), said("1")), (Delete, said(""), said("2"))]);
    let only_deletes = WatchOptions::new().with_start_revision(first).with_filters([WatchFilterType::NoPut]);
    let mut stream = client.watch("w", Some(only_deletes)).await.expect("watch");
    loop {
        let message = next(&mut stream).await;
        if let [event, ..] = message.events() {
            assert_eq!(event.event_type(), Delete);
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_told_when_asked_and_by_the_timer() {
    let server = start().await;
    let mut client = connect(&server).await;
    let mut stream =
        client.watch("quiet", Some(WatchOptions::new().with_progress_notify())).await.expect("watch");
    let revision =
        client.put("elsewhere", "1", None).await.expect("put").header().expect("header").revision();
    stream.request_progress().await.expect("ask");
    let (mut asked, mut timed) = (false, false);
    while !(asked && timed) {
        let message = next(&mut stream).await;
        if message.created() {
            continue;
        }
        assert!(message.events().is_empty());
        assert!(message.header().expect("header").revision() >= revision);
        if message.watch_id() == -1 { asked = true } else { timed = true }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_begins_in_the_future_is_told_of_no_progress_before() {
    let server = start().await;
    let mut client = connect(&server).await;
    let start = server.store.view().revision() + 2;
    let notify = || WatchOptions::new().with_progress_notify();
    let mut stream = client.watch("now", Some(notify().with_watch_id(1))).await.expect("watch");
    let later = notify().with_watch_id(2).with_start_revision(start);
    stream.watch("later", Some(later)).await.expect("watch");
    let mut told = 0;
    while told < 2 {
        let message = next(&mut stream).await;
        if !message.created() {
            assert_eq!(message.watch_id(), 1, "progress of what has not begun");
            told += 1;
        }
    }
    for value in ["too early", "in time"] {
        client.put("later", value, None).await.expect("put");
    }
    let first = loop {
        let message = next(&mut stream).await;
        if message.watch_id() == 2 {
            break message;
        }
    };
    assert_eq!(first.header().expect("header").revision(), start);
    let values: Vec<_> = first.events().iter().map(|event| event.kv().expect("kv").value()).collect();
    assert_eq!(values, [b"in time"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_physical_compaction_is_answered_when_everything_is_deleted() {
    let server = start_over(|store| store.compaction = (1, Duration::from_millis(20)), |_| {}).await;
    let mut client = connect(&server).await;
    for value in 0..20 {
        client.put("k", value.to_string(), None).await.expect("put");
    }
    let revision = server.store.view().revision();
    let physical = etcd_client::CompactionOptions::new().with_physical();
    client.compact(revision, Some(physical)).await.expect("compact");
    let swept = tokio::time::timeout(Duration::ZERO, server.store.swept(revision)).await;
    assert_eq!(swept.expect("at once"), Ok(()));
}

/// Clients go on with their watches elsewhere after this code and no other.
#[tokio::test(flavor = "multi_thread")]
async fn watches_of_a_member_that_stops_end_as_unavailable() {
    let server = start().await;
    let mut client = connect(&server).await;
    let mut stream = client.watch("k", None).await.expect("watch");
    assert!(next(&mut stream).await.created());
    server.shutdown.trigger();
    let ended = tokio::time::timeout(DEADLINE, stream.message()).await.expect("in time");
    match ended.expect_err("it does not end as if all were said") {
        etcd_client::Error::GRpcStatus(status) => {
            assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
            assert_eq!(status.message(), "etcdserver: server stopped");
        }
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_behind_the_compaction_is_told_so() {
    let server = start().await;
    let mut client = connect(&server).await;
    for value in 0..5 {
        client.put("k", value.to_string(), None).await.expect("put");
    }
    let revision = client.put("k", "last", None).await.expect("put").header().expect("header").revision();
    client.compact(revision, None).await.expect("compact");
    let mut stream =
        client.watch("k", Some(WatchOptions::new().with_start_revision(2))).await.expect("watch");
    loop {
        let message = next(&mut stream).await;
        if message.canceled() {
            assert_eq!(message.compact_revision(), revision);
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_keeps_its_keys_while_it_is_renewed() {
    let server = start().await;
    let mut client = connect(&server).await;
    let lease = client.lease_grant(1, None).await.expect("grant");
    assert_eq!(lease.ttl(), 2, "raised to the shortest");
    client.put("l", "v", Some(PutOptions::new().with_lease(lease.id()))).await.expect("put");
    let keys = etcd_client::LeaseTimeToLiveOptions::new().with_keys();
    let time = client.lease_time_to_live(lease.id(), Some(keys)).await.expect("time");
    assert_eq!(time.keys(), [b"l".to_vec()]);
    let (mut keeper, mut answers) = client.lease_keep_alive(lease.id()).await.expect("keep alive");
    keeper.keep_alive().await.expect("ask");
    assert_eq!(answers.message().await.expect("answer").expect("open").ttl(), 2);
    client.lease_revoke(lease.id()).await.expect("revoke");
    assert_eq!(client.get("l", None).await.expect("get").count(), 0);
    keeper.keep_alive().await.expect("ask");
    assert_eq!(answers.message().await.expect("answer").expect("open").ttl(), 0, "unknown is no error");
    assert_eq!(client.lease_time_to_live(lease.id(), None).await.expect("time").ttl(), -1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_tells_who_it_is() {
    let server = start().await;
    let mut client = connect(&server).await;
    let members = client.member_list().await.expect("members");
    assert_eq!(members.members().len(), 1);
    let status = client.status().await.expect("status");
    assert_eq!((status.version(), status.leader()), (etcd_api::ETCD_VERSION, members.members()[0].id()));
    assert!(status.raft_index() > 0 && status.raft_applied_index() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_one_that_etcds_tools_restore() {
    let server = start().await;
    let mut client = connect(&server).await;
    // More pages than one branch holds, values of many pages, deletions, and history before and after a compaction.
    for number in 0..3000 {
        let size = if number % 500 == 0 { 20_000 } else { 300 };
        client.put(format!("k/{number:05}"), vec![b'v'; size], None).await.expect("put");
    }
    client.delete("k/00001", None).await.expect("delete");
    client.compact(1000, None).await.expect("compact");
    let lease = client.lease_grant(600, None).await.expect("grant").id();
    client.put("leased", "v", Some(PutOptions::new().with_lease(lease))).await.expect("put");
    let revision = client.get("leased", None).await.expect("get").header().expect("header").revision();
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("snapshot.db").display().to_string();
    let restored = folder.path().join("restored").display().to_string();
    tokio::task::spawn_blocking(move || {
        let (saved, text) = etcdctl(&server, &["snapshot", "save", &file]);
        assert!(saved, "{text}");
        let (good, status) = etcdctl(&server, &["snapshot", "status", &file, "-w", "fields"]);
        assert!(good && status.contains(&format!("\"Revision\" : {revision}")), "{status}");
        // Restoring compares the checksum and reads the whole database.
        let (good, text) = etcdctl(&server, &["snapshot", "restore", &file, "--data-dir", &restored]);
        assert!(good, "{text}");
        let mut bytes = std::fs::read(&file).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&file, bytes).expect("write");
        let other = format!("{restored}-2");
        assert!(!etcdctl(&server, &["snapshot", "restore", &file, "--data-dir", &other]).0, "it is damaged");
    })
    .await
    .expect("etcdctl");
}

/// Runs Debian's `etcdctl` against the server.
fn etcdctl(server: &Server, args: &[&str]) -> (bool, String) {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").arg("--endpoints").arg(server.address.to_string()).args(args);
    let output = command.output().expect("etcdctl is missing: run `scripts/tools`");
    let both = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&both).trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn debians_etcdctl_works() {
    let server = start().await;
    connect(&server).await;
    tokio::task::spawn_blocking(move || {
        let ok = |args: &[&str]| {
            let (success, text) = etcdctl(&server, args);
            assert!(success, "{args:?}: {text}");
            text
        };
        assert_eq!(ok(&["put", "a/1", "x"]), "OK");
        ok(&["put", "a/2", "y"]);
        assert_eq!(ok(&["get", "a/", "--prefix", "--keys-only"]), "a/1\n\na/2");
        assert_eq!(ok(&["del", "a/", "--prefix"]), "2");
        assert!(ok(&["endpoint", "health"]).contains("is healthy"));
        assert!(ok(&["endpoint", "status"]).contains(etcd_api::ETCD_VERSION));
        assert!(ok(&["member", "list"]).contains("started, default"));
        assert!(ok(&["alarm", "list"]).is_empty());
        assert!(ok(&["defrag"]).contains("Finished defragmenting"));
        let (success, text) = etcdctl(&server, &["auth", "enable"]);
        assert!(!success && text.contains("root user does not exist"), "{text}");
        ok(&["user", "add", "root:secret"]);
        ok(&["user", "grant-role", "root", "root"]);
        assert_eq!(ok(&["auth", "enable"]), "Authentication Enabled");
        assert!(!etcdctl(&server, &["get", "a"]).0, "nobody may");
        ok(&["--user", "root:secret", "auth", "disable"]);
    })
    .await
    .expect("etcdctl");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_endpoints_answer_on_the_same_port() {
    let server = start().await;
    connect(&server).await;
    let get = async |path: &str| page(server.address, path).await;
    assert!(get("/health").await.contains(r#"{"health":"true","reason":""}"#));
    assert!(get("/version").await.contains(r#""etcdserver":"3.7.1""#));
    assert!(get("/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(get("/metrics").await.contains("some_metric 1"));
    assert!(get("/nothing").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_held_one_after_the_other_and_end_with_their_lease() {
    let server = start().await;
    let mut client = connect(&server).await;
    let mut lease = async |ttl| client.lease_grant(ttl, None).await.expect("grant").id();
    let (one, two, three) = (lease(60).await, lease(60).await, lease(60).await);
    let options = |lease| Some(etcd_client::LockOptions::new().with_lease(lease));
    let first = client.lock("l", options(one)).await.expect("lock");
    assert_eq!(first.key(), format!("l/{one:x}").as_bytes());
    let again = client.lock("l", options(one)).await.expect("its holder has it already");
    assert_eq!(again.key(), first.key());
    let (mut second, mut third) = (client.clone(), client.clone());
    let mut second = background(async move { second.lock("l", options(two)).await });
    eventually("two keys", async || count(&mut client.clone(), "l/").await == 2).await;
    let mut third = background(async move { third.lock("l", options(three)).await });
    eventually("three keys", async || count(&mut client.clone(), "l/").await == 3).await;
    assert!(second.try_join_next().is_none() && third.try_join_next().is_none());
    client.lease_revoke(one).await.expect("revoke");
    let key = second.join_next().await.expect("one").expect("task").expect("the next has it").key().to_vec();
    assert!(third.try_join_next().is_none());
    client.unlock(key).await.expect("unlock");
    third.join_next().await.expect("one").expect("task").expect("and the last");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_gives_up_waiting_leaves_the_queue() {
    let server = start().await;
    let mut client = connect(&server).await;
    client.lock("l", None).await.expect("lock");
    let mut other = client.clone();
    let mut waiting = background(async move { other.lock("l", None).await });
    eventually("two keys", async || count(&mut client.clone(), "l/").await == 2).await;
    waiting.abort_all();
    eventually("one key", async || count(&mut client.clone(), "l/").await == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn elections_have_one_leader_whom_observers_follow() {
    use etcd_client::ProclaimOptions;
    let server = start().await;
    let mut client = connect(&server).await;
    assert!(client.leader("e").await.expect_err("nobody").to_string().contains("election: no leader"));
    let lease = client.lease_grant(60, None).await.expect("grant").id();
    let won = client.campaign("e", "a", lease).await.expect("campaign");
    let leader = won.leader().expect("a leader").clone();
    let mut observed = client.observe("e").await.expect("observe");
    let mut value = async || {
        let message = tokio::time::timeout(DEADLINE, observed.message()).await.expect("in time");
        let answer = message.expect("stream").expect("an answer");
        answer.kv().expect("a key").value_str().expect("text").to_owned()
    };
    assert_eq!(value().await, "a");
    let options = Some(ProclaimOptions::new().with_leader(leader.clone()));
    client.proclaim("b", options.clone()).await.expect("proclaim");
    assert_eq!(value().await, "b");
    let other_lease = client.lease_grant(60, None).await.expect("grant").id();
    let mut other = client.clone();
    let mut next = background(async move { other.campaign("e", "c", other_lease).await });
    eventually("two candidates", async || count(&mut client.clone(), "e/").await == 2).await;
    client.resign(Some(etcd_client::ResignOptions::new().with_leader(leader))).await.expect("resign");
    next.join_next().await.expect("one").expect("task").expect("the next leads");
    assert_eq!(value().await, "c");
    let error = client.proclaim("d", options).await.expect_err("it leads no more");
    assert!(error.to_string().contains("election: not leader"), "{error}");
}

async fn count(client: &mut etcd_client::Client, prefix: &str) -> i64 {
    let options = etcd_client::GetOptions::new().with_prefix().with_count_only();
    client.get(prefix, Some(options)).await.expect("count").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_used_up_is_an_alarm_until_it_is_taken_off() {
    let server = start_with(|api| api.quota_bytes = Some(2_000)).await;
    let mut client = connect(&server).await;
    client.put("k", vec![b'v'; 1_000], None).await.expect("there is room");
    let error = client.put("k", vec![b'v'; 1_000], None).await.expect_err("the old version counts too");
    assert!(error.to_string().contains("etcdserver: mvcc: database space exceeded"), "{error}");
    let error = client.put("small", "v", None).await.expect_err("the alarm is raised");
    assert!(error.to_string().contains("database space exceeded"), "{error}");
    assert!(client.get("k", None).await.is_ok(), "reads go on");
    let alarms = etcd_client::AlarmType::Nospace;
    client.delete("k", None).await.expect("deletes go on");
    let revision = client.get("k", None).await.expect("get").header().expect("header").revision();
    client.compact(revision, None).await.expect("compact");
    client.alarm(etcd_client::AlarmAction::Deactivate, alarms, None).await.expect("disarm");
    client.put("small", "v", None).await.expect("there is room again");
}

/// One task that goes on while the test does; it ends with the test.
fn background<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> tokio::task::JoinSet<T> {
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(work);
    tasks
}

async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let clock = Env::real().clock;
    let poll = async {
        while !check().await {
            clock.sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, poll).await.unwrap_or_else(|_| panic!("{what}: not in time"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_the_cluster_does_not_know_keeps_its_clients_waiting() {
    let second_peer = env::ports::free_address();
    let second = ("second".to_owned(), format!("http://{second_peer}"));
    let metrics = env::ports::free_address();
    let (names, mut alone) = (second.clone(), Vec::new());
    let first = start_over(
        |config| {
            config.initial_cluster.push(names);
            alone.clone_from(&config.initial_cluster);
        },
        |api| api.listen_metrics = vec![format!("http://{metrics}").parse().expect("address")],
    )
    .await;
    let asked = async {
        let mut client = Client::connect([first.address.to_string()], None).await.expect("connect");
        client.status().await.expect("status")
    };
    let joined = async {
        // Whoever watches over the process is answered, and so the member runs.
        let page = page(metrics, "/metrics").await;
        assert!(page.contains("some_metric 1"), "{page}");
        let config = |config: &mut StoreConfig| {
            config.name = second.0;
            config.listen_peers = vec![second.1.parse().expect("address")];
            config.initial_cluster = alone;
        };
        start_over(config, |_| {}).await
    };
    let (status, _second) = tokio::join!(asked, joined);
    assert_ne!(status.leader(), 0);
    assert!(status.raft_applied_index() > 0);
}

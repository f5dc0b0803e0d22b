//! What clients may hold of a server's memory, from both sides of each limit.

use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error, GetOptions, KvClient, LeaseGrantOptions, SortOrder,
    SortTarget, Txn, TxnOp, WatchOptions,
};
use tonic::Code;

use crate::raw::{DATA, END_HEADERS, HEADERS, RST_STREAM, Raw, frame, headers};
use crate::{Server, connect, eventually, next, start_with};

const MIB: u64 = 1 << 20;
const ABUSER: [u8; 4] = [127, 0, 0, 2];

async fn with_memory(bytes: u64) -> (Server, Client) {
    let server = start_with(|api| api.client_memory_bytes = bytes).await;
    let client = connect(&server).await;
    (server, client)
}

async fn fill(client: &mut Client, keys: u32, bytes: usize) {
    for key in 0..keys {
        client.put(format!("k{key:04}"), vec![b'v'; bytes], None).await.expect("put");
    }
}

fn status(error: Error) -> (Code, String) {
    match error {
        Error::GRpcStatus(status) => (status.code(), status.message().to_owned()),
        other => panic!("{other}"),
    }
}

fn exhausted(error: Error) {
    let (code, text) = status(error);
    assert_eq!(code, Code::ResourceExhausted, "{text}");
    assert!(text.starts_with("etcdserver: too many requests: this takes "), "{text}");
}

/// For answers of any size.
fn large(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(usize::MAX)
}

fn sorted() -> GetOptions {
    GetOptions::new().with_prefix().with_sort(SortTarget::Mod, SortOrder::Descend)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_made_if_there_is_memory_for_it() {
    // One client may have half of it, and what is made of keys takes twice their size: two mebibytes fit, five do not.
    let (server, mut client) = with_memory(16 * MIB).await;
    fill(&mut client, 8, 256 << 10).await;
    let found = client.get("k", Some(sorted())).await.expect("it fits");
    assert_eq!((found.kvs().len(), found.kvs()[0].key()), (8, &b"k0007"[..]));
    fill(&mut client, 20, 256 << 10).await;
    exhausted(client.get("k", Some(sorted())).await.expect_err("it does not"));
    // What is read of it in pages, or without values, does.
    assert_eq!(client.get("k", Some(sorted().with_limit(4))).await.expect("a page").kvs().len(), 4);
    assert_eq!(client.get("k", Some(sorted().with_keys_only())).await.expect("keys").kvs().len(), 20);
    let revision =
        client.get("k", Some(GetOptions::new().with_prefix().with_count_only())).await.expect("count");
    let past =
        GetOptions::new().with_prefix().with_revision(revision.header().expect("header").revision() - 1);
    exhausted(client.get("k", Some(past)).await.expect_err("what was does not fit either"));
    // And so does all of it as it is stored, since that is sent as it is read.
    let whole = large(&client).get("k", Some(GetOptions::new().with_prefix())).await.expect("whole");
    assert_eq!(whole.kvs().iter().map(|kv| kv.value().len()).sum::<usize>(), 20 * (256 << 10));
    eventually("nothing is held", async || (server.client_memory)() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_is_too_large_changes_nothing() {
    let (_server, mut client) = with_memory(8 * MIB).await;
    fill(&mut client, 16, 256 << 10).await;
    let all = Some(DeleteOptions::new().with_prefix().with_prev_key());
    exhausted(client.delete("k", all.clone()).await.expect_err("the values before do not fit"));
    let read = || TxnOp::get("k", Some(GetOptions::new().with_prefix()));
    let put = TxnOp::put("marked", "yes", None);
    exhausted(client.txn(Txn::new().and_then([put, read()])).await.expect_err("what is read does not fit"));
    exhausted(client.txn(Txn::new().and_then([read(), read()])).await.expect_err("nor twice"));
    assert!(client.get("marked", None).await.expect("get").kvs().is_empty());
    let count =
        client.get("k", Some(GetOptions::new().with_prefix().with_count_only())).await.expect("count");
    assert_eq!(count.count(), 16);
    assert_eq!(
        client.delete("k", Some(DeleteOptions::new().with_prefix())).await.expect("without").deleted(),
        16
    );
    fill(&mut client, 4, 256 << 10).await;
    assert_eq!(client.delete("k", all).await.expect("fewer").prev_kvs().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_its_share_and_others_are_served() {
    let (server, mut client) = with_memory(16 * MIB).await;
    fill(&mut client, 40, 256 << 10).await;
    let mut raw = Raw::connect(server.address, ABUSER).await;
    // A hundred answers of ten mebibytes each.
    for number in 0..100 {
        raw.call(2 * number + 1, "/etcdserverpb.KV/Range", b"\x0a\x01k\x12\x01l").await;
    }
    eventually("it holds what it may", async || (server.client_memory)() > 3 * MIB).await;
    let mut kv = large(&client);
    for _ in 0..20 {
        let whole = kv.get("k", Some(GetOptions::new().with_prefix())).await.expect("others are served");
        assert_eq!(whole.kvs().len(), 40);
        let held = (server.client_memory)();
        assert!(held < 8 * MIB, "{held} bytes are held");
    }
    drop(raw);
    eventually("nothing is held", async || (server.client_memory)() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_never_end_hold_no_more_than_a_share() {
    let (server, mut client) = with_memory(4 * MIB).await;
    let mut raw = Raw::connect(server.address, ABUSER).await;
    // Pieces of puts of a mebibyte: one client may have half of the memory, seven of them.
    const PIECE: usize = 17 * (16 << 10);
    let head = [&[0][..], &(1_u32 << 20).to_be_bytes()].concat();
    for number in 0..12 {
        let stream = 2 * number + 1;
        let mut part = frame(HEADERS, END_HEADERS, stream, &headers("/etcdserverpb.KV/Put"));
        part.extend(frame(DATA, 0, stream, &head));
        (0..17).for_each(|_| part.extend(frame(DATA, 0, stream, &[0; 16 << 10])));
        raw.send(&part).await;
        if number < 7 {
            let sent = u64::from(number + 1) * PIECE as u64;
            eventually("it is held", async || (server.client_memory)() >= sent).await;
        } else {
            assert!(raw.ended(stream).await, "the call is refused, and not the connection");
        }
    }
    let held = (server.client_memory)();
    assert!(held <= 2 * MIB, "{held} bytes are held");
    client.put("k", vec![b'v'; 256 << 10], None).await.expect("others are served");
    drop(raw);
    eventually("nothing is held", async || (server.client_memory)() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_take_memory_until_they_end() {
    let (server, mut client) = with_memory(256 << 10).await;
    let mut stream = client.watch("k", None).await.expect("a stream");
    let created = next(&mut stream).await;
    assert!(created.created());
    let mut ids = Vec::new();
    // One has half of it; each takes half a kibibyte and its key.
    let refused = loop {
        stream.watch(vec![b'k'; 4 << 10], None).await.expect("asked");
        let answer = next(&mut stream).await;
        if answer.canceled() {
            break answer;
        }
        ids.push(answer.watch_id());
        assert!(ids.len() < 100, "there is no limit");
    };
    assert!(
        refused.cancel_reason().starts_with("etcdserver: too many requests"),
        "{}",
        refused.cancel_reason()
    );
    assert!(ids.len() > 10, "{} watches", ids.len());
    stream.cancel(ids[0]).await.expect("asked");
    assert!(next(&mut stream).await.canceled());
    stream.watch(vec![b'k'; 4 << 10], None).await.expect("asked");
    let answer = next(&mut stream).await;
    assert!(answer.created() && !answer.canceled(), "there is room again");
    drop(stream);
    eventually("nothing is held", async || (server.client_memory)() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_not_read_waits_outside_of_memory_and_misses_nothing() {
    let (server, mut client) = with_memory(8 * MIB).await;
    let mut streams = Vec::new();
    for _ in 0..16 {
        let mut watcher = connect(&server).await;
        let options = WatchOptions::new().with_prefix().with_prev_key();
        let mut stream = watcher.watch("k", Some(options)).await.expect("a stream");
        assert!(next(&mut stream).await.created());
        streams.push(stream);
    }
    // More than the ring of new events holds.
    for round in 0..48 {
        fill(&mut client, 8, 64 << 10).await;
        let held = (server.client_memory)();
        assert!(held < 8 * MIB, "{held} bytes are held in round {round}");
    }
    let mut stream = streams.pop().expect("one");
    // The others have gone: what they held is free.
    drop(streams);
    let mut seen = Vec::new();
    while seen.len() < 8 * 48 {
        seen.extend(
            next(&mut stream).await.events().iter().map(|event| event.kv().expect("a key").mod_revision()),
        );
    }
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    drop(stream);
    eventually("nothing is held", async || (server.client_memory)() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_as_large_as_they_may_be_and_no_larger() {
    const MAX: usize = 3 << 19;
    // A key of one byte takes three, and a value four more than it has.
    const OVERHEAD: usize = 7;
    let server = start_with(|_| {}).await;
    let mut client = connect(&server).await;
    client.put("k", vec![0; MAX - OVERHEAD], None).await.expect("it is not too large");
    let told = |code, text: &str| (code, text.to_owned());
    let too_large = client.put("k", vec![0; MAX - OVERHEAD + 1], None).await.expect_err("one byte more");
    assert_eq!(status(too_large), told(Code::InvalidArgument, "etcdserver: request is too large"));
    let message = client.put("k", vec![0; 2 << 20], None).await.expect_err("not even read");
    let text = "grpc: received message larger than max (2097160 vs. 2097152)";
    assert_eq!(status(message), told(Code::ResourceExhausted, text));
    let range = client
        .get(vec![b'k'; 2 << 20], Some(GetOptions::new().with_from_key()))
        .await
        .expect_err("so are reads");
    assert_eq!(status(range).0, Code::ResourceExhausted);
    assert_eq!(client.get("k", None).await.expect("get").kvs()[0].value().len(), MAX - OVERHEAD);
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_have_as_many_steps_as_they_may_and_no_more() {
    let server = start_with(|api| api.max_txn_ops = 4).await;
    let mut client = connect(&server).await;
    let puts =
        |count: usize| (0..count).map(|key| TxnOp::put(format!("k{key}"), "v", None)).collect::<Vec<_>>();
    client.txn(Txn::new().and_then(puts(4))).await.expect("four");
    client.txn(Txn::new().and_then(puts(4)).or_else(puts(4))).await.expect("four in each branch");
    let told = (Code::InvalidArgument, "etcdserver: too many operations in txn request".to_owned());
    assert_eq!(status(client.txn(Txn::new().and_then(puts(5))).await.expect_err("five")), told);
    assert_eq!(status(client.txn(Txn::new().or_else(puts(5))).await.expect_err("five otherwise")), told);
}

#[tokio::test(flavor = "multi_thread")]
async fn comparisons_and_what_is_nested_count_as_steps() {
    let server = start_with(|api| api.max_txn_ops = 4).await;
    let mut client = connect(&server).await;
    let told = (Code::InvalidArgument, "etcdserver: too many operations in txn request".to_owned());
    let compares = |count: usize| {
        let compares = (0..count).map(|key| Compare::version(format!("k{key}"), CompareOp::Equal, 0));
        Txn::new().when(compares.collect::<Vec<_>>()).and_then([TxnOp::get("k", None)])
    };
    assert!(client.txn(compares(4)).await.expect("four").succeeded());
    assert_eq!(status(client.txn(compares(5)).await.expect_err("five")), told);
    // One step is used up by each level around.
    let within = |levels: usize, steps: usize| {
        let steps = Txn::new().and_then(vec![TxnOp::get("k", None); steps]);
        (0..levels).fold(steps, |inner, _| Txn::new().and_then([TxnOp::txn(inner)]))
    };
    client.txn(within(1, 3)).await.expect("three in one");
    client.txn(within(3, 1)).await.expect("one in three");
    assert_eq!(status(client.txn(within(1, 4)).await.expect_err("four in one")), told);
    assert_eq!(status(client.txn(within(4, 1)).await.expect_err("one in four")), told);
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_as_deep_as_messages_may_be() {
    let server = start_with(|_| {}).await;
    let mut client = connect(&server).await;
    let deep = |levels: usize| {
        let put = Txn::new().and_then([TxnOp::put("deep", levels.to_string(), None)]);
        (1..levels).fold(put, |inner, _| Txn::new().when([never()]).or_else([TxnOp::txn(inner)]))
    };
    let mut taken = Vec::new();
    for levels in [1, 2, 48, 49, 50, 51, 64, 65, 100, 129] {
        let answer = client.txn(deep(levels)).await;
        let found = client.get("deep", None).await.expect("get");
        taken.push(found.kvs()[0].value_str().expect("text") == levels.to_string());
        // The client's own limit is the same, and answers are deeper than what they answer.
        if let Err((code, text)) = answer.map_err(status) {
            assert_eq!(code, Code::Internal, "{levels}: {text}");
            assert!(levels > 48, "{levels}: {text}");
        }
    }
    assert!(taken.is_sorted_by(|before, after| before >= after), "{taken:?}");
    assert!(taken[2] && !taken[9], "{taken:?}");
    client.put("k", "v", None).await.expect("the member goes on");
}

/// What never holds.
fn never() -> Compare {
    Compare::version("deep", CompareOp::Less, 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_last_as_long_as_they_may_and_no_longer() {
    const MAX: i64 = 9_000_000_000;
    let server = start_with(|_| {}).await;
    let mut client = connect(&server).await;
    let longest = client.lease_grant(MAX, None).await.expect("the longest");
    assert_eq!(longest.ttl(), MAX);
    let left = client.lease_time_to_live(longest.id(), None).await.expect("left");
    assert!(left.granted_ttl() == MAX && (MAX - 3600..=MAX).contains(&left.ttl()), "{}", left.ttl());
    assert_eq!(client.lease_keep_alive(longest.id()).await.map(|_| ()).expect("renewed"), ());
    for ttl in [MAX + 1, i64::MAX] {
        let told = (Code::OutOfRange, "etcdserver: too large lease TTL".to_owned());
        assert_eq!(status(client.lease_grant(ttl, None).await.expect_err("longer")), told);
    }
    // What is too short is made longer, as in etcd.
    for ttl in [0, -1, i64::MIN] {
        assert!(client.lease_grant(ttl, None).await.expect("the shortest").ttl() >= 1, "{ttl}");
    }
    for id in [i64::MIN, -1, i64::MAX] {
        let with_id = || Some(LeaseGrantOptions::new().with_id(id));
        assert_eq!(client.lease_grant(60, with_id()).await.expect("any id").id(), id);
        let told = (Code::FailedPrecondition, "etcdserver: lease already exists".to_owned());
        assert_eq!(status(client.lease_grant(60, with_id()).await.expect_err("twice")), told);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_are_read_and_compacted_from_the_oldest_to_the_newest() {
    let server = start_with(|_| {}).await;
    let mut client = connect(&server).await;
    fill(&mut client, 4, 1).await;
    let head = client.get("k", None).await.expect("get").header().expect("a header").revision();
    let compacted = (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted".to_owned());
    let future = (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision".to_owned());
    let at = |revision| Some(GetOptions::new().with_revision(revision));
    client.compact(head - 2, None).await.expect("compacted");
    for good in [i64::MIN, -1, 0, head - 2, head] {
        client.get("k0000", at(good)).await.unwrap_or_else(|error| panic!("{good}: {error}"));
    }
    assert_eq!(status(client.get("k0000", at(head - 3)).await.expect_err("the past")), compacted);
    for revision in [head + 1, i64::MAX] {
        assert_eq!(status(client.get("k0000", at(revision)).await.expect_err("the future")), future);
        assert_eq!(status(client.compact(revision, None).await.expect_err("the future")), future);
    }
    for revision in [i64::MIN, 0, head - 2] {
        assert_eq!(status(client.compact(revision, None).await.expect_err("the past")), compacted);
    }
    client.compact(head, None).await.expect("all of it");
    client.get("k0000", at(head)).await.expect("the newest stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_sent_to_as_many_as_may_be_and_no_more() {
    const PLACES: usize = 8;
    let server = start_with(|_| {}).await;
    let mut client = connect(&server).await;
    fill(&mut client, 8, 1 << 20).await;
    let mut held = Vec::new();
    for _ in 0..PLACES {
        // Each has begun, and the rest of it waits for its reader.
        let mut stream = connect(&server).await.snapshot().await.expect("a place");
        stream.message().await.expect("a part").expect("open");
        held.push(stream);
    }
    let (code, text) = status(client.snapshot().await.map(|_| ()).expect_err("one too many"));
    assert_eq!(code, Code::ResourceExhausted);
    assert_eq!(text, "etcdserver: too many requests: other snapshots are being sent");
    client.put("k", "v", None).await.expect("writes go on");
    drop(held.pop());
    eventually("there is room again", async || client.snapshot().await.is_ok()).await;
    let mut whole = held.pop().expect("one of them");
    let mut bytes = 0;
    while let Some(part) = whole.message().await.expect("a part") {
        bytes += part.blob().len();
    }
    assert!(bytes > 7 << 20, "{bytes} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_as_many_streams_as_it_may_and_no_more() {
    const REFUSED_STREAM: u32 = 7;
    let server = start_with(|api| api.max_concurrent_streams = 2).await;
    let mut client = connect(&server).await;
    let mut raw = Raw::connect(server.address, ABUSER).await;
    let mut open = async |stream: u32| {
        raw.send(&frame(HEADERS, END_HEADERS, stream, &headers("/etcdserverpb.Watch/Watch"))).await;
    };
    for stream in [1, 3, 5] {
        open(stream).await;
    }
    let refused = raw.next_of(RST_STREAM).await.expect("the connection goes on");
    assert_eq!((refused.stream, refused.payload), (5, REFUSED_STREAM.to_be_bytes().to_vec()));
    // One ends: there is room for another.
    raw.send(&frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())).await;
    raw.call(7, "/etcdserverpb.KV/Range", b"\x0a\x01k").await;
    assert!(raw.ended(7).await);
    client.put("k", "v", None).await.expect("others are served");
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_counted() {
    let server = start_with(|api| api.max_leases = 3).await;
    let mut client = connect(&server).await;
    let mut last = 0;
    for _ in 0..3 {
        last = client.lease_grant(60, None).await.expect("there is room").id();
    }
    let told = (Code::ResourceExhausted, "etcdserver: too many leases".to_owned());
    assert_eq!(status(client.lease_grant(60, None).await.expect_err("one too many")), told);
    client.lease_keep_alive(last).await.expect("the others go on");
    client.lease_revoke(last).await.expect("revoke");
    client.lease_grant(60, None).await.expect("there is room again");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_take_memory_while_they_are_open() {
    let (server, mut client) = with_memory(MIB).await;
    let mut raw = Raw::connect(server.address, ABUSER).await;
    for number in 0..1000 {
        raw.send(&frame(HEADERS, END_HEADERS, 2 * number + 1, &headers("/etcdserverpb.Watch/Watch"))).await;
    }
    eventually("some are open", async || (server.client_memory)() > 256 << 10).await;
    tokio::time::timeout(Duration::from_secs(60), client.put("k", "v", None))
        .await
        .expect("in time")
        .expect("served");
    let held = (server.client_memory)();
    assert!(held < 640 << 10, "{held} bytes are held");
    drop(raw);
    eventually("nothing is held", async || (server.client_memory)() == 0).await;
}

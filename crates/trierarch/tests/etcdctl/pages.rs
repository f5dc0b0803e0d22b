//! What dashboards, probes and people read over HTTP.

use crate::cluster::Members;
use crate::shared::eventually;

fn value(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in the metrics")).parse().expect("a number")
}

/// Names that alerts and dashboards of etcd are made of.
const NAMES: &[&str] = &[
    "etcd_server_has_leader",
    "etcd_server_is_leader",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_failed_total",
    "etcd_server_proposals_pending",
    "etcd_server_quota_backend_bytes",
    "etcd_server_slow_read_indexes_total",
    "etcd_disk_wal_fsync_duration_seconds_count",
    "etcd_disk_backend_commit_duration_seconds_count",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_network_client_grpc_sent_bytes_total",
    "etcd_debugging_mvcc_watcher_total",
    "process_resident_memory_bytes",
    "process_max_fds",
];

#[test]
fn metrics_have_etcds_names_and_meanings() {
    let members = Members::start_with(3, &["--metrics=extensive"]);
    let cli = members.cli("etcdctl".as_ref());
    let read = |member: usize| members.get(member, "/metrics").1;
    let before = read(0);
    NAMES.iter().for_each(|name| assert!(value(&before, name).is_finite(), "{name}"));
    for n in 0..5 {
        cli.ok(&["put", &format!("k/{n}"), "value"]);
    }
    cli.ok(&["del", "k/0"]);
    cli.ok(&["get", "k/", "--prefix"]);
    for member in 0..3 {
        eventually("every member has applied it", || {
            let text = read(member);
            let puts = value(&text, "etcd_mvcc_put_total");
            (puts == 5.0 && value(&text, "etcd_debugging_mvcc_keys_total") == 4.0).then_some(())
        });
    }
    // Gone are the deleted key and its deletion.
    cli.ok(&["put", "k/0", "again"]);
    cli.ok(&["compact", "8"]);
    eventually("every member has deleted what was compacted", || {
        let deleted = |member| value(&read(member), "etcd_debugging_mvcc_db_compaction_keys_total");
        (0..3).all(|member| deleted(member) == 2.0).then_some(())
    });
    let texts: Vec<String> = (0..3).map(read).collect();
    assert!(value(&texts[0], "etcd_debugging_mvcc_db_compaction_last") > 1.7e9, "{}", texts[0]);
    let sum = |name: &str| texts.iter().map(|text| value(text, name)).sum::<f64>();
    for text in &texts {
        for name in
            ["etcd_network_peer_sent_bytes_total{To=", "etcd_network_peer_round_trip_time_seconds_count{To="]
        {
            let counts = text.lines().filter(|line| line.starts_with(name));
            let counts: Vec<&str> = counts.filter(|line| !line.ends_with(" 0")).collect();
            assert_eq!(counts.len(), 2, "each measures the way to each other one: {counts:?}");
        }
    }
    assert_eq!(sum("etcd_server_is_leader"), 1.0);
    assert_eq!(sum("etcd_server_has_leader"), 3.0);
    assert_eq!(sum("etcd_mvcc_delete_total"), 3.0, "each member deletes");
    let handled = |code: &str, method: &str| {
        format!(
            "grpc_server_handled_total{{grpc_code=\"{code}\",grpc_method=\"{method}\",\
             grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}}"
        )
    };
    assert_eq!(sum(&handled("OK", "Put")), 6.0);
    assert_eq!(sum(&handled("OK", "DeleteRange")), 1.0);
    assert!(sum(&handled("OK", "Range")) >= 1.0);
    assert!(sum("etcd_network_client_grpc_received_bytes_total") > 50.0);
    let all = texts.join("");
    for part in [
        "etcd_server_version{server_version=\"3.7.1\"} 1\n",
        "etcd_server_feature_enabled{name=\"FastLeaseKeepAlive\",stage=\"BETA\"} 1\n",
        "etcd_server_feature_enabled{name=\"CompactHashCheck\",stage=\"ALPHA\"} 0\n",
        "etcd_cluster_version{cluster_version=\"3.7\"} 1\n",
        "etcd_network_peer_sent_bytes_total{To=\"",
        "etcd_network_active_peers{Local=\"",
        "etcd_network_peer_round_trip_time_seconds_count{To=\"",
        "grpc_server_handling_seconds_bucket{",
        "etcd_server_client_requests_total{client_api_version=\"3.",
        "etcd_server_apply_duration_seconds_count{op=\"Put\",success=\"true\",version=\"v3\"} 6\n",
    ] {
        assert!(all.contains(part), "{part} is not in the metrics");
    }
}

#[test]
fn a_watch_that_a_client_leaves_is_counted_as_canceled() {
    let members = Members::start(1);
    let cli = members.cli("etcdctl".as_ref());
    let metrics = || members.get(0, "/metrics").1;
    cli.ok(&["put", "w", "x"]);
    cli.lines(&["watch", "w", "--rev=1"], 3, || {});
    let name = "grpc_server_handled_total{grpc_code=\"Canceled\",grpc_method=\"Watch\",\
                grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"}";
    eventually("it is counted", || (value(&metrics(), name) == 1.0).then_some(()));
    eventually("it is gone", || {
        (value(&metrics(), "etcd_debugging_mvcc_watcher_total") == 0.0).then_some(())
    });
    assert!(value(&metrics(), "etcd_debugging_mvcc_events_total") >= 1.0);
}

#[test]
fn probes_are_answered_as_etcd_answers_them() {
    let members = Members::start(1);
    let cli = members.cli("etcdctl".as_ref());
    let get = |path: &str| members.get(0, path);
    let well = || (200, "{\"health\":\"true\",\"reason\":\"\"}".to_owned());
    assert_eq!(get("/health"), well());
    assert_eq!(get("/livez"), (200, "ok\n".to_owned()));
    assert_eq!(get("/livez?verbose"), (200, "[+]serializable_read ok\nok\n".to_owned()));
    let all =
        "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n";
    assert_eq!(get("/readyz?verbose"), (200, all.to_owned()));
    assert_eq!(get("/readyz/linearizable_read"), (200, "ok\n".to_owned()));
    assert_eq!(get("/readyz/nothing").0, 404);
    assert_eq!(
        get("/version").1,
        "{\"etcdserver\":\"3.7.1\",\"etcdcluster\":\"3.7.0\",\"storage\":\"3.7.0\"}"
    );
    let raise = |kind: &str| {
        let body = format!("{{\"action\":\"ACTIVATE\",\"alarm\":\"{kind}\",\"memberID\":\"1\"}}");
        assert_eq!(members.post(0, "/v3/maintenance/alarm", &body).0, 200);
    };
    raise("NOSPACE");
    assert_eq!(get("/health"), (503, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n".to_owned()));
    assert_eq!(get("/health?exclude=NOSPACE"), well());
    assert_eq!(get("/readyz").0, 200, "a full store still serves");
    raise("CORRUPT");
    assert_eq!(get("/health?exclude=NOSPACE").1, "{\"health\":\"false\",\"reason\":\"ALARM CORRUPT\"}\n");
    let (code, text) = get("/readyz");
    assert!(code == 503 && text.contains("[-]data_corruption failed: alarm activated: CORRUPT\n"), "{text}");
    assert_eq!(get("/readyz?exclude=data_corruption").0, 200);
    assert_eq!(get("/livez").0, 200);
    assert!(cli.ok(&["alarm", "disarm"]).contains("alarm:CORRUPT"));
    assert_eq!(get("/health"), well());
}

#[test]
fn leases_are_listed_without_a_quorum_too() {
    let mut members = Members::start(3);
    let granted = members.post(0, "/v3/lease/grant", r#"{"TTL": 3600, "ID": 77}"#);
    assert_eq!(granted.0, 200, "{}", granted.1);
    // Whoever is asked shows it, before there is nobody to confirm that.
    assert!(members.post(2, "/v3/lease/leases", "{}").1.contains(r#""ID":"77""#));
    members.kill(0);
    members.kill(1);
    let (code, text) = members.post(2, "/v3/lease/leases", "{}");
    assert_eq!(code, 200, "{text}");
    assert!(text.contains(r#""ID":"77""#), "{text}");
}

#[test]
fn slow_requests_and_the_start_are_told_in_the_log() {
    let members = Members::start_with(1, &["--warning-unary-request-duration=1us"]);
    let cli = members.cli("etcdctl".as_ref());
    cli.ok(&["put", "k", "secret"]);
    let told = eventually("it is told", || {
        let log = members.log(0);
        log.lines().find(|line| line.contains("request stats") && line.contains("KV/Put")).map(str::to_owned)
    });
    let line: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(line["level"], "warn");
    assert_eq!(line["request content"], "key:\"k\" value_size:6");
    assert!(!told.contains("secret"), "values stay out of logs");
    for line in members.log(0).lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line} is JSON"));
        assert_ne!(line["level"], "error", "{line}");
    }
    assert!(members.log(0).contains("\"snapshot-catchup-entries\":5000"));
    assert!(members.log(0).contains("serving client traffic insecurely"));
}

#[test]
fn a_gateway_and_a_proxy_pass_calls_on() {
    let members = Members::start(1);
    for (kind, word) in [("gateway", "ready to proxy client requests"), ("grpc-proxy", "started gRPC proxy")]
    {
        let front = members.front(kind, word);
        let cli = members.cli("etcdctl".as_ref()).at(std::slice::from_ref(&front.endpoint));
        cli.ok(&["put", kind, "through"]);
        assert_eq!(cli.ok(&["get", kind, "--print-value-only"]), "through\n");
        let lines = cli.lines(&["watch", kind, "--rev=1"], 3, || {});
        assert_eq!(lines, ["PUT", kind, "through"]);
    }
}

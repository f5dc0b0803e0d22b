//! The proxy's rules in the kernel, in a network namespace that ends with the test. Needs root and nft.

use std::collections::BTreeSet;
use std::process::Command;

use node_agent::proxy::ruleset::{Ruleset, ruleset, script};
use serde_json::{Value, json};

fn rules(affinity: &str, endpoints: &[&str]) -> Ruleset {
    let service = json!({"metadata": {"namespace": "n", "name": "s"}, "spec": {"clusterIP": "10.96.0.5",
        "clusterIPs": ["10.96.0.5"], "sessionAffinity": affinity, "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]}});
    let endpoints: Vec<Value> =
        endpoints.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
    let slice = json!({"metadata": {"namespace": "n", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "ports": [{"port": 8080, "protocol": "TCP"}], "endpoints": endpoints});
    let networks = BTreeSet::from(["10.1.0.0/24".parse().expect("a network")]);
    ruleset(&[&service], &[&slice], networks)
}

#[test]
#[ignore = "needs root and nftables: make test-all"]
fn connections_are_spread_moved_and_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let both = ["10.1.0.2", "10.1.0.3"];
    let (none, one, two) = (rules("None", &[]), rules("None", &["10.1.0.3"]), rules("None", &both));
    let sticky = rules("ClientIP", &both);
    let steps = [
        script(None, &two),
        script(Some(&two), &one),
        script(Some(&one), &none),
        script(Some(&none), &two),
        script(None, &one),
        script(Some(&one), &sticky),
    ];
    for (number, step) in steps.iter().enumerate() {
        std::fs::write(folder.path().join(format!("step{number}")), step).expect("written");
    }
    let commands = r#"
        set -e
        cd "$1"
        ip link set lo up; ip addr add 10.99.0.2/24 dev lo
        ip link add o0 type veth peer name o1; ip addr add 10.98.0.2/24 dev o0; ip link set o0 up; ip link set o1 up
        ip route add default via 10.98.0.1
        for i in 2 3; do
            ip addr add 10.1.0.$i/32 dev lo; mkdir -p w$i; echo $i >w$i/index.html
            busybox httpd -f -p 10.1.0.$i:8080 -h w$i & echo $! >>pids
        done
        trap 'kill $(cat pids)' EXIT
        for i in $(seq 50); do busybox wget -q -O - http://10.1.0.3:8080/ >/dev/null 2>&1 && break; sleep 0.1; done
        ask() { for i in $(seq 30); do timeout 2 busybox wget -q -O - "http://$1/" 2>/dev/null || echo none; done | sort -u | tr '\n' ' '; }
        for n in 0 1 2 3 4; do
            nft -f step$n; start=$(date +%s)
            echo "$n: $(ask 10.96.0.5)/ $(ask 10.98.0.2:30080)"
            [ $(($(date +%s) - start)) -lt 10 ] || echo slow
        done
        busybox httpd -f -p 10.98.0.2:81 -h w2 & echo $! >>pids
        start=$(date +%s%N); ask 10.96.0.5:81 >other
        echo "other port: $(cat other), slow: $(($(date +%s%N) - start > 15000000000))"
        nft -f step5
        for i in $(seq 20 35); do
            ip addr add 10.98.0.$i/24 dev o0; ip route replace 10.96.0.5 via 10.98.0.1 src 10.98.0.$i
            ask 10.96.0.5 | tr ' ' '\n'
        done >answers
        echo "5: $(grep -c . answers) answers: $(sort -u answers | xargs)/ $(ask 10.98.0.2:30080 | wc -w)"
    "#;
    let output = Command::new("unshare")
        .args(["-n", "sh", "-c", commands, "sh"])
        .arg(folder.path())
        .output()
        .expect("unshare: run scripts/node-deps");
    let seen = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let expected = "0: 2 3 / 2 3 \n1: 3 / 3 \n2: none / none \n3: 2 3 / 2 3 \n4: 3 / 3 \n\
        other port: none , slow: 0\n\
        5: 16 answers: 2 3/ 1\n";
    assert_eq!(seen, expected, "{errors}");
}

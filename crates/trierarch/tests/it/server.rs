//! A master as its flags make it, without the rest of a cluster.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::{Process, outcome, program, tools};
use crate::shared::eventually;

/// A master of its own, with its keys; it ends when it is dropped.
struct Master {
    process: Option<Process>,
    client: u16,
    api: u16,
    peer: u16,
    folder: TempDir,
}

impl Master {
    fn new(pki: &[&str]) -> Self {
        let [client, api, peer] = [(); 3].map(|()| env::ports::free());
        let master = Self { process: None, client, api, peer, folder: tempfile::tempdir().expect("folder") };
        let server = format!("m1=https://127.0.0.1:{api}");
        let (good, text) =
            outcome(program().args(["pki", "--master", &server, "--dir"]).arg(master.pki("")).args(pki));
        assert!(good, "{text}");
        master
    }

    fn pki(&self, file: &str) -> PathBuf {
        self.folder.path().join("pki").join(file)
    }

    fn command(&self, flags: &[&str]) -> Command {
        let peer = format!("https://127.0.0.1:{}", self.peer);
        let mut command = program();
        command.args([
            "server",
            "--name=m1",
            "--listen-peer-url",
            &peer,
            "--initial-cluster",
            &format!("m1={peer}"),
        ]);
        command.args(["--listen-client-url", &format!("https://127.0.0.1:{}", self.client)]);
        command.args(["--bind", &format!("127.0.0.1:{}", self.api)]);
        command.arg("--data-dir").arg(self.folder.path().join("data")).args(flags);
        command
    }

    fn start(&mut self, flags: &[&str]) {
        let mut command = self.command(flags);
        command.arg("--pki-dir").arg(self.pki("")).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(Process(command.spawn().expect("start")));
        eventually("the master is ready", || (self.kubectl("get --raw /readyz").1 == "ok").then_some(()));
    }

    fn kubectl(&self, line: &str) -> (bool, String) {
        let mut command = Command::new(tools().join("kubectl"));
        command.env("HOME", self.folder.path()).arg("--kubeconfig").arg(self.pki("kubeconfig"));
        outcome(command.args(line.split(' ')))
    }

    fn etcdctl(&self, certificates: &[(&str, &str)], line: &str) -> (bool, String) {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &format!("https://127.0.0.1:{}", self.client)]);
        for (flag, file) in certificates {
            command.arg(flag).arg(self.pki(file));
        }
        outcome(command.arg("--command-timeout=2s").args(line.split(' ')))
    }
}

const KNOWN: [(&str, &str); 3] =
    [("--cacert", "etcd/ca.crt"), ("--cert", "etcd/client.crt"), ("--key", "etcd/client.key")];

/// Who writes to a master's store writes Kubernetes objects past every check: with https nobody does without a certificate.
#[test]
fn the_store_of_a_master_asks_for_certificates() {
    let mut master = Master::new(&[]);
    let (good, text) = outcome(&mut master.command(&[]));
    assert!(!good && text.contains("with https needs --pki-dir"), "{text}");
    master.start(&[]);
    let line = "get --prefix /registry/namespaces/default --keys-only";
    let (good, text) = master.etcdctl(&KNOWN, line);
    assert!(good && text.trim() == "/registry/namespaces/default", "{text}");
    let (good, text) = master.etcdctl(&KNOWN[..1], line);
    assert!(!good, "without a certificate: {text}");
    let kubelet = ["crt", "key"].map(|extension| format!("apiserver-kubelet-client.{extension}"));
    let other = [KNOWN[0], ("--cert", &kubelet[0]), ("--key", &kubelet[1])];
    let (good, text) = master.etcdctl(&other, line);
    assert!(!good, "of the API's authority: {text}");
}

#[test]
fn services_and_events_are_as_the_flags_say() {
    let mut master = Master::new(&["--service-cluster-ip-range=10.43.0.0/16"]);
    for (flags, words) in [
        (&["--service-cluster-ip-range=fd00::/108"][..], "IPv6"),
        (&["--service-node-port-range=2-1"], "no range of ports"),
        (&["--max-requests-inflight=-1"], "invalid value"),
    ] {
        let (good, text) = outcome(&mut master.command(flags));
        assert!(!good && text.contains(words), "{flags:?}: {text}");
    }
    master.start(&[
        "--service-cluster-ip-range=10.43.0.0/16",
        "--service-node-port-range=31000+1",
        "--event-ttl=2h",
        "--max-requests-inflight=100",
        "--max-mutating-requests-inflight=50",
    ]);
    let shows = |line: &str| {
        let (good, text) = master.kubectl(line);
        assert!(good, "{line}: {text}");
        text
    };
    // The first address is in the certificate, the others are given out.
    assert_eq!(shows("get service kubernetes -o jsonpath={.spec.clusterIP}"), "10.43.0.1");
    let (good, text) = outcome(
        Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(master.pki("apiserver-m1.crt")),
    );
    assert!(good && text.contains("IP Address:10.43.0.1"), "{text}");
    shows("create service nodeport one --tcp=80");
    let one: Value = serde_json::from_str(&shows("get service one -o json")).expect("JSON");
    assert!(one["spec"]["clusterIP"].as_str().is_some_and(|ip| ip.starts_with("10.43.")), "{one}");
    shows("create service nodeport two --tcp=80");
    let (good, text) = master.kubectl("create service nodeport three --tcp=80");
    assert!(!good && text.contains("range is full"), "both ports are taken: {text}");

    let event = master.folder.path().join("event.yaml");
    let manifest = "{apiVersion: v1, kind: Event, metadata: {name: e}, involvedObject: {namespace: default}}";
    std::fs::write(&event, manifest).expect("written");
    shows(&format!("create -f {}", event.display()));
    let key = "/registry/events/default/e";
    let (_, found) = master.etcdctl(&KNOWN, &format!("get {key} -w json"));
    let found: Value = serde_json::from_str(&found).expect("JSON");
    let lease = found["kvs"][0]["lease"].as_i64().expect("a lease");
    let (_, text) = master.etcdctl(&KNOWN, &format!("lease timetolive {lease:x}"));
    assert!(text.contains("granted with TTL(7260s)"), "{text}");
    let limits = shows("get --raw /metrics");
    let limit = |line: &&str| line.starts_with("apiserver_flowcontrol_nominal_limit_seats");
    let seats: f64 =
        limits.lines().filter(limit).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
    // Each level's part is rounded up.
    assert!((150.0..165.0).contains(&seats), "{seats}");
}

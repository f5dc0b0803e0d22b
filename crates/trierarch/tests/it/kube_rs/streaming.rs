//! Streams to containers over WebSockets: exec, attach, port-forward, logs. For a cluster with the pods of
//! `streams.rs`.

use futures::AsyncBufReadExt as _;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, AttachParams, AttachedProcess, LogParams};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

/// Runs the streams of one client.
pub async fn play(client: Client, pod: &str) {
    let pods: Api<Pod> = Api::namespaced(client, "t");
    exec(&pods, pod).await;
    attach(&pods).await;
    forwards(&pods, pod).await;
}

async fn exec(pods: &Api<Pod>, pod: &str) {
    let script = "cat; echo wrong >&2; exit 3";
    let params = AttachParams::default().stdin(true).stderr(true);
    let mut process = pods.exec(pod, ["sh", "-c", script], &params).await.expect("exec");
    let input: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let (mut out, mut err) = (Vec::new(), String::new());
    let mut stdin = process.stdin().expect("input");
    let (mut stdout, mut stderr) = (process.stdout().expect("output"), process.stderr().expect("errors"));
    let write = async {
        stdin.write_all(&input).await.expect("written");
        stdin.shutdown().await.expect("ended");
    };
    let ((), out_read, err_read) =
        tokio::join!(write, stdout.read_to_end(&mut out), stderr.read_to_string(&mut err));
    out_read.expect("read");
    err_read.expect("read");
    assert!(out == input, "{} bytes came back", out.len());
    assert_eq!(err, "wrong\n");
    let status = process.take_status().expect("a status").await.expect("a status");
    assert_eq!(
        (status.status.as_deref(), status.reason.as_deref()),
        (Some("Failure"), Some("NonZeroExitCode"))
    );
    process.join().await.expect("it ends well");
}

async fn attach(pods: &Api<Pod>) {
    let params = AttachParams::default().stdin(true).stderr(false).container("c");
    let mut process: AttachedProcess = pods.attach("talks", &params).await.expect("attach");
    let mut stdin = process.stdin().expect("input");
    let mut lines = BufReader::new(process.stdout().expect("output")).lines();
    stdin.write_all(b"kube-rs\n").await.expect("written");
    let heard = lines.next_line().await.expect("read").expect("a line");
    assert_eq!(heard, "heard kube-rs");
    process.abort();
    let log =
        pods.log_stream("talks", &LogParams { follow: true, ..LogParams::default() }).await.expect("logs");
    let mut lines = log.lines();
    loop {
        let line = lines.next().await.expect("it goes on").expect("a line");
        if line == "heard kube-rs" {
            return;
        }
    }
}

async fn forwards(pods: &Api<Pod>, pod: &str) {
    let mut forwarder = pods.portforward(pod, &[8080, 9]).await.expect("port-forward");
    let mut stream = forwarder.take_stream(8080).expect("a stream");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.ends_with(&format!("{pod}\n")), "{answer}");
    let error = forwarder.take_error(9).expect("errors").await.expect("nobody listens there");
    assert!(error.contains("9"), "{error}");
    forwarder.abort();
}

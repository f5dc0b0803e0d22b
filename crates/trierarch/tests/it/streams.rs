//! `kubectl exec`, `cp`, `attach`, `port-forward` and proxies, with real containers, from any master to any node.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::cluster::{Cluster, IMAGE};
use crate::shared::eventually;

const MANIFEST: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: t, labels: {app: web}}
spec:
  nodeName: n1
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: IMAGE
    command: ["/bin/sh", "-c", "mkdir -p /w/sub && hostname > /w/index.html && echo below > /w/sub/page && exec httpd -f -p 8080 -h /w"]
    ports: [{name: http, containerPort: 8080}]
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: web-2, namespace: t, labels: {app: web}}
spec:
  nodeName: n2
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: IMAGE
    command: ["/bin/sh", "-c", "mkdir -p /w/sub && hostname > /w/index.html && echo below > /w/sub/page && exec httpd -f -p 8080 -h /w"]
    ports: [{name: http, containerPort: 8080}]
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: t}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: talks, namespace: t}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: IMAGE, stdin: true, command: ["/bin/sh", "-c", "while read line; do echo heard $line; done; sleep 1000"]}
"#;

/// How kubectl may speak: its first choice, and what is left when that is taken from it.
const PROTOCOLS: [(&str, bool); 2] = [("WebSocket", true), ("SPDY", false)];

fn kubectl(cluster: &Cluster, master: &str, websocket: bool) -> Command {
    let mut command = Command::new(crate::cluster::tools().join("kubectl"));
    command.env("KUBECONFIG", cluster.file("kubeconfig"));
    command.env("HOME", cluster.file("")).args(["--context", &format!("trierarch-{master}"), "-n", "t"]);
    for feature in ["REMOTE_COMMAND_WEBSOCKETS", "PORT_FORWARD_WEBSOCKETS"] {
        command.env(format!("KUBECTL_{feature}"), websocket.to_string());
    }
    command
}

/// Runs kubectl with something on its standard input: exit code, output, errors.
fn run(command: &mut Command, input: &[u8]) -> (i32, Vec<u8>, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    // It may end before it has read all.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("a thread");
    (output.status.code().unwrap_or(-1), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
#[ignore = "needs root, containerd and nftables: make test-all"]
fn streams_and_proxies_reach_every_node_from_every_master() {
    let cluster = Cluster::up(&["--fabric=10.91.8"]);
    cluster.kubectl("create namespace t");
    cluster.apply(&MANIFEST.replace("IMAGE", IMAGE));
    let pods = ["web-1", "web-2"];
    for pod in pods.iter().chain(&["talks"]) {
        cluster.kubectl(&format!("-n t wait --for=condition=Ready pod/{pod} --timeout=120s"));
    }
    for master in ["m1", "m2", "m3"] {
        for pod in pods {
            for (protocol, websocket) in PROTOCOLS {
                let what = format!("{protocol} from {master} to {pod}");
                exec(&|| kubectl(&cluster, master, websocket), pod, &what);
            }
            proxies(&cluster, master, pod);
        }
    }
    for (_, websocket) in PROTOCOLS {
        let command = || kubectl(&cluster, "m2", websocket);
        copies(&cluster, &command, pods[0]);
        terminal(&cluster, websocket, pods[1]);
        attach(&command);
        forwards(&command, pods[1]);
    }
    debugs(&cluster, pods[0]);
    kube_rs(&cluster, pods[0]);
    services(&cluster, &pods);
    errors(&cluster, pods[0]);
}

fn exec(command: &dyn Fn() -> Command, pod: &str, what: &str) {
    let sh = |script: &str, input: &[u8], flags: &[&str]| {
        let mut command = command();
        run(command.arg("exec").args(flags).arg(pod).args(["--", "sh", "-c", script]), input)
    };
    let (code, out, err) = sh("hostname; echo wrong >&2; exit 7", b"", &[]);
    assert_eq!((code, out.as_slice()), (7, format!("{pod}\n").as_bytes()), "{what}: {err}");
    assert!(err.contains("wrong\n") && err.contains("exit code 7"), "{what}: {err}");
    // The command ends because its input does.
    let input: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
    let (code, out, err) = sh("cat", &input, &["-i"]);
    assert!(code == 0 && out == input, "{what}: {code}, {} bytes came back, {err}", out.len());
    let (code, out, err) = sh("cat | wc -c", b"", &["-i"]);
    assert_eq!((code, String::from_utf8_lossy(&out).trim()), (0, "0"), "{what}: {err}");
    // Input that nobody reads holds nothing up, as long as it fits a pipe: containerd 1.6 waits for the rest for ever.
    let (code, out, err) = sh("echo done", &input[..32 << 10], &["-i"]);
    assert_eq!((code, out.as_slice()), (0, &b"done\n"[..]), "{what}: {err}");
}

fn copies(cluster: &Cluster, command: &dyn Fn() -> Command, pod: &str) {
    let folder = cluster.file("copied");
    std::fs::create_dir_all(&folder).expect("a folder");
    let (there, back) = (folder.join("there"), folder.join("back"));
    let content: Vec<u8> = (0..250).cycle().take(1 << 20).collect();
    std::fs::write(&there, &content).expect("written");
    let cp = |from: &str, to: &str| {
        let (code, _, err) = run(command().args(["cp", from, to]), b"");
        assert_eq!(code, 0, "cp {from} {to}: {err}");
    };
    cp(&there.display().to_string(), &format!("{pod}:/tmp/x"));
    cp(&format!("{pod}:/tmp/x"), &back.display().to_string());
    assert!(std::fs::read(&back).expect("read") == content);
    std::fs::remove_file(&back).expect("removed");
}

/// Waits in a container for the size of the window.
const SIZE: &str = r#"i=0; while [ "$(busybox stty size)" != "33 99" ]; do i=$((i+1)); [ $i -gt 600 ] && exit 6; sleep 0.1; done; busybox tty; exit 5"#;

/// A terminal, which `script` gives kubectl; the window's size arrives.
fn terminal(cluster: &Cluster, websocket: bool, pod: &str) {
    let kubectl = crate::cluster::tools().join("kubectl");
    let line = format!(
        "stty rows 33 cols 99; {} --kubeconfig {} -n t exec -it {pod} -- sh -c '{SIZE}'",
        kubectl.display(),
        cluster.file("kubeconfig").display()
    );
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null());
    command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websocket.to_string());
    let output = command.output().expect("script runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("/dev/pts/"), "{text}");
    assert_eq!(output.status.code(), Some(5), "{text}");
}

fn attach(command: &dyn Fn() -> Command) {
    let mut child = command()
        .args(["attach", "-i", "talks", "-c", "c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("kubectl runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    stdin.write_all(b"you\n").expect("written");
    let heard = lines.next().expect("a line").expect("a line");
    assert_eq!(heard, "heard you");
    child.kill().expect("killed");
    child.wait().expect("it ends");
}

struct Forward(Child);

impl Drop for Forward {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn forwards(command: &dyn Fn() -> Command, pod: &str) {
    let mut child = command()
        .args(["port-forward", &format!("pod/{pod}"), ":8080"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let _forward = Forward(child);
    let first = lines.next().expect("a line").expect("a line");
    let port: u16 = first
        .split("127.0.0.1:")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .expect(&first)
        .parse()
        .expect("a port");
    // Several at once, and one after the other.
    for _ in 0..3 {
        let get = |_| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("written");
            stream
        };
        let streams: Vec<TcpStream> = (0..4).map(get).collect();
        for mut stream in streams {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            assert!(answer.ends_with(&format!("{pod}\n")), "{answer}");
        }
    }
}

fn proxies(cluster: &Cluster, master: &str, pod: &str) {
    let raw = |path: &str| cluster.kubectl(&format!("--context trierarch-{master} get --raw {path}"));
    let pods = "/api/v1/namespaces/t/pods";
    assert_eq!(raw(&format!("{pods}/{pod}:8080/proxy/")), format!("{pod}\n"));
    assert_eq!(raw(&format!("{pods}/http:{pod}:8080/proxy/sub/page")), "below\n");
    let node = cluster.kubectl(&format!("-n t get pod {pod} -o jsonpath={{.spec.nodeName}}"));
    assert!(raw(&format!("/api/v1/nodes/{node}/proxy/metrics")).contains("kubelet_running_pods"));
    assert!(raw(&format!("/api/v1/nodes/{node}:10250/proxy/pods")).contains(pod));
}

/// A container that is added to a pod sees the processes of the one that it looks at.
fn debugs(cluster: &Cluster, pod: &str) {
    let line = format!(
        "-n t debug {pod} --image={IMAGE} --image-pull-policy=IfNotPresent --target=c -c look -- sh -c"
    );
    let words: Vec<&str> = line.split(' ').chain(["ps -o args; exec sleep 1000"]).collect();
    let mut command = Command::new(crate::cluster::tools().join("kubectl"));
    command.env("KUBECONFIG", cluster.file("kubeconfig")).args(words);
    let (code, _, err) = run(&mut command, b"");
    assert_eq!(code, 0, "{err}");
    eventually("the processes of the other container", || {
        let (good, text) = cluster.try_kubectl(&format!("-n t logs {pod} -c look"));
        (good && text.contains("httpd -f -p 8080")).then_some(())
    });
    assert_eq!(cluster.kubectl(&format!("-n t exec {pod} -c look -- hostname")), format!("{pod}\n"));
}

fn kube_rs(cluster: &Cluster, pod: &str) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let play = async {
        let client = crate::kube_rs::client(cluster, "m3").await;
        crate::kube_rs::streaming::play(client, pod).await;
    };
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(120), play).await }).expect("in time");
}

fn services(cluster: &Cluster, pods: &[&str]) {
    let mut missing: Vec<&str> = pods.to_vec();
    eventually("an answer of every pod", || {
        for name in ["web:http", "web:80", "http:web:80"] {
            let path = format!("get --raw /api/v1/namespaces/t/services/{name}/proxy/");
            let answer = cluster.kubectl(&path);
            missing.retain(|pod| answer.trim() != *pod);
        }
        missing.is_empty().then_some(())
    });
}

fn errors(cluster: &Cluster, pod: &str) {
    let fails = |arguments: &str, wanted: &str| {
        let (good, text) = cluster.try_kubectl(&format!("-n t {arguments}"));
        assert!(!good && text.contains(wanted), "{arguments}: {text}");
    };
    fails(&format!("exec {pod} -- /bin/none"), "no such file or directory");
    fails(&format!("exec {pod} -c other -- true"), "container other is not valid for pod");
    fails("exec none -- true", "pods \"none\" not found");
    fails(&format!("get --raw /api/v1/namespaces/t/pods/{pod}:9/proxy/"), "error trying to reach service");
}

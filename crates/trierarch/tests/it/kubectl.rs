//! What people type: the verbs of `kubectl`, against a cluster of simulated nodes.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::cluster::{Cluster, IMAGE, outcome, tools};
use crate::shared::eventually;

/// A user in a namespace.
struct User<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
    /// What did not go as it should: one run tells everything.
    faults: RefCell<Vec<String>>,
}

/// A namespace, and what is done in it.
type Part = (&'static str, fn(&User<'_>));

/// Splits a line at blanks, but not between single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            other => words.last_mut().expect("a word").push(other),
        }
    }
    words
}

impl<'a> User<'a> {
    fn new(cluster: &'a Cluster, namespace: &'a str) -> Self {
        cluster.kubectl(&format!("create namespace {namespace}"));
        let user = Self { cluster, namespace, faults: RefCell::default() };
        user.until("get serviceaccount default -o name", "serviceaccount/default");
        user
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(tools().join("kubectl"));
        command.env("KUBECONFIG", self.cluster.file("kubeconfig")).env("HOME", self.cluster.file(""));
        command.args(["-n", self.namespace]).args(words(&line.replace("IMAGE", IMAGE)));
        command
    }

    fn expect(&self, line: &str, succeeds: bool, wanted: &str) -> String {
        let (good, text) = outcome(&mut self.command(line));
        if good != succeeds || !text.contains(wanted) {
            let ended = if good { "succeeded" } else { "failed" };
            self.faults.borrow_mut().push(format!("kubectl {line} {ended}; {wanted:?} is expected: {text}"));
        }
        text
    }

    /// What a command prints that must succeed and say something.
    fn does(&self, line: &str, wanted: &str) -> String {
        self.expect(line, true, wanted)
    }

    /// What a command prints that must fail and say something.
    fn fails(&self, line: &str, wanted: &str) -> String {
        self.expect(line, false, wanted)
    }

    fn until(&self, line: &str, wanted: &str) {
        eventually(&format!("kubectl {line}: {wanted:?}"), || {
            outcome(&mut self.command(line)).1.contains(wanted).then_some(())
        });
    }

    /// A file with a manifest, and its name.
    fn file(&self, name: &str, text: &str) -> String {
        let folder = self.cluster.file(&format!("files-{}", self.namespace));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path: PathBuf = folder.join(name);
        std::fs::write(&path, text.replace("IMAGE", IMAGE)).expect("written");
        path.display().to_string()
    }
}

#[test]
fn the_verbs_of_kubectl_do_what_they_say() {
    let cluster = Cluster::up(&["--simulated"]);
    let parts: [Part; 8] = [
        ("k-explain", explains),
        ("k-apply", applies),
        ("k-roll", rolls),
        ("k-patch", patches),
        ("k-auth", authorizes),
        ("k-make", makes),
        ("k-look", looks),
        ("k-nodes", nodes),
    ];
    let mut faults = Vec::new();
    for (namespace, play) in parts {
        let user = User::new(&cluster, namespace);
        play(&user);
        faults.append(&mut user.faults.borrow_mut());
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn explains(user: &User<'_>) {
    user.does("explain pod.spec.containers --recursive", "terminationMessagePolicy");
    user.does("explain deployment --api-version=apps/v1", "GROUP:      apps");
    user.does("explain hpa.spec.metrics --recursive", "containerResource");
    user.does("explain pods.spec.nodeName --output=plaintext-openapiv2", "nodeName");
    user.does("explain crd.spec.versions.schema.openAPIV3Schema.x-kubernetes-validations", "ValidationRule");
    user.fails("explain pods.spec.none", "field \"none\" does not exist");
    user.does("api-resources --verbs=list,watch -o name", "leases.coordination.k8s.io");
    user.does(
        "api-resources --namespaced=false --api-group=rbac.authorization.k8s.io -o wide",
        "ClusterRole",
    );
    user.does("api-resources --categories=all -o name", "deployments.apps");
    user.does("api-versions", "apps/v1");
    user.does("version -o yaml", "gitVersion: v1.37");
    user.does("cluster-info", "is running at");
}

const MAP: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: NAME, labels: {set: one}}\ndata: {k: 'VALUE'}\n";

fn map(name: &str, value: &str) -> String {
    MAP.replace("NAME", name).replace("VALUE", value)
}

fn applies(user: &User<'_>) {
    let first = user.file("a.yaml", &map("a", "1"));
    user.does(&format!("apply -f {first}"), "configmap/a created");
    user.does(&format!("apply -f {first}"), "configmap/a unchanged");
    user.does(&format!("diff -f {first}"), "");
    let second = user.file("a2.yaml", &map("a", "2"));
    user.fails(&format!("diff -f {second}"), "+  k: \"2\"");
    user.fails(&format!("diff --server-side --force-conflicts -f {second}"), "+  k: \"2\"");
    user.does(&format!("apply --dry-run=server -f {second}"), "configmap/a configured (server dry run)");
    user.does("get cm a -o jsonpath={.data.k}", "1");
    user.does(
        &format!("apply --server-side --field-manager=one -f {second} --force-conflicts"),
        "serverside-applied",
    );
    user.fails(
        &format!("apply --server-side --field-manager=two -f {first}"),
        "conflict with \"one\": .data.k",
    );
    user.does(
        &format!("apply --server-side --field-manager=two --force-conflicts -f {first}"),
        "serverside-applied",
    );
    user.does("get cm a -o yaml --show-managed-fields", "manager: two");
    let third = user.file("b.yaml", &format!("{}---\n{}", map("b", "1"), map("c", "1")));
    user.does(&format!("apply -f {third}"), "configmap/c created");
    user.does("apply view-last-applied cm/b", "k: \"1\"");
    user.does(
        &format!("apply set-last-applied -f {} --create-annotation", user.file("b2.yaml", &map("b", "1"))),
        "configmap/b",
    );
    let rest = user.file("b3.yaml", &map("b", "3"));
    let pruned = user.does(
        &format!("apply --prune -l set=one --prune-allowlist=core/v1/ConfigMap -f {rest}"),
        "configmap/b configured",
    );
    assert!(pruned.contains("configmap/c pruned"), "{pruned}");
    apply_sets(user);
    kustomize(user);
    user.does(&format!("replace -f {}", user.file("b4.yaml", &map("b", "4"))), "configmap/b replaced");
    let before = user.does("get cm b -o jsonpath={.metadata.uid}", "-");
    user.does(&format!("replace --force -f {rest}"), "configmap/b replaced");
    assert_ne!(user.does("get cm b -o jsonpath={.metadata.uid}", "-"), before);
    user.fails(&format!("replace -f {}", user.file("n.yaml", &map("none", "4"))), "NotFound");
    let mut edited = user.command("edit cm b");
    edited.env("EDITOR", "sed -i 's/k: \"3\"/k: \"5\"/'");
    let (good, text) = outcome(&mut edited);
    assert!(good && text.contains("configmap/b edited"), "{text}");
    user.does("get cm b -o jsonpath={.data.k}", "5");
    user.fails(&format!("create -f {rest}"), "AlreadyExists");
    let wrong = user.file("w.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: w}\ndatta: {}\n");
    user.fails(&format!("create -f {wrong}"), "unknown field \"datta\"");
    user.does(&format!("create --validate=warn -f {wrong}"), "unknown field \"datta\"");
    user.does(&format!("delete -f {wrong}"), "deleted");
    user.does("delete cm -l set=one --wait=true", "configmap \"b\" deleted");
}

/// Pruning by what belongs to a set.
fn apply_sets(user: &User<'_>) {
    let apply = |file: &str| {
        let mut command = user.command(&format!("apply --prune --applyset=configmaps/set -f {file}"));
        let (good, text) = outcome(command.env("KUBECTL_APPLYSET", "true"));
        assert!(good, "{text}");
        text
    };
    apply(&user.file("s.yaml", &format!("{}---\n{}", map("s1", "1"), map("s2", "1"))));
    let text = apply(&user.file("s2.yaml", &map("s1", "1")));
    assert!(text.contains("configmap/s2 pruned"), "{text}");
}

fn kustomize(user: &User<'_>) {
    let file = user.file(
        "kustomization.yaml",
        "resources: [a.yaml]\nnamePrefix: kus-\nconfigMapGenerator: [{name: gen, literals: [x=y]}]\n",
    );
    let folder = file.trim_end_matches("/kustomization.yaml");
    user.does(&format!("kustomize {folder}"), "name: kus-a");
    user.does(&format!("apply -k {folder}"), "configmap/kus-a created");
    user.does(&format!("delete -k {folder}"), "deleted");
}

fn rolls(user: &User<'_>) {
    user.does("create deployment web --image=IMAGE --replicas=2", "created");
    user.does("wait --for=condition=Available deploy/web --timeout=60s", "condition met");
    user.does("wait --for=jsonpath='{.status.readyReplicas}'=2 deploy/web --timeout=60s", "condition met");
    user.does("rollout status deploy/web --timeout=60s", "successfully rolled out");
    user.does("annotate deploy web kubernetes.io/change-cause=first", "annotated");
    user.does("set env deploy/web COLOR=red", "env updated");
    user.does("rollout status deploy/web --timeout=60s", "successfully rolled out");
    user.does("annotate deploy web kubernetes.io/change-cause=second --overwrite", "annotated");
    user.until("rollout history deploy/web", "second");
    user.does("rollout history deploy/web --revision=2", "COLOR");
    user.does("rollout undo deploy/web --to-revision=1", "rolled back");
    user.does("rollout status deploy/web --timeout=60s", "successfully rolled out");
    user.does("get deploy web -o jsonpath='{.spec.template.spec.containers[0].env}x'", "x");
    user.does("rollout restart deploy/web", "restarted");
    user.does("rollout status deploy/web --timeout=60s", "successfully rolled out");
    user.does("rollout pause deploy/web", "paused");
    user.fails("rollout restart deploy/web", "paused");
    user.does("set image deploy/web busybox=other", "image updated");
    user.does(
        "set resources deploy/web --limits=cpu=100m,memory=64Mi --requests=cpu=1m",
        "resource requirements updated",
    );
    user.does("set serviceaccount deploy/web default", "serviceaccount updated");
    user.does("rollout resume deploy/web", "resumed");
    user.does("scale deploy/web --replicas=3 --current-replicas=2", "scaled");
    user.fails("scale deploy/web --replicas=4 --current-replicas=9", "Expected replicas to be 9");
    user.does("autoscale deploy web --min=1 --max=3 --cpu=50%", "autoscaled");
    user.does("get hpa web", "Deployment/web");
    user.does("describe hpa web", "Min replicas:");
    user.does("expose deploy web --port=80 --target-port=8080", "exposed");
    user.does("set selector svc web app=other", "selector updated");
    user.does("describe svc web", "app=other");
    user.does("describe deploy web", "RollingUpdateStrategy");
    user.until("describe rs", "Controlled By:  Deployment/web");
    user.does("events --for deploy/web", "ScalingReplicaSet");
    user.does("events --types=Normal", "ScalingReplicaSet");
    user.does("get events --sort-by=.lastTimestamp", "ScalingReplicaSet");
    user.does("delete deploy web --cascade=foreground --timeout=60s", "deleted");
    user.does("wait --for=delete pod -l app=web --timeout=60s", "");
    user.does("run one --image=IMAGE --restart=Never --labels=app=one", "created");
    user.does("wait --for=condition=Ready pod/one --timeout=60s", "condition met");
    user.does("debug one --image=IMAGE --target=one -c dbg -- sleep 10", "");
    user.does("get pod one -o jsonpath={.spec.ephemeralContainers[0].targetContainerName}", "one");
    user.does("debug one --image=IMAGE --copy-to=two --share-processes --container=more -- sleep 10", "");
    user.does("get pod two -o jsonpath={.spec.shareProcessNamespace}", "true");
    user.does("debug node/n1 --image=IMAGE -- sleep 10", "");
    user.does("get pods -o jsonpath={.items[*].spec.hostPID}", "true");
    user.fails("exec one -- true", "does not implement exec");
    user.fails("port-forward pod/one 0:80", "");
    user.does("delete pod --all --grace-period=0 --force", "force deleted");
}

fn patches(user: &User<'_>) {
    user.does("create deployment p --image=IMAGE --replicas=0", "created");
    user.does(
        r#"patch deploy p -p '{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"i"}]}}}}'"#,
        "patched",
    );
    user.does("get deploy p -o jsonpath={.spec.template.spec.containers[*].name}", "side busybox");
    user.does(r#"patch deploy p --type=merge -p '{"spec":{"revisionHistoryLimit":3}}'"#, "patched");
    user.does(
        r#"patch deploy p --type=json -p '[{"op":"remove","path":"/spec/template/spec/containers/0"}]'"#,
        "patched",
    );
    user.does("get deploy p -o jsonpath={.spec.template.spec.containers[*].name}", "busybox");
    user.fails(r#"patch deploy p --type=json -p '[{"op":"test","path":"/spec/replicas","value":7}]'"#, "");
    user.does(r#"patch deploy p --subresource=scale --type=merge -p '{"spec":{"replicas":1}}'"#, "patched");
    user.until("get deploy p -o jsonpath={.status.readyReplicas}", "1");
    user.does(
        r#"patch deploy p --subresource=status --type=merge -p '{"status":{"collisionCount":4}}'"#,
        "patched",
    );
    user.does("get deploy p --subresource=status -o jsonpath={.status.collisionCount}", "4");
    let file = user.file("patch.yaml", "spec: {minReadySeconds: 1}\n");
    user.does(&format!("patch deploy p --patch-file={file}"), "patched");
    user.does(r#"patch deploy p --dry-run=server -p '{"spec":{"minReadySeconds":9}}' -o jsonpath={.spec.minReadySeconds}"#, "9");
    user.does("label deploy p a=b", "labeled");
    user.fails("label deploy p a=c", "--overwrite is false");
    user.does("label deploy p a=c --overwrite", "labeled");
    user.does("label deploy p --list", "a=c");
    user.fails("label deploy p a=d --overwrite --resource-version=1", "Conflict");
    user.does("label deploy p a-", "unlabeled");
    user.does("annotate deploy p n='some text' other=x", "annotated");
    user.does("annotate deploy p other-", "annotated");
    user.does("annotate deploy p --list", "n=some text");
    user.fails("label deploy p bad/label/name=x", "");
}

fn authorizes(user: &User<'_>) {
    user.does("auth can-i create pods", "yes");
    user.fails("auth can-i get secrets --as=jane", "no");
    user.does(
        "create role reader --verb=get,list --resource=pods,deployments.apps --resource-name=a",
        "created",
    );
    user.does(
        "create rolebinding reader --role=reader --user=jane --group=readers --serviceaccount=k-auth:default",
        "created",
    );
    user.until("auth can-i get pods/a --as=jane", "yes");
    user.does("auth can-i --list --as=jane", "deployments.apps");
    user.does("auth whoami --as=jane --as-group=readers", "readers");
    user.does("set subject rolebinding reader --user=joe", "subjects updated");
    let roles = user.file(
        "roles.yaml",
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: reader, namespace: k-auth}\nrules: [{apiGroups: [''], resources: [secrets], verbs: [get]}]\n",
    );
    user.does(&format!("auth reconcile -f {roles}"), "reconciled");
    user.does("get role reader -o jsonpath={.rules[*].resources}", "secrets");
    user.does(&format!("auth reconcile --remove-extra-permissions -f {roles}"), "reconciled");
    let token =
        user.does("create token default --duration=10m --audience=https://kubernetes.default.svc", ".");
    assert_eq!(token.trim().split('.').count(), 3, "{token}");
    user.does("create secret generic bound", "created");
    user.does("create token default --bound-object-kind=Secret --bound-object-name=bound", ".");
    user.fails("create token none", "not found");
    user.does("create clusterrole k-agg --aggregation-rule=rbac.example.com/k=true", "created");
    user.does("create clusterrole k-part --verb=get --resource=nodes", "created");
    user.does("label clusterrole k-part rbac.example.com/k=true", "labeled");
    user.until("get clusterrole k-agg -o jsonpath={.rules}", "nodes");
    user.does("create clusterrolebinding k-agg --clusterrole=k-agg --user=jane", "created");
    user.does("delete clusterrole,clusterrolebinding k-agg --ignore-not-found", "deleted");
    user.does("delete clusterrole k-part", "deleted");
    certificates(user);
}

fn certificates(user: &User<'_>) {
    let request = |name: &str| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "jane");
        let pem = params.serialize_request(&key).expect("a request").pem().expect("PEM");
        let pem = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem);
        let manifest = format!(
            "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\nspec: {{request: {pem}, signerName: example.com/own, usages: [client auth]}}\n"
        );
        user.does(&format!("create -f {}", user.file(&format!("{name}.yaml"), &manifest)), "created");
    };
    request("k-good");
    user.does("get csr k-good", "Pending");
    user.does("certificate approve k-good", "approved");
    user.does("get csr k-good", "Approved");
    user.fails("certificate deny k-good", "");
    request("k-bad");
    user.does("certificate deny k-bad", "denied");
    user.does("describe csr k-bad", "Denied");
    user.does("delete csr k-good k-bad", "deleted");
}

fn makes(user: &User<'_>) {
    let lines = [
        "create job j --image=IMAGE -- true",
        "create cronjob c --image=IMAGE --schedule='*/5 * * * *' -- true",
        "create job from-c --from=cronjob/c",
        "create ingress i --class=c --rule='example.com/*=svc:80,tls=t' --default-backend=svc:http",
        "create poddisruptionbudget b --selector=app=x --min-available=1",
        "create quota q --hard=pods=20,count/configmaps=50",
        "create secret docker-registry d --docker-server=s --docker-username=u --docker-password=p",
        "create secret generic g --from-literal=a=b --type=example.com/own",
        "create service clusterip s1 --tcp=80:8080",
        "create service nodeport s2 --tcp=80",
        "create service loadbalancer s3 --tcp=80",
        "create service externalname s4 --external-name=example.com",
        "create serviceaccount sa",
        "create configmap m --from-literal=a=b --append-hash",
    ];
    for line in lines {
        user.does(line, "created");
    }
    user.does("create priorityclass k-high --value=1000 --description=x", "created");
    user.does("run r --image=IMAGE --port=80 --expose --env=A=b", "service/r created");
    user.does("describe ingress i", "example.com");
    user.does("describe quota q", "count/configmaps");
    user.does("describe cronjob c", "*/5 * * * *");
    user.does("describe job j", "Parallelism:");
    user.does("describe secret g", "example.com/own");
    user.does("describe pdb b", "Min available:");
    user.does("describe sa sa", "Name:                sa");
    user.does("describe svc s2", "NodePort:");
    user.does("describe priorityclass k-high", "1000");
    user.does("get all", "service/s1");
    user.does("delete priorityclass k-high", "deleted");
}

fn looks(user: &User<'_>) {
    for (name, value) in [("a", "3"), ("b", "1"), ("c", "2")] {
        let file = user.file("m.yaml", &map(name, value));
        user.does(&format!("create -f {file}"), "created");
    }
    let columns =
        "get cm -o custom-columns=N:.metadata.name,K:.data.k --sort-by=.data.k --no-headers -l set=one";
    let sorted: Vec<String> = user.does(columns, "").split_whitespace().map(str::to_owned).collect();
    assert_eq!(sorted, ["b", "1", "c", "2", "a", "3"]);
    user.does("get cm a -o go-template='{{.data.k}}'", "3");
    user.does("get cm -l 'set in (one,two),!other' --show-labels", "set=one");
    user.does("get cm -L set", "SET");
    user.does("get cm --field-selector=metadata.name=b -o name", "configmap/b");
    user.does("get cm a -o wide", "DATA");
    user.does("get cm -A --chunk-size=1", "kube-root-ca.crt");
    user.does("get ns k-look -o yaml", "phase: Active");
    user.fails("get cm none", "NotFound");
    user.fails("get nothings", "the server doesn't have a resource type \"nothings\"");
    user.fails("get cm --field-selector=data.k=1", "not a known field selector");
    user.fails("top nodes", "Metrics API not available");
    user.fails("top pods", "Metrics API not available");
    user.does("get --raw /apis", "APIGroupList");
    let metrics = user.does("get --raw /metrics", "apiserver_request_total{");
    for series in [
        "apiserver_request_duration_seconds_bucket{",
        "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"system\"}",
        "workqueue_adds_total{name=\"deployment\"}",
        "leader_election_master_status{name=\"kube-scheduler\"}",
        "scheduler_pending_pods{queue=\"active\"}",
    ] {
        assert!(metrics.contains(series), "{series}");
    }
    user.fails("get --raw /apis/metrics.k8s.io/v1beta1", "NotFound");
    let folder = user.cluster.file("dump");
    user.does(
        &format!("cluster-info dump --namespaces k-look --output-directory={}", folder.display()),
        "dumped",
    );
    assert!(folder.join("nodes.json").exists() && folder.join("k-look/events.json").exists());
    proxy(user);
}

fn proxy(user: &User<'_>) {
    let mut child = user.command("proxy --port=0").stdout(Stdio::piped()).spawn().expect("kubectl runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    let address = line.trim().rsplit(' ').next().expect("an address").to_owned();
    let mut stream = TcpStream::connect(&address).expect("connected");
    let request =
        format!("GET /api/v1/namespaces/k-look HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains("200 OK") && answer.contains("k-look"), "{answer}");
    child.kill().expect("killed");
    child.wait().expect("it ends");
}

fn nodes(user: &User<'_>) {
    user.does("describe node n1", "Allocatable:");
    user.does("get nodes -o wide", "INTERNAL-IP");
    user.does("taint node n1 k=v:NoSchedule", "tainted");
    user.fails("taint node n1 k=w:NoSchedule", "");
    user.does("taint node n1 k=w:NoSchedule --overwrite", "modified");
    user.does("taint node n1 k-", "untainted");
    user.does("label node n1 disk=fast", "labeled");
    user.does("create deployment web --image=IMAGE --replicas=4", "created");
    user.does("rollout status deploy/web --timeout=60s", "successfully rolled out");
    user.does("run alone --image=IMAGE", "created");
    user.does("wait --for=condition=Ready pod/alone --timeout=60s", "condition met");
    user.does("cordon n1", "cordoned");
    user.does("get node n1", "SchedulingDisabled");
    user.does("create poddisruptionbudget web --selector=app=web --min-available=4", "created");
    user.until("get pdb web -o jsonpath={.status.currentHealthy}", "4");
    let here = user.does("get pods --field-selector=spec.nodeName=n1 -l app=web -o name", "");
    if !here.trim().is_empty() {
        let text = user.fails("drain n1 --force --timeout=2s --pod-selector=app=web", "");
        assert!(text.contains("disruption budget") || text.contains("timeout"), "{text}");
    }
    user.does("delete pdb web", "deleted");
    user.does("drain n1 --force --delete-emptydir-data --ignore-daemonsets --timeout=60s", "drained");
    user.does("uncordon n1", "uncordoned");
    user.does("rollout status deploy/web --timeout=60s", "successfully rolled out");
    user.does("label node n1 disk-", "unlabeled");
}

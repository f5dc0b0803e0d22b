//! What an operator of releases does: `helm` installs, upgrades, rolls back and uninstalls a chart with a definition, an
//! object of it, hooks and a Deployment, on a cluster of simulated nodes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::{Cluster, IMAGE, outcome, tools};
use crate::shared::eventually;

const FILES: [(&str, &str); 7] = [
    ("Chart.yaml", "apiVersion: v2\nname: shop\nversion: 0.1.0\nkubeVersion: '>=1.37.0-0'\n"),
    ("values.yaml", "color: red\nreplicas: 2\n"),
    (
        "crds/paints.yaml",
        r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: paints.shop.example.com}
spec:
  group: shop.example.com
  scope: Namespaced
  names: {plural: paints, singular: paint, kind: Paint, listKind: PaintList}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          spec:
            type: object
            required: [color]
            properties:
              color: {type: string, enum: [red, green]}
              layers: {type: integer, default: 3}
",
    ),
    (
        "templates/paint.yaml",
        "apiVersion: shop.example.com/v1\nkind: Paint\nmetadata: {name: {{ .Release.Name }}}\nspec: {color: {{ .Values.color }}}\n",
    ),
    (
        "templates/deployment.yaml",
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}, annotations: {revision: "{{ .Release.Revision }}"}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec: {containers: [{name: c, image: "IMAGE", env: [{name: COLOR, value: {{ .Values.color }}}]}]}
"#,
    ),
    (
        "templates/before.yaml",
        r#"
apiVersion: v1
kind: Secret
metadata:
  name: {{ .Release.Name }}-before
  annotations: {helm.sh/hook: "pre-install,pre-upgrade", helm.sh/hook-delete-policy: before-hook-creation}
stringData: {revision: "{{ .Release.Revision }}"}
"#,
    ),
    (
        "templates/after.yaml",
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: {{ .Release.Name }}-after
  annotations: {helm.sh/hook: post-install, trierarch.dev/simulated-run-seconds: "0"}
spec: {restartPolicy: Never, containers: [{name: c, image: "IMAGE"}]}
"#,
    ),
];

fn chart(cluster: &Cluster) -> PathBuf {
    let folder = cluster.file("shop");
    for (name, text) in FILES {
        let file = folder.join(name);
        fs::create_dir_all(file.parent().expect("a folder")).expect("folder");
        fs::write(file, text.replace("IMAGE", IMAGE)).expect("written");
    }
    folder
}

/// Runs `helm`, which must end so and say something.
fn helm(cluster: &Cluster, line: &str, chart: &Path, succeeds: bool, wanted: &str) {
    let mut command = Command::new(tools().join("helm"));
    command.env("KUBECONFIG", cluster.file("kubeconfig")).env("HOME", cluster.file("")).args(["-n", "shop"]);
    let words = line.split(' ').map(|word| if word == "CHART" { chart.as_os_str() } else { word.as_ref() });
    let (good, text) = outcome(command.args(words));
    assert!(good == succeeds && text.contains(wanted), "helm {line}: {wanted:?} is expected: {text}");
}

#[test]
fn helm_takes_a_chart_through_its_life() {
    let cluster = Cluster::up(&["--simulated"]);
    let chart = chart(&cluster);
    let helm = |line: &str, succeeds, wanted: &str| helm(&cluster, line, &chart, succeeds, wanted);
    let shows = |what: &str, path: &str| {
        let line = format!("get -n shop {what} -o jsonpath={path}");
        cluster.kubectl(&line)
    };

    helm("install r CHART --create-namespace --wait --timeout 60s", true, "STATUS: deployed");
    // What is defaulted, what hooks did, and what was waited for.
    assert_eq!(shows("paints.shop.example.com r", "{.spec}"), r#"{"color":"red","layers":3}"#);
    assert_eq!(shows("secret r-before", "{.data.revision}"), "MQ==");
    assert_eq!(shows("pod r-after", "{.status.phase}"), "Succeeded");
    assert_eq!(shows("deployment r", "{.status.readyReplicas}"), "2");

    // A value that the definition refuses leaves the release failed, and the next upgrade mends it.
    helm("upgrade r CHART --set color=blue", false, "Unsupported value: \"blue\"");
    helm("upgrade r CHART --set color=green,replicas=3 --wait --timeout 60s", true, "STATUS: deployed");
    assert_eq!(shows("paints.shop.example.com r", "{.spec.color}"), "green");
    assert_eq!(shows("secret r-before", "{.data.revision}"), "Mw==");
    assert_eq!(shows("deployment r", "{.status.readyReplicas}"), "3");

    helm("rollback r 1 --wait --timeout 60s", true, "Rollback was a success");
    assert_eq!(shows("paints.shop.example.com r", "{.spec.color}"), "red");
    assert_eq!(shows("deployment r", "{.metadata.annotations.revision}"), "1");
    helm("history r", true, "Rollback to 1");
    helm("status r", true, "STATUS: deployed");
    helm("list", true, "shop-0.1.0");
    helm("install r CHART", false, "cannot reuse a name that is still in use");

    helm("uninstall r --wait --timeout 60s", true, "uninstalled");
    let rest =
        || cluster.try_kubectl("get -n shop paints.shop.example.com,deployments,replicasets -o name").1;
    eventually("the release is gone", || rest().is_empty().then_some(()));
    // Definitions of a chart stay, as do its hooks.
    assert_eq!(shows("secret r-before", "{.metadata.name}"), "r-before");
    cluster.kubectl("get crd paints.shop.example.com");
}

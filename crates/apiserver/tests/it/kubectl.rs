//! The real kubectl.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;

use crate::cluster::{CONFIG_MAPS, Cluster, ask};

/// Where `scripts/tools` puts it.
fn kubectl() -> PathBuf {
    let under = |name: &str, rest: &str| Some(PathBuf::from(std::env::var_os(name)?).join(rest));
    let cache = under("TRIERARCH_CACHE", "")
        .or_else(|| under("XDG_CACHE_HOME", "trierarch"))
        .or_else(|| under("HOME", ".cache/trierarch"));
    let path = cache.expect("HOME is set").join("tools/kubectl");
    assert!(path.exists(), "{} is missing: run `scripts/tools`", path.display());
    path
}

#[tokio::test]
async fn kubectl_walks_through() {
    let binary = kubectl();
    let cluster = Cluster::start().await;
    let config = cluster.kubeconfig();
    let steps: &[(&str, &str)] = &[
        ("version", "Server Version: v1.37"),
        ("get --raw /readyz", "ok"),
        ("api-resources", "deploy"),
        ("create namespace shop", "namespace/shop created"),
        ("-n shop create configmap c --from-literal=a=b", "configmap/c created"),
        ("-n shop get cm c -o jsonpath={.data.a}", "b"),
        ("-n shop label cm c x=y", "labeled"),
        ("-n shop get cm -l x=y", "c "),
        ("-n shop create deployment web --image=i --replicas=0", "created"),
        ("-n shop get deploy", "UP-TO-DATE"),
        ("-n shop scale deploy web --replicas=2", "scaled"),
        ("-n shop expose deployment web --port=80", "exposed"),
        ("-n shop get svc", "CLUSTER-IP"),
        ("-n shop describe deploy web", "StrategyType:"),
        ("explain deployment.spec.replicas", "Number of desired pods"),
        ("auth whoami", "system:masters"),
        ("auth can-i create pods --as jane --quiet", ""),
        ("-n shop delete deploy web --cascade=orphan --wait=false", "deleted"),
        ("get clusterroles", "cluster-admin"),
    ];
    for (arguments, wanted) in steps {
        let (succeeded, text) = run(&binary, &config, arguments).await;
        assert_eq!(succeeded, !arguments.contains("can-i"), "{arguments}: {text}");
        assert!(text.contains(wanted), "{arguments}: {text}");
    }
}

/// What kubectl says, and whether all went well.
async fn run(binary: &Path, config: &Path, arguments: &str) -> (bool, String) {
    let output = tokio::process::Command::new(binary)
        .args(arguments.split(' '))
        .env("KUBECONFIG", config)
        .env("HOME", config.parent().expect("folder"))
        .stdin(Stdio::null())
        .output()
        .await
        .expect("kubectl runs");
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.success(), said.concat())
}

/// What kubectl applied itself it owns when it lets the server apply: nothing is forced, and what is left out goes.
#[tokio::test]
async fn who_applied_before_applies_on_the_server_without_conflicts() {
    let (binary, cluster) = (kubectl(), Cluster::start().await);
    let config = cluster.kubeconfig();
    let file = config.with_file_name("map.yaml");
    let write = |data: &str| {
        let text = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m, namespace: default}}\ndata: {data}\n"
        );
        std::fs::write(&file, text).expect("written");
    };
    let apply = async |flags: &str| {
        let arguments = format!("apply{flags} -f {}", file.display());
        let (succeeded, text) = run(&binary, &config, &arguments).await;
        assert!(succeeded, "{arguments}: {text}");
        text
    };
    write("{a: '1', b: '1'}");
    assert!(apply("").await.contains("configmap/m created"));
    write("{a: '2'}");
    assert!(apply(" --server-side").await.contains("configmap/m serverside-applied"));
    let map = cluster.root(ask("GET", &format!("{CONFIG_MAPS}/m"))).await.expect(200);
    assert_eq!(map["data"], json!({"a": "2"}));
    let owners = map["metadata"]["managedFields"].as_array().expect("owners");
    let owners: Vec<_> = owners.iter().map(|one| (&one["manager"], &one["operation"])).collect();
    assert!(owners.contains(&(&json!("kubectl"), &json!("Apply"))), "{owners:?}");
    assert!(!owners.contains(&(&json!("kubectl-client-side-apply"), &json!("Update"))), "{owners:?}");
}

//! The real kubectl.

use std::path::PathBuf;
use std::process::Stdio;

use crate::cluster::Cluster;

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
        let output = tokio::process::Command::new(&binary)
            .args(arguments.split(' '))
            .env("KUBECONFIG", &config)
            .env("HOME", config.parent().expect("folder"))
            .stdin(Stdio::null())
            .output()
            .await
            .expect("kubectl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let refused = arguments.contains("can-i");
        assert_eq!(
            output.status.success(),
            !refused,
            "{arguments}: {text} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(text.contains(wanted), "{arguments}: {text}");
    }
}

//! The real kubectl, where it is installed.

use std::path::PathBuf;
use std::process::Stdio;

use crate::cluster::Cluster;

fn kubectl() -> Option<PathBuf> {
    let home = std::env::var_os("HOME")?;
    let path = PathBuf::from(home).join(".cache/trierarch/tools/kubectl");
    path.exists().then_some(path)
}

#[tokio::test]
async fn kubectl_walks_through() {
    let Some(binary) = kubectl() else {
        eprintln!("kubectl is not installed: scripts/tools installs it");
        return;
    };
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
        ("explain deployment.spec.replicas", "<integer>"),
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

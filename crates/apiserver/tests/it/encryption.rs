//! Encryption at rest, as clients and whoever reads the store see it.

use std::path::Path;

use base64::Engine as _;
use serde_json::json;

use crate::cluster::{CONFIG_MAPS, Cluster, Running, ask, config_map};
use crate::kms_plugin::Plugin;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

fn configuration(folder: &Path, providers: &[(&str, &str)]) -> std::path::PathBuf {
    let file = folder.join("encryption.yaml");
    let list: Vec<_> = providers
        .iter()
        .map(|(kind, name)| {
            let secret = base64::engine::general_purpose::STANDARD.encode([name.as_bytes()[1]; 32]);
            json!({*kind: {"keys": [{"name": name, "secret": secret}]}})
        })
        .chain([json!({"identity": {}})])
        .collect();
    let text = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": list}]});
    std::fs::write(&file, text.to_string()).expect("write");
    file
}

fn stored(cluster: &Running, key: &str) -> String {
    let kv = cluster.store.view().get(key.as_bytes()).expect("readable").expect("there");
    String::from_utf8_lossy(&kv.value).into_owned()
}

#[tokio::test]
async fn secrets_are_sealed_in_the_store_and_nowhere_else() {
    let folder = tempfile::tempdir().expect("folder");
    let file = configuration(folder.path(), &[("aesgcm", "k1")]);
    let cluster = Cluster::start_with(|config| config.encryption_provider_config = Some(file)).await;
    let watch = format!("{SECRETS}?watch=true&timeoutSeconds=1&resourceVersion=1");
    let secret = json!({"metadata": {"name": "a"}, "stringData": {"p": "hidden"}});
    cluster.create(SECRETS, &secret).await;
    cluster.create(CONFIG_MAPS, &config_map("m")).await;
    let raw = stored(&cluster, "/registry/secrets/default/a");
    assert!(raw.starts_with("k8s:enc:aesgcm:v1:k1:") && !raw.contains("hidden"), "{raw:?}");
    assert!(stored(&cluster, "/registry/configmaps/default/m").starts_with("k8s\0"));
    let plain = base64::engine::general_purpose::STANDARD.encode("hidden");
    let read = cluster.root(ask("GET", &format!("{SECRETS}/a"))).await.expect(200);
    assert_eq!(read["data"]["p"], plain.as_str());
    let list = cluster.root(ask("GET", &format!("{SECRETS}?fieldSelector=type=Opaque"))).await.expect(200);
    assert_eq!(list["items"][0]["data"]["p"], plain.as_str());
    let patch = ask("PATCH", &format!("{SECRETS}/a"))
        .body("application/merge-patch+json", r#"{"data":{"q":"YQ=="}}"#);
    cluster.root(patch).await.expect(200);
    let events = cluster.root(ask("GET", &watch)).await.text();
    assert_eq!(events.matches(&plain).count(), 2, "{events}");
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_is_told_of() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("bad.yaml");
    std::fs::write(&file, "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\n")
        .expect("write");
    let fault = Cluster::fault(|config| config.encryption_provider_config = Some(file)).await;
    assert!(fault.contains("resources: Required value"), "{fault}");
}

#[tokio::test]
async fn a_plugin_seals_everything_and_is_part_of_the_health() {
    let folder = tempfile::tempdir().expect("folder");
    let (file, socket) = (folder.path().join("encryption.yaml"), folder.path().join("kms.sock"));
    let plugin = Plugin::start(&socket);
    let kms = json!({"kms": {"apiVersion": "v2", "name": "p", "endpoint": format!("unix://{}", socket.display()),
        "timeout": "60s"}});
    let text = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["*.apps"], "providers": [{"identity": {}}, kms]},
            {"resources": ["*.*"], "providers": [kms_named(&kms, "q"), {"identity": {}}]}]});
    std::fs::write(&file, text.to_string()).expect("write");
    let cluster = Cluster::start_with(|config| config.encryption_provider_config = Some(file)).await;
    cluster.create(SECRETS, &json!({"metadata": {"name": "a"}, "stringData": {"p": "hidden"}})).await;
    cluster.create(CONFIG_MAPS, &config_map("m")).await;
    for key in
        ["/registry/secrets/default/a", "/registry/configmaps/default/m", "/registry/namespaces/default"]
    {
        let raw = stored(&cluster, key);
        assert!(raw.starts_with("k8s:enc:kms:v2:q:") && !raw.contains("hidden"), "{key}: {raw:?}");
    }
    let list = cluster.root(ask("GET", SECRETS)).await.expect(200);
    assert_eq!(list["items"][0]["metadata"]["name"], "a");
    let health = async |path: &str| cluster.root(ask("GET", path)).await.text();
    assert!(health("/readyz?verbose").await.contains("[+]kms-providers ok"));
    assert!(health("/healthz?verbose").await.contains("[+]kms-providers ok"));
    assert!(!health("/livez?verbose").await.contains("kms-providers"));
    let manner = plugin.manner().clone();
    assert_eq!((manner.encrypted, manner.decrypted), (2, 0));
}

/// The same plugin under another name.
fn kms_named(kms: &serde_json::Value, name: &str) -> serde_json::Value {
    let mut kms = kms.clone();
    kms["kms"]["name"] = name.into();
    kms
}

#[tokio::test]
async fn the_first_version_of_plugins_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("v1.yaml");
    let text = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration", "resources": [
        {"resources": ["secrets"], "providers": [{"kms": {"name": "p", "endpoint": "unix:///nowhere"}}]}]});
    std::fs::write(&file, text.to_string()).expect("write");
    let fault = Cluster::fault(|config| config.encryption_provider_config = Some(file)).await;
    assert!(fault.contains("KMSv1 is deprecated"), "{fault}");
}

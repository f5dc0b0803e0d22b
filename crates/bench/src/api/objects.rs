//! What is stored, and what an answer is recognised by.

use std::time::Duration;

use anyhow::{Result, bail};
use bytes::{Bytes, BytesMut};

use super::Work;
use super::masters::{Masters, ask, get};
use crate::load::Servers as _;
use crate::wire::{Connection, Request};

/// The form of answers that people read.
pub const JSON: &str = "application/json";
/// The form of answers that programs read.
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// Namespaces over which pods are spread.
const NAMESPACES: u64 = 10;
/// Where an answer's kind stands: everything before it is shorter.
const HEAD: usize = 96;
const POLL: Duration = Duration::from_millis(20);
const DEADLINE: Duration = Duration::from_secs(30);

/// Objects that differ in their numbers.
#[derive(Clone, Copy)]
pub struct Kind {
    /// The kind, as an answer begins with it.
    pub name: &'static str,
    /// Where they are created.
    pub path: fn(u64) -> String,
    /// One of them.
    pub body: fn(u64) -> String,
}

/// Pods as a Deployment makes them: 4 kB each as JSON with what the server adds. Nobody serves their scheduler, so that
/// they stay as they are.
pub const POD: Kind = Kind {
    name: "Pod",
    path: |number| format!("/api/v1/namespaces/{}/pods?fieldManager=bench", namespace(number)),
    body: |number| POD_BODY.replace("@NAME", &pod_name(number)),
};

/// Small objects.
pub const CONFIG_MAP: Kind = Kind {
    name: "ConfigMap",
    path: |number| format!("/api/v1/namespaces/{}/configmaps?fieldManager=bench", namespace(number)),
    body: |number| {
        format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"settings-{number:06}"}},"data":{{"settings":"level = info, number = {number}, listen = 0.0.0.0:8080, upstream = backend.shop.svc:8080"}}}}"#
        )
    },
};

/// Definitions of custom resources, a hundred in a group.
pub const DEFINITION: Kind = Kind {
    name: "CustomResourceDefinition",
    path: |_| format!("{DEFINITIONS}?fieldManager=bench"),
    body: |number| {
        DEFINITION_BODY.replace("NUMBER", &number.to_string()).replace("GROUP", &(number / 100).to_string())
    },
};

/// Where definitions are.
pub const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

const POD_BODY: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"@NAME","labels":{"app.kubernetes.io/name":"shop","app.kubernetes.io/component":"frontend","pod-template-hash":"7d4b9c6f5d"},"annotations":{"prometheus.io/scrape":"true","prometheus.io/port":"9102"}},"spec":{"schedulerName":"nobody","serviceAccountName":"default","containers":[{"name":"frontend","image":"registry.example.com/shop/frontend:1.14.2","args":["--listen=0.0.0.0:8080","--backend=http://backend.shop.svc:8080"],"ports":[{"name":"http","containerPort":8080},{"name":"metrics","containerPort":9102}],"env":[{"name":"POD_NAME","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}},{"name":"LOG_LEVEL","value":"info"}],"resources":{"requests":{"cpu":"100m","memory":"128Mi"},"limits":{"memory":"256Mi"}},"readinessProbe":{"httpGet":{"path":"/ready","port":"http"},"periodSeconds":5},"volumeMounts":[{"name":"settings","mountPath":"/etc/shop"}]}],"volumes":[{"name":"settings","configMap":{"name":"shop"}}]}}"#;

const DEFINITION_BODY: &str = r#"{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"thingNUMBERs.gGROUP.example.com"},"spec":{"group":"gGROUP.example.com","scope":"Namespaced","names":{"plural":"thingNUMBERs","singular":"thingNUMBER","kind":"ThingNUMBER","listKind":"ThingNUMBERList"},"versions":[{"name":"v1","served":true,"storage":true,"subresources":{"status":{}},"additionalPrinterColumns":[{"name":"Phase","type":"string","jsonPath":".status.phase"}],"schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","required":["size"],"properties":{"size":{"type":"integer","minimum":1,"maximum":100},"image":{"type":"string","maxLength":256},"paused":{"type":"boolean","default":false},"labels":{"type":"object","additionalProperties":{"type":"string"}},"ports":{"type":"array","items":{"type":"object","required":["port"],"properties":{"name":{"type":"string"},"port":{"type":"integer"}}}}}},"status":{"type":"object","properties":{"phase":{"type":"string"},"ready":{"type":"integer"},"conditions":{"type":"array","items":{"type":"object","required":["type","status"],"properties":{"type":{"type":"string"},"status":{"type":"string"},"reason":{"type":"string"},"message":{"type":"string"},"lastTransitionTime":{"type":"string","format":"date-time"}}}}}}}}}}]}}"#;

fn namespace(number: u64) -> String {
    format!("bench-{}", number % NAMESPACES)
}

fn pod_name(number: u64) -> String {
    format!("frontend-7d4b9c6f5d-{number:06}")
}

/// Where a pod is.
pub fn pod_path(number: u64) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", namespace(number), pod_name(number))
}

/// An answer that is of a kind; the error holds the beginning of any other.
pub fn expect(body: BytesMut, kind: &str) -> Result<Bytes> {
    check(&body, kind)?;
    Ok(body.freeze())
}

/// Whether an answer, or its beginning, is of a kind, in JSON or protobuf.
pub fn check(body: &[u8], kind: &str) -> Result<()> {
    let head = &body[..body.len().min(HEAD)];
    let found = position(head, kind.as_bytes());
    // A longer name that begins so is another kind; so is whatever a failure's text tells of.
    let next = found.and_then(|place| body.get(place + kind.len())).copied().unwrap_or(b'"');
    if found.is_none() || next.is_ascii_alphanumeric() || position(head, b"Status").is_some() {
        bail!("not a {kind}: {}", String::from_utf8_lossy(&body[..body.len().min(400)]));
    }
    Ok(())
}

/// Where some bytes stand first.
pub fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Makes the namespaces, and in each the ServiceAccount of pods that name none: nobody else makes it for upstream. Each
/// master has seen them afterwards.
pub async fn namespaces(work: &Work, masters: &Masters) -> Result<()> {
    let mut door = masters.connect(0).await?;
    for name in (0..NAMESPACES).map(namespace) {
        let body = format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{name}"}}}}"#);
        create(&mut door, "/api/v1/namespaces", &body).await?;
        let body = r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}"#;
        create(&mut door, &format!("/api/v1/namespaces/{name}/serviceaccounts"), body).await?;
    }
    for number in 0..masters.size() {
        let mut door = masters.connect(number).await?;
        for name in (0..NAMESPACES).map(namespace) {
            let path = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
            let deadline = work.bench.now() + DEADLINE;
            while let Err(error) = expect(ask(&mut door, get(&path)).await?, "ServiceAccount") {
                anyhow::ensure!(work.bench.now() < deadline, "{error}");
                work.bench.env.clock.sleep(POLL).await;
            }
        }
    }
    Ok(())
}

/// Creates something unless it is there.
async fn create(door: &mut Connection, path: &str, body: &str) -> Result<()> {
    let request = Request { method: "POST", path, accept: JSON, body: Some((JSON, body.as_bytes())) };
    let answer = ask(door, request).await?;
    let refused = position(&answer[..answer.len().min(HEAD)], b"Status").is_some();
    if refused && position(&answer, b"AlreadyExists").is_none() {
        bail!("{path}: {}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_of_the_kind_that_it_begins_with() {
        let pod = br#"{"kind":"Pod","apiVersion":"v1","metadata":{}}"#;
        let list = br#"{"apiVersion":"v1","kind":"PodList","metadata":{}}"#;
        let failure = br#"{"kind":"Status","apiVersion":"v1","message":"no Pod","code":404}"#;
        assert!(check(pod, "Pod").is_ok() && check(list, "PodList").is_ok());
        assert!(check(list, "Pod").is_err() && check(failure, "Pod").is_err() && check(b"", "Pod").is_err());
        assert!(check(b"k8s\0\n\x0d\n\x02v1\x12\x07PodList\x12\x00", "PodList").is_ok());
        assert!(check(b"k8s\0\n\x0c\n\x02v1\x12\x06Status\x12\x10no PodList", "PodList").is_err());
    }

    #[test]
    fn what_is_stored_is_json() {
        for kind in [POD, CONFIG_MAP, DEFINITION] {
            let value: serde_json::Value = serde_json::from_str(&(kind.body)(7)).expect("JSON");
            assert_eq!(value["kind"], kind.name);
            assert_ne!((kind.body)(7), (kind.body)(8));
        }
        let name = serde_json::from_str::<serde_json::Value>(&(POD.body)(12)).expect("JSON");
        let path = pod_path(12);
        assert!(path.starts_with((POD.path)(12).split('?').next().expect("a path")), "{path}");
        assert!(path.ends_with(name["metadata"]["name"].as_str().expect("a name")), "{path}");
    }
}

//! ConfigMap `extension-apiserver-authentication`: what extension API servers are to believe, so that they know users and
//! this server as this server does. Each replica adds what it believes itself (upstream:
//! `pkg/controlplane/controller/clusterauthenticationtrust`).

use api_rules::look::Look;
use api_types::status::Status;
use api_types::{Resource, Value, table};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mvcc::KeyRange;
use rustls::pki_types::CertificateDer;
use serde_json::{Map, json};

use crate::api::Api;
use crate::authn::RequestHeaderConfig;
use crate::call::Call;
use crate::registry::{Target, Update, UpdateKind};
use crate::{convert, shape, storage, tls};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";
/// Seconds that an authority stays listed after its end (upstream's).
const SLACK_SECONDS: i64 = 300;
/// Characters of a line of PEM.
const LINE: usize = 64;

fn kind() -> &'static Resource {
    table::find("", "v1", "configmaps").expect("invariant: the table of kinds holds ConfigMap")
}

fn target() -> Target {
    Target::new(kind(), NAMESPACE, NAME)
}

/// Keeps the object as it should be until shutdown.
pub(crate) async fn keep(api: &Api) {
    // Looked at every now and then too: authorities end on their own.
    let own = [KeyRange::Key(target().key())];
    shape::keep(api, &own, "to publish what extension API servers are to believe", || publish(api)).await;
}

/// Creates the object, or adds what it lacks.
pub(super) async fn publish(api: &Api) -> Result<(), Status> {
    let authenticator = &api.authenticator;
    let trust = authenticator.certificates.current();
    let own = Believed {
        users: trust.user_authorities(),
        proxies: trust.proxy_authorities(),
        headers: &authenticator.proxies,
    };
    let (target, call) = (target(), Call::internal());
    let Some(kv) = storage::get(&api.storage.view(), &target.key())? else {
        let data = own.and(&Value::Null, api.now()).map_err(Status::internal)?;
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "data": data,
        });
        return match api.create(&call, &target, object, false).await {
            Err(status) if !status.is("AlreadyExists") => Err(status),
            _ => Ok(()),
        };
    };
    let old = convert::decode(kind(), &kv)?;
    if own.and(old.at("data"), api.now()).map_err(Status::internal)? == *old.at("data") {
        return Ok(());
    }
    let update = Update { kind: UpdateKind::Main, dry_run: false };
    let mut replace = |old: &Value| {
        let mut new = old.clone();
        new["data"] = own.and(old.at("data"), api.now()).map_err(Status::internal)?;
        Ok(new)
    };
    api.update(&call, &target, update, &mut replace).await.map(drop)
}

/// What this replica believes.
struct Believed<'a> {
    /// PEM.
    users: &'a [u8],
    /// PEM.
    proxies: Option<&'a [u8]>,
    headers: &'a RequestHeaderConfig,
}

impl Believed<'_> {
    /// The data of the object, with what others have put there. `now` in milliseconds.
    fn and(&self, there: &Value, now: i64) -> Result<Value, String> {
        let users = bundle(there.text("client-ca-file"), self.users, now)?;
        let proxies =
            bundle(there.text("requestheader-client-ca-file"), self.proxies.unwrap_or_default(), now)?;
        let headers = self.headers;
        let lists = [
            ("requestheader-username-headers", &headers.username_headers),
            ("requestheader-uid-headers", &headers.uid_headers),
            ("requestheader-group-headers", &headers.group_headers),
            ("requestheader-extra-headers-prefix", &headers.extra_headers_prefix),
            ("requestheader-allowed-names", &headers.allowed_names),
        ];
        let mut data = Map::new();
        if !users.is_empty() {
            data.insert("client-ca-file".to_owned(), users.into());
        }
        if proxies.is_empty() {
            return Ok(Value::Object(data));
        }
        data.insert("requestheader-client-ca-file".to_owned(), proxies.into());
        for (field, own) in lists {
            // Without proxies of its own, what this replica would read does not count.
            let own = if self.proxies.is_some() { own.as_slice() } else { &[] };
            let all = joined(there.text(field), own)?;
            if field != "requestheader-uid-headers" || !all.is_empty() {
                data.insert(field.to_owned(), json!(all).to_string().into());
            }
        }
        Ok(Value::Object(data))
    }
}

/// A list that is there as JSON, and more, each once.
fn joined(there: &str, more: &[String]) -> Result<Vec<String>, String> {
    let mut all: Vec<String> = match there {
        "" => Vec::new(),
        text => serde_json::from_str(text).map_err(|error| error.to_string())?,
    };
    all.extend_from_slice(more);
    let mut each = Vec::new();
    for one in all {
        if !each.contains(&one) {
            each.push(one);
        }
    }
    Ok(each)
}

/// The authorities of both, each once, without those that have ended.
fn bundle(there: &str, more: &[u8], now: i64) -> Result<String, String> {
    let mut each: Vec<CertificateDer<'static>> = Vec::new();
    for pem in [there.as_bytes(), more] {
        for certificate in tls::certificates(pem).map_err(|error| error.to_string())? {
            if !each.contains(&certificate) && lasts(&certificate, now) {
                each.push(certificate);
            }
        }
    }
    Ok(each.iter().map(|certificate| pem(certificate)).collect())
}

fn lasts(certificate: &[u8], now: i64) -> bool {
    let parsed = x509_parser::parse_x509_certificate(certificate);
    parsed.is_ok_and(|(_, parsed)| {
        parsed.validity().not_after.timestamp() > now.div_euclid(1000) - SLACK_SECONDS
    })
}

fn pem(certificate: &[u8]) -> String {
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in STANDARD.encode(certificate).as_bytes().chunks(LINE) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(name: &str) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        let made = params.self_signed(&key).unwrap();
        pem(made.der())
    }

    const NOW: i64 = 1_800_000_000_000;
    const END: i64 = 2_208_988_800_000;

    #[test]
    fn replicas_add_what_they_believe() {
        let (users, others, proxies) = (authority("users"), authority("others"), authority("proxies"));
        let list = |text: &str| vec![text.to_owned()];
        let headers = RequestHeaderConfig {
            username_headers: list("X-Remote-User"),
            group_headers: list("X-Remote-Group"),
            ..RequestHeaderConfig::default()
        };
        let own = Believed { users: users.as_bytes(), proxies: Some(proxies.as_bytes()), headers: &headers };
        let there = json!({
            "client-ca-file": others,
            "requestheader-client-ca-file": proxies,
            "requestheader-username-headers": "[\"X-User\",\"X-Remote-User\"]",
            "requestheader-allowed-names": "[\"front\"]",
            "unknown": "goes",
        });
        let data = own.and(&there, NOW).unwrap();
        let wanted = json!({
            "client-ca-file": format!("{others}{users}"),
            "requestheader-client-ca-file": proxies,
            "requestheader-username-headers": "[\"X-User\",\"X-Remote-User\"]",
            "requestheader-group-headers": "[\"X-Remote-Group\"]",
            "requestheader-extra-headers-prefix": "[]",
            "requestheader-allowed-names": "[\"front\"]",
        });
        assert_eq!(data, wanted);
        assert_eq!(own.and(&data, NOW).unwrap(), wanted, "once is enough");
        let without = Believed { users: users.as_bytes(), proxies: None, headers: &headers };
        assert_eq!(without.and(&Value::Null, NOW).unwrap(), json!({"client-ca-file": users}));
        assert_eq!(without.and(&data, NOW).unwrap(), wanted, "what others believe stays");
        assert_eq!(own.and(&data, END + 301_000).unwrap(), json!({}), "authorities end");
        assert!(own.and(&json!({"requestheader-allowed-names": "front"}), NOW).is_err());
    }
}

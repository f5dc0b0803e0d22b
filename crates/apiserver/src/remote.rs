//! Servers that a kubeconfig names: the audit log's, and those that know tokens or decide. Driver.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api_types::field::quote;
use api_types::{Value, codec};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use env::{Backoff, Env, TaskGroup};
use http::HeaderValue;
use tokio_rustls::TlsConnector;
use url::Url;

use crate::tls;
use crate::webhook::{Call, Refusal, Sender};

/// Tries of a call (upstream's, of the audit log as of `DefaultAuthWebhookRetryBackoff`).
const TRIES: usize = 5;
/// Each wait is so much longer than the one before it (upstream's).
const FACTOR: f64 = 1.5;
/// The part of a wait that is added at random, at most (upstream's).
const JITTER: f64 = 0.2;
/// Bytes of a review that was answered, at most.
const MAX_REVIEW_BYTES: usize = 1 << 20;

/// A server that a kubeconfig names.
pub(crate) struct Remote {
    target: Target,
    sender: Sender,
    timeout: Duration,
    tasks: TaskGroup,
}

impl Remote {
    /// Reads the kubeconfig. `timeout`: how long an answer may take; `tasks` get the connections.
    pub fn load(path: &Path, timeout: Duration, tasks: &TaskGroup) -> Result<Self, String> {
        let target = Target::load(path)?;
        let connector = match target.url.scheme() {
            "http" => None,
            _ => {
                let tls = tls::of_kubeconfig(target.authority.as_deref(), target.identity.as_ref());
                Some(TlsConnector::from(Arc::new(tls.map_err(|error| error.to_string())?)))
            }
        };
        let sender = Sender::new(Ok(connector), "kube-apiserver");
        Ok(Self { target, sender, timeout, tasks: tasks.clone() })
    }

    async fn post(&self, body: Bytes, max_answer: usize) -> Result<Bytes, Refusal> {
        let call = self.target.call(self.timeout.as_secs()).map_err(Refusal::of)?;
        self.sender.exchange(&self.tasks, &call, Some(body), self.timeout, max_answer).await
    }

    /// Posts JSON and gives the answer, of `max_answer` bytes at most; again, after a while, as long as `may_help` says so
    /// of what went wrong and there are tries left. `wait`: before the second try.
    ///
    /// # Errors
    /// Upstream's text for what went wrong last.
    pub async fn insist(
        &self,
        env: &Env,
        body: Bytes,
        max_answer: usize,
        wait: Duration,
        may_help: impl Fn(&Refusal) -> bool,
    ) -> Result<Bytes, String> {
        let mut backoff = Backoff::new(wait, FACTOR, Duration::MAX, JITTER);
        let mut tries = 1;
        loop {
            match self.post(body.clone(), max_answer).await {
                Ok(answer) => return Ok(answer),
                Err(refusal) if tries == TRIES || !may_help(&refusal) => return Err(refusal.text),
                Err(refusal) => tracing::debug!(error = refusal.text, "a call to a server is made again"),
            }
            tries += 1;
            env.clock.sleep(backoff.next(&env.rng)).await;
        }
    }

    /// Posts an object and gives the one of the same kind that answers it; again where that may help.
    /// `wait`: before the second try.
    ///
    /// # Errors
    /// Upstream's text for what went wrong last.
    pub async fn review(&self, env: &Env, review: &Value, wait: Duration) -> Result<Value, String> {
        let body = Bytes::from(review.to_string());
        let answer = self.insist(env, body, MAX_REVIEW_BYTES, wait, |refusal| refusal.again).await?;
        answered(&answer, review)
    }
}

/// Reads an answer, which must be of the kind and version of the question, or say nothing of them.
fn answered(answer: &[u8], review: &Value) -> Result<Value, String> {
    let answer: Value = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
    let other =
        |field: &str| !answer[field].is_null() && answer[field] != "" && answer[field] != review[field];
    if !answer.is_object() || other("apiVersion") || other("kind") {
        return Err(format!(
            "unable to decode the answer: {} of {} was wanted, {} of {} came",
            review["kind"], review["apiVersion"], answer["kind"], answer["apiVersion"]
        ));
    }
    Ok(answer)
}

/// What a kubeconfig says: whom to call, and as whom.
struct Target {
    url: Url,
    /// The name that the server's certificate must have, if it is not the URL's.
    server: Option<String>,
    /// Authorities that are believed; empty: the system's; none: whoever answers is.
    authority: Option<Vec<u8>>,
    /// Certificate and key of the caller.
    identity: Option<(Vec<u8>, Vec<u8>)>,
    login: Login,
}

enum Login {
    Nobody,
    Header(HeaderValue),
    /// A file with a token, which may change.
    TokenFile(PathBuf),
}

/// The entry of a kubeconfig's list that has a name.
fn entry<'a>(config: &'a Value, list: &str, field: &str, name: &str) -> Option<&'a Value> {
    let entries = config[list].as_array().into_iter().flatten();
    entries.into_iter().find(|entry| entry["name"] == name).map(|entry| &entry[field])
}

impl Target {
    fn load(path: &Path) -> Result<Self, String> {
        let text = std::fs::read(path).map_err(|error| format!("open {}: {error}", path.display()))?;
        let failed = |error: String| {
            format!("error loading config file {}: {error}", quote(&path.display().to_string()))
        };
        let config = codec::decode_yaml(&text).map_err(|error| failed(error.to_string()))?.value;
        Self::of(&config, path.parent().unwrap_or(Path::new("."))).map_err(failed)
    }

    /// `folder`: what relative paths begin at.
    fn of(config: &Value, folder: &Path) -> Result<Self, String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let current = text(&config["current-context"]);
        if current.is_empty() {
            return Err("invalid configuration: no configuration has been provided".to_owned());
        }
        let context = entry(config, "contexts", "context", &current);
        let context = context.ok_or_else(|| format!("context {} does not exist", quote(&current)))?;
        let named = |list: &str, field: &str| {
            let name = text(&context[field]);
            let found = entry(config, list, field, &name);
            found.ok_or_else(|| format!("invalid configuration: {field} {} was not found", quote(&name)))
        };
        let cluster = named("clusters", "cluster")?;
        let nobody = Value::Null;
        let user = if text(&context["user"]).is_empty() { &nobody } else { named("users", "user")? };
        let url = Url::parse(&text(&cluster["server"])).map_err(|error| format!("server: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("server: {} is neither http nor https", quote(url.as_str())));
        }
        for (of, field) in [(cluster, "proxy-url"), (user, "exec"), (user, "auth-provider")] {
            if !of[field].is_null() && of[field] != false && of[field] != "" {
                return Err(format!("{field} is not supported"));
            }
        }
        let data = |of: &Value, field: &str| data(of, field, folder);
        let authority = data(cluster, "certificate-authority")?;
        let insecure = cluster["insecure-skip-tls-verify"] == true;
        if insecure && !authority.is_empty() {
            let text = "specifying a root certificates file with the insecure flag is not allowed";
            return Err(text.to_owned());
        }
        let (certificate, key) = (data(user, "client-certificate")?, data(user, "client-key")?);
        let server = text(&cluster["tls-server-name"]);
        Ok(Self {
            url,
            server: (!server.is_empty()).then_some(server),
            authority: (!insecure).then_some(authority),
            identity: (!certificate.is_empty()).then_some((certificate, key)),
            login: Login::of(user, folder)?,
        })
    }

    /// `seconds`: how long the other side may take.
    fn call(&self, seconds: u64) -> Result<Call, String> {
        let mut call = Call::to_url(&self.url, Some(seconds));
        if let Some(server) = &self.server {
            call.server.clone_from(server);
        }
        call.authorization = match &self.login {
            Login::Nobody => None,
            Login::Header(header) => Some(header.clone()),
            Login::TokenFile(path) => {
                let token = std::fs::read_to_string(path)
                    .map_err(|error| format!("failed to read token file {}: {error}", path.display()))?;
                Some(bearer(&token)?)
            }
        };
        Ok(call)
    }
}

impl Login {
    fn of(user: &Value, folder: &Path) -> Result<Self, String> {
        let text = |field: &str| user[field].as_str().unwrap_or_default();
        // As in client-go, the file goes before the token.
        if !text("tokenFile").is_empty() {
            return Ok(Self::TokenFile(folder.join(text("tokenFile"))));
        }
        if !text("token").is_empty() {
            return bearer(text("token")).map(Self::Header);
        }
        if !text("username").is_empty() {
            let pair = STANDARD.encode(format!("{}:{}", text("username"), text("password")));
            return secret(&format!("Basic {pair}")).map(Self::Header);
        }
        Ok(Self::Nobody)
    }
}

fn bearer(token: &str) -> Result<HeaderValue, String> {
    secret(&format!("Bearer {}", token.trim()))
}

fn secret(text: &str) -> Result<HeaderValue, String> {
    let mut header =
        HeaderValue::from_str(text).map_err(|_| "the credentials fit in no header".to_owned())?;
    header.set_sensitive(true);
    Ok(header)
}

/// The bytes of a field: `…-data`, or a file.
fn data(of: &Value, field: &str, folder: &Path) -> Result<Vec<u8>, String> {
    let inline = of[format!("{field}-data")].as_str().unwrap_or_default();
    if !inline.is_empty() {
        return STANDARD.decode(inline).map_err(|error| format!("{field}-data: {error}"));
    }
    match of[field].as_str().unwrap_or_default() {
        "" => Ok(Vec::new()),
        path => {
            let path = folder.join(path);
            std::fs::read(&path)
                .map_err(|error| format!("unable to read {field} {}: {error}", path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(cluster: Value, user: Value) -> Value {
        json!({
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "a", "user": "u"}}],
            "clusters": [{"name": "a", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
        })
    }

    #[test]
    fn a_kubeconfig_says_whom_to_call_and_as_whom() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "secret\n").unwrap();
        std::fs::write(folder.path().join("ca.crt"), "authority").unwrap();
        let cluster = json!({"server": "https://audit.test:8443/sink", "certificate-authority": "ca.crt",
            "tls-server-name": "other"});
        let target = Target::of(&config(cluster, json!({"tokenFile": "token"})), folder.path()).unwrap();
        assert_eq!(target.authority.as_deref(), Some(&b"authority"[..]));
        let call = target.call(30).unwrap();
        assert_eq!(call.path, "/sink?timeout=30s");
        assert_eq!(call.addresses[0].at.authority(), "audit.test:8443");
        assert_eq!((call.server.as_str(), call.authority.as_str()), ("other", "audit.test:8443"));
        assert_eq!(call.authorization.unwrap(), "Bearer secret");
    }

    #[test]
    fn what_is_missing_or_not_supported_is_said() {
        let error = |config: &Value| Target::of(config, Path::new(".")).err().unwrap();
        assert!(error(&json!({})).contains("no configuration has been provided"));
        let mut other = config(json!({"server": "https://a"}), json!({}));
        other["current-context"] = json!("d");
        assert_eq!(error(&other), "context \"d\" does not exist");
        let insecure = json!({"server": "https://a", "insecure-skip-tls-verify": true, "certificate-authority-data": "YQ=="});
        assert_eq!(
            error(&config(insecure, json!({}))),
            "specifying a root certificates file with the insecure flag is not allowed"
        );
        let exec = config(json!({"server": "https://a"}), json!({"exec": {"command": "x"}}));
        assert_eq!(error(&exec), "exec is not supported");
        assert!(error(&config(json!({"server": "ftp://a"}), json!({}))).contains("neither http nor https"));
    }
}

//! Tokens that another server knows: it is sent a TokenReview, and its answers are believed for a while (upstream:
//! `apiserver/plugin/pkg/authenticator/token/webhook` and `apiserver/pkg/authentication/token/cache`).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api_rules::look::Look;
use env::{Env, TaskGroup};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Verified;
use crate::cache::{Cache, Key};
use crate::remote::Remote;
use crate::user::UserInfo;

/// How long one try may take (upstream's `defaultRequestTimeout`).
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long all tries for one token may take (upstream's `sharedLookupTimeout`).
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(30);
/// Answers that are kept, at most (upstream's).
const MAX_KEPT: usize = 32 << 10;
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// A server that knows tokens (upstream's `--authentication-token-webhook-*`).
#[derive(Clone, Debug)]
pub struct TokenWebhookConfig {
    /// A kubeconfig that names the server and who is calling; without it nobody is asked.
    pub config_file: Option<PathBuf>,
    /// The version of TokenReviews: `v1` or `v1beta1`.
    pub version: String,
    /// How long an answer is believed, whatever it is; failures are not answers.
    pub cache_ttl: Duration,
}

impl Default for TokenWebhookConfig {
    fn default() -> Self {
        Self { config_file: None, version: "v1beta1".to_owned(), cache_ttl: Duration::from_secs(120) }
    }
}

/// What is found of a token: whose it is, or that nobody knows it.
type Found = Result<Option<Verified>, String>;

/// Asks a server about tokens.
pub(crate) struct TokenWebhook(Arc<Inner>);

struct Inner {
    server: Remote,
    version: String,
    /// The audiences of answers that name none.
    own_audiences: Vec<String>,
    ttl: Duration,
    wait: Duration,
    cache: Cache<Option<Verified>>,
    /// Who asks about the same token at the same time gets the same answer.
    asked: Mutex<HashMap<Key, Shared<BoxFuture<'static, Found>>>>,
    env: Env,
    tasks: TaskGroup,
}

impl TokenWebhook {
    /// None when nobody is to be asked. `wait`: before the second try.
    ///
    /// # Errors
    /// A kubeconfig that cannot be used, or a version that is none.
    pub fn new(
        config: &TokenWebhookConfig,
        own_audiences: &[String],
        wait: Duration,
        env: &Env,
        tasks: &TaskGroup,
    ) -> Result<Option<Self>, String> {
        let Some(file) = &config.config_file else { return Ok(None) };
        let version = config.version.clone();
        if !VERSIONS.contains(&version.as_str()) {
            let [v1, v1beta1] = VERSIONS;
            return Err(format!(
                "unsupported authentication webhook version {version:?}, supported versions are {v1:?}, {v1beta1:?}"
            ));
        }
        Ok(Some(Self(Arc::new(Inner {
            server: Remote::load(file, TIMEOUT, tasks)?,
            version,
            own_audiences: own_audiences.to_vec(),
            ttl: config.cache_ttl,
            wait,
            cache: Cache::new(MAX_KEPT, &env.rng),
            asked: Mutex::default(),
            env: env.clone(),
            tasks: tasks.clone(),
        }))))
    }

    /// Whose a token is, and for which of the audiences that are wanted; none when the server does not know it.
    ///
    /// # Errors
    /// The server cannot be asked, or says what is wrong with the token.
    pub async fn verify(&self, token: &str, wanted: &[String]) -> Found {
        let inner = &self.0;
        let key = inner.cache.key([token].into_iter().chain(wanted.iter().map(String::as_str)));
        if let Some(known) = inner.cache.get(&key, inner.env.clock.monotonic()) {
            return Ok(known);
        }
        let answer = {
            let mut asked = inner.asked.lock();
            match asked.get(&key) {
                Some(answer) => answer.clone(),
                None => {
                    let asking = inner.clone().ask(key, token.to_owned(), wanted.to_vec());
                    let answer = asking.boxed().shared();
                    asked.insert(key, answer.clone());
                    // It goes on when whoever asked first has gone.
                    inner.tasks.spawn_detached("token-review", answer.clone().map(drop));
                    answer
                }
            }
        };
        answer.await
    }
}

impl Inner {
    async fn ask(self: Arc<Self>, key: Key, token: String, wanted: Vec<String>) -> Found {
        let found = tokio::time::timeout(LOOKUP_TIMEOUT, self.review(&token, &wanted)).await;
        let found = found.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()));
        if let Ok(known) = &found {
            self.cache.put(key, known.clone(), self.env.clock.monotonic(), self.ttl);
        }
        self.asked.lock().remove(&key);
        found
    }

    async fn review(&self, token: &str, wanted: &[String]) -> Found {
        let review = json!({
            "kind": "TokenReview",
            "apiVersion": format!("authentication.k8s.io/{}", self.version),
            "metadata": {},
            "spec": {"token": token, "audiences": wanted},
            "status": {"user": {}},
        });
        let answer = self.server.review(&self.env, &review, self.wait).await.inspect_err(|error| {
            tracing::error!(error, "failed to make webhook authenticator request");
        })?;
        self.read(&answer["status"], wanted)
    }

    fn read(&self, status: &Value, wanted: &[String]) -> Found {
        let texts = |value: &Value, field: &str| value.texts(field).map(str::to_owned).collect::<Vec<_>>();
        let named = texts(status, "audiences");
        let got = if named.is_empty() { self.own_audiences.clone() } else { named };
        let audiences: Vec<String> = wanted.iter().filter(|wanted| got.contains(wanted)).cloned().collect();
        if audiences.is_empty() {
            return Ok(None);
        }
        if status["authenticated"] != true {
            return match status["error"].as_str().unwrap_or_default() {
                "" => Ok(None),
                error => Err(error.to_owned()),
            };
        }
        let user = &status["user"];
        let text = |field: &str| user[field].as_str().unwrap_or_default().to_owned();
        let extra = user["extra"].as_object().into_iter().flatten();
        let user = UserInfo {
            name: text("username"),
            uid: text("uid"),
            groups: texts(user, "groups"),
            extra: extra.map(|(key, values)| (key.clone(), texts(values, ""))).collect(),
        };
        Ok(Some(Verified { user: super::with_group(user), audiences }))
    }
}
